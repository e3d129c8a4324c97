"""What every baseline must do: decode, never look ahead, and take whatever there is."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.entrants import gru, mlp
from spikedata_model.leaderboard.entrants.gru import Gru
from spikedata_model.leaderboard.entrants.kalman import Kalman
from spikedata_model.leaderboard.entrants.live import BinnedEntrant
from spikedata_model.leaderboard.entrants.mlp import Mlp
from spikedata_model.leaderboard.entrants.ridge import Ridge
from spikedata_model.leaderboard.entrants.wiener import Wiener
from spikedata_model.leaderboard.protocol import HasCost, LiveEntrant, Segment, Session
from tests.spikedata_model.leaderboard.sessions import (
    NAME,
    cut,
    hidden,
    make_segments,
    make_session,
    r2,
    rules,
)

EVERY = pytest.mark.parametrize("entrant", [Wiener, Ridge, Kalman, Mlp, Gru])
OF_RATES = pytest.mark.parametrize("entrant", [Wiener, Ridge, Mlp, Gru])
BOTH = pytest.mark.parametrize("causal", [False, True])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly train: most claims are not about how well."""
    shorten(monkeypatch, 3, 6)


def shorten(patch: pytest.MonkeyPatch, steps: int = 15, last: int = 60) -> None:
    """Race fewer networks for fewer steps."""
    patch.setattr(mlp, "STEPS", steps)
    patch.setattr(mlp, "LAST", (last, last))
    patch.setattr(mlp, "WINDOWS", mlp.WINDOWS[:2])
    patch.setattr(gru, "STEPS", steps)
    patch.setattr(gru, "LAST", last)
    patch.setattr(gru, "CANDIDATES", gru.CANDIDATES[:2])


@cache
def fitted(entrant: type[BinnedEntrant], causal: bool) -> tuple[BinnedEntrant, Segment]:
    """Return a decoder and a segment that it was not fitted to."""
    train, valid, test = make_segments()
    decoder = entrant()
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        decoder.fit([make_session((train,), (valid,))], rules(causal=causal))
    return decoder, test


@EVERY
@BOTH
def test_a_target_that_spikes_tell_of_is_decoded(entrant, causal):
    decoder, test = fitted(entrant, causal)

    assert r2(test.labels, decoder.predict(hidden(test))) > 0.6


@EVERY
@pytest.mark.parametrize("when", [1.0, 3.333, 6.0])
def test_spikes_from_a_time_on_change_no_estimate_up_to_it(entrant, when):
    decoder, test = fitted(entrant, True)
    test = hidden(test)
    time = test.start + when
    rng = np.random.default_rng(0)
    early = test.spike_time < time
    late = np.sort(rng.uniform(time, test.end, 500))
    other = replace(
        test,
        spike_time=np.concatenate([test.spike_time[early], [time], late]),
        spike_unit=np.concatenate([test.spike_unit[early], rng.integers(20, size=501)]),
    )
    edges, row = test.estimates(0.02)
    before = edges[row] <= time
    one, two = decoder.predict(test), decoder.predict(other)

    assert np.array_equal(one[before], two[before])
    assert not np.array_equal(one, two)


