from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from spikedata.augment import UnitDropout
from spikedata_model.config import (
    Config,
    ModelConfig,
    Recipe,
    TrainConfig,
    list_presets,
    load_config,
    recipe_of,
)
from spikedata_model.errors import ConfigError
from spikedata_model.poyo import Poyo


@pytest.mark.parametrize("name", sorted(list_presets()))
def test_a_bundled_preset_loads_and_makes_a_model_that_starts_with_finite_weights(name):
    config = load_config(name)
    model = Poyo(config.model, 3, 1, {"hand": 2})

    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    assert config == load_config(list_presets()[name])
    assert config == Config.model_validate_json(config.model_dump_json())
    assert config == load_config(name.replace("-", "_"))


def test_the_bundled_presets_are_the_ones_that_the_commands_name():
    assert set(list_presets()) == {"poyo-1", "poyo-compact", "poyo-mp", "poyo-single", "smoke"}


def test_a_configuration_survives_json():
    config = load_config("smoke", ["data.targets=['hand']", "train.beta2=0.95"])

    assert Config.model_validate(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("setting", "section", "field", "value"),
    [
        ("train.steps=7", "train", "steps", 7),
        (" train.steps = 7 ", "train", "steps", 7),
        ("train.learning_rate=1e-5", "train", "learning_rate", 1e-5),
        ("model.init=published", "model", "init", "published"),
        ('model.init="published"', "model", "init", "published"),
        ('data.targets=["hand", "eye"]', "data", "targets", ("hand", "eye")),
        ("data.scheme=a=b", "data", "scheme", "a=b"),
    ],
)
def test_a_setting_changes_one_field(setting, section, field, value):
    changed = load_config("smoke", [setting]).model_dump()
    expected = load_config("smoke").model_dump()
    expected[section][field] = value

    assert expected == changed


def test_the_last_of_two_settings_of_a_field_counts():
    assert load_config("smoke", ["train.steps=7", "train.steps=8"]).train.steps == 8


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.steps", "--set 'train.steps': expected section.field=value"),
        ("steps=3", "--set 'steps=3': expected section.field=value"),
        ("", "expected section.field=value"),
        ("train.stepz=3", "did you mean 'train.steps'?"),
        ("trian.steps=3", "did you mean 'train.steps'?"),
        ("model=3", "expected section.field=value"),
        ("train.steps=0", "train.steps"),
        ("train.steps=many", "train.steps"),
        ("train.steps=1.5", "train.steps"),
        ("train.steps=", "train.steps"),
        ("train.learning_rate=inf", "train.learning_rate"),
        ("train.learning_rate=nan", "train.learning_rate"),
        ("train.weight_decay=nan", "train.weight_decay"),
        ("train.unit_dropout=1.0", "train.unit_dropout"),
        ("train.curve_split=vaild", "train.curve_split"),
        ("train.optimizer=lam", "train.optimizer"),
        ("train.schedule=cosine", "train.schedule"),
        ("train.precision=float16", "train.precision"),
        ("train.clip=-1.0", "train.clip"),
        ("train.epochs=0", "train.epochs"),
        ("data.recipes=pyo", "did you mean 'poyo'?"),
        ("data.recipes=[{recordings='a', wieghts={}}]", "did you mean 'weights'?"),
        ("data.recipes=[{recordings='a', weights={b=-1.0}}]", "data.recipes.0.weights.b"),
        ("data.recipes=[{recordings='a', divide_by=0.0}]", "data.recipes.0.divide_by"),
        ("train.seed=-1", "train.seed"),
        ("train.seed=18446744073709551616", "train.seed"),
        ("train.unit_dropout={min_unit=5}", "did you mean 'min_units'?"),
        ("model.latent_step=1e-320", "inf latents in a context are more than 65536"),
        ("model.dim=100000", "model.dim"),
        ("model.context=inf", "model.context"),
        ("model.context=-1.0", "model.context"),
        ("model.dim_head=6", "model.dim_head"),
        ("model.latent_step=3.0", "latent_step 3.0 s exceeds context 1.0 s"),
        ("model.t_max=0.01", "must be below t_max 0.01 s"),
        ("model.init=locl", "model.init"),
        ("data.targets=[1]", "data.targets"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_place(setting, says):
    with pytest.raises(ConfigError) as caught:
        load_config("smoke", [setting])

    assert says in str(caught.value)


@pytest.mark.parametrize("preset", ["poyo-compct", "Poyo-compact", "poyo-compact "])
def test_an_unknown_preset_is_refused_with_a_near_name(preset):
    with pytest.raises(ConfigError, match=r"did you mean 'poyo-compact'\?"):
        load_config(preset)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[train\nsteps = 3", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[trian]\nsteps = 3", "trian"),
        (b"[trian]\nsteps = 3", "did you mean 'train'?"),
        (b"[train]\nstepz = 3", "train.stepz"),
        (b"[train]\nstepz = 3", "did you mean 'steps'?"),
        (b"[train]\nsteps = -3\nseed = 'x'", "train.steps"),
        (b"[train]\nsteps = -3\nseed = 'x'", "train.seed"),
        (b"train = 3", "train"),
    ],
)
def test_a_wrong_preset_file_is_refused_with_all_its_problems(tmp_path, content, says):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "mine.toml" in str(caught.value)
    assert says in str(caught.value)


