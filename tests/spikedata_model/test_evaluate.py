from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata.intervals import IntervalSet
from spikedata.recording import Recording
from spikedata.sampler import Sampler
from spikedata_model.config import DataConfig
from spikedata_model.data import RunData, prepare_data
from spikedata_model.errors import CheckpointError, ConfigError, VocabularyError
from spikedata_model.evaluate import Evaluation, Prediction, evaluate, predict, r2_score
from spikedata_model.poyo import Poyo
from spikedata_model.tokenizer import Tokenizer
from spikedata_model.train import train
from tests.spikedata_model.builders import (
    make_config,
    make_recording,
    make_splits,
    make_store,
    with_values,
)

CONFIG = make_config()


def prepare(*recordings: Recording) -> tuple[Poyo, RunData]:
    by_id = {one.recording_id: one for one in recordings}
    data = prepare_data(by_id, tuple(by_id), CONFIG)
    torch.manual_seed(1)
    model = Poyo(CONFIG.model, len(data.vocabulary.unit_ids), len(by_id), data.channels)
    return model, data


def stitch_naively(
    model: Poyo, data: RunData, name: str, target: str, split: str
) -> dict[float, np.ndarray]:
    """Return the mean prediction at each sample time, window by window."""
    recording, context = data.recordings[name], CONFIG.model.context
    found: dict[float, list[np.ndarray]] = {}
    sampler = Sampler(
        data.recordings, split, targets=tuple(data.channels), window=1e-3, short="keep",
        recording_ids=data.recording_ids,
    )  # fmt: skip
    for start, end in recording.split(split):
        starts = np.arange(start, end - context, context / 2) if end - start > context else []
        for first in {*starts, max(start, end - context)}:
            last = min(first + context, end)
            row = np.array([data.recording_ids.index(name)])
            batch = sampler.gather(row, np.array([first]), np.array([last]))
            tokens = Tokenizer(
                data.vocabulary, sampler.unit_ids, sampler.recording_ids, context=context
            )(batch)
            with torch.no_grad():
                values = data.restored(batch, target, model(tokens)[target])
            time = recording.series[target].times()
            for at, value in zip(time[(time >= first) & (time < last)], values, strict=True):
                found.setdefault(float(at), []).append(value)
    return {time: np.mean(values, axis=0) for time, values in sorted(found.items())}


SPLITS = make_splits(
    (0.0, 6.0, "train"), (6.0, 6.4, "test"), (7.0, 9.35, "test"), (10.0, 11.0, "test"),
    (11.0, 12.0, "train"), (12.2, 14.7, "test"), (15.0, 20.0, "train"),
)  # fmt: skip


def test_predictions_are_the_mean_over_the_windows_that_hold_a_sample():
    model, data = prepare(
        make_recording("lab/a", splits=SPLITS, targets=("hand", "heading")),
        make_recording("lab/b", seed=1, n_units=3, splits=SPLITS, targets=("heading",)),
    )
    found = predict(model.eval(), data, CONFIG, "test", batch_size=4)

    assert len(found) == 3
    for one in found:
        expected = stitch_naively(model, data, one.recording_id, one.target, "test")
        assert one.time.tolist() == list(expected)
        np.testing.assert_allclose(
            one.predicted, np.array(list(expected.values())), rtol=1e-3, atol=1e-3
        )


@given(st.lists(st.floats(0.02, 4), min_size=1, max_size=8), st.integers(0, 3), st.booleans())
def test_every_sample_of_the_split_is_predicted_exactly_once(lengths, seed, touching):
    """Intervals shorter than the context, longer ones and touching ones, at odd places."""
    edges = 5 + np.cumsum(np.concatenate([[0.0], np.array(lengths)]))
    kinds = ["test"] * len(lengths) if touching else ["test", "valid"] * len(lengths)
    rows = [(edges[n], edges[n + 1], kinds[n]) for n in range(len(lengths))]
    recording = make_recording(
        seed=seed, duration=40.0, splits=make_splits((0.0, 5.0, "train"), *rows), sample_rate=30.0
    )
    model, data = prepare(replace(recording, targets=("hand", "heading")))
    held = recording.split("test")
    counts = {
        name: int(held.contains(series.times()).sum()) for name, series in recording.series.items()
    }
    if not all(counts.values()):
        return

    for one in predict(model, data, CONFIG, "test"):
        series = recording.series[one.target]
        rows = held.contains(series.times())
        assert np.array_equal(series.times()[rows], one.time)
        assert np.array_equal(series.values[rows].astype(np.float64), one.truth)
        assert np.isfinite(one.predicted).all()


