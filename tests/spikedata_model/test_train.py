from __future__ import annotations

import csv
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spikedata.errors import RecordingNotFoundError, SamplingError
from spikedata.intervals import IntervalSet
from spikedata.sampler import Sampler
from spikedata.store import Store
from spikedata_model import card as card_module
from spikedata_model import checkpoint as checkpoint_module
from spikedata_model import train as train_module
from spikedata_model import weights as weights_module
from spikedata_model.checkpoint import Checkpoint, load_checkpoint, read_run
from spikedata_model.config import Config, DataConfig, load_config
from spikedata_model.data import prepare_data
from spikedata_model.errors import CheckpointError, ConfigError
from spikedata_model.evaluate import evaluate, predict, r2_score
from spikedata_model.journal import Journal
from spikedata_model.optim import learning_rate_factor, make_optimizer
from spikedata_model.poyo import Poyo
from spikedata_model.step import backward, prepare_inputs, take_step
from spikedata_model.train import train, training_sampler
from spikedata_model.weights import weights_of_run
from spikedata_model.workers import Workers
from tests.spikedata_model.builders import (
    TINY,
    make_config,
    make_recording,
    make_splits,
    make_store,
    with_values,
    without_spikes,
)

# Everything that draws random numbers is on; evaluations and checkpoints do not meet.
DROPPED = TINY.model_copy(
    update={"ffn_dropout": 0.2, "residual_dropout": 0.3, "attention_dropout": 0.2}
)
DROPOUT = {"min_units": 1, "mode_units": 2, "max_units": 4, "peak": 2.0}
RANDOM = make_config(DROPPED, unit_dropout=DROPOUT, windows_at_once=1)  # three pieces a batch


CLOCKED = ["seconds", "tokens_per_s", "seconds_left", "memory_mb"]  # what no seed decides


class Interrupted(Exception):
    """Stands for a killed process: nothing after it is run."""


def stop_at(step: int) -> Callable[[str, int, int], None]:
    def progress(label: str, done: int, total: int) -> None:
        if done == step:
            raise Interrupted

    return progress


def assert_same_end(expected: Checkpoint, found: Checkpoint) -> None:
    """Assert that two runs ended alike to the last bit, all but their wall time."""
    assert (expected.step, expected.losses) == (found.step, found.losses)
    for row, other in zip(expected.curve, found.curve, strict=True):
        clocked = dict.fromkeys(CLOCKED, 0)
        assert {**row, **clocked} == {**other, **clocked}
    assert expected.model.keys() == found.model.keys()
    for name, weight in expected.model.items():
        assert torch.equal(weight, found.model[name]), name
    states, others = expected.optimizer["state"], found.optimizer["state"]
    assert states.keys() == others.keys()
    for key, state in states.items():
        assert all(torch.equal(value, others[key][name]) for name, value in state.items()), key
    assert expected.optimizer["param_groups"] == found.optimizer["param_groups"]


@pytest.fixture(scope="module", name="undisturbed")
def _undisturbed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.set_num_threads(1)
    return train(Store(finished / "store"), tmp_path_factory.mktemp("run") / "run", RANDOM)


# ------------------------------------------------------------------ stopping and going on


@pytest.mark.parametrize("step", range(1, 10))
def test_a_run_stopped_after_any_step_ends_as_an_undisturbed_one(
    finished, tmp_path, undisturbed, step
):
    store = Store(finished / "store")
    with pytest.raises(Interrupted):
        train(store, tmp_path / "run", RANDOM, progress=stop_at(step))
    torch.manual_seed(12345)  # what else draws numbers does not matter
    end = train(store, tmp_path / "run", RANDOM)

    assert_same_end(undisturbed, end)
    read = load_checkpoint(tmp_path / "run")
    assert read is not None
    assert_same_end(undisturbed, read)


def test_a_run_stopped_again_and_again_ends_as_an_undisturbed_one(finished, tmp_path, undisturbed):
    store = Store(finished / "store")
    for step in (2, 4, 5, 7, 8):
        with pytest.raises(Interrupted):
            train(store, tmp_path / "run", RANDOM, progress=stop_at(step))

    assert_same_end(undisturbed, train(store, tmp_path / "run", RANDOM))


