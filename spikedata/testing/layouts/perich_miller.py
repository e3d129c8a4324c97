"""DANDI 000688 (Perich, Miller et al.): monkeys C, M, J and T, centre-out and random-target.

Names, shapes and dtypes are those read in public crawls of the archive; not said there, and so
made up here, are how the series are timed, the words in ``location``, and the array of monkey T,
of which no file was crawled. On purpose the files have

- waveforms, doubly indexed: 48 samples (int16) per spike, in one column;
- spikes before the first and after the last cursor sample, and at these very samples;
- a unit without spikes (3), and two units that share an electrode (0 and 1), but for monkey T;
- the unit "m" on positions that are centimetres, and the same for their derivatives;
- no obs_intervals, quality or unit type;
- centre-out: aborted trials without target, target onset and go cue, the first trial and two in a
  row among them; an incomplete one without go cue; a rewarded one without target_id; one that
  lasts too long; a failed one that leaves the screen; a last one that ends before the cursor does
  by less than a second;
- random target: an aborted trial without any go cue, failed and incomplete ones without some,
  rewarded ones that lack the first go cue, attempted three targets, last too long or too short;
- a knock of more than 1500 cm/s^2 in a rewarded trial;
- a session description that breaks off (centre-out, two arrays).
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# pynwb makes its classes while it runs, so pyright does not see their methods.

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from spikedata.errors import SpikedataError
from spikedata.testing.layouts import Layout

if TYPE_CHECKING:
    import h5py
    from pynwb import NWBFile

__all__ = ["LAYOUTS", "write_perich_miller"]

Task = Literal["center_out", "random_target"]

CLOCK = 30_000  # Hz: spike times are whole samples of a Cerebus system
STEP = 300  # clock samples from one cursor sample to the next: 100 Hz
FIRST = 1.0  # s: first cursor sample; spikes begin at 0
AFTER = 0.6  # s from the last trial's stop to the last cursor sample
BEYOND = 0.8  # s that spikes go on after the last cursor sample
SAMPLES = 48  # of a waveform
SLAB = 2**16  # waveforms written at a time
NO_SPIKES = 3  # the unit without
CUT_OFF = " Warning: This session with Monkey"


@dataclass(frozen=True, slots=True)
class _Session:
    """Trials, the points (P,) s, (P, 2) cm that the cursor moves between, and a knock's time."""

    columns: dict[str, np.ndarray]
    point_time: np.ndarray
    point: np.ndarray
    knock: float


def write_perich_miller(
    path: Path,
    seed: int = 0,
    *,
    duration: float = 80.0,
    units: int = 12,
    rate: float = 2.0,
    task: Task = "center_out",
    arrays: Literal[1, 2] = 2,
    waveforms: bool = True,
    session: str = "",
) -> None:
    """Write a file as those of DANDI 000688: small by default, or as large as real ones.

    Needs pynwb. Memory grows with the spike times only: waveforms are written piece by piece.

    Parameters
    ----------
    path : Path
        The file; it is written anew.
    seed : int
        The same seed gives the same values.
    duration : float
        About how long the cursor is followed (s), at least 30: until 0.6 s after the last trial.
    units : int
        Number of units, at least 4; the crawled files have 71 to 246.
    rate : float
        Mean rate of a unit (Hz); single units differ. All are tuned to the cursor's velocity.
    task : {"center_out", "random_target"}
        The task.
    arrays : {1, 2}
        96 electrodes in M1, or those and 96 in PMd.
    waveforms : bool
        Whether to write 48 int16 for every spike: nine tenths of a file.
    session : str
        As ``"sub-C_ses-CO-20160909"``; a day of monkey C when not given.

    Raises
    ------
    SpikedataError
        If the file would be too short, or have too few units, for what is wrong in it.
    """
    if duration < 30 or units < 4:
        raise SpikedataError(f"Give at least 30 s and 4 units, not {duration:g} s and {units}.")
    session = session or f"sub-C_ses-{'CO-20160909' if task == 'center_out' else 'RT-20131009'}"
    rng = np.random.default_rng([seed, *session.encode()])
    make = {"center_out": _center_out, "random_target": _random_target}[task]
    done = make(rng, duration)
    last = done.columns["stop_time"][-1] + AFTER
    tick = np.arange(int(FIRST * CLOCK), int(last * CLOCK) + 1, STEP)
    time = tick / CLOCK
    cursor = _cursor(done, time)
    _write_all_but_units(path, session, arrays, waveforms, done.columns, time, cursor)
    trains = list(_trains(rng, tick, cursor[1], units, rate))
    electrode = np.resize(rng.permutation(96 * arrays), units)
    if not session.startswith("sub-T"):
        electrode[1] = electrode[0]
    _write_units(path, rng, trains, electrode, waveforms)


