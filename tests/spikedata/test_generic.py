from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from spikedata.checks import run_checks
from spikedata.errors import CheckFailedError, HarmonizeError
from spikedata.harmonize import find_harmonizer, harmonize
from spikedata.intervals import IntervalSet
from spikedata.manifest import Dataset, load_manifest
from spikedata.testing import make_recording, write_nwb

HAND = {"name": "hand", "source": ["processing/behavior/Position/hand"]}
SPEED = {"name": "speed", "source": ["processing/behavior/speed"]}
SAMPLE = Path(__file__).parents[2] / "manifests" / "sample"


def dataset(path: Path, **options) -> Dataset:
    content = path.read_bytes() if path.is_file() else b""
    asset = {
        "path": path.name, "size": len(content), "session": "s",
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    return Dataset.model_validate(
        {
            "id": "lab", "title": "t", "licence": "CC0", "citation": "c", "harmonize": options,
            "source": {"kind": "file"}, "assets": [asset],
        }
    )  # fmt: skip


def run(path: Path, **options):
    made = dataset(path, **options)
    return harmonize(path, made, made.assets[0])


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return write_nwb(tmp_path_factory.mktemp("nwb") / "tiny.nwb", with_extension=True)


@pytest.fixture
def tiny(original, tmp_path) -> Path:
    path = tmp_path / "tiny.nwb"
    path.write_bytes(original.read_bytes())
    return path


def change(path: Path, **arrays) -> Path:
    """Replace arrays of the file, `/` written as `__`."""
    with h5py.File(path, "a") as file:
        for name, values in arrays.items():
            place = name.replace("__", "/")
            attributes = dict(file[place].attrs)
            del file[place]
            file[place] = values
            file[place].attrs.update(attributes)
    return path


# ------------------------------------------------------------------ units and spikes


def test_every_rule_on_spikes_is_counted_and_nothing_else_is_lost(tiny):
    recording = run(tiny, series=[SPEED])
    with h5py.File(tiny) as file:
        source = file["units/spike_times"][()]

    lost = recording.dropped["spikes.not_finite"] + recording.dropped["spikes.outside_domain"]
    expected = source[np.isfinite(source)]
    expected = np.sort(expected[((expected >= 0) & (expected < 12)) | (expected >= 13)])
    assert np.array_equal(recording.spike_time, expected[expected < 20])
    assert len(recording.spike_time) + lost == len(source)
    assert recording.dropped["spikes.not_finite"] == 1
    assert recording.dropped["spikes.unsorted"] == 1
    assert recording.dropped["spikes.repeated_kept"] == 1
    assert list(recording.domain) == [(0.0, 12.0), (13.0, 20.0)]
    assert recording.about["domain_from"] == "obs_intervals"


def test_spikes_on_the_bounds_follow_the_half_open_convention(tiny):
    recording = run(tiny, series=[SPEED])

    assert recording.spike_time[recording.spike_unit == 5].tolist() == [0.0, 13.0]


def test_units_keep_their_ids_when_others_are_dropped(tiny):
    options = {"keep": {"quality": ["good"]}, "min_spikes": 2, "columns": ["quality"]}

    recording = run(tiny, series=[SPEED], units=options)

    assert recording.unit_ids.tolist() == [f"lab/s/{row}" for row in (0, 3, 4, 5)]
    assert recording.dropped["units.keep.quality"] == 1
    assert recording.dropped["units.min_spikes"] == 1
    assert set(recording.units) == {"unit_id", "area", "electrode", "quality"}
    everything = run(tiny, series=[SPEED])
    for new, old in enumerate((0, 3, 4, 5)):
        mine = recording.spike_time[recording.spike_unit == new]
        assert np.array_equal(mine, everything.spike_time[everything.spike_unit == old])


def test_a_filter_that_nothing_passes_or_that_names_no_column_is_told(tiny):
    with pytest.raises(HarmonizeError, match="none of the 6 units"):
        run(tiny, series=[SPEED], units={"keep": {"quality": ["superb"]}})
    with pytest.raises(HarmonizeError, match="did you mean 'quality'"):
        run(tiny, series=[SPEED], units={"keep": {"qualty": ["good"]}})
    with pytest.raises(HarmonizeError, match="no column 'depth'"):
        run(tiny, series=[SPEED], units={"area": "depth"})


def test_ids_that_repeat_are_replaced_by_rows(tiny):
    recording = run(change(tiny, units__id=np.zeros(6, int)), series=[SPEED])

    assert recording.unit_ids.tolist() == [f"lab/s/{row}" for row in range(6)]
    assert recording.dropped["units.renamed"] == 6


# ------------------------------------------------------------------ the domain


def observed(path: Path, sets: list[list[tuple[float, float]]]) -> Path:
    rows = np.array([bounds for one in sets for bounds in one], float).reshape(-1, 2)
    return change(
        path, units__obs_intervals=rows,
        units__obs_intervals_index=np.cumsum([len(one) for one in sets]),
    )  # fmt: skip


def test_units_that_were_observed_at_other_times_are_intersected(tiny):
    path = observed(tiny, [[(0, 20)]] * 4 + [[(2, 20)]] + [[(0, 5), (6, 20)]])

    assert list(run(path, series=[SPEED]).domain) == [(2.0, 5.0), (6.0, 20.0)]


def test_a_unit_observed_for_less_than_half_of_the_time_is_dropped_not_the_time(tiny):
    recording = run(observed(tiny, [[(0, 20)]] * 5 + [[(0, 3)]]), series=[SPEED])

    assert list(recording.domain) == [(0.0, 20.0)]
    assert recording.dropped["units.short_observation"] == 1
    assert recording.n_units == 5


def test_units_without_observation_say_nothing_and_bad_rows_are_counted(tiny):
    path = observed(tiny, [[], [(np.nan, 3)], [(4, 4)], [(1, 9)], [(1, 9)], [(1, 9)]])

    recording = run(path, series=[SPEED])

    assert list(recording.domain) == [(1.0, 9.0)]
    assert recording.dropped["units.bad_obs_interval"] == 2


def test_units_never_observed_together_are_refused(tiny):
    path = observed(tiny, [[(0, 10.5)]] * 3 + [[(10.5, 20)], [(9.5, 20)], [(0, 1), (10.5, 20)]])

    with pytest.raises(HarmonizeError, match="no time was observed by all units"):
        run(path, series=[SPEED])


def test_without_obs_intervals_the_domain_is_what_was_seen_of_spikes_and_series(tmp_path):
    path = write_nwb(tmp_path / "a.nwb", with_obs_intervals=False)

    recording = run(path, series=[{**SPEED, "max_gap": 1.0}])

    assert recording.about["domain_from"] == "extent of spikes and series"
    assert recording.domain.start.tolist() == [-1.0]
    assert recording.domain.end[-1] == pytest.approx(20.5 - 0.2 + 0.2)
    assert "spikes.outside_domain" not in recording.dropped


# ------------------------------------------------------------------ series


def test_rows_that_cannot_be_used_are_dropped_by_name(tiny):
    recording = run(tiny, series=[HAND])

    series = recording.series["hand"]
    assert recording.dropped["series.hand.repeated_time"] == 1
    assert recording.dropped["series.hand.backward_time"] == 1
    assert recording.dropped["series.hand.not_finite"] == 1
    assert len(series) == 197
    assert (series.unit, series.columns) == ("cm", ("x", "y"))


def test_the_conversion_the_offset_and_the_rate_are_used(tiny):
    series = run(tiny, series=[SPEED]).series["speed"]

    assert np.allclose(series.values[:, 0], np.arange(100) * 0.01 + 1.0)
    assert (series.rate, series.start) == (5.0, 0.5)


def test_scale_unit_and_columns_of_the_manifest_win(tiny):
    one = {**SPEED, "scale": 100.0, "unit": "cm/s", "columns": ["forward"]}

    series = run(tiny, series=[one]).series["speed"]

    assert series.values[1, 0] == pytest.approx(101.0)
    assert (series.unit, series.columns) == ("cm/s", ("forward",))


def test_several_sources_become_one_series_only_if_they_share_their_times(tiny):
    joined = {"name": "both", "source": ["acquisition/angle", "acquisition/angle_b"]}

    assert run(tiny, series=[joined]).series["both"].columns == ("angle", "angle_b")
    with pytest.raises(HarmonizeError, match="do not have the same times"):
        run(tiny, series=[{"name": "x", "source": [*joined["source"], *SPEED["source"]]}])


@pytest.mark.parametrize(("unit", "factor"), [("radians", 1.0), ("degrees", np.pi / 180)])
def test_an_angle_becomes_a_point_on_the_circle(tiny, unit, factor):
    with h5py.File(tiny, "a") as file:
        file["acquisition/angle/data"].attrs["unit"] = unit
        angle = file["acquisition/angle/data"][()] * factor
    one = {"name": "angle", "source": ["acquisition/angle"], "transform": "cos_sin"}

    series = run(tiny, series=[one]).series["angle"]

    assert np.allclose(series.values, np.stack([np.cos(angle), np.sin(angle)], 1))
    assert series.columns == ("cos_angle", "sin_angle")


def test_velocity_is_the_gradient_against_time_within_each_stretch(tiny):
    time = np.concatenate([np.arange(50) / 10, 8 + np.arange(50) / 7])
    data = np.stack([time**2, 3 * time], 1)
    path = change(
        tiny,
        processing__behavior__Position__hand__timestamps=time,
        processing__behavior__Position__hand__data=data,
    )

    series = run(path, series=[HAND, {"name": "vel", "velocity_of": "hand"}]).series["vel"]

    assert series.unit == "cm/s"
    assert np.allclose(series.values[:, 1], 3.0)
    inner = np.r_[1:49, 51:99]
    assert np.allclose(series.values[inner, 0], 2 * time[inner])
    assert series.values[49, 0] == pytest.approx((time[49] ** 2 - time[48] ** 2) / 0.1)


def test_a_velocity_of_a_series_that_stands_below_is_told(tiny):
    with pytest.raises(HarmonizeError, match="must stand above it"):
        run(tiny, series=[{"name": "vel", "velocity_of": "hand"}, HAND])


def test_outliers_are_dropped_by_range_stillness_and_speed(tiny):
    time = np.arange(100) / 10
    data = np.stack([np.sin(time), np.cos(time)], 1)
    data[10:30] = 0.5  # the tracker holds one value for 1.9 s
    data[40] = 77.0
    data[60, 0] += 5.0
    path = change(
        tiny,
        processing__behavior__Position__hand__timestamps=time,
        processing__behavior__Position__hand__data=data,
    )
    rules = {"range": [-50, 50], "max_still": 1.0, "max_speed": 20.0}

    recording = run(path, series=[{**HAND, **rules}])

    kept = np.setdiff1d(np.arange(100), [*range(10, 30), 40, 59, 60, 61])
    assert np.array_equal(recording.series["hand"].values, data[kept])
    dropped = {rule: count for rule, count in recording.dropped.items() if "hand" in rule}
    assert dropped == {
        "series.hand.still": 20, "series.hand.out_of_range": 1, "series.hand.too_fast": 3,
    }  # fmt: skip


def test_a_conversion_that_is_no_number_is_counted(tiny):
    with h5py.File(tiny, "a") as file:
        file["processing/behavior/speed/data"].attrs["conversion"] = np.nan

    assert run(tiny, series=[SPEED]).dropped["series.speed.conversion_ignored"] == 1


def test_with_no_series_named_every_behavioural_one_is_taken(tiny):
    recording = run(tiny)

    assert set(recording.series) == {"hand", "speed", "angle", "angle_b"}
    assert recording.dropped["series.skipped"] == 1
    assert recording.about["series_skipped"] == "acquisition/raw (raw data)"


def test_two_series_of_one_name_are_told_apart_by_their_paths(tiny):
    with h5py.File(tiny, "a") as file:
        file.copy("processing/behavior/speed", "acquisition/speed")

    assert {"acquisition.speed", "processing.behavior.speed"} <= set(run(tiny).series)


def test_an_unnamed_series_without_a_usable_sample_is_skipped_and_told(tiny):
    path = change(tiny, acquisition__angle_b__data=np.full(100, np.nan))

    recording = run(path)

    assert "angle_b" not in recording.series
    assert "acquisition/angle_b (no usable sample)" in recording.about["series_skipped"]
    assert recording.dropped["series.skipped"] == 2


def test_a_file_without_behaviour_is_a_recording_that_nothing_can_be_decoded_from(tmp_path):
    recording = run(write_nwb(tmp_path / "a.nwb", with_behavior=False))

    assert (recording.series, recording.n_units) == ({}, 6)
    assert "there_is_a_target" in {one.check for one in run_checks(recording)}


def test_a_file_without_the_target_or_a_named_series_is_refused(tmp_path, tiny):
    path = write_nwb(tmp_path / "a.nwb", with_behavior=False)

    with pytest.raises(HarmonizeError, match="did you mean 'speed'"):
        run(tiny, targets=["sped"])
    with pytest.raises(HarmonizeError, match="no series at"):
        run(path, series=[SPEED])


# ------------------------------------------------------------------ intervals and splits


def test_trials_that_are_no_intervals_are_dropped_by_name(tiny):
    recording = run(tiny, series=[SPEED])

    assert list(recording.intervals["trials"]) == [(0, 4), (4, 8), (8, 12), (14, 19)]
    assert recording.dropped["intervals.trials.zero_length"] == 1
    assert recording.dropped["intervals.trials.not_finite"] == 1
    assert recording.dropped["intervals.trials.ragged_column"] == 1
    assert recording.intervals["trials"].columns["target"].tolist()[2] == [3.0, -3.0]


def test_splits_can_come_from_a_column(tiny):
    split = {
        "kind": "column", "table": "trials", "column": "split",
        "values": {"train": "train", "val": "valid", "test": "test"},
    }  # fmt: skip

    recording = run(tiny, series=[SPEED], targets=["speed"], splits={"official": split})

    assert list(recording.split("train")) == [(0.0, 8.0)]
    assert list(recording.split("test")) == [(14.0, 19.0)]
    with pytest.raises(HarmonizeError, match="did you mean 'trials'"):
        run(tiny, series=[SPEED], splits={"official": {**split, "table": "trails"}})


def test_chronological_splits_cut_only_what_can_be_decoded(tiny):
    splits = {"chronological": {"kind": "chronological", "gap": 0}}
    recording = run(tiny, series=[SPEED], targets=["speed"], splits=splits)

    table = recording.splits["chronological"]
    expected = recording.domain.intersection(IntervalSet.single(0.5, 20.5))
    assert IntervalSet(table.start, table.end).coalesce() == expected


# ------------------------------------------------------------------ harmonize()


def test_all_failed_checks_are_told_at_once(tiny, monkeypatch):
    def broken(path, made, asset):
        good = make_recording(0, duration=5.0)
        return type(good)(
            "lab/s", good.spike_time[::-1], good.spike_unit, good.units, good.domain,
            targets=("nothing",),
        )  # fmt: skip

    monkeypatch.setattr("spikedata.testing.broken", broken, raising=False)

    with pytest.raises(CheckFailedError) as caught:
        run(tiny, harmonizer="spikedata.testing:broken")

    for sentence in ("does not begin with", "sort them", "'nothing' is no series"):
        assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("generc", "did you mean 'generic'"),
        ("no.such.module:run", "cannot be imported"),
        ("spikedata.testing:nothing", "has no function 'nothing'"),
    ],
)
def test_a_harmoniser_that_is_not_there(name, sentence):
    with pytest.raises(HarmonizeError, match=sentence):
        find_harmonizer(name)


@pytest.mark.parametrize("case", [*load_manifest("sample").items()], ids=lambda one: one[0].id)
def test_the_sample_recordings_are_what_the_manifest_promises(case):
    made, asset = case
    path = SAMPLE / asset.path

    recording = harmonize(path, made, asset)

    assert asset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert recording.targets == made.harmonize.targets
    if made.id == "nelpy_linear_track":
        assert recording.dropped == {
            "series.position.out_of_range": 151, "series.position.repeated_time": 1,
            "series.position.still": 61_383, "series.position.too_fast": 14,
        }  # fmt: skip
        assert recording.splits["chronological"].end[-1] < 5400  # the tracker stops there
    else:
        assert (recording.n_units, len(recording.spike_time)) == (15, 98_794)
        radius = np.linalg.norm(recording.series["head_direction"].values, axis=1)
        assert np.allclose(radius, 1.0)
