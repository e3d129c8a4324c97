"""Decoding as in real time: every window ends at the time that is decoded, or one step later.

`RecordingDecoder` makes the tokens of one window and decodes them; the live `Decoder` and the
evaluation of a split both go through it, with the same arrays, so that they agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
import torch

from spikedata.progress import Progress, silent
from spikedata.recording import Recording
from spikedata_model.config import Config
from spikedata_model.data import ROUNDING, RunData, Scale
from spikedata_model.errors import ConfigError
from spikedata_model.one_window import OneWindow
from spikedata_model.poyo import Poyo
from spikedata_model.tokenizer import END, SPIKE, START
from spikedata_model.workers import Workers

__all__ = ["RecordingDecoder", "causal_edges", "causal_sums", "restored"]

# Shapes: U units, S spikes of a window, T tokens, K queries, C channels.

AT_ONCE = 64  # windows between two reports of progress
SHORTEST = 1e-3  # s, of a step: an hour is then 3.6 million windows


class RecordingDecoder:
    """A model for one recording, a window at a time.

    Parameters
    ----------
    model : Poyo
        In any mode; it is not changed.
    unit_rows : sequence of int, length U
        Embedding rows of the recording's units, in the order of its unit table.
    recording_row : int
        Embedding row of the recording.
    """

    def __init__(self, model: Poyo, unit_rows: Sequence[int], recording_row: int) -> None:
        self.model = OneWindow(model, unit_rows)
        self.targets, self.n_units = model.targets, len(unit_rows)
        device = model.frequency_F.device
        self._recording = torch.tensor(recording_row, device=device)
        unit = np.arange(self.n_units)
        self._unit = np.concatenate([unit, unit])
        self._type = np.repeat([START, END], self.n_units)
        np.empty(KEPT, np.uint8)  # freed at once: from now on malloc keeps as much, see KEPT

    def decode(
        self, unit: np.ndarray, time: np.ndarray, start: float, end: float, at: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """Return what every target is at some times, normalised.

        Parameters
        ----------
        unit : ndarray, shape (S,), int
            Rows of the recording's unit table, of the spikes of the window.
        time : ndarray, shape (S,), float64
            When they were, in seconds on the recording's clock, sorted.
        start, end : float
            The window, in the same seconds.
        at : ndarray, shape (K,), float64
            Times to predict at, in the same seconds.

        Returns
        -------
        dict of str to Tensor, shape (K, C), float32
        """
        device = self._recording.device
        # As the sampler: times are float64 until the window's start is taken off them.
        edge = np.repeat(np.array([0.0, end - start], np.float32), self.n_units)
        tokens = (
            np.concatenate([self._unit, unit], dtype=np.int64),
            np.concatenate([self._type, np.full(len(unit), SPIKE)], dtype=np.int64),
            np.concatenate([edge, (time - start).astype(np.float32)]),
        )
        unit_T, type_T, time_T = (torch.from_numpy(one).to(device) for one in tokens)
        query_K = torch.from_numpy((at - start).astype(np.float32)).to(device)
        with _one_thread(), torch.inference_mode():
            values = self.model(unit_T, type_T, time_T, self._recording, query_K)
        return dict(zip(self.targets, values, strict=True))


KEPT = 16 << 20
"""Bytes of freed memory that glibc keeps for the next window, once it has seen a block of that size
freed (the dynamic threshold of mallopt(3)). It would return what a window leaves, and have the
system fill new pages with zeros for the next one."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: its sums, shared by more, would differ in their last bits."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def causal_edges(start: float, end: float, step: float) -> np.ndarray:
    """Return `start`, every `step` seconds after it, and `end`, shape (N + 1,), float64.

    The last step is shorter where the interval is no multiple of it.

    Examples
    --------
    >>> causal_edges(10.0, 10.5, 0.2).round(3).tolist()
    [10.0, 10.2, 10.4, 10.5]
    """
    steps = max(1, int(np.ceil((end - start - ROUNDING) / step)))
    edges = start + step * np.arange(steps + 1)
    edges[-1] = end
    return edges


