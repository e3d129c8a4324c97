"""What every sample counts in the loss, and the loss itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from spikedata.intervals import IntervalSet

__all__ = ["WeightSteps", "weight_steps", "weighted_squared_error", "weights_at"]

WeightSteps = tuple[np.ndarray, np.ndarray]
"""Edges (E,), float64, s; and weights (E + 1,), float32: ``weight[i]`` ends at ``edge[i]``."""

# Shapes: K samples of one target, C its channels.


def weight_steps(tables: Mapping[str, IntervalSet], factors: Mapping[str, float]) -> WeightSteps:
    """Return what samples weigh over time: the product of the factors of the tables they lie in.

    A sample in no table weighs 1, and so does one in a table that is not in `tables`. Rows of one
    table that overlap count once.

    References
    ----------
    ``_resolve_weights`` in examples/poyo/datasets/wrapper.py of torch_brain.

    Examples
    --------
    >>> reach = IntervalSet.single(1.0, 3.0)
    >>> fast = IntervalSet.single(2.0, 4.0)
    >>> steps = weight_steps({"reach": reach, "fast": fast}, {"reach": 5.0, "fast": 0.5})
    >>> weights_at(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), steps).tolist()
    [1.0, 5.0, 2.5, 0.5, 1.0]
    """
    used = {name: tables[name].coalesce() for name in factors if name in tables}
    bounds = [bound for rows in used.values() for bound in (rows.start, rows.end)]
    edge = np.unique(np.concatenate([np.empty(0), *bounds]))
    weight = np.ones(len(edge) + 1)
    for name, rows in used.items():
        weight[1:][rows.contains(edge)] *= factors[name]
    return edge, weight.astype(np.float32)


def weights_at(time: np.ndarray, steps: WeightSteps) -> np.ndarray:
    """Return what samples at times (K,), in s on the recording's clock, weigh; (K,), float32."""
    edge, weight = steps
    return weight[np.searchsorted(edge, time, side="right")]


def weighted_squared_error(
    predicted: Sequence[torch.Tensor],
    target: Sequence[torch.Tensor],
    weight: Sequence[torch.Tensor],
    total: float,
) -> torch.Tensor:
    """Return Σ w (ŷ - y)² / Σ w over all samples and channels of several targets.

    Parameters
    ----------
    predicted, target : sequence of Tensor, each of shape (K, C)
        One of each for every target.
    weight : sequence of Tensor, each of shape (K,)
        What samples weigh.
    total : float
        Σ w over samples and channels, which the caller knows without asking the device; where it
        is 0, as when behaviour pauses for a whole batch, the loss is 0.
    """
    sums = [
        ((one_KC - other_KC).square() * weight_K[:, None]).sum()
        for one_KC, other_KC, weight_K in zip(predicted, target, weight, strict=True)
    ]
    return torch.stack(sums).sum() / (total or 1.0)
