"""A file on a server as an open file: read where it is asked for, by range requests, and not kept.

What is read cannot be hashed, for most of it never comes. Instead every answer must be of one
file: of the pinned size, with the ETag of the first answer, and for DANDI with the pinned one.
"""

from __future__ import annotations

import io
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from spikedata.archives import open_archive
from spikedata.connections import Connections
from spikedata.errors import FetchError, HashMismatchError, UnreachableError
from spikedata.manifest import Asset, Dataset, HttpsSource
from spikedata.origins import HttpOrigin, TransientError, WrongBytesError, url_below
from spikedata.transfer import Retry, retrying

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = ["RemoteFile", "open_remote"]

BLOCK = 256 << 10  # bytes: the metadata of HDF5 lies in pieces of some kB, scattered
MOST_BLOCKS = 256  # kept at a time, 64 MiB
DIRECT = 2 << 20  # bytes: as many at once go past the blocks, into the memory of whoever reads
MOST_AHEAD = 16  # blocks, 4 MiB: HDF5 reads an array that it converts by 1 MiB


class RemoteFile(io.RawIOBase):
    """A file on a server, open for reading by one thread.

    A read returns all bytes that were asked for, up to the end of the file. After the first error
    every read raises it again. Whoever reads through another library uses it in a ``with``
    statement: at its end the first error is raised, whatever became of it on the way.

    Parameters
    ----------
    address : str or callable
        The address, or what gives one; called again when the server no longer accepts it.
    size : int
        The pinned size in bytes.
    name : str
        What the file is called in messages, and to those who look at the suffix.
    etag : str, optional
        The pinned ETag, without quotation marks.
    connections : Connections
        Over which it is read; they stay open.
    presigned : bool
        Whether the address is a permission that expires.
    retry : Retry, optional
        When to ask again and when to give up.

    Attributes
    ----------
    name, etag : str
        As given.
    bytes_read : int
        Bytes that came from the server.
    """

    def __init__(
        self,
        address: str | Callable[[], str],
        size: int,
        *,
        name: str,
        connections: Connections,
        etag: str | None = None,
        presigned: bool = False,
        retry: Retry | None = None,
    ):
        super().__init__()
        self.name, self.etag, self.bytes_read = name, etag, 0
        self._size, self._retry = size, retry or Retry()
        self._origin = HttpOrigin(
            address if callable(address) else lambda: address,
            size,
            connections,
            timeout=self._retry.timeout,
            presigned=presigned,
            check=self._check,
        )
        self._at = 0
        self._asked = (0, 0)  # the bounds of the request that is being answered
        self._version: tuple[str, str] | None = None  # of the file, as the first answer states it
        self._blocks: OrderedDict[int, bytes] = OrderedDict()  # the one used last comes last
        self._follows = -1  # the block at which the last request ended
        self._ahead = 0  # blocks
        self._error: BaseException | None = None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the file; raise the first error of a read, if there was one.

        No circle of errors and tracebacks is left: h5py's objects would stay in it until they are
        collected in some other thread, or after libhdf5 is gone, which crashes.
        """
        first = self._error
        self.close()
        try:
            if first is not None and first is not error:
                _forget(error, first)
                raise first from None
        finally:
            del first, error

    def close(self) -> None:
        """Forget what was read."""
        self._blocks.clear()
        self._error = None  # its traceback leads here
        super().close()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to an offset from the start, from here or from the end, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"offset {base + offset} lies before the start of {self.name}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, as far as the file goes, and return the number of bytes.

        Raises
        ------
        HashMismatchError
            If the server has another file than the pinned one, or changes it meanwhile.
        UnreachableError
            If every attempt failed.
        FetchError
            If the server refuses, or gives whole files only.
        """
        if self.closed:
            raise ValueError(f"{self.name} is closed")
        if self._error is not None:
            raise self._error
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        try:
            self._read(self._at, view[:count])
        except BaseException as error:  # h5py may lose it, Ctrl-C too: `__exit__` does not
            self._error = error
            raise
        self._at += count
        return count

    # -------------------------------------------------------------- blocks

    def _read(self, begin: int, view: memoryview) -> None:
        """Fill `view` with the bytes from `begin`, out of the blocks or from the server."""
        at, end = begin, begin + len(view)
        while at < end:
            number = at // BLOCK
            block = self._blocks.get(number)
            if block is not None:
                self._blocks.move_to_end(number)
                piece = block[at % BLOCK : at % BLOCK + end - at]
                view[at - begin : at - begin + len(piece)] = piece
                at += len(piece)
                continue
            last = self._first_known(number, -(-end // BLOCK))
            stop = min(end, last * BLOCK)
            if stop - at < DIRECT:
                self._bring(number, last)
                continue
            self._fetch(at, view[at - begin : stop - begin])
            self._follows, at = stop // BLOCK, stop

    def _first_known(self, number: int, last: int) -> int:
        """Return the first block from `number` on that is here, at most `last`."""
        return next((one for one in range(number, last) if one in self._blocks), last)

    def _bring(self, first: int, last: int) -> None:
        """Bring blocks, and some more after them when they follow those brought before."""
        self._ahead = min(max(1, 2 * self._ahead), MOST_AHEAD) if first == self._follows else 0
        last = self._first_known(first, min(last + self._ahead, -(-self._size // BLOCK)))
        content = memoryview(bytearray(min(last * BLOCK, self._size) - first * BLOCK))
        self._fetch(first * BLOCK, content)
        for number in range(first, last):
            start = (number - first) * BLOCK
            self._blocks[number] = bytes(content[start : start + BLOCK])
        while len(self._blocks) > MOST_BLOCKS:
            self._blocks.popitem(last=False)
        self._follows = last

    # -------------------------------------------------------------- requests

    def _fetch(self, begin: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `begin`, however often that takes to ask."""
        filled = failures = 0
        while filled < len(target):
            before = filled
            self._asked = begin + filled, begin + len(target)
            try:
                with self._origin.open(*self._asked) as (_, chunks):
                    for chunk in chunks:
                        if len(chunk) > len(target) - filled:
                            raise TransientError("the body is longer than what was asked for")
                        target[filled : filled + len(chunk)] = chunk
                        filled += len(chunk)
                        self.bytes_read += len(chunk)
                if filled < len(target):
                    raise TransientError(f"the body ended after {filled} of {len(target)} bytes")
            except TransientError as error:
                failures = 0 if filled > before else failures + 1
                if failures >= self._retry.attempts:
                    raise UnreachableError(
                        f"{failures} attempts in a row failed, the last because {error}; "
                        "run it again later."
                    ) from None
                time.sleep(self._retry.delay(failures, error.wait))
            except WrongBytesError as error:
                raise HashMismatchError(
                    f"expected {self._size} bytes, found {error}; the file was changed at its "
                    "origin, or the manifest is wrong."
                ) from None

    def _check(self, reply: BaseHTTPResponse, host: str) -> None:
        """Raise unless an answer is a part of the same file as the others, as asked for."""
        encoding = reply.headers.get("Content-Encoding", "identity")
        if reply.status != 206 or encoding != "identity":
            how = f"in {encoding}" if reply.status == 206 else f"with status {reply.status}"
            raise FetchError(
                f"{host} answered a request for a part of the file {how}, so it cannot be "
                "streamed; run `spikedata fetch` instead, then ingest without --stream."
            )
        found = reply.headers.get("Content-Range", "").strip()
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", found)
        if match is None or int(match[3]) != self._size or int(match[2]) >= self._asked[1]:
            begin, end = self._asked
            raise TransientError(
                f"{host} was asked for bytes {begin}-{end - 1} of {self._size} and gave '{found}'"
            )
        etag = reply.headers.get("ETag", "")
        if self.etag is not None and etag.removeprefix("W/").strip('"') != self.etag:
            raise HashMismatchError(
                f"expected ETag {self.etag}, found {etag or 'none'} at {host}; the file was "
                "changed at its origin, or the manifest is wrong."
            )
        version = (etag, "" if etag else reply.headers.get("Last-Modified", ""))
        if self._version is not None and version != self._version:
            raise HashMismatchError(
                f"{host} changed the file while it was read (it had {_named(self._version)}, it "
                f"has {_named(version)}); run it again."
            )
        self._version = version


def _forget(error: BaseException | None, first: BaseException) -> None:
    """Let an error, and those that led to it back to the first, hold no values any more."""
    while error is not None and error is not first:
        clear_frames(error.__traceback__)
        cause = error.__cause__ or error.__context__
        error.__cause__ = error.__context__ = None
        error = cause
    clear_frames(first.__traceback__)


def _named(version: tuple[str, str]) -> str:
    etag, modified = version
    return f"ETag {etag}" if etag else f"the date '{modified}'" if modified else "no ETag"


# ------------------------------------------------------------------ assets


@contextmanager
def open_remote(
    dataset: Dataset, asset: Asset, *, retry: Retry | None = None
) -> Iterator[tuple[Asset, RemoteFile]]:
    """Open an asset where it is published. At the end the first error of a read is raised.

    Parameters
    ----------
    dataset, asset : Dataset, Asset
        What the manifest says; the source of the dataset is a server or an archive.
    retry : Retry, optional
        When to ask again and when to give up.

    Yields
    ------
    asset : Asset
        With the size and hash that the archive states, where the manifest pins none.
    file : RemoteFile
        The file; nothing of it has been read.

    Raises
    ------
    HashMismatchError
        If the archive or the server has another file than the pinned one.
    FetchError
        If the asset cannot be had.
    """
    retry, source = retry or Retry(), dataset.source
    archive = open_archive(source, timeout=retry.timeout)
    connections = Connections(credentials=archive is None)
    try:
        if archive is not None:
            found = retrying(lambda: archive.find(asset), retry, Event())
            asset = asset if asset.is_pinned else found
            address: str | Callable[[], str] = lambda: archive.locate(found)  # noqa: E731
        elif isinstance(source, HttpsSource):
            address = url_below(source.url, asset.path)
        else:
            raise FetchError(f"a source of kind '{source.kind}' is on no server.")
        with RemoteFile(
            address, asset.size or 0, name=asset.path, connections=connections, retry=retry,
            etag=asset.etag if source.kind == "dandi" else None,
            presigned=archive is not None and archive.presigned,
        ) as file:  # fmt: skip
            yield asset, file
    finally:
        if archive is not None:
            archive.close()
        connections.close()
