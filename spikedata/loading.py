"""Hands the batches of a sampler to a training loop through worker processes of torch."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset

from spikedata.batch import Batch
from spikedata.sampler import Sampler

__all__ = ["EpochSteps", "loader"]


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

    Examples
    --------
    >>> from spikedata.testing import make_recording
    >>> steps = EpochSteps(Sampler([make_recording(seed=0)], batch_size=8), epoch=3)
    >>> len(steps), len(steps[0])
    (6, 8)
    """

    def __init__(self, sampler: Sampler, epoch: int = 0) -> None:
        self.sampler, self.epoch = sampler, epoch

    def __len__(self) -> int:
        return self.sampler.steps(self.epoch)

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(f"Epoch {self.epoch} has {len(self)} steps, none is {step}.")
        return self.sampler.batch(self.epoch, step)


def _unchanged(batch: Batch) -> Batch:
    return batch


def loader(
    sampler: Sampler, epoch: int = 0, *, workers: int = 0, context: str | None = None
) -> DataLoader[Batch]:
    """Return a loader that yields the batches of ``sampler.epoch(epoch)``, in that order.

    They are the very same whatever the number of workers, and torch's random state is left
    as it was.

    Parameters
    ----------
    sampler : Sampler
        Over a `Store` as a rule: recordings in memory are copied to every worker.
    epoch : int
        Which epoch; make a new loader for each.
    workers : int
        Processes that read ahead; 0 reads in this one.
    context : "fork", "forkserver" or "spawn", optional
        How they are started; as the system does when not given.

    Returns
    -------
    DataLoader
        Of `Batch`: arrays of numpy, neither collated nor converted.

    Raises
    ------
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
        EpochSteps(sampler, epoch),
        batch_size=None,  # an item is a batch already
        collate_fn=_unchanged,  # type: ignore[arg-type]  # torch's type knows lists only
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        generator=torch.Generator(),  # torch would draw its seed from the global one
    )
