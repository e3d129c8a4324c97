"""The accepted results in a folder: how one gets in, and the tables that they make."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from spikedata.files import write_whole
from spikedata.manifest import describe_validation_error
from spikedata.store import Store
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.guards import check_pretraining
from spikedata_model.leaderboard.predictions import read_predictions
from spikedata_model.leaderboard.result import Result
from spikedata_model.leaderboard.scoring import open_tasks, result_of
from spikedata_model.leaderboard.suite import Suite, list_suites, load_suite

__all__ = ["accept", "rank", "read_result", "read_results", "slug"]

ACCEPTED = "leaderboard"  # where results are put that are accepted, below the present folder
ALIKE = 1e-9  # by which numbers computed again may differ
MOST_BYTES = 256 << 20


def read_result(path: Path) -> Result:
    """Read the JSON of a run.

    Raises
    ------
    SuiteError
        If it cannot be read or is no result.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SuiteError(f"{path} has more than {MOST_BYTES >> 20} MiB: it is no result.")
        return Result.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SuiteError(f"The result {path} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        raise SuiteError(f"{path} is no result: {describe_validation_error(error)}.") from None


def accepted_folder() -> Path:
    """Return the accepted results below the present folder or, without any, those of spikedata."""
    package = Path(__file__).resolve().parent
    beside = (Path(ACCEPTED), package.parent.parent / ACCEPTED, package / "accepted")
    return next((one for one in beside if one.is_dir()), beside[0])


def read_results(folder: Path | None = None) -> list[Result]:
    """Return all results in a folder of accepted ones, in order of suites and names.

    Parameters
    ----------
    folder : Path, optional
        `accepted_folder` when not given.

    Raises
    ------
    SuiteError
        If there is no such folder, or a file in it is no result.
    """
    folder = accepted_folder() if folder is None else folder
    if not folder.is_dir():
        raise SuiteError(
            f"There is no folder {folder} with results; `spikedata leaderboard add` makes one, or "
            "give another with --from."
        )
    return [read_result(path) for path in sorted(folder.glob("*/*.json"))]


def accept(
    result: Result, predictions: Path, store: Store, folder: Path, suite: Suite | None = None
) -> Path:
    """Score predictions again and, if the result says the same of them, put it into a folder.

    Parameters
    ----------
    result : Result
        Of `run_suite` or `score_file`, here or elsewhere.
    predictions : Path
        The file that it is of.
    store : Store
        The recordings.
    folder : Path
        Of the accepted results: ``<suite>/<decoder>.json``. One of the same name is replaced.
    suite : Suite, optional
        The bundled one of the result's name when not given.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    SuiteError
        If the result is of another suite or version of it, of other data or other predictions, its
        scores are not those of the predictions, or it says of its causality what cannot be. All
        differences are named. Also if a result of another decoder has the same file name.
    LeakError
        If it says that it was pretrained on the test side.
    """
    if suite is None:
        if result.suite not in list_suites():
            raise SuiteError(
                f"'{result.decoder}' is of the suite '{result.suite}', which does not come with "
                "spikedata; give its file with --suite."
            )
        suite = load_suite(result.suite)
    elif suite.name in list_suites() and suite.sha256 != load_suite(suite.name).sha256:
        raise SuiteError(
            f"The suite '{suite.name}' that was given is not the one of that name that comes with "
            "spikedata: give yours another name, and run it again."
        )
    if result.pretraining is not None:
        check_pretraining(suite, result.pretraining.recordings)
    tasks = open_tasks(suite, store, list(result.data))
    again = result_of(
        suite, tasks, read_predictions(predictions, suite, tasks), result.decoder,
        kind=result.kind, causality=result.causality,
    )  # fmt: skip
    problems = list(_differences(result, again, suite))
    if problems:
        raise SuiteError(
            f"'{result.decoder}' on '{suite.name}' is not accepted: {'; '.join(problems)}. Run it "
            "again, and add what that wrote."
        )
    path = folder / slug(suite.name) / f"{slug(result.decoder)}.json"
    if path.exists() and (other := read_result(path).decoder) != result.decoder:
        raise SuiteError(
            f"{path} is the result of '{other}', and would be that of '{result.decoder}' too: give "
            "yours another name."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # A picture is not compared but drawn anew: it can show nothing but what was predicted.
    result = result.model_copy(update={"traces": again.traces})
    write_whole(path, result.model_dump_json(indent=1) + "\n")
    return path


def _differences(result: Result, again: Result, suite: Suite) -> Iterable[str]:
    """Yield how a result differs from what its predictions say."""
    if (result.causality == "free") != (not suite.causal):
        kind = "causal" if suite.causal else "not causal"
        yield f"its causality is '{result.causality}', but the suite is {kind}"
    elif result.kind == "predictions" and result.causality == "tested":
        yield "nobody can have tested the causality of a bare file: it is 'claimed'"
    fits = {(name, o.budget, o.seed) for o in result.fitted for name in o.recordings}
    if result.kind != "predictions" and fits != {
        (one.recording_id, one.budget, one.seed) for one in again.scores
    }:
        yield "it says that it was run, but its fits are not those of its predictions"
    for field, what in (
        ("suite", "it is of another suite"),
        ("suite_sha256", "it is of another version of the suite"),
        ("predictions_sha256", "the predictions are others"),
        ("metric", "it has another metric"),
        ("complete", "it says otherwise whether it is complete"),
    ):
        mine, theirs = getattr(result, field), getattr(again, field)
        if mine != theirs:
            yield f"{what} ({mine}, here {theirs})"
    for name, one in again.data.items():
        mine = result.data[name]
        for field in ("source", "samples"):
            if getattr(mine, field) != getattr(one, field):
                yield (
                    f"{name}: the {field} are {getattr(mine, field)}, here {getattr(one, field)}"
                )
    for what, mine, theirs in (
        ("scores", result.scores, again.scores), ("summaries", result.summaries, again.summaries)
    ):  # fmt: skip
        if len(mine) != len(theirs):
            yield f"it has {len(mine)} {what}, its predictions make {len(theirs)}"
            continue
        for one, other in zip(mine, theirs, strict=True):
            if not _alike(one.model_dump(), other.model_dump()):
                named = getattr(one, "recording_id", one.group)
                yield f"the {what} of {named} ({one.budget}) are not those of its predictions"
                break


def _alike(mine: object, theirs: object) -> bool:
    """Return whether two parts of a result are the same but for rounding; nan is nan."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(_alike(mine[k], theirs[k]) for k in mine)
    if isinstance(mine, tuple | list) and isinstance(theirs, tuple | list):
        return len(mine) == len(theirs) and all(map(_alike, mine, theirs))
    if mine is None or theirs is None or isinstance(mine, float) or isinstance(theirs, float):
        one, other = (math.nan if part is None else part for part in (mine, theirs))
        if not (isinstance(one, float) and isinstance(other, float)):
            return False
        both_nan = math.isnan(one) and math.isnan(other)  # null in a file
        return both_nan or math.isclose(one, other, rel_tol=ALIKE, abs_tol=ALIKE)
    return mine == theirs


def slug(name: str) -> str:
    """Return a file name for a decoder; it cannot leave its folder."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip(".-") or "unnamed"


def rank(results: Sequence[Result], suite: Suite) -> list[Result]:
    """Return the results of a suite, the best first.

    The mean over groups of the means with the main budget decides. Last come those that are not
    complete, or of another version of the suite.
    """
    mine = [one for one in results if one.suite == suite.name]
    last = suite.main_budget

    def order(one: Result) -> tuple[bool, float]:
        means = [cell.mean for cell in one.summaries if cell.budget == last]
        mean = sum(means) / len(means) if means else float("nan")
        apart = not one.complete or one.suite_sha256 != suite.sha256
        return apart, -mean if mean == mean else float("inf")

    return sorted(mine, key=order)
