"""Every way to cheat that is known is tried here, and refused with a sentence that says which."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spikedata.store import Store
from spikedata_model.errors import LeakError, SuiteError
from spikedata_model.leaderboard.guards import (
    check_causal,
    check_pins,
    check_pretraining,
    differs,
    read_list,
    without_future,
)
from spikedata_model.leaderboard.protocol import Rules
from spikedata_model.leaderboard.scoring import open_tasks
from spikedata_model.leaderboard.suite import load_suite
from tests.spikedata_model.worlds import (
    Counting,
    fill_store,
    make_session,
    make_world,
    sha_of,
    write_manifest,
    write_suite,
)

# ------------------------------------------------------------------ what was seen before


@pytest.mark.parametrize(
    "seen",
    [
        "lab/one",
        "LAB/One ",
        "one",
        "other_dataset/one",
        f"sha256:{sha_of('one')}",
        "one.nwb",
        "sub/one.nwb",
        "a b c",
        sha_of("one"),
        sha_of("one").upper(),
        "processed/lab_2020/one.h5",
        "C:\\data\\one.mat",
        "\uff4f\uff4e\uff45",
    ],
)
def test_a_test_recording_is_found_under_any_of_its_names(tmp_path, seen):
    suite, _ = make_world(tmp_path, group={"aliases": ["A B C"]})

    with pytest.raises(LeakError, match=r"pretrained on 1 recording.*lab/one|a recording of made"):
        check_pretraining(suite, ["lab/other", seen])


def test_all_that_was_seen_is_named(tmp_path):
    suite, _ = make_world(tmp_path)

    with pytest.raises(LeakError) as caught:
        check_pretraining(suite, ["lab/one", "else/two", "lab/three"])

    assert "lab/one (seen as lab/one)" in str(caught.value)
    assert "lab/two (seen as else/two)" in str(caught.value)
    assert "three" not in str(caught.value)


def test_units_of_a_test_recording_give_it_away(tmp_path):
    suite, _ = make_world(tmp_path)

    with pytest.raises(LeakError, match=r"lab/two .seen as the unit lab/two/4"):
        check_pretraining(suite, [], unit_ids=["lab/three/1", "lab/two/4"])
    with pytest.raises(LeakError, match=r"lab/two .seen as the unit lab/two/probe/4"):
        check_pretraining(suite, [], unit_ids=["lab/two/probe/4"])


def test_recordings_that_only_look_alike_pass(tmp_path):
    suite, _ = make_world(tmp_path)

    check_pretraining(suite, ["lab/one_more", "one/lab", "lab", ""], unit_ids=["lab/oneone/1"])
    with pytest.raises(LeakError):
        check_pretraining(suite, ["one/one"])


def test_a_manifest_stands_for_its_training_recordings(tmp_path):
    suite, _ = make_world(tmp_path)
    path = tmp_path / "made-up.toml"

    with pytest.raises(LeakError, match="lab/one of the manifest 'made-up'"):
        check_pretraining(suite, [f"manifest:{path}"])
    path.with_name("held.toml").write_text(
        path.read_text().replace('session = "', 'role = "heldout"\nsession = "')
    )
    check_pretraining(suite, [f"manifest:{path.with_name('held.toml')}"])


@pytest.mark.parametrize("written", ["manifest: {}", "Manifest:{}", "{}", " {} "])
def test_a_manifest_is_known_however_it_is_written(tmp_path, written):
    suite, _ = make_world(tmp_path)

    with pytest.raises(LeakError, match="lab/one of the manifest 'made-up'"):
        check_pretraining(suite, [written.format(tmp_path / "made-up.toml")])
    with pytest.raises(LeakError, match="of the manifest 'poyo-1'"):
        check_pretraining(load_suite("neurobench-reaching"), [written.format("poyo-1")])


@pytest.mark.parametrize(
    ("name", "manifest", "count"),
    [("neurobench-reaching", "poyo-1", 6), ("poyo-table2", "poyo-mp-public", 4)],
)
def test_known_contaminations_are_found(name, manifest, count):
    """All six files of NeuroBench are in POYO-1's list; the public list has the held-out days."""
    suite = load_suite(name)

    with pytest.raises(LeakError) as caught:
        check_pretraining(suite, [f"manifest:{manifest}"])

    named = [one for one in suite.recordings if f"{one} (seen as" in str(caught.value)]
    assert len(named) == count


def test_the_papers_own_list_is_clean_for_its_table():
    check_pretraining(load_suite("poyo-table2"), ["manifest:poyo-mp-paper"])


