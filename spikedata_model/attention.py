"""One attention for the whole model, in a plain and a fused form that agree."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

__all__ = ["attend", "attend_plain"]

# Shapes: B batch, Q queries, N keys, H heads, D head width.


def attend(
    q_BQHD: torch.Tensor,
    k_BNHD: torch.Tensor,
    v_BNHD: torch.Tensor,
    mask_BN: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Return softmax(q k / √D) v for every head, by torch's fused kernels.

    Parameters
    ----------
    q_BQHD, k_BNHD, v_BNHD : Tensor
        Queries, keys and values.
    mask_BN : Tensor of bool, optional
        Keys that may be attended to; all when not given. Every row needs at least one.
    dropout : float
        Share of attention weights to drop. Above 0 the weights are materialised, which
        costs about twice the time on a CPU.

    Returns
    -------
    Tensor, shape (B, Q, H, D)
    """
    return F.scaled_dot_product_attention(
        q_BQHD.transpose(1, 2),
        k_BNHD.transpose(1, 2),
        v_BNHD.transpose(1, 2),
        attn_mask=None if mask_BN is None else mask_BN[:, None, None, :],
        dropout_p=dropout,
    ).transpose(1, 2)


def attend_plain(
    q_BQHD: torch.Tensor,
    k_BNHD: torch.Tensor,
    v_BNHD: torch.Tensor,
    mask_BN: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what `attend` returns, written out: the oracle of its tests."""
    score_BHQN = torch.einsum("bqhd,bnhd->bhqn", q_BQHD, k_BNHD) / math.sqrt(q_BQHD.shape[-1])
    if mask_BN is not None:
        score_BHQN = score_BHQN.masked_fill(~mask_BN[:, None, None, :], -math.inf)
    return torch.einsum("bhqn,bnhd->bqhd", score_BHQN.softmax(-1), v_BNHD)
