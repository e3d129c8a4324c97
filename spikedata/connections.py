"""Connections to servers, kept open, for bytes: proxies, certificates, credentials, redirects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urljoin

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

__all__ = ["Connections"]

MOST_CONNECTIONS = 32  # that are kept open to one host
MOST_REDIRECTS = 10


class Connections:
    """Connections that are kept open for one request after another, through the proxy if any.

    Requests are made with urllib3 rather than with requests, which takes thrice as long for a
    small file. Proxies, certificates and ``~/.netrc`` are found as requests finds them; no cookie
    is kept.

    Parameters
    ----------
    credentials : bool
        Whether those of an address or of ``~/.netrc`` are sent. Not with addresses that are
        themselves the permission: stores refuse a request that has two.
    """

    def __init__(self, *, credentials: bool):
        self._credentials = credentials
        self._pools: dict[str | None, PoolManager] = {}
        self._known: dict[str, tuple[PoolManager, dict[str, str]]] = {}

    def close(self) -> None:
        """End the connections."""
        for pool in self._pools.values():
            pool.clear()

    def get(self, url: str, headers: dict[str, str], timeout: float) -> BaseHTTPResponse:
        """Ask once, follow redirects, and return the reply with its body still to be read."""
        for _ in range(MOST_REDIRECTS):
            place = "/".join(url.split("/", 3)[:3])
            if place not in self._known:
                self._known[place] = self._prepare(url)
            pool, credentials = self._known[place]
            reply = pool.request(
                "GET",
                url,
                headers=headers | credentials,
                preload_content=False,
                timeout=timeout,
                redirect=False,
                retries=False,
            )
            target = reply.get_redirect_location()
            if not target:
                return reply
            reply.close()  # its body is nobody's business, and may have no end
            url = urljoin(url, target)
        raise ValueError("it redirects without end")

    def _prepare(self, url: str) -> tuple[PoolManager, dict[str, str]]:
        """Return the pool for the requests to a host, and the credentials they carry."""
        import certifi
        from requests.utils import (
            get_auth_from_url,
            get_environ_proxies,
            get_netrc_auth,
            prepend_scheme_if_needed,
            select_proxy,
        )
        from urllib3 import PoolManager, ProxyManager
        from urllib3.util import make_headers

        proxy = select_proxy(url, get_environ_proxies(url, no_proxy=None))
        if proxy is not None:
            proxy = prepend_scheme_if_needed(proxy, "http")
        if proxy not in self._pools:
            bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
            common = {"maxsize": MOST_CONNECTIONS, "ca_certs": bundle or certifi.where()}
            if proxy is None:
                self._pools[proxy] = PoolManager(**common)
            else:
                auth = ":".join(get_auth_from_url(proxy))
                proxy_headers = make_headers(proxy_basic_auth=auth) if auth != ":" else None
                self._pools[proxy] = ProxyManager(proxy, proxy_headers=proxy_headers, **common)
        if not self._credentials:
            return self._pools[proxy], {}
        user, password = get_auth_from_url(url)
        auth = f"{user}:{password}" if user else ":".join(get_netrc_auth(url) or ())
        return self._pools[proxy], make_headers(basic_auth=auth) if auth else {}
