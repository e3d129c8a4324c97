"""Ranks, kills and resumption with real processes: all that makes a run is seed, epoch and step."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from spikedata.augment import SpikeJitter, TimeScale, UnitDropout
from spikedata.errors import SamplingError
from spikedata.sampler import Sampler
from spikedata.store import Store
from spikedata.windows import Around
from tests.conftest import build_recording
from tests.hashes import content

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = (0, 3)
AUGMENT = (UnitDropout(1, 2, 5), SpikeJitter(0.01), TimeScale(0.8, 1.25))
MODES: dict[str, dict[str, object]] = {
    "mixed": {"window": 0.5, "batch_size": 4},
    "variable": {"window": (0.2, 0.6), "batch_size": 4, "augment": AUGMENT},
    "grouped": {"window": 0.5, "batch_size": 4, "group": "recording", "augment": AUGMENT},
    "tokens": {"window": (0.2, 0.6), "max_tokens": 100, "augment": AUGMENT},
    "tokens, grouped": {"window": 0.5, "max_tokens": 100, "group": "recording"},
    "weighted": {"window": 0.5, "batch_size": 4, "dataset_weights": {"made": 1.5, "other": 0.4}},
    "weighted, grouped": {"window": 0.5, "batch_size": 4, "group": "recording",
                          "dataset_weights": {"made": 1.5, "other": 0.4}},
    "around": {"window": Around("trials", "start", -0.1, 0.4), "batch_size": 1,
               "augment": AUGMENT},
    "history": {"window": 0.4, "predict": 0.1, "batch_size": 4, "weights": {"trials": 3.0},
                "intervals": ["trials"]},
}  # fmt: skip
WHOLE = {
    "sequential": {"window": 0.5, "stride": 0.2, "order": "sequential", "batch_size": 7},
    "sequential, tokens": {"window": 0.5, "order": "sequential", "max_tokens": 100},
}
"""Modes of evaluation, in which no batch is left out and a rank may make one step less."""


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of four recordings of two datasets; one lacks a series."""
    store = Store(tmp_path_factory.mktemp("ranks") / "store", create=True)
    for seed, recording_id in enumerate(("made/a", "made/b", "other/c", "other/d")):
        lacks = ("position",) if seed == 2 else ()
        recording = build_recording(seed, recording_id=recording_id, n_units=3 + seed, lacks=lacks)
        store.write(recording, {})
    return store.path


def sampler_of(path: Path | str, mode: str, rank: int = 0, world_size: int = 1) -> Sampler:
    return Sampler(Store(path), seed=5, rank=rank, world_size=world_size, **(MODES | WHOLE)[mode])


# ------------------------------------------------------------------ ranks


