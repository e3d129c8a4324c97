"""What a sampler reads: which recordings, and of each its targets, their weights, intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from types import NoneType

import numpy as np

from spikedata.errors import SamplingError, did_you_mean
from spikedata.outline import Outline, outline_of
from spikedata.recording import Recording

__all__ = [
    "by_id",
    "check_tables",
    "choose_targets",
    "choose_weights",
    "misfits",
    "outlines_of",
    "refuse",
    "wrong_choices",
]

NEEDED = "Sampler: give a Store(path), a dict by recording id, or a list of Recording; this is"


def by_id(recordings: Mapping[str, Recording] | Sequence[Recording]) -> Mapping[str, Recording]:
    """Return the recordings by their ids, in the order given; a mapping as it is."""
    if isinstance(recordings, Mapping):
        if isinstance(recordings, dict):
            for name, one in recordings.items():
                if not isinstance(one, Recording):
                    raise SamplingError(f"{NEEDED} a dict with {type(one).__name__} at '{name}'.")
        return recordings
    if isinstance(recordings, Iterable) and not isinstance(recordings, str):
        found = {}
        for one in recordings:
            if not isinstance(one, Recording):
                raise SamplingError(f"{NEEDED} a list with {type(one).__name__} in it.")
            if one.recording_id in found:
                raise SamplingError(f"Sampler: recording '{one.recording_id}' is given twice.")
            found[one.recording_id] = one
        return found
    raise SamplingError(f"{NEEDED} {type(recordings).__name__}.")


def refuse(problems: Sequence[str]) -> None:
    """Raise one error that names all problems, if there are any."""
    if problems:
        text = "; ".join(problems)
        raise SamplingError(f"Sampler: {text}{'' if text.endswith('?') else '.'}")


def misfits(
    names: Mapping[str, object],
    sizes: Mapping[str, object],
    whole: Mapping[str, object],
    seconds: Mapping[str, object],
    factors: Mapping[str, object],
    augment: object,
) -> list[str]:
    """Return which arguments are not of their kind.

    The kinds are several names, a whole number or none, a whole number, a number or none, factors
    by name, and several augmentations.
    """
    texts = {}
    for name, value in names.items():
        inner = value.items() if isinstance(value, Mapping) else ()
        texts |= {name: value} | {f"{name}['{key}']": one for key, one in inner}
    problems = [
        f"{name} needs a list of names, found the text '{value}': write ['{value}']"
        for name, value in texts.items()
        if isinstance(value, str)
    ]
    problems += [
        f"{name} needs a list of names, found {value!r}"
        for name, value in texts.items()
        if not isinstance(value, (str, NoneType)) and not _are_names(value)
    ]
    problems += [
        f"{name} must be a whole number, found {value!r}"
        for name, value in {**sizes, **whole}.items()
        if not (isinstance(value, (int, np.integer)) or (value is None and name in sizes))
    ]
    problems += [
        f"{name} must be a number, found {value!r}"
        for name, value in seconds.items()
        if not isinstance(value, (Real, NoneType))
    ]
    problems += [
        f"{name} needs a dict of numbers by name, found {value!r}"
        for name, value in factors.items()
        if value is not None and not _are_factors(value)
    ]
    if not isinstance(augment, Iterable) or not all(map(callable, augment)):
        problems.append(f"augment needs a list of augmentations, found {augment!r}")
    return problems


def _are_names(value: object) -> bool:
    return isinstance(value, Iterable) and all(isinstance(name, str) for name in value)


def _are_factors(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(one, Real) or (isinstance(one, Mapping) and _are_factors(one))
        for one in value.values()
    )


def wrong_choices(
    known: Mapping[str, Recording],
    named: Iterable[str],
    recording_ids: Sequence[str],
    dataset_weights: Mapping[str, float],
) -> list[str]:
    """Return what is wrong with the recordings that were chosen, and with shares of datasets."""
    problems = [
        f"no recording '{name}'; {did_you_mean(name, known)}"
        for name in dict.fromkeys(named)
        if name not in known
    ]
    twice = [name for name, count in Counter(recording_ids).items() if count > 1]
    problems += [f"recording '{name}' is given twice" for name in twice]
    if not recording_ids:
        problems.append("no recordings were given")
    datasets = {name.split("/")[0] for name in recording_ids}
    for name, weight in dataset_weights.items():
        if name not in datasets:
            problems.append(
                f"no recording is of the dataset '{name}' of dataset_weights; "
                + did_you_mean(name, datasets)
            )
        elif not 0 <= weight < np.inf:
            problems.append(f"the weight of dataset '{name}' must be 0 or more, found {weight}")
    return problems


def outlines_of(recordings: Mapping[str, Recording], recording_ids: Sequence[str]) -> list[Outline]:
    """Return the outlines of recordings under the names that they are given by."""
    outlines = getattr(recordings, "outlines", None)  # of all at once, as a store can
    if outlines is not None:
        return outlines(recording_ids)
    return [replace(outline_of(recordings[name]), recording_id=name) for name in recording_ids]


def choose_targets(
    outlines: Sequence[Outline], targets: Sequence[str] | Mapping[str, Sequence[str]] | None
) -> tuple[list[frozenset[str]], dict[str, int]]:
    """Return which targets each recording gives, and the width of each, the same everywhere."""
    found: dict[str, tuple[int, str]] = {}
    asked: dict[str, None] = {}
    chosen = []
    for one in outlines:
        if targets is None:
            wanted = one.targets
        else:
            wanted = targets.get(one.recording_id, ()) if isinstance(targets, Mapping) else targets
        asked.update(dict.fromkeys(wanted))
        chosen.append(frozenset(wanted) & one.channels.keys())
        for name in chosen[-1]:
            width, first = found.setdefault(name, (one.channels[name], one.recording_id))
            if width != one.channels[name]:
                raise SamplingError(
                    f"'{name}' has {one.channels[name]} channels in {one.recording_id}, {width} "
                    f"in {first}: sample them apart, or name the series differently."
                )
    for name in asked:
        if name not in found:
            known = {series for one in outlines for series in one.channels}
            raise SamplingError(f"No series is called '{name}'; {did_you_mean(name, known)}")
    return chosen, {name: found[name][0] for name in asked}


def choose_weights(
    targets: Sequence[str], weights: Mapping[str, float] | Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Return the factor of each interval table for each target that has any."""
    nested = any(isinstance(one, Mapping) for one in weights.values())
    given: Mapping[str, object] = weights
    if weights and not nested:
        given = dict.fromkeys(targets, weights)
    if weights and not targets:
        raise SamplingError("Sampler: weights are given, but no targets that they could weigh.")
    chosen: dict[str, dict[str, float]] = {}
    for name, factors in given.items():
        if name not in targets or not isinstance(factors, Mapping):
            raise SamplingError(
                f"Sampler: weights are given for '{name}', which is no target; "
                + did_you_mean(name, targets)
            )
        for table, factor in factors.items():
            if not 0 <= factor < np.inf:
                raise SamplingError(
                    f"Sampler: the weight of '{table}' must be 0 or more, found {factor}."
                )
        chosen[name] = dict(factors)
    return chosen


def check_tables(outlines: Sequence[Outline], asked: Iterable[str]) -> None:
    """Refuse an interval table that no recording has."""
    known = {table for one in outlines for table in one.intervals}
    for table in asked:
        if table not in known:
            raise SamplingError(
                f"No interval table is called '{table}'; {did_you_mean(table, known)}"
            )
