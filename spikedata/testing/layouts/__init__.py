"""Small files laid out as real ones are, dataset by dataset, with every known defect on purpose.

One module a family of datasets; each has a tuple ``LAYOUTS``. What real files look like was read
in public crawls of the archives; a module's docstring lists the defects that its files have.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spikedata.errors import SpikedataError, did_you_mean
from spikedata.manifest import Asset, Dataset, load_manifest

__all__ = ["Layout", "layouts", "write_layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files of one kind in one dataset look, and how to write a small one.

    Parameters
    ----------
    name : str
        Unique, as ``"000688-center-out"``.
    manifest, dataset : str
        Where the harmonisation of such files is stated: a built-in manifest and a dataset in it.
    path : str
        Path of a real asset of this kind in that dataset.
    write : callable
        ``write(path, seed)`` writes the file; the same seed gives the same values.
    """

    name: str
    manifest: str
    dataset: str
    path: str
    write: Callable[[Path, int], None]

    def stated(self) -> tuple[Dataset, Asset]:
        """Return the dataset and the asset as the manifest states them.

        The asset keeps its session, subject and task; size and hashes are those of the real
        file, so pin the written one before it is ingested.
        """
        for dataset, asset in load_manifest(self.manifest).items():
            if dataset.id == self.dataset and asset.path == self.path:
                return dataset.model_copy(update={"assets": (asset,)}), asset
        raise SpikedataError(f"{self.manifest}: there is no {self.path} in '{self.dataset}'.")


def layouts() -> dict[str, Layout]:
    """Return every layout by its name, in order of the names."""
    found: dict[str, Layout] = {}
    for module in pkgutil.iter_modules(__path__):
        listed = importlib.import_module(f"{__name__}.{module.name}").LAYOUTS
        found.update({layout.name: layout for layout in listed})
    return dict(sorted(found.items()))


def write_layout(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a small file of one layout into a folder, under the real file's name.

    Parameters
    ----------
    name : str
        A name of `layouts`.
    folder : Path
        Where to write it.
    seed : int
        Another seed is another session.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    SpikedataError
        If there is no such layout.
    """
    known = layouts()
    if name not in known:
        raise SpikedataError(f"No layout is called '{name}'; {did_you_mean(name, known)}")
    path = Path(folder) / Path(known[name].path).name
    path.parent.mkdir(parents=True, exist_ok=True)
    known[name].write(path, seed)
    return path
