"""Write files so that a crash leaves either the old one or the whole new one, and hash them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import uuid
from pathlib import Path
from typing import IO

__all__ = ["Source", "sha256_of", "swap_folders", "sync_file", "sync_folder", "write_whole"]

Source = Path | IO[bytes]
"""A file on this machine, or an open one that can seek and has a ``name``."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so."""
    if os.name == "posix":
        sync_file(path)


def swap_folders(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, so that neither name is ever without one.

    Returns false, having done nothing, where the system or the file system cannot (Linux can, by
    ``renameat2``, on all but network file systems).
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <fcntl.h> and <linux/fs.h>
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def write_whole(path: Path, content: bytes | str, *, sync: bool = True) -> None:
    """Write a file beside its place, sync it, and rename it into place.

    With ``sync=False`` a crash of the machine may leave it empty: for what can be made again.

    Raises
    ------
    OSError
        If the folder is missing, full or not writable; the old file, if any, is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        # A full disk names no file, and nobody knows the one beside it.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        beside.unlink(missing_ok=True)
    if sync:
        sync_folder(path.parent)
