"""The training loop: every step is a function of its number, so a run can stop and go on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from spikedata.augment import UnitDropout
from spikedata.progress import Progress, silent
from spikedata.sampler import Sampler
from spikedata.store import Store
from spikedata_model.adaptation import begin_with, freeze, start_of
from spikedata_model.card import Card, describe_run, write_card
from spikedata_model.checkpoint import (
    Checkpoint,
    RunRecord,
    load_checkpoint,
    run_hash,
    save_checkpoint,
    sole_use,
    start_run,
)
from spikedata_model.config import Config, TrainConfig
from spikedata_model.data import RunData, prepare_data
from spikedata_model.distributed import World, check_processes, join, state_digest
from spikedata_model.errors import CheckpointError, ConfigError
from spikedata_model.evaluate import predict, r2_score
from spikedata_model.guards import check_step, check_weights, weight_norms
from spikedata_model.journal import Journal, best_row
from spikedata_model.optim import make_optimizer
from spikedata_model.poyo import Poyo
from spikedata_model.step import Inputs, prepare_inputs, take_step
from spikedata_model.stop import stopping
from spikedata_model.weights import Weights, save_run_weights
from spikedata_model.workers import Workers

if TYPE_CHECKING:
    from spikedata_model.tensorboard import Board

__all__ = ["train"]

logger = logging.getLogger(__name__)

SAVE_SECONDS = 600.0  # without a checkpoint, at most


def train(
    store: Store,
    folder: Path,
    config: Config,
    *,
    recording_ids: Sequence[str] | None = None,
    start: Weights | None = None,
    like: Mapping[str, str] | None = None,
    manifest: str | None = None,
    board: bool = False,
    progress: Progress = silent,
) -> Checkpoint:
    """Train a model, or go on where a run in the same folder stopped.

    Parameters
    ----------
    store : Store
        Harmonised recordings.
    folder : Path
        The run's folder: ``run.json``, ``checkpoint.pt`` (to go on with), ``weights.safetensors``
        (the model), ``model_card.md`` and ``.json``, and ``learning_curve.csv``.
    config : Config
        Settings. What the data decide (steps of epochs, a batch larger than an epoch, a rate per
        window) stands resolved in ``run.json``.
    recording_ids : sequence of str, optional
        Which recordings; all of the store when not given.
    start : Weights, optional
        Weights to begin with, whose shape ``config.model`` has; see `spikedata_model.finetune`.
    like : mapping of str to str, optional
        Targets that `start` has no readout for, and whose readout they begin with.
    manifest : str, optional
        Name of the manifest that chose the recordings, for the model card.
    board : bool
        Also write events for TensorBoard.
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
        If the data cannot be decoded, the settings do not fit them, or the folder holds another
        run or is trained in by another process.
    CheckpointError
        If the checkpoint is damaged, or the folder was given to another run meanwhile.
    TrainingError
        If the loss or the weights ran away; the last good checkpoint is kept.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, when the step is done and a checkpoint is written.
    """
    ids = tuple(store) if recording_ids is None else tuple(dict.fromkeys(recording_ids))
    with join(config.train.device) as world, ExitStack() as stack:
        record, data, sampler, model = world.together(
            lambda: _prepare(store, ids, config, start, like or {})
        )
        world.same({
            "settings": record.config.model_dump_json(),
            "recordings": json.dumps(record.recordings),
            "weights at the start": state_digest(model.state_dict()),
        })  # fmt: skip
        world.together(lambda: start_run(folder, record) if world.first else None)
        world.together(lambda: stack.enter_context(sole_use(folder)) if world.first else None)
        norms = weight_norms(model)
        optimizer = make_optimizer(model, record.config.train)
        checkpoint = world.together(lambda: load_checkpoint(folder))
        if checkpoint is not None:
            _restore(model, optimizer, checkpoint, folder)
        world.same({"checkpoint": state_digest(model.state_dict())})
        card = describe_run(folder, record, data, model, manifest)
        run = _Run(model, optimizer, sampler, data, record, folder, norms, card, world)
        return _run_steps(run, checkpoint, board, progress if world.first else silent)


def _prepare(
    store: Store,
    ids: tuple[str, ...],
    config: Config,
    start: Weights | None,
    like: Mapping[str, str],
) -> tuple[RunRecord, RunData, Sampler, Poyo]:
    """Return all that a run begins with; whatever may refuse the request does it here."""
    if start is None:
        data = prepare_data(store, ids, config)
    else:
        data = prepare_data(store, ids, config, start.vocabulary, start.model.channels)
    sampler = training_sampler(data, config)
    _check_windows(sampler)
    config = _resolve(config, sampler)
    _check_curve(config.train, data, start)
    record = RunRecord(
        config=config,
        recordings={one.recording_id: one.fingerprint for one in store.outlines(ids)},
        unit_ids=data.vocabulary.unit_ids,
        recording_ids=data.vocabulary.recording_ids,
        channels=({} if start is None else start.model.channels) | data.channels,
        scales=({} if start is None else start.scales) | data.scales,
        start=None if start is None else start_of(start, like),
    )
    model = record.build_model()
    if start is not None:
        begin_with(model, start, like)
    return record, data, sampler, model


@dataclass(frozen=True)
class _Run:
    """What does not change from step to step."""

    model: Poyo
    optimizer: torch.optim.Optimizer
    sampler: Sampler
    data: RunData
    record: RunRecord
    folder: Path
    norms: dict[str, float]
    card: Card
    world: World

    @property
    def settings(self) -> TrainConfig:
        return self.record.config.train

    def save(self, journal: Journal) -> Checkpoint:
        """Write the weights and their card, if they are to be kept, and then the checkpoint."""
        self.world.same({"weights": repr(weight_norms(self.model))})
        if self.world.first and run_hash(self.folder) != self.card.run:
            raise CheckpointError(
                f"{self.folder} now holds another run than the one that trains here, so nothing of "
                f"step {journal.step} was written: train again in another --out."
            )
        vocabulary, best = self.data.vocabulary, self.settings.keep == "best"
        unscored = journal.is_over(self.settings) and best_row(journal.curve) is None
        if self.world.first and best and unscored:
            logger.warning(
                "No evaluation found an R² (what is scored on the split '%s' never changes, or has "
                "no samples), so train.keep = 'best' keeps the last weights.",
                self.settings.curve_split,
            )
        if self.world.first and (not best or journal.is_best or unscored):
            weights = Weights(self.model, vocabulary, self.record.scales)
            save_run_weights(self.folder, weights, self.record, journal.step)
            write_card(self.folder, self.card.at(journal.curve, journal.step, best))
        now = Checkpoint(
            journal.step, journal.seconds, self.model.state_dict(), self.optimizer.state_dict(),
            journal.curve, journal.losses, journal.total_steps,
            vocabulary.unit_ids, vocabulary.recording_ids, self.world.size,
        )  # fmt: skip
        if self.world.first:
            save_checkpoint(self.folder, now)
        return now


def _check_windows(sampler: Sampler) -> None:
    """Refuse recordings that nothing would be learned from."""
    known = sampler.recording_ids
    idle = sorted(set(range(len(known))) - set(sampler.plan()[0].tolist()))
    if idle:
        raise ConfigError(
            f"{known[idle[0]]}: its training split has no interval as long as a window, so nothing "
            f"would be learned from it ({len(idle)} of {len(known)} recordings are so): leave it "
            "out, train with a shorter model.context, or set data.short=keep."
        )


def _check_curve(settings: TrainConfig, data: RunData, start: Weights | None) -> None:
    """Refuse settings that need what the data or the start do not have."""
    needs = {"patience": settings.patience > 0, "keep": settings.keep == "best"}
    for name in (name for name, needed in needs.items() if needed):
        if not data.has_split(settings.curve_split):
            raise ConfigError(
                f"train.{name} = {getattr(settings, name)!r} chooses by R² on the split "
                f"'{settings.curve_split}', in which these recordings have no time; name another "
                "one with train.curve_split, or leave it out."
            )
    if settings.frozen and start is None:
        raise ConfigError(
            f"train.frozen is {settings.frozen:g}, but there are no weights to begin with: "
            "`spikedata finetune --from RUN` has some."
        )


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
    """Return the sampler whose batches a model is trained on, with units dropped as configured.

    Of few labels all count, also those of trials that are shorter than a window; of all labels only
    where ``data.short`` says so.
    """
    size = config.train.batch_size if batch_size is None else batch_size
    kept = config.train.unit_dropout
    augment = [] if kept is None else [UnitDropout(**kept.model_dump())]
    short = config.data.short or ("drop" if config.data.labels is None else "keep")
    return data.sampler("train", config, batch_size=size, augment=augment, short=short)


def _run_steps(
    run: _Run, checkpoint: Checkpoint | None, board: bool, progress: Progress
) -> Checkpoint:
    settings, world, kept = run.settings, run.world, 0
    total, frozen = settings.total_steps, settings.frozen_steps
    curve_split = settings.curve_split if run.data.has_split(settings.curve_split) else None
    journal = Journal(total)
    if checkpoint is not None:
        kept = checkpoint.step
        journal = Journal(
            total, checkpoint.step, checkpoint.seconds, checkpoint.curve, checkpoint.losses
        )
    tokenizer = run.data.tokenizer(run.sampler, run.record.config)

    def prepare(step: int) -> Inputs:
        return prepare_inputs(run.model, run.sampler, tokenizer, run.data, step, world)

    ahead: Future[Inputs] | None = None
    device, saved = run.model.frequency_F.device, time.monotonic()
    threads = settings.threads or world.threads
    workers = Workers(device, settings.precision, threads, settings.windows_at_once)
    if checkpoint is not None:
        _check_processes(run, workers, checkpoint.processes)
    with ExitStack() as stack:
        stack.enter_context(stopping(world.ask_to_stop))
        board = board and world.first
        events = stack.enter_context(_open_board(run.folder, journal.step)) if board else None
        stack.enter_context(workers)
        pool = stack.enter_context(ThreadPoolExecutor(1, "next-batch"))
        while not journal.is_over(settings):
            step = journal.step
            if run.record.start is not None and (step == frozen or ahead is None):
                freeze(run.model, run.record.start, step < frozen)
            began = time.perf_counter()
            inputs = prepare(step) if ahead is None else ahead.result()
            ends_row = (step + 1) % settings.evaluate_every == 0 or step + 1 == total
            # Not while an evaluation reads the same recordings.
            ahead = None if ends_row else pool.submit(prepare, step + 1)
            loss, norm = take_step(run.model, run.optimizer, workers, inputs, settings, step, world)
            check_step(step, loss, norm, kept)
            journal.add(loss, inputs.n_tokens, time.perf_counter() - began)
            # The clocks of several processes would not agree.
            late = world.size == 1 and time.monotonic() - saved > SAVE_SECONDS
            saves = journal.step % settings.checkpoint_every == 0 or late or world.stopping
            if ends_row or saves:
                check_weights(run.norms, run.model, journal.step, kept)
            if ends_row:
                journal.add_row(_curve_scores(run, curve_split, workers))
                if events is not None:
                    events.row(journal.curve[-1])
            saves |= journal.is_over(settings)
            if saves or (settings.keep == "best" and journal.is_best):
                checkpoint, kept, saved = run.save(journal), journal.step, time.monotonic()
            progress(journal.line(), journal.step, total)
            if world.stopping and not journal.is_over(settings):
                raise KeyboardInterrupt
    return run.save(journal) if checkpoint is None else checkpoint


def _check_processes(run: _Run, workers: Workers, before: int) -> None:
    """Refuse to go on with so many processes that the sums would be others than they were."""
    size, n_windows = run.settings.batch_size, len(run.sampler.plan()[0])
    sizes = {size, n_windows % size} - {0}
    check_processes(sizes, workers.most, before, run.world.size)


def _open_board(folder: Path, step: int) -> Board:
    from spikedata_model.tensorboard import Board  # a library that only this needs

    return Board(folder, step)


def _curve_scores(run: _Run, split: str | None, workers: Workers) -> dict[str, float]:
    """Return R² by recording, target and channel, where the recipe scores."""
    if split is None:
        return {}
    scores = {}
    found = predict(run.model, run.data, run.record.config, split, workers=workers, world=run.world)
    for one in found:
        truth, predicted = one.truth[one.scored], one.predicted[one.scored]
        for channel, score in zip(one.columns, r2_score(truth, predicted), strict=True):
            scores[f"r2 {one.recording_id} {one.target} {channel}"] = float(score)
    return scores
