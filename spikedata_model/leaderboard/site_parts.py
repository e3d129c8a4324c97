"""What every page of the site has: its frame, and tables that can be sorted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spikedata_model.leaderboard.result import Summary
from spikedata_model.leaderboard.site_board import Board, Run
from spikedata_model.leaderboard.site_markup import (
    DASH,
    Child,
    Markup,
    amount,
    count,
    decimal,
    seconds,
    tag,
)

__all__ = [
    "CAUSALITY",
    "LABELS",
    "SCRIPT",
    "STYLE",
    "Body",
    "Cell",
    "Head",
    "badge",
    "box",
    "cells_of",
    "facts",
    "glossary",
    "page",
    "run_heads",
    "section",
    "table",
]

STYLE, SCRIPT, ICON = "assets/style.css", "assets/leaderboard.js", "assets/icon.svg"
# Scripts and styles are files of the site, so nothing that is written into a page can run.
# "file:" because not every browser counts a file beside the page as 'self'.
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file:; "
    "base-uri 'none'; form-action 'none'"
)
CAUSALITY = {
    "free": "not causal",
    "tested": "causal, tested",
    "claimed": "causal, claimed",
    "unknown": "not stated",
}
CAUSALITY_WORDS = {
    "free": "The protocol lets an estimate rest on later spikes.",
    "tested": "Estimates did not change when later spikes were taken away.",
    "claimed": "Only predictions, or a paper, are known: nobody could test it.",
    "unknown": "The paper does not say.",
}
LABELS = "How many labels a decoder may learn from: the label budget; sorts by their seconds."
INTERVAL = "Bootstrap over trials and seeds; sorts by its low end."
SD = "Standard deviation of the score over recordings."
SEEN = "Recordings that the decoder was pretrained on; a dash where nobody says."
STEP = "Time that one live step takes, 99th percentile, on the machine of the run."
LATENCY = "Seconds of computing per second of neural time: below 1 keeps up."
NAV = (("index.html", "Results"), ("suites.html", "Suites"), ("data.html", "Data"))


@dataclass(frozen=True, slots=True)
class Head:
    """A column: its words, whether it holds numbers, and what it is called in an address."""

    words: str
    key: str
    numeric: bool = False
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in a table, and the number by which it sorts."""

    shown: Child
    value: float | None = None
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """Rows that are sorted among themselves; `title` stands above them."""

    rows: Sequence[Markup]
    title: Child = None
    class_: str | None = None


