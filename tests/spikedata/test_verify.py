from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from spikedata.fetch import fetch
from spikedata.manifest import Asset, FileSource, Manifest, ZenodoSource
from spikedata.verify import verify, verify_cache
from tests.loopback import QUICK, Loopback, manifest_of, pin

DATA = bytes(range(256)) * 400
OTHER = DATA[::-1]


@pytest.fixture(name="manifest")
def _manifest(tmp_path: Path) -> Manifest:
    """Two assets in a folder beside the cache."""
    folder = tmp_path / "there"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.nwb").write_bytes(DATA)
    (folder / "sub/b.nwb").write_bytes(OTHER)
    source = FileSource(kind="file", root=str(folder))
    return manifest_of(source, pin("a.nwb", DATA), pin("sub/b.nwb", OTHER))


@pytest.fixture(name="cache")
def _cache(manifest: Manifest, tmp_path: Path) -> Path:
    fetch(manifest, tmp_path / "cache")
    return tmp_path / "cache"


def flip(path: Path, at: int = 1000) -> None:
    """Change one byte as a failing disk does: time and size stay."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def state(folder: Path) -> dict[Path, tuple[int, int, bytes]]:
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


# ------------------------------------------------------------------ against a manifest


def test_what_was_fetched_is_right(manifest, cache):
    results = verify(manifest, cache)

    assert [(one.name, one.status, one.message) for one in results] == [
        ("data/a", "right", ""),
        ("data/b", "right", ""),
    ]


def test_a_flipped_byte_that_keeps_its_time_is_found_though_a_fetch_believes_the_file(
    manifest, cache
):
    flip(cache / "assets/data/file/a.nwb")

    assert {result.status for result in fetch(manifest, cache)} == {"skipped"}
    wrong, right = verify(manifest, cache)
    assert (wrong.status, right.status) == ("wrong", "right")
    assert manifest.datasets[0].assets[0].sha256 in wrong.message
    assert str(cache / "assets/data/file/a.nwb") in wrong.message


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b""], ids=["short", "long", "empty"])
def test_another_size_is_wrong(manifest, cache, data):
    (cache / "assets/data/file/a.nwb").write_bytes(data)

    found = verify(manifest, cache)[0]

    assert (found.status, f"has {len(data)} bytes, expected" in found.message) == ("wrong", True)


def test_what_was_not_fetched_is_missing(manifest, tmp_path):
    results = verify(manifest, tmp_path / "empty")

    assert [(one.status, one.message) for one in results] == [
        ("missing", "data/a: a.nwb was not fetched."),
        ("missing", "data/b: sub/b.nwb was not fetched."),
    ]


def test_a_file_put_there_by_hand_is_compared_with_its_pin(manifest, tmp_path):
    place = tmp_path / "cache/assets/data/file"
    place.mkdir(parents=True)
    shutil.copy(tmp_path / "there/a.nwb", place)

    assert verify(manifest, tmp_path / "cache")[0].status == "right"


@pytest.mark.parametrize("change", ["none", "byte"])
def test_verifying_changes_no_asset(manifest, cache, change):
    if change == "byte":
        flip(cache / "assets/data/file/a.nwb")
    before = state(cache / "assets")

    verify(manifest, cache)
    verify_cache(cache)

    assert state(cache / "assets") == before


def test_a_wrong_file_is_replaced_by_removing_and_fetching_it(manifest, cache):
    path = cache / "assets/data/file/a.nwb"
    flip(path)
    path.unlink()
    fetch(manifest, cache)

    assert {one.status for one in verify(manifest, cache)} == {"right"}


def test_fetching_again_replaces_a_file_that_verify_found_wrong(manifest, cache):
    flip(cache / "assets/data/file/a.nwb")
    assert "fetch it again" in verify(manifest, cache)[0].message

    fetch(manifest, cache)

    assert {one.status for one in verify(manifest, cache)} == {"right"}


def test_progress_counts_the_files(manifest, cache):
    told: list[tuple[object, ...]] = []

    verify(manifest, cache, progress=lambda *report: told.append(report))

    assert told == [("verify", 1, 2), ("verify", 2, 2)]


def test_an_interrupt_ends_it(manifest, cache):
    def interrupt(*report: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(manifest, cache, progress=interrupt)


# ------------------------------------------------------------------ what is not pinned


@pytest.fixture(name="record")
def _record(tmp_path: Path) -> Iterator[Manifest]:
    """Fetch an unpinned file of a Zenodo record."""
    with Loopback() as server:
        server.add_record("17", {"a.nwb": DATA})
        source = ZenodoSource(kind="zenodo", record="17", api_url=server.url("zenodo"))
        manifest = manifest_of(source, Asset(path="a.nwb", session="a"))
        fetch(manifest, tmp_path / "cache", retry=QUICK)
        yield manifest


def test_an_unpinned_file_is_compared_with_what_it_was(record, tmp_path):
    (right,) = verify(record, tmp_path / "cache")
    flip(tmp_path / "cache/assets/data/zenodo-17/a.nwb")
    (wrong,) = verify(record, tmp_path / "cache")

    assert (right.status, wrong.status) == ("right", "wrong")


def test_an_unpinned_file_that_no_fetch_recorded_is_not_called_right(record, tmp_path):
    shutil.rmtree(tmp_path / "cache/verified")

    (found,) = verify(record, tmp_path / "cache")

    assert (found.status, found.message) == (
        "wrong",
        "data/a: neither the manifest nor a fetch knows its hash.",
    )


# ------------------------------------------------------------------ the whole cache


def test_the_whole_cache_is_compared_with_what_was_fetched(cache):
    assert [(one.name, one.status) for one in verify_cache(cache)] == [
        ("data/file/a.nwb", "right"),
        ("data/file/sub/b.nwb", "right"),
    ]


def test_a_flipped_byte_is_found_in_the_whole_cache(cache):
    flip(cache / "assets/data/file/sub/b.nwb")

    assert [one.status for one in verify_cache(cache)] == ["right", "wrong"]


def test_a_file_that_no_fetch_recorded_is_told_apart(cache):
    (cache / "assets/data/file/mine.nwb").write_bytes(b"?")

    found = verify_cache(cache)[1]

    assert (found.name, found.status) == ("data/file/mine.nwb", "wrong")
    assert found.message == "data/file/mine.nwb: no fetch has recorded this file."


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff"], ids=str)
def test_a_broken_record_vouches_for_nothing(cache, content):
    (cache / "verified/data/file/a.nwb.json").write_bytes(content)

    assert [one.status for one in verify_cache(cache)] == ["wrong", "right"]


@pytest.mark.parametrize("name", ["a.nwb.abc.part", "a.nwb.abc.pieces", "a.nwb.bad"])
def test_unfinished_files_and_those_set_aside_are_no_assets(cache, name):
    (cache / "assets/data/file" / name).write_bytes(b"?")

    assert {one.status for one in verify_cache(cache)} == {"right"}


@pytest.mark.parametrize("name", ["a.nwb.abc.pieces.new", ".a.nwb.1a2b3c4d"])
def test_what_a_kill_left_of_a_file_written_whole_is_no_asset(cache, name):
    (cache / "assets/data/file" / name).write_text("[]")

    assert {one.status for one in verify_cache(cache)} == {"right"}


def test_an_empty_cache_has_nothing_to_verify(tmp_path):
    assert verify_cache(tmp_path) == []
