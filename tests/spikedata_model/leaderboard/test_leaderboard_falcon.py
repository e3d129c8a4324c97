"""FALCON's methods around a live decoder: tags, bins, batches, channels, and their evaluator."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.harmonize import harmonize
from spikedata.manifest import load_manifest
from spikedata.recording import Recording
from spikedata.testing.layouts import layouts, write_layout
from spikedata_model.decoder import Decoder
from spikedata_model.errors import ConfigError, DecodingError, VocabularyError
from spikedata_model.leaderboard.falcon import BIN, TASKS, FalconDecoder, falcon_tag, spread
from spikedata_model.train import train
from spikedata_model.weights import Weights, weights_of_run
from tests.spikedata_model.builders import make_config, make_recording, make_store

FIRST = "falcon_m2/monkeyn_2020-10-19_Run1_held_in_calib"
SECOND = "falcon_m2/monkeyn_2020-10-30_Run2_held_out_calib"
TAGS = ("Run1_20201019", "Run2_20201030")
LAYOUT_OF = {"m1": "000941", "m2": "000953", "h1": "000954"}


def named_as_m2(name: str, seed: int, units: Sequence[int]) -> Recording:
    """Return a recording as one of M2, whose units have the numbers of their channels."""
    made = make_recording(name, seed=seed, n_units=len(units))
    return replace(
        made, series={"finger_velocity": made.series["hand"]}, targets=("finger_velocity",),
        units={"unit_id": np.array([f"{name}/{one}" for one in units])},
    )  # fmt: skip


@pytest.fixture(scope="module", name="weights")
def _weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Return a model of two sessions of M2, of five and of three channels."""
    folder = tmp_path_factory.mktemp("falcon")
    first, second = named_as_m2(FIRST, 0, range(5)), named_as_m2(SECOND, 1, [0, 1, 4])
    train(make_store(folder / "store", first, second), folder / "run", make_config())
    return weights_of_run(folder / "run")


def draw_counts(bins: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.4, (bins, channels)).astype(np.uint8)


def by_hand(weights: Weights, name: str, counts: np.ndarray) -> np.ndarray:
    """Return what a live decoder says after every bin, given its spikes one by one."""
    decoder, found = Decoder(weights, name, start=0.0), []
    for step, row in enumerate(counts):
        spikes = [
            (step * BIN + (index + 0.5) / n * BIN, channel)
            for channel, n in enumerate(row.tolist()) for index in range(n)
        ]  # fmt: skip
        for time, channel in sorted(spikes):
            decoder.observe([channel], [time])
        found.append(decoder.predict((step + 1) * BIN)["finger_velocity"][0])
    return np.array(found)


def evaluator(
    decoder: FalconDecoder, files: dict[str, np.ndarray], padded: bool = False
) -> Iterator[np.ndarray]:
    """Yield predictions of each file, (bins, columns), calling as FALCON's evaluator does.

    ``FalconEvaluator.predict_files`` of falcon_challenge 1.0.2: files in order of name, as many at
    once as the decoder says, shorter ones filled with zeros, named once, then bin after bin.
    """
    names = sorted(files)
    for first in range(0, len(names), decoder.batch_size):
        batch = names[first : first + decoder.batch_size]
        longest, channels = max(len(files[one]) for one in batch), len(files[batch[0]][0])
        rows = decoder.batch_size if padded else len(batch)
        data = np.zeros((longest, rows, channels), np.uint8)
        for row, one in enumerate(batch):
            data[: len(files[one]), row] = files[one]
        decoder.reset(dataset_tags=[Path("data") / "eval" / one for one in batch])
        answers = np.stack([decoder.predict(one) for one in data])
        assert answers.shape == (longest, rows, decoder.facts.width)
        yield from (answers[: len(files[one]), row] for row, one in enumerate(batch))


