"""The program `spikedata`: parses, calls the library function of the same name, prints."""

from __future__ import annotations

import sys
import threading
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from signal import SIGINT, pthread_kill
from typing import Annotated

import typer
from typer.core import TyperGroup

from spikedata.cli_exchange import exchange_app
from spikedata.cli_export import export
from spikedata.cli_fetch import fetch, verify
from spikedata.cli_ingest import ingest
from spikedata.cli_look import check, inspect
from spikedata.cli_manifest import manifest_app, print_assets, print_counts
from spikedata.cli_mirror import pull, push
from spikedata.cli_options import (
    CacheOption,
    JsonOption,
    ManifestOption,
    StoreOption,
    store_path,
)
from spikedata.console import format_bytes, print_json, print_table, say
from spikedata.counts import counts
from spikedata.errors import SpikedataError
from spikedata.manifest import Manifest, list_manifests, load_manifest
from spikedata.store import Store
from spikedata.version import __version__

__all__ = ["CacheOption", "JsonOption", "ManifestOption", "StoreOption", "main", "store_path"]


ORDER = (
    "fetch",
    "verify",
    "inspect",
    "ingest",
    "check",
    "info",
    "export",
    "pull",
    "push",
    "manifest",
    "train",
    "finetune",
    "evaluate",
    "report",
    "import-weights",
    "export-weights",
)


class _Program(TyperGroup):
    """Turns errors into one sentence and an exit code: 1 some work failed, 2 misuse."""

    def list_commands(self, ctx) -> list[str]:
        """Return the commands in the order in which they are used; others come last."""
        known = [name for name in ORDER if name in self.commands]
        return known + sorted(self.commands.keys() - set(known))

    def invoke(self, ctx) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("Stopped. What is finished is kept: the same command goes on from there.")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output left; nothing is wrong
            raise typer.Exit(0) from None
        except (SpikedataError, OSError, MemoryError) as error:
            if ctx.params.get("debug"):
                raise
            say(f"Error: {error}")
            raise typer.Exit(getattr(error, "exit_code", 1)) from None


app = typer.Typer(
    cls=_Program,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Datasets of spikes for training decoders: from pinned recordings to scored models.",
    epilog="The whole path, on the recordings that come with the package:  \n"
    "`spikedata fetch --manifest sample`, `spikedata ingest --manifest sample`,  \n"
    "`spikedata train --manifest sample --out runs/first`,  \n"
    "`spikedata evaluate runs/first`, `spikedata report runs/first`.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _program(
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show version.")
    ] = False,
) -> None:
    """Read by `_Program.invoke` and `_show_version`."""


app.command()(check)
app.command()(fetch)
app.command()(inspect)
app.command()(verify)
app.command()(ingest)
app.command()(export)
app.command()(pull)
app.command()(push)
app.add_typer(manifest_app, name="manifest")
app.add_typer(exchange_app, name="exchange")


@app.command()
def info(
    recording: Annotated[
        str | None, typer.Argument(help="Show one recording of the store in full.")
    ] = None,
    manifest: Annotated[
        str | None, typer.Option("--manifest", "-m", help="Show what a manifest holds.")
    ] = None,
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the manifests and recordings there are, one manifest, or one recording."""
    folder = store_path(store, cache)
    if manifest is not None:
        _show_manifest(load_manifest(manifest), as_json)
    elif recording is not None:
        header = Store(folder).header(recording).model_dump(mode="json")
        if as_json:
            print_json(header)
        else:
            print_table(recording, ["", ""], [[k, _short(v)] for k, v in header.items()])
    else:
        _show_all(folder, as_json)


def _show_manifest(manifest: Manifest, as_json: bool) -> None:
    if as_json:
        rows = [asdict(row) for row in counts(manifest)]
        print_json({**manifest.model_dump(mode="json"), "counts": rows})
        return
    print_assets(manifest)
    print_counts(manifest)


def _show_all(folder: Path, as_json: bool) -> None:
    manifests = {name: load_manifest(path) for name, path in list_manifests().items()}
    opened = Store(folder) if folder.is_dir() else None
    headers = [opened.header(name) for name in opened] if opened is not None else []
    if as_json:
        print_json(
            {
                "manifests": {name: one.title for name, one in manifests.items()},
                "store": str(folder),
                "recordings": [one.model_dump(mode="json") for one in headers],
            }
        )
        return
    print_table(
        "Manifests",
        ["name", "assets", "size", "title"],
        [
            [name, sum(1 for _ in one.items()), format_bytes(one.total_size), one.title]
            for name, one in manifests.items()
        ],
    )
    print_table(
        f"Recordings in {folder}",
        ["recording", "units", "spikes", "hours", "targets", "dropped or changed"],
        [
            [
                one.recording_id,
                one.n_units,
                one.n_spikes,
                one.duration / 3600,
                ", ".join(one.targets),
                _short(one.dropped),
            ]
            for one in headers
        ],
    )
    if not headers:
        say("There are none yet: spikedata fetch --manifest sample, then spikedata ingest …")


def _short(value: object) -> str:
    """Return a value of a header as one readable line."""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_short(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(_short(inner) for inner in value) or "-"
    return str(value)


def _not_raised(lost: sys.UnraisableHookArgs) -> None:
    """Interrupt again when Ctrl-C came while an object was let go, where Python ignores it."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        main_thread = threading.main_thread().ident or 0
        # later: at once it would be raised in here, and ignored again
        threading.Timer(0.05, pthread_kill, (main_thread, SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


def main() -> None:
    """Run the program with the commands of every installed package."""
    sys.unraisablehook = _not_raised
    for command in entry_points(group="spikedata.commands"):
        loaded = command.load()
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=command.name)
        else:
            app.command(command.name)(loaded)
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        say(
            f"This is a bug in spikedata ({type(error).__name__}: {error}). Please report it with "
            "what the same command prints after `spikedata --debug`."
        )
        sys.exit(1)
