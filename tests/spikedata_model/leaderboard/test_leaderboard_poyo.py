"""POYO as an entrant: what it learns from, what it answers, and what it says of itself."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import spikedata_model.leaderboard.entrants.poyo as module
from spikedata.checks import run_checks
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording
from spikedata.store import Store
from spikedata_model.checkpoint import read_run
from spikedata_model.config import Config, Recipe, load_config
from spikedata_model.data import prepare_data
from spikedata_model.decoder import Decoder
from spikedata_model.errors import ConfigError, SuiteError
from spikedata_model.evaluate import predict
from spikedata_model.leaderboard.entrants.poyo import PoyoEntrant
from spikedata_model.leaderboard.entrants.poyo_cost import own_parameters, window_macs
from spikedata_model.leaderboard.entrants.poyo_rates import FLOOR, TRUST, Rates, fit_rates
from spikedata_model.leaderboard.entrants.poyo_sessions import as_recording, know, recipe_for
from spikedata_model.leaderboard.protocol import LiveEntrant, Rules, Segment, Session
from spikedata_model.one_window import OneWindow
from spikedata_model.poyo import Poyo
from spikedata_model.train import train, training_sampler
from spikedata_model.weights import load_weights, weights_of_run
from tests.spikedata_model.builders import TINY, make_recording, make_store

TARGET = "hand"
SHAPE = [f"model.{name}={value}" for name, value in TINY.model_dump().items() if name != "init"]
SMALL = (
    *SHAPE, "train.steps=12", "train.batch_size=3", "train.evaluate_every=4",
    "train.checkpoint_every=3", "train.windows_at_once=2",
)  # fmt: skip


def segments_of(recording: Recording, time: IntervalSet, target: str = TARGET) -> tuple:
    """Return the stretches of some time with all that is in them, found by comparing."""
    series, found = recording.series[target], []
    for start, end in time:
        spikes = (recording.spike_time >= start) & (recording.spike_time < end)
        times = series.times()
        rows = (times >= start) & (times < end)
        found.append(Segment(
            recording.recording_id, start, end, recording.spike_time[spikes],
            recording.spike_unit[spikes], times[rows], series.values[rows].astype(np.float64),
        ))  # fmt: skip
    return tuple(found)


def session_of(recording: Recording, target: str = TARGET, **changes: object) -> Session:
    series = recording.series[target]
    given = {
        "train": segments_of(recording, recording.split("train"), target),
        "valid": segments_of(recording, recording.split("valid"), target),
    }
    return Session(**{  # type: ignore[arg-type]
        "recording_id": recording.recording_id, "group": "all",
        "unit_ids": tuple(map(str, recording.unit_ids)), "target": target,
        "columns": series.columns, "unit": series.unit, **given, **changes,
    })  # fmt: skip


def hidden(segment: Segment) -> Segment:
    return replace(segment, values=None)


def rules_in(folder: Path, **changes: object) -> Rules:
    given = {"task": "behaviour", "causal": False, "step": None, "context": 1.0, "seed": 3,
             "folder": folder}  # fmt: skip
    return Rules(**given | changes)  # type: ignore[arg-type]


def fitted(folder: Path, *sessions: Session, start: object = None, **changes: object):
    folder.mkdir(parents=True, exist_ok=True)
    entrant = PoyoEntrant("smoke", SMALL) if start is None else PoyoEntrant(
        settings=["train.steps=6", "train.batch_size=3"], start=start,  # type: ignore[arg-type]
    )  # fmt: skip
    entrant.fit(sessions, rules_in(folder, **changes))
    return entrant


@pytest.fixture(name="recording")
def _recording() -> Recording:
    return make_recording(start=100.0)


@pytest.fixture(name="test")
def _test(recording: Recording) -> tuple[Segment, ...]:
    return tuple(map(hidden, segments_of(recording, recording.split("test"))))


# ------------------------------------------------------------------ equal to the package's own


def test_it_trains_and_decodes_as_the_package_does(recording, test, tmp_path):
    """The same weights to the last bit, and answers that differ by the sums' rounding alone."""
    entrant = fitted(tmp_path / "a", session_of(recording))
    config = load_config("smoke", [*SMALL, "train.seed=3", "train.threads=1", "train.keep=best"])
    store = make_store(tmp_path / "store", recording)
    train(store, tmp_path / "run", config)
    weights = weights_of_run(tmp_path / "run")
    data = read_run(tmp_path / "run").data(store)
    (expected,) = predict(weights.model, data, config, "test")

    mine = weights_of_run(tmp_path / "a" / "run")
    assert mine.about["step"] == weights.about["step"]
    for name, one in weights.model.state_dict().items():
        assert torch.equal(one, mine.model.state_dict()[name]), name
    answers = np.concatenate([entrant.predict(one) for one in test])
    np.testing.assert_allclose(answers, expected.predicted, rtol=1e-5, atol=1e-4)  # of mm/s
    assert answers.dtype == np.float64


