"""The figures of `bench_adapt.py` and `bench_scaling.py`, each as the bytes of a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spikedata_model.figures import _png as png
from spikedata_model.figures import _tidy as tidy

# Okabe and Ito: safe for colour-blind eyes. Pretrained are filled marks, the others open ones.
STYLE = {
    "unit-id": ("#0072b2", "o", "unit identification"),
    "gradual": ("#56b4e9", "s", "gradual"),
    "full": ("#009e73", "^", "full"),
    "scratch": ("#d55e00", "o", "from scratch, same shape"),
    "scratch, small": ("#e69f00", "s", "from scratch, small"),
    "Wiener filter": ("#777777", "x", "Wiener filter"),
}
OPEN = ("scratch", "scratch, small")
SEEDS = ("#0072b2", "#009e73", "#d55e00", "#e69f00", "#56b4e9")
LOWEST = -0.3  # R² below is drawn here


def adapt_figure(result: dict) -> bytes:
    """Draw R² by share of the labels for each family, and unit identification by step."""
    names = list(dict.fromkeys(one["family"] for one in result["summary"]))
    figure = Figure(figsize=(4.3 * (len(names) + 1), 3.9), layout="constrained")
    *panels, last = figure.subplots(1, len(names) + 1, squeeze=False)[0]
    for axis, name in zip(panels, names, strict=True):
        _shares(axis, name, [one for one in result["summary"] if one["family"] == name])
    if panels:
        panels[0].set_ylabel("R² on the test split")
        panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    _steps(last, names, result)
    return png(figure)


def _shares(axis: Any, name: str, rows: Sequence[dict]) -> None:
    for place, (method, (colour, mark, label)) in enumerate(STYLE.items()):
        mine = [(one["share"], one["r2"][method]) for one in rows if method in one["r2"]]
        if not mine:
            continue
        # A little beside each other: ranges would cover each other.
        share = np.array([share for share, _ in mine]) * 1.03 ** (place - 2.5)
        mean, low, high = (
            np.array([of(values) for _, values in mine]) for of in (np.mean, min, max)
        )
        mean, low, high = (np.maximum(one, LOWEST) for one in (mean, low, high))
        reach = [mean - low, high - mean]
        face = "none" if method in OPEN else colour
        axis.errorbar(share, mean, reach, fmt=f"{mark}-", color=colour, markerfacecolor=face,
                      markersize=4.5, linewidth=1.2, elinewidth=0.9, label=label)  # fmt: skip
    axis.set_xscale("log")
    ticks = [one["share"] for one in rows]
    axis.set_xticks(ticks, [f"{100 * one:g} %" for one in ticks])
    axis.minorticks_off()
    axis.set_ylim(LOWEST, 1)
    axis.set_xlabel("labels of the new session")
    axis.set_title(name, fontsize=10)
    tidy(axis)


def _steps(axis: Any, names: Sequence[str], result: dict) -> None:
    steps = result["curve_steps"]
    for colour, name in zip(SEEDS, names, strict=False):
        for one in result["families"]:
            if one["family"] == name and one["curve"]:
                axis.plot(steps, one["curve"], "o-", color=colour, markersize=3, linewidth=1.2)
        axis.plot([], [], "o-", color=colour, markersize=3, label=f"{name}, a seed each")
    for dash, (name, curve) in zip(("--", ":"), result["published"].items(), strict=False):
        if len(curve) == len(steps):
            axis.plot(steps, curve, dash, color="#1a1a1a", linewidth=1.2, label=f"POYO-1, {name}")
    axis.set_xlabel("steps of unit identification, all labels")
    axis.set_ylim(LOWEST, 1)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    tidy(axis)


def scaling_figure(result: dict) -> bytes:
    """Draw R² by number of sessions, a line for each size: sessions trained on, and a new one."""
    figure = Figure(figsize=(8.6, 3.7), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    sizes = list(dict.fromkeys(row["size"] for row in result["rows"]))
    ticks = list(dict.fromkeys(row["sessions"] for row in result["rows"]))
    for axis, key, title in zip(
        axes,
        ("r2", "held_out_r2"),
        ("sessions that were trained on", "new session, unit identification"),
        strict=True,
    ):
        for colour, size in zip(SEEDS, sizes, strict=False):
            mine = [row for row in result["rows"] if row["size"] == size]
            counts = list(dict.fromkeys(row["sessions"] for row in mine))
            values = [[row[key] for row in mine if row["sessions"] == one] for one in counts]
            mean = [float(np.mean(one)) for one in values]
            label = f"{size}, {mine[0]['parameters'] / 1e6:.2f} M"
            axis.plot(counts, mean, "o-", color=colour, markersize=4, label=label)
            for count, one in zip(counts, values, strict=True):
                axis.plot([count] * len(one), one, "_", color=colour, markersize=7)
        axis.set_xscale("log")
        axis.set_xticks(ticks, [str(one) for one in ticks])
        axis.minorticks_off()
        axis.set_xlabel("sessions in pretraining")
        axis.set_title(title, fontsize=10)
        tidy(axis)
    axes[0].set_ylabel("R² on the test split")
    axes[0].legend(frameon=False, fontsize=8, loc="lower right", title="weights without tables")
    return png(figure)
