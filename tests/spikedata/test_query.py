from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from spikedata import query as query_module
from spikedata.errors import RecordingNotFoundError, ViewError
from spikedata.intervals import IntervalSet
from spikedata.query import sql
from spikedata.store import Store
from tests.conftest import build_recording


@pytest.fixture(name="store")
def _store(tmp_path, monkeypatch) -> Store:
    """Three recordings of two datasets; one has no position, one has no trials."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    store = Store(tmp_path / "store", create=True)
    store.write(build_recording(0, recording_id="a/one"), {})
    store.write(build_recording(1, recording_id="a/two", lacks=("position",)), {})
    store.write(replace(build_recording(2, recording_id="b/three"), intervals={}), {})
    return store


def test_spikes_of_all_recordings_are_counted(store):
    found = sql(store, "SELECT recording_id, unit, count(*) AS n FROM spikes GROUP BY ALL")
    expected = {
        (name, unit): int(count)
        for name in store
        for unit, count in zip(*np.unique(store[name].spike_unit, return_counts=True), strict=True)
    }

    assert {(row["recording_id"], row["unit"]): row["n"] for row in found.to_pylist()} == expected


def test_every_table_holds_the_rows_of_every_recording_that_has_it(store):
    tables = ("spikes", "units", "domain", "velocity", "position", "trials")
    for table in tables:
        found = sql(store, f"SELECT recording_id, count(*) n FROM {table} GROUP BY 1").to_pylist()
        counts = {row["recording_id"]: row["n"] for row in found}
        recordings = {name: store[name] for name in store}
        expected = {
            "spikes": {name: len(one.spike_time) for name, one in recordings.items()},
            "units": {name: one.n_units for name, one in recordings.items()},
            "domain": {name: len(one.domain) for name, one in recordings.items()},
        }
        for name, one in recordings.items():
            for inner, series in one.series.items():
                expected.setdefault(inner, {})[name] = len(series)
            for inner, rows in one.intervals.items():
                expected.setdefault(inner, {})[name] = len(rows)

        assert counts == expected[table], table


@pytest.mark.parametrize("series", ["velocity", "position"])
def test_times_and_channels_of_a_series_are_exactly_those_of_the_recording(store, series):
    one = store["a/one"].series[series]
    found = sql(store, f"SELECT * FROM {series} WHERE recording_id = 'a/one' ORDER BY time")

    assert np.array_equal(found["time"].to_numpy(), one.times())
    for at, name in enumerate(one.columns):
        assert found[name].type == pa.from_numpy_dtype(one.values.dtype)
        assert np.array_equal(found[name].to_numpy(), one.values[:, at])


def test_odd_starts_and_rates_are_read_to_the_last_bit(store):
    one = store["a/two"]
    series = {"velocity": replace(one.series["velocity"], start=-2.1, rate=1000 / 3)}
    store.write(replace(one, series=series), {})
    found = sql(store, "SELECT time FROM velocity ORDER BY time", ["a/two"])

    assert np.array_equal(found["time"].to_numpy(), store["a/two"].series["velocity"].times())


@pytest.mark.parametrize("join", ["JOIN", "ASOF JOIN"])
def test_spikes_in_trials_are_found_by_a_join(store, join):
    found = sql(
        store,
        f"SELECT count(*) AS n FROM spikes s {join} trials t ON s.recording_id = t.recording_id "
        'AND s.time >= t.start WHERE s.time < t."end"',
    )
    expected = 0
    for name in ("a/one", "a/two"):
        one = store[name]
        for start, end in one.intervals["trials"]:
            expected += int(((one.spike_time >= start) & (one.spike_time < end)).sum())

    assert found["n"].to_pylist() == [expected]


def test_only_the_recordings_that_are_named_are_looked_at(store):
    found = sql(store, "SELECT DISTINCT recording_id AS id FROM spikes", ["a/two"])

    assert found["id"].to_pylist() == ["a/two"]
    assert sql(store, "SELECT recording_id FROM catalog", ["a/two"]).num_rows == 1
    assert sql(store, "FROM catalog").num_rows == 3
    with pytest.raises(RecordingNotFoundError):
        sql(store, "SELECT * FROM spikes", ["a/nobody"])


def test_only_the_tables_that_are_named_are_opened(store, monkeypatch):
    monkeypatch.setattr(Store, "__getitem__", lambda *_: pytest.fail("a recording was opened"))

    assert sql(store, "SELECT 1 AS one").to_pylist() == [{"one": 1}]
    assert sql(store, "SELECT count(*) n FROM catalog").to_pylist() == [{"n": 3}]


def test_spikes_are_read_where_they_are_mapped(store, monkeypatch):
    """What DuckDB is given is the memory of the recordings, of no more than those asked for."""
    given = {}
    source = query_module._source

    def seen(recording, *arguments):
        table, columns = source(recording, *arguments)
        given[recording.recording_id] = table["time"].chunk(0).buffers()[1].address
        return table, columns

    monkeypatch.setattr(query_module, "_source", seen)
    sql(store, "SELECT max(time) FROM spikes", ["a/one", "b/three"])

    assert given == {name: store[name].spike_time.ctypes.data for name in ("a/one", "b/three")}


@pytest.mark.parametrize("lacks", [(), ("velocity",)])
def test_a_recording_that_is_replaced_while_it_is_open_is_answered_of_one_writing(store, lacks):
    """Rows of the catalogue and of tables fit each other, whatever another process writes."""
    assert store["a/one"].n_units == 5
    again = build_recording(9, recording_id="a/one", n_units=7, n_spikes=77, lacks=lacks)
    Store(store.path).write(again, {})

    counts = "SELECT count(*) AS n, (SELECT n_spikes FROM catalog WHERE recording_id = 'a/one') m"
    (found,) = sql(store, f"{counts} FROM spikes WHERE recording_id = 'a/one'").to_pylist()
    assert found == {"n": 77, "m": 77}

    store = Store(store.path)
    assert store["a/one"].n_units == 7
    Store(store.path).write(build_recording(0, recording_id="a/one"), {})
    assert sql(store, "SELECT * FROM velocity", ["a/one", "a/two"]).num_rows in (2000, 4000)


def test_a_recording_that_never_rests_is_told(store, monkeypatch):
    monkeypatch.setattr(Store, "outlines", lambda *_: None)  # as if it were replaced every time
    assert store["a/one"].n_units == 5
    Store(store.path).write(build_recording(9, recording_id="a/one"), {})

    with pytest.raises(ViewError, match="recordings are written anew all the time"):
        sql(store, "SELECT * FROM spikes, catalog")


def test_parameters_fill_their_places(store):
    by_name = sql(store, "SELECT DISTINCT unit FROM spikes WHERE unit = $u", parameters={"u": 2})
    by_place = sql(store, "SELECT DISTINCT unit FROM spikes WHERE unit = ?", parameters=[2])

    assert by_name.to_pylist() == by_place.to_pylist() == [{"unit": 2}]


@pytest.mark.parametrize(
    "query",
    ["SELECT count(*) FROM spikes a JOIN spikes b USING (recording_id, time, unit)",
     "WITH trials AS (SELECT 1 AS a) SELECT a FROM trials",
     "SELECT count(*) FROM SPIKES, main.Trials",
     "SELECT * FROM units WHERE EXISTS (SELECT 1 FROM trials)",
     'SELECT * FROM "series-velocity", range(2) LIMIT 1', "DESCRIBE trials"],
)  # fmt: skip
def test_queries_of_every_form_are_answered(store, query):
    assert sql(store, query).num_rows >= 1


@pytest.mark.parametrize(
    ("query", "said"),
    [("SELECT * FROM spike", "no table is called 'spike'; did you mean 'spikes'"),
     ("SHOW TABLES", "no table is called"),
     ("SELECT tme FROM spikes", "tme"),
     ("SELEC", "one SELECT"),
     ("SELECT 1; SELECT 2", "found 2"),
     ("", "found 0"),
     ("CREATE TABLE x (a INT)", "one SELECT"),
     ("SET threads = 1", "one SELECT"),
     ("COPY spikes TO 'x.csv'", "one SELECT"),
     ("ATTACH 'x.db'", "one SELECT"),
     ("SELECT * FROM read_text('{file}')", "cannot be answered"),
     ("SELECT * FROM '{file}'", "no table is called"),
     ("SELECT * FROM glob('*')", "cannot be answered"),
     ("SELECT * FROM secret_frame", "no table is called"),
     ("SELECT * FROM query_table('secret_frame')", "cannot be answered")],
)  # fmt: skip
def test_what_is_mistaken_writes_or_reads_files_is_refused(
    store, query, said, tmp_path, monkeypatch
):
    secret_frame = pa.table({"a": [1]})  # DuckDB looks for tables among variables, if it may
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.csv").write_text("a,b\n1,2\n")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(ViewError, match=said):
        sql(store, query.format(file=tmp_path / "file.csv"))
    assert sorted(tmp_path.rglob("*")) == before
    assert secret_frame.num_rows == 1


def test_a_column_that_some_recordings_lack_is_null_there(store):
    one = store["a/two"]
    rows = replace(
        one.intervals["trials"], columns={"speed": np.ones(len(one.intervals["trials"]))}
    )
    store.write(replace(one, intervals={"trials": rows}), {})
    found = sql(store, "SELECT recording_id, count(speed) n FROM trials GROUP BY 1 ORDER BY 1")

    assert found["n"].to_pylist() == [0, len(rows)]


def test_names_that_mean_several_tables_are_refused(store):
    rows = IntervalSet.single(0.0, 1.0)
    store.write(build_recording(3, recording_id="c/odd"), {})
    odd = store["c/odd"]
    store.write(replace(odd, intervals={"velocity": rows, "Trials": rows}), {})

    with pytest.raises(ViewError, match="may be intervals-velocity or series-velocity"):
        sql(store, "SELECT * FROM velocity")
    with pytest.raises(ViewError, match=r"cannot tell the tables \['Trials', 'trials'\] apart"):
        sql(store, "SELECT * FROM trials")
    assert sql(store, "SELECT * FROM trials", ["c/odd"]).num_rows == 1
    assert sql(store, 'SELECT * FROM "series-velocity" LIMIT 1').num_rows == 1


def test_a_column_called_recording_id_is_refused(store):
    one = store["a/two"]
    units = {**one.units, "Recording_ID": one.units["unit_id"]}
    store.write(replace(one, units=units), {})

    with pytest.raises(ViewError, match="a/two: units has a column 'recording_id' of its own"):
        sql(store, "SELECT * FROM units")


def test_an_empty_store_has_no_tables(tmp_path):
    with pytest.raises(ViewError, match="there are none"):
        sql(Store(tmp_path), "SELECT * FROM spikes")


def test_duckdb_is_named_where_it_is_missing(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)

    with pytest.raises(ViewError, match="needs duckdb: install it with"):
        sql(store, "SELECT 1")
