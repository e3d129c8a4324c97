"""The windows of every epoch of a sampler, in order, cut into batches and dealt out to ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from spikedata.errors import SamplingError
from spikedata.windows import ROUNDING, Lengths, Windows, draw_windows, tile_windows

__all__ = ["Epoch", "Epochs", "cut_batches", "deal"]

WEIGHING, DEALING = 1, 3  # what a generator is for, beside drawing windows


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch: its windows, how they are cut into batches, and which batches are this rank's.

    Parameters
    ----------
    windows : Windows
        All W windows, of all ranks.
    offsets : ndarray, shape (batches + 1,), int64
        Batch ``b`` owns the windows ``offsets[b]:offsets[b + 1]``.
    mine : ndarray, shape (steps,), int64
        The batches of this rank.
    """

    windows: Windows
    offsets: np.ndarray
    mine: np.ndarray


@dataclass(frozen=True)
class Epochs:
    """What the windows of an epoch are made from; `plan` makes them.

    Parameters
    ----------
    recording, start, end : ndarray, shape (K,)
        Intervals that windows are drawn from, or the windows themselves.
    dataset : ndarray, shape (K,), int64
        Index in `shares` of each row's dataset.
    shares : ndarray, shape (D,), float64
        How many times as many windows each dataset gives as would tile its intervals.
    lengths : Lengths or None
        Of windows that are drawn; None when the rows are the windows.
    order, stride, predict, batch_size, max_tokens, group, seed, rank, world_size
        As for `Sampler`; `predict` is 0 for targets in the window itself.
    """

    recording: np.ndarray
    start: np.ndarray
    end: np.ndarray
    dataset: np.ndarray
    shares: np.ndarray
    lengths: Lengths | None
    order: Literal["random", "sequential"]
    stride: float
    predict: float
    batch_size: int | None
    max_tokens: int | None
    group: Literal["mixed", "recording"]
    seed: int
    rank: int
    world_size: int

    @property
    def tiles(self) -> np.ndarray:
        """How many random windows tile each row, at least one; shape (K,), int64."""
        if self.lengths is None:
            return np.ones(len(self.recording), np.int64)
        whole = np.floor((self.end - self.start - self.predict + ROUNDING) / self.lengths.mean)
        return np.maximum(whole, 1).astype(np.int64)

    @property
    def totals(self) -> np.ndarray:
        """How many random windows each dataset gives; shape (D,), int64."""
        tiles = np.bincount(self.dataset, self.tiles, minlength=len(self.shares))
        return np.round(tiles * self.shares).astype(np.int64)

    def _rng(self, *address: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *address])

    def _counts(self, epoch: int) -> np.ndarray:
        """Return how many windows each row gives, so that every dataset gives its share.

        Where that is no whole number a row, systematic sampling draws the rows that give one more:
        each as often as its length asks, and their sum is the same in every epoch.
        """
        count = self.tiles
        if np.all(self.shares == 1):
            return count
        offset = self._rng(epoch, WEIGHING).random(len(self.shares))
        for index, total in enumerate(self.totals.tolist()):
            mine = self.dataset == index
            reached = np.cumsum(count[mine])
            if len(reached):
                reached = np.floor(reached * (total / reached[-1]) + offset[index])
                reached[-1] = total
                count[mine] = np.diff(reached, prepend=0).astype(np.int64)
        return count

    def _draw(self, epoch: int) -> Windows:
        rows = (self.recording, self.start, self.end)
        if self.order == "sequential" and self.lengths is not None:
            return tile_windows(*rows, self.lengths.bounds[1], self.stride, self.predict)
        rng = self._rng(epoch)
        if self.lengths is not None:
            drawn = draw_windows(*rows, self._counts(epoch), self.lengths, self.predict, rng)
        else:
            aim = (self.end, self.end + self.predict) if self.predict else (self.start, self.end)
            drawn = Windows(*rows, *aim)
            if self.order == "random":
                drawn = drawn.take(np.repeat(np.arange(len(drawn)), self._counts(epoch)))
        return drawn if self.order == "sequential" else drawn.take(rng.permutation(len(drawn)))

    def plan(self, epoch: int, count_tokens: Callable[[Windows], np.ndarray]) -> Epoch:
        """Return one epoch; tokens are counted only where batches are limited by them.

        Raises
        ------
        SamplingError
            If the batches of a random epoch are fewer than the ranks that share it, or `epoch`
            is not a whole number of 0 or more.
        """
        if not isinstance(epoch, (int, np.integer)) or epoch < 0:
            raise SamplingError(f"An epoch has a whole number of 0 or more, found {epoch!r}.")
        windows = self._draw(epoch)
        if self.group == "recording":
            windows = windows.take(np.argsort(windows.recording, kind="stable"))
        tokens = None if self.max_tokens is None else count_tokens(windows)
        group = windows.recording if self.group == "recording" else None
        offsets = cut_batches(len(windows), self.batch_size, tokens, self.max_tokens, group)
        batches = len(offsets) - 1
        if self.order == "sequential":
            return Epoch(windows, offsets, np.arange(self.rank, batches, self.world_size))
        shuffle = np.arange(batches)
        rng = self._rng(epoch, DEALING)
        if self.group == "recording" or tokens is not None:
            shuffle = rng.permutation(batches)
        load = None if tokens is None else np.add.reduceat(tokens, offsets[:-1])
        mine = deal(shuffle, self.rank, self.world_size, load, rng)
        if not len(mine):
            raise SamplingError(
                f"Sampler: epoch {epoch} has {batches} batches, fewer than the {self.world_size} "
                "ranks that share it; take smaller batches."
            )
        return Epoch(windows, offsets, mine)

    @cached_property
    def steps_ahead(self) -> int | None:
        """The steps of every epoch where no epoch must be planned to know them.

        Kept, as every batch asks for it and it sums over all rows.
        """
        if self.order == "sequential" or self.group == "recording" or self.max_tokens is not None:
            return None
        batches = -(-int(self.totals.sum()) // (self.batch_size or 1))
        return batches // self.world_size


def cut_batches(
    count: int,
    size: int | None,
    tokens: np.ndarray | None = None,
    budget: int | None = None,
    group: np.ndarray | None = None,
) -> np.ndarray:
    """Return the offsets, int64 of shape (batches + 1,), that cut windows into batches.

    A batch is as long a run of windows as its limits allow.

    Parameters
    ----------
    count : int
        Number of windows, at least one.
    size : int, optional
        Most windows in a batch.
    tokens : ndarray, shape (count,), int64, optional
        Tokens of each window; needed with `budget`.
    budget : int, optional
        Most tokens in a batch; a window that has more is a batch of its own.
    group : ndarray, shape (count,), optional
        Windows of a batch have the same value here; equal values must be neighbours.
    """
    breaks = np.flatnonzero(np.diff(group)) + 1 if group is not None else np.empty(0, np.int64)
    first, last = np.append(0, breaks), np.append(breaks, count)
    if budget is None or tokens is None:
        cuts = [np.arange(a, b, size or count) for a, b in zip(first, last, strict=True)]
        return np.append(np.concatenate(cuts), count)
    total = np.append(0, np.cumsum(tokens))
    offsets = [0]
    for end in last.tolist():
        while (at := offsets[-1]) < end:
            fits = int(np.searchsorted(total, total[at] + budget, "right")) - 1
            offsets.append(min(max(fits, at + 1), end, at + (size or end)))
    return np.array(offsets, np.int64)


def deal(
    batches: np.ndarray,
    rank: int,
    world_size: int,
    load: np.ndarray | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the batches that one rank uses, in order, as many for every rank.

    The last ones, which do not fill all ranks, are left out. With `load` the batches of one step
    are about equally heavy, so that no rank waits for another.

    Parameters
    ----------
    batches : ndarray of int64
        All batches, in order.
    rank, world_size : int
        Which rank, of how many.
    load : ndarray, int64, optional
        Tokens of each batch.
    rng : Generator
        Draws the order of the steps; the same for all ranks.
    """
    kept = batches[: len(batches) // world_size * world_size]
    if load is None or world_size == 1:
        return kept[rank::world_size]
    by_load = kept[np.argsort(load[kept], kind="stable")].reshape(-1, world_size)
    return rng.permutation(by_load)[:, rank]
