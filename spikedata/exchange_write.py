"""Writes a recording as an HDF5 file of torch_brain, with h5py alone.

The layout is that of ``torch_brain.data.Data.to_hdf5`` (torch_brain 0.2.1); docs/exchange.md says
what goes where. What torch_brain has no place for lies in the group ``spikedata``, which its
reader loads as one more object and leaves alone when it slices.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from spikedata.errors import StoreError
from spikedata.exchange_header import (
    EXCHANGE_VERSION,
    HEADER,
    ExchangeHeader,
    SeriesPlace,
    TablePlace,
    content_of,
    refuse_broken,
)
from spikedata.files import sync_file, sync_folder
from spikedata.intervals import IntervalSet
from spikedata.layout import NAME
from spikedata.recording import SPLITS, Recording, Series, select_split

__all__ = ["TAKEN", "write_torch_brain"]

LONGEST = 60_000  # bytes of text in an attribute; HDF5 allows 64 KiB for all that belongs to one
# Attributes and methods of torch_brain's classes: an array of such a name would hide one of them.
TAKEN = frozenset[str](
    {
        "absolute_start", "arange", "close", "coalesce", "delete_nested_attribute",
        "difference", "dilate", "domain", "end", "file", "from_dataframe",
        "from_gappy_timeseries", "from_hdf5", "from_list", "get_nested_attribute",
        "has_nested_attribute", "index_mask", "is_disjoint", "is_gappy", "is_sorted",
        "keys", "linspace", "load", "materialize", "object", "register_timekey",
        "sampling_rate", "save", "select_by_interval", "select_by_mask",
        "set_nested_attribute", "set_test_domain", "set_train_domain", "set_valid_domain",
        "slice", "sort", "split", "start", "subdivide", "timekeys", "timestamps", "to_dict",
        "to_hdf5", "to_irregular", "timestamp_indices_1s",
    }
)  # fmt: skip
OURS = frozenset[str](
    {
        "brainset", "device", "session", "spikedata", "spikes", "subject", "test_domain",
        "train_domain", "units", "valid_domain",
    }
)  # fmt: skip


def write_torch_brain(recording: Recording, path: str | Path, scheme: str | None = None) -> Path:
    """Write a recording as a file that torch_brain reads; one that is there is replaced as a whole.

    Nothing is lost: `read_torch_brain` returns the same recording. The same recording gives the
    same bytes.

    Parameters
    ----------
    recording : Recording
        What to write.
    path : str or Path
        The file. torch_brain finds ``<session.id>.h5`` in a dataset's folder: name it
        ``<dataset>/<session>.h5``.
    scheme : str, optional
        Which splits become ``train_domain``, ``valid_domain`` and ``test_domain``; the
        recording's first ones when not given. All schemes are kept in the group ``spikedata``.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    CheckFailedError
        If the recording breaks an invariant of `spikedata.checks`.
    StoreError
        If an array cannot be stored, or the disk refuses.
    IntervalError
        If the recording has no such scheme.
    """
    path = Path(path)
    where = recording.recording_id
    if recording.splits or scheme is not None:
        scheme = select_split(where, recording.splits, "train", scheme)
    if not re.fullmatch(f"{NAME}/{NAME}", where):
        raise StoreError(f"'{where}' is no recording id: expected '<dataset>/<session>'.")
    refuse_broken(recording)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with h5py.File(beside, "w") as file:
            _write(file, recording, scheme or "")
        sync_file(beside)
        os.replace(beside, path)
        sync_folder(path.parent)
    except StoreError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise StoreError(f"{where}: cannot be written to {path}: {error}.") from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def _write(file: h5py.File, recording: Recording, scheme: str) -> None:
    """Write the objects of a recording below the root, and what is left into our group."""
    dataset, session = recording.recording_id.split("/")
    about = recording.about
    _write_texts(file, {}, "Data")
    _write_texts(file.create_group("brainset"), {
        "id": dataset, "origin_version": about.get("doi", "unknown"),
        "derived_version": recording.fingerprint or "unknown",
        "source": about.get("doi", "unknown"), "description": about.get("citation", "unknown"),
    }, "Data")  # fmt: skip
    known = {name: about[name] for name in ("species", "sex") if name in about}
    subject = {"id": about.get("subject", "unknown"), **known}
    _write_texts(file.create_group("subject"), subject, "Data")
    known = {"recording_date": about.get("session_start", ""), "task": about.get("task", "")}
    _write_texts(file.create_group("session"), {"id": session, **known}, "Data")
    extra = file.create_group("spikedata")
    _write_texts(extra, {}, "Data")

    _write_events(file.create_group("spikes"), recording.spike_time, recording.domain,
                  {"unit_index": recording.spike_unit})  # fmt: skip
    _write_interval(file.create_group("domain"), recording.domain)
    units = _write_table(file, "units", "units", recording.units, {"unit_id": "id"})
    used = {*TAKEN, *OURS}
    series = tuple(_write_series(file, name, one, recording, used)
                   for name, one in recording.series.items())  # fmt: skip
    intervals = tuple(_write_intervals(file, name, one, used)
                      for name, one in recording.intervals.items())  # fmt: skip
    used, splits = set[str](), []
    for name, one in recording.splits.items():
        place = f"spikedata/{_free('split_' + name, '', used)}"
        columns = {"start": one.start, "end": one.end, **one.columns}
        splits.append(_write_table(file, place, name, columns, {"start": "start", "end": "end"}))
    if recording.splits:
        for split in SPLITS:
            _write_interval(file.create_group(f"{split}_domain"), recording.split(split, scheme))
    header = ExchangeHeader(
        format_version=EXCHANGE_VERSION, recording_id=recording.recording_id, units=units,
        series=series, intervals=intervals, splits=tuple(splits), scheme=scheme,
        targets=tuple(recording.targets), about=dict(about),
        dropped={rule: int(count) for rule, count in recording.dropped.items()},
        fingerprint=recording.fingerprint, content=content_of(recording),
    )  # fmt: skip
    _finish(extra.create_group("json"), "ArrayDict", [])
    file[HEADER] = np.frombuffer(header.model_dump_json().encode(), np.uint8)


def _write_series(
    file: h5py.File, name: str, series: Series, recording: Recording, used: set[str]
) -> SeriesPlace:
    """Write a series as a regular or an irregular time series with the array `values`."""
    place = _free(name, "series", used)
    group = file.create_group(place)
    values = _storable(f"{recording.recording_id}: the series '{name}'", series.values)
    if series.time is None:
        rate = float(series.rate or 0.0)
        end = series.start + len(series) / rate
        _write_interval(group.create_group("domain"), None, (series.start, end))
        group.create_dataset("values", data=values)
        group.attrs["object"] = "RegularTimeSeries"
        group.attrs["sampling_rate"] = rate
    else:
        domain = recording.domain
        if len(series):
            domain = IntervalSet.single(series.time[0], np.nextafter(series.time[-1], np.inf))
        _write_events(group, series.time, domain, {"values": values})
    return SeriesPlace(name=name, place=place, unit=series.unit, columns=series.columns,
                       start=series.start, rate=series.rate)  # fmt: skip


def _write_events(
    group: h5py.Group, time: np.ndarray, domain: IntervalSet, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write events at times (s), with the index that torch_brain's lazy reader starts from.

    The index holds the first event at or after each full second from the start of the domain. It
    goes one second past the end, so that rounding cannot lose the last events.
    """
    _write_interval(group.create_group("domain"), domain)
    group.create_dataset("timestamps", data=np.asarray(time, np.float64))
    for name, values in arrays.items():
        group.create_dataset(name, data=values)
    count = int(np.ceil(domain.end[-1] - domain.start[0])) + 2
    index = np.searchsorted(time, domain.start[0] + np.arange(count, dtype=np.float64))
    group.create_dataset("timestamp_indices_1s", data=index)
    group.attrs["timekeys"] = np.array(["timestamps"], "S")
    _finish(group, "IrregularTimeSeries", [])


