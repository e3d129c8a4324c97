"""Rows of several lengths joined end to end, and the same rows padded to one length.

Row ``i`` owns the elements ``offsets[i]:offsets[i + 1]`` of a joined array, as in an Arrow list.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["join_offsets", "mask_of", "pad", "row_of", "take_rows", "unpad"]


def join_offsets(counts: np.ndarray) -> np.ndarray:
    """Return the offsets, int64 of shape (B + 1,), of rows with `counts` elements each."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def row_of(offsets: np.ndarray) -> np.ndarray:
    """Return the row of each element, int64 of shape (N,)."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def take_rows(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return ``first[i], first[i] + 1, …``, `counts[i]` numbers for each row, joined, int64."""
    offsets = join_offsets(counts)
    return np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], counts)


def mask_of(offsets: np.ndarray, multiple: int = 1) -> np.ndarray:
    """Return which places of the padded form are taken, bool of shape (B, N).

    N is the length of the longest row, rounded up to a multiple of `multiple`.
    """
    counts = np.diff(offsets)
    width = -(-int(counts.max(initial=0)) // multiple) * multiple
    return np.arange(width) < counts[:, None]


def pad(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return joined values, shape (N, ...), in their places of a mask (B, N), zeros elsewhere."""
    padded = np.zeros((*mask.shape, *values.shape[1:]), values.dtype)
    _items(padded, mask.ndim)[mask.ravel()] = _items(np.ascontiguousarray(values), 1)
    return padded


def unpad(padded: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the values at the taken places, joined row after row."""
    taken = _items(np.ascontiguousarray(padded), mask.ndim)[mask.ravel()]
    return taken.view(padded.dtype).reshape(-1, *padded.shape[mask.ndim :])


def _items(values: np.ndarray, axes: int) -> np.ndarray:
    """Return what lies behind the first axes as one item each.

    A mask moves items more than ten times as fast as rows.
    """
    size = values.dtype.itemsize * math.prod(values.shape[axes:])
    if values.ndim == axes or size == 0:
        return values.reshape(math.prod(values.shape[:axes]), *values.shape[axes:])
    return values.reshape(-1).view(np.dtype((np.void, size)))
