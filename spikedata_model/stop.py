"""Ends long work at a good moment when somebody asks the process to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["stopping"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what schedulers send before they kill


@contextmanager
def stopping(ask: Callable[[], None]) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM ask for a stop while the context is open; a second Ctrl-C interrupts.

    A second SIGTERM does not: a scheduler that ends a job sends one to every process, and torchrun,
    which gets one as well, another to its own.

    A signal that the process ignores, as one that was started with nohup or in the background of
    a script does Ctrl-C, stays ignored. Signals reach the main thread alone: in another one
    the context does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        ask()

    before = {one: signal.getsignal(one) for one in SIGNALS}
    # None: a handler that is not of Python, and could not be put back.
    before = {one: held for one, held in before.items() if held not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
