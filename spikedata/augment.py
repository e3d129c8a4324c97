"""What may be done to a batch before a model sees it: drop units, choose units, jitter, stretch.

An augmentation is any picklable callable that fits `Augmentation`. Those here are frozen, draw
all they need from the generator they are given, keep no state, and leave their input unchanged:
what they return is a new `Batch` that shares the arrays that stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Protocol

import numpy as np

from spikedata.augment_units import UnitDropout, UnitSubset, keep_units
from spikedata.batch import Batch
from spikedata.errors import SamplingError
from spikedata.ragged import row_of

__all__ = ["Augmentation", "SpikeJitter", "TimeScale", "UnitDropout", "UnitSubset", "keep_units"]


class Augmentation(Protocol):
    """Returns a batch made from another; all randomness comes from `rng`."""

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Return the new batch; the same batch and the same state of `rng` give the same."""
        ...


@dataclass(frozen=True, slots=True)
class SpikeJitter:
    """Moves every spike by a normal random time; the number of spikes of a window stays.

    A spike that would leave its window ``[0, length)`` is reflected at the edge. So no window
    loses spikes at its edges, as it would if they were dropped (none come in from outside), a
    constant rate stays constant, and no time lies outside of the window, where a counter of bins
    would miss it.

    Parameters
    ----------
    std : float
        Standard deviation of the move in seconds, on the window's own clock.
    sort : bool
        Put the spikes of each window in order of time again, ties as they were. A model
        that reads spikes as a set, such as POYO, does not need it. Without it, spikes of a window
        are not sorted any more.

    Raises
    ------
    SamplingError
        If `std` is negative or not finite.

    Notes
    -----
    A jittered spike may lie before the moment it happened. Nothing from behind the window's end
    comes into it, but within it a decoder sees activity up to a few `std` early.
    """

    std: float
    sort: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.std, Real) and 0 <= self.std < np.inf):
            raise SamplingError(f"SpikeJitter: std must be 0 s or more, found {self.std}.")

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Return the batch with other spike times."""
        move = rng.standard_normal(len(batch.spike_time), np.float32)
        move *= np.float32(self.std)
        time = np.add(batch.spike_time, move, out=move)
        # The last float32 before the window's end: the window is half-open.
        last = batch.length.astype(np.float32)
        last = np.where(last < batch.length, last, np.nextafter(last, np.float32(0)))
        left = (time < 0) | (time > np.repeat(last, np.diff(batch.spike_offsets)))
        out = np.flatnonzero(left)
        row = np.searchsorted(batch.spike_offsets, out, "right") - 1
        length = batch.length[row]
        there_and_back = np.abs(time[out].astype(np.float64)) % (2 * length)
        folded = (length - np.abs(length - there_and_back)).astype(np.float32)
        time[out] = np.minimum(folded, last[row])
        if not self.sort:
            return replace(batch, spike_time=time)
        # Bits of floats from 0 up are ordered as they are; a stable sort is fast on what is nearly
        # in order. Adding 0 makes -0.0, whose bits are not, 0.0.
        bits = (time + np.float32(0)).view(np.uint32)
        row = row_of(batch.spike_offsets).astype(np.uint64)
        order = np.argsort((row << np.uint64(32)) | bits, kind="stable")
        return replace(batch, spike_time=time[order], spike_unit=batch.spike_unit[order])


@dataclass(frozen=True, slots=True)
class TimeScale:
    """Stretches each window's own clock by a random factor.

    The factor is log-uniform between `low` and `high`: its logarithm is uniform, so between 1/2
    and 2 a window is made longer as often as shorter, and by the same factors. Spike times,
    target times, the bounds of intervals and `length` are multiplied, in float64 before they are
    rounded; ``start`` and ``end`` stay as they are, on the recording's clock. Values stay too: a
    velocity keeps its values, although the movement now takes another time.

    Parameters
    ----------
    low, high : float
        Bounds of the factor, half-open; if they are equal, it is constant. A window must fit the
        model's context when it is `high` times as long.

    Raises
    ------
    SamplingError
        If not ``0 < low <= high``, or `high` is not finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        numbers = isinstance(self.low, Real) and isinstance(self.high, Real)
        if not (numbers and 0 < self.low <= self.high < np.inf):
            raise SamplingError(
                f"TimeScale: 0 < low <= high must hold, found {self.low} and {self.high}."
            )

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Return the batch with its windows stretched."""
        factor = np.exp(rng.uniform(np.log(self.low), np.log(self.high), len(batch)))
        below = self.high if self.low == self.high else np.nextafter(self.high, 0)
        factor = np.clip(factor, self.low, below)

        def stretch(time: np.ndarray, offsets: np.ndarray) -> np.ndarray:
            return (time * np.repeat(factor, np.diff(offsets))).astype(time.dtype)

        return replace(
            batch,
            length=batch.length * factor,
            spike_time=stretch(batch.spike_time, batch.spike_offsets),
            targets={
                name: replace(one, time=stretch(one.time, one.offsets))
                for name, one in batch.targets.items()
            },
            intervals={
                name: replace(
                    one, start=stretch(one.start, one.offsets), end=stretch(one.end, one.offsets)
                )
                for name, one in batch.intervals.items()
            },
        )
