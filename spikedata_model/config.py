"""Settings of the model and of a training run: TOML presets in, JSON beside every result out."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from spikedata.errors import did_you_mean
from spikedata.manifest import describe_validation_error
from spikedata_model.errors import ConfigError

__all__ = [
    "Config",
    "DataConfig",
    "Labels",
    "ModelConfig",
    "Recipe",
    "TrainConfig",
    "list_presets",
    "load_config",
    "recipe_of",
]

Count = Annotated[int, Field(ge=1)]
MOST = 1 << 16  # latents, heads, numbers side by side: more would only fill the memory
Size = Annotated[int, Field(ge=1, le=MOST)]
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

    Defaults of the published single-session model are in the preset ``poyo-single``
    (torch_brain 0.2.1, configuration poyo_1.3M).
    """

    context: Positive = 1.0  # s, the longest window
    latent_step: Positive = 0.125  # s
    latents_per_step: Size = 16
    dim: Annotated[int, Field(ge=2, le=MOST)] = 64
    depth: Annotated[int, Field(ge=0, le=1000)] = 6
    dim_head: Annotated[int, Field(ge=4, le=MOST, multiple_of=4)] = 64
    cross_heads: Size = 2
    self_heads: Size = 8
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
        latents = self.context / self.latent_step * self.latents_per_step
        if latents > MOST:
            raise ValueError(f"{latents:.0f} latents in a context are more than {MOST}")
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min {self.t_min} s must be below t_max {self.t_max} s")
        return self


class UnitDropoutConfig(_Model):
    """How many units of a window are kept in training; see `spikedata.augment.UnitDropout`."""

    min_units: Count = 20
    mode_units: Count = 100
    max_units: Count = 300
    peak: Positive = 4.0
    above: Literal["truncate", "all"] = "truncate"


class TrainConfig(_Model):
    """How a model is trained; docs/training.md compares the presets with the published recipe."""

    steps: Count | None = None  # 1000 when neither steps nor epochs are given
    epochs: Count | None = None  # passes of the training split, in the place of steps
    batch_size: Count = 16  # windows; fewer where an epoch has fewer
    learning_rate: Positive = 2e-3  # the highest of the schedule
    rate_per: Literal["batch", "window"] = "batch"  # window: learning_rate times batch_size
    optimizer: Literal["adamw", "lamb"] = "adamw"
    schedule: Literal["trapezoid", "one_cycle"] = "trapezoid"
    embedding_rate: Positive = 1.0  # learning rate of embeddings, relative to the others
    weight_decay: Annotated[float, Field(ge=0)] = 0.01  # of matrices; with lamb, of everything
    beta1: Share = 0.9  # the schedule one_cycle has its own
    beta2: Share = 0.99
    eps: Positive = 1e-8
    trust_limit: Positive = 10.0  # lamb: largest norm of weights that counts in the trust ratio
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of the steps; trapezoid alone
    decay: Annotated[float, Field(ge=0, le=1)] = 0.4  # share of the steps in which the rate falls
    clip: Annotated[float, Field(ge=0)] = 1.0  # largest norm of the gradient; 0: any
    precision: Literal["float32", "bfloat16"] = "float32"  # of matrix products; not of weights
    unit_dropout: UnitDropoutConfig | None = None  # keep all units when not given
    frozen: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the steps in which only the
    # embeddings of units and recordings, and readouts that the start did not have, are trained
    evaluate_every: Count = 100  # steps
    checkpoint_every: Count = 100  # steps
    curve_split: Literal["train", "valid", "test"] = "valid"
    patience: Annotated[int, Field(ge=0)] = (
        0  # evaluations without a better R² to stop after; 0: off
    )
    keep: Literal["last", "best"] = "last"  # the weights of the last step, or of the best R²
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    threads: Annotated[int, Field(ge=0)] = 0  # 0: as many as torch finds
    windows_at_once: Annotated[int, Field(ge=0)] = 0  # by a thread; 0: see workers.AT_ONCE
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU if there is one

    @model_validator(mode="before")
    @classmethod
    def _default_steps(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("steps") is None and given.get("epochs") is None:
            return {**given, "steps": 1000}
        return given

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"give steps ({self.steps}) or epochs ({self.epochs}), not both")
        return self

    @property
    def total_steps(self) -> int:
        """Steps of the whole run.

        Raises
        ------
        ConfigError
            If they are given in epochs, whose length only the data tell; see `Config.resolve`.
        """
        if self.steps is None:
            raise ConfigError(
                f"train.epochs is {self.epochs}: how many steps that is, only the data can tell; "
                "call Config.resolve(n_windows), or give train.steps."
            )
        return self.steps

    @property
    def frozen_steps(self) -> int:
        """Steps in which most weights are frozen; errors as `total_steps`."""
        return round(self.frozen * self.total_steps)


class Recipe(_Model):
    """What counts in the recordings of one kind: in the loss, in the scale, and in the score.

    Parameters
    ----------
    recordings : str
        Pattern of recording ids, as ``"perich_miller_population_2018/*_center_out_reaching"``.
        Of several recipes the first that fits a recording is its recipe; without one, every
        sample weighs 1, targets are scaled by mean and deviation, and all time is scored.
    weights : dict of str to float
        What samples in the rows of an interval table weigh in the loss. Where tables overlap the
        weights are multiplied; a sample in no table weighs 1, so a table that a recording lacks
        weighs nothing there.
    divide_by : float, optional
        By what targets are divided, in the place of z-scores; in `unit`.
    unit : str
        Unit of `divide_by`.
    evaluate_on : str, optional
        Interval table that scores are taken on, beside those of the whole split.
    """

    recordings: str
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    divide_by: Positive | None = None
    unit: str = ""
    evaluate_on: str | None = None