# ------------------------------------------------------------------ bins


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(0, 10**7), st.floats(1e-4, 1.0))
def test_spread_spikes_fill_their_bin_and_never_leave_it(counts, step, width):
    start, end = step * width, (step + 1) * width
    unit, time = spread(np.array(counts, np.int64), start, end)

    np.testing.assert_array_equal(np.bincount(unit, minlength=len(counts)), counts)
    assert np.all((time >= start) & (time < end))
    assert np.all(np.diff(time) >= 0)
    for channel, count in enumerate(counts):
        expected = start + (np.arange(count) + 0.5) / max(count, 1) * (end - start)
        np.testing.assert_allclose(time[unit == channel], expected, atol=1e-9, rtol=0)


def test_every_bin_is_decoded_as_the_live_decoder_does(weights):
    """Longer than the context, so that spikes leave the window again."""
    counts = draw_counts(80, 5)
    decoder = FalconDecoder(weights, "m2")
    decoder.reset([TAGS[0]])
    found = np.concatenate([decoder.predict(row[None]) for row in counts])

    np.testing.assert_array_equal(found, by_hand(weights, FIRST, counts))
    assert len(set(found[:, 0])) > 40


def test_bins_that_are_only_observed_count(weights):
    counts = draw_counts(30, 5)
    expected = by_hand(weights, FIRST, counts)
    decoder = FalconDecoder(weights, "m2")
    decoder.reset([TAGS[0]])
    for row in counts[:-1]:
        decoder.observe(row[None])
        decoder.on_done(np.array([True]))

    np.testing.assert_array_equal(decoder.predict(counts[-1:])[0], expected[-1])


def test_later_bins_change_no_answer(weights):
    counts = draw_counts(40, 5)
    other = np.concatenate([counts[:25], draw_counts(15, 5, seed=9)])
    first, second = by_hand(weights, FIRST, counts), by_hand(weights, FIRST, other)
    decoder = FalconDecoder(weights, "m2")
    decoder.reset([TAGS[0]])

    found = np.array([decoder.predict(row[None])[0] for row in other])
    np.testing.assert_array_equal(found[:25], first[:25])
    np.testing.assert_array_equal(found, second)
    assert not np.array_equal(found[25:], first[25:])


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("padded", [False, True])
def test_sessions_of_a_batch_are_decoded_as_if_alone(weights, size, padded):
    """Two runs of one day and one of another, of three lengths, one session's decoder twice."""
    lengths = {"a": 33, "b": 20, "c": 27}
    files = {
        f"sub-MonkeyNRun1_20201019_held_in_eval{one}.nwb": draw_counts(count, 5, seed=count)
        for one, count in lengths.items()
    }
    decoder = FalconDecoder(weights, "m2", batch_size=size)
    for _ in range(2):  # the second time with decoders that were used before
        found = list(evaluator(decoder, files, padded))

        for one, name in zip(found, sorted(files), strict=True):
            np.testing.assert_array_equal(one, by_hand(weights, FIRST, files[name]))


def test_two_sessions_of_one_batch_have_their_own_units(weights):
    """A column that the second session lacks is dropped there, and counted."""
    counts = draw_counts(12, 5)
    decoder = FalconDecoder(
        weights, "m2", batch_size=2, channels={TAGS[1]: ["0", "1", "2", "3", "4"]}
    )
    decoder.reset(list(TAGS))
    found = np.array([decoder.predict(np.stack([row, row])) for row in counts])

    np.testing.assert_array_equal(found[:, 0], by_hand(weights, FIRST, counts))
    np.testing.assert_array_equal(found[:, 1], by_hand(weights, SECOND, counts[:, [0, 1, 4]]))
    lost = counts.sum(axis=0)
    assert decoder.dropped == {f"{SECOND}/2": lost[2], f"{SECOND}/3": lost[3]}


def test_a_unit_without_a_column_stays_silent(weights):
    counts = draw_counts(12, 2)
    decoder = FalconDecoder(weights, "m2", channels=["3", "1"])
    decoder.reset([TAGS[0]])
    found = np.array([decoder.predict(row[None])[0] for row in counts])
    whole = np.zeros((12, 5), np.uint8)
    whole[:, [3, 1]] = counts

    np.testing.assert_array_equal(found, by_hand(weights, FIRST, whole))
    assert not decoder.dropped


