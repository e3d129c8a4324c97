"""Linear maps of counts in windows, whose settings are the best on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from pydantic import JsonValue

from spikedata_model.baselines import Moments
from spikedata_model.leaderboard.cost import Cost
from spikedata_model.leaderboard.entrants.binned import Lags, Timing
from spikedata_model.leaderboard.entrants.labelled import (
    Labelled,
    Learning,
    hold,
    label,
    score,
    timing_for,
)
from spikedata_model.leaderboard.entrants.live import WindowModel

__all__ = ["Features", "LinearMap", "best_linear", "climb", "linear_model", "solve", "sums"]

# Shapes: P points, B bins, U units, D features, C channels.

MAX_FEATURES = 2000  # with more units bins are fewer and wider: a solution is cubic in this
MAX_TRAIN, MAX_VALID = 20_000, 5_000  # points; a linear map needs no more
OUTSIDE = (0.1, 0.0)  # weight of training time that is not scored; 0.1 as POYO weights holds


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What is made of the counts in a window before they are mapped.

    Parameters
    ----------
    lags : Lags
        The window.
    n_units : int
        Number of units U.
    root : bool
        Take square roots: of Poisson counts they have about the same variance at any rate.
    kernel : ndarray, shape (B,), float64, optional
        Weights of the bins, whose sum is then one feature a unit.
    named : dict
        What it is called in `about`.
    """

    lags: Lags
    n_units: int
    root: bool = False
    kernel: np.ndarray | None = None
    named: dict[str, JsonValue] | None = None

    @property
    def count(self) -> int:
        """Number of features D."""
        return self.n_units * (1 if self.kernel is not None else self.lags.bins)

    def of(self, counts: np.ndarray) -> np.ndarray:
        """Return the features (P, D) of counts (P, B · U), float64."""
        found = np.asarray(counts, np.float64)
        if self.root:
            found = np.sqrt(found)
        if self.kernel is None:
            return found
        return np.einsum("pbu,b->pu", found.reshape(len(found), -1, self.n_units), self.kernel)


@dataclass(frozen=True, slots=True, eq=False)
class LinearMap:
    """``features @ weights + offset``, no lower than `floor` where there is one."""

    features: Features
    weights: np.ndarray  # (D, C)
    offset: np.ndarray  # (C,)
    floor: np.ndarray | None = None

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Return the estimates (P, C) of counts (P, B · U)."""
        found = self.features.of(counts) @ self.weights + self.offset
        return found if self.floor is None else np.maximum(found, self.floor)


def sums(
    parts: Iterator[np.ndarray], points: Labelled, weight: np.ndarray, features: Features
) -> Moments:
    """Return the weighted sums over points that a linear map is fitted from.

    Parameters
    ----------
    parts : iterator of ndarray, shape (some of P, B · U)
        Counts, of `Labelled.windows`.
    points : Labelled
        The labels.
    weight : ndarray, shape (P,), float64
        Weights.
    features : Features
        What is made of the counts.
    """
    size, channels = features.count, points.values.shape[1]
    x, y = np.zeros(size), np.zeros(channels)
    xx, xy = np.zeros((size, size)), np.zeros((size, channels))
    first = 0
    for part in parts:
        rows = slice(first, first + len(part))
        first += len(part)
        used = weight[rows] > 0
        own = weight[rows][used, None]
        found, values = features.of(part[used]), points.values[rows][used]
        x += own[:, 0] @ found
        y += own[:, 0] @ values
        xy += found.T @ (own * values)
        found *= np.sqrt(own)
        xx += found.T @ found
    return Moments(float(weight.sum()), x, y, xx, xy)


def _times(moments: Moments, factor: float) -> Moments:
    return Moments(*(factor * getattr(moments, name) for name in ("count", "x", "y", "xx", "xy")))


def solve(moments: Moments, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights (D, C) and the offset (C,) of ridge regression.

    The penalty is in units of the mean squared deviation of a feature, summed over the points: it
    means the same for any number of points, and for counts of any size. The offset has none. A
    feature that does not vary gets the weight 0.
    """
    count = max(moments.count, 1e-300)
    x_mean, y_mean = moments.x / count, moments.y / count
    covariance = moments.xx - count * np.outer(x_mean, x_mean)
    products = moments.xy - count * np.outer(x_mean, y_mean)
    spread = np.maximum(np.diagonal(covariance), 0.0)
    varies = spread > 1e-9 * np.maximum(np.diagonal(moments.xx), 1e-300)
    size = float(spread[varies].mean()) if varies.any() else 1.0
    covariance[~varies] = covariance[:, ~varies] = 0.0
    products[~varies] = 0.0
    np.fill_diagonal(covariance, np.where(varies, np.diagonal(covariance) + penalty * size, 1.0))
    weights = np.linalg.solve(covariance, products)
    return weights, y_mean - x_mean @ weights


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """The best map of some features: of the training split, and what another is fitted from."""

    score: float
    fitted: LinearMap
    penalty: float
    share: float  # weight of unscored time
    moments: Moments  # of both splits


