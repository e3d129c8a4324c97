"""Fetch the assets of a manifest into the cache: what to bring, from where, several at a time."""

from __future__ import annotations

import errno
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from spikedata.dandi import Archive
from spikedata.errors import FetchError
from spikedata.manifest import Asset, Dataset, FileSource, HttpsSource, Manifest
from spikedata.origins import FileOrigin, HttpOrigin, Origin, url_below
from spikedata.progress import Progress, silent
from spikedata.transfer import Retry, Stopped, is_pinned, part_path, transfer

__all__ = ["FetchResult", "Step", "asset_path", "default_cache", "fetch", "fetch_asset", "plan"]

CACHE_VARIABLE = "SPIKEDATA_CACHE"
REPORT_EVERY = 0.1  # seconds between two reports on one asset

Step = Literal["present", "resume", "download"]


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


# ------------------------------------------------------------------ where assets lie


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
    source = dataset.source
    label = f"{source.dandiset}-{source.version}" if source.kind == "dandi" else source.kind
    path = cache / "assets" / dataset.id / label / asset.path
    if ".." in path.relative_to(cache).parts or not path.parent.resolve().is_relative_to(
        cache.resolve()
    ):
        raise FetchError(
            f"{dataset.recording_id(asset)}: {path} leads out of the cache {cache}; to keep the "
            f"cache elsewhere, set {CACHE_VARIABLE} instead of linking."
        )
    return path


def plan(asset: Asset, path: Path) -> Step:
    """Return what it takes to have an asset at `path`. Changes nothing.

    A file counts as present by its hash, never by its existence.
    """
    if is_pinned(path, asset):
        return "present"
    part = part_path(asset, path)
    return "resume" if part.is_file() and part.stat().st_size else "download"


# ------------------------------------------------------------------ where bytes come from


def _file_origin(root: Path, asset: Asset) -> Origin:
    root = root.resolve()
    path = (root / asset.path).resolve()
    if not path.is_relative_to(root):
        raise FetchError(
            f"{root / asset.path} leads out of {root}, to {path}; move the file there."
        )
    if not path.is_file():
        raise FetchError(
            f"there is no file {path}; name the folder that has it with --from, put it there, "
            "or correct `root` or `path`."
        )
    return FileOrigin(path, asset.size)


def _offline_file(folder: Path | None, asset: Asset) -> Path | None:
    if folder is None:
        return None
    candidates = (folder / asset.path, folder / Path(asset.path).name)
    return next((path for path in candidates if is_pinned(path, asset)), None)


def _origin(
    manifest: Manifest,
    dataset: Dataset,
    asset: Asset,
    archive: Archive | None,
    retry: Retry,
) -> Origin:
    source = dataset.source
    if isinstance(source, FileSource):
        return _file_origin(manifest.path.parent / source.root, asset)
    if isinstance(source, HttpsSource):
        url = url_below(source.url, asset.path)
        return HttpOrigin(lambda: url, asset.size, timeout=retry.timeout)
    archive = archive or Archive(source, timeout=retry.timeout)
    checked = False

    def locate() -> str:
        nonlocal checked
        if not checked:
            archive.check(asset)
            checked = True
        return archive.locate(asset)

    return HttpOrigin(locate, asset.size, timeout=retry.timeout, presigned=True)


# ------------------------------------------------------------------ one asset


