from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikedata.batch import Batch
from spikedata.errors import SamplingError
from spikedata.gather import BINS, Times, weight_steps
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata.sampler import Sampler
from spikedata.store import Store
from tests.conftest import build_recording

GRID = 1 / 64  # s; times on it are exact in float32 and float64


def train_of(*rows: tuple[float, float]) -> dict[str, IntervalSet]:
    start, end = (np.array(column) for column in zip(*rows, strict=True))
    return {"main": IntervalSet(start, end, {"split": np.full(len(rows), "train")})}


def times_of(draw: st.DrawFn, most: int) -> np.ndarray:
    """Return sorted times, many of them equal or on the bounds of windows."""
    ticks = draw(st.lists(st.integers(0, 20 * 64), max_size=most))
    return np.sort(np.array(ticks, np.float64)) * GRID


@st.composite
def awkward_recordings(draw: st.DrawFn, session: str) -> Recording:
    """Return a recording with silent units, gaps in its domain, pauses in series and overlaps."""
    n_units = draw(st.integers(1, 5))
    time = times_of(draw, 60)
    audible = draw(st.integers(1, n_units))
    unit = np.array(
        draw(st.lists(st.integers(0, audible - 1), min_size=len(time), max_size=len(time)))
    )
    domain = IntervalSet(np.array([0.0, 8.0]), np.array([7.0, 20.5]))
    series = {}
    kind = draw(st.sampled_from(["times", "rate", "none"]))
    if kind == "times":
        sampled = np.unique(times_of(draw, 80))
        values = np.arange(2 * len(sampled), dtype=draw(st.sampled_from([np.float32, np.float64])))
        series["hand"] = Series(values.reshape(-1, 2), "m", ("x", "y"), time=sampled)
    elif kind == "rate":
        rate, start = draw(st.sampled_from([4.0, 10.0, 33.3])), draw(st.sampled_from([0.0, 3.3]))
        values = np.arange(2 * int(15 * rate), dtype=np.float32).reshape(-1, 2)
        series["hand"] = Series(values, "m", ("x", "y"), start=start, rate=rate)
    cuts = np.sort(np.array(draw(st.lists(st.integers(0, 80), min_size=4, max_size=12)))) / 4
    rows = IntervalSet.sorted(
        cuts[:-2],
        cuts[2:] + 0.5,
        {"go": cuts[1:-1], "side": np.array(["L", "right"])[np.arange(len(cuts) - 2) % 2]},
    )
    tables = {"trials": rows} if draw(st.booleans()) or session == "s0" else {}
    return Recording(
        f"lab/{session}", time, unit.astype(np.int32).reshape(-1),
        {"unit_id": np.array([f"lab/{session}/{one}" for one in range(n_units)])},
        domain, series, tables,
        train_of((0.0, 4.0), (5.0, 7.0), (9.0, 20.0)),
        ("hand",) if series else (),
    )  # fmt: skip


@st.composite
def sessions(draw: st.DrawFn) -> list[Recording]:
    made = [draw(awkward_recordings(f"s{at}")) for at in range(draw(st.integers(1, 3)))]
    if not any(one.series for one in made):
        time = np.arange(0, 20, 0.25)
        hand = Series(np.ones((len(time), 2), np.float32), "m", ("x", "y"), time=time)
        made[0] = replace(made[0], series={"hand": hand}, targets=("hand",))
    return made


