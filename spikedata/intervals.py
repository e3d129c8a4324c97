"""Half-open time intervals and the algebra of the time that they cover."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from spikedata.bounds import joined, look_up, merge, pairs, pieces, spacing, tiles
from spikedata.errors import IntervalError

__all__ = ["IntervalSet", "window_bounds"]


def window_bounds(
    time: np.ndarray, start: float | np.ndarray, end: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the row ranges of the sorted times that lie in ``[start, end)``.

    Parameters
    ----------
    time : ndarray, shape (N,), float64
        Times in seconds, sorted.
    start, end : float or ndarray, shape (W,)
        Bounds of the windows in seconds, on the clock of `time`.

    Returns
    -------
    lo, hi : ndarray of int64
        ``time[lo:hi]`` are the rows of each window; ``lo == hi`` when it has none.

    Notes
    -----
    Half-open, so adjacent windows tile a recording without sharing an event.

    Examples
    --------
    >>> lo, hi = window_bounds(np.array([0.1, 0.2, 0.3]), 0.1, 0.3)
    >>> int(lo), int(hi)
    (0, 2)
    """
    return np.searchsorted(time, start, "left"), np.searchsorted(time, end, "left")


@dataclass(frozen=True, slots=True)
class IntervalSet:
    """Intervals ``[start, end)`` sorted by start, with one value per interval in each column.

    Rows may overlap, as trials of a real table do. Two kinds of methods tell time from rows:

    - the algebra (`union`, `intersection`, `difference`, `complement`, `coalesce`, `dilate`;
      ``a | b``, ``a & b``, ``a - b``) works on the time that the set covers: its results are
      disjoint, do not touch, and carry no columns;
    - `within`, `cut`, `split`, `tile`, `shift` and `where` work row by row: rows that touch or
      overlap stay apart, and every piece keeps the values of its row.

    Bounds are never rounded: those of a result are bounds that were given, but for `dilate`,
    `shift` and `tile`, which add to them.

    Parameters
    ----------
    start, end : ndarray, shape (K,), float64
        Bounds in seconds on the recording's clock; finite, ``start < end``, sorted by start.
    columns : mapping of str to ndarray, shape (K, ...)
        Values that belong to each interval.

    Raises
    ------
    IntervalError
        If a bound is not finite, an interval is empty or reversed, the rows are not sorted,
        or a column has another length.
    """

    start: np.ndarray
    end: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        start = np.asarray(self.start, np.float64).reshape(-1)
        end = np.asarray(self.end, np.float64).reshape(-1)
        if len(start) != len(end):
            raise IntervalError(f"{len(start)} starts but {len(end)} ends: give one end per start.")
        if (
            len(start)
            and not (
                start[0] > -np.inf
                and end.max() < np.inf
                and np.all(start < end)  # false where one is NaN
                and np.all(start[1:] >= start[:-1])
            )
        ):
            raise IntervalError(_what_is_wrong(start, end))
        columns = {name: np.asarray(values) for name, values in self.columns.items()}
        for name, values in columns.items():
            if values.shape[:1] != (len(start),):
                raise IntervalError(
                    f"Column '{name}' has {len(values) if values.ndim else 'no'} values for "
                    f"{len(start)} intervals."
                )
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "end", end)
        object.__setattr__(self, "columns", columns)

    @classmethod
    def sorted(
        cls, start: np.ndarray, end: np.ndarray, columns: Mapping[str, np.ndarray] | None = None
    ) -> IntervalSet:
        """Return the set of these intervals after sorting the rows by start, then end."""
        order = np.lexsort((np.asarray(end), np.asarray(start)))
        taken = {name: np.asarray(values)[order] for name, values in (columns or {}).items()}
        return cls(np.asarray(start)[order], np.asarray(end)[order], taken)

    @classmethod
    def single(cls, start: float, end: float) -> IntervalSet:
        """Return the set that holds the one interval ``[start, end)``."""
        return cls(np.array([start]), np.array([end]))

    @classmethod
    def empty(cls) -> IntervalSet:
        """Return the set that covers no time."""
        return cls(np.empty(0), np.empty(0))

    def __len__(self) -> int:
        return len(self.start)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return zip(self.start.tolist(), self.end.tolist(), strict=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntervalSet):
            return NotImplemented
        return (
            np.array_equal(self.start, other.start)
            and np.array_equal(self.end, other.end)
            and self.columns.keys() == other.columns.keys()
            and all(_same(values, other.columns[name]) for name, values in self.columns.items())
        )

    __hash__ = None  # type: ignore[assignment]  # equal by content, and arrays cannot be hashed

    def __repr__(self) -> str:
        shown = ", ".join(f"[{start:.3f}, {end:.3f})" for start, end in list(self)[:3])
        more = f", … {len(self) - 3} more" if len(self) > 3 else ""
        columns = f"; columns {', '.join(self.columns)}" if self.columns else ""
        return f"IntervalSet({len(self)} intervals, {self.duration:.3f} s: {shown}{more}{columns})"

    @property
    def duration(self) -> float:
        """Covered time in seconds; overlapping rows count once."""
        covered = self if self.is_disjoint else self.coalesce()
        return float(np.sum(covered.end - covered.start))

    @property
    def is_disjoint(self) -> bool:
        """Whether no two rows share time (they may touch)."""
        return bool(np.all(self.start[1:] >= self.end[:-1]))

    def where(self, mask: np.ndarray) -> IntervalSet:
        """Return the rows where `mask` (bool, shape (K,), or row numbers) selects, with columns."""
        columns = {name: values[mask] for name, values in self.columns.items()}
        return IntervalSet(self.start[mask], self.end[mask], columns)

    def with_columns(self, columns: Mapping[str, np.ndarray]) -> IntervalSet:
        """Return these rows with columns added or replaced.

        Examples
        --------
        >>> trials = IntervalSet(np.array([0.0, 5.0]), np.array([4.0, 9.0]))
        >>> halves = trials.with_columns({"trial": np.arange(2)}).tile(2.0)
        >>> halves.columns["trial"].tolist()
        [0, 0, 1, 1]
        """
        return IntervalSet(self.start, self.end, {**self.columns, **columns})

    # ------------------------------------------------------------------ what covers what

    def contains(self, time: np.ndarray | float) -> np.ndarray:
        """Return, for each time (float64, any shape), whether the set covers it (bool).

        A time at a start is inside, one at an end is not; NaN is nowhere.
        """
        covered = self if self.is_disjoint else self.coalesce()
        inside = np.ones(len(covered), bool)
        return look_up(np.asarray(time, np.float64), covered.start, covered.end, inside, False)

    def row_at(self, time: np.ndarray | float) -> np.ndarray:
        """Return the row that contains each time (float64, any shape), int64; -1 for none.

        Raises
        ------
        IntervalError
            If rows overlap: a time could be in two.

        Examples
        --------
        >>> trials = IntervalSet(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
        >>> trials.row_at(np.array([0.5, 1.0, 2.0])).tolist()
        [0, 1, -1]
        """
        if not self.is_disjoint:
            row = int(np.argmax(self.start[1:] < self.end[:-1]))
            raise IntervalError(
                f"Rows {row} and {row + 1} share time near {self.start[row + 1]} s, which has no "
                "one row: use rows that do not overlap, or contains()."
            )
        time = np.asarray(time, np.float64)
        return look_up(time, self.start, self.end, np.arange(len(self)), -1)

    def overlaps(self, other: IntervalSet) -> np.ndarray:
        """Return, for each row, whether it shares time with `other` (bool, shape (K,))."""
        cover = other.coalesce()
        first = np.searchsorted(cover.end, self.start, "right")  # the first to end after the start
        return np.searchsorted(cover.start, self.end, "left") > first

    def covered_by(self, other: IntervalSet) -> np.ndarray:
        """Return, for each row, whether all of it is time of `other` (bool, shape (K,)).

        Examples
        --------
        >>> trials = IntervalSet(np.array([0.0, 2.0, 4.0]), np.array([1.0, 3.0, 5.0]))
        >>> observed = IntervalSet.single(0.0, 2.5)
        >>> trials.overlaps(observed).tolist(), trials.covered_by(observed).tolist()
        ([True, True, False], [True, False, False])
        """
        cover = other.coalesce()
        first = np.searchsorted(cover.end, self.start, "right")
        start, end = np.append(cover.start, np.inf)[first], np.append(cover.end, np.inf)[first]
        return (start <= self.start) & (self.end <= end)

    # ------------------------------------------------------------------ the algebra

    def coalesce(self, gap: float = 0.0) -> IntervalSet:
        """Return disjoint intervals over the same time, joining those at most `gap` s apart."""
        if not gap >= 0:
            raise IntervalError(f"coalesce() joins over gaps of 0 s or more, not of {gap} s.")
        return IntervalSet(*joined(self.start, np.maximum.accumulate(self.end), gap))

    def dilate(self, before: float, after: float | None = None) -> IntervalSet:
        """Return the time within `before` s ahead of, or `after` s behind, an interval.

        Negative values shrink every row, also where it touches another (`coalesce` first to
        shrink the covered time); an interval that shrinks to nothing is left out.
        """
        after = before if after is None else after
        if not (np.isfinite(before) and np.isfinite(after)):
            raise IntervalError(f"dilate() moves bounds by finite seconds, not {before}, {after}.")
        start, end = self.start - before, self.end + after
        kept = start < end
        return IntervalSet(*joined(start[kept], np.maximum.accumulate(end[kept])))

    def union(self, other: IntervalSet) -> IntervalSet:
        """Return the time covered by either set: ``a | b``."""
        return IntervalSet(*joined(merge(self.start, other.start), merge(self.end, other.end)))

    def intersection(self, other: IntervalSet) -> IntervalSet:
        """Return the time covered by both sets: ``a & b``."""
        one, two = self.coalesce(), other.coalesce()
        # With k intervals closed and k + 2 opened both sets cover the time; never more are open.
        return IntervalSet(*pairs(merge(one.start, two.start)[1:], merge(one.end, two.end)[:-1]))

    def difference(self, other: IntervalSet) -> IntervalSet:
        """Return the time covered by this set but not by `other`: ``a - b``."""
        one, hole = self.coalesce(), other.coalesce()
        # The intersection with (-inf, hole), [hole, hole), ..., [hole, inf); see there.
        return IntervalSet(*pairs(merge(one.start, hole.end), merge(one.end, hole.start)))

    def complement(self, within: IntervalSet | tuple[float, float]) -> IntervalSet:
        """Return the time of `within`, a set or one ``(start, end)``, that this set leaves.

        Examples
        --------
        >>> list(IntervalSet.single(1.0, 2.0).complement((0.0, 5.0)))
        [(0.0, 1.0), (2.0, 5.0)]
        """
        whole = within if isinstance(within, IntervalSet) else IntervalSet.single(*within)
        return whole.difference(self)

    __or__, __and__, __sub__ = union, intersection, difference

    # ------------------------------------------------------------------ row by row

    def within(self, other: IntervalSet) -> IntervalSet:
        """Return the part of each row that `other` covers, with the row's columns.

        Unlike those of `intersection`, rows that touch or overlap stay apart.

        Examples
        --------
        >>> trials = IntervalSet(np.array([0.0, 1.0]), np.array([1.0, 2.0]), {"n": np.arange(2)})
        >>> inside = trials.within(IntervalSet.single(0.5, 1.5))
        >>> list(inside), inside.columns["n"].tolist()
        ([(0.5, 1.0), (1.0, 1.5)], [0, 1])
        """
        cover = other.coalesce()
        return self._pieces(cover.start, cover.end)

    def cut(self, other: IntervalSet) -> IntervalSet:
        """Return what `other` leaves of each row, with the row's columns.

        Unlike those of `difference`, rows that touch or overlap stay apart.
        """
        hole = other.coalesce()
        return self._pieces(np.append(-np.inf, hole.end), np.append(hole.start, np.inf))

    def split(self, at: np.ndarray | float) -> IntervalSet:
        """Return the rows cut in two at each time `at` that lies inside them, with their columns.

        Examples
        --------
        >>> list(IntervalSet.single(0.0, 3.0).split(np.array([1.0, 7.0])))
        [(0.0, 1.0), (1.0, 3.0)]
        """
        time = np.unique(np.asarray(at, np.float64))
        if not np.isfinite(time).all():
            raise IntervalError("split() cuts at finite times; some of `at` are not.")
        return self._pieces(np.append(-np.inf, time), np.append(time, np.inf))

    def tile(self, length: float, drop_short: bool = False) -> IntervalSet:
        """Return the rows cut into pieces of `length` s from their start, with their columns.

        Parameters
        ----------
        length : float
            Seconds of a piece.
        drop_short : bool
            Leave out the last piece of a row where it is shorter than `length`.

        Returns
        -------
        IntervalSet
            Piece k of a row is ``[start + k * length, start + (k + 1) * length)``, the last one
            cut at the row's end. A rest that is only rounding (4 times the spacing of float64
            at the bounds) makes no piece, and is missing from none: 0.3 s are 3 times 0.1 s.

        Raises
        ------
        IntervalError
            If `length` is not above 0 and finite, or so short that the times cannot hold it.

        Examples
        --------
        >>> list(IntervalSet.single(0.0, 2.5).tile(1.0, drop_short=True))
        [(0.0, 1.0), (1.0, 2.0)]
        """
        if not 4 * spacing(self.start, self.end).max(initial=0.0) < length < np.inf:
            raise IntervalError(
                f"tile() needs a finite length above 0 s that times as large as these can hold, "
                f"not {length} s."
            )
        return self._rows(*tiles(self.start, self.end, length, drop_short))

    def shift(self, by: float) -> IntervalSet:
        """Return the rows `by` s later, on another clock, with their columns as they are."""
        return IntervalSet(self.start + by, self.end + by, self.columns)

    # ------------------------------------------------------------------ parts of the above

    def _pieces(self, start: np.ndarray, end: np.ndarray) -> IntervalSet:
        """Return the part of each row in each of these intervals, sorted and disjoint."""
        return self._rows(*pieces(self.start, self.end, start, end))

    def _rows(self, row: np.ndarray, start: np.ndarray, end: np.ndarray) -> IntervalSet:
        """Return these pieces of the given rows, in order of time, with the rows' columns."""
        columns = {name: values[row] for name, values in self.columns.items()}
        # Pieces of rows that do not overlap are in order as they are.
        return (IntervalSet if self.is_disjoint else IntervalSet.sorted)(start, end, columns)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two columns are equal, NaN to NaN."""
    missing = one.dtype.kind == other.dtype.kind and one.dtype.kind in "fcmM"
    return np.array_equal(one, other, equal_nan=missing)


def _what_is_wrong(start: np.ndarray, end: np.ndarray) -> str:
    """Return the sentence about the first row that is malformed or out of order."""
    bad = ~(np.isfinite(start) & np.isfinite(end) & (start < end))
    if bad.any():
        row = int(np.argmax(bad))
        return (
            f"Interval {row} is [{start[row]}, {end[row]}): both bounds must be finite "
            f"and the end after the start ({int(bad.sum())} such rows)."
        )
    row = int(np.argmax(start[1:] < start[:-1])) + 1
    return (
        f"Interval {row} starts at {start[row]} s, before the one above it: "
        "sort the rows by start, or use IntervalSet.sorted()."
    )
