"""The far end of a copy: a folder on this machine or on a server, as far as fsspec reaches.

What it says is not trusted: only names that a store could have given are taken from a listing,
paths are built from those alone, and a file is read no further than its reader asks. Errors of
whatever library is behind it become ours, and none of them shows a password or a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from spikedata.errors import SpikedataError, StoreError
from spikedata.layout import NAME

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["AbsentError", "FarEnd", "redacted"]

CHUNK = 4 << 20  # bytes read or written at a time
SILENCE = 60  # s without a byte after which a web server is given up
SECRET = re.compile(r"key|secret|token|pass|auth|sig|cred", re.IGNORECASE)
USERINFO = re.compile(r"""(?<=://)(?:[^/\s'"<>?#@]*|[^\s'"<>?#@]*:[^\s'"<>@]*)@""")
QUERY = re.compile(r"""(?P<address>\w[\w+.-]*://[^\s'"<>?]*)\?[^\s'"<>]*""")


class AbsentError(StoreError):
    """The far end has no such file."""


def redacted(text: str) -> str:
    """Return a text whose addresses show neither user and password nor a query.

    Examples
    --------
    >>> redacted("no https://me:secret@host/a?sig=1 here")
    'no https://***@host/a?*** here'
    """
    return QUERY.sub(r"\g<address>?***", USERINFO.sub("***@", text))


class FarEnd:
    """A folder of recordings somewhere, laid out as a store: ``<dataset>/<session>/<files>``.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``, ``https://host/path``, a plain path, or whatever else fsspec knows.
        Nothing is asked of it yet.
    options : mapping, optional
        What fsspec is given beside it, such as ``{"anon": True}``.

    Attributes
    ----------
    name : str
        The address as messages may show it.
    folder : Path or None
        Where it is, if it is a folder of this machine.

    Raises
    ------
    StoreError
        If fsspec, or what it needs for this kind of address, is not installed.
    """

    def __init__(self, url: str, options: Mapping[str, object] | None = None) -> None:
        self.name = redacted(url).rstrip("/") or "/"
        self._secrets = sorted(_secrets(url, options or {}), key=len, reverse=True)
        is_web = url.startswith(("http://", "https://"))
        bare, mark, query = url.partition("?") if is_web else (url, "", "")
        self._query, self._is_web = mark + query, is_web
        try:
            from fsspec.core import url_to_fs
            from fsspec.implementations.local import LocalFileSystem

            given: dict[str, Any] = {**(_patience() if is_web else {}), **(options or {})}
            self._files, root = _opened(url_to_fs, bare, given)
        except ImportError as error:
            raise StoreError(
                f"{self.name} cannot be reached: {self._told(error)}; install it, or "
                "`pip install 'neural-spikedata[remote]'` for what all of them need."
            ) from None
        except Exception as error:  # whatever the library for this kind of address raises
            raise StoreError(f"{self.name} cannot be reached: {self._told(error)}.") from None
        self._root = root.rstrip("/")
        self.folder = Path(root) if isinstance(self._files, LocalFileSystem) else None

    def ids(self) -> list[str]:
        """Return the ids of what may be recordings, sorted: whether they are, their header says.

        Raises
        ------
        StoreError
            If there is no such folder, or it cannot be listed.
        """
        found: list[str] = []
        self._files.invalidate_cache()
        try:
            datasets = self._names()
        except AbsentError:
            raise StoreError(
                f"{self.name} is not there, or cannot be listed: check it, or name each recording "
                "as <dataset>/<session>."
            ) from None
        for dataset in datasets:
            with suppress(AbsentError):  # it has just gone
                found += [f"{dataset}/{session}" for session in self._names(dataset)]
        return sorted(set(found))

    def read(self, recording_id: str, name: str) -> Iterator[bytes]:
        """Yield the bytes of a file, of which no more is read than is asked for.

        Raises
        ------
        AbsentError
            If there is no such file.
        StoreError
            If it cannot be read.
        """
        path = self._path(recording_id, name)
        if self.folder is not None and not Path(path).is_file():  # to open a pipe waits for ever
            raise AbsentError(f"There is no file {self._told(path)}.")
        how: dict[str, Any] = {"cache_type": "readahead"} if self._is_web else {}  # nothing twice
        with self._translated(path), self._files.open(path, "rb", 2 * CHUNK, **how) as file:
            while chunk := cast(bytes, file.read(CHUNK)):
                yield chunk

    def write(self, recording_id: str, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file, in the place of one of that name.

        Raises
        ------
        StoreError
            If it cannot be written, or has another size afterwards.
        """
        path, count = self._path(recording_id, name), 0
        try:
            with self._translated(path):
                file = self._writing(path, recording_id)
        except AbsentError:
            raise StoreError(
                f"{self.name} cannot be written to, for it is not there; make the bucket or the "
                "folder first."
            ) from None
        try:
            for chunk in chunks:  # its own errors pass as they are
                with self._translated(path):
                    file.write(chunk)
                count += len(chunk)
        finally:
            with self._translated(path):
                file.close()
        with self._translated(path):
            self._files.invalidate_cache()
            found = self._files.info(path)["size"]
        if found != count:
            raise StoreError(
                f"{self._told(path)} has {found} bytes after {count} were written; push it again."
            )

    def remove(self, recording_id: str, name: str) -> None:
        """Remove a file, if it is there."""
        path = self._path(recording_id, name)
        with suppress(AbsentError), self._translated(path):
            self._files.rm_file(path)

    # -------------------------------------------------------------- paths and errors

    def _path(self, *steps: str) -> str:
        return "/".join([self._root, *steps]) + self._query

    def _names(self, *steps: str) -> list[str]:
        """Return the names of the folders in a folder that a store could have given."""
        path = self._path(*steps)
        with self._translated(path):
            entries = self._files.ls(path, detail=True)
        folders = [one for one in entries if self._is_web or one.get("type") != "file"]
        last = [str(one["name"]).rstrip("/").rpartition("/")[2] for one in folders]
        return [name for name in last if re.fullmatch(NAME, name)]

    def _writing(self, path: str, recording_id: str) -> Any:
        """Open a file for writing; make its folders where they must be made. Not the root."""
        try:
            return self._files.open(path, "wb")
        except FileNotFoundError:
            for steps in (recording_id.split("/")[:1], [recording_id]):
                with suppress(FileExistsError):
                    self._files.mkdir(self._path(*steps), create_parents=False)
            return self._files.open(path, "wb")

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        """Turn what a library raises into errors of ours that show no secret."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise AbsentError(f"There is no {self._told(path)}.") from None
        except (SpikedataError, MemoryError):
            raise
        except NotImplementedError:
            raise StoreError(f"{self.name} can only be read.") from None
        except Exception as error:  # botocore, aiohttp, paramiko, …: each has a tree of its own
            raise StoreError(f"{self._told(path)}: {self._told(error)}.") from None

    def _told(self, what: str | Exception) -> str:
        """Return a text, or what an error says, without secrets, as the part of a sentence."""
        text = str(what) or type(what).__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return redacted(text).rstrip(".")


def _opened(
    url_to_fs: Any, url: str, options: Mapping[str, object]
) -> tuple[AbstractFileSystem, str]:
    return url_to_fs(url, **options)


def _patience() -> dict[str, object]:
    """Return options with which a long answer of a web server is not cut after five minutes."""
    from aiohttp import ClientTimeout

    return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_read=SILENCE)}}


def _secrets(url: str, options: Mapping[str, object]) -> set[str]:
    """Return the texts of an address and its options that no message may show."""
    found: set[str] = set()
    with suppress(ValueError):  # no address: then it has no such parts
        parts = urlsplit(url)
        found |= {parts.password or "", parts.query}
        found |= {value for _, value in parse_qsl(parts.query)}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= _secrets("", {str(key): inner for key, inner in value.items()})
        elif isinstance(value, str) and SECRET.search(name):
            found.add(value)
    found |= {unquote(one) for one in found}
    return {one for one in found if len(one) > 3}  # a shorter one is in every other word
