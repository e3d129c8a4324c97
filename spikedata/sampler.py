"""Windows of spikes and behaviour from split intervals, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from spikedata.batch import Batch, TargetBatch
from spikedata.errors import IntervalError, SamplingError, did_you_mean
from spikedata.intervals import IntervalSet, window_bounds
from spikedata.ragged import join_offsets, take_rows
from spikedata.recording import Recording

__all__ = ["Sampler"]

ROUNDING = 5e-7  # s by which sums of times may be off, on a clock that counts from 1970


class Sampler:
    """Draws batches of windows from one split of some recordings.

    A batch is a pure function of (seed, epoch, step, rank, world_size): no generator's history
    matters, so a run resumes by arithmetic and any batch can be rebuilt alone.

    Parameters
    ----------
    recordings : mapping of str to Recording, or sequence of Recording
        A `Store`, a dict, or recordings in memory.
    split : str
        "train", "valid" or "test".
    window : float or (float, float)
        Length of the windows in seconds, or the bounds of a uniformly drawn length.
    batch_size : int
        Windows a batch; the last one of an epoch may hold fewer.
    targets : sequence of str, or mapping of str to sequence of str, optional
        Series to bring along, of every recording that has them, or for each recording id its own;
        the targets that each recording names when not given.
    recording_ids : sequence of str, optional
        Which of `recordings` to use; all when not given.
    scheme : str, optional
        Split scheme; each recording's first when not given.
    order : "random" or "sequential"
        Random: every epoch draws as many windows as tile the split, one start in each of as
        many equal strata of every interval, in random order. Sequential: the same windows each
        time, `stride` apart, plus one that ends with the interval, so that all of it is covered.
    stride : float, optional
        Seconds between the starts of sequential windows; the window length when not given.
    short : "drop" or "keep"
        Intervals shorter than the window give no window, or one window of their own length.
        The number dropped is in `n_short`.
    seed : int
        Root of all randomness.
    rank, world_size : int
        This process, and how many share the epoch. Steps that do not fill all ranks are left
        out of a random epoch, so that every rank makes the same number.

    Raises
    ------
    SamplingError
        If an argument makes no sense, a recording lacks what is asked for, or no window fits.

    Examples
    --------
    >>> from spikedata.testing import make_recording
    >>> sampler = Sampler([make_recording(seed=0)], window=1.0, batch_size=8)
    >>> batch = next(iter(sampler))
    >>> len(batch), batch[0].end - batch[0].start
    (8, 1.0)
    """

    def __init__(
        self,
        recordings: Mapping[str, Recording] | Sequence[Recording],
        split: str = "train",
        *,
        window: float | Sequence[float] = 1.0,
        batch_size: int = 32,
        targets: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        recording_ids: Sequence[str] | None = None,
        scheme: str | None = None,
        order: Literal["random", "sequential"] = "random",
        stride: float | None = None,
        short: Literal["drop", "keep"] = "drop",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if isinstance(recordings, Mapping):
            self.recordings, given = recordings, tuple(recordings)
        else:
            self.recordings = {recording.recording_id: recording for recording in recordings}
            given = tuple(recording.recording_id for recording in recordings)
        self.recording_ids = given if recording_ids is None else tuple(recording_ids)
        self.split, self.scheme, self.order, self.short = split, scheme, order, short
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        lengths = np.ravel(window).astype(float).tolist()
        if len(lengths) not in (1, 2):
            raise SamplingError(
                f"Sampler: window needs a length or two bounds in seconds, found {window!r}."
            )
        self.min_length, self.max_length = lengths[0], lengths[-1]
        self.stride = self.max_length if stride is None else stride
        self._check_arguments()
        self._read_recordings(targets)

    def _check_arguments(self) -> None:
        problems = []
        if not 0 < self.min_length <= self.max_length < np.inf:
            problems.append(f"window needs lengths above 0 s, found {self.min_length}"
                            f" to {self.max_length}")  # fmt: skip
        if not (0 < self.stride < np.inf):
            problems.append(f"stride must be above 0 s, found {self.stride}")
        if self.batch_size < 1:
            problems.append(f"batch_size must be 1 or more, found {self.batch_size}")
        if self.order not in ("random", "sequential"):
            problems.append(f"order must be 'random' or 'sequential', found '{self.order}'")
        if self.order == "sequential" and self.min_length != self.max_length:
            problems.append("sequential windows need one length, not a range")
        if self.short not in ("drop", "keep"):
            problems.append(f"short must be 'drop' or 'keep', found '{self.short}'")
        if self.seed < 0:
            problems.append(f"seed must be 0 or more, found {self.seed}")
        if not 0 <= self.rank < self.world_size:
            problems.append(f"rank {self.rank} does not exist in a world of {self.world_size}")
        missing = [name for name in self.recording_ids if name not in self.recordings]
        problems += [
            f"no recording '{name}'; {did_you_mean(name, self.recordings)}" for name in missing
        ]
        twice = {name for name in self.recording_ids if self.recording_ids.count(name) > 1}
        problems += [f"recording '{name}' is given twice" for name in sorted(twice)]
        if not self.recording_ids:
            problems.append("no recordings were given")
        if problems:
            raise SamplingError(f"Sampler: {'; '.join(problems)}.")

    def _read_recordings(self, targets: Sequence[str] | Mapping[str, Sequence[str]] | None) -> None:
        """Collect intervals, units and targets of the recordings; nothing else of them is kept."""
        rows, counts, wanted = [], [], []
        for index, recording_id in enumerate(self.recording_ids):
            recording = self.recordings[recording_id]
            try:
                intervals = recording.split(self.split, self.scheme)
            except IntervalError as error:
                raise SamplingError(str(error)) from None
            rows.append(np.stack([np.full(len(intervals), index), intervals.start, intervals.end]))
            counts.append(recording.n_units)
            if targets is None:
                wanted.append(recording.targets)
            else:
                wanted.append(
                    targets.get(recording_id, ()) if isinstance(targets, Mapping) else targets
                )
        self.unit_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.targets = tuple(dict.fromkeys(name for names in wanted for name in names))
        self._wanted = wanted
        self._channels = self._count_channels()
        table = np.concatenate(rows, axis=1)
        span = table[2] - table[1]
        fits = span >= self.min_length - ROUNDING
        self.n_short = int(np.sum(~fits))
        if self.short == "drop":
            table, span = table[:, fits], span[fits]
        if table.shape[1] == 0:
            raise SamplingError(
                f"Split '{self.split}' of {len(self.recording_ids)} recordings holds no window of "
                f"{self.min_length} s: {self.n_short} intervals are shorter; take a shorter "
                "window, short='keep', or another split."
            )
        self._recording = table[0].astype(np.int64)
        self._start, self._end = table[1], table[2]
        if self.order == "sequential":
            beyond = np.maximum(span - self.max_length - ROUNDING, 0)
            self._count = np.ceil(beyond / self.stride).astype(np.int64) + 1
        else:
            whole = np.floor((span + ROUNDING) / ((self.min_length + self.max_length) / 2))
            self._count = np.maximum(whole, 1).astype(np.int64)
        self._planned = None  # the last plan drawn, kept only to save drawing it again

    def _count_channels(self) -> dict[str, int]:
        """Return the width of each target, which must be the same wherever it is found."""
        found: dict[str, tuple[int, str]] = {}
        for recording_id, wanted in zip(self.recording_ids, self._wanted, strict=True):
            for name, one in self.recordings[recording_id].series.items():
                if name not in wanted:
                    continue
                width, first = found.setdefault(name, (one.values.shape[1], recording_id))
                if width != one.values.shape[1]:
                    raise SamplingError(
                        f"'{name}' has {one.values.shape[1]} channels in {recording_id}, {width} "
                        f"in {first}: sample them apart, or name the series differently."
                    )
        for name in self.targets:
            if name not in found:
                known = {name for one in self.recording_ids for name in self.recordings[one].series}
                raise SamplingError(f"No series is called '{name}'; {did_you_mean(name, known)}.")
        return {name: found[name][0] for name in self.targets}

    @cached_property
    def unit_ids(self) -> np.ndarray:
        """Ids of the units of all recordings, shape (U,), str; the row is the global index."""
        tables = [self.recordings[name].unit_ids for name in self.recording_ids]
        return np.concatenate([np.asarray(ids, np.str_) for ids in tables])

    def __getstate__(self) -> dict[str, object]:
        """Leave out what can be had again, so that a sampler of a `Store` pickles small."""
        left_out = {"unit_ids", "_planned"}
        return {name: one for name, one in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _planned=None)

    # -------------------------------------------------------------- which windows

    def plan(self, epoch: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all windows of an epoch, over all ranks, in the order they are used.

        Returns
        -------
        recording : ndarray, shape (W,), int64
            Index in `recording_ids`.
        start, end : ndarray, shape (W,), float64
            Seconds on the recording's clock. All three are read-only.
        """
        if self._planned is None or self._planned[0] != epoch:
            draw = self._sequential_plan if self.order == "sequential" else self._random_plan
            columns = draw(epoch)
            for column in columns:
                column.flags.writeable = False
            self._planned = (epoch, columns)
        return self._planned[1]

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the interval of each window of an epoch, and which one it is of its interval."""
        row = np.repeat(np.arange(len(self._count)), self._count)
        return row, np.arange(len(row)) - np.repeat(
            np.cumsum(self._count) - self._count, self._count
        )

    def _random_plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch])
        row, stratum = self._rows()
        first, last = self._start[row], self._end[row]
        length = rng.uniform(self.min_length, self.max_length, len(row))
        if self.max_length == self.min_length:
            length[:] = self.max_length
        length = np.minimum(length, last - first)
        place = (stratum + rng.random(len(row))) / self._count[row]
        start = np.minimum(first + place * (last - first - length), last - length)
        start = np.maximum(start, first)
        end = np.minimum(start + length, last)
        order = rng.permutation(len(row))
        return self._recording[row][order], start[order], end[order]

    def _sequential_plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row, step = self._rows()
        first, last = self._start[row], self._end[row]
        length = np.minimum(self.max_length, last - first)
        start = np.maximum(np.minimum(first + step * self.stride, last - length), first)
        end = np.minimum(start + length, last)
        # Rounding must not lose a sample between two windows, or behind the last of an interval.
        then = np.where(step == self._count[row] - 1, last, np.roll(start, -1))
        return self._recording[row], start, np.where(np.abs(then - end) <= ROUNDING, then, end)

    def steps(self, epoch: int = 0) -> int:
        """Return how many batches this rank makes of an epoch; every epoch has as many."""
        batches = -(-int(np.sum(self._count)) // self.batch_size)
        if self.order == "random":
            return batches // self.world_size
        return len(range(self.rank, batches, self.world_size))

    def __len__(self) -> int:
        return self.steps()

    # -------------------------------------------------------------- their data

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch; pass 0, 1, 2, … for new windows each time."""
        return (self.batch(epoch, step) for step in range(self.steps(epoch)))

    def batch(self, epoch: int, step: int) -> Batch:
        """Return one batch, whatever was drawn before.

        Raises
        ------
        SamplingError
            If the epoch has no such step.
        """
        plan = self.plan(epoch)
        if not 0 <= step < self.steps(epoch):
            raise SamplingError(f"Epoch {epoch} has {self.steps(epoch)} steps, none is {step}.")
        first = (step * self.world_size + self.rank) * self.batch_size
        recording, start, end = (column[first : first + self.batch_size] for column in plan)
        return self.gather(recording, start, end)

    def gather(self, recording: np.ndarray, start: np.ndarray, end: np.ndarray) -> Batch:
        """Return the data of any windows of the sampler's recordings.

        Parameters
        ----------
        recording : ndarray, shape (B,), int64
            Index in `recording_ids`.
        start, end : ndarray, shape (B,), float64
            Windows in seconds on each recording's clock.
        """
        opened = {
            index: self.recordings[self.recording_ids[index]] for index in set(recording.tolist())
        }
        lo, hi = np.zeros((2, len(recording)), np.int64)
        for index, one in opened.items():
            mine = recording == index
            lo[mine], hi[mine] = window_bounds(one.spike_time, start[mine], end[mine])
        offsets = np.concatenate([[0], np.cumsum(hi - lo)])
        spike_time = np.empty(offsets[-1], np.float32)
        spike_unit = np.empty(offsets[-1], np.int32)
        for row, index in enumerate(recording.tolist()):
            one, source = opened[index], slice(lo[row], hi[row])
            here = slice(offsets[row], offsets[row + 1])
            np.subtract(
                one.spike_time[source], start[row], out=spike_time[here], casting="same_kind"
            )
            np.add(one.spike_unit[source], np.int32(self.unit_offsets[index]), out=spike_unit[here])
        n_units = np.diff(self.unit_offsets)[recording]
        return Batch(
            recording_ids=self.recording_ids,
            recording=recording.copy(),
            start=start.copy(),
            end=end.copy(),
            length=end - start,
            spike_time=spike_time,
            spike_unit=spike_unit,
            spike_offsets=offsets,
            unit=take_rows(self.unit_offsets[recording], n_units).astype(np.int32),
            unit_offsets=join_offsets(n_units),
            first_unit=self.unit_offsets[recording],
            targets={
                name: self._gather_target(name, opened, recording, start, end)
                for name in self.targets
            },
        )

    def _gather_target(
        self,
        name: str,
        opened: Mapping[int, Recording],
        recording: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
    ) -> TargetBatch:
        times, values, counts = [], [], []
        for index, first, last in zip(recording.tolist(), start, end, strict=True):
            series = opened[index].series.get(name) if name in self._wanted[index] else None
            lo, hi = (0, 0) if series is None else map(int, series.bounds(first, last))
            counts.append(hi - lo)
            if series is not None and hi > lo:
                times.append((series.times(slice(lo, hi)) - first).astype(np.float32))
                values.append(np.asarray(series.values[lo:hi], np.float32))
        none = np.empty((0, self._channels[name]), np.float32)
        return TargetBatch(
            time=np.concatenate([np.empty(0, np.float32), *times]),
            values=np.concatenate([none, *values]),
            weight=np.ones(sum(counts), np.float32),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        )

    def split_intervals(self, recording_id: str) -> IntervalSet:
        """Return the intervals that the windows of one recording are drawn from."""
        if recording_id not in self.recording_ids:
            raise SamplingError(
                f"Sampler: no recording '{recording_id}'; "
                + did_you_mean(recording_id, self.recording_ids)
            )
        mine = self._recording == self.recording_ids.index(recording_id)
        return IntervalSet(self._start[mine], self._end[mine])
