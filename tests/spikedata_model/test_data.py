from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata_model.config import Recipe
from spikedata_model.data import RunData, prepare_data
from spikedata_model.errors import ConfigError
from tests.spikedata_model.builders import make_config, make_recording, make_splits, with_values

A, B = make_recording("lab/a"), make_recording("lab/b", seed=1, n_units=3)


def prepare(*recordings: Recording, **data: object) -> RunData:
    config = make_config().model_copy(update={"data": make_config().data.model_copy(update=data)})
    by_id = {one.recording_id: one for one in recordings}
    return prepare_data(by_id, tuple(by_id), config)


def values_in(recording: Recording, target: str, split: str) -> np.ndarray:
    series, intervals = recording.series[target], recording.split(split)
    return series.values[intervals.contains(series.times())].astype(np.float64)


def test_the_scale_is_mean_and_deviation_of_the_training_split_of_each_recording():
    data = prepare(A, B)

    for one in (A, B):
        train = values_in(one, "hand", "train")
        scale = data.scales[one.recording_id]["hand"]
        assert scale.mean == pytest.approx(train.mean(axis=0))
        assert scale.std == pytest.approx(train.std(axis=0))
    assert data.scales["lab/a"] != data.scales["lab/b"]


def test_values_outside_the_training_split_do_not_move_the_scale():
    series = A.series["hand"]
    outside = ~A.split("train").contains(series.times())
    values = series.values.copy()
    values[outside] = np.nan

    assert prepare(with_values(A, "hand", values)).scales == prepare(A).scales


def test_the_scale_is_that_of_the_asked_split_scheme():
    late = make_splits((0.0, 8.0, "test"), (8.0, 20.0, "train"))
    both = replace(A, splits={**A.splits, "late": late})

    assert prepare(both).scales == prepare(A).scales
    assert prepare(both, scheme="late").scales == prepare(replace(A, splits={"late": late})).scales
    assert prepare(both, scheme="late").scales != prepare(A).scales


@pytest.mark.parametrize("targets", [("hand",), ("hand", "heading")])
def test_normalising_and_restoring_are_inverse_and_each_uses_its_own_recording(targets):
    data = prepare(A, B, targets=targets)
    sampler = data.sampler("train", make_config(), batch_size=12)
    batch = sampler.batch(0, 0)
    assert len(set(batch.recording.tolist())) == 2

    for target in targets:
        one = batch.targets[target]
        normalised = data.normalised(batch, target)
        assert normalised.dtype == torch.float32
        row = 0
        for window in range(len(batch)):
            scale = data.scales[batch.recording_ids[batch.recording[window]]][target]
            for value in one.values[one.offsets[window] : one.offsets[window + 1]]:
                by_hand = (value - np.array(scale.mean)) / np.array(scale.std)
                assert normalised[row].tolist() == pytest.approx(by_hand, abs=1e-4)
                row += 1
        assert row == len(normalised)
        restored = data.restored(batch, target, normalised)
        np.testing.assert_allclose(restored, one.values, rtol=1e-4, atol=1e-4)


def test_all_training_samples_together_have_mean_0_and_deviation_1():
    data = prepare(A)
    sampler = data.sampler("train", make_config(), batch_size=50, order="sequential", short="keep")
    normalised = data.normalised(sampler.batch(0, 0), "hand")

    assert normalised.mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-4)
    assert normalised.std(dim=0, correction=0).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_targets_are_those_that_recordings_name_and_widths_those_of_the_series():
    data = prepare(A, make_recording("lab/c", targets=("heading",)))

    assert data.channels == {"hand": 2, "heading": 2}
    assert prepare(A, targets=("heading",)).channels == {"heading": 2}


def test_a_series_is_decoded_only_where_it_is_a_target():
    """Two labs may call different things 'position': one recording's target is not another's."""
    data = prepare(A, make_recording("lab/c", seed=3, targets=("heading",)))
    batch = data.sampler("train", make_config(), batch_size=20).batch(0, 0)

    assert set(data.scales["lab/c"]) == {"heading"}
    for target, one in batch.targets.items():
        for window, count in enumerate(np.diff(one.offsets)):
            name = batch.recording_ids[batch.recording[window]]
            assert (count > 0) == (target in data.scales[name]), (target, name)
        assert data.normalised(batch, target).abs().max() < 10


