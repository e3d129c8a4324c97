"""The interval algebra against that of pynapple and torch_brain, and where these lose an event.

On generic bounds all three agree. At bounds they do not: pynapple closes both ends and takes 1 µs
off intervals that touch; torch_brain ends the domain of a series at its last event. Each of the
tests of the second kind states what is lost there, and that nothing is here: should one fail after
an upgrade, the other library has changed for the better.
"""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.intervals import IntervalSet, window_bounds
from spikedata.recording import Series

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pynapple as nap
    from torch_brain.data import Interval, IrregularTimeSeries


@st.composite
def generic_pairs(draw: st.DrawFn) -> tuple[IntervalSet, IntervalSet]:
    """Two disjoint sets of rows that share no bound with each other or among themselves."""
    ticks = draw(st.lists(st.integers(0, 400), unique=True, max_size=24).map(sorted))
    first = draw(st.lists(st.booleans(), min_size=len(ticks), max_size=len(ticks)))
    sets = []
    for chosen in (True, False):
        bounds = [tick / 8 for tick, mine in zip(ticks, first, strict=True) if mine == chosen]
        sets.append(IntervalSet(*np.array(bounds[: len(bounds) // 2 * 2]).reshape(-1, 2).T))
    return sets[0], sets[1]


@st.composite
def touching_sets(draw: st.DrawFn) -> IntervalSet:
    """Disjoint rows on a grid of 1/8 s, which may touch."""
    bounds = draw(st.lists(st.integers(0, 40), unique=True, max_size=12).map(sorted))
    rows = [pair for pair in itertools.pairwise(bounds) if draw(st.booleans())]
    return IntervalSet(*(np.array(rows, float).reshape(-1, 2).T / 8))


# ------------------------------------------------------------------ pynapple


@pytest.fixture(name="_quiet")
def _no_warnings_of_pynapple():
    """Let pynapple warn of what it repairs: the claims below are about the repairs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def to_pynapple(intervals: IntervalSet) -> nap.IntervalSet:
    return nap.IntervalSet(intervals.start, intervals.end)


def rows_of(intervals: nap.IntervalSet | Interval) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in zip(intervals.start, intervals.end, strict=True)]


@given(generic_pairs())
def test_pynapple_agrees_where_no_bound_is_shared(pair):
    one, other = pair
    mine, theirs = to_pynapple(one), to_pynapple(other)
    time = (np.arange(-4, 808) + 0.5) / 16  # never a bound

    assert rows_of(mine.union(theirs)) == list(one | other)
    assert rows_of(mine.intersect(theirs)) == list(one & other)
    assert rows_of(mine.set_diff(theirs)) == list(one - other)
    if len(one):
        assert mine.tot_length() == one.duration
        assert nap.Ts(time).restrict(mine).t.tolist() == time[one.contains(time)].tolist()
        row = mine.in_interval(nap.Ts(time))
        assert np.where(np.isnan(row), -1, row).tolist() == one.row_at(time).tolist()


@given(generic_pairs(), st.integers(0, 40))
def test_pynapple_joins_the_same_gaps(pair, gap):
    one = pair[0]
    if len(one):
        assert rows_of(to_pynapple(one).merge_close_intervals(gap / 16)) == list(
            one.coalesce(gap / 16)
        )


@pytest.mark.usefixtures("_quiet")
def test_pynapple_counts_an_event_at_a_shared_bound_twice():
    """Its ends are closed: windows side by side both hold the spike between them."""
    time, rows = np.array([0.5, 1.0, 1.5]), [(0.0, 1.0), (1.0, 2.0)]

    theirs = [nap.Ts(time).restrict(nap.IntervalSet(*row)).t.tolist() for row in rows]
    ours = [time[IntervalSet.single(*row).contains(time)].tolist() for row in rows]

    assert theirs == [[0.5, 1.0], [1.0, 1.5]]
    assert ours == [[0.5], [1.0, 1.5]]


@pytest.mark.usefixtures("_quiet")
def test_pynapple_loses_an_event_in_the_last_microsecond_before_a_touching_interval():
    time, bounds = np.array([0.25, 1 - 5e-7, 1.25]), (np.array([0.0, 1.0]), np.array([1.0, 2.0]))

    assert nap.Ts(time).restrict(nap.IntervalSet(*bounds)).t.tolist() == [0.25, 1.25]
    assert IntervalSet(*bounds).contains(time).all()


@pytest.mark.usefixtures("_quiet")
def test_pynapple_opens_holes_where_a_difference_is_put_back():
    time = np.array([1 - 5e-7])
    whole, part = nap.IntervalSet(0, 2), nap.IntervalSet(1, 2)
    restored = whole.set_diff(part).union(part)
    ours, mine = IntervalSet.single(0, 2), IntervalSet.single(1, 2)

    assert rows_of(restored) == [(0.0, 1 - 1e-6), (1.0, 2.0)]
    assert len(nap.Ts(time).restrict(whole)) == 1
    assert len(nap.Ts(time).restrict(restored)) == 0
    assert (ours - mine) | mine == ours


@pytest.mark.usefixtures("_quiet")
def test_pynapple_turns_an_interval_of_less_than_a_microsecond_around():
    bounds = np.array([0.0, 1e-7]), np.array([1e-7, 1.0])

    assert rows_of(nap.IntervalSet(*bounds))[0] == (0.0, 1e-7 - 1e-6)  # ends before it starts
    assert list(IntervalSet(*bounds)) == [(0.0, 1e-7), (1e-7, 1.0)]


@pytest.mark.usefixtures("_quiet")
def test_pynapple_loses_what_lies_between_and_after_the_pieces_of_a_split():
    time = np.array([0.1, 0.3 - 5e-7, 0.5, 0.95])

    pieces = nap.IntervalSet(0, 1).split(0.3)
    tiles = IntervalSet.single(0, 1).tile(0.3)

    assert nap.Ts(time).restrict(pieces).t.tolist() == [0.1, 0.5]
    assert tiles.row_at(time).tolist() == [0, 0, 1, 3]
    assert len(nap.IntervalSet(0, 1).split(1.0)) == 0  # a row of just the length has no piece
    assert list(IntervalSet.single(0, 1).tile(1.0)) == [(0.0, 1.0)]


@pytest.mark.usefixtures("_quiet")
def test_pynapple_joins_rows_that_overlap_and_drops_their_columns():
    start, end, side = np.array([0.0, 1.0]), np.array([2.0, 3.0]), np.array(["l", "r"])

    theirs = nap.IntervalSet(start, end, metadata={"side": side})
    ours = IntervalSet(start, end, {"side": side}).within(IntervalSet.single(0.5, 2.5))

    assert (rows_of(theirs), list(theirs.metadata_columns)) == ([(0.0, 3.0)], [])
    assert list(ours) == [(0.5, 2.0), (1.0, 2.5)]
    assert ours.columns["side"].tolist() == ["l", "r"]


# ------------------------------------------------------------------ torch_brain


def to_torch_brain(intervals: IntervalSet) -> Interval:
    return Interval(intervals.start.copy(), intervals.end.copy())


def covered(intervals: Interval) -> IntervalSet:
    return IntervalSet(intervals.start, intervals.end).coalesce()


@given(touching_sets(), touching_sets())
def test_torch_brain_covers_the_same_time(one, other):
    """Half-open too; its intersection and difference keep rows that touch apart."""
    mine, theirs = to_torch_brain(one), to_torch_brain(other)

    assert covered(mine | theirs) == one | other
    assert covered(mine & theirs) == one & other
    assert covered(mine.difference(theirs)) == one - other


@given(touching_sets(), st.integers(0, 10))
def test_torch_brain_dilates_to_the_same_time_and_selects_the_same_rows(one, sixteenth):
    theirs = to_torch_brain(one)

    assert covered(theirs.dilate(sixteenth / 16)) == one.dilate(sixteenth / 16)
    for start, end in ((0.0, 1.0), (0.5, 2.5)):
        found = theirs.slice(start, end, reset_origin=False)
        assert rows_of(found) == list(one.where(one.overlaps(IntervalSet.single(start, end))))


@given(touching_sets(), st.integers(1, 10), st.booleans())
def test_torch_brain_makes_the_same_tiles_where_nothing_rounds(one, eighth, drop_short):
    assert rows_of(to_torch_brain(one).subdivide(eighth / 8, drop_short)) == list(
        one.tile(eighth / 8, drop_short)
    )


@given(touching_sets(), st.lists(st.integers(0, 41), max_size=12, unique=True).map(sorted))
def test_torch_brain_selects_the_same_events_at_every_bound(one, ticks):
    time = np.array(ticks, float) / 8
    events = IrregularTimeSeries(timestamps=time.copy(), domain=Interval(-1.0, 6.0))

    found = events.select_by_interval(to_torch_brain(one)).timestamps

    assert found.tolist() == time[one.contains(time)].tolist()


@pytest.mark.parametrize("how", ["slice", "select_by_interval"])
def test_torch_brain_loses_the_last_event_of_its_automatic_domain(how):
    """The domain ends at the last event, and the end of an interval is not in it."""
    time = np.array([0.0, 1.0, 2.0])
    events = IrregularTimeSeries(timestamps=time.copy(), domain="auto")
    domain = events.domain
    found = (
        events.slice(domain.start[0], domain.end[0])
        if how == "slice"
        else events.select_by_interval(domain)
    )
    ours = Series(np.zeros((3, 1)), "m", ("x",), time=time).coverage(max_gap=1.5)

    assert found.timestamps.tolist() == [0.0, 1.0]
    assert ours.contains(time).all()


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True).map(sorted))
def test_the_last_sample_lies_in_what_a_series_covers(ticks):
    time = np.array(ticks) / 1000
    series = Series(np.zeros((len(time), 1)), "m", ("x",), time=time)

    covered = series.coverage(max_gap=5.0)
    lo, hi = window_bounds(time, covered.start, covered.end)

    assert covered.contains(time).all()
    assert int((hi - lo).sum()) == len(time)


def test_torch_brain_drops_a_whole_tile_over_a_rounding_error():
    """Three times 0.1 s is 0.30000000000000004 s, which it takes to be beyond 0.3 s."""
    time = np.array([0.05, 0.15, 0.25])

    theirs = Interval(0.0, 0.3).subdivide(0.1, drop_short=True)
    ours = IntervalSet.single(0.0, 0.3).tile(0.1, drop_short=True)

    assert rows_of(theirs) == [(0.0, 0.1), (0.1, 0.2)]
    assert ours.row_at(time).tolist() == [0, 1, 2]
    assert ours.end[-1] == 0.3


def test_torch_brain_covers_time_by_default_that_no_interval_covers():
    """Its `coalesce` joins gaps below 1 µs unless told otherwise."""
    bounds = np.array([0.0, 1 + 5e-7]), np.array([1.0, 2.0])

    assert rows_of(Interval(*bounds).coalesce()) == [(0.0, 2.0)]
    assert not IntervalSet(*bounds).coalesce().contains(1 + 2e-7)
    assert len(IntervalSet(*bounds).coalesce(1e-6)) == 1


def test_torch_brain_turns_intervals_around_that_shrink_away():
    bounds = np.array([0.0, 2.0]), np.array([1.0, 5.0])

    assert rows_of(Interval(*bounds).dilate(-0.75)) == [(0.75, 0.25), (2.75, 4.25)]
    assert list(IntervalSet(*bounds).dilate(-0.75)) == [(2.75, 4.25)]


def test_torch_brain_refuses_rows_that_overlap():
    bounds = np.array([0.0, 1.0]), np.array([4.0, 2.0])

    with pytest.raises(ValueError, match="disjoint"):
        Interval(*bounds).coalesce()
    with pytest.raises(ValueError, match="disjoint"):
        Interval(*bounds) | Interval(0.0, 1.0)
    assert list(IntervalSet(*bounds) | IntervalSet.single(0.0, 1.0)) == [(0.0, 4.0)]
