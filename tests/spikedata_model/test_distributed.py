from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from spikedata_model.cut import shares
from spikedata_model.data import prepare_data
from spikedata_model.distributed import World, check_processes, join
from spikedata_model.errors import ConfigError
from spikedata_model.poyo import Poyo
from spikedata_model.step import prepare_inputs
from spikedata_model.train import training_sampler
from spikedata_model.workers import Workers
from tests.spikedata_model.builders import make_recording
from tests.spikedata_model.rank_work import (
    CASES,
    all_cases,
    compare,
    deal,
    fail_together,
    faulty,
    impatient,
    nested,
    steps_of,
)
from tests.spikedata_model.ranks import End, Ranks

if not hasattr(os, "fork"):
    pytest.skip("groups of processes are forked", allow_module_level=True)

ROUNDED = ("adamw", "lamb", "fewer windows than processes", "no dropout")
GONE = "a process of the group was gone"


@pytest.fixture(scope="module", name="ranks")
def _ranks() -> Iterator[Ranks]:
    with Ranks() as ranks:
        yield ranks


@pytest.fixture(scope="module", name="alone")
def _alone() -> dict[str, list]:
    torch.set_num_threads(1)
    return {case: steps_of(case, World()) for case in CASES}


@pytest.fixture(scope="module", name="ends")
def _ends(ranks: Ranks) -> dict[int, list[dict[str, list]]]:
    """Return what each process of a world says of every case, by the size of the world."""
    found = {}
    for size, cases in ((2, tuple(CASES)), (3, ROUNDED), (4, tuple(CASES))):
        ends = ranks.run(size, all_cases, cases)
        assert [one.error for one in ends] == [""] * size
        found[size] = [one.result for one in ends]
    return found


# ------------------------------------------------------------------ the same weights


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [2, 4])
def test_two_and_four_processes_take_the_steps_of_one_to_the_last_bit(alone, ends, size, case):
    """The bytes of weights and moments, the losses and the norms, on every process."""
    for one in ends[size]:
        assert one[case][:-1] == alone[case][:-1]


@pytest.mark.parametrize("case", ROUNDED)
def test_all_processes_of_any_world_have_the_same_weights(ends, case):
    assert len({one[case][-2] for one in ends[3]}) == 1


def test_three_processes_are_right_up_to_rounding(alone, ends):
    """They cut a batch in other places: without dropout, that is all that differs."""
    (*numbers, _, state), found = alone["no dropout"], ends[3][0]["no dropout"]

    assert found[:-2] == pytest.approx(numbers, rel=1e-5)
    for name, weight in state.items():
        torch.testing.assert_close(found[-1][name], weight, rtol=0, atol=1e-5)


def test_seeds_matter(alone):
    """Or the tests above would compare what never changes."""
    assert len({one[-2] for one in alone.values()}) == len(CASES)


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("what", ["kill", "raise"])
def test_where_one_process_ends_the_others_say_so_and_end(ranks, what, rank):
    """Long before their patience with one another ends, or this would be the error of a hang."""
    ends = ranks.run(3, faulty, (rank, 2, what))
    mine = ends.pop(rank)

    assert mine == (
        End(code=-signal.SIGKILL) if what == "kill" else End(None, "ValueError: not today", 1)
    )
    for one in ends:
        assert one.error.startswith("TrainingError: In step 3, " + GONE)
        assert one.error.endswith("give the same command again to go on from the last checkpoint.")


def test_a_wish_to_stop_reaches_all_after_the_same_step(ranks, alone):
    ends = [one.result for one in ranks.run(2, faulty, (1, 3, "stop"))]

    assert ends[0][:-2] == ends[1][:-2] == alone["adamw"][: 2 * 4]


def test_a_wish_to_stop_is_known_after_the_step_when_alone(alone):
    assert steps_of("adamw", World(), (0, 3, "stop"))[:-2] == alone["adamw"][: 2 * 4]


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_processes_that_differ_refuse_together_and_say_in_what(ranks, odd):
    ends = ranks.run(3, compare, odd)

    expected = f"ConfigError: Process {max(odd, 1)} of 3 and process 0 differ in their recordings: "
    assert [one.error[: len(expected)] for one in ends] == [expected] * 3


