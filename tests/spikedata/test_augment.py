"""What augmentations promise, against one-window-at-a-time oracles and exact distributions.

The statistical tests have fixed seeds. Each was accepted at the false-alarm rate that it names: a
right program with another seed fails it that rarely.
"""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.augment import (
    Augmentation,
    SpikeJitter,
    TimeScale,
    UnitDropout,
    UnitSubset,
    keep_units,
)
from spikedata.augment_units import choose
from spikedata.batch import Batch, IntervalBatch, TargetBatch
from spikedata.errors import SamplingError
from spikedata.ragged import join_offsets, row_of
from spikedata.sampler import Sampler
from tests.conftest import build_recording

RARE = 1e-6  # false-alarm rate of each chi-square below
FAR = 5.5  # standard errors that a mean may be off: two-sided 4e-8


# ------------------------------------------------------------------ batches


def build_batch(n_units: Sequence[int], n_spikes: int = 0, seed: int = 0) -> Batch:
    """Return 1 s windows with the given numbers of units, each from a recording of its own."""
    rng = np.random.default_rng([seed, 5])
    counts = np.asarray(n_units, np.int64)
    first = join_offsets(counts)[:-1]
    spikes = np.where(counts > 0, n_spikes, 0)
    window = np.repeat(np.arange(len(counts)), spikes)
    local = (rng.random(len(window)) * counts[window]).astype(np.int64)
    return Batch(
        recording_ids=tuple(f"made/r{row}" for row in range(len(counts))),
        recording=np.arange(len(counts)),
        start=np.full(len(counts), 100.0),
        end=np.full(len(counts), 101.0),
        length=np.ones(len(counts)),
        spike_time=rng.random(len(window), np.float32),
        spike_unit=(first[window] + local).astype(np.int32),
        spike_offsets=join_offsets(spikes),
        unit=np.arange(counts.sum(), dtype=np.int32),
        unit_offsets=join_offsets(counts),
        first_unit=first,
    )


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Return windows of few recordings, some without units or spikes, most with silent units."""
    sizes = draw(st.lists(st.integers(0, 7), min_size=1, max_size=3))
    recording = np.array(draw(st.lists(st.integers(0, len(sizes) - 1), max_size=6)), np.int64)
    first_unit = join_offsets(np.array(sizes))[recording]
    units, spikes, times = [], [], []
    length = np.array([draw(st.sampled_from([0.1, 0.5, 1.0, 1 / 3])) for _ in recording], float)
    for first, index, span in zip(first_unit, recording, length, strict=True):
        here = [row for row in range(sizes[index]) if draw(st.integers(0, 3))]
        own = draw(st.lists(st.sampled_from(here), max_size=12)) if here else []
        places = draw(st.lists(st.floats(0, 1, width=32), min_size=len(own), max_size=len(own)))
        last = np.nextafter(np.float32(span), np.float32(0))
        units.append(np.array(here, np.int32) + np.int32(first))
        spikes.append(np.array(own, np.int32) + np.int32(first))
        times.append(np.sort(np.minimum(np.array(places, np.float32) * np.float32(span), last)))
    samples = np.array([draw(st.integers(0, 4)) for _ in recording], np.int64)
    rows = np.array([draw(st.integers(0, 2)) for _ in recording], np.int64)
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    start = rng.uniform(0, 1e9, len(recording))
    bounds = np.sort(rng.normal(size=(2, rows.sum())), axis=0)
    return Batch(
        recording_ids=tuple(f"made/s{index}" for index in range(len(sizes))),
        recording=recording,
        start=start,
        end=start + length,
        length=length,
        spike_time=np.concatenate([np.empty(0, np.float32), *times]),
        spike_unit=np.concatenate([np.empty(0, np.int32), *spikes]),
        spike_offsets=join_offsets(np.array([len(one) for one in spikes], np.int64)),
        unit=np.concatenate([np.empty(0, np.int32), *units]),
        unit_offsets=join_offsets(np.array([len(one) for one in units], np.int64)),
        first_unit=first_unit,
        targets={
            "velocity": TargetBatch(
                time=rng.random(samples.sum(), np.float32),
                values=rng.random((samples.sum(), 2), np.float32),
                weight=rng.random(samples.sum(), np.float32),
                offsets=join_offsets(samples),
            )
        },
        intervals={
            "trials": IntervalBatch(
                start=bounds[0],
                end=bounds[1],
                row=np.arange(rows.sum()),
                columns={"correct": rng.random(rows.sum()) < 0.5},
                offsets=join_offsets(rows),
            )
        },
    )


def arrays_of(value: object, where: str = "batch") -> dict[str, np.ndarray]:
    """Return every array of a batch by its path."""
    if isinstance(value, np.ndarray):
        return {where: value}
    if isinstance(value, dict):
        parts = value.items()
    elif is_dataclass(value):
        parts = [(one.name, getattr(value, one.name)) for one in fields(value)]
    else:
        parts = []
    found = {}
    for name, part in parts:
        found |= arrays_of(part, f"{where}.{name}")
    return found


def assert_same(expected: Batch, actual: Batch, but: Sequence[str] = ()) -> None:
    """Assert that two batches have the same arrays, but for the named ones."""
    mine, theirs = arrays_of(expected), arrays_of(actual)
    assert mine.keys() == theirs.keys()
    for name, one in mine.items():
        if name.removeprefix("batch.") not in but:
            np.testing.assert_array_equal(one, theirs[name], err_msg=name, strict=True)


def windows(batch: Batch) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return units, spike times and spike units of each window, cut with plain slices."""
    return [
        (
            batch.unit[batch.unit_offsets[row] : batch.unit_offsets[row + 1]],
            batch.spike_time[batch.spike_offsets[row] : batch.spike_offsets[row + 1]],
            batch.spike_unit[batch.spike_offsets[row] : batch.spike_offsets[row + 1]],
        )
        for row in range(len(batch))
    ]


