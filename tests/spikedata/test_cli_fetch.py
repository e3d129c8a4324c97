from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from spikedata.cache import asset_path
from spikedata.cli import app
from spikedata.manifest import Manifest, load_manifest
from tests.loopback import Loopback, pin

DATA = {f"s{n}": bytes([n]) * 1000 for n in range(4)}
ROLES = ("train", "train", "heldout", "transfer")


@pytest.fixture(name="server")
def _server() -> Iterator[Loopback]:
    with Loopback() as server:
        server.files.update({f"/data/sub-{n}.nwb": data for n, data in DATA.items()})
        yield server


@pytest.fixture(name="toml")
def _toml(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a manifest of four assets, of two subjects and three roles."""
    monkeypatch.setenv("SPIKEDATA_CACHE", str(tmp_path / "cache"))
    lines = ['name = "trial"', 'title = "Trial"', "[[datasets]]", 'id = "data"', 'title = "Data"',
             'licence = "CC0-1.0"', 'citation = "Nobody"',
             f'source = {{ kind = "https", url = "{server.url("files")}/data/" }}']  # fmt: skip
    for (name, data), role in zip(DATA.items(), ROLES, strict=True):
        asset = pin(f"sub-{name}.nwb", data)
        subject = "ant" if name < "s2" else "bee"
        lines += ["[[datasets.assets]]", f'path = "{asset.path}"', f"size = {asset.size}",
                  f'sha256 = "{asset.sha256}"', f'session = "{name}"', f'subject = "{subject}"',
                  f'role = "{role}"']  # fmt: skip
    path = tmp_path / "trial.toml"
    path.write_text("\n".join(lines))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def fetched(result: Result) -> dict[str, str]:
    return {row["recording_id"]: row["status"] for row in json.loads(result.stdout)}


def place_of(toml: Path, cache: Path, index: int = 0) -> Path:
    manifest: Manifest = load_manifest(toml)
    return asset_path(cache, *list(manifest.items())[index])


# ------------------------------------------------------------------ --dry-run


def test_a_dry_run_of_seven_primates_says_how_much_it_is(tmp_path):
    result = run("fetch", "-m", "nhp7", "--cache", tmp_path / "cache", "--dry-run")

    assert result.exit_code == 0
    assert "122 files, 59.14 GB; 59.14 GB to come" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_in_json_has_the_same_numbers(tmp_path):
    result = run("fetch", "-m", "nhp7", "--cache", tmp_path, "--dry-run", "--json")

    found = json.loads(result.stdout)
    assert (found["manifest"], found["files"]) == ("nhp7", 122)
    assert round(found["bytes"] / 1e9, 2) == 59.14
    assert found["bytes_missing"] == found["bytes"]
    assert found["bytes_free"] > 0
    assert {one["step"] for one in found["assets"]} == {"download"}


def test_a_dry_run_says_when_the_disk_is_too_small(toml, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=3999))

    result = run("fetch", "-m", toml, "--dry-run")

    assert result.exit_code == 0
    assert "The disk cannot hold that" in result.stderr


def test_a_dry_run_changes_nothing_and_asks_nothing(server, toml, tmp_path):
    result = run("fetch", "-m", toml, "--dry-run")

    assert "4 files" in result.stdout
    assert server.log == []
    assert list(tmp_path.iterdir()) == [toml]


def test_a_dry_run_tells_what_is_here_and_what_a_folder_has(toml, tmp_path):
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb/x").write_bytes(DATA["s3"])
    run("fetch", "-m", toml, "--include", "s0")

    result = run("fetch", "-m", toml, "--from-folder", tmp_path / "usb", "--dry-run", "--json")

    found = json.loads(result.stdout)
    steps = [one["step"] for one in found["assets"]]
    assert steps[0] == "present"
    assert steps[3] == "adopt"
    assert found["bytes_missing"] == 3000


# ------------------------------------------------------------------ fetch


def test_a_fetch_shows_a_row_for_each_asset(toml):
    result = run("fetch", "-m", toml)

    assert result.exit_code == 0
    assert result.stdout.count("done") == 4
    assert all(f"data/{name}" in result.stdout for name in DATA)


def test_a_fetch_in_json_prints_nothing_else_to_stdout(toml, tmp_path):
    rows = json.loads(run("fetch", "-m", toml, "--json").stdout)

    assert [row["recording_id"] for row in rows] == [f"data/{name}" for name in DATA]
    assert all(Path(row["path"]).is_relative_to(tmp_path / "cache") for row in rows)


def test_a_second_fetch_skips(toml):
    run("fetch", "-m", toml)

    assert set(fetched(run("fetch", "-m", toml, "--json")).values()) == {"skipped"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--include", "s1"], ["s1"]),
        (["--include", "*s[12]*"], ["s1", "s2"]),
        (["--include", "s0", "--include", "data/s3"], ["s0", "s3"]),
        (["--exclude", "s1"], ["s0", "s2", "s3"]),
        (["--subject", "bee"], ["s2", "s3"]),
        (["--role", "train"], ["s0", "s1"]),
        (["--role", "heldout", "--role", "transfer"], ["s2", "s3"]),
        (["--limit", 3], ["s0", "s1", "s2"]),
        (["--subject", "bee", "--exclude", "*s2*", "--limit", 2], ["s3"]),
    ],
    ids=str,
)
def test_only_what_is_selected_is_fetched(toml, server, options, expected):
    result = run("fetch", "-m", toml, *options, "--json")

    assert fetched(result) == {f"data/{name}": "done" for name in expected}
    assert sorted(seen.path for seen in server.log) == [f"/data/sub-{n}.nwb" for n in expected]


@pytest.mark.parametrize("option", ["--from-folder", "--from"])
def test_files_are_taken_from_a_folder_without_asking_a_server(toml, tmp_path, server, option):
    (tmp_path / "usb").mkdir()
    for name, data in DATA.items():
        (tmp_path / "usb" / f"renamed {name}").write_bytes(data)

    result = run("fetch", "-m", toml, option, tmp_path / "usb", "--offline", "--json")

    assert set(fetched(result).values()) == {"done"}
    assert server.log == []


def test_a_mirror_is_asked(toml, server):
    server.files = {path.replace("/data/", "/mirror/"): one for path, one in server.files.items()}

    result = run("fetch", "-m", toml, "--mirror", server.url("files") + "/mirror", "--json")

    assert set(fetched(result).values()) == {"done"}


def test_some_failures_end_with_one_and_a_row_that_says_why(toml, server):
    server.inject("files", match="s2", status=404, times=None)

    result = run("fetch", "-m", toml, "--json")

    rows = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [row["status"] for row in rows] == ["done", "done", "failed", "done"]
    assert "404" in rows[2]["message"]


def test_a_disk_that_is_too_small_ends_with_one_and_a_sentence(toml, server, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=3999))

    result = run("fetch", "-m", toml)

    assert result.exit_code == 1
    assert "Nothing was fetched" in result.stderr
    assert server.log == []


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-m", "nhp8"], "No manifest is called 'nhp8'"),
        (["-m", "no/such.toml"], "no/such.toml cannot be read"),
        (["-m", "nhp7", "--role", "tarin"], "no asset has the role 'tarin'"),
        (["-m", "nhp7", "--subject", "nobody"], "no asset is of the subject 'nobody'"),
        (["-m", "nhp7", "--include", "xyz"], "include 'xyz' fits no path"),
        (["-m", "nhp7", "--exclude", "*"], "leaves none of its assets"),
        (["-m", "nhp7", "--limit", "0"], "limit"),
        (["-m", "nhp7", "--jobs", "0"], "jobs"),
        (["-m", "nhp7", "--jobs", "99"], "jobs"),
        ([], "manifest"),
    ],
    ids=str,
)
def test_misuse_ends_with_two_and_a_sentence(tmp_path, options, said):
    result = run("fetch", *options, "--cache", tmp_path, "--dry-run")

    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["fetch", "dry run"])
def test_a_folder_that_is_none_gives_a_sentence(toml, tmp_path, dry):
    result = run("fetch", "-m", toml, "--from", tmp_path / "nowhere", *dry)

    assert result.exit_code == 2
    assert f"{tmp_path / 'nowhere'} to take files from is not a folder" in result.stderr
    assert "Traceback" not in result.output


def test_a_cache_in_the_place_of_a_file_gives_a_sentence(toml, tmp_path):
    (tmp_path / "cache").write_text("in the way")

    result = run("fetch", "-m", toml)

    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


# ------------------------------------------------------------------ verify


def test_verify_finds_everything_right(toml):
    run("fetch", "-m", toml)

    for options in ([], ["-m", toml]):
        result = run("verify", *options, "--json")
        assert result.exit_code == 0
        assert [row["status"] for row in json.loads(result.stdout)] == ["right"] * 4


@pytest.mark.parametrize("with_manifest", [True, False])
def test_verify_ends_with_one_when_a_file_is_wrong(toml, tmp_path, with_manifest):
    run("fetch", "-m", toml)
    place_of(toml, tmp_path / "cache", 1).write_bytes(b"x" * 1000)

    result = run("verify", *(["-m", toml] if with_manifest else []), "--json")

    rows = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [row["status"] for row in rows] == ["right", "wrong", "right", "right"]
    assert "expected 1000" in rows[1]["message"]


def test_verify_ends_with_one_when_a_file_is_missing(toml):
    run("fetch", "-m", toml, "--limit", 3)

    result = run("verify", "-m", toml)

    assert result.exit_code == 1
    assert "data/s3: sub-s3.nwb was not fetched." in result.stdout


def test_verify_of_an_empty_cache_says_so(toml, tmp_path):
    result = run("verify")

    assert result.exit_code == 0
    assert f"There are no fetched files in {tmp_path / 'cache'}." in result.stderr
