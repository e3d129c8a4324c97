"""What the entrants that read binned counts share: a grid of bins, their windows, and labels.

Spikes are counted once, in bins that are laid from the first estimate of a segment in both
directions, and windows of several bins are read off running sums. `baselines.lagged_counts` counts
around each sample anew, with a search for every sample, bin and unit: exact for any times, and too
slow to compare a dozen settings. Where samples lie on the grid, both give the same counts.

Spikes outside a segment do not exist: near its ends the bins beyond them count 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spikedata.intervals import IntervalSet
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.protocol import Rules, Segment, Session

__all__ = [
    "Labelled",
    "Lags",
    "Learning",
    "Points",
    "Recent",
    "Timing",
    "label",
    "learning_from",
    "score",
    "timing_for",
    "windows",
]

# Shapes: S spikes, K samples, P points of the grid, B bins, U units, C channels.

ALIKE = 1e-6  # share of a bin by which times at its edge may differ
FINEST = 0.01  # s; behaviour does not change within one
HELD_OUT = 0.2  # of the training samples, the last ones, where there is no validation split
CHUNK_ENTRIES = 1 << 23  # counts that are held at once
VARYING = 1e-9  # a channel whose sd is less than this share of its mean magnitude is constant
LEAST_RATE = 0.05  # of a hidden unit's mean count: no estimate is lower


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


@dataclass(frozen=True, slots=True, eq=False)
class Learning:
    """What is learned from one session.

    Parameters
    ----------
    session, rules : Session, Rules
        As they were given.
    train, valid : tuple of Segment
        Never empty: without a validation split the last fifth of the training samples is `valid`.
    mean, sd : ndarray, shape (C,), float64
        Of all labels; an sd of 0 where a channel does not vary.
    """

    session: Session
    rules: Rules
    train: tuple[Segment, ...]
    valid: tuple[Segment, ...]
    mean: np.ndarray
    sd: np.ndarray

    @property
    def n_units(self) -> int:
        """Number of units U."""
        return len(self.session.unit_ids)

    @property
    def rates(self) -> bool:
        """Whether expected counts are asked for."""
        return self.rules.task == "rates"

    @property
    def scale(self) -> np.ndarray:
        """What to divide channels by, (C,): `sd`, or 1 where a channel does not vary."""
        return np.where(self.sd > 0, self.sd, 1.0)

    @property
    def floor(self) -> np.ndarray:
        """The lowest expected counts, (C,), above 0 for units without a spike too."""
        samples = sum(len(one.time) for one in (*self.train, *self.valid))
        return LEAST_RATE * (self.mean * samples + 0.5) / (samples + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Grid points with labels, of some segments.

    Parameters
    ----------
    segments : tuple of Segment
        Those with samples.
    points : tuple of (float, ndarray)
        Anchor and grid points of each of them.
    values : ndarray, shape (P, C), float64
        Mean of the samples that a point is for.
    weight : ndarray, shape (P,), float64
        How many these are.
    scored : ndarray, shape (P,), bool
        Whether scores are taken there.
    """

    segments: tuple[Segment, ...]
    points: tuple[tuple[float, np.ndarray], ...]
    values: np.ndarray
    weight: np.ndarray
    scored: np.ndarray

    def windows(self, timing: Timing, lags: Lags, n_units: int) -> Iterator[np.ndarray]:
        """Yield the counts around all points, some rows at a time; see `windows`."""
        for segment, (anchor, at) in zip(self.segments, self.points, strict=True):
            yield from windows(segment, timing, anchor, at, lags, n_units)


def learning_from(session: Session, rules: Rules) -> Learning:
    """Return what there is to learn, with a validation split in any case.

    Raises
    ------
    SuiteError
        If there is no labelled sample, or a label is no finite number.
    """
    train = tuple(one for one in session.train if len(one.time))
    valid = tuple(one for one in session.valid if len(one.time))
    if not train:
        raise SuiteError(
            f"{session.recording_id}: there is no sample of '{session.target}' in the training "
            "time; give a larger budget, or another split."
        )
    if not valid:
        train, valid = _held_out(train)
    labels = np.concatenate([one.labels for one in (*train, *valid)])
    if not np.isfinite(labels).all():
        raise SuiteError(
            f"{session.recording_id}: {(~np.isfinite(labels)).any(axis=1).sum()} labels of "
            f"'{session.target}' are no finite numbers; leave these samples out."
        )
    mean, sd = labels.mean(axis=0), labels.std(axis=0)
    sd[sd <= VARYING * np.abs(labels).max(axis=0)] = 0.0
    return Learning(session, rules, train, valid, mean, sd)


