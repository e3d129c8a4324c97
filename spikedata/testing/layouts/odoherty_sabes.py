"""Small files as those of O'Doherty, Cardoso, Makin and Sabes (Zenodo 3854034), MATLAB v7.3.

``odoherty-indy``: 96 channels of M1, 4 sorted units a channel, 3 finger columns, always moving.
``odoherty-loco``: 192 channels of M1 and S1, 2 sorted units a channel, 6 finger columns, the cursor
still for 22 s, for 5 s, and at the end for 13 s.

As in the real files, on purpose:

- A user block of 512 bytes stands before the HDF5 signature; cells lie in the group ``#refs#``.
- Arrays are MATLAB's, so HDF5 shows them transposed: ``spikes`` as (units, channels).
- An empty cell leads to its shape, (0, 1) as two integers: read as values, spikes at 0 and 1 s.
- The first unit of each channel is what was left unsorted; some channels have sorted units only.
- Names of channels are characters of 16 bits, one array each.
- Spikes come up to 0.5 s before the first sample of behaviour and after the last one.
- The clock of 250 Hz does not begin at 0 and its steps differ by less than a microsecond.
- The finger is (z, -x, -y) in cm, the cursor -10 times its last two columns, in mm.
- A unit with one spike, a unit with spikes outside behaviour only, a repeated spike time, and one
  event seen by two units.
- ``wf`` holds 48 samples of each spike.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.testing.layouts import Layout

if TYPE_CHECKING:
    import h5py

__all__ = ["LAYOUTS"]

PERIOD = 0.004  # s
HEADER = "MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Tue May 16 12:00:00 2017 HDF5 schema 1.00 ."  # noqa: E501
EMPTY = (0, 1)  # MATLAB's shape of an empty column


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the two monkeys' files differ; `still` in seconds from the first sample."""

    seed: int
    begin: float
    duration: float
    areas: tuple[str, ...]
    units: int
    finger: int
    still: tuple[tuple[float, float], ...]


INDY = _Kind(0x1D, 1017.304, 48.0, ("M1",), 5, 3, ())
LOCO = _Kind(0x10, 63.2, 131.0, ("M1", "S1"), 3, 6, ((30.0, 52.0), (75.0, 80.0), (118.0, 131.0)))


def _write(path: Path, seed: int, kind: _Kind) -> None:
    import h5py

    rng = np.random.default_rng([seed, kind.seed])
    count = round(kind.duration / PERIOD)
    time = kind.begin + PERIOD * np.arange(count) + rng.uniform(-4e-7, 4e-7, count)
    cursor, target = _movement(rng, count, kind.still)
    names = [f"{area} {number:03}" for area in kind.areas for number in range(1, 97)]
    trains = _trains(rng, time, np.gradient(cursor, PERIOD, axis=0), kind, len(names))
    with h5py.File(path, "w", userblock_size=512) as file:
        references = file.create_group("#refs#")
        fresh = _fresh_names()
        empty = _put(references, next(fresh), np.zeros(2, np.uint64), "canonical empty")
        empty.attrs["MATLAB_empty"] = np.uint8(1)
        shape = (kind.units, len(names))
        _put_cells(file, "chan_names", [[_characters(references, next(fresh), n) for n in names]])
        _put(file, "cursor_pos", cursor.T)
        _put(file, "finger_pos", _finger(cursor, kind.finger, time).T)
        cells = [[_cell(references, next(fresh), trains.get((row, channel)))
                  for channel in range(shape[1])] for row in range(shape[0])]  # fmt: skip
        _put_cells(file, "spikes", cells)
        _put(file, "t", time[None])
        _put(file, "target_pos", target.T)
        shapes = [[_snippets(references, next(fresh), trains.get((row, channel)), row)
                   for channel in range(shape[1])] for row in range(shape[0])]  # fmt: skip
        _put_cells(file, "wf", shapes)
    with path.open("r+b") as raw:  # 116 bytes of text, 8 of nothing, version 2.0, byte order
        raw.write(HEADER.encode().ljust(116) + bytes(8) + b"\x00\x02IM")


# ------------------------------------------------------------------ what was measured


