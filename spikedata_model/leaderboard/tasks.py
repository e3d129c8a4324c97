"""Recordings as a suite shows them: what may be learned, what is to be predicted, and the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from spikedata.errors import did_you_mean
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata_model.errors import ConfigError, SuiteError
from spikedata_model.leaderboard.division import Parts, divide, limit
from spikedata_model.leaderboard.protocol import Segment, Session
from spikedata_model.leaderboard.suite import Budget, Group, Suite

__all__ = ["ALL", "Task", "detached", "make_task"]

ALL = "all"  # the name of the whole test split among the phases
HELDOUT = "heldout"  # column of the unit table: which units are hidden where rates are decoded
JITTER = 0.01  # share of a step by which clocks of recordings are seen to vary
ROUNDING = 1e-6  # s; a spike so little before the edge of a bin belongs behind it


@dataclass(frozen=True, eq=False)
class Task:
    """One recording of a suite: `session` is for learning, the rest for scoring.

    Parameters
    ----------
    suite, group : Suite, Group
        Where it belongs.
    recording : Recording
        As it is shown: without hidden units, and with the target as its one series.
    parts : dict of str to IntervalSet
        Training, validation and test time.
    test : tuple of Segment
        What is to be predicted, without values; those without samples are left out.
    truth : ndarray, shape (K, C), float64
        The values of all samples of `test`, in order.
    phases : dict of str to ndarray, shape (K,), bool
        Which samples lie in each interval table that is scored; in "all" every one.
    source, fingerprint : str
        Hashes of the file that it was made from, and of the files in the store.
    """

    suite: Suite
    group: Group
    recording: Recording
    parts: Parts
    test: tuple[Segment, ...]
    truth: np.ndarray
    phases: dict[str, np.ndarray]
    source: str
    fingerprint: str

    @property
    def recording_id(self) -> str:
        """The recording's id."""
        return self.recording.recording_id

    @property
    def target(self) -> Series:
        """What is decoded."""
        return self.recording.series[self.group.target]

    @cached_property
    def time(self) -> np.ndarray:
        """Times of all samples of `test`, shape (K,), in order."""
        return np.concatenate([one.time for one in self.test])

    @property
    def scored(self) -> str:
        """The phase on which the score is taken."""
        return self.group.evaluate_on or ALL

    @cached_property
    def samples_hash(self) -> str:
        """SHA-256 of the times, the true values and the marks of the scored samples."""
        digest = hashlib.sha256(repr(self.target.columns).encode())
        for part in (self.time, self.truth, self.phases[self.scored]):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def lacks(self, budget: Budget) -> str | None:
        """Return why the recording has not the labels of a budget, if it has not."""
        try:
            limit(self.recording, self.parts, self.group, budget, 0)
        except ConfigError as error:
            return str(error)
        return None

    def labelled_seconds(self, budget: Budget, seed: int) -> float:
        """Return how much training time a budget gives; errors as `session`."""
        return limit(self.recording, self.parts, self.group, budget, seed)["train"].duration

    def session(self, budget: Budget, seed: int) -> Session:
        """Return what a decoder may learn from, with the labels of a budget; arrays of its own.

        Raises
        ------
        ConfigError
            If there are fewer labels than the budget asks for.
        """
        parts = limit(self.recording, self.parts, self.group, budget, seed)
        seen, slow = parts["train"] | parts["valid"], self.test[0].at_samples
        return Session(
            recording_id=self.recording_id,
            group=self.group.name,
            unit_ids=tuple(map(str, self.recording.unit_ids)),
            target=self.group.target,
            columns=self.target.columns,
            unit=self.target.unit,
            train=self._shown(parts["train"], slow),
            valid=self._shown(parts["valid"], slow),
            phases={
                name: table.within(seen) for name, table in self.recording.intervals.items()
            },
            evaluate_on=self.group.evaluate_on,
        )  # fmt: skip

    def _shown(self, time: IntervalSet, slow: bool) -> tuple[Segment, ...]:
        return tuple(map(detached, _segments(self.recording, self.target, time, slow)))


def detached(segment: Segment) -> Segment:
    """Return a segment with arrays of its own.

    A slice leads to the whole array that it is a part of (``ndarray.base``), test time and truth
    and all; and what a decoder writes into it would be in what is scored.
    """
    return replace(
        segment,
        spike_time=np.array(segment.spike_time),
        spike_unit=np.array(segment.spike_unit),
        time=np.array(segment.time),
        values=None if segment.values is None else np.array(segment.values),
    )


