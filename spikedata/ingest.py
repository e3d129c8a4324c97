"""Turns fetched assets into recordings of a store, on one process or many; safe to run again."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal, cast

from pydantic import JsonValue

from spikedata.cache import as_recorded, asset_path, is_verified, read_record
from spikedata.digests import conflict, digests_of, pin_of
from spikedata.errors import FetchError, HashMismatchError, SpikedataError, StoreError
from spikedata.executors import in_processes, on_executor, was_lost
from spikedata.harmonize import harmonize
from spikedata.manifest import Asset, Dataset, FileSource, Manifest
from spikedata.origins import file_below
from spikedata.progress import Progress, silent
from spikedata.remote import open_remote
from spikedata.store import Store
from spikedata.transfer import Retry
from spikedata.version import __version__

__all__ = ["IngestResult", "ingest", "ingest_asset"]

NOT_IN_THE_BYTES = {"published", "role"}  # what a manifest thinks of a recording
TRIES_ALONE = 3  # for an asset whose process died: it may not have been its fault

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of one asset.

    Parameters
    ----------
    recording_id : str
        ``"<dataset>/<session>"``.
    status : str
        "done", "skipped" (the store has it, made the same way) or "failed".
    message : str
        Why it failed, in a sentence; of one that was streamed, how its bytes were checked;
        ``""`` otherwise.
    seconds : float
        How long it took.
    bytes_read : int
        Of one that was streamed: bytes that came from the server. 0 otherwise.
    """

    recording_id: str
    status: Literal["done", "skipped", "failed"]
    message: str
    seconds: float
    bytes_read: int = 0


@dataclass(frozen=True, slots=True)
class _Stream:
    """How assets that are not here are read where they are: `folder` holds the manifest."""

    folder: Path
    retry: Retry


Job = tuple[Dataset, Asset, Path, Path, str, _Stream | None]
Outcome = tuple[Literal["done", "skipped"], str, int]  # status, message, bytes_read


def ingest_asset(dataset: Dataset, asset: Asset, asset_file: Path, store: Path) -> IngestResult:
    """Harmonise one asset and write it to the store, unless it is there already.

    Parameters
    ----------
    dataset, asset : Dataset, Asset
        What the manifest says.
    asset_file : Path
        The fetched file. Its size is compared with the manifest's first, its hash while it is
        harmonised; nothing is kept of a file that is another.
    store : Path
        Folder of the store; made when missing.

    Returns
    -------
    IngestResult
        "skipped" when the store holds the recording, made from the same bytes by the same
        options, harmoniser and version of spikedata. Never raises for a bad asset.
    """
    work = partial(_ingest, dataset, asset, Path(asset_file), Path(store))
    return _result_of(work, dataset.recording_id(asset))


def _result_of(work: Callable[[], Outcome], recording_id: str) -> IngestResult:
    """Return what became of an asset, failures too."""
    begin, bytes_read = time.perf_counter(), 0
    try:
        status, message, bytes_read = work()
    except SpikedataError as error:
        status, message = "failed", str(error)
    except Exception as error:  # the job boundary: one asset must not stop the others
        log.error("%s: %s", recording_id, traceback.format_exc())
        status = "failed"
        message = f"{recording_id}: {type(error).__name__}: {error} (the log has the traceback)"
    return IngestResult(recording_id, status, message, time.perf_counter() - begin, bytes_read)


