"""Self-paced reaching of Indy and Loco (O'Doherty, Cardoso, Makin, Sabes; Zenodo 3854034).

MATLAB v7.3 files of one session each: cells of spike times per unit and channel, and behaviour at
250 Hz. There are no trials: a new target appears as soon as one is reached.

Units are named as public code names them, ``"M1 001/unsorted"``, ``"M1 001/sorted_01"``: the first
column of the cells holds the threshold crossings that were left unsorted. Spikes come before the
first sample of behaviour and after the last one: the domain is where behaviour was sampled, and
drops them (``spikes.outside_domain``). Waveforms are never read.

Besides the rules of `spikedata.draft`, ``units.empty_cell`` counts the cells without spikes, which
are no units, and ``splits.paper.no_training`` says that the published rule leaves no training time.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from spikedata.draft import Draft
from spikedata.errors import HarmonizeError
from spikedata.files import Source
from spikedata.intervals import IntervalSet
from spikedata.manifest import Asset, Dataset
from spikedata.masks import length_of, masked_segments
from spikedata.matlab import Cell, MatlabFile
from spikedata.nwb import SeriesData, UnitTable
from spikedata.options import SeriesOptions
from spikedata.recording import Recording, Series
from spikedata.series import build_series, build_velocity, series_coverage
from spikedata.splits import shuffled_rows, split_table

__all__ = ["harmonize"]

PERIOD = 0.004  # s: behaviour is sampled at 250 Hz (description of the Zenodo record)
JITTER = 1e-4  # s: public code (torch_brain 0.2.1) takes no file whose steps differ by more
STILL_SPEED, STILL_TIME = 10.0, 10.0  # mm/s and s: "no movement", as public code has it
BLOCKS, PARTS, SEED = 10, (8, 1, 1), 42  # the published split, as public code makes it
SHORTEST = 10.0  # s: pieces of the published split that are not longer are left out

# Finger: Cartesian (z, -x, -y) in cm as the hand tracker reports it, and in some sessions azimuth,
# elevation and roll (description of the Zenodo record, which does not give the unit of the angles).
FINGER = ("z", "-x", "-y")
ORIENTATION = ("azimuth", "elevation", "roll")
DERIVED = (
    SeriesOptions(name="cursor_velocity", velocity_of="cursor_position", unit="mm/s"),
    SeriesOptions(name="cursor_acceleration", velocity_of="cursor_velocity", unit="mm/s^2"),
    SeriesOptions(name="finger_velocity", velocity_of="finger_position", unit="cm/s"),
)


def harmonize(source: Source, dataset: Dataset, asset: Asset) -> Recording:
    """Return the recording that one ``.mat`` file becomes.

    Parameters
    ----------
    source : Path or binary file
        The file.
    dataset, asset : Dataset, Asset
        What the manifest says: units, targets and splits; the series are always the same.

    Returns
    -------
    Recording
        With the tables ``reaches`` (column ``target``, mm; ``valid``: both ends were seen) and
        ``still``, and the split ``paper``.

    Raises
    ------
    HarmonizeError
        If a variable is missing or of another kind, the time is no clock of 250 Hz, or the
        manifest states ``series`` or ``intervals``.
    """
    draft = Draft(dataset, asset)
    if draft.options.series or draft.options.intervals:
        raise HarmonizeError(
            f"{dataset.id}: the harmoniser 'odoherty_sabes' knows the series of its files; leave "
            "`series` and `intervals` out of the manifest."
        )
    draft.about["species"] = "Macaca mulatta"
    with MatlabFile(source) as mat:
        time = _clock(mat)
        _take_behaviour(draft, mat, time)
        _take_units(draft, mat)
    step = float(np.median(np.diff(time)))
    draft.domain = IntervalSet.single(time[0], time[-1] + step)
    draft.about["domain_from"] = "the clock of the behaviour"
    _take_tables(draft, draft.domain)
    return draft.finish()


# ------------------------------------------------------------------ behaviour


def _clock(mat: MatlabFile) -> np.ndarray:
    """Return the time of each sample (s, float64, shape (T,)), or refuse what is not 250 Hz."""
    time = mat.numbers("t").ravel()
    wrong = ~(np.abs(np.diff(time) - PERIOD) < JITTER)  # NaN is wrong too
    if len(time) < 2 or wrong.any():
        row = int(np.argmax(wrong)) if len(time) > 1 else 0
        found = f"{time[row : row + 2].tolist()} s at sample {row}" if len(time) else "none"
        raise HarmonizeError(
            f"{mat.path.name}: the samples of `t` must be {PERIOD} s apart to within {JITTER} s, "
            f"found {found} ({int(wrong.sum())} such steps); leave the file out."
        )
    return time


def _take_behaviour(draft: Draft, mat: MatlabFile, time: np.ndarray) -> None:
    finger = mat.numbers("finger_pos")
    if finger.shape not in ((len(time), 3), (len(time), 6)):
        raise HarmonizeError(
            f"{mat.path.name}: `finger_pos` has the shape {finger.shape}, expected 3 or 6 "
            f"columns for the {len(time)} samples of `t`."
        )
    _take(draft, time, "cursor_position", _plane(mat, "cursor_pos", len(time)), ("x", "y"), "mm")
    _take(draft, time, "finger_position", finger[:, :3], FINGER, "cm")
    if finger.shape[1] == 6:
        _take(draft, time, "finger_orientation", finger[:, 3:], ORIENTATION, "")
    _take(draft, time, "target_position", _plane(mat, "target_pos", len(time)), ("x", "y"), "mm")
    for options in DERIVED:
        origin = draft.series[options.velocity_of or ""]
        draft.series[options.name] = build_velocity(options, origin, draft.dropped)


def _plane(mat: MatlabFile, name: str, count: int) -> np.ndarray:
    values = mat.numbers(name)
    if values.shape != (count, 2):
        raise HarmonizeError(
            f"{mat.path.name}: `{name}` has the shape {values.shape}, expected 2 columns for the "
            f"{count} samples of `t`."
        )
    return values


def _take(
    draft: Draft, time: np.ndarray, name: str, values: np.ndarray, columns: tuple[str, ...],
    unit: str,
) -> None:  # fmt: skip
    options = SeriesOptions(name=name, source=(name,))
    found = SeriesData(name, np.ascontiguousarray(values), unit, columns, time)
    draft.series[name] = build_series(options, [found], draft.dropped)


def _take_tables(draft: Draft, domain: IntervalSet) -> None:
    speed = draft.series["cursor_velocity"]
    still = _still(speed)
    draft.intervals["reaches"] = _reaches(draft.series["target_position"])
    draft.intervals["still"] = still
    paper = _paper_split(domain, still)
    if (np.asarray(paper.columns["split"]) == "train").any():
        draft.splits["paper"] = paper
    else:
        draft.dropped["splits.paper.no_training"] += 1


def _reaches(target: Series) -> IntervalSet:
    """Return one row for each time that one target was shown: the next one ends the reach.

    The first target may have been shown before the recording began and the last one was not
    reached in it: these two are not ``valid``.
    """
    time = target.times()
    if len(time) < 2:
        return IntervalSet.empty()
    first = np.flatnonzero(np.append(True, (np.diff(target.values, axis=0) != 0).any(1)))
    edge = np.append(time[first], series_coverage(target, None).end[-1])
    valid = np.ones(len(first), bool)
    valid[[0, -1]] = False
    columns = {"target": target.values[first], "valid": valid}
    return IntervalSet(edge[:-1], edge[1:], columns)


def _still(velocity: Series) -> IntervalSet:
    """Return where the cursor was slower than 10 mm/s for longer than 10 s.

    References
    ----------
    ``detect_no_movement`` of torch_brain 0.2.1 (odoherty_sabes_nonhuman_2017).
    """
    slow = length_of(velocity.values) < STILL_SPEED
    found = masked_segments(velocity.times(), slow)
    return found.where(found.end - found.start > STILL_TIME)


# ------------------------------------------------------------------ units


def _take_units(draft: Draft, mat: MatlabFile) -> None:
    cells = mat.cells("spikes")
    names = [cell.text() for line in mat.cells("chan_names") for cell in line]
    wrong = [name for name in names if not re.fullmatch(r"[A-Za-z0-9]{1,16} [0-9]{1,8}", name)]
    if wrong or not names or len(set(names)) < len(names) or len(names) != len(cells):
        raise HarmonizeError(
            f"{mat.path.name}: expected one name such as 'M1 001' for each of the {len(cells)} "
            f"channels of `spikes`, found {len(names)}, {len(set(names))} of them different"
            f"{f', as {wrong[0]!r}' if wrong else ''}."
        )
    table, found = _unit_table(names, cells)
    draft.dropped["units.empty_cell"] += sum(len(line) for line in cells) - len(found)
    if not found:
        raise HarmonizeError(f"{mat.path.name}: every cell of `spikes` is empty: no units.")
    draft.take_unit_table(table, lambda: mat.read_trains(found))


def _unit_table(names: list[str], cells: list[list[Cell]]) -> tuple[UnitTable, list[Cell]]:
    """Return the units and the cell of each: all unsorted ones, then all first sorted ones, …."""
    taken = [
        (name, column, line[column])
        for column in range(len(cells[0]))
        for name, line in zip(names, cells, strict=True)
        if not line[column].is_empty
    ]
    channel = np.array([name for name, _, _ in taken], str)
    number = np.array([column for _, column, _ in taken], np.int64)
    label = ["unsorted" if column == 0 else f"sorted_{column:02}" for column in number.tolist()]
    columns = {
        "area": np.array([name.partition(" ")[0] for name in channel.tolist()], str),
        "electrode": channel,
        "sorting": np.where(number == 0, "multi-unit", "sorted"),
        "unit_number": number,
    }
    name = np.array([f"{one}/{two}" for one, two in zip(channel.tolist(), label, strict=True)], str)
    bound = np.cumsum([0, *(cell.vector_length() for _, _, cell in taken)])
    return UnitTable("spikes", name, bound, columns), [cell for _, _, cell in taken]


# ------------------------------------------------------------------ the published split


def _paper_split(domain: IntervalSet, still: IntervalSet) -> IntervalSet:
    """Return ten blocks of equal length, eight of them to train on.

    Without still segments the blocks are shuffled. With them those with most movement are held
    out, equal ones in shuffled order; still time is taken out, and then pieces of 10 s or less.

    Notes
    -----
    Public code sorts the shares of movement with numpy's default sort. On processors where numpy
    sorts with vector instructions, blocks with the same share, which most have, come in an order
    of that processor. Here, as everywhere else, equal shares keep the shuffled order.

    References
    ----------
    ``split_intervals`` of torch_brain 0.2.1 (odoherty_sabes_nonhuman_2017).
    """
    moving = domain
    if len(still):
        moving = _longer(domain.difference(still))
    if not len(moving):
        return split_table({"train": IntervalSet.empty()})
    edge = np.linspace(moving.start[0], moving.end[-1], BLOCKS + 1)
    if len(still):
        share = [moving.intersection(IntervalSet.single(lo, hi)).duration / (hi - lo)
                 for lo, hi in pairwise(edge.tolist())]  # fmt: skip
        ranked = np.column_stack([np.arange(BLOCKS), share])
        np.random.default_rng(SEED).shuffle(ranked)
        order = ranked[np.argsort(ranked[:, 1], kind="stable"), 0].astype(np.int64)
        rows = np.split(order, np.cumsum(PARTS)[:-1])
    else:
        rows = shuffled_rows(BLOCKS, [part / BLOCKS for part in PARTS], SEED)
    return split_table(
        {name: _pieces(edge, part, still)
         for name, part in zip(("train", "valid", "test"), rows, strict=True)}
    )  # fmt: skip


def _pieces(edge: np.ndarray, rows: np.ndarray, still: IntervalSet) -> IntervalSet:
    """Return what of some blocks is not still, each block for itself: neighbours are not joined."""
    if not len(still):
        return IntervalSet.sorted(edge[rows], edge[rows + 1])
    parts = [_longer(IntervalSet.single(lo, hi).difference(still))
             for lo, hi in np.stack([edge[rows], edge[rows + 1]], 1).tolist()]  # fmt: skip
    return IntervalSet.sorted(
        np.concatenate([one.start for one in parts]), np.concatenate([one.end for one in parts])
    )


def _longer(intervals: IntervalSet) -> IntervalSet:
    return intervals.where(intervals.end - intervals.start > SHORTEST)
