"""Ridge regression on the counts around a sample, everything chosen on the validation split."""

from __future__ import annotations

from spikedata_model.leaderboard.entrants.labelled import (
    Learning,
)
from spikedata_model.leaderboard.entrants.linear import linear_model
from spikedata_model.leaderboard.entrants.live import BinnedEntrant, WindowModel

__all__ = ["Ridge"]

PENALTIES = tuple(10.0 ** (power / 2) for power in range(-12, 5))  # of `linear.solve`
WINDOWS = ((0.05, 0.25), (0.05, 0.5), (0.1, 0.5), (0.1, 1.0))  # s of a bin, s before and after
SETTINGS = tuple((*one, True) for one in WINDOWS)
KERNELS = (0.02, 0.03, 0.05, 0.08, 0.12)  # s


class Ridge(BinnedEntrant):
    """Ridge regression for every recording, its penalty, bins and lags chosen on validation.

    As the Wiener filter, with more to choose: bins and how far they reach, counts or their square
    roots, a fine grid of penalties, and whether training time that is not scored counts less.
    """

    def learn(self, learning: Learning) -> WindowModel:
        """Return the regression of one recording."""
        return linear_model(learning, SETTINGS, KERNELS, PENALTIES)
