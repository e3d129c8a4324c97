from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikedata.errors import FetchError, ManifestError
from spikedata.manifest import Manifest, Source, list_manifests, load_manifest
from spikedata.origins import Listed, Listing
from spikedata.resolve import Change, Resolution, resolve, write_manifest

OLD, NEW = "0.250122.1735", "0.260301.0900"
DANDI = {"kind": "dandi", "dandiset": "000688", "version": OLD}
ZENODO = {"kind": "zenodo", "record": "100"}
SHA, OTHER = "ab" * 32, "cd" * 32
MD5, OTHER_MD5 = "ab" * 16, "cd" * 16
ETAG, OTHER_ETAG = f"{MD5}-1", f"{OTHER_MD5}-1"


def asset(path: str = "a.nwb", **fields) -> dict:
    return {"path": path, "size": 3, "sha256": SHA, "session": path.removesuffix(".nwb"),
            "subject": "A", "asset_id": f"id-{path}", **fields}  # fmt: skip


def dataset(*assets: dict, **fields) -> dict:
    return {"id": "data", "title": "Data", "licence": "CC0", "citation": "Nobody", "source": DANDI,
            "assets": assets or (asset(),), **fields}  # fmt: skip


def manifest_of(*datasets: dict, **fields) -> Manifest:
    return Manifest.model_validate(
        {"name": "trial", "title": "Trial", "datasets": datasets, **fields}
    )


def listed(path: str = "a.nwb", **fields) -> Listed:
    return Listed(**{"path": path, "size": 3, "sha256": SHA, "asset_id": f"id-{path}", **fields})


def listing(*files: Listed, **fields) -> Listing:
    said = {"version": OLD, "title": "Data", "licence": "CC0", "citation": "Nobody", "doi": None}
    return Listing(**{**said, **fields}, files=files or (listed(),))


def resolved(*datasets: dict, now: Listing | None = None, **options) -> Resolution:
    return resolve(manifest_of(*datasets), lambda source: now or listing(), **options)


def one_asset(before: dict, now: Listed, *, version: str = OLD, source: dict = DANDI):
    """Return the new asset of a manifest with one, and the change of it."""
    result = resolved(dataset(before, source=source), now=listing(now, version=version))
    changes = [change for change in result.changes if change.path]
    assert len(changes) == 1
    return result.manifest.datasets[0].assets[0], changes[0]


# ------------------------------------------------------------------ assets


def test_what_the_archive_still_has_is_unchanged():
    result = resolved(dataset(asset(), asset("b.nwb")),
                      now=listing(listed("b.nwb"), listed()))  # fmt: skip

    assert [(one.path, one.kind) for one in result.changes] == [
        ("a.nwb", "unchanged"), ("b.nwb", "unchanged"),
    ]  # fmt: skip
    assert not result.is_changed
    assert result.manifest == manifest_of(dataset(asset(), asset("b.nwb")))


def test_the_same_bytes_under_another_id_get_the_new_id():
    new, change = one_asset(asset(), listed(asset_id="other"))

    assert (new.asset_id, new.sha256) == ("other", SHA)
    assert (change.kind, change.message) == ("new id", "id-a.nwb → other")


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({}, {"sha256": OTHER}, "sha256 abababababab… → cdcdcdcdcdcd…"),
        ({}, {"size": 4}, "size 3 → 4"),
        ({"md5": MD5, "sha256": None}, {"md5": OTHER_MD5, "sha256": None},
         "md5 abababababab… → cdcdcdcdcdcd…"),
    ],
)  # fmt: skip
def test_other_bytes_are_shown_old_and_new(before, now, message):
    source = ZENODO if "md5" in now else DANDI
    new, change = one_asset(asset(**before), listed(**now), source=source,
                            version="100" if source is ZENODO else OLD)  # fmt: skip

    assert (change.kind, change.message) == ("new bytes", message)
    assert {name: getattr(new, name) for name in now} == now


def test_no_old_hash_is_kept_for_new_bytes():
    new, _ = one_asset(asset(md5=MD5, etag=ETAG), listed(sha256=OTHER))

    assert (new.sha256, new.md5, new.etag) == (OTHER, None, None)


def test_what_a_paper_says_of_an_asset_stays_with_new_bytes():
    new, _ = one_asset(asset(role="heldout", published={"units": 9}), listed(sha256=OTHER))

    assert (new.role, new.published.units, new.session) == ("heldout", 9, "a")


