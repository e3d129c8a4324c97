"""Reads the variables of a MATLAB file of version 7.3, which is HDF5, as plain arrays.

HDF5 shows MATLAB's arrays transposed: here they have MATLAB's own shape again. A cell array is
an array of references to what its cells hold; they are followed by `spikedata.hdf5` alone, and
only to arrays of numbers or characters. Structs and objects are not read.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from spikedata.errors import HarmonizeError, did_you_mean
from spikedata.files import Source
from spikedata.hdf5 import Hdf5File, number_of, text_of

__all__ = ["MatlabFile"]

MAX_CELLS = 100_000  # the largest cell array that was seen has 192 x 5


class MatlabFile:
    """A MATLAB v7.3 file that is open for reading; use it in a ``with`` statement.

    Parameters
    ----------
    source : Path or binary file
        The file, or an open one that can seek and has a ``name``.

    Raises
    ------
    HarmonizeError
        If it is no HDF5 file or is cut short.
    """

    def __init__(self, source: Source) -> None:
        self._h5 = Hdf5File(source)
        self.path = Path(self._h5.name)

    def __enter__(self) -> MatlabFile:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._h5.__exit__(kind, error, trace)

    def numbers(self, name: str) -> np.ndarray:
        """Return a matrix of numbers (float64, shape as in MATLAB).

        Raises
        ------
        HarmonizeError
            If there is no such variable, or it holds anything else.
        """
        data = self._variable(name)
        if _is_empty(data):
            return np.empty((0, 0))
        self._check(data, name, "fiu", "a matrix of numbers")
        return self._h5.read_floats(data).T

    def cells(self, name: str) -> list[list[Cell]]:
        """Return the cells of a cell array, row by row as in MATLAB, unread.

        Raises
        ------
        HarmonizeError
            If there is no such variable, it is no matrix of cells or has more than 100,000, or
            a cell does not lead to an array of this file.
        """
        data = self._variable(name)
        if h5py.check_ref_dtype(data.dtype) is not h5py.Reference or data.ndim != 2:
            raise HarmonizeError(
                f"{self.path.name}: `{name}` holds {data.dtype.name} of shape {data.shape}, "
                "expected a matrix of cells."
            )
        if (data.size or 0) > MAX_CELLS:
            raise HarmonizeError(
                f"{self.path.name}: `{name}` claims {data.size:,} cells, more than the "
                f"{MAX_CELLS:,} that are read."
            )
        references = self._h5.read(data).T
        return [
            [Cell(self, f"{name}{{{row},{column}}}", self._h5.behind(one, name))
             for column, one in enumerate(line, 1)]
            for row, line in enumerate(references.tolist(), 1)
        ]  # fmt: skip

    def read_trains(self, cells: list[Cell]) -> np.ndarray:
        """Return the values of several cells end to end (float64), in one piece of memory."""
        return self._h5.read_floats_of([cell.data for cell in cells])

    def _variable(self, name: str) -> h5py.Dataset:
        known = [one for one in self._h5.names() if not one.startswith("#")]
        if name not in known:
            raise HarmonizeError(
                f"{self.path.name}: there is no variable '{name}' in this file; "
                f"{did_you_mean(name, known)}"
            )
        return self._h5.dataset(name)

    def _check(self, data: h5py.Dataset, name: str, kinds: str, expected: str) -> None:
        if data.dtype.kind not in kinds or data.ndim != 2:
            raise HarmonizeError(
                f"{self.path.name}: `{name}` holds {data.dtype.name} of shape {data.shape}, "
                f"expected {expected}."
            )


class Cell:
    """One cell of a cell array, known by its place in MATLAB (``name{row,column}``), unread."""

    def __init__(self, file: MatlabFile, place: str, data: h5py.Dataset) -> None:
        self.file, self.place, self.data = file, place, data

    @property
    def is_empty(self) -> bool:
        """Whether the cell holds no value: MATLAB stores the shape of an empty array in its place.

        Read as values, that shape would be two spikes at 0 and 1 s.
        """
        return _is_empty(self.data)

    def vector_length(self) -> int:
        """Return how many numbers the cell holds, if it is a row or a column of floats.

        Raises
        ------
        HarmonizeError
            If it holds anything else.
        """
        self.file._check(self.data, self.place, "f", "a column of times")
        if min(self.data.shape) != 1:
            raise HarmonizeError(
                f"{self.file.path.name}: `{self.place}` has the shape {self.data.shape[::-1]}, "
                "expected one column or one row."
            )
        return int(self.data.size or 0)

    def text(self) -> str:
        """Return a row of characters as text.

        Raises
        ------
        HarmonizeError
            If it holds anything else.
        """
        self.file._check(self.data, self.place, "u", "characters")
        if text_of(self.data.attrs.get("MATLAB_class", "char")) != "char" or self.is_empty:
            raise HarmonizeError(f"{self.file.path.name}: `{self.place}` holds no characters.")
        if (self.data.size or 0) > MAX_CELLS:
            raise HarmonizeError(
                f"{self.file.path.name}: `{self.place}` claims {self.data.size:,} characters."
            )
        codes = self.file._h5.read(self.data).ravel()
        return codes.astype("<u2").tobytes().decode("utf-16-le", "replace")


def _is_empty(data: h5py.Dataset) -> bool:
    return bool(number_of(data.attrs.get("MATLAB_empty", 0))) or not data.size
