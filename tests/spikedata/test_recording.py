from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.errors import IntervalError
from spikedata.intervals import IntervalSet
from spikedata.recording import SPLITS, Series
from tests.conftest import build_recording

STARTS = st.one_of(
    st.sampled_from([0.0, 0.1, -3.7, 1 / 3, 1e-9, 1e5 + 0.3, 1_700_000_000.123]),
    st.floats(-1e6, 1e6),
)
RATES = st.one_of(
    st.sampled_from([1.0, 3.0, 7.0, 10.0, 60.0, 100.0, 250.0, 1000 / 3, 30_000.0, 1 / 60]),
    st.floats(1e-3, 1e5),
)


def grid(count: int, start: float, rate: float) -> Series:
    return Series(np.zeros((count, 1), np.float32), "m", ("x",), start=start, rate=rate)


def timed(time: list[float] | np.ndarray) -> Series:
    time = np.asarray(time, float)
    return Series(np.zeros((len(time), 1), np.float32), "m", ("x",), time=time)


@st.composite
def grids_and_moments(draw: st.DrawFn) -> tuple[Series, np.ndarray]:
    """Return a grid and times at, just before, just after and far from its samples."""
    series = grid(draw(st.integers(0, 200)), draw(STARTS), draw(RATES))
    near = series.times() if len(series) else np.array([series.start])
    moments = np.concatenate(
        [
            near,
            np.nextafter(near, -np.inf),
            np.nextafter(near, np.inf),
            near + 0.5 / series.rate,
            [near[0] - 1e9, near[-1] + 1e9, -np.inf, np.inf],
            draw(st.lists(st.floats(-1e6, 1e6), max_size=5)),
        ]
    )
    return series, np.sort(moments)


# ------------------------------------------------------------------ series


@given(grids_and_moments())
def test_bounds_of_a_grid_are_those_of_a_search_over_its_times(case):
    series, moments = case
    expected = np.searchsorted(series.times(), moments, "left")

    lo, hi = series.bounds(moments[:-1], moments[1:])

    np.testing.assert_array_equal(expected[:-1], lo)
    np.testing.assert_array_equal(expected[1:], hi)
    assert lo.dtype == hi.dtype == np.int64


@given(st.integers(1, 50), STARTS, RATES, st.data())
def test_times_of_some_rows_are_those_rows_of_all_times(count, start, rate, data):
    lo, hi = sorted((data.draw(st.integers(0, count)), data.draw(st.integers(0, count))))
    rows = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=5)), int)
    on_a_grid = grid(count, start, rate)
    for series in (on_a_grid, timed(on_a_grid.times())):
        whole = series.times()

        np.testing.assert_array_equal(whole[lo:hi], series.times(slice(lo, hi)))
        np.testing.assert_array_equal(whole[rows], series.times(rows))
        np.testing.assert_array_equal(whole[::3], series.times(slice(None, None, 3)))


def test_times_of_a_few_rows_do_not_cost_the_whole_series():
    """A window of an hour at 1 kHz must not build 3.6 million indices."""
    series = grid(3_600_000, 0.0, 1000.0)
    tracemalloc.start()
    try:
        time = series.times(slice(10, 13))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert time.tolist() == [0.01, 0.011, 0.012]
    assert peak < 20_000


@given(
    st.lists(st.integers(1, 60), max_size=30),
    st.integers(1, 50).map(lambda n: n + 0.5),
)
def test_coverage_breaks_exactly_at_long_pauses_and_contains_every_sample(pauses, max_gap):
    ticks = np.cumsum([0, *pauses])
    time = ticks / 1000

    coverage = timed(time).coverage(max_gap / 1000)

    assert coverage.contains(time).all()
    assert coverage.is_disjoint
    assert len(coverage) == 1 + sum(pause > max_gap for pause in pauses)
    for start, end in coverage:
        assert start in time
        inside = time[(time >= start) & (time < end)]
        assert np.all(np.diff(inside) <= max_gap / 1000)
    step = np.median(pauses) / 1000 if pauses else max_gap / 1000
    assert coverage.end[-1] == pytest.approx(time[-1] + step)


def test_coverage_of_a_grid_reaches_one_step_past_the_last_sample():
    coverage = grid(100, 2.0, 50.0).coverage(max_gap=1.0)

    assert len(coverage) == 1
    assert (coverage.start[0], coverage.end[0]) == (2.0, pytest.approx(4.0))


def test_coverage_of_no_samples_is_empty_and_of_one_sample_is_one_gap_long():
    assert len(timed([]).coverage(0.1)) == 0
    assert len(grid(0, 0.0, 10.0).coverage(0.1)) == 0
    assert timed([3.0]).coverage(0.1) == IntervalSet.single(3.0, 3.1)


