"""The store: one immutable directory of mapped Arrow files per recording.

``<store>/<dataset>/<session>/`` holds ``spikes.arrow``, ``units.arrow``, ``domain.arrow``,
``series-<name>.arrow``, ``intervals-<name>.arrow``, ``splits-<scheme>.arrow`` and, written last,
``recording.json``: a directory without it is no recording. docs/store-format.md is the reference.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pydantic import JsonValue, ValidationError

from spikedata.catalog import Catalog, Entry, Identity, identity_of, read_catalog, readable_table
from spikedata.errors import IntegrityError, RecordingNotFoundError, StoreError, did_you_mean
from spikedata.files import sha256_of, swap_folders, sync_folder
from spikedata.layout import HEADER, NAME, RecordingHeader, first_problem, parse_header, write_files
from spikedata.mapping import physical_memory
from spikedata.opening import check_size, map_recording, size_of
from spikedata.outline import Outline
from spikedata.recording import Recording

__all__ = ["Store"]

STALE_AFTER = 24 * 3600.0  # s after which another writer's unfinished directory is swept away
RECORDING_ID = re.compile(f"{NAME}/{NAME}")
Result = TypeVar("Result")


class Store(Mapping[str, Recording]):
    """The recordings below one folder, as a read-only mapping from id to recording.

    Arrays of an opened recording are views of mapped files: nothing is read until it is touched.
    A store pickles as its path, so it can be handed to worker processes.

    Parameters
    ----------
    path : str or Path
        The folder.
    create : bool
        Make the folder if it is not there.
    max_open : int
        How many recordings stay mapped; the least recently used one is let go first.
    huge_pages : bool
        Ask for huge pages, until what was mapped reaches half of the machine's memory.

    Raises
    ------
    StoreError
        If the folder is not there and `create` is false, or it cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = False,
        max_open: int = 1024,
        huge_pages: bool = True,
    ) -> None:
        # A program or a worker that changes its folder later still reads, and writes, this one.
        self.path, self.max_open, self._huge_pages = Path(path).absolute(), max_open, huge_pages
        self._forget()
        if create:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"The store {self.path} cannot be made: {error.strerror}; give another folder "
                    "with --store."
                ) from error
        if not self.path.is_dir():
            raise StoreError(
                f"There is no store at {self.path}: make one with `spikedata ingest`, "
                "or give the right folder with --store."
            )

    def __getstate__(self) -> dict[str, object]:
        return {name: self.__dict__[name] for name in ("path", "max_open", "_huge_pages")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._open: OrderedDict[str, Recording] = OrderedDict()
        self._catalog: Catalog | None = None  # what was last read or made of it
        self._mapped = 0  # bytes, all that were ever mapped

    def __repr__(self) -> str:
        return f"Store('{self.path}', {len(self)} recordings)"

    def __iter__(self) -> Iterator[str]:
        return iter(
            sorted(
                f"{dataset.name}/{session.name}"
                for dataset in _folders(self.path)
                for session in _folders(dataset.path)
                if os.path.isfile(f"{session.path}/{HEADER}")
            )
        )

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, recording_id: object) -> bool:
        known = isinstance(recording_id, str) and RECORDING_ID.fullmatch(recording_id)
        return bool(known) and os.path.isfile(f"{self.path}/{recording_id}/{HEADER}")

    def __getitem__(self, recording_id: str) -> Recording:
        if recording_id in self._open:
            self._open.move_to_end(recording_id)
            return self._open[recording_id]
        recording = self._map(recording_id)[1]
        self._open[recording_id] = recording
        if len(self._open) > self.max_open:
            self._open.popitem(last=False)
        return recording

    def _map(self, recording_id: str) -> tuple[RecordingHeader, Recording, Identity]:
        """Map a recording as it is on the disk now."""

        def read(folder: str) -> tuple[RecordingHeader, Recording]:
            header = self._read_header(recording_id, folder)
            self._mapped += sum(entry.size for entry in header.files.values())
            huge_pages = self._huge_pages and self._mapped < physical_memory() // 2
            return header, map_recording(folder, header, huge_pages=huge_pages)

        (header, recording), identity = self._undisturbed(recording_id, read)
        return header, recording, identity

    def outlines(self, recording_ids: Sequence[str]) -> list[Outline]:
        """Return what a sampler must know of recordings, without opening those in the catalogue.

        An outline is of what is on the disk now: a recording that this store has open and that
        was replaced since is let go, so that the next access opens the new one.

        Raises
        ------
        RecordingNotFoundError, FormatVersionError, IntegrityError
            As `store[recording_id]` does, for the first that cannot be read. Rows of the catalogue
            stand for recordings whose folder and header are as they were; sizes of the other
            files are checked when a recording is opened.
        """
        catalog = self._refreshed(recording_ids, self._entry)
        outlines = catalog.outlines(recording_ids)
        for one in outlines:
            opened = self._open.get(one.recording_id)
            if opened is not None and opened.fingerprint != one.fingerprint:
                del self._open[one.recording_id]
        return outlines

    def catalog(self) -> pa.Table:
        """Return a table of all recordings, one row each, sorted by id.

        Columns: recording_id, dataset, session, fingerprint, n_spikes, n_units, duration (s),
        targets, series (name, unit, width, rate in Hz or null), intervals, splits (scheme, split,
        start, end in s), a text column for each key of `Recording.about` (``about_<key>`` where the
        name is taken), and problem: why a recording cannot be read, and null where it can.
        """
        problems: dict[str, str] = {}

        def entry(recording_id: str) -> Entry | None:
            try:
                return self._entry(recording_id)
            except RecordingNotFoundError:  # deleted a moment ago
                return None
            except StoreError as error:
                problems[recording_id] = str(error)
                return None

        names = list(self)
        catalog = self._refreshed(names, entry, only=True)
        return readable_table(catalog.rows([name for name in names if name in catalog]), problems)

    def _entry(self, recording_id: str) -> Entry:
        return Entry.of(*self._map(recording_id))

    def _refreshed(
        self,
        recording_ids: Sequence[str],
        read: Callable[[str], Entry | None],
        *,
        only: bool = False,
    ) -> Catalog:
        """Return a catalogue with a true row of each recording that can be read.

        What it lacks is read, and the file is then written anew; with ``only=True`` it loses the
        rows of all other recordings.
        """
        catalog = read_catalog(self.path) if self._catalog is None else self._catalog
        entries, unread = [], set()
        for name in dict.fromkeys(recording_ids):
            identity = identity_of(self._folder(name))
            if identity is None or not catalog.holds(name, identity):
                found = read(name)
                if found is None:
                    unread.add(name)
                else:
                    entries.append(found)
        gone = unread & set(catalog)
        if only:
            gone |= set(catalog) - set(recording_ids)
        if entries or gone:
            catalog = catalog.updated(entries, gone)
            catalog.write(self.path)
        self._catalog = catalog
        return catalog

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

        def read(folder: str) -> RecordingHeader:
            header = self._read_header(recording_id, folder)
            for name, entry in header.files.items():
                check_size(recording_id, name, size_of(f"{folder}/{name}"), entry.size)
            return header

        return self._undisturbed(recording_id, read)[0]

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

        def hash_files(folder: str) -> None:
            for name, entry in self._read_header(recording_id, folder).files.items():
                check_size(recording_id, name, size_of(f"{folder}/{name}"), entry.size)
                found = sha256_of(Path(folder, name))
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
        try:
            with self.receive(recording.recording_id) as folder:
                write_files(recording, provenance, folder)
        except StoreError:
            raise
        except ValidationError as error:
            raise StoreError(f"{recording.recording_id}: {first_problem(error)}.") from None
        except OSError as error:
            raise StoreError(
                f"{recording.recording_id}: cannot be written to {self.path}: {error}."
            ) from error

    @contextmanager
    def receive(self, recording_id: str) -> Iterator[Path]:
        """Yield a hidden folder for the files of a recording; at the end it takes its place.

        Whoever fills it syncs the files and writes ``recording.json`` last. An error within leaves
        the recording that was there, if any, as it was.

        Raises
        ------
        RecordingNotFoundError
            If `recording_id` cannot be the id of a recording.
        OSError
            If the disk refuses.
        """
        final = Path(self._folder(recording_id))
        beside = final.with_name(f".writing-{final.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            _sweep(final.parent)
            beside.mkdir()
            yield beside
            _put_in_place(beside, final)
            sync_folder(final.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            self._open.pop(recording_id, None)

    def _folder(self, recording_id: str) -> str:
        if not (isinstance(recording_id, str) and RECORDING_ID.fullmatch(recording_id)):
            raise RecordingNotFoundError(
                f"'{recording_id}' is no recording id: expected '<dataset>/<session>' of letters, "
                f"digits and . _ + -; {did_you_mean(str(recording_id), self)}"
            )
        return f"{self.path}/{recording_id}"

    def _undisturbed(
        self, recording_id: str, read: Callable[[str], Result]
    ) -> tuple[Result, Identity]:
        """Return what `read` makes of a folder, and which one it was.

        It begins again if a writer replaced the folder meanwhile.
        """
        folder = self._folder(recording_id)
        while True:
            before = identity_of(folder)
            try:
                if before is None:
                    raise RecordingNotFoundError(
                        f"{self.path} holds no recording '{recording_id}'; "
                        + did_you_mean(recording_id, self)
                    )
                result = read(folder)
            except OSError:
                if identity_of(folder) == before:
                    raise
            else:
                if identity_of(folder) == before:
                    return result, before

    def _read_header(self, recording_id: str, folder: str) -> RecordingHeader:
        try:
            with open(f"{folder}/{HEADER}", "rb", buffering=0) as file:
                content = file.read()
        except OSError as error:
            raise IntegrityError(
                f"{folder}/{HEADER} cannot be read: {error}. Ingest it again."
            ) from None
        return parse_header(content, recording_id, folder)


def _folders(path: str | Path) -> list[os.DirEntry[str]]:
    """Return the folders in one that can be of a dataset or a session; none if it is no folder."""
    with suppress(OSError), os.scandir(path) as entries:
        return [one for one in entries if re.fullmatch(NAME, one.name) and one.is_dir()]
    return []


def _sweep(folder: Path) -> None:
    """Remove directories that writers killed long ago left behind."""
    with os.scandir(folder) as entries:
        hidden = [one for one in entries if one.name.startswith((".writing-", ".old-"))]
    for leftover in hidden:
        with suppress(FileNotFoundError):  # its writer has just finished
            if time.time() - leftover.stat().st_mtime > STALE_AFTER:
                shutil.rmtree(leftover.path, ignore_errors=True)


def _put_in_place(beside: Path, final: Path) -> None:
    """Rename a finished directory into place; of several writers the last one's stays.

    One that was there is exchanged for it, so that no reader finds none, and is then found at
    `beside`; where the system cannot do that, it is moved away first.
    """
    moved = []
    try:
        while True:
            try:
                os.replace(beside, final)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if swap_folders(beside, final):
                return
            moved.append(final.with_name(f".old-{final.name}-{uuid.uuid4().hex[:8]}"))
            with suppress(FileNotFoundError):  # another writer has just moved it
                os.replace(final, moved[-1])
    finally:
        for old in moved:
            shutil.rmtree(old, ignore_errors=True)
