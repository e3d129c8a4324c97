"""Predictions for every sample of a split, stitched from overlapping windows, and their score."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict

from spikedata.batch import Batch
from spikedata.files import write_whole
from spikedata.progress import Progress, silent
from spikedata.store import Store
from spikedata.version import __version__
from spikedata_model.baselines import wiener_predict
from spikedata_model.card import read_card, write_card
from spikedata_model.causal import causal_sums
from spikedata_model.checkpoint import load_checkpoint, pick_device, read_run, run_hash
from spikedata_model.config import Config, recipe_of
from spikedata_model.data import RunData
from spikedata_model.distributed import World
from spikedata_model.errors import CheckpointError, ConfigError
from spikedata_model.journal import has_stalled
from spikedata_model.poyo import Poyo
from spikedata_model.predictions import Prediction, write_predictions
from spikedata_model.tokenizer import Tokens
from spikedata_model.weights import weights_of_run
from spikedata_model.workers import Workers

__all__ = [
    "Evaluation",
    "Prediction",
    "Score",
    "evaluate",
    "infer",
    "predict",
    "predict_causal",
    "r2_score",
]

Part = tuple[str, str, int, np.ndarray]
"""Recording, target, first sample, and values of some samples, shape (K, C)."""

STRIDE = 0.5  # of the context between windows: every sample is predicted about twice


# JSON has no nan: the R² of a channel that does not change is null in a file.
R2 = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class Score(BaseModel):
    """How well one target of one recording was decoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recording_id: str
    target: str
    columns: tuple[str, ...]
    evaluate_on: str | None = None  # interval table that r2 is taken on; None: the whole split
    n_samples: int  # of the split
    n_scored: int  # of these, in the rows of that table
    r2: tuple[R2, ...]  # POYO, by channel
    baseline_r2: tuple[R2, ...]  # Wiener filter, by channel
    r2_whole: tuple[R2, ...]  # of all samples of the split
    baseline_r2_whole: tuple[R2, ...]
    angle_error_deg: float | None = None  # median, for a (cos, sin) target
    baseline_angle_error_deg: float | None = None

    def of(self, row: int | None) -> tuple[float, float, float, float]:
        """Return R² of POYO and the baseline, and both on the whole split, for one channel.

        `row` counts the channels; None gives means over all of them with equal weight.
        """
        parts = (self.r2, self.baseline_r2, self.r2_whole, self.baseline_r2_whole)
        if row is None:
            return tuple(float(np.mean(one)) for one in parts)  # type: ignore[return-value]
        return tuple(one[row] for one in parts)  # type: ignore[return-value]

    @property
    def mean_r2(self) -> float:
        """R² averaged over channels with equal weight."""
        return float(np.mean(self.r2))

    @property
    def mean_baseline_r2(self) -> float:
        """The baseline's R² averaged over channels with equal weight."""
        return float(np.mean(self.baseline_r2))


class Evaluation(BaseModel):
    """The scores of a run on one split, as ``evaluation-<split>.json`` holds them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 2
    spikedata_version: str = __version__
    run: str  # SHA-256 of the run.json that was scored
    split: Literal["train", "valid", "test"]
    causal: float | None = None  # s from one window's end to the next; None: windows all around
    step: int
    scores: tuple[Score, ...]


def r2_score(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the coefficient of determination of each channel, shape (C,).

    1 - Σ(y - ŷ)² / Σ(y - ȳ)², with ȳ the mean over the scored samples; nan for a channel
    that does not change, and without samples.

    Examples
    --------
    >>> r2_score(np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [1.0]])).tolist()
    [0.5]
    """
    if len(truth) == 0:
        return np.full(truth.shape[1], np.nan)
    residual = np.sum((truth - predicted) ** 2, axis=0)
    total = np.sum((truth - truth.mean(axis=0)) ** 2, axis=0)
    # The mean of equal values may differ from them by a rounding: their total is not always 0.
    changes = truth.min(axis=0) < truth.max(axis=0)
    return 1 - np.divide(residual, total, out=np.full(len(total), np.nan), where=changes)


