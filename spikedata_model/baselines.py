"""The floor that every result is shown against: a Wiener filter, or ridge on lagged counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spikedata.errors import SpikedataError
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series

__all__ = ["lagged_counts", "wiener_predict"]

BIN = 0.05  # s
PAST, FUTURE = 10, 10  # bins before and after a sample: the reach of a 1-s window
ALPHAS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)  # ridge penalties, in units of squared counts
MAX_FIT_SAMPLES = 20_000  # a linear map needs no more; larger splits are thinned evenly
CHUNK = 2048  # samples whose features are held at once


def lagged_counts(
    spike_time: np.ndarray,
    spike_unit: np.ndarray,
    n_units: int,
    time: np.ndarray,
    *,
    past: int = PAST,
    future: int = FUTURE,
    width: float = BIN,
) -> np.ndarray:
    """Return the spike counts of every unit in the bins around each sample.

    Parameters
    ----------
    spike_time, spike_unit : ndarray, shape (N,)
        Spikes, sorted by time; seconds, and rows of units.
    n_units : int
        Number of units U.
    time : ndarray, shape (S,), float64
        Samples in seconds, sorted. Bin ``b`` is ``[t + b·width, t + (b + 1)·width)``.
    past, future : int
        Bins from ``-past`` to ``future - 1``.
    width : float
        Length of a bin in seconds.

    Returns
    -------
    ndarray, shape (S, (past + future) · U), float32
    """
    order = np.argsort(spike_unit, kind="stable")
    sorted_time = spike_time[order]
    first = np.searchsorted(spike_unit[order], np.arange(n_units + 1))
    edges = time[:, None] + np.arange(-past, future + 1) * width
    counts = np.empty((len(time), past + future, n_units), np.float32)
    for unit in range(n_units):
        own = sorted_time[first[unit] : first[unit + 1]]
        counts[:, :, unit] = np.diff(np.searchsorted(own, edges), axis=1)
    return counts.reshape(len(time), -1)


def wiener_predict(
    recording: Recording, target: str, train: IntervalSet, scored: IntervalSet
) -> np.ndarray:
    """Fit a Wiener filter on the training split and predict every sample of another.

    The ridge penalty is the best of `ALPHAS` on the last fifth of the training samples. Only
    spikes inside the intervals of the split are counted, as the model's windows see them.

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
    rows = rows[:: -(-len(rows) // MAX_FIT_SAMPLES)]
    held = rows[-max(1, len(rows) // 5) :]
    early = _moments(recording, series, train, rows[: -len(held)])
    features = _features(recording, train, series.times(held))
    truth = np.asarray(series.values[held], np.float64)
    scale = np.maximum(truth.var(axis=0), np.finfo(float).tiny)
    errors = [np.mean((_apply(early, a, features) - truth) ** 2 / scale) for a in ALPHAS]
    alpha = ALPHAS[int(np.argmin(errors))]
    late = _moments(recording, series, train, held)
    both = Moments(*(one + other for one, other in zip(early, late, strict=True)))
    time = series.times(_rows(series, scored))
    parts = [
        _apply(both, alpha, _features(recording, scored, time[first : first + CHUNK]))
        for first in range(0, len(time), CHUNK)
    ]
    return np.concatenate([np.empty((0, series.values.shape[1])), *parts])


def _rows(series: Series, intervals: IntervalSet) -> np.ndarray:
    lo, hi = series.bounds(intervals.start, intervals.end)
    ranges = [np.arange(first, last) for first, last in zip(lo, hi, strict=True)]
    return np.concatenate([np.empty(0, np.int64), *ranges])


def _features(recording: Recording, intervals: IntervalSet, time: np.ndarray) -> np.ndarray:
    """Return float64 features of samples, counting only spikes inside the intervals."""
    if len(time) == 0:
        return np.empty((0, (PAST + FUTURE) * recording.n_units))
    reach = BIN * max(PAST, FUTURE)
    lo, hi = np.searchsorted(recording.spike_time, [time[0] - reach, time[-1] + reach])
    spikes, units = recording.spike_time[lo:hi], recording.spike_unit[lo:hi]
    inside = intervals.contains(spikes)
    counts = lagged_counts(spikes[inside], units[inside], recording.n_units, time)
    return counts.astype(np.float64)


class Moments(NamedTuple):
    """Sums over a training set of D features and C channels: all that ridge needs of it."""

    count: float
    x: np.ndarray  # (D,)
    y: np.ndarray  # (C,)
    xx: np.ndarray  # (D, D)
    xy: np.ndarray  # (D, C)


def _moments(
    recording: Recording, series: Series, intervals: IntervalSet, rows: np.ndarray
) -> Moments:
    """Return the sums over some samples, a chunk at a time."""
    n_features = (PAST + FUTURE) * recording.n_units
    n_channels = series.values.shape[1]
    x_sum, y_sum = np.zeros(n_features), np.zeros(n_channels)
    xx, xy = np.zeros((n_features, n_features)), np.zeros((n_features, n_channels))
    for first in range(0, len(rows), CHUNK):
        chunk = rows[first : first + CHUNK]
        x = _features(recording, intervals, series.times(chunk))
        y = np.asarray(series.values[chunk], np.float64)
        x_sum += x.sum(axis=0)
        y_sum += y.sum(axis=0)
        xx += x.T @ x
        xy += x.T @ y
    return Moments(float(len(rows)), x_sum, y_sum, xx, xy)


def _apply(moments: Moments, alpha: float, features: np.ndarray) -> np.ndarray:
    """Return the ridge predictions of features from the moments of a training set."""
    count, x_sum, y_sum, xx, xy = moments
    x_mean, y_mean = x_sum / count, y_sum / count
    covariance = xx - count * np.outer(x_mean, x_mean)
    covariance[np.diag_indices_from(covariance)] += alpha
    weights = np.linalg.solve(covariance, xy - count * np.outer(x_mean, y_mean))
    return (features - x_mean) @ weights + y_mean
