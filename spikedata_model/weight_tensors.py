"""Takes the weights of a model out of a file of anybody's, judged before any memory is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from spikedata_model.config import ModelConfig
from spikedata_model.errors import CheckpointError
from spikedata_model.poyo import Poyo
from spikedata_model.untrusted import SavedTensor, TorchFile

__all__ = ["take_tensors", "weight_shapes"]

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

Shapes = dict[str, tuple[int, ...]]


class _Unfilled(TorchFunctionMode):
    """Makes weights that have a shape and no values, and draws none."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is nn.init.normal_:  # for which torch would load its compiler
            return kwargs["tensor"]
        return func(*args, **(kwargs | {"device": "meta"} if func is torch.empty else kwargs))


def weight_shapes(
    config: ModelConfig, n_units: int, n_recordings: int, channels: Mapping[str, int]
) -> Shapes:
    """Return the name and shape of every weight of a `Poyo`, in the order of its state.

    The model is one without values, so that a file can be judged before any memory is spent.
    """
    drawn = config.model_copy(update={"init": "published"})  # the other start looks at values
    with _Unfilled():
        model = Poyo(drawn, n_units, n_recordings, channels)
    return {name: tuple(one.shape) for name, one in model.state_dict().items()}


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
