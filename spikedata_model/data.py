"""What a run is trained on: recordings, targets and their scale, ready for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from spikedata.batch import Batch
from spikedata.errors import did_you_mean
from spikedata.recording import Recording
from spikedata.sampler import Sampler
from spikedata_model.config import Config
from spikedata_model.errors import ConfigError
from spikedata_model.tokenizer import Tokenizer
from spikedata_model.vocabulary import Vocabulary

__all__ = ["RunData", "Scale", "prepare_data"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and standard deviation of one target in the training split of one recording.

    Parameters
    ----------
    mean, std : tuple of float, length C
        In the unit of the series.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class RunData:
    """Recordings with everything that must stay the same from training to evaluation.

    Parameters
    ----------
    recordings : mapping of str to Recording
        Where the data are read from, a `Store` as a rule.
    recording_ids : tuple of str
        Which of them are used.
    channels : dict of str to int
        Width of each target.
    scales : dict of str to dict of str to Scale
        By recording, then target.
    vocabulary : Vocabulary
        Embedding rows.
    scheme : str or None
        Split scheme.
    """

    recordings: Mapping[str, Recording]
    recording_ids: tuple[str, ...]
    channels: dict[str, int]
    scales: dict[str, dict[str, Scale]]
    vocabulary: Vocabulary
    scheme: str | None

    def sampler(self, split: str, config: Config, **options: object) -> Sampler:
        """Return a sampler of these recordings and targets over one split."""
        return Sampler(
            self.recordings,
            split,
            window=config.model.context,
            targets={name: tuple(scales) for name, scales in self.scales.items()},
            recording_ids=self.recording_ids,
            scheme=self.scheme,
            seed=config.train.seed,
            **options,  # type: ignore[arg-type]  # the sampler checks its own arguments
        )

    def tokenizer(self, sampler: Sampler, config: Config) -> Tokenizer:
        """Return what makes tokens of the batches of a sampler of these recordings."""
        context = config.model.context
        return Tokenizer(self.vocabulary, sampler.unit_ids, sampler.recording_ids, context=context)

    def has_split(self, split: str) -> bool:
        """Return whether any recording has time in this split."""
        splits = (self.recordings[name].split(split, self.scheme) for name in self.recording_ids)
        return any(len(intervals) for intervals in splits)

    @cached_property
    def _scale_tables(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and std of each target, each of shape (R, C), by the recording's index."""
        tables = {}
        for target, width in self.channels.items():
            absent = Scale((0.0,) * width, (1.0,) * width)
            scales = [self.scales[name].get(target, absent) for name in self.recording_ids]
            tables[target] = (
                np.array([one.mean for one in scales]),
                np.array([one.std for one in scales]),
            )
        return tables

    def _per_row(self, batch: Batch, target: str) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and std for every sample of a target in a batch, each of shape (K, C)."""
        mean, std = self._scale_tables[target]
        row = np.repeat(batch.recording, np.diff(batch.targets[target].offsets))
        return mean[row], std[row]

    def normalised(self, batch: Batch, target: str) -> torch.Tensor:
        """Return the samples of a target with mean 0 and deviation 1, shape (K, C), float32."""
        mean, std = self._per_row(batch, target)
        return torch.from_numpy(((batch.targets[target].values - mean) / std).astype(np.float32))

    def restored(self, batch: Batch, target: str, predicted: torch.Tensor) -> np.ndarray:
        """Return normalised predictions in the unit of the series, shape (K, C), float64."""
        mean, std = self._per_row(batch, target)
        return predicted.double().cpu().numpy() * std + mean


def prepare_data(
    recordings: Mapping[str, Recording], recording_ids: Sequence[str], config: Config
) -> RunData:
    """Return the data of a new run.

    A recording is decoded for the targets that it names, or for those of ``data.targets`` that it
    has: a series that is a target elsewhere is none here.

    Raises
    ------
    ConfigError
        If a recording has nothing to decode, no recording has a target that was asked for, a
        target differs in width between recordings, or a channel never changes in the training
        split.
    """
    if not recording_ids:
        raise ConfigError("There is no recording to train on: name some, or ingest a manifest.")
    opened = {recording_id: recordings[recording_id] for recording_id in recording_ids}
    _check_asked(opened, config.data.targets or ())
    channels: dict[str, int] = {}
    scales: dict[str, dict[str, Scale]] = {}
    unit_ids: list[str] = []
    for recording_id, recording in opened.items():
        asked = recording.targets if config.data.targets is None else config.data.targets
        targets = _targets(recording, asked)
        for target in targets:
            width = recording.series[target].values.shape[1]
            if channels.setdefault(target, width) != width:
                raise ConfigError(
                    f"{recording_id}: '{target}' has {width} channels, {channels[target]} in the "
                    "recordings before it; train them apart, or name the series differently."
                )
        scales[recording_id] = {name: _scale(recording, name, config) for name in targets}
        unit_ids += [str(name) for name in recording.unit_ids]
    vocabulary = Vocabulary(tuple(unit_ids), tuple(recording_ids))
    return RunData(
        recordings, tuple(recording_ids), channels, scales, vocabulary, config.data.scheme
    )


def _check_asked(recordings: Mapping[str, Recording], asked: Sequence[str]) -> None:
    """Refuse a target that no recording has."""
    known = {name for one in recordings.values() for name in one.series}
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"No recording of this run has the target '{name}' that data.targets asks for; "
                + did_you_mean(name, known)
            )


def _targets(recording: Recording, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the targets that a recording has."""
    found = tuple(name for name in wanted if name in recording.series)
    if not found:
        what = f"has no series '{', '.join(wanted)}'" if wanted else "names no target"
        raise ConfigError(
            f"{recording.recording_id} {what}, so there is nothing to decode: give "
            "--set data.targets=NAME, or `targets` in its manifest; as series "
            + did_you_mean(wanted[0] if wanted else "", recording.series)
        )
    return found


def _scale(recording: Recording, target: str, config: Config) -> Scale:
    series = recording.series[target]
    train = recording.split("train", config.data.scheme)
    lo, hi = series.bounds(train.start, train.end)
    rows = [series.values[first:last] for first, last in zip(lo, hi, strict=True)]
    values = np.concatenate([*rows, series.values[:0]]).astype(np.float64)
    if not np.isfinite(values).all():
        raise ConfigError(
            f"{recording.recording_id}: '{target}' holds values in the training split that are no "
            "numbers; harmonise the recording again, or choose another target."
        )
    # Not by the deviation: the mean of equal numbers may differ from them by a rounding.
    if len(values) == 0 or np.any(values.min(axis=0) == values.max(axis=0)):
        raise ConfigError(
            f"{recording.recording_id}: '{target}' never changes in the training split "
            f"({len(values)} samples), so it cannot be decoded; choose another target or split."
        )
    return Scale(tuple(values.mean(axis=0).tolist()), tuple(values.std(axis=0).tolist()))
