"""The command `spikedata export`: parse, call the function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikedata.cli_options import CacheOption, JsonOption, StoreOption, finish, store_path
from spikedata.console import progress_bar
from spikedata.errors import RecordingNotFoundError, did_you_mean
from spikedata.store import Store

__all__ = ["export"]


def export(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    recording: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of recordings in the store. [default: all of them]"),
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="All recordings of this dataset, too.")
    ] = None,
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write recordings as Parquet files, a folder each; those already written are skipped."""
    from spikedata.export import export_parquet

    opened = Store(store_path(store, cache))
    wanted = _wanted(opened, recording or [], dataset or [])
    with progress_bar() as progress:
        results = export_parquet(opened, out, wanted, progress)
    rows = [
        {"recording_id": one.recording_id, "status": one.status, "files": one.files,
         "bytes": one.bytes, "message": one.message}
        for one in results
    ]  # fmt: skip
    finish(f"Exported to {out}", rows, as_json)


def _wanted(store: Store, recordings: list[str], datasets: list[str]) -> list[str]:
    """Return the recordings that are named, by themselves or by their dataset."""
    ids = list(store)
    if not ids:
        raise RecordingNotFoundError(
            f"{store.path} holds no recording yet; make some with `spikedata ingest`."
        )
    known = dict.fromkeys(one.partition("/")[0] for one in ids)
    for name in datasets:
        if name not in known:
            raise RecordingNotFoundError(
                f"{store.path} holds no dataset '{name}'; {did_you_mean(name, known)}"
            )
    chosen = [*recordings, *(one for one in ids if one.partition("/")[0] in datasets)]
    return chosen or ids
