from __future__ import annotations

import json
import multiprocessing
import operator
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spikedata import layout as layout_module
from spikedata import store as store_module
from spikedata.errors import (
    FormatVersionError,
    IntegrityError,
    RecordingNotFoundError,
    StoreError,
)
from spikedata.files import sha256_of, swap_folders
from spikedata.intervals import IntervalSet
from spikedata.layout import FORMAT_VERSION
from spikedata.recording import Recording, Series
from spikedata.store import Store
from tests.conftest import assert_same_recording, build_recording

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,12}", fullmatch=True)
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(name="_quick", autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: no test here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def columns_of(count: int) -> st.SearchStrategy[np.ndarray]:
    """Columns of every kind that a table may hold, `count` rows each."""
    numbers = [hnp.arrays(kind, count) for kind in ("f8", "f4", "i8", "i4", "u1", "?")]
    numbers += [hnp.arrays(kind, (count, 2)) for kind in ("f8", "f4", "i4", "?")]
    words = [st.lists(WORDS, min_size=count, max_size=count).map(lambda text: np.array(text, str))]
    pairs = st.lists(WORDS, min_size=2 * count, max_size=2 * count)
    words.append(pairs.map(lambda text: np.array(text, str).reshape(count, 2)))
    return st.one_of(*numbers, *words)


@st.composite
def tables(draw: st.DrawFn) -> IntervalSet:
    count = draw(st.integers(0, 4))
    start = np.array(sorted(draw(st.lists(st.floats(-10, 10), min_size=count, max_size=count))))
    names = draw(st.lists(NAMES.filter(lambda name: name not in ("start", "end")), max_size=2))
    return IntervalSet(start, start + 1.5, {name: draw(columns_of(count)) for name in names})


@st.composite
def series(draw: st.DrawFn) -> Series:
    count, width = draw(st.integers(0, 5)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["f8", "f4"]))
    grid = {"start": draw(st.floats(-5, 5)), "rate": draw(st.floats(0.1, 1e4))}
    return Series(
        draw(hnp.arrays(kind, (count, width))),
        draw(WORDS),
        tuple(f"c{row}" for row in range(width)),
        **draw(st.sampled_from([grid, {"time": np.arange(count) / 7}])),
    )


@st.composite
def recordings(draw: st.DrawFn) -> Recording:
    """Any recording: no units, no spikes, silent units, empty tables, unicode."""
    n_units, n_spikes = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    n_spikes = n_spikes if n_units else 0
    some = draw(st.dictionaries(NAMES, series(), max_size=2))
    units = {name: draw(columns_of(n_units)) for name in draw(st.lists(NAMES, max_size=2))}
    ids = draw(st.lists(WORDS, min_size=n_units, max_size=n_units, unique=True))
    return Recording(
        recording_id=f"{draw(NAMES)}/{draw(NAMES)}",
        spike_time=np.sort(draw(hnp.arrays("f8", n_spikes, elements=st.floats(-1e9, 1e9)))),
        spike_unit=draw(hnp.arrays("i4", n_spikes, elements=st.integers(0, max(n_units - 1, 0)))),
        units={**units, "unit_id": np.array(ids, str)},
        domain=draw(tables()).coalesce(),
        series=some,
        intervals=draw(st.dictionaries(NAMES, tables(), max_size=2)),
        splits=draw(st.dictionaries(NAMES, tables(), max_size=2)),
        targets=tuple(some),
        about=draw(st.dictionaries(WORDS, WORDS, max_size=2)),
        dropped=draw(st.dictionaries(WORDS, st.integers(0, 9), max_size=2)),
    )


def folder_of(store: Store, recording_id: str = "made/s0") -> Path:
    return store.path / recording_id


def edit_header(store: Store, change: Callable[[dict], object]) -> None:
    """Apply a change to the header of made/s0."""
    path = folder_of(store) / "recording.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def files_of(store: Store) -> list[Path]:
    return sorted(folder_of(store).glob("*.arrow"))


# ------------------------------------------------------------------ write, then read