class _Search:
    """Fits linear maps to the training split, and scores them on the validation split."""

    def __init__(self, learning: Learning, timing: Timing, penalties: Sequence[float]) -> None:
        self.learning, self.timing, self.penalties = learning, timing, penalties
        self.train = label(learning, learning.train, timing, MAX_TRAIN)
        self.valid = label(learning, learning.valid, timing, MAX_TRAIN)
        self.held = hold(learning, timing, MAX_VALID)
        self.floor = learning.floor if learning.rates else None
        self.tried = 0

    def best_of(self, features: Features, outside: Sequence[float] = (1.0,)) -> _Found:
        """Return the best map of some features: by the penalty, and the weight of unscored time."""
        early, late = (self._sums(points, features) for points in (self.train, self.valid))
        counts = list(self.held.windows(self.timing, features.lags, features.n_units))
        found = []
        for share in outside:
            moments = _total([early], share)

            def scored(row: int, moments: Moments = moments) -> tuple[float, LinearMap]:
                fitted = LinearMap(features, *solve(moments, self.penalties[row]), self.floor)
                estimates = np.concatenate([fitted(one) for one in counts])
                return score(self.learning, self.held, estimates), fitted

            tried = climb(scored, len(self.penalties))
            self.tried += len(tried)
            row = max(tried, key=lambda one: tried[one][0])
            found.append(
                _Found(*tried[row], self.penalties[row], share, _total([early, late], share))
            )
        return max(found, key=lambda one: one.score)

    def _sums(self, points: Labelled, features: Features) -> tuple[Moments | None, Moments | None]:
        """Return the sums over scored and over unscored points, None where there are none."""
        found = []
        for rows in (points.scored, ~points.scored):
            parts = points.windows(self.timing, features.lags, features.n_units)
            weight = points.weight * rows
            found.append(sums(parts, points, weight, features) if rows.any() else None)
        return found[0], found[1]


def _total(parts: Sequence[tuple[Moments | None, Moments | None]], share: float) -> Moments:
    """Return scored sums, and unscored ones that count a share; all alike if none is scored."""
    scored = [one for one, _ in parts if one is not None]
    rest = [one for _, one in parts if one is not None]
    if scored:
        rest = [one if share == 1 else _times(one, share) for one in rest]
    first, *others = [*scored, *rest]
    return sum(others, first)


T = TypeVar("T")


def climb(scored: Callable[[int], tuple[float, T]], count: int) -> dict[int, tuple[float, T]]:
    """Return what is found on the way to the best of `count` places in a row, from the middle.

    It is the best of all where the score has one top; a search that costs a few looks in the place
    of `count`.
    """
    at = count // 2
    found = {at: scored(at)}
    while True:
        for near in (at - 1, at + 1):
            if 0 <= near < count and near not in found:
                found[near] = scored(near)
        best = max(found, key=lambda one: found[one][0])
        if found[best][0] <= found[at][0]:
            return found
        at = best


