"""The tables of `bench_adapt.py` and `bench_scaling.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def adapt_table(result: dict) -> str:
    """Return R² of every method by family and share, unit identification's lead, and its curve."""
    methods = list(dict.fromkeys(name for one in result["summary"] for name in one["r2"]))
    lines = [
        f"| sessions | labels | {' | '.join(methods)} | unit-id ahead of the better from scratch |",
        "|---|--:|" + "--:|" * (len(methods) + 1),
    ]
    for one in result["summary"]:
        cells = [_mean(one["r2"].get(name, [])) for name in methods]
        lead = ""
        if one["interval"] is not None:
            mean, low, high = one["interval"]
            lead = f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(
            f"| `{one['family']}` | {100 * one['share']:g} % | {' | '.join(cells)} | {lead} |"
        )
    machine, settings = result["machine"], result["settings"]
    unfinished = f" {result['missing']} or more runs are missing." if result["missing"] else ""
    pretrained = "; ".join(
        f"`{name}` {_mean(values)}" for name, values in pretrained_r2(result).items()
    )
    lines += [
        "\nR² on the test split, mean (range) of the seeds "
        f"{', '.join(map(str, result['seeds']))}; the last column is the mean "
        "of the difference and its 95 % interval by Student's t. "
        f"Pretrained, the models decode their own sessions' test splits with {pretrained}. "
        f"Preset `{settings['preset']}`, pretrained with {_lengths(result)}, from scratch "
        f"with `{' '.join(settings['scratch'])}`, adapted with "
        f"{_code(settings['adapt']) or 'the settings of the mode'}. {machine['processor']}; "
        f"torch {result['versions']['torch']}; commit `{result['commit'][:10]}`.{unfinished}",
        "",
        *_curve_rows(result),
    ]
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _code(settings: Sequence[str]) -> str:
    return f"`{' '.join(settings)}`" if settings else ""


def _lengths(result: dict) -> str:
    """Return the settings of each family's pretraining."""
    found = {one["family"]: " ".join(one["settings"]) for one in result["families"]}
    return " and ".join(f"`{settings}` (`{name}`)" for name, settings in found.items())


def pretrained_r2(result: dict) -> dict[str, list[float]]:
    """Return R² of each family's pretrained models, the mean over their sessions."""
    found: dict[str, list[float]] = {}
    for one in result["families"]:
        found.setdefault(one["family"], []).append(float(np.mean(one["pretrained"]["r2"])))
    return found


def _curve_rows(result: dict) -> list[str]:
    """Return R² by step of unit identification, ours and the published ones."""
    steps = result["curve_steps"]
    lines = [f"| steps of unit identification | {' | '.join(map(str, steps))} |",
             "|---|" + "--:|" * len(steps)]  # fmt: skip
    for one in result["families"]:
        if one["curve"]:
            values = " | ".join(f"{value:.3f}" for value in one["curve"])
            lines.append(f"| `{one['family']}`, seed {one['seed']} | {values} |")
    for name, curve in result["published"].items():
        if len(curve) == len(steps):
            values = " | ".join(f"{value:.3f}" for value in curve)
            lines.append(f"| POYO-1, {name}, published | {values} |")
    return lines


def scaling_table(result: dict) -> str:
    """Return one row a size and number of sessions."""
    lines = [
        "| size | weights beside the tables | sessions | steps | R², sessions trained on "
        "| R², new session |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    cells = dict.fromkeys((row["size"], row["sessions"]) for row in result["rows"])
    for size, sessions in cells:
        mine = [one for one in result["rows"] if (one["size"], one["sessions"]) == (size, sessions)]
        own, new = ([one[key] for one in mine] for key in ("r2", "held_out_r2"))
        lines.append(
            f"| {size} | {mine[0]['parameters']:,} | {sessions} | {mine[0]['steps']:,} "
            f"| {_one_or_range(own)} | {_one_or_range(new)} |"
        )
    settings, machine = result["settings"], result["machine"]
    unfinished = f" {result['missing']} cells are missing." if result["missing"] else ""
    lines.append(
        f"\nSynthetic sessions of {settings['synthetic_seconds']:g} s, preset "
        f"`{settings['preset']}`, `{' '.join(settings['pretrain'])}`, seed "
        f"{', '.join(map(str, settings['seeds']))}; the new session by unit "
        f"identification from {settings['share']:.0%} of its labels. "
        f"{machine['processor']}; commit `{result['commit'][:10]}`.{unfinished}"
    )
    return "\n".join(lines)


def _one_or_range(values: Sequence[float]) -> str:
    return f"{values[0]:.3f}" if len(values) == 1 else _mean(values)
