"""Write the pins of the shipped suites, as the manifests have them.

``python benchmarks/build_suites.py`` writes; ``--check`` writes nothing, names what differs and
exits 1. All else in ``spikedata_model/leaderboard/suites/*.toml`` is written by hand, and stays to
the byte. Two kinds of comments in a group say what is filled in below them:

- ``# pins: role=transfer task=center_out_reaching`` above ``[groups.recordings]``: the recordings
  of the group's manifest with these fields, and the hash of the file of each; ``all`` is all.
- ``# aliases: role=heldout short name=OTHER`` above ``aliases = [...]``: the ids of the manifest's
  recordings in that role, the archive's short names of the group's own files, as
  ``sub-T_ses-CO-20130819``, and names as they stand. Who trained on one has seen the group.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from spikedata.manifest import Asset, Dataset, load_manifest
from spikedata_model.leaderboard.suite import list_suites

PINS = re.compile(
    r"^# pins: (?P<rule>.+)\n\[groups\.recordings\]\n(?P<body>(?:\".*\n)*)", re.MULTILINE
)
ALIASES = re.compile(r"^# aliases: (?P<rule>.+)\naliases = \[(?P<body>[^\]]*)\]\n", re.MULTILINE)
GROUP = re.compile(r"^\[\[groups\]\]\n", re.MULTILINE)
FIELDS = ("role", "subject", "task", "session")

Item = tuple[Dataset, Asset]


def pin_of(asset: Asset) -> str:
    """Return the hash that a suite pins an asset by: SHA-256, or MD5 where no other is known."""
    if asset.sha256:
        return f"sha256:{asset.sha256}"
    if asset.md5:
        return f"md5:{asset.md5}"
    raise SystemExit(f"{asset.path} has no hash in its manifest: a suite cannot pin it.")


def chosen(items: list[Item], rule: str) -> list[Item]:
    """Return what a rule as ``"role=train task=maze_reaching"`` chooses, in order."""
    if rule == "all":
        return items
    wanted = dict(word.split("=", 1) for word in rule.split())
    wrong = set(wanted) - set(FIELDS)
    if wrong:
        raise SystemExit(f"Assets are chosen by {', '.join(FIELDS)}; found {sorted(wrong)}.")
    return [
        (dataset, asset) for dataset, asset in items
        if all(getattr(asset, field) == value for field, value in wanted.items())
    ]  # fmt: skip


def filled_pins(items: list[Item], rule: str) -> str:
    """Return a group's table of recordings."""
    found = chosen(items, rule)
    if not found:
        raise SystemExit(f"No asset of the manifest fits '{rule}'.")
    lines = [
        f"{json.dumps(dataset.recording_id(asset))} = {json.dumps(pin_of(asset))}\n"
        for dataset, asset in found
    ]
    return f"# pins: {rule}\n[groups.recordings]\n{''.join(lines)}"


def filled_aliases(items: list[Item], rule: str, own: list[Item]) -> str:
    """Return a group's other names; `own` are its recordings."""
    names: list[str] = []
    for word in rule.split():
        kind, _, value = word.partition("=")
        if kind == "name" and value:
            names.append(value)
        elif kind == "short":
            names += [PurePosixPath(asset.path).stem.rpartition("_")[0] for _, asset in own]
        elif kind == "role":
            names += [dataset.recording_id(asset) for dataset, asset in chosen(items, word)]
        else:
            raise SystemExit(f"Aliases are given as role=…, short or name=…; found '{word}'.")
    lines = "".join(f"    {json.dumps(name)},\n" for name in dict.fromkeys(names))
    return (
        f"# aliases: {rule}\naliases = [\n{lines}]\n"
        if lines
        else f"# aliases: {rule}\naliases = []\n"
    )


def built(text: str) -> str:
    """Return the text of a suite with its pins and aliases as the manifests have them."""
    head, *groups = GROUP.split(text)
    return "[[groups]]\n".join([head, *(_group(one) for one in groups)])


def _group(text: str) -> str:
    match = re.search(r'^manifest = "(.+)"$', text, re.MULTILINE)
    rule = PINS.search(text)
    if match is None or rule is None:
        raise SystemExit(f"A group needs a manifest and a '# pins:' line; found:\n{text}")
    items = list(load_manifest(match[1]).items())
    own = chosen(items, rule["rule"])
    text = PINS.sub(lambda found: filled_pins(items, found["rule"]), text)
    return ALIASES.sub(lambda found: filled_aliases(items, found["rule"], own), text)


def differences() -> Iterator[tuple[Path, str, str]]:
    """Yield every suite that is not as it would be built: its path, its text and the built one."""
    for path in list_suites().values():
        text = path.read_text(encoding="utf-8")
        made = built(text)
        tomllib.loads(made)
        if made != text:
            yield path, text, made


def main(arguments: list[str] | None = None) -> int:
    """Write or check all suites; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    options = parser.parse_args(arguments)
    found = list(differences())
    for path, text, made in found:
        lines = difflib.unified_diff(
            text.splitlines(), made.splitlines(), path.name, "built", "", "", 0
        )
        print("\n".join(line.rstrip("\n") for line in lines))
        if not options.check:
            path.write_text(made, encoding="utf-8")
    if found and options.check:
        print(f"{len(found)} suites differ from the manifests: run benchmarks/build_suites.py.")
    return 1 if found and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
