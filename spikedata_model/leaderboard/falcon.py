"""Our live decoder under the methods that FALCON's evaluator calls.

Read in ``falcon_challenge`` 1.0.2 (github.com/snel-repo/falcon-challenge; ``interface.py``,
``config.py``, ``evaluator.py``, ``dataloaders.py``): what is called when, shapes, tags, and that
behaviour is scored as the files hold it. Nothing of it is needed to use this module.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.errors import did_you_mean
from spikedata.manifest import load_manifest
from spikedata_model.decoder import Decoder
from spikedata_model.errors import ConfigError, DecodingError
from spikedata_model.leaderboard.falcon_tasks import BIN, TASKS, falcon_tag, task_of
from spikedata_model.weights import Weights, read_weights

__all__ = ["BIN", "TASKS", "FalconDecoder", "falcon_tag", "spread"]

# Shapes: B sessions of a batch, N channels, S spikes, C columns of the behaviour.


def spread(counts: np.ndarray, start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Return spikes for counts: those of a channel evenly inside ``[start, end)``.

    Of ``n`` spikes the first lies half an ``n``-th of the bin after its start, and the others an
    ``n``-th apart: no spike leaves its bin.

    Parameters
    ----------
    counts : ndarray, shape (N,), int
        Spikes of each channel.
    start, end : float
        The bin, in s.

    Returns
    -------
    unit : ndarray, shape (S,), int64
        Channel of each spike.
    time : ndarray, shape (S,), float64
        When, in s; never falling.

    Examples
    --------
    >>> unit, time = spread(np.array([2, 0, 1]), 1.0, 1.02)
    >>> unit.tolist(), time.round(3).tolist()
    ([0, 2, 0], [1.005, 1.01, 1.015])
    """
    unit = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    share = (np.arange(len(unit)) - first[unit] + 0.5) / counts[unit]
    order = np.argsort(share, kind="stable")
    # A bin is short beside the clock: rounding must not reach its end.
    time = np.minimum(start + share[order] * (end - start), np.nextafter(end, start))
    return unit[order], time


def _interface() -> type:
    """Return the benchmark's own class where it is installed, else none but `object`."""
    try:
        return importlib.import_module("falcon_challenge.interface").BCIDecoder
    except ImportError:
        return object


if TYPE_CHECKING:
    _Base = object
else:
    _Base = _interface()


