"""The two recordings of the manifest "sample", and the one of "stevenson2011": read from the files.

- **Head direction** of a mouse: an angle in 0 to 2 pi that wraps, in a container of its own; two
  epochs, asleep without a sample of behaviour, then awake; times of the samples a little uneven; no
  observation intervals; units with a text for their place; ragged tags in every table of intervals.
- **Linear track** of a rat: LED positions in pixels at 60 Hz on a clock that begins at 4397 s; one
  exact value at the beginning and the end; a repeated time; a jump of the tracker; places off the
  track; every unit observed in one stretch; no trials.
- **stevenson2011**: spikes of bins of 50 ms, placed evenly in their bin; hand at 20 Hz in metres;
  trials that follow one another, with a 2-D column.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# pynwb makes its classes while it runs, so pyright does not see their methods.

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.testing.layouts import Layout

if TYPE_CHECKING:
    from pynwb import NWBFile

__all__ = ["LAYOUTS", "write_head_direction", "write_hand_velocity", "write_linear_track"]

CAMERA, LED, HAND = 120.0, 60.0, 20.0  # Hz
CLOCK = 4397.0  # s: first moment of the linear track
STILL = 6.0  # s at either end in which the tracker repeats one value
BIN = 0.05  # s; the bins of stevenson2011


def write_head_direction(path: Path, seed: int = 0, *, duration: float = 60.0) -> None:
    """Write a file as A2929's: `duration` s asleep, as long awake, 8 units tuned to the heading."""
    rng = np.random.default_rng([seed, 0xA29])
    count = round(duration * CAMERA)
    time = np.round(
        duration + (np.arange(count) + 0.5) / CAMERA + rng.uniform(-2e-5, 2e-5, count), 6
    )
    angle = np.cumsum(_smooth(rng, count, CAMERA, 0.5)[:, 0]) * 2.0 / CAMERA + 3.0
    place = 0.2 * _smooth(rng, count, CAMERA, 0.3)
    prefer = rng.uniform(0, 2 * np.pi, 8)
    rate = 25 * np.exp(2.0 * (np.cos(angle[:, None] - prefer) - 1))
    asleep = [np.sort(rng.uniform(0, duration, rng.poisson(3 * duration))) for _ in prefer]
    awake = _spikes(rng, time, rate, 1 / CAMERA)
    nwb = _file("A2929-200711", "A2929", "Mus musculus")
    device = nwb.create_device("probe")
    groups = [
        nwb.create_electrode_group(f"group{row}", "synthetic", "adn", device) for row in (0, 1)
    ]
    nwb.add_unit_column("location", "the anatomical location of this unit")
    nwb.add_unit_column("group", "the shank of this unit")
    for row, (early, late) in enumerate(zip(asleep, awake, strict=True)):
        nwb.add_unit(spike_times=np.concatenate([early, late]), location="adn", group=row % 2,
                     electrode_group=groups[row % 2])  # fmt: skip
    _add_compass(nwb, time, np.mod(angle, 2 * np.pi), place)
    _add_epochs(nwb, [(0.0, duration), (duration, 2 * duration)], time)
    _write(nwb, path)


