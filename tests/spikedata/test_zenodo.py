from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from spikedata.bring import FetchResult
from spikedata.cache import as_recorded
from spikedata.errors import FetchError, HashMismatchError
from spikedata.fetch import fetch, plan
from spikedata.manifest import Asset, Manifest, ZenodoSource
from spikedata.transfer import Retry
from spikedata.zenodo import Zenodo
from tests.archive import in_json
from tests.loopback import QUICK, Loopback, files_in, manifest_of, only, pin

DATA = bytes(range(256)) * 400
MD5 = hashlib.md5(DATA).hexdigest()
NAME = "Rat 1 (a).nwb"


@pytest.fixture(name="server")
def _server() -> Iterator[Loopback]:
    with Loopback() as server:
        server.add_record("17", {NAME: DATA})
        yield server


def source_of(server: Loopback, record: str = "17") -> ZenodoSource:
    return ZenodoSource(kind="zenodo", record=record, api_url=server.url("zenodo"))


def manifest_with(server: Loopback, *assets: Asset, **pins: object) -> Manifest:
    assets = assets or (Asset(path=NAME, session="a", **pins),)  # type: ignore[arg-type]
    return manifest_of(source_of(server), *assets)


def fetch_one(manifest: Manifest, cache: Path, **how: object) -> FetchResult:
    return only(fetch(manifest, cache, retry=QUICK, **how))  # type: ignore[arg-type]


def paths(server: Loopback) -> list[str]:
    return [seen.path.removeprefix("/api/records/") for seen in server.log]


# ------------------------------------------------------------------ the plain course


def test_an_unpinned_file_is_checked_against_the_md5_of_the_record(server, tmp_path):
    result = fetch_one(manifest_with(server), tmp_path)

    assert result.path == tmp_path / "assets/data/zenodo-17" / NAME
    assert (result.status, result.path.read_bytes() == DATA) == ("done", True)
    assert paths(server)[0] == "17"


def test_a_pinned_file_is_fetched(server, tmp_path):
    assert fetch_one(manifest_with(server, pin(NAME, DATA)), tmp_path).status == "done"


def test_many_files_take_one_look_at_the_record(server, tmp_path):
    files = {f"f{n}.nwb": DATA for n in range(12)}
    server.add_record("17", files)
    assets = [Asset(path=name, session=name[:-4]) for name in files]

    results = fetch(manifest_with(server, *assets), tmp_path, retry=QUICK)

    assert {result.status for result in results} == {"done"}
    assert paths(server).count("17") == 1
    assert len(server.log) == 13


def test_an_unpinned_file_is_known_afterwards_without_a_server(server, tmp_path):
    manifest = manifest_with(server)
    fetch_one(manifest, tmp_path)
    server.log.clear()

    assert fetch_one(manifest, tmp_path, offline=True).status == "skipped"
    assert fetch_one(manifest, tmp_path).status == "skipped"
    assert server.log == []


def test_what_was_found_of_an_unpinned_file_is_what_a_later_step_takes_for_its_pins(
    server, tmp_path
):
    manifest = manifest_with(server)
    fetch_one(manifest, tmp_path)

    found = as_recorded(tmp_path, *next(manifest.items()))

    assert (found.size, found.md5) == (len(DATA), MD5)
    assert found.sha256 == hashlib.sha256(DATA).hexdigest()


def test_a_plan_knows_the_size_of_an_unpinned_file_only_once_it_was_fetched(server, tmp_path):
    manifest = manifest_with(server)
    (before,) = plan(manifest, tmp_path)
    fetch_one(manifest, tmp_path)
    (after,) = plan(manifest, tmp_path)

    assert (before.step, before.size, before.missing) == ("download", None, 0)
    assert (after.step, after.size, after.missing) == ("present", len(DATA), 0)


def test_an_unpinned_file_is_taken_from_a_folder_once_the_record_states_its_md5(server, tmp_path):
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb/copy").write_bytes(DATA)

    result = fetch_one(manifest_with(server), tmp_path / "cache", from_folder=tmp_path / "usb")

    assert result.message == f"copied from {tmp_path / 'usb/copy'}"
    assert paths(server) == ["17"]


# ------------------------------------------------------------------ what is refused


def test_an_md5_that_never_comes_is_refused_and_the_file_put_aside(server, tmp_path):
    server.inject("zenodo", match="/content", replace=DATA[::-1], times=None)

    result = fetch_one(manifest_with(server), tmp_path)

    assert result.status == "failed"
    assert MD5 in result.message
    assert hashlib.md5(DATA[::-1]).hexdigest() in result.message
    assert files_in(tmp_path) == [f"{NAME}.bad"]


@pytest.mark.parametrize("pins", [{"size": 5, "md5": MD5}, {"size": len(DATA), "md5": "0" * 32}])
def test_a_record_that_contradicts_a_pin_is_refused_before_any_byte(server, tmp_path, pins):
    message = fetch_one(manifest_with(server, **pins), tmp_path).message

    assert "the manifest pins " in message
    assert f"127.0.0.1:{server.url('zenodo').split(':')[2].split('/')[0]} record 17" in message
    assert paths(server) == ["17"]


