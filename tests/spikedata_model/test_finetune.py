from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spikedata.intervals import IntervalSet
from spikedata.store import Store
from spikedata_model.card import read_card
from spikedata_model.checkpoint import Checkpoint, load_checkpoint, read_run
from spikedata_model.config import DataConfig, Labels
from spikedata_model.data import prepare_data
from spikedata_model.errors import CheckpointError, ConfigError
from spikedata_model.evaluate import evaluate, predict
from spikedata_model.finetune import finetune, finetune_config
from spikedata_model.poyo import Poyo
from spikedata_model.train import train, training_sampler
from spikedata_model.weights import Weights, load_weights, save_weights, weights_of_run
from tests.spikedata_model.builders import (
    TINY,
    make_config,
    make_recording,
    make_store,
    with_values,
)

NEW = "lab/new"
FEW = ["train.steps=20", "train.batch_size=3", "train.threads=1", "train.evaluate_every=8",
       "train.checkpoint_every=7", "train.windows_at_once=1"]  # fmt: skip
DROPPED = TINY.model_copy(
    update={"ffn_dropout": 0.2, "residual_dropout": 0.3, "attention_dropout": 0.2}
)


class Interrupted(Exception):
    """Stands for a killed process."""


def stop_at(step: int) -> Callable[[str, int, int], None]:
    def progress(label: str, done: int, total: int) -> None:
        if done == step:
            raise Interrupted

    return progress


@pytest.fixture(scope="module", name="pretrained")
def _pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store of three recordings, and a run on two of them."""
    folder = tmp_path_factory.mktemp("pretrained")
    store = make_store(
        folder / "store", make_recording("lab/a"), make_recording("lab/b", seed=1, n_units=3),
        make_recording(NEW, seed=2, n_units=5, targets=("heading", "hand")),
    )  # fmt: skip
    train(store, folder / "run", make_config(DROPPED, steps=30), recording_ids=["lab/a", "lab/b"])
    return folder


@pytest.fixture(name="base")
def _base(pretrained: Path) -> Path:
    return pretrained


def adapt(base: Path, folder: Path, mode: str = "unit-id", **options: object) -> Checkpoint:
    given = {"recording_ids": [NEW], "settings": FEW, **options}
    return finetune(Store(base / "store"), folder, base / "run", mode=mode, **given)  # type: ignore[arg-type]


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return weights_of_run(folder).model.state_dict()


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Return the weights of which a value that was there before is now another."""
    return {name for name, one in before.items() if not torch.equal(one, after[name][: len(one)])}


# ------------------------------------------------------------------ what is trained


def test_unit_identification_trains_new_rows_and_new_readouts_alone(base, tmp_path):
    adapt(base, tmp_path / "run")

    before, after = state_of(base / "run"), state_of(tmp_path / "run")
    assert moved(before, after) == set()
    assert list(after["unit_embedding.weight"].shape) == [4 + 3 + 5, TINY.dim]
    assert list(after["recording_embedding.weight"].shape) == [3, TINY.dim]
    drawn = begun(base, tmp_path)
    for name in ("unit_embedding.weight", "recording_embedding.weight", "readout.1.weight"):
        known = len(before[name]) if name in before else 0
        changed = (after[name] != drawn[name]).any(dim=1)
        assert changed[known:].all(), name


def test_new_rows_begin_as_the_mean_of_the_known_ones(base, tmp_path):
    drawn, before = begun(base, tmp_path), state_of(base / "run")

    for name in ("unit_embedding.weight", "recording_embedding.weight"):
        known = before[name]
        mean = known.mean(dim=0).expand_as(drawn[name][len(known) :])
        torch.testing.assert_close(drawn[name][len(known) :], mean)


def begun(base: Path, tmp_path: Path, **options: object) -> dict[str, torch.Tensor]:
    """Return the weights that adapting begins with."""
    settings = [*FEW, "train.learning_rate=1e-30", "train.weight_decay=0"]
    adapt(base, tmp_path / "begun", settings=settings, **options)
    return state_of(tmp_path / "begun")


