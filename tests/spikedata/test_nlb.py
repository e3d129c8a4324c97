from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from spikedata.checks import run_checks
from spikedata.errors import HarmonizeError
from spikedata.harmonize import harmonize
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording
from spikedata.series import series_coverage
from spikedata.testing import make_recording
from spikedata.testing.layouts import layouts, write_layout

MAZES = ("000128", "000138", "000139", "000140")
SETS = ("000127", *MAZES, "000129", "000130")
TRAIN = [f"{number}-train" for number in SETS]
TEST = [f"{number}-test" for number in SETS]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return path and recording of a layout, made once."""
    made: dict[str, tuple[Path, Recording]] = {}

    def get(name: str) -> tuple[Path, Recording]:
        if name not in made:
            path = write_layout(name, tmp_path_factory.mktemp(name))
            made[name] = path, harmonize(path, *layouts()[name].stated())
        return made[name]

    return get


def column(path: Path, name: str, table: str = "intervals/trials") -> np.ndarray:
    with h5py.File(path) as file:
        data = file[f"{table}/{name}"]
        return data.asstr()[()] if h5py.check_string_dtype(data.dtype) else data[()]


def changed(name: str, folder: Path, change, **dataset) -> Recording:
    """Return what a layout's file becomes after `change` was made to it."""
    path = write_layout(name, folder)
    with h5py.File(path, "a") as file:
        change(file)
    stated, asset = layouts()[name].stated()
    return harmonize(path, stated.model_copy(update=dataset), asset)


def starts(recording: Recording, split: str, scheme: str) -> list[float]:
    return recording.split(split, scheme).start.tolist()


# ------------------------------------------------------------------ as public code does it

PAPER_VALID = {
    "000128": [5.169, 19.352, 33.224, 36.359],
    "000138": [3.496, 24.212, 33.145, 36.687],
    "000139": [5.773, 22.571, 32.966, 36.749],
    "000140": [2.174, 15.78, 26.768, 31.688],
}
PAPER_TEST = {
    "000128": [0.288, 3.647, 14.187, 21.045, 25.957, 27.878],
    "000138": [2.11, 5.127, 8.905, 10.865, 15.837, 20.67],
    "000139": [0.428, 1.994, 9.111, 10.845, 12.548, 31.185],
    "000140": [10.751, 25.287, 30.108, 33.414, 34.91, 38.49],
}


@pytest.mark.parametrize("number", MAZES)
def test_the_paper_split_is_that_of_the_public_code(number, files):
    """The starts are as torch_brain 0.2.1 makes them from the same file."""
    path, recording = files(f"{number}-train")

    assert starts(recording, "valid", "paper") == PAPER_VALID[number]
    assert starts(recording, "test", "paper") == PAPER_TEST[number]
    rest = set(column(path, "start_time")) - {*PAPER_VALID[number], *PAPER_TEST[number]}
    assert starts(recording, "train", "paper") == sorted(rest)


def test_the_paper_windows_are_those_of_the_public_code(files):
    """The bounds are as torch_brain 0.2.1 makes them from the same file."""
    windows = files("000140-train")[1].intervals["evaluation_paper"]

    assert windows.start[:3].tolist() == [0.9239999999999999, 2.579, 4.474]
    assert windows.end[-3:].tolist() == [37.978, 39.664, 41.608]
    assert windows.start.sum() == pytest.approx(503.025, abs=1e-9)


def test_spikes_and_behaviour_are_those_of_the_public_code(files):
    """As torch_brain 0.2.1 makes them from the same file: 41402 steps of 1 ms, 7780 of them NaN."""
    recording = files("000140-train")[1]
    velocity, hand, eye = (
        recording.series[name] for name in ("hand_velocity", "hand_position", "eye_position")
    )

    assert len(velocity) == len(hand) == len(eye) == 41402 - 7780
    assert velocity.values.sum(0) == pytest.approx([-380530.0, 1060380.0])
    assert hand.values.sum(0) == pytest.approx([-100606.0, -164078.0])
    assert eye.values.sum(0) == pytest.approx([-42536.0, -93072.0])
    assert velocity.times()[[0, -1]].tolist() == [0.303, 41.704]
    assert (len(recording.spike_time), recording.n_units) == (10031, 15)
    assert recording.spike_time.sum() == pytest.approx(209040.00476141577)