UNIT_FIELDS = ("spike_time", "spike_unit", "spike_offsets", "unit", "unit_offsets")
EVERY_ONE: list[Augmentation] = [
    UnitDropout(1, 3, 5),
    UnitDropout(2, 3, 6, peak=2.0, tail_right=5, above="all"),
    UnitSubset({"made/s0": np.array([0, 2]), "made/s1": np.ones(7, bool)}),
    SpikeJitter(0.05),
    SpikeJitter(0.05, sort=True),
    TimeScale(0.5, 2.0),
]
every_one = pytest.mark.parametrize("augmentation", EVERY_ONE, ids=repr)


# ------------------------------------------------------------------ all of them


@every_one
@given(batch=batches(), seed=st.integers(0, 2**32))
def test_the_same_generator_gives_the_same_batch_and_the_input_stays(augmentation, batch, seed):
    before = pickle.loads(pickle.dumps(batch))
    again = pickle.loads(pickle.dumps(augmentation))
    once = augmentation(batch, np.random.default_rng(seed))
    augmentation(batch, np.random.default_rng(seed + 1))
    twice = again(batch, np.random.default_rng(seed))

    assert_same(before, batch)
    assert_same(once, twice)


@every_one
@given(batch=batches(), seed=st.integers(0, 2**32))
def test_types_stay_and_the_result_is_a_batch(augmentation, batch, seed):
    made = augmentation(batch, np.random.default_rng(seed))

    before, after = arrays_of(batch), arrays_of(made)
    assert {name: one.dtype for name, one in before.items()} == {
        name: one.dtype for name, one in after.items()
    }
    for offsets, owned in ((made.spike_offsets, made.spike_time), (made.unit_offsets, made.unit)):
        assert (len(offsets), offsets[0], offsets[-1]) == (len(batch) + 1, 0, len(owned))
        assert np.all(np.diff(offsets) >= 0)
    for units, _, spike_unit in windows(made):
        assert np.all(np.diff(units) > 0)
        assert np.isin(spike_unit, units).all()


@every_one
def test_read_only_arrays_will_do(augmentation):
    """What is left unchanged may be anybody's memory."""
    batch = build_batch([7, 0, 3], n_spikes=20)
    batch = replace(batch, recording_ids=("made/s0", "made/s1", "made/s2"))
    expected = arrays_of(augmentation(batch, np.random.default_rng(0)))
    for one in arrays_of(batch).values():
        one.flags.writeable = False

    found = arrays_of(augmentation(batch, np.random.default_rng(0)))
    assert all(np.array_equal(expected[name], one) for name, one in found.items())


