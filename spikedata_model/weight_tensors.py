"""Takes the weights of a model out of a file of anybody's, judged before any memory is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from spikedata_model.config import ModelConfig
from spikedata_model.errors import CheckpointError
from spikedata_model.untrusted import SavedTensor, TorchFile

__all__ = ["check_size", "take_tensors", "weight_shapes"]

MAX_LATENTS = 1 << 16  # the published models have 128 and 256
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

Shapes = dict[str, tuple[int, ...]]


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
    steps, each = config.context / config.latent_step, config.latents_per_step
    if config.depth > n_found or each > MAX_LATENTS or steps * each > MAX_LATENTS:
        raise CheckpointError(
            f"{path} asks for {config.depth} layers and {each} latents in each of {steps:.0f} "
            f"steps, but holds {n_found} tensors, and {MAX_LATENTS} latents are the most: the file "
            "is damaged or no POYO."
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
                f"{file.path} {kind} weight {first!r}{f' and {more} more' if more else ''}: it is "
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