def test_what_the_model_said_of_known_recordings_it_still_says(base, tmp_path):
    """Unit identification adds a recording to a model; the others lose nothing."""
    adapt(base, tmp_path / "run")
    record, adapted = read_run(base / "run"), weights_of_run(tmp_path / "run")
    data = record.data(Store(base / "store"))
    more = replace(data, vocabulary=adapted.vocabulary, readouts=adapted.model.targets)

    expected = predict(weights_of_run(base / "run").model, data, record.config, "test")
    found = predict(adapted.model, more, record.config, "test")
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one.predicted, other.predicted)
    assert {"lab/a", "lab/b", NEW} == adapted.scales.keys()


def test_full_finetuning_trains_everything(base, tmp_path):
    adapt(base, tmp_path / "run", "full")

    before, after = state_of(base / "run"), state_of(tmp_path / "run")
    whole = {name for name in before if name not in ("unit_embedding.weight",
             "recording_embedding.weight")}  # of which known rows are not used  # fmt: skip
    assert moved(before, after) == whole


@pytest.mark.parametrize(("step", "thawed"), [(6, False), (7, True)])  # of 20
def test_gradual_finetuning_begins_with_embeddings_for_three_tenths_of_the_steps(
    base, tmp_path, step, thawed
):
    with pytest.raises(Interrupted):
        adapt(base, tmp_path / "run", "gradual", progress=stop_at(step),
              settings=[*FEW, "train.checkpoint_every=1"])  # fmt: skip
    stopped = load_checkpoint(tmp_path / "run")

    assert stopped is not None
    assert stopped.step == step
    assert bool(moved(state_of(base / "run"), stopped.model)) == thawed


def test_units_and_recordings_that_the_model_knows_keep_their_rows(base, tmp_path):
    adapt(base, tmp_path / "run", recording_ids=["lab/b", NEW])

    before, after = weights_of_run(base / "run"), weights_of_run(tmp_path / "run")
    assert after.vocabulary.recording_ids == ("lab/a", "lab/b", NEW)
    assert after.vocabulary.unit_ids[:7] == before.vocabulary.unit_ids
    table, now = (one.model.unit_embedding.weight for one in (before, after))
    assert torch.equal(table[:4], now[:4])  # of lab/a
    assert not torch.equal(table[4:7], now[4:7])  # of lab/b, which is trained on


def test_a_new_target_may_begin_as_a_known_one(base, tmp_path):
    adapt(base, tmp_path / "other", settings=[*FEW, "train.steps=1"])
    after = begun(base, tmp_path, like={"heading": "hand"})

    assert weights_of_run(tmp_path / "begun").model.targets == ("hand", "heading")
    assert torch.equal(after["readout.0.weight"], after["readout.1.weight"])
    other = state_of(tmp_path / "other")
    assert not torch.allclose(other["readout.0.weight"], other["readout.1.weight"], atol=1e-2)


# ------------------------------------------------------------------ few labels


def elsewhere(base: Path, path: Path, kept: IntervalSet) -> Store:
    """Return the store with other movements and other spikes outside of some time."""
    changed = []
    for name in ("lab/a", "lab/b", NEW):
        one = Store(base / "store")[name]
        for target in ("hand", "heading"):
            series = one.series[target]
            values = np.array(series.values)
            values[~kept.contains(series.times())] += 1000
            one = with_values(one, target, values)
        inside = kept.contains(one.spike_time)
        changed.append(
            replace(one, spike_time=one.spike_time[inside], spike_unit=one.spike_unit[inside])
        )
    return make_store(path, *changed)


