"""What the stand-ins of the DANDI API, its store and Zenodo know, and what they answer.

Nothing here opens a socket or misbehaves: `tests.loopback` does both.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

Place = Literal["api", "store", "files", "zenodo"]

PART_SIZE = 64 << 20  # bytes of a part in a dandi-etag
PAGE_SIZE_MAX = 1000
SIGNATURE_LASTS = 21600  # seconds: six hours
NO_CREDENTIALS = "Authentication credentials were not provided."
NOT_FOUND = b"<!doctype html><html><body><h1>Not Found</h1></body></html>"

_DANDISET = r"/api/dandisets/(?P<dandiset>\d{6})"
_VERSION = r"/versions/(?P<version>draft|\d+\.\d+\.\d+)"
_ASSET = r"/(?P<asset>[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})"
ROUTES = {
    "info": r"/api/info/",
    "token": r"/api/auth/token/",
    "dandiset": rf"{_DANDISET}/",
    "versions": rf"{_DANDISET}/versions/",
    "metadata": rf"{_DANDISET}{_VERSION}/",
    "version_info": rf"{_DANDISET}{_VERSION}/info/",
    "listing": rf"{_DANDISET}{_VERSION}/assets/",
    "asset": rf"(?:{_DANDISET}{_VERSION}|/api)/assets{_ASSET}/(?:(?P<verb>info|download)/)?",
}
"""The paths that the API knows; all others, also those of a malformed UUID, it answers in HTML."""


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    target: str  # the path with its query, as it was sent
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The path without the query, decoded."""
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        """The last value of each parameter."""
        parts = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return {name: values[-1] for name, values in parts.items()}

    def with_query(self, **changes: object) -> str:
        """Return the target with some parameters changed, or left out where None."""
        query = {**self.query, **changes}
        text = urlencode(sorted((name, one) for name, one in query.items() if one is not None))
        return urlsplit(self.target).path + (f"?{text}" if text else "")


@dataclass(frozen=True)
class Answer:
    """A status, a body and headers."""

    status: int
    body: bytes = b""
    kind: str = "text/html"
    headers: Mapping[str, str] = field(default_factory=dict)


def in_json(status: int, content: object, **headers: str) -> Answer:
    """Return an answer in JSON."""
    return Answer(status, json.dumps(content).encode(), "application/json", headers)


