from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata.cli import main
from spikedata.recording import Recording
from spikedata.sampler import Sampler
from spikedata_model.causal import RecordingDecoder, causal_edges
from spikedata_model.config import Config, ModelConfig, load_config
from spikedata_model.data import RunData, prepare_data
from spikedata_model.errors import ConfigError
from spikedata_model.evaluate import Evaluation, evaluate, predict_causal
from spikedata_model.poyo import Poyo
from spikedata_model.tokenizer import Tokenizer
from spikedata_model.workers import Workers
from tests.spikedata_model.builders import make_config, make_recording, make_splits

CONFIG = make_config()
SPLITS = make_splits(
    (0.0, 6.0, "train"), (6.0, 6.31, "test"), (7.0, 9.35, "test"), (11.0, 12.0, "train"),
    (12.2, 13.2, "test"), (15.0, 20.0, "train"),
)  # fmt: skip


def prepare(*recordings: Recording, model: ModelConfig | None = None) -> tuple[Poyo, RunData]:
    config = CONFIG if model is None else CONFIG.model_copy(update={"model": model})
    by_id = {one.recording_id: one for one in recordings}
    data = prepare_data(by_id, tuple(by_id), config)
    torch.manual_seed(1)
    made = Poyo(config.model, len(data.vocabulary.unit_ids), len(by_id), data.channels)
    return made.eval(), data


def step_naively(
    model: Poyo, data: RunData, config: Config, name: str, target: str, step: float
) -> dict[float, np.ndarray]:
    """Return the normalised prediction at each sample time, by the sampler and `Poyo.forward`."""
    recording = data.recordings[name]
    sampler = Sampler(
        data.recordings, "test", targets=tuple(data.channels), window=1e-3, short="keep",
        recording_ids=data.recording_ids,
    )  # fmt: skip
    tokenizer = Tokenizer(
        data.vocabulary, sampler.unit_ids, sampler.recording_ids, context=config.model.context,
        targets=tuple(data.channels),
    )  # fmt: skip
    found = {}
    for start, end in recording.split("test"):
        at, first = start, 0
        while at < end:
            first += 1
            last = start + first * step
            last = end if last > end - 1e-6 else last
            row = np.array([data.recording_ids.index(name)])
            begin = max(start, last - config.model.context)
            batch = sampler.gather(row, np.array([begin]), np.array([last]))
            with torch.no_grad():
                values = model(tokenizer(batch))[target].numpy()
            time = recording.series[target].times()
            for when, value in zip(time[(time >= begin) & (time < last)], values, strict=True):
                if when >= at:
                    found[float(when)] = value
            at = last
    return found


def normalised(data: RunData, name: str, target: str, values: np.ndarray) -> np.ndarray:
    scale = data.scales[name][target]
    return (values - np.array(scale.mean)) / np.array(scale.std)


@pytest.mark.parametrize("size", ["tiny", "poyo-compact", "poyo-single"])
def test_a_causal_prediction_is_what_poyo_says_of_the_window_that_ends_a_step_later(size):
    config = CONFIG
    if size != "tiny":
        config = config.model_copy(update={"model": load_config(size).model})
    model, data = prepare(
        make_recording("lab/a", splits=SPLITS, targets=("hand", "heading")),
        make_recording("lab/b", seed=1, n_units=3, splits=SPLITS, targets=("heading",)),
        model=config.model,
    )
    found = predict_causal(model, data, config, "test", 0.15)

    assert len(found) == 3
    for one in found:
        expected = step_naively(model, data, config, one.recording_id, one.target, 0.15)
        assert one.time.tolist() == list(expected)
        np.testing.assert_allclose(
            normalised(data, one.recording_id, one.target, one.predicted),
            np.array(list(expected.values())), rtol=0, atol=1e-5,
        )  # fmt: skip


