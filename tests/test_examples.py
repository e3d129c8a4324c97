"""The examples run as they are, and decode."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from spikedata.store import Store
from spikedata.testing import make_recording
from tests.spikedata_model.leaderboard.sessions import (
    hidden,
    make_segments,
    make_session,
    r2,
    rules,
)

EVERY = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))
ENTRANT = "leaderboard_decoder"  # a class, not a program
EXAMPLES = [path for path in EVERY if path.stem != ENTRANT]
NAMES = [path.stem for path in EXAMPLES]


def load(name: str) -> ModuleType:
    (path,) = (path for path in EVERY if path.stem == name)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """Return a store of two short recordings, with its catalogue."""
    store = Store(tmp_path / "store", create=True)
    for seed in (0, 1):
        store.write(make_recording(seed, units=6, duration=40), {})
    store.outlines(list(store))
    return store.path


def run(path: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, path, *arguments], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_an_example_decodes_far_better_than_the_mean(path, tmp_path):
    """The recordings are tuned linearly, so that a decoder that works at all reads them well."""
    (score,) = re.findall(r"^R2 (-?\d\.\d\d), the mean has 0$", run(path, tmp_path), re.MULTILINE)

    assert 0.7 < float(score) < 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_an_example_reads_a_store_that_is_given_and_leaves_it_alone(path, folder):
    before = {one: one.stat().st_mtime_ns for one in folder.rglob("*")}

    assert "R2 " in run(path, folder.parent, str(folder))
    assert {one: one.stat().st_mtime_ns for one in folder.rglob("*")} == before


@pytest.mark.parametrize("path", EVERY, ids=[path.stem for path in EVERY])
def test_an_example_can_be_read_at_a_glance(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


def test_the_bare_loop_ends_with_the_same_weights_however_often_it_was_stopped(folder, tmp_path):
    loop = load("bare_loop")
    whole = loop.train(Store(folder), tmp_path / "whole", n_steps=12)
    for n_steps in (1, 4, 7):
        parts = loop.train(Store(folder), tmp_path / "parts", n_steps=n_steps)

    assert torch.equal(whole.weight, parts.weight)
    assert torch.equal(whole.bias, parts.bias)


@pytest.mark.filterwarnings("ignore")  # of Lightning, about itself
def test_lightning_draws_new_windows_in_every_epoch(folder, monkeypatch):
    import lightning

    example = load("lightning_module")
    asked = []

    def loader(sampler, epoch, **options):
        asked.append((epoch, sampler.rank, sampler.world_size))
        return real(sampler, epoch, **options)

    real = example.loader
    monkeypatch.setattr(example, "loader", loader)
    trainer = lightning.Trainer(
        max_epochs=3, reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False,
        accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(example.Decoder(Store(folder)))

    assert asked == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]


def test_the_decoder_of_a_third_party_has_30_lines_and_knows_numpy_alone():
    (path,) = (path for path in EVERY if path.stem == ENTRANT)
    lines = path.read_text(encoding="utf-8").splitlines()
    code = [one for one in lines if one.strip() and not one.startswith('"""')]

    assert len(code) <= 30
    assert [one for one in lines if "import" in one] == ["import numpy as np"]


@pytest.mark.parametrize("causal", [False, True])
def test_the_decoder_of_a_third_party_decodes_and_looks_ahead_where_it_may_alone(causal):
    train, valid, test = make_segments(duration=30.0)
    decoder = load(ENTRANT).LaggedRidge()
    other = replace(valid, recording_id="lab/two")
    decoder.fit([make_session((train,), (valid,)), make_session((other,))], rules(causal=causal))
    found = decoder.predict(hidden(test))
    early = replace(test, spike_time=test.spike_time[:-200], spike_unit=test.spike_unit[:-200])
    same = (decoder.predict(hidden(early)) == found).all(axis=1)
    before = test.time <= test.spike_time[-200]

    assert r2(test.labels, found) > 0.7
    assert same[before].all() == causal
    assert not same.all()
