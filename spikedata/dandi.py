"""What spikedata knows of the DANDI archive: is an asset still the pinned one, and where is it.

Every call makes one attempt; `spikedata.transfer` decides about the next. The `dandi` package is
imported when the first asset is asked for, so that importing spikedata stays quick.

Open data needs no key. One is read from the variable that the `dandi` package names,
``DANDI_API_KEY`` for the public archive and ``HOST_<NAME AND PORT>_API_KEY`` for one that the
package does not know, and is sent to that API only.
"""

from __future__ import annotations

import os
import re
import threading
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from spikedata.errors import FetchError, HashMismatchError
from spikedata.manifest import Asset, DandiSource
from spikedata.origins import (
    RETRY_STATUSES,
    TransientError,
    host_of,
    raise_if_transient,
    retry_after,
)

if TYPE_CHECKING:
    import requests
    from dandi.consts import DandiInstance
    from dandi.dandiapi import RemoteDandiset

__all__ = ["Archive"]


class Archive:
    """One published version of a dandiset.

    Parameters
    ----------
    source : DandiSource
        The dandiset, its version, and the API if it is not the public one.
    timeout : float
        Seconds without an answer after which an attempt has failed.
    """

    def __init__(self, source: DandiSource, *, timeout: float = 30.0):
        self._source = source
        self._timeout = timeout
        self._opening = threading.Lock()
        self._opened: RemoteDandiset | None = None

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            self._opened.client.session.close()

    def check(self, asset: Asset) -> None:
        """Compare the pins of an asset with what the archive itself says of it.

        Parameters
        ----------
        asset : Asset
            An asset of this version.

        Raises
        ------
        HashMismatchError
            If the archive lists another size or sha256.
        FetchError
            If this version has no such asset, or the archive does not let us see it.
        TransientError
            If another attempt may succeed.
        """
        reply = self._get(f"{self._path}assets/{asset.asset_id}/info/")
        if reply.status_code == 404:
            raise FetchError(self._absent(asset))
        info = self._json(reply)
        if info.get("zarr"):
            raise FetchError(f"asset {asset.asset_id} of {self} is a Zarr; only files are fetched.")
        digest = (info.get("metadata") or {}).get("digest") or {}
        pairs = (
            ("size", asset.size, info.get("size")),
            ("sha256", asset.sha256, digest.get("dandi:sha2-256")),  # absent while it is computed
        )
        for name, pinned, listed in pairs:
            if listed is not None and listed != pinned:
                raise HashMismatchError(
                    f"the manifest pins {name} {pinned}, {self} lists {listed} for asset "
                    f"{asset.asset_id}; pin the asset anew."
                )

    def locate(self, asset: Asset) -> str:
        """Return an address of the bytes of an asset; it holds for some hours.

        Parameters
        ----------
        asset : Asset
            An asset of this version.

        Raises
        ------
        FetchError
            If this version has no such asset, or the archive does not let us see it.
        TransientError
            If another attempt may succeed.
        """
        reply = self._get(f"{self._path}assets/{asset.asset_id}/download/", follow=False)
        if reply.status_code == 404:
            raise FetchError(self._absent(asset))
        place = reply.headers.get("Location")
        return reply.url if place is None else urljoin(reply.url, place)

    # -------------------------------------------------------------- one request

    @property
    def _path(self) -> str:
        return self._dandiset.version_api_path

    @property
    def _dandiset(self) -> RemoteDandiset:
        with self._opening:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> RemoteDandiset:
        os.environ["DANDI_NO_ET"] = "1"  # else the package reports its use
        from dandi.dandiapi import DandiAPIClient

        # Given as an instance, not as a URL, so that the client asks the server nothing yet.
        client = DandiAPIClient(dandi_instance=_instance(self._source.api_url))
        key = os.environ.get(client.api_key_env_var)
        if key:
            client.session.headers["Authorization"] = f"token {key}"
        else:
            client.session.auth = lambda request: request  # stands in the place of ~/.netrc
        return client.get_dandiset(self._source.dandiset, self._source.version, lazy=True)

    def _get(
        self, path: str, *, follow: bool = True, params: dict[str, str] | None = None
    ) -> requests.Response:
        """Ask the API once. Raise unless it answers with success, a redirect or 404."""
        import requests

        client = self._dandiset.client
        url = client.get_url(path)
        try:
            reply = client.session.get(
                url, params=params, allow_redirects=follow, timeout=self._timeout
            )
        except requests.RequestException as error:
            raise_if_transient(error, self._timeout)
            raise FetchError(f"{self} cannot be asked: {error}.") from None
        if reply.status_code in RETRY_STATUSES:
            raise TransientError(
                f"{self} answered {reply.status_code} {reply.reason}", wait=retry_after(reply)
            )
        if reply.status_code in (401, 403):
            given = "Authorization" in client.session.headers
            raise FetchError(
                f"{self} answered {reply.status_code} {reply.reason}; "
                + (
                    f"the key in {client.api_key_env_var} is not accepted."
                    if given
                    else f"the dandiset may be embargoed: put a key into {client.api_key_env_var}."
                )
            )
        if not (reply.ok or reply.status_code == 404):
            raise FetchError(f"{self} answered {reply.status_code} {reply.reason} to {path}.")
        return reply

    def _json(self, reply: requests.Response) -> dict:
        try:
            content = reply.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise FetchError(f"{self} did not answer in JSON; is its address that of a DANDI API?")
        return content

    def _absent(self, asset: Asset) -> str:
        """Return why an asset cannot be found, with the one that took its place if any."""
        message = f"{self} has no asset {asset.asset_id} (404)"
        reply = self._get(f"{self._path}assets/", params={"path": asset.path})
        if reply.status_code == 404:
            return f"{message}, nor any other; check the dandiset and the version in the manifest."
        for other in self._json(reply).get("results") or []:
            if other.get("path") == asset.path:
                return f"{message}: it was replaced by {other.get('asset_id')}; pin the asset anew."
        return f"{message} and nothing at that path; pin the asset anew."

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