@EVERY
def test_a_step_at_a_time_says_what_the_whole_segment_does(entrant):
    decoder, test = fitted(entrant, True)
    assert isinstance(decoder, LiveEntrant)
    for segment in (test, cut(test, test.start + 1.2345, test.end)):  # and again from elsewhere
        edges, row = segment.estimates(0.02)
        decoder.begin(NAME, segment.start)
        found, latest = [], segment.start
        for edge in edges:
            now = (segment.spike_time >= latest) & (segment.spike_time < edge)
            found.append(decoder.step(segment.spike_time[now], segment.spike_unit[now], edge))
            latest = edge

        whole = decoder.predict(hidden(segment))
        assert np.allclose(np.array(found)[row], whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("entrant", [Kalman, Gru])
def test_chains_take_turns_where_estimates_are_closer_than_bins(entrant):
    train, valid, test = make_segments(rate=200.0, duration=20.0)
    decoder = entrant()
    decoder.fit([make_session((train,), (valid,))], rules(causal=True, step=0.005))
    model = decoder._models[NAME]
    decoder.begin(NAME, test.start)
    found, latest = [], test.start
    for edge in test.time:
        now = (test.spike_time >= latest) & (test.spike_time < edge)
        found.append(decoder.step(test.spike_time[now], test.spike_unit[now], edge))
        latest = edge

    assert model.width > 1
    assert np.allclose(np.array(found), decoder.predict(hidden(test)), rtol=0, atol=1e-9)


@EVERY
def test_estimates_at_samples_of_no_even_rate_are_made_step_by_step_too(entrant):
    rng = np.random.default_rng(0)
    parts = []
    for one in make_segments(rate=25.0, duration=20.0):
        moved = np.sort(one.time + rng.uniform(-0.009, 0.009, len(one.time)))
        moved = moved.clip(one.start, np.nextafter(one.end, 0))
        parts.append(replace(one, time=moved, at_samples=True))
    decoder = entrant()
    decoder.fit([make_session((parts[0],), (parts[1],))], rules(causal=True))
    test, found = parts[2], []
    decoder.begin(NAME, test.start)
    for first, edge in zip([test.start, *test.time[:-1]], test.time, strict=True):
        now = (test.spike_time >= first) & (test.spike_time < edge)
        found.append(decoder.step(test.spike_time[now], test.spike_unit[now], edge))
    whole = decoder.predict(hidden(test))
    late = test.spike_time >= test.time[40]
    fewer = replace(
        hidden(test), spike_time=test.spike_time[~late], spike_unit=test.spike_unit[~late]
    )

    assert np.allclose(np.array(found), whole, rtol=0, atol=1e-9)
    assert np.array_equal(decoder.predict(fewer)[:41], whole[:41])
    assert not np.array_equal(decoder.predict(fewer), whole)


@EVERY
def test_the_same_seed_gives_the_same_numbers_on_any_number_of_threads(entrant):
    train, valid, test = make_segments(duration=15.0)
    before, state = torch.get_num_threads(), torch.get_rng_state()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(threads)
        decoder = entrant()
        decoder.fit([make_session((train,), (valid,))], rules(seed=5))
        found.append(decoder.predict(hidden(test)))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    torch.set_rng_state(state)

    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize("entrant", [Mlp, Gru])
def test_another_seed_is_another_network_and_the_callers_random_numbers_are_left_alone(entrant):
    train, valid, test = make_segments(duration=15.0)
    before, found = torch.get_rng_state(), []
    for seed in (0, 1):
        decoder = entrant()
        decoder.fit([make_session((train,), (valid,))], rules(seed=seed))
        found.append(decoder.predict(hidden(test)))

    assert torch.equal(torch.get_rng_state(), before)
    assert not np.array_equal(found[0], found[1])


@EVERY
def test_recordings_are_decoded_each_by_its_own_decoder(entrant):
    one = make_segments(0, units=6, duration=15.0)
    two = tuple(
        replace(part, recording_id="lab/two")
        for part in make_segments(1, units=9, channels=3, duration=15.0)
    )
    sessions = [make_session(one[:1], one[1:2], units=6), make_session(two[:1], two[1:2], units=9)]
    together = entrant()
    together.fit(sessions, rules())
    alone = entrant()
    alone.fit(sessions[1:], rules())

    assert together.predict(hidden(one[2])).shape == one[2].labels.shape
    assert np.array_equal(together.predict(hidden(two[2])), alone.predict(hidden(two[2])))
    assert set(together.about()) == {NAME, "lab/two"}


def awkward(name: str) -> tuple[Session, list[Segment]]:
    """Return a session that is unlike others, and segments to predict."""
    train, valid, test = make_segments(duration=12.0)
    units = 20
    none = Segment(NAME, 500.0, 510.0, np.empty(0), np.empty(0, np.int32), np.arange(500.0, 510))
    empty = replace(test, time=np.empty(0), values=None)
    tests = [hidden(test), none, empty, replace(none, time=np.array([505.5]))]
    if name == "one unit":
        units, keep = 1, [one.spike_unit == 3 for one in (train, valid)]
        train, valid = (
            replace(one, spike_time=one.spike_time[rows], spike_unit=one.spike_unit[rows] * 0)
            for one, rows in zip((train, valid), keep, strict=True)
        )
        tests = tests[1:2]
    elif name == "silent units":
        units = 40
    elif name == "no spikes":
        silent = {"spike_time": np.empty(0), "spike_unit": np.empty(0, np.int32)}
        train, valid = replace(train, **silent), replace(valid, **silent)
    elif name == "a segment without samples":
        part = replace(train, time=np.empty(0), values=np.empty((0, 2)))
        return make_session(
            (part, train), (replace(valid, time=part.time, values=part.values),)
        ), tests
    elif name == "a constant channel":
        train, valid = (
            replace(one, values=np.column_stack([one.labels[:, 0], np.full(len(one.time), 0.1)]))
            for one in (train, valid)
        )
    elif name == "constant":
        train, valid = (
            replace(one, values=np.full_like(one.labels, 4.0)) for one in (train, valid)
        )
    elif name == "irregular":
        rng = np.random.default_rng(0)
        train, valid = (
            replace(one, time=one.time[rows], values=one.labels[rows])
            for one in (train, valid)
            for rows in [np.sort(rng.choice(len(one.time), len(one.time) // 3, replace=False))]
        )
    elif name == "few labels":
        train = cut(train, train.start, train.start + 0.1)
        return make_session((train,)), tests
    elif name == "one label":
        train = cut(train, train.start, train.start + 0.02)
        return make_session((train,)), tests
    elif name == "pieces":
        starts = np.arange(train.start, train.end - 1, 0.15)
        return make_session(tuple(cut(train, one, one + 0.1) for one in starts)), tests
    elif name == "sixteen channels":
        values = [np.tile(one.labels, 8) for one in (train, valid)]
        train, valid = replace(train, values=values[0]), replace(valid, values=values[1])
    elif name == "one channel":
        train, valid = (replace(one, values=one.labels[:, :1]) for one in (train, valid))
    elif name == "many units":
        units = 1100
    return make_session((train,), (valid,), units=units), tests


AWKWARD = [
    "one unit", "silent units", "no spikes", "a segment without samples", "a constant channel",
    "constant", "irregular", "few labels", "one label", "pieces", "sixteen channels", "one channel",
    "many units",
]  # fmt: skip


@EVERY
@BOTH
@pytest.mark.parametrize("name", AWKWARD)
def test_whatever_there_is_is_fitted_and_decoded(entrant, causal, name):
    """Units that never fire, labels of one instant, samples that do not vary."""
    session, tests = awkward(name)
    channels = len(session.columns)
    decoder = entrant()
    decoder.fit([session], rules(causal=causal))
    for segment in tests:
        found = decoder.predict(segment)

        assert found.shape == (len(segment.time), channels)
        assert np.isfinite(found).all()
    if name == "constant":
        assert np.allclose(found, 4.0)
    if name == "a constant channel":
        assert np.allclose(found[:, 1], 0.1)


def make_counts(seed: int = 0, rate: float = 50.0) -> list[Segment]:
    """Return segments whose values are counts of the last 5 of 20 units, in bins of 20 ms."""
    result = []
    for one in make_segments(seed, rate=rate):
        last = one.spike_unit >= 15
        edges = one.start + 0.02 * np.arange(round((one.end - one.start) / 0.02) + 1)
        counts = [
            np.histogram(one.spike_time[one.spike_unit == unit], edges)[0] for unit in range(15, 20)
        ]
        result.append(
            replace(
                one, spike_time=one.spike_time[~last], spike_unit=one.spike_unit[~last],
                time=(edges[:-1] + edges[1:]) / 2, values=np.stack(counts, axis=1).astype(float),
            )
        )  # fmt: skip
    return result


def log_likelihood(counts: np.ndarray, rates: np.ndarray) -> float:
    return float((counts * np.log(rates) - rates).sum())


@OF_RATES
@BOTH
def test_rates_of_hidden_units_are_above_0_and_better_than_their_means(
    entrant, causal, monkeypatch
):
    shorten(monkeypatch)
    train, valid, test = make_counts()
    decoder = entrant()
    given = rules(causal=causal, task="rates", step=0.02)
    decoder.fit([make_session((train,), (valid,), units=15)], given)
    found = decoder.predict(hidden(test))
    mean = np.broadcast_to(test.labels.mean(axis=0), found.shape)

    assert (found > 0).all()
    assert log_likelihood(test.labels, found) > log_likelihood(test.labels, mean)


@OF_RATES
def test_a_hidden_unit_that_was_silent_gets_a_rate_above_0(entrant):
    train, valid, test = make_counts()
    for one in (train, valid):
        one.labels[:, 2] = 0
    decoder = entrant()
    decoder.fit(
        [make_session((train,), (valid,), units=15)], rules(task="rates", step=0.02)
    )  # fmt: skip

    assert (decoder.predict(hidden(test)) > 0).all()


@EVERY
def test_what_was_chosen_and_what_it_costs_can_be_written_down(entrant):
    decoder, _ = fitted(entrant, False)
    assert isinstance(decoder, HasCost)
    cost = decoder.cost(NAME)

    assert json.loads(json.dumps(decoder.about())) == decoder.about()
    assert cost.parameters > 0
    assert cost.bytes >= 8 * cost.parameters
    assert 0 < (cost.macs or 0) <= cost.parameters


@EVERY
def test_what_cannot_be_asked_is_refused_in_words(entrant):
    decoder, test = fitted(entrant, False)

    with pytest.raises(SuiteError, match="lab/none: this decoder was not fitted"):
        decoder.predict(replace(hidden(test), recording_id="lab/none"))
    with pytest.raises(SuiteError, match="lab/one: estimates of a suite that is not causal"):
        decoder.begin(NAME, 0.0)
    with pytest.raises(SuiteError, match="No segment was begun"):
        entrant().step(np.empty(0), np.empty(0, int), 1.0)


@EVERY
def test_a_sampled_kilohertz_is_thinned_and_still_decoded(entrant, monkeypatch):
    shorten(monkeypatch)
    train, valid, test = make_segments(rate=1000.0, duration=15.0)
    decoder = entrant()
    decoder.fit([make_session((train,), (valid,))], rules())

    assert r2(test.labels, decoder.predict(hidden(test))) > 0.3
