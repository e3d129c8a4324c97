"""Runs a function over many items in processes that may die: on this machine, or a Dask cluster.

Both ways yield each item once, with a finished future. `was_lost` tells an item whose process
died, which may be run again, from one whose function raised.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    InvalidStateError,
    ProcessPoolExecutor,
    as_completed,
    wait,
)
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from spikedata.errors import ExecutorError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["connect", "in_processes", "on_executor", "was_lost"]

ITEMS_PER_PROCESS = 32  # then a fresh process takes over, whatever a reader kept in memory
LOOK_EVERY = 1.0  # seconds
NO_WORKER_FOR = 600.0  # seconds; a queue may take its time to start the next
FALSE_STARTS = 10  # processes in a row that died before they ran anything: there is no point
DASK = re.compile(r"dask://(?P<host>\[[0-9A-Fa-f:]+\]|[\w.-]+):(?P<port>[0-9]{1,5})")

Item = TypeVar("Item")
Result = TypeVar("Result")


def was_lost(error: BaseException) -> bool:
    """Return whether an item failed because its process died, not because of what it did.

    True for a broken pool of `concurrent.futures` and for the KilledWorker of Dask, which
    several workers' deaths with the item on them make (`distributed` need not be installed).
    """
    return isinstance(error, BrokenExecutor) or any(
        kind.__name__ == "KilledWorker" and kind.__module__.partition(".")[0] == "distributed"
        for kind in type(error).__mro__
    )


# ------------------------------------------------------------------ this machine


class _Process:
    """One spawned process, replaced when it died or is worn out.

    It has a pool of its own: in a shared one every death breaks all, with no word about which
    item did it, and `max_tasks_per_child` hangs (python/cpython issue 115634).
    """

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._started: Future[None] = Future()
        self._used = 0

    def submit(self, work: Callable[[Item], Result], item: Item) -> Future[Result]:
        """Start on an item; nothing else may be under way."""
        while True:
            if self._pool is None or self._used == ITEMS_PER_PROCESS:
                self.close()
                context = multiprocessing.get_context("spawn")  # forks inherit libhdf5's state
                self._pool = ProcessPoolExecutor(1, context, initializer=_end_with_parent)
                self._used = 0
            try:
                if self._used == 0:
                    self._started = self._pool.submit(_nothing)
                future = self._pool.submit(work, item)
            except BrokenExecutor:  # it was killed while it had nothing to do
                self._used = ITEMS_PER_PROCESS
                continue
            self._used += 1
            return future

    def is_dead(self, future: Future[Result]) -> bool:
        """Return whether the process died under its last item, and is to be replaced."""
        died = isinstance(future.exception(), BrokenExecutor)
        if died:
            self._used = ITEMS_PER_PROCESS
        return died

    @property
    def never_started(self) -> bool:
        """Whether it died before it could have touched an item."""
        return self._started.done() and self._started.exception() is not None

    def close(self) -> None:
        """End the process, after the item that it is at."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _nothing() -> None:
    """Show that a process has started."""


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: its pipe would be read for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Run a function over items in spawned processes, and yield each item when it is done.

    A process that dies takes one item with it, for which `was_lost` is true of its exception;
    another process takes its place, and the other items go on. Items of a process that died
    before it was ready are not lost. Stopped in the middle (Ctrl-C, or the iterator closed), it
    waits for the items that are being worked on, and starts no other.

    Parameters
    ----------
    work : callable
        A function that a process can import, of one item.
    items : iterable
        Anything that can be pickled.
    processes : int
        How many at a time.

    Yields
    ------
    item, future
        In the order in which they are finished.

    Raises
    ------
    ExecutorError
        If process after process dies before it is ready.
    """
    waiting = deque(items)
    idle = [_Process() for _ in range(min(processes, len(waiting)))]
    everyone = tuple(idle)
    running: dict[Future[Result], tuple[_Process, Item]] = {}
    false_starts = 0
    try:
        while waiting or running:
            while waiting and idle:
                process, item = idle.pop(), waiting.popleft()
                running[process.submit(work, item)] = process, item
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                process, item = running.pop(future)
                idle.append(process)
                if process.is_dead(future) and process.never_started:
                    waiting.appendleft(item)
                    false_starts += 1
                    continue
                false_starts = 0
                yield item, future
            if false_starts >= FALSE_STARTS:
                raise ExecutorError(
                    f"{false_starts} processes in a row died before they were ready: what they "
                    "printed says why. A script that starts processes needs its work below "
                    '`if __name__ == "__main__":`.'
                )
    finally:
        for process in everyone:
            process.close()


# ------------------------------------------------------------------ any executor, and Dask


def on_executor(
    executor: Executor, work: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Run a function over items on an executor, and yield each item when it is done.

    Stopped in the middle, it cancels what has not begun.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        Where to run. Once it is broken, every item left comes back as lost.
    work, items
        As of `in_processes`.

    Yields
    ------
    item, future
        In the order in which they are finished.
    """
    futures: dict[Future[Result], Item] = {}
    try:
        for item in items:
            try:
                future = executor.submit(work, item)
            except BrokenExecutor as error:
                future = Future()
                future.set_exception(error)
            futures[future] = item
        for future in as_completed(futures):
            yield futures[future], future
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def connect(address: str, timeout: float = 30.0) -> Iterator[Executor]:
    """Return a context in which an executor runs things on a cluster that is up already.

    Parameters
    ----------
    address : str
        ``dask://HOST:PORT``, of a Dask scheduler.
    timeout : float
        How many seconds the scheduler may take to answer, and then its first worker to be there.

    Raises
    ------
    ExecutorError
        If the address is of another kind, `distributed` is not installed, nobody answers there,
        or there is no worker.
    """
    found = DASK.fullmatch(address)
    if found is None:
        raise ExecutorError(
            f"'{address}' is no executor that is known: expected dask://HOST:PORT of a scheduler "
            "(`dask scheduler` prints it as tcp://HOST:PORT)."
        )
    try:
        from distributed import Client
    except ImportError:
        raise ExecutorError(
            f"{address} needs Dask, which is not installed here: "
            "pip install 'neural-spikedata[dask]'."
        ) from None
    place = f"tcp://{found['host']}:{found['port']}"
    try:
        _wait_for_a_word(found["host"].strip("[]"), int(found["port"]), timeout)
        client = Client(place, timeout=timeout, set_as_default=False)
    except (OSError, OverflowError) as error:  # no such host or port, nobody there, a silent one
        raise ExecutorError(
            f"No Dask scheduler answers at {address} within {timeout:g} s "
            f"({type(error).__name__}): is `dask scheduler` running there?"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=timeout)
        except TimeoutError:
            raise ExecutorError(
                f"The Dask scheduler at {address} has had no worker for {timeout:g} s: start some "
                f"with `dask worker {place} --nthreads 1`."
            ) from None
        executor = _OnDask(client)
        try:
            yield executor
        finally:
            with suppress(Exception):  # the scheduler may be gone
                executor.shutdown(wait=False)


