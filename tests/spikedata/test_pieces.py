from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikedata import part as part_module
from spikedata.bring import Bringer, FetchResult
from spikedata.errors import FetchError
from spikedata.fetch import fetch
from spikedata.manifest import FileSource, HttpsSource, Manifest
from spikedata.part import open_part
from spikedata.transfer import Stopped
from tests.archive import Answer, Request
from tests.loopback import QUICK, Loopback, files_in, manifest_of, only, part_of, pin

SIZE, PIECE = 1_000_000, 50_000
DATA = bytes(range(251)) * (SIZE // 251 + 1)
DATA = DATA[:SIZE]  # no two pieces are the same
JOURNAL = ".pieces"


@pytest.fixture(name="manifest")
def _manifest(server: Loopback) -> Manifest:
    """One asset on the plain file server."""
    return server.serve("a.nwb", data=DATA)


def fetch_in_pieces(manifest: Manifest, cache: Path, jobs: int = 4) -> list[FetchResult]:
    return fetch(manifest, cache, piece=PIECE, jobs=jobs, retry=QUICK)


def asked(server: Loopback, size: int = SIZE) -> list[tuple[int, int]]:
    """Return the first and the last but one byte of each request to the plain server, in order."""
    spans = []
    for one in server.ranges("files"):
        start, _, last = (one or "bytes=0-").removeprefix("bytes=").partition("-")
        spans.append((int(start), int(last) + 1 if last else size))
    return sorted(spans)


def assert_tile(spans: list[tuple[int, int]], holes: list[tuple[int, int]]) -> None:
    """Assert that requests ask for every byte of the holes once, and for nothing else."""
    wanted = sorted(at for start, end in holes for at in range(start, end, 100))
    assert wanted == sorted(at for start, end in spans for at in range(start, end, 100))
    assert sum(end - start for start, end in spans) == sum(end - start for start, end in holes)


def holes_of(manifest: Manifest, cache: Path) -> list[tuple[int, int]]:
    with open_part(part_of(manifest, cache), SIZE, lambda: None) as part:
        return [(piece.at, piece.end) for piece in part.missing]


def answer_by_offset(
    monkeypatch: pytest.MonkeyPatch,
    server: Loopback,
    answer: Callable[[int], Answer | bytes | None],
) -> None:
    """Let the plain server answer by the first byte it is asked for; None: as always."""
    plain = server.plain

    def instead(request: Request) -> Answer | bytes:
        start = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        found = answer(int(start))
        return plain(request) if found is None else found

    monkeypatch.setattr(server, "plain", instead)


def peaks(
    monkeypatch: pytest.MonkeyPatch, server: Loopback, seconds: float = 0.02
) -> dict[str, int]:
    """Count, by path, how many requests the plain server has at a time; each takes a while."""
    plain, now, peak = server.plain, {}, {}
    guard = threading.Lock()

    def slowly(request: Request) -> Answer | bytes:
        name = request.path.rpartition("/")[2]
        with guard:
            now[name] = now.get(name, 0) + 1
            peak[name] = max(peak.get(name, 0), now[name])
        time.sleep(seconds)
        with guard:
            now[name] -= 1
        return plain(request)

    monkeypatch.setattr(server, "plain", slowly)
    return peak


# ------------------------------------------------------------------ the plain course


def test_pieces_make_the_right_file_and_leave_nothing_else(manifest, tmp_path):
    result = only(fetch_in_pieces(manifest, tmp_path))

    assert (result.status, result.bytes) == ("done", SIZE)
    assert result.path.read_bytes() == DATA
    assert files_in(tmp_path) == ["a.nwb"]


def test_the_requests_tile_the_file(server, manifest, tmp_path):
    fetch_in_pieces(manifest, tmp_path)

    spans = asked(server)
    assert len(spans) == SIZE // PIECE
    assert_tile(spans, [(0, SIZE)])
    assert {seen.status for seen in server.log} == {206}


@pytest.mark.parametrize("jobs", [2, 4])
def test_as_many_connections_as_jobs_are_open_at_a_time(
    server, manifest, tmp_path, monkeypatch, jobs
):
    peak = peaks(monkeypatch, server)

    fetch_in_pieces(manifest, tmp_path, jobs=jobs)

    assert peak == {"a.nwb": jobs}


def test_connections_that_find_no_more_assets_are_left_to_the_last_one(
    server, tmp_path, monkeypatch
):
    small = pin("b.nwb", DATA[:1000])
    manifest = server.serve("a.nwb", "c.nwb", data=DATA)
    server.files["/data/b.nwb"] = DATA[:1000]
    (dataset,) = manifest.datasets
    manifest = manifest_of(dataset.source, small, *dataset.assets[:1])
    peak = peaks(monkeypatch, server)

    results = fetch_in_pieces(manifest, tmp_path, jobs=3)

    assert [result.status for result in results] == ["done", "done"]
    assert peak == {"b.nwb": 1, "a.nwb": 3}


def test_two_large_assets_share_no_more_connections_than_jobs(server, tmp_path, monkeypatch):
    manifest = server.serve("a.nwb", "b.nwb", data=DATA)
    peak = peaks(monkeypatch, server, 0.005)

    results = fetch_in_pieces(manifest, tmp_path, jobs=2)

    assert [result.path.read_bytes() == DATA for result in results] == [True, True]
    assert set(peak.values()) <= {1, 2}


def test_a_small_asset_is_not_cut(server, tmp_path):
    manifest = server.serve("a.nwb", data=DATA[:PIECE])

    assert only(fetch_in_pieces(manifest, tmp_path)).status == "done"
    assert server.ranges("files") == [None]


def test_with_one_job_an_asset_is_not_cut(server, manifest, tmp_path):
    fetch_in_pieces(manifest, tmp_path, jobs=1)

    assert server.ranges("files") == [None]


def test_a_file_of_this_machine_is_not_cut(tmp_path):
    (tmp_path / "a.nwb").write_bytes(DATA)
    manifest = manifest_of(FileSource(kind="file", root=str(tmp_path)), pin("a.nwb", DATA))

    assert only(fetch_in_pieces(manifest, tmp_path / "cache")).path.read_bytes() == DATA


def test_a_piece_of_no_bytes_is_refused(manifest, tmp_path):
    with pytest.raises(ValueError, match="at least 1, found 4 and 0"):
        fetch(manifest, tmp_path, piece=0)


def test_what_is_reported_of_pieces_only_grows_up_to_the_total(manifest, tmp_path):
    told = []

    fetch(
        manifest,
        tmp_path,
        piece=PIECE,
        retry=QUICK,
        progress=lambda label, done, total: told.append(done),
    )

    assert told == sorted(told)
    assert told[-1] == SIZE


# ------------------------------------------------------------------ faults of servers


def test_a_server_that_ignores_range_is_read_in_order(server, manifest, tmp_path):
    server.inject("files", no_range=True, times=None)

    result = only(fetch_in_pieces(manifest, tmp_path))

    assert (result.status, result.path.read_bytes() == DATA) == ("done", True)
    assert files_in(tmp_path) == ["a.nwb"]


def test_a_server_that_ignores_where_a_piece_ends_is_hung_up_on(
    server, manifest, tmp_path, monkeypatch
):
    def to_the_end(asked: str, size: int) -> tuple[int, int] | None:
        start = asked.removeprefix("bytes=").partition("-")[0]
        return (int(start), size) if start else None

    monkeypatch.setattr("tests.loopback._span", to_the_end)

    assert only(fetch_in_pieces(manifest, tmp_path)).path.read_bytes() == DATA


@pytest.mark.parametrize(
    "fault",
    [
        {"cut": 20_000, "times": 5},
        {"reset": 20_000, "times": 5},
        {"status": 503, "times": 3},
        {"content_range": "bytes 5-9/10"},
        {"content_range": "nonsense"},
        {"status": 416},
        {"no_length": True, "cut": 10, "times": 4},
    ],
    ids=str,
)
def test_a_passing_fault_of_a_piece_is_overcome(server, manifest, tmp_path, fault):
    server.inject("files", **fault)

    assert only(fetch_in_pieces(manifest, tmp_path)).path.read_bytes() == DATA


def test_a_piece_cut_short_is_continued_from_where_it_ended(server, manifest, tmp_path):
    server.inject("files", cut=20_000, times=1)

    result = only(fetch_in_pieces(manifest, tmp_path))

    spans = asked(server)
    assert result.bytes == SIZE
    assert len(spans) == SIZE // PIECE + 1
    assert sum(end - start for start, end in spans) == SIZE + PIECE - 20_000


def test_a_wrong_byte_once_is_asked_for_once_more(server, manifest, tmp_path, monkeypatch):
    wrong = [DATA[:620_000] + b"\xff" + DATA[620_001:]]
    answer_by_offset(
        monkeypatch, server, lambda at: wrong.pop() if at == 600_000 and wrong else None
    )

    result = only(fetch_in_pieces(manifest, tmp_path))

    assert result.path.read_bytes() == DATA
    assert files_in(tmp_path) == ["a.nwb"]
    assert result.bytes <= 2 * SIZE


def test_a_wrong_byte_always_is_refused_and_put_aside(server, manifest, tmp_path):
    server.inject("files", flip=620_000, times=None)

    result = only(fetch_in_pieces(manifest, tmp_path))

    assert (result.status, "twice (kept as" in result.message) == ("failed", True)
    assert files_in(tmp_path) == ["a.nwb.bad"]


@pytest.mark.parametrize("other", [DATA[:-1], DATA + b"x"])
def test_another_size_is_seen_by_a_piece(server, manifest, tmp_path, other):
    server.inject("files", replace=other, times=None)

    assert f"found {len(other)} bytes" in only(fetch_in_pieces(manifest, tmp_path)).message


@pytest.mark.parametrize("status", [404, 503])
def test_a_piece_that_never_comes_ends_the_others_and_a_later_run_asks_only_for_the_rest(
    server, manifest, tmp_path, monkeypatch, status
):
    threads = threading.active_count()
    with monkeypatch.context() as patch:
        answer_by_offset(
            patch, server, lambda at: Answer(status, b"no") if 300_000 <= at < 350_000 else None
        )
        failed = only(fetch_in_pieces(manifest, tmp_path))
    holes = holes_of(manifest, tmp_path)
    server.log.clear()

    result = only(fetch_in_pieces(manifest, tmp_path))

    assert failed.status == "failed"
    assert f"answered {status}" in failed.message
    assert threading.active_count() <= threads + 4  # those of the server may still look for more
    assert (300_000, 350_000) in holes
    assert_tile(asked(server), holes)
    assert (result.message, result.path.read_bytes() == DATA) == ("resumed", True)
    assert result.bytes == sum(end - start for start, end in holes)


fault = st.one_of(
    st.fixed_dictionaries({"cut": st.integers(0, PIECE), "times": st.integers(1, 9)}),
    st.fixed_dictionaries({"reset": st.integers(0, PIECE)}),
    st.fixed_dictionaries({"flip": st.integers(0, SIZE - 1), "times": st.integers(1, 25)}),
    st.fixed_dictionaries({"cut": st.integers(0, SIZE), "no_range": st.just(True)}),
    st.fixed_dictionaries({"no_range": st.just(True), "times": st.integers(1, 9)}),
    st.fixed_dictionaries(
        {"status": st.sampled_from([404, 416, 429, 503]), "times": st.integers(1, 9)}
    ),
    st.fixed_dictionaries({"content_range": st.just("bytes 1-2/3")}),
    st.fixed_dictionaries({"replace": st.just(DATA[::-1]), "times": st.integers(1, 3)}),
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(faults=st.lists(fault, max_size=5), lengths=st.tuples(*[st.integers(20_000, 400_000)] * 2))
def test_whatever_servers_do_pieces_are_right_or_absent_and_a_later_run_brings_them(
    server, tmp_path_factory, faults, lengths
):
    cache = tmp_path_factory.mktemp("cache")
    manifest = server.serve("a.nwb", data=DATA)
    server.faults.clear()
    for how in faults:
        server.inject("files", **how)

    result = only(fetch(manifest, cache, piece=lengths[0], retry=QUICK))

    assert result.path.exists() == (result.status == "done")
    assert not result.path.exists() or result.path.read_bytes() == DATA
    server.faults.clear()
    again = only(fetch(manifest, cache, piece=lengths[1], retry=QUICK))
    assert again.path.read_bytes() == DATA
    assert {name for name in files_in(cache) if not name.endswith(".bad")} == {"a.nwb"}


# ------------------------------------------------------------------ what an earlier run left


def leave(manifest: Manifest, cache: Path, content: bytes, journal: str | None = None) -> None:
    part = part_of(manifest, cache)
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    if journal is not None:
        part.with_suffix(JOURNAL).write_text(journal)


def test_a_part_in_order_is_continued_in_pieces(server, manifest, tmp_path):
    leave(manifest, tmp_path, DATA[:320_000])

    result = only(fetch_in_pieces(manifest, tmp_path))

    assert_tile(asked(server), [(320_000, SIZE)])
    assert result.path.read_bytes() == DATA


def test_pieces_of_another_length_are_continued(server, manifest, tmp_path):
    journal = [[0, 30_000, 100_000], [400_000, 400_000, 500_000]]
    content = bytearray(DATA)
    for _, at, end in journal:
        content[at:end] = bytes(end - at)
    leave(manifest, tmp_path, bytes(content), json.dumps(journal))

    result = only(fetch_in_pieces(manifest, tmp_path))

    assert_tile(asked(server), [(at, end) for _, at, end in journal])
    assert result.path.read_bytes() == DATA


@pytest.mark.parametrize(
    "journal",
    ["[]", "[[100000, 100000, 200000]]", "[[0, 500000, 600000]]", "torn", "{}"],
)
def test_a_journal_that_lies_costs_one_more_download_and_no_wrong_byte(manifest, tmp_path, journal):
    leave(manifest, tmp_path, bytes(SIZE), journal)

    result = only(fetch_in_pieces(manifest, tmp_path))

    assert result.path.read_bytes() == DATA
    assert result.bytes <= 2 * SIZE
    assert files_in(tmp_path) == ["a.nwb"]


def test_whole_pieces_need_no_request(server, manifest, tmp_path):
    leave(manifest, tmp_path, DATA, "[]")

    assert only(fetch_in_pieces(manifest, tmp_path)).path.read_bytes() == DATA
    assert server.log == []


# ------------------------------------------------------------------ interruptions


def test_pieces_that_are_told_to_stop_are_kept(server, manifest, tmp_path):
    stop = threading.Event()
    ((dataset, asset),) = manifest.items()

    def report(done: int) -> None:
        if done > 300_000:
            stop.set()

    with (
        Bringer(manifest, tmp_path, stop=stop, piece=PIECE, retry=QUICK) as bringer,
        pytest.raises(Stopped),
    ):
        bringer.bring(dataset, asset, report=report, spare=threading.Semaphore(3))
    holes = holes_of(manifest, tmp_path)
    server.log.clear()

    assert sum(end - start for start, end in holes) < SIZE - 300_000
    assert only(fetch_in_pieces(manifest, tmp_path)).path.read_bytes() == DATA
    assert_tile(asked(server), holes)


def test_an_interrupt_in_the_callers_thread_ends_all_connections_and_keeps_the_pieces(
    server, manifest, tmp_path
):
    server.inject("files", drip=(5_000, 0.01), times=None)
    began = time.monotonic()

    def interrupt(label: str, done: int, total: int) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(manifest, tmp_path, piece=PIECE, progress=interrupt)

    assert time.monotonic() - began < 3
    server.faults.clear()
    result = only(fetch_in_pieces(manifest, tmp_path))
    assert (result.message, result.path.read_bytes() == DATA) == ("resumed", True)
    assert result.bytes < SIZE - 50_000


def fetch_and_save_often(url: str, cache: Path) -> None:
    """Run in a process that will be killed."""
    part_module.SAVE_EVERY = 10_000
    manifest = manifest_of(HttpsSource(kind="https", url=url), pin("a.nwb", DATA))
    fetch_in_pieces(manifest, cache)


def test_killed_in_the_middle_of_pieces_little_is_brought_twice(server, manifest, tmp_path):
    server.inject("files", drip=(10_000, 0.03), times=None)
    url = server.url("files") + "/data/"
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=partial(fetch_and_save_often, url, tmp_path))
    child.start()
    end = time.monotonic() + 30
    while len(server.log) < 12 and time.monotonic() < end:
        time.sleep(0.005)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    begun = sum(end - start for start, end in asked(server))
    server.faults.clear()

    result = only(fetch_in_pieces(manifest, tmp_path))

    assert child.exitcode == -signal.SIGKILL
    assert result.path.read_bytes() == DATA
    assert 0 < result.bytes < SIZE - 250_000
    assert begun + result.bytes < 1.6 * SIZE


def test_threads_that_fetch_the_same_pieces_do_not_meet(server, manifest, tmp_path):
    results: list[FetchResult] = []
    threads = [
        threading.Thread(target=lambda: results.extend(fetch_in_pieces(manifest, tmp_path)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {result.status for result in results} <= {"done", "skipped"}
    assert_tile(asked(server), [(0, SIZE)])


def test_a_failing_write_of_a_piece_gives_a_sentence_and_keeps_the_rest(
    manifest, tmp_path, monkeypatch
):
    write = os.pwrite

    def full(fd: int, data: bytes, at: int) -> int:
        if at > 500_000:
            raise OSError(28, "No space left on device")
        return write(fd, data, at)

    with monkeypatch.context() as patch:
        patch.setattr(part_module.os, "pwrite", full)
        result = only(fetch_in_pieces(manifest, tmp_path))

    assert "is full; free some space" in result.message
    assert only(fetch_in_pieces(manifest, tmp_path)).path.read_bytes() == DATA


def test_a_defect_in_a_helping_thread_reaches_the_caller(server, manifest, tmp_path, monkeypatch):
    def broken(at: int) -> None:
        if at >= 600_000:
            monkeypatch.setattr(part_module.Part, "write", lambda *_: {}["gone"])

    answer_by_offset(monkeypatch, server, broken)

    with pytest.raises(KeyError, match="gone"):
        fetch_in_pieces(manifest, tmp_path)


def test_no_helper_is_started_for_a_piece_that_another_failed_to_bring(server, manifest, tmp_path):
    """Else one helper after the other ends at once, and the transfer never does."""

    class Slow(threading.Semaphore):
        def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
            time.sleep(0.05)  # the helper before this one has failed meanwhile
            return super().acquire(blocking, timeout)

    server.inject("files", status=403, times=None)
    ((dataset, asset),) = manifest.items()
    errors: list[FetchError] = []

    def bring() -> None:
        with Bringer(manifest, tmp_path, piece=PIECE, retry=QUICK) as bringer:
            try:
                bringer.bring(dataset, asset, spare=Slow(3))
            except FetchError as error:
                errors.append(error)

    thread = threading.Thread(target=bring, daemon=True)
    thread.start()
    thread.join(timeout=10)

    assert len(errors) == 1
    assert len(server.log) < 4


def test_a_refused_piece_says_which_asset_and_why(server, manifest, tmp_path):
    server.inject("files", status=403, times=None)
    ((dataset, asset),) = manifest.items()

    with (
        Bringer(manifest, tmp_path, piece=PIECE, retry=QUICK) as bringer,
        pytest.raises(FetchError, match=r"data/a \(a\.nwb\): .* answered 403 "),
    ):
        bringer.bring(dataset, asset, spare=threading.Semaphore(3))
