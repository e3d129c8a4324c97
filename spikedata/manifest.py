"""Manifests: which assets make up a dataset, their hashes, how to harmonise them. No network."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, model_validator

from spikedata.errors import ManifestError, did_you_mean
from spikedata.options import FileModel, HarmonizeOptions, Slug

__all__ = [
    "Absent",
    "Asset",
    "DandiSource",
    "Dataset",
    "FileSource",
    "HttpsSource",
    "Manifest",
    "Publication",
    "Published",
    "Source",
    "ZenodoSource",
    "describe_source",
    "describe_validation_error",
    "list_manifests",
    "load_manifest",
    "without_secrets",
]

FORMAT_VERSION = 1


def _inner_path(text: str) -> str:
    path = PurePosixPath(text)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in text or ":" in text
    if unsafe or not text.isprintable() or not path.name:
        raise ValueError(
            "must be a relative path that stays inside its folder, with / between parts"
        )
    return str(path)


InnerPath = Annotated[str, AfterValidator(_inner_path)]
HttpAddress = Annotated[str, Field(pattern=r"^https?://")]
Count = Annotated[int, Field(ge=0)]


# ------------------------------------------------------------------ where the bytes come from


class FileSource(FileModel):
    """Files in a folder on this machine, given relative to the manifest."""

    kind: Literal["file"]
    root: str = "."


class HttpsSource(FileModel):
    """Files below a plain https address."""

    kind: Literal["https"]
    url: HttpAddress


class DandiSource(FileModel):
    """Assets of one version of a dandiset.

    A published version never changes. A draft does, so what a manifest takes from one is found
    by its hash, or refused.
    """

    kind: Literal["dandi"]
    dandiset: Annotated[str, Field(pattern=r"^\d{6}$")]
    version: Annotated[str, Field(pattern=r"^(draft|\d+\.\d+\.\d+)$")]
    api_url: HttpAddress | None = None


class ZenodoSource(FileModel):
    """Files of one Zenodo record, which never changes."""

    kind: Literal["zenodo"]
    record: Annotated[str, Field(pattern=r"^\d+$")]
    api_url: HttpAddress | None = None


Source = Annotated[
    FileSource | HttpsSource | DandiSource | ZenodoSource, Field(discriminator="kind")
]


def without_secrets(url: str) -> str:
    """Return an address without user, password and query, fit for a message.

    Examples
    --------
    >>> without_secrets("https://me:secret@lab.org/data?key=1")
    'https://lab.org/data'
    """
    scheme, _, rest = url.partition("?")[0].partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def describe_source(source: Source) -> str:
    """Return where bytes come from, in a few words.

    Examples
    --------
    >>> describe_source(ZenodoSource(kind="zenodo", record="3854034"))
    'Zenodo record 3854034'
    """
    match source.kind:
        case "dandi":
            return f"dandiset {source.dandiset}, version {source.version}"
        case "zenodo":
            return f"Zenodo record {source.record}"
        case "https":
            return without_secrets(source.url)
        case "file":
            return f"the folder {source.root}"


# ------------------------------------------------------------------ what is fetched


class Published(FileModel):
    """What the publication says of a recording: how often it is listed, with how many units."""

    entries: Count = 1
    units: Count | None = None


class Asset(FileModel):
    """One file of a dataset, pinned by size and hash.

    A file of a Zenodo record may lack them: the record states size and MD5 when it is fetched.
    """

    path: InnerPath
    size: Count | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    session: Slug
    subject: str = ""
    task: str = ""
    role: Literal["train", "heldout", "transfer"] = "train"
    asset_id: str | None = None
    etag: Annotated[str, Field(pattern=r"^[0-9a-f]{32}-\d{1,5}$")] | None = None
    published: Published | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether size and a hash are known."""
        return self.size is not None and bool(self.sha256 or self.md5)


# ------------------------------------------------------------------ the manifest


class Dataset(FileModel):
    """The assets of one origin, under one licence, harmonised in one way."""

    id: Slug
    title: str
    licence: str
    citation: str
    doi: str | None = None
    references: tuple[str, ...] = ()
    note: str = ""
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
        loose = [
            asset.path for asset in self.assets if not (asset.size is not None and asset.sha256)
        ]
        if self.source.kind != "zenodo" and loose:
            raise ValueError(f"assets need a size and a sha256: {', '.join(loose[:3])}")
        return self

    def recording_id(self, asset: Asset) -> str:
        """Return the id of the recording that `asset` becomes, ``"<dataset>/<session>"``."""
        return f"{self.id}/{asset.session}"


class Publication(FileModel):
    """What a paper says it used, for a manifest that rebuilds it."""

    title: str
    doi: str
    sessions: Count
    units: Count
    subjects: Count


class Absent(FileModel):
    """Recordings that belong to a publication and that this manifest does not fetch."""

    id: Slug
    title: str
    reason: str
    licence: str
    citation: str
    url: HttpAddress
    subjects: tuple[str, ...] = ()
    sessions: Count
    units: Count


class Manifest(FileModel):
    """A named, pinned selection of assets from one or more datasets."""

    format_version: Annotated[int, Field(ge=1)] = FORMAT_VERSION
    name: Slug
    title: str
    description: str = ""
    publication: Publication | None = None
    absent: tuple[Absent, ...] = ()
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
        """Bytes of all assets whose size is known."""
        return sum(asset.size or 0 for _, asset in self.items())

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
