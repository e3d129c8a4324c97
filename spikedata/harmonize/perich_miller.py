"""Perich and Miller's reaching monkeys (DANDI 000688): centre-out and random-target sessions.

Trials, phases, outliers and the split "paper" are those of the public code that trains POYO-mp
(torch_brain 0.2.1, dataset ``perich_miller_population_2018``); the constants below are its. On top
of the rules of `spikedata.draft`, what is left out is counted as

=================================  ===================================================
``intervals.<phase>.not_finite``   phases of which one bound is missing in the file
``splits.paper.too_few_trials``    valid trials, when they are too few for three splits
=================================  ===================================================
"""

from __future__ import annotations

import numpy as np

from spikedata.draft import Draft
from spikedata.errors import HarmonizeError, did_you_mean
from spikedata.files import Source
from spikedata.intervals import IntervalSet
from spikedata.manifest import Asset, Dataset
from spikedata.masks import dilated, eroded, length_of, masked_segments
from spikedata.nwb import NwbFile, TableData
from spikedata.options import SeriesOptions
from spikedata.recording import Recording, Series
from spikedata.splits import clip, split_table

__all__ = [
    "center_out_trials",
    "find_outliers",
    "harmonize",
    "held_out_rows",
    "paper_split",
    "random_target_trials",
]

BEHAVIOR = "processing/behavior"
# The file's `unit` is not to be trusted: the thresholds of the public code, which takes what is
# stored (a screen of +-10, accelerations of 1500), are centimetres.
SERIES = tuple(
    SeriesOptions(name=name, source=(f"{BEHAVIOR}/{path}",), unit=unit, as_stored=True)
    for name, path, unit in (
        ("cursor_position", "Position/cursor_pos", "cm"),
        ("cursor_velocity", "Velocity/cursor_vel", "cm/s"),
        ("cursor_acceleration", "Acceleration/cursor_acc", "cm/s^2"),
    )
)
# C, J and M were sorted by hand, T was not (description of the dandiset).
SORTING = {"C": "sorted", "J": "sorted", "M": "sorted", "T": "threshold crossings"}

RETURN = 1.0  # s: a trial ends this long after its stop when nothing else is known of its end
CENTER_OUT_SHORTEST, CENTER_OUT_LONGEST = 0.5, 6.0  # s, both excluded
RANDOM_TARGET_SHORTEST, RANDOM_TARGET_LONGEST = 2.0, 10.0  # s, both excluded
TARGETS = 4  # of a random-target trial; a valid one attempted them all

SCREEN = 10.0  # cm: positions beyond it, to either side, are outliers
FASTEST = 1500.0  # cm/s^2: norm of the acceleration
FAST_WIDTH = 2  # samples by which fast ones are dilated
FAR_WIDTH, FAR_EROSION = 400, 100  # samples: far ones are dilated, then eroded

TEST, VALID, SEED = 0.2, 0.1, 42  # shares of the valid trials
GUARD = 1.0  # s around held-out trials that are not trained on


def harmonize(source: Source, dataset: Dataset, asset: Asset) -> Recording:
    """Return the recording that a file of DANDI 000688 becomes.

    The domain is the time from the first cursor sample to the last; it ends at the next float
    after the last sample, so that it contains this sample and a spike at its very time. Trials,
    phases and the split "paper" end at the last sample, as in the public code.

    Parameters
    ----------
    source : Path or binary file
        The file.
    dataset, asset : Dataset, Asset
        What the manifest says. Its ``series`` replace ours of the same name or come after
        them, its ``intervals`` come after ours; without ``units.sorting`` the subject says it.

    Returns
    -------
    Recording
        Series cursor_position, cursor_velocity and cursor_acceleration; intervals trials,
        random, outlier, hold, and in centre-out sessions reach, return and invalid.

    Raises
    ------
    HarmonizeError
        If the file lacks what every file of this dandiset has, or its trials make no sense.
    """
    draft = Draft(dataset, asset)
    with NwbFile(source) as nwb:
        draft.describe(nwb)
        for one in _series(draft.options.series):
            draft.take_series(nwb, one)
        table = nwb.read_table("intervals/trials")
        more = {one.name: nwb.read_table(one.source) for one in draft.options.intervals}
        draft.take_units(nwb)
    _take_sorting(draft)
    cursor = _extent(draft)
    last = float(cursor.end[0])
    draft.domain = IntervalSet.single(float(cursor.start[0]), float(np.nextafter(last, np.inf)))
    draft.about["domain_from"] = "first to last cursor sample"
    if "go_cue_time_array" in table.columns:
        trials = draft.take_table("trials", random_target_trials(table))
        _take_random_target_phases(draft, trials)
    else:
        trials = draft.take_table("trials", center_out_trials(table, last))
        _take_center_out_phases(draft, trials)
    _take_the_rest(draft, cursor)
    valid = trials.where(np.asarray(trials.columns["valid"]))
    split = paper_split(valid, cursor)
    if split is None:
        draft.dropped["splits.paper.too_few_trials"] += len(valid)
    else:
        draft.splits["paper"] = split
    for name, one in more.items():
        draft.take_table(name, one)
    return draft.finish()


