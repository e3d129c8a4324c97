from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.augment_units import keep_units
from spikedata.batch import Batch
from spikedata.intervals import IntervalSet
from spikedata.ragged import row_of
from spikedata.sampler import Sampler
from spikedata_model.errors import ConfigError, VocabularyError
from spikedata_model.tokenizer import END, SPIKE, START, Tokenizer, Tokens
from spikedata_model.vocabulary import Vocabulary
from tests.spikedata_model.builders import make_recording, make_splits, without_spikes

RECORDINGS = {
    one.recording_id: one
    for one in (
        make_recording("lab/a", n_units=4, targets=("heading", "hand")),
        make_recording("lab/b", seed=1, n_units=2, sample_rate=33.0),
        without_spikes(make_recording("lab/c", seed=2, n_units=3), IntervalSet.empty()),
    )
}
UNIT_IDS = [str(name) for one in RECORDINGS.values() for name in one.unit_ids]
# Rows of the embedding tables are in another order than the units of the sampler.
VOCABULARY = Vocabulary(tuple(reversed(UNIT_IDS)), ("other/x", *reversed(RECORDINGS)))


def sampler_of(**options: object) -> Sampler:
    given_options = {"window": (0.2, 1.0), "batch_size": 5, "targets": ("hand", "heading")}
    return Sampler(RECORDINGS, "train", **(given_options | options))


def tokenizer_of(sampler: Sampler, **options: object) -> Tokenizer:
    return Tokenizer(
        VOCABULARY, sampler.unit_ids, sampler.recording_ids, **{"context": 1.0, **options}
    )


def without_units(batch: Batch, silenced: np.ndarray) -> Batch:
    return keep_units(batch, ~silenced[row_of(batch.unit_offsets), batch.unit])


def tokens_by_loop(
    sampler: Sampler, batch: Batch, row: int, silenced: np.ndarray | None
) -> list[tuple[int, str, float]]:
    """Return (type, unit id, time) of every token of one window, straight from the recording."""
    recording = RECORDINGS[batch.recording_ids[batch.recording[row]]]
    start, end = batch.start[row], batch.end[row]
    tokens = []
    for name in recording.unit_ids:
        tokens += [(START, str(name), 0.0), (END, str(name), float(np.float32(end - start)))]
    for time, unit in zip(recording.spike_time, recording.spike_unit, strict=True):
        if start <= time < end:
            name = str(recording.unit_ids[unit])
            tokens.append((SPIKE, name, float(np.float32(time - start))))
    if silenced is not None:
        hushed = {str(name) for name in sampler.unit_ids[silenced[row]]}
        tokens = [token for token in tokens if token[1] not in hushed]
    return sorted(tokens)


def tokens_of(tokens: Tokens, row: int) -> list[tuple[int, str, float]]:
    own = slice(*tokens.token_offsets[row : row + 2])
    columns = (part[own].tolist() for part in (tokens.type_T, tokens.unit_T, tokens.time_T))
    return sorted((k, VOCABULARY.unit_ids[u], t) for k, u, t in zip(*columns, strict=True))


@given(
    st.integers(0, 3), st.integers(0, 2), st.integers(1, 6), st.sampled_from([None, 0.0, 0.4, 1])
)
def test_tokens_are_those_that_a_loop_over_the_recording_finds(seed, step, batch_size, share):
    sampler = sampler_of(seed=seed, batch_size=batch_size)
    batch = sampler.batch(0, step)
    silenced = None
    if share is not None:
        rng = np.random.default_rng([seed, step])
        silenced = rng.random((len(batch), len(sampler.unit_ids))) < share

        batch = without_units(batch, silenced)

    tokens = tokenizer_of(sampler)(batch)

    for row in range(len(batch)):
        assert tokens_by_loop(sampler, batch, row, silenced) == tokens_of(tokens, row)
    assert len(tokens.token_offsets) == len(batch) + 1
    assert tokens.token_offsets[-1] == len(tokens.unit_T)
    assert VOCABULARY.recording_ids[0] == "other/x"
    rows = tokens.recording_B.tolist()
    assert [VOCABULARY.recording_ids[row] for row in rows] == [
        batch.recording_ids[index] for index in batch.recording
    ]


@given(st.integers(0, 3), st.integers(1, 6))
def test_queries_are_the_samples_of_each_target_in_the_order_of_the_batch(seed, batch_size):
    sampler = sampler_of(seed=seed, batch_size=batch_size)
    batch = sampler.batch(0, 0)
    tokens = tokenizer_of(sampler)(batch)

    for index, one in enumerate(batch.targets.values()):
        chosen = tokens.query_target_K == index
        assert np.array_equal(one.time, tokens.query_time_K[chosen].numpy())
        windows = (tokens.windows(row, row + 1) for row in range(len(batch)))
        counts = [int((window.query_target_K == index).sum()) for window in windows]
        assert np.diff(one.offsets).tolist() == counts
    assert tokens.query_offsets[-1] == sum(len(one.time) for one in batch.targets.values())


def test_every_unit_has_both_delimiters_the_silent_ones_too():
    sampler = sampler_of(window=0.5, recording_ids=["lab/c"])
    tokens = tokenizer_of(sampler)(sampler.batch(0, 0))

    for row in range(len(tokens.recording_B)):
        assert tokens_of(tokens, row) == sorted(
            [(START, f"lab/c/u{n}", 0.0) for n in range(3)]
            + [(END, f"lab/c/u{n}", 0.5) for n in range(3)]
        )


def test_a_window_whose_units_are_all_silenced_has_no_token():
    sampler = sampler_of(window=0.5)
    batch = sampler.batch(0, 0)
    silenced = np.zeros((len(batch), len(sampler.unit_ids)), bool)
    silenced[1] = True

    tokens = tokenizer_of(sampler)(without_units(batch, silenced))
    assert (np.diff(tokens.token_offsets) > 0).tolist() == [True, False, True, True, True]


