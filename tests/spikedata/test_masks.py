from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spikedata.masks import dilated, eroded, length_of, masked_segments

MASKS = st.lists(st.booleans(), max_size=40).map(lambda rows: np.array(rows, bool))


@given(MASKS, st.integers(1, 9))
def test_a_dilated_mask_is_true_where_any_sample_of_the_window_is(mask, width):
    expected = [
        any(mask[max(i - (width - 1) // 2, 0) : i + width // 2 + 1]) for i in range(len(mask))
    ]

    assert dilated(mask, width).tolist() == expected


@given(MASKS, st.integers(1, 9))
def test_an_eroded_mask_is_true_where_a_whole_window_is(mask, width):
    expected = []
    for i in range(len(mask)):
        rows = range(i - width // 2, i + (width - 1) // 2 + 1)
        expected.append(all(0 <= row < len(mask) and bool(mask[row]) for row in rows))

    assert eroded(mask, width).tolist() == expected


def test_an_even_width_is_widened_as_scipy_does():
    """As scipy 1.17 gives ``binary_dilation`` and ``binary_erosion`` of the same masks."""
    one = np.array([0, 0, 1, 0, 0], bool)
    three = np.array([0, 1, 1, 1, 0], bool)

    assert dilated(one, 2).tolist() == [False, True, True, False, False]
    assert eroded(three, 2).tolist() == [False, False, True, True, False]


def test_segments_begin_at_the_sample_before_the_mask_rises():
    time = np.arange(6) / 10
    mask = np.array([1, 0, 0, 1, 1, 0], bool)

    assert list(masked_segments(time, mask)) == [(0.2, 0.4)]  # the first one has no length
    assert list(masked_segments(time, ~mask)) == [(0.0, 0.2), (0.4, 0.5)]
    assert len(masked_segments(time[:0], mask[:0])) == 0


def test_lengths_are_those_of_numpy():
    vectors = np.random.default_rng(0).standard_normal((50, 3))

    assert np.allclose(length_of(vectors), np.linalg.norm(vectors, axis=1), rtol=1e-15)
