"""Cleans and derives series: each rule drops rows under its own name and counts them."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from spikedata.errors import HarmonizeError
from spikedata.intervals import IntervalSet
from spikedata.masks import length_of
from spikedata.nwb import NwbFile, SeriesData
from spikedata.options import SeriesOptions
from spikedata.recording import Series

__all__ = [
    "build_direction",
    "build_series",
    "build_velocity",
    "read_sources",
    "series_coverage",
]

PIECE = 2**15  # rows differentiated at a time: what they need stays in a core's cache
GAP_STEPS = 10  # lost samples in a row that still count as observed, when max_gap is not given


def read_sources(nwb: NwbFile, options: SeriesOptions, dropped: Counter[str]) -> list[SeriesData]:
    """Return the NWB series that one series is made of; none if it is optional and not there.

    What changes their times is counted in `dropped` as ``series.<name>.rate_is_period`` and
    ``series.<name>.times_spread``, one for each NWB series.

    Raises
    ------
    HarmonizeError
        If a source is not there, or what one pattern matches are not parts of one series.
    """
    rule = f"series.{options.name}"
    sources = []
    for pattern in options.source:
        paths = _matches(nwb, pattern)
        if not paths and options.optional:
            return []
        parts = []
        for path in paths or [pattern]:  # reading what is not there says what could be meant
            part = nwb.read_series(
                path, missing=options.missing, spread_times=options.spread_times,
                as_stored=options.as_stored,
            )  # fmt: skip
            if options.rate_is_period and part.rate is not None and part.rate < 1:
                part = replace(part, rate=1 / part.rate)
                dropped[f"{rule}.rate_is_period"] += 1
            dropped[f"{rule}.times_spread"] += part.times_spread
            parts.append(part)
        sources.append(_one_after_another(options, parts))
    return sources


def build_series(
    options: SeriesOptions, sources: Sequence[SeriesData], dropped: Counter[str]
) -> Series:
    """Return one series made of `sources`, cleaned by the rules of `options`.

    The rules run in this order and are counted in `dropped` as ``series.<name>.<rule>``:
    ``bad_time`` (not finite), ``repeated_time``, ``backward_time`` (at or before an earlier
    sample), ``missing`` (the value for "not tracked"), ``not_finite`` (a value is), ``still``,
    ``out_of_range`` and ``too_fast``.

    Raises
    ------
    HarmonizeError
        If several sources do not share their times, or names and columns do not fit.
    """
    rule = f"series.{options.name}"
    values, time = _joined(options, sources), sources[0].times()
    columns = _columns(options, sources)
    ignored = sum(source.conversion_ignored for source in sources)
    dropped[f"{rule}.conversion_ignored"] += ignored
    values = values if options.scale == 1.0 else values * options.scale
    unit = options.unit
    if unit is None:  # the file states the unit after the conversion, and that may be junk
        unit = "" if ignored else sources[0].unit
    kept = _usable_times(rule, time, dropped)
    marked = [source.missing for source in sources if source.missing is not None]
    if marked:
        lost = np.any(marked, axis=0) & kept
        dropped[f"{rule}.missing"] += int(lost.sum())
        kept &= ~lost
    kept[kept] = _usable_values(options, _rows(time, kept), _rows(values, kept), dropped)
    if options.transform == "cos_sin":
        degrees = sources[0].unit.lower().startswith("deg") and options.unit is None
        angle = np.deg2rad(values) if degrees else values
        values = np.stack([np.cos(angle), np.sin(angle)], 2).reshape(len(values), -1)
        unit = options.unit or ""
    first = sources[0]
    if first.rate is not None and kept.all():
        return Series(values, unit, columns, start=first.start, rate=first.rate)
    return Series(_rows(values, kept), unit, columns, time=_rows(time, kept))


def build_velocity(options: SeriesOptions, source: Series, dropped: Counter[str]) -> Series:
    """Return the velocity of `source` by central differences against its times.

    No difference is taken across a pause of more than ``max_gap``; a sample between two
    pauses has no velocity and is dropped (``series.<name>.alone``).

    References
    ----------
    ``numpy.gradient`` with coordinates: second order inside, first order at the ends.
    """
    rule = f"series.{options.name}"
    time = source.times()
    reach = series_coverage(source, options.max_gap)
    first, end = source.bounds(reach.start, reach.end)
    values = _gradient(source.values, time, first, end)
    values *= options.scale
    single = first[end - first == 1]
    dropped[f"{rule}.alone"] += len(single)
    kept = np.ones(len(values), bool)
    kept[single] = False
    if options.range is not None:
        kept[kept] = _in_range(options, values[kept], dropped)
    if options.max_speed is not None:
        fast = kept & (length_of(values) > options.max_speed)
        dropped[f"{rule}.too_fast"] += int(fast.sum())
        kept &= ~fast
    columns = options.columns or source.columns
    unit = options.unit
    if unit is None:
        unit = f"{source.unit}/s" if source.unit else ""
    if source.rate is not None and kept.all():
        return Series(values, unit, columns, start=source.start, rate=source.rate)
    return Series(_rows(values, kept), unit, columns, time=_rows(time, kept))


def build_direction(
    options: SeriesOptions, front: Series, back: Series, dropped: Counter[str]
) -> Series:
    """Return the direction from `back` to `front`, as cosine and sine of its angle.

    The angle is counterclockwise from the x axis, at the times that both have. Counted as
    ``series.<name>.unpaired`` (samples at a time that the other does not have) and
    ``series.<name>.no_direction`` (both at one place).

    Raises
    ------
    HarmonizeError
        If the positions are not in a plane, or have no time in common.

    References
    ----------
    ``atan2`` of the first LED minus the second, as A. Peyrache's public TStoolbox has it
    (``HeadDirection_Wrapper.m``, 2011); the unit vector here is the cosine and sine of that angle.
    """
    rule = f"series.{options.name}"
    if front.values.shape[1] != 2 or back.values.shape[1] != 2:
        raise HarmonizeError(
            f"The series '{options.name}' is the direction between two positions, which need "
            f"columns x and y; found {list(front.columns)} and {list(back.columns)}."
        )
    time, ahead, behind = np.intersect1d(
        front.times(), back.times(), assume_unique=True, return_indices=True
    )
    if len(time) == 0 < min(len(front), len(back)):
        raise HarmonizeError(
            f"The series '{options.name}' is the direction between two positions that have no "
            "time in common; take positions of the same frames."
        )
    dropped[f"{rule}.unpaired"] += len(front) + len(back) - 2 * len(time)
    arrow = front.values[ahead].astype(np.float64) - back.values[behind]
    length = length_of(arrow)
    apart = length > 0
    dropped[f"{rule}.no_direction"] += int((~apart).sum())
    values = arrow[apart] / length[apart, None]
    columns = options.columns or ("cos", "sin")
    if front.rate is not None and front.rate == back.rate and len(values) == len(front):
        return Series(values, options.unit or "", columns, start=front.start, rate=front.rate)
    return Series(values, options.unit or "", columns, time=time[apart])


def series_coverage(series: Series, max_gap: float | None) -> IntervalSet:
    """Return where the series was observed; by default a pause is ten median sampling steps."""
    if max_gap is None:
        step = np.diff(series.times())
        max_gap = GAP_STEPS * float(np.median(step)) if len(step) else 1.0
    return series.coverage(max_gap)


# ------------------------------------------------------------------ parts of the above


def _matches(nwb: NwbFile, pattern: str) -> list[str]:
    """Return the series that match; ``*`` and ``?`` stay within one step of the path.

    Links count too: a series that is listed under another path is found under this one.
    """
    if not set(pattern) & set("*?"):
        return [pattern] if nwb.has(pattern) else []
    found = [""]
    for step in pattern.split("/"):
        found = [
            f"{path}/{name}".lstrip("/")
            for path in found
            for name in nwb.names(path)
            if fnmatch.fnmatchcase(name, step)
        ]
    return [path for path in found if "data" in nwb.names(path)]


def _one_after_another(options: SeriesOptions, parts: list[SeriesData]) -> SeriesData:
    """Return the parts as one series in order of time, if no two share time."""
    if len(parts) == 1:
        return parts[0]
    parts = sorted((one for one in parts if len(one.values)), key=lambda one: one.times()[0])
    for one, other in pairwise(parts):
        if not np.max(one.times()) < np.min(other.times()):  # also where a time is NaN
            raise HarmonizeError(
                f"The series '{options.name}' joins `{one.path}` and `{other.path}`, which are "
                "not one after another in time; write a narrower `source`."
            )
        if one.values.shape[1] != other.values.shape[1] or one.unit != other.unit:
            raise HarmonizeError(
                f"The series '{options.name}' joins `{one.path}` and `{other.path}`, which "
                "differ in their columns or unit; make two series of them."
            )
    marked = [one.missing for one in parts if one.missing is not None]
    return replace(
        parts[0],
        path=" + ".join(one.path for one in parts),
        values=np.concatenate([one.values for one in parts]),
        time=np.concatenate([one.times() for one in parts]),
        rate=None,
        conversion_ignored=any(one.conversion_ignored for one in parts),
        missing=np.concatenate(marked) if marked else None,
    )


def _joined(options: SeriesOptions, sources: Sequence[SeriesData]) -> np.ndarray:
    first = sources[0].times()
    for other in sources[1:]:
        if not np.array_equal(other.times(), first):
            raise HarmonizeError(
                f"The series '{options.name}' joins `{sources[0].path}` and `{other.path}`, "
                "which do not have the same times; make two series of them."
            )
    if len(sources) == 1:
        return sources[0].values
    return np.concatenate([source.values for source in sources], axis=1)


def _rows(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return the rows where `kept` (bool) is true; the array itself, no copy, when it all is."""
    return values if kept.all() else values[kept]


