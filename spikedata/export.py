"""Recordings of a store as Parquet files, for every tool that reads Parquet.

``<folder>/<dataset>/<session>/`` holds one file a table, named as the table: ``spikes.parquet``,
``units.parquet``, ``series-<name>.parquet``, …, and ``catalog.parquet`` lists the recordings.
Each has the column ``recording_id`` first, so that files of many recordings read as one table.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spikedata.errors import (
    FormatVersionError,
    IntegrityError,
    RecordingNotFoundError,
    StoreError,
    ViewError,
    did_you_mean,
)
from spikedata.files import sync_file, sync_folder
from spikedata.progress import Progress, silent
from spikedata.recording import Recording
from spikedata.store import Store
from spikedata.views import refuse_column, table_names, to_arrow

__all__ = ["Exported", "export_parquet"]

ROWS = 1_000_000
"""Rows of a row group, and how much of a table is held in memory at a time."""

SORTED_BY = {"spikes": "time", "series": "time", "intervals": "start", "splits": "start"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of one recording.

    Parameters
    ----------
    recording_id : str
        The recording.
    status : str
        "written"; "skipped", when its files were there with the same fingerprint; "failed".
    files, bytes : int
        How many files the recording has now, and how large they are in all.
    message : str
        Why it failed.
    """

    recording_id: str
    status: Literal["written", "skipped", "failed"]
    files: int = 0
    bytes: int = 0
    message: str = ""


def export_parquet(
    store: Store,
    folder: str | Path,
    recording_ids: Iterable[str] | None = None,
    progress: Progress = silent,
) -> list[Exported]:
    """Write recordings as Parquet files, and a catalogue of all that the folder then holds.

    Files are compressed by zstd, have page checksums, and say in their schema's metadata what
    `spikedata.views.to_arrow` says there, the units of series included. Each is written beside its
    place and renamed, so that an interrupted export leaves whole files only; done again, it goes on
    where it stopped. A file of an earlier export that the recording no longer has is removed.

    Parameters
    ----------
    store : Store
        The recordings.
    folder : str or Path
        Where to; it is made if it is not there.
    recording_ids : iterable of str, optional
        Only these; all of the store when not given.
    progress : callable
        Told the recording and how many of its files are done.

    Returns
    -------
    list of Exported
        One for each recording, in their order; a damaged one is "failed" and the others go on.

    Raises
    ------
    RecordingNotFoundError
        If the store lacks one of the recordings; nothing is written then.
    StoreError
        If the folder cannot be written to.
    """
    folder = Path(folder)
    ids = list(dict.fromkeys(store if recording_ids is None else recording_ids))
    for one in ids:
        if one not in store:
            raise RecordingNotFoundError(
                f"{store.path} holds no recording '{one}'; {did_you_mean(one, store)}"
            )
    try:
        results = [_export_one(store, one, folder, progress) for one in ids]
        _write_catalog(store, folder)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"Recordings cannot be written to {folder}: {error}.") from error
    return results


def _export_one(store: Store, recording_id: str, folder: Path, progress: Progress) -> Exported:
    try:
        recording = store[recording_id]
        names = table_names(recording)
        for name in names:
            nothing = to_arrow(recording, name, slice(0, 0))  # refuses what cannot be shown
            refuse_column(f"{recording_id}: {name}", nothing.column_names, "recording_id")
    except (IntegrityError, FormatVersionError, ViewError) as error:
        return Exported(recording_id, "failed", message=str(error))
    inside = folder / recording_id
    inside.mkdir(parents=True, exist_ok=True)
    paths = {name: inside / f"{name}.parquet" for name in names}
    wrote = 0
    for done, (name, path) in enumerate(paths.items(), 1):
        if _about(path).get("fingerprint") != recording.fingerprint:
            _write_parquet(path, _blocks(recording, name))
            wrote += 1
        progress(recording_id, done, len(paths))
    for path in sorted(inside.glob("*.parquet")):
        if path not in paths.values() and _about(path).get("recording_id") == recording_id:
            path.unlink()
    size = sum(path.stat().st_size for path in paths.values())
    return Exported(recording_id, "written" if wrote else "skipped", len(paths), size)


# ------------------------------------------------------------------ one file


def _about(path: Path) -> dict[str, str]:
    """Return the metadata of a file's schema; none of a file that is not there or no Parquet."""
    try:
        found = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return {}
    return {key.decode(): value.decode("utf-8", "replace") for key, value in found.items()}


def _blocks(recording: Recording, name: str) -> Iterator[pa.Table]:
    """Yield a table a block of rows at a time, at least one block."""
    first = 0
    while True:
        block = to_arrow(recording, name, slice(first, first + ROWS))
        if len(block) or not first:
            yield _named(block, recording.recording_id)
        if len(block) < ROWS:
            return
        first += ROWS


def _named(block: pa.Table, recording_id: str) -> pa.Table:
    """Return a block with the recording's id in front: of one value, so next to nothing on disk."""
    column = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(len(block), np.int32)), pa.array([recording_id], pa.string())
    )
    return block.add_column(0, "recording_id", column)


def _write_parquet(path: Path, blocks: Iterator[pa.Table]) -> None:
    """Write a file beside its place, sync it and rename it; `path` is the old or the whole new."""
    first = next(blocks)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    by = SORTED_BY.get(path.stem.partition("-")[0])
    order = [pq.SortingColumn(first.schema.get_field_index(by))] if by else None
    try:
        with pq.ParquetWriter(
            beside,
            first.schema,
            compression="zstd",
            write_page_checksum=True,
            sorting_columns=order,
        ) as writer:
            writer.write_table(first, row_group_size=ROWS)
            for block in blocks:
                writer.write_table(block, row_group_size=ROWS)
        sync_file(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


# ------------------------------------------------------------------ the catalogue


def _write_catalog(store: Store, folder: Path) -> None:
    """Write the rows of the store's catalogue whose recordings the folder holds as they are."""
    catalog = store.catalog()
    there = [
        fingerprint is not None
        and _about(folder / one / "spikes.parquet").get("fingerprint") == fingerprint
        for one, fingerprint in zip(
            catalog["recording_id"].to_pylist(), catalog["fingerprint"].to_pylist(), strict=True
        )
    ]
    folder.mkdir(parents=True, exist_ok=True)
    _write_parquet(folder / "catalog.parquet", iter([catalog.filter(pa.array(there, pa.bool_()))]))
