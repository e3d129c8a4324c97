from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikedata import part as part_module
from spikedata.bring import fetch_asset
from spikedata.cache import asset_path
from spikedata.errors import FetchError, HashMismatchError
from spikedata.fetch import fetch, plan
from spikedata.manifest import HttpsSource, Manifest
from spikedata.origins import retry_after
from spikedata.transfer import Retry, Stopped, part_path
from tests.loopback import QUICK, Loopback, fetch_raising, files_in, manifest_of, only, part_of, pin

DATA = bytes(range(256)) * 4000 + b"end"  # about 1 MB: several chunks
ROOT = Path(__file__).parents[2]


@pytest.fixture(name="manifest")
def _manifest(server: Loopback) -> Manifest:
    """One asset on the plain file server."""
    return server.serve("sub-1/a.nwb", data=DATA)


# ------------------------------------------------------------------ faults of servers


@pytest.mark.parametrize(
    "fault",
    [
        {"cut": 300_000},
        {"reset": 300_000},
        {"status": 429},
        {"status": 500},
        {"status": 502},
        {"status": 503},
        {"status": 504},
        {"cut": 0, "times": 3},
    ],
    ids=str,
)
def test_a_passing_fault_is_overcome(server, manifest, tmp_path, fault):
    server.inject("files", **fault)

    assert only(fetch(manifest, tmp_path, retry=QUICK)).status == "done"


def test_a_server_that_falls_silent_is_asked_again(server, manifest, tmp_path):
    server.inject("files", stall=0.6)

    retry = Retry(base=0.001, timeout=0.2)

    assert only(fetch(manifest, tmp_path, retry=retry)).status == "done"
    assert len(server.ranges("files")) <= 2


def test_a_body_cut_short_is_continued_from_where_it_ended(server, manifest, tmp_path):
    server.inject("files", cut=500_000)

    result = only(fetch(manifest, tmp_path, retry=QUICK))

    first, second = server.ranges("files")
    offset = int(second.removeprefix("bytes=").removesuffix("-"))
    assert first is None
    assert 300_000 < offset <= 500_000
    assert result.bytes == len(DATA)
    assert server.log[-1].status == 206


def test_a_connection_that_breaks_often_but_brings_bytes_each_time_gets_there(
    server, manifest, tmp_path
):
    server.inject("files", cut=140_000, times=7)  # more breaks than attempts

    assert only(fetch(manifest, tmp_path, retry=QUICK)).path.read_bytes() == DATA


def test_a_server_that_ignores_range_and_always_breaks_is_given_up(server, manifest, tmp_path):
    server.inject("files", cut=300_000, no_range=True, times=None)

    result = only(fetch(manifest, tmp_path, retry=QUICK))

    assert result.status == "failed"
    assert "4 attempts in a row failed" in result.message


def test_a_server_that_ignores_range_is_read_from_the_start(server, manifest, tmp_path):
    server.inject("files", cut=300_000)
    server.inject("files", no_range=True)

    assert only(fetch(manifest, tmp_path, retry=QUICK)).path.read_bytes() == DATA
    assert [seen.status for seen in server.log] == [200, 200]


@pytest.mark.parametrize("lie", ["bytes 5-9/10", "bytes 0-99/*", "nonsense"])
def test_a_body_that_begins_elsewhere_is_not_appended(server, manifest, tmp_path, lie):
    server.inject("files", cut=300_000)
    server.inject("files", content_range=lie, times=2)

    assert only(fetch(manifest, tmp_path, retry=QUICK)).path.read_bytes() == DATA
    assert server.ranges("files") == [None, "bytes=300000-", "bytes=300000-", None]


def test_416_for_a_part_that_the_server_can_continue_no_longer_starts_over(
    server, manifest, tmp_path
):
    server.inject("files", cut=300_000)
    server.inject("files", status=416, times=2)

    assert only(fetch(manifest, tmp_path, retry=QUICK)).path.read_bytes() == DATA
    assert server.ranges("files") == [None, "bytes=300000-", "bytes=300000-", None]


