"""Scores, and how much they would vary with other trials and other seeds.

docs/scores.md is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spikedata.intervals import IntervalSet
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.result import Metrics
from spikedata_model.leaderboard.sums import (
    BehaviourSums,
    Metric,
    RateSums,
    Sums,
    behaviour_sums,
    rate_sums,
)

__all__ = [
    "BehaviourSums",
    "Metric",
    "RateSums",
    "Sums",
    "behaviour_metrics",
    "behaviour_sums",
    "bootstrap",
    "mean_score",
    "metrics_of",
    "paired_bootstrap",
    "rate_metrics",
    "rate_sums",
    "trial_of",
]

ROUNDING = 1e-6  # of a block; a sample so little before the edge of a block belongs behind it
LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval
DEFINED = 0.95  # share of the draws that must have a score for there to be an interval

# Shapes: K samples, C channels, R recordings, T trials, D draws, S seeds.


def trial_of(
    time: np.ndarray, trials: IntervalSet | None, segments: IntervalSet, block: float
) -> np.ndarray:
    """Return for each test sample the number of the trial or block that is drawn with it.

    Parameters
    ----------
    time : ndarray, shape (K,), float64
        Times of the samples in seconds.
    trials : IntervalSet or None
        Rows that are drawn as a whole. Where rows overlap, a sample belongs to the first of them.
    segments : IntervalSet
        The stretches that were predicted; they hold all samples, and do not overlap.
    block : float
        Seconds.

    Returns
    -------
    ndarray, shape (K,), int64
        The row of `trials`. Time in no row is cut, stretch by stretch between rows and within a
        segment, into blocks of `block` seconds; what is left at the end of a stretch joins the
        block before it. Blocks are numbered in order of time from ``len(trials)``, or from 0.

    Raises
    ------
    SuiteError
        If `block` is not above 0, segments overlap, or a sample lies in none.

    Examples
    --------
    >>> time, trials = np.arange(8.0), IntervalSet.single(2.0, 4.0)
    >>> trial_of(time, trials, IntervalSet.single(0.0, 8.0), 2.0).tolist()
    [1, 1, 0, 0, 2, 2, 3, 3]
    """
    if not 0 < block < math.inf:
        raise SuiteError(f"A block of the bootstrap must last more than 0 s, not {block} s.")
    if not segments.is_disjoint:
        raise SuiteError("Two test segments overlap: a sample would be scored twice.")
    rows = IntervalSet.empty() if trials is None else trials
    order = np.argsort(time, kind="stable")
    sorted_time = np.asarray(time, np.float64)[order]
    label = np.full(len(sorted_time), -1, np.int64)
    first = len(rows)
    for start, end in segments.cut(rows):
        lo, hi = np.searchsorted(sorted_time, [start, end])
        count = max(1, math.floor((end - start) / block + ROUNDING))
        within = np.floor((sorted_time[lo:hi] - start) / block + ROUNDING)
        label[lo:hi] = first + np.minimum(within, count - 1)
        first += count
    known = segments.contains(sorted_time)
    for row in reversed(range(len(rows))):  # the first of several rows has the last word
        lo, hi = np.searchsorted(sorted_time, [rows.start[row], rows.end[row]])
        label[lo:hi] = row
    if not known.all():
        raise SuiteError(
            f"{(~known).sum()} test samples lie outside the {len(segments)} test segments, first "
            f"at {sorted_time[~known][0]:.3f} s; give the segments that were predicted."
        )
    found = np.empty_like(label)
    found[order] = label
    return found


# ------------------------------------------------------------------ scores


def metrics_of(sums: Sums) -> Metrics:
    """Return the scores that follow from the sums of one recording and seed.

    R² of a channel that does not change in the scored samples is nan, and so is then the mean over
    channels; weighted by variance such a channel counts for nothing.
    """
    every = np.ones((1, len(sums.trial)))
    n_samples, n_trials = int(sums.count.sum()), len(sums.trial)
    if isinstance(sums, RateSums):
        bits = float(sums.score("bits_per_spike", every)[0])
        return Metrics(n_samples=n_samples, n_trials=n_trials, bits_per_spike=bits)
    return Metrics(
        n_samples=n_samples,
        n_trials=n_trials,
        r2=tuple(sums.r2().tolist()),
        r2_uniform=float(sums.score("r2", every)[0]),
        r2_weighted=float(sums.score("r2_weighted", every)[0]),
    )


def behaviour_metrics(
    truth: np.ndarray, predicted: np.ndarray, scored: np.ndarray, trial: np.ndarray
) -> Metrics:
    """Return the scores of decoded behaviour; for arguments and errors see `behaviour_sums`.

    Examples
    --------
    >>> truth = np.array([[0.0], [1.0], [2.0]])
    >>> found = behaviour_metrics(truth, truth + 0.5, np.ones(3, bool), np.zeros(3, int))
    >>> found.r2, found.n_samples
    ((0.625,), 3)
    """
    return metrics_of(behaviour_sums(truth, predicted, scored, trial))


def rate_metrics(
    rates: np.ndarray, counts: np.ndarray, scored: np.ndarray, trial: np.ndarray
) -> Metrics:
    """Return the scores of predicted rates; for arguments and errors see `rate_sums`.

    Bits per spike are (log likelihood of the rates - that of each unit's mean count over the scored
    bins) / (spikes · ln 2), both of Poisson counts; nan without a spike.

    References
    ----------
    nlb_tools 0.0.4, ``evaluation.bits_per_spike``; Pei et al. 2021, arXiv 2109.04463.
    """
    return metrics_of(rate_sums(rates, counts, scored, trial))


# ------------------------------------------------------------------ other trials, other seeds


def mean_score(cells: Sequence[Sequence[Sums]], metric: Metric) -> float:
    """Return the mean over recordings of the mean over seeds; nan if one of these is nan.

    Parameters
    ----------
    cells : sequence of sequence of Sums
        The recordings, and of each the seeds.
    metric : str
        Which score.

    Raises
    ------
    SuiteError
        If there is no recording, or one without a seed.
    """
    _check(cells)
    scores = [
        np.mean([one.score(metric, np.ones((1, len(one.trial))))[0] for one in seeds])
        for seeds in cells
    ]
    return float(np.mean(scores))


def bootstrap(
    cells: Sequence[Sequence[Sums]],
    metric: Metric,
    *,
    draws: int = 1000,
    seed: int = 0,
    together: bool = False,
) -> tuple[float, float]:
    """Return the 95 % interval of `mean_score` over other trials and other seeds.

    In each draw every recording gets as many of its trials as it has, with replacement, the same
    ones for all its seeds (they were tested on the same trials), and one less than it has of its
    seeds (see `draw_seeds`); the score is computed anew from what was drawn. The interval is from
    the 2.5th to the 97.5th percentile. Recordings are not drawn: it says nothing of other animals
    or days.

    Parameters
    ----------
    cells : sequence of sequence of Sums
        The recordings, and of each the seeds, which share their trials.
    metric : str
        Which score.
    draws : int
        Number of draws.
    seed : int
        The same draws for the same number, whatever else was drawn before.
    together : bool
        Whether a seed is one decoder of all recordings, so that a draw of seeds is one for all.

    Returns
    -------
    low, high : float
        Both nan if the score is, if a recording has fewer than two trials, or if more than 5 % of
        the draws have no score (as when no channel changed, or no unit fired); fewer such draws
        are left out.

    Raises
    ------
    SuiteError
        If there is no recording, or one without a seed; if the seeds of a recording were scored on
        different trials; with `together`, if recordings differ in their number of seeds.
    """
    _check(cells, together)
    drawn = _draw(cells, metric, draws, seed, together, 0)
    return _interval(cells, drawn, mean_score(cells, metric))


def paired_bootstrap(
    mine: Sequence[Sequence[Sums]],
    theirs: Sequence[Sequence[Sums]],
    metric: Metric,
    *,
    draws: int = 1000,
    seed: int = 0,
    together: tuple[bool, bool] = (False, False),
) -> tuple[float, float, float]:
    """Return by how much one decoder is ahead of another, and the 95 % interval of that.

    As `bootstrap`, with the same trials drawn for both: what makes a trial hard for both cancels.
    Seeds are drawn for each on its own, for seed 0 of one has nothing to do with seed 0 of another.
    A lead is more than chance, of trials and seeds, where the interval does not hold 0.

    Parameters
    ----------
    mine, theirs : sequence of sequence of Sums
        As of `bootstrap`: the same recordings in the same order, with any number of seeds.
    metric, draws, seed
        As of `bootstrap`.
    together : tuple of bool
        As of `bootstrap`, of either.

    Returns
    -------
    difference, low, high : float
        Mine less theirs.

    Raises
    ------
    SuiteError
        As `bootstrap`, and if the two were not scored on the same trials.
    """
    _check(mine, together[0])
    _check(theirs, together[1])
    if len(mine) != len(theirs):
        raise SuiteError(
            f"Two decoders are compared on the same recordings: one has {len(mine)}, the other "
            f"{len(theirs)}."
        )
    for row, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        _check_alike(row, one[0], other[0])
    drawn = _draw(mine, metric, draws, seed, together[0], 0)
    drawn = drawn - _draw(theirs, metric, draws, seed, together[1], 1)
    difference = mean_score(mine, metric) - mean_score(theirs, metric)
    return difference, *_interval(mine, drawn, difference)


def _draw(
    cells: Sequence[Sequence[Sums]], metric: Metric, draws: int, seed: int, together: bool, who: int
) -> np.ndarray:
    """Return the mean score of each draw, (D,)."""
    scores_RD = []
    for row, seeds in enumerate(cells):
        weights_DT = draw_trials(len(seeds[0].trial), draws, seed, row)
        score_SD = np.stack([one.score(metric, weights_DT) for one in seeds])
        taken_DS = draw_seeds(len(seeds), draws, seed, 0 if together else row, who)
        scores_RD.append(score_SD[taken_DS, np.arange(draws)[:, None]].mean(axis=1))
    return np.mean(scores_RD, axis=0)


def draw_trials(count: int, draws: int, seed: int, recording: int) -> np.ndarray:
    """Return how often each draw has each trial, (D, T) float64: `count` in all."""
    if not count:
        return np.zeros((draws, 0))
    taken = np.random.default_rng([seed, 0, recording]).integers(count, size=(draws, count))
    flat = (taken + count * np.arange(draws)[:, None]).ravel()
    return np.bincount(flat, minlength=draws * count).reshape(draws, count).astype(np.float64)


def draw_seeds(count: int, draws: int, seed: int, recording: int, who: int) -> np.ndarray:
    """Return which seeds each draw has, (D, max(1, S - 1)) int64.

    The mean of S values drawn out of S varies with (S - 1) / S of the variance that it should have,
    a third too little for three seeds; that of S - 1 values varies as it should (Rao and Wu 1988,
    Journal of the American Statistical Association 83, 231-241).
    """
    generator = np.random.default_rng([seed, 1 + who, recording])
    return generator.integers(count, size=(draws, max(1, count - 1)))


def _interval(
    cells: Sequence[Sequence[Sums]], drawn: np.ndarray, score: float
) -> tuple[float, float]:
    found = drawn[np.isfinite(drawn)]
    few = min(len(seeds[0].trial) for seeds in cells) < 2
    if few or not math.isfinite(score) or len(found) < DEFINED * len(drawn) or not len(found):
        return math.nan, math.nan
    low, high = np.percentile(found, LEVEL)
    return float(low), float(high)


def _check(cells: Sequence[Sequence[Sums]], together: bool = False) -> None:
    if not cells or not all(cells):
        raise SuiteError(
            "A mean score needs a recording, and of each the sums of a seed at least: found "
            f"{[len(one) for one in cells]} seeds."
        )
    for row, seeds in enumerate(cells):
        for one in seeds[1:]:
            _check_alike(row, seeds[0], one)
    if together and len({len(seeds) for seeds in cells}) > 1:
        raise SuiteError(
            "One decoder of all recordings has the same seeds in each, found "
            f"{[len(one) for one in cells]} of them."
        )


def _check_alike(row: int, one: Sums, other: Sums) -> None:
    """Refuse sums that are not of the same samples of the same trials."""
    same = np.array_equal(one.trial, other.trial) and np.array_equal(one.count, other.count)
    if isinstance(one, BehaviourSums) and isinstance(other, BehaviourSums):
        same = same and np.array_equal(one.low, other.low) and np.array_equal(one.high, other.high)
    elif isinstance(one, RateSums) and isinstance(other, RateSums):
        same = same and np.array_equal(one.spikes, other.spikes)
    else:
        same = False
    if not same:
        raise SuiteError(
            f"Recording {row} of the list: what is drawn together must be scored on the same true "
            f"values of the same trials, but {len(one.trial)} trials with {one.count.sum():g} "
            f"samples do not equal {len(other.trial)} with {other.count.sum():g}."
        )
