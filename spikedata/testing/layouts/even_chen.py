"""Delayed reaching of Even-Chen et al. (000121): one kind of file.

Names, columns and dtypes, those of ragged indices too, were read in public crawls of the archive;
there are fewer trials, units and electrodes, and trials are shorter. What crawls do not show is
as in the public code that converted the files: samples and spikes are those of the trials, whose
end is the last sample, and times are whole ms. What the files have, all of it on purpose:

- electrode group 1 is M1 and 2 is PMd, the reverse of 000070;
- a conversion of NaN for every position; Hand has three columns, the others two; Cursor's
  timestamps are those of all, the reward's too, by links;
- one observation interval a unit, from the first trial to the last, although nothing was
  recorded between trials; one silent unit;
- ragged columns with as many values in each row (``target_pos``, ``target_size``,
  ``barrier_points``) and with different ones (``target_acquire_time``); moments that did not come
  are NaN;
- a series of rewards in /stimulus, and local field potentials, which are not read.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# pynwb makes its classes while it runs, so pyright does not see their methods.

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.testing.layouts import Layout
from spikedata.testing.layouts.churchland_shenoy import ELECTRODES, add_arrays, retype

if TYPE_CHECKING:
    from pynwb import NWBFile
    from pynwb.behavior import SpatialSeries

__all__ = ["LAYOUTS"]

UNITS, TRIALS = 16, 30
ARRAYS = {  # group: device, location of the group, location of its electrodes
    "1": ("M1", "M1 in Motor Cortex, left hemisphere", "M1 Motor Cortex"),
    "2": ("PMd", "Caudal, dorsal Pre-motor cortex, Left hemisphere", "Pre-Motor Cortex, dorsal"),
}
INDEXES = {  # dtypes of the larger files
    "intervals/trials/barrier_points_index": "uint16",
    "intervals/trials/target_acquire_time_index": "uint16",
    "intervals/trials/target_pos_index": "uint16",
    "intervals/trials/target_size_index": "uint16",
    "intervals/trials/timeseries_index": "uint16",
    "units/electrodes_index": "uint8",
    "units/obs_intervals_index": "uint8",
    "units/spike_times_index": "uint32",
}


def write_file(path: Path, seed: int) -> None:
    """Write a small file."""
    from pynwb import NWBHDF5IO

    rng = np.random.default_rng([seed, 121])
    length, pause = rng.integers(250, 400, TRIALS), rng.integers(2, 200, TRIALS)
    stop = 4000 + np.cumsum(length + pause)
    time = [np.arange(end - many, end + 1) / 1000 for end, many in zip(stop, length, strict=True)]
    nwb = _new_file()
    series = _add_behaviour(nwb, rng, time)
    _add_trials(nwb, rng, time, series)
    _add_units(nwb, rng, time)
    _add_potentials(nwb)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    retype(path, INDEXES)


def _new_file() -> NWBFile:
    from pynwb import NWBFile
    from pynwb.file import Subject

    nwb = NWBFile(
        session_description="synthetic", identifier="synthetic-000121",
        session_start_time=datetime.fromisoformat("2015-10-01T15:03:07.683995-04:00"),
        institution="Stanford University",
    )  # fmt: skip
    nwb.subject = Subject(
        subject_id="JenkinsC", species="Macaca mulatta", sex="M", description="synthetic"
    )
    add_arrays(nwb, ARRAYS, gain=1.0, offset=0.0)
    return nwb


def _add_behaviour(
    nwb: NWBFile, rng: np.random.Generator, time: list[np.ndarray]
) -> list[SpatialSeries]:
    """Add the four positions and the reward; each trial is one reach of 60 and back."""
    from hdmf.backends.hdf5 import H5DataIO
    from pynwb import TimeSeries
    from pynwb.behavior import Position, SpatialSeries

    angle = rng.uniform(0, 2 * np.pi, len(time))
    cursor = np.concatenate([
        30 * (1 - np.cos(np.linspace(0, 2 * np.pi, len(one))))[:, None]
        * np.array([np.cos(way), np.sin(way)])
        for one, way in zip(time, angle, strict=True)
    ])  # fmt: skip
    depth = np.round(rng.normal(0, 2, (len(cursor), 1)))
    values = {
        "Cursor": cursor, "Hand": np.hstack([cursor, depth]),
        "Eye": np.round(rng.normal(0, 40, cursor.shape)), "DecodePos": np.round(cursor),
    }  # fmt: skip
    position, listed = Position(name="Position"), []
    for name, data in values.items():
        stamps = H5DataIO(np.concatenate(time), compression="gzip", shuffle=True)
        one = SpatialSeries(
            name=name, data=H5DataIO(data, compression="gzip", shuffle=True), unit="meters",
            reference_frame="screen center", conversion=np.nan, description="synthetic",
            timestamps=listed[0] if listed else stamps,
        )  # fmt: skip
        position.add_spatial_series(one)
        listed.append(one)
    nwb.create_processing_module("behavior", "contains monkey movement data").add(position)
    reward = np.concatenate([np.arange(len(one)) > len(one) - 20 for one in time]).astype("uint8")
    nwb.add_stimulus(
        TimeSeries(name="juice_reward", data=H5DataIO(reward, compression="gzip"),
                   timestamps=listed[0], unit="n.a.", description="synthetic")
    )  # fmt: skip
    return listed


def _add_trials(
    nwb: NWBFile, rng: np.random.Generator, time: list[np.ndarray], series: list[SpatialSeries]
) -> None:
    count, failed = len(time), np.arange(len(time)) % 6 == 4
    start, never = np.array([one[0] for one in time]), np.full(len(time), np.nan)
    for one in time:
        nwb.add_trial(start_time=one[0], stop_time=one[-1], timeseries=series)
    reached = [np.round(one[0] + 0.2 + 0.05 * np.arange(1 + row % 3 // 2), 3)
               for row, one in enumerate(time)]  # fmt: skip
    columns: dict[str, np.ndarray | list[np.ndarray]] = {
        "is_successful": (~failed).astype("uint8"), "task_id": np.full(count, 23.0),
        "version_id": np.full(count, 7.0),
        "reach_time": np.where(failed, never, np.round(rng.uniform(80, 120, count))),
        "target_hold_time": np.full(count, 300.0),
        "fail_time": np.where(failed, start + 0.25, never),
        "target_pos": list(rng.integers(-90, 91, (count, 3)).astype("float64")),
        "target_size": list(np.full((count, 3), 20.0)),
        "barrier_points": list(np.zeros((count, 6))),
        "go_cue_time": np.round(start + 0.12, 3), "target_acquire_time": reached,
        "target_held_time": np.where(failed, never, np.round(start + 0.28, 3)),
        "target_shown_time": np.round(start + 0.03, 3),
    }  # fmt: skip
    for name, values in columns.items():
        if isinstance(values, list):
            ends = np.cumsum([len(part) for part in values])
            nwb.add_trial_column(name, "synthetic", data=np.concatenate(values), index=ends)
        else:
            nwb.add_trial_column(name, "synthetic", data=values)


def _add_units(nwb: NWBFile, rng: np.random.Generator, time: list[np.ndarray]) -> None:
    groups, every = list(nwb.electrode_groups.values()), np.concatenate(time)
    for unit in range(UNITS):
        rate = 0.0 if unit == 6 else 5.0 + 3 * unit  # Hz
        nwb.add_unit(
            spike_times=every[rng.random(len(every)) < rate / 1000], electrodes=[unit],
            electrode_group=groups[unit // ELECTRODES],
            obs_intervals=[[every[0], every[-1]]],
        )  # fmt: skip


def _add_potentials(nwb: NWBFile) -> None:
    from pynwb.ecephys import LFP, ElectricalSeries

    module = nwb.create_processing_module("ecephys", "intermediate data")
    potentials = LFP(name="LFP")
    module.add(potentials)
    for array, (area, pieces) in enumerate({"M1": 2, "PMd": 3}.items()):
        rows = list(range(array * ELECTRODES, (array + 1) * ELECTRODES))
        for number in range(1, pieces + 1):
            region = nwb.create_electrode_table_region(rows, "synthetic")
            one = ElectricalSeries(
                name=f"{area}_{number}", data=np.zeros((50, ELECTRODES), "int16"),
                electrodes=region, rate=1000.0, starting_time=0.0,
            )  # fmt: skip
            potentials.add_electrical_series(one)


LAYOUTS = (
    Layout(
        "000121",
        "even-chen",
        "even_chen_shenoy_2019",
        "sub-JenkinsC/sub-JenkinsC_ses-20151001T150307_behavior+ecephys.nwb",
        write_file,
    ),
)
"""The one kind of file."""