def test_a_wrong_byte_once_is_downloaded_once_more_from_zero(server, manifest, tmp_path):
    server.inject("files", flip=1234)

    assert only(fetch(manifest, tmp_path, retry=QUICK)).path.read_bytes() == DATA
    assert server.ranges("files") == [None, None]
    assert files_in(tmp_path) == ["a.nwb"]


def test_a_wrong_byte_always_is_refused_with_both_hashes_and_the_place(server, manifest, tmp_path):
    server.inject("files", flip=0, times=None)
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]

    with pytest.raises(HashMismatchError) as caught:
        fetch_raising(manifest, tmp_path)

    bad = tmp_path / "assets/data/https/sub-1/a.nwb.bad"
    assert len(server.log) == 2
    assert hashlib.sha256(DATA).hexdigest() in str(caught.value)
    assert hashlib.sha256(wrong).hexdigest() in str(caught.value)
    assert str(bad) in str(caught.value)
    assert bad.read_bytes() == wrong
    assert files_in(tmp_path) == ["a.nwb.bad"]


@pytest.mark.parametrize("other", [DATA[:-1], DATA + b"x", b"<html>log in</html>"])
def test_another_size_is_refused(server, manifest, tmp_path, other):
    server.inject("files", replace=other, times=None)

    with pytest.raises(HashMismatchError, match=f"found {len(other)} bytes"):
        fetch_raising(manifest, tmp_path)

    assert files_in(tmp_path) == []


@pytest.mark.parametrize("other", [DATA[:-1], DATA + b"x"])
def test_another_size_is_seen_when_resuming(server, manifest, tmp_path, other):
    server.inject("files", cut=300_000)
    server.inject("files", replace=other, times=None)

    with pytest.raises(HashMismatchError, match=f"found {len(other)} bytes"):
        fetch_raising(manifest, tmp_path)

    assert len(server.log) == 3  # cut, resumed, and once more from zero


@pytest.mark.parametrize("other", [DATA[:-1], DATA + b"x" * 1000])
def test_another_size_that_is_not_announced_is_refused(server, manifest, tmp_path, other):
    server.inject("files", replace=other, no_length=True, times=None)
    told = []
    ((dataset, asset),) = manifest.items()

    with pytest.raises(HashMismatchError):
        fetch_asset(manifest, dataset, asset, tmp_path, retry=QUICK, report=told.append)

    assert max(told) <= len(DATA)
    assert not asset_path(tmp_path, dataset, asset).exists()


