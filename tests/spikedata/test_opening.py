from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from spikedata import opening
from spikedata.errors import IntegrityError, StoreError
from spikedata.files import sha256_of
from spikedata.recording import Recording
from spikedata.store import Store
from tests.conftest import assert_same_recording, build_recording

FILES = ["spikes", "units", "domain", "series-velocity", "series-position", "intervals-trials",
         "splits-main"]  # fmt: skip
AT_ONCE = {"spikes", "domain"}  # decoded when a recording is opened


def path_of(store: Store, part: str, name: str = "made/s0") -> Path:
    return store.path / name / f"{part}.arrow"


def agree(store: Store, part: str) -> None:
    """Let the header state size and hash of a file as it is now."""
    path, header = path_of(store, part), store.path / "made/s0/recording.json"
    content = json.loads(header.read_text())
    content["files"][path.name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    header.write_text(json.dumps(content))


def decoded(recording: Recording) -> list[object]:
    """Return all that a recording holds."""
    groups = [recording.units, recording.series, recording.intervals, recording.splits]
    return [value for group in groups for value in group.values()]


def every_failure(store: Store) -> Iterator[IntegrityError]:
    """Yield what opening a recording raises, or else what each of its tables does."""
    try:
        one = Store(store.path)["made/s0"]
    except IntegrityError as error:
        yield error
        return
    for group in (one.units, one.series, one.intervals, one.splits):
        try:
            names = list(group)
        except IntegrityError as error:
            yield error
            continue
        for name in names:
            try:
                group[name]
            except IntegrityError as error:
                yield error


# ------------------------------------------------------------------ what is decoded when


def test_tables_are_decoded_when_they_are_asked_for_and_then_kept(store, monkeypatch):
    read: list[str] = []
    original = opening._read_batch

    def noted(buffer: pa.Buffer, path: str) -> object:
        read.append(Path(path).stem)
        return original(buffer, path)

    monkeypatch.setattr(opening, "_read_batch", noted)
    one = store["made/s0"]
    names = [list(one.series), list(one.intervals), list(one.splits), one.targets]
    assert names == [["velocity", "position"], ["trials"], ["main"], ("velocity", "position")]
    assert sorted(read) == sorted(AT_ONCE)

    for _ in range(2):
        assert len(one.series["velocity"]) == 2000
        assert one.n_units == 5
    assert sorted(read) == sorted([*AT_ONCE, "series-velocity", "units"])
    assert one.series["velocity"] is one.series["velocity"]


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, replace, lambda one: pickle.loads(pickle.dumps(one))],
    ids=["copy", "deepcopy", "replace", "pickle"],
)
def test_copies_of_an_opened_recording_are_equal_to_it(store, tmp_path, again):
    one = again(store["made/s0"])
    shutil.rmtree(store.path)

    assert_same_recording(build_recording(0), one)
    assert one == build_recording(0)
    assert one.fingerprint


def test_a_recording_is_equal_to_what_was_written(store):
    assert store["made/s0"] == build_recording(0)
    assert store["made/s0"] == Store(store.path)["made/s0"]
    assert store["made/s0"] != store["made/s1"]


def test_what_is_decoded_late_is_of_the_writing_that_was_opened(store):
    """The folder is replaced, and then deleted, before anything but the spikes was looked at."""
    one = store["made/s0"]
    Store(store.path).write(build_recording(7, recording_id="made/s0"), {})
    shutil.rmtree(store.path / "made")

    assert_same_recording(build_recording(0), one)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the open descriptors")
def test_open_recordings_hold_no_descriptors(store):
    before = len(os.listdir("/proc/self/fd"))
    held = [decoded(one) for one in store.values()]

    assert len(os.listdir("/proc/self/fd")) == before
    assert len(held) == 3


