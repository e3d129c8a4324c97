"""One process, a pool, Dask and shards make the same bytes, whoever is killed meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import tomli_w

from spikedata.cache import asset_path
from spikedata.errors import ExecutorError, StoreError
from spikedata.executors import connect
from spikedata.files import sha256_of
from spikedata.ingest import ingest
from spikedata.manifest import Manifest
from spikedata.store import Store
from spikedata.testing import write_nwb

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-c", "from spikedata.cli import main; main()"]
FILES = [60, pytest.param(1000, marks=pytest.mark.slow)]
SHARDS = 4


class Bench:
    """Some hundred small files, fetched, and what one process makes of them."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count, self.cache = folder, count, folder / "cache"
        self.manifest = make_assets(folder, count)
        self.path = folder / "many.toml"
        content = self.manifest.model_dump(mode="json", exclude_none=True)
        self.path.write_text(tomli_w.dumps(content))
        begin = time.perf_counter()
        results = ingest(self.manifest, self.cache, folder / "one-process")
        self.seconds = time.perf_counter() - begin
        assert {one.status for one in results} == {"done"}
        self.expected = hashes(folder / "one-process")

    def start(self, store: Path, *options: str) -> subprocess.Popen[str]:
        """Start `spikedata ingest` with these options."""
        command = [*PROGRAM, "ingest", "--manifest", str(self.path), "--cache", str(self.cache),
                   "--store", str(store), "--json", *options]  # fmt: skip
        return subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
        )  # fmt: skip


def make_assets(folder: Path, count: int) -> Manifest:
    """Write NWB files with spikes and a session id of their own, as if they had been fetched."""
    first = write_nwb(folder / "first.nwb").read_bytes()
    assets, paths = [], []
    for at in range(count):
        path = folder / "cache/assets/lab/file" / f"{at}.nwb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(first)
        with h5py.File(path, "r+") as file:
            times = file["units/spike_times"]
            times[:200] = np.sort(np.random.default_rng(at).uniform(0, 20, 200))
        content = path.read_bytes()
        pin = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assets.append({"path": f"{at}.nwb", "session": f"s{at}", **pin})
        paths.append(path)
    series = [{"name": "speed", "source": ["processing/behavior/speed"]}]
    manifest = Manifest.model_validate(
        {
            "name": "many", "title": "t",
            "datasets": [{
                "id": "lab", "title": "t", "licence": "CC0", "citation": "c",
                "source": {"kind": "file"}, "assets": assets,
                "harmonize": {"series": series, "targets": ["speed"]},
            }],
        }
    )  # fmt: skip
    assert [asset_path(folder / "cache", *one) for one in manifest.items()] == paths
    return manifest


@pytest.fixture(scope="module", params=FILES)
def bench(request, tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("many"), request.param)


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("few"), 6)


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