def test_causal_answers_are_those_of_a_live_decoder(recording, test, tmp_path):
    entrant = fitted(tmp_path, session_of(recording), causal=True, step=0.07)
    decoder = Decoder.load(tmp_path / "run", recording.recording_id, start=0.0)
    mean = np.mean([row for one in session_of(recording).train for row in one.labels], axis=0)
    assert isinstance(entrant, LiveEntrant)
    for segment in test:
        edges, row = segment.estimates(0.07)
        decoder.reset(segment.start)
        entrant.begin(segment.recording_id, segment.start)
        expected, stepped, before = [], [], -np.inf
        for edge in edges:
            inside = (segment.spike_time >= before) & (segment.spike_time < edge)
            spikes = segment.spike_time[inside], segment.spike_unit[inside]
            decoder.observe(spikes[1], spikes[0])
            stepped.append(entrant.step(*spikes, edge))
            value = decoder.predict(edge)[TARGET][0] if edge > segment.start else mean
            expected.append(value)
            before = edge
        answers = entrant.predict(segment)

        np.testing.assert_array_equal(answers[row > 0], np.array(expected)[row][row > 0])
        np.testing.assert_allclose(answers[row == 0], np.array(expected)[row][row == 0])
        np.testing.assert_array_equal(answers, np.array(stepped)[row])
        assert len(set(answers[:, 0])) > 10


def test_later_spikes_change_no_causal_answer(recording, test, tmp_path):
    entrant, one = fitted(tmp_path, session_of(recording), causal=True, step=0.05), test[0]
    whole = entrant.predict(one)
    for cut in np.random.default_rng(0).uniform(one.start, one.end, 5):
        kept = one.spike_time < cut
        fewer = replace(one, spike_time=one.spike_time[kept], spike_unit=one.spike_unit[kept])
        found = entrant.predict(fewer)

        np.testing.assert_array_equal(found[one.time <= cut], whole[one.time <= cut])
        assert not np.array_equal(found, whole)


# ------------------------------------------------------------------ what it learns from


def test_it_is_trained_on_nothing_but_the_segments(recording, tmp_path):
    """The store of a run holds the times of training and validation, and none besides."""
    session = session_of(recording, phases={"late": IntervalSet.single(100.0, 103.0)})
    fitted(tmp_path, session)
    stored = Store(tmp_path / "store")[recording.recording_id]
    seen = [(one.start, one.end) for one in (*session.train, *session.valid)]

    def within(times: np.ndarray) -> np.ndarray:
        return np.any([(times >= a) & (times < b) for a, b in seen], axis=0)

    assert within(stored.spike_time).all()
    assert within(stored.series[TARGET].times()).all()
    assert len(stored.spike_time) == within(recording.spike_time).sum()
    assert len(stored.series[TARGET]) == within(recording.series[TARGET].times()).sum()
    assert list(stored.series) == [TARGET]
    assert list(stored.intervals) == ["late"]
    assert len(stored.split("test")) == 0
    assert stored.domain.duration == pytest.approx(sum(b - a for a, b in seen))


def test_trials_shorter_than_a_window_are_learned_from(recording, tmp_path):
    """Twelve trials of 0.6 s are 12 windows of an epoch; the context is 1 s."""
    starts = 100.0 + np.arange(12) * 0.9
    trials = IntervalSet(starts, starts + 0.6)
    session = session_of(recording, train=segments_of(recording, trials), valid=())
    entrant = fitted(tmp_path, session)
    found = [entrant.predict(hidden(one)) for one in session.train]
    config = read_run(tmp_path / "run").config
    data = prepare_data(Store(tmp_path / "store"), [session.recording_id], config)

    assert [len(one) for one in found] == [12] * 12
    assert np.isfinite(np.concatenate(found)).all()
    assert len(training_sampler(data, config).plan()[0]) == 12
    assert entrant.about()["keep"] == "last"