@pytest.mark.parametrize("mode", ["unit-id", "full"])
def test_nothing_but_the_labelled_part_decides_the_weights(base, tmp_path, mode):
    """Neither weights nor scales know anything else of the recording."""
    labels = Labels(seconds=4.0)
    adapt(base, tmp_path / "run", mode, labels=labels)
    other = elsewhere(base, tmp_path / "store", IntervalSet.single(0.0, 4.0))
    finetune(
        other, tmp_path / "other", base / "run", mode=mode, recording_ids=[NEW], labels=labels,
        settings=FEW,
    )  # fmt: skip

    first, second = state_of(tmp_path / "run"), state_of(tmp_path / "other")
    assert all(torch.equal(one, second[name]) for name, one in first.items())
    assert read_run(tmp_path / "run").scales == read_run(tmp_path / "other").scales


def test_trials_shorter_than_a_window_are_learned_from_too(base, tmp_path):
    start = np.arange(0.0, 20.0, 1.25)
    trials = IntervalSet(start, start + np.where(np.arange(16) % 2, 0.6, 1.1))
    new = replace(Store(base / "store")[NEW], intervals={"trials": trials})
    store, labels = make_store(tmp_path / "store", new), Labels(trials=4)

    config = make_config().model_copy(update={"data": DataConfig(labels=labels)})
    plan = training_sampler(prepare_data(store, [NEW], config), config).plan()
    assert sorted((plan[2] - plan[1]).round(9)) == [0.6, 0.6, 1.0, 1.0]
    end = finetune(store, tmp_path / "run", base / "run", labels=labels, settings=FEW)
    assert end.step == 20
    assert all(np.isfinite(row["loss"]) for row in end.curve)


def test_training_from_scratch_takes_as_few_labels(base, tmp_path):
    config = make_config().model_copy(update={"data": DataConfig(labels=Labels(seconds=4.0))})
    other = elsewhere(base, tmp_path / "store", IntervalSet.single(0.0, 4.0))
    ends = [train(store, tmp_path / name, config, recording_ids=[NEW])
            for name, store in (("run", Store(base / "store")), ("other", other))]  # fmt: skip

    assert all(torch.equal(one, ends[1].model[name]) for name, one in ends[0].model.items())


def test_the_wiener_filter_has_no_more_labels_than_the_model(base, tmp_path):
    scores = []
    for name, labels in (("few", Labels(seconds=4.0)), ("all", None)):
        adapt(base, tmp_path / name, labels=labels)
        scores.append(evaluate(Store(base / "store"), tmp_path / name).scores)

    few, whole = ({one.target: one.mean_baseline_r2 for one in row} for row in scores)
    assert few["hand"] < whole["hand"]


# ------------------------------------------------------------------ going on


@pytest.mark.parametrize("step", [1, 6, 7, 8, 13, 19])
def test_an_adaptation_stopped_anywhere_ends_as_an_undisturbed_one(base, tmp_path, step):
    """Also on either side of the step at which everything begins to be trained."""
    undisturbed = adapt(base, tmp_path / "undisturbed", "gradual")
    with pytest.raises(Interrupted):
        adapt(base, tmp_path / "run", "gradual", progress=stop_at(step))

    end = adapt(base, tmp_path / "run", "gradual")
    assert all(torch.equal(one, end.model[name]) for name, one in undisturbed.model.items())
    assert end.losses == undisturbed.losses


def test_a_run_a_file_and_weights_in_memory_are_one_source(base, tmp_path):
    store, weights = Store(base / "store"), weights_of_run(base / "run")
    save_weights(tmp_path / "copy.safetensors", weights)
    sources = {"run": base / "run", "file": tmp_path / "copy.safetensors", "memory": weights}

    ends = [
        finetune(store, tmp_path / name, one, recording_ids=[NEW], settings=FEW)
        for name, one in sources.items()
    ]
    for end in ends[1:]:
        assert all(torch.equal(one, end.model[name]) for name, one in ends[0].model.items())


