"""Carry one recording between a store and a far end, so that neither shows a half of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from spikedata.errors import FormatVersionError, IntegrityError, StoreError
from spikedata.far import CHUNK, AbsentError, FarEnd
from spikedata.files import write_whole
from spikedata.layout import HEADER, RecordingHeader, parse_header
from spikedata.store import Store

__all__ = ["Offer", "Tell", "bring", "far_offer", "header_there", "near_offer", "send"]

MOST_HEADER = 16 << 20  # bytes of a recording.json; real ones have a few kB
TRIES = 2  # of a recording, each from a fresh recording.json

Tell = Callable[[int], None]
"""Called with the bytes of a recording that are copied; raises when the caller wants no more."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A recording as its ``recording.json`` describes it."""

    header: RecordingHeader
    content: bytes

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return len(self.content) + sum(one.size for one in self.header.files.values())


# ------------------------------------------------------------------ here


def bring(store: Store, far: FarEnd, offer: Offer, tell: Tell) -> None:
    """Copy a recording here, once more from the start if it was replaced meanwhile."""
    recording_id = offer.header.recording_id
    for left in reversed(range(TRIES)):
        tell(0)
        try:
            _receive(store, far, offer, tell)
            return
        except FormatVersionError:
            raise
        except StoreError:  # other bytes, or a server that did not answer
            if not left:
                raise
        try:
            fresh = far_offer(far, recording_id)
        except AbsentError:
            raise StoreError(
                f"{recording_id} is being replaced at {far.name}, or was removed; pull it again "
                "when it is there."
            ) from None
        if fresh.size > offer.size:
            raise StoreError(f"{recording_id} was replaced by a larger one; pull it again.")
        offer = fresh


def _receive(store: Store, far: FarEnd, offer: Offer, tell: Tell) -> None:
    """Write the files that come into a hidden folder, and put it in place once they are right."""
    recording_id, done = offer.header.recording_id, 0
    with store.receive(recording_id) as folder:
        for name, entry in offer.header.files.items():
            digest, count = hashlib.sha256(), 0
            with (folder / name).open("xb") as file:
                for chunk in far.read(recording_id, name):
                    count += len(chunk)
                    if count > entry.size:
                        raise IntegrityError(
                            f"{recording_id}: {name} at {far.name} has more than the {entry.size} "
                            f"bytes that {HEADER} says; put a whole one there."
                        )
                    digest.update(chunk)
                    file.write(chunk)
                    tell(done + count)
                file.flush()
                os.fsync(file.fileno())
            _compare(recording_id, name, f"at {far.name}", offer, count, digest.hexdigest())
            done += count
        write_whole(folder / HEADER, offer.content)
        tell(offer.size)


def _compare(
    recording_id: str, name: str, where: str, offer: Offer, size: int, sha256: str
) -> None:
    entry = offer.header.files[name]
    if (size, sha256) != (entry.size, entry.sha256):
        raise IntegrityError(
            f"{recording_id}: {name} {where} has {size} bytes and sha256 {sha256}, {HEADER} says "
            f"{entry.size} and {entry.sha256}; put a whole one there. Nothing of it was kept."
        )


def far_offer(far: FarEnd, recording_id: str) -> Offer:
    """Return what the far end says of a recording; refuse what no store could have written."""
    content = b""
    for chunk in far.read(recording_id, HEADER):
        content += chunk
        if len(content) > MOST_HEADER:
            raise IntegrityError(
                f"{recording_id}: {HEADER} at {far.name} has more than {MOST_HEADER} bytes; it is "
                "no header of a recording."
            )
    header = parse_header(content, recording_id, f"{far.name}/{recording_id}", "Push it again.")
    for name, entry in header.files.items():
        if entry.size < 0 or name.lower() == HEADER:
            raise IntegrityError(
                f"{recording_id}: {HEADER} at {far.name} lists {name} with {entry.size} bytes, "
                "which cannot be. Push it again."
            )
    return Offer(header, content)


# ------------------------------------------------------------------ there


def send(store: Store, far: FarEnd, recording_id: str, tell: Tell) -> None:
    """Copy a recording to the far end, where it is no recording until all of it is there."""
    store.verify(recording_id)  # before anything there is touched
    offer, old = near_offer(store, recording_id), header_there(far, recording_id)
    far.remove(recording_id, HEADER)
    done = 0
    for name, entry in offer.header.files.items():
        far.write(recording_id, name, _hashed(store, offer, name, lambda n, at=done: tell(at + n)))
        done += entry.size
    far.write(recording_id, HEADER, [offer.content])
    tell(offer.size)
    for name in sorted(old.files.keys() - offer.header.files.keys()) if old is not None else ():
        far.remove(recording_id, name)


def _hashed(store: Store, offer: Offer, name: str, tell: Tell) -> Iterator[bytes]:
    """Yield the bytes of a file; raise at the end if they are not those that were written."""
    recording_id, digest, count = offer.header.recording_id, hashlib.sha256(), 0
    with (store.path / recording_id / name).open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            count += len(chunk)
            yield chunk
            tell(count)
    _compare(recording_id, name, f"in {store.path}", offer, count, digest.hexdigest())


def near_offer(store: Store, recording_id: str) -> Offer:
    """Return what a store says of a recording; no file is missing or has another size."""
    store.header(recording_id)
    folder = store.path / recording_id
    content = (folder / HEADER).read_bytes()
    return Offer(parse_header(content, recording_id, str(folder)), content)


def header_there(far: FarEnd, recording_id: str) -> RecordingHeader | None:
    """Return the header that the far end has, None if it has none that is whole."""
    try:
        return far_offer(far, recording_id).header
    except (AbsentError, IntegrityError):
        return None
