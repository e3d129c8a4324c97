"""Dropping and choosing the units of the windows of a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Real
from typing import Literal

import numpy as np

from spikedata.batch import Batch
from spikedata.errors import SamplingError, did_you_mean
from spikedata.ragged import join_offsets
from spikedata.recording import Recording

__all__ = ["UnitDropout", "UnitSubset", "keep_units"]

MOST_NAMED = 20  # values of a column that an error message lists


def keep_units(batch: Batch, kept: np.ndarray) -> Batch:
    """Return the batch with some of the units of each window, and with their spikes only.

    Parameters
    ----------
    batch : Batch
        With P units over all its windows.
    kept : ndarray, shape (P,), bool
        Which entries of ``batch.unit`` stay. The order of units and spikes does not change.

    Raises
    ------
    SamplingError
        If `kept` has another shape.
    """
    if kept.shape != batch.unit.shape:
        raise SamplingError(
            f"keep_units: kept needs shape {batch.unit.shape}, one entry for each unit of each "
            f"window, found {kept.shape}."
        )
    if kept.all():
        return batch
    n_units = np.diff(batch.unit_offsets)
    some = np.flatnonzero(n_units)
    first, span = np.zeros((2, len(batch)), np.int64)
    first[some] = batch.unit[batch.unit_offsets[some]]
    span[some] = batch.unit[batch.unit_offsets[some + 1] - 1] - first[some] + 1
    # One table over the units of all windows: window i looks its unit u up at shift[i] + u.
    places = join_offsets(span)
    shift = places[:-1] - first
    table = np.zeros(places[-1], np.bool_)
    table[batch.unit + np.repeat(shift, n_units)] = kept
    asked = np.repeat(shift, np.diff(batch.spike_offsets))
    asked += batch.spike_unit
    # Row numbers are several times as fast as a mask that looks like noise.
    spikes, units = np.flatnonzero(table.take(asked)), np.flatnonzero(kept)
    return replace(
        batch,
        spike_time=batch.spike_time.take(spikes),
        spike_unit=batch.spike_unit.take(spikes),
        spike_offsets=np.searchsorted(spikes, batch.spike_offsets),
        unit=batch.unit[units],
        unit_offsets=np.searchsorted(units, batch.unit_offsets),
    )


@dataclass(frozen=True, slots=True)
class UnitDropout:
    r"""Keeps a random number of the units of each window, so that a model can spare any of them.

    The number K of units kept is drawn for each window, then K different units, every set of K
    with the same chance. For a window of `max_units` units or more,

    .. math:: P(K = k) = f(k) / \sum_j f(j), \quad k = min, min + 1, …, max,

    where f is 1 at `min_units`, rises linearly to `peak` at `mode_units`, falls linearly to 1 at
    `tail_right`, and is 1 from there to `max_units`. `probabilities` returns it for any window.

    Parameters
    ----------
    min_units : int
        Fewest units that are kept; a window with no more than these keeps all.
    mode_units : int
        The most probable number of units.
    max_units : int
        Most units that are kept.
    peak : float
        How much more probable `mode_units` is than `min_units`; 1 makes all numbers alike.
    tail_right : int, optional
        Where f is back at 1; `max_units` when not given.
    above : "truncate" or "all"
        What a window of U < `max_units` units does with the numbers above U. "truncate": they
        are not drawn, ``P(K = k)`` is f(k) over the sum of f up to U, so that K has the shape of
        f in every recording. "all": they are drawn and keep all units, ``K = min(k, U)``, so that
        a number below U is as probable as in any other recording, and a small recording is
        mostly left whole.

    Raises
    ------
    SamplingError
        If not ``1 <= min_units <= mode_units <= tail_right <= max_units``, or `peak` is not
        above 0.

    Notes
    -----
    The shape is the one that torch_brain documents for its ``UnitDropout``, used to train the
    POYO models. Its code (0.2.1) draws another one: the acceptance test of
    ``TriangleDistribution.sample`` divides by a fresh uniform number instead of the density of
    the proposal, which draws in proportion to ``f (1 + log(M / f))``, so with its defaults the
    mode is 2.3 times as probable as the edges, not 4 times; and a number above U keeps all units.
    Here the drawn numbers are the documented ones. "truncate" is the default because "all" hardly
    drops anything where U lies below the mode: of 94 units, with POYO-mp's arguments
    ``(30, 100, 300)``, it leaves 78 % of the windows whole. Take "all" to stay near that recipe.

    References
    ----------
    torch_brain 0.2.1, ``transforms/unit_dropout.py``: the formula in the docstring of
    ``TriangleDistribution``.
    """

    min_units: int = 20
    mode_units: int = 100
    max_units: int = 300
    peak: float = 4.0
    tail_right: int | None = None
    above: Literal["truncate", "all"] = "truncate"

    def __post_init__(self) -> None:
        problems = []
        tail = self.max_units if self.tail_right is None else self.tail_right
        numbers = (self.min_units, self.mode_units, tail, self.max_units)
        if not all(isinstance(number, (int, np.integer)) for number in numbers):
            problems.append(f"numbers of units must be whole, found {numbers}")
        elif not 1 <= self.min_units <= self.mode_units <= tail <= self.max_units:
            problems.append(
                "1 <= min_units <= mode_units <= tail_right <= max_units must hold, found "
                + ", ".join(map(str, numbers))
            )
        if not (isinstance(self.peak, Real) and 0 < self.peak < np.inf):
            problems.append(f"peak must be above 0, found {self.peak}")
        if self.above not in ("truncate", "all"):
            problems.append(f"above must be 'truncate' or 'all', found '{self.above}'")
        if problems:
            raise SamplingError(f"UnitDropout: {'; '.join(problems)}.")

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Return the batch with a random part of the units of each window."""
        n_units = np.diff(batch.unit_offsets)
        cumulative = self._cumulative()
        reach = self._reach(n_units)
        drawn = np.searchsorted(cumulative, rng.random(len(batch)) * cumulative[reach], "right")
        counts = np.minimum(self.min_units + drawn, n_units)
        return keep_units(batch, choose(rng, n_units, counts))

    def probabilities(self, n_units: int) -> np.ndarray:
        """Return P(K = k) for k = 0, …, `n_units` in a window of `n_units` units, float64."""
        cumulative = self._cumulative()[: int(self._reach(np.array(n_units))) + 1]
        found = np.zeros(max(n_units, self.min_units + len(cumulative) - 1) + 1)
        found[self.min_units : self.min_units + len(cumulative)] = np.diff(cumulative, prepend=0)
        found /= cumulative[-1]
        found[n_units] = found[n_units:].sum()
        return found[: n_units + 1]

    def _cumulative(self) -> np.ndarray:
        tail = self.max_units if self.tail_right is None else self.tail_right
        return cumulative_weights(self.min_units, self.mode_units, tail, self.max_units, self.peak)

    def _reach(self, n_units: np.ndarray) -> np.ndarray:
        """Return the last entry of the cumulative weights that a window can draw."""
        highest = np.full_like(n_units, self.max_units) if self.above == "all" else n_units
        return np.clip(highest, self.min_units, self.max_units) - self.min_units


