"""From a batch of windows to the tokens and queries that POYO reads, padded to one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from spikedata.batch import Batch
from spikedata_model.errors import ConfigError
from spikedata_model.vocabulary import Vocabulary

__all__ = ["END", "SPIKE", "START", "Tokenizer", "Tokens"]

SPIKE, START, END = 0, 1, 2
"""Token types, as in the published model: a spike, and the two delimiters of every unit."""

ROUNDING = 1e-6  # s, of start and end on a clock that counts from 1970


@dataclass(frozen=True, slots=True)
class Tokens:
    """The input of `Poyo.forward`: B windows, N tokens and M queries after padding.

    Parameters
    ----------
    unit_BN, type_BN : Tensor of int32
        Embedding row of the unit, and token type, of each token.
    time_BN : Tensor of float32
        Seconds from the start of the window.
    mask_BN : Tensor of bool
        Which tokens are there; the others are padding.
    recording_B : Tensor of int64
        Embedding row of each window's recording.
    query_time_BM : Tensor of float32
        Times to predict at, in seconds from the start of the window.
    query_target_BM : Tensor of int64
        Index of the target that each query asks for; -1 for padding.
    """

    unit_BN: torch.Tensor
    type_BN: torch.Tensor
    time_BN: torch.Tensor
    mask_BN: torch.Tensor
    recording_B: torch.Tensor
    query_time_BM: torch.Tensor
    query_target_BM: torch.Tensor

    def to(self, device: torch.device | str) -> Tokens:
        """Return the same tokens on another device."""
        return Tokens(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Tokenizer:
    """Makes tokens of batches: their spikes, and a START and an END token for every unit.

    The delimiters tell the model which units were recorded, silent ones included. A START
    token lies at 0 s, an END token at the end of the window. In each window the START tokens come
    first, then the END tokens, then the spikes. The queries of the targets follow one another in
    the order of ``batch.targets``.

    Parameters
    ----------
    vocabulary : Vocabulary
        Embedding rows of units and recordings.
    unit_ids : ndarray, shape (U,), str
        The sampler's unit ids, in the order of its global unit index.
    recording_ids : sequence of str
        The sampler's recordings.
    context : float
        Longest window in seconds that the model's latents cover.
    multiple : int
        The number of tokens a window is padded to is a multiple of this.

    Raises
    ------
    VocabularyError
        If the model does not know a unit or recording.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        unit_ids: np.ndarray,
        recording_ids: Sequence[str],
        *,
        context: float,
        multiple: int = 1,
    ) -> None:
        self.context, self.multiple = context, multiple
        rows = vocabulary.unit_rows(unit_ids).astype(np.int32)
        # Rows in the order of the units, as in training, are faster to add than to look up.
        self._shift = rows[0] if len(rows) and np.all(np.diff(rows) == 1) else None
        self._unit_row = rows
        self._recording_row = vocabulary.recording_rows(recording_ids)

    def __call__(self, batch: Batch) -> Tokens:
        """Return the tokens of a batch of the sampler.

        Raises
        ------
        ConfigError
            If a window is longer than the context.
        """
        if np.any(batch.length > self.context + ROUNDING):
            raise ConfigError(
                f"A window of {batch.length.max():.6g} s is longer than the model's context of "
                f"{self.context:.6g} s: take shorter windows, or train with a longer "
                "model.context."
            )
        n_units, n_spikes = np.diff(batch.unit_offsets), np.diff(batch.spike_offsets)
        count = 2 * n_units + n_spikes
        width = -(-max(int(count.max(initial=0)), 1) // self.multiple) * self.multiple
        unit_BN, type_BN = (np.zeros((len(batch), width), np.int32) for _ in range(2))
        time_BN = np.zeros((len(batch), width), np.float32)
        spike, unit = self._rows(batch.spike_unit), self._rows(batch.unit)
        rows = zip(
            unit_BN, type_BN, time_BN, batch.length.tolist(),
            _pieces(unit, batch.unit_offsets),
            _pieces(spike, batch.spike_offsets), _pieces(batch.spike_time, batch.spike_offsets),
            strict=True,
        )  # fmt: skip
        for unit_N, type_N, time_N, length, own, units, times in rows:
            start, end = len(own), 2 * len(own)
            unit_N[:start] = own
            unit_N[start:end] = own
            unit_N[end : end + len(units)] = units
            type_N[:start] = START
            type_N[start:end] = END
            time_N[start:end] = length
            time_N[end : end + len(units)] = times
        query_time, query_target = _pad_queries(batch)
        return Tokens(
            unit_BN=torch.from_numpy(unit_BN),
            type_BN=torch.from_numpy(type_BN),
            time_BN=torch.from_numpy(time_BN),
            mask_BN=torch.from_numpy(np.arange(width) < count[:, None]),
            recording_B=torch.from_numpy(self._recording_row[batch.recording]),
            query_time_BM=query_time,
            query_target_BM=query_target,
        )

    def _rows(self, unit: np.ndarray) -> np.ndarray:
        """Return the embedding row of each unit."""
        return self._unit_row.take(unit) if self._shift is None else unit + self._shift


def _pieces(values: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    """Return the values of each window."""
    edges = offsets.tolist()
    return [values[first:last] for first, last in pairwise(edges)]


def _pad_queries(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return times and target indices of the queries, target after target in each window."""
    targets = list(batch.targets.values())
    counts = np.array([np.diff(one.offsets) for one in targets]).reshape(len(targets), len(batch))
    shape = (len(batch), max(1, int(counts.sum(axis=0).max(initial=0))))
    time_BM, target_BM = np.zeros(shape, np.float32), np.full(shape, -1, np.int64)
    place, first = np.arange(shape[1]), np.zeros((len(batch), 1), np.int64)
    for index, one in enumerate(targets):
        last = first + counts[index][:, None]
        mask = (place >= first) & (place < last)
        time_BM[mask] = one.time
        target_BM[mask] = index
        first = last
    return torch.from_numpy(time_BM), torch.from_numpy(target_BM)
