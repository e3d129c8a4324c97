"""The layout of one recording's directory: its header, and its arrays as mapped Arrow files.

docs/store-format.md is the reference. `spikedata.store` puts such directories in their place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from spikedata.arrow import array_of
from spikedata.errors import FormatVersionError, IntegrityError, StoreError
from spikedata.files import sha256_of, sync_file, write_whole
from spikedata.recording import Recording

__all__ = [
    "FORMAT_VERSION",
    "HEADER",
    "NAME",
    "RecordingHeader",
    "fingerprint_of",
    "first_problem",
    "parse_header",
    "write_files",
]

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


def _write_table(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns as one uncompressed record batch, so that it can be mapped."""
    for column, values in columns.items():
        if values.dtype.kind not in "biufUOMm" or values.ndim > 2:  # what `opening` does not read
            raise TypeError(
                f"column '{column}' is of {values.dtype} in {values.ndim} dimensions: write "
                "numbers, text or times in one or two"
            )
    batch = pa.record_batch([array_of(values) for values in columns.values()], names=list(columns))
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


# ------------------------------------------------------------------ the header


def parse_header(
    content: bytes, recording_id: str, where: str, again: str = "Ingest it again."
) -> RecordingHeader:
    """Return what the bytes of a ``recording.json`` say.

    Parameters
    ----------
    content : bytes
        The file, wherever it was read.
    recording_id : str
        The recording that it must be of.
    where : str
        The folder that it was found in, for messages.
    again : str
        What to do about a damaged one, for messages.

    Raises
    ------
    FormatVersionError
        If it was written by a newer spikedata.
    IntegrityError
        If it is damaged or belongs elsewhere.
    """
    try:
        header = RecordingHeader.model_validate_json(content)
    except (ValueError, RecursionError):
        header = _diagnose(content, recording_id, where, again)
    if header.recording_id != recording_id:
        raise IntegrityError(f"{where} holds '{header.recording_id}': it was moved or renamed.")
    for name in header.tables:
        if name not in header.files:
            raise IntegrityError(
                f"{recording_id}: {name} has no size and hash in {HEADER}. {again}"
            )
    return header


def _diagnose(content: bytes, recording_id: str, where: str, again: str) -> RecordingHeader:
    """Say what is wrong with a header that could not be read at once."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where}/{HEADER} cannot be read: {error}. {again}") from None
    version = found.get("format_version") if isinstance(found, dict) else None
    if isinstance(version, int | float) and version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{recording_id}: store format {version} is newer than this spikedata reads "
            f"({FORMAT_VERSION}): upgrade spikedata."
        )
    try:
        return RecordingHeader.model_validate(found)
    except ValidationError as error:
        raise IntegrityError(f"{where}/{HEADER}: {first_problem(error)}. {again}") from None


def first_problem(error: ValidationError) -> str:
    """Return the first thing that pydantic found wrong, and where."""
    problem = error.errors()[0]
    return f"{'.'.join(str(step) for step in problem['loc'])}: {problem['msg']}"


def fingerprint_of(header: RecordingHeader) -> str:
    """Return the SHA-256 over the sorted names and SHA-256 hashes of a recording's files.

    The same bytes have the same one, wherever and whenever they were written.
    """
    # As json.dumps writes them: names need no escapes.
    pairs = [f'"{name}": "{entry.sha256}"' for name, entry in sorted(header.files.items())]
    return hashlib.sha256(f"{{{', '.join(pairs)}}}".encode()).hexdigest()
