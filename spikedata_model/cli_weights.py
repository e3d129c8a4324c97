"""Commands for weights that others trained, or are to use; torch is loaded when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spikedata.cli import CacheOption, JsonOption, StoreOption, store_path
from spikedata.console import format_bytes, print_json, print_table, say
from spikedata.store import Store

if TYPE_CHECKING:
    from spikedata_model.exporting import Named
    from spikedata_model.weights import Weights

__all__ = ["export_decoder", "export_weights", "import_weights"]


def import_weights(
    file: Annotated[Path, typer.Argument(help="A Lightning checkpoint of torch_brain's POYO.")],
    target: Annotated[str, typer.Option(help="Name of the series that the model decodes.")],
    out: Annotated[Path, typer.Option(help="File to write the weights to.")],
    as_json: JsonOption = False,
) -> None:
    """Turn a published checkpoint into a weights file, without running anything in it."""
    from spikedata_model.published import import_published
    from spikedata_model.weights import save_weights

    _check_out(file, out)
    weights = import_published(file, target)
    save_weights(out, weights)
    model, provenance = weights.model, weights.provenance
    read = {
        "sha256": provenance.sha256 if provenance else "",
        "units": len(weights.vocabulary.unit_ids),
        "recordings": len(weights.vocabulary.recording_ids),
        "parameters": sum(one.numel() for one in model.parameters()),
        "target": target,
        "channels": model.readout[0].out_features,
        "scaled_recordings": len(weights.scales),
    }
    dropped = provenance.dropped if provenance else {}
    casts = provenance.casts if provenance else {}
    not_imported = list(provenance.not_imported) if provenance else []
    if as_json:
        more = {"dropped": dropped, "cast_to_float32": casts, "not_imported": not_imported}
        print_json({"weights": str(out), **read, **more})
        return
    print_table(f"Read {file}", ["", "value"], [[name, value] for name, value in read.items()])
    print_table(
        "Left behind",
        ["what", "tensors or rows"],
        [[name, count] for name, count in dropped.items()],
    )
    if casts:
        rows = [[name, kind] for name, kind in casts.items()]
        print_table("Turned into float32", ["weight", "stored as"], rows)
    if not_imported:
        print_table(
            "Named, but not imported", ["class or function"], [[one] for one in not_imported]
        )
    if weights.scales:
        say(f"Wrote {out}, with the scales of {len(weights.scales)} recordings.")
    else:
        say(f"Wrote {out}. No scale is known: its outputs are as torch_brain divided '{target}'.")


def export_weights(
    source: Annotated[Path, typer.Argument(help="The folder of a run, or a weights file.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write for torch_brain.")],
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint that torch_brain's POYO.load_pretrained reads."""
    from spikedata_model.published import export_published
    from spikedata_model.weights import read_weights

    _check_out(source, out)
    weights = read_weights(source)
    export_published(out, weights)
    units, recordings = weights.vocabulary.unit_ids, weights.vocabulary.recording_ids
    written = {
        "checkpoint": str(out),
        "units": len(units),
        "recordings": len(recordings),
        "scaled_recordings": len(weights.scales),
    }
    if as_json:
        print_json(written)
        return
    say(
        f"Wrote {out} with {len(units)} units of {len(recordings)} recordings: "
        f'torch_brain.models.POYO.load_pretrained("{out}") reads it.'
    )
    if weights.scales:
        say(
            "torch_brain has no place for scales: its model returns normalised values. They are "
            f"kept under 'spikedata' in the file, where `spikedata import-weights {out} --target "
            f"{weights.model.targets[0]}` finds them."
        )


def export_decoder(
    source: Annotated[Path, typer.Argument(help="The folder of a run, or a weights file.")],
    out: Annotated[Path, typer.Option(help="File to write: NAME.pt2 for torch, or NAME.onnx.")],
    recording: Annotated[
        str | None, typer.Option(help="Only the rows of this recording and its units.")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(help="Of matrix products. [default: the run's; float32 of a file]"),
    ] = None,
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a decoder as a program that runs without spikedata, by torch.export or as ONNX.

    Names and units of the channels come from the recordings, where the store has them.
    """
    from spikedata_model.checkpoint import read_run
    from spikedata_model.exporting import export_decoder as export
    from spikedata_model.exporting import weights_of_recording
    from spikedata_model.weights import read_weights

    _check_out(source, out)
    weights = read_weights(source)
    if precision is None:
        precision = read_run(source).config.train.precision if source.is_dir() else "float32"
    if recording is not None:
        weights = weights_of_recording(weights, recording)
    folder = store_path(store, cache)
    named = _names(weights, Store(folder)) if store is not None or folder.is_dir() else {}
    written = export(out, weights, named, precision)
    units, recordings = weights.vocabulary.unit_ids, weights.vocabulary.recording_ids
    if as_json:
        print_json(
            {
                "decoder": str(out),
                "bytes": written.size,
                "precision": precision,
                "units": len(units),
                "recordings": len(recordings),
                "targets": weights.model.channels,
                "named_recordings": len(named),
                "scaled_recordings": len(weights.scales),
                "compared_windows": written.windows,
                "largest_difference": written.difference,
            }
        )
        return
    say(
        f"Wrote {out} ({format_bytes(written.size)}) for {len(units)} units of {len(recordings)} "
        f"recordings: {', '.join(weights.model.targets)}. On {written.windows} windows it differs "
        f"from the model in float32 by {written.difference:.1g} at most."
    )
    for what, known in (("Scales", len(weights.scales)), ("Names of channels", len(named))):
        if known < len(recordings):
            say(f"{what} are known of {known} of {len(recordings)} recordings.")


def _check_out(source: Path, out: Path) -> None:
    """Refuse to write over what is read, or over a file that keeps the run that is read."""
    from spikedata_model.checkpoint import CHECKPOINT, RUN
    from spikedata_model.errors import ConfigError
    from spikedata_model.weights import WEIGHTS

    kept = (source, *(source / one for one in (RUN, CHECKPOINT, WEIGHTS)))
    if out.exists() and any(one.exists() and out.samefile(one) for one in kept):
        raise ConfigError(f"Writing {out} would replace what is read: choose another --out.")


def _names(weights: Weights, store: Store) -> dict[str, dict[str, Named]]:
    """Return what the channels are called in those recordings that the store has."""
    from spikedata_model.exporting import Named

    there, named = set(store), {}
    for one in weights.vocabulary.recording_ids:
        series = store[one].series if one in there else {}
        held = {name: Named(series[name].unit, tuple(series[name].columns))
                for name in weights.model.targets if name in series}  # fmt: skip
        if held:
            named[one] = held
    return named
