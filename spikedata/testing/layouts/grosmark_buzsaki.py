"""Rats that sleep, run on a novel maze and sleep again (000044, Grosmark and Buzsáki).

Names, columns and dtypes were read in public crawls of the archive, the defects in public code
that wrote these files or reads them. What the files have, all of it on purpose:

- behaviour in groups that are named after the maze: ``1.6mLinearMaze`` (``linear``) or
  ``CircularMaze`` (``circular``); another session has ``2mLinearMaze``;
- ``rate`` holds the **period**, 0.0256 for 39.0625 Hz, as the difference of two times;
- the maze is a part of the session only; position has NaN in it, the linearised position (T, 1)
  is NaN but for the runs, about a fifteenth of the samples;
- a conversion of NaN where the position is not in metres (``circular``);
- sleep states inside the behaviour module, with bounds in float32;
- units without electrodes; the index is uint32, as much larger files need it.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pynwb makes its classes while it runs, so pyright does not see their methods.

from __future__ import annotations

from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.testing.layouts import Layout

if TYPE_CHECKING:
    from pynwb import NWBFile

__all__ = ["LAYOUTS", "add_shanks", "add_states", "recast", "write_session"]

EPOCHS = (("PREEpoch", 0.0, 30.0), ("MazeEpoch", 30.0, 90.0), ("POSTEpoch", 90.0, 120.0))
MAZE = 30.0  # s: the first sample of the position
PERIOD = (MAZE + 0.0256) - MAZE  # s: what `rate` holds
RUN, LAP = 0.4, 6.0  # s: of each lap only so much is linearised
UNITS = 16


def write_session(path: Path, seed: int = 0, *, maze: str = "1.6mLinearMaze") -> None:
    """Write a session on this maze; the circular one has a position in no known unit."""
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject

    rng = np.random.default_rng([seed, 44, len(maze)])
    session = "Gatsby_08282013" if maze == "CircularMaze" else "Achilles_10252013"
    day = "2013-08-28" if maze == "CircularMaze" else "2013-10-25"
    nwb = NWBFile(
        session_description="synthetic", identifier=session, session_id=session, lab="Buzsaki",
        session_start_time=datetime.fromisoformat(f"{day}T00:00:00-04:00"),
    )  # fmt: skip
    nwb.subject = Subject(subject_id=session[:-9], species="Rattus norvegicus", sex="M", age="P90D")
    add_shanks(nwb, rng, {"bad_electrode": [False] * 16})
    nwb.add_epoch_column("label", "name of epoch")
    for label, start, stop in EPOCHS:
        nwb.add_epoch(start_time=start, stop_time=stop, label=label)
    module = nwb.create_processing_module("behavior", "contains processed behavioral data")
    add_states(nwb, rng, 120.0)
    for container in _positions(rng, maze):
        module.add(container)
    _add_units(nwb, rng)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    states = {f"processing/behavior/states/{name}_time": "float32" for name in ("start", "stop")}
    recast(path, {"units/spike_times_index": "uint32", **states})


def _positions(rng: np.random.Generator, maze: str) -> list:
    from pynwb import H5DataIO
    from pynwb.behavior import Position, SpatialSeries

    count = int(60 / PERIOD)
    time = np.arange(count) * PERIOD
    lap = time % LAP
    along = 0.8 + 0.75 * np.sin(2 * np.pi * time / LAP)
    across = rng.normal(0, 0.01, count)
    if maze == "CircularMaze":
        turn = 2 * np.pi * time / LAP
        along, across = 40 * np.cos(turn) + rng.normal(0, 0.1, count), 40 * np.sin(turn)
    values = np.stack([along, across], 1)
    values[rng.random(count) < 0.03] = np.nan
    linear = np.where((lap > 1) & (lap < 1 + RUN), along, np.nan)[:, None]
    conversion = np.nan if maze == "CircularMaze" else 1.0
    found = []
    for container, series, data in (
        (f"{maze}Position", f"{maze}SpatialSeries", values),
        (f"{maze}LinearizedPosition", f"{maze}LinearizedTimeSeries", linear),
    ):
        one = SpatialSeries(
            name=series, data=H5DataIO(data, compression="gzip"), reference_frame="unknown",
            conversion=conversion, starting_time=MAZE, rate=PERIOD, resolution=np.nan,
        )  # fmt: skip
        found.append(Position(spatial_series=one, name=container))
    return found


def _add_units(nwb: NWBFile, rng: np.random.Generator) -> None:
    for name in ("cell_type", "location", "shank_id"):
        nwb.add_unit_column(name, "as in the files")
    for unit in range(UNITS):
        nwb.add_unit(
            spike_times=np.sort(rng.uniform(0.0, 120.5, rng.integers(100, 500))),
            cell_type="inhibitory" if unit % 5 == 4 else "excitatory",
            location="CA1", shank_id=unit // 4 + 1,
        )  # fmt: skip


def add_shanks(nwb: NWBFile, rng: np.random.Generator, columns: dict[str, list]) -> None:
    """Add four shanks of four electrodes, and an LFP of them, as this laboratory's files do."""
    from pynwb.ecephys import LFP, ElectricalSeries

    device = nwb.create_device("Device")
    for shank in range(1, 5):
        group = nwb.create_electrode_group(f"shank{shank}", "a shank", "unknown", device)
        for _ in range(4):
            nwb.add_electrode(
                x=np.nan, y=np.nan, z=np.nan, imp=np.nan, location="unknown", filtering="unknown",
                group=group,
            )  # fmt: skip
    for name, values in {"shank_electrode_number": list(range(4)) * 4, **columns}.items():
        nwb.add_electrode_column(name, "as in the files", data=values)
    region = nwb.create_electrode_table_region(list(range(16)), "all electrodes")
    series = ElectricalSeries(
        name="LFP", data=rng.integers(-900, 900, (200, 16)).astype(np.int16), electrodes=region,
        rate=1250.0, starting_time=0.0, conversion=1e-6,
    )  # fmt: skip
    module = nwb.create_processing_module("ecephys", "contains processed ecephys data")
    lfp = LFP(name="LFP")
    module.add(lfp)
    lfp.add_electrical_series(series)


