"""The kernel of `attend` for processors: scores of a few windows and heads at a time.

A batch of 32 windows has 17 MB of scores in every layer of the published 1.3M model, and softmax,
dropout and their derivatives each pass over them. Cut into tiles they stay in the cache from the
first product to the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from spikedata_model.dropout import Coins

__all__ = ["attend_windows", "common_length"]

# Shapes: R rows (queries or keys) of all windows, H heads, D head width, G groups of heads that lie
# side by side (queries, keys, values), F pairs of head dimensions. A tile is one head of all
# windows where these are equally long, and all heads of one window where they are not: b is then
# the windows or the heads, q and t the queries and keys of a window.


def attend_windows(
    x_RGD: torch.Tensor,
    context_RGD: torch.Tensor | None,
    q_phase_RF: torch.Tensor,
    k_phase_RF: torch.Tensor,
    q_offsets: Sequence[int],
    k_offsets: Sequence[int],
    turn_values: bool,
    dropout: float,
) -> torch.Tensor:
    """Return what `spikedata_model.attention.attend` returns."""
    q_length, k_length = common_length(q_offsets), common_length(k_offsets)
    even = bool(q_length and k_length)
    q_cut = _Cut(q_offsets, q_length if even else None)
    k_cut = _Cut(k_offsets, k_length if even else None)
    return _Windows.apply(  # type: ignore[return-value]
        x_RGD, context_RGD, q_phase_RF, k_phase_RF, q_cut, k_cut, turn_values, dropout
    )


def common_length(offsets: Sequence[int]) -> int | None:
    """Return the length that all windows have, or nothing where they differ."""
    lengths = {end - start for start, end in pairwise(offsets)}
    return lengths.pop() if len(lengths) == 1 else None


class _Cut:
    """How rows are cut into tiles: by head where all windows have one length, else by window."""

    def __init__(self, offsets: Sequence[int], length: int | None) -> None:
        self.offsets, self.length = offsets, length

    def tiles(self, x_RHD: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return views of the rows of each tile, (b, q, D) each."""
        if self.length:
            return x_RHD.unflatten(0, (-1, self.length)).unbind(2)
        return [x_RHD[start:end].transpose(0, 1) for start, end in pairwise(self.offsets)]

    def phases(self, phase_RF: torch.Tensor | None, heads: int) -> Sequence[torch.Tensor | None]:
        """Return the phases of the rows of each tile, or nothing for each."""
        if phase_RF is None:
            return [None] * (heads if self.length else len(self.offsets) - 1)
        if self.length:
            return [phase_RF.unflatten(0, (-1, self.length))] * heads
        return [phase_RF[start:end] for start, end in pairwise(self.offsets)]


