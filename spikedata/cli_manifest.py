"""The commands `spikedata manifest …`: parse, call the library function, print."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from spikedata.cli_options import JsonOption
from spikedata.console import format_bytes, print_json, print_table, say
from spikedata.counts import counts
from spikedata.manifest import Asset, Manifest, describe_source, list_manifests, load_manifest

__all__ = ["manifest_app", "print_assets", "print_counts"]

manifest_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="List, show, check and pin manifests.",
)

NameArgument = Annotated[
    str,
    typer.Argument(metavar="MANIFEST", help="Name of a bundled manifest, or a .toml file."),
]


# ------------------------------------------------------------------ list, show


@manifest_app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the manifests that come with spikedata."""
    loaded = [load_manifest(path) for path in list_manifests().values()]
    rows = [
        {"name": one.name, "datasets": len(one.datasets), "assets": sum(1 for _ in one.items()),
         "size": one.total_size, "title": one.title}
        for one in loaded
    ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    print_table(
        "Manifests",
        ["name", "datasets", "assets", "size", "title"],
        [list({**row, "size": format_bytes(one.total_size)}.values())
         for one, row in zip(loaded, rows, strict=True)],
    )  # fmt: skip


@manifest_app.command()
def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show what a manifest holds: counts, datasets with licence and citation, every asset."""
    manifest = load_manifest(name)
    if as_json:
        rows = [asdict(row) for row in counts(manifest)]
        print_json({"manifest": manifest.model_dump(mode="json"), "counts": rows})
        return
    print_counts(manifest)
    for dataset in manifest.datasets:
        about = {"from": describe_source(dataset.source), "licence": dataset.licence,
                 "doi": dataset.doi, "citation": dataset.citation,
                 "note": dataset.note}  # fmt: skip
        print_table(
            f"{dataset.id}: {dataset.title}",
            ["", ""],
            [[key, value] for key, value in about.items() if value],
        )
    print_assets(manifest)


def print_assets(manifest: Manifest) -> None:
    """Print a row for every asset of a manifest."""
    print_table(
        "Assets",
        ["recording", "subject", "task", "role", "size", "pinned by"],
        [
            [dataset.recording_id(one), one.subject, one.task, one.role, _size(one.size),
             _pinned_by(one)]
            for dataset, one in manifest.items()
        ],
    )  # fmt: skip


def print_counts(manifest: Manifest) -> None:
    """Print how much a manifest holds, beside what its publication says."""
    print_table(
        f"{manifest.name}: {manifest.title}, {format_bytes(manifest.total_size)}",
        ["dataset", "role", "files", "size", "published sessions", "published units", "subjects"],
        [
            [row.name, row.kind, _number(row.files), _size(row.size), _number(row.entries),
             _number(row.units), row.subjects]
            for row in counts(manifest)
        ],
    )  # fmt: skip


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _size(size: int | None) -> str:
    return "-" if size is None else format_bytes(size)


def _pinned_by(asset: Asset) -> str:
    """Return what an asset is verified against when it is fetched."""
    if not asset.is_pinned:
        return "what the record states"
    return "sha256" if asset.sha256 else "md5"


# ------------------------------------------------------------------ lint


@manifest_app.command()
def lint(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MANIFEST", help="Bundled manifests or .toml files. [default: all bundled ones]"
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Let warnings fail, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look for what is wrong with manifests; asks no network."""
    from spikedata.lint import lint_files

    found = lint_files(names or list_manifests())
    rows = [
        {"manifest": name, **asdict(problem)}
        for name, problems in found.items()
        for problem in problems
    ]
    n_errors = sum(row["severity"] == "error" for row in rows)
    if as_json:
        print_json(rows)
    else:
        if rows:
            print_table("Problems", list(rows[0]), _gathered(rows))
        say(f"{len(found)} manifest(s): {n_errors} error(s), {len(rows) - n_errors} warning(s).")
    if n_errors or (strict and rows):
        raise typer.Exit(1)


def _gathered(rows: Iterable[dict[str, str]]) -> list[list[str]]:
    """Return one row for all places of a manifest that a rule says the same of."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        key = row["manifest"], row["severity"], row["message"]
        places.setdefault(key, []).append(row["place"])
    return [
        [name, severity, f"{first} and {len(more)} more" if more else first, message]
        for (name, severity, message), (first, *more) in places.items()
    ]


# ------------------------------------------------------------------ resolve


@manifest_app.command()
def resolve(
    name: NameArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write the new manifest. [default: NAME.toml in this folder]"),
    ] = None,
    drop_gone: Annotated[
        bool, typer.Option("--drop-gone", help="Leave out what the archive no longer has.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file that is there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Pin a manifest to the newest versions of its archives and show what differs."""
    from spikedata.archives import newest
    from spikedata.resolve import resolve as run
    from spikedata.resolve import write_manifest

    manifest = load_manifest(name)
    result = run(manifest, newest, drop_gone=drop_gone)
    changes = [asdict(one) for one in result.changes]
    if not as_json and changes:
        print_table(
            f"{manifest.name} against its archives",
            ["dataset", "change", "path", "how"],
            _summary(changes),
        )
    target = out
    if target is None and result.is_changed:
        target = Path(f"{manifest.name}.toml")
    if target is not None:
        write_manifest(result.manifest, target, overwrite=overwrite)
    if as_json:
        written = str(target) if target is not None else None
        print_json(
            {"manifest": manifest.name, "changed": result.is_changed, "written": written,
             "changes": changes}
        )  # fmt: skip
        return
    if not result.is_changed:
        say("Nothing changed: every pin is the newest.")
    if target is not None:
        say(f"Wrote {target}.")


def _summary(changes: Iterable[dict[str, str]]) -> list[list[str]]:
    """Return a row for each change, and one a dataset for all files that need no look."""
    rows: list[list[str]] = []
    quiet: dict[tuple[str, str], list[str]] = {}
    for one in changes:
        if one["kind"] in ("unchanged", "not listed here"):
            quiet.setdefault((one["dataset"], one["kind"]), []).append(one["path"])
        else:
            rows.append([one["dataset"], one["kind"], one["path"], one["message"]])
    for (dataset, kind), paths in quiet.items():
        few = ", ".join(paths[:3]) + (", …" if len(paths) > 3 else "")
        rows.append([dataset, kind, few, f"{len(paths)} file(s)"])
    return rows
