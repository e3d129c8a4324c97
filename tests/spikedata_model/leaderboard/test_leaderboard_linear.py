"""Wiener filters and ridge regression."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.intervals import IntervalSet
from spikedata_model.leaderboard.entrants.binned import Lags, Timing, windows
from spikedata_model.leaderboard.entrants.labelled import Labelled, label, learning_from, timing_for
from spikedata_model.leaderboard.entrants.linear import Features, climb, solve, sums
from spikedata_model.leaderboard.entrants.ridge import Ridge
from spikedata_model.leaderboard.entrants.wiener import Wiener
from tests.spikedata_model.leaderboard.sessions import (
    NAME,
    hidden,
    make_segments,
    make_session,
    r2,
    rules,
)


def problem() -> tuple[Timing, Labelled]:
    """Return a grid, and the labelled points of a training split."""
    segments = make_segments(units=6, duration=20.0)
    learning = learning_from(make_session(segments[:1], segments[1:2], units=6), rules())
    timing = timing_for(learning)
    points = label(learning, learning.train, timing, 10**6)
    return timing, points


@pytest.mark.parametrize("penalty", [1e-6, 1e-2, 10.0])
@pytest.mark.parametrize("root", [False, True])
def test_the_weights_are_those_of_scikit_learn(penalty, root):
    """Of samples that count unequally, too."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    timing, points = problem()
    features = Features(Lags(10, 3, 2), 6, root=root)
    weight = np.random.default_rng(0).uniform(0, 2, len(points.values))
    counts = np.concatenate(list(points.windows(timing, features.lags, 6)))
    x = features.of(counts)
    weights, offset = solve(
        sums(points.windows(timing, features.lags, 6), points, weight, features), penalty
    )

    spread = weight @ (x - weight @ x / weight.sum()) ** 2
    other = linear_model.Ridge(alpha=penalty * spread.mean())
    other.fit(x, points.values, sample_weight=weight)
    assert np.allclose(weights, other.coef_.T, rtol=1e-5, atol=1e-6)
    assert np.allclose(offset, other.intercept_, rtol=1e-5, atol=1e-6)


def test_a_unit_without_a_spike_has_no_weight():
    timing, points = problem()
    features = Features(Lags(10, 2, 0), 8)
    moments = sums(
        points.windows(timing, features.lags, 8), points, points.weight, features
    )  # fmt: skip
    weights, _ = solve(moments, 1e-6)

    silent = np.tile(np.arange(8) >= 6, 2)
    assert (weights[silent] == 0).all()
    assert (weights[~silent] != 0).all()


@given(
    scores=st.lists(st.integers(0, 1000), min_size=1, max_size=20, unique=True),
    top=st.integers(0, 19),
)
def test_climbing_finds_the_best_where_there_is_one_top(scores, top):
    top = min(top, len(scores) - 1)
    scores = sorted(scores)
    row = [*scores[:top], 2000, *scores[top:][::-1][: len(scores) - top - 1]]
    found = climb(lambda at: (float(row[at]), None), len(row))

    assert max(found, key=lambda at: found[at][0]) == int(np.argmax(row))


@pytest.mark.parametrize("entrant", [Wiener, Ridge])
@pytest.mark.parametrize("causal", [False, True])
def test_a_linear_map_of_counts_is_recovered(entrant, causal):
    """The values are a map of the very features, so that nothing is left to be explained."""
    segments = make_segments(units=4, duration=60.0)
    lags = Lags(10, 5, 0 if causal else 5)
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(lags.bins * 4, 2))
    given = rules(causal=causal)
    timing = timing_for(learning_from(make_session(segments[:1], segments[1:2], units=4), given))
    mapped = []
    for one in segments:
        points = timing.points(one)
        (counts,) = windows(one, timing, points.anchor, points.at, lags, 4)
        mapped.append(replace(one, values=points.samples(counts @ weights) + np.array([5, -300])))
    decoder = entrant()
    decoder.fit([make_session((mapped[0],), (mapped[1],), units=4)], given)

    assert r2(mapped[2].labels, decoder.predict(hidden(mapped[2]))) > 0.98


def test_time_that_is_not_scored_counts_less_where_that_is_better():
    """Outside the reach the target has nothing to do with the spikes."""
    segments = make_segments(units=6, duration=60.0)
    start, end = segments[0].start, segments[2].end
    edges = np.arange(start, end, 2.0)
    reach = IntervalSet(edges, edges + 1.0)
    rng = np.random.default_rng(0)
    noisy = []
    for one in segments:
        inside = reach.contains(one.time)[:, None]
        noise = rng.normal(size=one.labels.shape).cumsum(axis=0)
        noisy.append(replace(one, values=np.where(inside, one.labels, 10 * noise)))
    session = make_session(
        (noisy[0],), (noisy[1],), units=6, phases={"reach": reach}, evaluate_on="reach"
    )
    decoder = Ridge()
    decoder.fit([session], rules())
    rows = reach.contains(noisy[2].time)
    scored = r2(noisy[2].labels[rows], decoder.predict(hidden(noisy[2]))[rows])

    assert decoder.about()[NAME]["weight_of_unscored_time"] < 1
    assert scored > 0.4
