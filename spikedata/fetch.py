"""Fetch the assets of a manifest into the cache: what to bring, from where, several at a time."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from spikedata.bring import Bringer, FetchResult
from spikedata.cache import CACHE_VARIABLE, as_recorded, asset_path, read_record
from spikedata.citations import write_citations
from spikedata.errors import FetchError
from spikedata.folder import Folder
from spikedata.manifest import Asset, Dataset, Manifest
from spikedata.progress import Progress, silent
from spikedata.threads import Calls, run_tasks
from spikedata.transfer import PIECE, Retry, part_path

__all__ = ["Planned", "Step", "fetch", "plan", "space_needed"]

REPORT_EVERY = 0.1  # seconds between two reports on one asset

Step = Literal["present", "check", "adopt", "resume", "download"]


# ------------------------------------------------------------------ what to do


@dataclass(frozen=True, slots=True)
class Planned:
    """What it takes to have one asset here.

    Attributes
    ----------
    recording_id : str
        The recording that the asset becomes.
    path : Path
        Where it is or shall be.
    step : {"present", "check", "adopt", "resume", "download"}
        Verified before and unchanged since; here, to be hashed; in the folder to take files from,
        going by its size; begun; or not here.
    size : int or None
        Bytes of the asset; None if neither the manifest nor an earlier fetch knows.
    missing : int
        Bytes that the disk must still take, as far as `size` is known.
    """

    recording_id: str
    path: Path
    step: Step
    size: int | None
    missing: int


def plan(manifest: Manifest, cache: Path, *, folder: Folder | None = None) -> list[Planned]:
    """Return what it takes to have each asset of a manifest. Changes nothing, asks no server.

    Parameters
    ----------
    manifest : Manifest
        What to fetch.
    cache : Path
        The cache folder.
    folder : Folder, optional
        Where files may be taken from.

    Returns
    -------
    list of Planned
        One per asset, in the order of the manifest.

    Raises
    ------
    FetchError
        If an asset would lie outside the cache.
    """
    return [_plan(dataset, asset, cache, folder) for dataset, asset in manifest.items()]


def _plan(dataset: Dataset, asset: Asset, cache: Path, folder: Folder | None) -> Planned:
    path = asset_path(cache, dataset, asset)
    asset = as_recorded(cache, dataset, asset)
    step: Step = "download"
    missing = size = asset.size or 0
    part = part_path(asset, path) if asset.is_pinned else None
    if asset.is_pinned and path.is_file() and path.stat().st_size == size:
        step, missing = "check", 0
        if read_record(cache, dataset, asset) is not None:
            step = "present"
    elif folder is not None and folder.candidates(asset):
        step = "adopt"
    elif part is not None and part.is_file() and part.stat().st_size:
        blocks = part.stat().st_blocks * 512  # of which pieces that are not here take none
        step, missing = "resume", max(0, size - blocks)
    return Planned(dataset.recording_id(asset), path, step, asset.size, missing)


def space_needed(planned: Sequence[Planned], cache: Path) -> tuple[int, int]:
    """Return the bytes that the disk must still take, and those that are free on it."""
    place = cache
    while not place.exists():
        place = place.parent
    return sum(one.missing for one in planned), shutil.disk_usage(place).free


# ------------------------------------------------------------------ many assets


def fetch(
    manifest: Manifest,
    cache: str | Path,
    *,
    jobs: int = 4,
    from_folder: str | Path | None = None,
    mirror: str | None = None,
    offline: bool = False,
    progress: Progress = silent,
    retry: Retry | None = None,
    piece: int = PIECE,
) -> list[FetchResult]:
    """Bring all assets of a manifest into the cache. Run again, it goes on where it ended.

    Licence and citation of each dataset are written beside its assets.

    Parameters
    ----------
    manifest : Manifest
        What to fetch; `spikedata.selection.select` takes a part of one.
    cache : str or Path
        The cache folder, see `default_cache`.
    jobs : int
        How many connections at a time: each for an asset, or for a piece of a large one when
        fewer assets than that are left.
    from_folder : str or Path, optional
        Where to look first. A file is taken, whatever its name, if it has the pinned hash.
    mirror : str, optional
        Address of a copy of a cache's ``assets`` folder, to be asked before the source:
        ``<mirror>/<dataset>/<source>/<path>``, or ``<mirror>/<path>``.
    offline : bool
        Ask no server: what is neither here nor in `from_folder` fails.
    progress : Progress
        Called in this thread with a recording id, the bytes of its asset that are here and
        those there are in all. A remark may follow the id after a comma.
    retry : Retry, optional
        When to ask again and when to give up.
    piece : int
        Bytes of a piece.

    Returns
    -------
    list of FetchResult
        One per asset, in the order of the manifest. A failure stops no other asset.

    Raises
    ------
    ValueError
        If `jobs` or `piece` is below 1.
    FetchError
        If `from_folder` is not a folder, or the disk cannot hold what is missing.

    Examples
    --------
    >>> fetch(load_manifest("sample"), default_cache())  # doctest: +SKIP
    [FetchResult(recording_id='...', status='done', ...)]
    """
    if jobs < 1 or piece < 1:
        raise ValueError(f"jobs and piece must be at least 1, found {jobs} and {piece}")
    cache = Path(cache)
    folder = Folder(Path(from_folder)) if from_folder is not None else None
    calls: Calls = queue.SimpleQueue()
    stop, spare = threading.Event(), threading.Semaphore(0)
    with Bringer(
        manifest, cache, folder=folder, mirror=mirror, offline=offline, retry=retry, stop=stop,
        piece=piece,
    ) as bringer:  # fmt: skip
        completed = bringer.complete()
        _refuse_if_full(completed, cache, folder)

        def bring(dataset: Dataset, asset: Asset) -> FetchResult:
            recording_id = dataset.recording_id(asset)

            def tell(done: int, remark: str = "") -> None:
                size = asset.size or done
                calls.put(partial(progress, recording_id + remark, done, size))

            try:
                return bringer.bring(
                    dataset,
                    asset,
                    report=_sparse(tell, asset.size),
                    waiting=lambda reason: tell(0, f", {reason}"),
                    spare=spare if jobs > 1 else None,
                )
            except FetchError as error:
                where = cache / "assets" / dataset.id
                with suppress(FetchError):
                    where = asset_path(cache, dataset, asset)
                return FetchResult(recording_id, where, "failed", message=str(error))

        tasks = [partial(bring, dataset, asset) for dataset, asset in completed.items()]
        results = run_tasks(tasks, jobs, calls, stop, idle=spare.release)
    here = {one.recording_id for one in results if one.status != "failed"}
    for dataset in manifest.datasets:
        if any(dataset.recording_id(asset) in here for asset in dataset.assets):
            write_citations(cache, dataset)
    return results


def _refuse_if_full(manifest: Manifest, cache: Path, folder: Folder | None) -> None:
    planned = []
    for dataset, asset in manifest.items():
        with suppress(FetchError, OSError):  # that asset fails on its own
            planned.append(_plan(dataset, asset, cache, folder))
    needed, free = space_needed(planned, cache)
    if needed > free:
        raise FetchError(
            f"{manifest.name} needs {needed / 1e9:.2f} GB more in {cache}, where "
            f"{free / 1e9:.2f} GB are free; free some, name another folder with --cache or "
            f"{CACHE_VARIABLE}, or select less. Nothing was fetched."
        )


def _sparse(tell: Callable[[int], None], total: int | None) -> Callable[[int], None]:
    """Pass on the last report, and of the others not more than a few per second."""
    last, told = 0.0, -1

    def sparse(done: int) -> None:
        nonlocal last, told
        now = time.monotonic()
        if done != told and (done == total or now - last >= REPORT_EVERY):
            last, told = now, done
            tell(done)

    return sparse
