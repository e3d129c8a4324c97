"""A model in one file: weights, and everything that says which unit and channel they belong to."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spikedata.files import write_whole
from spikedata.manifest import describe_validation_error
from spikedata.version import __version__
from spikedata_model.checkpoint import load_checkpoint, read_run, run_hash
from spikedata_model.config import ModelConfig
from spikedata_model.data import Scale
from spikedata_model.errors import CheckpointError, VocabularyError
from spikedata_model.poyo import Poyo
from spikedata_model.untrusted import SavedTensor, TorchFile, read_torch_file
from spikedata_model.vocabulary import Vocabulary

__all__ = [
    "Provenance",
    "Weights",
    "build_model",
    "load_weights",
    "save_weights",
    "take_tensors",
    "weight_shapes",
    "weights_of_run",
]

FORMAT, FORMAT_VERSION = "spikedata weights", 1
MAX_LATENTS = 1 << 16  # the published models have 128 and 256
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

Shapes = dict[str, tuple[int, ...]]


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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    source: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    dropped: dict[str, int] = {}
    casts: dict[str, str] = {}


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
    """

    model: Poyo
    vocabulary: Vocabulary
    scales: dict[str, dict[str, Scale]] = field(default_factory=dict)
    provenance: Provenance | None = None


class _Header(BaseModel):
    """Everything of a weights file but the tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    spikedata_version: str = __version__
    config: ModelConfig
    precision: Literal["float32", "bfloat16"]
    unit_ids: tuple[str, ...]
    recording_ids: tuple[str, ...]
    channels: dict[str, Annotated[int, Field(ge=1)]]
    scales: dict[str, dict[str, Scale]]
    provenance: Provenance | None


def save_weights(path: Path, weights: Weights) -> None:
    """Write a model with its vocabulary, channels and scales, as a whole or not at all.

    Raises
    ------
    VocabularyError
        If the vocabulary has not one id for each row of the embedding tables.
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
    header = _Header.model_validate(
        {
            "config": model.config,
            "precision": model.precision,
            "unit_ids": vocabulary.unit_ids,
            "recording_ids": vocabulary.recording_ids,
            "channels": {
                name: len(state[f"readout.{at}.weight"]) for at, name in enumerate(model.targets)
            },
            "scales": weights.scales,
            "provenance": weights.provenance,
        }
    ).model_dump_json()
    content = {"format": FORMAT, "header": header, "hash": _hash(header, state), "state": state}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def load_weights(path: Path) -> Weights:
    """Return what `save_weights` wrote, without executing anything in the file.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, of another program or a newer version, or if its weights
        and its vocabulary are not those that were written together.
    """
    file = read_torch_file(path)
    content = file.content
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no weights file of spikedata: give one of `spikedata import-weights`, "
            "which also reads torch_brain's checkpoints."
        )
    header = _header(path, content.get("header"))
    try:
        vocabulary = Vocabulary(header.unit_ids, header.recording_ids)
    except VocabularyError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    n_units, n_recordings = len(header.unit_ids), len(header.recording_ids)
    found = content.get("state")
    check_size(path, header.config, len(found) if isinstance(found, dict) else 0)
    shapes = weight_shapes(header.config, n_units, n_recordings, header.channels)
    state, _ = take_tensors(file, found, shapes)
    if content.get("hash") != _hash(str(content["header"]), state):
        raise CheckpointError(
            f"{path}: its weights are not those that its vocabulary and settings were written "
            "with; one of them was replaced, so no row can be trusted: make the file again."
        )
    model = build_model(header.config, vocabulary, header.channels, state, header.precision)
    return Weights(model, vocabulary, header.scales, header.provenance)


def weights_of_run(folder: Path) -> Weights:
    """Return the weights of a run as its last checkpoint has them, on the CPU.

    Raises
    ------
    CheckpointError
        If there is no run in the folder, it has no checkpoint, or either is damaged.
    """
    record, checkpoint = read_run(folder), load_checkpoint(folder)
    if checkpoint is None:
        raise CheckpointError(
            f"{folder} has no checkpoint yet: go on with `spikedata train --out {folder}`."
        )
    model = record.build_model().cpu()
    model.load_state_dict(checkpoint.model)
    vocabulary = Vocabulary(record.unit_ids, tuple(record.recordings))
    provenance = Provenance(kind="spikedata run", source=folder.name, sha256=run_hash(folder))
    return Weights(model, vocabulary, record.scales, provenance)