def _columns(options: SeriesOptions, sources: Sequence[SeriesData]) -> tuple[str, ...]:
    names = tuple(name for source in sources for name in source.columns)
    if options.transform == "cos_sin":
        names = tuple(f"{part}_{name}" for name in names for part in ("cos", "sin"))
    if len(set(names)) < len(names):
        names = tuple(str(number) for number in range(len(names)))
    if options.columns is not None and len(options.columns) != len(names):
        raise HarmonizeError(
            f"The series '{options.name}' has {len(names)} columns, but the manifest names "
            f"{len(options.columns)}: {', '.join(options.columns)}."
        )
    return options.columns or names


def _gradient(
    values: np.ndarray, time: np.ndarray, first: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Return ``numpy.gradient(values, time, axis=0)`` of each run of rows, float64.

    The runs (rows `first` to `end`) follow one another. Inside them a row needs only its
    neighbours, so that all are done at once, a piece at a time; then the ends of each are. A run
    of one row is NaN.
    """
    result = np.full(values.shape, np.nan)
    for begin in range(1, len(values) - 1, PIECE):
        rows = slice(begin, min(begin + PIECE, len(values) - 1))
        step = np.diff(time[rows.start - 1 : rows.stop + 1])[:, None]
        before, after = step[:-1], step[1:]
        both = before + after
        result[rows] = (
            -after / (before * both) * values[rows.start - 1 : rows.stop - 1]
            + (after - before) / (before * after) * values[rows]
            + before / (after * both) * values[rows.start + 1 : rows.stop + 1]
        )
    several = end - first > 1
    for row, other in ((first, first + 1), (end - 1, end - 2)):
        row, other = row[several], other[several]
        result[row] = (values[other] - values[row]) / (time[other] - time[row])[:, None]
    result[first[~several]] = np.nan
    return result


def _usable_times(rule: str, time: np.ndarray, dropped: Counter[str]) -> np.ndarray:
    """Return, for each row, whether its time is finite and after every earlier one."""
    if len(time) and np.isfinite(time[[0, -1]]).all() and (time[1:] > time[:-1]).all():
        return np.ones(len(time), bool)  # as most are; NaN is after nothing
    kept = np.isfinite(time)
    dropped[f"{rule}.bad_time"] += int((~kept).sum())
    found = time[kept]
    latest = np.concatenate([[-np.inf], np.maximum.accumulate(found)[:-1]]) if len(found) else found
    dropped[f"{rule}.repeated_time"] += int((found == latest).sum())
    dropped[f"{rule}.backward_time"] += int((found < latest).sum())
    kept[kept] = found > latest
    return kept


def _usable_values(
    options: SeriesOptions, time: np.ndarray, values: np.ndarray, dropped: Counter[str]
) -> np.ndarray:
    """Return, for each row, whether the rules on values keep it."""
    rule = f"series.{options.name}"
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(values.sum())  # then all are, and most series are such
    kept = np.ones(len(values), bool)
    if not finite:
        kept = np.asarray(np.isfinite(values).all(1))
    dropped[f"{rule}.not_finite"] += int((~kept).sum())
    if options.max_still is not None:
        still = _still(time[kept], values[kept], options.max_still)
        dropped[f"{rule}.still"] += int(still.sum())
        kept[kept] = ~still
    if options.range is not None:
        kept[kept] = _in_range(options, values[kept], dropped)
    if options.max_speed is not None:
        fast = _beside_a_jump(time[kept], values[kept], options.max_speed)
        dropped[f"{rule}.too_fast"] += int(fast.sum())
        kept[kept] = ~fast
    return kept


def _in_range(options: SeriesOptions, values: np.ndarray, dropped: Counter[str]) -> np.ndarray:
    low, high = options.range or (-np.inf, np.inf)
    inside = np.asarray(((values >= low) & (values <= high)).all(1))
    dropped[f"series.{options.name}.out_of_range"] += int((~inside).sum())
    return inside


def _still(time: np.ndarray, values: np.ndarray, longest: float) -> np.ndarray:
    """Return which rows lie in a run of one exact value that lasts more than `longest` s."""
    if len(values) == 0:
        return np.zeros(0, bool)
    first = np.flatnonzero(np.append(True, (np.diff(values, axis=0) != 0).any(1)))
    last = np.append(first[1:] - 1, len(values) - 1)
    return np.repeat(time[last] - time[first] > longest, last - first + 1)


def _beside_a_jump(time: np.ndarray, values: np.ndarray, fastest: float) -> np.ndarray:
    """Return which rows are at either end of a step faster than `fastest` per second."""
    fast = length_of(np.diff(values, axis=0)) > fastest * np.diff(time)
    return np.append(False, fast)[: len(time)] | np.append(fast, False)[: len(time)]
