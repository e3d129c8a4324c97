"""What the pages of the site are made of: runs with their addresses, and suites with their runs."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spikedata.manifest import Manifest
from spikedata_model.leaderboard.published import Published
from spikedata_model.leaderboard.result import Result, Summary
from spikedata_model.leaderboard.site_charts import N_LOOKS, Look
from spikedata_model.leaderboard.site_markup import file_name
from spikedata_model.leaderboard.suite import Group, Suite

__all__ = ["Board", "Run", "Shelf", "board_of", "metric_name", "metric_short"]

METRICS = {
    "r2": ("R², mean of the axes", "R²"),
    "r2_weighted": ("R², axes weighted by their variance", "R² weighted"),
    "bits_per_spike": ("bits per spike", "bits/spike"),
}


@dataclass(frozen=True, slots=True)
class Run:
    """A result, its file's text, and the name of its page.

    ``problem`` says why it is not ranked: it is incomplete, or of another version of the suite;
    empty where nothing is wrong.
    """

    result: Result
    json: str
    stem: str
    problem: str

    @property
    def page(self) -> str:
        """The path of its page in the site."""
        return f"run/{self.stem}.html"

    def summary(self, group: str, budget: str) -> Summary | None:
        """Return its cell of the table, None where it has none."""
        found = (s for s in self.result.summaries if (s.group, s.budget) == (group, budget))
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Shelf:
    """A suite with all that is known about it.

    ``suite`` is None where only results name it; ``budgets`` go from most labels to fewest, and
    ``looks`` has the runs that are ranked, best first.
    """

    name: str
    suite: Suite | None
    stem: str
    runs: tuple[Run, ...]
    papers: tuple[Published, ...]
    groups: tuple[str, ...]
    budgets: tuple[str, ...]
    looks: dict[str, Look]

    @property
    def page(self) -> str:
        """The path of its page in the site."""
        return f"suite/{self.stem}.html"

    @property
    def title(self) -> str:
        """Its title, or its name where it has none."""
        return (self.suite.title if self.suite else "") or self.name

    @property
    def metric(self) -> str:
        """What ranks its results."""
        if self.suite is not None:
            return self.suite.metric
        return min((run.result.metric for run in self.runs), default="")

    def group(self, name: str) -> Group | None:
        """Return what the suite says of a group."""
        listed = self.suite.groups if self.suite else ()
        return next((one for one in listed if one.name == name), None)

    def group_title(self, name: str) -> str:
        """Return the title of a group, or its name."""
        group = self.group(name)
        return (group.title if group else "") or name

    def rows(self, group: str, budget: str) -> list[tuple[Run, Summary]]:
        """Return the cells of a group with a budget: best first, then those that do not rank."""
        found = [
            (run, one)
            for run in self.runs
            for one in run.result.summaries
            if (one.group, one.budget) == (group, budget)
        ]
        return sorted(found, key=lambda row: (bool(row[0].problem), _worse(row[1].mean),
                                              row[0].result.decoder, row[0].stem))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Board:
    """Everything that the site shows."""

    title: str
    shelves: tuple[Shelf, ...]
    manifests: tuple[tuple[str, Manifest], ...]  # with the names of their pages

    def manifest_page(self, suite: Suite, group: Group) -> str | None:
        """Return the path of the page of a group's manifest."""
        wanted = suite.manifest_of(group)
        for stem, manifest in self.manifests:
            if wanted in (manifest.name, manifest.path.stem) or _same(wanted, manifest.path):
                return f"data/{stem}.html"
        return None


def metric_name(metric: str) -> str:
    """Return what a metric is called."""
    return METRICS.get(metric, (metric, metric))[0]


def metric_short(metric: str) -> str:
    """Return what a metric is called in a narrow column."""
    return METRICS.get(metric, (metric, metric))[1]


def _same(wanted: str, path: Path) -> bool:
    return wanted.endswith(".toml") and path != Path(".") and Path(wanted).resolve() == path


def _worse(value: float) -> float:
    return math.inf if math.isnan(value) else -value


