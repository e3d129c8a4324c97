"""Hashes a part while its bytes come, so that little is left to do when the last one is here."""

from __future__ import annotations

import os
import threading

from spikedata.digests import BLOCK, Digests
from spikedata.manifest import Asset
from spikedata.part import Part

__all__ = ["Follower", "Inline"]

HASH_POLL = 0.02  # seconds
FLUSH_EVERY = 16 << 20  # bytes


def _start_writing(fd: int, offset: int, length: int) -> None:
    """Let the system begin to write bytes to the disk, so that the sync at the end is short."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


class Inline:
    """Hashes a small asset as it comes, which spares reading it again."""

    def __init__(self, part: Part, asset: Asset):
        self._part, self._digests, self._restarts = part, Digests(asset), part.restarts

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._digests.update(chunk)

    def finish(self) -> dict[str, str] | None:
        """Return the hashes of the whole part, None if it was begun anew."""
        return self._digests.found() if self._part.restarts == self._restarts else None


class Follower(threading.Thread):
    """Hashes a part while it grows, so that little is left to do at its end."""

    def __init__(self, part: Part, asset: Asset):
        super().__init__(daemon=True)
        self._part, self._digests = part, Digests(asset)
        self._restarts = part.restarts
        self._at = self._flushed = 0
        self._last = threading.Event()
        self.start()

    def run(self) -> None:
        """Follow the part to its end."""
        while not (self._last.is_set() and self._part.missing):
            last = self._last.is_set()
            while self._at < (here := self._part.prefix):
                block = os.pread(self._part.fd, min(BLOCK, here - self._at), self._at)
                given_up = self._last.is_set() and self._part.missing
                if not block or given_up or self._part.restarts != self._restarts:
                    return
                self._digests.update(block)
                self._at += len(block)
                if self._at - self._flushed >= FLUSH_EVERY:
                    begin, self._flushed = self._flushed, self._at
                    _start_writing(self._part.fd, begin, self._at - begin)
            if last or self._at == self._part.size:
                return
            self._last.wait(HASH_POLL)

    def finish(self) -> dict[str, str] | None:
        """Return the hashes of the whole part, None if it is not whole or was begun anew."""
        self._last.set()
        self.join()
        whole = self._at == self._part.size and self._part.restarts == self._restarts
        return self._digests.found() if whole else None
