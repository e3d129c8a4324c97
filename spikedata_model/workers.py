"""Work on a few windows at a time, in threads that have a core each.

torch spreads every operation over the cores and waits for the slowest of them, a thousand times a
step. Here each core takes windows of its own through the whole model, waits once a step, and holds
the activations of a few windows alone. docs/decisions/0016-counted-work.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from spikedata_model.cut import Span, cut

__all__ = ["Workers"]

T = TypeVar("T")

AT_ONCE = {"float32": 8, "bfloat16": 16}
"""Windows that a core takes at a time: more need memory, fewer spend more time between products."""

PIECES = 4
"""A piece is about this part of a batch at most, so that four cores work on a small one."""


class Workers:
    """Threads with one core each while the context is open; on a GPU there is one, with all cores.

    Parameters
    ----------
    device : torch.device
        Where the model is.
    precision : str
        Of the model.
    threads : int
        How many; as many as torch would use when 0.
    at_once : int
        Windows that are worked on at a time by each. When 0, all on a GPU; on a processor 8 in
        float32 and 16 in bfloat16, but at most a quarter of a batch. Results depend on it, by
        roundings and by what dropout draws, and never on the number of threads.
    """

    def __init__(
        self, device: torch.device, precision: str, threads: int = 0, at_once: int = 0
    ) -> None:
        on_processor = device.type == "cpu"
        self.threads = (threads or torch.get_num_threads()) if on_processor else 1
        self.at_once, self._limit = at_once, AT_ONCE[precision]
        self._on_processor = on_processor

    def __enter__(self) -> Self:
        self._before = torch.get_num_threads()
        if self._on_processor:
            torch.set_num_threads(1)  # of this thread, and of those that begin after
        self._pool = None
        if self.threads > 1:
            # A new thread would ask torch for its share at its first loop, after a first product.
            self._pool = ThreadPoolExecutor(self.threads, "windows", torch.set_num_threads, (1,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        try:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
        finally:  # also when interrupted while it waits for the pieces under way
            torch.set_num_threads(self._before)

    def most(self, n_windows: int) -> int:
        """Return how many windows of a batch are taken at a time."""
        if self.at_once or not self._on_processor:
            return self.at_once or max(1, n_windows)
        # Rounded so that two and four processes find their shares among the pieces of one.
        return max(1, min(self._limit, (n_windows + PIECES // 2) // PIECES))

    def pieces(self, span: Span, n_windows: int) -> list[Span]:
        """Return what is taken at a time of some windows of a batch of `n_windows`, in order."""
        return cut(span, self.most(n_windows))

    def split(self, n_windows: int) -> list[tuple[int, int]]:
        """Return the first and last window, the last not included, of every piece of a batch."""
        return [(one.first, one.last) for one in self.pieces(Span(0, n_windows), n_windows)]

    def map(self, function: Callable[..., T], *items: Iterable[Any]) -> Iterator[T]:
        """Yield what a function makes of each item, in their order."""
        return (map if self._pool is None else self._pool.map)(function, *items)
