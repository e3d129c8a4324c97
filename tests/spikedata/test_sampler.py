from __future__ import annotations

import itertools
import operator
import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from spikedata.augment import SpikeJitter
from spikedata.batch import Batch, Window
from spikedata.errors import SamplingError
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata.sampler import Sampler
from spikedata.store import Store
from tests.conftest import build_recording

NEAR = 1e-9  # s by which rounding may change the length of a window


@st.composite
def split_rows(draw: st.DrawFn) -> tuple[tuple[float, float, str], ...]:
    """Return disjoint train intervals of awkward lengths in 20 s, some touching, some short."""
    cuts = sorted(draw(st.sets(st.integers(0, 200), min_size=2, max_size=8)))
    rows = [(a / 10, b / 10, draw(st.sampled_from(["train", "train", "test"])))
            for a, b in itertools.pairwise(cuts)]  # fmt: skip
    kept = [row for row in rows if row[2] == "train"]
    return tuple(kept) or ((rows[0][0], rows[0][1], "train"),)


@st.composite
def samplers(draw: st.DrawFn) -> Sampler:
    """Return a sampler over one to three random recordings, in any mode that fits them."""
    recordings = [
        build_recording(
            seed,
            n_units=draw(st.integers(1, 4)),
            n_spikes=draw(st.sampled_from([0, 1, 200])),
            split_rows=draw(split_rows()),
            lacks=draw(st.sampled_from([(), ("position",), ("velocity",)])),
        )
        for seed in range(draw(st.integers(1, 3)))
    ]
    order = draw(st.sampled_from(["random", "sequential"]))
    length = draw(st.integers(1, 30)) / 10
    window = (length, length * 2) if order == "random" and draw(st.booleans()) else length
    options = {
        "window": window,
        "order": order,
        "short": draw(st.sampled_from(["drop", "keep"])),
        "stride": draw(st.sampled_from([None, length, length / 2, length / 3])),
        "batch_size": draw(st.integers(1, 7)),
        "seed": draw(st.integers(0, 3)),
    }
    longest = max(float(np.max(one.splits["main"].end - one.splits["main"].start))
                  for one in recordings)  # fmt: skip
    if options["short"] == "drop" and longest < length:
        options["short"] = "keep"
    return Sampler(recordings, **options)


def windows_of(sampler: Sampler, epoch: int = 0) -> Iterator[Window]:
    return (window for batch in sampler.epoch(epoch) for window in batch)


def rebuilt(sampler: Sampler, **changes: object) -> Sampler:
    """Return a sampler like this one with other arguments."""
    same = {
        "window": sampler.lengths.given,
        **{name: getattr(sampler, name) for name in (
            "batch_size", "targets", "recording_ids", "scheme", "order", "stride", "short",
            "seed", "rank", "world_size",
        )},
    }  # fmt: skip
    return Sampler(sampler.recordings, sampler.split, **(same | changes))


def assert_same_batch(expected: Batch, actual: Batch) -> None:
    assert expected.recording_ids == actual.recording_ids
    assert list(expected.targets) == list(actual.targets)
    assert list(expected.intervals) == list(actual.intervals)
    for one, other in [(expected, actual)] + [
        (getattr(expected, kind)[name], getattr(actual, kind)[name])
        for kind in ("targets", "intervals")
        for name in getattr(expected, kind)
    ]:
        for name in one.__slots__:
            if name not in ("recording_ids", "targets", "intervals", "columns"):
                mine, theirs = getattr(one, name), getattr(other, name)
                assert mine.dtype == theirs.dtype
                np.testing.assert_array_equal(mine, theirs)


# ------------------------------------------------------------------ which windows


@given(samplers(), st.integers(0, 2))
def test_every_window_lies_inside_an_interval_and_has_the_length_asked_for(sampler, epoch):
    for recording, start, end in zip(*sampler.plan(epoch), strict=True):
        intervals = sampler.recordings[sampler.recording_ids[recording]].split("train")
        inside = (intervals.start <= start) & (end <= intervals.end)

        assert inside.sum() == 1
        (row,) = np.flatnonzero(inside)
        span = intervals.end[row] - intervals.start[row]
        length = end - start
        if span < sampler.lengths.bounds[0] - NEAR:
            assert sampler.short == "keep"
            assert length == pytest.approx(span, abs=NEAR)
        else:
            assert sampler.lengths.bounds[0] - NEAR <= length <= sampler.lengths.bounds[1] + NEAR