def test_what_comes_after_the_step_does_not_reach_a_prediction():
    """Other spikes from 8 s on change no sample of a window that ends before it."""
    recording = make_recording(splits=SPLITS)
    model, data = prepare(recording)
    unit = recording.spike_unit.copy()
    after = recording.spike_time >= 8.0
    unit[after] = np.random.default_rng(0).integers(0, recording.n_units, int(after.sum()))
    other = replace(data, recordings={"lab/a": replace(recording, spike_unit=unit)})
    (one,), (two,) = (predict_causal(model, each, CONFIG, "test", 0.1) for each in (data, other))
    same = np.all(one.predicted == two.predicted, axis=1)

    assert same[one.time < 7.999].all()
    assert not same[(one.time >= 8.0) & (one.time < 9.0)].any()


def test_the_result_does_not_depend_on_the_number_of_threads():
    model, data = prepare(make_recording(splits=SPLITS, targets=("hand", "heading")))
    found = []
    for threads in (1, 3):
        with Workers(torch.device("cpu"), "float32", threads) as workers:
            found.append(predict_causal(model, data, CONFIG, "test", 0.1, workers=workers))

    for one, other in zip(*found, strict=True):
        assert np.array_equal(one.predicted, other.predicted)


def test_the_threads_of_torch_are_given_back():
    model, _ = prepare(make_recording(splits=SPLITS))
    one = RecordingDecoder(model, [0, 1], 0)
    torch.set_num_threads(2)
    one.decode(np.array([0]), np.array([0.5]), 0.0, 1.0, np.array([1.0]))

    assert torch.get_num_threads() == 2


@given(st.floats(0, 2e9), st.floats(1e-3, 20), st.floats(1e-3, 1))
def test_edges_cut_an_interval_into_steps_and_a_shorter_last_one(start, length, step):
    end = start + length
    edges = causal_edges(start, end, step)
    lengths = np.diff(edges)

    assert (edges[0], edges[-1]) == (start, end)
    assert np.allclose(lengths[:-1], step, rtol=0, atol=1e-6)
    assert 0 < lengths[-1] <= step + 2e-6


@pytest.mark.parametrize("step", [0.0, 1e-9, -0.1, 1.01, np.nan, np.inf])
def test_a_step_that_cannot_be_made_is_refused(step):
    model, data = prepare(make_recording())

    with pytest.raises(ConfigError, match=r"steps of .* cannot be made"):
        predict_causal(model, data, CONFIG, "test", step)


def test_a_split_without_time_and_an_interval_that_nobody_observed_are_refused():
    splits = make_splits((0.0, 15.0, "train"), (17.0, 21.5, "test"))
    model, data = prepare(make_recording(splits=splits))

    with pytest.raises(ConfigError, match="has time in the split 'valid'"):
        predict_causal(model, data, CONFIG, "valid", 0.1)
    with pytest.raises(ConfigError, match=r"lab/a: the interval \[17.000, 21.500\) s reaches"):
        predict_causal(model, data, CONFIG, "test", 0.1)


def test_a_causal_evaluation_is_written_beside_the_other_one(store, run):
    usual = evaluate(store, run)
    causal = evaluate(store, run, causal=0.1)
    held = Evaluation.model_validate_json((run / "evaluation-test-causal.json").read_text())

    assert (usual.causal, causal.causal) == (None, 0.1)
    assert json.loads((run / "evaluation-test.json").read_text())["causal"] is None
    assert held == causal
    assert (run / "predictions-test-causal.arrow").exists()
    assert [one.n_samples for one in usual.scores] == [one.n_samples for one in causal.scores]
    assert all(one.baseline_r2 != other.baseline_r2
               for one, other in zip(usual.scores, causal.scores, strict=True))  # fmt: skip


def test_the_command_says_that_scores_are_causal(store, run, monkeypatch, capsys):
    arguments = ["evaluate", str(run), "--causal", "0.1", "--store", str(store.path)]
    monkeypatch.setattr(sys, "argv", ["spikedata", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()

    assert not caught.value.code
    assert "causal, every 0.1 s" in capsys.readouterr().out
    assert (run / "evaluation-test-causal.json").exists()
