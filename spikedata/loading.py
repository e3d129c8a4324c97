"""Hands the batches of a sampler to a training loop through worker processes of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from spikedata.batch import Batch, PaddedBatch
from spikedata.errors import SamplingError
from spikedata.sampler import Sampler

__all__ = ["EpochSteps", "as_tensors", "loader"]


class EpochSteps(Dataset[Batch]):
    """The steps of one epoch of a sampler as a map-style dataset; item ``i`` is a whole batch.

    It pickles as its sampler does: over a `Store` that is a path and a table of intervals, so
    that it may be handed to workers under fork, forkserver and spawn.

    Parameters
    ----------
    sampler : Sampler
        Draws the windows, for its own rank.
    epoch : int
        Which epoch.
    step : int
        Where to begin: item 0 is this step. As many as the epoch has gives none.

    Raises
    ------
    SamplingError
        If the epoch has no such step.

    Examples
    --------
    >>> from spikedata.testing import make_recording
    >>> steps = EpochSteps(Sampler([make_recording(seed=0)], batch_size=8), epoch=3)
    >>> len(steps), len(steps[0])
    (6, 8)
    """

    def __init__(self, sampler: Sampler, epoch: int = 0, step: int = 0) -> None:
        if not 0 <= step <= sampler.steps(epoch):
            raise SamplingError(
                f"Epoch {epoch} has {sampler.steps(epoch)} steps, it cannot begin at {step}."
            )
        self.sampler, self.epoch, self.step = sampler, epoch, step

    def __len__(self) -> int:
        return self.sampler.steps(self.epoch) - self.step

    def __getitem__(self, item: int) -> Batch:
        if not 0 <= item < len(self):
            raise IndexError(
                f"Epoch {self.epoch} has {len(self)} steps from {self.step} on, none is {item}."
            )
        return self.sampler.batch(self.epoch, self.step + item)


def as_tensors(batch: Batch | PaddedBatch) -> dict[str, object]:
    """Return the fields of a batch by name, every array of numbers as a tensor of the same memory.

    Targets, interval tables and their columns are dicts too. What torch has no type for, such as
    columns of text and `recording_ids`, stays as it is. Dicts of tensors are what torch pins and
    what Lightning moves to a device.

    Examples
    --------
    >>> from spikedata.testing import make_recording
    >>> batch = Sampler([make_recording(seed=0)], batch_size=8).batch(0, 0)
    >>> as_tensors(batch)["targets"]["velocity"]["values"].dtype
    torch.float32
    """
    return {one.name: _as_tensors(getattr(batch, one.name)) for one in fields(batch)}


def _as_tensors(value: object) -> object:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value) if value.dtype.kind in "biuf" else value
    if isinstance(value, Mapping):
        return {name: _as_tensors(one) for name, one in value.items()}
    if is_dataclass(value):
        return {one.name: _as_tensors(getattr(value, one.name)) for one in fields(value)}
    return value


def _unchanged(batch: Batch) -> Batch:
    return batch


def loader(
    sampler: Sampler,
    epoch: int = 0,
    step: int = 0,
    *,
    workers: int = 0,
    context: str | None = None,
    convert: Callable[[Batch], object] = _unchanged,
) -> DataLoader:
    """Return a loader that yields the batches of ``sampler.epoch(epoch, step)``, in that order.

    They are the very same whatever the number of workers, and torch's random state is left
    as it was.

    Parameters
    ----------
    sampler : Sampler
        Over a `Store` as a rule: recordings in memory are copied to every worker.
    epoch : int
        Which epoch; make a new loader for each.
    step : int
        Where to begin, to resume in mid-epoch.
    workers : int
        Processes that read ahead; 0 reads in this one.
    context : "fork", "forkserver" or "spawn", optional
        How they are started; as the system does when not given.
    convert : callable
        Applied to each batch by the worker that made it: `as_tensors`, a tokenizer, or a function
        of a module, which every context can send to workers.

    Returns
    -------
    DataLoader
        Of what `convert` returns; of `Batch`, arrays of numpy, when that is not given.

    Raises
    ------
    SamplingError
        If the epoch has no such step.
    ValueError
        If `workers` is negative, or there is no such `context`.

    Examples
    --------
    >>> from spikedata.testing import make_recording
    >>> sampler = Sampler([make_recording(seed=0)], batch_size=8)
    >>> [len(batch) for batch in loader(sampler, epoch=3)]
    [8, 8, 8, 8, 8, 2]
    """
    return DataLoader(
        EpochSteps(sampler, epoch, step),
        batch_size=None,  # an item is a batch already
        collate_fn=convert,  # type: ignore[arg-type]  # torch's type knows lists only
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        generator=torch.Generator(),  # torch would draw its seed from the global one
    )