@pytest.mark.parametrize("target", ["hand", "heading"])
def test_predictions_have_as_many_rows_as_the_split_has_samples(target):
    """Counted in the data, window by window of it; other stitchers return more rows than that.

    Samples at irregular times or on a grid whose times are no binary numbers, windows that overlap
    by half, several intervals, and a last window that is not a whole step behind the one before.
    """
    splits = make_splits(
        (1e6, 1e6 + 9.7, "train"), (1e6 + 9.7, 1e6 + 13.05, "test"),
        (1e6 + 13.3, 1e6 + 14.9, "test"), (1e6 + 15.0, 1e6 + 15.2, "test"),
        (1e6 + 16.0, 1e6 + 20.0, "test"),
    )  # fmt: skip
    recording = make_recording(
        start=1e6, sample_rate=30.0, splits=splits, targets=("hand", "heading")
    )
    times = [
        float(time)
        for time in recording.series[target].times()
        if any(start <= time < end for start, end in recording.split("test"))
    ]
    found = {one.target: one for one in predict(*prepare(recording), CONFIG, "test")}[target]

    assert len(found.time) == len(found.truth) == len(found.predicted) == len(times)
    assert found.time.tolist() == times
    assert len(set(times)) == len(times)


def test_an_interval_that_reaches_past_the_end_of_the_recording_is_refused():
    recording = make_recording(
        splits=make_splits((0.0, 15.0, "train"), (15.0, 17.0, "valid"), (17.0, 21.5, "test"))
    )
    model, data = prepare(recording)

    assert len(predict(model, data, CONFIG, "valid")) == 1
    with pytest.raises(ConfigError, match=r"lab/a: the window \[.* reaches outside the time that"):
        predict(model, data, CONFIG, "test")


def test_a_recording_with_units_that_the_model_does_not_know_is_refused():
    model, data = prepare(make_recording(n_units=3))
    other = replace(data, recordings={"lab/a": make_recording(n_units=4)})

    with pytest.raises(VocabularyError, match="knows no unit 'lab/a/u3'"):
        predict(model, other, CONFIG, "test")


def test_a_window_longer_than_the_context_is_refused():
    _, data = prepare(make_recording())
    longer = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"context": 1.5})})
    sampler = data.sampler("test", longer, batch_size=2)

    with pytest.raises(
        ConfigError, match=r"window of 1\.5 s is longer than the model's context of 1"
    ):
        data.tokenizer(sampler, CONFIG)(sampler.batch(0, 0))


@pytest.mark.parametrize("end", [6.0, 0.1 * 70, 5 + 1 / 3 + 1.7, 7.3 + 2e-16])
def test_a_sample_one_rounding_before_the_end_of_an_interval_is_predicted(end):
    last = np.nextafter(end, 0)
    recording = make_recording(splits=make_splits((0.0, 5.0, "train"), (5.0, end, "test")))
    series = recording.series["heading"]
    time = np.sort(np.append(series.time[1:], last))
    recording = replace(
        recording, series={"heading": replace(series, time=time)}, targets=("heading",)
    )

    (one,) = predict(*prepare(recording), CONFIG, "test")
    assert one.time[-1] == last


