"""Files of the FALCON benchmark: M1 000941, M2 000953, H1 000954; H2 and B1, which are refused.

As read in public crawls of the archive and in the benchmark's own reader. On purpose:

- **M1** times of behaviour are the ends of bins; EMG is labelled mV, but was divided by its 95 %
  quantile; electrode positions and impedances are NaN; ids are those of the channels that
  were wired, so they have holes; one unit is silent; ``eval_mask`` is true within trials only;
  ``number`` is u2; every ``result`` is "R".
- **M2** times of behaviour are the *starts* of bins; a trial was dropped, behaviour is
  interpolated across its place and ``eval_mask`` is false there; spikes are to the millisecond
  and none lies between trials, which are 2 ms apart; velocity is the difference per bin.
- **H1** the ``rate`` of each series holds the period, 0.02; no electrodes, no observation
  intervals; a year of 1925; ``TrialNum`` in the place of a table of trials; ragged tags and
  references in the epochs; the mask is described as what to *ignore*, and is what to keep.
- **H2** counts in bins with a pause between sentences, and no units table.
- **B1** threshold crossings as a series at 30 kHz, a spectrogram per trial, and no units table.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pynwb makes its classes while it runs, so pyright does not see their methods.

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.testing.layouts import Layout

if TYPE_CHECKING:
    from pynwb import NWBFile, TimeSeries

__all__ = ["LAYOUTS", "write_falcon_b1", "write_falcon_h2", "write_h1", "write_m1", "write_m2"]

BIN = 0.02  # s
MUSCLES = (
    "APL", "BCPs", "DLTa", "DLTp", "ECRB", "ECU", "EDC", "FCR", "FCU", "FDI", "FDPr", "FDPu",
    "Hypoth", "PECmaj", "TCPlat", "Thenar",
)  # fmt: skip
FREEDOMS = "tx,ty,tz,rx,g1,g2,g3"
KEEP = "Timesteps to KEEP covariates (for training, eval)."
EASTERN = timezone(timedelta(hours=-5))


def write_m1(path: Path, seed: int = 0) -> None:
    """Write a file of 000941: 24 s, 12 units, 5 trials, EMG of 16 muscles."""
    rng = np.random.default_rng([seed, 0xFA1])
    nwb = _file("L_20120924_held_in_calib", "MonkeyL-held-in-calib", "Rouse",
                datetime(2012, 9, 24, tzinfo=EASTERN))  # fmt: skip
    groups = _groups(nwb, "floating microelectrode_array", [f"{one}_electrode_group" for one in
                                                           "HIJKZ"])  # fmt: skip
    end = (np.arange(1200) * BIN).round(4)
    drive = _smooth(rng, len(end), 4)
    trials = [(4.0 * row + 1.24, 4.0 * row + 3.36) for row in range(5)]
    _add_units(nwb, rng, end, drive, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 95], 4, groups,
               observed=(0.0, 23.98))  # fmt: skip
    _add_m1_trials(nwb, rng, trials)
    weight = rng.uniform(0, 1, (4, len(MUSCLES)))
    _add_channels(nwb, "preprocessed_emg", MUSCLES, np.abs(drive) @ weight, end, "mV")
    inside = _within(end, trials)
    _add_mask(nwb, inside, KEEP, timestamps=end)
    _write(nwb, path)


def write_m2(path: Path, seed: int = 0) -> None:
    """Write a file of 000953: 30 s, 10 units, 11 trials, two finger groups."""
    rng = np.random.default_rng([seed, 0xFA2])
    nwb = _file("MonkeyN_10-19-13:00_held_in", "MonkeyN-held-in-calib", "Chestek Lab",
                datetime(2020, 10, 19, 13, tzinfo=timezone(timedelta(hours=-4))),
                session_id="2020-10-19_Run1")  # fmt: skip
    groups = _groups(nwb, "Blackrock Utah Array", ["M1_array"])
    start = np.arange(1500) * BIN
    position = 0.5 + 0.15 * _smooth(rng, len(start), 2)
    velocity = np.gradient(position, axis=0)
    bounds = [(2.5 * row, 2.5 * row + 2.498) for row in range(12) if row != 6]  # 2 ms missing
    _add_units(nwb, rng, start + BIN, velocity / velocity.std(), list(range(10)), 3, groups,
               observed=(0.0, bounds[-1][1]), bounds=bounds)  # fmt: skip
    nwb.add_trial_column("tgt_loc", "location of target (0-1 AU)")
    nwb.add_trial_column("trial_num", "trial number as in experiment")
    for row, (begin, stop) in enumerate(bounds):
        target = rng.uniform(0, 1, 2).astype(np.float32)
        nwb.add_trial(start_time=begin, stop_time=stop, tgt_loc=target, trial_num=row + 2)
    _add_channels(nwb, "finger_pos", ("index", "mrs"), position, start, "AU")
    _add_channels(nwb, "finger_vel", ("index", "mrs"), velocity, start, "AU")
    mask = _within(start + BIN / 2, bounds)
    _add_mask(nwb, mask, "Timesteps to keep covariates (for training, eval).", timestamps=start)
    _write(nwb, path)


def write_h1(path: Path, seed: int = 0) -> None:
    """Write a file of 000954: 30 s, 14 units, 5 trials, seven degrees of freedom."""
    rng = np.random.default_rng([seed, 0xFA3])
    began = datetime(1925, 1, 1, 11, 17, 40, tzinfo=EASTERN)
    nwb = _file("HumanPitt-held_in-calib_01-01-11:17_set1", "HumanPitt-held-in-calib",
                "Rehab Neural Engineering Labs", began, species="Homo sapiens")  # fmt: skip
    count = 1500
    time = np.arange(count) * BIN
    position = _smooth(rng, count, 7)
    velocity = np.gradient(position, axis=0)
    _add_units(nwb, rng, time, velocity / velocity.std(), list(range(14)), 5, [])
    number = np.minimum(time // 6.2 + 1, 5)
    rest = (time % 6.2) < 1.0
    kinematics = _period_series(nwb, "OpenLoopKinematics", position, FREEDOMS, "arbitrary")
    _period_series(nwb, "OpenLoopKinematicsVelocity", velocity, FREEDOMS, "arbitrary")
    _period_series(nwb, "TrialNum", number, "Trial number", "arbitrary")
    ignore = "Timesteps to ignore covariates (for training, eval). Neural data is not affected."
    _period_series(nwb, "eval_mask", ~rest, ignore, "bool")
    edges = np.append(np.flatnonzero(np.append(True, np.diff(rest))), count - 1)
    for begin, stop in pairwise(edges.tolist()):
        tag = "Intertrial" if rest[begin] else "Reach"
        bounds = float(time[begin]), float(time[stop])
        nwb.add_epoch(*bounds, tags=[tag], timeseries=[kinematics])
    _write(nwb, path)


def write_falcon_h2(path: Path, seed: int = 0) -> None:
    """Write a file of 000950: counts of 192 channels in bins, three sentences, no units table."""
    from pynwb import TimeSeries

    rng = np.random.default_rng([seed, 0xFA4])
    nwb = _file("T5_2022.05.18", "T5-held-in-calib", "NPTL",
                datetime(2022, 5, 18, tzinfo=EASTERN), species="Homo sapiens")  # fmt: skip
    nwb.add_trial_column("cue", "sentence participant was prompted to write")
    nwb.add_trial_column("block_num", "experimental block trial belonged to")
    times = [10.0 * row + np.arange(200) * BIN for row in range(3)]
    for row, time in enumerate(times):
        nwb.add_trial(start_time=time[0], stop_time=time[-1], cue=f"sentence {row}", block_num=1)
    stamps = np.concatenate(times)
    counts = rng.poisson(0.4, (len(stamps), 192)).astype(np.uint8)
    text = "Threshold crossings aggregated in 20ms bins"
    nwb.add_acquisition(TimeSeries(name="binned_spikes", description=text, timestamps=stamps,
                                   data=counts, unit="int"))  # fmt: skip
    _add_mask(nwb, np.ones(len(stamps), bool), KEEP, timestamps=stamps)
    _write(nwb, path)


def write_falcon_b1(path: Path, seed: int = 0) -> None:
    """Write a file of 001046: threshold crossings at 30 kHz, song at 25 kHz, no units table."""
    from pynwb import TimeSeries

    rng = np.random.default_rng([seed, 0xFA5])
    nwb = _file("z_r12r13_21_2021.06.26", "Finch-z_r12r13_21-held-in-calib", "TNEL",
                datetime(2021, 6, 26, tzinfo=EASTERN), species="Taeniopygia guttata")  # fmt: skip
    crossings = (rng.uniform(size=(3000, 8)) < 0.002).astype(np.int8)
    song = rng.standard_normal(2500).astype(np.float32)
    for name, data, rate in (("tx", crossings, 30_000.0), ("vocalizations", song, 25_000.0),
                             ("eval_mask_audio", np.ones(2500, bool), 25_000.0)):  # fmt: skip
        nwb.add_acquisition(TimeSeries(name=name, data=data, unit="au", rate=rate))
    columns = _spectrograms(rng)
    for name in columns:
        nwb.add_trial_column(name, f"{name} of the trial's song")
    for row in range(2):
        cells = {name: values[row] for name, values in columns.items()}
        nwb.add_trial(start_time=0.05 * row, stop_time=0.05 * row + 0.04, **cells)
    _write(nwb, path)


# ------------------------------------------------------------------ parts of the above


def _file(
    identifier: str, subject: str, lab: str, start: datetime, session_id: str | None = None,
    species: str = "Macaca mulatta",
) -> NWBFile:  # fmt: skip
    from pynwb import NWBFile
    from pynwb.file import Subject

    nwb = NWBFile(
        session_description="synthetic", identifier=identifier, session_start_time=start, lab=lab,
        session_id=session_id, file_create_date=start,
    )  # fmt: skip
    nwb.subject = Subject(subject_id=subject, species=species, sex="M", age="P8Y")
    return nwb


def _groups(nwb: NWBFile, device: str, names: Sequence[str]) -> list:
    array = nwb.create_device(device)
    return [nwb.create_electrode_group(name, "synthetic", "M1", array) for name in names]


def _smooth(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Return noise (count, width) without power above 1 Hz, standard deviation 1."""
    spectrum = np.fft.rfft(rng.standard_normal((count, width)), axis=0)
    spectrum[np.fft.rfftfreq(count, BIN) > 1.0] = 0
    noise = np.fft.irfft(spectrum, count, axis=0)
    return noise / noise.std(0)


