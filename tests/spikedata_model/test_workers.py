from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.workers import Workers

CPU = torch.device("cpu")


@given(n_windows=st.integers(0, 40), at_once=st.integers(1, 50))
def test_pieces_hold_every_window_once_and_in_order(n_windows, at_once):
    pieces = Workers(CPU, "float32", 2, at_once).split(n_windows)

    assert [row for first, last in pieces for row in range(first, last)] == list(range(n_windows))
    assert all(0 < last - first <= at_once for first, last in pieces)


def test_a_gpu_takes_all_windows_at_once_unless_told_otherwise():
    assert Workers(torch.device("cuda"), "float32").split(1024) == [(0, 1024)]
    assert Workers(torch.device("cuda"), "float32", at_once=512).split(1024) == [
        (0, 512),
        (512, 1024),
    ]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_thread_has_one_core_and_results_keep_their_order(threads):
    before = torch.get_num_threads()
    seen = []
    with Workers(CPU, "float32", threads) as workers:

        def square(x: int) -> int:
            seen.append((threading.get_ident(), torch.get_num_threads()))
            return x * x

        assert list(workers.map(square, range(50))) == [x * x for x in range(50)]

    assert {count for _, count in seen} == {1}
    assert len({thread for thread, _ in seen}) <= threads
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_worker_reaches_the_caller_and_torch_gets_its_threads_back(threads):
    before = torch.get_num_threads()

    def fail(x: int) -> None:
        raise ValueError(f"no {x}")

    with pytest.raises(ValueError, match="no 0"), Workers(CPU, "float32", threads) as workers:
        list(workers.map(fail, [0, 1, 2]))
    assert torch.get_num_threads() == before
