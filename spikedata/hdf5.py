"""Reads groups and arrays of an HDF5 file that nobody vouches for.

A link or an array that would make the library open another file is refused, before it is
followed: a path given by a stranger must not decide what is read on this machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

from spikedata.errors import HarmonizeError, SpikedataError
from spikedata.files import Source

__all__ = ["Hdf5File", "number_of", "text_of"]

Result = TypeVar("Result")

MAX_BYTES = 16 * 2**30  # one array; a hostile file can claim any shape in a few bytes
EXPANSION = 250  # bytes read of a file for each byte that it has; deflate alone can give 1032
LEAST_BYTES = 2**27  # that can be read of any file, however small
CHUNK_COST = 4096  # bytes that libhdf5 was seen to take for each chunk of an array while it reads
TEXT_COST = 64  # bytes at least that a text takes while it is read
TEXT_STEP = 2**28  # bytes that a step of reading texts takes at most
MAX_LINKS = 16  # soft links followed one after another


class Hdf5File:
    """An HDF5 file, open for reading, whose links cannot leave it; use it in a ``with`` statement.

    Whatever libhdf5 says of a broken file inside that statement becomes a HarmonizeError.

    Parameters
    ----------
    source : Path or binary file
        The file.

    Raises
    ------
    HarmonizeError
        If it does not exist, is not HDF5, or is cut short.
    """

    def __init__(self, source: Source) -> None:
        path = Path(source.name if not isinstance(source, Path) else source)
        self.name = path.name
        self._local = source if isinstance(source, Path) else None
        try:
            if isinstance(source, Path):
                self.root = _open_for_reading(source)
            else:
                self.root = h5py.File(source, "r")
            self.size = int(self.root.id.get_filesize())  # bytes
        except FileNotFoundError:
            raise HarmonizeError(f"{path}: there is no such file.") from None
        except (OSError, RuntimeError, ValueError) as error:
            raise HarmonizeError(f"{path.name}: {_why_not_open(path, error)}") from None
        self._left = max(LEAST_BYTES, EXPANSION * self.size)

    def __enter__(self) -> Hdf5File:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if _is_damage(error):
            raise HarmonizeError(
                f"{self.name}: the file is damaged ({error}); fetch it again."
            ) from error

    def close(self) -> None:
        """Close the file."""
        self.root.close()

    def names(self, path: str = "") -> list[str]:
        """Return the names in the group at `path`; none for an array or where nothing is.

        Never ask ``name in group`` of h5py: it follows a link that leaves the file. A name that
        is not text in UTF-8 is left out: nothing can ask for it.
        """
        node = self.find(path)
        return [one for one in node if isinstance(one, str)] if isinstance(node, h5py.Group) else []

    def length(self, path: str) -> int:
        """Return the number of rows of the array at `path`, or raise when it has none."""
        data = self.dataset(path)
        if not data.shape:
            raise HarmonizeError(f"{self.name}: `{path}` holds one value, expected a row of them.")
        return int(data.shape[0])

    def open(self, path: str) -> h5py.Group | h5py.Dataset:
        """Return the object at `path`, or raise when there is none."""
        node = self.find(path)
        if node is None:
            raise HarmonizeError(f"{self.name}: there is no `{path}` in this file.")
        return node

    def find(self, path: str) -> h5py.Group | h5py.Dataset | None:
        """Return the object at `path`, or None; no link is followed out of the file."""
        return self._follow([part for part in path.split("/") if part], path, MAX_LINKS)

    def _follow(self, parts: list[str], asked: str, left: int) -> h5py.Group | h5py.Dataset | None:
        node: h5py.Group | h5py.Dataset = self.root
        for depth, part in enumerate(parts):
            link = _link(node, part)
            if link is None:
                return None
            if isinstance(link, h5py.SoftLink) and left > 0:
                target = [step for step in link.path.split("/") if step not in ("", ".")]
                base = [] if link.path.startswith("/") else parts[:depth]
                return self._follow([*base, *target, *parts[depth + 1 :]], asked, left - 1)
            if not isinstance(link, h5py.HardLink):
                raise HarmonizeError(
                    f"{self.name}: `{asked}` is a link that leaves the file or leads in a "
                    "circle; such links are not followed. Ask for a file that is whole."
                )
            step = node[part] if isinstance(node, h5py.Group) else None
            if not isinstance(step, h5py.Group | h5py.Dataset):
                return None  # a named type
            node = step
        return node

    def address(self, node: h5py.Group | h5py.Dataset) -> int:
        """Return a number that is the same for all hard links to one object."""
        return int(h5o.get_info(node.id).addr)

    def behind(self, reference: object, asked: str) -> h5py.Dataset:
        """Return the array that an object reference points to, unread, if it lies in this file.

        ``asked`` says in the error where the reference stood.

        Raises
        ------
        HarmonizeError
            If it points at nothing or at a group, or the values lie outside the file.
        """
        try:
            node = self.root[reference] if type(reference) is h5py.Reference else None
        except (KeyError, TypeError, ValueError, OSError, RuntimeError):
            node = None
        if not isinstance(node, h5py.Dataset):
            raise HarmonizeError(
                f"{self.name}: a reference in `{asked}` does not lead to an array of this file; "
                "the file is damaged."
            )
        return self._inside(node, asked)

    def text_behind(self, reference: object, attribute: str) -> str:
        """Return an attribute, as text, of the object that an object reference points to."""
        if not isinstance(reference, h5py.Reference):  # a text would be taken for a path
            return ""
        try:
            return text_of(self.root[reference].attrs.get(attribute, ""))
        except (KeyError, TypeError, ValueError):  # a reference to nothing, or none at all
            return ""

    def name_behind(self, reference: object) -> str:
        """Return the last step of the path of the object that an object reference points to."""
        if not isinstance(reference, h5py.Reference):
            return ""
        try:
            return str(self.root[reference].name).rsplit("/", 1)[-1]
        except (KeyError, TypeError, ValueError):  # a reference to nothing, or none at all
            return ""

    def dataset(self, path: str) -> h5py.Dataset:
        """Return the array at `path`, unread, if its values lie in this file."""
        data = self.open(path)
        if not isinstance(data, h5py.Dataset):
            raise HarmonizeError(f"{self.name}: `{path}` is a group, expected an array.")
        return self._inside(data, path)

    def _inside(self, data: h5py.Dataset, asked: str) -> h5py.Dataset:
        if data.is_virtual or data.external is not None:
            raise HarmonizeError(
                f"{self.name}: the values of `{asked}` lie outside the file; such arrays "
                "are not read. Ask for a file that is whole."
            )
        return data

    def read_floats(self, data: h5py.Dataset) -> np.ndarray:
        """Return a whole array of numbers as float64, in one read and one piece of memory."""
        return self.read_floats_of([data]).reshape(data.shape or ())

    def map_floats(self, data: h5py.Dataset) -> np.ndarray:
        """Return a whole array of numbers as float64, to be changed at will.

        Where the file holds just that, in one piece, it is mapped: no memory is taken but for
        what is changed, and the file is not. Otherwise it is read.
        """
        place, size = data.id.get_offset(), 8 * int(data.size or 0)
        whole = data.chunks is None and data.dtype == "<f8" and not self.root.userblock_size
        if self._local is None or not whole or not size or place is None or place % 8:
            return self.read_floats(data)
        if place + size > self.size:
            raise HarmonizeError(
                f"{self.name}: `{data.name}` would end after the file does; it is cut or damaged: "
                "fetch it again."
            )
        return np.asarray(np.memmap(self._local, "<f8", "c", place, data.shape))

    def read_floats_of(self, arrays: Sequence[h5py.Dataset]) -> np.ndarray:
        """Return the numbers of several arrays end to end, as float64, in one piece of memory."""
        for data in arrays:
            if data.dtype.kind not in "fiub" or data.shape is None:
                raise HarmonizeError(
                    f"{self.name}: `{data.name}` holds {data.dtype.name} of shape {data.shape}, "
                    "expected numbers."
                )
        count = sum(int(data.size or 0) for data in arrays)
        for data in arrays:
            self._take_bytes(data, 8 * int(data.size or 0))
        values = np.empty(count, np.float64)
        end = 0
        for data in arrays:
            begin, end = end, end + int(data.size or 0)
            part = values[begin:end].reshape(data.shape)
            if part.size:
                self._guarded(data, partial(data.read_direct, part))
        return values

    def read(self, data: h5py.Dataset) -> np.ndarray:
        """Return a whole array of numbers, texts (as str) or references.

        Numbers come in the byte order of this machine, floats as float32 or float64.

        Raises
        ------
        HarmonizeError
            If it holds anything else, or more bytes than a file of this size can hold.
        """
        if h5py.check_string_dtype(data.dtype) is not None:
            return self._read_texts(data)
        kind, count = data.dtype, int(data.size or 0)
        if data.shape is None or (kind.kind not in "fiub" and h5py.check_ref_dtype(kind) is None):
            raise HarmonizeError(
                f"{self.name}: `{data.name}` holds {kind.name} of shape {data.shape}, expected "
                "numbers or text."
            )
        self._take_bytes(data, count * max(kind.itemsize, 1))
        values = self._guarded(data, lambda: np.asarray(data[()]))
        if values.dtype.kind == "f" and values.dtype not in (np.float32, np.float64):
            return values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64)
        return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))

    def _read_texts(self, data: h5py.Dataset) -> np.ndarray:
        """Return an array of texts, in steps: many rows can lead to one same long text."""
        shape, count = data.shape, int(data.size or 0)
        self._take_bytes(data, count * max(TEXT_COST, data.dtype.itemsize))
        if shape is None or not count:
            return np.zeros(shape or (0,), "U1")
        texts = data.asstr(errors="replace")
        if not shape:
            return np.asarray(self._guarded(data, lambda: texts[()]), str)
        wide = max(min(self.size, 2**16), data.dtype.itemsize)
        step = max(1, TEXT_STEP // (wide * (count // shape[0])))
        found, longest = [], 1
        for row in range(0, shape[0], step):
            found.append(self._guarded(data, partial(texts.__getitem__, slice(row, row + step))))
            longest = max(longest, *(len(one) for one in found[-1].flat))
            self._check_bytes(data, 4 * longest * count)  # what numpy takes for them
        self._left -= 4 * longest * count
        return np.concatenate(found).astype(f"U{longest}")

    def _take_bytes(self, data: h5py.Dataset, size: int) -> None:
        """Count bytes that are read, and refuse more than the file can hold."""
        if data.shape and data.chunks:
            sides = zip(data.shape, data.chunks, strict=True)
            size += CHUNK_COST * math.prod(-(-side // chunk) for side, chunk in sides)
        self._check_bytes(data, size)
        self._left -= size

    def _check_bytes(self, data: h5py.Dataset, size: int) -> None:
        if size > min(MAX_BYTES, self._left):
            raise HarmonizeError(
                f"{self.name}: `{data.name}` claims {size:,} bytes, more than the "
                f"{MAX_BYTES:,} that are read at once, or than a file of {self.size:,} bytes can "
                "hold; the file is damaged, or was made to exhaust the memory."
            )

    def _guarded(self, data: h5py.Dataset, read: Callable[[], Result]) -> Result:
        """Return what `read` returns, or say that the array is damaged."""
        try:
            return read()
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            raise HarmonizeError(
                f"{self.name}: `{data.name}` cannot be read ({error}); the file is damaged."
            ) from None


def _is_damage(error: BaseException | None) -> bool:
    """Return whether an error is how libhdf5 says that a file's structure is broken."""
    if isinstance(error, SpikedataError):  # some are OSErrors: a stream that broke off
        return False
    if isinstance(error, KeyError):
        return "nable to" in str(error)  # "Unable to synchronously open object (…)"
    return isinstance(error, OSError | RuntimeError)


