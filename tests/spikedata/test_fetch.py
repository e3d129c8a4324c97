from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from spikedata.cache import asset_path, default_cache
from spikedata.errors import FetchError, HashMismatchError
from spikedata.fetch import fetch
from spikedata.manifest import Asset, DandiSource, FileSource, HttpsSource, Manifest
from tests.loopback import QUICK, Loopback, fetch_raising, files_in, manifest_of, only, part_of, pin

DATA = bytes(range(256)) * 4000 + b"end"  # about 1 MB: several chunks


@pytest.fixture(name="manifest")
def _manifest(server: Loopback) -> Manifest:
    """One asset on the plain file server."""
    return server.serve("sub-1/a.nwb", data=DATA)


def local(folder: Path, *assets: Asset) -> Manifest:
    return manifest_of(FileSource(kind="file", root=str(folder)), *assets)


# ------------------------------------------------------------------ the plain course


def test_a_fetched_asset_has_the_pinned_bytes_and_nothing_else_is_left(manifest, tmp_path):
    result = only(fetch(manifest, tmp_path))

    assert (result.recording_id, result.status, result.bytes) == ("data/a", "done", len(DATA))
    assert result.path == tmp_path / "assets/data/https/sub-1/a.nwb"
    assert result.path.read_bytes() == DATA
    assert files_in(tmp_path) == ["a.nwb"]


def test_folders_may_be_given_as_text(manifest, tmp_path):
    fetch(manifest, tmp_path / "there")
    found = fetch(manifest, str(tmp_path / "cache"), from_folder=str(tmp_path / "there"))

    assert {one.status for one in found} == {"done"}
    assert {one.status for one in fetch(manifest, str(tmp_path / "cache"))} == {"skipped"}


def test_a_second_run_asks_the_server_nothing(server, manifest, tmp_path):
    fetch(manifest, tmp_path)
    asked = len(server.log)

    assert only(fetch(manifest, tmp_path)).status == "skipped"
    assert len(server.log) == asked


def test_a_present_file_is_recognised_by_its_hash_not_by_its_existence(manifest, tmp_path):
    path = only(fetch(manifest, tmp_path)).path
    path.write_bytes(b"x" + DATA[1:])

    assert only(fetch(manifest, tmp_path)).status == "done"
    assert path.read_bytes() == DATA


def test_an_empty_asset_needs_no_request(server, tmp_path):
    manifest = manifest_of(HttpsSource(kind="https", url=server.url("files")), pin("e.nwb", b""))

    assert only(fetch(manifest, tmp_path)).path.read_bytes() == b""
    assert server.log == []


def test_a_path_is_quoted_in_the_address(server, tmp_path):
    manifest = server.serve("sub 1/é #1+%41?.nwb", data=DATA)

    assert only(fetch(manifest, tmp_path)).status == "done"


def test_one_failure_stops_no_other_asset(server, tmp_path):
    manifest = server.serve(*(f"s{n}.nwb" for n in range(6)), data=DATA)
    server.inject("files", match="s2.nwb", times=None, status=404)

    results = fetch(manifest, tmp_path, jobs=3, retry=QUICK)

    assert [result.recording_id for result in results] == [f"data/s{n}" for n in range(6)]
    assert [n for n, result in enumerate(results) if result.status != "done"] == [2]
    assert "data/s2 (s2.nwb)" in results[2].message
    assert "404" in results[2].message


def test_progress_is_told_in_the_callers_thread_and_never_exceeds_the_total(
    server, manifest, tmp_path
):
    server.inject("files", cut=700_000, flip=5)
    server.inject("files", no_range=True)
    told = []

    def tell(*report: object) -> None:
        told.append((*report, threading.current_thread()))

    fetch(manifest, tmp_path, retry=QUICK, progress=tell)

    assert {(label.partition(",")[0], total, thread) for label, _, total, thread in told} == {
        ("data/a", len(DATA), threading.main_thread())
    }
    assert all(0 <= done <= total for _, done, total, _ in told)
    assert told[-1][1] == len(DATA)


