from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from spikedata.errors import ExecutorError
from spikedata.executors import connect, in_processes, on_executor, was_lost


def square(number: int) -> int:
    return number * number


def fail_on_three(number: int) -> int:
    if number == 3:
        raise ZeroDivisionError("three")
    return number


def die_on_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def process_of(_: int) -> int:
    return os.getpid()


def test_more_items_than_processes_wear_out_are_all_done():
    """A pool with `max_tasks_per_child` stops for ever at 64 (python/cpython issue 115634)."""
    done = list(in_processes(square, range(70), 2))

    assert sorted(item for item, _ in done) == list(range(70))
    assert all(future.result() == item**2 for item, future in done)


def test_a_process_is_replaced_when_it_is_worn_out():
    found = [future.result() for _, future in in_processes(process_of, range(70), 1)]

    assert [len(set(found[:32])), len(set(found[32:64])), len(set(found))] == [1, 1, 3]
    assert os.getpid() not in found


def test_an_exception_belongs_to_its_item():
    done = dict(in_processes(fail_on_three, range(6), 2))

    assert type(done[3].exception()) is ZeroDivisionError
    assert not was_lost(ZeroDivisionError())
    assert [done[item].result() for item in (0, 1, 2, 4, 5)] == [0, 1, 2, 4, 5]


def test_a_process_that_is_killed_takes_one_item_with_it():
    done = dict(in_processes(die_on_three, range(20), 2))

    assert [item for item, future in done.items() if future.exception()] == [3]
    assert was_lost(done[3].exception())


def test_a_process_that_is_killed_while_it_waits_takes_none():
    outcomes = in_processes(process_of, range(4), 1)
    _, first = next(outcomes)
    os.kill(first.result(), signal.SIGKILL)
    time.sleep(0.3)

    assert [future.exception() for _, future in outcomes] == [None] * 3


def test_nothing_more_is_begun_once_the_iterator_is_closed(tmp_path):
    outcomes = in_processes(leave_a_file, [tmp_path / str(at) for at in range(50)], 2)
    next(outcomes)
    outcomes.close()
    begun = len(list(tmp_path.iterdir()))
    time.sleep(0.3)

    assert begun == len(list(tmp_path.iterdir())) <= 4


def leave_a_file(path: Path) -> None:
    path.touch()
    time.sleep(0.05)


SCRIPT = """
from pathlib import Path
from spikedata.executors import in_processes
from tests.spikedata.test_executors import {work}
{guard}
    for item, future in in_processes({work}, {items}, 2):
        print(future.result(), flush=True)
"""


def run_script(folder: Path, guard: str, work: str, items: str) -> subprocess.Popen[str]:
    path = folder / "script.py"
    path.write_text(SCRIPT.format(guard=guard, work=work, items=items))
    return subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()}, start_new_session=True,
    )  # fmt: skip


def test_a_script_without_a_guard_is_told_so(tmp_path):
    with run_script(tmp_path, "if True:", "square", "[1, 2]") as script:
        _, printed = script.communicate(timeout=60)

    assert "died before they were ready" in printed.splitlines()[-1]
    assert '`if __name__ == "__main__":`' in printed.splitlines()[-1]


def sleep_long(seconds: float) -> int:
    print(os.getpid(), flush=True)
    time.sleep(seconds)
    return 0


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_processes_end_with_the_one_that_started_them(tmp_path):
    guard = 'if __name__ == "__main__":'
    with run_script(tmp_path, guard, "sleep_long", "[60.0, 60.0]") as script:
        assert script.stdout is not None
        children = [int(script.stdout.readline()) for _ in range(2)]
        assert all(is_alive(child) for child in children)
        script.kill()

    until = time.monotonic() + 10
    while any(is_alive(child) for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(is_alive(child) for child in children)


# ------------------------------------------------------------------ any executor


class Breaks(Executor):
    """An executor that is broken from its third item on."""

    def __init__(self) -> None:
        self.count = 0

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        if self.count > 2:
            raise BrokenProcessPool("broken")
        future: Future[int] = Future()
        future.set_result(fn(*args))
        return future


def test_what_a_broken_executor_did_not_do_is_lost():
    done = dict(on_executor(Breaks(), square, range(5)))

    assert {item for item, future in done.items() if not future.exception()} == {0, 1}
    assert all(was_lost(done[item].exception()) for item in (2, 3, 4))


def test_what_an_executor_has_not_begun_is_cancelled_when_the_iterator_is_closed():
    release, seen = threading.Event(), []

    def work(item: int) -> None:
        seen.append(item)
        release.wait(10 if item else 0)

    with ThreadPoolExecutor(1) as executor:
        outcomes = on_executor(executor, work, range(50))
        next(outcomes)
        outcomes.close()
        release.set()

    assert len(seen) <= 2


def test_what_looks_like_the_error_of_dask_is_told_by_its_module():
    named = type("KilledWorker", (Exception,), {"__module__": "distributed.scheduler"})
    other = type("KilledWorker", (Exception,), {"__module__": "elsewhere"})

    assert was_lost(named())
    assert was_lost(BrokenExecutor())
    assert not was_lost(other())


# ------------------------------------------------------------------ connecting


@pytest.mark.parametrize(
    "address",
    ["", "dask", "dask://", "dask://host", "dask://host:", "dask://host:port", "dask://a b:1",
     "tcp://host:8786", "ray://host:8786", "dask://host:8786/path", "dask://:8786"],
)  # fmt: skip
def test_an_address_of_another_kind_is_refused(address):
    with pytest.raises(ExecutorError, match="expected dask://HOST:PORT"), connect(address):
        pass


def test_without_dask_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)

    with (
        pytest.raises(ExecutorError, match=r"pip install 'neural-spikedata\[dask\]'"),
        connect("dask://127.0.0.1:8786"),
    ):
        pass


@pytest.mark.filterwarnings("ignore")
def test_where_nobody_answers_there_is_a_sentence_in_time():
    pytest.importorskip("distributed")
    with socket.socket() as silent:  # it accepts, and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begin = time.monotonic()
        with (
            pytest.raises(ExecutorError, match=r"No Dask scheduler answers at dask://127.0.0.1"),
            connect(f"dask://127.0.0.1:{silent.getsockname()[1]}", timeout=1.0),
        ):
            pass
        assert time.monotonic() - begin < 10


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_without_workers_is_a_sentence():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", scheduler_port=0) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        with (
            pytest.raises(ExecutorError, match=r"has had no worker for 0.5 s: start some with"),
            connect(address, timeout=0.5),
        ):
            pass
