"""Reads what ``torch.save`` wrote without running any of it, whoever wrote it.

A checkpoint is a zip of one pickle, ``data.pkl``, and of the bytes of its tensors. A pickle is a
program: reading it as Python does calls whatever functions it names. Here its names are looked up
in a table of ours and nowhere else. Tensors become records of where their bytes lie, checked
against the file; a name of a training framework becomes an inert stand-in; any other name is
refused before the first value is built. ``torch.load`` takes no part, so that its rebuilding
functions, and the holes found in them (CVE-2025-32434, CVE-2026-24747), take none either.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch

from spikedata.files import sha256_of
from spikedata_model.errors import CheckpointError
from spikedata_model.pickle_program import full_name, names_in

__all__ = ["Inert", "SavedTensor", "TorchFile", "read_torch_file", "unwrapped"]

MAX_PICKLE = (
    1 << 26
)  # bytes; the vocabulary of 30,000 units and an optimiser's state take some 4 MB

STORAGES: dict[str, torch.dtype] = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
        "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32,
        "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    }.items()
}  # fmt: skip

FRAMEWORKS = frozenset(
    {"antlr4", "brainsets", "datetime", "hydra", "lightning", "lightning_fabric",
     "lightning_utilities", "numpy", "omegaconf", "pathlib", "pytorch_lightning", "temporaldata",
     "torch_brain", "torch_optimizer", "torchmetrics", "typing", "wandb"}
)  # fmt: skip
"""Packages whose classes training checkpoints hold beside the weights; here they do nothing."""
INERT_NAMES = frozenset(
    {"_codecs.encode", "collections.Counter", "collections.defaultdict", "copyreg._reconstructor",
     "functools.partial", "torch.device", "torch.float32", "torch.float64", "torch.float16",
     "torch.bfloat16"}
    | {f"builtins.{name}" for name in
       ("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list",
        "long", "object", "set", "slice", "str", "tuple", "type", "unicode")}
)  # fmt: skip

DAMAGE = (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, EOFError,
          OverflowError, MemoryError, AssertionError, NotImplementedError, zipfile.BadZipFile,
          zlib.error, struct.error, pickle.UnpicklingError)  # fmt: skip
"""What the standard library raises on files that are no checkpoint."""


class Inert:
    """Stands for an object of a class that is not imported; keeps what it was given.

    Attributes
    ----------
    name : str
        Full name of the class or function in the file.
    args : tuple
        What it was called with.
    state : object
        What its attributes were to be set from.
    pairs : dict
        What was put into it by key.
    """

    name = ""
    args: tuple[object, ...]
    state: object
    pairs: dict[object, object]

    def __new__(cls, *args: object, **_: object) -> Inert:
        """Keep the arguments and do nothing."""
        made = object.__new__(cls)
        made.args, made.state, made.pairs = args, None, {}
        return made

    def __init__(self, *_: object, **__: object) -> None:
        """Do nothing."""

    def __setstate__(self, state: object) -> None:
        """Keep the state."""
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        """Keep the item."""
        self.pairs[key] = value

    def append(self, value: object) -> None:
        """Forget a value that was appended: no list of a framework is needed."""

    def extend(self, values: object) -> None:
        """Forget values that were appended."""


class _Mapping(dict):
    """An ordered dict of the file; torch hangs the versions of its modules on it, left out here."""

    def __setstate__(self, state: object) -> None:
        """Forget the attributes."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """The bytes of one or more tensors: a member of the zip."""

    member: str
    dtype: torch.dtype
    size: int  # items


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """Where a tensor lies in a file.

    Parameters
    ----------
    storage : object
        The member of the zip, and what it holds.
    offset : int
        First item in it.
    shape, stride : tuple of int
        Of the tensor, in items.
    """

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the stored items."""
        return self.storage.dtype


@dataclass(frozen=True, slots=True)
class TorchFile:
    """What a file of ``torch.save`` holds, without its tensors' values.

    Parameters
    ----------
    path : Path
        The file.
    sha256 : str
        Of its bytes, 64 hex digits.
    content : object
        The saved object: dicts, lists, tuples, numbers, text, `SavedTensor` and `Inert`.
    stand_ins : tuple of str
        Names in it that inert objects stand for.
    """

    path: Path
    sha256: str
    content: object
    stand_ins: tuple[str, ...]

    def tensor(self, saved: SavedTensor) -> torch.Tensor:
        """Return the values of a tensor in the type that they are stored in.

        Raises
        ------
        CheckpointError
            If the file changed, or the tensor is larger than what is stored for it.
        """
        if math.prod(saved.shape) > saved.storage.size:
            raise CheckpointError(
                f"{self.path}: a tensor of shape {saved.shape} is stretched out of "
                f"{saved.storage.size} stored numbers, which no weights are: take the file anew "
                "from where it was published."
            )
        if math.prod(saved.shape) == 0:
            return torch.empty(saved.shape, dtype=saved.dtype)
        try:
            with zipfile.ZipFile(self.path) as archive:
                content = bytearray(archive.read(saved.storage.member))
            flat = torch.frombuffer(content, dtype=saved.dtype)
            return flat.as_strided(saved.shape, saved.stride, saved.offset).clone()
        except DAMAGE as error:
            raise CheckpointError(f"{self.path} is damaged ({_reason(error)}).") from None


