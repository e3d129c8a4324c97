"""A gated recurrent network over bins: one way in causal suites, both ways in the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from pydantic import JsonValue
from torch import nn

from spikedata_model.leaderboard.cost import Cost
from spikedata_model.leaderboard.entrants.binned import Lags, windows
from spikedata_model.leaderboard.entrants.labelled import (
    LEAST_RATE,
    Labelled,
    Learning,
    hold,
    label,
    score,
    timing_for,
)
from spikedata_model.leaderboard.entrants.live import BinnedEntrant, ChainModel
from spikedata_model.leaderboard.entrants.training import (
    Batch,
    CountNetwork,
    Runner,
    alone,
    race,
    weighted_loss,
)
from spikedata_model.leaderboard.measuring import module_cost

__all__ = ["Gru"]

# Shapes: T bins in a row, N rows of bins in a batch, U units, H hidden, C channels.

MAX_VALID = 4000  # points that settings are chosen by
MAX_POINTS = 1_000_000
CHUNK = 2.0  # s of a row that is trained on
COSTED = 256  # bins that multiply-adds are counted on
BATCH = 32
STEPS, LAST = 50, 300  # of a stage of the race, and of the last
LEAST_SD = 0.1  # of a feature: rare spikes are not blown up
TURNS = 2  # of the chains that take turns, these many are trained on


Row = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Counts (T, U), labels (T, C), their weights (T,), and whether they are scored (T,)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One candidate; times in s."""

    bin: float = 0.05
    hidden: int = 96
    dropout: float = 0.4
    rate: float = 3e-3
    decay: float = 0.01
    weight_of_unscored_time: float = 1.0


CANDIDATES = (
    Settings(),
    Settings(bin=0.025),
    Settings(bin=0.1),
    Settings(dropout=0.6),
    Settings(rate=1e-3),
)


