from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.errors import SamplingError
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata.sampler import Sampler
from spikedata.windows import Around, Lengths
from tests.conftest import build_recording
from tests.spikedata.test_gather import train_of


def make(session: str = "lab/a", trials: IntervalSet | None = None, **changes: object) -> Recording:
    time = np.arange(0, 40, 0.01)
    given_fields = {
        "series": {"hand": Series(np.ones((4000, 1), np.float32), "m", ("x",), time=time)},
        "intervals": {} if trials is None else {"trials": trials},
        "splits": train_of((0.0, 10.0), (12.0, 13.0), (20.0, 40.0)),
        "targets": ("hand",),
    }
    return Recording(
        session, time, np.zeros(len(time), np.int32), {"unit_id": np.array([f"{session}/0"])},
        IntervalSet.single(0.0, 40.0), **(given_fields | changes),
    )  # fmt: skip


# ------------------------------------------------------------------ lengths


def triangular(share: np.ndarray) -> np.ndarray:
    """Inverse distribution function of the density 2 (2 - x) on [1, 2]."""
    return 2 - np.sqrt(1 - share)


def test_lengths_follow_the_distribution_whose_inverse_is_given():
    lengths = Lengths(triangular).draw(np.random.default_rng(0), 200_000)
    density, _ = np.histogram(lengths, bins=10, range=(1, 2))
    edges = np.linspace(1, 2, 11)
    expected = 200_000 * np.diff(1 - (2 - edges) ** 2)

    assert np.sum((density - expected) ** 2 / expected) < 35  # chi-square, 9 degrees: p < 1e-4
    assert Lengths(triangular).mean == pytest.approx(4 / 3, abs=1e-4)


def test_windows_of_a_distribution_have_its_lengths():
    sampler = Sampler([make()], window=triangular)
    _, start, end = sampler.plan(0)

    assert np.all((end - start > 1 - 1e-9) & (end - start < 2))
    assert len(np.unique(end - start)) == len(start)


def test_a_function_that_falls_is_no_inverse_distribution():
    with pytest.raises(SamplingError, match="a function that never falls"):
        Sampler([make()], window=lambda share: 1 + np.sin(share * np.pi)).plan(0)


@pytest.mark.parametrize("length", [lambda share: 1.0, lambda share: None, lambda share: [1.0]])
def test_a_function_that_returns_other_than_lengths_is_refused(length):
    with pytest.raises(SamplingError, match="window must return a length for each of 2 numbers"):
        Sampler([make()], window=length)


def test_a_function_may_return_a_list_of_whole_numbers():
    _, start, end = Sampler([make()], window=lambda share: [1] * len(share)).plan(0)

    assert np.allclose(end - start, 1)


@pytest.mark.parametrize("length", [(lambda share: share), (lambda share: share - 1)])
def test_a_distribution_that_reaches_zero_is_refused(length):
    with pytest.raises(SamplingError, match="window needs lengths above 0 s"):
        Sampler([make()], window=length)


# ------------------------------------------------------------------ around events


def trials(go: list[float], **columns: object) -> IntervalSet:
    start = np.arange(len(go)) * 2.0
    given_columns = {name: np.asarray(values) for name, values in columns.items()}
    return IntervalSet(start, start + 2, {"go": np.array(go), **given_columns})


@given(st.lists(st.integers(0, 4000), max_size=30, unique=True), st.integers(0, 2))
def test_windows_around_events_are_those_that_fit_into_one_interval_of_the_split(ticks, predict):
    go = [tick / 100 for tick in ticks] + [np.nan, 5.0]
    recording = make(trials=trials(go))
    options = {"predict": predict / 4} if predict else {}
    sampler = Sampler([recording], window=Around("trials", "go", -0.25, 0.5), **options)
    _, start, end = sampler.plan(3)
    fits = [
        (at - 0.25, at + 0.5)
        for at in go
        for first, last in recording.split("train")
        if first <= at - 0.25 and at + 0.5 + predict / 4 <= last
    ]

    assert sorted(zip(start.tolist(), end.tolist(), strict=True)) == sorted(fits)
    assert sampler.dropped["event without a time"] == 1
    assert sampler.dropped["event whose window leaves the split"] == len(go) - 1 - len(fits)


