"""Small recordings whose behaviour drives their spikes linearly, and models to read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata.store import Store
from spikedata_model.config import Config, ModelConfig

THIRDS = ((0.0, 0.6, "train"), (0.6, 0.75, "valid"), (0.75, 1.0, "test"))
TINY = ModelConfig(
    context=1.0, latent_step=0.25, latents_per_step=2, dim=16, depth=1, dim_head=8, cross_heads=2,
    self_heads=2, ffn_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0, t_min=0.1,
)  # fmt: skip


def make_splits(*rows: tuple[float, float, str]) -> IntervalSet:
    start, end, names = zip(*rows, strict=True)
    return IntervalSet.sorted(np.array(start), np.array(end), {"split": np.array(names)})


def _hand(time: np.ndarray, seed: int) -> np.ndarray:
    """Return two smooth channels, the same function of time for the same seed."""
    rng = np.random.default_rng([seed, 0])
    frequency, phase = rng.uniform(0.2, 0.9, (2, 4)), rng.uniform(0, 2 * np.pi, (2, 4))
    angle = 2 * np.pi * frequency * time[:, None, None] + phase
    return np.sin(angle).sum(axis=-1) / np.sqrt(2)


def make_recording(
    recording_id: str = "lab/a",
    *,
    seed: int = 0,
    n_units: int = 4,
    duration: float = 20.0,
    start: float = 0.0,
    rate: float = 8.0,
    sample_rate: float = 20.0,
    splits: IntervalSet | None = None,
    targets: Sequence[str] = ("hand",),
) -> Recording:
    """Return a recording whose rates are linear in ``hand``; its last unit never spikes.

    ``hand`` lies on a grid of times; ``heading``, given as (cos, sin), has explicit ones.
    """
    rng = np.random.default_rng([seed, 1])
    fine = np.arange(round(duration * 1000)) / 1000
    gain = rng.normal(0, 1, (2, n_units))
    gain[:, -1] = 0
    expected = rate * np.maximum(0, (np.arange(n_units) < n_units - 1) + _hand(fine, seed) @ gain)
    row, unit = np.nonzero(rng.random(expected.shape) < expected / 1000)
    grid = np.arange(round(duration * sample_rate)) / sample_rate
    own_time = np.sort(rng.uniform(0, duration, int(duration * 7)))
    angle = 0.7 * own_time
    if splits is None:
        splits = make_splits(
            *((start + a * duration, start + b * duration, s) for a, b, s in THIRDS)
        )
    return Recording(
        recording_id=recording_id,
        spike_time=start + fine[row] + rng.uniform(0, 1e-4),
        spike_unit=unit.astype(np.int32),
        units={"unit_id": np.array([f"{recording_id}/u{n}" for n in range(n_units)])},
        domain=IntervalSet.single(start, start + duration),
        series={
            "hand": Series(
                _hand(grid, seed).astype(np.float32) * 30 + 5, "mm/s", ("x", "y"),
                start=start, rate=sample_rate,
            ),
            "heading": Series(
                np.stack([np.cos(angle), np.sin(angle)], axis=1), "", ("cos", "sin"),
                time=start + own_time,
            ),
        },
        splits={"time": splits},
        targets=tuple(targets),
        about={"task": "drawing circles"},
        dropped={"silent": 0},
    )  # fmt: skip


def with_values(recording: Recording, target: str, values: np.ndarray) -> Recording:
    """Return the recording with other values of one series."""
    series = {**recording.series, target: replace(recording.series[target], values=values)}
    return replace(recording, series=series)


def without_spikes(recording: Recording, outside: IntervalSet) -> Recording:
    """Return the recording with the spikes inside the intervals only."""
    kept = outside.contains(recording.spike_time)
    return replace(
        recording, spike_time=recording.spike_time[kept], spike_unit=recording.spike_unit[kept]
    )


def make_store(path: Path, *recordings: Recording) -> Store:
    store = Store(path, create=True)
    for recording in recordings:
        store.write(recording, {"made": "by a test"})
    return store


def make_config(model: ModelConfig = TINY, **train: object) -> Config:
    settings = {"steps": 9, "batch_size": 3, "evaluate_every": 4, "checkpoint_every": 3}
    return Config.model_validate(
        {"model": model.model_dump(), "train": {**settings, "threads": 1, **train}}
    )
