"""Attention in continuous time, over windows of any length that lie one after another.

`attend` is the one attention of the model, with three kernels that agree with each other and
with `attend_plain`, the oracle of their tests. docs/decisions/0016-counted-work.md says what
each costs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F

from spikedata_model.rotary import rotate
from spikedata_model.windows import attend_windows, common_length

__all__ = ["attend", "attend_plain"]

# Shapes: B windows, Q queries and T keys of all windows, M and N of the longest, q and t of one,
# H heads, D head width, G groups of heads that lie side by side, F pairs of head dimensions.


def attend(
    x_QGD: torch.Tensor,
    context_TGD: torch.Tensor | None,
    q_phase_QF: torch.Tensor,
    k_phase_TF: torch.Tensor,
    q_offsets: Sequence[int],
    k_offsets: Sequence[int],
    *,
    turn_values: bool,
    dropout: float = 0.0,
    kernel: str | None = None,
) -> torch.Tensor:
    """Return softmax(q k / √D) v in every window and head, queries and keys turned by their time.

    Parameters
    ----------
    x_QGD : Tensor of float32 or bfloat16
        Queries, one window after another, with G = H; or, without a context, the queries, keys
        and values of self-attention side by side, G = 3 H.
    context_TGD : Tensor, optional
        Keys and values side by side, G = 2 H. The kernel "windows" turns both tensors where they
        lie: give it what nothing else reads.
    q_phase_QF, k_phase_TF : Tensor of complex64
        The turns of queries and of keys, from `phases`.
    q_offsets, k_offsets : sequence of int, length B + 1
        Where each window's queries and keys begin. A window without keys gives zeros.
    turn_values : bool
        Turn values by the time of their key and results back by that of their query, so that
        the result, too, depends on time differences alone.
    dropout : float
        Share of attention weights to drop; the others are scaled up.
    kernel : {"windows", "padded", "jagged"}, optional
        One window after another, the fastest on a processor and the default there; torch's fused
        attention over windows padded to the longest, the default elsewhere where windows have
        equally many keys or one has none; or over nested tensors, which need no padding.

    Returns
    -------
    Tensor, shape (Q, H, D)
        Of the dtype of `x_QGD`.
    """
    kernel = kernel or _pick(x_QGD.device, k_offsets)
    if kernel == "windows":
        return attend_windows(
            x_QGD, context_TGD, q_phase_QF, k_phase_TF, q_offsets, k_offsets, turn_values, dropout
        )
    if context_TGD is None:
        q_QHD, k_THD, v_THD = x_QGD.chunk(3, dim=1)
    else:
        q_QHD, (k_THD, v_THD) = x_QGD, context_TGD.chunk(2, dim=1)
    q_QHD, k_THD = rotate(q_QHD, q_phase_QF), rotate(k_THD, k_phase_TF)
    if turn_values:
        v_THD = rotate(v_THD, k_phase_TF)
    inner = {"padded": _attend_padded, "jagged": _attend_jagged, "plain": attend_plain}[kernel]
    out_QHD = inner(q_QHD, k_THD, v_THD, q_offsets, k_offsets, dropout)
    return rotate(out_QHD, q_phase_QF.conj()) if turn_values else out_QHD


def _pick(device: torch.device, k_offsets: Sequence[int]) -> str:
    """Return the kernel that is best for windows with these keys."""
    lengths = {end - start for start, end in pairwise(k_offsets)}
    # torch fails over nested tensors of which one is empty, wherever it writes attention out.
    uneven = "jagged" if len(lengths) > 1 and 0 not in lengths else "padded"
    return "windows" if device.type == "cpu" else uneven


def attend_plain(
    q_QHD: torch.Tensor,
    k_THD: torch.Tensor,
    v_THD: torch.Tensor,
    q_offsets: Sequence[int],
    k_offsets: Sequence[int],
    dropout: float = 0.0,
) -> torch.Tensor:
    """Return softmax(q k / √D) v of every window, written out, shape (Q, H, D)."""
    outs = []
    for (q_start, q_end), (k_start, k_end) in zip(
        pairwise(q_offsets), pairwise(k_offsets), strict=True
    ):
        q_qHD, k_tHD, v_tHD = q_QHD[q_start:q_end], k_THD[k_start:k_end], v_THD[k_start:k_end]
        score_Hqt = torch.einsum("qhd,thd->hqt", q_qHD, k_tHD) / math.sqrt(q_QHD.shape[-1])
        weight_Hqt = F.dropout(score_Hqt.softmax(-1), dropout)
        outs.append(torch.einsum("hqt,thd->qhd", weight_Hqt, v_tHD))
    return torch.cat(outs)


def _attend_padded(
    q_QHD: torch.Tensor,
    k_THD: torch.Tensor,
    v_THD: torch.Tensor,
    q_offsets: Sequence[int],
    k_offsets: Sequence[int],
    dropout: float,
) -> torch.Tensor:
    """Attend over windows that are padded to the longest."""
    q_BMHD, q_mask_BM = _pad(q_QHD, q_offsets)
    kv_BNGD, k_mask_BN = _pad(torch.cat([k_THD, v_THD], dim=1), k_offsets)
    k_BNHD, v_BNHD = kv_BNGD.chunk(2, dim=2)
    seen_B11N = None
    if k_mask_BN is not None:
        # A window without keys attends to its padding, which is zero.
        seen_B11N = (k_mask_BN | ~k_mask_BN.any(dim=1, keepdim=True))[:, None, None]
    out_BMHD = F.scaled_dot_product_attention(
        q_BMHD.transpose(1, 2),
        k_BNHD.transpose(1, 2),
        v_BNHD.transpose(1, 2),
        attn_mask=seen_B11N,
        dropout_p=dropout,
    ).transpose(1, 2)
    return out_BMHD.flatten(0, 1) if q_mask_BM is None else out_BMHD[q_mask_BM]


def _pad(x_THD: torch.Tensor, offsets: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return windows padded with zeros to the longest, and what is not padding if there is any."""
    length = common_length(offsets)
    if length:
        return x_THD.unflatten(0, (-1, length)), None
    length_B = torch.tensor(offsets).diff()  # counted here: a GPU would have to be waited for
    mask_BN = (torch.arange(max(1, int(length_B.max()))) < length_B[:, None]).to(x_THD.device)
    x_BNHD = x_THD.new_zeros(*mask_BN.shape, *x_THD.shape[1:])
    x_BNHD[mask_BN] = x_THD
    return x_BNHD, mask_BN


def _attend_jagged(
    q_QHD: torch.Tensor,
    k_THD: torch.Tensor,
    v_THD: torch.Tensor,
    q_offsets: Sequence[int],
    k_offsets: Sequence[int],
    dropout: float,
) -> torch.Tensor:
    """Attend over nested tensors, for whose unequal lengths torch chooses a kernel."""

    def nest(x_THD: torch.Tensor, offsets: Sequence[int]) -> torch.Tensor:
        edges = torch.tensor(offsets, device=x_THD.device)
        lengths = [end - start for start, end in pairwise(offsets)]
        return torch.nested.nested_tensor_from_jagged(
            x_THD.contiguous(), edges, min_seqlen=min(lengths), max_seqlen=max(lengths)
        ).transpose(1, 2)  # with lengths that torch would have to wait for a GPU to tell

    q, k, v = nest(q_QHD, q_offsets), nest(k_THD, k_offsets), nest(v_THD, k_offsets)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors", UserWarning)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    return out.transpose(1, 2).values()
