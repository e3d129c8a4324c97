"""The seven sets of the Neural Latents Benchmark (000127 to 000130, 000138 to 000140).

Names, columns and dtypes, those of ragged indices too, were read in public crawls of the archive;
there are fewer trials, units, electrodes and muscles. What the files have, all of it on purpose:

- train files hold the held-out units' spikes too (``heldout``); test files only the held-in units,
  trials with little more than bounds, no behaviour, and segments timed anew 100 ms apart;
- mazes: behaviour at explicit times with gaps between trials (mm), one observation interval a
  trial, ragged ``target_pos`` (int16, or int64 in 000139 and 000140) and ``barrier_pos`` with
  trials that have no barrier;
- MC_RTT: trials are windows of 600 ms, one right after the other, whose bounds differ by rounding
  errors; behaviour at a rate with NaN between four segments, mm with a conversion of 0.001,
  three columns of position but two of velocity;
- Area2_Bump: most trials are of no split (``none``), some of them without a ``move_onset_time``,
  some aborted; behaviour at a rate with NaN between four segments;
- DMFC_RSG: units without electrodes and with int32 ids, six segments, no behaviour in either
  file; outliers are of no split, and times that did not come are NaN.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
# pynwb makes its classes while it runs, so pyright does not see their methods.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.testing.layouts import Layout

if TYPE_CHECKING:
    from pynwb import NWBFile

__all__ = ["LAYOUTS"]

Columns = Mapping[str, np.ndarray | list[np.ndarray]]
"""Columns of the trials; a list of arrays is a ragged one."""

HELD_IN, HELD_OUT = 11, 4
ELECTRODES = 8  # per array or probe; 96 and 24 in the files
APART = 0.1  # s between the segments of a test file


@dataclass(frozen=True, slots=True)
class Set:
    """What sets one of the seven apart; names in order of the fields of the files."""

    number: str
    manifest: str
    dataset: str
    subject: str
    session: str
    start: str
    arrays: tuple[str, ...]
    align: str
    window: tuple[float, float]
    dtypes: dict[str, str]
    in_path: bool = False

    def path(self, is_test: bool) -> str:
        """Return the path of a real asset."""
        behaviour = "" if is_test or self.manifest == "nlb-rsg" else "behavior+"
        session = f"_ses-{self.session}" if self.in_path else ""
        kind = "test" if is_test else "train"
        return f"sub-{self.subject}/sub-{self.subject}{session}_desc-{kind}_{behaviour}ecephys.nwb"


def _maze(number: str, size: str, start: str, position: str, index: str, observed: str) -> Set:
    name = "" if size == "full" else size
    dtypes = {"target_pos": position, "target_pos_index": index, "observed": observed}
    return Set(
        number, f"nlb-maze-{name}".rstrip("-"), f"nlb_mc_maze_{name}".rstrip("_"), "Jenkins", size,
        start, ("M1", "PMd"), "move_onset_time", (-0.25, 0.45), dtypes, True,
    )  # fmt: skip


SETS = (
    Set("000127", "nlb-area2", "nlb_area2_bump", "Han", "20171207",
        "2017-12-07T17:06:09.727000-05:00", ("",), "move_onset_time", (-0.1, 0.5), {}),
    _maze("000128", "full", "2009-09-25T00:00:00-07:00", "int16", "uint16", "uint32"),
    Set("000129", "nlb-rtt", "nlb_mc_rtt", "Indy", "20170202_02",
        "2017-02-02T00:00:00-08:00", ("",), "start_time", (0.0, 0.6), {}),
    Set("000130", "nlb-rsg", "nlb_dmfc_rsg", "Haydn", "20161211",
        "2016-12-11T00:00:00-05:00", ("1", "2", "3"), "go_time", (-1.5, 0.0), {"id": "int32"}),
    _maze("000138", "large", "2009-10-06T00:00:00-07:00", "int16", "uint16", "uint32"),
    _maze("000139", "medium", "2009-09-29T00:00:00-07:00", "int64", "uint16", "uint16"),
    _maze("000140", "small", "2009-09-28T00:00:00-07:00", "int64", "uint8", "uint16"),
)  # fmt: skip


def write_file(one: Set, is_test: bool, path: Path, seed: int) -> None:
    """Write the train or the test file of one set."""
    from pynwb import NWBHDF5IO

    rng = np.random.default_rng([seed, int(one.number), is_test])
    nwb = _new_file(one)
    if is_test:
        trials, segments = _test_trials(one)
    else:
        make, behave = MAKERS.get(one.manifest, (_maze_trials, _add_hand))
        trials, segments = make(rng, one)
        if behave is not None:
            behave(nwb, rng, segments)
    _add_trials(nwb, trials)
    _add_units(nwb, rng, one, segments, is_test)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    small = is_test and one.number not in ("000128", "000129", "000130")
    dtypes = {
        "units/obs_intervals_index": "uint16" if small else one.dtypes.get("observed", "uint16"),
        "units/spike_times_index": "uint16" if small else "uint32",
        "units/electrodes_index": "uint8",
        "intervals/trials/target_pos_index": one.dtypes.get("target_pos_index", ""),
        "intervals/trials/barrier_pos_index": "uint16",
    }
    _retype(path, dtypes)


def _retype(path: Path, dtypes: dict[str, str]) -> None:
    """Give arrays the dtype that they have in the real files, which are larger."""
    import h5py

    with h5py.File(path, "a") as file:
        for name in (name for name in dtypes if name in file):
            kept, values = dict(file[name].attrs), file[name][()].astype(dtypes[name])
            del file[name]
            file.create_dataset(name, data=values).attrs.update(kept)


def _new_file(one: Set) -> NWBFile:
    from pynwb import NWBFile
    from pynwb.file import Subject

    nwb = NWBFile(
        session_description=f"Data from monkey {one.subject}", session_id=one.session,
        identifier=f"nlb-{one.number}", session_start_time=datetime.fromisoformat(one.start),
    )  # fmt: skip
    nwb.subject = Subject(subject_id=one.subject, species="Macaca mulatta", sex="M")
    kind = "probe" if one.arrays[0] == "1" else "array"
    place = {"nlb-area2": "area 2", "nlb-rtt": "M1", "nlb-rsg": "DMFC"}.get(one.manifest)
    for array in one.arrays:
        ending = f"_{array}" if array else ""
        label = f"electrode_{kind}{ending}"
        device = nwb.create_device(label, "synthetic")
        group = nwb.create_electrode_group(
            f"electrode_group{ending}", "synthetic", place or array, device
        )
        about = {"x": 0.0, "y": 0.0, "z": 0.0, "imp": 0.0, "filtering": "none", "group": group}
        for _ in range(ELECTRODES):
            nwb.add_electrode(location=place or array, **about)
    return nwb


def _add_units(
    nwb: NWBFile, rng: np.random.Generator, one: Set, segments: np.ndarray, is_test: bool
) -> None:
    """Add units that fire at 3 to 30 Hz in the segments; a fifth of the ids is left out."""
    heldout = np.arange(HELD_IN + HELD_OUT) % 4 == 3
    heldout[-1] = True
    ids = np.flatnonzero(np.arange(40) % 5 != 2)[: len(heldout)] + 1
    duration = segments[:, 1] - segments[:, 0]
    nwb.add_unit_column("heldout", "Whether the unit is held out in the test data")
    for row, (held, name) in enumerate(zip(heldout, ids, strict=True)):
        counts = rng.poisson(rng.uniform(3, 30) * duration)
        segment = np.repeat(np.arange(len(segments)), counts)
        spikes = segments[segment, 0] + rng.uniform(0, 1, len(segment)) * duration[segment]
        if is_test and held:
            continue
        extra = {} if one.manifest == "nlb-rsg" else {"electrodes": [row % len(nwb.electrodes)]}
        nwb.add_unit(
            spike_times=np.sort(spikes), obs_intervals=segments, heldout=bool(held),
            id=np.dtype(one.dtypes.get("id", "int64")).type(name), **extra,
        )  # fmt: skip


# ------------------------------------------------------------------ trials


def _add_trials(nwb: NWBFile, trials: Columns) -> None:
    for start, stop in zip(trials["start_time"], trials["stop_time"], strict=True):
        nwb.add_trial(start_time=start, stop_time=stop)
    for name, values in trials.items():
        if isinstance(values, list):
            ends = np.cumsum([len(part) for part in values])
            nwb.add_trial_column(name, "synthetic", data=np.concatenate(values), index=ends)
        elif name not in ("start_time", "stop_time"):
            data = values.tolist() if values.dtype.kind == "U" else values
            nwb.add_trial_column(name, "synthetic", data=data)


def _test_trials(one: Set) -> tuple[Columns, np.ndarray]:
    """Return 12 segments as long as the window that is scored, 100 ms apart, from 0 s."""
    length = one.window[1] - one.window[0]
    start = np.round(np.arange(12) * (length + APART), 3)
    aligned = {} if one.align == "start_time" else {one.align: np.round(start - one.window[0], 3)}
    stop, split = np.round(start + length, 3), np.full(len(start), "test")
    trials = {"start_time": start, "stop_time": stop, "split": split, **aligned}
    return trials, np.stack([start, stop], 1)


def _split(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return the split of `count` trials, three to train for one to validate, in no order."""
    return rng.permutation(np.where(np.arange(count) % 4 == 3, "val", "train"))


