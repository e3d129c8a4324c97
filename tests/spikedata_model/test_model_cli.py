"""The model's commands in this process, found and run as the program `spikedata` does it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from spikedata.cli import main
from spikedata.intervals import IntervalSet
from spikedata_model import cli, figures
from tests.spikedata_model.builders import make_recording, make_store, with_values

TINY = (
    "--preset smoke --set train.steps=4 --set train.batch_size=3 --set train.evaluate_every=2 "
    "--set train.threads=1"
)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Spikedata = Callable[[str], Ended]


@pytest.fixture(name="spikedata")
def _spikedata(store, run, tmp_path, monkeypatch, capsys) -> Spikedata:
    """Return a way to run the program in a folder that holds ``store`` and a finished ``run``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def spikedata(arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["spikedata", *shlex.split(arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Ended(caught.value.code or 0, captured.out, captured.err)

    return spikedata


def strict_json(text: str) -> object:
    """Return the value of a JSON text that may not hold NaN or Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def sentence_of(ended: Ended) -> str:
    """Return the one sentence that a failed command ends with."""
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert "bug in spikedata" not in ended.err
    lines = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, ended.err
    return lines[0]


# ------------------------------------------------------------------ the way through


def test_training_evaluating_and_reporting_end_with_0_and_say_what_is_next(spikedata):
    trained = spikedata(f"train --out new --store store {TINY}")
    assert (trained.code, "Next: spikedata evaluate new" in trained.err) == (0, True)
    assert "r2 lab/a hand x" in trained.out
    evaluated = spikedata("evaluate new --store store")
    assert (evaluated.code, "Next: spikedata report new" in evaluated.err) == (0, True)
    assert "hand mean" in evaluated.out
    reported = spikedata("report new --store store")
    assert reported.code == 0

    paths = [Path(line) for line in reported.out.splitlines()]
    assert paths[0] == Path("new/report.html")
    assert len(paths) == 7
    assert all(path.is_file() for path in paths)


def two_animals(path: str, **other: object) -> None:
    """Make a store of two animals with other units and another behaviour rate."""
    make_store(
        Path(path),
        make_recording("apes/one", n_units=6, sample_rate=20.0),
        make_recording("birds/two", seed=1, n_units=3, sample_rate=50.0, duration=24.0, **other),
    )


def test_one_command_trains_and_scores_two_animals_with_other_units_and_rates(spikedata):
    two_animals("zoo")
    ended = spikedata(f"train --out new --store zoo --evaluate --split valid {TINY}")

    assert ended.code == 0
    assert "Next: spikedata report new --split valid" in ended.err
    for name in ("tokens_per_s", "seconds_left", "memory_mb", "mean r2"):
        assert name in ended.out
        assert name in Path("new/learning_curve.csv").read_text()
    assert "R² on the split 'valid' (new)" in ended.out
    scores = json.loads(Path("new/evaluation-valid.json").read_text())["scores"]
    assert [(one["recording_id"], one["n_samples"]) for one in scores] == [
        ("apes/one", 60), ("birds/two", 180),
    ]  # fmt: skip
    units = json.loads(Path("new/run.json").read_text())["unit_ids"]
    assert (len(units), units[5], units[6]) == (9, "apes/one/u5", "birds/two/u0")


def test_json_of_training_with_scores_holds_both(spikedata):
    both = strict_json(spikedata(f"train --out new --store store --evaluate --json {TINY}").out)

    assert both["step"] == 4
    assert both["evaluation"] == strict_json(Path("new/evaluation-test.json").read_text())


def test_a_target_of_another_width_is_refused_and_another_target_is_not(spikedata):
    other = make_recording("birds/two", seed=1)
    hand = other.series["hand"]
    narrow = replace(hand, values=hand.values[:, :1], columns=("x",))
    other = replace(other, series={**other.series, "hand": narrow})
    make_store(Path("zoo"), make_recording("apes/one"), other)
    ended = spikedata(f"train --out new --store zoo --evaluate {TINY}")
    assert ended.code == 2
    assert "birds/two: 'hand' has 1 channels, 2 in the recordings before it" in sentence_of(ended)

    make_store(Path("apart"), make_recording("apes/one"),
               make_recording("birds/two", seed=1, targets=("heading",)))  # fmt: skip
    assert spikedata(f"train --out apart/run --store apart --evaluate {TINY}").code == 0
    scores = json.loads(Path("apart/run/evaluation-test.json").read_text())["scores"]
    assert [one["target"] for one in scores] == ["hand", "heading"]


def test_scores_on_the_recipes_table_and_on_the_whole_split_are_printed(spikedata):
    reach = IntervalSet(np.array([15.5, 18.0]), np.array([16.5, 19.0]))
    recording = replace(make_recording("lab/a"), intervals={"reach": reach})
    make_store(Path("phases"), recording, make_recording("lab/b", seed=1))
    recipes = "data.recipes=[{recordings='lab/a', evaluate_on='reach'}]"
    ended = spikedata(f'train --out new --store phases --evaluate --set "{recipes}" {TINY}')

    assert ended.code == 0
    for text in ("scored on", "reach", "whole split", "Wiener filter, whole split"):
        assert text in ended.out
    assert spikedata("report new --store phases").code == 0
    page = Path("new/report.html").read_text()
    assert "the samples in rows of “reach”; in brackets over every sample of the split" in page


def test_a_run_that_ran_away_ends_with_1_and_one_sentence(spikedata):
    settings = "--set train.weight_decay=490 --set train.warmup=0.0 --set train.decay=0.0"
    ended = spikedata(f"train --out new --store store {TINY} {settings}")

    assert ended.code == 1
    assert "Error: After step" in sentence_of(ended)


def test_json_of_every_command_is_one_document_on_stdout(spikedata, monkeypatch):
    trained = strict_json(spikedata(f"train --out new --store store --json {TINY}").out)
    evaluated = strict_json(spikedata("evaluate new --store store --split valid --json").out)
    monkeypatch.setattr(figures, "_png", lambda figure: b"PNG")  # which takes its time
    reported = strict_json(spikedata("report new --store store --split valid --json").out)

    assert trained["run"] == "new"
    assert trained["step"] == 4
    assert evaluated == strict_json(Path("new/evaluation-valid.json").read_text())
    assert [Path(path).suffix for path in reported] == [".html", *[".png"] * 6]


def test_a_score_that_does_not_exist_is_null_in_json(spikedata):
    recording = make_recording("lab/still")
    series = recording.series["hand"]
    values = series.values.copy()
    values[series.times() > 11.9, 1] = 3
    make_store(Path("still"), with_values(recording, "hand", values))
    trained = strict_json(spikedata(f"train --out new --store still --json {TINY}").out)
    evaluated = strict_json(spikedata("evaluate new --store still --json").out)

    assert trained["r2 lab/still hand y"] is None
    assert evaluated["scores"][0]["r2"][1] is None
    assert spikedata("evaluate new --store still").code == 0


def test_the_same_command_again_goes_on_and_changes_nothing_when_done(spikedata):
    spikedata(f"train --out new --store store {TINY}")
    before = Path("new/checkpoint.pt").read_bytes()

    assert spikedata(f"train --out new --store store {TINY}").code == 0
    assert Path("new/checkpoint.pt").read_bytes() == before


def test_recordings_are_chosen_by_name(spikedata):
    spikedata(f"train --out new --store store --recording lab/b {TINY}")

    assert list(json.loads(Path("new/run.json").read_text())["recordings"]) == ["lab/b"]


MANIFEST = """
name = "mine"
title = "Mine"
description = "Of a test."
[[datasets]]
id = "lab"
title = "Lab"
licence = "CC0-1.0"
citation = "None"
source = {{ kind = "file", root = "nowhere" }}
[[datasets.assets]]
path = "a.nwb"
size = 1
sha256 = "{zeros}"
session = "a"
role = "{a}"
[[datasets.assets]]
path = "b.nwb"
size = 1
sha256 = "{zeros}"
session = "b"
role = "{b}"
"""


@pytest.mark.parametrize("more", ["", "--recording lab/a"])
def test_a_manifest_chooses_its_recordings_for_training(spikedata, more):
    Path("mine.toml").write_text(MANIFEST.format(a="train", b="heldout", zeros="0" * 64))
    ended = spikedata(f"train -m mine.toml --out new --store store {more} {TINY}")

    assert ended.code == 0
    assert list(json.loads(Path("new/run.json").read_text())["recordings"]) == ["lab/a"]


def test_a_manifest_without_recordings_for_training_does_not_mean_the_whole_store(spikedata):
    Path("mine.toml").write_text(MANIFEST.format(a="heldout", b="transfer", zeros="0" * 64))
    ended = spikedata(f"train -m mine.toml --out new --store store {TINY}")

    assert ended.code == 2
    assert "of the 2 of the manifest 'mine.toml' none has the role 'train'" in sentence_of(ended)
    assert not Path("new").exists()


# ------------------------------------------------------------------ adapting

ADAPT = "finetune --from run --store store --set train.steps=4 --set train.threads=1"


def test_a_model_is_adapted_and_scored_in_one_command_and_says_on_what(spikedata):
    Path("mine.toml").write_text(MANIFEST.format(a="train", b="transfer", zeros="0" * 64))
    ended = spikedata(
        f"{ADAPT} --out new -m mine.toml --seconds 5 --draw 3 --mode full --evaluate --json"
    )

    assert ended.code == 0, ended.err
    content = strict_json(ended.out)
    assert isinstance(content, dict)
    assert {one["recording_id"] for one in content["evaluation"]["scores"]} == {"lab/b"}
    asked = json.loads(Path("new/run.json").read_text())
    assert asked["config"]["data"]["labels"]["seconds"] == 5
    assert asked["config"]["data"]["labels"]["seed"] == 3
    assert asked["config"]["train"]["frozen"] == 0
    assert list(asked["recordings"]) == ["lab/b"]
    card = json.loads(Path("new/model_card.json").read_text())
    assert card["manifest"].startswith("mine (SHA-256 ")
    assert card["evaluations"]["test"]


def test_roles_choose_what_a_model_adapts_to(spikedata):
    Path("mine.toml").write_text(MANIFEST.format(a="train", b="heldout", zeros="0" * 64))
    assert spikedata(f"{ADAPT} --out new -m mine.toml --role heldout").code == 0
    assert list(json.loads(Path("new/run.json").read_text())["recordings"]) == ["lab/b"]

    ended = spikedata(f"{ADAPT} --out other -m mine.toml")
    assert "none has the role 'transfer' (they have: heldout, train)" in sentence_of(ended)


def test_training_may_write_for_tensorboard(spikedata):
    pytest.importorskip("tensorboard")

    assert spikedata(f"train --out new --store store --tensorboard {TINY}").code == 0
    assert list(Path("new/tensorboard").iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--like hand", "--like 'hand': expected NEW=KNOWN"),
        ("--like hand=hand", "'hand' is no new target"),
        ("--seconds 5 --share 0.5", "give one of trials, seconds and share, not 2"),
        ("--draw 5", "give one of trials, seconds and share, not 0"),
        ("--seconds -1", "seconds"),
        ("--trials 3", "has no interval table 'trials'"),
        ("--seconds 500", "500 labelled seconds were asked for"),
        ("--set model.dim=8", "the model to begin with has its shape"),
        ("--set train.stepz=8", "did you mean 'train.steps'?"),
        ("--recording lab/aa", "did you mean 'lab/a'"),
    ],
)
def test_a_mistake_in_what_to_adapt_ends_with_2_and_one_sentence(spikedata, arguments, says):
    ended = spikedata(f"{ADAPT} --out new {arguments}")

    assert ended.code == 2
    assert says in sentence_of(ended)
    assert not Path("new").exists()


@pytest.mark.parametrize("source", ["nothing", "store", "run/run.json", "run/checkpoint.pt"])
def test_a_model_that_is_none_ends_with_1_and_one_sentence(spikedata, source):
    ended = spikedata(f"finetune --from {source} --store store --out new")

    assert ended.code == 1
    sentence_of(ended)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("train --out new --store store --preset smke", "did you mean 'smoke'?"),
        ("train --out new --store store --set train.stepz=3", "did you mean 'train.steps'?"),
        ("train --out new --store store --set train.steps=-3", "train.steps"),
        ("train --out run/run.json --store store", "run/run.json cannot be a run's folder"),
        ("train --out run/run.json/new --store store", "cannot be a run's folder"),
        ("train --out new --store store --recording lab/aa", "did you mean 'lab/a'"),
        ("train --out new --store store --recording nonsense", "is no recording id"),
        ("train --out new --store store -m nonexistent", "nonexistent"),
        ("train --out run --store store --preset smoke", "holds a run with other settings"),
        (
            "train --out new --store store --preset smoke --set 'data.targets=[\"hnd\"]'",
            "did you mean 'hand'?",
        ),
        ("evaluate run --store empty", "lab/a"),
    ],
)
def test_a_mistake_in_what_was_asked_ends_with_2_and_one_sentence(spikedata, arguments, says):
    Path("empty").mkdir()
    ended = spikedata(arguments)

    assert ended.code == 2
    assert says in sentence_of(ended)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("evaluate nothing --store store", "There is no run in nothing"),
        ("report nothing --store store", "There is no run in nothing"),
        ("evaluate run/run.json --store store", "There is no run in run/run.json"),
        ("report run --store store", "has no scores on 'test'"),
        ("evaluate run --store nostore", "/nostore: make one with"),
        ("train --out new --store nostore", "/nostore: make one with"),
        ("evaluate damaged --store store", "checkpoint.pt is damaged"),
    ],
)
def test_work_that_cannot_be_done_ends_with_1_and_one_sentence(spikedata, arguments, says):
    shutil.copytree("run", "damaged")
    Path("damaged/checkpoint.pt").write_bytes(b"damaged")
    ended = spikedata(arguments)

    assert ended.code == 1
    assert says in sentence_of(ended)


@pytest.mark.parametrize(
    "arguments",
    ["train", "evaluate", "report", "evaluate run --split vlid", "train --out new --steps 3"],
)
def test_a_command_line_that_makes_no_sense_ends_with_2(spikedata, arguments):
    ended = spikedata(arguments)

    assert (ended.code, ended.out) == (2, "")
    assert "Usage" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", ["train", "finetune", "evaluate", "report"])
def test_every_command_explains_itself(spikedata, command):
    ended = spikedata(f"{command} --help")

    assert ended.code == 0
    assert "--store" in ended.out


def test_an_interrupted_training_ends_with_130_and_goes_on_when_asked_again(spikedata, monkeypatch):
    @contextmanager
    def stopping() -> Iterator[object]:
        def stop(label: str, done: int, total: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        yield stop

    with monkeypatch.context() as patch:
        patch.setattr(cli, "progress_bar", stopping)
        ended = spikedata(f"train --out new --store store {TINY}")
    assert ended.code == 130
    assert "the same command goes on" in ended.err
    assert spikedata(f"train --out new --store store {TINY}").code == 0


def test_loading_the_commands_does_not_load_torch():
    """`spikedata fetch` should not wait for it."""
    code = "import spikedata_model.cli, sys; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
