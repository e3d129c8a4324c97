"""The floor under `bench_sampler.py`: the same batches in plain numpy, without our package.

Windows are given. The bounds of each come from `searchsorted`; the rest is done for all windows of
a batch at once: the columns joined by slices of the mapped files (or taken by one index from
columns joined in memory beforehand), times subtracted in float64 and cast, units numbered over all
recordings. The padded form fills the rectangles of POYO row by row with slices, which is faster
here than one index over all tokens. Nothing is checked, drawn or looked up by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

START, END = 1, 2
LENGTH = 1.0  # s
LEAST, MODE, MOST, PEAK = 30, 100, 300, 4.0  # of the triangle of unit dropout


@dataclass(frozen=True)
class Columns:
    """What the floor reads: one array for each recording, or one for all and its offsets."""

    spike_time: list[np.ndarray]
    spike_unit: list[np.ndarray]
    target_time: list[np.ndarray]
    target_values: list[np.ndarray]
    units: np.ndarray  # (R,) int64, of each recording

    @property
    def size(self) -> int:
        """Bytes of all arrays."""
        columns = (self.spike_time, self.spike_unit, self.target_time, self.target_values)
        return sum(one.nbytes for column in columns for one in column)


@dataclass
class Ragged:
    """Spikes and samples of the windows of a batch, joined."""

    spike_time: np.ndarray
    spike_unit: np.ndarray
    counts: np.ndarray
    target_time: np.ndarray
    target_values: np.ndarray
    target_counts: np.ndarray
    present: list[np.ndarray] | None = None  # units of each window, where some were dropped


Bounds = tuple[np.ndarray, np.ndarray]
Find = Callable[[list[np.ndarray], np.ndarray, np.ndarray], Bounds]
Make = Callable[[np.ndarray, np.ndarray], Ragged]


def bounds_each(columns: list[np.ndarray], recording: np.ndarray, start: np.ndarray) -> Bounds:
    """Search once for each window."""
    both = np.stack([start, start + LENGTH], 1)
    rows = [columns[one].searchsorted(two) for one, two in zip(recording.tolist(), both)]  # noqa: B905
    first, last = np.array(rows).T
    return first, last


def bounds_grouped(columns: list[np.ndarray], recording: np.ndarray, start: np.ndarray) -> Bounds:
    """Search once for each recording."""
    order = np.argsort(recording, kind="stable")
    sorted_recording, sorted_start = recording[order], start[order]
    cuts = np.append(np.flatnonzero(np.diff(sorted_recording, prepend=-1)), len(order)).tolist()
    both = np.empty((2, len(order)), np.int64)
    for begin, end in zip(cuts[:-1], cuts[1:]):  # noqa: B905, RUF007
        times, wanted = columns[sorted_recording[begin]], sorted_start[begin:end]
        both[0, order[begin:end]] = times.searchsorted(wanted)
        both[1, order[begin:end]] = times.searchsorted(wanted + LENGTH)
    return both[0], both[1]


def mapped(columns: Columns, find: Find) -> Make:
    """Return a floor that joins slices of each recording's arrays."""
    first_unit = (np.cumsum(columns.units) - columns.units).astype(np.int32)

    def pieces(
        time: list[np.ndarray], values: list[np.ndarray], recording: np.ndarray, start: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first, last = find(time, recording, start)
        places = list(zip(recording.tolist(), first.tolist(), last.tolist()))  # noqa: B905
        joined = np.concatenate([time[one][lo:hi] for one, lo, hi in places])
        counts = last - first
        joined -= np.repeat(start, counts)
        beside = np.concatenate([values[one][lo:hi] for one, lo, hi in places])
        return joined.astype(np.float32), beside, counts

    def make(recording: np.ndarray, start: np.ndarray) -> Ragged:
        time, unit, counts = pieces(columns.spike_time, columns.spike_unit, recording, start)
        unit += np.repeat(first_unit[recording], counts)
        return Ragged(
            time,
            unit,
            counts,
            *pieces(columns.target_time, columns.target_values, recording, start),
        )

    return make


def joined(columns: Columns, find: Find) -> Make:
    """Return a floor over private copies of all recordings, joined: one index takes a batch."""
    first_unit = (np.cumsum(columns.units) - columns.units).astype(np.int32)
    spike_unit = np.concatenate(
        [one + first for one, first in zip(columns.spike_unit, first_unit, strict=True)]
    )
    spikes = _parts(np.concatenate(columns.spike_time), columns.spike_time)
    samples = _parts(np.concatenate(columns.target_time), columns.target_time)
    target_values = np.concatenate(columns.target_values)

    def pieces(
        part: tuple[np.ndarray, list[np.ndarray], np.ndarray], values: np.ndarray,
        recording: np.ndarray, start: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        whole, views, base = part
        first, last = find(views, recording, start)
        counts = last - first
        before = np.cumsum(counts) - counts
        index = np.repeat(first + base[recording] - before, counts)
        index += np.arange(len(index))
        time = whole.take(index)
        time -= np.repeat(start, counts)
        return time.astype(np.float32), values.take(index, axis=0), counts

    def make(recording: np.ndarray, start: np.ndarray) -> Ragged:
        return Ragged(
            *pieces(spikes, spike_unit, recording, start),
            *pieces(samples, target_values, recording, start),
        )

    return make


def _parts(
    whole: np.ndarray, columns: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Return a joined column, its part of each recording, and where each part begins."""
    ends = np.cumsum([len(one) for one in columns])
    return whole, np.split(whole, ends[:-1]), np.append(0, ends[:-1])


# ------------------------------------------------------------------ unit dropout, padded batches


def with_dropout(make: Make, columns: Columns, seed: int = 0) -> Make:
    """Return a floor that keeps a random number of random units; above all there are, all."""
    first_unit = np.cumsum(columns.units) - columns.units
    rng, widest = np.random.default_rng(seed), int(columns.units.max())
    kept = np.arange(LEAST, MOST + 1)
    density = np.interp(kept, [LEAST, MODE, MOST], [1.0, PEAK, 1.0])
    below = np.append(0.0, np.cumsum(density))

    def dropped(recording: np.ndarray, start: np.ndarray) -> Ragged:
        batch = make(recording, start)
        units = columns.units[recording]
        number = np.searchsorted(below, rng.random(len(units)) * below[-1], "right")
        number = np.minimum(number + LEAST - 1, units)
        keys = rng.random((len(units), widest), np.float32)
        keys[np.arange(widest) >= units[:, None]] = 2.0
        last = np.sort(keys, 1)[np.arange(len(units)), number - 1]
        chosen = keys <= last[:, None]
        place = np.arange(len(units)) * widest - first_unit[recording]
        index = np.repeat(place, batch.counts)
        index += batch.spike_unit
        inside = np.flatnonzero(chosen.ravel().take(index))
        ends = np.append(0, np.cumsum(batch.counts))
        batch.spike_time, batch.spike_unit = (
            batch.spike_time.take(inside),
            batch.spike_unit.take(inside),
        )
        batch.counts = np.diff(inside.searchsorted(ends))
        batch.present = [
            one.nonzero()[0] + first
            for one, first in zip(chosen, first_unit[recording].tolist(), strict=True)
        ]
        return batch

    return dropped


def padded(make: Make, columns: Columns) -> Callable[[np.ndarray, np.ndarray], dict]:
    """Return a floor that makes POYO's tokens: START and END of every unit, then the spikes."""
    ends = np.cumsum(columns.units)
    numbers = [
        np.arange(end - count, end, dtype=np.int32)
        for count, end in zip(columns.units, ends, strict=True)
    ]

    def tokens(recording: np.ndarray, start: np.ndarray) -> dict[str, np.ndarray]:
        batch = make(recording, start)
        present = batch.present
        if present is None:
            present = [numbers[one] for one in recording.tolist()]
        total = batch.counts + 2 * np.array([len(one) for one in present])
        shape = (len(recording), _eights(total))
        unit, kind = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        time, mask = np.zeros(shape, np.float32), np.arange(shape[1]) < total[:, None]
        begin = 0
        for units, kinds, times, own, count in zip(  # noqa: B905
            unit, kind, time, present, batch.counts.tolist()
        ):
            one, two, end = len(own), 2 * len(own), begin + count
            units[:one] = own
            units[one:two] = own
            units[two : two + count] = batch.spike_unit[begin:end]
            kinds[:one] = START
            kinds[one:two] = END
            times[one:two] = LENGTH
            times[two : two + count] = batch.spike_time[begin:end]
            begin = end
        shape = (len(recording), _eights(batch.target_counts))
        query_time, values = np.zeros(shape, np.float32), np.zeros((*shape, 2), np.float32)
        query_mask = np.arange(shape[1]) < batch.target_counts[:, None]
        taken = np.flatnonzero(query_mask)
        query_time.reshape(-1)[taken] = batch.target_time
        pairs = values.view(np.complex64).reshape(-1)  # two float32 at a time
        pairs[taken] = batch.target_values.view(np.complex64)[:, 0]
        return {
            "unit": unit, "kind": kind, "time": time, "mask": mask, "recording": recording,
            "query_time": query_time, "query_mask": query_mask, "values": values,
        }  # fmt: skip

    return tokens


def _eights(counts: np.ndarray) -> int:
    return -(-int(counts.max(initial=0)) // 8) * 8


def floors(columns: Columns, joined_below: int = 2**31) -> dict[str, Make]:
    """Return every floor by name; the joined ones only where they fit into `joined_below` bytes."""
    found = {
        "slices, a search a window": mapped(columns, bounds_each),
        "slices, a search a recording": mapped(columns, bounds_grouped),
    }
    if columns.size < joined_below:
        found["one index, a search a window"] = joined(columns, bounds_each)
        found["one index, a search a recording"] = joined(columns, bounds_grouped)
    return found


def forms(columns: Columns, make: Make) -> dict[tuple[str, bool], Callable]:
    """Return a floor's functions for every form of batch, plain and with dropout."""
    found: dict[tuple[str, bool], Callable] = {}
    for dropout in (False, True):
        one = with_dropout(make, columns) if dropout else make
        found["ragged", dropout], found["padded", dropout] = one, padded(one, columns)
    return found