def write_linear_track(path: Path, seed: int = 0, *, duration: float = 120.0) -> None:
    """Write a file as nelpy's: `duration` s of running and 12 s without, 12 place cells."""
    rng = np.random.default_rng([seed, 0x1EA])
    count = round((duration + 2 * STILL) * LED)
    time = np.round(CLOCK + 0.03 + np.arange(count) / LED, 8)
    moving = (time > time[0] + STILL) & (time < time[-1] - STILL)
    along = 0.5 - 0.5 * np.cos(np.cumsum(moving * 2 * np.pi / 20.0 / LED))
    led = np.stack([140 + 330 * along, 130 + 280 * along], 1)
    led += np.where(moving[:, None], np.round(rng.normal(0, 0.5, (count, 2)), 1), 0)
    led[count // 2] += [0.0, 60.0]  # a jump
    led[count // 3] = [554.0, 1.0]  # a reflection, off the track
    centre = np.linspace(0, 1, 12)
    rate = 1 + 20 * np.exp(-(((along[:, None] - centre) / 0.1) ** 2))
    trains = _spikes(rng, time, rate * moving[:, None] + 0.5, 1 / LED)
    time[count // 4] = time[count // 4 - 1]
    nwb = _file("nelpy_linear_track", "nelpy", "Rattus norvegicus")
    for train in trains:
        nwb.add_unit(spike_times=train, obs_intervals=[[CLOCK, time[-1] + 0.01]])
    _add_position(nwb, "led_pos", led, time, "pixels")
    _write(nwb, path)


def write_hand_velocity(path: Path, seed: int = 0, *, duration: float = 120.0) -> None:
    """Write a file as stevenson2011's: `duration` s, 20 units, a trial every 4 s."""
    from pynwb import TimeSeries
    from pynwb.behavior import BehavioralTimeSeries

    rng = np.random.default_rng([seed, 0x57E])
    count = round(duration / BIN)
    edge = np.round(12.566 + BIN * np.arange(count + 1), 6)
    time = np.round(edge[:-1] + BIN / 2, 6)
    velocity = 0.1 * _smooth(rng, count, HAND, 1.0)
    prefer = rng.normal(size=(2, 20))
    rate = 15 * np.maximum(0, 1 + 8 * velocity @ (prefer / np.linalg.norm(prefer, axis=0)))
    nwb = _file("stevenson2011_random_target", "stevenson", "Macaca mulatta")
    for row in range(rate.shape[1]):
        number = rng.poisson(rate[:, row] * BIN)
        spikes = [start + BIN * (np.arange(n) + 0.5) / n
                  for start, n in zip(edge[:-1], number.tolist(), strict=True) if n]  # fmt: skip
        nwb.add_unit(spike_times=np.concatenate(spikes), obs_intervals=[[edge[0], edge[-1]]])
    _add_position(nwb, "hand_pos", np.cumsum(velocity, 0) * BIN, time, "m")
    one = TimeSeries(name="hand_vel", data=velocity, unit="m/s", timestamps=time)
    nwb.processing["behavior"].add(BehavioralTimeSeries(time_series=one, name="Velocity"))
    nwb.add_trial_column("target_pos", "where the target was (m)")
    for begin in np.arange(edge[0] + 1.7, edge[-1] - 4.0, 4.0).tolist():
        nwb.add_trial(start_time=begin, stop_time=begin + 4.0, target_pos=rng.uniform(-0.1, 0.1, 2))
    _write(nwb, path)


# ------------------------------------------------------------------ parts of the above


def _file(identifier: str, subject: str, species: str) -> NWBFile:
    from pynwb import NWBFile
    from pynwb.file import Subject

    nwb = NWBFile(
        session_description="synthetic", identifier=identifier, session_id=identifier,
        session_start_time=datetime(2022, 2, 7, tzinfo=UTC),
    )  # fmt: skip
    nwb.subject = Subject(subject_id=subject, species=species, sex="U", age="P1Y")
    return nwb


def _smooth(rng: np.random.Generator, count: int, rate: float, highest: float) -> np.ndarray:
    """Return noise (count, 2) without power above `highest` Hz, standard deviation 1."""
    spectrum = np.fft.rfft(rng.standard_normal((count, 2)), axis=0)
    spectrum[np.fft.rfftfreq(count, 1 / rate) > highest] = 0
    noise = np.fft.irfft(spectrum, count, axis=0)
    return noise / noise.std(0)


def _spikes(
    rng: np.random.Generator, time: np.ndarray, rate: np.ndarray, step: float
) -> list[np.ndarray]:
    """Return a Poisson train of each column of `rate` (Hz), for `step` s after each `time`."""
    trains = []
    for column in rate.T:
        number = rng.poisson(column * step)
        trains.append(np.sort(np.repeat(time, number) + rng.uniform(0, step, number.sum())))
    return trains


def _add_compass(nwb: NWBFile, time: np.ndarray, angle: np.ndarray, place: np.ndarray) -> None:
    from pynwb.behavior import CompassDirection, Position, SpatialSeries

    small = np.zeros(len(time))
    for box, columns, unit in (
        (CompassDirection, {"rx": small, "ry": angle, "rz": small}, "radian"),
        (Position, {"x": place[:, 0], "y": small + 0.1, "z": place[:, 1]}, ""),
    ):
        series = [
            SpatialSeries(name=name, data=values, timestamps=time, unit=unit, reference_frame="")
            for name, values in columns.items()
        ]
        nwb.add_acquisition(box(name=box.__name__, spatial_series=series))


def _add_epochs(nwb: NWBFile, bounds: list[tuple[float, float]], time: np.ndarray) -> None:
    from pynwb.epoch import TimeIntervals

    for (start, stop), tag in zip(bounds, ("sleep", "wake"), strict=True):
        nwb.add_epoch(start, stop, tags=[tag])
    support = TimeIntervals(name="position_time_support", description="when it was tracked")
    support.add_interval(start_time=time[0], stop_time=time[-1], tags=["0"])
    nwb.add_time_intervals(support)


def _add_position(nwb: NWBFile, name: str, values: np.ndarray, time: np.ndarray, unit: str) -> None:
    from pynwb.behavior import Position, SpatialSeries

    one = SpatialSeries(name=name, data=values, timestamps=time, unit=unit, reference_frame="room")
    module = nwb.create_processing_module("behavior", "synthetic")
    module.add(Position(name="Position", spatial_series=one))


def _write(nwb: NWBFile, path: Path) -> None:
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)


LAYOUTS = (
    Layout("sample-head-direction", "sample", "peyrache_a2929", "A2929-200711_neurosuite.nwb",
           write_head_direction),
    Layout("sample-linear-track", "sample", "nelpy_linear_track", "nelpy_linear_track.nwb",
           write_linear_track),
    Layout("stevenson2011", "stevenson2011", "stevenson2011", "stevenson2011_random_target.nwb",
           write_hand_velocity),
)  # fmt: skip
