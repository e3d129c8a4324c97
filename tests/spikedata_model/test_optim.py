from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.config import TrainConfig
from spikedata_model.optim import (
    Lamb,
    RowAdamW,
    learning_rate_factor,
    make_optimizer,
    momentum,
    set_learning_rate,
)
from spikedata_model.poyo import Poyo
from tests.spikedata_model.builders import TINY

CONFIG = TrainConfig(
    steps=100, warmup=0.1, decay=0.4, learning_rate=0.01, embedding_rate=3.0, weight_decay=0.2
)
LAMB = CONFIG.model_copy(update={"optimizer": "lamb"})
BOTH = pytest.mark.parametrize("config", [CONFIG, LAMB], ids=["adamw", "lamb"])


@pytest.fixture(name="model")
def _model() -> Poyo:
    return Poyo(TINY, 5, 2, {"hand": 2})


# ------------------------------------------------------------------ schedules


def test_the_rate_rises_stays_and_falls_in_straight_lines():
    factors = [learning_rate_factor(step, CONFIG) for step in range(100)]

    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[9:61] == [1.0] * 52
    assert factors[60:] == pytest.approx([(100 - step) / 40 for step in range(60, 100)])


@given(
    st.integers(1, 500), st.floats(0, 1), st.floats(0, 1),
    st.sampled_from(["trapezoid", "one_cycle"]), st.lists(st.integers(0, 499), min_size=1),
)  # fmt: skip
def test_the_rate_is_a_function_of_the_step_alone_in_any_order(steps, warmup, decay, name, asked):
    config = TrainConfig(steps=steps, warmup=warmup, decay=decay, schedule=name)
    asked = [step % steps for step in asked]
    first = {step: (learning_rate_factor(step, config), momentum(step, config)) for step in asked}

    assert all(0 < factor <= 1 and 0 < beta1 < 1 for factor, beta1 in first.values())
    for step in reversed(asked):
        assert (learning_rate_factor(step, config), momentum(step, config)) == first[step]


@pytest.mark.parametrize("decay", [0.5, 0.4, 0.75, 0.9])
@pytest.mark.parametrize("steps", [7, 10, 101, 1000])
def test_one_cycle_is_that_of_torch_at_every_step(steps, decay):
    weight = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.AdamW([weight], lr=0.032)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        theirs, 0.032, total_steps=steps, pct_start=1 - decay, div_factor=1
    )
    config = TrainConfig(
        steps=steps, schedule="one_cycle", decay=decay, learning_rate=0.032, warmup=0.3, beta1=0.5
    )
    ours = torch.optim.AdamW([{"params": [weight], "scale": 1.0}])
    for step in range(steps):
        set_learning_rate(ours, step, config)
        expected, found = theirs.param_groups[0], ours.param_groups[0]
        assert found["lr"] == pytest.approx(expected["lr"], rel=1e-9, abs=1e-15)
        assert found["betas"][0] == pytest.approx(expected["betas"][0], rel=1e-9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no step was taken before the schedule's
            if step + 1 < steps:
                scheduler.step()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_of_a_few_steps_has_a_rate_and_a_momentum(steps):
    config = TrainConfig(steps=steps, schedule="one_cycle", decay=0.5)
    for step in range(steps):
        assert 0 < learning_rate_factor(step, config) <= 1
        assert 0.85 <= momentum(step, config) <= 0.95


def test_the_rate_of_a_group_is_its_share_of_the_schedule(model):
    optimizer = make_optimizer(model, CONFIG)
    for step in (0, 99, 30):  # not in order: nothing is accumulated
        set_learning_rate(optimizer, step, CONFIG)
        factor = learning_rate_factor(step, CONFIG)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [0.03 * factor, 0.03 * factor, 0.01 * factor, 0.01 * factor]
        )


# ------------------------------------------------------------------ groups


@BOTH
def test_every_parameter_is_in_exactly_one_group(model, config):
    grouped = [
        id(p) for group in make_optimizer(model, config).param_groups for p in group["params"]
    ]

    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_weight_decay_of_adamw_is_on_matrices_alone_and_that_of_lamb_on_all(model):
    tables = {id(table.weight) for table in model.embeddings()}
    for config in (CONFIG, LAMB):
        decayed = {
            id(parameter)
            for group in make_optimizer(model, config).param_groups
            for parameter in group["params"]
            if group["weight_decay"] == 0.2
        }
        for name, parameter in model.named_parameters():
            is_matrix = parameter.ndim == 2 and id(parameter) not in tables
            assert (id(parameter) in decayed) == (is_matrix or config is LAMB), name


@BOTH
def test_the_tables_of_units_and_recordings_alone_are_updated_by_row(model, config):
    groups = make_optimizer(model, config).param_groups
    by_row = {id(p) for group in groups if group["rows"] for p in group["params"]}

    assert by_row == {id(model.unit_embedding.weight), id(model.recording_embedding.weight)}


def test_all_four_embedding_tables_get_the_embedding_rate_and_nothing_else_does(model):
    optimizer = make_optimizer(model, CONFIG)
    set_learning_rate(optimizer, 50, CONFIG)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}

    for name, parameter in model.named_parameters():
        expected = 0.03 if name.endswith("embedding.weight") else 0.01
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert sum(name.endswith("embedding.weight") for name, _ in model.named_parameters()) == 4


def test_the_settings_reach_the_optimiser(model):
    config = TrainConfig(beta1=0.8, beta2=0.95, eps=1e-5, trust_limit=3.0)
    adamw = make_optimizer(model, config)
    lamb = make_optimizer(model, config.model_copy(update={"optimizer": "lamb"}))

    assert isinstance(adamw, torch.optim.AdamW)
    assert isinstance(lamb, Lamb)
    for optimizer in (adamw, lamb):
        assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.95)}
        assert {group["eps"] for group in optimizer.param_groups} == {1e-5}
    assert {group["trust_limit"] for group in lamb.param_groups} == {3.0}


