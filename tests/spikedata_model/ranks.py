"""Groups of processes for tests: forked from a server that has loaded torch, but never used it."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LIMIT = 240  # s; far shorter than processes wait for one another, so that who hangs is found


@dataclass(frozen=True)
class End:
    """How a process ended: with a result, an error, or a signal."""

    result: Any = None
    error: str = ""  # its type and message
    code: int = 0  # of its exit; negative: the signal that ended it


class Ranks:
    """Runs functions of a module in groups of processes; a context."""

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, "-c", "from tests.spikedata_model.ranks import serve; serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        with self._server as server:
            server.stdin.close()  # type: ignore[union-attr]

    def run(self, size: int, function: Callable[..., object], *arguments: object) -> list[End]:
        """Return how each of some processes that call a function ended, by rank."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            call = (function.__module__, function.__qualname__, arguments)
            (folder / "call").write_bytes(pickle.dumps(call))
            print(json.dumps([size, name]), file=self._server.stdin, flush=True)
            codes = json.loads(self._server.stdout.readline())  # type: ignore[union-attr]
            return [
                pickle.loads(path.read_bytes()) if path.exists() else End(code=code)
                for code, path in zip(codes, (folder / str(n) for n in range(size)), strict=True)
            ]


def serve() -> None:
    """Fork the groups that are asked for on standard input, until it ends."""
    torch = importlib.import_module("tests.spikedata_model.rank_work").torch
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports the rest of torch once

    for line in sys.stdin:
        size, folder = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [_fork(rank, size, port, Path(folder)) for rank in range(size)]
        print(json.dumps(_wait(children)), flush=True)


def _fork(rank: int, size: int, port: int, folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    os.environ |= {
        "RANK": f"{rank}", "WORLD_SIZE": f"{size}", "LOCAL_RANK": f"{rank}",
        "LOCAL_WORLD_SIZE": f"{size}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}",
    }  # fmt: skip
    warnings.simplefilter("error")
    try:
        module, name, arguments = pickle.loads((folder / "call").read_bytes())
        end = End(getattr(importlib.import_module(module), name)(*arguments))
    except BaseException as error:
        end = End(None, f"{type(error).__name__}: {error}", 1)
        if os.environ.get("SHOW_RANKS"):
            traceback.print_exc()
    (folder / "part").with_suffix(f".{rank}").write_bytes(pickle.dumps(end))
    (folder / "part").with_suffix(f".{rank}").rename(folder / f"{rank}")
    os._exit(end.code)


def _wait(children: list[int]) -> list[int]:
    """Return the exit codes of processes; those that hang are killed."""
    codes: dict[int, int] = {}
    until = time.monotonic() + LIMIT
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[child] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > until:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[child] for child in children]
