"""Bins, windows of them, and what is learned from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.intervals import IntervalSet
from spikedata_model.baselines import lagged_counts
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.entrants import binned
from spikedata_model.leaderboard.entrants.binned import Lags, Recent, Timing, windows
from spikedata_model.leaderboard.entrants.labelled import (
    hold,
    label,
    learning_from,
    score,
    timing_for,
)
from spikedata_model.leaderboard.protocol import Segment
from tests.spikedata_model.leaderboard.sessions import make_segments, make_session, rules

SPIKES = st.lists(st.tuples(st.integers(0, 159), st.integers(0, 3)), max_size=40)


def segment_of(spikes: list[tuple[int, int]], time: np.ndarray) -> Segment:
    """Return a segment from 0 to 10 s with spikes at multiples of 1/16 s."""
    spikes = sorted(spikes)
    when = np.array([one for one, _ in spikes]) / 16
    unit = np.array([one for _, one in spikes], np.int32)
    return Segment("a/b", 0.0, 10.0, when, unit, time)


@given(
    spikes=SPIKES,
    at=st.lists(st.integers(-5, 170), min_size=1, max_size=12),
    width=st.integers(1, 4),
    before=st.integers(1, 5),
    after=st.integers(0, 5),
    entries=st.sampled_from([1, 30, 400, 1 << 20]),
)
def test_windows_are_the_lagged_counts_of_samples_on_the_grid(
    spikes, at, width, before, after, entries
):
    """However little memory they may take."""
    at = np.sort(np.array(at))
    one, timing = segment_of(spikes, np.empty(0)), Timing(1 / 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binned, "CHUNK_ENTRIES", entries)
        found = list(windows(one, timing, 0.0, at, Lags(width, before, after), 4))

    size = width / 16
    naive = lagged_counts(
        one.spike_time, one.spike_unit, 4, at / 16,
        n_bins=before + after, before=before * size, after=after * size,
    )  # fmt: skip
    assert np.array_equal(np.concatenate(found), naive)


@given(
    start=st.floats(0, 1e5),
    step=st.sampled_from([0.005, 0.01, 0.02, 1 / 60, 0.05]),
    count=st.integers(1, 400),
)
def test_a_spike_at_an_edge_is_not_before_it_and_a_spike_a_millisecond_earlier_is(
    start, step, count
):
    """Edges are sums of binary fractions that are not exact; spikes are often rounded to 1 ms."""
    time = start + np.arange(0, count * step, step / 4)
    one = Segment("a/b", start, start + count * step + 1, np.empty(0), np.empty(0, int), time)
    edges, _ = one.estimates(step)
    points = Timing(step, step).points(replace(one, time=time))
    unit = np.zeros(2, np.int32)
    pair = replace(one, spike_time=np.array([edges[-1] - 0.001, edges[-1]]), spike_unit=unit)
    (counts,) = windows(pair, Timing(step, step), points.anchor, points.at[-1:], Lags(1, 1), 1)

    assert len(points.at) == len(edges)
    assert counts.tolist() == [[1.0]]


@given(
    spikes=SPIKES,
    steps=st.lists(st.integers(0, 6), min_size=1, max_size=30),
    length=st.integers(1, 9),
)
def test_counts_that_come_in_by_steps_are_those_of_the_whole_segment(spikes, steps, length):
    ends = np.cumsum(steps) / 16
    one, timing = segment_of(spikes, ends), Timing(1 / 16, 1 / 16)
    recent = Recent(timing, length, 4)
    latest = 0.0
    for end in ends:
        now = (one.spike_time >= latest) & (one.spike_time < end)
        at = recent.take(one.spike_time[now], one.spike_unit[now], end)
        counts = recent.move_to(at).copy()
        latest = end
        expected = windows(one, timing, ends[0], np.array([at]), Lags(1, length), 4)

        assert np.array_equal(counts.reshape(1, -1), next(expected))


@given(times=st.lists(st.floats(0, 9.99), min_size=1, max_size=30))
def test_what_is_linear_in_time_is_read_off_the_grid_at_any_time(times):
    time = np.sort(np.array(times))
    points = Timing(0.07).points(segment_of([], time))
    found = points.samples(np.stack([points.anchor + points.at * 0.07], axis=1) * 3)

    assert np.allclose(found[:, 0], 3 * time, atol=1e-5)


def test_of_many_units_the_bins_are_fewer_and_wider_and_reach_as_far():
    timing = Timing(0.01)

    assert Lags.reaching(timing, 0.05, 0.5, 10, 2000) == Lags(5, 10, 10)
    assert Lags.reaching(timing, 0.05, 0.5, 200, 2000) == Lags(10, 5, 5)
    assert Lags.reaching(timing, 0.05, 0.5, 5000, 2000) == Lags(50, 1, 1)
    assert Lags.reaching(Timing(0.01, 0.02), 0.05, 0.5, 200, 2000) == Lags(5, 10)


@pytest.mark.parametrize(
    ("rate", "step", "expected"),
    [(100.0, None, 0.01), (1000.0, None, 0.01), (120.0, None, 1 / 120), (20.0, None, 0.01),
     (1000.0, 0.02, 0.01), (50.0, 0.02, 0.01), (4.0, 0.02, 0.01), (1000.0, 0.002, 0.002)],
)  # fmt: skip
def test_estimates_lie_on_the_grid(rate, step, expected):
    segments = make_segments(duration=4.0, rate=rate)
    given = rules(causal=step is not None, step=step)
    timing = timing_for(learning_from(make_session(segments[:1], segments[1:2]), given))

    assert timing.bin == pytest.approx(expected)


def test_without_a_validation_split_the_last_fifth_of_the_labels_is_held_out():
    train = make_segments(duration=10.0, cuts=(0.3, 0.6))
    learning = learning_from(make_session(train[::-1]), rules())
    early = np.concatenate([one.time for one in learning.train])
    late = np.concatenate([one.time for one in learning.valid])
    whole = np.concatenate([one.time for one in train])

    assert np.array_equal(np.concatenate([early, late]), whole)
    assert len(late) == len(whole) // 5
    for one in (*learning.train, *learning.valid):
        assert ((one.spike_time >= one.start) & (one.spike_time < one.end)).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_labels_are_enough_to_divide(count):
    (whole,) = make_segments(duration=1.0, cuts=())
    few = replace(whole, time=whole.time[:count], values=whole.labels[:count])
    learning = learning_from(make_session((few,)), rules())

    assert all(len(one.time) for one in (*learning.train, *learning.valid))


def test_no_label_and_a_label_that_is_no_number_are_refused():
    (whole,) = make_segments(duration=1.0, cuts=())
    none = replace(whole, time=whole.time[:0], values=whole.labels[:0])
    bad = replace(whole, values=np.where(whole.labels > 8, np.nan, whole.labels))

    with pytest.raises(SuiteError, match="lab/one: there is no sample of 'hand' in the training"):
        learning_from(make_session((none,)), rules())
    with pytest.raises(SuiteError, match=r"lab/one: \d+ labels of 'hand' are no finite numbers"):
        learning_from(make_session((bad,)), rules())


def test_a_label_is_the_mean_of_the_samples_that_get_an_estimate():
    segments = make_segments(duration=4.0, rate=1000.0)
    learning = learning_from(make_session(segments[:1], segments[1:2]), rules(causal=True))
    found = label(learning, learning.train, timing_for(learning), 10**6)
    edges, row = segments[0].estimates(0.02)
    naive = [segments[0].labels[row == one].mean(axis=0) for one in range(len(edges))]

    assert np.allclose(found.values, naive)
    assert found.weight.sum() == len(row)


def test_labels_are_thinned_evenly_over_segments():
    segments = make_segments(duration=20.0, cuts=(0.23, 0.41, 0.8))
    learning = learning_from(make_session(segments[:3], segments[3:]), rules())
    timing = timing_for(learning)
    every = label(learning, learning.train, timing, 10**6)
    found = label(learning, learning.train, timing, 100)

    assert np.array_equal(found.values, every.values[:: -(-len(every.values) // 100)])


def test_settings_are_chosen_by_the_r2_of_scored_samples():
    segments = make_segments(duration=20.0, rate=130.0)
    middle = segments[1].start + 1.0
    phases = {"reach": IntervalSet.single(segments[1].start, middle)}
    session = make_session(segments[:1], segments[1:2], phases=phases, evaluate_on="reach")
    learning = learning_from(session, rules())
    timing = timing_for(learning)
    held = hold(learning, timing, 10**6)
    count = sum(len(one.at) for one in held.points)
    estimates = np.random.default_rng(0).normal(7, 3, (count, 2))
    rows = segments[1].time < middle
    truth = segments[1].labels[rows]
    points = timing.points(segments[1])
    found = points.samples(estimates)[rows]
    naive = np.mean(1 - ((truth - found) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0))

    assert score(learning, held, estimates) == pytest.approx(naive)