def test_awkward_segments_are_answered(recording, test, tmp_path):
    """No samples, no spikes, samples at 1 kHz, and hardly any time."""
    nothing = np.empty(0)
    for causal in (False, True):
        entrant = fitted(tmp_path / str(causal), session_of(recording), causal=causal,
                         step=0.5 if causal else None)  # fmt: skip
        unheard = replace(test[0], spike_time=nothing, spike_unit=nothing.astype(np.int32))
        dense = replace(test[0], time=np.arange(115.0, 117.0, 0.001), start=115.0, end=117.0,
                        spike_time=nothing, spike_unit=nothing.astype(np.int32))  # fmt: skip
        short = replace(dense, end=115.003, time=dense.time[:3])

        assert entrant.predict(replace(test[0], time=nothing)).shape == (0, 2)
        for one in (unheard, dense, short):
            answer = entrant.predict(one)
            assert answer.shape == (len(one.time), 2)
            assert np.isfinite(answer).all()


def test_segments_without_samples_are_left_out(recording, tmp_path):
    extra = Segment(recording.recording_id, 200.0, 205.0, np.empty(0), np.empty(0, np.int32),
                    np.empty(0), np.empty((0, 2)))  # fmt: skip
    session = session_of(recording)
    longer = replace(session, train=(*session.train, extra))
    plain, more = (fitted(tmp_path / n, s) for n, s in (("a", session), ("b", longer)))
    segment = hidden(session.valid[0])

    np.testing.assert_array_equal(plain.predict(segment), more.predict(segment))
    with pytest.raises(SuiteError, match="expected training segments with samples"):
        fitted(tmp_path / "c", replace(session, train=(extra,)))


def test_two_sessions_share_a_readout_where_their_channels_are_the_same(recording, tmp_path):
    other = make_recording("lab/b", seed=1, n_units=3)
    standing = replace(session_of(make_recording("lab/c", seed=2)), columns=("x", "other"))
    sessions = [session_of(recording), session_of(other), standing]
    entrant = fitted(tmp_path, *sessions)
    channels = weights_of_run(tmp_path / "run").model.channels

    assert channels == {"hand": 2, "hand_2": 2}
    for one in sessions:
        assert np.isfinite(entrant.predict(hidden(one.valid[0]))).all()
    with pytest.raises(SuiteError, match="was not fitted to 'lab/z'"):
        entrant.predict(replace(hidden(sessions[0].valid[0]), recording_id="lab/z"))


def test_units_of_two_sessions_with_the_same_names_are_not_confused():
    sessions = [
        replace(session_of(make_recording(name)), unit_ids=("u0", "u1", "u2", "u3"))
        for name in ("lab/a", "lab/b")
    ]
    known = know(sessions, "behaviour", {})

    assert known["lab/a"].unit_ids[0] == "lab/a/u0"
    assert known["lab/b"].unit_ids[0] == "lab/b/u0"
    with pytest.raises(SuiteError, match="one session a recording"):
        know([sessions[0], sessions[0]], "behaviour", {})


@pytest.mark.parametrize("still", [(1,), (0, 1)])
def test_a_channel_that_stands_still_is_answered_by_its_value(recording, test, tmp_path, still):
    session = session_of(recording)

    def held(one: Segment) -> Segment:
        values = one.labels.copy()
        values[:, list(still)] = 0.1
        return replace(one, values=values)

    session = replace(
        session, train=tuple(map(held, session.train)), valid=tuple(map(held, session.valid))
    )
    for causal in (False, True):
        entrant = fitted(tmp_path / str(causal), session, causal=causal,
                         step=0.1 if causal else None)  # fmt: skip
        answer = entrant.predict(test[0])
        entrant.begin(test[0].recording_id, test[0].start)
        step = entrant.step(np.empty(0), np.empty(0, np.int32), test[0].start + 0.1)

        assert (answer[:, list(still)] == 0.1).all()
        assert (step[list(still)] == 0.1).all()
        assert (len(np.unique(answer[:, 0])) > 1) == (0 not in still)
        assert entrant.about()["channels_that_stand_still"] == {"lab/a": len(still)}
        assert entrant.cost("lab/a").parameters > 0


# ------------------------------------------------------------------ the same numbers again


