"""Random NWB files: the generic harmoniser finds what a naive reading through pynwb finds.

All times are multiples of 1/8 s, so that sums are exact and every comparison is too. The naive
reading goes unit by unit and sample by sample, and shares no code with the package.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import math
import statistics
from collections import Counter
from datetime import UTC, datetime
from itertools import count, pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.behavior import BehavioralTimeSeries, Position, SpatialSeries
from pynwb.epoch import TimeIntervals

from spikedata.errors import HarmonizeError
from spikedata.harmonize.generic import harmonize
from spikedata.manifest import Dataset
from spikedata.recording import Recording

pytestmark = pytest.mark.filterwarnings("ignore")  # pynwb warns of what is odd on purpose

DATASET = Dataset.model_validate(
    {
        "id": "lab", "title": "t", "licence": "CC0", "citation": "c", "source": {"kind": "file"},
        "assets": [{"path": "random.nwb", "size": 1, "session": "s", "sha256": "0" * 64}],
    }
)  # fmt: skip
TICK = 0.125  # s
LENGTH = 20  # s
PLACES = ("acquisition", "processing", "Position", "behaviour", "acquired behaviour")

# ------------------------------------------------------------------ what is written

UNITS = st.fixed_dictionaries(
    {
        "spikes": st.lists(st.integers(0, 12), min_size=1, max_size=4),
        "unsorted": st.booleans(),
        "not_finite": st.booleans(),
        "repeated_ids": st.booleans(),
        "index": st.sampled_from(["u1", "u2", "u4", "i8"]),
        "times": st.sampled_from(["f4", "f8"]),
        "observed": st.none() | st.lists(
            st.sampled_from(["whole", "two", "late", "short", "bad", "none"]),
            min_size=4, max_size=4,
        ),
    }
)  # fmt: skip
SERIES = st.fixed_dictionaries(
    {
        "place": st.sampled_from(PLACES),
        "samples": st.integers(1, 30),
        "width": st.integers(0, 4),  # 0: values of shape (T,)
        "dtype": st.sampled_from(["i2", "i4", "f4", "f8"]),
        "conversion": st.sampled_from([1.0, 1.0, 0.25, -2.0, math.nan]),
        "offset": st.sampled_from([0.0, 0.0, 0.5]),
        "rate": st.sampled_from([None, None, 8.0, 2.0]),
        "faults": st.sets(st.sampled_from(["nan", "all_nan", "gap", "back", "repeat", "bad_time"])),
    }
)
TABLE = st.fixed_dictionaries(
    {
        "own": st.booleans(),  # a table of its own, not the trials
        "rows": st.integers(1, 5),
        "shuffled": st.booleans(),
        "faults": st.sets(st.sampled_from(["zero_length", "backward", "nan", "inf"])),
        "columns": st.sets(st.sampled_from(["number", "flag", "word", "pair", "one", "ragged"])),
    }
)
PLANS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**16),
        "units": UNITS,
        "series": st.lists(SERIES, max_size=3),
        "tables": st.lists(TABLE, max_size=2, unique_by=lambda table: table["own"]),
    }
)


def write(plan: dict, path: Path) -> Path:
    """Write the file of a plan with pynwb."""
    rng = np.random.default_rng(plan["seed"])
    nwb = NWBFile(session_description="random", identifier="random",
                  session_start_time=datetime(2020, 1, 1, tzinfo=UTC))  # fmt: skip
    add_units(nwb, rng, plan["units"])
    module = nwb.create_processing_module("behavior", "random")
    for number, one in enumerate(plan["series"]):
        add_series(nwb, module, rng, f"s{number}", one)
    for one in plan["tables"]:
        add_table(nwb, rng, one)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    retype_spikes(path, plan["units"]["times"], plan["units"]["index"])
    return path


def add_units(nwb: NWBFile, rng: np.random.Generator, plan: dict) -> None:
    rows = {
        "whole": [[0, 20]], "two": [[0, 9], [11, 20]], "late": [[4, 9], [9, 18]],
        "short": [[16, 19]], "bad": [[0, 12], [14, 13], [np.nan, 20]], "none": [],
    }  # fmt: skip
    nwb.add_unit_column("quality", "how good")
    nwb.add_unit_column("depth", "how deep")
    for row, size in enumerate(plan["spikes"]):
        spikes = rng.integers(0, LENGTH / TICK, size) * TICK
        spikes = spikes if plan["unsorted"] else np.sort(spikes)
        if plan["not_finite"] and size:
            spikes[rng.integers(size)] = rng.choice([np.nan, np.inf])
        extra = {}
        if plan["observed"] is not None:
            extra["obs_intervals"] = np.array(rows[plan["observed"][row]], float).reshape(-1, 2)
        name = 7 if plan["repeated_ids"] else row + 5
        nwb.add_unit(id=name, spike_times=spikes, quality="ab"[row % 2], depth=row / 2, **extra)


def add_series(nwb: NWBFile, module, rng: np.random.Generator, name: str, plan: dict) -> None:
    size, faults = plan["samples"], plan["faults"]
    values = rng.integers(-50, 50, (size, max(plan["width"], 1))).astype(plan["dtype"])
    if values.dtype.kind == "f" and "nan" in faults:
        values[rng.integers(size), rng.integers(values.shape[1])] = np.nan
    if values.dtype.kind == "f" and "all_nan" in faults:
        values[:] = np.nan
    shared = {"name": name, "data": values if plan["width"] else values[:, 0], "unit": "m",
              "conversion": plan["conversion"], "offset": plan["offset"]}  # fmt: skip
    if plan["rate"]:
        shared |= {"rate": plan["rate"], "starting_time": 1.5}
    else:
        time = np.arange(size) * TICK + 2.0
        row = int(rng.integers(size))
        if "gap" in faults:
            time[row:] += 5.0
        if "back" in faults:
            time[row:] -= 3 * TICK
        if "repeat" in faults and row:
            time[row] = time[row - 1]
        if "bad_time" in faults:
            time[rng.integers(size)] = np.nan
        shared["timestamps"] = time
    place = plan["place"]
    if place == "Position" and plan["width"] < 4:
        spatial = SpatialSeries(reference_frame="screen", **shared)
        module.add(Position(name=f"Position_{name}", spatial_series=spatial))
    elif place.endswith("behaviour"):
        box = BehavioralTimeSeries(name=f"box_{name}", time_series=TimeSeries(**shared))
        nwb.add_acquisition(box) if place.startswith("acq") else module.add(box)
    elif place == "acquisition":
        nwb.add_acquisition(TimeSeries(**shared))
    else:
        module.add(TimeSeries(**shared))


def add_table(nwb: NWBFile, rng: np.random.Generator, plan: dict) -> None:
    table = TimeIntervals(name="own" if plan["own"] else "trials", description="random")
    start = np.arange(plan["rows"]) * 3.0
    start = rng.permutation(start) if plan["shuffled"] else start
    end = start + rng.integers(1, 20, plan["rows"]) * TICK
    row = int(rng.integers(plan["rows"]))
    for fault, value in (("zero_length", start[row]), ("backward", start[row] - 1.0),
                         ("nan", np.nan), ("inf", np.inf)):  # fmt: skip
        if fault in plan["faults"]:
            end[row] = value
            row = (row + 1) % plan["rows"]
    made = {
        "number": lambda at: at * 10, "flag": lambda at: at % 2 == 0, "word": lambda at: f"é{at}",
        "pair": lambda at: [at, -at], "one": lambda at: [at / 2],
        "ragged": lambda at: [1.0] * (at + 1),
    }  # fmt: skip
    for name in sorted(plan["columns"]):
        table.add_column(name=name, description="random", index=name == "ragged")
    for at in range(plan["rows"]):
        cells = {name: made[name](at) for name in sorted(plan["columns"])}
        table.add_interval(start_time=start[at], stop_time=end[at], **cells)
    if plan["own"]:
        nwb.add_time_intervals(table)
    else:
        nwb.trials = table


def retype_spikes(path: Path, times: str, index: str) -> None:
    """Store spike times and their index in other types than pynwb does, as real files do."""
    with h5py.File(path, "a") as file:
        units = file["units"]
        kept = {name: (units[name][()], dict(units[name].attrs))
                for name in ("spike_times", "spike_times_index")}  # fmt: skip
        for name, kind in (("spike_times", times), ("spike_times_index", index)):
            del units[name]
            values, attributes = kept[name]
            units[name] = values.astype(kind)
            for key, value in attributes.items():
                if key != "target":
                    units[name].attrs[key] = value
        units["spike_times_index"].attrs["target"] = units["spike_times"].ref


# ------------------------------------------------------------------ the naive reading


class Naive:
    """What the file holds, read through pynwb one value at a time."""

    def __init__(self, path: Path) -> None:
        self.dropped: Counter[str] = Counter()
        self.refused = False
        with NWBHDF5IO(str(path), "r") as io:
            nwb = io.read()
            self.series = self.read_series(nwb)
            self.tables = {name: self.read_table(name, table)
                           for name, table in (nwb.intervals or {}).items()}  # fmt: skip
            self.read_units(nwb.units)
        self.spikes = sorted(
            (time, row) for row, train in enumerate(self.trains) for time in train
            if any(start <= time < end for start, end in self.domain)
        )  # fmt: skip
        self.dropped["spikes.outside_domain"] = sum(map(len, self.trains)) - len(self.spikes)

    # -------------------------------------------------------------- units

    def read_units(self, units) -> None:
        names = [int(one) for one in units.id[:]]
        if len(set(names)) < len(names):
            self.dropped["units.renamed"] = len(names)
            names = list(range(len(names)))
        rows = list(range(len(names)))
        observed = None
        if "obs_intervals" in units.colnames:
            observed = self.read_observed([units["obs_intervals"][row] for row in rows])
            rows = [row for row in rows if row not in self.short]
        self.unit_ids = [f"lab/s/{names[row]}" for row in rows]
        self.columns = {name: [units[name].data[row] for row in rows]
                        for name in ("quality", "depth")}  # fmt: skip
        self.trains = [self.clean([float(time) for time in units["spike_times"][row]])
                       for row in rows]  # fmt: skip
        self.domain = self.extent() if observed is None else observed

    def clean(self, train: list[float]) -> list[float]:
        finite = [time for time in train if math.isfinite(time)]
        self.dropped["spikes.not_finite"] += len(train) - len(finite)
        self.dropped["spikes.unsorted"] += sum(b < a for a, b in pairwise(finite))
        finite = sorted(finite)
        self.dropped["spikes.repeated_kept"] += sum(a == b for a, b in pairwise(finite))
        return finite

    def read_observed(self, rows: list) -> list[tuple[float, float]] | None:
        """Return the shared time, by the seconds that each unit was observed in."""
        seconds: dict[int, set[int]] = {}
        self.short: set[int] = set()
        for unit, intervals in enumerate(rows):
            for start, end in np.asarray(intervals, float).reshape(-1, 2).tolist():
                if math.isfinite(start) and math.isfinite(end) and start < end:
                    seconds.setdefault(unit, set()).update(range(int(start), int(end)))
                else:
                    self.dropped["units.bad_obs_interval"] += 1
        if not seconds:
            return None
        anywhere = set().union(*seconds.values())
        self.short = {unit for unit, one in seconds.items() if len(one) < len(anywhere) / 2}
        self.dropped["units.short_observation"] = len(self.short)
        for unit, one in seconds.items():
            anywhere &= anywhere if unit in self.short else one
        self.refused = not anywhere
        return merged([(float(one), one + 1.0) for one in anywhere])

    def extent(self) -> list[tuple[float, float]]:
        """Return the time from the first to the last spike, and where series were observed."""
        found = [time for train in self.trains for time in train]
        parts = [(min(found), math.nextafter(max(found), math.inf))] if found else []
        for times, *_ in self.series.values():
            parts += coverage(times)
        return merged(parts)

    # -------------------------------------------------------------- series and tables

    def read_series(self, nwb: NWBFile) -> dict[str, tuple]:
        """Return times, rows of values, columns, kind and unit of each series by its name."""
        found, skipped = {}, 0
        for one in nwb.objects.values():
            if not isinstance(one, TimeSeries):
                continue
            counts: Counter[str] = Counter()
            made = self.read_one_series(one, counts)
            if made[0]:
                found[one.name] = made
                self.dropped.update(counts)
            else:
                skipped += 1
        self.dropped["series.skipped"] = skipped
        return found

    def read_one_series(self, one: TimeSeries, counts: Counter[str]) -> tuple:
        rule, data = f"series.{one.name}", np.asarray(one.data[:])
        factor, shift = float(one.conversion), float(one.offset or 0.0)
        if math.isnan(factor):
            factor, shift = 1.0, 0.0
            counts[f"{rule}.conversion_ignored"] = 1
        stamps = None if one.timestamps is None else one.timestamps[:].tolist()
        times, rows, latest = [], [], -math.inf
        for row in range(len(data)):
            time = one.starting_time + row / one.rate if stamps is None else stamps[row]
            if math.isnan(time):
                counts[f"{rule}.bad_time"] += 1
                continue
            if time <= latest:
                counts[f"{rule}.{'repeated' if time == latest else 'backward'}_time"] += 1
                continue
            latest = time
            cells = [data[row]] if data.ndim == 1 else data[row]
            values = [float(value) * factor + shift for value in cells]
            if any(math.isnan(value) for value in values):
                counts[f"{rule}.not_finite"] += 1
                continue
            times.append(time)
            rows.append(values)
        width = 1 if data.ndim == 1 else data.shape[1]
        names = "xyz"[:width] if width <= 3 else "0123"[:width]
        columns = (one.name,) if data.ndim == 1 else tuple(names)
        plain = data.dtype == np.float32 and (factor, shift) == (1.0, 0.0)
        unit = "" if math.isnan(one.conversion) else one.unit  # that after the conversion
        return times, rows, columns, "float32" if plain else "float64", unit

    def read_table(self, name: str, table) -> tuple:
        rule, kept = f"intervals.{name}", []
        for row in range(len(table)):
            start, end = float(table["start_time"][row]), float(table["stop_time"][row])
            if not (math.isfinite(start) and math.isfinite(end)):
                self.dropped[f"{rule}.not_finite"] += 1
            elif start >= end:
                self.dropped[f"{rule}.zero_length"] += 1
            else:
                kept.append((start, end, row))
        kept.sort(key=lambda one: one[:2])
        self.dropped[f"{rule}.ragged_column"] = int("ragged" in table.colnames)
        columns = {}
        for column in table.colnames:
            if column not in ("start_time", "stop_time", "ragged"):
                cells = [np.asarray(table[column].data[row]).tolist() for *_, row in kept]
                columns[column] = [cell[0] for cell in cells] if column == "one" else cells
        return [one[:2] for one in kept], columns


def coverage(times: list[float]) -> list[tuple[float, float]]:
    """Return the runs of samples without a pause of ten median steps, each one step longer."""
    steps = [b - a for a, b in pairwise(times)]
    step = statistics.median(steps) if steps else 1.0
    runs = [[times[0]]]
    for before, time in pairwise(times):
        if time - before > (10 * step if steps else 1.0):
            runs.append([])
        runs[-1].append(time)
    return [(run[0], run[-1] + step) for run in runs]


def merged(parts: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return intervals in order, those that touch as one."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(parts):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


# ------------------------------------------------------------------ the claim


@pytest.fixture(scope="module", name="paths")
def _paths(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("random")
    return (folder / f"{number}.nwb" for number in count())


@given(plan=PLANS)
def test_a_random_file_becomes_what_a_naive_reading_of_it_finds(plan, paths):
    path = write(plan, next(paths))
    naive = Naive(path)
    if naive.refused:
        with pytest.raises(HarmonizeError, match="no time was observed by all units"):
            harmonize(path, DATASET, DATASET.assets[0])
        return

    recording = harmonize(path, DATASET, DATASET.assets[0])

    assert_same(naive, recording)
    path.unlink()


def assert_same(naive: Naive, recording: Recording) -> None:
    assert recording.unit_ids.tolist() == naive.unit_ids
    for name, values in naive.columns.items():
        assert recording.units[name].tolist() == values
    assert list(recording.domain) == naive.domain
    found = zip(recording.spike_time.tolist(), recording.spike_unit.tolist(), strict=True)
    assert list(found) == naive.spikes
    assert set(recording.series) == set(naive.series)
    for name, (times, rows, columns, kind, unit) in naive.series.items():
        series = recording.series[name]
        assert series.times().tolist() == times
        assert series.values.tolist() == rows
        assert (series.columns, series.values.dtype.name, series.unit) == (columns, kind, unit)
    assert set(recording.intervals) == set(naive.tables)
    for name, (rows, columns) in naive.tables.items():
        table = recording.intervals[name]
        assert list(table) == rows
        assert {key: values.tolist() for key, values in table.columns.items()} == columns
    assert dict(recording.dropped) == {rule: size for rule, size in naive.dropped.items() if size}
    (split,) = recording.splits.values()
    assert split.difference(recording.domain).duration == 0


def test_the_plans_reach_every_rule(paths):
    """Of 12 plain random plans each rule fires somewhere: the test above is no empty claim."""
    rng, rules = np.random.default_rng(0), Counter[str]()
    for seed in range(12):
        units = {
            "spikes": rng.integers(0, 13, 3).tolist(), "unsorted": bool(rng.integers(2)),
            "not_finite": bool(rng.integers(2)), "repeated_ids": rng.integers(8) == 0,
            "index": "u4", "times": "f8",
            "observed": rng.choice(["whole", "two", "late", "short", "bad"], 4).tolist(),
        }  # fmt: skip
        faults = ["nan", "all_nan", "gap", "back", "repeat", "bad_time"]
        one = {"place": PLACES[seed % 5], "samples": 20, "width": seed % 5, "dtype": "f8",
               "conversion": [1.0, math.nan][seed % 2], "offset": 0.0, "rate": None,
               "faults": {faults[seed % 6]}}  # fmt: skip
        table = {"own": False, "rows": 4, "shuffled": True, "columns": {"ragged"},
                 "faults": {["zero_length", "backward", "nan", "inf"][seed % 4]}}  # fmt: skip
        plan = {"seed": seed, "units": units, "series": [one], "tables": [table]}
        found = Naive(write(plan, next(paths))).dropped
        rules.update({rule.split(".")[-1]: size for rule, size in found.items()})
    missing = {
        "renamed", "bad_obs_interval", "short_observation", "unsorted", "repeated_kept",
        "outside_domain", "bad_time", "repeated_time", "backward_time", "not_finite",
        "conversion_ignored", "skipped", "zero_length", "ragged_column",
    } - {rule for rule, size in rules.items() if size}  # fmt: skip
    assert missing == set()


@pytest.mark.parametrize("column", ["start_time", "stop_time"])
def test_times_of_a_table_may_be_whole_numbers(column, paths):
    """Other writers than pynwb store them so; both columns are read alike."""
    nwb = NWBFile(session_description="random", identifier="random",
                  session_start_time=datetime(2020, 1, 1, tzinfo=UTC))  # fmt: skip
    nwb.add_unit(spike_times=[0.5])
    nwb.add_trial(start_time=1.0, stop_time=3.0)
    path = next(paths)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    with h5py.File(path, "a") as file:
        trials = file["intervals/trials"]
        values, attributes = trials[column][()], dict(trials[column].attrs)
        del trials[column]
        trials[column] = values.astype("i4")
        trials[column].attrs.update(attributes)
    recording = harmonize(path, DATASET, DATASET.assets[0])

    assert list(recording.intervals["trials"]) == [(1.0, 3.0)]
