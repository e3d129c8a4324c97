"""Opens the recordings of a sampler and reads windows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from spikedata.batch import Batch
from spikedata.errors import SamplingError
from spikedata.gather import Times, gather_intervals, gather_spikes, gather_target, weight_steps
from spikedata.intervals import window_bounds
from spikedata.outline import Outline
from spikedata.ragged import join_offsets
from spikedata.recording import Recording, Series
from spikedata.windows import Windows

__all__ = ["Reader"]

KEPT = 4 << 20
"""Bytes of freed memory that glibc keeps for the next batch, once it has seen a block of that size
freed (the dynamic threshold of mallopt(3)). It would return all but a megabyte or two, and have the
system fill new pages with zeros for every batch: a third of the time that a batch takes."""


class _Columns(NamedTuple):
    """What is read of one recording."""

    spike_time: np.ndarray
    spike_unit: np.ndarray
    targets: dict[str, Series]


class Reader:
    """Reads windows of some recordings as batches.

    What it learns of a recording when it is opened first stays: 2 kB for each column of times, and
    the loss weights over time. The columns of as many recordings as a store keeps open are held by
    index, so that a batch of many recordings asks the store for none. It pickles without all that.

    Parameters
    ----------
    recordings : mapping of str to Recording
        A `Store`, or recordings in memory.
    outlines : sequence of Outline, length R
        The recordings that windows are read of, in the order of their index.
    wanted : sequence of set of str, length R
        Targets to read of each recording.
    channels : mapping of str to int
        Width of each target.
    weights : mapping of str to mapping of str to float
        For each target that has any, the factors of interval tables.
    intervals : mapping of str to sequence of str
        Interval tables that come along, and the columns of each.
    """

    def __init__(
        self,
        recordings: Mapping[str, Recording],
        outlines: Sequence[Outline],
        wanted: Sequence[frozenset[str]],
        channels: Mapping[str, int],
        weights: Mapping[str, Mapping[str, float]],
        intervals: Mapping[str, Sequence[str]],
    ) -> None:
        self.recordings = recordings
        self.recording_ids = tuple(one.recording_id for one in outlines)
        self.fingerprints = tuple(one.fingerprint for one in outlines)
        self.unit_offsets = join_offsets(np.array([one.n_units for one in outlines], np.int64))
        self.wanted, self.channels = wanted, channels
        self.weights, self.intervals = weights, intervals
        self._forget()

    def _forget(self) -> None:
        np.empty(KEPT, np.uint8)  # freed at once, untouched: from now on malloc keeps as much
        count = len(self.recording_ids)
        self._spikes = Times(count)
        self._samples = {name: Times(count) for name in self.channels}
        self._learned: set[int] = set()
        self._held: dict[int, _Columns] = {}
        self._most_held = getattr(self.recordings, "max_open", count)
        self._factors: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {name: one for name, one in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()

    def open(self, index: int) -> Recording:
        """Return one recording.

        Raises
        ------
        SamplingError
            If it is not the one any more of which the outline was taken.
        """
        recording = self.recordings[self.recording_ids[index]]
        if recording.fingerprint != self.fingerprints[index]:
            raise SamplingError(
                f"{self.recording_ids[index]} was ingested again after this sampler was made, and "
                "its intervals may have moved: make the sampler again."
            )
        return recording

    def count_spikes(self, windows: Windows) -> np.ndarray:
        """Return the spikes of each window, shape (W,), int64."""
        spikes = np.zeros(len(windows), np.int64)
        order = np.lexsort((windows.start, windows.recording))  # near times are near in memory
        cuts = np.searchsorted(windows.recording[order], np.arange(len(self.recording_ids) + 1))
        for index in range(len(self.recording_ids)):
            mine = order[cuts[index] : cuts[index + 1]]
            if len(mine):
                time = self.open(index).spike_time
                lo, hi = window_bounds(time, windows.start[mine], windows.end[mine])
                spikes[mine] = hi - lo
        return spikes

    def _columns(self, index: int) -> _Columns:
        """Return what is read of one recording, and look at its columns if that is new."""
        recording = self.open(index)
        targets = {name: recording.series[name] for name in self.wanted[index]}
        if index not in self._learned:
            self._spikes.learn(index, recording.spike_time)
            for name, series in targets.items():
                if series.time is not None:
                    self._samples[name].learn(index, series.time)
            for name, factors in self.weights.items():
                self._factors[name, index] = weight_steps(recording.intervals, factors)
            self._learned.add(index)
        if len(self._held) >= self._most_held:
            self._held.clear()
        self._held[index] = columns = _Columns(recording.spike_time, recording.spike_unit, targets)
        return columns

    def read(self, windows: Windows) -> Batch:
        """Return the data of windows as a batch."""
        index = windows.recording.astype(np.int64)
        rows, held = index.tolist(), self._held
        columns = {row: held.get(row) or self._columns(row) for row in set(rows)}
        start, end, first_unit = windows.start, windows.end, self.unit_offsets[index]
        spike_time, spike_unit, spike_offsets = gather_spikes(
            [columns[row].spike_time for row in rows],
            [columns[row].spike_unit for row in rows],
            self._spikes, index, start, end, first_unit,
        )  # fmt: skip
        n_units = np.diff(self.unit_offsets)[index]
        unit_offsets = join_offsets(n_units)
        return Batch(
            recording_ids=self.recording_ids,
            recording=index,
            start=start.copy(),
            end=end.copy(),
            length=end - start,
            spike_time=spike_time,
            spike_unit=spike_unit,
            spike_offsets=spike_offsets,
            unit=np.arange(unit_offsets[-1], dtype=np.int32)
            + np.repeat((first_unit - unit_offsets[:-1]).astype(np.int32), n_units),
            unit_offsets=unit_offsets,
            first_unit=first_unit,
            targets={
                name: gather_target(
                    [columns[row].targets.get(name) for row in rows],
                    self._samples[name], windows, width,
                    [self._factors[name, row] for row in rows] if name in self.weights else (),
                )
                for name, width in self.channels.items()
            },
            intervals={
                name: gather_intervals([self.open(row) for row in rows], name, asked, start, end)
                for name, asked in self.intervals.items()
            },
        )  # fmt: skip
