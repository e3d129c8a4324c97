"""Bring the bytes of one asset into place: resumed, checked, and visible only once they are right.

Where bytes come from is an `Origin`; what happens to them is the same for every origin:

1. they gather in ``<name>.<hash>.part``, which one process at a time may hold locked; a large
   asset comes in pieces, over as many connections as are free;
2. an interruption is followed by a wait and by another request, from where the piece ends;
3. a whole part is compared with the pinned size and hashes, synced, and renamed.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from spikedata.digests import conflict, digests_of, pin_of
from spikedata.errors import HashMismatchError, UnreachableError
from spikedata.hashing import Follower, Inline
from spikedata.manifest import Asset
from spikedata.origins import Origin, TransientError, WrongBytesError, WrongOfferError
from spikedata.part import PIECE, Part, Piece, open_part
from spikedata.threads import Stopped

__all__ = ["Retry", "Stopped", "part_path", "retrying", "transfer"]

LOCK_POLL = STOP_POLL = 0.1  # seconds
RETRY_AFTER_MAX = 300.0  # seconds; a server that asks for more is asked again anyway
BACKDATE = 10.0  # seconds before now: the time of a finished file, so that any change shows

T = TypeVar("T")


class _NotInPiecesError(Exception):
    """The server gives the whole body only."""


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


def retrying(call: Callable[[], T], retry: Retry, stop: threading.Event) -> T:
    """Return what `call` returns, called again while it raises `TransientError`.

    Raises
    ------
    UnreachableError
        After ``retry.attempts`` failures.
    Stopped
        If `stop` is set meanwhile.
    """
    failures = 0
    while True:
        try:
            return call()
        except TransientError as error:
            failures += 1
            if failures >= retry.attempts:
                raise UnreachableError(
                    f"{failures} attempts in a row failed, the last because {error}; "
                    "run it again later."
                ) from None
            if stop.wait(retry.delay(failures, error.wait)):
                raise Stopped from None


def part_path(asset: Asset, target: Path) -> Path:
    """Return where the bytes of `target` gather. Its name holds the hash: versions never mix."""
    return target.with_name(f"{target.name}.{pin_of(asset).split()[1][:16]}.part")


def transfer(
    asset: Asset,
    target: Path,
    origin: Origin,
    *,
    retry: Retry,
    stop: threading.Event,
    report: Callable[[int], None],
    waiting: Callable[[str], None] = lambda reason: None,
    spare: threading.Semaphore | None = None,
    piece: int = PIECE,
    tries: int = 2,
) -> tuple[int, dict[str, str]]:
    """Bring an asset from its origin to `target`, which appears whole and verified or not at all.

    Parameters
    ----------
    asset : Asset
        Pins the size and at least one hash.
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
    waiting : callable
        Called with a reason while nothing comes.
    spare : threading.Semaphore, optional
        Counts the connections that may be opened beside the first.
    piece : int
        Bytes of a piece; what is missing is cut into pieces when it is longer.
    tries : int
        How often wrong bytes are accepted as an accident. With 1 they are not kept either.

    Returns
    -------
    received : int
        Bytes that came from the origin; 0 when another process brought them meanwhile.
    found : dict
        The hashes of the file.

    Raises
    ------
    HashMismatchError
        If the bytes are wrong, and as often as there are `tries`.
    UnreachableError
        If the origin gives no bytes however often it is asked.
    """
    if asset.size is None:
        raise ValueError(f"the size of {asset.path} is not known")

    def pause() -> None:
        waiting("another process brings it")
        if stop.wait(LOCK_POLL):
            raise Stopped

    target.parent.mkdir(parents=True, exist_ok=True)
    with open_part(part_path(asset, target), asset.size, pause) as part:
        if target.exists() and target.stat().st_size == asset.size:
            found = digests_of(target, asset)
            if not conflict(asset, found):
                part.discard()
                return 0, found
        received, wrong = 0, None
        offered = False
        for attempt in range(tries):
            if attempt and not offered:
                part.join()
            filling = _Filling(part, asset, origin, retry, stop, report, waiting, spare, piece)
            found, wrong = filling.run()
            received += filling.received
            offered = filling.offered
            if wrong is None:
                _backdate(part)
                part.finish(target)
                return received, found
        where = "" if offered else _put_aside(part, target, tries > 1)
        raise HashMismatchError(
            f"expected {asset.size} bytes with {pin_of(asset)}, found {wrong}"
            f"{', twice' * (tries > 1)}{where}; the file was changed at its origin, "
            "or the manifest is wrong."
        )


def _put_aside(part: Part, target: Path, keep: bool) -> str:
    """Keep wrong bytes for whoever looks into it, and return a clause that says where."""
    if not keep or os.fstat(part.fd).st_size == 0:
        part.discard()
        return ""
    bad = target.with_name(f"{target.name}.bad")
    part.move(bad)
    return f" (kept as {bad})"


def _backdate(part: Part) -> None:
    """Give the file a time in the past: whoever writes to it later gives it another.

    What is known of a finished file is believed while its time and size are the same
    (`spikedata.cache`); a change within one tick of the file system's clock must not escape.
    """
    moment = time.time() - BACKDATE
    os.utime(part.path, (moment, moment))


class _Filling:
    """One attempt to complete a part, from whatever it has."""

    def __init__(
        self,
        part: Part,
        asset: Asset,
        origin: Origin,
        retry: Retry,
        stop: threading.Event,
        report: Callable[[int], None],
        waiting: Callable[[str], None],
        spare: threading.Semaphore | None,
        piece: int,
    ):
        self._waiting = waiting
        self._part, self._asset, self._origin = part, asset, origin
        self._retry, self._stop, self._report = retry, stop, report
        self._spare, self._length = spare, piece
        self._todo: deque[Piece] = deque()
        self._halt = threading.Event()  # one connection failed: the others end too
        self._failure: Exception | None = None
        self._guard = threading.Lock()
        self._inline: Inline | None = None
        self.received = 0
        self.offered = False  # whether wrong bytes were no more than offered

    def run(self) -> tuple[dict[str, str], str | None]:
        """Return the hashes of the whole part and, if it is not the asset, what it is."""
        part = self._part
        if part.size - part.here > self._length and self._spare and self._origin.in_pieces:
            part.split(self._length)
        hasher = Follower(part, self._asset) if part.size > self._length else None
        small = hasher is None and part.here == 0
        self._inline = Inline(part, self._asset) if small else None
        found = None
        try:
            try:
                self._fill()
            except _NotInPiecesError:
                part.join()
                self._fill()
        except WrongBytesError as error:
            self.offered = isinstance(error, WrongOfferError)
            return {}, str(error)
        finally:
            if hasher is not None:
                found = hasher.finish()
            elif self._inline is not None:
                found = self._inline.finish()
        found = found or digests_of(part.path, self._asset)
        return found, conflict(self._asset, found)

    # -------------------------------------------------------------- connections

    def _fill(self) -> None:
        """Bring all missing pieces, over this connection and as many more as are free."""
        self._todo = deque(self._part.missing)
        self._failure = None
        self._halt.clear()
        helpers: list[threading.Thread] = []
        try:
            while self._todo:
                if self._ended():
                    raise Stopped
                if len(self._todo) > 1 and self._spare and self._spare.acquire(blocking=False):
                    helpers.append(threading.Thread(target=self._help, daemon=True))
                    helpers[-1].start()
                else:
                    self._bring(self._todo.popleft())
        except IndexError:  # a helper took the last piece
            pass
        except Exception:
            self._halt.set()
            raise
        finally:
            for helper in helpers:
                helper.join()
            if self._failure is not None:
                raise self._failure
        if self._part.missing:  # a helper was told to stop
            raise Stopped

    def _help(self) -> None:
        try:
            while not self._ended():
                self._bring(self._todo.popleft())
        except (IndexError, Stopped):
            pass
        except Exception as error:  # for the thread that waits for this one
            self._failure = self._failure or error
            self._halt.set()
        finally:
            assert self._spare is not None
            self._spare.release()

    def _ended(self) -> bool:
        return self._stop.is_set() or self._halt.is_set()

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._stop.wait(min(left, STOP_POLL))
            if self._ended():
                raise Stopped

    # -------------------------------------------------------------- one piece

    def _bring(self, piece: Piece) -> None:
        """Complete a piece, however often that takes."""
        failures, best = 0, piece.at
        while piece.at < piece.end:
            try:
                self._read(piece)
                if piece.at < piece.end:
                    raise TransientError(
                        f"the body ended after {piece.at} of {self._part.size} bytes"
                    )
            except TransientError as error:
                failures = 0 if piece.at > best else failures + 1
                if error.restart and failures > 1:  # once may be a slip of the server
                    self._part.restart(piece)
                best = max(piece.at, best)
                if failures >= self._retry.attempts:
                    raise UnreachableError(
                        f"{failures} attempts in a row failed, the last because {error}; "
                        f"{self._part.here} of {self._part.size} bytes are kept: "
                        "run it again to go on."
                    ) from None
                seconds = self._retry.delay(failures, error.wait)
                self._waiting(f"asked again in {seconds:.0f} s: {error}")
                self._pause(seconds)

    def _read(self, piece: Piece) -> None:
        """Make one request and write what comes."""
        part, in_order = self._part, self._part.in_order
        with self._origin.open(piece.at, None if in_order else piece.end) as (start, chunks):
            if start != piece.at:
                if not in_order:
                    raise _NotInPiecesError
                part.restart(piece)
            for chunk in chunks:
                over = len(chunk) - (piece.end - piece.at)
                if over > 0 and in_order:
                    raise WrongBytesError(f"at least {piece.at + len(chunk)} bytes")
                part.write(piece, chunk)
                if self._inline is not None:
                    self._inline.update(chunk)
                with self._guard:
                    self.received += len(chunk)
                    self._report(part.here)
                if self._ended():
                    raise Stopped
                if over > 0:  # of the next piece: the server ignores where this one ends
                    return
