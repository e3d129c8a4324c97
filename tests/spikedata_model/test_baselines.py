from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.errors import SpikedataError
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording
from spikedata_model import baselines
from spikedata_model.baselines import REACH, lagged_counts, wiener_predict
from tests.spikedata_model.builders import make_recording, make_splits, with_values


def counts_by_loop(
    spike_time: np.ndarray,
    spike_unit: np.ndarray,
    n_units: int,
    time: np.ndarray,
    edges: np.ndarray,
) -> np.ndarray:
    counts = np.zeros((len(time), len(edges) - 1, n_units))
    for row, at in enumerate(time):
        for place in range(len(edges) - 1):
            for when, unit in zip(spike_time, spike_unit, strict=True):
                counts[row, place, unit] += at + edges[place] <= when < at + edges[place + 1]
    return counts.reshape(len(time), (len(edges) - 1) * n_units)


@given(
    spikes=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 3)), max_size=25),
    samples=st.lists(st.integers(0, 80), max_size=6),
    n_bins=st.integers(1, 6),
    before=st.sampled_from([0.25, 0.5, 1.0]),
    after=st.sampled_from([0.0, 0.5, 0.75]),
)
def test_lagged_counts_are_those_of_a_loop_over_samples_bins_and_spikes(
    spikes, samples, n_bins, before, after
):
    """Times are multiples of 1/16 s, so that many spikes lie on the bound of a bin."""
    spikes = sorted(spikes)
    spike_time = np.array([when / 16 for when, _ in spikes])
    spike_unit = np.array([unit for _, unit in spikes], np.int32)
    time = np.array(sorted(samples)) / 16
    found = lagged_counts(
        spike_time, spike_unit, 5, time, n_bins=n_bins, before=before, after=after
    )

    edges = np.linspace(-before, after, n_bins + 1)
    assert found.dtype == np.float32
    assert np.array_equal(counts_by_loop(spike_time, spike_unit, 5, time, edges), found)


def linear_recording(n_units: int = 3, noise: float = 0.0) -> Recording:
    """Return a recording whose hand is a linear map of its lagged counts.

    The counts change slowly from sample to sample as spikes leave and enter bins.
    """
    recording = make_recording(n_units=n_units, duration=60.0, rate=20.0)
    series = recording.series["hand"]
    counts = lagged_counts(
        recording.spike_time, recording.spike_unit, n_units, series.times(), n_bins=2
    )
    rng = np.random.default_rng(0)
    values = counts @ rng.normal(size=(counts.shape[1], 2)) + [5, -300]
    return with_values(recording, "hand", values + noise * rng.normal(size=values.shape))


def interior(recording: Recording, split: str) -> np.ndarray:
    """Return which samples of a split see all the spikes around them."""
    intervals, time = recording.split(split), recording.series["hand"].times()
    time = time[intervals.contains(time)]
    return intervals.dilate(-REACH - 1e-6).contains(time)


def predict(recording: Recording, split: str = "test", **options: bool) -> np.ndarray:
    return wiener_predict(
        recording, "hand", recording.split("train"), recording.split(split), **options
    )


def truth(recording: Recording, split: str = "test") -> np.ndarray:
    series = recording.series["hand"]
    return series.values[recording.split(split).contains(series.times())]


def test_a_noiseless_linear_map_is_recovered():
    recording = linear_recording()
    inside = interior(recording, "test")
    error = (predict(recording) - truth(recording))[inside]

    assert inside.sum() > 100
    assert np.abs(error).max() < 0.1 * truth(recording).std(axis=0).min()


def test_predictions_are_those_of_ridge_solved_in_one_go(monkeypatch):
    monkeypatch.setattr(baselines, "ALPHAS", (10.0,))
    recording = linear_recording(noise=3.0)
    series = recording.series["hand"]

    def features(split: str) -> np.ndarray:
        intervals = recording.split(split)
        kept = intervals.contains(recording.spike_time)
        time = series.times()[intervals.contains(series.times())]
        spikes, units = recording.spike_time[kept], recording.spike_unit[kept]
        return lagged_counts(spikes, units, 3, time).astype(np.float64)

    x, y = features("train"), truth(recording, "train")
    centred, level = x - x.mean(axis=0), y.mean(axis=0)
    weights = np.linalg.solve(
        centred.T @ centred + 10.0 * np.eye(x.shape[1]), centred.T @ (y - level)
    )
    expected = (features("test") - x.mean(axis=0)) @ weights + level

    np.testing.assert_allclose(predict(recording), expected, rtol=1e-6, atol=1e-6)


def test_rows_are_the_samples_of_the_split_in_time_order():
    splits = make_splits(
        (0.0, 9.0, "train"), (9.5, 9.7, "test"), (11.0, 14.0, "test"), (14.0, 20.0, "valid")
    )
    recording = make_recording(splits=splits)
    together = predict(recording)
    held = recording.split("test")
    parts = [
        wiener_predict(recording, "hand", recording.split("train"), held.where(np.arange(2) == row))
        for row in (0, 1)
    ]

    assert len(truth(recording)) == len(together)
    np.testing.assert_allclose(together, np.concatenate(parts), rtol=1e-9)
    assert len(predict(recording, "valid")) == len(truth(recording, "valid"))


