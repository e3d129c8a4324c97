"""Makes recordings, awkward NWB files and hypothesis strategies for tests.

pynwb and hypothesis are imported inside the functions that need them.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false
# pynwb makes its classes while it runs, so pyright does not see their methods.

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata.splits import chronological_split

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy
    from pynwb import NWBFile

__all__ = ["interval_sets", "make_recording", "recordings", "write_nwb"]


def make_recording(
    seed: int = 0,
    *,
    units: int = 20,
    duration: float = 60.0,
    spike_rate: float = 20.0,
    series_rate: float = 50.0,
    dataset: str = "synthetic",
    session: str | None = None,
    start: float = 0.0,
) -> Recording:
    """Return a recording whose units are tuned linearly to a smooth velocity in the plane.

    Each unit is a Poisson process with the rate ``spike_rate * max(0, 1 + 0.8 * p . v)``,
    ``p`` its preferred direction and ``v`` the velocity (standard deviation 1 per axis): a
    linear decoder reads the velocity well, and better with more units.

    Parameters
    ----------
    seed : int
        Another seed is another session: other units, other movement.
    units : int
        Number of units.
    duration, start : float
        Length and first moment of the domain in seconds.
    spike_rate : float
        Mean rate of a unit in Hz.
    series_rate : float
        Sampling rate of the series in Hz.
    dataset, session : str
        Parts of the recording's id; the session is ``"s<seed>"`` when not given.

    Returns
    -------
    Recording
        With the series "velocity" (the target) and "position", trials of 2 s, the split
        "chronological" 0.7/0.1/0.2, and the unit columns "preferred_x" and "preferred_y".
    """
    rng = np.random.default_rng([seed, 0x5D])
    recording_id = f"{dataset}/{session or f's{seed}'}"
    count = max(int(duration * series_rate), 2)
    velocity = _smooth_noise(rng, count, series_rate)
    angle = rng.uniform(0, 2 * np.pi, units)
    preferred = np.stack([np.cos(angle), np.sin(angle)], 1)
    rate = spike_rate * np.maximum(0.0, 1 + 0.8 * velocity @ preferred.T)
    counts = rng.poisson(rate / series_rate)
    step, unit = (
        np.repeat(index, counts.ravel()) for index in np.indices(counts.shape).reshape(2, -1)
    )
    time = start + (step + rng.uniform(0, 1, len(step))) / series_rate
    order = np.lexsort((unit, time))
    domain = IntervalSet.single(start, start + count / series_rate)
    inside = domain.contains(time[order])
    edges = np.append(np.arange(start, domain.end[0], 2.0), domain.end[0])
    edges = np.unique(edges)
    position = np.cumsum(velocity, axis=0) / series_rate
    name = np.array([f"{recording_id}/{one}" for one in range(units)], str)
    return Recording(
        recording_id,
        time[order][inside],
        unit[order][inside].astype(np.int32),
        {"unit_id": name, "preferred_x": preferred[:, 0], "preferred_y": preferred[:, 1]},
        domain,
        {
            "velocity": Series(velocity, "m/s", ("x", "y"), start=start, rate=series_rate),
            "position": Series(position, "m", ("x", "y"), start=start, rate=series_rate),
        },
        {"trials": IntervalSet(edges[:-1], edges[1:], {"number": np.arange(len(edges) - 1)})},
        {"chronological": chronological_split(domain, 0.7, 0.1, 0.2, min(1.0, duration / 20))},
        ("velocity",),
        {"subject": "synthetic", "licence": "CC0-1.0", "domain_from": "construction"},
    )


def _smooth_noise(rng: np.random.Generator, count: int, rate: float) -> np.ndarray:
    """Return noise (count, 2) with no power above 1 Hz and a standard deviation of 1."""
    spectrum = np.fft.rfft(rng.standard_normal((count, 2)), axis=0)
    spectrum[np.fft.rfftfreq(count, 1 / rate) > max(1.0, rate / count)] = 0
    noise = np.fft.irfft(spectrum, count, axis=0)
    return (noise - noise.mean(0)) / np.maximum(noise.std(0), 1e-12)


# ------------------------------------------------------------------ NWB files


def write_nwb(
    path: Path,
    seed: int = 0,
    *,
    with_units: bool = True,
    with_behavior: bool = True,
    with_electrodes: bool = True,
    with_obs_intervals: bool = True,
    with_extension: bool = False,
) -> Path:
    """Write a tiny NWB file that has, on purpose, what real files have by accident.

    The file covers 0 to 20 s, observed in [0, 12) and [13, 20) when `with_obs_intervals`.
    Units: 0 plain, 1 without spikes, 2 with one spike, 3 unsorted with a repeated time, 4 with
    NaN and negative times, 5 with spikes exactly on the bounds 0, 12, 13 and 20.
    Behaviour: ``processing/behavior/Position/hand`` (timestamps; a NaN row, a repeated and a
    backward time), ``processing/behavior/speed`` (direct in the module; rate, conversion 0.01
    and offset 1), ``acquisition/angle`` and ``acquisition/angle_b`` (1-D, shared times),
    ``acquisition/raw`` (30 kHz). Trials: a zero-length row, a NaN bound, a 2-D, a string and a
    ragged column, and "split".

    Returns
    -------
    Path
        `path`.
    """
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject

    rng = np.random.default_rng([seed, 0x4E])
    nwb = NWBFile(
        session_description="synthetic", identifier=f"synthetic-{seed}", session_id=f"s{seed}",
        session_start_time=datetime(2020, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    nwb.subject = Subject(subject_id="m1", species="Macaca mulatta", age="P5Y", sex="U")
    if with_units:
        _add_units(nwb, rng, with_electrodes, with_obs_intervals)
    if with_behavior:
        _add_behavior(nwb, rng)
    _add_trials(nwb)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    if with_extension:
        _cache_extension(path)
    return path


def _add_units(nwb: NWBFile, rng: np.random.Generator, electrodes: bool, observed: bool) -> None:
    times = [
        np.sort(rng.uniform(0, 20, 200)),
        np.empty(0),
        np.array([5.0]),
        np.array([3.0, 1.0, 2.0, 2.0, 15.0]),
        np.array([np.nan, -1.0, 4.0, 6.0]),
        np.array([0.0, 12.0, 13.0, 20.0]),
    ]
    extra = {}
    if electrodes:
        device = nwb.create_device("array")
        group = nwb.create_electrode_group("array_M1", "synthetic", "M1", device)
        for _ in range(4):
            nwb.add_electrode(x=0.0, y=0.0, z=0.0, location="M1", filtering="none", group=group)
    nwb.add_unit_column("quality", "how good")
    for row, spikes in enumerate(times):
        if electrodes:
            extra["electrodes"] = [row % 4]
        if observed:
            extra["obs_intervals"] = [[0.0, 12.0], [13.0, 20.0]]
        nwb.add_unit(spike_times=spikes, quality="good" if row != 2 else "noise", **extra)


def _add_behavior(nwb: NWBFile, rng: np.random.Generator) -> None:
    from pynwb import TimeSeries
    from pynwb.behavior import Position, SpatialSeries

    time = np.arange(200) / 10
    time[50], time[60] = time[49], time[50] - 1.0  # one repeated, one backward
    values = rng.standard_normal((200, 2)).cumsum(0)
    values[100, 1] = np.nan
    hand = SpatialSeries(
        name="hand", data=values, timestamps=time, unit="cm", reference_frame="screen"
    )
    module = nwb.create_processing_module("behavior", "synthetic")
    module.add(Position(spatial_series=hand, name="Position"))
    speed = TimeSeries(
        name="speed", data=np.arange(100, dtype=np.int16), unit="m/s", conversion=0.01, offset=1.0,
        rate=5.0, starting_time=0.5,
    )  # fmt: skip
    module.add(speed)
    regular = np.arange(100) / 5
    angle = TimeSeries(
        name="angle", data=np.linspace(0, 6, 100), unit="radians", timestamps=regular
    )
    nwb.add_acquisition(angle)
    nwb.add_acquisition(
        TimeSeries(name="angle_b", data=np.linspace(6, 0, 100), unit="radians", timestamps=angle)
    )
    nwb.add_acquisition(TimeSeries(name="raw", data=np.zeros(300), unit="V", rate=30000.0))


def _add_trials(nwb: NWBFile) -> None:
    nwb.add_trial_column("split", "which split")
    nwb.add_trial_column("target", "where to")
    nwb.add_trial_column("cues", "ragged", index=True)
    bounds = [(0.0, 4.0), (4.0, 8.0), (8.0, 8.0), (8.0, 12.0), (np.nan, 14.0), (14.0, 19.0)]
    splits = ("train", "train", "none", "val", "val", "test")
    for row, (start, stop) in enumerate(bounds):
        nwb.add_trial(
            start_time=start, stop_time=stop, split=splits[row],
            target=[float(row), -float(row)], cues=list(range(row)),
        )  # fmt: skip


def _cache_extension(path: Path) -> None:
    """Give a series the namespace of an extension that nobody has, with rubbish as its cache."""
    import h5py

    with h5py.File(path, "a") as file:
        file["specifications"].create_group("ndx-nobody/0.1.0")["namespace"] = "{not json"
        file["processing/behavior/speed"].attrs["namespace"] = "ndx-nobody"


# ------------------------------------------------------------------ hypothesis strategies


def interval_sets(max_size: int = 6, *, disjoint: bool = True) -> SearchStrategy[IntervalSet]:
    """Return a strategy for interval sets on a grid of milliseconds within 10 s."""
    from hypothesis import strategies as st

    def build(edges: list[int]) -> IntervalSet:
        ordered = sorted(edges) if disjoint else edges
        pairs = [sorted(pair) for pair in zip(ordered[::2], ordered[1::2], strict=False)]
        bounds = np.array([pair for pair in pairs if pair[0] < pair[1]]).reshape(-1, 2) / 1000
        return IntervalSet.sorted(bounds[:, 0], bounds[:, 1])

    edges = st.lists(st.integers(0, 10_000), max_size=2 * max_size, unique=disjoint)
    return edges.map(build)


def recordings() -> SearchStrategy[Recording]:
    """Return a strategy for small recordings, from one silent unit to a few hundred spikes."""
    from hypothesis import strategies as st

    return st.builds(
        make_recording,
        st.integers(0, 1000),
        units=st.integers(1, 8),
        duration=st.sampled_from([0.5, 3.0, 7.3]),
        spike_rate=st.sampled_from([0.0, 0.5, 10.0]),
        series_rate=st.sampled_from([10.0, 33.3, 100.0]),
        session=st.sampled_from(["a", "b-1", "c.2"]),
        start=st.sampled_from([0.0, -2.5, 4400.1]),
    )
