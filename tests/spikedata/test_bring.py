from __future__ import annotations

import hashlib
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from spikedata.bring import Bringer, FetchResult
from spikedata.cache import asset_path
from spikedata.errors import FetchError, HashMismatchError
from spikedata.fetch import Planned, fetch, plan, space_needed
from spikedata.folder import Folder
from spikedata.manifest import FileSource, HttpsSource, Manifest
from spikedata.transfer import Retry
from tests.loopback import QUICK, Loopback, files_in, manifest_of, only, part_of, pin

DATA = bytes(range(256)) * 400
Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture(name="manifest")
def _manifest(server: Loopback) -> Manifest:
    """One asset on the plain file server."""
    return server.serve("sub-1/a.nwb", data=DATA)


def paths(server: Loopback) -> list[str]:
    return [seen.path for seen in server.log]


# ------------------------------------------------------------------ a mirror


LABELLED = "/mirror/data/https/sub-1/a.nwb"
PLAIN = "/mirror/sub-1/a.nwb"
SOURCE = "/data/sub-1/a.nwb"


def fetch_mirrored(server: Loopback, manifest: Manifest, cache: Path) -> FetchResult:
    mirror = server.url("files") + "/mirror"
    return only(fetch(manifest, cache, mirror=mirror, retry=QUICK))


@pytest.mark.parametrize(
    ("place", "asked"), [(LABELLED, [LABELLED]), (PLAIN, [LABELLED, PLAIN])], ids=["cache", "plain"]
)
def test_a_mirror_is_asked_before_the_source(server, manifest, tmp_path, place, asked):
    server.files[place] = DATA

    result = fetch_mirrored(server, manifest, tmp_path)

    assert (result.status, result.message) == ("done", "from the mirror")
    assert result.path.read_bytes() == DATA
    assert paths(server) == asked


def test_a_mirror_that_lacks_an_asset_is_no_failure(server, manifest, tmp_path):
    result = fetch_mirrored(server, manifest, tmp_path)

    assert (result.status, result.message) == ("done", "the mirror does not have it")
    assert paths(server) == [LABELLED, PLAIN, SOURCE]


def test_a_mirror_with_wrong_bytes_is_not_believed(server, manifest, tmp_path):
    server.files[LABELLED] = DATA[::-1]

    result = fetch_mirrored(server, manifest, tmp_path)

    assert (result.status, result.path.read_bytes() == DATA) == ("done", True)
    assert paths(server)[-1] == SOURCE


def test_wrong_bytes_of_a_mirror_do_not_stay_once_the_source_gave_the_right_ones(
    server, manifest, tmp_path
):
    server.files[LABELLED] = DATA[::-1]

    fetch_mirrored(server, manifest, tmp_path)

    assert files_in(tmp_path) == ["a.nwb"]


@pytest.mark.parametrize("other", [DATA[:-1], DATA + b"x", b"<html>log in</html>"])
def test_a_mirror_with_another_size_is_not_believed(server, manifest, tmp_path, other):
    server.files[LABELLED] = server.files[PLAIN] = other

    assert fetch_mirrored(server, manifest, tmp_path).path.read_bytes() == DATA


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:9/x", "http://127.0.0.1:99999"])
def test_a_mirror_that_is_down_is_no_failure(manifest, tmp_path, mirror):
    result = only(fetch(manifest, tmp_path, mirror=mirror, retry=QUICK))

    assert result.status == "done"
    assert result.message.startswith("the mirror d")


def test_a_mirror_is_refused_offline(manifest, tmp_path):
    with pytest.raises(FetchError, match="leave out one of them"):
        fetch(manifest, tmp_path, mirror="http://127.0.0.1:9", offline=True)


def test_a_mirror_that_is_no_address_is_refused(manifest, tmp_path):
    with pytest.raises(FetchError, match="mirror 'ftp://x' is no http or https address"):
        fetch(manifest, tmp_path, mirror="ftp://x")


def test_a_mirror_that_breaks_leaves_its_bytes_to_the_source(server, manifest, tmp_path):
    server.files[LABELLED] = DATA
    server.inject("files", match="/mirror", cut=50_000)
    server.inject("files", match="/mirror", status=503, times=None)

    result = fetch_mirrored(server, manifest, tmp_path)

    assert result.path.read_bytes() == DATA
    assert server.log[-1].path == SOURCE
    assert server.log[-1].range == "bytes=50000-"


