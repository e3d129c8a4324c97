"""The commands `spikedata inspect` and `check`: parse, call the library function, print."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikedata.checks import CHECKS, Finding, run_checks
from spikedata.cli_options import CacheOption, JsonOption, StoreOption, store_path
from spikedata.console import print_json, print_table, print_tree, say
from spikedata.errors import RecordingNotFoundError, SpikedataError, did_you_mean
from spikedata.manifest import Manifest, load_manifest
from spikedata.recording import Recording
from spikedata.store import Store

if TYPE_CHECKING:
    from spikedata.nwb import Entry

__all__ = ["check", "inspect"]


# ------------------------------------------------------------------ inspect


def inspect(
    file: Annotated[Path, typer.Argument(help="An NWB file.")],
    toml: Annotated[
        bool, typer.Option("--toml", help="Print only the proposed manifest, to be put in a file.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what is in an NWB file as a tree, and propose the manifest that reads it.

    To go on: `spikedata inspect FILE.nwb --toml > FILE.toml` beside the file, look it through,
    then fetch and ingest with `--manifest FILE.toml`.
    """
    from spikedata.inspection import inspect_file, proposed_manifest

    found = inspect_file(file)
    note = f"Proposed by `spikedata inspect {file.name}`: look it through."
    proposal = proposed_manifest(found, note)
    if toml:
        print(proposal, end="")
        return
    recording, problem = _tried(file, proposal)
    findings = run_checks(recording) if recording else []
    if as_json:
        entries = [asdict(entry) for entry in found.entries]
        print_json(
            {"about": found.about, "entries": entries, "left_out": found.left_out,
             "manifest": proposal, "problem": problem,
             "findings": [asdict(one) for one in findings]}
        )  # fmt: skip
        return
    about = [f"{name}: {text}" for name, text in found.about.items()]
    lines = {entry.path: _described(entry, found.left_out) for entry in found.entries}
    print_tree(file.name, about, lines)
    print(f"\n{proposal}")
    if recording is None:
        say(f"As proposed, it is refused: {problem}")
        return
    say(
        f"As proposed, it becomes a recording of {recording.n_units} units, "
        f"{len(recording.spike_time):,} spikes, {len(recording.series)} series and "
        f"{recording.domain.duration:,.1f} s."
    )
    for rule, count in recording.dropped.items():
        say(f"  {rule}: {count:,}")
    for one in findings:
        say(f"  {one.severity}: {one.message}")


def _described(entry: Entry, left_out: dict[str, str]) -> str:
    """Return what one thing in the file is, in a line."""
    parts = [entry.neurodata_type or entry.kind]
    if entry.shape:
        parts.append(f"{entry.dtype} {' x '.join(map(str, entry.shape))}")
    parts += [entry.unit] if entry.unit else []
    parts += [entry.timing] if entry.timing else []
    if entry.columns:
        parts.append(f"columns {', '.join(entry.columns)}")
    if entry.path in left_out:
        parts.append("not taken")
    return ", ".join(parts)


def _tried(file: Path, proposal: str) -> tuple[Recording | None, str]:
    """Return the recording that the proposal makes, or None and why it is refused."""
    from spikedata.harmonize import harmonize

    manifest = Manifest.model_validate(tomllib.loads(proposal))
    try:
        dataset, asset = next(manifest.items())
        return harmonize(file, dataset, asset), ""
    except SpikedataError as error:
        return None, str(error)


# ------------------------------------------------------------------ check


def check(
    recording: Annotated[
        list[str] | None,
        typer.Argument(help="Ids of recordings in the store. [default: all of them]"),
    ] = None,
    manifest: Annotated[
        str | None, typer.Option("--manifest", "-m", help="Check what this manifest names.")
    ] = None,
    cache: CacheOption = None,
    store: StoreOption = None,
    list_checks: Annotated[
        bool, typer.Option("--list", help="List the checks and what each requires.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check recordings of the store against every named invariant; exit 1 if one is broken."""
    if list_checks:
        _show_checks(as_json)
        return
    opened = Store(store_path(store, cache))
    wanted = list(recording or ())
    if manifest is not None:
        wanted += [
            dataset.recording_id(asset) for dataset, asset in load_manifest(manifest).items()
        ]
    wanted = wanted or list(opened)
    if not wanted:
        raise RecordingNotFoundError(
            f"{opened.path} holds no recording yet; make some with `spikedata ingest`."
        )
    rows = [row for name in wanted for row in _rows(name, _findings(opened, name))]
    if as_json:
        print_json(rows)
    elif rows:
        print_table("Findings", list(rows[0]), [list(row.values()) for row in rows])
    errors = sum(row["severity"] == "error" for row in rows)
    warned = len(rows) - errors
    say(f"Checked {len(wanted)} recordings: {errors} errors, {warned} warnings.")
    if errors:
        raise typer.Exit(1)


def _findings(store: Store, name: str) -> list[Finding]:
    if name not in store:
        hint = did_you_mean(name, store)
        return [Finding("is_in_the_store", "error", f"There is no such recording; {hint}")]
    try:
        return run_checks(store[name])
    except SpikedataError as error:  # damaged: the others go on
        return [Finding("can_be_read", "error", str(error))]


def _rows(name: str, findings: Iterable[Finding]) -> list[dict[str, str]]:
    return [
        {"recording": name, "severity": one.severity, "check": one.check, "message": one.message}
        for one in findings
    ]


def _show_checks(as_json: bool) -> None:
    rows = [
        {"check": one.__name__, "severity": severity, "what": (one.__doc__ or "").split("\n")[0]}
        for severity, checks in CHECKS.items()
        for one in checks
    ]
    if as_json:
        print_json(rows)
    else:
        print_table("Checks", list(rows[0]), [list(row.values()) for row in rows])
