"""What must hold, and what should, of every recording: one named function each.

An error makes `spikedata.harmonize.harmonize` refuse the recording; a warning is shown to
people and kept out of the way of machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spikedata.intervals import IntervalSet, window_bounds
from spikedata.recording import SPLITS, Recording, Series
from spikedata.splits import leakage

__all__ = ["CHECKS", "Finding", "run_checks"]

REACH = 1.0  # s: the window of the POYO paper (Azabou et al. 2023, appendix)
ROUNDING = 1e-6  # s: a guard of exactly `REACH` may miss by the last bits of its bounds
PIECE = 2**20  # spikes looked at at once

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a recording: which check, how bad, and a sentence."""

    check: str
    severity: Severity
    message: str


def run_checks(recording: Recording) -> list[Finding]:
    """Return all errors of a recording; if it has none, all warnings."""
    found: list[Finding] = []
    for severity, checks in CHECKS.items():
        for check in checks:
            found.extend(Finding(check.__name__, severity, text) for text in check(recording))
        if found:
            break  # the warnings rely on what the errors check
    return found


# ------------------------------------------------------------------ errors


def unit_ids_are_stable_and_unique(recording: Recording) -> Iterator[str]:
    """Require ids that begin with the recording's id, no two the same."""
    if "unit_id" not in recording.units:
        yield "The unit table has no column 'unit_id'."
        return
    ids = recording.unit_ids.tolist()
    if len(set(ids)) < len(ids):
        yield f"{len(ids) - len(set(ids))} unit ids repeat; each unit needs its own."
    strange = [one for one in ids if not str(one).startswith(f"{recording.recording_id}/")]
    if strange:
        yield f"Unit id '{strange[0]}' does not begin with '{recording.recording_id}/'."


def unit_columns_have_one_value_per_unit(recording: Recording) -> Iterator[str]:
    """Require as many rows in every unit column as there are units."""
    sizes = {name: len(values) for name, values in recording.units.items()}
    for name, size in sizes.items():
        if size != sizes.get("unit_id", size):
            yield f"Unit column '{name}' has {size} values for {sizes['unit_id']} units."


def there_are_units(recording: Recording) -> Iterator[str]:
    """Require at least one unit and one spike."""
    if not len(recording.units.get("unit_id", ())):
        yield "No units are left; loosen units.keep or units.min_spikes in the manifest."
    elif not len(recording.spike_time):
        yield "No unit has a spike inside the domain; look at the clocks of units and series."


def spikes_are_arrays_of_one_length(recording: Recording) -> Iterator[str]:
    """Require float64 spike times and int32 spike units, one of each per spike."""
    time, unit = recording.spike_time, recording.spike_unit
    if time.shape != unit.shape or time.ndim != 1:
        yield f"Spike times have shape {time.shape} but spike units {unit.shape}."
    if time.dtype != np.float64 or unit.dtype != np.int32:
        yield f"Spikes are {time.dtype.name} and {unit.dtype.name}, expected float64 and int32."


def spike_times_are_sorted(recording: Recording) -> Iterator[str]:
    """Require spike times that are finite and never go back."""
    time = recording.spike_time
    finite, backward = np.isfinite(time), time[1:] < time[:-1]
    if not finite.all():
        yield f"{int((~finite).sum())} spike times are not finite; drop them."
    elif backward.any():
        row = int(np.argmax(backward)) + 1
        yield f"Spike {row} at {time[row]:.6f} s comes before the one above it; sort them."


def spike_units_exist(recording: Recording) -> Iterator[str]:
    """Require that every spike belongs to a row of the unit table."""
    unit, count = recording.spike_unit, len(recording.units.get("unit_id", ()))
    if len(unit) and (unit.min() < 0 or unit.max() >= count):
        wrong = (unit < 0) | (unit >= count)
        yield f"{int(wrong.sum())} spikes belong to unit {unit[wrong][0]}; there are {count} units."


def spikes_lie_in_the_domain(recording: Recording) -> Iterator[str]:
    """Require that no spike lies where nothing was observed."""
    time, domain = recording.spike_time, recording.domain
    lo, hi = window_bounds(time, domain.start, domain.end)
    if int((hi - lo).sum()) != len(time):  # cheap, and right where times and domain are sorted
        outside = ~domain.contains(time)
        if not outside.any():
            return
        yield (
            f"{int(outside.sum())} spikes, the first at "
            f"{recording.spike_time[outside][0]:.6f} s, lie outside the domain {recording.domain}."
        )


