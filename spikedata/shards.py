"""Divides a manifest among machines that do not talk to each other."""

from __future__ import annotations

import re
from heapq import heapify, heapreplace

from spikedata.errors import ManifestError
from spikedata.manifest import Manifest

__all__ = ["parse_shard", "shard"]


def parse_shard(text: str) -> tuple[int, int]:
    """Return the two numbers of ``"i/n"``, the i-th of n shards, counted from 1.

    Raises
    ------
    ManifestError
        If it is anything else.

    Examples
    --------
    >>> parse_shard("2/4")
    (2, 4)
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None:
        raise ManifestError(
            f"'{text}' is no shard: expected I/N, as 2/4 for the second of four (from 1 to N)."
        )
    index, count = int(found[1]), int(found[2])
    _refuse(index, count)
    return index, count


def shard(manifest: Manifest, index: int, count: int) -> Manifest:
    """Return one of `count` parts of a manifest, which are disjoint and together all of it.

    The largest asset goes first, each to the part that has the fewest bytes so far (then the
    fewest assets, then the lowest number), so no part is ahead of another by more than the
    largest asset. Assets of the same size go by their ids: the order of the manifest does not
    matter. An asset without a size counts as the mean of those with one.

    Parameters
    ----------
    manifest : Manifest
        What to divide; every machine must give the same.
    index, count : int
        Which part, from 1 to `count`.

    Returns
    -------
    Manifest
        The part, in the order of the manifest; without datasets when there are more parts than
        assets and nothing is left for this one.

    Raises
    ------
    ManifestError
        If `index` is not one of 1 to `count`.

    Examples
    --------
    >>> from spikedata.manifest import load_manifest
    >>> [asset.session for _, asset in shard(load_manifest("sample"), 1, 2).items()]
    ['A2929-200711']
    """
    _refuse(index, count)
    known = [asset.size for _, asset in manifest.items() if asset.size is not None]
    usual = sum(known) // len(known) if known else 1
    sizes = {
        dataset.recording_id(asset): usual if asset.size is None else asset.size
        for dataset, asset in manifest.items()
    }
    loads = [(0, 0, number) for number in range(1, count + 1)]  # bytes, assets, number of the part
    heapify(loads)
    mine: set[str] = set()
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        size, assets, number = loads[0]
        heapreplace(loads, (size + sizes[name], assets + 1, number))
        if number == index:
            mine.add(name)
    datasets = []
    for dataset in manifest.datasets:
        assets = tuple(one for one in dataset.assets if dataset.recording_id(one) in mine)
        if assets:
            datasets.append(dataset.model_copy(update={"assets": assets}))
    return manifest.model_copy(update={"datasets": tuple(datasets)})


def _refuse(index: int, count: int) -> None:
    if not 1 <= index <= count:
        raise ManifestError(f"There is no shard {index} of {count}: expected 1 to {count}.")