@given(samplers())
def test_short_intervals_are_counted_and_dropped_or_kept_whole(sampler):
    def short(start: float, end: float) -> bool:
        return end - start < sampler.lengths.bounds[0] - 2 * NEAR

    expected = sorted(
        (sampler.recording_ids.index(name), start, end)
        for name, one in sampler.recordings.items()
        for start, end in one.split("train")
        if short(start, end)
    )
    planned = sorted(row for row in zip(*sampler.plan(), strict=True) if short(*row[1:]))

    if sampler.short == "drop":
        assert sampler.dropped["short interval"] == len(expected)
        assert planned == []
    else:
        assert sampler.dropped["short interval"] == 0
        np.testing.assert_allclose(planned, expected, rtol=0, atol=NEAR)


@given(st.integers(0, 300), st.integers(1, 30))
def test_an_interval_of_exactly_the_window_length_is_not_short(first, ticks):
    """0.3 s from 5.7 s to 6.0 s is 0.2999999999999998 s in float64."""
    rows = ((first / 10, (first + ticks) / 10, "train"),)
    for order in ("random", "sequential"):
        sampler = Sampler([build_recording(split_rows=rows)], window=ticks / 10, order=order)

        assert sampler.dropped["short interval"] == 0
        assert len(sampler.plan()[0]) == 1


@given(st.integers(0, 300), st.integers(1, 30))
@example(1, 3)
def test_a_short_interval_that_is_kept_is_one_window_and_never_longer(first, ticks):
    """0.4 - (0.4 - 0.1) is 0.09999999999999998: one rounding before the interval begins."""
    rows = ((first / 10, (first + ticks) / 10, "train"),)
    for order in ("random", "sequential"):
        sampler = Sampler([build_recording(split_rows=rows)], window=5.0, short="keep", order=order)
        _, (start,), (end,) = sampler.plan()

        assert rows[0][0] <= start < end <= rows[0][1]
        assert end - start == pytest.approx(ticks / 10, abs=NEAR)