@given(recordings())
def test_what_is_read_is_what_was_written(tmp_path_factory, recording):
    path = tmp_path_factory.mktemp("store")
    Store(path).write(recording, {"by": "test"})
    store = Store(path)

    assert list(store) == [recording.recording_id]
    assert_same_recording(recording, store[recording.recording_id])
    store.verify(recording.recording_id)
    shutil.rmtree(path)


def test_the_header_says_what_the_recording_holds_and_where_it_came_from(store):
    header = store.header("made/s0")

    assert (header.n_spikes, header.n_units, header.duration) == (400, 5, 20.0)
    assert set(header.files) == {path.name for path in files_of(store)}
    assert store.provenance("made/s0") == {"seed": 0}


def test_a_store_is_a_mapping_from_id_to_recording(store):
    assert list(store) == ["made/s0", "made/s1", "made/s2"]
    assert (len(store), "made/s1" in store, "made/s9" in store) == (3, True, False)
    assert [one.recording_id for one in store.values()] == list(store)
    assert repr(store) == f"Store('{store.path}', 3 recordings)"


@pytest.mark.parametrize(
    "recording_id", ["made/s9", "s0", "made/s0/x", "../made/s0", "made/..", "", "a/" + "x" * 300, 7]
)
def test_what_is_no_recording_is_not_contained_and_get_gives_the_default(store, recording_id):
    assert recording_id not in store
    assert store.get(recording_id, "nothing") == "nothing"


def test_writing_replaces_a_recording_as_a_whole(store):
    first = store["made/s0"]
    new = build_recording(0, n_units=2, n_spikes=10, lacks=("position",))
    store.write(new, {"seed": 9})

    assert_same_recording(new, store["made/s0"])
    assert store.provenance("made/s0") == {"seed": 9}
    assert_same_recording(build_recording(0), first)  # its mapping outlives the file
    assert [path.name for path in (store.path / "made").iterdir() if path.name[0] == "."] == []


def test_a_recording_of_the_store_can_be_written_back(store):
    store.write(store["made/s0"], {"again": True})

    assert_same_recording(build_recording(0), store["made/s0"])


def test_arrays_are_read_only(store):
    one = store["made/s0"]
    arrays = [one.spike_time, one.spike_unit, one.domain.start, *one.units.values()]
    arrays += [part.values for part in one.series.values()] + [one.series["position"].time]
    for table in (*one.intervals.values(), *one.splits.values()):
        arrays += [table.start, table.end, *table.columns.values()]

    assert [array.flags.writeable for array in arrays] == [False] * len(arrays)


def test_numbers_are_views_of_the_mapping(store):
    """Opening reads nothing of them, and a gigabyte of spikes costs no memory."""
    before = pa.total_allocated_bytes()
    one = store["made/s0"]

    assert not one.spike_time.flags.owndata
    assert not one.series["velocity"].values.flags.owndata
    assert pa.total_allocated_bytes() - before < 1000  # of about 30,000


def test_the_least_recently_used_recording_is_let_go_first(store):
    few = Store(store.path, max_open=2)
    a, b = few["made/s0"], few["made/s1"]

    assert few["made/s0"] is a
    few["made/s2"]
    assert few["made/s0"] is a
    assert few["made/s1"] is not b


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("x")

    for place in ("file", "file/store"):
        with pytest.raises(StoreError, match=r"store .*file.* cannot be made: .*--store"):
            Store(tmp_path / place, create=True)


def test_a_folder_that_is_not_there_is_refused_or_made(tmp_path):
    with pytest.raises(StoreError, match=r"There is no store at .*spikedata ingest"):
        Store(tmp_path / "a/b")
    assert list(Store(tmp_path / "a/b", create=True)) == []


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "recording_id",
    ["s0", "a/b/c", "../s0", "a/..", "a/.b", "/a/b", "a\\b/c", "a/b\n", "a/b c", "", "a/", "é/b"],
)
def test_an_id_that_is_no_safe_path_is_refused(store, recording_id):
    with pytest.raises(RecordingNotFoundError, match=r"is no recording id|holds no recording"):
        store[recording_id]
    with pytest.raises(StoreError, match="is no recording id"):
        store.write(build_recording(recording_id=recording_id or "?"), {})
    assert not (store.path.parent / "s0").exists()


