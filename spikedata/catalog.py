"""The catalogue of a store: what its recordings' headers and splits say, in one file.

``<store>/catalog.arrow`` is derived: it is no part of the format, may be deleted at any time, and
is rebuilt by whoever reads. A row counts only while the folder of its recording is the one that it
was read from, and no path is made from what a row says. The file is an Arrow stream with one
record batch, and behind it the SHA-256 of all bytes before: what is torn or flipped is not used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spikedata.errors import IntegrityError
from spikedata.files import write_whole
from spikedata.layout import HEADER, RecordingHeader
from spikedata.mapping import map_file
from spikedata.outline import Outline, outline_of
from spikedata.recording import SPLITS, Recording

__all__ = ["Catalog", "Entry", "Identity", "identity_of", "read_catalog", "readable_table"]

CATALOG = "catalog.arrow"
Identity = tuple[int, int, int, int, int]

_SPLIT_ROWS = pa.list_(
    pa.struct({"split": pa.int8(), "start": pa.float64(), "end": pa.float64()})  # row of SPLITS
)
_SERIES = {"name": pa.string(), "unit": pa.string(), "width": pa.int32(), "rate": pa.float64()}
_SCHEMA = pa.schema(
    {
        "recording_id": pa.string(),
        "identity": pa.list_(pa.int64(), 5),
        "fingerprint": pa.string(),
        "n_spikes": pa.int64(),
        "n_units": pa.int64(),
        "duration": pa.float64(),
        "targets": pa.list_(pa.string()),
        "series": pa.list_(pa.struct(_SERIES)),
        "intervals": pa.list_(pa.string()),
        "splits": pa.list_(pa.struct({"scheme": pa.string(), "rows": _SPLIT_ROWS})),
        "about": pa.map_(pa.string(), pa.string()),
    },
    metadata={"spikedata.catalog": "1"},  # another number is another file: read anew
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the catalogue keeps of one recording: a row to be."""

    header: RecordingHeader
    outline: Outline
    identity: Identity

    @classmethod
    def of(cls, header: RecordingHeader, recording: Recording, identity: Identity) -> Entry:
        """Return the entry of a recording that was just opened.

        Raises
        ------
        IntegrityError
            If a table of splits is damaged, or names others than train, valid and test; or if the
            header holds text that is no Unicode.
        """
        try:
            header.model_dump_json()
        except ValueError as error:
            raise IntegrityError(
                f"{header.recording_id}: {HEADER} holds text that cannot be written: {error}. "
                "Ingest it again."
            ) from None
        for scheme, table in recording.splits.items():
            found = np.asarray(table.columns.get("split", ["nothing"]), np.str_)
            if not np.isin(found, SPLITS).all():
                raise IntegrityError(
                    f"{header.recording_id}: splits-{scheme}.arrow needs a column 'split' of "
                    f"{', '.join(SPLITS)}, found {sorted(set(found.tolist()))}. Ingest it again."
                )
        return cls(header, outline_of(recording), identity)


def identity_of(folder: str) -> Identity | None:
    """Return what changes when a recording's folder or header is replaced; None without them."""
    try:
        whole, header = os.stat(folder), os.stat(f"{folder}/{HEADER}")
    except OSError:
        return None
    return (whole.st_ino, whole.st_mtime_ns, header.st_ino, header.st_mtime_ns, header.st_size)


# ------------------------------------------------------------------ rows and their batch


def _lists(groups: Sequence[Sequence[Any]], kind: pa.ListType) -> pa.Array:
    """Return lists of one row each; the elements are tuples where they are structs."""
    flat = [value for group in groups for value in group]
    if pa.types.is_struct(kind.value_type):
        values: pa.Array = pa.StructArray.from_arrays(
            [pa.array([one[at] for one in flat], field.type)
             for at, field in enumerate(kind.value_type)], fields=list(kind.value_type),
        )  # fmt: skip
    else:
        values = pa.array(flat, kind.value_type)
    return pa.ListArray.from_arrays(_offsets(groups), values, type=kind)


def _offsets(groups: Iterable[Sized]) -> pa.Array:
    lengths = [0, *(len(group) for group in groups)]
    return pa.array(np.cumsum(lengths), pa.int32())