def ingest(
    manifest: Manifest,
    cache: str | Path,
    store: str | Path,
    *,
    executor: Executor | None = None,
    workers: int = 1,
    stream: bool = False,
    retry: Retry | None = None,
    progress: Progress = silent,
) -> list[IngestResult]:
    """Ingest every asset of a manifest. Run again, it does only what is missing or changed.

    Parameters
    ----------
    manifest : Manifest
        What to ingest.
    cache : str or Path
        Where `spikedata.fetch` put the assets.
    store : str or Path
        Folder of the store; made when missing.
    executor : concurrent.futures.Executor, optional
        Where to run, as `spikedata.executors.connect` gives one of a Dask cluster; it must see
        the same folders. By default this process, or `workers` spawned processes (libhdf5 is
        not thread-safe, and forks inherit its state).
    workers : int
        Processes at a time, without an executor; 1 stays in this process.
    stream : bool
        Whether assets that are not in the cache are read where they are, and nothing of them is
        kept: files of this machine in place, others by range requests (see `spikedata.remote`
        for how they are checked, since they cannot be hashed).
    retry : Retry, optional
        When a server is asked again, and when it is given up.
    progress : Progress
        Called as assets are finished.

    Returns
    -------
    list of IngestResult
        One per asset, in the order of the manifest.
    """
    jobs: list[Job] = []
    streaming = _Stream(manifest.path.absolute().parent, retry or Retry()) if stream else None
    for dataset, asset in manifest.items():
        alone = dataset.model_copy(update={"assets": (asset,)})  # the job travels to a process
        folders = Path(cache).absolute(), Path(store).absolute()
        jobs.append((alone, asset, *folders, manifest.name, streaming))
    found: dict[str, IngestResult] = {}
    if executor is None and (workers < 2 or len(jobs) < 2):
        for job in jobs:
            found[_id(job)] = _run(job)
            progress("ingest", len(found), len(jobs))
    else:
        lost = _collect(_spread(jobs, executor, workers), found, progress, len(jobs))
        for _ in range(TRIES_ALONE):
            lost = _collect(_one_by_one(lost, executor), found, progress, len(jobs))
        for job in lost:
            message = (
                f"{_id(job)}: its process died, most likely for want of memory; use less workers."
            )
            found[_id(job)] = IngestResult(_id(job), "failed", message, 0.0)
            progress("ingest", len(found), len(jobs))
    return [found[_id(job)] for job in jobs]


# ------------------------------------------------------------------ one asset


def _ingest(
    dataset: Dataset, asset: Asset, path: Path, folder: Path, verified: bool = False
) -> Outcome:
    """Harmonise a file of this machine; `verified` says that its bytes have been hashed."""
    if _is_current(dataset, asset, folder):
        return "skipped", "", 0
    recording_id = dataset.recording_id(asset)
    _check_size(recording_id, asset, path)
    if verified:
        recording = harmonize(path, dataset, asset)
    else:
        with ThreadPoolExecutor(1) as beside:  # hashing lets go of the interpreter's lock
            checked = beside.submit(_check_bytes, recording_id, asset, path)
            try:
                recording = harmonize(path, dataset, asset)
            finally:
                checked.result()  # other bytes explain whatever else went wrong
    Store(folder, create=True).write(recording, _provenance(dataset, asset))
    return "done", "", 0


def _in_place(dataset: Dataset, asset: Asset, folder: Path, streaming: _Stream) -> Outcome:
    """Do the same with a file of this machine that is not in the cache."""
    root = dataset.source.root if isinstance(dataset.source, FileSource) else "."
    try:
        path = file_below(streaming.folder / root, asset.path)
    except FetchError as error:
        raise FetchError(f"{dataset.recording_id(asset)} ({asset.path}): {error}") from error
    return _ingest(dataset, asset, path, folder)


def _stream(dataset: Dataset, asset: Asset, folder: Path, streaming: _Stream) -> Outcome:
    """Do the same with a file where it is: of one on a server only what is needed is read."""
    try:
        with open_remote(dataset, asset, retry=streaming.retry) as (found, file):
            if _is_current(dataset, found, folder):
                return "skipped", "", 0
            recording = harmonize(cast(IO[bytes], file), dataset, found)
    except FetchError as error:
        where = f"{dataset.recording_id(asset)} ({asset.path})"
        raise type(error)(f"{where}: {error}") from error
    Store(folder, create=True).write(recording, _provenance(dataset, found))
    same = "size and ETag are those" if file.etag else "size is the one"
    what = "the manifest pins" if asset.is_pinned else "the archive states"
    return "done", f"streamed: the {same} that {what}; the bytes were not hashed", file.bytes_read


def _is_current(dataset: Dataset, asset: Asset, folder: Path) -> bool:
    """Return whether the store holds the recording, made as it would be made now."""
    recording_id = dataset.recording_id(asset)
    try:
        found = Store(folder).provenance(recording_id)
    except StoreError:  # no store, no such recording, damaged or of another format
        return False
    return found.get("key") == _provenance(dataset, asset)["key"]


