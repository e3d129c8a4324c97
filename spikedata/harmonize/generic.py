"""The default harmoniser: an NWB file to a recording, driven wholly by the manifest's options.

Every rule that drops or changes something is counted in ``Recording.dropped``:

=============================  =======================================================
``units.keep.<column>``        units whose value is not listed under ``units.keep``
``units.min_spikes``           units with too few spikes
``units.short_observation``    units observed for less than half of all observed time
``units.renamed``              units renamed to their row, because ids repeat
``units.bad_obs_interval``     observation intervals that are empty or not finite
``spikes.not_finite``          spike times that are no numbers
``spikes.unsorted``            spikes that came before their predecessor; sorted
``spikes.outside_domain``      spikes outside the observed time
``spikes.repeated_kept``       a unit's spikes at one same time; **kept**, only counted
``series.<name>.<rule>``       see `spikedata.harmonize.series`
``series.skipped``             series of the file that are not behaviour or cannot be read
``intervals.<name>.<rule>``    ``not_finite``, ``zero_length``, ``ragged_column``
=============================  =======================================================
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from spikedata.errors import HarmonizeError, IntervalError, did_you_mean
from spikedata.harmonize.series import build_series, build_velocity, series_coverage
from spikedata.intervals import IntervalSet
from spikedata.manifest import Asset, Dataset
from spikedata.nwb import Entry, NwbFile, UnitTable
from spikedata.options import ChronologicalSplit, HarmonizeOptions, SeriesOptions, UnitOptions
from spikedata.recording import Recording, Series
from spikedata.splits import chronological_split, column_split

__all__ = ["harmonize"]

BEHAVIOURAL_TYPES = ("TimeSeries", "SpatialSeries", "AbstractFeatureSeries")
FASTEST_RATE = 2500.0  # Hz; raw analogue channels are sampled faster, behaviour is not
MOST_VALUES = 50_000_000  # per series, when the manifest does not ask for it by name


def harmonize(path: Path, dataset: Dataset, asset: Asset) -> Recording:
    """Return the recording that an NWB file becomes.

    Parameters
    ----------
    path : Path
        The file.
    dataset, asset : Dataset, Asset
        What the manifest says; ``dataset.harmonize`` drives everything.

    Returns
    -------
    Recording
        Not yet checked: `spikedata.harmonize.harmonize` does that.

    Raises
    ------
    HarmonizeError
        If the file has no units, lacks what the manifest names, or is damaged.
    """
    options, dropped = dataset.harmonize, Counter[str]()
    recording_id = dataset.recording_id(asset)
    with NwbFile(path) as nwb:
        about = {**nwb.about(), **_about(dataset, asset)}
        table = nwb.read_units()
        series = _series(nwb, options, about, dropped)
        intervals = _intervals(nwb, options, dropped)
    rows = _kept_units(table, options.units, dropped)
    coverage = {name: _coverage(name, one, options) for name, one in series.items()}
    rows, observed = _observed(table, rows, dropped)
    time, unit = _spikes(table, rows, dropped)
    if observed is None:
        observed, about["domain_from"] = _extent(time, coverage), "extent of spikes and series"
    else:
        about["domain_from"] = "obs_intervals"
    inside = observed.contains(time)
    dropped["spikes.outside_domain"] += int((~inside).sum())
    time, unit = time[inside], unit[inside]
    enough = np.bincount(unit, minlength=len(rows)) >= options.units.min_spikes
    dropped["units.min_spikes"] += int((~enough).sum())
    time, unit = time[enough[unit]], (np.cumsum(enough) - 1)[unit[enough[unit]]]
    return Recording(
        recording_id, time, unit.astype(np.int32),
        _unit_columns(recording_id, table, rows[enough], options.units, dropped),
        observed, series, intervals, _splits(options, observed, coverage, intervals),
        options.targets, about, {name: count for name, count in sorted(dropped.items()) if count},
    )  # fmt: skip


def _about(dataset: Dataset, asset: Asset) -> dict[str, str]:
    found = {
        "dataset": dataset.id, "session": asset.session, "subject": asset.subject,
        "task": asset.task, "licence": dataset.licence,
        "citation": dataset.citation, "doi": dataset.doi or "", "source_file": asset.path,
    }  # fmt: skip
    return {name: text for name, text in found.items() if text}


# ------------------------------------------------------------------ units and spikes


def _kept_units(table: UnitTable, options: UnitOptions, dropped: Counter[str]) -> np.ndarray:
    """Return the rows of the units that pass every filter of ``units.keep``."""
    kept = np.arange(len(table.name))
    for column, allowed in options.keep.items():
        values = _column(table, column)
        passes = np.array([value in allowed for value in values[kept].tolist()], bool)
        dropped[f"units.keep.{column}"] += int((~passes).sum())
        kept = kept[passes]
    if len(kept) == 0:
        taken = {
            column: sorted({str(value) for value in _column(table, column).tolist()})[:5]
            for column in options.keep
        }
        raise HarmonizeError(
            f"`{table.path}`: none of the {len(table.name)} units passes units.keep in the "
            f"manifest; its columns hold {taken}."
        )
    return kept


def _column(table: UnitTable, column: str) -> np.ndarray:
    if column not in table.columns:
        raise HarmonizeError(
            f"`{table.path}` has no column '{column}' with one value per unit; "
            f"{did_you_mean(column, table.columns)}"
        )
    return table.columns[column]


def _unit_columns(
    recording_id: str, table: UnitTable, rows: np.ndarray, options: UnitOptions,
    dropped: Counter[str],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the columns of the unit table, the stable ids first."""
    name = table.name
    if len(np.unique(name)) < len(name):
        dropped["units.renamed"] += len(name)
        name = np.arange(len(name)).astype(str)
    wanted = list(table.columns) if options.columns is None else list(options.columns)
    taken = {"unit_id": np.array([f"{recording_id}/{one}" for one in name[rows]], str)}
    if options.area is not None:
        taken["area"] = _column(table, options.area)[rows].astype(str)
    elif "area" in table.columns:
        taken["area"] = table.columns["area"][rows]
    others = {column: _column(table, column)[rows] for column in wanted if column not in taken}
    return {**taken, **others}


