"""What an exported file says of a recording that torch_brain has no place for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from spikedata.checks import run_checks
from spikedata.errors import CheckFailedError
from spikedata.layout import NAME
from spikedata.recording import Recording

__all__ = [
    "EXCHANGE_VERSION",
    "HEADER",
    "ExchangeHeader",
    "SeriesPlace",
    "TablePlace",
    "content_of",
    "refuse_broken",
]

EXCHANGE_VERSION = 1
HEADER = "spikedata/json/header"  # where it lies in the file


class TablePlace(BaseModel):
    """Where a table lies in the file, and what its columns are called there.

    ``columns`` maps our names to theirs; ``texts`` holds, flat, the columns that are not ASCII.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    place: str
    columns: dict[str, str]
    texts: dict[str, tuple[str, ...]] = {}


class SeriesPlace(BaseModel):
    """Where a series lies in the file, and what a ``Series`` knows beside its arrays."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: str
    place: str
    unit: str
    columns: tuple[str, ...]
    start: float
    rate: float | None


class ExchangeHeader(BaseModel):
    """The JSON in ``/spikedata/json/header``; unknown fields of later additions are ignored.

    ``scheme`` is the one written as ``train_domain``, ``valid_domain`` and ``test_domain``;
    ``content`` is `content_of` the recording that was written.
    """

    model_config = ConfigDict(frozen=True)

    format_version: Annotated[int, Field(strict=True, ge=1)]
    recording_id: Annotated[str, Field(pattern=f"^{NAME}/{NAME}$")]
    units: TablePlace
    series: tuple[SeriesPlace, ...]
    intervals: tuple[TablePlace, ...]
    splits: tuple[TablePlace, ...]
    scheme: str
    targets: tuple[str, ...]
    about: dict[str, str]
    dropped: dict[str, int]
    fingerprint: str
    content: str


def refuse_broken(recording: Recording) -> None:
    """Raise CheckFailedError if a recording breaks an invariant: what is written can be read."""
    problems = [found.message for found in run_checks(recording) if found.severity == "error"]
    if problems:
        raise CheckFailedError(
            f"{recording.recording_id}: {len(problems)} check(s) failed: {' '.join(problems)}"
        )


def content_of(recording: Recording) -> str:
    """Return a SHA-256 (hex) over everything in a recording: names, order, texts and all bytes.

    Two recordings have the same one if and only if they are equal in every field, NaN counting
    as itself; the width of text columns is no part of them.
    """
    digest = hashlib.sha256()
    plain = [
        recording.recording_id, list(recording.targets), list(recording.about.items()),
        [(rule, int(count)) for rule, count in recording.dropped.items()], recording.fingerprint,
        [[name, one.unit, one.columns, float(one.start), one.rate and float(one.rate)]
         for name, one in recording.series.items()],
    ]  # fmt: skip
    digest.update(json.dumps(plain).encode())
    for name, values in _arrays(recording):
        if values.dtype.kind in "UO":
            body = json.dumps([str(value) for value in values.ravel().tolist()]).encode()
            kind = "text"
        else:
            kind = values.dtype.newbyteorder("<").str
            body = np.ascontiguousarray(values, kind).reshape(-1).view(np.uint8).data
        digest.update(json.dumps([name, kind, values.shape, len(body)]).encode())
        digest.update(body)
    return digest.hexdigest()


def _arrays(recording: Recording) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield every array of a recording with its name, in the recording's order."""
    yield ["spike_time"], np.asarray(recording.spike_time)
    yield ["spike_unit"], np.asarray(recording.spike_unit)
    for column, values in recording.units.items():
        yield ["units", column], np.asarray(values)
    for name, one in recording.series.items():
        yield ["series", name, "values"], one.values
        if one.time is not None:
            yield ["series", name, "time"], one.time
    tables = {"domain": {"": recording.domain}, "intervals": recording.intervals,
              "splits": recording.splits}  # fmt: skip
    for group, named in tables.items():
        for name, table in named.items():
            yield [group, name, "start"], table.start
            yield [group, name, "end"], table.end
            for column, values in table.columns.items():
                yield [group, name, "column", column], np.asarray(values)
