"""Measure what size and number of sessions are worth: R² of sessions trained on, and of a new one.

Every cell trains one model of a size on a number of synthetic sessions (`adapt_sessions.py`), for
the same number of epochs: every session is seen as often in all cells, and more sessions are more
steps. With as many steps in all, each of many sessions would be seen less, and that would be
measured. A session that no model was trained on is then learned by unit identification from a part
of its labels. Scores are R² on all of the split "test", the mean over channels and sessions. Fewer
sessions are some of the more.

    python benchmarks/bench_scaling.py --results FOLDER --out benchmarks/results/scaling.json \
        --figure docs/images/scaling-study.png

Every cell is kept in --results: what was cut off, by --budget or by hand, goes on from there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from adapt_sessions import Family, synthetic_family
from bench_adapt import Later, Runs, adapt, say, score
from common import write_result

from spikedata.store import Store
from spikedata_model.checkpoint import read_run
from spikedata_model.config import load_config
from spikedata_model.evaluate import predict
from spikedata_model.train import train
from spikedata_model.weights import Weights, weights_of_run

SIZES = {
    "small": "model.dim=32 model.depth=2 model.dim_head=16",
    "middle": "model.dim=64 model.depth=2",
    "large": "model.dim=128 model.depth=3",
}
"""Changes of the preset poyo-compact: about 0.1, 0.3 and 1.3 M weights beside the tables."""


def weights_beside_tables(weights: Weights) -> int:
    """Return the number of weights that do not grow with units and recordings."""
    model = weights.model
    tables = (model.unit_embedding.weight, model.recording_embedding.weight)
    return sum(one.numel() for one in model.parameters()) - sum(one.numel() for one in tables)


def cell(
    store: Store, family: Family, settings: Sequence[str], folder: Path, args: argparse.Namespace
) -> dict[str, object]:
    """Return the scores of one size and number of sessions; a run that began goes on."""
    config = load_config(args.preset, settings)
    end = train(store, folder, config, recording_ids=family.pretraining)
    record, weights = read_run(folder), weights_of_run(folder)
    own = predict(weights.model, record.data(store), record.config, "test")
    seed = f"train.seed={family.seed}"
    new = adapt(
        store, family.held_out, weights, "unit-id", args.share, [*args.adapt, *args.set, seed]
    )
    return {
        "parameters": weights_beside_tables(weights),
        "steps": end.step,
        "train_seconds": end.seconds,
        "r2": float(np.mean([score(one) for one in own])),
        "held_out_r2": new["r2_last"],
    }


def run(args: argparse.Namespace) -> dict[str, object]:
    """Return all cells that there was time for."""
    store, runs, rows = Store(args.results / "store", create=True), Runs(args), []
    for seed in args.seeds:
        for count in args.sessions:
            family = synthetic_family(store, count, seed, args.synthetic_seconds)
            for size in args.sizes:
                settings = [*SIZES[size].split(), *args.pretrain, *args.set, f"train.seed={seed}"]
                key = {"size": size, "sessions": count, "seed": seed, "preset": args.preset,
                       "settings": settings, "adapt": args.adapt, "share": args.share,
                       "seconds": args.synthetic_seconds}  # fmt: skip
                folder = args.results / "pretrained" / f"{size}-{count}-{seed}"
                try:
                    found = runs.get(key, partial(cell, store, family, settings, folder, args))
                except Later:
                    continue
                scores = {name: one for name, one in found.items() if name != "key"}
                rows.append({"size": size, "sessions": count, "seed": seed} | scores)
                say(f"{size}, {count} sessions, seed {seed}: R² {found['r2']:.3f}, new session "
                    f"{found['held_out_r2']:.3f}")  # fmt: skip
    if runs.missing:
        say(f"The time is up, {runs.missing} cells are missing: run it again to go on.")
    names = ("preset", "pretrain", "adapt", "set", "share", "synthetic_seconds", "seeds")
    return {"benchmark": "scaling", "missing": runs.missing,
            "settings": {name: getattr(args, name) for name in names}, "rows": rows}  # fmt: skip


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    add("--sessions", type=int, nargs="+", default=[1, 3, 9])
    add("--seeds", type=int, nargs="+", default=[0])
    add("--share", type=float, default=0.2, help="of the new session's labels")
    add("--synthetic-seconds", type=float, default=300.0)
    add("--preset", default="poyo-compact")
    add("--pretrain", nargs="*", default=["train.epochs=16"], help="settings")
    add("--adapt", nargs="*", default=[], help="settings, beside those of the mode")
    add("--set", nargs="*", default=[], help="settings of all runs")
    add("--budget", type=float, default=60.0, help="minutes after which no cell begins")
    add("--results", type=Path, help="where every cell is kept; deleted afterwards if not given")
    add("--out", type=Path)
    add("--figure", type=Path, help="where the figure is drawn")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        args.results = args.results or Path(folder)
        result = run(args)
    if args.out:
        write_result(args.out, result)
    if args.figure:
        from adapt_figures import scaling_figure

        args.figure.write_bytes(scaling_figure(result))


if __name__ == "__main__":
    main()
