"""How a training goes: loss, R², tokens a second, time left and memory, by row and in one line."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from spikedata_model.config import TrainConfig

__all__ = ["Journal", "best_row", "has_stalled", "peak_memory"]

MB = 1_000_000


def best_row(curve: Sequence[Mapping[str, float]]) -> int | None:
    """Return the first row of a curve with the highest mean R², or nothing if none has one."""
    scores = [row.get("mean r2", math.nan) for row in curve]
    known = [row for row, score in enumerate(scores) if math.isfinite(score)]
    return max(known, key=lambda row: scores[row], default=None)


def has_stalled(curve: Sequence[Mapping[str, float]], settings: TrainConfig) -> bool:
    """Return whether as many rows as ``patience`` brought no better mean R²; with 0 never.

    Where most weights are frozen at first, and not to the end, rows of that time do not count.

    Examples
    --------
    >>> curve = [{"step": 5 * n, "mean r2": r2} for n, r2 in enumerate((0.1, 0.5, 0.4, 0.5), 1)]
    >>> [has_stalled(curve, TrainConfig(steps=50, patience=patience)) for patience in (2, 3)]
    [True, False]
    >>> has_stalled(curve, TrainConfig(steps=50, patience=2, frozen=0.3))
    False
    """
    best, thawed = best_row(curve), settings.frozen_steps
    if settings.patience == 0 or best is None:
        return False
    thawed = 0 if thawed == settings.total_steps else thawed
    return sum(row["step"] > thawed for row in curve[best + 1 :]) >= settings.patience


def peak_memory() -> dict[str, float]:
    """Return the most memory that this process has held, and on the GPU if it used one, in MB.

    Held means resident: pages of a store that are mapped and were read count too. On systems that
    do not tell, it is nan.
    """
    held = math.nan
    if sys.platform != "win32":
        import resource

        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        held *= 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    memory = {"memory_mb": round(held / MB, 1)}
    if torch.cuda.is_initialized():
        memory["gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / MB, 1)
    return memory


class Journal:
    """The learning curve of a run, and what was seen since its last row.

    Parameters
    ----------
    total_steps : int
        Steps of the whole run.
    step : int
        Steps done.
    seconds : float
        Wall time of these, without evaluations.
    curve : sequence of dict
        Rows so far.
    losses : sequence of float
        Loss of every step since the last row.
    """

    def __init__(
        self,
        total_steps: int,
        step: int = 0,
        seconds: float = 0.0,
        curve: Sequence[dict[str, float]] = (),
        losses: Sequence[float] = (),
    ) -> None:
        self.total_steps, self.step, self.seconds = total_steps, step, seconds
        self.curve, self.losses = list(curve), list(losses)
        self._steps, self._tokens, self._seconds = 0, 0, 0.0  # in this process, since the last row
        self._speed = (math.nan, math.nan)  # tokens and steps a second

    def add(self, loss: float, n_tokens: int, seconds: float) -> None:
        """Take down one more step: its loss, its tokens and its wall time."""
        self.step += 1
        self.seconds += seconds
        self.losses.append(loss)
        self._steps, self._tokens = self._steps + 1, self._tokens + n_tokens
        self._seconds += seconds
        self._speed = (self._tokens / self._seconds, self._steps / self._seconds)

    def add_row(self, scores: Mapping[str, float]) -> None:
        """End a row of the curve with the scores of the model as it is now.

        Parameters
        ----------
        scores : mapping of str to float
            R² by ``"r2 <recording> <target> <channel>"``; none where nothing can be scored.
        """
        row = {"step": self.step, "seconds": self.seconds, "loss": float(np.mean(self.losses))}
        if scores:
            row["mean r2"] = _mean(scores.values())
        row["tokens_per_s"] = round(self._speed[0], 1)
        row["seconds_left"] = round(self.seconds_left, 1)
        self.curve.append(row | peak_memory() | dict(scores))
        self.losses.clear()
        self._steps, self._tokens, self._seconds = 0, 0, 0.0

    @property
    def is_best(self) -> bool:
        """Whether the last row of the curve is of this step, and the best one."""
        last = len(self.curve) - 1
        return last >= 0 and self.curve[-1]["step"] == self.step and best_row(self.curve) == last

    def is_over(self, settings: TrainConfig) -> bool:
        """Return whether the run is done: all steps are, or `has_stalled` says so."""
        return self.step >= self.total_steps or has_stalled(self.curve, settings)

    @property
    def seconds_left(self) -> float:
        """How long the rest of the steps will take at the present speed, in s."""
        left = self.total_steps - self.step
        return left / self._speed[1] if left else 0.0

    def line(self) -> str:
        """Return how the training goes, behind a comma that begins what changes."""
        parts = ["training"]
        if self.losses or self.curve:
            recent = np.mean(self.losses[-20:]) if self.losses else self.curve[-1]["loss"]
            parts.append(f"loss {recent:.3f}")
        if self.curve and "mean r2" in self.curve[-1]:
            parts.append(f"R² {self.curve[-1]['mean r2']:.3f}")
        if math.isfinite(self._speed[0]):
            parts.append(f"{self._speed[0]:,.0f} tokens/s")
        memory = peak_memory()
        parts += [f"{memory['memory_mb']:,.0f} MB"] if math.isfinite(memory["memory_mb"]) else []
        if "gpu_memory_mb" in memory:
            parts.append(f"GPU {memory['gpu_memory_mb']:,.0f} MB")
        return ", ".join(parts)


def _mean(values: Iterable[float]) -> float:
    """Return the mean of those that are numbers: a channel that stands still has no R²."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
