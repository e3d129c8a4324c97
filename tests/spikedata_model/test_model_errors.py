"""Its name is not that of the tests of `spikedata.errors`: pytest wants a name for each file."""

from __future__ import annotations

import pickle

import pytest

from spikedata.errors import SpikedataError
from spikedata_model.errors import (
    CheckpointError,
    ConfigError,
    DecodingError,
    TrainingError,
    VocabularyError,
)


@pytest.mark.parametrize(
    ("error", "builtin", "exit_code"),
    [
        (ConfigError, ValueError, 2),
        (VocabularyError, KeyError, 1),
        (CheckpointError, OSError, 1),
        (DecodingError, ValueError, 1),
        (TrainingError, ArithmeticError, 1),
    ],
)
def test_an_error_is_one_of_ours_and_the_nearest_builtin(error, builtin, exit_code):
    assert issubclass(error, SpikedataError)
    assert issubclass(error, builtin)
    assert error.exit_code == exit_code


@pytest.mark.parametrize(
    "error", [ConfigError, VocabularyError, CheckpointError, DecodingError, TrainingError]
)
def test_a_message_is_shown_as_it_was_written_and_survives_pickling(error):
    """A KeyError would show it in quotes."""
    one = error("No unit 'x'.")

    assert str(one) == "No unit 'x'."
    assert str(pickle.loads(pickle.dumps(one))) == "No unit 'x'."