def read_torch_file(path: Path) -> TorchFile:
    """Return what a file of ``torch.save`` holds, without executing any of it.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, not written by ``torch.save`` (its old format before torch 1.6
        included), or names something that weights do not need.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}: give the path of a checkpoint.")
    if not _is_zip(path):
        raise CheckpointError(
            f"{path} is cut off or not a checkpoint: a zip as torch.save writes it was expected; "
            "fetch it anew (a file older than torch 1.6 has to be saved again where it is trusted)."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            folder, members = _members(path, archive)
            program = archive.read(f"{folder}/data.pkl")
        names = names_in(program)
        _refuse_names(path, names)
        reader = _Reader(program, folder, members)
        return TorchFile(path, sha256_of(path), reader.load(), tuple(sorted(reader.stand_ins)))
    except CheckpointError:
        raise
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({_reason(error)}): fetch it anew."
        ) from None


def unwrapped(value: object) -> object:
    """Return what an inert node or container holds, one level deep; other values as they are.

    OmegaConf keeps the value of a node in ``_val`` and the content of a container in ``_content``
    of its state; a dict of another framework keeps its items. The values of a dict are unwrapped
    too, if they are nodes.
    """
    held = _held(value)
    return {key: _held(inner) for key, inner in held.items()} if isinstance(held, dict) else held


def _held(value: object) -> object:
    if not isinstance(value, Inert):
        return value
    state = value.state if isinstance(value.state, dict) else {}
    return state.get("_content", state.get("_val", value.pairs or value))


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it begins to read
        return False


def _members(path: Path, archive: zipfile.ZipFile) -> tuple[str, dict[str, int]]:
    """Return the folder in the zip and the size of each member, after checking their bytes."""
    members = {one.filename: one.file_size for one in archive.infolist()}
    stored = all(one.compress_type == zipfile.ZIP_STORED for one in archive.infolist())
    if not stored or sum(members.values()) > path.stat().st_size:
        raise ValueError("its members unpack to more bytes than the file has")
    folders = [name[: -len("/data.pkl")] for name in members if name.endswith("/data.pkl")]
    if len(folders) != 1 or len(members) != len(archive.infolist()):
        raise ValueError(f"one data.pkl was expected in the zip, {len(folders)} found")
    if members[f"{folders[0]}/data.pkl"] > MAX_PICKLE:
        raise ValueError(f"its data.pkl is longer than {MAX_PICKLE} bytes")
    changed = archive.testzip()
    if changed is not None:
        raise ValueError(f"{changed} has other bytes than were written")
    order = f"{folders[0]}/byteorder"
    if order in members and archive.read(order) != b"little":
        raise ValueError("its numbers are stored in big-endian order")
    return folders[0], members


def _refuse_names(path: Path, names: set[str]) -> None:
    """Refuse a file that names anything but tensors, dicts and classes of training frameworks."""
    strange = sorted(
        name
        for name in names - REAL.keys() - STORAGES.keys() - INERT_NAMES
        if name.partition(".")[0] not in FRAMEWORKS and not name.startswith("torch.optim.")
    )
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise CheckpointError(
            f"{path} names {strange[0]!r}{more}, which no weights need and which could run code "
            "when it is read: nothing of it was read; take the file from where it was published, "
            "or save only a state_dict."
        )


class _Reader(pickle.Unpickler):
    """Builds the values of a pickle whose names were checked."""

    def __init__(self, program: bytes, folder: str, members: dict[str, int]) -> None:
        super().__init__(BytesIO(program))
        self.folder, self.members = folder, members
        self.stand_ins: dict[str, type[Inert]] = {}

    def find_class(self, module: str, name: str) -> object:
        """Return what a name means here: never what it means to Python."""
        full = full_name(module, name)
        if full in REAL:
            return REAL[full]
        if full in STORAGES:
            return STORAGES[full]
        if full not in self.stand_ins:
            self.stand_ins[full] = type("StandIn", (Inert,), {"name": full})
        return self.stand_ins[full]

    def persistent_load(self, pid: object) -> _Storage:
        """Return the storage that an instruction names, after checking its size."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise ValueError("it refers to something outside")
        _, dtype, key, _, size = pid
        member = f"{self.folder}/data/{key}"
        if not isinstance(dtype, torch.dtype) or type(size) is not int:
            raise ValueError(f"its storage {key} has no known type or size")
        if self.members.get(member) != size * dtype.itemsize:
            raise ValueError(
                f"{size} numbers were expected in {member}, which has "
                f"{self.members.get(member, 'no')} bytes"
            )
        return _Storage(member, dtype, size)


def _tensor(
    storage: object, offset: object, shape: object, stride: object, *_: object
) -> SavedTensor:
    """Stand in for torch's own: return the record of a tensor that lies within its storage."""
    (first,) = _whole_numbers((offset,))
    sizes, steps = _whole_numbers(shape), _whole_numbers(stride)
    if not isinstance(storage, _Storage) or len(sizes) != len(steps):
        raise ValueError("a tensor is described in an unknown way")
    last = first + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if math.prod(sizes) and last >= storage.size:
        raise ValueError(f"a tensor of shape {sizes} does not fit in {storage.size} numbers")
    return SavedTensor(storage, first, sizes, steps)


def _whole_numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple):
        raise ValueError("a tensor is described in an unknown way")
    numbers = tuple(one for one in values if type(one) is int and one >= 0)
    if len(numbers) != len(values):
        raise ValueError("a tensor is described by what is no whole number")
    return numbers


def _parameter(tensor: object, *_: object) -> SavedTensor:
    """Stand in for torch's own: return the record of a parameter's tensor."""
    if not isinstance(tensor, SavedTensor):
        raise ValueError("a parameter is described in an unknown way")
    return tensor


def _shape(numbers: object = ()) -> tuple[object, ...]:
    """Stand in for ``torch.Size``."""
    return tuple(numbers) if isinstance(numbers, tuple | list) else ()


REAL: dict[str, Callable] = {
    "collections.OrderedDict": _Mapping,
    "torch.Size": _shape,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
"""Names that are more than stand-ins, and the functions of this module that they mean."""


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
