"""A run of a suite: complete or not, stopped or not, the numbers are the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from spikedata_model.errors import LeakError, SuiteError
from spikedata_model.leaderboard.cost import Cost
from spikedata_model.leaderboard.predictions import read_predictions
from spikedata_model.leaderboard.result import Result
from spikedata_model.leaderboard.runner import run_suite
from spikedata_model.leaderboard.scoring import open_tasks, score_file
from tests.spikedata_model.worlds import Counting, choice_of, make_world


@pytest.fixture(name="world")
def _world(tmp_path):
    return make_world(tmp_path)


def run(world, folder, make=Counting, **more) -> Result:
    suite, store = world
    return run_suite(suite, store, choice_of(make), folder, threads=1, **more)


def numbers(result: Result):
    """Return what must be the same each time: nothing that a clock had a part in."""
    return (
        result.predictions_sha256,
        [one.model_dump_json() for one in (*result.scores, *result.summaries)],
        {name: one.samples for name, one in result.data.items()},
    )


def test_scores_are_those_of_scikit_learn_on_the_test_samples(world, tmp_path):
    suite, store = world
    result = run(world, tmp_path / "run")
    found = read_predictions(
        tmp_path / "run" / "predictions.arrow", suite, open_tasks(suite, store)
    )

    assert len(result.scores) == len(found) == 4
    for one in result.scores:
        recording = store[one.recording_id]
        test = recording.split("test", "chronological")
        series = recording.series["velocity"]
        truth = series.values[test.contains(series.times())]
        predicted = found[one.recording_id, one.budget, one.seed]
        expected = r2_score(truth, predicted, multioutput="raw_values")
        assert one.phases["all"].r2 == pytest.approx(expected.tolist(), abs=1e-10)
        assert one.score == pytest.approx(expected.mean(), abs=1e-10)
        assert 0.15 < one.score < 1


def test_the_summary_is_the_mean_over_recordings_and_lies_in_its_interval(world, tmp_path):
    result = run(world, tmp_path / "run")

    (cell,) = result.summaries
    by_recording = [
        np.mean([one.score for one in result.scores if one.recording_id == name])
        for name in ("lab/one", "lab/two")
    ]
    assert cell.mean == pytest.approx(np.mean(by_recording))
    assert cell.sd == pytest.approx(np.std(by_recording))
    assert cell.low < cell.mean < cell.high
    assert (cell.n_recordings, cell.n_seeds) == (2, 2)


def test_the_same_numbers_twice(world, tmp_path):
    first, again = (run(world, tmp_path / name) for name in ("first", "again"))

    assert numbers(first) == numbers(again)


def test_the_result_says_what_is_needed_to_repeat_it(world, tmp_path):
    result = run(world, tmp_path / "run", command="spikedata leaderboard run …")

    kept = json.loads((tmp_path / "run" / "result.json").read_text())
    assert Result.model_validate(kept) == result
    assert kept["suite_sha256"] == world[0].sha256
    assert kept["command"] == "spikedata leaderboard run …"
    assert kept["machine"]["packages"]["torch"]
    assert set(kept["data"]) == {"lab/one", "lab/two"}
    assert kept["complete"]
    assert str(tmp_path) not in json.dumps(kept)


class Stopped(Counting):
    """Is interrupted at its third fit, and counts all of them."""

    fits = 0
    stop_at = 3

    def fit(self, sessions, rules):
        type(self).fits += 1
        if type(self).fits == self.stop_at:
            raise KeyboardInterrupt
        super().fit(sessions, rules)


def test_a_run_that_was_stopped_goes_on_where_it_was(world, tmp_path):
    Stopped.fits = 0
    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path / "run", Stopped)
    before = Stopped.fits
    result = run(world, tmp_path / "run", Stopped)

    assert (before, Stopped.fits) == (3, 5)  # the third again, and the fourth
    assert numbers(result) == numbers(run(world, tmp_path / "other"))


@pytest.mark.parametrize("name", ["part.json", "predictions.arrow"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_part_is_done_again(world, tmp_path, name, damage):
    Stopped.fits, Stopped.stop_at = 0, 99
    first = run(world, tmp_path / "run", Stopped)
    path = sorted((tmp_path / "run" / "parts").glob(f"*/{name}"))[0]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()

    again = run(world, tmp_path / "run", Stopped)
    Stopped.stop_at = 3

    assert Stopped.fits == 5
    assert numbers(first) == numbers(again)


def test_work_of_another_decoder_or_other_data_is_not_taken_for_ones_own(world, tmp_path):
    suite, store = world
    Stopped.fits, Stopped.stop_at = 0, 99
    for identity in ("first", "second", "second"):
        run_suite(suite, store, choice_of(Stopped, identity=identity), tmp_path / "run", threads=1)
    Stopped.stop_at = 3

    assert Stopped.fits == 8


def test_a_part_of_a_suite_is_not_complete(world, tmp_path):
    result = run(world, tmp_path / "run", seeds=[1], recording_ids=["lab/two"])

    assert not result.complete
    assert [(one.recording_id, one.seed) for one in result.scores] == [("lab/two", 1)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"seeds": [7]}, "has no seed 7; it has 0, 1"),
        ({"budgets": ["5 %"]}, "has no budget '5 %'"),
        ({"recording_ids": ["lab/three"]}, "has no recording 'lab/three'"),
    ],
)
def test_what_the_suite_has_not_is_named(world, tmp_path, more, message):
    with pytest.raises(SuiteError, match=message):
        run(world, tmp_path / "run", **more)


@dataclass
class Odd(Counting):
    """Answers something else than was asked."""

    answer: object = None

    def predict(self, segment):
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [None, np.zeros((3, 2)), np.zeros(600), "text", torch.zeros(550, 2, requires_grad=True)],
    ids=["nothing", "few", "flat", "text", "gradient"],
)
def test_an_answer_that_does_not_fit_is_refused_with_its_place(world, tmp_path, answer):
    with pytest.raises(SuiteError, match="made-up, counting, lab/one, segment at 49"):
        run(world, tmp_path / "run", lambda: Odd(answer=answer))


class Seen(Counting):
    """Says what it was pretrained on."""

    pretrained_on = ("lab/three", "elsewhere/TWO")


class Disguised(Counting):
    """Has seen a test recording under a name of its own."""

    def __init__(self, fingerprint):
        self.pretrained_fingerprints = {"mine/all": fingerprint}


def test_a_decoder_that_saw_the_test_side_is_not_fitted(world, tmp_path):
    with pytest.raises(LeakError, match=r"lab/two .seen as elsewhere/TWO"):
        run(world, tmp_path / "run", Seen)
    assert not (tmp_path / "run").exists()


def test_stored_bytes_give_a_recording_away_under_any_name(world, tmp_path):
    fingerprint = world[1]["lab/one"].fingerprint

    with pytest.raises(LeakError, match=r"pretrained on mine/all, whose stored files .* lab/one"):
        run(world, tmp_path / "run", lambda: Disguised(fingerprint))


def test_other_pretraining_is_kept_with_the_result(world, tmp_path):
    class Other(Counting):
        pretrained_on = ("lab/three",)
        weights_sha256 = "ab" * 32

    result = run(world, tmp_path / "run", Other)

    assert result.pretraining is not None
    assert result.pretraining.recordings == ("lab/three",)
    assert result.pretraining.weights == "ab" * 32


class Ahead(Counting):
    """Looks ahead."""

    history = -0.2  # from a sample to 0.2 s after it

    def counts(self, part, units):
        found = super().counts(part, units)
        found[:, :units] *= -1
        return found


def test_a_causal_suite_tests_causality(tmp_path):
    world = make_world(tmp_path, causal=True, step=0.02, seeds=[0])

    assert run(world, tmp_path / "run").causality == "tested"
    with pytest.raises(LeakError, match="the suite is causal"):
        run(world, tmp_path / "other", Ahead)


@dataclass
class Live(Counting):
    """Counts step by step."""

    late: float = 0.0
    held: list = field(default_factory=list)

    def begin(self, recording_id, start):
        self.held, self.recording_id = [], recording_id

    def step(self, spike_time, spike_unit, end):
        self.held.append((spike_time, spike_unit))
        time, unit = (np.concatenate(part) for part in zip(*self.held, strict=True))
        weights = self.maps[self.recording_id]
        counts = np.ones(len(weights))
        for one in range(len(weights) - 1):
            own = time[unit == one]
            counts[one] = np.sum((own >= end - self.history) & (own < end))
        return counts @ weights + self.late

    def cost(self, recording_id):
        return Cost(parameters=26, bytes=208, macs=26)


def test_live_steps_are_timed_and_must_say_the_same(tmp_path):
    world = make_world(tmp_path, causal=True, step=0.02, seeds=[0])

    result = run(world, tmp_path / "run", Live)

    assert result.cost is not None
    assert (result.cost.parameters, result.cost.bytes, result.cost.macs) == (26, 208, 26)
    assert result.cost.step_p50 is not None
    assert result.cost.step_p99 is not None
    assert 0 < result.cost.step_p50 <= result.cost.step_p99
    assert result.cost.normalised_latency is not None
    with pytest.raises(SuiteError, match=r"the live estimate is .* must be the same"):
        run(world, tmp_path / "other", lambda: Live(late=0.5))


class Remembering(Ahead):
    """Looks ahead, and says again what it said before of a time."""

    def predict(self, segment):
        held = self.__dict__.setdefault("held", {})
        found = super().predict(segment)
        for row, time in enumerate(segment.time.tolist()):
            found[row] = held.setdefault((segment.recording_id, time), found[row])
        return found


def test_a_look_ahead_cannot_be_hidden_by_remembering_answers(tmp_path):
    world = make_world(tmp_path, causal=True, step=0.02, seeds=[0])

    with pytest.raises(LeakError, match="the suite is causal"):
        run(world, tmp_path / "run", Remembering)


class Uncopied(Counting):
    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")


def test_a_decoder_that_cannot_be_copied_takes_part(tmp_path):
    world = make_world(tmp_path, causal=True, step=0.02, seeds=[0])

    assert run(world, tmp_path / "run", Uncopied).causality == "tested"


class Looking(Live):
    """Notes every array that it is given, and writes into all of them when it has answered."""

    seen: list = []  # noqa: RUF012

    def note(self, *arrays):
        self.seen += [(len(one), one.base is None) for one in arrays]
        for one in arrays:
            one[...] = 0

    def fit(self, sessions, rules):
        super().fit(sessions, rules)
        for session in sessions:
            for one in (*session.train, *session.valid):
                self.note(one.spike_time, one.spike_unit, one.time, one.labels)

    def predict(self, segment):
        found = super().predict(segment)
        self.note(segment.spike_time, segment.spike_unit, segment.time)
        return found

    def step(self, spike_time, spike_unit, end):
        self.seen += [(len(one), one.base is None) for one in (spike_time, spike_unit)]
        return super().step(spike_time, spike_unit, end)


def test_no_array_leads_to_the_rest_of_the_recording_and_none_is_scored(tmp_path):
    world = make_world(tmp_path, causal=True, step=0.02, seeds=[0])
    Looking.seen.clear()

    result = run(world, tmp_path / "run", Looking)

    assert len(Looking.seen) > 100
    assert all(own for _, own in Looking.seen)
    assert numbers(result) == numbers(run(world, tmp_path / "other", Live))


@dataclass
class OneBuffer(Counting):
    """Answers in the same array each time."""

    buffer: np.ndarray = field(default_factory=lambda: np.zeros((2000, 2)))

    def predict(self, segment):
        found = super().predict(segment)
        self.buffer[: len(found)] = found
        return self.buffer[: len(found)]


def test_an_answer_is_kept_as_it_was_given(tmp_path):
    blocks = {"split": {"kind": "chronological", "blocks": 3}}
    world = make_world(tmp_path, seeds=[0], group=blocks)

    first = run(world, tmp_path / "run", OneBuffer)

    assert len(open_tasks(*world)["lab/one"].test) == 3
    assert numbers(first) == numbers(run(world, tmp_path / "other"))


def test_two_processes_do_not_work_on_one_part(world, tmp_path):
    class Inside(Counting):
        def fit(self, sessions, rules):
            if rules.folder.parents[2].name == "run":
                with pytest.raises(SuiteError, match="Another process works on the same part"):
                    run(world, tmp_path / "run", seeds=[rules.seed], recording_ids=["lab/one"])
                run(world, tmp_path / "run", seeds=[1 - rules.seed], recording_ids=["lab/two"])
            super().fit(sessions, rules)

    result = run(world, tmp_path / "run", Inside, seeds=[0], recording_ids=["lab/one"])

    assert len(result.scores) == 1


class Boasting(Counting):
    def cost(self, recording_id):
        return Cost(macs=float("nan"))


class Silent(Counting):
    def about(self):
        raise RuntimeError("nothing to say")


@pytest.mark.parametrize(
    ("made", "message"),
    [(Boasting, "could not be tested on lab/one: ValidationError"), (Silent, "nothing to say")],
)
def test_what_a_decoder_says_of_itself_must_be_sound(world, tmp_path, made, message):
    with pytest.raises(SuiteError, match=message):
        run(world, tmp_path / "run", made)
    assert not (tmp_path / "run" / "result.json").exists()


class Together(Counting):
    """Notes how many sessions each fit had."""

    sizes: list = []  # noqa: RUF012

    def fit(self, sessions, rules):
        self.sizes.append([one.recording_id for one in sessions])
        super().fit(sessions, rules)


def test_one_decoder_of_all_recordings_or_one_of_each(tmp_path):
    each = make_world(tmp_path, seeds=[0])
    run(each, tmp_path / "each", Together)
    both = make_world(tmp_path, seeds=[0], fit="together")
    run(both, tmp_path / "both", Together)

    assert Together.sizes == [["lab/one"], ["lab/two"], ["lab/one", "lab/two"]]


def test_a_decoder_and_the_bare_file_of_its_predictions_have_one_score(world, tmp_path):
    suite, store = world
    ran = run(world, tmp_path / "run")

    scored = score_file(suite, store, tmp_path / "run" / "predictions.arrow", "a stranger")

    assert numbers(scored) == numbers(ran)
    assert (scored.kind, ran.kind) == ("predictions", "third party")
    assert scored.complete


def test_of_a_file_causality_is_only_claimed(tmp_path):
    world = make_world(tmp_path, causal=True, step=0.02, seeds=[0])
    run(world, tmp_path / "run")

    scored = score_file(*world, tmp_path / "run" / "predictions.arrow", "a stranger")

    assert scored.causality == "claimed"


def test_a_file_of_a_decoder_that_saw_the_test_side_is_refused(world, tmp_path):
    run(world, tmp_path / "run")

    with pytest.raises(LeakError, match="lab/one"):
        score_file(*world, tmp_path / "run" / "predictions.arrow", "x", pretrained_on=["lab/one"])


def test_what_a_decoder_says_of_itself_is_kept_as_far_as_json_goes(world, tmp_path):
    class Talking(Counting):
        def about(self):
            return {"alpha": 3.0, "nothing": float("nan"), "shape": np.float64(2), "path": object}

    result = run(world, tmp_path / "run", Talking, seeds=[0])

    about = result.fitted[0].about
    assert (about["alpha"], about["nothing"], about["shape"]) == (3.0, "NaN", 2.0)
    assert "object" in str(about["path"])


RATES = {
    "task": "rates", "metric": "bits_per_spike", "step": 0.05, "seeds": [0],
    "group": {"target": "heldout_counts"},
}  # fmt: skip


class Mean(Counting):
    """Answers the mean counts of the training time."""

    scale = 1.0

    def fit(self, sessions, rules):
        self.means = {
            one.recording_id: np.concatenate([part.labels for part in one.train]).mean(axis=0)
            for one in sessions
        }

    def predict(self, segment):
        mean = self.means[segment.recording_id]
        return np.tile(mean * self.scale, (len(segment.time), 1))


class Negative(Mean):
    scale = -1.0


def test_mean_rates_have_no_bits_and_a_decoder_has_some(tmp_path):
    world = make_world(tmp_path, **RATES)

    class Rates(Counting):
        def predict(self, segment):
            return np.maximum(super().predict(segment), 0.05)

    mean, better = (run(world, tmp_path / one.__name__, one) for one in (Mean, Rates))

    assert -0.05 < mean.summaries[0].mean <= 0.0
    assert better.summaries[0].mean > mean.summaries[0].mean + 0.02
    assert better.scores[0].phases["all"].bits_per_spike == better.scores[0].score


def test_rates_below_0_are_refused(tmp_path):
    world = make_world(tmp_path, **RATES)

    with pytest.raises(SuiteError, match="not a rate of 0 or more"):
        run(world, tmp_path / "run", Negative)


@pytest.mark.parametrize("fit", ["each", "together"])
def test_a_recording_without_the_labels_of_a_budget_is_left_out_of_it_and_named(tmp_path, fit):
    """Sessions have 21 training trials, of which the second has less in this suite."""
    budgets = [{"trials": 2}, {"trials": 21}, {"trials": 500}]
    world = make_world(tmp_path, seeds=[0], budgets=budgets, fit=fit)
    store = world[1]
    one = store["lab/two"]
    few = one.intervals["trials"].where(np.arange(30) % 2 == 0)
    store.write(replace(one, intervals={"trials": few}), dict(store.provenance("lab/two")))

    result = run(world, tmp_path / "run")

    assert [(one.recording_id, one.budget) for one in result.scores] == [
        ("lab/one", "2 trials"), ("lab/one", "21 trials"), ("lab/two", "2 trials")
    ]  # fmt: skip
    assert [(one.recording_id, one.budget) for one in result.left_out] == [
        ("lab/one", "500 trials"), ("lab/two", "21 trials"), ("lab/two", "500 trials")
    ]  # fmt: skip
    assert "21 labelled trials were asked for" in result.left_out[1].reason
    assert result.complete
