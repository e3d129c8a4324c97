"""Small recordings for the tests; nothing is downloaded, everything is seeded."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata.store import Store
from tests.loopback import Loopback

settings.register_profile("default", deadline=None, max_examples=40, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A script that starts the tests in the background has Ctrl-C ignored, here and in all children.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(name="server")
def _server() -> Iterator[Loopback]:
    """Stand-ins of the archives, on loopback."""
    with Loopback() as server:
        yield server


def build_recording(
    seed: int = 0,
    *,
    recording_id: str | None = None,
    n_units: int = 5,
    n_spikes: int = 400,
    split_rows: tuple[tuple[float, float, str], ...] | None = None,
    lacks: tuple[str, ...] = (),
) -> Recording:
    """Return 20 s of random spikes with a series on a grid, one at explicit times, and trials.

    The last unit is silent, some spikes share a time, and some lie exactly on the bounds of
    the splits; `lacks` names series to leave out.
    """
    rng = np.random.default_rng([seed, 77])
    recording_id = recording_id or f"made/s{seed}"
    rows = split_rows or ((0.0, 8.0, "train"), (8.0, 10.0, "valid"), (10.0, 15.5, "train"),
                          (15.5, 20.0, "test"))  # fmt: skip
    start, end = (np.array([row[at] for row in rows], float) for at in (0, 1))
    names = np.array([row[2] for row in rows], str)
    bounds = np.concatenate([start, end])[: n_spikes // 4]
    spikes = np.concatenate([bounds, np.round(rng.uniform(0, 20, n_spikes - len(bounds)), 3)])
    moments = np.sort(rng.choice(20_000, 600, replace=False)) / 1000
    series = {
        "velocity": Series(
            rng.normal(size=(2000, 2)).astype(np.float32), "m/s", ("x", "y"), start=0.0, rate=100.0
        ),
        "position": Series(rng.normal(size=(600, 1)), "m", ("along",), time=moments),
    }
    series = {name: one for name, one in series.items() if name not in lacks}
    return Recording(
        recording_id=recording_id,
        spike_time=np.sort(spikes),
        spike_unit=rng.integers(0, max(n_units - 1, 1), n_spikes).astype(np.int32),
        units={
            "unit_id": np.array([f"{recording_id}/u{row}" for row in range(n_units)], str),
            "quality": rng.random(n_units),
        },
        domain=IntervalSet.single(0.0, 20.0),
        series=series,
        intervals={
            "trials": IntervalSet(
                np.array([1.0, 4.0, 9.0]),
                np.array([3.0, 6.5, 12.0]),
                {"target": np.array(["left", "right", "left"]), "correct": np.array([True] * 3)},
            )
        },
        splits={"main": IntervalSet.sorted(start, end, {"split": names})},
        targets=tuple(series),
        about={"subject": "M1"},
        dropped={"spikes outside the domain": 3},
    )


def assert_same_array(expected: np.ndarray, actual: np.ndarray) -> None:
    """Assert that two arrays agree in kind, shape and every value, NaN included."""
    assert (expected.dtype.kind, expected.shape) == (actual.dtype.kind, actual.shape)
    if expected.dtype.kind != "U":
        assert expected.dtype == actual.dtype
    np.testing.assert_array_equal(expected, actual, strict=expected.dtype.kind != "U")


def assert_same_intervals(expected: IntervalSet, actual: IntervalSet) -> None:
    """Assert that two interval sets have the same rows and columns."""
    assert_same_array(expected.start, actual.start)
    assert_same_array(expected.end, actual.end)
    assert list(expected.columns) == list(actual.columns)
    for name, values in expected.columns.items():
        assert_same_array(values, actual.columns[name])


def assert_same_recording(expected: Recording, actual: Recording) -> None:
    """Assert that two recordings hold the same."""
    assert expected.recording_id == actual.recording_id
    assert_same_array(expected.spike_time, actual.spike_time)
    assert_same_array(expected.spike_unit, actual.spike_unit)
    assert list(expected.units) == list(actual.units)
    for name, values in expected.units.items():
        assert_same_array(values, actual.units[name])
    assert_same_intervals(expected.domain, actual.domain)
    assert list(expected.series) == list(actual.series)
    for name, one in expected.series.items():
        other = actual.series[name]
        assert (one.unit, one.columns, one.start, one.rate) == (
            other.unit, other.columns, other.start, other.rate,
        )  # fmt: skip
        assert_same_array(one.values, other.values)
        assert_same_array(one.times(), other.times())
    for group in ("intervals", "splits"):
        mine, theirs = getattr(expected, group), getattr(actual, group)
        assert list(mine) == list(theirs)
        for name, table in mine.items():
            assert_same_intervals(table, theirs[name])
    assert expected.targets == actual.targets
    assert (expected.about, expected.dropped) == (actual.about, actual.dropped)


@pytest.fixture(name="recording")
def _recording() -> Recording:
    return build_recording(seed=0)


@pytest.fixture(name="made_store", scope="session")
def _made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "store"
    store = Store(path, create=True)
    for seed in (0, 1):
        store.write(build_recording(seed), {"seed": seed})
    store.write(build_recording(2, n_units=3, lacks=("position",)), {"seed": 2})
    return path


@pytest.fixture(name="store")
def _store(made_store: Path, tmp_path: Path) -> Store:
    """Three recordings, made/s0 to made/s2; the last one lacks the series `position`."""
    return Store(shutil.copytree(made_store, tmp_path / "store"))
