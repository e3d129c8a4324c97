"""The mazes of Churchland and Shenoy (000070): four kinds of joined files.

Names, columns and dtypes, those of ragged indices too, were read in public crawls of the archive;
there are fewer trials, units and electrodes, and trials are shorter. What the files have, all of
it on purpose:

- behaviour in mm at 1 kHz within trials, labelled meters with a conversion of NaN; Hand and Eye
  take their timestamps from Cursor by a link; no velocity; one jump that no hand can make;
- ``target_positions`` as uint8, so that negative coordinates are wrapped; ragged and nested columns
  (``barrier_info``, ``frame_details``, ``timeseries``); moments of failed trials are NaN;
- the observation intervals of each unit repeat the trials; one silent unit;
- arrays of the local field potential whose start times mean nothing;
- electrode group 1 is PMd and 2 is M1, and no text of the electrodes says just that.

``000070-plain``: one unit whose times run backwards once.
``000070-joined`` (20090812): three acquisitions, each with the clock started anew, in trials,
behaviour and spikes. One unit that runs backwards once too often, one that has no spike in the
second acquisition, one with a spike before its acquisition began.
``000070-overlap`` (20090910): four acquisitions, and in the first one two trials that overlap.
``000070-missing-columns`` (20090922): two acquisitions, and five columns that the others have.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pynwb makes its classes while it runs, so pyright does not see their methods.

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.testing.layouts import Layout

if TYPE_CHECKING:
    from pynwb import NWBFile
    from pynwb.behavior import SpatialSeries

__all__ = ["LAYOUTS"]

ELECTRODES = 8  # per array; 96 in the files
UNITS = 16  # one per electrode
ARRAYS = {  # group: device, location of the group, location of its electrodes
    "1": ("PMd", "Caudal, dorsal Pre-motor cortex, Left hemisphere", "Pre-Motor Cortex, dorsal"),
    "2": ("M1", "M1 in Motor Cortex, left hemisphere", "M1 Motor Cortex"),
}
NOT_IN_ALL = ("correct_reach", "maze_condition", "novel_maze", "proto_trial", "trial_version")
INDEXES = {  # dtypes of the larger files
    "intervals/trials/barrier_info_index": "uint16",
    "intervals/trials/frame_details_index": "uint16",
    "intervals/trials/target_positions_index": "uint16",
    "intervals/trials/timeseries_index": "uint16",
    "units/electrodes_index": "uint8",
    "units/obs_intervals_index": "uint32",
    "units/spike_times_index": "uint32",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What sets one kind of file apart: trials of each acquisition, and its own defects."""

    name: str
    subject: str
    day: str
    trials: tuple[int, ...]
    overlap: bool = False
    lacks: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The path of a real asset."""
        return f"sub-{self.subject}/sub-{self.subject}_ses-{self.day}_behavior+ecephys.nwb"


KINDS = (
    Kind("000070-plain", "Jenkins", "20090912", (26,)),
    Kind("000070-joined", "Nitschke", "20090812", (10, 9, 8)),
    Kind("000070-overlap", "Nitschke", "20090910", (10, 6, 7, 6), overlap=True),
    Kind("000070-missing-columns", "Nitschke", "20090922", (14, 12), lacks=NOT_IN_ALL),
)


def write_file(kind: Kind, path: Path, seed: int) -> None:
    """Write a small file of one kind."""
    from pynwb import NWBHDF5IO

    rng = np.random.default_rng([seed, int(kind.day)])
    bounds, home = _bounds(rng, kind)
    samples = _samples(kind, bounds)
    nwb = _new_file(kind)
    series = _add_behaviour(nwb, rng, bounds, samples)
    _add_trials(nwb, rng, kind, bounds, series)
    _add_units(nwb, rng, kind, bounds, home)
    _add_potentials(nwb, len(kind.trials))
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    retype(path, INDEXES)


def _bounds(rng: np.random.Generator, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Return start and end (K, 2) of the trials, whole ms, and the acquisition of each."""
    home = np.repeat(np.arange(len(kind.trials)), kind.trials)
    length, pause = rng.integers(300, 500, len(home)), rng.integers(50, 400, len(home))
    bounds = []
    for at in range(len(kind.trials)):
        end = 3000 + 100 * at + np.cumsum(length[home == at] + pause[home == at])
        bounds.append(np.stack([end - length[home == at], end], 1))
    found = np.concatenate(bounds) / 1000
    if kind.overlap:
        found[4, 1] = found[5, 0] + 0.2  # its samples end before that
    return found, home


