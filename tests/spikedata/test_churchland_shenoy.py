from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.errors import HarmonizeError
from spikedata.harmonize import harmonize
from spikedata.harmonize.churchland_shenoy import Clock
from spikedata.manifest import Dataset
from spikedata.nwb import NwbFile
from spikedata.options import HarmonizeOptions
from spikedata.recording import Recording
from spikedata.spikes import SpikeTrains
from spikedata.testing.layouts import layouts, write_layout

NAMES = ("000070-plain", "000070-joined", "000070-overlap", "000070-missing-columns")
TRIALS = "intervals/trials"

# As torch_brain 0.2.1 makes them from the same files (seed 0): electrodes of the units, spikes of
# each inside the half-open trials and their sum; number of intervals, and sum of their starts and
# ends; sum of all times, and of all values weighted by the cosine of their number.
NEIGHBOUR = {
    "000070-plain": {
        "units": [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15],
        "counts": [68, 111, 115, 188, 205, 0, 270, 288, 327, 380, 431, 457, 489, 497, 567],
        "spikes": 49475.594859,
        "time": 119316.349,
        "move_ends": 265.317,
        "trials": (26, 286.313, 296.94),
        "hold": (20, 221.709, 223.395),
        "reach": (20, 224.67, 227.617),
        "return": (20, 227.617, 229.304),
        "outlier": (1, 7.899, 7.952),
        "train": (20, 229.404, 237.479),
        "valid": (2, 12.779, 13.679),
        "test": (4, 44.13, 45.782),
        "cursor_position": 2.4026,
        "cursor_velocity": -2129.7304,
        "cursor_acceleration": -1723673.4359,
        "hand_acceleration": -1723673.4359,
    },
    "000070-joined": {
        "units": [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15],
        "counts": [63, 116, 156, 203, 0, 245, 172, 321, 360, 364, 441, 459, 524, 556],
        "spikes": 260885.837104,
        "time": 734064.015,
        "move_ends": 1518.274,
        "trials": (27, 1797.908, 1808.547),
        "hold": (20, 1295.185, 1296.788),
        "reach": (21, 1305.431, 1308.182),
        "return": (20, 1300.793, 1302.397),
        "outlier": (1, 7.389, 7.442),
        "train": (21, 1503.101, 1511.369),
        "valid": (2, 11.748, 12.624),
        "test": (4, 283.059, 284.554),
        "cursor_position": -0.3287,
        "cursor_velocity": -1316.1242,
        "cursor_acceleration": -2300445.0309,
        "hand_acceleration": -2300445.0309,
    },
    "000070-overlap": {
        "units": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        "counts": [63, 97, 135, 162, 205, 0, 280, 293, 301, 345, 415, 423, 465, 475, 503, 519],
        "spikes": 468031.204797,
        "time": 1046998.557,
        "move_ends": 2201.673,
        "trials": (27, 2600.015, 2610.676),
        "hold": (20, 1859.751, 1861.308),
        "reach": (21, 1870.266, 1872.94),
        "return": (20, 1865.205, 1866.764),
        "outlier": (1, 7.735, 7.788),
        "train": (21, 2177.544, 2185.827),
        "valid": (2, 15.032, 15.692),
        "test": (4, 407.439, 409.157),
        "cursor_position": -0.4982,
        "cursor_velocity": -1697.7071,
        "cursor_acceleration": -2065307.5099,
        "hand_acceleration": -2065307.5099,
    },
    "000070-missing-columns": {
        "units": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        "counts": [67, 104, 136, 175, 181, 0, 258, 303, 331, 363, 387, 447, 453, 459, 546, 596],
        "spikes": 184987.236009,
        "time": 412130.438,
        "move_ends": 925.021,
        "trials": (26, 1005.703, 1016.359),
        "hold": (20, 760.907, 762.531),
        "reach": (20, 763.782, 766.583),
        "return": (20, 766.583, 768.205),
        "outlier": (1, 7.545, 7.598),
        "train": (20, 828.921, 837.018),
        "valid": (2, 12.696, 13.466),
        "test": (4, 164.086, 165.875),
        "cursor_position": 3.1631,
        "cursor_velocity": 1213.7915,
        "cursor_acceleration": -2348080.2011,
        "hand_acceleration": -2348080.2011,
    },
}
KEPT_BY_THE_NEIGHBOUR = {"000070-joined": [7]}  # no spike in the second acquisition of three


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    return {name: write_layout(name, tmp_path_factory.mktemp(name)) for name in NAMES}


