"""A stand-in on loopback for the DANDI API, its store, Zenodo, and a plain file server.

It answers as the real ones do (listing with paging, a redirect to a presigned address, Range,
HTML errors, a store that refuses a second credential; see `tests.archive`) and misbehaves when
told to::

    with Loopback() as server:
        server.add("000001", "0.250101.0000", "sub-1/a.nwb", b"...")
        server.inject("store", cut=100)  # the next answer of the store ends after 100 bytes
        ...
        server.log  # every request, in order
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from spikedata.bring import FetchResult, fetch_asset
from spikedata.cache import asset_path
from spikedata.manifest import Asset, Dataset, HttpsSource, Manifest, Source
from spikedata.transfer import Retry, part_path
from tests.archive import NOT_FOUND, Answer, Holdings, Place, RemoteAsset, Request, digests, in_xml

__all__ = [
    "QUICK",
    "Fault",
    "Loopback",
    "RemoteAsset",
    "Seen",
    "fetch_raising",
    "files_in",
    "manifest_of",
    "only",
    "part_of",
    "pin",
]

PLACES: dict[Place, str] = {"api": "/api", "store": "", "files": "", "zenodo": "/api"}
BINARY = "application/octet-stream"


def pin(path: str, data: bytes, asset_id: str | None = None) -> Asset:
    """Return the asset that pins these bytes; its session is the name without the suffix."""
    digest = hashlib.sha256(data).hexdigest()
    session = re.sub(r"[^A-Za-z0-9]+", "_", path.rpartition("/")[2].partition(".")[0]).strip("_")
    return Asset(path=path, size=len(data), sha256=digest, session=session, asset_id=asset_id)


def manifest_of(source: Source, *assets: Asset) -> Manifest:
    """Return a manifest of one dataset, ``data``."""
    dataset = Dataset(
        id="data", title="Data", licence="CC0-1.0", citation="Nobody", source=source, assets=assets
    )
    return Manifest(name="trial", title="Trial", datasets=(dataset,))


def files_in(folder: Path) -> list[str]:
    """Return the names of all files in and below a folder, but for citations and records."""
    return sorted(
        path.name
        for path in folder.rglob("*")
        if path.is_file() and path.stem.lower() != "citations" and "verified" not in path.parts
    )


@dataclass
class Fault:
    """One way to misbehave, for as many answers as `times` says (None: for ever).

    `flip` counts from the start of the file, `cut`, `reset` and `hang` from that of the body.
    """

    place: Place
    times: int | None = 1
    match: str = ""  # only where the path with its query contains this
    status: int | None = None  # answer with this status
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"<html><body>no</body></html>"
    expire: bool = False  # first let all addresses given so far expire
    stall: float | None = None  # seconds of silence before the answer
    cut: int | None = None  # close after so many bytes of the body
    reset: int | None = None  # the same, with a TCP reset
    hang: tuple[int, float] | None = None  # so many bytes, then seconds of silence, then close
    drip: tuple[int, float] | None = None  # bytes at a time, and seconds between
    flip: int | None = None  # one wrong byte, at this offset of the file
    no_range: bool = False  # answer 200 with all of it to a Range request
    content_range: str | None = None  # lie about it
    replace: bytes | None = None  # serve this file instead
    no_length: bool = False  # do not say how long the body is
    duplicate: bool = False  # a listing gives the results of the page before once more


@dataclass(frozen=True)
class Seen:
    """A request, and the status that it was answered with."""

    place: Place
    path: str
    range: str | None
    authorization: str | None
    status: int
    method: str = "GET"


class Loopback(Holdings):
    """Four servers on 127.0.0.1, each on a port of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[Seen] = []
        self._servers: dict[Place, ThreadingHTTPServer] = {}

    def __enter__(self) -> Loopback:
        for place in PLACES:
            handler = type("Handler", (_Handler,), {"loopback": self, "place": place})
            server = _Server(("127.0.0.1", 0), handler)
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            self._servers[place] = server
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def url(self, place: Place) -> str:
        """Return the address of a server."""
        return f"http://127.0.0.1:{self._servers[place].server_address[1]}{PLACES[place]}"

    def serve(self, *paths: str, data: bytes) -> Manifest:
        """Put files on the plain file server and return the manifest that pins them."""
        self.files.update({f"/data/{path}": data for path in paths})
        source = HttpsSource(kind="https", url=self.url("files") + "/data/")
        return manifest_of(source, *(pin(path, data) for path in paths))

    def plain(self, request: Request) -> Answer | bytes:
        """Answer as a plain file server does."""
        data = self.files.get(request.path)
        return Answer(404, NOT_FOUND) if data is None else data

    def inject(self, place: Place, **how: object) -> None:
        """Misbehave in the next answers of a server."""
        self.faults.append(Fault(place, **how))  # type: ignore[arg-type]

    def ranges(self, place: Place) -> list[str | None]:
        """Return the Range header of each request to a server."""
        return [seen.range for seen in self.log if seen.place == place]

    def take_fault(self, place: Place, target: str) -> Fault:
        """Return the fault for this answer; most often one that does nothing."""
        with self.lock:
            for fault in self.faults:
                if fault.place == place and fault.match in target and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return Fault(place)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients hang up in many of these tests."""


class _Handler(BaseHTTPRequestHandler):
    loopback: Loopback
    place: Place
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body that follows its headers may wait for 40 ms

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        request = Request(self.command, self.path, self.headers)
        fault = self.fault = self.loopback.take_fault(self.place, self.path)
        if fault.stall is not None:
            time.sleep(fault.stall)
        if fault.expire:
            self.loopback.expire()
        if fault.status is not None:
            return self.send(Answer(fault.status, fault.body, headers=fault.headers))
        found = self.ask(request)
        if fault.duplicate and isinstance(found, Answer):
            found = self.repeat(request, found)
        return self.send(found if isinstance(found, Answer) else self.file(request, found))

    def ask(self, request: Request) -> Answer | bytes:
        """Return what a server that works says: an answer, or the bytes of a file."""
        server = self.loopback
        known = {
            "api": server.api,
            "store": server.store,
            "files": server.plain,
            "zenodo": server.zenodo,
        }
        return known[self.place](request)

    # -------------------------------------------------------------- how it is said, and missaid

    def repeat(self, request: Request, answer: Answer) -> Answer:
        """Return a page of a listing with the results of the page before it."""
        page = request.query.get("page", "1")
        if not (page.isdecimal() and int(page) > 1 and answer.status == 200):
            return answer
        before = self.ask(replace(request, target=request.with_query(page=int(page) - 1)))
        assert isinstance(before, Answer)
        content = json.loads(answer.body) | {"results": json.loads(before.body)["results"]}
        return replace(answer, body=json.dumps(content).encode())

    def file(self, request: Request, data: bytes) -> Answer:
        """Return a file, or the part of it that was asked for."""
        fault, asked = self.fault, request.headers
        data = data if fault.replace is None else fault.replace
        headers = {"Accept-Ranges": "bytes", "ETag": _etag(data)}
        if asked.get("If-Match", "*") not in ("*", headers["ETag"]):
            return in_xml(412, "PreconditionFailed", "The ETag is another")
        span = None if fault.no_range else _span(asked.get("Range", ""), len(data))
        if asked.get("If-Range", headers["ETag"]) != headers["ETag"]:
            span = None
        start, end = span or (0, len(data))
        if start >= len(data) and span:
            headers = {"Content-Range": f"bytes */{len(data)}"}
            return in_xml(416, "InvalidRange", "The range is not satisfiable", **headers)
        body = data[start:end] if span else data
        if fault.flip is not None and start <= fault.flip < end:
            wrong = bytearray(body)
            wrong[fault.flip - start] ^= 1
            body = bytes(wrong)
        if span is None:
            return Answer(200, body, BINARY, headers)
        headers["Content-Range"] = fault.content_range or f"bytes {start}-{end - 1}/{len(data)}"
        return Answer(206, body, BINARY, headers)

    def send(self, answer: Answer) -> None:
        """Send an answer, or as much of it as the fault lets through."""
        seen = Seen(
            self.place,
            self.path,
            self.headers["Range"],
            self.headers["Authorization"],
            answer.status,
            self.command,
        )
        self.loopback.log.append(seen)
        fault, body = self.fault, answer.body
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        if fault.no_length:
            self.close_connection = True  # the end of the connection is the end of the body
        else:
            self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        ends = (fault.cut, fault.reset, None if fault.hang is None else fault.hang[0])
        end = next((one for one in ends if one is not None), None)
        self.write(memoryview(body)[:end])
        if fault.hang is not None:
            time.sleep(fault.hang[1])
        if fault.reset is not None:
            # Closing with a linger of zero seconds sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if end is not None:
            self.close_connection = True

    def write(self, body: memoryview) -> None:
        if self.fault.drip is None:
            self.wfile.write(body)
            return
        size, pause = self.fault.drip
        for offset in range(0, len(body), size):
            self.wfile.write(body[offset : offset + size])
            time.sleep(pause)


@lru_cache(maxsize=512)
def _etag(data: bytes) -> str:
    return f'"{digests(data)["dandi:dandi-etag"]}"'


def _span(asked: str, size: int) -> tuple[int, int] | None:
    """Return the bounds that a Range header asks for; None for all of it, or for nonsense."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
    if match is None or match.groups() == ("", ""):
        return None
    if not match[1]:
        return max(size - int(match[2]), 0), size
    start, end = int(match[1]), int(match[2] or size) + (match[2] != "")
    return None if end <= start and match[2] else (start, min(end, size))


QUICK = Retry(attempts=4, base=0.001)
"""Retries without the waiting."""


def only(results: list[FetchResult]) -> FetchResult:
    """Return the one result of a fetch of one asset."""
    (result,) = results
    return result


def part_of(manifest: Manifest, cache: Path) -> Path:
    """Return where the unfinished bytes of a manifest's one asset lie."""
    ((dataset, asset),) = manifest.items()
    return part_path(asset, asset_path(cache, dataset, asset))


def fetch_raising(manifest: Manifest, cache: Path) -> FetchResult:
    """Fetch the one asset of a manifest, raising what `fetch` would report."""
    ((dataset, asset),) = manifest.items()
    return fetch_asset(manifest, dataset, asset, cache, retry=QUICK)
