from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikedata.testing.reaching import make_reaching_session
from spikedata_model.baselines import wiener_predict
from spikedata_model.evaluate import r2_score

TASKS = ("center_out", "random_target")


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from(TASKS),
    st.sampled_from([20.0, 33.3, 61.7]),
    st.integers(1, 12),
    st.sampled_from([0.5, 40.0]),
)
def test_phases_tile_the_session_and_spikes_lie_in_it(seed, task, duration, units, rate):
    made = make_reaching_session(seed, task=task, duration=duration, units=units, spike_rate=rate)
    grid = np.arange(round(duration * 1000)) / 1000 + 0.0005
    phases = [table.contains(grid) for name, table in made.intervals.items() if name != "trials"]
    trials = made.intervals["trials"]

    assert np.array_equal(np.sum(phases, axis=0)[grid < made.domain.end[0]],
                          np.ones((grid < made.domain.end[0]).sum()))  # fmt: skip
    assert np.all(made.domain.contains(made.spike_time))
    assert np.all(np.diff(made.spike_time) >= 0)
    assert np.all((trials.start >= 0) & (trials.end <= duration))
    assert np.all(trials.end[:-1] <= trials.start[1:])


@pytest.mark.parametrize("task", TASKS)
def test_the_velocity_is_the_derivative_of_the_position(task):
    made = make_reaching_session(3, task=task, duration=60.0)
    position, velocity = (
        np.asarray(made.series[name].values, np.float64)
        for name in ("cursor_position", "cursor_velocity")
    )
    slope = (position[2:] - position[:-2]) * 50.0
    error = np.abs(slope - velocity[1:-1])

    assert np.quantile(error, 0.99) < 0.05 * np.abs(velocity).max()


def test_reaches_end_at_the_targets_and_returns_in_the_centre():
    made = make_reaching_session(4, duration=120.0)
    trials, cursor = made.intervals["trials"], made.series["cursor_position"]
    last = np.searchsorted(cursor.times(), trials.end) - 1
    reach = made.intervals["reach"]
    there = np.searchsorted(cursor.times(), reach.end) - 1
    target = np.asarray(trials.columns["target_id"])[np.asarray(trials.columns["valid"])]
    wanted = 8.0 * np.stack([np.cos(target * np.pi / 4), np.sin(target * np.pi / 4)], 1)

    assert np.abs(cursor.values[last]).max() < 1e-3
    assert np.allclose(cursor.values[there], wanted, atol=1e-3)


def test_units_fire_at_the_stated_rate_and_before_the_movement_they_prefer():
    made = make_reaching_session(
        5, task="random_target", duration=600.0, units=40, spike_rate=900.0
    )
    velocity = np.asarray(made.series["cursor_velocity"].values, np.float64)
    lags = np.arange(-5, 21)
    found = []
    for unit in range(40):
        spikes = made.spike_time[made.spike_unit == unit]
        counts = np.histogram(spikes, np.arange(len(velocity) + 1) / 100)[0]
        preferred = [made.units["preferred_x"][unit], made.units["preferred_y"][unit]]
        along = velocity @ preferred
        power = [np.dot(counts[50:-50], np.roll(along, -lag)[50:-50]) for lag in lags]
        found.append(lags[int(np.argmax(power))] / 100)

    assert len(made.spike_time) / 600.0 == pytest.approx(900.0, rel=0.02)
    assert np.corrcoef(found, made.units["lead"])[0, 1] > 0.5
    assert np.median(found) == pytest.approx(0.1, abs=0.03)


def test_counts_have_the_variance_of_a_poisson_process_within_a_rate():
    """While the hand rests only the shared gain moves, slowly: neighbours are nearly Poisson."""
    made = make_reaching_session(6, duration=900.0, units=30, spike_rate=600.0)
    rest = made.intervals["hold"]
    mid = (rest.start + rest.end) / 2
    edges = mid[rest.end - rest.start > 0.6][:, None] + [-0.1, 0.0, 0.1]
    trains = [made.spike_time[made.spike_unit == unit] for unit in range(30)]
    counts = np.array([np.diff(np.searchsorted(train, edges), axis=1) for train in trains])
    difference = counts[..., 1] - counts[..., 0]

    assert np.sum(difference**2) / counts.sum() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("task", TASKS)
def test_a_wiener_filter_reads_the_velocity_but_not_all_of_it(task):
    made = make_reaching_session(1, task=task, duration=400.0)
    test = made.split("test")
    series = made.series["cursor_velocity"]
    rows = [slice(*one) for one in zip(*series.bounds(test.start, test.end), strict=True)]
    truth = np.concatenate([np.asarray(series.values[one], np.float64) for one in rows])
    predicted = wiener_predict(made, "cursor_velocity", made.split("train"), test, causal=True)

    assert 0.5 < r2_score(truth, predicted).mean() < 0.85


def test_a_seed_is_a_session_of_its_own():
    first, again, other = (make_reaching_session(seed, duration=30.0) for seed in (0, 0, 1))

    assert np.array_equal(first.spike_time, again.spike_time)
    assert not np.array_equal(first.units["preferred_x"], other.units["preferred_x"])
    assert first.recording_id != other.recording_id


@pytest.mark.parametrize("options", [{"task": "maze"}, {"duration": 5.0}])
def test_what_cannot_be_made_is_refused(options):
    with pytest.raises(ValueError, match="cannot be made"):
        make_reaching_session(0, **options)
