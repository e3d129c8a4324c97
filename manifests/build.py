"""Build the pinned manifests of public archives from what lies in `listings`.

``python manifests/build.py`` writes them and the table in the README; ``--check`` writes nothing,
names what differs and exits 1. The same listings give the same bytes. What is taken from where,
and how it is harmonised, is said in `listings/origins.toml` and `listings/selections.toml`.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import tomli_w

from spikedata.manifest import Manifest, load_manifest

FOLDER = Path(__file__).resolve().parent
LISTINGS = FOLDER / "listings"
HEADER = "# Built by manifests/build.py from manifests/listings: edit those, not this file.\n"
TABLE = re.compile(r"(?<=<!-- table: built by build.py -->\n).*?(?=<!-- end of table -->)", re.S)

# What a manifest says of an asset, and besides it what an asset is chosen by: its split and its
# line of the origin's CSV table.
Row = dict[str, object]


# ------------------------------------------------------------------ names of sessions


def name_session(entry: dict, naming: str) -> Row:
    """Return session, subject and whatever else the archive's entry of an asset says.

    `naming` is a rule and, after a space, a word for it; `listings/origins.toml` names one for
    each origin. Where public code has names for the sessions, ours are the same.
    """
    rule, _, word = naming.partition(" ")
    subject, path = entry["subject"], entry["path"]
    prefix = subject.lower()
    if rule == "session":
        session = entry["session_id"].removeprefix(subject).lstrip("-_").removesuffix("T120000")
        return {"subject": subject, "session": f"{prefix}_{session}"}
    if rule == "nlb":
        split = _matched(r"_desc-(train|test)_", path)[0]
        return {"subject": subject, "session": f"{prefix}_{word}_{split}", "split": split}
    if rule == "falcon":  # one subject and three splits, which the archive calls subjects
        subject, held, part = _matched(r"^(.+)[_-](held_in|held_out)[_-](calib|minival)$", subject)
        split = f"{held}_{part}"
        session = f"{subject.lower()}_{entry['session_id']}_{split}"
        return {"subject": subject, "session": session, "split": split}
    if rule == "perich":
        kind, day = _matched(r"_ses-(CO|RT)-(\d{8})_", path)
        task = {"CO": "center_out_reaching", "RT": "random_target_reaching"}[kind]
        return {"subject": subject, "task": task, "session": f"{prefix}_{day}_{task}"}
    (day,) = _matched(r"_ses-(\d{8})", path)
    ending = {"day": "", "maze": "_maze"}[rule]
    return {"subject": subject, "session": f"{prefix}_{day}{ending}"}


def _matched(pattern: str, text: str) -> tuple[str, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"'{text}' is not named as expected: {pattern}")
    return found.groups()


# ------------------------------------------------------------------ reading the listings


def read_toml(name: str) -> dict:
    """Return one of the two files that say what is built."""
    return tomllib.loads((LISTINGS / name).read_text(encoding="utf-8"))


def read_listing(dandiset: str) -> dict:
    """Return what the archive said of a dandiset and its assets."""
    return json.loads((LISTINGS / f"{dandiset}.assets.json").read_text(encoding="utf-8"))


def read_table(origin_id: str) -> list[dict[str, str]]:
    """Return the lines of an origin's CSV table; most have none."""
    path = LISTINGS / f"{origin_id}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def dandi_rows(origin_id: str, origin: dict) -> Iterator[Row]:
    """Yield a dandiset's assets in order of their paths."""
    lines = {line["path"]: line for line in read_table(origin_id)}
    listed = read_listing(origin["dandiset"])["assets"]
    for entry in sorted(listed, key=lambda one: one["path"]):
        row: Row = {key: entry[key] for key in ("path", "size", "sha256", "asset_id")}
        row |= {"etag": entry["dandi_etag"], "task": origin.get("task")}
        yield lines.get(entry["path"], {}) | row | name_session(entry, origin["naming"])


def zenodo_rows(origin_id: str, origin: dict) -> Iterator[Row]:
    """Yield the files of a Zenodo record in the order of their table."""
    for line in read_table(origin_id):
        session = Path(line["file"]).stem
        subject = session.partition("_")[0].capitalize()
        row: Row = {"path": line["file"], "size": int(line["bytes"]) if line["bytes"] else None}
        yield line | row | {"session": session, "subject": subject, "task": origin["task"]}


# ------------------------------------------------------------------ datasets


def references_of(related: list[dict]) -> list[str]:
    """Return DOI, or else address, of each paper that the archive says describes the data."""
    found = []
    for one in related:
        if one["relation"] in ("dcite:IsDescribedBy", "dcite:Describes"):
            text = one.get("identifier") or one["url"]
            doi = re.search(r"10\.\d{4,}/\S+", text)
            found.append(doi[0] if doi else text)
    return list(dict.fromkeys(found))