@lru_cache(maxsize=64)
def cumulative_weights(lowest: int, mode: int, tail: int, highest: int, peak: float) -> np.ndarray:
    """Return the sums of f over `lowest`, …, k for every k up to `highest`, read-only."""
    k = np.arange(lowest, highest + 1)
    rising = 1 + (peak - 1) * (k - lowest) / max(mode - lowest, 1)
    falling = peak - (peak - 1) * (k - mode) / max(tail - mode, 1)
    sums = np.cumsum(np.where(k < mode, rising, np.where(k <= tail, falling, 1.0)))
    sums.flags.writeable = False
    return sums


def choose(
    rng: np.random.Generator, sizes: np.ndarray, counts: np.ndarray, bits: type = np.uint32
) -> np.ndarray:
    """Return a random choice of `counts` of the `sizes` elements of each row, joined, bool.

    Every element gets a random key, and those with the smallest keys are chosen. Where the keys
    leave open which (two are equal at the border), the row's keys are drawn again, so every set
    of elements has exactly the same chance.
    """
    valid = np.arange(sizes.max(initial=0)) < sizes[:, None]
    chosen = np.zeros_like(valid)
    rows = np.flatnonzero(counts)
    top = np.iinfo(bits).max
    while len(rows):
        here, wanted = valid[rows], counts[rows]
        keys = rng.integers(0, top, here.shape, bits, endpoint=True)
        keys[~here] = top
        border = np.sort(keys, axis=1)[np.arange(len(rows)), wanted - 1]
        chosen[rows] = here & (keys <= border[:, None])
        rows = rows[np.count_nonzero(chosen[rows], axis=1) != wanted]
    return chosen[valid]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class UnitSubset:
    """Keeps the chosen units of each recording and drops the others, always the same.

    Parameters
    ----------
    units : mapping of str to ndarray
        For each recording id which units stay: bool of shape (U,), or their rows in the unit
        table. A recording that is not named keeps all its units.

    Raises
    ------
    SamplingError
        If a choice is neither a mask nor row numbers, or, when it is called, if a window has
        units that the mask of its recording does not reach.
    """

    units: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        chosen = {}
        if not isinstance(self.units, Mapping):
            raise SamplingError(
                "UnitSubset: units needs a mapping, for each recording id a mask or the row "
                f"numbers of its units, found {self.units!r}."
            )
        for recording_id, given in self.units.items():
            one = np.array(given)
            one = one.astype(np.int64) if one.size == 0 and one.dtype != np.bool_ else one
            if one.ndim != 1 or one.dtype.kind not in "biu" or np.any(one < 0):
                raise SamplingError(
                    f"UnitSubset: {recording_id} needs a mask or the row numbers of its units, "
                    f"found {given!r}."
                )
            one.flags.writeable = False
            chosen[recording_id] = one
        object.__setattr__(self, "units", chosen)

    def __repr__(self) -> str:
        counts = [
            np.count_nonzero(one) if one.dtype == np.bool_ else len(np.unique(one))
            for one in self.units.values()
        ]
        return f"UnitSubset({sum(counts)} units of {len(counts)} recordings)"

    @classmethod
    def where(
        cls, recordings: Mapping[str, Recording] | Sequence[Recording], /, **columns: object
    ) -> UnitSubset:
        """Return the units with the given values in their recordings' unit tables.

        Parameters
        ----------
        recordings : mapping of str to Recording, or sequence of Recording
            A `Store`, a dict, or recordings in memory.
        **columns : object
            Column of the unit table, and the value that is wanted or a collection of values;
            a unit must fit all columns. ``area="M1"``, ``quality=["good", "mua"]``.

        Raises
        ------
        SamplingError
            If a recording has no such column, or no unit of any recording fits.
        """
        chosen, seen = {}, {name: set() for name in columns}
        for recording_id, one in _by_id(recordings):
            fits = np.ones(one.n_units, np.bool_)
            for name, wanted in columns.items():
                if name not in one.units:
                    raise SamplingError(
                        f"UnitSubset: the units of {recording_id} have no column '{name}'; "
                        + did_you_mean(name, one.units)
                    )
                many = isinstance(wanted, (list, tuple, set, frozenset, np.ndarray))
                found = np.asarray(one.units[name]).tolist()
                try:
                    accepted = set(wanted) if many else {wanted}  # type: ignore[arg-type]
                except TypeError:
                    raise SamplingError(
                        f"UnitSubset: {name} needs a value or a list of values, found {wanted!r}."
                    ) from None
                fits &= np.fromiter((value in accepted for value in found), np.bool_, len(found))
                seen[name].update(found)
            chosen[recording_id] = fits
        if not any(fits.any() for fits in chosen.values()):
            asked = " and ".join(
                f"{name}={wanted!r} (there are: "
                + ", ".join(sorted(map(repr, seen[name]))[:MOST_NAMED])
                + ")"
                for name, wanted in columns.items()
            )
            raise SamplingError(f"UnitSubset: no unit of {len(chosen)} recordings has {asked}.")
        return cls(chosen)

    @classmethod
    def random(
        cls, recordings: Mapping[str, Recording] | Sequence[Recording], n: int, seed: int = 0
    ) -> UnitSubset:
        """Return `n` units of each recording, drawn once for all windows.

        The draw depends on the seed and the recording's id alone, and for one seed the smaller
        choice is part of the larger one, as a neuron-dropping curve needs.

        Raises
        ------
        SamplingError
            If `n` is below 1 or above the number of units of a recording, or `seed` below 0.
        """
        whole = all(isinstance(number, (int, np.integer)) for number in (n, seed))
        if not whole or n < 1 or seed < 0:
            raise SamplingError(
                "UnitSubset: n must be a whole number of 1 or more and seed one of 0 or more, "
                f"found {n!r} and {seed!r}."
            )
        chosen = {}
        for recording_id, one in _by_id(recordings):
            if one.n_units < n:
                raise SamplingError(
                    f"UnitSubset: {recording_id} has {one.n_units} units, {n} were asked for; "
                    "take fewer, or leave the recording out."
                )
            address = hashlib.sha256(recording_id.encode()).digest()
            order = np.random.default_rng([seed, int.from_bytes(address, "big")]).permutation(
                one.n_units
            )
            chosen[recording_id] = order < n
        return cls(chosen)

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Return the batch with the chosen units; nothing is drawn."""
        n_units = np.diff(batch.unit_offsets)
        some = np.flatnonzero(n_units)
        last = np.full(len(batch), -1)  # the highest row of a unit in each window
        last[some] = batch.unit[batch.unit_offsets[some + 1] - 1] - batch.first_unit[some]
        width = int(last.max(initial=-1)) + 1
        distinct, which = np.unique(batch.recording, return_inverse=True)
        table = np.zeros((len(distinct), width), np.bool_)
        reach = np.full(len(distinct), width)
        for at, index in enumerate(distinct.tolist()):
            one = self.units.get(batch.recording_ids[index])
            if one is None:
                table[at] = True
            elif one.dtype == np.bool_:
                reach[at] = len(one)
                table[at, : len(one)] = one[:width]
            else:
                table[at, one[one < width]] = True
        beyond = np.flatnonzero(last >= reach[which])
        if len(beyond):
            recording_id = batch.recording_ids[int(batch.recording[beyond[0]])]
            raise SamplingError(
                f"UnitSubset: the mask of {recording_id} has {len(self.units[recording_id])} "
                f"entries, but the recording has a unit {last[beyond[0]]}; make the mask anew."
            )
        place = np.repeat(which * width - batch.first_unit, n_units)
        place += batch.unit
        return keep_units(batch, table.ravel()[place])


def _by_id(
    recordings: Mapping[str, Recording] | Sequence[Recording],
) -> Iterator[tuple[str, Recording]]:
    if isinstance(recordings, Mapping):
        return ((name, recordings[name]) for name in recordings)
    return ((one.recording_id, one) for one in recordings)
