"""The store: one immutable directory of mapped Arrow files per recording.

``<store>/<dataset>/<session>/`` holds ``spikes.arrow``, ``units.arrow``, ``domain.arrow``,
``series-<name>.arrow``, ``intervals-<name>.arrow``, ``splits-<scheme>.arrow`` and, written last,
``recording.json``: a directory without it is no recording. docs/store-format.md is the reference.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from spikedata.errors import (
    FormatVersionError,
    IntegrityError,
    RecordingNotFoundError,
    StoreError,
    did_you_mean,
)
from spikedata.files import sha256_of, sync_file, sync_folder, write_whole
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series

__all__ = ["FORMAT_VERSION", "RecordingHeader", "Store"]

FORMAT_VERSION = 1
HEADER = "recording.json"
STALE_AFTER = 24 * 3600.0  # s after which another writer's unfinished directory is swept away
_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
Name = Annotated[str, Field(pattern=f"^{_NAME}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Result = TypeVar("Result")


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
    recording_id: Annotated[str, Field(pattern=f"^{_NAME}/{_NAME}$")]
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


class Store(Mapping[str, Recording]):
    """The recordings below one folder, as a read-only mapping from id to recording.

    Arrays of an opened recording are views of mapped files: nothing is read until it is
    touched. A store pickles as its path, so it can be handed to worker processes.

    Parameters
    ----------
    path : str or Path
        The folder.
    create : bool
        Make the folder if it is not there.
    max_open : int
        How many recordings stay mapped; the least recently used one is let go first.

    Raises
    ------
    StoreError
        If the folder is not there, and `create` is false.
    """

    def __init__(self, path: str | Path, *, create: bool = False, max_open: int = 1024) -> None:
        self.path = Path(path)
        self._max_open = max_open
        self._open: OrderedDict[str, Recording] = OrderedDict()
        if create:
            self.path.mkdir(parents=True, exist_ok=True)
        if not self.path.is_dir():
            raise StoreError(
                f"There is no store at {self.path}: make one with `spikedata ingest`, "
                "or give the right folder with --store."
            )

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_max_open": self._max_open}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _open=OrderedDict())

    def __repr__(self) -> str:
        return f"Store('{self.path}', {len(self)} recordings)"

    def __iter__(self) -> Iterator[str]:
        found = [path.parent for path in self.path.glob(f"*/*/{HEADER}")]
        ids = [f"{folder.parent.name}/{folder.name}" for folder in found]
        return iter(sorted(name for name in ids if re.fullmatch(f"{_NAME}/{_NAME}", name)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, recording_id: object) -> bool:
        known = isinstance(recording_id, str) and re.fullmatch(f"{_NAME}/{_NAME}", recording_id)
        return bool(known) and os.path.isfile(self.path / str(recording_id) / HEADER)

    def __getitem__(self, recording_id: str) -> Recording:
        if recording_id in self._open:
            self._open.move_to_end(recording_id)
            return self._open[recording_id]
        recording = self._undisturbed(
            recording_id, lambda folder: _map_recording(folder, self._read_header(recording_id))
        )
        self._open[recording_id] = recording
        if len(self._open) > self._max_open:
            self._open.popitem(last=False)
        return recording

    def header(self, recording_id: str) -> RecordingHeader:
        """Return what ``recording.json`` says of one recording.

        Raises
        ------
        RecordingNotFoundError
            If the store has no such recording.
        FormatVersionError
            If it was written by a newer spikedata.
        IntegrityError
            If the header is damaged, belongs elsewhere, or a file has another size.
        """
        return self._undisturbed(recording_id, lambda _: self._read_header(recording_id))

    def provenance(self, recording_id: str) -> dict[str, JsonValue]:
        """Return where a recording came from and how it was made."""
        return self.header(recording_id).provenance

    def verify(self, recording_id: str) -> None:
        """Hash every file of a recording.

        Raises
        ------
        IntegrityError
            If a file's SHA-256 is not the one that was written.
        """

        def hash_files(folder: Path) -> None:
            for name, entry in self._read_header(recording_id).files.items():
                found = sha256_of(folder / name)
                if found != entry.sha256:
                    raise IntegrityError(
                        f"{recording_id}: {name} has sha256 {found}, {entry.sha256} was written. "
                        "Delete the recording and ingest it again."
                    )

        self._undisturbed(recording_id, hash_files)

    def write(self, recording: Recording, provenance: Mapping[str, JsonValue]) -> None:
        """Write a recording, replacing one of the same id as a whole.

        The files are written in a hidden directory beside the final one, synced, and renamed
        into place; a process killed in the middle leaves nothing that a reader would take
        for a recording.

        Raises
        ------
        StoreError
            If a name cannot be a file name, or the disk refuses.
        """
        final = self._folder(recording.recording_id)
        beside = final.with_name(f".writing-{final.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            _sweep(final.parent)
            beside.mkdir()
            _write_files(recording, provenance, beside)
            _put_in_place(beside, final)
            sync_folder(final.parent)
        except StoreError:
            raise
        except ValidationError as error:
            raise StoreError(f"{recording.recording_id}: {_first_problem(error)}.") from None
        except OSError as error:
            raise StoreError(
                f"{recording.recording_id}: cannot be written to {self.path}: {error}."
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            self._open.pop(recording.recording_id, None)

    def _folder(self, recording_id: str) -> Path:
        if not (isinstance(recording_id, str) and re.fullmatch(f"{_NAME}/{_NAME}", recording_id)):
            raise RecordingNotFoundError(
                f"'{recording_id}' is no recording id: expected '<dataset>/<session>' of letters, "
                f"digits and . _ + -; {did_you_mean(str(recording_id), self)}"
            )
        dataset, session = recording_id.split("/")
        return self.path / dataset / session

    def _undisturbed(self, recording_id: str, read: Callable[[Path], Result]) -> Result:
        """Return what `read` makes of a folder; begin again if a writer replaced it meanwhile."""
        folder = self._folder(recording_id)
        while True:
            before = _identity(folder)
            try:
                result = read(folder)
            except OSError:
                if _identity(folder) == before:
                    raise
            else:
                if _identity(folder) == before:
                    return result

    def _read_header(self, recording_id: str) -> RecordingHeader:
        folder = self._folder(recording_id)
        if recording_id not in self:
            raise RecordingNotFoundError(
                f"{self.path} holds no recording '{recording_id}'; "
                + did_you_mean(recording_id, self)
            )
        try:
            content = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"{folder / HEADER} cannot be read: {error}. Ingest it again."
            ) from None
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int | float) and version > FORMAT_VERSION:
            raise FormatVersionError(
                f"{recording_id}: store format {version} is newer than this spikedata reads "
                f"({FORMAT_VERSION}): upgrade spikedata."
            )
        try:
            header = RecordingHeader.model_validate(content)
        except ValidationError as error:
            raise IntegrityError(
                f"{folder / HEADER}: {_first_problem(error)}. Ingest it again."
            ) from None
        if header.recording_id != recording_id:
            raise IntegrityError(
                f"{folder} holds '{header.recording_id}': it was moved or renamed."
            )
        for name in header.tables:
            if name not in header.files:
                raise IntegrityError(
                    f"{recording_id}: {name} has no size and hash in {HEADER}. Ingest it again."
                )
        for name, entry in header.files.items():
            found = (folder / name).stat().st_size if (folder / name).is_file() else None
            if found != entry.size:
                state = "is missing" if found is None else f"has {found} bytes"
                raise IntegrityError(
                    f"{recording_id}: {name} {state}, {entry.size} bytes were written. "
                    "Ingest it again."
                )
        return header


def _sweep(folder: Path) -> None:
    """Remove directories that writers killed long ago left behind."""
    for leftover in [*folder.glob(".writing-*"), *folder.glob(".old-*")]:
        with suppress(FileNotFoundError):  # its writer has just finished
            if time.time() - leftover.stat().st_mtime > STALE_AFTER:
                shutil.rmtree(leftover, ignore_errors=True)


def _put_in_place(beside: Path, final: Path) -> None:
    """Rename a finished directory into place; of several writers the last one's stays."""
    moved = []
    try:
        while True:
            try:
                return os.replace(beside, final)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            moved.append(final.with_name(f".old-{final.name}-{uuid.uuid4().hex[:8]}"))
            with suppress(FileNotFoundError):  # another writer has just moved it
                os.replace(final, moved[-1])
    finally:
        for old in moved:
            shutil.rmtree(old, ignore_errors=True)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what changes when another directory is put in this one's place."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(str(step) for step in problem['loc'])}: {problem['msg']}"


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
    sync_file(path)


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


def _write_files(recording: Recording, provenance: Mapping[str, JsonValue], folder: Path) -> None:
    files = {}
    for name, columns in _tables(recording).items():
        if not re.fullmatch(_NAME, name):
            raise StoreError(
                f"{recording.recording_id}: {name!r} cannot name a file of the store: name series, "
                "interval tables and split schemes with letters, digits and . _ + - only."
            )
        try:
            _write_table(folder / name, columns)
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise StoreError(
                f"{recording.recording_id}: {name} cannot be written: {error}."
            ) from None
        files[name] = _FileEntry(
            size=(folder / name).stat().st_size, sha256=sha256_of(folder / name)
        )
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


def _map_recording(folder: Path, header: RecordingHeader) -> Recording:
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
