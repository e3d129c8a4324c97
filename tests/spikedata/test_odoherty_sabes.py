from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from spikedata.errors import HarmonizeError
from spikedata.harmonize import harmonize
from spikedata.harmonize.odoherty_sabes import _paper_split
from spikedata.intervals import IntervalSet
from spikedata.options import SeriesOptions
from spikedata.recording import Recording
from spikedata.testing.layouts import layouts, write_layout

NAMES = ("odoherty-indy", "odoherty-loco")
LAYOUTS = layouts()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mat")
    return {name: write_layout(name, folder) for name in NAMES}


@pytest.fixture(scope="module")
def recordings(files) -> dict[str, Recording]:
    return {name: harmonize(path, *LAYOUTS[name].stated()) for name, path in files.items()}


@pytest.fixture
def changed(files, tmp_path):
    """Return a function that changes a copy of Indy's file and harmonises it."""

    def run(change) -> Recording:
        path = shutil.copy(files["odoherty-indy"], tmp_path)
        with h5py.File(path, "r+") as file:
            change(file)
        return harmonize(Path(path), *LAYOUTS["odoherty-indy"].stated())

    return run


def pieces(recording: Recording, name: str) -> list[tuple[float, float]]:
    return [(round(lo, 3), round(hi, 3)) for lo, hi in recording.split(name, "paper")]


# ------------------------------------------------------------------ the files


def test_the_files_have_the_known_defects(files):
    for name, shape, finger in (("odoherty-indy", (5, 96), 3), ("odoherty-loco", (3, 192), 6)):
        head = files[name].read_bytes()[:520]
        with h5py.File(files[name]) as file:
            cells = [file[one] for one in file["spikes"][()].ravel()]
            empty = [one for one in cells if "MATLAB_empty" in one.attrs]
            trains = [one[0] for one in cells if "MATLAB_empty" not in one.attrs]

            assert head[:6] == b"MATLAB"
            assert head[126:128] == b"IM"
            assert head[512:516] == b"\x89HDF"
            assert file["spikes"].shape == file["wf"].shape == shape
            assert file["finger_pos"].shape[0] == finger
            assert [one[()].tolist() for one in empty[:2]] == [[0, 1], [0, 1]]
            assert min(map(min, trains)) < file["t"][0, 0]
            assert max(map(max, trains)) > file["t"][0, -1] + 0.004
            assert file[file["chan_names"][0, 0]].dtype == np.uint16


# ------------------------------------------------------------------ as public code has it


@pytest.mark.parametrize(
    ("name", "areas", "counts"),
    [
        ("odoherty-indy", {"M1": 16},
         [302, 314, 312, 319, 305, 328, 1, 297, 4, 202, 209, 211, 197, 204, 219, 201]),
        ("odoherty-loco", {"M1": 6, "S1": 10},
         [805, 825, 816, 811, 879, 848, 1, 830, 4, 564, 526, 519, 562, 571, 538, 548]),
    ],
)  # fmt: skip
def test_units_are_those_of_public_code(recordings, name, areas, counts):
    """As torch_brain 0.2.1 makes them from the same file: it keeps what lies out of the domain."""
    recording = recordings[name]
    found = np.bincount(recording.spike_unit, minlength=recording.n_units)

    assert dict(zip(*np.unique(recording.units["area"], return_counts=True), strict=True)) == areas
    assert found.sum() + recording.dropped["spikes.outside_domain"] == sum(counts)
    assert (found <= counts).all()
    assert (found >= np.array(counts) - 5).all()


def test_unit_ids_are_those_of_public_code(recordings):
    recording = recordings["odoherty-indy"]
    ids = [one.removeprefix(f"{recording.recording_id}/") for one in recording.unit_ids.tolist()]

    assert ids == [
        "M1 021/unsorted", "M1 030/unsorted", "M1 033/unsorted", "M1 061/unsorted",
        "M1 075/unsorted", "M1 077/unsorted", "M1 078/unsorted", "M1 081/unsorted",
        "M1 095/unsorted", "M1 021/sorted_01", "M1 033/sorted_01", "M1 038/sorted_01",
        "M1 077/sorted_01", "M1 081/sorted_01", "M1 033/sorted_02", "M1 075/sorted_04",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sums"),
    [
        ("odoherty-indy", (589127.4375, 1038750.0282079603, 5084769.080039319,
                           107729.98084204763)),
        ("odoherty-loco", (1823868.6875, 2366084.192036856, 16161776.739890065,
                           245137.75148250168)),
    ],
)  # fmt: skip
def test_kinematics_are_those_of_public_code(recordings, name, sums):
    """Sums of absolute values as torch_brain 0.2.1 makes them from the same file."""
    series = recordings[name].series
    order = ("cursor_position", "cursor_velocity", "cursor_acceleration", "finger_velocity")

    assert [np.abs(series[one].values).sum() for one in order] == pytest.approx(sums, rel=1e-9)


