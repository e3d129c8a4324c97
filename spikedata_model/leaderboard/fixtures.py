"""Small stand-ins for the data of a suite: files in the layout of the real ones, under their names.

What is made here goes the way of the real data, `spikedata fetch`, `spikedata ingest` and
`spikedata leaderboard run`, and nothing of the protocol is another one. Scores on it mean nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import tomli_w
from pydantic import BaseModel

from spikedata.errors import did_you_mean
from spikedata.files import sha256_of, write_whole
from spikedata.manifest import Asset, Dataset, FileSource, Manifest, load_manifest
from spikedata.testing.layouts import bundled, falcon, layouts, nlb, perich_miller
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.suite import Suite, list_suites, load_suite

__all__ = ["SUITE", "write_suite_fixture"]

SUITE = "suite.toml"
FILES = "files"  # folder of the data files, below that of the suite

# s of behaviour. Every part of a split must hold something to score, and where 32 trials are asked
# for, more than so many valid ones must lie in the training time; every third or so is not valid.
CENTER_OUT, RANDOM_TARGET = 100.0, 150.0
MANY_TRIALS = 3  # times as long

Writer = Callable[[Path, int], None]


def write_suite_fixture(
    name: str, folder: Path, seed: int = 0, *, per_group: int | None = 2
) -> Suite:
    """Write small files of a shipped suite's recordings, their manifests and the suite of these.

    Parameters
    ----------
    name : str
        A name of `spikedata_model.leaderboard.suite.list_suites`.
    folder : Path
        Gets ``suite.toml``, one manifest for each that the suite names, under its name, and the
        files below ``files``. What is there under these names is written over.
    seed : int
        Other seeds, other data.
    per_group : int, optional
        How many recordings of a group, from its first to its last; all of them for None.

    Returns
    -------
    Suite
        The suite that was written, as `load_suite` reads it. It is the shipped one but for the
        manifests, the hashes, and the recordings that are left out.

    Raises
    ------
    SuiteError
        If there is no such suite, or `per_group` is less than one.
    ManifestError
        If a manifest of the suite is not there.
    """
    if name not in list_suites():
        raise SuiteError(f"No suite is called '{name}'; {did_you_mean(name, list_suites())}")
    if per_group is not None and per_group < 1:
        raise SuiteError(f"A fixture needs at least one recording of a group, not {per_group}.")
    suite = load_suite(name)
    kept = {group.name: _spread(list(group.recordings), per_group) for group in suite.groups}
    times = MANY_TRIALS if any(budget.trials for budget in suite.budgets) else 1
    pins: dict[str, str] = {}
    for manifest_name in dict.fromkeys(group.manifest for group in suite.groups):
        wanted = {
            recording_id for group in suite.groups if group.manifest == manifest_name
            for recording_id in kept[group.name]
        }  # fmt: skip
        manifest = _write_files(load_manifest(manifest_name), wanted, folder, seed, times)
        _write_toml(folder / f"{manifest_name}.toml", manifest)
        for dataset, asset in manifest.items():
            pins[dataset.recording_id(asset)] = f"sha256:{asset.sha256}"
    groups = tuple(
        group.model_copy(
            update={
                "manifest": f"{group.manifest}.toml",
                "recordings": {one: pins[one] for one in kept[group.name]},
            }
        )
        for group in suite.groups
    )
    _write_toml(folder / SUITE, suite.model_copy(update={"groups": groups}))
    return load_suite(folder / SUITE)


def _spread(names: list[str], count: int | None) -> list[str]:
    """Return so many names, the first and the last among them where there are two or more."""
    if count is None or count >= len(names):
        return names
    return [names[round(row * (len(names) - 1) / max(count - 1, 1))] for row in range(count)]


def _write_files(
    manifest: Manifest, wanted: set[str], folder: Path, seed: int, times: int
) -> Manifest:
    """Write the wanted assets of a manifest; return the manifest of the files that were written."""
    datasets = []
    for dataset in manifest.datasets:
        root = f"{FILES}/{dataset.id}"
        assets = tuple(
            _write_asset(dataset, asset, folder / root, seed, times)
            for asset in dataset.assets
            if dataset.recording_id(asset) in wanted
        )
        if assets:
            source = FileSource(kind="file", root=root)
            datasets.append(dataset.model_copy(update={"source": source, "assets": assets}))
    return manifest.model_copy(
        update={"datasets": tuple(datasets), "publication": None, "absent": ()}
    )


def _write_asset(dataset: Dataset, asset: Asset, root: Path, seed: int, times: int) -> Asset:
    """Write the file of an asset; return the asset with the pins of what was written."""
    path = root / asset.path
    path.parent.mkdir(parents=True, exist_ok=True)
    # A writer may not look at the path, so the seed is one of this asset.
    _writer(dataset, asset, times)(path, zlib.crc32(f"{seed} {asset.path}".encode()))
    return asset.model_copy(
        update={
            "size": path.stat().st_size, "sha256": sha256_of(path),
            "md5": None, "asset_id": None, "etag": None, "published": None,
        }
    )  # fmt: skip


def _write_toml(path: Path, model: BaseModel) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, tomli_w.dumps(model.model_dump(mode="json", exclude_none=True)))


# ------------------------------------------------------------------ which file is written how


def _writer(dataset: Dataset, asset: Asset, times: int) -> Writer:
    """Return what writes a file of the kind that an asset of a dataset is, so many times as long.

    Raises
    ------
    SuiteError
        If no layout is known for it.
    """
    make = WRITERS.get(dataset.id)
    if make is None:
        raise SuiteError(
            f"{dataset.recording_id(asset)}: no layout writes files of '{dataset.id}'; "
            f"{did_you_mean(dataset.id, WRITERS)}"
        )
    return make(asset, times)


def _perich_miller(asset: Asset, times: int) -> Writer:
    random_target = asset.task == "random_target_reaching"
    return partial(
        perich_miller.write_perich_miller,
        task="random_target" if random_target else "center_out",
        duration=times * (RANDOM_TARGET if random_target else CENTER_OUT),
        arrays=1 if asset.subject == "T" else 2,
        session=Path(asset.path).stem.rpartition("_")[0],
    )


def _odoherty_sabes(asset: Asset, times: int) -> Writer:
    return layouts()[f"odoherty-{asset.subject.lower()}"].write


def _nlb(dataset_id: str, asset: Asset, times: int) -> Writer:
    (one,) = (one for one in nlb.SETS if one.dataset == dataset_id)
    return partial(nlb.write_file, one, asset.role == "heldout")


def _always(write: Writer) -> Callable[[Asset, int], Writer]:
    return lambda asset, times: write


WRITERS: Mapping[str, Callable[[Asset, int], Writer]] = {
    "perich_miller_population_2018": _perich_miller,
    "odoherty_sabes_nonhuman_2017": _odoherty_sabes,
    "falcon_m1": _always(falcon.write_m1),
    "falcon_m2": _always(falcon.write_m2),
    "falcon_h1": _always(falcon.write_h1),
    "peyrache_a2929": _always(bundled.write_head_direction),
    "nelpy_linear_track": _always(bundled.write_linear_track),
    "stevenson2011": _always(bundled.write_hand_velocity),
    **{one.dataset: partial(_nlb, one.dataset) for one in nlb.SETS},
}
"""How the files of a dataset are written, by its id."""
