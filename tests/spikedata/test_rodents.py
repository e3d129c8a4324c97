"""The four sets of rodents (000017, 000044, 000056, 000582): what becomes of each known defect."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from spikedata.testing.layouts import layouts, write_layout
from tests import golden

LAYOUTS = layouts()


@pytest.fixture(scope="module")
def get(tmp_path_factory):
    """Return a function that gives the open file of a layout and its recording, made once."""
    made: dict = {}

    def find(name: str):
        if name not in made:
            path = write_layout(name, tmp_path_factory.mktemp(name))
            recording = golden.harmonize(path, *LAYOUTS[name].stated())
            made[name] = (h5py.File(path), recording)
        return made[name]

    yield find
    for file, _ in made.values():
        file.close()


def trains(file: h5py.File) -> list[np.ndarray]:
    return np.split(file["units/spike_times"][()], file["units/spike_times_index"][:-1])


def of_unit(recording, row: int) -> np.ndarray:
    return recording.spike_time[recording.spike_unit == row]


# ------------------------------------------------------------------ 000017


STEINMETZ = ("000017-one-probe", "000017-two-probes")


@pytest.mark.parametrize("name", STEINMETZ)
def test_units_are_those_with_a_good_annotation_under_their_own_ids(get, name):
    """The table is in the order of first spikes, so a row's number is not its id."""
    file, recording = get(name)
    ids, quality = file["units/id"][()], file["units/phy_annotations"][()]
    kept = np.flatnonzero(quality >= 2)

    assert not np.array_equal(ids, np.sort(ids))
    assert [one.rsplit("/", 1)[1] for one in recording.unit_ids] == ids[kept].astype(str).tolist()
    assert recording.dropped["units.at_least.phy_annotations"] == (quality < 2).sum() > 0
    for row, one in enumerate(kept):
        np.testing.assert_array_equal(of_unit(recording, row), trains(file)[one])


@pytest.mark.parametrize("name", STEINMETZ)
def test_a_unit_lies_at_its_peak_channel_which_is_its_first_electrode(get, name):
    """Two ways to the same place: the column counts from 1, the list of electrodes from 0."""
    file, recording = get(name)
    kept = np.flatnonzero(file["units/phy_annotations"][()] >= 2)
    place = file["general/extracellular_ephys/electrodes/location"].asstr()[()]
    first = file["units/electrodes"][()].reshape(-1, 50)[:, 0]
    peak = file["units/peak_channel"][:, 0] - 1

    np.testing.assert_array_equal(first, peak)
    assert recording.units["area"].tolist() == place[first][kept].tolist()
    assert len(set(recording.units["area"])) > 2
    assert recording.units["electrode"].tolist() == first[kept].astype(str).tolist()


@pytest.mark.parametrize("name", STEINMETZ)
def test_the_wheel_is_in_millimetres_at_its_true_rate(get, name):
    file, recording = get(name)
    wheel = recording.series["wheel_position"]
    stored = file["acquisition/wheel_position"]

    assert stored["starting_time"].attrs["rate"] == 0.0004
    assert (wheel.rate, wheel.start, wheel.unit) == (2500.0, 1.25, "mm")
    np.testing.assert_allclose(wheel.values[:, 0], stored["data"][()] * 0.135, rtol=1e-15)
    velocity = recording.series["wheel_velocity"]
    expected = np.gradient(stored["data"][()] * 0.135, 0.0004)
    np.testing.assert_allclose(velocity.values[:, 0], expected, atol=1e-6)
    assert (velocity.unit, recording.targets) == ("mm/s", ("wheel_velocity",))


def test_the_pupils_frames_are_spread_between_two_timestamps(get):
    file, recording = get("000017-one-probe")
    stored = file["processing/behavior/PupilTracking/eye_area/timestamps"][()]

    assert len(stored) == 2
    for name in ("pupil_area", "eye_position"):
        time = recording.series[name].times()
        np.testing.assert_allclose(time, np.linspace(*stored, 380), rtol=1e-13)
        assert recording.dropped[f"series.{name}.times_spread"] == 1
    _, other = get("000017-two-probes")
    assert other.series["pupil_area"].rate is None
    assert "series.pupil_area.times_spread" not in other.dropped