def test_a_hash_that_was_unknown_is_pinned():
    new, change = one_asset(
        asset(size=None, sha256=None), listed(sha256=None, md5=MD5), source=ZENODO, version="100"
    )

    assert (new.size, new.md5, new.is_pinned) == (3, MD5, True)
    assert (change.kind, change.message) == (
        "pinned", "size unknown → 3, md5 unknown → abababababab…",
    )  # fmt: skip


def test_what_the_archive_does_not_say_of_the_same_bytes_is_kept():
    new, change = one_asset(asset(md5=MD5, etag=ETAG), listed())

    assert (new.md5, new.etag, change.kind) == (MD5, ETAG, "unchanged")


def test_a_record_that_is_the_same_has_the_same_bytes():
    """Zenodo states MD5 only; a SHA-256 that somebody measured is not thrown away."""
    new, change = one_asset(asset(), listed(sha256=None, md5=MD5), source=ZENODO, version="100")

    assert (new.sha256, new.md5, change.kind) == (SHA, MD5, "pinned")


def test_a_hash_that_a_new_record_cannot_vouch_for_is_dropped():
    new, change = one_asset(asset(), listed(sha256=None, md5=MD5), source=ZENODO, version="200")

    assert (new.sha256, new.md5, change.kind) == (None, MD5, "new bytes")


def test_a_hash_still_being_computed_is_kept_where_size_and_etag_agree():
    new, change = one_asset(asset(etag=ETAG), listed(sha256=None, etag=ETAG, asset_id="other"))

    assert (new.sha256, new.asset_id, change.kind) == (SHA, "other", "new id")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"etag": ETAG}, {"etag": OTHER_ETAG}),
        ({"etag": ETAG}, {"etag": ETAG, "size": 4}),
        ({"etag": ETAG}, {}),
        ({}, {"etag": ETAG}),
    ],
)
def test_a_hash_still_being_computed_of_unknown_bytes_is_an_error(before, now):
    with pytest.raises(FetchError, match=r"data: Data, version .* states no hash yet of 1 file.*a"):
        one_asset(asset(**before), listed(**{"sha256": None, **now}))


# ------------------------------------------------------------------ gone, not listed


def test_what_is_gone_is_an_error_that_names_it():
    with pytest.raises(ManifestError, match=r"trial: 1 asset\(s\) are gone .*: data/b\.nwb; .*-go"):
        resolved(dataset(asset(), asset("b.nwb")))


def test_what_is_gone_can_be_dropped():
    result = resolved(dataset(asset(), asset("b.nwb")), drop_gone=True)

    assert [one.path for one in result.manifest.datasets[0].assets] == ["a.nwb"]
    assert Change("data", "b.nwb", "gone") in result.changes
    assert result.is_changed


def test_a_dataset_that_is_gone_altogether_is_dropped():
    files = {"kind": "file", "root": "x"}
    result = resolved(dataset(asset("b.nwb")), dataset(id="other", source=files), drop_gone=True)

    assert [one.id for one in result.manifest.datasets] == ["other"]


def test_a_manifest_of_which_nothing_is_left_is_refused():
    with pytest.raises(ManifestError, match="trial: every asset is gone from its archive"):
        resolved(dataset(asset("b.nwb")), drop_gone=True)


def test_what_the_manifest_does_not_have_is_named_and_not_added():
    result = resolved(dataset(), now=listing(listed(), listed("c.nwb")))

    assert Change("data", "c.nwb", "not listed here") in result.changes
    assert [one.path for _, one in result.manifest.items()] == ["a.nwb"]
    assert not result.is_changed


def test_what_another_dataset_takes_from_the_archive_is_listed():
    both = (dataset(), dataset(asset("b.nwb"), id="other"))
    result = resolved(*both, now=listing(listed(), listed("b.nwb")))

    assert {one.kind for one in result.changes} == {"unchanged"}


# ------------------------------------------------------------------ datasets


def test_version_doi_citation_and_licence_are_those_of_the_archive():
    doi = f"10.48324/dandi.000688/{NEW}"
    now = listing(version=NEW, doi=doi, citation="Somebody", licence="CC-BY-4.0")
    result = resolved(dataset(), now=now)
    new = result.manifest.datasets[0]

    assert (new.source.version, new.doi, new.citation, new.licence) == (
        NEW, doi, "Somebody", "CC-BY-4.0",
    )  # fmt: skip
    assert [(one.kind, one.message) for one in result.changes if not one.path] == [
        ("new version", f"{OLD} → {NEW}"),
        ("new doi", f"None → {doi}"),
        ("new citation", "Nobody → Somebody"),
        ("new licence", "CC0 → CC-BY-4.0"),
    ]