# ------------------------------------------------------------------ damage


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("damage", ["emptied", "zeros", "text", "two batches", "no batch"])
def test_a_table_that_is_none_is_refused_when_it_is_decoded(store, part, damage):
    """The header agrees with its size and hash, so that only the content can tell."""
    path = path_of(store, part)
    data = path.read_bytes()
    batch = pa.ipc.open_file(path).get_batch(0)
    if damage in ("two batches", "no batch"):
        with pa.ipc.new_file(path, batch.schema) as writer:
            for _ in range(2 if damage == "two batches" else 0):
                writer.write_batch(batch)
    else:
        path.write_bytes({"emptied": b"", "zeros": bytes(len(data)), "text": b"text" * 99}[damage])
    agree(store, part)

    found = list(every_failure(store))
    assert len(found) == 1
    assert str(found[0]).startswith(f"{path} is damaged: ")
    assert str(found[0]).endswith("Ingest the recording again.")
    if part not in AT_ONCE:
        assert len(store["made/s0"].spike_time) == 400  # what is whole can be read
        with pytest.raises(StoreError, match="is damaged"):  # and is not taken for another
            pickle.dumps(store["made/s0"])


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("other", FILES)
def test_a_table_in_the_place_of_another_is_refused(store, part, other):
    shutil.copy(path_of(store, other, "made/s1"), path_of(store, part))
    agree(store, part)

    found = list(every_failure(store))
    whole = part == other or {part, other} == {"splits-main", "intervals-trials"}
    alike = part == "domain" and other in ("splits-main", "intervals-trials")
    alike |= other == "domain" and part in ("splits-main", "intervals-trials")
    if whole or alike:  # tables of intervals are alike; only `verify` can tell them apart
        assert found == []
    else:
        assert len(found) == 1
        assert "do not fit recording.json" in str(found[0])


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("spikes", lambda table: table.drop_columns("unit")),
        ("spikes", lambda table: table.set_column(0, "time", table["time"].cast("float32"))),
        ("spikes", lambda table: table.set_column(1, "unit", table["unit"].cast("int64"))),
        ("spikes", lambda table: table.slice(0, 399)),
        ("units", lambda table: table.drop_columns("unit_id")),
        ("units", lambda table: table.slice(1)),
        ("domain", lambda table: table.rename_columns(["end", "start"])),
        ("domain", lambda table: table.drop_columns("end")),
        ("series-velocity", lambda table: table.rename_columns(["value"])),
        ("series-position", lambda table: table.drop_columns("time")),
        ("series-velocity", lambda table: table.append_column("time", pa.array(np.arange(2000.0)))),
        ("intervals-trials", lambda table: table.take([2, 1, 0])),
        ("splits-main", lambda table: table.drop_columns("start")),
    ],
)
def test_a_table_that_does_not_fit_the_header_is_refused(store, part, change):
    path = path_of(store, part)
    table = change(pa.ipc.open_file(path).read_all()).combine_chunks()
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    agree(store, part)

    (found,) = every_failure(store)
    assert str(found).startswith("made/s0: the files do not fit recording.json (")


@pytest.mark.parametrize("part", FILES)
def test_flipped_bytes_in_the_structure_raise_nothing_but_our_error(store, part):
    """Sizes stay; whatever is not noticed must be memory of the file, or reading it would crash."""
    path = path_of(store, part)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    structure = [at for at in range(len(data)) if at < 500 or at > len(data) - 700]
    for at in rng.choice(structure, 150, replace=False):
        flipped = bytearray(data)
        flipped[at] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        assert len(list(every_failure(store))) < 8
        with suppress(IntegrityError):
            repr(decoded(Store(store.path)["made/s0"]))  # touches the first and last values


@pytest.mark.parametrize("damage", ["missing", "pipe", "link to nothing", "loop"])
def test_what_is_no_file_is_missing(store, damage):
    path = path_of(store, "units")
    path.unlink()
    if damage == "pipe":
        os.mkfifo(path)
    elif damage != "missing":
        path.symlink_to("nowhere" if damage == "link to nothing" else path)

    with pytest.raises(IntegrityError, match=r"made/s0: units\.arrow is missing, .*Ingest it"):
        store["made/s0"]


@pytest.mark.parametrize(
    ("code", "advice"), [(12, "map fewer at once"), (13, "make it readable, or ingest it again")]
)
def test_a_file_that_cannot_be_mapped_is_a_store_error(store, monkeypatch, code, advice):
    def refuse(path: str, **_: object) -> pa.Buffer:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(opening, "map_file", refuse)
    with pytest.raises(StoreError, match=rf"made/s0: spikes\.arrow cannot be mapped: .*{advice}"):
        store["made/s0"]


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("x")])
def test_files_of_no_table_are_checked_too(store, change: Callable[[Path], object]):
    """A later version may keep more beside the tables."""
    path = path_of(store, "more")
    path.write_text("xyz")
    agree(store, "more")
    assert_same_recording(build_recording(0), Store(store.path)["made/s0"])
    change(path)

    with pytest.raises(IntegrityError, match=r"made/s0: more\.arrow (is missing|has 1 bytes)"):
        store["made/s0"]


