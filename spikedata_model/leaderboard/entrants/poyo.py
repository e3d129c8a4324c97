"""POYO as an entrant: trained from scratch on what a suite shows, or from a model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from spikedata.errors import did_you_mean
from spikedata.store import Store
from spikedata_model.adaptation import start_of
from spikedata_model.causal import RecordingDecoder, restored
from spikedata_model.checkpoint import RunRecord, pick_device, read_run
from spikedata_model.config import Config, DataConfig, load_config
from spikedata_model.data import RunData
from spikedata_model.decoder import Decoder
from spikedata_model.errors import ConfigError, SuiteError
from spikedata_model.evaluate import STRIDE, predict
from spikedata_model.finetune import finetune_config
from spikedata_model.leaderboard.cost import Cost
from spikedata_model.leaderboard.entrants.poyo_cost import own_parameters, window_macs
from spikedata_model.leaderboard.entrants.poyo_rates import Rates, fit_rates
from spikedata_model.leaderboard.entrants.poyo_sessions import (
    SCHEME,
    Known,
    as_recording,
    know,
    recipe_for,
    recording_to_decode,
)
from spikedata_model.leaderboard.protocol import Rules, Segment, Session
from spikedata_model.train import train
from spikedata_model.weights import Weights, read_weights, weights_of_run
from spikedata_model.workers import Workers

__all__ = ["PoyoEntrant"]

# Shapes: K samples, C channels, D those of them that change, E estimates.

DECIDED = ("train.seed", "train.threads", "data.scheme", "data.targets", "data.labels")
"""Settings that a suite and its runner decide."""


class PoyoEntrant:
    """A POYO that is trained by `spikedata_model.train` on the sessions of a suite.

    It learns from a store in the run's folder that holds the training and validation segments and
    nothing else. Segments shorter than a window are windows of what they hold. Where there is
    a validation split, the weights kept are those with the best R² on it (on the suite's phase
    where it has one), unless ``train.keep`` says otherwise; where there is none, the last ones.
    A preset's split scheme and targets give way to the suite's. Of its recipes hold the weights of
    the interval tables that the suite shows; the factor that targets are divided by holds where
    their unit can be converted, and z-scores elsewhere.

    Estimates are those of `spikedata_model.evaluate.predict`: the mean of windows half a context
    apart that lie in the segment. Under causal rules they are those of a live
    `spikedata_model.decoder.Decoder`, to the last bit: of the window that ends with the estimate;
    where none can, at the very start of a segment, the mean of the training labels.

    Rates are regressed as counts with the squared error that the model has, which is least at
    the expected count. How far estimates keep away from the mean count of each unit, and from 0, is
    chosen by Poisson likelihood on the validation split (`Rates`).

    Parameters
    ----------
    preset : str
        A bundled preset or the path of one; not used with `start`.
    settings : sequence of str
        Changes such as ``"train.steps=200"``.
    start : Path or Weights, optional
        A run's folder, a weights file, or weights to begin with.
    mode : {"unit-id", "gradual", "full"}, optional
        What is trained of a model that was begun with: see `spikedata_model.finetune`. "unit-id"
        when not given; only with `start`.

    Raises
    ------
    ConfigError
        If a setting is one that the suite decides, does not exist or has no valid value, or a mode
        is given without a start.
    CheckpointError
        If the start cannot be read.

    Examples
    --------
    >>> PoyoEntrant("smoke", ["train.steps=60"]).about()["preset"]
    'smoke'
    """

    def __init__(
        self,
        preset: str = "poyo-compact",
        settings: Sequence[str] = (),
        start: Path | str | Weights | None = None,
        mode: str | None = None,
    ) -> None:
        self.preset, self.settings = str(preset), tuple(settings)
        for one in self.settings:
            name = one.partition("=")[0].strip()
            if name in DECIDED:
                raise ConfigError(f"--set '{one}': {name} is what the suite decides; leave it out.")
        if mode is not None and start is None:
            raise ConfigError(
                f"The mode '{mode}' adapts a model, and there is none to begin with: give a start, "
                "or leave the mode out."
            )
        self._start = start if start is None or isinstance(start, Weights) else read_weights(
            Path(start)
        )  # fmt: skip
        self._fingerprints: dict[str, str] = {}
        if start is not None and not isinstance(start, Weights) and Path(start).is_dir():
            self._fingerprints = dict(read_run(Path(start)).recordings)
        self.mode = None if start is None else mode or "unit-id"
        self._base = self._read_config()
        self._forget()

    def _forget(self) -> None:
        """Forget what `fit` learned."""
        self._known: dict[str, Known] = {}
        self._rates: dict[str, Rates] = {}
        self._weights: Weights | None = None
        self._record: RunRecord | None = None
        self._rules: Rules | None = None
        self._single: dict[str, RecordingDecoder] = {}
        self._decoders: dict[str, Decoder] = {}
        self._live: str | None = None
        self._live_start = 0.0

    def _read_config(self) -> Config:
        if self._start is None:
            return load_config(self.preset, self.settings)
        return finetune_config(self._start, self.mode or "unit-id", self.settings)

    # ------------------------------------------------------------------ learning

    def fit(self, sessions: Sequence[Session], rules: Rules) -> None:
        """Train on sessions, or go on where a training in the same folder was stopped.

        Raises
        ------
        SuiteError
            If a session has no labels.
        ConfigError, CheckpointError, TrainingError, KeyboardInterrupt
            As `spikedata_model.train.train`.
        """
        self._forget()
        channels = {} if self._start is None else self._start.model.channels
        known = know(sessions, rules.task, channels)
        learned = [one for one in sessions if known[one.recording_id].changes.any()]
        if learned:
            store = Store(rules.folder / "store", create=True)
            for one in learned:
                recording = as_recording(one, known[one.recording_id])
                store.write(recording, {"made": "of the training and validation segments"})
            ids = [one.recording_id for one in learned]
            run = rules.folder / "run"
            train(store, run, self._config(learned, rules), recording_ids=ids, start=self._start)
            self._weights, self._record = weights_of_run(run), read_run(run)
            self._weights.model.to(pick_device(self._base.train.device))
        self._known, self._rules = known, rules
        if rules.task == "rates":
            self._rates = {one.recording_id: self._fit_rates(one) for one in sessions}

    def _config(self, sessions: Sequence[Session], rules: Rules) -> Config:
        """Return the settings of a training."""
        base = self._base
        changes: dict[str, object] = {"seed": rules.seed, "threads": rules.threads}
        if "keep" not in base.train.model_fields_set:
            validated = any(len(part.time) for one in sessions for part in one.valid)
            changes["keep"] = "best" if validated else "last"
        recipes = (recipe_for(one, base.data.recipes) for one in sessions)
        data = DataConfig(
            scheme=SCHEME, short=base.data.short or "keep",
            recipes=tuple(one for one in recipes if one is not None),
        )  # fmt: skip
        return base.model_copy(
            update={"train": base.train.model_copy(update=changes), "data": data}
        )

    def _fit_rates(self, session: Session) -> Rates:
        known = self._known[session.recording_id]
        segments = [one for one in session.valid if len(one.time)]
        estimates = [self._estimate(one, known) for one in segments]
        return fit_rates(known.mean, known.n_samples, estimates, [one.labels for one in segments])

    # ------------------------------------------------------------------ predicting

    def predict(self, segment: Segment) -> np.ndarray:
        """Return the values at ``segment.time``, shape (K, C), float64, in the unit of the session.

        Raises
        ------
        SuiteError
            If there was no `fit` to the recording.
        """
        known = self._known_of(segment.recording_id)
        return self._finish(segment.recording_id, self._estimate(segment, known))

    def begin(self, recording_id: str, start: float) -> None:
        """Begin a segment: forget all spikes. Errors as `predict`."""
        known = self._known_of(recording_id)
        self._live, self._live_start = recording_id, start
        if not known.changes.any():
            return
        if recording_id not in self._decoders:
            self._decoders[recording_id] = Decoder(
                self._trained[0], recording_id, start=start, unit_ids=known.unit_ids,
                targets=[known.target],
            )  # fmt: skip
        self._decoders[recording_id].reset(start)

    def step(self, spike_time: np.ndarray, spike_unit: np.ndarray, end: float) -> np.ndarray:
        """Take in the spikes of the step that ends at `end`, and return the estimate, (C,).

        Raises
        ------
        SuiteError
            If no segment was begun.
        DecodingError
            As `spikedata_model.decoder.Decoder.observe`.
        """
        name = self._live
        if name is None:
            raise SuiteError("There was no `begin` before the first `step`: call it first.")
        known = self._known_of(name)
        estimate = known.mean[known.changes]
        if len(estimate):
            decoder = self._decoders[name]
            decoder.observe(spike_unit, spike_time)
            if end > self._live_start:
                estimate = decoder.predict(end)[known.target][0]
        return self._finish(name, known.complete(estimate[None]))[0]

    def _known_of(self, recording_id: str) -> Known:
        if recording_id not in self._known:
            near = did_you_mean(recording_id, self._known)
            raise SuiteError(f"POYO was not fitted to '{recording_id}'; {near}")
        return self._known[recording_id]

    @property
    def _trained(self) -> tuple[Weights, RunRecord]:
        """The weights, and the record of their run; only where a channel changed."""
        if self._weights is None or self._record is None:
            raise SuiteError("POYO was not fitted yet: call `fit` first.")
        return self._weights, self._record

    def _estimate(self, segment: Segment, known: Known) -> np.ndarray:
        """Return what the model says at every sample, (K, C), before it is made rates."""
        if not (known.changes.any() and len(segment.time)):
            return np.tile(known.mean, (len(segment.time), 1))
        if self._rules is not None and self._rules.causal:
            return known.complete(self._causal(segment, known, self._rules))
        weights, record = self._trained
        name, scale = segment.recording_id, weights.scales[segment.recording_id][known.target]
        data = RunData(
            {name: recording_to_decode(segment, known)}, (name,), {known.target: len(scale.mean)},
            {name: {known.target: scale}}, weights.vocabulary, SCHEME,
            readouts=weights.model.targets,
        )  # fmt: skip
        (one,) = predict(weights.model, data, record.config, "test")
        return known.complete(one.predicted)

    def _causal(self, segment: Segment, known: Known, rules: Rules) -> np.ndarray:
        """Return what a live decoder says at every sample, (K, D)."""
        edges, row = segment.estimates(rules.step or 0.0)
        values = np.tile(known.mean[known.changes], (len(edges), 1))
        wanted = np.unique(row)
        wanted = wanted[edges[wanted] > segment.start]
        weights, record = self._trained
        if segment.recording_id not in self._single:
            vocabulary = weights.vocabulary
            self._single[segment.recording_id] = RecordingDecoder(
                weights.model, vocabulary.unit_rows(known.unit_ids).tolist(),
                int(vocabulary.recording_rows([segment.recording_id])[0]),
            )  # fmt: skip
        decoder, context = self._single[segment.recording_id], record.config.model.context
        scale = weights.scales[segment.recording_id][known.target]

        def decode(edge: float) -> np.ndarray:
            start = max(segment.start, edge - context)
            lo, hi = np.searchsorted(segment.spike_time, [start, edge])
            found = decoder.decode(
                segment.spike_unit[lo:hi], segment.spike_time[lo:hi], start, edge, np.array([edge])
            )
            return restored(found[known.target], scale)[0]

        settings = record.config.train
        device = weights.model.frequency_F.device
        with ExitStack() as stack:
            workers = stack.enter_context(Workers(device, settings.precision, rules.threads))
            for index, one in zip(wanted, workers.map(decode, edges[wanted].tolist()), strict=True):
                values[index] = one
        return values[row]

    def _finish(self, recording_id: str, values: np.ndarray) -> np.ndarray:
        """Return values as they are answered: rates above 0."""
        rates = self._rates.get(recording_id)
        return values if rates is None else rates.of(values)

    # ------------------------------------------------------------------ what it is, and takes

    @property
    def pretrained_on(self) -> tuple[str, ...]:
        """Every recording that the start knows, and those before it: the start of a start too.

        By the rows of its tables, its scales, the ids of its units and, of a run's folder, what
        that was trained on. A model keeps the rows of what it began with; one from which rows were
        taken away (`spikedata_model.exporting.weights_of_recording`) no longer tells.
        """
        if self._start is None:
            return ()
        vocabulary = self._start.vocabulary
        heads = (one.split("/") for one in vocabulary.unit_ids)
        owners = ("/".join(head[:2]) for head in heads if len(head) > 2)
        named = {*vocabulary.recording_ids, *self._start.scales, *self._fingerprints, *owners}
        return tuple(sorted(named))

    @property
    def pretrained_units(self) -> tuple[str, ...]:
        """Ids of all units that the start has rows for."""
        return () if self._start is None else self._start.vocabulary.unit_ids

    @property
    def pretrained_fingerprints(self) -> dict[str, str]:
        """Fingerprints of what the run that it starts from was trained on, by recording."""
        return dict(self._fingerprints)

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the start's weights and the ids of their rows, as in ``run.json``; or ""."""
        return "" if self._start is None else start_of(self._start, {}).sha256

    def about(self) -> dict[str, JsonValue]:
        """Return what was chosen, for the result; after `fit` also what the data decided."""
        found: dict[str, JsonValue] = {"settings": list(self.settings)}
        if self.mode is None:
            found["preset"] = self.preset
        else:
            found["mode"] = self.mode
        if self._weights is not None and self._record is not None:
            settings = self._record.config.train
            found |= {
                "steps": settings.total_steps,
                "kept_step": int(self._weights.about["step"]),
                "keep": settings.keep,
                "batch_size": settings.batch_size,
                "learning_rate": settings.learning_rate,
                "parameters": sum(one.numel() for one in self._weights.model.parameters()),
                "recipes": [
                    one.model_dump(mode="json") for one in self._record.config.data.recipes
                ],
            }
        if self._rates:
            found["rates"] = {
                name: {"trust": one.trust, "floor": one.floor} for name, one in self._rates.items()
            }
        still = {name: int((~one.changes).sum()) for name, one in self._known.items()}
        if any(still.values()):
            found["channels_that_stand_still"] = {name: n for name, n in still.items() if n}
        return found

    def cost(self, recording_id: str) -> Cost:
        """Return what one estimate of a recording takes.

        Parameters are all but embedding rows of other recordings and readouts of other targets, of
        4 bytes each. Multiply-adds are those of `window_macs` with the mean number of spikes of
        the training segments: of a window and one query under causal rules, and otherwise of the
        two windows that hold a sample, shared among the samples of a window.
        """
        known = self._known_of(recording_id)
        if not known.changes.any() or self._rules is None:
            count = len(known.mean)
            return Cost(parameters=count, bytes=8 * count, macs=0.0)
        model, config = self._trained[0].model, self._trained[1].config.model
        count = own_parameters(model, len(known.unit_ids), known.target)
        tokens = known.n_spikes / known.seconds * config.context + 2 * len(known.unit_ids)
        samples = max(1.0, known.n_samples / known.seconds * config.context)
        windows, queries = (1.0, 1.0) if self._rules.causal else (1 / STRIDE / samples, samples)
        width, latents = int(known.changes.sum()), len(model.latent_time_L)
        macs = windows * window_macs(config, latents, tokens, queries, width)
        return Cost(parameters=count, bytes=4 * count, macs=macs)
