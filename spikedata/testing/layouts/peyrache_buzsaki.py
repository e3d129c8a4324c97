"""Head-direction cells of mice that sleep and forage (000056, Peyrache and Buzsáki).

Names, columns and dtypes were read in public crawls of the archive, the defects in the public code
that wrote the files. What the files have, all of it on purpose:

- two LEDs and no head direction: red is in front, blue behind;
- a stored coordinate of -1 where an LED was not seen: most of the time but for the waking part,
  and now and then for one LED alone; the conversion of 0.01 makes -0.01 of it;
- the same LEDs a second time in ``acquisition``, in grid units with a conversion of NaN;
- no processed position at all in sessions whose position file was missing (``no-position``);
- sleep states inside the behaviour module, with bounds in float32;
- units with nothing but spike times; the index is uint32, as much larger files need it;
- labels of brain events as AnnotationSeries among the stimuli.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# pynwb makes its classes while it runs, so pyright does not see their methods.

from __future__ import annotations

import warnings
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.testing.layouts import Layout
from spikedata.testing.layouts.grosmark_buzsaki import add_shanks, add_states, recast

if TYPE_CHECKING:
    from pynwb import NWBFile

__all__ = ["LAYOUTS", "write_session"]

RATE = 1250 / 32  # Hz
DURATION = 100.0  # s
AWAKE = (20.0, 85.0)  # s: when the LEDs were on
UNITS = 14
NAMES = ("RedLED", "BlueLED")


def write_session(path: Path, seed: int = 0, *, with_position: bool = True) -> None:
    """Write a session, with the processed position of the LEDs or without it."""
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject

    rng = np.random.default_rng([seed, 56, with_position])
    session = "Mouse12-120806" if with_position else "Mouse17-130201"
    day = "2012-08-06" if with_position else "2013-02-01"
    nwb = NWBFile(
        session_description="synthetic", identifier=session, session_id=session, lab="Buzsaki",
        session_start_time=datetime.fromisoformat(f"{day}T00:00:00-04:00"),
    )  # fmt: skip
    nwb.subject = Subject(subject_id=session[:7], species="Mus musculus", sex="M", age="P90D")
    add_shanks(nwb, rng, {})
    nwb.create_processing_module("behavior", "contains processed behavioral data")
    add_states(nwb, rng, DURATION)
    _add_leds(nwb, rng, with_position)
    _add_events(nwb, rng)
    for _ in range(UNITS):
        nwb.add_unit(spike_times=np.sort(rng.uniform(0, DURATION, rng.integers(100, 600))))
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    states = {f"processing/behavior/states/{name}_time": "float32" for name in ("start", "stop")}
    recast(path, {"units/spike_times_index": "uint32", **states})


def _add_leds(nwb: NWBFile, rng: np.random.Generator, with_position: bool) -> None:
    from pynwb import H5DataIO
    from pynwb.behavior import Position, SpatialSeries

    count = int(DURATION * RATE)
    time = np.arange(count) / RATE
    walk = 25 + 20 * np.sin(2 * np.pi * np.outer(time, [0.037, 0.053]) + rng.uniform(0, 6, 2))
    angle = np.cumsum(rng.normal(0, 0.08, count))
    ahead = 1.5 * np.stack([np.cos(angle), np.sin(angle)], 1)  # cm
    asleep = (time < AWAKE[0]) | (time >= AWAKE[1])
    position = Position(name="SubjectPosition")

    def series(name: str, values: np.ndarray, conversion: float) -> SpatialSeries:
        return SpatialSeries(
            name=name, data=H5DataIO(values, compression="gzip"), conversion=conversion,
            reference_frame="Unknown", starting_time=0.0, rate=RATE, resolution=np.nan,
        )  # fmt: skip

    for name, values in zip(NAMES, (walk + ahead, walk - ahead), strict=True):
        unseen = asleep | (rng.random(count) < 0.02)
        grid = np.round(values * 7)  # pixels of the video
        values[unseen], grid[unseen] = -1.0, -1.0
        nwb.add_acquisition(series(name, grid, np.nan))
        position.add_spatial_series(series(name, values, 0.01))
    if with_position:
        nwb.processing["behavior"].add(position)


def _add_events(nwb: NWBFile, rng: np.random.Generator) -> None:
    from pynwb.ecephys import ElectricalSeries
    from pynwb.misc import AnnotationSeries

    for name in ("dow", "hdD", "rip"):
        time = np.sort(rng.uniform(0, DURATION, 9))
        with warnings.catch_warnings():  # the files are older than what pynwb has in its place
            warnings.filterwarnings("ignore", "AnnotationSeries is deprecated")
            nwb.add_stimulus(AnnotationSeries(name=name, data=[name] * 9, timestamps=time))
    region = nwb.create_electrode_table_region(list(range(16)), "all electrodes")
    raw = rng.integers(-900, 900, (200, 16)).astype(np.int16)
    nwb.add_acquisition(
        ElectricalSeries(
            name="ElectricalSeries", data=raw, electrodes=region, rate=20000.0, conversion=1e-6
        )
    )


LAYOUTS = tuple(
    Layout(
        f"000056-{name}", "head-direction", "peyrache_buzsaki_2015",
        f"sub-{mouse}/sub-{mouse}_ses-{mouse}-{day}_behavior+ecephys.nwb",
        partial(write_session, with_position=name == "two-leds"),
    )
    for name, mouse, day in (
        ("two-leds", "Mouse12", "120806"), ("no-position", "Mouse17", "130201"),
    )
)  # fmt: skip