def test_a_column_that_copies_another_is_left_out(get):
    file, recording = get("000017-one-probe")
    copied = file["units/waveform_duration"][()], file["units/cluster_depths"][()]

    np.testing.assert_array_equal(*copied)
    for name in STEINMETZ:
        assert "waveform_duration" not in get(name)[1].units
    kept = file["units/phy_annotations"][()] >= 2
    np.testing.assert_array_equal(recording.units["cluster_depths"], copied[1][kept, 0])


@pytest.mark.parametrize("name", STEINMETZ)
def test_trials_keep_their_columns(get, name):
    file, recording = get(name)
    columns = set(file["intervals/trials"]) - {"id", "start_time", "stop_time"}

    assert set(recording.intervals["trials"].columns) == columns
    assert set(recording.intervals) == {"trials", "spontaneous"}


# ------------------------------------------------------------------ 000044


GROSMARK = {"000044-linear": "1.6mLinearMaze", "000044-circular": "CircularMaze"}


@pytest.mark.parametrize("name", GROSMARK)
def test_positions_of_any_maze_have_one_name_and_their_true_times(get, name):
    file, recording = get(name)
    maze = GROSMARK[name]
    for series, place in (
        ("position", f"{maze}Position/{maze}SpatialSeries"),
        ("linear_position", f"{maze}LinearizedPosition/{maze}LinearizedTimeSeries"),
    ):
        stored = file[f"processing/behavior/{place}"]
        period = stored["starting_time"].attrs["rate"]
        seen = np.isfinite(stored["data"][()]).all(1)
        found = recording.series[series]

        assert period == pytest.approx(0.0256)
        np.testing.assert_allclose(found.times(), 30 + period * np.flatnonzero(seen), rtol=1e-12)
        np.testing.assert_array_equal(found.values, stored["data"][seen])
        assert recording.dropped[f"series.{series}.not_finite"] == (~seen).sum()


def test_the_unit_is_metres_only_where_the_conversion_is_a_number(get):
    assert get("000044-linear")[1].series["position"].unit == "meters"
    _, circular = get("000044-circular")
    assert circular.series["position"].unit == ""
    assert circular.dropped["series.position.conversion_ignored"] == 1


@pytest.mark.parametrize("name", GROSMARK)
def test_the_epochs_are_the_domain_and_the_maze_is_split(get, name):
    file, recording = get(name)
    epochs = recording.intervals["epochs"]
    outside = file["units/spike_times"][()] >= 120

    assert list(recording.domain) == [(0.0, 120.0)]
    assert recording.about["domain_from"] == "epochs"
    assert recording.dropped["spikes.outside_domain"] == outside.sum() > 0
    assert epochs.columns["label"].tolist() == ["PREEpoch", "MazeEpoch", "POSTEpoch"]
    split = recording.splits["chronological"]
    assert split.start[0] >= 30.0
    assert split.end[-1] <= 90.0


@pytest.mark.parametrize("name", GROSMARK)
def test_states_in_float32_and_unit_columns_are_kept(get, name):
    file, recording = get(name)
    states = recording.intervals["states"]

    np.testing.assert_array_equal(states.start, file["processing/behavior/states/start_time"][()])
    assert set(states.columns["label"]) == {"Awake", "Non-REM", "REM"}
    assert set(recording.units) == {
        "unit_id", "area", "sorting", "cell_type", "location", "shank_id"
    }  # fmt: skip


# ------------------------------------------------------------------ 000056


def leds(file: h5py.File) -> tuple[np.ndarray, np.ndarray]:
    """Return the stored coordinates of the red and the blue LED, in cm."""
    place = "processing/behavior/SubjectPosition"
    return file[f"{place}/RedLED/data"][()], file[f"{place}/BlueLED/data"][()]


