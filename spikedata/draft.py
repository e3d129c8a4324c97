"""A recording in the making: what every harmoniser does with what it has found in a file.

Every rule that drops or changes something is counted in ``Recording.dropped``:

=============================  =======================================================
``units.keep.<column>``        units whose value is not listed under ``units.keep``
``units.at_least.<column>``    units whose value is below ``units.at_least``, or no number
``units.min_spikes``           units with too few spikes
``units.short_observation``    units observed for less than half of all observed time
``units.renamed``              units renamed to their row, because ids repeat
``units.bad_obs_interval``     observation intervals that are empty or not finite
``spikes.<rule>``              see `spikedata.spikes.SpikeTrains`
``series.<name>.<rule>``       see `spikedata.series`
``series.absent``              optional series that the file lacks or has no usable sample of, and
                               what is made of them
``intervals.absent``           optional interval tables that the file lacks
``intervals.<name>.<rule>``    ``not_finite``, ``zero_length``, ``ragged_column``
=============================  =======================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from spikedata.errors import HarmonizeError, IntervalError, did_you_mean
from spikedata.intervals import IntervalSet
from spikedata.manifest import Asset, Dataset
from spikedata.nwb import NwbFile, TableData, UnitTable
from spikedata.options import ChronologicalSplit, SeriesOptions
from spikedata.recording import Recording, Series
from spikedata.series import (
    build_direction,
    build_series,
    build_velocity,
    read_sources,
    series_coverage,
)
from spikedata.spikes import SpikeTrains
from spikedata.splits import chronological_split, column_split

__all__ = ["Draft"]


class Draft:
    """Gathers units, series, intervals and splits of one file; `finish` returns the recording.

    A harmoniser fills it in any order. The methods apply the manifest's options and count what
    they drop; what a harmoniser drops itself it counts in `dropped`, under a rule's name.

    Parameters
    ----------
    dataset, asset : Dataset, Asset
        What the manifest says; ``dataset.harmonize`` holds the options.

    Attributes
    ----------
    about : dict of str to str
        Becomes ``Recording.about``; say in ``domain_from`` where the domain comes from.
    dropped : Counter
        Becomes ``Recording.dropped``.
    units : dict of str to ndarray
        Columns of the unit table, ``unit_id`` first.
    trains : SpikeTrains
        The spikes of these units.
    series, intervals, splits : dict
        As in `Recording`.
    domain : IntervalSet, optional
        Where the recording was observed. By default the rows of the manifest's ``domain``; else
        what the units' ``obs_intervals`` share, or without those the time from the first spike
        or sample to the last.
    targets : tuple of str
        By default those of the manifest; `finish` leaves out those that are `absent`.
    absent : dict of str to str
        Optional series that the file lacks or has no usable sample of, and series made of them,
        with the reason.
    """

    def __init__(self, dataset: Dataset, asset: Asset) -> None:
        self.options = dataset.harmonize
        self.recording_id = dataset.recording_id(asset)
        self.about = {
            "dataset": dataset.id, "session": asset.session, "subject": asset.subject or "",
            "task": asset.task or "", "licence": dataset.licence, "citation": dataset.citation,
            "doi": dataset.doi or "", "source_file": asset.path,
        }  # fmt: skip
        self.about = {name: text for name, text in self.about.items() if text}
        self.dropped: Counter[str] = Counter()
        self.units: dict[str, np.ndarray] = {}
        self.trains: SpikeTrains | None = None
        self.series: dict[str, Series] = {}
        self.intervals: dict[str, IntervalSet] = {}
        self.splits: dict[str, IntervalSet] = {}
        self.domain: IntervalSet | None = None
        self.targets = self.options.targets
        self.absent: dict[str, str] = {}

    # -------------------------------------------------------------- from an NWB file

    def describe(self, nwb: NwbFile) -> None:
        """Take what the file says of its session and subject; the manifest's word counts more."""
        self.about = {**nwb.about(), **self.about}

    def take_units(self, nwb: NwbFile) -> None:
        """Read the units that pass ``units.keep``, their columns, observed time and spikes."""
        options = self.options.units
        table = nwb.read_units(options.electrode, options.electrode_base)
        self.take_unit_table(table, lambda: nwb.read_spikes(table))

    def take_unit_table(
        self, table: UnitTable, read: Callable[[], np.ndarray], rows: np.ndarray | None = None
    ) -> None:
        """Take units from a table of any origin; ``read`` returns all its spikes, as `SpikeTrains`.

        ``units.keep``, ``units.at_least``, observed time and columns work as for NWB; with
        ``rows`` (int) only those units of the table are taken.
        """
        rows = self._kept_units(table, np.arange(len(table.name)) if rows is None else rows)
        rows, observed = self._observed(table, rows)
        if observed is not None:
            self.domain, self.about["domain_from"] = observed, "obs_intervals"
        self.take_unit_columns(table, rows)
        self.trains = SpikeTrains(read, table.spike_bound, rows, self.dropped)

    def take_unit_columns(self, table: UnitTable, rows: np.ndarray) -> None:
        """Take the columns of the unit table: id, area, electrode and sorting, then the file's."""
        options, name = self.options.units, table.name
        if len(np.unique(name)) < len(name):
            self.dropped["units.renamed"] += len(name)
            name = np.arange(len(name)).astype(str)
        wanted = list(table.columns) if options.columns is None else list(options.columns)
        ids = [f"{self.recording_id}/{one}" for one in name[rows]]
        self.units = {"unit_id": np.array(ids, str)}
        if options.area is not None:
            self.units["area"] = _column(table, options.area)[rows].astype(str)
        elif "area" in table.columns:
            self.units["area"] = table.columns["area"][rows]
        if "area" in self.units and options.areas:
            found = self.units["area"].tolist()
            self.units["area"] = np.array([options.areas.get(one, one) for one in found], str)
        if "electrode" in table.columns:
            self.units["electrode"] = table.columns["electrode"][rows]
        if options.sorting is not None:
            self.units["sorting"] = np.full(len(rows), options.sorting)
        for column in wanted:
            if column not in self.units:
                self.units[column] = _column(table, column)[rows]

    def take_series(self, nwb: NwbFile, options: SeriesOptions) -> Series | None:
        """Read one series, or derive it from those taken before; it is kept and returned.

        None if it is optional and the file lacks it, or has no usable sample of it, or lacks what
        it is made of: see `absent`.
        """
        built = self._series(nwb, options)
        if built is not None:
            self.series[options.name] = built
        return built

    def take_table(self, name: str, table: TableData) -> IntervalSet:
        """Keep the rows of a table that are intervals, under `name`."""
        rule = f"intervals.{name}"
        finite = np.isfinite(table.start) & np.isfinite(table.end)
        kept = finite & (table.start < table.end)
        self.dropped[f"{rule}.not_finite"] += int((~finite).sum())
        self.dropped[f"{rule}.zero_length"] += int((finite & ~kept).sum())
        self.dropped[f"{rule}.ragged_column"] += len(table.skipped)
        columns = {column: values[kept] for column, values in table.columns.items()}
        self.intervals[name] = IntervalSet.sorted(table.start[kept], table.end[kept], columns)
        return self.intervals[name]

    # -------------------------------------------------------------- the recording

    def finish(self) -> Recording:
        """Return the recording, not yet checked: `spikedata.harmonize.harmonize` does that.

        Raises
        ------
        HarmonizeError
            If a split or a target of the manifest does not fit the file.
        """
        trains = self.trains
        if trains is None:
            raise HarmonizeError(f"{self.recording_id}: the harmoniser took no units.")
        self._say_what_is_absent()
        if self.options.domain is not None:
            self._take_domain(self.options.domain)
        domain = self.domain
        if domain is None:
            domain, self.about["domain_from"] = trains.extent, "extent of spikes and series"
            for name in self.series:
                domain = domain.union(self.coverage(name))
        trains.restrict(domain)
        enough = trains.counts >= self.options.units.min_spikes
        self.dropped["units.min_spikes"] += int((~enough).sum())
        trains.keep(enough)
        units = {name: values[enough] for name, values in self.units.items()}
        splits = {**self._splits(domain), **self.splits}
        time, unit = trains.merge()
        return Recording(
            self.recording_id, time, unit, units, domain, self.series, self.intervals, splits,
            self.targets, self.about,
            {rule: count for rule, count in sorted(self.dropped.items()) if count},
        )  # fmt: skip

    def coverage(self, name: str) -> IntervalSet:
        """Return where a series was observed: without its pauses of more than ``max_gap``."""
        gaps = {one.name: one.max_gap for one in self.options.series}
        return series_coverage(self.series[name], gaps.get(name))

    # -------------------------------------------------------------- parts of the above

    def _kept_units(self, table: UnitTable, kept: np.ndarray) -> np.ndarray:
        """Return those of the rows `kept` whose units pass every filter of the manifest."""
        options = self.options.units
        for column, allowed in options.keep.items():
            values = _column(table, column)
            passes = np.array([value in allowed for value in values[kept].tolist()], bool)
            self.dropped[f"units.keep.{column}"] += int((~passes).sum())
            kept = kept[passes]
        for column, least in options.at_least.items():
            passes = _numbers(table, column)[kept] >= least  # NaN is not
            self.dropped[f"units.at_least.{column}"] += int((~passes).sum())
            kept = kept[passes]
        if len(kept) == 0:
            taken = {
                column: sorted({str(value) for value in _column(table, column).tolist()})[:5]
                for column in [*options.keep, *options.at_least]
            }
            raise HarmonizeError(
                f"`{table.path}`: none of the {len(table.name)} units passes units.keep in the "
                f"manifest; its columns hold {taken}."
            )
        return kept

    def _observed(
        self, table: UnitTable, rows: np.ndarray
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
            self.dropped["units.bad_obs_interval"] += int((~good).sum())
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
        self.dropped["units.short_observation"] += len(short)
        everywhere = anywhere
        for one in {id(one): one for row, one in sets.items() if row not in short}.values():
            everywhere = everywhere.intersection(one)
        if len(everywhere) == 0:
            raise HarmonizeError(
                f"`{table.path}`: no time was observed by all units, as their obs_intervals say; "
                "keep the units of one part of the session with units.keep."
            )
        return np.array([row for row in rows.tolist() if row not in short], np.int64), everywhere

    def _series(self, nwb: NwbFile, options: SeriesOptions) -> Series | None:
        if options.source:
            sources = read_sources(nwb, options, self.dropped)
            if not sources:
                self.absent[options.name] = f"no `{'`, `'.join(options.source)}`"
                return None
            built = build_series(options, sources, self.dropped)
            if options.optional and len(built) == 0:
                self.absent[options.name] = "no usable sample"
                return None
            return built
        if options.direction_of is not None:
            word, bases = "direction", options.direction_of
        else:
            word, bases = "velocity", (options.velocity_of or "",)
        for base in bases:
            if base in self.absent:
                self.absent[options.name] = f"the {word} of '{base}'"
                return None
            if base not in self.series:
                raise HarmonizeError(
                    f"The series '{options.name}' is the {word} of '{base}', which "
                    f"must stand above it; {did_you_mean(base, self.series)}"
                )
        if options.direction_of is None:
            return build_velocity(options, self.series[bases[0]], self.dropped)
        front, back = (self.series[base] for base in bases)
        return build_direction(options, front, back, self.dropped)

    def _say_what_is_absent(self) -> None:
        """Name optional series that the file lacks in `about`, and leave them out as targets."""
        if not self.absent:
            return
        self.dropped["series.absent"] += len(self.absent)
        told = [f"{name} ({reason})" for name, reason in self.absent.items()]
        self.about["series_absent"] = "; ".join(told)
        lost = [f"{name} ({self.absent[name]})" for name in self.targets if name in self.absent]
        if lost:
            self.about["targets_absent"] = "; ".join(lost)
        self.targets = tuple(name for name in self.targets if name not in self.absent)

    def _take_domain(self, table: str) -> None:
        """Take the time that the rows of an interval table cover as the domain."""
        if table not in self.intervals:
            raise HarmonizeError(
                f"{self.recording_id}: the domain is to be the interval table '{table}', which "
                f"the file does not have; {did_you_mean(table, self.intervals)}"
            )
        self.domain, self.about["domain_from"] = self.intervals[table].coalesce(), table

    def _splits(self, domain: IntervalSet) -> dict[str, IntervalSet]:
        """Return the splits of the manifest; chronological ones cut the time to be decoded."""
        decodable = domain
        for target in self.targets:
            if target not in self.series:
                raise HarmonizeError(
                    f"{self.recording_id}: the target '{target}' is no series of the file; "
                    f"{did_you_mean(target, self.series)}"
                )
            decodable = decodable.intersection(self.coverage(target))
        result = {}
        for scheme, split in self.options.splits.items():
            try:
                if isinstance(split, ChronologicalSplit):
                    result[scheme] = chronological_split(
                        decodable, split.train, split.valid, split.test, split.gap, split.blocks
                    )
                    continue
                if split.table not in self.intervals:
                    raise IntervalError(
                        f"no interval table is called '{split.table}'; "
                        f"{did_you_mean(split.table, self.intervals)}"
                    )
                table = self.intervals[split.table]
                result[scheme] = column_split(table, split.column, split.values, domain)
            except IntervalError as error:
                raise HarmonizeError(f"The split '{scheme}' cannot be made: {error}") from None
        return result


def _numbers(table: UnitTable, column: str) -> np.ndarray:
    """Return a column of the unit table as float64, or raise."""
    values = _column(table, column)
    if values.dtype.kind not in "fiub":
        raise HarmonizeError(
            f"`{table.path}`: the column '{column}' holds {values.dtype.name}, expected numbers."
        )
    return values.astype(np.float64)


def _column(table: UnitTable, column: str) -> np.ndarray:
    """Return a column; ``electrode_group`` is the name of the group of a unit's electrode."""
    if column == "electrode_group" and table.group is not None:
        return table.group
    if column not in table.columns:
        raise HarmonizeError(
            f"`{table.path}` has no column '{column}' with one value per unit; "
            f"{did_you_mean(column, table.columns)}"
        )
    return table.columns[column]
