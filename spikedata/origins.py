"""Where the bytes of an asset come from: a file or a server, read from any offset."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urljoin, urlsplit

from spikedata.connections import Connections
from spikedata.errors import FetchError
from spikedata.manifest import without_secrets

if TYPE_CHECKING:
    import requests
    from urllib3 import BaseHTTPResponse

__all__ = [
    "FileOrigin",
    "HttpOrigin",
    "Listed",
    "Listing",
    "Origin",
    "TransientError",
    "WrongBytesError",
    "WrongOfferError",
    "file_below",
    "host_of",
    "raise_if_transient",
    "read_json",
    "retry_after",
    "understood",
    "url_below",
]

CHUNK = 1 << 20  # bytes asked for at once; of a connection, as many as have come
RETRY_STATUSES = (429, 500, 502, 503, 504)
LONGEST_ANSWER = 64 << 20  # bytes; a page of 1000 assets has a few million


class TransientError(Exception):
    """An attempt failed in a way that another one may not.

    ``wait`` is what the server asked for, in seconds. With ``restart`` what is in the part
    cannot be continued.
    """

    def __init__(self, message: str, *, wait: float = 0.0, restart: bool = False):
        super().__init__(message)
        self.wait = wait
        self.restart = restart


class WrongBytesError(Exception):
    """The origin gave other bytes than the pinned ones; the message says what was found."""


class WrongOfferError(WrongBytesError):
    """The origin says so itself, before the first byte: what is here is untouched."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as its archive lists it; what the archive does not say is None."""

    path: str
    size: int
    sha256: str | None = None
    md5: str | None = None
    etag: str | None = None
    asset_id: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One version of an archive's holding: its `version` (a Zenodo record's number) and files."""

    version: str
    title: str
    licence: str
    citation: str
    doi: str | None
    files: tuple[Listed, ...]


class Origin(Protocol):
    """Something that the bytes of one asset can be read from."""

    in_pieces: bool
    """Whether several pieces may be read at a time, with a gain."""

    def open(
        self, offset: int, end: int | None = None
    ) -> AbstractContextManager[tuple[int, Iterator[bytes]]]:
        """Give the offset at which the bytes begin (`offset`, or 0) and the bytes.

        They may go on beyond `end`.
        """
        ...


class FileOrigin:
    """A file on this machine."""

    in_pieces = False

    def __init__(self, path: Path, size: int):
        self._path = path
        self._size = size

    @contextmanager
    def open(self, offset: int, end: int | None = None) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Read the file from `offset`."""
        with self._path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != self._size:
                raise WrongOfferError(f"{size} bytes in {self._path}")
            file.seek(offset)
            yield offset, iter(lambda: file.read(CHUNK), b"")


