"""The model's commands of the program `spikedata`; torch is loaded when one of them runs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from spikedata.cli import CacheOption, JsonOption, StoreOption, store_path
from spikedata.console import print_json, print_table, progress_bar, say
from spikedata.manifest import load_manifest
from spikedata.store import Store
from spikedata_model.errors import ConfigError

if TYPE_CHECKING:
    from spikedata_model.checkpoint import Checkpoint
    from spikedata_model.evaluate import Evaluation

__all__ = ["evaluate", "report", "train"]

Split = Literal["train", "valid", "test"]
Role = Literal["train", "heldout", "transfer"]
OutOption = Annotated[Path, typer.Option(help="Folder of the run; the same one goes on with it.")]
RecordingOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Train on this recording, beside those of --manifest; may be given several times. "
        "Without either: on all of the store."
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: --set train.steps=200.")
]
EvaluateOption = Annotated[
    bool, typer.Option("--evaluate", help="Score the run when it is trained.")
]
SplitOption = Annotated[Split, typer.Option(help="Which part --evaluate scores.")]
BoardOption = Annotated[
    bool, typer.Option("--tensorboard", help="Also write events for TensorBoard into the run.")
]
RunArgument = Annotated[Path, typer.Argument(help="The folder given to `spikedata train --out`.")]


def train(
    out: OutOption,
    manifest: Annotated[
        str | None,
        typer.Option(
            "--manifest", "-m", help="Train on the recordings of this manifest's role train."
        ),
    ] = None,
    recording: RecordingOption = None,
    preset: Annotated[str, typer.Option(help="Bundled preset or .toml file.")] = "poyo-compact",
    setting: SetOption = None,
    then_evaluate: EvaluateOption = False,
    split: SplitOption = "test",
    tensorboard: BoardOption = False,
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a POYO on recordings of the store, or go on with a run that was stopped."""
    from spikedata_model.config import load_config

    config = load_config(preset, setting or ())
    opened = Store(store_path(store, cache))
    chosen = chosen_recordings(manifest, "train", recording or ())
    from spikedata_model.distributed import join
    from spikedata_model.train import train as run

    with join(config.train.device) as world, progress_bar() as progress:
        end = run(
            opened, out, config, recording_ids=chosen.ids, manifest=chosen.manifest,
            board=tensorboard, progress=progress,
        )  # fmt: skip
    if world.first:
        show_end(opened, out, end, split if then_evaluate else None, as_json)


class Chosen(NamedTuple):
    """Recordings that a command names, None for all of the store, and their manifest."""

    ids: list[str] | None
    manifest: str | None


def chosen_recordings(manifest: str | None, role: Role, named: Sequence[str]) -> Chosen:
    """Return the recordings that are named, and those of a manifest that have a role."""
    if manifest is None:
        return Chosen(list(named) or None, None)
    opened = load_manifest(manifest)
    items = list(opened.items())
    ids = [dataset.recording_id(asset) for dataset, asset in items if asset.role == role]
    if not ids and not named:
        roles = ", ".join(sorted({asset.role for _, asset in items}))
        raise ConfigError(
            f"There is no recording to train on: of the {len(items)} of the manifest "
            f"'{manifest}' none has the role '{role}' (they have: {roles}); name some with "
            "--recording."
        )
    digest = hashlib.sha256(opened.path.read_bytes()).hexdigest()
    return Chosen([*named, *ids], f"{opened.name} (SHA-256 {digest})")


def show_end(store: Store, out: Path, end: Checkpoint, split: Split | None, as_json: bool) -> None:
    """Print how a training ended, and the scores of a split if one is named."""
    row = end.curve[-1] if end.curve else {}
    if not as_json:
        print_table(
            f"Trained {out} in {end.seconds:.1f} s", ["", "value"], [[k, v] for k, v in row.items()]
        )
    scores = _score(store, out, split) if split is not None else None
    if as_json:
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        more = {} if scores is None else {"evaluation": json.loads(scores.model_dump_json())}
        print_json({"run": str(out), "seconds": end.seconds, **finite, **more})
    elif scores is not None:
        _print_scores(scores, out)
    else:
        say(f"Next: spikedata evaluate {out}")


def evaluate(
    run: RunArgument,
    split: Annotated[Split, typer.Option(help="Which part of the recordings.")] = "test",
    causal: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Decode as in real time, a step of so many seconds at a time."
        ),
    ] = None,
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a run on held-out time, beside a Wiener filter on the same samples."""
    scores = _score(Store(store_path(store, cache)), run, split, causal)
    if as_json:
        print_json(json.loads(scores.model_dump_json()))  # which has null for nan
    else:
        _print_scores(scores, run)


def _score(store: Store, run: Path, split: Split, causal: float | None = None) -> Evaluation:
    from spikedata_model.evaluate import evaluate as score

    with progress_bar() as progress:
        return score(store, run, split=split, causal=causal, progress=progress)


def _print_scores(scores: Evaluation, run: Path) -> None:
    """Print R² where the recipe scores, and of the whole split where that is something else."""
    parts = any(one.evaluate_on is not None for one in scores.scores)
    rows: list[list[object]] = []
    for one in scores.scores:
        where = [one.evaluate_on or "whole split"] if parts else []
        pairs = {f"{one.target} {name}": one.of(row) for row, name in enumerate(one.columns)}
        if len(one.columns) > 1:
            pairs[f"{one.target} mean"] = one.of(None)
        for name, (poyo, wiener, poyo_whole, wiener_whole) in pairs.items():
            whole = [poyo_whole, wiener_whole] if parts else []
            rows.append([one.recording_id, name, *where, poyo, wiener, poyo - wiener, *whole])
    how = "" if scores.causal is None else f", causal, every {scores.causal:g} s"
    print_table(
        f"R² on the split '{scores.split}'{how} ({run})",
        ["recording", "target", *(["scored on"] if parts else []), "POYO", "Wiener filter",
         "difference", *(["POYO, whole split", "Wiener filter, whole split"] if parts else [])],
        rows,
    )  # fmt: skip
    if scores.causal is not None:
        return  # the report shows the other evaluation
    say(
        f"Next: spikedata report {run}"
        + (f" --split {scores.split}" if scores.split != "test" else "")
    )


def report(
    run: RunArgument,
    split: Annotated[Split, typer.Option(help="Which evaluation to show.")] = "test",
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
