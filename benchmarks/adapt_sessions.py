"""Families of sessions that share a law of tuning and no unit, for `bench_adapt.py` and scaling.

A family is some sessions to pretrain on and one that is held out. Synthetic ones are other seeds of
`spikedata.testing.reaching`: other units, other movements, one law. Real ones are parts of a
recording: every part has units of its own and all of the time, cut into train, valid and test at
the same moments, so that no model was trained on a moment that is tested. The labels of the
held-out part are of moments whose behaviour the pretraining saw, beside the spikes of other units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spikedata.recording import Recording
from spikedata.store import Store
from spikedata.testing.reaching import make_reaching_session

PARTS = "pseudo"  # dataset of the parts of a real recording
MADE = "synthetic"
UNITS, SPIKE_RATE = 60, 460.0  # of a synthetic session: 7.7 Hz a unit, as its defaults have
EVERY = 4  # samples of its velocity, of which one is kept: 25 Hz, of movements below 5 Hz


@dataclass(frozen=True)
class Family:
    """Sessions to pretrain on, and one to adapt to."""

    name: str
    seed: int
    pretraining: tuple[str, ...]
    held_out: str


def part_of(recording: Recording, rows: Sequence[int] | np.ndarray, recording_id: str) -> Recording:
    """Return a recording of some of the units, with the same time, targets and splits.

    Parameters
    ----------
    recording : Recording
        What is taken apart.
    rows : sequence of int, shape (U,)
        Its units, each once, in any order; the part has them in the order of the recording.
    recording_id : str
        Of the part. Its units have ids of their own, so that no row of a table is shared.
    """
    kept = np.zeros(recording.n_units, bool)
    kept[np.asarray(rows)] = True
    row_of = np.cumsum(kept, dtype=np.int32) - 1
    mine = kept[recording.spike_unit]
    units = {name: np.asarray(column)[kept] for name, column in recording.units.items()}
    units["unit_id"] = np.array([f"{recording_id}/{one}" for one in units["unit_id"]], str)
    return replace(
        recording,
        recording_id=recording_id,
        spike_time=recording.spike_time[mine],
        spike_unit=row_of[recording.spike_unit[mine]],
        units=units,
        fingerprint="",
    )


def with_fewer_samples(recording: Recording, every: int) -> Recording:
    """Return a recording that has one of so many samples of its targets, and no other series."""
    series = {}
    for name in recording.targets:
        one = recording.series[name]
        time = None if one.time is None else one.time[::every]
        rate = None if one.rate is None else one.rate / every
        series[name] = replace(one, values=one.values[::every], time=time, rate=rate)
    return replace(recording, series=series, fingerprint="")


def real_family(store: Store, source: Recording, scheme: str, parts: int, seed: int) -> Family:
    """Deal a recording's units out to sessions of a store, at random; the first is held out.

    Parameters
    ----------
    store : Store
        Where they are written, unless they are there.
    source : Recording
        The recording.
    scheme : str
        Its split scheme, the only one that the parts have.
    parts : int
        Number of sessions, 2 or more.
    seed : int
        Of the deal.
    """
    order = np.random.default_rng([seed, 0xADA]).permutation(source.n_units)
    one_scheme = replace(source, splits={scheme: source.splits[scheme]})
    session = source.recording_id.rpartition("/")[2]
    names = [f"{PARTS}/{session}_{seed}_{part}of{parts}" for part in range(parts)]
    for name, rows in zip(names, np.array_split(order, parts), strict=True):
        if name not in store:
            store.write(part_of(one_scheme, rows, name), {})
    return Family(source.recording_id, seed, tuple(names[1:]), names[0])


def synthetic_family(
    store: Store, count: int, seed: int, duration: float, held_out: float | None = None
) -> Family:
    """Write synthetic centre-out sessions into a store: one held out, `count` to pretrain on.

    Of one seed, fewer sessions are the first of more, and the held-out one is the same.

    Parameters
    ----------
    store : Store
        Where they are written, unless they are there.
    count : int
        Sessions to pretrain on.
    seed : int
        Families of different seeds share no session.
    duration : float
        Of each session, in s.
    held_out : float, optional
        Of the one that is held out, where it is another.
    """
    names = []
    for number in range(1 + count):
        seconds = held_out if number == 0 and held_out is not None else duration
        session = f"center_out_{seed}_{number}_{seconds:g}s"
        names.append(f"{MADE}/{session}")
        if names[-1] not in store:
            made = make_reaching_session(
                100_000 * (seed + 1) + number, duration=seconds, units=UNITS, spike_rate=SPIKE_RATE,
                dataset=MADE, session=session,
            )  # fmt: skip
            store.write(with_fewer_samples(made, EVERY), {})
    return Family(MADE, seed, tuple(names[1:]), names[0])