def test_they_follow_one_another_on_a_real_batch():
    recordings = [build_recording(seed, n_units=8) for seed in range(3)]
    sampler = Sampler(recordings, "train", window=(0.5, 1.0), batch_size=16)
    chain = [
        UnitSubset.random(recordings, 6, seed=1),
        UnitDropout(1, 3, 6),
        SpikeJitter(0.01),
        TimeScale(0.8, 1.25),
    ]
    batch, rng = sampler.batch(0, 0), np.random.default_rng(3)
    for augmentation in chain:
        batch = augmentation(batch, rng)

    for window in batch:
        subset = chain[0].units[window.recording_id]
        assert 1 <= len(window.units) <= 6
        assert subset[window.units].all()
        assert np.isin(window.spike_unit, window.units).all()
    assert np.all(batch.spike_time <= batch.length[row_of(batch.spike_offsets)].astype(np.float32))


# ------------------------------------------------------------------ keeping units


@given(batches(), st.randoms(use_true_random=False))
def test_kept_units_keep_their_spikes_in_order_and_the_others_lose_theirs(batch, random):
    kept = np.array([random.random() < 0.5 for _ in batch.unit], bool)
    made = keep_units(batch, kept)

    assert_same(batch, made, but=UNIT_FIELDS)
    for row, (mine, theirs) in enumerate(zip(windows(batch), windows(made), strict=True)):
        units, time, unit = mine
        left = [one for one, stays in zip(
            units, kept[batch.unit_offsets[row] : batch.unit_offsets[row + 1]], strict=True
        ) if stays]  # fmt: skip
        spikes = [at for at, one in enumerate(unit) if one in left]
        np.testing.assert_array_equal(np.array(left, np.int32), theirs[0], strict=True)
        np.testing.assert_array_equal(time[spikes], theirs[1], strict=True)
        np.testing.assert_array_equal(unit[spikes], theirs[2], strict=True)


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(SamplingError, match=r"needs shape \(5,\).*found \(1,\)"):
        keep_units(build_batch([2, 3]), np.ones(1, bool))


@given(batches(), st.integers(0, 2**32), st.sampled_from(["truncate", "all"]))
def test_dropout_keeps_a_number_that_it_may_keep(batch, seed, above):
    dropout = UnitDropout(2, 3, 4, above=above)
    made = dropout(batch, np.random.default_rng(seed))

    assert_same(batch, made, but=UNIT_FIELDS)
    for (units, time, unit), (left, left_time, left_unit) in zip(
        windows(batch), windows(made), strict=True
    ):
        assert min(len(units), 2) <= len(left) <= min(len(units), 4)
        assert dropout.probabilities(len(units))[len(left)] > 0
        assert np.isin(left, units).all()
        stays = np.isin(unit, left)
        np.testing.assert_array_equal(time[stays], left_time)
        np.testing.assert_array_equal(unit[stays], left_unit)


# ------------------------------------------------------------------ how many units


def tail(statistic: float, freedom: int) -> float:
    """Return P(chi-square > statistic), by the recurrence of the incomplete gamma function."""
    half = statistic / 2
    if half == 0:
        return 1.0
    found, a = (math.erfc(math.sqrt(half)), 0.5) if freedom % 2 else (math.exp(-half), 1.0)
    while a < freedom / 2:
        found += math.exp(a * math.log(half) - half - math.lgamma(a + 1))
        a += 1
    return found


def chance_of(counts: np.ndarray, expected: np.ndarray) -> float:
    """Return how often a right program's counts are as far from expected, by chi-square.

    Counts that are impossible must be 0; neighbours are joined until they expect 20 or more.
    """
    assert not np.any(counts[expected == 0])
    joined, left = [], np.zeros(2)
    for one in zip(counts, expected * counts.sum() / expected.sum(), strict=True):
        left += one
        if left[1] >= 20:
            joined.append(left)
            left = np.zeros(2)
    found, wanted = np.array(joined).T
    found[-1], wanted[-1] = found[-1] + left[0], wanted[-1] + left[1]
    return tail(float(np.sum((found - wanted) ** 2 / wanted)), len(found) - 1)


def documented(low: int, mode: int, tail_right: int, high: int, peak: float, k: int) -> float:
    """Return f(k) as the formula in torch_brain's documentation reads."""
    if k < low or k > high:
        return 0.0
    if k < mode:
        return 1 + (peak - 1) * (k - low) / (mode - low)
    if k == mode:
        return peak
    return peak - (peak - 1) * (k - mode) / (tail_right - mode) if k <= tail_right else 1.0


