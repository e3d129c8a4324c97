"""Imports HDF5 files that torch_brain's own pipelines wrote, by rules that are named and counted.

What is left out or changed on the way is counted in ``Recording.dropped``:

=====================================  ====================================================
``groups.ignored``                     groups that are no series, intervals, units or texts
``arrays.ignored``                     arrays that stand alone, outside any group
``units.renamed``                      units renamed to their row, because ids repeat
``units.column_ignored``               columns of units that are no table's columns
``spikes.column_ignored``              columns of spikes beside time and unit (waveforms)
``spikes.not_finite``                  spikes at no time
``spikes.no_such_unit``                spikes of a row that the unit table does not have
``spikes.unsorted``                    spikes that came before the one above; sorted
``spikes.outside_domain``              spikes where nothing was observed
``domain.closed_end``                  a domain that ended at the time of its last event; it now
                                       ends at the next float, and contains the event
``domain.<rule>``                      ``not_finite``, ``zero_length``: rows of the domain
``series.<name>.not_numbers``          arrays that are text, or not one or two-dimensional
``series.<name>.bad_time`` …           ``repeated_time``, ``backward_time``: samples, as at ingest
``series.<name>.gap``                  samples that stand in for a pause of a regular series
``series.<name>.not_finite``           samples with a value that is not finite
``series.<name>.empty``                series left out because no sample is left
``intervals.<name>.<rule>``            ``not_finite``, ``zero_length``: rows;
                                       ``column_ignored``: columns
``splits.torch_brain.<rule>``          ``not_finite``, ``zero_length``, ``outside_domain``: rows;
                                       ``overlapping``, ``no_training``: the splits as a whole
=====================================  ====================================================
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import h5py
import numpy as np

from spikedata.errors import HarmonizeError, IntervalError
from spikedata.exchange_series import Group, attribute_of, read_series
from spikedata.hdf5 import Hdf5File
from spikedata.intervals import IntervalSet
from spikedata.layout import NAME
from spikedata.recording import SPLITS, Recording, Series
from spikedata.splits import column_split

__all__ = ["SCHEME", "read_foreign"]

SCHEME = "torch_brain"  # the split scheme that train_domain, valid_domain, test_domain become
DEPTH = 4  # groups within groups that are looked into
DOMAINS = {f"{split}_domain": split for split in SPLITS}
ABOUT = {
    "subject": "subject/id", "species": "subject/species", "sex": "subject/sex",
    "age": "subject/age", "task": "session/task", "session_start": "session/recording_date",
    "description": "brainset/description", "source": "brainset/source",
    "source_version": "brainset/origin_version",
}  # fmt: skip


def read_foreign(file: Hdf5File, dataset: str | None, session: str | None, stem: str) -> Recording:
    """Return what a file of torch_brain holds as a recording, not yet checked.

    An array ``vel`` of the group ``cursor`` becomes the series ``cursor.vel``, intervals
    ``hold_period`` in ``movement_phases`` the table ``movement_phases.hold_period``.

    Parameters
    ----------
    file : Hdf5File
        The open file.
    dataset, session : str, optional
        Parts of the recording's id, instead of ``brainset.id`` and ``session.id``.
    stem : str
        What the session is called when the file does not say either.

    Raises
    ------
    HarmonizeError
        If it is no such file, or lacks spikes, units or a domain.
    """
    if attribute_of(file.root, "object") != "Data":
        raise HarmonizeError(
            f"{file.name}: the root has no attribute object='Data', so torch_brain did not write "
            "this file; read an NWB file with `spikedata ingest`."
        )
    recording_id = _recording_id(file, dataset, session, stem)
    dropped: Counter[str] = Counter()
    units = _units(file, recording_id, dropped)
    series: dict[str, Series] = {}
    intervals: dict[str, IntervalSet] = {}
    for group in _groups(file, dropped):
        if group.kind == "Interval":
            intervals[group.name] = _intervals(file, group.path, f"intervals.{group.name}", dropped)
        else:
            series.update(read_series(file, group, dropped))
    time, unit = _spikes(file, len(units["unit_id"]), dropped)
    domain = _domain(file, time, [one for one in series.values() if one.time is not None], dropped)
    inside = domain.contains(time)
    dropped["spikes.outside_domain"] += int((~inside).sum())
    splits = {name: one for name, one in [(SCHEME, _split(file, domain, dropped))] if one}
    about = {name: attribute_of(file.find(path.split("/")[0]), path.split("/")[1])
             for name, path in ABOUT.items()}  # fmt: skip
    parts = dict(zip(("dataset", "session"), recording_id.split("/"), strict=True))
    about = {**parts, **about, "source_file": file.name, "domain_from": "the file's domain"}
    return Recording(
        recording_id, time[inside], unit[inside], units, domain, series, intervals, splits,
        about={name: text for name, text in about.items() if text},
        dropped={rule: count for rule, count in sorted(dropped.items()) if count},
    )  # fmt: skip


def _recording_id(file: Hdf5File, dataset: str | None, session: str | None, stem: str) -> str:
    dataset = dataset or attribute_of(file.find("brainset"), "id")
    session = session or attribute_of(file.find("session"), "id") or stem
    for word, part in (("dataset", dataset), ("session", session)):
        if not re.fullmatch(NAME, part):
            raise HarmonizeError(
                f"{file.name}: '{part}' cannot name a {word} (letters, digits and . _ + - can); "
                f"say what to call it with `{word}`."
            )
    return f"{dataset}/{session}"


# ------------------------------------------------------------------ what there is


def _groups(file: Hdf5File, dropped: Counter[str]) -> Iterator[Group]:
    """Yield the series and interval tables of a file; count what is neither."""
    waiting, seen = [("", 0)], set()
    while waiting:
        above, depth = waiting.pop(0)
        for name in file.names(above):
            path = f"{above}/{name}" if above else name
            if not above and name in ("spikes", "units", "domain", *DOMAINS):
                continue
            node = file.find(path)
            if node is None or (above and name == "domain"):
                continue
            if not isinstance(node, h5py.Group):
                dropped["arrays.ignored"] += 1
                continue
            kind, address = attribute_of(node, "object"), file.address(node)
            if kind == "Data" and depth < DEPTH and address not in seen:
                seen.add(address)
                waiting.append((path, depth + 1))
            elif re.fullmatch(NAME, path.replace("/", ".")) and kind in (
                "Interval", "IrregularTimeSeries", "RegularTimeSeries",
            ):  # fmt: skip
                yield Group(path, path.replace("/", "."), kind)
            else:
                dropped["groups.ignored"] += 1


# ------------------------------------------------------------------ units and spikes


def _columns(
    file: Hdf5File, path: str, skip: tuple[str, ...], rows: int, rule: str, dropped: Counter[str]
) -> dict[str, np.ndarray]:
    """Return the arrays of a group that have one row of numbers or texts for each of `rows`."""
    found = {}
    for name in file.names(path):
        if name in skip:
            continue
        node = file.find(f"{path}/{name}")
        if isinstance(node, h5py.Dataset) and node.ndim in (1, 2) and node.shape[0] == rows:
            with suppress(HarmonizeError, TypeError):  # neither numbers nor text
                values = file.read(file.dataset(f"{path}/{name}"))
                if values.dtype.kind in "fiubU" and 0 not in values.shape[1:]:
                    found[name] = values
                    continue
        dropped[rule] += 1
    return found


def _units(file: Hdf5File, recording_id: str, dropped: Counter[str]) -> dict[str, np.ndarray]:
    """Return the unit table: ids that begin with the recording's, and the columns of the file."""
    ids = np.asarray(file.read(file.dataset("units/id"))).astype(str)
    if ids.ndim != 1:
        raise HarmonizeError(f"{file.name}: `units/id` has shape {ids.shape}, expected one row.")
    skip = ("id", "unit_id")
    columns = _columns(file, "units", skip, len(ids), "units.column_ignored", dropped)
    dropped["units.column_ignored"] += "unit_id" in file.names("units")
    if len(np.unique(ids)) < len(ids):
        dropped["units.renamed"] += len(ids)
        ids = np.arange(len(ids)).astype(str)
    begin = f"{recording_id}/"
    full = [one if one.startswith(begin) else begin + one for one in ids.tolist()]
    return {"unit_id": np.array(full, np.str_), **columns}


