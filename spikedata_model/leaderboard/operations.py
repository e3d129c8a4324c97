"""Count the multiply-adds of a torch module as it runs, whoever wrote it and however it calls them.

Products are counted where torch computes them, so it does not matter whether a module calls layers,
functions or attention of its own. docs/scores.md says what counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Operations", "count_operations"]

# Names of torch's operations on tensors ("aten"); "_" at the end writes into the first argument.
ACTIVATIONS = {
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish",
    "_prelu_kernel", "relu", "rrelu", "rrelu_with_noise", "sigmoid", "silu", "softplus",
    "softshrink", "hardshrink", "tanh", "threshold",
}  # fmt: skip
# Words in the names of operations with products inside: what has one and is not counted is opaque.
PRODUCTS = {
    "attention", "bmm", "conv", "convolution", "dot", "einsum", "gemm", "gru", "linear", "lstm",
    "matmul", "mm", "mv", "rnn", "trilinear", "vdot",
}  # fmt: skip
GATES = {"_thnn_fused_gru_cell", "_thnn_fused_lstm_cell"}  # what is left of a cell: no products


@dataclass(slots=True)
class Operations:
    """What was counted while a module ran.

    Parameters
    ----------
    dense : float
        Multiply-adds of matrix products and convolutions.
    effective : float
        Those with neither factor 0.
    binary : float
        Of the effective ones, those of products of which a side holds -1, 0 and 1 alone: they need
        no multiplication.
    activations, silent : int
        Results of activation functions, and how many of them are 0.
    opaque : set of str
        Operations with products inside that could not be counted.
    """

    dense: float = 0.0
    effective: float = 0.0
    binary: float = 0.0
    activations: int = 0
    silent: int = 0
    opaque: set[str] = field(default_factory=set)


@contextmanager
def count_operations() -> Iterator[Operations]:
    """Count what torch multiplies in this block, on this thread; no gradients are taken.

    Layers that have fused kernels run without them meanwhile, so that their products are seen.
    """
    found = Operations()
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_without(torch.backends.mkldnn))
        if torch.cuda.is_available():
            stack.enter_context(_without(torch.backends.cudnn))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_Counter(found))
        yield found


@contextmanager
def _without(backend) -> Iterator[None]:
    """Turn a library of kernels off, for a while; torch may warn of other flags as it does so."""
    flags = backend.flags(enabled=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flags.__enter__()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            flags.__exit__(None, None, None)


class _Counter(TorchDispatchMode):
    """Sees every operation of torch, and counts the products among them."""

    def __init__(self, found: Operations) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        known = name in COUNTERS or name.rstrip("_") in ACTIVATIONS
        if not known:
            with self:  # as in inference mode, where a layer comes as one piece
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if name in COUNTERS:  # before it runs: the result may be written over a factor
            self._add(*COUNTERS[name](*args, **kwargs))
        result = func(*args, **kwargs)
        if name.rstrip("_") in ACTIVATIONS and isinstance(result, torch.Tensor):
            self.found.activations += result.numel()
            self.found.silent += int((result == 0).sum())
        elif not known and name not in GATES and PRODUCTS & set(name.split("_")):
            self.found.opaque.add(name)
        return result

    def _add(self, dense: float, effective: float, binary: bool) -> None:
        self.found.dense += dense
        self.found.effective += effective
        self.found.binary += effective if binary else 0


# ------------------------------------------------------------------ products, one by one

Count = tuple[float, float, bool]
"""Multiply-adds, those with neither factor 0, and whether a side holds -1, 0 and 1 alone."""


def _product(x: torch.Tensor, y: torch.Tensor) -> Count:
    """Count (..., N, K) times (..., K, M).

    Row n meets column m in K terms. Summed over n and m, term k is there as often as x has numbers
    other than 0 in column k, times as often as y has them in row k.
    """
    x_full, y_full = (x != 0).sum(-2).double(), (y != 0).sum(-1).double()
    dense = float(x.numel()) * y.shape[-1]
    return dense, float((x_full * y_full).sum()), _is_binary(x) or _is_binary(y)


def _convolution(x, weight, bias, *settings, **more) -> Count:
    """Count a convolution: with 1 for what is not 0, its sum is the number of products.

    Padding is nothing: it is multiplied with in neither count.
    """

    def total(one: torch.Tensor, other: torch.Tensor) -> float:
        convolved = torch.ops.aten.convolution(one.double(), other.double(), None, *settings)
        return float(convolved.sum())

    dense = total(torch.ones_like(x), torch.ones_like(weight))
    return dense, total(x != 0, weight != 0), _is_binary(x) or _is_binary(weight)


def _is_binary(x: torch.Tensor) -> bool:
    return bool(((x == 0) | (x.abs() == 1)).all())


def _mm(x, y, *_, **__) -> Count:
    return _product(x, y)


def _addmm(_, x, y, *__, **___) -> Count:
    return _product(x, y)


def _mv(x, y, *_, **__) -> Count:
    return _product(x, y[:, None])


def _addmv(_, x, y, *__, **___) -> Count:
    return _product(x, y[:, None])


def _dot(x, y, *_, **__) -> Count:
    return _product(x[None, :], y[:, None])


COUNTERS: dict[str, Callable[..., Count]] = {
    "mm": _mm,
    "bmm": _mm,
    "addmm": _addmm,
    "addmm_": _addmm,
    "_addmm_activation": _addmm,
    "baddbmm": _addmm,
    "baddbmm_": _addmm,
    "addbmm": _addmm,
    "addbmm_": _addmm,
    "mv": _mv,
    "addmv": _addmv,
    "addmv_": _addmv,
    "dot": _dot,
    "vdot": _dot,
    "convolution": _convolution,
}
