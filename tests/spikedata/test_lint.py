from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from dandischema.digests.dandietag import PartGenerator
from hypothesis import example, given
from hypothesis import strategies as st

from spikedata.counts import Count, counts
from spikedata.lint import MAX_PARTS, PART_SIZE, RULES, Problem, lint, lint_files
from spikedata.manifest import Manifest, list_manifests

HTTPS = {"kind": "https", "url": "https://example.org"}
DANDI = {"kind": "dandi", "dandiset": "000688", "version": "0.250122.1735"}
ZENODO = {"kind": "zenodo", "record": "3854034"}
SAID = {"title": "Paper", "doi": "10.1/x", "sessions": 3, "units": 50, "subjects": 3}
LEFT_OUT = {
    "id": "lost", "title": "Lost", "reason": "not public", "licence": "-", "citation": "-",
    "url": "https://example.org", "subjects": ["Jim", "B"], "sessions": 1, "units": 20,
}  # fmt: skip


def asset(session: str, **fields) -> dict:
    digest = hashlib.sha256(session.encode()).hexdigest()
    return {"path": f"sub-A/{session}.nwb", "size": 3, "sha256": digest, "session": session,
            "subject": "A", "asset_id": session, **fields}  # fmt: skip


def dataset(*assets: dict, **fields) -> dict:
    return {"id": "data", "title": "Data", "licence": "CC0", "citation": "Nobody", "doi": "10.1/y",
            "source": HTTPS, "assets": assets or (asset("a"),), **fields}  # fmt: skip


def manifest_of(*datasets: dict, **fields) -> Manifest:
    return Manifest.model_validate(
        {"name": "trial", "title": "Trial", "datasets": datasets, **fields}
    )


def problems(*datasets: dict, **fields) -> list[Problem]:
    return lint(manifest_of(*datasets, **fields))


def only(found: list[Problem], severity: str) -> tuple[str, str]:
    """Return place and message of the only problem, which is of that severity."""
    assert [one.severity for one in found] == [severity], found
    return found[0].place, found[0].message


def test_a_good_manifest_has_no_problems():
    assert problems(dataset(asset("a"), asset("b", role="heldout"))) == []


def test_the_bundled_manifests_have_no_errors():
    found = lint_files(list_manifests())

    assert [(name, one) for name, listed in found.items() for one in listed
            if one.severity == "error"] == []  # fmt: skip


def test_every_rule_says_in_a_sentence_what_it_asks():
    for rules in RULES.values():
        for rule in rules:
            assert (rule.__doc__ or "").splitlines()[0].endswith("."), rule.__name__


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize("role", ["heldout", "transfer"])
def test_held_out_bytes_may_not_be_trained_on_under_another_name(role):
    trained = asset("a")
    other = dataset(asset("b", role=role, sha256=trained["sha256"]), id="other")

    assert only(problems(dataset(trained), other), "error") == (
        "datasets.other.assets.sub-A/b.nwb",
        f"is for {role}, but datasets.data.assets.sub-A/a.nwb, which is for training, has the "
        "same sha256; leave one of them out.",
    )


def test_held_out_bytes_are_known_by_their_md5_too():
    md5 = "cd" * 16
    kept = asset("b", role="heldout", md5=md5, sha256=None)
    place, message = only(problems(dataset(asset("a", md5=md5), kept, source=ZENODO)), "error")

    assert (place, "same md5" in message) == ("datasets.data.assets.sub-A/b.nwb", True)


def test_two_held_out_assets_may_have_the_same_bytes_in_two_datasets():
    same = {"sha256": "ab" * 32, "role": "heldout"}

    assert problems(dataset(asset("a", **same)), dataset(asset("b", **same), id="other")) == []


def test_the_same_bytes_twice_in_a_dataset_are_named():
    found = problems(dataset(asset("a"), asset("b", sha256=asset("a")["sha256"])))

    assert only(found, "error") == (
        "datasets.data.assets.sub-A/b.nwb", "has the sha256 of sub-A/a.nwb; keep one.",
    )  # fmt: skip