def _maze_trials(rng: np.random.Generator, one: Set) -> tuple[Columns, np.ndarray]:
    """Return 24 reaches, each an observed segment; rt and delay in ms."""
    count = 24
    delay, rt = rng.integers(0, 300, count), rng.integers(200, 400, count)
    pause, after = rng.integers(100, 500, count), rng.integers(660, 900, count)
    length = 200 + delay + rt + after
    start = np.cumsum(length + pause) - length
    version, target = np.arange(count) % 3, np.where(np.arange(count) % 3 == 2, 3, 1)
    barriers = np.where(version == 0, 0, rng.integers(1, 9, count))
    positions = [rng.integers(-130, 130, (n, 2)).astype(one.dtypes["target_pos"]) for n in target]
    walls = [rng.integers(-90, 90, (n, 4)) for n in barriers]
    return {
        "start_time": start / 1000, "stop_time": (start + length) / 1000,
        "target_on_time": (start + 200) / 1000, "go_cue_time": (start + 200 + delay) / 1000,
        "move_onset_time": (start + 200 + delay + rt) / 1000, "rt": rt, "delay": delay,
        "trial_type": rng.integers(1, 37, count), "trial_version": version,
        "maze_id": rng.integers(1, 200, count), "success": np.ones(count, bool),
        "num_targets": target, "target_pos": positions, "num_barriers": barriers,
        "barrier_pos": walls, "active_target": rng.integers(0, target),
        "split": _split(rng, count),
    }, np.stack([start, start + length], 1) / 1000  # fmt: skip