def causal_sums(
    model: Poyo,
    data: RunData,
    config: Config,
    split: str,
    step: float,
    *,
    workers: Workers | None = None,
    progress: Progress = silent,
) -> dict[tuple[str, str], np.ndarray]:
    """Return what a decoder that steps through a split says of each of its samples.

    Each interval is cut by `causal_edges`. A sample between two edges is decoded from the window
    that ends with the later one, and begins a context before it or with the interval: from its past
    and at most one step of its future.

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
    step : float
        Seconds from one window's end to the next one's.
    workers : Workers, optional
        Threads that share the windows; the result does not depend on them. Those of the settings
        when not given.
    progress : Progress
        Told of every few windows.

    Returns
    -------
    dict of (str, str) to ndarray, shape (N, C + 1), float64
        By recording and target, for each sample of the series: its value in the unit of the series,
        and 1 where it was decoded, 0 where not.

    Raises
    ------
    ConfigError
        If the step is not at least 1 ms and at most the context, no recording has time in the
        split, or an interval of it reaches past the time in which its recording was observed.
    """
    context = config.model.context
    if not SHORTEST <= step <= context:
        raise ConfigError(
            f"A causal evaluation with steps of {step} s cannot be made: they must be "
            f"{SHORTEST:g} s at least and at most the model's context of {context:g} s, as "
            "--causal 0.02."
        )
    if not data.has_split(split):
        raise ConfigError(
            f"No recording of this run has time in the split '{split}'; score another with --split."
        )
    plans = [_plan(data, name, split, step, context) for name in data.recording_ids]
    total, done = sum(len(one.windows) for one in plans), 0
    device, settings = model.frequency_F.device, config.train
    with ExitStack() as stack:
        if workers is None:
            workers = stack.enter_context(Workers(device, settings.precision, settings.threads))
        for plan in plans:
            decode = _decoder(model, data, plan)
            for first in range(0, len(plan.windows), AT_ONCE):
                windows = plan.windows[first : first + AT_ONCE]
                for window, parts in zip(windows, workers.map(decode, windows), strict=True):
                    for (lo, hi), sums, values in zip(
                        window.rows, plan.sums.values(), parts, strict=True
                    ):
                        sums[lo:hi, :-1], sums[lo:hi, -1] = values, 1
                done += len(windows)
                progress(f"stepping through {split}", done, total)
    return {(plan.name, target): sums for plan in plans for target, sums in plan.sums.items()}


class _Window(NamedTuple):
    """A window, and for each target the first and last row to decode from it, the last not."""

    start: float
    end: float
    rows: tuple[tuple[int, int], ...]


class _Plan(NamedTuple):
    """What is decoded of one recording."""

    name: str
    windows: list[_Window]
    sums: dict[str, np.ndarray]  # by target


def _plan(data: RunData, name: str, split: str, step: float, context: float) -> _Plan:
    """Return the windows of one recording that hold a sample to decode."""
    recording = data.recordings[name]
    series = [recording.series[target] for target in data.scales[name]]
    windows: list[_Window] = []
    for start, end in recording.split(split, data.scheme):
        _check_observed(recording, start, end)
        edges = causal_edges(start, end, step)
        bounds = [one.bounds(edges[:-1], edges[1:]) for one in series]
        for row, edge in enumerate(edges[1:].tolist()):
            rows = tuple((int(lo[row]), int(hi[row])) for lo, hi in bounds)
            if any(lo < hi for lo, hi in rows):
                windows.append(_Window(max(start, edge - context), edge, rows))
    sums = {
        target: np.zeros((len(one), one.values.shape[1] + 1))
        for target, one in zip(data.scales[name], series, strict=True)
    }
    return _Plan(name, windows, sums)


def _check_observed(recording: Recording, start: float, end: float) -> None:
    """Refuse an interval that reaches past the recording: nobody observed that it is silent."""
    first, last = float(recording.domain.start[0]), float(recording.domain.end[-1])
    if start < first - ROUNDING or end > last + ROUNDING:
        raise ConfigError(
            f"{recording.recording_id}: the interval [{start:.3f}, {end:.3f}) s reaches outside "
            f"the time that was observed, [{first:.3f}, {last:.3f}) s; correct the split."
        )


def _decoder(model: Poyo, data: RunData, plan: _Plan) -> Callable[[_Window], list[np.ndarray]]:
    """Return what decodes a window of a recording: the values of each target, (K, C)."""
    recording, vocabulary = data.recordings[plan.name], data.vocabulary
    unit_rows = vocabulary.unit_rows(recording.unit_ids).tolist()
    one = RecordingDecoder(model, unit_rows, int(vocabulary.recording_rows([plan.name])[0]))
    scales = data.scales[plan.name]
    series = [recording.series[target] for target in scales]

    def decode(window: _Window) -> list[np.ndarray]:
        lo, hi = np.searchsorted(recording.spike_time, [window.start, window.end])
        times = [each.times(slice(*rows)) for each, rows in zip(series, window.rows, strict=True)]
        values = one.decode(
            recording.spike_unit[lo:hi], recording.spike_time[lo:hi], window.start, window.end,
            np.concatenate(times),
        )  # fmt: skip
        ends = np.cumsum([len(time) for time in times]).tolist()
        return [
            restored(values[target][end - len(time) : end], scale)
            for (target, scale), time, end in zip(scales.items(), times, ends, strict=True)
        ]

    return decode


def restored(values: torch.Tensor, scale: Scale) -> np.ndarray:
    """Return normalised values in the unit of the series, shape (K, C), float64."""
    return values.double().cpu().numpy() * np.array(scale.std) + np.array(scale.mean)
