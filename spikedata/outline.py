"""What a sampler must know of a recording before it opens it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spikedata.recording import SPLITS, Recording, select_split

__all__ = ["Outline", "outline_of"]


@dataclass(frozen=True, slots=True)
class Outline:
    """Counts, targets and split intervals of one recording; none of its data.

    Parameters
    ----------
    recording_id : str
        The recording.
    fingerprint : str
        SHA-256 over the hashes of its files, as in `Recording.fingerprint`; "" in memory.
    n_units : int
        Number of units.
    targets : tuple of str
        Series that the recording names as its targets.
    channels : mapping of str to int
        Width of each series.
    intervals : tuple of str
        Names of its interval tables.
    splits : mapping of str to (ndarray, ndarray, ndarray)
        For each scheme, the recording's first one first: start and end (float64, s) and the
        split of its intervals (int8, index in `SPLITS`, -1 for another name), each of shape (K,),
        sorted by start.
    """

    recording_id: str
    fingerprint: str
    n_units: int
    targets: tuple[str, ...]
    channels: Mapping[str, int]
    intervals: tuple[str, ...]
    splits: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]

    def split(self, name: str, scheme: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return start and end of the intervals of one split, as `Recording.split` does.

        Raises
        ------
        IntervalError
            If the recording has no such scheme or split.
        """
        chosen = select_split(self.recording_id, self.splits, name, scheme)
        start, end, split = self.splits[chosen]
        mine = split == SPLITS.index(name)
        return start[mine], end[mine]


def outline_of(recording: Recording) -> Outline:
    """Return the outline of an opened recording."""
    return Outline(
        recording_id=recording.recording_id,
        fingerprint=recording.fingerprint,
        n_units=recording.n_units,
        targets=recording.targets,
        channels={name: one.values.shape[1] for name, one in recording.series.items()},
        intervals=tuple(recording.intervals),
        splits={
            scheme: (rows.start, rows.end, split_codes(rows.columns["split"]))
            for scheme, rows in recording.splits.items()
        },
    )


def split_codes(names: np.ndarray) -> np.ndarray:
    """Return the index in `SPLITS` of each name, int8; -1 for another one."""
    codes = np.full(len(names), -1, np.int8)
    for code, name in enumerate(SPLITS):
        codes[np.asarray(names) == name] = code
    return codes
