from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spikedata.cache import asset_path, is_verified
from spikedata.ingest import ingest, ingest_asset
from spikedata.manifest import Manifest
from spikedata.recording import Recording
from spikedata.store import Store
from spikedata.testing import make_recording, write_nwb

MODULE = sys.modules[ingest.__module__]  # spikedata.ingest is the function
SERIES = [{"name": "speed", "source": ["processing/behavior/speed"]}]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_nwb(tmp_path_factory.mktemp("nwb") / "tiny.nwb")


def make_manifest(source: Path, sessions=("a", "b", "c"), **harmonize) -> Manifest:
    content = source.read_bytes()
    pinned = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    options = {"series": SERIES, "targets": ["speed"], **harmonize}
    return Manifest.model_validate(
        {
            "name": "tiny", "title": "t",
            "datasets": [{
                "id": "lab", "title": "t", "licence": "CC0", "citation": "c",
                "source": {"kind": "file"}, "harmonize": options,
                "assets": [{"path": f"{one}.nwb", "session": one, **pinned} for one in sessions],
            }],
        }
    )  # fmt: skip


def bring(manifest: Manifest, source: Path, cache: Path) -> None:
    for dataset, asset in manifest.items():
        path = asset_path(cache, dataset, asset)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())


def statuses(results) -> list[str]:
    return [one.status for one in results]


def fails_on_b(path, dataset, asset) -> Recording:
    """Harmonise with a mistake in the code."""
    if asset.session == "b":
        raise ZeroDivisionError("a mistake")
    return make_recording(0, dataset="lab", session=asset.session, duration=2.0)


def is_interrupted(path, dataset, asset) -> Recording:
    """Harmonise as when Ctrl-C is pressed on the way."""
    if asset.session == "b":
        raise KeyboardInterrupt
    return make_recording(0, dataset="lab", session=asset.session, duration=2.0)


def test_an_ingested_asset_is_a_recording_with_its_origin(source, tmp_path):
    manifest = make_manifest(source, ["a"])
    bring(manifest, source, tmp_path / "cache")

    (result,) = ingest(manifest, tmp_path / "cache", tmp_path / "store")

    assert (result.recording_id, result.status, result.message) == ("lab/a", "done", "")
    assert result.seconds > 0
    store = Store(tmp_path / "store")
    assert store["lab/a"].targets == ("speed",)
    assert store.provenance("lab/a")["asset"]["sha256"] == manifest.datasets[0].assets[0].sha256


def test_what_is_done_is_skipped_until_something_changes(source, tmp_path):
    first = make_manifest(source)
    bring(first, source, tmp_path / "cache")
    folders = tmp_path / "cache", tmp_path / "store"

    assert statuses(ingest(first, *folders)) == ["done"] * 3
    assert statuses(ingest(first, *folders)) == ["skipped"] * 3
    changed = make_manifest(source, units={"min_spikes": 3})
    assert statuses(ingest(changed, *folders)) == ["done"] * 3
    assert Store(folders[1])["lab/a"].n_units == 2


def test_what_is_done_is_skipped_even_when_the_cache_is_gone(source, tmp_path):
    manifest = make_manifest(source, ["a"])
    bring(manifest, source, tmp_path / "cache")
    ingest(manifest, tmp_path / "cache", tmp_path / "store")

    assert statuses(ingest(manifest, tmp_path / "empty", tmp_path / "store")) == ["skipped"]


def test_another_version_of_spikedata_ingests_again(source, tmp_path, monkeypatch):
    manifest = make_manifest(source, ["a"])
    bring(manifest, source, tmp_path / "cache")
    ingest(manifest, tmp_path / "cache", tmp_path / "store")
    monkeypatch.setattr(MODULE, "__version__", "99.0")

    assert statuses(ingest(manifest, tmp_path / "cache", tmp_path / "store")) == ["done"]


def test_a_damaged_recording_is_made_again(source, tmp_path):
    manifest = make_manifest(source, ["a"])
    bring(manifest, source, tmp_path / "cache")
    ingest(manifest, tmp_path / "cache", tmp_path / "store")
    (tmp_path / "store/lab/a/spikes.arrow").write_bytes(b"")

    assert statuses(ingest(manifest, tmp_path / "cache", tmp_path / "store")) == ["done"]
    Store(tmp_path / "store").verify("lab/a")


def test_an_asset_that_was_not_fetched_says_how_to_fetch_it(source, tmp_path):
    manifest = make_manifest(source, ["a"])

    (result,) = ingest(manifest, tmp_path / "cache", tmp_path / "store")

    assert result.status == "failed"
    assert "spikedata fetch --manifest tiny" in result.message


