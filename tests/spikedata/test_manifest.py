from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from spikedata.errors import ManifestError
from spikedata.manifest import Manifest, list_manifests, load_manifest

ASSET = {"path": "sub-1/a.nwb", "size": 3, "sha256": "ab" * 32, "session": "a"}
GOOD = {
    "name": "trial",
    "title": "Trial",
    "datasets": [
        {
            "id": "data",
            "title": "Data",
            "licence": "CC0-1.0",
            "citation": "Nobody",
            "source": {"kind": "https", "url": "https://example.org/files"},
            "harmonize": {
                "units": {"min_spikes": 5, "keep": {"quality": ["good", 1]}},
                "series": [
                    {"name": "position", "source": ["processing/behavior/Position"]},
                    {"name": "velocity", "velocity_of": "position"},
                ],
                "intervals": [{"name": "trials", "source": "intervals/trials"}],
                "targets": ["velocity"],
                "splits": {
                    "main": {"kind": "chronological", "train": 0.7, "valid": 0.1, "test": 0.2},
                    "trial": {"kind": "column", "table": "trials", "column": "split",
                              "values": {"a": "train", "b": "test"}},
                },
            },
            "assets": [ASSET, {**ASSET, "path": "sub-1/b.nwb", "session": "b"}],
        }
    ],
}  # fmt: skip
DANDI = {"kind": "dandi", "dandiset": "000688", "version": "0.250122.1735"}
MISSING = object()


def toml_of(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    return json.dumps(value)


def changed(*changes: tuple[str, object]) -> dict:
    """Return the good manifest with values set, or taken away, at dotted places."""
    content = copy.deepcopy(GOOD)
    for place, value in changes:
        *steps, last = place.split(".")
        table: dict = content
        for step in steps:
            table = table[int(step) if step.isdigit() else step]
        at = int(last) if last.isdigit() else last
        if value is MISSING:
            del table[at]
        else:
            table[at] = value
    return content


def load(folder: Path, *changes: tuple[str, object]) -> Manifest:
    path = folder / "trial.toml"
    lines = (f"{name} = {toml_of(value)}" for name, value in changed(*changes).items())
    path.write_text("\n".join(lines), encoding="utf-8")
    return load_manifest(path)


def problem(folder: Path, *changes: tuple[str, object]) -> str:
    """Return the message with which a changed manifest is refused, without the file's name."""
    with pytest.raises(ManifestError) as caught:
        load(folder, *changes)
    message = str(caught.value)
    start = f"{folder / 'trial.toml'}: "

    assert message.startswith(start)
    assert "\n" not in message
    return message.removeprefix(start)


# ------------------------------------------------------------------ good ones


def test_a_good_manifest_gives_its_assets_in_order(tmp_path):
    manifest = load(tmp_path)

    assert [dataset.recording_id(asset) for dataset, asset in manifest.items()] == [
        "data/a", "data/b",
    ]  # fmt: skip
    assert (manifest.total_size, manifest.path) == (6, tmp_path / "trial.toml")


def test_the_bundled_manifests_load_under_their_own_names():
    for name, path in list_manifests().items():
        manifest = load_manifest(name)

        assert (manifest.name, manifest.path) == (name, path.resolve())
        for dataset, asset in manifest.items():
            assert all((dataset.title, dataset.licence, dataset.citation)), dataset.id
            assert asset.size is None or asset.size > 0, asset.path
            if dataset.source.kind == "file":
                file = manifest.path.parent / dataset.source.root / asset.path
                assert not file.exists() or file.stat().st_size == asset.size


def test_no_recording_of_the_bundled_manifests_has_two_meanings():
    """One id in two manifests must be the same bytes: they share a store."""
    known: dict[str, str] = {}
    for name in list_manifests():
        for dataset, asset in load_manifest(name).items():
            digest = known.setdefault(dataset.recording_id(asset), asset.sha256)

            assert digest == asset.sha256, dataset.recording_id(asset)


def test_the_bundled_manifests_can_be_written_out_and_read_again():
    for name in list_manifests():
        manifest = load_manifest(name)

        again = Manifest.model_validate(manifest.model_dump(mode="json"))
        assert again.datasets == manifest.datasets, name


def test_what_is_left_out_has_a_default(tmp_path):
    manifest = load(tmp_path, ("datasets.0.harmonize", MISSING))
    options = manifest.datasets[0].harmonize

    assert (options.harmonizer, options.series, options.targets) == ("generic", (), ())
    assert list(options.splits) == ["chronological"]
    assert manifest.datasets[0].assets[0].role == "train"


def test_a_path_is_written_one_way(tmp_path):
    manifest = load(tmp_path, ("datasets.0.assets.0.path", "sub-1//./é 1.nwb"))

    assert manifest.datasets[0].assets[0].path == "sub-1/é 1.nwb"


def test_a_published_dandiset_is_accepted(tmp_path):
    ids = [(f"datasets.0.assets.{row}.asset_id", f"id-{row}") for row in (0, 1)]

    assert load(tmp_path, ("datasets.0.source", DANDI), *ids).datasets[0].source.kind == "dandi"


def test_a_manifest_cannot_be_changed(tmp_path):
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path).name = "other"


