"""From a batch of windows to the tokens and queries that POYO reads, padded to one length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from spikedata.batch import Batch
from spikedata_model.errors import ConfigError
from spikedata_model.vocabulary import Vocabulary

__all__ = ["END", "SPIKE", "START", "Tokens", "tokenize"]

SPIKE, START, END = 0, 1, 2
"""Token types, as in the published model: a spike, and the two delimiters of every unit."""

ROUNDING = 1e-6  # s, of start and end on a clock that counts from 1970


@dataclass(frozen=True, slots=True)
class Tokens:
    """The input of `Poyo.forward`: B windows, N tokens and M queries after padding.

    Parameters
    ----------
    unit_BN, type_BN : Tensor of int64
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


def tokenize(
    batch: Batch,
    vocabulary: Vocabulary,
    unit_ids: np.ndarray,
    *,
    context: float,
    silenced: np.ndarray | None = None,
) -> Tokens:
    """Return the tokens of a batch: its spikes, and a START and an END token for every unit.

    The delimiters tell the model which units were recorded, silent ones included. A START
    token lies at 0 s, an END token at the end of the window. The queries of the targets
    follow one another in the order of ``batch.targets``.

    Parameters
    ----------
    batch : Batch
        From a `Sampler`.
    vocabulary : Vocabulary
        Embedding rows of units and recordings.
    unit_ids : ndarray, shape (U,), str
        The sampler's unit ids, in the order of its global unit index.
    context : float
        Longest window in seconds that the model's latents cover.
    silenced : ndarray, shape (B, U), bool, optional
        Units to leave out of each window, spikes and delimiters both.

    Raises
    ------
    ConfigError
        If a window is longer than `context`.
    VocabularyError
        If the model does not know a unit or recording.
    """
    length = batch.end - batch.start
    if np.any(length > context + ROUNDING):
        raise ConfigError(
            f"A window of {length.max():.6g} s is longer than the model's context of "
            f"{context:.6g} s: take shorter windows, or train with a longer model.context."
        )
    rows = vocabulary.unit_rows(unit_ids)
    unit, kind, time, offsets = _join_delimiters(batch, length)
    window = np.repeat(np.arange(len(batch)), np.diff(offsets))
    if silenced is not None:
        kept = ~silenced[window, unit]
        unit, kind, time, window = unit[kept], kind[kept], time[kept], window[kept]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(window, minlength=len(batch)))])
    place = np.arange(len(window)) - offsets[window]
    shape = (len(batch), int(np.max(np.diff(offsets), initial=1)))
    query_time, query_target = _pad_queries(batch)
    return Tokens(
        unit_BN=_pad(rows[unit], window, place, shape, np.int64),
        type_BN=_pad(kind, window, place, shape, np.int64),
        time_BN=_pad(time, window, place, shape, np.float32),
        mask_BN=_pad(np.ones(len(window), bool), window, place, shape, np.bool_),
        recording_B=torch.from_numpy(
            vocabulary.recording_rows(batch.recording_ids)[batch.recording]
        ),
        query_time_BM=query_time,
        query_target_BM=query_target,
    )


def _pad(
    values: np.ndarray, row: np.ndarray, column: np.ndarray, shape: tuple[int, int], dtype: type
) -> torch.Tensor:
    padded = np.zeros(shape, dtype)
    padded[row, column] = values
    return torch.from_numpy(padded)


def _join_delimiters(
    batch: Batch, length: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return global unit, type and time of all tokens, window after window, and their offsets."""
    units, kinds, times = [], [], []
    for row in range(len(batch)):
        spikes = slice(batch.spike_offsets[row], batch.spike_offsets[row + 1])
        own = batch.unit[batch.unit_offsets[row] : batch.unit_offsets[row + 1]]
        units += [own, own, batch.spike_unit[spikes]]
        times += [
            np.zeros(len(own), np.float32),
            np.full(len(own), length[row], np.float32),
            batch.spike_time[spikes],
        ]
        kinds += [
            np.full(len(own), START),
            np.full(len(own), END),
            np.full(spikes.stop - spikes.start, SPIKE),
        ]
    counts = 2 * np.diff(batch.unit_offsets) + np.diff(batch.spike_offsets)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return np.concatenate(units), np.concatenate(kinds), np.concatenate(times), offsets


def _pad_queries(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    targets = list(batch.targets.values())
    counts = np.array([np.diff(one.offsets) for one in targets]).reshape(len(targets), len(batch))
    before = np.cumsum(counts, axis=0) - counts
    shape = (len(batch), max(1, int(counts.sum(axis=0).max(initial=0))))
    time = np.zeros(shape, np.float32)
    target = np.full(shape, -1, np.int64)
    for index, one in enumerate(targets):
        window = np.repeat(np.arange(len(batch)), counts[index])
        place = np.arange(len(window)) - one.offsets[window] + before[index][window]
        time[window, place] = one.time
        target[window, place] = index
    return torch.from_numpy(time), torch.from_numpy(target)