def numbers_kept(dropout: UnitDropout, n_units: int, draws: int, seed: int = 0) -> np.ndarray:
    """Return the number of units kept in each of many windows of `n_units` units."""
    batch, found = build_batch([n_units] * 2000), []
    for step in range(draws // 2000):
        made = dropout(batch, np.random.default_rng([seed, 0, step]))
        found.append(np.diff(made.unit_offsets))
    return np.concatenate(found)


def test_the_tail_of_chi_square_is_right():
    """Against printed tables of its upper 5 % and 0.1 % points."""
    table = [(3.841, 1, 0.05), (10.828, 1, 0.001), (18.307, 10, 0.05), (29.588, 10, 0.001),
             (61.098, 31, 0.001), (124.342, 100, 0.05), (149.449, 100, 0.001)]  # fmt: skip
    for statistic, freedom, expected in table:
        assert tail(statistic, freedom) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("above", ["truncate", "all"])
@pytest.mark.parametrize(
    "shape", [(5, 12, 40, 40, 4.0), (5, 12, 20, 40, 4.0), (3, 3, 9, 9, 3.0), (3, 9, 9, 9, 0.5)]
)
def test_probabilities_are_those_of_the_formula(shape, above):
    low, mode, tail_right, high, peak = shape
    dropout = UnitDropout(low, mode, high, peak=peak, tail_right=tail_right, above=above)
    for n_units in range(50):
        weights = np.array(
            [documented(low, mode, tail_right, high, peak, k) for k in range(high + 1)]
        )
        if n_units <= low:
            expected = np.eye(n_units + 1)[n_units]
        elif above == "truncate" or n_units > high:
            expected = np.pad(weights, (0, 50))[: n_units + 1]
            expected = expected / expected.sum()
        else:
            expected = weights[: n_units + 1] / weights.sum()
            expected[n_units] = weights[n_units:].sum() / weights.sum()

        np.testing.assert_allclose(dropout.probabilities(n_units), expected, atol=1e-14)


@pytest.mark.parametrize("above", ["truncate", "all"])
@pytest.mark.parametrize("n_units", [1, 5, 6, 9, 30, 40, 60])
def test_as_many_units_are_kept_as_documented(n_units, above):
    """False-alarm rate 1e-6 each; below the fewest, between fewest and mode, … above the most."""
    dropout = UnitDropout(5, 12, 40, peak=4.0, tail_right=30, above=above)
    found = np.bincount(numbers_kept(dropout, n_units, 200_000), minlength=n_units + 1)
    expected = dropout.probabilities(n_units)

    if n_units <= 5:
        assert found.tolist() == [0] * n_units + [200_000]
    else:
        assert chance_of(found, expected) > RARE


def test_the_defaults_keep_as_many_units_as_documented():
    """False-alarm rate 1e-6; 94 units, as a session of motor cortex has."""
    expected = np.array([documented(20, 100, 300, 300, 4.0, k) for k in range(95)])
    found = np.bincount(numbers_kept(UnitDropout(), 94, 200_000), minlength=95)

    assert chance_of(found, expected) > RARE


def test_the_peak_is_as_high_as_documented():
    """Four times the edges: within 5.5 standard errors, 4 ± 0.15, in 400,000 draws."""
    found = np.bincount(numbers_kept(UnitDropout(2, 4, 8), 8, 400_000))
    for edge in (2, 8):
        error = 4 * math.sqrt(1 / found[4] + 1 / found[edge])

        assert found[4] / found[edge] == pytest.approx(4, abs=FAR * error)
        assert FAR * error < 0.16


def test_windows_of_several_sizes_draw_each_from_their_own_distribution():
    """False-alarm rate 1e-6 each: the sizes of the neighbours do not matter."""
    dropout, sizes = UnitDropout(2, 4, 8), [0, 1, 2, 3, 5, 8, 20]
    batch = build_batch(sizes * 300)
    kept = np.stack([
        np.diff(dropout(batch, np.random.default_rng([1, step])).unit_offsets)
        for step in range(100)
    ]).reshape(-1, len(sizes))  # fmt: skip

    for size, found in zip(sizes, kept.T, strict=True):
        counts = np.bincount(found, minlength=size + 1)
        if size <= 2:
            assert counts[size] == len(found)
        else:
            assert chance_of(counts, dropout.probabilities(size)) > RARE


def test_torch_brains_distribution_is_another_one():
    """Why ours exists: theirs fails against its own documentation, and is f (1 + log(M / f)).

    Its continuous numbers are cut to integers, so the densities are summed over [k, k + 1).
    False-alarm rate 1e-6 of the second claim; the first holds by more than 20 orders.
    """
    theirs = pytest.importorskip("torch_brain.transforms.unit_dropout").TriangleDistribution(
        min_units=20, mode_units=100, max_units=300, peak=4, M=10, seed=0
    )
    found = np.bincount([int(theirs.sample(400)) for _ in range(60_000)], minlength=300)
    fine = np.linspace(20, 300, 280 * 50, endpoint=False) + 0.01
    density = np.interp(fine, [20, 100, 300], [1.0, 4.0, 1.0])
    drawn = density * (1 + np.log(10 / density))

    def binned(values: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros(20), values.reshape(280, 50).sum(axis=1)])

    assert chance_of(found, binned(density)) < 1e-20
    assert chance_of(found, binned(drawn)) > RARE


