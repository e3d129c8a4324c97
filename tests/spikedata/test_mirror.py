from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from spikedata import carry, far, mirror
from spikedata.cli import app
from spikedata.cli_mirror import parse_bytes
from spikedata.errors import RecordingNotFoundError, StoreError
from spikedata.far import FarEnd, redacted
from spikedata.layout import HEADER, NAME
from spikedata.mirror import MirrorResult, pull, push
from spikedata.recording import Recording
from spikedata.store import Store
from tests.conftest import assert_same_recording, build_recording

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
URL = "faulty://bucket/spikes"
OLD = build_recording(0, n_spikes=5, lacks=("velocity",))
NEW = build_recording(0)


class Faulty(AbstractFileSystem):
    """An object store in memory that misbehaves when told to."""

    protocol = "faulty"
    cachable = False
    files: ClassVar[dict[str, bytes]] = {}
    reads: ClassVar[list[str]] = []
    listed: ClassVar[list[str]] = []  # names that a listing of the root has beside the true ones
    before: ClassVar[Callable[[str, str], None]]  # called before each open, write, rm
    content: ClassVar[Callable[[str, bytes], bytes]]  # what a read gives instead

    @classmethod
    def reset(cls) -> None:
        cls.files, cls.reads, cls.listed = {}, [], []
        cls.before = staticmethod(lambda what, path: None)
        cls.content = staticmethod(lambda path, data: data)

    def ls(self, path: str, detail: bool = True, **options: object) -> list[dict]:
        path = self._strip_protocol(path).rstrip("/") + "/"
        inner = {one[len(path) :].partition("/") for one in self.files if one.startswith(path)}
        names = {(head, "directory" if mark else "file") for head, mark, _ in inner}
        if path == "bucket/spikes/":
            names |= {(name, "directory") for name in self.listed}
        if not names:
            raise FileNotFoundError(path)
        return [{"name": path + name, "size": 0, "type": kind} for name, kind in sorted(names)]

    def info(self, path: str, **options: object) -> dict:
        path = self._strip_protocol(path)
        return {"name": path, "size": len(self.files[path]), "type": "file"}

    def rm_file(self, path: str) -> None:
        type(self).before("rm", path)
        if self.files.pop(self._strip_protocol(path), None) is None:
            raise FileNotFoundError(path)

    def _open(self, path: str, mode: str = "rb", **options: object) -> BytesIO:  # type: ignore
        type(self).before(mode, path)
        if mode == "wb":
            return _Upload(self, path)
        self.reads.append(path)
        if path not in self.files:
            raise FileNotFoundError(path)
        return BytesIO(type(self).content(path, self.files[path]))


class _Upload(BytesIO):
    """Becomes an object when it is closed, however much was written."""

    def __init__(self, files: Faulty, path: str) -> None:
        super().__init__()
        self._files, self._path = files, path

    def close(self) -> None:
        if not self.closed:
            self._files.files[self._path] = self.getvalue()
        super().close()


