from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikedata import remote
from spikedata.connections import Connections
from spikedata.errors import FetchError, HashMismatchError, UnreachableError
from spikedata.fetch import fetch
from spikedata.ingest import IngestResult, ingest
from spikedata.manifest import DandiSource, FileSource, HttpsSource, Manifest, ZenodoSource
from spikedata.origins import HttpOrigin
from spikedata.remote import RemoteFile
from spikedata.store import Store
from spikedata.testing import write_nwb
from spikedata.transfer import Retry
from tests.loopback import QUICK, Loopback, manifest_of, only, pin

DATA = np.random.default_rng(7).bytes(200_000)
SMALL = {"BLOCK": 1000, "DIRECT": 8000, "MOST_BLOCKS": 16, "MOST_AHEAD": 4}
HARMONIZE = {
    "series": [{"name": "speed", "source": ["processing/behavior/speed"]}],
    "targets": ["speed"],
}
PATH, DANDISET, VERSION = "sub-1/a.nwb", "000123", "0.250101.0000"


@pytest.fixture(autouse=True)
def _no_garbage() -> Iterator[None]:
    """Collect garbage of h5py only now.

    It is freed under the lock that h5py holds while a read waits for the server, and the server
    is a thread of this process: the two would wait for each other.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(name="small_blocks")
def _small_blocks(monkeypatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(remote, name, value)


@contextmanager
def opened(server: Loopback, data: bytes = DATA, **options) -> Iterator[RemoteFile]:
    """Serve bytes on the plain server, and open them there."""
    server.files["/data/x"] = data
    connections = Connections(credentials=True)
    options = {"retry": QUICK, "name": "x", **options}
    url = server.url("files") + "/data/x"
    try:
        with RemoteFile(url, len(data), connections=connections, **options) as file:
            yield file
    finally:
        connections.close()


@contextmanager
def opened_badly(
    server: Loopback, kind: type[Exception], message: str, **options
) -> Iterator[RemoteFile]:
    """Open the bytes, and assert that an error comes of it in the end."""
    with pytest.raises(kind, match=message), opened(server, **options) as file:
        yield file


# ------------------------------------------------------------------ a file like any other

READS = st.lists(
    st.tuples(st.integers(0, len(DATA) + 10), st.integers(0, 1) | st.integers(0, 30_000)),
    min_size=1, max_size=12,
)  # fmt: skip
FAULTS = st.lists(
    st.one_of(
        st.builds(dict, cut=st.integers(0, 9000)),
        st.builds(dict, reset=st.integers(0, 9000)),
        st.builds(dict, hang=st.tuples(st.integers(0, 500), st.just(0.002))),
        st.builds(dict, drip=st.tuples(st.integers(300, 5000), st.just(0.0005))),
        st.builds(dict, status=st.sampled_from([429, 500, 503])),
        st.builds(dict, no_length=st.just(True), cut=st.integers(0, 9000)),
        st.just({"content_range": "bytes 3-4/5x"}),
        st.just({}),
    ),
    max_size=3,
)


@given(reads=READS, faults=FAULTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_read_gives_the_bytes_of_the_file_whatever_the_server_does(
    server, small_blocks, reads, faults
):
    with opened(server) as file:
        for index, (offset, length) in enumerate(reads):
            if index < len(faults):
                server.inject("files", **faults[index])
            file.seek(offset)

            assert file.read(length) == DATA[offset : offset + length]
            assert file.tell() == offset + len(DATA[offset : offset + length])
            assert sum(map(len, file._blocks.values())) <= SMALL["MOST_BLOCKS"] * SMALL["BLOCK"]
    server.faults.clear()


def test_it_can_be_sought_from_all_ends(server):
    with opened(server) as file:
        assert (file.seek(-5, os.SEEK_END), file.read()) == (len(DATA) - 5, DATA[-5:])
        assert (file.seek(10), file.seek(-3, os.SEEK_CUR)) == (10, 7)
        assert (file.readable(), file.seekable(), file.writable(), file.name) == (
            True, True, False, "x",
        )  # fmt: skip
        with pytest.raises(ValueError, match="before the start"):
            file.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_what_was_read_is_not_asked_for_again_and_counted(server, small_blocks):
    with opened(server) as file:
        file.seek(1500)
        file.read(100)
        file.seek(1000)
        file.read(1000)

        assert server.ranges("files") == ["bytes=1000-1999"]
        assert file.bytes_read == 1000


def test_a_long_read_is_one_request_for_just_that_and_not_kept(server, small_blocks):
    with opened(server) as file:
        file.seek(1234)

        assert file.read(50_000) == DATA[1234:51_234]
        assert server.ranges("files") == ["bytes=1234-51233"]
        assert not file._blocks


def test_reads_one_after_another_are_made_of_fewer_and_longer_requests(server, small_blocks):
    with opened(server) as file:
        assert b"".join(file.read(500) for _ in range(200)) == DATA[:100_000]

    assert len(server.log) < 25  # of 100 blocks


# ------------------------------------------------------------------ another file, or none


def test_a_file_that_is_changed_while_it_is_read_is_refused(server, small_blocks):
    with opened_badly(server, HashMismatchError, "changed the file while it was read") as file:
        file.read(10)
        server.files["/data/x"] = DATA[::-1]
        file.seek(100_000)
        file.read(10)


def test_a_file_of_another_size_is_refused(server):
    message = "expected 200000 bytes, found 199999 bytes"
    with opened_badly(server, HashMismatchError, message) as file:
        server.files["/data/x"] = DATA[:-1]
        file.read(10)


@pytest.mark.parametrize("etag", ["0" * 32 + "-1", "x"])
def test_a_file_with_another_etag_than_the_pinned_one_is_refused(server, etag):
    message = f"expected ETag {etag}, found"
    with opened_badly(server, HashMismatchError, message, etag=etag) as file:
        file.read(10)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ({"no_range": True}, FetchError, "cannot be streamed; run `spikedata fetch`"),
        ({"status": 404}, FetchError, "answered 404"),
        ({"status": 403}, FetchError, "answered 403"),
        ({"status": 416}, UnreachableError, "does not go on from byte"),
        ({"status": 503}, UnreachableError, "answered 503"),
        ({"cut": 0}, UnreachableError, "attempts in a row failed"),
        ({"hang": (0, 1.0)}, UnreachableError, "no byte came for 0.05 s"),
        ({"stall": 1.0}, UnreachableError, "no byte came for 0.05 s"),
        ({"content_range": "bytes 0-9/*"}, UnreachableError, "and gave 'bytes 0-9/.'"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(server, fault, kind, message):
    server.inject("files", times=None, **fault)
    retry = Retry(attempts=2, base=0.001, timeout=0.05)
    with opened_badly(server, kind, message, retry=retry) as file:
        file.read(10)


def test_after_an_error_every_read_raises_it_again_and_asks_nobody(server):
    server.inject("files", status=404, times=None)
    with opened_badly(server, FetchError, "answered 404") as file:
        for _ in range(3):
            with pytest.raises(FetchError, match="answered 404"):
                file.read(1)
    assert len(server.log) == 1


def test_an_error_that_is_swallowed_on_the_way_is_raised_at_the_end(server):
    server.inject("files", status=404, times=None)
    with opened_badly(server, FetchError, "answered 404") as file:
        with pytest.raises(OSError):  # noqa: PT011
            h5py.File(file, "r")
        raise ValueError("something else")


# ------------------------------------------------------------------ ingest


@pytest.fixture(name="nwb", scope="module")
def _nwb(tmp_path_factory) -> bytes:
    """Return an NWB file in which the waveforms take most of the bytes, as in real ones."""
    path = write_nwb(tmp_path_factory.mktemp("nwb") / "tiny.nwb")
    with h5py.File(path, "a") as file:
        file["units/waveforms"] = np.zeros((1000, 8, 500), np.float32)
    return path.read_bytes()


def made(server: Loopback, kind: str, data: bytes, folder: Path, **pins) -> Manifest:
    """Return a manifest of one asset that is published in one of four ways."""
    asset = pin(PATH, data)
    if kind == "file":
        (folder / "published/sub-1").mkdir(parents=True)
        (folder / "published" / PATH).write_bytes(data)
        source = FileSource(kind="file", root=str(folder / "published"))
    elif kind == "https":
        server.files[f"/data/{PATH}"] = data
        source = HttpsSource(kind="https", url=server.url("files") + "/data/")
    elif kind == "zenodo":
        server.add_record("77", {PATH: data})
        source = ZenodoSource(kind="zenodo", record="77", api_url=server.url("zenodo"))
    else:
        held = server.add(DANDISET, VERSION, PATH, data)
        etag = held.record(metadata=True)["metadata"]["digest"]["dandi:dandi-etag"]
        asset = asset.model_copy(update={"asset_id": held.asset_id, "etag": etag})
        source = DandiSource(
            kind="dandi", dandiset=DANDISET, version=VERSION, api_url=server.url("api")
        )
    manifest = manifest_of(source, asset.model_copy(update=pins))
    (dataset,) = manifest.datasets
    content = {**dataset.model_dump(mode="json", exclude_none=True), "harmonize": HARMONIZE}
    return Manifest(name="trial", title="Trial", datasets=(type(dataset)(**content),))


def stream(manifest: Manifest, folder: Path, **options) -> IngestResult:
    results = ingest(
        manifest, folder / "cache", folder / "store", stream=True, retry=QUICK, **options
    )
    (result,) = results
    return result


def content_of(store: Path) -> dict[str, bytes]:
    """Return every file of a store."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["dandi", "https", "zenodo", "file"])