@given(samplers())
def test_a_random_epoch_draws_as_many_windows_as_tile_the_split(sampler):
    if sampler.order == "sequential":
        return
    mean = (sampler.lengths.bounds[0] + sampler.lengths.bounds[1]) / 2
    expected = 0
    for one in sampler.recordings.values():
        for start, end in one.split("train"):
            if end - start >= sampler.lengths.bounds[0] - NEAR or sampler.short == "keep":
                expected += max(1, int((end - start) / mean + NEAR))

    assert len(sampler.plan()[0]) == expected
    assert sampler.steps() == -(-expected // sampler.batch_size)


@given(
    st.integers(0, 100),
    st.integers(1, 199),
    st.integers(1, 20),
    st.sampled_from([1, 2, 3]),
)
def test_sequential_windows_cover_every_sample_of_the_split(first, ticks, length, overlap):
    """Samples and bounds lie on the same decimal grid, computed in different ways."""
    end = first + max(ticks, length)
    rows = ((first / 10, end / 10, "train"),)
    series = Series(np.zeros((3000, 1), np.float32), "m", ("x",), start=0.0, rate=100.0)
    recording = replace(
        build_recording(split_rows=rows), series={"x": series}, targets=("x",),
        spike_time=np.arange(3000) * 0.01, spike_unit=np.zeros(3000, np.int32),
    )  # fmt: skip
    sampler = Sampler(
        [recording], window=length / 10, stride=length / 10 / overlap, order="sequential"
    )
    for time in (series.times(), recording.spike_time):
        counts = np.zeros(3000, int)
        for _, start, end in zip(*sampler.plan(), strict=True):
            counts += (time >= start) & (time < end)
        inside = (time >= rows[0][0]) & (time < rows[0][1])

        assert np.array_equal(counts > 0, inside)


def test_sequential_windows_tile_an_interval_without_sharing_a_sample():
    sampler = Sampler(
        [build_recording(split_rows=((0.0, 20.0, "train"),))], window=0.1, order="sequential"
    )
    _, start, end = sampler.plan()

    assert len(start) == 200
    np.testing.assert_array_equal(start[1:], end[:-1])
    assert (start[0], end[-1]) == (0.0, 20.0)


def test_sequential_windows_end_with_their_interval():
    rows = ((1.0, 3.5, "train"), (5.0, 6.0, "train"))
    sampler = Sampler(
        [build_recording(split_rows=rows)], window=1.0, stride=0.75, order="sequential"
    )
    _, start, end = sampler.plan()

    assert start.tolist() == [1.0, 1.75, 2.5, 5.0]
    assert end.tolist() == [2.0, 2.75, 3.5, 6.0]


def test_random_starts_are_uniform_over_the_interval():
    """Chi-square of 50 bins over 100 epochs; a fixed seed, so it never fails by chance."""
    rows = ((0.0, 20.0, "train"),)
    sampler = Sampler([build_recording(split_rows=rows, n_spikes=0)], window=0.5, seed=3)
    start = np.concatenate([sampler.plan(epoch)[1] for epoch in range(100)])
    counts, _ = np.histogram(start, 50, (0.0, 19.5))
    expected = len(start) / 50

    assert len(start) == 4000
    assert np.sum((counts - expected) ** 2 / expected) < 85  # 0.1 % of 49 degrees of freedom


def test_random_starts_are_stratified_so_that_every_epoch_covers_the_interval():
    rows = ((0.0, 20.0, "train"),)
    sampler = Sampler([build_recording(split_rows=rows)], window=0.5)
    for epoch in range(5):
        start = np.sort(sampler.plan(epoch)[1])

        np.testing.assert_array_equal(np.floor(start / 19.5 * 40).astype(int), np.arange(40))


def test_drawn_lengths_are_uniform_between_their_bounds():
    rows = ((0.0, 20.0, "train"),)
    sampler = Sampler([build_recording(split_rows=rows, n_spikes=0)], window=(0.5, 1.5), seed=1)
    lengths = np.concatenate([np.subtract(*sampler.plan(epoch)[2:0:-1]) for epoch in range(200)])
    counts, _ = np.histogram(lengths, 20, (0.5, 1.5))
    expected = len(lengths) / 20

    assert counts.sum() == len(lengths) == 4000
    assert np.sum((counts - expected) ** 2 / expected) < 44  # 0.1 % of 19 degrees of freedom


def test_epochs_and_seeds_give_other_windows_and_sequential_ones_stay():
    recording = build_recording()
    one, other = (Sampler([recording], seed=seed) for seed in (0, 1))
    plans = [*(one.plan(epoch)[1].tolist() for epoch in range(3)), other.plan(0)[1].tolist()]
    fixed = Sampler([recording], order="sequential")

    assert len({str(sorted(plan)) for plan in plans}) == 4
    assert sorted(plans[0]) != plans[0]
    assert fixed.plan(0)[1].tolist() == fixed.plan(5)[1].tolist()


# ------------------------------------------------------------------ their data


@given(samplers(), st.integers(0, 2))
def test_spikes_and_targets_are_those_that_a_mask_selects(sampler, epoch):
    batches = list(sampler.epoch(epoch))
    planned = zip(*sampler.plan(epoch), strict=True)
    for batch in batches:
        for row, (recording, start, end) in zip(range(len(batch)), planned, strict=False):
            one = sampler.recordings[sampler.recording_ids[recording]]
            mask = (one.spike_time >= start) & (one.spike_time < end)
            spikes = slice(*batch.spike_offsets[row : row + 2])

            np.testing.assert_array_equal(
                (one.spike_time[mask] - start).astype(np.float32), batch.spike_time[spikes]
            )
            assert (
                one.unit_ids[one.spike_unit[mask]].tolist()
                == sampler.unit_ids[batch.spike_unit[spikes]].tolist()
            )
            for name in sampler.targets:
                found = batch.targets[name]
                rows = slice(*found.offsets[row : row + 2])
                if name not in one.series:
                    assert rows.start == rows.stop
                    continue
                time = one.series[name].times()
                mask = (time >= start) & (time < end)
                np.testing.assert_array_equal(
                    (time[mask] - start).astype(np.float32), found.time[rows]
                )
                np.testing.assert_array_equal(
                    one.series[name].values[mask].astype(np.float32), found.values[rows]
                )
    assert sum(map(len, batches)) == len(sampler.plan(epoch)[0])


@given(samplers())
def test_a_window_is_a_view_of_its_rows_of_the_batch(sampler):
    batch = sampler.batch(0, 0)
    for row, window in enumerate(batch):
        spikes = slice(*batch.spike_offsets[row : row + 2])
        unit_ids = sampler.recordings[window.recording_id].unit_ids

        assert window.recording_id == sampler.recording_ids[batch.recording[row]]
        assert (window.start, window.end) == (batch.start[row], batch.end[row])
        np.testing.assert_array_equal(batch.spike_time[spikes], window.spike_time)
        assert (
            sampler.unit_ids[batch.spike_unit[spikes]].tolist()
            == unit_ids[window.spike_unit].tolist()
        )
        for name, (time, values) in window.targets.items():
            rows = slice(*batch.targets[name].offsets[row : row + 2])
            np.testing.assert_array_equal(batch.targets[name].time[rows], time)
            np.testing.assert_array_equal(batch.targets[name].values[rows], values)
    assert batch[-1].start == batch[len(batch) - 1].start
    with pytest.raises(IndexError, match=f"Window {len(batch)} of a batch of {len(batch)}"):
        batch[len(batch)]


def test_the_arrays_of_a_batch_have_the_documented_types():
    batch = Sampler([build_recording()], batch_size=4).batch(0, 0)
    target = batch.targets["position"]
    types = {name: getattr(batch, name).dtype for name in batch.__slots__[1:-2]}

    assert types == {
        "length": np.float64, "unit": np.int32, "unit_offsets": np.int64, "first_unit": np.int64,
        "recording": np.int64, "start": np.float64, "end": np.float64,
        "spike_time": np.float32, "spike_unit": np.int32, "spike_offsets": np.int64,
    }  # fmt: skip
    assert (target.time.dtype, target.values.dtype, target.offsets.dtype) == (
        np.float32, np.float32, np.int64,
    )  # fmt: skip


def test_times_stay_exact_late_in_a_long_recording():
    """float32 resolves 8 ms at a day: the start is subtracted before the cast."""
    day = 86_400.0
    recording = Recording(
        "made/late",
        day + np.array([0.0, 0.001, 0.9999]),
        np.zeros(3, np.int32),
        {"unit_id": np.array(["made/late/u0"])},
        IntervalSet.single(day, day + 1),
        splits={"main": IntervalSet(np.array([day]), np.array([day + 1]),
                                    {"split": np.array(["train"])})},
    )  # fmt: skip
    batch = Sampler([recording], order="sequential").batch(0, 0)

    np.testing.assert_allclose(batch.spike_time, [0.0, 0.001, 0.9999], atol=1e-7)


def test_changing_a_batch_changes_neither_the_recording_nor_a_later_batch():
    recording = build_recording()
    sampler, untouched = (Sampler([recording], batch_size=4) for _ in range(2))
    batch = sampler.batch(0, 0)
    for name in batch.__slots__[1:-2]:
        getattr(batch, name)[...] = 1
    for target in batch.targets.values():
        for name in target.__slots__:
            getattr(target, name)[...] = 1

    for step in range(2):
        assert_same_batch(untouched.batch(0, step), sampler.batch(0, step))
    with pytest.raises(ValueError, match="read-only"):
        sampler.plan(0)[1][0] = 5.0


def test_gather_of_no_windows_is_an_empty_batch():
    sampler = Sampler([build_recording()])
    none = np.empty(0)

    batch = sampler.gather(none.astype(np.int64), none, none)

    assert (len(batch), list(batch), len(batch.spike_time)) == (0, [], 0)
    assert batch.targets["velocity"].values.shape == (0, 2)


# ------------------------------------------------------------------ order, ranks, processes


@given(samplers(), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99)), max_size=4))
@settings(max_examples=25)
def test_a_batch_is_the_same_whatever_was_drawn_before(sampler, calls):
    fresh = rebuilt(sampler)
    for epoch, step in calls:
        sampler.batch(epoch, step % sampler.steps(epoch))
    epoch, step = 2, sampler.steps(2) - 1

    assert_same_batch(fresh.batch(epoch, step), sampler.batch(epoch, step))
    assert_same_batch(fresh.batch(epoch, step), list(sampler.epoch(epoch))[step])


