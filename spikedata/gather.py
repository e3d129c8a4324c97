"""Reads the data of many windows in a few passes over the mapped columns of their recordings.

A window costs two bisections in a bracket that one look-up gives, and a few slices; everything else
is done for all windows of a batch at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from spikedata.batch import IntervalBatch, TargetBatch
from spikedata.errors import SamplingError, did_you_mean
from spikedata.intervals import IntervalSet
from spikedata.ragged import join_offsets, take_rows
from spikedata.recording import Recording, Series, grid_row
from spikedata.windows import Windows

__all__ = ["Times", "gather_intervals", "gather_spikes", "gather_target", "weight_steps"]

BINS = 1024  # a bracket is about this share of a column, and costs 2 bytes of it


class Times:
    """Where to look for a time in the sorted time columns of many recordings.

    The domain of a column is cut into `BINS` equal bins; of every bin it is known between which of
    about `BINS` evenly spaced rows its times lie. That takes one look at each of these rows, when
    a column is met first, and 2 kB a column.

    Parameters
    ----------
    count : int
        How many recordings there are.
    """

    def __init__(self, count: int) -> None:
        self._first, self._per_second = np.zeros(count), np.zeros(count)
        self._stride, self._size = np.zeros(count, np.int64), np.full(count, -1)
        self._probes = np.zeros((count, BINS + 1), np.uint16)

    def learn(self, index: int, time: np.ndarray) -> None:
        """Look at the column of one recording (float64, sorted)."""
        self._stride[index] = stride = max(1, -(-len(time) // BINS))
        probes = np.array(time[::stride])
        if len(probes):
            self._first[index] = probes[0]
            self._per_second[index] = BINS / max(time[-1] - probes[0], 1e-9)
        bins = self._bin(index, probes)
        self._probes[index] = np.searchsorted(bins, np.arange(BINS + 1))
        self._size[index] = len(time)

    def _bin(self, index: int | np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return the bin of each time. Rounding cannot break its order, so brackets are exact."""
        place = (time - self._first[index]) * self._per_second[index]
        return np.clip(place, 0, BINS - 1).astype(np.intp)

    def bracket(
        self, index: np.ndarray, start: np.ndarray, end: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows between which the first ones at or after `start` and `end` lie."""
        stride = self._stride[index]
        before = self._probes[index, self._bin(index, start)].astype(np.int64)
        behind = self._probes[index, self._bin(index, end) + 1].astype(np.int64)
        low = np.maximum(before - 1, 0) * stride
        return low, np.minimum(behind * stride, self._size[index])


def _bisect(
    columns: Sequence[np.ndarray],
    times: Times,
    index: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the times in all windows, joined, and the first row and the row past the last."""
    low, high = times.bracket(index, start, end)
    if not columns:
        return np.empty(0), low, high
    bounds = np.stack([start, end], axis=1)
    brackets = zip(columns, low.tolist(), high.tolist(), strict=True)
    near = [time[lo:hi] for time, lo, hi in brackets]
    rows = np.array([here.searchsorted(both) for here, both in zip(near, bounds, strict=True)])
    found = [here[lo:hi] for here, (lo, hi) in zip(near, rows.tolist(), strict=True)]
    joined = np.concatenate(found).astype(np.float64, copy=False)
    return joined, low + rows[:, 0], low + rows[:, 1]


def gather_spikes(
    spike_time: Sequence[np.ndarray],
    spike_unit: Sequence[np.ndarray],
    times: Times,
    index: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    first_unit: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return spike times (float32), global units (int32) and offsets (int64) of windows.

    Parameters
    ----------
    spike_time, spike_unit : sequence of ndarray, length B
        The columns of the recording of each window.
    times : Times
        Of the recordings' spikes; all of them must be known to it.
    index : ndarray, shape (B,)
        Index of each recording in `times`.
    start, end : ndarray, shape (B,), float64
        Windows in seconds on each recording's clock.
    first_unit : ndarray, shape (B,)
        Added to the units.
    """
    time, first, last = _bisect(spike_time, times, index, start, end)
    rows = zip(spike_unit, first.tolist(), last.tolist(), strict=True)
    units = [column[lo:hi] for column, lo, hi in rows]
    counts = last - first
    unit = np.concatenate(units) if units else np.empty(0)
    unit = unit.astype(np.int32, copy=False)
    unit += np.repeat(first_unit.astype(np.int32), counts)
    time -= np.repeat(start, counts)
    return time.astype(np.float32), unit, join_offsets(counts)


def gather_target(
    series: Sequence[Series | None],
    times: Times,
    windows: Windows,
    channels: int,
    factors: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> TargetBatch:
    """Return the samples of one target in windows.

    Parameters
    ----------
    series : sequence of Series or None, length B
        The target in the recording of each window.
    times : Times
        Of those series that have explicit times; all of them must be known to it.
    windows : Windows
        B windows, with the time that samples are taken from.
    channels : int
        Width of the target.
    factors : sequence of (ndarray, ndarray), length B, optional
        Weights over time as `weight_steps` gives them, for each window.
    """
    first, last = np.zeros((2, len(series)), np.int64)
    timed = np.flatnonzero([one is not None and one.time is not None for one in series])
    gridded = np.flatnonzero([one is not None and one.time is None for one in series])
    found = np.empty(0)
    if len(timed):
        columns = [series[row].time for row in timed.tolist()]  # type: ignore[union-attr]
        aim = windows.recording[timed], windows.target_start[timed], windows.target_end[timed]
        found, first[timed], last[timed] = _bisect(columns, times, *aim)  # type: ignore[arg-type]
    grid = np.empty((0, 3))
    if len(gridded):
        used = [one for one in series if one is not None and one.time is None]
        grid = np.array([(one.start, one.rate, len(one)) for one in used], np.float64)
        first[gridded] = grid_row(windows.target_start[gridded], *grid.T)
        last[gridded] = grid_row(windows.target_end[gridded], *grid.T)
    counts = last - first
    offsets = join_offsets(counts)
    if len(timed) == len(series):
        time = found
    else:
        time = np.empty(offsets[-1])
        time[take_rows(offsets[timed], counts[timed])] = found
    if len(gridded):
        row = take_rows(first[gridded], counts[gridded])
        origin, rate, _ = np.repeat(grid, counts[gridded], axis=0).T
        time[take_rows(offsets[gridded], counts[gridded])] = origin + row / rate
    weight = np.ones(len(time), np.float32)
    for row, (edges, steps) in enumerate(factors):
        mine = slice(offsets[row], offsets[row + 1])
        weight[mine] = steps[edges.searchsorted(time[mine], "right")]
    time -= np.repeat(windows.start, counts)
    rows = zip(series, first.tolist(), last.tolist(), strict=True)
    values = [one.values[lo:hi] for one, lo, hi in rows if one is not None]
    joined = np.concatenate(values) if values else np.empty((0, channels), np.float32)
    return TargetBatch(
        time=time.astype(np.float32),
        values=joined.astype(np.float32, copy=False),
        weight=weight,
        offsets=offsets,
    )


def weight_steps(
    tables: Mapping[str, IntervalSet], factors: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return loss weights over time: the product of the factors of all tables that cover a time.

    Returns
    -------
    edges : ndarray, shape (E,), float64
        Times in seconds at which the weight may change.
    weight : ndarray, shape (E + 1,), float32
        ``weight[i]`` holds from ``edges[i - 1]`` to ``edges[i]``, half-open.
    """
    used = {name: tables[name].coalesce() for name in factors if name in tables}
    bounds = [bound for rows in used.values() for bound in (rows.start, rows.end)]
    edges = np.unique(np.concatenate([np.empty(0), *bounds]))
    weight = np.ones(len(edges) + 1)
    for name, rows in used.items():
        weight[1:][rows.contains(edges)] *= factors[name]
    return edges, weight.astype(np.float32)


def gather_intervals(
    recordings: Sequence[Recording],
    table: str,
    columns: Sequence[str],
    start: np.ndarray,
    end: np.ndarray,
) -> IntervalBatch:
    """Return the rows of one table that share time with windows; none where there is no table.

    Parameters
    ----------
    recordings : sequence of Recording, length B
        The recording of each window.
    table : str
        The interval table.
    columns : sequence of str
        Columns to bring along.
    start, end : ndarray, shape (B,), float64
        Windows in seconds on each recording's clock.
    """
    rows, tables = [], []
    for recording, first, last in zip(recordings, start.tolist(), end.tolist(), strict=True):
        found = recording.intervals.get(table, IntervalSet.empty())
        begun = int(found.start.searchsorted(last))  # rows are sorted by start, not by end
        rows.append(np.flatnonzero(found.end[:begun] > first))
        tables.append(found)
    offsets = join_offsets(np.array([len(one) for one in rows], np.int64))
    clock = np.repeat(start, np.diff(offsets))

    def taken(name: str) -> Iterator[np.ndarray]:
        for recording, one, at in zip(recordings, tables, rows, strict=True):
            if len(at) and name not in one.columns:
                raise SamplingError(
                    f"{recording.recording_id}: '{table}' has no column '{name}'; "
                    + did_you_mean(name, one.columns)
                )
            if name in one.columns:
                yield one.columns[name][at]

    def joined(parts: Iterable[np.ndarray]) -> np.ndarray:
        every = list(parts)
        filled = [part for part in every if len(part)]  # a column that is empty says its type
        return np.concatenate(filled or every[:1] or [np.empty(0)])

    return IntervalBatch(
        start=joined(one.start[at] for one, at in zip(tables, rows, strict=True)) - clock,
        end=joined(one.end[at] for one, at in zip(tables, rows, strict=True)) - clock,
        row=joined(rows).astype(np.int64),
        columns={name: joined(taken(name)) for name in columns},
        offsets=offsets,
    )