def test_an_led_that_was_not_seen_is_no_place(get):
    file, recording = get("000056-two-leds")
    for name, stored in zip(("red", "blue"), leds(file), strict=True):
        unseen = (stored == -1).any(1)
        series = recording.series[f"{name}_led_position"]

        assert recording.dropped[f"series.{name}_led_position.missing"] == unseen.sum() > 0
        np.testing.assert_array_equal(series.values, stored[~unseen] * 0.01)
        np.testing.assert_array_equal(series.times(), np.flatnonzero(~unseen) / 39.0625)
        assert (series.values > 0).all()  # no -0.01


def test_the_head_points_from_the_blue_led_to_the_red_one(get):
    """Against the loop that the laboratory's own program is: atan2 of red minus blue."""
    file, recording = get("000056-two-leds")
    red, blue = leds(file)
    expected = {}
    for frame in range(len(red)):
        if -1 not in red[frame] and -1 not in blue[frame]:
            x, y = red[frame] - blue[frame]
            expected[frame / 39.0625] = np.arctan2(y, x) % (2 * np.pi)
    head = recording.series["head_direction"]

    np.testing.assert_array_equal(head.times(), list(expected))
    told = np.arctan2(head.values[:, 1], head.values[:, 0]) % (2 * np.pi)
    np.testing.assert_allclose(told, list(expected.values()), atol=1e-9)
    assert recording.targets == ("head_direction",)


def test_only_waking_time_is_split(get):
    """The LEDs were on from 20 to 85 s."""
    split = get("000056-two-leds")[1].splits["chronological"]

    assert 20.0 <= split.start[0] < 20.2
    assert 84.8 < split.end[-1] <= 85.1


def test_a_session_without_a_processed_position_has_no_target(get):
    file, recording = get("000056-no-position")

    assert "SubjectPosition" not in file["processing/behavior"]
    assert "RedLED" in file["acquisition"]  # in grid units, so not taken in its place
    assert (recording.series, recording.targets) == ({}, ())
    assert recording.dropped["series.absent"] == 3
    assert recording.about["targets_absent"] == (
        "head_direction (the direction of 'red_led_position')"
    )
    assert "states" in recording.intervals


# ------------------------------------------------------------------ 000582


def test_positions_are_metres_and_the_head_points_to_the_first_led(get):
    file, recording = get("000582-two-leds")
    place = "processing/behavior/Position/SpatialSeriesLED"
    first, second = (file[f"{place}{led}/data"][()] for led in (1, 2))
    seen = np.isfinite(first).all(1) & np.isfinite(second).all(1)
    head = recording.series["head_direction"]

    np.testing.assert_array_equal(head.times(), np.flatnonzero(seen) / 50)
    arrow = (first - second)[seen]
    expected = arrow / np.hypot(*arrow.T)[:, None]
    np.testing.assert_allclose(head.values, expected, atol=1e-9)
    position = recording.series["position"]
    assert position.unit == "meters"
    assert np.abs(position.values).max() < 0.6
    assert recording.targets == ("position", "head_direction")


def test_with_one_led_there_is_no_head_direction(get):
    _, recording = get("000582-one-led")

    assert set(recording.series) == {"position"}
    assert recording.targets == ("position",)
    assert recording.about["series_absent"] == (
        "second_led_position (no `processing/behavior/Position/SpatialSeriesLED2`); "
        "head_direction (the direction of 'second_led_position')"
    )


@pytest.mark.parametrize("name", ["000582-one-led", "000582-two-leds"])
def test_a_unit_that_the_table_of_cells_lacks_is_kept(get, name):
    _, recording = get(name)
    unknown = recording.units["histology"] == ""

    assert unknown.sum() == 1
    assert recording.units["hemisphere"][unknown].tolist() == [""]
    np.testing.assert_array_equal(np.isnan(recording.units["depth"]), unknown)
