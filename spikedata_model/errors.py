"""Errors of the model's side; they join the tree of `spikedata.errors`.

SpikedataError
├── ConfigError (ValueError)            a preset, a setting or a run folder is wrong
├── VocabularyError (KeyError)          a unit or a recording that the model does not know
└── CheckpointError (OSError)           a checkpoint is missing, damaged or of another run
"""

from __future__ import annotations

from spikedata.errors import SpikedataError

__all__ = ["CheckpointError", "ConfigError", "VocabularyError"]


class ConfigError(SpikedataError, ValueError):
    """A preset, a setting or a run folder is wrong."""

    exit_code = 2


class VocabularyError(SpikedataError, KeyError):
    """A unit or a recording that the model does not know."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class CheckpointError(SpikedataError, OSError):
    """A checkpoint is missing, damaged or of another run."""