# ------------------------------------------------------------------ behaviour


def _center_out(rng: np.random.Generator, duration: float) -> _Session:
    """Return trials of about 3 s; what is wrong with a trial goes by its number modulo 18."""
    count = int(duration)
    kind = np.arange(count) % 18
    aborted, off_screen = np.isin(kind, [0, 11, 12]), kind == 5
    result = np.full(count, "R", object)
    result[aborted], result[off_screen], result[kind == 8] = "A", "F", "I"
    target = rng.integers(0, 8, count).astype(np.float64)
    pause = np.where(kind == 12, 1.5, rng.uniform(0.2, 0.5, count))
    shown = rng.uniform(0.2, 0.5, count)
    cue = shown + np.where(kind == 16, 5.5, rng.uniform(0.5, 1.2, count))
    leave = cue + rng.uniform(0.2, 0.3, count)
    arrive = leave + rng.uniform(0.35, 0.6, count)
    length = np.where(aborted, rng.uniform(0.2, 0.35, count), arrive + 0.2)
    stop = FIRST + np.cumsum(pause + length)
    kept = slice(0, int(np.searchsorted(stop, FIRST + duration - AFTER)))
    start = stop - length
    direction = target * np.pi / 4
    reach = np.where(off_screen, 12.0, 8.0)[:, None]
    place = reach * np.stack([np.cos(direction), np.sin(direction)], 1)
    nan = np.where(aborted, np.nan, 0.0)
    corners = np.concatenate([place - 1.0, place + 1.0], 1) + nan[:, None]
    columns = {
        "start_time": start, "stop_time": stop, "target_on_time": start + shown + nan,
        "go_cue_time": np.where(kind == 8, np.nan, start + cue + nan),
        "target_id": np.where(kind == 14, np.nan, target + nan), "target_dir": direction + nan,
        "target_corners": corners, "result": result,
    }  # fmt: skip
    moved = np.flatnonzero(~aborted & (kind != 8))
    moved = moved[moved < kept.stop]
    late = np.stack([leave, arrive, length, length + 0.4], 1)
    times = (start[:, None] + late)[moved].ravel()
    points = np.stack([place * 0, place, place, place * 0], 1)[moved].reshape(-1, 2)
    columns = {name: values[kept] for name, values in columns.items()}
    return _Session(columns, times, points, float((start + leave)[3] + 0.1))


def _random_target(rng: np.random.Generator, duration: float) -> _Session:
    """Return trials of four targets, about 5 s; what is wrong goes by the number modulo 16."""
    count = int(duration)
    kind = np.arange(count) % 16
    result = np.full(count, "R", object)
    result[kind == 0], result[kind == 4], result[kind == 10] = "A", "F", "I"
    attempted = np.full(count, 4.0)
    for wrong, number in {0: 0.0, 3: 3.0, 4: 2.0, 10: 1.0}.items():
        attempted[kind == wrong] = number
    each = rng.uniform(0.9, 1.4, (count, 4))
    each[kind == 8], each[kind == 14] = 2.9, 0.35
    cue = 0.3 + np.cumsum(each, axis=1) - each
    length = np.where(kind == 0, 0.4, 0.3 + each.sum(1))
    stop = FIRST + np.cumsum(length + rng.uniform(0.2, 0.8, count))
    start = stop - length
    kept = slice(0, int(np.searchsorted(stop, FIRST + duration - AFTER)))
    place = rng.uniform(-7.0, 7.0, (count, 4, 2))
    place[kind == 12, 1, 0] = 11.5
    cued = np.where(np.arange(4) < attempted[:, None], start[:, None] + cue, np.nan)
    cued[kind == 6, 0] = np.nan
    move = (start[:, None] + cue)[:, :, None] + np.stack([0.15 * each, 0.8 * each], 2)
    columns = {
        "start_time": start, "stop_time": stop, "go_cue_time_array": cued,
        "num_attempted": attempted, "num_targets": np.full(count, 4, np.uint8),
        "target_id": rng.integers(1, 9, (count, 4)).astype(np.float64),
        "target_dir": rng.uniform(-np.pi, np.pi, count), "target_size": np.full(count, 2.0),
        "result": result,
    }  # fmt: skip
    moved = np.flatnonzero(kind != 0)
    moved = moved[moved < kept.stop]
    to = place[moved].reshape(-1, 2)
    come = np.concatenate([np.zeros((1, 2)), to[:-1]])
    points = np.stack([come, to], 1).reshape(-1, 2)
    columns = {name: values[kept] for name, values in columns.items()}
    return _Session(columns, move[moved].ravel(), points, float(start[2] + cue[2, 0] + 0.3))