def test_a_setting_does_not_hide_what_is_wrong_with_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("train = 3")

    with pytest.raises(ConfigError, match=r"mine\.toml: train"):
        load_config(path, ["train.steps=3"])


@pytest.mark.parametrize("name", ["missing.toml", "folder.toml"])
def test_a_preset_that_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "folder.toml").mkdir()

    with pytest.raises(ConfigError, match=f"{name} cannot be read"):
        load_config(tmp_path / name)


def test_a_preset_file_is_found_by_its_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nsteps = 3\n")

    assert load_config(str(path)).train.steps == 3


@pytest.mark.parametrize(
    ("context", "step", "latents"), [(1.0, 0.1, 10), (0.3, 0.1, 3), (1, 0.3, 4)]
)
def test_the_latents_cover_the_whole_context(context, step, latents):
    """Division in floating point must not add or lose a step: 0.3 / 0.1 is not 3."""
    config = ModelConfig(context=context, latent_step=step, latents_per_step=2, dim=4)
    time_L = Poyo(config, 1, 1, {"hand": 1}).latent_time_L

    assert torch.unique(time_L).tolist() == pytest.approx(
        [(n + 0.5) * step for n in range(latents)]
    )
    assert len(time_L) == 2 * latents


def test_targets_are_named_without_quotes():
    """A shell eats the quotes of a TOML list."""
    assert load_config("smoke", ["data.targets=hand,heading"]).data.targets == ("hand", "heading")


# ------------------------------------------------------------------ what the data decide


def resolved(n_windows: int, **train: object) -> TrainConfig:
    return Config.model_validate({"train": train}).resolve(n_windows).train


@pytest.mark.parametrize(
    ("n_windows", "batch_size", "size", "steps"),
    [(100, 10, 10, 70), (101, 10, 10, 77), (9, 10, 9, 7), (10, 10, 10, 7), (1, 10, 1, 7)],
)
def test_epochs_become_steps_and_a_batch_shrinks_to_an_epoch(n_windows, batch_size, size, steps):
    found = resolved(n_windows, epochs=7, batch_size=batch_size)

    assert (found.batch_size, found.total_steps, found.epochs) == (size, steps, None)


def test_a_rate_per_window_is_multiplied_by_the_windows_that_a_batch_really_has():
    given = {"learning_rate": 3.125e-5, "rate_per": "window", "batch_size": 1024}

    assert resolved(5000, **given).learning_rate == 0.032
    assert resolved(128, **given).learning_rate == 0.004
    assert resolved(5000, **given | {"rate_per": "batch"}).learning_rate == 3.125e-5


def test_what_is_resolved_stays_so():
    config = load_config("poyo-mp").resolve(99_644)

    assert config.train.total_steps == 98_000
    assert config.resolve(50) == config.resolve(50).resolve(50)
    assert config.resolve(99_644) == config


