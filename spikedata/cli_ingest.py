"""The command `spikedata ingest`: parse, call the function, print."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from spikedata.cache import default_cache
from spikedata.cli_options import (
    CacheOption,
    ExcludeOption,
    IncludeOption,
    JsonOption,
    LimitOption,
    ManifestOption,
    RoleOption,
    StoreOption,
    SubjectOption,
    finish,
    selected,
    store_path,
)
from spikedata.console import print_json, progress_bar, say
from spikedata.errors import ExecutorError
from spikedata.executors import connect
from spikedata.shards import parse_shard
from spikedata.shards import shard as part_of

__all__ = ["ingest"]


def ingest(
    manifest: ManifestOption,
    cache: CacheOption = None,
    store: StoreOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    subject: SubjectOption = None,
    role: RoleOption = None,
    limit: LimitOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes at a time.")] = 1,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Read what was not fetched where it is: only the bytes that are needed, "
            "none of which are kept or hashed.",
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Only the I-th of N parts of about the same size: one a machine."
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Run on the Dask cluster whose scheduler is dask://HOST:PORT."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Harmonise the fetched files of a manifest into the store; finished ones are skipped."""
    from spikedata.ingest import ingest as run

    chosen = selected(manifest, include, exclude, subject, role, limit)
    title = f"Ingested {chosen.name}"
    if shard is not None:
        chosen = part_of(chosen, *parse_shard(shard))
        title += f", shard {shard}"
    if executor is not None and workers > 1:
        raise ExecutorError("Give --workers or --executor: the cluster has workers of its own.")
    with connect(executor) if executor else nullcontext() as where, progress_bar() as progress:
        results = run(
            chosen,
            cache or default_cache(),
            store_path(store, cache),
            executor=where,
            workers=workers,
            stream=stream,
            progress=progress,
        )
    if not results:  # more shards than assets
        say(f"{title}: there is nothing to do for this shard.")
        if as_json:
            print_json([])
        return
    rows = [
        {"recording_id": one.recording_id, "status": one.status, "seconds": round(one.seconds, 3),
         **(_read_of(one.bytes_read, asset.size) if stream else {}),
         "message": one.message}
        for one, (_, asset) in zip(results, chosen.items(), strict=True)
    ]  # fmt: skip
    finish(title, rows, as_json)


def _read_of(bytes_read: int, size: int | None) -> dict[str, object]:
    """Return what was read of a file, in bytes and as a share of it, where its size is known."""
    share = None if size is None else round(bytes_read / max(size, 1), 4)
    return {"bytes_read": bytes_read, "share_read": share}
