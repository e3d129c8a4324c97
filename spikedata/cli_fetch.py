"""The commands `spikedata fetch` and `spikedata verify`: parse, call the function, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
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
    SubjectOption,
    finish,
    selected,
)
from spikedata.console import format_bytes, print_json, print_table, progress_bar, say
from spikedata.folder import Folder
from spikedata.manifest import Manifest, load_manifest

__all__ = ["fetch", "verify"]


def fetch(
    manifest: ManifestOption,
    cache: CacheOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    subject: SubjectOption = None,
    role: RoleOption = None,
    limit: LimitOption = None,
    jobs: Annotated[int, typer.Option(min=1, max=32, help="Connections at a time.")] = 4,
    from_folder: Annotated[
        Path | None,
        typer.Option(
            "--from-folder",
            "--from",
            help="Take files from this folder, under whatever name, where their hash is right.",
        ),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(help="Address of a copy of CACHE/assets, asked before the source."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no server: use what is here.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and what it takes.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring every asset of a manifest here, verified; what is here already is not sent again."""
    from spikedata.fetch import fetch as run

    chosen = selected(manifest, include, exclude, subject, role, limit)
    cache = cache or default_cache()
    if dry_run:
        _show_plan(chosen, cache, Folder(from_folder) if from_folder else None, as_json)
        return
    with progress_bar(in_bytes=True, total=chosen.total_size) as progress:
        results = run(
            chosen,
            cache,
            jobs=jobs,
            from_folder=from_folder,
            mirror=mirror,
            offline=offline,
            progress=progress,
        )
    rows = [
        {"recording_id": one.recording_id, "status": one.status, "path": str(one.path),
         "message": one.message}
        for one in results
    ]  # fmt: skip
    finish(f"Fetched {chosen.name}", rows, as_json)


def _show_plan(manifest: Manifest, cache: Path, folder: Folder | None, as_json: bool) -> None:
    from spikedata.fetch import plan, space_needed

    planned = plan(manifest, cache, folder=folder)
    missing, free = space_needed(planned, cache)
    if as_json:
        assets = [{**asdict(one), "path": str(one.path)} for one in planned]
        print_json(
            {"manifest": manifest.name, "files": len(planned), "bytes": manifest.total_size,
             "bytes_missing": missing, "bytes_free": free, "assets": assets}
        )  # fmt: skip
        return
    print_table(
        f"{manifest.name}: nothing is fetched, this is what would be",
        ["recording", "step", "size", "to come"],
        [
            [one.recording_id, one.step, "not pinned" if one.size is None else
             format_bytes(one.size), "?" if one.size is None else format_bytes(one.missing)]
            for one in planned
        ],
    )  # fmt: skip
    unknown = sum(one.size is None for one in planned)
    print(
        f"{len(planned)} files, {manifest.total_size / 1e9:.2f} GB"
        + (f" and {unknown} of a size that the archive states when asked" if unknown else "")
        + f"; {'at least ' if unknown else ''}{missing / 1e9:.2f} GB to come, "
        f"{free / 1e9:.2f} GB free in {cache}."
    )
    for dataset in manifest.datasets:
        if dataset.source.kind == "dandi" and dataset.source.version == "draft":
            say(
                f"{dataset.id} is pinned to the draft of dandiset {dataset.source.dandiset}: a "
                "file that was replaced there since can no longer be fetched."
            )
    if missing > free:
        say("The disk cannot hold that: free some, name another --cache, or select less.")


def verify(
    manifest: Annotated[
        str | None,
        typer.Option("--manifest", "-m", help="Compare with this manifest's pins. [default: "
                     "every file in the cache, with what it was when it was fetched]"),
    ] = None,
    cache: CacheOption = None,
    jobs: Annotated[int, typer.Option(min=1, max=32, help="Files read at a time.")] = 2,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Read every byte of the fetched files again and compare their hashes."""
    from spikedata.verify import verify as run
    from spikedata.verify import verify_cache

    cache = cache or default_cache()
    with progress_bar() as progress:
        if manifest is None:
            results = verify_cache(cache, jobs=jobs, progress=progress)
        else:
            results = run(load_manifest(manifest), cache, jobs=jobs, progress=progress)
    if not results:
        say(f"There are no fetched files in {cache}.")
        return
    rows = [{"file": one.name, "status": one.status, "message": one.message} for one in results]
    finish(f"Verified {manifest or cache}", rows, as_json, bad=("wrong", "missing"))
