from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from spikedata.batch import Batch
from spikedata.loading import EpochSteps, loader
from spikedata.sampler import Sampler
from tests.conftest import build_recording

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def content(batch: Batch) -> bytes:
    """Return every bit of a batch."""
    parts = [getattr(batch, name) for name in Batch.__slots__ if name != "targets"]
    for name, target in batch.targets.items():
        parts += [name, target.time, target.values, target.offsets]
    return pickle.dumps(
        [(part.dtype.str, part.shape, part.tobytes()) if isinstance(part, np.ndarray) else part
         for part in parts]
    )  # fmt: skip


@FORKS
@pytest.mark.parametrize(
    ("workers", "context"),
    [(0, None), (1, None), (1, "fork"), (2, "fork"), (2, "forkserver"), (1, "spawn")],
)
def test_batches_are_the_very_same_in_any_number_of_workers(store, workers, context):
    sampler = Sampler(store, window=(0.3, 0.6), batch_size=4, seed=2)
    expected = list(sampler.epoch(5))
    actual = list(loader(sampler, 5, workers=workers, context=context))

    assert len(actual) == len(expected) > 2 * workers
    assert [type(batch) for batch in actual] == [Batch] * len(expected)
    assert [content(batch) for batch in actual] == [content(batch) for batch in expected]


@FORKS
def test_a_rank_loads_its_own_batches(store):
    sampler = Sampler(store, window=0.5, batch_size=4, rank=1, world_size=2)
    batches = loader(sampler, 1, workers=2, context="fork")

    assert len(batches) == sampler.steps(1)
    assert [content(batch) for batch in batches] == [content(one) for one in sampler.epoch(1)]


def test_what_is_sent_to_a_worker_is_small(store):
    sampler = Sampler(store, window=0.01)
    sampler.batch(0, 0)

    assert len(pickle.dumps(EpochSteps(sampler, 0))) < 10_000


@FORKS
@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_random_state_of_torch_alone(store, workers):
    state = torch.random.get_rng_state()
    list(loader(Sampler(store, batch_size=16), workers=workers))

    assert torch.equal(state, torch.random.get_rng_state())


def test_the_steps_of_an_epoch_can_be_indexed_and_iterated():
    sampler = Sampler([build_recording()], batch_size=4)
    steps = EpochSteps(sampler, 2)

    assert [content(batch) for batch in steps] == [content(one) for one in sampler.epoch(2)]
    with pytest.raises(IndexError, match=f"Epoch 2 has {len(steps)} steps, none is {len(steps)}"):
        steps[len(steps)]


def test_a_number_of_workers_or_a_context_that_is_none_is_refused(store):
    sampler = Sampler(store)

    with pytest.raises(ValueError, match="num_workers"):
        loader(sampler, workers=-1)
    with pytest.raises(ValueError, match="teleport"):
        loader(sampler, workers=1, context="teleport")
