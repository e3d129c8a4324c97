"""What must hold, and what should, of every manifest beyond its fields: one named rule each.

An error means that a fetch, a training or a comparison would go wrong. A warning is for the
manifest's author to look at. Nothing here asks a network.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from spikedata.counts import counts
from spikedata.errors import ManifestError
from spikedata.files import sha256_of
from spikedata.harmonize import find_harmonizer
from spikedata.manifest import Asset, Dataset, FileSource, Manifest, load_manifest

__all__ = ["RULES", "Problem", "lint", "lint_files"]

Severity = Literal["error", "warning"]
Found = Iterator[tuple[str, str]]
"""What a rule yields: the place, and a sentence."""

PART_SIZE = 64 << 20  # bytes of a part of an upload to DANDI
MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a manifest: how bad, where, and a sentence."""

    severity: Severity
    place: str
    message: str


def lint(manifest: Manifest) -> list[Problem]:
    """Return all errors of a manifest, then all warnings.

    Parameters
    ----------
    manifest : Manifest
        Any manifest that could be loaded.

    Returns
    -------
    list of Problem
        In the order of the rules, within a rule in the order of the manifest.

    Examples
    --------
    >>> from spikedata.manifest import load_manifest
    >>> [one.place for one in lint(load_manifest("sample")) if one.severity == "error"]
    []
    """
    return [
        Problem(severity, place, message)
        for severity, rules in RULES.items()
        for rule in rules
        for place, message in rule(manifest)
    ]


def lint_files(names: Iterable[str | Path]) -> dict[str, list[Problem]]:
    """Return the problems of each manifest, by the name it was asked for with.

    A manifest that cannot be loaded is one error; the others are looked at all the same.
    """
    found: dict[str, list[Problem]] = {}
    for name in names:
        try:
            found[str(name)] = lint(load_manifest(name))
        except ManifestError as error:
            found[str(name)] = [Problem("error", "", str(error))]
    return found


def _place(dataset: Dataset, asset: Asset | None = None) -> str:
    return f"datasets.{dataset.id}" + (f".assets.{asset.path}" if asset is not None else "")


# ------------------------------------------------------------------ errors


def held_out_bytes_are_not_trained_on(manifest: Manifest) -> Found:
    """Require that no file for training is also one for testing, under any path or dataset."""
    trained: dict[str, str] = {}  # digest to place; a SHA-256 and an MD5 are never the same text
    for dataset, asset in manifest.items():
        if asset.role == "train":
            trained |= {digest: _place(dataset, asset) for _, digest in _digests(asset)}
    for dataset, asset in manifest.items():
        shared = [(name, trained[one]) for name, one in _digests(asset) if one in trained]
        if asset.role != "train" and shared:
            name, other = shared[0]
            yield (
                _place(dataset, asset),
                f"is for {asset.role}, but {other}, which is for training, has the same {name}; "
                "leave one of them out.",
            )


def _digests(asset: Asset) -> list[tuple[str, str]]:
    both = (("sha256", asset.sha256), ("md5", asset.md5))
    return [(name, digest) for name, digest in both if digest is not None]


def no_bytes_are_listed_twice(manifest: Manifest) -> Found:
    """Require different files in a dataset: the same one twice would count twice."""
    for dataset in manifest.datasets:
        first: dict[str, Asset] = {}
        for asset in dataset.assets:
            if asset.sha256 is not None:
                known = first.setdefault(asset.sha256, asset)
                if known is not asset:
                    yield _place(dataset, asset), f"has the sha256 of {known.path}; keep one."


def etags_fit_their_sizes(manifest: Manifest) -> Found:
    """Require the number of parts in an etag that DANDI makes of a file of that size."""
    for dataset, asset in manifest.items():
        if asset.etag is None or asset.size is None:
            continue
        expected, found = _parts(asset.size), int(asset.etag.rpartition("-")[2])
        if expected != found:
            yield (
                _place(dataset, asset),
                f"has an etag of {found} parts, but {asset.size} bytes make {expected}; one of "
                "the two is of another file.",
            )