def test_windows_without_samples_have_no_query():
    sampler = sampler_of(window=0.01, recording_ids=["lab/a"], targets=("hand",))
    batch = sampler.gather(np.array([0, 0]), np.array([1.01, 1.0]), np.array([1.02, 1.01]))
    tokens = tokenizer_of(sampler)(batch)

    assert tokens.query_offsets == (0, 0, 1)


def test_a_window_longer_than_the_context_is_refused():
    sampler = sampler_of(window=0.5)

    with pytest.raises(ConfigError, match=r"window of 0\.5 s is longer .* context of 0\.4 s"):
        tokenizer_of(sampler, context=0.4)(sampler.batch(0, 0))


@pytest.mark.parametrize("start", [1e5, 1.7e9])
def test_windows_far_from_zero_are_not_longer_than_they_were_asked_to_be(start):
    """Some clocks count from 1970, where float64 resolves a quarter of a microsecond."""
    recording = make_recording(start=start, splits=make_splits((start, start + 20, "train")))
    sampler = Sampler([recording], window=0.4, batch_size=32)
    batch = sampler.batch(0, 0)

    known = Vocabulary(tuple(recording.unit_ids), ("lab/a",))
    tokens = Tokenizer(known, sampler.unit_ids, sampler.recording_ids, context=0.4)(batch)
    assert float(tokens.time_T.max()) == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize(
    ("vocabulary", "kind"),
    [
        (Vocabulary(("lab/a/u0",), tuple(RECORDINGS)), "unit"),
        (Vocabulary(tuple(UNIT_IDS), ("lab/a",)), "recording"),
    ],
)
def test_what_the_model_does_not_know_is_refused(vocabulary, kind):
    sampler = sampler_of()

    with pytest.raises(VocabularyError, match=f"knows no {kind}"):
        Tokenizer(vocabulary, sampler.unit_ids, sampler.recording_ids, context=1.0)


@given(st.integers(1, 6), st.data())
def test_some_windows_are_the_tokens_and_queries_that_they_were_in_the_batch(batch_size, data):
    sampler = sampler_of(batch_size=batch_size)
    tokens = tokenizer_of(sampler)(sampler.batch(0, 0))
    first = data.draw(st.integers(0, batch_size - 1))
    last = data.draw(st.integers(first + 1, batch_size))
    some = tokens.windows(first, last)

    assert some.token_offsets[0] == some.query_offsets[0] == 0
    for row in range(last - first):
        assert tokens_of(tokens, first + row) == tokens_of(some, row)
        whole, part = (
            (one.query_time_K[slice(*one.query_offsets[at : at + 2])].tolist(), one.recording_B[at])
            for one, at in ((tokens, first + row), (some, row))
        )
        assert whole == part


@pytest.mark.parametrize(
    ("name", "index", "sentence"),
    [
        ("spike_unit", -1, "unit number -1, the tokenizer's sampler 9"),
        ("unit", 9, "unit number 9, the tokenizer's sampler 9"),
        ("recording", 3, "recording number 3, the tokenizer's sampler 3"),
    ],
)
def test_indices_that_the_sampler_does_not_have_are_refused(name, index, sentence):
    sampler = sampler_of()
    batch = sampler.batch(0, 0)
    wrong = getattr(batch, name).copy()
    wrong[0] = index

    with pytest.raises(VocabularyError, match=sentence):
        tokenizer_of(sampler)(replace(batch, **{name: wrong}))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("token_offsets", lambda edges: (*edges[:-1], edges[-1] - 1)),
        ("token_offsets", lambda edges: (1, *edges[1:])),
        ("token_offsets", lambda edges: (0, edges[2], edges[1], *edges[3:])),
        ("token_offsets", lambda edges: edges[:-1]),
        ("query_offsets", lambda edges: (*edges[:-1], edges[-1] + 1)),
        ("type_T", lambda types: types[:1]),
        ("query_target_K", lambda targets: targets[:1]),
        ("recording_B", lambda rows: rows[:1]),
    ],
)
def test_windows_that_do_not_hold_every_token_and_query_once_are_refused(name, change):
    """The gradients of tokens that lie in no window would be whatever was in memory."""
    sampler = sampler_of()
    tokens = tokenizer_of(sampler)(sampler.batch(0, 0))

    with pytest.raises(ConfigError, match=r"of [15] windows do not fit their \d offsets"):
        replace(tokens, **{name: change(getattr(tokens, name))})


def test_moving_tokens_to_a_device_keeps_them():
    sampler = sampler_of()
    tokens = tokenizer_of(sampler)(sampler.batch(0, 0))
    moved = tokens.to("meta")

    assert moved.unit_T.device.type == "meta"
    assert moved.unit_T.shape == tokens.unit_T.shape
    assert moved.token_offsets == tokens.token_offsets


def test_queries_name_targets_by_the_order_of_the_model_where_it_is_given():
    sampler = sampler_of()
    batch = sampler.batch(0, 0)
    own, given = (
        tokenizer_of(sampler, targets=names)(batch).query_target_K
        for names in (None, ("other", "heading", "hand"))
    )

    assert np.array_equal(given.numpy(), np.array([2, 1])[own.numpy()])  # hand, heading


def test_a_target_that_the_model_does_not_have_is_refused():
    sampler = sampler_of()
    tokenizer = tokenizer_of(sampler, targets=("hand", "head"))

    with pytest.raises(VocabularyError, match="target 'heading', which the model has no readout"):
        tokenizer(sampler.batch(0, 0))
