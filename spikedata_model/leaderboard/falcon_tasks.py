"""The tasks of FALCON that are decoded from spikes to behaviour, and the names of their sessions.

Facts of ``falcon_challenge`` 1.0.2 (github.com/snel-repo/falcon-challenge, ``config.py``): channels
and columns, bins and tags.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from spikedata.errors import did_you_mean
from spikedata.manifest import load_manifest
from spikedata_model.errors import ConfigError

__all__ = ["BIN", "TASKS", "FalconTask", "falcon_tag", "task_of"]

BIN = 0.02  # s; the benchmark's bin


@dataclass(frozen=True, slots=True)
class FalconTask:
    """A task of the benchmark that is decoded from spikes to behaviour in bins.

    Parameters
    ----------
    manifest : str
        Our manifest of its files.
    target : str
        Name of the behaviour in our recordings: as the files hold it, columns in their order.
    channels : int
        Columns of the counts.
    width : int
        Columns of the behaviour.
    """

    manifest: str
    target: str
    channels: int
    width: int


TASKS = {
    "m1": FalconTask("falcon-m1", "emg", 64, 16),
    "m2": FalconTask("falcon-m2", "finger_velocity", 96, 2),
    "h1": FalconTask("falcon-h1", "arm_velocity", 176, 7),
}
"""The tasks by name, sizes as ``FalconConfig`` says. H2 and B1 have no spikes of units."""


def falcon_tag(task: str, name: str | Path) -> str:
    """Return the tag that the evaluator gives a session.

    Parameters
    ----------
    task : str
        One of `TASKS`.
    name : str or Path
        A file of the archive or of the evaluation server, a recording id of ours, or a tag.

    Raises
    ------
    ConfigError
        If the name holds no session of this task.

    Examples
    --------
    >>> falcon_tag("m2", "falcon_m2/monkeyn_2020-10-19_Run1_held_in_calib")
    'Run1_20201019'
    >>> falcon_tag("h1", "sub-HumanPitt-held-out-calib_ses-19250126T114029.nwb")
    'S6_set_2'
    """
    last = Path(name).name
    tag = None
    if task == "m1" and (found := re.search(r"(?<!\d)\d{8}(?!\d)", last)):
        tag = found[0]
    elif task == "m2":
        run = re.search(r"Run(\d+)", last)
        date = re.search(r"(?<!\d)(\d{4})-?(\d{2})-?(\d{2})(?!\d)", last)
        tag = f"Run{run[1]}_{''.join(date.groups())}" if run and date else None
    elif task == "h1":
        if found := re.search(r"S(\d+)[_-]set[_-](\d+)", last):
            tag = f"S{found[1]}_set_{found[2]}"
        elif found := re.search(r"\d{8}T\d{6}", last):
            tag = _human_sets().get(found[0])
    if tag is None:
        task_of(task)
        raise ConfigError(
            f"'{name}' names no session of FALCON {task.upper()}; expected a file of the "
            "benchmark, a recording id of its manifest, or a tag."
        )
    return tag


@cache
def _human_sets() -> dict[str, str]:
    """Return the tags of H1 by the time that its file names hold: days and their files in order."""
    (dataset,) = load_manifest(TASKS["h1"].manifest).datasets
    found = (re.search(r"\d{8}T\d{6}", asset.path) for asset in dataset.assets)
    days: dict[str, list[str]] = {}
    for time in sorted({one[0] for one in found if one}):
        days.setdefault(time[:8], []).append(time)
    return {
        time: f"S{day}_set_{row}"
        for day, times in enumerate(days.values())
        for row, time in enumerate(times, start=1)
    }


def task_of(name: str) -> FalconTask:
    """Return a task by its name.

    Raises
    ------
    ConfigError
        If it is none of `TASKS`.
    """
    if name not in TASKS:
        raise ConfigError(f"No task of FALCON is called '{name}' here; {did_you_mean(name, TASKS)}")
    return TASKS[name]
