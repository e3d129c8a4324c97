"""What a sampler yields: a batch of windows, joined end to end or padded, and one to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from spikedata.errors import SamplingError
from spikedata.ragged import join_offsets, mask_of, pad, unpad

__all__ = ["Batch", "IntervalBatch", "PaddedBatch", "PaddedTarget", "TargetBatch", "Window"]


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """One target series in the windows of a batch; ``offsets`` cuts it into windows.

    Parameters
    ----------
    time : ndarray, shape (M,), float32
        Sample times in seconds from the start of their window.
    values : ndarray, shape (M, C), float32
        The samples, in the unit of the series.
    weight : ndarray, shape (M,), float32
        What each sample counts in a loss; 1 where the sampler was given no weights.
    offsets : ndarray, shape (B + 1,), int64
        Window ``i`` owns the rows ``offsets[i]:offsets[i + 1]``; none if its recording lacks
        the series.
    """

    time: np.ndarray
    values: np.ndarray
    weight: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True, slots=True)
class IntervalBatch:
    """The rows of one interval table that share time with the windows of a batch.

    Parameters
    ----------
    start, end : ndarray, shape (K,), float64
        Seconds from the start of the window; a row may begin before it and end behind it.
    row : ndarray, shape (K,), int64
        Row in the recording's table, where all its columns are.
    columns : mapping of str to ndarray, shape (K, ...)
        The columns that the sampler was asked for; none where it was given tables alone.
    offsets : ndarray, shape (B + 1,), int64
        Window ``i`` owns the rows ``offsets[i]:offsets[i + 1]``.
    """

    start: np.ndarray
    end: np.ndarray
    row: np.ndarray
    columns: Mapping[str, np.ndarray]
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
    units : ndarray, shape (P,), int32
        Rows of the units that are present, silent ones included.
    targets : mapping of str to (ndarray, ndarray)
        For each target its times (M,) in seconds from `start`, and its values (M, C).
    intervals : mapping of str to ndarray, shape (K,), int64
        For each interval table its rows that share time with the window.
    """

    recording_id: str
    start: float
    end: float
    spike_time: np.ndarray
    spike_unit: np.ndarray
    units: np.ndarray
    targets: Mapping[str, tuple[np.ndarray, np.ndarray]]
    intervals: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of several lengths and recordings, joined end to end.

    Every array is a copy: it outlives the store's mapping and may be changed.

    Parameters
    ----------
    recording_ids : tuple of str, length R
        The recordings of the sampler.
    recording : ndarray, shape (B,), int64
        Index in `recording_ids` of each window.
    start, end : ndarray, shape (B,), float64
        Windows in seconds on their recording's clock.
    length : ndarray, shape (B,), float64
        Seconds that each window lasts on its own clock, on which all times below are given;
        ``end - start`` unless an augmentation stretches time.
    spike_time : ndarray, shape (N,), float32
        Seconds from the start of the window, subtracted in float64.
    spike_unit : ndarray, shape (N,), int32
        Global unit index: row in `Sampler.unit_ids`.
    spike_offsets : ndarray, shape (B + 1,), int64
        Window ``i`` owns the spikes ``spike_offsets[i]:spike_offsets[i + 1]``.
    unit : ndarray, shape (P,), int32
        Global indices of the units that each window has, silent ones included, ascending.
    unit_offsets : ndarray, shape (B + 1,), int64
        Window ``i`` has the units ``unit[unit_offsets[i]:unit_offsets[i + 1]]``.
    first_unit : ndarray, shape (B,), int64
        Global index of the first unit of each window's recording.
    targets : mapping of str to TargetBatch
        What is to be predicted.
    intervals : mapping of str to IntervalBatch
        Rows of the interval tables that were asked for.
    """

    recording_ids: tuple[str, ...]
    recording: np.ndarray
    start: np.ndarray
    end: np.ndarray
    length: np.ndarray
    spike_time: np.ndarray
    spike_unit: np.ndarray
    spike_offsets: np.ndarray
    unit: np.ndarray
    unit_offsets: np.ndarray
    first_unit: np.ndarray
    targets: Mapping[str, TargetBatch] = field(default_factory=dict)
    intervals: Mapping[str, IntervalBatch] = field(default_factory=dict)

    def __repr__(self) -> str:
        held = [f"{len(self)} windows of {len(np.unique(self.recording))} recordings"]
        held.append(f"{len(self.spike_time)} spikes")
        held += [f"{name} {one.values.shape}" for name, one in self.targets.items()]
        held += [f"{len(one.row)} rows of {name}" for name, one in self.intervals.items()]
        return f"Batch({', '.join(held)})"

    def __len__(self) -> int:
        return len(self.recording)

    def __iter__(self) -> Iterator[Window]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int) -> Window:
        if not -len(self) <= row < len(self):
            raise IndexError(f"Window {row} of a batch of {len(self)}.")
        row %= len(self)

        def mine(offsets: np.ndarray) -> slice:
            return slice(offsets[row], offsets[row + 1])

        first = np.int32(self.first_unit[row])
        return Window(
            recording_id=self.recording_ids[int(self.recording[row])],
            start=float(self.start[row]),
            end=float(self.end[row]),
            spike_time=self.spike_time[mine(self.spike_offsets)],
            spike_unit=self.spike_unit[mine(self.spike_offsets)] - first,
            units=self.unit[mine(self.unit_offsets)] - first,
            targets={
                name: (one.time[mine(one.offsets)], one.values[mine(one.offsets)])
                for name, one in self.targets.items()
            },
            intervals={name: one.row[mine(one.offsets)] for name, one in self.intervals.items()},
        )

    def padded(self, multiple: int = 1) -> PaddedBatch:
        """Return the spikes and targets as rectangles, one row a window.

        Parameters
        ----------
        multiple : int
            The number of spikes a row is rounded up to a multiple of this.
        """
        if not isinstance(multiple, (int, np.integer)) or multiple < 1:
            raise SamplingError(
                f"Batch.padded: multiple must be a whole number of 1 or more, found {multiple!r}."
            )
        mask = mask_of(self.spike_offsets, int(multiple))
        targets = {}
        for name, one in self.targets.items():
            taken = mask_of(one.offsets)
            targets[name] = PaddedTarget(
                pad(one.time, taken), pad(one.values, taken), pad(one.weight, taken), taken
            )
        return PaddedBatch(
            self, pad(self.spike_time, mask), pad(self.spike_unit, mask), mask, targets
        )


@dataclass(frozen=True, slots=True)
class PaddedTarget:
    """One target series of a batch in rectangles of B windows and M samples, zeros as padding.

    Parameters
    ----------
    time : ndarray, shape (B, M), float32
    values : ndarray, shape (B, M, C), float32
    weight : ndarray, shape (B, M), float32
        As in `TargetBatch`; padding weighs 0.
    mask : ndarray, shape (B, M), bool
        Where there is a sample.
    """

    time: np.ndarray
    values: np.ndarray
    weight: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """The spikes and targets of a batch in rectangles of B windows and N spikes.

    Parameters
    ----------
    batch : Batch
        What it was made from, with everything that is not padded.
    spike_time : ndarray, shape (B, N), float32
    spike_unit : ndarray, shape (B, N), int32
        As in `Batch`, zeros as padding.
    mask : ndarray, shape (B, N), bool
        Where there is a spike.
    targets : mapping of str to PaddedTarget
    """

    batch: Batch
    spike_time: np.ndarray
    spike_unit: np.ndarray
    mask: np.ndarray
    targets: Mapping[str, PaddedTarget]

    def ragged(self) -> Batch:
        """Return the batch with the spikes and targets of the rectangles, joined end to end."""
        targets = {
            name: TargetBatch(
                time=unpad(one.time, one.mask),
                values=unpad(one.values, one.mask),
                weight=unpad(one.weight, one.mask),
                offsets=join_offsets(one.mask.sum(axis=1)),
            )
            for name, one in self.targets.items()
        }
        return replace(
            self.batch,
            spike_time=unpad(self.spike_time, self.mask),
            spike_unit=unpad(self.spike_unit, self.mask),
            spike_offsets=join_offsets(self.mask.sum(axis=1)),
            targets=targets,
        )
