"""What spikedata knows of the DANDI archive: is an asset still the pinned one, and where is it.

Every call makes one attempt; `spikedata.transfer` decides about the next. The `dandi` package is
imported when the first asset is asked for, so that importing spikedata stays quick.

Open data needs no key. One is read as the `dandi` package does: from the variable that it names,
``DANDI_API_KEY`` for the public archive and ``HOST_<NAME AND PORT>_API_KEY`` for one that the
package does not know, and else, once the archive asks for one, from the keyring. It is sent to
that API only.
"""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from spikedata.digests import agree
from spikedata.errors import FetchError
from spikedata.manifest import Asset, DandiSource
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
    from dandi.consts import DandiInstance
    from dandi.dandiapi import DandiAPIClient

__all__ = ["Dandi"]

PAGE = 1000  # assets; the most that the archive lists at once
MOST_PAGES = 1000


class Dandi:
    """One version of a dandiset.

    Parameters
    ----------
    source : DandiSource
        The dandiset, its version, and the API if it is not the public one.
    timeout : float
        Seconds without an answer after which an attempt has failed.
    """

    presigned = True
    """Whether addresses are permissions that expire."""

    def __init__(self, source: DandiSource, *, timeout: float = 30.0):
        self._source = source
        self._timeout = timeout
        self._opening, self._guard = threading.Lock(), threading.Lock()
        self._opened: DandiAPIClient | None = None
        self._listed: dict[str, Listed] | None = None
        self._addresses: dict[str, str] = {}  # of the store, by asset id, where they are listed
        self._direct: set[str] = set()  # the assets of which such an address was given out
        self._store = ""  # the host that the archive sends us to
        self._open_store = True  # until it refuses an address without signature

    def close(self) -> None:
        """End the connections."""
        if self._opened is not None:
            self._opened.session.close()

    def list_ahead(self) -> None:
        """Ask for all assets at once, which is quicker than one by one.

        Raises
        ------
        FetchError, TransientError
            As `find`.
        """
        with self._guard:
            if self._listed is None:
                listed = self._list(self._path(self._source.version))
                self._listed = {one.asset_id: one for one in listed if one.asset_id}

    def find(self, asset: Asset) -> Asset:
        """Return an asset as this version has it; what it pins must be so.

        Parameters
        ----------
        asset : Asset
            An asset of this version, or of an earlier draft of it.

        Returns
        -------
        Asset
            The same, with the id of the asset that holds its bytes now.

        Raises
        ------
        HashMismatchError
            If the archive lists another size or hash.
        FetchError
            If this version has no asset with these bytes, or the archive does not let us see it.
        TransientError
            If another attempt may succeed.
        """
        known = (self._listed or {}).get(asset.asset_id or "") or self._ask(asset)
        if known is None:
            return self._find_by_path(asset)
        agree(asset, known, str(self))
        return asset

    def locate(self, asset: Asset) -> str:
        """Return an address of the bytes of an asset; it holds for some hours.

        Parameters
        ----------
        asset : Asset
            An asset of this version, see `find`.

        Raises
        ------
        FetchError
            If this version has no such asset, or the archive does not let us see it.
        TransientError
            If another attempt may succeed.
        """
        known = self._addresses.pop(asset.asset_id or "", "")  # given out once
        if known and host_of(known) == self._store:
            self._direct.add(asset.asset_id or "")
            return known
        if asset.asset_id in self._direct:  # and the store refused it: it wants a signature
            self._open_store = False
        path = f"{self._path(self._source.version)}assets/{asset.asset_id}/download/"
        reply = self._get(path)
        reply.close()
        if reply.status_code == 404:
            raise FetchError(f"{self} has no asset {asset.asset_id} (404); pin the asset anew.")
        place = urljoin(reply.url, reply.headers.get("Location", ""))
        self._store = host_of(place) if self._open_store else ""
        return place

    def newest(self) -> Listing:
        """Return what the newest published version of the dandiset holds.

        Raises
        ------
        FetchError
            If there is none, or the archive does not let us see it.
        TransientError
            If another attempt may succeed.
        """
        dandiset = f"/dandisets/{self._source.dandiset}/"
        with understood(self):
            found = self._json(self._get(dandiset))
            version = (found.get("most_recent_published_version") or {}).get("version")
            if not version:
                raise FetchError(f"{self}: the dandiset has no published version.")
            about = self._json(self._get(self._path(version)))
            licences = about.get("license") or []
            return Listing(
                version=version,
                title=str(about.get("name") or ""),
                licence=" OR ".join(one.removeprefix("spdx:") for one in licences),
                citation=str(about.get("citation") or ""),
                doi=about.get("doi") or None,
                files=tuple(self._list(self._path(version))),
            )

    # -------------------------------------------------------------- assets

    def _path(self, version: str) -> str:
        return f"/dandisets/{self._source.dandiset}/versions/{version}/"

    def _ask(self, asset: Asset) -> Listed | None:
        """Return what the archive says of one asset, None if it has none of that id."""
        path = f"{self._path(self._source.version)}assets/{asset.asset_id}/"
        reply = self._get(path)
        if reply.status_code == 404:
            return None
        return self._listed_from({"asset_id": asset.asset_id, "metadata": self._json(reply)})

    def _find_by_path(self, asset: Asset) -> Asset:
        """Return the asset by the path, if it has the pinned bytes; else say what became of it."""
        message = f"{self} has no asset {asset.asset_id} (404)"
        there = [
            one
            for one in self._list(self._path(self._source.version), path=asset.path)
            if one.path == asset.path
        ]
        if not there:
            raise FetchError(f"{message} and no file at that path; pin the asset anew.")
        for one in there:
            if one.size == asset.size and one.sha256 and one.sha256 == asset.sha256:
                return asset.model_copy(update={"asset_id": one.asset_id})
        other = there[0]
        raise FetchError(
            f"{message}: it was replaced by {other.asset_id} with {other.size} bytes and sha256 "
            f"{other.sha256 or 'unknown'}, where {asset.size} bytes and {asset.sha256} are pinned; "
            "pin the asset anew."
        )

    def _list(self, version: str, *, path: str = "") -> list[Listed]:
        """Return the assets below a path, from all pages; none twice, whatever the pages say."""
        found: dict[str, Listed] = {}
        address = f"{version}assets/"
        params: dict[str, str] | None = {"metadata": "true", "page_size": str(PAGE)}
        if path:
            params["path"] = path
        seen = set()
        while address and address not in seen and len(seen) < MOST_PAGES:
            seen.add(address)
            reply = self._get(address, params=params)
            if reply.status_code == 404:
                raise FetchError(f"{self} has no assets (404); check the dandiset and the version.")
            page = self._json(reply)
            with understood(self):
                for row in page.get("results") or []:
                    if not row.get("zarr"):
                        found[str(row.get("asset_id"))] = self._listed_from(row)
                address, params = page.get("next") or "", None
                abroad = address and urlsplit(address)[:2] != urlsplit(self._client.api_url)[:2]
            if abroad:
                raise FetchError(f"{self} lists assets on at {host_of(address)}, another server.")
        return list(found.values())

    def _listed_from(self, row: dict) -> Listed:
        """Return one asset of a listing, and remember where its bytes are."""
        with understood(self):
            about = row.get("metadata") or {}
            asset_id = str(row.get("asset_id"))
            digest = about.get("digest") or {}
            if about.get("encodingFormat") == "application/x-zarr":
                raise FetchError(f"asset {asset_id} of {self} is a Zarr; only files are fetched.")
            for address in about.get("contentUrl") or []:
                if "/blobs/" in address:
                    self._addresses[asset_id] = address
            return Listed(
                path=str(row.get("path") or about.get("path")),
                size=int(row.get("size") or about.get("contentSize") or 0),
                sha256=digest.get("dandi:sha2-256"),  # absent while it is computed
                etag=digest.get("dandi:dandi-etag"),
                asset_id=asset_id,
            )

    # -------------------------------------------------------------- one request

    @property
    def _client(self) -> DandiAPIClient:
        with self._opening:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> DandiAPIClient:
        os.environ["DANDI_NO_ET"] = "1"  # else the package reports its use
        from dandi.dandiapi import DandiAPIClient

        # Given as an instance, not as a URL, so that the client asks the server nothing yet.
        client = DandiAPIClient(dandi_instance=_instance(self._source.api_url))
        client.session.auth = lambda request: request  # stands in the place of ~/.netrc
        _use_key(client, os.environ.get(client.api_key_env_var))
        return client

    def _get(self, path: str, *, params: dict[str, str] | None = None) -> requests.Response:
        """Ask the API once. Raise unless it answers with success, a redirect or 404."""
        client = self._client
        reply = self._ask_once(client.get_url(path), params)
        if reply.status_code in (401, 403) and "Authorization" not in client.session.headers:
            key = _key_from_keyring(client.dandi_instance.name)
            if _use_key(client, key):
                reply.close()
                reply = self._ask_once(client.get_url(path), params)
        if reply.status_code != 200:
            reply.close()  # of such answers only the head is of use
        if reply.status_code in RETRY_STATUSES:
            raise TransientError(
                f"{self} answered {reply.status_code} {reply.reason}",
                wait=retry_after(reply.headers),
            )
        if reply.status_code in (401, 403):
            given = "Authorization" in client.session.headers
            raise FetchError(
                f"{self} answered {reply.status_code} {reply.reason}; "
                + (
                    f"the key in {client.api_key_env_var} or the keyring is not accepted."
                    if given
                    else f"the dandiset may be embargoed: put a key into {client.api_key_env_var}."
                )
            )
        if not (reply.ok or reply.status_code == 404):
            raise FetchError(f"{self} answered {reply.status_code} {reply.reason} to {path}.")
        return reply

    def _ask_once(self, url: str, params: dict[str, str] | None) -> requests.Response:
        import requests

        try:
            return self._client.session.get(  # no redirect is followed: it would take the key along
                url, params=params, allow_redirects=False, timeout=self._timeout, stream=True
            )
        except requests.RequestException as error:
            raise_if_transient(error, self._timeout)
            raise FetchError(f"{self} cannot be asked: {error}.") from None

    def _json(self, reply: requests.Response) -> dict:
        import requests

        try:
            return read_json(reply, self)
        except requests.RequestException as error:
            raise_if_transient(error, self._timeout)
            raise FetchError(f"{self} cannot be read: {error}.") from None

    def __str__(self) -> str:
        place = host_of(self._source.api_url) if self._source.api_url else "DANDI"
        return f"{place} dandiset {self._source.dandiset} version {self._source.version}"


