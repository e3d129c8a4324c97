"""A stand-in on loopback for the DANDI API, its store, and a plain file server.

It answers as the real ones do (listing with paging, a redirect to a presigned address, Range,
HTML errors, a store that refuses a second credential) and misbehaves when told to::

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
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from spikedata.fetch import FetchResult, asset_path, fetch_asset
from spikedata.manifest import Asset, Dataset, HttpsSource, Manifest, Source
from spikedata.transfer import Retry, part_path

Place = Literal["api", "store", "files"]

NOT_FOUND = b"<!doctype html><html><body><h1>Not Found</h1></body></html>"


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
    """Return the names of all files in and below a folder."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@dataclass
class Fault:
    """One way to misbehave, for as many answers as `times` says (None: for ever)."""

    place: Place
    times: int | None = 1
    match: str = ""  # only where the path contains this
    status: int | None = None  # answer with this status
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"<html><body>no</body></html>"
    cut: int | None = None  # close after so many bytes of the body
    reset: int | None = None  # the same, with a TCP reset
    flip: int | None = None  # one wrong byte, at this offset of the file
    stall: float | None = None  # seconds of silence before the body
    drip: tuple[int, float] | None = None  # bytes at a time, and seconds between
    no_range: bool = False  # answer 200 with all of it to a Range request
    content_range: str | None = None  # lie about it
    replace: bytes | None = None  # serve this file instead
    no_length: bool = False  # do not say how long the body is


@dataclass(frozen=True)
class Seen:
    """A request, and the status that it was answered with."""

    place: Place
    path: str
    range: str | None
    authorization: str | None
    status: int


@dataclass(frozen=True)
class RemoteAsset:
    """An asset as the archive knows it."""

    asset_id: str
    dandiset: str
    version: str
    path: str
    data: bytes
    blob: str

    def record(self, *, metadata: bool) -> dict:
        """Return the record of the listing."""
        moment = "2025-01-22T17:35:00Z"
        record = {
            "asset_id": self.asset_id,
            "blob": self.blob,
            "zarr": None,
            "path": self.path,
            "size": len(self.data),
            "created": moment,
            "modified": moment,
        }
        if metadata:
            digest = {"dandi:sha2-256": hashlib.sha256(self.data).hexdigest()}
            record["metadata"] = {
                "path": self.path,
                "contentSize": len(self.data),
                "digest": digest,
            }
        return record