def test_the_store_is_that_of_a_normal_ingest(server, nwb, tmp_path, kind):
    manifest = made(server, kind, nwb, tmp_path)
    assert only(fetch(manifest, tmp_path / "cache", retry=QUICK)).status == "done"
    assert ingest(manifest, tmp_path / "cache", tmp_path / "normal")[0].status == "done"
    (tmp_path / "cache").rename(tmp_path / "away")

    result = stream(manifest, tmp_path)

    assert result.status == "done", result.message
    assert content_of(tmp_path / "store") == content_of(tmp_path / "normal")
    assert not (tmp_path / "cache").exists()
    assert stream(manifest, tmp_path).status == "skipped"


def test_of_a_file_with_waveforms_a_small_share_is_read(server, nwb, tmp_path):
    result = stream(made(server, "dandi", nwb, tmp_path), tmp_path)

    assert 0 < result.bytes_read < len(nwb) / 10
    assert result.message == (
        "streamed: the size and ETag are those that the manifest pins; the bytes were not hashed"
    )


def test_where_no_etag_is_pinned_the_message_claims_none(server, nwb, tmp_path):
    result = stream(made(server, "https", nwb, tmp_path), tmp_path)

    assert result.message == (
        "streamed: the size is the one that the manifest pins; the bytes were not hashed"
    )