@given(samplers(), st.integers(1, 4))
def test_all_ranks_together_make_the_epoch_of_one(sampler, world_size):
    alone = list(sampler.epoch(1))
    assume(sampler.order == "sequential" or len(alone) >= world_size)
    ranks = [rebuilt(sampler, rank=rank, world_size=world_size) for rank in range(world_size)]
    steps = [rank.steps(1) for rank in ranks]
    shared = {
        step * world_size + rank: ranks[rank].batch(1, step)
        for rank in range(world_size)
        for step in range(steps[rank])
    }

    kept = len(alone) // world_size * world_size if sampler.order == "random" else len(alone)
    assert sorted(shared) == list(range(kept))
    for at, batch in shared.items():
        assert_same_batch(alone[at], batch)
    if sampler.order == "random":
        assert len(set(steps)) == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_batch_is_the_same_in_another_process(store, method):
    sampler = Sampler(store, window=(0.5, 1.0), batch_size=4, seed=5)
    expected = sampler.batch(3, 1)
    with ProcessPoolExecutor(1, get_context(method)) as pool:
        actual = pool.submit(operator.methodcaller("batch", 3, 1), sampler).result(timeout=60)

    assert_same_batch(expected, actual)


def test_a_sampler_of_a_store_pickles_small_and_draws_the_same(store):
    sampler = Sampler(store, window=0.01, batch_size=8)
    expected = sampler.batch(0, 1)
    data = pickle.dumps(sampler)

    assert len(data) < 10_000
    copy = pickle.loads(data)
    assert_same_batch(expected, copy.batch(0, 1))
    assert copy.unit_ids.tolist() == sampler.unit_ids.tolist()