def make_task(suite: Suite, group: Group, recording: Recording, source: str) -> Task:
    """Return a recording as a suite shows it.

    Parameters
    ----------
    suite, group : Suite, Group
        What is asked, and for which recordings.
    recording : Recording
        As the store has it.
    source : str
        The hash of the file that it was made from, which was compared already.

    Raises
    ------
    SuiteError
        If the recording lacks what the suite names, or values to score are no numbers.
    LeakError
        If training time is nearer to test time than the suite's gap.
    """
    where = f"{suite.name}, {recording.recording_id}"
    wanted = {group.evaluate_on, group.trials, *group.phases} - {None}
    for name in sorted(map(str, wanted)):
        if name not in recording.intervals:
            raise SuiteError(
                f"{where}: there is no interval table '{name}' to score on; "
                f"{did_you_mean(name, recording.intervals)}"
            )
    if suite.task == "rates":
        parts = divide(recording, group, suite)
        shown = _with_hidden_units(where, recording, group, suite, parts)
    else:
        if group.target not in recording.series:
            raise SuiteError(
                f"{where}: there is no series '{group.target}' to decode; "
                f"{did_you_mean(group.target, recording.series)}"
            )
        parts = divide(recording, group, suite)
        series = {group.target: recording.series[group.target]}
        shown = replace(recording, series=series)
    shown = replace(shown, splits={}, targets=(group.target,))
    target = shown.series[group.target]
    slow = _is_slow(target, parts, suite.step)
    labelled = [one for one in _segments(shown, target, parts["test"], slow) if len(one.time)]
    if not labelled:
        raise SuiteError(f"{where}: the test split holds no sample of '{group.target}' to score.")
    truth = np.concatenate([one.labels for one in labelled])
    for name in ("train", "valid"):
        for one in _segments(shown, target, parts[name], slow):
            _check_finite(where, group.target, one.time, one.labels)
    time = np.concatenate([one.time for one in labelled])
    _check_finite(where, group.target, time, truth)
    phases = {ALL: np.ones(len(time), bool)}
    for name in dict.fromkeys(one for one in (group.evaluate_on, *group.phases) if one):
        phases[name] = shown.intervals[name].coalesce().contains(time)
    if not phases[group.evaluate_on or ALL].any():
        raise SuiteError(
            f"{where}: no sample of the test split lies in '{group.evaluate_on}', on which the "
            "suite scores."
        )
    return Task(
        suite, group, shown, parts, tuple(replace(one, values=None) for one in labelled), truth,
        phases, source, recording.fingerprint,
    )  # fmt: skip


def _is_slow(target: Series, parts: Parts, step: float | None) -> bool:
    """Return whether samples are nowhere closer than a step, but for what clocks differ by."""
    if step is None:
        return False
    time = target.times()
    inside = (parts["train"] | parts["valid"] | parts["test"]).contains(time)
    return bool(np.diff(time[inside]).min(initial=np.inf) >= step * (1 - JITTER))


def _segments(
    recording: Recording, target: Series, time: IntervalSet, at_samples: bool
) -> Iterator[Segment]:
    """Yield the stretches of some time, each with its own spikes and samples alone."""
    for start, end in time:
        lo, hi = np.searchsorted(recording.spike_time, [start, end])
        first, last = (int(one) for one in target.bounds(start, end))
        yield Segment(
            recording_id=recording.recording_id,
            start=start,
            end=end,
            spike_time=np.asarray(recording.spike_time[lo:hi]),
            spike_unit=np.asarray(recording.spike_unit[lo:hi]),
            time=np.asarray(target.times(slice(first, last)), np.float64),
            values=np.asarray(target.values[first:last], np.float64),
            at_samples=at_samples,
        )


def _check_finite(where: str, target: str, time: np.ndarray, values: np.ndarray) -> None:
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise SuiteError(
            f"{where}: {bad.sum()} samples of '{target}' are no numbers, first at "
            f"{time[bad][0]:.3f} s; harmonise the recording again."
        )


def _with_hidden_units(
    where: str, recording: Recording, group: Group, suite: Suite, parts: Mapping[str, IntervalSet]
) -> Recording:
    """Return the recording without its held-out units, whose counts are the target.

    Bins of ``suite.step`` s tile the rows of ``evaluate_on`` (all the time of the parts where there
    is none) as far as they lie in one stretch of a part; a sample's time is the middle of its bin.
    """
    if HELDOUT not in recording.units:
        raise SuiteError(
            f"{where}: the unit table has no column '{HELDOUT}', which says what units are hidden."
        )
    hidden = np.asarray(recording.units[HELDOUT], bool)
    if not hidden.any() or hidden.all():
        raise SuiteError(
            f"{where}: {hidden.sum()} of {len(hidden)} units are held out; some must be, not all."
        )
    table = None if group.evaluate_on is None else recording.intervals[group.evaluate_on]
    step = suite.step or 0.0
    starts = [_bin_starts(part, table, step) for part in parts.values()]
    start = np.unique(np.concatenate([np.empty(0), *starts]))
    series = Series(
        _counts(recording, np.flatnonzero(hidden), start, step), "",
        tuple(f"unit {row}" for row in np.flatnonzero(hidden)), time=start + step / 2,
    )  # fmt: skip
    index = np.cumsum(~hidden) - 1
    kept = ~hidden[recording.spike_unit]
    return replace(
        recording,
        spike_time=recording.spike_time[kept],
        spike_unit=index[recording.spike_unit[kept]].astype(np.int32),
        units={name: np.asarray(column)[~hidden] for name, column in recording.units.items()},
        series={group.target: series},
    )


def _bin_starts(part: IntervalSet, table: IntervalSet | None, step: float) -> np.ndarray:
    """Return the starts of the whole bins in the rows of a table, as far as they lie in a part.

    Where rows overlap, the later one begins behind the last bin of the one before it.
    """
    found: list[np.ndarray] = [np.empty(0)]
    behind = -np.inf
    for start, end in part if table is None else table.within(part):
        first = max(start, behind)
        count = max(0, int(np.floor((end - first) / step + ROUNDING)))
        found.append(first + step * np.arange(count))
        behind = first + step * count if count else behind
    return np.concatenate(found)


def _counts(
    recording: Recording, units: Sequence[int] | np.ndarray, start: np.ndarray, step: float
) -> np.ndarray:
    """Return how often units were active in bins ``[start, start + step)``, (B, H), float64."""
    counts = np.empty((len(start), len(units)))
    for column, unit in enumerate(units):
        own = recording.spike_time[recording.spike_unit == unit]
        lo, hi = np.searchsorted(own, np.stack([start, start + step]) - ROUNDING)
        counts[:, column] = hi - lo
    return counts