def test_what_the_cache_has_is_taken_from_there(server, nwb, tmp_path):
    manifest = made(server, "dandi", nwb, tmp_path)
    fetch(manifest, tmp_path / "cache", retry=QUICK)
    server.log.clear()

    result = stream(manifest, tmp_path)

    assert (result.status, result.message, result.bytes_read) == ("done", "", 0)
    assert server.log == []


def test_a_file_of_this_machine_is_read_in_place_and_still_hashed(server, nwb, tmp_path):
    manifest = made(server, "file", nwb, tmp_path)
    (tmp_path / "published" / PATH).write_bytes(nwb[:-1] + b"?")

    result = stream(manifest, tmp_path)

    assert (result.status, result.bytes_read) == ("failed", 0)
    assert "the manifest pins sha256" in result.message
    assert not (tmp_path / "store").exists()
    (tmp_path / "published" / PATH).unlink()
    assert "there is no file" in stream(manifest, tmp_path).message


def test_a_record_that_pins_nothing_is_read_as_it_states_and_says_so(server, nwb, tmp_path):
    manifest = made(server, "zenodo", nwb, tmp_path, size=None, sha256=None)

    result = stream(manifest, tmp_path)

    assert result.message.startswith("streamed: the size is the one that the archive states;")
    asset = Store(tmp_path / "store").provenance("data/a")["asset"]
    assert (asset["size"], asset["sha256"], len(asset["md5"])) == (len(nwb), None, 32)
    assert stream(manifest, tmp_path).status == "skipped"


