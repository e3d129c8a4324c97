"""Manifests: which assets make up a dataset, their hashes, how to harmonise them. No network."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from spikedata.errors import ManifestError, did_you_mean

__all__ = [
    "Asset",
    "Dataset",
    "HarmonizeOptions",
    "Manifest",
    "Source",
    "describe_validation_error",
    "list_manifests",
    "load_manifest",
]

FORMAT_VERSION = 1


def _slug(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", text):
        raise ValueError("use letters, digits and . _ + - only, and begin with a letter or digit")
    return text


def _inner_path(text: str) -> str:
    path = PurePosixPath(text)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in text or ":" in text
    if unsafe or not text.isprintable() or not path.name:
        raise ValueError(
            "must be a relative path that stays inside its folder, with / between parts"
        )
    return str(path)


Slug = Annotated[str, AfterValidator(_slug)]
InnerPath = Annotated[str, AfterValidator(_inner_path)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# ------------------------------------------------------------------ where the bytes come from


class FileSource(_Model):
    """Files in a folder on this machine, given relative to the manifest."""

    kind: Literal["file"]
    root: str = "."


class HttpsSource(_Model):
    """Files below a plain https address."""

    kind: Literal["https"]
    url: Annotated[str, Field(pattern=r"^https?://")]


class DandiSource(_Model):
    """Assets of one published version of a dandiset."""

    kind: Literal["dandi"]
    dandiset: Annotated[str, Field(pattern=r"^\d{6}$")]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    api_url: str | None = Field(None, pattern=r"^https?://")


Source = Annotated[FileSource | HttpsSource | DandiSource, Field(discriminator="kind")]


class Asset(_Model):
    """One file of a dataset, pinned by size and hash."""

    path: InnerPath
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256
    session: Slug
    subject: str = ""
    task: str = ""
    role: Literal["train", "heldout", "transfer"] = "train"
    asset_id: str | None = None
    etag: str | None = None


# ------------------------------------------------------------------ how a file is harmonised


class UnitOptions(_Model):
    """Which units are kept and which of their columns are read."""

    columns: tuple[str, ...] | None = None
    area: str | None = None
    keep: dict[str, tuple[str | int | float | bool, ...]] = {}
    min_spikes: Annotated[int, Field(ge=0)] = 0


class SeriesOptions(_Model):
    """One harmonised series and the NWB series that it is made of."""

    name: Slug
    source: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    unit: str | None = None
    scale: float = 1.0
    transform: Literal["none", "cos_sin"] = "none"
    velocity_of: Slug | None = None
    range: tuple[float, float] | None = None
    max_speed: Annotated[float, Field(gt=0)] | None = None
    max_still: Annotated[float, Field(gt=0)] | None = None
    max_gap: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> SeriesOptions:
        if bool(self.source) == (self.velocity_of is not None):
            raise ValueError("give either `source` (NWB paths) or `velocity_of` (a series above)")
        return self


class IntervalOptions(_Model):
    """One harmonised interval table and the NWB table that it comes from."""

    name: Slug
    source: str


class ChronologicalSplit(_Model):
    """Cut the decodable time into train, valid and test, in that order."""

    kind: Literal["chronological"] = "chronological"
    train: Annotated[float, Field(gt=0, le=1)] = 0.7
    valid: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(ge=0, lt=1)] = 0.2
    gap: Annotated[float, Field(ge=0)] = 0.0
    blocks: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _whole(self) -> ChronologicalSplit:
        total = self.train + self.valid + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + valid + test must be 1, found {total:g}")
        return self


class ColumnSplit(_Model):
    """Take the splits from a column of an interval table, as in the Neural Latents Benchmark."""

    kind: Literal["column"]
    table: Slug
    column: str
    values: dict[str, Literal["train", "valid", "test"]]


Split = Annotated[ChronologicalSplit | ColumnSplit, Field(discriminator="kind")]


class HarmonizeOptions(_Model):
    """How the files of a dataset become recordings.

    ``harmonizer`` names a module of `spikedata.harmonize`, or ``"package.module:function"``.
    With no ``series`` every behavioural series of the file is taken under its own name.
    """

    harmonizer: str = "generic"
    units: UnitOptions = UnitOptions()
    series: tuple[SeriesOptions, ...] = ()
    intervals: tuple[IntervalOptions, ...] = ()
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
        return self


# ------------------------------------------------------------------ the manifest


class Dataset(_Model):
    """The assets of one origin, under one licence, harmonised in one way."""

    id: Slug
    title: str
    licence: str
    citation: str
    doi: str | None = None
    source: Source
    harmonize: HarmonizeOptions = HarmonizeOptions()
    assets: tuple[Asset, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _assets_fit(self) -> Dataset:
        for field in ("path", "session"):
            listed = [getattr(asset, field) for asset in self.assets]
            twice = sorted({one for one in listed if listed.count(one) > 1})
            if twice:
                raise ValueError(f"two assets share the {field} {', '.join(twice)}")
        lacking = [asset.path for asset in self.assets if asset.asset_id is None]
        if self.source.kind == "dandi" and lacking:
            raise ValueError(f"assets of a dandiset need an asset_id: {', '.join(lacking[:3])}")
        return self

    def recording_id(self, asset: Asset) -> str:
        """Return the id of the recording that `asset` becomes, ``"<dataset>/<session>"``."""
        return f"{self.id}/{asset.session}"


class Manifest(_Model):
    """A named, pinned selection of assets from one or more datasets."""

    format_version: Annotated[int, Field(ge=1)] = FORMAT_VERSION
    name: Slug
    title: str
    description: str = ""
    datasets: tuple[Dataset, ...] = Field(min_length=1)
    _path: Path = PrivateAttr(default=Path("."))

    @model_validator(mode="after")
    def _datasets_differ(self) -> Manifest:
        ids = [dataset.id for dataset in self.datasets]
        if len(set(ids)) < len(ids):
            raise ValueError("two datasets share an id")
        return self

    @property
    def path(self) -> Path:
        """The file that this manifest was read from."""
        return self._path

    @property
    def total_size(self) -> int:
        """Bytes of all assets together."""
        return sum(asset.size for _, asset in self.items())

    def items(self) -> Iterator[tuple[Dataset, Asset]]:
        """Yield every asset with its dataset, in the order of the file."""
        for dataset in self.datasets:
            for asset in dataset.assets:
                yield dataset, asset


def describe_validation_error(error: ValidationError) -> str:
    """Return all problems of a pydantic error in one line, each with its place."""
    problems = error.errors()
    parts = []
    for problem in problems:
        # A refused item does not count: its table is then too short, which is no news.
        place = problem["loc"]
        within = any(
            len(p["loc"]) > len(place) and p["loc"][: len(place)] == place for p in problems
        )
        if problem["type"] == "too_short" and within:
            continue
        place = ".".join(str(step) for step in problem["loc"]) or "top level"
        message = problem["msg"].removeprefix("Value error, ")
        given = problem.get("input")
        shown = f" (found {given!r})" if isinstance(given, str | int | float | bool) else ""
        parts.append(f"{place}: {message}{shown}")
    return "; ".join(parts)


def _manifest_folders() -> list[Path]:
    """Return where the manifests of this installation lie: in the wheel, or beside the sources."""
    package = Path(__file__).resolve().parent
    return [
        folder
        for folder in (package / "manifests", package.parent / "manifests")
        if folder.is_dir()
    ]


def list_manifests() -> dict[str, Path]:
    """Return the manifests that come with spikedata, by name."""
    found = {}
    for folder in reversed(_manifest_folders()):
        found.update({path.stem: path for path in sorted(folder.glob("*.toml"))})
    return found


def load_manifest(name: str | Path) -> Manifest:
    """Read a manifest by the name of a bundled one, or by the path of a TOML file.

    Parameters
    ----------
    name : str or Path
        ``"sample"``, or ``"my/manifest.toml"``.

    Returns
    -------
    Manifest
        The validated manifest.

    Raises
    ------
    ManifestError
        If there is none of that name, or the file is not a valid manifest; the message
        lists every problem with its place.

    Examples
    --------
    >>> load_manifest("sample").name
    'sample'
    """
    text = str(name)
    bundled = list_manifests()
    if text.endswith(".toml") or "/" in text:
        path = Path(text)
    elif text in bundled:
        path = bundled[text]
    else:
        raise ManifestError(
            f"No manifest is called '{text}'; {did_you_mean(text, bundled)} "
            "(or give the path of a .toml file)"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"The manifest {path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(f"The manifest {path} is not valid TOML: {error}.") from None
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ManifestError(
            f"{path}: format_version {version} is newer than this spikedata reads "
            f"({FORMAT_VERSION}): upgrade spikedata."
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise ManifestError(f"{path}: {describe_validation_error(error)}") from None
    manifest._path = path.resolve()
    return manifest