def test_the_paper_split_without_stillness_is_that_of_public_code(recordings):
    """As torch_brain 0.2.1 makes it from the same file."""
    recording = recordings["odoherty-indy"]

    assert pieces(recording, "train") == [
        (1017.304, 1022.104), (1026.904, 1031.704), (1031.704, 1036.504), (1036.504, 1041.304),
        (1041.304, 1046.104), (1046.104, 1050.904), (1050.904, 1055.704), (1060.504, 1065.304),
    ]  # fmt: skip
    assert pieces(recording, "valid") == [(1022.104, 1026.904)]
    assert pieces(recording, "test") == [(1055.704, 1060.504)]


def test_the_paper_split_with_stillness_is_that_of_public_code(recordings):
    """As torch_brain 0.2.1 makes it from the same file, whose clock is a grid: 0.1 ms beside."""
    recording = recordings["odoherty-loco"]
    expected = {
        "train": [(63.2, 75.040794), (122.40397, 134.244764), (134.244764, 146.085558),
                  (146.085558, 157.926352), (169.767146, 181.60794)],
        "valid": [(75.040794, 86.881588)],
        "test": [(157.926352, 169.767146)],
    }  # fmt: skip
    still = recording.intervals["still"]

    for name, rows in expected.items():
        assert np.array(list(recording.split(name, "paper"))) == pytest.approx(
            np.array(rows), abs=1e-4
        )
    assert np.array(list(still)) == pytest.approx(
        np.array([(93.483985, 115.259974), (181.60794, 194.195934)]), abs=1e-4
    )


# ------------------------------------------------------------------ against naive oracles


def naive_paper(start: float, end: float, still: list[tuple[float, float]]) -> dict[str, list]:
    """Return the published split, block by block and piece by piece."""

    def without(lo, hi):
        cuts = [(lo, hi)]
        for a, b in still:
            cuts = [part for x, y in cuts for part in ((x, min(y, a)), (max(x, b), y))
                    if part[0] < part[1]]  # fmt: skip
        return [(x, y) for x, y in cuts if y - x > 10]

    task = without(start, end)
    edge = np.linspace(task[0][0], task[-1][1], 11).tolist()
    table = []
    for row in range(10):
        inside = sum(max(0, min(y, edge[row + 1]) - max(x, edge[row])) for x, y in task)
        table.append([row, inside / (edge[row + 1] - edge[row])])
    table = np.array(table)
    np.random.default_rng(42).shuffle(table)
    rows = [int(row) for row, _ in sorted(table.tolist(), key=lambda one: round(one[1], 9))]
    parts = {"train": rows[:8], "valid": rows[8:9], "test": rows[9:]}
    return {name: sorted(one for row in part for one in without(edge[row], edge[row + 1]))
            for name, part in parts.items()}  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_the_paper_split_is_the_naive_one(seed):
    rng = np.random.default_rng(seed)
    edge = np.unique(np.round(rng.uniform(0, 2000, 2 * rng.integers(1, 6)), 2))
    bounds = [(a, b) for a, b in edge.reshape(-1, 2).tolist() if b - a > 10]
    still = IntervalSet(np.array([a for a, _ in bounds]), np.array([b for _, b in bounds]))
    if not bounds:
        pytest.skip("no still time drawn")
    table = _paper_split(IntervalSet.single(0, 2000), still)
    names = table.columns["split"]

    for name, expected in naive_paper(0.0, 2000.0, bounds).items():
        found = table.where(names == name)
        assert np.array(list(found)) == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_reach_lasts_as_long_as_its_target(recordings, files, name):
    reaches = recordings[name].intervals["reaches"]
    with h5py.File(files[name]) as file:
        target, time = file["target_pos"][()].T, file["t"][0]
    starts = [time[0]] + [
        time[row] for row in range(1, len(time)) if tuple(target[row]) != tuple(target[row - 1])
    ]

    assert reaches.start.tolist() == starts
    assert reaches.end[:-1].tolist() == starts[1:]
    assert reaches.end[-1] == recordings[name].domain.end[-1]
    assert np.flatnonzero(~reaches.columns["valid"]).tolist() == [0, len(reaches) - 1]
    assert reaches.columns["target"].tolist() == target[np.searchsorted(time, starts)].tolist()


# ------------------------------------------------------------------ traps and refusals


def test_an_empty_cell_is_no_unit_with_two_spikes(recordings):
    for name, cells in (("odoherty-indy", 480), ("odoherty-loco", 576)):
        recording = recordings[name]

        assert recording.dropped["units.empty_cell"] == cells - recording.n_units
        assert recording.spike_time.min() >= recording.domain.start[0]


