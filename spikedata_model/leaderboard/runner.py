"""Runs a decoder on a suite: every budget and seed, part by part, so that it can be stopped."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from spikedata.errors import SpikedataError
from spikedata.files import write_whole
from spikedata.options import FileModel
from spikedata.progress import Progress, silent
from spikedata.store import Store
from spikedata_model.errors import LeakError, SuiteError
from spikedata_model.leaderboard.cost import Cost
from spikedata_model.leaderboard.decoders import Choice
from spikedata_model.leaderboard.guards import check_causal, check_pretraining
from spikedata_model.leaderboard.measuring import Energy, commit
from spikedata_model.leaderboard.predictions import (
    Key,
    check_answer,
    hash_of,
    read_predictions,
    write_predictions,
)
from spikedata_model.leaderboard.protocol import Entrant, Rules
from spikedata_model.leaderboard.result import Fitted, Pretraining, Result
from spikedata_model.leaderboard.scoring import open_tasks, result_of
from spikedata_model.leaderboard.stepping import cost_of, mean_cost
from spikedata_model.leaderboard.suite import Budget, Suite
from spikedata_model.leaderboard.tasks import Task, detached

__all__ = ["run_suite"]

PART, PREDICTIONS, RESULT, LOCK = "part.json", "predictions.arrow", "result.json", "lock"


class Part(FileModel):
    """What a part of a run found besides its predictions; it is written last."""

    key: str
    predictions_sha256: str
    fitted: Fitted
    cost: Cost | None
    energy_joules: float | None


@dataclass(frozen=True)
class _Job:
    """One fit: some recordings, a budget and a seed."""

    tasks: tuple[Task, ...]
    budget: Budget
    seed: int

    def key(self, choice: Choice) -> str:
        """Return what its numbers depend on, hashed."""
        suite = self.tasks[0].suite
        data = {one.recording_id: [one.fingerprint, one.samples_hash] for one in self.tasks}
        identity = [choice.identity, commit()]
        text = json.dumps([suite.sha256, data, self.budget.name, self.seed, identity])
        return hashlib.sha256(text.encode()).hexdigest()


def run_suite(
    suite: Suite,
    store: Store,
    choice: Choice,
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    budgets: Sequence[str] | None = None,
    recording_ids: Sequence[str] | None = None,
    threads: int | None = None,
    command: str = "",
    description: str = "",
    link: str = "",
    progress: Progress = silent,
) -> Result:
    """Fit a decoder on every budget and seed of a suite, score it, and write what was found.

    Parameters
    ----------
    suite : Suite
        The protocol.
    store : Store
        The recordings, ingested from the suite's manifests.
    choice : Choice
        The decoder, of `choose`.
    folder : Path
        For ``result.json``, ``predictions.arrow`` and the parts that a run which was stopped goes
        on from.
    seeds, budgets, recording_ids : sequence, optional
        A part of the suite; the result then says that it is not complete.
    threads : int, optional
        Cores to work on; all that this process may use when not given.
    command : str
        What is to be given to repeat it.
    description, link : str
        A line about the decoder, the first of its docstring when not given; where its code is.
    progress : Progress
        Told of every fit.

    Raises
    ------
    SuiteError
        If the store is not what the suite is of, or the decoder's answers do not fit.
    LeakError
        If it was pretrained on the test side, or looks ahead in a causal suite.
    """
    chosen = _chosen(suite, seeds, budgets)
    tasks = open_tasks(suite, store, recording_ids)
    first = choice.make()
    pretraining = _pretraining(suite, first, tasks)
    jobs = list(_jobs(suite, tasks, *chosen))
    usable = len(os.sched_getaffinity(0)) if threads is None else threads
    predictions: dict[Key, np.ndarray] = {}
    parts: list[Part] = []
    for done, job in enumerate(jobs):
        what = f"{choice.name}: {job.budget.name}, seed {job.seed}"
        progress(f"{what}, {_named(job)}", done, len(jobs))
        part, found = _do(job, choice, folder / "parts", usable)
        predictions |= found
        parts.append(part)
        progress(f"{what}, {_named(job)}", done + 1, len(jobs))
    result = result_of(
        suite, tasks, predictions, choice.name, kind=choice.kind,
        causality="tested" if suite.causal else "free", pretraining=pretraining, command=command,
        description=description or (type(first).__doc__ or "").strip().partition("\n")[0],
        link=link,
    ).model_copy(
        update={
            "fitted": tuple(one.fitted for one in parts),
            "cost": mean_cost([one.cost for one in parts if one.cost is not None]),
            "wall_seconds": sum(o.fitted.fit_seconds + o.fitted.predict_seconds for o in parts),
            "energy_joules": _total([one.energy_joules for one in parts]),
        }
    )  # fmt: skip
    write_predictions(folder / PREDICTIONS, tasks, predictions)
    write_whole(folder / RESULT, result.model_dump_json(indent=1) + "\n")
    return result


def _chosen(
    suite: Suite, seeds: Sequence[int] | None, budgets: Sequence[str] | None
) -> tuple[list[int], list[Budget]]:
    known = {one.name: one for one in suite.budgets}
    for what, given, listed in (("seed", seeds, suite.seeds), ("budget", budgets, known)):
        wrong = [one for one in given or () if one not in listed]
        if wrong:
            raise SuiteError(
                f"The suite '{suite.name}' has no {what} {wrong[0]!r}; it has "
                f"{', '.join(map(str, listed))}."
            )
    return (
        list(suite.seeds if seeds is None else dict.fromkeys(seeds)),
        [known[name] for name in (known if budgets is None else dict.fromkeys(budgets))],
    )


def _pretraining(suite: Suite, entrant: Entrant, tasks: Mapping[str, Task]) -> Pretraining | None:
    """Return what a decoder had seen, or refuse it."""
    seen = tuple(map(str, getattr(entrant, "pretrained_on", ()) or ()))
    units = getattr(entrant, "pretrained_units", ())
    check_pretraining(suite, seen, unit_ids=units)
    known = {one.fingerprint: name for name, one in tasks.items() if one.fingerprint}
    for name, fingerprint in dict(getattr(entrant, "pretrained_fingerprints", {})).items():
        if fingerprint in known:
            raise LeakError(
                f"{suite.name}: the decoder was pretrained on {name}, whose stored files are those "
                f"of the test recording {known[fingerprint]}; pretrain without it."
            )
    weights = str(getattr(entrant, "weights_sha256", ""))
    return Pretraining(recordings=seen, weights=weights) if seen or weights else None


def _jobs(
    suite: Suite, tasks: Mapping[str, Task], seeds: Sequence[int], budgets: Sequence[Budget]
) -> Iterator[_Job]:
    for budget in budgets:
        able = [one for one in tasks.values() if one.lacks(budget) is None]
        for seed in seeds if able else ():
            for group in [tuple(able)] if suite.fit == "together" else [(one,) for one in able]:
                yield _Job(group, budget, seed)


def _named(job: _Job) -> str:
    return job.tasks[0].recording_id if len(job.tasks) == 1 else f"{len(job.tasks)} recordings"


# ------------------------------------------------------------------ one part


def _do(job: _Job, choice: Choice, parts: Path, threads: int) -> tuple[Part, dict[Key, np.ndarray]]:
    """Return a part of a run, which may be done already."""
    key = job.key(choice)
    folder = parts / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with _sole_use(folder):
        return _finished(job, folder, key) or _fit(job, choice, folder, key, threads)


@contextmanager
def _sole_use(folder: Path) -> Iterator[None]:
    """Keep others from the same part while the context is open, or the process lives.

    One that is done deletes what the other goes on from. On a file system without locks nobody is
    kept out.
    """
    with (folder / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SuiteError(
                f"Another process works on the same part of the run in {folder}: wait for it or "
                "stop it, or choose another --out. Parts of other seeds, budgets or recordings may "
                "be run beside it."
            ) from None
        except OSError:
            pass  # no locks here
        yield


def _fit(
    job: _Job, choice: Choice, folder: Path, key: str, threads: int
) -> tuple[Part, dict[Key, np.ndarray]]:
    """Return a part of a run, newly fitted, and keep it."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    suite = job.tasks[0].suite
    rules = Rules(suite.task, suite.causal, suite.step, suite.context, job.seed, work, threads)
    entrant = choice.make()
    with Energy() as energy:
        began = time.perf_counter()
        sessions = [one.session(job.budget, job.seed) for one in job.tasks]
        with _named_failure(choice, f"fit on {_named(job)}"):
            entrant.fit(sessions, rules)
        fitted = time.perf_counter()
        witness = _copy_of(entrant) if suite.causal else entrant
        asked = time.perf_counter()
        with _named_failure(choice, f"predict {_named(job)}"):
            answers = {one.recording_id: _answers(entrant, one, choice.name) for one in job.tasks}
        ended = time.perf_counter()
    decoded = sum(one.end - one.start for task in job.tasks for one in task.test)
    with _named_failure(choice, f"be tested on {_named(job)}"):
        for task in job.tasks if suite.causal else ():
            check_causal(witness, task, answers[task.recording_id], job.seed)
        about = _about(entrant)
        cost = cost_of(entrant, job.tasks, answers, (ended - asked) / decoded)
    found = {
        Key(task.recording_id, job.budget.name, job.seed): np.concatenate(
            answers[task.recording_id]
        )
        for task in job.tasks
    }
    part = Part(
        key=key,
        predictions_sha256=hash_of(found),
        fitted=Fitted(
            recordings=tuple(answers), budget=job.budget.name, seed=job.seed,
            fit_seconds=fitted - began, predict_seconds=ended - asked, decoded_seconds=decoded,
            about=about,
        ),
        cost=cost,
        energy_joules=energy.joules,
    )  # fmt: skip
    write_predictions(folder / PREDICTIONS, {one.recording_id: one for one in job.tasks}, found)
    write_whole(folder / PART, part.model_dump_json(indent=1) + "\n")
    shutil.rmtree(work, ignore_errors=True)  # it was for going on with this part
    return part, found


