"""FALCON: bins, what their times mean, the mask, and the files that are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from spikedata.errors import HarmonizeError
from spikedata.harmonize import harmonize
from spikedata.intervals import IntervalSet
from spikedata.manifest import load_manifest
from spikedata.recording import Recording
from spikedata.testing.layouts import layouts, write_layout
from spikedata.testing.layouts.falcon import write_falcon_b1, write_falcon_h2

LAYOUTS = layouts()
BIN = 0.02
BEHAVIOUR = {
    "000941": ("acquisition/preprocessed_emg/APL", "emg", False),
    "000953": ("acquisition/finger_vel/index", "finger_velocity", True),
    "000954": ("acquisition/OpenLoopKinematicsVelocity", "arm_velocity", False),
}
"""Path in the file, name in the recording, and whether its times are the starts of bins."""


@pytest.fixture(scope="module", name="files")
def _files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write_layout(name, tmp_path_factory.mktemp("falcon")) for name in BEHAVIOUR}


@pytest.fixture(scope="module", name="made")
def _made(files: dict[str, Path]) -> dict[str, Recording]:
    return {name: harmonize(path, *LAYOUTS[name].stated()) for name, path in files.items()}


def changed(path: Path, folder: Path) -> Path:
    """Return a copy of a file that a test may change."""
    return Path(shutil.copy(path, folder / path.name))


def bin_ends(file: h5py.File, path: str, starts: bool) -> list[float]:
    """Return the end of each bin as the benchmark's reader counts spikes: sample by sample."""
    data = file[path]
    if "timestamps" in data:
        return [time + BIN if starts else time for time in data["timestamps"][()].tolist()]
    origin, period = data["starting_time"][()], data["starting_time"].attrs["rate"]
    return [origin + row * period for row in range(len(data["data"]))]


@pytest.mark.parametrize("name", BEHAVIOUR)
def test_a_sample_has_the_time_of_the_end_of_its_bin(name, files, made):
    path, series, starts = BEHAVIOUR[name]
    with h5py.File(files[name]) as file:
        expected = bin_ends(file, path, starts)

    np.testing.assert_allclose(made[name].series[series].times(), expected, rtol=0, atol=1e-9)
    assert made[name].about["sample_time"].startswith("end of its bin of 20 ms")


@pytest.mark.parametrize("name", BEHAVIOUR)
def test_no_spike_that_counts_for_a_sample_comes_after_it(name, files, made):
    """Each bin of the benchmark holds the spikes of the 20 ms up to its sample's time."""
    path, series, starts = BEHAVIOUR[name]
    recording = made[name]
    with h5py.File(files[name]) as file:
        edges = bin_ends(file, path, starts)
        edges = np.array([edges[0] - BIN, *edges])
        spikes = file["units/spike_times"][()]
        inside = spikes[(spikes > recording.domain.start[0]) & (spikes < recording.domain.end[-1])]
        expected = np.histogram(inside, edges)[0]
    end = recording.series[series].times()
    upto = np.searchsorted(recording.spike_time, end)
    before = np.searchsorted(recording.spike_time, end - BIN)
    off = np.abs(upto - before - expected).sum()

    assert expected.sum() > 1000
    assert off <= 0.02 * expected.sum()  # spikes on an edge: rounded to the same grid as the bins


@pytest.mark.parametrize("name", BEHAVIOUR)
def test_the_evaluation_table_holds_exactly_the_samples_of_the_mask(name, files, made):
    _, series, _ = BEHAVIOUR[name]
    with h5py.File(files[name]) as file:
        mask = file["acquisition/eval_mask/data"][()].astype(bool)
    table = made[name].intervals["evaluation"]

    found = table.contains(made[name].series[series].times())
    assert 0 < mask.sum() < len(mask)
    assert found.tolist() == mask.tolist()
    assert table.duration == pytest.approx(mask.sum() * BIN)
    assert table.is_disjoint


def test_a_dropped_trial_of_m2_is_not_evaluated(made):
    trials, table = made["000953"].intervals["trials"], made["000953"].intervals["evaluation"]

    assert trials.columns["trial_num"].tolist() == list(range(2, 13))
    assert float(np.diff(trials.start).max()) == 5.0  # the others are 2.5 s apart
    assert not table.contains(np.array([15.1, 16.0, 17.4])).any()


def test_the_muscles_are_columns_in_the_order_of_the_file(files, made):
    emg = made["000941"].series["emg"]
    with h5py.File(files["000941"]) as file:
        group = file["acquisition/preprocessed_emg"]
        expected = {name: group[name]["data"][()] for name in group}
        assert group["APL/data"].attrs["unit"] == "mV"

    assert emg.columns == tuple(expected)
    assert len(emg.columns) == 16
    np.testing.assert_array_equal(emg.values, np.stack(list(expected.values()), axis=1))
    assert emg.unit == "1"  # divided by a quantile: no unit, whatever the file says


