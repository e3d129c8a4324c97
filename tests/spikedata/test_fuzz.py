"""Given any bytes, harmonising ends in a recording or in a SpikedataError, and in nothing else.

No other exception, no crash, no hang, little memory, no file outside the store, and nothing read
from another file. Cases run in processes that may die; a failing case names its file and seed:
``python -m tests.spikedata.test_fuzz NAME SEED`` runs it alone.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

import h5py
import numpy as np
import pytest

from spikedata.errors import SpikedataError
from spikedata.harmonize import harmonize
from spikedata.manifest import Asset, Dataset, FileSource
from spikedata.recording import Recording
from spikedata.store import Store
from spikedata.testing import write_nwb
from spikedata.testing.layouts import layouts, write_layout
from tests.damage import CANARY, damage, has_endless_heap

LONGEST = 20.0  # s of harmonising
DAMAGING = 60.0  # s besides: until a process has begun and a file is damaged, on a busy machine
MOST_MEMORY = 3 * 2**29  # bytes that a case may take besides what the process has
WORKERS = 2
RENEWED = 300  # cases after which a process is another one
QUICK = [("write_nwb", seed) for seed in range(110)] + [
    ("odoherty-indy", seed) for seed in range(40)
]
SLOW_PER_FILE = {"write_nwb": 1200, "odoherty-indy": 400, "odoherty-loco": 100}
SLOW_EACH = 80  # of every other layout

Case = tuple[str, int]


# ------------------------------------------------------------------ one case, in a child


def stated(name: str) -> tuple[Dataset, Asset]:
    if name != "write_nwb":
        return layouts()[name].stated()
    asset = Asset(path="write_nwb.nwb", size=1, sha256="0" * 64, session="s0")
    dataset = Dataset(
        id="fuzz", title="fuzz", licence="CC0-1.0", citation="none",
        source=FileSource(kind="file", root="."), assets=(asset,),
    )  # fmt: skip
    return dataset, asset


def write(name: str, folder: Path) -> Path:
    return (
        write_nwb(folder / "write_nwb.nwb") if name == "write_nwb" else write_layout(name, folder)
    )


def run_case(name: str, seed: int, original: Path, folder: Path) -> str:
    """Return what is wrong with how a damaged file was harmonised and stored, or nothing."""
    _watch.folder = str(folder)
    path = folder / original.name
    shutil.copy(original, path)
    _write_beside(folder)
    done = damage(path, random.Random(f"{name} {seed}"), folder)
    if has_endless_heap(path):
        return ""  # a known fault of libhdf5; see there
    before = set(folder.iterdir())
    _forget_peak()
    began, used = time.monotonic(), _memory("VmRSS")
    problem = ""
    try:
        _watch.store = str(folder / "store")
        recording = harmonize(path, *stated(name))
        problem = _shown(recording)
        Store(folder / "store", create=True).write(recording, {})
        reread = Store(folder / "store")[recording.recording_id]
        np.testing.assert_array_equal(reread.spike_time, recording.spike_time)
    except SpikedataError as error:
        if _has_memory_error(error):
            problem = f"memory ran out: {error}"
    except BaseException:
        problem = traceback.format_exc(limit=-9)
    finally:
        _watch.store = None
    if time.monotonic() - began > LONGEST:
        problem += f" took {time.monotonic() - began:.0f} s"
    if _memory("VmHWM") - used > MOST_MEMORY:
        problem += f" took {(_memory('VmHWM') - used) / 2**20:.0f} MiB"
    if set(folder.iterdir()) - before - {folder / "store"} or _watch.found:
        problem += f" wrote {set(folder.iterdir()) - before} {_watch.found}"
    return f"{name} {seed} ({done}): {problem}" if problem else ""


def _shown(recording: Recording) -> str:
    """Return whether a value of the file beside has come into a recording."""
    arrays = [recording.spike_time, *(one.values for one in recording.series.values())]
    return "it shows another file" if any((one == CANARY).any() for one in arrays) else ""


def _write_beside(folder: Path) -> None:
    with h5py.File(folder / "beside.h5", "w") as file:
        file["canary"] = np.full(100, CANARY)
        file.create_dataset("canaries", (1000, 3), "f8", fillvalue=CANARY)
        file.create_group("group")["data"] = np.full(100, CANARY)
        file["group/timestamps"] = np.arange(100.0)
    np.full(2000, CANARY).tofile(folder / "beside.raw")


def _has_memory_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _memory(field: str) -> int:
    """Return bytes of memory of this process, where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class _Watch:
    """Notes every file that is opened for writing, made or moved outside the store."""

    folder, store = "", None
    found: list[str] = []  # noqa: RUF012

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.store is None:
            return
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            paths = [path] if writes and isinstance(path, str | bytes | os.PathLike) else []
        elif event in ("os.mkdir", "os.remove", "os.truncate"):
            paths = [arguments[0]] if arguments[-1] == -1 or event == "os.truncate" else []
        elif event in ("os.rename", "os.link", "os.symlink"):
            paths = list(arguments[:2])
        else:
            return
        for path in paths:
            full = os.path.realpath(os.fsdecode(path))
            if not full.startswith(os.path.realpath(self.store)) and not full.startswith("/dev/"):
                self.found.append(f"{event} {full}")


