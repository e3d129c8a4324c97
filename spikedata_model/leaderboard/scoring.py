"""From predictions to scores, their intervals, and a result."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from spikedata.intervals import IntervalSet
from spikedata.store import Store
from spikedata.version import __version__
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.guards import check_pins, check_pretraining, expand_pretraining
from spikedata_model.leaderboard.measuring import commit, machine
from spikedata_model.leaderboard.metrics import (
    Sums,
    behaviour_sums,
    bootstrap,
    metrics_of,
    paired_bootstrap,
    rate_sums,
    trial_of,
)
from spikedata_model.leaderboard.predictions import Key, hash_of, read_predictions
from spikedata_model.leaderboard.result import (
    Data,
    LeftOut,
    Metrics,
    Pretraining,
    Result,
    Score,
    Summary,
    Trace,
)
from spikedata_model.leaderboard.suite import Suite
from spikedata_model.leaderboard.tasks import Task, make_task

__all__ = ["Lead", "compare", "open_tasks", "result_of", "score_file"]

TRACE_SECONDS, TRACE_POINTS, TRACE_CHANNELS = 10.0, 400, 4


def open_tasks(
    suite: Suite, store: Store, recording_ids: Sequence[str] | None = None
) -> dict[str, Task]:
    """Return the recordings of a suite as it shows them, by their ids.

    Parameters
    ----------
    suite : Suite
        What is asked.
    store : Store
        With recordings that were ingested from the suite's manifests.
    recording_ids : sequence of str, optional
        Some of them; all when not given.

    Raises
    ------
    SuiteError
        If the store is not what the suite is of, or a recording lacks what it names.
    LeakError
        If training time of a recording is nearer to its test time than the suite's gap.
    """
    groups = suite.recordings
    wrong = [one for one in recording_ids or () if one not in groups]
    if wrong:
        raise SuiteError(
            f"The suite '{suite.name}' has no recording '{wrong[0]}'; it has "
            f"{', '.join(list(groups)[:5])}{', …' if len(groups) > 5 else ''}."
        )
    chosen = [name for name in groups if recording_ids is None or name in recording_ids]
    sources = check_pins(suite, store, chosen)
    return {name: make_task(suite, groups[name], store[name], sources[name]) for name in chosen}


def score_file(
    suite: Suite,
    store: Store,
    path: Path,
    name: str,
    *,
    pretrained_on: Iterable[str] = (),
    description: str = "",
    link: str = "",
    command: str = "",
) -> Result:
    """Score a file of predictions, of which nothing else is known.

    Parameters
    ----------
    suite : Suite
        The protocol.
    store : Store
        The recordings, with the truth.
    path : Path
        See `spikedata_model.leaderboard.predictions`.
    name : str
        Of the decoder, in the table.
    pretrained_on : iterable of str
        Recordings, sessions, hashes of files, or ``"manifest:NAME"``, that it had seen.
    description, link, command : str
        What is to be kept with the result.

    Raises
    ------
    SuiteError
        If the store or the file does not fit the suite.
    LeakError
        If it was pretrained on the test side.
    """
    given = tuple(pretrained_on)
    check_pretraining(suite, given)
    seen = tuple(one.also[0] for one in expand_pretraining(given))
    tasks = open_tasks(suite, store)
    predictions = read_predictions(path, suite, tasks)
    used = {key.recording_id for key in predictions}
    tasks = {name: one for name, one in tasks.items() if name in used}
    return result_of(
        suite, tasks, predictions, name, kind="predictions",
        causality="claimed" if suite.causal else "free",
        pretraining=Pretraining(recordings=seen) if seen else None,
        description=description, link=link, command=command,
    )  # fmt: skip


def result_of(
    suite: Suite,
    tasks: Mapping[str, Task],
    predictions: Mapping[Key, np.ndarray],
    name: str,
    *,
    kind: Literal["spikedata", "third party", "predictions"],
    causality: Literal["free", "tested", "claimed"],
    pretraining: Pretraining | None = None,
    description: str = "",
    link: str = "",
    command: str = "",
) -> Result:
    """Return the scores of predictions with everything that is known of where they come from."""
    trials = {name: _trials(task) for name, task in tasks.items()}
    scores, sums = [], {}
    for key in sorted(predictions, key=_order(suite)):
        task = tasks[key.recording_id]
        trial = trials[key.recording_id]
        by_phase = {
            name: _sums(task, predictions[key], mask, trial) for name, mask in task.phases.items()
        }
        scores.append(_score(task, key, by_phase))
        sums[key] = by_phase[task.scored]
    left_out = [
        LeftOut(recording_id=name, budget=budget.name, reason=reason)
        for name, task in tasks.items()
        for budget in suite.budgets
        if (reason := task.lacks(budget)) is not None
    ]
    wanted = {
        Key(recording_id, budget.name, seed)
        for recording_id in suite.recordings
        for budget in suite.budgets
        for seed in suite.seeds
        if (recording_id, budget.name) not in {(one.recording_id, one.budget) for one in left_out}
    }
    return Result(
        suite=suite.name,
        suite_sha256=suite.sha256,
        decoder=name,
        kind=kind,
        description=description,
        link=link,
        causality=causality,
        complete=predictions.keys() == wanted,
        left_out=tuple(left_out),
        metric=suite.metric,
        summaries=tuple(_summaries(suite, scores, sums)),
        scores=tuple(scores),
        pretraining=pretraining,
        data={
            name: Data(source=task.source, fingerprint=task.fingerprint, samples=task.samples_hash)
            for name, task in tasks.items()
        },
        predictions_sha256=hash_of(predictions),
        traces=tuple(_traces(suite, tasks, predictions)),
        machine=machine(),
        command=command,
        commit=commit(),
        spikedata_version=__version__,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def _order(suite: Suite):
    recordings, budgets = list(suite.recordings), [one.name for one in suite.budgets]

    def order(key: Key) -> tuple[int, int, int]:
        return recordings.index(key.recording_id), budgets.index(key.budget), key.seed

    return order


def _trials(task: Task) -> np.ndarray:
    """Return the bootstrap unit of each test sample, shape (K,)."""
    table = None if task.group.trials is None else task.recording.intervals[task.group.trials]
    segments = IntervalSet(
        np.array([one.start for one in task.test]), np.array([one.end for one in task.test])
    )
    return trial_of(task.time, table, segments, task.suite.block)


def _sums(task: Task, values: np.ndarray, mask: np.ndarray, trial: np.ndarray) -> Sums:
    if task.suite.task == "rates":
        return rate_sums(values, task.truth, mask, trial)
    return behaviour_sums(task.truth, values, mask, trial)


def _score(task: Task, key: Key, sums: Mapping[str, Sums]) -> Score:
    phases = {name: metrics_of(one) for name, one in sums.items()}
    budget = next(one for one in task.suite.budgets if one.name == key.budget)
    return Score(
        group=task.group.name,
        recording_id=key.recording_id,
        budget=key.budget,
        seed=key.seed,
        labelled_seconds=task.labelled_seconds(budget, key.seed),
        score=value_of(phases[task.scored], task.suite.metric),
        phases=phases,
    )


def value_of(metrics: Metrics, metric: str) -> float:
    """Return what ranks: the metric of a suite."""
    values = {
        "r2": metrics.r2_uniform,
        "r2_weighted": metrics.r2_weighted,
        "bits_per_spike": metrics.bits_per_spike,
    }
    found = values[metric]
    return np.nan if found is None else found


def _summaries(
    suite: Suite, scores: Sequence[Score], sums: Mapping[Key, Sums]
) -> Iterable[Summary]:
    """Yield a cell of the table for each group and budget that has scores."""
    for group in suite.groups:
        for budget in suite.budgets:
            mine = [one for one in scores if (one.group, one.budget) == (group.name, budget.name)]
            if not mine:
                continue
            by_recording: dict[str, list[Score]] = {}
            for one in mine:
                by_recording.setdefault(one.recording_id, []).append(one)
            means = [np.mean([one.score for one in ones]) for ones in by_recording.values()]
            cells = [
                [sums[Key(one.recording_id, one.budget, one.seed)] for one in ones]
                for ones in by_recording.values()
            ]
            low, high = bootstrap(cells, suite.metric, together=_shares_seeds(suite, cells))
            yield Summary(
                group=group.name,
                budget=budget.name,
                mean=float(np.mean(means)),
                sd=float(np.std(means)) if len(means) > 1 else np.nan,
                low=low,
                high=high,
                n_recordings=len(means),
                n_seeds=len({one.seed for one in mine}),
                labelled_seconds=float(np.mean([one.labelled_seconds for one in mine])),
            )


def _shares_seeds(suite: Suite, cells: Sequence[Sequence[Sums]]) -> bool:
    """Return whether one decoder of all recordings was fitted with each seed."""
    return suite.fit == "together" and len({len(seeds) for seeds in cells}) == 1


class Lead(NamedTuple):
    """By how much one decoder is ahead of another in a group with a budget, and its interval."""

    group: str
    budget: str
    difference: float
    low: float
    high: float
    n_recordings: int


def compare(
    suite: Suite,
    tasks: Mapping[str, Task],
    mine: Mapping[Key, np.ndarray],
    theirs: Mapping[Key, np.ndarray],
) -> list[Lead]:
    """Return where one decoder is ahead of another, on the recordings that both decoded.

    Parameters
    ----------
    suite, tasks : Suite, mapping of str to Task
        The protocol and its recordings.
    mine, theirs : mapping of Key to ndarray, shape (K, C)
        Their predictions.

    Returns
    -------
    list of Lead
        ``low`` and ``high`` are the 95 % interval of the difference: the same trials are drawn for
        both.

    Raises
    ------
    SuiteError
        If there is no group with a budget that both have.
    """
    leads = []
    for group in suite.groups:
        for budget in suite.budgets:
            shared = [
                name for name in group.recordings
                if all(any(key[:2] == (name, budget.name) for key in one) for one in (mine, theirs))
            ]  # fmt: skip
            if not shared:
                continue
            one, other = (
                [_seeds_of(tasks[name], budget.name, given) for name in shared]
                for given in (mine, theirs)
            )
            together = _shares_seeds(suite, one), _shares_seeds(suite, other)
            lead, low, high = paired_bootstrap(one, other, suite.metric, together=together)
            leads.append(Lead(group.name, budget.name, lead, low, high, len(shared)))
    if not leads:
        raise SuiteError(
            f"The two have no recording of '{suite.name}' with the same budget in common."
        )
    return leads


def _seeds_of(task: Task, budget: str, predictions: Mapping[Key, np.ndarray]) -> list[Sums]:
    """Return the sums of each seed of a recording, on what the suite scores."""
    trial = _trials(task)
    keys = sorted(key for key in predictions if key[:2] == (task.recording_id, budget))
    return [_sums(task, predictions[key], task.phases[task.scored], trial) for key in keys]


def _traces(
    suite: Suite, tasks: Mapping[str, Task], predictions: Mapping[Key, np.ndarray]
) -> Iterable[Trace]:
    """Yield the liveliest seconds of each recording, thinned, of one budget and seed."""
    if suite.task == "rates":
        return
    for name, task in tasks.items():
        keys = [key for key in sorted(predictions, key=_order(suite)) if key.recording_id == name]
        if not keys:
            continue
        main = [key for key in keys if key.budget == suite.main_budget]
        shown = (main or keys)[0]
        lo, hi = _liveliest(task)
        rows = np.arange(lo, hi)[:: -(-(hi - lo) // TRACE_POINTS)]
        channels = range(min(TRACE_CHANNELS, task.truth.shape[1]))
        yield Trace(
            recording_id=name,
            columns=tuple(task.target.columns[one] for one in channels),
            unit=task.target.unit,
            time=tuple(np.round(task.time[rows], 4).tolist()),
            truth=tuple(_short(task.truth[rows, one]) for one in channels),
            predicted=tuple(_short(predictions[shown][rows, one]) for one in channels),
        )


def _short(values: np.ndarray) -> tuple[float, ...]:
    """Return numbers with the digits that a picture shows."""
    return tuple(float(f"{one:.4g}") for one in values.tolist())


def _liveliest(task: Task) -> tuple[int, int]:
    """Return the rows of the stretch of a test segment in which the target changes most."""
    scale = np.maximum(task.truth.std(axis=0), 1e-12)
    best, first = (-1.0, 0, 1), 0
    for one in task.test:
        last = first + len(one.time)
        for start in np.arange(one.start, one.end, TRACE_SECONDS / 2):
            lo, hi = first + np.searchsorted(one.time, [start, start + TRACE_SECONDS])
            if hi - lo > 1:
                change = np.abs(np.diff(task.truth[lo:hi] / scale, axis=0)).sum()
                best = max(best, (float(change), int(lo), int(hi)))
        first = last
    return best[1], best[2]
