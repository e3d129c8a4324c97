"""The pages of the manifests: what is fetched, under which licence, and which suites use it."""

from __future__ import annotations

from collections.abc import Iterator

from spikedata.counts import Count, counts
from spikedata.manifest import Asset, Dataset, Manifest, describe_source
from spikedata_model.leaderboard.site_board import Board, Shelf
from spikedata_model.leaderboard.site_markup import DASH, Child, Markup, count, out, size, tag
from spikedata_model.leaderboard.site_parts import (
    Body,
    Cell,
    Head,
    facts,
    page,
    row,
    section,
    table,
)

__all__ = ["data_page", "manifest_page"]


def _users(board: Board, stem: str) -> list[Shelf]:
    """Return the suites that take recordings of a manifest."""
    return [
        shelf for shelf in board.shelves
        if shelf.suite is not None and any(
            board.manifest_page(shelf.suite, group) == f"data/{stem}.html"
            for group in shelf.suite.groups)
    ]  # fmt: skip


def data_page(board: Board) -> str:
    """Return the list of manifests."""
    heads = [
        Head("Manifest", "manifest"), Head("Title", "title"), Head("Files", "files", True),
        Head("Size", "size", True), Head("Licence", "licence"), Head("Suites", "suites"),
    ]  # fmt: skip
    rows = []
    for stem, manifest in board.manifests:
        files = sum(1 for _ in manifest.items())
        licences = sorted({one.licence for one in manifest.datasets})
        users = [tag("a", s.name, href=s.page, class_="item") for s in _users(board, stem)]
        rows.append(row([
            Cell(tag("a", manifest.name, href=f"data/{stem}.html")), Cell(manifest.title),
            Cell(count(files), files, True), _total(manifest), Cell(", ".join(licences)),
            Cell(users or DASH),
        ]))  # fmt: skip
    lead = tag("p", "A manifest pins recordings by size and hash, and says whose they are.",
               class_="lead")  # fmt: skip
    return page(board, "Data", "Data", lead, table("All manifests", heads, [Body(rows)]),
                here="data.html")  # fmt: skip


def _total(manifest: Manifest) -> Cell:
    known = [asset.size for _, asset in manifest.items() if asset.size is not None]
    total = sum(known) if known else None
    more = "at least " if known and len(known) < sum(1 for _ in manifest.items()) else ""
    return Cell(more + size(total), total, True)


def manifest_page(board: Board, stem: str, manifest: Manifest) -> str:
    """Return the page of a manifest."""
    publication = manifest.publication
    users = [tag("a", s.title, href=f"../{s.page}", class_="item") for s in _users(board, stem)]
    lead = tag("p", manifest.description, class_="lead") if manifest.description else None
    about = facts([
        ("Files", count(sum(1 for _ in manifest.items()))),
        ("Size", _total(manifest).shown),
        ("Rebuilds", [publication.title, " ", out(publication.doi)] if publication else None),
        ("Suites that use it", users or "none"),
    ])  # fmt: skip
    heading = [manifest.title, " ", tag("small", manifest.name)]
    return page(board, manifest.title, heading, lead, about,
                section("How much it holds", _counts(manifest)),
                *(section(one.title, *_dataset(one)) for one in manifest.datasets),
                _absent(manifest), depth=1)  # fmt: skip


def _counts(manifest: Manifest) -> Markup:
    heads = [
        Head("Dataset", "dataset"), Head("Role", "role"), Head("Files", "files", True),
        Head("Size", "size", True), Head("Entries as published", "entries", True),
        Head("Units as published", "units", True), Head("Subjects", "subjects", True),
    ]  # fmt: skip
    rows = [row(_count_cells(one)) for one in counts(manifest)]
    return table("Datasets by role, what is absent, and what the publication says", heads,
                 [Body(rows)])  # fmt: skip


def _count_cells(one: Count) -> list[Cell]:
    numbers = (one.files, one.size, one.entries, one.units, one.subjects)
    shown = (count(one.files), size(one.size), *(count(value) for value in numbers[2:]))
    cells = [Cell(text, value, True) for text, value in zip(shown, numbers, strict=True)]
    return [Cell(one.name), Cell(one.kind), *cells]


def _dataset(dataset: Dataset) -> Iterator[Child]:
    yield facts([
        ("Dataset", tag("code", dataset.id)),
        ("Origin", _origin(dataset)),
        ("Licence", dataset.licence),
        ("Cite as", dataset.citation),
        ("DOI", out(dataset.doi) if dataset.doi else None),
        ("Described by", [tag("span", out(one), class_="item") for one in dataset.references]
         or None),
        ("Note", dataset.note),
    ])  # fmt: skip
    heads = [
        Head("Recording", "recording"), Head("File", "file"), Head("Subject", "subject"),
        Head("Task", "task"), Head("Role", "role"), Head("Size", "size", True),
        Head("Hash", "hash"),
    ]  # fmt: skip
    rows = [row(_asset_cells(dataset, asset)) for asset in dataset.assets]
    yield table(f"Files of {dataset.id}", heads, [Body(rows)])


def _origin(dataset: Dataset) -> Child:
    source, words = dataset.source, describe_source(dataset.source)
    if source.kind == "dandi":
        return out(f"https://dandiarchive.org/dandiset/{source.dandiset}/{source.version}", words)
    if source.kind == "zenodo":
        return out(f"https://zenodo.org/records/{source.record}", words)
    return out(words)


def _asset_cells(dataset: Dataset, asset: Asset) -> list[Cell]:
    pin = f"sha256:{asset.sha256}" if asset.sha256 else f"md5:{asset.md5}" if asset.md5 else None
    return [
        Cell(dataset.recording_id(asset)), Cell(asset.path), Cell(asset.subject or DASH),
        Cell(asset.task or DASH), Cell(asset.role), Cell(size(asset.size), asset.size, True),
        Cell(tag("code", pin) if pin else DASH),
    ]  # fmt: skip


def _absent(manifest: Manifest) -> Markup | None:
    if not manifest.absent:
        return None
    heads = [
        Head("Dataset", "dataset"), Head("Why", "why"), Head("Licence", "licence"),
        Head("Sessions", "sessions", True), Head("Units", "units", True), Head("Cite as", "cite"),
    ]  # fmt: skip
    rows = [
        row([
            Cell(out(one.url, one.title)), Cell(one.reason), Cell(one.licence),
            Cell(count(one.sessions), one.sessions, True), Cell(count(one.units), one.units, True),
            Cell(one.citation),
        ])
        for one in manifest.absent
    ]  # fmt: skip
    words = "Recordings that belong to the publication and that this manifest does not fetch"
    return section("Absent", table(words, heads, [Body(rows)]))
