from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given

from spikedata.errors import ViewError
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata.sampler import Sampler
from spikedata.store import Store
from spikedata.testing import recordings
from spikedata.views import (
    batch_to_arrow,
    table_names,
    to_arrow,
    to_pandas,
    to_polars,
    to_pynapple,
)
from tests.conftest import build_recording


def expected_columns(recording: Recording, full: str) -> dict[str, np.ndarray]:
    """Return the columns of a table, taken from the recording one by one."""
    kind, _, name = full.partition("-")
    if kind == "spikes":
        return {"time": recording.spike_time, "unit": recording.spike_unit}
    if kind == "units":
        return {"unit": np.arange(recording.n_units, dtype=np.int32), **recording.units}
    if kind == "series":
        one = recording.series[name]
        return {"time": one.times(), **{c: one.values[:, i] for i, c in enumerate(one.columns)}}
    table = {"domain": {"": recording.domain}, "intervals": recording.intervals,
             "splits": recording.splits}[kind][name]  # fmt: skip
    return {"start": table.start, "end": table.end, **table.columns}


def addresses(table: pa.Table, column: str) -> list[int]:
    return [chunk.buffers()[-1].address for chunk in table[column].chunks]


# ------------------------------------------------------------------ Arrow, pandas, polars


@given(recordings())
def test_every_table_shows_every_column_of_the_recording(recording):
    for full in table_names(recording):
        expected = expected_columns(recording, full)
        views = to_arrow(recording, full), to_pandas(recording, full), to_polars(recording, full)

        assert views[0].column_names == list(expected)
        for name, values in expected.items():
            for view in views:
                found = np.asarray(view[name].to_numpy())

                assert np.array_equal(found.astype(values.dtype), values), (full, name)


def test_columns_of_more_values_a_row_are_lists_of_fixed_size():
    recording = build_recording()
    wide = np.arange(2.0 * len(recording.intervals["trials"])).reshape(-1, 2)
    trials = recording.intervals["trials"]
    recording = replace(recording, intervals={"trials": replace(trials, columns={"target": wide})})

    assert to_arrow(recording, "trials")["target"].to_pylist() == wide.tolist()
    assert np.array_equal(np.stack(list(to_pandas(recording, "trials")["target"])), wide)
    assert np.array_equal(to_polars(recording, "trials")["target"].to_numpy(), wide)


def test_spikes_of_a_store_are_shown_where_they_are_mapped(tmp_path):
    store = Store(tmp_path)
    store.write(build_recording(), {})
    recording = store["made/s0"]
    expected = [recording.spike_time.ctypes.data]
    unit = [recording.spike_unit.ctypes.data]

    assert addresses(recording.spikes, "time") == addresses(to_arrow(recording, "spikes"), "time")
    assert addresses(recording.spikes, "time") == expected
    assert addresses(recording.spikes, "unit") == unit
    assert to_polars(recording, "spikes")["time"].to_numpy().ctypes.data == expected[0]
    along = recording.series["position"]
    assert addresses(to_arrow(recording, "position"), "along") == [along.values.ctypes.data]
    assert addresses(to_arrow(recording, "position"), "time") == [along.time.ctypes.data]
    assert recording.spikes.schema == pa.schema({"time": pa.float64(), "unit": pa.int32()})


def test_a_frame_of_pandas_may_be_changed(tmp_path):
    store = Store(tmp_path)
    store.write(build_recording(), {})
    frame = to_pandas(store["made/s0"], "spikes")
    frame.loc[0, "time"] = -1.0

    assert frame["time"][0] == -1.0
    assert store["made/s0"].spike_time[0] >= 0.0


@pytest.mark.parametrize("rows", [slice(0, 0), slice(3, 7), slice(595, 10_000), slice(None)])
def test_some_rows_are_those_rows_of_the_whole(rows):
    recording = build_recording()
    for full in table_names(recording):
        whole = to_arrow(recording, full)
        first, last, _ = rows.indices(len(whole))

        assert to_arrow(recording, full, rows).equals(whole.slice(first, max(0, last - first)))