def test_a_recording_that_lacks_a_target_takes_part_with_the_others():
    bare = replace(A, recording_id="lab/c", series={"heading": A.series["heading"]},
                   units={"unit_id": np.array(["w", "x", "y", "z"])})  # fmt: skip
    data = prepare(A, bare, targets=("hand", "heading"))

    assert set(data.scales["lab/c"]) == {"heading"}
    batch = data.sampler("train", make_config(), batch_size=20).batch(0, 0)
    assert len(data.normalised(batch, "hand")) == len(batch.targets["hand"].time)


def test_units_and_recordings_of_the_vocabulary_are_in_the_order_of_the_run():
    data = prepare(B, A)

    assert data.vocabulary.recording_ids == ("lab/b", "lab/a")
    assert data.vocabulary.unit_ids == (*B.unit_ids.tolist(), *A.unit_ids.tolist())


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 / 3])
def test_a_channel_that_never_changes_in_training_is_refused(value):
    """The mean of equal numbers may differ from them by one rounding, so their deviation from 0."""
    values = A.series["hand"].values.astype(np.float64)
    values[A.split("train").contains(A.series["hand"].times()), 1] = value

    with pytest.raises(ConfigError, match="lab/a: 'hand' never changes in the training split"):
        prepare(with_values(A, "hand", values))


def test_a_target_without_training_samples_is_refused():
    late = replace(A.series["hand"], start=15.0)

    with pytest.raises(ConfigError, match=r"'hand' never changes .*\(0 samples\)"):
        prepare(replace(A, series={"hand": late}))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_target_with_values_that_are_no_numbers_is_refused(bad):
    values = A.series["hand"].values.copy()
    values[3, 0] = bad

    with pytest.raises(ConfigError, match=r"lab/a: 'hand' holds values .* no numbers"):
        prepare(with_values(A, "hand", values))


@pytest.mark.parametrize("targets", [("hnad",), ("hand", "hnad"), ("hnad", "hand")])
def test_a_target_that_no_recording_has_is_refused_with_a_near_name(targets):
    with pytest.raises(ConfigError, match=r"'hnad'.*did you mean 'hand'\?"):
        prepare(A, B, targets=targets)


def test_a_recording_without_any_target_is_refused_with_what_to_do():
    bare = make_recording("lab/c", targets=())

    with pytest.raises(ConfigError, match=r"lab/c names no target, .*data\.targets.*hand, heading"):
        prepare(bare)
    eye = replace(bare, series={"eye": A.series["hand"]})
    with pytest.raises(ConfigError, match=r"lab/c has no series 'hand', so there is nothing to"):
        prepare(A, eye, targets=("hand",))


def test_a_target_of_another_width_is_refused_with_both_widths():
    series = Series(np.ones((9, 1)), "", ("x",), rate=1.0)

    with pytest.raises(ConfigError, match="lab/c: 'hand' has 1 channels, 2 in the recordings"):
        prepare(A, replace(make_recording("lab/c"), series={"hand": series}))


def test_no_recording_is_refused():
    with pytest.raises(ConfigError, match="no recording to train on"):
        prepare()


def test_a_split_exists_when_any_recording_has_time_in_it():
    bare = make_recording("lab/c", splits=make_splits((0.0, 20.0, "train")))

    assert prepare(A, bare).has_split("test")
    assert not prepare(bare).has_split("test")


# ------------------------------------------------------------------ recipes

REACH, HOLD = IntervalSet.single(1.0, 4.0), IntervalSet(np.array([3.0, 7.0]), np.array([5.5, 9.0]))


def with_tables(recording: Recording, **tables: IntervalSet) -> Recording:
    return replace(recording, intervals=tables)