def _rtt_trials(rng: np.random.Generator, one: Set) -> tuple[Columns, np.ndarray]:
    """Return 40 windows of 600 ms in four segments, the last 49 ms of each in no window."""
    begin = np.array([0.0, 6.5, 13.3, 20.0])
    start = (begin[:, None] + np.arange(10) * 0.6).ravel()
    trials: Columns = {"start_time": start, "stop_time": start + 0.6, "split": _split(rng, 40)}
    return trials, np.stack([begin, begin + 6.049], 1)


def _bump_trials(rng: np.random.Generator, one: Set) -> tuple[Columns, np.ndarray]:
    """Return 28 trials in four segments; every other one has a bump, half are of no split."""
    begin, count = np.array([0.0, 8.0, 16.5, 25.0]), 28
    start = np.round((begin[:, None] + 0.2 + np.arange(7) * 1.0).ravel(), 3)
    bump, listed = np.arange(count) % 2 == 1, np.isin(np.arange(count) % 7, (0, 1, 3, 4))
    split = np.full(count, "none", "U5")
    split[listed] = _split(rng, int(listed.sum()))
    onset = np.round(start + rng.uniform(0.2, 0.3, count), 3)
    onset[np.flatnonzero(~listed)[::3]] = np.nan
    result = np.full(count, "R")
    result[np.flatnonzero(~listed)[:6]] = ["A", "I", "F"] * 2
    target = rng.choice([0.0, 90.0, 180.0, 270.0], count)
    toward = np.where(bump, rng.choice([0.0, 90.0, 180.0, 270.0], count), np.nan)
    return {
        "start_time": start, "stop_time": np.round(start + 0.9, 3), "result": result,
        "ctr_hold": np.full(count, 0.1), "ctr_hold_bump": bump, "bump_dir": toward,
        "bump_time": np.where(bump, start + 0.12, np.nan), "target_on_time": start + 0.05,
        "target_dir": target, "go_cue_time": np.where(result == "A", np.nan, start + 0.15),
        "move_onset_time": onset, "cond_dir": np.where(bump, toward, target), "split": split,
    }, np.stack([begin, begin + 7.5], 1)  # fmt: skip


