from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikedata.intervals import IntervalSet
from spikedata.recording import Recording
from spikedata_model.config import Labels, labels_of
from spikedata_model.errors import ConfigError
from spikedata_model.labels import limit_labels
from tests.spikedata_model.builders import make_recording, make_splits

SPLITS = make_splits(
    (0.0, 4.0, "train"), (4.0, 5.0, "valid"), (5.0, 5.5, "train"), (7.0, 12.0, "train"),
    (12.0, 20.0, "test"),
)  # fmt: skip
TRIALS = IntervalSet(np.arange(0.0, 20.0, 1.25), np.arange(0.0, 20.0, 1.25) + 1.0)


def recording() -> Recording:
    return replace(make_recording(splits=SPLITS), intervals={"trials": TRIALS})


def milliseconds(intervals: IntervalSet) -> np.ndarray:
    """Return the middle of every millisecond of 20 s that lies in some intervals."""
    middle = (np.arange(20_000) + 0.5) / 1000
    return middle[np.any([(a <= middle) & (middle < b) for a, b in intervals], axis=0)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9500), st.none() | st.integers(0, 10))
def test_seconds_are_one_stretch_of_the_training_split(amount, seed):
    whole = recording()
    few = limit_labels(whole, Labels(seconds=amount / 1000, seed=seed))

    assert few.split("train").duration == pytest.approx(amount / 1000)
    train, kept = milliseconds(whole.split("train")), milliseconds(few.split("train"))
    place = np.searchsorted(train, kept)
    assert np.array_equal(train[place], kept)
    assert np.all(np.diff(place) == 1)  # no training time is passed over
    if seed is None:
        assert place[0] == 0
    for other in ("valid", "test"):
        assert few.split(other) == whole.split(other)


def test_a_share_is_of_the_whole_training_time():
    half = limit_labels(recording(), Labels(share=0.5))

    assert list(half.split("train")) == [(0.0, 4.0), (5.0, 5.5), (7.0, 7.25)]
    assert limit_labels(recording(), Labels(share=1.0)) == recording()


def test_trials_count_where_they_lie_in_the_training_split_with_all_they_are():
    few = limit_labels(recording(), Labels(trials=4))

    # 3.75 s to 4.75 s, 5 s to 6 s and 6.25 s to 7.25 s reach out of it.
    assert list(few.split("train")) == [(0.0, 1.0), (1.25, 2.25), (2.5, 3.5), (7.5, 8.5)]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**63 - 1))
def test_drawn_trials_are_some_of_those_that_could_be_taken(count, seed):
    inside = set(limit_labels(recording(), Labels(trials=6)).split("train"))

    drawn = [limit_labels(recording(), Labels(trials=count, seed=seed)) for _ in range(2)]

    assert len(set(drawn[0].split("train")) & inside) == count
    assert drawn[0] == drawn[1]


def test_other_seeds_and_other_recordings_draw_other_labels():
    def drawn(name: str, seed: int) -> IntervalSet:
        one = replace(recording(), recording_id=name)
        return limit_labels(one, Labels(seconds=0.5, seed=seed)).split("train")

    assert len({tuple(drawn(name, seed)) for name in ("lab/a", "lab/b") for seed in range(5)}) == 10


def test_another_scheme_is_left_as_it_is():
    both = replace(recording(), splits={"first": SPLITS, "second": SPLITS})
    few = limit_labels(both, Labels(seconds=1.0), "second")

    assert list(few.splits) == ["first", "second"]
    assert few.split("train", "first") == both.split("train", "first")
    assert few.split("train", "second").duration == 1.0


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (Labels(trials=7), "has 6 rows of 'trials' in its training split, 7 labelled trials"),
        (Labels(seconds=9.6), "has 9.5 s in its training split, 9.6 labelled seconds"),
        (Labels(trials=1, table="reach"), "no interval table 'reach'.*there are: trials"),
    ],
)
def test_more_than_there_is_is_refused(labels, says):
    with pytest.raises(ConfigError, match=f"lab/a .*{says}"):
        limit_labels(recording(), labels)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"trials": 3, "share": 0.5}, "give one of trials, seconds and share, not 2"),
        ({"seed": 3}, "give one of trials, seconds and share, not 0"),
        ({"seconds": 0.0}, "seconds: .*greater than 0"),
        ({"share": 1.5}, "share: .*less than or equal to 1"),
    ],
)
def test_a_command_that_asks_for_labels_that_cannot_be_is_refused(asked, says):
    nothing = dict.fromkeys(("trials", "seconds", "share", "seed"))

    with pytest.raises(ConfigError, match=says):
        labels_of(**{**nothing, **asked})
    assert labels_of(**nothing) is None