def _parts(size: int) -> int:
    part = max(PART_SIZE, -(-size // MAX_PARTS))
    return -(-size // part)


def harmonizers_can_be_found(manifest: Manifest) -> Found:
    """Require that the harmoniser of every dataset can be imported."""
    for dataset in manifest.datasets:
        try:
            find_harmonizer(dataset.harmonize.harmonizer)
        except (ImportError, SyntaxError, TypeError, ValueError) as error:
            # Other people's modules, and names that no module can have, fail in all these ways.
            yield f"{_place(dataset)}.harmonize.harmonizer", str(error)


def files_here_are_the_pinned_ones(manifest: Manifest) -> Found:
    """Require the pinned size and hash of the files beside a manifest that are there."""
    for dataset, asset in manifest.items():
        if not isinstance(dataset.source, FileSource):
            continue
        path = manifest.path.parent / dataset.source.root / asset.path
        try:
            if not path.is_file():
                continue
            size = path.stat().st_size
            digest = sha256_of(path) if size == asset.size else None
        except OSError as error:
            yield _place(dataset, asset), f"{path} cannot be read: {error.strerror or error}."
            continue
        if size != asset.size:
            yield _place(dataset, asset), f"pins {asset.size} bytes, {path} has {size}."
        elif digest != asset.sha256:
            yield _place(dataset, asset), f"pins sha256 {asset.sha256}, {path} has {digest}."


# ------------------------------------------------------------------ warnings


def versions_are_published(manifest: Manifest) -> Found:
    """Prefer published versions of a dandiset to its draft."""
    for dataset in manifest.datasets:
        if dataset.source.kind == "dandi" and dataset.source.version == "draft":
            yield (
                _place(dataset),
                f"takes the draft of dandiset {dataset.source.dandiset}, which moves: the pins "
                "hold by hash, and a file that was replaced cannot be fetched any more.",
            )


def assets_are_pinned(manifest: Manifest) -> Found:
    """Prefer assets whose size and hash the manifest states."""
    for dataset, asset in manifest.items():
        if not asset.is_pinned:
            yield (
                _place(dataset, asset),
                "has no size or no hash, so it is verified against the MD5 that the record "
                "states; `spikedata manifest resolve` pins it.",
            )


def licences_are_stated(manifest: Manifest) -> Found:
    """Prefer datasets with a licence."""
    for dataset in manifest.datasets:
        if dataset.licence.strip().lower() in ("", "not stated"):
            yield _place(dataset), "has no stated licence; ask its authors before you share it."


def dois_are_given(manifest: Manifest) -> Found:
    """Prefer datasets with a DOI."""
    for dataset in manifest.datasets:
        if not dataset.doi:
            yield _place(dataset), "has no doi."


def citations_are_given(manifest: Manifest) -> Found:
    """Prefer datasets that say how to cite them."""
    for dataset in manifest.datasets:
        if not dataset.citation.strip():
            yield _place(dataset), "has no citation."


def subjects_are_named(manifest: Manifest) -> Found:
    """Prefer assets with a subject."""
    for dataset, asset in manifest.items():
        if not asset.subject:
            yield _place(dataset, asset), "has no subject."


def subjects_fit_their_paths(manifest: Manifest) -> Found:
    """Prefer the subject that the path names as ``sub-X``, or a shorter or longer form of it.

    Some archives use the label for more than the subject: FALCON's files of MonkeyL are
    ``sub-MonkeyL-held-in-calib``.
    """
    for dataset, asset in manifest.items():
        label = re.search(r"(?:^|/)sub-([^_/]+)", asset.path)
        in_path, given = _plain(label[1] if label else ""), _plain(asset.subject)
        fits = in_path.startswith(given) or given.startswith(in_path)  # true when one is empty
        if label is not None and not fits:
            yield (
                _place(dataset, asset),
                f"has the subject '{asset.subject}', but its path says '{label[1]}'.",
            )


def _plain(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def addresses_are_https(manifest: Manifest) -> Found:
    """Prefer addresses that nobody on the way can read or change, except on this machine."""
    for dataset in manifest.datasets:
        for field in ("url", "api_url"):
            url = getattr(dataset.source, field, None)
            if url and urlsplit(url).scheme == "http" and not _is_loopback(url):
                yield f"{_place(dataset)}.source.{field}", f"{url} is plain http; use https."


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def sums_are_those_of_the_publication(manifest: Manifest) -> Found:
    """Prefer sessions, units and subjects that add up to what the publication says."""
    if manifest.publication is None:
        return
    ours, theirs = counts(manifest)[-2:]
    for name, field in (("sessions", "entries"), ("units", "units"), ("subjects", "subjects")):
        found, expected = getattr(ours, field), getattr(theirs, field)
        if found != expected:
            yield (
                f"publication.{name}",
                f"is {expected}, but what is for training here and what is absent make {found}.",
            )


Rule = Callable[[Manifest], Found]

_ERRORS: tuple[Rule, ...] = (
    held_out_bytes_are_not_trained_on,
    no_bytes_are_listed_twice,
    etags_fit_their_sizes,
    harmonizers_can_be_found,
    files_here_are_the_pinned_ones,
)
_WARNINGS: tuple[Rule, ...] = (
    versions_are_published,
    assets_are_pinned,
    licences_are_stated,
    dois_are_given,
    citations_are_given,
    subjects_are_named,
    subjects_fit_their_paths,
    addresses_are_https,
    sums_are_those_of_the_publication,
)
RULES: dict[Severity, tuple[Rule, ...]] = {"error": _ERRORS, "warning": _WARNINGS}