@pytest.mark.parametrize("how", ["processes", "executor"])
def test_it_works_in_processes_and_on_an_executor(server, nwb, tmp_path, how):
    paths = [f"{name}.nwb" for name in "abc"]
    server.files.update({f"/data/{path}": nwb for path in paths})
    first = made(server, "https", nwb, tmp_path)
    (dataset,) = first.datasets
    assets = tuple(pin(path, nwb) for path in paths)
    manifest = Manifest(
        name="trial", title="T", datasets=(dataset.model_copy(update={"assets": assets}),)
    )
    folders = tmp_path / "cache", tmp_path / "store"

    if how == "processes":
        results = ingest(manifest, *folders, stream=True, retry=QUICK, workers=2)
    else:
        with ThreadPoolExecutor(1) as executor:
            results = ingest(manifest, *folders, stream=True, retry=QUICK, executor=executor)

    assert [one.status for one in results] == ["done"] * 3
    assert all(0 < one.bytes_read < len(nwb) / 10 for one in results)


# ------------------------------------------------------------------ what goes wrong on the way


def requests_for(server: Loopback, manifest: Manifest, folder: Path) -> int:
    """Return how many requests for bytes it takes to ingest an asset, and make it not ingested."""
    server.log.clear()
    assert stream(manifest, folder / "whole").status == "done"
    return len(server.log)


def test_wherever_it_fails_the_true_sentence_is_told_and_nothing_is_left(
    server, nwb, tmp_path, small_blocks
):
    manifest = made(server, "https", nwb, tmp_path)
    count = requests_for(server, manifest, tmp_path)
    assert count > 20

    for before in {*range(0, count, 5), 1, 2, count - 1}:
        server.faults.clear()
        server.inject("files", times=before)  # which does no harm
        server.inject("files", status=404, times=None)
        result = stream(manifest, tmp_path)

        assert (result.status, result.bytes_read) == ("failed", 0)
        assert result.message.startswith("data/a (sub-1/a.nwb): 127.0.0.1:"), before
        assert "answered 404" in result.message
        assert not (tmp_path / "store").exists()
        assert not [one for one in gc.get_objects() if type(one) is h5py.File], before


def test_a_file_that_is_changed_during_ingest_is_refused(server, nwb, tmp_path, small_blocks):
    manifest = made(server, "dandi", nwb, tmp_path)
    server.inject("store", times=10)
    server.inject("store", replace=nwb[::-1], times=None)

    result = stream(manifest, tmp_path)

    assert result.status == "failed"
    assert "expected ETag" in result.message
    assert not (tmp_path / "store").exists()


