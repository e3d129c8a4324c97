from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata import catalog as catalog_module
from spikedata import store as store_module
from spikedata.catalog import CATALOG, read_catalog
from spikedata.errors import (
    FormatVersionError,
    IntegrityError,
    RecordingNotFoundError,
    StoreError,
)
from spikedata.intervals import IntervalSet
from spikedata.outline import Outline, outline_of
from spikedata.recording import SPLITS, Recording, Series
from spikedata.store import Store
from tests.conftest import build_recording

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
IDS = ["made/s0", "made/s1", "made/s2"]


@pytest.fixture(name="_quick", autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: no test here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(name="opened")
def _opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the ids of recordings that are read from their folders from now on."""
    read: list[str] = []
    original = Store._map

    def noted(self: Store, recording_id: str) -> object:
        read.append(recording_id)
        return original(self, recording_id)

    monkeypatch.setattr(Store, "_map", noted)
    return read


def assert_same_outline(expected: Outline, actual: Outline) -> None:
    for name in ("recording_id", "fingerprint", "n_units", "targets", "intervals"):
        assert getattr(expected, name) == getattr(actual, name)
    assert list(expected.channels.items()) == list(actual.channels.items())
    assert list(expected.splits) == list(actual.splits)
    for scheme, columns in expected.splits.items():
        for mine, theirs in zip(columns, actual.splits[scheme], strict=True):
            assert mine.dtype.kind == theirs.dtype.kind
            np.testing.assert_array_equal(mine, theirs)


def edit_header(store: Store, change: Callable[[dict], object], name: str = "made/s0") -> None:
    path = store.path / name / "recording.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def signed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


# ------------------------------------------------------------------ outlines


@st.composite
def splittable(draw: st.DrawFn) -> Recording:
    """Draw a recording with any number of series, interval tables and schemes, empty ones too."""
    base = build_recording(
        draw(st.integers(0, 3)), recording_id=f"{draw(st.sampled_from('ab'))}/{draw(st.uuids())}",
        n_units=draw(st.integers(1, 4)), n_spikes=draw(st.integers(0, 9)),
    )  # fmt: skip
    schemes = {}
    for name in draw(st.lists(st.sampled_from(["x", "y.1", "z"]), unique=True)):
        count = draw(st.integers(0, 5))
        split = draw(st.lists(st.sampled_from(SPLITS), min_size=count, max_size=count))
        start = np.arange(count) + draw(st.floats(-1e6, 1e6))
        schemes[name] = IntervalSet(start, start + 0.5, {"split": np.array(split, np.str_)})
    series = dict(list(base.series.items())[: draw(st.integers(0, 2))])
    about = draw(st.dictionaries(st.sampled_from(["subject", "session", "é"]), st.just("ü")))
    return replace(base, splits=schemes, series=series, targets=tuple(series), about=about,
                   intervals=base.intervals if draw(st.booleans()) else {})  # fmt: skip


@given(st.lists(splittable(), max_size=4), st.lists(splittable(), max_size=2))
def test_an_outline_from_the_catalogue_is_that_of_the_recording(tmp_path_factory, first, then):
    """Read from folders, from the file, and from a file that had to be added to."""
    path = tmp_path_factory.mktemp("store")
    store = Store(path, create=True)
    for group in (first, then):
        for one in group:
            store.write(one, {})
        names = list(store)[::-1]
        for reader in (Store(path), Store(path), store):
            found = reader.outlines(names)
            assert [one.recording_id for one in found] == names
            for one in found:
                assert_same_outline(outline_of(Store(path)[one.recording_id]), one)
    shutil.rmtree(path)


def test_outlines_open_nothing_that_the_catalogue_knows(store, opened):
    store.outlines(IDS)
    assert opened == IDS
    assert Store(store.path).outlines(IDS[::-1])[0].recording_id == "made/s2"
    assert opened == IDS


def test_one_new_recording_is_read_alone(store, opened):
    store.outlines(IDS)
    Store(store.path).write(build_recording(3), {})
    Store(store.path).write(build_recording(1, n_spikes=7), {})
    opened.clear()

    found = Store(store.path).outlines([*IDS, "made/s3"])
    assert opened == ["made/s1", "made/s3"]
    assert [one.n_units for one in found] == [5, 5, 3, 5]
    Store(store.path).outlines([*IDS, "made/s3"])
    assert opened == ["made/s1", "made/s3"]


def test_arrays_of_an_outline_are_read_only(store):
    for _ in range(2):
        one = store.outlines(["made/s0"])[0]
        flags = [column.flags.writeable for column in one.splits["main"]]
        assert flags == [False] * 3


def test_outlines_of_nothing_are_none(store):
    assert store.outlines([]) == []
    assert not (store.path / CATALOG).exists()


def test_the_same_bytes_have_the_same_fingerprint_and_others_another(store, tmp_path):
    again = Store(tmp_path / "again", create=True)
    again.write(build_recording(0), {"told": "otherwise"})
    again.write(build_recording(1, n_spikes=399), {})
    mine, theirs = store.outlines(IDS[:2]), again.outlines(IDS[:2])

    assert mine[0].fingerprint == theirs[0].fingerprint == store["made/s0"].fingerprint
    assert mine[1].fingerprint != theirs[1].fingerprint
    assert len({one.fingerprint for one in [*mine, *theirs]}) == 3
    assert build_recording(0).fingerprint == ""


def test_a_fingerprint_is_over_sorted_names_and_hashes(store):
    """By hand, so that nobody changes it in passing: checkpoints name recordings by it."""
    hashes = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((store.path / "made/s0").glob("*.arrow"))
    }

    expected = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    assert store["made/s0"].fingerprint == expected


def test_a_replaced_recording_that_was_open_is_let_go_by_outlines(store):
    before = store["made/s0"]
    Store(store.path).write(build_recording(0, n_units=2), {})

    outline = store.outlines(["made/s0"])[0]
    assert outline.n_units == store["made/s0"].n_units == 2
    assert outline.fingerprint == store["made/s0"].fingerprint != before.fingerprint
    assert before.n_units == 5  # what was opened stays as it was


# ------------------------------------------------------------------ a catalogue that lies


def damage_catalog(path: Path, how: str) -> None:
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    other = pa.BufferOutputStream()
    with pa.ipc.new_stream(other, pa.schema({"recording_id": pa.string()})) as writer:
        writer.write_batch(pa.record_batch({"recording_id": ["../../etc"]}))
    content = {
        "empty": b"",
        "short": data[:20],
        "truncated": data[:-1],
        "longer": data + b"\0",
        "text": b"not Arrow at all",
        "signed text": signed(b"not Arrow at all"),
        "signed nothing": signed(b""),
        "signed half": signed(data[: len(data) // 2]),
        "foreign": signed(other.getvalue().to_pybytes()),
        "random": rng.bytes(len(data)),
    }
    path.write_bytes(content[how])


@pytest.mark.parametrize(
    "how",
    ["empty", "short", "truncated", "longer", "text", "signed text", "signed nothing",
     "signed half", "foreign", "random"],
)  # fmt: skip
def test_a_catalogue_that_is_not_whole_is_made_anew(store, opened, how):
    expected = store.outlines(IDS)
    damage_catalog(store.path / CATALOG, how)
    opened.clear()

    for one, other in zip(expected, Store(store.path).outlines(IDS), strict=True):
        assert_same_outline(one, other)
    assert opened == IDS
    Store(store.path).outlines(IDS)
    assert opened == IDS  # it was written anew


def test_any_flipped_byte_of_the_catalogue_is_noticed(store):
    store.outlines(IDS)
    path = store.path / CATALOG
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    assert len(read_catalog(store.path)) == 3
    for at in rng.choice(len(data), 200, replace=False):
        path.write_bytes(data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :])
        assert len(read_catalog(store.path)) == 0


def test_flipped_bytes_that_are_signed_again_crash_nothing(store):
    """Nobody would, but a reader must not die of it: Arrow checks its own structure."""
    store.outlines(IDS)
    path = store.path / CATALOG
    data = path.read_bytes()[:-32]
    rng = np.random.default_rng(0)
    for at in rng.choice(len(data), 300, replace=False):
        flipped = data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :]
        path.write_bytes(signed(flipped))
        found = Store(store.path).outlines(IDS)
        assert [one.recording_id for one in found] == IDS


def test_a_catalogue_of_a_later_kind_is_not_used(store, opened, monkeypatch):
    store.outlines(IDS)
    later = catalog_module._SCHEMA.with_metadata({"spikedata.catalog": "2"})
    monkeypatch.setattr(catalog_module, "_SCHEMA", later)
    Store(store.path).outlines(IDS)
    monkeypatch.undo()
    opened_before = len(opened)

    assert opened_before == 6
    assert len(read_catalog(store.path)) == 0


def renamed(store: Store, names: list[str]) -> None:
    """Write the catalogue with other ids in its rows, signed as ours are."""
    batch = read_catalog(store.path).batch
    ids = pa.array(names, pa.string())
    catalog_module.Catalog(batch.set_column(0, batch.schema.field(0), ids)).write(store.path)


def test_rows_that_claim_other_ids_are_not_believed(store, opened):
    expected = store.outlines(IDS)
    renamed(store, ["made/s2", "made/s0", "made/s1"])
    opened.clear()

    for one, other in zip(expected, Store(store.path).outlines(IDS), strict=True):
        assert_same_outline(one, other)
    assert opened == IDS


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "made/..", "made/s0/../s1"])
def test_no_path_is_made_from_a_row(store, name):
    store.outlines(IDS)
    renamed(store, [name, "made/s1", "made/s2"])
    reader = Store(store.path)

    with pytest.raises(RecordingNotFoundError, match="is no recording id"):
        reader.outlines([name])
    assert list(reader) == IDS
    assert reader.catalog()["recording_id"].to_pylist() == IDS


def test_a_catalogue_copied_with_its_store_is_checked_row_by_row(store, opened, tmp_path):
    expected = store.outlines(IDS)
    copied = Store(shutil.copytree(store.path, tmp_path / "copy"))
    Store(copied.path).write(build_recording(1, n_units=2), {})
    opened.clear()
    found = copied.outlines(IDS)

    assert opened == IDS
    assert_same_outline(expected[0], found[0])
    assert found[1].n_units == 2


def test_a_folder_that_cannot_be_written_is_read_all_the_same(store, opened, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(catalog_module, "write_whole", refuse)

    assert len(store.outlines(IDS)) == len(store.outlines(IDS)) == 3
    assert opened == IDS  # kept in memory
    assert not (store.path / CATALOG).exists()


# ------------------------------------------------------------------ recordings that cannot be read

DAMAGE: dict[str, tuple[Callable[[dict], object], type[StoreError], str]] = {
    "newer": (lambda h: h.update(format_version=9), FormatVersionError, "store format 9 is newer"),
    "of another": (lambda h: h.update(recording_id="made/s1"), IntegrityError, "holds 'made/s1'"),
    "no counts": (lambda h: h.pop("n_spikes"), IntegrityError, r"n_spikes: .*Ingest it again"),
    "wrong counts": (lambda h: h.update(n_spikes=3), IntegrityError, "400 spikes where 3 were"),
    "wrong units": (lambda h: h.update(n_units=10**30), IntegrityError, "do not fit"),
    "no text": (lambda h: h["about"].update(task="\ud800"), IntegrityError, "cannot be written"),
    "sizes": (
        lambda h: h["files"]["units.arrow"].update(size=1), IntegrityError, r"units\.arrow has",
    ),
}  # fmt: skip


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("how", DAMAGE)
def test_outlines_refuse_what_cannot_be_opened(store, how, known):
    change, kind, message = DAMAGE[how]
    if known:
        store.outlines(IDS)
    edit_header(store, change)

    for _ in range(2):
        with pytest.raises(kind, match=message):
            Store(store.path).outlines(IDS)
    assert len(Store(store.path).outlines(IDS[1:])) == 2


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("part", ["recording.json", "units.arrow", "splits-main.arrow"])
def test_outlines_refuse_a_recording_that_lost_a_file(store, part, known):
    if known:
        store.outlines(IDS)
    (store.path / "made/s0" / part).unlink()

    with pytest.raises(StoreError, match=r"holds no recording 'made/s0'|is missing"):
        store.outlines(IDS)


def test_splits_of_unknown_names_are_refused(store):
    one = build_recording(0)
    splits = {"b": one.domain, "main": one.splits["main"]}
    store.write(replace(one, splits=splits), {})
    with pytest.raises(IntegrityError, match=r"splits-b\.arrow needs a column 'split' of train"):
        store.outlines(["made/s0"])


def test_the_listing_names_what_cannot_be_read(store):
    edit_header(store, lambda header: header.update(format_version=9))
    table = store.catalog()

    assert table["recording_id"].to_pylist() == IDS
    problem, none, other = table["problem"].to_pylist()
    assert "made/s0: store format 9 is newer" in problem
    assert (none, other) == (None, None)
    assert table["n_units"].to_pylist() == [None, 5, 3]
    assert table["splits"].to_pylist()[0] is None


def test_the_listing_says_what_there_is_in_plain_columns(store):
    about = {"subject": "M1", "session": "day 3", "problem": "none"}
    store.write(replace(build_recording(0), about=about), {})
    table = store.catalog()
    row = table.to_pylist()[0]

    assert table.schema.names == [
        "recording_id", "dataset", "session", "fingerprint", "n_spikes", "n_units", "duration",
        "targets", "series", "intervals", "splits", "subject", "about_session", "about_problem",
        "problem",
    ]  # fmt: skip
    assert (row["dataset"], row["session"], row["about_session"]) == ("made", "s0", "day 3")
    assert (row["n_spikes"], row["n_units"], row["duration"]) == (400, 5, 20.0)
    assert row["targets"] == ["velocity", "position"]
    assert row["series"] == [
        {"name": "velocity", "unit": "m/s", "width": 2, "rate": 100.0},
        {"name": "position", "unit": "m", "width": 1, "rate": None},
    ]
    assert row["splits"][3] == {"scheme": "main", "split": "test", "start": 15.5, "end": 20.0}
    assert row["fingerprint"] == store["made/s0"].fingerprint


def test_the_listing_follows_what_was_added_and_removed(store, opened):
    assert len(store.catalog()) == 3
    shutil.rmtree(store.path / "made/s1")
    store.write(build_recording(5), {})
    opened.clear()

    assert store.catalog()["recording_id"].to_pylist() == ["made/s0", "made/s2", "made/s5"]
    assert opened == ["made/s5"]
    assert len(read_catalog(store.path)) == 3
    shutil.rmtree(store.path / "made")
    assert len(store.catalog()) == 0


# ------------------------------------------------------------------ another process ingests


def marked(mark: int) -> Recording:
    """Return a recording that says `mark` in every part."""
    units, start = 1 + mark % 7, np.array([float(mark)])
    return Recording(
        "made/s0",
        np.full(50 + mark % 13, float(mark)),
        np.zeros(50 + mark % 13, np.int32),
        {"unit_id": np.array([f"{mark}-{row}" for row in range(units)])},
        IntervalSet(start, start + 1),
        {"mark": Series(np.full((20, 1), float(mark)), "", ("m",), start=0.0, rate=1.0)},
        {"trials": IntervalSet(start, start + 1)},
        {"main": IntervalSet(start, start + 1, {"split": np.array(["train"])})},
        about={"mark": str(mark)},
    )


def marks_in(one: Recording) -> set[int]:
    """Return every mark of a recording, those of tables that are decoded late too."""
    found = [*one.spike_time, *one.series["mark"].values[:, 0], one.domain.start[0]]
    found += [one.intervals["trials"].start[0], one.splits["main"].start[0], one.about["mark"]]
    found += [name.split("-")[0] for name in one.unit_ids.tolist()]
    return {int(float(mark)) for mark in found}


def write_for_ever(path: Path, stop: Event) -> None:
    for mark in itertools.count(1):
        Store(path).write(marked(mark), {})
        if stop.is_set():
            return


@FORKS
def test_reading_while_another_process_ingests_never_mixes_old_and_new(tmp_path):
    store = Store(tmp_path, create=True)
    store.write(marked(0), {})
    context = get_context("fork")
    stop = context.Event()
    writer = context.Process(target=write_for_ever, args=(tmp_path, stop))
    writer.start()
    mark_of: dict[str, int] = {}
    held: list[Recording] = []
    try:
        while len(mark_of) < 40:
            assert list(store) == ["made/s0"]  # it is exchanged in one step, never missing
            one = Store(tmp_path)["made/s0"]
            outline = store.outlines(["made/s0"])[0]
            same = store["made/s0"]
            start = outline.split("train")[0]
            assert mark_of.setdefault(outline.fingerprint, int(start[0])) == start[0]
            assert outline.n_units == 1 + start[0] % 7
            held = [*held[-5:], one, same]
            for opened in held[:: 1 if len(mark_of) % 5 == 0 else 6]:  # some wait to be decoded
                (mark,) = marks_in(opened)
                assert mark_of.setdefault(opened.fingerprint, mark) == mark
    finally:
        stop.set()
        writer.join(60)
        writer.kill()

    assert writer.exitcode == 0
    assert len(set(mark_of.values())) == len(mark_of)


@FORKS
def test_processes_that_write_the_catalogue_at_once_do_no_harm(store):
    context = get_context("fork")
    processes = [
        context.Process(target=lambda: [Store(store.path).outlines(IDS) for _ in range(20)])
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for _ in range(20):
        (store.path / CATALOG).unlink(missing_ok=True)
        assert [one.recording_id for one in Store(store.path).outlines(IDS)] == IDS
    for process in processes:
        process.join(60)

    assert [process.exitcode for process in processes] == [0] * 3
    assert [path.name for path in store.path.glob(".catalog*")] == []


def test_huge_pages_are_left_when_the_store_outgrows_half_of_the_memory(store, monkeypatch):
    asked = []

    def noted(folder: str, header: object, *, huge_pages: bool) -> Recording:
        asked.append(huge_pages)
        return build_recording()

    monkeypatch.setattr(store_module, "map_recording", noted)
    size = sum(entry.size for entry in store.header("made/s0").files.values())
    monkeypatch.setattr(store_module, "physical_memory", lambda: 3 * size)
    for name in IDS:
        store[name]
    Store(store.path, huge_pages=False)["made/s0"]

    assert asked == [True, False, False, False]