def board_of(
    results: Sequence[Result],
    suites: Iterable[Suite],
    papers: Sequence[Published],
    manifests: Iterable[Manifest],
    title: str,
) -> Board:
    """Return what the site shows, in an order that depends on nothing but what is shown."""
    by_name = {suite.name: suite for suite in suites}
    named = {one.suite for one in results} | {one.suite for one in papers} | by_name.keys()
    shelves: list[Shelf] = []
    stems: set[str] = set()
    taken: set[str] = set()
    for name in sorted(named):
        mine = [one for one in results if one.suite == name]
        theirs = [one for one in papers if one.suite == name]
        stem = _free(file_name(name), stems)
        shelves.append(_shelf(name, stem, by_name.get(name), mine, theirs, taken))
    listed = sorted(manifests, key=lambda one: (one.name, str(one.path)))
    seen: set[str] = set()
    pages = tuple((_free(file_name(one.name), seen), one) for one in listed)
    return Board(title, tuple(shelves), pages)


def _free(stem: str, taken: set[str]) -> str:
    """Return a name that nothing has yet; only what is twice the same gets a number."""
    name, k = stem, 1
    while name in taken:
        k += 1
        name = f"{stem}-{k}"
    taken.add(name)
    return name


def _shelf(
    name: str,
    shelf_stem: str,
    suite: Suite | None,
    results: list[Result],
    papers: list[Published],
    taken: set[str],
) -> Shelf:
    expected = suite.sha256 if suite else _commonest(one.suite_sha256 for one in results)
    texts = sorted(((one.decoder, one.model_dump_json(indent=1), one) for one in results),
                   key=lambda row: row[:2])  # fmt: skip
    runs = []
    for decoder, text, result in texts:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        stem = f"{file_name(name)}--{file_name(decoder)}--{digest}"
        runs.append(Run(result, text + "\n", _free(stem, taken), _problem(result, expected)))
    groups = [group.name for group in suite.groups] if suite else []
    listed = {s.group for r in results for s in r.summaries} | {p.group for p in papers}
    shelf = Shelf(
        name, suite, shelf_stem, tuple(runs), tuple(papers),
        (*groups, *sorted(listed - set(groups))), _budgets(suite, results), {},
    )  # fmt: skip
    shelf.looks.update(_looks(shelf))
    return shelf


def _commonest(values: Iterable[str]) -> str:
    found = Counter(values)
    return min(found, key=lambda one: (-found[one], one), default="")


def _problem(result: Result, expected: str) -> str:
    if result.suite_sha256 != expected:
        return "other version of the suite"
    return "" if result.complete else "incomplete"


def _budgets(suite: Suite | None, results: list[Result]) -> tuple[str, ...]:
    """Return the names of all budgets, those with most labels first."""
    labels: dict[str, list[float]] = {one.name: [] for one in suite.budgets} if suite else {}
    for result in results:
        for one in result.summaries:
            labels.setdefault(one.budget, []).append(one.labelled_seconds)
    stated = {
        one.name: one.share or one.seconds or one.trials or 1.0
        for one in (suite.budgets if suite else ())
    }

    def most(name: str) -> tuple[bool, float, float, str]:
        known = [one for one in labels[name] if math.isfinite(one)]
        mean = sum(known) / len(known) if known else 0.0
        return (name != "all", -mean, -stated.get(name, 0.0), name)

    return tuple(sorted(labels, key=most))


def _looks(shelf: Shelf) -> dict[str, Look]:
    """Return colour and mark of every ranked run: the best ones get some, the others are grey."""
    place: dict[str, float] = {run.stem: math.inf for run in shelf.runs if not run.problem}
    for group in shelf.groups:
        for budget in shelf.budgets[:1]:
            ranked = [run for run, _ in shelf.rows(group, budget) if not run.problem]
            for k, run in enumerate(ranked):
                place[run.stem] = min(place[run.stem], k)
    order = sorted(place, key=lambda stem: (place[stem], stem))
    best = order[:N_LOOKS]
    return {stem: Look(best.index(stem) if stem in best else None) for stem in order}
