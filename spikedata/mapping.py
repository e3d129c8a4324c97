"""Files as read-only memory, and mappings whose values are made when they are first asked for."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import TypeVar

import pyarrow as pa

__all__ = ["HUGE", "Lazy", "map_file", "physical_memory"]

HUGE = 2 << 20  # bytes of a huge page; a smaller file has none
Value = TypeVar("Value")


class Lazy(Mapping[str, Value]):
    """A read-only mapping that makes each value at its first use, and then keeps it.

    It pickles, and is copied, as the dict of all its values.

    Parameters
    ----------
    makers : mapping of str to callable, or a callable that returns one
        What makes each value; a callable is asked for the makers at the first use of any.
    """

    __slots__ = ("_makers", "_values")

    def __init__(
        self,
        makers: Mapping[str, Callable[[], Value]] | Callable[[], Mapping[str, Callable[[], Value]]],
    ) -> None:
        self._makers = makers
        self._values: dict[str, Value] = {}

    def _made(self) -> Mapping[str, Callable[[], Value]]:
        if not isinstance(self._makers, Mapping):
            self._makers = self._makers()
        return self._makers

    def __getitem__(self, name: str) -> Value:
        if name not in self._values:
            self._values[name] = self._made()[name]()
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._made()

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())

    def __reduce__(self) -> tuple:
        return dict, (dict(self),)

    def __copy__(self) -> dict[str, Value]:
        return dict(self)

    def __repr__(self) -> str:
        return repr(dict(self))


# ------------------------------------------------------------------ mapped files


def _load_libc() -> ctypes.CDLL | None:
    """Return the C library, where it maps files as POSIX says."""
    if os.name != "posix":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    number, size = ctypes.c_int, ctypes.c_size_t
    libc.mmap.argtypes = [ctypes.c_void_p, size, number, number, number, ctypes.c_long]
    libc.mmap.restype = ctypes.c_void_p
    libc.munmap.argtypes = [ctypes.c_void_p, size]
    libc.madvise.argtypes = [ctypes.c_void_p, size, number]
    return libc


_LIBC = _load_libc()
_UNMAP = _LIBC and _LIBC.munmap
_FAILED = ctypes.c_void_p(-1).value
# Not blocking: nobody writes to a pipe that was put in the place of a file.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class _Pages:
    """The mapped pages of one file, unmapped when nothing views them any more."""

    __slots__ = ("address", "size")

    def __init__(self, address: int, size: int) -> None:
        self.address, self.size = address, size

    def __del__(self, unmap: Callable[[int, int], int] = _UNMAP) -> None:  # type: ignore[assignment]
        unmap(self.address, self.size)


def map_file(path: str, *, huge_pages: bool = False) -> pa.Buffer:
    """Return a file as read-only memory; nothing of it is read until it is touched.

    No descriptor stays open, unlike with `mmap.mmap`: a thousand recordings of a dozen files
    would need more than many systems allow a process.

    Parameters
    ----------
    path : str
        The file.
    huge_pages : bool
        Ask the system to read and map a file of `HUGE` bytes or more in huge pages.

    Raises
    ------
    OSError
        If it is not there, or cannot be read or mapped.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size == 0:
            return pa.py_buffer(b"")
        if _LIBC is None:
            return pa.py_buffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(descriptor)
    pages = _Pages(address, size)
    if huge_pages and size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        _LIBC.madvise(address, size, mmap.MADV_HUGEPAGE)  # a wish, which a kernel may refuse
    return pa.foreign_buffer(address, size, pages)


@cache
def physical_memory() -> int:
    """Return the bytes of memory of this machine, 0 where the system does not tell."""
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0