def best_linear(
    learning: Learning, timing: Timing, candidates: Sequence[Features], penalties: Sequence[float]
) -> WindowModel:
    """Return the linear map whose features, penalty and weight of unscored time are the best.

    Chosen on the validation split, from maps of the training split; then fitted to both. First the
    window is chosen, then whether square roots are taken (of candidates that take them), then the
    weight. With more than `MAX_FEATURES` the first window is taken as it is.
    """
    search = _Search(learning, timing, penalties)
    many = candidates[0].count > MAX_FEATURES  # as one bin a side of thousands of units is
    candidates = candidates[:1] if many else candidates
    best = max((search.best_of(one) for one in candidates), key=lambda one: one.score)
    features = best.fitted.features
    if features.root and not many:
        plain = search.best_of(replace(features, root=False))
        best = plain if plain.score > best.score else best
        features = best.fitted.features
    if search.train.scored.any() and not search.train.scored.all():
        less = search.best_of(features, OUTSIDE)
        best = less if less.score > best.score else best
    readout = LinearMap(features, *solve(best.moments, best.penalty), search.floor)
    size = readout.weights.size + readout.offset.size
    about = {
        **(features.named or {}), "square_root": features.root, "penalty": best.penalty,
        "weight_of_unscored_time": best.share, "features": features.count,
        "valid_score": round(best.score, 6), "tried": search.tried,
    }  # fmt: skip
    return WindowModel(
        timing, features.lags, learning.n_units, len(learning.mean), readout, about,
        Cost(parameters=size, bytes=8 * size, macs=readout.weights.size),
    )  # fmt: skip


def kernels(learning: Learning, timing: Timing, widths: Sequence[float]) -> list[Features]:
    """Return Gaussian kernels with these standard deviations in s; in causal suites the past half.

    Smoothed spikes are the standard simple estimate of rates: Pei et al. 2021, arXiv 2109.04463.
    """
    result = []
    for width in widths:
        bins = max(1, round(3 * width / timing.bin))
        lags = Lags(1, bins, 0 if timing.step is not None else bins)
        middle = (np.arange(-lags.before, lags.after) + 0.5) * timing.bin
        kernel = np.exp(-0.5 * (middle / width) ** 2)
        named: dict[str, JsonValue] = {"kernel_sd": width}
        result.append(
            Features(lags, learning.n_units, kernel=kernel / kernel.sum(), named=named)
        )  # fmt: skip
    return result


def lagged(
    learning: Learning, timing: Timing, settings: Sequence[tuple[float, float, bool]]
) -> list[Features]:
    """Return features with bins of (width in s, reach in s, square roots or not), each once."""
    found: dict[tuple[Lags, bool], Features] = {}
    for width, wanted, root in settings:
        reach = min(wanted, learning.rules.context)
        lags = Lags.reaching(timing, min(width, reach), reach, learning.n_units, MAX_FEATURES)
        named: dict[str, JsonValue] = {
            "bin": round(lags.width * timing.bin, 6), "bins_before": lags.before,
            "bins_after": lags.after,
        }  # fmt: skip
        found.setdefault((lags, root), Features(lags, learning.n_units, root, named=named))
    return list(found.values())


def linear_model(
    learning: Learning,
    settings: Sequence[tuple[float, float, bool]],
    kernel_widths: Sequence[float],
    penalties: Sequence[float],
) -> WindowModel:
    """Return the best linear map of a session: of lagged counts, or of smoothed ones for rates."""
    timing = timing_for(learning)
    if learning.rates:
        candidates = kernels(learning, timing, kernel_widths)
    else:
        candidates = lagged(learning, timing, settings)
    return best_linear(learning, timing, candidates, penalties)