@pytest.mark.parametrize("clock", [0.0, 1.7e9, -1e4])
@pytest.mark.parametrize(
    ("column", "before", "after", "predict"),
    [
        ("start", 0.0, 0.1 + 0.2, None),
        ("start", 0.0, 0.2, 0.1),
        ("end", -(0.1 + 0.2), 0.0, None),
        ("end", -0.3, -0.1, 0.1),
    ],
)
def test_rounding_loses_no_event_and_brings_nothing_from_outside(
    clock, column, before, after, predict
):
    """Trials are the split, and their last sample lies on the start of the next interval."""
    start = clock + np.arange(200) * 0.7
    trials = IntervalSet(start, start + 0.3)
    time = np.unique(np.concatenate([trials.start, trials.end, trials.start + 0.25]))
    made = replace(
        build_recording(),
        spike_time=time,
        spike_unit=np.zeros(len(time), np.int32),
        series={"v": Series(np.zeros((len(time), 1)), "", ("x",), time=time)},
        intervals={"trials": trials},
        domain=IntervalSet.single(clock, clock + 200),
        splits={"main": trials.with_columns({"split": np.full(200, "train")})},
        targets=("v",),
    )
    around = Around("trials", column, before, after)
    sampler = Sampler([made], window=around, predict=predict, order="sequential", batch_size=200)
    batch = sampler.batch(0, 0)

    assert len(batch) == 200
    assert np.all(batch.start >= trials.start)
    assert np.all(batch.end <= trials.end)
    np.testing.assert_allclose(batch.end - batch.start, after - before, rtol=0, atol=5e-7)
    # The window begins with its trial, and the sample at the trial's end is in none.
    counts = np.diff(batch.targets["v"].offsets)
    assert counts.tolist() == [1 if predict else 2] * 200


def test_events_are_chosen_by_the_columns_of_their_rows():
    table = trials(
        [1.0, 3.0, 5.0, 7.0], result=["R", "F", "R", "R"], valid=[True, True, False, True]
    )
    around = Around("trials", "go", -0.5, 0.5, where={"result": "R", "valid": True})
    sampler = Sampler([make(trials=table)], window=around, order="sequential")

    assert sampler.plan()[1].tolist() == [0.5, 6.5]
    for results, expected in ((["R", "F"], [0.5, 2.5, 4.5, 6.5]), ({"F"}, [2.5])):
        some = Around("trials", "go", -0.5, 0.5, where={"result": results})
        some = Sampler([make(trials=table)], window=some, order="sequential")
        assert some.plan()[1].tolist() == expected


def test_every_value_of_a_column_with_axes_is_an_event_and_the_bounds_are_columns():
    table = IntervalSet(np.array([2.0]), np.array([8.0]), {"cues": np.array([[3.0, 5.0, np.nan]])})
    cues = Sampler([make(trials=table)], window=Around("trials", "cues", 0, 1), order="sequential")
    ends = Sampler([make(trials=table)], window=Around("trials", "end", -1, 1))

    assert cues.plan()[1].tolist() == [3.0, 5.0]
    assert ends.plan()[1].tolist() == [7.0]


def test_a_recording_without_the_table_gives_no_event():
    sampler = Sampler(
        [make("lab/a", trials([1.0])), make("lab/b")], window=Around("trials", "go", 0, 1)
    )

    assert [sampler.recording_ids[one] for one in sampler.plan()[0]] == ["lab/a"]