def _within(time: np.ndarray, bounds: Sequence[tuple[float, float]]) -> np.ndarray:
    return np.any([(time >= begin) & (time < stop) for begin, stop in bounds], axis=0)


def _add_units(
    nwb: NWBFile, rng: np.random.Generator, end: np.ndarray, drive: np.ndarray,
    ids: Sequence[int], digits: int, groups: list,
    observed: tuple[float, float] | None = None,
    bounds: Sequence[tuple[float, float]] | None = None,
) -> None:  # fmt: skip
    """Add units tuned to `drive` in the bins with these ends, times rounded to `digits`.

    The one before the last is silent, and spikes outside `bounds` are missing.
    """
    tuning = rng.normal(size=(drive.shape[1], len(ids)))
    rate = 15 * np.exp(0.5 * (drive @ tuning) / np.linalg.norm(tuning, axis=0))
    for row, name in enumerate(ids):
        count = rng.poisson(rate[:, row] * BIN) * (row != len(ids) - 2)
        spikes = np.repeat(end - BIN, count) + rng.uniform(0, BIN, count.sum())
        spikes = np.unique(spikes[(spikes > 0) & (spikes < end[-1])].round(digits))
        extra = {}
        if bounds is not None:
            spikes = spikes[_within(spikes, bounds)]
        if groups:
            group = groups[row % len(groups)]
            nwb.add_electrode(id=name, x=np.nan, y=np.nan, z=np.nan, imp=np.nan, location="M1",
                              filtering="unknown", group=group)  # fmt: skip
            extra = {"electrodes": [row], "obs_intervals": [observed]}
        nwb.add_unit(id=name, spike_times=spikes, **extra)


