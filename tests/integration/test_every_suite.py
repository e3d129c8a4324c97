"""Every shipped suite, on small files in the layout of its real ones: fetch, ingest, run, score."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spikedata.cli import app
from spikedata.splits import leakage, split_table
from spikedata.store import Store
from spikedata_model.cli_leaderboard import leaderboard_app
from spikedata_model.leaderboard.fixtures import write_suite_fixture
from spikedata_model.leaderboard.result import Result
from spikedata_model.leaderboard.scoring import open_tasks
from spikedata_model.leaderboard.suite import Suite, list_suites, load_suite

NAMES = list(list_suites())
SMALL = ("--set", "train.steps=6", "--set", "train.evaluate_every=3")
Get = Callable[[str], tuple[Suite, Path]]


def spikedata(verb: str, *words: str | Path) -> str:
    """Run the program in this process, and return what it printed."""
    command = [verb, *map(str, words)]
    if verb == "leaderboard":
        done = CliRunner().invoke(leaderboard_app, command[1:])
    else:
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.stdout


@pytest.fixture(scope="module", name="suite_and_folder")
def _suite_and_folder(tmp_path_factory: pytest.TempPathFactory) -> Get:
    """Return a suite's stand-in and its folder, the store in it filled; each is made once."""
    made: dict[str, tuple[Suite, Path]] = {}

    def get(name: str) -> tuple[Suite, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            suite = write_suite_fixture(name, folder, per_group=1)
            for manifest in sorted({group.manifest for group in suite.groups}):
                for verb in ("fetch", "ingest"):
                    spikedata(verb, "--manifest", folder / manifest, "--cache", folder / "cache")
            made[name] = suite, folder
        return made[name]

    return get


def run(suite: Suite, folder: Path, decoder: str, *more: str) -> Result:
    out = folder / "runs"
    printed = spikedata(
        "leaderboard", "run", "--suite", folder / "suite.toml", "--decoder", decoder, "--out", out,
        "--cache", folder / "cache", "--seed", str(suite.seeds[0]), "--threads", "1", "--json",
        *more,
    )  # fmt: skip
    (found,) = json.loads(printed)
    return Result.model_validate(found)


def check(suite: Suite, result: Result, budgets: set[str]) -> None:
    """Everything that was asked was scored, on the table that the suite scores."""
    assert (result.suite, result.suite_sha256) == (suite.name, suite.sha256)
    wanted = {
        (group.name, name, budget)
        for group in suite.groups
        for name in group.recordings
        for budget in budgets
    }
    assert {(one.group, one.recording_id, one.budget) for one in result.scores} == wanted
    for one in result.scores:
        group = suite.recordings[one.recording_id]
        assert math.isfinite(one.score)
        assert set(one.phases) == {"all", *group.phases, *filter(None, [group.evaluate_on])}
        assert one.phases[group.evaluate_on or "all"].n_samples > 0
    assert result.causality == ("tested" if suite.causal else "free")
    assert set(result.data) == set(suite.recordings)


@pytest.mark.parametrize("name", NAMES)
def test_a_linear_decoder_is_scored_on_every_suite(name, suite_and_folder):
    suite, folder = suite_and_folder(name)

    result = run(suite, folder, "wiener")

    check(suite, result, {budget.name for budget in suite.budgets})


@pytest.mark.parametrize("name", NAMES)
def test_poyo_is_scored_on_every_suite(name, suite_and_folder):
    """Trained for a few steps, with the fewest labels and with the most."""
    suite, folder = suite_and_folder(name)
    names = [budget.name for budget in suite.budgets]
    budgets = {names[0], names[-1], "all"}

    result = run(suite, folder, "smoke", *SMALL, *(f"--budget={one}" for one in sorted(budgets)))

    check(suite, result, budgets)


@pytest.mark.parametrize("name", NAMES)
def test_test_time_keeps_the_gap_of_the_suite_from_training_time(name, suite_and_folder):
    """By `leakage`, which the division does not use; a smaller gap than the context is needed."""
    suite, folder = suite_and_folder(name)
    tasks = open_tasks(suite, Store(folder / "cache" / "store"), None)

    for task in tasks.values():
        seen = task.parts["train"] | task.parts["valid"]
        table = split_table({"train": seen, "test": task.parts["test"]})
        reach = suite.reach_of(task.group)
        assert leakage(table, reach - 1e-5 if reach else 0.0).duration < 1e-6
        if reach < suite.context:
            assert leakage(table, suite.context).duration > 0


def test_the_shipped_sample_is_the_stand_ins_protocol(suite_and_folder):
    """The one suite whose real files are in the repository, taken there as they are."""
    suite, _ = suite_and_folder("sample")
    real = load_suite("sample")

    assert [group.split for group in suite.groups] == [group.split for group in real.groups]
    assert suite.sha256 != real.sha256