# ------------------------------------------------------------------ trials


def center_out_trials(table: TableData, cursor_end: float) -> TableData:
    """Return the trials of a centre-out session: each from its target's onset to the next one's.

    The last one ends 1 s after its stop, or with the cursor. Where no onset is stored, the first
    trial begins at its start, any other 1 s after the stop before it, but not after its own stop.

    Parameters
    ----------
    table : TableData
        The file's trials.
    cursor_end : float
        Time of the last cursor sample (s).

    Returns
    -------
    TableData
        The file's columns, its bounds as ``start_time`` and ``stop_time``, and ``valid`` (bool):
        rewarded, with a target, and lasting more than 0.5 and less than 6 s.

    Raises
    ------
    HarmonizeError
        If a column is missing or an onset comes before the onset of an earlier trial.
    """
    shown = _column(table, "target_on_time")
    start, stop = table.start, table.end
    late = stop + RETURN
    edge = np.append(shown, np.minimum(late[-1:], cursor_end))
    filled = np.concatenate([start[:1], np.minimum(late[:-1], stop[1:]), late[-1:]])
    edge = np.where(np.isnan(edge), filled, edge)
    if np.any(np.diff(edge) < 0):
        row = int(np.argmax(np.diff(edge) < 0))
        raise HarmonizeError(
            f"`{table.path}`: trial {row} would last from {edge[row]:.3f} to "
            f"{edge[row + 1]:.3f} s, but trials must follow one another; leave the asset out."
        )
    length = np.diff(edge)
    valid = (
        (_column(table, "result") == "R")
        & ~np.isnan(_column(table, "target_id"))
        & (length < CENTER_OUT_LONGEST)
        & (length > CENTER_OUT_SHORTEST)
    )
    columns = {"start_time": start, "stop_time": stop, **table.columns, "valid": valid}
    return TableData(table.path, edge[:-1], edge[1:], columns, table.skipped)


def random_target_trials(table: TableData) -> TableData:
    """Return the trials of a random-target session, as the file bounds them.

    Returns
    -------
    TableData
        The file's columns and ``valid`` (bool): rewarded, with all four targets attempted, and
        lasting more than 2 and less than 10 s.

    Raises
    ------
    HarmonizeError
        If a column is missing.
    """
    length = table.end - table.start
    valid = (
        (_column(table, "result") == "R")
        & (_column(table, "num_attempted") == TARGETS)
        & (length < RANDOM_TARGET_LONGEST)
        & (length > RANDOM_TARGET_SHORTEST)
    )
    columns = {**table.columns, "valid": valid}
    return TableData(table.path, table.start, table.end, columns, table.skipped)


# ------------------------------------------------------------------ phases


def _take_center_out_phases(draft: Draft, trials: IntervalSet) -> None:
    """Take hold, reach and return of the valid trials, and the others as invalid."""
    mask = np.asarray(trials.columns["valid"])
    valid = trials.where(mask)
    go_cue, stop = _column(valid, "go_cue_time"), valid.columns["stop_time"]
    _take_phase(draft, "hold", valid.columns["target_on_time"], go_cue)
    _take_phase(draft, "reach", go_cue, stop)
    _take_phase(draft, "return", stop, valid.end)
    _take_phase(draft, "invalid", trials.start[~mask], trials.end[~mask])


def _take_random_target_phases(draft: Draft, trials: IntervalSet) -> None:
    """Take the time up to the first go cue of every trial that has one, valid or not, as hold."""
    cues = _column(trials, "go_cue_time_array")
    first = cues if cues.ndim == 1 else cues[:, 0]
    cued = ~np.isnan(first)
    _take_phase(draft, "hold", trials.start[cued], first[cued])


def _take_phase(draft: Draft, name: str, start: np.ndarray, end: np.ndarray) -> None:
    draft.take_table(name, TableData(name, start, end, {}))


