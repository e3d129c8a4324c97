from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from spikedata.checks import CHECKS, run_checks
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata.splits import chronological_split
from spikedata.testing import make_recording, recordings

GOOD = make_recording(0, units=5, duration=20.0)


def unchecked(start, end, columns=None) -> IntervalSet:
    """Return a set of intervals that a harmoniser could make by mistake: its rows may overlap."""
    return IntervalSet(np.array(start, float), np.array(end, float), columns or {})


def with_units(**columns) -> Recording:
    return replace(GOOD, units={**GOOD.units, **columns})


def with_velocity(values: np.ndarray, **other) -> Recording:
    series = {**GOOD.series, "velocity": Series(values, "m/s", ("x", "y"), rate=50.0)}
    return replace(GOOD, series=series, **other)


VELOCITY = GOOD.series["velocity"].values
REPEATED_IDS = np.array(["synthetic/s0/0"] * 5)

BREAKS = {
    "unit_ids_are_stable_and_unique": with_units(unit_id=REPEATED_IDS),
    "unit_columns_have_one_value_per_unit": with_units(depth=np.zeros(4)),
    "there_are_units": replace(
        GOOD, spike_time=np.empty(0), spike_unit=np.empty(0, np.int32)
    ),
    "spikes_are_arrays_of_one_length": replace(GOOD, spike_unit=GOOD.spike_unit.astype(int)),
    "spike_times_are_sorted": replace(GOOD, spike_time=GOOD.spike_time[::-1]),
    "spike_units_exist": replace(GOOD, spike_unit=GOOD.spike_unit + np.int32(1)),
    "spikes_lie_in_the_domain": replace(GOOD, domain=IntervalSet.single(1, 20), splits={}),
    "the_domain_is_disjoint": replace(GOOD, domain=unchecked([0, 5], [10, 20])),
    "series_hold_numbers": with_velocity(np.where(VELOCITY > 1, np.nan, VELOCITY)),
    "series_times_increase": replace(
        GOOD, series={"velocity": Series(np.zeros((2, 1)), "m/s", ("x",), np.array([3.0, 3.0]))}
    ),
    "training_stays_out_of_reach": replace(
        GOOD, splits={"mine": chronological_split(GOOD.domain, 0.5, 0.0, 0.5, gap=0.5)}
    ),
    "trials_lie_in_the_domain": replace(GOOD, intervals={"trials": unchecked([5, 90], [6, 91])}),
    "targets_are_series": replace(GOOD, targets=("velocty",)),
    "splits_are_disjoint_and_named": replace(
        GOOD, splits={"mine": unchecked([0, 5], [10, 20], {"split": np.array(["train", "test"])})}
    ),
    "splits_lie_in_the_domain": replace(
        GOOD, splits={"mine": unchecked([0], [30], {"split": np.array(["train"])})}
    ),
    "most_units_fire": replace(
        GOOD, spike_unit=np.zeros_like(GOOD.spike_unit)
    ),
    "firing_rates_are_possible": replace(
        GOOD,
        spike_time=np.linspace(0, 19.9, 20_000),
        spike_unit=np.repeat(np.arange(5), 4000).astype(np.int32) * 0,
    ),
    "there_is_a_target": replace(GOOD, targets=()),
    "targets_move_in_every_split": with_velocity(
        np.where(np.arange(len(VELOCITY))[:, None] >= 800, 1.0, VELOCITY)
    ),
    "every_split_can_be_scored": replace(
        GOOD, splits={"mine": unchecked([0], [20], {"split": np.array(["train"])})}
    ),
    "little_was_dropped": replace(GOOD, dropped={"series.velocity.still": 999}),
}  # fmt: skip


def test_every_check_has_a_case_here():
    assert set(BREAKS) == {check.__name__ for checks in CHECKS.values() for check in checks}


@pytest.mark.parametrize("name", BREAKS)
def test_a_recording_that_breaks_a_rule_is_found(name):
    found = {one.check: one for one in run_checks(BREAKS[name])}

    assert name in found
    assert found[name].message.endswith((".", "?"))
    severity = next(kind for kind, all_ in CHECKS.items() for one in all_ if one.__name__ == name)
    assert found[name].severity == severity


def test_a_good_recording_has_no_finding():
    assert run_checks(GOOD) == []


@given(recordings())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_made_recording_breaks_nothing_but_may_be_silent(recording):
    errors = {one.check for one in run_checks(recording) if one.severity == "error"}

    assert errors <= {"there_are_units"}


def test_a_recording_without_unit_ids_is_told_so_and_ends_no_run():
    found = run_checks(replace(GOOD, units={}))

    assert "no column 'unit_id'" in found[0].message


def test_all_errors_are_found_at_once():
    broken = replace(GOOD, spike_time=GOOD.spike_time[::-1], targets=("nothing",))

    found = {one.check for one in run_checks(broken)}

    assert found == {"spike_times_are_sorted", "targets_are_series"}
