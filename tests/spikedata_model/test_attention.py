from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model import attention, windows
from spikedata_model.rotary import phases, rotary_frequencies

KERNELS = ["windows", "padded", "jagged"]


def attend(x_QGD: torch.Tensor, context_TGD: torch.Tensor | None, *rest, **options):
    """Return what `attend` does with tensors of its own, which it may change."""
    context_TGD = None if context_TGD is None else context_TGD.clone()
    return attention.attend(x_QGD.clone(), context_TGD, *rest, **options)


def offsets_of(lengths: list[int]) -> list[int]:
    return [0, *torch.tensor(lengths).cumsum(0).tolist()]


def make_parts(heads: int, dim_head: int, q_lengths: list[int], k_lengths: list[int] | None):
    """Return the arguments of `attend`, random ones: self-attention without lengths of keys."""
    omega = rotary_frequencies(dim_head // 4, 0.01, 2.0)
    n_queries, groups = sum(q_lengths), 3 if k_lengths is None else 1
    x_QGD = torch.randn(n_queries, groups * heads, dim_head)
    q_phase = phases(torch.rand(n_queries), omega)
    if k_lengths is None:
        return x_QGD, None, q_phase, q_phase, offsets_of(q_lengths), offsets_of(q_lengths)
    context = torch.randn(sum(k_lengths), 2 * heads, dim_head)
    k_phase = phases(torch.rand(sum(k_lengths)), omega)
    return x_QGD, context, q_phase, k_phase, offsets_of(q_lengths), offsets_of(k_lengths)


def results(parts, kernel: str, turn_values: bool) -> list[torch.Tensor]:
    """Return what `attend` gives, and its derivatives."""
    tensors = [None if one is None else one.clone().requires_grad_() for one in parts[:2]]
    out = attend(*tensors, *parts[2:], turn_values=turn_values, kernel=kernel)
    (out * torch.arange(out.numel()).view_as(out).cos()).sum().backward()
    return [out.detach(), *(one.grad for one in tensors if one is not None)]


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=5),
    even=st.booleans(),
    cross=st.booleans(),
    heads=st.integers(1, 3),
    dim_head=st.sampled_from([4, 8, 32]),
    turn_values=st.booleans(),
    seed=st.integers(0, 999),
)
def test_every_kernel_returns_what_plain_attention_does_and_its_derivatives(
    kernel, lengths, even, cross, heads, dim_head, turn_values, seed
):
    torch.manual_seed(seed)
    lengths = lengths[:1] * len(lengths) if even else lengths
    queries, keys = map(list, zip(*lengths, strict=True))
    turn_values = turn_values or not cross
    parts = make_parts(heads, dim_head, queries, keys if cross else None)

    for plain, found in zip(
        results(parts, "plain", turn_values), results(parts, kernel, turn_values), strict=True
    ):
        torch.testing.assert_close(plain, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("turn_values", [True, False])
def test_times_matter_by_their_differences_alone(kernel, turn_values):
    torch.manual_seed(0)
    omega = rotary_frequencies(2, 0.01, 2.0)
    x_QGD, context_TGD = torch.randn(3, 2, 8), torch.randn(5, 4, 8)
    q_time, k_time = torch.rand(3), torch.rand(5)

    def attended(q_shift: float, k_shift: float) -> torch.Tensor:
        q_phase, k_phase = phases(q_time + q_shift, omega), phases(k_time + k_shift, omega)
        return attend(
            x_QGD, context_TGD, q_phase, k_phase, (0, 3), (0, 5),
            turn_values=turn_values, kernel=kernel,
        )  # fmt: skip

    torch.testing.assert_close(attended(0.0, 0.0), attended(0.7, 0.7), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(attended(0.0, 0.0), attended(0.7, 0.0), atol=1e-2)


@pytest.mark.parametrize("kernel", ["windows", "padded"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_window_without_any_key_gives_zeros_and_leaves_its_neighbours_alone(kernel, dropout):
    """All units of a window may be silenced in training; nan there would ruin the weights."""
    x_QGD, context_TGD, q_phase, k_phase, _, _ = make_parts(2, 8, [3, 3], [5])
    x_QGD.requires_grad_(), context_TGD.requires_grad_()
    together = attend(
        x_QGD, context_TGD, q_phase, k_phase, (0, 3, 6), (0, 0, 5),
        turn_values=True, dropout=dropout, kernel=kernel,
    )  # fmt: skip
    together.sum().backward()

    assert not together[:3].any()
    assert x_QGD.grad.isfinite().all()
    assert context_TGD.grad.isfinite().all()
    assert not x_QGD.grad[:3].any()
    if not dropout:
        alone = attend(
            x_QGD[3:], context_TGD, q_phase[3:], k_phase, (0, 3), (0, 5),
            turn_values=True, kernel=kernel,
        )  # fmt: skip
        torch.testing.assert_close(together[3:], alone)


@pytest.mark.parametrize(
    ("device", "k_offsets", "kernel"),
    [
        ("cpu", (0, 3, 5), "windows"),
        ("cuda", (0, 3, 6), "padded"),
        ("cuda", (0, 3, 5), "jagged"),
        ("cuda", (0, 3, 3), "padded"),
        ("cuda", (0, 0, 0), "padded"),
    ],
)
def test_windows_without_keys_are_not_left_to_nested_tensors(device, k_offsets, kernel):
    """Where torch writes attention out, it fails on those."""
    assert attention._pick(torch.device(device), k_offsets) == kernel


@pytest.mark.parametrize("kernel", [*KERNELS, "plain"])
def test_dropout_keeps_the_mean_and_follows_the_seed(kernel):
    torch.manual_seed(1)
    parts = make_parts(2, 8, [40, 30], [6, 9])

    def attended(dropout: float, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return attend(*parts, turn_values=False, dropout=dropout, kernel=kernel)

    mean = torch.stack([attended(0.3, seed) for seed in range(400)]).mean(0)
    assert torch.equal(attended(0.3, 5), attended(0.3, 5))
    assert not torch.equal(attended(0.3, 5), attended(0.3, 6))
    torch.testing.assert_close(mean, attended(0.0, 0), rtol=0, atol=0.2)


@pytest.mark.parametrize(
    ("q_lengths", "k_lengths"), [([3, 2], [4, 5]), ([3, 3], [4, 4]), ([3, 2], None), ([3, 3], None)]
)
def test_the_derivative_with_dropout_is_that_of_what_was_dropped(q_lengths, k_lengths):
    """Finite differences of the same seed: the coins are the same, forward and backward."""
    torch.manual_seed(0)
    parts = make_parts(2, 4, q_lengths, k_lengths)

    def scalar(*tensors: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(9)
        tensors = (*tensors, None)[:2]
        out = attend(*tensors, *parts[2:], turn_values=True, dropout=0.4)
        return (out * torch.arange(out.numel()).view_as(out).cos()).sum()

    tensors = [one.clone().requires_grad_() for one in parts[:2] if one is not None]
    scalar(*tensors).backward()
    for index, tensor in enumerate(tensors):
        step = torch.randn_like(tensor)
        ends = []
        for sign in (1, -1):
            moved = [one.detach().clone() for one in tensors]
            moved[index] += sign * 1e-2 * step
            ends.append(scalar(*moved))
        slope = (ends[0] - ends[1]) / 2e-2
        torch.testing.assert_close((tensor.grad * step).sum(), slope, rtol=2e-2, atol=2e-2)


def test_scores_of_one_tile_at_a_time_are_held_where_nothing_is_learned(monkeypatch):
    held, write = [], windows._write

    def count(*given: torch.Tensor) -> None:
        tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
        held.append(sum(one.shape == (2, 3, 5) for one in tensors))
        write(*given)

    monkeypatch.setattr(windows, "_write", count)
    attend(*make_parts(4, 8, [3, 3], [5, 5]), turn_values=True, kernel="windows")

    assert held == [1, 1, 1, 1]
