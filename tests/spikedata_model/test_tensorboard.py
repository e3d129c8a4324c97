from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path

import pytest

from spikedata_model.errors import ConfigError
from spikedata_model.tensorboard import Board
from tests.spikedata_model.test_untrusted import sentence

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the packages that it is made of
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Points = dict[str, dict[int, float]]


def read(folder: Path) -> Points:
    """Return what TensorBoard shows, by tag, then step; a step that occurs twice is an error."""
    accumulator = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0})
    accumulator.Reload()
    found: Points = {}
    for tag in accumulator.Tags()["scalars"]:
        points = [(one.step, one.value) for one in accumulator.Scalars(tag)]
        assert len(dict(points)) == len(points), f"{tag} has a step twice"
        found[tag] = dict(points)
    return found


def write(folder: Path, steps: range, from_step: int = 0, loss: float = 0.5) -> None:
    with Board(folder, from_step) as board:
        for step in steps:
            board.row({"step": step, "seconds": step / 8, "loss": loss})


def test_tensorboard_shows_every_column_under_a_name_that_groups_it(tmp_path):
    row = {
        "step": 4, "seconds": 1.5, "loss": 0.25, "mean r2": 0.5, "tokens_per_s": 1000.0,
        "seconds_left": 2.0, "memory_mb": 300.0, "r2 lab/a hand x": 0.75, "r2 lab/a hand y": -2.0,
    }  # fmt: skip
    with Board(tmp_path, 0) as board:
        board.row(row)

    assert read(tmp_path) == {
        "time/seconds": {4: 1.5},
        "loss/train": {4: 0.25},
        "r2/mean": {4: 0.5},
        "speed/tokens_per_s": {4: 1000.0},
        "time/seconds_left": {4: 2.0},
        "memory/memory_mb": {4: 300.0},
        "r2/lab/a/hand/x": {4: 0.75},
        "r2/lab/a/hand/y": {4: -2.0},
    }


def test_what_is_no_number_is_left_out(tmp_path):
    with Board(tmp_path, 0) as board:
        board.row({"step": 1, "loss": math.nan, "mean r2": math.inf, "seconds": 1.0})
        board.row({"step": 2, "loss": 0.5, "mean r2": -math.inf, "seconds": 2.0})

    assert read(tmp_path) == {"time/seconds": {1: 1.0, 2: 2.0}, "loss/train": {2: 0.5}}


@pytest.mark.parametrize("from_step", [0, 1, 4, 7, 10])
def test_a_run_that_goes_on_leaves_no_point_of_later_steps_from_before(tmp_path, from_step):
    write(tmp_path, range(1, 11), loss=1.0)
    write(tmp_path, range(from_step + 1, 13, 2), from_step, loss=2.0)
    kept = dict.fromkeys(range(1, from_step + 1), 1.0)

    assert read(tmp_path)["loss/train"] == {
        **kept, **dict.fromkeys(range(from_step + 1, 13, 2), 2.0)
    }  # fmt: skip


def test_many_interruptions_within_a_second_stay_in_order(tmp_path):
    for at in range(0, 30, 3):
        write(tmp_path, range(at + 1, at + 6), at, loss=float(at))

    expected = {step: float((step - 1) // 3 * 3) for step in range(1, 33)}
    assert read(tmp_path)["loss/train"] == {**expected, 31: 27.0, 32: 27.0}


def test_a_clock_that_was_set_back_changes_no_order(tmp_path, monkeypatch):
    write(tmp_path, range(1, 5), loss=1.0)
    monkeypatch.setattr("time.time", lambda: 1e9)
    write(tmp_path, range(3, 5), 2, loss=2.0)

    assert read(tmp_path)["loss/train"] == {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}


def test_a_killed_run_loses_no_row_but_the_one_that_it_wrote(tmp_path):
    """Rows lie on the disk before the file is closed, and half of one disturbs nothing."""
    board = Board(tmp_path, 0)
    board.row({"step": 1, "loss": 0.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    before = path.read_bytes()
    board.row({"step": 2, "loss": 0.25})
    after = path.read_bytes()
    board.close()
    path.write_bytes(after[: (len(before) + len(after)) // 2])
    write(tmp_path, range(2, 4), 1, loss=0.125)

    assert read(tmp_path)["loss/train"] == {1: 0.5, 2: 0.125, 3: 0.125}


def test_without_the_package_the_sentence_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)

    with pytest.raises(ConfigError, match=r"pip install 'neural-spikedata\[tensorboard\]'") as one:
        Board(tmp_path, 0)
    sentence(one)
    assert list(tmp_path.iterdir()) == []
