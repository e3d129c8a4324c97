"""A model in one file: weights, and everything that says which unit and channel they belong to.

The file is a safetensors file: anybody's program opens its tensors, and nothing in it can run. What
is no tensor stands as JSON in its texts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spikedata.files import write_whole
from spikedata.manifest import describe_validation_error
from spikedata.version import __version__
from spikedata_model.checkpoint import RunRecord, read_run, run_hash
from spikedata_model.config import MOST, ModelConfig
from spikedata_model.data import Scale
from spikedata_model.errors import CheckpointError, VocabularyError
from spikedata_model.poyo import Poyo
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.weight_tensors import (
    check_finite,
    check_shapes,
    read_safe_file,
    safe_file,
    unique_keys,
    weight_shapes,
)

__all__ = [
    "Provenance",
    "Weights",
    "build_model",
    "check_scales",
    "extended",
    "load_weights",
    "own_rows",
    "read_weights",
    "save_run_weights",
    "save_weights",
    "weights_of_run",
]

WEIGHTS = "weights.safetensors"  # in the folder of a run
FORMAT, FORMAT_VERSION = "spikedata weights", 1


class Provenance(BaseModel):
    """Where weights came from.

    Parameters
    ----------
    kind : str
        What they were read from: "torch_brain checkpoint" or "spikedata run".
    source : str
        Name of that file or folder.
    sha256 : str
        Of the checkpoint's bytes, or of the run's ``run.json``; 64 hex digits.
    dropped : dict of str to int
        What was left behind, and how many tensors or rows of it.
    casts : dict of str to str
        Type that a weight was stored in, where it was not float32.
    not_imported : tuple of str
        Classes and functions that the file names, for which inert objects stood.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    source: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    dropped: dict[str, int] = {}
    casts: dict[str, str] = {}
    not_imported: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Weights:
    """A model and what its rows and channels mean.

    Parameters
    ----------
    model : Poyo
        The weights, in float32.
    vocabulary : Vocabulary
        Rows of its embedding tables.
    scales : dict of str to dict of str to Scale
        By recording, then target: what turns its outputs into the unit of the series. Empty where
        that is not known.
    provenance : Provenance, optional
        Where they came from.
    about : dict of str to str
        What else is worth knowing, such as the step that they are of; nothing is computed from it.
    """

    model: Poyo
    vocabulary: Vocabulary
    scales: dict[str, dict[str, Scale]] = field(default_factory=dict)
    provenance: Provenance | None = None
    about: dict[str, str] = field(default_factory=dict)


