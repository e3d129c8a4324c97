"""What papers and leaderboards report: rows beside ours, under protocols that are not ours."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from spikedata.errors import did_you_mean
from spikedata.manifest import describe_validation_error
from spikedata.options import FileModel, Slug
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.suite import list_suites, load_suite

__all__ = ["Published", "load_published"]

PATH = Path(__file__).parent / "published.toml"
FORMAT_VERSION = 1
Address = Annotated[str, Field(pattern=r"^(https?://|10\.\d{4,9}/)\S+$")]


class Published(FileModel):
    """One published number: no score of this leaderboard, and never ranked with one.

    Parameters
    ----------
    suite, group : str
        The suite and group of ours that is nearest to it.
    method : str
        Its name in the source.
    metric : str
        What the number is; it need not be the suite's metric.
    value : float
        The number.
    sd : float, optional
        Its standard deviation as published, mostly over sessions.
    recording : str, optional
        The one recording of the group that it is of; of several, or unknown ones, when not given.
    labels : str
        How many labels of the new sessions it rests on; all of them, or unknown, when empty.
    latency : str
        As published, in words.
    normalised_latency : float, optional
        Seconds of computing per second of data.
    bytes : int, optional
        Footprint.
    causality : {"causal", "not causal", "unknown"}
        Whether its estimates rest on the past alone.
    protocol : str
        How it was scored, and how that differs from the suite.
    source, address : str
        Paper or leaderboard, and its DOI or address.
    read : str
        How the number was read: from the authors' own page, or a third party's transcript.
    """

    suite: Slug
    group: Slug
    method: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    value: float
    sd: Annotated[float, Field(ge=0)] | None = None
    recording: str | None = None
    labels: str = ""
    latency: str = ""
    normalised_latency: Annotated[float, Field(ge=0)] | None = None
    bytes: Annotated[int, Field(ge=0)] | None = None
    causality: Literal["causal", "not causal", "unknown"]
    protocol: str = Field(min_length=1)
    source: str = Field(min_length=1)
    address: Address
    read: str = Field(min_length=1)


class _Row(FileModel):
    """A method of a table: a number of each group, and their deviations."""

    method: str
    values: dict[str, float] = Field(min_length=1)
    sd: dict[str, float] = Field(default_factory=dict)
    recording: str | None = None
    labels: str = ""
    latency: str = ""
    normalised_latency: dict[str, float] = Field(default_factory=dict)
    bytes: int | None = None
    metric: str | None = None
    protocol: str | None = None
    causality: Literal["causal", "not causal", "unknown"] | None = None

    @model_validator(mode="after")
    def _of_groups(self) -> _Row:
        for name, given in (("sd", self.sd), ("normalised_latency", self.normalised_latency)):
            wrong = sorted(set(given) - set(self.values))
            if wrong:
                raise ValueError(f"{name} of {', '.join(wrong)}, which have no value")
        return self


class _Table(FileModel):
    """Rows that share a suite, a protocol and a source."""

    suite: Slug
    metric: str
    causality: Literal["causal", "not causal", "unknown"]
    protocol: str
    source: str
    address: Address
    read: str
    rows: tuple[_Row, ...] = Field(min_length=1)

    def numbers(self) -> list[Published]:
        shared = {name: getattr(self, name) for name in ("suite", "source", "address", "read")}
        return [
            Published(
                **shared, group=group, value=value, sd=row.sd.get(group),
                metric=row.metric or self.metric, causality=row.causality or self.causality,
                protocol=row.protocol or self.protocol, method=row.method,
                recording=row.recording, labels=row.labels, latency=row.latency,
                normalised_latency=row.normalised_latency.get(group), bytes=row.bytes,
            )
            for row in self.rows
            for group, value in row.values.items()
        ]  # fmt: skip


class _File(FileModel):
    format_version: Literal[1] = FORMAT_VERSION
    tables: tuple[_Table, ...]


def load_published(path: Path | None = None) -> tuple[Published, ...]:
    """Return published numbers, in order of the file.

    Parameters
    ----------
    path : Path, optional
        A TOML file; the one that comes with the package when not given.

    Raises
    ------
    SuiteError
        If the file is not valid, names a suite, group or recording that there is not, or has two
        numbers of one method for the same thing; the message lists every problem.

    Examples
    --------
    >>> rows = load_published()
    >>> any(row.method == "MLP" and row.value == 0.6953 for row in rows)
    True
    """
    path = path or PATH
    try:
        file = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"The published numbers {path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"{path} is not valid TOML: {error}.") from None
    except ValidationError as error:
        raise SuiteError(f"{path}: {describe_validation_error(error)}") from None
    rows = [row for table in file.tables for row in table.numbers()]
    problems = _problems(rows)
    if problems:
        raise SuiteError(f"{path}: {'; '.join(problems)}.")
    return tuple(rows)


def _problems(rows: list[Published]) -> list[str]:
    """Return what rows name that there is not, and which are there twice."""
    known = list_suites()
    suites = {name: load_suite(name) for name in {row.suite for row in rows} & set(known)}
    problems: list[str] = []
    seen: set[tuple[object, ...]] = set()
    for row in rows:
        place = f"{row.suite}, {row.group}, {row.method}"
        key = (row.suite, row.group, row.recording, row.method, row.labels, row.metric, row.address)
        if key in seen:
            problems.append(f"{place}: given twice")
        seen.add(key)
        if row.suite not in suites:
            problems.append(f"no suite is called '{row.suite}'; {did_you_mean(row.suite, known)}")
            continue
        groups = {group.name: group for group in suites[row.suite].groups}
        if row.group not in groups:
            hint = did_you_mean(row.group, groups)
            problems.append(f"'{row.suite}' has no group '{row.group}'; {hint}")
        elif row.recording is not None and row.recording not in groups[row.group].recordings:
            problems.append(f"{place}: the group has no recording '{row.recording}'")
    return list(dict.fromkeys(problems))
