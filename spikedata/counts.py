"""How much a manifest holds, beside what the publication that it rebuilds says it used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from spikedata.manifest import Asset, Manifest

__all__ = ["Count", "counts", "subjects_of"]

Kind = Literal["train", "heldout", "transfer", "absent", "sum", "publication"]


@dataclass(frozen=True, slots=True)
class Count:
    """One row of the table: a dataset in one role, what is absent, the sum, or the publication.

    `entries` and `units` are as published: a recording may be listed more than once, and its
    units count once an entry. Where no asset says anything of that, they are None; so are
    `files` and `size` (in bytes) of what this manifest does not fetch.
    """

    name: str
    kind: Kind
    files: int | None
    size: int | None
    entries: int | None
    units: int | None
    subjects: int


def counts(manifest: Manifest) -> list[Count]:
    """Return how much a manifest holds: datasets by role, then what is absent.

    Parameters
    ----------
    manifest : Manifest
        Any manifest.

    Returns
    -------
    list of Count
        If the manifest names a publication, the last two rows are the sum of what is for
        training with what is absent, and what the publication says.

    Examples
    --------
    >>> from spikedata.manifest import load_manifest
    >>> [(row.name, row.kind, row.files) for row in counts(load_manifest("sample"))]
    [('peyrache_a2929', 'train', 1), ('nelpy_linear_track', 'train', 1)]
    """
    rows = []
    for dataset in manifest.datasets:
        by_role: dict[Kind, list[Asset]] = {"train": [], "heldout": [], "transfer": []}
        for asset in dataset.assets:
            by_role[asset.role].append(asset)
        rows += [_row(dataset.id, role, assets) for role, assets in by_role.items() if assets]
    rows += [
        Count(one.id, "absent", None, None, one.sessions, one.units, len(set(one.subjects)))
        for one in manifest.absent
    ]
    if manifest.publication is not None:
        said = manifest.publication
        rows.append(_sum(manifest, rows))
        rows.append(
            Count(said.title, "publication", None, None, said.sessions, said.units, said.subjects)
        )
    return rows


def subjects_of(manifest: Manifest) -> set[str]:
    """Return the subjects for training, here or absent; one name is one subject everywhere."""
    here = {asset.subject for _, asset in manifest.items() if asset.role == "train"}
    return (here | {name for one in manifest.absent for name in one.subjects}) - {""}


def _row(name: str, kind: Kind, assets: list[Asset]) -> Count:
    published = [asset.published for asset in assets if asset.published is not None]
    return Count(
        name,
        kind,
        files=len(assets),
        size=sum(asset.size or 0 for asset in assets),
        entries=_total(one.entries for one in published),
        units=_total(one.entries * one.units for one in published if one.units is not None),
        subjects=len({asset.subject for asset in assets} - {""}),
    )


def _sum(manifest: Manifest, rows: list[Count]) -> Count:
    parts = [row for row in rows if row.kind in ("train", "absent")]
    return Count(
        "train and absent",
        "sum",
        files=sum(row.files or 0 for row in parts),
        size=sum(row.size or 0 for row in parts),
        entries=sum(row.entries or 0 for row in parts),
        units=sum(row.units or 0 for row in parts),
        subjects=len(subjects_of(manifest)),
    )


def _total(values: Iterable[int]) -> int | None:
    """Return the sum of values, None if there are none."""
    listed = list(values)
    return sum(listed) if listed else None
