"""Expected counts from what a regression says of them: above 0, and no bolder than it pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Rates", "fit_rates"]

# Shapes: K bins, C hidden units.

TRUST = (1.0, 0.75, 0.5, 0.25, 0.0)  # the first of equal ones is taken
FLOOR = (0.1, 0.03, 0.01, 0.3)
"""Shares of a unit's mean count below which no estimate falls, that are tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """How estimates of counts become expected counts.

    Parameters
    ----------
    mean : ndarray, shape (C,), float64
        Mean count of each unit per bin, above 0.
    trust : float
        What is left of an estimate's distance from the mean, 0 to 1.
    floor : float
        Least answer as a share of the mean.
    """

    mean: np.ndarray
    trust: float = TRUST[0]
    floor: float = FLOOR[0]

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return expected counts, above 0, from estimates; both (K, C)."""
        return np.maximum(self.mean + self.trust * (values - self.mean), self.floor * self.mean)

    def log_likelihood(self, values: np.ndarray, counts: np.ndarray) -> float:
        """Return Σ n log λ - λ, the Poisson likelihood of counts but for what no λ changes."""
        rate = self.of(values)
        return float(np.sum(counts * np.log(rate) - rate))


def fit_rates(
    mean: np.ndarray,
    n_bins: int,
    estimates: Sequence[np.ndarray],
    counts: Sequence[np.ndarray],
) -> Rates:
    """Return the trust and the floor under which counts of a validation split are likeliest.

    Where there are no such counts, estimates are trusted, and the floor is a tenth of the mean.

    Parameters
    ----------
    mean : ndarray, shape (C,), float64
        Mean training counts. Of a unit that never fired half a spike in all bins is taken: with 0
        its first spike would be impossible.
    n_bins : int
        Training bins.
    estimates, counts : sequence of ndarray, each of shape (K, C)
        What the model says of each validation segment, and what was counted.
    """
    mean = np.maximum(mean, 0.5 / n_bins)
    if not sum(len(one) for one in estimates):
        return Rates(mean)
    said, found = np.concatenate(estimates), np.concatenate(counts)
    tried = [Rates(mean, trust, floor) for trust in TRUST for floor in FLOOR]
    return max(tried, key=lambda one: one.log_likelihood(said, found))