def test_ctrl_c_leaves_nothing(server, nwb, tmp_path, monkeypatch, small_blocks):
    manifest = made(server, "https", nwb, tmp_path)
    count, left, open_it = requests_for(server, manifest, tmp_path), 0, HttpOrigin.open

    def interrupted(self, *bounds):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return open_it(self, *bounds)

    monkeypatch.setattr(HttpOrigin, "open", interrupted)
    for before in (0, 3, count // 2, count - 1):
        left = before
        with pytest.raises(KeyboardInterrupt):
            stream(manifest, tmp_path)

        assert not (tmp_path / "store").exists()
        assert not (tmp_path / "cache").exists()


def test_an_address_that_expires_in_the_middle_is_asked_for_again(
    server, nwb, tmp_path, small_blocks
):
    manifest = made(server, "dandi", nwb, tmp_path)
    server.inject("store", times=5)
    server.inject("store", expire=True)

    assert stream(manifest, tmp_path).status == "done"
    refused = [seen.status for seen in server.log if seen.place == "store" and seen.status != 206]
    assert refused == [403]


def test_a_server_that_is_down_is_named(server, nwb, tmp_path):
    manifest = made(server, "https", nwb, tmp_path)
    (dataset,) = manifest.datasets
    source = HttpsSource(kind="https", url="http://127.0.0.1:9/data/")
    manifest = Manifest(
        name="trial", title="T", datasets=(dataset.model_copy(update={"source": source}),)
    )

    result = stream(manifest, tmp_path)

    assert "4 attempts in a row failed" in result.message
    assert "run it again later" in result.message


def test_the_key_goes_to_the_api_only(server, nwb, tmp_path, monkeypatch):
    manifest = made(server, "dandi", nwb, tmp_path)
    server.embargoed.add(DANDISET)
    port = server.url("api").partition("127.0.0.1:")[2].partition("/")[0]
    monkeypatch.setenv(f"HOST_127_0_0_1_{port}_API_KEY", "k3y")

    assert stream(manifest, tmp_path).status == "done"
    assert {(seen.place, seen.authorization) for seen in server.log} == {
        ("api", "token k3y"),
        ("store", None),
    }


def test_a_password_for_one_host_does_not_follow_a_redirect_to_another(server, tmp_path):
    server.files["/data/x"] = DATA
    target = server.url("files") + "/data/x"
    server.inject("zenodo", status=302, headers={"Location": target}, times=None)
    url = server.url("zenodo").replace("http://", "http://me:secret@") + "/x"
    connections = Connections(credentials=True)
    with RemoteFile(url, len(DATA), name="x", connections=connections, retry=QUICK) as file:
        assert file.read(10) == DATA[:10]
    connections.close()

    sent = {seen.place: seen.authorization for seen in server.log}
    assert sent["zenodo"].startswith("Basic ")
    assert sent["files"] is None


# ------------------------------------------------------------------ the command


def as_toml(manifest: Manifest, path: Path) -> Path:
    tomli_w = pytest.importorskip("tomli_w")
    content = manifest.model_dump(mode="json", exclude_none=True)
    path.write_text(tomli_w.dumps(content))
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    small = "; ".join(f"remote.{name} = {value}" for name, value in SMALL.items())
    code = f"from spikedata import remote; {small}; from spikedata.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_command_says_what_share_was_read(server, nwb, tmp_path):
    path = as_toml(made(server, "https", nwb, tmp_path), tmp_path / "trial.toml")

    done = run("ingest", "-m", path, "--cache", tmp_path / "cache", "--stream", "--json")

    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["status"], row["share_read"]) == ("done", round(row["bytes_read"] / len(nwb), 4))
    assert 0 < row["share_read"] < 0.1


@pytest.mark.parametrize("before", [0, 3, 20])
def test_the_command_ends_with_one_sentence_and_exit_code_1(server, nwb, tmp_path, before):
    """It ends at all: libhdf5 crashes at exit when a file object outlives its errors."""
    path = as_toml(made(server, "https", nwb, tmp_path), tmp_path / "trial.toml")
    server.inject("files", times=before)
    server.inject("files", status=404, times=None)

    done = run("ingest", "-m", path, "--cache", tmp_path / "cache", "--stream", "--json")

    assert done.returncode == 1, done.stderr
    (row,) = json.loads(done.stdout)
    assert "answered 404" in row["message"]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "cache/store").exists()
