"""What a manifest may say of series, their times and their parts, each claim on a tiny file."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spikedata.errors import HarmonizeError
from spikedata.harmonize import harmonize
from spikedata.manifest import Dataset
from spikedata.nwb import NwbFile
from spikedata.options import HarmonizeOptions, SeriesOptions
from spikedata.recording import Series
from spikedata.series import build_direction, read_sources
from spikedata.testing import write_nwb

BEHAVIOR = "processing/behavior"


def run(path: Path, **options):
    content = path.read_bytes()
    asset = {
        "path": path.name, "size": len(content), "session": "s",
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    made = Dataset.model_validate(
        {
            "id": "lab", "title": "t", "licence": "CC0", "citation": "c", "harmonize": options,
            "source": {"kind": "file"}, "assets": [asset],
        }
    )  # fmt: skip
    return harmonize(path, made, made.assets[0])


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file of these series into the module `behavior`."""

    def made(**series: dict) -> Path:
        from pynwb import NWBHDF5IO, NWBFile
        from pynwb.behavior import Position, SpatialSeries

        nwb = NWBFile("synthetic", "synthetic", datetime(2020, 1, 1, tzinfo=UTC))
        module = nwb.create_processing_module("behavior", "synthetic")
        for name, fields in series.items():
            one = SpatialSeries(name=f"{name}Series", reference_frame="room", **fields)
            module.add(Position(spatial_series=one, name=f"{name}Position"))
        nwb.add_unit(spike_times=np.arange(1, 60) / 2)
        path = tmp_path / "made.nwb"
        with NWBHDF5IO(str(path), "w") as io:
            io.write(nwb)
        return path

    return made


def part(start: float, count: int = 20, **other) -> dict:
    """Return a series of positions at 10 Hz from `start` on, whose x is the time."""
    time = start + np.arange(count) / 10
    return {"data": np.stack([time, -time], 1), "timestamps": time, **other}


# ------------------------------------------------------------------ patterns and parts


PARTS = {"name": "position", "source": [f"{BEHAVIOR}/*Position/*Series"]}


def test_matches_of_a_pattern_are_joined_in_order_of_time(write):
    path = write(a=part(6.0), b=part(0.0), c=part(3.0))
    recording = run(path, series=[PARTS])

    found = recording.series["position"]
    expected = np.concatenate([start + np.arange(20) / 10 for start in (0.0, 3.0, 6.0)])
    np.testing.assert_array_equal(found.times(), expected)
    np.testing.assert_array_equal(found.values, np.stack([expected, -expected], 1))


def test_one_match_keeps_its_rate(write):
    given = {"data": np.zeros((20, 2)), "rate": 10.0, "starting_time": 2.0}
    found = run(write(a=given), series=[PARTS]).series["position"]

    assert (found.rate, found.start) == (10.0, 2.0)


@pytest.mark.parametrize("start", [0.0, 1.0, 1.9])
def test_parts_that_share_time_are_refused(write, start):
    path = write(a=part(0.0), b=part(start))

    with pytest.raises(HarmonizeError, match="not one after another in time; write a narrower"):
        run(path, series=[PARTS])


def test_parts_that_differ_are_refused(write):
    time = 5 + np.arange(20) / 10
    narrow = {"data": time[:, None], "timestamps": time}
    with pytest.raises(HarmonizeError, match="differ in their columns or unit"):
        run(write(a=part(0.0), b=narrow), series=[PARTS])
    with pytest.raises(HarmonizeError, match="differ in their columns or unit"):
        run(write(a=part(0.0), b=part(5.0, unit="cm")), series=[PARTS])


def test_a_pattern_stays_within_its_steps(write):
    path = write(a=part(0.0))

    for pattern in (f"{BEHAVIOR}/*", "processing/*Series", f"{BEHAVIOR}/*/*/*", "*/aPosition/*"):
        with pytest.raises(HarmonizeError, match=r"there are no series at `.*\*`|there are no"):
            run(path, series=[{"name": "position", "source": [pattern]}])
    kept = run(path, series=[{"name": "p", "source": [f"{BEHAVIOR}/?Position/aSer*"]}])
    assert len(kept.series["p"]) == 20


