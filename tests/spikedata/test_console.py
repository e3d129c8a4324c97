"""What a person sees of a long command in a terminal."""

from __future__ import annotations

import re

import pytest

from spikedata.console import progress_bar

LONG = "training, loss 1.034, R² 0.004, 1,116,627 tokens/s, 4,436 MB, GPU 12,345 MB"
USUAL = "training, loss 1.034, R² 0.004, 16,627 tokens/s, 936 MB"


def last_line(text: str) -> str:
    """Return what a terminal shows last, without colours and movements."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return [line for line in re.split(r"[\r\n]", plain) if "training" in line][-1].strip()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("options", [{}, {"in_bytes": True, "total": 10_000}])
def test_the_time_left_is_shown_whole_in_a_terminal_of_any_width(
    monkeypatch, capsys, width, options
):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    with progress_bar(**options) as progress:
        for done in range(3):
            progress(LONG, done, 390_000)

    shown = last_line(capsys.readouterr().err)
    assert re.search(r" (\d+:\d\d:\d\d|-:--:--)$", shown)
    assert len(shown) <= width


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_label_of_a_training_on_a_processor_is_shown_whole(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar() as progress:
        progress(USUAL, 300, 300)

    assert last_line(capsys.readouterr().err).startswith(USUAL)
