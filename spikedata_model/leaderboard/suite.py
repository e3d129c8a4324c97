"""A suite: what is decoded from which recordings, on which time, and how it is scored."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from spikedata.errors import did_you_mean
from spikedata.manifest import describe_validation_error
from spikedata.options import ChronologicalSplit, FileModel, Slug
from spikedata_model.config import Labels
from spikedata_model.errors import SuiteError

__all__ = [
    "Budget",
    "Group",
    "RowSplit",
    "SchemeSplit",
    "Suite",
    "list_suites",
    "load_suite",
]

FORMAT_VERSION = 1

Pin = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Gap = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=1e-4, le=1e6)]
"""A step or a block: one of a nanosecond would fill all memory, and mean nothing."""
Share = Annotated[float, Field(ge=0, lt=1)]


class SchemeSplit(FileModel):
    """The division that a recording has under a name.

    ``valid_from_train``: where the scheme has no validation split, so much of the training time is
    one: its last intervals.
    """

    kind: Literal["scheme"] = "scheme"
    name: Slug
    valid_from_train: Share = 0.0


class RowSplit(FileModel):
    """Rows of an interval table in order of time: the first for training, the last for testing.

    ``where``: values of columns that a row must have, as text. ``longest``: rows of more seconds
    are left out. With ``whole``, training time is everything before the first validation row that
    is at least the suite's ``gap`` away from it; without, the rows alone.
    """

    kind: Literal["rows"] = "rows"
    table: Slug
    train: Positive
    valid: Share
    test: Positive
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    longest: Positive | None = None
    whole: bool = False

    @model_validator(mode="after")
    def _whole(self) -> RowSplit:
        total = self.train + self.valid + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + valid + test must be 1, found {total:g}")
        return self


Split = Annotated[SchemeSplit | RowSplit | ChronologicalSplit, Field(discriminator="kind")]


class Group(FileModel):
    """Recordings that share a column of the table.

    Parameters
    ----------
    name, title : str
        As ``"T-CO"``.
    manifest : str
        A bundled manifest, or the path of one beside the suite's file.
    recordings : dict of str to str
        Recording ids, and the hash of the file that each was made from: ``"sha256:…"``, or
        ``"md5:…"`` where the archive states no other.
    target : str
        The series that is decoded. With ``task = "rates"`` not used.
    evaluate_on : str, optional
        Interval table on which the score is taken; all of the test split when not given.
    phases : tuple of str
        Interval tables that are scored beside it.
    trials : str, optional
        Interval table whose rows are drawn again for the bootstrap; blocks of ``Suite.block`` s
        when not given.
    trials_where : dict of str to tuple of str
        Values of columns, as text, of the rows that a budget of trials counts; all when empty.
    split : Split
        How time is divided.
    gap : float, optional
        The suite's `gap` where it is another one for this group.
    gap_reason : str
        Why it is less than the context, where it is.
    transfer : bool
        Whether the recordings are new ones that a decoder adapts to (label budgets are for these;
        the others keep all of their labels).
    aliases : tuple of str
        Names that the same sessions have elsewhere, for the guard against pretraining on them.
    """

    name: Slug
    title: str = ""
    manifest: str
    recordings: dict[str, Pin] = Field(min_length=1)
    target: Slug = "heldout_counts"
    evaluate_on: Slug | None = None
    phases: tuple[Slug, ...] = ()
    trials: Slug | None = None
    trials_where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    split: Split
    gap: Gap | None = None
    gap_reason: str = ""
    transfer: bool = True
    aliases: tuple[str, ...] = ()


class Budget(FileModel):
    """How many labels of each recording a decoder is given; all of them when nothing is said.

    A share takes so much of the training and of the validation split. With trials or seconds the
    validation split is left out, and a decoder holds out what it needs itself.
    """

    share: Annotated[float, Field(gt=0, le=1)] | None = None
    seconds: Positive | None = None
    trials: Annotated[int, Field(ge=1)] | None = None

    @property
    def name(self) -> str:
        """Short text, as ``"5 %"``, ``"60 s"``, ``"8 trials"`` or ``"all"``."""
        if self.trials is not None:
            return f"{self.trials} trial{'s' if self.trials > 1 else ''}"
        if self.seconds is not None:
            return f"{self.seconds:g} s"
        return "all" if self.share in (None, 1.0) else f"{100 * self.share:g} %"

    def labels(self, table: str, seed: int) -> Labels | None:
        """Return the labels of a training split that this is; None for all of them."""
        if self.name == "all":
            return None
        given = self.model_dump(exclude_none=True)
        return Labels.model_validate({**given, "table": table, "seed": seed})

    @model_validator(mode="after")
    def _one_amount(self) -> Budget:
        given = [one for one in (self.share, self.seconds, self.trials) if one is not None]
        if len(given) > 1:
            raise ValueError("give one of share, seconds and trials, or none of them for all")
        return self


class Suite(FileModel):
    """A protocol: everything that decides a score but the decoder.

    Parameters
    ----------
    name, title, description : str
        For people; `description` says what the protocol is, and where it departs from a paper.
    references : tuple of str
        DOIs or addresses of what it was taken from.
    task : {"behaviour", "rates"}
        Decode a series from spikes, or the counts of held-out units from those of the others.
    causal : bool
        Whether an estimate may rest on the past alone. It is then made every `step` seconds, and a
        sample gets the latest estimate that was there at its time.
    step : float, optional
        Seconds between estimates of a causal suite; bins of a "rates" suite.
    context : float
        Seconds of spikes that a decoder may need around a sample: nothing nearer to a test sample
        is trained on (`gap`).
    gap : float, optional
        Seconds that a test sample keeps from training time; `context` when not given.
    gap_reason : str
        Why it is less than the context, where it is.
    fit : {"each", "together"}
        A decoder of its own for each recording, or one of all recordings.
    budgets : tuple of Budget
        Every one is run.
    seeds : tuple of int
        Every one is run: weights, order and drawn labels.
    metric : {"r2", "r2_weighted", "bits_per_spike"}
        What ranks: R² averaged over axes alike or by their variance, or bits per spike.
    block : float
        Seconds of a bootstrap block where a group names no trials.
    groups : tuple of Group
        The recordings.
    """

    format_version: Literal[1] = FORMAT_VERSION
    name: Slug
    title: str
    description: str
    references: tuple[str, ...] = ()
    task: Literal["behaviour", "rates"] = "behaviour"
    causal: bool = False
    step: Seconds | None = None
    context: Positive = 1.0
    gap: Gap | None = None
    gap_reason: str = ""
    fit: Literal["each", "together"] = "each"
    budgets: tuple[Budget, ...] = (Budget(),)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = (0, 1, 2)
    metric: Literal["r2", "r2_weighted", "bits_per_spike"] = "r2"
    block: Annotated[float, Field(ge=0.01, le=1e6)] = 5.0
    groups: tuple[Group, ...] = Field(min_length=1)
    _path: Path = PrivateAttr(default=Path("."))

    @model_validator(mode="after")
    def _fits_together(self) -> Suite:
        names = [one.name for one in self.groups]
        listed = [name for one in self.groups for name in one.recordings]
        budgets = [one.name for one in self.budgets]
        for what, given in (("groups", names), ("recordings", listed), ("budgets", budgets)):
            twice = sorted({one for one in given if given.count(one) > 1})
            if twice:
                raise ValueError(f"{what} named twice: {', '.join(twice)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different numbers, at least one, found {self.seeds}")
        if not self.budgets:
            raise ValueError("there must be a budget; [{}] is all labels")
        if (self.causal or self.task == "rates") and self.step is None:
            raise ValueError("a causal suite, and one of rates, needs a `step` in seconds")
        if (self.task == "rates") != (self.metric == "bits_per_spike"):
            raise ValueError("the task 'rates' is scored in bits_per_spike, and nothing else is")
        for place, gap, reason in (
            ("", self.reach, self.gap_reason),
            *((f"group {g.name}: ", self.reach_of(g), g.gap_reason or self.gap_reason)
              for g in self.groups),
        ):  # fmt: skip
            if gap < self.context and not reason:
                raise ValueError(
                    f"{place}gap {gap:g} s is less than the context of {self.context:g} s: say "
                    "why in gap_reason"
                )
        return self

    @property
    def reach(self) -> float:
        """Seconds that a test sample keeps from training time."""
        return self.context if self.gap is None else self.gap

    def reach_of(self, group: Group) -> float:
        """Return the seconds that a test sample of a group keeps from training time."""
        return self.reach if group.gap is None else group.gap

    @property
    def recordings(self) -> dict[str, Group]:
        """The group of every recording, by its id, in order."""
        return {name: group for group in self.groups for name in group.recordings}

    @property
    def main_budget(self) -> str:
        """The budget that ranks: all labels or, where no budget is that, the last one."""
        names = [one.name for one in self.budgets]
        return "all" if "all" in names else names[-1]

    @property
    def sha256(self) -> str:
        """SHA-256 of all fields but the words for people: two suites that score alike share it."""
        words = {"title", "description", "references", "gap_reason"}
        fields = self.model_dump(mode="json", exclude=words)
        for group in fields["groups"]:
            del group["title"], group["gap_reason"]
        text = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def manifest_of(self, group: Group) -> str:
        """Return the manifest of a group as `spikedata.manifest.load_manifest` takes it."""
        if group.manifest.endswith(".toml"):
            return str(self._path.parent / group.manifest)
        return group.manifest


def list_suites() -> dict[str, Path]:
    """Return the suites that come with the package, by name."""
    folder = Path(__file__).parent / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_suite(name: str | Path) -> Suite:
    """Read a suite by the name of a bundled one, or by the path of a TOML file.

    Raises
    ------
    SuiteError
        If there is none of that name, or the file is no valid suite; the message lists every
        problem with its place.
    """
    text = str(name)
    bundled = list_suites()
    if text.endswith(".toml") or "/" in text:
        path = Path(text)
    elif text in bundled:
        path = bundled[text]
    else:
        raise SuiteError(
            f"No suite is called '{text}'; {did_you_mean(text, bundled)} "
            "(or give the path of a .toml file)"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        suite = Suite.model_validate(content)
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"The suite {path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"The suite {path} is not valid TOML: {error}.") from None
    except ValidationError as error:
        raise SuiteError(f"{path}: {describe_validation_error(error)}") from None
    suite._path = path.resolve()
    return suite
