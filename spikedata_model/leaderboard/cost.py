"""What a decoder takes: parameters, bytes, multiply-adds, and time."""

from __future__ import annotations

from pydantic import ConfigDict

from spikedata.options import FileModel

__all__ = ["Cost"]


class Cost(FileModel):
    """What it takes to decode, of one recording; in a result, the mean over recordings.

    Parameters
    ----------
    parameters : int
        Numbers that were fitted.
    bytes : int
        Memory that they take (NeuroBench's footprint counts buffers too).
    macs : float, optional
        Multiply-adds of a dense evaluation, per estimate.
    effective_macs : float, optional
        Those of them in which neither factor is 0, mean over the test samples.
    effective_acs : float, optional
        Those of these that are additions alone, because a side of the product (as spikes) holds
        -1, 0 and 1 alone.
    connection_sparsity, activation_sparsity : float, optional
        Shares of weights, and of activations, that are 0.
    step_p50, step_p99 : float, optional
        Seconds that one live step takes, on one core.
    normalised_latency : float, optional
        Seconds of computing per second of neural time, step by step where a decoder can do that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    parameters: float = 0
    bytes: float = 0
    macs: float | None = None
    effective_macs: float | None = None
    effective_acs: float | None = None
    connection_sparsity: float | None = None
    activation_sparsity: float | None = None
    step_p50: float | None = None
    step_p99: float | None = None
    normalised_latency: float | None = None