def hashes(store: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that a reader of a store could come across."""
    return {
        str(path.relative_to(store)): sha256_of(path)
        for path in store.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(store).parts)
    }


def address_of(cluster) -> str:
    return cluster.scheduler_address.replace("tcp://", "dask://")


def finished(program: subprocess.Popen[str], statuses=("done",)) -> int:
    """Return how many assets a program was done with; fail if any of them failed."""
    out, printed = program.communicate(timeout=1500)
    rows = json.loads(out or "[]")
    failed = [row["message"] for row in rows if row["status"] == "failed"]
    assert (program.returncode, failed) == (0, []), printed[-3000:]
    assert {row["status"] for row in rows} <= {*statuses}
    return len(rows)


# ------------------------------------------------------------------ the same bytes


def test_the_recordings_differ_from_each_other(bench):
    """Otherwise the tests below could not tell one from another."""
    spikes = [one for name, one in bench.expected.items() if name.endswith("spikes.arrow")]

    assert len(set(spikes)) == bench.count


def test_a_pool_makes_the_same_bytes(bench, tmp_path):
    assert finished(bench.start(tmp_path, "--workers", "2")) == bench.count
    assert hashes(tmp_path) == bench.expected


def test_a_dask_cluster_makes_the_same_bytes(bench, cluster, tmp_path):
    assert finished(bench.start(tmp_path, "--executor", address_of(cluster))) == bench.count
    assert hashes(tmp_path) == bench.expected


def test_shards_at_once_make_the_same_bytes(bench, tmp_path):
    programs = [bench.start(tmp_path, "--shard", f"{at}/{SHARDS}") for at in range(1, SHARDS + 1)]

    assert sum(finished(program) for program in programs) == bench.count
    assert hashes(tmp_path) == bench.expected


def test_two_machines_that_do_the_same_at_once_do_no_harm(bench, tmp_path):
    programs = [bench.start(tmp_path) for _ in range(2)]

    assert [finished(one, ("done", "skipped")) for one in programs] == [bench.count] * 2
    assert hashes(tmp_path) == bench.expected
    assert not list(tmp_path.glob("*/.*"))  # neither left a directory behind


# ------------------------------------------------------------------ with kills


class Disturbed:
    """Kills one process after another and reads the store, until it is left."""

    def __init__(self, store: Path, victims: Callable[[], list[int]], pause: float, most: int):
        self.kills = self.looks = 0
        self.problems: list[Exception] = []
        self._store, self._victims, self._pause, self._most = store, victims, pause, most
        self._over = threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._kill, self._read)]

    def __enter__(self) -> Disturbed:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _kill(self) -> None:
        rng = random.Random(0)
        while self.kills < self._most and not self._over.wait(rng.uniform(0.3, 1.7) * self._pause):
            alive = self._victims()
            if alive:
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(alive), signal.SIGKILL)
                    self.kills += 1

    def _read(self) -> None:
        while not self._over.wait(0.05):
            try:
                store = Store(self._store)
                for name in list(store)[-20:]:
                    store.verify(name)
                    self.looks += 1
            except StoreError as error:
                if self._store.is_dir():
                    self.problems.append(error)


def spawned_by(program: subprocess.Popen[str]) -> list[int]:
    """Return the processes of a program's pool."""
    with suppress(psutil.Error):
        return [
            child.pid
            for child in psutil.Process(program.pid).children()
            if any("spawn_main" in word for word in child.cmdline())
        ]
    return []


def pace(bench: Bench) -> tuple[float, int]:
    """Return the mean of seconds between kills, and how many there may be.

    Kills faster than a process starts and imports would let an asset be unlucky four times.
    """
    return (0.8, 5) if bench.count < 100 else (5.0, 40)


def check(disturbed: Disturbed, store: Path, bench: Bench) -> None:
    assert disturbed.kills > 0
    assert disturbed.looks > 0
    assert disturbed.problems == []
    assert hashes(store) == bench.expected
    opened = Store(store)
    for name in opened:
        opened.verify(name)


def test_a_pool_whose_processes_are_killed_makes_the_same_bytes(bench, tmp_path):
    store = tmp_path / "store"
    program = bench.start(store, "--workers", "2")
    with Disturbed(store, lambda: spawned_by(program), *pace(bench)) as disturbed:
        # "skipped": written just before the kill, found when it was run again
        assert finished(program, ("done", "skipped")) == bench.count

    check(disturbed, store, bench)


def test_a_dask_cluster_whose_workers_are_killed_makes_the_same_bytes(bench, cluster, tmp_path):
    store = tmp_path / "store"

    def workers() -> list[int]:
        """Return those that run: a nanny whose worker is killed while it starts gives up."""
        nannies = list(cluster.workers.values())
        return [one.pid for one in nannies if one.pid and one.process.status.name == "running"]

    program = bench.start(store, "--executor", address_of(cluster))
    with Disturbed(store, workers, *pace(bench)) as disturbed:
        assert finished(program, ("done", "skipped")) == bench.count

    check(disturbed, store, bench)


def test_shards_that_are_killed_and_started_again_make_the_same_bytes(bench, tmp_path):
    store = tmp_path / "store"
    running: dict[int, subprocess.Popen[str]] = {}

    def start(at: int) -> None:
        running[at] = bench.start(store, "--shard", f"{at}/{SHARDS}")

    for at in range(1, SHARDS + 1):
        start(at)
    restarts = 0
    with Disturbed(
        store, lambda: [one.pid for one in list(running.values())], *pace(bench)
    ) as disturbed:
        while running:
            for at, program in list(running.items()):
                if program.poll() is None:
                    continue
                if program.returncode == -signal.SIGKILL:
                    program.communicate()
                    restarts += 1
                    start(at)
                else:
                    finished(program, ("done", "skipped"))
                    del running[at]
            time.sleep(0.05)

    assert restarts > 0
    check(disturbed, store, bench)


LETHAL = """
import os, signal
from pathlib import Path
from spikedata.testing import make_recording

def run(path, dataset, asset):
    if asset.session == "s2":
        with open(Path(__file__).with_name("tries"), "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return make_recording(0, dataset="lab", session=asset.session, duration=2.0)
"""


@pytest.mark.parametrize("where", ["pool", "dask"])
def test_an_asset_that_kills_every_process_is_tried_again_alone_and_fails_alone(
    few, tmp_path, monkeypatch, where
):
    (tmp_path / "lethal.py").write_text(LETHAL)
    monkeypatch.syspath_prepend(tmp_path)
    content = few.manifest.model_dump(mode="json")
    content["datasets"][0]["harmonize"]["harmonizer"] = "lethal:run"
    manifest = Manifest.model_validate(content)
    if where == "pool":
        results = ingest(manifest, few.cache, tmp_path / "store", workers=2)
    else:
        dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": 0}),
            distributed.LocalCluster(
                n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0"
            ) as cluster,
            connect(address_of(cluster)) as executor,
        ):
            results = ingest(manifest, few.cache, tmp_path / "store", executor=executor)

    assert [one.recording_id for one in results if one.status == "failed"] == ["lab/s2"]
    assert "its process died" in results[2].message
    assert len(Store(tmp_path / "store")) == few.count - 1
    assert (tmp_path / "tries").read_text() == "x" * 4  # once among others, three times alone


