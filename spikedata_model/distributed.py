"""Several processes that train one model: who they are, and how they add up and agree.

The processes are those of torchrun: each finds its number, theirs and a meeting point in its
environment. One that was started alone is a world of one, for which nothing here does anything.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from spikedata.errors import SpikedataError
from spikedata_model.cut import Span, add_up, sums
from spikedata_model.errors import ConfigError, TrainingError

__all__ = ["World", "check_processes", "join", "state_digest"]

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)
"""How long others are waited for. A process that ends is noticed at once, by its connections: this
is for machines that vanish, and longer than rank 0 needs to write a checkpoint."""

MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun says, beside WORLD_SIZE


class World:
    """The processes that train one model together.

    Parameters
    ----------
    rank, size : int
        This one's number, and how many there are.
    threads : int
        How many threads this process should have: its share of the cores of its machine. 0 alone:
        torch knows best.

    Attributes
    ----------
    rank, size, threads : int
        As given.
    """

    def __init__(self, rank: int = 0, size: int = 1, threads: int = 0) -> None:
        self.rank, self.size, self.threads = rank, size, threads
        self._asked = False
        self._wishes: torch.Tensor | None = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    # -------------------------------------------------------------- steps

    def ask_to_stop(self) -> None:
        """Wish that all processes stop; they learn it from the next `total`."""
        self._asked = True

    @property
    def stopping(self) -> bool:
        """Whether any process wished to stop when the last `total` began: the same on all."""
        return self._wishes is not None and bool(self._wishes > 0)

    def total(self, part: torch.Tensor, nodes: Sequence[Span], where: str) -> torch.Tensor:
        """Return the sum over all processes, in the order of the tree of a batch.

        Parameters
        ----------
        part : Tensor, shape (N,), float
            What this process has; -0.0 adds nothing to the last bit. Not to be used again.
        nodes : sequence of Span
            Whose sum each process has, by rank.
        where : str
            For an error: "In step 7".

        Returns
        -------
        Tensor, shape (N,)
            The same bits on every process.

        Raises
        ------
        TrainingError
            If a process is gone.

        Notes
        -----
        Every process adds up one share of the vector for all, and then sends it to all: each
        sends and receives 2 (1 - 1/size) of its length, as in a ring, but the order of the
        additions is ours.
        """
        wish = part.new_tensor([float(self._asked)])
        if self.size == 1:
            self._wishes = wish
            return part
        width = -(-(len(part) + 1) // self.size)
        sent = part.new_zeros(self.size * width)
        sent[: len(part)], sent[len(part)] = part, wish[0]
        received = torch.empty_like(sent)
        with _noticed(where):
            dist.all_to_all_single(received, sent)
        rows = received.view(self.size, width)
        depths = [one.depth for one in nodes]
        own = add_up(zip(depths, rows.unbind(), strict=True), torch.Tensor.add_)
        whole = sent.view(self.size, width)
        with _noticed(where):
            dist.all_gather(list(whole.unbind()), own)
        self._wishes = sent[len(part)]
        return sent[: len(part)]

    # -------------------------------------------------------------- agreement

    def gather(self, item: T, where: str = "While results were exchanged") -> list[T]:
        """Return what each process gives, by rank, on all of them; it is pickled.

        Raises
        ------
        TrainingError
            If a process is gone.
        """
        if self.size == 1:
            return [item]
        items: list[T | None] = [None] * self.size
        with _noticed(where):
            dist.all_gather_object(items, item)
        return items  # type: ignore[return-value]  # all are filled

    def deal(self, count: int, function: Callable[[int], T]) -> Iterator[T]:
        """Yield ``function(0)`` to ``function(count - 1)`` on all processes, each made by one.

        Raises
        ------
        TrainingError
            If a process is gone.
        """
        for first in range(0, count, self.size):
            mine = first + self.rank
            made = self.gather(function(mine) if mine < count else None)
            yield from made[: count - first]  # type: ignore[misc]  # None is behind the count

    def together(self, function: Callable[[], T]) -> T:
        """Return what a function returns here; where it fails in one process, it fails in all.

        Raises
        ------
        SpikedataError
            That of the lowest rank that has one.
        TrainingError
            If a process is gone.
        """
        result, failed = None, None
        try:
            result = function()
        except SpikedataError as error:
            failed = error
        errors = [one for one in self.gather(failed, "At the start") if one is not None]
        if errors:
            raise failed or errors[0]
        return result  # type: ignore[return-value]  # it did not fail

    def same(self, values: Mapping[str, str]) -> None:
        """Make sure that all processes have the same.

        Parameters
        ----------
        values : mapping of str to str
            What must be equal, by what it is called in the message; the same names everywhere.

        Raises
        ------
        ConfigError
            On all processes, if any value differs.
        TrainingError
            If a process is gone.
        """
        digests = {name: hashlib.sha256(one.encode()).hexdigest() for name, one in values.items()}
        everywhere = self.gather(digests, "While processes were compared")
        for name, digest in everywhere[0].items():
            odd = [rank for rank, others in enumerate(everywhere) if others.get(name) != digest]
            if odd:
                raise ConfigError(
                    f"Process {odd[0]} of {self.size} and process 0 differ in their {name}: give "
                    "all of them the same command, the same version of spikedata, and the same "
                    "store."
                )


@contextmanager
def _noticed(where: str) -> Iterator[None]:
    """Turn what torch says of a lost process into a sentence."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"{where}, a process of the group was gone ({reason[:200]}): see what it said last, "
            "and give the same command again to go on from the last checkpoint."
        ) from None


