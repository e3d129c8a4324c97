"""FALCON M1, M2 and H1: spike times, and behaviour in bins of 20 ms.

A bin is one sample of behaviour and the spikes of its 20 ms. The files state the time of a bin in
two ways (`STAMPS`); here a sample's time is always the **end** of its bin, so that all spikes up to
it may be used to decode it. The interval of a bin reaches from the end of the one before, or 20 ms
back, to its own end, which it includes: tables made of bins hold exactly the samples of these bins.

Tables: "trials" (M1, M2: as in the file; H1: runs of ``TrialNum``), "epochs" (H1), and
"evaluation", where ``eval_mask`` is true: the time that the benchmark scores, in calibration
files too. What it scores with is not public, and a minival file repeats a part of a calibration
file, so there is no split scheme of the benchmark's own. Behaviour was smoothed with windows that
reach into the future. The files of H2 and B1 have no spike times of units: see
`spikedata.testing.layouts.falcon`.

Rules that drop or change something, besides those of `spikedata.draft`:

================================  ===================================================
``series.evaluation.<rule>``      bins of the mask that are changed, as in a series
``series.trial_number.<rule>``    bins of ``TrialNum`` that are changed, as in a series
================================  ===================================================

Series of H1 hold their period as their ``rate``, which counts as ``rate_is_period``. If their
``offset`` is not zero, it is the time of their first sample, as the benchmark reads it, and nothing
is added to what is stored (``conversion_ignored``).

References
----------
``falcon_challenge/dataloaders.py`` of github.com/snel-repo/falcon-challenge (``bin_units``,
``load_nwb``): the bins, what the times mean, and that a mask of 1 is scored in every dataset.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from spikedata.draft import Draft
from spikedata.errors import HarmonizeError
from spikedata.files import Source
from spikedata.intervals import IntervalSet
from spikedata.manifest import Asset, Dataset
from spikedata.nwb import NwbFile, TableData
from spikedata.options import SeriesOptions
from spikedata.recording import Recording, Series
from spikedata.series import build_series, read_sources

__all__ = ["harmonize"]

BIN = 0.02  # s; the benchmark's bin
STAMPS = {
    "acquisition/preprocessed_emg": "end",  # M1
    "acquisition/finger_vel": "start",  # M2
    "acquisition/OpenLoopKinematicsVelocity": "end",  # H1
}
"""Which moment of its bin a file with such behaviour states as the time of a sample."""
POSITION = "acquisition/OpenLoopKinematics"  # H1
MASK, TRIAL_NUMBER = "acquisition/eval_mask", "acquisition/TrialNum"
TABLES = {"trials": "intervals/trials", "epochs": "intervals/epochs"}


def harmonize(source: Source, dataset: Dataset, asset: Asset) -> Recording:
    """Return the recording that a file of FALCON M1, M2 or H1 becomes.

    Parameters
    ----------
    source : Path or binary file
        The file.
    dataset, asset : Dataset, Asset
        What the manifest says; the series name the file's behaviour.

    Returns
    -------
    Recording
        Not yet checked: `spikedata.harmonize.harmonize` does that.

    Raises
    ------
    HarmonizeError
        If the file has no behaviour of M1, M2 or H1, its bins are not of 20 ms, or most of
        them lie outside the time in which the units were observed.
    """
    draft = Draft(dataset, asset)
    with NwbFile(source) as nwb:
        draft.describe(nwb)
        found = {entry.path for entry in nwb.listing()}
        late = BIN if _stamp(nwb, found) == "start" else 0.0
        first = _first_time(nwb, found)
        draft.about["sample_time"] = "end of its bin of 20 ms" + (
            ", 20 ms after the time in the file" if late else ", as in the file"
        )
        for one in draft.options.series:
            binned = _binned(nwb, one, late, first, draft.dropped) if one.source else None
            if binned is not None:
                draft.series[one.name] = binned
            else:
                draft.take_series(nwb, one)  # made of others, or optional and not there
        _take_tables(nwb, draft, found)
        _take_tables_of_bins(nwb, draft, late, first)
        draft.take_units(nwb)
    _take_domain(draft)
    return draft.finish()


def _stamp(nwb: NwbFile, found: set[str]) -> str:
    """Return which moment of its bin a sample's time is, by what the file holds."""
    for prefix, stamp in STAMPS.items():
        if any(path == prefix or path.startswith(f"{prefix}/") for path in found):
            return stamp
    raise HarmonizeError(
        f"{nwb.path.name}: expected the behaviour of FALCON M1, M2 or H1, one of "
        f"{', '.join(f'`{path}`' for path in STAMPS)}, and found none of them; a file of another "
        "dataset needs another `harmonizer` in its manifest."
    )


def _first_time(nwb: NwbFile, found: set[str]) -> float | None:
    """Return when the bins of H1 begin (s) if its kinematics say so as their ``offset``."""
    if POSITION not in found:
        return None
    return nwb.number(f"{POSITION}/data", "offset") or None


