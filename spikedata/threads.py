"""A pool of threads for work that waits for servers, with all calls made in the caller's thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

__all__ = ["Calls", "Stopped", "run_tasks"]

PATIENCE = 0.5  # s that an interrupt waits for transfers to clean up

T = TypeVar("T")
Calls = queue.SimpleQueue[Callable[[], object]]
"""Made by threads, for the caller's thread."""


class Stopped(Exception):
    """The caller no longer wants the bytes."""


def run_tasks(
    tasks: Sequence[Callable[[], T]],
    jobs: int,
    calls: Calls,
    stop: threading.Event,
    idle: Callable[[], object] = lambda: None,
) -> list[T]:
    """Run tasks, several at a time, and meanwhile make in this thread the calls they ask for.

    The threads are daemons, so that an interrupt need not wait for a server that is silent.

    Parameters
    ----------
    tasks : sequence of callable
        What to run; one that raises `Stopped` ends its thread, another error is raised here.
    jobs : int
        Threads.
    calls : Calls
        Where tasks put what this thread shall call, as to show progress.
    stop : Event
        Set at the end, and when this thread is interrupted: tasks then raise `Stopped`.
    idle : callable
        Called by each thread that finds no more tasks.
    """
    results: dict[int, T] = {}
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(tasks)):
        todo.put(index)

    def work() -> None:
        try:
            while not stop.is_set():
                index = todo.get_nowait()
                calls.put(partial(results.__setitem__, index, tasks[index]()))
        except queue.Empty:
            idle()
        except Stopped:
            return
        except BaseException as error:  # a defect: let the caller's thread raise it
            calls.put(partial(_raise, error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    try:
        for thread in threads:
            thread.start()
        while len(results) < len(tasks):
            calls.get()()
    finally:
        stop.set()
        patience = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(timeout=max(0.0, patience - time.monotonic()))
    return [results[index] for index in range(len(tasks))]


def _raise(error: BaseException) -> None:
    raise error
