"""What the commands print: tables and JSON to stdout, progress and sentences to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich import box, filesize, progress
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from rich.tree import Tree

from spikedata.progress import Progress

__all__ = ["format_bytes", "print_json", "print_table", "print_tree", "progress_bar", "say"]

PIPE_WIDTH = 200  # characters
WIDE = 100  # characters: terminals with room for the time that went by


def say(text: str) -> None:
    """Print a sentence to stderr, as it is."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(text, markup=False)


def print_json(value: object) -> None:
    """Print one JSON document to stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def format_bytes(count: int) -> str:
    """Return a number of bytes as people read it.

    Examples
    --------
    >>> format_bytes(7200244)
    '7.2 MB'
    """
    return filesize.decimal(count)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to stdout; numbers stand to the right."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{v:.3f}" if isinstance(v, float) else str(v)) for v in row))
    # A file or a pipe has no width: give a table there the room that it asks for.
    width = None if Console().is_terminal else PIPE_WIDTH
    Console(highlight=False, width=width).print(table)


def print_tree(title: str, about: Sequence[str], leaves: Mapping[str, str]) -> None:
    """Print paths (parts joined by ``/``) as a tree to stdout, each leaf with its text."""
    root = Tree(Text(title, style="bold"))
    for line in about:
        root.add(Text(line, style="dim"))
    nodes: dict[str, Tree] = {"": root}
    for path, text in leaves.items():
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            here, parent = "/".join(parts[:depth]), "/".join(parts[: depth - 1])
            if here not in nodes:
                label = f"{parts[depth - 1]}  {text}" if depth == len(parts) else parts[depth - 1]
                nodes[here] = nodes[parent].add(Text(label))
    width = None if Console().is_terminal else PIPE_WIDTH
    Console(highlight=False, width=width).print(root)


@contextmanager
def progress_bar(*, in_bytes: bool = False, total: int | None = None) -> Iterator[Progress]:
    """Yield a `Progress` that draws bars on stderr, one for each label.

    What follows the first comma of a label may change while the bar goes on. With a `total` one
    more bar shows all labels together, and those that are finished go. In a narrow terminal the
    bar gives way first, then the time that went by, then the end of a label.
    """
    console = Console(stderr=True)
    wide = console.width >= WIDE
    others = (40 if in_bytes else 24) + 8 * wide  # characters beside the label and the bar
    whole = Column(no_wrap=True)
    bars = progress.Progress(
        progress.TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, max_width=max(16, console.width - others)),
        ),
        progress.BarColumn(),
        progress.DownloadColumn(table_column=whole)
        if in_bytes
        else progress.MofNCompleteColumn(table_column=whole),
        *([progress.TransferSpeedColumn(table_column=whole)] if in_bytes else []),
        *([progress.TimeElapsedColumn(table_column=whole)] if wide else []),
        progress.TimeRemainingColumn(table_column=whole),
        console=console,
    )
    tasks: dict[str, progress.TaskID] = {}
    done_of: dict[str, int] = {}
    here: dict[str, int] = {}  # what was here at the first report: no time went into it
    together = bars.add_task("all", total=total) if total is not None else None

    def update(label: str, done: int, size: int) -> None:
        name = label.partition(",")[0]
        if name not in tasks:
            tasks[name] = bars.add_task(label, total=size, completed=done)
            here[name] = done
        bars.update(tasks[name], completed=done, total=size, description=label)
        done_of[name] = done
        if together is not None:
            already = sum(here.values())
            left = max(0, (total or 0) - already)
            bars.update(together, total=left, completed=sum(done_of.values()) - already)
            bars.update(tasks[name], visible=done < size)

    with bars:
        yield update
