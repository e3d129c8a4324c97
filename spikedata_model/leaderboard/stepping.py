"""What decoding takes, stated and timed: a live decoder is stepped through some test time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.cost import Cost
from spikedata_model.leaderboard.guards import differs
from spikedata_model.leaderboard.measuring import step_times
from spikedata_model.leaderboard.protocol import Entrant, HasCost, LiveEntrant
from spikedata_model.leaderboard.tasks import Task

__all__ = ["cost_of", "mean_cost"]

LIVE_SECONDS = 30.0  # of neural time that a live decoder is stepped through to be timed


def cost_of(
    entrant: Entrant,
    tasks: Sequence[Task],
    answers: Mapping[str, list[np.ndarray]],
    latency: float,
) -> Cost:
    """Return what decoding takes: as the decoder says, and as it is timed.

    Parameters
    ----------
    entrant : Entrant
        Fitted to `tasks`.
    tasks : sequence of Task
        The recordings.
    answers : mapping of str to list of ndarray, shape (K, C)
        What it said of each segment of each recording.
    latency : float
        Seconds of computing per second of neural time in `predict`: stated where a decoder is not
        stepped through.

    Raises
    ------
    SuiteError
        If a live estimate is another than that of `predict`.
    """
    stated = Cost()
    if isinstance(entrant, HasCost):
        stated = mean_cost([entrant.cost(one.recording_id) for one in tasks]) or stated
    if not tasks[0].suite.causal or not isinstance(entrant, LiveEntrant):
        return stated.model_copy(update={"normalised_latency": latency})
    seconds, neural = [], 0.0
    for task in tasks:
        times, passed = _step_through(entrant, task, answers[task.recording_id], tasks)
        seconds += times
        neural += passed
    p50, p99 = step_times(seconds)
    update = {"step_p50": p50, "step_p99": p99, "normalised_latency": sum(seconds) / neural}
    return stated.model_copy(update=update)


def _step_through(
    entrant: LiveEntrant, task: Task, answers: list[np.ndarray], tasks: Sequence[Task]
) -> tuple[list[float], float]:
    """Return the seconds of each live step, and the neural time that they covered.

    Raises
    ------
    SuiteError
        If a live estimate is another than that of `predict`.
    """
    seconds, passed = [], 0.0
    step = task.suite.step or 0.0
    for segment, answer in zip(task.test, answers, strict=True):
        if passed >= LIVE_SECONDS / len(tasks):
            break
        edges, row = segment.estimates(step)
        entrant.begin(task.recording_id, segment.start)
        live, begin = np.empty((len(edges), answer.shape[1])), segment.start
        for at, edge in enumerate(edges.tolist()):
            lo, hi = np.searchsorted(segment.spike_time, [begin, edge])
            spikes = segment.spike_time[lo:hi].copy(), segment.spike_unit[lo:hi].copy()
            began = time.perf_counter()
            live[at] = entrant.step(*spikes, edge)
            seconds.append(time.perf_counter() - began)
            begin = edge
        off = differs(task, answer, live[row])
        if off.any():
            at = int(np.argmax(off))
            raise SuiteError(
                f"{task.suite.name}, {task.recording_id}: at {segment.time[at]:.3f} s the live "
                f"estimate is {live[row][at].tolist()}, `predict` says {answer[at].tolist()}; they "
                "must be the same."
            )
        passed += float(edges[-1]) - segment.start if len(edges) else 0.0
    return seconds, max(passed, step)


def mean_cost(costs: Sequence[Cost]) -> Cost | None:
    """Return the mean of every field that all of them state."""
    if not costs:
        return None
    found = {}
    for name in Cost.model_fields:
        values = [getattr(one, name) for one in costs]
        found[name] = None if any(one is None for one in values) else float(np.mean(values))
    return Cost.model_validate(found)
