"""The pictures of a report, each as the bytes of a PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spikedata.recording import Recording
from spikedata_model.evaluate import Prediction, Score

__all__ = ["curve_figure", "raster_figure", "score_figure", "trace_figure"]

TRUTH, POYO, WIENER = "#1a1a1a", "#0072b2", "#d55e00"  # Okabe & Ito: safe for colour-blind eyes
RASTER_SECONDS, TRACE_SECONDS = 10.0, 30.0


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _tidy(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def _label(one: Prediction, column: str) -> str:
    return f"{column} ({one.unit})" if one.unit else column


def _liveliest(one: Prediction, seconds: float) -> tuple[float, float]:
    """Return the stretch of the prediction where the target changes most."""
    best = (-1.0, float(one.time[0]))
    for start in np.arange(
        one.time[0], max(one.time[0], one.time[-1] - seconds) + 1e-9, seconds / 2
    ):
        lo, hi = np.searchsorted(one.time, [start, start + seconds])
        if hi - lo > 1:
            change = float(np.mean(np.std(one.truth[lo:hi], axis=0)) * (hi - lo))
            best = max(best, (change, float(start)))
    return best[1], best[1] + seconds


def _with_gaps(time: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples with a nan wherever time jumps, so that no line is drawn across."""
    if len(time) < 3:
        return time, values
    jumps = np.flatnonzero(np.diff(time) > 5 * np.median(np.diff(time))) + 1
    return np.insert(time, jumps, np.nan), np.insert(values, jumps, np.nan)


def raster_figure(recording: Recording, one: Prediction, baseline: np.ndarray) -> bytes:
    """Draw the spikes of all units above the behaviour, true and decoded, of ten seconds."""
    start, end = _liveliest(one, RASTER_SECONDS)
    rows = len(one.columns)
    figure = Figure(figsize=(9, 3.4 + 1.3 * rows), layout="constrained")
    axes = figure.subplots(1 + rows, 1, sharex=True, height_ratios=[2.6] + [1] * rows)
    lo, hi = np.searchsorted(recording.spike_time, [start, end])
    time, unit = recording.spike_time[lo:hi] - start, recording.spike_unit[lo:hi]
    height = max(0.6, min(6.0, 150 / max(1, recording.n_units)))
    axes[0].plot(time, unit, "|", color="#333333", markersize=height, markeredgewidth=0.5)
    axes[0].set_ylim(recording.n_units - 0.5, -0.5)
    axes[0].set_ylabel("unit")
    axes[0].set_title(
        f"{one.recording_id}: {recording.n_units} units, "
        f"{end - start:.0f} s of held-out time from {start:.1f} s", loc="left", fontsize=10
    )  # fmt: skip
    axes[0].spines[["top", "right"]].set_visible(False)
    _draw_traces(axes[1:], one, baseline, start, end)
    axes[-1].set_xlabel(f"time from {start:.1f} s (s)")
    return _png(figure)


def trace_figure(one: Prediction, baseline: np.ndarray, score: Score) -> bytes:
    """Draw decoded against true behaviour over half a minute, a channel a row."""
    start, end = _liveliest(one, TRACE_SECONDS)
    rows = len(one.columns)
    figure = Figure(figsize=(9, 1.0 + 1.9 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, 1, sharex=True))
    _draw_traces(axes, one, baseline, start, end)
    for row, axis in enumerate(axes):
        axis.set_title(
            f"R² on all held-out time: POYO {score.r2_whole[row]:.3f}, "
            f"Wiener filter {score.baseline_r2_whole[row]:.3f}", loc="right", fontsize=9
        )  # fmt: skip
    axes[0].set_title(f"{one.recording_id} {one.target}", loc="left", fontsize=10)
    axes[-1].set_xlabel(f"time from {start:.1f} s (s)")
    return _png(figure)


def _draw_traces(
    axes: np.ndarray, one: Prediction, baseline: np.ndarray, start: float, end: float
) -> None:
    lo, hi = np.searchsorted(one.time, [start, end])
    for row, axis in enumerate(axes):
        for values, colour, width, name in (
            (baseline, WIENER, 0.9, "Wiener filter"),
            (one.predicted, POYO, 1.4, "POYO"),
            (one.truth, TRUTH, 1.6, "true"),
        ):
            time, shown = _with_gaps(one.time[lo:hi] - start, values[lo:hi, row])
            axis.plot(time, shown, color=colour, linewidth=width, label=name,
                      alpha=0.8 if name != "true" else 1.0)  # fmt: skip
        axis.set_ylabel(_label(one, one.columns[row]), parse_math=False)  # the data's own words
        axis.set_xlim(0, end - start)
        _tidy(axis)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[-1].legend(
        handles[::-1], labels[::-1], ncols=3, frameon=False, fontsize=8, loc="upper right",
        bbox_to_anchor=(1.0, -0.18),
    )  # fmt: skip


def curve_figure(
    curve: Sequence[Mapping[str, float]], split: str, baselines: Mapping[str, float]
) -> bytes:
    """Draw R² and loss over the wall time of training.

    Parameters
    ----------
    curve : sequence of mapping
        Rows of the run's learning curve.
    split : str
        Which split the R² is of.
    baselines : mapping of str to float
        Mean R² of the Wiener filter on the scored split, by "recording target".
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    seconds = [row["seconds"] for row in curve]
    names = sorted({name for row in curve for name in row if name.startswith("r2 ")})
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(name.split(" ")[1:3]), []).append(name)
    colours = [POYO, WIENER, "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
    for index, (group, members) in enumerate(groups.items()):
        colour = colours[index % len(colours)]
        means = [float(np.mean([row.get(name, np.nan) for name in members])) for row in curve]
        left.plot(seconds, means, "o-", color=colour, markersize=3, label=group)
        if group in baselines:
            left.axhline(baselines[group], color=colour, linewidth=0.9, linestyle="--")
    left.set_ylim(-0.1, 1.0)
    left.set_ylabel(f"mean R² on split '{split}'")
    if groups:
        left.plot(
            [], [], color="#777777", linewidth=0.9, linestyle="--", label="Wiener filter, test"
        )
        left.legend(frameon=False, fontsize=8, loc="lower right")
    right.plot(seconds, [row["loss"] for row in curve], "o-", color=TRUTH, markersize=3)
    right.set_ylabel("training loss (normalised squared error)")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.set_xlabel("seconds of training")
        axis.set_xlim(left=0)
        _tidy(axis)
    return _png(figure)


def score_figure(scores: Sequence[Score]) -> bytes:
    """Draw the mean R² of POYO and of the baseline for every recording."""
    figure = Figure(figsize=(9, 1.1 + 0.62 * len(scores)), layout="constrained")
    axis = figure.subplots()
    place = np.arange(len(scores))
    for shift, colour, name, values in (
        (-0.19, POYO, "POYO", [one.mean_r2 for one in scores]),
        (0.19, WIENER, "Wiener filter", [one.mean_baseline_r2 for one in scores]),
    ):
        shown = np.clip(values, 0, None)
        axis.barh(place + shift, shown, height=0.36, color=colour, label=name)
        for row, value in enumerate(values):
            axis.text(shown[row] + 0.01, row + shift, f"{value:.3f}", va="center", fontsize=8)
    axis.set_yticks(place, [f"{one.recording_id}\n{one.target}" for one in scores], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.08)
    axis.set_xlabel("R² on held-out time, mean over channels")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return _png(figure)