@pytest.mark.parametrize(
    ("shape", "columns", "options", "message"),
    [
        ((3,), ("x",), {"rate": 1.0}, r"shape \(T, 1\), found \(3,\)"),
        ((3, 2), ("x",), {"rate": 1.0}, r"shape \(T, 1\), found \(3, 2\)"),
        ((3, 1), ("x",), {}, "either `time` or `rate`"),
        ((3, 1), ("x",), {"rate": 1.0, "time": np.arange(3.0)}, "either `time` or `rate`"),
        ((3, 1), ("x",), {"rate": 0.0}, "above 0 Hz, found 0.0"),
        ((3, 1), ("x",), {"rate": np.nan}, "above 0 Hz, found nan"),
        ((3, 1), ("x",), {"rate": np.inf}, "above 0 Hz, found inf"),
        ((3, 1), ("x",), {"time": np.arange(4.0)}, r"3 samples has times of shape \(4,\)"),
    ],
)
def test_a_malformed_series_is_refused(shape, columns, options, message):
    with pytest.raises(IntervalError, match=message):
        Series(np.zeros(shape), "m", columns, **options)


# ------------------------------------------------------------------ recordings and splits


def test_units_are_counted_with_the_silent_ones():
    recording = build_recording(n_units=4)

    assert recording.n_units == 4
    assert set(recording.spike_unit) == {0, 1, 2}
    assert recording.unit_ids[3] == "made/s0/u3"


def test_a_split_is_the_rows_of_that_name_without_columns():
    recording = build_recording()

    assert list(recording.split("train")) == [(0.0, 8.0), (10.0, 15.5)]
    assert recording.split("train").columns == {}
    assert [recording.split(name).duration for name in SPLITS] == [13.5, 2.0, 4.5]
    assert recording.split("test", "main") == recording.split("test")


def test_a_split_that_no_row_has_is_empty():
    recording = build_recording(split_rows=((0.0, 5.0, "train"),))

    assert len(recording.split("test")) == 0


@pytest.mark.parametrize(
    ("name", "scheme", "message"),
    [
        ("tests", None, "made/s0: no split is called 'tests'; did you mean 'test'"),
        ("train", "mian", "made/s0: no split scheme is called 'mian'; did you mean 'main'"),
    ],
)
def test_an_unknown_split_or_scheme_is_named_with_its_neighbour(name, scheme, message):
    with pytest.raises(IntervalError, match=message):
        build_recording().split(name, scheme)


def test_a_recording_without_splits_says_how_to_get_some():
    recording = build_recording()
    recording.splits.clear()

    with pytest.raises(IntervalError, match=r"no splits; add \[datasets.harmonize.splits\]"):
        recording.split("train")


# ------------------------------------------------------------------ equality


def test_recordings_are_equal_by_content_and_gaps_are_gaps():
    one, other = build_recording(0), build_recording(0)
    one.series["velocity"].values[3, 0] = other.series["velocity"].values[3, 0] = np.nan

    assert one == other
    assert one == replace(other, fingerprint="0" * 64)  # where it was read is no content
    assert one.series["velocity"] == other.series["velocity"]
    assert one != "made/s0"
    assert one.series["velocity"] != 7


@pytest.mark.parametrize(
    "change",
    [
        lambda one: {"recording_id": "made/s9"},
        lambda one: {"spike_time": one.spike_time + 1e-9},
        lambda one: {"spike_time": one.spike_time[:-1]},
        lambda one: {"units": {**one.units, "unit_id": one.unit_ids[::-1]}},
        lambda one: {"units": {**one.units, "more": one.unit_ids}},
        lambda one: {"domain": IntervalSet.single(0.0, 19.0)},
        lambda one: {"series": {**one.series, "velocity": one.series["position"]}},
        lambda one: {"splits": dict(reversed([*one.splits.items(), ("b", one.domain)]))},
        lambda one: {"targets": ()},
        lambda one: {"about": {**one.about, "task": "another"}},
    ],
)
def test_recordings_that_differ_anywhere_are_not_equal(change):
    one = build_recording(0)
    one = replace(one, splits={**one.splits, "b": IntervalSet.empty()})

    assert one != replace(one, **change(one))


def test_recordings_have_no_hash_as_their_arrays_have_none():
    for one in (build_recording(0), build_recording(0).series["velocity"]):
        with pytest.raises(TypeError, match="unhashable"):
            hash(one)


def test_a_recording_and_a_series_are_shown_in_a_line():
    recording = build_recording()

    assert repr(recording).startswith(f"Recording('made/s0'; {recording.n_units} units; ")
    assert "series: velocity, position; intervals: trials; splits: main" in repr(recording)
    assert repr(timed([0.0, 0.5])) == "Series(2 samples of x in m, explicit times)"
    assert repr(grid(3, 0.0, 50.0)) == "Series(3 samples of x in m, 50 Hz)"