def the_domain_is_disjoint(recording: Recording) -> Iterator[str]:
    """Require a domain that covers some time, each moment once."""
    if len(recording.domain) == 0:
        yield "The domain is empty: nothing was observed."
    elif not recording.domain.is_disjoint:
        yield "Intervals of the domain overlap; use IntervalSet.coalesce()."


def series_hold_numbers(recording: Recording) -> Iterator[str]:
    """Require samples, all finite."""
    for name, series in recording.series.items():
        if len(series) == 0:
            yield f"The series '{name}' has no samples left; look at its rules in `dropped`."
        elif not np.isfinite(series.values).all():
            count = int((~np.isfinite(series.values)).any(1).sum())
            yield f"The series '{name}' has {count} samples that are not finite; drop them."


def series_times_increase(recording: Recording) -> Iterator[str]:
    """Require sample times that are finite, each after the one before."""
    for name, series in recording.series.items():
        time = series.time
        if time is None:
            continue
        if not np.isfinite(time).all():
            yield f"The series '{name}' has times that are not finite; drop these samples."
        elif (time[1:] <= time[:-1]).any():
            row = int(np.argmax(time[1:] <= time[:-1])) + 1
            yield (
                f"Sample {row} of the series '{name}', at {time[row]:.6f} s, does not come after "
                "the one above it; drop it."
            )


def targets_are_series(recording: Recording) -> Iterator[str]:
    """Require that every target is a series with samples in the domain."""
    for name in recording.targets:
        if name not in recording.series:
            yield f"The target '{name}' is no series of the recording."
        elif not _rows_within(recording.series[name], recording.domain):
            yield f"The target '{name}' has no sample inside the domain; look at the clocks."


def splits_are_disjoint_and_named(recording: Recording) -> Iterator[str]:
    """Require a column "split" of train, valid and test, and no time in two of them.

    A scheme may be all test, as that of a benchmark's test file is; else it must have training.
    """
    for scheme, table in recording.splits.items():
        names = np.asarray(table.columns.get("split", ()))
        if len(names) != len(table) or not np.isin(names, SPLITS).all():
            yield f"The split '{scheme}' needs a column 'split' of {', '.join(SPLITS)}."
        elif not table.is_disjoint:
            yield f"Intervals of the split '{scheme}' overlap: the same time would be in two."
        elif not (names == "train").any() and not (len(names) and (names == "test").all()):
            yield f"The split '{scheme}' leaves no time for training."


def splits_lie_in_the_domain(recording: Recording) -> Iterator[str]:
    """Require that no split asks for time that was not observed."""
    for scheme, table in recording.splits.items():
        outside = table.difference(recording.domain).duration
        if outside > 0:
            yield f"{outside:.3f} s of the split '{scheme}' lie outside the domain."


# ------------------------------------------------------------------ warnings


def most_units_fire(recording: Recording) -> Iterator[str]:
    """Warn when more than half of the units are silent."""
    fires = np.zeros(recording.n_units, bool)
    fires[recording.spike_unit] = True
    silent = int((~fires).sum())
    if silent * 2 > recording.n_units:
        yield f"{silent} of {recording.n_units} units have no spike; set units.min_spikes."


def firing_rates_are_possible(recording: Recording) -> Iterator[str]:
    """Warn of a mean rate above 500 Hz, which no neuron or channel sustains."""
    rate = _spike_counts(recording) / max(recording.domain.duration, 1e-9)
    if len(rate) and rate.max() > 500:
        unit = recording.unit_ids[int(rate.argmax())]
        yield f"Unit '{unit}' fires at {rate.max():.0f} Hz; are its times in seconds?"


def there_is_a_target(recording: Recording) -> Iterator[str]:
    """Warn when nothing is named to be decoded."""
    if not recording.targets:
        yield "No target is named; add `targets` to the manifest to train a decoder."


