"""A decoder is shown what a suite allows, and nothing of what it is scored on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.suite import Suite
from spikedata_model.leaderboard.tasks import Task, make_task
from tests.spikedata_model.worlds import make_session, suite_content

RATES = {
    "task": "rates", "metric": "bits_per_spike", "step": 0.05,
    "group": {"target": "heldout_counts", "evaluate_on": "evaluation"},
}  # fmt: skip


def task_of(recording: Recording, **changes) -> Task:
    suite = Suite.model_validate(suite_content(**changes))
    return make_task(suite, suite.groups[0], recording, "sha256:0")


def with_windows(recording: Recording, length: float = 0.7) -> Recording:
    start = recording.intervals["trials"].start + 0.25
    windows = IntervalSet(start, start + length)
    return replace(recording, intervals={**recording.intervals, "evaluation": windows})


@pytest.mark.parametrize("budget", [{}, {"share": 0.3}, {"trials": 2}, {"seconds": 5.0}])
def test_nothing_of_the_test_time_is_in_what_is_learned_from(budget):
    recording = make_session("one", 0)
    task = task_of(recording, budgets=[budget])
    (one,) = task.suite.budgets

    session = task.session(one, 0)

    test = recording.split("test", "chronological").dilate(1.0 - 1e-6)
    for part in (*session.train, *session.valid):
        assert not test.contains(part.time).any()
        assert not test.contains(part.spike_time).any()
        assert (part.start <= part.spike_time).all()
        assert (part.spike_time < part.end).all()
    for table in session.phases.values():
        assert (table & test).duration == 0
    assert len(session.train) >= 1


def test_segments_to_predict_hold_their_spikes_and_times_and_no_values():
    recording = make_session("one", 0)

    task = task_of(recording)

    test = recording.split("test", "chronological")
    series = recording.series["velocity"]
    inside = test.contains(series.times())
    assert [one.values for one in task.test] == [None] * len(task.test)
    assert np.array_equal(task.time, series.times()[inside])
    assert np.array_equal(task.truth, series.values[inside])
    spikes = np.concatenate([one.spike_time for one in task.test])
    assert np.array_equal(spikes, recording.spike_time[test.contains(recording.spike_time)])
    with pytest.raises(ValueError, match="no values"):
        _ = task.test[0].labels


def test_phases_mark_the_samples_in_their_tables():
    recording = with_windows(make_session("one", 0))

    task = task_of(recording, group={"evaluate_on": "evaluation", "phases": ["trials"]})

    windows = recording.intervals["evaluation"]
    naive = [any(a <= t < b for a, b in windows) for t in task.time]
    assert task.phases["evaluation"].tolist() == naive
    assert task.phases["all"].all()
    assert list(task.phases) == ["all", "evaluation", "trials"]


def test_counts_of_hidden_units_are_those_of_a_naive_histogram():
    recording = with_windows(make_session("one", 0))
    hidden = np.flatnonzero(recording.units["heldout"])

    task = task_of(recording, **RATES)

    naive = np.array([
        [np.sum((recording.spike_unit == unit)
                & (recording.spike_time >= t - 0.025) & (recording.spike_time < t + 0.025))
         for unit in hidden]
        for t in task.time
    ])  # fmt: skip
    assert np.array_equal(task.truth, naive)
    assert naive.sum() > 50
    assert task.phases["evaluation"].all()
    assert np.diff(task.time).min() == pytest.approx(0.05)


def test_hidden_units_are_not_shown():
    recording = with_windows(make_session("one", 0))

    task = task_of(recording, **RATES)

    session = task.session(task.suite.budgets[0], 0)
    shown = recording.unit_ids[~recording.units["heldout"]]
    assert session.unit_ids == tuple(shown)
    for part in (*session.train, *task.test):
        inside = (recording.spike_time >= part.start) & (recording.spike_time < part.end)
        kept = inside & ~recording.units["heldout"][recording.spike_unit]
        assert np.array_equal(part.spike_time, recording.spike_time[kept])
        names = np.array(session.unit_ids)[part.spike_unit]
        assert np.array_equal(names, recording.unit_ids[recording.spike_unit[kept]])


def test_spikes_on_the_edge_of_a_bin_fall_behind_it_in_spite_of_rounding():
    recording = with_windows(make_session("one", 0))
    edges = recording.intervals["evaluation"].start[-4:, None] + 0.1 * np.arange(6)
    rounded = np.nextafter(np.sort(edges.ravel()), -np.inf)
    recording = replace(
        recording, spike_time=rounded, spike_unit=np.full(len(rounded), 3, np.int32)
    )

    task = task_of(recording, **RATES)

    windows = recording.intervals["evaluation"]
    last = windows.start[windows.row_at(task.time)]
    bins = np.round((task.time - 0.025 - last) / 0.05).astype(int)
    expected = (bins % 2 == 0) & (bins < 12) & (last >= windows.start[-4])
    assert task.truth[:, 0].tolist() == expected.astype(float).tolist()
    assert expected.sum() >= 12


def test_overlapping_windows_are_binned_once():
    recording = with_windows(make_session("one", 0), length=3.0)  # trials last 2 s

    task = task_of(recording, **RATES)

    assert np.diff(task.time).min() > 0.05 - 1e-9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": {"target": "velocit"}}, "velocity"),
        ({"group": {"evaluate_on": "evaluatio"}}, "interval table 'evaluatio'"),
        ({"group": {"phases": ["reach"]}}, "interval table 'reach'"),
        ({"group": {"trials": "trial"}}, "interval table 'trial'"),
    ],
)
def test_what_a_recording_lacks_is_named(changes, message):
    with pytest.raises(SuiteError, match=message):
        task_of(with_windows(make_session("one", 0)), **changes)


def test_samples_that_are_no_numbers_are_refused():
    recording = make_session("one", 0)
    values = recording.series["velocity"].values.copy()
    values[7, 1] = np.nan
    broken = Series(values, "m/s", ("x", "y"), start=0.0, rate=50.0)

    with pytest.raises(SuiteError, match=r"1 samples of 'velocity' .* 0\.140 s"):
        task_of(replace(recording, series={"velocity": broken}))


def test_a_test_split_outside_the_scored_time_is_refused():
    recording = make_session("one", 0)
    early = IntervalSet.single(0.0, 5.0)
    recording = replace(recording, intervals={**recording.intervals, "reach": early})

    with pytest.raises(SuiteError, match="no sample of the test split lies in 'reach'"):
        task_of(recording, group={"evaluate_on": "reach"})


@pytest.mark.parametrize("hidden", [np.zeros(12, bool), np.ones(12, bool)])
def test_rates_need_some_hidden_units_and_some_that_are_not(hidden):
    recording = with_windows(make_session("one", 0))
    units = {**recording.units, "heldout": hidden}

    with pytest.raises(SuiteError, match="of 12 units are held out"):
        task_of(replace(recording, units=units), **RATES)


def test_the_hash_of_the_samples_changes_with_times_values_and_marks():
    recording = with_windows(make_session("one", 0))
    values = recording.series["velocity"].values.copy()
    values[-3, 0] += 1e-6
    moved = replace(recording, series={"velocity": Series(values, "m/s", ("x", "y"), rate=50.0)})
    hashes = [
        task_of(recording).samples_hash,
        task_of(moved).samples_hash,
        task_of(recording, group={"evaluate_on": "evaluation"}).samples_hash,
        task_of(recording, context=2.0).samples_hash,
    ]

    assert len(set(hashes[:3])) == 3
    assert hashes[0] == hashes[3]
