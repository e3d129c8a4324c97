"""A folder of files that someone copied by hand: what is in it is known by its hash alone."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from spikedata.digests import conflict, digests_of
from spikedata.errors import FetchError
from spikedata.manifest import Asset

__all__ = ["Folder"]


class Folder:
    """Files in and below a folder, under whatever names.

    Parameters
    ----------
    root : Path
        The folder.

    Raises
    ------
    FetchError
        If it is not a folder.
    """

    def __init__(self, root: Path):
        if not root.is_dir():
            error = FetchError(f"The folder {root} to take files from is not a folder.")
            error.exit_code = 2
            raise error
        self.root = root
        self._guard = threading.Lock()
        self._by_size: dict[int, list[Path]] | None = None

    def candidates(self, asset: Asset) -> list[Path]:
        """Return the files that have the size of an asset, those with its path or name first."""
        with self._guard:
            if self._by_size is None:
                self._by_size = self._walk()
        name = Path(asset.path).name
        there = self._by_size.get(-1 if asset.size is None else asset.size, [])
        return sorted(there, key=lambda path: (path != self.root / asset.path, path.name != name))

    def find(self, asset: Asset) -> Path | None:
        """Return a file with the pinned bytes of an asset, if there is one."""
        for path in self.candidates(asset):
            try:
                if not conflict(asset, digests_of(path, asset)):
                    return path
            except OSError:  # it went away, or may not be read
                continue
        return None

    def _walk(self) -> dict[int, list[Path]]:
        found: dict[int, list[Path]] = {}
        for folder, _, names in os.walk(self.root):
            for name in sorted(names):
                path = Path(folder) / name
                if path.is_file():
                    found.setdefault(path.stat().st_size, []).append(path)
        return found