# ------------------------------------------------------------------ which units


@pytest.mark.parametrize(("n_units", "kept"), [(6, 3), (7, 1), (7, 6), (5, 2)])
@pytest.mark.parametrize("bits", [np.uint8, np.uint32])
def test_every_set_of_units_is_as_probable(n_units, kept, bits):
    """False-alarm rate 1e-6 each; keys of 8 bits often tie, and are drawn again."""
    sizes = np.full(200_000, n_units)
    chosen = choose(np.random.default_rng(2), sizes, np.full(200_000, kept), bits)
    codes = chosen.reshape(-1, n_units) @ (1 << np.arange(n_units))
    sets = [sum(1 << one for one in members)
            for members in itertools.combinations(range(n_units), kept)]  # fmt: skip

    assert set(codes.tolist()) == set(sets)
    assert chance_of(np.bincount(codes)[sets], np.ones(len(sets))) > RARE


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 99), st.data())
def test_exactly_as_many_are_chosen_as_asked(sizes, seed, data):
    counts = np.array([data.draw(st.integers(0, size)) for size in sizes], np.int64)
    sizes = np.array(sizes, np.int64)
    chosen = choose(np.random.default_rng(seed), sizes, counts, np.uint8)

    row = np.repeat(np.arange(len(sizes)), sizes)
    assert np.bincount(row[chosen], minlength=len(sizes)).tolist() == counts.tolist()


def kept_table(dropout: UnitDropout, n_units: int, address: Sequence[int], rows: int) -> np.ndarray:
    """Return which units are kept in each of `rows` windows, through the public call."""
    batch = build_batch([n_units] * rows)
    made = dropout(batch, np.random.default_rng(address))
    return np.isin(batch.unit, made.unit).reshape(rows, n_units)


def test_every_unit_and_every_pair_is_kept_as_often():
    """Given the numbers kept. False-alarm rate 1e-6 for units, 1.7e-4 for 4,371 pairs at 5.5."""
    kept = kept_table(UnitDropout(), 94, [4], 40_000).astype(np.float64)
    share = kept.sum(axis=1) / 94
    spread = np.sum(share * (1 - share))
    units = 93 / 94 * np.sum((kept.sum(axis=0) - share.sum()) ** 2) / spread
    both = share * (94 * share - 1) / 93
    pairs = (kept.T @ kept)[np.triu_indices(94, 1)]
    off = (pairs - both.sum()) / math.sqrt(np.sum(both * (1 - both)))

    assert RARE < tail(units, 93) < 1 - RARE
    assert np.abs(off).max() < FAR
    assert 0.8 < off.std() < 1.2  # neither too far apart nor too regular


