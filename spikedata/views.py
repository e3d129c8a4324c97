"""A recording and a batch as tables of Arrow, pandas, polars and pynapple.

The tables of a recording are named as the store names its files: ``spikes``, ``units``, ``domain``,
``series-<name>``, ``intervals-<name>`` and ``splits-<scheme>``. Where only one of them has a
`<name>`, the name alone will do. docs/access.md shows each view.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from spikedata.arrow import array_of, list_of, table_of
from spikedata.batch import Batch
from spikedata.errors import ViewError, did_you_mean
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pynapple as nap

__all__ = [
    "batch_to_arrow",
    "refuse_column",
    "select_table",
    "table_names",
    "to_arrow",
    "to_pandas",
    "to_polars",
    "to_pynapple",
]

CLOSED_BY = 1e-9  # s; finest step of pynapple up to 0.11.0, which rounds times to 9 decimals


# ------------------------------------------------------------------ names


def table_names(recording: Recording) -> tuple[str, ...]:
    """Return the full names of the tables of a recording."""
    return (
        "spikes",
        "units",
        "domain",
        *(f"series-{name}" for name in recording.series),
        *(f"intervals-{name}" for name in recording.intervals),
        *(f"splits-{name}" for name in recording.splits),
    )


def select_table(where: str, names: Collection[str], name: str) -> str:
    """Return which of the tables with these full names is meant.

    Raises
    ------
    ViewError
        If there is no such table, or several have the short name.
    """
    if name in names:
        return name
    meant = [full for full in names if full.partition("-")[2] == name]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise ViewError(f"{where}: '{name}' may be {' or '.join(sorted(meant))}: give one of them.")
    short = [full.partition("-")[2] or full for full in names]
    raise ViewError(f"{where}: no table is called '{name}'; {did_you_mean(name, short)}")


def refuse_column(where: str, columns: Iterable[str], added: str) -> None:
    """Refuse a table that has a column of the name of one that is added to it.

    Raises
    ------
    ViewError
        If it has, in capitals or not, as SQL makes no difference.
    """
    if added in (name.lower() for name in columns):
        raise ViewError(
            f"{where} has a column '{added}' of its own beside the one that is added here: name it "
            "otherwise in the harmoniser and ingest again, or take it from the Recording."
        )


# ------------------------------------------------------------------ one table


def to_arrow(recording: Recording, table: str, rows: slice = slice(None)) -> pa.Table:
    """Return one table of a recording as Arrow.

    Columns of numbers share the memory of the recording, for a recording of a store the mapped
    file, with two exceptions: channels of a series of several, and the times of one on a regular
    grid, are made. Text is copied.

    Parameters
    ----------
    recording : Recording
        What to show.
    table : str
        A name of `table_names`, or its part behind the hyphen.
    rows : slice
        Which rows of the table.

    Returns
    -------
    pyarrow.Table
        ``spikes``: time (float64, s), unit (int32). ``units``: unit (int32, the number of the row,
        which spikes refer to), unit_id and the other columns of the unit table. ``domain``,
        interval tables and splits: start, end (float64, s, half-open) and their columns. A
        series: time (float64, s) and one column per channel, whose field metadata say its
        ``unit``. The schema's metadata say recording_id, fingerprint, table, and the rate (Hz) and
        start (s) of a series on a regular grid.

    Raises
    ------
    ViewError
        If there is no such table, the name is ambiguous, a series has two channels of one name or
        one called "time", or the unit table has a column "unit".
    """
    full = select_table(recording.recording_id, table_names(recording), table)
    kind, _, name = full.partition("-")
    about = {"recording_id": recording.recording_id, "fingerprint": recording.fingerprint}
    about |= {"table": full}
    if kind == "series":
        one = recording.series[name]
        if one.rate is not None:
            about |= {"rate": repr(float(one.rate)), "start": repr(float(one.start))}
        made = _series(f"{recording.recording_id}: {full}", one, rows)
    elif kind == "spikes":
        made = table_of({"time": recording.spike_time[rows], "unit": recording.spike_unit[rows]})
    elif kind == "units":
        refuse_column(f"{recording.recording_id}: units", recording.units, "unit")
        columns = {"unit": np.arange(recording.n_units, dtype=np.int32), **recording.units}
        made = table_of({key: values[rows] for key, values in columns.items()})
    else:
        made = _intervals(_interval_set(recording, full), rows)
    return made.replace_schema_metadata(about)


def _interval_set(recording: Recording, full: str) -> IntervalSet:
    kind, _, name = full.partition("-")
    if kind == "domain":
        return recording.domain
    return (recording.intervals if kind == "intervals" else recording.splits)[name]


def _intervals(table: IntervalSet, rows: slice) -> pa.Table:
    columns = {"start": table.start, "end": table.end, **table.columns}
    return table_of({name: values[rows] for name, values in columns.items()})


def _series(where: str, one: Series, rows: slice) -> pa.Table:
    refuse_column(where, one.columns, "time")
    if len({name.lower() for name in one.columns}) < len(one.columns):
        raise ViewError(
            f"{where}: two of the channels {list(one.columns)} have one name: name them otherwise "
            "in the manifest and ingest again, or read Series.values."
        )
    values = one.values[rows]
    made = [array_of(one.times(rows)), *(array_of(column) for column in values.T)]
    fields = [pa.field("time", pa.float64(), metadata={"unit": "s"})]
    fields += [
        pa.field(name, array.type, metadata={"unit": one.unit})
        for name, array in zip(one.columns, made[1:], strict=True)
    ]
    return pa.table(made, pa.schema(fields))


def to_pandas(recording: Recording, table: str) -> pd.DataFrame:
    """Return one table of a recording as a data frame of pandas: a copy, free to be changed.

    Names, columns and errors are those of `to_arrow`; a column of more than one value a row holds
    arrays.

    Raises
    ------
    ViewError
        As `to_arrow`, and if pandas is not installed.
    """
    try:
        import pandas  # noqa: F401
    except ImportError:
        raise _missing("pandas") from None
    return to_arrow(recording, table).to_pandas()


def to_polars(recording: Recording, table: str) -> pl.DataFrame:
    """Return one table of a recording as a data frame of polars, over the memory of `to_arrow`.

    Raises
    ------
    ViewError
        As `to_arrow`, and if polars is not installed.
    """
    try:
        import polars as pl
    except ImportError:
        raise _missing("polars") from None
    made = pl.from_arrow(to_arrow(recording, table), rechunk=False)
    return made if isinstance(made, pl.DataFrame) else made.to_frame()


def _missing(package: str) -> ViewError:
    return ViewError(
        f"This view needs {package}: install it with `pip install 'neural-spikedata[access]'`."
    )


# ------------------------------------------------------------------ pynapple


def to_pynapple(
    recording: Recording,
) -> dict[str, nap.TsGroup | nap.TsdFrame | nap.IntervalSet | pd.DataFrame]:
    """Return a recording as objects of pynapple, all of them copies.

    Returns
    -------
    dict
        ``"spikes"``: TsGroup, one Ts a unit (keys: rows of ``units``) with the unit table as
        metadata and the domain as time support. For each series a TsdFrame with its ``unit`` as
        metadata. For each table of intervals an IntervalSet with its columns as metadata. Keys
        are the names of `table_names`, short where one table has the name.

    Raises
    ------
    ViewError
        If pynapple is not installed, or it does not keep every spike.

    Notes
    -----
    Intervals of pynapple are closed, and its sets are joined where rows overlap. So:

    - the end of a row is given 1 ns early: what lies in its last nanosecond is outside;
    - a table whose rows share time, or last 1 ns or less, is a pandas.DataFrame instead, with
      every row as it is;
    - the domain keeps its ends, so that no spike is lost, and rows of it that touch are one;
    - pynapple up to 0.11.0 rounds all times to 9 decimals;
    - a unit column "rate" becomes "rate_": a TsGroup has a rate of its own.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own dependencies, while it is imported
            import pynapple as nap
    except ImportError:
        raise _missing("pynapple") from None
    with warnings.catch_warnings():
        # Metadata named as an attribute of pynapple are kept all the same: get_info() reads them.
        warnings.filterwarnings("ignore", message="Metadata name")
        found: dict[str, nap.TsGroup | nap.TsdFrame | nap.IntervalSet | pd.DataFrame] = {
            "spikes": _spikes_to_pynapple(recording)
        }
        for full in table_names(recording)[2:]:
            kind, _, name = full.partition("-")
            if kind == "series":
                one = recording.series[name]
                frame = nap.TsdFrame(
                    t=one.times(), d=np.array(one.values), columns=list(one.columns)
                )
                if "unit" not in one.columns:
                    frame.set_info(unit=np.array([one.unit] * len(one.columns)))
                found[_short(recording, full)] = frame
            else:
                table = _interval_set(recording, full)
                found[_short(recording, full)] = _intervals_to_pynapple(table)
    return found


