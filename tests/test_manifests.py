"""The pinned manifests of public archives say what their listings and the literature say."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spikedata.manifest import Asset, Dataset, Manifest, load_manifest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "manifests"
LISTINGS = FOLDER / "listings"
BUILT = sorted(
    path.stem for path in FOLDER.glob("*.toml") if path.read_text("utf-8").startswith("# Built by")
)
ETAG_PART = 64 * 2**20  # bytes; DANDI's digests take larger parts above 625 GiB only
PERICH = "perich_miller_population_2018"
HELDOUT_DAYS = {f"c_{day}_center_out_reaching" for day in (20160923, 20161011, 20161013, 20161021)}
MANIFESTS = {name: load_manifest(FOLDER / f"{name}.toml") for name in BUILT}

each_manifest = pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=lambda m: m.name)


def run_build(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "build.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def dataset_of(manifest: str, dataset_id: str) -> Dataset:
    (found,) = (one for one in MANIFESTS[manifest].datasets if one.id == dataset_id)
    return found


def assets_of(manifest: Manifest, *roles: str) -> list[Asset]:
    """Return the assets in these roles, or all of them."""
    return [asset for _, asset in manifest.items() if not roles or asset.role in roles]


def sessions_of(manifest: str, *roles: str) -> set[str]:
    return {asset.session for asset in assets_of(MANIFESTS[manifest], *roles)}


def read_csv(name: str) -> list[dict[str, str]]:
    with (LISTINGS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------ building


def test_what_is_committed_is_what_is_built():
    done = run_build(FOLDER, "--check")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(BUILT) == 23


def test_a_manifest_that_was_edited_is_named_and_built_again(tmp_path):
    folder = tmp_path / "manifests"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.nwb"))
    edited, readme = folder / "nlb-rtt.toml", folder / "README.md"
    edited.write_text(edited.read_text("utf-8").replace("heldout", "train"), encoding="utf-8")
    readme.write_text(readme.read_text("utf-8").replace("59.14", "59.15"), encoding="utf-8")

    check = run_build(folder, "--check")
    assert check.returncode == 1
    assert [line.split()[0] for line in check.stdout.splitlines()] == ["nlb-rtt.toml", "README.md"]
    assert "59.15" in readme.read_text("utf-8")

    assert run_build(folder).returncode == 0
    for path in (edited, readme):
        assert path.read_bytes() == (FOLDER / path.name).read_bytes()


def test_a_built_manifest_that_nothing_asks_for_is_named(tmp_path):
    folder = tmp_path / "manifests"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.nwb"))
    selections = folder / "listings" / "selections.toml"
    text = selections.read_text("utf-8")
    selections.write_text(text.replace("[steinmetz]", "[steinmetz-2]"), encoding="utf-8")

    done = run_build(folder, "--check")

    assert done.returncode == 1
    assert "steinmetz.toml was built, and no selection names it any more" in done.stdout


def test_every_listing_is_used():
    sources = [dataset.source for one in MANIFESTS.values() for dataset in one.datasets]
    dandisets = {source.dandiset for source in sources if source.kind == "dandi"}
    ids = {dataset.id for one in MANIFESTS.values() for dataset in one.datasets}
    ids |= {absent.id for one in MANIFESTS.values() for absent in one.absent}

    found = {path.name for path in LISTINGS.iterdir()}
    tables = {name for name in found if name.endswith(".csv")}
    assert {name.removesuffix(".csv") for name in tables} <= ids
    assert found - tables == {
        "README.md", "origins.toml", "selections.toml", *(f"{one}.assets.json" for one in dandisets)
    }  # fmt: skip


def test_the_dates_of_the_listings_are_as_told():
    told = re.findall(
        r"^\| (\d{6}) \| (\S+) \| (.+) \|$", (LISTINGS / "README.md").read_text(), re.M
    )
    expected = []
    for path in sorted(LISTINGS.glob("*.assets.json")):
        listing = json.loads(path.read_text("utf-8"))
        newer = ", ".join(listing["newer_published_versions_seen_elsewhere"])
        version = listing["version"] + (f"; published since: {newer}" if newer else "")
        expected.append((listing["dandiset_id"], listing["snapshot_date"], version))

    assert told == expected


# ------------------------------------------------------------------ pins


@each_manifest
def test_pins_are_those_of_the_listing(manifest):
    for dataset in manifest.datasets:
        if dataset.source.kind != "dandi":
            continue
        path = LISTINGS / f"{dataset.source.dandiset}.assets.json"
        listed = {one["path"]: one for one in json.loads(path.read_text("utf-8"))["assets"]}
        for asset in dataset.assets:
            entry = listed[asset.path]

            assert (asset.size, asset.sha256, asset.asset_id, asset.etag) == (
                entry["size"], entry["sha256"], entry["asset_id"], entry["dandi_etag"],
            )  # fmt: skip


@each_manifest
def test_a_version_is_that_of_the_listing_or_known_to_hold_its_files(manifest):
    for dataset in manifest.datasets:
        if dataset.source.kind != "dandi":
            continue
        path = LISTINGS / f"{dataset.source.dandiset}.assets.json"
        listing = json.loads(path.read_text("utf-8"))
        version = dataset.source.version
        assert version == ("0.250122.1735" if dataset.id == PERICH else listing["version"])
        assert f"(Version {version})" in dataset.citation
        if version == "draft":
            assert listing["snapshot_date"] in dataset.note
            assert dataset.doi is None
        else:
            assert dataset.doi == f"10.48324/dandi.{dataset.source.dandiset}/{version}"
            assert dataset.citation.endswith(f" https://doi.org/{dataset.doi}")


@each_manifest
def test_an_etag_has_as_many_parts_as_its_size_needs(manifest):
    for asset in assets_of(manifest):
        if asset.etag:
            assert int(asset.etag.split("-")[1]) == -(-asset.size // ETAG_PART), asset.path


@each_manifest
def test_no_file_is_in_two_roles(manifest):
    hashes = [asset.sha256 for asset in assets_of(manifest) if asset.sha256]

    assert len(set(hashes)) == len(hashes)


def test_a_recording_is_described_the_same_in_all_manifests():
    known: dict[str, tuple] = {}
    shared = 0
    for manifest in MANIFESTS.values():
        for dataset in manifest.datasets:
            about = dataset.model_dump(exclude={"assets"})
            assert known.setdefault(dataset.id, about) == about
            for asset in dataset.assets:
                pins = asset.model_dump(exclude={"role", "published"})
                shared += dataset.recording_id(asset) in known
                assert known.setdefault(dataset.recording_id(asset), pins) == pins

    assert shared > 300


@each_manifest
def test_what_describes_a_dataset_can_be_looked_up(manifest):
    for dataset in manifest.datasets:
        assert dataset.licence == "CC-BY-4.0"
        assert dataset.references
        for reference in dataset.references:
            assert re.fullmatch(r"10\.\d{4,}/\S+|https://\S+", reference)
        for asset in dataset.assets:
            assert asset.subject
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", asset.task)


# ------------------------------------------------------------------ what is in them


@pytest.mark.parametrize(
    ("name", "files", "gigabytes", "train", "heldout", "transfer"),
    [
        ("nhp7", 122, 59.14, 95 + 9 + 1, 16 + 1, 0),
        ("poyo-mp-paper", 111, 13.18, 95, 16, 0),
        ("poyo-mp-public", 99, 12.74, 99, 0, 0),
        ("poyo-1", 168, 71.80, 95 + 9 + 44, 16, 4),
        ("monkey-t", 12, 0.44, 0, 0, 12),
        ("nlb-maze", 2, 0.69, 1, 1, 0),
        ("nlb-maze-small", 2, 0.03, 1, 1, 0),
        ("nlb-maze-medium", 2, 0.08, 1, 1, 0),
        ("nlb-maze-large", 2, 0.15, 1, 1, 0),
        ("nlb-rtt", 2, 0.05, 1, 1, 0),
        ("nlb-area2", 2, 1.82, 1, 1, 0),
        ("nlb-rsg", 2, 0.02, 1, 1, 0),
        ("falcon-m1", 11, 0.31, 4, 4, 3),
        ("falcon-m2", 20, 15.92, 7, 7, 6),
        ("falcon-h1", 40, 0.10, 13, 13, 14),
        ("falcon-h2", 47, 1.22, 21, 21, 5),
        ("falcon-b1", 9, 1.29, 3, 3, 3),
        ("neurobench-reaching", 6, 3.21, 6, 0, 0),
        ("hippocampus", 8, 65.71, 8, 0, 0),
        ("head-direction", 40, 207.73, 40, 0, 0),
        ("grid-cells", 118, 1.86, 118, 0, 0),
        ("steinmetz", 39, 14.68, 39, 0, 0),
        ("even-chen", 15, 187.53, 15, 0, 0),
    ],
)
def test_counts_and_sizes_are_those_stated_elsewhere(
    name, files, gigabytes, train, heldout, transfer
):
    manifest = MANIFESTS[name]
    roles = [asset.role for asset in assets_of(manifest)]

    assert (files, train, heldout, transfer) == (
        len(roles), roles.count("train"), roles.count("heldout"), roles.count("transfer"),
    )  # fmt: skip
    assert round(manifest.total_size / 1e9, 2) == gigabytes


def test_seven_primates_come_from_dandi_alone_and_t_is_held_out():
    manifest = MANIFESTS["nhp7"]
    train = {asset.subject for asset in assets_of(manifest, "train")}

    assert {dataset.source.kind for dataset in manifest.datasets} == {"dandi"}
    assert train == {"C", "M", "J", "Jenkins", "Nitschke", "Indy"}
    assert {asset.subject for asset in assets_of(manifest, "heldout")} == {"C", "T", "Indy"}
    assert "T, not Loco" in manifest.description
    assert "Indy comes with one session" in manifest.description
    assert "not the training set" in manifest.description


def test_the_public_list_differs_from_the_papers_by_the_four_days():
    paper, public = sessions_of("poyo-mp-paper", "train"), sessions_of("poyo-mp-public", "train")

    assert (len(paper), len(public)) == (95, 99)
    assert public - paper == HELDOUT_DAYS
    assert paper < public


@pytest.mark.parametrize("name", ["nhp7", "poyo-mp-paper", "poyo-1"])
def test_what_the_paper_held_out_is_never_trained_on(name):
    heldout = {asset.session for asset in dataset_of(name, PERICH).assets if asset.role != "train"}
    of_t = {asset.session for asset in MANIFESTS["monkey-t"].datasets[0].assets}

    assert heldout == HELDOUT_DAYS | of_t
    assert heldout.isdisjoint(sessions_of(name, "train"))
    assert {asset.role for asset in dataset_of(name, PERICH).assets} == {"train", "heldout"}


def test_poyo_1_adds_up_to_what_the_paper_says():
    manifest = MANIFESTS["poyo-1"]
    said = manifest.publication
    train = assets_of(manifest, "train")
    listed = [asset.published for asset in train]
    sessions = sum(one.entries for one in listed) + sum(one.sessions for one in manifest.absent)
    units = sum(one.entries * one.units for one in listed) + sum(a.units for a in manifest.absent)
    subjects = {asset.subject for asset in train}
    subjects |= {subject for absent in manifest.absent for subject in absent.subjects}

    assert (sessions, units, len(subjects)) == (158, 27373, 7)
    assert (sessions, units, len(subjects)) == (said.sessions, said.units, said.subjects)


@pytest.mark.parametrize(
    ("dataset_id", "recordings", "entries", "units"),
    [
        (PERICH, 95, 100, 9789),
        ("churchland_shenoy_neural_2012", 9, 9, 1728),
        ("odoherty_sabes_nonhuman_2017", 44, 44, 14899),
    ],
)
def test_each_laboratory_adds_up_to_the_papers_lists(dataset_id, recordings, entries, units):
    train = [one for one in dataset_of("poyo-1", dataset_id).assets if one.role == "train"]

    assert recordings == len(train)
    assert entries == sum(one.published.entries for one in train)
    assert units == sum(one.published.entries * one.published.units for one in train)


def test_held_out_recordings_have_units_and_no_entries():
    heldout = assets_of(MANIFESTS["poyo-1"], "heldout")
    units = {"C": 0, "T": 0}
    for asset in heldout:
        units[asset.subject] += asset.published.units

    assert {asset.published.entries for asset in heldout} == {0}
    assert units == {"C": 1061, "T": 707}


def test_the_benchmark_on_indy_and_loco_is_within_the_training_list():
    six = sessions_of("neurobench-reaching", "train")

    assert six == {
        "indy_20160622_01", "indy_20160630_01", "indy_20170131_02",
        "loco_20170210_03", "loco_20170215_02", "loco_20170301_05",
    }  # fmt: skip
    assert six < sessions_of("poyo-1", "train")
    # MC_RTT is another session of Indy than all of them.
    assert "indy_20170202_02" not in {
        row["file"][:-4] for row in read_csv("odoherty_sabes_nonhuman_2017")
    }


def test_sessions_have_the_names_of_public_code():
    for dataset_id in (PERICH, "churchland_shenoy_neural_2012"):
        listed = {row["path"]: row for row in read_csv(dataset_id)}
        assets = dataset_of("nhp7", dataset_id).assets

        assert {one.path: one.session for one in assets} == {
            path: row["recording"] for path, row in listed.items()
        }
        assert all(one.size == int(listed[one.path]["bytes"]) for one in assets)


def test_the_absent_sessions_are_those_listed():
    (absent,) = MANIFESTS["poyo-1"].absent
    files = read_csv(absent.id)

    assert absent.sessions == len(files) == sum(int(row["entries"]) for row in files)


def test_a_size_or_hash_that_is_not_known_exactly_is_left_out():
    assets = dataset_of("poyo-1", "odoherty_sabes_nonhuman_2017").assets
    listed = {row["file"]: row for row in read_csv("odoherty_sabes_nonhuman_2017")}

    for asset in assets:
        row = listed[asset.path]
        assert (asset.size, asset.md5, asset.sha256) == (
            int(row["bytes"] or 0) or None, row["md5"] or None, row["sha256"] or None,
        )  # fmt: skip
    assert sum(asset.is_pinned for asset in assets) == 13


@pytest.mark.parametrize("name", [name for name in BUILT if name.startswith("falcon")])
def test_a_benchmarks_splits_are_roles_and_not_subjects(name):
    roles = {"held_in_calib": "train", "held_in_minival": "heldout", "held_out_calib": "transfer"}
    manifest = MANIFESTS[name]

    assert len({asset.subject for asset in assets_of(manifest)}) == 1
    for asset in assets_of(manifest):
        assert "held" not in asset.subject
        (split,) = (one for one in roles if asset.session.endswith(one))
        assert asset.role == roles[split]


# ------------------------------------------------------------------ the README


def test_the_readmes_table_is_true():
    text = (FOLDER / "README.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `([\w-]+)` \| (\d+) \| ([\d.]+)(?: \+ (\d+) files)? \| (\d+) \| (.+?) \| (.+) \|$",
        text, re.M,
    )  # fmt: skip
    told = {row[0]: row[1:] for row in rows}

    assert len(told) == len(rows)
    assert set(told) == {path.stem for path in FOLDER.glob("*.toml")}
    for name, (files, gigabytes, unknown, subjects, licence, title) in told.items():
        manifest = load_manifest(FOLDER / f"{name}.toml")
        assets = assets_of(manifest)
        sizes = [asset.size for asset in assets if asset.size is not None]

        assert int(files) == len(assets)
        assert float(gigabytes) == round(sum(sizes) / 1e9, 2)
        assert int(unknown or 0) == len(assets) - len(sizes)
        assert int(subjects) == len({asset.subject for asset in assets})
        assert licence == ", ".join(sorted({dataset.licence for dataset in manifest.datasets}))
        assert title == manifest.title
