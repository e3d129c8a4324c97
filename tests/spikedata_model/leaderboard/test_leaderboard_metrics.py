"""Scores against scikit-learn, torchmetrics and formulas written out; the trial of a sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson

from spikedata.intervals import IntervalSet
from spikedata_model.errors import SuiteError
from spikedata_model.evaluate import r2_score
from spikedata_model.leaderboard.metrics import (
    behaviour_metrics,
    behaviour_sums,
    metrics_of,
    rate_metrics,
    rate_sums,
    trial_of,
)


def make_behaviour(seed=0, n_samples=300, n_channels=2, n_trials=12, offset=0.0, spread=1.0):
    """Return truth, predictions, marks and trials; trials lie anywhere, also apart."""
    rng = np.random.default_rng(seed)
    trial = rng.integers(0, n_trials, n_samples)
    truth = rng.normal(size=(n_samples, n_channels)) * rng.uniform(0.1, 3, n_channels)
    truth = truth + rng.normal(size=(n_trials, n_channels))[trial]
    predicted = truth + rng.normal(size=truth.shape)
    scored = rng.random(n_samples) < 0.8
    return offset + spread * truth, offset + spread * predicted, scored, trial


def make_rates(seed=0, n_samples=200, n_units=5, n_trials=8):
    rng = np.random.default_rng(seed)
    rates = rng.gamma(1.0, 0.3, (n_samples, n_units))
    counts = rng.poisson(rates)
    scored = rng.random(n_samples) < 0.8
    return rates, counts, scored, rng.integers(0, n_trials, n_samples)


# ------------------------------------------------------------------ R²


@given(
    st.integers(0, 999), st.integers(1, 5), st.integers(1, 30),
    st.sampled_from([(0, 1), (1e6, 1), (-1e6, 0.01), (0, 1e-12), (0, 1e30)]),
)  # fmt: skip
def test_r2_equals_that_of_scikit_learn(seed, n_channels, n_trials, size):
    """Whatever the trials are: they only order the sums. 1e6 is an offset of a million units."""
    truth, predicted, scored, trial = make_behaviour(
        seed, 200, n_channels, n_trials, offset=size[0], spread=size[1]
    )
    found = behaviour_metrics(truth, predicted, scored, trial)
    raw, uniform, weighted = (
        sklearn.metrics.r2_score(truth[scored], predicted[scored], multioutput=how)
        for how in ("raw_values", "uniform_average", "variance_weighted")
    )
    # Values near 1e6 have themselves a rounding of 1e-10, of a spread of 0.01.
    near = 1e-10 if size[1] != 0.01 else 1e-7

    assert found.r2 == pytest.approx(np.asarray(raw).tolist(), rel=near, abs=near)
    assert found.r2_uniform == pytest.approx(uniform, rel=near, abs=near)
    assert found.r2_weighted == pytest.approx(weighted, rel=near, abs=near)
    assert found.n_samples == scored.sum()
    assert found.n_trials == len(np.unique(trial[scored]))


@pytest.mark.parametrize(
    ("how", "field"),
    [("raw_values", "r2"), ("uniform_average", "r2_uniform"), ("variance_weighted", "r2_weighted")],
)
def test_r2_equals_that_of_torchmetrics(how, field):
    truth, predicted, scored, trial = make_behaviour(3, n_channels=3)
    theirs = torchmetrics.R2Score(multioutput=how).set_dtype(torch.float64)
    for some in np.array_split(np.flatnonzero(scored), 4):
        theirs.update(torch.tensor(predicted[some]), torch.tensor(truth[some]))
    expected = theirs.compute().numpy()
    found = getattr(behaviour_metrics(truth, predicted, scored, trial), field)

    assert np.allclose(found, expected, rtol=1e-10, atol=1e-10)


@given(st.integers(0, 999), st.integers(2, 40), st.integers(1, 3))
def test_r2_equals_that_of_evaluate(seed, n_samples, n_channels):
    truth, predicted, _, trial = make_behaviour(seed, n_samples, n_channels)
    found = behaviour_metrics(truth, predicted, np.ones(n_samples, bool), trial)

    assert found.r2 == pytest.approx(r2_score(truth, predicted).tolist(), rel=1e-10)


def test_what_is_not_scored_has_no_influence_whatever_it_is():
    truth, predicted, scored, trial = make_behaviour()
    changed, guessed, moved = truth.copy(), predicted.copy(), trial.copy()
    changed[~scored], guessed[~scored], moved[~scored] = np.nan, np.inf, 99

    assert behaviour_metrics(changed, guessed, scored, moved) == behaviour_metrics(
        truth, predicted, scored, trial
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 / 3])
def test_a_channel_that_does_not_change_has_no_r2_and_no_weight(value):
    truth, predicted, scored, trial = make_behaviour(n_channels=3)
    truth[scored, 1] = value  # outside of the scored samples it changes
    found = behaviour_metrics(truth, predicted, scored, trial)
    others = behaviour_metrics(truth[:, ::2], predicted[:, ::2], scored, trial)

    assert [math.isnan(one) for one in found.r2] == [False, True, False]
    assert math.isnan(found.r2_uniform)
    assert found.r2_weighted == pytest.approx(others.r2_weighted, rel=1e-12)


@pytest.mark.parametrize("n_scored", [0, 1])
def test_too_few_samples_have_no_r2(n_scored):
    truth, predicted, scored, trial = make_behaviour()
    scored = np.arange(len(scored)) < n_scored
    found = behaviour_metrics(truth, predicted, scored, trial)

    assert (found.n_samples, found.n_trials) == (n_scored, n_scored)
    assert len(found.r2) == 2
    assert all(math.isnan(one) for one in (*found.r2, found.r2_uniform, found.r2_weighted))


def test_a_channel_that_moves_in_one_trial_has_a_total_in_just_the_draws_with_that_trial():
    """Rounding must not make variance out of none: 0.1 has no exact float64."""
    trial = np.repeat(np.arange(4), 50)
    truth = np.full((200, 1), 0.1)
    truth[:50, 0] += np.linspace(0, 1e-3, 50)
    sums = behaviour_sums(truth, truth + 1e-4, np.ones(200, bool), trial)
    weights = np.array([[0, 2, 1, 1], [1, 1, 1, 1], [0, 4, 0, 0], [0, 0, 0, 0]], float)
    found = sums.score("r2", weights)

    assert np.isnan(found).tolist() == [True, False, True, True]
    assert found[1] == pytest.approx(sklearn.metrics.r2_score(truth, truth + 1e-4))


def test_draws_far_from_the_common_centre_keep_their_digits():
    """One trial lies a million spreads away; draws without it are scored as if it were not."""
    rng = np.random.default_rng(0)
    trial = np.repeat(np.arange(5), 40)
    truth = rng.normal(size=(200, 1))
    truth[:40] += 1e9
    predicted = truth + rng.normal(size=truth.shape)
    sums = behaviour_sums(truth, predicted, np.ones(200, bool), trial)
    found = sums.score("r2", np.array([[0.0, 1, 1, 1, 1]]))[0]

    assert found == pytest.approx(sklearn.metrics.r2_score(truth[40:], predicted[40:]), rel=1e-6)


@pytest.mark.parametrize("side", ["true values", "predictions"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_a_scored_value_that_is_no_number_is_refused(side, value):
    truth, predicted, scored, trial = make_behaviour()
    row = int(np.flatnonzero(scored)[7])
    (truth if side == "true values" else predicted)[row, 1] = value

    with pytest.raises(SuiteError, match=rf"lab/a: 1 scored {side} are not .* sample 7, channel 1"):
        behaviour_sums(truth, predicted, scored, trial, "lab/a")


@pytest.mark.parametrize(
    "change",
    [
        lambda truth, predicted, scored, trial: (truth, predicted[:, :1], scored, trial),
        lambda truth, predicted, scored, trial: (truth, predicted[1:], scored, trial),
        lambda truth, predicted, scored, trial: (truth[:, 0], predicted[:, 0], scored, trial),
        lambda truth, predicted, scored, trial: (truth, predicted, scored[1:], trial),
        lambda truth, predicted, scored, trial: (truth, predicted, scored, trial[1:]),
        lambda truth, predicted, scored, trial: (truth, predicted, scored.astype(int), trial),
    ],
)
@pytest.mark.parametrize("sums_of", [behaviour_sums, rate_sums])
def test_arrays_that_do_not_fit_are_refused(sums_of, change):
    with pytest.raises(SuiteError, match=r"expected two arrays|marked by bool"):
        sums_of(*change(*make_rates()))


# ------------------------------------------------------------------ rates


def naive_bits(rates: np.ndarray, counts: np.ndarray) -> float:
    """Return bits per spike sample by sample and unit by unit, with a 0 put as 1e-9."""
    gain = 0.0
    for unit in range(counts.shape[1]):
        mean = counts[:, unit].sum() / len(counts)
        for bin_, count in enumerate(counts[:, unit]):
            rate = rates[bin_, unit] or 1e-9
            gain += poisson.logpmf(count, rate) - poisson.logpmf(count, mean or 1e-9)
    return gain / counts.sum() / math.log(2)


@given(st.integers(0, 999), st.integers(1, 4))
def test_bits_per_spike_equal_the_formula_written_out(seed, n_units):
    """With a silent unit, and rates of 0 where there are spikes and where there are none."""
    rates, counts, scored, trial = make_rates(seed, 40, n_units + 1)
    counts[:, -1] = 0
    rates[np.random.default_rng(seed).random(rates.shape) < 0.1] = 0
    scored[:5] = counts[0, 0] = True
    found = rate_metrics(rates, counts, scored, trial)

    assert found.bits_per_spike == pytest.approx(naive_bits(rates[scored], counts[scored]))
    assert (found.n_samples, found.r2) == (scored.sum(), ())


def test_the_mean_rates_of_the_scored_bins_have_0_bits_per_spike():
    _, counts, scored, trial = make_rates()
    mean = np.broadcast_to(counts[scored].mean(axis=0), counts.shape)

    assert rate_metrics(mean, counts, scored, trial).bits_per_spike == pytest.approx(0, abs=1e-12)


def test_without_a_spike_there_are_no_bits_per_spike():
    rates, counts, scored, trial = make_rates()

    assert math.isnan(rate_metrics(rates, 0 * counts, scored, trial).bits_per_spike or 0)


def test_a_rate_just_above_0_stays_what_it_is():
    """Only a 0 is put as 1e-9: a smaller rate with a spike is as bad as it says it is."""
    rates, counts = np.array([[1e-12], [1.0]]), np.array([[1], [1]])
    found = rate_metrics(rates, counts, np.ones(2, bool), np.zeros(2, int)).bits_per_spike

    assert found == pytest.approx(naive_bits(rates, counts))


@pytest.mark.parametrize("what", ["rates", "counts"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e-9])
def test_a_rate_or_a_count_below_0_or_no_number_is_refused(what, value):
    rates, counts, scored, trial = make_rates()
    counts = counts.astype(float)
    (rates if what == "rates" else counts)[np.flatnonzero(scored)[3], 2] = value

    with pytest.raises(SuiteError, match=rf"lab/a: 1 scored {what} are not .* sample 3, channel 2"):
        rate_sums(rates, counts, scored, trial, "lab/a")


def test_sums_say_which_scores_they_have():
    every = np.ones((1, 12))
    with pytest.raises(SuiteError, match="not by 'bits_per_spike'"):
        behaviour_sums(*make_behaviour()).score("bits_per_spike", every)
    with pytest.raises(SuiteError, match="not by 'r2'"):
        rate_sums(*make_rates()).score("r2", every)


def test_scores_of_sums_are_those_of_samples():
    assert metrics_of(behaviour_sums(*make_behaviour())) == behaviour_metrics(*make_behaviour())
    assert metrics_of(rate_sums(*make_rates())) == rate_metrics(*make_rates())


# ------------------------------------------------------------------ trials and blocks


def naive_trial_of(time, trials, segments, block):
    """Return the key of what each sample is drawn with: a row, or a stretch and a block of it."""
    keys = []
    for t in time:
        rows = [row for row, (start, end) in enumerate(trials) if start <= t < end]
        if rows:
            keys.append(("row", rows[0]))
            continue
        ((start, end),) = [one for one in segments if one[0] <= t < one[1]]
        start = max([start, *(e for _, e in trials if e <= t)])
        end = min([end, *(s for s, _ in trials if s > t)])
        blocks = max(1, (end - start) // block)
        keys.append(("block", start, min((t - start) // block, blocks - 1)))
    return keys


def test_a_time_in_no_row_is_never_dropped_and_blocks_do_not_reach_over_segments_or_rows():
    """On a grid of whole numbers, where division is exact."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        cuts = np.sort(rng.choice(np.arange(1, 60), 6, replace=False)).astype(float)
        segments = IntervalSet(cuts[::2].copy(), cuts[1::2].copy())
        start = np.sort(rng.integers(0, 60, rng.integers(0, 6))).astype(float)
        trials = IntervalSet(start, start + rng.integers(1, 12, len(start)))
        every = np.arange(60.0)
        time = every[segments.contains(every)]
        block = float(rng.integers(1, 9))
        found = trial_of(time, trials, segments, block)
        keys = naive_trial_of(time, list(trials), list(segments), block)

        assert len(set(zip(found.tolist(), keys, strict=True))) == len(set(keys))
        assert len(set(found.tolist())) == len(set(keys))
        assert [n for n, key in zip(found.tolist(), keys, strict=True) if key[0] == "row"] == [
            key[1] for key in keys if key[0] == "row"
        ]
        free = found[found >= len(trials)]
        assert np.all(np.diff(free) >= 0)