def _rsg_trials(rng: np.random.Generator, one: Set) -> tuple[Columns, np.ndarray]:
    """Return 30 trials in six segments; ts, tp, iti and durations in ms."""
    begin, count = np.arange(6) * 21.0, 30
    start = (begin[:, None] + np.arange(5) * 4.0).ravel()
    short, outlier = rng.random(count) < 0.5, np.arange(count) % 6 == 5
    ts = np.where(short, rng.choice([480.0, 640, 800], count), rng.choice([800.0, 1200], count))
    tp = np.round(ts * rng.uniform(0.9, 1.1, count) * np.where(outlier, 0.3, 1.0))
    ready = start + 1.2
    go = ready + (ts + tp) / 1000
    never = np.full(count, np.nan)
    return {
        "start_time": start, "stop_time": go + 0.2, "fix_on_time": start + 0.1,
        "fix_time": start + 0.4, "fix_time_dur": np.full(count, 300.0),
        "target_on_time": start + 0.7, "target_time_dur": np.full(count, 500.0),
        "ready_time": ready, "set_time": ready + ts / 1000, "go_time": go,
        "target_acq_time": np.where(outlier, never, go + 0.03),
        "reward_time": np.where(outlier, never, go + 0.05),
        "reward_dur": np.where(outlier, never, 90.0), "bad_time": np.where(outlier, go, never),
        "is_eye": rng.random(count) < 0.5, "is_short": short, "is_outlier": outlier,
        "theta": rng.choice([0.0, 180.0], count), "ts": ts, "tp": tp,
        "iti": np.where(short, 500.0, 1220.0),
        "split": np.where(outlier, "none", _split(rng, count)),
    }, np.stack([begin, begin + 20.2], 1)  # fmt: skip


# ------------------------------------------------------------------ behaviour


