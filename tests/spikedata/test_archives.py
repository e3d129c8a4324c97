from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from spikedata.archives import newest, open_archive
from spikedata.bring import FetchResult
from spikedata.dandi import Dandi
from spikedata.errors import FetchError, HashMismatchError
from spikedata.fetch import fetch
from spikedata.manifest import (
    Asset,
    DandiSource,
    FileSource,
    HttpsSource,
    Manifest,
    ZenodoSource,
)
from spikedata.zenodo import Zenodo
from tests.archive import Answer, in_json
from tests.loopback import QUICK, Loopback, manifest_of, only, pin

DANDISET, VERSION, PATH = "000001", "0.250122.1735", "sub-1/a.nwb"
DATA = bytes(range(256)) * 40
SECRET = "k3y-that-nobody-may-see"


def source_of(server: Loopback, version: str = VERSION) -> DandiSource:
    return DandiSource(kind="dandi", dandiset=DANDISET, version=version, api_url=server.url("api"))


def publish(server: Loopback, count: int, version: str = VERSION) -> Manifest:
    """Publish so many assets, each with bytes of its own, and pin them."""
    assets: list[Asset] = []
    for index in range(count):
        path, data = f"sub-1/a{index}.nwb", DATA + bytes([index])
        assets.append(pin(path, data, server.add(DANDISET, version, path, data).asset_id))
    return manifest_of(source_of(server, version), *assets)


def fetch_all(manifest: Manifest, cache: Path, **how: object) -> list[FetchResult]:
    return fetch(manifest, cache, retry=QUICK, **how)  # type: ignore[arg-type]


def count(server: Loopback, *, place: str = "api", part: str = "") -> int:
    return sum(seen.place == place and part in seen.path for seen in server.log)


LISTING = "/assets/?"


# ------------------------------------------------------------------ many assets of a dandiset


def test_many_assets_of_an_open_store_take_one_listing_and_a_few_redirects(server, tmp_path):
    server.open_bucket = True
    manifest = publish(server, 20)

    results = fetch_all(manifest, tmp_path, jobs=2)

    assert {result.status for result in results} == {"done"}
    assert count(server, part=LISTING) == 1
    assert 1 <= count(server, part="/download/") <= 2
    assert count(server) == 1 + count(server, part="/download/")
    assert count(server, place="store") == 20


def test_few_assets_are_asked_for_one_by_one(server, tmp_path):
    fetch_all(publish(server, 3), tmp_path)

    assert count(server, part=LISTING) == 0
    assert count(server) == 6


def test_a_store_that_wants_a_signature_is_soon_asked_with_one_at_once(server, tmp_path):
    manifest = publish(server, 20)

    results = fetch_all(manifest, tmp_path, jobs=2)

    assert {result.status for result in results} == {"done"}
    assert [seen.status for seen in server.log if seen.place == "store"].count(403) <= 4
    assert count(server, part=LISTING) == 1


def test_a_listing_over_several_pages_is_read_to_its_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr("spikedata.dandi.PAGE", 3)
    server.open_bucket = True

    results = fetch_all(publish(server, 10), tmp_path)

    assert {result.status for result in results} == {"done"}
    assert count(server, part=LISTING) == 4


def test_a_page_given_twice_lists_no_asset_twice(server, monkeypatch):
    monkeypatch.setattr("spikedata.dandi.PAGE", 3)
    publish(server, 5)
    server.inject("api", match="page=2", duplicate=True, times=None)

    paths = [one.path for one in newest(source_of(server), retry=QUICK).files]

    assert len(paths) == len(set(paths))


def test_a_listing_that_leads_in_a_circle_ends(server, monkeypatch):
    publish(server, 3)
    ask = server.api

    def circle(request):
        answer = ask(request)
        if "/assets/?" not in request.target:
            return answer
        again = f"{server.url('api').removesuffix('/api')}{request.target}"
        return in_json(200, json.loads(answer.body) | {"next": again})

    monkeypatch.setattr(server, "api", circle)

    assert len(newest(source_of(server), retry=QUICK).files) == 3


def test_a_listing_that_leads_to_another_server_is_not_followed_there(
    server, tmp_path, monkeypatch
):
    manifest = publish(server, 10)
    monkeypatch.setenv(key_variable(server), SECRET)
    ask = server.api

    def elsewhere(request):
        answer = ask(request)
        if "/assets/?" not in request.target:
            return answer
        away = server.url("files") + "/api/more"
        return in_json(200, json.loads(answer.body) | {"next": away})

    monkeypatch.setattr(server, "api", elsewhere)

    results = fetch_all(manifest, tmp_path)

    host = urlsplit(server.url("files")).netloc
    assert all(f"lists assets on at {host}, another server" in one.message for one in results)
    assert count(server, place="files") == 0