def test_a_list_is_read_line_by_line(tmp_path):
    path = tmp_path / "seen.txt"
    path.write_text("# what it saw\nlab/one\n\n  lab/two  \n")

    assert read_list(path) == ["lab/one", "lab/two"]
    with pytest.raises(SuiteError, match="cannot be read"):
        read_list(tmp_path / "nothing.txt")


# ------------------------------------------------------------------ hashes


def test_the_right_store_passes(tmp_path):
    suite, store = make_world(tmp_path)

    assert check_pins(suite, store, ["lab/one"]) == {"lab/one": f"sha256:{sha_of('one')}"}


def test_a_recording_made_from_another_file_is_refused(tmp_path):
    suite, store = make_world(tmp_path)
    provenance = dict(store.provenance("lab/two"))
    provenance["asset"] = {**provenance["asset"], "sha256": "0" * 64}
    store.write(store["lab/two"], provenance)

    with pytest.raises(SuiteError) as caught:
        check_pins(suite, store, list(suite.recordings))

    assert "lab/two: it was made from a file with sha256:000" in str(caught.value)
    assert f"the suite pins sha256:{sha_of('two')}" in str(caught.value)
    assert "lab/one:" not in str(caught.value)


def test_other_rules_of_harmonisation_are_refused(tmp_path):
    suite, store = make_world(tmp_path)
    provenance = dict(store.provenance("lab/two"))
    provenance["harmonize"] = {**provenance["harmonize"], "targets": ["position"]}
    store.write(store["lab/two"], provenance)

    with pytest.raises(SuiteError, match="lab/two: it was harmonised by other rules"):
        open_tasks(suite, store)


def test_a_manifest_that_was_changed_is_refused(tmp_path):
    suite, store = make_world(tmp_path)
    path = tmp_path / "made-up.toml"
    path.write_text(path.read_text().replace(sha_of("one"), "0" * 64))

    with pytest.raises(SuiteError, match=f"lab/one: the suite pins sha256:{sha_of('one')}, the"):
        open_tasks(suite, store)


def test_a_recording_that_is_not_there_is_named_with_what_to_do(tmp_path):
    write_manifest(tmp_path)
    suite = write_suite(tmp_path)
    store = fill_store(tmp_path, [make_session("one", 0)])

    with pytest.raises(SuiteError, match=r"1 of 2 .*: lab/two: not in the store; `sp"):
        open_tasks(suite, store)


def test_recordings_without_provenance_are_refused(tmp_path):
    suite, _ = make_world(tmp_path)
    other = Store(tmp_path / "other", create=True)
    for row, name in enumerate(("one", "two")):
        other.write(make_session(name, row), {})

    with pytest.raises(SuiteError, match="2 of 2 recordings"):
        open_tasks(suite, other)


def test_training_time_within_a_window_of_the_test_is_refused(tmp_path):
    """Training time ends 7 s before test time; a suite with a longer window needs more."""
    suite, store = make_world(tmp_path, context=7.5)

    with pytest.raises(LeakError, match=r"lab/one: .* of test time lie within 7\.5 s of training"):
        open_tasks(suite, store)


def test_a_smaller_gap_must_be_explained(tmp_path):
    write_manifest(tmp_path)

    with pytest.raises(SuiteError, match="say why in gap_reason"):
        write_suite(tmp_path, context=1.0, gap=0.5)


# ------------------------------------------------------------------ the future


class Ahead(Counting):
    """Counts spikes on both sides of a sample."""

    def counts(self, part, units):
        later = replace(part, time=part.time + 0.1)
        return super().counts(later, units)


class Whole(Counting):
    """Looks at no later spike, but at how long the segment is."""

    def predict(self, segment):
        return super().predict(segment) * (segment.end - segment.start)


class Smooth(Counting):
    """Smooths its own estimates in both directions."""

    def predict(self, segment):
        found = super().predict(segment)
        return (found + np.concatenate([found[1:], found[-1:]])) / 2


class Fewer(Counting):
    """Drops a sample where it can."""

    def predict(self, segment):
        found = super().predict(segment)
        return found if len(found) > 600 else found[1:]


def causal_task(folder):
    suite, store = make_world(folder, causal=True, step=0.02)
    return open_tasks(suite, store)["lab/one"]


def fitted(entrant, task, folder):
    rules = Rules("behaviour", True, 0.02, 1.0, 0, folder)
    entrant.fit([task.session(task.suite.budgets[0], 0)], rules)
    return entrant