def test_metadata_say_what_and_in_which_unit():
    recording = replace(build_recording(), fingerprint="f" * 64)
    table = to_arrow(recording, "velocity")

    assert table.schema.field("x").metadata == {b"unit": b"m/s"}
    assert table.schema.metadata == {
        b"recording_id": b"made/s0", b"fingerprint": b"f" * 64, b"table": b"series-velocity",
        b"rate": b"100.0", b"start": b"0.0",
    }  # fmt: skip


def test_a_name_is_short_where_it_is_unique_and_refused_where_it_is_not():
    recording = build_recording()
    trials = recording.intervals["trials"]
    twice = replace(recording, intervals={"trials": trials, "velocity": trials})

    assert to_arrow(recording, "trials").equals(to_arrow(recording, "intervals-trials"))
    with pytest.raises(ViewError, match="may be intervals-velocity or series-velocity"):
        to_arrow(twice, "velocity")
    assert to_arrow(twice, "intervals-velocity").column_names[:2] == ["start", "end"]
    with pytest.raises(ViewError, match="made/s0: no table is called 'trails'; did you mean"):
        to_arrow(recording, "trails")


@pytest.mark.parametrize(
    ("columns", "said"),
    [(("Time", "x"), "series-odd has a column 'time' of its own"),
     (("x", "X"), "series-odd: two of the channels .* have one name")],
)  # fmt: skip
def test_channels_without_names_of_their_own_are_refused(columns, said):
    series = {"odd": Series(np.zeros((3, 2)), "m", columns, rate=1.0)}

    with pytest.raises(ViewError, match=f"made/s0: {said}"):
        to_arrow(replace(build_recording(), series=series), "odd")


def test_a_unit_table_with_a_column_unit_is_refused():
    recording = build_recording()

    with pytest.raises(ViewError, match="made/s0: units has a column 'unit' of its own"):
        to_arrow(replace(recording, units={**recording.units, "unit": np.arange(5)}), "units")


@pytest.mark.parametrize(
    ("package", "view"),
    [("pandas", lambda one: to_pandas(one, "spikes")),
     ("polars", lambda one: to_polars(one, "spikes")), ("pynapple", to_pynapple)],
)  # fmt: skip
def test_a_package_that_is_missing_is_named(package, view, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ViewError, match=f"needs {package}: install it with .*access"):
        view(build_recording())


# ------------------------------------------------------------------ pynapple


def tiny(**changes) -> Recording:
    """Return three units (the last is silent), with a spike on each bound that could lose it."""
    time = np.array([0.0, 1.0, np.nextafter(2.0, 0), 3.0, np.nextafter(4.0, 0)])
    made = Recording(
        "made/tiny",
        time,
        np.array([0, 1, 0, 1, 1], np.int32),
        {
            "unit_id": np.array(["a", "b", "c"]),
            "rate": np.arange(3.0),
            "area": np.array(list("xyz")),
        },
        IntervalSet(np.array([0.0, 1.0, 3.0]), np.array([1.0, 2.0, 4.0])),
    )
    return replace(made, **changes)


def test_pynapple_keeps_every_spike_and_the_unit_table():
    group = to_pynapple(tiny())["spikes"]

    assert [group[unit].t.tolist() for unit in range(3)] == [
        tiny().spike_time[tiny().spike_unit == unit].tolist() for unit in range(3)
    ]
    assert group.time_support.values.tolist() == [[0.0, 2.0], [3.0, 4.0]]
    assert list(group.get_info("unit_id")) == ["a", "b", "c"]
    assert list(group.get_info("rate_")) == [0.0, 1.0, 2.0]