def _write_interval(
    group: h5py.Group, rows: IntervalSet | None, bounds: tuple[float, float] = (0.0, 0.0)
) -> None:
    """Write the bounds of intervals; those of one, which may be empty, when `rows` is None."""
    start, end = (rows.start, rows.end) if rows is not None else np.array(bounds).reshape(2, 1)
    group.create_dataset("start", data=start)
    group.create_dataset("end", data=end)
    group.attrs["timekeys"] = np.array(["start", "end"], "S")
    _finish(group, "Interval", [])


def _write_intervals(file: h5py.File, name: str, table: IntervalSet, used: set[str]) -> TablePlace:
    """Write an interval table; as plain arrays, which are never sliced, if rows hold others.

    torch_brain finds the rows of a window by bisecting starts and ends: it wants both sorted.
    """
    columns = {"start": table.start, "end": table.end, **table.columns}
    bounds = {"start": "start", "end": "end"}
    place = _free(name, "intervals", used)
    found = _write_table(file, place, name, columns, bounds)
    if (table.end[1:] >= table.end[:-1]).all():
        file[place].attrs["object"] = "Interval"
        file[place].attrs["timekeys"] = np.array(["start", "end"], "S")
    return found


def _write_table(
    file: h5py.File, place: str, name: str, columns: Mapping[str, np.ndarray],
    fixed: Mapping[str, str],
) -> TablePlace:  # fmt: skip
    """Write columns as an ``ArrayDict``, those in `fixed` under the given names."""
    group = file.create_group(place)
    used, names = set(TAKEN) | set(fixed.values()), {}
    texts: dict[str, tuple[str, ...]] = {}
    plain = []
    for column, raw in columns.items():
        names[column] = fixed.get(column) or _free(column, "column", used)
        values = _storable(f"The column '{column}' of '{name}'", np.asarray(raw))
        if values.dtype.kind == "U":
            plain.append(names[column])
            flat = values.ravel().tolist()
            if not all(text.isascii() and "\0" not in text for text in flat):
                texts[column] = tuple(flat)
            values = np.char.encode(values, "ascii", "backslashreplace")
            values = values.astype(f"S{max(1, values.dtype.itemsize)}")
        group.create_dataset(names[column], data=values)
    _finish(group, "ArrayDict", plain)
    return TablePlace(name=name, place=place, columns=names, texts=texts)