@pytest.mark.parametrize("change", [b"x", b""])
def test_bytes_that_are_not_the_pinned_ones_are_never_kept(source, tmp_path, change):
    manifest = make_manifest(source, ["a"])
    dataset, asset = next(manifest.items())
    wrong = bytearray(source.read_bytes())
    wrong[-1:] = change if wrong[-1:] != b"x" or not change else b"y"
    (tmp_path / "a.nwb").write_bytes(wrong)

    result = ingest_asset(dataset, asset, tmp_path / "a.nwb", tmp_path / "store")

    assert result.status == "failed"
    assert "the manifest pins" in result.message
    assert not (tmp_path / "store").exists()


def test_a_file_of_another_size_is_not_read_at_all(source, tmp_path, monkeypatch):
    manifest = make_manifest(source, ["a"])
    dataset, asset = next(manifest.items())
    (tmp_path / "a.nwb").write_bytes(source.read_bytes() + b"x")
    monkeypatch.setattr(MODULE, "harmonize", lambda *_: pytest.fail("it was read"))

    result = ingest_asset(dataset, asset, tmp_path / "a.nwb", tmp_path / "store")

    assert "bytes, the manifest pins" in result.message


def test_other_bytes_explain_a_file_that_cannot_be_read(source, tmp_path):
    """The hash is found while the file is read: its word counts more than a reader's."""
    manifest = make_manifest(source, ["a"])
    dataset, asset = next(manifest.items())
    (tmp_path / "a.nwb").write_bytes(bytes(len(source.read_bytes())))

    result = ingest_asset(dataset, asset, tmp_path / "a.nwb", tmp_path / "store")

    assert "the manifest pins" in result.message


def test_what_fetch_has_just_hashed_is_not_hashed_again(source, tmp_path, monkeypatch):
    manifest = make_manifest(source, ["a"])
    dataset, asset = next(manifest.items())
    cache, store = tmp_path / "cache", tmp_path / "store"
    bring(manifest, source, cache)
    path = asset_path(cache, dataset, asset)
    os.utime(path, (0, 0))
    assert is_verified(cache, dataset, asset)  # hashes it, and writes that down
    monkeypatch.setattr(MODULE, "digests_of", lambda *_: pytest.fail("it was hashed again"))

    (result,) = ingest(manifest, cache, store)

    assert (result.status, result.message) == ("done", "")


def test_one_bad_asset_does_not_stop_the_others(source, tmp_path):
    manifest = make_manifest(source, harmonizer=f"{__name__}:fails_on_b")
    bring(manifest, source, tmp_path / "cache")

    results = ingest(manifest, tmp_path / "cache", tmp_path / "store")

    assert statuses(results) == ["done", "failed", "done"]
    assert "ZeroDivisionError: a mistake" in results[1].message
    assert list(Store(tmp_path / "store")) == ["lab/a", "lab/c"]


def test_an_interrupt_leaves_whole_recordings_only(source, tmp_path):
    manifest = make_manifest(source, harmonizer=f"{__name__}:is_interrupted")
    bring(manifest, source, tmp_path / "cache")

    with pytest.raises(KeyboardInterrupt):
        ingest(manifest, tmp_path / "cache", tmp_path / "store")

    assert list(Store(tmp_path / "store")) == ["lab/a"]
    assert [path.name for path in (tmp_path / "store/lab").iterdir()] == ["a"]


def test_any_executor_will_do_and_progress_reaches_the_end(source, tmp_path):
    manifest = make_manifest(source)
    bring(manifest, source, tmp_path / "cache")
    seen = []

    with ThreadPoolExecutor(1) as executor:
        results = ingest(
            manifest, tmp_path / "cache", tmp_path / "store", executor=executor,
            progress=lambda *report: seen.append(report),
        )  # fmt: skip

    assert statuses(results) == ["done"] * 3
    assert seen == [("ingest", done, 3) for done in (1, 2, 3)]


def test_a_process_that_dies_takes_only_its_own_asset_with_it(source, tmp_path, monkeypatch):
    module = tmp_path / "lethal_harmonizer.py"
    module.write_text(
        "import os\n"
        "from spikedata.testing import make_recording\n"
        "def run(path, dataset, asset):\n"
        "    if asset.session == 'b':\n"
        "        os._exit(9)\n"
        "    return make_recording(0, dataset='lab', session=asset.session, duration=2.0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    manifest = make_manifest(source, harmonizer="lethal_harmonizer:run")
    bring(manifest, source, tmp_path / "cache")

    results = ingest(manifest, tmp_path / "cache", tmp_path / "store", workers=2)

    assert statuses(results) == ["done", "failed", "done"]
    assert "its process died" in results[1].message