def test_windows_batches_and_epochs_are_independent():
    """Numbers kept are uncorrelated, and shared units as many as by chance: rate 4e-8 each."""
    tables = {
        address: kept_table(UnitDropout(), 94, address, 20_000)
        for address in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    }
    first = tables[0, 0, 0]
    others = [np.roll(first, 1, axis=0), np.roll(first, 7, axis=0), *list(tables.values())[1:]]
    for other in others:
        mine, theirs = first.sum(axis=1), other.sum(axis=1)
        shared = np.sum(first & other, axis=1)
        spread = mine * theirs * (94 - mine) * (94 - theirs) / (94**2 * 93)  # hypergeometric

        assert abs(np.corrcoef(mine, theirs)[0, 1]) * math.sqrt(len(mine)) < FAR
        assert abs(np.sum(shared - mine * theirs / 94)) < FAR * math.sqrt(np.sum(spread))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_units": 0}, "1 <= min_units"),
        ({"min_units": 101}, "found 101, 100, 300, 300"),
        ({"max_units": 99}, "<= max_units must hold"),
        ({"tail_right": 99}, "found 20, 100, 99, 300"),
        ({"min_units": 20.5}, "must be whole"),
        ({"peak": 0.0}, "peak must be above 0"),
        ({"peak": float("nan")}, "peak must be above 0"),
        ({"above": "clip", "peak": -1}, "peak.*; above must be 'truncate' or 'all', found 'clip'"),
    ],
)
def test_dropout_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(SamplingError, match=f"UnitDropout: .*{words}"):
        UnitDropout(**options)


# ------------------------------------------------------------------ chosen units


@given(batches(), st.data())
def test_a_subset_keeps_the_chosen_units_of_each_recording(batch, data):
    masks = {
        name: np.array(data.draw(st.lists(st.booleans(), min_size=7, max_size=7)))
        for name in batch.recording_ids[:2]
    }
    made = UnitSubset(masks)(batch, np.random.default_rng(0))
    by_rows = UnitSubset({name: np.flatnonzero(one) for name, one in masks.items()})

    assert_same(batch, made, but=UNIT_FIELDS)
    assert_same(made, by_rows(batch, np.random.default_rng(0)))
    for row, (mine, theirs) in enumerate(zip(windows(batch), windows(made), strict=True)):
        mask = masks.get(batch.recording_ids[batch.recording[row]], np.ones(7, bool))
        first = batch.first_unit[row]
        assert [one for one in mine[0] if mask[one - first]] == theirs[0].tolist()
        assert [one for one in mine[2] if mask[one - first]] == theirs[2].tolist()


def test_a_subset_draws_nothing():
    rng = np.random.default_rng(0)
    UnitSubset({})(build_batch([3]), rng)

    assert rng.random() == np.random.default_rng(0).random()


def test_a_mask_that_is_too_short_is_refused():
    """The recording was written anew with more units than the mask knows."""
    subset = UnitSubset({"made/r1": np.ones(2, bool)})
    with pytest.raises(SamplingError, match=r"mask of made/r1 has 2 entries, .* has a unit 2"):
        subset(build_batch([5, 3]), np.random.default_rng(0))


@pytest.mark.parametrize("given", [[0.5], [-1], [[0, 1]], ["u0"], True])
def test_a_choice_must_be_a_mask_or_rows(given):
    with pytest.raises(SamplingError, match="made/r0 needs a mask or the row numbers"):
        UnitSubset({"made/r0": given})


def test_no_units_at_all_may_be_chosen():
    made = UnitSubset({"made/r0": np.array([])})(build_batch([5, 3], 10), np.random.default_rng(0))

    assert np.diff(made.unit_offsets).tolist() == [0, 3]
    assert np.diff(made.spike_offsets).tolist() == [0, 10]


def with_areas(seed: int, areas: Sequence[str]):
    recording = build_recording(seed, n_units=len(areas))
    return replace(recording, units={**recording.units, "area": np.array(areas, object)})


def test_units_are_chosen_by_columns_of_their_tables():
    recordings = [with_areas(0, ["M1", "PMd", "M1", "S1"]), with_areas(1, ["PMd", "PMd"])]
    quality = recordings[0].units["quality"][0]

    def chosen(**columns: object) -> list[list[bool]]:
        mapping = {one.recording_id: one for one in recordings}
        assert repr(UnitSubset.where(mapping, **columns)) == repr(
            UnitSubset.where(recordings, **columns)
        )
        return [one.tolist() for one in UnitSubset.where(mapping, **columns).units.values()]

    assert chosen(area="M1") == [[True, False, True, False], [False, False]]
    assert chosen(area=["M1", "PMd"]) == [[True, True, True, False], [True, True]]
    assert chosen(area="M1", quality=quality) == [[True, False, False, False], [False, False]]


