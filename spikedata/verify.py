"""Reads every byte of fetched assets again and compares it with what was pinned or recorded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from spikedata.cache import Record, as_recorded, asset_path, record_path
from spikedata.digests import conflict, digests_of, pin_of
from spikedata.manifest import Asset, Dataset, Manifest
from spikedata.progress import Progress, silent

__all__ = ["VerifyResult", "verify", "verify_cache"]

Status = Literal["right", "wrong", "missing"]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Whether one file holds what it should.

    Attributes
    ----------
    name : str
        The recording that the asset becomes, or the file's path in the cache.
    path : Path
        The file.
    status : {"right", "wrong", "missing"}
        What was found.
    message : str
        What was expected, what was found, and what to do; ``""`` when it is right.
    """

    name: str
    path: Path
    status: Status
    message: str = ""


def verify(
    manifest: Manifest, cache: Path, *, jobs: int = 2, progress: Progress = silent
) -> list[VerifyResult]:
    """Compare every asset of a manifest in the cache with its pins, byte for byte.

    Parameters
    ----------
    manifest : Manifest
        What should be there.
    cache : Path
        The cache folder.
    jobs : int
        Files read at a time.
    progress : Progress
        Called as files are finished.

    Returns
    -------
    list of VerifyResult
        One per asset, in the order of the manifest. No asset is changed; what was recorded of a
        wrong one is forgotten, so that the next fetch replaces it.
    """

    def check(dataset: Dataset, asset: Asset) -> VerifyResult:
        name, path = dataset.recording_id(asset), asset_path(cache, dataset, asset)
        if not path.is_file():
            return VerifyResult(name, path, "missing", f"{name}: {asset.path} was not fetched.")
        known = as_recorded(cache, dataset, asset)
        if not known.is_pinned:
            return VerifyResult(
                name, path, "wrong", f"{name}: neither the manifest nor a fetch knows its hash."
            )
        return _compare(name, path, known, record_path(cache, dataset, asset))

    tasks = [partial(check, dataset, asset) for dataset, asset in manifest.items()]
    return _run(tasks, jobs, progress)


def verify_cache(cache: Path, *, jobs: int = 2, progress: Progress = silent) -> list[VerifyResult]:
    """Compare every file that was ever fetched into the cache with what it was then.

    Returns
    -------
    list of VerifyResult
        One per file, by path. A file that no fetch recorded is "wrong": it was put there by hand
        (``spikedata fetch --from-folder`` adopts such files).
    """

    def check(path: Path) -> VerifyResult:
        name = str(path.relative_to(cache / "assets"))
        record = cache / "verified" / f"{name}.json"
        try:
            known = Record.model_validate_json(record.read_bytes())
        except (OSError, ValidationError):
            return VerifyResult(name, path, "wrong", f"{name}: no fetch has recorded this file.")
        pins = known.model_dump(exclude={"mtime_ns"})
        return _compare(name, path, Asset(path=name, session="file", **pins), record)

    tasks = [partial(check, path) for path in _assets(cache)]
    return _run(tasks, jobs, progress)


def _assets(cache: Path) -> Iterator[Path]:
    """Yield the files of the cache that are assets: two folders deep, and finished."""
    for path in sorted((cache / "assets").glob("*/*/**/*")):
        unfinished = path.suffix in (".part", ".pieces", ".new", ".bad")
        if path.is_file() and not unfinished and not path.name.startswith("."):
            yield path


def _compare(name: str, path: Path, asset: Asset, record: Path) -> VerifyResult:
    size = path.stat().st_size
    found = None if size != asset.size else conflict(asset, digests_of(path, asset))
    if size == asset.size and found is None:
        return VerifyResult(name, path, "right")
    record.unlink(missing_ok=True)  # or the next fetch would believe it
    return VerifyResult(
        name,
        path,
        "wrong",
        f"{name}: {path} has {size} bytes{f' and {found}' if found else ''}, expected {asset.size} "
        f"and {pin_of(asset)}; fetch it again, or set it aside to look into it.",
    )


def _run(
    tasks: list[Callable[[], VerifyResult]], jobs: int, progress: Progress
) -> list[VerifyResult]:
    """Run tasks on a few threads; they are daemons, so that an interrupt need not wait."""
    results: dict[int, VerifyResult] = {}
    todo = iter(enumerate(tasks))
    finished: queue.SimpleQueue[tuple[int, VerifyResult | Exception]] = queue.SimpleQueue()
    guard = threading.Lock()

    def work() -> None:
        while True:
            with guard:
                index, task = next(todo, (-1, None))
            if task is None:
                return
            try:
                finished.put((index, task()))
            except Exception as error:  # for the caller's thread
                finished.put((index, error))

    for _ in range(min(max(1, jobs), len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    while len(results) < len(tasks):
        index, result = finished.get()
        if isinstance(result, Exception):
            raise result
        results[index] = result
        progress("verify", len(results), len(tasks))
    return [results[index] for index in range(len(tasks))]
