"""000070, mazes of Churchland and Shenoy: puts the clocks of joined acquisitions in one line.

A file joins two to four acquisitions. At each join the clock starts anew, so that trials, samples
and spikes run backwards there. An acquisition is moved as a whole: it begins 60 s after the last
trial of the one before it. Trials that overlap are dropped with the samples inside them. What
runs backwards elsewhere cannot be placed: such units are dropped, such behaviour is refused. The
local field potentials have a clock of their own and are not read. Besides the rules of
`spikedata.draft` these are counted:

===================================  ===========================================================
``clock.joined``                     joins after which all times were moved
``units.wrong_joins``                units whose spikes run backwards more or less often than that
``units.outside_acquisition``        units with a spike outside the acquisition that it stands in
``intervals.trials.overlapping``     trials that share time with the one above or below
``intervals.trials.wrapped_column``  ``target_positions``, see `_take_trials`
``series.<name>.overlapping``        samples inside overlapping trials
===================================  ===========================================================

References
----------
The pipeline ``churchland_shenoy_neural_2012`` of torch_brain 0.2.1 (2025), with two differences.
It drops overlapping trials in two sessions that it names, here they are found. It keeps a unit
that runs backwards at fewer joins than there are, without telling where its spikes belong.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from spikedata.draft import Draft
from spikedata.errors import HarmonizeError, did_you_mean
from spikedata.files import Source
from spikedata.manifest import Asset, Dataset
from spikedata.masks import dilated, length_of, masked_segments
from spikedata.nwb import NwbFile, SeriesData, TableData
from spikedata.recording import Recording
from spikedata.series import build_series, read_sources
from spikedata.splits import shuffled_rows, split_table

__all__ = ["harmonize"]

TRIALS = "intervals/trials"
# The numbers are those of the pipeline named above.
PAUSE = 60.0  # s between the last trial of an acquisition and the next acquisition
FASTEST = 80_000.0  # mm/s² of the cursor; monkeys that get angry are faster
MARGIN = 50  # samples that are taken for an outlier with one of them
SHARES, SEED = (0.7, 0.1, 0.2), 42
PHASES = {
    "hold": ("target_presentation_time", "go_cue_time"),
    "reach": ("move_begins_time", "move_ends_time"),
    "return": ("move_ends_time", "stop_time"),
}
MOMENTS = ("target_presentation_time", "go_cue_time", "move_begins_time", "move_ends_time")
WRAPPED = "target_positions"


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the acquisitions of a file lie, on the file's clock and on the recording's.

    Parameters
    ----------
    first, last : ndarray, shape (K,), float64
        When the first trial of each acquisition starts and its last one ends (s), in the file.
    shift : ndarray, shape (K,), float64
        Where `first` lies on the recording's clock (s).
    overlaps : ndarray, shape (M, 3), float64
        Acquisition, start and end (s, in the file) of trials that overlap.
    """

    first: np.ndarray
    last: np.ndarray
    shift: np.ndarray
    overlaps: np.ndarray

    def bounds(self, time: np.ndarray) -> np.ndarray:
        """Return the rows at which the times run backwards, after 0 and before their number.

        A step back within overlapping trials, which are dropped, does not count.
        """
        back = np.flatnonzero(time[1:] < time[:-1])
        for _, start, end in self.overlaps:
            inside = (time[back + 1] >= start) & (time[back] <= end)
            back = back[~inside]
        return np.concatenate([[0], back + 1, [len(time)]])

    def overlapping(self, time: np.ndarray) -> np.ndarray:
        """Return which of the times (not yet moved) lie in overlapping trials."""
        found, bound = np.zeros(len(time), bool), self.bounds(time)
        for at, start, end in self.overlaps:
            lo, hi = bound[np.minimum([int(at), int(at) + 1], len(bound) - 1)]
            found[lo:hi] |= (time[lo:hi] >= start) & (time[lo:hi] <= end)
        return found

    def place(self, time: np.ndarray) -> str:
        """Move the times onto the recording's clock, in place; or return the rule they break.

        The rule is ``"wrong_joins"`` or ``"outside_acquisition"``, and then nothing is moved.
        """
        bound = self.bounds(time)
        if len(time) and len(bound) != len(self.first) + 1:
            return "wrong_joins"
        if len(self.first) == 1 or len(time) == 0:
            return ""
        parts = np.split(time, bound[1:-1])
        low, high = self.first.copy(), self.last.copy()
        for at, start, end in self.overlaps:
            low[int(at)] = min(low[int(at)], start)
            high[int(at)] = max(high[int(at)], end)
        ends = zip(parts, low, high, strict=True)
        if not all(part.min() >= lo and part.max() <= hi for part, lo, hi in ends):
            return "outside_acquisition"
        for part, first, shift in zip(parts[1:], self.first[1:], self.shift[1:], strict=True):
            part -= first
            part += shift
        return ""


