from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.errors import IntervalError
from spikedata.intervals import IntervalSet, window_bounds

LENGTH = 40  # cells of 1 ms on which the naive oracle keeps time
CELLS = (np.arange(LENGTH) + 0.5) / 1000  # the middle of each cell


@st.composite
def interval_sets(draw: st.DrawFn) -> IntervalSet:
    """Rows on a millisecond grid: overlapping, nested, touching and duplicate ones included."""
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, LENGTH - 1), st.integers(1, 12)).map(
                lambda row: (row[0], min(row[0] + row[1], LENGTH))
            ),
            max_size=8,
        )
    )
    rows += draw(st.lists(st.sampled_from(rows), max_size=2)) if rows else []
    table = np.array(rows, float).reshape(-1, 2) / 1000
    return IntervalSet.sorted(table[:, 0], table[:, 1])


def mask_of(intervals: IntervalSet) -> np.ndarray:
    """Return, cell by cell and row by row, which milliseconds are covered."""
    mask = np.zeros(LENGTH, bool)
    for start, end in intervals:
        mask |= (start < CELLS) & (end > CELLS)
    return mask


def assert_disjoint(intervals: IntervalSet) -> None:
    """Assert that the result of an operation has gaps between its rows and no columns."""
    assert np.all(intervals.start[1:] > intervals.end[:-1])
    assert intervals.columns == {}


# ------------------------------------------------------------------ the algebra


@given(interval_sets(), interval_sets())
def test_the_algebra_agrees_with_boolean_operations_on_a_grid(one, other):
    for expected, actual in (
        (mask_of(one) | mask_of(other), one.union(other)),
        (mask_of(one) & mask_of(other), one.intersection(other)),
        (mask_of(one) & ~mask_of(other), one.difference(other)),
        (mask_of(one), one.coalesce()),
    ):
        assert_disjoint(actual)
        np.testing.assert_array_equal(expected, mask_of(actual))
        bounds = np.concatenate([one.start, one.end, other.start, other.end])
        assert np.isin([actual.start, actual.end], bounds).all()  # exact: nothing is rounded


@given(interval_sets(), interval_sets())
def test_equal_time_gives_equal_sets_whichever_way_it_is_computed(one, other):
    assert one.union(other) == other.union(one)
    assert one.intersection(other) == one.difference(one.difference(other))
    assert one.difference(other).union(one.intersection(other)) == one.coalesce()


@given(interval_sets(), st.integers(0, 6))
def test_coalesce_joins_gaps_up_to_and_including_the_given_one(intervals, gap):
    mask = mask_of(intervals)
    covered = np.flatnonzero(mask)
    for left, right in itertools.pairwise(covered):
        if right - left - 1 <= gap:
            mask[left:right] = True

    joined = intervals.coalesce(gap / 1000 + 1e-9)

    assert_disjoint(joined)
    np.testing.assert_array_equal(mask, mask_of(joined))


@given(interval_sets(), st.integers(0, 5), st.integers(0, 5))
def test_dilate_covers_what_lies_near_an_interval(intervals, before, after):
    mask = np.zeros(LENGTH, bool)
    for start, end in intervals:
        first, last = round(start * 1000) - before, round(end * 1000) + after
        mask[max(first, 0) : max(last, 0)] = True

    dilated = intervals.dilate(before / 1000, after / 1000)

    np.testing.assert_array_equal(mask, mask_of(dilated))


@given(interval_sets(), st.integers(1, 5))
def test_a_negative_dilation_shrinks_every_interval_and_drops_what_vanishes(intervals, by):
    mask = np.zeros(LENGTH, bool)
    for start, end in intervals:
        mask[round(start * 1000) + by : max(round(end * 1000) - by, 0)] = True

    np.testing.assert_array_equal(mask, mask_of(intervals.dilate(-by / 1000)))


@given(interval_sets())
def test_contains_is_half_open(intervals):
    edges = np.arange(LENGTH + 1) / 1000
    expected = np.zeros(LENGTH + 1, bool)
    for start, end in intervals:
        expected |= (start <= edges) & (edges < end)

    np.testing.assert_array_equal(expected, intervals.contains(edges))
    np.testing.assert_array_equal(mask_of(intervals), intervals.contains(CELLS))


@given(interval_sets())
def test_duration_counts_shared_time_once(intervals):
    assert intervals.duration == pytest.approx(mask_of(intervals).sum() / 1000, abs=1e-12)


@given(interval_sets())
def test_is_disjoint_means_that_no_millisecond_is_in_two_rows(intervals):
    counted = sum((mask_of(intervals.where(np.array([row]))).astype(int)
                   for row in range(len(intervals))), np.zeros(LENGTH, int))  # fmt: skip

    assert intervals.is_disjoint == bool(np.all(counted <= 1))


def test_touching_intervals_are_one_after_coalescing_and_share_no_time():
    touching = IntervalSet(np.array([0.0, 1.0]), np.array([1.0, 2.0]))

    assert touching.is_disjoint
    assert touching.coalesce() == IntervalSet.single(0.0, 2.0)
    assert len(touching.where(np.array([0])).intersection(touching.where(np.array([1])))) == 0


def test_contains_keeps_the_shape_of_its_argument():
    times = np.array([[0.0, 0.5], [1.0, 2.0]])

    assert IntervalSet.single(0, 1).contains(times).tolist() == [[True, True], [False, False]]
    assert not IntervalSet.empty().contains(0.5)
    assert IntervalSet.empty().contains(times).shape == (2, 2)