def test_steps_and_epochs_take_each_others_place():
    assert load_config("poyo-mp", ["train.steps=7"]).train.total_steps == 7
    assert load_config("poyo-mp", ["train.epochs=7"]).train.epochs == 7
    changed = load_config("smoke", ["train.epochs=7"]).train
    assert (changed.steps, changed.epochs) == (None, 7)
    last = load_config("smoke", ["train.epochs=7", "train.steps=8"]).train
    assert (last.steps, last.epochs) == (8, None)


def test_steps_and_epochs_in_one_file_are_refused(tmp_path):
    (tmp_path / "mine.toml").write_text("[train]\nsteps = 3\nepochs = 2\n")

    with pytest.raises(ConfigError, match=r"give steps \(3\) or epochs \(2\), not both"):
        load_config(tmp_path / "mine.toml")


def test_a_length_in_epochs_is_none_in_steps_before_the_data_are_known():
    with pytest.raises(ConfigError, match="epochs is 1000: how many steps that is, only the data"):
        _ = load_config("poyo-1").train.total_steps


# ------------------------------------------------------------------ recipes


def test_the_first_recipe_that_fits_a_recording_is_its_recipe():
    first, second = Recipe(recordings="lab/*_co"), Recipe(recordings="lab/*")

    assert recipe_of("lab/a_co", (first, second)) is first
    assert recipe_of("lab/a_rt", (first, second)) is second
    assert recipe_of("other/a_co", (first, second)) is None


@pytest.mark.parametrize(
    ("recording_id", "divide_by", "evaluate_on", "weights"),
    [
        ("perich_miller_population_2018/c_20131003_center_out_reaching", 20, "reach",
         {"reach": 5, "return": 1, "random": 1, "hold": 0.1, "invalid": 0.1, "outlier": 0}),
        ("perich_miller_population_2018/t_20130819_random_target_reaching", 20, "random",
         {"random": 1, "hold": 0.1, "outlier": 0}),
        ("churchland_shenoy_neural_2012/jenkins_20090912_maze", 800, None,
         {"reach": 5, "return": 1, "hold": 0.1, "outlier": 1}),
        ("odoherty_sabes_nonhuman_2017/indy_20160407_02", 200, None, {}),
        ("nlb_mc_maze/jenkins_maze_train", 100, "evaluation_paper", {}),
    ],
)  # fmt: skip
def test_the_published_recipes_are_found_by_our_names(
    recording_id, divide_by, evaluate_on, weights
):
    recipe = recipe_of(recording_id, load_config("poyo-1").data.recipes)

    assert recipe is not None
    assert (recipe.divide_by, recipe.evaluate_on) == (divide_by, evaluate_on)
    assert recipe.weights == weights


GOLDEN = Path(__file__).parent.parent / "data" / "golden"
OF_POYO = ("perich_miller", "churchland_shenoy", "odoherty_sabes", "nlb_mc_maze")


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_the_published_recipes_fit_what_our_harmonisers_make(path):
    """Golden summaries say which tables, units and split schemes a recording has."""
    made = json.loads(path.read_text())
    data = load_config("poyo-1").data
    recipe = recipe_of(made["recording_id"], data.recipes)
    if not made["recording_id"].startswith(OF_POYO) or not made["targets"]:
        assert recipe is None
        return

    assert recipe is not None
    assert recipe.weights.keys() <= made["intervals"].keys()
    assert recipe.evaluate_on is None or recipe.evaluate_on in made["intervals"]
    assert data.scheme in made["splits"]
    for target in made["targets"]:
        assert made["series"][target]["unit"] == recipe.unit


@pytest.mark.parametrize("name", ["poyo-1", "poyo-mp", "poyo-single"])
def test_the_published_presets_keep_all_units_where_more_are_drawn_than_there_are(name):
    """As torch_brain does: of 94 units and (30, 100, 300) most windows are then left whole."""
    kept = load_config(name).train.unit_dropout
    assert kept is not None
    probable = UnitDropout(**kept.model_dump()).probabilities(94)

    assert kept.above == "all"
    if name != "poyo-single":
        assert probable[-1] > 0.75
