from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.workers import Workers

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _three_threads(_one_thread: None) -> None:
    """Let torch have more threads than the one that it has while workers are at work."""
    torch.set_num_threads(3)


@given(n_windows=st.integers(0, 40), at_once=st.integers(1, 50))
def test_pieces_hold_every_window_once_and_in_order(n_windows, at_once):
    pieces = Workers(CPU, "float32", 2, at_once).split(n_windows)

    assert [row for first, last in pieces for row in range(first, last)] == list(range(n_windows))
    assert all(0 < last - first <= at_once for first, last in pieces)


@pytest.mark.parametrize(
    ("precision", "n_windows", "longest"),
    [("float32", 128, 8), ("bfloat16", 128, 16), ("float32", 16, 4), ("bfloat16", 6, 2)],
)
def test_a_small_batch_still_has_four_pieces(precision, n_windows, longest):
    pieces = Workers(CPU, precision, 1).split(n_windows)

    assert max(last - first for first, last in pieces) == longest
    assert len(pieces) >= min(3, n_windows)


def test_a_gpu_takes_all_windows_at_once_unless_told_otherwise():
    assert Workers(torch.device("cuda"), "float32").split(1024) == [(0, 1024)]
    assert Workers(torch.device("cuda"), "float32", at_once=512).split(1024) == [
        (0, 512),
        (512, 1024),
    ]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_thread_has_one_core_and_results_keep_their_order(threads):
    seen = []
    with Workers(CPU, "float32", threads) as workers:

        def square(x: int) -> int:
            seen.append((threading.get_ident(), torch.get_num_threads()))
            return x * x

        assert list(workers.map(square, range(50))) == [x * x for x in range(50)]

    assert {count for _, count in seen} == {1}
    assert len({thread for thread, _ in seen}) <= threads
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_worker_reaches_the_caller_and_torch_gets_its_threads_back(threads):
    def fail(x: int) -> None:
        raise ValueError(f"no {x}")

    with pytest.raises(ValueError, match="no 0"), Workers(CPU, "float32", threads) as workers:
        list(workers.map(fail, [0, 1, 2]))
    assert torch.get_num_threads() == 3


def test_torch_gets_its_threads_back_after_an_interrupt_while_the_last_pieces_end(monkeypatch):
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Workers(CPU, "float32", 2) as workers:
        monkeypatch.setattr(workers._pool, "shutdown", interrupted)
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted on Linux")
def test_a_thread_keeps_to_its_core_from_its_first_product():
    program = """
import os, torch
from spikedata_model.workers import Workers
def count():
    return len(os.listdir("/proc/self/task"))
square = torch.ones(600, 600)
before = count()
with Workers(torch.device("cpu"), "float32", 2) as workers:
    list(workers.map(lambda _: torch.mm(square, square), range(8)))
    print(count() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OMP_NUM_THREADS": "4"}, capture_output=True, check=True,
    )  # fmt: skip

    assert int(done.stdout) <= 2
