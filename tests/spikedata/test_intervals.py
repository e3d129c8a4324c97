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


def test_a_column_with_missing_values_equals_itself():
    rows = IntervalSet.single(0, 1)
    lacks = {"number": np.array([np.nan]), "when": np.array(["NaT"], "M8[s]")}

    assert rows.with_columns(lacks) == rows.with_columns(pickle.loads(pickle.dumps(lacks)))
    assert rows.with_columns({"x": np.array([np.nan])}) != rows.with_columns({"x": np.array([0.0])})
    assert rows.with_columns({"x": np.array([np.nan])}) != rows.with_columns({"x": np.array(["a"])})


def test_columns_are_added_and_replaced_and_may_be_lists():
    rows = IntervalSet(np.arange(2.0), np.arange(2.0) + 1, {"side": ["l", "r"]})

    more = rows.with_columns({"side": ["r", "r"], "n": np.arange(2)})

    assert rows.columns["side"].tolist() == ["l", "r"]
    assert more.where(more.columns["n"] == 1).columns["side"].tolist() == ["r"]


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
        ([0, 1, 0, np.nan], [2, 3, 2, 4], {}, r"Interval 3 is \[nan, 4.0\)"),
        ([-np.inf, 0], [2, 3], {}, "both bounds must be finite"),
        ([0], [1], {"x": np.arange(2)}, "Column 'x' has 2 values for 1 intervals"),
        ([0], [1], {"x": np.array(2)}, "Column 'x' has no values for 1 intervals"),
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


# ------------------------------------------------------------------ laws, on exact arithmetic


@st.composite
def eighths(draw: st.DrawFn) -> IntervalSet:
    """Rows on a grid of 1/8 s, on which float64 adds and halves without rounding."""
    rows = draw(interval_sets())
    return IntervalSet(np.round(rows.start * 1000) / 8, np.round(rows.end * 1000) / 8)


WHOLE = (-100.0, 100.0)  # far beyond every row of `eighths`


@given(eighths(), eighths(), eighths())
def test_the_laws_of_sets_hold(a, b, c):
    assert a | a == a & a == a.coalesce()
    assert a - a == IntervalSet.empty()
    assert (a | b) | c == a | (b | c)
    assert (a & b) & c == a & (b & c)
    assert a & (b | c) == (a & b) | (a & c)
    assert a - b == a & b.complement(WHOLE)
    assert (a | b).complement(WHOLE) == a.complement(WHOLE) & b.complement(WHOLE)
    assert (a & b).complement(WHOLE) == a.complement(WHOLE) | b.complement(WHOLE)
    assert a.complement(WHOLE).complement(WHOLE) == a.coalesce()
    assert a.complement(b) == b - a
    assert (a | b).duration + (a & b).duration == a.duration + b.duration


@given(eighths(), st.integers(0, 24))
def test_shrinking_undoes_dilating_but_for_the_gaps_that_it_closed(a, eighth):
    by = eighth / 16
    opened, closed = a.coalesce().dilate(-by).dilate(by), a.dilate(by).dilate(-by)

    assert closed == a.coalesce(2 * by)
    assert len(opened - a) == len(a - closed) == 0
    assert a.dilate(by) == a.complement(WHOLE).dilate(-by).complement(WHOLE) & a.dilate(by)
    assert len(a.complement(WHOLE).dilate(-by) & a.dilate(by)) == 0


@given(eighths(), st.integers(-80, 80))
def test_shifting_moves_every_bound_and_keeps_the_columns(rows, eighth):
    rows = rows.with_columns({"row": np.arange(len(rows))})

    moved = rows.shift(eighth / 8)

    assert [(a - eighth / 8, b - eighth / 8) for a, b in moved] == list(rows)
    assert moved.shift(-eighth / 8) == rows


# ------------------------------------------------------------------ any float, at every bound

FLOATS = st.floats(-1e9, 1e9) | st.sampled_from([0.0, -0.0, 5e-324, 0.1, 0.3, 1.0, 2.0, 1e9])


@st.composite
def any_sets(draw: st.DrawFn) -> IntervalSet:
    """Rows at any bounds, some of them shared or one float apart."""
    pool = draw(st.lists(FLOATS, min_size=2, max_size=6))
    pool += [float(np.nextafter(bound, np.inf)) for bound in pool[:2]]
    rows = draw(st.lists(st.tuples(st.sampled_from(pool), st.sampled_from(pool)), max_size=8))
    table = np.array([row for row in rows if row[0] < row[1]], float).reshape(-1, 2)
    return IntervalSet.sorted(table[:, 0], table[:, 1])


