from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.errors import HarmonizeError, SpikedataError
from spikedata.harmonize import harmonize
from spikedata.harmonize import perich_miller as module
from spikedata.intervals import IntervalSet
from spikedata.nwb import NwbFile, TableData
from spikedata.recording import Recording, Series
from spikedata.testing.layouts import layouts, write_layout
from spikedata.testing.layouts.perich_miller import write_perich_miller

LAYOUTS = [name for name in layouts() if name.startswith("000688-")]
CENTER_OUT, RANDOM_TARGET, MONKEY_T = LAYOUTS[0], LAYOUTS[2], LAYOUTS[3]
THEIRS = json.loads(
    (Path(__file__).parents[1] / "data" / "torch_brain" / "perich_miller.json").read_text("utf-8")
)
"""What the functions of torch_brain 0.2.1's pipeline made of the same files (seed 0)."""
SKLEARN = "abe9c09d5c337576507a474221175144bbb237937e8b233058deac410db3dfe7"
"""SHA-256 of the splits that scikit-learn 1.9.1 makes of 3 to 1599 trials, see the test."""


def run(path: Path, name: str, **options) -> Recording:
    dataset, asset = layouts()[name].stated()
    stated = dataset.harmonize.model_dump(exclude_unset=True) | options
    made = type(dataset.harmonize).model_validate(stated)
    return harmonize(path, dataset.model_copy(update={"harmonize": made}), asset)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("000688")
    return {name: write_layout(name, folder / name) for name in LAYOUTS}


@pytest.fixture(scope="module")
def recordings(files) -> dict[str, Recording]:
    return {name: run(path, name) for name, path in files.items()}


@pytest.fixture
def copy(files, tmp_path):
    """Return a function that copies a layout's file, for a test to change."""

    def make(name: str) -> Path:
        path = tmp_path / files[name].name
        path.write_bytes(files[name].read_bytes())
        return path

    return make


def bounds(found: IntervalSet) -> list[list[float]]:
    return [found.start.tolist(), found.end.tolist()]


# ------------------------------------------------------------------ as the neighbour has it