def _instance(api_url: str | None) -> DandiInstance:
    """Return the instance at an address, named so that its key has a variable of its own.

    A manifest may point anywhere: the key of the public archive must not follow it there.
    """
    from dandi.consts import DandiInstance, known_instances

    if api_url is None:
        return known_instances["dandi"]
    for instance in known_instances.values():
        if instance.api.rstrip("/") == api_url.rstrip("/"):
            return instance
    name = re.sub(r"[^a-z0-9]+", "-", host_of(api_url).lower())
    return DandiInstance(f"host-{name}", None, api_url.rstrip("/"))


def _use_key(client: DandiAPIClient, key: str | None) -> bool:
    """Let a client send a key, if there is one."""
    key = (key or "").strip()
    if key and not re.fullmatch(r"[!-~]+", key):
        raise FetchError(
            f"the key in {client.api_key_env_var} or the keyring has characters that no key has; "
            "copy it anew."
        )
    if key:
        client.session.headers["Authorization"] = f"token {key}"
    return bool(key)


def _key_from_keyring(instance: str) -> str | None:
    """Return the key that the `dandi` program stored, if there is one."""
    import keyring
    from keyring.errors import KeyringError

    try:
        return keyring.get_password(f"dandi-api-{instance}", "key")
    except (KeyringError, RuntimeError, OSError):
        return None