def assert_read_naively(
    recordings: Mapping[str, Recording],
    batch: Batch,
    predict: float,
    factors: Mapping[str, float],
) -> None:
    """Assert that a batch is what masks over whole recordings select."""
    first = 0
    bases = {}
    for name in batch.recording_ids:
        bases[name], first = first, first + recordings[name].n_units
    assert len(batch.spike_time) == batch.spike_offsets[-1]
    for row, window in enumerate(batch):
        one = recordings[window.recording_id]
        start, end = batch.start[row], batch.end[row]
        inside = (one.spike_time >= start) & (one.spike_time < end)
        assert window.spike_time.tolist() == (one.spike_time[inside] - start).astype("f4").tolist()
        assert window.spike_unit.tolist() == one.spike_unit[inside].tolist()
        assert window.units.tolist() == list(range(one.n_units))
        assert batch.first_unit[row] == bases[window.recording_id]
        assert batch.length[row] == end - start
        low, high = (end, end + predict) if predict else (start, end)
        for name, target in batch.targets.items():
            mine = slice(*target.offsets[row : row + 2])
            if name not in one.series:
                assert len(target.time[mine]) == 0
                continue
            time = one.series[name].times()
            shown = (time >= low) & (time < high)
            assert target.time[mine].tolist() == (time[shown] - start).astype("f4").tolist()
            assert target.values[mine].tolist() == one.series[name].values[shown].tolist()
            weight = np.ones(int(shown.sum()))
            for table, factor in factors.items():
                rows = one.intervals.get(table, IntervalSet.empty())
                weight *= [factor if any(a <= at < b for a, b in rows) else 1 for at in time[shown]]
            assert target.weight[mine].tolist() == weight.astype("f4").tolist()
        for name, found in batch.intervals.items():
            mine = slice(*found.offsets[row : row + 2])
            rows = one.intervals.get(name, IntervalSet.empty())
            touching = [at for at, (a, b) in enumerate(rows) if a < end and b > start]
            assert found.row[mine].tolist() == touching
            assert found.start[mine].tolist() == (rows.start[touching] - start).tolist()
            assert found.end[mine].tolist() == (rows.end[touching] - start).tolist()
            for column, values in found.columns.items():
                assert (
                    values[mine].tolist() == rows.columns[column][touching].tolist()
                    if touching
                    else True
                )


@given(
    sessions(),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(-64, 21 * 64), st.integers(1, 500)), max_size=12
    ),
    st.sampled_from([None, 0.5]), st.sampled_from([{}, {"trials": 0.0}, {"trials": 2.5}]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_any_windows_are_read_as_masks_over_the_whole_recordings_select_them(
    made, windows, predict, factors
):
    """Across gaps, outside the domain, on spikes, empty, and in every mixture of series."""
    recordings = {one.recording_id: one for one in made}
    sampler = Sampler(
        recordings, window=1.0, predict=predict, weights=factors, targets=["hand"],
        intervals={"trials": ("go", "side")},
    )  # fmt: skip
    index = np.array([row % len(made) for row, _, _ in windows], np.int64)
    start = np.array([tick * GRID for _, tick, _ in windows])
    end = start + [ticks * GRID for _, _, ticks in windows] if windows else start

    batch = sampler.gather(index, start, end)

    assert_read_naively(recordings, batch, predict or 0.0, factors)


@given(sessions(), st.integers(0, 3), st.sampled_from(["random", "sequential"]))
@settings(max_examples=40, deadline=None)
def test_a_full_pass_over_a_store_is_read_as_masks_select_it(tmp_path_factory, made, seed, order):
    store = Store(tmp_path_factory.mktemp("store"), create=True)
    for one in made:
        store.write(one, {})
    options = {"targets": ["hand"], "weights": {"trials": 3.0}, "intervals": ["trials"]}
    for batch in Sampler(store, window=0.7, batch_size=5, order=order, seed=seed, **options):
        assert_read_naively({one.recording_id: one for one in made}, batch, 0.0, {"trials": 3.0})


@pytest.mark.parametrize("n_units", [10, 1000])
def test_every_spike_of_a_tiled_split_is_read_once(n_units):
    """Sequential windows without overlap hold each spike of the split exactly once, in order."""
    rng = np.random.default_rng(n_units)
    time = np.sort(np.round(rng.uniform(0, 64, 50_000) * 64) / 64)
    unit = rng.integers(0, n_units, len(time)).astype(np.int32)
    recording = Recording(
        "lab/a", time, unit, {"unit_id": np.array([f"lab/a/{one}" for one in range(n_units)])},
        IntervalSet.single(0.0, 65.0),
        splits=train_of((0.0, 30.0), (32.0, 64.0)),
    )  # fmt: skip
    batches = list(Sampler([recording], window=2.0, order="sequential", batch_size=7))
    inside = (time < 30) | ((time >= 32) & (time < 64))
    absolute = [
        batch.spike_time + np.repeat(batch.start, np.diff(batch.spike_offsets)) for batch in batches
    ]

    assert np.array_equal(np.concatenate(absolute), time[inside])
    assert np.array_equal(np.concatenate([one.spike_unit for one in batches]), unit[inside])


# ------------------------------------------------------------------ brackets and weights


@given(
    st.lists(st.floats(-1e6, 2e9), max_size=200),
    st.lists(st.floats(-1e7, 3e9), min_size=1, max_size=20),
    st.integers(0, 3),
)
def test_the_row_of_a_time_lies_in_its_bracket(values, asked, repeat):
    time = np.sort(np.repeat(np.array(values, np.float64), 10**repeat))
    times = Times(2)
    times.learn(1, time)
    wanted = np.array(asked + values[:20])
    index = np.ones(len(wanted), np.int64)
    rows = np.searchsorted(time, wanted)

    low, high = times.bracket(index, wanted, wanted)

    assert np.all((low <= rows) & (rows <= high))
    assert np.all((low >= 0) & (high <= len(time)))


def test_a_bracket_is_a_small_part_of_a_long_column():
    time = np.sort(np.random.default_rng(0).uniform(0, 1000, 500_000))
    times = Times(1)
    times.learn(0, time)
    wanted = np.linspace(0, 999, 5000)
    low, high = times.bracket(np.zeros(5000, np.int64), wanted, wanted)

    assert np.mean(high - low) < 4 * len(time) / BINS


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=6),
       st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=6))  # fmt: skip
