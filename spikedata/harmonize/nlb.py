"""The Neural Latents Benchmark (Pei et al. 2021): seven sets, of each a train and a test file.

A train file holds held-in and held-out units (column ``heldout``), behaviour (but for DMFC_RSG)
and trials whose ``split`` is train, val or none. A test file holds the held-in units alone and
trials that are all ``test``; its segments were cut out and timed anew, 100 ms apart, so it gets
no target and no chronological split. The series are those of the manifest. Besides the rules of
`spikedata.draft` these are counted:

===================================  ===========================================================
``intervals.trials.end_rounded``     ends less than 1 ms after the next start, moved back to it
``intervals.<windows>.no_split``     trials of the split ``none``, which have no window
``intervals.<windows>.not_finite``   trials of the other splits without the moment to align to
===================================  ===========================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spikedata.draft import Draft
from spikedata.errors import HarmonizeError, did_you_mean
from spikedata.files import Source
from spikedata.intervals import IntervalSet
from spikedata.manifest import Asset, Dataset
from spikedata.nwb import NwbFile
from spikedata.options import ChronologicalSplit
from spikedata.recording import Recording
from spikedata.splits import column_split, shuffled_rows, split_table

__all__ = ["harmonize"]

TRIALS = "intervals/trials"
SAMPLE = 0.001  # s; all behaviour of the benchmark is sampled at 1 kHz
SPLITS_OF_TRAIN = {"train": "train", "val": "test"}  # what is public is scored on `val`
SPLITS_OF_TEST = {"test": "test"}
PAPER_WINDOW = (-0.05, 0.65)  # s about move_onset_time; pei_pandarinath_nlb_2021 of torch_brain
PAPER_SHARES, PAPER_SEED = (0.8, 0.2), 42  # train and valid; same source


@dataclass(frozen=True, slots=True)
class Rules:
    """What the benchmark says of one set.

    Parameters
    ----------
    align : str
        Column of the trials to which windows are aligned, or ``"start_time"``.
    window : tuple of float
        What is scored of a trial: seconds before (negative) and after that moment.
    lag : float, optional
        How long (s) behaviour comes after the spikes that tell of it, for decoding.
    area : str
        Where the units lie, if the file does not say.
    paper : bool
        Whether the trials can be divided as public code of POYO divides those of MC_Maze_Small.

    References
    ----------
    ``PARAMS`` in ``make_tensors.py`` of nlb_tools at commit 4aba5cd (at 04f1c7e the lags were
    others). It moves the windows of DMFC_RSG's train file later by up to 0.3 s, at random, and
    scores them from set_time on; ours stay in place and whole.
    """

    align: str
    window: tuple[float, float]
    lag: float | None
    area: str = ""
    paper: bool = False


SETS = {
    "nlb_mc_maze": Rules("move_onset_time", (-0.25, 0.45), 0.1, paper=True),
    "nlb_mc_maze_large": Rules("move_onset_time", (-0.25, 0.45), 0.12, paper=True),
    "nlb_mc_maze_medium": Rules("move_onset_time", (-0.25, 0.45), 0.12, paper=True),
    "nlb_mc_maze_small": Rules("move_onset_time", (-0.25, 0.45), 0.12, paper=True),
    "nlb_mc_rtt": Rules("start_time", (0.0, 0.6), 0.14, "M1"),
    "nlb_area2_bump": Rules("move_onset_time", (-0.1, 0.5), -0.02, "area 2"),
    "nlb_dmfc_rsg": Rules("go_time", (-1.5, 0.0), None, "DMFC"),
}
"""The rules of each set, by the dataset's id in a manifest."""


def harmonize(source: Source, dataset: Dataset, asset: Asset) -> Recording:
    """Return the recording that a train or a test file of the benchmark becomes.

    Parameters
    ----------
    source : Path or binary file
        The file.
    dataset, asset : Dataset, Asset
        What the manifest says; the dataset's id names the set.

    Returns
    -------
    Recording
        Not yet checked: `spikedata.harmonize.harmonize` does that. The table "evaluation" holds
        what the benchmark scores of each trial (column "trial": its row), the split "nlb" its
        division; "evaluation_paper" and "paper" are those of POYO's public code, for the train
        files of the mazes. ``about["lag"]`` is the shift between spikes and behaviour.

    Raises
    ------
    HarmonizeError
        If the dataset is none of the benchmark, or the file lacks what all its files have.
    """
    rules = _rules(dataset)
    draft = Draft(dataset, asset)
    with NwbFile(source) as nwb:
        draft.describe(nwb)
        trials = _take_trials(nwb, draft)
        is_test = _is_test(draft, trials)
        if is_test:
            _forget_behaviour(draft)
        for one in draft.options.series:
            draft.take_series(nwb, one)
        for one in draft.options.intervals:
            draft.take_table(one.name, nwb.read_table(one.source))
        draft.take_units(nwb)
    _say_where_units_lie(draft, rules)
    _take_windows(draft, "evaluation", rules.align, rules.window)
    if rules.lag is not None:
        draft.about["lag"] = f"{rules.lag:g} s"
    _take_splits(draft, is_test, rules)
    return draft.finish()


