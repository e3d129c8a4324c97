"""Sessions of a suite as recordings that a POYO is trained on: what they hold, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain, count

import numpy as np

from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata.splits import split_table
from spikedata_model.config import Recipe, recipe_of
from spikedata_model.data import SPEEDS
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.protocol import Segment, Session

__all__ = ["SCHEME", "Known", "as_recording", "know", "recipe_for", "recording_to_decode"]

SCHEME = "suite"  # of the splits that the recordings get

# Shapes: K samples, C channels, D those of them that change.


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What stays known of a session after training.

    Parameters
    ----------
    unit_ids : tuple of str
        Its units, as the rows of the model are named.
    target : str
        Name of its readout in the model.
    columns : tuple of str, length C
        Its channels.
    unit : str
        Unit of the values.
    changes : ndarray, shape (C,), bool
        Which channels change in the labels; the others cannot be learned, and are answered by
        their one value.
    mean : ndarray, shape (C,), float64
        Mean of the labels that were trained on.
    n_samples : int
        How many there were.
    seconds, n_spikes : float, int
        Length of the training segments, and their spikes.
    """

    unit_ids: tuple[str, ...]
    target: str
    columns: tuple[str, ...]
    unit: str
    changes: np.ndarray
    mean: np.ndarray
    n_samples: int
    seconds: float
    n_spikes: int

    def complete(self, values: np.ndarray) -> np.ndarray:
        """Return values of all channels, (K, C), from those that change, (K, D)."""
        whole = np.tile(self.mean, (len(values), 1))
        whole[:, self.changes] = values
        return whole


def know(sessions: Sequence[Session], task: str, channels: Mapping[str, int]) -> dict[str, Known]:
    """Return what is known of every session, by the recording's id.

    Sessions of one target and the same channels share its readout. Counts of hidden units, which
    are other ones in every recording, have a readout of their own, and so has a session in which a
    channel stands still.

    Parameters
    ----------
    sessions : sequence of Session
        With labels.
    task : {"behaviour", "rates"}
        See `spikedata_model.leaderboard.protocol.Rules`.
    channels : mapping of str to int
        Readouts of the model to begin with, and their widths.

    Raises
    ------
    SuiteError
        If a session has no sample to learn from, or two are of one recording.
    """
    known: dict[str, Known] = {}
    readouts: dict[tuple[str, ...], str] = {}
    for one in sessions:
        used = _labelled(one.train)
        if not used:
            raise SuiteError(
                f"{one.recording_id}: expected training segments with samples of '{one.target}', "
                f"found none in {len(one.train)} segments; give a larger budget, or another split."
            )
        if one.recording_id in known:
            raise SuiteError(
                f"{one.recording_id}: expected one session a recording, found two; join them."
            )
        values = np.concatenate([part.labels for part in used])
        changes = values.min(axis=0) < values.max(axis=0)
        columns = tuple(np.array(one.columns, object)[changes].tolist())
        key = (one.target, one.recording_id if task == "rates" else "", *columns)
        if key not in readouts:
            others = {
                name for name, width in channels.items() if task == "rates" or width != len(columns)
            }
            readouts[key] = _free_name(one.target, others | set(readouts.values()))
        known[one.recording_id] = Known(
            unit_ids=tuple(_stored_id(one.recording_id, name) for name in one.unit_ids),
            target=readouts[key],
            columns=one.columns,
            unit=one.unit,
            changes=changes,
            # The mean of equal numbers may differ from them by a rounding.
            mean=np.where(changes, values.mean(axis=0), values[0]),
            n_samples=len(values),
            seconds=sum(part.end - part.start for part in used),
            n_spikes=sum(len(part.spike_time) for part in used),
        )
    return known


