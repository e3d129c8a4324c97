from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata import spikes
from spikedata.spikes import SpikeTrains
from spikedata.testing import interval_sets

TIMES = {
    "any": st.floats(width=64),
    "around zero": st.floats(-2, 2),
    "a late clock": st.floats(1e5, 1e5 + 1),
    "many at one time": st.integers(-3, 3).map(float),
    "a second": st.floats(10, 11),
}
TRAINS = st.sampled_from(sorted(TIMES)).flatmap(
    lambda kind: st.lists(st.lists(TIMES[kind], max_size=30), min_size=1, max_size=9)
)


def of(trains: list[list[float]]) -> SpikeTrains:
    flat = np.array([time for train in trains for time in train], np.float64)
    bound = np.cumsum([0, *map(len, trains)])
    return SpikeTrains(lambda: flat, bound, range(len(trains)), Counter())


def naive(trains: list[list[float]]) -> list[tuple[float, int]]:
    """Return (time, unit) of the finite spikes, sorted as tuples."""
    pairs = [(time + 0.0, unit) for unit, train in enumerate(trains) for time in train]
    return sorted(pair for pair in pairs if np.isfinite(pair[0]))


@given(TRAINS, st.sampled_from([1, 3, 10, 2**15]))
def test_merging_is_sorting_tuples_of_time_and_unit(trains, slab):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spikes, "SLAB", slab)
        time, unit = of(trains).merge()

    expected = naive(trains)
    assert list(zip(time.tolist(), unit.tolist(), strict=True)) == expected
    assert (time.dtype, unit.dtype) == (np.float64, np.int32)
    assert time.tobytes() == np.array([pair[0] for pair in expected], np.float64).tobytes()


@given(st.lists(st.lists(st.floats(-1, 11), max_size=40), max_size=5), interval_sets())
def test_restricting_keeps_what_the_domain_contains(trains, domain):
    made = of(trains)
    made.restrict(domain)
    time, unit = made.merge()

    flat = np.array([pair[0] for pair in naive(trains)])
    owner = np.array([pair[1] for pair in naive(trains)], int)
    inside = domain.contains(flat)
    assert time.tolist() == flat[inside].tolist()
    assert unit.tolist() == owner[inside].tolist()
    assert made.dropped["spikes.outside_domain"] == int((~inside).sum())


def test_every_rule_is_counted():
    trains = of([[3.0, 1.0, 2.0, 2.0], [np.nan, 4.0, -np.inf], [], [5.0]])

    assert trains.counts.tolist() == [4, 1, 0, 1]
    assert list(trains.extent) == [(1.0, np.nextafter(5.0, 6.0))]
    assert trains.dropped == {
        "spikes.unsorted": 1, "spikes.repeated_kept": 1, "spikes.not_finite": 2,
    }  # fmt: skip


def test_no_spikes_at_all_are_an_empty_table():
    trains = of([[], []])

    assert len(trains.extent) == 0
    assert [part.tolist() for part in trains.merge()] == [[], []]


def test_only_the_units_asked_for_are_taken_and_in_that_order():
    flat, bound = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 1, 3, 4])
    trains = SpikeTrains(lambda: flat, bound, [2, 0], Counter())
    trains.keep(np.array([True, True]))

    time, unit = trains.merge()

    assert (time.tolist(), unit.tolist()) == ([1.0, 4.0], [1, 0])