def test_a_zenodo_record_is_followed_to_the_newest():
    result = resolved(
        dataset(asset(md5=MD5), source=ZENODO), now=listing(listed(md5=MD5), version="200")
    )

    assert result.manifest.datasets[0].source.record == "200"


def test_what_the_archive_does_not_say_of_itself_is_kept():
    now = listing(citation="", licence="")

    assert resolved(dataset(doi="10.1/paper"), now=now).manifest == manifest_of(
        dataset(doi="10.1/paper")
    )


def test_the_doi_of_an_old_version_is_not_kept_for_a_new_one():
    result = resolved(dataset(doi=f"10.48324/dandi.000688/{OLD}"), now=listing(version=NEW))

    assert result.manifest.datasets[0].doi is None


def test_an_archive_is_asked_once_for_a_source_and_never_for_others():
    asked: list[Source] = []

    def newest(source: Source) -> Listing:
        asked.append(source)
        return listing(listed(), listed("b.nwb"))

    plain = {"kind": "https", "url": "https://example.org"}
    manifest = manifest_of(
        dataset(), dataset(asset("b.nwb"), id="other"), dataset(id="plain", source=plain)
    )
    result = resolve(manifest, newest)

    assert asked == [manifest.datasets[0].source]
    assert result.manifest.datasets[2] is manifest.datasets[2]


def test_an_answer_that_fits_no_manifest_is_refused_with_its_place():
    with pytest.raises(FetchError, match=r"data: the archive's version v1 .*version: "):
        resolved(dataset(), now=listing(version="v1"))


def test_the_new_manifest_still_lies_where_the_old_one_did(tmp_path):
    manifest = manifest_of(dataset())
    manifest._path = tmp_path / "trial.toml"

    assert resolve(manifest, lambda source: listing(version=NEW)).manifest.path == manifest.path


VERSIONS = st.sampled_from([OLD, NEW])
FILES = st.lists(
    st.builds(
        listed,
        st.sampled_from(["a.nwb", "b.nwb", "c.nwb", "d.nwb"]),
        size=st.sampled_from([3, 4]),
        sha256=st.sampled_from([SHA, OTHER]),
        etag=st.sampled_from([None, ETAG]),
        asset_id=st.sampled_from(["x", "y"]),
    ),
    unique_by=lambda one: one.path,
)


@given(FILES, FILES.filter(bool), VERSIONS)
def test_a_change_is_told_exactly_if_the_manifest_differs(now, before, version):
    """And resolving the result again finds nothing to change."""
    fields = ("path", "size", "sha256", "etag", "asset_id")
    old = manifest_of(
        dataset(*(asset(**{name: getattr(one, name) for name in fields}) for one in before))
    )
    paths = {one.path for one in now}
    if not any(one.path in paths for one in before):
        return
    answer = listing(*now, version=version)
    first = resolve(old, lambda source: answer, drop_gone=True)
    again = resolve(first.manifest, lambda source: answer)

    assert first.is_changed == (first.manifest != old)
    assert (again.is_changed, again.manifest) == (False, first.manifest)
    for one in first.manifest.datasets[0].assets:
        pinned = next(file for file in now if file.path == one.path)
        assert (one.size, one.sha256, one.asset_id) == (
            pinned.size, pinned.sha256, pinned.asset_id,
        )  # fmt: skip


# ------------------------------------------------------------------ writing


def content(manifest: Manifest) -> str:
    """Return everything a manifest says, with its types; its path is not said."""
    return json.dumps(manifest.model_dump(mode="json"))


@pytest.mark.parametrize("name", list_manifests())
def test_a_bundled_manifest_reads_back_the_same_beside_its_old_place(name, tmp_path):
    old = load_manifest(name)
    old._path = tmp_path / "old.toml"
    write_manifest(old, tmp_path / "new.toml")

    assert content(load_manifest(tmp_path / "new.toml")) == content(old)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.floats(allow_nan=False)
