"""Whole runs in several processes: the same files as those of one, however they are disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spikedata.store import Store
from spikedata_model.checkpoint import load_checkpoint
from spikedata_model.config import Config
from spikedata_model.train import train
from spikedata_model.weights import weights_of_run
from tests.spikedata_model.builders import make_config, make_recording, make_store
from tests.spikedata_model.rank_work import (
    DROPPED,
    UNITS,
    run_finetuning,
    run_in,
    run_training,
    summary,
)
from tests.spikedata_model.ranks import End, Ranks

if not hasattr(os, "fork"):
    pytest.skip("groups of processes are forked", allow_module_level=True)

RUN = make_config(DROPPED, unit_dropout=UNITS, batch_size=7)  # an epoch ends with 3 windows
BEST = make_config(
    DROPPED, unit_dropout=UNITS, batch_size=8, optimizer="lamb", evaluate_every=2, keep="best",
    patience=2, learning_rate=0.01,
)  # fmt: skip
RUNS = {"last": RUN, "best": BEST}
GONE = "a process of the group was gone"


@pytest.fixture(scope="module", name="ranks")
def _ranks() -> Iterator[Ranks]:
    with Ranks() as ranks:
        yield ranks


@pytest.fixture(scope="module", name="alone")
def _alone(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of runs that one process made, undisturbed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("alone")
    for name, config in RUNS.items():
        train(Store(finished / "store"), folder / name, config)
    return folder


def found_in(folder: Path) -> dict[str, object]:
    """Return what the files of a run say, its weights among it."""
    checkpoint = load_checkpoint(folder)
    assert checkpoint is not None
    state = weights_of_run(folder).model.state_dict()
    return {**summary(checkpoint), "weights.safetensors": {n: v.tolist() for n, v in state.items()}}


def assert_ended_alike(ends: list[End], folder: Path, expected: Path) -> None:
    """Assert that a group has made the files of one process, and that all of it knows."""
    assert [one.error for one in ends] == [""] * len(ends)
    found = found_in(folder)
    assert found == found_in(expected)
    for one in ends:
        assert one.result == {name: found[name] for name in one.result}


# ------------------------------------------------------------------ undisturbed and disturbed


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("size", [2, 4])
def test_a_run_of_two_or_four_processes_is_that_of_one(
    finished, tmp_path, ranks, alone, size, name
):
    ends = ranks.run(size, run_training, finished / "store", tmp_path / "run", RUNS[name])

    assert_ended_alike(ends, tmp_path / "run", alone / name)


@pytest.mark.parametrize(("size", "mode", "batch"), [(2, "unit-id", 6), (4, "gradual", 1)])
def test_an_adaptation_of_several_processes_is_that_of_one(
    tmp_path, ranks, alone, size, mode, batch
):
    """Also where a batch has fewer windows than there are processes."""
    make_store(tmp_path / "store", make_recording("lab/new", seed=5, targets=("heading", "hand")))
    settings = ["train.steps=10", f"train.batch_size={batch}", "train.evaluate_every=4"]
    given = (tmp_path / "store", alone / "last")
    run_finetuning(*given, tmp_path / "one", mode, settings)

    ends = ranks.run(size, run_finetuning, *given, tmp_path / "run", mode, settings)
    assert_ended_alike(ends, tmp_path / "run", tmp_path / "one")


@pytest.mark.parametrize("parity", [0, 1])
def test_a_run_killed_before_every_step_in_turn_on_either_process_ends_alike(
    finished, tmp_path, ranks, alone, parity
):
    """Each time it goes on from the last checkpoint, and the other process says what happened."""
    call = (run_training, finished / "store", tmp_path / "run", RUN)
    for step in range(9):
        rank = (step + parity) % 2
        ends = ranks.run(2, *call, (rank, "take_step", step, "SIGKILL"))
        assert ends[rank] == End(code=-signal.SIGKILL)
        assert ends[1 - rank].error.startswith(f"TrainingError: In step {step + 1}, " + GONE)

    assert_ended_alike(ranks.run(2, *call), tmp_path / "run", alone / "last")


@pytest.mark.parametrize(
    ("rank", "name", "at"),
    [
        (0, "predict", 0), (1, "predict", 1), (0, "save_checkpoint", 0), (0, "save_checkpoint", 1),
        (1, "check_weights", 1), (0, "start_run", 0), (1, "load_checkpoint", 0),
    ],
)  # fmt: skip
def test_a_run_killed_elsewhere_ends_alike(finished, tmp_path, ranks, alone, rank, name, at):
    call = (run_training, finished / "store", tmp_path / "run", RUN)
    ends = ranks.run(2, *call, (rank, name, at, "SIGKILL"))
    assert ends[rank] == End(code=-signal.SIGKILL)
    assert GONE in ends[1 - rank].error

    assert_ended_alike(ranks.run(2, *call), tmp_path / "run", alone / "last")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_after_the_step_with_a_checkpoint(
    finished, tmp_path, ranks, alone, rank
):
    call = (run_training, finished / "store", tmp_path / "run", RUN)
    ends = ranks.run(2, *call, (rank, "take_step", 4, "SIGTERM"))
    stopped = load_checkpoint(tmp_path / "run")

    assert ["KeyboardInterrupt" in one.error for one in ends] == [True, True]
    assert stopped is not None
    assert (stopped.step, stopped.processes) == (5, 2)
    assert_ended_alike(ranks.run(2, *call), tmp_path / "run", alone / "last")


# ------------------------------------------------------------------ another number of processes


def test_a_run_goes_on_with_one_two_and_four_processes(finished, tmp_path, ranks, alone):
    call = (run_training, finished / "store", tmp_path / "run", RUN)
    for size, step in ((1, 2), (2, 4), (4, 6), (2, 7)):
        ends = ranks.run(size, *call, (size - 1, "take_step", step, "SIGTERM"))
        assert all("KeyboardInterrupt" in one.error for one in ends)

    assert_ended_alike(ranks.run(1, *call), tmp_path / "run", alone / "last")


def test_a_run_does_not_go_on_with_three_processes(finished, tmp_path, ranks):
    call = (run_training, finished / "store", tmp_path / "run", RUN)
    ranks.run(2, *call, (0, "take_step", 4, "SIGTERM"))
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    ends = ranks.run(3, *call)

    for one in ends:
        assert one.error.startswith("ConfigError: The checkpoint was made by 2 processes, and 3 ")
        assert one.error.endswith("start one of these numbers, or train again in another --out.")
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


# ------------------------------------------------------------------ refusals


def test_processes_with_different_data_refuse_before_anything_is_written(tmp_path, ranks):
    stores = [tmp_path / "a", tmp_path / "b"]
    for seed, path in enumerate(stores):
        make_store(path, make_recording(seed=seed))
    ends = ranks.run(2, run_in, stores, tmp_path / "run", RUN)

    assert [one.error for one in ends] == [
        "ConfigError: Process 1 of 2 and process 0 differ in their recordings: give all of them "
        "the same command, the same version of spikedata, and the same store."
    ] * 2
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_is_refused_by_all(finished, tmp_path, ranks):
    train(Store(finished / "store"), tmp_path / "run", make_config(steps=1))
    ends = ranks.run(2, run_training, finished / "store", tmp_path / "run", RUN)

    assert all("holds a run with other settings" in one.error for one in ends)


# ------------------------------------------------------------------ torchrun


def test_torchrun_runs_the_command_and_one_process_prints(finished, tmp_path, alone):
    preset = tmp_path / "run.toml"
    preset.write_text(as_toml(RUN))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "--no-python", sys.executable, "-c", "from spikedata.cli import main; main()",
         "train", "--store", finished / "store", "--preset", preset, "--out", tmp_path / "run"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Trained") == 1
    assert found_in(tmp_path / "run") == found_in(alone / "last")


def as_toml(config: Config) -> str:
    """Return a preset with the settings of a test; none of them is a table in a table but one."""
    content = config.model_dump(mode="json", exclude_none=True)
    lines = []
    for section in ("model", "train"):
        lines.append(f"[{section}]")
        for name, value in content[section].items():
            if isinstance(value, dict):
                inner = ", ".join(f"{key} = {one!r}" for key, one in value.items())
                lines.append(f"{name} = {{ {inner} }}")
            else:
                lines.append(f"{name} = {value!r}")
    return "\n".join(lines).replace("True", "true").replace("False", "false") + "\n"