def test_without_trials_blocks_tile_each_segment_and_its_tail_joins_the_last():
    segments = IntervalSet(np.array([0.0, 10.0]), np.array([5.5, 11.0]))
    time = np.array([0.0, 1.9, 2.0, 3.9, 4.0, 5.4, 10.0, 10.9])

    assert trial_of(time, None, segments, 2.0).tolist() == [0, 0, 1, 1, 1, 1, 2, 2]


def test_a_sample_on_the_edge_of_a_block_belongs_behind_it_in_spite_of_rounding():
    time = 0.1 * np.arange(30)  # 0.1 · 3 is above 0.3, 0.3 / 0.1 below 3

    assert trial_of(time, None, IntervalSet.single(0.0, 3.0), 0.1).tolist() == list(range(30))
    late = 1e5 + time
    assert trial_of(late, None, IntervalSet.single(1e5, 1e5 + 3), 0.1).tolist() == list(range(30))


def test_samples_may_be_given_in_any_order():
    time = np.arange(100) / 10
    trials, segments = IntervalSet.single(2.0, 4.0), IntervalSet.single(0.0, 10.0)
    order = np.random.default_rng(0).permutation(100)

    assert np.array_equal(
        trial_of(time[order], trials, segments, 1.5), trial_of(time, trials, segments, 1.5)[order]
    )


@pytest.mark.parametrize(
    ("time", "ends", "block", "match"),
    [
        (
            [5.0, 7.0],
            (6.0, 12.0),
            1.0,
            "1 test samples lie outside the 2 test segments, first at 7",
        ),
        ([5.0], (9.0, 12.0), 1.0, "overlap"),
        ([5.0], (6.0, 12.0), 0.0, "more than 0 s"),
        ([5.0], (6.0, 12.0), math.nan, "more than 0 s"),
    ],
)
def test_time_that_was_not_predicted_and_blocks_of_nothing_are_refused(time, ends, block, match):
    segments = IntervalSet(np.array([0.0, 8.0]), np.array(ends))

    with pytest.raises(SuiteError, match=match):
        trial_of(np.array(time), None, segments, block)
