"""The stand-ins of a suite's data: real names, real rules, small files."""

from __future__ import annotations

import pytest

from spikedata.fetch import fetch
from spikedata.files import sha256_of
from spikedata.harmonize import harmonize
from spikedata.ingest import ingest
from spikedata.manifest import load_manifest
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.fixtures import FILES, WRITERS, write_suite_fixture
from spikedata_model.leaderboard.suite import list_suites, load_suite

NAMES = list(list_suites())


def protocol(suite) -> dict:
    """Return all fields that may not differ between a suite and its stand-in."""
    fields = suite.model_dump()
    for group in fields["groups"]:
        group["recordings"], group["manifest"] = None, group["manifest"].removesuffix(".toml")
    return fields


@pytest.mark.parametrize("name", NAMES)
def test_a_stand_in_is_the_suite_but_for_pins_and_left_out_recordings(name, tmp_path):
    shipped = load_suite(name)

    suite = write_suite_fixture(name, tmp_path, per_group=1)

    assert protocol(suite) == protocol(shipped)
    assert suite == load_suite(tmp_path / "suite.toml")
    for mine, theirs in zip(suite.groups, shipped.groups, strict=True):
        assert list(mine.recordings) == list(theirs.recordings)[:1]
        real = {data.recording_id(one): (data, one) for data, one in
                load_manifest(theirs.manifest).items()}  # fmt: skip
        manifest = load_manifest(suite.manifest_of(mine))
        for dataset, asset in manifest.items():
            before, original = real[dataset.recording_id(asset)]
            assert dataset.harmonize == before.harmonize
            assert (asset.path, asset.subject, asset.task, asset.role) == (
                original.path, original.subject, original.task, original.role,
            )  # fmt: skip
            path = tmp_path / FILES / dataset.id / asset.path
            assert sha256_of(path) == asset.sha256
            assert asset.sha256 != original.sha256


def test_a_writer_is_known_for_every_dataset_of_every_suite():
    wanted = {
        recording_id.partition("/")[0]
        for name in NAMES
        for recording_id in load_suite(name).recordings
    }

    assert wanted == set(WRITERS)


def test_all_of_a_group_are_written_when_asked_and_the_first_and_last_of_two(tmp_path):
    shipped = list(load_suite("falcon-m1").groups[0].recordings)

    every = write_suite_fixture("falcon-m1", tmp_path / "all", per_group=None)
    two = write_suite_fixture("falcon-m1", tmp_path / "two", per_group=2)

    assert list(every.groups[0].recordings) == shipped
    assert list(two.groups[0].recordings) == [shipped[0], shipped[-1]]


def spikes_of(folder) -> dict[str, bytes]:
    """Return the spike times of every file of the sample's stand-in."""
    manifest = load_manifest(folder / "sample.toml")
    return {
        dataset.recording_id(asset): harmonize(
            folder / FILES / dataset.id / asset.path, dataset, asset
        ).spike_time.tobytes()
        for dataset, asset in manifest.items()
    }


def test_a_seed_decides_the_data_and_recordings_differ(tmp_path):
    for folder, seed in (("one", 0), ("again", 0), ("other", 1)):
        write_suite_fixture("sample", tmp_path / folder, seed)
    one, again, other = (spikes_of(tmp_path / name) for name in ("one", "again", "other"))

    assert one == again
    assert all(one[name] != other[name] for name in one)


def test_sessions_of_one_kind_are_not_copies_of_each_other(tmp_path):
    suite = write_suite_fixture("falcon-h1", tmp_path, per_group=3)

    pins = [pin for group in suite.groups for pin in group.recordings.values()]

    assert len(pins) == len(set(pins)) == 6


def test_a_stand_in_goes_the_way_of_the_real_files_and_a_changed_byte_is_found(tmp_path):
    suite = write_suite_fixture("stevenson2011", tmp_path)
    manifest = load_manifest(suite.manifest_of(suite.groups[0]))
    (dataset, asset), = manifest.items()  # fmt: skip
    path = tmp_path / FILES / dataset.id / asset.path
    good = path.read_bytes()

    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    refused = fetch(manifest, tmp_path / "cache")
    path.write_bytes(good)
    taken = fetch(manifest, tmp_path / "cache")
    (done,) = ingest(manifest, tmp_path / "cache", tmp_path / "store")

    assert [one.status for one in refused] == ["failed"]
    assert [one.status for one in taken] == ["done"]
    assert done.status == "done"


@pytest.mark.parametrize(
    ("name", "per_group", "message"),
    [("sampel", 2, "sample"), ("sample", 0, "at least one")],
)
def test_what_cannot_be_written_is_refused(name, per_group, message, tmp_path):
    with pytest.raises(SuiteError, match=message):
        write_suite_fixture(name, tmp_path, per_group=per_group)