@contextmanager
def join(device: str = "auto", patience: timedelta = PATIENCE) -> Iterator[World]:
    """Take part in the group of processes that this one was started in, while the context is open.

    A group that is there already is used, and left as it is at the end.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
        Where the model will be. On GPUs each process gets that of its number on its machine.
    patience : timedelta
        How long to wait for others before they count as gone.

    Raises
    ------
    ConfigError
        If the environment names a group but not all that is needed to join it, or the machine
        has fewer GPUs than processes.
    TrainingError
        If the others cannot be reached.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), _threads())
        return
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield World()
        return
    missing = [name for name in MEETING if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE says that {size} processes work together, but {' and '.join(missing)} "
            "of the environment is missing: start them with torchrun, or unset WORLD_SIZE."
        )
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _take_gpu()
    with _noticed("While the processes met"):
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=patience)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), _threads())
    finally:
        dist.destroy_process_group()


def _take_gpu() -> None:
    here, found = _number("LOCAL_RANK", 0), torch.cuda.device_count()
    if here >= found:
        raise ConfigError(
            f"Process {here} of this machine has no GPU: there are {found}; start fewer processes "
            "(--nproc-per-node), or set train.device=cpu."
        )
    torch.cuda.set_device(here)


def _threads() -> int:
    """Return this process' share of the cores that it may use."""
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return max(1, len(cores) // _number("LOCAL_WORLD_SIZE", 1))


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name) or str(otherwise)
    if not text.isdecimal():
        raise ConfigError(
            f"{name} of the environment should be a number, found '{text}': start the processes "
            "with torchrun, or unset it."
        )
    return int(text)


def check_processes(
    sizes: Iterable[int], at_once: Callable[[int], int], before: int, now: int
) -> None:
    """Make sure that a run goes on as it began, whatever the number of processes.

    Parameters
    ----------
    sizes : iterable of int
        Windows of the batches of the run.
    at_once : callable
        Most windows of a piece, by the windows of the batch.
    before, now : int
        How many processes made the checkpoint, and how many are there.

    Raises
    ------
    ConfigError
        If they would add up gradients in another order, and draw other coins of dropout.
    """
    for size in sizes:
        order = sums(size, before, at_once(size))
        if order != sums(size, now, at_once(size)):
            fit = [n for n in range(1, 65) if sums(size, n, at_once(size)) == order]
            numbers = ", ".join(map(str, fit))
            raise ConfigError(
                f"The checkpoint was made by {before} processes, and {now} would go on to other "
                f"weights: a batch of {size} windows is cut alike by {numbers} of them; start one "
                "of these numbers, or train again in another --out."
            )


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the bytes of some tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