def test_the_empty_set_is_neutral():
    empty, some = IntervalSet.empty(), IntervalSet.single(1, 2)

    assert (empty.duration, len(empty), list(empty)) == (0.0, 0, [])
    assert empty.union(some) == some
    assert some.difference(empty) == some
    assert empty.difference(some) == some.intersection(empty) == empty.coalesce() == empty
    assert empty.dilate(1.0) == empty


# ------------------------------------------------------------------ rows and columns


@given(interval_sets(), st.randoms(use_true_random=False))
def test_sorted_keeps_each_column_value_with_its_row(intervals, random):
    order = list(range(len(intervals)))
    random.shuffle(order)
    start, end = intervals.start[order], intervals.end[order]
    named = np.array([f"{a}-{b}" for a, b in zip(start, end, strict=True)], str)

    again = IntervalSet.sorted(start, end, {"name": named})

    assert (again.start.tolist(), again.end.tolist()) == (
        intervals.start.tolist(), intervals.end.tolist(),
    )  # fmt: skip
    assert again.columns["name"].tolist() == [f"{a}-{b}" for a, b in again]


def test_where_takes_a_mask_or_row_numbers_and_keeps_the_columns():
    table = IntervalSet(
        np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0, 6.0]), {"side": np.array(["l", "r", "l"])}
    )
    expected = IntervalSet(
        np.array([0.0, 5.0]), np.array([2.0, 6.0]), {"side": np.array(["l", "l"])}
    )

    assert table.where(np.array([True, False, True])) == expected
    assert table.where(np.array([0, 2])) == expected
    assert table.where(table.columns["side"] == "l") != table


def test_a_pickled_set_is_equal():
    table = IntervalSet(np.array([0.0]), np.array([2.0]), {"side": np.array(["l"])})

    assert pickle.loads(pickle.dumps(table)) == table


def test_sets_with_other_columns_or_values_differ():
    plain = IntervalSet.single(0, 1)
    one, two = (IntervalSet(plain.start, plain.end, {"x": np.array([x])}) for x in (1, 2))

    assert plain != one
    assert one != two
    assert plain != "interval"


def test_the_repr_shows_the_duration_the_first_rows_and_the_columns():
    five = IntervalSet(np.arange(5.0), np.arange(5.0) + 0.5, {"n": np.arange(5)})

    assert repr(five) == (
        "IntervalSet(5 intervals, 2.500 s: [0.000, 0.500), [1.000, 1.500), [2.000, 2.500), "
        "… 2 more; columns n)"
    )


@pytest.mark.parametrize(
    ("start", "end", "columns", "message"),
    [
        ([0, 1], [1], {}, "2 starts but 1 ends"),
        ([0, 2], [1, 2], {}, r"Interval 1 is \[2.0, 2.0\).*\(1 such rows\)"),
        ([0, 3], [1, 2], {}, "the end after the start"),
        ([0, np.nan], [1, 2], {}, "both bounds must be finite"),
        ([0], [np.inf], {}, "both bounds must be finite"),
        ([1, 0], [2, 3], {}, r"Interval 1 starts at 0.0 s, before the one above.*sorted\(\)"),
        ([0], [1], {"x": np.arange(2)}, "Column 'x' has 2 values for 1 intervals"),
    ],
)
def test_a_malformed_set_is_refused_with_the_row(start, end, columns, message):
    with pytest.raises(IntervalError, match=message):
        IntervalSet(np.array(start, float), np.array(end, float), columns)


# ------------------------------------------------------------------ windows of sorted times


@given(
    st.lists(st.integers(0, 30), max_size=20),
    st.lists(st.tuples(st.integers(-2, 32), st.integers(-2, 32)), min_size=1, max_size=5),
)
def test_window_bounds_select_what_a_mask_selects(ticks, windows):
    time = np.sort(np.array(ticks, float)) / 10
    start, end = (np.array([sorted(window)[at] for window in windows]) / 10 for at in (0, 1))

    lo, hi = window_bounds(time, start, end)

    for row in range(len(windows)):
        mask = (time >= start[row]) & (time < end[row])
        np.testing.assert_array_equal(time[mask], time[lo[row] : hi[row]])


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(0, 10), st.integers(10, 30))
def test_adjacent_windows_share_no_spike_and_miss_none(ticks, middle, end):
    time = np.sort(np.array(ticks, float))
    (a, b), (c, d), (lo, hi) = (
        window_bounds(time, *pair) for pair in ((0, middle), (middle, end), (0, end))
    )

    assert (lo, hi) == (a, d)
    assert b == c


@given(interval_sets(), interval_sets())
def test_cutting_leaves_each_row_what_the_other_set_does_not_cover(rows, other):
    numbered = IntervalSet(rows.start, rows.end, {"row": np.arange(len(rows))})

    left = numbered.cut(other)

    for row, (start, end) in enumerate(rows):
        mine = left.where(left.columns["row"] == row)
        expected = mask_of(IntervalSet.single(start, end)) & ~mask_of(other)
        assert np.array_equal(mask_of(mine), expected)
        runs = int(np.count_nonzero(np.diff(np.append(0, expected.astype(int))) == 1))
        assert len(mine) == runs


def test_rows_that_touch_stay_apart_when_they_are_cut():
    rows = IntervalSet(np.array([0.0, 1.0]), np.array([1.0, 2.0]))

    assert list(rows.cut(IntervalSet.single(1.5, 1.6))) == [(0, 1), (1, 1.5), (1.6, 2)]
    assert list(rows.cut(IntervalSet.empty())) == [(0, 1), (1, 2)]
