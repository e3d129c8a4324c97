"""Takes the weights of a model out of a file of anybody's, judged before any memory is spent."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import nn
from torch.overrides import TorchFunctionMode

from spikedata_model.config import ModelConfig
from spikedata_model.errors import CheckpointError
from spikedata_model.poyo import Poyo
from spikedata_model.untrusted import SavedTensor, TorchFile

__all__ = [
    "check_finite",
    "check_shapes",
    "read_safe_file",
    "safe_file",
    "take_tensors",
    "unique_keys",
    "weight_shapes",
]

MAX_HEADER = 100_000_000  # bytes; safetensors 0.8 reads no longer one
MOST_TENSORS = 1 << 16  # the deepest model, 1000 layers, has 12,000
MOST_VALUES = 1 << 21  # ids and numbers of a header: each costs far more memory than its text
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
    _check_names(file.path, found, shapes)
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
        check_finite(file.path, name, tensors[name])
    casts = {name: str(found[name].dtype).removeprefix("torch.") for name in shapes
             if found[name].dtype != torch.float32}  # fmt: skip
    return tensors, casts


def check_finite(path: Path, name: str, tensor: torch.Tensor) -> None:
    """Refuse a weight with values that are no finite numbers."""
    if not torch.isfinite(tensor).all():
        raise CheckpointError(
            f"{path}: '{name}' holds values that are no finite numbers, so its training failed: "
            "take another checkpoint."
        )


def _check_names(path: Path, found: Collection[object], shapes: Mapping[str, object]) -> None:
    """Refuse weights of which one is missing or unknown."""
    for kind, names in (("lacks", shapes.keys() - set(found)),
                        ("has an unknown", set(found) - shapes.keys())):  # fmt: skip
        if names:
            first, more = min(names, key=str), len(names) - 1
            raise CheckpointError(
                f"{path} {kind} weight {first!r}{f' and {more} more' if more else ''}: it is "
                "of another model, or of a version that is not known here."
            )


# ------------------------------------------------------------------ safetensors


def safe_file(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file of tensors and texts: the same bytes for the same content.

    The library orders its texts anew in every process, so they are put in order here; where the
    tensors lie is counted from the end of the header, which may therefore be written again.

    Raises
    ------
    CheckpointError
        If the header would be longer than the library reads.

    References
    ----------
    The format, https://github.com/huggingface/safetensors, "Format": 8 bytes with the length of the
    header, little end first; the header, in JSON; the values.
    """
    content = save(dict(tensors), dict(metadata))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the values begin at a multiple of 8
    if len(text) > MAX_HEADER:
        raise CheckpointError(
            f"The names of units, recordings and weights take {len(text)} bytes, more than the "
            f"{MAX_HEADER} that a safetensors file may have for them: take shorter ids."
        )
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[start:]))


def read_safe_file(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return the texts and the tensors of a safetensors file of anybody's.

    The library makes sure that the tensors cover the file once, without holes; beyond that no
    name may occur twice, since programs would differ on which one counts.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or no safetensors file.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}: give the path of a weights file.")
    with path.open("rb") as file:  # once: a run that goes on puts another in its place
        length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
        if size < 10 or length > min(size - 8, MAX_HEADER) or file.read(1) != b"{":
            raise CheckpointError(
                f"{path} is no weights file of spikedata, or is cut off: give one of `spikedata "
                "import-weights`, which also reads torch_brain's checkpoints."
            )
        file.seek(0)
        content = file.read()
    try:
        if content.count(b",", 8, 8 + length) > MOST_VALUES:
            raise ValueError(f"its header lists more than {MOST_VALUES} values")
        with safe_open(path, "pt") as opened:
            count = len(opened.keys())
        if count > MOST_TENSORS:
            raise ValueError(f"it has {count} tensors")
        header = json.loads(content[8 : 8 + length], object_pairs_hook=unique_keys)
        return header.get("__metadata__") or {}, load(content)  # it may be null
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CheckpointError(f"{path} is damaged ({reason}): fetch it anew.") from None


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object of JSON whose names occur once; for ``object_pairs_hook``.

    Raises
    ------
    ValueError
        If a name occurs twice.
    """
    made: dict[str, object] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"the name {name[:80]!r} occurs twice in its header")
        made[name] = value
    return made


def check_shapes(
    path: Path, tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse tensors that are not, name by name, float32 and of the shapes expected.

    Raises
    ------
    CheckpointError
        If one is missing, unknown, of another type or shape, or not finite.
    """
    _check_names(path, tensors, shapes)
    for name, shape in shapes.items():
        one = tensors[name]
        if one.dtype != torch.float32:
            raise CheckpointError(f"{path}: '{name}' is {one.dtype}, torch.float32 was expected.")
        if tuple(one.shape) != shape:
            raise CheckpointError(
                f"{path}: '{name}' has shape {tuple(one.shape)}, its settings say {shape}."
            )
        check_finite(path, name, one)
