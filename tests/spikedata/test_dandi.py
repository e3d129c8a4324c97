from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spikedata.bring import FetchResult, fetch_asset
from spikedata.dandi import Dandi
from spikedata.errors import FetchError, HashMismatchError
from spikedata.fetch import fetch
from spikedata.manifest import DandiSource, Manifest
from spikedata.origins import TransientError
from spikedata.transfer import Retry
from tests.loopback import Loopback, manifest_of, pin

DATA = bytes(range(256)) * 2000
QUICK = Retry(attempts=4, base=0.001)
DANDISET, VERSION, PATH = "000001", "0.250122.1735", "sub-1/sub-1_ecephys.nwb"


@pytest.fixture(name="source")
def _source(server: Loopback) -> DandiSource:
    api_url = server.url("api")
    return DandiSource(kind="dandi", dandiset=DANDISET, version=VERSION, api_url=api_url)


@pytest.fixture(name="manifest")
def _manifest(server: Loopback, source: DandiSource) -> Manifest:
    asset = server.add(DANDISET, VERSION, PATH, DATA)
    return manifest_of(source, pin(PATH, DATA, asset.asset_id))


def fetch_raising(manifest: Manifest, cache: Path) -> FetchResult:
    ((dataset, asset),) = manifest.items()
    return fetch_asset(manifest, dataset, asset, cache, retry=QUICK)


def asked(server: Loopback, verb: str) -> int:
    return sum(f"/{verb}/" in seen.path for seen in server.log)


def test_an_asset_comes_from_the_store_that_the_api_points_to(server, manifest, tmp_path):
    (result,) = fetch(manifest, tmp_path)

    assert result.path == tmp_path / f"assets/data/{DANDISET}-{VERSION}" / PATH
    assert result.path.read_bytes() == DATA
    assert [(seen.place, seen.status) for seen in server.log] == [
        ("api", 200),
        ("api", 302),
        ("store", 200),
    ]
    assert os.environ["DANDI_NO_ET"] == "1"


def test_an_asset_of_another_version_is_not_found(server, source, tmp_path):
    asset = server.add(DANDISET, "0.240101.0000", PATH, DATA)
    manifest = manifest_of(source, pin(PATH, DATA, asset.asset_id))

    with pytest.raises(FetchError, match=f"dandiset {DANDISET} version {VERSION} has no asset"):
        fetch_raising(manifest, tmp_path)


def test_a_replaced_asset_is_named_with_its_successor(server, manifest, tmp_path):
    newer = server.add(DANDISET, VERSION, PATH, DATA + b"more")

    with pytest.raises(FetchError, match=f"it was replaced by {newer.asset_id} .*; pin .* anew"):
        fetch_raising(manifest, tmp_path)


def test_a_removed_asset_is_said_to_be_gone(server, manifest, tmp_path):
    server.assets.clear()
    server.add(DANDISET, VERSION, "other.nwb", DATA)

    with pytest.raises(FetchError, match="no file at that path"):
        fetch_raising(manifest, tmp_path)


def test_an_html_404_is_understood(server, manifest, tmp_path):
    server.inject("api", status=404, times=None)

    with pytest.raises(FetchError, match=r"\(404\).*check the dandiset and the version") as caught:
        fetch_raising(manifest, tmp_path)

    assert "<" not in str(caught.value)


def test_an_answer_that_is_not_json_is_understood(server, manifest, tmp_path):
    server.inject("api", status=200, times=None)

    with pytest.raises(FetchError, match="did not answer in JSON"):
        fetch_raising(manifest, tmp_path)


@pytest.mark.parametrize(("pinned", "other"), [("size", DATA[:-1]), ("sha256", DATA[::-1])])
def test_pins_that_the_archive_contradicts_are_refused_before_any_byte(
    server, source, tmp_path, pinned, other
):
    asset = server.add(DANDISET, VERSION, PATH, other)
    manifest = manifest_of(source, pin(PATH, DATA, asset.asset_id))

    with pytest.raises(HashMismatchError, match=f"the manifest pins {pinned} "):
        fetch_raising(manifest, tmp_path)

    assert server.ranges("store") == []


def test_a_digest_that_is_not_computed_yet_is_no_contradiction(
    server, source, manifest, monkeypatch
):
    ((_, asset),) = manifest.items()
    monkeypatch.setattr("tests.archive.digests", lambda data: {})

    assert Dandi(source).find(asset) == asset


@pytest.mark.parametrize("status", [429, 503])
def test_an_api_that_is_busy_is_asked_again(server, manifest, tmp_path, status):
    server.inject("api", status=status, times=2)

    assert fetch_raising(manifest, tmp_path).status == "done"


def test_an_api_that_stays_silent_is_given_up(server, manifest, tmp_path):
    server.inject("api", stall=0.5, times=None)
    retry = Retry(attempts=2, base=0.001, timeout=0.2)

    (result,) = fetch(manifest, tmp_path, retry=retry)

    assert "2 attempts in a row failed, the last because no byte came for 0.2 s" in result.message


