"""Intervals of scores against loops written out, and how often they hold a truth that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics

from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.metrics import (
    behaviour_sums,
    bootstrap,
    draw_seeds,
    draw_trials,
    mean_score,
    metrics_of,
    paired_bootstrap,
    rate_sums,
)
from tests.spikedata_model.leaderboard.test_leaderboard_metrics import naive_bits

R2 = {"r2": "uniform_average", "r2_weighted": "variance_weighted"}


def make_recording(seed, n_trials=10, n_seeds=3, noise=1.0, n_channels=2):
    """Return truth, trials and one prediction a seed; trials differ in length, noise in trials."""
    rng = np.random.default_rng(seed)
    trial = np.repeat(np.arange(n_trials), rng.integers(3, 9, n_trials))
    truth = rng.normal(size=(len(trial), n_channels)) * [1, 3][:n_channels] + 100
    hard = rng.gamma(1.0, noise, n_trials)[trial, None]
    return truth, trial, [
        truth + hard * rng.normal(size=truth.shape) + 0.2 * rng.normal(size=n_channels)
        for _ in range(n_seeds)
    ]  # fmt: skip


def sums_of(truth, trial, predicted):
    return [behaviour_sums(truth, one, np.ones(len(trial), bool), trial) for one in predicted]


def drawn_rows(trial, weights):
    """Return the samples of the drawn trials, as often as they are drawn."""
    every = [np.flatnonzero(trial == one) for one in np.unique(trial)]
    parts = [np.tile(rows, int(n)) for rows, n in zip(every, weights, strict=True)]
    return np.concatenate(parts)


# ------------------------------------------------------------------ against loops


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("metric", ["r2", "r2_weighted"])
def test_an_interval_is_that_of_scores_of_samples_drawn_again(metric, together):
    """Each draw is scored by scikit-learn on the samples themselves."""
    recordings = [make_recording(seed, 5 + seed) for seed in range(3)]
    draws, seed, scores = 40, 7, []
    for draw in range(draws):
        means = []
        for row, (truth, trial, predicted) in enumerate(recordings):
            rows = drawn_rows(trial, draw_trials(5 + row, draws, seed, row)[draw])
            taken = draw_seeds(3, draws, seed, 0 if together else row, 0)[draw]
            means.append(
                np.mean([
                    sklearn.metrics.r2_score(
                        truth[rows], predicted[one][rows], multioutput=R2[metric]
                    )
                    for one in taken
                ])
            )  # fmt: skip
        scores.append(np.mean(means))
    cells = [sums_of(*one) for one in recordings]
    found = bootstrap(cells, metric, draws=draws, seed=seed, together=together)

    assert found == pytest.approx(tuple(np.percentile(scores, [2.5, 97.5])), rel=1e-9)


def test_an_interval_of_rates_is_that_of_bins_drawn_again():
    rng = np.random.default_rng(0)
    rates = rng.gamma(1.0, 0.5, (60, 3))
    counts, trial = rng.poisson(rates), np.repeat(np.arange(12), 5)
    predicted = rates * rng.uniform(0.5, 2, rates.shape)
    weights = draw_trials(12, 50, 3, 0)
    rows = [drawn_rows(trial, one) for one in weights]
    scores = [naive_bits(predicted[one], counts[one]) for one in rows]
    sums = rate_sums(predicted, counts, np.ones(60, bool), trial)

    assert sums.score("bits_per_spike", weights).tolist() == pytest.approx(scores)
    found = bootstrap([[sums]], "bits_per_spike", draws=50, seed=3)
    assert found == pytest.approx(tuple(np.percentile(scores, [2.5, 97.5])))


def test_a_lead_is_that_of_samples_drawn_again_with_the_trials_of_both_and_the_seeds_of_each():
    recordings = [make_recording(seed, 6) for seed in range(2)]
    others = [
        [truth + 0.9 * (one - truth) for one in predicted[:2]] for truth, _, predicted in recordings
    ]
    draws, seed, leads = 30, 1, []
    for draw in range(draws):
        means = []
        for row, ((truth, trial, mine), theirs) in enumerate(zip(recordings, others, strict=True)):
            rows = drawn_rows(trial, draw_trials(6, draws, seed, row)[draw])
            for who, predicted in enumerate((mine, theirs)):
                taken = draw_seeds(len(predicted), draws, seed, row, who)[draw]
                scores = [
                    sklearn.metrics.r2_score(truth[rows], predicted[one][rows]) for one in taken
                ]
                means.append((1 - 2 * who) * np.mean(scores))
        leads.append(np.sum(means) / 2)
    cells = [sums_of(*one) for one in recordings]
    theirs = [
        sums_of(truth, trial, one)
        for (truth, trial, _), one in zip(recordings, others, strict=True)
    ]
    difference, *found = paired_bootstrap(cells, theirs, "r2", draws=draws, seed=seed)

    assert difference == pytest.approx(mean_score(cells, "r2") - mean_score(theirs, "r2"))
    assert found == pytest.approx(np.percentile(leads, [2.5, 97.5]).tolist(), rel=1e-9)


def test_every_draw_has_as_many_trials_as_there_are():
    weights = draw_trials(9, 200, 0, 0)

    assert np.all(weights.sum(axis=1) == 9)
    assert weights.mean(axis=0) == pytest.approx(np.ones(9), abs=0.3)
    assert not np.array_equal(weights, draw_trials(9, 200, 0, 1))
    assert not np.array_equal(weights, draw_trials(9, 200, 1, 0))


# ------------------------------------------------------------------ means and intervals


def test_the_mean_is_over_recordings_of_the_mean_over_seeds():
    """A recording counts once, however many seeds it has."""
    cells = [sums_of(*make_recording(0, n_seeds=1)), sums_of(*make_recording(1, n_seeds=4))]
    scores = [np.mean([metrics_of(one).r2_uniform for one in seeds]) for seeds in cells]

    assert mean_score(cells, "r2") == pytest.approx(np.mean(scores))


def test_an_interval_is_the_same_twice_and_another_with_another_seed():
    cells = [sums_of(*make_recording(seed)) for seed in range(2)]

    assert bootstrap(cells, "r2") == bootstrap(cells, "r2")
    assert bootstrap(cells, "r2") != bootstrap(cells, "r2", seed=1)


def test_trials_that_are_all_alike_and_one_seed_leave_no_interval_to_speak_of():
    truth, trial, predicted = make_recording(0, n_trials=1, n_seeds=1)
    again = [np.tile(one, (6, 1)) for one in (truth, *predicted)]
    cells = [sums_of(again[0], np.repeat(np.arange(6), len(trial)), again[1:])]
    low, high = bootstrap(cells, "r2")

    assert high - low < 1e-12
    assert (low, high) == pytest.approx((mean_score(cells, "r2"),) * 2)


def test_seeds_that_differ_widen_an_interval():
    truth, trial, predicted = make_recording(0, n_trials=40, n_seeds=1)
    alike = sums_of(truth, trial, predicted * 3)
    apart = sums_of(truth, trial, [predicted[0] + shift for shift in (-1, 0, 1)])
    widths = [np.diff(bootstrap([one], "r2"))[0] for one in (alike, apart)]

    assert widths[1] > 1.2 * widths[0]
    assert bootstrap([alike], "r2") == pytest.approx(bootstrap([alike[:1]], "r2"))


def test_one_trial_has_no_interval():
    cells = [sums_of(*make_recording(0)), sums_of(*make_recording(1, n_trials=1))]

    assert all(math.isnan(one) for one in bootstrap(cells, "r2"))
    difference, low, high = paired_bootstrap(cells, cells, "r2")
    assert (difference, math.isnan(low), math.isnan(high)) == (0, True, True)


@pytest.mark.parametrize(("n_moving", "known"), [(4, True), (1, False)])
def test_draws_without_a_score_are_left_out_unless_they_are_many(n_moving, known):
    """Of ten trials `n_moving` move: 0.6 ¹⁰ of the draws have none of four, a third none of one."""
    rng = np.random.default_rng(0)
    trial = np.repeat(np.arange(10), 20)
    truth = np.where(trial < n_moving, rng.normal(size=200), 0.0)[:, None]
    sums = behaviour_sums(truth, truth + 0.1, np.ones(200, bool), trial)
    drawn = sums.score("r2", draw_trials(10, 1000, 0, 0))

    assert np.isnan(drawn).any()
    assert [math.isfinite(one) for one in bootstrap([[sums]], "r2")] == [known, known]


def test_a_score_that_is_not_known_has_no_interval():
    truth, trial, predicted = make_recording(0)
    truth[:, 0] = 5
    cells = [sums_of(truth, trial, predicted)]

    assert math.isnan(mean_score(cells, "r2"))
    assert all(math.isnan(one) for one in bootstrap(cells, "r2"))
    assert all(math.isfinite(one) for one in bootstrap(cells, "r2_weighted"))


@pytest.mark.parametrize(
    ("cells", "together", "match"),
    [
        ([], False, "needs a recording"),
        ([sums_of(*make_recording(0)), []], False, r"\[3, 0\] seeds"),
        (
            [[sums_of(*make_recording(0))[0], sums_of(*make_recording(1))[0]]],
            False,
            "Recording 0 of the list",
        ),
        ([sums_of(*make_recording(0, n_seeds=n)) for n in (1, 2)], True, r"\[1, 2\] of them"),
    ],
)
def test_what_cannot_be_drawn_together_is_refused(cells, together, match):
    with pytest.raises(SuiteError, match=match):
        bootstrap(cells, "r2", together=together)


@pytest.mark.parametrize("change", ["truth", "trial", "fewer recordings", "kind"])
def test_entrants_that_were_not_scored_on_the_same_are_not_compared(change):
    truth, trial, predicted = make_recording(0)
    mine, every = [sums_of(truth, trial, predicted)] * 2, np.ones(len(trial), bool)
    theirs = {
        "truth": [sums_of(truth + 1e-9, trial, predicted)] * 2,
        "trial": [sums_of(truth, trial + 1, predicted)] * 2,
        "fewer recordings": mine[:1],
        "kind": [[rate_sums(truth, truth, every, trial)]] * 2,
    }[change]

    with pytest.raises(SuiteError, match=r"scored on the same|compared on the same"):
        paired_bootstrap(mine, theirs, "r2")


# ------------------------------------------------------------------ a truth that is known


def simulate(rng, n_trials=60, n_samples=15, offsets=(0.0,)):
    """Return the sums of trials whose errors are of one sign within a trial, one set per seed.

    Truth has variance 1. Errors are 0.4 e + 0.3 n with e of the trial and n of the sample, both of
    variance 1, and an offset of the seed.
    """
    shape = (n_trials, n_samples, 1)
    truth = rng.normal(size=shape)
    error = 0.4 * rng.normal(size=(n_trials, 1, 1)) + 0.3 * rng.normal(size=shape)
    trial = np.repeat(np.arange(n_trials), n_samples)
    every = np.ones(len(trial), bool)
    flat = truth.reshape(-1, 1)
    guesses = [flat + error.reshape(-1, 1) + one for one in offsets]
    return [
        [behaviour_sums(flat, one, every, by) for one in guesses]
        for by in (trial, np.arange(len(trial)))
    ]


def test_95_percent_intervals_hold_the_truth_in_about_95_percent_of_experiments():
    """R² of the population is 1 - 0.4² - 0.3². Drawing samples, not trials, holds it too rarely."""
    truth, held, n = 1 - 0.4**2 - 0.3**2, np.zeros(2), 150
    for experiment in range(n):
        for row, seeds in enumerate(simulate(np.random.default_rng([1, experiment]))):
            low, high = bootstrap([seeds], "r2", draws=200, seed=experiment)
            held[row] += low <= truth <= high

    assert 0.89 <= held[0] / n <= 0.99
    assert held[1] / n < held[0] / n - 0.08


def test_a_draw_of_few_seeds_has_the_variance_of_their_mean():
    """σ² / S with the unbiased σ²; as many draws as seeds would have (S - 1) / S of it."""
    scores = np.array([0.1, 0.5, 0.9])
    means = scores[draw_seeds(3, 20000, 0, 0, 0)].mean(axis=1)

    assert means.var() == pytest.approx(scores.var(ddof=1) / 3, rel=0.05)
    assert draw_seeds(1, 4, 0, 0, 0).tolist() == [[0]] * 4


def test_intervals_hold_the_truth_also_where_seeds_differ():
    """Offsets of variance 0.1 by seed lower R² by as much."""
    truth, held, n = 1 - 0.4**2 - 0.3**2 - 0.1, 0, 100
    for experiment in range(n):
        rng = np.random.default_rng([2, experiment])
        seeds, _ = simulate(rng, offsets=np.sqrt(0.1) * rng.normal(size=8))
        low, high = bootstrap([seeds], "r2", draws=200, seed=experiment)
        held += low <= truth <= high

    assert 0.86 <= held / n <= 0.99


def test_a_small_lead_on_the_same_trials_is_seen_though_the_intervals_overlap():
    """Hard trials are hard for both: what they have in common is no doubt about the lead."""
    truth, trial, (mine,) = make_recording(0, n_trials=80, n_seeds=1)
    theirs = truth + 1.05 * (mine - truth)
    one, other = ([sums_of(truth, trial, [guess])] for guess in (mine, theirs))
    difference, low, high = paired_bootstrap(one, other, "r2_weighted")

    assert 0 < low < difference < high
    assert bootstrap(one, "r2_weighted")[0] < bootstrap(other, "r2_weighted")[1]
    assert paired_bootstrap(other, one, "r2_weighted")[0] == -difference


def test_a_lead_is_no_lead_where_there_is_none():
    truth, trial, predicted = make_recording(0, n_trials=50, n_seeds=2)
    mine, theirs = ([sums_of(truth, trial, [one])] for one in predicted)
    _, low, high = paired_bootstrap(mine, theirs, "r2_weighted")

    assert low < 0 < high