def _cursor(done: _Session, time: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return position, velocity and acceleration (T, 2) of minimum-jerk moves between points."""
    at, points = done.point_time, done.point
    row = np.clip(np.searchsorted(at, time, "right") - 1, 0, len(at) - 2)
    part = np.clip((time - at[row]) / (at[row + 1] - at[row]), 0.0, 1.0)[:, None]
    part = part**3 * (10 - 15 * part + 6 * part**2)
    position = points[row] + part * (points[row + 1] - points[row])
    velocity = np.gradient(position, time, axis=0)
    acceleration = np.gradient(velocity, time, axis=0)
    knocked = np.searchsorted(time, done.knock)
    acceleration[knocked : knocked + 3] = [1200.0, -1100.0]
    return position, velocity, acceleration


# ------------------------------------------------------------------ spikes


def _trains(
    rng: np.random.Generator, tick: np.ndarray, velocity: np.ndarray, units: int, rate: float
) -> Iterator[np.ndarray]:
    """Yield the spike times of each unit: a Poisson process, tuned to the cursor's velocity.

    They lie on the clock, from 0 s to beyond the last cursor sample.
    """
    last = tick[-1] + int(BEYOND * CLOCK)
    edge = np.concatenate([[0], tick, [last]]).astype(np.float64)
    moving = np.concatenate([np.zeros((1, 2)), velocity]) / 20.0  # cm/s: a typical reach
    for unit in range(units):
        angle, own = rng.uniform(0, 2 * np.pi), rate * rng.gamma(4.0, 0.25)
        tuned = np.maximum(0.05, 1 + 0.8 * moving @ np.array([np.cos(angle), np.sin(angle)]))
        passed = np.concatenate([[0.0], np.cumsum(tuned * np.diff(edge))])
        count = 0 if unit == NO_SPIKES else rng.poisson(own * passed[-1] / CLOCK)
        found = np.interp(np.sort(rng.uniform(0, passed[-1], count)), passed, edge)
        found = np.concatenate([found, [tick[0], tick[-1]]]) if unit == 0 else found
        yield np.unique(found.astype(np.int64)) / CLOCK


# ------------------------------------------------------------------ the file


def _write_all_but_units(
    path: Path, session: str, arrays: int, waveforms: bool,
    columns: dict[str, np.ndarray], time: np.ndarray, cursor: tuple[np.ndarray, ...],
) -> None:  # fmt: skip
    """Write the file with one unit in it, which has the right columns."""
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject

    found = re.fullmatch(r"sub-(\w+)_ses-(?:CO|RT)-(\d{8})", session)
    subject, day = found.groups() if found else ("C", "20160909")
    words = "random target" if "num_targets" in columns else "center-out"
    zone = "-04:00" if "03" < day[4:6] < "11" else "-05:00"
    begin = datetime.fromisoformat(f"{day[:4]}-{day[4:6]}-{day[6:]}T12:39:08.680{zone}")
    nwb = NWBFile(
        session_description=f"Monkey {subject} performing {words} reaching task."
        + CUT_OFF * (session == "sub-C_ses-CO-20160909"),
        identifier=session, session_id=session, session_start_time=begin, lab="Miller",
        institution="Northwestern University", experimenter="Perich, Matthew G.",
        keywords=["motor cortex", "reaching", "neural data", "spike sorting"],
    )  # fmt: skip
    species = "Macaca fascicularis" if subject == "T" else "Macaca mulatta"
    nwb.subject = Subject(subject_id=subject, species=species, sex="M", age="P5Y")
    _add_electrodes(nwb, arrays)
    _add_cursor(nwb, time, cursor)
    _add_trials(nwb, columns)
    extra = {"waveforms": np.zeros((1, SAMPLES, 1), np.int16)} if waveforms else {}
    nwb.add_unit(spike_times=[0.0], electrodes=[0], **extra)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)


def _add_electrodes(nwb: NWBFile, arrays: int) -> None:
    for name, text in {"bank": "bank", "label": "label", "pin": "pin"}.items():
        nwb.add_electrode_column(name, f"{text} of the electrode")
    for area in ("M1", "PMd")[:arrays]:
        text = f"96-electrode Utah array in {area}"
        device = nwb.create_device(f"electrode_array_{area}", description=text)
        group = nwb.create_electrode_group(f"electrode_group_{area}", text, area, device)
        for row in range(96):
            nwb.add_electrode(
                location=area, filtering="250 Hz high-pass", group=group, bank="ABC"[row // 32],
                label=f"elec{row + 1}", pin=row % 32 + 1,
            )  # fmt: skip


def _add_cursor(nwb: NWBFile, time: np.ndarray, cursor: tuple[np.ndarray, ...]) -> None:
    from pynwb import TimeSeries
    from pynwb.behavior import BehavioralTimeSeries, Position, SpatialSeries

    module = nwb.create_processing_module("behavior", "Processed Behavioral data")
    position = SpatialSeries(
        name="cursor_pos", data=cursor[0], timestamps=time, unit="m", reference_frame="screen",
        description="Cursor position (x, y) on the screen.",
    )  # fmt: skip
    module.add(Position(spatial_series=position, name="Position"))
    for values, name, box, unit, letter in (
        (cursor[1], "velocity", "Velocity", "m/s", "v"),
        (cursor[2], "acceleration", "Acceleration", "m/s^2", "a"),
    ):
        one = TimeSeries(
            name=f"cursor_{name[:3]}", data=values, timestamps=position, unit=unit,
            description=f"Cursor {name} ({letter}x, {letter}y).",
        )  # fmt: skip
        module.add(BehavioralTimeSeries(time_series=one, name=box))


def _add_trials(nwb: NWBFile, columns: dict[str, np.ndarray]) -> None:
    from pynwb.core import VectorData
    from pynwb.epoch import TimeIntervals

    texts = {"result": "trial outcome, R: reward, A: abort, F: fail, I: incomplete"}
    listed = [
        VectorData(
            name=name, description=texts.get(name, name.replace("_", " ")),
            data=values.tolist() if values.dtype == object else values,
        )
        for name, values in columns.items()
    ]  # fmt: skip
    nwb.trials = TimeIntervals(
        name="trials", description="experimental trials.", columns=listed,
        colnames=list(columns), id=np.arange(len(columns["result"])),
    )  # fmt: skip


def _write_units(
    path: Path, rng: np.random.Generator, trains: list[np.ndarray], electrode: np.ndarray,
    waveforms: bool,
) -> None:  # fmt: skip
    """Replace the one unit of the file by these, straight in HDF5: pynwb takes them one by one."""
    import h5py

    ends = np.cumsum([len(train) for train in trains])
    total = int(ends[-1])
    small = np.uint8 if len(trains) < 256 else np.uint16
    arrays = {
        "id": np.arange(len(trains)),
        "spike_times": np.concatenate(trains),
        "spike_times_index": ends.astype(np.uint32),
        "electrodes": electrode.astype(np.int64),
        "electrodes_index": np.arange(1, len(trains) + 1, dtype=small),
    }
    if waveforms:
        large = np.uint32 if total * SAMPLES < 2**32 else np.uint64
        arrays["waveforms_index"] = np.arange(1, total + 1, dtype=large) * large(SAMPLES)
        arrays["waveforms_index_index"] = ends.astype(np.uint32)
    with h5py.File(path, "a") as file:
        group = file.require_group("units")
        for name, values in arrays.items():
            _replace(group, name, values.shape, values.dtype)[()] = values
        if waveforms:
            data = _replace(group, "waveforms", (total * SAMPLES, 1), np.dtype(np.int16))
            _write_waveforms(data, rng, total)
        for name, one in group.items():
            if "target" in one.attrs:
                one.attrs["target"] = group[name.removesuffix("_index")].ref


def _replace(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
    attributes = dict(group[name].attrs)
    del group[name]
    data = group.create_dataset(name, shape, dtype)
    data.attrs.update(attributes)
    return data


def _write_waveforms(data: h5py.Dataset, rng: np.random.Generator, total: int) -> None:
    shape = np.sin(np.linspace(0, 2 * np.pi, SAMPLES)) * np.hanning(SAMPLES) * -200
    for lo in range(0, total, SLAB):
        count = min(SLAB, total - lo)
        noise = rng.integers(-16, 17, (count, SAMPLES), np.int16)
        piece = noise + shape.astype(np.int16)
        data[lo * SAMPLES : (lo + count) * SAMPLES] = piece.reshape(-1, 1)


def _layout(name: str, session: str, manifest: str, **options) -> Layout:
    subject = session.split("_")[0]
    return Layout(
        name=name, manifest=manifest, dataset="perich_miller_population_2018",
        path=f"{subject}/{session}_behavior+ecephys.nwb",
        write=partial(write_perich_miller, session=session, **options),
    )  # fmt: skip


LAYOUTS = (
    _layout("000688-center-out", "sub-C_ses-CO-20160909", "poyo-mp-paper"),
    _layout("000688-center-out-one-array", "sub-C_ses-CO-20131003", "poyo-mp-paper", arrays=1),
    _layout(
        "000688-random-target", "sub-M_ses-RT-20140114", "poyo-mp-paper",
        task="random_target", duration=120.0,
    ),
    _layout(
        "000688-threshold-crossings", "sub-T_ses-CO-20130819", "monkey-t",
        arrays=1, units=16, duration=60.0,
    ),
)  # fmt: skip
