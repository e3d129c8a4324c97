"""Half-open time intervals and the algebra of the time that they cover."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

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

    Rows may overlap, as trials of a real table do. The algebra (`union`, `intersection`,
    `difference`, `coalesce`) works on the time that the set covers: its results are
    disjoint and carry no columns.

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
        bad = ~(np.isfinite(start) & np.isfinite(end) & (start < end))
        if bad.any():
            row = int(np.argmax(bad))
            raise IntervalError(
                f"Interval {row} is [{start[row]}, {end[row]}): both bounds must be finite "
                f"and the end after the start ({int(bad.sum())} such rows)."
            )
        if np.any(np.diff(start) < 0):
            row = int(np.argmax(np.diff(start) < 0)) + 1
            raise IntervalError(
                f"Interval {row} starts at {start[row]} s, before the one above it: "
                "sort the rows by start, or use IntervalSet.sorted()."
            )
        for name, values in self.columns.items():
            if len(values) != len(start):
                raise IntervalError(
                    f"Column '{name}' has {len(values)} values for {len(start)} intervals."
                )
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "end", end)
        object.__setattr__(self, "columns", dict(self.columns))

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
            and all(
                np.array_equal(self.columns[name], other.columns[name]) for name in self.columns
            )
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

    def coalesce(self, gap: float = 0.0) -> IntervalSet:
        """Return disjoint intervals over the same time, joining those at most `gap` s apart."""
        if len(self) == 0:
            return IntervalSet.empty()
        reach = np.maximum.accumulate(self.end)
        first = np.concatenate([[True], self.start[1:] > reach[:-1] + gap])
        last = np.concatenate([first[1:], [True]])
        return IntervalSet(self.start[first], reach[last])

    def dilate(self, before: float, after: float | None = None) -> IntervalSet:
        """Return the time within `before` s ahead of, or `after` s behind, an interval.

        Negative values shrink; an interval that shrinks to nothing is left out.
        """
        start = self.start - before
        end = self.end + (before if after is None else after)
        kept = start < end
        return IntervalSet.sorted(start[kept], end[kept]).coalesce()

    def contains(self, time: np.ndarray) -> np.ndarray:
        """Return, for each time (float64, any shape), whether the set covers it (bool)."""
        covered = self if self.is_disjoint else self.coalesce()
        row = np.searchsorted(covered.start, time, "right") - 1
        if len(covered) == 0:
            return np.zeros(np.shape(time), bool)
        return (row >= 0) & (np.asarray(time) < covered.end[np.maximum(row, 0)])

    def union(self, other: IntervalSet) -> IntervalSet:
        """Return the time covered by either set."""
        start = np.concatenate([self.start, other.start])
        end = np.concatenate([self.end, other.end])
        return IntervalSet.sorted(start, end).coalesce()

    def intersection(self, other: IntervalSet) -> IntervalSet:
        """Return the time covered by both sets."""
        return self._combine(other, np.logical_and)

    def difference(self, other: IntervalSet) -> IntervalSet:
        """Return the time covered by this set but not by `other`."""
        return self._combine(other, lambda mine, theirs: mine & ~theirs)

    def cut(self, other: IntervalSet) -> IntervalSet:
        """Return what `other` leaves of each row, with the row's columns.

        Unlike those of `difference`, rows that touch or overlap stay apart.
        """
        hole = other.coalesce()
        first = np.searchsorted(hole.end, self.start, "right")  # the first hole in or after a row
        count = np.searchsorted(hole.start, self.end, "left") - first + 1  # pieces, empty ones too
        row = np.repeat(np.arange(len(self)), count)
        piece = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        after = first[row] + piece  # the hole that ends the piece, if it is not the last one
        start = np.where(piece == 0, self.start[row], np.append(hole.end, np.inf)[after - 1])
        last = piece == count[row] - 1
        end = np.where(last, self.end[row], np.append(hole.start, np.inf)[after])
        kept = start < end
        columns = {name: values[row[kept]] for name, values in self.columns.items()}
        return IntervalSet.sorted(start[kept], end[kept], columns)

    def _combine(self, other: IntervalSet, keep) -> IntervalSet:
        """Return the pieces between consecutive bounds of both sets for which `keep` holds."""
        edges = np.unique(np.concatenate([self.start, self.end, other.start, other.end]))
        kept = keep(self.contains(edges[:-1]), other.contains(edges[:-1]))
        return IntervalSet(edges[:-1][kept], edges[1:][kept]).coalesce()