def test_a_mirror_that_is_busy_is_not_asked_for_long(server, manifest, tmp_path):
    server.inject("files", match="/mirror", status=503, times=None)

    assert fetch_mirrored(server, manifest, tmp_path).status == "done"
    assert len(server.log) == 3  # two attempts at one place, then the source


def test_when_mirror_and_source_fail_the_source_has_the_last_word(server, manifest, tmp_path):
    server.inject("files", status=404, times=None)

    assert SOURCE in fetch_mirrored(server, manifest, tmp_path).message


def test_a_mirror_is_not_asked_for_files_of_this_machine(server, tmp_path):
    (tmp_path / "a.nwb").write_bytes(DATA)
    manifest = manifest_of(FileSource(kind="file", root=str(tmp_path)), pin("a.nwb", DATA))

    assert fetch_mirrored(server, manifest, tmp_path / "cache").status == "done"
    assert server.log == []


# ------------------------------------------------------------------ offline


def test_offline_a_file_of_this_machine_is_still_copied(tmp_path):
    (tmp_path / "a.nwb").write_bytes(DATA)
    manifest = manifest_of(FileSource(kind="file", root=str(tmp_path)), pin("a.nwb", DATA))

    assert only(fetch(manifest, tmp_path / "cache", offline=True)).status == "done"


def test_offline_the_source_is_not_asked(server, manifest, tmp_path):
    result = only(fetch(manifest, tmp_path, offline=True))

    assert result.status == "failed"
    assert result.message == "data/a (sub-1/a.nwb): it is not here, and offline no server is asked."
    assert server.log == []


def test_offline_a_folder_still_gives_its_files(server, manifest, tmp_path):
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb/x").write_bytes(DATA)

    result = only(fetch(manifest, tmp_path / "cache", offline=True, from_folder=tmp_path / "usb"))

    assert (result.status, server.log) == ("done", [])


# ------------------------------------------------------------------ room on the disk


def let_be_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage(10**12, 10**12 - free, free))


def test_a_disk_that_cannot_hold_it_is_refused_before_the_first_request(
    server, manifest, tmp_path, monkeypatch
):
    let_be_free(monkeypatch, len(DATA) - 1)

    with pytest.raises(FetchError, match=r"trial needs 0\.00 GB more in .*Nothing was fetched"):
        fetch(manifest, tmp_path / "cache")

    assert server.log == []
    assert not (tmp_path / "cache").exists()


def test_a_disk_with_just_enough_room_will_do(manifest, tmp_path, monkeypatch):
    let_be_free(monkeypatch, len(DATA))

    assert only(fetch(manifest, tmp_path)).status == "done"


def test_what_is_here_already_needs_no_room(manifest, tmp_path, monkeypatch):
    fetch(manifest, tmp_path)
    let_be_free(monkeypatch, 0)

    assert only(fetch(manifest, tmp_path)).status == "skipped"


def test_what_came_of_an_asset_needs_no_room_again(manifest, tmp_path, monkeypatch):
    part = part_of(manifest, tmp_path)
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:81920])
    let_be_free(monkeypatch, len(DATA) - 81920)

    assert only(fetch(manifest, tmp_path)).message == "resumed"


def test_the_holes_of_a_part_need_room(manifest, tmp_path):
    part = part_of(manifest, tmp_path)
    part.parent.mkdir(parents=True)
    with part.open("wb") as file:
        file.seek(len(DATA) - 1)
        file.write(DATA[-1:])

    (planned,) = plan(manifest, tmp_path)

    assert planned.step == "resume"
    assert planned.missing >= len(DATA) - 8192


def test_the_room_is_that_of_the_nearest_folder_there_is(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("shutil.disk_usage", lambda place: asked.append(place) or Usage(3, 2, 1))
    one = Planned("data/a", tmp_path, "download", 5, 5)

    assert space_needed([one, one], tmp_path / "not/yet/there") == (10, 1)
    assert asked == [tmp_path]


# ------------------------------------------------------------------ the plan


def test_a_plan_adopts_what_a_folder_has_by_its_size(server, manifest, tmp_path):
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb/x").write_bytes(DATA)

    (planned,) = plan(manifest, tmp_path / "cache", folder=Folder(tmp_path / "usb"))

    assert (planned.step, planned.missing) == ("adopt", len(DATA))


def test_a_plan_changes_nothing_and_asks_nothing(server, manifest, tmp_path):
    plan(manifest, tmp_path / "cache")

    assert server.log == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_size_is_to_be_fetched(manifest, tmp_path):
    path = asset_path(tmp_path, *next(manifest.items()))
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA[:-1])

    (planned,) = plan(manifest, tmp_path)

    assert (planned.step, planned.missing) == ("download", len(DATA))