@pytest.mark.parametrize("kept", range(17))
def test_a_run_killed_between_any_two_of_its_files_ends_with_all_of_them(
    finished, tmp_path, monkeypatch, undisturbed, kept
):
    """The files are run.json, then weights, card (2), curve and checkpoint of steps 3, 6 and 9."""
    store, folder = Store(finished / "store"), tmp_path / "run"
    write, written = checkpoint_module.write_whole, []

    def write_some(path: Path, content: bytes | str) -> None:
        if len(written) == kept:
            raise Interrupted
        written.append(path.name)
        write(path, content)

    with monkeypatch.context() as patch:
        for module in (checkpoint_module, weights_module, card_module):
            patch.setattr(module, "write_whole", write_some)
        if kept < 16:
            with pytest.raises(Interrupted):
                train(store, folder, RANDOM)
        else:
            train(store, folder, RANDOM)
    end = train(store, folder, RANDOM)

    assert_same_end(undisturbed, end)
    with (folder / "learning_curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [4, 8, 9]
    assert [float(row["seconds"]) for row in rows] == [row["seconds"] for row in end.curve]
    kept_weights = weights_of_run(folder).model.state_dict()
    assert all(torch.equal(kept_weights[name], one) for name, one in undisturbed.model.items())


# ------------------------------------------------------------------ stopping, keeping the best


BEST = make_config(DROPPED, evaluate_every=1, checkpoint_every=4, patience=3, keep="best")
SCORES = (0.1, 0.2, 0.6, 0.5, 0.6, 0.3, 0.9, 0.9, 0.9)  # three rows later nothing beats the third


@pytest.fixture(name="rigged")
def _rigged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the rows of a curve the scores above, whatever the model does."""

    def rig(journal: Journal, scores: dict[str, float]) -> None:
        add_row(journal, {"r2 lab/a hand x": SCORES[journal.step - 1]})

    add_row = Journal.add_row
    monkeypatch.setattr(Journal, "add_row", rig)


def weights_at(store: Store, folder: Path, config: Config, step: int) -> dict[str, torch.Tensor]:
    """Return the weights of a run that is stopped after a step."""
    with pytest.raises(KeyboardInterrupt):
        train(store, folder, config, progress=signal_at(step))
    checkpoint = load_checkpoint(folder)
    assert checkpoint is not None
    assert checkpoint.step == step
    return checkpoint.model


def signal_at(step: int, number: int = signal.SIGINT) -> Callable[[str, int, int], None]:
    def progress(label: str, done: int, total: int) -> None:
        if done == step - 1:  # it comes while the next step is under way
            os.kill(os.getpid(), number)

    return progress


@pytest.mark.usefixtures("rigged")
def test_a_run_ends_when_its_score_stalls_and_keeps_the_best_weights(finished, tmp_path):
    store = Store(finished / "store")

    end = train(store, tmp_path / "run", BEST)

    assert end.step == 6
    kept = weights_of_run(tmp_path / "run")
    assert kept.about["step"] == "3"
    expected = weights_at(store, tmp_path / "other", BEST, 3)
    assert all(torch.equal(kept.model.state_dict()[name], one) for name, one in expected.items())
    assert evaluate(store, tmp_path / "run").step == 3


@pytest.mark.usefixtures("rigged")
@pytest.mark.parametrize("step", range(1, 6))
def test_a_run_that_keeps_the_best_weights_may_be_stopped_anywhere(finished, tmp_path, step):
    store = Store(finished / "store")
    undisturbed = train(store, tmp_path / "run", BEST)
    with pytest.raises(Interrupted):
        train(store, tmp_path / "other", BEST, progress=stop_at(step))

    assert_same_end(undisturbed, train(store, tmp_path / "other", BEST))
    first, second = (weights_of_run(tmp_path / name) for name in ("run", "other"))
    assert first.about["step"] == second.about["step"] == "3"
    for name, one in first.model.state_dict().items():
        assert torch.equal(one, second.model.state_dict()[name]), name


@pytest.mark.parametrize("setting", [{"patience": 2}, {"keep": "best"}])
def test_choosing_by_a_split_without_time_is_refused(tmp_path, setting):
    splits = make_splits((0.0, 15.0, "train"), (15.0, 20.0, "test"))
    store = make_store(tmp_path / "store", make_recording(splits=splits))

    with pytest.raises(ConfigError, match=f"train.{next(iter(setting))} = .* on the split 'valid'"):
        train(store, tmp_path / "run", make_config(**setting))
    assert not (tmp_path / "run").exists()


def test_where_nothing_can_be_scored_the_last_weights_are_kept_and_that_is_said(tmp_path, caplog):
    one = make_recording()
    values, times = np.array(one.series["hand"].values), one.series["hand"].times()
    values[times >= 12.0] = 1.0  # behind the training split
    store = make_store(tmp_path / "store", with_values(one, "hand", values))

    end = train(store, tmp_path / "run", make_config(keep="best", patience=1))

    assert end.step == 9
    kept = weights_of_run(tmp_path / "run")
    assert kept.about["step"] == "9"
    assert all(torch.equal(end.model[name], one) for name, one in kept.model.state_dict().items())
    assert "train.keep = 'best' keeps the last weights" in caplog.text
    assert evaluate(store, tmp_path / "run").step == 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_signal_ends_a_run_after_the_step_with_a_checkpoint(
    finished, tmp_path, undisturbed, step, number
):
    store = Store(finished / "store")
    before = signal.getsignal(number)

    with pytest.raises(KeyboardInterrupt):
        train(store, tmp_path / "run", RANDOM, progress=signal_at(step, number))

    assert signal.getsignal(number) == before
    stopped = load_checkpoint(tmp_path / "run")
    assert stopped is not None
    assert stopped.step == step
    assert_same_end(undisturbed, train(store, tmp_path / "run", RANDOM))


def twice(number: int) -> Callable[[str, int, int], None]:
    def progress(label: str, done: int, total: int) -> None:
        if done == 4:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

    return progress


def test_a_second_ctrl_c_interrupts_at_once(finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Store(finished / "store"), tmp_path / "run", RANDOM, progress=twice(signal.SIGINT))

    stopped = load_checkpoint(tmp_path / "run")
    assert stopped is not None
    assert stopped.step == 3


def test_a_second_sigterm_leaves_time_for_the_checkpoint(finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Store(finished / "store"), tmp_path / "run", RANDOM, progress=twice(signal.SIGTERM))

    stopped = load_checkpoint(tmp_path / "run")
    assert stopped is not None
    assert stopped.step == 5


def test_a_folder_in_which_another_process_trains_is_refused(finished, tmp_path, undisturbed):
    """One that is behind would write its checkpoint over that of the other."""
    store, tried = Store(finished / "store"), []

    def progress(label: str, done: int, total: int) -> None:
        with pytest.raises(ConfigError, match=f"Another process trains in {tmp_path}"):
            train(store, tmp_path / "run", RANDOM)
        tried.append(done)

    assert_same_end(undisturbed, train(store, tmp_path / "run", RANDOM, progress=progress))
    assert tried == list(range(1, 10))
    assert train(store, tmp_path / "run", RANDOM).step == 9


def test_nothing_is_written_into_a_folder_that_was_given_to_another_run(finished, tmp_path):
    """Its checkpoint would pass for the other's, whose settings it was not trained with."""
    store = Store(finished / "store")
    train(store, tmp_path / "other", RANDOM)

    def progress(label: str, done: int, total: int) -> None:
        if done == 4:
            shutil.rmtree(tmp_path / "run")
            shutil.copytree(tmp_path / "other", tmp_path / "run")

    with pytest.raises(CheckpointError, match=r"now holds another run .* nothing of step 6"):
        train(store, tmp_path / "run", make_config(seed=1), progress=progress)
    for path in (tmp_path / "other").iterdir():
        assert path.read_bytes() == (tmp_path / "run" / path.name).read_bytes()


def test_a_file_system_without_locks_is_trained_on(finished, tmp_path, monkeypatch):
    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(checkpoint_module.fcntl, "flock", flock)
    assert train(Store(finished / "store"), tmp_path / "run", make_config(steps=1)).step == 1


def test_a_signal_that_is_ignored_stays_so(finished, tmp_path):
    """As that of Ctrl-C in a process that a script started in the background."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        end = train(Store(finished / "store"), tmp_path / "run", RANDOM,
                    progress=signal_at(3, signal.SIGTERM))  # fmt: skip
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)

    assert end.step == 9


def test_a_run_goes_on_with_another_number_of_threads(finished, tmp_path, undisturbed):
    store = Store(finished / "store")
    with pytest.raises(Interrupted):
        train(store, tmp_path / "run", RANDOM, progress=stop_at(5))
    settings = RANDOM.train.model_copy(update={"threads": 2})

    end = train(store, tmp_path / "run", RANDOM.model_copy(update={"train": settings}))
    assert_same_end(undisturbed, end)


def test_a_run_is_saved_after_a_while_even_if_no_checkpoint_is_due(
    finished, tmp_path, monkeypatch, undisturbed
):
    monkeypatch.setattr(train_module, "SAVE_SECONDS", 0.0)
    store = Store(finished / "store")

    with pytest.raises(Interrupted):
        train(store, tmp_path / "run", RANDOM, progress=stop_at(2))

    saved = load_checkpoint(tmp_path / "run")
    assert saved is not None
    assert saved.step == 2  # of which three are asked for
    assert_same_end(undisturbed, train(store, tmp_path / "run", RANDOM))


# ------------------------------------------------------------------ killing


KILLER = """
import os, signal, sys, time
from pathlib import Path
import torch
from spikedata.store import Store
from spikedata_model.config import Config
from spikedata_model.train import train

torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports the rest of torch once
store, folder, config = Store(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
checkpoint, last = folder / "checkpoint.pt", 0
for delay in map(float, sys.argv[4:]):
    child = os.fork()
    if child == 0:
        train(store, folder, Config.model_validate_json(config))
        os._exit(0)
    while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == last:
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    last = checkpoint.stat().st_mtime_ns
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX kills without asking")
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(finished, tmp_path):
    """The killer has loaded torch but never used it, so that its children may."""
    config = make_config(
        DROPPED, unit_dropout=DROPOUT, steps=100, evaluate_every=60, checkpoint_every=4
    )
    undisturbed = train(Store(finished / "store"), tmp_path / "undisturbed", config)
    delays = [str(random.Random(seed).uniform(0, 0.08)) for seed in range(3)]
    subprocess.run(
        [sys.executable, "-c", KILLER, finished / "store", tmp_path / "run",
         config.model_dump_json(), *delays],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=120,
    )  # fmt: skip
    stopped = load_checkpoint(tmp_path / "run")

    assert stopped is not None
    assert 0 < stopped.step < 100
    assert_same_end(undisturbed, train(Store(finished / "store"), tmp_path / "run", config))


def test_a_finished_run_is_left_as_it_is(store, run):
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.iterdir()}
    steps: list[int] = []
    end = train(store, run, make_config(), progress=lambda label, done, total: steps.append(done))

    assert steps == []
    assert end.step == 9
    assert before == {
        path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.iterdir()
    }


# ------------------------------------------------------------------ steps


def test_the_curve_has_a_row_at_every_evaluation_and_at_the_end(undisturbed):
    assert [row["step"] for row in undisturbed.curve] == [4, 8, 9]
    for row in undisturbed.curve:
        assert list(row) == [
            "step", "seconds", "loss", "mean r2", "tokens_per_s", "seconds_left", "memory_mb",
            "r2 lab/a hand x", "r2 lab/a hand y",
            "r2 lab/b hand x", "r2 lab/b hand y",
        ]  # fmt: skip
    seconds = [row["seconds"] for row in undisturbed.curve]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= undisturbed.seconds


def test_the_last_row_of_the_curve_scores_the_final_weights_on_the_split(finished, undisturbed):
    store = Store(finished / "store")
    data = prepare_data(store, tuple(store), RANDOM)
    model = Poyo(RANDOM.model, 7, 2, data.channels)
    model.load_state_dict(undisturbed.model)

    for one in predict(model, data, RANDOM, "valid"):
        for channel, score in zip(one.columns, r2_score(one.truth, one.predicted), strict=True):
            name = f"r2 {one.recording_id} {one.target} {channel}"
            assert undisturbed.curve[-1][name] == float(score)


def test_a_recording_without_the_curve_split_is_trained_without_scores(tmp_path):
    splits = make_splits((0.0, 20.0, "train"))
    store = make_store(tmp_path / "store", make_recording(splits=splits))
    end = train(store, tmp_path / "run", make_config())

    assert list(end.curve[-1]) == [
        "step", "seconds", "loss", "tokens_per_s", "seconds_left", "memory_mb",
    ]  # fmt: skip


def test_the_seed_decides_the_weights(finished, tmp_path, undisturbed):
    other = RANDOM.model_copy(update={"train": RANDOM.train.model_copy(update={"seed": 1})})
    end = train(Store(finished / "store"), tmp_path / "run", other)

    assert any(not torch.equal(one, end.model[name]) for name, one in undisturbed.model.items())


def train_step(model, optimizer, sampler, tokenizer, data, settings, step: int) -> float:
    """Take optimiser step number `step` with one thread, and return its loss."""
    inputs = prepare_inputs(model, sampler, tokenizer, data, step)
    with Workers(torch.device("cpu"), "float32", 1) as workers:
        return take_step(model, optimizer, workers, inputs, settings, step)[0]


def one_step(config: Config, step: int = 0, batch_size: int = 3) -> tuple[Poyo, float]:
    recording = make_recording()
    data = prepare_data({"lab/a": recording}, ("lab/a",), config)
    torch.manual_seed(0)
    model = Poyo(config.model, 4, 1, data.channels)
    sampler = training_sampler(data, config, batch_size)
    optimizer = make_optimizer(model, config.train)
    tokenizer = data.tokenizer(sampler, config)
    return model, train_step(model, optimizer, sampler, tokenizer, data, config.train, step)


def test_weights_do_not_depend_on_how_many_threads_there_are(finished, tmp_path, undisturbed):
    """Nor do the curve's scores: windows are taken alike, and gradients added in their order."""
    store = Store(finished / "store")
    ends = []
    for threads in (1, 3):
        settings = RANDOM.train.model_copy(update={"threads": threads})
        config = RANDOM.model_copy(update={"train": settings})
        ends.append(train(store, tmp_path / f"{threads}", config))

    for end in ends:
        assert all(torch.equal(one, end.model[name]) for name, one in undisturbed.model.items())
        assert end.losses == undisturbed.losses


@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
def test_windows_taken_a_few_at_a_time_have_the_gradient_of_the_whole_batch(at_once):
    config = make_config()
    recordings = {
        "lab/a": make_recording(targets=("hand", "heading")),
        "lab/b": make_recording("lab/b", seed=1, n_units=3, sample_rate=33.0),
    }
    data = prepare_data(recordings, tuple(recordings), config)
    sampler = training_sampler(data, config, 8)
    torch.manual_seed(0)
    model = Poyo(config.model, 7, 2, data.channels)
    inputs = prepare_inputs(model, sampler, data.tokenizer(sampler, config), data, 1)
    predicted = model(inputs.tokens)
    total = sum(predicted[name].numel() for name in data.channels)
    sum(
        (predicted[name] - inputs.target[name]).square().sum() / total for name in data.channels
    ).backward()
    expected = {name: one.grad.clone() for name, one in model.named_parameters()}
    model.zero_grad()
    with Workers(torch.device("cpu"), "float32", 2, at_once) as workers:
        backward(model, workers, inputs, [0])

    for name, one in model.named_parameters():
        torch.testing.assert_close(expected[name], one.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"unit_dropout": DROPOUT}])
