"""The tables of results: all of them on the first page, and those of a suite by group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from spikedata_model.leaderboard.published import Published
from spikedata_model.leaderboard.result import Summary
from spikedata_model.leaderboard.site_board import Board, Run, Shelf, metric_short
from spikedata_model.leaderboard.site_charts import swatch
from spikedata_model.leaderboard.site_markup import DASH, Child, Markup, decimal, out, size, tag
from spikedata_model.leaderboard.site_parts import (
    CAUSALITY,
    LABELS,
    Body,
    Cell,
    Head,
    badge,
    cells_of,
    row,
    run_heads,
    table,
)

__all__ = ["all_results", "group_table", "papers_table"]

UNRANKED = "Not ranked: incomplete, or of another version of the suite"
# What a paper says of causality can only be a claim.
CLAIMED = {"causal": "claimed", "not causal": "free", "unknown": "unknown"}


def named(run: Run, up: str) -> list[Child]:
    """Return a decoder with the link to its page, and what is to be known of the run."""
    return [
        tag("a", tag("bdi", run.result.decoder), href=up + run.page),
        [" ", badge(run.problem, "warn")] if run.problem else None,
        [" ", badge("predictions only", "quiet")] if run.result.kind == "predictions" else None,
    ]


# ------------------------------------------------------------------ the first page


def all_results(board: Board) -> Markup:
    """Return the table of everything: our runs, then, apart from them, the published numbers."""
    heads = [
        Head("Decoder", "decoder"), Head("Suite", "suite"), Head("Group", "group"),
        Head("Labels", "labels", True, LABELS), *run_heads(),
    ]  # fmt: skip
    heads.insert(5, Head("Metric", "metric"))
    ours = [
        (run, _our_row(shelf, run, one))
        for shelf in board.shelves for group in shelf.groups for budget in shelf.budgets
        for run, one in shelf.rows(group, budget)
    ]  # fmt: skip
    theirs = [_their_row(shelf, paper) for shelf in board.shelves for paper in shelf.papers]
    bodies = [
        Body([shown for run, shown in ours if not run.problem], "Runs of these suites"),
        Body([shown for run, shown in ours if run.problem], UNRANKED, "unranked"),
        Body(theirs, "As published, under other protocols: not to be ranked with the runs above",
             "published"),
    ]  # fmt: skip
    bodies = [one for one in bodies if one.rows]
    return table("All results", heads, bodies, ident="results")


def _our_row(shelf: Shelf, run: Run, one: Summary) -> Markup:
    cells = [
        Cell(named(run, "")),
        Cell(tag("a", shelf.name, href=shelf.page)),
        Cell(shelf.group_title(one.group)),
        Cell(one.budget, one.labelled_seconds, True),
        *cells_of(run, one),
    ]
    cells.insert(5, Cell(metric_short(run.result.metric)))
    return row(cells, data_suite=shelf.name, data_protocol="ours", data_labels=one.budget,
               data_causality=run.result.causality)  # fmt: skip


def _their_row(shelf: Shelf, paper: Published) -> Markup:
    causality = CLAIMED[paper.causality]
    none = Cell(DASH, None, True)
    cells = [
        Cell([tag("bdi", paper.method), " ", badge("as published", "paper")]),
        Cell(tag("a", shelf.name, href=shelf.page)),
        Cell(shelf.group_title(paper.group)),
        Cell(paper.labels or DASH, None, True),
        Cell(decimal(paper.value), paper.value, True),
        Cell(metric_short(paper.metric)),
        none, Cell(decimal(paper.sd), paper.sd, True), none, none, Cell(CAUSALITY[causality]),
        none, none, Cell(decimal(paper.normalised_latency), paper.normalised_latency, True),
        none, Cell(out(paper.address, paper.source)),
    ]  # fmt: skip
    return row(cells, data_suite=shelf.name, data_protocol="published", data_causality=causality,
               data_labels=paper.labels or None)  # fmt: skip


# ------------------------------------------------------------------ a suite


def group_table(shelf: Shelf, group: str) -> list[Markup]:
    """Return the runs of a group with all labels, then those with fewer, by budget and in full."""
    rows = {b: some for b in shelf.budgets if (some := shelf.rows(group, b))}
    heads = [Head("Decoder", "decoder"), *run_heads()]
    title = f"{shelf.group_title(group)}: {metric_short(shelf.metric)}"

    def bodies(budget: str, words: str | None) -> list[Body]:
        ends = [v for _, one in rows[budget] for v in (one.low, one.high, one.mean)]
        good = [_group_row(shelf, *one, ends) for one in rows[budget] if not one[0].problem]
        rest = [_group_row(shelf, *one, ends) for one in rows[budget] if one[0].problem]
        both = [Body(good, words), Body(rest, UNRANKED, "unranked")]
        return [one for one in both if one.rows]

    first, *fewer = rows
    parts = [table(f"{title}. Labels: {first}", heads, bodies(first, None))]
    if fewer:
        whole = table(f"{title}, with fewer labels", heads,
                      [one for b in fewer for one in bodies(b, f"Labels: {b}")])  # fmt: skip
        parts.append(_by_budget(shelf, list(rows), rows, title))
        parts.append(tag("details", tag("summary", "With fewer labels, in full"), whole))
    return parts


def _by_budget(
    shelf: Shelf, budgets: list[str], rows: dict[str, list[tuple[Run, Summary]]], title: str
) -> Markup:
    """Return the mean of every run with every budget, in the order of the first."""
    means = {(run.stem, b): one.mean for b in budgets for run, one in rows[b]}
    runs = {run.stem: run for b in budgets for run, _ in rows[b]}
    heads = [Head("Decoder", "decoder"),
             *(Head(b, f"budget-{k}", True) for k, b in enumerate(budgets))]  # fmt: skip
    listed = [
        row([Cell([_swatch(shelf, run), *named(run, "../")]),
             *(Cell(decimal(v), v, True) for b in budgets for v in [means.get((stem, b))])])
        for stem, run in runs.items()
        if not run.problem
    ]  # fmt: skip
    return table(f"{title}, by labels", heads, [Body(listed)])


def _swatch(shelf: Shelf, run: Run) -> list[str] | None:
    look = shelf.looks.get(run.stem)  # runs that are not ranked have none, and are in no chart
    return [swatch(look), " "] if look else None


def _group_row(shelf: Shelf, run: Run, one: Summary, ends: Iterable[float]) -> Markup:
    cells = [
        Cell([_swatch(shelf, run), *named(run, "../")]),
        *cells_of(run, one, _glyph(one, ends)),
    ]
    return row(cells)


def _glyph(one: Summary, ends: Iterable[float]) -> Markup | None:
    """Return the interval as a line with a dot, on one scale for all of a table."""
    floor = -0.25  # lower scores would squeeze all the others
    finite = [max(v, floor) for v in ends if math.isfinite(v)]
    if not finite or not all(math.isfinite(v) for v in (one.mean, one.low, one.high)):
        return None
    first, length = min(finite), (max(finite) - min(finite)) or 1.0

    def at(value: float) -> float:
        return 5 + 80 * (min(max(value, first), first + length) - first) / length

    parts = [
        tag("path", d=f"M{at(one.low):.1f} 7H{at(one.high):.1f}"),
        tag("circle", cx=f"{at(one.mean):.1f}", cy=7, r=2.8),
    ]
    return tag("svg", parts, viewBox="0 0 90 14", width=90, height=14, class_="glyph",
               aria_hidden="true")  # fmt: skip


def papers_table(shelf: Shelf, papers: Sequence[Published]) -> Markup:
    """Return published numbers, with what they were measured under and where they stand."""
    heads = [
        Head("Method", "method"), Head("Score", "score", True), Head("sd", "sd", True),
        Head("Metric", "metric"), Head("Labels", "labels"), Head("Causality", "causality"),
        Head("Latency", "latency"), Head("Size", "size", True), Head("Protocol", "protocol"),
        Head("Source", "source"),
    ]  # fmt: skip
    rows = [row(_paper_cells(one)) for one in papers]
    words = f"{shelf.group_title(papers[0].group)}, as published, under other protocols: not to be "
    return tag("div", table(f"{words}ranked with the runs", heads, [Body(rows)]),
               class_="published")  # fmt: skip


def _paper_cells(paper: Published) -> list[Cell]:
    latency = paper.latency
    if paper.normalised_latency is not None:
        latency = latency or f"{decimal(paper.normalised_latency)} s per s"
    of = [tag("br"), tag("small", f"of {paper.recording}")] if paper.recording else None
    return [
        Cell([tag("bdi", paper.method), of]), Cell(decimal(paper.value), paper.value, True),
        Cell(decimal(paper.sd), paper.sd, True), Cell(metric_short(paper.metric)),
        Cell(paper.labels or DASH), Cell(CAUSALITY[CLAIMED[paper.causality]]),
        Cell(latency or DASH), Cell(size(paper.bytes), paper.bytes, True), Cell(paper.protocol),
        Cell([out(paper.address, paper.source), tag("br"), tag("small", paper.read)]),
    ]  # fmt: skip