def test_units_keep_the_ids_of_their_channels(made):
    units = made["000941"].units
    name = "falcon_m1/monkeyl_20120924_held_in_calib"

    assert units["unit_id"][[0, 11]].tolist() == [f"{name}/2", f"{name}/95"]
    assert units["electrode"].tolist() == [one.rsplit("/")[-1] for one in units["unit_id"]]
    assert set(units["area"]) == {"M1"}
    assert 10 not in made["000941"].spike_unit  # silent, and kept


def test_the_fingers_are_index_and_the_others_together(files, made):
    velocity = made["000953"].series["finger_velocity"]
    with h5py.File(files["000953"]) as file:
        assert file["acquisition/finger_vel/mrs/data"].attrs["unit"] == "AU"

    assert velocity.columns == made["000953"].series["finger_position"].columns == ("index", "mrs")
    assert velocity.unit == "AU/bin"
    step = np.diff(made["000953"].series["finger_position"].values, axis=0)
    assert np.corrcoef(step[:, 0], velocity.values[1:, 0])[0, 1] > 0.9


def test_a_rate_that_is_a_period_is_turned_round_and_counted(files, made):
    recording = made["000954"]
    with h5py.File(files["000954"]) as file:
        assert file["acquisition/eval_mask/starting_time"].attrs["rate"] == BIN
        assert file["acquisition/OpenLoopKinematics"].attrs["description"] == ",".join(
            recording.series["arm_position"].columns
        )

    assert recording.series["arm_velocity"].rate == 50.0
    assert recording.series["arm_velocity"].times()[-1] == pytest.approx(1499 * BIN)
    assert {rule: count for rule, count in recording.dropped.items() if "period" in rule} == {
        f"series.{name}.rate_is_period": 1
        for name in ("arm_position", "arm_velocity", "evaluation", "trial_number")
    }


def test_a_rate_that_is_a_rate_stays(files, tmp_path):
    path = changed(files["000954"], tmp_path)
    with h5py.File(path, "a") as file:
        for name in ("OpenLoopKinematics", "OpenLoopKinematicsVelocity", "eval_mask", "TrialNum"):
            file[f"acquisition/{name}/starting_time"].attrs["rate"] = 50.0
    recording = harmonize(path, *LAYOUTS["000954"].stated())

    assert recording.series["arm_velocity"].rate == 50.0
    assert not any("period" in rule for rule in recording.dropped)


def test_an_offset_of_h1_is_the_time_of_its_first_sample(files, made, tmp_path):
    path = changed(files["000954"], tmp_path)
    with h5py.File(path, "a") as file:
        for name in ("OpenLoopKinematics", "OpenLoopKinematicsVelocity"):
            file[f"acquisition/{name}/data"].attrs["offset"] = 0.1
    recording = harmonize(path, *LAYOUTS["000954"].stated())

    for name, before in made["000954"].series.items():
        assert np.array_equal(recording.series[name].values, before.values)
        np.testing.assert_allclose(recording.series[name].times(), before.times() + 0.1)
        assert recording.dropped[f"series.{name}.conversion_ignored"] == 1
    for name in ("evaluation", "trials"):
        before = made["000954"].intervals[name]
        np.testing.assert_allclose(recording.intervals[name].start, before.start + 0.1)


def test_trials_of_h1_are_the_runs_of_their_number(files, made):
    trials, time = made["000954"].intervals["trials"], made["000954"].series["arm_velocity"].times()
    with h5py.File(files["000954"]) as file:
        number = file["acquisition/TrialNum/data"][()]

    assert trials.columns["number"].tolist() == [1, 2, 3, 4, 5]
    for row, (start, end) in enumerate(trials):
        inside = (time >= start) & (time < end)
        assert set(number[inside]) == {row + 1}
        assert inside.sum() == (number == row + 1).sum()
    assert trials.is_disjoint


def test_epochs_have_their_tags_as_one_text(files, made):
    with h5py.File(files["000954"]) as file:
        tags = [tag.decode() for tag in file["intervals/epochs/tags"][()]]

    assert made["000954"].intervals["epochs"].columns["tags"].tolist() == tags
    assert made["000954"].dropped["intervals.epochs.ragged_column"] == 1  # the references


def test_several_tags_are_joined_and_none_is_empty(files, tmp_path):
    path = changed(files["000954"], tmp_path)
    with h5py.File(path, "a") as file:
        index = file["intervals/epochs/tags_index"]
        index[...] = [2, 2, *range(3, 11)]
    tags = harmonize(path, *LAYOUTS["000954"].stated()).intervals["epochs"].columns["tags"]

    assert tags[:3].tolist() == ["Intertrial; Reach", "", "Intertrial"]


def test_tags_that_do_not_fit_their_rows_are_refused(files, tmp_path):
    path = changed(files["000954"], tmp_path)
    with h5py.File(path, "a") as file:
        file["intervals/epochs/tags_index"][...] = range(10)

    with pytest.raises(HarmonizeError, match="its tags are 10 for 10 rows"):
        harmonize(path, *LAYOUTS["000954"].stated())


