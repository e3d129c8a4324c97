"""Which windows an epoch has: drawn at random, one after another, or around events.

Everything here is arithmetic on split intervals; no recording is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from spikedata.errors import SamplingError, did_you_mean
from spikedata.intervals import IntervalSet
from spikedata.ragged import take_rows

__all__ = [
    "Around",
    "Lengths",
    "Windows",
    "check_windows",
    "draw_windows",
    "event_windows",
    "tile_windows",
]

ROUNDING = 5e-7  # s by which sums of times may be off, on a clock that counts from 1970


@dataclass(frozen=True, slots=True)
class Around:
    """Windows around the events of an interval table: ``[event + before, event + after)``.

    Parameters
    ----------
    table : str
        Interval table of the recordings, such as "trials".
    column : str
        Column of event times in seconds on the recording's clock; of several axes every value is
        an event. "start" and "end" are the bounds of the rows.
    before, after : float
        Seconds from the event to the start and to the end of its window; negative is earlier.
    where : mapping of str to object
        Only rows whose columns have this value, or one of a collection of values:
        ``{"result": ["R", "F"], "valid": True}``.

    Notes
    -----
    An event without a time (NaN) gives no window, nor does one whose window does not lie inside one
    interval of the split; `Sampler.dropped` counts both. A window that leaves it by less than half
    a microsecond, which rounding may do, ends with it.
    """

    table: str
    column: str
    before: float
    after: float
    where: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (np.isfinite(self.before) and np.isfinite(self.after) and self.before < self.after):
            raise SamplingError(
                f"Windows around {self.table}.{self.column} need finite lags, before < after, "
                f"found {self.before} to {self.after}."
            )

    @property
    def length(self) -> float:
        """Length of the windows in seconds."""
        return self.after - self.before

    def events(self, table: IntervalSet, where: str) -> np.ndarray:
        """Return the times of the events of a table, shape (N,), float64; NaN where it has none.

        Raises
        ------
        SamplingError
            If the table of the recording `where` lacks a column.
        """
        columns = {"start": table.start, "end": table.end, **table.columns}
        kept = np.ones(len(table), bool)
        if not len(table):
            return np.empty(0)
        for name in (self.column, *self.where):
            if name not in columns:
                raise SamplingError(
                    f"{where}: '{self.table}' has no column '{name}'; {did_you_mean(name, columns)}"
                )
        for name, value in self.where.items():
            many = isinstance(value, (list, tuple, set, frozenset, np.ndarray))
            column = np.asarray(columns[name])
            fits = [column == one for one in (value if many else [value])]  # type: ignore[union-attr]
            kept &= np.any(fits, axis=0) if fits else False
        events = np.asarray(columns[self.column])[kept]
        if events.dtype.kind not in "fiu":
            raise SamplingError(
                f"{where}: '{self.column}' holds no times but {events.dtype}; name a column of "
                f"'{self.table}' with times in seconds."
            )
        return events.astype(np.float64).reshape(-1)


@dataclass(frozen=True)
class Lengths:
    """How long windows are: one length, a uniform draw between two, or another distribution.

    Parameters
    ----------
    given : float, (float, float), or callable
        Seconds; or an inverse distribution function, from numbers in [0, 1) to seconds, such as
        ``scipy.stats.triang(0.5, 0.5, 1.5).ppf``.
    """

    given: float | Sequence[float] | Callable[[np.ndarray], np.ndarray]

    def __post_init__(self) -> None:
        given = np.asarray(self.given)
        if not callable(self.given) and (given.size not in (1, 2) or given.dtype.kind not in "fiu"):
            raise SamplingError(
                f"Sampler: window needs a length or two bounds in seconds, found {self.given!r}."
            )

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Shortest and longest window in seconds."""
        if callable(self.given):
            low, high = self._of(np.array([0.0, np.nextafter(1.0, 0.0)])).tolist()
        else:
            values = np.ravel(self.given).astype(float).tolist()
            low, high = values[0], values[-1]
        return low, high

    @cached_property
    def mean(self) -> float:
        """Mean length in seconds; of another distribution over 1,024 equal shares of it."""
        if callable(self.given):
            return float(np.mean(self._of((np.arange(1024) + 0.5) / 1024)))
        return (self.bounds[0] + self.bounds[1]) / 2

    def _of(self, share: np.ndarray) -> np.ndarray:
        length = np.asarray(self.given(share))  # type: ignore[operator]  # asked where it is one
        if length.shape != share.shape or length.dtype.kind not in "fiu":
            raise SamplingError(
                f"Sampler: window must return a length for each of {len(share)} numbers, found "
                f"{length.dtype} of shape {length.shape}."
            )
        return length.astype(np.float64)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return `count` lengths in seconds."""
        low, high = self.bounds
        share = rng.random(count)
        if not callable(self.given):
            return low + (high - low) * share if low < high else np.full(count, low)
        length = self._of(share)
        if not np.all((length >= low) & (length <= high)):
            raise SamplingError(
                f"Sampler: window maps numbers in [0, 1) to lengths outside {low} to {high} s, its "
                "values at 0 and at 1: give a function that never falls."
            )
        return length


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of one epoch, and where their targets lie.

    Parameters
    ----------
    recording : ndarray, shape (W,), int32
        Index of the recording.
    start, end : ndarray, shape (W,), float64
        Windows in seconds on each recording's clock.
    target_start, target_end : ndarray, shape (W,), float64
        Where targets are taken from: the window itself, or the time right after it.
    """

    recording: np.ndarray
    start: np.ndarray
    end: np.ndarray
    target_start: np.ndarray
    target_end: np.ndarray

    def __len__(self) -> int:
        return len(self.recording)

    def take(self, rows: np.ndarray | slice) -> Windows:
        """Return some of the windows."""
        start, end = self.start[rows], self.end[rows]
        same = self.target_start is self.start
        return Windows(
            self.recording[rows], start, end,
            start if same else self.target_start[rows],
            end if same else self.target_end[rows],
        )  # fmt: skip


