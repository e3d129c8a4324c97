"""The archives that hold assets, one interface to all: what is there, and at what address."""

from __future__ import annotations

import threading
from typing import Protocol

from spikedata.dandi import Dandi
from spikedata.errors import FetchError
from spikedata.manifest import Asset, DandiSource, Source, ZenodoSource
from spikedata.origins import Listing
from spikedata.transfer import Retry, retrying
from spikedata.zenodo import Zenodo

__all__ = ["Archive", "newest", "open_archive"]


class Archive(Protocol):
    """Something that lists assets with their hashes and says where their bytes are.

    Every call makes one attempt and may raise `spikedata.origins.TransientError`.
    """

    presigned: bool
    """Whether addresses are permissions that expire."""

    def list_ahead(self) -> None:
        """Ask for all assets at once."""
        ...

    def find(self, asset: Asset) -> Asset:
        """Return the asset as the archive has it, with its size and a hash, or refuse it."""
        ...

    def locate(self, asset: Asset) -> str:
        """Return an address of its bytes."""
        ...

    def newest(self) -> Listing:
        """Return what the newest published version holds."""
        ...

    def close(self) -> None:
        """End the connections."""
        ...


def open_archive(source: Source, *, timeout: float = 30.0) -> Archive | None:
    """Return the archive of a source, None for a plain server or folder. Asks nothing yet."""
    if isinstance(source, DandiSource):
        return Dandi(source, timeout=timeout)
    if isinstance(source, ZenodoSource):
        return Zenodo(source, timeout=timeout)
    return None


def newest(source: Source, *, retry: Retry | None = None) -> Listing:
    """Return what the newest published version of a source holds.

    Parameters
    ----------
    source : DandiSource or ZenodoSource
        Any version of it.
    retry : Retry, optional
        When to ask again and when to give up.

    Returns
    -------
    Listing
        The version and its files.

    Raises
    ------
    FetchError
        If the source has no archive, the archive has no published version, or cannot be asked.
    """
    retry = retry or Retry()
    archive = open_archive(source, timeout=retry.timeout)
    if archive is None:
        raise FetchError(f"A source of kind '{source.kind}' has no versions to ask for.")
    try:
        return retrying(archive.newest, retry, threading.Event())
    finally:
        archive.close()
