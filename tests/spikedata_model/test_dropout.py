from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.dropout import Coins, drop, seeded


@pytest.mark.parametrize("dropout", [0.01, 0.2, 0.4, 0.5, 0.99])
def test_coins_fall_as_often_as_asked(dropout):
    torch.manual_seed(0)
    n = 400_000
    kept = int(Coins(dropout).toss((n,)).sum())

    deviation = math.sqrt(n * dropout * (1 - dropout))
    assert abs(kept - n * (1 - dropout)) < 4 * deviation + n / 2**16


@given(st.lists(st.integers(0, 7), max_size=4), st.integers(0, 99))
def test_coins_are_zeros_and_ones_of_any_shape(shape, seed):
    torch.manual_seed(seed)
    coins = Coins(0.5).toss(tuple(shape))

    assert coins.shape == tuple(shape)
    assert coins.dtype == torch.int8
    assert set(coins.flatten().tolist()) <= {0, 1}


def test_neighbouring_coins_and_coins_of_other_tosses_are_independent():
    torch.manual_seed(0)
    coins = Coins(0.3)
    first, second = (coins.toss((200_000,)).double() for _ in range(2))

    for a, b in [(first, second), *((first[lag:], first[:-lag]) for lag in (1, 2, 3, 4, 8))]:
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.01


def test_the_seed_of_torch_decides():
    tossed = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        tossed.append(Coins(0.5).toss((100,)))

    assert torch.equal(tossed[0], tossed[1])
    assert not torch.equal(tossed[0], tossed[2])


def test_a_seed_of_its_own_decides_whatever_other_threads_toss():
    def toss(seed: list[int]) -> torch.Tensor:
        with seeded(seed):
            Coins(0.5)
            return Coins(0.5).toss((1000,))

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(toss, [[1, step] for step in range(20)]))
    torch.manual_seed(3)
    alone = [toss([1, step]) for step in range(20)]

    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))
    assert not torch.equal(alone[0], alone[1])


def test_dropped_values_are_zero_the_others_scaled_up_and_gradients_follow():
    torch.manual_seed(0)
    x = torch.rand(50, 40, requires_grad=True)
    y = drop(x, 0.4)
    y.sum().backward()

    kept = y != 0
    assert 0.5 < kept.float().mean() < 0.7
    torch.testing.assert_close(y[kept], x[kept] / 0.6)
    torch.testing.assert_close(x.grad, kept / 0.6)
    assert drop(x, 0.0) is x