def test_a_redirect_of_the_api_takes_no_key_to_another_server(server, tmp_path, monkeypatch):
    manifest = publish(server, 1)
    monkeypatch.setenv(key_variable(server), SECRET)
    away = Answer(302, headers={"Location": server.url("files") + "/anywhere"})
    monkeypatch.setattr(server, "api", lambda request: away)

    assert only(fetch_all(manifest, tmp_path)).status == "failed"
    assert {seen.authorization for seen in server.log if seen.place == "files"} <= {None}


# ------------------------------------------------------------------ assets that were replaced


@pytest.mark.parametrize("version", [VERSION, "draft"])
@pytest.mark.parametrize("n_assets", [1, 10])
def test_an_asset_replaced_by_one_of_the_same_bytes_is_fetched(server, tmp_path, version, n_assets):
    manifest = publish(server, n_assets, version)
    (first, *_) = manifest.datasets[0].assets
    server.add(DANDISET, version, first.path, DATA + bytes([0]))

    results = fetch_all(manifest, tmp_path)

    assert {result.status for result in results} == {"done"}
    assert results[0].path.read_bytes() == DATA + bytes([0])


def test_an_asset_replaced_by_other_bytes_is_named_with_both_hashes(server, tmp_path):
    manifest = publish(server, 1, "draft")
    (asset,) = manifest.datasets[0].assets
    newer = pin(asset.path, DATA[::-1])
    server.add(DANDISET, "draft", asset.path, DATA[::-1])

    message = only(fetch_all(manifest, tmp_path)).message

    assert f"{newer.size} bytes and sha256 {newer.sha256}" in message
    assert f"{asset.size} bytes and {asset.sha256} are pinned" in message
    assert count(server, place="store") == 0


def test_an_asset_whose_path_is_the_beginning_of_another_is_not_taken_for_it(server, tmp_path):
    gone = server.add(DANDISET, VERSION, PATH, DATA)
    manifest = manifest_of(source_of(server), pin(PATH, DATA, gone.asset_id))
    server.assets.clear()
    server.add(DANDISET, VERSION, f"{PATH}.nwb", DATA)

    assert "no file at that path" in only(fetch_all(manifest, tmp_path)).message


def test_an_etag_that_the_archive_contradicts_is_refused_before_any_byte(server):
    asset = server.add(DANDISET, VERSION, PATH, DATA)
    wrong = pin(PATH, DATA, asset.asset_id).model_copy(update={"etag": "0" * 32 + "-1"})

    with pytest.raises(HashMismatchError, match=r"pins etag 0{32}-1, "):
        Dandi(source_of(server)).find(wrong)


def test_a_zarr_in_the_place_of_an_asset_is_refused(server, tmp_path):
    asset = server.add(DANDISET, VERSION, PATH, DATA)
    manifest = manifest_of(source_of(server), pin(PATH, DATA, asset.asset_id))
    server.add(DANDISET, VERSION, PATH, DATA, zarr=True)

    assert "and no file at that path" in only(fetch_all(manifest, tmp_path)).message


def test_a_zarr_beside_few_assets_does_no_harm(server, tmp_path):
    manifest = publish(server, 2)
    server.add(DANDISET, VERSION, "other.zarr", DATA, zarr=True)

    assert {one.status for one in fetch_all(manifest, tmp_path)} == {"done"}


def test_a_zarr_beside_many_assets_does_no_harm(server, tmp_path):
    manifest = publish(server, 10)
    server.add(DANDISET, VERSION, "other.zarr", DATA, zarr=True)

    assert {one.status for one in fetch_all(manifest, tmp_path)} == {"done"}


# ------------------------------------------------------------------ keys


def key_variable(server: Loopback) -> str:
    return f"HOST_127_0_0_1_{urlsplit(server.url('api')).port}_API_KEY"


def keep_key(monkeypatch: pytest.MonkeyPatch, key: str | None) -> list[str]:
    """Put a key into the keyring; return the names under which it is asked for."""
    asked: list[str] = []

    def get_password(service: str, name: str) -> str | None:
        asked.append(service)
        return key

    monkeypatch.setattr("keyring.get_password", get_password)
    return asked