def describe_dandiset(origin: dict) -> dict:
    """Return title, licence, citation, DOI, note and source as the archive states them."""
    listing = read_listing(origin["dandiset"])
    version, doi, citation = listing["version"], listing["doi"], listing["citation"]
    note = origin.get("note", "")
    if "version" in origin:
        # A draft's citation has the draft's year, and may have a placeholder for its DOI.
        version = origin["version"]
        doi = listing["dois_of_newer_versions"][version]
        citation = re.sub(r"\(\d{4}\)", f"(20{version.split('.')[1][:2]})", citation, count=1)
        citation = citation.replace("(Version draft)", f"(Version {version})")
        citation = re.sub(r"https://\S+$", f"https://doi.org/{doi}", citation)
    elif version == "draft":
        newer = " and ".join(listing["newer_published_versions_seen_elsewhere"])
        published = f"Published since: {newer}." if newer else "No published version was seen."
        note = (
            f"The draft as listed on {listing['snapshot_date']}. A draft can change, and then only "
            f"files with the pinned hash are taken. {published} `spikedata manifest resolve` asks "
            f"for the newest. {note}"
        ).rstrip()
    return {
        "title": listing["name"],
        "licence": listing["license"][0].removeprefix("spdx:"),
        "citation": citation,
        "doi": doi,
        "references": references_of(listing["related"]),
        "note": note,
        "source": {"kind": "dandi", "dandiset": origin["dandiset"], "version": version},
    }


def filled(table: dict) -> dict:
    """Return a table without its empty fields: a manifest leaves out what is not known."""
    return {key: value for key, value in table.items() if value not in (None, "", [], {})}


def build_asset(row: Row, role: str, published: bool) -> dict:
    """Return one asset of a manifest; the role `train` is the default and left out."""
    names = ("path", "size", "sha256", "md5", "session", "subject", "task", "role",
             "asset_id", "etag")  # fmt: skip
    given = row | {"role": role if role != "train" else None}
    asset = filled({name: given.get(name) for name in names})
    if published:
        asset["published"] = {name: int(str(row[name])) for name in ("entries", "units")}
    return asset


def build_dataset(part: dict, origins: dict[str, dict]) -> dict:
    """Return what a manifest takes of one origin."""
    origin = origins[part["origin"]]
    if "dandiset" in origin:
        about, rows = describe_dandiset(origin), dandi_rows(part["origin"], origin)
    else:
        fields = ("title", "licence", "citation", "doi", "references", "note", "source")
        about, rows = {key: origin.get(key) for key in fields}, zenodo_rows(part["origin"], origin)
    about["harmonize"] = origin.get("harmonize")
    assets = []
    for row in rows:
        role = part["role"] if "role" in part else part["roles"].get(row[part["by"]])
        if role:
            assets.append(build_asset(row, role, part.get("published", False)))
    return {"id": part["origin"]} | filled(about) | {"assets": assets}


# ------------------------------------------------------------------ manifests


def build_manifests() -> dict[Path, str]:
    """Return every built manifest as text, by its path."""
    origins = read_toml("origins.toml")
    built = {}
    for name, selection in read_toml("selections.toml").items():
        datasets = [build_dataset(part, origins) for part in selection.pop("parts")]
        text = HEADER + tomli_w.dumps({"name": name} | selection | {"datasets": datasets})
        Manifest.model_validate(tomllib.loads(text))
        built[FOLDER / f"{name}.toml"] = text
    return built


def build_readme(built: dict[Path, str]) -> str:
    """Return the README with its table of all manifests, those kept by hand first."""
    by_hand = sorted(path for path in FOLDER.glob("*.toml") if path not in built)
    manifests = [load_manifest(path) for path in by_hand]
    manifests += [Manifest.model_validate(tomllib.loads(text)) for text in built.values()]
    lines = [
        "| manifest | files | GB | subjects | licence | what it is |",
        "|---|--:|--:|--:|---|---|",
    ]
    for manifest in manifests:
        items = list(manifest.items())
        unknown = sum(asset.size is None for _, asset in items)
        size = f"{manifest.total_size / 1e9:.2f}" + (f" + {unknown} files" if unknown else "")
        subjects = len({asset.subject for _, asset in items})
        licences = ", ".join(sorted({dataset.licence for dataset, _ in items}))
        lines.append(
            f"| `{manifest.name}` | {len(items)} | {size} | {subjects} | {licences} | "
            f"{manifest.title} |"
        )
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    return TABLE.sub(lambda _: "\n".join(lines) + "\n", readme)


def main() -> None:
    """Write what has changed, or with ``--check`` only name it."""
    parser = argparse.ArgumentParser(description="Build the pinned manifests from their listings.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on differences")
    check = parser.parse_args().check
    built = build_manifests()
    built[FOLDER / "README.md"] = build_readme(built)
    known = {path for path in FOLDER.glob("*.toml") if path.read_text("utf-8").startswith(HEADER)}
    stale = sorted(known - set(built))
    changed = [
        path for path, text in built.items()
        if not path.exists() or path.read_bytes() != text.encode()
    ]  # fmt: skip
    for path in changed:
        print(f"{path.name} {'differs from what is built' if check else 'written'}")
        if not check:
            path.write_bytes(built[path].encode())
    for path in stale:
        print(f"{path.name} was built, and no selection names it any more: delete it")
    raise SystemExit(1 if stale or (check and changed) else 0)


if __name__ == "__main__":
    main()
