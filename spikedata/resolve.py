"""Pin a manifest anew: compare it with what its archives list now, and write the new one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import ValidationError

from spikedata.errors import FetchError, ManifestError
from spikedata.files import write_whole
from spikedata.manifest import (
    Asset,
    Dataset,
    Manifest,
    Source,
    describe_source,
    describe_validation_error,
)
from spikedata.origins import Listed, Listing

__all__ = ["Change", "Resolution", "resolve", "write_manifest"]

Newest = Callable[[Source], Listing]
"""Returns what the archive of a source holds in its newest version."""

Kind = Literal[
    "new version", "new doi", "new citation", "new licence",
    "unchanged", "new id", "new bytes", "pinned", "gone", "not listed here",
]  # fmt: skip
PINS = ("size", "sha256", "md5", "etag")


@dataclass(frozen=True, slots=True)
class Change:
    """How one asset, or with no path one dataset, differs from what its archive lists."""

    dataset: str
    path: str
    kind: Kind
    message: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """A manifest pinned anew, and everything in which it was compared with the old one."""

    manifest: Manifest
    changes: tuple[Change, ...]

    @property
    def is_changed(self) -> bool:
        """Whether the new manifest says anything else than the old one."""
        return any(one.kind not in ("unchanged", "not listed here") for one in self.changes)


def resolve(manifest: Manifest, newest: Newest, *, drop_gone: bool = False) -> Resolution:
    """Pin every dataset of an archive to the newest version; assets are found by their path.

    Files that the archive has beside them are named, not added: a manifest is a selection.

    Parameters
    ----------
    manifest : Manifest
        What to pin. Its datasets of other sources stay as they are.
    newest : callable
        Gives the `Listing` of a source, see `spikedata.archives.newest`; asked once a source.
    drop_gone : bool
        Leave out what the archive no longer has, where it is an error otherwise.

    Returns
    -------
    Resolution
        The new manifest and one change an asset, also where nothing changed.

    Raises
    ------
    ManifestError
        If assets are gone, or nothing would be left.
    FetchError
        If the archive does not say enough of a file to pin it, or cannot be asked.
    """
    listings: dict[Source, Listing] = {}
    changes: list[Change] = []
    datasets: list[Dataset] = []
    for dataset in manifest.datasets:
        if dataset.source.kind not in ("dandi", "zenodo"):
            datasets.append(dataset)
            continue
        if dataset.source not in listings:
            listings[dataset.source] = newest(dataset.source)
        listing = listings[dataset.source]
        changed = _resolve_dataset(dataset, listing)
        changes += changed.changes
        changes += _unlisted(dataset, listing, _known(manifest, dataset))
        if changed.assets:
            datasets.append(_with(dataset, changed, listing))
    gone = [f"{one.dataset}/{one.path}" for one in changes if one.kind == "gone"]
    if gone and not drop_gone:
        raise ManifestError(
            f"{manifest.name}: {len(gone)} asset(s) are gone from their archive: {_some(gone)}; "
            "look for their new paths, or leave them out with --drop-gone."
        )
    if not datasets:
        raise ManifestError(f"{manifest.name}: every asset is gone from its archive.")
    return Resolution(manifest.model_copy(update={"datasets": tuple(datasets)}), tuple(changes))


# ------------------------------------------------------------------ one dataset


@dataclass(frozen=True, slots=True)
class _Resolved:
    """The assets of a dataset as they are now, its other fields, and the changes of both."""

    assets: list[Asset]
    fields: dict[str, object]
    changes: list[Change]


def _resolve_dataset(dataset: Dataset, listing: Listing) -> _Resolved:
    fields, changes = _about(dataset, listing)
    by_path = {file.path: file for file in listing.files}
    is_same_version = not any(one.kind == "new version" for one in changes)
    assets, waiting = [], []
    for asset in dataset.assets:
        file = by_path.get(asset.path)
        if file is None:
            changes.append(Change(dataset.id, asset.path, "gone"))
        elif _lacks_hash(dataset, asset, file):
            waiting.append(asset.path)
        else:
            new, kind, message = _resolve_asset(asset, file, is_same_version)
            assets.append(new)
            changes.append(Change(dataset.id, asset.path, kind, message))
    if waiting:
        raise FetchError(
            f"{dataset.id}: {listing.title or describe_source(dataset.source)}, version "
            f"{listing.version}, states no hash yet of {len(waiting)} file(s) that are not known "
            f"to be the pinned ones: {_some(waiting)}; resolve again in some hours."
        )
    return _Resolved(assets, fields, changes)


def _about(dataset: Dataset, listing: Listing) -> tuple[dict[str, object], list[Change]]:
    """Return what the archive says of the whole dataset, and in which of that it differs."""
    source, fields, changes = dataset.source, {}, []
    field = "record" if source.kind == "zenodo" else "version"
    old = getattr(source, field)
    if listing.version != old:
        fields["source"] = {**source.model_dump(), field: listing.version}
        changes.append(Change(dataset.id, "", "new version", f"{old} → {listing.version}"))
    # A DOI that names the old version is not one of the new version.
    is_stale = listing.version != old and old in (dataset.doi or "")
    said = {
        "doi": listing.doi or (None if is_stale else dataset.doi),
        "citation": listing.citation or dataset.citation,
        "licence": listing.licence or dataset.licence,
    }
    kinds: dict[str, Kind] = {"doi": "new doi", "citation": "new citation",
                              "licence": "new licence"}  # fmt: skip
    for name, value in said.items():
        before = getattr(dataset, name)
        if value != before:
            fields[name] = value
            changes.append(Change(dataset.id, "", kinds[name], f"{before} → {value}"))
    return fields, changes


def _with(dataset: Dataset, changed: _Resolved, listing: Listing) -> Dataset:
    """Return the dataset with its new fields, validated as if it had been read."""
    content = {**dataset.model_dump(), **changed.fields}
    content["assets"] = [asset.model_dump() for asset in changed.assets]
    try:
        return Dataset.model_validate(content)
    except ValidationError as error:
        raise FetchError(
            f"{dataset.id}: the archive's version {listing.version} does not fit a manifest: "
            f"{describe_validation_error(error)}"
        ) from None


def _known(manifest: Manifest, dataset: Dataset) -> set[str]:
    """Return the paths that a manifest has of an archive, in any of its datasets."""
    mine = _holding(dataset.source)
    return {asset.path for other, asset in manifest.items() if _holding(other.source) == mine}


def _holding(source: Source) -> tuple[str, ...]:
    return (source.kind, getattr(source, "dandiset", ""), getattr(source, "record", ""),
            getattr(source, "api_url", None) or "")  # fmt: skip


def _unlisted(dataset: Dataset, listing: Listing, known: set[str]) -> Iterator[Change]:
    for file in listing.files:
        if file.path not in known:
            yield Change(dataset.id, file.path, "not listed here")


# ------------------------------------------------------------------ one asset


def _same_bytes(asset: Asset, file: Listed) -> bool | None:
    """Return whether pinned and listed bytes are the same, None if that cannot be told."""
    if asset.size is not None and asset.size != file.size:
        return False
    for name in ("sha256", "md5", "etag"):  # the strongest that both state
        mine, theirs = getattr(asset, name), getattr(file, name)
        if mine is not None and theirs is not None:
            return mine == theirs
    return None


def _lacks_hash(dataset: Dataset, asset: Asset, file: Listed) -> bool:
    """Return whether a file cannot be pinned: no hash is stated, and the old one may not hold."""
    stated = file.sha256 or (file.md5 if dataset.source.kind == "zenodo" else None)
    return stated is None and not _same_bytes(asset, file)


def _resolve_asset(asset: Asset, file: Listed, is_same_version: bool) -> tuple[Asset, Kind, str]:
    """Return an asset as its archive lists it, the kind of change, and what differs."""
    same = _same_bytes(asset, file)
    if same is None:  # nothing to compare: a record never changes, anything else may have
        same = is_same_version or not (asset.sha256 or asset.md5)
    now = {name: getattr(file, name) or (getattr(asset, name) if same else None) for name in PINS}
    now["size"] = file.size
    differ = {name: value for name, value in now.items() if value != getattr(asset, name)}
    message = ", ".join(
        f"{name} {_shown(getattr(asset, name))} → {_shown(value)}" for name, value in differ.items()
    )
    asset_id = file.asset_id or asset.asset_id
    new = asset.model_copy(update={**now, "asset_id": asset_id})
    if not same:
        return new, "new bytes", message
    if asset_id != asset.asset_id:
        return new, "new id", f"{_shown(asset.asset_id)} → {asset_id}"
    return new, "pinned" if differ else "unchanged", message


def _shown(value: object) -> str:
    """Return a pin, short enough to compare two of them by eye."""
    if value is None:
        return "unknown"
    text = str(value)
    return text if isinstance(value, int) or len(text) <= 12 else f"{text[:12]}…"


def _some(names: list[str]) -> str:
    """Return the first five names and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


