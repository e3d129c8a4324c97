"""What a sampler yields: a batch of windows, joined end to end, and one window to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Batch", "TargetBatch", "Window"]


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """One target series in the windows of a batch; ``offsets`` cuts it into windows.

    Parameters
    ----------
    time : ndarray, shape (M,), float32
        Sample times in seconds from the start of their window.
    values : ndarray, shape (M, C), float32
        The samples, in the unit of the series.
    offsets : ndarray, shape (B + 1,), int64
        Window ``i`` owns the rows ``offsets[i]:offsets[i + 1]``; none if its recording lacks
        the series.
    """

    time: np.ndarray
    values: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True, slots=True)
class Window:
    """One window of one recording, for people who want to look.

    Parameters
    ----------
    recording_id : str
        The recording that it was taken from.
    start, end : float
        The half-open window in seconds on the recording's clock.
    spike_time : ndarray, shape (N,), float32
        Seconds from `start`.
    spike_unit : ndarray, shape (N,), int32
        Row of each spike's unit in the recording's unit table.
    targets : mapping of str to (ndarray, ndarray)
        For each target its times (M,) in seconds from `start`, and its values (M, C).
    """

    recording_id: str
    start: float
    end: float
    spike_time: np.ndarray
    spike_unit: np.ndarray
    targets: Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of several lengths and recordings, joined end to end.

    Every array is a copy: it outlives the store's mapping and may be changed.

    Parameters
    ----------
    recording_ids : tuple of str, length R
        The recordings of the sampler.
    unit_offsets : ndarray, shape (R + 1,), int64
        Recording ``r`` owns the global units ``unit_offsets[r]:unit_offsets[r + 1]``.
    recording : ndarray, shape (B,), int64
        Index in `recording_ids` of each window.
    start, end : ndarray, shape (B,), float64
        Windows in seconds on their recording's clock.
    spike_time : ndarray, shape (N,), float32
        Seconds from the start of the window, subtracted in float64.
    spike_unit : ndarray, shape (N,), int32
        Global unit index: row in `Sampler.unit_ids`.
    spike_offsets : ndarray, shape (B + 1,), int64
        Window ``i`` owns the spikes ``spike_offsets[i]:spike_offsets[i + 1]``.
    targets : mapping of str to TargetBatch
        What is to be predicted.
    """

    recording_ids: tuple[str, ...]
    unit_offsets: np.ndarray
    recording: np.ndarray
    start: np.ndarray
    end: np.ndarray
    spike_time: np.ndarray
    spike_unit: np.ndarray
    spike_offsets: np.ndarray
    targets: Mapping[str, TargetBatch]

    def __len__(self) -> int:
        return len(self.recording)

    def __iter__(self) -> Iterator[Window]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int) -> Window:
        if not -len(self) <= row < len(self):
            raise IndexError(f"Window {row} of a batch of {len(self)}.")
        row %= len(self)
        spikes = slice(self.spike_offsets[row], self.spike_offsets[row + 1])
        recording = int(self.recording[row])
        return Window(
            recording_id=self.recording_ids[recording],
            start=float(self.start[row]),
            end=float(self.end[row]),
            spike_time=self.spike_time[spikes],
            spike_unit=self.spike_unit[spikes] - np.int32(self.unit_offsets[recording]),
            targets={
                name: (
                    one.time[slice(*one.offsets[row : row + 2])],
                    one.values[slice(*one.offsets[row : row + 2])],
                )
                for name, one in self.targets.items()
            },
        )
