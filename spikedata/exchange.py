"""Exchange with torch_brain: writes recordings as its HDF5 files, and reads such files.

A file that `write_torch_brain` made comes back as the recording that it was; files of others are
read by `spikedata.exchange_foreign`. docs/exchange.md says what goes where.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from spikedata.errors import (
    FormatVersionError,
    HarmonizeError,
    IntegrityError,
    IntervalError,
    did_you_mean,
)
from spikedata.exchange_foreign import read_foreign
from spikedata.exchange_header import (
    EXCHANGE_VERSION,
    HEADER,
    ExchangeHeader,
    TablePlace,
    content_of,
    refuse_broken,
)
from spikedata.exchange_write import write_torch_brain
from spikedata.hdf5 import Hdf5File
from spikedata.intervals import IntervalSet
from spikedata.layout import NAME
from spikedata.recording import Recording, Series

__all__ = ["read_torch_brain", "torch_brain_header", "write_torch_brain"]


def read_torch_brain(
    path: str | Path,
    dataset: str | None = None,
    session: str | None = None,
    targets: tuple[str, ...] = (),
) -> Recording:
    """Read a file of torch_brain: one that we wrote as it was, any other by rules that are counted.

    Parameters
    ----------
    path : str or Path
        The file. Nobody need vouch for it: nothing in it is executed, links out of it are refused.
    dataset, session : str, optional
        The two parts of the recording's id; by default what the file says (``brainset.id`` and
        ``session.id``).
    targets : tuple of str, optional
        Series that a decoder predicts, as ``("cursor.vel",)``; by default those of an exported
        recording, and none for other files, which do not say.

    Returns
    -------
    Recording
        One that has passed every check of `spikedata.checks`. What other files hold beyond what
        a recording can, or what breaks a rule, is left out and counted in ``dropped``:
        see `spikedata.exchange_foreign`.

    Raises
    ------
    HarmonizeError
        If the file is not one of torch_brain, is damaged, or lacks spikes, units or a domain.
    CheckFailedError
        If the recording breaks an invariant; the message lists all that it breaks.
    FormatVersionError
        If a newer spikedata exported it.
    IntegrityError
        If its arrays differ from those that were exported.
    """
    with Hdf5File(Path(path)) as file:
        header = _read_header(file)
        if header is None:
            recording = read_foreign(file, dataset, session, Path(path).stem)
        else:
            recording = _renamed(_read_own(file, header), dataset, session)
    unknown = [name for name in targets if name not in recording.series]
    if unknown:
        raise HarmonizeError(
            f"{recording.recording_id}: there is no series '{unknown[0]}' to be a target; "
            + did_you_mean(unknown[0], recording.series)
        )
    recording = replace(recording, targets=tuple(targets) or recording.targets)
    refuse_broken(recording)
    return recording


def torch_brain_header(path: str | Path) -> ExchangeHeader | None:
    """Return what an exported file says of its recording, None for a file that we did not write.

    Raises
    ------
    HarmonizeError
        If it cannot be read as HDF5.
    FormatVersionError
        If a newer spikedata exported it.
    IntegrityError
        If what it says makes no sense.
    """
    with Hdf5File(Path(path)) as file:
        return _read_header(file)


def _read_header(file: Hdf5File) -> ExchangeHeader | None:
    if not file.names("spikedata"):
        return None
    text = file.read(file.dataset(HEADER)).astype(np.uint8).tobytes()
    try:
        header = ExchangeHeader.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        raise IntegrityError(
            f"{file.name}: /{HEADER} is damaged: "
            f"{'.'.join(map(str, problem['loc']))} {problem['msg']}."
        ) from None
    if header.format_version > EXCHANGE_VERSION:
        raise FormatVersionError(
            f"{file.name}: exchange format {header.format_version} is newer than this spikedata "
            f"reads ({EXCHANGE_VERSION}): upgrade spikedata."
        )
    return header


def _read_own(file: Hdf5File, header: ExchangeHeader) -> Recording:
    """Return the recording that was exported, or raise if its arrays are other ones now."""
    try:
        series = {}
        for one in header.series:
            values = file.read(file.dataset(f"{one.place}/values"))
            time = None
            if one.rate is None:
                time = _floats(file, f"{one.place}/timestamps")
            series[one.name] = Series(values, one.unit, one.columns, time, one.start, one.rate)
        recording = Recording(
            recording_id=header.recording_id,
            spike_time=_floats(file, "spikes/timestamps"),
            spike_unit=file.read(file.dataset("spikes/unit_index")),
            units=_read_table(file, header.units),
            domain=IntervalSet(_floats(file, "domain/start"), _floats(file, "domain/end")),
            series=series,
            intervals={one.name: _read_intervals(file, one) for one in header.intervals},
            splits={one.name: _read_intervals(file, one) for one in header.splits},
            targets=header.targets, about=header.about, dropped=header.dropped,
            fingerprint=header.fingerprint,
        )  # fmt: skip
        same = content_of(recording) == header.content
    except (IntervalError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, HarmonizeError):
            raise
        raise IntegrityError(
            f"{file.name}: the arrays do not fit /{HEADER} ({error}); export it again."
        ) from None
    if not same:
        raise IntegrityError(
            f"{file.name}: the arrays differ from those that were exported. Export it again; or, "
            "if they were changed on purpose, delete the group `spikedata` and import what is left."
        )
    return recording


def _floats(file: Hdf5File, path: str) -> np.ndarray:
    return file.read_floats(file.dataset(path))


def _read_table(file: Hdf5File, table: TablePlace) -> dict[str, np.ndarray]:
    columns = {}
    for ours, theirs in table.columns.items():
        values = file.read(file.dataset(f"{table.place}/{theirs}"))
        if ours in table.texts:
            values = np.array(table.texts[ours], np.str_).reshape(values.shape)
        columns[ours] = values
    return columns


def _read_intervals(file: Hdf5File, table: TablePlace) -> IntervalSet:
    columns = _read_table(file, table)
    return IntervalSet(columns.pop("start"), columns.pop("end"), columns)


def _renamed(recording: Recording, dataset: str | None, session: str | None) -> Recording:
    """Return the recording under another id; the ids of its units follow."""
    parts = recording.recording_id.split("/")
    name = f"{dataset or parts[0]}/{session or parts[1]}"
    if name == recording.recording_id:
        return recording
    if not re.fullmatch(f"{NAME}/{NAME}", name):
        raise HarmonizeError(
            f"'{name}' is no recording id: use letters, digits and . _ + - in dataset and session."
        )
    begin = len(recording.recording_id)
    ids = [f"{name}{one[begin:]}" for one in recording.unit_ids.tolist()]
    units = {**recording.units, "unit_id": np.array(ids, np.str_)}
    return replace(recording, recording_id=name, units=units, fingerprint="")
