from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from spikedata.errors import HarmonizeError
from spikedata.nwb import NwbFile
from spikedata.testing import write_nwb

SAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "sample").glob("*.nwb"))
HAND = "processing/behavior/Position/hand"
SPEED = "processing/behavior/speed"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return write_nwb(tmp_path_factory.mktemp("nwb") / "tiny.nwb", with_extension=True)


@pytest.fixture
def tiny(original, tmp_path) -> Path:
    """Return a copy of the tiny file that a test may damage."""
    path = tmp_path / "tiny.nwb"
    path.write_bytes(original.read_bytes())
    return path


def damage(path: Path, change) -> Path:
    with h5py.File(path, "a") as file:
        change(file)
    return path


# ------------------------------------------------------------------ pynwb as the oracle


@pytest.mark.parametrize("path", [None, *SAMPLES], ids=lambda path: path.name if path else "tiny")
@pytest.mark.filterwarnings("ignore")
def test_everything_is_read_as_pynwb_reads_it(path, original):
    from pynwb import NWBHDF5IO, TimeSeries

    path = path or write_nwb(original.with_name("plain.nwb"))
    with NWBHDF5IO(str(path), "r") as io, NwbFile(path) as ours:
        theirs = io.read()
        units = ours.read_units()
        spike_time = ours.read_spikes(units)
        for row in range(len(theirs.units)):
            lo, hi = units.spike_bound[row : row + 2]
            assert np.array_equal(
                spike_time[lo:hi], theirs.units["spike_times"][row], equal_nan=True
            )
            if units.observed is not None:
                lo, hi = units.observed_bound[row : row + 2]
                assert np.array_equal(units.observed[lo:hi], theirs.units["obs_intervals"][row])
        assert units.name.tolist() == [str(one) for one in theirs.units.id[:]]
        series = {
            one.name: one
            for one in theirs.objects.values()
            if isinstance(one, TimeSeries) and one.data is not None
        }
        listed = [entry.path for entry in ours.listing() if entry.kind == "series"]
        for place in listed:
            mine, other = ours.read_series(place), series[place.rsplit("/", 1)[-1]]
            expected = np.asarray(other.data)[:] * other.conversion + (other.offset or 0.0)
            assert np.array_equal(mine.values, expected.reshape(len(expected), -1), equal_nan=True)
            if other.timestamps is not None:
                times = other.timestamps
                times = times.timestamps if isinstance(times, TimeSeries) else times
                assert np.array_equal(mine.times(), times[:])
            else:
                assert (mine.start, mine.rate) == (other.starting_time, other.rate)

        assert sorted(place.rsplit("/", 1)[-1] for place in listed) == sorted(series)


@pytest.mark.filterwarnings("ignore")
def test_a_table_is_read_as_pynwb_reads_it(original):
    from pynwb import NWBHDF5IO

    path = write_nwb(original.with_name("table.nwb"))
    with NWBHDF5IO(str(path), "r") as io, NwbFile(path) as ours:
        theirs, table = io.read().trials, ours.read_table("intervals/trials")

        assert np.array_equal(table.start, theirs["start_time"][:], equal_nan=True)
        assert np.array_equal(table.end, theirs["stop_time"][:], equal_nan=True)
        assert table.columns["split"].tolist() == list(theirs["split"][:])
        assert np.array_equal(table.columns["target"], theirs["target"][:])
        assert table.skipped == ("cues",)


def test_an_area_comes_from_the_first_electrode(tiny):
    with NwbFile(tiny) as nwb:
        assert set(nwb.read_units().columns["area"]) == {"M1"}


def test_an_electrode_row_that_does_not_exist_has_no_area(tiny):
    def change(file):
        file["units/electrodes"][0] = 99

    with NwbFile(damage(tiny, change)) as nwb:
        assert nwb.read_units().columns["area"].tolist() == ["", *["M1"] * 5]


def test_units_without_electrodes_have_no_area(tmp_path):
    with NwbFile(write_nwb(tmp_path / "a.nwb", with_electrodes=False)) as nwb:
        assert "area" not in nwb.read_units().columns