def check_windows(recording: np.ndarray, start: np.ndarray, end: np.ndarray, count: int) -> None:
    """Refuse windows that end before they start, or that are of none of `count` recordings.

    Raises
    ------
    SamplingError
        If there are any, or the arrays are not of one shape (W,).
    """
    if not recording.shape == start.shape == end.shape == (recording.size,):
        raise SamplingError(
            "Windows need three arrays of one length: recording, start, end; found shapes "
            f"{recording.shape}, {start.shape}, {end.shape}."
        )
    wrong = np.flatnonzero(~((recording >= 0) & (recording < count) & (start <= end)))
    if len(wrong):
        one = wrong[0]
        raise SamplingError(
            f"Window {one} is [{start[one]}, {end[one]}) s of recording {recording[one]}: start <= "
            f"end and a recording from 0 to {count - 1} are needed."
        )


def draw_windows(
    recording: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    count: np.ndarray,
    lengths: Lengths,
    predict: float,
    rng: np.random.Generator,
) -> Windows:
    """Return windows with random starts, one in each of ``count[i]`` equal strata of interval i.

    Parameters
    ----------
    recording, first, last, count : ndarray, shape (K,)
        Index of the recording, bounds in seconds, and windows of each interval.
    lengths : Lengths
        A window is no longer than its interval.
    predict : float
        Seconds behind the window that must lie in the interval too: the time of the targets; 0 for
        targets in the window itself.
    rng : Generator
        Where the numbers come from.
    """
    row = np.repeat(np.arange(len(count), dtype=np.int32), count)
    stratum = take_rows(np.zeros(len(count), np.int64), count)
    start, stop = first[row], last[row] - predict
    length = np.minimum(lengths.draw(rng, len(row)), stop - start)
    place = (stratum + rng.random(len(row))) / count[row]
    begin = np.minimum(start + place * (stop - start - length), stop - length)
    begin = np.maximum(begin, start)
    end = np.minimum(begin + length, stop)
    if not predict:
        return Windows(recording[row], begin, end, begin, end)
    return Windows(recording[row], begin, end, end, np.minimum(end + predict, last[row]))


def tile_windows(
    recording: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    length: float,
    stride: float,
    predict: float,
) -> Windows:
    """Return windows `stride` s apart from each interval's start, plus one that ends with it.

    With `predict`, the targets of the first window begin `length` s into the interval, or as late
    as it allows, and those of the last one end with it.
    """
    span = np.minimum(predict or length, last - first)
    earliest = np.minimum(first + length, last - span) if predict else first
    beyond = np.maximum(last - earliest - span - ROUNDING, 0)
    count = np.ceil(beyond / stride).astype(np.int64) + 1
    row = np.repeat(np.arange(len(count)), count)
    step = take_rows(np.zeros(len(count), np.int64), count)
    begin = np.minimum(earliest[row] + step * stride, last[row] - span[row])
    begin = np.maximum(begin, earliest[row])
    end = np.minimum(begin + span[row], last[row])
    # Rounding must not lose a sample between two windows, or behind the last of an interval.
    then = np.where(step == count[row] - 1, last[row], np.roll(begin, -1))
    end = np.where(np.abs(then - end) <= ROUNDING, then, end)
    if not predict:
        return Windows(recording[row], begin, end, begin, end)
    return Windows(recording[row], np.maximum(begin - length, first[row]), begin, begin, end)


def event_windows(
    events: np.ndarray, around: Around, first: np.ndarray, last: np.ndarray, predict: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return start and end of the windows around events that lie inside one of the intervals.

    Parameters
    ----------
    events : ndarray, shape (N,), float64
        Times in seconds.
    around : Around
        The lags.
    first, last : ndarray, shape (K,)
        Disjoint intervals in seconds, sorted.
    predict : float
        Seconds behind the window that must lie in the interval too.

    Returns
    -------
    start, end : ndarray, shape (W,), float64
        Seconds, in the order of the events.
    outside : int
        How many windows leave their interval.
    """
    start, end = events + around.before, events + around.after
    if len(first) == 0:
        return start[:0], end[:0], len(events)
    # Rounding must neither lose an event nor bring a sample from outside of the interval.
    row = np.searchsorted(first, start + ROUNDING, "right") - 1
    inside = (row >= 0) & (end + predict <= last[np.maximum(row, 0)] + ROUNDING)
    row, limit = row[inside], last[row[inside]]
    start = np.maximum(start[inside], first[row])
    end = np.minimum(end[inside], limit - predict)
    end = np.where(end + predict > limit, end - np.spacing(np.abs(limit)), end)
    return start, end, int(np.sum(~inside))
