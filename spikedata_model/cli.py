"""The model's commands of the program `spikedata`; torch is loaded when one of them runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from spikedata.cli import CacheOption, JsonOption, StoreOption, store_path
from spikedata.console import print_json, print_table, progress_bar, say
from spikedata.manifest import load_manifest
from spikedata.store import Store

__all__ = ["evaluate", "report", "train"]

RunArgument = Annotated[Path, typer.Argument(help="The folder given to `spikedata train --out`.")]


def train(
    out: Annotated[Path, typer.Option(help="Folder of the run; the same one goes on with it.")],
    manifest: Annotated[
        str | None,
        typer.Option(
            "--manifest", "-m", help="Train on the recordings of this manifest's role train."
        ),
    ] = None,
    recording: Annotated[
        list[str] | None, typer.Option(help="Train on this recording; may be given several times.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Bundled preset or .toml file.")] = "poyo-compact",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: --set train.steps=200.")
    ] = None,
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a POYO on recordings of the store, or go on with a run that was stopped."""
    from spikedata_model.config import load_config

    config = load_config(preset, setting or ())
    opened = Store(store_path(store, cache))
    ids = list(recording or [])
    if manifest is not None:
        items = load_manifest(manifest).items()
        ids += [dataset.recording_id(asset) for dataset, asset in items if asset.role == "train"]
    everything = manifest is None and not recording
    from spikedata_model.train import train as run

    with progress_bar() as progress:
        end = run(opened, out, config, recording_ids=None if everything else ids, progress=progress)
    row = end.curve[-1]
    if as_json:
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        print_json({"run": str(out), "seconds": end.seconds, **finite})
        return
    print_table(
        f"Trained {out} in {end.seconds:.1f} s", ["", "value"], [[k, v] for k, v in row.items()]
    )
    say(f"Next: spikedata evaluate {out}")


def evaluate(
    run: RunArgument,
    split: Annotated[
        Literal["train", "valid", "test"], typer.Option(help="Which part of the recordings.")
    ] = "test",
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a run on held-out time, beside a Wiener filter on the same samples."""
    from spikedata_model.evaluate import evaluate as score

    opened = Store(store_path(store, cache))
    with progress_bar() as progress:
        evaluation = score(opened, run, split=split, progress=progress)
    if as_json:
        print_json(json.loads(evaluation.model_dump_json()))  # which has null for nan
        return
    rows = []
    for one in evaluation.scores:
        for channel, poyo, wiener in zip(one.columns, one.r2, one.baseline_r2, strict=True):
            rows.append([one.recording_id, f"{one.target} {channel}", poyo, wiener, poyo - wiener])
        if len(one.columns) > 1:
            mean, base = one.mean_r2, one.mean_baseline_r2
            rows.append([one.recording_id, f"{one.target} mean", mean, base, mean - base])
    print_table(
        f"R² on the split '{split}' ({run})",
        ["recording", "target", "POYO", "Wiener filter", "difference"],
        rows,
    )
    say(f"Next: spikedata report {run}")


def report(
    run: RunArgument,
    split: Annotated[
        Literal["train", "valid", "test"], typer.Option(help="Which evaluation to show.")
    ] = "test",
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page with pictures of what a run decoded, and the pictures themselves."""
    from spikedata_model.report import write_report

    paths = write_report(Store(store_path(store, cache)), run, split=split)
    if as_json:
        print_json([str(path) for path in paths])
        return
    for path in paths:
        print(path)
