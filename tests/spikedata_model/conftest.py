from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spikedata.store import Store
from spikedata_model.train import train
from tests.spikedata_model.builders import make_config, make_recording, make_store


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep to one thread: its sums are the same each time, and two would fight over the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", name="finished")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store of two recordings and a finished run on both."""
    folder = tmp_path_factory.mktemp("finished")
    store = make_store(
        folder / "store", make_recording("lab/a"), make_recording("lab/b", seed=1, n_units=3)
    )
    train(store, folder / "run", make_config())
    return folder


@pytest.fixture(name="store")
def _store(finished: Path, tmp_path: Path) -> Store:
    """Return a store of two recordings, to be changed at will."""
    return Store(shutil.copytree(finished / "store", tmp_path / "store"))


@pytest.fixture(name="run")
def _run(finished: Path, tmp_path: Path) -> Path:
    """Return a finished run on both recordings of the store, to be damaged at will."""
    return shutil.copytree(finished / "run", tmp_path / "run")