def test_counting_steps_draws_no_windows(monkeypatch):
    sampler = Sampler([build_recording()])
    monkeypatch.setattr(sampler, "plan", None)

    assert len(sampler) == sampler.steps(7) == 1


# ------------------------------------------------------------------ recordings and targets


def test_units_of_all_recordings_get_one_index_each():
    first, second = build_recording(0, n_units=3), build_recording(1, n_units=2)
    sampler = Sampler([first, second])

    assert sampler.unit_offsets.tolist() == [0, 3, 5]
    assert sampler.unit_ids.tolist() == [*first.unit_ids, *second.unit_ids]


def test_a_window_of_a_recording_that_lacks_a_target_has_no_samples_of_it(store):
    sampler = Sampler(store, order="sequential")
    for window in windows_of(sampler):
        time, values = window.targets["position"]

        assert values.shape == (len(time), 1)
        assert (len(time) == 0) == (window.recording_id == "made/s2")


def test_targets_and_recordings_can_be_chosen(store):
    sampler = Sampler(store, targets=["position"], recording_ids=["made/s1"])

    assert sampler.targets == ("position",)
    assert {window.recording_id for window in windows_of(sampler)} == {"made/s1"}
    assert Sampler(store, targets=[]).batch(0, 0).targets == {}


def test_split_intervals_are_those_that_windows_are_drawn_from(store):
    sampler = Sampler(store, "test")

    assert list(sampler.split_intervals("made/s1")) == [(15.5, 20.0)]
    with pytest.raises(SamplingError, match="no recording 'made/s9'"):
        sampler.split_intervals("made/s9")


