"""From a trained model to recordings that it never saw: unit identification, gradual, full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from spikedata.errors import did_you_mean
from spikedata.progress import Progress, silent
from spikedata.store import Store
from spikedata_model.checkpoint import Checkpoint
from spikedata_model.config import Config, DataConfig, Labels, load_config
from spikedata_model.errors import ConfigError
from spikedata_model.train import train
from spikedata_model.weights import Weights, read_weights

__all__ = ["MODES", "finetune", "finetune_config"]

MODES = ("unit-id", "gradual", "full")
"""What is trained: embeddings of units and recordings alone; these first; everything at once."""

FREE = ("ffn_dropout", "residual_dropout", "attention_dropout")  # of the model's settings


def finetune_config(
    weights: Weights, mode: str, settings: Sequence[str] = (), labels: Labels | None = None
) -> Config:
    """Return the settings with which a model adapts.

    Parameters
    ----------
    weights : Weights
        The model, whose shape is kept; of ``model.*`` only rates of dropout may be set. Split
        scheme, recipes, and targets if they were named, are those that it was trained with, where
        its file says so.
    mode : {"unit-id", "gradual", "full"}
        Which of the bundled settings.
    settings : sequence of str
        Changes such as ``"train.steps=200"``.
    labels : Labels, optional
        How much of the training split is used.

    Raises
    ------
    ConfigError
        If the mode or a setting does not exist or has no valid value.
    """
    if mode not in MODES:
        raise ConfigError(f"No mode is called '{mode}'; {did_you_mean(mode, MODES)}")
    for one in settings:
        name = one.partition("=")[0].strip()
        if name.startswith("model.") and name.removeprefix("model.") not in FREE:
            raise ConfigError(
                f"--set '{one}': the model to begin with has its shape; of model only "
                f"{', '.join(FREE)} can be set."
            )
    defaults = Config(model=weights.model.config, data=_data_of(weights))
    if labels is not None:
        data = defaults.data.model_copy(update={"labels": labels})
        defaults = defaults.model_copy(update={"data": data})
    preset = Path(__file__).parent / "presets" / "finetune" / f"{mode}.toml"
    return load_config(preset, settings, defaults)


def _data_of(weights: Weights) -> DataConfig:
    """Return what the run that the weights are of was trained on, all of its labels."""
    try:
        before = DataConfig.model_validate_json(weights.about.get("data", "{}"))
    except ValidationError:
        return DataConfig()  # of another version: what it says of others' data decides nothing
    return before.model_copy(update={"labels": None})


def finetune(
    store: Store,
    folder: Path,
    source: Path | Weights,
    *,
    mode: str = "unit-id",
    recording_ids: Sequence[str] | None = None,
    labels: Labels | None = None,
    like: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
    manifest: str | None = None,
    board: bool = False,
    progress: Progress = silent,
) -> Checkpoint:
    """Adapt a model to recordings, or go on where such a run in the same folder stopped.

    Units and recordings that the model does not know get new rows behind those that it has, and
    targets that it does not know a new readout. The folder is one like `train`'s.

    Parameters
    ----------
    store : Store
        Harmonised recordings.
    folder : Path
        The new run's folder.
    source : Path or Weights
        A run's folder, a weights file, or weights: the model to begin with.
    mode : {"unit-id", "gradual", "full"}
        Train embeddings of units and recordings (and new readouts) alone; for three tenths of the
        steps, and then everything; or everything at once.
    recording_ids : sequence of str, optional
        What to adapt to; all recordings of the store when not given.
    labels : Labels, optional
        How much of each training split is used; all of it when not given. Scales, too, are
        of this part alone.
    like : mapping of str to str, optional
        New targets whose readout begins as a copy of a known one.
    settings : sequence of str
        Changes of the mode's settings, such as ``"train.steps=200"``.
    manifest, board, progress
        As for `train`.

    Returns
    -------
    Checkpoint
        The end of the run.

    Raises
    ------
    ConfigError, CheckpointError, TrainingError, KeyboardInterrupt
        As `train`.

    References
    ----------
    Azabou et al. 2023, arXiv 2310.16046, section 3: unit identification and finetuning. In their
    code all but the embeddings is frozen for 10 of 100 epochs of finetuning.
    """
    weights = source if isinstance(source, Weights) else read_weights(source)
    config = finetune_config(weights, mode, settings, labels)
    return train(
        store, folder, config, recording_ids=recording_ids, start=weights, like=like,
        manifest=manifest, board=board, progress=progress,
    )  # fmt: skip