def _short(recording: Recording, full: str) -> str:
    names = table_names(recording)
    short = full.partition("-")[2] or full
    same = [one for one in names if short in (one, one.partition("-")[2])]
    return short if len(same) == 1 else full


def _spikes_to_pynapple(recording: Recording) -> nap.TsGroup:
    import pynapple as nap

    domain = recording.domain.coalesce(CLOSED_BY)
    support = nap.IntervalSet(domain.start, domain.end)
    order = np.argsort(recording.spike_unit, kind="stable")
    time = recording.spike_time[order]
    bound = np.searchsorted(recording.spike_unit[order], np.arange(recording.n_units + 1))
    trains = {
        unit: nap.Ts(t=time[bound[unit] : bound[unit + 1]], time_support=support)
        for unit in range(recording.n_units)
    }
    metadata = {
        "rate_" if name == "rate" else name: np.array(values)
        for name, values in recording.units.items()
    }
    group = nap.TsGroup(trains, time_support=support, metadata=metadata)
    kept = sum(len(train) for train in group.values())
    if kept != len(time):
        raise ViewError(
            f"{recording.recording_id}: pynapple keeps {kept} of {len(time)} spikes: the others "
            "lie outside the domain; see what `spikedata check` says of it."
        )
    return group


def _intervals_to_pynapple(table: IntervalSet) -> nap.IntervalSet | pd.DataFrame:
    import pynapple as nap

    end = table.end - CLOSED_BY
    if not table.is_disjoint or np.any(np.around(end, 9) <= np.around(table.start, 9)):
        return _intervals(table, slice(None)).to_pandas()
    metadata = {name: np.array(values) for name, values in table.columns.items()}
    return nap.IntervalSet(np.array(table.start), end, metadata=metadata)


