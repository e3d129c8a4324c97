"""What a baseline learns from: labelled points of a grid, and samples to choose settings by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spikedata.intervals import IntervalSet
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.entrants.binned import Lags, Points, Timing, windows
from spikedata_model.leaderboard.protocol import Rules, Segment, Session

__all__ = [
    "Held",
    "Labelled",
    "Learning",
    "hold",
    "label",
    "learning_from",
    "score",
    "timing_for",
]

# Shapes: K samples, P points of the grid, B bins, U units, C channels.

FINEST = 0.01  # s; behaviour does not change within one
HELD_OUT = 0.2  # of the training samples, the last ones, where there is no validation split
VARYING = 1e-9  # a channel whose sd is less than this share of its largest magnitude is constant
LEAST_RATE = 0.05  # of a hidden unit's mean count: no estimate is lower


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


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Samples of the validation split, and the grid points that they are read off.

    Parameters
    ----------
    segments : tuple of Segment
        Those with samples.
    points : tuple of Points
        Of each of them.
    values : ndarray, shape (K, C), float64
        The truth of all samples, in order.
    scored : ndarray, shape (K,), bool
        Whether scores are taken there.
    """

    segments: tuple[Segment, ...]
    points: tuple[Points, ...]
    values: np.ndarray
    scored: np.ndarray

    def windows(self, timing: Timing, lags: Lags, n_units: int) -> Iterator[np.ndarray]:
        """Yield the counts around all points, some rows at a time; see `windows`."""
        for segment, one in zip(self.segments, self.points, strict=True):
            yield from windows(segment, timing, one.anchor, one.at, lags, n_units)

    def samples(self, estimates: np.ndarray) -> np.ndarray:
        """Return the estimates (P, C) of all points, in order, at the samples, (K, C)."""
        cuts = np.cumsum([len(one.at) for one in self.points])[:-1]
        parts = zip(self.points, np.split(estimates, cuts), strict=True)
        return np.concatenate([one.samples(part) for one, part in parts])


def hold(learning: Learning, timing: Timing, most: int) -> Held:
    """Return the validation samples that settings are chosen by, thinned evenly to `most`.

    Samples, and not means of those near a point: a coarse grid is not to look the better for it.
    """
    table = learning.session.phases.get(learning.session.evaluate_on or "")
    every = -(-sum(len(one.time) for one in learning.valid) // most)
    offset, points, values, scored = 0, [], [], []
    for segment in learning.valid:
        rows = slice((-offset) % every, None, every)
        offset += len(segment.time)
        whole = timing.points(segment)
        low, high = whole.at[whole.low[rows]], whole.at[whole.high[rows]]
        at = np.unique(np.concatenate([low, high]))
        points.append(
            Points(
                whole.anchor, at, np.searchsorted(at, low), np.searchsorted(at, high),
                whole.share[rows],
            )
        )  # fmt: skip
        values.append(segment.labels[rows])
        time = segment.time[rows]
        scored.append(
            np.ones(len(time), bool) if table is None else table.coalesce().contains(time)
        )
    return Held(learning.valid, tuple(points), np.concatenate(values), np.concatenate(scored))


def score(learning: Learning, held: Held, estimates: np.ndarray) -> float:
    """Return how good estimates (P, C) at the points are: what settings are chosen by.

    R², the mean over the channels that vary, or bits per spike over the mean rates of all labels.
    Where a channel rests in the validation split, its variance there is taken as a thousandth of
    that of all labels. Scored time alone counts, as long as there is any.
    """
    rows = held.scored if held.scored.any() else np.ones(len(held.scored), bool)
    values, found = held.values[rows], held.samples(estimates)[rows]
    if learning.rates:
        mean = learning.floor / LEAST_RATE
        gain = values * np.log(found / mean) - (found - mean)
        return float(gain.sum() / max(1.0, values.sum()) / np.log(2))
    varies = learning.sd > 0
    if not varies.any():
        return 0.0
    error = np.square(found - values).mean(axis=0)[varies]
    spread = np.maximum(values.var(axis=0), 1e-3 * learning.sd**2)[varies]
    return float(np.mean(1 - error / spread))