class _Header(BaseModel):
    """Everything of a weights file but the tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    spikedata_version: str = __version__
    config: ModelConfig
    unit_ids: tuple[str, ...]
    recording_ids: tuple[str, ...]
    channels: dict[str, Annotated[int, Field(ge=1, le=MOST)]]
    scales: dict[str, dict[str, Scale]]
    provenance: Provenance | None
    about: dict[str, str] = {}

    @model_validator(mode="after")
    def _scales_fit(self) -> _Header:
        check_scales(self.scales, self.channels)
        return self


def check_scales(
    by_recording: Mapping[str, Mapping[str, Scale]], channels: Mapping[str, int]
) -> None:
    """Refuse scales that do not fit the channels of a model.

    Raises
    ------
    ValueError
        If one has not a finite mean and a positive deviation for each channel of its target.
    """
    for recording, scales in by_recording.items():
        for target, scale in scales.items():
            numbers, width = (*scale.mean, *scale.std), channels.get(target)
            fits = len(scale.mean) == len(scale.std) == width
            if not (fits and all(map(math.isfinite, numbers)) and min(scale.std) > 0):
                raise ValueError(
                    f"the scale of '{target}' in '{recording}' is not a finite mean and a "
                    "positive deviation for each of its channels"
                )


def save_weights(path: Path, weights: Weights, about: Mapping[str, str] | None = None) -> None:
    """Write a model with its vocabulary, channels and scales, as a whole or not at all.

    Parameters
    ----------
    path : Path
        The file, whose name should end in ``.safetensors``.
    weights : Weights
        What to write.
    about : mapping of str to str, optional
        What else is worth knowing; ``weights.about`` when not given.

    Raises
    ------
    VocabularyError
        If the vocabulary has not one id for each row of the embedding tables.
    CheckpointError
        If a weight is not finite, or the scales, settings or ids are none that could be read back.
    OSError
        If the folder is missing, full or not writable; the old file, if any, is untouched.
    """
    model, vocabulary = weights.model, weights.vocabulary
    rows = (model.unit_embedding.num_embeddings, model.recording_embedding.num_embeddings)
    if rows != (len(vocabulary.unit_ids), len(vocabulary.recording_ids)):
        raise VocabularyError(
            f"The vocabulary names {len(vocabulary.unit_ids)} units and "
            f"{len(vocabulary.recording_ids)} recordings, the model has rows for {rows[0]} and "
            f"{rows[1]}: save a model with the vocabulary that it was made with."
        )
    state = {name: one.detach().cpu().contiguous() for name, one in model.state_dict().items()}
    for name, one in state.items():
        check_finite(path, name, one)
    given = {
        "config": model.config,
        "unit_ids": vocabulary.unit_ids,
        "recording_ids": vocabulary.recording_ids,
        "channels": model.channels,
        "scales": weights.scales,
        "provenance": weights.provenance,
        "about": dict(weights.about if about is None else about),
    }
    try:
        header = _Header.model_validate(given).model_dump_json()
    except ValidationError as error:
        reason = describe_validation_error(error)
        raise CheckpointError(f"{path} was not written: {reason}.") from None
    texts = {"format": FORMAT, "header": header, "sha256": _hash(header, state)}
    write_whole(path, safe_file(state, texts))


def load_weights(path: Path, precision: str = "float32") -> Weights:
    """Return what `save_weights` wrote.

    Parameters
    ----------
    path : Path
        The file.
    precision : {"float32", "bfloat16"}
        Of the model's matrix products; the weights are float32 in both.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, of another program or a newer version, or if its weights
        and its vocabulary are not those that were written together.
    """
    texts, state = read_safe_file(path)
    if texts.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no weights file of spikedata: give one of `spikedata import-weights`, "
            "which also reads torch_brain's checkpoints."
        )
    text = texts.get("header", "")
    header = _header(path, text)
    try:
        vocabulary = Vocabulary(header.unit_ids, header.recording_ids)
    except VocabularyError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    n_units, n_recordings = len(header.unit_ids), len(header.recording_ids)
    if len(header.channels) > len(state):  # a layer that is not there costs far more than its name
        raise CheckpointError(
            f"{path} is damaged: it names {len(header.channels)} targets and has {len(state)} "
            "weights in all."
        )
    shapes = weight_shapes(header.config, n_units, n_recordings, header.channels)
    check_shapes(path, state, shapes)
    if texts.get("sha256") != _hash(text, {name: state[name] for name in shapes}):
        raise CheckpointError(
            f"{path}: its weights are not those that its vocabulary and settings were written "
            "with; one of them was replaced, so no row can be trusted: make the file again."
        )
    model = build_model(header.config, vocabulary, header.channels, state, precision)
    return Weights(model, vocabulary, header.scales, header.provenance, header.about)


def save_run_weights(folder: Path, weights: Weights, record: RunRecord, step: int) -> None:
    """Write the weights of a run's step into its folder, with what ties them to its run.json."""
    sha256 = run_hash(folder)
    provenance = Provenance(kind="spikedata run", source=folder.name, sha256=sha256)
    about = {"run": sha256, "step": str(step), "data": record.config.data.model_dump_json()}
    save_weights(folder / WEIGHTS, replace(weights, provenance=provenance), about)


def read_weights(path: Path, precision: str | None = None) -> Weights:
    """Return the weights of a run, given its folder (`weights_of_run`), or of a file."""
    if path.is_dir():
        return weights_of_run(path, precision)
    return load_weights(path, precision or "float32")


def weights_of_run(folder: Path, precision: str | None = None) -> Weights:
    """Return the weights that a run keeps, of its last checkpoint or its best one, on the CPU.

    Parameters
    ----------
    folder : Path
        What was given to `spikedata train --out`.
    precision : {"float32", "bfloat16"}, optional
        Of matrix products; the run's own when not given.

    Raises
    ------
    CheckpointError
        If there is no run in the folder, it has no weights yet, or either is damaged or of another
        run.
    """
    record, path = read_run(folder), folder / WEIGHTS
    if not path.exists():
        raise CheckpointError(
            f"{folder} has no {WEIGHTS} yet: go on with `spikedata train --out {folder}`."
        )
    weights = load_weights(path, precision or record.config.train.precision)
    if weights.about.get("run") != run_hash(folder):
        raise CheckpointError(
            f"{path} belongs to another run than {folder / 'run.json'}: one of the two was "
            "replaced; train again in another --out."
        )
    return weights