def test_a_split_without_samples_gives_no_rows():
    recording = make_recording()

    assert wiener_predict(
        recording, "hand", recording.split("train"), IntervalSet.empty()
    ).shape == (0, 2)


@given(st.integers(0, 999), st.booleans())
def test_spikes_outside_both_splits_do_not_matter(seed, causal):
    splits = make_splits(
        (0.0, 8.0, "train"), (8.0, 9.0, "valid"), (9.3, 12.0, "test"), (13.0, 20.0, "test")
    )
    recording = make_recording(splits=splits)
    rng = np.random.default_rng(seed)
    seen = recording.split("train").union(recording.split("test"))
    kept = seen.contains(recording.spike_time)
    added = np.sort(rng.uniform(-1, 21, 300))
    added = added[~seen.contains(added)]
    time = np.concatenate([recording.spike_time[kept], added])
    unit = np.concatenate([recording.spike_unit[kept], rng.integers(0, 4, len(added))])
    order = np.argsort(time, kind="stable")
    other = replace(recording, spike_time=time[order], spike_unit=unit[order].astype(np.int32))

    assert np.array_equal(predict(recording, causal=causal), predict(other, causal=causal))


def test_spikes_of_training_time_do_not_reach_the_first_test_samples():
    """The splits touch: without a guard the bins of a test sample would hold training spikes."""
    recording = make_recording(splits=make_splits((0.0, 12.0, "train"), (12.0, 20.0, "test")))
    shown = replace(
        recording, splits={"time": make_splits((0.0, 11.0, "train"), (12.0, 20.0, "test"))}
    )
    rng = np.random.default_rng(0)
    unit = recording.spike_unit.copy()
    late = (recording.spike_time > 11) & (recording.spike_time < 12)
    unit[late] = rng.integers(0, 4, int(late.sum()))

    assert np.array_equal(predict(shown), predict(replace(shown, spike_unit=unit)))


def test_the_causal_filter_does_not_see_what_comes_after_a_sample():
    recording = make_recording()
    rng = np.random.default_rng(0)
    unit = recording.spike_unit.copy()
    late = recording.spike_time >= 17.5
    unit[late] = rng.integers(0, 4, int(late.sum()))
    other = replace(recording, spike_unit=unit)
    before = np.arange(15, 20, 0.05) <= 17.5

    causal = [predict(one, causal=True) for one in (recording, other)]
    assert np.array_equal(causal[0][before], causal[1][before])
    assert not np.array_equal(causal[0], causal[1])
    both = [predict(one) for one in (recording, other)]
    assert not np.array_equal(both[0][before], both[1][before])


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
def test_the_size_of_chunks_does_not_matter(monkeypatch, chunk):
    recording = make_recording()
    expected = predict(recording)
    monkeypatch.setattr(baselines, "CHUNK", chunk)

    np.testing.assert_allclose(predict(recording), expected, rtol=1e-6, atol=1e-6)


def test_large_training_splits_are_thinned_evenly(monkeypatch):
    recording = linear_recording(noise=1.0)
    monkeypatch.setattr(baselines, "MAX_FIT_SAMPLES", 100)
    inside = interior(recording, "test")
    values, predicted = truth(recording)[inside], predict(recording)[inside]

    assert 1 - ((values - predicted) ** 2).sum() / ((values - values.mean(axis=0)) ** 2).sum() > 0.5


def test_the_penalty_is_chosen_even_when_behaviour_rests_at_the_end_of_training():
    """The penalties are compared there; a variance of 0 must not make them all alike."""
    recording = linear_recording(noise=60.0)
    series = recording.series["hand"]
    values = series.values.copy()
    values[(series.times() > 28) & (series.times() < 36.1), 1] = 7.0
    recording = with_values(recording, "hand", values)

    assert np.isfinite(predict(recording)).all()
    chosen = predict(with_values(recording, "hand", values * [1, 1000]))
    np.testing.assert_allclose(chosen / [1, 1000], predict(recording), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_samples", [0, 1, 9])
def test_fewer_than_ten_training_samples_are_refused_with_their_number(n_samples):
    recording = make_recording()
    train = IntervalSet.single(0.01, 0.02 + n_samples / 20)

    with pytest.raises(
        SpikedataError, match=f"lab/a: .* 10 training samples of 'hand', found {n_samples}"
    ):
        wiener_predict(recording, "hand", train, recording.split("test"))


def test_ten_training_samples_are_enough():
    recording = make_recording()
    found = wiener_predict(recording, "hand", IntervalSet.single(0.0, 0.5), recording.split("test"))

    assert np.isfinite(found).all()


def test_silent_units_and_recordings_without_units_are_predicted_as_the_mean():
    recording = make_recording()
    none = replace(
        recording,
        spike_time=np.empty(0), spike_unit=np.empty(0, np.int32),
        units={"unit_id": np.empty(0, "U1")},
    )  # fmt: skip
    silent = replace(none, units=recording.units)
    mean = truth(recording, "train").astype(np.float64).mean(axis=0)

    for one in (none, silent):
        np.testing.assert_allclose(predict(one), np.broadcast_to(mean, (100, 2)), rtol=1e-6)
