from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.config import TrainConfig
from spikedata_model.optim import learning_rate_factor, make_optimizer, set_learning_rate
from spikedata_model.poyo import Poyo
from tests.spikedata_model.builders import TINY

CONFIG = TrainConfig(
    steps=100, warmup=0.1, decay=0.4, learning_rate=0.01, embedding_rate=3.0, weight_decay=0.2
)


@pytest.fixture(name="model")
def _model() -> Poyo:
    return Poyo(TINY, 5, 2, {"hand": 2})


def test_the_rate_rises_stays_and_falls_in_straight_lines():
    factors = [learning_rate_factor(step, CONFIG) for step in range(100)]

    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[9:61] == [1.0] * 52
    assert factors[60:] == pytest.approx([(100 - step) / 40 for step in range(60, 100)])


@given(
    st.integers(1, 500), st.floats(0, 1), st.floats(0, 1), st.lists(st.integers(0, 499), min_size=1)
)
def test_the_rate_is_a_function_of_the_step_alone_in_any_order(steps, warmup, decay, asked):
    config = TrainConfig(steps=steps, warmup=warmup, decay=decay)
    asked = [step % steps for step in asked]
    first = {step: learning_rate_factor(step, config) for step in asked}

    assert all(0 < factor <= 1 for factor in first.values())
    assert all(learning_rate_factor(step, config) == first[step] for step in reversed(asked))


def test_every_parameter_is_in_exactly_one_group(model):
    grouped = [
        id(p) for group in make_optimizer(model, CONFIG).param_groups for p in group["params"]
    ]

    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_weight_decay_is_on_matrices_alone(model):
    tables = {id(table.weight) for table in model.embeddings()}
    decayed = {
        id(parameter)
        for group in make_optimizer(model, CONFIG).param_groups
        for parameter in group["params"]
        if group["weight_decay"] == 0.2
    }

    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and id(parameter) not in tables
        assert (id(parameter) in decayed) == is_matrix, name


def test_all_four_embedding_tables_get_the_embedding_rate_and_nothing_else_does(model):
    optimizer = make_optimizer(model, CONFIG)
    set_learning_rate(optimizer, 50, CONFIG)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}

    for name, parameter in model.named_parameters():
        expected = 0.03 if name.endswith("embedding.weight") else 0.01
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert sum(name.endswith("embedding.weight") for name, _ in model.named_parameters()) == 4


def test_the_rate_of_a_group_is_its_share_of_the_schedule(model):
    optimizer = make_optimizer(model, CONFIG)
    for step in (0, 99, 30):  # not in order: nothing is accumulated
        set_learning_rate(optimizer, step, CONFIG)
        factor = learning_rate_factor(step, CONFIG)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [0.01 * factor, 0.03 * factor, 0.01 * factor]
        )


def test_beta2_reaches_the_optimiser(model):
    optimizer = make_optimizer(model, TrainConfig(beta2=0.95))

    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.95)}
