"""Batches of windows of spikes and behaviour, each a pure function of where it stands in a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from spikedata.augment import Augmentation
from spikedata.batch import Batch
from spikedata.choices import (
    by_id,
    check_tables,
    choose_targets,
    choose_weights,
    misfits,
    outlines_of,
    refuse,
    wrong_choices,
)
from spikedata.epochs import Epoch, Epochs
from spikedata.errors import IntervalError, SamplingError, did_you_mean
from spikedata.intervals import IntervalSet
from spikedata.outline import Outline
from spikedata.reader import Reader
from spikedata.recording import Recording
from spikedata.windows import ROUNDING, Around, Lengths, Windows, check_windows, event_windows

__all__ = ["Sampler"]

AUGMENTING = 2  # what a generator is for, beside those of `spikedata.epochs`


class Sampler:
    """Draws batches of windows from one split of some recordings.

    A batch is a pure function of (seed, epoch, step, rank, world_size): no generator's history
    matters. A run that keeps seed, epoch and step resumes as if it had never stopped, and any
    batch can be made again alone, in any process.

    Parameters
    ----------
    recordings : mapping of str to Recording, or sequence of Recording
        A `Store`, a dict, or recordings in memory.
    split : str
        "train", "valid" or "test".
    window : float, (float, float), callable, or Around
        Length of the windows in seconds, the bounds of a uniformly drawn length, the inverse
        distribution function of a length (see `spikedata.windows.Lengths`), or the events that
        the windows lie around.
    batch_size : int, optional
        Most windows in a batch; 32 when neither this nor `max_tokens` is given.
    max_tokens : int, optional
        Most tokens in a batch: its spikes, and `unit_tokens` for each unit of each window. A window
        that has more is a batch of its own. All windows of an epoch are counted before its
        first batch, about a microsecond each.
    unit_tokens : int
        Tokens that each unit adds to a window; 2 for the delimiters of POYO.
    targets : sequence of str, or mapping of str to sequence of str, optional
        Series to bring along, of every recording that has them, or for each recording id its own;
        the targets that each recording names when not given.
    weights : mapping of str to float, or mapping of str to such a mapping, optional
        What samples of the targets count in a loss inside the intervals of a table, as
        ``{"reach": 5.0, "outlier": 0.0}``; factors of overlapping tables are multiplied, and
        samples in none of them count 1. For each target its own when nested.
    intervals : sequence of str, or mapping of str to sequence of str
        Interval tables whose rows come along, and for each its columns when a mapping.
    recording_ids : sequence of str, optional
        Which of `recordings` to use; all when not given.
    scheme : str, optional
        Split scheme; each recording's first when not given.
    order : "random" or "sequential"
        Random: every epoch draws as many windows as tile the split, one start in each of as
        many equal strata of every interval, in random order. Sequential: the same windows each
        time, `stride` apart, plus one that ends with the interval, so that all of it is covered.
    stride : float, optional
        Seconds between the starts of sequential windows; the length of the targets' time when
        not given.
    predict : float, optional
        The window is history only: targets are taken from this many seconds right after its end,
        which must lie in the same interval of the split. Targets of the window itself when
        not given.
    short : "drop" or "keep"
        Intervals too short for a window give none, or one window of what they hold.
    group : "mixed" or "recording"
        Whether the windows of a batch may come from several recordings.
    dataset_weights : mapping of str to float, optional
        How many times as many windows of each dataset an epoch draws; 1 for those not named.
    augment : sequence of callable
        Applied to every batch in turn, as ``augmentation(batch, rng) -> batch``; see
        `spikedata.augment`.
    seed : int
        Root of all randomness.
    rank, world_size : int
        This process, and how many share the epoch. Batches that do not fill a step of all ranks are
        left out of a random epoch, so that every rank makes the same number of steps. With
        `max_tokens` the ranks of a step get about equally many tokens.

    Attributes
    ----------
    dropped : Counter of str
        What gives no window, by rule: "short interval", "event without a time", "event whose
        window leaves the split".

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
        window: float | Sequence[float] | Callable[[np.ndarray], np.ndarray] | Around = 1.0,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        unit_tokens: int = 2,
        targets: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        weights: Mapping[str, float] | Mapping[str, Mapping[str, float]] | None = None,
        intervals: Sequence[str] | Mapping[str, Sequence[str]] = (),
        recording_ids: Sequence[str] | None = None,
        scheme: str | None = None,
        order: Literal["random", "sequential"] = "random",
        stride: float | None = None,
        predict: float | None = None,
        short: Literal["drop", "keep"] = "drop",
        group: Literal["mixed", "recording"] = "mixed",
        dataset_weights: Mapping[str, float] | None = None,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        names = {"recording_ids": recording_ids, "targets": targets, "intervals": intervals}
        sizes = {"batch_size": batch_size, "max_tokens": max_tokens}  # or None
        whole = {"unit_tokens": unit_tokens, "seed": seed, "rank": rank, "world_size": world_size}
        seconds = {"stride": stride, "predict": predict}
        factors = {"weights": weights, "dataset_weights": dataset_weights}
        refuse(misfits(names, sizes, whole, seconds, factors, augment))
        recordings = by_id(recordings)
        # A store stays what it is; what a dict holds must not change under the sampler.
        self.recordings = dict(recordings) if isinstance(recordings, dict) else recordings
        self.recording_ids = tuple(iter(recordings) if recording_ids is None else recording_ids)
        self.split, self.scheme, self.short = split, scheme, short
        self.order: Literal["random", "sequential"] = order
        self.group: Literal["mixed", "recording"] = group
        self.around = window if isinstance(window, Around) else None
        self.lengths = Lengths(self.around.length if self.around else window)  # type: ignore[arg-type]
        self.predict = 0.0 if predict is None else float(predict)
        self.stride = float((self.predict or self.lengths.bounds[1]) if stride is None else stride)
        # A number of numpy may be of a type that has no room for what is computed with it.
        self.batch_size, self.max_tokens = (
            None if size is None else int(size)
            for size in (32 if batch_size is max_tokens is None else batch_size, max_tokens)
        )
        self.dataset_weights, self.augment = dict(dataset_weights or {}), tuple(augment)
        self.unit_tokens, self.seed = int(unit_tokens), int(seed)
        self.rank, self.world_size = int(rank), int(world_size)
        tables = intervals if isinstance(intervals, Mapping) else dict.fromkeys(intervals, ())
        self.intervals = {name: tuple(columns) for name, columns in tables.items()}
        named = [*(recording_ids or ()), *(targets if isinstance(targets, Mapping) else ())]
        refuse(self._problems(predict, named))
        outlines = outlines_of(self.recordings, self.recording_ids)
        wanted, channels = choose_targets(outlines, targets)
        self.targets = tuple(channels)
        self.weights = choose_weights(self.targets, weights or {})
        weighing = [table for factors in self.weights.values() for table in factors]
        aligned = [self.around.table] if self.around else []
        check_tables(outlines, [*weighing, *self.intervals, *aligned])
        self._reader = Reader(
            self.recordings, outlines, wanted, channels, self.weights, self.intervals
        )
        self.unit_offsets = self._reader.unit_offsets
        self.dropped: Counter[str] = Counter()
        self._epochs = self._choose_rows(outlines)
        self._planned: tuple[int, Epoch] | None = None
        if self._epochs.steps_ahead == 0:
            raise SamplingError(
                f"Sampler: an epoch of {self._epochs.totals.sum()} windows has fewer batches of "
                f"{self.batch_size} than the {world_size} ranks that share it; take a smaller "
                "batch_size."
            )

    def __repr__(self) -> str:
        return (
            f"Sampler('{self.split}' of {len(self.recording_ids)} recordings, "
            f"{len(self.plan()[0])} windows an epoch)"
        )

    def _problems(self, predict: float | None, named: Sequence[str]) -> list[str]:
        problems = []
        low, high = self.lengths.bounds
        if not 0 < low <= high < np.inf:
            problems.append(f"window needs lengths above 0 s, found {low} to {high}")
        for name, seconds in (("stride", self.stride), ("predict", predict)):
            if seconds is not None and not 0 < seconds < np.inf:
                problems.append(f"{name} must be above 0 s, found {seconds}")
        for name, least in (("batch_size", 1), ("max_tokens", 1), ("seed", 0), ("unit_tokens", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                problems.append(f"{name} must be {least} or more, found {value}")
        for name, known in (
            ("order", ("random", "sequential")), ("short", ("drop", "keep")),
            ("group", ("mixed", "recording")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                problems.append(f"{name} must be {' or '.join(map(repr, known))}, found "
                                f"'{getattr(self, name)}'")  # fmt: skip
        if self.order == "sequential" and low != high:
            problems.append("sequential windows need one length, not a range")
        if self.order == "sequential" and self.dataset_weights:
            problems.append("dataset_weights are for random windows, not for sequential ones")
        if not 0 <= self.rank < self.world_size:
            problems.append(f"rank {self.rank} does not exist in a world of {self.world_size}")
        chosen = (self.recordings, named, self.recording_ids, self.dataset_weights)
        return problems + wrong_choices(*chosen)

    # -------------------------------------------------------------- what recordings hold

    def _choose_rows(self, outlines: Sequence[Outline]) -> Epochs:
        """Collect the intervals that windows are drawn from, or the windows around events."""
        try:
            splits = [one.split(self.split, self.scheme) for one in outlines]
        except IntervalError as error:
            raise SamplingError(str(error)) from None
        if self.around is not None:
            splits = [self._around(row, *split) for row, split in enumerate(splits)]
        index = np.repeat(np.arange(len(splits), dtype=np.int32), [len(one[0]) for one in splits])
        start, end = (np.concatenate(column) for column in zip(*splits, strict=True))
        shortest = self.lengths.bounds[0]
        if self.around is None:
            span = end - start - self.predict
            fits = span >= shortest - ROUNDING
            if self.short == "keep":
                fits = span > (ROUNDING if self.predict else 0)
            self.dropped["short interval"] += int(np.sum(~fits))
            index, start, end = index[fits], start[fits], end[fits]
        dataset = [name.split("/")[0] for name in self.recording_ids]
        names = sorted(set(dataset))
        epochs = Epochs(
            index, start, end,
            dataset=np.array([names.index(name) for name in dataset])[index],
            shares=np.array([self.dataset_weights.get(name, 1.0) for name in names]),
            lengths=None if self.around else self.lengths,
            order=self.order, stride=self.stride, predict=self.predict,
            batch_size=self.batch_size, max_tokens=self.max_tokens, group=self.group,
            seed=self.seed, rank=self.rank, world_size=self.world_size,
        )  # fmt: skip
        if epochs.totals.sum() == 0:
            found = ", ".join(f"{rule}: {count}" for rule, count in self.dropped.items() if count)
            found = found or (f"no event fits {self.around}" if self.around else "it is empty")
            raise SamplingError(
                f"Split '{self.split}' of {len(splits)} recordings holds no window of {shortest:g} "
                f"s ({found}): take a shorter window, short='keep', or another split."
            )
        return epochs

    def _around(
        self, index: int, first: np.ndarray, last: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return start and end of the windows around the events of one recording."""
        assert self.around is not None
        table = self._reader.open(index).intervals.get(self.around.table, IntervalSet.empty())
        events = self.around.events(table, self.recording_ids[index])
        known = events[np.isfinite(events)]
        start, end, outside = event_windows(known, self.around, first, last, self.predict)
        self.dropped["event without a time"] += len(events) - len(known)
        self.dropped["event whose window leaves the split"] += outside
        return start, end

    @cached_property
    def unit_ids(self) -> np.ndarray:
        """Ids of the units of all recordings, shape (U,), str; the row is the global index."""
        tables = [self._reader.open(row).unit_ids for row in range(len(self.recording_ids))]
        return np.concatenate([np.asarray(ids, np.str_) for ids in tables])

    def split_intervals(self, recording_id: str) -> IntervalSet:
        """Return the intervals, or the windows around events, that one recording gives."""
        if recording_id not in self.recording_ids:
            raise SamplingError(
                f"Sampler: no recording '{recording_id}'; "
                + did_you_mean(recording_id, self.recording_ids)
            )
        rows, index = self._epochs, self.recording_ids.index(recording_id)
        mine = rows.recording == index
        return IntervalSet.sorted(rows.start[mine], rows.end[mine])

    # -------------------------------------------------------------- which windows

    def __getstate__(self) -> dict[str, object]:
        """Leave out what can be had again, so that a sampler of a `Store` pickles small."""
        left_out = {"unit_ids", "_planned"}
        return {name: one for name, one in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _planned=None)

    def _plan(self, epoch: int) -> Epoch:
        """Return an epoch; the last one is kept, only to save planning it again."""
        planned = self._planned
        if planned is None or planned[0] != epoch:
            planned = self._planned = None  # two epochs at once would take twice the memory
            planned = (epoch, self._epochs.plan(epoch, self._count_tokens))
            for name in planned[1].windows.__slots__:
                getattr(planned[1].windows, name).flags.writeable = False
            self._planned = planned
        return planned[1]

    def _count_tokens(self, windows: Windows) -> np.ndarray:
        """Return the tokens of each window: its spikes, and `unit_tokens` for each unit."""
        n_units = np.diff(self.unit_offsets)[windows.recording]
        return self._reader.count_spikes(windows) + n_units * self.unit_tokens

    def plan(self, epoch: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all windows of an epoch, over all ranks, before they are dealt out as batches.

        Returns
        -------
        recording : ndarray, shape (W,), int32
            Index in `recording_ids`.
        start, end : ndarray, shape (W,), float64
            Seconds on the recording's clock. All three are read-only.
        """
        windows = self._plan(epoch).windows
        return windows.recording, windows.start, windows.end

    def steps(self, epoch: int = 0) -> int:
        """Return how many batches this rank makes of an epoch.

        Every epoch has as many, unless `max_tokens` is given, or weighted datasets are grouped by
        recording: then it depends on the windows that were drawn.
        """
        ahead = self._epochs.steps_ahead
        return len(self._plan(epoch).mine) if ahead is None else ahead

    def __len__(self) -> int:
        return self.steps()

    # -------------------------------------------------------------- their data

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of epoch 0, each time the same; `epoch` yields those of the others."""
        return self.epoch(0)

    def epoch(self, epoch: int, step: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, from a step on; every epoch draws new windows."""
        steps = self.steps(epoch)
        if not 0 <= step <= steps:
            raise SamplingError(f"Epoch {epoch} has {steps} steps, it cannot begin at {step}.")
        return (self.batch(epoch, at) for at in range(step, steps))

    def batch(self, epoch: int, step: int) -> Batch:
        """Return one batch, whatever was drawn before.

        Raises
        ------
        SamplingError
            If the epoch has no such step, or a recording was ingested again.
        """
        if not 0 <= step < self.steps(epoch):
            raise SamplingError(f"Epoch {epoch} has {self.steps(epoch)} steps, none is {step}.")
        plan = self._plan(epoch)
        number = int(plan.mine[step])
        batch = self._reader.read(plan.windows.take(slice(*plan.offsets[number : number + 2])))
        if self.augment:
            rng = np.random.default_rng([self.seed, epoch, AUGMENTING, number])
            for augmentation in self.augment:
                batch = augmentation(batch, rng)
        return batch

    def gather(self, recording: np.ndarray, start: np.ndarray, end: np.ndarray) -> Batch:
        """Return the data of any windows of the sampler's recordings, as they were recorded.

        Parameters
        ----------
        recording : ndarray, shape (B,), int
            Index in `recording_ids`.
        start, end : ndarray, shape (B,), float64
            Windows in seconds on each recording's clock; `predict` seconds behind them are the
            targets, where the sampler has that.
        """
        recording = np.asarray(recording, np.int64)
        start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
        check_windows(recording, start, end, len(self.recording_ids))
        aim = (end, end + self.predict) if self.predict else (start, end)
        return self._reader.read(Windows(recording, start, end, *aim))