class Network(CountNetwork):
    """A GRU on square roots of counts, or two, and a linear map of their states.

    Parameters
    ----------
    mean, sd, start
        See `CountNetwork`; D is the number of units U.
    n_channels : int
        C.
    settings : Settings
        Sizes.
    both : bool
        Whether there is a second one, that reads from the end.

    References
    ----------
    Cho et al. 2014, EMNLP, arXiv 1406.1078: the gated recurrent unit.
    """

    def __init__(
        self,
        mean: np.ndarray,
        sd: np.ndarray,
        start: np.ndarray | None,
        n_channels: int,
        settings: Settings,
        *,
        both: bool,
    ) -> None:
        super().__init__(mean, sd, start)
        self.onward = nn.GRU(len(mean), settings.hidden)
        self.back = nn.GRU(len(mean), settings.hidden) if both else None
        self.dropout = nn.Dropout(settings.dropout)
        self.last = nn.Linear(settings.hidden * (2 if both else 1), n_channels)
        nn.init.zeros_(self.last.bias)

    def forward(self, given: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return estimates (T, N, C) after every bin.

        Parameters
        ----------
        given : tuple of Tensor
            Counts, shape (T, N, U), and how many bins of each row there are, shape (N,); what is
            behind them is not read by the others.
        """
        counts, length = given
        x = self.scaled(counts)
        states, _ = self.onward(x)
        if self.back is not None:
            place = torch.arange(len(x))[:, None]
            turned = (length - 1 - place).clamp(min=0)  # its own inverse, within a row
            rows = torch.arange(x.shape[1])
            later, _ = self.back(x[turned, rows])
            # Of the bins behind an estimate: the state at the next bin, none after the last one.
            behind = torch.where(
                (place + 1 < length)[..., None], later[(turned - 1).clamp(min=0), rows], 0.0
            )
            states = torch.cat([states, behind], dim=-1)
        return self.estimates(states)

    def estimates(self, states: torch.Tensor) -> torch.Tensor:
        """Return estimates (..., C) from states: in sd from the mean, or expected counts."""
        return self.answer(self.last(self.dropout(states)))


class Chain:
    """A network with the scale of its estimates, for `ChainModel`."""

    def __init__(self, network: Network, learning: Learning) -> None:
        self._network, self._rates = network, learning.rates
        self._mean, self._scale, self._floor = learning.mean, learning.sd, learning.floor

    def start(self) -> torch.Tensor:
        """Return the state before the first bin."""
        kind = self._network.mean.dtype
        return torch.zeros(1, self._network.onward.hidden_size, dtype=kind)

    def rest(self) -> np.ndarray:
        """Return the estimate before the first bin: the mean, (C,)."""
        return np.maximum(self._mean, self._floor) if self._rates else np.array(self._mean)

    def advance(self, state: torch.Tensor, counts: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Return the state after a bin with counts (U,), and the estimate there, (C,)."""
        network = self._network
        with alone(), torch.inference_mode():
            _, state = network.onward(network.scaled(torch.from_numpy(counts))[None], state)
            return state, self._unit(network.estimates(state))[0]

    def run(self, counts: np.ndarray) -> np.ndarray:
        """Return the estimates after each of the bins (T, U), shape (T, C)."""
        if not len(counts):
            return np.empty((0, len(self._mean)))
        given = torch.from_numpy(counts)[:, None], torch.tensor([len(counts)])
        with alone(), torch.inference_mode():
            return self._unit(self._network(given)[:, 0])

    def _unit(self, found: torch.Tensor) -> np.ndarray:
        values = found.double().numpy()
        if self._rates:
            return np.maximum(values, self._floor)
        return values * self._scale + self._mean


class Data:
    """Bins and labels of the training split in rows, and points of the validation split."""

    def __init__(self, learning: Learning, width: float) -> None:
        self.learning = learning
        self.timing = timing_for(learning, width)
        self.width = max(1, round(width / self.timing.bin))
        self.chunk = max(2, round(CHUNK / (self.width * self.timing.bin)))
        points = label(learning, learning.train, self.timing, MAX_POINTS)
        self.valid = hold(learning, self.timing, MAX_VALID)
        self.rows = [part for part in self._rows(points) if part[2].any()]
        if not self.rows:  # of a label at the very start of a segment, behind no bin
            self.rows = [self._nothing()]
        self.chances = np.cumsum([len(one[0]) for one in self.rows])
        total, squares = np.zeros(learning.n_units), np.zeros(learning.n_units)
        for counts, *_ in self.rows:
            total += np.sqrt(counts, dtype=np.float32).sum(axis=0, dtype=np.float64)
            squares += counts.sum(axis=0, dtype=np.float64)
        self.mean = total / self.chances[-1]
        spread = squares / self.chances[-1] - self.mean**2
        self.sd = np.maximum(np.sqrt(np.maximum(spread, 0.0)), LEAST_SD)

    def _nothing(self) -> Row:
        """Return one bin without spikes, of which the mean is expected."""
        learning = self.learning
        channels = len(learning.mean)
        truth = learning.mean if learning.rates else np.zeros(channels)
        none = np.zeros((1, learning.n_units), np.uint8)
        return none, truth[None], np.ones(1), np.ones(1, bool)

    def _rows(self, points: Labelled) -> Iterator[Row]:
        """Yield counts (T, U), labels (T, C), their weights (T,) and whether they are scored."""
        learning, offset = self.learning, 0
        values = points.values
        if not learning.rates:
            values = (values - learning.mean) / learning.scale
        for segment, (anchor, at) in zip(points.segments, points.points, strict=True):
            own = slice(offset, offset + len(at))
            offset += len(at)
            first = int(self.timing.index(anchor, segment.start)) + 1
            last = int(at[-1])
            if self.timing.step is None:
                last = max(last, -int(self.timing.index(-anchor, -segment.end)))
            for turn in np.unique(at % self.width)[:TURNS].tolist():
                ends = np.arange(first + (turn - first) % self.width, last + 1, self.width)
                if not len(ends):
                    continue
                parts = windows(
                    segment, self.timing, anchor, ends, Lags(self.width, 1), learning.n_units
                )  # fmt: skip
                row = (at - ends[0]) // self.width
                used = (at % self.width == turn) & (row >= 0)
                truth = np.zeros((len(ends), values.shape[1]))
                weight, scored = np.zeros(len(ends)), np.zeros(len(ends), bool)
                truth[row[used]] = values[own][used]
                weight[row[used]] = points.weight[own][used]
                scored[row[used]] = points.scored[own][used]
                counts = np.concatenate(list(parts))
                small = counts.max(initial=0) < 256
                yield counts.astype(np.uint8 if small else np.float32), truth, weight, scored

    def batch(self, seed: int, step: int, outside: float) -> Batch:
        """Return chunks that begin anywhere: ((counts, lengths), labels, weights)."""
        rng = np.random.default_rng([seed, step])
        drawn = rng.integers(self.chances[-1], size=BATCH)
        which = np.searchsorted(self.chances, drawn, side="right")
        size = min(self.chunk, max(len(self.rows[one][0]) for one in which))
        learning = self.learning
        x = np.zeros((size, BATCH, learning.n_units), np.float32)
        y = np.zeros((size, BATCH, len(learning.mean)), np.float32)
        w, length = np.zeros((size, BATCH), np.float32), np.zeros(BATCH, np.int64)
        for place, one in enumerate(which):
            counts, truth, weight, scored = self.rows[one]
            latest = max(0, len(counts) - size)
            begin = int(rng.integers(-size // 2, latest + size // 2 + 1))
            part = slice(min(max(0, begin), latest), min(max(0, begin), latest) + size)
            length[place] = count = len(counts[part])
            x[:count, place], y[:count, place] = counts[part], truth[part]
            w[:count, place] = weight[part] * np.where(scored[part], 1.0, outside)
        given = torch.from_numpy(x), torch.from_numpy(length)
        return given, torch.from_numpy(y), torch.from_numpy(w)

    def model(self, network: Network, settings: Settings) -> ChainModel:
        """Return a network as a decoder."""
        learning = self.learning
        about: dict[str, JsonValue] = {
            **asdict(settings), "bin": round(self.width * self.timing.bin, 6)
        }  # fmt: skip
        return ChainModel(
            self.timing, self.width, 0, learning.n_units, len(learning.mean),
            Chain(network, learning), about,
        )  # fmt: skip

    def cost(self, network: Network) -> Cost:
        """Return what one estimate of a network takes."""
        counts = torch.from_numpy(self.rows[0][0][:COSTED].astype(np.float32))[:, None]
        return module_cost(network, (counts, torch.tensor([len(counts)])), estimates=len(counts))

    def runner(self, settings: Settings, seed: int) -> Runner[Network]:
        """Return a network that can be trained."""
        learning = self.learning
        torch.manual_seed(seed)
        start = learning.floor / LEAST_RATE if learning.rates else None
        network = Network(
            self.mean, self.sd, start, len(learning.mean), settings,
            both=self.timing.step is None,
        )  # fmt: skip

        def found(network: Network) -> float:
            model = self.model(network, settings)
            return score(learning, self.valid, model.at(self.valid))

        return Runner(
            network,
            lambda step: self.batch(seed, step, settings.weight_of_unscored_time),
            lambda out, given: weighted_loss(out, given[1], given[2], rates=learning.rates),
            found, seed, settings.rate, settings.decay,
        )  # fmt: skip


class Gru(BinnedEntrant):
    """A recurrent network for every recording, over bins of spike counts.

    A race of bins, sizes, dropout and learning rates on the validation split; the winner goes on
    with a learning rate that falls to 0, and its best look at the validation split is kept. It is
    trained on chunks of 2 s, from the state 0 each, of the training split alone, and reads a
    segment from its start: what it remembers is its own affair.

    References
    ----------
    Glaser et al. 2020, "Machine Learning for Neural Decoding", eNeuro 7(4): GRUs on binned counts.
    """

    def learn(self, learning: Learning) -> ChainModel:
        """Return the network of one recording."""
        with alone():
            return _learn(learning)


def _learn(learning: Learning) -> ChainModel:
    seed = learning.rules.seed
    data = {width: Data(learning, width) for width in {one.bin for one in CANDIDATES}}
    candidates = list(CANDIDATES)
    scored = np.concatenate([one[3][one[2] > 0] for one in data[CANDIDATES[0].bin].rows])
    if scored.any() and not scored.all():
        candidates.append(replace(CANDIDATES[0], weight_of_unscored_time=0.1))
    runners = [data[one.bin].runner(one, seed) for one in candidates]
    won = race(runners, (2, 1), STEPS, LAST)
    settings, best = candidates[won], runners[won]
    network = best.result()
    model = data[settings.bin].model(network, settings)
    about = {
        **model.about, "steps": best.best_step, "valid_score": round(best.best_score, 6),
        "tried": len(candidates),
    }  # fmt: skip
    return replace(model, about=about, cost=data[settings.bin].cost(network))
