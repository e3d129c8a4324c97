"""The Kalman filter, beside the textbook."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.entrants import kalman
from spikedata_model.leaderboard.entrants.kalman import (
    Dynamics,
    Filter,
    Kalman,
    Settings,
    fit_dynamics,
)
from tests.spikedata_model.leaderboard.sessions import make_segments, make_session, rules


def make_dynamics(seed: int = 0, states: int = 2, units: int = 5) -> Dynamics:
    rng = np.random.default_rng(seed)
    movement = np.linalg.qr(rng.normal(size=(states, states)))[0] * 0.9
    mixed = rng.normal(size=(units, units))
    unrest = np.diag(rng.uniform(0.1, 0.3, states))
    return Dynamics(
        movement, unrest, rng.normal(size=(units, states)), mixed @ mixed.T + np.eye(units),
        rng.normal(size=units), np.eye(states),
    )  # fmt: skip


def make_filter(dynamics: Dynamics, *, smooth: bool) -> Filter:
    size = len(dynamics.movement)
    return Filter(
        dynamics, np.zeros(size), np.ones(size), np.ones(size, bool),
        square_root=False, smooth=smooth,
    )  # fmt: skip


def textbook(model: Dynamics, seen: np.ndarray) -> np.ndarray:
    """Return filtered states as Wu et al. write them: predict, gain, correct."""
    x, p, found = np.zeros(len(model.movement)), model.start, []
    for number, z in enumerate(seen):
        if number:
            x = model.movement @ x
            p = model.movement @ p @ model.movement.T + model.unrest
        innovation = model.tuning @ p @ model.tuning.T + model.noise
        gain = p @ model.tuning.T @ np.linalg.inv(innovation)
        x = x + gain @ (z - model.offset - model.tuning @ x)
        p = (np.eye(len(x)) - gain @ model.tuning) @ p
        found.append(x)
    return np.array(found)


def posterior(model: Dynamics, seen: np.ndarray) -> np.ndarray:
    """Return the mean of all states given all that was seen, of their joint normal law."""
    count, size = len(seen), len(model.movement)
    precision = np.zeros((count * size, count * size))
    right = np.zeros(count * size)
    inverse, quiet = np.linalg.inv(model.noise), np.linalg.inv(model.unrest)
    for number, z in enumerate(seen):
        own = slice(number * size, (number + 1) * size)
        precision[own, own] += model.tuning.T @ inverse @ model.tuning
        right[own] = model.tuning.T @ inverse @ (z - model.offset)
        if number == 0:
            precision[own, own] += np.linalg.inv(model.start)
            continue
        last = slice((number - 1) * size, number * size)
        precision[own, own] += quiet
        precision[last, last] += model.movement.T @ quiet @ model.movement
        precision[own, last] -= quiet @ model.movement
        precision[last, own] -= model.movement.T @ quiet
    return np.linalg.solve(precision, right).reshape(count, size)


@pytest.mark.parametrize("count", [1, 2, 40, 400])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_filter_is_the_textbooks(count, seed):
    model = make_dynamics(seed)
    seen = np.random.default_rng(seed).normal(size=(count, 5))

    found = make_filter(model, smooth=False).run(seen)
    assert np.allclose(found, textbook(model, seen), atol=1e-7)


@pytest.mark.parametrize("count", [1, 2, 60])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_smoother_is_the_mean_of_the_joint_law(count, seed):
    model = make_dynamics(seed)
    seen = np.random.default_rng(seed).normal(size=(count, 5))

    found = make_filter(model, smooth=True).run(seen)
    assert np.allclose(found, posterior(model, seen), atol=1e-6)


def test_the_gain_that_stays_is_that_of_a_filter_that_never_settles(monkeypatch):
    model = make_dynamics()
    seen = np.random.default_rng(0).normal(size=(150, 5))
    settled = make_filter(model, smooth=True)
    monkeypatch.setattr(kalman, "SETTLED", -1.0)
    whole = make_filter(model, smooth=True)

    assert len(settled.after) < len(whole.after) == kalman.MAX_GAINS
    assert np.allclose(settled.run(seen), whole.run(seen), atol=1e-7)


def test_a_system_is_recovered_from_what_it_made():
    rng = np.random.default_rng(0)
    model = make_dynamics()
    count = 20_000
    x = np.zeros((count, 2))
    for row in range(1, count):
        x[row] = model.movement @ x[row - 1] + rng.normal(size=2) * np.sqrt(np.diag(model.unrest))
    noise = rng.multivariate_normal(np.zeros(5), model.noise, count)
    seen = x @ model.tuning.T + model.offset + noise
    found = fit_dynamics((x[:-1], x[1:]), x, seen, Settings(order=1, shrinkage=0.0))

    assert np.allclose(found.movement, model.movement, atol=0.03)
    assert np.allclose(found.unrest, model.unrest, atol=0.03)
    assert np.allclose(found.tuning, model.tuning, atol=0.15)
    assert np.allclose(found.noise, model.noise, rtol=0.1, atol=0.2)
    assert np.allclose(found.offset, seen.mean(axis=0))


def test_a_movement_that_would_grow_is_held_back():
    """As of a target that runs away through the whole training split."""
    x = np.exp(np.linspace(0, 5, 200))[:, None]
    pairs = np.hstack([x[1:-1], x[:-2]]), np.hstack([x[2:], x[1:-1]])
    found = fit_dynamics(pairs, pairs[1], np.ones((198, 3)), Settings(order=2))

    assert np.abs(np.linalg.eigvals(found.movement)).max() <= kalman.RADIUS + 1e-6


def test_rates_are_refused():
    segments = make_segments(duration=4.0)
    session = make_session(segments[:1], segments[1:2])

    with pytest.raises(SuiteError, match="lab/one: a Kalman filter decodes what moves linearly"):
        Kalman().fit([session], rules(task="rates", step=0.02))


def test_a_pause_between_samples_is_no_movement():
    """What lies in it is not known, so that a jump over it is learned by nobody."""
    segments = make_segments(duration=60.0)
    found = []
    for jump in (0.0, 1e4):
        train = segments[0]
        late = train.time > train.start + 20
        values = np.where(late[:, None], train.labels + jump, train.labels)
        keep = ~((train.time > train.start + 20) & (train.time < train.start + 30))
        train = replace(train, time=train.time[keep], values=values[keep])
        decoder = Kalman()
        decoder.fit([make_session((train,), segments[1:2])], rules())
        dynamics = decoder._models["lab/one"].chain.dynamics
        found.append(np.trace(dynamics.unrest) / np.trace(dynamics.start))

    assert found[1] < found[0]