@pytest.mark.parametrize("name", [*TEST, "000127-train", "000129-train", "000130-train"])
def test_other_files_have_no_paper_split(name, files):
    recording = files(name)[1]

    assert "paper" not in recording.splits
    assert "evaluation_paper" not in recording.intervals


# ------------------------------------------------------------------ the benchmark's own rules

WINDOWS = {  # align, window (ms) and lag (ms), as make_tensors.py of nlb_tools has them
    "000127": ("move_onset_time", -100, 500, -20),
    "000128": ("move_onset_time", -250, 450, 100),
    "000129": ("start_time", 0, 600, 140),
    "000130": ("go_time", -1500, 0, None),
    "000138": ("move_onset_time", -250, 450, 120),
    "000139": ("move_onset_time", -250, 450, 120),
    "000140": ("move_onset_time", -250, 450, 120),
}


@pytest.mark.parametrize("name", TRAIN + TEST)
def test_every_trial_of_the_benchmark_has_its_window(name, files):
    path, recording = files(name)
    align, before, after, lag = WINDOWS[name[:6]]
    split, moment = column(path, "split"), column(path, align)
    expected = [
        (moment[row] + before / 1000, moment[row] + after / 1000, row)
        for row in range(len(split)) if split[row] in ("train", "val", "test")
    ]  # fmt: skip
    windows = recording.intervals["evaluation"]

    assert list(zip(windows.start, windows.end, windows.columns["trial"], strict=True)) == expected
    assert windows.columns["split"].tolist() == [one for one in split if one != "none"]
    assert recording.about.get("lag") == (None if lag is None else f"{lag / 1000:g} s")


@pytest.mark.parametrize("name", TRAIN)
def test_train_trials_train_and_val_trials_test(name, files):
    """`val` is what the public evaluation scores; each trial whole, but for a rounding error."""
    path, recording = files(name)
    start, stop, split = (column(path, one) for one in ("start_time", "stop_time", "split"))
    for part, found in (("train", "train"), ("test", "val")):
        rows = split == found
        expected = IntervalSet(start[rows], stop[rows]).coalesce(1e-9)
        made = recording.split(part, "nlb").coalesce(1e-9)

        assert rows.sum() >= 4
        assert made.start == pytest.approx(expected.start, abs=1e-9)
        assert made.end == pytest.approx(expected.end, abs=1e-9)
    assert len(recording.split("valid", "nlb")) == 0


@pytest.mark.parametrize("name", TRAIN)
def test_the_chronological_split_stands_first_in_a_train_file(name, files):
    assert next(iter(files(name)[1].splits)) == "chronological"


@pytest.mark.parametrize("name", TEST)
def test_a_test_file_is_all_test_and_claims_no_order_of_time(name, files):
    path, recording = files(name)

    assert list(recording.splits) == ["nlb"]
    assert recording.split("test") == recording.domain
    assert (recording.targets, recording.series) == ((), {})
    assert recording.about["clock"] == "segments of the session timed anew, 100 ms apart"
    assert recording.about["domain_from"] == "obs_intervals"
    assert not recording.units["heldout"].any()
    assert recording.domain.start[1:] - recording.domain.end[:-1] == pytest.approx(0.1)
    assert len(recording.domain) == len(column(path, "id"))


@pytest.mark.parametrize("number", SETS)
def test_a_train_file_keeps_the_spikes_of_held_out_units(number, files):
    path, recording = files(f"{number}-train")
    ends = column(path, "spike_times_index", "units")
    per_unit = np.diff(np.concatenate([[0], ends.astype(np.int64)]))

    assert np.bincount(recording.spike_unit).tolist() == per_unit.tolist()
    assert recording.units["heldout"].tolist() == column(path, "heldout", "units").tolist()
    assert recording.units["heldout"].sum() == 4
    held_in = {one.rsplit("/")[-1] for one in recording.unit_ids[~recording.units["heldout"]]}
    test = files(f"{number}-test")[1]
    assert {one.rsplit("/")[-1] for one in test.unit_ids} == held_in