# ------------------------------------------------------------------ batches


def batch_to_arrow(batch: Batch) -> pa.RecordBatch:
    """Return a batch as one row a window; numbers and offsets share the memory of the batch.

    Returns
    -------
    pyarrow.RecordBatch, B rows
        recording_id (dictionary of str), start, end, length (float64, s), spike_time (list of
        float32, s from the start), spike_unit (list of int32, global), unit (list of int32),
        first_unit (int64); where the batch has any: ``targets``, a struct of one list per target
        of (time, values, weight), and ``intervals``, a struct of one list per table of (start,
        end, row, columns). Lists are large ones: their offsets are int64, as a batch's are.
    """
    recording = pa.array(batch.recording.astype(np.int32))
    columns = {
        "recording_id": pa.DictionaryArray.from_arrays(recording, list(batch.recording_ids)),
        "start": array_of(batch.start),
        "end": array_of(batch.end),
        "length": array_of(batch.length),
        "spike_time": list_of(batch.spike_offsets, array_of(batch.spike_time)),
        "spike_unit": list_of(batch.spike_offsets, array_of(batch.spike_unit)),
        "unit": list_of(batch.unit_offsets, array_of(batch.unit)),
        "first_unit": array_of(batch.first_unit),
    }
    targets = {
        name: list_of(
            one.offsets, _struct({"time": one.time, "values": one.values, "weight": one.weight})
        )
        for name, one in batch.targets.items()
    }
    intervals = {}
    for name, one in batch.intervals.items():
        rows = {"start": one.start, "end": one.end, "row": one.row}
        inner = {"columns": _struct(one.columns)} if one.columns else {}
        intervals[name] = list_of(one.offsets, _struct(rows, inner))
    for name, group in (("targets", targets), ("intervals", intervals)):
        if group:
            columns[name] = pa.StructArray.from_arrays(list(group.values()), list(group))
    return pa.record_batch(columns)


def _struct(
    columns: Mapping[str, np.ndarray], ready: Mapping[str, pa.Array] | None = None
) -> pa.StructArray:
    """Return the arrays of `columns`, and those that are Arrow's already, as one struct a row."""
    made = {name: array_of(values) for name, values in columns.items()} | dict(ready or {})
    return pa.StructArray.from_arrays(list(made.values()), list(made))