_watch = _Watch()


def _work(pipe: Connection, originals: dict[str, Path]) -> None:
    """Run cases until there are no more; a limit of memory spares the machine."""
    faulthandler.enable()
    sys.addaudithook(_watch)
    if sys.platform == "linux":
        size = _memory("VmData") + 2 * MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    while (case := pipe.recv()) is not None:
        _watch.found.clear()
        with tempfile.TemporaryDirectory() as folder:
            pipe.send(run_case(*case, originals[case[0]], Path(folder)))


# ------------------------------------------------------------------ many cases, in children


class _Worker:
    def __init__(self, originals: dict[str, Path]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, originals), daemon=True)
        self.process.start()
        theirs.close()
        self.case: Case | None = None
        self.until = 0.0
        self.done = 0

    def give(self, case: Case, patience: float) -> None:
        self.case, self.until = case, time.monotonic() + patience
        self.pipe.send(case)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run_cases(cases: Sequence[Case], originals: dict[str, Path]) -> Iterator[str]:
    """Run cases in processes and yield what is wrong; one that dies or hangs is a failed case."""
    left = list(reversed(cases))
    workers = [_Worker(originals) for _ in range(min(WORKERS, len(left)))]
    try:
        for worker in workers:
            worker.give(left.pop(), LONGEST + DAMAGING)
        while busy := [worker for worker in workers if worker.case is not None]:
            wait([worker.pipe for worker in busy], timeout=1.0)
            for worker in busy:
                dead, late = False, time.monotonic() > worker.until
                if worker.pipe.poll():
                    try:
                        problem = worker.pipe.recv()
                    except (EOFError, OSError):
                        dead, problem = True, f"{worker.case} died"
                elif late:
                    dead, problem = True, f"{worker.case} took more than {LONGEST + DAMAGING} s"
                else:
                    continue
                if problem:
                    yield problem
                worker.case = None
                worker.done += 1
                if dead or worker.done == RENEWED:
                    worker.stop()
                    workers[workers.index(worker)] = worker = _Worker(originals)
                if left:
                    worker.give(left.pop(), LONGEST + DAMAGING)
    finally:
        for worker in workers:
            worker.stop()


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    """Write the file of every name when it is first asked for."""
    folder = tmp_path_factory.mktemp("whole")

    class Files(dict):
        def __missing__(self, name: str) -> Path:
            self[name] = write(name, folder)
            return self[name]

    return Files()


def only(originals: dict[str, Path], cases: Sequence[Case]) -> dict[str, Path]:
    return {name: originals[name] for name in {name for name, _ in cases}}


def test_damaged_files_become_recordings_or_clear_errors(originals):
    problems = list(run_cases(QUICK, only(originals, QUICK)))

    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_many_damaged_files_become_recordings_or_clear_errors(originals):
    names = ["write_nwb", *layouts()]
    cases = [(name, seed) for name in names
             for seed in range(1000, 1000 + SLOW_PER_FILE.get(name, SLOW_EACH))]  # fmt: skip

    problems = list(run_cases(cases, only(originals, cases)))

    assert len(cases) >= 2500
    assert not problems, "\n".join(problems)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as place:
        chosen = sys.argv[1]
        found = run_case(chosen, int(sys.argv[2]), write(chosen, Path(whole)), Path(place))
        sys.exit(found or 0)