def moments_of(*sets: IntervalSet) -> np.ndarray:
    """Return all bounds, the floats beside them and the middles between them, not sorted."""
    bounds = np.unique(np.concatenate([[0.0], *(one.start for one in sets),
                                       *(one.end for one in sets)]))  # fmt: skip
    return np.concatenate([
        np.nextafter(bounds, np.inf), bounds, np.nextafter(bounds, -np.inf),
        bounds[:-1] + np.diff(bounds) / 2,
    ])  # fmt: skip


def is_in(time: np.ndarray, intervals: IntervalSet) -> np.ndarray:
    """Return, row by row, whether each time is in a half-open interval."""
    return np.array([any(a <= t < b for a, b in intervals) for t in time.tolist()], bool)


@given(any_sets(), any_sets())
def test_the_algebra_is_exact_at_every_bound_of_any_floats(one, other):
    time = moments_of(one, other)
    here, there = is_in(time, one), is_in(time, other)
    for expected, actual in (
        (here | there, one | other),
        (here & there, one & other),
        (here & ~there, one - other),
        (there & ~here, one.complement(other)),
        (here, one.coalesce()),
        (here, one.dilate(0.0)),
    ):
        assert_disjoint(actual)
        np.testing.assert_array_equal(is_in(time, actual), expected)
        for order in (time, np.sort(time)):
            np.testing.assert_array_equal(actual.contains(order), is_in(order, actual))


@given(any_sets(), any_sets(), st.lists(FLOATS, max_size=5))
def test_row_by_row_every_moment_keeps_its_rows(rows, other, at):
    rows = rows.with_columns({"row": np.arange(len(rows))})
    time = moments_of(rows, other)
    there = is_in(time, other)
    everywhere = np.ones(len(time), bool)
    for expected, actual in (
        (there, rows.within(other)),
        (~there, rows.cut(other)),
        (everywhere, rows.split(np.array(at))),
        (everywhere, rows.tile(1e8)),
    ):
        for row, (start, end) in enumerate(rows):
            mine = actual.where(actual.columns["row"] == row)
            assert mine.is_disjoint
            np.testing.assert_array_equal(
                is_in(time, mine), expected & (start <= time) & (time < end)
            )


# ------------------------------------------------------------------ which row, which rows


@given(any_sets(), st.integers(0, 3))
def test_row_at_finds_the_one_row_that_holds_a_time(rows, repeats):
    rows = rows.coalesce().split(0.0).split(0.3)  # rows that touch, too
    time = np.tile(np.append(moments_of(rows), [np.inf, -np.inf]), 1 + repeats)
    expected = [next((row for row, (a, b) in enumerate(rows) if a <= t < b), -1)
                for t in time.tolist()]  # fmt: skip

    assert rows.row_at(time).tolist() == expected
    assert rows.row_at(np.sort(time)).tolist() == np.array(expected)[np.argsort(time)].tolist()
    assert rows.row_at(time[None, :, None]).shape == (1, len(time), 1)
    assert [int(rows.row_at(one)) for one in time.tolist()] == expected


def test_a_time_that_is_nan_is_nowhere():
    rows, time = IntervalSet.single(-1, 1), np.array([0.0, np.nan, 0.0, 5.0])

    assert rows.contains(time).tolist() == [True, False, True, False]
    assert rows.row_at(time[:2]).tolist() == [0, -1]


@given(interval_sets(), interval_sets())
def test_rows_overlap_or_are_covered_as_their_milliseconds_say(rows, other):
    theirs = mask_of(other)
    each = [mask_of(rows.where(np.array([row]))) for row in range(len(rows))]

    assert rows.overlaps(other).tolist() == [bool((mine & theirs).any()) for mine in each]
    assert rows.covered_by(other).tolist() == [not (mine & ~theirs).any() for mine in each]


# ------------------------------------------------------------------ pieces of rows


@given(eighths(), st.lists(st.integers(-8, 330), max_size=8))
def test_split_cuts_at_every_given_time_inside_a_row_and_nowhere_else(rows, ticks):
    at = np.array(ticks, float) / 8
    numbered = rows.with_columns({"row": np.arange(len(rows))})

    parts = numbered.split(at)

    for row, (start, end) in enumerate(rows):
        bounds = sorted({start, end, *(t for t in at.tolist() if start < t < end)})
        mine = parts.where(parts.columns["row"] == row)
        assert list(mine) == list(itertools.pairwise(bounds))