def test_a_step_draws_the_same_numbers_whatever_was_drawn_before(changes):
    config = make_config(DROPPED, **changes)
    torch.manual_seed(1)
    first, loss = one_step(config, step=3)
    torch.manual_seed(2)
    np.random.default_rng(2).random(100)
    second, again = one_step(config, step=3)

    assert loss == again
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_unit_dropout_changes_what_the_model_sees_in_every_step():
    few = DROPOUT | {"max_units": 2}
    losses = {one_step(make_config(unit_dropout=one), step=2)[1] for one in (None, DROPOUT, few)}

    assert len(losses) == 3


def test_the_loss_is_the_mean_squared_error_of_the_normalised_targets():
    config = make_config(learning_rate=1e-9)
    recording = make_recording(targets=("hand", "heading"))
    data = prepare_data({"lab/a": recording}, ("lab/a",), config)
    torch.manual_seed(0)
    model = Poyo(config.model, 4, 1, data.channels)
    with torch.no_grad():
        for parameter in model.readout.parameters():
            parameter.zero_()
    sampler = data.sampler("train", config, batch_size=3)
    batch = sampler.batch(0, 0)
    squares = [data.normalised(batch, name).square().flatten() for name in data.channels]
    tokenizer, optimizer = data.tokenizer(sampler, config), make_optimizer(model, config.train)
    loss = train_step(model, optimizer, sampler, tokenizer, data, config.train, 0)

    assert loss == pytest.approx(float(torch.cat(squares).mean()), rel=1e-5)


