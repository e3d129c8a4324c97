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
from spikedata_model.config import Config, DataConfig, Recipe, recipe_of
from spikedata_model.errors import ConfigError
from spikedata_model.labels import limit_labels
from spikedata_model.loss import WeightSteps, weight_steps, weights_at
from spikedata_model.tokenizer import Tokenizer
from spikedata_model.vocabulary import Vocabulary

__all__ = ["RunData", "Scale", "prepare_data"]

NOTHING = Vocabulary((), ())
ROUNDING = 1e-6  # s, of bounds on a clock that counts from 1970
SPEEDS = {"m/s": 1.0, "cm/s": 0.01, "mm/s": 0.001}
"""Units that a recipe's factor is converted between, in m/s."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What is subtracted from one target of one recording, and what it is then divided by.

    Parameters
    ----------
    mean, std : tuple of float, length C
        Mean and standard deviation in the training split, or 0 and the factor of a `Recipe`; in
        the unit of the series.
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
        Width of each target that any of these recordings has.
    scales : dict of str to dict of str to Scale
        By recording, then target.
    vocabulary : Vocabulary
        Embedding rows.
    scheme : str or None
        Split scheme.
    recipes : tuple of Recipe
        What samples weigh, and where scores are taken.
    readouts : tuple of str
        Targets of the model, in the order of its readouts; `channels` when not given.
    """

    recordings: Mapping[str, Recording]
    recording_ids: tuple[str, ...]
    channels: dict[str, int]
    scales: dict[str, dict[str, Scale]]
    vocabulary: Vocabulary
    scheme: str | None
    recipes: tuple[Recipe, ...] = ()
    readouts: tuple[str, ...] = ()

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
        return Tokenizer(
            self.vocabulary, sampler.unit_ids, sampler.recording_ids,
            context=config.model.context, targets=self.readouts or tuple(self.channels),
        )  # fmt: skip

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

    @cached_property
    def _weight_steps(self) -> dict[str, WeightSteps]:
        """What samples weigh over time, of the recordings whose recipe says so."""
        chosen = {name: recipe_of(name, self.recipes) for name in self.recording_ids}
        return {
            name: weight_steps(self.recordings[name].intervals, one.weights)
            for name, one in chosen.items()
            if one is not None and one.weights
        }

    def weights(self, batch: Batch, target: str) -> np.ndarray:
        """Return what each sample of a target weighs in the loss, shape (K,), float32."""
        one = batch.targets[target]
        weight = np.ones(len(one.time), np.float32)
        if not self._weight_steps:
            return weight
        for window, row in enumerate(batch.recording.tolist()):
            steps = self._weight_steps.get(batch.recording_ids[row])
            mine = slice(*one.offsets[window : window + 2].tolist())
            if steps is not None and mine.start < mine.stop:
                # The samples' own times: those from the window's start are rounded.
                series = self.recordings[batch.recording_ids[row]].series[target]
                lo, hi = series.bounds(batch.start[window], batch.end[window])
                weight[mine] = weights_at(series.times(slice(int(lo), int(hi))), steps)
        return weight

    def scored(self, recording_id: str, time: np.ndarray) -> np.ndarray:
        """Return at which of some times (s) a recording is scored, bool: by its recipe, or all."""
        recipe = recipe_of(recording_id, self.recipes)
        if recipe is None or recipe.evaluate_on is None:
            return np.ones(len(time), bool)
        return self.recordings[recording_id].intervals[recipe.evaluate_on].coalesce().contains(time)

    def check_windows(self, batch: Batch) -> None:
        """Refuse windows outside the time that was observed, and units that are none.

        A window that reaches past the end would be decoded from silence that nobody recorded.

        Raises
        ------
        ConfigError
            If a window begins before its recording's domain or ends after it, or a unit's index
            is below 0 or above the last.
        """
        for window, row in enumerate(batch.recording.tolist()):
            domain = self.recordings[batch.recording_ids[row]].domain
            first, last = float(domain.start[0]), float(domain.end[-1])
            start, end = float(batch.start[window]), float(batch.end[window])
            if start < first - ROUNDING or end > last + ROUNDING:
                raise ConfigError(
                    f"{batch.recording_ids[row]}: the window [{start:.3f}, {end:.3f}) s reaches "
                    f"outside the time that was observed, [{first:.3f}, {last:.3f}) s; take "
                    "windows inside it, or correct the split."
                )
        most = len(self.vocabulary.unit_ids)
        for unit in (batch.spike_unit, batch.unit):
            if len(unit) and not 0 <= int(unit.min()) <= int(unit.max()) < most:
                raise ConfigError(
                    f"A batch holds unit {int(unit.min())} to {int(unit.max())}, but the model "
                    f"knows the units 0 to {most - 1}; take batches from the run's own sampler."
                )

    def restored(self, batch: Batch, target: str, predicted: torch.Tensor) -> np.ndarray:
        """Return normalised predictions in the unit of the series, shape (K, C), float64."""
        mean, std = self._per_row(batch, target)
        return predicted.double().cpu().numpy() * std + mean


