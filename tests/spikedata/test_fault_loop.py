"""After any fault every byte is right, or there is a clear error and nothing under the final name.

And a run without faults completes what is missing. The faults are random but seeded: a failing
case prints its seed and what was injected. Only where a kill strikes depends on the machine.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import stat
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from spikedata.bring import FetchResult
from spikedata.cache import asset_path
from spikedata.fetch import fetch
from spikedata.manifest import DandiSource, HttpsSource, Manifest, Source, ZenodoSource
from spikedata.transfer import Retry
from tests.archive import Place
from tests.loopback import Loopback, files_in, manifest_of, pin

CASES = range(200)
PASSING = range(40)
KILLS = range(12)  # each of three processes in a row
IMPATIENT = Retry(attempts=4, base=0.001, timeout=0.1)
DOGGED = Retry(attempts=20, base=0.001, timeout=0.1)
PATIENT = Retry(attempts=6, base=0.01, timeout=10.0)

SOURCES = ("dandi", "https", "zenodo")

WAYS: tuple[dict[str, int], ...] = ({}, {"piece": 16384})
"""Arguments of `fetch` that all of this holds with, in turn: in order, and in many pieces."""

BYTES_AT: dict[str, Place] = {"dandi": "store", "https": "files", "zenodo": "zenodo"}

Case = tuple[Manifest, dict[str, bytes]]


def fetch_with(manifest: Manifest, cache: Path, **how: object) -> list[FetchResult]:
    """Fetch as a mode says: the only call of `fetch` here, but for those in other processes."""
    return fetch(manifest, cache, **({"retry": PATIENT} | how))  # type: ignore[arg-type]


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[Loopback]:
    with Loopback() as server:
        yield server


# ------------------------------------------------------------------ what is published


def publish(server: Loopback, kind: str, rng: random.Random, count: int) -> Case:
    """Publish random files alone on the server; return their manifest and their bytes by path."""
    server.assets.clear()
    server.files.clear()
    server.faults.clear()
    server.log.clear()
    data = {
        f"sub-{index}/{kind}_{index}.nwb": rng.randbytes(rng.randint(20_000, 300_000))
        for index in range(count)
    }
    ids: dict[str, str] = {}
    source: Source
    if kind == "dandi":
        server.page_size = 1
        source = DandiSource(
            kind="dandi", dandiset="000001", version="0.250122.1735", api_url=server.url("api")
        )
        for path, content in data.items():
            ids[path] = server.add(source.dandiset, source.version, path, content).asset_id
    elif kind == "zenodo":
        source = ZenodoSource(kind="zenodo", record="17", api_url=server.url("zenodo"))
        server.add_record("17", data)
    else:
        source = HttpsSource(kind="https", url=server.url("files") + "/data/")
        server.files.update({f"/data/{path}": content for path, content in data.items()})
    assets = (pin(path, content, ids.get(path)) for path, content in data.items())
    return manifest_of(source, *assets), data


def assert_nothing_wrong(cache: Path, case: Case) -> set[str]:
    """Assert that what has a final name has the right bytes; return the paths that are there."""
    manifest, data = case
    finals = {asset_path(cache, dataset, asset): asset.path for dataset, asset in manifest.items()}
    for found in cache.rglob("*.nwb"):
        assert found in finals
        assert found.read_bytes() == data[finals[found]], f"{found} has wrong bytes"
    return {path for final, path in finals.items() if final.exists()}


def assert_results_are_true(results: list[FetchResult], cache: Path, case: Case) -> None:
    """Assert that what is said of each asset is so, in a sentence that a user may read."""
    manifest, data = case
    here = assert_nothing_wrong(cache, case)
    assert [result.recording_id for result in results] == [
        dataset.recording_id(asset) for dataset, asset in manifest.items()
    ]
    for result, path in zip(results, data, strict=True):
        assert (result.status in ("done", "skipped")) == (path in here)
        if result.status == "failed":
            assert result.message.startswith(f"{result.recording_id} ({path}): ")
            assert result.message.endswith((".", "?"))
            for secret in ("Signature", "<", "Traceback", "\n"):
                assert secret not in result.message


def assert_a_later_run_completes(server: Loopback, cache: Path, case: Case, **how: object) -> None:
    """Assert that without faults all comes, that no remains stay, and that it is then known.

    Wrong bytes that were put aside may stay, and what a kill left of a small file (hidden, and
    under a name of its own) that was being written beside its place.
    """
    manifest, data = case
    server.faults.clear()

    results = fetch_with(manifest, cache, **how)

    assert_results_are_true(results, cache, case)
    assert [result.message for result in results if result.status == "failed"] == []
    stays = {
        name for name in files_in(cache) if not (name.endswith(".bad") or name.startswith("."))
    }
    assert stays == {path.rpartition("/")[2] for path in data}
    assert {result.status for result in fetch_with(manifest, cache, **how)} == {"skipped"}


# ------------------------------------------------------------------ faults of servers and disks


def byte_fault(rng: random.Random, size: int) -> dict[str, object]:
    """Return a fault of a server that gives the bytes."""
    at = rng.randrange(size)
    lies = ("bytes 5-9/10", f"bytes 0-{size - 1}/{size}", f"bytes {at}-{size - 1}/*", "nonsense")
    kinds: list[dict[str, object]] = [
        busy(rng),
        busy(rng),
        {"cut": at},
        {"cut": at},
        {"cut": at, "no_range": True},
        {"cut": at, "no_length": True},
        {"cut": 0},
        {"reset": at},
        {"reset": 0},
        {"hang": (at, 0.15)},
        {"stall": 0.15},
        {"drip": (size // 4 + 1, 0.01)},
        {"flip": at},
        {"flip": at, "cut": rng.randrange(size)},
        {"content_range": rng.choice(lies)},
        {"no_range": True},
        {"no_length": True},
        {"replace": rng.randbytes(size)},
        {"replace": rng.randbytes(at)},
        {"status": 200},
        {"status": 200, "no_length": True},
        {"status": 206},
        {"status": rng.choice([400, 403, 404, 412, 416])},
    ]
    return rng.choice(kinds)


def api_fault(rng: random.Random) -> dict[str, object]:
    """Return a fault of a server that is asked about the bytes."""
    kinds: list[dict[str, object]] = [
        busy(rng),
        busy(rng),
        {"cut": rng.randrange(300)},
        {"cut": rng.randrange(300), "no_length": True},
        {"reset": rng.randrange(300)},
        {"hang": (rng.randrange(300), 0.15)},
        {"stall": 0.15},
        {"status": 200},
        {"status": rng.choice([401, 403, 404])},
    ]
    return rng.choice(kinds)


def busy(rng: random.Random) -> dict[str, object]:
    headers = rng.choice([{}, {"Retry-After": "0"}, {"Retry-After": "soon"}])
    return {"status": rng.choice([429, 500, 502, 503, 504]), "headers": headers}


def server_faults(
    rng: random.Random, kind: str, size: int
) -> Iterator[tuple[Place, dict[str, object]]]:
    """Yield the faults of a case; of a few there is no end."""
    for _ in range(rng.randint(1, 6)):
        chance = rng.random()
        times = None if rng.random() < 0.08 else rng.choice([1, 1, 1, 2])
        if kind == "dandi" and chance < 0.1:
            yield "store", {"expire": True, "times": times}
        elif kind == "dandi" and chance < 0.2:
            # An asset that seems to be gone is looked for in the listing.
            yield "api", {"match": "/assets/", "status": 404}
            yield "api", {"match": "page=", "duplicate": True, "times": None}
        elif kind != "https" and chance < 0.4:
            place: Place = "api" if kind == "dandi" else "zenodo"
            yield place, api_fault(rng) | {"times": times}
        else:
            match = "/content" if kind == "zenodo" else ""
            yield BYTES_AT[kind], byte_fault(rng, size) | {"times": times, "match": match}


def fill_disk(patch: pytest.MonkeyPatch, room: int) -> None:
    """Let the disk be full after so many bytes more: the last write is a short one."""
    left = room

    def limited(write, fd: int, data, *where: int) -> int:
        nonlocal left
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return write(fd, data, *where)
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(fd, memoryview(data)[:left], *where)
        left -= done
        return done

    for name in ("write", "pwrite"):
        patch.setattr(os, name, partial(limited, getattr(os, name)))


def watch_names(patch: pytest.MonkeyPatch, case: Case) -> list[str]:
    """Return a list of each final name that is given to wrong bytes, even for a moment."""
    wrong: list[str] = []

    def watching(rename, source, target, **options) -> None:
        path = next((path for path in case[1] if str(target).endswith(path)), None)
        if path is not None and Path(source).read_bytes() != case[1][path]:
            wrong.append(path)
        rename(source, target, **options)

    for name in ("replace", "rename", "link"):
        patch.setattr(os, name, partial(watching, getattr(os, name)))
    return wrong


def damage(cache: Path, rng: random.Random) -> None:
    """Change a byte of some file in the cache, as a failing disk or a user would."""
    found = [path for path in sorted(cache.rglob("*")) if path.is_file() and path.stat().st_size]
    if found:
        path = rng.choice(found)
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1
        path.write_bytes(content)
        print("damaged", path.name)


@pytest.mark.parametrize("seed", CASES)
def test_whatever_fails_a_file_is_right_or_absent_and_a_later_run_completes(
    server, tmp_path, monkeypatch, seed
):
    rng = random.Random(f"fault {seed}")
    kind = rng.choice(SOURCES)
    case = publish(server, kind, rng, count=rng.choice([1, 1, 2, 4]))
    smallest = min(map(len, case[1].values()))
    room = rng.randrange(3 * smallest) if rng.random() < 0.15 else None
    print(f"seed {seed}: {kind}, {len(case[1])} assets, {room=}")
    for place, fault in server_faults(rng, kind, smallest):
        server.inject(place, **fault)
        print(place, {name: value for name, value in fault.items() if name != "replace"})

    with monkeypatch.context() as patch:
        if room is not None:
            fill_disk(patch, room)
        wrong = watch_names(patch, case)
        jobs = rng.choice([1, 3])
        results = fetch_with(case[0], tmp_path, jobs=jobs, retry=IMPATIENT, **WAYS[seed % 2])

    assert wrong == []
    assert_results_are_true(results, tmp_path, case)
    if rng.random() < 0.2:
        damage(tmp_path, rng)
    assert_a_later_run_completes(server, tmp_path, case, **WAYS[seed % 2])


def passing_faults(
    rng: random.Random, kind: str, size: int
) -> Iterator[tuple[Place, dict[str, object]]]:
    """Yield faults that a server has once, and that say nothing about the bytes."""
    place: Place = BYTES_AT[kind]
    other: Place = "zenodo" if kind == "zenodo" else "api"
    yield place, {"flip": rng.randrange(size)}
    for _ in range(rng.randint(2, 6)):
        at = rng.randrange(size)
        both: list[dict[str, object]] = [
            busy(rng),
            {"reset": at % 200},
            {"cut": at % 200},
            {"hang": (at % 200, 0.15)},
            {"stall": 0.15},
        ]
        bytes_only: list[dict[str, object]] = [
            {"cut": at},
            {"cut": at, "no_range": True},
            {"cut": at, "no_length": True},
            {"reset": at},
            {"content_range": rng.choice(["bytes 5-9/10", "nonsense"])},
            {"no_range": True},
            {"status": 416},
        ]
        if kind != "https" and rng.random() < 0.3:
            yield other, rng.choice(both)
        elif kind == "dandi" and rng.random() < 0.3:
            yield place, rng.choice([{"expire": True}, {"status": 400}, {"status": 403}])
        else:
            match = "/content" if kind == "zenodo" else ""
            yield place, rng.choice([*both, *bytes_only]) | {"match": match}


@pytest.mark.parametrize("seed", PASSING)
def test_faults_that_pass_are_overcome_by_a_fetch_that_asks_often_enough(
    server, tmp_path, monkeypatch, seed
):
    rng = random.Random(f"passing {seed}")
    case = publish(server, kind := rng.choice(SOURCES), rng, count=rng.choice([1, 3]))
    print(f"seed {seed}: {kind}, {len(case[1])} assets")
    for place, fault in passing_faults(rng, kind, min(map(len, case[1].values()))):
        server.inject(place, **fault)
        print(place, fault)

    with monkeypatch.context() as patch:
        wrong = watch_names(patch, case)
        results = fetch_with(case[0], tmp_path, retry=DOGGED, **WAYS[seed % 2])

    assert wrong == []
    assert [(result.status, result.message) for result in results if result.message] == []
    assert_a_later_run_completes(server, tmp_path, case, **WAYS[seed % 2])


# ------------------------------------------------------------------ kills


@pytest.fixture(name="context", scope="module")
def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spikedata.fetch", "dandi.dandiapi", "requests"])
    return context


def start(context, manifest: Manifest, cache: Path, **how: object):
    """Fetch in a process of its own."""
    process = context.Process(
        target=fetch, args=(manifest, cache), kwargs={"jobs": 3, "retry": PATIENT} | how
    )
    process.start()
    return process


def wait_for_requests(server: Loopback, more_than: int) -> None:
    """Wait until a process has begun to ask, however long it takes to import."""
    end = time.monotonic() + 30
    while len(server.log) <= more_than and time.monotonic() < end:
        time.sleep(0.001)


@pytest.mark.parametrize("seed", KILLS)
def test_whenever_it_is_killed_a_file_is_right_or_absent_and_a_later_run_completes(
    server, context, tmp_path, seed
):
    rng = random.Random(f"kill {seed}")
    case = publish(server, rng.choice(SOURCES), rng, count=rng.choice([1, 3]))
    moments = [rng.uniform(0.0, 0.15) for _ in range(3)]
    print(f"seed {seed}: {list(case[1])} killed after {moments} s")
    for place in ("store", "files", "zenodo"):
        server.inject(place, drip=(8192, 0.004), times=None)

    for moment in moments:
        asked = len(server.log)
        process = start(context, case[0], tmp_path, **WAYS[seed % 2])
        if len(assert_nothing_wrong(tmp_path, case)) < len(case[1]):
            wait_for_requests(server, asked)
        time.sleep(moment)
        process.kill()
        process.join()

        assert process.exitcode in (0, -signal.SIGKILL)
        assert_nothing_wrong(tmp_path, case)

    assert_a_later_run_completes(server, tmp_path, case, **WAYS[seed % 2])


@pytest.mark.parametrize("seed", range(3))
def test_of_two_processes_one_is_killed_and_the_other_completes(server, context, tmp_path, seed):
    rng = random.Random(f"two {seed}")
    case = publish(server, rng.choice(SOURCES), rng, count=2)
    for place in ("store", "files", "zenodo"):
        server.inject(place, drip=(8192, 0.004), times=None)

    killed, other = (start(context, case[0], tmp_path, **WAYS[seed % 2]) for _ in range(2))
    wait_for_requests(server, 0)
    time.sleep(rng.uniform(0.0, 0.1))
    killed.kill()
    killed.join()
    other.join(timeout=30)

    assert other.exitcode == 0
    assert assert_nothing_wrong(tmp_path, case) == set(case[1])
    assert_a_later_run_completes(server, tmp_path, case, **WAYS[seed % 2])