@pytest.fixture(scope="module")
def recordings(originals) -> dict[str, Recording]:
    return {name: harmonize(path, *layouts()[name].stated()) for name, path in originals.items()}


@pytest.fixture
def copy(originals, tmp_path):
    """Return a function that copies a file, to be changed."""

    def made(name: str) -> Path:
        path = tmp_path / originals[name].name
        path.write_bytes(originals[name].read_bytes())
        return path

    return made


def run(name: str, path: Path, **changed) -> Recording:
    """Harmonise a file as the layout's manifest says, but for some fields of its options."""
    dataset, asset = layouts()[name].stated()
    stated = dataset.harmonize.model_dump(exclude_unset=True)
    options = HarmonizeOptions.model_validate({**stated, **changed})
    changed_dataset: Dataset = dataset.model_copy(update={"harmonize": options})
    return harmonize(path, changed_dataset, asset)


def rewrite(path: Path, name: str, values: np.ndarray) -> None:
    """Replace the values of an array, of the same shape."""
    with h5py.File(path, "a") as file:
        file[name][...] = values


def of_unit(path: Path, unit: int) -> tuple[slice, np.ndarray]:
    with h5py.File(path) as file:
        bound = np.append(0, file["units/spike_times_index"][()].astype(int))
        rows = slice(bound[unit], bound[unit + 1])
        return rows, file["units/spike_times"][rows]


def sums(intervals) -> tuple[int, float, float]:
    return len(intervals), intervals.start.sum(), intervals.end.sum()


# ------------------------------------------------------------------ what the neighbour makes


