"""What spikedata knows of Zenodo: the files of a record, which never changes, and their MD5."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote

from spikedata.digests import agree
from spikedata.errors import FetchError
from spikedata.manifest import Asset, ZenodoSource
from spikedata.origins import (
    RETRY_STATUSES,
    Listed,
    Listing,
    TransientError,
    host_of,
    raise_if_transient,
    read_json,
    retry_after,
    understood,
)

if TYPE_CHECKING:
    import requests

__all__ = ["Zenodo"]

PUBLIC = "https://zenodo.org/api"


class Zenodo:
    """One record of Zenodo, or of another server with its API.

    Parameters
    ----------
    source : ZenodoSource
        The record, and the API if it is not the public one.
    timeout : float
        Seconds without an answer after which an attempt has failed.
    """

    presigned = False

    def __init__(self, source: ZenodoSource, *, timeout: float = 30.0):
        self._source = source
        self._api = (source.api_url or PUBLIC).rstrip("/")
        self._timeout = timeout
        self._guard = threading.Lock()
        self._session: requests.Session | None = None
        self._listed: dict[str, Listed] | None = None

    def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            self._session.close()

    def list_ahead(self) -> None:
        """Ask for the record, which has all files.

        Raises
        ------
        FetchError, TransientError
            As `find`.
        """
        with self._guard:
            if self._listed is None:
                self._listed = {one.path: one for one in self._read(self._source.record).files}

    def find(self, asset: Asset) -> Asset:
        """Return an asset with the size and MD5 that the record states; its pins must agree.

        Raises
        ------
        HashMismatchError
            If the record states another size or MD5.
        FetchError
            If the record has no such file, or there is no such record.
        TransientError
            If another attempt may succeed.
        """
        self.list_ahead()
        listed = (self._listed or {}).get(asset.path)
        if listed is None:
            raise FetchError(f"{self} has no file {asset.path}; check the path and the record.")
        agree(asset, listed, str(self))
        found = asset.model_copy(update={"size": listed.size, "md5": asset.md5 or listed.md5})
        if not found.is_pinned:
            raise FetchError(f"{self} states no MD5 of {asset.path}; pin one in the manifest.")
        return found

    def locate(self, asset: Asset) -> str:
        """Return the address of the bytes of an asset."""
        return f"{self._api}/records/{self._source.record}/files/{quote(asset.path)}/content"

    def newest(self) -> Listing:
        """Return the newest version of the record.

        Raises
        ------
        FetchError
            If there is no such record.
        TransientError
            If another attempt may succeed.
        """
        return self._read(f"{self._source.record}/versions/latest")

    def _read(self, which: str) -> Listing:
        """Ask for a record once."""
        body = self._get(f"{self._api}/records/{which}")
        with understood(self):
            about = body.get("metadata") or {}
            names = "; ".join(str(one.get("name")) for one in about.get("creators") or [])
            title = str(about.get("title") or "")
            doi = body.get("doi") or about.get("doi")
            year = str(about.get("publication_date") or "")[:4]
            return Listing(
                version=str(body.get("id") or self._source.record),
                title=title,
                licence=_spdx(str((about.get("license") or {}).get("id") or "")),
                citation=f"{names} ({year}) {title} [Data set]. Zenodo. https://doi.org/{doi}",
                doi=doi,
                files=tuple(_listed(one) for one in body.get("files") or []),
            )

    def _get(self, url: str) -> dict:
        import requests

        if self._session is None:
            self._session = requests.Session()
            self._session.auth = lambda request: request  # open data: no password of ~/.netrc
        try:
            reply = self._session.get(url, timeout=self._timeout, stream=True)
            if not reply.ok:
                reply.close()
            if reply.status_code in RETRY_STATUSES:
                raise TransientError(
                    f"{self} answered {reply.status_code} {reply.reason}",
                    wait=retry_after(reply.headers),
                )
            if not reply.ok:
                raise FetchError(
                    f"{self} answered {reply.status_code} {reply.reason}; "
                    "check the record's number."
                )
            return read_json(reply, self)
        except requests.RequestException as error:
            raise_if_transient(error, self._timeout)
            raise FetchError(f"{self} cannot be asked: {error}.") from None

    def __str__(self) -> str:
        place = "Zenodo" if self._source.api_url is None else host_of(self._api)
        return f"{place} record {self._source.record}"


def _listed(one: dict) -> Listed:
    """Return a file of a record; a checksum other than MD5 is none."""
    kind, _, value = str(one.get("checksum") or "").rpartition(":")
    md5 = value if kind in ("", "md5") and re.fullmatch(r"[0-9a-f]{32}", value) else None
    return Listed(path=str(one.get("key")), size=int(one.get("size") or 0), md5=md5)


def _spdx(licence: str) -> str:
    """Return a licence as SPDX writes it: Zenodo has ``cc-by-4.0``."""
    names = {"cc-zero": "CC0-1.0", "apache-2.0": "Apache-2.0", "mit-license": "MIT"}
    return names.get(licence, licence.upper())
