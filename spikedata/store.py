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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from spikedata.errors import (
    FormatVersionError,
    IntegrityError,
    RecordingNotFoundError,
    StoreError,
    did_you_mean,
)
from spikedata.files import sha256_of, sync_folder
from spikedata.layout import (
    FORMAT_VERSION,
    HEADER,
    NAME,
    RecordingHeader,
    map_recording,
    write_files,
)
from spikedata.recording import Recording

__all__ = ["Store", "parse_header"]

STALE_AFTER = 24 * 3600.0  # s after which another writer's unfinished directory is swept away
Result = TypeVar("Result")


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
        If the folder is not there and `create` is false, or it cannot be made.
    """

    def __init__(self, path: str | Path, *, create: bool = False, max_open: int = 1024) -> None:
        self.path = Path(path)
        self._max_open = max_open
        self._open: OrderedDict[str, Recording] = OrderedDict()
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
        return {"path": self.path, "_max_open": self._max_open}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _open=OrderedDict())

    def __repr__(self) -> str:
        return f"Store('{self.path}', {len(self)} recordings)"

    def __iter__(self) -> Iterator[str]:
        found = [path.parent for path in self.path.glob(f"*/*/{HEADER}")]
        ids = [f"{folder.parent.name}/{folder.name}" for folder in found]
        return iter(sorted(name for name in ids if re.fullmatch(f"{NAME}/{NAME}", name)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, recording_id: object) -> bool:
        known = isinstance(recording_id, str) and re.fullmatch(f"{NAME}/{NAME}", recording_id)
        return bool(known) and os.path.isfile(self.path / str(recording_id) / HEADER)

    def __getitem__(self, recording_id: str) -> Recording:
        if recording_id in self._open:
            self._open.move_to_end(recording_id)
            return self._open[recording_id]
        recording = self._undisturbed(
            recording_id, lambda folder: map_recording(folder, self._read_header(recording_id))
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
        try:
            with self.receive(recording.recording_id) as folder:
                write_files(recording, provenance, folder)
        except StoreError:
            raise
        except ValidationError as error:
            raise StoreError(f"{recording.recording_id}: {_first_problem(error)}.") from None
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
        final = self._folder(recording_id)
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

    def _folder(self, recording_id: str) -> Path:
        if not (isinstance(recording_id, str) and re.fullmatch(f"{NAME}/{NAME}", recording_id)):
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
            content = (folder / HEADER).read_bytes()
        except OSError as error:
            raise IntegrityError(
                f"{folder / HEADER} cannot be read: {error}. Ingest it again."
            ) from None
        header = parse_header(content, recording_id, str(folder))
        for name, entry in header.files.items():
            found = (folder / name).stat().st_size if (folder / name).is_file() else None
            if found != entry.size:
                state = "is missing" if found is None else f"has {found} bytes"
                raise IntegrityError(
                    f"{recording_id}: {name} {state}, {entry.size} bytes were written. "
                    "Ingest it again."
                )
        return header


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
        header = RecordingHeader.model_validate(found)
    except ValidationError as error:
        raise IntegrityError(f"{where}/{HEADER}: {_first_problem(error)}. {again}") from None
    if header.recording_id != recording_id:
        raise IntegrityError(f"{where} holds '{header.recording_id}': it was moved or renamed.")
    for name in header.tables:
        if name not in header.files:
            raise IntegrityError(
                f"{recording_id}: {name} has no size and hash in {HEADER}. {again}"
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