def test_the_sentinel_is_dropped_in_every_part(write):
    one, other = part(2.0), part(7.0)
    one["data"][3] = other["data"][4] = -1.0
    recording = run(write(a=one, b=other), series=[{**PARTS, "missing": -1}])

    assert recording.dropped["series.position.missing"] == 2
    assert len(recording.series["position"]) == 38


# ------------------------------------------------------------------ not tracked


@pytest.mark.parametrize("conversion", [1.0, 0.01, 0.3, np.nan])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int16"])
def test_the_sentinel_is_compared_with_what_is_stored(write, conversion, dtype):
    """The conversion makes -0.01 of -1, and a true -1 would be a place."""
    values = np.arange(40).reshape(20, 2).astype(dtype)
    values[5], values[7, 1] = -1, -1
    given = {"data": values, "timestamps": np.arange(20) / 10, "conversion": conversion}
    recording = run(write(a=given), series=[{**PARTS, "missing": -1}])

    assert recording.dropped["series.position.missing"] == 2
    kept = np.delete(values, [5, 7], axis=0).astype(float) * (
        1.0 if np.isnan(conversion) else conversion
    )
    np.testing.assert_allclose(recording.series["position"].values, kept, rtol=1e-12)


def test_without_the_option_the_sentinel_is_a_value(write):
    given = part(0.0)
    given["data"][3] = -1.0
    recording = run(write(a=given), series=[PARTS])

    assert len(recording.series["position"]) == 20
    assert "series.position.missing" not in recording.dropped


# ------------------------------------------------------------------ times


@pytest.mark.parametrize(
    ("stated", "expected", "changed"), [(0.0004, 2500.0, 1), (0.0256, 39.0625, 1), (50.0, 50.0, 0)]
)
def test_a_rate_below_one_is_a_period(write, stated, expected, changed):
    given = {"data": np.zeros((20, 2)), "rate": stated, "starting_time": 2.0}
    path = write(a=given)
    recording = run(path, series=[{**PARTS, "rate_is_period": True}])

    assert recording.series["position"].rate == pytest.approx(expected, rel=1e-12)
    assert recording.dropped.get("series.position.rate_is_period", 0) == changed
    assert run(path, series=[PARTS]).series["position"].rate == stated


def test_two_timestamps_are_spread_only_when_asked(write):
    path = write(a=part(2.0))
    with h5py.File(path, "a") as file:
        place = f"{BEHAVIOR}/aPosition/aSeries/timestamps"
        del file[place]
        file[place] = np.array([2.0, 11.5])

    with pytest.raises(HarmonizeError, match="20 samples but 2 timestamps"):
        run(path, series=[PARTS])
    recording = run(path, series=[{**PARTS, "spread_times": True}])
    found = recording.series["position"]
    np.testing.assert_allclose(found.times(), np.linspace(2.0, 11.5, 20), rtol=1e-14)
    assert recording.dropped["series.position.times_spread"] == 1


@pytest.mark.parametrize("times", [[2.0, 2.0], [3.0, 2.0], [np.nan, 2.0], [1.0, 2.0, 3.0]])
def test_other_timestamps_that_do_not_fit_stay_refused(write, times):
    path = write(a=part(2.0))
    with h5py.File(path, "a") as file:
        place = f"{BEHAVIOR}/aPosition/aSeries/timestamps"
        del file[place]
        file[place] = np.array(times)

    with pytest.raises(HarmonizeError, match="the file is cut or damaged"):
        run(path, series=[{**PARTS, "spread_times": True}])


def test_a_full_set_of_timestamps_is_not_spread(write):
    given = part(2.0)
    given["timestamps"] = given["timestamps"] ** 2
    recording = run(write(a=given), series=[{**PARTS, "spread_times": True}])

    np.testing.assert_array_equal(recording.series["position"].times(), given["timestamps"])
    assert "series.position.times_spread" not in recording.dropped


def test_the_unit_is_not_known_when_the_conversion_is_junk(write):
    given = part(0.0, conversion=np.nan)
    recording = run(write(a=given), series=[PARTS])

    assert recording.series["position"].unit == ""
    assert recording.dropped["series.position.conversion_ignored"] == 1
    assert run(write(a=given), series=[{**PARTS, "unit": "px"}]).series["position"].unit == "px"