def test_one_call_makes_one_attempt(server, source, manifest):
    ((_, asset),) = manifest.items()
    server.inject("api", status=503, headers={"Retry-After": "7"})

    with pytest.raises(TransientError) as caught:
        Dandi(source).find(asset)

    assert caught.value.wait == 7
    assert len(server.log) == 1


# ------------------------------------------------------------------ addresses that expire


@pytest.mark.parametrize("status", [400, 403])
def test_an_expired_address_is_asked_for_again_and_the_download_goes_on(
    server, manifest, tmp_path, status
):
    server.inject("store", cut=300_000)
    server.inject("store", status=status)

    assert fetch_raising(manifest, tmp_path).path.read_bytes() == DATA
    assert asked(server, "download") == 2
    assert asked(server, "assets") == 3  # found once, located twice
    assert [seen.status for seen in server.log if seen.place == "store"] == [200, status, 206]


def test_an_address_is_kept_while_it_is_accepted(server, manifest, tmp_path):
    server.inject("store", cut=300_000)

    fetch_raising(manifest, tmp_path)

    assert asked(server, "download") == 1
    assert server.ranges("store")[1] is not None


def test_a_store_that_never_accepts_is_given_up_without_showing_the_signature(
    server, manifest, tmp_path
):
    server.inject("store", status=403, times=None)

    with pytest.raises(FetchError, match="no longer accepts the address") as caught:
        fetch_raising(manifest, tmp_path)

    assert "Signature" not in str(caught.value)


# ------------------------------------------------------------------ keys


def key_variable(server: Loopback) -> str:
    port = server.url("api").partition("127.0.0.1:")[2].partition("/")[0]
    return f"HOST_127_0_0_1_{port}_API_KEY"


def test_the_key_goes_to_the_api_and_never_to_the_store(server, manifest, tmp_path, monkeypatch):
    monkeypatch.setenv(key_variable(server), "k3y")

    assert fetch_raising(manifest, tmp_path).status == "done"
    assert {(seen.place, seen.authorization) for seen in server.log} == {
        ("api", "token k3y"),
        ("store", None),
    }


def test_the_key_of_the_public_archive_goes_to_no_other(server, manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("DANDI_API_KEY", "k3y")

    fetch_raising(manifest, tmp_path)

    assert {seen.authorization for seen in server.log} == {None}


def test_passwords_of_netrc_are_not_sent(server, manifest, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))

    assert fetch_raising(manifest, tmp_path).status == "done"
    assert {seen.authorization for seen in server.log} == {None}


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told_from_a_missing_one(server, manifest, tmp_path, monkeypatch, status):
    server.inject("api", status=status, times=None)
    variable = key_variable(server)

    with pytest.raises(FetchError, match=f"may be embargoed: put a key into {variable}"):
        fetch_raising(manifest, tmp_path)
    monkeypatch.setenv(variable, "k3y")
    with pytest.raises(FetchError, match=f"the key in {variable} or the keyring is not") as caught:
        fetch_raising(manifest, tmp_path)

    assert "k3y" not in str(caught.value)


@pytest.mark.parametrize(("key", "sent"), [("k3y\r\n", "token k3y"), ("k3y", "token k3y")])
def test_a_key_is_sent_without_the_line_end_of_its_file(
    server, manifest, tmp_path, monkeypatch, key, sent
):
    monkeypatch.setenv(key_variable(server), key)

    assert fetch_raising(manifest, tmp_path).status == "done"
    assert {seen.authorization for seen in server.log} == {sent, None}


@pytest.mark.parametrize("key", ["k3y k3y", "schlüssel", "k3y\rk3y"])
def test_a_key_that_is_none_is_refused_without_being_shown(
    server, manifest, tmp_path, monkeypatch, key
):
    monkeypatch.setenv(key_variable(server), key)

    with pytest.raises(FetchError, match="has characters that no key has") as caught:
        fetch_raising(manifest, tmp_path)

    assert key not in str(caught.value)
    assert server.log == []


def test_a_key_goes_before_a_password_of_netrc(server, manifest, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv(key_variable(server), "k3y")

    assert fetch_raising(manifest, tmp_path).status == "done"
    assert {seen.authorization for seen in server.log} == {"token k3y", None}


@pytest.mark.parametrize(
    "body", [b'{"digest": ["x"]}', b'{"contentSize": "abc"}', b"[" * 100_000, b'{"path": 1, "d'],
    ids=["list", "word", "deep", "cut"],
)  # fmt: skip
def test_an_answer_of_another_shape_fails_its_asset_only(server, manifest, tmp_path, body):
    server.inject("api", status=200, body=body, times=None)

    (result,) = fetch(manifest, tmp_path, retry=QUICK)

    assert result.status == "failed"
    assert "did not answer in JSON" in result.message or "not known" in result.message


# ------------------------------------------------------------------ imports


def test_fetch_is_imported_without_the_packages_it_only_needs_to_download():
    code = "import spikedata.fetch, sys; print({'dandi', 'requests'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


def test_the_public_archive_is_the_default():
    from dandi.consts import known_instances

    from spikedata.dandi import _instance

    assert _instance(None).api == "https://api.dandiarchive.org/api"
    assert (
        _instance("https://api.sandbox.dandiarchive.org/api/") == known_instances["dandi-sandbox"]
    )
