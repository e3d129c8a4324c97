"""Measure what each choice of a preset is worth: one change a row, ours alone.

The question: which choices make it learn soon? Every row is the preset with one change (or two that
belong together), trained on one recording; beside it the seconds until it passes the better Wiener
filter on the split "test", as in `bench_learning.py`, and R² on "valid", by which one chooses.

    python benchmarks/bench_ablation.py --results FOLDER --out benchmarks/results/ablation.json
    python benchmarks/bench_ablation.py --change "wider" "model.dim=256" --only "as it is" wider \
        --results FOLDER --out elsewhere.json

About 10 minutes on 2 cores. Every run is kept in --results, so a run that was cut off goes on, and
a row more costs one run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_learning import Budget
from common import write_result
from learning_runs import Task, is_kept, kept, level_of, seconds_until, tasks_of, train_ours, wiener

CHANGES = {
    "as it is": "",
    "published start": "model.init=published",
    "published rotary periods": "model.t_min=1e-4",
    "published start and periods": "model.init=published model.t_min=1e-4",
    "published dropout": (
        "model.ffn_dropout=0.2 model.residual_dropout=0.4 model.attention_dropout=0.2"
    ),
    "one-cycle schedule": "train.schedule=one_cycle",
    # torch_brain's POYO example: 3.125e-5 a window, eps 1e-6, weight decay 1e-4, no clipping
    "LAMB and one-cycle, as published": (
        "train.optimizer=lamb train.schedule=one_cycle train.learning_rate=3.125e-5 "
        "train.rate_per=window train.eps=1e-6 train.weight_decay=1e-4 train.clip=0"
    ),
    "no warm-up": "train.warmup=0",
    "embeddings ten times as large": "model.embedding_scale=0.2",
    "half the width": "model.dim=64",
    "twice the depth": "model.depth=4",
    "twice the latents": "model.latents_per_step=8",
    "half the batch": "train.batch_size=8",
    "twice the batch": "train.batch_size=32",
}
"""What is changed, in words, and as settings."""


def one_row(
    task: Task, change: str, setting: str, level: list[float], args: argparse.Namespace,
    budget: Budget,
) -> dict | None:  # fmt: skip
    """Return a change over all seeds, or nothing if the time is up."""
    runs = []
    for seed in args.seeds:
        settings = " ".join([*args.set, setting]).strip()
        key = {"ablation": args.preset, "recording": task.recording_id, "scheme": task.scheme,
               "setting": settings, "seed": seed, "seconds": args.seconds}  # fmt: skip
        if not is_kept(args.results, key) and not budget.allows():
            return None
        work = partial(train_ours, task, args.preset, settings, seed, args.seconds)
        runs.append(kept(args.results, key, work))
    last = [one["rows"][-1] for one in runs]
    found = {
        "change": change, "setting": setting, "parameters": runs[0]["parameters"],
        "step_ms": float(np.median([one["train_seconds"] / one["step"] for one in last]) * 1e3),
        "seconds": [one["train_seconds"] for one in last],
        "seconds_until": [seconds_until(one["rows"], level) for one in runs],
        "r2": [float(np.mean(one["r2"])) for one in last],
        "valid_r2": [float(np.mean(one["valid_r2"])) for one in runs if one["valid_r2"]],
    }  # fmt: skip
    print(f"{task.recording_id}, {change}: R² {np.mean(found['r2']):.3f}, passes after "
          f"{found['seconds_until']}", file=sys.stderr, flush=True)  # fmt: skip
    return found


def run(args: argparse.Namespace) -> dict:
    """Return all rows of all recordings."""
    if args.threads:
        torch.set_num_threads(args.threads)
    changes = CHANGES | dict(args.change or [])
    unknown = set(args.only or changes) - set(changes)
    if unknown:
        raise SystemExit(f"--only: no change is called {sorted(unknown)}; {list(changes)} are.")
    wanted = {name: changes[name] for name in args.only or changes}
    tasks = tasks_of(args.results, args.store, args.recordings, args.synthetic,
                     args.synthetic_seconds)  # fmt: skip
    count = len(tasks) * len(wanted) * len(args.seeds)
    print(f"{count} runs, {args.budget:g} min allowed", file=sys.stderr)
    budget, found = Budget(args.budget), []
    for task in tasks:
        key = {"side": "wiener", "recording": task.recording_id, "scheme": task.scheme}
        floor = kept(args.results, key, lambda task=task: {"floor": wiener(task)})["floor"]
        level = level_of(floor)
        rows = [one_row(task, name, setting, level, args, budget)
                for name, setting in wanted.items()]  # fmt: skip
        found.append({"recording": task.recording_id, "scheme": task.scheme, "level": level,
                      "rows": [one for one in rows if one is not None]})  # fmt: skip
    if budget.missing:
        print(f"The time is up, {budget.missing} rows are missing: run it again to go on.",
              file=sys.stderr)  # fmt: skip
    return {"benchmark": "ablation", "preset": args.preset, "seeds": args.seeds,
            "seconds": args.seconds, "set": args.set, "missing": budget.missing,
            "tasks": found}  # fmt: skip


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--store", type=Path)
    add("--recordings", nargs="*", default=[], help="ID or ID@SCHEME, in --store")
    add("--synthetic", nargs="*", default=["center_out:0"], help="TASK:SEED")
    add("--synthetic-seconds", type=float, default=1200.0)
    add("--seconds", type=float, default=60.0, help="of training, at most, in each run")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--budget", type=float, default=10.0, help="minutes after which no run begins")
    add("--preset", default="poyo-compact")
    add("--set", nargs="*", default=["train.evaluate_every=25"], help="in all rows")
    add("--change", nargs=2, action="append", metavar=("NAME", "SETTINGS"), help="a row more")
    add("--only", nargs="+", metavar="NAME", help="these rows alone")
    add("--threads", type=int, default=0)
    add("--results", type=Path, help="where every run is kept; deleted afterwards if not given")
    add("--out", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        args.results = args.results or Path(folder)
        result = run(args)
    if args.out:
        write_result(args.out, result)


if __name__ == "__main__":
    main()
