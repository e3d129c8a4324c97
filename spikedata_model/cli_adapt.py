"""The command `finetune`; torch is loaded when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spikedata.cli import CacheOption, JsonOption, StoreOption, store_path
from spikedata.console import progress_bar
from spikedata.store import Store
from spikedata_model.cli import (
    BoardOption,
    EvaluateOption,
    OutOption,
    RecordingOption,
    Role,
    SetOption,
    SplitOption,
    chosen_recordings,
    show_end,
)
from spikedata_model.errors import ConfigError

__all__ = ["finetune"]

Mode = Literal["unit-id", "gradual", "full"]


def finetune(
    source: Annotated[
        Path, typer.Option("--from", help="Folder of a run, or a weights file, to begin with.")
    ],
    out: OutOption,
    mode: Annotated[
        Mode,
        typer.Option(
            help="Train embeddings of units and recordings (and readouts of new targets) alone; "
            "these first, then everything; or everything at once."
        ),
    ] = "unit-id",
    manifest: Annotated[
        str | None,
        typer.Option("--manifest", "-m", help="Adapt to recordings of this manifest: see --role."),
    ] = None,
    role: Annotated[
        Role, typer.Option(help="Which recordings of the manifest, by their role.")
    ] = "transfer",
    recording: RecordingOption = None,
    trials: Annotated[
        int | None, typer.Option(help="Learn from so many trials of each training split.", min=1)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Learn from so many seconds of each training split.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Learn from this share of each training split.")
    ] = None,
    draw: Annotated[
        int | None,
        typer.Option(help="Draw those labels at random by this seed; the first ones if absent."),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(help="Begin a new target's readout as a copy: --like NEW=KNOWN."),
    ] = None,
    setting: SetOption = None,
    then_evaluate: EvaluateOption = False,
    split: SplitOption = "test",
    tensorboard: BoardOption = False,
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Adapt a trained model to new recordings, or go on with a run that was stopped."""
    from spikedata_model.config import labels_of
    from spikedata_model.distributed import join
    from spikedata_model.finetune import finetune as run
    from spikedata_model.finetune import finetune_config
    from spikedata_model.weights import read_weights

    labels = labels_of(trials=trials, seconds=seconds, share=share, seed=draw)
    opened = Store(store_path(store, cache))
    chosen = chosen_recordings(manifest, role, recording or ())
    weights = read_weights(source)
    device = finetune_config(weights, mode, setting or (), labels).train.device
    with join(device) as world, progress_bar() as progress:
        end = run(
            opened, out, weights, mode=mode, recording_ids=chosen.ids, labels=labels,
            like=dict(map(_pair, like or ())), settings=setting or (), manifest=chosen.manifest,
            board=tensorboard, progress=progress,
        )  # fmt: skip
    if world.first:
        show_end(opened, out, end, split if then_evaluate else None, as_json)


def _pair(text: str) -> tuple[str, str]:
    new, equals, known = text.partition("=")
    if not (new and equals and known):
        raise ConfigError(f"--like '{text}': expected NEW=KNOWN, two names of targets.")
    return new.strip(), known.strip()
