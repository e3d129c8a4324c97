"""A trained model live: spikes come in as they happen, and behaviour comes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from spikedata.errors import did_you_mean
from spikedata_model.causal import RecordingDecoder, restored
from spikedata_model.errors import ConfigError, DecodingError, VocabularyError
from spikedata_model.weights import Weights, own_rows, read_weights

__all__ = ["Decoder"]

# Shapes: U units, S spikes, K queries, C channels.

CAPACITY = 1 << 12  # spikes that there is room for at first


class Decoder:
    """Decodes one recording while it is made.

    At any time ``t`` it reads the window ``[t - context, t)``, shorter right after the start: a
    spike at exactly ``t`` is not in it. Equal, bit for bit, to `spikedata evaluate --causal`, where
    that asks at the same times.

    It holds the spikes of one window and those observed since the last prediction, however long it
    runs; the clock may start anywhere, for times are float64 until a window's start is taken off
    them.

    Parameters
    ----------
    weights : Weights
        A model, its vocabulary and its scales, of `load_weights` or `weights_of_run`.
    recording_id : str
        What is decoded.
    start : float
        When it begins, in seconds on the recording's clock: nothing is known of the time before.
    unit_ids : sequence of str, length U, optional
        The recording's units, `Recording.unit_ids` where there is one; spikes are given by rows of
        this table. When not given, the units of the vocabulary whose id begins with the recording's
        and "/", as the store names them, in the order of their rows.
    targets : sequence of str, optional
        What to decode; when not given, the targets with a scale in the recording, or all of the
        model's when `normalised`.
    normalised : bool
        Return what the model does, in standard deviations from the mean or divided by the factor of
        a recipe, in the place of the unit of the series. Weights of other programs have no scales.

    Raises
    ------
    VocabularyError
        If the model does not know the recording or a unit, a unit is given twice, or it is not
        known which units are the recording's.
    ConfigError
        If the model has not a target, a target has no scale, or the start is not finite.

    Examples
    --------
    >>> decoder = Decoder.load("runs/demo", "lab/a", start=0.0)  # doctest: +SKIP
    >>> decoder.observe([3, 0], [0.012, 0.019])  # doctest: +SKIP
    >>> decoder.predict(0.020)["cursor_velocity"].shape  # doctest: +SKIP
    (1, 2)
    """

    def __init__(
        self,
        weights: Weights,
        recording_id: str,
        *,
        start: float,
        unit_ids: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        normalised: bool = False,
    ) -> None:
        vocabulary, model = weights.vocabulary, weights.model
        row = int(vocabulary.recording_rows([recording_id])[0])
        if unit_ids is None:
            unit_ids = [vocabulary.unit_ids[one] for one in own_rows(vocabulary, recording_id)]
        ids = tuple(map(str, unit_ids))
        if len(set(ids)) < len(ids):
            raise VocabularyError(f"{recording_id}: unit_ids names a unit twice; give each once.")
        self.recording_id, self.unit_ids = recording_id, ids
        self.context = model.config.context
        self.scales = weights.scales.get(recording_id, {})
        self.normalised = normalised
        known = model.targets if normalised else tuple(self.scales)
        self.targets = known if targets is None else tuple(targets)
        self._check_targets(model.targets)
        self._model = RecordingDecoder(model, vocabulary.unit_rows(ids).tolist(), row)
        self._unit, self._time = np.empty(CAPACITY, np.int64), np.empty(CAPACITY)
        self.reset(start)

    @classmethod
    def load(
        cls,
        path: str | Path,
        recording_id: str,
        *,
        start: float,
        unit_ids: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        normalised: bool = False,
        precision: str | None = None,
    ) -> Self:
        """Return a decoder with the weights of a file, or of the folder of a run.

        Parameters
        ----------
        path : str or Path
            A weights file, or what was given to `spikedata train --out`.
        recording_id, start, unit_ids, targets, normalised
            See `Decoder`.
        precision : {"float32", "bfloat16"}, optional
            Of matrix products; when not given, float32 for a file and the run's own for a run.

        Raises
        ------
        CheckpointError
            If there are no weights, or they are damaged.
        """
        return cls(
            read_weights(Path(path), precision), recording_id, start=start, unit_ids=unit_ids,
            targets=targets, normalised=normalised,
        )  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"Decoder('{self.recording_id}', {len(self.unit_ids)} units, "
            f"{', '.join(self.targets)}, decoded until {self.decoded:.3f} s)"
        )

    def reset(self, start: float) -> None:
        """Forget all spikes and begin again at `start`, in seconds on the recording's clock.

        Raises
        ------
        ConfigError
            If the start is not finite.
        """
        if not np.isfinite(start):
            raise ConfigError(f"{self.recording_id}: decoding cannot start at {start} s.")
        self.start = self.decoded = self._latest = float(start)
        self._first = self._last = 0

    def observe(self, unit: Sequence[int] | np.ndarray, time: Sequence[float] | np.ndarray) -> None:
        """Take in spikes, in any chunks; all of them or, where one is refused, none.

        Parameters
        ----------
        unit : array_like, shape (S,), int
            Rows of `unit_ids`.
        time : array_like, shape (S,), float64
            Seconds on the recording's clock; never falling, within a chunk and from one to the
            next, and not before what was decoded.

        Raises
        ------
        DecodingError
            If the arrays do not fit, a unit does not exist, a time is not finite, a spike comes
            before the one that was given before it, or before the start or the end of a window that
            was decoded already.
        """
        units, times = np.asarray(unit), np.asarray(time)
        if units.size == 0 and times.size == 0:
            return
        self._check_spikes(units, times)
        end = self._make_room(len(times))
        self._unit[self._last : end], self._time[self._last : end] = units, times
        self._last, self._latest = end, float(times[-1])

    def predict(
        self, t: float, at: Sequence[float] | np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Return what every target is, from the spikes of the window that ends at `t`.

        Parameters
        ----------
        t : float
            End of the window, in seconds on the recording's clock, after the start; never before
            that of the prediction before.
        at : array_like, shape (K,), optional
            Times to predict, within the window, its ends included; `t` alone when not given. More
            of them cost little.

        Returns
        -------
        dict of str to ndarray, shape (K, C), float64
            In the unit of the series, unless normalised values were asked for.

        Raises
        ------
        DecodingError
            If a time is not finite, `t` is not after the start or lies before the prediction
            before, or a time of `at` lies outside the window.
        """
        t = float(t)
        if not (np.isfinite(t) and t > self.start and t >= self.decoded):
            raise DecodingError(
                f"{self.recording_id}: cannot predict at {t} s; give a time after the start at "
                f"{self.start:.6f} s and not before {self.decoded:.6f} s, until which all is "
                "decoded, or reset the decoder."
            )
        begin = max(self.start, t - self.context)
        asked = np.array([t]) if at is None else np.asarray(at, np.float64)
        if not (asked.ndim == 1 and np.all((asked >= begin) & (asked <= t))):
            raise DecodingError(
                f"{self.recording_id}: times to predict must be a row of numbers in the window "
                f"[{begin:.6f}, {t:.6f}] s, found {asked.ravel()[:5].tolist()} of shape "
                f"{asked.shape}."
            )
        held = self._time[self._first : self._last]
        lo, hi = (self._first + held.searchsorted([begin, t])).tolist()
        values = self._model.decode(self._unit[lo:hi], self._time[lo:hi], begin, t, asked)
        self._first, self.decoded = lo, t
        if self.normalised:
            return {name: values[name].double().cpu().numpy() for name in self.targets}
        return {name: restored(values[name], self.scales[name]) for name in self.targets}

    # ------------------------------------------------------------------ parts of the above

    def _make_room(self, count: int) -> int:
        """Return where the spikes will end, when there is room for so many more."""
        if self._last + count > len(self._time):
            held = slice(self._first, self._last)
            used = self._last - self._first
            # Held spikes move to the front when they fill less than half, so seldom.
            size = max(len(self._time), 2 * (used + count))
            for name in ("_unit", "_time"):
                old = getattr(self, name)
                new = old if size == len(old) else np.empty(size, old.dtype)
                new[:used] = old[held]
                setattr(self, name, new)
            self._first, self._last = 0, used
        return self._last + count

    def _check_spikes(self, unit: np.ndarray, time: np.ndarray) -> None:
        count, earliest = len(self.unit_ids), max(self._latest, self.decoded)
        kinds = unit.dtype.kind in "iu" and time.dtype.kind in "fiu"
        if unit.ndim != 1 or unit.shape != time.shape or not kinds:
            problem = (
                f"units of shape {unit.shape} and type {unit.dtype} with times of shape "
                f"{time.shape} and type {time.dtype}; give a row of whole numbers and as many "
                "seconds"
            )
        elif not (unit.min() >= 0 and unit.max() < count):
            wrong = int(unit.min() if unit.min() < 0 else unit.max())
            problem = f"unit {wrong}, but the recording has {count}, from 0; give rows of unit_ids"
        elif not np.isfinite(time).all():
            problem = "a time that is no number; leave such spikes out"
        elif np.any(time[1:] < time[:-1]):
            row = int(np.argmax(time[1:] < time[:-1]))
            problem = (
                f"a spike at {time[row + 1]:.6f} s after one at {time[row]:.6f} s; give spikes in "
                "the order of their times"
            )
        elif time[0] < earliest:
            what = "was observed" if self._latest > self.decoded else "was decoded"
            problem = (
                f"a spike at {time[0]:.6f} s, but all before {earliest:.6f} s {what} already; "
                "give spikes before predicting, in the order of their times, or reset the decoder"
            )
        else:
            return
        raise DecodingError(f"{self.recording_id}: observed {problem}.")

    def _check_targets(self, known: Sequence[str]) -> None:
        for name in self.targets:
            if name not in known:
                raise ConfigError(
                    f"The model does not decode '{name}'; {did_you_mean(name, known)}"
                )
        missing = [name for name in self.targets if name not in self.scales]
        if not self.normalised and (missing or not self.targets):
            raise ConfigError(
                f"{self.recording_id}: the weights do not say in what unit "
                f"'{(missing or known)[0]}' is; ask for normalised=True, or take the weights of a "
                "run that was trained on this recording."
            )
