"""Take a part of a manifest: the assets that patterns, subjects and roles name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import get_args

from spikedata.errors import ManifestError, did_you_mean
from spikedata.manifest import Asset, Dataset, Manifest

__all__ = ["select"]

ROLES: tuple[str, ...] = get_args(Asset.model_fields["role"].annotation)

Test = Callable[[Dataset, Asset], bool]


def select(
    manifest: Manifest,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    subjects: Sequence[str] = (),
    roles: Sequence[str] = (),
    limit: int | None = None,
) -> Manifest:
    """Return the manifest with only some of its assets; its name and path stay.

    Several values of one option mean any of them, several options all of them.

    Parameters
    ----------
    manifest : Manifest
        What to choose from.
    include, exclude : sequence of str
        Patterns of `fnmatch`, case and all, for an asset's path, its file name, its session or
        its recording id; ``*`` goes across ``/``. What `exclude` names is left out in any case.
    subjects, roles : sequence of str
        As the manifest writes them.
    limit : int, optional
        Take no more than the first so many, in the order of the manifest.

    Returns
    -------
    Manifest
        The selection, without datasets of which nothing is left. Without options, `manifest`.

    Raises
    ------
    ManifestError
        If a subject, a role or a pattern of `include` fits no asset, or nothing is left.

    Examples
    --------
    >>> from spikedata.manifest import load_manifest
    >>> [one.session for _, one in select(load_manifest("sample"), subjects=["A2929"]).items()]
    ['A2929-200711']
    """
    if limit is not None and limit < 1:
        raise ManifestError(f"{manifest.name}: the limit must be 1 or more, found {limit}.")
    _refuse_unknown(manifest, include, subjects, roles)
    tests: dict[str, Test] = {}
    if include:
        tests[f"include {_listed(include)}"] = lambda data, asset: _fits(data, asset, include)
    if exclude:
        tests[f"exclude {_listed(exclude)}"] = lambda data, asset: not _fits(data, asset, exclude)
    if subjects:
        tests[f"subject {_listed(subjects)}"] = lambda _, asset: asset.subject in subjects
    if roles:
        tests[f"role {_listed(roles)}"] = lambda _, asset: asset.role in roles
    if not tests and limit is None:
        return manifest
    kept = [one for one in manifest.items() if all(test(*one) for test in tests.values())][:limit]
    if not kept:
        raise ManifestError(_why_nothing(manifest, tests))
    chosen = {(dataset.id, asset.path) for dataset, asset in kept}
    datasets = []
    for dataset in manifest.datasets:
        assets = tuple(one for one in dataset.assets if (dataset.id, one.path) in chosen)
        if assets:
            datasets.append(dataset.model_copy(update={"assets": assets}))
    return manifest.model_copy(update={"datasets": tuple(datasets)})


def _names(dataset: Dataset, asset: Asset) -> tuple[str, ...]:
    """Return what a pattern may name an asset by."""
    name = PurePosixPath(asset.path).name
    return asset.path, name, asset.session, dataset.recording_id(asset)


def _fits(dataset: Dataset, asset: Asset, patterns: Iterable[str]) -> bool:
    names = _names(dataset, asset)
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _refuse_unknown(
    manifest: Manifest, include: Sequence[str], subjects: Sequence[str], roles: Sequence[str]
) -> None:
    """Refuse what can only be a slip: it would shrink the selection without a word."""
    problems = []
    items = list(manifest.items())
    known = {asset.subject for _, asset in items if asset.subject}
    problems += [
        f"no asset is of the subject '{one}'; {did_you_mean(one, known)}"
        for one in subjects
        if one not in known
    ]
    present = {asset.role for _, asset in items}
    problems += [
        f"no asset has the role '{one}'; " + did_you_mean(one, present if one in ROLES else ROLES)
        for one in roles
        if one not in present
    ]
    sessions = {asset.session for _, asset in items}
    few = sessions if len(sessions) <= 10 else ()  # a hundred names help nobody
    problems += [
        f"include '{one}' fits no path, file name, session or recording id; "
        + (did_you_mean(one, few) if few else _near(one, sessions))
        for one in include
        if not any(_fits(*item, [one]) for item in items)
    ]
    if problems:
        raise ManifestError(f"{manifest.name}: {' '.join(problems)}")


def _near(name: str, known: set[str]) -> str:
    """Return a near name out of many, or an example of them."""
    clause = did_you_mean(name, known)
    return clause if clause.startswith("did you mean") else f"a session is '{min(known)}'."


def _why_nothing(manifest: Manifest, tests: dict[str, Test]) -> str:
    """Return a sentence that names the option which leaves nothing, or all of them together."""
    counts = {name: sum(test(*one) for one in manifest.items()) for name, test in tests.items()}
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        return f"{manifest.name}: {' and '.join(empty)} leaves none of its assets; loosen it."
    each = ", ".join(f"{name} leaves {count}" for name, count in counts.items())
    return f"{manifest.name}: no asset is left by all of these together ({each}); loosen one."


def _listed(values: Sequence[str]) -> str:
    return " or ".join(f"'{one}'" for one in values)
