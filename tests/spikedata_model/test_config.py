from __future__ import annotations

import json

import pytest
import torch

from spikedata_model.config import Config, ModelConfig, list_presets, load_config
from spikedata_model.errors import ConfigError
from spikedata_model.poyo import Poyo


@pytest.mark.parametrize("name", sorted(list_presets()))
def test_a_bundled_preset_loads_and_makes_a_model_that_starts_with_finite_weights(name):
    config = load_config(name)
    model = Poyo(config.model, 3, 1, {"hand": 2})

    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    assert config == load_config(list_presets()[name])


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
        ("train.seed=-1", "train.seed"),
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
