"""Brain-wide recordings of mice that turn a wheel (000017, Steinmetz et al.).

Names, columns and dtypes were read in public crawls of the archive, the defects in public code
that wrote these files or reads them. What the files have, all of it on purpose:

- ``rate`` holds the **period** (0.0004 for 2500 Hz) of every series that has one;
- the wheel is in encoder ticks with a conversion of 0.135 to mm;
- in some sessions the pupil has two timestamps for all its frames, the first and the last
  (``one-probe``), in others one for each (``two-probes``);
- units stand in the order of their first spikes, so ids are not in order; each lists 50 electrodes,
  the nearest first; ``peak_channel`` counts from 1, so it is that electrode's row plus one;
- one value a unit in arrays of shape (U, 1), and ragged columns of shape (N, 1);
- ``waveform_duration`` is a copy of ``cluster_depths`` in some sessions (``one-probe``);
- ``phy_annotations`` 1 is multi-unit, 2 and 3 are units to use;
- ``wheel_moves`` is an IntervalSeries with two times for each value;
- probes are described by a location of ``""``; there is no session id.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pynwb makes its classes while it runs, so pyright does not see their methods.

from __future__ import annotations

import warnings
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.testing.layouts import Layout

if TYPE_CHECKING:
    from pynwb import NWBFile

__all__ = ["LAYOUTS", "write_session"]

PERIOD = 0.0004  # s: what `rate` holds
START, DURATION = 1.25, 40.0  # s: of the wheel
SITES = 60  # per probe; 374 in the files
REGIONS = ("VISp", "CA1", "LP", "root")
UNITS = 8  # per probe


def write_session(path: Path, seed: int = 0, *, probes: int = 2) -> None:
    """Write a session with this many probes; with one, the pupil has only two timestamps."""
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject

    rng = np.random.default_rng([seed, 17, probes])
    day = "2016-12-14" if probes > 1 else "2017-12-10"
    name = "Cori" if probes > 1 else "Lederberg"
    nwb = NWBFile(
        session_description="Neuropixels recording during visual discrimination in awake mice.",
        identifier=f"{name}_{day}",
        session_start_time=datetime.fromisoformat(f"{day}T12:00:00+00:00"),
        institution="University College London", lab="The Carandini & Harris Lab",
    )  # fmt: skip
    nwb.subject = Subject(
        subject_id=name, age="P77D", sex="F", species="Mus musculus",
        genotype="tetO-G6s x CaMK-tTA", description="strain: C57Bl6/J",
    )  # fmt: skip
    _add_behaviour(nwb, rng)
    _add_stimuli(nwb, rng)
    _add_trials(nwb, rng)
    _add_units(nwb, rng, probes)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    _leave_as_found(path, only_ends=probes == 1)


def _add_behaviour(nwb: NWBFile, rng: np.random.Generator) -> None:
    from pynwb import H5DataIO, TimeSeries
    from pynwb.behavior import (
        BehavioralEpochs,
        BehavioralEvents,
        BehavioralTimeSeries,
        IntervalSeries,
        PupilTracking,
    )

    def series(name: str, values: np.ndarray, unit: str, **timing) -> TimeSeries:
        return TimeSeries(name=name, data=H5DataIO(values, compression="gzip"), unit=unit, **timing)

    time = np.arange(int(DURATION / PERIOD)) * PERIOD
    phase = rng.uniform(0, 2 * np.pi)
    ticks = np.round(400 * np.sin(2 * np.pi * time / 8 + phase))  # whole ticks of the encoder
    fast = {"starting_time": START, "rate": PERIOD}
    nwb.add_acquisition(series("wheel_position", ticks, "mm", conversion=0.135, **fast))
    licks = np.round(np.sin(2 * np.pi * 7 * time) ** 20, 2)
    nwb.add_acquisition(series("lickPiezo", licks, "V", **fast))
    module = nwb.create_processing_module("behavior", "behavior module")
    frames = START + 0.1 + np.arange(380) * 0.1  # s: 10 Hz
    area = series("eye_area", rng.uniform(0, 1, 380), "arb. unit", timestamps=frames)
    place = series("eye_xy_positions", rng.normal(0, 1, (380, 2)), "arb. unit", timestamps=frames)
    module.add(PupilTracking(time_series=[area, place], name="PupilTracking"))
    energy = series(
        "face_motion_energy", rng.uniform(0, 1, 1500), "arb. unit", starting_time=1.5, rate=0.025
    )
    module.add(BehavioralTimeSeries(time_series=energy, name="BehavioralTimeSeries"))
    licked = np.sort(rng.uniform(START, START + DURATION, 30))
    event = TimeSeries(name="lick_times", data=np.full(30, True), unit="", timestamps=licked)
    with warnings.catch_warnings():  # the files are older than what pynwb has in its place
        warnings.filterwarnings("ignore", "BehavioralEvents is deprecated")
        module.add(BehavioralEvents(time_series=event, name="BehavioralEvents"))
    moves = np.sort(rng.uniform(START, START + DURATION, 24))
    moved = IntervalSeries(name="wheel_moves", data=rng.integers(0, 3, 24), timestamps=moves)
    module.add(BehavioralEpochs(interval_series=moved, name="BehavioralEpochs"))


def _add_stimuli(nwb: NWBFile, rng: np.random.Generator) -> None:
    from pynwb import TimeSeries

    for name, unit in (
        ("passive_beeps", ""), ("passive_click_times", ""), ("passive_white_noise", ""),
        ("passive_left_contrast", "proportion contrast"),
        ("passive_right_contrast", "proportion contrast"),
        ("receptive_field_mapping_sparse_noise", "degrees visual angle"),
    ):  # fmt: skip
        time = np.sort(rng.uniform(START + DURATION, START + DURATION + 5, 12))
        values = np.full(12, True) if not unit else rng.choice([0.0, 0.5, 1.0], 12)
        values = rng.normal(0, 9, (12, 2)) if unit.startswith("degrees") else values
        nwb.add_stimulus(TimeSeries(name=name, data=values, unit=unit, timestamps=time))


def _add_trials(nwb: NWBFile, rng: np.random.Generator) -> None:
    from pynwb.epoch import TimeIntervals

    count = 10
    start = START + 1 + 3.5 * np.arange(count)
    go = start + rng.uniform(0.5, 1.2, count)
    columns = {
        "included": rng.random(count) < 0.8,
        "go_cue": go,
        "visual_stimulus_time": start + 0.5,
        "visual_stimulus_left_contrast": rng.choice([0.0, 0.25, 0.5, 1.0], count),
        "visual_stimulus_right_contrast": rng.choice([0.0, 0.25, 0.5, 1.0], count),
        "response_time": go + 0.6,
        "response_choice": rng.choice([-1.0, 0.0, 1.0], count),
        "feedback_time": go + 0.65,
        "feedback_type": rng.choice([-1, 1], count),
        "rep_num": rng.integers(1, 4, count).astype(float),
    }
    for one in start:
        nwb.add_trial(start_time=one, stop_time=one + 3.0)
    for name, values in columns.items():
        nwb.add_trial_column(name, "as in the files", data=values)
    table = TimeIntervals(name="spontaneous", description="nothing else is going on")
    for one in (0.0, 41.5, 42.0, 43.0):
        table.add_interval(start_time=one, stop_time=one + 0.5)
    nwb.add_time_intervals(table)


def _add_electrodes(nwb: NWBFile, probes: int) -> list:
    groups = []
    for probe in range(probes):
        device = nwb.create_device(str(probe))
        group = nwb.create_electrode_group(
            f"Probe{probe + 1}", "Neuropixels Phase3A opt3", "", device
        )
        groups.append(group)
        for site in range(SITES):
            nwb.add_electrode(
                x=np.nan, y=np.nan, z=np.nan, imp=np.nan, filtering="none", group=group,
                location=REGIONS[site * len(REGIONS) // SITES],
            )  # fmt: skip
    site = np.tile(np.arange(SITES), probes)
    nwb.add_electrode_column("site_id", "within its probe", data=site.astype(np.int32))
    place = np.stack([site % 4 * 16.0, site // 2 * 20.0], 1)
    nwb.add_electrode_column("site_position", "on the probe", data=place)
    for name in ("ccf_ap", "ccf_dv", "ccf_lr"):
        nwb.add_electrode_column(name, "in the Allen atlas", data=100.0 + site)
    for name in ("entry_point_rl", "entry_point_ap", "axial_angle", "distance_advanced"):
        nwb.add_electrode_column(name, "of the probe", data=np.zeros(len(site), np.int64))
    for name in ("vertical_angle", "horizontal_angle"):
        nwb.add_electrode_column(name, "of the probe", data=np.full(len(site), 63.5))
    return groups


def _add_units(nwb: NWBFile, rng: np.random.Generator, probes: int) -> None:
    groups = _add_electrodes(nwb, probes)
    for name in ("peak_channel", "waveform_duration", "phy_annotations", "cluster_depths",
                 "sampling_rate"):  # fmt: skip
        nwb.add_unit_column(name, "as in the files")
    for name in ("spike_amps", "spike_depths"):
        nwb.add_unit_column(name, "of each spike", index=True)
    count = UNITS * probes
    trains = [np.sort(rng.uniform(0, 46, rng.integers(60, 400))) for _ in range(count)]
    site = rng.permutation(SITES)[:UNITS]
    for unit in sorted(range(count), key=lambda one: trains[one][0]):
        probe, own = divmod(unit, UNITS)
        near = np.argsort(np.abs(np.arange(SITES) - site[own]), kind="stable")[:50]
        depth, spikes = 20.0 * float(site[own]), trains[unit]
        wave = np.zeros((82, 50))
        wave[30, 0], wave[42, 0] = -1.0, 0.5  # trough and peak on the nearest electrode
        nwb.add_unit(
            id=unit, spike_times=spikes, electrode_group=groups[probe], waveform_mean=wave,
            electrodes=(near + SITES * probe).tolist(),
            peak_channel=[int(near[0]) + SITES * probe + 1],
            waveform_duration=[12 if probes > 1 else int(depth)],
            phy_annotations=int(unit % 3 + 1), cluster_depths=[depth], sampling_rate=30000.0,
            spike_amps=rng.uniform(10, 90, (len(spikes), 1)),
            spike_depths=(depth + rng.normal(0, 5, (len(spikes), 1))).astype(np.float32),
        )  # fmt: skip


def _leave_as_found(path: Path, only_ends: bool) -> None:
    """Give arrays the dtypes of the files, and the lengths that pynwb would warn of."""
    import h5py

    eye = "processing/behavior/PupilTracking"
    with h5py.File(path, "a") as file:
        changed = {
            f"units/{name}_index": file[f"units/{name}_index"][()].astype(np.int64)
            for name in ("electrodes", "spike_amps", "spike_depths", "spike_times")
        }
        moves = "processing/behavior/BehavioralEpochs/wheel_moves/data"
        changed[moves] = file[moves][:12]
        changed["units/waveform_mean"] = file["units/waveform_mean"][()]
        for name in ("eye_area", "eye_xy_positions") if only_ends else ():
            place = f"{eye}/{name}/timestamps"
            changed[place] = file[place][[0, -1]]
        for name, values in changed.items():
            kept = dict(file[name].attrs)
            del file[name]
            packed = "gzip" if values.ndim > 2 else None
            file.create_dataset(name, data=values, compression=packed).attrs.update(kept)


LAYOUTS = tuple(
    Layout(
        f"000017-{name}", "steinmetz", "steinmetz_harris_2019", path,
        partial(write_session, probes=probes),
    )
    for name, path, probes in (
        ("one-probe", "sub-Lederberg/sub-Lederberg_ses-20171210T120000.nwb", 1),
        ("two-probes", "sub-Cori/sub-Cori_ses-20161214T120000.nwb", 2),
    )
)  # fmt: skip