# ------------------------------------------------------------------ writing


def write_manifest(manifest: Manifest, path: Path, *, overwrite: bool = False) -> None:
    """Write a manifest as TOML, so that `load_manifest` gives the same one.

    What has its default value is left out. The folder of a local source is written relative to
    the new file.

    Parameters
    ----------
    manifest : Manifest
        What to write.
    path : Path
        The file, ``*.toml``.
    overwrite : bool
        Replace the file that is there, with the comments that it has.

    Raises
    ------
    ManifestError
        If there is a file, or the name does not end in ``.toml``.
    OSError
        If the folder is missing, full or not writable.
    """
    path = Path(path)
    if path.suffix != ".toml":
        raise ManifestError(f"A manifest is a .toml file; {path} is not named so.")
    if path.exists() and not overwrite:
        raise ManifestError(
            f"{path} exists; name another file with --out, or replace it with --overwrite."
        )
    archives = dict.fromkeys(
        describe_source(dataset.source)
        for dataset in manifest.datasets
        if dataset.source.kind in ("dandi", "zenodo")
    )
    against = "; ".join(archives) or "no archive: all files are of folders or plain addresses"
    write_whole(path, f"# Resolved against {against}\n{tomli_w.dumps(_content(manifest, path))}")


def _content(manifest: Manifest, path: Path) -> dict[str, object]:
    """Return what is written of a manifest; the values that choose a kind always are."""
    content = manifest.model_dump(exclude_defaults=True, exclude_none=True)
    for dataset, written in zip(manifest.datasets, content["datasets"], strict=True):
        if dataset.source.kind == "file":
            root = _root_from(manifest.path.parent, dataset.source.root, path)
            written["source"] = {"kind": "file", "root": root}
        splits = written.get("harmonize", {}).get("splits", {})
        for name, split in splits.items():
            splits[name] = {"kind": dataset.harmonize.splits[name].kind, **split}
    return content


def _root_from(folder: Path, root: str, path: Path) -> str:
    """Return `root`, which is relative to `folder`, relative to the folder of `path`."""
    there = path.resolve().parent
    if Path(root).is_absolute() or there == folder.resolve():
        return root
    return Path(os.path.relpath(folder.resolve() / root, there)).as_posix()