@pytest.mark.parametrize(
    ("around", "message"),
    [
        (lambda: Around("trials", "go", 1, 1), "need finite lags, before < after"),
        (lambda: Around("trials", "go", -np.inf, 1), "need finite lags"),
        (
            lambda: Around("trails", "go", 0, 1),
            "No interval table is called 'trails'; did you mean",
        ),
        (lambda: Around("trials", "went", 0, 1), "lab/a: 'trials' has no column 'went'"),
        (lambda: Around("trials", "go", 0, 1, {"won": 1}), "lab/a: 'trials' has no column 'won'"),
        (lambda: Around("trials", "go", 0, 30), "no window of 30 s .event whose window leaves"),
        (lambda: Around("trials", "go", 0, 1, {"side": "up"}), "no event fits .*side.*up"),
        (lambda: Around("trials", "go", 0, 1, {"side": []}), "no event fits"),
        (lambda: Around("trials", "side", 0, 1), "'side' holds no times"),
    ],
)
def test_events_that_cannot_be_found_are_refused_with_a_sentence(around, message):
    table = trials([1.0], side=["left"])

    with pytest.raises(SamplingError, match=message):
        Sampler([make(trials=table)], window=around())


# ------------------------------------------------------------------ weights


def test_weights_may_differ_between_targets():
    series = {name: make().series["hand"] for name in ("hand", "eye")}
    recording = make(trials=trials([1.0]), series=series, targets=("hand", "eye"))
    (batch,) = Sampler([recording], weights={"eye": {"trials": 4.0}}, batch_size=99)

    assert set(batch.targets["hand"].weight.tolist()) == {1.0}
    assert set(batch.targets["eye"].weight.tolist()) == {1.0, 4.0}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"eye": {"trials": 1.0}}, "weights are given for 'eye', which is no target"),
        ({"hand": {"trials": 1.0}, "trials": 2.0}, "given for 'trials', which is no target"),
        ({"trials": -1.0}, "the weight of 'trials' must be 0 or more"),
        ({"trails": 1.0}, "No interval table is called 'trails'"),
    ],
)
def test_weights_that_fit_nothing_are_refused(weights, message):
    with pytest.raises(SamplingError, match=message):
        Sampler([make(trials=trials([1.0]))], weights=weights)


# ------------------------------------------------------------------ history only


@given(
    st.sampled_from(["random", "sequential"]), st.sampled_from(["drop", "keep"]),
    st.integers(1, 20), st.integers(1, 8), st.integers(0, 2),
)  # fmt: skip
def test_targets_of_history_follow_their_window_inside_the_same_interval(
    order, short, length, ahead, epoch
):
    recording = make()
    options = {"order": order, "short": short, "window": length / 8, "predict": ahead / 16}
    sampler = Sampler([recording], **options)
    rows = list(recording.split("train"))
    for batch in sampler.epoch(epoch):
        target = batch.targets["hand"]
        own = np.repeat(np.arange(len(batch)), np.diff(target.offsets))
        absolute = target.time.astype(float) + batch.start[own]

        assert np.all(absolute > batch.end[own] - 1e-6)
        assert np.all(absolute < batch.end[own] + ahead / 16 + 1e-6)
        for start, end in zip(batch.start, batch.end, strict=True):
            assert any(a <= start and end + ahead / 16 <= b + 1e-6 for a, b in rows)


def test_sequential_history_predicts_every_later_sample_of_an_interval_once():
    sampler = Sampler([make()], window=0.7, predict=0.05, order="sequential", batch_size=64)
    found = []
    for batch in sampler:
        target = batch.targets["hand"]
        own = np.repeat(batch.start, np.diff(target.offsets))
        found += np.round((target.time + own) * 100).astype(int).tolist()
    expected = [
        tick for tick in range(4000)
        for first, last in ((0, 1000), (1200, 1300), (2000, 4000))
        if first + 70 <= tick < last
    ]  # fmt: skip

    assert sorted(set(found)) == expected
    assert len(found) - len(expected) < 5 * 3  # the last window of an interval may overlap


def test_an_interval_without_time_to_predict_gives_no_window():
    recording = make(splits=train_of((0.0, 1.0), (2.0, 2.5), (4.0, 9.0)))
    kept = Sampler([recording], window=1.0, predict=0.5, short="keep")
    dropped = Sampler([recording], window=1.0, predict=0.5)

    assert dropped.dropped["short interval"] == 2
    assert {start // 4 for start in dropped.plan()[1]} == {1}
    assert all(end + 0.5 <= 1.0 for end in kept.plan()[2] if end < 2)