def test_a_seed_decides_every_number(recording, test, tmp_path):
    session = session_of(recording)
    first, again, other = (
        fitted(tmp_path / name, session, seed=seed).predict(test[0])
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_run_that_was_killed_goes_on_to_the_same_end(recording, test, tmp_path, monkeypatch):
    session = session_of(recording)
    whole = fitted(tmp_path / "whole", session)

    class Killed(Exception):
        """Stands for a killed process."""

    def killed(*args: object, **options: object):
        def progress(label: str, done: int, total: int) -> None:
            if done == 7:
                raise Killed

        return train(*args, **options, progress=progress)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "train", killed)
        with pytest.raises(Killed):
            fitted(tmp_path / "part", session)
    assert (tmp_path / "part" / "run" / "checkpoint.pt").exists()
    shutil.rmtree(tmp_path / "part" / "store")
    resumed = fitted(tmp_path / "part", session)

    np.testing.assert_array_equal(resumed.predict(test[0]), whole.predict(test[0]))
    assert resumed.about() == whole.about()


# ------------------------------------------------------------------ recipes and settings


def test_a_recipe_holds_as_far_as_the_session_lets_it(recording):
    base = Recipe(recordings="lab/*", weights={"reach": 5.0, "outlier": 0.0}, divide_by=20.0,
                  unit="cm/s", evaluate_on="elsewhere")  # fmt: skip
    session = session_of(
        recording, phases={"reach": IntervalSet.single(101.0, 114.0)}, evaluate_on="reach"
    )
    volts = replace(session, unit="V", evaluate_on=None)
    early = replace(session, phases={"reach": IntervalSet.single(101.0, 102.0)})

    expected = base.model_copy(
        update={"recordings": "lab/a", "weights": {"reach": 5.0}, "evaluate_on": "reach"}
    )
    assert recipe_for(session, [base]) == expected
    assert recipe_for(volts, [base]) == expected.model_copy(
        update={"divide_by": None, "evaluate_on": None}
    )
    found = recipe_for(early, [base])
    assert found is not None
    assert found.evaluate_on is None
    assert recipe_for(session, []) == Recipe(recordings="lab/a", evaluate_on="reach")
    assert recipe_for(replace(session, evaluate_on=None), []) is None


def test_presets_with_the_recipes_of_poyo_fit_sessions_that_lack_their_tables(recording, tmp_path):
    name = "perich_miller_population_2018/c_1_center_out_reaching"
    session = session_of(replace(
        recording, recording_id=name,
        units={"unit_id": np.array([f"{name}/{row}" for row in range(4)])},
    ), phases={"reach": IntervalSet.single(101.0, 104.0)})  # fmt: skip
    entrant = PoyoEntrant("smoke", [*SMALL, "data.recipes=poyo"])
    entrant.fit([session], rules_in(tmp_path))
    (recipe,) = read_run(tmp_path / "run").config.data.recipes
    scale = weights_of_run(tmp_path / "run").scales[name][TARGET]

    assert (recipe.weights, recipe.divide_by) == ({"reach": 5.0}, 20.0)
    assert scale.std == (200.0, 200.0)  # 20 cm/s in mm/s
    assert np.isfinite(entrant.predict(hidden(session.valid[0]))).all()


@pytest.mark.parametrize(
    "setting", ["train.seed=1", "train.threads=4", "data.scheme=x", "data.labels={seconds=1}"]
)
def test_what_the_suite_decides_cannot_be_set(setting):
    with pytest.raises(ConfigError, match="the suite decides"):
        PoyoEntrant("smoke", [setting])


def test_a_mode_needs_a_start_and_settings_are_checked_at_once():
    with pytest.raises(ConfigError, match="none to begin with"):
        PoyoEntrant(mode="full")
    with pytest.raises(ConfigError, match="did you mean"):
        PoyoEntrant("smoke", ["train.stps=3"])


def test_what_is_asked_out_of_order_is_refused(recording, test):
    entrant = PoyoEntrant("smoke")
    with pytest.raises(SuiteError, match="was not fitted to"):
        entrant.predict(test[0])
    with pytest.raises(SuiteError, match="no `begin`"):
        entrant.step(np.empty(0), np.empty(0, np.int32), 1.0)


# ------------------------------------------------------------------ from a model