def widened(recording: Recording) -> Recording:
    """Return the recording with a third channel of velocity."""
    wide = Series(np.zeros((10, 3), np.float32), "m/s", ("x", "y", "z"), rate=100.0)
    return replace(recording, recording_id="made/wide", series={"velocity": wide})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0.0}, "window needs lengths above 0 s"),
        ({"window": (2.0, 1.0)}, "window needs lengths above 0 s, found 2.0 to 1.0"),
        ({"window": np.nan}, "window needs lengths above 0 s"),
        ({"window": np.inf}, "window needs lengths above 0 s"),
        ({"stride": 0.0}, "stride must be above 0 s"),
        ({"batch_size": 0}, "batch_size must be 1 or more, found 0"),
        ({"order": "shuffled"}, "order must be 'random' or 'sequential', found 'shuffled'"),
        ({"order": "sequential", "window": (1.0, 2.0)}, "sequential windows need one length"),
        ({"short": "pad"}, "short must be 'drop' or 'keep', found 'pad'"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"rank": 2, "world_size": 2}, "rank 2 does not exist in a world of 2"),
        ({"recording_ids": ["made/s9"]}, "no recording 'made/s9'; did you mean 'made/s0'"),
        ({"recording_ids": []}, "no recordings were given"),
        ({"recording_ids": ["made/s0", "made/s0"]}, "recording 'made/s0' is given twice"),
        ({"targets": ["velocit"]}, "No series is called 'velocit'; did you mean 'velocity'"),
        ({"split": "tests"}, "no split is called 'tests'"),
        ({"scheme": "other"}, "no split scheme is called 'other'"),
        ({"targets": "velocity"}, r"targets needs a list of names.*write \['velocity'\]"),
        ({"recording_ids": "made/s0"}, "recording_ids needs a list of names"),
        ({"intervals": "trials"}, "intervals needs a list of names"),
        ({"intervals": {"trials": "go"}}, r"intervals\['trials'\] needs .* write \['go'\]"),
        ({"targets": {"made/s0": "velocity"}}, r"targets\['made/s0'\] needs a list of names"),
        ({"targets": ["velocit"]}, r"did you mean 'velocity'\?$"),
        ({"recording_ids": ["made/s9"]}, r"did you mean 'made/s0'\?$"),
        ({"batch_size": 8.5}, "batch_size must be a whole number, found 8.5"),
        ({"seed": None}, "seed must be a whole number, found None"),
        (
            {"augment": SpikeJitter(0.01)},
            r"augment needs a list of augmentations, found SpikeJitter",
        ),
        ({"augment": [3]}, "augment needs a list of augmentations"),
        ({"window": "1s"}, "window needs a length or two bounds in seconds, found '1s'"),
        ({"window": None}, "window needs a length or two bounds"),
        ({"window": 9.0}, "no window of 9 s .short interval: 2.: take a shorter window"),
    ],
)
def test_what_cannot_be_sampled_is_refused_with_a_sentence(options, message):
    recordings = {"made/s0": build_recording()}

    with pytest.raises(SamplingError, match=message):
        Sampler(recordings, **options)


def test_all_problems_of_the_arguments_are_listed_together():
    with pytest.raises(SamplingError, match=r"stride.*batch_size.*seed"):
        Sampler([build_recording()], stride=-1.0, batch_size=0, seed=-1)


def test_recordings_that_do_not_fit_together_are_refused(store):
    one = build_recording()

    with pytest.raises(SamplingError, match="'made/s0' is given twice"):
        Sampler([one, one])
    with pytest.raises(SamplingError, match="'velocity' has 3 channels in made/wide, 2 in made/s0"):
        Sampler([one, widened(one)])
    with pytest.raises(SamplingError, match="no recording 'nonsense'"):
        Sampler(store, recording_ids=["nonsense"])


@pytest.mark.parametrize("given", ["folder", build_recording(), ["made/s0"], None])
def test_what_is_no_recordings_is_refused_with_what_to_give(given):
    with pytest.raises(
        SamplingError, match=r"give a Store\(path\), a dict .* or a list of Recording"
    ):
        Sampler(given)


def test_windows_that_cannot_be_are_not_gathered():
    sampler = Sampler([build_recording()])

    for recording, start, end in ([1], [0.0], [1.0]), ([-1], [0.0], [1.0]), ([0], [2.0], [1.0]):
        with pytest.raises(SamplingError, match="start <= end and a recording from 0 to 0"):
            sampler.gather(recording, start, end)
    for recording, start, end in ([0, 0], [0.0], [1.0]), (0, 0.0, 1.0):
        with pytest.raises(SamplingError, match="three arrays of one length"):
            sampler.gather(recording, start, end)


def test_a_step_that_an_epoch_does_not_have_is_refused():
    sampler = Sampler([build_recording()], batch_size=4)

    assert list(sampler.epoch(0, sampler.steps())) == []
    for step in (-1, sampler.steps() + 1):
        with pytest.raises(SamplingError, match=f"it cannot begin at {step}"):
            sampler.epoch(0, step)

    for step in (-1, sampler.steps()):
        with pytest.raises(SamplingError, match=f"Epoch 0 has {len(sampler)} steps, none is"):
            sampler.batch(0, step)


def test_iterating_a_sampler_is_its_first_epoch():
    sampler = Sampler([build_recording()], batch_size=4)
    batches: Mapping[int, Batch] = dict(enumerate(sampler))

    assert len(batches) == len(sampler)
    assert_same_batch(sampler.batch(0, 1), batches[1])