def test_a_chain_of_adaptations_keeps_all_rows(base, tmp_path):
    adapt(base, tmp_path / "first")
    store = Store(base / "store")
    store.write(make_recording("lab/newer", seed=5), {"made": "by a test"})
    finetune(store, tmp_path / "second", tmp_path / "first", recording_ids=["lab/newer"],
             settings=FEW)  # fmt: skip

    first, second = weights_of_run(tmp_path / "first"), weights_of_run(tmp_path / "second")
    assert moved(first.model.state_dict(), second.model.state_dict()) == set()
    assert second.vocabulary.recording_ids == ("lab/a", "lab/b", NEW, "lab/newer")


def test_other_weights_in_the_same_folder_are_refused(base, tmp_path):
    adapt(base, tmp_path / "run")
    weights = weights_of_run(base / "run")
    with torch.no_grad():
        weights.model.readout[0].bias += 1  # type: ignore[operator]

    with pytest.raises(ConfigError, match=r"other settings: start.sha256 is \w+…, now"):
        finetune(Store(base / "store"), tmp_path / "run", weights, recording_ids=[NEW],
                 settings=FEW)  # fmt: skip


# ------------------------------------------------------------------ settings


def test_targets_that_were_named_in_pretraining_stay_the_ones_that_are_decoded(base, tmp_path):
    """A recording that names others would else have its own readout, and the known one no use."""
    config = make_config().model_copy(update={"data": DataConfig(targets=("hand",))})
    train(Store(base / "store"), tmp_path / "run", config, recording_ids=["lab/a"])

    for name, settings, expected in (
        ("same", FEW, ("hand",)),
        ("other", [*FEW, "data.targets=heading"], ("hand", "heading")),
    ):
        finetune(Store(base / "store"), tmp_path / name, tmp_path / "run", recording_ids=[NEW],
                 settings=[*settings, "train.steps=1"])  # fmt: skip
        assert weights_of_run(tmp_path / name).model.targets == expected


def test_scheme_and_recipes_are_those_of_the_model_and_labels_are_not(base, tmp_path):
    recipes = [{"recordings": "lab/*", "divide_by": 5.0, "unit": "mm/s"}]
    config = make_config().model_copy(
        update={"data": DataConfig(scheme="time", recipes=recipes, labels=Labels(share=0.9))}  # type: ignore[arg-type]
    )
    store = Store(base / "store")
    train(store, tmp_path / "run", config, recording_ids=["lab/a"])

    found = finetune_config(weights_of_run(tmp_path / "run"), "full").data
    assert (found.scheme, found.recipes) == ("time", config.data.recipes)
    assert found.labels is None
    changed = finetune_config(
        weights_of_run(tmp_path / "run"), "full", ["data.scheme=trials"], Labels(trials=3)
    ).data
    assert (changed.scheme, changed.labels) == ("trials", Labels(trials=3))


def test_a_weights_file_of_others_decides_nothing_about_the_data(base):
    weights = replace(weights_of_run(base / "run"), about={"data": '{"scheme": 5}'})

    assert finetune_config(weights, "unit-id").data == DataConfig()


def test_the_shape_is_that_of_the_model_and_dropout_may_be_set(base):
    weights = weights_of_run(base / "run")
    settings = [*FEW, "model.ffn_dropout=0.5"]

    found = finetune_config(weights, "unit-id", settings)
    assert found.model == DROPPED.model_copy(update={"ffn_dropout": 0.5})
    assert (found.train.frozen, found.train.steps) == (1.0, 20)
    with pytest.raises(ConfigError, match=r"--set 'model.dim=8': the model to begin with has its"):
        finetune_config(weights, "unit-id", ["model.dim=8"])
    with pytest.raises(ConfigError, match=r"No mode is called 'some'.*unit-id"):
        finetune_config(weights, "some")


@pytest.mark.parametrize(
    ("like", "says"),
    [
        ({"hand": "heading"}, "'hand' is no new target"),
        ({"heading": "arm"}, "no readout 'arm' of 2 channels; there are: hand"),
    ],
)
def test_a_readout_that_cannot_be_copied_is_refused(base, tmp_path, like, says):
    with pytest.raises(ConfigError, match=says):
        adapt(base, tmp_path / "run", like=like)
    assert not (tmp_path / "run").exists()


