"""Measure after how many seconds of training POYO passes a linear decoder, ours and torch_brain's.

The question: how soon is the model of use? On every recording both sides get the same arrays,
split, score, number of settings, seeds and seconds. First each setting runs once, with the first
seed; the best by R² on the split "valid" at the end of its run then runs with the other seeds. What
counts is the first evaluation on the split "test", every channel, that is at or above the better of
two Wiener filters (causal and centred) fitted on the same training split.

    python benchmarks/bench_learning.py --store STORE \
        --recordings stevenson2011/random_target@tuning --synthetic center_out:0 \
        --torch-brain PYTHON --results FOLDER --out benchmarks/results/useful.json

Every run is kept in --results: a sweep that was cut off, by --budget or by hand, goes on from
there. A synthetic session is `spikedata.testing.reaching.make_reaching_session`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import write_result
from learning_runs import (
    Task,
    is_kept,
    kept,
    level_of,
    seconds_until,
    tasks_of,
    train_ours,
    train_theirs,
    wiener,
)

RATES = ("2.5e-4", "5e-4", "1e-3")  # around the best of both in earlier sweeps
SMALL = (
    "--warmup 0.05 --grad-clip 1 --dim 128 --depth 2 --dim-head 32 --cross-heads 2 --self-heads 4 "
    "--latents-per-step 4 --batch-size 16 --dropouts 0 0 0"
)
"""torch_brain's POYO in the size of our preset: its 1.3M passes no filter in these times."""

OVERHEAD = 0.45  # of a run's seconds: evaluations, start; for the estimate alone


@dataclass(frozen=True)
class Side:
    """One implementation, its settings, and what runs it (task, setting, seed, seconds)."""

    name: str
    settings: tuple[str, ...]
    train: Callable[[Task, str, int, float], dict]
    base: str  # what all settings share; part of the key


class Budget:
    """Says whether another run may begin."""

    def __init__(self, minutes: float) -> None:
        self.until = time.monotonic() + 60 * minutes
        self.missing = 0

    def allows(self) -> bool:
        """Count the run as missing if the time is up."""
        late = time.monotonic() > self.until
        self.missing += late
        return not late


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------ the sweep


def key_of(task: Task, side: Side, setting: str, seed: int, args: argparse.Namespace) -> dict:
    """Return all that a run's result depends on, but the code and the machine."""
    return {"side": side.name, "recording": task.recording_id, "scheme": task.scheme,
            "setting": setting, "seed": seed, "seconds": args.seconds,
            "base": side.base}  # fmt: skip


def one_run(
    task: Task, side: Side, setting: str, seed: int, args: argparse.Namespace, budget: Budget
) -> dict | None:
    """Return one run, from --results or anew, or nothing if the time is up."""
    key = key_of(task, side, setting, seed, args)
    if not is_kept(args.results, key) and not budget.allows():
        return None
    found = kept(args.results, key, partial(side.train, task, setting, seed, args.seconds))
    last = found["rows"][-1]
    say(f"{side.name}, {task.recording_id}, {setting}, seed {seed}: R² "
        f"{np.mean(last['r2']):.3f} after {last['train_seconds']:.0f} s")  # fmt: skip
    return {"setting": setting, "seed": seed, **found}


def best_of(runs: list[dict]) -> str:
    """Return the setting with the highest R² on the split "valid", the mean over channels."""
    return max(runs, key=lambda one: np.mean(one["valid_r2"]))["setting"]


def sweep(
    task: Task, side: Side, level: list[float], args: argparse.Namespace, budget: Budget
) -> dict:
    """Return all runs of one side on one recording, and what the best setting needed."""
    first, *others = args.seeds
    tried = [one_run(task, side, one, first, args, budget) for one in side.settings]
    runs = [one for one in tried if one is not None]
    best = best_of(runs) if len(runs) == len(side.settings) else None
    if best is not None:
        more = [one_run(task, side, best, seed, args, budget) for seed in others]
        runs += [one for one in more if one is not None]
    for one in runs:
        one["seconds_until"] = seconds_until(one["rows"], level)
    return {"side": side.name, "base": side.base, "best": best, "runs": runs}


def summary(found: dict) -> dict | None:
    """Return how soon the best setting passed the level, over its seeds; nothing if unfinished."""
    runs = [one for one in found["runs"] if one["setting"] == found["best"]]
    if not runs:
        return None
    passed = [one["seconds_until"] for one in runs if one["seconds_until"] is not None]
    # A run that never passed is later than all that did: so is the median if most did not.
    times = sorted(passed) + [np.inf] * (len(runs) - len(passed))
    median = float(np.median(times)) if len(passed) * 2 > len(runs) else None
    return {
        "runs": len(runs),
        "median_s": median,
        "range_s": [min(passed), max(passed)] if passed else None,
        "never": len(runs) - len(passed),
        "r2": [float(np.mean(one["rows"][-1]["r2"])) for one in runs],
        "parameters": runs[0]["parameters"],
    }


