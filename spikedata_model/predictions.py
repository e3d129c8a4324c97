"""What a decoder says of the samples of a split, in memory and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from spikedata.files import write_whole

__all__ = ["Prediction", "write_predictions", "write_table"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a decoder says of one target of one recording.

    Parameters
    ----------
    recording_id, target : str
        What was decoded.
    columns : tuple of str, length C
        Channels of the target.
    unit : str
        Unit of the values.
    time : ndarray, shape (S,), float64
        Sample times on the recording's clock; each sample of the split exactly once.
    truth, predicted : ndarray, shape (S, C), float64
        Measured and decoded values.
    scored : ndarray, shape (S,), bool
        Which samples lie where the recording's recipe scores; all without one.
    """

    recording_id: str
    target: str
    columns: tuple[str, ...]
    unit: str
    time: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    scored: np.ndarray


def write_predictions(
    path: Path, predictions: Sequence[Prediction], baselines: Sequence[np.ndarray]
) -> None:
    """Write predictions and those of a Wiener filter as an Arrow file, a row for each number.

    Columns: recording_id, target, channel, unit, time in seconds, scored, truth, poyo, wiener.

    Raises
    ------
    OSError
        If the folder is missing, full or not writable; the old file, if any, is untouched.
    """
    tables = []
    for one, baseline in zip(predictions, baselines, strict=True):
        for row, channel in enumerate(one.columns):
            same = {"recording_id": one.recording_id, "target": one.target, "channel": channel,
                    "unit": one.unit}  # fmt: skip
            columns = {
                name: pa.array([text] * len(one.time)).dictionary_encode()
                for name, text in same.items()
            }
            columns |= {
                "time": pa.array(one.time),
                "scored": pa.array(one.scored),
                "truth": pa.array(np.ascontiguousarray(one.truth[:, row])),
                "poyo": pa.array(np.ascontiguousarray(one.predicted[:, row])),
                "wiener": pa.array(np.ascontiguousarray(baseline[:, row])),
            }
            tables.append(pa.table(columns))
    write_table(path, pa.concat_tables(tables).unify_dictionaries())


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow IPC file, whole or not at all; errors as `write_predictions`."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_whole(path, sink.getvalue().to_pybytes())