def test_units_are_found_in_processing_when_they_are_not_at_the_top(tiny):
    with NwbFile(damage(tiny, lambda file: file.move("units", "processing/behavior/u"))) as nwb:
        assert nwb.read_units().path == "processing/behavior/u"


def test_the_session_and_subject_are_told_and_empty_fields_are_not(tiny):
    with NwbFile(tiny) as nwb:
        about = nwb.about()

    assert about["session"] == "s0"
    assert about["species"] == "Macaca mulatta"
    assert "lab" not in about


def test_column_names_come_from_the_comments(tiny):
    def change(file):
        file[HAND].attrs["comments"] = "columns=[left, right]"

    with NwbFile(damage(tiny, change)) as nwb:
        assert nwb.read_series(HAND).columns == ("left", "right")


@pytest.mark.parametrize("conversion", [np.nan, np.inf, 0.0])
def test_a_conversion_that_is_no_number_is_left_out_and_told(tiny, conversion):
    def change(file):
        file[f"{SPEED}/data"].attrs["conversion"] = conversion

    with NwbFile(damage(tiny, change)) as nwb:
        series = nwb.read_series(SPEED)

    assert series.conversion_ignored
    assert series.values[3, 0] == 3.0


# ------------------------------------------------------------------ links


def test_links_inside_the_file_are_followed(tiny):
    def change(file):
        file["acquisition/soft"] = h5py.SoftLink(f"/{HAND}")
        file["acquisition/near"] = h5py.SoftLink("soft")
        file["acquisition/hard"] = file[HAND]

    with NwbFile(damage(tiny, change)) as nwb:
        expected = nwb.read_series(HAND).values

        for name in ("soft", "near", "hard"):
            found = nwb.read_series(f"acquisition/{name}").values
            assert np.array_equal(found, expected, equal_nan=True)
        paths = [entry.path for entry in nwb.listing() if entry.kind == "series"]
        assert len(paths) == len({path.rsplit("/", 1)[-1] for path in paths})


def outward_link(file, secret):
    del file[HAND]
    file[HAND] = h5py.ExternalLink(str(secret), f"/{HAND}")


def outward_link_behind_a_soft_link(file, secret):
    outward_link(file, secret)
    file["acquisition/hand"] = h5py.SoftLink(f"/{HAND}")
    file.move("acquisition/hand", "processing/behavior/Position/hand2")
    del file[HAND]
    file["outward"] = h5py.ExternalLink(str(secret), "/processing")
    file[HAND] = h5py.SoftLink("/outward/behavior/Position/hand")


