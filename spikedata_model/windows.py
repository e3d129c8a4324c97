"""The kernel of `attend` for processors: one window after another, scores in the cache.

A batch of 32 windows has some 17 MB of scores in every layer of the published 1.3M model, and
softmax, dropout and their derivatives each pass over them. Taken by the window they are half a
megabyte, which stays in the cache from the first product to the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from spikedata_model.dropout import Coins

__all__ = ["attend_windows"]

# Shapes: Q queries and T keys of all windows, q and t of one window, H heads, D head width,
# G groups of heads that lie side by side (queries, keys, values), F pairs of head dimensions.


def attend_windows(
    x_QGD: torch.Tensor,
    context_TGD: torch.Tensor | None,
    q_phase_QF: torch.Tensor,
    k_phase_TF: torch.Tensor,
    q_offsets: Sequence[int],
    k_offsets: Sequence[int],
    turn_values: bool,
    dropout: float,
) -> torch.Tensor:
    """Return what `spikedata_model.attention.attend` returns."""
    return _Windows.apply(  # type: ignore[return-value]
        x_QGD, context_TGD, q_phase_QF, k_phase_TF, q_offsets, k_offsets, turn_values, dropout
    )


class _Windows(torch.autograd.Function):
    """Attention and its derivative, window by window.

    With P = softmax(q k / √D), coins c and dropout p, the result is o = (c P / (1 - p)) v. For a
    gradient g of o: dv = (c P / (1 - p))ᵀ g, dP = c (g vᵀ) / (1 - p), and with dS = P (dP - rows'
    sum of P dP), dq = dS k / √D and dk = dSᵀ q / √D. Turned vectors have turned gradients, which
    are turned back.
    """

    @staticmethod
    def forward(
        ctx, x_QGD, context_TGD, q_phase_QF, k_phase_TF, q_offsets, k_offsets, turn_values, dropout
    ) -> torch.Tensor:
        heads = x_QGD.shape[1] // (3 if context_TGD is None else 1)
        scale = x_QGD.shape[-1] ** -0.5
        coins = Coins(dropout) if dropout else None
        out_QHD = x_QGD.new_empty(len(x_QGD), heads, x_QGD.shape[-1])
        back_QF = q_phase_QF.conj().resolve_conj()
        saved = []
        for q_rows, k_rows in _windows(q_offsets, k_offsets):
            if k_rows.start == k_rows.stop:
                out_QHD[q_rows] = 0
                continue
            if context_TGD is None:
                q_HqD, k_HtD, v_HtD = _turn(x_QGD[q_rows], q_phase_QF[q_rows]).split(heads)
            else:
                q_HqD = _turn(x_QGD[q_rows], q_phase_QF[q_rows])
                kv_tGD, phase_tF = context_TGD[k_rows], k_phase_TF[k_rows]
                if turn_values:
                    k_HtD, v_HtD = _turn(kv_tGD, phase_tF).split(heads)
                else:
                    k_HtD = _turn(kv_tGD[:, :heads], phase_tF)
                    v_HtD = kv_tGD[:, heads:].transpose(0, 1)
            p_Hqt = _product(q_HqD, k_HtD.mT, scale).softmax(dim=-1)
            keep_Hqt = coins.toss(p_Hqt.shape) if coins else None
            kept_Hqt = p_Hqt if keep_Hqt is None else p_Hqt * keep_Hqt
            o_HqD = _product(kept_Hqt, v_HtD, 1 / (1 - dropout))
            if turn_values:
                _turn_into(out_QHD[q_rows], o_HqD, back_QF[q_rows])
            else:
                out_QHD[q_rows] = o_HqD.transpose(0, 1)
            saved += [q_HqD, k_HtD, v_HtD, p_Hqt, keep_Hqt]
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q_phase_QF, k_phase_TF, *saved)
        ctx.given = (x_QGD.shape, None if context_TGD is None else context_TGD.shape)
        ctx.rest = (q_offsets, k_offsets, turn_values, dropout)
        return out_QHD

    @staticmethod
    def backward(ctx, *grad_outputs: torch.Tensor):
        grad_QHD = grad_outputs[0].contiguous()
        q_offsets, k_offsets, turn_values, dropout = ctx.rest
        q_phase_QF, k_phase_TF, *saved = ctx.saved_tensors
        x_shape, context_shape = ctx.given
        heads, scale, factor = grad_QHD.shape[1], grad_QHD.shape[-1] ** -0.5, 1 / (1 - dropout)
        dx_QGD = grad_QHD.new_empty(x_shape)
        dcontext_TGD = None if context_shape is None else grad_QHD.new_empty(context_shape)
        q_back_QF, k_back_TF = (one.conj().resolve_conj() for one in (q_phase_QF, k_phase_TF))
        here = iter(saved)
        for q_rows, k_rows in _windows(q_offsets, k_offsets):
            if k_rows.start == k_rows.stop:
                dx_QGD[q_rows] = 0
                continue
            q_HqD, k_HtD, v_HtD, p_Hqt, keep_Hqt = (next(here) for _ in range(5))
            if turn_values:
                g_HqD = _turn(grad_QHD[q_rows], q_phase_QF[q_rows])
            else:
                g_HqD = grad_QHD[q_rows].transpose(0, 1)
            kept_Hqt = p_Hqt if keep_Hqt is None else p_Hqt * keep_Hqt
            dp_Hqt = _product(g_HqD, v_HtD.mT, factor)
            if keep_Hqt is not None:
                dp_Hqt.mul_(keep_Hqt)
            ds_Hqt = torch.ops.aten._softmax_backward_data(dp_Hqt, p_Hqt, -1, p_Hqt.dtype)
            dq = (ds_Hqt, k_HtD, scale)
            dk = (ds_Hqt.mT, q_HqD, scale)
            dv = (kept_Hqt.mT, g_HqD, factor)
            if dcontext_TGD is None:
                _turn_into(dx_QGD[q_rows], _stack(dq, dk, dv), q_back_QF[q_rows])
                continue
            _turn_into(dx_QGD[q_rows], _product(*dq), q_back_QF[q_rows])
            dkv_tGD = dcontext_TGD[k_rows]
            if turn_values:
                _turn_into(dkv_tGD, _stack(dk, dv), k_back_TF[k_rows])
            else:
                _turn_into(dkv_tGD[:, :heads], _product(*dk), k_back_TF[k_rows])
                dkv_tGD[:, heads:] = _product(*dv).transpose(0, 1)
        return dx_QGD, dcontext_TGD, *(None,) * 6


def _windows(q_offsets: Sequence[int], k_offsets: Sequence[int]):
    """Yield the rows of queries and keys of each window."""
    for (q_start, q_end), (k_start, k_end) in zip(
        pairwise(q_offsets), pairwise(k_offsets), strict=True
    ):
        yield slice(q_start, q_end), slice(k_start, k_end)


def _product(a_Hij: torch.Tensor, b_Hjk: torch.Tensor, factor: float) -> torch.Tensor:
    """Return a b times a factor, which the product takes along at no cost."""
    return torch.baddbmm(a_Hij.new_empty(()), a_Hij, b_Hjk, beta=0, alpha=factor)


def _stack(*factors: tuple[torch.Tensor, torch.Tensor, float]) -> torch.Tensor:
    """Return products of equal shape, (H, t, D) each, side by side: (G, t, D)."""
    heads, rows, width = len(factors[0][0]), factors[0][0].shape[1], factors[0][1].shape[2]
    out_GtD = factors[0][0].new_empty(len(factors) * heads, rows, width)
    for part_HtD, (a, b, factor) in zip(out_GtD.split(heads), factors, strict=True):
        torch.baddbmm(part_HtD, a, b, beta=0, alpha=factor, out=part_HtD)
    return out_GtD


def _turn(x_tGD: torch.Tensor, phase_tF: torch.Tensor) -> torch.Tensor:
    """Return rows turned by their phases, seen with heads first: (G, t, D)."""
    pairs_tGF = torch.view_as_complex(x_tGD.float().unflatten(-1, (-1, 2)))
    turned_tGF = pairs_tGF * phase_tF.unsqueeze(1)
    return torch.view_as_real(turned_tGF).flatten(-2).to(x_tGD.dtype).transpose(0, 1)


def _turn_into(out_tHD: torch.Tensor, x_HtD: torch.Tensor, phase_tF: torch.Tensor) -> None:
    """Write heads, turned by the phases of their rows, to where they belong."""
    pairs_tHF = torch.view_as_complex(x_HtD.float().unflatten(-1, (-1, 2))).transpose(0, 1)
    phase_t1F = phase_tF.unsqueeze(1)
    if out_tHD.dtype == torch.float32:
        torch.mul(pairs_tHF, phase_t1F, out=torch.view_as_complex(out_tHD.unflatten(-1, (-1, 2))))
    else:
        out_tHD.copy_(torch.view_as_real(pairs_tHF * phase_t1F).flatten(-2))