# ------------------------------------------------------------------ direction


DIRECTION = SeriesOptions(name="head", direction_of=("front", "back"))


def positions(angle: np.ndarray, length: float = 3.0) -> tuple[Series, Series]:
    """Return two positions whose arrow has this angle, on a wandering middle, at 10 Hz."""
    middle = np.stack([np.cos(np.arange(len(angle))), np.arange(len(angle)) / 7], 1)
    arrow = length / 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    both = (Series(middle + sign * arrow, "cm", ("x", "y"), start=0.0, rate=10.0)
            for sign in (1, -1))  # fmt: skip
    front, back = both
    return front, back


def test_the_direction_of_a_turning_pair_is_its_angle():
    """Two turns counterclockwise, at a known angle at every moment."""
    angle = np.linspace(0, 4 * np.pi, 100)
    found = build_direction(DIRECTION, *positions(angle), Counter())

    assert (found.columns, found.unit, found.rate) == (("cos", "sin"), "", 10.0)
    told = np.arctan2(found.values[:, 1], found.values[:, 0])
    np.testing.assert_allclose(np.unwrap(told), angle, atol=1e-12)


def test_front_and_back_swapped_is_half_a_turn():
    front, back = positions(np.linspace(0, 6, 50))
    found = build_direction(DIRECTION, front, back, Counter())
    swapped = build_direction(DIRECTION, back, front, Counter())

    np.testing.assert_array_equal(swapped.values, -found.values)