@pytest.mark.parametrize("name", NAMES)
def test_units_and_their_spikes_are_those_of_the_public_code(name, recordings):
    expected, recording = NEIGHBOUR[name], recordings[name]
    more = KEPT_BY_THE_NEIGHBOUR.get(name, [])
    common = [row for row, unit in enumerate(expected["units"]) if unit not in more]
    counts = np.bincount(recording.spike_unit, minlength=recording.n_units)

    assert recording.units["electrode"].tolist() == [str(expected["units"][r]) for r in common]
    assert counts.tolist() == [expected["counts"][row] for row in common]
    if not more:
        assert recording.spike_time.sum() == pytest.approx(expected["spikes"], abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_trials_phases_outliers_and_splits_are_those_of_the_public_code(name, recordings):
    expected, recording = NEIGHBOUR[name], recordings[name]
    for table in ("trials", "hold", "reach", "return", "outlier"):
        assert sums(recording.intervals[table]) == pytest.approx(expected[table], abs=1e-5), table
    for split in ("train", "valid", "test"):
        found = sums(recording.split(split, "paper"))
        assert found == pytest.approx(expected[split], abs=1e-5), split

    ends = np.nansum(recording.intervals["trials"].columns["move_ends_time"])
    assert ends == pytest.approx(expected["move_ends"], abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_behaviour_is_that_of_the_public_code(name, recordings):
    expected, recording = NEIGHBOUR[name], recordings[name]
    assert recording.series["hand_position"].times().sum() == pytest.approx(expected["time"])
    for one in ("cursor_position", "cursor_velocity", "cursor_acceleration", "hand_acceleration"):
        values = recording.series[one].values.ravel()
        found = values @ np.cos(np.arange(len(values)))

        assert found == pytest.approx(expected[one], rel=1e-5, abs=1e-3), one


# ------------------------------------------------------------------ what the files have


@pytest.mark.parametrize("name", NAMES)
def test_the_files_have_the_defects_that_they_are_for(name, originals):
    joins = {"000070-plain": 0, "000070-joined": 2, "000070-overlap": 3}.get(name, 1)
    with h5py.File(originals[name]) as file:
        start, stop = (file[f"{TRIALS}/{one}"][()] for one in ("start_time", "stop_time"))
        cursor = file["processing/behavior/Position/Cursor"]
        time = cursor["timestamps"][()]
        columns = {one: file[f"{TRIALS}/{one}"].dtype.name for one in file[TRIALS]}

        assert (np.diff(time) < 0).sum() == joins
        assert (start[1:] < stop[:-1]).sum() == joins + (name == "000070-overlap")
        assert (start[1:] < start[:-1]).sum() == joins
        assert np.isnan(cursor["data"].attrs["conversion"])
        assert cursor["data"].attrs["unit"] == "meters"
        hand = file["processing/behavior/Position"].get("Hand/timestamps", getlink=True)
        assert isinstance(hand, h5py.SoftLink | h5py.HardLink)
        assert len(file["processing/behavior/Position/Hand/timestamps"]) == len(time)
        assert file["units/obs_intervals"].shape == (16 * len(start), 2)
        assert file["units/obs_intervals_index"].dtype == "uint32"
    assert ("correct_reach" in columns) == (name != "000070-missing-columns")
    assert (columns["target_positions"], columns["hit_target_position"]) == ("uint8", "int16")


def test_what_is_dropped_is_counted(recordings):
    lost = {name: recording.dropped for name, recording in recordings.items()}

    assert lost["000070-plain"]["units.wrong_joins"] == 1
    assert "clock.joined" not in lost["000070-plain"]
    assert lost["000070-joined"]["clock.joined"] == 2
    assert lost["000070-joined"]["units.wrong_joins"] == 2
    assert lost["000070-joined"]["units.outside_acquisition"] == 1
    assert lost["000070-joined"]["spikes.outside_domain"] == 1
    assert lost["000070-overlap"]["intervals.trials.overlapping"] == 2
    assert lost["000070-overlap"]["series.eye_position.overlapping"] > 500
    for one in lost.values():
        assert one["intervals.trials.wrapped_column"] == 1
        assert one["intervals.trials.ragged_column"] == 3
        assert one["series.hand_position.conversion_ignored"] == 1


@pytest.mark.parametrize("conversion", [0.001, 1.0])
def test_positions_are_taken_as_stored_whatever_the_file_says_of_them(copy, recordings, conversion):
    path = copy("000070-plain")
    with h5py.File(path, "a") as file:
        for one in ("Cursor", "Hand", "Eye"):
            data = file[f"processing/behavior/Position/{one}/data"]
            data.attrs["conversion"] = conversion
    found = run("000070-plain", path).series

    assert {name: series.unit for name, series in found.items()} == {
        name: series.unit for name, series in recordings["000070-plain"].series.items()
    }
    for name, series in found.items():
        assert np.array_equal(series.values, recordings["000070-plain"].series[name].values)


def test_a_silent_unit_is_kept(recordings):
    for recording in recordings.values():
        row = recording.units["electrode"].tolist().index("5")
        assert not (recording.spike_unit == row).any()


def test_positions_stay_in_millimetres(recordings, originals):
    recording = recordings["000070-plain"]
    with h5py.File(originals["000070-plain"]) as file:
        expected = file["processing/behavior/Position/Hand/data"][()]

    assert np.array_equal(recording.series["hand_position"].values, expected)
    assert recording.series["hand_position"].unit == "mm"
    assert recording.series["hand_velocity"].unit == "mm/s"


def test_series_that_share_their_times_keep_one_array_of_them(recordings):
    for recording in recordings.values():
        time = recording.series["cursor_position"].times()
        assert all(np.shares_memory(time, one.times()) for one in recording.series.values())


def test_the_area_is_that_of_the_electrode_not_of_the_units_number(copy):
    path = copy("000070-plain")
    rewrite(path, "units/electrodes", np.arange(16)[::-1])
    recording = run("000070-plain", path)

    assert recording.units["area"].tolist() == ["M1"] * 8 + ["PMd"] * 7
    assert recording.units["electrode"][0] == "15"


def test_units_can_be_kept_by_their_electrode_group(originals):
    units = {"keep": {"electrode_group": ["2"]}, "area": "electrode_group"}
    recording = run("000070-plain", originals["000070-plain"], units=units)

    assert recording.units["area"].tolist() == ["2"] * 7
    assert recording.dropped["units.keep.electrode_group"] == 8


def test_the_group_of_a_units_electrode_is_read(originals):
    with NwbFile(originals["000070-plain"]) as nwb:
        table = nwb.read_units()

    assert table.group is not None
    assert table.group.tolist() == ["1"] * 8 + ["2"] * 8
    assert "group" not in table.columns


def test_a_unit_without_electrodes_lies_where_its_group_does(copy, recordings):
    path = copy("000070-plain")
    with h5py.File(path, "a") as file:
        del file["units/electrodes"], file["units/electrodes_index"]
    recording = run("000070-plain", path)

    assert np.array_equal(recording.units["area"], recordings["000070-plain"].units["area"])
    assert "electrode" not in recording.units


# ------------------------------------------------------------------ the clock


@st.composite
def joined(draw):
    """Return trials of some acquisitions as (first, last), and a unit's spikes in each."""
    many = draw(st.integers(1, 4))
    parts, spikes = [], []
    for _ in range(many):
        first, length = draw(st.integers(0, 50)), draw(st.integers(2, 400))
        parts.append((float(first), float(first + length)))
        inside = st.integers(first, first + length)
        spikes.append(sorted(draw(st.lists(inside, min_size=1, max_size=5))))
    return parts, spikes


@given(joined())
def test_a_unit_is_placed_as_each_spike_by_itself_or_not_at_all(case):
    """The oracle walks from acquisition to acquisition, as one would with pencil and paper."""
    parts, spikes = case
    shift, begin = [], parts[0][0]
    for first, last in parts:
        shift.append(begin)
        begin = begin + (last - first) + 60.0
    clock = Clock(*np.array(parts).T, np.array(shift), np.empty((0, 3)))
    time = np.array([one for part in spikes for one in part], float)
    expected = [one - first + at for part, (first, _), at in zip(spikes, parts, shift, strict=True)
                for one in part]  # fmt: skip
    told = all(a[-1] > b[0] for a, b in pairwise(spikes))
    broken = clock.place(time)

    assert broken == ("" if told else "wrong_joins")
    assert time.tolist() == (expected if told else [one for part in spikes for one in part])


def overlapping_last(step: float) -> tuple[Clock, np.ndarray]:
    """Return two acquisitions, the first of which ends with two trials that share time."""
    clock = Clock(
        np.array([1.0, 0.5]), np.array([9.0, 8.0]), np.array([1.0, 69.0]),
        np.array([[0, 10.0, 15.0]]),
    )  # fmt: skip
    return clock, np.array([2.0, 8.0, 10.5, 13.0, 13.0 - step, 14.5, 0.6, 7.0, 11.0 - 4])


@pytest.mark.parametrize("step", [0.0, 2.0])
def test_overlapping_trials_at_a_join_do_not_count_as_one(step):
    """Also where the times within the pair run backwards, as they do if both were stored."""
    clock, time = overlapping_last(step)
    inside = clock.overlapping(time)

    assert inside.tolist() == [False, False, True, True, True, True, False, False, False]
    assert clock.place(time) == ""
    assert time[[0, 1, 6, 7]].tolist() == pytest.approx([2.0, 8.0, 69.1, 75.5])


def test_overlapping_trials_are_found_wherever_they_stand(copy, recordings):
    """At the end of an acquisition, where the public code would lose the join."""
    path = copy("000070-joined")
    with h5py.File(path, "a") as file:
        start = file[f"{TRIALS}/start_time"]
        start[9] = start[8] + 0.1
    recording = run("000070-joined", path)
    whole = recordings["000070-joined"].intervals["trials"]

    assert recording.dropped["intervals.trials.overlapping"] == 2
    assert recording.dropped["clock.joined"] == 2
    assert len(recording.intervals["trials"]) == len(whole) - 2
    assert recording.units["unit_id"].tolist() == recordings["000070-joined"].unit_ids.tolist()


def test_trials_that_are_no_intervals_are_dropped_by_name(copy, recordings):
    path = copy("000070-joined")
    with h5py.File(path, "a") as file:
        file[f"{TRIALS}/start_time"][3] = np.nan
        file[f"{TRIALS}/stop_time"][12] = file[f"{TRIALS}/start_time"][12]
    recording = run("000070-joined", path)

    assert recording.dropped["intervals.trials.not_finite"] == 1
    assert recording.dropped["intervals.trials.zero_length"] == 1
    assert recording.domain.end[-1] == recordings["000070-joined"].domain.end[-1]


def test_placing_spikes_needs_no_second_copy_of_them():
    many = 2_000_000
    part = np.sort(np.random.default_rng(0).uniform(0, 1000, many // 2))
    time = np.concatenate([part, part])
    clock = Clock(np.zeros(2), np.full(2, 1000.0), np.array([0.0, 1060.0]), np.empty((0, 3)))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    assert clock.place(time) == ""
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()

    assert peak < time.nbytes / 4


def test_merging_lets_the_times_that_were_read_go():
    """While it fills the column of units, only the table and small parts are in memory."""
    many, units = 2_000_000, 64
    rng = np.random.default_rng(0)
    bound = np.linspace(0, many, units + 1).astype(np.int64)
    tracemalloc.start()
    trains = SpikeTrains(lambda: rng.uniform(0, 1000, many), bound, range(units), Counter())
    time, unit = trains.merge()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 1.45 * (time.nbytes + unit.nbytes)


# ------------------------------------------------------------------ refusals


def test_behaviour_that_cannot_be_placed_is_refused(copy):
    path = copy("000070-joined")
    with h5py.File(path, "a") as file:
        file["processing/behavior/Position/Cursor/timestamps"][500] = 1.0
    with pytest.raises(HarmonizeError, match=r"3 acquisitions, but the times of .* 4 stretches"):
        run("000070-joined", path)


def test_behaviour_before_its_trials_is_refused(copy):
    path = copy("000070-joined")
    with h5py.File(path, "a") as file:
        file["processing/behavior/Position/Cursor/timestamps"][0] = 1.0
    with pytest.raises(HarmonizeError, match="has samples before or after their trials"):
        run("000070-joined", path)


def test_units_none_of_which_can_be_placed_are_refused(copy):
    path = copy("000070-missing-columns")
    with h5py.File(path, "a") as file:
        file["units/spike_times"][...] = np.tile([3.0, 2.0], 5000)[: len(file["units/spike_times"])]
    with pytest.raises(HarmonizeError, match=r"none of the 16 units .*leave the asset out"):
        run("000070-missing-columns", path)


def test_trials_that_all_overlap_are_refused(copy):
    path = copy("000070-plain")
    rewrite(path, f"{TRIALS}/stop_time", np.full(26, 99.0))
    with pytest.raises(HarmonizeError, match="none of the 26 trials can be placed"):
        run("000070-plain", path)


def test_a_column_that_all_files_have_is_missed(copy):
    path = copy("000070-plain")
    with h5py.File(path, "a") as file:
        del file[f"{TRIALS}/task_success"]
    with pytest.raises(HarmonizeError, match="lacks the columns task_success"):
        run("000070-plain", path)


def test_other_interval_tables_are_refused(originals):
    tables = [{"name": "trials", "source": TRIALS}]
    with pytest.raises(HarmonizeError, match="leave `intervals` out"):
        run("000070-plain", originals["000070-plain"], intervals=tables)


def test_outliers_need_the_acceleration(originals):
    series = [{"name": "cursor_velocity", "source": ["processing/behavior/Position/Cursor"]}]
    with pytest.raises(HarmonizeError, match="'cursor_acceleration'"):
        run("000070-plain", originals["000070-plain"], series=series)


def test_an_optional_series_may_be_missing(originals):
    dataset, _ = layouts()["000070-joined"].stated()
    series = [one.model_dump(exclude_unset=True) for one in dataset.harmonize.series]
    series.append({"name": "thumb", "source": ["processing/behavior/Thumb"], "optional": True})
    recording = run("000070-joined", originals["000070-joined"], series=series)

    assert recording.about["series_absent"].startswith("thumb")


# ------------------------------------------------------------------ the other dandiset


@pytest.fixture(scope="module")
def delayed(tmp_path_factory) -> tuple[Path, Recording]:
    path = write_layout("000121", tmp_path_factory.mktemp("000121"))
    return path, harmonize(path, *layouts()["000121"].stated())


def test_the_groups_of_000121_are_the_other_way_round(delayed):
    assert delayed[1].units["area"].tolist() == ["M1"] * 8 + ["PMd"] * 8


def test_nothing_was_observed_between_the_trials_of_000121(delayed):
    """Its observation intervals say otherwise, but its spikes were taken trial by trial."""
    path, recording = delayed
    with h5py.File(path) as file:
        start, stop = (file[f"{TRIALS}/{one}"][()] for one in ("start_time", "stop_time"))
        assert file["units/obs_intervals"].shape == (16, 2)

    assert recording.domain.start.tolist() == start.tolist()
    assert recording.domain.end.tolist() == stop.tolist()
    assert recording.about["domain_from"] == "trials"


def test_the_hand_of_000121_has_three_columns(delayed):
    series = delayed[1].series

    assert series["hand_velocity"].columns == ("x", "y", "z")
    assert series["decoded_position"].columns == ("x", "y")
    assert delayed[1].dropped["intervals.trials.ragged_column"] == 5
