"""A multi-layer perceptron on the counts around a sample: the baseline to fear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import nn

from spikedata_model.leaderboard.entrants.binned import Lags, Timing
from spikedata_model.leaderboard.entrants.labelled import (
    LEAST_RATE,
    Held,
    Labelled,
    Learning,
    hold,
    label,
    score,
    timing_for,
)
from spikedata_model.leaderboard.entrants.live import BinnedEntrant, WindowModel
from spikedata_model.leaderboard.entrants.training import (
    Batch,
    CountNetwork,
    Runner,
    alone,
    race,
    weighted_loss,
)
from spikedata_model.leaderboard.measuring import module_cost

__all__ = ["Mlp"]

# Shapes: P points, B bins, U units, D = B · U features, C channels.

MAX_FEATURES = 1500  # with more units bins are fewer and wider
MAX_ENTRIES = 60_000_000  # counts that are held for training
MAX_VALID = 4000  # points that settings are chosen by
BATCH = 128
COSTED = 256  # points that multiply-adds are counted on
STEPS = 120  # of a stage of a race
EPOCHS, LAST = 10, (400, 1000)  # of the last stage: passes, in at least and at most so many steps
LEAST_SD = 0.1  # of a feature: rare spikes are not blown up


@dataclass(frozen=True, slots=True)
class Settings:
    """One candidate; times in s."""

    bin: float = 0.05
    reach: float = 0.5
    hidden: int = 256
    depth: int = 2
    dropout: float = 0.4
    dropped_counts: float = 0.0
    rate: float = 1e-3
    decay: float = 0.01
    weight_of_unscored_time: float = 1.0


WINDOWS = (
    Settings(),
    Settings(reach=0.25),
    Settings(bin=0.02, reach=0.2),
    Settings(bin=0.1, reach=1.0),
)


def _variants(best: Settings, *, phases: bool) -> list[Settings]:
    """Return the settings that are raced on the window that was found best."""
    result = [
        best,
        replace(best, dropout=0.6),
        replace(best, dropped_counts=0.2),
        replace(best, depth=3),
        replace(best, hidden=128),
        replace(best, rate=5e-4, decay=0.3),
    ]
    if phases:
        result.append(replace(best, weight_of_unscored_time=0.1))
    return result


class Network(CountNetwork):
    """Layers of ``hidden`` units with layer norm, GELU and dropout, on square roots of counts.

    Parameters
    ----------
    mean, sd, start
        See `CountNetwork`.
    n_channels : int
        C.
    settings : Settings
        Sizes.
    """

    def __init__(
        self,
        mean: np.ndarray,
        sd: np.ndarray,
        start: np.ndarray | None,
        n_channels: int,
        settings: Settings,
    ) -> None:
        super().__init__(mean, sd, start)
        layers: list[nn.Module] = [nn.Dropout(settings.dropped_counts)]
        size = len(mean)
        for _ in range(settings.depth):
            layers += [
                nn.Linear(size, settings.hidden), nn.LayerNorm(settings.hidden), nn.GELU(),
                nn.Dropout(settings.dropout),
            ]  # fmt: skip
            size = settings.hidden
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(size, n_channels)
        nn.init.zeros_(self.last.bias)

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        """Return estimates (P, C) in sd from the mean, or expected counts, of counts (P, D)."""
        return self.answer(self.last(self.layers(self.scaled(counts))))


class Readout:
    """A network with the scale of its estimates."""

    def __init__(self, network: nn.Module, learning: Learning) -> None:
        self._network, self._rates = network, learning.rates
        self._mean, self._scale, self._floor = learning.mean, learning.sd, learning.floor

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Return the estimates (P, C), float64, of counts (P, D)."""
        with alone(), torch.inference_mode():
            found = self._network(torch.from_numpy(counts)).double().numpy()
        if self._rates:
            return np.maximum(found, self._floor)
        return found * self._scale + self._mean


