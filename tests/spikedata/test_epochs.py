from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikedata.epochs import cut_batches, deal
from spikedata.errors import SamplingError
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording
from spikedata.sampler import Sampler
from tests.spikedata.test_gather import train_of

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=60)


def make(recording_id: str, duration: float, rate: float, n_units: int) -> Recording:
    rng = np.random.default_rng(n_units)
    time = np.sort(rng.uniform(0, duration, int(rate * duration)))
    return Recording(
        recording_id, time, rng.integers(0, n_units, len(time)).astype(np.int32),
        {"unit_id": np.array([f"{recording_id}/{one}" for one in range(n_units)])},
        IntervalSet.single(0.0, duration), splits=train_of((0.0, duration)),
    )  # fmt: skip


RECORDINGS = [make("busy/a", 40, 300, 7), make("busy/b", 25, 200, 9), make("calm/a", 60, 20, 4)]


def sample(**options: Any) -> Sampler:
    return Sampler(RECORDINGS, **({"window": 1.0, "seed": 3} | options))


def windows_of(sampler: Sampler, epoch: int) -> list[tuple]:
    """Return what every batch holds, hashable."""
    return [
        (*batch.recording.tolist(), *batch.start.tolist(), batch.spike_time.tobytes())
        for batch in sampler.epoch(epoch)
    ]


# ------------------------------------------------------------------ cutting


@given(SIZES, st.integers(1, 100), st.none() | st.integers(1, 9), st.none() | st.integers(1, 4))
def test_batches_are_the_longest_runs_that_their_limits_allow(tokens, budget, size, groups):
    """The oracle adds one window after the other."""
    group = None if groups is None else np.sort(np.arange(len(tokens)) % groups)
    cut = [0]
    for at in range(1, len(tokens)):
        first = cut[-1]
        full = sum(tokens[first : at + 1]) > budget or (size and at - first >= size)
        if full or (group is not None and group[at] != group[at - 1]):
            cut.append(at)
    expected = [*cut, len(tokens)]

    found = cut_batches(len(tokens), size, np.array(tokens), budget, group)
    assert found.tolist() == expected


@given(st.integers(1, 50), st.integers(1, 9), st.none() | st.integers(1, 4))
def test_batches_of_a_number_of_windows_end_with_their_group(count, size, groups):
    group = None if groups is None else np.sort(np.arange(count) % groups)
    lengths = [count] if group is None else list(Counter(group.tolist()).values())
    expected = [min(size, length - at) for length in lengths for at in range(0, length, size)]

    assert np.diff(cut_batches(count, size, group=group)).tolist() == expected


# ------------------------------------------------------------------ ranks


