"""How the files of a dataset become recordings: the `harmonize` table of a manifest."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from spikedata.errors import did_you_mean

__all__ = [
    "ChronologicalSplit",
    "ColumnSplit",
    "FileModel",
    "HarmonizeOptions",
    "IntervalOptions",
    "SeriesOptions",
    "Slug",
    "UnitOptions",
]


def _slug(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", text):
        raise ValueError("use letters, digits and . _ + - only, and begin with a letter or digit")
    return text


Slug = Annotated[str, AfterValidator(_slug)]


class FileModel(BaseModel):
    """A part of a file: unknown fields are refused, and it cannot be changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UnitOptions(FileModel):
    """Which units are kept and which of their columns are read.

    ``electrode`` names the column that holds a unit's row of the electrode table, counted from
    ``electrode_base``; without it a unit lies where its first electrode does.
    """

    columns: tuple[str, ...] | None = None
    area: str | None = None
    electrode: str | None = None
    electrode_base: Literal[0, 1] = 0
    areas: dict[str, str] = {}
    sorting: Literal["sorted", "threshold crossings", "multi-unit"] | None = None
    at_least: dict[str, float] = {}
    keep: dict[str, tuple[str | int | float | bool, ...]] = {}
    min_spikes: Annotated[int, Field(ge=0)] = 0


class SeriesOptions(FileModel):
    """One harmonised series and the NWB series that it is made of.

    A ``source`` with ``*`` or ``?`` matches paths, step by step; what one pattern matches are
    parts of one series, one after another in time. ``optional``: some files lack it, and then
    what is made of it is left out too. ``missing``: the file's value, before its conversion, for
    "not tracked". ``rate_is_period``: a rate below 1 Hz is the time between samples.
    ``as_stored``: the numbers of the file, its conversion and offset left out.
    ``spread_times``: two timestamps of a longer series are those of its first and last sample.
    ``direction_of``: the direction from the second of two positions above to the first.
    """

    name: Slug
    source: tuple[str, ...] = ()
    optional: bool = False
    missing: float | None = None
    rate_is_period: bool = False
    spread_times: bool = False
    as_stored: bool = False
    columns: tuple[str, ...] | None = None
    unit: str | None = None
    scale: float = 1.0
    transform: Literal["none", "cos_sin"] = "none"
    velocity_of: Slug | None = None
    direction_of: tuple[Slug, Slug] | None = None
    range: tuple[float, float] | None = None
    max_speed: Annotated[float, Field(gt=0)] | None = None
    max_still: Annotated[float, Field(gt=0)] | None = None
    max_gap: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> SeriesOptions:
        origins = (self.source, self.velocity_of, self.direction_of)
        if sum(bool(one) for one in origins) != 1:
            raise ValueError(
                "give either `source` (NWB paths), `direction_of` (two positions above) or "
                "`velocity_of` (a series above)"
            )
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range must be [low, high] with low < high, found {self.range}")
        if not (math.isfinite(self.scale) and self.scale != 0):
            raise ValueError(f"scale must be a number other than 0, found {self.scale}")
        if self.missing is not None and math.isnan(self.missing):
            raise ValueError("missing cannot be nan: what is no number is always dropped")
        if self.columns is not None and len(set(self.columns)) < max(1, len(self.columns)):
            raise ValueError(f"columns must be names, each once, found {list(self.columns)}")
        if self.velocity_of == self.name or self.name in (self.direction_of or ()):
            raise ValueError(f"'{self.name}' cannot be made of itself")
        about_files = ("as_stored", "missing", "optional", "rate_is_period", "spread_times")
        fields = type(self).model_fields
        given = [name for name in about_files if getattr(self, name) != fields[name].default]
        if given and not self.source:
            raise ValueError(f"{', '.join(given)}: only for a series with a `source`")
        return self


class IntervalOptions(FileModel):
    """One harmonised interval table and the NWB table that it comes from.

    ``optional``: some files lack it, and have no such table then.
    """

    name: Slug
    source: str
    optional: bool = False


class ChronologicalSplit(FileModel):
    """Cut the decodable time into train, valid and test, in that order."""

    kind: Literal["chronological"] = "chronological"
    train: Annotated[float, Field(gt=0, le=1)] = 0.7
    valid: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(ge=0, lt=1)] = 0.2
    gap: Annotated[float, Field(ge=0)] = 1.0  # s: a window of the POYO paper reaches no further
    blocks: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _whole(self) -> ChronologicalSplit:
        total = self.train + self.valid + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + valid + test must be 1, found {total:g}")
        return self


class ColumnSplit(FileModel):
    """Take the splits from a column of an interval table, as in the Neural Latents Benchmark."""

    kind: Literal["column"]
    table: Slug
    column: str
    values: dict[str, Literal["train", "valid", "test"]]


Split = Annotated[ChronologicalSplit | ColumnSplit, Field(discriminator="kind")]


class HarmonizeOptions(FileModel):
    """How the files of a dataset become recordings.

    ``harmonizer`` names a module of `spikedata.harmonize`, or ``"package.module:function"``.
    With no ``series`` every behavioural series of the file is taken under its own name.
    ``domain`` names the interval table whose rows say when the units were observed.
    """

    harmonizer: str = "generic"
    units: UnitOptions = UnitOptions()
    series: tuple[SeriesOptions, ...] = ()
    intervals: tuple[IntervalOptions, ...] = ()
    domain: Slug | None = None
    targets: tuple[Slug, ...] = ()
    splits: dict[Slug, Split] = {"chronological": ChronologicalSplit()}

    @model_validator(mode="after")
    def _targets_exist(self) -> HarmonizeOptions:
        names = [one.name for one in self.series]
        for kind, listed in (("series", names), ("intervals", [i.name for i in self.intervals])):
            twice = sorted({name for name in listed if listed.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} named twice: {', '.join(twice)}")
        for target in self.targets if names else ():
            if target not in names:
                raise ValueError(f"target '{target}' is no series; {did_you_mean(target, names)}")
        tables = [one.name for one in self.intervals]
        if tables and self.domain is not None and self.domain not in tables:
            raise ValueError(
                f"domain '{self.domain}' is no interval table; {did_you_mean(self.domain, tables)}"
            )
        return self
