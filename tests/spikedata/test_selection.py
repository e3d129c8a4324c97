from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.errors import ManifestError
from spikedata.manifest import Asset, Dataset, HttpsSource, Manifest, list_manifests, load_manifest
from spikedata.selection import select

SUBJECTS = ("", "Indy", "Loco", "m1")
ROLES = ("train", "heldout", "transfer")


def asset(session: str, *, subject: str = "Indy", role: str = "train") -> Asset:
    return Asset.model_validate(
        {"path": f"sub-{subject}/{session}.nwb", "size": 1, "sha256": "ab" * 32,
         "session": session, "subject": subject, "role": role}
    )  # fmt: skip


def manifest_of(**datasets: list[Asset]) -> Manifest:
    source = HttpsSource(kind="https", url="https://example.org")
    return Manifest(
        name="trial",
        title="Trial",
        datasets=tuple(
            Dataset(id=name, title=name, licence="CC0", citation="-", source=source, assets=assets)
            for name, assets in datasets.items()
        ),
    )


MANIFEST = manifest_of(
    one=[asset("a1"), asset("a2", subject="Loco"), asset("B1", role="heldout")],
    two=[asset("a1", subject="m1", role="transfer"), asset("c1", subject="Loco")],
)


def ids(manifest: Manifest) -> list[str]:
    return [dataset.recording_id(one) for dataset, one in manifest.items()]


def refusal(**options) -> str:
    with pytest.raises(ManifestError) as caught:
        select(MANIFEST, **options)
    return str(caught.value)


# ------------------------------------------------------------------ what is chosen


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": ["a1"]}, ["one/a1", "two/a1"]),
        ({"include": ["two/*"]}, ["two/a1", "two/c1"]),
        ({"include": ["sub-Loco/*"]}, ["one/a2", "two/c1"]),
        ({"include": ["?1.nwb"]}, ["one/a1", "one/B1", "two/a1", "two/c1"]),
        ({"include": ["B*"]}, ["one/B1"]),
        ({"include": ["a2", "c1"]}, ["one/a2", "two/c1"]),
        ({"exclude": ["one/*"]}, ["two/a1", "two/c1"]),
        ({"include": ["a*"], "exclude": ["a2"]}, ["one/a1", "two/a1"]),
        ({"subjects": ["Loco", "m1"]}, ["one/a2", "two/a1", "two/c1"]),
        ({"roles": ["heldout", "transfer"]}, ["one/B1", "two/a1"]),
        ({"subjects": ["Indy"], "roles": ["heldout"]}, ["one/B1"]),
        ({"limit": 2}, ["one/a1", "one/a2"]),
        ({"limit": 99}, ids(MANIFEST)),
        ({"subjects": ["Loco"], "limit": 1}, ["one/a2"]),
        ({"exclude": ["nothing"]}, ids(MANIFEST)),
    ],
)
def test_an_option_chooses_these(options, expected):
    assert ids(select(MANIFEST, **options)) == expected


def test_without_options_it_is_the_same_manifest():
    assert select(MANIFEST) is MANIFEST


def test_a_dataset_of_which_nothing_is_left_is_dropped():
    assert [one.id for one in select(MANIFEST, include=["c1"]).datasets] == ["two"]


def test_name_and_path_and_everything_else_stay(tmp_path):
    manifest = load_manifest("sample")
    chosen = select(manifest, limit=1)

    assert chosen.path == manifest.path == Path(list_manifests()["sample"]).resolve()
    assert chosen.model_dump(exclude={"datasets"}) == manifest.model_dump(exclude={"datasets"})
    assert chosen.datasets == manifest.datasets[:1]


PATTERNS = st.lists(st.sampled_from(["a*", "*1", "b?", "one/*", "*", "sub-m1/*", "z*"]), max_size=2)
ASSETS = st.lists(
    st.builds(
        asset,
        st.from_regex(r"[ab][1-3]", fullmatch=True),
        subject=st.sampled_from(SUBJECTS),
        role=st.sampled_from(ROLES),
    ),
    min_size=1,
    unique_by=lambda one: one.session,
)


@given(
    ASSETS, ASSETS, PATTERNS, PATTERNS, st.sets(st.sampled_from(SUBJECTS[1:])),
    st.sets(st.sampled_from(ROLES)), st.none() | st.integers(1, 9),
)  # fmt: skip
def test_it_agrees_with_a_plain_filter(first, second, include, exclude, subjects, roles, limit):
    manifest = manifest_of(one=first, two=second)

    def matches(name: str, one: Asset, patterns: list[str]) -> bool:
        texts = [one.path, one.path.split("/")[-1], one.session, f"{name}/{one.session}"]
        return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)

    expected = [
        f"{name}/{one.session}"
        for name, assets in (("one", first), ("two", second))
        for one in assets
        if (not include or matches(name, one, include))
        and not matches(name, one, exclude)
        and (not subjects or one.subject in subjects)
        and (not roles or one.role in roles)
    ][:limit]
    everything = [*first, *second]
    slips = (
        subjects - {one.subject for one in everything}
        or roles - {one.role for one in everything}
        or any(not any(matches(dataset.id, one, [pattern]) for dataset, one in manifest.items())
               for pattern in include)
    )  # fmt: skip
    try:
        found = ids(select(manifest, include=include, exclude=exclude, subjects=tuple(subjects),
                           roles=tuple(roles), limit=limit))  # fmt: skip
    except ManifestError:
        found = []

    assert found == ([] if slips else expected)


# ------------------------------------------------------------------ what is refused


def test_an_unknown_subject_is_answered_with_the_near_one():
    assert refusal(subjects=["Indy", "Loko"]) == (
        "trial: no asset is of the subject 'Loko'; did you mean 'Loco'?"
    )


def test_an_unknown_role_is_answered_with_the_roles_there_are():
    assert refusal(roles=["held"]) == (
        "trial: no asset has the role 'held'; did you mean 'heldout'?"
    )


def test_a_role_that_no_asset_has_is_answered_with_those_they_have():
    with pytest.raises(ManifestError, match="no asset has the role 'heldout'; there are: train"):
        select(load_manifest("sample"), roles=["heldout"])


def test_a_pattern_that_fits_nothing_is_refused_beside_one_that_does():
    message = refusal(include=["a*", "a11"])

    assert message.startswith("trial: include 'a11' fits no path, file name, session or recording")
    assert message.endswith("did you mean 'a1'?")


def test_a_pattern_means_its_case():
    assert "include 'b1' fits no path" in refusal(include=["b1"])


def test_of_many_sessions_only_one_is_shown():
    manifest = manifest_of(one=[asset(f"s{number}") for number in range(50)])

    with pytest.raises(ManifestError, match=r"include 'xyz' fits no .*; a session is 's0'\.$"):
        select(manifest, include=["xyz"])


def test_an_exclusion_of_everything_is_named():
    assert refusal(exclude=["*"]) == "trial: exclude '*' leaves none of its assets; loosen it."


def test_options_that_only_together_leave_nothing_are_named_with_what_each_leaves():
    assert refusal(subjects=["Loco"], roles=["heldout"]) == (
        "trial: no asset is left by all of these together (subject 'Loco' leaves 2, "
        "role 'heldout' leaves 1); loosen one."
    )


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_one_or_more(limit):
    assert refusal(limit=limit) == f"trial: the limit must be 1 or more, found {limit}."
