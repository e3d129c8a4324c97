"""The Kalman filter: what is decoded moves linearly, and counts are a linear map of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.cost import Cost
from spikedata_model.leaderboard.entrants.binned import Lags, Timing, windows
from spikedata_model.leaderboard.entrants.labelled import (
    Labelled,
    Learning,
    hold,
    label,
    score,
    timing_for,
)
from spikedata_model.leaderboard.entrants.live import BinnedEntrant, ChainModel
from spikedata_model.leaderboard.protocol import Segment

__all__ = ["Dynamics", "Filter", "Kalman", "Settings", "fit_dynamics"]

# Shapes: T bins, U units, C channels that vary, N = order · C numbers in the state.

MAX_POINTS = 10_000  # that a filter is fitted to
MAX_VALID = 5_000  # points that settings are chosen by
FINEST = 0.025  # s; estimates between these are interpolated, where the suite is not causal
MAX_GAINS = 200  # bins until the gain is taken as constant
SETTLED = 1e-10  # relative change of the gain that counts as none
LEAST_NOISE = 1e-3  # of the mean variance of the counts, added to all
RADIUS = 0.999  # of the movement: a state that nobody observes is forgotten


@dataclass(frozen=True, slots=True)
class Settings:
    """What is chosen on the validation split.

    Parameters
    ----------
    bin : float
        Width of the bins in s.
    order : int
        Bins of the target in the state: 2 has its change in it, 3 the change of this too.
    lag : float
        Seconds by which the counts are ahead of what they tell of; below 0 behind.
    shrinkage : float
        Share of the covariance of the noise that is taken from its diagonal.
    noise : float
        Factor on that covariance: neighbouring bins have noise in common, as the filter thinks not.
    square_root : bool
        Whether square roots of the counts are observed.
    """

    bin: float = 0.1
    order: int = 2
    lag: float = 0.0
    shrinkage: float = 0.1
    noise: float = 1.0
    square_root: bool = True


CHOICES: tuple[tuple[str, tuple[float | int | bool, ...]], ...] = (
    ("bin", (0.05, 0.2, 0.3)),
    ("noise", (0.3, 3.0, 10.0)),
    ("lag", (0.05, 0.1, 0.15, -0.05, -0.1)),
    ("order", (1, 3)),
    ("square_root", (False,)),
    ("shrinkage", (0.01, 1.0)),
)


@dataclass(frozen=True, slots=True, eq=False)
class Dynamics:
    """The model behind a Kalman filter.

    Parameters
    ----------
    movement : ndarray, shape (N, N)
        A, of ``x(t + 1) = A x(t) + w``.
    unrest : ndarray, shape (N, N)
        W, the covariance of w.
    tuning : ndarray, shape (U, N)
        H, of ``z(t) = H x(t) + offset + q``.
    noise : ndarray, shape (U, U)
        Q, the covariance of q.
    offset : ndarray, shape (U,)
        Mean of the observations.
    start : ndarray, shape (N, N)
        Covariance of x before the first bin; its mean is 0.

    References
    ----------
    Wu, Gao, Bienenstock, Donoghue and Black 2006, Neural Computation 18, 80.
    """

    movement: np.ndarray
    unrest: np.ndarray
    tuning: np.ndarray
    noise: np.ndarray
    offset: np.ndarray
    start: np.ndarray


class Filter:
    """A Kalman filter; how it weighs counts depends on the number of the bin alone.

    The gain is computed as ``P (I + H' inv(Q) H P)^-1 H' inv(Q)``, which is the textbook's and has
    no matrix of U rows to be inverted in every bin. After `MAX_GAINS` bins it does not change.

    Parameters
    ----------
    dynamics : Dynamics
        The model.
    mean, scale : ndarray, shape (all channels,)
        Unit of the target: estimates are ``x * scale + mean``.
    varies : ndarray, shape (all channels,), bool
        Channels that are in the state; the others are at their mean.
    square_root : bool
        Whether square roots of counts are observed.
    smooth : bool
        Whether `run` rests on later bins too (Rauch, Tung and Striebel 1965, AIAA J. 3, 1445).
    """

    def __init__(
        self,
        dynamics: Dynamics,
        mean: np.ndarray,
        scale: np.ndarray,
        varies: np.ndarray,
        *,
        square_root: bool,
        smooth: bool,
    ) -> None:
        self.dynamics, self.smooth, self.square_root = dynamics, smooth, square_root
        self._mean, self._scale, self._varies = mean, scale, varies
        a, h = dynamics.movement, dynamics.tuning
        self.projection = np.linalg.solve(dynamics.noise, h).T  # (N, U)
        self.information = self.projection @ h
        one = np.eye(len(a))
        self.before, self.after = [dynamics.start], []  # covariances of x in each bin
        while len(self.after) < MAX_GAINS:
            prior = self.before[-1]
            self.after.append(np.linalg.solve((one + self.information @ prior).T, prior.T).T)
            self.before.append(a @ self.after[-1] @ a.T + dynamics.unrest)
            change = np.abs(self.before[-1] - prior).max(initial=0.0)
            if change <= SETTLED * np.abs(prior).max(initial=0.0):
                break
        # Back from the next bin: C of x(t) + C (x(t + 1) - A x(t)).
        jitter = 1e-12 * max(float(np.trace(dynamics.start)), 1e-300) * one
        self.back = [
            np.linalg.solve(before + jitter, a @ after.T).T
            for before, after in zip(self.before[1:], self.after, strict=True)
        ] if smooth else []  # fmt: skip

    def start(self) -> tuple[int, np.ndarray]:
        """Return that no bin was read, and the state that is expected then."""
        return 0, np.zeros(len(self.information))

    def rest(self) -> np.ndarray:
        """Return the estimate before the first bin, shape (all channels,)."""
        return np.array(self._mean)

    def advance(
        self, state: tuple[int, np.ndarray], counts: np.ndarray
    ) -> tuple[tuple[int, np.ndarray], np.ndarray]:
        """Return the state after a bin with counts (U,), and the estimate there."""
        number, x = state
        x = self._next(number, x, self._seen(counts[None])[0])
        return (number + 1, x), self._estimates(x[None])[0]

    def run(self, counts: np.ndarray) -> np.ndarray:
        """Return the estimates after each of the bins (T, U), shape (T, all channels)."""
        seen = self._seen(counts)
        (_, x), states = self.start(), np.empty((len(counts), len(self.information)))
        for number in range(len(counts)):
            x = states[number] = self._next(number, x, seen[number])
        for number in range(len(counts) - 2, -1, -1) if self.smooth else ():
            ahead = states[number + 1] - self.dynamics.movement @ states[number]
            states[number] += self.back[min(number, len(self.back) - 1)] @ ahead
        return self._estimates(states)

    def _seen(self, counts: np.ndarray) -> np.ndarray:
        """Return what bins (T, U) tell of the state, (T, N)."""
        z = np.asarray(counts, np.float64)
        z = np.sqrt(z) if self.square_root else z
        return (z - self.dynamics.offset) @ self.projection.T

    def _next(self, number: int, x: np.ndarray, seen: np.ndarray) -> np.ndarray:
        prior = self.dynamics.movement @ x if number else x
        after = self.after[min(number, len(self.after) - 1)]
        return prior + after @ (seen - self.information @ prior)

    def _estimates(self, states: np.ndarray) -> np.ndarray:
        result = np.tile(self._mean, (len(states), 1))
        count = int(self._varies.sum())
        result[:, self._varies] += states[:, :count] * self._scale[self._varies]
        return result


def fit_dynamics(
    pairs: tuple[np.ndarray, np.ndarray], states: np.ndarray, seen: np.ndarray, settings: Settings
) -> Dynamics:
    """Return the model that fits best, by least squares.

    Parameters
    ----------
    pairs : tuple of two ndarrays, shape (M, N)
        States, and the states a bin later. Of the latter the target now is fitted alone: the rest
        of a state is the target before.
    states : ndarray, shape (P, N)
        States with observations.
    seen : ndarray, shape (P, U)
        These.
    settings : Settings
        How the noise is taken.
    """
    size = states.shape[1]
    now = size // settings.order
    movement, unrest = np.zeros((size, size)), np.zeros((size, size))
    early, late = pairs
    movement[:now] = _least_squares(early, late[:, :now]).T
    movement[now:, :-now] = np.eye(size - now)
    radius = float(np.abs(np.linalg.eigvals(movement)).max(initial=0.0))
    if radius > RADIUS:  # factors of a polynomial's coefficients scale all of its roots alike
        for lag in range(settings.order):
            movement[:now, lag * now : (lag + 1) * now] *= (RADIUS / radius) ** (lag + 1)
    left = late[:, :now] - early @ movement[:now].T
    unrest[:now, :now] = left.T @ left / max(1, len(left)) + 1e-9 * np.eye(now)
    offset = seen.mean(axis=0)
    tuning = _least_squares(states, seen - offset).T
    left = seen - offset - states @ tuning.T
    noise = left.T @ left / len(left)
    spread = np.diagonal(noise)
    noise = (1 - settings.shrinkage) * noise + settings.shrinkage * np.diag(spread)
    noise += max(LEAST_NOISE * float(spread.mean()), 1e-12) * np.eye(len(noise))
    start = states.T @ states / len(states) + 1e-9 * np.eye(size)
    return Dynamics(movement, unrest, tuning, settings.noise * noise, offset, start)


def _least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the map from x (M, N) to y (M, ...), with next to no penalty."""
    gram = x.T @ x
    penalty = 1e-6 * max(float(np.trace(gram)) / max(1, len(gram)), 1e-12)
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ y)


