from __future__ import annotations

import json
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from spikedata.cli import app
from spikedata.errors import HarmonizeError
from spikedata.harmonize import harmonize
from spikedata.inspection import inspect_file, proposed_manifest
from spikedata.manifest import Manifest, load_manifest
from spikedata.testing import make_recording, write_nwb
from spikedata.testing.layouts import layouts, write_layout

SAMPLE = Path(__file__).parents[2] / "manifests" / "sample"


@pytest.fixture
def tiny(tmp_path) -> Path:
    return write_nwb(tmp_path / "tiny.nwb")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def proposed(path: Path) -> dict:
    """Return the harmonize table that is proposed for a file."""
    content = tomllib.loads(proposed_manifest(inspect_file(path)))
    Manifest.model_validate(content)  # it is a whole manifest
    return content["datasets"][0]["harmonize"]


def test_every_series_of_the_file_is_named_as_ours_are(tiny):
    table = {one["name"]: one for one in proposed(tiny)["series"]}

    assert table["hand_position"]["source"] == ["processing/behavior/Position/hand"]
    assert table["hand_velocity"] == {"name": "hand_velocity", "velocity_of": "hand_position"}
    assert set(table) == {"hand_position", "hand_velocity", "speed", "angle", "angle_b"}


def test_the_likeliest_target_and_the_stated_splits_are_proposed(tiny):
    table = proposed(tiny)

    assert table["targets"] == ["hand_velocity"]
    assert table["splits"]["stated"]["values"] == {
        "train": "train", "val": "valid", "test": "test",
    }  # fmt: skip
    assert next(iter(table["splits"])) == "chronological"


def test_defects_are_told_beside_the_series_that_has_them(tiny):
    facts = inspect_file(tiny).facts["processing/behavior/Position/hand"]

    assert (facts.samples, facts.not_finite, facts.repeated, facts.backward) == (200, 1, 1, 1)
    assert facts.sentence() in proposed_manifest(inspect_file(tiny))
    assert "1 times that run backwards" in facts.sentence()


def test_raw_data_is_not_read_and_told(tiny):
    found = inspect_file(tiny)

    assert found.left_out == {"acquisition/raw": "raw data"}
    assert "# left out: acquisition/raw (raw data)" in proposed_manifest(found)


def test_coordinates_in_series_of_their_own_become_columns_of_one():
    table = {one["name"]: one for one in proposed(SAMPLE / "A2929-200711_neurosuite.nwb")["series"]}

    assert table["position"]["columns"] == ["x", "y", "z"]
    assert [one.rpartition("/")[2] for one in table["position"]["source"]] == ["x", "y", "z"]


def test_a_series_without_a_usable_sample_is_left_out(tiny):
    with h5py.File(tiny, "a") as file:
        file["acquisition/angle/data"][:] = np.nan

    found = inspect_file(tiny)

    assert found.left_out["acquisition/angle"] == "no usable sample"
    assert "acquisition/angle" not in found.facts


@pytest.mark.parametrize("name", [name for name in layouts() if "odoherty" not in name])
def test_what_is_proposed_for_a_real_layout_runs_as_it_is(name, tmp_path):
    path = write_layout(name, tmp_path)

    content = tomllib.loads(proposed_manifest(inspect_file(path)))

    manifest = Manifest.model_validate(content)
    ((dataset, asset),) = manifest.items()
    assert asset.path == path.name
    assert harmonize(path, dataset, asset).n_units > 0


def test_a_file_that_is_not_nwb_is_told(tmp_path):
    (tmp_path / "a.nwb").write_bytes(b"no")

    with pytest.raises(HarmonizeError, match="not an HDF5 file"):
        inspect_file(tmp_path / "a.nwb")


# ------------------------------------------------------------------ the commands


def test_the_proposal_can_be_ingested_as_it_is(tiny, tmp_path, capsys):
    result = run("inspect", str(tiny), "--toml")
    (tmp_path / "tiny.toml").write_text(result.stdout, encoding="utf-8")
    args = ["--manifest", str(tmp_path / "tiny.toml"), "--cache", str(tmp_path / "cache")]

    assert run("fetch", *args).exit_code == 0
    assert run("ingest", *args).exit_code == 0
    assert load_manifest(tmp_path / "tiny.toml").name == "tiny"


def test_the_tree_and_what_the_proposal_becomes_are_shown(tiny):
    result = run("inspect", str(tiny))

    assert result.exit_code == 0
    assert "hand  SpatialSeries, float64 200 x 2, cm, timestamps" in result.stdout
    assert "As proposed, it becomes a recording of 6 units" in result.output
    assert "spikes.unsorted: 1" in result.output


def test_a_file_without_units_is_shown_and_the_refusal_told(tmp_path):
    path = write_nwb(tmp_path / "a.nwb", with_units=False)

    result = run("inspect", str(path))

    assert result.exit_code == 0
    assert "As proposed, it is refused: a.nwb: expected one units table" in result.output


def test_inspect_prints_json(tiny):
    found = json.loads(run("inspect", str(tiny), "--json").stdout)

    assert found["problem"] == ""
    assert {one["path"] for one in found["entries"]} >= {"units", "acquisition/raw"}


def test_a_missing_file_is_one_sentence(tmp_path):
    result = run("inspect", str(tmp_path / "none.nwb"))

    assert result.exit_code == 1
    assert "there is no such file" in result.output


def test_check_tells_what_is_broken_and_exits_1(tmp_path):
    from dataclasses import replace

    from spikedata.store import Store

    store = Store(tmp_path / "store", create=True)
    good = make_recording(0, units=5, duration=20.0)
    store.write(good, {})
    broken = replace(good, recording_id="synthetic/s9", targets=("nothing",))
    args = ["--store", str(tmp_path / "store")]
    assert run("check", *args).exit_code == 0

    store.write(broken, {})
    result = run("check", "--json", *args)

    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert {row["recording"] for row in rows} == {"synthetic/s9"}
    assert {row["check"] for row in rows} == {
        "unit_ids_are_stable_and_unique",
        "targets_are_series",
    }
    assert run("check", "synthetic/s0", *args).exit_code == 0


def test_check_tells_of_recordings_that_are_not_there_or_damaged(tmp_path):
    from spikedata.store import Store

    store = Store(tmp_path / "store", create=True)
    store.write(make_recording(0, units=5, duration=20.0), {})
    path = tmp_path / "store" / "synthetic" / "s0" / "spikes.arrow"
    path.write_bytes(path.read_bytes()[:-1])

    result = run("check", "synthetic/s0", "synthetic/s1", "--json", "--store", str(store.path))

    assert result.exit_code == 1
    assert [row["check"] for row in json.loads(result.stdout)] == ["can_be_read", "is_in_the_store"]


def test_the_checks_are_listed_with_what_they_require():
    rows = json.loads(run("check", "--list", "--json").stdout)

    assert {"check": "spike_times_are_sorted", "severity": "error",
            "what": "Require spike times that are finite and never go back."} in rows  # fmt: skip


def test_the_commands_are_in_the_help():
    assert {"inspect", "check"} <= {one.callback.__name__ for one in app.registered_commands}