def test_a_column_or_value_that_is_nowhere_is_refused():
    recordings = [with_areas(0, ["M1", "PMd"])]
    with pytest.raises(SamplingError, match=r"made/s0 have no column 'aera'; did you mean 'area'"):
        UnitSubset.where(recordings, aera="M1")
    with pytest.raises(SamplingError, match=r"area='V1' \(there are: 'M1', 'PMd'\)"):
        UnitSubset.where(recordings, area="V1")


def test_random_units_are_nested_and_depend_on_seed_and_id_alone():
    recordings = [build_recording(seed, n_units=40) for seed in (0, 1)]
    few, many = (UnitSubset.random(recordings, n, seed=3).units for n in (10, 20))
    alone = UnitSubset.random(recordings[1:], 10, seed=3).units

    for name in few:
        assert (few[name].sum(), many[name].sum()) == (10, 20)
        assert np.all(many[name][few[name]])
    assert alone["made/s1"].tolist() == few["made/s1"].tolist()
    assert few["made/s0"].tolist() != few["made/s1"].tolist()
    other = UnitSubset.random(recordings, 10, seed=4).units
    assert other["made/s0"].tolist() != few["made/s0"].tolist()


def test_random_units_are_uniform_over_seeds():
    """False-alarm rate 1e-6: the 20 sets of 3 of 6 units."""
    recordings = [build_recording(0, n_units=6, n_spikes=0)]
    codes = [
        int(UnitSubset.random(recordings, 3, seed).units["made/s0"] @ (1 << np.arange(6)))
        for seed in range(2000)
    ]
    sets = [sum(1 << one for one in members) for members in itertools.combinations(range(6), 3)]

    assert chance_of(np.bincount(codes, minlength=64)[sets], np.ones(20)) > RARE


def test_more_units_than_there_are_is_refused():
    with pytest.raises(SamplingError, match=r"made/s0 has 5 units, 6 were asked for"):
        UnitSubset.random([build_recording()], 6)
    with pytest.raises(SamplingError, match="found 0 and -1"):
        UnitSubset.random([build_recording()], 0, seed=-1)


# ------------------------------------------------------------------ times


def folded(time: float, length: float) -> float:
    """Reflect at 0 and at the length until the time lies between them."""
    while not 0 <= time <= length:
        time = -time if time < 0 else 2 * length - time
    return time


def test_values_that_are_no_value_of_a_column_are_refused():
    with pytest.raises(SamplingError, match=r"quality needs a value or a list of values, found {}"):
        UnitSubset.where([build_recording()], quality={})


@pytest.mark.parametrize("units", [None, "made/s0", ["made/s0"]])
def test_a_subset_needs_a_mapping(units):
    with pytest.raises(SamplingError, match="UnitSubset: units needs a mapping"):
        UnitSubset(units)


@pytest.mark.parametrize("n", [None, "3", 2.5])
def test_a_number_of_random_units_must_be_whole(n):
    with pytest.raises(SamplingError, match="n must be a whole number of 1 or more"):
        UnitSubset.random([build_recording()], n)


@pytest.mark.parametrize("given", [None, "0.1", [0.1]])
def test_what_is_no_number_is_refused_by_every_augmentation(given):
    for make in (
        lambda: SpikeJitter(given),
        lambda: TimeScale(given, 2.0),
        lambda: TimeScale(0.5, given),
        lambda: UnitDropout(1, 2, 3, peak=given),
    ):
        with pytest.raises(SamplingError, match="found"):
            make()


@given(batches(), st.sampled_from([0.0, 0.01, 3.0]), st.integers(0, 99))
def test_jittered_spikes_are_moved_and_reflected(batch, std, seed):
    made = SpikeJitter(std)(batch, np.random.default_rng(seed))
    normal = np.random.default_rng(seed).standard_normal(len(batch.spike_time), np.float32)
    length = batch.length[row_of(batch.spike_offsets)]
    expected = [folded(float(one), span) for one, span in zip(
        batch.spike_time + normal * np.float32(std), length, strict=True
    )]  # fmt: skip

    assert_same(batch, made, but=("spike_time",))
    np.testing.assert_allclose(made.spike_time, expected, atol=1e-6)
    assert np.all((made.spike_time >= 0) & (made.spike_time < length))
    if std == 0:
        assert_same(batch, made)


