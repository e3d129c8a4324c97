"""The commands `spikedata exchange …`: parse, call the library function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikedata.cli_options import CacheOption, JsonOption, StoreOption, finish, store_path
from spikedata.console import progress_bar
from spikedata.errors import (
    HarmonizeError,
    RecordingNotFoundError,
    SpikedataError,
    StoreError,
    did_you_mean,
)
from spikedata.files import sha256_of
from spikedata.recording import Recording
from spikedata.store import Store
from spikedata.version import __version__

__all__ = ["exchange_app"]

exchange_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Write recordings as files of torch_brain, and import such files.",
)


# ------------------------------------------------------------------ export


@exchange_app.command("export")
def export(
    out: Annotated[Path, typer.Option(help="Folder; files are OUT/DATASET/SESSION.h5.")],
    recording: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of recordings in the store. [default: all of them]"),
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(help="Splits that become train_domain, … [default: each one's first]"),
    ] = None,
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write recordings as HDF5 files that torch_brain reads; those that are up to date stay."""
    opened = Store(store_path(store, cache))
    wanted = list(dict.fromkeys(recording or opened))
    if not wanted:
        raise RecordingNotFoundError(
            f"{opened.path} holds no recording yet; make some with `spikedata ingest`."
        )
    for name in wanted:
        if name not in opened:
            raise RecordingNotFoundError(
                f"{opened.path} holds no recording '{name}'; {did_you_mean(name, opened)}"
            )
    rows = []
    with progress_bar() as progress:
        for count, name in enumerate(wanted, 1):
            path = out / f"{name}.h5"
            try:
                status, message = _export(opened[name], path, scheme), str(path)
            except (SpikedataError, OSError) as error:
                status, message = "failed", str(error)
            rows.append({"recording_id": name, "status": status, "message": message})
            progress("export", count, len(wanted))
    finish("Exported", rows, as_json)


def _export(recording: Recording, path: Path, scheme: str | None) -> str:
    """Write one recording unless the file already holds it; return which of the two it was."""
    from spikedata.exchange import torch_brain_header, write_torch_brain
    from spikedata.exchange_header import content_of

    try:
        there = torch_brain_header(path) if path.is_file() else None
    except SpikedataError:  # damaged or newer: write it again
        there = None
    chosen = scheme or next(iter(recording.splits), "")
    if there is not None and there.scheme == chosen:
        if there.fingerprint == recording.fingerprint != "":
            return "unchanged"
        if there.content == content_of(recording):
            return "unchanged"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path.parent} cannot be made: {error.strerror}.") from error
    write_torch_brain(recording, path, scheme)
    return "written"


# ------------------------------------------------------------------ import


@exchange_app.command("import")
def import_(
    file: Annotated[list[Path], typer.Argument(help="Files of torch_brain (.h5).")],
    dataset: Annotated[
        str | None, typer.Option(help="Name of the dataset. [default: what each file says]")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Series to predict, as cursor.vel; may be given more than once."),
    ] = None,
    replace_: Annotated[
        bool, typer.Option("--replace", help="Replace recordings that were not imported.")
    ] = False,
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import files of torch_brain into the store; those that are up to date are skipped."""
    opened = Store(store_path(store, cache), create=True)
    known = {name: _key_of(opened, name) for name in opened}
    rows, taken = [], {}
    with progress_bar() as progress:
        for count, path in enumerate(file, 1):
            row = {"file": str(path), "recording_id": "", "status": "failed", "message": ""}
            try:
                _import(opened, path, dataset, target or [], replace_, known, taken, row)
            except (SpikedataError, OSError) as error:
                row["message"] = str(error)
            rows.append(row)
            progress("import", count, len(file))
    finish("Imported", rows, as_json)


def _import(
    store: Store, path: Path, dataset: str | None, targets: list[str], anyway: bool,
    known: dict[str, object], taken: dict[str, Path], row: dict[str, str],
) -> None:  # fmt: skip
    """Import one file, unless the store holds it as it is; say in `row` what was done."""
    from spikedata.exchange import read_torch_brain

    if not path.is_file():
        raise HarmonizeError(f"{path}: there is no such file.")
    key = {"imported_from": "torch_brain", "sha256": sha256_of(path), "dataset": dataset or "",
           "targets": targets, "spikedata": __version__}  # fmt: skip
    same = next((name for name, other in known.items() if other == key), None)
    if same is not None:  # the id of a file is known only once it is read
        row.update(recording_id=same, status="unchanged")
        taken[same] = path
        return
    recording = read_torch_brain(path, dataset, targets=tuple(targets))
    name = recording.recording_id
    row["recording_id"] = name
    if name in taken:
        raise StoreError(f"{path}: {name} was made of {taken[name]} just now; give --dataset.")
    if name in known and known[name] is None and not anyway:
        raise StoreError(
            f"{path}: the store holds {name}, which was not imported; give another --dataset, or "
            "--replace to lose it."
        )
    store.write(recording, {"import": key, "source_file": path.name})
    known[name], taken[name] = key, path
    row["status"] = "imported"
    row["message"] = ", ".join(f"{rule}: {n}" for rule, n in recording.dropped.items())


def _key_of(store: Store, name: str) -> object:
    """Return what a recording was imported from, None if it was made otherwise or is damaged."""
    try:
        return store.provenance(name).get("import")
    except SpikedataError:
        return None