def _binned(
    nwb: NwbFile, options: SeriesOptions, late: float, first: float | None, dropped: Counter[str]
) -> Series | None:
    """Return a series whose sample times are the ends of its bins, cleaned.

    `late` (s) is from the time in the file to the end of the bin, `first` (s) is when bins without
    times of their own begin, if not when they say. None if the series is not there.
    """
    known = {"rate_is_period": True, "as_stored": options.as_stored or first is not None}
    options = options.model_copy(update=known)  # 0.02 Hz would be a bin of 50 s
    sources = read_sources(nwb, options, dropped)
    if not sources:
        return None
    moved = [
        replace(one, time=None if one.time is None else one.time + late,
                start=(one.start if first is None else first) + late)
        for one in sources
    ]  # fmt: skip
    series = build_series(options, moved, dropped)
    step = np.diff(series.times())
    if len(step) and abs(np.median(step) - BIN) > BIN / 10:
        raise HarmonizeError(
            f"{nwb.path.name}: the samples of `{sources[0].path}` are {np.median(step):g} s "
            f"apart, expected bins of {BIN:g} s; the file is of another release, and what its "
            "times mean must be found out first."
        )
    return series


# ------------------------------------------------------------------ tables


def _take_tables(nwb: NwbFile, draft: Draft, found: set[str]) -> None:
    """Take the tables of the file, the tags of epochs too."""
    wanted = {one.name: one.source for one in draft.options.intervals}
    wanted = wanted or {name: path for name, path in TABLES.items() if path in found}
    for name, path in wanted.items():
        draft.take_table(name, _with_tags(nwb, nwb.read_table(path)))


def _with_tags(nwb: NwbFile, table: TableData) -> TableData:
    """Return the table with the ragged column "tags", if it has one, as texts joined by "; "."""
    if "tags" not in table.skipped:
        return table
    tags = nwb.array(f"{table.path}/tags").astype(str)
    ends = nwb.array(f"{table.path}/tags_index").astype(np.int64)
    texts = ["; ".join(part) for part in np.split(tags, ends)[: len(ends)]]
    if len(texts) != len(table.start) or (len(ends) and ends[-1] != len(tags)):
        raise HarmonizeError(
            f"{nwb.path.name}: `{table.path}` has {len(table.start)} rows, but its tags are "
            f"{len(tags)} for {len(texts)} rows; the file is cut or damaged: fetch it again."
        )
    skipped = tuple(name for name in table.skipped if name != "tags")
    return replace(table, columns={**table.columns, "tags": np.array(texts, str)}, skipped=skipped)


def _take_tables_of_bins(nwb: NwbFile, draft: Draft, late: float, first: float | None) -> None:
    """Make the tables that are written as one number per bin."""
    options = SeriesOptions(name="trial_number", source=(TRIAL_NUMBER,), optional=True)
    bins = None
    if "trials" not in draft.intervals:
        bins = _binned(nwb, options, late, first, draft.dropped)
    if bins is not None:
        draft.intervals["trials"] = _runs(bins.times(), bins.values[:, 0], "number")
    options = SeriesOptions(name="evaluation", source=(MASK,), optional=True)
    bins = _binned(nwb, options, late, first, draft.dropped)
    if bins is not None:
        runs = _runs(bins.times(), bins.values[:, 0] != 0, "scored")
        scored = runs.where(runs.columns["scored"])
        draft.intervals["evaluation"] = IntervalSet(scored.start, scored.end)


def _runs(end: np.ndarray, label: np.ndarray, column: str) -> IntervalSet:
    """Return the runs of bins next to each other that have one label, with it as a column.

    Parameters
    ----------
    end : ndarray, shape (T,), float64
        End of each bin in seconds, increasing.
    label : ndarray, shape (T,)
        What the bins are joined by.
    """
    if len(end) == 0:
        return IntervalSet(np.empty(0), np.empty(0), {column: label})
    after = np.nextafter(end, np.inf)  # a bin includes its end, an interval does not
    pause = np.append(True, np.diff(end) > 1.5 * BIN)
    first = np.flatnonzero(pause | np.append(True, label[1:] != label[:-1]))
    last = np.append(first[1:] - 1, len(end) - 1)
    start = np.where(pause[first], end[first] - BIN, np.append(-np.inf, after)[first])
    return IntervalSet(start, after[last], {column: label[first]})


# ------------------------------------------------------------------ domain


def _take_domain(draft: Draft) -> None:
    """Take the time of the bins as the domain where no unit says when it was observed."""
    times = [series.times() for series in draft.series.values()]
    if not times or not all(len(time) for time in times):
        return  # a check says so
    bins = IntervalSet.single(
        min(time[0] for time in times) - BIN,
        float(np.nextafter(max(time[-1] for time in times), np.inf)),
    )
    if draft.domain is None:
        draft.domain, draft.about["domain_from"] = bins, "bins of behaviour"
        return
    shared = draft.domain.intersection(bins).duration
    if shared < min(bins.duration, draft.domain.duration) / 2:
        raise HarmonizeError(
            f"{draft.recording_id}: behaviour from {bins.start[0]:g} to {bins.end[0]:g} s and "
            f"units observed from {draft.domain.start[0]:g} to {draft.domain.end[-1]:g} s share "
            f"only {shared:g} s, so their clocks differ; leave the file out of the manifest."
        )
