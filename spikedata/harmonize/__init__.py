"""Turns source files into recordings: finds the harmoniser of a dataset, runs it, checks."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import cast

from spikedata.checks import run_checks
from spikedata.errors import CheckFailedError, HarmonizeError, IntervalError, did_you_mean
from spikedata.files import Source
from spikedata.manifest import Asset, Dataset
from spikedata.recording import Recording

__all__ = ["Harmonizer", "find_harmonizer", "harmonize"]

Harmonizer = Callable[[Source, Dataset, Asset], Recording]
"""Called with the file, the dataset and the asset; returns the recording."""


def harmonize(source: Source, dataset: Dataset, asset: Asset) -> Recording:
    """Return the recording that an asset's file becomes, after all checks have passed.

    Parameters
    ----------
    source : Path or binary file
        The asset's file on this machine, or an open one that can seek and has a ``name``.
    dataset, asset : Dataset, Asset
        What the manifest says of it.

    Returns
    -------
    Recording
        The harmonised session; what was dropped on the way is counted in ``dropped``.

    Raises
    ------
    HarmonizeError
        If the file cannot be read as the manifest asks.
    CheckFailedError
        If the recording breaks an invariant; the message lists all that it breaks.
    """
    function = find_harmonizer(dataset.harmonize.harmonizer)
    try:
        recording = function(source, dataset, asset)
    except IntervalError as error:  # times that make no sense; it does not know where it was
        raise HarmonizeError(f"{dataset.recording_id(asset)}: {error}") from error
    problems = [found.message for found in run_checks(recording) if found.severity == "error"]
    if problems:
        raise CheckFailedError(
            f"{recording.recording_id}: {len(problems)} check(s) failed: {' '.join(problems)}"
        )
    return recording


def find_harmonizer(name: str) -> Harmonizer:
    """Return a harmoniser by its module in this package, or as ``"package.module:function"``.

    Raises
    ------
    HarmonizeError
        If there is none of that name.
    """
    module_name, _, function_name = name.partition(":")
    known = [found.name for found in pkgutil.iter_modules(__path__)]
    if not function_name and name not in known:
        raise HarmonizeError(
            f"No harmoniser is called '{name}'; {did_you_mean(name, known)} "
            "(or give 'package.module:function')"
        )
    full_name = module_name if function_name else f"{__name__}.{module_name}"
    try:
        module = importlib.import_module(full_name)
    except ModuleNotFoundError as error:
        raise HarmonizeError(f"The harmoniser '{name}' cannot be imported: {error}.") from None
    function = getattr(module, function_name or "harmonize", None)
    if not callable(function):
        raise HarmonizeError(
            f"The module '{full_name}' has no function '{function_name or 'harmonize'}'; "
            "a harmoniser is a function of (path, dataset, asset) that returns a Recording."
        )
    return cast(Harmonizer, function)
