from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata.recording import Recording
from spikedata.store import Store
from spikedata_model.causal import causal_edges
from spikedata_model.config import load_config
from spikedata_model.data import RunData, prepare_data
from spikedata_model.decoder import CAPACITY, Decoder
from spikedata_model.errors import ConfigError, DecodingError, VocabularyError
from spikedata_model.evaluate import Prediction, predict_causal
from spikedata_model.poyo import Poyo
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.weights import Weights, save_weights, weights_of_run
from tests.spikedata_model.builders import make_config, make_recording, make_splits

CONFIG = make_config()
TARGETS = ("hand", "heading")


def make_weights(
    *recordings: Recording, preset: str | None = None, precision: str = "float32"
) -> tuple[Weights, RunData]:
    config = CONFIG
    if preset is not None:
        config = config.model_copy(update={"model": load_config(preset).model})
    by_id = {one.recording_id: one for one in recordings}
    data = prepare_data(by_id, tuple(by_id), config)
    torch.manual_seed(1)
    n_units = len(data.vocabulary.unit_ids)
    model = Poyo(config.model, n_units, len(by_id), data.channels, precision).eval()
    return Weights(model, data.vocabulary, data.scales), data


def run_live(
    decoder: Decoder, recording: Recording, interval: tuple[float, float], step: float,
    chunks: np.random.Generator,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return what a decoder says of the samples of an interval, spikes given in random chunks."""
    start, end = interval
    decoder.reset(start)
    lo, hi = np.searchsorted(recording.spike_time, [start, end])
    unit, time = recording.spike_unit[lo:hi], recording.spike_time[lo:hi]
    given_ = 0
    found: dict[str, list[np.ndarray]] = {name: [] for name in decoder.targets}
    series = [recording.series[name] for name in decoder.targets]
    for first, last in pairwise(causal_edges(start, end, step).tolist()):
        needed = int(np.searchsorted(time, last))
        while given_ < needed:  # a chunk may be empty, and may reach past the window
            more = given_ + int(chunks.integers(0, 9))
            decoder.observe(unit[given_:more], time[given_:more])
            given_ = min(more, len(time))
        at = [one.times()[slice(*map(int, one.bounds(first, last)))] for one in series]
        if not sum(map(len, at)):
            continue
        values = decoder.predict(last, np.concatenate(at))
        ends = np.cumsum([0, *map(len, at)]).tolist()
        for name, (lo, hi) in zip(decoder.targets, pairwise(ends), strict=True):
            found[name].append(values[name][lo:hi])
    return {name: np.concatenate(rows) for name, rows in found.items()}


def assert_live_equals_offline(
    weights: Weights, data: RunData, step: float, seed: int, precision: str = "float32"
) -> None:
    config = CONFIG.model_copy(update={"model": weights.model.config})
    found = predict_causal(weights.model, data, config, "test", step)
    by_name: dict[str, dict[str, Prediction]] = {}
    for one in found:
        by_name.setdefault(one.recording_id, {})[one.target] = one
    for name, expected in by_name.items():
        recording = data.recordings[name]
        decoder = Decoder(weights, name, start=0.0)
        chunks = np.random.default_rng(seed)
        rows = [run_live(decoder, recording, interval, step, chunks)
                for interval in recording.split("test")]  # fmt: skip
        for target in data.scales[name]:
            live = np.concatenate([one[target] for one in rows])
            held = expected[target].predicted if target in expected else live[:0]
            assert np.array_equal(live, held), (name, target)


@given(
    st.integers(0, 2**20), st.sampled_from([0.0, 4400.0, 1.6e9]), st.floats(0.02, 1.0),
    st.lists(st.floats(0.03, 2.3), min_size=1, max_size=4), st.sampled_from([1.0, 20.0, 100.0]),
    st.sampled_from([0.0, 3.0, 60.0]), st.booleans(),
)  # fmt: skip
def test_a_decoder_says_bit_for_bit_what_the_causal_evaluation_says(
    seed, start, step, lengths, sample_rate, rate, on_edges
):
    """Any chunks, clocks and steps; silent units and windows, spikes on their edges, two rates."""
    edges = start + 5 + np.cumsum([0.0, *lengths])
    rows = [(edges[n], edges[n + 1], "test") for n in range(len(lengths))]
    splits = make_splits((start, start + 5, "train"), *rows)
    recording = make_recording(
        seed=seed % 7, start=start, rate=rate, sample_rate=sample_rate, targets=TARGETS,
        splits=splits,
    )  # fmt: skip
    if on_edges:
        hits = np.concatenate([causal_edges(a, b, step) for a, b in recording.split("test")])
        time = np.concatenate([recording.spike_time, hits, hits])
        unit = np.concatenate([recording.spike_unit, np.zeros(len(hits)), np.ones(len(hits))])
        order = np.argsort(time, kind="stable")
        recording = replace(
            recording, spike_time=time[order], spike_unit=unit[order].astype(np.int32)
        )
    assert_live_equals_offline(*make_weights(recording), step, seed)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", ["poyo-compact", "poyo-single"])
def test_the_models_of_the_presets_are_decoded_the_same_live_and_offline(preset, precision):
    splits = make_splits((0.0, 15.0, "train"), (15.0, 17.05, "test"))
    a = make_recording("lab/a", splits=splits, targets=TARGETS)
    b = make_recording("lab/b", seed=1, n_units=3, splits=splits)

    assert_live_equals_offline(*make_weights(a, b, preset=preset, precision=precision), 0.1, 0)


# ------------------------------------------------------------------ what is held


def test_memory_stays_the_same_however_long_it_runs():
    weights, _ = make_weights(make_recording())
    decoder = Decoder(weights, "lab/a", start=100.0)
    rng = np.random.default_rng(0)
    sizes = set()
    for step in range(60):
        first = 100.0 + step
        decoder.observe(rng.integers(0, 4, 3000), np.sort(rng.uniform(first, first + 1, 3000)))
        decoder.predict(first + 1)
        sizes.add((len(decoder._time), len(decoder._unit)))

    assert 10 * max(size for size, _ in sizes) < 60 * 3000
    assert len(sizes) <= 2
    assert min(sizes)[0] >= CAPACITY


def test_a_decoder_that_is_reset_has_forgotten_everything():
    weights, _ = make_weights(make_recording())
    fresh, used = (Decoder(weights, "lab/a", start=5.0) for _ in range(2))
    used.observe([0, 1, 2], [5.1, 5.2, 5.9])
    used.predict(5.5)
    used.reset(5.0)
    for one in (fresh, used):
        one.observe([2], [5.05])

    assert np.array_equal(fresh.predict(5.1)["hand"], used.predict(5.1)["hand"])


def test_a_spike_at_the_end_of_a_window_counts_from_then_on():
    weights, _ = make_weights(make_recording())
    with_spike, without = (Decoder(weights, "lab/a", start=0.0) for _ in range(2))
    with_spike.observe([1], [0.5])

    assert np.array_equal(with_spike.predict(0.5)["hand"], without.predict(0.5)["hand"])
    later = np.nextafter(0.5, 1)
    assert not np.array_equal(with_spike.predict(later)["hand"], without.predict(later)["hand"])


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("unit", "time", "what"),
    [
        ([0, 4], [2.5, 2.6], "unit 4, but the recording has 4, from 0"),
        ([-1], [2.5], "unit -1, but"),
        ([0, 1], [2.5, np.nan], "a time that is no number"),
        ([0, 1], [2.5, np.inf], "a time that is no number"),
        ([0, 1], [2.6, 2.5], r"a spike at 2\.500000 s after one at 2\.600000 s"),
        ([0], [1.9], r"a spike at 1\.900000 s, but all before 2\.200000 s was observed already"),
        ([0, 1], [2.5], "units of shape"),
        ([0.0], [2.5], "units of shape .* and type float64"),
        ([[0]], [[2.5]], "units of shape"),
        ([], [2.5], "units of shape"),
        ([0], ["2.5"], r"units of shape .* and type <U3; give"),
        (
            [0],
            np.array(["2026-01-01"], "datetime64[s]"),
            r"units of shape .* datetime64\[s\]; give",
        ),
        ([0], [2.5 + 1j], "units of shape .* complex128; give"),
        ([0], [None], "units of shape .* object; give"),
    ],
)
def test_spikes_that_cannot_be_taken_are_refused_as_a_whole(unit, time, what):
    weights, _ = make_weights(make_recording())
    decoder, other = (Decoder(weights, "lab/a", start=1.0) for _ in range(2))
    for one in (decoder, other):
        one.observe([0, 1], [1.5, 2.2])
        one.predict(2.0)
    with pytest.raises(DecodingError, match=f"lab/a: observed {what}"):
        decoder.observe(unit, time)

    assert np.array_equal(decoder.predict(2.7)["hand"], other.predict(2.7)["hand"])


def test_a_spike_of_a_window_that_was_decoded_is_refused():
    weights, _ = make_weights(make_recording())
    decoder = Decoder(weights, "lab/a", start=1.0)
    with pytest.raises(DecodingError, match=r"all before 1\.000000 s was decoded already"):
        decoder.observe([0], [0.9])
    decoder.predict(2.0)
    with pytest.raises(DecodingError, match=r"all before 2\.000000 s was decoded already"):
        decoder.observe([0], [np.nextafter(2.0, 0)])
    decoder.observe([0], [2.0])


@pytest.mark.parametrize("t", [1.0, 0.5, 1.9, np.nan, np.inf])
def test_a_time_that_cannot_be_decoded_is_refused(t):
    weights, _ = make_weights(make_recording())
    decoder = Decoder(weights, "lab/a", start=1.0)
    decoder.predict(2.0)
    with pytest.raises(DecodingError, match=r"lab/a: cannot predict at"):
        decoder.predict(t)


@pytest.mark.parametrize("at", [[2.51], [1.49], [np.nan], [[2.0]], 2.0])
def test_a_query_outside_the_window_is_refused(at):
    weights, _ = make_weights(make_recording())
    decoder = Decoder(weights, "lab/a", start=1.0)
    with pytest.raises(DecodingError, match=r"in the window \[1\.500000, 2\.500000\] s"):
        decoder.predict(2.5, at)

    assert decoder.predict(2.5, [1.5, 2.0, 2.5])["hand"].shape == (3, 2)


# ------------------------------------------------------------------ which model, which units


def test_units_are_those_whose_longest_beginning_is_the_recording():
    a, inner = make_recording("lab/a"), make_recording("lab/a/b", seed=1, n_units=3)
    weights, _ = make_weights(a, inner)

    assert Decoder(weights, "lab/a", start=0.0).unit_ids == tuple(a.unit_ids)
    assert Decoder(weights, "lab/a/b", start=0.0).unit_ids == tuple(inner.unit_ids)


def test_units_of_other_names_have_to_be_given():
    recording = make_recording()
    weights, _ = make_weights(recording)
    names = tuple(f"ch{row}" for row in range(recording.n_units))
    renamed = replace(weights, vocabulary=Vocabulary(names, weights.vocabulary.recording_ids))
    with pytest.raises(VocabularyError, match="begins with 'lab/a/'"):
        Decoder(renamed, "lab/a", start=0.0)
    decoder = Decoder(renamed, "lab/a", start=0.0, unit_ids=names[::-1])
    usual = Decoder(weights, "lab/a", start=0.0)
    decoder.observe([0, 2], [0.1, 0.2])
    usual.observe([3, 1], [0.1, 0.2])

    for one, other in zip(decoder.predict(0.5).values(), usual.predict(0.5).values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_an_unknown_recording_unit_or_target_and_a_bad_start_are_refused():
    weights, _ = make_weights(make_recording())
    with pytest.raises(VocabularyError, match="knows no recording 'lab/z'"):
        Decoder(weights, "lab/z", start=0.0)
    with pytest.raises(VocabularyError, match="knows no unit 'x'"):
        Decoder(weights, "lab/a", start=0.0, unit_ids=["x"])
    with pytest.raises(VocabularyError, match="lab/a: unit_ids names a unit twice"):
        Decoder(weights, "lab/a", start=0.0, unit_ids=["lab/a/u0", "lab/a/u0"])
    with pytest.raises(ConfigError, match="does not decode 'hands'"):
        Decoder(weights, "lab/a", start=0.0, targets=["hands"])
    with pytest.raises(ConfigError, match="cannot start at nan s"):
        Decoder(weights, "lab/a", start=np.nan)


def test_without_scales_predictions_are_normalised_or_none():
    weights, data = make_weights(make_recording())
    bare = replace(weights, scales={})
    with pytest.raises(ConfigError, match="do not say in what unit 'hand' is"):
        Decoder(bare, "lab/a", start=0.0)
    decoder, usual = Decoder(bare, "lab/a", start=0.0, normalised=True), Decoder(
        weights, "lab/a", start=0.0
    )  # fmt: skip
    scale = data.scales["lab/a"]["hand"]

    np.testing.assert_allclose(
        decoder.predict(1.0)["hand"] * np.array(scale.std) + np.array(scale.mean),
        usual.predict(1.0)["hand"],
    )


def test_a_decoder_is_loaded_from_a_run_and_from_a_file(store: Store, run, tmp_path):
    path = tmp_path / "one.safetensors"
    save_weights(path, weights_of_run(run))
    spikes = store["lab/b"].spike_unit[:50], store["lab/b"].spike_time[:50]
    found = []
    for place in (run, path):
        decoder = Decoder.load(place, "lab/b", start=0.0)
        decoder.observe(*spikes)
        found.append(decoder.predict(1.0)["hand"])
    rounded = Decoder.load(path, "lab/b", start=0.0, precision="bfloat16")
    rounded.observe(*spikes)

    assert decoder.unit_ids == tuple(store["lab/b"].unit_ids)
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], rounded.predict(1.0)["hand"])
