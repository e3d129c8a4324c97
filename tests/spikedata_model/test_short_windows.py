"""Training intervals that are shorter than a window."""

from __future__ import annotations

import pytest

from spikedata_model.config import Config, DataConfig, Labels, load_config
from spikedata_model.data import prepare_data
from spikedata_model.errors import ConfigError
from spikedata_model.train import train, training_sampler
from tests.spikedata_model.builders import make_config, make_recording, make_splits, make_store

TRIALS = make_splits((0.0, 0.7, "train"), (1.0, 1.6, "train"), (2.0, 5.0, "train"),
                     (10.0, 12.0, "test"))  # fmt: skip


def with_data(**data: object) -> Config:
    return make_config().model_copy(update={"data": DataConfig(**data)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "windows"),
    [
        ({}, 3),
        ({"short": "drop"}, 3),
        ({"short": "keep"}, 5),
        ({"labels": Labels(share=1.0)}, 5),
        ({"labels": Labels(share=1.0), "short": "drop"}, 3),
    ],
)
def test_they_are_windows_where_the_settings_say_so(data, windows, tmp_path):
    """By hand: 3 s hold three windows of 1 s; each of two shorter intervals is one or none."""
    store, config = make_store(tmp_path, make_recording(splits=TRIALS)), with_data(**data)
    sampler = training_sampler(prepare_data(store, ["lab/a"], config), config)

    assert len(sampler.plan()[0]) == windows


def test_a_recording_of_short_trials_alone_is_refused_with_the_way_out(tmp_path):
    splits = make_splits(*((row * 1.0, row + 0.6, "train") for row in range(6)))
    store = make_store(
        tmp_path / "store", make_recording(splits=splits), make_recording("lab/b", seed=1)
    )
    with pytest.raises(ConfigError, match=r"lab/a: .* set data\.short=keep"):
        train(store, tmp_path / "run", with_data())

    assert train(store, tmp_path / "run", with_data(short="keep")).step == 9


def test_the_setting_can_be_given_on_the_command_line():
    assert load_config("smoke", ["data.short=keep"]).data.short == "keep"
    with pytest.raises(ConfigError, match=r"data\.short"):
        load_config("smoke", ["data.short=some"])