def test_an_unknown_recording_is_named_with_its_neighbour(store):
    with pytest.raises(RecordingNotFoundError, match="no recording 'made/s00'; did you mean"):
        store["made/s00"]


@pytest.mark.parametrize("name", ["../x", "a/b", "a b", "a\0b", "é", "x\n"])
@pytest.mark.parametrize("group", ["series", "intervals", "splits"])
def test_a_name_that_cannot_name_a_file_is_refused_and_nothing_is_left(tmp_path, group, name):
    store = Store(tmp_path, create=True)
    recording = build_recording()
    table = next(iter(getattr(recording, group).values()))

    with pytest.raises(StoreError, match=r"^made/s0: .* cannot name a file of the store"):
        store.write(replace(recording, **{group: {name: table}}, targets=()), {})
    assert list(store) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": {"unit_id": np.array(["\ud800"])}}, r"units\.arrow"),
        ({"units": {"unit_id": np.array(["a"]), "x": np.zeros(2)}}, r"units\.arrow"),
        ({"units": {"unit_id": np.array(["a"]), "x": np.zeros((1, 2, 2))}}, r"units\.arrow"),
        ({"intervals": {"t": IntervalSet(np.zeros(1), np.ones(1), {"end": np.zeros(1)})}},
         r"intervals-t\.arrow: .*'end'"),
        ({"targets": ("not a name",)}, "targets"),
        ({"about": {"subject": 7}}, "about"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_a_store_error_that_names_it(tmp_path, change, message):
    store = Store(tmp_path, create=True)

    with pytest.raises(StoreError, match=rf"^made/s0.*{message}"):
        store.write(replace(build_recording(), **change), {})
    assert list(store) == []


def test_a_disk_that_refuses_is_a_store_error_and_the_old_recording_stays(store, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout_module, "sync_file", full)
    with pytest.raises(StoreError, match=r"made/s0: cannot be written .*No space left"):
        store.write(build_recording(5, recording_id="made/s0"), {})

    assert_same_recording(build_recording(0), store["made/s0"])
    assert [path.name for path in (store.path / "made").iterdir() if path.name[0] == "."] == []


# ------------------------------------------------------------------ damage


@pytest.mark.parametrize("part", ["spikes", "units", "domain", "series-velocity",
                                  "intervals-trials", "splits-main"])  # fmt: skip
@pytest.mark.parametrize("damage", ["truncated", "longer", "missing", "folder"])
def test_a_file_of_another_size_is_noticed_when_the_recording_is_opened(store, part, damage):
    path = folder_of(store) / f"{part}.arrow"
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(data[:-1] if damage == "truncated" else data + b"\0")

    with pytest.raises(IntegrityError, match=rf"made/s0: {part}\.arrow .*Ingest it again"):
        store["made/s0"]


def test_any_flipped_byte_is_found_by_verify_and_opening_raises_nothing_else(tmp_path):
    store = Store(tmp_path, create=True)
    store.write(build_recording(n_units=2, n_spikes=8, lacks=("velocity", "position")), {})
    rng = np.random.default_rng(0)
    for path in files_of(store):
        data = bytearray(path.read_bytes())
        for at in rng.choice(len(data), 120, replace=False):
            flipped = bytearray(data)
            flipped[at] ^= int(rng.integers(1, 256))
            path.write_bytes(flipped)

            with pytest.raises(IntegrityError, match=rf"{path.name} has sha256 .*was written"):
                store.verify("made/s0")
            with suppress(IntegrityError):
                Store(tmp_path)["made/s0"]
        path.write_bytes(data)
    store.verify("made/s0")


def test_any_flipped_byte_of_the_header_is_found_or_changes_no_array(store):
    path = folder_of(store) / "recording.json"
    data = path.read_bytes()
    spike_time = np.array(store["made/s0"].spike_time)
    rng = np.random.default_rng(0)
    for at in rng.choice(len(data), 150, replace=False):
        path.write_bytes(data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :])
        with suppress(StoreError):
            assert np.array_equal(Store(store.path)["made/s0"].spike_time, spike_time)


