"""A run's folder: what was asked (``run.json``), and how far it is (``checkpoint.pt``)."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import pickle
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from spikedata.files import write_whole
from spikedata.manifest import describe_validation_error
from spikedata.version import __version__
from spikedata_model.config import Config
from spikedata_model.data import RunData, Scale, own_channels, with_labels
from spikedata_model.errors import CheckpointError, ConfigError
from spikedata_model.poyo import Poyo
from spikedata_model.untrusted import read_torch_file
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.weight_tensors import weight_shapes

__all__ = [
    "Checkpoint",
    "RunRecord",
    "Start",
    "load_checkpoint",
    "read_run",
    "save_checkpoint",
    "sole_use",
    "start_run",
]

FORMAT_VERSION = 3
# What torch raises on content that is no checkpoint.
_DAMAGE = (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, EOFError,
           AssertionError, pickle.UnpicklingError)  # fmt: skip
_KINDS = {"step": int, "seconds": float, "model": dict, "optimizer": dict, "curve": list,
          "losses": list, "total_steps": int, "processes": int}  # fmt: skip
RUN, CHECKPOINT, CURVE = "run.json", "checkpoint.pt", "learning_curve.csv"


def pick_device(name: str) -> torch.device:
    """Return the device that a setting names.

    Raises
    ------
    ConfigError
        If it names a GPU and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "train.device is 'cuda', but torch finds no GPU here: use 'auto' or 'cpu'."
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class Start(BaseModel):
    """The weights that a run began with, where they were not drawn.

    Parameters
    ----------
    sha256 : str
        Of the weights and the ids of their rows.
    units, recordings : int
        Rows of the tables that were known.
    targets : tuple of str
        Targets that had a readout.
    like : dict of str to str
        New targets whose readout began as a copy of a known one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    units: int
    recordings: int
    targets: tuple[str, ...]
    like: dict[str, str] = {}


class RunRecord(BaseModel):
    """What a run was asked to do and on what; everything that rebuilds its model but weights.

    Parameters
    ----------
    format_version, spikedata_version : int, str
        What wrote it.
    config : Config
        Settings, resolved.
    recordings : dict of str to str
        Recordings that are trained on, and the fingerprint of their stored bytes.
    unit_ids, recording_ids : tuple of str
        What the rows of the embedding tables are of; those of a start come first.
    channels : dict of str to int
        Targets in the order of the readouts, and their widths.
    scales : dict of str to dict of str to Scale
        Of the recordings, and of those that the start knew.
    start : Start, optional
        The weights that it began with; drawn ones when not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    spikedata_version: str = __version__
    config: Config
    recordings: dict[str, str]  # id to fingerprint of the stored bytes
    unit_ids: tuple[str, ...]
    recording_ids: tuple[str, ...]
    channels: dict[str, int]
    scales: dict[str, dict[str, Scale]]
    start: Start | None = None

    def build_model(self) -> Poyo:
        """Return the model with the weights that the seed gives, on the device of its settings."""
        device = pick_device(self.config.train.device)
        torch.manual_seed(self.config.train.seed)
        sizes = len(self.unit_ids), len(self.recording_ids), self.channels
        return Poyo(self.config.model, *sizes, precision=self.config.train.precision).to(device)

    def data(self, recordings) -> RunData:
        """Return the run's data from a store.

        Raises
        ------
        CheckpointError
            If a recording is not the one that the run was started with.
        """
        for one in recordings.outlines(tuple(self.recordings)):
            if one.fingerprint != self.recordings[one.recording_id]:
                raise CheckpointError(
                    f"{one.recording_id} in {recordings.path} is not the recording that this run "
                    "was started with: ingest the same manifest again, or train a new run."
                )
        ids, asked = tuple(self.recordings), self.config.data
        scales = {name: self.scales[name] for name in ids}
        return RunData(
            with_labels(recordings, ids, asked), ids, own_channels(self.channels, scales), scales,
            Vocabulary(self.unit_ids, self.recording_ids), asked.scheme, asked.recipes,
            tuple(self.channels),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run is: ``step`` optimiser steps are done.

    Parameters
    ----------
    step : int
        Steps done.
    seconds : float
        Wall time spent in them, evaluations not counted.
    model, optimizer : dict
        Their states.
    curve : list of dict
        Rows of the learning curve so far.
    losses : list of float
        Loss of each step since the last row.
    total_steps : int
        Steps of the whole run, which decide its learning rates.
    unit_ids, recording_ids : tuple of str
        What the rows of the embedding tables are of, in their order.
    processes : int
        How many worked on it together.
    """

    step: int
    seconds: float
    model: dict
    optimizer: dict
    curve: list[dict[str, float]]
    losses: list[float]
    total_steps: int
    unit_ids: tuple[str, ...]
    recording_ids: tuple[str, ...]
    processes: int = 1

    @property
    def vocabulary_hash(self) -> str:
        """SHA-256 of the ids together with the rows of the tables that belong to them."""
        tables = ("unit_embedding.weight", "recording_embedding.weight")
        held = [self.model[name] for name in tables if name in self.model]
        return hash_of_rows(self.unit_ids, self.recording_ids, held)


def hash_of_rows(
    unit_ids: Sequence[str], recording_ids: Sequence[str], weights: Iterable[torch.Tensor]
) -> str:
    """Return the SHA-256 of ids together with weights."""
    digest = hashlib.sha256(json.dumps([unit_ids, recording_ids]).encode())
    for weight in weights:
        digest.update(weight.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def start_run(folder: Path, record: RunRecord) -> None:
    """Write ``run.json``, or make sure that the one in the folder asks for the same.

    Only the number of threads may differ: no weight depends on it.

    Raises
    ------
    ConfigError
        If the folder holds a run with other settings or data, naming the first difference.
    CheckpointError
        If its ``run.json`` is damaged or of a newer version.
    """
    if (folder / RUN).exists():
        found, asked = (json.loads(one.model_dump_json()) for one in (read_run(folder), record))
        asked["config"]["train"]["threads"] = found["config"]["train"]["threads"]
        difference = _first_difference(found, asked)
        if difference:
            raise ConfigError(
                f"{folder} holds a run with other settings: {difference}. "
                "Choose another --out, or delete that folder."
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"{folder} cannot be a run's folder, it is or lies in a file: choose another --out."
        ) from None
    write_whole(folder / RUN, record.model_dump_json(indent=1) + "\n")


@contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Keep others from training in a run's folder while the context is open, or the process lives.

    One that is behind would write its checkpoint over that of the other. On a file system without
    locks nobody is kept out.

    Raises
    ------
    ConfigError
        If another process trains there.
    """
    with (folder / RUN).open("r+b") as file:  # NFS locks nothing that is open to be read only
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"Another process trains in {folder}: wait for it or stop it, or choose another "
                "--out; processes that are to train together are started by torchrun."
            ) from None
        except OSError:
            pass  # no locks here
        yield