def _wander(
    rng: np.random.Generator, count: int, columns: int, size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return smooth movement at 1 kHz of about `size`, and its velocity, rounded to pack well."""
    step = np.arange(count)[:, None] / 1000
    phase, speed = rng.uniform(0, 6, (4, 1, columns)), rng.uniform(2, 9, (4, 1, columns))
    position = np.sin(speed * step + phase).sum(0) / 2
    velocity = (speed * np.cos(speed * step + phase)).sum(0) / 2
    return np.round(position, 2) * size, np.round(velocity, 1) * size


def _add_series(
    nwb: NWBFile, listed: dict[str, tuple[np.ndarray, str, str]], **timing: object
) -> None:
    """Add series (values, unit, columns) straight to the behaviour module."""
    from hdmf.backends.hdf5 import H5DataIO
    from pynwb import TimeSeries
    from pynwb.behavior import SpatialSeries

    packed = partial(H5DataIO, compression="gzip", compression_opts=1, shuffle=True)
    module = nwb.create_processing_module("behavior", "Processed behavioral data")
    for name, (values, unit, columns) in listed.items():
        given = {"name": name, "data": packed(values), "unit": unit, **timing}
        given["comments"] = f"columns=[{columns}]"
        if "timestamps" in timing:
            given["timestamps"] = packed(timing["timestamps"])
        spatial = name.endswith("_pos")
        module.add(
            SpatialSeries(**given, reference_frame="synthetic") if spatial else TimeSeries(**given)
        )


def _add_hand(nwb: NWBFile, rng: np.random.Generator, segments: np.ndarray) -> None:
    """Add hand, cursor and eye (mm) at the times of each segment."""
    bounds = np.round(segments * 1000).astype(np.int64)
    sample = np.concatenate([np.arange(lo, hi) for lo, hi in bounds])
    position, velocity = _wander(rng, int(sample[-1]) + 1, 2, 100.0)
    listed = {
        "cursor_pos": (position + 0.5, "mm", "x,y"), "eye_pos": (position[::-1], "mm", "x,y"),
        "hand_pos": (position, "mm", "x,y"), "hand_vel": (velocity, "mm/s", "x,y"),
    }  # fmt: skip
    listed = {name: (one[0][sample], *one[1:]) for name, one in listed.items()}
    _add_series(nwb, listed, timestamps=sample / 1000)


def _between(segments: np.ndarray) -> np.ndarray:
    """Return, at 1 kHz from 0 s to the last segment's end, which samples are in no segment."""
    bounds = np.round(segments * 1000).astype(np.int64)
    lost = np.ones(bounds[-1, 1], bool)
    for lo, hi in bounds:
        lost[lo:hi] = False
    return lost


def _add_finger(nwb: NWBFile, rng: np.random.Generator, segments: np.ndarray) -> None:
    """Add finger, cursor and target (mm, with the conversion to m), each value four times."""
    lost = _between(segments)
    finger, velocity = (
        np.repeat(values[::4], 4, axis=0)[: len(lost)]
        for values in _wander(rng, len(lost), 3, 100.0)
    )
    target = np.repeat(rng.integers(0, 8, (len(lost) // 900 + 1, 2)) * 15.0, 900, axis=0)
    listed = {
        "cursor_pos": (finger[:, :2] * -10, "m", "x,y"), "finger_pos": (finger, "m", "x,y,z"),
        "finger_vel": (velocity[:, :2].copy(), "m/s", "x,y"),
        "target_pos": (target[: len(lost)], "m", "x,y"),
    }  # fmt: skip
    for values, _, _ in listed.values():
        values[lost] = np.nan
    _add_series(nwb, listed, rate=1000.0, starting_time=0.0, conversion=0.001)


def _add_arm(nwb: NWBFile, rng: np.random.Generator, segments: np.ndarray) -> None:
    """Add hand, force, joints and muscles; four muscles stand for all."""
    lost = _between(segments)
    hand, joints = _wander(rng, len(lost), 2, 5.0), _wander(rng, len(lost), 7, 30.0)
    muscles, force = _wander(rng, len(lost), 4, 0.1), _wander(rng, len(lost), 6, 1.0)[0]
    joint_names = ",".join(f"joint_{number}" for number in range(7))
    muscle_names = ",".join(f"muscle_{number}" for number in range(4))
    listed = {
        "force": (force, "N", "fx,fy,fz,mx,my,mz"),
        "hand_pos": (hand[0], "cm", "x,y"),
        "hand_vel": (hand[1], "cm/s", "x,y"),
        "joint_ang": (joints[0], "degrees", joint_names),
        "joint_vel": (joints[1], "degrees/s", joint_names),
        "muscle_len": (muscles[0], "m", muscle_names),
        "muscle_vel": (muscles[1], "m/s", muscle_names),
    }
    for values, _, _ in listed.values():
        values[lost] = np.nan
    _add_series(nwb, listed, rate=1000.0, starting_time=0.0)


MAKERS = {
    "nlb-area2": (_bump_trials, _add_arm), "nlb-rtt": (_rtt_trials, _add_finger),
    "nlb-rsg": (_rsg_trials, None),
}  # fmt: skip
"""What makes trials and behaviour of a set that is no maze, by its manifest."""

LAYOUTS = tuple(
    Layout(
        f"{one.number}-{'test' if is_test else 'train'}", one.manifest, one.dataset,
        one.path(is_test), partial(write_file, one, is_test),
    )
    for one in SETS
    for is_test in (False, True)
)  # fmt: skip