def test_tables_that_do_not_fit_together_are_refused(store):
    """Files that are whole but belong to another recording, with a header that agrees."""
    other = folder_of(store, "made/s2") / "spikes.arrow"
    small = build_recording(7, n_spikes=12)
    store.write(small, {})
    shutil.copy(folder_of(store, "made/s7") / "spikes.arrow", folder_of(store) / "spikes.arrow")
    size, digest = (
        (folder_of(store) / "spikes.arrow").stat().st_size,
        sha256_of(folder_of(store) / "spikes.arrow"),
    )
    edit_header(store, lambda h: h["files"]["spikes.arrow"].update(size=size, sha256=digest))

    with pytest.raises(IntegrityError, match=r"made/s0: .*12 spikes where 400 were written"):
        store["made/s0"]
    assert other.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '"x"', "\xff"])
def test_a_damaged_header_is_an_integrity_error(store, content):
    (folder_of(store) / "recording.json").write_text(content, encoding="latin-1")

    with pytest.raises(IntegrityError, match=r"recording\.json.*Ingest it again"):
        store["made/s0"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".hidden", "x\n"])
def test_a_header_that_names_a_file_elsewhere_is_refused(store, name):
    entry = {"size": 1, "sha256": "0" * 64}
    edit_header(store, lambda header: header["files"].update({name: entry}))

    for read in (store.__getitem__, store.verify):
        with pytest.raises(IntegrityError, match=r"recording\.json: files"):
            read("made/s0")


@pytest.mark.parametrize("group", ["series", "intervals", "splits"])
def test_a_header_whose_tables_lead_elsewhere_is_refused(store, group):
    def change(header: dict) -> None:
        entry = {"unit": "m", "columns": ["x"], "rate": 1.0}
        header[group] = {"../x": entry} if group == "series" else ["../x"]

    edit_header(store, change)

    with pytest.raises(IntegrityError, match=rf"recording\.json: {group}"):
        store["made/s0"]


@pytest.mark.parametrize("group", ["series", "intervals", "splits"])
def test_a_table_that_the_header_does_not_hash_is_refused(store, group):
    """Otherwise verify would pass over its bytes."""
    name = {"series": "velocity", "intervals": "trials", "splits": "main"}[group]
    edit_header(store, lambda header: header["files"].pop(f"{group}-{name}.arrow"))

    with pytest.raises(IntegrityError, match=rf"made/s0: {group}-{name}\.arrow .*no size and hash"):
        store["made/s0"]


def test_a_moved_directory_is_refused(store):
    (store.path / "made/s1").rename(store.path / "made/s5")

    with pytest.raises(IntegrityError, match=r"holds 'made/s1': it was moved or renamed"):
        store["made/s5"]


# ------------------------------------------------------------------ versions


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, FORMAT_VERSION + 1.0, 99])
def test_a_newer_format_is_refused_with_the_way_out(store, version):
    edit_header(store, lambda header: (header.clear(), header.update(format_version=version)))

    with pytest.raises(FormatVersionError, match=rf"made/s0: store format {version} is newer.*upg"):
        store["made/s0"]


@pytest.mark.parametrize("version", [0, -1, "1", "99", None, True, [1]])
def test_a_version_that_is_no_number_of_ours_is_damage(store, version):
    edit_header(store, lambda header: header.update(format_version=version))

    with pytest.raises(IntegrityError, match="format_version"):
        store["made/s0"]


