"""How the networks of the baselines are trained: a race of settings, then the winner to its end.

All budgets are steps, never seconds, so that a run is the same on every machine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

__all__ = ["Batch", "CountNetwork", "Runner", "alone", "race", "weighted_loss"]

Batch = tuple[Any, torch.Tensor, torch.Tensor]  # what a network takes, truth, weight
Network = TypeVar("Network", bound=nn.Module)
DECAY_FROM = 0.3  # share of the last stage after which the learning rate falls, to 0 at its end
EMA = 0.98  # of the weights that are scored
CHECKS = 8  # looks at the validation split in a stage
CLIP = 1.0  # norm of a gradient


@contextmanager
def alone() -> Iterator[None]:
    """Work on one core, so that sums are always made in the same order, and draw for oneself."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


def weighted_loss(
    found: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, *, rates: bool
) -> torch.Tensor:
    """Return the mean squared error, or Poisson loss of rates, weighted by sample.

    Parameters
    ----------
    found, truth : Tensor, shape (..., C)
        Estimates and truth.
    weight : Tensor, shape (...)
        Of each sample.
    rates : bool
        Whether these are expected counts, above 0, and counts.
    """
    loss = found - truth * torch.log(found) if rates else (found - truth).square()
    return (loss.mean(dim=-1) * weight).sum() / weight.sum().clamp(min=1e-9)


class CountNetwork(nn.Module):
    """What networks share that read square roots of counts, and answer in sd or expected counts.

    Parameters
    ----------
    mean, sd : ndarray, shape (D,)
        Of the square roots, which are taken off and divided by.
    start : ndarray, shape (C,), or None
        Expected counts that a network of rates begins with.
    """

    def __init__(self, mean: np.ndarray, sd: np.ndarray, start: np.ndarray | None) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.as_tensor(mean, dtype=torch.float32))
        self.inverse = nn.Buffer(torch.as_tensor(1 / sd, dtype=torch.float32))
        rates = np.ones(0) if start is None else start
        self.start = nn.Buffer(torch.as_tensor(rates, dtype=torch.float32))

    def scaled(self, counts: torch.Tensor) -> torch.Tensor:
        """Return what is read of counts (..., D)."""
        return (counts.to(self.mean.dtype).sqrt() - self.mean) * self.inverse

    def answer(self, out: torch.Tensor) -> torch.Tensor:
        """Return estimates (..., C): in sd from the mean, or expected counts, of the last layer."""
        if not len(self.start):
            return out
        # Softplus, which is 1 at the start; never 0, so that its logarithm exists.
        return self.start * (nn.functional.softplus(out + 0.5413) + 1e-4)


@dataclass(eq=False)
class Runner(Generic[Network]):
    """A network in training.

    Parameters
    ----------
    network : Module
        What is trained.
    batch : callable
        From the number of a step to a batch; of a seed and this number alone.
    loss : callable
        Of an output and a batch.
    score : callable
        How good a network is on the validation split: higher is better.
    seed : int
        Of dropout.
    rate, decay : float
        Learning rate and weight decay of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101).
    """

    network: Network
    batch: Callable[[int], Batch]
    loss: Callable[[torch.Tensor, Batch], torch.Tensor]
    score: Callable[[Network], float]
    seed: int
    rate: float
    decay: float

    def __post_init__(self) -> None:
        self.mean = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.rate, weight_decay=self.decay
        )
        self.steps = 0
        self.best_score = -np.inf
        self.best_step = 0
        self.best_state = copy.deepcopy(self.mean.state_dict())

    def train(self, count: int, *, last: bool = False) -> float:
        """Take so many steps, and return the best score so far.

        In the last stage the learning rate falls to 0.
        """
        every = max(1, count // CHECKS)
        for step in range(1, count + 1):
            if last:
                left = (count - step + 1) / (count * (1 - DECAY_FROM))
                for group in self.optimizer.param_groups:
                    group["lr"] = self.rate * min(1.0, left)
            self._step()
            if step % every == 0 or step == count:
                self._look()
        return self.best_score

    def _step(self) -> None:
        self.network.train()
        torch.manual_seed((self.seed << 32) + self.steps)  # of dropout
        batch = self.batch(self.steps)
        loss = self.loss(self.network(batch[0]), batch)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.steps += 1
        decay = min(EMA, self.steps / (self.steps + 10))
        with torch.no_grad():
            for mean, now in zip(self.mean.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)

    def _look(self) -> None:
        found = self.score(self.mean.eval())
        if found > self.best_score:
            self.best_score, self.best_step = found, self.steps
            self.best_state = copy.deepcopy(self.mean.state_dict())

    def result(self) -> Network:
        """Return the network at its best look, in float64: one sample or many are then alike."""
        self.mean.load_state_dict(self.best_state)
        return self.mean.eval().double()


def race(runners: Sequence[Runner], keep: Sequence[int], steps: int, last: int) -> int:
    """Train all, go on with the best of them, and the best of these; return which one is left.

    Successive halving: Jamieson and Talwalkar 2016, AISTATS, arXiv 1502.07943.

    Parameters
    ----------
    runners : sequence of Runner
        One for each setting.
    keep : sequence of int
        How many go on after each stage; the last is 1, and is trained to the end.
    steps, last : int
        Of each stage, and of the last, in which the learning rate falls to 0.
    """
    left = list(range(len(runners)))
    for count in keep:
        for one in left:
            runners[one].train(steps)
        left = sorted(left, key=lambda one: -runners[one].best_score)[:count]
    runners[left[0]].train(last, last=True)
    return left[0]