@given(
    st.lists(st.booleans(), min_size=12, max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_the_direction_is_where_both_are_and_are_apart(ahead, behind, together):
    """Against a loop over the frames with atan2."""
    front, back = positions(np.linspace(0, 3, 12))
    time = front.times()
    moved = back.values.copy()
    moved[together] = front.values[together]
    front = Series(front.values[ahead], "cm", ("x", "y"), time=time[ahead])
    back = Series(moved[behind], "cm", ("x", "y"), time=time[behind])
    dropped: Counter[str] = Counter()
    if not any(a and b for a, b in zip(ahead, behind, strict=True)) and any(ahead) and any(behind):
        with pytest.raises(HarmonizeError, match="have no time in common"):
            build_direction(DIRECTION, front, back, dropped)
        return
    found = build_direction(DIRECTION, front, back, dropped)

    expected = {}
    for frame in range(12):
        if ahead[frame] and behind[frame] and not together[frame]:
            x, y = positions(np.linspace(0, 3, 12))[0].values[frame] - moved[frame]
            expected[time[frame]] = np.arctan2(y, x)
    np.testing.assert_array_equal(found.times(), list(expected))
    np.testing.assert_allclose(
        np.arctan2(found.values[:, 1], found.values[:, 0]), list(expected.values()), atol=1e-12
    )
    both = sum(a and b for a, b in zip(ahead, behind, strict=True))
    assert dropped["series.head.unpaired"] == sum(ahead) + sum(behind) - 2 * both
    assert dropped["series.head.no_direction"] == both - len(expected)


def test_a_direction_needs_positions_in_a_plane():
    front, _ = positions(np.zeros(5))
    line = Series(np.zeros((5, 1)), "cm", ("x",), start=0.0, rate=10.0)

    with pytest.raises(HarmonizeError, match=r"need columns x and y; found \['x', 'y'\]"):
        build_direction(DIRECTION, front, line, Counter())


def test_a_direction_of_what_is_not_above_is_refused(write):
    path = write(a=part(0.0))

    with pytest.raises(HarmonizeError, match="'head' is the direction of 'back', which must"):
        run(path, series=[PARTS, {"name": "head", "direction_of": ["position", "back"]}])


# ------------------------------------------------------------------ optional


FRONT = {"name": "front", "source": [f"{BEHAVIOR}/aPosition/aSeries"]}
BACK = {"name": "back", "source": [f"{BEHAVIOR}/bPosition/bSeries"], "optional": True}
HEAD = {"name": "head", "direction_of": ["front", "back"]}
TURN = {"name": "turn", "velocity_of": "head"}


def behind(given: dict) -> dict:
    return {**given, "data": given["data"] - 1.0}


def test_an_optional_series_is_taken_when_it_is_there(write):
    path = write(a=part(0.0, 200), b=behind(part(0.0, 200)))
    recording = run(path, series=[FRONT, BACK, HEAD, TURN], targets=["front", "turn"])

    assert set(recording.series) == {"front", "back", "head", "turn"}
    assert recording.targets == ("front", "turn")
    assert "series_absent" not in recording.about


def test_an_absent_series_takes_what_is_made_of_it_along(write):
    path = write(a=part(0.0, 200))
    recording = run(path, series=[FRONT, BACK, HEAD, TURN], targets=["front", "turn"])

    assert set(recording.series) == {"front"}
    assert recording.targets == ("front",)
    assert recording.dropped["series.absent"] == 3
    assert recording.about["series_absent"] == (
        f"back (no `{BEHAVIOR}/bPosition/bSeries`); head (the direction of 'back'); "
        "turn (the velocity of 'head')"
    )
    assert recording.about["targets_absent"] == "turn (the velocity of 'head')"


@pytest.mark.parametrize("samples", [200, 0])
def test_an_optional_series_without_a_usable_sample_is_absent(write, samples):
    path = write(a=part(0.0, 200), b=part(0.0, 200))
    with h5py.File(path, "a") as file:
        found = file[f"{BEHAVIOR}/bPosition/bSeries"]
        for name in ("data", "timestamps"):
            values = found[name][:samples]
            attributes = dict(found[name].attrs)
            del found[name]
            found[name] = values if name == "timestamps" else np.full_like(values, np.nan)
            found[name].attrs.update(attributes)
    recording = run(path, series=[FRONT, BACK, HEAD, TURN], targets=["front", "turn"])

    assert set(recording.series) == {"front"}
    assert recording.targets == ("front",)
    assert recording.dropped["series.absent"] == 3
    assert recording.about["series_absent"].startswith("back (no usable sample); head (")


def test_an_optional_pattern_may_match_nothing(write):
    optional = {"name": "back", "source": [f"{BEHAVIOR}/b*/*"], "optional": True}
    recording = run(write(a=part(0.0)), series=[FRONT, optional])

    assert recording.dropped["series.absent"] == 1


def test_a_series_that_is_not_optional_must_be_there(write):
    with pytest.raises(HarmonizeError, match="there are no series at"):
        run(write(a=part(0.0)), series=[FRONT, {**BACK, "optional": False}])


def test_a_damaged_optional_series_is_not_absent(write):
    path = write(a=part(0.0), b=part(0.0))
    with h5py.File(path, "a") as file:
        del file[f"{BEHAVIOR}/bPosition/bSeries/data"]

    with pytest.raises(HarmonizeError, match="there are no series at"):
        run(path, series=[FRONT, BACK])


# ------------------------------------------------------------------ what a manifest may not say


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"source": ["a"], "velocity_of": "b"},
        {"source": ["a"], "direction_of": ["b", "c"]},
        {"velocity_of": "b", "direction_of": ["b", "c"]},
    ],
)
def test_a_series_has_one_origin(given):
    with pytest.raises(ValidationError, match="give either `source`"):
        SeriesOptions.model_validate({"name": "a", **given})


@pytest.mark.parametrize(
    "given",
    [{"optional": True}, {"missing": -1}, {"rate_is_period": True}, {"spread_times": True}],
)
def test_what_is_about_files_is_refused_without_a_source(given):
    (option,) = given
    with pytest.raises(ValidationError, match=f"{option}: only for a series with a `source`"):
        SeriesOptions.model_validate({"name": "a", "velocity_of": "b", **given})


# ------------------------------------------------------------------ tables, domain, electrodes


@pytest.fixture
def tiny(tmp_path) -> Path:
    return write_nwb(tmp_path / "tiny.nwb")