def weight_shapes(
    config: ModelConfig, n_units: int, n_recordings: int, channels: Mapping[str, int]
) -> Shapes:
    """Return the name and shape of every weight of a `Poyo`, in the order of its state.

    Written out so that a file can be judged before a model of the size it asks for is made.
    """
    dim, inner = config.dim, config.cross_heads * config.dim_head
    own = config.self_heads * config.dim_head
    norm: Shapes = {"weight": (dim,), "bias": (dim,)}
    cross = {
        **{f"norm.{name}": shape for name, shape in norm.items()},
        **{f"norm_context.{name}": shape for name, shape in norm.items()},
        "to_q.weight": (inner, dim),
        "to_kv.weight": (2 * inner, dim),
        "to_out.weight": (dim, inner),
        "to_out.bias": (dim,),
    }
    ffn = {
        **{f"norm.{name}": shape for name, shape in norm.items()},
        "up.weight": (8 * dim, dim),
        "up.bias": (8 * dim,),
        "down.weight": (dim, 4 * dim),
        "down.bias": (dim,),
    }
    within = {
        **{f"norm.{name}": shape for name, shape in norm.items()},
        "to_qkv.weight": (3 * own, dim),
        "to_out.weight": (dim, own),
        "to_out.bias": (dim,),
    }
    parts = {"encoder": cross, "encoder_ffn": ffn}
    for layer in range(config.depth):
        parts |= {f"processor.{layer}.0": within, f"processor.{layer}.1": ffn}
    parts |= {"decoder": cross, "decoder_ffn": ffn}
    for index, width in enumerate(channels.values()):
        parts[f"readout.{index}"] = {"weight": (width, dim), "bias": (width,)}
    return {
        "unit_embedding.weight": (n_units, dim),
        "recording_embedding.weight": (n_recordings, dim),
        "type_embedding.weight": (3, dim),
        "latent_embedding.weight": (config.latents_per_step, dim),
        **{f"{part}.{name}": shape for part, ours in parts.items() for name, shape in ours.items()},
    }


def check_size(path: Path, config: ModelConfig, n_found: int) -> None:
    """Refuse a model whose making would take more than the file can fill.

    Raises
    ------
    CheckpointError
        If the settings ask for more layers than the file has tensors, or for too many latents.
    """
    latents = config.context / config.latent_step * config.latents_per_step
    if config.depth > n_found or latents > MAX_LATENTS:
        raise CheckpointError(
            f"{path} asks for {config.depth} layers and {latents:.0f} latents, but holds {n_found} "
            f"tensors, and {MAX_LATENTS} latents are the most: the file is damaged or no POYO."
        )


def take_tensors(
    file: TorchFile, found: object, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a file under the names and with the shapes that are expected.

    Parameters
    ----------
    file : TorchFile
        The file.
    found : object
        What it holds in the place of the weights: a dict of `SavedTensor`.
    shapes : mapping of str to tuple of int
        Every name that must be there; no other may.

    Returns
    -------
    tensors : dict of str to Tensor
        In float32.
    casts : dict of str to str
        Names of those stored in another type, and the type.

    Raises
    ------
    CheckpointError
        If a weight is missing, unexpected, of another shape, not of floating point, or holds a
        value that is no finite number in float32.
    """
    if not isinstance(found, dict):
        raise CheckpointError(f"{file.path} holds no weights: a dict of tensors was expected.")
    for kind, names in (("lacks", shapes.keys() - found.keys()),
                        ("has an unknown", found.keys() - shapes.keys())):  # fmt: skip
        if names:
            first, more = min(names, key=str), len(names) - 1
            raise CheckpointError(
                f"{file.path} {kind} weight '{first}'{f' and {more} more' if more else ''}: it is "
                "of another model, or of a version that is not known here."
            )
    for name, shape in shapes.items():
        saved = found[name]
        if not isinstance(saved, SavedTensor) or saved.dtype not in FLOATS:
            kind = saved.dtype if isinstance(saved, SavedTensor) else type(saved).__name__
            raise CheckpointError(f"{file.path}: '{name}' is {kind}, floating point was expected.")
        if saved.shape != shape:
            raise CheckpointError(
                f"{file.path}: '{name}' has shape {saved.shape}, its settings say {shape}."
            )
    asked = sum(math.prod(shape) * found[name].dtype.itemsize for name, shape in shapes.items())
    if asked > file.path.stat().st_size:
        raise CheckpointError(f"{file.path} is damaged: its weights share bytes with one another.")
    tensors = {}
    for name in shapes:
        tensors[name] = file.tensor(found[name]).float()
        if not torch.isfinite(tensors[name]).all():
            raise CheckpointError(
                f"{file.path}: '{name}' holds values that are no finite numbers, so its training "
                "failed: take another checkpoint."
            )
    casts = {name: str(found[name].dtype).removeprefix("torch.") for name in shapes
             if found[name].dtype != torch.float32}  # fmt: skip
    return tensors, casts


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


def _header(path: Path, text: object) -> _Header:
    try:
        header = _Header.model_validate_json(text if isinstance(text, str) else "")
    except ValidationError as error:
        newer = isinstance(text, str) and f'"format_version":{FORMAT_VERSION},' not in text
        reason = describe_validation_error(error)
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
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