@dataclass(frozen=True, slots=True, eq=False)
class _Track:
    """The target of a segment at every grid point from `first` on, where it is known."""

    segment: Segment
    anchor: float
    first: int
    values: np.ndarray  # (G, C), standardised
    known: np.ndarray  # (G,), bool

    def states(self, width: int, order: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the grid points of all states that are known, and these states (M, N)."""
        reach = width * (order - 1)
        size = max(0, len(self.values) - reach)
        parts = [slice(reach - back, reach - back + size) for back in range(0, reach + 1, width)]
        known = np.logical_and.reduce([self.known[part] for part in parts])
        states = np.concatenate([self.values[part] for part in parts], axis=1)
        return self.first + reach + np.flatnonzero(known), states[known]


def _tracks(learning: Learning, timing: Timing, points: Labelled) -> Iterator[_Track]:
    """Yield the targets of segments; between samples further apart than two bins not known."""
    varies = learning.sd > 0
    values = ((points.values - learning.mean) / learning.scale)[:, varies]
    offset = 0
    for segment, (anchor, at) in zip(points.segments, points.points, strict=True):
        own = values[offset : offset + len(at)]
        offset += len(at)
        at, rows = np.unique(at, return_index=True)
        grid = np.arange(at[0], at[-1] + 1)
        near = np.searchsorted(at, grid)
        gap = at[near] - at[np.maximum(near - 1, 0)]
        usual = float(np.median(np.diff(at))) if len(at) > 1 else 1.0
        known = (at[near] == grid) | (gap <= 2 * usual)
        line = np.empty((len(grid), own.shape[1]))
        for column, one in enumerate(own[rows].T):
            line[:, column] = np.interp(grid, at, one)
        yield _Track(segment, anchor, int(grid[0]), line, known)


def _fit(
    learning: Learning, timing: Timing, tracks: Sequence[_Track], settings: Settings
) -> ChainModel | None:
    """Return the filter with some settings; None where the segments are too short for them."""
    width = max(1, round(settings.bin / timing.bin))
    lag = round(settings.lag / timing.bin)
    found = [one.states(width, settings.order) for one in tracks]
    every = -(-sum(len(at) for at, _ in found) // MAX_POINTS) or 1
    early, late, states, seen = [], [], [], []
    for track, (at, state) in zip(tracks, found, strict=True):
        before = np.searchsorted(at, at - width)
        follows = np.flatnonzero(at[np.minimum(before, len(at) - 1)] == at - width)[::every]
        early.append(state[before[follows]])
        late.append(state[follows])
        states.append(state[::every])
        seen += windows(
            track.segment, timing, track.anchor, at[::every] - lag, Lags(width, 1), learning.n_units
        )  # fmt: skip
    x = np.concatenate(states)
    if not len(x):
        return None
    z = np.concatenate(seen).astype(np.float64)
    z = np.sqrt(z) if settings.square_root else z
    dynamics = fit_dynamics((np.concatenate(early), np.concatenate(late)), x, z, settings)
    size, units = x.shape[1], learning.n_units
    one = Filter(
        dynamics, learning.mean, learning.scale, learning.sd > 0,
        square_root=settings.square_root, smooth=not learning.rules.causal,
    )  # fmt: skip
    numbers = size * size + 2 * size * units + units  # A, gain, H, offset
    cost = Cost(
        parameters=numbers, bytes=8 * numbers, macs=size * size + 2 * size * units
    )  # fmt: skip
    return ChainModel(timing, width, lag, units, len(learning.mean), one, asdict(settings), cost)


class Kalman(BinnedEntrant):
    """A Kalman filter for every recording, a smoother where a suite is not causal.

    The state is the target in the last one to three bins. Where the suite is not causal, states are
    smoothed. Chosen on the validation split, one setting after the other, see `Settings`; then
    fitted to both splits. It does not decode rates: counts of hidden units do not move linearly.

    References
    ----------
    Wu, Gao, Bienenstock, Donoghue and Black 2006, Neural Computation 18, 80.
    """

    def learn(self, learning: Learning) -> ChainModel:
        """Return the filter of one recording.

        Raises
        ------
        SuiteError
            If rates are asked for.
        """
        if learning.rates:
            raise SuiteError(
                f"{learning.session.recording_id}: a Kalman filter decodes what moves linearly, "
                "and no rates of hidden units; take wiener, ridge, mlp or gru."
            )
        timing = timing_for(learning, FINEST)
        train = label(learning, learning.train, timing, np.iinfo(np.int64).max)
        valid = label(learning, learning.valid, timing, np.iinfo(np.int64).max)
        held = hold(learning, timing, MAX_VALID)
        tracks = list(_tracks(learning, timing, train))
        best, settings, tried = -np.inf, Settings(order=1), 0
        candidates = [Settings(order=1), Settings()]
        for name, values in (("", ()), *CHOICES):
            candidates += [replace(settings, **{name: value}) for value in values]
            for one in candidates:
                if one.lag < 0 and learning.rules.causal:
                    continue
                model = _fit(learning, timing, tracks, one)
                tried += 1
                found = -np.inf if model is None else score(learning, held, model.at(held))
                if found > best:
                    best, settings = found, one
            candidates = []
        both = [*tracks, *_tracks(learning, timing, valid)]
        model = _fit(learning, timing, both, settings)
        if model is None:
            raise SuiteError(f"{learning.session.recording_id}: no state of the target is known.")
        return replace(
            model, about={**model.about, "valid_score": round(best, 6), "tried": tried}
        )  # fmt: skip
