from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata.intervals import IntervalSet
from spikedata_model.loss import weight_steps, weighted_squared_error, weights_at

rows = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=5)


@given(st.dictionaries(st.sampled_from("abcd"), rows), st.lists(st.integers(0, 20), max_size=30))
def test_a_sample_weighs_the_product_of_the_factors_of_the_tables_that_hold_it(given_rows, times):
    """Tables overlap, their rows too, and times lie on their bounds; "e" is in no recording."""
    factors = {"a": 5.0, "b": 0.5, "c": 0.0, "d": 1.0, "e": 7.0}
    pairs = {
        name: sorted((min(p), max(p)) for p in some if p[0] != p[1])
        for name, some in given_rows.items()
    }
    tables = {
        name: IntervalSet(
            np.array([a for a, _ in some], float), np.array([b for _, b in some], float)
        )
        for name, some in pairs.items()
    }
    expected = []
    for time in times:
        weight = 1.0
        for name, some in pairs.items():
            if any(start <= time < end for start, end in some):
                weight *= factors[name]
        expected.append(weight)
    found = weights_at(np.array(times, float), weight_steps(tables, factors))

    assert found.dtype == np.float32
    assert found.tolist() == expected


@given(st.integers(0, 999))
def test_the_loss_is_the_weighted_mean_over_samples_and_channels_of_all_targets(seed):
    rng = np.random.default_rng(seed)
    predicted, target, weight, numerator, total = [], [], [], 0.0, 0.0
    for count, width in ((4, 2), (3, 1), (0, 2)):
        p, t, w = (
            rng.normal(size=(count, width)),
            rng.normal(size=(count, width)),
            rng.random(count),
        )
        for k in range(count):
            for c in range(width):
                numerator += w[k] * (p[k, c] - t[k, c]) ** 2
                total += w[k]
        predicted.append(torch.tensor(p))
        target.append(torch.tensor(t))
        weight.append(torch.tensor(w))

    loss = weighted_squared_error(predicted, target, weight, total)
    assert float(loss) == pytest.approx(numerator / total)


@pytest.mark.parametrize("count", [0, 3])
def test_samples_that_all_weigh_nothing_give_a_loss_and_gradients_of_0(count):
    predicted = torch.ones(count, 2, requires_grad=True)
    loss = weighted_squared_error([predicted], [torch.zeros(count, 2)], [torch.zeros(count)], 0.0)
    loss.backward()

    assert float(loss.detach()) == 0
    assert predicted.grad is not None
    assert not predicted.grad.any()
