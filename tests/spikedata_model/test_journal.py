from __future__ import annotations

import math

import pytest

from spikedata_model.config import TrainConfig
from spikedata_model.journal import Journal, best_row, has_stalled, peak_memory


def test_a_row_holds_the_mean_loss_the_speed_and_the_time_left_since_the_row_before():
    journal = Journal(total_steps=10)
    for loss, tokens, seconds in ((3.0, 100, 0.5), (1.0, 300, 1.5)):
        journal.add(loss, tokens, seconds)
    journal.add_row({"r2 lab/a hand x": 0.5, "r2 lab/a hand y": 0.25})
    journal.add(0.5, 900, 1.0)
    journal.add_row({})
    first, second = journal.curve

    assert (first["step"], first["seconds"], first["loss"]) == (2, 2.0, 2.0)
    assert (first["tokens_per_s"], first["seconds_left"]) == (200.0, 8.0)
    assert first["mean r2"] == 0.375
    assert (second["step"], second["seconds"], second["loss"]) == (3, 3.0, 0.5)
    assert (second["tokens_per_s"], second["seconds_left"]) == (900.0, 7.0)
    assert "mean r2" not in second


def test_a_journal_goes_on_where_another_stopped():
    journal = Journal(10, 4, 8.0, [{"step": 3, "loss": 1.0}], [5.0])
    journal.add(3.0, 10, 1.0)
    journal.add_row({})

    assert journal.curve[-1]["loss"] == 4.0
    assert (journal.step, journal.seconds) == (5, 9.0)
    assert journal.curve[-1]["seconds_left"] == 5.0  # as fast as the step of this process


def test_a_channel_without_a_score_does_not_spoil_the_mean():
    journal = Journal(2)
    for scores in ({"r2 a": math.nan, "r2 b": 0.5}, {"r2 a": math.nan}):
        journal.add(1.0, 1, 1.0)
        journal.add_row(scores)

    assert journal.curve[0]["mean r2"] == 0.5
    assert math.isnan(journal.curve[1]["mean r2"])


def test_the_line_says_loss_score_speed_and_memory_behind_the_first_comma():
    """What stands before it names the bar of the progress."""
    journal = Journal(total_steps=4)
    assert journal.line().split(",")[0] == "training"
    journal.add(1.25, 12_300, 1.0)
    assert "loss 1.250, 12,300 tokens/s" in journal.line()
    journal.add_row({"r2 a": 0.75})
    journal.add(0.5, 1000, 1.0)

    assert "loss 0.500, R² 0.750, 1,000 tokens/s" in journal.line()
    assert journal.line().endswith(" MB")


def test_the_memory_held_is_at_least_that_of_an_array_of_this_process():
    before = peak_memory()["memory_mb"]
    held = bytearray(b"x") * 64_000_000
    after = peak_memory()["memory_mb"]

    assert len(held) == 64_000_000
    assert after >= max(before, 64)
    assert after == pytest.approx(after, rel=0)  # a number, not nan


def curve_of(*scores: float | None) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = [{"step": 10 * n} for n in range(1, len(scores) + 1)]
    return [
        row | ({} if one is None else {"mean r2": one})
        for row, one in zip(rows, scores, strict=True)
    ]


@pytest.mark.parametrize(
    ("curve", "best"),
    [
        (curve_of(), None),
        (curve_of(None, math.nan), None),
        (curve_of(-5.0), 0),
        (curve_of(None, 0.2, math.nan, 0.3, 0.3), 3),  # of equal ones the first
    ],
)
def test_the_best_row_is_the_first_with_the_highest_score(curve, best):
    assert best_row(curve) == best


@pytest.mark.parametrize("patience", range(5))
def test_a_run_stalls_when_so_many_rows_brought_nothing_better(patience):
    scores = [0.1, 0.4, math.nan, 0.4, 0.2, 0.5]
    settings = TrainConfig(steps=100, patience=patience)
    stalled = [has_stalled(curve_of(*scores[:rows]), settings) for rows in range(7)]

    # The second row is the best one until the sixth.
    assert stalled == [patience > 0 and rows - 2 >= patience and rows < 6 for rows in range(7)]


@pytest.mark.parametrize(("frozen", "rows"), [(0.0, 3), (0.35, 5), (0.4, 6), (1.0, 3)])
def test_rows_of_frozen_steps_do_not_count_unless_all_are(frozen, rows):
    """The first of ten rows stays the best: a run stalls two rows after it, or after thawing."""
    settings = TrainConfig(steps=100, patience=2, frozen=frozen)
    curve = curve_of(0.9, *[0.1] * 9)

    stalled = [has_stalled(curve[:length], settings) for length in range(1, 11)]
    assert stalled.index(True) + 1 == rows
