from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from spikedata.checks import run_checks
from spikedata.errors import SpikedataError
from spikedata.splits import leakage
from spikedata.testing.layouts import layouts, write_layout
from tests import golden

LAYOUTS = layouts()
REACH = 1.0  # s: the window of the POYO paper


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> dict:
    """Return the recording of each layout, made once."""
    made: dict = {}

    def get(name: str):
        if name not in made:
            made[name] = golden.harmonized(LAYOUTS[name], tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_of_every_layout_becomes_what_it_became_before(name, recordings):
    expected = json.loads((golden.FOLDER / f"{name}.json").read_text(encoding="utf-8"))

    assert golden.summary(recordings(name)) == expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_check_finds_an_error(name, recordings):
    assert [one for one in run_checks(recordings(name)) if one.severity == "error"] == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_leaks_from_the_chronological_split(name, recordings):
    """No valid or test sample lies within a window's reach of training time."""
    splits = recordings(name).splits
    if "chronological" in splits:
        assert leakage(splits["chronological"], REACH).duration == 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_chronological_split_is_causal(name, recordings):
    table = recordings(name).splits.get("chronological")
    if table is not None:
        names = table.columns["split"]
        ends = [table.where(names == one) for one in ("train", "valid", "test")]
        ends = [one for one in ends if len(one)]
        assert all(a.end.max() < b.start.min() for a, b in pairwise(ends))


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_seed_is_another_session(name, tmp_path, recordings):
    layout = LAYOUTS[name]
    other = write_layout(name, tmp_path, seed=1)
    recording = golden.harmonize(other, *layout.stated())

    assert not np.array_equal(recording.spike_time, recordings(name).spike_time)


def test_every_golden_summary_has_its_layout():
    assert {path.stem for path in golden.FOLDER.glob("*.json")} == set(LAYOUTS)


def test_an_unknown_layout_is_refused_with_a_hint(tmp_path):
    with pytest.raises(SpikedataError, match="No layout is called"):
        write_layout("000688", tmp_path)