def _samples(kind: Kind, bounds: np.ndarray) -> list[np.ndarray]:
    """Return the times of the samples of each trial."""
    time = [start + np.arange(round((end - start) * 1000)) / 1000 for start, end in bounds]
    if kind.overlap:
        time[4] = time[4][time[4] < bounds[5, 0] - 0.02]
    return time


def _new_file(kind: Kind) -> NWBFile:
    from pynwb import NWBFile
    from pynwb.file import Subject

    start = datetime.fromisoformat(f"{kind.day[:4]}-{kind.day[4:6]}-{kind.day[6:]}T00:00:00-07:00")
    nwb = NWBFile(
        session_description="synthetic", identifier=f"synthetic-{kind.name}",
        session_start_time=start, institution="Stanford University",
    )  # fmt: skip
    nwb.subject = Subject(
        subject_id=kind.subject, species="Macaca mulatta", sex="M", description="synthetic"
    )
    add_arrays(nwb, ARRAYS, gain=1.0, offset=0.0)
    return nwb


def add_arrays(nwb: NWBFile, arrays: dict[str, tuple[str, str, str]], **extra: float) -> None:
    """Add devices, groups and electrodes, and to the latter more columns of one value."""
    for name in extra:
        nwb.add_electrode_column(name, "synthetic")
    for name, (area, place, _) in sorted(arrays.items()):
        device = nwb.create_device(f"Utah Array({area})", "96 channel utah array")
        text = f"array corresponding to device implanted at {area}"
        nwb.create_electrode_group(name, text, place, device)
    for name, (_, _, location) in sorted(arrays.items()):
        for _ in range(ELECTRODES):
            nwb.add_electrode(
                x=np.nan, y=np.nan, z=np.nan, imp=np.nan, location=location, filtering="1000Hz",
                group=nwb.electrode_groups[name], group_name=name, **extra,
            )  # fmt: skip


# ------------------------------------------------------------------ behaviour and trials


def _add_behaviour(
    nwb: NWBFile, rng: np.random.Generator, bounds: np.ndarray, samples: list[np.ndarray]
) -> list[SpatialSeries]:
    """Add Cursor, Hand and Eye; each trial is one reach of 60 mm and back."""
    from hdmf.backends.hdf5 import H5DataIO
    from pynwb.behavior import Position, SpatialSeries

    angle = rng.uniform(0, 2 * np.pi, len(bounds))
    cursor = [
        30 * (1 - np.cos(2 * np.pi * (time - start) / (end - start)))[:, None]
        * np.array([np.cos(way), np.sin(way)])
        for time, (start, end), way in zip(samples, bounds, angle, strict=True)
    ]  # fmt: skip
    cursor[7][200:] += 3.0  # mm within 1 ms
    cursor = np.concatenate(cursor)
    hand = cursor + np.round(rng.uniform(-5, 5, 2))
    eye = np.round(rng.normal(0, 40, cursor.shape))
    time = H5DataIO(np.concatenate(samples), compression="gzip", shuffle=True)
    position, listed = Position(name="Position"), []
    for name, values in {"Cursor": cursor, "Hand": hand, "Eye": eye}.items():
        one = SpatialSeries(
            name=name, data=H5DataIO(values, compression="gzip", shuffle=True),
            reference_frame="screen center", conversion=np.nan, unit="meters",
            timestamps=listed[0] if listed else time, description="synthetic",
        )  # fmt: skip
        position.add_spatial_series(one)
        listed.append(one)
    nwb.create_processing_module("behavior", "contains monkey movement data").add(position)
    return listed


