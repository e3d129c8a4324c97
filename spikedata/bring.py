"""Brings one asset into the cache, from the first place that has its bytes."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from spikedata.archives import Archive, open_archive
from spikedata.cache import (
    CACHE_VARIABLE,
    as_recorded,
    asset_path,
    is_verified,
    record,
    source_label,
)
from spikedata.connections import Connections
from spikedata.errors import FetchError, UnreachableError
from spikedata.files import sync_folder
from spikedata.folder import Folder
from spikedata.manifest import Asset, Dataset, FileSource, HttpsSource, Manifest
from spikedata.origins import FileOrigin, HttpOrigin, Origin, file_below, url_below
from spikedata.transfer import PIECE, Retry, part_path, retrying, transfer

__all__ = ["Bringer", "FetchResult", "fetch_asset"]

T = TypeVar("T")

LIST_AHEAD = 8  # assets of one archive, above which one listing is quicker than asking for each
MIRROR_ATTEMPTS = 2  # then the source is asked


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What became of one asset.

    Attributes
    ----------
    recording_id : str
        The recording that the asset becomes.
    path : Path
        Where the asset is, or would be.
    status : {"done", "skipped", "failed"}
        Brought now, here already, or not here.
    bytes : int
        How many bytes were brought now.
    message : str
        Why it failed, or a remark.
    """

    recording_id: str
    path: Path
    status: Literal["done", "skipped", "failed"]
    bytes: int = 0
    message: str = ""