def _add_m1_trials(
    nwb: NWBFile, rng: np.random.Generator, bounds: Sequence[tuple[float, float]]
) -> None:
    for name in ("gocue_time", "move_onset_time", "contact_time", "reward_time", "result", "number",
                 "tgt_loc", "tgt_obj", "obj_id", "condition_id"):  # fmt: skip
        nwb.add_trial_column(name, f"{name} of the trial")
    objects = ("coaxial", "perpendicular", "button", "sphere")
    for row, (begin, stop) in enumerate(bounds):
        one = int(rng.integers(4))
        nwb.add_trial(
            start_time=begin, stop_time=stop, gocue_time=begin + 0.5, move_onset_time=begin + 0.8,
            contact_time=begin + 1.2, reward_time=stop - 0.1, result="R", number=np.uint16(row + 3),
            tgt_loc=45.0 * int(rng.integers(8)), tgt_obj=objects[one], obj_id=one,
            condition_id=one + 4 * (row % 2),
        )  # fmt: skip


def _add_channels(
    nwb: NWBFile, name: str, channels: Sequence[str], values: np.ndarray, time: np.ndarray,
    unit: str,
) -> None:  # fmt: skip
    """Add one series per channel, each with its own times."""
    from pynwb.behavior import BehavioralTimeSeries

    container = BehavioralTimeSeries(name=name)
    for column, channel in enumerate(channels):
        container.create_timeseries(
            name=channel, data=values[:, column], unit=unit, timestamps=time,
            comments=f"columns=[{channel}]",
        )  # fmt: skip
    nwb.add_acquisition(container)