@given(st.integers(1, 40), st.integers(1, 5), st.booleans(), st.integers(0, 9))
def test_ranks_share_all_batches_but_a_remainder_and_make_as_many_steps(
    count, world_size, by_load, seed
):
    load = np.random.default_rng(seed).integers(1, 100, count) if by_load else None
    batches = np.random.default_rng(seed).permutation(count)
    shares = [
        deal(batches, rank, world_size, load, np.random.default_rng(seed))
        for rank in range(world_size)
    ]

    assert {len(share) for share in shares} == {count // world_size}
    assert sorted(np.concatenate(shares)) == sorted(batches[: count // world_size * world_size])


def test_ranks_of_a_step_get_about_equally_heavy_batches():
    load = np.random.default_rng(0).integers(1, 10_000, 400)
    shares = np.array(
        [deal(np.arange(400), rank, 4, load, np.random.default_rng(1)) for rank in range(4)]
    )
    spread = load[shares].max(axis=0) - load[shares].min(axis=0)

    assert spread.mean() < 100  # of 10,000: neighbours of a sorted list
    assert np.any(np.diff(load[shares[0]]) < 0)  # but not sorted over the epoch


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4},
        {"batch_size": 4, "group": "recording"},
        {"max_tokens": 900},
        {"max_tokens": 900, "batch_size": 3, "group": "recording"},
        {"max_tokens": 900, "window": (0.2, 1.4)},
        {"batch_size": 4, "dataset_weights": {"busy": 0.37, "calm": 1.9}},
        {"batch_size": 4, "dataset_weights": {"busy": 0.37}, "group": "recording"},
        {"batch_size": 4, "order": "sequential"},
        {"max_tokens": 900, "order": "sequential"},
    ],
)
@pytest.mark.parametrize("world_size", [2, 3])
def test_all_ranks_together_make_the_epoch_of_one(options, world_size):
    for epoch in (0, 5):
        alone = windows_of(sample(**options), epoch)
        ranks = [
            windows_of(sample(**options, rank=rank, world_size=world_size), epoch)
            for rank in range(world_size)
        ]
        together = list(itertools.chain(*ranks))

        assert len(set(together)) == len(together)
        assert set(together) <= set(alone)
        if options.get("order") == "sequential":
            assert len(together) == len(alone)
        else:
            assert {len(rank) for rank in ranks} == {len(alone) // world_size}


def test_more_ranks_than_batches_are_refused():
    with pytest.raises(
        SamplingError, match="125 windows has fewer batches of 200 than the 2 ranks"
    ):
        sample(batch_size=200, world_size=2)


# ------------------------------------------------------------------ token budgets


@pytest.mark.parametrize("group", ["mixed", "recording"])
@pytest.mark.parametrize("window", [1.0, (0.3, 2.0)])
def test_batches_keep_a_budget_of_tokens_and_come_near_to_it(group, window):
    sampler = sample(max_tokens=1000, unit_tokens=2, group=group, window=window)
    for epoch in range(3):
        used = []
        for batch in sampler.epoch(epoch):
            tokens = len(batch.spike_time) + 2 * len(batch.unit)
            assert tokens <= 1000 or len(batch) == 1
            used.append(tokens)
            if group == "recording":
                assert len(set(batch.recording.tolist())) == 1
        assert np.median(used) > 600
        assert sum(len(batch) for batch in sampler.epoch(epoch)) == len(sampler.plan(epoch)[0])


def test_a_window_above_the_budget_is_a_batch_of_its_own():
    sampler = sample(max_tokens=100)
    alone = [len(batch) for batch in sampler if len(batch.spike_time) + 2 * len(batch.unit) > 100]

    assert len(alone) > 50
    assert set(alone) == {1}


# ------------------------------------------------------------------ shares of datasets


@given(st.floats(0, 3), st.floats(0.1, 3), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_dataset_gives_its_share_of_windows_in_every_epoch(busy, calm, epoch):
    plain = sample().plan(0)[0]
    tiles = {"busy": int(np.sum(plain < 2)), "calm": int(np.sum(plain == 2))}
    sampler = sample(dataset_weights={"busy": busy, "calm": calm})
    drawn = sampler.plan(epoch)[0]

    assert int(np.sum(drawn < 2)) == round(tiles["busy"] * busy)
    assert int(np.sum(drawn == 2)) == round(tiles["calm"] * calm)


def test_a_share_of_less_than_one_reaches_all_of_a_recording_in_the_long_run():
    """Rows of few windows give none in some epochs; each as often as its length asks."""
    short = Recording(
        "lab/a", np.empty(0), np.empty(0, np.int32), {"unit_id": np.array(["lab/a/0"])},
        IntervalSet.single(0.0, 100.0),
        splits=train_of(*[(2.0 * row, 2.0 * row + 1 + row % 2) for row in range(40)]),
    )  # fmt: skip
    sampler = Sampler([short], window=1.0, dataset_weights={"lab": 0.3})
    counts = np.zeros(40)
    for epoch in range(2000):
        row = (sampler.plan(epoch)[1] // 2).astype(int)
        assert len(row) == 18
        counts += np.bincount(row, minlength=40)
    tiles = np.where(np.arange(40) % 2, 2, 1)

    # Systematic sampling varies less than independent draws: five of their deviations are wide.
    expected = 2000 * 0.3 * tiles
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_weights": {"bsy": 1.0}}, "no recording is of the dataset 'bsy'"),
        ({"dataset_weights": {"busy": -1.0}}, "weight of dataset 'busy' must be 0 or more"),
        ({"dataset_weights": {"busy": np.nan}}, "weight of dataset 'busy' must be 0 or more"),
        ({"dataset_weights": {"busy": 0.0, "calm": 0.0}}, "holds no window"),
        ({"dataset_weights": {"busy": 1.0}, "order": "sequential"}, "for random windows"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more"),
        ({"unit_tokens": -1}, "unit_tokens must be 0 or more"),
        ({"group": "dataset"}, "group must be 'mixed' or 'recording'"),
        ({"predict": 0.0}, "predict must be above 0 s"),
        ({"weights": {"reach": 5.0}, "targets": []}, "no targets that they could weigh"),
        ({"intervals": ["trials"]}, "No interval table is called 'trials'"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_a_sentence(options, message):
    with pytest.raises(SamplingError, match=message):
        sample(**options)


def test_windows_of_a_batch_may_be_kept_to_one_recording():
    sampler = sample(group="recording", batch_size=8)
    batches = list(sampler.epoch(2))

    assert all(len(set(batch.recording.tolist())) == 1 for batch in batches)
    assert len({int(batch.recording[0]) for batch in batches[:6]}) > 1  # batches are mixed
    assert sum(map(len, batches)) == len(sampler.plan(2)[0])


def test_an_epoch_continues_at_any_step():
    sampler = sample(max_tokens=700)
    whole = windows_of(sampler, 4)
    rest = [
        (*batch.recording.tolist(), *batch.start.tolist(), batch.spike_time.tobytes())
        for batch in sample(max_tokens=700).epoch(4, step=5)
    ]

    assert whole[5:] == rest


def test_augmentations_draw_the_same_numbers_whoever_makes_the_batch():
    """A batch is addressed by its place in the epoch, not by its rank or step."""

    def tag(batch, rng):
        batch.spike_time[:] = rng.random()
        return batch

    alone = {one.start.tobytes(): one.spike_time for one in sample(augment=[tag]).epoch(1)}
    ranks = [sample(augment=[tag], rank=rank, world_size=3) for rank in range(3)]
    for batch in itertools.chain(*(rank.epoch(1) for rank in ranks)):
        assert np.array_equal(alone[batch.start.tobytes()], batch.spike_time)
    assert len({float(time[0]) for time in alone.values()}) == len(alone)


@pytest.mark.parametrize("epoch", [-1, 0.5, 2.0, None, "1"])
def test_an_epoch_that_has_no_whole_number_is_refused(epoch):
    with pytest.raises(SamplingError, match="An epoch has a whole number of 0 or more, found"):
        sample().batch(epoch, 0)


def test_an_epoch_may_have_a_number_of_numpy():
    expected, actual = sample().batch(3, 0), sample().batch(np.uint8(3), np.int64(0))

    assert np.array_equal(expected.start, actual.start)