@pytest.mark.parametrize("name", TRAIN + TEST)
def test_what_a_file_lacks_is_all_that_checks_warn_of(name, files):
    """Trials of one split lie beside those of another; a file without behaviour has no target."""
    expected = {"training_stays_out_of_reach"} if name in TRAIN else {"there_is_a_target"}
    expected |= {"there_is_a_target"} if name == "000130-train" else set()

    assert {one.check for one in run_checks(files(name)[1])} == expected


# ------------------------------------------------------------------ set by set


@pytest.mark.parametrize("number", MAZES)
def test_behaviour_of_a_maze_covers_the_observed_trials_and_no_more(number, files):
    path, recording = files(f"{number}-train")
    covered = series_coverage(recording.series["hand_velocity"], None)
    wide = "int16" if number in ("000128", "000138") else "int64"

    assert recording.targets == ("hand_velocity",)
    assert len(recording.domain) == 24
    assert covered.start.tolist() == recording.domain.start.tolist()
    assert covered.end == pytest.approx(recording.domain.end, abs=1e-9)
    assert [one.unit for one in recording.series.values()] == ["mm/s", "mm", "mm", "mm"]
    assert column(path, "target_pos").dtype == wide
    assert recording.dropped == {"intervals.trials.ragged_column": 2}  # target_pos, barrier_pos
    assert set(recording.units["area"]) == {"M1", "PMd"}


def test_rtt_is_in_metres_without_the_pauses_between_segments(files):
    path, recording = files("000129-train")
    raw = column(path, "data", "processing/behavior/finger_vel")
    seen = np.isfinite(raw).all(1)
    velocity = recording.series["finger_velocity"]

    assert recording.dropped["series.finger_velocity.not_finite"] == (~seen).sum() == 1853
    assert velocity.values.tolist() == (raw[seen] * 0.001).tolist()
    assert velocity.times().tolist() == (np.flatnonzero(seen) / 1000).tolist()
    assert len(series_coverage(velocity, None)) == len(recording.domain) == 4
    assert recording.targets == ("finger_velocity",)
    assert {name: (one.unit, one.columns) for name, one in recording.series.items()} == {
        "finger_velocity": ("m/s", ("x", "y")),
        "finger_position": ("m", ("x", "y", "z")),
        "cursor_position": ("m", ("x", "y")),
        "target_position": ("m", ("x", "y")),
    }


def test_windows_of_rtt_that_overlap_by_a_rounding_error_are_cut(files):
    path, recording = files("000129-train")
    start, stop = column(path, "start_time"), column(path, "stop_time")
    over = np.flatnonzero(stop[:-1] > start[1:])
    trials = recording.intervals["trials"]

    assert 0 < len(over) == recording.dropped["intervals.trials.end_rounded"]
    assert trials.is_disjoint
    assert np.abs(trials.end - stop).max() < 1e-12
    assert trials.end[over].tolist() == start[over + 1].tolist()


def test_area2_has_no_window_for_trials_of_no_split(files):
    path, recording = files("000127-train")
    split, onset = column(path, "split"), column(path, "move_onset_time")

    assert np.isnan(onset[split == "none"]).any()
    assert recording.dropped["intervals.evaluation.no_split"] == (split == "none").sum() == 12
    assert "intervals.evaluation.not_finite" not in recording.dropped
    assert set(recording.intervals["trials"].columns["result"]) == {"R", "A", "I", "F"}
    assert recording.intervals["trials"].columns["ctr_hold_bump"].dtype == bool
    widths = {name: one.values.shape[1] for name, one in recording.series.items()}
    assert (widths["force"], widths["joint_angle"], widths["joint_velocity"]) == (6, 7, 7)
    assert recording.series["hand_velocity"].unit == "cm/s"
    assert set(recording.units["area"]) == {"area 2"}


def test_rsg_has_an_area_though_its_units_have_no_electrodes(files):
    path, recording = files("000130-train")

    assert list(recording.units) == ["unit_id", "area", "sorting", "heldout"]
    assert set(recording.units["area"]) == {"DMFC"}
    assert column(path, "id", "units").dtype == np.int32
    assert (recording.targets, recording.series) == ((), {})
    assert len(recording.domain) == 6
    trials = recording.intervals["trials"].columns
    assert (trials["split"] == "none").tolist() == trials["is_outlier"].tolist()
    assert np.isnan(trials["bad_time"]).tolist() == (~trials["is_outlier"]).tolist()


