"""Files of one recording to arrays: mapped all at once, decoded when they are asked for."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa

from spikedata.errors import IntegrityError, StoreError
from spikedata.intervals import IntervalSet
from spikedata.layout import RecordingHeader, fingerprint_of
from spikedata.mapping import Lazy, map_file
from spikedata.recording import Recording, Series

__all__ = ["check_size", "map_recording", "size_of"]

MOST_TEXT = 4 << 30  # bytes of a column of text in memory; real ones have a few MB


def check_size(recording_id: str, name: str, size: int, expected: int) -> None:
    """Raise IntegrityError if a file has another size than was written; -1 for no file at all."""
    if size != expected:
        state = f"has {size} bytes" if size >= 0 else "is missing"
        raise IntegrityError(
            f"{recording_id}: {name} {state}, {expected} bytes were written. Ingest it again."
        )


def size_of(path: str) -> int:
    """Return the bytes of a file, -1 for what is none."""
    return os.path.getsize(path) if os.path.isfile(path) else -1


def _map(header: RecordingHeader, folder: str, name: str, huge_pages: bool) -> pa.Buffer:
    path, expected = f"{folder}/{name}", header.files[name].size
    try:
        buffer = map_file(path, huge_pages=huge_pages)
    except OSError as error:
        check_size(header.recording_id, name, size_of(path), expected)
        advice = "map fewer at once (max_open) or allow more" if error.errno == errno.ENOMEM else (
            "make it readable, or ingest it again"
        )  # fmt: skip
        raise StoreError(
            f"{header.recording_id}: {name} cannot be mapped: {error.strerror}; {advice}."
        ) from None
    check_size(header.recording_id, name, buffer.size, expected)
    return buffer


def _to_numpy(column: pa.Array) -> np.ndarray:
    """Return a column as a read-only array: a view if it is of numbers.

    `Array.to_numpy` is not used for what it can be spared: its first call imports pandas.
    """
    kind = column.type
    is_time = pa.types.is_timestamp(kind) or pa.types.is_duration(kind) or pa.types.is_date(kind)
    if column.null_count and not is_time:  # NaT is written as null
        raise ValueError(f"{column.null_count} values are missing")
    if pa.types.is_fixed_size_list(kind):
        return _to_numpy(column.flatten()).reshape(-1, kind.list_size)
    if pa.types.is_string(kind):
        values = _texts(column)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = np.from_dlpack(column)
    elif pa.types.is_boolean(kind):
        values = np.array(column.to_pylist(), dtype=np.bool_)
    elif is_time:
        values = column.to_numpy(zero_copy_only=False)
    else:
        raise ValueError(f"a column of {kind} where numbers, text or times are written")
    values.flags.writeable = False
    return values


def _texts(column: pa.Array) -> np.ndarray:
    """Return text as numpy holds it, each as long as the longest: a few bytes can ask for much."""
    texts = column.to_pylist()
    size = 4 * len(texts) * max(map(len, texts), default=0)
    if size > MOST_TEXT:
        raise ValueError(f"text that takes {size} bytes of memory, more than {MOST_TEXT}")
    return np.array(texts, dtype=np.str_)


def _refuse_packed(buffer: pa.Buffer) -> None:
    """Refuse a file with dictionaries or a compressed batch: arrays are views of mapped files.

    To unpack it could take any amount of memory, so its flatbuffers are asked before Arrow is:
    https://github.com/apache/arrow/tree/main/format, File.fbs and Message.fbs.
    """
    data = memoryview(buffer)

    def number(kind: str, at: int) -> int:
        return struct.unpack_from(kind, data, at)[0]

    def field(table: int, index: int) -> int:
        """Return where a field of a table is, 0 for nowhere."""
        names, entry = table - number("<i", table), 4 + 2 * index
        at = number("<H", names + entry) if entry < number("<H", names) else 0
        return table + at if at else 0

    def target(at: int) -> int:
        return at + number("<I", at)

    try:
        end = len(data) - len("ARROW1") - 4
        footer = target(end - number("<i", end))
        dictionaries, batches = field(footer, 2), field(footer, 3)
        if dictionaries and number("<I", target(dictionaries)):
            raise ValueError("a column in a dictionary, which is not written")
        message = number("<q", target(batches) + 4)
        message += 8 if number("<i", message) == -1 else 4  # older files have no mark before it
        batch = target(field(target(message), 2))
        if field(batch, 3):
            raise ValueError("a compressed batch, which cannot be mapped")
    except struct.error as error:
        raise ValueError(f"no footer of an Arrow file ({error})") from None


def _read_batch(buffer: pa.Buffer, path: str) -> tuple[pa.RecordBatch, list[str]]:
    """Return the one record batch of a file, and the names of its columns."""
    try:
        reader = pa.ipc.open_file(buffer)
        if reader.num_record_batches != 1:
            raise ValueError(f"{reader.num_record_batches} record batches where 1 was written")
        _refuse_packed(buffer)
        batch = reader.get_batch(0)
        batch.validate(full=True)  # reads text only
        names = batch.schema.names
        if len(set(names)) < len(names):
            raise ValueError(f"two columns of one name among {names}")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from None
    return batch, names


def _read_column(batch: pa.RecordBatch, row: int, path: str) -> np.ndarray:
    try:
        return _to_numpy(batch.column(row))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _numbers(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise ValueError(f"values of {values.dtype} where numbers were written")
    return values


def _damaged(path: str, error: Exception) -> IntegrityError:
    return IntegrityError(f"{path} is damaged: {error}. Ingest the recording again.")


class _Files:
    """The mapped files of one recording, and how each becomes what it holds."""

    __slots__ = ("buffers", "folder", "recording_id")

    def __init__(self, header: RecordingHeader, folder: str, huge_pages: bool) -> None:
        self.recording_id, self.folder = header.recording_id, folder
        self.buffers = {
            name: _map(header, folder, name, huge_pages and name.startswith(("spikes", "series-")))
            for name in header.tables
        }
        for name in header.files.keys() - self.buffers.keys():
            check_size(header.recording_id, name, size_of(f"{folder}/{name}"),
                       header.files[name].size)  # fmt: skip

    def columns(self, name: str) -> dict[str, np.ndarray]:
        path = f"{self.folder}/{name}"
        batch, names = _read_batch(self.buffers[name], path)
        return {column: _read_column(batch, row, path) for row, column in enumerate(names)}

    def misfit(self, error: Exception) -> IntegrityError:
        return IntegrityError(
            f"{self.recording_id}: the files do not fit recording.json ({error}). Ingest it again."
        )

    def spikes(self, n_spikes: int) -> tuple[np.ndarray, np.ndarray]:
        columns = self.columns("spikes.arrow")
        try:
            time, unit = columns["time"], columns["unit"]
            if (time.dtype, unit.dtype) != (np.float64, np.int32):
                raise ValueError(f"spikes of {time.dtype} and {unit.dtype}, not float64 and int32")
            if len(time) != n_spikes:
                raise ValueError(f"{len(time)} spikes where {n_spikes} were written")
        except (KeyError, ValueError) as error:
            raise self.misfit(error) from None
        return time, unit

    def units(self, n_units: int) -> dict[str, Callable[[], np.ndarray]]:
        """Return what makes each column: text becomes numpy text only where it is wanted."""
        path = f"{self.folder}/units.arrow"
        batch, names = _read_batch(self.buffers["units.arrow"], path)
        if "unit_id" not in names or batch.num_rows != n_units:
            raise self.misfit(
                ValueError(f"{batch.num_rows} units with columns {names}, {n_units} were written")
            )
        return {name: partial(_read_column, batch, row, path) for row, name in enumerate(names)}

    def intervals(self, name: str) -> IntervalSet:
        columns = self.columns(name)
        try:
            start, end = _numbers(columns.pop("start")), _numbers(columns.pop("end"))
            return IntervalSet(start, end, columns)
        except (KeyError, ValueError) as error:
            raise self.misfit(error) from None

    def series(
        self, name: str, unit: str, channels: tuple[str, ...], start: float, rate: float | None
    ) -> Series:
        columns = self.columns(f"series-{name}.arrow")
        try:
            time = _numbers(columns["time"]) if "time" in columns else None
            return Series(_numbers(columns["values"]), unit, channels, time, start, rate)
        except (KeyError, ValueError) as error:
            raise self.misfit(error) from None


def map_recording(folder: str, header: RecordingHeader, *, huge_pages: bool = False) -> Recording:
    """Return a recording whose arrays are views of mapped files.

    All files are mapped at once, so that what is read later is of the same writing; spikes and
    domain are there at once, the other tables are decoded when they are first asked for.

    Raises
    ------
    IntegrityError
        If a file is missing, damaged, of another size, or does not fit the header; for a table
        that is decoded later, when it is asked for.
    StoreError
        If a file cannot be mapped.
    """
    files = _Files(header, folder, huge_pages)
    time, unit = files.spikes(header.n_spikes)
    return Recording(
        recording_id=header.recording_id,
        spike_time=time,
        spike_unit=unit,
        units=Lazy(partial(files.units, header.n_units)),
        domain=files.intervals("domain.arrow"),
        series=Lazy(
            {
                name: partial(files.series, name, one.unit, one.columns, one.start, one.rate)
                for name, one in header.series.items()
            }
        ),
        intervals=Lazy(
            {n: partial(files.intervals, f"intervals-{n}.arrow") for n in header.intervals}
        ),
        splits=Lazy({n: partial(files.intervals, f"splits-{n}.arrow") for n in header.splits}),
        targets=header.targets,
        about=header.about,
        dropped=header.dropped,
        fingerprint=fingerprint_of(header),
    )
