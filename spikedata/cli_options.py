"""What several commands of the program share: their options, and how they end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from spikedata.cache import default_cache
from spikedata.console import print_json, print_table, say
from spikedata.manifest import Manifest, load_manifest
from spikedata.selection import select

__all__ = [
    "CacheOption",
    "ExcludeOption",
    "IncludeOption",
    "JsonOption",
    "LimitOption",
    "ManifestOption",
    "RoleOption",
    "StoreOption",
    "SubjectOption",
    "finish",
    "selected",
    "store_path",
]

ManifestOption = Annotated[
    str,
    typer.Option(
        "--manifest",
        "-m",
        help="Name of a bundled manifest (see `spikedata manifest list`) or a .toml file.",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(help="Folder of fetched files. [default: $SPIKEDATA_CACHE or ~/.cache/spikedata]"),
]
StoreOption = Annotated[
    Path | None, typer.Option(help="Folder of harmonised recordings. [default: CACHE/store]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

IncludeOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Only assets whose path, session or recording id fits this pattern (`*CO*`)."
    ),
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(help="No assets that fit this pattern, whatever else is asked.")
]
SubjectOption = Annotated[list[str] | None, typer.Option(help="Only recordings of this subject.")]
RoleOption = Annotated[
    list[str] | None, typer.Option(help="Only assets in this role: train, heldout or transfer.")
]
LimitOption = Annotated[
    int | None, typer.Option(min=1, help="Only the first so many of what is selected.")
]


def selected(
    manifest: str,
    include: list[str] | None,
    exclude: list[str] | None,
    subject: list[str] | None,
    role: list[str] | None,
    limit: int | None,
) -> Manifest:
    """Return what the options of a command select from a manifest."""
    return select(
        load_manifest(manifest),
        include=include or (),
        exclude=exclude or (),
        subjects=subject or (),
        roles=role or (),
        limit=limit,
    )


def store_path(store: Path | None, cache: Path | None = None) -> Path:
    """Return the folder of the store that the options name."""
    return store if store is not None else (cache or default_cache()) / "store"


def finish(
    title: str,
    rows: Sequence[Mapping[str, object]],
    as_json: bool,
    *,
    bad: Collection[str] = ("failed",),
) -> None:
    """Print one row an item and end with exit code 1 if any has a bad ``status``."""
    if as_json:
        print_json(rows)
    else:
        print_table(title, list(rows[0]), [list(row.values()) for row in rows])
        tally = Counter(str(row["status"]) for row in rows)
        say(f"{title}: {', '.join(f'{count} {status}' for status, count in tally.items())}.")
    if any(row["status"] in bad for row in rows):
        raise typer.Exit(1)
