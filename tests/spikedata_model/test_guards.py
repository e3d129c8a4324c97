from __future__ import annotations

import math

import pytest
import torch

from spikedata.store import Store
from spikedata_model.checkpoint import load_checkpoint
from spikedata_model.errors import TrainingError
from spikedata_model.guards import check_step, check_weights, weight_norms
from spikedata_model.train import train
from tests.spikedata_model.builders import make_config


def four_layers() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(4)))


def test_norms_are_of_matrices_alone():
    model = four_layers()
    norms = weight_norms(model)

    assert list(norms) == [f"{n}.weight" for n in range(4)]
    assert norms["1.weight"] == pytest.approx(float(model[1].weight.detach().norm()))


@pytest.mark.parametrize(("gone", "refused"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_model_most_of_whose_weights_are_gone_is_refused(gone, refused):
    model = four_layers()
    start = weight_norms(model)
    with torch.no_grad():
        for layer in model[:gone]:
            layer.weight.mul_(0.009)
        for layer in model[gone:]:
            layer.weight.mul_(0.02)
    if not refused:
        check_weights(start, model, 5, 3)
        return

    with pytest.raises(TrainingError, match=f"After step 5 {gone} of 4 weights have shrunk") as one:
        check_weights(start, model, 5, 3)
    assert "lower train.weight_decay" in str(one.value)
    assert "the checkpoint of step 3 is kept" in str(one.value)


def test_a_model_most_of_whose_weights_have_blown_up_is_refused():
    model = four_layers()
    start = weight_norms(model)
    with torch.no_grad():
        for layer in model[:3]:
            layer.weight.mul_(1001)

    with pytest.raises(TrainingError, match="3 of 4 weights have grown to more than 1000 times"):
        check_weights(start, model, 5, 3)


def test_weights_that_began_at_zero_are_not_gone():
    model = four_layers()
    with torch.no_grad():
        for layer in model[:3]:
            layer.weight.zero_()

    check_weights(weight_norms(model), model, 5, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(value):
    model = four_layers()
    start = weight_norms(model)
    with torch.no_grad():
        model[2].weight[1, 1] = value

    with pytest.raises(TrainingError, match=r"weight '2\.weight' holds values that are no numbers"):
        check_weights(start, model, 5, 3)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1), (1, math.inf), (math.inf, math.nan)])
def test_a_loss_or_gradient_that_is_no_number_is_refused(loss, norm):
    check_step(4, 1.0, 0.0, 3)
    with pytest.raises(TrainingError, match=r"In step 5 the loss is .*lower train.learning_rate"):
        check_step(4, loss, norm, 0)


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_absurd_weight_decay_stops_the_run_with_a_sentence_and_keeps_a_good_checkpoint(
    finished, tmp_path, optimizer
):
    """Each step takes most of every weight away; the loss stays finite all the while."""
    decay, rate = {"adamw": (90.0, 0.01), "lamb": (1e6, 0.9)}[optimizer]
    config = make_config(
        optimizer=optimizer, weight_decay=decay, learning_rate=rate,
        warmup=0.0, decay=0.0, steps=60, checkpoint_every=1, evaluate_every=60, clip=0.0,
    )  # fmt: skip
    store = Store(finished / "store")
    with pytest.raises(TrainingError, match=r"have shrunk to less than 1 %.*is kept\.$"):
        train(store, tmp_path / "run", config)
    kept = load_checkpoint(tmp_path / "run")

    assert kept is not None
    assert 0 < kept.step < 60
    assert all(weight.isfinite().all() for weight in kept.model.values())
    with pytest.raises(TrainingError, match=f"the checkpoint of step {kept.step} is kept"):
        train(store, tmp_path / "run", config)  # going on ends where it ended


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 1e30), ("lamb", 1e30)])
def test_an_absurd_rate_stops_the_run_with_a_sentence_and_writes_no_bad_checkpoint(
    finished, tmp_path, optimizer, rate
):
    config = make_config(
        optimizer=optimizer, learning_rate=rate, warmup=0.0, checkpoint_every=1, clip=0.0
    )
    with pytest.raises(TrainingError, match=r"no number|the loss is") as caught:
        train(Store(finished / "store"), tmp_path / "run", config)
    kept = load_checkpoint(tmp_path / "run")

    assert "\n" not in str(caught.value)
    assert kept is None or all(weight.isfinite().all() for weight in kept.model.values())
