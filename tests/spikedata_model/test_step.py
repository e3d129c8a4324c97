from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spikedata_model import step as step_module
from spikedata_model.data import prepare_data
from spikedata_model.errors import VocabularyError
from spikedata_model.poyo import Poyo
from spikedata_model.step import Inputs, backward, prepare_inputs
from spikedata_model.train import training_sampler
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.workers import Workers
from tests.spikedata_model.builders import make_config, make_recording

CPU = torch.device("cpu")


def model_and_inputs(n_units: int = 90, **changes: object) -> tuple[Poyo, Inputs]:
    """Return a model of many units and three targets, of which a batch uses few."""
    config = make_config(batch_size=8)
    recording = make_recording(**changes)  # type: ignore[arg-type]
    data = prepare_data({"lab/a": recording}, ("lab/a",), config)
    others = tuple(f"other/u{n}" for n in range(n_units))
    ids = tuple(str(name) for name in recording.unit_ids)
    vocabulary = Vocabulary(others[:50] + ids + others[50:], ("lab/x", "lab/y", "lab/a", "lab/z"))
    data = replace(data, vocabulary=vocabulary, readouts=("hand", "eye"))
    sampler = training_sampler(data, config)
    torch.manual_seed(0)
    model = Poyo(config.model, len(vocabulary.unit_ids), 4, {"hand": 2, "eye": 3})
    return model, prepare_inputs(model, sampler, data.tokenizer(sampler, config), data, 1)


def naive_gradients(model: Poyo, inputs: Inputs) -> dict[str, torch.Tensor | None]:
    """Return the gradients by torch's own way, of all windows and all rows at once."""
    model.zero_grad()
    error = model(inputs.tokens)["hand"] - inputs.target["hand"]
    (error.square() * inputs.weight["hand"][:, None]).sum().div(inputs.total).backward()
    found = {name: one.grad for name, one in model.named_parameters()}
    model.zero_grad()
    return found


def test_gradients_of_few_rows_are_those_of_whole_tables():
    """Readouts that nothing was asked of have none, so that optimisers leave them alone."""
    model, inputs = model_and_inputs()
    tables = {name: one for name, one in model.named_parameters() if "_embedding" in name}
    expected = naive_gradients(model, inputs)
    with Workers(CPU, "float32", 2) as workers:
        backward(model, workers, inputs, [0])

    for name, one in model.named_parameters():
        if "readout.1" in name:
            assert one.grad is None
        else:
            torch.testing.assert_close(one.grad, expected[name], rtol=1e-4, atol=1e-6)
        assert tables.get(name, one) is one
    used = model.unit_embedding.weight.grad.any(dim=1)  # type: ignore[union-attr]
    assert used.nonzero().flatten().tolist() == [50, 51, 52, 53]


@pytest.mark.parametrize("windows", [1, 8])
def test_a_piece_has_the_gradient_of_the_rows_of_the_batch_alone(monkeypatch, windows):
    """Of a million units, each piece would have a gradient of half a gigabyte."""
    sizes = []
    add_up = step_module.add_up

    def watched(parts, add):
        parts = list(parts)
        sizes.extend(len(one) for _, one in parts)
        return add_up(parts, add)

    monkeypatch.setattr(step_module, "add_up", watched)
    few, many = model_and_inputs(0), model_and_inputs(5000)
    with Workers(CPU, "float32", 1, windows) as workers:
        for model, inputs in (few, many):
            backward(model, workers, inputs, [0])

    assert len(set(sizes)) == 1


def test_the_loss_and_gradient_are_the_same_whether_facts_of_the_batch_are_given_or_not():
    model, inputs = model_and_inputs()
    found = []
    for one in (inputs, replace(inputs, whole=None)):
        with Workers(CPU, "float32", 1) as workers:
            loss = backward(model, workers, one, [0])
        grads = [part.grad for part in model.parameters() if part.grad is not None]
        found.append(torch.cat([loss[None], *(grad.flatten() for grad in grads)]))

    assert torch.equal(*found)


def test_frozen_parameters_get_no_gradient():
    model, inputs = model_and_inputs()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for table in (model.unit_embedding, model.recording_embedding):
        table.requires_grad_(True)
    with Workers(CPU, "float32", 1) as workers:
        backward(model, workers, inputs, [0])

    given = {name for name, one in model.named_parameters() if one.grad is not None}
    assert given == {"unit_embedding.weight", "recording_embedding.weight"}


@pytest.mark.parametrize("row", [-1, 94, 1000])
def test_rows_that_no_table_has_are_refused_and_tables_stay_whole(row):
    model, inputs = model_and_inputs()
    unit_T = inputs.tokens.unit_T.clone()
    unit_T[3] = row
    tokens = replace(inputs.tokens, unit_T=unit_T)
    with (
        Workers(CPU, "float32", 1) as workers,
        pytest.raises(VocabularyError, match=f"for row {row} of 'unit_embedding', which has 94"),
    ):
        backward(model, workers, replace(inputs, tokens=tokens, whole=None), [0])

    assert model.unit_embedding.weight.shape == (94, 16)


def test_tables_are_whole_again_after_an_error_in_a_piece(monkeypatch):
    model, inputs = model_and_inputs()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.encoder, "forward", fail)
    with Workers(CPU, "float32", 2) as workers, pytest.raises(RuntimeError, match="out of memory"):
        backward(model, workers, inputs, [0])

    assert model.unit_embedding.num_embeddings == len(model.unit_embedding.weight) == 94
    assert model.recording_embedding.num_embeddings == len(model.recording_embedding.weight) == 4


def test_windows_without_any_token_have_a_finite_gradient():
    model, inputs = model_and_inputs()
    tokens = inputs.tokens
    empty = replace(
        tokens, unit_T=tokens.unit_T[:0], type_T=tokens.type_T[:0], time_T=tokens.time_T[:0],
        token_offsets=(0,) * len(tokens.token_offsets),
    )  # fmt: skip
    with Workers(CPU, "float32", 1) as workers:
        loss = backward(model, workers, replace(inputs, tokens=empty, whole=None), [0])

    assert np.isfinite(float(loss))
    assert not model.unit_embedding.weight.grad.any()  # type: ignore[union-attr]