def _spikes(
    file: Hdf5File, n_units: int, dropped: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return times (s, float64) and unit rows (int32) of the spikes, sorted by time."""
    time = file.read_floats(file.dataset("spikes/timestamps"))
    unit = file.read(file.dataset("spikes/unit_index"))
    if time.ndim != 1 or time.shape != unit.shape or unit.dtype.kind not in "iu":
        raise HarmonizeError(
            f"{file.name}: the spikes have {time.shape} times and {unit.shape} unit rows of "
            f"{unit.dtype.name}, expected one whole number for each time."
        )
    known = ("timestamps", "unit_index", "timestamp_indices_1s", "domain")
    dropped["spikes.column_ignored"] += len(set(file.names("spikes")) - set(known))
    finite = np.isfinite(time)
    exists = (unit >= 0) & (unit < n_units)
    dropped["spikes.not_finite"] += int((~finite).sum())
    dropped["spikes.no_such_unit"] += int((finite & ~exists).sum())
    time, unit = time[finite & exists], unit[finite & exists].astype(np.int32)
    backward = int((time[1:] < time[:-1]).sum())
    if backward:
        dropped["spikes.unsorted"] += backward
        order = np.lexsort((unit, time))
        time, unit = time[order], unit[order]
    return time, unit


# ------------------------------------------------------------------ domain, intervals, splits


def _intervals(file: Hdf5File, path: str, rule: str, dropped: Counter[str]) -> IntervalSet:
    """Return the rows of an interval table that are intervals, sorted, with their columns."""
    start, end = (file.read_floats(file.dataset(f"{path}/{one}")) for one in ("start", "end"))
    if start.ndim != 1 or start.shape != end.shape:
        raise HarmonizeError(
            f"{file.name}: `{path}` has starts of shape {start.shape} and ends of {end.shape}."
        )
    skip = ("start", "end")
    columns = _columns(file, path, skip, len(start), f"{rule}.column_ignored", dropped)
    finite = np.isfinite(start) & np.isfinite(end)
    kept = finite & (start < end)
    dropped[f"{rule}.not_finite"] += int((~finite).sum())
    dropped[f"{rule}.zero_length"] += int((finite & ~kept).sum())
    columns = {name: values[kept] for name, values in columns.items()}
    return IntervalSet.sorted(start[kept], end[kept], columns)


def _domain(
    file: Hdf5File, time: np.ndarray, series: list[Series], dropped: Counter[str]
) -> IntervalSet:
    """Return where the units were observed: the file's domain, within that of its spikes.

    A domain of torch_brain's ``"auto"`` reaches from the first event to the last. That of the
    spikes is then no observation and is left out; that of the file ends just past the event.
    """
    found = _intervals(file, "domain", "domain", dropped).coalesce()
    if len(found) == 0:
        raise HarmonizeError(f"{file.name}: `domain` covers no time: nothing was observed.")
    last = {times[-1] for times in (time, *(one.times() for one in series)) if len(times)}
    found = _past_the_last(found, last, dropped)
    if file.names("spikes/domain") and len(time):
        own = _intervals(file, "spikes/domain", "domain", dropped).coalesce()
        if list(own) != [(time[0], time[-1])]:
            found = found.intersection(_past_the_last(own, last, dropped))
    return found


def _past_the_last(rows: IntervalSet, last: set[float], dropped: Counter[str]) -> IntervalSet:
    """Return the rows, ending at the next float if they end at the time of a last event."""
    if len(rows) == 0 or rows.end[-1] not in last:
        return rows
    dropped["domain.closed_end"] += 1
    return IntervalSet(rows.start, np.append(rows.end[:-1], np.nextafter(rows.end[-1], np.inf)))


def _split(file: Hdf5File, domain: IntervalSet, dropped: Counter[str]) -> IntervalSet | None:
    """Return the splits, within the domain; None if there are none or they cannot be used."""
    rule = f"splits.{SCHEME}"
    parts = {split: _intervals(file, path, rule, dropped)
             for path, split in DOMAINS.items() if file.names(path)}  # fmt: skip
    dropped.pop(f"{rule}.column_ignored", None)  # they are those of the trials
    start = np.concatenate([np.empty(0), *(one.start for one in parts.values())])
    end = np.concatenate([np.empty(0), *(one.end for one in parts.values())])
    names = np.repeat(np.array(list(parts), "U5"), [len(one) for one in parts.values()])
    if len(start) == 0:
        return None
    table = IntervalSet.sorted(start, end, {"split": names})
    lost = [len(IntervalSet.single(*row).difference(domain)) > 0 for row in table]
    dropped[f"{rule}.outside_domain"] += sum(lost)
    try:
        found = column_split(table, "split", {split: split for split in SPLITS}, domain)
    except IntervalError:
        dropped[f"{rule}.overlapping"] += 1
        return None
    left = np.unique(found.columns["split"]).tolist()
    if "train" not in left and left != ["test"]:
        dropped[f"{rule}.no_training"] += 1
        return None
    return found
