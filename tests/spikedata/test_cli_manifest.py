from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner, Result

from spikedata.cli import _Program
from spikedata.cli_manifest import manifest_app
from spikedata.errors import FetchError
from spikedata.manifest import Source, list_manifests, load_manifest
from spikedata.origins import Listed, Listing

OLD, NEW = "0.250122.1735", "0.260301.0900"
SHA = "ab" * 32
TOML = f"""
name = "trial"
title = "Trial"

[[datasets]]
id = "data"
title = "Data"
licence = "CC0"
citation = "Nobody (1999)"
doi = "10.1/x"
note = "Handle with care"
source = {{ kind = "dandi", dandiset = "000688", version = "{OLD}" }}
assets = [
    {{ path = "a.nwb", size = 3, sha256 = "{SHA}", session = "a", subject = "A", asset_id = "1" }},
    {{ path = "b.nwb", size = 4, sha256 = "{SHA[::-1]}", session = "b", subject = "B", asset_id = "2" }},
]
"""  # noqa: E501
A = Listed("a.nwb", 3, SHA, asset_id="1")
B = Listed("b.nwb", 4, SHA[::-1], asset_id="2")

app = typer.Typer(cls=_Program)
app.add_typer(manifest_app, name="manifest")


@app.callback()
def _parent(debug: bool = False) -> None:
    """Stand in for the whole program."""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["manifest", *map(str, arguments)])


@pytest.fixture(name="path")
def _path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a manifest in a folder of its own; commands run in another one."""
    path = tmp_path / "there/trial.toml"
    path.parent.mkdir()
    path.write_text(TOML, encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return path


@pytest.fixture(name="archive_has")
def _archive_has(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what the archive answers: files and version, or an error."""

    def answer(*files: Listed, version: str = OLD, error: Exception | None = None) -> None:
        def newest(source: Source) -> Listing:
            if error is not None:
                raise error
            return Listing(version, "Data", "CC0", "Nobody (1999)", "10.1/x", files)

        module = ModuleType("spikedata.archives")
        module.newest = newest  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, "spikedata.archives", module)

    return answer


# ------------------------------------------------------------------ list, show


def test_list_names_every_bundled_manifest():
    result = run("list")

    assert result.exit_code == 0
    assert all(name in result.stdout for name in list_manifests())


def test_list_as_json_has_numbers():
    rows = json.loads(run("list", "--json").stdout)

    assert [row["name"] for row in rows] == list(list_manifests())
    assert next(row for row in rows if row["name"] == "sample")["size"] == (
        load_manifest("sample").total_size
    )


def test_show_tells_of_assets_licence_citation_version_and_note(path):
    result = run("show", path)

    assert result.exit_code == 0
    for text in ("data/a", "data/b", "CC0", "Nobody (1999)", "10.1/x", "Handle with care", OLD,
                 "sha256", "train"):  # fmt: skip
        assert text in result.stdout


def test_show_as_json_has_the_manifest_and_its_counts(path):
    shown = json.loads(run("show", path, "--json").stdout)

    assert shown["manifest"]["name"] == "trial"
    assert (shown["counts"][0]["files"], shown["counts"][0]["size"]) == (2, 7)


def test_show_says_what_an_unpinned_asset_is_verified_against(path):
    text = TOML.replace(f'kind = "dandi", dandiset = "000688", version = "{OLD}"',
                        'kind = "zenodo", record = "1"')  # fmt: skip
    path.write_text(text.replace(f'size = 3, sha256 = "{SHA}", ', ""))

    assert "what the record states" in run("show", path).stdout


def test_an_unknown_name_is_one_sentence_and_misuse():
    result = run("show", "sampel")

    assert result.exit_code == 2
    assert "Error: No manifest is called 'sampel'; did you mean 'sample'?" in result.stderr


# ------------------------------------------------------------------ lint


def test_lint_without_names_looks_at_every_bundled_manifest():
    result = run("lint")

    assert result.exit_code == 0
    assert f"{len(list_manifests())} manifest(s): 0 error(s)" in result.stderr


def test_lint_finds_nothing_in_a_good_manifest(path):
    result = run("lint", path, "--strict")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "1 manifest(s): 0 error(s), 0 warning(s)." in result.stderr


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--strict"], 1)])
def test_warnings_fail_only_when_strict(path, options, code):
    path.write_text(TOML.replace('doi = "10.1/x"\n', ""))
    result = run("lint", path, *options)

    assert result.exit_code == code
    assert "has no doi" in result.stdout


