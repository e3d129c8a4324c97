"""The Wiener filter: a linear map of the counts in the bins around a sample."""

from __future__ import annotations

from spikedata_model.leaderboard.entrants.labelled import (
    Learning,
)
from spikedata_model.leaderboard.entrants.linear import linear_model
from spikedata_model.leaderboard.entrants.live import BinnedEntrant, WindowModel

__all__ = ["Wiener"]

PENALTIES = tuple(10.0**power for power in range(-6, 2))  # of `linear.solve`
WINDOWS = ((0.05, 0.5), (0.1, 0.5), (0.1, 1.0), (0.25, 1.0))  # s of a bin, s before and after
SETTINGS = tuple((*one, False) for one in WINDOWS)  # no square roots
KERNELS = (0.02, 0.05, 0.1)  # s


class Wiener(BinnedEntrant):
    """A Wiener filter for every recording: a linear map of lagged spike counts.

    Least squares on spike counts in bins over half a second or one before a sample, and after it
    where the suite is not causal (as far as its context goes). The bins are chosen on the
    validation split, and with them a penalty, from next to none to one that is felt: with 200 units
    there are as many weights as independent samples. Rates are a linear map of smoothed counts.

    References
    ----------
    Glaser et al. 2020, "Machine Learning for Neural Decoding", eNeuro 7(4), for the filter.
    """

    def learn(self, learning: Learning) -> WindowModel:
        """Return the filter of one recording."""
        return linear_model(learning, SETTINGS, KERNELS, PENALTIES)