def test_samples_weigh_as_their_own_time_asks_whatever_the_window():
    """The recipe of lab/a has two tables that overlap and one that is empty; lab/b has none."""
    recipe = Recipe(recordings="lab/a", weights={"reach": 5.0, "hold": 0.1, "gone": 0.5})
    other = Recipe(recordings="lab/c", weights={"gone": 0.5})
    a, b = with_tables(A, reach=REACH, hold=HOLD, gone=IntervalSet.empty()), B
    data = prepare(a, b, targets=("hand", "heading"), recipes=(recipe, other))
    for seed in range(3):
        config = make_config(seed=seed, batch_size=50)
        batch = data.sampler("train", config, batch_size=50).batch(0, 0)
        for name, target in batch.targets.items():
            expected = []
            for window, row in enumerate(batch.recording):
                one = (a, b)[row]
                times = one.series[name].times()
                for time in times[(times >= batch.start[window]) & (times < batch.end[window])]:
                    weight = np.float32(1)
                    if row == 0 and 1 <= time < 4:
                        weight *= np.float32(5)
                    if row == 0 and (3 <= time < 5.5 or 7 <= time < 9):
                        weight *= np.float32(0.1)
                    expected.append(weight)
            found = data.weights(batch, name)
            assert found.dtype == np.float32
            assert found.shape == target.time.shape
            assert found == pytest.approx(np.array(expected))
            assert len(np.unique(found)) == 4


def test_without_a_recipe_all_samples_weigh_1_and_all_are_scored():
    data = prepare(A)
    batch = data.sampler("train", make_config(), batch_size=5).batch(0, 0)

    assert set(data.weights(batch, "hand")) == {1}
    assert data.scored("lab/a", np.array([0.0, 99.0])).all()


def test_scores_are_taken_on_the_half_open_rows_of_the_recipes_table():
    recipe = Recipe(recordings="lab/*", evaluate_on="hold")
    data = prepare(with_tables(A, hold=HOLD), recipes=(recipe,))
    time = np.array([2.9, 3.0, 5.4, 5.5, 7.0, 9.0])

    assert data.scored("lab/a", time).tolist() == [False, True, True, False, True, False]


@pytest.mark.parametrize(("unit", "factor"), [("mm/s", 200.0), ("cm/s", 20.0), ("m/s", 0.2)])
def test_a_fixed_factor_is_taken_in_the_unit_of_the_series(unit, factor):
    series = {"hand": replace(A.series["hand"], unit=unit)}
    recipe = Recipe(recordings="lab/*", divide_by=20.0, unit="cm/s")
    scale = prepare(replace(A, series=series), recipes=(recipe,)).scales["lab/a"]["hand"]

    assert scale.mean == (0, 0)
    assert scale.std == pytest.approx((factor, factor))


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"weights": {"raech": 5.0}}, "weighs 'raech', but none of its 1 recordings"),
        ({"weights": {"raech": 5.0}}, "did you mean 'reach'?"),
        ({"evaluate_on": "raech"}, "lab/a has no interval table 'raech', on which the recipe of"),
        ({"divide_by": 20.0, "unit": "px/s"}, "'hand' is in 'mm/s', but the recipe of 'lab/*'"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(recipe, says):
    with pytest.raises(ConfigError) as caught:
        prepare(with_tables(A, reach=REACH), recipes=(Recipe(recordings="lab/*", **recipe),))
    assert says in str(caught.value)


def test_a_recipe_of_recordings_that_are_not_here_asks_nothing_of_others():
    recipe = Recipe(recordings="other/*", weights={"x": 2.0}, evaluate_on="x", divide_by=3.0)

    assert prepare(A, recipes=(recipe,)).scales == prepare(A).scales


# ------------------------------------------------------------------ windows that are refused


@pytest.mark.parametrize(("start", "end"), [(-0.5, 0.5), (19.5, 20.5), (25.0, 26.0)])
def test_windows_outside_the_observed_time_are_refused(start, end):
    """The sampler gives them: it holds nobody to a domain."""
    data = prepare(A, B)
    sampler = data.sampler("train", make_config(), batch_size=3)
    good = sampler.gather(np.array([1]), np.array([0.0]), np.array([1.0]))
    data.check_windows(good)
    bad = sampler.gather(np.array([0, 1]), np.array([0.0, start]), np.array([1.0, end]))

    with pytest.raises(ConfigError, match=r"lab/b: the window \[.*outside the time that was obse"):
        data.check_windows(bad)


@pytest.mark.parametrize("index", [-1, 7])
@pytest.mark.parametrize("column", ["spike_unit", "unit"])
def test_a_unit_index_that_is_none_is_refused(index, column):
    """Index -1 would be the last unit."""
    data = prepare(A, B)
    batch = data.sampler("train", make_config(), batch_size=3).batch(0, 0)
    changed = getattr(batch, column).copy()
    changed[0] = index

    with pytest.raises(ConfigError, match="but the model knows the units 0 to 6"):
        data.check_windows(replace(batch, **{column: changed}))
