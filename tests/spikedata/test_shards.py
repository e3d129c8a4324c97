from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.errors import ManifestError
from spikedata.manifest import Manifest
from spikedata.shards import parse_shard, shard

SHA = "0" * 64
SIZES = st.lists(st.none() | st.integers(0, 20) | st.integers(0, 10**12), min_size=1, max_size=40)


def make_manifest(sizes) -> Manifest:
    """Return a manifest of two datasets with assets of these sizes."""
    datasets = []
    for turn, name in enumerate(("even", "odd")):
        assets = [{"path": f"{at}.nwb", "session": f"s{at}", "size": size, "sha256": SHA}
                  for at, size in enumerate(sizes) if at % 2 == turn]  # fmt: skip
        source = {"kind": "zenodo", "record": "1"}
        datasets.append({"id": name, "title": "t", "licence": "CC0", "citation": "c",
                         "source": source, "assets": assets})  # fmt: skip
    return Manifest.model_validate(
        {"name": "m", "title": "t", "datasets": [one for one in datasets if one["assets"]]}
    )


def ids(manifest: Manifest) -> list[str]:
    return [dataset.recording_id(asset) for dataset, asset in manifest.items()]


@given(SIZES, st.integers(1, 9))
def test_the_shards_are_disjoint_and_together_everything_in_order(sizes, count):
    manifest = make_manifest(sizes)
    everything = ids(manifest)

    parts = [ids(shard(manifest, index, count)) for index in range(1, count + 1)]

    assert sorted(name for part in parts for name in part) == sorted(everything)
    for part in parts:
        assert part == [name for name in everything if name in part]


@given(SIZES, st.integers(1, 9), st.randoms(use_true_random=False))
def test_the_order_of_the_manifest_does_not_matter(sizes, count, rng: random.Random):
    manifest = make_manifest(sizes)
    datasets = [one.model_copy(update={"assets": tuple(rng.sample(one.assets, len(one.assets)))})
                for one in manifest.datasets]  # fmt: skip
    other = manifest.model_copy(update={"datasets": tuple(rng.sample(datasets, len(datasets)))})

    for index in range(1, count + 1):
        assert set(ids(shard(manifest, index, count))) == set(ids(shard(other, index, count)))


@given(SIZES, st.integers(1, 9))
def test_no_shard_is_ahead_of_another_by_more_than_the_largest_asset(sizes, count):
    manifest = make_manifest(sizes)
    known = [size for size in sizes if size is not None]
    usual = sum(known) // len(known) if known else 1
    loads = [
        sum(usual if asset.size is None else asset.size for _, asset in part.items())
        for part in (shard(manifest, index, count) for index in range(1, count + 1))
    ]

    assert max(loads) - min(loads) <= max([usual, *known])


@given(st.integers(1, 40), st.integers(0, 1), st.integers(1, 9))
def test_assets_of_one_size_are_dealt_evenly_even_if_they_are_empty(number, size, count):
    manifest = make_manifest([size] * number)
    lengths = [len(ids(shard(manifest, index, count))) for index in range(1, count + 1)]

    assert max(lengths) - min(lengths) <= 1


def test_a_split_is_what_it_was_in_every_earlier_version():
    """Machines with two versions of spikedata must not leave an asset to each other."""
    manifest = make_manifest([7, 3, 5, 5, 1, 9])

    assert ids(shard(manifest, 1, 2)) == ["even/s4", "odd/s3", "odd/s5"]
    assert ids(shard(manifest, 2, 2)) == ["even/s0", "even/s2", "odd/s1"]


def test_more_shards_than_assets_leave_some_with_nothing():
    manifest = make_manifest([5, 4])

    assert [ids(shard(manifest, index, 3)) for index in (1, 2, 3)] == [["even/s0"], ["odd/s1"], []]


@pytest.mark.parametrize(
    "text", ["", "2", "2/", "/4", "a/b", "1/2/3", "-1/4", "1.5/4", " 1/4", "٢/4"]
)
def test_what_is_no_shard_is_refused_with_an_example(text):
    with pytest.raises(ManifestError, match=r"is no shard: expected I/N, as 2/4"):
        parse_shard(text)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "0/0"])
def test_a_shard_that_there_is_not_is_refused(text):
    with pytest.raises(ManifestError, match=f"There is no shard {text.replace('/', ' of ')}: exp"):
        parse_shard(text)
    with pytest.raises(ManifestError, match="There is no shard"):
        shard(make_manifest([1]), *map(int, text.split("/")))
