"""What a file holds, as plain arrays: its units, series and tables, not yet harmonised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Entry", "SeriesData", "TableData", "UnitTable"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the file that could be harmonised: a units table, a series or a table.

    ``kind`` is "units", "series", "intervals", "table" or "link" (one that leaves the file).
    ``timing`` says how a series is timed: "60 Hz", "timestamps" or "".
    """

    path: str
    kind: str
    neurodata_type: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    unit: str = ""
    timing: str = ""
    rate: float | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitTable:
    """The units table, ragged columns as flat arrays with row bounds.

    Parameters
    ----------
    name : ndarray, shape (U,), str
        The units' ids in the file.
    spike_bound : ndarray, shape (U + 1,), int64
        Unit u has rows ``spike_bound[u]`` to ``spike_bound[u + 1]`` of `NwbFile.read_spikes`.
    columns : mapping of str to ndarray, shape (U,)
        Columns with one value per unit; ``"area"`` and ``"electrode"`` (label or id of the
        unit's first electrode) when the file says where a unit lies.
    observed : ndarray, shape (K, 2), float64, optional
        Observation intervals in seconds, unit after unit.
    observed_bound : ndarray, shape (U + 1,), int64, optional
        Rows of `observed` of each unit, as `spike_bound`.
    group : ndarray, shape (U,), str, optional
        Name of the electrode group of each unit's electrode.
    """

    path: str
    name: np.ndarray
    spike_bound: np.ndarray
    columns: dict[str, np.ndarray]
    observed: np.ndarray | None = None
    observed_bound: np.ndarray | None = None
    group: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class SeriesData:
    """One time series: ``values`` (T, C) in ``unit``, with ``time`` (T,) or ``start`` and ``rate``.

    ``conversion_ignored`` says that the file's conversion was left out: no number, or not wanted,
    ``times_spread`` that only the first and the last timestamp are stored. ``missing`` (T,) bool:
    rows with the value that was asked for as "not tracked".
    """

    path: str
    values: np.ndarray
    unit: str
    columns: tuple[str, ...]
    time: np.ndarray | None = None
    start: float = 0.0
    rate: float | None = None
    conversion_ignored: bool = False
    times_spread: bool = False
    missing: np.ndarray | None = None

    def times(self) -> np.ndarray:
        """Return the time of each sample (s, float64)."""
        if self.time is not None:
            return self.time
        return self.start + np.arange(len(self.values)) / (self.rate or 1.0)


@dataclass(frozen=True, slots=True)
class TableData:
    """A table of intervals: ``start`` and ``end`` (K,) s, ``columns`` (K,) or (K, M).

    ``skipped`` names the columns that hold no fixed number of values per row.
    """

    path: str
    start: np.ndarray
    end: np.ndarray
    columns: dict[str, np.ndarray]
    skipped: tuple[str, ...] = ()
