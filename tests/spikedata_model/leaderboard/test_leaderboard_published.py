"""Published numbers: of suites and groups that there are, consistent, never taken for ours."""

from __future__ import annotations

import numpy as np
import pytest

from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.published import PATH, load_published
from spikedata_model.leaderboard.suite import list_suites, load_suite

ROWS = load_published()
TEXT = PATH.read_text(encoding="utf-8")
PAGE = "https://poyo-brain.github.io/"


def test_the_suites_of_published_protocols_have_rows_and_the_others_none():
    assert {row.suite for row in ROWS} == set(list_suites()) - {"sample", "stevenson2011"}


def test_r2_and_bits_per_spike_are_at_most_1():
    assert all(-1 < row.value < 1 for row in ROWS)
    assert all(row.sd is None or 0 < row.sd < 0.2 for row in ROWS)


@pytest.mark.parametrize(
    ("other", "groups"),
    [
        ("monkey-t-fewshot", {"T-CO": "T-CO", "T-RT": "T-RT"}),
        ("nlb-velocity", {"mc_maze": "NLB-Maze", "mc_rtt": "NLB-RTT"}),
    ],
)
def test_a_number_of_the_paper_is_the_same_wherever_it_stands(other, groups):
    table = {
        (row.method, row.group): (row.value, row.sd)
        for row in ROWS
        if row.suite == "poyo-table2" and row.address == PAGE and row.recording is None
    }
    again = [row for row in ROWS if row.suite == other and row.address == PAGE]

    assert again
    for row in again:
        assert (row.value, row.sd) == table[row.method, groups[row.group]]


def test_the_mean_of_neurobenchs_files_is_the_mean_that_it_reports():
    mine = [row for row in ROWS if row.suite == "neurobench-reaching" and row.method == "ANN2D"]
    (mean,) = (row.value for row in mine if row.recording is None)
    files = {row.recording: row.value for row in mine if row.recording is not None}

    assert set(files) == set(load_suite("neurobench-reaching").recordings)
    assert np.mean(list(files.values())) == pytest.approx(mean, abs=5e-4)


def test_nothing_of_poyo_itself_is_called_causal_but_in_the_causal_suite():
    for row in ROWS:
        if row.address == PAGE:
            assert row.causality == "not causal"
        assert not (load_suite(row.suite).causal and row.causality == "not causal"), row.method


# ------------------------------------------------------------------ what is refused


def changed(tmp_path, old: str, new: str):
    assert old in TEXT
    path = tmp_path / "published.toml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('suite = "poyo-table2"', 'suite = "poyo-table3"', "no suite is called 'poyo-table3'"),
        ("C-CO = 0.8860", "C-C0 = 0.8860, C-CO = 0.8860", "no group 'C-C0'"),
        ("t_20130819_center", "t_20130818_center", "no recording"),
        ('method = "MLP"', 'method = "GRU"', "given twice"),
        ("0.8860", '"high"', "valid number"),
        ("sd = { C-CO", "sd = { C-RT = 0.1, C-CO", "C-RT"),
        ('address = "https', 'address = "file', "address"),
        ('causality = "not causal"', 'causality = "maybe"', "causality"),
        ("format_version = 1", "format_version = 2", "format_version"),
        ('metric = "R²"', 'metrics = "R²"', "metrics"),
        ("[[tables]]", "[[tables]", "TOML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_place(tmp_path, old, new, message):
    with pytest.raises(SuiteError, match=message):
        load_published(changed(tmp_path, old, new))


def test_all_problems_are_named_at_once(tmp_path):
    path = changed(tmp_path, "NLB-Maze = 0.9062, NLB-RTT", "NLB-X = 0.9062, NLB-Y")

    with pytest.raises(SuiteError, match=r"(?s)'NLB-X'.*'NLB-Y'"):
        load_published(path)


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(SuiteError, match="cannot be read"):
        load_published(tmp_path / "nowhere.toml")