def _rules(dataset: Dataset) -> Rules:
    if dataset.id not in SETS:
        raise HarmonizeError(
            f"The harmoniser 'nlb' knows no dataset '{dataset.id}'; "
            f"{did_you_mean(dataset.id, SETS)}"
        )
    return SETS[dataset.id]


def _take_trials(nwb: NwbFile, draft: Draft) -> IntervalSet:
    """Keep the trials; one that ends after the next begins, by a rounding error, ends with it."""
    trials = draft.take_table("trials", nwb.read_table(TRIALS))
    if "split" not in trials.columns:
        raise HarmonizeError(
            f"{nwb.path.name}: `{TRIALS}` has no column 'split', which every file of the "
            "benchmark has; harmonise other files with 'generic'."
        )
    over = trials.end[:-1] - trials.start[1:]
    rounded = np.append((over > 0) & (over < SAMPLE), False)
    draft.dropped["intervals.trials.end_rounded"] += int(rounded.sum())
    end = np.where(rounded, np.append(trials.start[1:], np.inf), trials.end)
    draft.intervals["trials"] = IntervalSet(trials.start, end, trials.columns)
    return draft.intervals["trials"]


def _is_test(draft: Draft, trials: IntervalSet) -> bool:
    """Return whether all trials are the test's, or raise if they are of no known kind."""
    found = set(trials.columns["split"].tolist())
    if found == set(SPLITS_OF_TEST):
        return True
    if not found & set(SPLITS_OF_TRAIN) or found - {*SPLITS_OF_TRAIN, "none"}:
        raise HarmonizeError(
            f"{draft.recording_id}: the trials have the splits {sorted(found)}; expected 'train', "
            "'val' and 'none', or 'test' alone. Train and test files are harmonised one by one."
        )
    return False


def _forget_behaviour(draft: Draft) -> None:
    """Ask nothing of a test file that it cannot have: behaviour, or an order of time."""
    splits = {
        name: split for name, split in draft.options.splits.items()
        if not isinstance(split, ChronologicalSplit)
    }  # fmt: skip
    draft.options = draft.options.model_copy(update={"series": (), "splits": splits})
    draft.targets = ()
    draft.about["clock"] = "segments of the session timed anew, 100 ms apart"


def _say_where_units_lie(draft: Draft, rules: Rules) -> None:
    """Give units without an area that of the set."""
    if rules.area and "area" not in draft.units:
        ids = draft.units.pop("unit_id")
        area = np.full(len(ids), rules.area)
        draft.units = {"unit_id": ids, "area": area, **draft.units}


def _take_windows(draft: Draft, name: str, align: str, window: tuple[float, float]) -> None:
    """Keep the window about the moment `align` of each trial of the benchmark, under `name`."""
    trials = draft.intervals["trials"]
    if align != "start_time" and align not in trials.columns:
        raise HarmonizeError(
            f"{draft.recording_id}: the trials have no column '{align}' to align windows to; "
            f"{did_you_mean(align, trials.columns)}"
        )
    moment = trials.start if align == "start_time" else trials.columns[align]
    if moment.ndim != 1 or moment.dtype.kind != "f":
        raise HarmonizeError(
            f"{draft.recording_id}: the column '{align}' of the trials holds {moment.dtype.name} "
            f"of shape {moment.shape}, expected one time per trial; the file is damaged."
        )
    listed, known = trials.columns["split"] != "none", np.isfinite(moment)
    draft.dropped[f"intervals.{name}.no_split"] += int((~listed).sum())
    draft.dropped[f"intervals.{name}.not_finite"] += int((listed & ~known).sum())
    row = np.flatnonzero(listed & known)
    columns = {"trial": row, "split": trials.columns["split"][row]}
    draft.intervals[name] = IntervalSet.sorted(
        moment[row] + window[0], moment[row] + window[1], columns
    )


def _take_splits(draft: Draft, is_test: bool, rules: Rules) -> None:
    """Divide the trials as the benchmark does and, where public code does, as POYO does."""
    if draft.domain is None:
        raise HarmonizeError(
            f"{draft.recording_id}: the units have no obs_intervals, which every file of the "
            "benchmark has: without them nothing says what was observed."
        )
    trials = draft.intervals["trials"]
    values = SPLITS_OF_TEST if is_test else SPLITS_OF_TRAIN
    draft.splits["nlb"] = column_split(trials, "split", values, draft.domain)
    if rules.paper and not is_test:
        draft.splits["paper"] = _paper_split(trials, draft.domain)
        _take_windows(draft, "evaluation_paper", rules.align, PAPER_WINDOW)


def _paper_split(trials: IntervalSet, domain: IntervalSet) -> IntervalSet:
    """Return the division of POYO's public code: some training trials validate, `val` tests.

    References
    ----------
    pei_pandarinath_nlb_2021 of torch_brain 0.2.1, which takes MC_Maze_Small alone.
    """
    names = trials.columns["split"]
    rows = np.flatnonzero(names == "train")
    train, valid = (rows[part] for part in shuffled_rows(len(rows), PAPER_SHARES, PAPER_SEED))
    parts = {"train": train, "valid": valid, "test": np.flatnonzero(names == "val")}
    return split_table(
        {name: trials.where(part).intersection(domain) for name, part in parts.items()}
    )