def predict(
    model: Poyo,
    data: RunData,
    config: Config,
    split: str,
    *,
    workers: Workers | None = None,
    world: World | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> list[Prediction]:
    """Return stitched predictions for every sample of a split.

    Windows of the model's context, half a context apart, cover each interval of the split;
    a last one ends with it. A sample's prediction is the mean over the windows that hold it.
    No window reaches outside its interval, so no spike of another split is seen. A target
    without samples in the split is left out.

    Parameters
    ----------
    model : Poyo
        The model.
    data : RunData
        The recordings.
    config : Config
        Settings of the run.
    split : str
        Which part of the recordings.
    workers : Workers, optional
        Threads to work with; those of the settings when not given.
    world : World, optional
        Processes among which the batches are dealt out; all get every prediction.
    batch_size : int
        Windows at a time.
    progress : Progress
        Told of every batch.

    Raises
    ------
    ConfigError
        If no recording has time in the split, or an interval of it reaches past the time in which
        its recording was observed.
    TrainingError
        If a process of the world is gone.
    """
    if not data.has_split(split):
        raise ConfigError(
            f"No recording of this run has time in the split '{split}'; score another with --split."
        )
    sampler = data.sampler(
        split,
        config,
        batch_size=batch_size,
        order="sequential",
        stride=STRIDE * config.model.context,
        short="keep",
    )
    sums = {
        (name, target): np.zeros((len(data.recordings[name].series[target]), width + 1))
        for name in data.recording_ids
        for target, width in data.channels.items()
        if target in data.scales[name]
    }
    tokenizer = data.tokenizer(sampler, config)
    was_training = model.training
    model.eval()
    device, settings = model.frequency_F.device, config.train
    with ExitStack() as stack:
        if workers is None:
            workers = Workers(
                device, settings.precision, settings.threads, settings.windows_at_once
            )
            stack.enter_context(workers)

        def decode(step: int) -> list[Part]:
            batch = sampler.batch(0, step)
            data.check_windows(batch)
            decoded = infer(model, tokenizer(batch).to(device), workers)
            return _parts(batch, decoded, data)

        for step, parts in enumerate((world or World()).deal(sampler.steps(), decode)):
            for name, target, lo, values in parts:
                sums[name, target][lo : lo + len(values), :-1] += values
                sums[name, target][lo : lo + len(values), -1] += 1
            progress(f"predicting {split}", step + 1, sampler.steps())
    model.train(was_training)
    return [
        _finish(data, name, target, one) for (name, target), one in sums.items() if one[:, -1].any()
    ]


def predict_causal(
    model: Poyo, data: RunData, config: Config, split: str, step: float, *,
    workers: Workers | None = None, progress: Progress = silent,
) -> list[Prediction]:  # fmt: skip
    """Return what a live decoder, asked every `step` seconds, says of every sample of a split.

    Parameters and errors are those of `spikedata_model.causal.causal_sums`.
    """
    sums = causal_sums(model, data, config, split, step, workers=workers, progress=progress)
    return [_finish(data, *key, one) for key, one in sums.items() if one[:, -1].any()]


def infer(model: Poyo, tokens: Tokens, workers: Workers) -> dict[str, torch.Tensor]:
    """Return what `model` returns, without a derivative, with windows shared by the workers."""

    def piece(windows: tuple[int, int]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return model(tokens.windows(*windows))

    parts = list(workers.map(piece, workers.split(len(tokens.recording_B))))
    return {name: torch.cat([one[name] for one in parts]) for name in model.targets}


def _parts(batch: Batch, decoded: dict[str, torch.Tensor], data: RunData) -> list[Part]:
    """Return what each window says of each target, and where in the series that begins."""
    parts: list[Part] = []
    for target in data.channels:  # the model may have readouts that these recordings do not need
        values = data.restored(batch, target, decoded[target])
        offsets = batch.targets[target].offsets
        for window, start in enumerate(batch.start.tolist()):
            name = batch.recording_ids[batch.recording[window]]
            rows = values[offsets[window] : offsets[window + 1]]
            if target in data.scales[name]:
                lo, _ = data.recordings[name].series[target].bounds(start, batch.end[window])
                parts.append((name, target, int(lo), rows))
    return parts


def _finish(data: RunData, name: str, target: str, sums: np.ndarray) -> Prediction:
    series = data.recordings[name].series[target]
    rows = np.flatnonzero(sums[:, -1])
    time = series.times(rows)
    return Prediction(
        recording_id=name,
        target=target,
        columns=series.columns,
        unit=series.unit,
        time=time,
        truth=np.asarray(series.values[rows], np.float64),
        predicted=sums[rows, :-1] / sums[rows, -1:],
        scored=data.scored(name, time),
    )


def evaluate(
    store: Store,
    folder: Path,
    *,
    split: Literal["train", "valid", "test"] = "test",
    causal: float | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Score a run and a Wiener filter on the same samples, and write both beside the run.

    Writes ``evaluation-<split>.json`` and ``predictions-<split>.arrow``, see `write_predictions`.
    With `causal`, seconds, the run decodes as in real time (`predict_causal`) and the filter counts
    the past alone; the files are then ``evaluation-<split>-causal.json`` and so on.

    Raises
    ------
    CheckpointError
        If the run has no finished model, or the store holds other data.
    ConfigError
        If no recording has time in the split, or none has samples there.
    """
    record = read_run(folder)
    checkpoint = load_checkpoint(folder)
    settings, done = record.config.train, 0 if checkpoint is None else checkpoint.step
    stalled = checkpoint is not None and has_stalled(checkpoint.curve, settings)
    if done < settings.total_steps and not stalled:
        raise CheckpointError(
            f"The run in {folder} is at step {done} of {settings.total_steps}: "
            "give the command that began it again to finish it."
        )
    data = record.data(store)
    weights = weights_of_run(folder)
    model = weights.model.to(pick_device(settings.device))
    if causal is None:
        predictions = predict(model, data, record.config, split, progress=progress)
    else:
        predictions = predict_causal(model, data, record.config, split, causal, progress=progress)
    if not predictions:
        raise ConfigError(
            f"No target of this run has samples in the split '{split}'; score another with --split."
        )
    baselines, scores = [], []
    for done, one in enumerate(predictions):
        progress("fitting the Wiener filter", done, len(predictions))
        recording = data.recordings[one.recording_id]  # with no more labels than the model had
        train = recording.split("train", data.scheme)
        baseline = wiener_predict(
            recording, one.target, train, recording.split(split, data.scheme),
            causal=causal is not None,
        )  # fmt: skip
        baselines.append(baseline)
        recipe = recipe_of(one.recording_id, data.recipes)
        scores.append(_score(one, baseline, None if recipe is None else recipe.evaluate_on))
        progress("fitting the Wiener filter", done + 1, len(predictions))
    evaluation = Evaluation(
        run=run_hash(folder), split=split, causal=causal, step=int(weights.about["step"]),
        scores=tuple(scores),
    )  # fmt: skip
    name = split if causal is None else f"{split}-causal"
    write_predictions(folder / f"predictions-{name}.arrow", predictions, baselines)
    card = read_card(folder)
    if card is not None:
        means = {f"{one.recording_id} {one.target}": one.mean_r2 for one in scores}
        write_card(folder, card.with_evaluation(name, means))
    write_whole(folder / f"evaluation-{name}.json", evaluation.model_dump_json(indent=1) + "\n")
    return evaluation


def _score(one: Prediction, baseline: np.ndarray, evaluate_on: str | None = None) -> Score:
    truth, decoded, base = (values[one.scored] for values in (one.truth, one.predicted, baseline))
    angles = (None, None)
    if one.columns == ("cos", "sin") and len(truth):
        angles = (_angle_error(truth, decoded), _angle_error(truth, base))
    return Score(
        recording_id=one.recording_id,
        target=one.target,
        columns=one.columns,
        evaluate_on=evaluate_on,
        n_samples=len(one.time),
        n_scored=len(truth),
        r2=tuple(r2_score(truth, decoded).tolist()),
        baseline_r2=tuple(r2_score(truth, base).tolist()),
        r2_whole=tuple(r2_score(one.truth, one.predicted).tolist()),
        baseline_r2_whole=tuple(r2_score(one.truth, baseline).tolist()),
        angle_error_deg=angles[0],
        baseline_angle_error_deg=angles[1],
    )


def _angle_error(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the median absolute error in degrees of angles given as (cos, sin)."""
    angle, decoded = (np.arctan2(one[:, 1], one[:, 0]) for one in (truth, predicted))
    wrapped = np.angle(np.exp(1j * (decoded - angle)))
    return float(np.degrees(np.median(np.abs(wrapped))))