def test_the_keyring_is_not_asked_for_open_data(server, tmp_path, monkeypatch):
    asked = keep_key(monkeypatch, SECRET)

    fetch_all(publish(server, 2), tmp_path)

    assert asked == []
    assert {seen.authorization for seen in server.log} == {None}


@pytest.mark.parametrize("n_assets", [1, 10])
def test_the_key_of_the_keyring_is_used_once_the_archive_asks_for_one(
    server, tmp_path, monkeypatch, n_assets
):
    manifest = publish(server, n_assets)
    server.embargoed.add(DANDISET)
    server.tokens = {SECRET}
    asked = keep_key(monkeypatch, SECRET)

    results = fetch_all(manifest, tmp_path)

    port = urlsplit(server.url("api")).port
    assert {result.status for result in results} == {"done"}
    assert set(asked) == {f"dandi-api-host-127-0-0-1-{port}"}
    assert server.log[0].authorization is None
    assert {seen.authorization for seen in server.log if seen.place == "store"} == {None}


@pytest.mark.parametrize("kept", [None, SECRET])
def test_embargoed_data_without_an_accepted_key_gives_a_sentence_without_the_key(
    server, tmp_path, monkeypatch, kept
):
    manifest = publish(server, 1)
    server.embargoed.add(DANDISET)
    server.tokens = set()
    keep_key(monkeypatch, kept)

    message = only(fetch_all(manifest, tmp_path)).message

    assert ("is not accepted" in message) == (kept is not None)
    assert key_variable(server) in message
    assert SECRET not in message


def test_a_key_is_in_no_file_and_no_message(server, tmp_path, monkeypatch):
    manifest = publish(server, 3)
    monkeypatch.setenv(key_variable(server), SECRET)
    server.inject("store", status=404, match="/blobs/")

    results = fetch_all(manifest, tmp_path)

    assert {result.status for result in results} == {"done", "failed"}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert all(SECRET.encode() not in path.read_bytes() for path in written)
    assert SECRET not in repr(results)


# ------------------------------------------------------------------ the newest version


def test_the_newest_published_version_is_listed(server):
    for version in ("0.240101.0000", VERSION, "draft"):
        server.add(DANDISET, version, PATH, DATA + version.encode())

    found = newest(source_of(server, "0.240101.0000"), retry=QUICK)

    expected = pin(PATH, DATA + VERSION.encode())
    assert found.version == VERSION
    assert [(one.path, one.size, one.sha256) for one in found.files] == [
        (PATH, expected.size, expected.sha256)
    ]
    assert found.doi == f"10.48324/dandi.{DANDISET}/{VERSION}"


def test_a_dandiset_that_was_never_published_gives_a_sentence(server):
    server.add(DANDISET, "draft", PATH, DATA)

    with pytest.raises(FetchError, match="the dandiset has no published version"):
        newest(source_of(server, "draft"), retry=QUICK)


def test_licences_are_written_as_spdx_does(server):
    server.add(DANDISET, VERSION, PATH, DATA)
    server.add_record("17", {"a.nwb": DATA})
    zenodo = ZenodoSource(kind="zenodo", record="17", api_url=server.url("zenodo"))

    listed = [newest(source, retry=QUICK).licence for source in (source_of(server), zenodo)]

    assert listed == ["CC-BY-4.0", "CC-BY-4.0"]


def test_a_busy_archive_is_asked_again_for_its_newest_version(server):
    server.add(DANDISET, VERSION, PATH, DATA)
    server.inject("api", status=503, times=2)

    assert newest(source_of(server), retry=QUICK).version == VERSION


def test_an_archive_that_is_down_gives_a_sentence(server):
    server.inject("api", status=503, times=None)

    with pytest.raises(FetchError, match=r"4 attempts in a row failed, the last because .* 503"):
        newest(source_of(server), retry=QUICK)


@pytest.mark.parametrize(
    "source",
    [FileSource(kind="file"), HttpsSource(kind="https", url="https://lab.org/")],
    ids=["file", "https"],
)
def test_a_source_without_an_archive_has_no_versions(source):
    with pytest.raises(FetchError, match=f"kind '{source.kind}' has no versions"):
        newest(source)


def test_opening_an_archive_asks_nothing(server):
    zenodo = ZenodoSource(kind="zenodo", record="17", api_url=server.url("zenodo"))

    assert isinstance(open_archive(source_of(server)), Dandi)
    assert isinstance(open_archive(zenodo), Zenodo)
    assert server.log == []
