"""The commands `spikedata leaderboard …`; torch is loaded when one of them runs a decoder."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spikedata.cli import CacheOption, JsonOption, StoreOption, store_path
from spikedata.console import print_json, print_table, progress_bar, say
from spikedata.store import Store
from spikedata_model.errors import SuiteError

if TYPE_CHECKING:
    from spikedata_model.leaderboard.result import Result
    from spikedata_model.leaderboard.suite import Suite

__all__ = ["leaderboard_app"]

leaderboard_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Run decoders on suites, score predictions, and show what was found.",
)

SuiteOption = Annotated[str, typer.Option("--suite", help="Name of a suite, or a .toml file.")]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Folder of accepted results; ./leaderboard or, without one, those of spikedata.",
    ),
]
LinkOption = Annotated[str, typer.Option(help="Address of its code or paper.")]
DescriptionOption = Annotated[str, typer.Option(help="A line about the decoder.")]


@leaderboard_app.command("suites")
def suites(as_json: JsonOption = False) -> None:
    """List the suites that come with spikedata."""
    from spikedata_model.leaderboard.suite import list_suites, load_suite

    loaded = [load_suite(path) for path in list_suites().values()]
    if as_json:
        print_json([{**one.model_dump(mode="json"), "sha256": one.sha256} for one in loaded])
        return
    rows = [
        [one.name, len(one.recordings), "yes" if one.causal else "no",
         ", ".join(budget.name for budget in one.budgets), one.metric, one.title]
        for one in loaded
    ]  # fmt: skip
    print_table("Suites", ["name", "recordings", "causal", "labels", "metric", "title"], rows)


@leaderboard_app.command("run")
def run(
    suite: SuiteOption,
    decoder: Annotated[
        str,
        typer.Option(
            help="Which ones, with commas between: wiener, ridge, kalman, mlp, gru, a preset of "
            "POYO, package.module:Class or file.py:Class (which is executed)."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder of the runs; a run that was stopped goes on from what is there."),
    ] = Path("runs/leaderboard"),
    seed: Annotated[
        list[int] | None, typer.Option(help="This seed of the suite alone; may be repeated.")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="This label budget alone, as '5 %'; may be repeated.")
    ] = None,
    recording: Annotated[
        list[str] | None, typer.Option(help="This recording alone; may be repeated.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Run or weights file that a POYO begins with; see --mode."),
    ] = None,
    mode: Annotated[
        Literal["unit-id", "gradual", "full"] | None,
        typer.Option(help="How a POYO given by --from adapts to the suite's recordings."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of a POYO: --set train.steps=200."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the decoder is called; only with a single one.")
    ] = None,
    description: DescriptionOption = "",
    link: LinkOption = "",
    threads: Annotated[
        int | None, typer.Option(help="Cores to work on; all of them if absent.", min=1)
    ] = None,
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit decoders as a suite says and score them; stopped and given again, it goes on."""
    from spikedata_model.leaderboard.decoders import choose
    from spikedata_model.leaderboard.runner import run_suite
    from spikedata_model.leaderboard.suite import load_suite
    from spikedata_model.leaderboard.tables import slug

    loaded, opened = load_suite(suite), Store(store_path(store, cache))
    names = [one.strip() for one in decoder.split(",") if one.strip()]
    if not names or ((name or description or link) and len(names) > 1):
        raise SuiteError(
            f"--decoder '{decoder}' names {len(names)} decoders; name one or more, and one alone "
            "with --name, --description or --link."
        )
    choices = [
        choose(one, start=start, mode=mode, settings=setting or (), name=name) for one in names
    ]
    twice = sorted({one.name for one in choices if [c.name for c in choices].count(one.name) > 1})
    if twice:
        raise SuiteError(f"--decoder '{decoder}': two decoders are called '{twice[0]}'.")
    folder = out / slug(loaded.name)
    with progress_bar() as progress:
        results = [
            run_suite(
                loaded, opened, one, folder / slug(one.name), seeds=seed, budgets=budget,
                recording_ids=recording, threads=threads, command=_command(),
                description=description, link=link, progress=progress,
            )
            for one in choices
        ]  # fmt: skip
    if as_json:
        _show_json(results)
    else:
        _show(loaded, results)
        paths = [str(folder / slug(one.name)) for one in choices]
        given = ["--suite", suite] if suite.endswith(".toml") else []
        say(f"Next: spikedata leaderboard add {shlex.join([*paths, *given])}")


