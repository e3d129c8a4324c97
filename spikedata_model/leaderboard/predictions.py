"""Predictions as arrays by recording, budget and seed, and as an Arrow file that anyone can write.

The file has a row for each number, in any order. Columns: ``recording_id``, ``budget`` and ``seed``
(both may be left out where the suite has one of them), ``time`` in seconds, ``channel``, and
``predicted`` in the unit of the target. docs/leaderboard.md is the reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from spikedata.errors import did_you_mean
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.suite import Suite
from spikedata_model.leaderboard.tasks import Task
from spikedata_model.predictions import write_table

__all__ = [
    "Key",
    "check_answer",
    "hash_of",
    "read_predictions",
    "samples_table",
    "write_predictions",
]

COLUMNS = ("recording_id", "budget", "seed", "time", "channel", "predicted")
NOT_ARROW = "is no whole Arrow IPC file (write it with new_file, not with new_stream)"
NEAR = 1e-6  # s by which a time of a file may differ from that of the sample


class Key(NamedTuple):
    """What some predictions are of."""

    recording_id: str
    budget: str
    seed: int


Predictions = Mapping[Key, np.ndarray]
"""Of each key, a row for every test sample of the recording, in order, (K, C), float64."""


def check_answer(where: str, task: Task, values: object, count: int) -> np.ndarray:
    """Return what a decoder said of `count` samples, (count, C) float64, or refuse it.

    It is a copy: what a decoder does to its array later changes no answer.

    Raises
    ------
    SuiteError
        If the shape is another, or a value is no number; of rates also if one is below 0.
    """
    try:
        found = np.array(np.asarray(values, np.float64))
    except (TypeError, ValueError, RuntimeError) as error:  # the last of tensors with gradients
        raise SuiteError(
            f"{where}: predictions must be an array of numbers, found {type(values)}: "
            f"{_first_line(error)}."
        ) from None
    expected = (count, task.truth.shape[1])
    if found.shape != expected:
        raise SuiteError(
            f"{where}: predictions have the shape {found.shape}, expected {expected}: a row for "
            "each sample, a column for each channel."
        )
    bad = ~np.isfinite(found)
    if task.suite.task == "rates":
        bad |= found < 0
    if bad.any():
        row, column = np.argwhere(bad)[0]
        rule = "a rate of 0 or more" if task.suite.task == "rates" else "a number"
        raise SuiteError(
            f"{where}: {bad.sum()} predictions are not {rule}, first {found[row, column]} for "
            f"'{task.target.columns[column]}' in row {row}."
        )
    return found


def hash_of(predictions: Predictions) -> str:
    """Return the SHA-256 of predictions: of their keys in order, shapes and float64 values."""
    digest = hashlib.sha256()
    for key in sorted(predictions):
        values = np.ascontiguousarray(predictions[key], np.float64)
        digest.update(repr((tuple(key), values.shape)).encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def write_predictions(path: Path, tasks: Mapping[str, Task], predictions: Predictions) -> None:
    """Write predictions as an Arrow file.

    Raises
    ------
    OSError
        If the folder is missing, full or not writable; the old file, if any, is untouched.
    """
    parts = [_rows(tasks[key.recording_id], key, predictions[key]) for key in sorted(predictions)]
    write_table(path, pa.concat_tables([_table(), *parts]).unify_dictionaries())


def samples_table(tasks: Mapping[str, Task], suite: Suite) -> pa.Table:
    """Return the rows that a file of predictions must have, with null where a number belongs."""
    parts = []
    for name, task in tasks.items():
        for budget in suite.budgets:
            for seed in suite.seeds:
                if task.lacks(budget) is not None:
                    continue
                empty = np.full(task.truth.shape, np.nan)
                rows = _rows(task, Key(name, budget.name, seed), empty)
                parts.append(rows.set_column(5, "predicted", pa.nulls(len(rows), pa.float64())))
    return pa.concat_tables([_table(), *parts]).unify_dictionaries()


def _table(**columns: object) -> pa.Table:
    text = pa.dictionary(pa.int32(), pa.string())
    types = (text, text, pa.int64(), pa.float64(), text, pa.float64())
    given = [columns.get(name, []) for name in COLUMNS]
    return pa.table(
        [
            pa.array(one, kind.value_type if kind is text else kind).cast(kind)
            for one, kind in zip(given, types, strict=True)
        ],
        names=list(COLUMNS),
    )


def _rows(task: Task, key: Key, values: np.ndarray) -> pa.Table:
    count, width = values.shape
    return _table(
        recording_id=[key.recording_id] * values.size,
        budget=[key.budget] * values.size,
        seed=np.full(values.size, key.seed),
        time=np.tile(task.time, width),
        channel=np.repeat(np.array(task.target.columns, object), count),
        predicted=values.T.ravel(),
    )


def read_predictions(path: Path, suite: Suite, tasks: Mapping[str, Task]) -> dict[Key, np.ndarray]:
    """Read a file of predictions: each test sample of each key in it exactly once.

    Parameters
    ----------
    path : Path
        An Arrow IPC file.
    suite : Suite
        What was predicted.
    tasks : mapping of str to Task
        Its recordings.

    Returns
    -------
    dict of Key to ndarray, shape (K, C), float64

    Raises
    ------
    SuiteError
        If it is no such file, a column is missing or of another kind, it names what the suite has
        not, a sample is missing, is there twice or is none of the suite's, or a value is no number.
    """
    table = _open(path)
    table = _with_defaults(path, table, suite)
    try:
        columns = {
            "time": table["time"].cast(pa.float64()).to_numpy(),
            "predicted": table["predicted"].cast(pa.float64()).to_numpy(),
            "seed": table["seed"].cast(pa.int64()).to_numpy(),
        }
        texts = {
            name: table[name].cast(pa.string()).combine_chunks().dictionary_encode()
            for name in ("recording_id", "budget", "channel")
        }
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
        raise SuiteError(f"{path}: a column is not of its kind: {_first_line(error)}.") from None
    # A dictionary may have an empty word, which no index says.
    names = [
        name for name in COLUMNS
        if table[name].null_count or (name in texts and texts[name].null_count)
    ]  # fmt: skip
    if names:
        raise SuiteError(f"{path}: the column '{names[0]}' has empty fields; fill in all of them.")
    known = {
        "recording_id": list(tasks),
        "budget": [one.name for one in suite.budgets],
        "channel": sorted({name for one in tasks.values() for name in one.target.columns}),
    }
    for name, column in texts.items():
        for value in column.dictionary.to_pylist():
            if value not in known[name]:
                raise SuiteError(
                    f"{path}: the suite '{suite.name}' has no {name} '{value}'; "
                    f"{did_you_mean(value, known[name])}"
                )
    wrong = sorted(set(columns["seed"].tolist()) - set(suite.seeds))
    if wrong:
        raise SuiteError(f"{path}: the suite has the seeds {suite.seeds}, not {wrong[0]}.")
    found: dict[Key, np.ndarray] = {}
    for key, rows in _by_key(texts, columns["seed"]):
        channel = texts["channel"].take(pa.array(rows)).to_pylist()
        found[key] = _placed(
            f"{path}, {key.recording_id}, budget {key.budget}, seed {key.seed}", tasks[key[0]],
            columns["time"][rows], channel, columns["predicted"][rows],
        )  # fmt: skip
    if not found:
        raise SuiteError(f"{path}: there are no predictions in it.")
    return found


def _open(path: Path) -> pa.Table:
    """Return the table of an Arrow file, checked as a whole: it comes from anyone."""
    try:
        table = pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all()
        table.validate(full=True)
    except OSError as error:
        if isinstance(error, pa.ArrowException) or error.strerror is None:
            raise SuiteError(f"{path} {NOT_ARROW}: {_first_line(error)}.") from None
        raise SuiteError(f"{path} cannot be read: {error.strerror}.") from None
    except (pa.ArrowException, ValueError, MemoryError, OverflowError) as error:
        raise SuiteError(f"{path} {NOT_ARROW}: {_first_line(error)}.") from None
    return table


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _with_defaults(path: Path, table: pa.Table, suite: Suite) -> pa.Table:
    """Return the columns that are needed; those of which the suite has one value may be absent."""
    only: dict[str, Sequence[object]] = {
        "budget": [one.name for one in suite.budgets], "seed": list(suite.seeds)
    }  # fmt: skip
    for name in COLUMNS:
        if table.column_names.count(name) == 1:
            continue
        if name in table.column_names:
            raise SuiteError(f"{path}: there are two columns '{name}'; give one.")
        if len(only.get(name, ())) != 1:
            raise SuiteError(
                f"{path}: there is no column '{name}'; expected {', '.join(COLUMNS)}, found "
                f"{', '.join(table.column_names) or 'none'}."
            )
        table = table.append_column(name, pa.array([only[name][0]] * len(table)))
    return table.select(list(COLUMNS))


def _by_key(
    texts: Mapping[str, pa.DictionaryArray], seed: np.ndarray
) -> Iterable[tuple[Key, np.ndarray]]:
    """Yield the row numbers of every recording, budget and seed."""
    recording, budget = (texts[name].indices.to_numpy() for name in ("recording_id", "budget"))
    order = np.lexsort([seed, budget, recording])
    if not len(order):
        return
    sorted_keys = np.stack([recording[order], budget[order], seed[order]])
    breaks = np.flatnonzero(np.any(np.diff(sorted_keys, axis=1) != 0, axis=0)) + 1
    for rows in np.split(order, breaks):
        first = int(rows[0])
        names = [texts[name].dictionary[int(texts[name].indices[first].as_py())].as_py()
                 for name in ("recording_id", "budget")]  # fmt: skip
        yield Key(names[0], names[1], int(seed[first])), rows


def _placed(
    where: str, task: Task, time: np.ndarray, channel: Sequence[str], predicted: np.ndarray
) -> np.ndarray:
    """Return predictions at the places of their samples, (K, C)."""
    samples, columns = task.time, list(task.target.columns)
    wrong = sorted(set(channel) - set(columns))
    if wrong:
        raise SuiteError(
            f"{where}: there is no channel '{wrong[0]}'; {did_you_mean(wrong[0], columns)}"
        )
    order = np.argsort(samples, kind="stable")
    after = np.searchsorted(samples[order], time - NEAR)
    row = order[np.minimum(after, len(samples) - 1)]
    off = ~(np.abs(samples[row] - time) <= NEAR)
    if off.any():
        raise SuiteError(
            f"{where}: {off.sum()} rows are at times that are no sample of the test split, first "
            f"{float(time[off][0])!r} s; take the times of `spikedata leaderboard samples`."
        )
    at = np.array([columns.index(name) for name in channel], np.int64)
    count = np.zeros(task.truth.shape, np.int64)
    np.add.at(count, (row, at), 1)
    if count.max(initial=0) > 1 or count.min(initial=1) < 1:
        twice, never = int((count > 1).sum()), int((count < 1).sum())
        raise SuiteError(
            f"{where}: {never} of {count.size} predictions are missing and {twice} are there twice "
            "or more; give each sample of the test split once for each channel."
        )
    values = np.empty(task.truth.shape)
    values[row, at] = predicted
    return check_answer(where, task, values, len(samples))