@pytest.fixture(name="base")
def _base(tmp_path: Path) -> Path:
    """Return the folder of a run on two other recordings."""
    store = make_store(
        tmp_path / "others", make_recording("lab/b", seed=1), make_recording("lab/c", seed=2)
    )
    train(store, tmp_path / "base", load_config("smoke", SMALL))
    return tmp_path / "base"


def test_it_adapts_a_model_and_says_what_that_had_seen(recording, base, tmp_path):
    session = session_of(recording)
    for start in (base, base / "weights.safetensors", weights_of_run(base)):
        entrant = PoyoEntrant(start=start)
        assert entrant.pretrained_on == ("lab/b", "lab/c")
    entrant = fitted(tmp_path / "new", session, start=base)
    before, after = (weights_of_run(one).model.state_dict() for one in (base, tmp_path / "new/run"))
    record = read_run(tmp_path / "new" / "run")

    assert torch.equal(before["readout.0.weight"], after["readout.0.weight"])  # unit-id alone
    assert record.start is not None
    assert record.start.sha256 == entrant.weights_sha256
    assert entrant.pretrained_on == ("lab/b", "lab/c")
    assert entrant.about()["mode"] == "unit-id"
    second = PoyoEntrant(start=tmp_path / "new" / "run", mode="full")
    assert second.pretrained_on == ("lab/a", "lab/b", "lab/c")
    assert second.pretrained_fingerprints == dict(record.recordings)
    assert set(second.pretrained_units) == {
        f"lab/{one}/u{row}" for one in "abc" for row in range(4)
    }
    nothing = PoyoEntrant()
    assert (nothing.pretrained_on, nothing.pretrained_units, nothing.weights_sha256) == ((), (), "")
    assert nothing.pretrained_fingerprints == {}


def test_recordings_that_only_unit_ids_tell_of_are_named(base):
    weights = weights_of_run(base)
    names = tuple(f"lab2/told/{row}" for row in range(8))
    told = replace(weights, vocabulary=replace(weights.vocabulary, unit_ids=names), scales={})

    assert "lab2/told" in PoyoEntrant(start=told).pretrained_on


def test_a_new_target_gets_a_readout_of_its_own(recording, base, tmp_path):
    """Also where the model knows the name with another width."""
    session = session_of(recording, "heading")
    train, valid = (
        tuple(replace(one, values=one.labels[:, :1]) for one in part)
        for part in (session.train, session.valid)
    )
    renamed = replace(
        session, target="hand", columns=("c",), recording_id="lab/d", train=train, valid=valid,
        unit_ids=("1", "2", "3", "4"),
    )  # fmt: skip
    fitted(tmp_path / "new", session, renamed, start=base)

    assert weights_of_run(tmp_path / "new" / "run").model.channels == {
        "hand": 2, "heading": 2, "hand_2": 1,
    }  # fmt: skip


# ------------------------------------------------------------------ rates


def counts_session(recording: Recording, seed: int = 0) -> Session:
    """Return a session whose values are counts of three hidden units, the last of them silent."""
    session = session_of(recording)
    rng = np.random.default_rng(seed)

    def counted(one: Segment) -> Segment:
        rate = np.exp(one.labels[:, :1] / 40) * [[0.2, 0.6, 0.0]]
        return replace(one, values=rng.poisson(rate).astype(np.float64))

    return replace(
        session, target="heldout_counts", columns=("a", "b", "silent"), unit="",
        train=tuple(map(counted, session.train)), valid=tuple(map(counted, session.valid)),
    )  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
def test_rates_are_above_zero_also_of_a_unit_that_never_fired(recording, test, tmp_path, causal):
    session = counts_session(recording)
    entrant = fitted(tmp_path, session, task="rates", step=0.05, causal=causal)
    rates = entrant.predict(test[0])
    mean = np.mean([row for one in session.train for row in one.labels], axis=0)
    likely = entrant.about()["rates"]

    assert rates.shape == (len(test[0].time), 3)
    assert (rates > 0).all()
    assert (rates[:, 2] < mean[0] / 10).all()
    assert isinstance(likely, dict)
    assert list(likely) == ["lab/a"]
    if causal:
        entrant.begin("lab/a", test[0].start)
        edges, row = test[0].estimates(0.05)
        before, found = -np.inf, []
        for edge in edges:
            inside = (test[0].spike_time >= before) & (test[0].spike_time < edge)
            found.append(entrant.step(test[0].spike_time[inside], test[0].spike_unit[inside], edge))
            before = edge
        np.testing.assert_array_equal(np.array(found)[row], rates)


