"""The commands `spikedata leaderboard …`, in this process, as the program finds them."""

from __future__ import annotations

import json
import shlex
import sys
from typing import NamedTuple

import pyarrow as pa
import pytest

from spikedata.cli import main
from spikedata_model.leaderboard.decoders import choose, list_decoders
from spikedata_model.leaderboard.result import Result
from spikedata_model.leaderboard.suite import load_suite
from tests.spikedata_model.leaderboard.site_results import fake_result
from tests.spikedata_model.worlds import make_world

DECODER = """
import numpy as np

class Constant:
    '''Says the mean of what it learned from.'''

    def fit(self, sessions, rules):
        self.mean = {one.recording_id: np.concatenate([p.values for p in one.train]).mean(axis=0)
                     for one in sessions}

    def predict(self, segment):
        return np.tile(self.mean[segment.recording_id], (len(segment.time), 1))

class Broken(Constant):
    def predict(self, segment):
        return 1 / 0

class NoPredict:
    def fit(self, sessions, rules): ...

class Asks(Constant):
    def __init__(self, much): ...
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(name="spikedata")
def _spikedata(tmp_path, monkeypatch, capsys):
    """Return a way to run the program in a folder with a suite, a store and a decoder."""
    make_world(tmp_path)
    (tmp_path / "mine.py").write_text(DECODER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def spikedata(arguments: str) -> Ended:
        given = ["spikedata", "leaderboard", *shlex.split(arguments)]
        monkeypatch.setattr(sys, "argv", given)
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Ended(int(caught.value.code or 0), captured.out, captured.err)

    return spikedata


RUN = "run --suite suite.toml --store store --decoder mine.py:Constant"


def test_a_file_of_a_third_party_is_run_scored_added_and_shown(spikedata, tmp_path):
    ran = spikedata(f"{RUN} --name constant")
    assert ran.code == 0, ran.err
    assert "constant" in ran.out
    scored = spikedata("score --suite suite.toml --store store --name stranger --predictions "
                       "runs/leaderboard/made-up/constant/predictions.arrow "
                       "--link https://example.org --description 'a file'")  # fmt: skip
    assert scored.code == 0, scored.err
    for name in ("constant", "stranger"):
        added = spikedata(
            f"add runs/leaderboard/made-up/{name} --store store --suite suite.toml --to board"
        )
        assert added.code == 0, added.err

    shown = spikedata("table --suite suite.toml --from board")

    results = [Result.model_validate_json(one.read_bytes())
               for one in sorted((tmp_path / "board").glob("*/*.json"))]  # fmt: skip
    assert [one.decoder for one in results] == ["constant", "stranger"]
    assert results[0].scores == results[1].scores
    assert results[0].kind == "third party"
    assert results[0].description == "Says the mean of what it learned from."
    assert (results[1].description, results[1].link) == ("a file", "https://example.org")
    assert shown.code == 0
    assert "stranger" in shown.out
    assert "spikedata leaderboard score --suite suite.toml" in results[1].command


def test_what_comes_next_is_a_command_that_works(spikedata):
    ran = spikedata("run --suite suite.toml --store store --decoder mine.py:Constant,wiener")
    (said,) = (one for one in ran.err.splitlines() if one.startswith("Next: spikedata leaderboard"))

    added = spikedata(said.partition("leaderboard ")[2] + " --store store")

    assert added.code == 0, added.err
    assert added.err.count("Accepted: ") == 2


def test_what_was_accepted_before_an_error_is_told(spikedata):
    spikedata(RUN)

    added = spikedata("add runs/leaderboard/made-up/Constant no/where --store store --suite "
                      "suite.toml")  # fmt: skip

    assert added.code == 2
    assert "Accepted: leaderboard/made-up/Constant.json" in added.err


def test_results_of_several_suites_are_one_json(spikedata, tmp_path):
    board = tmp_path / "board"
    for name in ("sample", "falcon-m1"):
        (board / name).mkdir(parents=True)
        result = fake_result(load_suite(name))
        (board / name / "ridge.json").write_text(result.model_dump_json())

    listed = json.loads(spikedata("table --from board --json").out)

    assert {one["suite"] for one in listed} == {"sample", "falcon-m1"}


def test_results_of_a_suite_that_is_not_known_are_not_passed_over_in_silence(spikedata):
    spikedata(RUN)
    spikedata("add runs/leaderboard/made-up/Constant --store store --suite suite.toml --to board")

    shown = spikedata("table --from board")

    assert shown.code == 0
    assert "Not shown: results of made-up" in shown.err


def test_a_published_number_of_one_recording_says_so(spikedata, tmp_path):
    (tmp_path / "board").mkdir()
    lines = spikedata("table --suite neurobench-reaching --from board").out.splitlines()

    (line,) = (one for one in lines if "0.524" in one)
    assert "indy_20160630_01" in line


def test_the_command_of_a_result_repeats_it(spikedata, tmp_path):
    spikedata(f"{RUN} --seed 1 --out first")
    first = json.loads((tmp_path / "first/made-up/Constant/result.json").read_text())
    words = shlex.split(first["command"])
    assert words[:3] == ["spikedata", "leaderboard", "run"]

    again = spikedata(shlex.join(words[2:]).replace("first", "again"))

    assert again.code == 0
    second = json.loads((tmp_path / "again/made-up/Constant/result.json").read_text())
    assert second["predictions_sha256"] == first["predictions_sha256"]
    assert second["scores"] == first["scores"]


def test_json_is_the_result(spikedata, tmp_path):
    ended = spikedata(f"{RUN} --json --seed 0")

    (shown,) = json.loads(ended.out)
    kept = json.loads((tmp_path / "runs/leaderboard/made-up/Constant/result.json").read_text())
    assert shown == kept


def test_a_lead_is_the_difference_of_two_files_on_the_same_trials(spikedata, tmp_path):
    spikedata("run --suite suite.toml --store store --decoder mine.py:Constant,wiener")
    runs = tmp_path / "runs/leaderboard/made-up"
    files = [runs / name / "predictions.arrow" for name in ("wiener", "Constant")]
    means = [
        json.loads(one.with_name("result.json").read_text())["summaries"][0]["mean"]
        for one in files
    ]

    (lead,) = json.loads(
        spikedata(f"compare {files[0]} {files[1]} --suite suite.toml --store store --json").out
    )
    (none,) = json.loads(
        spikedata(f"compare {files[0]} {files[0]} --suite suite.toml --store store --json").out
    )

    shown = spikedata(f"compare {files[0]} {files[1]} --suite suite.toml --store store").out

    assert "the first" in shown
    assert lead["difference"] == pytest.approx(means[0] - means[1])
    assert 0 < lead["low"] < lead["difference"] < lead["high"]
    assert none["difference"] == 0
    assert none["low"] <= 0 <= none["high"]
    assert lead["n_recordings"] == 2


def test_the_rows_to_fill_in_are_written(spikedata, tmp_path):
    ended = spikedata("samples --suite suite.toml --store store --out rows.arrow")

    assert ended.code == 0, ended.err
    table = pa.ipc.open_file(pa.py_buffer((tmp_path / "rows.arrow").read_bytes())).read_all()
    assert table.column_names == ["recording_id", "budget", "seed", "time", "channel", "predicted"]
    assert table["predicted"].null_count == len(table) > 0


def test_suites_are_listed(spikedata):
    shown = spikedata("suites")
    listed = json.loads(spikedata("suites --json").out)

    assert "poyo-table2" in shown.out
    assert {"sample", "falcon-m1", "neurobench-reaching"} <= {one["name"] for one in listed}
    assert all(len(one["sha256"]) == 64 for one in listed)


REFUSED = {
    "a suite that is not there": ("run --suite sampel --decoder wiener", "did you mean 'sample'"),
    "a decoder that is not there": (
        "run --suite suite.toml --store store --decoder winer", "did you mean 'wiener'"),
    "no decoder": ("run --suite suite.toml --store store --decoder ,", "names 0 decoders"),
    "a decoder twice": (
        "run --suite suite.toml --store store --decoder wiener,wiener", "called 'wiener'"),
    "one name for two": (
        "run --suite suite.toml --store store --decoder wiener,ridge --name x", "names 2 decoders"),
    "no file": ("run --suite suite.toml --store store --decoder no.py:A", "no file no.py"),
    "no module": ("run --suite suite.toml --store store --decoder no.such:A", "cannot be imported"),
    "no class": (
        "run --suite suite.toml --store store --decoder mine.py:Constan", "did you mean"),
    "no predict": (
        "run --suite suite.toml --store store --decoder mine.py:NoPredict", "no method `predict`"),
    "one link for two": (
        "run --suite suite.toml --store store --decoder wiener,ridge --link x", "or --link"),
    "arguments": (
        "run --suite suite.toml --store store --decoder mine.py:Asks", "without arguments"),
    "a broken file": (
        "run --suite suite.toml --store store --decoder broken.py:A", "SyntaxError"),
    "settings of a baseline": (
        "run --suite suite.toml --store store --decoder wiener --set train.steps=3", "neither"),
    "weights without a mode": (
        "run --suite suite.toml --store store --decoder smoke --from x", "belong together"),
    "no store": ("run --suite suite.toml --store nowhere --decoder wiener", "no store at"),
    "no predictions": (
        "score --suite suite.toml --store store --name x --predictions no.arrow", "cannot be read"),
    "a leak": (
        "score --suite suite.toml --store store --name x --predictions no.arrow "
        "--pretrained-on lab/one", "pretrained on 1 recording"),
    "a leak in a list": (
        "score --suite suite.toml --store store --name x --predictions no.arrow "
        "--pretrained-on @seen.txt", "lab/two"),
    "no results": ("table --from nowhere", "no folder nowhere"),
    "no run": ("add nowhere --store store", "cannot be read"),
    "a damaged suite": ("run --suite damaged.toml --store store --decoder wiener", "not valid"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_said_in_a_sentence(spikedata, tmp_path, name):
    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "seen.txt").write_text("lab/two\n")
    (tmp_path / "damaged.toml").write_text("name = ")
    command, message = REFUSED[name]

    ended = spikedata(command)

    assert ended.code in (1, 2)
    assert message in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert not (tmp_path / "runs").exists()


def test_an_error_in_a_strangers_code_is_said_to_be_theirs(spikedata):
    ended = spikedata(RUN.replace("Constant", "Broken"))

    said = " ".join(ended.err.split())
    assert ended.code == 2
    assert "The decoder 'Broken' could not predict lab/one: ZeroDivisionError: division" in said
    assert "bug in spikedata" not in said


def test_a_file_does_not_take_the_place_of_a_run(spikedata, tmp_path):
    spikedata(f"{RUN} --name mine --link https://example.org/code")
    kept = (tmp_path / "runs/leaderboard/made-up/mine/result.json").read_bytes()

    ended = spikedata("score --suite suite.toml --store store --name mine --predictions "
                      "runs/leaderboard/made-up/mine/predictions.arrow")  # fmt: skip

    assert ended.code == 2
    assert "holds a run of" in " ".join(ended.err.split())
    assert (tmp_path / "runs/leaderboard/made-up/mine/result.json").read_bytes() == kept
    assert json.loads(kept)["link"] == "https://example.org/code"


def test_every_decoder_that_is_listed_can_be_made():
    for name in list_decoders():
        made = choose(name).make()
        assert callable(made.fit)
        assert callable(made.predict)
    assert {"wiener", "ridge", "kalman", "mlp", "gru", "poyo-compact"} <= set(list_decoders())