# ------------------------------------------------------------------ refusals


def test_what_cannot_be_decoded_is_refused(weights):
    decoder = FalconDecoder(weights, "m2")
    good = np.zeros((1, 5), int)
    with pytest.raises(DecodingError, match="no session was named"):
        decoder.predict(good)
    decoder.reset([TAGS[0]])
    for wrong, words in (
        (np.zeros(5), "one row for each session"), (np.zeros((0, 5)), "one row for each session"),
        (np.zeros((1, 4), int), "expected 5 columns"), (good - 1, "whole numbers"),
        (good + 0.5, "whole numbers"),
    ):  # fmt: skip
        with pytest.raises(DecodingError, match=words):
            decoder.predict(wrong)
    np.testing.assert_array_equal(decoder.predict(good)[0], by_hand(weights, FIRST, good)[0])
    with pytest.raises(ConfigError, match="expected 1 to 1 sessions"):
        decoder.reset([TAGS[0], TAGS[1]])
    with pytest.raises(ConfigError, match=r"not trained on a calibration file of 'Run1_20201124'"):
        decoder.reset(["sub-MonkeyNRun1_20201124_held_out_eval"])
    with pytest.raises(ConfigError, match="1 or more"):
        decoder.set_batch_size(0)


def test_a_model_of_something_else_is_refused(weights, tmp_path):
    with pytest.raises(ConfigError, match="No task of FALCON is called 'h2'"):
        FalconDecoder(weights, "h2")
    with pytest.raises(ConfigError, match="readout 'emg' of 16 columns, found none"):
        FalconDecoder(weights, "m1")
    with pytest.raises(ConfigError, match="scales of no recording of 'falcon_m2'"):
        FalconDecoder(replace(weights, scales={}), "m2")
    with pytest.raises(VocabularyError, match="knows no recording 'falcon_m2/nobody'"):
        FalconDecoder(weights, "m2", recordings={TAGS[0]: "falcon_m2/nobody"})
    with pytest.raises(ConfigError, match="no unit of the model"):
        FalconDecoder(weights, "m2", channels=["x"]).reset([TAGS[0]])
    with pytest.raises(ConfigError, match="a column twice"):
        FalconDecoder(weights, "m2", channels=["1", "1"]).reset([TAGS[0]])


def test_a_session_can_be_decoded_as_another_one(weights):
    """Zero-shot: the rows of an earlier day."""
    counts = draw_counts(5, 5)
    decoder = FalconDecoder(weights, "m2", recordings={"Run1_20201118": FIRST})
    decoder.reset([Path("sub-MonkeyNRun1_20201118_held_out_eval.nwb")])
    found = np.array([decoder.predict(row[None])[0] for row in counts])

    np.testing.assert_array_equal(found, by_hand(weights, FIRST, counts))


def test_calibration_goes_before_minival(tmp_path):
    minival = FIRST.replace("calib", "minival")
    store = make_store(
        tmp_path / "store", named_as_m2(minival, 0, range(3)), named_as_m2(FIRST, 1, range(3))
    )
    train(store, tmp_path / "run", make_config(steps=1))

    assert FalconDecoder(tmp_path / "run", "m2").recordings == {TAGS[0]: FIRST}


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("task", "name", "tag"),
    [
        ("m1", "sub-MonkeyL-held-in-minival_ses-20120924_behavior+ecephys.nwb", "20120924"),
        ("m1", "data/000941/L_20121017_held_out_eval.nwb", "20121017"),
        ("m1", "falcon_m1/monkeyl_20120924_held_in_calib", "20120924"),
        ("m1", "20120924", "20120924"),
        ("m2", "sub-MonkeyN-held-in-calib_ses-2020-10-19-Run1_behavior+ecephys", TAGS[0]),
        ("m2", "sub-MonkeyNRun2_20201030_held_out_eval", TAGS[1]),
        ("m2", "Run2_20201030", TAGS[1]),
        ("h1", "sub-HumanPitt-held-in-minival_ses-19250101T112404.nwb", "S0_set_2"),
        ("h1", "falcon_h1/humanpitt_19250209T112327_held_out_calib", "S12_set_2"),
        ("h1", "S10-set-1-eval.nwb", "S10_set_1"),
    ],
)
def test_files_of_archive_and_server_have_the_same_tags(task, name, tag):
    assert falcon_tag(task, name) == tag
    assert falcon_tag(task, Path(name)) == tag


