"""Reads what ``torch.save`` wrote without running any of it, whoever wrote it.

A checkpoint is a zip of one pickle, ``data.pkl``, and of the bytes of its tensors. The pickle is
followed by `pickle_program`: its names are looked up in a table of ours and nowhere else. Tensors
become records of where their bytes lie, checked against the file; a name of a training framework
becomes an inert stand-in; any other name is refused. ``torch.load`` takes no part, so that its
rebuilding functions, and the holes found in them (CVE-2025-32434, CVE-2026-24747), take none.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from spikedata.files import sha256_of
from spikedata_model.errors import CheckpointError
from spikedata_model.pickle_program import Inert, read_program

__all__ = ["SavedTensor", "TorchFile", "read_torch_file", "unwrapped"]

MAX_PICKLE = 1 << 25  # bytes; 30,000 units and an optimiser's state take some 4 MB

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
          zlib.error, struct.error)  # fmt: skip
"""What the standard library raises on files that are no checkpoint."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """The numbers of one or more tensors: a member of the zip, stored as they are."""

    place: int  # of the first byte, in the file
    dtype: torch.dtype
    size: int  # items


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """Where a tensor lies in a file.

    Parameters
    ----------
    storage : object
        Where the numbers lie that it is made of, and of which type they are.
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
            with self.path.open("rb") as file:
                file.seek(saved.storage.place)
                content = bytearray(file.read(saved.storage.size * saved.dtype.itemsize))
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
    names: set[str] = set()

    def find(name: str) -> None:
        _check_name(path, name)
        names.add(name)

    try:
        with zipfile.ZipFile(path) as archive:
            folder, members = _members(path, archive)
            program = archive.read(f"{folder}/data.pkl")
            places = _places(path, archive)
        content = read_program(
            program, find, _called, lambda pid: _storage(folder, members, places, pid)
        )
        stand_ins = tuple(sorted(names - REBUILT.keys() - STORAGES.keys()))
        return TorchFile(path, sha256_of(path), content, stand_ins)
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
        raise ValueError("one data.pkl was expected in the zip, and no name twice")
    if members[f"{folders[0]}/data.pkl"] > MAX_PICKLE:
        raise ValueError(f"its data.pkl is longer than {MAX_PICKLE} bytes")
    changed = archive.testzip()
    if changed is not None:
        raise ValueError(f"{changed!r} has other bytes than were written")
    order = f"{folders[0]}/byteorder"
    if order in members and archive.read(order) != b"little":
        raise ValueError("its numbers are stored in big-endian order")
    return folders[0], members


def _places(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Return where in the file the bytes of each member begin: after its name and extra field."""
    places = {}
    with path.open("rb") as file:
        for one in archive.infolist():
            file.seek(one.header_offset + 26)
            places[one.filename] = one.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    return places


def _check_name(path: Path, name: str) -> None:
    """Refuse a file that names anything but tensors, dicts and classes of training frameworks."""
    known = name in REBUILT or name in STORAGES or name in INERT_NAMES
    if not (known or name.partition(".")[0] in FRAMEWORKS or name.startswith("torch.optim.")):
        raise CheckpointError(
            f"{path} names {name!r}, which no weights need and which could run code when it is "
            "read: nothing of it was run; take the file from where it was published, or save only "
            "a state_dict."
        )


def _called(name: str, given: tuple[object, ...]) -> object:
    """Return what a call makes: never what it would make in Python."""
    return REBUILT[name](*given) if name in REBUILT else Inert(name, given)


def _storage(folder: str, members: dict[str, int], places: dict[str, int], pid: object) -> _Storage:
    """Return the storage that an instruction names, after checking its size."""
    match pid:
        case ("storage", Inert(name=kind), str(key), _, int(size)) if kind in STORAGES:
            dtype, member = STORAGES[kind], f"{folder}/data/{key}"
        case _:
            raise ValueError("it refers to something outside, or to no known storage")
    if members.get(member) != size * dtype.itemsize:
        raise ValueError(
            f"{size} numbers were expected in {member!r}, which has "
            f"{members.get(member, 'no')} bytes"
        )
    return _Storage(places[member], dtype, size)


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
    numbers = tuple(one for one in values[:64] if type(one) is int and 0 <= one < 1 << 63)
    if len(numbers) != len(values):
        raise ValueError("a tensor is described by what is no whole number")
    return numbers


def _parameter(tensor: object, *_: object) -> SavedTensor:
    """Stand in for torch's own: return the record of a parameter's tensor."""
    if not isinstance(tensor, SavedTensor):
        raise ValueError("a parameter is described in an unknown way")
    return tensor


REBUILT: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": lambda: {},
    "torch.Size": tuple,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
"""Names whose calls make more than a stand-in, and what makes it."""


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