def test_an_error_of_the_progress_callback_reaches_the_caller(manifest, tmp_path):
    def broken(*report: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fetch(manifest, tmp_path, progress=broken)


def test_jobs_below_one_is_refused(manifest, tmp_path):
    with pytest.raises(ValueError, match="at least 1, found 0"):
        fetch(manifest, tmp_path, jobs=0)


# ------------------------------------------------------------------ files and offline folders


def test_a_file_is_copied_below_its_root(tmp_path):
    source = tmp_path / "there/sub-1/a.nwb"
    source.parent.mkdir(parents=True)
    source.write_bytes(DATA)
    manifest = local(tmp_path / "there", pin("sub-1/a.nwb", DATA))

    result = only(fetch(manifest, tmp_path / "cache"))

    assert result.path == tmp_path / "cache/assets/data/file/sub-1/a.nwb"
    assert result.path.read_bytes() == DATA
    assert not result.path.is_symlink()


def test_the_copy_of_a_file_is_verified_and_resumed_as_a_download_is(tmp_path):
    (tmp_path / "a.nwb").write_bytes(DATA)
    manifest = local(tmp_path, pin("a.nwb", DATA))
    part = part_of(manifest, tmp_path / "cache")
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:1000])
    wrong = local(tmp_path, pin("a.nwb", DATA[::-1]))

    assert only(fetch(manifest, tmp_path / "cache")).bytes == len(DATA) - 1000
    with pytest.raises(HashMismatchError, match=r"a\.nwb\.bad"):
        fetch_raising(wrong, tmp_path / "other")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_that_leads_out_of_the_root_is_refused(tmp_path, kind):
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "a.nwb").write_bytes(DATA)
    if kind == "file":
        (root / "a.nwb").symlink_to(outside / "a.nwb")
        manifest = local(root, pin("a.nwb", DATA))
    else:
        (root / "sub").symlink_to(outside)
        manifest = local(root, pin("sub/a.nwb", DATA))

    result = only(fetch(manifest, tmp_path / "cache"))

    assert result.status == "failed"
    assert f"leads out of {root}" in result.message
    assert not (tmp_path / "cache").exists()


def test_a_link_that_stays_in_the_root_is_followed(tmp_path):
    (tmp_path / "b.nwb").write_bytes(DATA)
    (tmp_path / "a.nwb").symlink_to("b.nwb")

    assert only(fetch(local(tmp_path, pin("a.nwb", DATA)), tmp_path / "cache")).status == "done"


def test_a_missing_file_is_named(tmp_path):
    result = only(fetch(local(tmp_path, pin("a.nwb", DATA)), tmp_path / "cache"))

    assert result.message == (
        f"data/a (a.nwb): there is no file {tmp_path / 'a.nwb'}; name the folder that has it "
        "with --from-folder, put it there, or correct `root` or `path`."
    )


@pytest.mark.parametrize("place", ["sub-1/a.nwb", "a.nwb"])
def test_an_offline_folder_is_used_before_the_network(server, manifest, tmp_path, place):
    folder = tmp_path / "usb"
    (folder / place).parent.mkdir(parents=True)
    (folder / place).write_bytes(DATA)

    result = only(fetch(manifest, tmp_path / "cache", from_folder=folder))

    assert result.message == f"copied from {folder / place}"
    assert result.path.read_bytes() == DATA
    assert server.log == []


def test_an_offline_file_with_another_hash_is_not_taken(server, manifest, tmp_path):
    (tmp_path / "a.nwb").write_bytes(b"x" + DATA[1:])

    result = only(fetch(manifest, tmp_path / "cache", from_folder=tmp_path))

    assert result.path.read_bytes() == DATA
    assert len(server.log) == 1


def test_an_offline_folder_that_did_not_help_is_named_when_the_network_fails(
    server, manifest, tmp_path
):
    server.inject("files", status=404)

    result = only(fetch(manifest, tmp_path / "cache", from_folder=tmp_path))

    assert f"{tmp_path} has no file with that hash" in result.message


def test_an_offline_folder_that_is_none_is_refused(manifest, tmp_path):
    with pytest.raises(FetchError, match="is not a folder"):
        fetch(manifest, tmp_path, from_folder=tmp_path / "nowhere")


# ------------------------------------------------------------------ where assets lie


def test_two_versions_of_a_dandiset_lie_apart(tmp_path):
    def place(version: str) -> Path:
        source = DandiSource(kind="dandi", dandiset="000688", version=version)
        manifest = manifest_of(source, pin("sub-1/a.nwb", DATA, "an-id"))
        return asset_path(tmp_path, *next(manifest.items()))

    assert place("0.250122.1735") == tmp_path / "assets/data/000688-0.250122.1735/sub-1/a.nwb"
    assert place("0.250122.1735") != place("0.240101.0000")


def test_no_path_leads_out_of_the_cache(tmp_path):
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    outside.mkdir()
    good = local(tmp_path, pin("sub/a.nwb", DATA))
    dataset, asset = next(good.items())
    (cache / "assets/data/file").mkdir(parents=True)
    (cache / "assets/data/file/sub").symlink_to(outside)

    with pytest.raises(FetchError, match="leads out of the cache"):
        asset_path(cache, dataset, asset)
    for path in ("../../../../x.nwb", "../https/x.nwb"):
        with pytest.raises(FetchError, match="leads out of the cache"):
            asset_path(cache, dataset, asset.model_copy(update={"path": path}))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SPIKEDATA_CACHE": "/data/c", "XDG_CACHE_HOME": "/x"}, Path("/data/c")),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/spikedata")),
        ({"SPIKEDATA_CACHE": "", "XDG_CACHE_HOME": "rel"}, Path("/home/me/.cache/spikedata")),
        ({"SPIKEDATA_CACHE": "~/c"}, Path("/home/me/c")),
    ],
)
def test_the_cache_is_where_the_platform_or_the_user_says(monkeypatch, environment, expected):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("SPIKEDATA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert default_cache() == expected
