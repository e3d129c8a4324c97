from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from spikedata.intervals import IntervalSet
from spikedata.testing import interval_sets, make_recording, write_nwb


def binned(recording, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Return counts (bins, units) and the mean velocity (bins, 2) of each bin."""
    edges = np.arange(recording.domain.start[0], recording.domain.end[0] + width / 2, width)
    counts = np.stack(
        [
            np.histogram(recording.spike_time[recording.spike_unit == unit], edges)[0]
            for unit in range(recording.n_units)
        ],
        axis=1,
    )
    velocity = recording.series["velocity"]
    return counts, velocity.values.reshape(len(edges) - 1, -1, 2).mean(1)


def test_a_linear_decoder_reads_the_velocity_of_a_made_recording():
    recording = make_recording(0, units=30, duration=120.0, series_rate=50.0)
    counts, velocity = binned(recording, 0.1)
    inputs = np.column_stack([counts, np.ones(len(counts))])
    half = len(inputs) // 2

    weights = np.linalg.lstsq(inputs[:half], velocity[:half], rcond=None)[0]

    error = velocity[half:] - inputs[half:] @ weights
    r2 = 1 - (error**2).sum(0) / ((velocity[half:] - velocity[half:].mean(0)) ** 2).sum(0)
    assert r2.min() > 0.6


def test_the_tuning_of_a_made_recording_is_the_stated_one():
    recording = make_recording(1, units=12, duration=300.0)
    counts, velocity = binned(recording, 0.1)

    estimate = np.linalg.lstsq(velocity, counts - counts.mean(0), rcond=None)[0].T

    stated = np.stack([recording.units["preferred_x"], recording.units["preferred_y"]], 1)
    cosine = (estimate * stated).sum(1) / np.linalg.norm(estimate, axis=1)
    assert cosine.min() > 0.95


def test_the_mean_rate_is_near_the_stated_one():
    recording = make_recording(2, units=40, duration=100.0, spike_rate=20.0)

    assert len(recording.spike_time) / 100.0 / 40 == pytest.approx(21.0, rel=0.1)


def test_a_seed_is_a_session():
    first, again, other = make_recording(0), make_recording(0), make_recording(1)

    assert np.array_equal(first.spike_time, again.spike_time)
    assert first.recording_id != other.recording_id
    assert not np.array_equal(first.units["preferred_x"], other.units["preferred_x"])


def test_a_clock_that_starts_elsewhere_shifts_everything():
    plain, shifted = make_recording(3), make_recording(3, start=4400.0)

    assert np.allclose(shifted.spike_time - 4400.0, plain.spike_time)
    assert shifted.domain == IntervalSet.single(4400.0, 4460.0)


@given(interval_sets())
def test_interval_sets_are_disjoint_when_asked(intervals):
    assert intervals.is_disjoint


@pytest.mark.filterwarnings("ignore")
def test_a_written_file_is_valid_nwb(tmp_path):
    import pynwb

    errors = pynwb.validate(path=str(write_nwb(tmp_path / "a.nwb")))

    assert errors == []