class Bringer:
    """What the transfers of one manifest share: archives, connections, and who is down.

    Parameters
    ----------
    manifest : Manifest
        What is fetched.
    cache : Path
        The cache folder.
    folder, mirror, offline, retry
        As in `spikedata.fetch.fetch`.
    stop : threading.Event, optional
        Once set, transfers end with `spikedata.transfer.Stopped`; what came is kept.
    piece : int
        Bytes of a piece of a large asset.
    """

    def __init__(
        self,
        manifest: Manifest,
        cache: Path,
        *,
        folder: Folder | None = None,
        mirror: str | None = None,
        offline: bool = False,
        retry: Retry | None = None,
        stop: threading.Event | None = None,
        piece: int = PIECE,
    ):
        if mirror is not None and not mirror.startswith(("http://", "https://")):
            raise FetchError(f"The mirror '{mirror}' is no http or https address.")
        if mirror is not None and offline:
            raise FetchError("Offline no server is asked, a mirror neither: leave out one of them.")
        self._manifest, self._cache = manifest, cache
        self._folder, self._mirror, self._offline = folder, mirror, offline
        self._retry, self._stop = retry or Retry(), stop or threading.Event()
        self._piece = piece
        self._archives: dict[str, Archive] = {}
        for dataset in manifest.datasets:
            archive = open_archive(dataset.source, timeout=self._retry.timeout)
            if archive is not None:
                self._archives[dataset.id] = archive
        self._mirror_is_down = False
        self._down: set[str] = set()  # datasets whose server failed every attempt for an asset
        self._connections = {sent: Connections(credentials=sent) for sent in (False, True)}
        self._touched: set[Path] = set()  # folders with new names, to be synced at the end

    def __enter__(self) -> Bringer:
        return self

    def __exit__(self, *error: object) -> None:
        for folder in self._touched:
            sync_folder(folder)
        for archive in self._archives.values():
            archive.close()
        for connections in self._connections.values():
            connections.close()

    # -------------------------------------------------------------- what is not pinned

    def complete(self) -> Manifest:
        """Return the manifest with the sizes and hashes that archives state where it has none.

        What cannot be learned now stays as it is, and fails when it is brought.
        """
        datasets = []
        for dataset in self._manifest.datasets:
            assets = tuple(as_recorded(self._cache, dataset, asset) for asset in dataset.assets)
            if not self._offline and not all(asset.is_pinned for asset in assets):
                assets = tuple(self._complete(dataset, asset) for asset in assets)
            datasets.append(dataset.model_copy(update={"assets": assets}))
        completed = self._manifest.model_copy(update={"datasets": tuple(datasets)})
        completed._path = self._manifest.path
        return completed

    def _complete(self, dataset: Dataset, asset: Asset) -> Asset:
        if asset.is_pinned or dataset.id in self._down:
            return asset
        try:
            return self._find(dataset, asset)
        except FetchError:
            return asset

    def _find(self, dataset: Dataset, asset: Asset) -> Asset:
        archive = self._archives[dataset.id]
        return self._with_patience(
            dataset, lambda retry: retrying(lambda: archive.find(asset), retry, self._stop)
        )

    # -------------------------------------------------------------- one asset

    def bring(
        self,
        dataset: Dataset,
        asset: Asset,
        *,
        report: Callable[[int], None] = lambda done: None,
        waiting: Callable[[str], None] = lambda reason: None,
        spare: threading.Semaphore | None = None,
    ) -> FetchResult:
        """Bring one asset into the cache, unless it is there.

        Parameters
        ----------
        dataset, asset
            What to bring.
        report : callable
            Called with the number of bytes that are here.
        waiting : callable
            Called with a reason while nothing comes.
        spare : threading.Semaphore, optional
            Counts the connections that may be opened beside the first.

        Returns
        -------
        FetchResult
            Done or skipped.

        Raises
        ------
        HashMismatchError
            If the origin has other bytes than the pinned ones.
        FetchError
            If the asset cannot be had, or not be written.
        """
        recording_id = dataset.recording_id(asset)
        path = self._cache
        try:
            path = asset_path(self._cache, dataset, asset)
            asset = as_recorded(self._cache, dataset, asset)
            if asset.is_pinned and is_verified(self._cache, dataset, asset):
                report(asset.size or 0)
                return FetchResult(recording_id, path, "skipped")

            def take(asset: Asset, origin: Origin, retry: Retry, tries: int = 2) -> int:
                received, found = transfer(
                    asset, path, origin, retry=retry, stop=self._stop, report=report,
                    waiting=waiting, spare=spare, piece=self._piece, tries=tries,
                )  # fmt: skip
                self._touched.add(path.parent)
                record(self._cache, dataset, asset, found)
                report(asset.size or 0)
                return received

            received, message = self._take(dataset, asset, path, take)
        except FetchError as error:
            hint = f" (and {self._folder.root} has no file with that hash)" if self._folder else ""
            raise type(error)(f"{recording_id} ({asset.path}): {error}{hint}") from error
        except OSError as error:
            raise FetchError(f"{recording_id} ({asset.path}): {_sentence(error, path)}") from error
        return FetchResult(recording_id, path, "done", received, message)

    def _take(
        self,
        dataset: Dataset,
        asset: Asset,
        path: Path,
        take: Callable[..., int],
    ) -> tuple[int, str]:
        """Try the folder, the mirror, the source; return the bytes that came, and a remark."""
        local = self._folder.find(asset) if self._folder and asset.is_pinned else None
        if local is not None:
            received = take(asset, FileOrigin(local, asset.size or 0), self._retry)
            return received, f"copied from {local}"
        source = dataset.source
        if self._offline and not isinstance(source, FileSource):
            raise FetchError("it is not here, and offline no server is asked.")
        if not asset.is_pinned:
            asset = self._find(dataset, asset)
        resumed = _has_bytes(part_path(asset, path))
        remark = ""
        if self._mirror and not isinstance(source, FileSource):
            label = f"{dataset.id}/{source_label(dataset)}/{asset.path}"
            quick = replace(self._retry, attempts=min(MIRROR_ATTEMPTS, self._retry.attempts))
            for place in () if self._mirror_is_down else (label, asset.path):
                url = url_below(self._mirror, place)
                try:
                    received = take(asset, self._http(url, asset), quick, 1)
                except UnreachableError:
                    self._mirror_is_down = True  # once is enough: the source is there
                    break
                except FetchError:
                    continue  # the source has the last word
                return received, f"from the mirror{', resumed' if resumed and received else ''}"
            down = "did not answer" if self._mirror_is_down else "does not have it"
            remark = f"the mirror {down}; "
        received = self._with_patience(
            dataset, lambda retry: take(asset, self._origin(dataset, asset), retry)
        )
        return received, (remark + "resumed" * bool(resumed and received)).removesuffix("; ")

    def _with_patience(self, dataset: Dataset, call: Callable[[Retry], T]) -> T:
        """Call with the patience that a server deserves: little, once it failed every attempt."""
        retry = replace(self._retry, attempts=1) if dataset.id in self._down else self._retry
        try:
            result = call(retry)
        except UnreachableError:
            self._down.add(dataset.id)
            raise
        self._down.discard(dataset.id)
        return result

    # -------------------------------------------------------------- origins

    def _origin(self, dataset: Dataset, asset: Asset) -> Origin:
        source = dataset.source
        if isinstance(source, FileSource):
            path = file_below(self._manifest.path.parent / source.root, asset.path)
            return FileOrigin(path, asset.size or 0)
        if isinstance(source, HttpsSource):
            return self._http(url_below(source.url, asset.path), asset)
        archive, found = self._archives[dataset.id], None

        def locate() -> str:
            nonlocal found
            if found is None:
                if len(dataset.assets) > LIST_AHEAD:
                    archive.list_ahead()
                found = archive.find(asset)
            return archive.locate(found)

        return self._http(locate, asset, presigned=archive.presigned, credentials=False)

    def _http(
        self,
        url: str | Callable[[], str],
        asset: Asset,
        *,
        presigned: bool = False,
        credentials: bool = True,
    ) -> HttpOrigin:
        locate = url if callable(url) else lambda: url
        return HttpOrigin(
            locate,
            asset.size or 0,
            self._connections[credentials],
            timeout=self._retry.timeout,
            presigned=presigned,
        )


def fetch_asset(
    manifest: Manifest,
    dataset: Dataset,
    asset: Asset,
    cache: Path,
    *,
    retry: Retry | None = None,
    stop: threading.Event | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> FetchResult:
    """Bring one asset into the cache, unless it is there: `Bringer.bring` for a single one."""
    with Bringer(manifest, cache, retry=retry, stop=stop) as bringer:
        return bringer.bring(dataset, asset, report=report)


def _has_bytes(part: Path) -> bool:
    return part.is_file() and part.stat().st_size > 0


def _sentence(error: OSError, path: Path) -> str:
    """Return what a failed file operation means for the user."""
    place = error.filename or path.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk that holds {path.parent} is full; free some space or set {CACHE_VARIABLE} "
            "to another disk, then run it again: what came is kept."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {place}; change it, or set {CACHE_VARIABLE} to another folder."
    return f"{place}: {error.strerror or error}."
