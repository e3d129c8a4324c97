"""A result is accepted when its predictions say the same, and not otherwise."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from spikedata.intervals import IntervalSet
from spikedata_model.errors import LeakError, SuiteError
from spikedata_model.leaderboard.result import Pretraining
from spikedata_model.leaderboard.runner import run_suite
from spikedata_model.leaderboard.scoring import score_file
from spikedata_model.leaderboard.tables import accept, rank, read_result, read_results, slug
from tests.spikedata_model.worlds import Counting, choice_of, make_world, write_suite


@pytest.fixture(scope="module", name="ran")
def _ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ran")
    suite, store = make_world(folder)
    result = run_suite(suite, store, choice_of(Counting), folder / "run", threads=1)
    return suite, store, result, folder / "run" / "predictions.arrow"


def test_an_honest_result_is_accepted_as_it_is(ran, tmp_path):
    suite, store, result, predictions = ran

    path = accept(result, predictions, store, tmp_path / "board", suite)

    assert path == tmp_path / "board" / "made-up" / "counting.json"
    assert read_result(path) == result
    assert read_results(tmp_path / "board") == [result]


def better(result, **changes):
    first, *others = result.scores
    return result.model_copy(update={"scores": (first.model_copy(update=changes), *others)})


def other_data(result, **changes):
    data = {name: one.model_copy(update=changes) for name, one in result.data.items()}
    return result.model_copy(update={"data": data})


CHEATS = {
    "a better score": (
        lambda r: better(r, score=0.99), "the scores of lab/one .all. are not those"),
    "a better phase": (
        lambda r: better(r, phases={"all": r.scores[0].phases["all"].model_copy(
            update={"r2": (0.99, 0.99)})}), "the scores of lab/one"),
    "fewer labels": (lambda r: better(r, labelled_seconds=1.0), "the scores of lab/one"),
    "a better summary": (
        lambda r: r.model_copy(update={"summaries": (r.summaries[0].model_copy(
            update={"mean": 0.99}),)}), "the summaries of made-up"),
    "a score left out": (
        lambda r: r.model_copy(update={"scores": r.scores[1:]}), "it has 3 scores"),
    "another suite": (
        lambda r: r.model_copy(update={"suite_sha256": "0" * 64}), "another version of the suite"),
    "other predictions": (
        lambda r: r.model_copy(update={"predictions_sha256": "0" * 64}), "predictions are others"),
    "other samples": (lambda r: other_data(r, samples="0" * 64), "the samples are 000"),
    "another file": (lambda r: other_data(r, source=f"md5:{0:032d}"), "the source are md5:000"),
    "not all, called complete": (
        lambda r: r.model_copy(update={"complete": False}), "whether it is complete"),
    "more than any number": (
        lambda r: better(r, score=float("inf")), "the scores of lab/one"),
    "another name of the suite": (
        lambda r: r.model_copy(update={"suite": "sample"}), "it is of another suite"),
    "tested where nothing is": (
        lambda r: r.model_copy(update={"causality": "tested"}), "but the suite is not causal"),
    "a bare file, called a run": (
        lambda r: r.model_copy(update={"fitted": ()}), "its fits are not those"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_a_result_that_was_changed_is_refused_with_what_differs(ran, tmp_path, name):
    suite, store, result, predictions = ran
    change, message = CHEATS[name]

    with pytest.raises(SuiteError, match=message):
        accept(change(result), predictions, store, tmp_path / "board", suite)
    assert not (tmp_path / "board").exists()


def test_a_picture_shows_what_was_predicted(ran, tmp_path):
    suite, store, result, predictions = ran
    first, *others = result.traces
    perfect = first.model_copy(update={"predicted": first.truth})
    drawn = result.model_copy(update={"traces": (perfect, *others)})

    path = accept(drawn, predictions, store, tmp_path / "board", suite)

    assert first.predicted != first.truth
    assert read_result(path).traces == result.traces


def test_a_bare_file_is_not_tested_by_saying_so(tmp_path):
    suite, store = make_world(tmp_path, causal=True, step=0.02, seeds=[0])
    run_suite(suite, store, choice_of(Counting), tmp_path / "run", threads=1)
    predictions = tmp_path / "run" / "predictions.arrow"
    scored = score_file(suite, store, predictions, "bare")

    for causality, message in (("tested", "bare file"), ("free", "but the suite is causal")):
        said = scored.model_copy(update={"causality": causality})
        with pytest.raises(SuiteError, match=message):
            accept(said, predictions, store, tmp_path / "board", suite)
    assert accept(scored, predictions, store, tmp_path / "board", suite).is_file()


def test_another_suite_does_not_pass_under_a_bundled_name(ran, tmp_path):
    _, store, result, predictions = ran
    shutil.copy(store.path.parent / "made-up.toml", tmp_path)
    easy = write_suite(tmp_path, name="sample")
    named = result.model_copy(update={"suite": "sample", "suite_sha256": easy.sha256})

    with pytest.raises(SuiteError, match="is not the one of that name that comes with spikedata"):
        accept(named, predictions, store, tmp_path / "board", easy)


def test_a_name_that_makes_the_same_file_does_not_push_another_out(ran, tmp_path):
    suite, store, result, predictions = ran
    named = [result.model_copy(update={"decoder": name}) for name in ("my ridge", "my-ridge")]
    path = accept(named[0], predictions, store, tmp_path / "board", suite)

    with pytest.raises(SuiteError, match="is the result of 'my ridge'"):
        accept(named[1], predictions, store, tmp_path / "board", suite)
    assert accept(named[0], predictions, store, tmp_path / "board", suite) == path


def test_a_phase_without_a_spike_is_accepted_from_its_file(tmp_path):
    """Its bits per spike are no number, which a file can only say by null."""
    suite, store = make_world(
        tmp_path, task="rates", metric="bits_per_spike", step=0.05, seeds=[0],
        group={"target": "heldout_counts", "phases": ["silence"]},
    )  # fmt: skip
    for name in list(store):
        made = store[name]
        spikes = made.spike_time[np.isin(made.spike_unit, np.flatnonzero(made.units["heldout"]))]
        last = spikes[made.split("test", "chronological").contains(spikes)]
        at = int(np.argmax(np.diff(last)))
        silence = IntervalSet.single(last[at] + 0.01, last[at + 1] - 0.01)
        intervals = {**made.intervals, "silence": silence}
        store.write(replace(made, intervals=intervals), store.provenance(name))

    class Rates(Counting):
        def predict(self, segment):
            return np.maximum(super().predict(segment), 0.05)

    run_suite(suite, store, choice_of(Rates), tmp_path / "run", threads=1)
    result = read_result(tmp_path / "run" / "result.json")

    silent = [one.phases["silence"].bits_per_spike for one in result.scores]
    assert silent[0] is None or np.isnan(silent[0])
    accept(result, tmp_path / "run" / "predictions.arrow", store, tmp_path / "board", suite)


def test_a_result_that_saw_the_test_side_is_refused(ran, tmp_path):
    suite, store, result, predictions = ran
    seen = result.model_copy(update={"pretraining": Pretraining(recordings=("lab/two",))})

    with pytest.raises(LeakError, match="lab/two"):
        accept(seen, predictions, store, tmp_path / "board", suite)


def test_a_suite_that_was_changed_does_not_take_old_results(ran, tmp_path):
    _, store, result, predictions = ran
    shutil.copy(store.path.parent / "made-up.toml", tmp_path)
    other = write_suite(tmp_path, context=0.5)

    with pytest.raises(SuiteError, match="another version of the suite"):
        accept(result, predictions, store, tmp_path / "board", other)


def test_words_for_people_do_not_make_another_suite(ran, tmp_path):
    suite, *_ = ran
    shutil.copy(suite._path.parent / "made-up.toml", tmp_path)

    assert write_suite(tmp_path, description="better words").sha256 == suite.sha256
    assert write_suite(tmp_path, block=4.0).sha256 != suite.sha256


def test_a_suite_that_does_not_come_along_must_be_given(ran, tmp_path):
    _, store, result, predictions = ran

    with pytest.raises(SuiteError, match="give its file with --suite"):
        accept(result, predictions, store, tmp_path / "board")


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "", "ü ö", ".hidden", "a\0b"])
def test_no_name_leaves_the_folder(ran, tmp_path, name):
    suite, store, result, predictions = ran
    named = result.model_copy(update={"decoder": name})

    path = accept(named, predictions, store, tmp_path / "board", suite)

    assert path.parent == tmp_path / "board" / "made-up"
    assert path.resolve().parent == path.parent.resolve()
    assert not slug(name).startswith(".")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format_version": 2}', b"\xff\xfe"])
def test_a_file_that_is_no_result_is_named(tmp_path, content):
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "x.json").write_bytes(content)

    with pytest.raises(SuiteError, match=r"x\.json is no result"):
        read_result(tmp_path / "board" / "x.json")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SuiteError, match="There is no folder"):
        read_results(tmp_path / "board")


def test_the_best_comes_first_and_the_incomplete_last(ran):
    suite, _, result, _ = ran

    def made(name, mean, complete=True):
        cell = result.summaries[0].model_copy(update={"mean": mean})
        update = {"decoder": name, "summaries": (cell,), "complete": complete}
        return result.model_copy(update=update)

    given = [made("c", 0.1), made("d", 0.9, complete=False), made("a", 0.7), made("n", np.nan),
             made("b", 0.5), made("e", 0.8).model_copy(update={"suite": "another"}),
             made("f", 0.8).model_copy(update={"suite_sha256": "0" * 64})]  # fmt: skip

    assert [one.decoder for one in rank(given, suite)] == ["a", "b", "c", "n", "d", "f"]


def test_numbers_that_are_none_come_through_the_file(ran, tmp_path):
    _, _, result, _ = ran
    odd = better(result, score=float("nan"))
    path = tmp_path / "odd.json"
    path.write_text(odd.model_dump_json())

    assert json.loads(path.read_text())["scores"][0]["score"] is None
    assert np.isnan(read_result(path).scores[0].score)
