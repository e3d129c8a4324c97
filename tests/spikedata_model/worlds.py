"""A small suite with its manifest and its store, all made up, and decoders to run on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tomli_w

from spikedata.manifest import load_manifest
from spikedata.recording import Recording
from spikedata.store import Store
from spikedata.testing import make_recording
from spikedata_model.leaderboard.decoders import Choice
from spikedata_model.leaderboard.protocol import Rules, Segment, Session
from spikedata_model.leaderboard.suite import Suite, load_suite

SESSIONS = ("one", "two")


def sha_of(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()


def write_manifest(folder: Path, sessions: Sequence[str] = SESSIONS) -> Path:
    """Write a manifest whose files nobody needs: the store is filled by hand."""
    assets = [
        {"path": f"sub/{one}.nwb", "size": 1, "sha256": sha_of(one), "session": one}
        for one in sessions
    ]
    dataset = {
        "id": "lab", "title": "made up", "licence": "CC0-1.0", "citation": "nobody",
        "source": {"kind": "file", "root": "."}, "assets": assets,
        "harmonize": {"targets": ["velocity"]},
    }  # fmt: skip
    content = {"name": "made-up", "title": "made up", "datasets": [dataset]}
    path = folder / "made-up.toml"
    path.write_text(tomli_w.dumps(content))
    return path


def suite_content(sessions: Sequence[str] = SESSIONS, **changes: object) -> dict:
    """Return the fields of a suite file; `changes` go to the top level, `group` to the group."""
    group = {
        "name": "made-up", "manifest": "made-up.toml", "target": "velocity", "trials": "trials",
        "recordings": {f"lab/{one}": f"sha256:{sha_of(one)}" for one in sessions},
        "split": {"kind": "scheme", "name": "chronological"},
        **changes.pop("group", {}),  # type: ignore[dict-item]
    }  # fmt: skip
    return {
        "name": "made-up", "title": "made up", "description": "made up", "seeds": [0, 1],
        "groups": [group], **changes,
    }  # fmt: skip


def write_suite(folder: Path, sessions: Sequence[str] = SESSIONS, **changes: object) -> Suite:
    path = folder / "suite.toml"
    path.write_text(tomli_w.dumps(suite_content(sessions, **changes)))
    return load_suite(path)


def make_session(session: str, seed: int, duration: float = 60.0, units: int = 12) -> Recording:
    made = make_recording(
        seed, dataset="lab", session=session, duration=duration, units=units, start=100.0 * seed
    )
    heldout = np.arange(units) % 4 == 3
    return replace(made, units={**made.units, "heldout": heldout})


def fill_store(folder: Path, recordings: Sequence[Recording]) -> Store:
    """Write recordings with the provenance that ingesting the manifest would give them."""
    (dataset,) = load_manifest(folder / "made-up.toml").datasets
    store = Store(folder / "store", create=True)
    for one in recordings:
        session = one.recording_id.partition("/")[2]
        asset = next(asset for asset in dataset.assets if asset.session == session)
        store.write(one, {
            "asset": asset.model_dump(mode="json"),
            "harmonize": dataset.harmonize.model_dump(mode="json"),
        })  # fmt: skip
    return store


def make_world(folder: Path, **changes: object) -> tuple[Suite, Store]:
    """Return a suite of two sessions and the store that it is of."""
    write_manifest(folder)
    store = fill_store(folder, [make_session(one, row) for row, one in enumerate(SESSIONS)])
    return write_suite(folder, **changes), store


# ------------------------------------------------------------------ decoders


@dataclass
class Counting:
    """Least squares from the spike counts of the last half second: causal, and quick."""

    history = 0.5

    def fit(self, sessions: Sequence[Session], rules: Rules) -> None:
        self.maps = {}
        for one in sessions:
            x = np.concatenate([self.counts(part, len(one.unit_ids)) for part in one.train])
            y = np.concatenate([part.labels for part in one.train])
            width = x.shape[1]
            self.maps[one.recording_id] = np.linalg.solve(x.T @ x + np.eye(width), x.T @ y)

    def counts(self, part: Segment, units: int) -> np.ndarray:
        found = np.ones((len(part.time), units + 1))
        for unit in range(units):
            own = part.spike_time[part.spike_unit == unit]
            lo, hi = np.searchsorted(own, [part.time - self.history, part.time])
            found[:, unit] = hi - lo
        return found

    def predict(self, segment: Segment) -> np.ndarray:
        weights = self.maps[segment.recording_id]
        return self.counts(segment, len(weights) - 1) @ weights


def choice_of(make, name: str = "counting", identity: str = "") -> Choice:
    return Choice(name, "third party", identity or name, make)