@pytest.mark.parametrize("name", LAYOUTS)
def test_trials_and_which_are_valid_are_those_of_torch_brain(name, recordings):
    trials = recordings[name].intervals["trials"]

    assert bounds(trials) == THEIRS[name]["trials"]
    assert np.flatnonzero(trials.columns["valid"]).tolist() == THEIRS[name]["valid"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_phases_and_outliers_cover_the_time_that_torch_brain_says(name, recordings):
    """To the last bit and row by row: those that touch, as of two invalid trials, stay apart."""
    found = dict(recordings[name].intervals)
    del found["trials"]
    theirs = {
        phase: IntervalSet(np.array(start), np.array(end))
        for phase, (start, end) in THEIRS[name]["intervals"].items()
    }

    assert found == theirs


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_split_of_the_paper_is_that_of_torch_brain(name, recordings):
    recording = recordings[name]
    found = {one: bounds(recording.split(one, "paper")) for one in ("train", "valid", "test")}

    assert found == THEIRS[name]["split"]
    assert next(iter(recording.splits)) == "chronological"


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_domain_is_that_of_torch_brain_and_contains_the_last_sample(name, recordings, files):
    """A half-open interval to the last sample would not: ours ends at the float after it."""
    recording = recordings[name]
    [[start], [last]] = THEIRS[name]["domain"]
    with h5py.File(files[name]) as file:
        spikes = file["units/spike_times"][()]

    assert list(recording.domain) == [(start, np.nextafter(last, np.inf))]
    assert recording.domain.contains(recording.series["cursor_velocity"].times()).all()
    assert {start, last} <= set(spikes) & set(recording.spike_time)
    assert recording.about["domain_from"] == "first to last cursor sample"


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_spike_but_those_beside_the_cursor_is_lost(name, recordings):
    recording = recordings[name]
    lost = recording.dropped["spikes.outside_domain"]

    assert len(recording.spike_time) + lost == sum(THEIRS[name]["spikes"])
    assert lost > 0


def test_trials_are_dealt_to_splits_as_scikit_learn_deals_them():
    """For 3 to 1599 trials: train, valid and test, each in scikit-learn's order."""
    found = hashlib.sha256()
    for count in range(3, 1600):
        rest, test = module.held_out_rows(count, 0.2)
        train, valid = module.held_out_rows(len(rest), module.VALID / (1.0 - 0.2 - 0.1 + 0.1))
        for part in (rest[train], rest[valid], test):
            found.update(np.array([*part, -1], "<i8").tobytes())

    assert found.hexdigest() == SKLEARN


def test_ten_trials_are_dealt_as_scikit_learn_deals_them():
    rest, test = module.held_out_rows(10, 0.2)
    train, valid = module.held_out_rows(len(rest), 0.125)

    assert rest[train].tolist() == [4, 5, 6, 7, 9, 2, 3]
    assert rest[valid].tolist() == [0]
    assert test.tolist() == [8, 1]


# ------------------------------------------------------------------ trials, by naive oracles


def table(start, end, **columns) -> TableData:
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    return TableData("intervals/trials", np.array(start), np.array(end), arrays)


@given(st.data())
def test_missing_onsets_are_filled_as_the_rule_says(data):
    count = data.draw(st.integers(1, 8))
    steps = st.lists(st.integers(1, 3000), min_size=3 * count, max_size=3 * count)
    time = np.cumsum(data.draw(steps)) / 1000
    start, shown, stop = time.reshape(-1, 3).T
    missing = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    shown = np.where(missing, np.nan, shown)
    end = data.draw(st.sampled_from([float(stop[-1]) + 0.4, float(stop[-1]) + 5.0]))
    expected = []
    for row in range(count):
        if not missing[row]:
            expected.append(shown[row])
        elif row == 0:
            expected.append(start[0])
        else:
            expected.append(min(stop[row - 1] + 1.0, stop[row]))
    expected.append(min(stop[-1] + 1.0, end))

    made = module.center_out_trials(
        table(start, stop, target_on_time=shown, result=["R"] * count, target_id=[0.0] * count),
        end,
    )

    assert [*made.start.tolist(), made.end[-1]] == expected
    assert made.start[1:].tolist() == made.end[:-1].tolist()


@pytest.mark.parametrize(
    ("result", "target", "length", "valid"),
    [
        ("R", 1.0, 3.0, True),
        ("A", 1.0, 3.0, False),
        ("F", 1.0, 3.0, False),
        ("I", 1.0, 3.0, False),
        ("R", np.nan, 3.0, False),
        ("R", 1.0, 0.5, False),
        ("R", 1.0, 6.0, False),
        ("R", 1.0, 5.999, True),
        ("R", 1.0, 0.501, True),
    ],
)
def test_a_center_out_trial_is_valid_by_result_target_and_length(result, target, length, valid):
    made = module.center_out_trials(
        table([0.0], [length], target_on_time=[0.0], result=[result], target_id=[target]), length
    )

    assert made.columns["valid"].tolist() == [valid]


@pytest.mark.parametrize(
    ("result", "attempted", "length", "valid"),
    [
        ("R", 4.0, 5.0, True),
        ("F", 4.0, 5.0, False),
        ("R", 3.0, 5.0, False),
        ("R", np.nan, 5.0, False),
        ("R", 4.0, 2.0, False),
        ("R", 4.0, 10.0, False),
        ("R", 4.0, 9.999, True),
    ],
)
def test_a_random_target_trial_is_valid_by_result_attempts_and_length(
    result, attempted, length, valid
):
    made = module.random_target_trials(
        table([0.0], [length], result=[result], num_attempted=[attempted])
    )

    assert made.columns["valid"].tolist() == [valid]


def test_the_trials_keep_the_columns_of_the_file(recordings, files):
    trials = recordings[CENTER_OUT].intervals["trials"]
    with h5py.File(files[CENTER_OUT]) as file:
        group = file["intervals/trials"]
        listed = {name for name in group if name != "id"}
        start, corners = group["start_time"][()], group["target_corners"][()]

    assert set(trials.columns) == listed | {"valid"}
    np.testing.assert_array_equal(trials.columns["start_time"], start)
    np.testing.assert_array_equal(trials.columns["target_corners"], corners)


# ------------------------------------------------------------------ outliers and phases


@given(st.integers(0, 2**32), st.integers(1, 1500), st.floats(0.0, 0.01), st.floats(0.0, 0.01))
def test_outliers_are_what_a_slow_look_at_every_sample_finds(seed, count, far_share, fast_share):
    rng = np.random.default_rng(seed)
    far, fast = rng.random(count) < far_share, rng.random(count) < fast_share
    time = np.arange(count) / 100
    position = np.where(far[:, None], [0.0, -10.5], [10.0, 0.0])
    acceleration = np.where(fast[:, None], [1200.0, 1000.0], [1100.0, -1000.0])
    wide = np.array([far[max(i - 199, 0) : i + 201].any() for i in range(count)])
    narrow = np.array([i >= 50 and i + 49 < count and wide[i - 50 : i + 50].all()
                       for i in range(count)])  # fmt: skip
    mask = narrow | np.array([fast[i : i + 2].any() for i in range(count)])
    expected = []
    for i in range(count):
        if mask[i] and (i == 0 or not mask[i - 1]):
            last = i
            while last + 1 < count and mask[last + 1]:
                last += 1
            if time[max(i - 1, 0)] < time[last]:
                expected.append((time[max(i - 1, 0)], time[last]))

    found = module.find_outliers(
        Series(position, "cm", ("x", "y"), time=time),
        Series(acceleration, "cm/s^2", ("x", "y"), time=time),
    )

    assert list(found) == expected


def test_a_sample_that_one_series_lacks_makes_no_outlier_elsewhere():
    time = np.arange(1000) / 100
    position = np.zeros((1000, 2))
    acceleration = np.zeros((1000, 2))
    acceleration[500] = 2000.0
    kept = np.arange(1000) != 400

    found = module.find_outliers(
        Series(position[kept], "cm", ("x", "y"), time=time[kept]),
        Series(acceleration, "cm/s^2", ("x", "y"), time=time),
    )

    assert list(found) == [(time[498], time[500])]


@pytest.mark.parametrize("name", LAYOUTS)
def test_phases_and_outliers_share_no_time_and_leave_none_out(name, recordings):
    """Together they are the cursor's time; hold and the like lie within it."""
    recording = recordings[name]
    phases = [found for one, found in recording.intervals.items() if one != "trials"]
    everything = IntervalSet.empty()
    for one in phases:
        everything = everything.union(one)

    assert sum(one.duration for one in phases) == pytest.approx(everything.duration)
    assert bounds(everything) == THEIRS[name]["domain"]


def test_a_valid_trial_without_go_cue_has_no_hold_and_no_reach(copy, recordings):
    path = copy(CENTER_OUT)
    before = recordings[CENTER_OUT]
    with h5py.File(path, "a") as file:
        file["intervals/trials/go_cue_time"][2] = np.nan

    after = run(path, CENTER_OUT)

    assert after.intervals["trials"].columns["valid"][2]
    assert after.dropped["intervals.hold.not_finite"] == 1
    assert after.dropped["intervals.reach.not_finite"] == 1
    assert len(after.intervals["hold"]) == len(before.intervals["hold"]) - 1
    assert after.splits["paper"] == before.splits["paper"]


# ------------------------------------------------------------------ splits


@given(st.integers(0, 60), st.integers(0, 2**32))
def test_the_split_keeps_held_out_trials_whole_and_training_a_second_away(count, seed):
    edge = np.cumsum(np.random.default_rng(seed).integers(100, 6000, 2 * count)) / 1000
    valid = IntervalSet(edge[::2], edge[1::2])
    cursor = IntervalSet.single(0.05, 200.0)

    found = module.paper_split(valid, cursor)

    if count < 3:
        assert found is None
        return
    names = found.columns["split"]
    held = found.where(names != "train")
    near = IntervalSet(held.start, held.end).dilate(0.999999)
    inside = valid.where(valid.start < 200.0)
    assert found.is_disjoint
    assert cursor.difference(found).duration <= 2.0 * len(held) + 1e-6
    assert len(found.where(names == "train").intersection(near)) == 0
    assert set(held.start.tolist()) <= set(inside.start.tolist())
    assert len(held) <= np.ceil(0.2 * count) + np.ceil(0.1 * count)


def test_trials_beyond_the_cursor_are_cut_at_its_end():
    trials = IntervalSet(np.arange(0.0, 60, 3), np.arange(0.0, 60, 3) + 2.0)
    cursor = IntervalSet.single(0.5, 30.5)

    found = module.paper_split(trials, cursor)

    assert found is not None
    assert found.difference(cursor).duration == 0


def test_too_few_valid_trials_leave_the_split_out_and_are_counted(copy):
    path = copy(CENTER_OUT)
    with h5py.File(path, "a") as file:
        file["intervals/trials/target_id"][3:] = np.nan

    recording = run(path, CENTER_OUT)

    assert list(recording.splits) == ["chronological"]
    assert recording.dropped["splits.paper.too_few_trials"] == 2


# ------------------------------------------------------------------ units and series


def test_subjects_say_how_their_units_were_sorted(recordings):
    found = {name: set(one.units["sorting"].tolist()) for name, one in recordings.items()}

    assert found == {name: {"sorted"} for name in LAYOUTS[:3]} | {MONKEY_T: {"threshold crossings"}}


def test_the_manifest_may_say_it_otherwise(files):
    recording = run(files[CENTER_OUT], CENTER_OUT, units={"sorting": "multi-unit"})

    assert set(recording.units["sorting"].tolist()) == {"multi-unit"}


def test_a_unit_lies_at_its_electrode_and_two_may_share_one(recordings, files):
    units = recordings[CENTER_OUT].units
    with h5py.File(files[CENTER_OUT]) as file:
        rows = file["units/electrodes"][()]

    assert units["area"].tolist() == np.where(rows < 96, "M1", "PMd").tolist()
    assert units["electrode"].tolist() == [f"elec{row % 96 + 1}" for row in rows]
    assert (units["area"][0], units["electrode"][0]) == (units["area"][1], units["electrode"][1])
    assert set(units["area"].tolist()) == {"M1", "PMd"}


def test_a_silent_unit_is_kept(recordings):
    recording = recordings[CENTER_OUT]

    assert recording.n_units == 12
    assert 3 not in recording.spike_unit


def test_series_keep_the_numbers_of_the_file_and_say_centimetres(recordings, files):
    series = recordings[RANDOM_TARGET].series
    with h5py.File(files[RANDOM_TARGET]) as file:
        velocity = file["processing/behavior/Velocity/cursor_vel/data"]
        stated, values = velocity.attrs["unit"], velocity[()]

    np.testing.assert_array_equal(series["cursor_velocity"].values, values)
    assert stated == "m/s"
    assert {name: one.unit for name, one in series.items()} == {
        "cursor_position": "cm", "cursor_velocity": "cm/s", "cursor_acceleration": "cm/s^2",
    }  # fmt: skip


def test_series_of_the_manifest_replace_ours_or_come_after(files):
    velocity = "processing/behavior/Velocity/cursor_vel"
    stated = [
        {"name": "cursor_velocity", "source": [velocity], "scale": 10.0, "unit": "mm/s"},
        {"name": "again", "source": [velocity]},
    ]
    recording = run(files[CENTER_OUT], CENTER_OUT, series=stated)

    found = recording.series
    assert list(found)[-1] == "again"
    assert len(found) == 4
    np.testing.assert_array_equal(found["cursor_velocity"].values, found["again"].values * 10)
    assert found["cursor_velocity"].unit == "mm/s"


def test_a_description_that_breaks_off_is_kept_as_it_is(recordings):
    assert recordings[CENTER_OUT].about["description"].endswith("This session with Monkey")


# ------------------------------------------------------------------ refusals


def test_onsets_that_go_back_are_refused(copy):
    path = copy(CENTER_OUT)
    with h5py.File(path, "a") as file:
        file["intervals/trials/target_on_time"][4] = 0.5

    with pytest.raises(HarmonizeError, match=r"trial 3 would last from .* to 0\.500 s"):
        run(path, CENTER_OUT)


def test_a_missing_column_is_named(copy):
    path = copy(CENTER_OUT)
    with h5py.File(path, "a") as file:
        del file["intervals/trials/target_on_time"]

    with pytest.raises(HarmonizeError, match="no column 'target_on_time'"):
        run(path, CENTER_OUT)


def test_the_sorting_of_a_stranger_among_the_subjects_is_not_guessed(files):
    dataset, asset = layouts()[CENTER_OUT].stated()
    stranger = asset.model_copy(update={"subject": "X"})

    assert "sorting" not in harmonize(files[CENTER_OUT], dataset, stranger).units


def test_a_cursor_of_one_sample_is_refused(copy):
    path = copy(CENTER_OUT)
    with h5py.File(path, "a") as file:
        file["processing/behavior/Position/cursor_pos/data"][1:] = np.nan

    with pytest.raises(HarmonizeError, match="1 usable samples"):
        run(path, CENTER_OUT)


def test_the_stored_numbers_are_taken_whatever_the_file_says_of_a_conversion(copy, recordings):
    """The public code takes what is stored, and its thresholds are meant for that."""
    path = copy(CENTER_OUT)
    with h5py.File(path, "a") as file:
        for source in ("Position/cursor_pos", "Acceleration/cursor_acc"):
            file[f"processing/behavior/{source}/data"].attrs["conversion"] = 0.01

    recording = run(path, CENTER_OUT)

    assert recording.intervals["outlier"] == recordings[CENTER_OUT].intervals["outlier"]
    assert recording.dropped["series.cursor_position.conversion_ignored"] == 1
    assert recording.series["cursor_position"].unit == "cm"


# ------------------------------------------------------------------ the written files


@pytest.mark.parametrize(
    ("name", "electrodes"), list(zip(LAYOUTS, (192, 96, 192, 96), strict=True))
)
def test_units_have_the_shapes_and_types_of_real_files(name, electrodes, files):
    """As read in public crawls of the archive, the doubly indexed waveforms included."""
    with h5py.File(files[name]) as file:
        units = file["units"]
        spikes, count = len(units["spike_times"]), len(units["id"])
        found = {key: (one.shape, one.dtype.name) for key, one in units.items()}
        ends = units["waveforms_index"][()]
        assert len(file["general/extracellular_ephys/electrodes/id"]) == electrodes

    assert found == {
        "id": ((count,), "int64"), "spike_times": ((spikes,), "float64"),
        "spike_times_index": ((count,), "uint32"), "electrodes": ((count,), "int64"),
        "electrodes_index": ((count,), "uint8"), "waveforms": ((48 * spikes, 1), "int16"),
        "waveforms_index": ((spikes,), "uint32"), "waveforms_index_index": ((count,), "uint32"),
    }  # fmt: skip
    assert np.array_equal(ends, np.arange(1, spikes + 1) * 48)


def test_pynwb_reads_the_waveforms_of_a_unit(files):
    pynwb = pytest.importorskip("pynwb")
    with pynwb.NWBHDF5IO(str(files[CENTER_OUT]), "r") as io:
        nwb = io.read()
        unit = nwb.units["waveforms"][4]
        spikes = nwb.units["spike_times"][4]

        assert np.shape(unit) == (len(spikes), 48, 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_outcome_and_every_gap_is_in_the_trials(name, files):
    with NwbFile(files[name]) as nwb:
        columns = nwb.read_table("intervals/trials").columns
    gaps = {key for key, one in columns.items() if one.dtype.kind == "f" and np.isnan(one).any()}

    assert set(columns["result"].tolist()) == {"R", "A", "F", "I"}
    if "RT" in files[name].name:
        assert gaps == {"go_cue_time_array"}
    else:
        assert gaps > {"target_id", "target_on_time", "go_cue_time"}


def test_waveforms_can_be_left_out_and_units_outnumber_electrodes(tmp_path):
    path = tmp_path / "large.nwb"
    write_perich_miller(path, 3, duration=40, units=300, rate=1.0, arrays=1, waveforms=False)
    with h5py.File(path) as file:
        units = file["units"]

        assert {"id", "spike_times"} <= set(units)
        assert not [name for name in units if name.startswith("waveforms")]
        assert len(units["electrodes"]) == 300
        assert units["electrodes_index"].dtype == np.uint16


def test_a_file_too_short_for_its_defects_is_refused(tmp_path):
    with pytest.raises(SpikedataError, match="at least 30 s"):
        write_perich_miller(tmp_path / "short.nwb", duration=5)


@pytest.mark.parametrize("name", [CENTER_OUT, RANDOM_TARGET])
def test_a_session_without_trials_is_all_random(name, copy):
    path = copy(name)
    with h5py.File(path, "a") as file:
        trials = file["intervals/trials"]
        for column in trials:
            kind, attributes = trials[column].dtype, dict(trials[column].attrs)
            shape = (0, *trials[column].shape[1:])
            del trials[column]
            trials.create_dataset(column, shape, kind).attrs.update(attributes)
    recording = run(path, name)

    assert len(recording.intervals["trials"]) == len(recording.intervals["hold"]) == 0
    assert recording.intervals["random"].start[0] == recording.domain.start[0]
    assert list(recording.splits) == ["chronological"]