@pytest.mark.parametrize("window", [[0.5, 1.0], (0.5, 1.0), np.array([0.5, 1.0])])
def test_bounds_of_the_length_may_be_any_pair(window):
    sampler = Sampler([build_recording()], window=window)

    assert (sampler.lengths.bounds[0], sampler.lengths.bounds[1]) == (0.5, 1.0)
    with pytest.raises(SamplingError, match="two bounds"):
        Sampler([build_recording()], window=[*window, 2.0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 2.5}, "batch_size must be a whole number, found 2.5"),
        ({"max_tokens": "100"}, "max_tokens must be a whole number, found '100'"),
        ({"unit_tokens": None}, "unit_tokens must be a whole number, found None"),
        ({"seed": np.float64(1)}, "seed must be a whole number"),
        ({"stride": "1"}, "stride must be a number, found '1'"),
        ({"predict": [0.1]}, r"predict must be a number, found \[0.1\]"),
        ({"weights": {"trials": None}}, "weights needs a dict of numbers by name"),
        ({"weights": 5.0}, "weights needs a dict of numbers by name, found 5.0"),
        ({"dataset_weights": {"made": "2"}}, "dataset_weights needs a dict of numbers by name"),
        ({"dataset_weights": "made"}, "dataset_weights needs a dict of numbers by name"),
        ({"targets": 1}, "targets needs a list of names, found 1"),
        ({"targets": [1]}, r"targets needs a list of names, found \[1\]"),
        ({"recording_ids": 0}, "recording_ids needs a list of names, found 0"),
        ({"targets": {"made/s9": ["velocity"]}}, "no recording 'made/s9'; did you mean 'made/s0'?"),
        ({"split": 3}, "no split is called '3'"),
    ],
)
def test_an_argument_of_another_kind_is_refused_with_a_sentence(options, words):
    with pytest.raises(SamplingError, match=words):
        Sampler([build_recording()], **options)


@pytest.mark.parametrize("whole", [np.uint8, np.int16, np.int64])
def test_numbers_may_be_of_numpy(whole):
    """One byte has no room for the 300 windows of this epoch."""
    made = [build_recording()]
    options = {"batch_size": 3, "max_tokens": 200, "unit_tokens": 2, "seed": 5}
    shared = {"rank": 1, "world_size": 2}
    expected = Sampler(made, window=0.1, **options, **shared)
    given = {name: whole(value) for name, value in (options | shared).items()}
    actual = Sampler(made, window=np.float64(0.1), **given)
    alone = Sampler(made, window=0.1, batch_size=whole(3), world_size=whole(2))

    assert expected.steps(1) == actual.steps(1)
    assert_same_batch(expected.batch(1, 3), actual.batch(1, 3))
    assert alone.steps() == Sampler(made, window=0.1, batch_size=3, world_size=2).steps()
    assert sum(map(len, alone)) > 60


def test_recordings_go_by_the_names_that_they_were_given_by():
    made = {"a/one": build_recording(0), "b/two": build_recording(1)}
    sampler = Sampler(
        made, recording_ids=["b/two"], targets={"b/two": ["velocity"]}, dataset_weights={"b": 2.0}
    )
    (window, *_) = sampler.batch(0, 0)

    assert window.recording_id == "b/two"
    assert list(window.targets) == ["velocity"]


def test_a_dict_of_what_is_no_recording_is_refused():
    with pytest.raises(SamplingError, match="a dict with NoneType at 'made/s0'"):
        Sampler({"made/s0": None})


def test_a_sampler_shows_what_it_draws(store):
    assert (
        repr(Sampler(store, window=1.0)) == "Sampler('train' of 3 recordings, 39 windows an epoch)"
    )


def test_more_recordings_than_a_store_holds_open_are_read_as_they_are(store):
    expected = list(Sampler(store, batch_size=8))
    small = Store(store.path, max_open=2)
    sampler = Sampler(small, batch_size=8)
    for one, other in zip(expected, sampler, strict=True):
        assert_same_batch(one, other)
    assert len(sampler._reader._held) <= 2


def test_a_recording_that_was_ingested_again_is_refused(store):
    sampler = Sampler(store, batch_size=8)
    other = replace(build_recording(1), spike_time=build_recording(1).spike_time + 0.001)
    Store(store.path).write(other, {})
    copy = pickle.loads(pickle.dumps(sampler))  # as in a worker that starts later

    with pytest.raises(SamplingError, match="made/s1 was ingested again after this sampler"):
        list(copy)