def _copy_of(entrant: Entrant) -> Entrant:
    """Return a decoder as it is after `fit`, with no memory of later answers.

    It is the decoder itself where that cannot be copied.
    """
    try:
        return copy.deepcopy(entrant)
    except Exception:  # a stranger's class: anything
        return entrant


def _finished(job: _Job, folder: Path, key: str) -> tuple[Part, dict[Key, np.ndarray]] | None:
    """Return a part that was done before, if it is whole."""
    tasks = {one.recording_id: one for one in job.tasks}
    try:
        part = Part.model_validate_json((folder / PART).read_text(encoding="utf-8"))
        found = read_predictions(folder / PREDICTIONS, job.tasks[0].suite, tasks)
    except (OSError, ValidationError, SuiteError):
        return None
    wanted = {Key(name, job.budget.name, job.seed) for name in tasks}
    whole = part.key == key and found.keys() == wanted and part.predictions_sha256 == hash_of(found)
    return (part, found) if whole else None


@contextmanager
def _named_failure(choice: Choice, what: str) -> Iterator[None]:
    """Say of an error in somebody else's decoder that it is theirs, and where."""
    try:
        yield
    except SpikedataError:
        raise
    except Exception as error:
        if choice.kind == "spikedata":
            raise
        raise SuiteError(
            f"The decoder '{choice.name}' could not {what}: {type(error).__name__}: {error}. Mend "
            "it; `spikedata --debug leaderboard run …` shows where."
        ) from error


def _answers(entrant: Entrant, task: Task, name: str) -> list[np.ndarray]:
    """Return what a decoder says of each segment of a recording."""
    return [
        check_answer(
            f"{task.suite.name}, {name}, {task.recording_id}, segment at {one.start:.3f} s",
            task, entrant.predict(detached(one)), len(one.time),
        )
        for one in task.test
    ]  # fmt: skip


def _about(entrant: Entrant) -> dict:
    """Return what a decoder says of itself, as far as JSON can hold it."""
    about = getattr(entrant, "about", None)
    given = about() if callable(about) else {}
    return json.loads(json.dumps(given, default=str), parse_constant=str)


def _total(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return sum(known) if len(known) == len(values) else None