def test_weights_are_the_product_over_the_tables_that_cover_a_time(one, other):
    tables = {
        name: IntervalSet.sorted(
            np.array([start for start, _ in rows], float),
            np.array([start + span for start, span in rows], float),
        )
        for name, rows in (("a", one), ("b", other))
    }
    edges, weight = weight_steps(tables, {"a": 2.0, "b": 0.25, "none": 9.0})
    time = np.arange(-2, 70) / 1.0
    expected = np.where(tables["a"].contains(time), 2.0, 1.0) * np.where(
        tables["b"].contains(time), 0.25, 1.0
    )

    assert weight[edges.searchsorted(time, "right")].tolist() == expected.tolist()


def test_a_column_that_a_table_lacks_is_named():
    trials = IntervalSet(np.array([0.0]), np.array([9.0]), {"go": np.array([1.0])})
    recording = Recording(
        "lab/a", np.empty(0), np.empty(0, np.int32), {"unit_id": np.array(["lab/a/0"])},
        IntervalSet.single(0.0, 9.0), intervals={"trials": trials},
        splits=train_of((0.0, 9.0)),
    )  # fmt: skip
    sampler = Sampler([recording], intervals={"trials": ["goo"]})

    with pytest.raises(SamplingError, match=r"lab/a: 'trials' has no column 'goo'; .*'go'"):
        sampler.batch(0, 0)


@pytest.mark.parametrize("time", [np.int64, np.float32, np.float64])
@pytest.mark.parametrize("unit", [np.uint8, np.uint32, np.int64])
def test_columns_of_other_types_are_read_as_documented(time, unit):
    """A recording in memory is made by hand, with whole seconds as likely as not."""
    seconds = np.arange(10)
    made = Recording(
        "made/s0",
        seconds.astype(time),
        np.array([0, 1] * 5, unit),
        {"unit_id": np.array(["u0", "u1"])},
        IntervalSet.single(0.0, 10.0),
        {"count": Series(seconds[:, None], "", ("n",), time=seconds.astype(time))},
        splits=train_of((0, 10)),
        targets=("count",),
    )
    sampler = Sampler([replace(made, recording_id="made/s1"), made], window=4.0)
    window = sampler.gather(np.array([1]), np.array([2.5]), np.array([6.5]))

    assert window.spike_time.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert window.spike_unit.tolist() == [3, 2, 3, 2]
    assert (window.spike_time.dtype, window.spike_unit.dtype) == (np.float32, np.int32)
    assert window.targets["count"].time.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert window.targets["count"].values.ravel().tolist() == [3, 4, 5, 6]


def test_a_column_keeps_its_type_in_a_batch_without_rows_of_the_table():
    trials = IntervalSet(
        np.array([1.0]), np.array([2.0]), {"side": np.array(["left"]), "aim": np.ones((1, 3))}
    )
    made = replace(build_recording(), intervals={"trials": trials})
    sampler = Sampler([made], intervals={"trials": ["side", "aim"]})
    batch = sampler.gather(np.array([0]), np.array([5.0]), np.array([6.0]))

    assert batch.intervals["trials"].columns["side"].dtype.kind == "U"
    assert batch.intervals["trials"].columns["aim"].shape == (0, 3)
