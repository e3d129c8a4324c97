"""Which samples of a series are outliers: masks, widened and narrowed, and as intervals."""

from __future__ import annotations

import numpy as np

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
    if not mask.any():
        return mask.copy()
    count = np.concatenate([[0], np.cumsum(mask)])
    row = np.arange(len(mask))
    lo = np.maximum(row - (width - 1) // 2, 0)
    hi = np.minimum(row + width // 2 + 1, len(mask))
    return count[hi] > count[lo]


def eroded(mask: np.ndarray, width: int) -> np.ndarray:
    """Return where `mask` is true in a whole window of `width` samples; false beyond the ends.

    The window of sample i is ``[i - width // 2, i + (width - 1) // 2]``.

    References
    ----------
    ``scipy.ndimage.binary_erosion`` with ``numpy.ones(width)``, its even-sized case included.
    """
    if not mask.any():
        return mask.copy()
    count = np.concatenate([[0], np.cumsum(mask)])
    row = np.arange(len(mask))
    lo, hi = row - width // 2, row + (width - 1) // 2 + 1
    inside = (lo >= 0) & (hi <= len(mask))
    lo, hi = np.where(inside, lo, 0), np.where(inside, hi, 0)
    return inside & (count[hi] - count[lo] == width)


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
    kept = start < end
    return IntervalSet(start[kept], end[kept])