@pytest.mark.parametrize(
    ("who", "sentence"),
    [
        ("scheduler first", "scheduler is gone"),
        ("scheduler", "scheduler is gone"),
        ("worker", "has had no worker for 2 s; start some"),
    ],
)
def test_without_scheduler_or_workers_an_ingest_ends_and_says_so(
    few, tmp_path, monkeypatch, who, sentence
):
    pytest.importorskip("distributed")
    monkeypatch.setattr("spikedata.executors.NO_WORKER_FOR", 2.0)
    (tmp_path / "slow.py").write_text(
        LETHAL.replace("os.kill(os.getpid(), signal.SIGKILL)", "__import__('time').sleep(600)")
    )
    monkeypatch.syspath_prepend(tmp_path)
    content = few.manifest.model_dump(mode="json")
    content["datasets"][0]["harmonize"]["harmonizer"] = "slow:run"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dask = [sys.executable, "-W", "ignore", "-m", "dask"]
    scheduler, worker = (
        subprocess.Popen([*dask, *words], env=environment, stderr=subprocess.DEVNULL)
        for words in (
            ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
            [
                "worker",
                f"tcp://127.0.0.1:{port}",
                "--nthreads",
                "1",
                "--no-nanny",
                "--no-dashboard",
            ],
        )
    )
    try:
        with connect_when_up(f"dask://127.0.0.1:{port}") as executor:
            if who == "scheduler first":
                scheduler.kill()
            else:
                victim = scheduler if who == "scheduler" else worker
                args = (tmp_path / "tries", victim)
                threading.Thread(target=kill_after, args=args).start()
            results = ingest(
                Manifest.model_validate(content), few.cache, tmp_path / "store", executor=executor
            )
    finally:
        for one in (worker, scheduler):
            one.kill()
            one.wait()

    failed = [one for one in results if one.status == "failed"]
    assert "lab/s2" in {one.recording_id for one in failed}
    assert all(sentence in one.message for one in failed)


def kill_after(sign: Path, process: subprocess.Popen[bytes]) -> None:
    """Kill a process once a file is there."""
    while not sign.exists():
        time.sleep(0.05)
    process.kill()


@contextmanager
def connect_when_up(address: str) -> Iterator[Executor]:
    until = time.monotonic() + 60
    while True:
        try:
            context = connect(address, timeout=5.0)
            executor = context.__enter__()
            break
        except ExecutorError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
    try:
        yield executor
    finally:
        context.__exit__(None, None, None)


