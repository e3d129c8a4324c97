"""Fitted decoders of one recording, in two shapes: of a window of bins, or of bins one by one.

Both say the same of a whole segment and of a step at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from pydantic import JsonValue

from spikedata.errors import did_you_mean
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.cost import Cost
from spikedata_model.leaderboard.entrants.binned import Lags, Points, Recent, Timing, windows
from spikedata_model.leaderboard.entrants.labelled import (
    Held,
    Learning,
    learning_from,
)
from spikedata_model.leaderboard.protocol import Rules, Segment, Session

__all__ = ["BinnedEntrant", "Chain", "ChainModel", "Model", "Stepper", "WindowModel"]

# Shapes: P points, B bins, U units, C channels, T bins in a row.


class Stepper(Protocol):
    """A decoder in the middle of a segment."""

    def step(self, spike_time: np.ndarray, spike_unit: np.ndarray, end: float) -> np.ndarray:
        """Take in spikes before `end`, and return the estimate there, (C,)."""
        ...


@dataclass(frozen=True, eq=False)
class WindowModel:
    """A function of the counts in a window.

    Parameters
    ----------
    timing, lags : Timing, Lags
        The window.
    n_units, n_channels : int
        U and C.
    readout : callable
        From counts (P, B · U), float32, to estimates (P, C), float64.
    about, cost
        See `Entrant`.
    """

    timing: Timing
    lags: Lags
    n_units: int
    n_channels: int
    readout: Callable[[np.ndarray], np.ndarray]
    about: Mapping[str, JsonValue]
    cost: Cost

    def estimate(self, segment: Segment, points: Points) -> np.ndarray:
        """Return the estimates at the points of a segment, (P, C), float64."""
        parts = windows(
            segment, self.timing, points.anchor, points.at, self.lags, self.n_units
        )  # fmt: skip
        return np.concatenate([np.empty((0, self.n_channels)), *map(self.readout, parts)])

    def begin(self, start: float) -> Stepper:
        """Return a decoder of a segment that begins at `start` s."""
        return _WindowStepper(self)


class _WindowStepper:
    def __init__(self, model: WindowModel) -> None:
        self._model, lags = model, model.lags
        self._recent = Recent(model.timing, lags.width * lags.before, model.n_units)

    def step(self, spike_time: np.ndarray, spike_unit: np.ndarray, end: float) -> np.ndarray:
        model, lags = self._model, self._model.lags
        counts = self._recent.move_to(self._recent.take(spike_time, spike_unit, end))
        bins = counts.reshape(lags.before, lags.width, model.n_units).sum(axis=1)
        return model.readout(bins.reshape(1, -1))[0]


class Chain(Protocol):
    """A decoder that reads bins one after the other and keeps a state."""

    def start(self) -> Any:
        """Return the state before the first bin."""
        ...

    def rest(self) -> np.ndarray:
        """Return the estimate before the first bin, (C,)."""
        ...

    def advance(self, state: Any, counts: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return the state after a bin with counts (U,), and the estimate there, (C,)."""
        ...

    def run(self, counts: np.ndarray) -> np.ndarray:
        """Return the estimates after each of the bins (T, U), which are all there are, (T, C)."""
        ...


