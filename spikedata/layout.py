"""The layout of one recording's directory: its header, and its arrays as mapped Arrow files.

docs/store-format.md is the reference. `spikedata.store` puts such directories in their place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from spikedata.errors import IntegrityError, StoreError
from spikedata.files import sha256_of, sync_file, write_whole
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series

__all__ = ["FORMAT_VERSION", "HEADER", "NAME", "RecordingHeader", "map_recording", "write_files"]

FORMAT_VERSION = 1
HEADER = "recording.json"
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True)
    size: int
    sha256: Sha256


class _SeriesEntry(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
    unit: str
    columns: tuple[str, ...]
    start: float = 0.0
    rate: float | None = None


class RecordingHeader(BaseModel):
    """What ``recording.json`` says; unknown fields of later minor additions are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    format_version: Annotated[int, Field(strict=True, ge=1, le=FORMAT_VERSION)]
    recording_id: Annotated[str, Field(pattern=f"^{NAME}/{NAME}$")]
    n_spikes: int
    n_units: int
    duration: float
    series: dict[Name, _SeriesEntry]
    intervals: tuple[Name, ...]
    splits: tuple[Name, ...]
    targets: tuple[Name, ...]
    about: dict[str, str]
    dropped: dict[str, int]
    provenance: dict[str, JsonValue]
    files: dict[Name, _FileEntry]

    @property
    def tables(self) -> list[str]:
        """Names of the files that the recording is made of; there may be others."""
        names = ["spikes", "units", "domain", *(f"series-{name}" for name in self.series)]
        names += [f"intervals-{name}" for name in self.intervals]
        names += [f"splits-{name}" for name in self.splits]
        return [f"{name}.arrow" for name in names]


# ------------------------------------------------------------------ tables to files


def _to_arrow(values: np.ndarray) -> pa.Array:
    values = np.asarray(values)
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(_to_arrow(values.reshape(-1)), values.shape[1])
    if values.dtype.kind in "UO":
        return pa.array([str(value) for value in values], pa.string())
    return pa.array(np.ascontiguousarray(values))


def _write_table(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns as one uncompressed record batch, so that it can be mapped."""
    batch = pa.record_batch([_to_arrow(values) for values in columns.values()], names=list(columns))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _tables(recording: Recording) -> dict[str, dict[str, np.ndarray]]:
    """Return the columns of every file of a recording, by file name."""
    tables: dict[str, dict[str, np.ndarray]] = {
        "spikes.arrow": {
            "time": np.asarray(recording.spike_time, np.float64),
            "unit": np.asarray(recording.spike_unit, np.int32),
        },
        "units.arrow": dict(recording.units),
        "domain.arrow": {"start": recording.domain.start, "end": recording.domain.end},
    }
    for name, series in recording.series.items():
        columns = {"values": series.values}
        if series.time is not None:
            columns = {"time": np.asarray(series.time, np.float64), **columns}
        tables[f"series-{name}.arrow"] = columns
    for prefix, group in (("intervals", recording.intervals), ("splits", recording.splits)):
        for name, table in group.items():
            taken = {"start", "end"} & table.columns.keys()
            if taken:
                raise StoreError(
                    f"{recording.recording_id}: {prefix}-{name}.arrow: no column can be called "
                    f"{sorted(taken)}, as the bounds are; name it otherwise in the harmoniser."
                )
            tables[f"{prefix}-{name}.arrow"] = {
                "start": table.start, "end": table.end, **table.columns,
            }  # fmt: skip
    return tables


def _written(
    recording: Recording, folder: Path, name: str, columns: Mapping[str, np.ndarray]
) -> Path:
    """Write one file of a recording; it may not be on the disk yet."""
    if not re.fullmatch(NAME, name):
        raise StoreError(
            f"{recording.recording_id}: {name!r} cannot name a file of the store: name series, "
            "interval tables and split schemes with letters, digits and . _ + - only."
        )
    try:
        _write_table(folder / name, columns)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise StoreError(f"{recording.recording_id}: {name} cannot be written: {error}.") from None
    return folder / name


def write_files(recording: Recording, provenance: Mapping[str, JsonValue], folder: Path) -> None:
    """Write the files of a recording into a folder, the header last.

    Raises
    ------
    StoreError
        If a name cannot be a file name, or a column cannot be stored.
    """
    files = {}
    with ThreadPoolExecutor(3) as beside:  # the disk and the hashes leave us free to write on
        waited = {}
        for name, columns in _tables(recording).items():
            path = _written(recording, folder, name, columns)
            waited[path] = beside.submit(sync_file, path), beside.submit(sha256_of, path)
        for path, (synced, digest) in waited.items():
            synced.result()
            files[path.name] = _FileEntry(size=path.stat().st_size, sha256=digest.result())
    header = RecordingHeader(
        format_version=FORMAT_VERSION,
        recording_id=recording.recording_id,
        n_spikes=len(recording.spike_time),
        n_units=recording.n_units,
        duration=recording.domain.duration,
        series={
            name: _SeriesEntry(unit=one.unit, columns=one.columns, start=one.start, rate=one.rate)
            for name, one in recording.series.items()
        },
        intervals=tuple(recording.intervals),
        splits=tuple(recording.splits),
        targets=recording.targets,
        about=dict(recording.about),
        dropped=dict(recording.dropped),
        provenance=dict(provenance),
        files=files,
    )
    write_whole(folder / HEADER, header.model_dump_json(indent=1) + "\n")


# ------------------------------------------------------------------ files to arrays


def _to_numpy(column: pa.Array) -> np.ndarray:
    if pa.types.is_fixed_size_list(column.type):
        return _to_numpy(column.flatten()).reshape(-1, column.type.list_size)
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    return column.to_numpy(zero_copy_only=pa.types.is_primitive(column.type) and not
                           pa.types.is_boolean(column.type))  # fmt: skip


def _map_table(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a file as read-only views of its mapping."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        batch.validate(full=True)  # reads text only, which is decoded just below
        columns = {name: _to_numpy(batch[row]) for row, name in enumerate(batch.schema.names)}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise IntegrityError(f"{path} is damaged: {error}. Ingest the recording again.") from None
    for values in columns.values():
        values.flags.writeable = False
    return columns


def _map_intervals(path: Path) -> IntervalSet:
    columns = _map_table(path)
    return IntervalSet(columns.pop("start"), columns.pop("end"), columns)


def map_recording(folder: Path, header: RecordingHeader) -> Recording:
    """Return a recording whose arrays are views of mapped files."""
    try:
        spikes = _map_table(folder / "spikes.arrow")
        series = {}
        for name, entry in header.series.items():
            columns = _map_table(folder / f"series-{name}.arrow")
            grid = {"time": columns.get("time"), "start": entry.start, "rate": entry.rate}
            series[name] = Series(columns["values"], entry.unit, entry.columns, **grid)
        if len(spikes["time"]) != header.n_spikes:
            raise ValueError(f"{len(spikes['time'])} spikes where {header.n_spikes} were written")
        return Recording(
            recording_id=header.recording_id,
            spike_time=spikes["time"],
            spike_unit=spikes["unit"],
            units=_map_table(folder / "units.arrow"),
            domain=_map_intervals(folder / "domain.arrow"),
            series=series,
            intervals={
                n: _map_intervals(folder / f"intervals-{n}.arrow") for n in header.intervals
            },
            splits={n: _map_intervals(folder / f"splits-{n}.arrow") for n in header.splits},
            targets=header.targets,
            about=header.about,
            dropped=header.dropped,
        )
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"{header.recording_id}: the files do not fit recording.json ({error}). "
            "Ingest it again."
        ) from None
