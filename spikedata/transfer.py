"""Bring the bytes of one asset into place: resumed, checked, and visible only once they are right.

Where bytes come from is an `Origin`; what happens to them is the same for every origin:

1. they are appended to ``<name>.<hash>.part``, which one process at a time may hold locked;
2. an interruption is followed by a wait and by another request, from where the part ends;
3. a whole part is compared with the pinned size and sha256, synced, and renamed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spikedata.errors import FetchError, HashMismatchError
from spikedata.files import sha256_of, sync_folder
from spikedata.manifest import Asset
from spikedata.origins import Origin, TransientError, WrongBytesError

__all__ = ["Retry", "Stopped", "is_pinned", "part_path", "transfer"]

LOCK_POLL = 0.1  # seconds
RETRY_AFTER_MAX = 300.0  # seconds; a server that asks for more is asked again anyway
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # Lustre and NFS mounted without them


class Stopped(Exception):
    """The caller no longer wants the bytes."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently an asset is asked for again.

    Attributes
    ----------
    attempts : int
        Failures in a row, none of which brought a byte, before giving up.
    base, longest : float
        The first and the longest wait in seconds; each wait is twice the one before, less a
        random part of up to a half.
    timeout : float
        Seconds without a byte after which an attempt has failed.
    """

    attempts: int = 6
    base: float = 1.0
    longest: float = 60.0
    timeout: float = 30.0

    def delay(self, failures: int, asked: float = 0.0) -> float:
        """Return how many seconds to wait after so many failures in a row.

        Examples
        --------
        >>> 2.0 <= Retry(base=1.0).delay(3) <= 4.0
        True
        >>> Retry().delay(1, asked=30.0)
        30.0
        """
        backoff = min(self.base * 2 ** (max(failures, 1) - 1), self.longest)
        return max(backoff * random.uniform(0.5, 1.0), min(asked, RETRY_AFTER_MAX))


def part_path(asset: Asset, target: Path) -> Path:
    """Return where the bytes of `target` gather. Its name holds the hash: versions never mix."""
    return target.with_name(f"{target.name}.{asset.sha256[:16]}.part")


def is_pinned(path: Path, asset: Asset) -> bool:
    """Return whether a file holds the bytes that the manifest pins."""
    try:
        return path.stat().st_size == asset.size and sha256_of(path) == asset.sha256
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False


def transfer(
    asset: Asset,
    target: Path,
    origin: Origin,
    *,
    retry: Retry,
    stop: threading.Event,
    report: Callable[[int], None],
) -> int:
    """Bring an asset from its origin to `target`, which appears whole and verified or not at all.

    Parameters
    ----------
    asset : Asset
        Pins the size and sha256.
    target : Path
        Where the file shall be.
    origin : Origin
        Gives the bytes.
    retry : Retry
        When to give up.
    stop : threading.Event
        Once set, the transfer ends with `Stopped` and leaves a part to resume from.
    report : callable
        Called with the number of bytes that are here.

    Returns
    -------
    int
        Bytes that came from the origin; 0 when another process brought them meanwhile.

    Raises
    ------
    HashMismatchError
        If the bytes are wrong, and wrong again when brought from the first to the last.
    FetchError
        If the origin gives no bytes however often it is asked.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, fd = _open_part(asset, target, stop)
    try:
        if is_pinned(target, asset):
            part.unlink()
            return 0
        received, found = _fill_and_check(fd, part, asset, origin, retry, stop, report)
        if found != asset.sha256:
            os.ftruncate(fd, 0)
            again, found = _fill_and_check(fd, part, asset, origin, retry, stop, report)
            received += again
        if found != asset.sha256:
            raise HashMismatchError(
                f"expected {asset.size} bytes with sha256 {asset.sha256}, found {found}, "
                f"twice{_put_aside(fd, part, target)}; the file was changed at its origin, "
                "or the manifest is wrong."
            )
        os.fsync(fd)
        part.replace(target)
        sync_folder(target.parent)
        return received
    finally:
        os.close(fd)  # and with it the lock
        if part != part_path(asset, target):
            part.unlink(missing_ok=True)


def _fill_and_check(
    fd: int,
    part: Path,
    asset: Asset,
    origin: Origin,
    retry: Retry,
    stop: threading.Event,
    report: Callable[[int], None],
) -> tuple[int, str]:
    """Complete a part; return the bytes received and the sha256, or what was found instead."""
    received = failures = 0
    best = os.fstat(fd).st_size
    while (offset := os.fstat(fd).st_size) < asset.size:
        try:
            with origin.open(offset) as (start, chunks):
                os.ftruncate(fd, start)
                for chunk in chunks:
                    _write(fd, chunk)
                    received += len(chunk)
                    start += len(chunk)
                    report(min(start, asset.size))
                    if stop.is_set():
                        raise Stopped
                    if start > asset.size:
                        break
            if start < asset.size:
                raise TransientError(f"the body ended after {start} of {asset.size} bytes")
        except WrongBytesError as error:
            return received, str(error)
        except TransientError as error:
            if error.restart:
                os.ftruncate(fd, 0)
            here = os.fstat(fd).st_size
            failures = 0 if here > best else failures + 1
            best = max(here, best)
            if failures >= retry.attempts:
                raise FetchError(
                    f"{failures} attempts in a row failed, the last because {error}; "
                    f"{here} of {asset.size} bytes are kept: run it again to go on."
                ) from None
            if stop.wait(retry.delay(failures, error.wait)):
                raise Stopped from None
    size = os.fstat(fd).st_size
    if size > asset.size:
        return received, f"at least {size} bytes"
    return received, sha256_of(part)


def _put_aside(fd: int, part: Path, target: Path) -> str:
    """Keep wrong bytes for whoever looks into it, and return a clause that says where."""
    if os.fstat(fd).st_size == 0:
        part.unlink()
        return ""
    bad = target.with_name(f"{target.name}.bad")
    part.replace(bad)
    return f" (kept as {bad})"


def _open_part(asset: Asset, target: Path, stop: threading.Event) -> tuple[Path, int]:
    """Open the part and hold its lock, which ends with the process however that ends."""
    part = part_path(asset, target)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    while True:
        fd = os.open(part, flags, 0o666)
        try:
            _lock(fd, stop)
            if _is_still(fd, part):
                return part, fd
        except OSError as error:
            os.close(fd)
            if error.errno not in NO_LOCKS:
                raise
            # Without locks nobody else may write to the same file; what is left is not resumed.
            part.unlink(missing_ok=True)
            part = part.with_name(f"{part.stem}.{os.getpid()}-{secrets.token_hex(4)}.part")
            return part, os.open(part, flags | os.O_EXCL, 0o666)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int, stop: threading.Event) -> None:
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if stop.wait(LOCK_POLL):
                raise Stopped from None


def _is_still(fd: int, path: Path) -> bool:
    """Return whether the open file is still the one of that name: its last holder renames it."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
