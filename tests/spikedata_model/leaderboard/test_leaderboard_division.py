"""Time is divided as a suite says, training keeps away from testing, and few labels are few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikedata.intervals import IntervalSet
from spikedata.recording import SPLITS
from spikedata.splits import split_table
from spikedata_model.errors import ConfigError, LeakError, SuiteError
from spikedata_model.leaderboard.division import divide, limit
from spikedata_model.leaderboard.suite import Budget, Suite
from tests.spikedata_model.worlds import make_session, suite_content


def made(**changes) -> Suite:
    return Suite.model_validate(suite_content(**changes))


def rows(**fields):
    split = {"kind": "rows", "table": "trials", "train": 0.5, "valid": 0.25, "test": 0.25}
    return {"split": {**split, **fields}}


def nearest(time: IntervalSet, other: IntervalSet) -> float:
    """Return the smallest distance between two sets of intervals, by looking at all pairs."""
    return min(
        (max(a - d, c - b, 0.0) for a, b in time for c, d in other), default=np.inf
    )  # fmt: skip


@given(
    edges=st.lists(st.integers(0, 600), min_size=4, max_size=12, unique=True),
    names=st.lists(st.sampled_from(SPLITS), min_size=6, max_size=6),
    gap=st.sampled_from([0.0, 0.5, 2.0]),
)
@settings(max_examples=80, deadline=None)
def test_what_is_given_out_keeps_the_gap_or_is_refused(edges, names, gap):
    recording = make_session("one", 0)
    cuts = np.sort(np.array(edges, float)) / 10
    cuts = cuts[: len(cuts) // 2 * 2]
    pieces = list(zip(cuts[::2], cuts[1::2], names, strict=False))
    parts = {
        name: IntervalSet(
            np.array([a for a, _, one in pieces if one == name], float),
            np.array([b for _, b, one in pieces if one == name], float),
        )
        for name in SPLITS
    }
    recording = replace(recording, splits={"drawn": split_table(parts)})
    suite = made(gap=gap, gap_reason="a test", group={"split": {"kind": "scheme", "name": "drawn"}})
    naive = nearest(parts["train"] & recording.domain, parts["test"] & recording.domain)
    lacks = min((parts[one] & recording.domain).duration for one in ("train", "test")) == 0

    if lacks:
        with pytest.raises(SuiteError, match="leaves no"):
            divide(recording, suite.groups[0], suite)
    elif naive < gap - 1e-5:
        with pytest.raises(LeakError, match="within"):
            divide(recording, suite.groups[0], suite)
    else:
        found = divide(recording, suite.groups[0], suite)
        assert nearest(found["valid"], found["test"]) >= gap - 1e-9
        assert (found["valid"] - parts["valid"]).duration == 0
        assert found["train"] == (parts["train"] & recording.domain)


def test_rows_are_cut_in_order_of_time_and_shares_are_rounded_down():
    recording = make_session("one", 0, duration=22.0)  # eleven trials of 2 s
    suite = made(gap=0.0, gap_reason="a test", group=rows())

    found = divide(recording, suite.groups[0], suite)

    assert {name: list(part) for name, part in found.items()} == {
        "train": [(0.0, 10.0)], "valid": [(10.0, 16.0)], "test": [(16.0, 22.0)]
    }  # fmt: skip


def test_rows_are_chosen_by_their_columns_and_length():
    recording = make_session("one", 0, duration=23.0)  # the last trial has 1 s
    numbers = {"where": {"number": [str(one) for one in range(0, 12)]}, "longest": 1.5}
    suite = made(gap=0.0, gap_reason="a test", group=rows(**numbers, train=0.1, valid=0, test=0.9))

    with pytest.raises(SuiteError, match="leaves no train time"):  # a single row is left
        divide(recording, suite.groups[0], suite)


def test_training_rows_keep_the_gap_from_what_comes_later():
    recording = make_session("one", 0)
    suite = made(group=rows())

    found = divide(recording, suite.groups[0], suite)

    later = found["valid"] | found["test"]
    assert nearest(found["train"], later) >= 1.0
    assert nearest(found["valid"], found["test"]) >= 1.0


def test_a_share_that_makes_whole_rows_takes_them_all():
    """0.29 of 100 rows are 29, though the floats make it a little less."""
    recording = make_session("one", 0, duration=200.0)
    suite = made(gap=0.0, gap_reason="a test", group=rows(train=0.29, valid=0.28, test=0.43))

    parts = divide(recording, suite.groups[0], suite)

    assert len(recording.intervals["trials"]) == 100
    assert [round(parts[name].duration / 2) for name in SPLITS] == [29, 28, 43]


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 1e-12, "causal": True}, {"step": np.inf, "causal": True}, {"block": 1e-12},
        {"context": np.inf}, {"gap": np.inf}, {"context": np.nan},
    ],
    ids=str,
)  # fmt: skip
def test_amounts_that_mean_nothing_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        made(**changes)


def test_whole_takes_all_time_before_the_held_out_rows():
    recording = make_session("one", 0)
    trials = recording.intervals["trials"]
    sparse = trials.where(np.arange(len(trials)) % 2 == 0)
    recording = replace(recording, intervals={"trials": sparse})
    plain, whole = (made(group=rows(whole=one)) for one in (False, True))

    few = divide(recording, plain.groups[0], plain)
    much = divide(recording, whole.groups[0], whole)

    assert few["train"].duration < much["train"].duration
    assert list(much["train"]) == [(0.0, much["valid"].start[0] - 1.0)]
    assert few["test"] == much["test"]


@pytest.mark.parametrize("scheme", ["nothing", "chronologica"])
def test_a_scheme_that_is_not_there_is_named(scheme):
    suite = made(group={"split": {"kind": "scheme", "name": scheme}})

    with pytest.raises(SuiteError, match=f"'{scheme}'"):
        divide(make_session("one", 0), suite.groups[0], suite)


def test_without_a_validation_split_the_last_of_the_training_time_is_one():
    recording = make_session("one", 0)
    table = split_table({
        "train": IntervalSet(np.arange(0.0, 30.0, 3.0), np.arange(2.0, 32.0, 3.0)),
        "valid": IntervalSet.empty(), "test": IntervalSet.single(40.0, 60.0),
    })  # fmt: skip
    recording = replace(recording, splits={"drawn": table})
    split = {"kind": "scheme", "name": "drawn", "valid_from_train": 0.2}
    suite = made(group={"split": split})

    found = divide(recording, suite.groups[0], suite)

    assert list(found["valid"]) == [(24.0, 26.0), (27.0, 29.0)]
    assert found["train"].duration == 16.0


def test_a_share_is_taken_of_training_and_validation_time():
    recording = make_session("one", 0)
    suite = made()
    parts = divide(recording, suite.groups[0], suite)

    few = limit(recording, parts, suite.groups[0], Budget(share=0.25), 3)

    for name in ("train", "valid"):
        assert few[name].duration == pytest.approx(0.25 * parts[name].duration)
        assert (few[name] - parts[name]).duration == 0
    assert few["test"] == parts["test"]


@pytest.mark.parametrize("budget", [Budget(trials=3), Budget(seconds=6.0)])
def test_an_amount_leaves_no_validation_split(budget):
    recording = make_session("one", 0)
    suite = made()
    parts = divide(recording, suite.groups[0], suite)

    few = limit(recording, parts, suite.groups[0], budget, 3)

    assert few["train"].duration == pytest.approx(6.0)
    assert len(few["valid"]) == 0


def test_labels_are_drawn_by_the_seed():
    recording = make_session("one", 0)
    suite = made()
    parts = divide(recording, suite.groups[0], suite)
    draw = [limit(recording, parts, suite.groups[0], Budget(trials=3), seed) for seed in (0, 0, 1)]

    assert draw[0]["train"] == draw[1]["train"] != draw[2]["train"]


def test_trials_that_do_not_count_are_not_drawn():
    recording = make_session("one", 0)
    suite = made(group={"trials_where": {"number": ["2", "5", "7"]}})
    parts = divide(recording, suite.groups[0], suite)

    few = limit(recording, parts, suite.groups[0], Budget(trials=3), 0)

    assert list(few["train"]) == [(4.0, 6.0), (10.0, 12.0), (14.0, 16.0)]
    with pytest.raises(ConfigError, match="3 rows"):
        limit(recording, parts, suite.groups[0], Budget(trials=4), 0)


def test_recordings_that_nothing_is_transferred_to_keep_their_labels():
    recording = make_session("one", 0)
    suite = made(group={"transfer": False})
    parts = divide(recording, suite.groups[0], suite)

    assert limit(recording, parts, suite.groups[0], Budget(trials=3), 0) == parts