def sides_of(args: argparse.Namespace) -> Iterator[Side]:
    """Yield our side, and torch_brain's with as many settings."""
    ours = tuple(args.ours or (f"train.learning_rate={rate}" for rate in RATES))
    shared = " ".join(args.set)

    def train_one(task: Task, setting: str, seed: int, seconds: float) -> dict:
        return train_ours(task, args.preset, f"{shared} {setting}", seed, seconds)

    yield Side("ours", ours, train_one, f"{args.preset} {shared}".strip())
    if not args.torch_brain:
        return
    theirs = tuple(args.theirs or (f"--lr {rate}" for rate in RATES))
    if len(theirs) != len(ours):
        raise SystemExit(
            f"{len(ours)} settings of ours and {len(theirs)} of torch_brain's: give both as many."
        )
    base = f"{args.theirs_base} --eval-every {args.eval_every:g} --threads {args.threads}"

    def train_other(task: Task, setting: str, seed: int, seconds: float) -> dict:
        return train_theirs(task, args.torch_brain, f"{base} {setting}", seed, seconds)

    yield Side("torch_brain", theirs, train_other, base)


# ------------------------------------------------------------------ the run


def run(args: argparse.Namespace) -> dict[str, object]:
    """Return everything that was measured."""
    if args.threads:
        torch.set_num_threads(args.threads)
    tasks = tasks_of(args.results, args.store, args.recordings, args.synthetic,
                     args.synthetic_seconds)  # fmt: skip
    sides = list(sides_of(args))
    for task in tasks:
        if not task.valid:
            raise SystemExit(
                f"{task.recording_id}: the scheme '{task.scheme}' has no split 'valid' to choose "
                "settings on; name another as ID@SCHEME."
            )
    count = len(tasks) * sum(len(side.settings) + len(args.seeds) - 1 for side in sides)
    minutes = count * args.seconds * (1 + OVERHEAD) / 60
    say(f"{count} runs of at most {args.seconds:g} s: {minutes:.0f} min at most, {args.budget:g} "
        "allowed.")  # fmt: skip
    budget, found = Budget(args.budget), []
    for task in tasks:
        key = {"side": "wiener", "recording": task.recording_id, "scheme": task.scheme}
        floor = kept(args.results, key, lambda task=task: {"floor": wiener(task)})["floor"]
        level = level_of(floor)
        say(f"{task.recording_id}: Wiener filters {np.mean(level):.3f}")
        swept = [sweep(task, side, level, args, budget) for side in sides]
        for one in swept:
            one["summary"] = summary(one)
        found.append({"recording": task.recording_id, "scheme": task.scheme, "floor": floor,
                      "level": level, "sides": swept})  # fmt: skip
    if budget.missing:
        say(f"The time is up, {budget.missing} or more runs are missing: run it again to go on.")
    return {"benchmark": "useful", "seconds": args.seconds, "seeds": args.seeds,
            "missing": budget.missing, "tasks": found}  # fmt: skip


def show(result: dict) -> None:
    """Print one row a recording and side."""
    for one in result["tasks"]:
        print(f"{one['recording']}: Wiener filters {np.mean(one['level']):.3f}")
        for side in one["sides"]:
            found = side["summary"]
            if found is None:
                print(f"  {side['side']:<12} unfinished")
                continue
            median = "never" if found["median_s"] is None else f"{found['median_s']:.0f} s"
            runs = f"median of {found['runs']}, {found['never']} never"
            print(f"  {side['side']:<12} {side['best']}: passes after {median} ({runs}), "
                  f"R² {np.mean(found['r2']):.3f}")  # fmt: skip


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--store", type=Path)
    add("--recordings", nargs="*", default=[], help="ID or ID@SCHEME, in --store")
    add("--synthetic", nargs="*", default=["center_out:0"], help="TASK:SEED")
    add("--synthetic-seconds", type=float, default=1200.0)
    add("--seconds", type=float, default=75.0, help="of training, at most, in each run")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--budget", type=float, default=30.0, help="minutes after which no run begins")
    add("--preset", default="poyo-compact")
    add("--set", nargs="*", default=["train.evaluate_every=15"], help="in all of our settings")
    add("--ours", nargs="+", help="our settings, each quoted: 'section.field=value ...'")
    add("--torch-brain", help="a python with torch_brain; left out, only ours is measured")
    add("--theirs", nargs="+", help="as many of torch_brain's, each quoted: ' --lr 1e-3'; a "
        "--seconds there shortens its schedule")  # fmt: skip
    add("--theirs-base", default=SMALL, help="in all of torch_brain's settings")
    add("--eval-every", type=float, default=6.0, help="torch_brain's seconds between evaluations")
    add("--threads", type=int, default=0)
    add("--results", type=Path, help="where every run is kept; deleted afterwards if not given")
    add("--out", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        args.results = args.results or Path(folder)
        result = run(args)
    show(result)
    if args.out:
        write_result(args.out, result)


if __name__ == "__main__":
    main()
