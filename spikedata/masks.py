"""Which samples of a series are outliers: masks, widened and narrowed, and as intervals."""

from __future__ import annotations

import numpy as np

from spikedata.bounds import pairs
from spikedata.intervals import IntervalSet

__all__ = ["dilated", "eroded", "length_of", "masked_segments"]


def length_of(vectors: np.ndarray) -> np.ndarray:
    """Return the Euclidean length of each row (T, C): ``numpy.linalg.norm``, without its copies."""
    return np.sqrt(np.einsum("tc,tc->t", vectors, vectors))


def dilated(mask: np.ndarray, width: int) -> np.ndarray:
    """Return where `mask` (bool, shape (T,)) is true within a window of `width` samples.

    The window of sample i is ``[i - (width - 1) // 2, i + width // 2]``.

    References
    ----------
    ``scipy.ndimage.binary_dilation`` with ``numpy.ones(width)``, its even-sized case included.
    """
    first, end = _runs(mask)
    return _filled(first - width // 2, end + (width - 1) // 2, len(mask))


def eroded(mask: np.ndarray, width: int) -> np.ndarray:
    """Return where `mask` is true in a whole window of `width` samples; false beyond the ends.

    The window of sample i is ``[i - width // 2, i + (width - 1) // 2]``.

    References
    ----------
    ``scipy.ndimage.binary_erosion`` with ``numpy.ones(width)``, its even-sized case included.
    """
    first, end = _runs(mask)
    first, end = first + width // 2, end - (width - 1) // 2
    kept = first < end
    return _filled(first[kept], end[kept], len(mask))


def masked_segments(time: np.ndarray, mask: np.ndarray) -> IntervalSet:
    """Return the intervals in which `mask` is true, from the sample **before** each rise.

    A segment ends at its last sample; one at the very begin starts there.

    References
    ----------
    How torch_brain 0.2.1 turns the outlier masks of its reaching datasets into intervals.
    """
    step = np.diff(mask.astype(np.int8))
    start, end = time[np.flatnonzero(step == 1)], time[np.flatnonzero(step == -1)]
    if len(mask) and mask[0]:
        start = np.append(time[0], start)
    if len(mask) and mask[-1]:
        end = np.append(end, time[-1])
    return IntervalSet(*pairs(start, end))


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first and end row of every run of true."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return edges[::2], edges[1::2]


def _filled(first: np.ndarray, end: np.ndarray, count: int) -> np.ndarray:
    """Return a mask of `count` rows that is true in the given runs, cut at its ends."""
    step = np.zeros(count + 1, np.int32)
    np.add.at(step, np.clip(first, 0, count), 1)
    np.add.at(step, np.clip(end, 0, count), -1)
    return np.cumsum(step[:-1]) > 0
