"""The training loop: every step is a function of its number, so a run can stop and go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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
from spikedata_model.config import Config
from spikedata_model.data import RunData, prepare_data
from spikedata_model.errors import CheckpointError
from spikedata_model.evaluate import predict, r2_score
from spikedata_model.guards import check_step, check_weights, weight_norms
from spikedata_model.journal import Journal
from spikedata_model.optim import make_optimizer
from spikedata_model.poyo import Poyo
from spikedata_model.step import Inputs, prepare_inputs, take_step
from spikedata_model.workers import Workers

__all__ = ["train"]

logger = logging.getLogger(__name__)


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
        Settings. What the data decide (steps of epochs, a batch larger than an epoch, a rate per
        window) stands resolved in ``run.json``.
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
    TrainingError
        If the loss or the weights ran away; the last good checkpoint is kept.
    """
    ids = tuple(store) if recording_ids is None else tuple(dict.fromkeys(recording_ids))
    data = prepare_data(store, ids, config)
    sampler = training_sampler(data, config)
    config = _resolve(config, sampler)
    record = RunRecord(
        config=config,
        recordings={one.recording_id: one.fingerprint for one in store.outlines(ids)},
        unit_ids=data.vocabulary.unit_ids,
        channels=data.channels,
        scales=data.scales,
    )
    model = record.build_model()
    start_run(folder, record)  # after all that may refuse the request
    norms = weight_norms(model)
    optimizer = make_optimizer(model, config.train)
    checkpoint = load_checkpoint(folder)
    if checkpoint is not None:
        _restore(model, optimizer, checkpoint, folder)
    run = _Run(model, optimizer, sampler, data, config, folder, norms)
    return _run_steps(run, checkpoint, progress)


@dataclass(frozen=True)
class _Run:
    """What does not change from step to step."""

    model: Poyo
    optimizer: torch.optim.Optimizer
    sampler: Sampler
    data: RunData
    config: Config
    folder: Path
    norms: dict[str, float]

    def save(self, journal: Journal) -> Checkpoint:
        vocabulary = self.data.vocabulary
        now = Checkpoint(
            journal.step, journal.seconds, self.model.state_dict(), self.optimizer.state_dict(),
            journal.curve, journal.losses, journal.total_steps,
            vocabulary.unit_ids, vocabulary.recording_ids,
        )  # fmt: skip
        save_checkpoint(self.folder, now)
        return now


def _restore(
    model: Poyo, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint, folder: Path
) -> None:
    """Go back to where a run was."""
    model.load_state_dict(checkpoint.model)
    try:
        optimizer.load_state_dict(checkpoint.optimizer)
        state = [(weight, one) for weight, held in optimizer.state.items() for one in held.values()]
        fits = all(one.shape in (weight.shape, weight.shape[:1], ()) for weight, one in state)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise CheckpointError(
            f"The checkpoint in {folder} holds an optimiser of another model: delete it to train "
            "again."
        )


def _resolve(config: Config, sampler: Sampler) -> Config:
    """Return the configuration with what the training data decide."""
    n_windows = len(sampler.plan()[0])
    resolved = config.resolve(n_windows)
    if resolved.train.batch_size < config.train.batch_size:
        logger.warning(
            "The training split holds %d windows, fewer than train.batch_size (%d): a batch is "
            "all of them.", n_windows, config.train.batch_size,
        )  # fmt: skip
    return resolved


def training_sampler(data: RunData, config: Config, batch_size: int | None = None) -> Sampler:
    """Return the sampler whose batches a model is trained on, with units dropped as configured."""
    size = config.train.batch_size if batch_size is None else batch_size
    kept = config.train.unit_dropout
    augment = [] if kept is None else [UnitDropout(**kept.model_dump())]
    return data.sampler("train", config, batch_size=size, augment=augment)


def _run_steps(run: _Run, checkpoint: Checkpoint | None, progress: Progress) -> Checkpoint:
    settings, kept = run.config.train, 0
    total = settings.total_steps
    curve_split = settings.curve_split if run.data.has_split(settings.curve_split) else None
    journal = Journal(total)
    if checkpoint is not None:
        kept = checkpoint.step
        journal = Journal(
            total, checkpoint.step, checkpoint.seconds, checkpoint.curve, checkpoint.losses
        )
    tokenizer = run.data.tokenizer(run.sampler, run.config)

    def prepare(step: int) -> Inputs:
        return prepare_inputs(run.model, run.sampler, tokenizer, run.data, step)

    ahead: Future[Inputs] | None = None
    device = run.model.frequency_F.device
    workers = Workers(device, settings.precision, settings.threads, settings.windows_at_once)
    with workers, ThreadPoolExecutor(1, "next-batch") as pool:
        while journal.step < total:
            step = journal.step
            began = time.perf_counter()
            inputs = prepare(step) if ahead is None else ahead.result()
            ends_row = (step + 1) % settings.evaluate_every == 0 or step + 1 == total
            # Not while an evaluation reads the same recordings.
            ahead = None if ends_row else pool.submit(prepare, step + 1)
            loss, norm = take_step(run.model, run.optimizer, workers, inputs, settings, step)
            check_step(step, loss, norm, kept)
            journal.add(loss, len(inputs.tokens.unit_T), time.perf_counter() - began)
            saves = journal.step % settings.checkpoint_every == 0 or journal.step == total
            if ends_row or saves:
                check_weights(run.norms, run.model, journal.step, kept)
            if ends_row:
                journal.add_row(_curve_scores(run, curve_split, workers))
            if saves and journal.step < total:
                run.save(journal)
                kept = journal.step
            progress(journal.line(), journal.step, total)
    return run.save(journal) if checkpoint is None or checkpoint.step < total else checkpoint


def _curve_scores(run: _Run, split: str | None, workers: Workers) -> dict[str, float]:
    """Return R² by recording, target and channel, where the recipe scores."""
    if split is None:
        return {}
    scores = {}
    for one in predict(run.model, run.data, run.config, split, workers=workers):
        truth, predicted = one.truth[one.scored], one.predicted[one.scored]
        for channel, score in zip(one.columns, r2_score(truth, predicted), strict=True):
            scores[f"r2 {one.recording_id} {one.target} {channel}"] = float(score)
    return scores