def _held_out(
    train: tuple[Segment, ...],
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Return segments cut where the last fifth of their samples begins, in order of time."""
    train = tuple(sorted(train, key=lambda one: one.start))
    time = np.concatenate([one.time for one in train])
    if len(time) < 2:
        return train, train
    cut = float(time[min(len(time) - 1, int(np.ceil(len(time) * (1 - HELD_OUT))))])
    early = [_cut(one, one.start, min(one.end, cut)) for one in train if one.start < cut]
    late = [_cut(one, max(one.start, cut), one.end) for one in train if one.end > cut]
    early = tuple(one for one in early if len(one.time))
    return early or train, tuple(one for one in late if len(one.time))


def _cut(segment: Segment, start: float, end: float) -> Segment:
    spikes = slice(*np.searchsorted(segment.spike_time, [start, end]))
    rows = slice(*np.searchsorted(segment.time, [start, end]))
    return replace(
        segment, start=start, end=end, spike_time=segment.spike_time[spikes],
        spike_unit=segment.spike_unit[spikes], time=segment.time[rows], values=segment.labels[rows],
    )  # fmt: skip


def timing_for(learning: Learning, finest: float = FINEST) -> Timing:
    """Return a grid on which estimates lie, as far as these are evenly spaced.

    Its bins divide the time between estimates into parts of about `finest` s. Where samples are
    closer than that and the suite is not causal, they are multiples of it, and estimates are
    interpolated; a causal grid is never coarser than the estimates.
    """
    rules = learning.rules
    step = rules.step if rules.causal else None
    if rules.causal and step is None:
        raise SuiteError("A causal suite needs a step; found none in its rules.")
    parts = [one.time if step is None else one.estimates(step)[0] for one in learning.train]
    gaps = np.concatenate([np.diff(part) for part in parts])
    gaps = gaps[gaps > 0]
    spacing = float(np.median(gaps)) if len(gaps) else (rules.step or finest)
    if spacing >= finest or step is not None:
        return Timing(spacing / max(1, round(spacing / finest)), step)
    return Timing(spacing * round(finest / spacing), step)


def label(
    learning: Learning, segments: Sequence[Segment], timing: Timing, most: int
) -> Labelled:  # fmt: skip
    """Return the grid points with labels, thinned evenly to at most `most`.

    A causal estimate has the samples that get it, any other those that it is nearest to; with
    several, their mean is the label.
    """
    phases = learning.session.phases
    table = phases.get(learning.session.evaluate_on or "")
    found = [_label_segment(one, timing, table) for one in segments]
    every = -(-sum(len(one[1]) for one in found) // most) if found else 1
    offset, parts = 0, []
    for anchor, at, values, weight, scored in found:
        rows = slice((-offset) % every, None, every)
        offset += len(at)
        parts.append((anchor, at[rows], values[rows], weight[rows], scored[rows]))
    return Labelled(
        tuple(segments),
        tuple((one[0], one[1]) for one in parts),
        np.concatenate([one[2] for one in parts]),
        np.concatenate([one[3] for one in parts]),
        np.concatenate([one[4] for one in parts]),
    )


def _label_segment(
    segment: Segment, timing: Timing, table: IntervalSet | None
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    points = timing.points(segment)
    row = np.where(points.share > 0.5, points.high, points.low)
    used, row = np.unique(row, return_inverse=True)
    weight = np.bincount(row).astype(np.float64)
    values = np.zeros((len(used), segment.labels.shape[1]))
    np.add.at(values, row, segment.labels)
    inside = np.ones(len(row)) if table is None else table.coalesce().contains(segment.time)
    scored = np.bincount(row, inside) >= weight / 2
    return points.anchor, points.at[used], values / weight[:, None], weight, scored


def score(learning: Learning, truth: Labelled, estimates: np.ndarray) -> float:
    """Return how good estimates (P, C) of the validation split are: what settings are chosen by.

    R², the mean over the channels that vary, or bits per spike over the mean rates of all labels.
    Where a channel rests in the validation split, its variance there is taken as a thousandth of
    that of all labels. Scored time alone counts, as long as there is any.
    """
    rows = truth.scored if truth.scored.any() else np.ones(len(truth.scored), bool)
    weight, values, found = truth.weight[rows], truth.values[rows], estimates[rows]
    if learning.rates:
        mean = learning.floor / LEAST_RATE
        gain = values * np.log(found / mean) - (found - mean)
        return float((weight @ gain).sum() / max(1.0, (weight @ values).sum()) / np.log(2))
    varies = learning.sd > 0
    if not varies.any():
        return 0.0
    total = weight.sum()
    error = (weight @ (found - values) ** 2 / total)[varies]
    spread = (weight @ (values - weight @ values / total) ** 2 / total)[varies]
    return float(np.mean(1 - error / np.maximum(spread, 1e-3 * learning.sd[varies] ** 2)))
