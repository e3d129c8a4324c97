"""What a decoder must be able to do to take part: `fit` on sessions, and `predict` a segment.

Nothing here knows POYO. A decoder sees what these classes hold and nothing else: of a segment to
predict, the spikes inside it and the times that are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from spikedata.intervals import IntervalSet
from spikedata_model.leaderboard.cost import Cost

__all__ = ["Entrant", "LiveEntrant", "Rules", "Segment", "Session"]

ALIKE = 1e-6  # share of a step by which times on one grid may differ

# Shapes: S spikes, K samples, C channels, U units.


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A stretch ``[start, end)`` of a recording without a gap, with all its spikes.

    Parameters
    ----------
    recording_id : str
        Of which recording.
    start, end : float
        Seconds on the recording's clock.
    spike_time : ndarray, shape (S,), float64
        Seconds on the recording's clock, sorted, all in ``[start, end)``.
    spike_unit : ndarray, shape (S,), int32
        Rows of `Session.unit_ids`.
    time : ndarray, shape (K,), float64
        When behaviour was sampled, sorted, in ``[start, end)``.
    values : ndarray, shape (K, C), float64, or None
        What is to be decoded, in the unit of the session; None in a segment to predict.
    at_samples : bool
        Whether the recording is sampled no faster than a causal suite asks for estimates: these are
        then made at the samples. It is one for all segments of a recording.
    """

    recording_id: str
    start: float
    end: float
    spike_time: np.ndarray
    spike_unit: np.ndarray
    time: np.ndarray
    values: np.ndarray | None = None
    at_samples: bool = False

    @property
    def labels(self) -> np.ndarray:
        """The values of a segment to learn from, shape (K, C).

        Raises
        ------
        ValueError
            If this is a segment to predict, which has none.
        """
        if self.values is None:
            raise ValueError(f"{self.recording_id}: a segment to predict has no values.")
        return self.values

    def estimates(self, step: float) -> tuple[np.ndarray, np.ndarray]:
        """Return when a causal decoder makes estimates, and which of them each sample gets.

        With `at_samples` at the samples themselves; else at `start` and every `step` seconds after
        it, and a sample gets the latest estimate that is there at its time.

        Returns
        -------
        edges : ndarray, shape (E,), float64
            An estimate at an edge may use spikes before it alone.
        row : ndarray, shape (K,), int64
            The edge of each sample.

        Examples
        --------
        >>> one = Segment("a/b", 1.0, 2.0, np.empty(0), np.empty(0, int), np.array([1.0, 1.1, 1.3]))
        >>> [part.tolist() for part in one.estimates(0.25)]
        [[1.0, 1.25], [0, 0, 1]]
        """
        if self.at_samples:
            return self.time, np.arange(len(self.time))
        row = np.floor((self.time - self.start) / step + ALIKE).astype(np.int64)
        count = int(row.max()) + 1 if len(row) else 0
        return self.start + step * np.arange(count), row


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """What a decoder may learn from one recording.

    Parameters
    ----------
    recording_id, group : str
        The recording, and the group of the suite that it is in.
    unit_ids : tuple of str, length U
        Its units; spikes are given by rows of this table.
    target : str
        What is decoded.
    columns : tuple of str, length C
        Its channels.
    unit : str
        Physical unit of the values.
    train, valid : tuple of Segment
        With values. `valid` is to choose settings by, and may be empty: then hold out a part of
        `train`.
    phases : mapping of str to IntervalSet
        Interval tables of the suite's group, as far as they lie in `train` and `valid`.
    evaluate_on : str or None
        The one of these that scores are taken on; None: all time.
    """

    recording_id: str
    group: str
    unit_ids: tuple[str, ...]
    target: str
    columns: tuple[str, ...]
    unit: str
    train: tuple[Segment, ...]
    valid: tuple[Segment, ...]
    phases: Mapping[str, IntervalSet] = field(default_factory=dict)
    evaluate_on: str | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every decoder of a suite.

    Parameters
    ----------
    task : {"behaviour", "rates"}
        Values are a series, or counts of units that are not shown, whose rates (expected counts per
        sample, above 0: a spike where 0 was said costs much) are asked for.
    causal : bool
        Whether an estimate at ``t`` may use spikes before ``t`` alone. It is tested. Estimates are
        made at the edges of `Segment.estimates`: between them a sample gets nothing newer.
    step : float or None
        Seconds between the estimates of a causal suite; seconds per bin of "rates".
    context : float
        Seconds of spikes around a sample that are of use.
    seed : int
        Every run with the same seed gives the same numbers.
    folder : Path
        For what a long fit keeps to go on from: the same one when a run that was stopped goes on.
        It is deleted when all is predicted.
    threads : int
        Cores to work on.
    """

    task: Literal["behaviour", "rates"]
    causal: bool
    step: float | None
    context: float
    seed: int
    folder: Path
    threads: int = 1


class Entrant(Protocol):
    """A decoder. Any class with these two methods takes part; it need not inherit from this one.

    What it may have besides: ``pretrained_on``, a sequence of the ids of all recordings (or names
    of sessions) that it saw before `fit`; ``about()``, a mapping of what it chose (settings) to be
    kept with the result; ``cost(recording_id)``, a `spikedata_model.leaderboard.cost.Cost`.
    """

    def fit(self, sessions: Sequence[Session], rules: Rules) -> None:
        """Learn from sessions: one with ``fit = "each"``, all of the suite with "together"."""
        ...

    def predict(self, segment: Segment) -> np.ndarray:
        """Return the values at ``segment.time``, shape (K, C), in the unit of the session.

        Of each segment on its own: the same one has the same answer whatever was asked before.
        """
        ...


@runtime_checkable
class LiveEntrant(Entrant, Protocol):
    """A decoder that also works a step at a time, whose steps are then timed.

    Estimates are asked for at the edges of `Segment.estimates`, and must be what `predict` says of
    the samples that get them.
    """

    def begin(self, recording_id: str, start: float) -> None:
        """Begin a segment: forget all spikes."""
        ...

    def step(self, spike_time: np.ndarray, spike_unit: np.ndarray, end: float) -> np.ndarray:
        """Take in the spikes of the step that ends at `end`, and return the estimate, (C,)."""
        ...


@runtime_checkable
class HasCost(Protocol):
    """A decoder that can say what one estimate takes."""

    def cost(self, recording_id: str) -> Cost:
        """Return what it takes to decode a recording."""
        ...