def etag_problems(size: int, parts: int) -> list[Problem]:
    return problems(dataset(asset("a", size=size, etag=f"{'ab' * 16}-{parts}")))


@given(st.integers(0, 5_000_000_000_000))
@example(0)
@example(1)
@example(PART_SIZE)
@example(PART_SIZE + 1)
@example(PART_SIZE * (MAX_PARTS - 1))
@example(PART_SIZE * MAX_PARTS)
@example(PART_SIZE * MAX_PARTS + 1)
def test_an_etag_has_as_many_parts_as_the_archive_makes(size):
    parts = PartGenerator.for_file_size(size).part_qty

    assert etag_problems(size, parts) == []
    assert only(etag_problems(size, parts + 1), "error")[1].startswith(
        f"has an etag of {parts + 1} parts, but {size} bytes make {parts};"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("genric", "did you mean 'generic'?"),
        ("no_such_package:f", "cannot be imported"),
        ("json:nothing", "has no function 'nothing'"),
        (":f", "Empty module name"),
    ],
)
def test_a_harmoniser_that_cannot_be_found_is_an_error(name, said):
    place, message = only(problems(dataset(harmonize={"harmonizer": name})), "error")

    assert place == "datasets.data.harmonize.harmonizer"
    assert said in message


def test_a_harmoniser_that_is_broken_inside_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "broken_harmoniser.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)

    place, _ = only(problems(dataset(harmonize={"harmonizer": "broken_harmoniser:f"})), "error")

    assert place == "datasets.data.harmonize.harmonizer"


def beside(folder: Path, data: bytes | None) -> list[Problem]:
    """Return the problems of a manifest that pins b"abc" beside a file with other bytes."""
    pinned = asset("a", sha256=hashlib.sha256(b"abc").hexdigest())
    manifest = manifest_of(dataset(pinned, source={"kind": "file", "root": "files"}))
    manifest._path = folder / "trial.toml"
    if data is not None:
        path = folder / "files/sub-A/a.nwb"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return lint(manifest)


@pytest.mark.parametrize("data", [b"abc", None])
def test_a_file_beside_the_manifest_is_the_pinned_one_or_absent(tmp_path, data):
    assert beside(tmp_path, data) == []


@pytest.mark.parametrize(
    ("data", "said"), [(b"abcd", "pins 3 bytes, "), (b"abx", "pins sha256 ba7816bf")]
)
def test_a_file_beside_the_manifest_with_other_bytes_is_an_error(tmp_path, data, said):
    place, message = only(beside(tmp_path, data), "error")

    assert place == "datasets.data.assets.sub-A/a.nwb"
    assert message.startswith(said)


# ------------------------------------------------------------------ warnings


@pytest.mark.parametrize(
    ("changed", "place", "said"),
    [
        ({"source": {**DANDI, "version": "draft"}}, "data", "draft of dandiset 000688"),
        ({"licence": "Not stated"}, "data", "no stated licence"),
        ({"licence": " "}, "data", "no stated licence"),
        ({"doi": None}, "data", "has no doi"),
        ({"citation": ""}, "data", "has no citation"),
        ({"source": {**HTTPS, "url": "http://lab.org/x"}}, "data.source.url", "is plain http"),
        ({"source": {**DANDI, "api_url": "http://10.0.0.1/api"}}, "data.source.api_url", "http"),
    ],
)
def test_a_dataset_is_warned_of(changed, place, said):
    found = only(problems(dataset(**changed)), "warning")

    assert found[0] == f"datasets.{place}"
    assert said in found[1]


@pytest.mark.parametrize(
    "url",
    ["http://localhost:80/x", "http://127.0.0.1:9", "http://127.3.2.1/", "http://[::1]:9/x",
     "https://lab.org"],
)  # fmt: skip
def test_plain_http_is_fine_on_this_machine(url):
    assert problems(dataset(source={"kind": "https", "url": url})) == []