def harmonize(source: Source, dataset: Dataset, asset: Asset) -> Recording:
    """Return the recording that a file of the dandiset becomes.

    Parameters
    ----------
    source : Path or binary file
        The file.
    dataset, asset : Dataset, Asset
        What the manifest says; its series need ``cursor_acceleration``, which tells outliers.

    Returns
    -------
    Recording
        Not yet checked: `spikedata.harmonize.harmonize` does that. Observed in its trials. The
        column ``valid`` of the trials says which were neither discarded nor failed; the tables
        "hold", "reach" and "return" are phases of these, without "outlier". The split "paper"
        is that of POYO's public code.

    Raises
    ------
    HarmonizeError
        If the file lacks what all files of the dandiset have, or its behaviour does not run
        backwards just where the trials do.
    """
    draft = Draft(dataset, asset)
    if draft.options.intervals:
        raise HarmonizeError(
            f"{draft.recording_id}: the clock is known for the trials alone, which are always "
            "taken; leave `intervals` out of the manifest."
        )
    with NwbFile(source) as nwb:
        draft.describe(nwb)
        table = nwb.read_table(TRIALS)
        clock, kept, at = _read_clock(draft, table)
        _take_series(nwb, draft, clock)
        _take_trials(draft, _placed(clock, table, kept, at))
        _take_units(nwb, draft, clock)
    draft.dropped["clock.joined"] += len(clock.first) - 1
    draft.about["acquisitions"] = str(len(clock.first))
    trials = draft.intervals["trials"]
    draft.domain, draft.about["domain_from"] = trials.coalesce(), "trials"
    _take_phases(draft)
    _take_paper_split(draft)
    return draft.finish()


# ------------------------------------------------------------------ the clock


def _read_clock(draft: Draft, table: TableData) -> tuple[Clock, np.ndarray, np.ndarray]:
    """Return the clock, which rows of the trials do not overlap (bool), and their acquisitions.

    Two rows overlap if they share time; a row that starts before the end of the one above
    without sharing time with it begins an acquisition.
    """
    usable = np.flatnonzero(np.isfinite(table.start) & (table.start < table.end))
    start, end = table.start[usable], table.end[usable]
    pair = (start[1:] < end[:-1]) & (end[1:] > start[:-1])
    shared = np.append(False, pair)[: len(usable)] | np.append(pair, False)[: len(usable)]
    if shared.all():
        raise HarmonizeError(
            f"{draft.recording_id}: none of the {len(table.start)} trials can be placed in time "
            "(they overlap, or their times are no numbers); leave the asset out."
        )
    rest = np.flatnonzero(~shared)
    at = np.cumsum(np.append(False, start[rest][1:] < end[rest][:-1]))
    first = start[rest[np.flatnonzero(np.append(True, np.diff(at) > 0))]]
    last = end[rest[np.flatnonzero(np.append(np.diff(at) > 0, True))]]
    shift = first.copy()
    for row in range(1, len(first)):
        begin = last[row - 1] - first[row - 1] + shift[row - 1] if row > 1 else last[0]
        shift[row] = begin + PAUSE
    overlaps = []
    run = np.flatnonzero(np.diff(np.concatenate([[0], shared.astype(np.int8), [0]])))
    for lo, hi in run.reshape(-1, 2).tolist():
        before = int(np.searchsorted(rest, lo)) - 1
        home = at[0] if before < 0 else at[before]
        if before >= 0 and start[lo] < end[rest[before]]:
            home += 1  # the trials that overlap are the first ones after a join
        overlaps.append((home, start[lo:hi].min(), end[lo:hi].max()))
    draft.dropped["intervals.trials.overlapping"] += int(shared.sum())
    kept, where = np.zeros(len(table.start), bool), np.zeros(len(table.start), np.int64)
    kept[usable[rest]], where[usable[rest]] = True, at
    kept |= ~(np.isfinite(table.start) & (table.start < table.end))  # the draft counts these
    return Clock(first, last, shift, np.array(overlaps).reshape(-1, 3)), kept, where


def _placed(clock: Clock, table: TableData, kept: np.ndarray, at: np.ndarray) -> TableData:
    """Return the kept rows of the trials with all their times on the recording's clock."""

    def move(time: np.ndarray) -> np.ndarray:
        row = at[kept]
        moved = time[kept] - clock.first[row] + clock.shift[row]
        return np.where(row > 0, moved, time[kept])

    columns = {
        name: move(values) if name in MOMENTS else values[kept]
        for name, values in table.columns.items()
    }
    return replace(table, start=move(table.start), end=move(table.end), columns=columns)


# ------------------------------------------------------------------ what is taken


