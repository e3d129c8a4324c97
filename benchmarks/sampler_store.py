"""Make recordings of the kind that DANDI 000688 holds, in our store and as arrays.

By its dataset card 000688 has 111 recordings, 10,410 units, 111.39 million spikes and 43.0 h: 94
units, 1,394 s and 720 spikes a second each. The cursor is sampled at 100 Hz with explicit times. A
recording is a pure function of its number and the scale, so that `torch_brain_sampler.py`, which
may run where spikedata is not, makes the very same ones.

    python benchmarks/sampler_store.py --folder FOLDER --recordings 1000
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

DATASET = "reaching"
UNITS, SECONDS, SPIKE_RATE, SERIES_RATE = 94, 1394.0, 720.0, 100.0
TRIAL = 4.0  # s between the starts of trials


@dataclass(frozen=True)
class Reaching:
    """The arrays of one recording: times in seconds, spikes sorted by time.

    ``spike_time`` (N,) float64, ``spike_unit`` (N,) int32, ``cursor_time`` (T,) float64,
    ``position`` and ``velocity`` (T, 2) float32, ``trials`` columns of shape (K,), ``splits`` for
    each scheme and split the start and end of its intervals.
    """

    name: str
    duration: float
    units: int
    spike_time: np.ndarray
    spike_unit: np.ndarray
    cursor_time: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    trials: dict[str, np.ndarray]
    splits: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]


def make_reaching(index: int, scale: float = 1.0) -> Reaching:
    """Return recording `index`; `scale` shortens all of them."""
    rng = np.random.default_rng([index, 0x688])
    duration = SECONDS * scale
    units = UNITS + index % 21 - 10  # sessions differ in their units
    count = round(duration * SPIKE_RATE)
    gaps = rng.standard_exponential(count + 1)
    time = np.cumsum(gaps, out=gaps)[:-1]
    time *= duration / gaps[-1]
    time = np.minimum(np.round(time * 30_000), round(duration * 30_000) - 1) / 30_000
    share = rng.lognormal(0.0, 1.0, units)
    wheel = np.searchsorted(np.cumsum(share / share.sum()), (np.arange(65536) + 0.5) / 65536)
    unit = np.minimum(wheel, units - 1).astype(np.int32)[rng.integers(0, 65536, count, np.uint16)]
    cursor_time = np.arange(round(duration * SERIES_RATE)) / SERIES_RATE
    rate, phase = rng.uniform(0.3, 4.0, (3, 2)), rng.uniform(0, 2 * np.pi, (3, 2))
    angle = cursor_time[:, None, None] * rate + phase
    start = np.arange(0.0, duration - TRIAL, TRIAL)
    trials = {
        "start": start,
        "end": start + TRIAL,
        "target_id": rng.integers(0, 8, len(start)),
        "go_cue_time": start + rng.uniform(0.5, 1.5, len(start)),
        "result": rng.choice(np.array(["R", "F", "I"]), len(start), p=(0.9, 0.06, 0.04)),
    }
    return Reaching(
        f"s{index:04d}",
        duration,
        units,
        time,
        unit,
        cursor_time,
        np.cos(angle).sum(1).astype(np.float32),
        (-rate * np.sin(angle)).sum(1).astype(np.float32),
        trials,
        {"chronological": _in_order(duration), "trials": _by_trial(rng, start, duration)},
    )


def _in_order(duration: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return 0.7, 0.1 and 0.2 of the time, a second apart."""
    bounds = {"train": (0.0, 0.7), "valid": (0.7, 0.8), "test": (0.8, 1.0)}
    return {
        name: (np.array([first * duration + (first > 0)]), np.array([last * duration]))
        for name, (first, last) in bounds.items()
    }


def _by_trial(
    rng: np.random.Generator, start: np.ndarray, duration: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return a tenth and a fifth of the trials, and the time a second away from them."""
    kind = rng.permutation(len(start)) / max(len(start), 1)
    held = {"valid": np.sort(start[kind < 0.1]), "test": np.sort(start[kind >= 0.8])}
    away = np.sort(np.concatenate(list(held.values())))
    first = np.append(0.0, away + TRIAL + 1.0)
    last = np.append(away - 1.0, duration)
    fits = last > first
    return {
        "train": (first[fits], last[fits]),
        **{name: (one, one + TRIAL) for name, one in held.items()},
    }


# ------------------------------------------------------------------ our store


def write_ours(index: int, folder: Path, scale: float, again: bool) -> None:
    """Write recording `index` into the store unless it is there (or `again`)."""
    from spikedata.intervals import IntervalSet
    from spikedata.recording import Recording, Series
    from spikedata.splits import split_table
    from spikedata.store import Store

    store = Store(folder, create=True)
    recording_id = f"{DATASET}/s{index:04d}"
    if recording_id in store and not again:
        return
    one = make_reaching(index, scale)
    columns = {name: values for name, values in one.trials.items() if name not in ("start", "end")}
    axes = ("x", "y")
    recording = Recording(
        recording_id,
        one.spike_time,
        one.spike_unit,
        {
            "unit_id": np.array([f"{recording_id}/{unit}" for unit in range(one.units)]),
            "area": np.where(np.arange(one.units) % 2, "M1", "PMd"),
        },
        IntervalSet.single(0.0, one.duration),
        {
            "cursor_position": Series(one.position, "cm", axes, time=one.cursor_time),
            "cursor_velocity": Series(one.velocity, "cm/s", axes, time=one.cursor_time),
        },
        {"trials": IntervalSet(one.trials["start"], one.trials["end"], columns)},
        {
            scheme: split_table({name: IntervalSet(*one) for name, one in splits.items()})
            for scheme, splits in one.splits.items()
        },
        ("cursor_velocity",),
        {"subject": f"m{index % 4}", "task": "center_out", "species": "Macaca mulatta"},
    )
    store.write(recording, {})


def fill_store(
    folder: Path, count: int, *, scale: float = 1.0, again: bool = False, processes: int = 2
) -> None:
    """Write the first `count` recordings into the store at `folder`, those that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.parent.name for path in folder.glob(f"{DATASET}/s*/recording.json")}
    todo = [index for index in range(count) if again or f"s{index:04d}" not in there]
    if not todo:
        return
    job = partial(write_ours, folder=folder, scale=scale, again=again)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(job, todo), start=1):
            if done % 50 == 0 or done == len(todo):
                print(f"{folder.name}: {done} of {len(todo)} written", file=sys.stderr, flush=True)


def link_store(whole: Path, part: Path, count: int) -> Path:
    """Return a store of the first `count` recordings of another: the same files by hard links."""
    shutil.rmtree(part, ignore_errors=True)
    for index in range(count):
        source, target = (one / DATASET / f"s{index:04d}" for one in (whole, part))
        target.mkdir(parents=True)
        for path in source.iterdir():
            os.link(path, target / path.name)
    return part


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--scale", type=float, default=1.0, help="of the 1,394 s of a recording")
    args = parser.parse_args(arguments)
    fill_store(args.folder, args.recordings, scale=args.scale)


if __name__ == "__main__":
    main()
