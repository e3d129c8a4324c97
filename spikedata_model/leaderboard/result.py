"""What a run on a suite found, as one JSON file with everything needed to repeat it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue

from spikedata.options import FileModel
from spikedata_model.leaderboard.cost import Cost

__all__ = [
    "Data",
    "Fitted",
    "LeftOut",
    "Machine",
    "Metrics",
    "Pretraining",
    "Result",
    "Score",
    "Summary",
    "Trace",
]

FORMAT_VERSION = 1
# JSON has no nan: what cannot be computed is null in a file.
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class Metrics(FileModel):
    """Scores of one recording on some of its test time.

    Parameters
    ----------
    n_samples, n_trials : int
        What they rest on.
    r2 : tuple of float, length C
        By axis. Empty for rates.
    r2_uniform, r2_weighted : float
        Their mean, and their mean weighted by the variance of the axes.
    bits_per_spike : float, optional
        Of rates: how much better than the mean rates of the scored time itself (as in nlb_tools).
    """

    n_samples: int
    n_trials: int
    r2: tuple[Number, ...] = ()
    r2_uniform: Number = math.nan
    r2_weighted: Number = math.nan
    bits_per_spike: Number | None = None


class Score(FileModel):
    """How one recording was decoded by what was fitted with one budget and seed.

    ``phases`` has "all", the whole test split, and each interval table that is scored; ``score`` is
    the suite's metric on its ``evaluate_on`` ("all" where it names none).
    """

    group: str
    recording_id: str
    budget: str
    seed: int
    labelled_seconds: float  # of the training split
    score: Number
    phases: dict[str, Metrics]


class Summary(FileModel):
    """One cell of the table: a group with one budget.

    ``mean`` is over recordings, of each of which the mean over seeds is taken; ``sd`` is over
    recordings (population: nan for one). ``low`` and ``high`` are the 95 % interval of the
    bootstrap over trials and seeds, see docs/scores.md.
    """

    group: str
    budget: str
    mean: Number
    sd: Number
    low: Number
    high: Number
    n_recordings: int
    n_seeds: int
    labelled_seconds: float  # mean over recordings and seeds


class LeftOut(FileModel):
    """A recording without the labels that a budget asks for: no decoder is run with it there."""

    recording_id: str
    budget: str
    reason: str


class Fitted(FileModel):
    """How a decoder was fitted to one recording (or, with ``fit = "together"``, to all)."""

    recordings: tuple[str, ...]
    budget: str
    seed: int
    fit_seconds: float
    predict_seconds: float
    decoded_seconds: float  # of neural time
    about: dict[str, JsonValue] = Field(default_factory=dict)


class Data(FileModel):
    """The data of one recording, by hash."""

    source: str  # "sha256:…" or "md5:…" of the file
    fingerprint: str  # of the files in the store
    samples: str  # SHA-256 of the times, true values and scored marks of the test samples


class Pretraining(FileModel):
    """What a decoder had seen before."""

    recordings: tuple[str, ...]
    weights: str = ""  # SHA-256


class Trace(FileModel):
    """A few seconds of truth and estimate, for a picture: of the main budget and the first seed."""

    recording_id: str
    columns: tuple[str, ...]
    unit: str
    time: tuple[float, ...]
    truth: tuple[tuple[Number, ...], ...]  # by channel
    predicted: tuple[tuple[Number, ...], ...]


class Machine(FileModel):
    """Where and with what it ran."""

    processor: str
    cores: int
    memory_gb: float
    gpu: str = ""
    system: str
    python: str
    packages: dict[str, str]


class Result(FileModel):
    """A run on a suite.

    Parameters
    ----------
    suite, suite_sha256 : str
        The suite, and the hash of its fields.
    decoder : str
        Its name in the table.
    kind : {"spikedata", "third party", "predictions"}
        Whether it came with spikedata, was run here, or only its predictions are known.
    causality : {"free", "tested", "claimed"}
        "free": the suite is not causal. "tested": estimates did not change when later spikes were
        taken away. "claimed": a file of predictions, of which nobody can know.
    command, commit, spikedata_version, date : str
        How to repeat it. The commit is empty where it is not known, the date is UTC.
    complete : bool
        Whether all recordings, budgets and seeds of the suite were run, but for `left_out`.
    """

    format_version: Literal[1] = FORMAT_VERSION
    suite: str
    suite_sha256: str
    decoder: str
    kind: Literal["spikedata", "third party", "predictions"]
    description: str = ""
    link: str = ""
    causality: Literal["free", "tested", "claimed"]
    complete: bool
    metric: str
    left_out: tuple[LeftOut, ...] = ()
    summaries: tuple[Summary, ...]
    scores: tuple[Score, ...]
    fitted: tuple[Fitted, ...] = ()
    cost: Cost | None = None
    pretraining: Pretraining | None = None
    data: dict[str, Data]
    predictions_sha256: str  # of the numbers, see `spikedata_model.leaderboard.predictions`
    traces: tuple[Trace, ...] = ()
    wall_seconds: float = 0.0
    energy_joules: float | None = None
    machine: Machine | None = None
    command: str = ""
    commit: str = ""
    spikedata_version: str
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