def _provenance(dataset: Dataset, asset: Asset) -> dict[str, JsonValue]:
    """Return how the recording is made; its key changes with anything that could change it."""
    made_from: dict[str, JsonValue] = {
        "dataset": dataset.model_dump(mode="json", exclude={"assets", "harmonize", "note"}),
        "asset": asset.model_dump(mode="json", exclude=NOT_IN_THE_BYTES),
        "harmonize": dataset.harmonize.model_dump(mode="json"),
        "spikedata_version": __version__,
    }
    text = json.dumps(made_from, sort_keys=True, ensure_ascii=False)
    return {"key": hashlib.sha256(text.encode()).hexdigest(), **made_from}


def _check_size(recording_id: str, asset: Asset, path: Path) -> None:
    """Raise unless the file is there, is pinned, and has the pinned size; nothing is read."""
    if not path.is_file():
        raise FetchError(f"{recording_id}: there is no file {path}; fetch it first.")
    if not asset.is_pinned:
        raise FetchError(
            f"{recording_id}: the manifest pins no hash of {asset.path} and no fetch has recorded "
            "one; fetch it first, or pin it with `spikedata manifest resolve`."
        )
    size = path.stat().st_size
    if size != asset.size:
        raise HashMismatchError(
            f"{recording_id}: {path} has {size:,} bytes, the manifest pins {asset.size:,}; fetch "
            "it again."
        )


def _check_bytes(recording_id: str, asset: Asset, path: Path) -> None:
    """Raise unless the file is the one that the manifest pins."""
    found = conflict(asset, digests_of(path, asset))
    if found is not None:
        raise HashMismatchError(
            f"{recording_id}: {path} has {found}, the manifest pins {pin_of(asset)}; nothing of it "
            "was kept; fetch it again."
        )


# ------------------------------------------------------------------ many assets


def _id(job: Job) -> str:
    return job[0].recording_id(job[1])


def _run(job: Job) -> IngestResult:
    dataset, asset, cache, store, manifest_name, streaming = job
    try:
        path = asset_path(cache, dataset, asset)
        asset = as_recorded(cache, dataset, asset)
    except SpikedataError as error:
        return IngestResult(_id(job), "failed", str(error), 0.0)
    if not path.is_file() and not _is_current(dataset, asset, store):
        if streaming:
            work = _in_place if isinstance(dataset.source, FileSource) else _stream
            return _result_of(partial(work, dataset, asset, store, streaming), _id(job))
        message = (
            f"{_id(job)}: {asset.path} was not fetched; run "
            f"`spikedata fetch --manifest {manifest_name}` first."
        )
        return IngestResult(_id(job), "failed", message, 0.0)
    verified = read_record(cache, dataset, asset) is not None and is_verified(cache, dataset, asset)
    return _result_of(partial(_ingest, dataset, asset, path, store, verified), _id(job))


Done = Generator[tuple[Job, Future[IngestResult]], None, None]


def _spread(jobs: Sequence[Job], executor: Executor | None, workers: int) -> Done:
    if executor is None:
        return in_processes(_run, jobs, workers)
    return on_executor(executor, _run, jobs)


def _one_by_one(jobs: Sequence[Job], executor: Executor | None) -> Done:
    """Run each job while no other is: the memory is its own, and so is the blame."""
    if executor is None:
        yield from in_processes(_run, jobs, 1)
    else:
        for job in jobs:
            yield from on_executor(executor, _run, [job])


def _collect(
    done: Done, found: dict[str, IngestResult], progress: Progress, total: int
) -> list[Job]:
    """Put the results into `found`, and return the jobs that were lost because a process died."""
    lost: list[Job] = []
    with closing(done):  # Ctrl-C: start nothing more; a recording is whole or not there
        for job, future in done:
            try:
                found[_id(job)] = future.result()
            except Exception as error:
                if was_lost(error):
                    lost.append(job)
                    continue
                # an executor's own failure, as a job that cannot travel
                message = f"{_id(job)}: {type(error).__name__}: {error}"
                if isinstance(error, CancelledError):
                    message = (
                        f"{_id(job)}: it was not begun: the executor was stopped, or its scheduler "
                        "is gone; run the same command again."
                    )
                found[_id(job)] = IngestResult(_id(job), "failed", message, 0.0)
            progress("ingest", len(found), total)
    return lost