# ------------------------------------------------------------------ Ctrl-C, Slurm, misuse


@pytest.mark.parametrize("whom", ["program", "terminal"])
def test_ctrl_c_stops_a_pool_and_the_same_command_goes_on(bench, tmp_path, whom):
    """A terminal sends it to the program and its processes, `kill -INT` to the program alone."""
    program = bench.start(tmp_path / "store", "--workers", "2")
    while not list(tmp_path.glob("store/lab/s*/recording.json")):
        assert program.poll() is None
        time.sleep(0.02)
    if whom == "terminal":
        os.killpg(program.pid, signal.SIGINT)
    else:
        program.send_signal(signal.SIGINT)
    _, printed = program.communicate(timeout=60)

    assert program.returncode == 130
    assert "Stopped. What is finished is kept" in printed
    assert len(Store(tmp_path / "store")) < bench.count
    assert finished(bench.start(tmp_path / "store"), ("done", "skipped")) == bench.count
    assert hashes(tmp_path / "store") == bench.expected


INTERRUPTED_WHILE_LETTING_GO = """
import time
from spikedata import cli

class Held:
    def __del__(self):
        raise KeyboardInterrupt  # as Ctrl-C does at that moment: Python prints it and goes on

@cli.app.command()
def hold():
    held = Held()
    del held
    for _ in range(300):
        time.sleep(0.1)

cli.main()
"""


def test_ctrl_c_is_not_lost_where_python_ignores_it():
    program = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_LETTING_GO, "hold"],
        capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip

    assert program.returncode == 130
    assert program.stderr.startswith("Stopped. What is finished is kept")


@contextmanager
def on_the_path(folder: Path) -> Iterator[dict[str, str]]:
    """Yield an environment in which `spikedata` is this one."""
    program = folder / "bin" / "spikedata"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nfrom spikedata.cli import main\n"
        'if __name__ == "__main__":\n    main()\n'
    )
    program.chmod(0o755)
    known = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    yield known | {"PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("array", "extra"),
    [
        ((1, 2, 3), {}),  # --array=1-3
        ((0, 1, 2), {"SLURM_ARRAY_TASK_MIN": "0"}),  # --array=0-2
        ((10, 15, 20), {"SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "5"}),
    ],
)
def test_the_array_job_of_slurm_runs_every_shard(few, tmp_path, array, extra):
    lengths = []
    with on_the_path(tmp_path) as environment:
        for task in array:
            done = subprocess.run(
                ["bash", str(ROOT / "examples/slurm_ingest.sh"), str(few.path),
                 "--cache", str(few.cache), "--store", str(tmp_path / "store"), "--json"],
                env=environment | extra | {"SLURM_ARRAY_TASK_ID": str(task),
                                           "SLURM_ARRAY_TASK_COUNT": str(len(array))},
                capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            lengths.append(len(json.loads(done.stdout)))

    assert sum(lengths) == few.count
    assert max(lengths) - min(lengths) <= 1
    assert hashes(tmp_path / "store") == few.expected


def test_the_array_job_outside_an_array_says_how_to_send_it(tmp_path):
    with on_the_path(tmp_path) as environment:
        done = subprocess.run(
            ["bash", str(ROOT / "examples/slurm_ingest.sh"), "sample"],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    assert done.returncode == 2
    assert "sbatch" in done.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--shard", "5/4"], "Error: There is no shard 5 of 4: expected 1 to 4."),
        (["--shard", "half"], "Error: 'half' is no shard: expected I/N"),
        (["--executor", "ray://x:1"], "Error: 'ray://x:1' is no executor that is known"),
        (["--executor", "dask://x:1", "--workers", "2"], "Error: Give --workers or --executor"),
    ],
)
def test_misuse_is_one_sentence_and_exit_code_2(tmp_path, options, sentence):
    done = subprocess.run(
        [*PROGRAM, "ingest", "--manifest", "sample", "--store", str(tmp_path), *options],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_shard_with_nothing_in_it_succeeds(tmp_path):
    done = subprocess.run(
        [*PROGRAM, "ingest", "--manifest", "sample", "--store", str(tmp_path), "--shard", "3/3"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (0, "")
    assert "there is nothing to do for this shard" in done.stderr