def recipe_of(recording_id: str, recipes: Sequence[Recipe]) -> Recipe | None:
    """Return the first recipe whose pattern fits a recording, if there is one."""
    return next((one for one in recipes if fnmatchcase(recording_id, one.recordings)), None)


def _read_recipes(given: object) -> object:
    """Return the recipes of a bundled file, where its name is given."""
    if not isinstance(given, str):
        return given
    books = {path.stem: path for path in (Path(__file__).parent / "recipes").glob("*.toml")}
    if given not in books:
        raise ValueError(f"no recipes are called '{given}'; {did_you_mean(given, books)}")
    return tomllib.loads(books[given].read_text(encoding="utf-8"))["recipes"]


class Labels(_Model):
    """How much of each recording's training split is used; one of the three amounts is given.

    Parameters
    ----------
    trials : int, optional
        Rows of an interval table that lie in the training split.
    seconds : float, optional
        Time of the training split, in s.
    share : float, optional
        The same as a share of all of it, above 0 and at most 1.
    table : str
        Interval table of the trials.
    seed : int, optional
        Take trials, or a stretch of time, at random; the first ones when not given.
    """

    trials: Count | None = None
    seconds: Positive | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    table: str = "trials"
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    @model_validator(mode="after")
    def _one_amount(self) -> Labels:
        given = [name for name in ("trials", "seconds", "share") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of trials, seconds and share, not {len(given)} of them")
        return self


def labels_of(
    *, trials: int | None, seconds: float | None, share: float | None, seed: int | None
) -> Labels | None:
    """Return the labels that a command asks for, or nothing where it names no amount.

    Raises
    ------
    ConfigError
        If it names several, or one that is out of range, or a seed alone.
    """
    given = {"trials": trials, "seconds": seconds, "share": share, "seed": seed}
    asked = {name: value for name, value in given.items() if value is not None}
    if not asked:
        return None
    try:
        return Labels.model_validate(asked)
    except ValidationError as error:
        raise ConfigError(f"labels: {describe_validation_error(error)}.") from None


class DataConfig(_Model):
    """What a model is trained on."""

    scheme: str | None = None  # split scheme; each recording's first one when not given
    targets: Names | None = None  # each recording's own ones when not given
    recipes: Annotated[tuple[Recipe, ...], BeforeValidator(_read_recipes)] = ()  # or "poyo"
    labels: Labels | None = None  # the whole training split when not given
    short: Literal["drop", "keep"] | None = None  # what training intervals shorter than a window
    # give: nothing, or one window of what they hold; when not given, keep with `labels` alone


class Config(_Model):
    """Everything that decides a training run, but the data themselves."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()

    def resolve(self, n_windows: int) -> Config:
        """Return the configuration with what the number of windows decides.

        A batch has at most all windows of an epoch, epochs become steps (the last batch of an
        epoch may be smaller), and a rate per window is multiplied by the batch size.

        Parameters
        ----------
        n_windows : int
            Windows of an epoch, 1 or more.

        Examples
        --------
        >>> train = {"epochs": 10, "batch_size": 32, "rate_per": "window", "learning_rate": 1e-4}
        >>> one = Config.model_validate({"train": train}).resolve(40).train
        >>> one.steps, one.epochs, one.learning_rate
        (20, None, 0.0032)
        """
        train = self.train
        size = min(train.batch_size, n_windows)
        changes: dict[str, object] = {"batch_size": size}
        if train.epochs is not None:
            changes |= {"steps": train.epochs * -(-n_windows // size), "epochs": None}
        if train.rate_per == "window":
            changes |= {"learning_rate": train.learning_rate * size, "rate_per": "batch"}
        return self.model_copy(update={"train": train.model_copy(update=changes)})


def list_presets() -> dict[str, Path]:
    """Return the presets that come with the package, by name."""
    folder = Path(__file__).parent / "presets"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_config(
    preset: str | Path = "poyo-compact",
    settings: Sequence[str] = (),
    defaults: Config | None = None,
) -> Config:
    """Read a preset and change some of its fields.

    Parameters
    ----------
    preset : str or Path
        Name of a bundled preset (``_`` may stand for ``-``), or the path of a TOML file.
    settings : sequence of str
        Changes such as ``"train.steps=200"``; values are TOML, bare words are text.
        ``train.steps`` takes the place of a preset's epochs, and ``train.epochs`` of its steps.
    defaults : Config, optional
        Where parts that the preset leaves out come from; the defaults of `Config` when not given.

    Raises
    ------
    ConfigError
        If the preset or a setting does not exist or has no valid value.

    Examples
    --------
    >>> load_config("poyo-compact", ["train.steps=7"]).train.steps
    7
    """
    text = str(preset)
    path = Path(text) if text.endswith(".toml") else list_presets().get(text.replace("_", "-"))
    if path is None:
        raise ConfigError(f"No preset is called '{text}'; {did_you_mean(text, list_presets())}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The preset {path} cannot be read: {error}.") from None
    if defaults is not None:
        content = defaults.model_dump(mode="json") | content
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
            inner = {"recipes": Recipe, "unit_dropout": UnitDropoutConfig, "labels": Labels}
            part = next((inner[one] for one in sections if one in inner), part)
            clauses.append(f"; {did_you_mean(name, part.model_fields)}")  # type: ignore[union-attr]
    return "".join(clauses)


_EITHER = {"train.steps": "epochs", "train.epochs": "steps"}


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
        raise ConfigError(f"--set '{setting}': no such setting; {did_you_mean(key.strip(), known)}")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    part = content.setdefault(section, {})
    if isinstance(part, dict):  # anything else is refused with the rest of the preset
        part[field] = parsed
        if key.strip() in _EITHER:
            part.pop(_EITHER[key.strip()], None)
