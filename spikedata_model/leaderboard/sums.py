"""What R² and bits per spike need of each trial, and the scores of any weights of the trials.

A score needs no more of a trial than a few sums. Scores of other trials, as a bootstrap draws them,
are scores of weighted sums: one matrix product for all draws. docs/scores.md is the reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spikedata_model.errors import SuiteError

__all__ = ["BehaviourSums", "Metric", "RateSums", "Sums", "behaviour_sums", "rate_sums"]

Metric = Literal["r2", "r2_weighted", "bits_per_spike"]

LOWEST_RATE = 1e-9  # expected count put for 0, in the model and in the null model: as in nlb_tools
LARGEST = 1e140  # size from which squares of values do not add up in float64
CANCELLED = 1e-6  # share of a sum of squares below which rounding may have eaten it

# Shapes: K samples, C channels or units, T trials, D draws.


@dataclass(frozen=True, slots=True, eq=False)
class BehaviourSums:
    """What R² needs of each trial, about a centre that all trials share (the mean of all samples).

    Parameters
    ----------
    trial : ndarray, shape (T,), int64
        Numbers of the trials that have a scored sample, in order.
    count : ndarray, shape (T,), float64
        Scored samples.
    mean : ndarray, shape (T, C), float64
        Mean of the true values, less the centre.
    within : ndarray, shape (T, C), float64
        Σ (y - mean of the trial)².
    residual : ndarray, shape (T, C), float64
        Σ (y - ŷ)².
    low, high : ndarray, shape (T, C), float64
        Least and largest true value.
    """

    trial: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    within: np.ndarray
    residual: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def score(self, metric: Metric, weights: np.ndarray) -> np.ndarray:
        """Return the score of each draw, (D,); `weights` (D, T) say how often it has a trial.

        Raises
        ------
        SuiteError
            If `metric` is not one of R².
        """
        residual, total = weights @ self.residual, self._total(weights)
        if metric == "r2":
            return _ratio(residual, total).mean(axis=1)
        if metric == "r2_weighted":
            changes = total > 0
            part = np.where(changes, residual, 0).sum(axis=1)
            return _ratio(part, np.where(changes, total, 0).sum(axis=1))
        raise SuiteError(f"Decoded behaviour is scored by r2 or r2_weighted, not by '{metric}'.")

    def r2(self) -> np.ndarray:
        """Return R² of all trials by channel, (C,)."""
        every = np.ones((1, len(self.trial)))
        return _ratio(every @ self.residual, self._total(every))[0]

    def _total(self, weights: np.ndarray) -> np.ndarray:
        """Return Σ (y - ȳ)² of each draw about its own mean, (D, C); 0 just where y is constant."""
        count = weights @ self.count
        between = weights @ (self.count[:, None] * self.mean**2)
        shift = weights @ (self.count[:, None] * self.mean)
        square = weights @ self.within + between
        total = square - shift**2 / np.maximum(count, 1)[:, None]
        if not len(self.trial):
            return np.zeros_like(total)
        # Nothing would come of looking at each draw of a channel that no trial moves.
        still = self.low.min(axis=0) == self.high.max(axis=0)
        total[:, still] = 0
        for draw, column in np.argwhere((total <= CANCELLED * square) & ~still):
            total[draw, column] = self._exact_total(weights[draw], column)
        return total

    def _exact_total(self, weight: np.ndarray, column: int) -> float:
        """Return one of these without a difference of large numbers."""
        drawn = weight > 0
        if not drawn.any() or self.low[drawn, column].min() == self.high[drawn, column].max():
            return 0.0
        count, mean = (weight * self.count)[drawn], self.mean[drawn, column]
        about = mean - count @ mean / count.sum()
        return float(weight[drawn] @ self.within[drawn, column] + count @ about**2)


@dataclass(frozen=True, slots=True, eq=False)
class RateSums:
    """What bits per spike needs of each trial.

    Parameters
    ----------
    trial : ndarray, shape (T,), int64
        Numbers of the trials that have a scored bin, in order.
    count : ndarray, shape (T,), float64
        Scored bins.
    spikes : ndarray, shape (T, C), float64
        Σ k of the counts k of each unit.
    likelihood : ndarray, shape (T, C), float64
        Σ (k log λ - λ) with the predicted rates λ: the log likelihood but for Σ log k!, which is
        the same for every λ.
    """

    trial: np.ndarray
    count: np.ndarray
    spikes: np.ndarray
    likelihood: np.ndarray

    def score(self, metric: Metric, weights: np.ndarray) -> np.ndarray:
        """Return bits per spike of each draw, (D,); `weights` (D, T) say how often it has a trial.

        Raises
        ------
        SuiteError
            If `metric` is another.
        """
        if metric != "bits_per_spike":
            raise SuiteError(f"Rates are scored by bits_per_spike, not by '{metric}'.")
        count, spikes = weights @ self.count, weights @ self.spikes
        mean = spikes / np.maximum(count, 1)[:, None]
        rate = np.where(mean > 0, mean, LOWEST_RATE)
        null = spikes * np.log(rate) - count[:, None] * rate
        gain = (weights @ self.likelihood - null).sum(axis=1)
        return _divide(gain, spikes.sum(axis=1) * math.log(2))


Sums = BehaviourSums | RateSums
"""The sums of one recording, decoded with one seed."""


def behaviour_sums(
    truth: np.ndarray,
    predicted: np.ndarray,
    scored: np.ndarray,
    trial: np.ndarray,
    where: str = "scores",
) -> BehaviourSums:
    """Return the sums of decoded behaviour over each trial.

    Parameters
    ----------
    truth, predicted : ndarray, shape (K, C), float64
        What was to be decoded, and what was.
    scored : ndarray, shape (K,), bool
        Which samples count.
    trial : ndarray, shape (K,), int64
        From `trial_of`.
    where : str
        What an error begins with: recording, budget and seed.

    Raises
    ------
    SuiteError
        If shapes do not fit, or a scored value is no number, or one of `LARGEST` or more in size.
    """
    truth, predicted = _scored(truth, predicted, scored, trial, where)
    for what, values in (("true values", truth), ("predictions", predicted)):
        _refuse(where, what, values, ~(np.abs(values) < LARGEST), f"a number below {LARGEST:g}")
    centre = truth.mean(axis=0) if len(truth) else np.zeros(truth.shape[1])
    sums = _Rows(trial[scored])
    count, residual = sums.count, sums.add((truth - predicted) ** 2)
    mean = sums.add(truth - centre) / count[:, None]
    within = sums.add((truth - centre - mean[sums.row]) ** 2)
    low, high = sums.reduce(np.minimum, truth), sums.reduce(np.maximum, truth)
    return BehaviourSums(sums.label, count, mean, within, residual, low, high)


def rate_sums(
    rates: np.ndarray,
    counts: np.ndarray,
    scored: np.ndarray,
    trial: np.ndarray,
    where: str = "scores",
) -> RateSums:
    """Return the sums of predicted rates over each trial.

    Parameters
    ----------
    rates : ndarray, shape (K, C), float64
        Expected counts of the held-out units in each bin; 0 stands for `LOWEST_RATE`.
    counts : ndarray, shape (K, C)
        Their spikes.
    scored, trial, where
        As of `behaviour_sums`.

    Raises
    ------
    SuiteError
        If shapes do not fit, or a scored rate or count is no number, or below 0.
    """
    rates, counts = _scored(rates, counts, scored, trial, where)
    for what, values in (("rates", rates), ("counts", counts)):
        good = np.isfinite(values) & (values >= 0)
        _refuse(where, what, values, ~good, "a number of 0 or more")
    rates = np.where(rates > 0, rates, LOWEST_RATE)
    sums = _Rows(trial[scored])
    return RateSums(
        sums.label, sums.count, sums.add(counts), sums.add(counts * np.log(rates) - rates)
    )


class _Rows:
    """Rows of samples grouped by trial."""

    def __init__(self, trial: np.ndarray) -> None:
        label, self.row, count = np.unique(trial, return_inverse=True, return_counts=True)
        self.label, self.count = label.astype(np.int64), count.astype(np.float64)
        self.order = np.argsort(self.row, kind="stable")
        self.first = np.cumsum(count) - count

    def add(self, values: np.ndarray) -> np.ndarray:
        """Return the sums of samples (K, C) over each trial, (T, C)."""
        return self.reduce(np.add, values)

    def reduce(self, function: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Return the samples (K, C) of each trial put together, (T, C)."""
        if not len(self.first):
            return np.empty((0, values.shape[1]))
        return function.reduceat(values[self.order], self.first, axis=0)


def _scored(
    one: np.ndarray, other: np.ndarray, scored: np.ndarray, trial: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scored samples of two arrays of one shape as float64, (K, C) each."""
    shapes = [np.shape(part) for part in (one, other, scored, trial)]
    if len(shapes[0]) != 2 or shapes[1] != shapes[0] or shapes[2:] != [shapes[0][:1]] * 2:
        raise SuiteError(
            f"{where}: expected two arrays (K, C) and two (K,), found the shapes "
            f"{', '.join(map(str, shapes))}."
        )
    if np.asarray(scored).dtype != bool:
        raise SuiteError(f"{where}: the scored samples must be marked by bool, not {scored.dtype}.")
    return np.asarray(one, np.float64)[scored], np.asarray(other, np.float64)[scored]


def _refuse(where: str, what: str, values: np.ndarray, bad: np.ndarray, rule: str) -> None:
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise SuiteError(
            f"{where}: {bad.sum()} scored {what} are not {rule}, first {values[row, column]} at "
            f"scored sample {row}, channel {column}."
        )


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return a quotient, nan where it would be by 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)


def _ratio(residual: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return R², nan without variance."""
    return 1 - _divide(residual, total)