def test_an_open_file_gives_the_same_epochs(files, made):
    with files["000954"].open("rb") as file:
        recording = harmonize(file, *LAYOUTS["000954"].stated())

    assert recording.intervals["epochs"] == made["000954"].intervals["epochs"]


def test_the_domain_is_what_units_say_or_the_bins(made):
    assert list(made["000941"].domain) == [(0.0, 23.98)]
    assert list(made["000953"].domain) == [(0.0, 29.998)]
    ((start, end),) = made["000954"].domain
    assert (start, end) == (-BIN, np.nextafter(1499 / 50.0, np.inf))
    assert [one.about["domain_from"] for one in made.values()] == [
        "obs_intervals", "obs_intervals", "bins of behaviour",
    ]  # fmt: skip


def test_a_file_without_a_mask_or_trials_is_taken(files, tmp_path):
    path = changed(files["000954"], tmp_path)
    with h5py.File(path, "a") as file:
        del file["acquisition/eval_mask"], file["acquisition/TrialNum"], file["intervals"]

    assert harmonize(path, *LAYOUTS["000954"].stated()).intervals == {}


def test_a_pause_of_the_mask_ends_an_interval(files, tmp_path):
    path = changed(files["000941"], tmp_path)
    with h5py.File(path, "a") as file:
        file["acquisition/eval_mask/data"][...] = True
        file["acquisition/eval_mask/timestamps"][600:] += 1.0
    table = harmonize(path, *LAYOUTS["000941"].stated()).intervals["evaluation"]

    expected = IntervalSet(np.array([-BIN, 12.98]), np.array([11.98, 24.98]))
    np.testing.assert_allclose(table.start, expected.start, atol=1e-9)
    np.testing.assert_allclose(table.end, expected.end, atol=1e-9)


def test_bins_of_another_length_are_refused(files, tmp_path):
    path = changed(files["000953"], tmp_path)
    with h5py.File(path, "a") as file:
        for name in ("index", "mrs"):
            file[f"acquisition/finger_pos/{name}/timestamps"][...] *= 0.5

    with pytest.raises(HarmonizeError, match=r"0\.01 s apart, expected bins of 0\.02 s"):
        harmonize(path, *LAYOUTS["000953"].stated())


def test_behaviour_on_another_clock_than_the_units_is_refused(files, tmp_path):
    path = changed(files["000953"], tmp_path)
    with h5py.File(path, "a") as file:
        for place in ("finger_pos/index", "finger_pos/mrs", "finger_vel/index", "finger_vel/mrs"):
            file[f"acquisition/{place}/timestamps"][...] += 20.0

    with pytest.raises(HarmonizeError, match="their clocks differ"):
        harmonize(path, *LAYOUTS["000953"].stated())


def test_a_file_with_other_behaviour_is_refused(files, tmp_path):
    path = changed(files["000954"], tmp_path)
    with h5py.File(path, "a") as file:
        file.move("acquisition/OpenLoopKinematicsVelocity", "acquisition/Velocity")

    with pytest.raises(HarmonizeError, match="expected the behaviour of FALCON M1, M2 or H1"):
        harmonize(path, *LAYOUTS["000954"].stated())


@pytest.mark.parametrize(
    ("manifest", "write"), [("falcon-h2", write_falcon_h2), ("falcon-b1", write_falcon_b1)]
)
def test_files_without_units_are_refused_by_name_with_what_to_do(manifest, write, tmp_path):
    dataset, asset = next(iter(load_manifest(manifest).items()))
    path = tmp_path / Path(asset.path).name
    write(path, 0)

    with pytest.raises(HarmonizeError) as caught:
        harmonize(path, dataset, asset)

    assert str(caught.value) == (
        f"{path.name}: expected one units table with spike times, found none; leave the asset "
        "out of the manifest, or write a harmoniser for it."
    )


@pytest.mark.parametrize("name", ["falcon-m1", "falcon-m2", "falcon-h1", "falcon-h2", "falcon-b1"])
def test_what_the_archive_calls_subjects_are_roles_of_one_subject(name):
    listed = list(load_manifest(name).items())

    assert len({asset.subject for _, asset in listed}) == 1
    assert {asset.role for _, asset in listed} == {"train", "transfer", "heldout"}


def test_a_decoder_reads_the_behaviour_from_the_bins(made):
    """The fixtures are tuned: counts of the bins explain velocity, those of other bins less."""
    recording = made["000953"]
    velocity = recording.series["finger_velocity"]

    def explained(shift: float) -> float:
        end = velocity.times() + shift
        cells = [recording.spike_time[recording.spike_unit == unit] for unit in range(10)]
        counts = np.stack([np.searchsorted(one, end) - np.searchsorted(one, end - 0.2)
                           for one in cells], 1)  # fmt: skip
        design = np.column_stack([counts, np.ones(len(end))])
        fit = design @ np.linalg.lstsq(design, velocity.values, rcond=None)[0]
        return 1 - ((velocity.values - fit) ** 2).sum() / (velocity.values**2).sum()

    assert explained(0.1) > 0.5
    assert explained(2.0) < 0.3
