"""A loopback archive for bench_fetch.py: the stand-in's API, and a store that sends from files.

python benchmarks/archive_server.py FOLDER [--rate MB/s]   # prints its addresses, then serves
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.archive import RemoteAsset
from tests.loopback import Loopback

DANDISET, VERSION = "000999", "0.260101.0000"
CHUNK = 1 << 20  # bytes sent before others get their turn of a limited rate


@dataclass(frozen=True)
class FileAsset(RemoteAsset):
    """An asset whose bytes stay in a file; its digests are computed once."""

    known: dict[str, str] | None = None

    def record(self, *, metadata: bool) -> dict:
        """Return the record of the listing."""
        record = super().record(metadata=False)
        if metadata:
            record["metadata"] = {
                "schemaKey": "Asset", "identifier": self.asset_id, "path": self.path,
                "contentSize": len(self.data), "contentUrl": list(self.urls),
                "digest": self.known, "encodingFormat": "application/x-nwb",
            }  # fmt: skip
        return record


class Sized(bytes):
    """No bytes, with a length: the store sends the file itself."""

    length: int

    def __len__(self) -> int:
        return self.length


class Store(BaseHTTPRequestHandler):
    """Sends files with sendfile, honouring Range, over connections that stay open."""

    protocol_version = "HTTP/1.1"
    folder: Path
    rate: float | None = None
    guard = threading.Lock()
    due = 0.0

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Send a file or a range of it."""
        path = self.folder / unquote(urlsplit(self.path).path).rpartition("/")[2]
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, size) if asked and asked[2] else size
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(end - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        self.wfile.flush()
        with path.open("rb") as file:
            step = CHUNK if self.rate else end - start
            for offset in range(start, end, step or 1):
                self.wait(min(step, end - offset))
                self.connection.sendfile(file, offset, min(step, end - offset))

    def wait(self, count: int) -> None:
        """Keep all connections together below the rate."""
        if self.rate:
            with Store.guard:
                begin = max(Store.due, time.monotonic())
                Store.due = begin + count / self.rate
            time.sleep(max(0.0, begin - time.monotonic()))


class Server(ThreadingHTTPServer):
    """A quiet server: clients hang up when they have what they wanted."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Answer small requests at once."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().process_request(request, client_address)


def main() -> None:
    """Serve the files of a folder as the assets of one dandiset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=float, help="MB/s of all connections together")
    given = parser.parse_args()
    Store.folder, Store.rate = given.folder, given.rate and given.rate * 1e6
    server = Server(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    known = json.loads((given.folder / "digests.json").read_text())
    with Loopback() as archive:
        archive.url = lambda place, plain=archive.url: (  # type: ignore[method-assign]
            address if place == "store" else plain(place)
        )
        for number, (name, about) in enumerate(sorted(known.items())):
            data = Sized()
            data.length = about["size"]
            asset_id = about["asset_id"]
            urls = (f"{archive.url('api')}/assets/{asset_id}/download/", f"{address}/blobs/{name}")
            archive.assets[asset_id] = FileAsset(
                asset_id, DANDISET, VERSION, f"sub-1/{name}", data, name, None, number, urls,
                about["digests"],
            )  # fmt: skip
        print(json.dumps({"api": archive.url("api"), "store": address}), flush=True)
        sys.stdin.read()  # until the benchmark is done


def describe(folder: Path) -> None:
    """Write down the digests of a folder's files, for `main`."""
    from dandischema.digests.dandietag import DandiETag

    known = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:  # in blocks: a child's peak memory begins with its parent's
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        known[path.name] = {
            "size": path.stat().st_size,
            "asset_id": str(uuid.uuid4()),
            "digests": {
                "dandi:sha2-256": sha256,
                "dandi:dandi-etag": DandiETag.from_file(path).as_str(),
            },
        }
    (folder / "digests.json").write_text(json.dumps(known))


if __name__ == "__main__":
    main()
