"""What both children of bench_latency.py share: the spikes, the steps, and how they are timed.

Needs torch and numpy alone, so that it runs where torch_brain is and spikedata is not.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from train_work import LENGTH, SHAPES, Shape

STEP = 0.02  # s between two predictions
RATE = 7.0  # spikes/s of a unit; DANDI 000688 has 720 in 94 units (see sampler_store.py)


@dataclass(frozen=True)
class Case:
    """What one child does; crosses to it as JSON."""

    size: str
    precision: str
    units: int
    steps: int
    warmup: int = 60  # a second of spikes, and what torch does on first use

    @property
    def shape(self) -> Shape:
        """The sizes, without dropout."""
        return SHAPES[self.size]


def make_spikes(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return units and sorted times of Poisson spikes that last for all steps."""
    rng = np.random.default_rng([case.units, 0])
    seconds = (case.warmup + case.steps) * STEP + LENGTH
    count = rng.poisson(RATE * case.units * seconds)
    return rng.integers(0, case.units, count), np.sort(rng.uniform(0, seconds, count))


def tokens_of(case: Case) -> int:
    """Return how many tokens a window has as a rule: its spikes, two delimiters for each unit."""
    return round(case.units * (RATE * LENGTH + 2))


def serve(prepare: Callable[[Case], Callable[[np.ndarray, np.ndarray, float], np.ndarray]]) -> None:
    """Time the steps of a child on one core, and print one line of JSON.

    `prepare` returns what takes the spikes of a step and its end and returns the prediction there.
    A step is that call; the steps follow each other at once. Objects that are there when the clock
    starts are out of the garbage collector's sight, as a program that lives long has them
    (gc.freeze); it stays on, and the steps that it ran in are counted.
    """
    case = Case(**json.loads(sys.argv[1]))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    unit, spike_time = make_spikes(case)
    take = prepare(case)
    end = LENGTH + STEP * np.arange(-round(LENGTH / STEP), case.warmup + case.steps) + STEP
    cuts = np.searchsorted(spike_time, np.append(0.0, end))
    seconds, sums, collected = [], 0.0, []
    gc.callbacks.append(
        lambda phase, _: collected.append(len(seconds)) if phase == "stop" else None
    )
    first = len(end) - case.steps
    for row, (lo, hi) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)):
        if row == first:
            seconds.clear()
            collected.clear()
            gc.collect()
            gc.freeze()
        begin = time.perf_counter()
        value = take(unit[lo:hi], spike_time[lo:hi], float(end[row]))
        seconds.append(time.perf_counter() - begin)
        sums += float(np.abs(value).sum())
    if not np.isfinite(sums):
        raise SystemExit(f"The predictions of {case} are no numbers, so timing them is pointless.")
    milliseconds = 1e3 * np.array(seconds)
    p50, p99, most = np.percentile(milliseconds, [50, 99, 100]).tolist()
    found = {"p50_ms": p50, "p99_ms": p99, "max_ms": most, "steps": len(seconds),
             "collections": len(set(collected))}  # fmt: skip
    print(json.dumps(found), flush=True)