class HttpOrigin:
    """A file on a server.

    Parameters
    ----------
    locate : callable
        Gives the address; called again when the server no longer accepts the one it gave.
    size : int
        The pinned size in bytes.
    connections : Connections
        Over which it is asked for.
    timeout : float
        Seconds without a byte after which an attempt has failed.
    presigned : bool
        Whether the address is a permission that expires.
    check : callable, optional
        Called with every answer that has bytes and the host's name before they are read; it may
        refuse them.
    """

    in_pieces = True

    def __init__(
        self,
        locate: Callable[[], str],
        size: int,
        connections: Connections,
        *,
        timeout: float,
        presigned: bool = False,
        check: Callable[[BaseHTTPResponse, str], None] = lambda reply, host: None,
    ):
        self._check = check
        self._locate = locate
        self._size = size
        self._connections = connections
        self._timeout = timeout
        self._presigned = presigned
        self._url: str | None = None
        self._guard = threading.Lock()

    @contextmanager
    def open(self, offset: int, end: int | None = None) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Ask for the bytes from `offset`."""
        from urllib3.exceptions import HTTPError

        with self._guard:  # several pieces begin at once: one of them asks
            self._url = url = self._url or self._locate()
        headers = {"Accept-Encoding": "identity"}  # a compressed body has other offsets
        if offset or end:
            headers["Range"] = f"bytes={offset}-{end - 1 if end else ''}"
        try:
            reply = self._connections.get(url, headers, self._timeout)
            try:
                begin = self._begin(reply, offset, url)
                self._check(reply, host_of(urljoin(url, reply.geturl() or "")))
                yield begin, _body(reply, self._size)
            finally:
                reply.close()
        except (HTTPError, ValueError) as error:
            raise_if_transient(error, self._timeout)
            raise FetchError(
                f"{host_of(url)} cannot be asked: {_plain(error)}; check the address."
            ) from None

    def _begin(self, reply: BaseHTTPResponse, offset: int, asked: str) -> int:
        """Return the offset of the first byte of the body, or say why there are no bytes."""
        url = urljoin(asked, reply.geturl() or "")
        status, host = reply.status, host_of(url)
        if status == 206:
            found = reply.headers.get("Content-Range", "")
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", found.strip())
            if match is None or int(match[1]) != offset:
                raise TransientError(
                    f"{host} was asked for bytes from {offset} and gave '{found}'", restart=True
                )
            if match[2] not in ("*", str(self._size)):
                raise WrongOfferError(f"{match[2]} bytes at {host}")
            return offset
        if status == 200:
            length = reply.headers.get("Content-Length", "")
            encoded = "Content-Encoding" in reply.headers
            if length.isdecimal() and int(length) != self._size and not encoded:
                kind = reply.headers.get("Content-Type", "unnamed type")
                raise WrongOfferError(f"{length} bytes of {kind} at {host}")
            return 0
        if status == 416:
            match = re.fullmatch(r"bytes \*/(\d+)", reply.headers.get("Content-Range", "").strip())
            if match is not None and int(match[1]) != self._size:
                raise WrongOfferError(f"{match[1]} bytes at {host}")
            raise TransientError(f"{host} does not go on from byte {offset}", restart=True)
        if self._presigned and status in (400, 403):
            with self._guard:
                if self._url == asked:
                    self._url = None  # the next attempt asks for another
            raise TransientError(f"{host} no longer accepts the address it was asked at ({status})")
        if status in RETRY_STATUSES:
            raise TransientError(
                f"{host} answered {status} {reply.reason}", wait=retry_after(reply.headers)
            )
        raise FetchError(
            f"{host} answered {status} {reply.reason} to {without_secrets(url)}; "
            "check the address in the manifest."
        )


def url_below(base: str, path: str) -> str:
    """Return the address of a file below another address, whose query it keeps.

    Examples
    --------
    >>> url_below("https://lab.org/data/?key=1", "a b/c#1.nwb")
    'https://lab.org/data/a%20b/c%231.nwb?key=1'
    """
    folder, mark, query = base.partition("?")
    return f"{folder.rstrip('/')}/{quote(path)}{mark}{query}"


def file_below(root: Path, path: str) -> Path:
    """Return the file at a path below a folder of this machine.

    Raises
    ------
    FetchError
        If there is none, or the path leads out of the folder.
    """
    root = root.resolve()
    file = (root / path).resolve()
    if not file.is_relative_to(root):
        raise FetchError(f"{root / path} leads out of {root}, to {file}; move the file there.")
    if not file.is_file():
        raise FetchError(
            f"there is no file {file}; name the folder that has it with --from-folder, put it "
            "there, or correct `root` or `path`."
        )
    return file


def host_of(url: str | None) -> str:
    """Return the host and port of an address, fit for a message."""
    try:
        return urlsplit(url or "").netloc.rpartition("@")[2] or "the server"
    except ValueError:  # no address at all
        return "the server"


def read_json(reply: requests.Response, who: object) -> dict:
    """Return the JSON object in the body of an archive's answer; close the answer.

    Raises
    ------
    FetchError
        If it is none, or is longer than any that an archive has to give.
    """
    body = b""
    with reply:
        for chunk in reply.iter_content(1 << 16):
            body += chunk
            if len(body) > LONGEST_ANSWER:
                raise FetchError(f"{who} answered with more than {LONGEST_ANSWER >> 20} MiB.")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise FetchError(f"{who} did not answer in JSON; is its address that of such an API?")
    return content


@contextmanager
def understood(who: object) -> Iterator[None]:
    """Say that an archive's answer has another shape than the one that is read."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FetchError(f"{who} answered in a shape that is not known: {error}.") from None


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to be left alone, 0 if it does not."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def raise_if_transient(error: Exception, timeout: float) -> None:
    """Raise a `TransientError` if the request may succeed when it is made again."""
    import urllib3.exceptions as lower
    from requests import exceptions

    refused = isinstance(error, lower.NewConnectionError)  # which urllib3 takes for a timeout
    if isinstance(error, (exceptions.Timeout, lower.TimeoutError)) and not refused:
        raise TransientError(f"no byte came for {timeout:g} s") from None
    kinds = (exceptions.ConnectionError, exceptions.ChunkedEncodingError)
    lower_kinds = (lower.ProtocolError, lower.SSLError, lower.DecodeError, lower.ProxyError)
    if refused or isinstance(error, (*kinds, exceptions.ContentDecodingError, *lower_kinds)):
        raise TransientError(f"the connection failed ({_plain(error)})") from None


def _body(reply: BaseHTTPResponse, size: int) -> Iterator[bytes]:
    """Yield the body as it comes, however little: what came before a break is not lost."""
    stored = reply.headers.get("Content-Length") == str(size)  # so: some servers call a .gz encoded
    encoded = "Content-Encoding" in reply.headers and not stored
    while chunk := reply.read1(CHUNK, decode_content=encoded):
        yield chunk


def _plain(error: Exception) -> str:
    """Return the innermost reason, without the address: it may hold a signature."""
    inner = error.args[0] if error.args else error
    inner = getattr(inner, "reason", None) or inner
    text = re.sub(r"\?\S*", "?…", str(inner)).strip("()")
    text = text.rsplit(": ", 1)[-1]
    return text + ")" * (text.count("(") - text.count(")")) or type(error).__name__
