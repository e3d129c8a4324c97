"""From a batch of windows to the tokens and queries that POYO reads, window after window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from spikedata.batch import Batch
from spikedata.errors import did_you_mean
from spikedata.ragged import join_offsets
from spikedata_model.errors import ConfigError, VocabularyError
from spikedata_model.vocabulary import Vocabulary

__all__ = ["END", "SPIKE", "START", "Tokenizer", "Tokens"]

SPIKE, START, END = 0, 1, 2
"""Token types, as in the published model: a spike, and the two delimiters of every unit."""

ROUNDING = 1e-6  # s, of start and end on a clock that counts from 1970


# Shapes: B windows, T tokens and K queries of all windows together.


@dataclass(frozen=True, slots=True)
class Tokens:
    """The input of `Poyo.forward`: the tokens and queries of B windows, window after window.

    Parameters
    ----------
    unit_T, type_T : Tensor of int32
        Embedding row of the unit, and token type, of each token.
    time_T : Tensor of float32
        Seconds from the start of the window.
    token_offsets : tuple of int, length B + 1
        Window ``i`` has the tokens ``token_offsets[i]:token_offsets[i + 1]``.
    recording_B : Tensor of int64
        Embedding row of each window's recording.
    query_time_K : Tensor of float32
        Times to predict at, in seconds from the start of the window.
    query_target_K : Tensor of int64
        Index of the target that each query asks for.
    query_offsets : tuple of int, length B + 1
        Window ``i`` has the queries ``query_offsets[i]:query_offsets[i + 1]``.

    Raises
    ------
    ConfigError
        If the windows do not hold every token and every query once.
    """

    unit_T: torch.Tensor
    type_T: torch.Tensor
    time_T: torch.Tensor
    token_offsets: tuple[int, ...]
    recording_B: torch.Tensor
    query_time_K: torch.Tensor
    query_target_K: torch.Tensor
    query_offsets: tuple[int, ...]

    def __post_init__(self) -> None:
        n_windows, tokens = len(self.recording_B), (self.unit_T, self.type_T, self.time_T)
        queries = (self.query_time_K, self.query_target_K)
        for what, offsets, parts in (
            ("tokens", self.token_offsets, tokens),
            ("queries", self.query_offsets, queries),
        ):
            sizes, edges = [len(one) for one in parts], list(offsets)
            whole = edges[0] == 0 and edges == sorted(edges) and len(edges) == n_windows + 1
            if not whole or set(sizes) != {edges[-1]}:
                raise ConfigError(
                    f"{sizes} {what} of {n_windows} windows do not fit their {len(edges)} offsets "
                    f"from {edges[0]} to {edges[-1]}: these begin with 0, end with the number of "
                    f"{what}, never fall, and are one more than the windows."
                )

    def to(self, device: torch.device | str) -> Tokens:
        """Return the same tokens on another device."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        moved = {name: v.to(device) for name, v in values.items() if isinstance(v, torch.Tensor)}
        return replace(self, **moved)

    def windows(self, first: int, last: int) -> Tokens:
        """Return the tokens and queries of windows `first` to `last`, the last not included."""
        edges, asked = self.token_offsets[first : last + 1], self.query_offsets[first : last + 1]
        tokens, queries = slice(edges[0], edges[-1]), slice(asked[0], asked[-1])
        return Tokens(
            unit_T=self.unit_T[tokens],
            type_T=self.type_T[tokens],
            time_T=self.time_T[tokens],
            token_offsets=tuple(edge - edges[0] for edge in edges),
            recording_B=self.recording_B[first:last],
            query_time_K=self.query_time_K[queries],
            query_target_K=self.query_target_K[queries],
            query_offsets=tuple(edge - asked[0] for edge in asked),
        )


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
    targets : sequence of str, optional
        Targets of the model, in the order of its readouts; those of each batch when not given.

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
        targets: Sequence[str] | None = None,
    ) -> None:
        self.context = context
        self._target_row = (
            None if targets is None else {name: row for row, name in enumerate(targets)}
        )
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
        VocabularyError
            If a unit or a recording of the batch is none of the sampler's, or a target none of the
            model's.
        """
        if np.any(batch.length > self.context + ROUNDING):
            raise ConfigError(
                f"A window of {batch.length.max():.6g} s is longer than the model's context of "
                f"{self.context:.6g} s: take shorter windows, or train with a longer "
                "model.context."
            )
        _check("unit", len(self._unit_row), batch.unit, batch.spike_unit)
        _check("recording", len(self._recording_row), batch.recording)
        n_units, n_spikes = np.diff(batch.unit_offsets), np.diff(batch.spike_offsets)
        offsets = join_offsets(2 * n_units + n_spikes)
        unit_T, type_T = np.empty(offsets[-1], np.int32), np.zeros(offsets[-1], np.int32)
        time_T = np.zeros(offsets[-1], np.float32)
        spike, unit = self._rows(batch.spike_unit), self._rows(batch.unit)
        edges, units, spikes = (
            pairwise(one.tolist()) for one in (offsets, batch.unit_offsets, batch.spike_offsets)
        )
        lengths = batch.length.tolist()
        rows = zip(lengths, edges, units, spikes, strict=True)
        for length, (first, last), (unit_lo, unit_hi), (lo, hi) in rows:
            own = unit[unit_lo:unit_hi]
            end = first + len(own)
            spike_row = end + len(own)
            unit_T[first:end] = own
            unit_T[end:spike_row] = own
            unit_T[spike_row:last] = spike[lo:hi]
            type_T[first:end] = START
            type_T[end:spike_row] = END
            time_T[end:spike_row] = length
            time_T[spike_row:last] = batch.spike_time[lo:hi]
        query_time, query_target, query_offsets = _join_queries(batch, self._target_row)
        return Tokens(
            unit_T=torch.from_numpy(unit_T),
            type_T=torch.from_numpy(type_T),
            time_T=torch.from_numpy(time_T),
            token_offsets=tuple(offsets.tolist()),
            recording_B=torch.from_numpy(self._recording_row[batch.recording]),
            query_time_K=query_time,
            query_target_K=query_target,
            query_offsets=query_offsets,
        )

    def _rows(self, unit: np.ndarray) -> np.ndarray:
        """Return the embedding row of each unit."""
        return self._unit_row.take(unit) if self._shift is None else unit + self._shift


def _check(kind: str, count: int, *indices: np.ndarray) -> None:
    """Refuse an index that no unit or recording has; numpy would count -1 from the end."""
    for index in indices:
        if len(index) and not 0 <= index.min() <= index.max() < count:
            found = index.min() if index.min() < 0 else index.max()
            raise VocabularyError(
                f"The batch has {kind} number {found}, the tokenizer's sampler {count} of them, "
                "from 0: give the tokenizer the ids of the sampler that made the batch."
            )


def _join_queries(
    batch: Batch, target_row: Mapping[str, int] | None
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """Return times, target indices and offsets of the queries, target after target in a window."""
    row_of = target_row or {name: row for row, name in enumerate(batch.targets)}
    unknown = batch.targets.keys() - row_of.keys()
    if unknown:
        raise VocabularyError(
            f"The batch has the target '{min(unknown)}', which the model has no readout for; "
            + did_you_mean(min(unknown), row_of)
        )
    targets = list(batch.targets.values())
    counts = np.array([np.diff(one.offsets) for one in targets]).reshape(len(targets), len(batch))
    offsets = join_offsets(counts.sum(axis=0))
    time_K, target_K = np.empty(offsets[-1], np.float32), np.empty(offsets[-1], np.int64)
    first_B = offsets[:-1]
    for index, (name, one) in enumerate(batch.targets.items()):
        # Where a target's samples go: their place among its own, and what comes before in theirs.
        place = np.arange(len(one.time)) + np.repeat(first_B - one.offsets[:-1], counts[index])
        time_K[place] = one.time
        target_K[place] = row_of[name]
        first_B = first_B + counts[index]
    return torch.from_numpy(time_K), torch.from_numpy(target_K), tuple(offsets.tolist())
