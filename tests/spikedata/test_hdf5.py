"""What a hostile or broken file may not do, one claim each; `test_fuzz` looks for more."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from spikedata.errors import FetchError, HarmonizeError
from spikedata.hdf5 import EXPANSION, LEAST_BYTES, Hdf5File


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "small.h5"


def test_a_claim_that_the_file_cannot_hold_is_refused(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (LEAST_BYTES // 8 + 1,), "f8", chunks=(1000,))
    with Hdf5File(path) as file, pytest.raises(HarmonizeError, match="claims 202,940,424 bytes"):
        file.read(file.dataset("x"))


def test_chunks_cost_memory_too(path):
    """libhdf5 takes 8 GB to read 64 MB in chunks of four numbers, which a flipped bit can claim."""
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (2**20,), "i8", chunks=(4,))
    with Hdf5File(path) as file, pytest.raises(HarmonizeError, match="claims 1,082,130,432 bytes"):
        file.read(file.dataset("x"))


def test_what_is_read_in_all_has_the_same_bound(path):
    """Ten arrays may not claim together what one may not."""
    count = LEAST_BYTES // 8 // 4 - 512
    with h5py.File(path, "w") as file:
        for name in "abcde":
            file.create_dataset(name, (count,), "f8", chunks=(count,))
    with Hdf5File(path) as file:
        for name in "abcd":
            file.read_floats(file.dataset(name))
        with pytest.raises(HarmonizeError, match="than a file of"):
            file.read_floats(file.dataset("e"))


def test_a_file_may_hold_what_it_has_bytes_for(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(2**18, dtype=np.float64)
    with Hdf5File(path) as file:
        assert file.size * EXPANSION > LEAST_BYTES
        for _ in range(200):
            file.read(file.dataset("x"))


def test_many_rows_of_one_long_text_are_refused_before_they_are_read(path):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", (10_000,), h5py.string_dtype())
        data[...] = ["y" * 100_000, *[""] * 9999]
    with Hdf5File(path) as file, pytest.raises(HarmonizeError, match="claims 4,000,000,000 bytes"):
        file.read(file.dataset("x"))


def test_texts_are_read_whole_whatever_the_step(path, monkeypatch):
    texts = [f"ä{number}" * (number % 7) for number in range(300)]
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=texts, dtype=h5py.string_dtype())
        file.create_dataset(
            "two", data=np.reshape(np.array(texts, object), (150, 2)), dtype=h5py.string_dtype()
        )
        file["fixed"] = np.array(["ab", "c"], "S5")
        file["one"] = "alone"
    monkeypatch.setattr("spikedata.hdf5.TEXT_STEP", 2**17)
    with Hdf5File(path) as file:
        assert file.read(file.dataset("x")).tolist() == texts
        assert file.read(file.dataset("two")).ravel().tolist() == texts
        assert file.read(file.dataset("fixed")).tolist() == ["ab", "c"]
        assert file.read(file.dataset("one")).tolist() == "alone"


@pytest.mark.parametrize(
    "values",
    [np.zeros(3, [("a", "f8"), ("b", "i4")]), np.zeros(3, "c16"), np.zeros(3, "V7")],
    ids=["compound", "complex", "opaque"],
)
def test_what_is_neither_number_nor_text_is_refused(path, values):
    with h5py.File(path, "w") as file:
        file["x"] = values
        file["nothing"] = h5py.Empty("f8")
    with Hdf5File(path) as file:
        for name in ("x", "nothing"):
            with pytest.raises(HarmonizeError, match="expected numbers"):
                file.read(file.dataset(name))
            with pytest.raises(HarmonizeError, match="expected numbers"):
                file.read_floats(file.dataset(name))


@pytest.mark.parametrize(
    ("stored", "read"), [(">f8", "f8"), (">i2", "i2"), ("f2", "f4"), (np.longdouble, "f8")]
)
def test_numbers_come_as_this_machine_and_arrow_have_them(path, stored, read):
    with h5py.File(path, "w") as file:
        file["x"] = np.array([1, 2, 3], stored)
    with Hdf5File(path) as file:
        found = file.read(file.dataset("x"))

        assert (found.dtype, found.tolist()) == (np.dtype(read), [1, 2, 3])


def test_a_name_that_is_no_text_is_left_out(path):
    with h5py.File(path, "w") as file:
        file["good"], file[b"bad\xff"] = 1, 2
    with Hdf5File(path) as file:
        assert file.names() == ["good"]


def test_an_array_without_rows_has_no_length(path):
    with h5py.File(path, "w") as file:
        file["one"], file["nothing"], file["rows"] = 1.0, h5py.Empty("f8"), np.zeros((3, 2))
    with Hdf5File(path) as file:
        assert file.length("rows") == 3
        for name in ("one", "nothing"):
            with pytest.raises(HarmonizeError, match="expected a row of them"):
                file.length(name)


def test_what_libhdf5_says_of_a_broken_file_is_told_once(path):
    with h5py.File(path, "w") as file:
        file["x"] = 1.0
    with pytest.raises(HarmonizeError, match="damaged \\(bad heap\\)"), Hdf5File(path):
        raise RuntimeError("bad heap")
    with pytest.raises(FetchError), Hdf5File(path):
        raise FetchError("the stream broke off")
    with pytest.raises(KeyError), Hdf5File(path):
        raise KeyError("a mistake of ours")


def test_numbers_that_would_end_after_the_file_are_not_mapped(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.arange(100.0)
    with Hdf5File(tmp_path / "a.h5") as h5:
        assert h5.map_floats(h5.dataset("a")).tolist() == list(range(100))
        h5.size = 100
        with pytest.raises(HarmonizeError, match="end after the file does"):
            h5.map_floats(h5.dataset("a"))
