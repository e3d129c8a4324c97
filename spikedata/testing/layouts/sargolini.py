"""Cells of the entorhinal cortex of rats that forage in a box (000582, Sargolini et al.).

Names, columns and dtypes were read in public crawls of the archive, the rest in the public code
that wrote the files. What the files have, all of it on purpose:

- one LED in about half of the files (``one-led``), two in the others (``two-leds``);
- centimetres that are stated as metres with a conversion of 0.01;
- NaN where an LED was not seen, at other times for one LED than for the other;
- a session start of 1900-01-01, not a date of the recording, and a weight of ``"0.35/0.45"``;
- units without electrodes; ``histology`` and ``hemisphere`` are ``""`` and ``depth`` is NaN where
  the laboratory's table lacks a unit; indices are uint16.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# pynwb makes its classes while it runs, so pyright does not see their methods.

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.testing.layouts import Layout

if TYPE_CHECKING:
    from pynwb import NWBFile

__all__ = ["LAYOUTS", "write_session"]

DURATION, RATE = 60.0, 50.0  # s (600 in the files) and Hz


def write_session(path: Path, seed: int = 0, *, leds: int = 2) -> None:
    """Write a session in which this many LEDs were tracked."""
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject

    rng = np.random.default_rng([seed, 582, leds])
    nwb = NWBFile(
        session_description="spike and position times of a rat in a 1 x 1 meter enclosure",
        identifier=f"synthetic-{seed}", session_id="01060511" if leds > 1 else "17010302",
        session_start_time=datetime.fromisoformat("1900-01-01T00:00:00+01:00"), lab="Moser",
    )  # fmt: skip
    nwb.subject = Subject(
        subject_id="11025" if leds > 1 else "10073", species="Rattus norvegicus", age="P3M/P5M",
        sex="M", weight="0.35/0.45", description="A Long Evans rat.",
    )  # fmt: skip
    _add_position(nwb, rng, leds)
    _add_eeg(nwb, rng)
    _add_units(nwb, rng, 3 if leds > 1 else 8)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)


def _add_position(nwb: NWBFile, rng: np.random.Generator, leds: int) -> None:
    from pynwb import H5DataIO
    from pynwb.behavior import Position

    count = int(DURATION * RATE)
    time = np.arange(count) / RATE
    walk = 50 * np.sin(2 * np.pi * np.outer(time, [0.031, 0.047]) + rng.uniform(0, 6, 2))
    angle = np.cumsum(rng.normal(0, 0.05, count))
    ahead = 3 * np.stack([np.cos(angle), np.sin(angle)], 1)  # cm between the LEDs and the middle
    position = Position(name="Position")
    for led, values in enumerate((walk + ahead, walk - ahead)[:leds], 1):
        values[200 * led : 200 * led + 30] = np.nan
        position.create_spatial_series(
            name=f"SpatialSeriesLED{led}", unit="meters", conversion=0.01,
            data=H5DataIO(values, compression=True),
            timestamps=H5DataIO(time, compression=True), reference_frame="(0,0) is not known.",
        )  # fmt: skip
    nwb.create_processing_module("behavior", "Processed behavioral data.").add(position)


def _add_eeg(nwb: NWBFile, rng: np.random.Generator) -> None:
    from pynwb.ecephys import LFP, ElectricalSeries

    device = nwb.create_device("EEG")
    group = nwb.create_electrode_group("ElectrodeGroup", "its name", "MEC", device)
    nwb.add_electrode(group=group, location="MEC")
    region = nwb.create_electrode_table_region([0], "all electrodes")
    for name, rate in (("ElectricalSeries", 4800.0), ("ElectricalSeriesLFP", 250.0)):
        series = ElectricalSeries(
            name=name, data=rng.integers(-900, 900, 500).astype(np.int16), electrodes=region,
            rate=rate, starting_time=0.0, conversion=1e-6,
        )  # fmt: skip
        if name == "ElectricalSeries":
            nwb.add_acquisition(series)
        else:
            module = nwb.create_processing_module("ecephys", "Processed electrical series data.")
            module.add(LFP(electrical_series=series, name="LFP"))


def _add_units(nwb: NWBFile, rng: np.random.Generator, count: int) -> None:
    nwb.add_unit_column("unit_name", "tetrode and cell")
    for unit in range(count):
        spikes = np.sort(rng.uniform(0, DURATION, rng.integers(200, 900)))
        nwb.add_unit(spike_times=spikes, unit_name=f"t{unit // 3 + 1}c{unit % 3 + 1}")
    known = np.arange(count) != 1  # one unit is not in the laboratory's table
    columns = {
        "histology": np.where(known, "MEC LII", ""),
        "hemisphere": np.where(known, "Left", ""),
    }
    for name, values in columns.items():
        nwb.add_unit_column(name, "of the cell", data=values.tolist())
    depth = np.where(known, 2.1e-3, np.nan)
    nwb.add_unit_column("depth", "of the electrodes in meters", data=depth.tolist())


LAYOUTS = tuple(
    Layout(
        f"000582-{name}", "grid-cells", "sargolini_moser_2006", path,
        partial(write_session, leds=leds),
    )
    for name, path, leds in (
        ("one-led", "sub-10073/sub-10073_ses-17010302_behavior+ecephys.nwb", 1),
        ("two-leds", "sub-11025/sub-11025_ses-01060511_behavior+ecephys.nwb", 2),
    )
)  # fmt: skip