def extended(
    weights: Weights,
    unit_ids: Sequence[str],
    recording_ids: Sequence[str],
    seed: int,
    precision: str = "float32",
) -> Weights:
    """Return a new model that knows more units and recordings; the given one is left as it is.

    A new model, because an optimiser made before would go on training the tables of the old one.
    Known ids keep their rows and values; new rows are drawn as when training begins.

    Parameters
    ----------
    weights : Weights
        The model to start from.
    unit_ids, recording_ids : sequence of str
        Ids to add after those known, in this order.
    seed : int
        Of the new rows.
    precision : {"float32", "bfloat16"}
        Of the new model's matrix products.

    Raises
    ------
    VocabularyError
        If an id is known already, or is given twice.
    """
    known, model = weights.vocabulary, weights.model
    vocabulary = Vocabulary((*known.unit_ids, *unit_ids), (*known.recording_ids, *recording_ids))
    state = {name: one.detach().cpu() for name, one in model.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    for table, more in (("unit", len(unit_ids)), ("recording", len(recording_ids))):
        old = state[f"{table}_embedding.weight"]
        new = torch.randn(more, model.config.dim, generator=generator)
        state[f"{table}_embedding.weight"] = torch.cat([old, model.config.embedding_scale * new])
    made = build_model(model.config, vocabulary, model.channels, state, precision)
    return Weights(made, vocabulary, weights.scales, weights.provenance)


def own_rows(vocabulary: Vocabulary, recording_id: str) -> list[int]:
    """Return the rows of the units of a recording, told by their ids.

    A unit's id begins with that of its recording and "/", as the store gives them; where several
    recordings fit, the longest counts.

    Raises
    ------
    VocabularyError
        If no unit's does.
    """
    known = frozenset(vocabulary.recording_ids)

    def owner(unit_id: str) -> str:
        head = unit_id.rpartition("/")[0]
        while head and head not in known:
            head = head.rpartition("/")[0]
        return head

    rows = [row for row, one in enumerate(vocabulary.unit_ids) if owner(one) == recording_id]
    if not rows:
        raise VocabularyError(
            f"No unit of the model has an id that begins with '{recording_id}/', so it is not "
            "known which are the recording's: give a decoder unit_ids, or export that of all "
            "recordings."
        )
    return rows


def build_model(
    config: ModelConfig,
    vocabulary: Vocabulary,
    channels: Mapping[str, int],
    state: Mapping[str, torch.Tensor],
    precision: str = "float32",
) -> Poyo:
    """Return a model with given weights, in evaluation mode; the caller's random state is kept."""
    with torch.random.fork_rng(devices=[]):
        n_units, n_recordings = len(vocabulary.unit_ids), len(vocabulary.recording_ids)
        model = Poyo(config, n_units, n_recordings, channels, precision)
    model.load_state_dict(state)
    return model.eval()


def _header(path: Path, text: str) -> _Header:
    try:
        json.loads(text, object_pairs_hook=unique_keys)
        header = _Header.model_validate_json(text)
    except (ValueError, RecursionError) as error:  # pydantic's error is a ValueError
        known = isinstance(error, ValidationError)
        reason = (describe_validation_error(error) if known else str(error))[:400]
        newer = f'"format_version":{FORMAT_VERSION},' not in text
        hint = "; it may be of a newer spikedata, so upgrade" if newer else ""
        raise CheckpointError(f"The header of {path} cannot be read: {reason}{hint}.") from None
    if header.format_version != FORMAT_VERSION:
        raise CheckpointError(f"{path} was written by a newer spikedata: upgrade spikedata.")
    return header


def _hash(header: str, state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a header and the tensors it describes: what ties the two together."""
    digest = hashlib.sha256(header.encode())
    for name, tensor in state.items():
        digest.update(f"\n{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