SERIES = st.fixed_dictionaries(
    {"name": st.just("position"), "source": st.lists(TEXT, min_size=1, max_size=2)},
    optional={
        "columns": st.lists(TEXT, max_size=2),
        "unit": TEXT,
        "scale": NUMBERS,
        "range": st.tuples(NUMBERS, NUMBERS),
        "max_gap": st.floats(0.1, allow_nan=False),
    },
)
SPLIT = st.one_of(
    st.just({}),
    st.just({"kind": "chronological", "train": 1.0, "valid": 0, "test": 0}),
    st.builds(
        lambda values: {"kind": "column", "table": "t", "column": "c", "values": values},
        st.dictionaries(TEXT, st.sampled_from(["train", "test"]), max_size=2),
    ),
).map(lambda split: {"kind": "chronological", **split})
HARMONIZE = st.fixed_dictionaries(
    {},
    optional={
        "units": st.fixed_dictionaries(
            {},
            optional={
                "columns": st.lists(TEXT, max_size=2),
                "keep": st.dictionaries(
                    TEXT,
                    st.lists(TEXT | st.integers(-9, 9) | st.booleans() | NUMBERS, max_size=3),
                    max_size=2,
                ),
            },
        ),
        "series": st.lists(SERIES, max_size=1),
        "splits": st.dictionaries(st.sampled_from(["main", "a.b", "7"]), SPLIT, max_size=2),
    },
)
PUBLISHED = st.sampled_from([None, {}, {"entries": 0}, {"entries": 1, "units": 4}])
MANIFESTS = st.builds(
    lambda harmonize, published, text, source, title: manifest_of(
        dataset(asset(published=published), note=text, references=[text], harmonize=harmonize,
                source=source),
        description=text,
        title=title,
        publication={"title": text, "doi": "-", "sessions": 1, "units": 0, "subjects": 1},
        absent=[{"id": "x", "title": "-", "reason": text, "licence": "-", "citation": "-",
                 "url": "https://example.org", "sessions": 1, "units": 0, "subjects": [text]}],
    ),
    HARMONIZE, PUBLISHED, TEXT, st.sampled_from([DANDI, {"kind": "file"}]), TEXT,
)  # fmt: skip


@given(MANIFESTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_manifest_reads_back_the_same(tmp_path, manifest):
    manifest._path = tmp_path / "old.toml"
    write_manifest(manifest, tmp_path / "new.toml", overwrite=True)

    assert content(load_manifest(tmp_path / "new.toml")) == content(manifest)


def test_the_first_line_says_what_it_was_resolved_against(tmp_path):
    both = (dataset(), dataset(asset("b.nwb"), id="b"), dataset(id="z", source=ZENODO))
    write_manifest(manifest_of(*both), tmp_path / "new.toml")

    assert (tmp_path / "new.toml").read_text().splitlines()[0] == (
        f"# Resolved against dandiset 000688, version {OLD}; Zenodo record 100"
    )


def test_what_has_its_default_is_not_written(tmp_path):
    write_manifest(manifest_of(dataset()), tmp_path / "new.toml")
    text = (tmp_path / "new.toml").read_text()

    for name in ("format_version", "harmonize", "role", "md5", "absent", "note", "published"):
        assert name not in text


@pytest.mark.parametrize("root", ["files", ".", "../files", "a/../files"])
def test_a_local_folder_stays_the_same_when_the_manifest_is_written_elsewhere(tmp_path, root):
    manifest = manifest_of(dataset(source={"kind": "file", "root": root}))
    manifest._path = tmp_path / "one/trial.toml"
    path = tmp_path / "two/deep/trial.toml"
    path.parent.mkdir(parents=True)
    write_manifest(manifest, path)

    new = load_manifest(path)
    before, after = (
        (one.path.parent / one.datasets[0].source.root).resolve() for one in (manifest, new)
    )
    assert before == after


def test_an_absolute_folder_is_written_as_it_is(tmp_path):
    manifest = manifest_of(dataset(source={"kind": "file", "root": str(tmp_path)}))
    write_manifest(manifest, tmp_path / "new.toml")

    assert load_manifest(tmp_path / "new.toml").datasets[0].source.root == str(tmp_path)


def test_a_file_that_is_there_is_replaced_only_when_asked_to(tmp_path):
    path = tmp_path / "new.toml"
    path.write_text("mine")

    with pytest.raises(ManifestError, match=r"new\.toml exists; .* --overwrite"):
        write_manifest(manifest_of(dataset()), path)
    assert path.read_text() == "mine"
    write_manifest(manifest_of(dataset()), path, overwrite=True)
    assert load_manifest(path).name == "trial"


def test_a_name_that_could_not_be_loaded_again_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"A manifest is a \.toml file"):
        write_manifest(manifest_of(dataset()), Path(tmp_path / "new.txt"))
