"""Arrays as Arrow columns: the same memory wherever Arrow has the type, and the same values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

__all__ = ["array_of", "list_of", "table_of"]


def array_of(values: np.ndarray) -> pa.Array:
    """Return an array as an Arrow array of the same values and type; NaN stays NaN.

    Parameters
    ----------
    values : ndarray, shape (N, ...)
        Numbers that lie one after the other are not copied; text, booleans and strided numbers
        are. Each row of an array of more dimensions becomes a list of fixed size.

    Examples
    --------
    >>> array_of(np.zeros((3, 2), np.float32)).type
    FixedSizeListType(fixed_size_list<item: float>[2])
    """
    values = np.asarray(values)
    if values.ndim > 1:
        inner = np.ascontiguousarray(values).reshape(-1, *values.shape[2:])
        return pa.FixedSizeListArray.from_arrays(array_of(inner), values.shape[1])
    if values.dtype.kind in "UO":
        return pa.array([str(value) for value in values], pa.string())
    return pa.array(np.ascontiguousarray(values))


def list_of(offsets: np.ndarray, values: pa.Array) -> pa.LargeListArray:
    """Return rows of several lengths; `offsets` (int64, shape (B + 1,)) is not copied."""
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)


def table_of(columns: Mapping[str, np.ndarray]) -> pa.Table:
    """Return columns of one length as an Arrow table."""
    return pa.table({name: array_of(values) for name, values in columns.items()})
