from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.digests import Digests, agree, conflict, digests_of, pin_of
from spikedata.errors import HashMismatchError
from spikedata.manifest import Asset
from spikedata.origins import Listed
from tests.archive import digests

DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()
ETAG = digests(DATA)["dandi:dandi-etag"]
OTHER = {"size": 1, "sha256": "0" * 64, "md5": "0" * 32, "etag": "0" * 32 + "-1"}


def asset(**pins: object) -> Asset:
    return Asset(path="a.nwb", session="a", **({"size": len(DATA)} | pins))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pins", "expected"),
    [
        ({}, {"sha256": SHA}),
        ({"sha256": SHA}, {"sha256": SHA}),
        ({"md5": MD5}, {"sha256": SHA, "md5": MD5}),
        ({"sha256": SHA, "etag": ETAG}, {"sha256": SHA}),
        ({"etag": ETAG}, {"sha256": SHA, "etag": ETAG}),
    ],
    ids=["none", "sha256", "md5", "sha256 and etag", "etag"],
)
def test_a_file_has_its_sha256_and_what_else_is_needed_to_check_it(tmp_path, pins, expected):
    (tmp_path / "a").write_bytes(DATA)

    assert digests_of(tmp_path / "a", asset(**pins)) == expected


@given(st.lists(st.binary(max_size=50)))
def test_hashes_do_not_depend_on_how_bytes_are_cut(blocks):
    one = Digests(asset(md5=MD5))
    for block in blocks:
        one.update(block)

    whole = b"".join(blocks)
    assert one.found() == {
        "sha256": hashlib.sha256(whole).hexdigest(),
        "md5": hashlib.md5(whole).hexdigest(),
    }


def test_an_empty_file_has_hashes(tmp_path):
    (tmp_path / "a").touch()

    assert digests_of(tmp_path / "a", asset(size=0)) == {"sha256": hashlib.sha256().hexdigest()}


@pytest.mark.parametrize("name", ["sha256", "md5", "etag"])
def test_a_conflict_names_the_hash_that_was_found(name):
    found = {"sha256": SHA, "md5": MD5, "etag": ETAG}

    assert conflict(asset(**{name: OTHER[name]}), found) == f"{name} {found[name]}"
    assert conflict(asset(**{name: found[name]}), found) is None


def test_a_hash_that_was_not_computed_is_no_conflict():
    assert conflict(asset(sha256=SHA, etag=OTHER["etag"]), {"sha256": SHA}) is None


def test_the_strongest_pin_is_named():
    assert pin_of(asset(sha256=SHA, md5=MD5)) == f"sha256 {SHA}"
    assert pin_of(asset(md5=MD5)) == f"md5 {MD5}"
    assert pin_of(asset()) == "no hash"


@pytest.mark.parametrize("name", ["size", "sha256", "md5", "etag"])
def test_a_listing_that_contradicts_a_pin_is_refused_with_both(name):
    right = {"size": len(DATA), "sha256": SHA, "md5": MD5, "etag": ETAG}
    listed = Listed("a.nwb", **(right | {name: OTHER[name]}), asset_id="an-id")  # type: ignore[arg-type]

    with pytest.raises(
        HashMismatchError,
        match=f"pins {name} {right[name]}, here lists {OTHER[name]} for asset an-id; pin",
    ):
        agree(asset(**right), listed, "here")


def test_what_a_listing_or_a_manifest_does_not_say_agrees():
    listed = Listed("a.nwb", 5, md5=MD5)

    assert agree(asset(sha256=SHA, size=None), listed, "here") is None
