from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikedata.batch import Batch, TargetBatch
from spikedata.errors import SamplingError
from spikedata.ragged import join_offsets, mask_of, pad, row_of, take_rows, unpad
from spikedata.sampler import Sampler
from spikedata.testing import make_recording
from tests.conftest import build_recording

COUNTS = st.lists(st.integers(0, 6), max_size=8).map(lambda counts: np.array(counts, np.int64))


@given(COUNTS, st.integers(1, 9), st.integers(0, 3))
def test_padding_and_joining_are_the_way_there_and_back(counts, multiple, channels):
    offsets = join_offsets(counts)
    shape = (int(offsets[-1]), channels) if channels else (int(offsets[-1]),)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mask = mask_of(offsets, multiple)
    padded = pad(values, mask)

    assert mask.shape == (len(counts), -(-int(counts.max(initial=0)) // multiple) * multiple)
    for row, count in enumerate(counts.tolist()):
        assert np.array_equal(padded[row, :count], values[offsets[row] : offsets[row + 1]])
        assert not padded[row, count:].any()
    assert np.array_equal(unpad(padded, mask), values)
    assert padded.dtype == values.dtype


@given(COUNTS, st.integers(-5, 5))
def test_rows_are_numbered_as_loops_number_them(counts, first):
    starts = np.arange(len(counts)) * 7 + first

    assert row_of(join_offsets(counts)).tolist() == [
        row for row, count in enumerate(counts.tolist()) for _ in range(count)
    ]
    assert take_rows(starts, counts).tolist() == [
        start + step
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True)
        for step in range(count)
    ]


def fields_of(batch: Batch) -> dict[str, object]:
    return {
        name: getattr(batch, name).tolist()
        for name in batch.__slots__
        if isinstance(getattr(batch, name), np.ndarray)
    }


@given(st.integers(0, 5), st.sampled_from([1, 8]), st.floats(0.01, 1.5))
@settings(max_examples=20, deadline=None)
def test_a_padded_batch_holds_the_batch(seed, multiple, window):
    recordings = [make_recording(seed, units=3), make_recording(seed + 1, units=5)]
    batch = Sampler(recordings, window=window, batch_size=6, seed=seed).batch(0, 0)
    padded = batch.padded(multiple)
    back = padded.ragged()

    assert padded.spike_time.shape == padded.spike_unit.shape == padded.mask.shape
    assert padded.mask.shape[1] % multiple == 0
    assert fields_of(batch) == fields_of(back)
    for name, one in batch.targets.items():
        assert isinstance(back.targets[name], TargetBatch)
        for part in one.__slots__:
            assert np.array_equal(getattr(one, part), getattr(back.targets[name], part))
        assert not padded.targets[name].weight[~padded.targets[name].mask].any()


@pytest.mark.parametrize("multiple", [0, -1, 1.5, None, "8"])
def test_a_multiple_that_is_no_whole_number_above_zero_is_refused(multiple):
    with pytest.raises(SamplingError, match="multiple must be a whole number of 1 or more"):
        Sampler([build_recording()]).batch(0, 0).padded(multiple)


def test_a_multiple_may_be_a_number_of_numpy():
    padded = Sampler([build_recording(n_spikes=8000)], window=4.0).batch(0, 0).padded(np.uint8(7))

    assert padded.spike_time.shape[1] > 255
    assert padded.spike_time.shape[1] % 7 == 0


def test_a_row_that_a_batch_does_not_have_is_refused():
    batch = Sampler([make_recording(0)], batch_size=4).batch(0, 0)

    assert batch[-1].start == batch.start[3]
    with pytest.raises(IndexError, match="Window 4 of a batch of 4"):
        batch[4]


def test_a_batch_is_shown_in_a_line():
    sampler = Sampler([make_recording(seed=0)], batch_size=8, intervals=["trials"])
    batch = sampler.batch(0, 0)
    shown = repr(batch)

    assert shown.startswith(f"Batch(8 windows of 1 recordings, {len(batch.spike_time)} spikes, ")
    assert "velocity (400, 2)" in shown
    assert shown.endswith(" rows of trials)")
