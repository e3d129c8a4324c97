"""What the entrants that read binned counts share: a grid of bins, and windows of it.

Spikes are counted once, in bins that are laid from the first estimate of a segment in both
directions, and windows of several bins are read off running sums. `baselines.lagged_counts` counts
around each sample anew, with a search for every sample, bin and unit: exact for any times, and too
slow to compare a dozen settings. Where samples lie on the grid, both give the same counts.

Spikes outside a segment do not exist: near its ends the bins beyond them count 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spikedata_model.leaderboard.protocol import Segment

__all__ = ["Lags", "Points", "Recent", "Timing", "windows"]

# Shapes: S spikes, K samples, P points of the grid, B bins, U units, C channels.

ALIKE = 1e-6  # share of a bin by which times at its edge may differ
CHUNK_ENTRIES = 1 << 23  # counts that are held at once


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Where on its grid a segment is estimated, and how its samples are read off.

    Parameters
    ----------
    anchor : float
        Time of grid point 0, in seconds.
    at : ndarray, shape (P,), int64
        Grid points, not falling. An estimate at point g rests on bins before g, and on those from
        g on where the suite is not causal.
    low, high : ndarray, shape (K,), int64
        Rows of `at` around each sample.
    share : ndarray, shape (K,), float64
        How far a sample is from the low one to the high one.
    """

    anchor: float
    at: np.ndarray
    low: np.ndarray
    high: np.ndarray
    share: np.ndarray

    def samples(self, estimates: np.ndarray) -> np.ndarray:
        """Return the estimates (P, C) at the samples, (K, C)."""
        share = self.share[:, None]
        return (1 - share) * estimates[self.low] + share * estimates[self.high]


@dataclass(frozen=True, slots=True)
class Timing:
    """A grid: bins of `bin` s, and the `step` of causal estimates (None: not causal)."""

    bin: float
    step: float | None = None

    def index(self, anchor: float, time: np.ndarray | float) -> np.ndarray:
        """Return the bin that a time is in; never falling, so that no later spike comes before."""
        return np.floor((np.asarray(time) - anchor) / self.bin + ALIKE).astype(np.int64)

    def points(self, segment: Segment) -> Points:
        """Return where to estimate: at the edges of a causal suite, else around each sample."""
        if not len(segment.time):
            none = np.empty(0, np.int64)
            return Points(segment.start, none, none, none, np.empty(0))
        if self.step is not None:
            edges, row = segment.estimates(self.step)
            anchor = float(edges[0])
            return Points(anchor, self.index(anchor, edges), row, row, np.zeros(len(row)))
        anchor = float(segment.time[0])
        low = self.index(anchor, segment.time)
        share = (segment.time - anchor) / self.bin - low
        share = np.where(share < ALIKE, 0.0, np.minimum(share, 1.0))
        high = low + (share > 0)
        at = np.unique(np.concatenate([low, high]))
        return Points(anchor, at, np.searchsorted(at, low), np.searchsorted(at, high), share)


@dataclass(frozen=True, slots=True)
class Lags:
    """A window around a point: `before` and `after` bins of `width` grid bins each."""

    width: int
    before: int
    after: int = 0

    @property
    def bins(self) -> int:
        """Number of bins B."""
        return self.before + self.after

    @classmethod
    def reaching(
        cls, timing: Timing, width: float, reach: float, n_units: int, most: int
    ) -> Lags:  # fmt: skip
        """Return bins of about `width` s over `reach` s before a point, and after it if not causal.

        Of many units the bins are fewer and wider: no more than `most` features, or one bin a side.
        """
        sides = 1 if timing.step is not None else 2
        step = max(1, round(width / timing.bin))
        count = max(1, round(reach / (step * timing.bin)))
        allowed = max(1, most // (sides * max(1, n_units)))
        if count > allowed:
            step = max(1, -(-step * count // allowed))
            count = allowed
        return cls(step, count, count if sides == 2 else 0)


def windows(
    segment: Segment, timing: Timing, anchor: float, at: np.ndarray, lags: Lags, n_units: int
) -> Iterator[np.ndarray]:
    """Yield the counts around grid points, some rows at a time, in order.

    Parameters
    ----------
    segment : Segment
        Its spikes.
    timing : Timing
        The grid.
    anchor : float
        Time of grid point 0, in seconds.
    at : ndarray, shape (P,), int64
        Grid points, not falling.
    lags : Lags
        The window.
    n_units : int
        Number of units U.

    Yields
    ------
    ndarray, shape (some of P, B · U), float32
        Earliest bin first, all units of a bin together.
    """
    where = timing.index(anchor, segment.spike_time)
    edges = np.arange(-lags.before, lags.after + 1) * lags.width
    units = max(1, n_units)
    rows = max(1, CHUNK_ENTRIES // (units * (lags.bins + 1)))
    span = max(1, CHUNK_ENTRIES // units)
    first = 0
    while first < len(at):
        reached = int(np.searchsorted(at, at[first] + span, side="right"))
        last = max(first + 1, min(first + rows, reached))
        begin, end = int(at[first] + edges[0]), int(at[last - 1] + edges[-1])
        lo, hi = np.searchsorted(where, [begin, end])
        flat = (where[lo:hi] - begin) * n_units + segment.spike_unit[lo:hi]
        counts = np.bincount(flat, minlength=(end - begin) * n_units)
        sums = np.zeros((end - begin + 1, n_units), np.int32)
        np.cumsum(counts.reshape(end - begin, n_units), axis=0, out=sums[1:], dtype=np.int32)
        read = sums[(at[first:last] - begin)[:, None] + edges]
        yield np.diff(read, axis=1).astype(np.float32).reshape(last - first, -1)
        first = last


class Recent:
    """The counts of the last bins before now, of spikes that come in step by step.

    Bins are laid as `Timing.points` lays them: from the end of the first step.

    Parameters
    ----------
    timing : Timing
        The grid.
    length : int
        Grid bins that are kept.
    n_units : int
        Number of units U.
    """

    def __init__(self, timing: Timing, length: int, n_units: int) -> None:
        self._timing = timing
        self.counts = np.zeros((max(1, length), n_units), np.float32)
        self.anchor: float | None = None
        self._at: int | None = None
        self._bin, self._unit = np.empty(0, np.int64), np.empty(0, np.int64)

    def take(self, spike_time: np.ndarray, spike_unit: np.ndarray, end: float) -> int:
        """Take in spikes, and return the grid point that `end` is at; `move_to` it next."""
        if self.anchor is None:
            self.anchor = float(end)
        where = self._timing.index(self.anchor, spike_time)
        self._bin = np.concatenate([self._bin, where])
        self._unit = np.concatenate([self._unit, np.asarray(spike_unit, np.int64)])
        return int(self._timing.index(self.anchor, end))

    def move_to(self, at: int) -> np.ndarray:
        """Return the counts of the bins before a grid point, (length, U), float32."""
        length = len(self.counts)
        if self._at is not None and at > self._at:
            kept = max(0, length - (at - self._at))
            self.counts[:kept] = self.counts[length - kept :]
            self.counts[kept:] = 0
        self._at = at
        done = self._bin < at
        if done.any():
            row = self._bin[done] - (at - length)
            seen = row >= 0
            np.add.at(self.counts, (row[seen], self._unit[done][seen]), 1)
            self._bin, self._unit = self._bin[~done], self._unit[~done]
        return self.counts