class Loopback:
    """Three servers on 127.0.0.1, each on a port of its own."""

    def __init__(self) -> None:
        self.assets: dict[str, RemoteAsset] = {}
        self.files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[Seen] = []
        self.page_size = 100
        self.signatures: set[str] = set()
        self.lock = threading.Lock()
        self._servers: dict[Place, ThreadingHTTPServer] = {}

    def __enter__(self) -> Loopback:
        for place in ("api", "store", "files"):
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
        port = self._servers[place].server_address[1]
        return f"http://127.0.0.1:{port}" + {"api": "/api", "store": "", "files": ""}[place]

    def add(self, dandiset: str, version: str, path: str, data: bytes) -> RemoteAsset:
        """Publish an asset, in the place of the one at that path."""
        for old in list(self.assets.values()):
            if (old.dandiset, old.version, old.path) == (dandiset, version, path):
                del self.assets[old.asset_id]
        asset = RemoteAsset(str(uuid.uuid4()), dandiset, version, path, data, str(uuid.uuid4()))
        self.assets[asset.asset_id] = asset
        return asset

    def serve(self, *paths: str, data: bytes) -> Manifest:
        """Put files on the plain file server and return the manifest that pins them."""
        self.files.update({f"/data/{path}": data for path in paths})
        source = HttpsSource(kind="https", url=self.url("files") + "/data/")
        return manifest_of(source, *(pin(path, data) for path in paths))

    def inject(self, place: Place, **how: object) -> None:
        """Misbehave in the next answers of a server."""
        self.faults.append(Fault(place, **how))  # type: ignore[arg-type]

    def expire(self) -> None:
        """Let all addresses given so far expire."""
        self.signatures.clear()

    def ranges(self, place: Place) -> list[str | None]:
        """Return the Range header of each request to a server."""
        return [seen.range for seen in self.log if seen.place == place]

    def take_fault(self, place: Place, path: str) -> Fault:
        """Return the fault for this answer; most often one that does nothing."""
        with self.lock:
            for fault in self.faults:
                if fault.place == place and fault.match in path and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return Fault(place)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients hang up in many of these tests."""


class _Handler(BaseHTTPRequestHandler):
    loopback: Loopback
    place: Place
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        self.fault = self.loopback.take_fault(self.place, path)
        if self.fault.stall is not None:
            time.sleep(self.fault.stall)
        if self.fault.status is not None:
            self.answer(self.fault.status, self.fault.body, "text/html", self.fault.headers)
        elif self.place == "api":
            self.api(path, query)
        elif self.place == "store":
            self.store(path, query)
        elif path in self.loopback.files:
            self.file(self.loopback.files[path])
        else:
            self.answer(404, NOT_FOUND, "text/html")

    # -------------------------------------------------------------- what each server knows

    def api(self, path: str, query: dict[str, list[str]]) -> None:
        match = re.fullmatch(
            r"/api/dandisets/(\d{6})/versions/([\d.]+|draft)/assets/(?:([0-9a-f-]{36})/(\w+/)?)?",
            path,
        )
        if match is None:
            return self.answer(404, NOT_FOUND, "text/html")
        dandiset, version, asset_id, verb = match.groups()
        within = [
            asset
            for asset in self.loopback.assets.values()
            if (asset.dandiset, asset.version) == (dandiset, version)
        ]
        if not within:
            return self.json(404, {"detail": "Not found."})
        if asset_id is None:
            return self.listing(within, query)
        asset = next((one for one in within if one.asset_id == asset_id), None)
        if asset is None:
            return self.json(404, {"detail": "No Asset matches the given query."})
        if verb == "info/":
            return self.json(200, asset.record(metadata=True))
        if verb == "download/":
            signature = uuid.uuid4().hex
            self.loopback.signatures.add(signature)
            blob = f"blobs/{asset.blob[:3]}/{asset.blob[3:6]}/{asset.blob}"
            place = f"{self.loopback.url('store')}/{blob}?X-Amz-Signature={signature}"
            return self.answer(302, b"", "text/html", {"Location": place})
        return self.json(200, asset.record(metadata=True)["metadata"])

    def listing(self, assets: list[RemoteAsset], query: dict[str, list[str]]) -> None:
        prefix = query.get("path", [""])[0].lower()
        assets = [asset for asset in assets if asset.path.lower().startswith(prefix)]
        page = int(query.get("page", ["1"])[0])
        size = int(query.get("page_size", [str(self.loopback.page_size)])[0])
        here = assets[(page - 1) * size : page * size]
        address = f"{self.loopback.url('api')}{self.path.partition('?')[0].removeprefix('/api')}"
        more = f"{address}?page={page + 1}&page_size={size}" if page * size < len(assets) else None
        metadata = query.get("metadata", ["false"])[0] == "true"
        self.json(
            200,
            {
                "count": len(assets) if page == 1 else None,
                "next": more,
                "previous": None,
                "results": [asset.record(metadata=metadata) for asset in here],
            },
        )

    def store(self, path: str, query: dict[str, list[str]]) -> None:
        if "Authorization" in self.headers:
            message = b"<Error><Code>InvalidArgument</Code>Only one auth mechanism allowed</Error>"
            return self.answer(400, message, "application/xml")
        signature = query.get("X-Amz-Signature", [""])[0]
        if signature not in self.loopback.signatures:
            message = b"<Error><Code>AccessDenied</Code>Request has expired</Error>"
            return self.answer(403, message, "application/xml")
        blob = path.rpartition("/")[2]
        found = [asset for asset in self.loopback.assets.values() if asset.blob == blob]
        if not found:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>", "application/xml")
        return self.file(found[0].data)

    # -------------------------------------------------------------- how it is sent

    def file(self, data: bytes) -> None:
        fault = self.fault
        if fault.replace is not None:
            data = fault.replace
        if fault.flip is not None:
            data = bytes(byte ^ (index == fault.flip) for index, byte in enumerate(data))
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked is None or fault.no_range:
            return self.answer(200, data, "application/octet-stream")
        start = int(asked[1])
        if start >= len(data):
            return self.answer(416, b"", "text/html", {"Content-Range": f"bytes */{len(data)}"})
        found = fault.content_range or f"bytes {start}-{len(data) - 1}/{len(data)}"
        headers = {"Content-Range": found}
        return self.answer(206, data[start:], "application/octet-stream", headers)

    def json(self, status: int, content: object) -> None:
        self.answer(status, json.dumps(content).encode(), "application/json")

    def answer(
        self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        seen = Seen(
            self.place, self.path, self.headers["Range"], self.headers["Authorization"], status
        )
        self.loopback.log.append(seen)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if self.fault.no_length:
            self.close_connection = True  # the end of the connection is the end of the body
        else:
            self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        fault = self.fault
        end = fault.cut if fault.cut is not None else fault.reset
        body = body if end is None else body[:end]
        if fault.drip is not None:
            size, pause = fault.drip
            for offset in range(0, len(body), size):
                self.wfile.write(body[offset : offset + size])
                time.sleep(pause)
        else:
            self.wfile.write(body)
        if fault.reset is not None:
            # Closing with a linger of zero seconds sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if end is not None:
            self.close_connection = True


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