def with_labels(
    recordings: Mapping[str, Recording], recording_ids: Sequence[str], config: DataConfig
) -> Mapping[str, Recording]:
    """Return recordings with no more labels than the settings allow."""
    if config.labels is None:
        return recordings
    return {
        name: limit_labels(recordings[name], config.labels, config.scheme) for name in recording_ids
    }


def prepare_data(
    recordings: Mapping[str, Recording],
    recording_ids: Sequence[str],
    config: Config,
    known: Vocabulary = NOTHING,
    readouts: Mapping[str, int] | None = None,
) -> RunData:
    """Return the data of a new run.

    A recording is decoded for the targets that it names, or for those of ``data.targets`` that it
    has: a series that is a target elsewhere is none here.

    Parameters
    ----------
    recordings : mapping of str to Recording
        Where the data are read from.
    recording_ids : sequence of str
        Which of them; each once.
    config : Config
        Its part ``data`` decides.
    known : Vocabulary
        Rows of a model to start from; new units and recordings come behind them.
    readouts : mapping of str to int
        Targets of that model and their widths; new ones come behind them.

    Raises
    ------
    ConfigError
        If a recording has nothing to decode, no recording has a target that was asked for, a
        target differs in width between recordings, a channel never changes in the training
        split, or a recipe does not fit the recordings that it is for.
    """
    if not recording_ids:
        raise ConfigError("There is no recording to train on: name some, or ingest a manifest.")
    recordings = with_labels(recordings, recording_ids, config.data)
    opened = {recording_id: recordings[recording_id] for recording_id in recording_ids}
    _check_asked(opened, config.data.targets or ())
    _check_recipes(opened, config.data.recipes)
    widths = dict(readouts or {})
    scales: dict[str, dict[str, Scale]] = {}
    unit_ids: list[str] = []
    for recording_id, recording in opened.items():
        asked = recording.targets if config.data.targets is None else config.data.targets
        targets = _targets(recording, asked)
        for target in targets:
            width = recording.series[target].values.shape[1]
            if widths.setdefault(target, width) != width:
                before = "model" if target in (readouts or {}) else "recordings before it"
                raise ConfigError(
                    f"{recording_id}: '{target}' has {width} channels, {widths[target]} in the "
                    f"{before}; train them apart, or name the series differently."
                )
        scales[recording_id] = {name: _scale(recording, name, config) for name in targets}
        unit_ids += [str(name) for name in recording.unit_ids]
    return RunData(
        recordings, tuple(recording_ids), own_channels(widths, scales), scales,
        known.with_more(unit_ids, recording_ids), config.data.scheme, config.data.recipes,
        tuple(widths),
    )  # fmt: skip


def own_channels(
    widths: Mapping[str, int], scales: Mapping[str, Mapping[str, Scale]]
) -> dict[str, int]:
    """Return the widths of those targets that any recording has."""
    own = {target for one in scales.values() for target in one}
    return {name: width for name, width in widths.items() if name in own}


def _check_recipes(recordings: Mapping[str, Recording], recipes: Sequence[Recipe]) -> None:
    """Refuse a table that no recording of a recipe has, and one to score on that any lacks."""
    for recipe in recipes:
        mine = [one for name, one in recordings.items() if recipe_of(name, recipes) is recipe]
        known = {table for one in mine for table in one.intervals}
        wrong = [table for table in recipe.weights if table not in known] if mine else []
        if wrong:
            raise ConfigError(
                f"The recipe of '{recipe.recordings}' weighs '{wrong[0]}', but none of its "
                f"{len(mine)} recordings has such an interval table; "
                + did_you_mean(wrong[0], known)
            )
        for one in mine:
            if recipe.evaluate_on is not None and recipe.evaluate_on not in one.intervals:
                raise ConfigError(
                    f"{one.recording_id} has no interval table '{recipe.evaluate_on}', on which "
                    f"the recipe of '{recipe.recordings}' scores; "
                    + did_you_mean(recipe.evaluate_on, one.intervals)
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
            f"({len(values)} samples), so it cannot be decoded; choose another target or split"
            + (", or ask for more labels." if config.data.labels is not None else ".")
        )
    recipe = recipe_of(recording.recording_id, config.data.recipes)
    if recipe is not None and recipe.divide_by is not None:
        width = values.shape[1]
        return Scale((0.0,) * width, (_factor(recording, target, recipe),) * width)
    return Scale(tuple(values.mean(axis=0).tolist()), tuple(values.std(axis=0).tolist()))


def _factor(recording: Recording, target: str, recipe: Recipe) -> float:
    """Return the factor of a recipe in the unit of the series."""
    unit, factor = recording.series[target].unit, recipe.divide_by or 1.0
    if unit == recipe.unit:
        return factor
    if unit not in SPEEDS or recipe.unit not in SPEEDS:
        raise ConfigError(
            f"{recording.recording_id}: '{target}' is in '{unit}', but the recipe of "
            f"'{recipe.recordings}' divides by {factor:g} {recipe.unit}; name another target, or "
            "leave divide_by out of the recipe."
        )
    return factor * SPEEDS[recipe.unit] / SPEEDS[unit]
