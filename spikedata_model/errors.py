"""Errors of the model's side; they join the tree of `spikedata.errors`.

SpikedataError
├── ConfigError (ValueError)            a preset, a setting or a run folder is wrong
├── VocabularyError (KeyError)          a unit or a recording that the model does not know
├── CheckpointError (OSError)           a checkpoint is missing, damaged or of another run
├── DecodingError (ValueError)          spikes or times that a live decoder cannot take
├── SuiteError (ValueError)             a suite, a decoder's answer or a result does not fit
│   └── LeakError                       something of the test side was seen before
└── TrainingError (ArithmeticError)     a training ran away, or lost one of its processes
"""

from __future__ import annotations

from spikedata.errors import SpikedataError

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DecodingError",
    "LeakError",
    "SuiteError",
    "TrainingError",
    "VocabularyError",
]


class ConfigError(SpikedataError, ValueError):
    """A preset, a setting or a run folder is wrong."""

    exit_code = 2


class TrainingError(SpikedataError, ArithmeticError):
    """A training ran away (no loss, no weights), or one of its processes is gone."""


class VocabularyError(SpikedataError, KeyError):
    """A unit or a recording that the model does not know."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class CheckpointError(SpikedataError, OSError):
    """A checkpoint is missing, damaged or of another run."""


class DecodingError(SpikedataError, ValueError):
    """Spikes or times that a live decoder cannot take."""


class SuiteError(SpikedataError, ValueError):
    """A suite, what a decoder answers, or a result does not fit the others."""

    exit_code = 2


class LeakError(SuiteError):
    """A decoder has seen, or could see, something of the test side."""
