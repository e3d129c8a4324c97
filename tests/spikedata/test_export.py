from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from typer.testing import CliRunner

from spikedata import export as export_module
from spikedata.cli import app
from spikedata.errors import RecordingNotFoundError, StoreError
from spikedata.export import export_parquet
from spikedata.store import Store
from spikedata.testing import recordings
from spikedata.views import table_names, to_arrow
from tests.conftest import build_recording


@pytest.fixture(name="_quick", autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store", create=True)
    store.write(build_recording(0, recording_id="a/one"), {})
    store.write(build_recording(1, recording_id="a/two", lacks=("position",)), {})
    store.write(build_recording(2, recording_id="b/three"), {})
    return store


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones too."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def assert_exported(store: Store, recording_id: str, folder: Path) -> None:
    """Assert that the files hold every column of every table, by values, types and metadata."""
    recording = store[recording_id]
    assert {path.name for path in (folder / recording_id).iterdir()} == {
        f"{name}.parquet" for name in table_names(recording)
    }
    for name in table_names(recording):
        expected = to_arrow(recording, name)
        found = pq.read_table(
            folder / recording_id / f"{name}.parquet", page_checksum_verification=True
        )

        assert found.column_names == ["recording_id", *expected.column_names]
        assert found["recording_id"].to_pylist() == [recording_id] * len(expected)
        assert found.drop(["recording_id"]).equals(expected.combine_chunks(), check_metadata=True)


def test_every_table_reads_back_as_it_is(store, tmp_path):
    done = export_parquet(store, tmp_path / "out")

    assert [(one.recording_id, one.status) for one in done] == [(id_, "written") for id_ in store]
    for recording_id in store:
        assert_exported(store, recording_id, tmp_path / "out")
    sizes = [sum(path.stat().st_size for path in (tmp_path / "out" / one).iterdir())
             for one in store]  # fmt: skip
    assert [one.bytes for one in done] == sizes


@given(recordings())
@settings(max_examples=8)
def test_any_recording_reads_back(tmp_path_factory, recording):
    folder = tmp_path_factory.mktemp("any")
    store = Store(folder / "store", create=True)
    store.write(recording, {})
    export_parquet(store, folder / "out")

    assert_exported(store, recording.recording_id, folder / "out")


@pytest.mark.parametrize("rows", [7, 200, 400, 10_000])
def test_tables_longer_than_a_block_are_whole(store, tmp_path, monkeypatch, rows):
    """400 spikes: once in blocks that do not fit, twice in such as end with them, once in one."""
    monkeypatch.setattr(export_module, "ROWS", rows)
    export_parquet(store, tmp_path / "out", ["a/one"])

    assert_exported(store, "a/one", tmp_path / "out")
    found = pq.ParquetFile(tmp_path / "out/a/one/spikes.parquet")
    assert found.num_row_groups == -(-400 // rows)
    assert found.metadata.row_group(0).sorting_columns[0].column_index == 1


def test_the_catalogue_lists_what_the_folder_holds(store, tmp_path):
    path = tmp_path / "out" / "catalog.parquet"
    export_parquet(store, tmp_path / "out", ["a/two"])

    assert pq.read_table(path)["recording_id"].to_pylist() == ["a/two"]

    export_parquet(store, tmp_path / "out", ["b/three"])
    expected = store.catalog()

    assert pq.read_table(path).equals(expected.filter(pa.array([False, True, True])))


def test_what_is_there_is_skipped_and_what_changed_is_written(store, tmp_path):
    out = tmp_path / "out"
    export_parquet(store, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*.parquet")}
    again = export_parquet(store, out)

    assert {one.status for one in again} == {"skipped"}
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*/*.parquet")}

    store.write(build_recording(9, recording_id="a/one", lacks=("position",)), {})
    (out / "a/one/mine.parquet").write_bytes(b"not of this export")
    third = export_parquet(store, out)

    assert [one.status for one in third] == ["written", "skipped", "skipped"]
    assert (out / "a/one/mine.parquet").read_bytes() == b"not of this export"
    (out / "a/one/mine.parquet").unlink()
    assert_exported(store, "a/one", out)  # no series-position.parquet of before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("calls", [0, 1, 4])
def test_an_interrupted_export_leaves_whole_files_and_goes_on(
    store, tmp_path, monkeypatch, error, calls
):
    out = tmp_path / "out"
    write, left = pq.ParquetWriter.write_table, iter([True] * calls)

    def interrupted(writer, *arguments, **options):
        write(writer, *arguments, **options)
        if next(left, None) is None:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", interrupted)
        with pytest.raises(error):
            export_parquet(store, out)
    found = files_of(out)

    assert len(found) == calls
    assert all(name.endswith(".parquet") and data[-4:] == b"PAR1" for name, data in found.items())

    export_parquet(store, out)
    for recording_id in store:
        assert_exported(store, recording_id, out)
    assert {name: files_of(out)[name] for name in found} == found  # kept, not written again


def test_a_flipped_bit_is_found_by_a_reader_that_looks(store, tmp_path):
    export_parquet(store, tmp_path / "out", ["a/one"])
    path = tmp_path / "out/a/one/spikes.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    data = bytearray(path.read_bytes())
    data[(column.dictionary_page_offset or column.data_page_offset) + 200] ^= 1
    path.write_bytes(data)

    with pytest.raises(OSError, match=r"(?i)crc"):
        pq.read_table(path, page_checksum_verification=True)


def test_files_of_all_recordings_are_one_table_to_duckdb(store, tmp_path):
    export_parquet(store, tmp_path / "out")
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT recording_id, count(*) FROM '{tmp_path}/out/*/*/spikes.parquet' GROUP BY 1"
        ).fetchall()

    assert dict(found) == {name: len(store[name].spike_time) for name in store}


def test_a_damaged_recording_fails_and_the_others_go_on(store, tmp_path):
    (store.path / "a/one/spikes.arrow").write_bytes(b"")
    units = store["a/two"].units
    odd = {**units, "recording_id": units["unit_id"]}
    store.write(replace(build_recording(1, recording_id="a/two"), units=odd), {})
    done = export_parquet(Store(store.path), tmp_path / "out")

    assert [one.status for one in done] == ["failed", "failed", "written"]
    assert "spikes.arrow has 0 bytes" in done[0].message
    assert "units has a column 'recording_id' of its own" in done[1].message
    listed = pq.read_table(tmp_path / "out/catalog.parquet")["recording_id"].to_pylist()
    assert listed == ["b/three"]


def test_a_recording_that_is_not_there_stops_before_anything_is_written(store, tmp_path):
    with pytest.raises(RecordingNotFoundError, match="did you mean 'a/one'"):
        export_parquet(store, tmp_path / "out", ["a/two", "a/onne"])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to_is_named(store, tmp_path):
    (tmp_path / "out").write_text("a file")

    with pytest.raises(StoreError, match=f"cannot be written to {tmp_path / 'out'}"):
        export_parquet(store, tmp_path / "out")


def test_progress_tells_how_many_files_are_done(store, tmp_path):
    told = []
    export_parquet(store, tmp_path / "out", ["a/one"], lambda *now: told.append(now))
    count = len(table_names(store["a/one"]))

    assert told == [("a/one", done, count) for done in range(1, count + 1)]


def test_an_empty_store_gives_an_empty_catalogue(tmp_path):
    assert export_parquet(Store(tmp_path / "store", create=True), tmp_path / "out") == []
    assert pq.read_table(tmp_path / "out/catalog.parquet").num_rows == 0


# ------------------------------------------------------------------ the command


def run(*arguments: object):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_the_command_exports_what_is_named(store, tmp_path):
    out = tmp_path / "out"
    options = ("--store", store.path, "--out", out, "--json")

    def ids(result) -> dict[str, str]:
        assert result.exit_code == 0, result.output
        return {row["recording_id"]: row["status"] for row in json.loads(result.stdout)}

    assert ids(run("b/three", *options)) == {"b/three": "written"}
    assert ids(run("--dataset", "a", "a/two", *options)) == {"a/two": "written", "a/one": "written"}
    assert ids(run(*options)) == dict.fromkeys(store, "skipped")
    assert "3 skipped" in run(*options[:-1]).stderr


def test_the_command_says_what_is_wrong(store, tmp_path):
    options = ("--store", store.path, "--out", tmp_path / "out")
    wrong = run("--dataset", "c", *options)
    missing = run("a/onne", *options)
    shutil.rmtree(store.path / "a")
    (store.path / "b/three/units.arrow").unlink()
    failed = run(*options)

    assert (wrong.exit_code, missing.exit_code, failed.exit_code) == (2, 2, 1)
    assert "holds no dataset 'c'; there are: a, b" in wrong.stderr.replace("\n", " ")
    assert "did you mean 'a/one'" in missing.stderr.replace("\n", " ")
    assert "units.arrow is missing" in failed.stdout