def add_states(nwb: NWBFile, rng: np.random.Generator, end: float) -> None:
    """Add sleep states of the animal, one after another, to the behaviour module."""
    from pynwb.epoch import TimeIntervals

    table = TimeIntervals(name="states", description="Sleep states of animal.")
    table.add_column(name="label", description="Sleep state.")
    edges = np.concatenate([[0.0], np.sort(rng.uniform(1, end - 1, 11)), [end]])
    for row, (start, stop) in enumerate(pairwise(edges)):
        label = ("Awake", "Non-REM", "REM")[row % 3]
        table.add_row(start_time=start, stop_time=stop, label=label)
    nwb.processing["behavior"].add(table)


def recast(path: Path, dtypes: dict[str, str]) -> None:
    """Write arrays anew with the dtypes of the real files; their attributes stay."""
    import h5py

    with h5py.File(path, "a") as file:
        for name, dtype in dtypes.items():
            values, kept = file[name][()].astype(dtype), dict(file[name].attrs)
            del file[name]
            file.create_dataset(name, data=values).attrs.update(kept)


LAYOUTS = tuple(
    Layout(
        f"000044-{name}", "hippocampus", "grosmark_buzsaki_2016",
        f"sub-{rat}/sub-{rat}_ses-{rat}-{day}_behavior+ecephys.nwb",
        partial(write_session, maze=maze),
    )
    for name, rat, day, maze in (
        ("linear", "Achilles", "10252013", "1.6mLinearMaze"),
        ("circular", "Gatsby", "08282013", "CircularMaze"),
    )
)  # fmt: skip