def _add_trials(
    nwb: NWBFile, rng: np.random.Generator, kind: Kind, bounds: np.ndarray,
    series: list[SpatialSeries],
) -> None:  # fmt: skip
    count, length = len(bounds), bounds[:, 1] - bounds[:, 0]
    discarded, failed = np.arange(count) % 7 == 3, np.arange(count) % 8 == 2
    moments = bounds[:, :1] + np.round(length[:, None] * np.array([0.1, 0.3, 0.45, 0.8]), 3)
    moments[failed, 2:] = np.nan
    targets = np.where(np.arange(count) % 3 == 2, 3, 1)
    places = [rng.integers(-120, 121, (n, 2)) for n in targets]
    barriers, frames = rng.integers(0, 9, count), rng.integers(4, 7, count)
    for start, stop in bounds:
        nwb.add_trial(start_time=start, stop_time=stop, timeseries=series)
    columns: dict[str, np.ndarray | list[np.ndarray]] = {
        "target_presentation_time": moments[:, 0], "go_cue_time": moments[:, 1],
        "reaction_time": moments[:, 2] - moments[:, 1],
        "move_begins_time": moments[:, 2], "move_ends_time": moments[:, 3],
        "discard_trial": discarded.astype("uint8"), "task_success": (~failed).astype("uint8"),
        "trial_type": rng.integers(1, 28, count).astype("uint8"),
        "trial_version": (np.arange(count) % 3).astype("uint8"),
        "proto_trial": (np.arange(count) % 5 == 0).astype("uint8"),
        "novel_maze": np.zeros(count, "uint8"), "correct_reach": (~failed).astype("uint8"),
        "maze_condition": rng.integers(1, 109, count).astype("uint8"),
        "maze_num_targets": targets.astype("uint8"),
        "maze_num_barriers": barriers.astype("uint8"),
        "target_positions": [one.astype("uint8") for one in places],
        "hit_target_position": np.stack([one[-1] for one in places]).astype("int16"),
        "target_size": np.full(count, 12, "uint8"),
        "frame_details": [rng.integers(-500, 500, (n, 1, 1)).astype("int16") for n in frames],
        "barrier_info": [rng.integers(-90, 90, (n, 4)).astype("float64") for n in barriers],
    }  # fmt: skip
    for name, values in columns.items():
        if name in kind.lacks:
            continue
        if isinstance(values, list):
            ends = np.cumsum([len(part) for part in values])
            nwb.add_trial_column(name, "synthetic", data=np.concatenate(values), index=ends)
        else:
            nwb.add_trial_column(name, "synthetic", data=values)


# ------------------------------------------------------------------ units and potentials


def _add_units(
    nwb: NWBFile, rng: np.random.Generator, kind: Kind, bounds: np.ndarray, home: np.ndarray
) -> None:
    groups = list(nwb.electrode_groups.values())
    last, many = bounds[home == 0][-1, 1], len(kind.trials)
    for unit in range(UNITS):
        parts = [_spikes(rng, bounds[home == at], 4 + 3 * unit) for at in range(many)]
        if unit == 5:
            parts = [np.empty(0)]
        if unit == 9 and many == 1:
            parts = [parts[0], parts[0][:3]]
        if many == 3 and unit == 2:
            parts.append(parts[1][:4])
        if many == 3 and unit == 7:
            parts[1] = np.empty(0)
        if many == 3 and unit == 11:
            parts[2] = np.append(bounds[home == 2][0, 0] - 0.01, parts[2])
        if many == 3 and unit == 13:
            parts[0] = np.append(parts[0], last)  # not in the trial, whose end is open
        nwb.add_unit(
            spike_times=np.concatenate(parts), electrodes=[unit],
            electrode_group=groups[unit // ELECTRODES], obs_intervals=bounds,
        )  # fmt: skip


def _spikes(rng: np.random.Generator, trials: np.ndarray, rate: float) -> np.ndarray:
    """Return the spike times of a unit with this mean rate (Hz) in some trials."""
    length = trials[:, 1] - trials[:, 0]
    counts = rng.poisson(rate * length) + 1
    row = np.repeat(np.arange(len(trials)), counts)
    time = np.sort(trials[row, 0] + rng.uniform(0.001, 0.999, len(row)) * length[row])
    return np.minimum(time, trials[-1, 1] - 0.001)


def _add_potentials(nwb: NWBFile, many: int) -> None:
    """Add the local field potentials of both arrays, a piece for each acquisition."""
    from pynwb.ecephys import ElectricalSeries, FilteredEphys

    module = nwb.create_processing_module("ecephys", "intermediate data")
    processed = FilteredEphys(name="Processed")
    module.add(processed)
    for array, letter in enumerate("AB"):
        rows = list(range(array * ELECTRODES, (array + 1) * ELECTRODES))
        for number in range(1, max(many, 2) + 1):
            region = nwb.create_electrode_table_region(rows, "synthetic")
            one = ElectricalSeries(
                name=f"{letter}00{number}", data=np.zeros((50, ELECTRODES), "int16"),
                electrodes=region, rate=1000.0, starting_time=0.0,
            )  # fmt: skip
            processed.add_electrical_series(one)


def retype(path: Path, dtypes: dict[str, str]) -> None:
    """Give indexes the dtype that they have in the real files, which are larger."""
    import h5py

    with h5py.File(path, "a") as file:
        for name, dtype in dtypes.items():
            old = file[name]
            kept, values = dict(old.attrs), old[()].astype(dtype)
            del file[name]
            new = file.create_dataset(name, data=values)
            for key, value in kept.items():
                new.attrs[key] = value


LAYOUTS = tuple(
    Layout(
        kind.name, "poyo-1", "churchland_shenoy_neural_2012", kind.path, partial(write_file, kind)
    )
    for kind in KINDS
)
"""One for each kind of file."""
