"""The floor that every result is shown against: a Wiener filter, or ridge on lagged counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spikedata.errors import SpikedataError
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series

__all__ = ["lagged_counts", "wiener_predict"]

REACH = 0.5  # s before and after a sample: what a 1-s window reaches at most
MAX_BINS = 20  # of 50 ms
MAX_FEATURES = 6000  # with more units the bins are fewer and wider: ridge is cubic in this
ALPHAS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)  # ridge penalties, in units of squared counts
MAX_FIT_SAMPLES = 20_000  # a linear map needs no more; larger splits are thinned evenly
CHUNK = 2048  # samples whose features are held at once


def lagged_counts(
    spike_time: np.ndarray,
    spike_unit: np.ndarray,
    n_units: int,
    time: np.ndarray,
    *,
    n_bins: int = MAX_BINS,
    before: float = REACH,
    after: float = REACH,
) -> np.ndarray:
    """Return the spike counts of every unit in the bins around each sample.

    Parameters
    ----------
    spike_time, spike_unit : ndarray, shape (N,)
        Spikes, sorted by time; seconds, and rows of units.
    n_units : int
        Number of units U.
    time : ndarray, shape (S,), float64
        Samples in seconds, sorted.
    n_bins : int
        Equal half-open bins B from ``t - before`` to ``t + after``.
    before, after : float
        Seconds.

    Returns
    -------
    ndarray, shape (S, B · U), float32
    """
    order = np.argsort(spike_unit, kind="stable")
    sorted_time = spike_time[order]
    first = np.searchsorted(spike_unit[order], np.arange(n_units + 1))
    edges = time[:, None] + np.linspace(-before, after, n_bins + 1)
    counts = np.empty((len(time), n_bins, n_units), np.float32)
    for unit in range(n_units):
        own = sorted_time[first[unit] : first[unit + 1]]
        counts[:, :, unit] = np.diff(np.searchsorted(own, edges), axis=1)
    return counts.reshape(len(time), n_bins * n_units)


def wiener_predict(
    recording: Recording,
    target: str,
    train: IntervalSet,
    scored: IntervalSet,
    *,
    causal: bool = False,
) -> np.ndarray:
    """Fit a Wiener filter on the training split and predict every sample of another.

    The ridge penalty is the best of `ALPHAS` on the last fifth of the training samples. Only
    spikes inside the intervals of the split are counted, as the model's windows see them.

    Parameters
    ----------
    recording : Recording
        Spikes and behaviour.
    target : str
        The series to predict.
    train, scored : IntervalSet
        Where to fit, and where to predict.
    causal : bool
        Use only the bins before a sample.

    Returns
    -------
    ndarray, shape (S, C), float64
        One row per sample of `target` in `scored`, in time order.

    Raises
    ------
    SpikedataError
        If the training split holds fewer than ten samples of the target.

    References
    ----------
    Glaser et al. 2020, "Machine Learning for Neural Decoding", eNeuro 7(4), for the filter.
    """
    series = recording.series[target]
    rows = _rows(series, train)
    if len(rows) < 10:
        raise SpikedataError(
            f"{recording.recording_id}: a Wiener filter needs 10 training samples of '{target}', "
            f"found {len(rows)}."
        )
    features = _feature_map(recording, train, causal)
    rows = rows[:: -(-len(rows) // MAX_FIT_SAMPLES)]
    held = rows[-max(1, len(rows) // 5) :]
    early = _moments(features, series, rows[: -len(held)])
    held_features = features(series.times(held))
    truth = np.asarray(series.values[held], np.float64)
    # Of all the training samples: behaviour may rest through the held ones.
    scale = np.maximum(np.asarray(series.values[rows], np.float64).var(axis=0), 1e-300)
    errors = [np.mean((_apply(early, a, held_features) - truth) ** 2 / scale) for a in ALPHAS]
    alpha = ALPHAS[int(np.argmin(errors))]
    late = _moments(features, series, held)
    both = early + late
    features = _feature_map(recording, scored, causal)
    time = series.times(_rows(series, scored))
    parts = [
        _apply(both, alpha, features(time[first : first + CHUNK]))
        for first in range(0, len(time), CHUNK)
    ]
    return np.concatenate([np.empty((0, series.values.shape[1])), *parts])


def _rows(series: Series, intervals: IntervalSet) -> np.ndarray:
    lo, hi = series.bounds(intervals.start, intervals.end)
    ranges = [np.arange(first, last) for first, last in zip(lo, hi, strict=True)]
    return np.concatenate([np.empty(0, np.int64), *ranges])


FeatureMap = Callable[[np.ndarray], np.ndarray]


def _feature_map(recording: Recording, intervals: IntervalSet, causal: bool) -> FeatureMap:
    """Return a map from sorted times (S,) to features (S, D), float64, of spikes in intervals."""
    after = 0.0 if causal else REACH
    n_bins = int(np.clip(MAX_FEATURES // max(1, recording.n_units), 2, MAX_BINS))
    n_bins = max(1, n_bins // 2) if causal else n_bins

    def features(time: np.ndarray) -> np.ndarray:
        lo, hi = np.searchsorted(recording.spike_time, [time[0] - REACH, time[-1] + after])
        spikes, units = recording.spike_time[lo:hi], recording.spike_unit[lo:hi]
        inside = intervals.contains(spikes)
        counts = lagged_counts(
            spikes[inside], units[inside], recording.n_units, time, n_bins=n_bins, after=after
        )
        return counts.astype(np.float64)

    return features


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over a training set of D features and C channels: all that ridge needs of it."""

    count: float
    x: np.ndarray  # (D,)
    y: np.ndarray  # (C,)
    xx: np.ndarray  # (D, D)
    xy: np.ndarray  # (D, C)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
        )


def _moments(features: FeatureMap, series: Series, rows: np.ndarray) -> Moments:
    """Return the sums over some samples, at least one, a chunk at a time."""
    total = None
    for first in range(0, len(rows), CHUNK):
        chunk = rows[first : first + CHUNK]
        x = features(series.times(chunk))
        y = np.asarray(series.values[chunk], np.float64)
        part = Moments(float(len(chunk)), x.sum(axis=0), y.sum(axis=0), x.T @ x, x.T @ y)
        total = part if total is None else total + part
    assert total is not None
    return total


def _apply(moments: Moments, alpha: float, features: np.ndarray) -> np.ndarray:
    """Return the ridge predictions of features from the moments of a training set."""
    x_mean, y_mean = moments.x / moments.count, moments.y / moments.count
    covariance = moments.xx - moments.count * np.outer(x_mean, x_mean)
    covariance[np.diag_indices_from(covariance)] += alpha
    weights = np.linalg.solve(covariance, moments.xy - moments.count * np.outer(x_mean, y_mean))
    return (features - x_mean) @ weights + y_mean
