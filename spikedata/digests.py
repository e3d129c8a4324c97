"""The hashes by which the bytes of an asset are known."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spikedata.errors import HashMismatchError
from spikedata.manifest import Asset
from spikedata.origins import Listed

if TYPE_CHECKING:
    from dandischema.digests.dandietag import DandiETag

__all__ = ["PINS", "Digests", "agree", "conflict", "digests_of", "pin_of"]

PINS = ("sha256", "md5", "etag")
"""The fields of an asset that pin its bytes, the strongest first."""

BLOCK = 1 << 20


class Digests:
    """Hashes of a stream of bytes: its SHA-256, and whatever else the asset needs to be checked.

    The ETag of DANDI costs an MD5 of all bytes, and what has the pinned SHA-256 has the pinned
    ETag: it is computed only where there is no other pin.

    Parameters
    ----------
    asset : Asset
        The asset; its size must be known.

    References
    ----------
    ETag: MD5 of the MD5s of parts of 64 MiB, as Amazon S3 does for uploads in parts;
    ``dandischema.digests.dandietag``.
    """

    def __init__(self, asset: Asset):
        self._hashes = {"sha256": hashlib.sha256()}
        if asset.md5:
            self._hashes["md5"] = hashlib.md5(usedforsecurity=False)
        only_etag = asset.etag and not asset.sha256 and not asset.md5
        self._etag: DandiETag | None = _etag(asset.size or 0) if only_etag else None

    def update(self, block: bytes) -> None:
        """Take the next bytes."""
        for one in self._hashes.values():
            one.update(block)
        if self._etag is not None:
            self._etag.update(block)

    def found(self) -> dict[str, str]:
        """Return the hashes of all bytes so far, by the name of their pin."""
        found = {name: one.hexdigest() for name, one in self._hashes.items()}
        if self._etag is not None:
            found["etag"] = self._etag.as_str()
        return found


def _etag(size: int) -> DandiETag:
    from dandischema.digests.dandietag import DandiETag

    return DandiETag(size)


def digests_of(path: Path, asset: Asset) -> dict[str, str]:
    """Return the hashes of a file, by the name of their pin."""
    digests = Digests(asset)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digests.update(block)
    return digests.found()


def conflict(asset: Asset, found: Mapping[str, str]) -> str | None:
    """Return the first hash that differs from its pin, as ``"sha256 <found>"``, if any does."""
    for name in PINS:
        pinned = getattr(asset, name)
        if pinned and name in found and found[name] != pinned:
            return f"{name} {found[name]}"
    return None


def pin_of(asset: Asset) -> str:
    """Return the strongest pin of an asset, as ``"sha256 <pinned>"``."""
    return next((f"{name} {pin}" for name in PINS if (pin := getattr(asset, name))), "no hash")


def agree(asset: Asset, listed: Listed, where: str) -> None:
    """Raise unless what an archive lists of an asset is what the manifest pins.

    Raises
    ------
    HashMismatchError
        If size or a hash that both have differ.
    """
    for name in ("size", *PINS):
        pinned, found = getattr(asset, name), getattr(listed, name)
        if pinned is not None and found is not None and pinned != found:
            raise HashMismatchError(
                f"the manifest pins {name} {pinned}, {where} lists {found} for asset "
                f"{listed.asset_id or listed.path}; pin the asset anew."
            )
