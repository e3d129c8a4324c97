from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from spikedata import cache as cache_module
from spikedata.cache import (
    YOUNG,
    as_recorded,
    asset_path,
    is_verified,
    read_record,
    record,
    record_path,
)
from spikedata.fetch import fetch
from spikedata.manifest import Asset, Dataset, FileSource, Manifest, ZenodoSource
from tests.loopback import Loopback, manifest_of, only, pin

DATA = bytes(range(256)) * 400
SHA = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()


@pytest.fixture(name="manifest")
def _manifest(server: Loopback) -> Manifest:
    return server.serve("sub-1/a.nwb", data=DATA)


def refuse(*_: object) -> dict[str, str]:
    raise AssertionError("hashed again")


def place(cache: Path, *assets: Asset, age: float = 60.0) -> tuple[Dataset, Asset, Path]:
    """Put the file of the first asset into a cache, with a time so many seconds ago."""
    dataset, asset = next(manifest_of(FileSource(kind="file"), *assets).items())
    path = asset_path(cache, dataset, asset)
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return dataset, asset, path


# ------------------------------------------------------------------ what is believed


def test_a_second_fetch_hashes_nothing(manifest, tmp_path, monkeypatch):
    fetch(manifest, tmp_path)
    monkeypatch.setattr(cache_module, "digests_of", refuse)

    assert only(fetch(manifest, tmp_path)).status == "skipped"


def test_a_fetched_file_has_a_time_in_the_past_so_that_its_record_is_believed(manifest, tmp_path):
    path = only(fetch(manifest, tmp_path)).path

    assert time.time() - path.stat().st_mtime > YOUNG
    assert read_record(tmp_path, *next(manifest.items())) is not None


def test_records_lie_apart_from_the_assets(manifest, tmp_path):
    fetch(manifest, tmp_path)

    expected = tmp_path / "verified/data/https/sub-1/a.nwb.json"
    assert record_path(tmp_path, *next(manifest.items())) == expected
    assert json.loads(expected.read_text())["sha256"] == SHA


@pytest.mark.parametrize("at", [0, len(DATA) // 2, len(DATA) - 1])
def test_a_changed_byte_is_noticed_on_the_next_fetch(manifest, tmp_path, at):
    path = only(fetch(manifest, tmp_path)).path
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" if DATA[at] != 255 else b"\x00")

    assert only(fetch(manifest, tmp_path)).status == "done"
    assert path.read_bytes() == DATA


def test_a_touched_file_is_hashed_once_more_and_not_fetched(
    server, manifest, tmp_path, monkeypatch
):
    path = only(fetch(manifest, tmp_path)).path
    moment = time.time() - 100
    os.utime(path, (moment, moment))
    server.log.clear()

    assert only(fetch(manifest, tmp_path)).status == "skipped"
    monkeypatch.setattr(cache_module, "digests_of", refuse)
    assert only(fetch(manifest, tmp_path)).status == "skipped"
    assert server.log == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"size": 1}', b"\0" * 40, b'{"sha256": 5}'],
    ids=str,
)
def test_a_broken_record_is_written_again(server, manifest, tmp_path, content):
    fetch(manifest, tmp_path)
    path = record_path(tmp_path, *next(manifest.items()))
    path.write_bytes(content)
    server.log.clear()

    assert only(fetch(manifest, tmp_path)).status == "skipped"
    assert json.loads(path.read_text())["sha256"] == SHA
    assert server.log == []


def test_a_record_with_an_unknown_field_is_not_believed(manifest, tmp_path):
    fetch(manifest, tmp_path)
    path = record_path(tmp_path, *next(manifest.items()))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha512": "?"}))

    assert read_record(tmp_path, *next(manifest.items())) is None


def test_a_cache_copied_with_its_times_is_believed(manifest, tmp_path, monkeypatch):
    fetch(manifest, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copy2)
    monkeypatch.setattr(cache_module, "digests_of", refuse)

    assert only(fetch(manifest, tmp_path / "two")).status == "skipped"