# ------------------------------------------------------------------ valid Arrow that we never write


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pa.array([1, None, 3, 4, 5]), "1 values are missing"),
        (pa.array(["a", None, "c", "d", "e"]), "1 values are missing"),
        (pa.array([True, None, True, None, True]), "2 values are missing"),
        (pa.array([[1.0, 2.0], None, None, None, None], pa.list_(pa.float64(), 2)), "4 values"),
        (pa.array([[1.0, None]] * 5, pa.list_(pa.float64(), 2)), "5 values are missing"),
        (pa.nulls(5), "5 values are missing"),
        (pa.array([b"a"] * 5), "a column of binary"),
        (pa.array([[1], [], [2], [3], [4]]), "a column of list<"),
        (pa.array([{"a": 1}] * 5), "a column of struct<"),
        (pa.array(["a"] * 5).dictionary_encode(), "a column in a dictionary"),
        (
            pa.RunEndEncodedArray.from_arrays(pa.array([5], pa.int32()), pa.array([1])),
            "a column of",
        ),
    ],
)
def test_columns_that_are_never_written_are_refused(store, column, problem):
    path = path_of(store, "units")
    table = pa.ipc.open_file(path).read_all().append_column("more", column)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    agree(store, "units")

    (found,) = every_failure(store)
    assert str(found).startswith(f"{path} is damaged: {problem}")


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("part", FILES)
def test_a_compressed_table_is_refused_before_it_is_unpacked(store, part, codec):
    path = path_of(store, part)
    table = pa.ipc.open_file(path).read_all()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_file(path, table.schema, options=options) as writer:
        writer.write_table(table)
    agree(store, part)
    before = pa.default_memory_pool().max_memory()

    (found,) = every_failure(store)
    assert "is damaged: a compressed batch" in str(found)
    assert pa.default_memory_pool().max_memory() == before


@pytest.mark.parametrize(
    ("part", "column"),
    [("series-velocity", "values"), ("series-position", "time"), ("domain", "start"),
     ("intervals-trials", "end")],
)  # fmt: skip
@pytest.mark.parametrize("value", ["text", np.datetime64(1, "s")])
def test_what_must_be_numbers_is_refused_where_it_is_none(store, part, column, value):
    path = path_of(store, part)
    table = pa.ipc.open_file(path).read_all()
    at = table.schema.names.index(column)
    kind = table.schema.types[at]
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else 1
    changed = pa.array([value] * len(table) * width)
    if width > 1:
        changed = pa.FixedSizeListArray.from_arrays(changed, width)
    with pa.ipc.new_file(path, (table := table.set_column(at, column, changed)).schema) as writer:
        writer.write_table(table)
    agree(store, part)

    (found,) = every_failure(store)
    assert "where numbers were written" in str(found)


def test_two_columns_of_one_name_are_refused(store):
    path = path_of(store, "spikes")
    table = pa.ipc.open_file(path).read_all()
    table = table.append_column("time", table["time"])
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    agree(store, "spikes")

    (found,) = every_failure(store)
    assert "two columns of one name" in str(found)


@pytest.mark.parametrize("values", [np.array([b"a"] * 5), np.zeros(5, complex), np.zeros(5, "V3")])
def test_what_could_not_be_read_is_not_written(store, values):
    recording = store["made/s0"]

    with pytest.raises(StoreError, match=r"units\.arrow cannot be written: column 'odd' is of"):
        store.write(replace(recording, units={**recording.units, "odd": values}), {})


def test_text_that_would_fill_the_memory_is_refused(store, monkeypatch):
    monkeypatch.setattr(opening, "MOST_TEXT", 4 * 5 * len("made/s0/u0"))
    assert list(every_failure(store)) == []

    monkeypatch.setattr(opening, "MOST_TEXT", 4 * 5 * len("made/s0/u0") - 1)
    assert "text that takes" in str(next(every_failure(store)))


def test_times_of_a_calendar_are_read_with_their_gaps(store):
    moments = np.array(["2020-01-01T00:00:00.5", "NaT"] * 2 + ["1970-01-01"], "M8[ns]")
    recording = store["made/s0"]
    units = {**recording.units, "seen": moments, "for": moments - moments[0],
             "day": moments.astype("M8[D]")}  # fmt: skip
    store.write(replace(recording, units=units), {})

    found = store["made/s0"].units
    assert np.array_equal(found["seen"], moments, equal_nan=True)
    assert np.array_equal(found["day"], moments.astype("M8[D]"), equal_nan=True)
    assert np.array_equal(found["for"], moments - moments[0], equal_nan=True)