def test_processes_that_are_alike_go_on(ranks):
    assert ranks.run(3, compare, 3) == [End()] * 3


def test_an_error_of_one_is_an_error_of_all(ranks):
    assert [one.result for one in ranks.run(3, fail_together, ())] == [0, 1, 2]
    errors = [one.error for one in ranks.run(3, fail_together, (1, 2))]
    assert errors == [f"CheckpointError: no checkpoint {n}" for n in (1, 1, 2)]


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_work_is_dealt_out_and_everybody_has_all_of_it_in_order(ranks, count):
    ends = [one.result for one in ranks.run(3, deal, count)]

    assert [one[0] for one in ends] == [[(n, n % 3) for n in range(count)]] * 3
    assert [one[1] for one in ends] == [list(range(rank, count, 3)) for rank in range(3)]


# ------------------------------------------------------------------ alone


def test_alone_there_is_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join() as world:
        assert (world.rank, world.size, world.first, world.threads) == (0, 1, True, 0)
        assert not torch.distributed.is_initialized()
        assert world.gather("x") == ["x"]
        assert list(world.deal(3, str)) == ["0", "1", "2"]
        world.same({"settings": "any"})
        part = torch.tensor([1.0, -0.0])
        assert world.total(part, shares(4, 1), "In step 1") is part
        assert not world.stopping


def test_a_group_that_is_there_is_used_and_left_open(ranks):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores or 1) // 2)

    ends = ranks.run(2, nested)
    assert [one.result for one in ends] == [(0, 2, threads, True), (1, 2, threads, False)]


def test_half_an_environment_is_refused(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"2 processes .* MASTER_ADDR and MASTER_PORT"), join():
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE .* a number, found 'two'"), join():
        pass


def test_others_that_never_come_are_an_error(ranks):
    ends = ranks.run(2, impatient)

    assert ends[1].error.startswith("TrainingError: While the processes met, ")


# ------------------------------------------------------------------ another number of processes


def test_numbers_that_add_alike_may_follow_one_another_and_others_are_refused():
    most = Workers(torch.device("cpu"), "float32", 1).most
    for before, now in [(1, 2), (2, 4), (4, 1), (3, 3), (1, 1)]:
        check_processes([32, 7], most, before, now)
    with pytest.raises(ConfigError, match=r"made by 2 processes, and 3 .* by 1, 2, 4 of them"):
        check_processes([32], most, 2, 3)
    with pytest.raises(ConfigError, match="a batch of 7 windows is cut alike by"):
        check_processes([32, 7], lambda size: 1 if size == 32 else 2, 1, 8)


# ------------------------------------------------------------------ inputs


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_the_shares_of_a_batch_are_the_batch(size):
    config = CASES["adamw"]
    recordings = {
        "lab/a": make_recording(targets=("hand", "heading")),
        "lab/b": make_recording("lab/b", seed=1, n_units=3, sample_rate=33.0),
    }
    data = prepare_data(recordings, tuple(recordings), config)
    sampler = training_sampler(data, config)
    model, tokenizer = Poyo(config.model, 7, 2, data.channels), data.tokenizer(sampler, config)
    whole = prepare_inputs(model, sampler, tokenizer, data, 1)
    parts = [
        prepare_inputs(model, sampler, tokenizer, data, 1, World(rank, size))
        for rank in range(size)
    ]

    for name in ("unit_T", "type_T", "time_T", "recording_B", "query_time_K", "query_target_K"):
        joined = torch.cat([getattr(one.tokens, name) for one in parts])
        assert torch.equal(joined, getattr(whole.tokens, name)), name
    for name in data.channels:
        assert torch.equal(torch.cat([one.target[name] for one in parts]), whole.target[name])
        assert torch.equal(torch.cat([one.weight[name] for one in parts]), whole.weight[name])
        counts = np.concatenate([np.diff(one.offsets[name]) for one in parts])
        assert np.array_equal(counts, np.diff(whole.offsets[name]))
    for one in parts:
        assert (one.total, one.n_tokens) == (whole.total, whole.n_tokens)
        assert one.whole is not None
        assert torch.equal(one.whole.rows["unit_embedding"], whole.tokens.unit_T.unique())
    assert replace(whole, whole=None).n_tokens == whole.n_tokens
