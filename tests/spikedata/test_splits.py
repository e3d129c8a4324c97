from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.errors import IntervalError
from spikedata.intervals import IntervalSet
from spikedata.recording import SPLITS
from spikedata.splits import chronological_split, column_split, leakage, without_leakage
from spikedata.testing import interval_sets

SHARES = st.sampled_from(
    [(0.7, 0.1, 0.2), (0.8, 0.0, 0.2), (1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.1, 0.2, 0.7)]
)


def part(table: IntervalSet, name: str) -> IntervalSet:
    rows = table.where(table.columns["split"] == name)
    return IntervalSet(rows.start, rows.end)


@given(interval_sets(), SHARES, st.sampled_from([2, 5]))
def test_blocks_share_the_covered_time_and_each_block_is_split_alike(decodable, shares, blocks):
    table = chronological_split(decodable, *shares, blocks=blocks)

    assert IntervalSet(table.start, table.end).coalesce().duration == pytest.approx(
        decodable.duration
    )
    grid = np.linspace(0, 10, 5003)
    inside = grid[decodable.contains(grid)]
    before = [decodable.intersection(IntervalSet.single(-1, now)) for now in inside[::97]]
    passed = np.array([one.duration for one in before])
    phase = (passed / max(decodable.duration, 1e-9) * blocks) % 1
    cuts = np.cumsum(shares)
    clear = np.abs(phase[:, None] - np.array([0, *cuts])).min(1) > 1e-3
    expected = np.array(SPLITS)[np.minimum(np.searchsorted(cuts, phase, "right"), 2)]
    for name in SPLITS:
        found = part(table, name).contains(inside[::97])
        assert np.array_equal(found[clear], (expected == name)[clear])


@given(interval_sets(), SHARES)
def test_a_chronological_split_shares_the_covered_time_in_order(decodable, shares):
    table = chronological_split(decodable, *shares)

    assert table.is_disjoint
    assert IntervalSet(table.start, table.end).coalesce() == decodable.coalesce()
    for name, share in zip(SPLITS, shares, strict=True):
        assert part(table, name).duration == pytest.approx(share * decodable.duration, abs=1e-9)
    order = [SPLITS.index(name) for name in table.columns["split"].tolist()]
    assert order == sorted(order)


@given(interval_sets(), SHARES, st.sampled_from([0.0, 0.25, 2.0]))
def test_a_gap_keeps_splits_that_far_apart(decodable, shares, gap):
    table = chronological_split(decodable, *shares, gap=gap)

    names = table.columns["split"]
    for row in np.flatnonzero(names[1:] != names[:-1]):
        assert table.start[row + 1] - table.end[row] >= gap - 1e-9
    assert table.difference(decodable).duration == 0


@pytest.mark.parametrize("shares", [(0.7, 0.1, 0.1), (1.2, -0.1, -0.1)])
def test_shares_that_are_no_shares_are_refused(shares):
    with pytest.raises(IntervalError, match="add up to 1"):
        chronological_split(IntervalSet.single(0, 1), *shares)


def trials(**columns) -> IntervalSet:
    return IntervalSet(np.arange(4.0), np.arange(4.0) + 1, columns)


def test_a_column_names_the_splits_and_other_values_are_left_out():
    table = trials(split=np.array(["train", "none", "val", "train"]))

    found = column_split(
        table, "split", {"train": "train", "val": "test"}, IntervalSet.single(0.5, 9)
    )

    assert list(found) == [(0.5, 1.0), (2.0, 3.0), (3.0, 4.0)]
    assert found.columns["split"].tolist() == ["train", "test", "train"]


def test_a_column_of_numbers_is_matched_as_text():
    found = column_split(
        trials(fold=np.array([0, 1, 0, 2])), "fold", {"0": "train", "2": "valid"},
        IntervalSet.single(0, 9),
    )  # fmt: skip

    assert part(found, "valid") == IntervalSet.single(3, 4)


def test_a_column_that_is_not_there_or_has_no_known_value_is_told():
    table = trials(split=np.array(["a", "b", "c", "d"]))

    with pytest.raises(IntervalError, match="did you mean 'split'"):
        column_split(table, "splits", {"a": "train"}, IntervalSet.single(0, 9))
    with pytest.raises(IntervalError, match="it holds a, b, c, d"):
        column_split(table, "split", {"z": "train"}, IntervalSet.single(0, 9))


def test_trials_that_overlap_across_splits_are_refused():
    table = IntervalSet(
        np.array([0.0, 1.0]), np.array([2.0, 3.0]), {"split": np.array(["train", "test"])}
    )

    with pytest.raises(IntervalError, match=r"share time near 2\.000 s"):
        column_split(table, "split", {"train": "train", "test": "test"}, IntervalSet.single(0, 9))


def test_trials_that_overlap_by_a_rounding_error_are_told_apart():
    start = np.arange(1000) * 0.6
    names = np.array(["train", "test"])[np.arange(1000) % 2]
    table = IntervalSet(start, start + 0.6, {"split": names})
    assert (table.end[:-1] > table.start[1:]).any()

    found = column_split(
        table, "split", {"train": "train", "test": "test"}, IntervalSet.single(0, 700)
    )

    assert found.is_disjoint
    assert np.array_equal(found.start, start)
    assert np.allclose(found.end, start + 0.6, rtol=0, atol=1e-9)


@given(interval_sets(), SHARES, st.sampled_from([0.05, 0.5, 3.0]))
def test_leakage_is_the_held_out_time_near_training_time(decodable, shares, reach):
    table = chronological_split(decodable, *shares)
    train = part(table, "train")
    held_out = part(table, "valid").union(part(table, "test"))
    grid = np.arange(-3.0, 13.0, 0.0501)

    near = np.zeros(len(grid), bool)
    for start, end in train:
        near |= (grid >= start - reach) & (grid < end + reach)

    assert np.array_equal(leakage(table, reach).contains(grid), near & held_out.contains(grid))


@given(interval_sets(), SHARES, st.sampled_from([0.05, 0.5, 3.0]))
def test_without_leakage_nothing_leaks_and_only_training_time_is_lost(decodable, shares, reach):
    table = chronological_split(decodable, *shares)

    guarded = without_leakage(table, reach)

    assert leakage(guarded, reach - 1e-9).duration == pytest.approx(0, abs=1e-9)
    assert part(guarded, "test") == part(table, "test").coalesce()
    assert guarded.difference(table).duration == 0