def _add_mask(nwb: NWBFile, mask: np.ndarray, description: str, timestamps: np.ndarray) -> None:
    from pynwb import TimeSeries

    nwb.add_acquisition(TimeSeries(name="eval_mask", description=description, unit="bool",
                                   data=mask, timestamps=timestamps))  # fmt: skip


def _period_series(
    nwb: NWBFile, name: str, data: np.ndarray, description: str, unit: str
) -> TimeSeries:
    """Add a series whose rate is its period."""
    from pynwb import TimeSeries

    series = TimeSeries(name=name, data=data, description=description, unit=unit, rate=BIN,
                        starting_time=0.0)  # fmt: skip
    nwb.add_acquisition(series)
    return series


def _spectrograms(rng: np.random.Generator) -> dict[str, np.ndarray]:
    shape = (2, 16, 10)
    return {
        "spectrogram_times": np.tile(np.arange(10) / 250, (2, 1)),
        "spectrogram_frequencies": np.tile(np.linspace(250, 8000, 16), (2, 1)),
        "spectrogram_values": rng.standard_normal(shape),
        "spectrogram_eval_mask": np.ones(shape, bool),
    }


def _write(nwb: NWBFile, path: Path) -> None:
    """Write the file, with the wide index that millions of spikes need."""
    import h5py
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    with h5py.File(path, "a") as file:
        if "units" not in file:
            return
        old = file["units/spike_times_index"]
        values, attributes = old[()].astype(np.uint32), dict(old.attrs)
        del file["units/spike_times_index"]
        new = file["units"].create_dataset("spike_times_index", data=values)
        for name, value in attributes.items():
            new.attrs[name] = value


LAYOUTS = (
    Layout("000941", "falcon-m1", "falcon_m1",
           "sub-MonkeyL-held-in-calib/sub-MonkeyL-held-in-calib_ses-20120924_behavior+ecephys.nwb",
           write_m1),
    Layout("000953", "falcon-m2", "falcon_m2",
           "sub-MonkeyN-held-in-calib/"
           "sub-MonkeyN-held-in-calib_ses-2020-10-19-Run1_behavior+ecephys.nwb", write_m2),
    Layout("000954", "falcon-h1", "falcon_h1",
           "sub-HumanPitt-held-in-calib/sub-HumanPitt-held-in-calib_ses-19250101T111740.nwb",
           write_h1),
)  # fmt: skip