@pytest.mark.parametrize("task", TASKS)
def test_every_calibration_file_of_a_manifest_has_a_tag_of_its_own(task):
    (dataset,) = load_manifest(TASKS[task].manifest).datasets
    calibration = [one for one in dataset.assets if "calib" in one.path]
    tags = [falcon_tag(task, one.path) for one in calibration]

    assert len(set(tags)) == len(tags) > 6
    assert [falcon_tag(task, f"{dataset.id}/{one.session}") for one in calibration] == tags


@pytest.mark.parametrize(("task", "name"), [("m1", "x"), ("m2", "Run1"), ("h1", "19250101T000000")])
def test_a_name_without_a_session_is_refused(task, name):
    with pytest.raises(ConfigError, match=re.escape(f"'{name}' names no session")):
        falcon_tag(task, name)


# ------------------------------------------------------------------ their own code, where it is


@pytest.mark.parametrize("task", TASKS)
def test_their_evaluator_runs_it(task, tmp_path):
    """With the columns of their reader: those of behaviour as scored, and the units of the file."""
    theirs = pytest.importorskip("falcon_challenge.evaluator", exc_type=ImportError)
    loader = pytest.importorskip("falcon_challenge.dataloaders")
    path = write_layout(LAYOUT_OF[task], tmp_path)
    recording = harmonize(path, *layouts()[LAYOUT_OF[task]].stated())
    train(make_store(tmp_path / "store", recording), tmp_path / "run", make_config(steps=2))
    decoder = FalconDecoder(tmp_path / "run", task, batch_size=4)
    runner = theirs.FalconEvaluator(split=task, dataloader_workers=0)
    predicted, truth, mask, _, _ = runner.predict_files(decoder, [path])
    (tag,) = predicted
    counts, behaviour, _, _ = loader.load_nwb(path, dataset=runner.dataset)

    assert isinstance(decoder, theirs.BCIDecoder)
    assert tag == falcon_tag(task, path) == falcon_tag(task, recording.recording_id)
    assert predicted[tag].shape == truth[tag].shape == (len(mask[tag]), TASKS[task].width)
    series = recording.series[TASKS[task].target]
    np.testing.assert_allclose(behaviour[: len(series)], series.values, rtol=1e-6)
    again = Decoder(weights_of_run(tmp_path / "run"), recording.recording_id, start=0.0)
    for step, row in enumerate(counts[:60]):
        unit, time = spread(row, step * BIN, (step + 1) * BIN)
        again.observe(unit, time)
        found = again.predict((step + 1) * BIN)[TASKS[task].target][0]
        np.testing.assert_array_equal(predicted[tag][step], found)
    totals = np.bincount(recording.spike_unit, minlength=recording.n_units)
    # Spikes at the ends of the recording may lie in no bin of one of the two.
    np.testing.assert_allclose(counts.sum(axis=0, dtype=int), totals, atol=3)


def test_tags_are_theirs():
    config = pytest.importorskip("falcon_challenge.config", exc_type=ImportError)
    evaluator_module = pytest.importorskip("falcon_challenge.evaluator", exc_type=ImportError)
    for task, facts in TASKS.items():
        one = config.FalconConfig(task=config.FalconTask[task])
        known = evaluator_module.DATASET_HELDINOUT_MAP[task]
        (dataset,) = load_manifest(facts.manifest).datasets
        tags = {falcon_tag(task, asset.path) for asset in dataset.assets}

        assert tags == {*known["held_in"], *known["held_out"]}
        assert (one.n_channels, one.out_dim) == (facts.channels, facts.width)
        for asset in dataset.assets:
            assert one.hash_dataset(Path(asset.path).stem) == falcon_tag(task, asset.path)