def test_hidden_units_of_two_recordings_share_no_readout(recording):
    sessions = [counts_session(recording), counts_session(make_recording("lab/b", seed=1))]
    known = know(sessions, "rates", {"heldout_counts": 2})

    assert {one.target for one in known.values()} == {"heldout_counts_2", "heldout_counts_3"}


def test_the_trust_in_an_estimate_is_the_likeliest_one():
    """Against a likelihood that is summed number by number; noise alone is not trusted."""
    rng = np.random.default_rng(0)
    mean = np.array([0.3, 1.0])
    rate = np.array([0.3, 1.0]) * rng.uniform(0.2, 1.8, (400, 1))
    counts = rng.poisson(rate).astype(np.float64)
    for estimate, trusted in ((rate, True), (mean + rng.normal(0, 1, rate.shape), False)):
        found = fit_rates(mean, 100, [estimate[:150], estimate[150:]], [counts[:150], counts[150:]])

        def likelihood(trust: float, floor: float, said: np.ndarray = estimate) -> float:
            total = 0.0
            for (row, column), value in np.ndenumerate(said):
                guess = mean[column] + trust * (value - mean[column])
                guess = max(guess, floor * mean[column])
                total += counts[row, column] * np.log(guess) - guess
            return total

        best = max(likelihood(trust, floor) for trust in TRUST for floor in FLOOR)
        assert likelihood(found.trust, found.floor) == pytest.approx(best)
        assert (found.trust > 0.7) == trusted
    unscored = fit_rates(np.array([0.0]), 50, [], [])
    assert unscored.of(np.array([[-1.0]])) == pytest.approx(0.1 * 0.5 / 50)
    assert Rates(mean).of(np.zeros((1, 2))).min() > 0


# ------------------------------------------------------------------ what it takes


@pytest.mark.parametrize("changes", [{}, {"depth": 3, "dim": 12, "self_heads": 3}])
def test_multiply_adds_are_those_that_torch_counts(changes):
    """As torch counts two operations a product; the latents' queries were made before."""
    config = Config(model=TINY.model_copy(update=changes)).model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Poyo(config, 5, 2, {"hand": 2})
    one, latents = OneWindow(model), len(model.latent_time_L)
    tokens, queries = 23, 7
    given = (
        torch.zeros(tokens, dtype=torch.int64), torch.zeros(tokens, dtype=torch.int64),
        torch.linspace(0, 1, tokens), torch.tensor(0), torch.linspace(0, 1, queries),
    )  # fmt: skip
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        one(*given)
    before = latents * config.dim * config.cross_heads * config.dim_head

    expected = counter.get_total_flops() / 2 + before
    assert window_macs(config, latents, tokens, queries, 2) == expected


def test_rows_of_other_recordings_are_not_counted(recording, tmp_path):
    session = session_of(recording)
    alone = fitted(tmp_path / "alone", session)
    other = session_of(make_recording("lab/b", seed=1, n_units=9), "heading")
    together = fitted(tmp_path / "both", session, other)
    model = load_weights(tmp_path / "alone" / "run" / "weights.safetensors").model

    assert alone.cost("lab/a") == together.cost("lab/a")
    assert alone.cost("lab/a").parameters == sum(one.numel() for one in model.parameters())
    assert own_parameters(model, 4, "hand") * 4 == alone.cost("lab/a").bytes


def test_a_sample_of_a_live_decoder_costs_a_window(recording, tmp_path):
    """12 s of training, with so many spikes; context 1 s, 8 latents, 4 units."""
    session = session_of(recording)
    live = fitted(tmp_path / "live", session, causal=True, step=0.1).cost("lab/a")
    free = fitted(tmp_path / "free", session).cost("lab/a")
    seconds = sum(one.end - one.start for one in session.train)
    spikes = sum(len(one.spike_time) for one in session.train) / seconds

    assert live.macs == window_macs(TINY, 8, spikes + 8, 1, 2)
    assert free.macs == pytest.approx(2 / 20 * window_macs(TINY, 8, spikes + 8, 20, 2))


def test_a_recording_made_of_a_session_passes_what_a_store_asks(recording):
    session = session_of(recording)
    made = as_recording(session, know([session], "behaviour", {})["lab/a"])
    assert [one for one in run_checks(made) if one.severity == "error"] == []