def _movement(
    rng: np.random.Generator, count: int, still: tuple[tuple[float, float], ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return cursor and target (count, 2), mm: smooth reaches over a grid of 8 x 8, 15 mm apart."""
    cursor, target = np.empty((count, 2)), np.empty((count, 2))
    here, row = np.zeros(2), 0
    pauses = [(round(start / PERIOD), round(end / PERIOD)) for start, end in still]
    while row < count:
        there = 15.0 * rng.integers(-4, 4, 2)
        if (there == here).all():
            continue
        pause = next((end - row for start, end in pauses if start <= row < end), 0)
        length = min(int(rng.uniform(0.6, 1.2) / PERIOD), count - row)
        if pause:
            length, there = min(pause, count - row), here
        phase = np.linspace(0, 1, length)[:, None]
        smooth = 10 * phase**3 - 15 * phase**4 + 6 * phase**5  # minimum jerk
        wobble = rng.integers(0, 2, (length, 2)) / 64  # at most 2 mm/s
        cursor[row : row + length] = here + smooth * (there - here) + (wobble if pause else 0)
        target[row : row + length] = there if not pause else target[max(row - 1, 0)]
        here, row = there, row + length
    return np.round(cursor * 64) / 64, target


def _finger(cursor: np.ndarray, width: int, time: np.ndarray) -> np.ndarray:
    """Return the finger (count, 3 or 6): z, -x, -y in cm, then three slow angles."""
    height = 12 + 0.5 * np.sin(time)
    slow = [30 * np.sin(time / 7 + phase) for phase in range(width - 3)]
    columns = np.stack([height, -cursor[:, 0] / 10, -cursor[:, 1] / 10, *slow], 1)
    return np.round(columns * 256) / 256


def _trains(
    rng: np.random.Generator, time: np.ndarray, velocity: np.ndarray, kind: _Kind, channels: int
) -> dict[tuple[int, int], np.ndarray]:
    """Return the spike times (s) of the cells that are not empty, by unit and channel."""
    trains = {}
    chosen = np.sort(rng.choice(channels, 10, replace=False)).tolist()
    rows = [(0, 1), (0,), (0, 1, 2), (1,), (0,), (0, kind.units - 1), (0, 1), (0,), (0, 1), (0,)]
    for channel, filled in zip(chosen, rows, strict=True):
        for row in filled:
            angle = rng.uniform(0, 2 * np.pi)
            drive = velocity @ [np.cos(angle), np.sin(angle)] / 100
            rate = (6.0 if row == 0 else 4.0) * np.maximum(0, 1 + drive)
            hits = np.flatnonzero(rng.random(len(time)) < rate * PERIOD)
            inside = time[hits] + rng.uniform(0, PERIOD, len(hits))
            early = time[0] - rng.uniform(0, 0.5, 2)
            late = time[-1] + PERIOD + rng.uniform(0, 0.5, 3)
            trains[row, channel] = np.sort(np.concatenate([early, inside, late]))
    first, second, third, only = (trains[0, chosen[at]] for at in (0, 1, 4, 7))
    second[40] = first[30]  # one event, two channels
    second.sort()
    third[21] = third[20]  # and one event twice
    trains[0, chosen[7]] = only[len(only) // 2 :][:1]
    trains[0, chosen[9]] = np.sort(time[0] - rng.uniform(0, 0.5, 4))
    return trains


# ------------------------------------------------------------------ how MATLAB writes it


def _fresh_names() -> Iterator[str]:
    letters = string.ascii_letters
    yield from letters
    yield from ("".join(pair) for pair in product(letters, letters + string.digits))


def _put(group: h5py.Group, name: str, values: np.ndarray, kind: str = "double") -> h5py.Dataset:
    packed = {"chunks": True, "compression": "gzip", "compression_opts": 3}
    data = group.create_dataset(name, data=values, **(packed if values.size > 1000 else {}))
    data.attrs["MATLAB_class"] = np.bytes_(kind)
    return data


def _put_cells(file: h5py.File, name: str, cells: list[list[h5py.Dataset]]) -> None:
    import h5py

    values = np.array([[cell.ref for cell in line] for line in cells], h5py.ref_dtype)
    data = file.create_dataset(name, values.shape, h5py.ref_dtype)
    data[...] = values
    data.attrs["MATLAB_class"] = np.bytes_("cell")


def _characters(group: h5py.Group, name: str, text: str) -> h5py.Dataset:
    data = _put(group, name, np.array([[ord(one)] for one in text], np.uint16), "char")
    data.attrs["MATLAB_int_decode"] = np.int32(2)
    return data


def _cell(group: h5py.Group, name: str, train: np.ndarray | None) -> h5py.Dataset:
    if train is not None:
        return _put(group, name, train[None])
    data = _put(group, name, np.array(EMPTY, np.uint64))
    data.attrs["MATLAB_empty"] = np.uint8(1)
    return data


def _snippets(group: h5py.Group, name: str, train: np.ndarray | None, row: int) -> h5py.Dataset:
    if train is None:
        return _cell(group, name, None)
    shape = -40.0 * np.exp(-(((np.arange(48) - 12 - row) / 4) ** 2))  # microvolts
    return _put(group, name, np.repeat(shape[:, None], len(train), 1))


def _write_indy(path: Path, seed: int) -> None:
    _write(path, seed, INDY)


def _write_loco(path: Path, seed: int) -> None:
    _write(path, seed, LOCO)


_MANIFEST, _DATASET = "poyo-1", "odoherty_sabes_nonhuman_2017"
LAYOUTS = (
    Layout("odoherty-indy", _MANIFEST, _DATASET, "indy_20160921_01.mat", _write_indy),
    Layout("odoherty-loco", _MANIFEST, _DATASET, "loco_20170213_02.mat", _write_loco),
)
