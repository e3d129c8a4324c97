"""Looks into an NWB file that nobody has described, and proposes the manifest that reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomli_w

from spikedata.errors import HarmonizeError
from spikedata.files import sha256_of
from spikedata.harmonize.generic import all_tables, slug, why_not_behaviour
from spikedata.nwb import MAX_DEPTH, Entry, NwbFile, SeriesData

__all__ = ["Inspection", "SeriesFacts", "inspect_file", "proposed_manifest"]

QUANTITIES = {
    "pos": "position", "position": "position", "vel": "velocity", "velocity": "velocity",
    "acc": "acceleration", "acceleration": "acceleration", "ang": "angle", "angle": "angle",
    "len": "length", "length": "length", "direction": "direction", "speed": "speed",
    "force": "force", "emg": "emg",
}  # fmt: skip
CONTAINERS = {"Position": "position", "CompassDirection": "direction", "EyeTracking": "position"}
TARGETS = ("hand_velocity", "finger_velocity", "cursor_velocity", "velocity", "direction",
           "position", "speed", "force", "emg")  # fmt: skip
"""Endings of names that a decoder is likely to be asked for, most likely first."""
SPLIT_NAMES = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What one behavioural series looks like to someone who has to harmonise it.

    Times are in seconds; ``step`` is the median time between samples, ``pause`` the longest.
    """

    path: str
    samples: int
    unit: str
    columns: tuple[str, ...]
    first: float
    last: float
    step: float
    pause: float
    not_finite: int
    repeated: int
    backward: int
    conversion_ignored: bool

    def sentence(self) -> str:
        """Return the facts as one line, without those that are as they should be."""
        defects = {
            "samples with a value that is not finite": self.not_finite,
            "repeated times": self.repeated,
            "times that run backwards": self.backward,
        }
        parts = [f"{self.samples:,} samples, {self.first:.3f} to {self.last:.3f} s"]
        if self.samples > 1:
            parts.append(f"median step {self.step:.6g} s")
        if self.pause > 10 * self.step:
            parts.append(f"longest pause {self.pause:.3g} s")
        parts += [f"{count:,} {what}" for what, count in defects.items() if count]
        if self.conversion_ignored:
            parts.append("its conversion is no number and is left out: check the unit")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file holds: everything that could be harmonised, and the behaviour more closely.

    ``left_out`` says of each series that the generic harmoniser would not take, why.
    """

    path: Path
    about: dict[str, str]
    entries: tuple[Entry, ...]
    facts: dict[str, SeriesFacts]
    left_out: dict[str, str]
    intervals: dict[str, str]
    groups: tuple[tuple[str, ...], ...]
    split_values: tuple[str, ...]


def inspect_file(path: Path) -> Inspection:
    """Return what an NWB file holds. Waveforms, LFP and other raw data are not read.

    Raises
    ------
    HarmonizeError
        If it is no NWB file, or is damaged.
    """
    facts: dict[str, SeriesFacts] = {}
    left_out: dict[str, str] = {}
    with NwbFile(path) as nwb:
        entries = tuple(nwb.listing())
        series: dict[str, SeriesData] = {}
        for entry in entries:
            outside = not entry.path.startswith(("acquisition/", "processing/"))
            if entry.kind not in ("series", "link") or (outside and entry.kind == "series"):
                continue
            reason = why_not_behaviour(entry)
            try:
                if not reason:
                    found = nwb.read_series(entry.path)
                    seen = _facts(found)
                    if seen.not_finite == seen.samples:
                        left_out[entry.path] = "no usable sample"
                        continue
                    facts[entry.path] = seen
                    if found.values.shape[1] == 1:
                        series[entry.path] = found
            except HarmonizeError as error:
                reason = str(error)
            if reason:
                left_out[entry.path] = reason
        groups = tuple(_groups(list(facts), series))
        intervals = all_tables(nwb)
        return Inspection(
            Path(path), nwb.about(), entries, facts, left_out, intervals, groups,
            _split_values(nwb, intervals),
        )  # fmt: skip


def _facts(found: SeriesData) -> SeriesFacts:
    time = found.times()
    finite = time[np.isfinite(time)]
    step = np.diff(finite) if len(finite) > 1 else np.zeros(1)
    bounds = (float(finite[0]), float(finite[-1])) if len(finite) else (0.0, 0.0)
    return SeriesFacts(
        found.path, len(time), found.unit, found.columns, *bounds,
        float(np.median(step)), float(step.max()),
        int((~np.isfinite(found.values)).any(1).sum()),
        int((step[: len(finite) - 1] == 0).sum()), int((step < 0).sum()),
        found.conversion_ignored,
    )  # fmt: skip


def _groups(paths: list[str], series: dict[str, SeriesData]) -> Iterator[tuple[str, ...]]:
    """Yield the series that belong together: x, y and z of one container at the same times."""
    done: set[str] = set()
    for path in paths:
        if path in done:
            continue
        parent, _, last = path.rpartition("/")
        same = [path]
        if path in series and last in ("x", "y", "z"):
            time = series[path].times()
            for other in (f"{parent}/{axis}" for axis in "xyz"):
                if other in series and other != path:
                    times = series[other].times()
                    if times.shape == time.shape and np.array_equal(times, time):
                        same.append(other)
        done.update(same)
        yield tuple(sorted(same))


def _split_values(nwb: NwbFile, intervals: dict[str, str]) -> tuple[str, ...]:
    """Return the values of the column `split` of the trials, if it has them."""
    if "trials" not in intervals:
        return ()
    column = nwb.read_table(intervals["trials"]).columns.get("split")
    return () if column is None else tuple(sorted({str(value) for value in column.tolist()}))


# ------------------------------------------------------------------ the proposal


def proposed_manifest(found: Inspection, note: str = "") -> str:
    """Return a manifest (TOML) that reads the file, each series with what was seen of it.

    It names the series as spikedata does, derives velocities that the file lacks, and pins the
    file by size and SHA-256. It is a start: units, targets and outliers want a look.
    """
    path, session = found.path, slug(found.about.get("session", "") or found.path.stem)
    names = _names(found)
    lines = [f"# {line}" for line in note.splitlines()]
    lines += [_toml({"name": slug(path.stem), "title": path.name}), "[[datasets]]"]
    lines.append(
        _toml(
            {"id": slug(path.stem), "title": found.about.get("description", path.name)[:120],
             "licence": "not stated", "citation": "not stated"}
        )
    )  # fmt: skip
    lines += ['source = { kind = "file", root = "." }', "", "[datasets.harmonize]"]
    position = [n for n in names.values() if n.endswith("position") and "eye" not in n]
    derived = {n.removesuffix("position") + "velocity": n for n in position}
    derived = {n: of for n, of in derived.items() if n not in names.values()}
    target = _target([*names.values(), *derived])
    lines += [_toml({"targets": [target] if target else []})]
    for group, name in names.items():
        lines += [f"# {found.facts[one].sentence()}" for one in group]
        lines += ["[[datasets.harmonize.series]]", _toml(_series_table(found, group, name))]
    for name, of in derived.items():
        lines += ["[[datasets.harmonize.series]]", _toml({"name": name, "velocity_of": of})]
    lines += [f"# left out: {one} ({why})" for one, why in found.left_out.items()]
    for name, source in found.intervals.items():
        table = _toml({"name": name, "source": source})
        lines += ["[[datasets.harmonize.intervals]]", table]
    lines += ["[datasets.harmonize.splits.chronological]", 'kind = "chronological"', ""]
    values = {one: SPLIT_NAMES[one] for one in found.split_values if one in SPLIT_NAMES}
    if "train" in values.values():
        lines += ["[datasets.harmonize.splits.stated]"]
        lines += [_toml({"kind": "column", "table": "trials", "column": "split"}).rstrip()]
        pairs = ", ".join(f'{one} = "{split}"' for one, split in values.items())
        lines += [f"values = {{ {pairs} }}", ""]
    asset = {
        "path": path.name, "size": path.stat().st_size, "sha256": sha256_of(path),
        "session": session, "subject": found.about.get("subject"),
    }  # fmt: skip
    lines += ["[[datasets.assets]]", _toml({k: v for k, v in asset.items() if v})]
    return "\n".join(lines).strip() + "\n"


def _series_table(found: Inspection, group: tuple[str, ...], name: str) -> dict[str, object]:
    table: dict[str, object] = {"name": name, "source": list(group)}
    first = found.facts[group[0]]
    if len(group) > 1:
        table["columns"] = [one.rpartition("/")[2] for one in group]
    turns = first.unit.lower().startswith(("rad", "deg"))
    alone = len(group) == 1 and len(first.columns) == 1
    if name.endswith("direction") and turns and alone:
        table |= {"transform": "cos_sin", "columns": ["cos", "sin"]}
    return table


def _names(found: Inspection) -> dict[tuple[str, ...], str]:
    """Return a name for each group of series; those that would be the same say more."""
    names = {group: _name(group) for group in found.groups}
    for steps in (1, MAX_DEPTH):
        listed = list(names.values())
        for group, name in names.items():
            if listed.count(name) > 1:
                names[group] = slug("_".join([*group[0].split("/")[1:][-steps:], _name(group)]))
    return names


def _name(group: tuple[str, ...]) -> str:
    """Return ``<what>_<quantity>`` in lower case, as ``hand_velocity``.

    Examples
    --------
    >>> _name(("processing/behavior/Position/cursor_pos",)), _name(("a/Position/Hand",))
    ('cursor_position', 'hand_position')
    >>> _name(("acquisition/Position/x", "acquisition/Position/y"))
    'position'
    """
    parent, last = group[0].split("/")[-2:]
    found: list[str] = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", last)
    words = found if len(group) == 1 else []
    words = [QUANTITIES.get(word.lower(), word.lower()) for word in words]
    words = [word for word in words if word not in ("spatial", "time", "series")]
    quantity = CONTAINERS.get(parent, "")
    if quantity and not set(words) & set(QUANTITIES.values()):
        words = [quantity] if len(words) == 1 and len(words[0]) < 3 else [*words, quantity]
    return slug("_".join(words) or last)


def _target(names: list[str]) -> str | None:
    """Return the series that a decoder is most likely asked for."""
    chosen = [name for ending in TARGETS for name in names
              if name.endswith(ending) and "eye" not in name]  # fmt: skip
    return chosen[0] if chosen else None


def _toml(table: dict[str, object]) -> str:
    """Return a table as TOML, short lists on one line."""
    text = tomli_w.dumps(table)
    return re.sub(
        r"\[\n(.*?),\n\]",
        lambda found: "[" + " ".join(line.strip() for line in found[1].splitlines()) + "]",
        text, flags=re.S,
    )  # fmt: skip