def _split_lists(outlines: Sequence[Outline]) -> pa.Array:
    """Return, of each recording, its schemes with their rows; made of arrays, as rows are many."""
    schemes = [table for one in outlines for table in one.splits.values()]
    rows = pa.StructArray.from_arrays(
        [
            pa.array(_joined([split for _, _, split in schemes], np.int8)),
            pa.array(_joined([start for start, _, _ in schemes], np.float64)),
            pa.array(_joined([end for _, end, _ in schemes], np.float64)),
        ],
        fields=list(_SPLIT_ROWS.value_type),
    )
    kind = _SCHEMA.field("splits").type
    values = pa.StructArray.from_arrays(
        [
            pa.array([scheme for one in outlines for scheme in one.splits], pa.string()),
            pa.ListArray.from_arrays(
                _offsets([start for start, _, _ in schemes]), rows, type=_SPLIT_ROWS
            ),
        ],
        fields=list(kind.value_type),
    )
    return pa.ListArray.from_arrays(
        _offsets([one.splits for one in outlines]), values, type=kind  # type: ignore[arg-type]
    )  # fmt: skip


def _joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.empty(0, kind), *parts]).astype(kind, copy=False)


def _batch_of(entries: Sequence[Entry]) -> pa.RecordBatch:
    headers = [one.header for one in entries]
    kind = {field.name: field.type for field in _SCHEMA}
    series = [
        [(name, one.unit, len(one.columns), one.rate) for name, one in header.series.items()]
        for header in headers
    ]
    columns = [
        pa.array([one.recording_id for one in headers], pa.string()),
        pa.FixedSizeListArray.from_arrays(
            pa.array([number for one in entries for number in one.identity], pa.int64()), 5
        ),
        pa.array([one.outline.fingerprint for one in entries], pa.string()),
        pa.array([one.n_spikes for one in headers], pa.int64()),
        pa.array([one.n_units for one in headers], pa.int64()),
        pa.array([one.duration for one in headers], pa.float64()),
        _lists([one.targets for one in headers], kind["targets"]),
        _lists(series, kind["series"]),
        _lists([one.intervals for one in headers], kind["intervals"]),
        _split_lists([one.outline for one in entries]),
        pa.array([list(one.about.items()) for one in headers], kind["about"]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


# ------------------------------------------------------------------ the catalogue


class Catalog:
    """Rows of recordings, some of which may be out of date.

    Parameters
    ----------
    batch : pyarrow.RecordBatch, optional
        Rows with the columns of the file; none when not given.
    """

    def __init__(self, batch: pa.RecordBatch | None = None) -> None:
        self.batch = _batch_of([]) if batch is None else batch
        ids = _texts(self.batch.column("recording_id"))
        identities = np.from_dlpack(self.batch.column("identity").flatten()).reshape(-1, 5)
        self._row = {name: row for row, name in enumerate(ids)}
        self._identity = [tuple(one) for one in identities.tolist()]

    def __len__(self) -> int:
        return len(self._row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __contains__(self, recording_id: object) -> bool:
        return recording_id in self._row

    def holds(self, recording_id: str, identity: Identity) -> bool:
        """Return whether there is a row that was read from this very folder."""
        row = self._row.get(recording_id)
        return row is not None and self._identity[row] == identity

    def updated(self, entries: Sequence[Entry], gone: Iterable[str] = ()) -> Catalog:
        """Return the catalogue with these rows, new or instead of its own, and without `gone`."""
        left_out = {*gone, *(one.header.recording_id for one in entries)}
        kept = [row for name, row in self._row.items() if name not in left_out]
        parts = [self.batch.take(pa.array(kept, pa.int64())), _batch_of(entries)]
        table = pa.Table.from_batches(parts, _SCHEMA).combine_chunks()
        return Catalog(table.to_batches()[0] if len(table) else None)

    def write(self, folder: Path) -> None:
        """Write the file into a store's folder, if that is possible: it can be made again."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, _SCHEMA) as writer:
            writer.write_batch(self.batch)
        data = sink.getvalue().to_pybytes()
        with suppress(OSError):
            write_whole(folder / CATALOG, data + hashlib.sha256(data).digest(), sync=False)

    def outlines(self, recording_ids: Sequence[str]) -> list[Outline]:
        """Return the outlines of recordings that have a row."""
        flat, made = self._flat, []
        for name in recording_ids:
            row = self._row[name]
            channels = slice(flat.series_at[row], flat.series_at[row + 1])
            schemes = range(flat.scheme_at[row], flat.scheme_at[row + 1])
            made.append(
                Outline(
                    name,
                    flat.fingerprint[row],
                    flat.n_units[row],
                    tuple(flat.target[flat.target_at[row] : flat.target_at[row + 1]]),
                    dict(zip(flat.series[channels], flat.width[channels], strict=True)),
                    tuple(flat.table[flat.table_at[row] : flat.table_at[row + 1]]),
                    {flat.scheme[at]: flat.split_rows(at) for at in schemes},
                )
            )
        return made

    def rows(self, recording_ids: Sequence[str]) -> pa.RecordBatch:
        """Return the rows of recordings that have one, in this order."""
        return self.batch.take(pa.array([self._row[name] for name in recording_ids], pa.int64()))

    @cached_property
    def _flat(self) -> _Flat:
        return _Flat(self.batch)


class _Flat:
    """The nested columns of a batch as flat lists and arrays with offsets."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.fingerprint = _texts(batch.column("fingerprint"))
        self.n_units = batch.column("n_units").to_pylist()
        targets, tables = batch.column("targets"), batch.column("intervals")
        series, splits = batch.column("series"), batch.column("splits")
        self.target_at, self.target = targets.offsets.to_pylist(), _texts(targets.values)
        self.table_at, self.table = tables.offsets.to_pylist(), _texts(tables.values)
        self.series_at = series.offsets.to_pylist()
        self.series = _texts(series.values.field("name"))
        self.width = series.values.field("width").to_pylist()
        self.scheme_at = splits.offsets.to_pylist()
        self.scheme = _texts(splits.values.field("scheme"))
        rows = splits.values.field("rows")
        self.row_at = rows.offsets.to_pylist()
        self.start, self.end = (np.from_dlpack(rows.values.field(at)) for at in ("start", "end"))
        self.split = np.from_dlpack(rows.values.field("split"))
        for column in (self.start, self.end, self.split):
            column.flags.writeable = False

    def split_rows(self, scheme: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mine = slice(self.row_at[scheme], self.row_at[scheme + 1])
        return self.start[mine], self.end[mine], self.split[mine]


def _texts(column: pa.Array) -> list[str]:
    return column.to_pylist()  # to_numpy() of text imports pandas


def read_catalog(folder: Path) -> Catalog:
    """Return the catalogue of a store's folder; an empty one if there is none that is whole."""
    try:
        data = map_file(str(folder / CATALOG))
        size = max(data.size - 32, 0)
        content, digest = data.slice(0, size), data.slice(size).to_pybytes()
        if hashlib.sha256(content).digest() != digest:
            return Catalog()
        reader = pa.ipc.open_stream(content)
        if not reader.schema.equals(_SCHEMA, check_metadata=True):
            return Catalog()
        batch = reader.read_next_batch()
        batch.validate(full=True)
        catalog = Catalog(batch)
        return catalog if len(catalog) == len(batch) else Catalog()
    except (OSError, ValueError, pa.ArrowException, StopIteration):
        return Catalog()


# ------------------------------------------------------------------ for people


def readable_table(rows: pa.RecordBatch, problems: Mapping[str, str]) -> pa.Table:
    """Return sorted rows of the catalogue for people, with what cannot be read among them.

    Parameters
    ----------
    rows : pyarrow.RecordBatch
        Rows of recordings.
    problems : mapping of str to str
        Why other recordings, by id, cannot be read.
    """
    ids = _texts(rows.column("recording_id")) + list(problems)
    about = [dict(one) for one in rows.column("about").to_pylist()] + [{}] * len(problems)
    nothing = len(problems)
    columns: dict[str, pa.Array] = {
        "recording_id": pa.array(ids, pa.string()),
        "dataset": pa.array([one.split("/")[0] for one in ids], pa.string()),
        "session": pa.array([one.split("/")[1] for one in ids], pa.string()),
    }
    for name in ("fingerprint", "n_spikes", "n_units", "duration", "targets", "series",
                 "intervals"):  # fmt: skip
        column = rows.column(name)
        columns[name] = pa.concat_arrays([column, pa.nulls(nothing, column.type)])
    splits = [
        [
            (one["scheme"], SPLITS[row["split"]], row["start"], row["end"])
            for one in schemes for row in one["rows"]
        ]
        for schemes in rows.column("splits").to_pylist()
    ]  # fmt: skip
    kind = pa.list_(
        pa.struct({"scheme": pa.string(), "split": pa.string(), "start": pa.float64(),
                   "end": pa.float64()})
    )  # fmt: skip
    columns["splits"] = pa.concat_arrays([_lists(splits, kind), pa.nulls(nothing, kind)])
    for key in dict.fromkeys(key for one in about for key in one):
        name = f"about_{key}" if key in columns or key == "problem" else key
        columns[name] = pa.array([one.get(key) for one in about], pa.string())
    columns["problem"] = pa.array([None] * len(rows) + list(problems.values()), pa.string())
    table = pa.table(columns)
    return table.take(np.argsort(np.array(ids, np.str_))) if problems else table
