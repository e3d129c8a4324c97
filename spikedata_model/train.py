"""The training loop: every step is a function of its number, so a run can stop and go on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from spikedata.augment import UnitDropout
from spikedata.progress import Progress, silent
from spikedata.sampler import Sampler
from spikedata.store import Store
from spikedata_model.checkpoint import (
    Checkpoint,
    RunRecord,
    load_checkpoint,
    save_checkpoint,
    start_run,
)
from spikedata_model.config import Config, TrainConfig
from spikedata_model.data import RunData, prepare_data
from spikedata_model.evaluate import predict, r2_score
from spikedata_model.optim import make_optimizer, set_learning_rate
from spikedata_model.poyo import Poyo
from spikedata_model.tokenizer import Tokenizer

__all__ = ["train"]


def train(
    store: Store,
    folder: Path,
    config: Config,
    *,
    recording_ids: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Checkpoint:
    """Train a model, or go on where a run in the same folder stopped.

    Parameters
    ----------
    store : Store
        Harmonised recordings.
    folder : Path
        The run's folder: ``run.json``, ``checkpoint.pt`` and ``learning_curve.csv``.
    config : Config
        Settings.
    recording_ids : sequence of str, optional
        Which recordings; all of the store when not given.
    progress : Progress
        Told of every step.

    Returns
    -------
    Checkpoint
        The end of the run. On the same machine it has the same weights whether or not the
        run was interrupted.

    Raises
    ------
    ConfigError
        If the data cannot be decoded, or the folder holds another run.
    CheckpointError
        If the checkpoint is damaged.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    ids = tuple(store) if recording_ids is None else tuple(dict.fromkeys(recording_ids))
    data = prepare_data(store, ids, config)
    record = RunRecord(
        config=config,
        recordings={one.recording_id: one.fingerprint for one in store.outlines(ids)},
        unit_ids=data.vocabulary.unit_ids,
        channels=data.channels,
        scales=data.scales,
    )
    sampler = training_sampler(data, config)
    model = record.build_model()
    start_run(folder, record)  # after all that may refuse the request
    optimizer = make_optimizer(model, config.train)
    checkpoint = load_checkpoint(folder)
    if checkpoint is not None:
        model.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
    return _run_steps(model, optimizer, sampler, data, config, folder, checkpoint, progress)


def training_sampler(data: RunData, config: Config, batch_size: int | None = None) -> Sampler:
    """Return the sampler whose batches a model is trained on, with units dropped as configured."""
    size = config.train.batch_size if batch_size is None else batch_size
    kept = config.train.unit_dropout
    augment = [] if kept is None else [UnitDropout(**kept.model_dump())]
    return data.sampler("train", config, batch_size=size, augment=augment)


def _run_steps(
    model: Poyo,
    optimizer: torch.optim.Optimizer,
    sampler: Sampler,
    data: RunData,
    config: Config,
    folder: Path,
    checkpoint: Checkpoint | None,
    progress: Progress,
) -> Checkpoint:
    settings = config.train
    curve_split = settings.curve_split if data.has_split(settings.curve_split) else None
    step, seconds, curve, losses = 0, 0.0, [], []
    if checkpoint is not None:
        step, seconds = checkpoint.step, checkpoint.seconds
        curve, losses = list(checkpoint.curve), list(checkpoint.losses)

    def save() -> Checkpoint:
        now = Checkpoint(step, seconds, model.state_dict(), optimizer.state_dict(), curve, losses)
        save_checkpoint(folder, now)
        return now

    tokenizer = data.tokenizer(sampler, config)
    while step < settings.steps:
        began = time.perf_counter()
        losses.append(train_step(model, optimizer, sampler, tokenizer, data, settings, step))
        seconds += time.perf_counter() - began
        step += 1
        if step % settings.evaluate_every == 0 or step == settings.steps:
            row = {"step": step, "seconds": seconds, "loss": float(np.mean(losses))}
            curve.append(row | _curve_scores(model, data, config, curve_split))
            losses.clear()
        if step % settings.checkpoint_every == 0 and step < settings.steps:
            save()
        progress(_label(curve), step, settings.steps)
    return save() if checkpoint is None or checkpoint.step < step else checkpoint


def _label(curve: Sequence[Mapping[str, float]]) -> str:
    scores = [
        value for name, value in (curve[-1] if curve else {}).items() if name.startswith("r2")
    ]
    return f"training, R² {np.mean(scores):.3f}" if scores else "training"


def train_step(
    model: Poyo,
    optimizer: torch.optim.Optimizer,
    sampler: Sampler,
    tokenizer: Tokenizer,
    data: RunData,
    settings: TrainConfig,
    step: int,
) -> float:
    """Take optimiser step number `step` and return its loss.

    The loss is the squared error of the normalised targets, averaged over all samples and
    channels of the batch.
    """
    model.train()
    epoch, at = divmod(step, sampler.steps())
    batch = sampler.batch(epoch, at)
    rng = np.random.default_rng([settings.seed, step, 1])
    torch.manual_seed(int(rng.integers(2**62)))  # dropout of this step
    tokens = tokenizer(batch)
    device = model.frequency_F.device
    predicted = model(tokens.to(device))
    errors = [
        (predicted[name] - data.normalised(batch, name).to(device)).square().flatten()
        for name in data.channels
    ]
    all_errors = torch.cat(errors)
    loss = all_errors.sum() / max(1, len(all_errors))  # behaviour may pause for a whole batch
    set_learning_rate(optimizer, step, settings)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimizer.step()
    return loss.item()


def _curve_scores(
    model: Poyo, data: RunData, config: Config, split: str | None
) -> dict[str, float]:
    if split is None:
        return {}
    scores = {}
    for one in predict(model, data, config, split):
        for channel, score in zip(one.columns, r2_score(one.truth, one.predicted), strict=True):
            scores[f"r2 {one.recording_id} {one.target} {channel}"] = float(score)
    return scores
