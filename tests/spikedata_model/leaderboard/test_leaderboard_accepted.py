"""The accepted results in the repository are of the suites as they are, under their own names."""

from __future__ import annotations

from pathlib import Path

import pytest

from spikedata_model.leaderboard.suite import load_suite
from spikedata_model.leaderboard.tables import accepted_folder, rank, read_result, slug

FOLDER = Path(__file__).resolve().parents[3] / "leaderboard"
PATHS = sorted(FOLDER.glob("*/*.json"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_result_is_whole_and_of_the_suite_as_it_is(path):
    """Where this fails a suite was changed: run it again, and add what that finds."""
    result, suite = read_result(path), load_suite(path.parent.name)

    assert result.suite_sha256 == suite.sha256
    assert result.complete
    assert {name: one.source for name, one in result.data.items()} == {
        name: pin for group in suite.groups for name, pin in group.recordings.items()
    }
    assert path.stem == slug(result.decoder)
    assert result.commit
    assert "dirty" not in result.commit


def test_the_suite_that_runs_everywhere_has_every_baseline_and_poyo():
    results = [read_result(path) for path in PATHS]
    names = {one.decoder for one in rank(results, load_suite("sample"))}

    assert {"wiener", "ridge", "kalman", "mlp", "gru", "poyo-compact"} <= names


def test_they_are_shown_where_there_are_no_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert accepted_folder() == FOLDER

    (tmp_path / "leaderboard").mkdir()
    assert accepted_folder() == Path("leaderboard")
