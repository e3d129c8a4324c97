"""Settings of the model and of a training run: TOML presets in, JSON beside every result out."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from spikedata.errors import did_you_mean
from spikedata.manifest import describe_validation_error
from spikedata_model.errors import ConfigError

__all__ = ["Config", "DataConfig", "ModelConfig", "TrainConfig", "list_presets", "load_config"]

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda given: given.split(",") if isinstance(given, str) else given),
]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(_Model):
    """Shape of a POYO; docs/mental-model.md explains every field.

    Defaults of the published single-session model are in the preset ``poyo_1m``
    (torch_brain 0.2.1, configuration poyo_1.3M).
    """

    context: Positive = 1.0  # s, the longest window
    latent_step: Positive = 0.125  # s
    latents_per_step: Count = 16
    dim: Annotated[int, Field(ge=2)] = 64
    depth: Annotated[int, Field(ge=0)] = 6
    dim_head: Annotated[int, Field(ge=4, multiple_of=4)] = 64
    cross_heads: Count = 2
    self_heads: Count = 8
    ffn_dropout: Share = 0.2
    residual_dropout: Share = 0.4
    attention_dropout: Share = 0.2
    embedding_scale: Positive = 0.02
    t_min: Positive = 1e-4  # s, shortest rotary period
    t_max: Positive = 2.0627  # s, longest rotary period
    init: Literal["published", "local"] = "published"

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.latent_step > self.context:
            raise ValueError(f"latent_step {self.latent_step} s exceeds context {self.context} s")
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min {self.t_min} s must be below t_max {self.t_max} s")
        return self


class UnitDropoutConfig(_Model):
    """How many units of a window are kept in training; see `spikedata.augment.UnitDropout`."""

    min_units: Count = 20
    mode_units: Count = 100
    max_units: Count = 300
    peak: Positive = 4.0


class TrainConfig(_Model):
    """How a model is trained."""

    steps: Count = 1000
    batch_size: Count = 16
    learning_rate: Positive = 2e-3
    embedding_rate: Positive = 1.0  # learning rate of embeddings, relative to the others
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    beta2: Share = 0.99
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of the steps
    decay: Annotated[float, Field(ge=0, le=1)] = 0.4  # share of the steps
    clip: Positive = 1.0  # largest norm of the gradient
    unit_dropout: UnitDropoutConfig | None = None  # keep all units when not given
    evaluate_every: Count = 100  # steps
    checkpoint_every: Count = 100  # steps
    curve_split: Literal["train", "valid", "test"] = "valid"
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=0)] = 0  # 0: as many as torch finds
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU if there is one


class DataConfig(_Model):
    """What a model is trained on."""

    scheme: str | None = None  # split scheme; each recording's first one when not given
    targets: Names | None = None  # each recording's own ones when not given


class Config(_Model):
    """Everything that decides a training run, but the data themselves."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()


def list_presets() -> dict[str, Path]:
    """Return the presets that come with the package, by name."""
    folder = Path(__file__).parent / "presets"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_config(preset: str | Path = "compact", settings: Sequence[str] = ()) -> Config:
    """Read a preset and change some of its fields.

    Parameters
    ----------
    preset : str or Path
        Name of a bundled preset, or the path of a TOML file.
    settings : sequence of str
        Changes such as ``"train.steps=200"``; values are TOML, bare words are text.

    Raises
    ------
    ConfigError
        If the preset or a setting does not exist or has no valid value.

    Examples
    --------
    >>> load_config("compact", ["train.steps=7"]).train.steps
    7
    """
    text = str(preset)
    path = Path(text) if text.endswith(".toml") else list_presets().get(text)
    if path is None:
        raise ConfigError(f"No preset is called '{text}'; {did_you_mean(text, list_presets())}.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The preset {path} cannot be read: {error}.") from None
    for setting in settings:
        _apply(content, setting)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{text}: {describe_validation_error(error)}{_near(error)}.") from None


def _near(error: ValidationError) -> str:
    """Return what names that do not exist may have been meant to be."""
    clauses = []
    for problem in error.errors():
        if problem["type"] == "extra_forbidden":
            *sections, name = map(str, problem["loc"])
            part = Config.model_fields[sections[0]].annotation if sections else Config
            clauses.append(f"; {did_you_mean(name, part.model_fields)}")  # type: ignore[union-attr]
    return "".join(clauses)


def _apply(content: dict[str, dict[str, object]], setting: str) -> None:
    """Put one ``section.field=value`` into the content of a preset."""
    key, separator, value = setting.partition("=")
    section, dot, field = key.strip().partition(".")
    known = {
        f"{name}.{inner}"
        for name, part in Config.model_fields.items()
        for inner in part.annotation.model_fields  # type: ignore[union-attr]
    }
    if not (separator and dot):
        raise ConfigError(f"--set '{setting}': expected section.field=value, as train.steps=200.")
    if key.strip() not in known:
        raise ConfigError(
            f"--set '{setting}': no such setting; {did_you_mean(key.strip(), known)}."
        )
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    part = content.setdefault(section, {})
    if isinstance(part, dict):  # anything else is refused with the rest of the preset
        part[field] = parsed