@dataclass(frozen=True, eq=False)
class ChainModel:
    """A chain over bins of `width` grid bins.

    With estimates more often than bins, `width` chains take turns, each of them on bins that end
    at its own points: so every estimate rests on the latest spikes.

    Parameters
    ----------
    timing : Timing
        The grid.
    width : int
        Grid bins in a bin.
    lag : int
        Grid bins between the end of the last bin that is read and the estimate.
    n_units, n_channels : int
        U and C.
    chain : Chain
        The decoder.
    about, cost
        See `Entrant`.
    """

    timing: Timing
    width: int
    lag: int
    n_units: int
    n_channels: int
    chain: Chain
    about: Mapping[str, JsonValue] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    def estimate(self, segment: Segment, points: Points) -> np.ndarray:
        """Return the estimates at the points of a segment, (P, C), float64."""
        result = np.tile(self.chain.rest(), (len(points.at), 1))
        for ends, rows in self._turns(segment, points):
            bins = windows(
                segment, self.timing, points.anchor, ends - self.lag, Lags(self.width, 1),
                self.n_units,
            )  # fmt: skip
            found = self.chain.run(np.concatenate([np.empty((0, self.n_units), np.float32), *bins]))
            result[rows] = found[(points.at[rows] - ends[0]) // self.width]
        return result

    def at(self, held: Held) -> np.ndarray:
        """Return the estimates at the points of validation samples, (P, C)."""
        parts = zip(held.segments, held.points, strict=True)
        return np.concatenate([self.estimate(segment, points) for segment, points in parts])

    def _turns(self, segment: Segment, points: Points) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the ends of the bins of each chain that is asked, and the points that it is for."""
        if not len(points.at):
            return
        first = int(self.timing.index(points.anchor, segment.start)) + 1 + self.lag
        last = int(points.at[-1])
        if self.timing.step is None:  # all there is, so that what follows a point tells of it too
            last = max(last, -int(self.timing.index(-points.anchor, -segment.end)) + self.lag)
        for turn in np.unique(points.at % self.width).tolist():
            begin = first + (turn - first) % self.width
            rows = np.flatnonzero((points.at % self.width == turn) & (points.at >= begin))
            if len(rows):
                yield np.arange(begin, max(last, begin) + 1, self.width), rows

    def begin(self, start: float) -> Stepper:
        """Return a decoder of a segment that begins at `start` s."""
        return _ChainStepper(self, start)


class _ChainStepper:
    def __init__(self, model: ChainModel, start: float) -> None:
        self._model, self._start = model, start
        self._recent = Recent(model.timing, model.width + model.lag, model.n_units)
        self._states: dict[int, Any] = {}
        self._latest: dict[int, np.ndarray] = {}
        self._at: int | None = None

    def step(self, spike_time: np.ndarray, spike_unit: np.ndarray, end: float) -> np.ndarray:
        model, chain, recent = self._model, self._model.chain, self._recent
        at = recent.take(spike_time, spike_unit, end)
        if self._at is None:
            first = model.timing.index(recent.anchor or 0.0, self._start)
            self._at = int(first) + model.lag
        for point in range(self._at + 1, at + 1):
            counts = recent.move_to(point)[: model.width].sum(axis=0)
            turn = point % model.width
            state = self._states[turn] if turn in self._states else chain.start()
            self._states[turn], self._latest[turn] = chain.advance(state, counts)
        self._at = max(at, self._at)
        return self._latest.get(at % model.width, chain.rest()).copy()


Model = WindowModel | ChainModel


class BinnedEntrant:
    """An entrant with a decoder for every recording: units differ between them."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self._live: Stepper | None = None

    def learn(self, learning: Learning) -> Model:
        """Return a decoder of one recording."""
        raise NotImplementedError

    def fit(self, sessions: Sequence[Session], rules: Rules) -> None:
        """Learn from each session by itself.

        Raises
        ------
        SuiteError
            If a session has no labelled sample in its training time, or labels are no numbers.
        """
        for session in sessions:
            self._models[session.recording_id] = self.learn(learning_from(session, rules))

    def predict(self, segment: Segment) -> np.ndarray:
        """Return the values at ``segment.time``, shape (K, C), in the unit of the session.

        Raises
        ------
        SuiteError
            If the recording was not fitted.
        """
        model = self._model(segment.recording_id)
        points = model.timing.points(segment)
        return points.samples(model.estimate(segment, points))

    def begin(self, recording_id: str, start: float) -> None:
        """Begin a segment: forget all spikes.

        Raises
        ------
        SuiteError
            If the recording was not fitted, or the suite is not causal.
        """
        model = self._model(recording_id)
        if model.timing.step is None:
            raise SuiteError(
                f"{recording_id}: estimates of a suite that is not causal rest on later spikes; "
                "only those of a causal one can be made step by step."
            )
        self._live = model.begin(start)

    def step(self, spike_time: np.ndarray, spike_unit: np.ndarray, end: float) -> np.ndarray:
        """Take in the spikes of the step that ends at `end`, and return the estimate, (C,).

        Raises
        ------
        SuiteError
            If no segment was begun.
        """
        if self._live is None:
            raise SuiteError("No segment was begun; call begin before the first step.")
        return self._live.step(spike_time, spike_unit, end)

    def about(self) -> dict[str, JsonValue]:
        """Return what was chosen for each recording, by its id."""
        return {name: dict(model.about) for name, model in self._models.items()}

    def cost(self, recording_id: str) -> Cost:
        """Return what it takes to decode a recording.

        Raises
        ------
        SuiteError
            If the recording was not fitted.
        """
        return self._model(recording_id).cost

    def _model(self, recording_id: str) -> Model:
        if recording_id not in self._models:
            raise SuiteError(
                f"{recording_id}: this decoder was not fitted to the recording; "
                f"{did_you_mean(recording_id, self._models)}"
            )
        return self._models[recording_id]
