"""The learning curve of a run as events for TensorBoard, row by row.

Reference of the files: TensorFlow's ``event.proto`` and ``summary.proto``, and the framing of
records, all of which the package tensorboard brings without TensorFlow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from spikedata_model.errors import ConfigError

__all__ = ["Board", "tag_of"]

FOLDER, PREFIX = "tensorboard", "events.out.tfevents."  # TensorBoard looks for files named so
TAGS = {
    "loss": "loss/train",
    "mean r2": "r2/mean",
    "seconds": "time/seconds",
    "seconds_left": "time/seconds_left",
    "tokens_per_s": "speed/tokens_per_s",
    "memory_mb": "memory/memory_mb",
    "gpu_memory_mb": "memory/gpu_memory_mb",
}


def tag_of(column: str) -> str:
    """Return the name in TensorBoard of a column of the learning curve.

    Examples
    --------
    >>> tag_of("r2 lab/a hand x"), tag_of("loss"), tag_of("what is new")
    ('r2/lab/a/hand/x', 'loss/train', 'more/what/is/new')
    """
    group = "" if column.startswith("r2 ") else "more/"
    return TAGS.get(column) or group + column.replace(" ", "/")


class Board:
    """Writes the rows of a learning curve into a folder that ``tensorboard --logdir`` shows.

    Each beginning writes a file of its own. Its first event says from which step on TensorBoard is
    to forget what earlier files say, so that a run that goes on from a checkpoint has each step
    once. Every row is on its way to the disk before the next step begins.

    Parameters
    ----------
    folder : Path
        The run's folder; files go into ``tensorboard`` in it.
    from_step : int
        Steps done; rows of later steps from before are forgotten.

    Raises
    ------
    ConfigError
        If the package tensorboard is not installed.
    OSError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Path, from_step: int = 0) -> None:
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise ConfigError(
                "Events for TensorBoard need the package tensorboard: install it with "
                "`pip install 'neural-spikedata[tensorboard]'`, or train without them."
            ) from None
        self._event = event_pb2.Event  # type: ignore[attr-defined]  # made when imported
        path = folder / FOLDER
        path.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = (path / _next_name(path)).open("xb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        forget = from_step + 1 if from_step else 0
        self._write(step=forget, session_log={"status": "START"})

    def row(self, row: Mapping[str, float]) -> None:
        """Write a row: its ``step``, and every other value that is a finite number."""
        values = [
            {"tag": tag_of(name), "simple_value": float(value)}
            for name, value in row.items()
            if name != "step" and math.isfinite(value)
        ]
        self._write(step=int(row["step"]), summary={"value": values})

    def _write(self, **content: object) -> None:
        event = self._event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _next_name(folder: Path) -> str:
    """Return a name that is sorted behind those that are there: TensorBoard reads in that order."""
    found = (one.name.removeprefix(PREFIX).partition(".")[0] for one in folder.glob(f"{PREFIX}*"))
    seconds = [int(one) for one in found if one.isdecimal()]
    return f"{PREFIX}{max(int(time.time()), *(one + 1 for one in seconds), 0):010d}.spikedata"
