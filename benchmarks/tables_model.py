"""The tables of the model's benchmarks: training, time to a useful model, ablations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def name_of(mode: str, source: str) -> str:
    """Return how a case of `bench_train.py` is called."""
    text = {"dropout": "training", "plain": "training without dropout", "inference": "inference"}
    return text[mode] + ", with loading" * (source == "loaded")


def aim_rows(aims: Sequence[dict]) -> list[str]:
    """Return the lines of a table: what was aimed at, and what was measured."""
    lines = ["| aim | wanted | measured | met |", "|---|--:|--:|---|"]
    for one in aims:
        wanted = f"{'at least' if one['least'] else 'less than'} {round(one['aim'], 3):,g}"
        digits = ",.0f" if one["measured"] >= 10 else ".3g"
        met = "yes" if one["met"] else "no"
        lines.append(f"| {one['what']} | {wanted} | {one['measured']:{digits}} | {met} |")
    return lines


# ------------------------------------------------------------------ training


def train_table(result: dict) -> str:
    """Return windows per second and memory of both sides, the matrix rate, and the aims."""
    rates = {name: float(np.median(found)) for name, found in result["matrix_rate"].items()}
    other = {
        tuple(row[name] for name in ("size", "mode", "source", "precision")): row
        for row in result["rows"]
        if row["side"] == "torch_brain"
    }
    lines = [
        "| model | what | precision | ours, windows/s | tokens/s | ms a step "
        "| torch_brain, windows/s | times as fast | of the matrix rate, ours / torch_brain "
        "| peak MB | torch_brain | of its peak |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        if row["side"] == "ours":
            key = tuple(row[name] for name in ("size", "mode", "source", "precision"))
            lines.append(_train_row(row, other.get(key), rates[row["precision"]]))
    measured = ", ".join(f"{rate / 1e9:,.0f} in {name}" for name, rate in rates.items())
    settings, machine = result["settings"], result["machine"]
    where = settings.get("gpu") or f"{settings['threads']} cores ({machine['processor']})"
    lines += [
        f"\nBatches of {settings['batch_size']:,} windows. A large matrix product here runs at "
        f"{measured} (GFLOP/s). Medians of {settings['blocks']} blocks (range), of "
        f"{settings['large_blocks']} for the large model; {where}; torch "
        f"{result['versions']['torch']}; commit `{result['commit'][:10]}`.",
        "",
        *aim_rows(result["aims"]),
    ]
    return "\n".join(lines)


def _train_row(row: dict, beside: dict | None, rate: float) -> str:
    ours, peak = float(np.median(row["windows_s"])), row["peak_bytes"]
    share = [f"{ours * row['flops_window'] / rate:.2f}"]
    theirs = times = their_peak = of_peak = ""
    if beside is not None:
        speed = float(np.median(beside["windows_s"]))
        share.append(f"{speed * row['flops_window'] / rate:.2f}")
        theirs, times = f"{speed:,.3g}", f"{ours / speed:.2f}"
        their_peak = f"{beside['peak_bytes'] / 1e6:,.0f}"
        of_peak = f"{peak / beside['peak_bytes']:.2f}"
    cells = [
        row["size"], name_of(row["mode"], row["source"]), row["precision"],
        f"{_plain(ours)} ({_plain(min(row['windows_s']))} to {_plain(max(row['windows_s']))})",
        f"{np.median(row['tokens_s']):,.0f}", f"{row['step_ms']:,.0f}", theirs, times,
        " / ".join(share), f"{peak / 1e6:,.0f}", their_peak, of_peak,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _plain(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"


# ------------------------------------------------------------------ time to a useful model


def useful_table(result: dict) -> str:
    """Return how soon each side passed the linear filters on each recording."""
    lines = [
        "| recording | Wiener R² (causal, centred) | decoder | parameters "
        "| setting chosen on valid | passes both after, s (range) | runs that never do "
        "| R² at the end (range) |",
        "|---|--:|---|--:|---|--:|--:|--:|",
    ]
    for task in result["tasks"]:
        level = ", ".join(f"{np.mean(one['r2']):.3f}" for one in task["floor"].values())
        for side in task["sides"]:
            cells = [f"`{task['recording']}`", level, side["side"].replace("ours", "POYO, ours"),
                     *_useful_cells(side, result)]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    machine = result["machine"]
    unfinished = f" {result['missing']} or more runs are missing." if result["missing"] else ""
    lines.append(
        f'\nEach setting once, the best on the split "valid" with {len(result["seeds"])} seeds, '
        f"at most {result['seconds']:g} s of training each, evaluations not counted; R² on the "
        f'split "test", mean over channels, but every channel has to pass. {machine["threads"]} '
        f"threads, {machine['processor']}; torch {result['versions']['torch']}; commit "
        f"`{result['commit'][:10]}`.{unfinished}"
    )
    bases = {side["side"]: side["base"] for task in result["tasks"] for side in task["sides"]}
    shared = "; ".join(f"{name} `{base}`" for name, base in bases.items())
    lines.append(f"\nIn all settings: {shared}.")
    return "\n".join(lines)


def _useful_cells(side: dict, result: dict) -> list[str]:
    found = side["summary"]
    if found is None:
        return ["", "not finished", "", "", ""]
    tried = len({one["setting"] for one in side["runs"]})
    median = "" if found["median_s"] is None else f"{found['median_s']:.0f}"
    if found["range_s"] is not None:
        median += f" ({found['range_s'][0]:.0f} to {found['range_s'][1]:.0f})"
    r2 = found["r2"]
    return [
        f"{found['parameters']:,}",
        f"`{side['best'].strip()}`, of {tried}",
        median or f"not in {result['seconds']:g}",
        f"{found['never']} of {found['runs']}",
        f"{np.mean(r2):.3f} ({min(r2):.3f} to {max(r2):.3f})",
    ]


# ------------------------------------------------------------------ ablations


def ablation_table(result: dict) -> str:
    """Return one row a change, for each recording."""
    lines = []
    for task in result["tasks"]:
        lines += [
            f"`{task['recording']}`, Wiener filters {np.mean(task['level']):.3f}:",
            "",
            "| change | settings | parameters | ms a step | training s "
            "| passes the filters after, s | R² on valid | R² on test |",
            "|---|---|--:|--:|--:|--:|--:|--:|",
            *(_ablation_row(row) for row in task["rows"]),
            "",
        ]
    machine = result["machine"]
    unfinished = f" {result['missing']} rows are missing." if result["missing"] else ""
    lines.append(
        f"Preset `{result['preset']}`, seeds {', '.join(map(str, result['seeds']))}, at most "
        f"{result['seconds']:g} s; {machine['threads']} threads, {machine['processor']}; commit "
        f"`{result['commit'][:10]}`.{unfinished}"
    )
    return "\n".join(lines)


def _ablation_row(row: dict) -> str:
    passed = ", ".join("never" if one is None else f"{one:.0f}" for one in row["seconds_until"])
    settings = f"`{row['setting']}`" if row["setting"] else ""
    r2 = [", ".join(f"{one:.3f}" for one in row[name]) for name in ("valid_r2", "r2")]
    seconds = f"{np.median(row['seconds']):.0f}"
    cells = [row["change"], settings, f"{row['parameters']:,}", f"{row['step_ms']:.0f}", seconds,
             passed, *r2]  # fmt: skip
    return f"| {' | '.join(cells)} |"
