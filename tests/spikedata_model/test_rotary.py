from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.rotary import phases, rotary_frequencies, rotate

FREQUENCY_F = rotary_frequencies(4, 0.1, 2.0)


def turned_by_hand(
    x_NHD: torch.Tensor, time_N: torch.Tensor, frequency_F: torch.Tensor
) -> torch.Tensor:
    turned = x_NHD.clone()
    for n in range(len(time_N)):
        for f in range(len(frequency_F)):
            angle = float(time_N[n]) * float(frequency_F[f])
            first, second = x_NHD[n, :, 2 * f], x_NHD[n, :, 2 * f + 1]
            turned[n, :, 2 * f] = math.cos(angle) * first - math.sin(angle) * second
            turned[n, :, 2 * f + 1] = math.sin(angle) * first + math.cos(angle) * second
    return turned


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.integers(0, 99))
def test_rotate_turns_each_pair_by_time_times_frequency(n_tokens, heads, n_frequencies, seed):
    torch.manual_seed(seed)
    x_NHD = torch.randn(n_tokens, heads, 4 * n_frequencies)
    time_N = torch.rand(n_tokens)
    frequency_F = rotary_frequencies(n_frequencies, 0.05, 2.0)

    found = rotate(x_NHD, phases(time_N, frequency_F))

    torch.testing.assert_close(
        turned_by_hand(x_NHD, time_N, frequency_F), found, rtol=1e-4, atol=1e-4
    )


def test_half_of_every_head_does_not_turn():
    x_NHD = torch.randn(7, 2, 16)
    turned = rotate(x_NHD, phases(torch.rand(7), FREQUENCY_F))

    assert torch.equal(x_NHD[..., 8:], turned[..., 8:])
    assert not torch.isclose(x_NHD[..., :8], turned[..., :8]).all(dim=0).any()


def test_the_conjugate_turns_back():
    x_BNHD = torch.randn(3, 7, 2, 16)
    phase_BNP = phases(torch.rand(3, 7), FREQUENCY_F)

    torch.testing.assert_close(rotate(rotate(x_BNHD, phase_BNP), phase_BNP.conj()), x_BNHD)


def test_rotation_keeps_the_type_of_its_input():
    x_NHD = torch.randn(7, 2, 16, dtype=torch.bfloat16)

    assert rotate(x_NHD, phases(torch.rand(7), FREQUENCY_F)).dtype == torch.bfloat16


def test_periods_are_evenly_spaced_in_log_time_between_both_ends():
    period = 2 * math.pi / rotary_frequencies(6, 1e-4, 2.0627).double()

    assert float(period[0]) == pytest.approx(1e-4, rel=1e-5)
    assert float(period[-1]) == pytest.approx(2.0627, rel=1e-5)
    step = (2.0627 / 1e-4) ** (1 / 5)
    assert (period[1:] / period[:-1]).tolist() == pytest.approx([step] * 5, rel=1e-4)
