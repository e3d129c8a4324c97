"""Which row of the embedding tables belongs to which unit and recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spikedata.errors import did_you_mean
from spikedata_model.errors import VocabularyError

__all__ = ["Vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """Ids of units and recordings in the order of their embedding rows.

    Parameters
    ----------
    unit_ids, recording_ids : tuple of str
        Row ``i`` belongs to id ``i``.

    Raises
    ------
    VocabularyError
        If an id occurs twice.
    """

    unit_ids: tuple[str, ...]
    recording_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind, ids in (("unit", self.unit_ids), ("recording", self.recording_ids)):
            if len(set(ids)) < len(ids):
                twice = next(one for one in ids if ids.count(one) > 1)
                raise VocabularyError(f"The {kind} '{twice}' occurs twice in the vocabulary.")

    @cached_property
    def _unit_rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.unit_ids)}

    @cached_property
    def _recording_rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.recording_ids)}

    def with_more(self, unit_ids: Sequence[str], recording_ids: Sequence[str]) -> Vocabulary:
        """Return a vocabulary with ids behind those it has; what it knows keeps its row.

        Examples
        --------
        >>> Vocabulary(("a",), ("r",)).with_more(["b", "a"], ["s"])
        Vocabulary(unit_ids=('a', 'b'), recording_ids=('r', 's'))
        """
        units = [name for name in unit_ids if name not in self._unit_rows]
        recordings = [name for name in recording_ids if name not in self._recording_rows]
        return Vocabulary((*self.unit_ids, *units), (*self.recording_ids, *recordings))

    def unit_rows(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the embedding rows of units, shape (U,), int64.

        Raises
        ------
        VocabularyError
            If the model was not trained on one of them.
        """
        return _rows("unit", ids, self._unit_rows)

    def recording_rows(self, ids: Sequence[str]) -> np.ndarray:
        """Return the embedding rows of recordings, shape (R,), int64; errors as `unit_rows`."""
        return _rows("recording", ids, self._recording_rows)


def _rows(kind: str, ids: Sequence[str] | np.ndarray, known: dict[str, int]) -> np.ndarray:
    names = [str(name) for name in ids]
    unknown = [name for name in names if name not in known]
    if unknown:
        near = did_you_mean(unknown[0], known)
        raise VocabularyError(
            f"The model knows no {kind} '{unknown[0]}' ({len(unknown)} unknown of {len(names)}): "
            f"train it on that recording first; {near if len(near) < 300 else near[:300] + ' …'}"
        )
    return np.array([known[name] for name in names], np.int64)