class _OnDask(Executor):
    """The executor of a Dask client, but nobody waits for ever for those who are gone.

    When the scheduler is gone, the client gives up after its timeout and closes, but a future
    whose result it was fetching at that moment stays as it is. When all workers are gone, the
    scheduler waits for others.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inner = client.get_executor(pure=False)  # an item that is run again is another task
        self._open: set[Future[Any]] = set()
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Start on an item."""
        future = self._inner.submit(fn, *args, **kwargs)
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more items."""
        self._over.set()
        self._inner.shutdown(wait)

    def _watch(self) -> None:
        last_seen = time.monotonic()
        while not self._over.wait(LOOK_EVERY):
            with suppress(Exception):  # of a scheduler that does not answer
                if self._client.nthreads():
                    last_seen = time.monotonic()
            if self._client.status in ("closing", "closed"):
                problem = "the Dask scheduler is gone; run the same command again"
            elif time.monotonic() - last_seen > NO_WORKER_FOR:
                problem = (
                    f"the Dask scheduler has had no worker for {NO_WORKER_FOR:g} s; start some, "
                    "and run the same command again"
                )
            else:
                continue
            for future in list(self._open):
                with suppress(InvalidStateError):  # it is finished now
                    future.set_exception(ConnectionError(problem))


def _wait_for_a_word(host: str, port: int, timeout: float) -> None:
    """Raise OSError unless a server says something of itself, as a Dask scheduler does.

    The Client would wait for ever for one that accepts and says nothing, as a web server.
    """
    with socket.create_connection((host, port), timeout) as connection:
        if not connection.recv(1):
            raise ConnectionResetError