class FalconDecoder(_Base):
    """A trained model as a ``BCIDecoder``: bins of 20 ms in, behaviour at the end of each bin out.

    Time begins with `reset`. The spikes of a bin are spread evenly inside it (`spread`); after each
    bin every session of the batch is decoded from the window that ends with the bin, by a
    `spikedata_model.decoder.Decoder` of its own: from the past alone. Behaviour is what the
    files hold, per bin where they do, and is not smoothed.

    Parameters
    ----------
    weights : Path or Weights
        A run's folder, a weights file, or weights: of a model that was trained or adapted on the
        calibration files.
    task : {"m1", "m2", "h1"}
        The benchmark's task.
    recordings : mapping of str to str, optional
        Recording id of the model by tag (or file name). When not given, the model's recording with
        that tag; of several a calibration file's goes before a minival file's, which repeats a
        part of it.
    channels : sequence of str, or mapping of str to sequence of str, optional
        Ids of the units that the columns of the counts are of, as the files number them, for all
        sessions or by tag. When not given, the columns are the recording's units in their
        order, which is that of the file.
    batch_size : int
        Sessions that the evaluator may hand over at once.

    Attributes
    ----------
    dropped : Counter of str
        Spikes of columns that are no unit of the model, by ``"<recording id>/<channel>"``. A unit
        of the model that is no column stays silent.

    Raises
    ------
    ConfigError
        If there is no such task, the model does not decode it, or knows no session of it.
    VocabularyError
        If `recordings` names one that the model does not know.
    CheckpointError
        If the weights cannot be read.

    Examples
    --------
    >>> decoder = FalconDecoder("runs/m2", "m2")  # doctest: +SKIP
    >>> decoder.reset(["Run1_20201019"])  # doctest: +SKIP
    >>> decoder.predict(np.zeros((1, 96), int)).shape  # doctest: +SKIP
    (1, 2)
    """

    def __init__(
        self,
        weights: Path | str | Weights,
        task: str,
        *,
        recordings: Mapping[str, str] | None = None,
        channels: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        batch_size: int = 1,
    ) -> None:
        self.task, self.facts = task, task_of(task)
        self.weights = weights if isinstance(weights, Weights) else read_weights(Path(weights))
        if _Base is not object:
            config = importlib.import_module("falcon_challenge.config")
            one = config.FalconConfig(task=config.FalconTask[task])
            super().__init__(one, batch_size)  # type: ignore[call-arg]
        self.set_batch_size(batch_size)
        width = self.weights.model.channels.get(self.facts.target)
        if width != self.facts.width:
            found = "none" if width is None else f"one of {width} columns"
            raise ConfigError(
                f"FALCON {task.upper()}: expected a model with a readout '{self.facts.target}' of "
                f"{self.facts.width} columns, found {found}; train it on the manifest "
                f"'{self.facts.manifest}'."
            )
        self.recordings = self._by_tag() if recordings is None else {
            falcon_tag(task, name): one for name, one in recordings.items()
        }  # fmt: skip
        self.weights.vocabulary.recording_rows(tuple(self.recordings.values()))
        by_tag = isinstance(channels, Mapping)
        self._channels = {
            falcon_tag(task, name): tuple(map(str, one))
            for name, one in (channels.items() if by_tag else ())  # type: ignore[union-attr]
        }
        self._all = None if channels is None or by_tag else tuple(map(str, channels))
        self.dropped: Counter[str] = Counter()
        self._idle: dict[str, list[Decoder]] = {}
        self._rows: list[_Row] = []
        self._step = 0

    def __repr__(self) -> str:
        return f"FalconDecoder('{self.task}', {len(self.recordings)} sessions)"

    def reset(self, dataset_tags: Sequence[str | Path] = ("",)) -> None:
        """Begin again with other sessions: forget all spikes.

        Parameters
        ----------
        dataset_tags : sequence of str or Path
            For each row of a batch the file that it comes from, or its tag.

        Raises
        ------
        ConfigError
            If a session is none that the model knows, or there are more than `batch_size`.
        """
        if not 1 <= len(dataset_tags) <= self.batch_size:
            raise ConfigError(
                f"FALCON {self.task.upper()}: expected 1 to {self.batch_size} sessions in a batch, "
                f"found {len(dataset_tags)}; make the decoder with a larger batch_size."
            )
        for one in self._rows:
            self._idle.setdefault(one.decoder.recording_id, []).append(one.decoder)
        self._rows, self._step = [], 0
        for name in dataset_tags:
            tag = falcon_tag(self.task, name)
            if tag not in self.recordings:
                raise ConfigError(
                    f"The model was not trained on a calibration file of '{tag}'; "
                    f"{did_you_mean(tag, self.recordings)} (recordings={{'{tag}': 'RECORDING ID'}} "
                    "decodes it as another one)"
                )
            self._rows.append(self._begin(tag))

    def predict(self, neural_observations: np.ndarray) -> np.ndarray:
        """Take in one bin of every session, and return the behaviour at its end.

        Parameters
        ----------
        neural_observations : ndarray, shape (B, N), whole numbers
            Spikes of each channel. Rows behind those of the sessions fill a batch.

        Returns
        -------
        ndarray, shape (B, C), float64
            Rows that fill a batch are zeros.

        Raises
        ------
        DecodingError
            If no session was named by `reset`, or the counts are not what they should be.
        """
        end = self._take(neural_observations)
        answers = np.zeros((len(neural_observations), self.facts.width))
        for row, one in enumerate(self._rows):
            answers[row] = one.decoder.predict(end)[self.facts.target][0]
        return answers

    def observe(self, neural_observations: np.ndarray) -> None:
        """Take in one bin of every session without a prediction. Errors as `predict`."""
        self._take(neural_observations)

    def on_done(self, dones: np.ndarray) -> None:
        """Hear that trials ended: nothing changes, since spikes go on from one into the next."""

    def set_batch_size(self, batch_size: int) -> None:
        """Set how many sessions there may be at once.

        Raises
        ------
        ConfigError
            If it is below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, found {batch_size}.")
        self.batch_size = int(batch_size)

    # ------------------------------------------------------------------ parts of the above

    def _by_tag(self) -> dict[str, str]:
        """Return the recordings of the task that the model knows, by tag."""
        dataset = load_manifest(self.facts.manifest).datasets[0].id
        found: dict[str, str] = {}
        mine = [one for one in self.weights.vocabulary.recording_ids
                if one.startswith(f"{dataset}/") and self.facts.target in
                self.weights.scales.get(one, {})]  # fmt: skip
        for one in sorted(mine, key=lambda name: "calib" not in name):
            found.setdefault(falcon_tag(self.task, one), one)
        if not found:
            raise ConfigError(
                f"The model has scales of no recording of '{dataset}', so no session of FALCON "
                f"{self.task.upper()} can be decoded; train it on the manifest "
                f"'{self.facts.manifest}', or say with recordings={{'TAG': 'RECORDING ID'}} which."
            )
        return found

    def _begin(self, tag: str) -> _Row:
        """Return a decoder of a session at the start of time."""
        recording_id = self.recordings[tag]
        idle = self._idle.get(recording_id, [])
        if idle:
            decoder = idle.pop()
            decoder.reset(0.0)
        else:
            decoder = Decoder(self.weights, recording_id, start=0.0, targets=[self.facts.target])
        named = self._channels.get(tag, self._all)
        return _Row(decoder, named, None if named is None else _units_of(decoder, named))

    def _take(self, counts: np.ndarray) -> float:
        """Hand the spikes of a bin to the decoders, and return its end."""
        where = f"FALCON {self.task.upper()}, bin {self._step}"
        counts = np.asarray(counts)
        if not self._rows:
            raise DecodingError(f"{where}: no session was named; call reset with their tags first.")
        if counts.ndim != 2 or len(counts) < len(self._rows):
            raise DecodingError(
                f"{where}: expected counts of shape ({len(self._rows)}, channels), one row for "
                f"each session of reset, found {counts.shape}."
            )
        whole = counts.astype(np.int64)
        if not (np.array_equal(whole, counts) and np.all(whole >= 0)):
            raise DecodingError(
                f"{where}: expected whole numbers of spikes, 0 or more, found others; give counts, "
                "not rates."
            )
        found = [one.units(where, whole.shape[1]) for one in self._rows]
        start, end = self._step * BIN, (self._step + 1) * BIN
        for one, unit_of, row in zip(self._rows, found, whole[: len(found)], strict=True):
            known = unit_of >= 0
            # In the order of the units: what is decoded does not depend on that of the columns.
            of_units = np.zeros(len(one.decoder.unit_ids), np.int64)
            of_units[unit_of[known]] = row[known]
            one.decoder.observe(*spread(of_units, start, end))
            for at in np.flatnonzero(~known & (row > 0)).tolist():
                name = (one.channels or ())[at]
                self.dropped[f"{one.decoder.recording_id}/{name}"] += int(row[at])
        self._step += 1
        return end


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One session of a batch: its decoder, what its columns are called, and their units."""

    decoder: Decoder
    channels: tuple[str, ...] | None
    unit_of: np.ndarray | None  # (N,), int64; -1 for a column that is no unit of the model

    def units(self, where: str, count: int) -> np.ndarray:
        """Return the unit of each of so many columns, (N,), int64, or refuse their number."""
        unit_of = np.arange(len(self.decoder.unit_ids)) if self.unit_of is None else self.unit_of
        if len(unit_of) != count:
            what = "units in the model" if self.unit_of is None else "names in `channels`"
            raise DecodingError(
                f"{where}: expected {len(unit_of)} columns, as there are {what} for "
                f"'{self.decoder.recording_id}', found {count}; give channels=, the ids of the "
                "units that the columns are of."
            )
        return unit_of


def _units_of(decoder: Decoder, channels: Sequence[str]) -> np.ndarray:
    """Return the row of each channel among a decoder's units, or -1, (N,), int64."""
    if len(set(channels)) < len(channels):
        raise ConfigError(f"{decoder.recording_id}: channels names a column twice; give each once.")
    rows = {one.rpartition("/")[2]: row for row, one in enumerate(decoder.unit_ids)}
    if not rows.keys() & set(channels):
        raise ConfigError(
            f"{decoder.recording_id}: channels names no unit of the model; "
            f"{did_you_mean(channels[0] if channels else '', rows)[:300]}"
        )
    return np.array([rows.get(one, -1) for one in channels], np.int64)