def test_an_error_fails_and_a_broken_manifest_hides_no_other(path):
    path.write_text(TOML.replace(SHA[::-1], SHA))
    result = run("lint", "nothing", path, "--json")

    assert result.exit_code == 1
    assert [(row["manifest"], row["severity"], row["place"]) for row in json.loads(result.stdout)
            ] == [("nothing", "error", ""),
                  (str(path), "error", "datasets.data.assets.b.nwb")]  # fmt: skip


def test_what_is_said_of_many_assets_is_one_row_of_the_table(path):
    path.write_text(TOML.replace('subject = "A"', 'subject = ""').replace('"B"', '""'))
    shown, rows = run("lint", path).stdout, json.loads(run("lint", path, "--json").stdout)

    assert "datasets.data.assets.a.nwb and 1 more" in shown
    assert [row["place"] for row in rows] == [
        "datasets.data.assets.a.nwb", "datasets.data.assets.b.nwb",
    ]  # fmt: skip


# ------------------------------------------------------------------ resolve


def test_a_new_version_is_shown_and_written_here(path, archive_has):
    archive_has(A, Listed("b.nwb", 5, "cd" * 32, asset_id="9"), version=NEW)
    result = run("resolve", path)

    assert result.exit_code == 0, result.stderr
    for text in ("new version", f"{OLD} → {NEW}", "new bytes", "size 4 → 5", "1 file(s)"):
        assert text in result.stdout
    assert "Wrote trial.toml." in result.stderr
    written = load_manifest(Path("trial.toml"))
    assert [asset.asset_id for _, asset in written.items()] == ["1", "9"]


def test_nothing_is_written_when_nothing_changed(path, archive_has):
    archive_has(A, B)
    result = run("resolve", path)

    assert (result.exit_code, list(Path().iterdir())) == (0, [])
    assert "Nothing changed: every pin is the newest." in result.stderr


def test_an_output_that_is_named_is_written_all_the_same(path, archive_has):
    archive_has(A, B)
    result = run("resolve", path, "--out", "other.toml")

    assert result.exit_code == 0
    assert load_manifest(Path("other.toml")).datasets == load_manifest(path).datasets


def test_what_is_gone_is_refused_until_it_may_be_dropped(path, archive_has):
    archive_has(A)
    refused, dropped = run("resolve", path), run("resolve", path, "--drop-gone")

    assert refused.exit_code == 2
    assert "gone from their archive: data/b.nwb" in refused.stderr
    assert dropped.exit_code == 0
    assert len(load_manifest(Path("trial.toml")).datasets[0].assets) == 1


def test_a_file_that_is_there_is_replaced_only_when_asked_to(path, archive_has):
    archive_has(A, B, version=NEW)
    before = path.read_text()
    refused = run("resolve", path, "--out", path)

    assert (refused.exit_code, path.read_text()) == (2, before)
    assert "new version" in refused.stdout  # the answer of the archive is not lost
    assert run("resolve", path, "--out", path, "--overwrite").exit_code == 0
    assert load_manifest(path).datasets[0].source.version == NEW


def test_resolve_as_json_is_one_document_with_every_change(path, archive_has):
    archive_has(A, B, Listed("c.nwb", 1), version=NEW)
    shown = json.loads(run("resolve", path, "--json").stdout)

    assert (shown["manifest"], shown["changed"], shown["written"]) == ("trial", True, "trial.toml")
    assert [(one["path"], one["kind"]) for one in shown["changes"]] == [
        ("", "new version"), ("a.nwb", "unchanged"), ("b.nwb", "unchanged"),
        ("c.nwb", "not listed here"),
    ]  # fmt: skip


def test_an_archive_that_cannot_be_asked_is_one_sentence(path, archive_has):
    archive_has(error=FetchError("the archive is away; try again."))
    result = run("resolve", path)

    assert result.exit_code == 1
    assert "Error: the archive is away; try again." in result.stderr


def test_with_debug_an_error_of_a_nested_command_keeps_its_traceback(path, archive_has):
    archive_has(error=FetchError("away"))
    result = CliRunner().invoke(app, ["--debug", "manifest", "resolve", str(path)])

    assert isinstance(result.exception, FetchError)


def test_a_manifest_without_archives_has_nothing_to_resolve(path, archive_has):
    archive_has(error=FetchError("asked"))
    result = run("resolve", "sample")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "Nothing changed" in result.stderr