def test_a_body_without_a_length_that_is_cut_short_is_continued(server, manifest, tmp_path):
    server.inject("files", cut=500_000, no_length=True)

    assert only(fetch(manifest, tmp_path, retry=QUICK)).path.read_bytes() == DATA
    assert server.ranges("files") == [None, "bytes=500000-"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/?key=secret", "http://[x/?key=secret"])
def test_an_address_that_is_none_gives_a_sentence_without_its_query(tmp_path, url):
    manifest = manifest_of(HttpsSource(kind="https", url=url), pin("a.nwb", DATA))

    with pytest.raises(FetchError, match=r"data/a \(a.nwb\): ") as caught:
        fetch_raising(manifest, tmp_path)

    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_gives_a_sentence(tmp_path):
    source = HttpsSource(kind="https", url="http://127.0.0.1:9/data?key=secret")
    manifest = manifest_of(source, pin("a.nwb", DATA))

    with pytest.raises(FetchError, match=r"data/a \(a.nwb\): 4 attempts .*refused") as caught:
        fetch_raising(manifest, tmp_path)

    assert "secret" not in str(caught.value)


def test_retry_after_is_honoured(server, manifest, tmp_path):
    server.inject("files", status=503, headers={"Retry-After": "1"})
    began = time.monotonic()

    assert only(fetch(manifest, tmp_path, retry=QUICK)).status == "done"
    assert 1.0 <= time.monotonic() - began < 3.0


@pytest.mark.parametrize(("text", "low", "high"), [("7", 7, 7), ("soon", 0, 0), ("-3", 0, 0)])
def test_retry_after_in_seconds_or_nonsense(text, low, high):
    reply = requests.Response()
    reply.headers["Retry-After"] = text

    assert low <= retry_after(reply.headers) <= high


def test_retry_after_as_a_date_and_bounded():
    reply = requests.Response()
    reply.headers["Retry-After"] = format_datetime(datetime.now(UTC) + timedelta(hours=2), True)

    assert 7190 <= retry_after(reply.headers) <= 7200
    assert Retry().delay(1, asked=retry_after(reply.headers)) == 300


def test_waits_grow_to_a_bound():
    retry = Retry(base=1.0, longest=60.0)
    waits = [retry.delay(n) for n in range(1, 20)]

    assert all(0.5 * min(2.0**n, 60) <= wait <= min(2.0**n, 60) for n, wait in enumerate(waits))


fault = st.one_of(
    st.fixed_dictionaries({"cut": st.integers(0, len(DATA))}),
    st.fixed_dictionaries({"reset": st.integers(0, len(DATA))}),
    st.fixed_dictionaries({"flip": st.integers(0, len(DATA) - 1)}),
    st.fixed_dictionaries({"cut": st.integers(0, len(DATA)), "no_range": st.just(True)}),
    st.fixed_dictionaries({"status": st.sampled_from([404, 416, 429, 503])}),
    st.fixed_dictionaries({"content_range": st.just("bytes 1-2/3")}),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(fault, max_size=5))
def test_whatever_servers_do_a_file_is_right_or_absent_and_a_later_run_brings_it(
    server, tmp_path_factory, faults
):
    cache = tmp_path_factory.mktemp("cache")
    manifest = server.serve("a.nwb", data=DATA)
    server.faults.clear()
    for how in faults:
        server.inject("files", **how)

    result = only(fetch(manifest, cache, retry=QUICK))

    assert result.path.exists() == (result.status == "done")
    server.faults.clear()
    assert only(fetch(manifest, cache, retry=QUICK)).path.read_bytes() == DATA


# ------------------------------------------------------------------ parts, locks, interruptions


def test_plan_tells_present_resume_and_download_apart(manifest, tmp_path):
    ((dataset, asset),) = manifest.items()
    path = asset_path(tmp_path, dataset, asset)
    seen = plan(manifest, tmp_path)
    path.parent.mkdir(parents=True)
    part_path(asset, path).write_bytes(DATA[:8192])
    seen += plan(manifest, tmp_path)
    path.write_bytes(DATA)
    seen += plan(manifest, tmp_path)
    fetch(manifest, tmp_path)
    path.unlink()
    fetch(manifest, tmp_path)
    seen += plan(manifest, tmp_path)

    assert [(one.step, one.missing) for one in seen] == [
        ("download", len(DATA)),
        ("resume", len(DATA) - 8192),
        ("check", 0),
        ("present", 0),
    ]
    assert {(one.path, one.size) for one in seen} == {(path, len(DATA))}


@pytest.mark.parametrize(
    ("part", "ranges"),
    [
        (DATA[:1000], ["bytes=1000-"]),
        (DATA, []),  # killed between the last byte and the rename
        (DATA + b"x", [None]),
        (b"x" + DATA[1:], [None]),
        (b"x" * 1000, ["bytes=1000-", None]),
    ],
    ids=["begun", "whole", "too long", "wrong", "begun wrong"],
)
def test_a_part_is_continued_if_it_can_be(server, manifest, tmp_path, part, ranges):
    place = part_of(manifest, tmp_path)
    place.parent.mkdir(parents=True)
    place.write_bytes(part)

    assert only(fetch(manifest, tmp_path, retry=QUICK)).path.read_bytes() == DATA
    assert server.ranges("files") == ranges
    assert files_in(tmp_path) == ["a.nwb"]


def test_a_part_of_another_version_is_not_continued(server, manifest, tmp_path):
    newer = DATA[::-1]
    server.inject("files", cut=300_000)
    server.inject("files", status=404)
    assert only(fetch(manifest, tmp_path, retry=QUICK)).status == "failed"
    server.files["/data/sub-1/a.nwb"] = newer
    again = manifest_of(manifest.datasets[0].source, pin("sub-1/a.nwb", newer))

    server.log.clear()

    assert only(fetch(again, tmp_path, retry=QUICK)).path.read_bytes() == newer
    assert server.ranges("files") == [None]


SCRIPT = """
import sys
from pathlib import Path
from spikedata.fetch import fetch
from spikedata.manifest import load_manifest
results = fetch(load_manifest(sys.argv[1]), Path(sys.argv[2]))
print([(result.status, result.bytes, result.message) for result in results])
"""


def start(manifest: Manifest, folder: Path) -> subprocess.Popen[str]:
    """Fetch in a process of its own, into ``folder/cache``."""
    ((dataset, asset),) = manifest.items()
    toml = folder / "trial.toml"
    toml.write_text(f"""
        name = "trial"
        title = "Trial"
        [[datasets]]
        id = "data"
        title = "Data"
        licence = "CC0-1.0"
        citation = "Nobody"
        source = {{ kind = "https", url = "{dataset.source.url}" }}
        [[datasets.assets]]
        path = "{asset.path}"
        size = {asset.size}
        sha256 = "{asset.sha256}"
        session = "{asset.session}"
        """)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(toml), str(folder / "cache")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_bytes(part: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_download_is_continued_from_its_last_byte(server, manifest, tmp_path):
    cache = tmp_path / "cache"
    part = part_of(manifest, cache)
    server.inject("files", drip=(20_000, 0.02))
    with start(manifest, tmp_path) as process:
        wait_for_bytes(part, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    kept = part.stat().st_size

    result = only(fetch(manifest, cache))

    assert process.returncode == -signal.SIGKILL
    assert 0 < kept < len(DATA)
    assert server.ranges("files") == [None, f"bytes={kept}-"]
    assert result.bytes == len(DATA) - kept
    assert result.message == "resumed"
    assert result.path.read_bytes() == DATA


def test_an_interrupt_ends_a_fetch_at_once_and_keeps_the_part(server, manifest, tmp_path):
    part = part_of(manifest, tmp_path / "cache")
    server.inject("files", drip=(200_000, 5.0))
    with start(manifest, tmp_path) as process:
        wait_for_bytes(part, process)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)

    assert time.monotonic() - began < 3
    assert "KeyboardInterrupt" in errors
    assert part.read_bytes() == DATA[: part.stat().st_size]
    assert files_in(part.parent) == [part.name]


def test_two_processes_bring_an_asset_once(server, manifest, tmp_path):
    server.inject("files", drip=(100_000, 0.05), times=None)
    with start(manifest, tmp_path) as one, start(manifest, tmp_path) as two:
        outputs = [process.communicate(timeout=20)[0] for process in (one, two)]

    assert sorted("('done', 0, '')" in output for output in outputs) == [False, True]
    assert server.ranges("files") == [None]
    assert only(fetch(manifest, tmp_path / "cache")).status == "skipped"
    assert files_in(tmp_path / "cache") == ["a.nwb"]


def test_threads_that_fetch_the_same_asset_do_not_meet(server, manifest, tmp_path):
    results = []
    server.inject("files", cut=300_000, times=2)
    threads = [
        threading.Thread(target=lambda: results.extend(fetch(manifest, tmp_path, retry=QUICK)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {result.status for result in results} <= {"done", "skipped"}
    assert sum(result.bytes for result in results) == len(DATA)
    assert files_in(tmp_path) == ["a.nwb"]


@pytest.mark.parametrize("status", [None, 404])
def test_without_file_locks_a_fetch_works_and_leaves_no_part(
    server, manifest, tmp_path, monkeypatch, status
):
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(part_module.fcntl, "flock", flock)
    server.inject("files", cut=300_000)
    server.inject("files", status=status)

    result = only(fetch(manifest, tmp_path, retry=QUICK))

    assert result.status == ("failed" if status else "done")
    assert files_in(tmp_path) == ([] if status else ["a.nwb"])


def test_a_transfer_that_is_told_to_stop_leaves_a_part_to_resume(server, manifest, tmp_path):
    stop = threading.Event()
    ((dataset, asset),) = manifest.items()

    with pytest.raises(Stopped):
        fetch_asset(manifest, dataset, asset, tmp_path, stop=stop, report=lambda done: stop.set())

    part = part_of(manifest, tmp_path)
    assert 0 < part.stat().st_size < len(DATA)
    assert part.read_bytes() == DATA[: part.stat().st_size]
    assert only(fetch(manifest, tmp_path)).message == "resumed"


# ------------------------------------------------------------------ faults of this machine


def test_a_full_disk_gives_a_sentence_and_keeps_the_part(manifest, tmp_path, monkeypatch):
    write = os.pwrite

    def full(fd: int, data: bytes, at: int) -> int:
        if at > 200_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:150_000], at)

    with monkeypatch.context() as patch:
        patch.setattr(part_module.os, "pwrite", full)
        result = only(fetch(manifest, tmp_path))

    assert result.status == "failed"
    assert "is full; free some space or set SPIKEDATA_CACHE" in result.message
    assert only(fetch(manifest, tmp_path)).message == "resumed"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_gives_a_sentence(manifest, tmp_path):
    tmp_path.chmod(0o555)

    assert "no permission for" in only(fetch(manifest, tmp_path)).message


def test_a_refused_write_gives_a_sentence(manifest, tmp_path, monkeypatch):
    def refused(fd: int, data: bytes, at: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(part_module.os, "pwrite", refused)

    assert "no permission for" in only(fetch(manifest, tmp_path)).message


def test_a_file_in_the_place_of_a_folder_gives_a_sentence(manifest, tmp_path):
    (tmp_path / "assets").write_text("in the way")

    result = only(fetch(manifest, tmp_path))

    assert result.status == "failed"
    assert str(tmp_path / "assets") in result.message


# ------------------------------------------------------------------ offers of something else


@pytest.mark.parametrize("offer", [b"<html>log in</html>", DATA[:-1]])
def test_what_is_here_outlives_an_offer_of_something_else(server, manifest, tmp_path, offer):
    """A login page in the place of the file must not cost what came before it."""
    place = part_of(manifest, tmp_path)
    place.parent.mkdir(parents=True)
    place.write_bytes(DATA[:900_000])
    server.inject("files", replace=offer, times=2, no_range=True)

    with pytest.raises(HashMismatchError, match=f"found {len(offer)} bytes"):
        fetch_raising(manifest, tmp_path)

    assert place.read_bytes() == DATA[:900_000]
    assert only(fetch(manifest, tmp_path, retry=QUICK)).bytes == len(DATA) - 900_000


def test_redirects_of_the_bytes_are_followed_and_end(server, manifest, tmp_path):
    target = server.url("files") + "/data/sub-1/a.nwb"
    server.inject("files", status=302, headers={"Location": target})
    server.inject("files", status=302, headers={"Location": target}, times=None)

    assert "redirects without end" in only(fetch(manifest, tmp_path, retry=QUICK)).message

    server.faults.clear()
    server.inject("files", status=302, headers={"Location": target})

    assert only(fetch(manifest, tmp_path, retry=QUICK)).path.read_bytes() == DATA


def test_no_password_of_an_address_is_told_or_written(server, tmp_path):
    (port,) = server.url("files").rsplit(":", 1)[1:]
    url = f"http://me:PASSWORD@127.0.0.1:{port}/data/?key=QUERYKEY"
    server.files["/data/a.nwb"] = DATA
    source = HttpsSource(kind="https", url=url)
    manifest = manifest_of(source, pin("a.nwb", DATA), pin("b.nwb", DATA))

    results = fetch(manifest, tmp_path, retry=QUICK)

    assert [one.status for one in results] == ["done", "failed"]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in ("PASSWORD", "QUERYKEY"):
        assert all(secret not in one.message for one in results)
        assert all(secret.encode() not in content for content in written)