def _first_difference(found: object, asked: object, place: str = "") -> str:
    """Return where two JSON values differ first, or nothing."""
    if isinstance(found, dict) and isinstance(asked, dict):
        for key in sorted(found.keys() | asked.keys()):
            inner = f"{place}.{key}" if place else key
            difference = _first_difference(found.get(key), asked.get(key), inner)
            if difference:
                return difference
        return ""
    if found == asked:
        return ""
    return f"{place} is {_abridged(found)}, now {_abridged(asked)}"


def read_run(folder: Path) -> RunRecord:
    """Return what a run's folder says it is.

    Raises
    ------
    CheckpointError
        If there is no run in the folder, or it is damaged or of a newer version.
    """
    path = folder / RUN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"There is no run in {folder}: start one with `spikedata train --out {folder}`."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(f"{path} was written by a newer spikedata: upgrade spikedata.")
    if isinstance(version, int) and version < FORMAT_VERSION:
        raise CheckpointError(
            f"{path} was written by an older spikedata, whose runs this one cannot go on with: "
            "train again in another --out, or install the older version."
        )
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged: {describe_validation_error(error)}.") from None


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and its learning curve, each as a whole or not at all."""
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}
    # Of equal names pickle writes the first, and refers to it if they are one object.
    content["curve"] = [
        {sys.intern(key): one for key, one in row.items()} for row in checkpoint.curve
    ]
    content |= {"run": run_hash(folder), "vocabulary_hash": checkpoint.vocabulary_hash}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    table = io.StringIO(newline="")
    columns = list(dict.fromkeys(key for row in checkpoint.curve for key in row))
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(checkpoint.curve)
    # The checkpoint comes last: killed between the two, the run goes on and writes both again.
    write_whole(folder / CURVE, table.getvalue())
    write_whole(folder / CHECKPOINT, buffer.getvalue())


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint of a run, or nothing if it has none yet.

    Nothing in the file is executed: it is judged by `read_torch_file` before torch reads it.

    Raises
    ------
    CheckpointError
        If it is damaged, belongs to another run than the ``run.json`` beside it, or has other
        units, recordings, steps or weights than that says.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        read_torch_file(path)  # torch looks at no checksum, and at what a file names too late
        content = torch.load(path, map_location="cpu", weights_only=True)
        run, vocabulary_hash = content.pop("run"), content.pop("vocabulary_hash")
        for name, kinds in _KINDS.items():
            if not isinstance(content[name], kinds):
                raise TypeError(f"its {name} is a {type(content[name]).__name__}")
        for name in ("unit_ids", "recording_ids"):
            content[name] = tuple(content[name])
        checkpoint = Checkpoint(**content)
        if checkpoint.vocabulary_hash != vocabulary_hash:
            raise ValueError("its embedding rows are not those of its units and recordings")
    except _DAMAGE as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is damaged ({reason}): delete it to train again from the start."
        ) from None
    if run != run_hash(folder):
        raise CheckpointError(
            f"{path} belongs to another run than {folder / RUN}: one of the two was replaced; "
            "delete the checkpoint to train again."
        )
    _check_run(path, checkpoint, read_run(folder))
    return checkpoint


def _check_run(path: Path, checkpoint: Checkpoint, record: RunRecord) -> None:
    """Refuse a checkpoint whose rows or schedule are not those of the run."""
    pairs = {
        "units": (checkpoint.unit_ids, record.unit_ids),
        "recordings": (checkpoint.recording_ids, record.recording_ids),
        "steps": (checkpoint.total_steps, record.config.train.total_steps),
    }
    for name, (found, expected) in pairs.items():
        if found != expected:
            raise CheckpointError(
                f"{path} has other {name} than {RUN}, or has them in another order "
                f"({_abridged(found)}; {_abridged(expected)} there): one of the two was changed; "
                "delete the checkpoint to train again."
            )
    shapes = weight_shapes(
        record.config.model, len(record.unit_ids), len(record.recording_ids), record.channels
    )
    if shapes != {name: tuple(getattr(one, "shape", ())) for name, one in checkpoint.model.items()}:
        raise CheckpointError(
            f"{path} does not hold the weights of the model that {RUN} describes: one of the two "
            "was changed; delete the checkpoint to train again."
        )


def _abridged(value: object) -> str:
    text = str(value)
    return text if len(text) < 60 else text[:57] + "…"


def run_hash(folder: Path) -> str:
    """Return the SHA-256 of a run's ``run.json``: what ties its other files to it."""
    return hashlib.sha256((folder / RUN).read_bytes()).hexdigest()