@leaderboard_app.command("score")
def score(
    suite: SuiteOption,
    predictions: Annotated[Path, typer.Option(help="Arrow file; see docs/leaderboard.md.")],
    name: Annotated[str, typer.Option(help="What the decoder is called.")],
    pretrained_on: Annotated[
        list[str] | None,
        typer.Option(
            help="A recording, a session, sha256:… of a file, manifest:NAME or @FILE (one a line) "
            "that it had seen; may be repeated."
        ),
    ] = None,
    description: DescriptionOption = "",
    link: LinkOption = "",
    out: Annotated[Path, typer.Option(help="Folder for what is found.")] = Path("runs/leaderboard"),
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a file of predictions that any program wrote."""
    from spikedata.files import write_whole
    from spikedata_model.leaderboard.guards import read_list
    from spikedata_model.leaderboard.scoring import score_file
    from spikedata_model.leaderboard.suite import load_suite
    from spikedata_model.leaderboard.tables import slug

    loaded, opened = load_suite(suite), Store(store_path(store, cache))
    seen = [
        inner
        for one in pretrained_on or ()
        for inner in (read_list(Path(one[1:])) if one.startswith("@") else [one])
    ]
    result = score_file(
        loaded, opened, predictions, name, pretrained_on=seen, description=description, link=link,
        command=_command(),
    )  # fmt: skip
    folder = out / slug(loaded.name) / slug(name)
    if (folder / "parts").is_dir():
        raise SuiteError(
            f"{folder} holds a run of `spikedata leaderboard run`: give another --name or --out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "predictions.arrow", predictions.read_bytes())
    write_whole(folder / "result.json", result.model_dump_json(indent=1) + "\n")
    if as_json:
        _show_json([result])
    else:
        _show(loaded, [result])


@leaderboard_app.command("samples")
def samples(
    suite: SuiteOption,
    out: Annotated[Path, typer.Option(help="The Arrow file to write.")],
    cache: CacheOption = None,
    store: StoreOption = None,
) -> None:
    """Write the file of predictions that a suite asks for, with the numbers left empty."""
    from spikedata_model.leaderboard.predictions import samples_table
    from spikedata_model.leaderboard.scoring import open_tasks
    from spikedata_model.leaderboard.suite import load_suite
    from spikedata_model.predictions import write_table

    loaded, opened = load_suite(suite), Store(store_path(store, cache))
    table = samples_table(open_tasks(loaded, opened), loaded)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_table(out, table)
    say(f"{out}: {len(table)} rows to fill in the column 'predicted' of.")


@leaderboard_app.command("add")
def add(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders with result.json and predictions.arrow, of run or score."),
    ],
    to: Annotated[Path, typer.Option(help="Folder of accepted results.")] = Path("leaderboard"),
    suite: Annotated[
        str | None, typer.Option(help="The suite's file, if it does not come with spikedata.")
    ] = None,
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score the predictions of runs again and accept those whose results say the same."""
    from spikedata_model.leaderboard.suite import load_suite
    from spikedata_model.leaderboard.tables import accept, read_result

    opened = Store(store_path(store, cache))
    loaded = None if suite is None else load_suite(suite)
    paths = []
    for one in runs:
        result = read_result(one / "result.json")
        paths.append(accept(result, one / "predictions.arrow", opened, to, loaded))
        say(f"Accepted: {paths[-1]}")
    if as_json:
        print_json([str(path) for path in paths])


@leaderboard_app.command("compare")
def compare(
    suite: SuiteOption,
    mine: Annotated[Path, typer.Argument(help="Arrow file of predictions.")],
    theirs: Annotated[Path, typer.Argument(help="Another one.")],
    cache: CacheOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether one decoder is ahead of another by more than chance, on the same trials."""
    from spikedata_model.leaderboard import scoring
    from spikedata_model.leaderboard.predictions import read_predictions
    from spikedata_model.leaderboard.suite import load_suite

    loaded = load_suite(suite)
    tasks = scoring.open_tasks(loaded, Store(store_path(store, cache)))
    both = [read_predictions(path, loaded, tasks) for path in (mine, theirs)]
    leads = scoring.compare(loaded, tasks, *both)
    if as_json:
        print_json([one._asdict() for one in leads])
        return
    print_table(
        f"{loaded.name}: {loaded.metric} of {mine} less that of {theirs}",
        ["group", "labels", "difference", "95 %", "recordings", "ahead"],
        [
            [one.group, one.budget, one.difference, _interval(one.low, one.high), one.n_recordings,
             "the first" if one.low > 0 else "the second" if one.high < 0 else "not told apart"]
            for one in leads
        ],
    )  # fmt: skip


@leaderboard_app.command("table")
def table(
    suite: Annotated[
        str | None, typer.Option(help="This suite alone; all with results if absent.")
    ] = None,
    folder: FromOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the accepted results, the best first, and the published numbers below them."""
    from spikedata_model.leaderboard.suite import list_suites, load_suite
    from spikedata_model.leaderboard.tables import rank, read_results

    results = read_results(folder)
    if suite is not None:
        names = [suite]
    else:
        names = [name for name in list_suites() if any(one.suite == name for one in results)]
    ranked = [(loaded, rank(results, loaded)) for loaded in map(load_suite, names)]
    if as_json:
        _show_json(one for _, some in ranked for one in some)
        return
    if suite is None and (left := {one.suite for one in results} - set(names)):
        say(f"Not shown: results of {', '.join(sorted(left))}; give the suite's file with --suite.")
    if not any(some for _, some in ranked):
        say("No result yet: `spikedata leaderboard run`, then `spikedata leaderboard add`.")
    for loaded, some in ranked:
        if some:
            _show(loaded, some)
        _show_published(loaded)


@leaderboard_app.command("site")
def site(
    out: Annotated[Path, typer.Option(help="Folder of the site.")] = Path("site"),
    folder: FromOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the leaderboard as a static site: open index.html, or copy the folder to a server."""
    from spikedata_model.leaderboard.published import load_published
    from spikedata_model.leaderboard.site import write_site
    from spikedata_model.leaderboard.tables import read_results

    paths = write_site(read_results(folder), out, published=load_published())
    if as_json:
        print_json([str(path) for path in paths])
        return
    say(f"{len(paths)} files; open {out / 'index.html'}")


# ------------------------------------------------------------------ parts of the above


def _command() -> str:
    """Return the command that was given, without the folder that the program lies in."""
    return shlex.join(["spikedata", *sys.argv[1:]])


def _show_json(results: Iterable[Result]) -> None:
    print_json([json.loads(one.model_dump_json()) for one in results])


def _show(suite: Suite, results: Sequence[Result]) -> None:
    rows: list[list[object]] = [
        [one.decoder + _remark(one, suite), cell.group, cell.budget, cell.mean,
         _interval(cell.low, cell.high), _number(cell.sd), f"{cell.n_recordings} × {cell.n_seeds}"]
        for one in results
        for cell in one.summaries
    ]  # fmt: skip
    print_table(
        f"{suite.name}: {suite.metric}, {'causal' if suite.causal else 'not causal'}; "
        "n: recordings × seeds",
        ["decoder", "group", "labels", "mean", "95 %", "sd", "n"],
        rows,
    )
    left = {(lacks.budget, lacks.recording_id) for one in results for lacks in one.left_out}
    for budget in sorted({budget for budget, _ in left}):
        names = sorted(name for found, name in left if found == budget)
        say(f"Left out of '{budget}', since they have fewer labels: {', '.join(names)}.")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _interval(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{low:.3f} to {high:.3f}"


def _remark(one: Result, suite: Suite) -> str:
    """Return why a result is not ranked with the others, and what nobody could test."""
    remarks = []
    if one.suite_sha256 != suite.sha256:
        remarks.append("other version of the suite")
    elif not one.complete:
        remarks.append("incomplete")
    if one.causality == "claimed":
        remarks.append("causality claimed")
    return f" ({', '.join(remarks)})" if remarks else ""


def _show_published(suite: Suite) -> None:
    """Print numbers of papers, which are of other protocols."""
    from spikedata_model.leaderboard.published import load_published

    rows: list[list[object]] = [
        [one.method + (f" ({one.labels})" if one.labels else ""),
         one.recording.rpartition("/")[2] if one.recording else one.group, one.value, one.metric,
         one.source]
        for one in load_published()
        if one.suite == suite.name
    ]  # fmt: skip
    if rows:
        print_table(
            f"{suite.name}: as published, other protocol",
            ["method", "group or recording", "value", "metric", "source"],
            rows,
        )
