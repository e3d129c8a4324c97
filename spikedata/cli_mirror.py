"""The commands `spikedata pull` and `spikedata push`: parse, call the function, print."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from spikedata.cli_options import CacheOption, JsonOption, StoreOption, finish, store_path
from spikedata.console import format_bytes, print_json, progress_bar, say

if TYPE_CHECKING:
    from spikedata.mirror import MirrorResult

__all__ = ["parse_bytes", "pull", "push"]

UNITS = {"": 1} | {
    f"{letter}{base}B": (1024 if base else 1000) ** power
    for power, letter in enumerate("KMGT", start=1)
    for base in ("", "i")
}

UrlArgument = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="Where the other store is: s3://bucket/prefix, gs://…, https://… or a folder.",
    ),
]
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECORDING|DATASET", help="What to copy. [default: everything that is there]"
    ),
]
JobsOption = Annotated[int, typer.Option(min=1, max=32, help="Recordings at a time.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be copied, and copy nothing.")
]
OptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="For fsspec, as anon=true; passwords belong in its configuration or the "
        "environment instead, where others cannot see them.",
    ),
]


def parse_bytes(text: str) -> int:
    """Return a number of bytes that people wrote.

    Raises
    ------
    ValueError
        If it is no number, or has a unit other than KB to TB and KiB to TiB.

    Examples
    --------
    >>> parse_bytes("50GB"), parse_bytes("1.5 MiB"), parse_bytes("700")
    (50000000000, 1572864, 700)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B|B?)\s*", text, re.IGNORECASE)
    units = {name.upper(): size for name, size in UNITS.items()} | {"B": 1}
    if match is None:
        raise ValueError(f"expected a size such as 50GB or 700MiB, found '{text}'")
    return int(float(match[1]) * units[match[2].upper()])


def pull(
    url: UrlArgument,
    names: NamesArgument = None,
    cache: CacheOption = None,
    store: StoreOption = None,
    max_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Stop before the recordings take more than this in the store, as 50GB.",
        ),
    ] = None,
    jobs: JobsOption = 4,
    option: OptionOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy recordings from elsewhere into the store, each checked; what is there is skipped."""
    from spikedata.mirror import pull as run

    try:
        limit = None if max_bytes is None else parse_bytes(max_bytes)
    except ValueError as error:
        raise typer.BadParameter(f"--max-bytes: {error}.") from None
    with progress_bar(in_bytes=True) as progress:
        results = run(store_path(store, cache), url, names or None, max_bytes=limit, jobs=jobs,
                      dry_run=dry_run, options=_options(option), progress=progress)  # fmt: skip
    _show("Pulled from", url, results, as_json)


def push(
    url: UrlArgument,
    names: NamesArgument = None,
    cache: CacheOption = None,
    store: StoreOption = None,
    jobs: JobsOption = 4,
    option: OptionOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy recordings of the store to elsewhere, where `spikedata pull` finds them."""
    from spikedata.mirror import push as run

    with progress_bar(in_bytes=True) as progress:
        results = run(store_path(store, cache), url, names or None, jobs=jobs, dry_run=dry_run,
                      options=_options(option), progress=progress)  # fmt: skip
    _show("Pushed to", url, results, as_json)


def _options(given: Sequence[str] | None) -> dict[str, object]:
    """Return NAME=VALUE as a mapping; a value that is JSON is what it says."""
    options: dict[str, object] = {}
    for one in given or ():
        name, mark, value = one.partition("=")
        if not (name and mark):
            raise typer.BadParameter("--option: expected NAME=VALUE, as anon=true.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _show(verb: str, url: str, results: Sequence[MirrorResult], as_json: bool) -> None:
    from spikedata.far import redacted

    title = f"{verb} {redacted(url)}"
    if not results:
        say(f"{title}: there are no recordings.")
        if as_json:
            print_json([])
        return
    left = [one for one in results if one.status == "left"]
    if left:
        size = format_bytes(sum(one.size for one in left))
        say(f"--max-bytes left {len(left)} recordings of {size}, the first is "
            f"{left[0].recording_id}.")  # fmt: skip
    rows = [asdict(one) for one in results]
    if not as_json:
        rows = [{**row, "size": format_bytes(row["size"])} for row in rows]
    finish(title, rows, as_json)
