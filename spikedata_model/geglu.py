"""The inner half of the feed-forward network, with a derivative that keeps little in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from spikedata_model.dropout import Coins

__all__ = ["geglu"]

# Shapes: R rows, W hidden width.


def geglu(up_RW: torch.Tensor, dropout: float) -> torch.Tensor:
    """Return values times gelu(gates), of which a share is dropped (arXiv 2002.05202, eq. 6).

    Parameters
    ----------
    up_RW : Tensor, shape (R, 2 W)
        Values in the first half, gates in the second.
    dropout : float
        Share of the results that is set to 0; the others are scaled up.

    Returns
    -------
    Tensor, shape (R, W)
    """
    if up_RW.device.type == "cpu":
        return _Geglu.apply(up_RW, dropout)  # type: ignore[return-value]
    value_RW, gate_RW = up_RW.chunk(2, dim=-1)
    return F.dropout(value_RW * F.gelu(gate_RW), dropout)


class _Geglu(torch.autograd.Function):
    """Keeps its input, gelu of the gates and the coins, and no product of them."""

    @staticmethod
    def forward(ctx, up_RW: torch.Tensor, dropout: float) -> torch.Tensor:
        value_RW, gate_RW = up_RW.chunk(2, dim=-1)
        open_RW = F.gelu(gate_RW)
        out_RW = open_RW * value_RW
        keep_RW = Coins(dropout).toss(out_RW.shape) if dropout else None
        ctx.save_for_backward(up_RW, open_RW, keep_RW)
        ctx.factor = 1 / (1 - dropout)
        return out_RW if keep_RW is None else out_RW.mul_(keep_RW).mul_(ctx.factor)

    @staticmethod
    def backward(ctx, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        (grad_RW,), (up_RW, open_RW, keep_RW) = grad_outputs, ctx.saved_tensors
        value_RW, gate_RW = up_RW.chunk(2, dim=-1)
        if keep_RW is not None:
            grad_RW = torch.mul(grad_RW, keep_RW).mul_(ctx.factor)
        out_RW = torch.empty_like(up_RW)
        dvalue_RW, dgate_RW = out_RW.chunk(2, dim=-1)
        torch.mul(grad_RW, open_RW, out=dvalue_RW)
        dgate_RW.copy_(torch.ops.aten.gelu_backward(grad_RW * value_RW, gate_RW))
        return out_RW, None