def test_a_target_of_another_width_than_the_readout_is_refused(base, tmp_path):
    one = make_recording("lab/narrow", seed=3)
    hand = one.series["hand"]
    narrow = replace(hand, values=hand.values[:, :1], columns=("x",))
    store = make_store(tmp_path / "store", replace(one, series={"hand": narrow}))

    with pytest.raises(ConfigError, match="lab/narrow: 'hand' has 1 channels, 2 in the model"):
        finetune(store, tmp_path / "run", base / "run", settings=FEW)


def test_frozen_steps_without_weights_to_begin_with_are_refused(base, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.frozen is 0\.5, but there are no weights"):
        train(Store(base / "store"), tmp_path / "run", make_config(frozen=0.5))


def test_a_source_that_is_none_is_refused(base, tmp_path):
    store = Store(base / "store")
    with pytest.raises(CheckpointError, match="no run in"):
        finetune(store, tmp_path / "run", tmp_path)
    with pytest.raises(CheckpointError, match="There is no file"):
        finetune(store, tmp_path / "run", tmp_path / "nothing.safetensors")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_run_are_refused(base, tmp_path):
    adapt(base, tmp_path / "run")
    weights = tmp_path / "run" / "weights.safetensors"
    weights.write_bytes((base / "run" / "weights.safetensors").read_bytes())

    with pytest.raises(CheckpointError, match="belongs to another run"):
        weights_of_run(tmp_path / "run")


# ------------------------------------------------------------------ the card


def test_the_card_says_what_the_model_learned_from_and_how_well(base, tmp_path):
    labels = Labels(seconds=4.0)
    adapt(base, tmp_path / "run", labels=labels, manifest="mine (SHA-256 0)")
    evaluation = evaluate(Store(base / "store"), tmp_path / "run")

    card = read_card(tmp_path / "run")
    assert card is not None
    (row,) = card.recordings
    assert (row.recording_id, row.units, row.seconds["train"]) == (NEW, 5, 4.0)
    assert row.fingerprint == Store(base / "store")[NEW].fingerprint
    assert card.config.data.labels == labels
    assert (card.step, card.manifest) == (20, "mine (SHA-256 0)")
    model = weights_of_run(tmp_path / "run").model
    assert card.parameters == sum(one.numel() for one in model.parameters())
    scores = {f"{NEW} {one.target}": one.mean_r2 for one in evaluation.scores}
    assert card.evaluations == {"test": scores}
    text = (tmp_path / "run" / "model_card.md").read_text(encoding="utf-8")
    assert all(f"{score:.3f}" in text for score in scores.values())


def test_a_card_without_a_manifest_keeps_the_one_that_was_named(base, tmp_path):
    with pytest.raises(Interrupted):
        adapt(base, tmp_path / "run", manifest="mine", progress=stop_at(9))
    adapt(base, tmp_path / "run")

    card = read_card(tmp_path / "run")
    assert card is not None
    assert card.manifest == "mine"


def test_what_recordings_say_of_themselves_cannot_break_the_table(base, tmp_path):
    one = make_recording("lab/odd")
    about = {"subject": "a | b\n| c", "licence": "CC-BY-4.0", "citation": "Me\n2020"}
    store = make_store(tmp_path / "store", replace(one, about=about))
    train(store, tmp_path / "run", make_config(steps=2))

    text = (tmp_path / "run" / "model_card.md").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("| lab/odd"))
    assert line.replace("\\|", "").count("|") == 9
    assert "Licence of the data: CC-BY-4.0" in text


def test_weights_name_the_step_and_the_run_that_they_are_of(base, tmp_path):
    adapt(base, tmp_path / "run")
    read = load_weights(tmp_path / "run" / "weights.safetensors")

    assert isinstance(read, Weights)
    assert isinstance(read.model, Poyo)
    assert read.about["step"] == "20"
    assert read.provenance is not None
    assert read.provenance.kind == "spikedata run"