def _take_trials(draft: Draft, table: TableData) -> None:
    """Take the trials, and say which of them are valid.

    ``target_positions`` was stored as uint8, so that coordinates below 0 mm came out 256 higher.
    ``hit_target_position`` proves the true value of one target a trial, and tells it already; of
    the others -100 mm and 156 mm are the same number: the column is left out.
    """
    missing = [name for name in (*MOMENTS, "discard_trial", "task_success")
               if name not in table.columns]  # fmt: skip
    if missing:
        raise HarmonizeError(
            f"{draft.recording_id}: `{TRIALS}` lacks the columns {', '.join(missing)}, which all "
            f"files of the dandiset have; {did_you_mean(missing[0], table.columns)}"
        )
    columns = {name: values for name, values in table.columns.items() if name != WRAPPED}
    skipped = tuple(name for name in table.skipped if name != WRAPPED)
    wrapped = WRAPPED in table.columns or WRAPPED in table.skipped
    draft.dropped["intervals.trials.wrapped_column"] += int(wrapped)
    columns["valid"] = (columns["discard_trial"] == 0) & (columns["task_success"] == 1)
    trials = draft.take_table("trials", replace(table, columns=columns, skipped=skipped))
    if not trials.is_disjoint:
        row = int(np.argmax(trials.start[1:] < trials.end[:-1]))
        raise HarmonizeError(
            f"{draft.recording_id}: trials overlap near {trials.end[row]:.3f} s even after those "
            "next to each other were dropped; leave the asset out."
        )


def _take_series(nwb: NwbFile, draft: Draft, clock: Clock) -> None:
    """Take the series of the manifest; those that share their times keep one array of them."""
    known: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    for options in draft.options.series:
        sources = read_sources(nwb, options, draft.dropped) if options.source else []
        if not sources:  # derived, or absent
            draft.take_series(nwb, options)
            continue
        placed = []
        for raw in sources:
            time = raw.times()
            if known is None or not np.array_equal(known[0], time):
                known = (time, *_behaviour_clock(draft, clock, raw))
            placed.append(_moved(raw, known[1], known[2]))
            draft.dropped[f"series.{options.name}.overlapping"] += int(known[1].sum())
        draft.series[options.name] = build_series(options, placed, draft.dropped)


def _behaviour_clock(draft: Draft, clock: Clock, raw: SeriesData) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples lie in overlapping trials, and the times of the others, moved."""
    time = raw.times()
    lost = clock.overlapping(time)
    moved = time[~lost] if lost.any() else time.copy()
    broken = clock.place(moved)
    if broken:
        found = {
            "wrong_joins": f"the times of `{raw.path}` are {len(clock.bounds(time)) - 1} stretches",
            "outside_acquisition": f"`{raw.path}` has samples before or after their trials",
        }
        raise HarmonizeError(
            f"{draft.recording_id}: the trials are {len(clock.first)} acquisitions, but "
            f"{found[broken]}, so it cannot be placed in time; leave the series out."
        )
    return lost, moved


def _moved(raw: SeriesData, lost: np.ndarray, time: np.ndarray) -> SeriesData:
    """Return the series without the samples in `lost`, at `time`."""
    if not lost.any():
        return replace(raw, time=time, rate=None)
    missing = None if raw.missing is None else raw.missing[~lost]
    return replace(raw, values=raw.values[~lost], time=time, rate=None, missing=missing)


def _take_units(nwb: NwbFile, draft: Draft, clock: Clock) -> None:
    """Take the units whose spikes can be placed; these are moved in the memory they are read to.

    Observation intervals repeat the trials, on the file's clock: the trials are the domain.
    """
    options = draft.options.units
    table = nwb.read_units(options.electrode, options.electrode_base)
    table = replace(table, observed=None, observed_bound=None)
    held = [nwb.read_spikes(table)]  # a list, so that nothing here keeps the array alive
    broken = [clock.place(train) for train in np.split(held[0], table.spike_bound[1:-1])]
    draft.dropped.update(Counter(f"units.{rule}" for rule in broken if rule))
    rows = np.flatnonzero([not rule for rule in broken])
    if not np.diff(table.spike_bound)[rows].any():
        raise HarmonizeError(
            f"{draft.recording_id}: the spikes of none of the {len(broken)} units run backwards "
            f"just where the trials do ({len(clock.first) - 1} joins); leave the asset out."
        )
    draft.take_unit_table(table, held.pop, rows)


def _take_phases(draft: Draft) -> None:
    """Take the phases of valid trials, and outliers, which are cut out of them."""
    if "cursor_acceleration" not in draft.series:
        raise HarmonizeError(
            f"{draft.recording_id}: outliers are told by the series 'cursor_acceleration' (the "
            "velocity of the cursor's velocity, mm/s^2), which the manifest must name."
        )
    acceleration = draft.series["cursor_acceleration"]
    fast = length_of(acceleration.values) > FASTEST
    outlier = masked_segments(acceleration.times(), dilated(fast, MARGIN))
    trials = draft.intervals["trials"]
    valid = trials.where(trials.columns["valid"])
    for name, (start, end) in PHASES.items():
        stop = valid.end if end == "stop_time" else valid.columns[end]
        phase = TableData(TRIALS, valid.columns[start], stop, {})
        draft.intervals[name] = draft.take_table(name, phase).cut(outlier)
    draft.intervals["outlier"] = outlier


def _take_paper_split(draft: Draft) -> None:
    """Split the valid trials as POYO's public code does; the others are trained on too."""
    trials = draft.intervals["trials"]
    valid = trials.where(trials.columns["valid"])
    train, check, test = (valid.where(rows) for rows in shuffled_rows(len(valid), SHARES, SEED))
    train = train.union(trials.where(~trials.columns["valid"]))
    draft.splits["paper"] = split_table({"train": train, "valid": check, "test": test})
