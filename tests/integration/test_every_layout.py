"""The files of every layout, fetched from a folder, ingested on a pool, and sampled."""

from __future__ import annotations

import numpy as np

from spikedata.cache import asset_path
from spikedata.files import sha256_of
from spikedata.ingest import ingest
from spikedata.manifest import Dataset, Manifest
from spikedata.sampler import Sampler
from spikedata.store import Store
from spikedata.testing.layouts import layouts, write_layout


def pinned(name: str, folder) -> Dataset:
    """Return the dataset of a layout, named after it, with its small file as the only asset."""
    dataset, asset = layouts()[name].stated()
    path = write_layout(name, folder / name)
    pins = {"size": path.stat().st_size, "sha256": sha256_of(path), "md5": None, "etag": None}
    asset = asset.model_copy(update={**pins, "session": f"{asset.session}-{name}"})
    made = dataset.model_copy(update={"assets": (asset,)})
    place = asset_path(folder / "cache", made, asset)
    place.parent.mkdir(parents=True, exist_ok=True)
    path.rename(place)
    return made


def test_the_files_of_every_layout_go_into_one_store_and_can_be_decoded_from(tmp_path):
    datasets: dict[str, Dataset] = {}
    for name in layouts():
        made = pinned(name, tmp_path)
        known = datasets.get(made.id, made.model_copy(update={"assets": ()}))
        datasets[made.id] = known.model_copy(update={"assets": (*known.assets, *made.assets)})
    manifest = Manifest(name="all", title="All", datasets=tuple(datasets.values()))

    results = ingest(manifest, tmp_path / "cache", tmp_path / "store", workers=2)

    assert [(one.status, one.message) for one in results] == [("done", "")] * len(layouts())
    store = Store(tmp_path / "store")
    decodable = {name: store[name] for name in store if store[name].targets}
    assert len(decodable) >= len(layouts()) / 2
    for name, recording in decodable.items():
        sampler = Sampler(Store(tmp_path / "store"), "train", window=0.2, batch_size=4,
                          recording_ids=[name])  # fmt: skip
        batch = next(iter(sampler.epoch(0)))
        assert set(batch.targets) >= set(recording.targets)
        assert all(np.isfinite(one.values).all() for one in batch.targets.values())