def as_recording(session: Session, known: Known) -> Recording:
    """Return a session as a recording: no time, spike or sample but those of its segments.

    Segments without a sample are left out. Each of the others is an interval of the split, so that
    no window reaches from one into the next.
    """
    parts = {"train": _labelled(session.train), "valid": _labelled(session.valid)}
    every = sorted([*parts["train"], *parts["valid"]], key=lambda one: one.start)
    values = np.concatenate([one.labels for one in every]).astype(np.float64)
    series = Series(
        values[:, known.changes], known.unit, _kept(known),
        time=np.concatenate([one.time for one in every]).astype(np.float64),
    )  # fmt: skip
    return Recording(
        recording_id=session.recording_id,
        spike_time=np.concatenate([one.spike_time for one in every]).astype(np.float64),
        spike_unit=np.concatenate([one.spike_unit for one in every]).astype(np.int32),
        units={"unit_id": np.array(known.unit_ids, str)},
        domain=_intervals(every).coalesce(),
        series={known.target: series},
        intervals={
            name: IntervalSet(table.start, table.end) for name, table in session.phases.items()
        },
        splits={SCHEME: split_table({name: _intervals(one) for name, one in parts.items()})},
        targets=(known.target,),
    )


def recording_to_decode(segment: Segment, known: Known) -> Recording:
    """Return a segment to predict as a recording whose test split it is; its values are zeros."""
    whole = IntervalSet.single(segment.start, segment.end)
    values = np.zeros((len(segment.time), int(known.changes.sum())))
    return Recording(
        recording_id=segment.recording_id,
        spike_time=np.asarray(segment.spike_time, np.float64),
        spike_unit=np.asarray(segment.spike_unit, np.int32),
        units={"unit_id": np.array(known.unit_ids, str)},
        domain=whole,
        series={
            known.target: Series(
                values, known.unit, _kept(known), time=np.asarray(segment.time, np.float64)
            )
        },
        splits={SCHEME: split_table({"test": whole})},
        targets=(known.target,),
    )


def recipe_for(session: Session, recipes: Sequence[Recipe]) -> Recipe | None:
    """Return what counts in a session: a preset's recipe, as far as the suite lets it be followed.

    Weights are those of the tables that the session has; a factor is left out where the unit of the
    values cannot be converted, and z-scores take its place. What chooses the weights to keep is R²
    on the suite's own phase where that has samples of the validation split, and on all of it
    where not.
    """
    base = recipe_of(session.recording_id, recipes)
    scored = session.evaluate_on if _is_scored(session) else None
    if base is None:
        if scored is None:
            return None
        return Recipe(recordings=session.recording_id, evaluate_on=scored)
    weights = {name: one for name, one in base.weights.items() if name in session.phases}
    fits = session.unit == base.unit or {session.unit, base.unit} <= set(SPEEDS)
    return Recipe(
        recordings=session.recording_id,
        weights=weights,
        divide_by=base.divide_by if fits else None,
        unit=base.unit,
        evaluate_on=scored,
    )


# ------------------------------------------------------------------ parts of the above


def _free_name(target: str, taken: Set[str]) -> str:
    """Return the target's name, or the first one with a number behind it that is not taken."""
    numbered = (f"{target}_{number}" for number in count(2))
    return next(name for name in chain([target], numbered) if name not in taken)


def _labelled(segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments that have samples, in order of time."""
    return sorted((one for one in segments if len(one.time)), key=lambda one: one.start)


def _intervals(segments: Sequence[Segment]) -> IntervalSet:
    bounds = np.array([(one.start, one.end) for one in segments], np.float64).reshape(-1, 2)
    return IntervalSet.sorted(bounds[:, 0], bounds[:, 1])


def _kept(known: Known) -> tuple[str, ...]:
    """Return the names of the channels that change."""
    return tuple(
        name for name, changes in zip(known.columns, known.changes, strict=True) if changes
    )


def _stored_id(recording_id: str, unit_id: str) -> str:
    """Return a unit's id as the store gives it: it begins with the recording's."""
    return unit_id if unit_id.startswith(f"{recording_id}/") else f"{recording_id}/{unit_id}"


def _is_scored(session: Session) -> bool:
    """Return whether validation samples lie in the table that the suite scores on."""
    table = session.phases.get(session.evaluate_on or "")
    if table is None:
        return False
    times = [one.time for one in session.valid]
    return bool(table.coalesce().contains(np.concatenate([*times, np.empty(0)])).any())
