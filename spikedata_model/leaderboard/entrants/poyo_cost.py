"""What one window costs a POYO, counted from its shape."""

from __future__ import annotations

from spikedata_model.config import ModelConfig
from spikedata_model.poyo import Poyo

__all__ = ["own_parameters", "window_macs"]


def window_macs(
    config: ModelConfig, n_latents: int, n_tokens: float, n_queries: float, width: int
) -> float:
    """Return the multiply-adds of the matrix products of one window.

    As the equations stand: keys and values are made anew for every token, queries for every latent,
    though much of it could be kept from window to window. Norms, rotations, softmax, gates and sums
    are not counted.

    Parameters
    ----------
    config : ModelConfig
        Shape of the model.
    n_latents : int
        Latents of a window.
    n_tokens : float
        Tokens: the spikes, and two for every unit.
    n_queries : float
        Samples that are decoded.
    width : int
        Channels of the target.

    References
    ----------
    Azabou et al. 2023, arXiv 2310.16046, section 2, in the shape of `spikedata_model.poyo.Poyo`.

    Examples
    --------
    >>> shape = ModelConfig(dim=4, depth=0, dim_head=4, cross_heads=1, self_heads=1)
    >>> window_macs(shape, 1, 0, 1, 0)  # queries, keys, values and outputs; scores; two networks
    488
    """
    dim, latents, tokens, queries = config.dim, n_latents, n_tokens, n_queries
    cross, within = config.cross_heads * config.dim_head, config.self_heads * config.dim_head
    network = 12 * dim * dim  # 8 dim features and gates from dim, and dim from 4 dim
    encoder = 2 * latents * dim * cross + 2 * tokens * dim * cross + 2 * latents * tokens * cross
    layer = 4 * latents * dim * within + 2 * latents * latents * within + latents * network
    decoder = 2 * queries * dim * cross + 2 * latents * dim * cross + 2 * queries * latents * cross
    ends = latents * network + queries * (network + dim * width)
    return encoder + config.depth * layer + decoder + ends


def own_parameters(model: Poyo, n_units: int, target: str) -> int:
    """Return the numbers that decoding one recording takes.

    Left out are embedding rows of units and recordings that are not its own, and readouts of other
    targets.
    """
    tables = (model.unit_embedding, model.recording_embedding)
    every = sum(one.numel() for one in model.parameters())
    every -= sum(one.weight.numel() for one in tables)
    for name, readout in zip(model.targets, model.readout, strict=True):
        if name != target:
            every -= sum(one.numel() for one in readout.parameters())
    return every + (n_units + 1) * model.config.dim