def test_what_was_left_unsorted_is_called_multi_unit(recordings):
    units = recordings["odoherty-indy"].units

    assert set(units["sorting"][units["unit_number"] == 0].tolist()) == {"multi-unit"}
    assert set(units["sorting"][units["unit_number"] > 0].tolist()) == {"sorted"}
    assert units["electrode"][0] == "M1 021"


def test_sorted_units_alone_can_be_asked_for(files):
    dataset, asset = LAYOUTS["odoherty-indy"].stated()
    units = dataset.harmonize.units.model_copy(update={"keep": {"sorting": ("sorted",)}})
    options = dataset.harmonize.model_copy(update={"units": units})
    found = harmonize(
        files["odoherty-indy"], dataset.model_copy(update={"harmonize": options}), asset
    )

    assert (found.n_units, found.dropped["units.keep.sorting"]) == (7, 9)


def test_the_finger_keeps_its_own_axes(recordings):
    series = recordings["odoherty-loco"].series
    finger, cursor = series["finger_position"], series["cursor_position"]

    assert (finger.columns, finger.unit, cursor.unit) == (("z", "-x", "-y"), "cm", "mm")
    assert cursor.values == pytest.approx(-10 * finger.values[:, 1:], abs=0.05)
    assert series["finger_orientation"].columns == ("azimuth", "elevation", "roll")
    assert "finger_orientation" not in recordings["odoherty-indy"].series


def test_waveforms_are_never_read(changed, recordings):
    def remove(file):
        del file["wf"]

    assert changed(remove).n_units == recordings["odoherty-indy"].n_units


def _jump(file):
    file["t"][0, 500:] += 0.0002


def _nan(file):
    file["t"][0, 77] = np.nan


def _cut(file):
    found = file["cursor_pos"][:, :-1]
    del file["cursor_pos"]
    file["cursor_pos"] = found


def _four(file):
    found = file["finger_pos"][()]
    del file["finger_pos"]
    file["finger_pos"] = np.concatenate([found, found[:1]])


def _twice(file):
    file["chan_names"][0, 1] = file["chan_names"][0, 0]


def _missing_name(file):
    found = file["chan_names"][:, 1:]
    del file["chan_names"]
    file.create_dataset("chan_names", data=found, dtype=h5py.ref_dtype)


def _odd_name(file):
    file[file["chan_names"][0, 0]][0, 0] = ord("/")


def _shape_for_times(file):
    empty = next(file[one] for one in file["spikes"][()].ravel()
                 if "MATLAB_empty" in file[one].attrs)  # fmt: skip
    del empty.attrs["MATLAB_empty"]


def _all_empty(file):
    file["spikes"][...] = file["#refs#/a"].ref


def _no_target(file):
    del file["target_pos"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_jump, "0.004 s apart to within 0.0001 s, found .* at sample 499 \\(1 such steps\\)"),
        (_nan, "at sample 76 \\(2 such steps\\)"),
        (_cut, "`cursor_pos` has the shape \\(11999, 2\\), expected 2 columns for the 12000"),
        (_four, "`finger_pos` has the shape \\(12000, 4\\), expected 3 or 6 columns"),
        (_twice, "found 96, 95 of them different"),
        (_missing_name, "each of the 96 channels of `spikes`, found 95"),
        (_odd_name, "as '/1 001'"),
        (_shape_for_times, "holds uint64 of shape \\(2,\\), expected a column of times"),
        (_all_empty, "every cell of `spikes` is empty"),
        (_no_target, "there is no variable 'target_pos'"),
    ],
)
def test_a_file_that_is_not_as_expected_is_refused(changed, change, message):
    with pytest.raises(HarmonizeError, match=message):
        changed(change)


def test_samples_that_are_not_finite_are_dropped_and_counted(changed):
    def lose(file):
        file["cursor_pos"][0, 100:110] = np.nan

    recording = changed(lose)

    assert recording.dropped["series.cursor_position.not_finite"] == 10
    assert recording.domain.duration == pytest.approx(48.0)


def test_series_in_the_manifest_are_refused(files):
    dataset, asset = LAYOUTS["odoherty-indy"].stated()
    series = (SeriesOptions(name="cursor_velocity", source=("cursor_vel",)),)
    options = dataset.harmonize.model_copy(update={"series": series})
    with pytest.raises(HarmonizeError, match="leave `series` and `intervals` out"):
        harmonize(files["odoherty-indy"], dataset.model_copy(update={"harmonize": options}), asset)


def test_a_session_too_short_for_the_paper_split_has_none():
    table = _paper_split(IntervalSet.single(0, 60), IntervalSet.single(20, 31))

    assert len(table) == 0