@pytest.mark.parametrize("name", TRAIN + TEST)
def test_all_units_are_sorted_ones(name, files):
    assert set(files(name)[1].units["sorting"]) == {"sorted"}


def test_a_streamed_file_becomes_the_same_recording(files):
    path, recording = files("000140-train")
    with path.open("rb") as source:
        streamed = harmonize(source, *layouts()["000140-train"].stated())

    assert np.array_equal(streamed.spike_time, recording.spike_time)
    assert streamed.splits == recording.splits
    assert list(streamed.intervals) == ["trials", "evaluation", "evaluation_paper"]


# ------------------------------------------------------------------ other files


def test_a_trial_without_its_moment_has_no_window_and_is_counted(tmp_path):
    def forget(file):
        row = int(np.flatnonzero(file["intervals/trials/split"].asstr()[()] == "train")[0])
        file["intervals/trials/move_onset_time"][row] = np.nan

    recording = changed("000140-train", tmp_path, forget)

    assert recording.dropped["intervals.evaluation.not_finite"] == 1
    assert recording.dropped["intervals.evaluation_paper.not_finite"] == 1
    assert len(recording.intervals["evaluation"]) == 23 == len(recording.intervals["trials"]) - 1


def test_tables_that_a_manifest_names_are_taken_too(tmp_path):
    stated = layouts()["000140-test"].stated()[0]
    again = {"name": "again", "source": "intervals/trials"}
    options = type(stated.harmonize).model_validate(
        stated.harmonize.model_dump() | {"intervals": [again]}
    )

    recording = changed("000140-test", tmp_path, lambda file: None, harmonize=options)

    assert len(recording.intervals["again"]) == len(recording.intervals["trials"]) == 12


def write(path: str, row: int, value: object):
    def change(file):
        file[path][row] = value

    return change


def remove(path: str):
    def change(file):
        del file[path]

    return change


def overlap(file):
    """Let a training trial end 0.2 s after the test trial behind it begins."""
    split = file["intervals/trials/split"].asstr()[()]
    row = int(np.flatnonzero((split[:-1] == "train") & (split[1:] == "val"))[0])
    file["intervals/trials/stop_time"][row] = file["intervals/trials/start_time"][row + 1] + 0.2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("000140-train", remove("intervals/trials/split"), "has no column 'split'"),
        ("000140-train", remove("intervals/trials/move_onset_time"), "to align windows to"),
        ("000140-test", remove("units/obs_intervals_index"), "have no obs_intervals"),
        ("000140-train", write("intervals/trials/split", 3, "test"), r"expected 'train', 'val'"),
        ("000140-test", write("intervals/trials/split", 3, "train"), "one by one"),
        ("000140-test", write("intervals/trials/split", slice(None), "none"), r"\['none'\]"),
        ("000129-train", overlap, "does not keep training and testing apart"),
        ("000140-train", remove("processing/behavior/hand_vel"), "no series at"),
    ],
)
def test_a_file_unlike_those_of_the_benchmark_is_refused(name, change, message, tmp_path):
    with pytest.raises(HarmonizeError, match=message):
        changed(name, tmp_path, change)


def test_a_dataset_of_no_set_is_refused_with_a_hint(tmp_path):
    with pytest.raises(HarmonizeError, match="'nlb' knows no dataset 'nlb_mc_maze_smal'"):
        changed("000140-test", tmp_path, lambda file: None, id="nlb_mc_maze_smal")


@pytest.mark.parametrize(
    ("names", "refused"), [(["test", "test"], False), (["valid", "test"], True), ([], True)]
)
def test_a_scheme_without_training_must_be_all_test(names, refused):
    """The rule of `spikedata.checks` that lets the benchmark's test files through."""
    start = np.arange(len(names), dtype=float)
    table = IntervalSet(start, start + 1, {"split": np.array(names, "U5")})
    recording = replace(make_recording(), splits={"nlb": table})

    found = [one.message for one in run_checks(recording) if one.severity == "error"]
    assert any("no time for training" in one for one in found) == refused
