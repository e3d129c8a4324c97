"""Sessions whose target is known to be readable, for tests of entrants."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from spikedata.intervals import IntervalSet
from spikedata_model.leaderboard.protocol import Rules, Segment, Session

NAME = "lab/one"


def smooth_target(rng: np.random.Generator, duration: float, channels: int) -> np.ndarray:
    """Return a target at 1 kHz, (N, C), of some sines between 0.1 and 0.8 Hz, with an sd of 1."""
    time = np.arange(round(duration * 1000)) / 1000
    parts = 6
    phase = rng.uniform(0, 2 * np.pi, (parts, channels))
    frequency = rng.uniform(0.1, 0.8, (parts, channels))
    waves = np.sin(2 * np.pi * frequency * time[:, None, None] + phase)
    return waves.sum(axis=1) / np.sqrt(parts / 2)


def make_segments(
    seed: int = 0,
    *,
    units: int = 20,
    channels: int = 2,
    duration: float = 40.0,
    rate: float = 50.0,
    offset: float = 100.0,
    cuts: tuple[float, ...] = (0.7, 0.8),
) -> tuple[Segment, ...]:
    """Return consecutive stretches of a recording whose units fire linearly with the target.

    A unit fires ``30 (1 + 0.4 w . y)`` spikes/s, no fewer than 0, 50 ms ahead of the target y.
    """
    rng = np.random.default_rng([seed, 0xB1])
    target = smooth_target(rng, duration, channels)
    weights = rng.normal(size=(channels, units)) / np.sqrt(channels)
    ahead = np.roll(target, -50, axis=0)
    chance = np.clip(30 * (1 + 0.4 * ahead @ weights), 0, None) / 1000
    row, unit = np.nonzero(rng.random((len(target), units)) < chance)
    spikes = offset + row / 1000 + rng.random(len(row)) / 1000
    order = np.argsort(spikes, kind="stable")
    spikes, unit = spikes[order], unit[order].astype(np.int32)
    time = np.arange(0, duration, 1 / rate)
    values = 7 + 3 * target[np.round(time * 1000).astype(int).clip(max=len(target) - 1)]
    bounds = [0.0, *(duration * cut for cut in cuts), duration]
    return tuple(
        cut(Segment(NAME, offset, offset + duration, spikes, unit, offset + time, values),
            offset + first, offset + last)
        for first, last in pairwise(bounds)
    )  # fmt: skip


def cut(segment: Segment, start: float, end: float) -> Segment:
    """Return a stretch of a segment."""
    spikes = (segment.spike_time >= start) & (segment.spike_time < end)
    rows = (segment.time >= start) & (segment.time < end)
    return replace(
        segment, start=start, end=end, spike_time=segment.spike_time[spikes],
        spike_unit=segment.spike_unit[spikes], time=segment.time[rows],
        values=None if segment.values is None else segment.values[rows],
    )  # fmt: skip


def make_session(
    train: tuple[Segment, ...],
    valid: tuple[Segment, ...] = (),
    *,
    units: int = 20,
    phases: dict[str, IntervalSet] | None = None,
    evaluate_on: str | None = None,
) -> Session:
    channels = train[0].labels.shape[1]
    return Session(
        train[0].recording_id, "g", tuple(f"{NAME}/{one}" for one in range(units)), "hand",
        tuple("abcdefghijklmnopqrstuvwxyz"[:channels]), "cm", train, valid, phases or {},
        evaluate_on,
    )  # fmt: skip


def rules(
    *,
    causal: bool = False,
    task: str = "behaviour",
    step: float | None = None,
    seed: int = 0,
    context: float = 1.0,
) -> Rules:
    step = 0.02 if causal and step is None else step
    return Rules(task, causal, step, context, seed, Path("unused"))  # pyright: ignore


def hidden(segment: Segment) -> Segment:
    """Return a segment to predict."""
    return replace(segment, values=None)


def r2(truth: np.ndarray, found: np.ndarray) -> float:
    """Return the mean R² over channels."""
    return float(np.mean(1 - ((truth - found) ** 2).mean(axis=0) / truth.var(axis=0)))