def in_xml(status: int, code: str, message: str, **headers: str) -> Answer:
    """Return an error as object stores give it."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, text.encode(), "application/xml", headers)


@lru_cache(maxsize=512)
def digests(data: bytes) -> dict[str, str]:
    """Return the digests that the archive lists for a file."""
    size = max(PART_SIZE, math.ceil(len(data) / 10_000))
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    whole = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts))
    return {
        "dandi:sha2-256": hashlib.sha256(data).hexdigest(),
        "dandi:dandi-etag": f"{whole.hexdigest()}-{len(parts)}",
    }


# ------------------------------------------------------------------ what is held


@dataclass(frozen=True)
class RemoteAsset:
    """An asset as the archive knows it."""

    asset_id: str
    dandiset: str
    version: str
    path: str
    data: bytes
    blob: str | None  # None for a Zarr
    zarr: str | None = None
    number: int = 0  # in the order of creation
    urls: tuple[str, ...] = ()  # the address at the API, and the one in the store

    def record(self, *, metadata: bool) -> dict:
        """Return the record of the listing."""
        moment = _moment(self.number)
        record = {
            "asset_id": self.asset_id,
            "blob": self.blob,
            "zarr": self.zarr,
            "path": self.path,
            "size": len(self.data),
            "created": moment,
            "modified": moment,
        }
        if metadata:
            record["metadata"] = {
                "schemaKey": "Asset",
                "schemaVersion": "0.7.0",
                "id": f"dandiasset:{self.asset_id}",
                "identifier": self.asset_id,
                "path": self.path,
                "contentSize": len(self.data),
                "contentUrl": list(self.urls),
                "digest": {} if self.zarr else digests(self.data),
                "encodingFormat": "application/x-nwb",
                "blobDateModified": moment,
            }
        return record


@dataclass(frozen=True)
class RemoteRecord:
    """A Zenodo record; `newest` is the id of the newest version of the same work."""

    record: str
    files: dict[str, bytes]
    newest: str


class Holdings:
    """Everything published on the stand-ins.

    Attributes
    ----------
    page_size : int
        What the listing takes if a request names none, or nonsense.
    tokens : set of str or None
        The keys that the API accepts; None: any.
    embargoed : set of str
        Dandisets that only those with a key may see.
    open_bucket : bool
        Whether the store gives what is not embargoed to requests without a signature.
    """

    def __init__(self) -> None:
        self.assets: dict[str, RemoteAsset] = {}
        self.records: dict[str, RemoteRecord] = {}
        self.page_size = 100
        self.tokens: set[str] | None = None
        self.embargoed: set[str] = set()
        self.open_bucket = False
        self.described: dict[tuple[str, str], dict] = {}
        self.signed: dict[tuple[str, frozenset], bool] = {}  # addresses given: still good?
        self.lock = threading.Lock()
        self._added = 0

    def url(self, place: Place) -> str:
        """Return the address of a server."""
        raise NotImplementedError

    def add(
        self, dandiset: str, version: str, path: str, data: bytes, *, zarr: bool = False
    ) -> RemoteAsset:
        """Publish an asset, in the place of the one at that path."""
        for old in list(self.assets.values()):
            if (old.dandiset, old.version, old.path) == (dandiset, version, path):
                del self.assets[old.asset_id]
        asset_id, blob = str(uuid.uuid4()), None
        place = f"zarr/{asset_id}/"
        if not zarr:
            same = (one.blob for one in self.assets.values() if one.blob and one.data == data)
            blob = next(same, None) or str(uuid.uuid4())
            place = f"blobs/{blob[:3]}/{blob[3:6]}/{blob}"
        asset = RemoteAsset(
            asset_id,
            dandiset,
            version,
            path,
            data,
            blob,
            str(uuid.uuid4()) if zarr else None,
            self._added,
            (f"{self.url('api')}/assets/{asset_id}/download/", f"{self.url('store')}/{place}"),
        )
        self._added += 1
        self.assets[asset_id] = asset
        return asset

    def describe(self, dandiset: str, version: str, **metadata: object) -> None:
        """Change the metadata of a version, such as its name, license, citation and doi."""
        self.described.setdefault((dandiset, version), {}).update(metadata)

    def add_record(self, record: str, files: dict[str, bytes], newest: str | None = None) -> None:
        """Publish a Zenodo record, of which `newest` is the newest version (else it is itself)."""
        self.records[record] = RemoteRecord(record, files, newest or record)

    def expire(self) -> None:
        """Let all addresses given so far expire."""
        with self.lock:
            self.signed = dict.fromkeys(self.signed, False)

    # -------------------------------------------------------------- the API of the archive

    def api(self, request: Request) -> Answer | bytes:
        """Answer as the API does."""
        for name, pattern in ROUTES.items():
            match = re.fullmatch(pattern, request.path)
            if match is not None:
                return self._refusal(request, match.groupdict()) or getattr(self, f"_{name}")(
                    request, **match.groupdict()
                )
            if re.fullmatch(pattern, f"{request.path}/"):
                path, mark, query = request.target.partition("?")
                return Answer(301, headers={"Location": f"{path}/{mark}{query}"})
        return Answer(404, NOT_FOUND)

    def _refusal(self, request: Request, asked: Mapping[str, str | None]) -> Answer | None:
        """Return why this is not for whoever asks, or not there; None if it is."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        has_token = kind.lower() == "token"
        if has_token and self.tokens is not None and token not in self.tokens:
            return in_json(401, {"detail": "Invalid token."})
        dandiset, version, asset_id = (asked.get(one) for one in ("dandiset", "version", "asset"))
        if asset_id and not dandiset and asset_id in self.assets:
            dandiset = self.assets[asset_id].dandiset
        if dandiset and not self._within(dandiset):
            return in_json(404, {"detail": "No Dandiset matches the given query."})
        if dandiset in self.embargoed and not has_token:
            return in_json(401, {"detail": NO_CREDENTIALS})
        if version not in (None, "draft") and not self._within(dandiset, version):
            return in_json(404, {"detail": "No Version matches the given query."})
        return None

    def _within(self, dandiset: str | None, version: str | None = None) -> list[RemoteAsset]:
        return [
            asset
            for asset in list(self.assets.values())
            if asset.dandiset == dandiset and version in (None, asset.version)
        ]

    def _info(self, request: Request) -> Answer:
        return in_json(
            200,
            {
                "schema_version": "0.7.0",
                "schema_url": f"{self.url('api')}/schema?model=Dandiset",
                "version": "0.15.0",
                "cli-minimal-version": "0.74.0",
                "cli-bad-versions": [],
                "services": {
                    "api": {"url": self.url("api")},
                    "webui": {"url": self.url("files")},
                    "jupyterhub": {"url": self.url("files")},
                },
            },
        )

    def _token(self, request: Request) -> Answer:
        token = request.headers.get("Authorization", "").partition(" ")[2]
        return in_json(200, token) if token else in_json(401, {"detail": NO_CREDENTIALS})

    def _dandiset(self, request: Request, dandiset: str) -> Answer:
        return in_json(200, self._dandiset_record(dandiset))

    def _dandiset_record(self, dandiset: str) -> dict:
        versions = [self._version_record(dandiset, one) for one in self._versions_of(dandiset)]
        published = [one for one in versions if one["version"] != "draft"]
        return {
            "identifier": dandiset,
            "created": _moment(),
            "modified": _moment(),
            "contact_person": "Somebody",
            "embargo_status": "EMBARGOED" if dandiset in self.embargoed else "OPEN",
            "most_recent_published_version": published[-1] if published else None,
            "draft_version": versions[0],
        }

    def _versions(self, request: Request, dandiset: str) -> Answer:
        records = [self._version_record(dandiset, one) for one in self._versions_of(dandiset)]
        return self._page(request, records)

    def _versions_of(self, dandiset: str) -> list[str]:
        """Return the names of all versions: the draft, which there always is, and then by age."""
        found = {asset.version for asset in self._within(dandiset)} - {"draft"}
        return ["draft", *sorted(found)]

    def _version_record(self, dandiset: str, version: str) -> dict:
        assets = self._within(dandiset, version)
        return {
            "version": version,
            "name": self._about(dandiset, version)["name"],
            "asset_count": len(assets),
            "size": sum(len(asset.data) for asset in assets),
            "created": _moment(),
            "modified": _moment(),
            "status": "Valid" if version == "draft" else "Published",
        }

    def _about(self, dandiset: str, version: str) -> dict:
        name = f"Dandiset {dandiset}"
        is_draft = version == "draft"
        doi = "10.80507/dandi.123456/0.123456.1234"  # what drafts show in place of one
        about = {
            "schemaKey": "Dandiset",
            "schemaVersion": "0.7.0",
            "id": f"DANDI:{dandiset}/{version}",
            "identifier": f"DANDI:{dandiset}",
            "name": name,
            "version": version,
            "license": ["spdx:CC-BY-4.0"],
            "contributor": [{"schemaKey": "Person", "name": "Body, Some"}],
            "assetsSummary": {
                "numberOfFiles": len(self._within(dandiset, version)),
                "numberOfBytes": sum(len(one.data) for one in self._within(dandiset, version)),
            },
            "doi": doi if is_draft else f"10.48324/dandi.{dandiset}/{version}",
        }
        about["citation"] = (
            f"Body, Some (2025) {name} (Version {version}) [Data set]. DANDI archive. "
            f"https://doi.org/{about['doi']}"
        )
        return about | self.described.get((dandiset, version), {})

    def _metadata(self, request: Request, dandiset: str, version: str) -> Answer:
        return in_json(200, self._about(dandiset, version))

    def _version_info(self, request: Request, dandiset: str, version: str) -> Answer:
        more = {
            "dandiset": self._dandiset_record(dandiset),
            "metadata": self._about(dandiset, version),
            "asset_validation_errors": [],
            "version_validation_errors": [],
        }
        return in_json(200, self._version_record(dandiset, version) | more)

    def _listing(self, request: Request, dandiset: str, version: str) -> Answer:
        query = request.query
        prefix, glob = query.get("path", ""), query.get("glob", "*")
        pattern = re.escape(glob).replace(r"\*", ".*")  # no other sign has a meaning
        found = [
            asset
            for asset in self._within(dandiset, version)
            if asset.path.lower().startswith(prefix.lower())
            and re.fullmatch(pattern, asset.path, re.IGNORECASE | re.DOTALL)
            and not (asset.zarr and query.get("zarr", "").lower() == "false")
        ]
        order = query.get("order", "created")
        key = "path" if order.lstrip("-") == "path" else "number"
        found.sort(key=lambda asset: getattr(asset, key), reverse=order.startswith("-"))
        metadata = query.get("metadata", "").lower() == "true"
        return self._page(request, [asset.record(metadata=metadata) for asset in found])

    def _page(self, request: Request, records: list[dict]) -> Answer:
        """Return one page of records, counted on the first one only."""
        asked = request.query.get("page_size", "")
        size = int(asked) if asked.isascii() and asked.isdecimal() else 0
        size = min(size, PAGE_SIZE_MAX) or self.page_size
        text = request.query.get("page", "1")
        if not (text.isascii() and text.isdecimal() and int(text) >= 1):
            return in_json(404, {"detail": "Invalid page."})
        page = int(text)
        site = self.url("api").removesuffix("/api")
        more, less = (
            request.with_query(page=page + 1),
            request.with_query(page=page - 1 if page > 2 else None),
        )
        return in_json(
            200,
            {
                "count": len(records) if page == 1 else None,
                "next": site + more if page * size < len(records) else None,
                "previous": site + less if page > 1 else None,
                "results": records[(page - 1) * size : page * size],
            },
        )

    def _asset(
        self,
        request: Request,
        asset: str,
        verb: str | None,
        dandiset: str | None,
        version: str | None,
    ) -> Answer:
        found = self.assets.get(asset)
        if found is None or (dandiset and (found.dandiset, found.version) != (dandiset, version)):
            return in_json(404, {"detail": "No Asset matches the given query."})
        if verb == "download":
            if found.zarr:
                return in_json(400, "Unable to provide download link for zarr assets.")
            disposition = request.query.get("content_disposition", "attachment")
            return Answer(302, headers={"Location": self._sign(found, disposition)})
        record = found.record(metadata=True)
        return in_json(200, record if verb == "info" else record["metadata"])

    # -------------------------------------------------------------- the object store

    def _sign(self, asset: RemoteAsset, disposition: str) -> str:
        """Return an address of an asset in the store that is its own permission."""
        name = quote(asset.path.rpartition("/")[2])
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Date": f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}",
            "X-Amz-Expires": str(SIGNATURE_LASTS),
            "X-Amz-SignedHeaders": "host",
            "response-content-disposition": f'{disposition}; filename="{name}"',
            "X-Amz-Signature": uuid.uuid4().hex * 2,
        }
        address = asset.urls[1]
        with self.lock:
            self.signed[urlsplit(address).path, frozenset(query.items())] = True
        return f"{address}?{urlencode(query, quote_via=quote)}"

    def store(self, request: Request) -> Answer | bytes:
        """Answer as the store does: for one permission, and not for two."""
        if "Authorization" in request.headers:
            return in_xml(400, "InvalidArgument", "Only one auth mechanism allowed")
        held = [one for one in list(self.assets.values()) if request.path == _path(one.urls[1])]
        query = request.query
        if "X-Amz-Signature" in query:
            good = self.signed.get((request.path, frozenset(query.items())))
            if good is None or request.method != "GET":  # the signature covers the method too
                return in_xml(403, "SignatureDoesNotMatch", "The signature does not match")
            if not good:
                return in_xml(403, "AccessDenied", "Request has expired")
        elif not self.open_bucket or any(one.dandiset in self.embargoed for one in held):
            return in_xml(403, "AccessDenied", "Access Denied")
        if not held:
            return in_xml(404, "NoSuchKey", "The specified key does not exist.")
        return held[0].data

    # -------------------------------------------------------------- Zenodo

    def zenodo(self, request: Request) -> Answer | bytes:
        """Answer as Zenodo does."""
        match = re.fullmatch(
            r"/api/records/(\d+)(?:/files/(?P<name>.+)/content|(?P<latest>/versions/latest))?",
            request.path,
        )
        if match is None:
            return Answer(404, NOT_FOUND)
        record = self.records.get(match[1])
        if record is not None and match["latest"]:
            record = self.records.get(record.newest)
        if record is None:
            return in_json(404, {"status": 404, "message": "The persistent identifier is unknown."})
        if not match["name"]:
            return in_json(200, self._record(record))
        if match["name"] not in record.files:
            return in_json(404, {"status": 404, "message": "No such file."})
        return record.files[match["name"]]

    def _record(self, record: RemoteRecord) -> dict:
        address, doi = self.url("zenodo") + "/records", f"10.5281/zenodo.{record.record}"
        here = f"{address}/{record.record}"
        return {
            "id": int(record.record),
            "doi": doi,
            "metadata": {
                "title": f"Record {record.record}",
                "license": {"id": "cc-by-4.0"},
                "creators": [{"name": "Body, Some"}],
                "publication_date": "2025-01-22",
                "doi": doi,
            },
            "files": [
                {
                    "key": name,
                    "size": len(data),
                    "checksum": f"md5:{hashlib.md5(data).hexdigest()}",
                    "links": {"self": f"{here}/files/{quote(name)}/content"},
                }
                for name, data in record.files.items()
            ],
            "links": {"self": here, "latest": f"{address}/{record.newest}"},
        }


def _moment(seconds: int = 0) -> str:
    moment = datetime(2025, 1, 22, 17, 35, tzinfo=UTC) + timedelta(seconds=seconds)
    return moment.isoformat().replace("+00:00", "Z")


def _path(address: str) -> str:
    return urlsplit(address).path
