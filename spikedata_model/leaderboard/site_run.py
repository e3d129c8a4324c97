"""The page of a run: what it scored, how, on what, with what, and how to repeat it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from spikedata_model.leaderboard.result import Fitted, Metrics, Result, Score
from spikedata_model.leaderboard.site_axes import Axis
from spikedata_model.leaderboard.site_board import Board, Run, Shelf, metric_name, metric_short
from spikedata_model.leaderboard.site_charts import Line, Look, Point, dots_chart, lines_chart
from spikedata_model.leaderboard.site_markup import (
    DASH,
    Child,
    Markup,
    amount,
    count,
    decimal,
    out,
    plain,
    seconds,
    size,
    tag,
)
from spikedata_model.leaderboard.site_pages import FLOOR, labelled, session_points
from spikedata_model.leaderboard.site_parts import (
    CAUSALITY,
    CAUSALITY_WORDS,
    Body,
    Cell,
    Head,
    badge,
    facts,
    interval,
    page,
    row,
    section,
    table,
)
from spikedata_model.leaderboard.site_traces import trace_chart

__all__ = ["run_page"]

MOST_OPEN = 40  # rows of a table that is shown unfolded
KINDS = {
    "spikedata": "comes with spikedata",
    "third party": "somebody else's decoder, run here",
    "predictions": "somebody else's predictions: only their scores were computed here",
}


def run_page(board: Board, shelf: Shelf, run: Run) -> str:
    """Return the page of a run."""
    result = run.result
    suite = tag("a", shelf.title, href=f"../{shelf.page}")
    lead = tag("p", "On ", suite, ". ", tag("span", result.description) if result.description
               else None, class_="lead")  # fmt: skip
    remarks = [badge(CAUSALITY[result.causality], "quiet")]
    if result.kind == "predictions":
        remarks.append(badge("predictions only", "quiet"))
    if run.problem:
        remarks.append(badge(f"not ranked: {run.problem}", "warn"))
    parts: list[Child] = [lead, tag("p", (tag("span", one, " ") for one in remarks))]
    parts.append(section("Scores", *_scores(shelf, run)))
    if result.traces:
        charts = [trace_chart(f"trace-{k}", one) for k, one in enumerate(result.traces)]
        parts.append(section("Traces", *(one for one in charts if one is not None)))
    parts.append(section("Every score", *_every_score(shelf, run)))
    parts.append(section("How to repeat it", *_repeat(run)))
    parts.append(section("Cost", _cost(result)))
    if result.fitted:
        parts.append(section("Fits", _fits(result)))
    parts.append(section("What it had seen before", *_pretraining(result)))
    parts.append(section("Data", _data(result)))
    parts.append(section("Machine", _machine(result)))
    heading = tag("bdi", result.decoder)
    return page(board, f"{result.decoder} on {shelf.name}", heading, *parts, depth=1)


def _folded(words: str, rows: int, content: Markup) -> Markup:
    """Return content that is folded away where it is long."""
    return content if rows <= MOST_OPEN else tag("details", tag("summary", words), content)


# ------------------------------------------------------------------ scores


def _scores(shelf: Shelf, run: Run) -> Iterator[Child]:
    heads = [
        Head("Group", "group"), Head("Labels", "labels", True), Head("Score", "score", True),
        Head("95 % interval", "low", True), Head("sd", "sd", True),
        Head("Recordings", "recordings", True), Head("Seeds", "seeds", True),
        Head("Labelled time", "labelled", True),
    ]  # fmt: skip
    place = {name: k for k, name in enumerate(shelf.groups)}
    order = {name: k for k, name in enumerate(shelf.budgets)}
    listed = sorted(run.result.summaries, key=lambda s: (place[s.group], order[s.budget]))
    rows = [
        row([
            Cell(shelf.group_title(s.group)), Cell(s.budget, s.labelled_seconds, True),
            Cell(tag("strong", decimal(s.mean)), s.mean, True),
            Cell(interval(s.low, s.high), s.low, True), Cell(decimal(s.sd), s.sd, True),
            Cell(count(s.n_recordings), s.n_recordings, True),
            Cell(count(s.n_seeds), s.n_seeds, True),
            Cell(seconds(s.labelled_seconds), s.labelled_seconds, True),
        ])
        for s in listed
    ]  # fmt: skip
    yield table(f"Scores: {metric_name(run.result.metric)}", heads, [Body(rows)])
    if left := run.result.left_out:
        words = f"{count(len(left))} times a recording was left out: fewer labels than the budget"
        items = (tag("li", f"{one.budget}: {one.recording_id}: {one.reason}") for one in left)
        yield tag("details", tag("summary", words), tag("ul", items))
    yield tag("div", _score_charts(shelf, run), class_="charts")


def _score_charts(shelf: Shelf, run: Run) -> Iterator[Markup | None]:
    score = Axis(metric_short(run.result.metric), floor=FLOOR)
    if len(shelf.budgets) > 1:
        lines = [
            Line(shelf.group_title(group), None, Look(k),
                 tuple(Point(s.labelled_seconds, s.mean, s.low, s.high, s.budget)
                       for s in run.result.summaries if s.group == group))
            for k, group in enumerate(shelf.groups)
        ]  # fmt: skip
        yield lines_chart(
            "labels", "Score against labels",
            "Each point is the mean over recordings of one label budget, with its 95 % interval.",
            [one for one in lines if one.points],
            Axis("labelled time of a recording", log=True, show=labelled), score, "Group",
        )  # fmt: skip
    best = shelf.budgets[0] if shelf.budgets else ""
    names = sorted({s.recording_id for s in run.result.scores if s.budget == best})
    lines = [
        Line(shelf.group_title(group), None, Look(k),
             tuple(session_points(run, names, group, best)))
        for k, group in enumerate(shelf.groups)
    ]  # fmt: skip
    yield dots_chart(
        "sessions", "Score by recording",
        f"Labels: {best}. The mean over seeds, and the extent from the lowest to the highest.",
        names, [one for one in lines if one.points], score, "Group",
    )  # fmt: skip


def _value(one: Metrics | None, metric: str) -> float | None:
    if one is None:
        return None
    if metric == "bits_per_spike":
        return one.bits_per_spike
    return one.r2_weighted if metric == "r2_weighted" else one.r2_uniform


def _every_score(shelf: Shelf, run: Run) -> Iterator[Child]:
    result = run.result
    phases = list(dict.fromkeys(name for s in result.scores for name in s.phases))
    phases.sort(key=lambda name: name != "all")
    heads = [
        Head("Recording", "recording"), Head("Group", "group"), Head("Labels", "labels", True),
        Head("Seed", "seed", True), Head("Labelled time", "labelled", True),
        Head("Score", "score", True),
        *(Head("All test time" if name == "all" else name, f"phase-{k}", True)
          for k, name in enumerate(phases)),
    ]  # fmt: skip
    rows = [row(_score_cells(shelf, result, s, phases)) for s in result.scores]
    words = "The score of every recording, label budget and seed; then the same metric by phase"
    yield _folded(f"{count(len(rows))} scores", len(rows), table(words, heads, [Body(rows)]))
    best = shelf.budgets[0] if shelf.budgets else ""
    some = [s for s in result.scores if s.budget == best]
    detail = [row(_detail_cells(s, name, one)) for s in some for name, one in s.phases.items()]
    heads = [
        Head("Recording", "recording"), Head("Seed", "seed", True), Head("Phase", "phase"),
        Head("Samples", "samples", True), Head("Trials", "trials", True), Head("R²", "r2", True),
        Head("R² weighted", "weighted", True), Head("Bits/spike", "bits", True),
        Head("R² by axis", "axes"),
    ]  # fmt: skip
    words = f"All metrics of every recording, seed and phase. Labels: {best}"
    yield tag("details", tag("summary", "All metrics by phase and axis"),
              table(words, heads, [Body(detail)]))  # fmt: skip


def _score_cells(shelf: Shelf, result: Result, s: Score, phases: list[str]) -> list[Cell]:
    values = [_value(s.phases.get(name), result.metric) for name in phases]
    return [
        Cell(s.recording_id), Cell(shelf.group_title(s.group)),
        Cell(s.budget, s.labelled_seconds, True), Cell(s.seed, s.seed, True),
        Cell(seconds(s.labelled_seconds), s.labelled_seconds, True),
        Cell(tag("strong", decimal(s.score)), s.score, True),
        *(Cell(decimal(value), value, True) for value in values),
    ]  # fmt: skip


def _detail_cells(s: Score, phase: str, one: Metrics) -> list[Cell]:
    return [
        Cell(s.recording_id), Cell(s.seed, s.seed, True),
        Cell("all test time" if phase == "all" else phase),
        Cell(count(one.n_samples), one.n_samples, True),
        Cell(count(one.n_trials), one.n_trials, True),
        Cell(decimal(one.r2_uniform), one.r2_uniform, True),
        Cell(decimal(one.r2_weighted), one.r2_weighted, True),
        Cell(decimal(one.bits_per_spike), one.bits_per_spike, True),
        Cell(", ".join(decimal(value) for value in one.r2) or DASH),
    ]  # fmt: skip


# ------------------------------------------------------------------ provenance


def _repeat(run: Run) -> Iterator[Child]:
    result = run.result
    if result.command:
        yield tag("pre", tag("code", result.command), tabindex="0")
    else:
        yield tag("p", "No command was kept with this result.", class_="note")
    yield facts([
        ("Result", tag("a", "the JSON with every number", href=f"{run.stem}.json")),
        ("Kind", KINDS[result.kind]),
        ("Causality", CAUSALITY_WORDS[result.causality]),
        ("Complete", _complete(result)),
        ("Of", out(result.link) if result.link else None),
        ("Date", result.date),
        ("spikedata", result.spikedata_version),
        ("Commit", tag("code", result.commit) if result.commit else "not known"),
        ("SHA-256 of the suite", tag("code", result.suite_sha256)),
        ("SHA-256 of the predictions", tag("code", result.predictions_sha256)),
        ("Wall time", seconds(result.wall_seconds or None)),
        ("Energy", amount(result.energy_joules, "J") if result.energy_joules is not None
         else "could not be read"),
    ])  # fmt: skip


def _complete(result: Result) -> str:
    if not result.complete:
        return "no"
    but = ", but for recordings without the labels of a budget" if result.left_out else ""
    return f"yes: all recordings, label budgets and seeds{but}"


def _cost(result: Result) -> Markup:
    cost = result.cost
    if cost is None:
        return tag("p", "The decoder does not say what it takes.", class_="note")
    share = {
        "Weights that are 0": cost.connection_sparsity,
        "Activations that are 0": cost.activation_sparsity,
    }
    return facts([
        ("Parameters", count(cost.parameters)),
        ("Memory", size(cost.bytes)),
        ("Multiply-adds of an estimate", amount(cost.macs)),
        ("Those without a factor of 0", amount(cost.effective_macs)),
        ("Of these, additions alone", amount(cost.effective_acs)),
        *((name, DASH if value is None else f"{decimal(100 * value, 1)} %")
          for name, value in share.items()),
        ("Live step, median", seconds(cost.step_p50)),
        ("Live step, 99th percentile", seconds(cost.step_p99)),
        ("Computing per second of neural time", seconds(cost.normalised_latency)),
    ])  # fmt: skip


def _fits(result: Result) -> Markup:
    heads = [
        Head("Recordings", "recordings"), Head("Labels", "labels"), Head("Seed", "seed", True),
        Head("Fitting", "fit", True), Head("Predicting", "predict", True),
        Head("Decoded time", "decoded", True), Head("Chosen", "chosen"),
    ]  # fmt: skip
    rows = [row(_fit_cells(one)) for one in result.fitted]
    content = table("How it was fitted, and what was chosen", heads, [Body(rows)])
    return _folded(f"{count(len(rows))} fits", len(rows), content)


def _fit_cells(one: Fitted) -> list[Cell]:
    several = f"{len(one.recordings)} recordings" if len(one.recordings) > 1 else None
    chosen = ", ".join(f"{name} {_setting(value)}" for name, value in one.about.items())
    return [
        Cell(several or (one.recordings[0] if one.recordings else DASH)), Cell(one.budget),
        Cell(one.seed, one.seed, True), Cell(seconds(one.fit_seconds), one.fit_seconds, True),
        Cell(seconds(one.predict_seconds), one.predict_seconds, True),
        Cell(seconds(one.decoded_seconds), one.decoded_seconds, True), Cell(chosen or DASH),
    ]  # fmt: skip


def _setting(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else decimal(value)
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _pretraining(result: Result) -> Iterator[Child]:
    seen = result.pretraining
    if seen is None or not seen.recordings:
        ours = result.kind == "spikedata"
        said = "Nothing: it was not pretrained." if ours else "Nothing that its authors state."
        yield tag("p", said, class_="note")
        if seen is None or not seen.weights:
            return
    if seen is not None and seen.weights:
        yield facts([("SHA-256 of the weights", tag("code", seen.weights))])
    if seen is not None and seen.recordings:
        items = tag("ul", (tag("li", one) for one in seen.recordings), class_="columns")
        yield tag("details", tag("summary", f"{count(len(seen.recordings))} recordings"), items)


def _data(result: Result) -> Markup:
    heads = [Head("Recording", "recording"), Head("File", "file"), Head("In the store", "store"),
             Head("Test samples", "samples")]  # fmt: skip
    rows = [
        row([Cell(name), *(Cell(tag("code", text)) for text in
                           (one.source, one.fingerprint, one.samples))])
        for name, one in sorted(result.data.items())
    ]  # fmt: skip
    words = "Hashes of each recording: its file, its files in the store, and its test samples"
    return table(words, heads, [Body(rows)])


def _machine(result: Result) -> Markup:
    machine = result.machine
    if machine is None:
        return tag("p", "It is not known where it ran.", class_="note")
    packages = ", ".join(f"{name} {version}" for name, version in sorted(machine.packages.items()))
    return facts([
        ("Processor", f"{machine.processor}, {machine.cores} cores"),
        ("Memory", f"{machine.memory_gb:.3g} GB"),
        ("GPU", machine.gpu or "none"),
        ("System", machine.system),
        ("Python", machine.python),
        ("Packages", plain(packages)),
    ])  # fmt: skip
