"""Sweeps over the sorted bounds of half-open intervals: plain arrays in, plain arrays out.

What `intervals` does to sets is done here, without a loop and without rounding. Covered time is
given by all starts and, apart from them, all ends, each sorted: which end belongs to which start
does not matter, for a time is covered by as many intervals as have started less those that ended.
"""

from __future__ import annotations

import numpy as np

from spikedata.ragged import take_rows

__all__ = ["joined", "look_up", "merge", "pairs", "pieces", "spacing", "tiles"]


def merge(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return two sorted arrays as one; the stable sort of numpy merges runs in linear time."""
    both = np.concatenate([one, other])
    both.sort(kind="stable")
    return both


def joined(start: np.ndarray, end: np.ndarray, gap: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the covered time as intervals with more than `gap` s between them.

    Nothing covers the time just before start k when k intervals have ended by then.
    """
    apart = np.flatnonzero(start[1:] > end[:-1] + gap)
    edge = len(start) - 1
    first, last = np.append(0, apart + 1), np.append(apart, edge)
    return (start[first], end[last]) if edge >= 0 else (start, end)


def pairs(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the intervals from each start to the end beside it, if that comes later."""
    kept = np.flatnonzero(start < end)
    return start[kept], end[kept]


def pieces(
    row_start: np.ndarray, row_end: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the part of each row in each of the intervals, which are sorted and disjoint.

    Returns
    -------
    row, start, end : ndarray, shape (P,)
        The row that each piece is of, and its bounds; row by row.
    """
    first = np.searchsorted(end, row_start, "right")  # the first to end after the row's start
    count = np.searchsorted(start, row_end, "left") - first
    row, piece = np.repeat(np.arange(len(row_start)), count), take_rows(first, count)
    return row, np.maximum(row_start[row], start[piece]), np.minimum(row_end[row], end[piece])


def tiles(
    row_start: np.ndarray, row_end: np.ndarray, length: float, drop_short: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each row in pieces of `length` s, as `pieces` does; see ``IntervalSet.tile``."""
    rounding = spacing(row_start, row_end)
    n_pieces, slack = (row_end - row_start) / length, rounding / length
    whole = np.floor(n_pieces + slack)
    count = (whole if drop_short else np.maximum(np.ceil(n_pieces - slack), 1)).astype(np.int64)
    row, piece = np.repeat(np.arange(len(count)), count), take_rows(np.zeros_like(count), count)
    start = row_start[row] + piece * length
    end = row_start[row] + (piece + 1) * length
    at_end = not drop_short or end > (row_end - 2 * rounding)[row]  # or as good as there
    return row, start, np.where((piece == count[row] - 1) & at_end, row_end[row], end)


def spacing(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return what rounding may do to the times of each row: 4 times the spacing of float64."""
    return 4 * np.spacing(np.maximum(np.abs(start), np.abs(end)))


def look_up(
    time: np.ndarray, start: np.ndarray, end: np.ndarray, inside: np.ndarray, outside: int
) -> np.ndarray:
    """Return for each time the value `inside` of its interval, or `outside`, of that dtype.

    The intervals are sorted and disjoint; the times (any shape) need not be sorted.
    """
    value = np.append(inside, np.array([outside], inside.dtype))
    if time.ndim == 1 and len(time) > 2 * len(start) and np.all(time[1:] >= time[:-1]):
        # Sorted times, as spikes are: look up the bounds among them, not them among the bounds.
        bound = np.column_stack([np.searchsorted(time, start), np.searchsorted(time, end)])
        runs = np.full(2 * len(start) + 1, value[-1])
        runs[1::2] = inside
        return np.repeat(runs, np.diff(bound.reshape(-1), prepend=0, append=len(time)))
    row = np.searchsorted(start, time, "right") - 1  # -1, before all, is the one appended last
    return value[np.where(time < np.append(end, -np.inf)[row], row, -1)]
