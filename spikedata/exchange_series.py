"""Reads the time series of a file of torch_brain's own pipelines; each rule is counted.

`spikedata.exchange_foreign` lists the rules.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

import h5py
import numpy as np

from spikedata.errors import HarmonizeError
from spikedata.hdf5 import Hdf5File, number_of, text_of
from spikedata.layout import NAME
from spikedata.recording import Series

__all__ = ["Group", "attribute_of", "read_series"]


@dataclass(frozen=True, slots=True)
class Group:
    """One group to be imported: its path, its name here and the class it was written from."""

    path: str
    name: str
    kind: str


def attribute_of(node: h5py.Group | h5py.Dataset | None, name: str) -> str:
    """Return a single text or number in an attribute as text; "" for anything else."""
    if node is None:
        return ""
    with suppress(KeyError, TypeError, ValueError):
        value = node.attrs[name] if node.attrs.get_id(name).shape == () else ""
        if isinstance(value, str | bytes | np.number | np.bool_):
            return text_of(value).strip()
    return ""


def read_series(file: Hdf5File, group: Group, dropped: Counter[str]) -> dict[str, Series]:
    """Return every array of numbers in a group as a series ``<group>.<array>``."""
    found = {}
    for name in file.names(group.path):
        node = file.find(f"{group.path}/{name}")
        if name in ("timestamps", "timestamp_indices_1s") or not isinstance(node, h5py.Dataset):
            continue
        full = f"{group.name}.{name}"
        if not (re.fullmatch(NAME, full) and node.ndim in (1, 2) and _kind(node) in "fiub"):
            dropped[f"series.{full}.not_numbers"] += 1
            continue
        values = file.read(file.dataset(f"{group.path}/{name}"))
        if values.dtype.kind != "f":
            values = values.astype(np.float64)
        values = values.reshape(len(values), -1)
        if values.shape[1] == 0:
            dropped[f"series.{full}.not_numbers"] += 1
            continue
        wide = node.ndim == 2
        columns = tuple(str(one) for one in range(values.shape[1])) if wide else (name,)
        build = _regular if group.kind == "RegularTimeSeries" else _irregular
        series = build(file, group.path, full, values, columns, dropped)
        if len(series):
            found[full] = series
        else:
            dropped[f"series.{full}.empty"] += 1
    return found


def _kind(data: h5py.Dataset) -> str:
    """Return the kind of a dtype as numpy has it, "V" for one that numpy does not have."""
    try:
        return data.dtype.kind
    except TypeError:
        return "V"


def _irregular(
    file: Hdf5File, path: str, name: str, values: np.ndarray, columns: tuple[str, ...],
    dropped: Counter[str],
) -> Series:  # fmt: skip
    """Return the samples at finite, increasing times whose values are finite."""
    time = file.read_floats(file.dataset(f"{path}/timestamps"))
    if time.shape != (len(values),):
        raise HarmonizeError(
            f"{file.name}: the series `{path}` has {time.shape} times and {len(values)} samples."
        )
    kept = np.isfinite(time)
    dropped[f"series.{name}.bad_time"] += int((~kept).sum())
    latest = np.maximum.accumulate(np.where(kept, time, -np.inf))
    before = np.append(-np.inf, latest[:-1])
    dropped[f"series.{name}.repeated_time"] += int((kept & (time == before)).sum())
    dropped[f"series.{name}.backward_time"] += int((kept & (time < before)).sum())
    kept &= time > before
    finite = np.isfinite(values).all(1)
    dropped[f"series.{name}.not_finite"] += int((kept & ~finite).sum())
    kept &= finite
    if kept.all():
        return Series(values, "", columns, time=time)
    return Series(values[kept], "", columns, time=time[kept])


def _regular(
    file: Hdf5File, path: str, name: str, values: np.ndarray, columns: tuple[str, ...],
    dropped: Counter[str],
) -> Series:  # fmt: skip
    """Return the samples on a grid, or at explicit times where some of them are left out.

    The first sample is at the start of the group's domain. In a pause of the domain the file holds
    a value that stands for none; its bounds lie on the grid but for rounding.
    """
    rate = number_of(attribute_of(file.open(path), "sampling_rate"))
    start, end = (
        file.read_floats(file.dataset(f"{path}/domain/{one}")) for one in ("start", "end")
    )
    if rate is None or rate <= 0 or len(start) == 0 or not np.isfinite([*start, *end]).all():
        raise HarmonizeError(f"{file.name}: the series `{path}` has no usable rate or domain.")
    kept = np.ones(len(values), bool)
    if len(start) > 1:
        bound = np.clip(np.rint((np.stack([start, end]) - start[0]) * rate), 0, len(values))
        step = np.zeros(len(values) + 1, np.int64)
        np.add.at(step, bound[0].astype(np.int64), 1)
        np.add.at(step, bound[1].astype(np.int64), -1)
        kept = step.cumsum()[:-1] > 0
        dropped[f"series.{name}.gap"] += int((~kept).sum())
    finite = np.isfinite(values).all(1)
    dropped[f"series.{name}.not_finite"] += int((kept & ~finite).sum())
    kept &= finite
    whole = Series(values, "", columns, start=float(start[0]), rate=rate)
    if kept.all():
        return whole
    return Series(values[kept], "", columns, time=whole.times(np.flatnonzero(kept)))
