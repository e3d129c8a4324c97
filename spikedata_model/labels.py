"""Few labels: a recording of which only a part of the training split may be learned from."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from spikedata.errors import did_you_mean
from spikedata.intervals import IntervalSet
from spikedata.recording import SPLITS, Recording
from spikedata.splits import split_table
from spikedata_model.config import Labels
from spikedata_model.errors import ConfigError

__all__ = ["limit_labels"]


def limit_labels(recording: Recording, labels: Labels, scheme: str | None = None) -> Recording:
    """Return the recording with a smaller training split; its other splits stay as they are.

    Trials count where all of them lies in the training split. Time is taken as one stretch of it,
    its gaps left out.

    Parameters
    ----------
    recording : Recording
        With splits.
    labels : Labels
        How much is kept.
    scheme : str, optional
        Split scheme; the recording's first one when not given.

    Raises
    ------
    ConfigError
        If the training split has fewer trials or less time than are asked for, or there is no such
        interval table.
    IntervalError
        If the recording has no such scheme.

    Examples
    --------
    >>> from spikedata.testing import make_recording
    >>> few = limit_labels(make_recording(duration=60.0), Labels(seconds=5.0))
    >>> list(few.split("train"))
    [(0.0, 5.0)]
    """
    parts = {name: recording.split(name, scheme) for name in SPLITS}
    seed = (
        None if labels.seed is None else [labels.seed, zlib.crc32(recording.recording_id.encode())]
    )
    rng = None if seed is None else np.random.default_rng(seed)
    take = _take_time if labels.trials is None else _take_trials
    parts["train"] = take(recording, parts["train"].coalesce(), labels, rng)
    chosen = next(iter(recording.splits)) if scheme is None else scheme
    return replace(recording, splits={**recording.splits, chosen: split_table(parts)})


def _take_trials(
    recording: Recording, train: IntervalSet, labels: Labels, rng: np.random.Generator | None
) -> IntervalSet:
    """Return the time of some trials in the training split."""
    count = labels.trials or 0
    if labels.table not in recording.intervals:
        raise ConfigError(
            f"{recording.recording_id} has no interval table '{labels.table}', so its trials "
            "cannot be counted; " + did_you_mean(labels.table, recording.intervals)
        )
    table = recording.intervals[labels.table]
    inside = np.flatnonzero(table.covered_by(train))
    if len(inside) < count:
        raise ConfigError(
            f"{recording.recording_id} has {len(inside)} rows of '{labels.table}' in its training "
            f"split, {count} labelled trials were asked for: ask for fewer."
        )
    kept = inside[:count] if rng is None else rng.choice(inside, count, replace=False)
    mask = np.zeros(len(table), bool)
    mask[kept] = True
    return table.where(mask).coalesce()


def _take_time(
    recording: Recording, train: IntervalSet, labels: Labels, rng: np.random.Generator | None
) -> IntervalSet:
    """Return a stretch of the training split."""
    amount = labels.seconds if labels.share is None else labels.share * train.duration
    if amount is None or amount > train.duration:
        raise ConfigError(
            f"{recording.recording_id} has {train.duration:g} s in its training split, "
            f"{amount:g} labelled seconds were asked for: ask for fewer."
        )
    if amount == train.duration:
        return train  # to the last bit
    passed = np.concatenate([[0.0], np.cumsum(train.end - train.start)])[:-1]
    first = 0.0 if rng is None else rng.uniform(0, train.duration - amount)
    # Each interval from where `first` seconds have passed to where `first + amount` have.
    start = train.start + np.maximum(first - passed, 0)
    end = np.minimum(train.end, train.start + (first + amount - passed))
    kept = start < end
    return IntervalSet(start[kept], end[kept])