def test_the_batch_size_and_the_other_recordings_do_not_matter():
    a, b = make_recording("lab/a"), make_recording("lab/b", seed=1, n_units=3)
    model, data = prepare(a, b)
    small, large = (predict(model, data, CONFIG, "test", batch_size=size) for size in (1, 64))
    alone = predict(model, replace(data, recording_ids=("lab/b",)), CONFIG, "test")

    for one, other in zip([*small, small[1]], [*large, *alone], strict=True):
        np.testing.assert_allclose(one.predicted, other.predicted, rtol=1e-4, atol=1e-4)


def test_spikes_outside_the_split_do_not_reach_its_predictions():
    recording = make_recording(splits=SPLITS)
    model, data = prepare(recording)
    rng = np.random.default_rng(0)
    outside = ~recording.split("test").contains(recording.spike_time)
    unit = recording.spike_unit.copy()
    unit[outside] = rng.integers(0, recording.n_units, int(outside.sum()))
    other = replace(data, recordings={"lab/a": replace(recording, spike_unit=unit)})

    (before,), (after,) = (predict(model, one, CONFIG, "test") for one in (data, other))
    assert np.array_equal(before.predicted, after.predicted)


def test_predicting_leaves_the_model_in_the_mode_that_it_had():
    model, data = prepare(make_recording())
    for mode in (True, False):
        model.train(mode)
        predict(model, data, CONFIG, "test")
        assert model.training is mode


def test_recordings_without_time_in_the_split_are_left_out():
    bare = make_recording("lab/c", seed=2, splits=make_splits((0.0, 20.0, "train")))
    model, data = prepare(make_recording("lab/a"), bare)

    assert [one.recording_id for one in predict(model, data, CONFIG, "test")] == ["lab/a"]
    with pytest.raises(ConfigError, match="No recording of this run has time in the split 'test'"):
        predict(*prepare(bare), CONFIG, "test")


def with_early_heading(*targets: str) -> Recording:
    """Return a recording whose heading has no sample after the training split."""
    recording = make_recording(targets=targets)
    series = recording.series["heading"]
    kept = series.time < 12
    early = replace(series, time=series.time[kept], values=series.values[kept])
    return replace(recording, series={**recording.series, "heading": early})


def test_a_target_without_samples_in_the_split_is_left_out():
    recording = with_early_heading("hand", "heading")

    assert [one.target for one in predict(*prepare(recording), CONFIG, "test")] == ["hand"]


def test_training_goes_on_when_nothing_can_be_scored_and_evaluation_says_so(tmp_path):
    store = make_store(tmp_path / "store", with_early_heading("heading"))
    end = train(store, tmp_path / "run", CONFIG)

    assert not any("r2" in name for name in end.curve[-1])
    with pytest.raises(ConfigError, match="No target of this run has samples in the split 'test'"):
        evaluate(store, tmp_path / "run")


def test_truth_is_in_the_unit_and_channels_of_the_series():
    (one,) = predict(*prepare(make_recording()), CONFIG, "valid")

    assert (one.columns, one.unit) == (("x", "y"), "mm/s")
    assert one.truth.dtype == one.predicted.dtype == one.time.dtype == np.float64


# ------------------------------------------------------------------ scores


@given(st.integers(2, 30), st.integers(1, 3), st.integers(0, 999))
def test_r2_is_one_minus_squared_error_over_variance(n_samples, n_channels, seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.normal(3, 2, (2, n_samples, n_channels))
    expected = []
    for channel in range(n_channels):
        mean = sum(truth[:, channel]) / n_samples
        residual = sum((truth[n, channel] - predicted[n, channel]) ** 2 for n in range(n_samples))
        total = sum((truth[n, channel] - mean) ** 2 for n in range(n_samples))
        expected.append(1 - residual / total)

    assert r2_score(truth, predicted).tolist() == pytest.approx(expected)


def test_r2_is_1_for_the_truth_and_0_for_its_mean():
    truth = np.random.default_rng(0).normal(size=(50, 2))

    assert r2_score(truth, truth).tolist() == [1, 1]
    mean = np.broadcast_to(truth.mean(axis=0), truth.shape)
    assert r2_score(truth, mean).tolist() == pytest.approx([0, 0])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 / 3])