@given(
    st.lists(st.tuples(st.integers(-2000, 2000), st.integers(1, 300)), max_size=6),
    st.integers(1, 120),
    st.sampled_from([1, 10, 100, 1000, 3000]),
)
def test_tiles_of_decimal_lengths_are_as_many_as_whole_numbers_say(rows, length, base):
    """0.3 s hold three times 0.1 s, though 0.3 / 0.1 is less than 3 in float64."""
    first, count = np.array(rows, np.int64).reshape(-1, 2).T
    numbered = IntervalSet.sorted(first / base, (first + count) / base, {"ticks": count})
    ticks = numbered.columns["ticks"]
    numbered = numbered.with_columns({"row": np.arange(len(ticks))})

    kept, whole = (numbered.tile(length / base, drop_short=short) for short in (False, True))

    for row, (start, end) in enumerate(numbered):
        mine, full = (one.where(one.columns["row"] == row) for one in (kept, whole))
        assert len(mine) == -(-ticks[row] // length)
        assert len(full) == ticks[row] // length
        assert (mine.start[0], mine.end[-1]) == (start, end)
        assert mine.start[1:].tolist() == mine.end[:-1].tolist()  # no moment lost or twice
        np.testing.assert_allclose(full.end - full.start, length / base, rtol=0, atol=1e-10)
        if ticks[row] % length == 0:
            assert full == mine


@given(any_sets(), st.floats(1e6, 1e9), st.booleans())
def test_tiles_of_any_floats_leave_out_nothing_but_what_is_short(rows, length, drop_short):
    tiles = rows.with_columns({"row": np.arange(len(rows))}).tile(length, drop_short)
    for row, (start, end) in enumerate(rows):
        mine = tiles.where(tiles.columns["row"] == row)
        reached = mine.end[-1] if len(mine) else start
        assert mine.start.tolist() == [start, *mine.end[:-1].tolist()][: len(mine)]
        assert reached == end or (drop_short and 0 < end - reached < length)


def test_a_rest_of_a_few_rounding_errors_makes_no_tile():
    end = 1000.1 + 0.3
    for near in (end, np.nextafter(end, 0), np.nextafter(end, np.inf)):
        rows = IntervalSet.single(1000.1, near)
        for drop_short in (False, True):
            assert len(rows.tile(0.1, drop_short)) == 3
            assert rows.tile(0.1, drop_short).end[-1] == near


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rows: rows.tile(0.0), r"tile\(\) needs a finite length above 0 s"),
        (lambda rows: rows.tile(-1.0), "not -1.0 s"),
        (lambda rows: rows.tile(np.nan), "not nan s"),
        (lambda rows: rows.tile(np.inf), "not inf s"),
        (lambda rows: rows.tile(1e-16), "times as large as these can hold"),
        (lambda rows: rows.split(np.array([0.5, np.nan])), "cuts at finite times"),
        (lambda rows: rows.coalesce(-0.1), "gaps of 0 s or more, not of -0.1 s"),
        (lambda rows: rows.coalesce(np.nan), "not of nan s"),
        (lambda rows: rows.dilate(np.nan), "by finite seconds, not nan, nan"),
        (lambda rows: rows.dilate(1.0, np.inf), "by finite seconds, not 1.0, inf"),
        (lambda rows: rows.shift(np.nan), "both bounds must be finite"),
        (lambda rows: rows.shift(1e300), "the end after the start"),
        (lambda rows: rows.complement((2.0, 1.0)), "the end after the start"),
        (lambda rows: rows.row_at(0.5), "Rows 1 and 2 share time near 1.5 s"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_a_sentence(call, message):
    rows = IntervalSet(np.array([0.0, 1.0, 1.5]), np.array([1.0, 2.0, 3.0]))

    with pytest.raises(IntervalError, match=message):
        call(rows)


def test_an_empty_set_has_no_pieces_and_keeps_its_columns():
    none = IntervalSet(np.empty(0), np.empty(0), {"side": np.empty(0, str)})

    for pieces in (none.tile(1.0), none.split(1.0), none.cut(none), none.within(none)):
        assert pieces == none
    assert none.shift(1.0) == none
    assert none.row_at(np.array([0.0])).tolist() == [-1]
    assert len(none.overlaps(none)) == len(none.covered_by(none)) == 0
