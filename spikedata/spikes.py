"""Turns the spike trains of units into one table sorted by time, in little more than its memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from spikedata.intervals import IntervalSet

__all__ = ["SpikeTrains"]

THREADS = 2  # more would wait for memory
SLAB = 2**15  # spikes sorted at a time: their keys and their order stay in a core's cache
SIGN = np.uint64(2**63)


class SpikeTrains:
    """The spikes of some units, each train sorted, on their way to becoming one table.

    Parameters
    ----------
    read : callable
        Returns all spike times of the file (float64, shape (N,), seconds, unit after unit).
        The array is taken over: it is changed in place and let go as soon as it can be.
    bound : ndarray, shape (U + 1,), int64
        Unit u of the file has rows ``bound[u]`` to ``bound[u + 1]``.
    rows : sequence of int
        Which units of the file to take, in this order.
    dropped : Counter
        Counts what is dropped or changed: ``spikes.not_finite``, ``spikes.unsorted`` (came
        before the spike above it; sorted), ``spikes.outside_domain`` and
        ``spikes.repeated_kept`` (a unit's spikes at one same time; **kept**).
    """

    def __init__(
        self,
        read: Callable[[], np.ndarray],
        bound: np.ndarray,
        rows: Sequence[int] | np.ndarray,
        dropped: Counter[str],
    ) -> None:
        time = read()
        self.dropped = dropped
        self.trains = [self._clean(time[bound[row] : bound[row + 1]]) for row in rows]

    def __len__(self) -> int:
        return len(self.trains)

    def _clean(self, time: np.ndarray) -> np.ndarray:
        """Return the finite times, sorted, in the memory of `time`."""
        if len(time) == 0:
            return time
        if not np.isfinite(time.min() + time.max()):  # NaN and infinity carry through both
            finite = np.isfinite(time)
            self.dropped["spikes.not_finite"] += int((~finite).sum())
            time = _kept(time, finite)
        step = np.diff(time)
        backward = int(np.count_nonzero(step < 0))
        if backward:
            self.dropped["spikes.unsorted"] += backward
            time.sort()
            step = np.diff(time)
        self.dropped["spikes.repeated_kept"] += int(np.count_nonzero(step == 0))
        if len(time) and time[0] <= 0 <= time[-1]:
            time += 0.0  # -0.0 becomes 0.0: one time, one pattern of bits
        return time

    @property
    def counts(self) -> np.ndarray:
        """Number of spikes of each unit, shape (U,), int64."""
        return np.array([len(train) for train in self.trains], np.int64)

    @property
    def extent(self) -> IntervalSet:
        """The time from the first to just past the last spike; empty when there is none."""
        ends = [(train[0], train[-1]) for train in self.trains if len(train)]
        if not ends:
            return IntervalSet.empty()
        first, last = np.min(ends), np.max(ends)
        return IntervalSet.single(float(first), float(np.nextafter(last, np.inf)))

    def restrict(self, domain: IntervalSet) -> None:
        """Drop the spikes outside `domain`."""
        covered = domain.coalesce()
        for row, train in enumerate(self.trains):
            lo = np.searchsorted(train, covered.start, "left")
            hi = np.searchsorted(train, covered.end, "left")
            kept = int((hi - lo).sum())
            self.dropped["spikes.outside_domain"] += len(train) - kept
            if kept == len(train):
                continue
            if kept and kept == int(hi[-1] - lo[0]):
                self.trains[row] = train[lo[0] : hi[-1]]
                continue
            inside = np.zeros(len(train) + 1, np.int8)
            np.add.at(inside, lo, 1)
            np.add.at(inside, hi, -1)
            self.trains[row] = _kept(train, np.cumsum(inside[:-1], dtype=np.int8).view(bool))

    def keep(self, mask: np.ndarray) -> None:
        """Keep only the units where `mask` (bool, shape (U,)) is true."""
        self.trains = [train for train, kept in zip(self.trains, mask, strict=True) if kept]

    def merge(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all spikes sorted by time, then by unit; the trains are used up.

        Returns
        -------
        time : ndarray, shape (N,), float64
            Spike times in seconds.
        unit : ndarray, shape (N,), int32
            The unit of each, as a row of `rows`.

        Notes
        -----
        The bit patterns of doubles of one sign are in the order of their values, and those of
        a short stretch of time share their leading bits: the difference to the stretch's begin
        leaves room for the unit below it. One 64-bit integer then holds both, exactly, and
        sorting integers needs no index. Stretches for which there is no room (around time 0)
        are sorted with an index. Peak memory: one copy of the times besides the table.
        """
        total, units = int(self.counts.sum()), len(self.trains)
        if total == 0:
            self.trains.clear()
            return np.empty(0), np.empty(0, np.int32)
        extent = self.extent
        edges = np.linspace(extent.start[0], extent.end[0], max(1, total // SLAB) + 1)
        cut = np.array([np.searchsorted(train, edges[1:-1]) for train in self.trains])
        cut = np.column_stack([np.zeros(units, np.int64), cut, self.counts])  # (U, slabs + 1)
        size = np.diff(cut, axis=1)
        bound = np.concatenate([[0], np.cumsum(size.sum(0))])
        begin = bound[:-1] + np.cumsum(size, axis=0) - size  # (U, slabs): first row of each piece
        signed = bool(extent.start[0] < 0)  # else the bits are in order as they are
        room, low = np.uint64((units - 1).bit_length()), _ordered(edges[:-1], signed)
        # The shift by 1 first: by 64 nothing would happen.
        wide = ((_ordered(edges[1:], signed) - low) >> np.uint64(1)) >> (np.uint64(63) - room) != 0
        key = np.empty(total, np.uint64)

        def pack(unit: int) -> None:
            """Put the spikes of a unit where they belong, slab by slab."""
            train = self.trains[unit]
            packed = _ordered(train, signed) - np.repeat(low, size[unit])
            packed <<= room
            packed |= np.uint64(unit)
            for slab in np.flatnonzero(size[unit]).tolist():
                lo, hi, at = cut[unit, slab], cut[unit, slab + 1], begin[unit, slab]
                piece = train[lo:hi].view(np.uint64) if wide[slab] else packed[lo:hi]
                key[at : at + hi - lo] = piece

        def settle(slab: int) -> None:
            """Sort a slab and take its keys apart."""
            lo, hi = bound[slab], bound[slab + 1]
            if wide[slab]:
                unit = np.repeat(np.arange(units, dtype=np.int32), size[:, slab])
                order = np.lexsort((unit, time[lo:hi]))
                time[lo:hi], owner[lo:hi] = time[lo:hi][order], unit[order]
                return
            part = key[lo:hi]
            _sort(part)
            owner[lo:hi] = part & np.uint64((1 << int(room)) - 1)
            part >>= room
            part += low[slab]
            if signed:
                _restore(part)

        with ThreadPoolExecutor(THREADS) as pool:  # numpy lets go of the interpreter's lock
            list(pool.map(pack, range(units)))
            self.trains.clear()
            time, owner = key.view(np.float64), np.empty(total, np.int32)
            list(pool.map(settle, range(len(wide))))
        return time, owner


def _kept(time: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the times where `mask` is true, moved to the begin of the same memory."""
    found = time[mask]
    time[: len(found)] = found
    return time[: len(found)]


def _sort(key: np.ndarray) -> None:
    """Sort integers in place: by their 16 leading bits in linear time, which leaves little to do.

    numpy's own sort takes three to five times as long on trains laid end to end.
    """
    if len(key):
        low, high = int(key.min()), int(key.max())
        leading = (key - np.uint64(low)) >> np.uint64(max(0, (high - low).bit_length() - 16))
        key[:] = key[np.argsort(leading.astype(np.uint16), kind="stable")]  # a radix sort
        key.sort(kind="stable")


def _ordered(time: np.ndarray, signed: bool) -> np.ndarray:
    """Return integers (uint64) that are in the order of the times, one for one.

    Where none is negative these are the bits of the times themselves, in their memory.
    """
    bits = time.view(np.uint64)
    if not signed:
        return bits
    return np.where(bits >= SIGN, ~bits, bits | SIGN)


def _restore(ordered: np.ndarray) -> None:
    """Turn what `_ordered` returned back into the bits of the times, in place."""
    np.copyto(ordered, np.where(ordered >= SIGN, ordered ^ SIGN, ~ordered))