def fetch_asset(
    manifest: Manifest,
    dataset: Dataset,
    asset: Asset,
    cache: Path,
    *,
    archive: Archive | None = None,
    offline_folder: Path | None = None,
    retry: Retry | None = None,
    stop: threading.Event | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> FetchResult:
    """Bring one asset into the cache, unless it is there.

    Parameters
    ----------
    manifest, dataset, asset
        What to fetch.
    cache : Path
        The cache folder.
    archive : Archive, optional
        The opened archive of a DANDI source, to be shared between assets.
    offline_folder, retry
        As in `fetch`.
    stop : threading.Event, optional
        Once set, the transfer ends with `spikedata.transfer.Stopped`; what came is kept.
    report : callable, optional
        Called with the number of bytes that are here.

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
    retry, stop = retry or Retry(), stop or threading.Event()
    recording_id = dataset.recording_id(asset)
    path = asset_path(cache, dataset, asset)
    try:
        step = plan(asset, path)
        if step == "present":
            report(asset.size)
            return FetchResult(recording_id, path, "skipped")
        local = _offline_file(offline_folder, asset)
        if local is not None:
            origin: Origin = FileOrigin(local, asset.size)
        else:
            origin = _origin(manifest, dataset, asset, archive, retry)
        received = transfer(asset, path, origin, retry=retry, stop=stop, report=report)
    except FetchError as error:
        hint = f" (and {offline_folder} has no file with that hash)" if offline_folder else ""
        raise type(error)(f"{recording_id} ({asset.path}): {error}{hint}") from error
    except OSError as error:
        raise FetchError(f"{recording_id} ({asset.path}): {_sentence(error, path)}") from error
    report(asset.size)
    message = "resumed" if step == "resume" and received else ""
    if local is not None:
        message = f"copied from {local}"
    return FetchResult(recording_id, path, "done", received, message)


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


# ------------------------------------------------------------------ many assets


def fetch(
    manifest: Manifest,
    cache: Path,
    *,
    jobs: int = 4,
    offline_folder: Path | None = None,
    progress: Progress = silent,
    retry: Retry | None = None,
) -> list[FetchResult]:
    """Bring all assets of a manifest into the cache. Run again, it goes on where it ended.

    Parameters
    ----------
    manifest : Manifest
        What to fetch.
    cache : Path
        The cache folder, see `default_cache`.
    jobs : int
        How many assets at a time.
    offline_folder : Path, optional
        Where to look first, for each asset by its path and by its name. A file is taken only
        if it has the pinned hash.
    progress : Progress
        Called in this thread with a recording id, the bytes of its asset that are here and
        those there are in all.
    retry : Retry, optional
        When to ask again and when to give up.

    Returns
    -------
    list of FetchResult
        One per asset, in the order of the manifest. A failure stops no other asset.

    Raises
    ------
    ValueError
        If `jobs` is below 1.
    FetchError
        If `offline_folder` is not a folder.

    Examples
    --------
    >>> fetch(load_manifest("sample"), default_cache())  # doctest: +SKIP
    [FetchResult(recording_id='...', status='done', ...)]
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, found {jobs}")
    if offline_folder is not None and not offline_folder.is_dir():
        raise FetchError(f"The offline folder {offline_folder} is not a folder.")
    retry = retry or Retry()
    calls: _Calls = queue.SimpleQueue()
    stop = threading.Event()
    with ExitStack() as opened:
        archives = {
            dataset.id: opened.enter_context(Archive(dataset.source, timeout=retry.timeout))
            for dataset in manifest.datasets
            if dataset.source.kind == "dandi"
        }

        def bring(dataset: Dataset, asset: Asset) -> FetchResult:
            recording_id = dataset.recording_id(asset)
            tell = partial(progress, recording_id)
            try:
                return fetch_asset(
                    manifest,
                    dataset,
                    asset,
                    cache,
                    archive=archives.get(dataset.id),
                    offline_folder=offline_folder,
                    retry=retry,
                    stop=stop,
                    report=_sparse(lambda *now: calls.put(partial(tell, *now)), asset.size),
                )
            except FetchError as error:
                where = cache / "assets" / dataset.id
                with suppress(FetchError):
                    where = asset_path(cache, dataset, asset)
                return FetchResult(recording_id, where, "failed", message=str(error))

        tasks = [partial(bring, dataset, asset) for dataset, asset in manifest.items()]
        return _run(tasks, jobs, calls, stop)


_Calls = queue.SimpleQueue[Callable[[], object]]  # made by threads, for the caller's thread


def _run(
    tasks: list[Callable[[], FetchResult]], jobs: int, calls: _Calls, stop: threading.Event
) -> list[FetchResult]:
    """Run tasks, several at a time, and meanwhile make in this thread the calls that they ask for.

    The threads are daemons, so that an interrupt need not wait for a server that is silent.
    """
    results: dict[int, FetchResult] = {}
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(tasks)):
        todo.put(index)

    def work() -> None:
        try:
            while not stop.is_set():
                index = todo.get_nowait()
                calls.put(partial(results.__setitem__, index, tasks[index]()))
        except (queue.Empty, Stopped):
            return
        except Exception as error:  # a defect: let the caller's thread raise it
            calls.put(partial(_raise, error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(tasks)))]
    try:
        for thread in threads:
            thread.start()
        while len(results) < len(tasks):
            calls.get()()
    finally:
        stop.set()
        patience = time.monotonic() + 0.5
        for thread in threads:
            thread.join(timeout=max(0.0, patience - time.monotonic()))
    return [results[index] for index in range(len(tasks))]


def _sparse(report: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    """Pass on the last report, and of the others not more than a few per second."""
    last, told = 0.0, -1

    def sparse(done: int) -> None:
        nonlocal last, told
        now = time.monotonic()
        if done != told and (done >= total or now - last >= REPORT_EVERY):
            last, told = now, done
            report(done, total)

    return sparse


def _raise(error: Exception) -> None:
    raise error