def text_of(value: object) -> str:
    """Return an attribute or a value as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def number_of(value: object) -> float | None:
    """Return an attribute or a value as a finite float, or None."""
    try:
        number = float(np.asarray(value).reshape(()))
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _link(
    node: h5py.Group | h5py.Dataset, name: str
) -> h5py.HardLink | h5py.SoftLink | h5py.ExternalLink | None:
    """Return the link of that name in `node`, without following it, or None."""
    if not isinstance(node, h5py.Group):
        return None
    try:
        link: object = node.get(name, getlink=True)
    except TypeError:  # a kind of link that h5py does not know: as if it led outside
        return h5py.ExternalLink("", "")
    if isinstance(link, h5py.HardLink | h5py.SoftLink | h5py.ExternalLink):
        return link
    return None


def _open_for_reading(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "lock" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)  # file systems that cannot lock


def _why_not_open(path: Path, error: Exception) -> str:
    if not path.exists():  # an open file of another kind
        return f"this cannot be read as HDF5 ({error})."
    if path.is_dir():
        return "this is a folder, expected an NWB file."
    if path.stat().st_size == 0:
        return "the file is empty; fetch it again."
    if "truncated" in str(error):
        return f"the file is cut short at {path.stat().st_size:,} bytes; fetch it again."
    if "signature" in str(error):
        return "this is not an HDF5 file, so it cannot be read as NWB."
    return f"the file cannot be opened ({error})."