def test_a_table_of_columns_with_one_wide_rows_is_read(tiny):
    """Shaped (K, 1), as some converters write them."""
    with h5py.File(tiny, "a") as file:
        for name in ("start_time", "stop_time", "split"):
            old = file[f"intervals/trials/{name}"]
            values, kept = old[()], dict(old.attrs)
            dtype = old.dtype
            del file[f"intervals/trials/{name}"]
            file[f"intervals/trials/{name}"] = values[:, None].astype(dtype)
            file[f"intervals/trials/{name}"].attrs.update(kept)
    recording = run(tiny, series=[{"name": "s", "source": [f"{BEHAVIOR}/speed"]}])

    trials = recording.intervals["trials"]
    assert trials.start.tolist() == [0.0, 4.0, 8.0, 14.0]
    assert trials.columns["split"].tolist() == ["train", "train", "val", "test"]


def test_a_table_in_a_processing_module_is_read_when_it_is_named(tiny):
    with h5py.File(tiny, "a") as file:
        file.copy("intervals/trials", file[BEHAVIOR], "states")
    named = [{"name": "states", "source": f"{BEHAVIOR}/states"}]

    assert set(run(tiny, intervals=named).intervals) == {"states"}
    assert set(run(tiny).intervals) == {"trials"}


def test_an_optional_table_may_be_absent(tiny):
    named = {"name": "states", "source": f"{BEHAVIOR}/states", "optional": True}
    recording = run(tiny, intervals=[named])

    assert recording.intervals == {}
    assert recording.dropped["intervals.absent"] == 1
    with pytest.raises(HarmonizeError, match="there are no intervals at"):
        run(tiny, intervals=[{**named, "optional": False}])


def test_the_domain_may_be_an_interval_table(tiny):
    recording = run(tiny, domain="trials")

    assert list(recording.domain) == [(0.0, 12.0), (14.0, 19.0)]
    assert recording.about["domain_from"] == "trials"
    assert recording.domain.contains(recording.spike_time).all()
    with pytest.raises(HarmonizeError, match="the domain is to be the interval table 'epochs'"):
        run(tiny, domain="epochs")


def test_a_domain_that_is_no_table_of_the_manifest_is_refused():
    given = {"domain": "epoch", "intervals": [{"name": "epochs", "source": "intervals/epochs"}]}

    with pytest.raises(ValidationError, match="domain 'epoch' is no interval table; did you mean"):
        HarmonizeOptions.model_validate(given)


@pytest.mark.parametrize(
    ("base", "expected"), [(0, ["B", "C", "D", "", "", "A"]), (1, ["A", "B", "C", "D", "", ""])]
)
def test_the_electrode_of_a_unit_may_stand_in_a_column(tiny, base, expected):
    with h5py.File(tiny, "a") as file:
        file["units/peak"] = np.array([1, 2, 3, 4, 9, 0])
        file["units"].attrs["colnames"] = [*file["units"].attrs["colnames"], "peak"]
        place = "general/extracellular_ephys/electrodes/location"
        del file[place]
        file[place] = np.array(list("ABCD"), "S1")
    units = {"electrode": "peak", "electrode_base": base}

    assert run(tiny, units=units).units["area"].tolist() == expected


def test_a_column_of_electrodes_that_is_not_there_is_refused(tiny):
    for column in ("peak", "quality"):
        with pytest.raises(HarmonizeError, match=f"no column '{column}' with the number of one"):
            run(tiny, units={"electrode": column})


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ({"range": [5, 1]}, "low < high"),
        ({"range": [float("nan"), 1]}, "low < high"),
        ({"scale": 0}, "other than 0"),
        ({"scale": float("inf")}, "other than 0"),
        ({"missing": float("nan")}, "always dropped"),
        ({"columns": ["x", "x"]}, "each once"),
        ({"columns": []}, "each once"),
        ({"source": [], "velocity_of": "s"}, "of itself"),
    ],
)
def test_options_that_make_no_sense_are_refused(field, what):
    with pytest.raises(ValueError, match=what):
        SeriesOptions.model_validate({"name": "s", "source": ["a"], **field})


def test_a_pattern_finds_a_series_that_is_a_link(tmp_path):
    path = write_nwb(tmp_path / "a.nwb")
    with h5py.File(path, "a") as file:
        file["processing/behavior/linked"] = h5py.SoftLink("/acquisition/angle")
    dropped: Counter[str] = Counter()

    with NwbFile(path) as nwb:
        options = SeriesOptions(name="s", source=("processing/behavior/link*",))
        (found,) = read_sources(nwb, options, dropped)

    assert found.path == "processing/behavior/linked"