def test_a_find_raises_a_mismatch(server):
    with pytest.raises(HashMismatchError, match=r"pins md5 0{32}, "):
        Zenodo(source_of(server)).find(Asset(path=NAME, session="a", md5="0" * 32))


def test_a_file_that_the_record_lacks_is_named(server, tmp_path):
    message = fetch_one(manifest_with(server, Asset(path="b.nwb", session="b")), tmp_path).message

    assert "record 17 has no file b.nwb; check the path and the record" in message


def test_an_unknown_record_gives_a_sentence(server, tmp_path):
    manifest = manifest_of(source_of(server, "404"), Asset(path=NAME, session="a"))

    message = fetch_one(manifest, tmp_path).message

    assert "record 404 answered 404 Not Found; check the record's number." in message


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"null"])
def test_an_answer_that_is_no_record_gives_a_sentence(server, tmp_path, body):
    server.inject("zenodo", status=200, body=body, times=None)

    assert "did not answer in JSON" in fetch_one(manifest_with(server), tmp_path).message


def test_an_unpinned_file_that_is_not_here_fails_offline(server, tmp_path):
    result = fetch_one(manifest_with(server), tmp_path, offline=True)

    assert "it is not here, and offline no server is asked" in result.message
    assert server.log == []


# ------------------------------------------------------------------ patience


def test_a_server_that_is_busy_is_asked_again(server, tmp_path):
    server.inject("zenodo", status=503, times=3)

    assert fetch_one(manifest_with(server), tmp_path).status == "done"


@pytest.mark.parametrize("pinned", [True, False])
def test_a_server_that_is_down_is_asked_little_for_the_thirtieth_file(server, tmp_path, pinned):
    server.inject("zenodo", status=503, times=None)
    names = [f"f{n}.nwb" for n in range(30)]
    assets = [pin(one, DATA) if pinned else Asset(path=one, session=one[:-4]) for one in names]

    results = fetch(
        manifest_with(server, *assets), tmp_path, retry=Retry(attempts=3, base=0.001), jobs=2
    )

    assert {result.status for result in results} == {"failed"}
    assert 30 <= len(server.log) <= 30 + 2 * 3


def test_passwords_of_netrc_are_not_sent(server, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))

    fetch_one(manifest_with(server), tmp_path)

    assert {seen.authorization for seen in server.log[:1]} == {None}


# ------------------------------------------------------------------ the record


def test_the_newest_version_of_a_record_is_listed(server):
    server.add_record("17", {NAME: DATA}, newest="23")
    server.add_record("23", {"b.nwb": DATA[:5]})

    found = Zenodo(source_of(server)).newest()

    assert (found.version, found.title) == ("23", "Record 23")
    assert [(one.path, one.size, one.md5) for one in found.files] == [
        ("b.nwb", 5, hashlib.md5(DATA[:5]).hexdigest())
    ]


@pytest.mark.parametrize("lacks", ["license", "creators", "publication_date", "title"])
def test_a_record_without_some_of_its_metadata_is_still_listed(server, monkeypatch, lacks):
    ask = server.zenodo

    def without(request):
        body = json.loads(ask(request).body)
        del body["metadata"][lacks]
        return in_json(200, body)

    monkeypatch.setattr(server, "zenodo", without)

    assert [one.path for one in Zenodo(source_of(server)).newest().files] == [NAME]


def test_the_newest_version_of_an_unknown_record_gives_a_sentence(server):
    with pytest.raises(FetchError, match="check the record's number"):
        Zenodo(source_of(server, "404")).newest()


@pytest.mark.parametrize("checksum", [None, "", "sha256:" + "0" * 64, "md5:short"])
def test_a_file_without_an_md5_is_refused_unless_the_manifest_pins_one(monkeypatch, checksum):
    record = {"id": 7, "files": [{"key": "a.mat", "size": 3, "checksum": checksum}]}
    zenodo = Zenodo(ZenodoSource(kind="zenodo", record="7"))
    monkeypatch.setattr(zenodo, "_get", lambda url: record)
    pinned = pin("a.mat", b"abc")

    assert zenodo.find(pinned) == pinned
    with pytest.raises(FetchError, match=r"states no MD5 of a\.mat"):
        zenodo.find(pinned.model_copy(update={"sha256": None}))


@pytest.mark.parametrize("files", [{"enabled": True, "entries": {}}, ["a"], [{"size": "big"}], 3])
def test_a_record_of_another_shape_gives_a_sentence(monkeypatch, files):
    zenodo = Zenodo(ZenodoSource(kind="zenodo", record="7"))
    monkeypatch.setattr(zenodo, "_get", lambda url: {"files": files})

    with pytest.raises(FetchError, match="answered in a shape that is not known"):
        zenodo.find(pin("a.mat", b"abc"))
