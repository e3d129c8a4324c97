"""The table of `bench_latency.py`."""

from __future__ import annotations

from tables_model import aim_rows

__all__ = ["latency_table"]


def latency_table(result: dict) -> str:
    """Return the percentiles of a step's milliseconds on both sides, their floor, and the aims."""
    other = {
        (row["size"], row["units"], row["precision"]): row
        for row in result["rows"]
        if row["side"] == "torch_brain"
    }
    lines = [
        "| model | units | precision | p50, ms | p99 | longest | floor, ms | torch_brain, p50 "
        "| p99 | times as fast (p50) |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        if row["side"] != "ours":
            continue
        theirs = other.get((row["size"], row["units"], row["precision"]))
        beside = ["", "", ""]
        if theirs is not None:
            times = theirs["p50_ms"] / row["p50_ms"]
            beside = [f"{theirs['p50_ms']:.1f}", f"{theirs['p99_ms']:.1f}", f"{times:.1f}"]
        cells = [row["size"], f"{row['units']:,}", row["precision"], f"{row['p50_ms']:.2f}",
                 f"{row['p99_ms']:.2f}", f"{row['max_ms']:.2f}", f"{row['floor_ms']:.2f}",
                 *beside]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    measured = ", ".join(
        f"{rate / 1e9:,.0f} in {name}" for name, rate in result["matrix_rate"].items()
    )
    settings, machine = result["settings"], result["machine"]
    lines += [
        f"\nSteps of {settings['step_s'] * 1e3:g} ms on one core ({machine['processor']}), "
        f"{settings['steps']:,} of them ({settings['large_steps']:,} of the large model, at most "
        f"{settings['their_steps']:,} of torch_brain's) after a warm-up and without pauses, "
        f"{settings['rate_hz']:g} spikes a second and unit. A square matrix product runs at "
        f"{measured} (GFLOP/s); torch {result['versions']['torch']}; commit "
        f"`{result['commit'][:10]}`.",
        "",
        *aim_rows(result["aims"]),
    ]
    return "\n".join(lines)