@pytest.mark.parametrize("cheat", [Ahead, Whole, Smooth])
@pytest.mark.parametrize("seed", range(3))
def test_a_look_ahead_is_found(tmp_path, cheat, seed):
    task = causal_task(tmp_path)
    entrant = fitted(cheat(), task, tmp_path)

    with pytest.raises(LeakError, match="the suite is causal, but the estimate at"):
        check_causal(entrant, task, [entrant.predict(one) for one in task.test], seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_causal_decoder_passes(tmp_path, seed):
    task = causal_task(tmp_path)
    entrant = fitted(Counting(), task, tmp_path)

    check_causal(entrant, task, [entrant.predict(one) for one in task.test], seed)


class Fresh(Counting):
    """Uses spikes up to a sample where estimates are made less often."""


class OnGrid(Counting):
    """Makes estimates when the suite asks for them."""

    def predict(self, segment):
        edges, row = segment.estimates(0.07)
        return super().predict(replace(segment, time=edges))[row]


def test_spikes_newer_than_an_estimate_are_found(tmp_path):
    """A sample of 50 Hz would get up to 60 ms more than in a suite of 70-ms steps it may."""
    suite, store = make_world(tmp_path, causal=True, step=0.07)
    task = open_tasks(suite, store)["lab/one"]
    for cheat in (Fresh, OnGrid):
        entrant = fitted(cheat(), task, tmp_path)
        answers = [entrant.predict(one) for one in task.test]
        if cheat is OnGrid:
            check_causal(entrant, task, answers, 0)
            continue
        with pytest.raises(LeakError, match="the suite is causal, but the estimate at"):
            check_causal(entrant, task, answers, 0)


def test_where_a_recording_is_cut_follows_from_the_answers(tmp_path):
    """A decoder that knew the places could look ahead everywhere else."""
    task = causal_task(tmp_path)
    entrant = fitted(Counting(), task, tmp_path)
    cuts = []

    class Noted(Counting):
        maps = entrant.maps
        offset = 0.0

        def predict(self, segment):
            cuts.append(len(segment.time))
            return super().predict(segment) + self.offset

    found = []
    for offset in (0.0, 0.0, 1.0):
        noted = Noted()
        noted.offset = offset
        answers = [noted.predict(one) for one in task.test]
        cuts.clear()
        check_causal(noted, task, answers, 0)
        found.append(tuple(cuts))

    assert len(task.test) == 1
    assert [len(one) for one in found] == [3, 3, 3]  # several in the one segment that there is
    assert found[0] == found[1] != found[2]


def test_rounding_far_from_0_and_a_channel_that_stands_still_are_no_look_ahead(tmp_path):
    task = causal_task(tmp_path)
    still = replace(task, truth=np.c_[1000 + task.truth[:, 0], np.zeros(len(task.truth))])
    said = np.c_[1000 + task.truth[:, 0], np.full(len(task.truth), 1e-7)]

    noise, change = np.array([0, 1e-8]), np.array([0.01 * task.truth[:, 0].std(), 0])
    assert not differs(still, said, said.astype(np.float32) + noise).any()
    assert differs(still, said, said + change).all()


def test_another_number_of_estimates_is_found(tmp_path):
    task = causal_task(tmp_path)
    entrant = fitted(Fewer(), task, tmp_path)
    answers = [Counting.predict(entrant, one) for one in task.test]

    with pytest.raises(LeakError, match="returned the shape"):
        check_causal(entrant, task, answers, 0)


def test_a_cut_segment_has_nothing_at_or_after_its_last_sample_but_the_sample(tmp_path):
    (segment,) = causal_task(tmp_path).test

    short = without_future(segment, 30)

    assert len(short.time) == 30
    assert short.time[-1] == segment.time[29]
    assert short.start == segment.start
    assert short.time[-1] < short.end <= segment.time[30]
    before = segment.spike_time < segment.time[29]
    assert np.array_equal(short.spike_time, segment.spike_time[before])
    assert np.array_equal(short.spike_unit, segment.spike_unit[before])


@pytest.mark.parametrize("step", [0.005, 0.02, 0.07])
@pytest.mark.parametrize("kept", [1, 2, 30, 549])
def test_what_is_cut_off_changes_no_earlier_estimate_time(tmp_path, step, kept):
    """A decoder that makes estimates when it should must not be taken for one that looks ahead."""
    suite, store = make_world(tmp_path, causal=True, step=step)
    (segment,) = open_tasks(suite, store)["lab/one"].test

    edges, row = segment.estimates(step)
    cut_edges, cut_row = without_future(segment, kept).estimates(step)

    assert segment.at_samples == (step <= 0.02)  # the series has 50 Hz
    assert np.array_equal(cut_row, row[:kept])
    assert np.array_equal(cut_edges, edges[: len(cut_edges)])
    assert (edges[row] <= segment.time + 1e-9).all()
    assert (segment.time - edges[row] < step + 1e-9).all()
