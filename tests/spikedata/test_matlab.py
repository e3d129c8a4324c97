from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest

from spikedata.errors import HarmonizeError
from spikedata.matlab import MatlabFile


@pytest.fixture
def file(tmp_path) -> Path:
    """Write a file with a matrix, a cell array of 2 x 1, and cells of every wrong kind."""
    path = tmp_path / "small.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        references = file.create_group("#refs#")
        file["m"] = np.arange(6.0).reshape(2, 3)
        full = references.create_dataset("b", data=np.array([[0.5, 1.5]]))
        empty = references.create_dataset("c", data=np.array([0, 1], np.uint64))
        empty.attrs["MATLAB_empty"] = np.uint8(1)
        text = references.create_dataset("d", data=np.array([[77], [49]], np.uint16))
        text.attrs["MATLAB_class"] = np.bytes_("char")
        outside = references.create_dataset(
            "e", (1, 4), np.float64, external=[("/etc/hostname", 0, 32)]
        )
        layout = h5py.VirtualLayout((1, 4), np.float64)
        layout[:] = h5py.VirtualSource("other.h5", "x", (1, 4))
        virtual = references.create_virtual_dataset("f", layout)
        _cells(file, "cells", [[full.ref, empty.ref]])
        _cells(file, "text", [[text.ref]])
        _cells(file, "nothing", [[h5py.Reference()]])
        _cells(file, "group", [[references.ref]])
        _cells(file, "root", [[file.ref]])
        _cells(file, "outside", [[outside.ref]])
        _cells(file, "virtual", [[virtual.ref]])
        _cells(file, "itself", [[full.ref]])
        file["itself"][0, 0] = file["itself"].ref
        file.create_dataset("many", (1000, 1000), h5py.ref_dtype, chunks=(10, 10))
        file.create_dataset("regions", (1, 1), h5py.regionref_dtype)
    return path


def _cells(file: h5py.File, name: str, references: list) -> None:
    data = file.create_dataset(name, np.shape(references), h5py.ref_dtype)
    data[...] = np.array(references, h5py.ref_dtype)


def test_a_matrix_has_the_shape_that_it_has_in_matlab(file):
    with MatlabFile(file) as mat:
        assert mat.numbers("m").tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_a_file_can_be_streamed(file):
    class Named(io.BytesIO):
        name = "streamed.mat"

    with MatlabFile(Named(file.read_bytes())) as mat:
        assert mat.numbers("m").shape == (3, 2)


def test_an_empty_cell_is_not_the_shape_that_stands_for_it(file):
    with MatlabFile(file) as mat:
        (full,), (empty,) = mat.cells("cells")

        assert (full.is_empty, full.vector_length(), empty.is_empty) == (False, 2, True)
        assert mat.read_trains([full, full]).tolist() == [0.5, 1.5, 0.5, 1.5]


def test_characters_become_text(file):
    with MatlabFile(file) as mat:
        assert mat.cells("text")[0][0].text() == "M1"


@pytest.mark.parametrize("name", ["nothing", "group", "root"])
def test_a_reference_that_leads_to_no_array_is_refused(file, name):
    with pytest.raises(HarmonizeError, match="does not lead to an array"), MatlabFile(file) as mat:
        mat.cells(name)


@pytest.mark.parametrize("name", ["outside", "virtual"])
def test_a_reference_cannot_lead_out_of_the_file(file, name):
    with pytest.raises(HarmonizeError, match="lie outside the file"), MatlabFile(file) as mat:
        mat.cells(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("itself", "`itself{1,1}` holds object"),
        ("m", "expected a matrix of cells"),
        ("regions", "expected a matrix of cells"),
        ("many", "claims 1,000,000 cells"),
        ("mm", "did you mean 'm'"),
        ("#refs#", "no variable '#refs#'"),
    ],
)
def test_what_is_not_asked_for_is_refused(file, name, message):
    with pytest.raises(HarmonizeError) as caught, MatlabFile(file) as mat:
        mat.cells(name)[0][0].vector_length()

    assert message in str(caught.value)


def test_numbers_are_not_taken_for_text_nor_text_for_times(file):
    with MatlabFile(file) as mat:
        with pytest.raises(HarmonizeError, match="expected characters"):
            mat.cells("cells")[0][0].text()
        with pytest.raises(HarmonizeError, match="expected a column of times"):
            mat.cells("text")[0][0].vector_length()
        with pytest.raises(HarmonizeError, match="expected a matrix of numbers"):
            mat.numbers("cells")


def test_a_matlab_file_of_an_older_version_is_refused(tmp_path):
    path = tmp_path / "old.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file, Platform: PCWIN64".ljust(600))

    with pytest.raises(HarmonizeError, match="not an HDF5 file"):
        MatlabFile(path)
