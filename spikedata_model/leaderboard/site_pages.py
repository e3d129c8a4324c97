"""The first page, the list of suites, and the page of a suite."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from spikedata_model.leaderboard.result import Summary
from spikedata_model.leaderboard.site_axes import Axis
from spikedata_model.leaderboard.site_board import Board, Run, Shelf, metric_name, metric_short
from spikedata_model.leaderboard.site_charts import Line, Point, dots_chart, lines_chart
from spikedata_model.leaderboard.site_markup import Child, Markup, amount, count, out, seconds, tag
from spikedata_model.leaderboard.site_parts import (
    CAUSALITY,
    Body,
    Cell,
    Head,
    facts,
    glossary,
    page,
    row,
    section,
    table,
)
from spikedata_model.leaderboard.site_tables import all_results, group_table, papers_table
from spikedata_model.leaderboard.suite import Group, RowSplit, SchemeSplit, Suite

__all__ = ["index_page", "suite_page", "suites_page"]

UNKNOWN = (
    "Nothing but results of this suite is known here: it did not come with the program that wrote "
    "this page."
)
LEAD = 320  # letters of a description that stand above the results; of a longer one, a sentence
FLOOR = -0.25  # R² and bits per spike have no lower end; one bad run must not squeeze the others


# ------------------------------------------------------------------ the first page


def index_page(board: Board) -> str:
    """Return the page with all results."""
    runs = [run for shelf in board.shelves for run in shelf.runs]
    lead = tag(
        "p",
        "Decoders of neural spikes under fixed protocols. A suite says which recordings, split, "
        "causality, labels and metric; numbers can be compared within one group of a suite and "
        f"the same labels. {_number(len(runs), 'run')} on "
        f"{_number(sum(bool(shelf.runs) for shelf in board.shelves), 'suite')}; ",
        tag("a", "all suites", href="suites.html"), ".",
        class_="lead",
    )  # fmt: skip
    empty = tag("p", "There are no results yet.") if not runs else None
    shown = all_results(board) if runs or any(s.papers for s in board.shelves) else None
    return page(board, board.title, board.title, lead, empty,
                _filters(board) if shown else None, glossary() if shown else None, shown,
                here="index.html")  # fmt: skip


def _number(value: int, noun: str) -> str:
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def _select(label: str, name: str, options: list[tuple[str, str]]) -> Markup:
    listed = [tag("option", words, value=value) for value, words in options]
    return tag("label", tag("span", label), tag("select", listed, name=name, autocomplete="off"))


def _filters(board: Board) -> Markup:
    """Return what narrows the table down; it is shown where scripts run."""
    suites = [(s.name, s.name) for s in board.shelves if s.runs or s.papers]
    labels = dict.fromkeys(name for shelf in board.shelves for name in shelf.budgets)
    causality = list(CAUSALITY.items())
    protocol = [("ours", "runs of these suites"), ("published", "as published, other protocol")]
    return tag("form",
        _select("Suite", "suite", [("", "all"), *suites]),
        _select("Protocol", "protocol", [("", "all"), *protocol]),
        _select("Causality", "causality", [("", "all"), *causality]),
        _select("Labels", "labels", [("", "any"), *((name, name) for name in labels)]),
        tag("label", tag("span", "Search"),
            tag("input", type="search", name="q", autocomplete="off", spellcheck="false",
                placeholder="decoder, group, …")),
        tag("button", "Clear", type="reset"),
        tag("p", "", role="status", class_="status"),
        class_="filters js", role="search", aria_label="Filter the results",
    )  # fmt: skip


# ------------------------------------------------------------------ suites


def suites_page(board: Board) -> str:
    """Return the list of suites."""
    heads = [Head("Suite", "suite"), Head("Title", "title"), Head("Task", "task"),
             Head("Causal", "causal"), Head("Metric", "metric"),
             Head("Recordings", "recordings", True), Head("Label budgets", "budgets", True),
             Head("Seeds", "seeds", True), Head("Runs", "runs", True)]  # fmt: skip
    rows = [
        row([Cell(tag("a", shelf.name, href=shelf.page)), *_suite_cells(shelf)])
        for shelf in board.shelves
    ]
    lead = tag("p", "A suite is everything that decides a score but the decoder.", class_="lead")
    return page(board, "Suites", "Suites", lead, table("All suites", heads, [Body(rows)]),
                here="suites.html")  # fmt: skip


def _suite_cells(shelf: Shelf) -> list[Cell]:
    suite = shelf.suite
    budgets = len(shelf.budgets)
    return [
        Cell(shelf.title if suite else "known from results alone"),
        Cell(suite.task if suite else "–"),
        Cell(("yes" if suite.causal else "no") if suite else "–"),
        Cell(metric_short(shelf.metric) or "–"),
        Cell(count(len(suite.recordings) if suite else None),
             len(suite.recordings) if suite else None, True),
        Cell(count(budgets), budgets, True),
        Cell(count(len(suite.seeds) if suite else None), len(suite.seeds) if suite else None, True),
        Cell(count(len(shelf.runs)), len(shelf.runs), True),
    ]  # fmt: skip


def suite_page(board: Board, shelf: Shelf) -> str:
    """Return the page of a suite: its protocol, then every group with its results."""
    suite = shelf.suite
    words = suite.description if suite else UNKNOWN
    first = re.split(r"(?<=[.!?])\s", words, maxsplit=1)[0]
    short = len(words) <= LEAD
    more = None if short else [" ", tag("a", "The whole protocol", href="#protocol"), "."]
    lead = tag("p", words if short else first, more, class_="lead")
    parts: list[Child] = [lead]
    jump = [tag("a", shelf.group_title(g), href=f"#group-{k}") for k, g in enumerate(shelf.groups)]
    if len(jump) > 1:
        parts.append(tag("ul", (tag("li", one) for one in jump), class_="jump"))
    parts.append(glossary() if shelf.runs else None)
    for k, group in enumerate(shelf.groups):
        parts.append(section(shelf.group_title(group), *_group(shelf, group, f"g{k}"),
                             ident=f"group-{k}"))  # fmt: skip
    if suite is not None:
        whole = None if short else tag("p", words, class_="prose")
        parts.append(section("Protocol", whole, _protocol(suite), ident="protocol"))
        parts.append(section("Recordings", _recordings(board, suite), ident="recordings"))
    heading = [shelf.title, " ", tag("small", shelf.name)] if shelf.title != shelf.name else None
    return page(board, shelf.title, heading or shelf.name, *parts, depth=1)


def _group(shelf: Shelf, group: str, ident: str) -> Iterator[Child]:
    if any(s.group == group for run in shelf.runs for s in run.result.summaries):
        yield group_table(shelf, group)
        yield _left_out(shelf, group)
        charts = [one for one in _charts(shelf, group, ident) if one is not None]
        yield tag("div", charts, class_="charts") if charts else None
    else:
        yield tag("p", "No run yet.", class_="note")
    papers = [paper for paper in shelf.papers if paper.group == group]
    if papers:
        yield papers_table(shelf, papers)


def _left_out(shelf: Shelf, group: str) -> Markup | None:
    """Return how many recordings of a group have not the labels of a budget, by its runs."""
    known = found.recordings if (found := shelf.group(group)) else {}
    lacking = {
        budget: {one.recording_id for run in shelf.runs for one in run.result.left_out
                 if one.budget == budget and one.recording_id in known}
        for budget in shelf.budgets
    }  # fmt: skip
    words = [f"{b}: {len(names)} of {len(known)}" for b, names in lacking.items() if names]
    return tag("p", f"Recordings left out because they have fewer labels than a budget: "
               f"{'; '.join(words)}.", class_="note") if words else None  # fmt: skip


# ------------------------------------------------------------------ charts of a group


def _charts(shelf: Shelf, group: str, ident: str) -> Iterator[Markup | None]:
    """Yield the charts of a group; runs that are not ranked are in none."""
    by_stem = {run.stem: run for run in shelf.runs}
    runs = [by_stem[stem] for stem in shelf.looks]
    score = Axis(metric_short(shelf.metric), floor=FLOOR)
    title = shelf.group_title(group)
    best = shelf.budgets[0] if shelf.budgets else ""
    if len(shelf.budgets) > 1:
        lines = [_by_labels(shelf, run, group) for run in runs]
        axis = Axis("labelled time of a recording", log=True, show=labelled)
        yield lines_chart(
            f"{ident}-labels", f"{title}: score against labels",
            "Each point is the mean over recordings of one label budget, with its 95 % interval.",
            lines, axis, score,
        )  # fmt: skip
    words = f"Labels: {best}. Better is up and to the left."
    for key, name, axis in (
        ("step_p99", "time of a live step",
         Axis("99th percentile of a live step", log=True, show=seconds)),
        ("normalised_latency", "latency",
         Axis("seconds of computing per second of neural time", log=True, show=_plainly)),
        ("parameters", "size", Axis("parameters", log=True, show=amount)),
    ):  # fmt: skip
        lines = [_by_cost(shelf, run, group, best, key) for run in runs]
        lines = [one for one in lines if one.points and not math.isnan(one.points[0].x)]
        yield lines_chart(f"{ident}-{key}", f"{title}: score against {name}", words, lines, axis,
                          score)  # fmt: skip
    yield _sessions(shelf, runs, group, best, ident, title)


def _plainly(value: float) -> str:
    return f"{value:.3g}"


def labelled(value: float) -> str:
    """Return labelled time for an axis, in seconds wherever it lies."""
    return f"{value:.4g} s" if value >= 1 else seconds(value)


def _line(shelf: Shelf, run: Run, points: list[Point]) -> Line:
    return Line(run.result.decoder, f"../{run.page}", shelf.looks[run.stem], tuple(points))


def _point(x: float, one: Summary, note: str) -> Point:
    return Point(x, one.mean, one.low, one.high, note)


def _by_labels(shelf: Shelf, run: Run, group: str) -> Line:
    found = [(budget, run.summary(group, budget)) for budget in shelf.budgets]
    return _line(shelf, run, [_point(one.labelled_seconds, one, budget)
                              for budget, one in found if one is not None])  # fmt: skip


def _by_cost(shelf: Shelf, run: Run, group: str, budget: str, key: str) -> Line:
    one, cost = run.summary(group, budget), run.result.cost
    value = getattr(cost, key, None) if cost else None
    if one is None:
        return _line(shelf, run, [])
    return _line(shelf, run, [_point(value or math.nan, one, budget)])


def _sessions(
    shelf: Shelf, runs: list[Run], group: str, budget: str, ident: str, title: str
) -> Markup | None:
    """Return the score of each recording, by decoder; the grey ones have it on their own pages."""
    shown = [run for run in runs if shelf.looks[run.stem].index is not None]
    names = sorted({s.recording_id for run in shown for s in run.result.scores
                    if (s.group, s.budget) == (group, budget)})  # fmt: skip
    lines = [_line(shelf, run, session_points(run, names, group, budget)) for run in shown]
    words = f"Labels: {budget}. The mean over seeds, and the extent from the lowest to the highest."
    if len(shown) < len(runs):
        words += f" The {len(shown)} best of {len(runs)} runs."
    return dots_chart(f"{ident}-sessions", f"{title}: score by recording", words, names,
                      [one for one in lines if one.points],
                      Axis(metric_short(shelf.metric), floor=FLOOR))  # fmt: skip


def session_points(run: Run, names: list[str], group: str, budget: str) -> list[Point]:
    """Return mean and extent over seeds of each recording that has a score."""
    by_name: dict[str, list[float]] = {}
    for one in run.result.scores:
        if (one.group, one.budget) == (group, budget) and math.isfinite(one.score):
            by_name.setdefault(one.recording_id, []).append(one.score)
    return [
        Point(sum(v) / len(v), float(k), min(v), max(v))
        for k, name in enumerate(names) if (v := by_name.get(name))
    ]  # fmt: skip


# ------------------------------------------------------------------ protocol


def _protocol(suite: Suite) -> Markup:
    task = {"behaviour": "decode behaviour from spikes",
            "rates": "estimate the counts of held-out units from those of the others"}  # fmt: skip
    causal = "yes: an estimate rests on earlier spikes alone" if suite.causal else "no"
    fit = {"each": "a decoder of its own for each recording",
           "together": "one decoder of all recordings"}  # fmt: skip
    return facts([
        ("Task", task[suite.task]),
        ("Causal", causal),
        ("Step", seconds(suite.step) if suite.step else None),
        ("Context", f"{seconds(suite.context)} of spikes around a sample"),
        ("Gap", f"{seconds(suite.reach)} between a test sample and training time"
         if suite.reach else "none between test samples and training time"),
        ("Why the gap is less", suite.gap_reason),
        ("Fitted", fit[suite.fit]),
        ("Metric", metric_name(suite.metric)),
        ("Label budgets", ", ".join(one.name for one in suite.budgets)),
        ("Seeds", ", ".join(str(seed) for seed in suite.seeds)),
        ("Bootstrap blocks", f"{seconds(suite.block)} where a group names no trials"),
        ("References", [tag("span", out(one), class_="item") for one in suite.references] or None),
        ("SHA-256 of the protocol", tag("code", suite.sha256)),
        *((f"Group {one.title or one.name}", _group_facts(suite, one)) for one in suite.groups),
    ])  # fmt: skip


def _group_facts(suite: Suite, group: Group) -> Markup:
    gap = suite.reach_of(group)
    return facts([
        ("Decoded", group.target if suite.task == "behaviour" else "counts of held-out units"),
        ("Scored on", group.evaluate_on or "all of the test split"),
        ("Phases beside it", ", ".join(group.phases)),
        ("Drawn again for the bootstrap", group.trials),
        ("Split", _split(group)),
        ("Gap", seconds(gap) if gap != suite.reach else None),
        ("Why the gap is less", group.gap_reason),
        ("Recordings", "new ones, that a decoder adapts to" if group.transfer
         else "keep all of their labels with every budget"),
        ("Also known as", ", ".join(group.aliases)),
    ])  # fmt: skip


def _split(group: Group) -> str:
    split = group.split
    if isinstance(split, SchemeSplit):
        text = f"the recording's own, “{split.name}”"
        if split.valid_from_train:
            text += f"; the last {100 * split.valid_from_train:g} % of training time validate"
        return text
    if isinstance(split, RowSplit):
        text = f"rows of “{split.table}” in order of time"
        if split.longest:
            text += f", those of more than {seconds(split.longest)} left out"
        if split.where:
            text += f", where {json.dumps(split.where, ensure_ascii=False)}"
    else:
        blocks = f" in each of {split.blocks} blocks" if split.blocks > 1 else ""
        text = f"in order of time{blocks}, {seconds(split.gap)} apart"
    shares = ((split.train, "train"), (split.valid, "validate"), (split.test, "test"))
    return text + ": " + ", ".join(f"{100 * share:g} % {word}" for share, word in shares)


def _recordings(board: Board, suite: Suite) -> Markup:
    heads = [Head("Recording", "recording"), Head("Group", "group"), Head("Manifest", "manifest"),
             Head("Hash of the file", "hash")]  # fmt: skip
    rows = []
    for group in suite.groups:
        address = board.manifest_page(suite, group)
        name = group.manifest
        link = tag("a", name, href=f"../{address}") if address else tag("span", name)
        rows += [
            row([Cell(one), Cell(group.title or group.name), Cell(link), Cell(tag("code", pin))])
            for one, pin in group.recordings.items()
        ]
    return table("Recordings with the hash of the file of each", heads, [Body(rows)])
