"""The cache: where assets lie, and what is known of those that were verified."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from spikedata.digests import PINS, conflict, digests_of
from spikedata.errors import FetchError
from spikedata.files import write_whole
from spikedata.manifest import Asset, Dataset
from spikedata.options import FileModel

__all__ = [
    "CACHE_VARIABLE",
    "Record",
    "as_recorded",
    "asset_path",
    "default_cache",
    "is_verified",
    "read_record",
    "record",
    "record_path",
    "source_label",
]

CACHE_VARIABLE = "SPIKEDATA_CACHE"
YOUNG = 5.0  # seconds; a later change could still leave a younger file the same time


def default_cache() -> Path:
    """Return the cache folder: ``$SPIKEDATA_CACHE``, else the usual place of this platform."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    usual = os.environ.get("XDG_CACHE_HOME", "")
    if usual and Path(usual).is_absolute():
        return Path(usual) / "spikedata"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "spikedata"
    return Path.home() / ".cache" / "spikedata"


def source_label(dataset: Dataset) -> str:
    """Return the name of the folder that keeps versions of a dataset apart."""
    source = dataset.source
    if source.kind == "dandi":
        return f"{source.dandiset}-{source.version}"
    return f"zenodo-{source.record}" if source.kind == "zenodo" else source.kind


def asset_path(cache: Path, dataset: Dataset, asset: Asset) -> Path:
    """Return where an asset lies in the cache, apart from other versions of it.

    Parameters
    ----------
    cache : Path
        The cache folder.
    dataset : Dataset
        The dataset that holds the asset.
    asset : Asset
        The asset.

    Returns
    -------
    Path
        ``<cache>/assets/<dataset>/<source>/<path>``.

    Raises
    ------
    FetchError
        If that would lie outside the cache, because of the path or of a link on the way.
    """
    path = _place(cache / "assets", dataset, asset)
    if ".." in path.relative_to(cache).parts or not path.parent.resolve().is_relative_to(
        cache.resolve()
    ):
        raise FetchError(
            f"{dataset.recording_id(asset)}: {path} leads out of the cache {cache}; to keep the "
            f"cache elsewhere, set {CACHE_VARIABLE} instead of linking."
        )
    return path


def _place(folder: Path, dataset: Dataset, asset: Asset) -> Path:
    return folder / dataset.id / source_label(dataset) / asset.path


# ------------------------------------------------------------------ what was verified


class Record(FileModel):
    """What a file was when its bytes were last compared with its pins.

    It is believed while size and time are the same: a finished file is given a time in the past
    (`spikedata.transfer`), so that whatever is written to it later shows. What alters bytes and
    keeps both, as a failing disk does, is found by `spikedata.verify`.
    """

    size: int
    mtime_ns: int
    sha256: str
    md5: str | None = None
    etag: str | None = None


def record_path(cache: Path, dataset: Dataset, asset: Asset) -> Path:
    """Return where the record of an asset lies, apart from the assets."""
    path = _place(cache / "verified", dataset, asset)
    return path.with_name(f"{path.name}.json")


def record(cache: Path, dataset: Dataset, asset: Asset, found: dict[str, str]) -> None:
    """Write down that an asset has these hashes. Losing it costs no more than hashing again."""
    stat = _place(cache / "assets", dataset, asset).stat()
    if time.time() - stat.st_mtime < YOUNG:
        return
    content = Record(size=stat.st_size, mtime_ns=stat.st_mtime_ns, **found)
    path = record_path(cache, dataset, asset)
    with suppress(OSError):  # the last bytes of a disk may have gone to the asset
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.model_dump_json(exclude_none=True), sync=False)


def read_record(cache: Path, dataset: Dataset, asset: Asset) -> Record | None:
    """Return the record of an asset, None if there is none that fits the file as it is now."""
    try:
        known = Record.model_validate_json(record_path(cache, dataset, asset).read_bytes())
        stat = _place(cache / "assets", dataset, asset).stat()
    except (OSError, ValidationError):
        return None
    return known if (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns) else None


def as_recorded(cache: Path, dataset: Dataset, asset: Asset) -> Asset:
    """Return an asset with the size and hashes that were found when it was fetched, if it was.

    For assets that a manifest does not pin: what it pins stays.
    """
    known = None if asset.size is not None and asset.sha256 else read_record(cache, dataset, asset)
    if known is None:
        return asset
    pinned = asset.model_dump(include={"size", *PINS}, exclude_none=True)
    found = known.model_dump(include={"size", *PINS}, exclude_none=True)
    if any(found.get(name, pin) != pin for name, pin in pinned.items()):
        return asset  # it was another file
    return asset.model_copy(update=found | pinned)


def is_verified(cache: Path, dataset: Dataset, asset: Asset, *, believe: bool = True) -> bool:
    """Return whether the cache holds the bytes that an asset pins.

    Parameters
    ----------
    cache, dataset, asset
        Which file; the asset must be pinned.
    believe : bool
        Whether a record that fits the file will do. Otherwise, and without one, the file is
        hashed, and a record is written.
    """
    path = _place(cache / "assets", dataset, asset)
    known = read_record(cache, dataset, asset) if believe else None
    try:
        if path.stat().st_size != asset.size:
            return False
        if known is not None and any(getattr(asset, n) and getattr(known, n) for n in PINS):
            found = {name: pin for name in PINS if (pin := getattr(known, name))}
            return conflict(asset, found) is None
        found = digests_of(path, asset)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    if conflict(asset, found):
        return False
    record(cache, dataset, asset, found)
    return True