def work(rank: int, world_size: int, path: str, folder: str) -> None:
    """Be one rank: make every batch of every mode, in step with the others, and write it down."""
    import torch
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size,
        timeout=timedelta(seconds=120),
    )  # fmt: skip
    made: dict[str, list[list[str]]] = {}
    together: dict[str, list[int]] = {}
    for mode in MODES:
        made[mode], together[mode] = [], []
        for epoch in EPOCHS:
            made[mode].append([])
            for batch in sampler_of(path, mode, rank, world_size).epoch(epoch):
                made[mode][-1].append(content(batch))
                windows = torch.tensor(len(batch))
                dist.all_reduce(windows)  # waits for every rank, as the sum of gradients does
                together[mode].append(int(windows))
    for mode in WHOLE:
        sampler = sampler_of(path, mode, rank, world_size)
        made[mode] = [[content(batch) for batch in sampler.epoch(epoch)] for epoch in EPOCHS]
    Path(folder, f"{rank}.json").write_text(json.dumps([made, together]), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(name="ranks", scope="module", params=[2, 3])
def _ranks(
    path: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[dict[str, list[list[str]]], dict[str, list[int]]]]:
    """Return what each rank of a process group made: its batches, and what the group summed."""
    import torch.multiprocessing as mp

    folder = tmp_path_factory.mktemp(f"{request.param}-ranks")
    mp.spawn(work, (request.param, str(path), str(folder)), nprocs=request.param)
    return [json.loads((folder / f"{rank}.json").read_bytes()) for rank in range(request.param)]


@pytest.mark.parametrize("mode", MODES)
def test_ranks_together_make_what_one_rank_makes_and_as_many_steps_each(path, ranks, mode):
    """Bit by bit; only batches that do not fill a step of all ranks are missing, the last ones."""
    alone = sampler_of(path, mode)
    world_size = len(ranks)
    for at, epoch in enumerate(EPOCHS):
        expected = [content(batch) for batch in alone.epoch(epoch)]
        steps = len(expected) // world_size
        shares = [made[mode][at] for made, _ in ranks]

        assert steps > 1
        assert [len(share) for share in shares] == [steps] * world_size
        assert len(set(expected)) == len(expected)
        everything = list(itertools.chain(*shares))
        assert sorted(everything) == sorted(expected[: steps * world_size])


@pytest.mark.parametrize("mode", MODES)
def test_no_rank_waits_for_one_that_has_no_step_left(path, ranks, mode):
    """A sum over ranks that met out of step would not be that of the windows of each step."""
    sums = [together[mode] for _, together in ranks]
    alone = sampler_of(path, mode)
    total = 0
    for epoch in EPOCHS:
        sizes = [len(batch) for batch in alone.epoch(epoch)]
        total += sum(sizes[: len(sizes) // len(ranks) * len(ranks)])

    assert all(one == sums[0] for one in sums)
    assert sum(sums[0]) == total


@pytest.mark.parametrize("mode", WHOLE)
def test_ranks_that_evaluate_leave_nothing_out(path, ranks, mode):
    alone = sampler_of(path, mode)
    for at, epoch in enumerate(EPOCHS):
        expected = [content(batch) for batch in alone.epoch(epoch)]
        for rank, (made, _) in enumerate(ranks):
            assert made[mode][at] == expected[rank :: len(ranks)]


@pytest.mark.parametrize("options", [{"max_tokens": 10**6}, {"group": "recording"}, {}])
def test_an_epoch_that_gives_some_rank_nothing_is_refused_and_not_empty(path, options):
    """Neither does a loop that trains on nothing end without a word, nor does a rank wait."""
    for rank in range(5):
        with pytest.raises(SamplingError, match="fewer"):
            Sampler(
                Store(path), window=0.5, rank=rank, world_size=5,
                **({"batch_size": 1000} | options),
            ).steps(0)  # fmt: skip


# ------------------------------------------------------------------ killed and resumed


def print_batches(path: str, mode: str, epoch: int, step: int) -> None:
    """Print epoch, step and content of every batch from one on, without end."""
    sampler = sampler_of(path, mode)
    for at in itertools.count(epoch):
        for number in range(step, sampler.steps(at)):
            print(at, number, content(sampler.batch(at, number)), flush=True)
        step = 0


def start(path: Path, mode: str, epoch: int, step: int) -> subprocess.Popen[str]:
    code = (
        "import sys; from tests.spikedata.test_ranks import print_batches; "
        "print_batches(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))"
    )
    command = [sys.executable, "-c", code, str(path), mode, str(epoch), str(step)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def lines_until_killed(process: subprocess.Popen[str], at_least: int) -> list[str]:
    """Return the whole lines that a process wrote before SIGKILL met it, wherever it then was."""
    lines = list(itertools.islice(process.stdout, at_least))
    os.kill(process.pid, signal.SIGKILL)
    lines += process.stdout
    process.stdout.close()

    assert process.wait(timeout=60) == -signal.SIGKILL
    return [line for line in lines if line.endswith("\n")]


@pytest.mark.parametrize("mode", ["variable", "tokens", "weighted, grouped"])
def test_a_run_that_is_killed_and_resumed_goes_on_as_if_it_had_never_stopped(path, mode):
    written: list[str] = []
    epoch = step = 0
    for at_least in (3, 20, 9):
        with start(path, mode, epoch, step) as process:
            written += lines_until_killed(process, at_least)
        epoch, step = (int(word) for word in written[-1].split()[:2])
        step += 1  # what was written is done; past the last step the next epoch begins

    def undisturbed() -> Iterator[str]:
        sampler = sampler_of(path, mode)
        for at in itertools.count():
            for number, batch in enumerate(sampler.epoch(at)):
                yield f"{at} {number} {content(batch)}\n"

    assert len(written) >= 32
    assert written == list(itertools.islice(undisturbed(), len(written)))
