"""Cuts the time of a recording into what is learned from, chosen by and scored, as a suite says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from spikedata.errors import IntervalError, did_you_mean
from spikedata.intervals import IntervalSet
from spikedata.options import ChronologicalSplit
from spikedata.recording import SPLITS, Recording
from spikedata.splits import chronological_split, clip, split_table
from spikedata_model.errors import LeakError, SuiteError
from spikedata_model.labels import limit_labels
from spikedata_model.leaderboard.suite import Budget, Group, RowSplit, SchemeSplit, Suite

__all__ = ["check_gap", "divide", "limit"]

SCHEME = "suite"
MAX_GAP = 0.5  # s without a sample that end the time in which a target was observed
ROUNDING = 1e-6  # s; far below a sample, far above what rounding does to times in seconds

Parts = dict[str, IntervalSet]


def divide(recording: Recording, group: Group, suite: Suite) -> Parts:
    """Return the training, validation and test time of a recording, by the names of `SPLITS`.

    Time in which the units were not observed is in none of them. Validation time keeps the suite's
    gap from test time too: what is nearer is left out, so that a decoder may also be trained on it.

    Raises
    ------
    SuiteError
        If the recording has not the scheme, table or column that the suite names, or no training or
        test time is left.
    LeakError
        If training time is nearer to test time than the suite's gap.
    """
    where = f"{suite.name}, {recording.recording_id}"
    split, reach = group.split, suite.reach_of(group)
    try:
        if isinstance(split, SchemeSplit):
            parts = _by_scheme(recording, split, reach)
        elif isinstance(split, RowSplit):
            parts = _by_rows(recording, split, reach)
        else:
            parts = _by_time(recording, split, group, suite)
    except IntervalError as error:
        raise SuiteError(f"{where}: the split cannot be made: {error}") from None
    parts = {name: part.intersection(recording.domain) for name, part in parts.items()}
    parts["valid"] -= parts["test"].dilate(reach)
    for name in ("train", "test"):
        if parts[name].duration == 0:
            raise SuiteError(
                f"{where}: the split leaves no {name} time; see which splits and tables the "
                "recording has with `spikedata info`."
            )
    check_gap(where, parts, reach)
    return parts


def check_gap(where: str, parts: Parts, gap: float) -> None:
    """Refuse training or validation time that lies nearer to test time than `gap` seconds.

    Raises
    ------
    LeakError
        That says how much, and where first.
    """
    seen = parts["train"] | parts["valid"]
    near = parts["test"] & seen.dilate(max(gap - ROUNDING, 0.0))
    if near.duration > ROUNDING:
        raise LeakError(
            f"{where}: {near.duration:.3f} s of test time lie within {gap:g} s of training time, "
            f"first at {near.start[0]:.3f} s: a window there would see both. Keep them apart, or "
            "state a smaller `gap`, and why, in the suite."
        )


def limit(recording: Recording, parts: Parts, group: Group, budget: Budget, seed: int) -> Parts:
    """Return the parts with no more labels than a budget gives, drawn by the seed.

    Raises
    ------
    ConfigError
        If there are fewer labels than that.
    """
    table = group.trials or "trials"
    labels = budget.labels(table, seed)
    if labels is None or not group.transfer:
        return parts
    if budget.trials is not None and group.trials_where:
        rows = rows_where(recording, table, group.trials_where)
        recording = replace(recording, intervals={**recording.intervals, table: rows})
    limited = dict(parts)
    names = ("train", "valid") if budget.share is not None else ("train",)
    for name in names:
        if len(parts[name]):
            splits = {SCHEME: split_table({"train": parts[name]})}
            one = limit_labels(replace(recording, splits=splits), labels, SCHEME)
            limited[name] = one.split("train", SCHEME)
    if budget.share is None:
        limited["valid"] = IntervalSet.empty()
    return limited


def _by_scheme(recording: Recording, split: SchemeSplit, reach: float) -> Parts:
    parts = {name: recording.split(name, split.name) for name in SPLITS}
    if split.valid_from_train and not len(parts["valid"]):
        parts["train"], parts["valid"] = _last_of(parts["train"], split.valid_from_train, reach)
    return parts


def _last_of(train: IntervalSet, share: float, reach: float) -> tuple[IntervalSet, IntervalSet]:
    """Return time without its last share, and that share: whole intervals where there are many."""
    passed = np.cumsum(train.end - train.start)
    wanted = (1 - share) * passed[-1]
    row = int(np.argmin(np.abs(passed[:-1] - wanted))) if len(passed) > 1 else 0
    if len(passed) > 1 and abs(passed[row] - wanted) <= 0.1 * passed[-1]:
        kept = np.arange(len(train)) <= row
        return train.where(kept), train.where(~kept)
    row = int(np.searchsorted(passed, wanted))
    cut = float(train.end[row] - (passed[row] - wanted))
    return clip(train, -np.inf, cut - reach), clip(train, cut, np.inf)


def _by_rows(recording: Recording, split: RowSplit, reach: float) -> Parts:
    rows = rows_where(recording, split.table, split.where)
    if split.longest is not None:
        rows = rows.where(rows.end - rows.start <= split.longest)
    shares = np.array([split.train, split.train + split.valid])
    # 0.29 of 100 rows are 29, though floats make it 28.999…
    first, second = np.floor(np.round(len(rows) * shares, 9)).astype(int)
    at = np.arange(len(rows))
    chosen = {"train": at < first, "valid": (at >= first) & (at < second), "test": at >= second}
    parts = {name: rows.where(mask).coalesce() for name, mask in chosen.items()}
    # Rows may overlap by a rounding, or more: a later part begins where the one before it ends.
    for before, after in (("train", "valid"), ("train", "test"), ("valid", "test")):
        parts[after] -= parts[before]
    if split.whole and len(parts["train"]):
        held_out = parts["valid"] | parts["test"]
        end = float(held_out.start[0]) - reach if len(held_out) else np.inf
        parts["train"] = clip(recording.domain, -np.inf, end)
    held_out = parts["valid"] | parts["test"]
    parts["train"] -= held_out.dilate(reach)
    return parts


def rows_where(recording: Recording, table: str, where: Mapping[str, Sequence[str]]) -> IntervalSet:
    """Return the rows of an interval table whose columns have one of some values, as text.

    Raises
    ------
    IntervalError
        If there is no such table or column.
    """
    if table not in recording.intervals:
        raise IntervalError(
            f"no interval table is called '{table}'; {did_you_mean(table, recording.intervals)}"
        )
    rows = recording.intervals[table]
    kept = np.ones(len(rows), bool)
    for column, values in where.items():
        if column not in rows.columns:
            raise IntervalError(
                f"the table '{table}' has no column '{column}'; "
                f"{did_you_mean(column, rows.columns)}"
            )
        kept &= np.isin(np.asarray(rows.columns[column]).astype(str), values)
    return rows.where(kept)


def _by_time(recording: Recording, split: ChronologicalSplit, group: Group, suite: Suite) -> Parts:
    decodable = recording.domain
    if suite.task == "behaviour":
        decodable &= recording.series[group.target].coverage(MAX_GAP)
    shares = (split.train, split.valid, split.test)
    gap = max(split.gap, suite.reach_of(group))
    table = chronological_split(decodable, *shares, gap, split.blocks)
    names = np.asarray(table.columns["split"])
    return {name: table.where(names == name).coalesce() for name in SPLITS}