# ------------------------------------------------------------------ what is refused

HARMONIZE = "datasets.0.harmonize"
SPLIT = f"{HARMONIZE}.splits.main"
NO_SLUG = r"use letters, digits and \. _ \+ - only"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("name", "a b", NO_SLUG),
        ("name", MISSING, "Field required"),
        ("title", 3, r"valid string \(found 3\)"),
        ("datasets", [], "at least 1 item"),
        ("datasets.0.id", "../x", NO_SLUG),
        ("datasets.0.id", "", NO_SLUG),
        ("datasets.0.licence", MISSING, "Field required"),
        ("datasets.0.citation", MISSING, "Field required"),
        ("datasets.0.source", MISSING, "Field required"),
        ("datasets.0.source.kind", "ftp", "'file', 'https', 'dandi'"),
        ("datasets.0.source.url", "ftp://example.org", "https?"),
        ("datasets.0.assets", [], "at least 1 item"),
        ("datasets.0.assets.1.size", -1, "greater than or equal to 0"),
        ("datasets.0.assets.1.size", 1.5, "valid integer"),
        ("datasets.0.assets.1.sha256", "AB" * 32, "match pattern"),
        ("datasets.0.assets.1.sha256", "ab" * 31, "match pattern"),
        ("datasets.0.assets.1.session", ".hidden", NO_SLUG),
        ("datasets.0.assets.1.session", "a/b", NO_SLUG),
        ("datasets.0.assets.1.session", "a\n", NO_SLUG),
        ("datasets.0.assets.1.role", "val", "'train', 'heldout' or 'transfer'"),
        (f"{HARMONIZE}.units.min_spikes", -1, "greater than or equal to 0"),
        (f"{HARMONIZE}.series.0.name", "a b", NO_SLUG),
        (f"{HARMONIZE}.series.0.transform", "sin", "'none' or 'cos_sin'"),
        (f"{HARMONIZE}.series.0.max_speed", 0, "greater than 0"),
        (f"{HARMONIZE}.series.0.max_still", -1, "greater than 0"),
        (f"{HARMONIZE}.series.0.max_gap", 0, "greater than 0"),
        (f"{HARMONIZE}.series.0.range", [1.0], "Field required"),
        (f"{HARMONIZE}.series.0.source", [], r"^give either `source` .* or `velocity_of`"),
        (f"{HARMONIZE}.series.0.velocity_of", "x", r"^give either `source` .* or `velocity_of`"),
        (f"{HARMONIZE}.intervals.0.source", MISSING, "Field required"),
        (f"{SPLIT}.kind", "random", "'chronological', 'column'"),
        (f"{SPLIT}.train", 0.0, "greater than 0"),
        (f"{SPLIT}.gap", -1.0, "greater than or equal to 0"),
        (f"{HARMONIZE}.splits.trial.values", {"a": "val"}, "'train', 'valid' or 'test'"),
        (f"{HARMONIZE}.splits.trial.table", MISSING, "Field required"),
    ],
)
def test_a_bad_value_is_named_with_its_place(tmp_path, place, value, message):
    found = problem(tmp_path, (place, value))
    named, _, said = found.partition(": ")
    # A bad item of a list is named below its field, a bad combination of fields above them.
    outer = place.rpartition(".")[0] if said.startswith("give") else place
    outer = outer.removesuffix(".kind")
    steps = [step for step in named.split(".") if step not in ("https", "chronological", "column")]

    assert ".".join(steps).startswith(outer)
    assert re.search(message, said)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../a.nwb", "a/../../b.nwb", "a\\b.nwb", "C:/a.nwb", "c:a.nwb", "a\nb.nwb",
     "a\0b.nwb", "a\x1b[2J.nwb", "a\u202eb.nwb", ".", "", "..", "//host/a.nwb"],
)  # fmt: skip
def test_a_path_that_could_lead_elsewhere_or_deceive_is_refused(tmp_path, path):
    message = problem(tmp_path, ("datasets.0.assets.0.path", path))

    assert message.startswith(
        "datasets.0.assets.0.path: must be a relative path that stays inside its folder"
    )
    assert repr(path) in message  # escaped, so that it can be printed
    assert message.isprintable()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("colour", "red"),
        ("datasets.0.harmonise", {}),
        ("datasets.0.source.root", "x"),
        ("datasets.0.assets.0.sha1", "x"),
        (f"{HARMONIZE}.target", []),
        (f"{HARMONIZE}.units.min_spike", 3),
        (f"{HARMONIZE}.series.0.unti", "m"),
        (f"{HARMONIZE}.intervals.0.columns", []),
        (f"{SPLIT}.trian", 0.7),
    ],
)
def test_an_unknown_field_is_refused_not_ignored(tmp_path, place, value):
    message = problem(tmp_path, (place, value))

    assert "Extra inputs are not permitted" in message
    assert place.rpartition(".")[2] in message


