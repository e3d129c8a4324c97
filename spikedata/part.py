"""The unfinished bytes of an asset: one file, written by one process, in order or in pieces.

A part without a journal holds its first bytes, as many as it is long. A journal beside it lists
the pieces that are not complete; it is there before the first byte is written out of order.
What either says is believed only until the hash of the whole is known.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PIECE", "Part", "Piece", "open_part"]

PIECE = 64 << 20  # bytes; long enough that asking for one costs nothing, short enough to share
SAVE_EVERY = 16 << 20  # bytes of a piece that a killed process may have to bring again
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # Lustre and NFS mounted without them


@dataclass(slots=True)
class Piece:
    """A stretch of the asset: the bytes from `start` to `at` are here, those to `end` are not."""

    start: int
    at: int
    end: int


class Part:
    """An open part, locked for this process.

    Parameters
    ----------
    path : Path
        Of the part.
    fd : int
        The file, open and locked.
    size : int
        How long the whole asset is.
    keep : bool
        Whether the part stays, to be resumed, when it is closed unfinished.
    """

    def __init__(self, path: Path, fd: int, size: int, *, keep: bool = True):
        self.path, self.fd, self.size = path, fd, size
        self.restarts = 0  # times that bytes once counted as here were given up
        self._keep = keep
        self._journal = path.with_suffix(".pieces")
        self._beside = path.with_suffix(".pieces.new")  # one name: the lock is held
        self._guard = threading.Lock()
        self._has_journal = self._journal.exists() or self._beside.exists()
        self.pieces = self._load()

    # -------------------------------------------------------------- what is here

    @property
    def missing(self) -> list[Piece]:
        """The pieces that are not complete, in order."""
        return [piece for piece in self.pieces if piece.at < piece.end]

    @property
    def here(self) -> int:
        """How many bytes are here."""
        return self.size - sum(piece.end - piece.at for piece in self.pieces)

    @property
    def prefix(self) -> int:
        """How many bytes are here without a hole."""
        return next((piece.at for piece in self.pieces if piece.at < piece.end), self.size)

    @property
    def in_order(self) -> bool:
        """Whether the bytes come from the first to the last, so that the length says it all."""
        first, last = self.pieces[0], self.pieces[-1]
        return first is last and (first.start, first.end) == (0, self.size)

    def _load(self) -> list[Piece]:
        length = os.fstat(self.fd).st_size
        if length and self._has_journal:
            pieces = _read_journal(self._journal, self.size)
            if pieces is not None:
                return pieces
            length = self.size + 1  # how much of it is here, nobody knows
        self._forget_pieces()
        if length > self.size:
            os.ftruncate(self.fd, 0)
            length = 0
        return [Piece(0, length, self.size)]

    # -------------------------------------------------------------- writing

    def split(self, length: int) -> None:
        """Cut what is missing into pieces that end at multiples of `length`."""
        pieces: list[Piece] = []
        for piece in self.pieces:
            start = piece.start
            while start < piece.end:
                end = min((start // length + 1) * length, piece.end)
                pieces.append(Piece(start, min(max(piece.at, start), end), end))
                start = end
        self.pieces = pieces
        self.save()

    def join(self) -> None:
        """Give up what is here and begin anew, in order."""
        self.pieces = [Piece(0, 0, self.size)]
        self.restarts += 1
        os.ftruncate(self.fd, 0)
        self._forget_pieces()

    def restart(self, piece: Piece) -> None:
        """Give up what is here of a piece."""
        if self.in_order:
            os.ftruncate(self.fd, 0)
        piece.at = piece.start
        self.restarts += 1

    def write(self, piece: Piece, data: bytes) -> None:
        """Write the next bytes of a piece."""
        view = memoryview(data)[: piece.end - piece.at]
        while view:
            done = os.pwrite(self.fd, view, piece.at)
            before, piece.at = piece.at, piece.at + done
            view = view[done:]
            if before // SAVE_EVERY != piece.at // SAVE_EVERY or piece.at == piece.end:
                self.save()

    def save(self) -> None:
        """Write the journal, if the bytes do not come in order."""
        if not self.in_order:
            with self._guard:
                open_ones = [[one.start, one.at, one.end] for one in self.missing]
                self._has_journal = True
                self._beside.write_text(json.dumps(open_ones))
                self._beside.replace(self._journal)

    # -------------------------------------------------------------- the end

    def finish(self, target: Path) -> None:
        """Sync the bytes and rename them into place."""
        os.fsync(self.fd)
        self.move(target)

    def move(self, target: Path) -> None:
        """Rename the file."""
        self._forget_pieces()  # first: a whole part needs no journal
        self.path.replace(target)

    def discard(self) -> None:
        """Remove the file."""
        self._forget_pieces()
        self.path.unlink(missing_ok=True)

    def _forget_pieces(self) -> None:
        if self._has_journal:
            self._beside.unlink(missing_ok=True)
            self._journal.unlink(missing_ok=True)
            self._has_journal = False

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *error: object) -> None:
        moved = not _is_still(self.fd, self.path)
        try:
            if not moved and (self.here == 0 < self.size or not self._keep):
                self.discard()
            elif not moved:
                self.save()
        finally:
            os.close(self.fd)  # and with it the lock


def open_part(path: Path, size: int, pause: Callable[[], None]) -> Part:
    """Open a part and lock it; the lock ends with the process, however that ends.

    Parameters
    ----------
    path : Path
        Where the part is or shall be.
    size : int
        How long the whole asset is.
    pause : callable
        Called again and again while another process holds the lock; may raise.

    Returns
    -------
    Part
        To be closed by ``with``. On a file system without locks, one of its own that does not
        stay.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    while True:
        fd = os.open(path, flags, 0o666)
        try:
            _lock(fd, pause)
            if _is_still(fd, path):
                return Part(path, fd, size)
        except OSError as error:
            os.close(fd)
            if error.errno not in NO_LOCKS:
                raise
            # Without locks nobody else may write to the same file; what is left is not resumed.
            for left in (path, path.with_suffix(".pieces"), path.with_suffix(".pieces.new")):
                left.unlink(missing_ok=True)
            own = path.with_name(f"{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.part")
            return Part(own, os.open(own, flags | os.O_EXCL, 0o666), size, keep=False)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _read_journal(path: Path, size: int) -> list[Piece] | None:
    """Return the pieces that a journal lists, None if it is not a sound one."""
    try:
        rows = json.loads(path.read_bytes())
        if not isinstance(rows, list) or not all(
            len(row) == 3 and all(type(bound) is int for bound in row) for row in rows
        ):
            return None
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    last = 0
    for start, at, end in rows:
        if not last <= start <= at <= end <= size:
            return None
        last = end
    return [Piece(*row) for row in rows] or [Piece(0, size, size)]


def _lock(fd: int, pause: Callable[[], None]) -> None:
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pause()


def _is_still(fd: int, path: Path) -> bool:
    """Return whether the open file is still the one of that name: its last holder renames it."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
