"""The start "local": weights with which POYO begins as a local, nearly linear decoder.

docs/decisions/0005-local-start.md says why, and how the constants were found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from spikedata_model.config import ModelConfig

__all__ = ["start_local"]

CONTRAST = 4.0  # nats between a key at the query's time and one far away
MIN_PERIOD_STEPS = 1.6  # rotary periods of at least this many latent steps shape the kernel
FAVOUR = 4.0  # length of the favoured direction beside normalised content
READOUT_SCALE = 0.125

# Shapes: E model width, H heads, D head width, F rotary frequencies.


@torch.no_grad()
def start_local(model: Any, blocks: Sequence[Any]) -> None:
    """Change the weights of a `Poyo` that has just been made.

    Parameters
    ----------
    model : Poyo
        With its published weights.
    blocks : list of SelfAttention and FeedForward
        Those of its parts that begin by adding nothing.
    """
    for block in blocks:
        last = block.down if hasattr(block, "down") else block.to_out
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    for readout in model.readout:
        nn.init.normal_(readout.weight, std=READOUT_SCALE)
    config, frequency_F = model.config, model.frequency_F
    key_E = _attend_nearby(model.decoder, FAVOUR, config, frequency_F)
    model.decoder.norm_context.bias.copy_(FAVOUR * key_E)
    # Spikes point along the favoured direction and the delimiters against it, as strongly as
    # a unit's own embedding, so that the latents begin by reading spikes.
    key_E = _attend_nearby(model.encoder, math.sqrt(config.dim / 2), config, frequency_F)
    spike_E = key_E * config.embedding_scale * math.sqrt(config.dim)
    model.type_embedding.weight.copy_(torch.stack([spike_E, -spike_E, -spike_E]))


def _attend_nearby(
    attention: Any, size: float, config: ModelConfig, frequency_F: torch.Tensor
) -> torch.Tensor:
    """Make a cross-attention favour keys close in time to the query.

    One direction of the normalised queries, and one of the keys, is mapped to the cosine
    half of every slow rotary pair: their product is a sum of cos(2πΔ/T) over the periods T,
    which peaks at a time difference Δ of 0.

    Parameters
    ----------
    attention : CrossAttention
        Whose weights are changed.
    size : float
        How long the direction of the keys is in its normalised context.
    config : ModelConfig
        Shape of the model.
    frequency_F : Tensor
        Rotary frequencies in radians a second.

    Returns
    -------
    Tensor, shape (E,)
        The direction of the keys, of length 1; values do not see it.
    """
    dim_head = config.dim_head
    slow_F = 2 * math.pi / frequency_F >= MIN_PERIOD_STEPS * config.latent_step
    pattern_HD = torch.zeros(attention.heads, dim_head)
    pattern_HD[:, : 2 * len(slow_F) : 2] = slow_F.float()
    # Scores are divided by sqrt(dim_head); at Δ = 0 they are to be CONTRAST.
    pattern_HD *= math.sqrt(CONTRAST * math.sqrt(dim_head) / max(1, int(slow_F.sum())))
    query_E, key_E = (_direction(config.dim) for _ in range(2))
    attention.norm.bias.copy_(FAVOUR * query_E)
    attention.to_kv.weight -= torch.outer(attention.to_kv.weight @ key_E, key_E)
    attention.to_q.weight -= torch.outer(attention.to_q.weight @ query_E, query_E)
    keys = attention.to_kv.weight[: attention.heads * dim_head]
    keys += torch.outer(pattern_HD.flatten(), key_E) / size
    attention.to_q.weight += torch.outer(pattern_HD.flatten(), query_E) / FAVOUR
    return key_E


def _direction(dim: int) -> torch.Tensor:
    """Return a random vector of length 1 and mean 0, which a layer norm does not change."""
    direction_E = torch.randn(dim)
    direction_E -= direction_E.mean()
    return direction_E / direction_E.norm()
