"""What processes of a group do in the tests."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from itertools import count
from pathlib import Path

import torch

from spikedata.store import Store
from spikedata_model import train as train_module
from spikedata_model.checkpoint import Checkpoint
from spikedata_model.config import Config, Labels
from spikedata_model.data import prepare_data
from spikedata_model.distributed import World, join, state_digest
from spikedata_model.errors import CheckpointError
from spikedata_model.finetune import finetune
from spikedata_model.optim import make_optimizer
from spikedata_model.poyo import Poyo
from spikedata_model.step import prepare_inputs, take_step
from spikedata_model.train import train, training_sampler
from spikedata_model.workers import Workers
from tests.spikedata_model.builders import TINY, make_config, make_recording

DROPPED = TINY.model_copy(
    update={"ffn_dropout": 0.2, "residual_dropout": 0.3, "attention_dropout": 0.2}
)
UNITS = {"min_units": 1, "mode_units": 2, "max_units": 4, "peak": 2.0}
CASES = {
    "adamw": make_config(DROPPED, unit_dropout=UNITS, batch_size=8),
    "lamb": make_config(DROPPED, unit_dropout=UNITS, batch_size=8, optimizer="lamb"),
    "bfloat16": make_config(DROPPED, batch_size=12, precision="bfloat16"),
    "fewer windows than processes": make_config(DROPPED, batch_size=1),
    "fewer windows than four": make_config(DROPPED, batch_size=3),
    "last batch of 3": make_config(DROPPED, batch_size=7),  # of 24 windows an epoch
    "last batch of 4": make_config(DROPPED, batch_size=5, unit_dropout=UNITS),
    "two threads": make_config(DROPPED, batch_size=11, threads=2),
    "a window at a time": make_config(DROPPED, batch_size=8, windows_at_once=1),
    "no dropout": make_config(batch_size=8),
}
STEPS = 5


def steps_of(case: str, world: World, fault: tuple[int, int, str] | None = None) -> list:
    """Take some steps; return losses and norms, and the bytes of weights and moments as text.

    A fault is a rank, a step before which it happens, and what it is.
    """
    config = CASES[case]
    recordings = {
        "lab/a": make_recording(targets=("hand", "heading")),
        "lab/b": make_recording("lab/b", seed=1, n_units=3, sample_rate=33.0),
    }
    data = prepare_data(recordings, tuple(recordings), config)
    sampler = training_sampler(data, config)
    torch.manual_seed(0)
    settings = config.train
    model = Poyo(config.model, 7, 2, data.channels, precision=settings.precision)
    optimizer, tokenizer = make_optimizer(model, settings), data.tokenizer(sampler, config)
    numbers = []
    workers = Workers(
        torch.device("cpu"), settings.precision, settings.threads, settings.windows_at_once
    )
    with workers:
        for step in range(STEPS):
            if fault is not None and (world.rank, step) == fault[:2]:
                happen(fault[2], world)
            inputs = prepare_inputs(model, sampler, tokenizer, data, step, world)
            numbers += take_step(model, optimizer, workers, inputs, settings, step, world)
            if world.stopping:
                break
    states = optimizer.state_dict()["state"].values()
    moments = {f"{n}.{key}": one for n, own in enumerate(states) for key, one in own.items()}
    return [*numbers, state_digest({**model.state_dict(), **moments}), model.state_dict()]


def happen(what: str, world: World) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop":
        world.ask_to_stop()
    if what == "raise":
        raise ValueError("not today")


def all_cases(cases: tuple[str, ...]) -> dict[str, list]:
    torch.set_num_threads(1)
    with join("cpu") as world:
        return {case: steps_of(case, world) for case in cases}


def faulty(fault: tuple[int, int, str]) -> list:
    torch.set_num_threads(1)
    with join("cpu") as world:
        return steps_of("adamw", world, fault)


def compare(odd: int) -> None:
    with join("cpu") as world:
        world.same({"settings": "alike", "recordings": "other" if world.rank == odd else "these"})


def fail_together(culprits: tuple[int, ...]) -> int:
    with join("cpu") as world:

        def function() -> int:
            if world.rank in culprits:
                raise CheckpointError(f"no checkpoint {world.rank}")
            return world.rank

        return world.together(function)


def deal(count: int) -> tuple[list[tuple[int, int]], list[int]]:
    made = []
    with join("cpu") as world:

        def make(number: int) -> tuple[int, int]:
            made.append(number)
            return number, world.rank

        return list(world.deal(count, make)), made


def nested() -> tuple[int, int, int, bool]:
    with join("cpu") as outer:
        with join("cpu") as inner:
            facts = inner.rank, inner.size
        outer.gather(0)  # the group is still there
        return *facts, outer.threads, outer.first


def impatient() -> None:
    if os.environ["RANK"] == "0":
        return
    with join("cpu", timedelta(seconds=1)):
        pass


CLOCKED = {"seconds", "tokens_per_s", "seconds_left", "memory_mb"}  # what no seed decides


def summary(end: Checkpoint) -> dict[str, object]:
    """Return everything of the end of a run that the number of processes must not change."""
    states = end.optimizer["state"].items()
    moments = {f"{n}.{key}": one for n, own in states for key, one in own.items()}
    return {
        "step": end.step,
        "losses": end.losses,
        "curve": [{key: one[key] for key in one.keys() - CLOCKED} for one in end.curve],
        "weights": state_digest(end.model),
        "moments": state_digest(moments),
    }


def run_training(
    store: Path, folder: Path, config: Config, fault: tuple[int, str, int, str] | None = None
) -> dict[str, object]:
    """Train; a fault is a rank, a function of train.py, which call or step of it, and what."""
    torch.set_num_threads(1)
    if fault is not None and int(os.environ["RANK"]) == fault[0]:
        arm(*fault[1:])
    return summary(train(Store(store), folder, config))


def arm(name: str, at: int, what: str) -> None:
    """Let something happen before a step is taken, or a function is called for the n-th time."""
    inner, calls = getattr(train_module, name), count()

    def function(*args: object, **named: object) -> object:
        number = next(calls)
        if at == (args[5] if name == "take_step" else number):
            os.kill(os.getpid(), getattr(signal, what))
        return inner(*args, **named)

    setattr(train_module, name, function)


def run_in(stores: list[Path], folder: Path, config: Config) -> dict[str, object]:
    """Train with a store for each process."""
    return run_training(stores[int(os.environ["RANK"])], folder, config)


def run_finetuning(
    store: Path, source: Path, folder: Path, mode: str, settings: list[str]
) -> dict[str, object]:
    """Adapt the model of a run to all recordings of a store, from few labels."""
    torch.set_num_threads(1)
    labels = Labels(share=0.5)
    return summary(
        finetune(Store(store), folder, source, mode=mode, labels=labels, settings=settings)
    )