def test_later_additions_are_ignored(store):
    folder = folder_of(store)
    table = pa.ipc.open_file(str(folder / "spikes.arrow")).read_all()
    table = table.append_column("amplitude", pa.array(np.zeros(len(table))))
    table = table.select(["amplitude", "unit", "time"]).combine_chunks()
    with pa.ipc.new_file(str(folder / "spikes.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "lfp.zarr").mkdir()

    def change(header: dict) -> None:
        header["recorded_by"] = {"who": "later"}
        header["series"]["velocity"]["smoothing"] = 0.1
        header["files"]["spikes.arrow"] = {
            "size": (folder / "spikes.arrow").stat().st_size,
            "sha256": sha256_of(folder / "spikes.arrow"),
            "crc32": 0,
        }

    edit_header(store, change)

    assert_same_recording(build_recording(0), store["made/s0"])
    store.verify("made/s0")


def test_what_is_hidden_or_unfinished_is_no_recording(store):
    whole = folder_of(store)
    for name in (".writing-s8-1-ab", ".old-s8-ab", ".s8"):
        shutil.copytree(whole, whole.with_name(name))
    shutil.copytree(whole, store.path / ".hidden/s8")
    (store.path / "made/unfinished").mkdir()
    (store.path / "made/a file").write_text("x")
    (store.path / "catalog.parquet").write_text("x")

    assert list(store) == ["made/s0", "made/s1", "made/s2"]
    for name in ("made/unfinished", "catalog.parquet/x"):
        assert name not in store
        with pytest.raises(RecordingNotFoundError):
            store[name]


# ------------------------------------------------------------------ processes


def test_a_store_stays_where_it_is_when_the_program_changes_its_folder(
    store, tmp_path, monkeypatch
):
    monkeypatch.chdir(store.path.parent)
    relative = Store(store.path.name)
    kept = pickle.dumps(relative)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    for one in (relative, pickle.loads(kept)):
        assert list(one) == list(store)
        one.write(build_recording(), {})
        assert one["made/s0"].n_units == 5
        assert one.catalog().num_rows == len(store)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_store_pickles_as_its_path(store):
    expected = store["made/s0"].spike_time.copy()
    data = pickle.dumps(store)

    assert len(data) < 500
    np.testing.assert_array_equal(expected, pickle.loads(data)["made/s0"].spike_time)


@FORKS
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_readers_agree_under_every_start_method(store, method):
    expected = {name: store[name] for name in store}  # opened before the fork
    with ProcessPoolExecutor(2, get_context(method)) as pool:
        found = [(name, pool.submit(operator.itemgetter(name), store)) for name in [*expected] * 2]
        for name, one in found:
            assert_same_recording(expected[name], one.result(timeout=60))


def in_a_fork(function: Callable[[], object]) -> multiprocessing.Process:
    process = get_context("fork").Process(target=function)
    process.start()
    return process


def assert_nothing_or_whole(path: Path, *allowed: Recording) -> None:
    """Assert that a reader finds none or one of some recordings, and that a rerun succeeds."""
    store = Store(path)
    if list(store):
        store.verify("made/s0")
        expected = next(one for one in allowed if len(one.spike_time) == store.header(
            "made/s0").n_spikes)  # fmt: skip
        assert_same_recording(expected, store["made/s0"])
    else:
        assert "made/s0" not in store
    store.write(allowed[-1], {})
    assert_same_recording(allowed[-1], Store(path)["made/s0"])


@FORKS
@pytest.mark.parametrize("replacing", [False, True])
def test_a_writer_killed_at_any_step_leaves_nothing_half_written(tmp_path, monkeypatch, replacing):
    """Killed before its first, second, … call that changes the disk, until it gets through."""
    old = build_recording(0, n_spikes=5, lacks=("position", "velocity"))
    new = build_recording(0, lacks=("position",))

    def write_until(last: int, path: Path) -> None:
        calls = iter(range(last))

        def counted(original: Callable) -> Callable:
            def call(*arguments: object, **options: object) -> object:
                if next(calls, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **options)

            return call

        for name in ("mkdir", "replace", "fsync", "rmdir", "unlink"):
            monkeypatch.setattr(os, name, counted(getattr(os, name)))
        Store(path).write(new, {})

    for last in range(100):
        path = tmp_path / str(last)
        Store(path, create=True)
        if replacing:
            Store(path).write(old, {})
        process = in_a_fork(lambda last=last, path=path: write_until(last, path))
        process.join(60)
        assert_nothing_or_whole(path, old, new)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert 10 < last < 99


@FORKS
def test_a_writer_killed_at_a_random_moment_leaves_nothing_half_written(tmp_path):
    old, new = build_recording(0, n_spikes=5), build_recording(0, n_spikes=200_000)
    store = Store(tmp_path, create=True)
    began = time.perf_counter()
    store.write(new, {})
    needed = time.perf_counter() - began
    rng = np.random.default_rng(0)
    for _ in range(12):
        store.write(old, {})
        process = in_a_fork(lambda: Store(tmp_path).write(new, {}))
        time.sleep(rng.uniform(0, 1.2 * needed))
        process.kill()
        process.join(60)
        assert_nothing_or_whole(tmp_path, old, new)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the names of open files")
def test_every_file_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    """So that a power cut leaves a whole recording or none: sync the files, then rename."""
    events = []

    def synced(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def renamed(source: Path, target: Path, replace: Callable = os.replace) -> None:
        events.append(f"renamed to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    store = Store(tmp_path, create=True)
    store.write(build_recording(0), {})

    at = events.index("renamed to recording.json")
    assert {path.name for path in files_of(store)} <= set(events[:at])
    assert events[at - 1].startswith(".recording.json")  # the header's bytes
    assert events[at + 1].startswith(".writing-s0-")  # the header's name
    assert events[at + 2 :] == ["renamed to s0", "made"]


def test_leftovers_of_killed_writers_are_swept_away_when_they_are_old(store):
    made = store.path / "made"
    for name in (".writing-s0-1-ab", ".old-s0-ab", ".writing-s0-2-cd", ".mine"):
        (made / name).mkdir()
    long_ago = time.time() - store_module.STALE_AFTER - 60
    for name in (".writing-s0-1-ab", ".old-s0-ab", ".mine"):
        os.utime(made / name, (long_ago, long_ago))

    store.write(build_recording(0), {})

    assert sorted(path.name for path in made.glob(".*")) == [".mine", ".writing-s0-2-cd"]


def write_often(store: Store, recording: Recording, failures: list[str], times: int = 25) -> None:
    for _ in range(times):
        try:
            store.write(recording, {})
        except StoreError as error:
            failures.append(str(error))


@pytest.mark.parametrize("same", [True, False])
def test_concurrent_writers_do_not_disturb_each_other(tmp_path, same):
    """Of one recording, one whole one stays; of several in a dataset, all do."""
    store = Store(tmp_path, create=True)
    choices = [
        build_recording(0, n_spikes=50 * n, recording_id="made/s0" if same else f"made/s{n}")
        for n in range(1, 5)
    ]
    failures: list[str] = []
    threads = [
        threading.Thread(target=write_often, args=(Store(tmp_path), one, failures))
        for one in choices
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    assert len(store) == (1 if same else 4)
    for name in store:
        store.verify(name)
        spikes = store.header(name).n_spikes
        assert_same_recording(choices[spikes // 50 - 1], store[name])
    assert [path.name for path in (tmp_path / "made").glob(".*")] == []


def test_a_reader_during_replacement_sees_one_whole_recording_or_none(tmp_path):
    choices = [build_recording(0, n_spikes=50 * n) for n in (1, 2)]
    store = Store(tmp_path, create=True)
    store.write(choices[0], {})
    failures: list[str] = []

    def alternate() -> None:
        for n in range(60):
            write_often(store, choices[n % 2], failures, times=1)

    writer = threading.Thread(target=alternate)
    writer.start()
    seen = 0
    while writer.is_alive():
        try:
            one = Store(tmp_path)["made/s0"]
        except RecordingNotFoundError:
            continue
        assert_same_recording(choices[len(one.spike_time) // 50 - 1], one)
        seen += 1
    writer.join(60)

    assert failures == []
    assert seen > 3


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_recording_is_replaced_where_folders_cannot_be_exchanged_too(
    store, monkeypatch, exchanged
):
    if not exchanged:
        monkeypatch.setattr("spikedata.store.swap_folders", lambda one, other: False)
    other = replace(build_recording(0), spike_time=build_recording(0).spike_time + 0.001)
    store.write(other, {})

    assert_same_recording(other, Store(store.path)["made/s0"])
    assert [path.name for path in (store.path / "made").iterdir() if path.name[0] == "."] == []


def test_a_folder_is_not_exchanged_for_one_that_is_not_there(tmp_path):
    (tmp_path / "one").mkdir()

    assert not swap_folders(tmp_path / "one", tmp_path / "none")
    assert (tmp_path / "one").is_dir()