def test_r2_of_a_channel_that_does_not_change_is_nan(value):
    truth = np.random.default_rng(0).normal(size=(1000, 2))
    truth[:, 1] = value
    score = r2_score(truth, truth + 0.1)

    assert np.isfinite(score[0])
    assert np.isnan(score[1])


# ------------------------------------------------------------------ the whole evaluation


def test_an_evaluation_scores_every_target_beside_the_baseline_and_is_read_back(store, run):
    found = evaluate(store, run)

    assert [(one.recording_id, one.target) for one in found.scores] == [
        ("lab/a", "hand"), ("lab/b", "hand"),
    ]  # fmt: skip
    assert found == Evaluation.model_validate_json((run / "evaluation-test.json").read_text())
    for one in found.scores:
        assert one.n_samples == 100
        assert one.mean_r2 == pytest.approx(np.mean(one.r2))
        assert one.mean_baseline_r2 == pytest.approx(np.mean(one.baseline_r2))
        assert one.angle_error_deg is None


@pytest.mark.parametrize("rows", [[(16.0, 16.5), (18.0, 19.05)], [(0.0, 99.0)], [(1.0, 2.0)]])
def test_scores_are_taken_where_the_recipe_says_and_on_the_whole_split(tmp_path, rows):
    """The table's rows may hold some of the split, all, or nothing of it."""
    start, end = np.array(rows).T
    recording = make_recording()
    recording = replace(recording, intervals={"reach": IntervalSet(start.copy(), end.copy())})
    store = make_store(tmp_path / "store", recording)
    recipe = {"recordings": "lab/*", "weights": {"reach": 5.0}, "evaluate_on": "reach"}
    data = DataConfig.model_validate({"recipes": [recipe]})
    end_of_run = train(store, tmp_path / "run", CONFIG.model_copy(update={"data": data}))
    (found,) = evaluate(store, tmp_path / "run").scores
    with pa.memory_map(str(tmp_path / "run" / "predictions-test.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    time, scored = (table[name].to_numpy() for name in ("time", "scored"))
    inside = np.any([(a <= time) & (time < b) for a, b in rows], axis=0)

    assert np.array_equal(scored, inside)
    assert (found.evaluate_on, found.n_samples) == ("reach", 100)
    assert found.n_scored == inside.sum() / 2
    assert any(name.startswith("r2 ") for name in end_of_run.curve[-1])
    channels = table["channel"].to_pylist()
    for column, channel in enumerate(found.columns):
        mine = np.array([one == channel for one in channels])
        for name, part, whole in (
            ("poyo", found.r2, found.r2_whole),
            ("wiener", found.baseline_r2, found.baseline_r2_whole),
        ):
            truth, decoded = table["truth"].to_numpy(), table[name].to_numpy()
            for rows_of, score in ((mine & inside, part), (mine, whole)):
                again = r2_score(truth[rows_of][:, None], decoded[rows_of][:, None])
                assert score[column] == pytest.approx(float(again[0]), nan_ok=True)


def test_without_a_recipe_both_scores_are_the_same(store, run):
    for one in evaluate(store, run).scores:
        assert (one.evaluate_on, one.n_scored) == (None, one.n_samples)
        assert (one.r2, one.baseline_r2) == (one.r2_whole, one.baseline_r2_whole)


def test_the_predictions_file_holds_every_channel_as_its_own_rows(store, run):
    scores = evaluate(store, run, split="valid").scores
    with pa.memory_map(str(run / "predictions-valid.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()

    assert table.column_names == [
        "recording_id", "target", "channel", "unit", "time", "scored", "truth", "poyo", "wiener",
    ]  # fmt: skip
    assert set(table["unit"].to_pylist()) == {"mm/s"}
    keys = np.array(list(zip(*(table[n].to_pylist() for n in table.column_names[:3]), strict=True)))
    for one in scores:
        series, held = (
            store[one.recording_id].series["hand"],
            store[one.recording_id].split("valid"),
        )
        rows = held.contains(series.times())
        for column, channel in enumerate(one.columns):
            mine = np.all(keys == (one.recording_id, "hand", channel), axis=1)
            time, truth, poyo, wiener = (
                table[name].to_numpy()[mine] for name in ("time", "truth", "poyo", "wiener")
            )
            assert np.array_equal(time, series.times()[rows])
            assert np.array_equal(truth, series.values[rows, column].astype(np.float64))
            for predicted, score in ((poyo, one.r2), (wiener, one.baseline_r2)):
                again = r2_score(truth[:, None], predicted[:, None])
                assert score[column] == pytest.approx(float(again[0]))


@pytest.mark.parametrize(
    ("truth", "decoded", "error"),
    [([179], [-179], 2), ([-179], [179], 2), ([0, 0, 0], [10, -20, 350], 10), ([90], [270], 180)],
)
def test_the_error_of_an_angle_is_the_short_way_round(truth, decoded, error):
    from spikedata_model.evaluate import _score

    def pairs(degrees: list[float]) -> np.ndarray:
        angle = np.radians(degrees)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    one = Prediction(
        "lab/a", "heading", ("cos", "sin"), "", np.arange(len(truth)), pairs(truth), pairs(decoded),
        np.ones(len(truth), bool),
    )  # fmt: skip
    score = _score(one, 3 * pairs(truth))

    assert score.angle_error_deg == pytest.approx(error)
    assert score.baseline_angle_error_deg == pytest.approx(0)  # the length does not matter


def test_a_heading_gets_an_angle_error(tmp_path):
    store = make_store(tmp_path / "store", make_recording(targets=("heading",)))
    train(store, tmp_path / "run", CONFIG)
    (score,) = evaluate(store, tmp_path / "run").scores

    assert score.angle_error_deg is not None
    assert 0 < score.angle_error_deg <= 180
    assert score.baseline_angle_error_deg is not None


def test_a_channel_that_stands_still_in_the_split_has_no_r2_and_its_file_is_read_back(tmp_path):
    recording = make_recording()
    series, held = recording.series["hand"], recording.split("test")
    values = series.values.copy()
    values[held.contains(series.times()), 1] = 3
    store = make_store(tmp_path / "store", with_values(recording, "hand", values))
    train(store, tmp_path / "run", CONFIG)
    written = evaluate(store, tmp_path / "run").scores[0]
    text = (tmp_path / "run" / "evaluation-test.json").read_text()
    read = Evaluation.model_validate_json(text).scores[0]

    assert "NaN" not in text  # which is not JSON
    assert [math.isnan(one) for one in read.r2] == [False, True]
    assert read.r2[0] == written.r2[0]


def test_a_run_that_is_not_finished_is_not_scored(store, tmp_path):
    def stop(label: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(store, tmp_path / "run", CONFIG, progress=stop)
    with pytest.raises(CheckpointError, match="is at step 3 of 9: give the command that began it"):
        evaluate(store, tmp_path / "run")


def test_a_folder_without_a_run_is_not_scored(store, tmp_path):
    with pytest.raises(CheckpointError, match=r"There is no run in .*nothing"):
        evaluate(store, tmp_path / "nothing")


def test_other_data_of_the_same_name_are_refused(store, run):
    recording = make_recording("lab/b", seed=2, n_units=3)
    store.write(recording, {"made": "anew"})

    with pytest.raises(CheckpointError, match=r"lab/b in .* is not the recording"):
        evaluate(store, run)


def test_an_evaluation_made_again_is_the_same_to_the_byte(store, run):
    names = ("evaluation-test.json", "predictions-test.arrow")
    contents = []
    for _ in range(2):
        evaluate(store, run)
        contents.append([(run / name).read_bytes() for name in names])

    assert contents[0] == contents[1]


def test_scores_are_of_the_split_that_is_asked_for(store, run):
    assert evaluate(store, run, split="train").split == "train"
    assert json.loads((run / "evaluation-train.json").read_text())["step"] == 9
    assert not (run / "evaluation-test.json").exists()