@pytest.fixture(name="_faulty", autouse=True)
def _ready(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    Faulty.reset()
    fsspec.filesystem("memory").store.clear()
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no test here cuts the power


def statuses(results: list[MirrorResult]) -> dict[str, str]:
    return {one.recording_id: one.status for one in results}


def contents(store: Store | Path, recording_id: str = "made/s0") -> dict[str, bytes]:
    folder = (store.path if isinstance(store, Store) else store) / recording_id
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_store(expected: Store, actual: Store) -> None:
    assert list(expected) == list(actual)
    for name in expected:
        assert contents(expected, name) == contents(actual, name)
        assert_same_recording(expected[name], actual[name])
        assert expected[name].fingerprint == actual[name].fingerprint != ""
        actual.verify(name)


def nothing_unfinished(path: Path) -> bool:
    return not [*path.rglob(".writing-*"), *path.rglob(".old-*")]


def put(store: Store, root: str = "bucket/spikes") -> None:
    """Place a store at the faulty far end as it is."""
    for path in store.path.rglob("*"):
        if path.is_file():
            Faulty.files[f"{root}/{path.relative_to(store.path).as_posix()}"] = path.read_bytes()


def edit_header(change: Callable[[dict], object], recording_id: str = "made/s0") -> None:
    path = f"bucket/spikes/{recording_id}/{HEADER}"
    header = json.loads(Faulty.files[path])
    change(header)
    Faulty.files[path] = json.dumps(header).encode()


def only(*seeds: int) -> list[str]:
    return [f"made/s{seed}" for seed in seeds]


# ------------------------------------------------------------------ there and back


def far_ends(tmp_path: Path) -> dict[str, str]:
    return {"memory": "memory://bucket/spikes", "faulty": URL, "folder": str(tmp_path / "far"),
            "file": f"file://{tmp_path}/far"}  # fmt: skip


@pytest.mark.parametrize("kind", ["memory", "faulty", "folder", "file"])
def test_what_is_pushed_and_pulled_is_the_same_byte_for_byte(store, tmp_path, kind):
    url = far_ends(tmp_path)[kind]

    assert set(statuses(push(store.path, url)).values()) == {"done"}
    assert statuses(pull(tmp_path / "other", url)) == dict.fromkeys(store, "done")
    assert_same_store(store, Store(tmp_path / "other"))


def test_a_folder_that_was_pushed_to_is_a_store(store, tmp_path):
    push(store.path, str(tmp_path / "far"))

    assert_same_store(store, Store(tmp_path / "far"))


def test_what_is_there_is_not_sent_again(store, tmp_path):
    push(store.path, URL)
    pull(tmp_path / "other", URL)
    Faulty.reads.clear()

    assert set(statuses(pull(tmp_path / "other", URL)).values()) == {"skipped"}
    assert set(statuses(push(store.path, URL)).values()) == {"skipped"}
    assert {path.rpartition("/")[2] for path in Faulty.reads} == {HEADER}


def test_what_there_is_goes_by_its_hashes_not_by_its_name(store, tmp_path):
    push(store.path, URL)
    pull(tmp_path / "other", URL)
    store.write(build_recording(0, n_spikes=7), {})

    assert statuses(push(store.path, URL))["made/s0"] == "done"
    assert statuses(pull(tmp_path / "other", URL)) == {
        "made/s0": "done", "made/s1": "skipped", "made/s2": "skipped",
    }  # fmt: skip
    assert_same_store(store, Store(tmp_path / "other"))


def test_a_header_that_says_something_else_of_the_same_files_is_pulled(store, tmp_path):
    push(store.path, URL)
    pull(tmp_path / "other", URL)
    edit_header(lambda header: header["about"].update(subject="M2"))

    assert statuses(pull(tmp_path / "other", URL))["made/s0"] == "done"
    assert Store(tmp_path / "other")["made/s0"].about == {"subject": "M2"}


def test_a_damaged_recording_here_is_replaced_by_a_pull(store, tmp_path):
    push(store.path, URL)
    pull(tmp_path / "other", URL)
    (tmp_path / "other/made/s1/spikes.arrow").write_bytes(b"short")

    assert statuses(pull(tmp_path / "other", URL))["made/s1"] == "done"
    assert_same_store(store, Store(tmp_path / "other"))


def test_files_of_the_old_version_are_removed_and_those_of_others_stay(tmp_path):
    store = Store(tmp_path / "near", create=True)
    store.write(NEW, {})
    push(store.path, URL)
    Faulty.files["bucket/spikes/made/s0/notes.txt"] = b"mine"
    store.write(OLD, {})
    push(store.path, URL)
    there = {path.rpartition("/")[2] for path in Faulty.files}

    assert there == set(contents(store)) | {"notes.txt"}


def test_recordings_and_datasets_can_be_named(store, tmp_path):
    store.write(build_recording(5, recording_id="other/t0"), {})
    put(store)
    Faulty.files["bucket/spikes/catalog.arrow"] = b"no folder"

    assert statuses(pull(tmp_path / "a", URL, ["made/s1"])) == {"made/s1": "done"}
    assert list(statuses(pull(tmp_path / "b", URL, ["other", "made/s0"]))) == [
        "made/s0", "other/t0",
    ]  # fmt: skip
    assert list(statuses(push(store.path, "memory://x", ["other"]))) == ["other/t0"]


def test_names_that_are_not_there_are_refused_with_help(store, tmp_path):
    put(store)

    with pytest.raises(RecordingNotFoundError, match="did you mean 'made'"):
        pull(tmp_path / "a", URL, ["maed"])
    with pytest.raises(RecordingNotFoundError, match="did you mean 'made/s2'"):
        push(store.path, "memory://x", ["made/s22"])
    [result] = pull(tmp_path / "a", URL, ["made/s9"])
    assert (result.status, result.message) == (
        "failed", f"{URL} holds no recording 'made/s9'.",
    )  # fmt: skip


def test_a_far_end_without_recordings_or_none_at_all(tmp_path):
    Store(tmp_path / "empty", create=True)

    assert pull(tmp_path / "a", str(tmp_path / "empty")) == []
    with pytest.raises(StoreError, match="is not there, or cannot be listed"):
        pull(tmp_path / "a", str(tmp_path / "absent"))


def test_a_dry_run_changes_nothing(store, tmp_path):
    put(store)
    before = dict(Faulty.files)

    planned = pull(tmp_path / "other", URL, dry_run=True)
    assert set(statuses(planned).values()) == {"planned"}
    assert sum(one.size for one in planned) == sum(map(len, before.values()))
    assert not (tmp_path / "other").exists()
    assert statuses(push(store.path, "memory://y", dry_run=True)) == dict.fromkeys(store, "planned")
    assert fsspec.filesystem("memory").store == {}
    assert Faulty.files == before


def test_progress_is_told_in_bytes_and_ends_at_the_whole(store, tmp_path):
    told: list[tuple[str, int, int]] = []

    push(store.path, URL, progress=lambda *one: told.append(one))
    size = sum(map(len, Faulty.files.values()))

    assert told[-1] == ("push", size, size)
    told.clear()
    pull(tmp_path / "other", URL, progress=lambda *one: told.append(one))
    assert told[-1] == ("pull", size, size)


# ------------------------------------------------------------------ a web server


class _Web(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []
    lists = True

    def send_head(self) -> Any:
        self.asked.append(self.path)
        return super().send_head()

    def list_directory(self, path: Any) -> Any:
        if self.lists:
            return super().list_directory(path)
        self.send_error(404)
        return None

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(name="web")
def _web(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(_Web, "asked", [])
    handler = partial(_Web, directory=str(store.path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_web_server_that_lists_its_folders_is_pulled_from(store, web, tmp_path):
    (store.path / "catalog").write_bytes(b"no folder")
    (store.path / "made/README").write_bytes(b"nor this")
    (store.path / "made/unfinished").mkdir()

    assert statuses(pull(tmp_path / "other", web)) == dict.fromkeys(store, "done")
    assert_same_store(store, Store(tmp_path / "other"))


def test_a_web_server_that_lists_nothing_is_asked_for_names(store, web, tmp_path, monkeypatch):
    monkeypatch.setattr(_Web, "lists", False)

    with pytest.raises(StoreError, match="name each recording as <dataset>/<session>"):
        pull(tmp_path / "other", web)
    assert statuses(pull(tmp_path / "other", web, only(0, 2))) == dict.fromkeys(only(0, 2), "done")


def test_of_a_server_that_gives_ranges_every_byte_is_asked_for_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(far, "CHUNK", 1000)
    store = Store(tmp_path / "near", create=True)
    store.write(build_recording(0, n_spikes=2000), {})
    for name, data in contents(store).items():
        server.files[f"/data/made/s0/{name}"] = data

    assert statuses(pull(tmp_path / "other", f"{server.url('files')}/data", only(0))) == {
        "made/s0": "done"
    }
    ranges = [one.range for one in server.log if one.path.endswith("spikes.arrow") and one.range]
    bounds = [tuple(map(int, one.removeprefix("bytes=").split("-"))) for one in ranges]
    assert len(bounds) > 5
    assert sum(end - begin + 1 for begin, end in bounds) == len(contents(store)["spikes.arrow"])
    assert_same_store(store, Store(tmp_path / "other"))


def test_a_token_is_sent_with_every_request_and_never_shown(web, tmp_path):
    results = pull(tmp_path / "other", f"{web}/?sig=S3CRET", ["made/s0", "made/s9"])

    assert statuses(results) == {"made/s0": "done", "made/s9": "failed"}
    assert all(path.endswith("?sig=S3CRET") for path in _Web.asked)
    assert "S3CRET" not in str(results)


def test_a_web_server_cannot_be_pushed_to(store, web):
    [result] = push(store.path, f"{web}/elsewhere", ["made/s0"])

    assert (result.status, result.message) == (
        "failed", f"made/s0: {web}/elsewhere can only be read.",
    )  # fmt: skip


# ------------------------------------------------------------------ faults


def flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-1],
    "empty": lambda data: b"",
    "flipped": flipped,
    "longer": lambda data: data + b"\0",
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("replacing", [False, True])
def test_a_damaged_file_is_refused_and_nothing_of_it_is_kept(store, tmp_path, how, replacing):
    put(store)
    names = [name for name in contents(store) if name != HEADER]
    for name in names:
        other = Store(tmp_path / f"other-{name}", create=True)
        if replacing:
            other.write(OLD, {})
        before = contents(other) if replacing else None
        wrong = f"bucket/spikes/made/s0/{name}"
        Faulty.content = staticmethod(
            lambda path, data, wrong=wrong: DAMAGES[how](data) if path == wrong else data
        )
        results = pull(other.path, URL)

        assert statuses(results) == {"made/s0": "failed", "made/s1": "done", "made/s2": "done"}
        assert name in results[0].message
        assert (contents(other) if "made/s0" in other else None) == before
        assert nothing_unfinished(other.path)
    assert len(names) >= 6


@pytest.mark.parametrize(
    "error", [OSError, TimeoutError, RuntimeError, PermissionError, ValueError]
)
def test_a_failure_at_any_read_fails_that_recording_alone(store, tmp_path, error):
    put(store)

    def fail(what: str, path: str) -> None:
        if "made/s1" in path:
            raise error("it broke")

    Faulty.before = staticmethod(fail)
    results = pull(tmp_path / "other", URL)

    assert statuses(results) == {"made/s0": "done", "made/s1": "failed", "made/s2": "done"}
    assert "it broke" in results[1].message
    assert nothing_unfinished(tmp_path)


def test_a_failure_that_passes_is_followed_by_another_try(store, tmp_path):
    put(store)
    for last in range(1, 9):
        count = iter(range(100))

        def fail(what: str, path: str, count: Iterator[int] = count, last: int = last) -> None:
            if next(count) == last:
                raise OSError("it broke")

        Faulty.before = staticmethod(fail)
        results = pull(tmp_path / str(last), URL, ["made/s0"])

        assert statuses(results) == {"made/s0": "done"}, last


def versions(tmp_path: Path, *recordings: Recording) -> list[dict[str, bytes]]:
    """Return what the far end holds of each version of a recording."""
    found = []
    for recording in recordings:
        near = Store(tmp_path / "near", create=True)
        near.write(recording, {})
        Faulty.reset()
        put(near)
        found.append(dict(Faulty.files))
    return found


def test_a_recording_replaced_by_a_larger_one_waits_for_the_next_pull(tmp_path):
    """The limit and the disk were asked for the size that was stated first."""
    old, new = versions(tmp_path, OLD, NEW)
    Faulty.files = dict(old)

    def swap(what: str, path: str) -> None:
        if path.endswith("spikes.arrow"):
            Faulty.files = dict(new)

    Faulty.before = staticmethod(swap)
    [result] = pull(tmp_path / "other", URL)

    assert "replaced by a larger one" in result.message
    assert statuses(pull(tmp_path / "other", URL)) == {"made/s0": "done"}


def test_a_recording_replaced_while_it_is_pulled_is_pulled_anew(tmp_path):
    """At every read in turn the far end becomes the new version, all at once."""
    old, new = versions(tmp_path, build_recording(0, n_spikes=99), OLD)
    for last in range(1, len(old)):
        Faulty.files = dict(old)
        count = iter(range(100))

        def swap(what: str, path: str, count: Iterator[int] = count, last: int = last) -> None:
            if next(count) == last:
                Faulty.files = dict(new)

        Faulty.before = staticmethod(swap)
        other = Store(tmp_path / str(last), create=True)

        assert statuses(pull(other.path, URL)) == {"made/s0": "done"}
        found = {f"bucket/spikes/made/s0/{name}": data for name, data in contents(other).items()}
        assert found in (old, new)


def test_a_recording_whose_header_goes_meanwhile_says_so(store, tmp_path):
    put(store)

    def remove(what: str, path: str) -> None:
        if path.endswith("made/s0/spikes.arrow"):
            Faulty.files.pop(f"bucket/spikes/made/s0/{HEADER}", None)
            Faulty.files[path] = b"new"

    Faulty.before = staticmethod(remove)
    results = pull(tmp_path / "other", URL)

    assert statuses(results)["made/s0"] == "failed"
    assert "being replaced" in results[0].message
    assert list(Store(tmp_path / "other")) == only(1, 2)


def test_a_local_disk_that_refuses_fails_the_recording_at_once(store, tmp_path, monkeypatch):
    put(store)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(carry, "write_whole", full)
    results = pull(tmp_path / "other", URL)

    assert set(statuses(results).values()) == {"failed"}
    assert all(re.match(r"made/s\d: .*No space left", one.message) for one in results)
    assert nothing_unfinished(tmp_path)


# ------------------------------------------------------------------ what a far end may claim


HOSTILE = ["..", ".", "../../x", "/etc", ".hidden", "a b", "a\nb", "s0/../../x", "-x", "", "ä", "~"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_in_a_listing_are_no_recordings(store, tmp_path, name):
    put(store)
    Faulty.listed = [name]
    Faulty.files[f"bucket/spikes/{name}/s0/{HEADER}"] = b"{}"
    Faulty.files[f"bucket/spikes/made/{name}/{HEADER}"] = b"{}"

    assert list(statuses(pull(tmp_path / "other/store", URL))) == list(store)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["store"]


@given(st.lists(st.text(max_size=8), max_size=6))
def test_whatever_is_listed_only_names_of_a_store_are_taken(names):
    Faulty.reset()
    Faulty.files = {f"bucket/spikes/made/{name}/{HEADER}": b"" for name in [*names, "s0"]}

    found = FarEnd(URL).ids()
    assert "made/s0" in found
    assert all(re.fullmatch(f"{NAME}/{NAME}", one) for one in found)
    assert {f"made/{name}" for name in names if re.fullmatch(NAME, name)} <= set(found)


@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "a/b", "..", "", "a\0b", HEADER, "Recording.JSON"]
)
def test_hostile_names_in_a_header_refuse_the_recording(store, tmp_path, name):
    put(store)
    entry = {"size": 1, "sha256": "0" * 64}
    edit_header(lambda header: header["files"].update({name: entry}))
    results = pull(tmp_path / "a/b/other", URL)

    assert statuses(results) == {"made/s0": "failed", "made/s1": "done", "made/s2": "done"}
    assert {path.name for path in tmp_path.iterdir()} == {"store", "a"}
    assert list(Store(tmp_path / "a/b/other")) == only(1, 2)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cannot be read"),
        (b"[]", "valid"),
        (b"[" * 100_000, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"format_version": 99}', "newer than this spikedata reads"),
        (b'{"format_version": 1}', "Field required"),
    ],
)
def test_a_header_that_is_none_refuses_the_recording(store, tmp_path, content, problem):
    put(store)
    Faulty.files[f"bucket/spikes/made/s0/{HEADER}"] = content
    results = pull(tmp_path / "other", URL)

    assert statuses(results) == {"made/s0": "failed", "made/s1": "done", "made/s2": "done"}
    assert problem in results[0].message


@pytest.mark.parametrize("name", ["recording.json", "spikes.arrow"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(store, tmp_path, name):
    path = store.path / "made/s0" / name
    path.unlink()
    os.mkfifo(path)

    (result,) = pull(tmp_path / "near", str(store.path), ["made/s0"])
    assert result.status == "failed"
    assert result.message.startswith(("There is no file", f"{store.path} holds no recording"))


def test_a_header_of_another_recording_is_refused(store, tmp_path):
    put(store)
    edit_header(lambda header: header.update(recording_id="made/s7"))

    assert "made/s7" in pull(tmp_path / "other", URL, only(0))[0].message


@pytest.mark.parametrize("size", [10 * 10**18, 2**70, -1])
def test_a_size_that_no_disk_has_is_refused_before_anything_is_read(store, tmp_path, size):
    put(store)
    edit_header(lambda header: header["files"]["spikes.arrow"].update(size=size))
    results = pull(tmp_path / "other", URL)

    assert statuses(results) == {"made/s0": "failed", "made/s1": "done", "made/s2": "done"}
    assert "bucket/spikes/made/s0/spikes.arrow" not in Faulty.reads


class _Endless(BytesIO):
    given = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise MemoryError("all of it was asked for")
        type(self).given += size
        return b" " * size


@pytest.mark.parametrize("name", [HEADER, "spikes.arrow"])
def test_a_file_without_end_is_left_soon(store, tmp_path, monkeypatch, name):
    put(store)
    usual = Faulty._open

    def endless(self: Faulty, path: str, mode: str = "rb", **options: object) -> BytesIO:
        return _Endless() if path.endswith(f"s0/{name}") else usual(self, path, mode, **options)

    monkeypatch.setattr(_Endless, "given", 0)
    monkeypatch.setattr(Faulty, "_open", endless)
    results = pull(tmp_path / "other", URL)

    assert statuses(results) == {"made/s0": "failed", "made/s1": "done", "made/s2": "done"}
    assert "has more than" in results[0].message
    assert 0 < _Endless.given <= carry.TRIES * (carry.MOST_HEADER + 2 * far.CHUNK)
    assert nothing_unfinished(tmp_path)


# ------------------------------------------------------------------ push


@pytest.mark.parametrize("replacing", [False, True])
def test_a_push_that_dies_at_any_step_leaves_the_old_the_new_or_none(tmp_path, replacing):
    """From the n-th call on nothing works, as when the machine is gone; for every n."""
    old, new = (Store(tmp_path / name, create=True) for name in ("old", "new"))
    old.write(OLD, {})
    new.write(NEW, {})
    seen = set()
    for last in range(100):
        Faulty.reset()
        if replacing:
            put(old)
        count = iter(range(1000))

        def die(what: str, path: str, count: Iterator[int] = count, last: int = last) -> None:
            if next(count) >= last:
                raise OSError("gone")

        Faulty.before = staticmethod(die)
        [pushed] = push(new.path, URL)
        Faulty.before = staticmethod(lambda what, path: None)
        results = pull(tmp_path / str(last), URL, ["made/s0"])
        found = contents(tmp_path / str(last)) if results[0].status == "done" else None
        state = {None: "none", str(contents(old)): "old", str(contents(new)): "new"}
        seen.add(state[None if found is None else str(found)])
        assert (pushed.status == "done") <= (found == contents(new))
        assert nothing_unfinished(tmp_path)
        if pushed.status == "done":
            break
        assert statuses(push(new.path, URL)) == {"made/s0": "done"}  # and it goes on
        assert statuses(pull(tmp_path / f"{last}-b", URL)) == {"made/s0": "done"}
        assert contents(tmp_path / f"{last}-b") == contents(new)
    assert 8 < last < 99
    assert seen == {"old", "none", "new"} if replacing else {"none", "new"}


def test_a_push_whose_bytes_get_lost_is_no_recording(store, monkeypatch):
    def short(self: _Upload) -> None:
        self._files.files[self._path] = self.getvalue()[:-1]

    monkeypatch.setattr(_Upload, "close", short)
    results = push(store.path, URL, only(0))

    assert "bytes after" in results[0].message
    assert f"bucket/spikes/made/s0/{HEADER}" not in Faulty.files


def test_a_bucket_that_is_not_there_is_not_made(store):
    def absent(what: str, path: str) -> None:
        if what == "wb":
            raise FileNotFoundError(path)

    Faulty.before = staticmethod(absent)
    [result] = push(store.path, URL, only(0))

    assert result.message.startswith(f"made/s0: {URL} cannot be written to, for it is not there")


def test_folders_are_made_where_they_must_be(store, tmp_path, monkeypatch):
    made: list[str] = []

    def absent(what: str, path: str) -> None:
        if what == "wb" and path.rpartition("/")[0] not in made:
            raise FileNotFoundError(path)

    monkeypatch.setattr(Faulty, "mkdir", lambda self, path, **options: made.append(path))
    Faulty.before = staticmethod(absent)

    assert statuses(push(store.path, URL, only(0, 1), jobs=1)) == dict.fromkeys(only(0, 1), "done")
    made = [path.removeprefix("bucket/spikes/") for path in made]
    assert made == ["made", "made/s0", "made", "made/s1"]


def test_a_damaged_recording_is_not_pushed_and_the_one_there_stays(store):
    push(store.path, URL)
    before = dict(Faulty.files)
    store.write(build_recording(0, n_spikes=9), {})
    path = store.path / "made/s0/spikes.arrow"
    path.write_bytes(flipped(path.read_bytes()))
    results = push(store.path, URL)

    assert statuses(results) == {"made/s0": "failed", "made/s1": "skipped", "made/s2": "skipped"}
    assert Faulty.files == before


def test_a_recording_that_is_ingested_anew_while_it_is_pushed_is_not_published(store):
    def replace(what: str, path: str) -> None:
        if what == "wb" and path.endswith("units.arrow"):
            store.write(build_recording(0, n_units=3), {})

    Faulty.before = staticmethod(replace)
    results = push(store.path, URL, only(0))

    assert statuses(results) == {"made/s0": "failed"}
    assert f"bucket/spikes/made/s0/{HEADER}" not in Faulty.files


def test_a_newer_recording_is_replaced_neither_here_nor_there(store, tmp_path):
    put(store)
    edit_header(lambda header: header.update(format_version=99))
    before = dict(Faulty.files)
    [pushed] = push(store.path, URL, only(0))

    assert "newer than this spikedata reads" in pushed.message
    assert Faulty.files == before
    other = Store(shutil.copytree(store.path, tmp_path / "other"))
    header = other.path / "made/s0" / HEADER
    header.write_text(header.read_text().replace('"format_version": 1', '"format_version": 99'))
    Faulty.reset()
    put(store)
    [pulled] = pull(other.path, URL, only(0))
    assert "newer than this spikedata reads" in pulled.message


# ------------------------------------------------------------------ kills and others


def in_a_fork(work: Callable[[], object]) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=work)  # type: ignore
    process.start()
    return process  # type: ignore


@FORKS
@pytest.mark.parametrize("replacing", [False, True])
def test_a_pull_killed_at_any_step_leaves_no_half_and_goes_on(tmp_path, monkeypatch, replacing):
    source = Store(tmp_path / "source", create=True)
    source.write(NEW, {})
    expected = contents(source)

    def pull_until(last: int, path: Path) -> None:
        calls = iter(range(last))

        def counted(original: Callable) -> Callable:
            def call(*arguments: object, **options: object) -> object:
                if next(calls, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **options)

            return call

        for name in ("mkdir", "replace", "fsync", "rmdir", "unlink"):
            monkeypatch.setattr(os, name, counted(getattr(os, name)))
        pull(path, str(source.path))

    for last in range(100):
        path = tmp_path / str(last)
        if replacing:
            Store(path, create=True).write(OLD, {})
        process = in_a_fork(lambda last=last, path=path: pull_until(last, path))
        process.join(60)
        if path.is_dir() and list(Store(path)):
            Store(path).verify("made/s0")
            assert_same_recording(
                NEW if contents(path) == expected else OLD, Store(path)["made/s0"]
            )
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        assert statuses(pull(path, str(source.path)))["made/s0"] in ("done", "skipped")
        assert contents(path) == expected
    assert 8 < last < 99


def test_pulls_at_once_into_one_store(store, tmp_path):
    put(store)
    found: list[list[MirrorResult]] = []
    threads = [
        threading.Thread(target=lambda: found.append(pull(tmp_path / "other", URL)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [set(statuses(one).values()) <= {"done", "skipped"} for one in found] == [True] * 4
    assert_same_store(store, Store(tmp_path / "other"))
    assert nothing_unfinished(tmp_path)


def test_an_interrupt_leaves_nothing_unfinished(store, tmp_path):
    put(store)

    def interrupt(label: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(tmp_path / "other", URL, progress=interrupt)

    assert nothing_unfinished(tmp_path)
    assert set(statuses(pull(tmp_path / "other", URL)).values()) <= {"done", "skipped"}


def test_jobs_must_be_positive(store, tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        push(store.path, URL, jobs=0)


# ------------------------------------------------------------------ limits


def test_a_limit_is_never_exceeded_and_gives_the_same_when_run_again(store, tmp_path):
    put(store)
    sizes = [one.size for one in pull(tmp_path / "x", URL, dry_run=True)]
    for limit in (0, sizes[0] - 1, sizes[0], sum(sizes[:2]), sum(sizes) - 1, sum(sizes)):
        path = tmp_path / str(limit)
        fit = sum(sum(sizes[: at + 1]) <= limit for at in range(3))
        first = pull(path, URL, max_bytes=limit)
        again = pull(path, URL, max_bytes=limit)

        assert list(statuses(first).values()) == ["done"] * fit + ["left"] * (3 - fit)
        assert list(statuses(again).values()) == ["skipped"] * fit + ["left"] * (3 - fit)
        used = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
        assert used == sum(sizes[:fit]) <= limit
    assert pull(path, URL, max_bytes=0)[0].status == "skipped"


def test_more_than_the_disk_has_is_refused_before_it_is_brought(store, tmp_path, monkeypatch):
    put(store)
    sizes = [one.size for one in pull(tmp_path / "x", URL, dry_run=True)]
    free = shutil.disk_usage(tmp_path)._replace(free=sizes[0] + sizes[2])
    monkeypatch.setattr(mirror.shutil, "disk_usage", lambda path: free)
    results = pull(tmp_path / "other", URL)

    assert list(statuses(results).values()) == ["done", "failed", "done"]
    assert "of the disk" in results[1].message


# ------------------------------------------------------------------ secrets and what is missing


SECRETS = st.text("abcXYZ019%+=.", min_size=5, max_size=12)


@given(SECRETS, SECRETS, SECRETS)
def test_no_message_shows_a_password_or_a_token(user, password, token):
    url = f"faulty://{user}:{password}@host/a?sig={token}"
    text = redacted(f"GET {url}: refused, try '{url}'.")

    assert [text.count(one) for one in ("***@host/a?***", f":{password}@", f"sig={token}")] == [
        2, 0, 0,
    ]  # fmt: skip


def test_errors_of_a_library_are_shown_without_secrets(store, tmp_path):
    put(store)

    def tell(what: str, path: str) -> None:
        raise RuntimeError("403 for https://k:PASSWORD1@host/x?X-Sig=TOKEN1 with SECRET1")

    Faulty.before = staticmethod(tell)
    results = pull(tmp_path / "other", URL, options={"secret": "SECRET1"})

    assert {one.status for one in results} == {"failed"}
    assert "403" in str(results)
    assert re.search("PASSWORD1|TOKEN1|SECRET1", str(results)) is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense://bucket", "Protocol not known: nonsense"),
        ("oci://bucket", "cannot be reached"),
    ],
)
def test_an_address_that_cannot_be_reached_is_one_sentence(tmp_path, url, problem):
    with pytest.raises(StoreError, match=problem) as caught:
        pull(tmp_path / "other", url)
    assert str(caught.value).count("\n") == 0


def test_without_fsspec_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)

    with pytest.raises(StoreError, match=r"neural-spikedata\[remote\]"):
        pull(tmp_path / "other", "s3://bucket")


# ------------------------------------------------------------------ the commands


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_commands_print_a_row_a_recording_and_end_with_1_after_a_failure(store, tmp_path):
    pushed = run("push", tmp_path / "far", "--store", store.path, "--json")
    (tmp_path / "far/made/s1/spikes.arrow").unlink()
    pulled = run("pull", tmp_path / "far", "--store", tmp_path / "other", "--json")
    again = run("pull", tmp_path / "far", "made/s0", "--store", tmp_path / "other")

    assert [row["status"] for row in json.loads(pushed.stdout)] == ["done"] * 3
    assert [row["status"] for row in json.loads(pulled.stdout)] == ["done", "failed", "done"]
    assert (pushed.exit_code, pulled.exit_code, again.exit_code) == (0, 1, 0)
    assert "skipped" in again.stdout


def test_what_a_limit_leaves_is_said(store, tmp_path):
    options = ("--store", tmp_path / "other", "--max-bytes", "1KB")
    result = run("pull", store.path, *options, "--dry-run")

    assert result.exit_code == 0
    assert "--max-bytes left 3 recordings" in result.stderr
    assert "the first is made/s0" in result.stderr


def test_misuse_ends_with_2(store, tmp_path):
    bad_size = run("pull", store.path, "--store", tmp_path / "x", "--max-bytes", "many")
    bad_option = run("pull", store.path, "--store", tmp_path / "x", "--option", "anon")
    bad_name = run("push", tmp_path / "far", "maed", "--store", store.path)

    assert (bad_size.exit_code, bad_option.exit_code, bad_name.exit_code) == (2, 2, 2)


def test_the_title_shows_no_password(store, tmp_path):
    result = run("push", "faulty://me:PASSWORD1@bucket/x", "--store", store.path)

    assert "***@bucket/x" in result.stdout
    assert "PASSWORD1" not in result.stdout + result.stderr


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1 PB", "1e9", "1,5GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="expected a size"):
        parse_bytes(text)
