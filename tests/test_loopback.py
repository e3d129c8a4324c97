"""The stand-ins behave as the real servers were seen to; the sections follow the notes on them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator

import pytest
import requests
from dandi.consts import DandiInstance
from dandi.dandiapi import DandiAPIClient, RemoteDandiset, RemoteZarrAsset
from dandi.download import DownloadExisting, download
from dandi.exceptions import NotFoundError
from dandischema.digests.dandietag import DandiETag

from tests.archive import PART_SIZE, digests
from tests.loopback import Loopback, RemoteAsset

DATA = bytes(range(256)) * 100
DANDISET, VERSION, PATH = "000001", "0.250122.1735", "sub-1/sub-1_ecephys.nwb"
NIL = "00000000-0000-0000-0000-000000000000"
UNKNOWN = "11111111-1111-4111-8111-111111111111"


@pytest.fixture(name="asset")
def _asset(server: Loopback) -> RemoteAsset:
    return server.add(DANDISET, VERSION, PATH, DATA)


@pytest.fixture(name="client")
def _client(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[DandiAPIClient]:
    """Yield the client that everybody uses, asking the stand-in."""
    monkeypatch.setenv("DANDI_NO_ET", "1")
    with DandiAPIClient(dandi_instance=DandiInstance("local", None, server.url("api"))) as client:
        yield client


@pytest.fixture(name="dandiset")
def _dandiset(client: DandiAPIClient) -> RemoteDandiset:
    return client.get_dandiset(DANDISET, VERSION, lazy=True)


def get(server: Loopback, path: str = "", **options: object) -> requests.Response:
    """Ask the API for something of the version, or by a path from its root, without redirects."""
    path = path if path.startswith("/") else f"/dandisets/{DANDISET}/versions/{VERSION}/{path}"
    return requests.get(server.url("api") + path, allow_redirects=False, timeout=10, **options)


def listed(server: Loopback, **params: object) -> list[str]:
    return [one["path"] for one in get(server, "assets/", params=params).json()["results"]]


def presigned(server: Loopback, asset: RemoteAsset) -> str:
    return get(server, f"/assets/{asset.asset_id}/download/").headers["Location"]


def fill(server: Loopback, count: int) -> list[str]:
    paths = [f"sub-{index % 7}/{index:03}.nwb" for index in range(count)]
    for path in paths:
        server.add(DANDISET, VERSION, path, path.encode())
    return paths


def sequence(server: Loopback) -> list[tuple[str, str, int]]:
    """Return every request that was seen, with the names of assets and blobs left out."""
    uuid = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    return [
        (seen.place, re.sub(uuid, "UUID", seen.path.partition("?X-Amz")[0]), seen.status)
        for seen in server.log
    ]


# ------------------------------------------------------------------ the sequence of a download


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_client_downloads_a_version_with_the_sequence_of_requests_that_is_known(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("DANDI_NO_ET", "1")
    server.page_size = 2
    paths = fill(server, 5)
    version = f"/api/dandisets/{DANDISET}/versions/{VERSION}/"

    download(server.url("api") + version.removeprefix("/api"), tmp_path)

    here = tmp_path / DANDISET
    assert {path: (here / path).read_bytes() for path in paths} == {
        path: path.encode() for path in paths
    }
    assert f"doi: 10.48324/dandi.{DANDISET}/{VERSION}" in (here / "dandiset.yaml").read_text()
    seen = sequence(server)
    assert seen[:6] == [
        ("api", "/server-info", 404),
        ("api", "/api/info/", 200),
        ("api", f"/api/dandisets/{DANDISET}/", 200),
        ("api", version, 200),
        ("api", f"/api/dandisets/{DANDISET}/", 200),
        ("api", f"{version}assets/", 200),
    ]
    each = [
        ("api", f"{version}assets/UUID/", 200),
        ("api", "/api/assets/UUID/download/", 302),
        ("store", next(path for place, path, _ in seen if place == "store"), 200),
    ]
    assert sum(one[1] == each[0][1] for one in seen) == 5
    pages = [("api", f"{version}assets/?page={page}", 200) for page in (2, 3)]
    assert sorted(one for one in seen[6:] if one in pages) == pages
    assert [one[::2] for one in seen[6:] if one not in pages] == [one[::2] for one in each] * 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_client_resumes_a_download_with_one_206(server, asset, tmp_path, monkeypatch):
    monkeypatch.setenv("DANDI_NO_ET", "1")
    begun = tmp_path / DANDISET / f"{PATH}.dandidownload"
    begun.mkdir(parents=True)
    (begun / "file").write_bytes(DATA[:1000])
    (begun / "checksum").write_text(json.dumps({"dandi-etag": digests(DATA)["dandi:dandi-etag"]}))
    address = f"{server.url('api')}/dandisets/{DANDISET}/versions/{VERSION}/"

    download(address, tmp_path, existing=DownloadExisting.REFRESH)

    assert (tmp_path / DANDISET / PATH).read_bytes() == DATA
    assert [(seen.range, seen.status) for seen in server.log if seen.place == "store"] == [
        ("bytes=1000-", 206)
    ]


def test_the_client_lists_hundreds_of_assets_page_by_page(server, client):
    paths = fill(server, 250)

    found = list(client.get_dandiset(DANDISET, VERSION).get_assets())

    assert [asset.path for asset in found] == paths
    assert [asset.size for asset in found] == [len(path) for path in paths]
    asked = [path.partition("?")[2] for _, path, _ in sequence(server) if "/assets/" in path]
    assert sorted(asked) == ["", "page=2", "page=3"]


def test_the_client_knows_an_asset_by_its_path_and_downloads_it(server, asset, dandiset, tmp_path):
    found = dandiset.get_asset_by_path(PATH)
    found.download(tmp_path / "a.nwb")

    assert (found.identifier, found.size) == (asset.asset_id, len(DATA))
    assert found.get_raw_metadata()["contentSize"] == len(DATA)
    assert found.get_raw_digest("dandi:sha2-256") == hashlib.sha256(DATA).hexdigest()
    assert found.get_content_url(regex="/blobs/") == asset.urls[1]
    assert found.get_content_url(regex="/download/") == asset.urls[0]
    assert found.get_content_url(follow_redirects=True, strip_query=True) == asset.urls[1]
    assert (tmp_path / "a.nwb").read_bytes() == DATA
    assert b"".join(found.get_download_file_iter()(20_000)) == DATA[20_000:]


def test_the_client_knows_versions_and_their_metadata(server, asset, client, dandiset):
    server.describe(DANDISET, VERSION, name="Reaching")

    assert [str(version) for version in dandiset.get_versions()] == ["draft", VERSION]
    assert str(client.get_dandiset(DANDISET).version) == VERSION
    assert dandiset.version.size == len(DATA)
    assert dandiset.version.name == "Reaching"
    assert dandiset.get_raw_metadata()["license"] == ["spdx:CC-BY-4.0"]
    assert dandiset.get_raw_metadata()["doi"] in dandiset.get_raw_metadata()["citation"]
    assert client.get_dandiset(DANDISET, "draft").get_raw_metadata()["doi"].startswith("10.80507/")


def test_the_client_finds_what_is_not_there_absent(asset, client, dandiset):
    with pytest.raises(NotFoundError):
        client.get_dandiset("000002", VERSION, lazy=False)
    with pytest.raises(NotFoundError):
        client.get_dandiset(DANDISET, "0.1.2", lazy=False)
    with pytest.raises(NotFoundError):
        dandiset.get_asset(UNKNOWN)
    with pytest.raises(NotFoundError):
        dandiset.get_asset_by_path("sub-1")


def test_the_client_may_ask_the_server_for_its_services(server, asset, monkeypatch):
    monkeypatch.setenv("DANDI_NO_ET", "1")
    server.tokens = {"good"}

    with DandiAPIClient(server.url("api"), token="good") as client:
        found = client.get_asset(asset.asset_id)

    assert found.path == PATH
    assert sequence(server)[:4] == [
        ("api", "/server-info", 404),
        ("api", "/api/info/", 200),
        ("api", "/api/auth/token", 301),
        ("api", "/api/auth/token/", 200),
    ]


# ------------------------------------------------------------------ pages and filters


@pytest.mark.parametrize("size", ["0", "-3", "many", ""])
def test_a_page_size_that_is_none_silently_becomes_100(server, size):
    fill(server, 101)

    assert len(listed(server, page_size=size)) == 100


def test_a_page_has_at_most_1000_entries(server):
    fill(server, 1001)

    assert len(listed(server, page_size=5000)) == 1000


def test_a_page_past_the_end_is_empty(server, asset):
    reply = get(server, "assets/", params={"page": 7})

    assert reply.status_code == 200
    assert reply.json()["results"] == []
    assert reply.json()["next"] is None


@pytest.mark.parametrize("page", ["abc", "0", "-1", ""])
def test_a_page_that_is_no_number_is_a_404(server, asset, page):
    reply = get(server, "assets/", params={"page": page})

    assert reply.status_code == 404
    assert reply.json() == {"detail": "Invalid page."}


def test_pages_are_counted_once_and_linked_by_absolute_addresses_that_keep_the_query(server):
    paths = fill(server, 5)
    pages = [get(server, "assets/", params={"page_size": 2, "metadata": "true"}).json()]
    while pages[-1]["next"]:
        assert pages[-1]["next"].startswith(server.url("api"))
        pages.append(requests.get(pages[-1]["next"], timeout=10).json())

    assert [page["count"] for page in pages] == [5, None, None]
    assert [one["path"] for page in pages for one in page["results"]] == paths
    assert all(one["metadata"]["digest"] for page in pages for one in page["results"])
    assert pages[1]["previous"].endswith("?metadata=true&page_size=2")
    assert pages[2]["previous"].endswith("?metadata=true&page=2&page_size=2")


def test_a_path_is_a_prefix_in_any_case_and_a_glob_knows_only_the_star(server):
    for path in ("Sub-1/a.nwb", "sub-1/b[1].nwb", "sub-10/a.nwb", "other.txt"):
        server.add(DANDISET, VERSION, path, path.encode())

    assert listed(server, path="SUB-1") == ["Sub-1/a.nwb", "sub-1/b[1].nwb", "sub-10/a.nwb"]
    assert listed(server, glob="sub-1*A.NWB") == ["Sub-1/a.nwb", "sub-10/a.nwb"]
    assert listed(server, glob="*b[1]*") == ["sub-1/b[1].nwb"]
    assert listed(server, glob="sub-?/*") == []
    assert listed(server, glob="a.nwb") == []


def test_a_listing_is_in_the_order_of_creation_or_the_one_asked_for(server):
    for path in ("b", "c", "a"):
        server.add(DANDISET, VERSION, path, path.encode())

    assert listed(server) == ["b", "c", "a"]
    assert listed(server, order="path") == ["a", "b", "c"]
    assert listed(server, order="-created") == ["a", "c", "b"]


def test_a_zarr_can_be_hidden_and_has_no_download(server, asset, dandiset):
    zarr = server.add(DANDISET, VERSION, "a.zarr", b"", zarr=True)

    assert listed(server) == [PATH, "a.zarr"]
    assert listed(server, zarr="false") == [PATH]
    assert isinstance(dandiset.get_asset_by_path("a.zarr"), RemoteZarrAsset)
    assert get(server, f"/assets/{zarr.asset_id}/download/").status_code == 400


def test_metadata_comes_with_a_listing_when_asked_for(server, asset):
    ((plain,), (full,)) = (
        get(server, "assets/", params=params).json()["results"]
        for params in ({}, {"metadata": "true"})
    )

    assert "metadata" not in plain
    assert full == plain | {"metadata": get(server, f"assets/{asset.asset_id}/").json()}
    assert full == get(server, f"assets/{asset.asset_id}/info/").json()
    assert full == get(server, f"/assets/{asset.asset_id}/info/").json()
    assert full["metadata"]["contentUrl"] == list(asset.urls)
    assert asset.urls[1].endswith(f"/blobs/{asset.blob[:3]}/{asset.blob[3:6]}/{asset.blob}")


def test_the_digests_are_those_that_the_archive_computes(tmp_path):
    file = tmp_path / "a"
    for size in (1, 1000, PART_SIZE + 1):
        file.write_bytes(bytes(size))

        assert digests(bytes(size))["dandi:dandi-etag"] == DandiETag.from_file(file).as_str()


def test_the_same_bytes_share_a_blob_and_a_replacement_has_a_new_id(server, asset):
    again = server.add(DANDISET, VERSION, "copy.nwb", DATA)
    newer = server.add(DANDISET, VERSION, PATH, b"newer")

    assert again.blob == asset.blob
    assert get(server, f"assets/{asset.asset_id}/").status_code == 404
    assert get(server, f"assets/{newer.asset_id}/").status_code == 200
    assert newer.blob != asset.blob


# ------------------------------------------------------------------ addresses of bytes


@pytest.mark.parametrize("path", ["download", "info", ""])
def test_a_path_without_its_last_slash_is_a_301(server, asset, path):
    whole = f"/assets/{asset.asset_id}/{path}".rstrip("/")
    reply = get(server, f"{whole}?content_disposition=inline")

    assert reply.status_code == 301
    assert reply.headers["Location"] == f"/api{whole}/?content_disposition=inline"


def test_a_download_is_a_302_to_an_address_that_lasts_six_hours(server, asset):
    reply = get(server, f"assets/{asset.asset_id}/download/")

    assert reply.status_code == 302
    assert reply.headers["Location"].startswith(f"{asset.urls[1]}?")
    assert "X-Amz-Expires=21600" in reply.headers["Location"]
    assert requests.get(reply.headers["Location"], timeout=10).content == DATA


def test_head_on_a_presigned_address_is_403(server, asset):
    reply = requests.head(presigned(server, asset), timeout=10)

    assert (reply.status_code, reply.content) == (403, b"")


def test_the_store_answers_a_range_with_206(server, asset):
    url, size = presigned(server, asset), len(DATA)

    for asked, found, body in (
        ("bytes=1000-", f"bytes 1000-{size - 1}/{size}", DATA[1000:]),
        ("bytes=1000-1999", f"bytes 1000-1999/{size}", DATA[1000:2000]),
        ("bytes=0-0", f"bytes 0-0/{size}", DATA[:1]),
        (f"bytes=1000-{size + 5}", f"bytes 1000-{size - 1}/{size}", DATA[1000:]),
        ("bytes=-10", f"bytes {size - 10}-{size - 1}/{size}", DATA[-10:]),
    ):
        reply = requests.get(url, headers={"Range": asked}, timeout=10)

        assert (206, found) == (reply.status_code, reply.headers["Content-Range"])
        assert body == reply.content


@pytest.mark.parametrize("asked", ["bytes=20-10", "bytes=-", "lines=1-2", "bytes=1-2,4-5"])
def test_a_range_that_is_none_gives_the_whole(server, asset, asked):
    reply = requests.get(presigned(server, asset), headers={"Range": asked}, timeout=10)

    assert (reply.status_code, reply.content) == (200, DATA)


@pytest.mark.parametrize("offset", [len(DATA), len(DATA) + 1])
def test_a_range_from_the_end_on_is_416_with_the_size(server, asset, offset):
    reply = requests.get(
        presigned(server, asset), headers={"Range": f"bytes={offset}-"}, timeout=10
    )

    assert reply.status_code == 416
    assert reply.headers["Content-Range"] == f"bytes */{len(DATA)}"


def test_the_store_keeps_a_condition(server, asset):
    url = presigned(server, asset)
    etag = requests.get(url, timeout=10).headers["ETag"]
    replies = [
        requests.get(url, headers={"If-Match": one, "Range": "bytes=5-"}, timeout=10)
        for one in (etag, "*", '"other"')
    ]

    assert etag == f'"{digests(DATA)["dandi:dandi-etag"]}"'
    assert [reply.status_code for reply in replies] == [206, 206, 412]


def test_a_tampered_signature_is_403(server, asset):
    other = server.add(DANDISET, VERSION, "other.nwb", b"other")
    url = presigned(server, asset)
    wrong = (
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.replace("21600", "99999"),
        url.replace(str(asset.blob), str(other.blob)),
    )

    for one in wrong:
        reply = requests.get(one, timeout=10)

        assert reply.status_code == 403
        assert b"<Code>SignatureDoesNotMatch</Code>" in reply.content
    assert requests.get(url, timeout=10).status_code == 200


def test_an_expired_address_is_403_and_a_new_one_is_good(server, asset):
    url = presigned(server, asset)
    server.expire()

    assert "Request has expired" in requests.get(url, timeout=10).text
    assert requests.get(presigned(server, asset), timeout=10).content == DATA


def test_the_unsigned_address_is_good_for_an_open_bucket_only(server, asset):
    closed = requests.get(asset.urls[1], timeout=10)
    server.open_bucket = True
    opened = requests.get(asset.urls[1], headers={"Range": "bytes=5-"}, timeout=10)
    head = requests.head(asset.urls[1], timeout=10)
    server.embargoed.add(DANDISET)

    assert closed.status_code == 403
    assert (opened.status_code, opened.content) == (206, DATA[5:])
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(DATA)))
    assert requests.get(asset.urls[1], timeout=10).status_code == 403


@pytest.mark.parametrize("open_bucket", [False, True])
def test_the_store_refuses_a_second_credential(server, asset, open_bucket):
    server.open_bucket = open_bucket
    key = {"Authorization": "token k3y"}

    for url in (presigned(server, asset), asset.urls[1]):
        reply = requests.get(url, headers=key, timeout=10)

        assert reply.status_code == 400
        assert b"<Code>InvalidArgument</Code>" in reply.content


# ------------------------------------------------------------------ errors and keys


@pytest.mark.parametrize(
    "path",
    [
        "/dandisets/000002/",
        "/dandisets/000002/versions/draft/",
        f"/dandisets/000002/versions/{VERSION}/assets/",
        f"/dandisets/{DANDISET}/versions/0.1.2/",
        f"/assets/{UNKNOWN}/",
        f"assets/{UNKNOWN}/download/",
    ],
)
def test_what_is_not_there_is_a_404_in_json(server, asset, path):
    reply = get(server, path)

    assert reply.status_code == 404
    assert "matches the given query" in reply.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        f"/assets/{NIL}/",
        f"assets/{NIL}/info/",
        "/assets/none/",
        "/dandisets/1/",
        "/dandisets/000001/versions/newest/",
        "assets/none/download/",
        "/nothing/",
        "/../server-info",
    ],
)
def test_a_malformed_path_and_the_nil_uuid_are_a_404_in_html(server, asset, path):
    reply = get(server, path)

    assert reply.status_code == 404
    assert reply.headers["Content-Type"] == "text/html"
    assert "<html>" in reply.text


def test_a_bad_token_is_401_even_on_public_data(server, asset):
    server.tokens = {"good"}

    for key, status in (("token good", 200), ("token bad", 401), ("token ", 401)):
        reply = get(server, "assets/", headers={"Authorization": key})

        assert reply.status_code == status
    assert reply.json() == {"detail": "Invalid token."}
    assert get(server, "assets/").status_code == 200


@pytest.mark.parametrize("path", [f"/dandisets/{DANDISET}/", "", "info/", "assets/", "asset"])
def test_an_embargoed_dandiset_needs_a_key(server, asset, path):
    path = f"/assets/{asset.asset_id}/" if path == "asset" else path
    server.embargoed.add(DANDISET)

    assert get(server, path).status_code == 401
    assert get(server, path, headers={"Authorization": "token k3y"}).status_code == 200


def test_embargoed_bytes_come_by_their_presigned_address(server, asset, client, tmp_path):
    server.embargoed.add(DANDISET)
    server.tokens = {"k3y"}
    client.authenticate("k3y")

    client.get_dandiset(DANDISET, VERSION).get_asset_by_path(PATH).download(tmp_path / "a.nwb")

    assert (tmp_path / "a.nwb").read_bytes() == DATA
    assert {seen.authorization for seen in server.log if seen.place == "store"} == {None}


def test_the_client_reports_a_key_that_is_refused(server, asset, client):
    server.tokens = {"good"}

    with pytest.raises(requests.HTTPError, match="401"):
        client.authenticate("bad")


# ------------------------------------------------------------------ what has to be injected


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}])
def test_an_answer_can_be_busy(server, asset, status, headers):
    server.inject("api", status=status, headers=headers)

    busy, normal = get(server, "assets/"), get(server, "assets/")

    assert (busy.status_code, busy.headers.get("Retry-After")) == (
        status,
        headers.get("Retry-After"),
    )
    assert normal.status_code == 200


def test_a_body_can_be_cut_hang_or_be_reset(server, asset):
    url = presigned(server, asset)
    spans: list[dict[str, str]] = [{}, {"Range": "bytes=100-20000"}]
    faults = ({"cut": 5000}, {"hang": (5000, 0.3)}, {"reset": 5000})

    for fault in faults:
        for headers in spans:
            server.inject("store", **fault)
            with requests.get(url, headers=headers, stream=True, timeout=0.1) as reply:
                with pytest.raises(requests.RequestException):
                    list(reply.iter_content(1000))
                assert reply.raw.tell() <= 5000


def test_a_wrong_byte_is_at_its_offset_of_the_file(server, asset):
    url = presigned(server, asset)
    server.inject("store", flip=5000, times=4)
    whole, hit, before, after = (
        requests.get(url, headers={"Range": asked}, timeout=10).content
        for asked in ("bytes=0-", "bytes=4999-5001", "bytes=0-4999", "bytes=5001-")
    )

    assert [at for at, byte in enumerate(whole) if byte != DATA[at]] == [5000]
    assert hit == bytes([DATA[4999], DATA[5000] ^ 1, DATA[5001]])
    assert before == DATA[:5000]
    assert after == DATA[5001:]


def test_a_listing_can_repeat_a_page(server):
    paths = fill(server, 6)
    server.inject("api", match="page=2", duplicate=True)
    pages = [get(server, "assets/", params={"page_size": 2, "page": page}) for page in (1, 2, 3)]

    found = [one["path"] for page in pages for one in page.json()["results"]]

    assert found == paths[:2] * 2 + paths[4:]
    assert "page=3" in pages[1].json()["next"]


def test_an_address_can_expire_on_the_way(server, asset):
    url = presigned(server, asset)
    server.inject("store", expire=True)

    assert requests.get(url, timeout=10).status_code == 403


def test_a_server_can_answer_in_html_with_success(server, asset):
    server.inject("store", status=200)
    reply = requests.get(presigned(server, asset), timeout=10)

    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "text/html")


# ------------------------------------------------------------------ Zenodo


def test_a_record_lists_its_files_and_serves_them(server):
    server.add_record("17", {"a b.nwb": DATA, "c.txt": b"c"})
    record = requests.get(server.url("zenodo") + "/records/17", timeout=10).json()
    (first, second) = record["files"]
    reply = requests.get(first["links"]["self"], headers={"Range": "bytes=7-"}, timeout=10)

    assert (record["id"], record["metadata"]["license"]) == (17, {"id": "cc-by-4.0"})
    assert [one["key"] for one in record["files"]] == ["a b.nwb", "c.txt"]
    assert second["checksum"] == f"md5:{hashlib.md5(b'c').hexdigest()}"
    assert (reply.status_code, reply.content) == (206, DATA[7:])


def test_an_older_record_names_the_newest(server):
    server.add_record("17", {"a": b"1"}, newest="18")
    server.add_record("18", {"a": b"2"})
    address = server.url("zenodo") + "/records"
    older = requests.get(f"{address}/17", timeout=10).json()
    latest = requests.get(f"{address}/17/versions/latest", timeout=10).json()

    assert older["links"]["latest"] == f"{address}/18"
    assert latest == requests.get(f"{address}/18", timeout=10).json()
    assert latest["id"] == 18


@pytest.mark.parametrize(
    "path", ["18", "18/versions/latest", "18/files/a/content", "17/files/b/content"]
)
def test_an_unknown_record_or_file_is_a_404_in_json(server, path):
    server.add_record("17", {"a": b"1"})
    reply = requests.get(f"{server.url('zenodo')}/records/{path}", timeout=10)

    assert reply.status_code == 404
    assert reply.json()["status"] == 404