def _take_the_rest(draft: Draft, cursor: IntervalSet) -> None:
    """Take random, the cursor's time in no phase, and cut the outliers out of every phase."""
    phases = [name for name in draft.intervals if name != "trials"]
    named = IntervalSet.empty()
    for name in phases:
        named = named.union(draft.intervals[name])
    draft.intervals["random"] = cursor.difference(named)
    outlier = find_outliers(draft.series["cursor_position"], draft.series["cursor_acceleration"])
    for name in [*phases, "random"]:
        draft.intervals[name] = draft.intervals[name].cut(outlier)
    draft.intervals["outlier"] = outlier


def find_outliers(position: Series, acceleration: Series) -> IntervalSet:
    """Return where the cursor was off the screen or too fast for a hand.

    Fast samples (above 1500 cm/s^2) are dilated by 2 samples; far ones (beyond 10 cm to either
    side) are dilated by 400 samples and eroded by 100. Samples that one of the series lacks are
    passed over.

    Parameters
    ----------
    position, acceleration : Series
        The cursor's, in cm and cm/s^2.
    """
    time, at, too = position.times(), slice(None), slice(None)
    if not np.array_equal(time, acceleration.times()):
        time, at, too = np.intersect1d(
            time, acceleration.times(), assume_unique=True, return_indices=True
        )
    fast = length_of(acceleration.values[too]) > FASTEST
    far = np.asarray((np.abs(position.values[at]) > SCREEN).any(1))
    far = eroded(dilated(far, FAR_WIDTH), FAR_EROSION)
    return masked_segments(time, dilated(fast, FAST_WIDTH) | far)


# ------------------------------------------------------------------ splits


def paper_split(valid: IntervalSet, cursor: IntervalSet) -> IntervalSet | None:
    """Return the published split: trials at random for valid and test, the rest for training.

    Of the valid trials a fifth are test and an eighth of the others valid. Training is all of
    the cursor's time but for 1 s on either side of those trials, invalid trials included.

    Parameters
    ----------
    valid : IntervalSet
        The valid trials, in order of time.
    cursor : IntervalSet
        The time to be split; what lies outside is cut off.

    Returns
    -------
    IntervalSet or None
        Disjoint intervals with the column ``"split"``, one row per held-out trial; None when
        the trials are too few for three splits.
    """
    rest, test = held_out_rows(len(valid), TEST)
    chosen, held = held_out_rows(len(rest), VALID / (1.0 - TEST - VALID + VALID))
    if len(chosen) == 0:
        return None
    parts = {"valid": valid.where(np.sort(rest[held])), "test": valid.where(np.sort(test))}
    near = parts["valid"].union(parts["test"]).dilate(GUARD)
    inside = {name: clip(one, cursor.start[0], cursor.end[0]) for name, one in parts.items()}
    return split_table({"train": cursor.difference(near), **inside})


def held_out_rows(count: int, share: float, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers that are kept and those held out, both in shuffled order.

    References
    ----------
    ``sklearn.model_selection.train_test_split`` of scikit-learn 1.5, which the public code uses:
    the same numbers for the same seed. Held out are the first ``ceil(share * count)``.
    """
    held = int(np.ceil(share * count))
    order = np.random.RandomState(seed).permutation(count)
    return order[held:], order[:held]


# ------------------------------------------------------------------ parts of the above


def _series(stated: tuple[SeriesOptions, ...]) -> list[SeriesOptions]:
    """Return our series, those of the manifest in the place of ours of the same name."""
    return list({one.name: one for one in (*SERIES, *stated)}.values())


def _take_sorting(draft: Draft) -> None:
    """Say how the units were sorted, where the manifest does not and the subject is known."""
    subject = draft.about.get("subject", "")
    if "sorting" not in draft.units and subject in SORTING:
        draft.units["sorting"] = np.full(len(draft.units["unit_id"]), SORTING[subject])


def _extent(draft: Draft) -> IntervalSet:
    """Return the time from the first cursor sample to the last."""
    position = draft.series["cursor_position"]
    if len(position) < 2:
        raise HarmonizeError(
            f"{draft.recording_id}: `{SERIES[0].source[0]}` has {len(position)} usable samples; "
            "expected a cursor that was followed all the time: leave the asset out."
        )
    return IntervalSet.single(*position.times()[[0, -1]].tolist())


def _column(table: TableData | IntervalSet, name: str) -> np.ndarray:
    if name not in table.columns:
        raise HarmonizeError(
            f"`intervals/trials` has no column '{name}', which every file of this dataset has; "
            f"{did_you_mean(name, table.columns)}"
        )
    return table.columns[name]