def test_a_cache_copied_without_its_times_is_hashed_and_not_fetched(server, manifest, tmp_path):
    fetch(manifest, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
    server.log.clear()

    assert only(fetch(manifest, tmp_path / "two")).status == "skipped"
    assert server.log == []


def test_a_record_does_not_vouch_for_another_pin(manifest, tmp_path, server):
    fetch(manifest, tmp_path)
    newer = DATA[::-1]
    server.files["/data/sub-1/a.nwb"] = newer
    again = manifest_of(manifest.datasets[0].source, pin("sub-1/a.nwb", newer))

    assert only(fetch(again, tmp_path)).path.read_bytes() == newer
    assert only(fetch(again, tmp_path)).status == "skipped"
    assert only(fetch(manifest, tmp_path)).status == "failed"  # the server has the newer one


def test_without_belief_a_recorded_file_is_hashed(tmp_path, monkeypatch):
    dataset, asset, path = place(tmp_path, pin("a.nwb", DATA))
    assert is_verified(tmp_path, dataset, asset)
    before = path.stat()
    path.write_bytes(DATA[:-1] + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert is_verified(tmp_path, dataset, asset)
    assert not is_verified(tmp_path, dataset, asset, believe=False)


@pytest.mark.parametrize("what", ["folder", "nothing", "file on the way"])
def test_what_is_no_file_is_not_verified(tmp_path, what):
    dataset, asset, path = place(tmp_path, pin("sub/a.nwb", DATA))
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "file on the way":
        path.parent.rmdir()
        path.parent.write_bytes(DATA)

    assert not is_verified(tmp_path, dataset, asset)


# ------------------------------------------------------------------ what is written down


@pytest.mark.parametrize(("age", "known"), [(0.0, False), (-60.0, False), (YOUNG + 1, True)])
def test_a_file_that_could_still_change_within_its_time_is_not_recorded(tmp_path, age, known):
    dataset, asset, _ = place(tmp_path, pin("a.nwb", DATA), age=age)

    record(tmp_path, dataset, asset, {"sha256": SHA})

    assert (read_record(tmp_path, dataset, asset) is not None) == known


# ------------------------------------------------------------------ as_recorded


def zenodo_asset(tmp_path: Path, **pins: object) -> tuple[Dataset, Asset]:
    """Return an asset of a record, with only these pins, whose file was fetched and recorded."""
    source = ZenodoSource(kind="zenodo", record="17")
    manifest = manifest_of(source, Asset(path="a.nwb", session="a", **pins))  # type: ignore[arg-type]
    ((dataset, asset),) = manifest.items()
    path = asset_path(tmp_path, dataset, asset)
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    os.utime(path, (time.time() - 60,) * 2)
    record(tmp_path, dataset, asset, {"sha256": SHA, "md5": MD5})
    return dataset, asset


def test_an_unpinned_asset_has_the_pins_of_its_fetch(tmp_path):
    found = as_recorded(tmp_path, *zenodo_asset(tmp_path))

    assert (found.size, found.sha256, found.md5) == (len(DATA), SHA, MD5)


def test_what_a_manifest_pins_is_not_overridden_by_a_record(tmp_path):
    found = as_recorded(tmp_path, *zenodo_asset(tmp_path, md5="0" * 32, size=5))

    assert (found.size, found.md5) == (5, "0" * 32)


def test_an_unpinned_asset_whose_file_changed_is_not_known(tmp_path):
    dataset, asset = zenodo_asset(tmp_path)
    asset_path(tmp_path, dataset, asset).write_bytes(b"x" * len(DATA))

    assert as_recorded(tmp_path, dataset, asset) == asset


def test_a_pinned_asset_needs_no_record(tmp_path, monkeypatch):
    dataset, asset, _ = place(tmp_path, pin("a.nwb", DATA))
    monkeypatch.setattr(cache_module, "read_record", refuse)

    assert as_recorded(tmp_path, dataset, asset) is asset


def test_a_pin_that_was_corrected_brings_the_right_bytes(server, tmp_path):
    """Here a record that changed, against Zenodo's promise; the old hash must not stay pinned."""
    source = ZenodoSource(kind="zenodo", record="17", api_url=server.url("zenodo"))
    newer = DATA[::-1]

    def pinned(data: bytes) -> Manifest:
        md5 = hashlib.md5(data).hexdigest()
        return manifest_of(source, Asset(path="a.nwb", session="a", size=len(data), md5=md5))

    server.add_record("17", {"a.nwb": DATA})
    fetch(pinned(DATA), tmp_path)
    server.add_record("17", {"a.nwb": newer})

    result = only(fetch(pinned(newer), tmp_path))

    assert result.path.read_bytes() == newer