def _spikes(
    table: UnitTable, rows: np.ndarray, dropped: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return all spikes of the units in `rows`, sorted by time and then by unit."""
    parts = [table.spike_time[table.spike_bound[row] : table.spike_bound[row + 1]] for row in rows]
    time = np.concatenate(parts) if parts else np.empty(0)
    unit = np.repeat(np.arange(len(rows)), [len(part) for part in parts])
    finite = np.isfinite(time)
    dropped["spikes.not_finite"] += int((~finite).sum())
    time, unit = time[finite], unit[finite]
    same = unit[1:] == unit[:-1]
    dropped["spikes.unsorted"] += int((same & (np.diff(time) < 0)).sum())
    order = np.lexsort((time, unit))
    repeated = (np.diff(time[order]) == 0) & same
    dropped["spikes.repeated_kept"] += int(repeated.sum())
    order = np.lexsort((unit, time))
    return time[order], unit[order]


# ------------------------------------------------------------------ the observed time


def _observed(
    table: UnitTable, rows: np.ndarray, dropped: Counter[str]
) -> tuple[np.ndarray, IntervalSet | None]:
    """Return the rows of the units to keep and the time in which all of them were observed.

    Units without intervals say nothing. Where units differ, those observed for less than
    half of the time that any unit was observed are dropped; the rest is intersected.
    """
    if table.observed is None or table.observed_bound is None:
        return rows, None
    sets: dict[int, IntervalSet] = {}
    known: dict[bytes, IntervalSet] = {}  # most files repeat the same rows for every unit
    for row in rows.tolist():
        bounds = table.observed[table.observed_bound[row] : table.observed_bound[row + 1]]
        good = np.isfinite(bounds).all(1) & (bounds[:, 0] < bounds[:, 1])
        dropped["units.bad_obs_interval"] += int((~good).sum())
        if good.any():
            key = bounds.tobytes()
            if key not in known:
                known[key] = IntervalSet.sorted(bounds[good, 0], bounds[good, 1]).coalesce()
            sets[row] = known[key]
    if not sets:
        return rows, None
    anywhere = IntervalSet.empty()
    for one in known.values():
        anywhere = anywhere.union(one)
    short = {row for row, one in sets.items() if one.duration < anywhere.duration / 2}
    dropped["units.short_observation"] += len(short)
    everywhere = anywhere
    for one in {id(one): one for row, one in sets.items() if row not in short}.values():
        everywhere = everywhere.intersection(one)
    if len(everywhere) == 0:
        raise HarmonizeError(
            f"`{table.path}`: no time was observed by all units, as their obs_intervals say; "
            "keep the units of one part of the session with units.keep."
        )
    return np.array([row for row in rows.tolist() if row not in short], np.int64), everywhere


def _extent(time: np.ndarray, coverage: dict[str, IntervalSet]) -> IntervalSet:
    """Return the time from the first to the last spike, joined with where series were observed."""
    extent = IntervalSet.empty()
    if len(time):
        extent = IntervalSet.single(time[0], np.nextafter(time[-1], np.inf))
    for one in coverage.values():
        extent = extent.union(one)
    return extent


# ------------------------------------------------------------------ series, intervals, splits


def _series(
    nwb: NwbFile, options: HarmonizeOptions, about: dict[str, str], dropped: Counter[str]
) -> dict[str, Series]:
    """Return the series that the manifest names, or every behavioural one of the file."""
    if not options.series:
        return _chosen(nwb, options, _all_behaviour(nwb, about, dropped))
    series: dict[str, Series] = {}
    for one in options.series:
        if one.velocity_of is None:
            sources = [nwb.read_series(path) for path in one.source]
            series[one.name] = build_series(one, sources, dropped)
        elif one.velocity_of in series:
            series[one.name] = build_velocity(one, series[one.velocity_of], dropped)
        else:
            raise HarmonizeError(
                f"The series '{one.name}' is the velocity of '{one.velocity_of}', which must "
                f"stand above it in the manifest; {did_you_mean(one.velocity_of, series)}"
            )
    return _chosen(nwb, options, series)


def _chosen(
    nwb: NwbFile, options: HarmonizeOptions, series: dict[str, Series]
) -> dict[str, Series]:
    """Return the series, if there are any and every target is one of them."""
    if not series:
        raise HarmonizeError(
            f"{nwb.path.name}: the file holds no behaviour (no numeric time series in "
            "acquisition or processing), so there is nothing to decode; leave it out."
        )
    for target in options.targets:
        if target not in series:
            raise HarmonizeError(
                f"{nwb.path.name}: the target '{target}' is no series of the file; "
                f"{did_you_mean(target, series)}"
            )
    return series


def _all_behaviour(nwb: NwbFile, about: dict[str, str], dropped: Counter[str]) -> dict[str, Series]:
    """Return every behavioural series of the file under its own name, or its path if that repeats.

    What is left out is named in ``about["series_skipped"]``, with the reason.
    """
    listed = [
        entry
        for entry in nwb.listing()
        if entry.kind in ("series", "link")
        and entry.path.startswith(("acquisition/", "processing/"))
    ]
    names = Counter(entry.path.rsplit("/", 1)[-1] for entry in listed)
    series, skipped = {}, []
    for entry in listed:
        last = entry.path.rsplit("/", 1)[-1]
        name = _slug(last if names[last] == 1 else entry.path.replace("/", "."))
        reason, built, counts = _why_not_behaviour(entry), None, Counter[str]()
        if not reason:
            try:
                options = SeriesOptions(name=name, source=(entry.path,))
                built = build_series(options, [nwb.read_series(entry.path)], counts)
                reason = "" if len(built) else "no usable sample"
            except HarmonizeError as error:
                reason = str(error)
        if reason or built is None:
            skipped.append(f"{entry.path} ({reason})")
            continue
        series[name] = built
        dropped.update(counts)
    if skipped:
        dropped["series.skipped"] += len(skipped)
        about["series_skipped"] = "; ".join(skipped)
    return series


def _why_not_behaviour(entry: Entry) -> str:
    if entry.kind == "link":
        return "a link out of the file"
    if entry.neurodata_type not in BEHAVIOURAL_TYPES:
        return entry.neurodata_type
    if (entry.rate or 0) > FASTEST_RATE or np.prod(entry.shape) > MOST_VALUES:
        return "raw data"
    return ""


def _slug(text: str) -> str:
    """Return a name of the source as one that can be a file name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("._+-") or "unnamed"


def _coverage(name: str, series: Series, options: HarmonizeOptions) -> IntervalSet:
    gaps = {one.name: one.max_gap for one in options.series}
    return series_coverage(series, gaps.get(name))


def _intervals(
    nwb: NwbFile, options: HarmonizeOptions, dropped: Counter[str]
) -> dict[str, IntervalSet]:
    """Return the tables that the manifest names, or every table of /intervals."""
    wanted = {one.name: one.source for one in options.intervals}
    if not wanted:
        found = [entry.path for entry in nwb.listing() if entry.kind == "intervals"]
        wanted = {
            _slug(path.split("/")[1]): path for path in found if path.startswith("intervals/")
        }
    tables = {}
    for name, path in wanted.items():
        table, rule = nwb.read_table(path), f"intervals.{name}"
        finite = np.isfinite(table.start) & np.isfinite(table.end)
        kept = finite & (table.start < table.end)
        dropped[f"{rule}.not_finite"] += int((~finite).sum())
        dropped[f"{rule}.zero_length"] += int((finite & ~kept).sum())
        dropped[f"{rule}.ragged_column"] += len(table.skipped)
        columns = {column: values[kept] for column, values in table.columns.items()}
        tables[name] = IntervalSet.sorted(table.start[kept], table.end[kept], columns)
    return tables


def _splits(
    options: HarmonizeOptions, domain: IntervalSet, coverage: dict[str, IntervalSet],
    intervals: dict[str, IntervalSet],
) -> dict[str, IntervalSet]:  # fmt: skip
    """Return the splits of every scheme; chronological ones cut the time that can be decoded."""
    decodable = domain
    for target in options.targets:
        decodable = decodable.intersection(coverage[target])
    result = {}
    for scheme, split in options.splits.items():
        try:
            if isinstance(split, ChronologicalSplit):
                result[scheme] = chronological_split(
                    decodable, split.train, split.valid, split.test, split.gap, split.blocks
                )
                continue
            if split.table not in intervals:
                raise IntervalError(
                    f"no interval table is called '{split.table}'; "
                    f"{did_you_mean(split.table, intervals)}"
                )
            table = intervals[split.table]
            result[scheme] = column_split(table, split.column, split.values, domain)
        except IntervalError as error:
            raise HarmonizeError(f"The split '{scheme}' cannot be made: {error}") from None
    return result
