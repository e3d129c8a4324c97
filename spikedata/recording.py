"""One recording in memory: spikes, units, series, intervals and splits. No input or output here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from spikedata.errors import IntervalError, did_you_mean
from spikedata.intervals import IntervalSet, window_bounds

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SPLITS", "Recording", "Series"]

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Values over time: on a regular grid (`rate` and `start`) or at explicit times (`time`).

    Parameters
    ----------
    values : ndarray, shape (T, C), float32 or float64
        One row per sample, one column per channel, in `unit`.
    unit : str
        Physical unit of the values, as ``"m/s"``; ``""`` when the source does not say.
    columns : tuple of str, length C
        Name of each channel.
    time : ndarray, shape (T,), float64, optional
        Time of each sample in seconds, strictly increasing (`spikedata.checks` proves it once,
        at ingest: a mapped series is not read through to open it).
    start, rate : float, optional
        Time of the first sample (s) and samples per second (Hz), when `time` is not given.

    Raises
    ------
    IntervalError
        If shapes disagree, or not exactly one of `time` and `rate` is given.
    """

    values: np.ndarray
    unit: str
    columns: tuple[str, ...]
    time: np.ndarray | None = None
    start: float = 0.0
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.columns):
            raise IntervalError(
                f"A series with columns {list(self.columns)} needs values of shape "
                f"(T, {len(self.columns)}), found {self.values.shape}."
            )
        if (self.time is None) == (self.rate is None):
            raise IntervalError("A series needs either `time` or `rate`, not both or neither.")
        if self.rate is not None and not (np.isfinite(self.rate) and self.rate > 0):
            raise IntervalError(f"A series needs a rate above 0 Hz, found {self.rate}.")
        if self.time is not None and self.time.shape != (len(self.values),):
            raise IntervalError(
                f"A series of {len(self.values)} samples has times of shape {self.time.shape}."
            )

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        grid = "explicit times" if self.rate is None else f"{self.rate:g} Hz"
        unit = f" in {self.unit}" if self.unit else ""
        return f"Series({len(self)} samples of {', '.join(self.columns)}{unit}, {grid})"

    def __eq__(self, other: object) -> bool:
        return _equal_fields(self, other) if isinstance(other, Series) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by content, and arrays cannot be hashed

    def times(self, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Return the times (s, float64) of the samples in `rows`."""
        if self.time is not None:
            return self.time[rows]
        index = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        return self.start + index / self.rate  # type: ignore[operator]

    def bounds(
        self, start: float | np.ndarray, end: float | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the row ranges of the samples in ``[start, end)``, as `window_bounds` does."""
        if self.time is not None:
            return window_bounds(self.time, start, end)
        grid = (self.start, self.rate, len(self.values))
        return grid_row(start, *grid), grid_row(end, *grid)  # type: ignore[arg-type]

    def coverage(self, max_gap: float) -> IntervalSet:
        """Return where the series was observed.

        A pause of more than `max_gap` s between samples ends an interval; each interval
        reaches one median sampling step past its last sample, so that it contains it.
        """
        time = self.times()
        if len(time) == 0:
            return IntervalSet.empty()
        step = float(np.median(np.diff(time))) if len(time) > 1 else max_gap
        breaks = np.flatnonzero(np.diff(time) > max_gap)
        first = np.concatenate([[0], breaks + 1])
        last = np.concatenate([breaks, [len(time) - 1]])
        end = np.minimum(time[last] + step, np.append(time[first[1:]], np.inf))
        return IntervalSet(time[first], end)


def grid_row(
    time: float | np.ndarray,
    start: float | np.ndarray,
    rate: float | np.ndarray,
    count: int | np.ndarray,
) -> np.ndarray:
    """Return the first row at or after `time`, exactly as a search over ``start + row / rate``.

    Parameters
    ----------
    time, start, rate, count : scalar or ndarray of one shape
        Times in seconds; first sample (s), rate (Hz) and number of samples of the series.
    """
    time = np.asarray(time, np.float64)
    row = np.clip(np.ceil((time - start) * rate), 0, count).astype(np.int64)
    # The division in `Series.times` and the product above round differently: step to the exact row.
    row = np.where((row > 0) & (start + (row - 1) / rate >= time), row - 1, row)
    return np.where((row < count) & (start + row / rate < time), row + 1, row)


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One harmonised session: the unit of storage, of splits and of evaluation.

    Parameters
    ----------
    recording_id : str
        ``"<dataset>/<session>"``.
    spike_time : ndarray, shape (N,), float64
        Spike times in seconds on the recording's clock, sorted.
    spike_unit : ndarray, shape (N,), int32
        Row in `units` of each spike.
    units : mapping of str to ndarray, shape (U,)
        Columns of the unit table; ``"unit_id"`` is always there and unique.
    series : mapping of str to Series
        Behaviour and other continuous data.
    intervals : mapping of str to IntervalSet
        Trials and other tables of intervals.
    domain : IntervalSet
        Where the units were observed; never inferred from the last spike alone.
    splits : mapping of str to IntervalSet
        For each scheme, disjoint intervals with a column ``"split"`` of `SPLITS` names.
    targets : tuple of str
        Series that a decoder of this recording predicts, most important first.
    about : mapping of str to str
        Subject, session, task, species, licence and citation, as far as they are known.
    dropped : mapping of str to int
        How many items each named rule dropped or changed on the way from the source file.
    fingerprint : str
        SHA-256 over the hashes of the files that it was opened from; "" for one in memory.
    """

    recording_id: str
    spike_time: np.ndarray
    spike_unit: np.ndarray
    units: Mapping[str, np.ndarray]
    domain: IntervalSet
    series: Mapping[str, Series] = field(default_factory=dict)
    intervals: Mapping[str, IntervalSet] = field(default_factory=dict)
    splits: Mapping[str, IntervalSet] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    fingerprint: str = field(default="", compare=False)

    @property
    def spikes(self) -> pa.Table:
        """Spikes as an Arrow table over the same memory: time (float64, s) and unit (int32).

        `spikedata.views` shows the other tables, and all of them in pandas, polars and pynapple.
        """
        from spikedata.arrow import table_of

        return table_of({"time": self.spike_time, "unit": self.spike_unit})

    def __repr__(self) -> str:
        parts = [
            f"'{self.recording_id}'",
            f"{self.n_units} units",
            f"{len(self.spike_time)} spikes",
        ]
        tables = {"series": self.series, "intervals": self.intervals, "splits": self.splits}
        parts += [f"{kind}: {', '.join(held)}" for kind, held in tables.items() if held]
        return f"Recording({'; '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        """Return whether all content is the same, NaN as NaN; of the fingerprints nothing is asked.

        The first scheme is the default, so the order of `splits` counts.
        """
        if not isinstance(other, Recording):
            return NotImplemented
        return list(self.splits) == list(other.splits) and _equal_fields(self, other)

    __hash__ = None  # type: ignore[assignment]  # equal by content, and arrays cannot be hashed

    @property
    def unit_ids(self) -> np.ndarray:
        """Stable ids of the units, shape (U,), str; the row number is the unit index."""
        return self.units["unit_id"]

    @property
    def n_units(self) -> int:
        """Number of units, silent ones included."""
        return len(self.units["unit_id"])

    def split(self, name: str, scheme: str | None = None) -> IntervalSet:
        """Return the intervals of split `name` ("train", "valid" or "test").

        Parameters
        ----------
        name : str
            One of `SPLITS`.
        scheme : str, optional
            Which way of splitting; the recording's first one when not given.

        Raises
        ------
        IntervalError
            If the recording has no such scheme or split.
        """
        table = self.splits[select_split(self.recording_id, self.splits, name, scheme)]
        rows = table.where(np.asarray(table.columns["split"]) == name)
        return IntervalSet(rows.start, rows.end)


def _equal_fields(mine: object, other: object) -> bool:
    """Return whether the fields of two dataclasses that are to be compared are the same."""
    names = [one.name for one in fields(mine) if one.compare]  # type: ignore[arg-type]
    return all(_equal(getattr(mine, name), getattr(other, name)) for name in names)


def _equal(mine: object, other: object) -> bool:
    """Return whether two values are the same: arrays by content, NaN as NaN."""
    if isinstance(mine, np.ndarray) and isinstance(other, np.ndarray):
        gaps = mine.dtype.kind in "fc" and other.dtype.kind in "fc"
        return np.array_equal(mine, other, equal_nan=gaps)
    if isinstance(mine, Mapping) and isinstance(other, Mapping):
        return mine.keys() == other.keys() and all(_equal(mine[key], other[key]) for key in mine)
    return bool(mine == other)


def select_split(where: str, schemes: Collection[str], name: str, scheme: str | None) -> str:
    """Return the scheme that is meant, or say which splits and schemes there are."""
    if name not in SPLITS:
        raise IntervalError(f"{where}: no split is called '{name}'; {did_you_mean(name, SPLITS)}")
    if not schemes:
        raise IntervalError(
            f"{where}: the recording has no splits; add [datasets.harmonize.splits] to its "
            "manifest and ingest it again."
        )
    chosen = next(iter(schemes)) if scheme is None else scheme
    if chosen not in schemes:
        raise IntervalError(
            f"{where}: no split scheme is called '{chosen}'; {did_you_mean(chosen, schemes)}"
        )
    return chosen
