"""Copy whole recordings to and from a folder or an object store, every byte checked.

The far end is laid out as a store is, with ``recording.json`` written last and removed first. It
has no rename, so a reader may meet files of two versions; but ``recording.json`` holds the hash of
every file, and what does not fit the one that was read first is no recording.
"""

from __future__ import annotations

import queue
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from spikedata.carry import Offer, Tell, bring, far_offer, header_there, near_offer, send
from spikedata.errors import (
    FormatVersionError,
    RecordingNotFoundError,
    SpikedataError,
    StoreError,
    did_you_mean,
)
from spikedata.far import AbsentError, FarEnd
from spikedata.layout import NAME, RecordingHeader
from spikedata.progress import Progress, silent
from spikedata.store import Store
from spikedata.threads import Calls, Stopped, run_tasks

__all__ = ["MirrorResult", "pull", "push"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MirrorResult:
    """What became, or with `dry_run` would become, of one recording.

    Attributes
    ----------
    recording_id : str
        The recording.
    status : {"done", "planned", "skipped", "left", "failed"}
        Copied now; to be copied; there already, with the same hashes; beyond the size limit; or
        not copied.
    size : int
        Bytes of its files, 0 where that is not known.
    message : str
        Why it failed, or was left.
    """

    recording_id: str
    status: Literal["done", "planned", "skipped", "left", "failed"]
    size: int = 0
    message: str = ""


# ------------------------------------------------------------------ pull


def pull(
    store: str | Path,
    url: str,
    names: Sequence[str] | None = None,
    *,
    max_bytes: int | None = None,
    jobs: int = 4,
    dry_run: bool = False,
    options: Mapping[str, object] | None = None,
    progress: Progress = silent,
) -> list[MirrorResult]:
    """Copy recordings into a store. Run again, it goes on with those that are missing.

    Each is checked against the sizes and SHA-256 of its ``recording.json``, and takes its place
    as a whole. What the store has with the same hashes is not sent again.

    Parameters
    ----------
    store : str or Path
        Folder of the store; it is made if it is missing.
    url : str
        The far end: ``s3://bucket/prefix``, ``https://host/path``, a folder, … (see fsspec).
    names : sequence of str, optional
        Recordings (``dataset/session``) and whole datasets. By default all that is there. Where
        the far end cannot be listed, as many web servers, only recordings can be named.
    max_bytes : int, optional
        How many bytes the chosen recordings may take here in all, those included that are here
        already. In the order of their names, the first that would exceed it and all after it
        are left.
    jobs : int
        How many recordings at a time.
    dry_run : bool
        Copy nothing: read each ``recording.json`` and say what would be done.
    options : mapping, optional
        What fsspec is given beside the address, such as ``{"anon": True}``.
    progress : Progress
        Called in this thread with ``"pull"``, the bytes that came and those to come in all.

    Returns
    -------
    list of MirrorResult
        One per recording, sorted by name. A failure stops no other one.

    Raises
    ------
    ValueError
        If `jobs` is below 1.
    RecordingNotFoundError
        If a name cannot be one, or the far end has no such dataset.
    StoreError
        If the far end cannot be reached or listed, or the store cannot be made.

    Examples
    --------
    >>> pull("store", "s3://bucket/spikes", ["perich_miller_2018"])  # doctest: +SKIP
    [MirrorResult(recording_id='...', status='done', ...)]
    """
    far = FarEnd(url, options)
    listed = names is None or any("/" not in name for name in names)
    ids = _chosen(names, far.ids() if listed else [], far.name)
    near = Store(store, create=not dry_run) if not dry_run or Path(store).is_dir() else None

    def look(recording_id: str) -> Offer | MirrorResult | None:
        try:
            offer = far_offer(far, recording_id)
            if near is not None and _has(near, offer.header):
                return MirrorResult(recording_id, "skipped", offer.size)
            return offer
        except AbsentError:
            if names is None or recording_id not in names:
                return None  # a folder that is no recording, or not yet
            return MirrorResult(
                recording_id, "failed", 0, f"{far.name} holds no recording '{recording_id}'."
            )
        except (SpikedataError, OSError) as error:
            return MirrorResult(recording_id, "failed", 0, _named(recording_id, error))

    found = [one for one in _run([partial(look, one) for one in ids], jobs) if one is not None]
    planned = _within(found, max_bytes, shutil.disk_usage(_existing(Path(store))).free)
    offers = {one.header.recording_id: one for one in found if isinstance(one, Offer)}

    def copy(recording_id: str, tell: Tell) -> None:
        if near is not None:  # as it always is outside a dry run
            bring(near, far, offers[recording_id], tell)

    return planned if dry_run else _copied("pull", planned, copy, jobs, progress)


def _has(store: Store, header: RecordingHeader) -> bool:
    """Return whether a store holds the very recording; a damaged one it does not hold."""
    try:
        return store.header(header.recording_id) == header
    except FormatVersionError:
        raise  # written by a newer spikedata: not ours to replace
    except StoreError:
        return False


def _within(
    found: Sequence[Offer | MirrorResult], max_bytes: int | None, free: int
) -> list[MirrorResult]:
    """Return what is to be done with each recording, given the limit and the free bytes."""
    here = [one for one in found if isinstance(one, MirrorResult)]
    used, is_full, planned = sum(one.size for one in here), False, []
    for one in found:
        if isinstance(one, MirrorResult):
            planned.append(one)
            continue
        result = MirrorResult(one.header.recording_id, "planned", one.size)
        is_full = is_full or (max_bytes is not None and used + one.size > max_bytes)
        if is_full:
            text = f"{one.size} bytes more would exceed the limit of {max_bytes} bytes."
            result = replace(result, status="left", message=text)
        elif one.size > free:
            text = f"{result.recording_id} needs {one.size} bytes of the disk, {free} are free."
            result = replace(result, status="failed", message=text)
        else:
            used, free = used + one.size, free - one.size
        planned.append(result)
    return planned


def _existing(path: Path) -> Path:
    """Return a folder, or the one above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


# ------------------------------------------------------------------ push


def push(
    store: str | Path,
    url: str,
    names: Sequence[str] | None = None,
    *,
    jobs: int = 4,
    dry_run: bool = False,
    options: Mapping[str, object] | None = None,
    progress: Progress = silent,
) -> list[MirrorResult]:
    """Copy recordings of a store to a far end, where `pull` finds them.

    Every file is hashed before and while it is sent. A folder of this machine becomes a store, in
    which a recording is replaced at once. Elsewhere a recording that is replaced cannot be pulled
    from when its ``recording.json`` is removed until the new one is there.

    Parameters
    ----------
    store : str or Path
        Folder of the store.
    url, jobs, dry_run, options, progress
        As in `pull`; progress is reported as ``"push"``.
    names : sequence of str, optional
        Recordings (``dataset/session``) and whole datasets. By default the whole store.

    Returns
    -------
    list of MirrorResult
        One per recording, sorted by name. A failure stops no other one.

    Raises
    ------
    ValueError
        If `jobs` is below 1.
    RecordingNotFoundError
        If the store has no such recording or dataset.
    StoreError
        If there is no store, or the far end cannot be reached.
    """
    near, far = Store(store), FarEnd(url, options)
    ids = _chosen(names, list(near), str(near.path))
    absent = sorted(set(ids) - set(near))
    if absent:
        raise RecordingNotFoundError(
            f"{near.path} holds no recording '{absent[0]}'; {did_you_mean(absent[0], near)}"
        )
    if far.folder is not None:
        return pull(far.folder, str(near.path.absolute()), ids, jobs=jobs, dry_run=dry_run,
                    progress=lambda _, done, total: progress("push", done, total))  # fmt: skip

    def look(recording_id: str) -> MirrorResult:
        try:
            offer = near_offer(near, recording_id)
            status = "skipped" if header_there(far, recording_id) == offer.header else "planned"
            return MirrorResult(recording_id, status, offer.size)
        except (SpikedataError, OSError) as error:
            return MirrorResult(recording_id, "failed", 0, _named(recording_id, error))

    planned = _run([partial(look, one) for one in ids], jobs)
    copy = partial(send, near, far)
    return planned if dry_run else _copied("push", planned, copy, jobs, progress)


# ------------------------------------------------------------------ many recordings


def _chosen(names: Sequence[str] | None, known: Sequence[str], where: str) -> list[str]:
    """Return the ids that names of recordings and datasets mean, sorted, each once."""
    if names is None:
        return list(known)
    datasets = {one.partition("/")[0] for one in known}
    ids: set[str] = set()
    for name in names:
        if re.fullmatch(f"{NAME}/{NAME}", name):
            ids.add(name)
        elif name in datasets:
            ids |= {one for one in known if one.startswith(f"{name}/")}
        else:
            raise RecordingNotFoundError(
                f"{where} holds no dataset '{name}', and a recording is named "
                f"'<dataset>/<session>'; {did_you_mean(name, datasets)}"
            )
    return sorted(ids)


def _copied(
    label: str,
    planned: Sequence[MirrorResult],
    copy: Callable[[str, Tell], None],
    jobs: int,
    progress: Progress,
) -> list[MirrorResult]:
    """Copy what is planned, several at a time, and return what became of everything."""
    total = sum(one.size for one in planned if one.status == "planned")
    calls: Calls = queue.SimpleQueue()
    stop, done_of = threading.Event(), dict[str, int]()

    def advance(recording_id: str, done: int) -> None:
        done_of[recording_id] = done
        progress(label, sum(done_of.values()), total)

    def tell(recording_id: str, done: int) -> None:
        if stop.is_set():
            raise Stopped
        calls.put(partial(advance, recording_id, done))

    def work(one: MirrorResult) -> MirrorResult:
        if one.status != "planned":
            return one
        try:
            copy(one.recording_id, partial(tell, one.recording_id))
        except (SpikedataError, OSError) as error:
            return replace(one, status="failed", message=_named(one.recording_id, error))
        return replace(one, status="done")

    return _run([partial(work, one) for one in planned], jobs, calls, stop)


def _named(recording_id: str, error: Exception) -> str:
    return str(error) if recording_id in str(error) else f"{recording_id}: {error}"


def _run(
    tasks: Sequence[Callable[[], T]],
    jobs: int,
    calls: Calls | None = None,
    stop: threading.Event | None = None,
) -> list[T]:
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, found {jobs}")
    calls, stop = calls or queue.SimpleQueue(), stop or threading.Event()
    return run_tasks(tasks, min(jobs, len(tasks)), calls, stop)