def targets_move_in_every_split(recording: Recording) -> Iterator[str]:
    """Warn of a target that stays at one value: it says nothing about a decoder."""
    for scheme, table in recording.splits.items():
        names = np.asarray(table.columns["split"])
        for target in recording.targets:
            series = recording.series[target]
            for name in np.unique(names).tolist():
                parts = [series.values[lo:hi] for lo, hi in
                         _rows_within(series, table.where(names == name))]  # fmt: skip
                if parts and not any((part != parts[0][0]).any() for part in parts):
                    yield f"The target '{target}' never changes in {name} of '{scheme}'."


def every_split_can_be_scored(recording: Recording) -> Iterator[str]:
    """Warn when a scheme leaves no test time."""
    for scheme, table in recording.splits.items():
        if not (np.asarray(table.columns["split"]) == "test").any():
            yield f"The split '{scheme}' leaves no time for testing."


def training_stays_out_of_reach(recording: Recording) -> Iterator[str]:
    """Warn of valid and test time that a window of training time can reach.

    A trial-wise split, as the published ones are, cannot keep that distance: score it for
    comparison, and a chronological one for what a decoder is worth.
    """
    for scheme, table in recording.splits.items():
        reached = leakage(table, REACH).duration
        if reached > ROUNDING:
            yield (
                f"{reached:.3g} s of valid and test time of the split '{scheme}' lie within "
                f"{REACH:g} s of training time."
            )


def trials_lie_in_the_domain(recording: Recording) -> Iterator[str]:
    """Warn of trials in which nothing was observed: their clock may be another one."""
    trials = recording.intervals.get("trials")
    if trials is not None and len(trials):
        lost = int(np.count_nonzero(~trials.overlaps(recording.domain)))
        if lost:
            yield f"{lost} of {len(trials)} trials lie wholly outside the domain."


def little_was_dropped(recording: Recording) -> Iterator[str]:
    """Warn when one rule dropped more than a tenth of the spikes or of a series."""
    sizes = {f"series.{name}": len(one) for name, one in recording.series.items()}
    sizes["spikes"] = len(recording.spike_time)
    counts = {
        rule: count
        for rule, count in recording.dropped.items()
        if rule.rpartition(".")[2] not in ("repeated_kept", "unsorted", "conversion_ignored")
    }
    for rule, count in counts.items():
        group = rule.rpartition(".")[0]
        same = [other for other in counts if other.rpartition(".")[0] == group]
        total = sizes.get(group, 0) + sum(counts[other] for other in same)
        if group in sizes and count > 0.1 * total:
            yield f"The rule '{rule}' dropped {count:,} of {total:,}: is that meant?"


# ------------------------------------------------------------------ parts of the above


def _spike_counts(recording: Recording) -> np.ndarray:
    """Return how many spikes each unit has, counted piece by piece: `bincount` casts to int64."""
    counts = np.zeros(recording.n_units, np.int64)
    for begin in range(0, len(recording.spike_unit), PIECE):
        part = recording.spike_unit[begin : begin + PIECE]
        counts += np.bincount(part, minlength=recording.n_units)
    return counts


def _rows_within(series: Series, where: IntervalSet) -> list[tuple[int, int]]:
    """Return the row ranges of the samples in each interval, empty ones left out."""
    lo, hi = series.bounds(where.start, where.end)
    return [pair for pair in zip(lo.tolist(), hi.tolist(), strict=True) if pair[0] < pair[1]]


Check = Callable[[Recording], Iterator[str]]

_ERRORS: tuple[Check, ...] = (
    unit_ids_are_stable_and_unique,
    unit_columns_have_one_value_per_unit,
    there_are_units,
    spikes_are_arrays_of_one_length,
    spike_times_are_sorted,
    spike_units_exist,
    spikes_lie_in_the_domain,
    the_domain_is_disjoint,
    series_hold_numbers,
    series_times_increase,
    targets_are_series,
    splits_are_disjoint_and_named,
    splits_lie_in_the_domain,
)
_WARNINGS: tuple[Check, ...] = (
    most_units_fire,
    firing_rates_are_possible,
    there_is_a_target,
    targets_move_in_every_split,
    every_split_can_be_scored,
    training_stays_out_of_reach,
    trials_lie_in_the_domain,
    little_was_dropped,
)
CHECKS: dict[Severity, tuple[Check, ...]] = {"error": _ERRORS, "warning": _WARNINGS}
