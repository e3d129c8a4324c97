"""What a sampler brings along of each recording: its targets, their weights, interval tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from spikedata.errors import SamplingError, did_you_mean
from spikedata.outline import Outline

__all__ = ["check_tables", "choose_targets", "choose_weights"]


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
            raise SamplingError(f"No series is called '{name}'; {did_you_mean(name, known)}.")
    return chosen, {name: found[name][0] for name in asked}


def choose_weights(
    targets: Sequence[str], weights: Mapping[str, float] | Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Return the factor of each interval table for each target that has any."""
    nested = any(isinstance(one, Mapping) for one in weights.values())
    given = weights if nested else dict.fromkeys(targets, weights) if weights else {}
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