def test_pynapple_shows_series_with_their_times_and_unit():
    recording = build_recording()
    found = to_pynapple(recording)

    for name, one in recording.series.items():
        assert np.array_equal(found[name].t, one.times())
        assert np.array_equal(found[name].values, one.values)
        assert set(found[name].get_info("unit")) == {one.unit}


def test_rows_that_touch_stay_half_open_in_pynapple():
    """A spike on the bound of two rows belongs to the later one, as it does here."""
    import pynapple as nap

    rows = IntervalSet(np.array([0.0, 2.0]), np.array([2.0, 4.0]), {"go": np.array([7, 8])})
    made = to_pynapple(tiny(intervals={"trials": rows}))["trials"]
    events = nap.Ts(t=np.array([0.0, 1.0, 2.0, 3.0]))

    assert made.start.tolist() == [0.0, 2.0]
    assert made.end.tolist() == [2.0 - 1e-9, 4.0 - 1e-9]
    assert list(made.get_info("go")) == [7, 8]
    assert [len(events.restrict(made[row])) for row in range(2)] == [2, 2]


@pytest.mark.parametrize(
    "rows",
    [IntervalSet(np.array([0.0, 1.0]), np.array([2.0, 3.0]), {"go": np.array([7, 8])}),
     IntervalSet(np.array([0.0, 0.0]), np.array([2.0, 3.0]), {"go": np.array([7, 8])}),
     IntervalSet(np.array([0.0, 1.0]), np.array([1e-10, 3.0]), {"go": np.array([7, 8])})],
    ids=["overlap", "same start", "too short"],
)  # fmt: skip
def test_rows_that_pynapple_would_join_or_drop_are_a_frame_of_all_rows(rows):
    made = to_pynapple(tiny(intervals={"trials": rows}))["trials"]

    assert isinstance(made, pd.DataFrame)
    assert made.to_dict("list") == {
        "start": rows.start.tolist(), "end": rows.end.tolist(), "go": [7, 8]
    }  # fmt: skip


def test_spikes_outside_the_domain_are_not_lost_in_silence():
    with pytest.raises(ViewError, match="keeps 3 of 5 spikes"):
        to_pynapple(tiny(domain=IntervalSet.single(0.0, 2.0)))


# ------------------------------------------------------------------ batches


@pytest.fixture(name="batch")
def _batch():
    pair = [build_recording(0), build_recording(1, lacks=("position",))]
    sampler = Sampler(
        pair, window=1.0, batch_size=6, seed=3, targets=("velocity", "position"),
        intervals=("trials",),
    )  # fmt: skip
    return sampler.batch(0, 0)


def test_a_batch_is_one_row_a_window(batch):
    rows = batch_to_arrow(batch)
    rows.validate(full=True)

    assert rows.num_rows == len(batch)
    for row, window in zip(rows.to_pylist(), batch, strict=True):
        at = row["first_unit"]
        assert (row["recording_id"], row["start"], row["end"]) == (
            window.recording_id, window.start, window.end
        )  # fmt: skip
        assert row["spike_time"] == window.spike_time.tolist()
        assert row["spike_unit"] == (window.spike_unit + at).tolist()
        assert row["unit"] == (window.units + at).tolist()
        for name, (time, values) in window.targets.items():
            assert [one["time"] for one in row["targets"][name]] == time.tolist()
            assert [one["values"] for one in row["targets"][name]] == values.tolist()
        trials = row["intervals"]["trials"]
        assert [one["row"] for one in trials] == window.intervals["trials"].tolist()


def test_a_batch_is_not_copied(batch):
    rows = batch_to_arrow(batch)
    velocity = rows["targets"].field("velocity")

    assert rows["spike_time"].values.buffers()[1].address == batch.spike_time.ctypes.data
    assert rows["spike_time"].offsets.buffers()[1].address == batch.spike_offsets.ctypes.data
    assert rows["unit"].values.buffers()[1].address == batch.unit.ctypes.data
    assert (
        velocity.values.field("time").buffers()[1].address
        == batch.targets["velocity"].time.ctypes.data
    )