@pytest.mark.parametrize("lacking", [{"size": None}, {"sha256": None}])
def test_an_asset_without_pins_is_warned_of_with_the_way_to_pin_it(lacking):
    place, message = only(problems(dataset(asset("a", **lacking), source=ZENODO)), "warning")

    assert place == "datasets.data.assets.sub-A/a.nwb"
    assert "`spikedata manifest resolve` pins it" in message


def test_an_asset_without_a_subject_is_warned_of():
    assert only(problems(dataset(asset("a", subject=""))), "warning")[1] == "has no subject."


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("sub-Indy/sub-Indy_ses-1.nwb", "Indy"),
        ("sub-Indy/sub-Indy_ses-1.nwb", "indy"),
        ("sub-monkey-n/x.nwb", "Monkey N"),
        ("sub-MonkeyL-held-in-calib/x.nwb", "MonkeyL"),
        ("sub-L/x.nwb", "Loco"),
        ("deep/sub-Indy/x.nwb", "Indy"),
        ("sub-Indy_ses-1.nwb", "Indy"),
        ("indy_1.mat", "Loco"),
        ("subject-x/a.nwb", "Indy"),
    ],
)
def test_a_path_fits_its_subject(path, subject):
    assert problems(dataset(asset("a", path=path, subject=subject))) == []


def test_a_path_that_names_another_subject_is_warned_of():
    found = problems(dataset(asset("a", path="sub-Indy/x.nwb", subject="Loco")))

    assert only(found, "warning")[1] == "has the subject 'Loco', but its path says 'Indy'."


# ------------------------------------------------------------------ sums


PAPER = (
    dataset(
        asset("a", published={"entries": 2, "units": 15}),
        asset("b", subject="B", path="b.nwb", role="heldout", published={"units": 7}),
        asset("c", subject="C", path="c.nwb"),
    ),
)


def test_sums_are_compared_with_the_publication():
    said = {**SAID, "sessions": 3, "units": 50, "subjects": 4}  # A, C, and Jim and B who are absent

    assert problems(*PAPER, publication=said, absent=[LEFT_OUT]) == []


@pytest.mark.parametrize("name", ["sessions", "units", "subjects"])
def test_a_sum_that_differs_is_warned_of_with_both_numbers(name):
    said = {**SAID, "sessions": 3, "units": 50, "subjects": 4}
    right = said[name]
    found = problems(*PAPER, publication={**said, name: 99}, absent=[LEFT_OUT])

    assert only(found, "warning") == (
        f"publication.{name}",
        f"is 99, but what is for training here and what is absent make {right}.",
    )


def test_counts_are_a_row_for_each_role_then_what_is_absent_then_the_sums():
    rows = counts(manifest_of(*PAPER, publication=SAID, absent=[LEFT_OUT]))

    assert rows == [
        Count("data", "train", 2, 6, 2, 30, 2),
        Count("data", "heldout", 1, 3, 1, 7, 1),
        Count("lost", "absent", None, None, 1, 20, 2),
        Count("train and absent", "sum", 2, 6, 3, 50, 4),
        Count("Paper", "publication", None, None, 3, 50, 3),
    ]


def test_counts_without_a_publication_have_no_sums_and_know_no_units():
    assert counts(manifest_of(dataset())) == [Count("data", "train", 1, 3, None, None, 1)]


# ------------------------------------------------------------------ many


def test_a_manifest_that_does_not_load_is_one_error_beside_the_others(tmp_path):
    (tmp_path / "bad.toml").write_text("name = 3\n")
    found = lint_files([tmp_path / "bad.toml", "sample", "nothing"])

    assert only(found[str(tmp_path / "bad.toml")], "error")[0] == ""
    assert "No manifest is called 'nothing'" in only(found["nothing"], "error")[1]
    assert all(one.severity == "warning" for one in found["sample"])
