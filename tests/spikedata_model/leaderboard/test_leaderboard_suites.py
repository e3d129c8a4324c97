"""The shipped suites: pinned as the manifests pin, and honest about where they depart."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spikedata.intervals import IntervalSet
from spikedata.manifest import load_manifest
from spikedata.recording import Recording, Series
from spikedata_model.errors import LeakError, SuiteError
from spikedata_model.leaderboard.division import divide
from spikedata_model.leaderboard.suite import list_suites, load_suite

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "benchmarks" / "build_suites.py"
SUITES = {name: load_suite(name) for name in list_suites()}
GROUPS = [(suite, group) for suite in SUITES.values() for group in suite.groups]

each_suite = pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
each_group = pytest.mark.parametrize(
    ("suite", "group"), GROUPS, ids=[f"{suite.name}-{group.name}" for suite, group in GROUPS]
)


def build_module():
    spec = importlib.util.spec_from_file_location("build_suites", BUILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assets_of(manifest: str):
    return {data.recording_id(asset): asset for data, asset in load_manifest(manifest).items()}


def test_the_suites_that_were_promised_are_there():
    assert set(SUITES) == {
        "poyo-table2", "monkey-t-fewshot", "perich-causal", "nlb-velocity", "nlb-cobps",
        "falcon-m1", "falcon-m2", "falcon-h1", "neurobench-reaching", "sample", "stevenson2011",
    }  # fmt: skip


# ------------------------------------------------------------------ pins


def test_the_pins_of_all_suites_are_those_of_the_manifests():
    done = subprocess.run(
        [sys.executable, str(BUILD), "--check"], capture_output=True, text=True, timeout=120
    )

    assert (done.returncode, done.stdout) == (0, "")


@each_group
def test_every_recording_is_pinned_by_a_hash_of_its_file(suite, group):
    """Says it once more, without the script."""
    assets = assets_of(group.manifest)
    for name, pin in group.recordings.items():
        kind, _, value = pin.partition(":")
        assert getattr(assets[name], kind) == value


@pytest.mark.parametrize("damage", ["another hash", "a recording less", "a recording more"])
def test_a_pin_that_differs_is_found_and_put_right(damage):
    """And nothing but the pins is touched."""
    built = build_module().built
    text = list_suites()["monkey-t-fewshot"].read_text(encoding="utf-8")
    line = re.search(r'^"perich.+\n', text, re.MULTILINE)
    assert line is not None
    changed = {
        "another hash": text.replace(line[0][-10:], 'beefbeef"\n', 1),
        "a recording less": text.replace(line[0], "", 1),
        "a recording more": text.replace(line[0], line[0] + f'"lab/x" = "sha256:{"0" * 64}"\n', 1),
    }[damage]

    assert changed != text
    assert built(changed) == text
    assert built(text) == text


@pytest.mark.parametrize(
    "rule", ["role=nobody", "colour=red", "session=*"], ids=["no asset", "no field", "no pattern"]
)
def test_a_rule_that_chooses_nothing_is_refused(rule):
    text = list_suites()["sample"].read_text(encoding="utf-8")

    with pytest.raises(SystemExit):
        build_module().built(text.replace("# pins: task=foraging", f"# pins: {rule}"))


def test_the_check_writes_nothing_and_building_writes_what_it_said(tmp_path, monkeypatch, capsys):
    module = build_module()
    path = tmp_path / "sample.toml"
    good = list_suites()["sample"].read_text(encoding="utf-8")
    path.write_text(good.replace("sha256:a", "sha256:b"), encoding="utf-8")
    damaged = path.read_text(encoding="utf-8")
    monkeypatch.setattr(module, "list_suites", lambda: {"sample": path})

    assert damaged != good
    assert module.main(["--check"]) == 1
    assert path.read_text(encoding="utf-8") == damaged
    assert "sample.toml" in capsys.readouterr().out
    assert module.main([]) == 0
    assert path.read_text(encoding="utf-8") == good
    assert module.main(["--check"]) == 0


# ------------------------------------------------------------------ which recordings


def test_what_is_scored_on_held_out_days_is_in_no_papers_training_list():
    trained = {
        name for name, asset in assets_of("poyo-mp-paper").items() if asset.role == "train"
    } | {name for name, asset in assets_of("poyo-1").items() if asset.role == "train"}

    assert trained.isdisjoint(SUITES["poyo-table2"].recordings)
    assert trained.isdisjoint(SUITES["monkey-t-fewshot"].recordings)
    assert trained.isdisjoint(SUITES["perich-causal"].recordings)


def test_the_six_files_of_neurobench_are_in_poyo_1s_training_list_as_the_suite_says():
    trained = {name for name, asset in assets_of("poyo-1").items() if asset.role == "train"}

    assert set(SUITES["neurobench-reaching"].recordings) <= trained
    assert "POYO-1's training list" in SUITES["neurobench-reaching"].description


@pytest.mark.parametrize("name", ["falcon-m1", "falcon-m2", "falcon-h1"])
def test_falcons_minival_is_not_scored_and_counts_as_seen(name):
    """A minival file repeats a part of a calibration file."""
    suite, assets = SUITES[name], assets_of(name)
    minival = {one for one, asset in assets.items() if asset.role == "heldout"}
    aliases = {alias for group in suite.groups for alias in group.aliases}

    assert minival
    assert minival.isdisjoint(suite.recordings)
    assert minival <= aliases
    assert set(suite.recordings) | minival == set(assets)
    assert {group.name: group.transfer for group in suite.groups} == {
        "held-in": False,
        "held-out": True,
    }
    assert suite.fit == "together"
    assert suite.causal
    assert suite.step == 0.02


@each_group
def test_an_alias_is_the_name_of_one_group_alone(suite, group):
    """Else a refusal would name the wrong recordings."""
    others = {
        name
        for other in suite.groups
        if other.name != group.name
        for name in (*other.aliases, *other.recordings)
    }

    assert others.isdisjoint(group.aliases)


def test_the_five_columns_of_table_2_and_the_four_days():
    suite = SUITES["poyo-table2"]

    assert {group.name: len(group.recordings) for group in suite.groups} == {
        "C-CO": 4, "T-CO": 6, "T-RT": 6, "NLB-Maze": 1, "NLB-RTT": 1,
    }  # fmt: skip
    assert any("20161013" in name for name in suite.groups[0].recordings)


# ------------------------------------------------------------------ what is said


@each_suite
def test_a_suite_is_called_as_its_file_and_says_what_it_is_and_where_from(suite):
    assert list_suites()[suite.name].stem == suite.name
    assert suite.title
    assert len(suite.description) > 200
    assert suite.references
    assert "\n" not in suite.description.strip()
    assert "  " not in suite.description


@each_suite
def test_a_gap_below_the_context_says_why_and_is_refused_without(suite, tmp_path):
    text = list_suites()[suite.name].read_text(encoding="utf-8")
    silent = re.sub(r"^gap_reason = .*\n", "", text, flags=re.MULTILINE)
    smaller = [group for group in suite.groups if suite.reach_of(group) < suite.context]
    path = tmp_path / "suite.toml"
    path.write_text(silent, encoding="utf-8")

    if smaller:
        with pytest.raises(SuiteError, match="gap_reason"):
            load_suite(path)
    else:
        assert silent == text


def test_a_gap_of_one_group_is_that_of_no_other():
    """NLB's trials touch; that Perich and Miller's keep a second away is still checked."""
    suite = SUITES["poyo-table2"]
    made = IntervalSet.sorted(
        np.array([0.0, 10.5]), np.array([10.0, 20.0]), {"split": np.array(["train", "test"])}
    )
    recording = Recording(
        "made/up", np.empty(0), np.empty(0, np.int32), {"unit_id": np.array(["made/up/0"])},
        IntervalSet.single(0.0, 20.0), {}, {}, {"paper": made}, (), {},
    )  # fmt: skip
    groups = {group.name: group for group in suite.groups}

    assert list(divide(recording, groups["NLB-Maze"], suite)["test"]) == [(10.5, 20.0)]
    with pytest.raises(LeakError, match="within 1 s of training time"):
        divide(recording, groups["T-CO"], suite)


@pytest.mark.parametrize("name", ["nlb-velocity", "nlb-cobps", "poyo-table2"])
def test_what_is_no_official_score_of_the_benchmark_says_so(name):
    assert re.search(
        r"no metric of the benchmark|no metric of the Neural|Scored locally",
        SUITES[name].description,
    )


# ------------------------------------------------------------------ neurobench's rule


@pytest.mark.parametrize("count", [4, 5, 6, 7, 53, 54, 55, 200])
def test_reaches_are_divided_as_neurobench_divides_them(count):
    """Half of them, rounded down, then half of the others, rounded down (``split_data``)."""
    suite = SUITES["neurobench-reaching"]
    edge = np.arange(count + 1) * 5.0
    recording = Recording(
        "made/up", np.empty(0), np.empty(0, np.int32), {"unit_id": np.array(["made/up/0"])},
        IntervalSet.single(0.0, float(edge[-1])),
        {"cursor_velocity": Series(np.zeros((count * 10, 2)), "mm/s", ("x", "y"), start=0.0,
                                   rate=2.0)},
        {"reaches": IntervalSet(edge[:-1], edge[1:])}, {}, ("cursor_velocity",), {},
    )  # fmt: skip
    train = count // 2
    valid = (count - train) // 2

    parts = divide(recording, suite.groups[0], suite)

    reach = suite.reach
    assert list(parts["train"]) == [(0.0, edge[train] - reach)]
    assert list(parts["valid"]) == [(edge[train], edge[train + valid] - reach)]
    assert list(parts["test"]) == [(edge[train + valid], edge[count])]


def test_a_copy_of_a_suite_beside_its_manifest_is_the_same_protocol(tmp_path):
    path = tmp_path / "other-name.toml"
    shutil.copy(list_suites()["sample"], path)

    assert load_suite(path).sha256 == SUITES["sample"].sha256