@given(batches(), st.sampled_from([0.0, 0.01, 3.0]), st.integers(0, 99))
def test_sorted_jitter_is_the_same_jitter_sorted_in_each_window(batch, std, seed):
    plain = SpikeJitter(std)(batch, np.random.default_rng(seed))
    made = SpikeJitter(std, sort=True)(batch, np.random.default_rng(seed))

    assert_same(plain, made, but=("spike_time", "spike_unit"))
    for (_, time, unit), (_, in_order, its_unit) in zip(windows(plain), windows(made), strict=True):
        order = np.argsort(time, kind="stable")
        np.testing.assert_array_equal(time[order], in_order)
        np.testing.assert_array_equal(unit[order], its_unit)


def test_a_spike_on_the_windows_end_is_put_inside():
    """Rounding to float32 may have put a time on the end, which the half-open window lacks."""
    for length in (1.0, 1 / 3, 0.1):
        batch = replace(build_batch([1], 1), length=np.array([length]))
        batch = replace(batch, spike_time=np.array([length], np.float32))
        (time,) = SpikeJitter(0.0)(batch, np.random.default_rng(0)).spike_time

        assert length - 1e-7 < time < length


def test_a_constant_rate_stays_constant_up_to_the_edges():
    """False-alarm rate 1e-6 each, for a jitter small and large against the window."""
    batch = build_batch([1], 400_000)
    for std in (0.02, 0.7):
        time = SpikeJitter(std)(batch, np.random.default_rng(1)).spike_time
        counts = np.bincount((time * 100).astype(int), minlength=100)

        assert chance_of(counts, np.ones(100)) > RARE


def test_moves_are_normal_with_the_deviation_asked_for():
    """Mean, deviation and tails of 400,000 moves far from the edges: rate 4e-8 each."""
    batch = build_batch([1], 400_000)
    batch = replace(batch, spike_time=np.full(400_000, 0.5, np.float32))
    move = (SpikeJitter(0.005)(batch, np.random.default_rng(2)).spike_time - 0.5) / 0.005
    n = len(move)

    assert abs(move.mean()) < FAR / math.sqrt(n)
    assert abs(move.std() - 1) < FAR / math.sqrt(2 * n)
    for edge in (1.0, 2.0, 3.0):
        share = 2 * NormalDist().cdf(-edge)
        assert abs(np.mean(np.abs(move) > edge) - share) < FAR * math.sqrt(share / n)


@pytest.mark.parametrize("std", [-0.001, float("inf"), float("nan")])
def test_jitter_that_makes_no_sense_is_refused(std):
    with pytest.raises(SamplingError, match="SpikeJitter: std must be 0 s or more"):
        SpikeJitter(std)


@given(batches(), st.integers(0, 99))
def test_every_time_of_a_window_is_stretched_by_one_factor(batch, seed):
    made = TimeScale(0.5, 2.0)(batch, np.random.default_rng(seed))
    factor = made.length / batch.length

    stretched = ("length", "spike_time", "targets.velocity.time", "intervals.trials.start",
                 "intervals.trials.end")  # fmt: skip
    assert_same(batch, made, but=stretched)
    assert np.all((factor > 0.5 - 1e-12) & (factor < 2.0))
    before, after = arrays_of(batch), arrays_of(made)
    for name in stretched[1:]:
        owner = name.rpartition(".")[0]
        offsets = before[f"batch.{owner}.offsets"] if owner else batch.spike_offsets
        pairs = zip(before[f"batch.{name}"], row_of(offsets), strict=True)
        expected = [one * factor[row] for one, row in pairs]
        np.testing.assert_allclose(after[f"batch.{name}"], expected, rtol=1e-6)


def test_the_factor_is_log_uniform():
    """False-alarm rate 1e-6: twice as long is as frequent as half as long."""
    batch = build_batch([0] * 100_000)
    factor = TimeScale(0.5, 2.0)(batch, np.random.default_rng(3)).length
    places = (np.log2(factor) + 1) / 2

    assert chance_of(np.bincount((places * 50).astype(int)), np.ones(50)) > RARE
    assert (factor.min() >= 0.5, factor.max() < 2.0) == (True, True)


def test_equal_bounds_give_one_factor():
    batch = build_batch([2, 3], 5)
    made = TimeScale(3.0, 3.0)(batch, np.random.default_rng(0))

    assert made.length.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0), (1.0, float("inf")), (-1.0, 1.0)])
def test_a_stretch_that_makes_no_sense_is_refused(bounds):
    with pytest.raises(SamplingError, match="0 < low <= high must hold"):
        TimeScale(*bounds)