def _storable(what: str, values: np.ndarray) -> np.ndarray:
    """Return numbers in this machine's byte order, texts as str; raise for anything else."""
    if values.dtype.kind == "O":
        return np.array([str(value) for value in values.ravel()], np.str_).reshape(values.shape)
    if values.dtype.kind in "Ubiu" or values.dtype in (np.float32, np.float64):
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    raise StoreError(f"{what} holds {values.dtype.name}, expected numbers, booleans or text.")


def _free(name: str, suffix: str, used: set[str]) -> str:
    """Return an attribute name of Python like `name` that is not yet used, and use it."""
    base = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_")
    base = base if base.isidentifier() else f"n{base}"
    found, count = base, 1
    while found in used:
        found = "_".join(filter(None, [base, suffix, str(count) if count > 1 else ""]))
        count += 1
        suffix = suffix or "other"
    used.add(found)
    return found


def _write_texts(group: h5py.Group, texts: Mapping[str, str], kind: str) -> None:
    """Write short texts as attributes of a ``Data`` object; the header holds them all in full."""
    for name, text in texts.items():
        if text and "\0" not in text and len(text.encode()) <= LONGEST:
            group.attrs[name] = text
    group.attrs["object"] = kind
    group.attrs["absolute_start"] = 0.0


def _finish(group: h5py.Group, kind: str, texts: list[str]) -> None:
    """Say which class of torch_brain a group is, and which of its arrays are text."""
    group.attrs["object"] = kind
    group.attrs["_unicode_keys"] = np.array(texts, "S")