def test_a_step_clips_the_gradient_and_uses_the_rate_of_the_schedule():
    """Adam divides the gradient by its size: the first step moves every weight by the rate."""
    config = make_config(learning_rate=0.01, warmup=1.0, weight_decay=0.0, clip=1e-3)
    before, _ = one_step(make_config(learning_rate=1e-12))
    after, _ = one_step(config)
    moved = (after.readout[0].bias - before.readout[0].bias).abs()

    assert moved.tolist() == pytest.approx(
        [0.01 * learning_rate_factor(0, config.train)] * 2, rel=0.01
    )
    norm = torch.cat([p.grad.flatten() for p in after.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_a_batch_without_spikes_trains_and_stays_finite(tmp_path):
    silent = without_spikes(make_recording(), IntervalSet.empty())
    store = make_store(tmp_path / "store", silent)
    end = train(store, tmp_path / "run", make_config(unit_dropout=DROPOUT))

    assert all(weight.isfinite().all() for weight in end.model.values())
    assert np.isfinite(end.curve[-1]["loss"])


def test_windows_without_samples_train_and_stay_finite(tmp_path):
    """Behaviour may pause for longer than a window."""
    recording = make_recording(targets=("heading",))
    series = recording.series["heading"]
    kept = (series.time < 1.5) | (series.time > 11)
    paused = replace(series, time=series.time[kept], values=series.values[kept])
    store = make_store(tmp_path / "store", replace(recording, series={"heading": paused}))
    end = train(store, tmp_path / "run", make_config(batch_size=1))

    assert all(weight.isfinite().all() for weight in end.model.values())
    assert np.isfinite([row["loss"] for row in end.curve]).all()


def test_samples_weigh_in_the_loss_as_the_recipe_says():
    """A factor of 0 takes samples out of the loss, as if they were not there."""
    reach = IntervalSet.single(0.0, 6.0)
    recording = replace(make_recording(), intervals={"reach": reach})
    losses = {}
    for name, weights in (("none", {}), ("nothing", {"reach": 0.0}), ("more", {"reach": 5.0})):
        recipe = {"recordings": "lab/*", "weights": weights}
        data_config = DataConfig.model_validate({"recipes": [recipe]})
        config = make_config(learning_rate=1e-9).model_copy(update={"data": data_config})
        data = prepare_data({"lab/a": recording}, ("lab/a",), config)
        torch.manual_seed(0)
        model = Poyo(config.model, 4, 1, data.channels)
        sampler = training_sampler(data, config, 8)
        batch, tokenizer = sampler.batch(0, 0), data.tokenizer(sampler, config)
        with torch.no_grad():
            error = (model(tokenizer(batch))["hand"] - data.normalised(batch, "hand")).numpy()
        offsets = batch.targets["hand"].offsets
        time = batch.targets["hand"].time + np.repeat(batch.start, np.diff(offsets))
        weight = np.where(time < 6 - 1e-4, weights.get("reach", 1.0), 1.0)
        expected = (error**2 * weight[:, None]).sum() / (2 * weight.sum())
        optimizer = make_optimizer(model, config.train)
        losses[name] = train_step(model, optimizer, sampler, tokenizer, data, config.train, 0)
        assert losses[name] == pytest.approx(expected, rel=1e-4)
    assert len(set(losses.values())) == 3


def test_a_batch_larger_than_an_epoch_shrinks_and_says_so(finished, tmp_path, caplog):
    """Others drop the last batch that is not full: here that would be all of them."""
    store = Store(finished / "store")
    config = make_config(batch_size=1000, epochs=3, steps=None)
    end = train(store, tmp_path / "run", config)
    settings = read_run(tmp_path / "run").config.train

    assert "holds 24 windows, fewer than train.batch_size (1000)" in caplog.text
    assert (settings.batch_size, settings.total_steps, end.step) == (24, 3, 3)
    assert_same_end(end, train(store, tmp_path / "run", config))


PUBLISHED = make_config(
    DROPPED, unit_dropout=DROPOUT, steps=None, epochs=2, optimizer="lamb", schedule="one_cycle",
    decay=0.5, learning_rate=1e-3, rate_per="window", clip=0.0, weight_decay=1e-4, eps=1e-6,
)  # fmt: skip
SPARING = make_config(DROPPED, unit_dropout=DROPOUT, precision="bfloat16")


@pytest.mark.parametrize("config", [PUBLISHED, SPARING], ids=["lamb and one cycle", "bfloat16"])
def test_every_optimiser_schedule_and_precision_is_resumed_to_the_last_bit(
    finished, tmp_path, config
):
    store = Store(finished / "store")
    undisturbed = train(store, tmp_path / "undisturbed", config)
    for step in (4, 7):
        with pytest.raises(Interrupted):
            train(store, tmp_path / "run", config, progress=stop_at(step))

    assert_same_end(undisturbed, train(store, tmp_path / "run", config))
    assert undisturbed.total_steps == undisturbed.step == (16 if config is PUBLISHED else 9)


def test_weights_and_moments_are_float32_whatever_the_precision(finished, tmp_path):
    end = train(Store(finished / "store"), tmp_path / "run", SPARING)
    moments = [value for state in end.optimizer["state"].values() for value in state.values()]

    assert {weight.dtype for weight in end.model.values()} == {torch.float32}
    assert {value.dtype for value in moments} == {torch.float32}


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_training_in_bfloat16_lowers_the_loss_about_as_much_as_in_float32(tmp_path, optimizer):
    """Masters that were rounded to bfloat16 would stand still: a step moves them by less."""
    model = TINY.model_copy(update={"init": "local", "dim": 32, "dim_head": 16})
    store = make_store(tmp_path / "store", make_recording(duration=40.0, n_units=12, rate=12.0))
    ends = {}
    for precision in ("float32", "bfloat16"):
        config = make_config(
            model, steps=60, batch_size=8, learning_rate=4e-3 if optimizer == "adamw" else 2e-2,
            optimizer=optimizer, precision=precision, evaluate_every=20, checkpoint_every=60,
            eps=1e-6,
        )  # fmt: skip
        curve = train(store, tmp_path / precision, config).curve
        assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
        ends[precision] = curve[-1]["loss"]
    assert ends["bfloat16"] < 1.2 * ends["float32"] + 0.02


def test_an_interrupt_while_the_next_batch_is_made_ends_at_once(finished, tmp_path, monkeypatch):
    """And leaves no thread behind that goes on reading."""
    entered = threading.Event()
    batch = Sampler.batch

    def slow(self: Sampler, epoch: int, step: int) -> object:
        if threading.current_thread() is not threading.main_thread():
            entered.set()
        return batch(self, epoch, step)

    monkeypatch.setattr(Sampler, "batch", slow)
    with pytest.raises(Interrupted):
        train(Store(finished / "store"), tmp_path / "run", RANDOM, progress=stop_at(2))

    assert entered.is_set()
    assert not any(one.name.startswith("next-batch") for one in threading.enumerate())


def test_an_error_while_the_next_batch_is_made_is_raised(finished, tmp_path, monkeypatch):
    batch = Sampler.batch

    def failing(self: Sampler, epoch: int, step: int) -> object:
        if step == 2:
            raise SamplingError("no such batch.")
        return batch(self, epoch, step)

    monkeypatch.setattr(Sampler, "batch", failing)
    with pytest.raises(SamplingError, match="no such batch"):
        train(Store(finished / "store"), tmp_path / "run", RANDOM)


# ------------------------------------------------------------------ refusals


def test_a_store_without_recordings_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no recording to train on"):
        train(make_store(tmp_path / "store"), tmp_path / "run", make_config())
    assert not (tmp_path / "run").exists()


def test_a_recording_that_the_store_lacks_is_refused_with_a_near_name(store, tmp_path):
    with pytest.raises(RecordingNotFoundError, match="did you mean 'lab/a'"):
        train(store, tmp_path / "run", make_config(), recording_ids=["lab/aa"])
    assert not (tmp_path / "run").exists()


def test_a_recording_named_twice_is_trained_on_once(store, tmp_path):
    end = train(store, tmp_path / "run", make_config(), recording_ids=["lab/a", "lab/a"])

    assert end.model["unit_embedding.weight"].shape[0] == 4


def test_training_intervals_shorter_than_the_context_are_refused_before_anything_is_written(
    tmp_path,
):
    splits = make_splits(*((2.0 * n, 2.0 * n + 0.5, "train") for n in range(9)))
    store = make_store(tmp_path / "store", make_recording(splits=splits))

    with pytest.raises(SamplingError, match="holds no window of"):
        train(store, tmp_path / "run", make_config())
    assert not (tmp_path / "run").exists()


def test_a_recording_that_gives_no_window_is_refused_and_not_passed_over(tmp_path):
    splits = make_splits(*((2.0 * n, 2.0 * n + 0.5, "train") for n in range(9)))
    store = make_store(
        tmp_path / "store", make_recording(), make_recording("lab/pieces", splits=splits)
    )

    with pytest.raises(ConfigError, match=r"lab/pieces: .* \(1 of 2 recordings are so\)"):
        train(store, tmp_path / "run", make_config())
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(store, tmp_path):
    """Or the folder would insist on the GPU for ever."""
    with pytest.raises(ConfigError, match="finds no GPU here: use 'auto' or 'cpu'"):
        train(store, tmp_path / "run", make_config(device="cuda"))
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ learning


def test_the_smoke_preset_overfits_one_batch():
    config = load_config(
        "smoke", ["train.steps=150", "train.learning_rate=5e-3", "train.decay=0.5"]
    )
    recording = make_recording(duration=13.5, rate=15.0)  # eight windows of training
    data = prepare_data({"lab/a": recording}, ("lab/a",), config)
    sampler = data.sampler("train", config, batch_size=8, order="sequential", stride=1.0)
    assert sampler.steps() == 2
    torch.manual_seed(0)
    model = Poyo(config.model, 4, 1, data.channels)
    optimizer = make_optimizer(model, config.train)
    tokenizer = data.tokenizer(sampler, config)
    losses = [
        train_step(model, optimizer, sampler, tokenizer, data, config.train, step)
        for step in range(150)
    ]

    assert np.mean(losses[:2]) > 0.5
    assert np.mean(losses[-4:]) < 0.1


@pytest.mark.parametrize("init", ["published", "local"])
def test_a_short_training_decodes_linear_tuning_far_better_than_the_mean(tmp_path, init):
    model = TINY.model_copy(update={"init": init, "dim": 32, "dim_head": 16, "latent_step": 0.125})
    config = make_config(
        model, steps=100, batch_size=8, learning_rate=4e-3, evaluate_every=100, checkpoint_every=100
    )
    recording = make_recording(duration=80.0, n_units=16, rate=12.0)
    end = train(make_store(tmp_path / "store", recording), tmp_path / "run", config)
    scores = [value for name, value in end.curve[-1].items() if name.startswith("r2")]

    assert len(scores) == 2
    assert min(scores) > 0.5, scores