def page(
    board: Board, title: str, heading: Child, *content: Child, depth: int = 0, here: str = ""
) -> str:
    """Return a page; `depth` is how many folders it lies below the first one."""
    up = "../" * depth
    same = title == board.title
    nav = tag("ul", (
        tag("li", tag("a", words, href=up + address,
                      aria_current="page" if address == here else None))
        for address, words in NAV))  # fmt: skip
    head = tag("head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title if same else f"{title} · {board.title}"),
        tag("link", rel="icon", href=up + ICON, type="image/svg+xml"),
        tag("link", rel="stylesheet", href=up + STYLE),
        tag("script", src=up + SCRIPT),
    )  # fmt: skip
    body = tag("body",
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag("header",
            None if same else tag("a", board.title, href=f"{up}index.html", class_="home"),
            tag("nav", nav, aria_label="Pages"), class_="top"),
        tag("main", tag("h1", heading), *content, id="content", tabindex="-1"),
        tag("footer", tag("p", f"{DASH} stands for a number that is not known or cannot be "
            "computed, such as the R² of values that do not change or the spread of one "
            "recording.")),
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def section(title: str, *content: Child, ident: str | None = None) -> Markup:
    """Return a part of a page under a heading of the second level."""
    return tag("section", tag("h2", title, id=ident), *content)


def facts(rows: Sequence[tuple[str, Child]]) -> Markup:
    """Return pairs of a word and what it is; those without content are left out."""
    return tag("dl", (
        tag("div", tag("dt", name), tag("dd", value))
        for name, value in rows if value is not None and value != ""), class_="facts")  # fmt: skip


def badge(words: str, kind: str) -> Markup:
    """Return a short remark on a row."""
    return tag("span", words, class_=f"badge {kind}")


def box(label: str, *content: Child) -> Markup:
    """Return a box of its own that scrolls sideways, so that the page need not."""
    return tag("div", *content, class_="scroll", tabindex="0", role="region", aria_label=label)


def row(cells: Sequence[Cell], **attributes: str | None) -> Markup:
    """Return a row whose first cell is its header."""
    parts = []
    for k, cell in enumerate(cells):
        value = None
        if cell.numeric:
            known = cell.value is not None and not math.isnan(cell.value)
            value = repr(float(cell.value)) if known and cell.value is not None else ""
        parts.append(
            tag("td" if k else "th", cell.shown, scope=None if k else "row",
                class_="n" if cell.numeric else None, data_v=value)
        )  # fmt: skip
    return tag("tr", parts, **attributes)


def table(
    label: str, heads: Sequence[Head], bodies: Sequence[Body], *, ident: str | None = None
) -> Markup:
    """Return a table in its box; every column can be sorted, each body among itself."""
    columns = [
        tag("th", one.words, scope="col", class_="n" if one.numeric else None, data_key=one.key,
            data_kind="number" if one.numeric else "text", title=one.hint or None)
        for one in heads
    ]  # fmt: skip
    parts = []
    for body in bodies:
        top = body.title and tag(
            "tr",
            tag("th", tag("span", body.title), colspan=len(heads), scope="rowgroup"),
            class_="title",
        )
        parts.append(tag("tbody", top, body.rows, class_=body.class_))
    caption = tag("caption", tag("span", label))
    whole = tag("table", caption, tag("thead", tag("tr", columns)), parts, class_="sortable",
                id=ident)  # fmt: skip
    return box(label, whole)


# ------------------------------------------------------------------ the columns of a run


def run_heads() -> list[Head]:
    """Return the columns that `cells_of` fills, after those that name the row."""
    return [
        Head("Score", "score", True),
        Head("95 % interval", "low", True, INTERVAL),
        Head("sd", "sd", True, SD),
        Head("Recordings", "recordings", True),
        Head("Seeds", "seeds", True),
        Head("Causality", "causality"),
        Head("Seen before", "seen", True, SEEN),
        Head("Step, 99 %", "step", True, STEP),
        Head("Latency / time", "latency", True, LATENCY),
        Head("Parameters", "parameters", True),
        Head("Date", "date"),
    ]


def glossary() -> Markup:
    """Return what the columns of `run_heads` and the kinds of causality mean, folded away."""
    columns = [("Labels", LABELS), *((one.words, one.hint) for one in run_heads() if one.hint)]
    kinds = [(f"Causality: {words}", CAUSALITY_WORDS[kind]) for kind, words in CAUSALITY.items()]
    return tag("details", tag("summary", "What the columns mean"), facts([*columns, *kinds]))


def interval(low: float, high: float) -> str:
    """Return an interval, or a dash where it is not known."""
    return DASH if math.isnan(low) and math.isnan(high) else f"{decimal(low)} to {decimal(high)}"


def cells_of(run: Run, one: Summary, glyph: Markup | None = None) -> list[Cell]:
    """Return the cells of a run's summary, for `run_heads`."""
    result = run.result
    cost = result.cost
    step = cost.step_p99 if cost else None
    latency = cost.normalised_latency if cost else None
    parameters = cost.parameters if cost and cost.parameters else None
    stated = result.pretraining.recordings if result.pretraining else ()
    seen = len(stated) if stated or result.kind == "spikedata" else None
    ends = interval(one.low, one.high)
    return [
        Cell(tag("strong", decimal(one.mean)), one.mean, True),
        Cell([glyph, " ", ends] if glyph else ends, one.low, True),
        Cell(decimal(one.sd), one.sd, True),
        Cell(count(one.n_recordings), one.n_recordings, True),
        Cell(count(one.n_seeds), one.n_seeds, True),
        Cell(tag("span", CAUSALITY[result.causality], class_="keep",
                 title=CAUSALITY_WORDS[result.causality])),
        Cell(count(seen), seen, True),
        Cell(seconds(step), step, True),
        Cell(f"{latency:.2g}" if latency is not None and latency < 1 else amount(latency), latency,
             True),
        Cell(amount(parameters), parameters, True),
        Cell(tag("time", result.date, datetime=result.date)),
    ]  # fmt: skip