class _Windows(torch.autograd.Function):
    """Attention and its derivative, tile by tile.

    With P = softmax(q k / √D), coins c and dropout p, the result is o = (c P / (1 - p)) v. For a
    gradient g of o: dv = (c P / (1 - p))ᵀ g, dP = c (g vᵀ) / (1 - p), and with dS = P (dP - rows'
    sum of P dP), dq = dS k / √D and dk = dSᵀ q / √D. Turned vectors have turned gradients, which
    are turned back.
    """

    @staticmethod
    def forward(
        ctx, x_RGD, context_RGD, q_phase_RF, k_phase_RF, q_cut, k_cut, turn_values, dropout
    ) -> torch.Tensor:
        # Turned where they lie. autograd is not told (`.data`): what made them keeps none of them.
        x_RGD, context_RGD = x_RGD.data, None if context_RGD is None else context_RGD.data
        _turn_in_place(x_RGD, q_phase_RF)
        if context_RGD is None:
            q_RHD, k_RHD, v_RHD = x_RGD.chunk(3, dim=1)
        else:
            q_RHD, (k_RHD, v_RHD) = x_RGD, context_RGD.chunk(2, dim=1)
            _turn_in_place(context_RGD if turn_values else k_RHD, k_phase_RF)
        out_RHD = q_RHD.new_empty(q_RHD.shape)
        back = q_cut.phases(_back(q_phase_RF) if turn_values else None, q_RHD.shape[1])
        scale, factor = q_RHD.shape[-1] ** -0.5, 1 / (1 - dropout)
        coins = Coins(dropout) if dropout else None
        saved, learns = [], any(ctx.needs_input_grad)
        for q_bqD, k_btD, v_btD, out_bqD, phase_bqF in zip(
            q_cut.tiles(q_RHD), k_cut.tiles(k_RHD), k_cut.tiles(v_RHD), q_cut.tiles(out_RHD), back,
            strict=True,
        ):  # fmt: skip
            p_bqt = _product(q_bqD, k_btD.mT, scale).softmax(dim=-1)
            keep_bqt = coins.toss(p_bqt.shape) if coins else None
            kept_bqt = p_bqt if keep_bqt is None else p_bqt * keep_bqt
            _write(out_bqD, _product(kept_bqt, v_btD, factor), phase_bqF)
            saved += [p_bqt, keep_bqt] if learns else []  # else its memory is free for the next
        if learns:
            ctx.save_for_backward(q_phase_RF, k_phase_RF, q_RHD, k_RHD, v_RHD, *saved)
        ctx.given = (context_RGD is None, q_cut, k_cut, turn_values, scale, factor)
        return out_RHD

    @staticmethod
    def backward(ctx, *grad_outputs: torch.Tensor):
        alone, q_cut, k_cut, turn_values, scale, factor = ctx.given
        q_phase_RF, k_phase_RF, q_RHD, k_RHD, v_RHD, *saved = ctx.saved_tensors
        g_RHD = grad_outputs[0].contiguous()
        if turn_values:
            g_RHD = _turn(g_RHD, q_phase_RF)
        (rows, heads, width), keys = q_RHD.shape, len(k_RHD)
        if alone:
            dx_RGD, dcontext_RGD = q_RHD.new_empty(rows, 3 * heads, width), None
            dq_RHD, dk_RHD, dv_RHD = dx_RGD.chunk(3, dim=1)
        else:
            dx_RGD = dq_RHD = q_RHD.new_empty(rows, heads, width)
            dcontext_RGD = q_RHD.new_empty(keys, 2 * heads, width)
            dk_RHD, dv_RHD = dcontext_RGD.chunk(2, dim=1)
        k_back_RF = _back(k_phase_RF)
        for q, k, v, g, dq, dk, dv, q_phase, k_phase, v_phase, p, keep in zip(
            *(q_cut.tiles(q_RHD), k_cut.tiles(k_RHD), k_cut.tiles(v_RHD), q_cut.tiles(g_RHD)),
            *(q_cut.tiles(dq_RHD), k_cut.tiles(dk_RHD), k_cut.tiles(dv_RHD)),
            *(q_cut.phases(_back(q_phase_RF), heads), k_cut.phases(k_back_RF, heads)),
            *(k_cut.phases(k_back_RF if turn_values else None, heads), saved[::2], saved[1::2]),
            strict=True,
        ):  # tiles of shapes (b, q or t, D), and (b, q, t)
            _write(dv, _product((p if keep is None else p * keep).mT, g, factor), v_phase)
            dp = _product(g, v.mT, factor)
            if keep is not None:
                dp.mul_(keep)
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            _write(dq, _product(ds, k, scale), q_phase)
            _write(dk, _product(ds.mT, q, scale), k_phase)
        return dx_RGD, dcontext_RGD, *(None,) * 6


def _product(a_bij: torch.Tensor, b_bjk: torch.Tensor, factor: float) -> torch.Tensor:
    """Return a b times a factor, which the product takes along at no cost."""
    return torch.baddbmm(a_bij.new_empty(()), a_bij, b_bjk, beta=0, alpha=factor)


def _back(phase_RF: torch.Tensor) -> torch.Tensor:
    return phase_RF.conj().resolve_conj()


def _pairs(x: torch.Tensor) -> torch.Tensor:
    """Return neighbouring pairs of dimensions as complex numbers: a view where x is float32."""
    return torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))


def _turn_in_place(x_RGD: torch.Tensor, phase_RF: torch.Tensor) -> None:
    """Turn rows by their phases; half of a head does not turn and is not touched."""
    turning = x_RGD[..., : x_RGD.shape[-1] // 2]
    phase_R1F = phase_RF[:, : phase_RF.shape[1] // 2].unsqueeze(1)
    if x_RGD.dtype == torch.float32:
        _pairs(turning).mul_(phase_R1F)
    else:
        turning.copy_(torch.view_as_real(_pairs(turning) * phase_R1F).flatten(-2))


def _turn(x_RGD: torch.Tensor, phase_RF: torch.Tensor) -> torch.Tensor:
    """Return rows turned by their phases."""
    turned_RGF = _pairs(x_RGD) * phase_RF.unsqueeze(1)
    return torch.view_as_real(turned_RGF).flatten(-2).to(x_RGD.dtype)


def _write(out_bqD: torch.Tensor, x_bqD: torch.Tensor, phase_bqF: torch.Tensor | None) -> None:
    """Write rows to where they belong, turned by their phases if there are any."""
    if phase_bqF is None:
        out_bqD.copy_(x_bqD)
    elif out_bqD.dtype == torch.float32:
        torch.mul(_pairs(x_bqD), phase_bqF, out=_pairs(out_bqD))
    else:
        out_bqD.copy_(torch.view_as_real(_pairs(x_bqD) * phase_bqF).flatten(-2))