def outward_data(file, secret):
    shape = file[f"{HAND}/data"].shape
    del file[f"{HAND}/data"]
    file[HAND].create_dataset("data", shape, "f8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def outward_virtual_data(file, secret):
    del file[f"{HAND}/data"]
    layout = h5py.VirtualLayout((200, 2), "f8")
    layout[:] = h5py.VirtualSource(str(secret), f"{HAND}/data", (200, 2))
    file[HAND].create_virtual_dataset("data", layout)


def outward_times(file, secret):
    del file[f"{HAND}/timestamps"]
    file[f"{HAND}/timestamps"] = h5py.ExternalLink(str(secret), f"/{HAND}/timestamps")


@pytest.mark.parametrize(
    "attack",
    [
        outward_link,
        outward_link_behind_a_soft_link,
        outward_data,
        outward_virtual_data,
        outward_times,
    ],
)
def test_nothing_outside_the_file_is_read(tiny, tmp_path, attack):
    secret = write_nwb(tmp_path / "secret.nwb", seed=1)
    damage(tiny, lambda file: attack(file, secret))

    with NwbFile(tiny) as nwb, pytest.raises(HarmonizeError, match="file that is whole"):
        nwb.read_series(HAND)


@pytest.mark.parametrize(
    "place", ["units", "units/spike_times", "units/obs_intervals_index", "units/electrodes_index"]
)
def test_units_that_lie_outside_the_file_are_refused(tiny, tmp_path, place):
    secret = write_nwb(tmp_path / "secret.nwb", seed=1)

    def change(file):
        del file[place]
        file[place] = h5py.ExternalLink(str(secret), f"/{place}")

    with NwbFile(damage(tiny, change)) as nwb, pytest.raises(HarmonizeError, match="is whole"):
        nwb.read_units()


def test_listing_names_outward_links_and_does_not_enter_them(tiny, tmp_path):
    secret = write_nwb(tmp_path / "secret.nwb", seed=1)

    def change(file):
        file["processing/elsewhere"] = h5py.ExternalLink(str(secret), "/processing")
        file["stimulus/gone"] = h5py.ExternalLink("nowhere.nwb", "/")

    with NwbFile(damage(tiny, change)) as nwb:
        links = {entry.path for entry in nwb.listing() if entry.kind == "link"}
        inside = [entry.path for entry in nwb.listing() if "elsewhere/" in entry.path]

    assert links == {"processing/elsewhere", "stimulus/gone"}
    assert inside == []


def test_links_in_a_circle_end(tiny):
    def change(file):
        file["acquisition/a"] = h5py.SoftLink("/acquisition/b")
        file["acquisition/b"] = h5py.SoftLink("/acquisition/a")
        file["processing/behavior/again"] = file["processing"]

    with NwbFile(damage(tiny, change)) as nwb:
        nwb.listing()
        with pytest.raises(HarmonizeError, match="circle"):
            nwb.read_series("acquisition/a")


def test_groups_without_end_do_not_exhaust_the_listing(tiny):
    with NwbFile(damage(tiny, lambda file: file.create_group("processing" + "/x" * 500))) as nwb:
        assert any(entry.path == HAND for entry in nwb.listing())


# ------------------------------------------------------------------ files that are not right


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(HarmonizeError, match="no such file"):
        NwbFile(tmp_path / "none.nwb")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is empty"), (b"<html>not found</html>" * 99, "not an HDF5 file")],
)
def test_a_file_that_is_no_hdf5(tmp_path, content, sentence):
    path = tmp_path / "page.nwb"
    path.write_bytes(content)

    with pytest.raises(HarmonizeError, match=sentence):
        NwbFile(path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(HarmonizeError, match="this is a folder"):
        NwbFile(tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_is_cut_short(tiny, share):
    tiny.write_bytes(tiny.read_bytes()[: int(tiny.stat().st_size * share)])

    with pytest.raises(HarmonizeError, match="cut short"):
        NwbFile(tiny)


def test_whatever_byte_is_damaged_a_file_reads_or_is_refused(original, tmp_path):
    """Errors of libhdf5 have many types and no tree: only trying finds them."""
    path, whole = tmp_path / "a.nwb", original.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        content = bytearray(whole)
        place = int(rng.integers(0, len(content) // 2))  # where the structure lies
        content[place : place + 32] = rng.bytes(32)
        path.write_bytes(content)
        try:
            with NwbFile(path) as nwb:
                nwb.about()
                nwb.read_units()
                for entry in nwb.listing():
                    if entry.kind == "series":
                        nwb.read_series(entry.path)
        except HarmonizeError:
            refused += 1

    assert refused > 2


def test_an_hdf5_file_that_is_not_nwb(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w"):
        pass

    with pytest.raises(HarmonizeError, match="not NWB"):
        NwbFile(tmp_path / "a.h5")


def test_bytes_that_are_damaged_are_told_as_damage(tmp_path):
    path = tmp_path / "a.nwb"
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.6.0"
        series = file.create_group("acquisition/a")
        series.create_dataset("data", data=np.arange(1000.0), chunks=(1000,), fletcher32=True)
        series["starting_time"] = 0.0
        series["starting_time"].attrs["rate"] = 10.0
        chunk = series["data"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as raw:
        raw.seek(chunk + 40)
        raw.write(b"\x12\x34")

    with NwbFile(path) as nwb, pytest.raises(HarmonizeError, match="damaged"):
        nwb.read_series("acquisition/a")


@pytest.mark.parametrize("index", [[200, 200, 201, 206, 210, 999], [200, 199, 201, 206, 210, 214]])
def test_an_index_that_does_not_fit_its_spikes(tiny, index):
    def change(file):
        del file["units/spike_times_index"]
        file["units/spike_times_index"] = np.array(index, np.int64)

    with NwbFile(damage(tiny, change)) as nwb, pytest.raises(HarmonizeError, match="cut or dam"):
        nwb.read_units()


def test_an_index_of_narrow_unsigned_numbers_does_not_wrap(tiny):
    def change(file):
        index = file["units/spike_times_index"][()]
        del file["units/spike_times_index"]
        file["units/spike_times_index"] = index.astype(np.uint8)
        file["units/id"][...] = index

    with NwbFile(damage(tiny, change)) as nwb:
        assert nwb.read_units().spike_bound.tolist() == [0, 200, 200, 201, 206, 210, 214]


def test_an_array_that_claims_more_than_there_is_memory(tiny):
    def change(file):
        del file[f"{HAND}/data"]
        file[HAND].create_dataset("data", (2**40, 2), "f8", chunks=(1024, 2))

    with NwbFile(damage(tiny, change)) as nwb, pytest.raises(HarmonizeError, match="claims"):
        nwb.read_series(HAND)


def test_times_that_do_not_fit_the_values(tiny):
    def change(file):
        del file[f"{HAND}/timestamps"]
        file[f"{HAND}/timestamps"] = np.arange(7.0)

    with NwbFile(damage(tiny, change)) as nwb, pytest.raises(HarmonizeError, match="7 timestamps"):
        nwb.read_series(HAND)


@pytest.mark.parametrize("rate", [0.0, -1.0, np.nan])
def test_a_rate_that_cannot_be(tiny, rate):
    def change(file):
        file[f"{SPEED}/starting_time"].attrs["rate"] = rate

    with NwbFile(damage(tiny, change)) as nwb, pytest.raises(HarmonizeError, match="above 0 Hz"):
        nwb.read_series(SPEED)


def test_a_series_of_words_or_images_is_refused(tiny):
    def change(file):
        for name, data in (("words", ["a", "b"]), ("images", np.zeros((2, 3, 4)))):
            group = file.create_group(f"acquisition/{name}")
            group["data"], group["timestamps"] = data, [0.0, 1.0]

    with NwbFile(damage(tiny, change)) as nwb:
        for name in ("words", "images"):
            with pytest.raises(HarmonizeError, match="only numbers of shape"):
                nwb.read_series(f"acquisition/{name}")


def test_a_wrong_path_is_met_with_the_right_one(tiny):
    with NwbFile(tiny) as nwb:
        with pytest.raises(HarmonizeError, match=f"did you mean '{HAND}'"):
            nwb.read_series("processing/behavior/hand")
        with pytest.raises(HarmonizeError, match="did you mean 'intervals/trials'"):
            nwb.read_table("intervals/trails")


def test_a_file_without_units_is_told_so(tmp_path):
    with (
        NwbFile(write_nwb(tmp_path / "a.nwb", with_units=False)) as nwb,
        pytest.raises(HarmonizeError, match="found none"),
    ):
        nwb.read_units()


def test_units_without_spike_times_are_told_so(tiny):
    def change(file):
        del file["units/spike_times"]

    with (
        NwbFile(damage(tiny, change)) as nwb,
        pytest.raises(HarmonizeError, match="no spike times"),
    ):
        nwb.read_units()


@pytest.mark.parametrize("options", [{}, {"chunks": True}, {"dtype": ">f8"}, {"dtype": "f4"}])
def test_spikes_may_be_changed_and_the_file_is_not(tiny, options):
    """An array that lies in the file in one piece is mapped, any other is read."""

    def change(file):
        values = file["units/spike_times"][()]
        del file["units/spike_times"]
        file.create_dataset("units/spike_times", data=values, **options)

    before = damage(tiny, change).read_bytes()
    with h5py.File(tiny) as file:
        expected = file["units/spike_times"][()].astype(float)
    with NwbFile(tiny) as nwb:
        spikes = nwb.read_spikes(nwb.read_units())

    assert np.array_equal(spikes, expected, equal_nan=True)  # the file is closed
    assert (spikes.dtype, spikes.flags.writeable) == (np.float64, True)
    spikes[:] = 0
    assert tiny.read_bytes() == before
