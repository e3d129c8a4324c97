"""Write the leaderboard as a folder of static pages, which needs no server and loads nothing.

Every address is relative, so the folder can be opened where it lies or copied below any address.
What is written depends on what is given alone: the same results make the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from spikedata.files import sha256_of, write_whole
from spikedata.manifest import Manifest, list_manifests, load_manifest
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.published import Published
from spikedata_model.leaderboard.result import Result
from spikedata_model.leaderboard.site_board import Board, board_of
from spikedata_model.leaderboard.site_data import data_page, manifest_page
from spikedata_model.leaderboard.site_pages import index_page, suite_page, suites_page
from spikedata_model.leaderboard.site_parts import ICON, SCRIPT, STYLE
from spikedata_model.leaderboard.site_run import run_page
from spikedata_model.leaderboard.suite import Suite, list_suites, load_suite

__all__ = ["TITLE", "write_site"]

TITLE = "Spike decoding leaderboard"
LIST = "site-files.json"  # what a run of this module wrote, by path, with the SHA-256 of each
ASSETS = (STYLE, SCRIPT, ICON)


def write_site(
    results: Sequence[Result],
    folder: Path,
    *,
    published: Sequence[Published] = (),
    suites: Iterable[Suite] | None = None,
    manifests: Iterable[Manifest] | None = None,
    title: str = TITLE,
) -> list[Path]:
    """Write a static site of results.

    Pages of a former call that are not written again are removed from the folder, if they are still
    what it wrote; nothing else in the folder is touched.

    Parameters
    ----------
    results : sequence of Result
        In any order. A result of a suite that is not among `suites` is shown too; one whose
        ``suite_sha256`` is not that of the suite is shown, and not ranked.
    folder : Path
        Made if it is missing.
    published : sequence of Published
        Numbers of other papers, which stand apart from the results.
    suites, manifests : iterables, optional
        Those that come with the packages where not given.
    title : str
        Heading of the first page.

    Returns
    -------
    list of Path
        The files of the site, sorted.

    Raises
    ------
    SuiteError
        If a file that this function did not write is in the way of a page.
    OSError
        If the folder cannot be written to.
    """
    if suites is None:
        suites = [load_suite(name) for name in list_suites()]
    if manifests is None:
        manifests = [load_manifest(name) for name in list_manifests()]
    pages = dict(_pages(board_of(results, suites, published, manifests, title)))
    content = {name: text.encode("utf-8", "replace") for name, text in sorted(pages.items())}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    folder.mkdir(parents=True, exist_ok=True)
    before = _listed(folder)
    _check_room(folder, content.keys() - before.keys())
    # Listed before they are written, so that a run that was stopped leaves nothing unknown.
    _write_list(folder, {name: [*before.get(name, []), one] for name, one in hashes.items()},
                {name: kept for name, kept in before.items() if name not in hashes})  # fmt: skip
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        write_whole(path, data, sync=False)
    for name in before.keys() - content.keys():
        _remove(folder, name, before[name])
    _write_list(folder, {name: [one] for name, one in hashes.items()}, {})
    return sorted(folder / name for name in (*content, LIST))


def _pages(board: Board) -> Iterator[tuple[str, str]]:
    """Yield every file of the site with its text."""
    here = Path(__file__).parent / "site"
    for name in ASSETS:
        yield name, (here / PurePosixPath(name).name).read_text(encoding="utf-8")
    yield "index.html", index_page(board)
    yield "suites.html", suites_page(board)
    yield "data.html", data_page(board)
    for shelf in board.shelves:
        yield shelf.page, suite_page(board, shelf)
        for run in shelf.runs:
            yield run.page, run_page(board, shelf, run)
            yield f"run/{run.stem}.json", run.json
    for stem, manifest in board.manifests:
        yield f"data/{stem}.html", manifest_page(board, stem, manifest)


# ------------------------------------------------------------------ what was written before


def _listed(folder: Path) -> dict[str, list[str]]:
    """Return the files that were written before, with the hashes that they may have."""
    path = folder / LIST
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["files"]
        listed = {str(name): [str(one) for one in hashes] for name, hashes in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SuiteError(
            f"{path} is not the list of files that a site has ({error}): restore it, or write the "
            "site into an empty folder."
        ) from None
    return {name: hashes for name, hashes in listed.items() if _is_inside(folder, name)}


def _is_inside(folder: Path, name: str) -> bool:
    """Return whether a path is of a file that the site could have written."""
    steps = PurePosixPath(name).parts
    if not 1 <= len(steps) <= 2 or any(one in ("..", "/", "") or "\\" in one for one in steps):
        return False
    return (folder / name).parent.resolve().is_relative_to(folder.resolve())


def _check_room(folder: Path, new: Iterable[str]) -> None:
    """Refuse to write over files that are somebody else's."""
    taken = sorted(name for name in new if (folder / name).exists() or (folder / name).is_symlink())
    outside = sorted(name for name in new if not _is_inside(folder, name))
    if taken or outside:
        raise SuiteError(
            f"{folder} has {(taken or outside)[0]}, which was not written as a page of a site: "
            "move it away, or write the site into another folder."
        )


def _remove(folder: Path, name: str, hashes: list[str]) -> None:
    """Remove a page of a former run, unless somebody has changed it since."""
    path = folder / name
    if path.is_file() and not path.is_symlink() and sha256_of(path) in hashes:
        path.unlink()


def _write_list(folder: Path, files: dict[str, list[str]], stale: dict[str, list[str]]) -> None:
    text = json.dumps({"files": files | stale}, indent=1, sort_keys=True)
    write_whole(folder / LIST, text + "\n", sync=False)