def test_all_problems_are_listed_at_once(tmp_path):
    message = problem(
        tmp_path,
        ("name", "a b"),
        ("datasets.0.assets.0.path", "../x"),
        ("datasets.0.assets.1.sha256", "short"),
        ("datasets.0.source.url", "nowhere"),
        (f"{HARMONIZE}.unit", {}),
        (f"{SPLIT}.test", 0.9),
    )

    for place in (
        "name: ", "datasets.0.assets.0.path: ", "datasets.0.assets.1.sha256: ",
        "datasets.0.source.https.url: ", f"{HARMONIZE}.unit: ", f"{SPLIT}.chronological: ",
    ):  # fmt: skip
        assert place in message


def test_nothing_but_the_problems_is_listed(tmp_path):
    message = problem(tmp_path, ("datasets.0.assets.1.sha256", "short"))

    assert "at least 1 item" not in message


@pytest.mark.parametrize("field", ["path", "session"])
def test_two_assets_cannot_share_a_path_or_a_session(tmp_path, field):
    message = problem(tmp_path, (f"datasets.0.assets.1.{field}", ASSET[field]))

    assert message.startswith(f"datasets.0: two assets share the {field} {ASSET[field]}")


def test_two_ways_to_write_one_path_are_the_same_path(tmp_path):
    message = problem(tmp_path, ("datasets.0.assets.1.path", "sub-1//./a.nwb"))

    assert message.startswith("datasets.0: two assets share the path sub-1/a.nwb")


def test_two_datasets_cannot_share_an_id(tmp_path):
    message = problem(tmp_path, ("datasets", GOOD["datasets"] * 2))

    assert message == "top level: two datasets share an id"


@pytest.mark.parametrize("kind", ["series", "intervals"])
def test_two_series_or_tables_cannot_share_a_name(tmp_path, kind):
    first = GOOD["datasets"][0]["harmonize"][kind][0]
    message = problem(tmp_path, (f"{HARMONIZE}.{kind}", [first, first]))

    assert message.startswith(f"{HARMONIZE}: {kind} named twice: {first['name']}")


def test_a_target_that_is_no_series_is_named_with_its_neighbour(tmp_path):
    message = problem(tmp_path, (f"{HARMONIZE}.targets", ["velocty"]))

    assert message.startswith(
        f"{HARMONIZE}: target 'velocty' is no series; did you mean 'velocity'?"
    )


@pytest.mark.parametrize(("train", "total"), [(0.6, "0.9"), (0.8, "1.1"), (0.7001, "1.0001")])
def test_splits_that_do_not_add_up_to_one_are_refused(tmp_path, train, total):
    message = problem(tmp_path, (f"{SPLIT}.train", train))

    assert f"{SPLIT}.chronological: train + valid + test must be 1, found {total}" in message


@pytest.mark.parametrize("version", ["newest", "0.250122", "", "0.250122.1735\n", "v1.0.0"])
def test_a_version_that_no_dandiset_can_have_is_refused(tmp_path, version):
    message = problem(tmp_path, ("datasets.0.source", {**DANDI, "version": version}))

    assert message.startswith("datasets.0.source.dandi.version: ")


@pytest.mark.parametrize("dandiset", ["688", "DANDI:000688", "00068a", "0000688"])
def test_a_dandiset_has_six_digits(tmp_path, dandiset):
    message = problem(tmp_path, ("datasets.0.source", {**DANDI, "dandiset": dandiset}))

    assert message.startswith("datasets.0.source.dandi.dandiset: ")


def test_assets_of_a_dandiset_need_their_ids(tmp_path):
    message = problem(tmp_path, ("datasets.0.source", DANDI))

    assert message.startswith(
        "datasets.0: assets of a dandiset need an asset_id: sub-1/a.nwb, sub-1/b.nwb"
    )


def test_a_newer_manifest_is_refused_with_the_way_out(tmp_path):
    message = problem(tmp_path, ("format_version", 2))

    assert "format_version 2 is newer than this spikedata reads (1): upgrade spikedata" in message


# ------------------------------------------------------------------ files and names


def test_a_mistyped_name_is_answered_with_the_near_one(tmp_path, monkeypatch):
    path = tmp_path / "nearby.toml"
    monkeypatch.setattr("spikedata.manifest.list_manifests", lambda: {"nearby": path})

    with pytest.raises(ManifestError, match=r"No manifest is called 'nerby'; did you mean 'nearb"):
        load_manifest("nerby")


def test_a_file_that_is_missing_or_is_no_toml_is_named(tmp_path):
    path = tmp_path / "trial.toml"

    with pytest.raises(ManifestError, match=rf"{path} cannot be read: .*No such file"):
        load_manifest(path)
    path.write_text("name = \n")
    with pytest.raises(ManifestError, match=rf"{path} is not valid TOML: .*line 1"):
        load_manifest(path)
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(ManifestError, match=rf"{path} cannot be read"):
        load_manifest(path)
    path.write_text("")
    with pytest.raises(ManifestError, match=r"name: Field required; .*datasets: Field required"):
        load_manifest(str(path))
