from __future__ import annotations

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


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Store:
    return make_store(
        tmp_path / "store", make_recording("lab/a"), make_recording("lab/b", seed=1, n_units=3)
    )


@pytest.fixture(name="run")
def _run(store: Store, tmp_path: Path) -> Path:
    """Return a finished run on both recordings of the store."""
    train(store, tmp_path / "run", make_config())
    return tmp_path / "run"