# ------------------------------------------------------------------ steps, one number at a time


def lamb_naively(
    weights: np.ndarray, grads: list[np.ndarray], lr: float, decay: float, limit: float, rows: bool
) -> np.ndarray:
    """Return a matrix after some steps of LAMB, in float64 and with a loop over its rows."""
    w, m, v = weights.astype(np.float64), np.zeros(weights.shape), np.zeros(weights.shape)
    for grad in grads:
        used = [row for row in range(len(w)) if not rows or any(grad[row] != 0)]
        for row in used:
            m[row] = 0.9 * m[row] + 0.1 * grad[row]
            v[row] = 0.99 * v[row] + 0.01 * grad[row] ** 2
        for row in set(range(len(w))) - set(used):
            m[row] = v[row] = 0  # as in the public code
        u = m / (np.sqrt(v) + 1e-6) + decay * w
        size, length = math.sqrt(sum(w.ravel() ** 2)), math.sqrt(sum(u.ravel() ** 2))
        ratio = min(size, limit) / length if size > 0 and length > 0 else 1.0
        for row in used:
            w[row] = w[row] - lr * ratio * u[row]
    return w


@given(
    st.integers(0, 999), st.sampled_from([0.0, 0.05]), st.sampled_from([1.0, 10.0]), st.booleans(),
    st.sampled_from([0.0, 1.0, 30.0]),
)  # fmt: skip
def test_lamb_is_its_mathematics_row_by_row(seed, decay, limit, rows, scale):
    """Some steps touch no row, all, or some; norms lie below and above the limit, or are 0."""
    rng = np.random.default_rng(seed)
    start = (scale * rng.normal(size=(6, 3))).astype(np.float32)
    grads = [rng.normal(size=(6, 3)) * (rng.random((6, 1)) < share) for share in (0.5, 0, 1, 0.3)]
    weight = torch.nn.Parameter(torch.tensor(start))
    other = torch.nn.Parameter(torch.ones(4))
    groups = [{"params": [weight], "weight_decay": decay, "rows": rows}, {"params": [other]}]
    optimizer = Lamb(groups, lr=0.1, betas=(0.9, 0.99), trust_limit=limit)
    for grad in grads:
        weight.grad, other.grad = torch.tensor(grad, dtype=torch.float32), torch.ones(4)
        optimizer.step()

    expected = lamb_naively(start, grads, 0.1, decay, limit, rows)
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=2e-4, atol=1e-5)


@given(st.integers(0, 999), st.sampled_from([0.0, 0.1]))
def test_a_row_of_adamw_moves_as_a_parameter_of_its_own(seed, decay):
    rng = np.random.default_rng(seed)
    start = torch.tensor(rng.normal(size=(5, 3)), dtype=torch.float32)
    table = torch.nn.Parameter(start.clone())
    matrix = torch.nn.Parameter(start.clone())
    settings = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": decay}
    groups = [{"params": [table], "rows": True}, {"params": [matrix], "rows": False}]
    optimizer = RowAdamW(groups, fused=True, **settings)
    alone = [torch.nn.Parameter(row.clone()) for row in start]
    each = [torch.optim.AdamW([row], **settings) for row in alone]
    whole = torch.nn.Parameter(start.clone())
    reference = torch.optim.AdamW([whole], **settings)
    for share in (0.5, 0, 1, 0.4, 0.6):
        kept = torch.tensor(rng.random((5, 1)) < share)
        grad = torch.tensor(rng.normal(size=(5, 3)), dtype=torch.float32) * kept
        table.grad, matrix.grad, whole.grad = grad.clone(), grad.clone(), grad.clone()
        optimizer.step()
        reference.step()
        for row in np.flatnonzero(kept[:, 0].numpy()):
            alone[row].grad = grad[row].clone()
            each[row].step()
        assert table.grad is not None  # those who look at gradients find all of them
        assert torch.equal(table.grad, grad)

    torch.testing.assert_close(table.data, torch.stack([row.data for row in alone]))
    torch.testing.assert_close(matrix.data, whole.data)


@BOTH
def test_rows_without_a_gradient_stay_as_they_are_to_the_last_bit(model, config):
    """Their moments stay too in AdamW; in LAMB they are forgotten, as in the public code."""
    optimizer = make_optimizer(model, config)
    for seed in range(3):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    weight = model.unit_embedding.weight
    before = weight.detach().clone()
    moments = {k: v.clone() for k, v in optimizer.state[weight].items() if "exp" in k}
    assert weight.grad is not None
    weight.grad[[0, 3]] = 0
    optimizer.step()

    for row in range(5):
        assert torch.equal(weight[row], before[row]) == (row in (0, 3))
        for name, values in moments.items():
            now = optimizer.state[weight][name][row]
            if row in (0, 3):
                assert torch.equal(now, torch.zeros_like(now) if config is LAMB else values[row])
            else:
                assert not torch.equal(now, values[row]), name


@BOTH
def test_an_optimiser_goes_on_from_its_saved_state_to_the_last_bit(config):
    def run(stop: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        model = Poyo(TINY, 5, 2, {"hand": 2})
        optimizer = make_optimizer(model, config)
        for step in range(6):
            if step == stop:
                state = optimizer.state_dict()
                optimizer = make_optimizer(model, config)
                optimizer.load_state_dict(state)
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            model.unit_embedding.weight.grad[step % 5] = 0  # type: ignore[index]
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(run(None), run(3))


@BOTH
def test_parameters_without_a_gradient_stay_as_they_are(model, config):
    optimizer = make_optimizer(model, config)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()

    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
