"""Every error that a caller of spikedata can meet.

SpikedataError
├── ManifestError (ValueError)          a manifest is missing, malformed or contradicts itself
├── FetchError (OSError)                an asset could not be brought here
│   ├── HashMismatchError               its bytes are not the pinned ones
│   └── UnreachableError                every attempt failed, and another one later may not
├── HarmonizeError (ValueError)         a file cannot be turned into a recording
│   └── CheckFailedError                a harmonised recording breaks an invariant
├── StoreError (OSError)                the store cannot be read or written
│   ├── FormatVersionError              written by a newer spikedata
│   ├── IntegrityError                  bytes differ from those that were written
│   └── RecordingNotFoundError (KeyError)  no such recording in this store
├── IntervalError (ValueError)          an interval or interval set is malformed
├── ExecutorError (RuntimeError)        work cannot run where it was asked to
├── ViewError (ValueError)              a recording or a store cannot be shown as asked
└── SamplingError (ValueError)          windows cannot be drawn as asked

A message says where, what was expected, what was found, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckFailedError",
    "ExecutorError",
    "FetchError",
    "FormatVersionError",
    "HarmonizeError",
    "HashMismatchError",
    "IntegrityError",
    "IntervalError",
    "ManifestError",
    "RecordingNotFoundError",
    "SamplingError",
    "SpikedataError",
    "StoreError",
    "UnreachableError",
    "ViewError",
    "did_you_mean",
]


class SpikedataError(Exception):
    """Base of all errors raised on purpose by spikedata.

    ``exit_code`` is what the command line ends with: 2 for a mistake in what was asked,
    1 for work that failed.
    """

    exit_code = 1


class ManifestError(SpikedataError, ValueError):
    """A manifest is missing, malformed or contradicts itself."""

    exit_code = 2


class FetchError(SpikedataError, OSError):
    """An asset could not be brought to this machine."""


class HashMismatchError(FetchError):
    """The bytes of an asset are not the pinned ones."""


class UnreachableError(FetchError):
    """A server failed every attempt; later it may not."""


class HarmonizeError(SpikedataError, ValueError):
    """A file cannot be turned into a recording."""


class CheckFailedError(HarmonizeError):
    """A harmonised recording breaks an invariant."""


class StoreError(SpikedataError, OSError):
    """The store cannot be read or written."""


class FormatVersionError(StoreError):
    """A recording was written by a newer spikedata."""


class IntegrityError(StoreError):
    """The bytes of a recording differ from those that were written."""


class RecordingNotFoundError(StoreError, KeyError):
    """The store holds no recording of that name."""

    exit_code = 2


class IntervalError(SpikedataError, ValueError):
    """An interval or an interval set is malformed."""


class ExecutorError(SpikedataError, RuntimeError):
    """Work cannot run where it was asked to: no such executor, or its processes do not start."""

    exit_code = 2


class ViewError(SpikedataError, ValueError):
    """A recording or a store cannot be shown as asked: no such table, a mistaken query."""

    exit_code = 2


class SamplingError(SpikedataError, ValueError):
    """Windows cannot be drawn as asked."""

    exit_code = 2


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a clause that helps with a mistyped name, or lists what there is.

    Examples
    --------
    >>> did_you_mean("sampel", ["sample", "nhp7"])
    "did you mean 'sample'?"
    >>> did_you_mean("x", ["sample", "nhp7"])
    'there are: nhp7, sample'
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"there are: {', '.join(names)}" if names else "there are none"