# ------------------------------------------------------------------ patience, and what is left


def test_a_server_that_is_down_is_asked_once_for_each_asset_after_the_first(server, tmp_path):
    manifest = server.serve(*(f"s{n}.nwb" for n in range(30)), data=DATA)
    server.inject("files", status=503, times=None)

    results = fetch(manifest, tmp_path, jobs=1, retry=Retry(attempts=3, base=0.001))

    assert {result.status for result in results} == {"failed"}
    assert len(server.log) == 3 + 29


def test_a_server_that_comes_back_is_asked_with_patience_again(server, tmp_path):
    manifest = server.serve(*(f"s{n}.nwb" for n in range(4)), data=DATA)
    server.inject("files", status=503, match="s0", times=None)
    server.inject("files", status=503, match="s2", times=2)

    results = fetch(manifest, tmp_path, jobs=1, retry=Retry(attempts=3, base=0.001))

    assert [result.status for result in results] == ["failed", "done", "done", "done"]


def test_a_server_that_is_down_does_not_spoil_another_dataset(server, tmp_path):
    up = server.serve("a.nwb", data=DATA)
    source = HttpsSource(kind="https", url="http://127.0.0.1:9/")
    down = manifest_of(source, pin("b.nwb", DATA)).datasets[0].model_copy(update={"id": "down"})
    both = up.model_copy(update={"datasets": (down, *up.datasets)})

    results = fetch(both, tmp_path, retry=QUICK)

    assert [result.status for result in results] == ["failed", "done"]


def test_an_asset_that_would_lie_outside_the_cache_stops_no_other(server, tmp_path):
    manifest = server.serve("x/a.nwb", "y/b.nwb", data=DATA)
    (tmp_path / "cache/assets/data/https").mkdir(parents=True)
    (tmp_path / "cache/assets/data/https/x").symlink_to(tmp_path)

    results = fetch(manifest, tmp_path / "cache", retry=QUICK)

    assert [result.status for result in results] == ["failed", "done"]


def test_bytes_that_are_wrong_raise_a_mismatch_that_names_recording_and_asset(
    server, manifest, tmp_path
):
    server.inject("files", flip=3, times=None)
    ((dataset, asset),) = manifest.items()

    with (
        Bringer(manifest, tmp_path, retry=QUICK) as bringer,
        pytest.raises(HashMismatchError, match=rf"^data/a \(sub-1/a\.nwb\): .*{asset.sha256}"),
    ):
        bringer.bring(dataset, asset)


def test_a_file_that_vanishes_from_the_folder_leaves_the_source(server, manifest, tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    folder = Folder(tmp_path)
    ((dataset, asset),) = manifest.items()
    folder.candidates(asset)
    (tmp_path / "x").unlink()

    with Bringer(manifest, tmp_path / "cache", folder=folder, retry=QUICK) as bringer:
        result = bringer.bring(dataset, asset)

    assert (result.status, paths(server)) == ("done", [SOURCE])


def test_a_wrong_file_in_the_cache_is_replaced_and_not_kept_aside(manifest, tmp_path):
    path = asset_path(tmp_path, *next(manifest.items()))
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA[::-1])

    assert only(fetch(manifest, tmp_path)).path.read_bytes() == DATA
    assert files_in(tmp_path) == ["a.nwb"]


def test_a_fetch_leaves_no_threads_behind(server, tmp_path):
    manifest = server.serve("a.nwb", "b.nwb", data=DATA)
    before = set(threading.enumerate())

    fetch(manifest, tmp_path, jobs=4)

    after = {one for one in threading.enumerate() if "process_request" not in one.name}
    assert after <= before


def test_a_small_asset_comes_in_one_request_with_one_job(server, manifest, tmp_path):
    fetch(manifest, tmp_path, jobs=1)

    assert server.ranges("files") == [None]


def test_the_hash_of_what_came_is_recorded_without_reading_it_again(
    manifest, tmp_path, monkeypatch
):
    monkeypatch.setattr("spikedata.cache.digests_of", None)

    path = only(fetch(manifest, tmp_path)).path

    assert (
        hashlib.sha256(DATA).hexdigest()
        in (
            tmp_path / "verified" / path.relative_to(tmp_path / "assets").with_name("a.nwb.json")
        ).read_text()
    )
