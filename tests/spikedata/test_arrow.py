from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from spikedata.arrow import array_of, list_of, table_of


@pytest.mark.parametrize("kind", ["f8", "f4", "i8", "i4", "u1"])
@pytest.mark.parametrize("shape", [(0,), (5,), (5, 3), (4, 3, 2)])
def test_numbers_keep_type_values_and_memory(kind, shape):
    values = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    made = array_of(values)
    inner = made
    while pa.types.is_fixed_size_list(inner.type):
        inner = inner.flatten()

    assert inner.type == pa.from_numpy_dtype(np.dtype(kind))
    assert inner.buffers()[1].address == values.ctypes.data or not values.size
    assert made.to_pylist() == values.tolist()


def test_what_is_not_a_number_stays_nan_and_is_no_null():
    assert array_of(np.array([np.nan, -0.0, np.inf])).null_count == 0


@pytest.mark.parametrize(
    "values",
    [np.array(["a", "", "äß"]), np.array([["a", "b"], ["c", "d"]]), np.array([True, False]),
     np.arange(10.0)[::2], np.arange(12.0).reshape(3, 4)[:, 1]],
)  # fmt: skip
def test_text_booleans_and_strides_are_copied_as_they_are(values):
    assert array_of(values).to_pylist() == values.tolist()


def test_rows_of_several_lengths_share_offsets_and_values():
    offsets, values = np.array([0, 2, 2, 5]), np.arange(5, dtype=np.float32)
    made = list_of(offsets, array_of(values))

    assert made.to_pylist() == [[0.0, 1.0], [], [2.0, 3.0, 4.0]]
    assert made.offsets.buffers()[1].address == offsets.ctypes.data
    assert made.values.buffers()[1].address == values.ctypes.data


def test_a_table_has_its_columns_in_their_order():
    made = table_of({"b": np.zeros(2), "a": np.array(["x", "y"])})

    assert made.column_names == ["b", "a"]
