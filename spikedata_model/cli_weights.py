"""Commands for weights that others trained, or are to use: `import-weights`, `export-weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikedata.cli import JsonOption
from spikedata.console import print_json, print_table, say

__all__ = ["export_weights", "import_weights"]


def import_weights(
    file: Annotated[Path, typer.Argument(help="A Lightning checkpoint of torch_brain's POYO.")],
    target: Annotated[str, typer.Option(help="Name of the series that the model decodes.")],
    out: Annotated[Path, typer.Option(help="File to write the weights to.")],
    as_json: JsonOption = False,
) -> None:
    """Turn a published checkpoint into a weights file, without running anything in it."""
    from spikedata_model.published import import_published
    from spikedata_model.weights import save_weights

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
    from spikedata_model.weights import load_weights, weights_of_run

    weights = weights_of_run(source) if source.is_dir() else load_weights(source)
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
