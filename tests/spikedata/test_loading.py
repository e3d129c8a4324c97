from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spikedata.augment import SpikeJitter, TimeScale, UnitDropout
from spikedata.batch import Batch, PaddedBatch
from spikedata.errors import SamplingError
from spikedata.loading import EpochSteps, as_tensors, loader
from spikedata.sampler import Sampler
from tests.conftest import build_recording
from tests.hashes import content

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


AUGMENT = (UnitDropout(1, 2, 5), SpikeJitter(0.01), TimeScale(0.8, 1.25))
CONTEXTS = [(workers, context) for workers in (1, 4) for context in ("fork", "forkserver", "spawn")]


@FORKS
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning")
@pytest.mark.parametrize(("workers", "context"), [(0, None), (1, None), *CONTEXTS])
def test_batches_are_the_very_same_in_any_number_of_workers(store, workers, context):
    sampler = Sampler(store, window=(0.3, 0.6), batch_size=2, seed=2, augment=AUGMENT)
    expected = list(sampler.epoch(5))
    actual = list(loader(sampler, 5, workers=workers, context=context))

    assert len(actual) == len(expected) > 2 * workers
    assert content(expected[0]) != content(replace(expected[0], spike_time=-expected[0].spike_time))
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
    with pytest.raises(IndexError, match="Epoch 2 has 4 steps from 0 on, none is 4"):
        steps[4]


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_begins_at_a_step_is_one_that_skipped_those_before(store, workers):
    sampler = Sampler(store, window=0.5, max_tokens=150, augment=AUGMENT)
    expected = [content(batch) for batch in loader(sampler, 1)]

    for step in (0, 3, len(expected)):
        resumed = loader(sampler, 1, step, workers=workers)
        assert len(resumed) == len(expected) - step
        assert [content(batch) for batch in resumed] == expected[step:]
    for step in (-1, len(expected) + 1):
        with pytest.raises(SamplingError, match=f"has {len(expected)} steps, it cannot begin at"):
            loader(sampler, 1, step)


@FORKS
@pytest.mark.parametrize("workers", [0, 1])
def test_a_plain_loader_of_torch_is_all_it_takes(store, workers):
    """Torch's own conversion of items that are batches leaves a `Batch` what it is."""
    sampler = Sampler(store, window=0.5, batch_size=4)
    plain = DataLoader(EpochSteps(sampler, 2), batch_size=None, num_workers=workers)

    assert [content(batch) for batch in plain] == [content(one) for one in sampler.epoch(2)]


def test_tensors_are_the_arrays_of_a_batch_and_share_their_memory(store):
    sampler = Sampler(store, window=2.0, intervals={"trials": ["target", "correct"]})
    batch = sampler.batch(0, 0)
    tensors = as_tensors(batch)

    assert list(tensors) == list(Batch.__slots__)
    assert tensors["recording_ids"] == batch.recording_ids
    pairs = [
        (tensors[name], getattr(batch, name))
        for name in ("recording", "start", "spike_time", "spike_unit", "spike_offsets", "unit")
    ]
    pairs += [
        (tensors["targets"]["position"][name], getattr(batch.targets["position"], name))
        for name in ("time", "values", "weight", "offsets")
    ]
    rows, trials = tensors["intervals"]["trials"], batch.intervals["trials"]
    pairs += [
        (rows["start"], trials.start),
        (rows["columns"]["correct"], trials.columns["correct"]),
    ]
    assert len(trials.row) > 0
    for tensor, array in pairs:
        assert tensor.data_ptr() == array.ctypes.data
        np.testing.assert_array_equal(tensor.numpy(), array, strict=True)
    assert rows["columns"]["target"] is trials.columns["target"]  # text


def padded_tensors(batch: Batch) -> dict[str, object]:
    return as_tensors(batch.padded(multiple=8))


@FORKS
@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), (1, "spawn")])
def test_batches_are_converted_where_they_are_made(store, workers, context):
    sampler = Sampler(store, window=0.5, batch_size=4)
    converted = loader(sampler, 3, workers=workers, context=context, convert=padded_tensors)

    for batch, tensors in zip(sampler.epoch(3), converted, strict=True):
        padded = batch.padded(multiple=8)
        assert list(tensors) == list(PaddedBatch.__slots__)
        assert torch.equal(tensors["spike_time"], torch.from_numpy(padded.spike_time))
        assert torch.equal(tensors["mask"], torch.from_numpy(padded.mask))
        values = tensors["targets"]["velocity"]["values"]
        assert torch.equal(values, torch.from_numpy(padded.targets["velocity"].values))
        assert torch.equal(tensors["batch"]["start"], torch.from_numpy(batch.start))


def test_a_number_of_workers_or_a_context_that_is_none_is_refused(store):
    sampler = Sampler(store)

    with pytest.raises(ValueError, match="num_workers"):
        loader(sampler, workers=-1)
    with pytest.raises(ValueError, match="teleport"):
        loader(sampler, workers=1, context="teleport")