class Data:
    """Counts and labels of a window, ready for training."""

    def __init__(self, learning: Learning, timing: Timing, lags: Lags) -> None:
        size = max(1, lags.bins * learning.n_units)
        self.learning = learning
        self.train = label(learning, learning.train, timing, max(1000, MAX_ENTRIES // size))
        self.valid = hold(learning, timing, MAX_VALID)
        self.x = _packed(self.train, timing, lags, learning.n_units)
        self.x_valid = _packed(self.valid, timing, lags, learning.n_units)
        values = self.train.values
        if not learning.rates:
            values = (values - learning.mean) / learning.scale
        self.y = torch.as_tensor(values, dtype=torch.float32)
        self.mean, self.sd = _moments(self.x)

    def weights(self, outside: float) -> torch.Tensor:
        """Return the weights of the training points, float32."""
        found = self.train.weight * np.where(self.train.scored, 1.0, outside)
        return torch.as_tensor(found / found.mean(), dtype=torch.float32)

    def score(self, network: nn.Module) -> float:
        """Return how good a network is on the validation split."""
        readout = Readout(network, self.learning)
        parts = [readout(one.float().numpy()) for one in self.x_valid.split(1024)]
        return score(self.learning, self.valid, np.concatenate(parts))


def _packed(points: Labelled | Held, timing: Timing, lags: Lags, n_units: int) -> torch.Tensor:
    """Return the counts (P, D) as uint8 where they fit."""
    parts = []
    for part in points.windows(timing, lags, n_units):
        small = not part.size or part.max() < 256
        parts.append(torch.from_numpy(part.astype(np.uint8 if small else np.float32)))
    kind = torch.uint8 if all(one.dtype == torch.uint8 for one in parts) else torch.float32
    return torch.cat([one.to(kind) for one in parts])


def _moments(counts: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the sd, at least `LEAST_SD`, of the square roots, each (D,)."""
    total, squares = torch.zeros(counts.shape[1]).double(), torch.zeros(counts.shape[1]).double()
    for part in counts.split(4096):
        total += part.double().sqrt().sum(dim=0)
        squares += part.double().sum(dim=0)
    mean = total / len(counts)
    sd = (squares / len(counts) - mean.square()).clamp(min=0).sqrt()
    return mean.numpy(), sd.clamp(min=LEAST_SD).numpy()


def runner(data: Data, settings: Settings, seed: int) -> Runner[Network]:
    """Return a network that can be trained on some data."""
    learning = data.learning
    torch.manual_seed(seed)
    start = learning.floor / LEAST_RATE if learning.rates else None
    network = Network(data.mean, data.sd, start, len(learning.mean), settings)
    weight = data.weights(settings.weight_of_unscored_time)

    def batch(step: int) -> Batch:
        rows = np.random.default_rng([seed, step]).integers(len(data.x), size=BATCH)
        rows = torch.from_numpy(rows)
        return data.x[rows], data.y[rows], weight[rows]

    def loss(found: torch.Tensor, given: Batch) -> torch.Tensor:
        return weighted_loss(found, given[1], given[2], rates=learning.rates)

    return Runner(
        network, batch, loss, data.score, seed, settings.rate, settings.decay
    )  # fmt: skip


class Mlp(BinnedEntrant):
    """A perceptron for every recording, on the spike counts around a sample.

    Two races on the validation split: of windows (width of the bins and how far they reach), then
    of sizes, dropout, weight decay and learning rate on the window that won. The winner goes on
    with a learning rate that falls to 0, and its best look at the validation split is kept. What is
    scored are means of the weights over the last steps of one training, not an ensemble. Fitted to
    the training split alone.

    References
    ----------
    Glaser et al. 2020, "Machine Learning for Neural Decoding", eNeuro 7(4): dense networks on
    windows of binned counts. Izmailov et al. 2018, UAI, arXiv 1803.05407: means of weights.
    """

    def learn(self, learning: Learning) -> WindowModel:
        """Return the network of one recording."""
        with alone():
            return _learn(learning)


def _learn(learning: Learning) -> WindowModel:
    timing, seed = timing_for(learning), learning.rules.seed
    cut: dict[Lags, Settings] = {}
    for one in WINDOWS:
        cut.setdefault(_lags(learning, timing, one), one)
    window = _best_window(learning, timing, list(cut.items()), seed)
    lags, best = window
    data = Data(learning, timing, lags)
    scored = data.train.scored
    variants = _variants(best, phases=bool(scored.any() and not scored.all()))
    runners = [runner(data, one, seed) for one in variants]
    last = int(np.clip(EPOCHS * len(data.x) // BATCH, *LAST))
    won = race(runners, (2, 1), STEPS, last)
    network = runners[won].result()
    about = {
        **asdict(variants[won]), "bin": round(lags.width * timing.bin, 6),
        "bins_before": lags.before, "bins_after": lags.after, "steps": runners[won].best_step,
        "valid_score": round(runners[won].best_score, 6), "tried": len(cut) + len(variants) - 1,
    }  # fmt: skip
    del about["reach"]
    counts = data.x[:COSTED].float()
    cost = module_cost(network, counts, estimates=len(counts))
    return WindowModel(
        timing, lags, learning.n_units, len(learning.mean), Readout(network, learning), about, cost
    )  # fmt: skip


def _lags(learning: Learning, timing: Timing, one: Settings) -> Lags:
    reach = min(one.reach, learning.rules.context)
    return Lags.reaching(timing, min(one.bin, reach), reach, learning.n_units, MAX_FEATURES)


def _best_window(
    learning: Learning, timing: Timing, windows: Sequence[tuple[Lags, Settings]], seed: int
) -> tuple[Lags, Settings]:
    """Return the window whose network is the best: of the better two after more steps."""
    left = list(range(len(windows)))
    runners = [
        runner(Data(learning, timing, lags), settings, seed) for lags, settings in windows
    ] if len(windows) > 1 else []  # fmt: skip
    while len(left) > 1:
        for one in left:
            runners[one].train(STEPS)
        left = sorted(left, key=lambda one: -runners[one].best_score)[: 2 if len(left) > 2 else 1]
    return windows[left[0]]
