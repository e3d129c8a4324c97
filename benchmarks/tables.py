"""Write the tables of README.md and of docs and benchmarks from the files in results/.

python benchmarks/tables.py            # rewrite what stands between the markers
python benchmarks/tables.py --check    # exit 1 if a table is not what the results say
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from tables_adapt import adapt_table, scaling_table
from tables_latency import latency_table
from tables_model import ablation_table, aim_rows, train_table, useful_table

HERE = Path(__file__).resolve().parent
DOCUMENTS = (
    HERE.parent / "README.md", HERE / "README.md", HERE.parent / "docs" / "adapting.md",
    HERE.parent / "docs" / "real-time.md",
)  # fmt: skip


def sample_table(result: dict) -> str:
    """Return R² of POYO and of the Wiener filter by recording: mean over seeds and their range."""
    seconds = [one["train_seconds"] for one in result["runs"]]
    machine = result["machine"]
    lines = [
        "| recording | target | POYO R² (range of seeds) | Wiener filter R² |",
        "|---|---|--:|--:|",
    ]
    for rows in zip(*(one["scores"] for one in result["runs"]), strict=True):
        poyo = np.array([np.mean(row["r2"]) for row in rows])
        floor = np.mean(rows[0]["baseline_r2"])
        lines.append(
            f"| `{rows[0]['recording_id']}` | {rows[0]['target']} | "
            f"{poyo.mean():.3f} ({poyo.min():.3f} to {poyo.max():.3f}) | {floor:.3f} |"
        )
    lines.append(
        f"\nOne model for both recordings, preset `{result['preset']}`, {len(seconds)} seeds, "
        f"{min(seconds):.0f} to {max(seconds):.0f} s of training on {machine['threads']} cores "
        f"({machine['processor']}); mean over channels, last 20 % of the time."
    )
    return "\n".join(lines)


def learning_table(result: dict) -> str:
    """Return one row a decoder: final R², and when it passed the linear decoders."""
    lines = [
        "| decoder | parameters | training s | R² x / y | passes causal Wiener after "
        "| passes centred Wiener after |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, one in result["floor"].items():
        lines.append(f"| {name} | | {one['seconds']:.0f} | {_scores(one['r2'])} | | |")
    for one in result["ours"]:
        label = f"POYO, preset `{one['preset']}`, seed {one['seed']}"
        lines.append(_learning_row(label, one["parameters"], one))
    for one in result["torch_brain"]:
        label = f"torch_brain {one['versions']['torch_brain']}: `{one['arguments']}`"
        lines.append(_learning_row(label, one["parameters"]["all"], one))
    machine = result["machine"]
    lines.append(
        f"\n`{result['recording']}`, first 80 % train, last 20 % test. {machine['threads']} cores, "
        f"{machine['processor']}; torch {result['versions']['torch']}; commit "
        f"`{result['commit'][:10]}`. Evaluations are not counted in the seconds."
    )
    return "\n".join(lines)


def _scores(values: list[float]) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


def _learning_row(label: str, parameters: int, one: dict) -> str:
    last = one["rows"][-1]
    passed = [
        "never" if value is None else f"{value:.0f} s" for value in one["seconds_until"].values()
    ]
    return (
        f"| {label} | {parameters:,} | {last['train_seconds']:.0f} | {_scores(last['r2'])} | "
        f"{' | '.join(passed)} |"
    )


def fetch_table(result: dict) -> str:
    """Return throughput and memory of every tool, for each set of files and rate of the server."""
    lines = [
        "| files | server | tool | s until on the disk | of these start | MB/s | against aria2c "
        "| against curl | peak MB |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in result["sets"]:
        files = f"{one['files']} × {one['bytes'] / one['files'] / 1e6:,.0f} MB"
        server = f"{one['rate_mb_s']:.0f} MB/s" if one["rate_mb_s"] else "no limit"
        speed = {
            tool: one["bytes"] / 1e6 / (row["on_disk_s"] - row["startup_s"])
            for tool, row in one["tools"].items()
        }
        for tool, row in one["tools"].items():
            against = [
                f"{speed[tool] / speed[plain]:.2f}" if plain in speed else ""
                for plain in ("aria2c", "curl")
            ]
            low, high = row["spread_s"]
            lines.append(
                f"| {files} | {server} | {tool} | {row['on_disk_s']:.2f} ({low:.2f} to {high:.2f}) "
                f"| {row['startup_s']:.2f} | {speed[tool]:,.0f} | {' | '.join(against)} "
                f"| {row['peak_mb']:.0f} |"
            )
    machine = result["machine"]
    lines.append(
        f"\nMedians of {result['repeats']} runs (range), {result['connections']} connections, "
        f"{machine['cpus']} cores ({machine['processor']}), dandi {result['dandi']}; MB/s without "
        f"the start of the interpreter; commit `{result['commit'][:10]}`."
    )
    return "\n".join(lines)


def ingest_table(result: dict) -> str:
    """Return seconds and memory of each file: plain h5py, ours, torch_brain."""
    lines = [
        "| file | MB | spikes | h5py reads the arrays, s | ours, s | torch_brain, s "
        "| times as fast | of h5py's speed | peak MB | of the recording | torch_brain peak MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        floor, ours = np.median(row["floor"]["seconds"]), np.median(row["ours"]["seconds"])
        other, peak = row["torch_brain"], row["ours"]["peak_bytes"]
        theirs = np.median(other["seconds"]) if other else np.nan
        cells = [
            row["file"], f"{row['file_bytes'] / 1e6:,.0f}", f"{row['ours']['spikes']:,}",
            f"{floor:.3f}", f"{ours:.2f}", f"{theirs:.2f}" if other else "",
            f"{theirs / ours:.1f}" if other else "", f"{floor / ours:.2f}",
            f"{peak / 1e6:,.0f}", f"{peak / row['ours']['store_bytes']:.2f}",
            f"{other['peak_bytes'] / 1e6:,.0f}" if other else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    machine = result["machine"]
    lines.append(
        f"\nMedians of {result['settings']['repeats']} runs (torch_brain with waveforms: one), "
        f"{machine['cpus']} cores ({machine['processor']}), files in the page cache; commit "
        f"`{result['commit'][:10]}`."
    )
    return "\n".join(lines)


def sampler_table(result: dict) -> str:
    """Return windows per second of ours, torch_brain and the floor, opening, and the aims."""
    other = {one["recordings"]: one for one in result["torch_brain"]}
    lines = [
        "| recordings | batch | workers | ours, windows/s | torch_brain | times as fast "
        "| floor | of the floor |",
        "|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in result["ours"]:
        beside = other.get(one["recordings"], {"rows": []})["rows"]
        lines += [
            _sampler_row(one, row, beside)
            for row in one["rows"]
            if row["what"] == "ours" and (one["state"] == "from disk" or row["workers"] == 0)
        ]
    lean = [
        f"{speed:,.0f} over {one['recordings']:,} recordings"
        for one in result["torch_brain"]
        for speed in (np.median(row["windows_s"]) for row in one["rows"] if row["form"] == "lean")
    ]
    if lean:
        lines.append(
            "\ntorch_brain's joined batches, plain, without workers, its dataset class changed so "
            f"that it leaves the ids of units alone: {' and '.join(lean)} (windows/s)."
        )
    lines += ["", *_opening_rows(result["opening"], other), "", *aim_rows(result["aims"])]
    settings, machine = result["settings"], result["machine"]
    versions = [one["versions"]["torch_brain"] for one in result["torch_brain"]][:1]
    lines.append(
        f"\nMedians of {settings['repeats']} repeats of {settings['windows']:,} windows (range), "
        f"{settings['batch_size']} a batch; torch_brain {', '.join(versions) or 'not measured'}: "
        f"{settings['torch_brain_repeats']} of {settings['torch_brain_windows']:,}; "
        f"{machine['cpus']} cores ({machine['processor']}); commit `{result['commit'][:10]}`."
    )
    return "\n".join(lines)


def _sampler_row(one: dict, row: dict, beside: list[dict]) -> str:
    key = ("form", "dropout", "workers")
    same = [other for other in beside if all(other[name] == row[name] for name in key)]
    floors = [
        np.median(other["windows_s"])
        for other in one["rows"]
        if other["what"] != "ours" and all(other[name] == row[name] for name in key)
    ]
    ours = np.median(row["windows_s"])
    theirs = np.median(same[0]["windows_s"]) if same else None
    batch = {"ragged": "joined", "padded": "padded POYO"}[row["form"]]
    cells = [
        f"{one['recordings']:,}" + ", just written" * (one["state"] != "from disk"),
        batch + ", unit dropout" * row["dropout"],
        str(row["workers"]),
        f"{ours:,.0f} ({min(row['windows_s']):,.0f} to {max(row['windows_s']):,.0f})",
        f"{theirs:,.0f}" if theirs else "",
        f"{ours / theirs:.0f}" if theirs else "",
        f"{max(floors):,.0f}" if floors else "",
        f"{ours / max(floors):.2f}" if floors else "",
    ]
    return f"| {' | '.join(cells)} |"


def _opening_rows(opening: list[dict], other: dict[int, dict]) -> list[str]:
    lines = [
        "| recordings | open, ms | best | without the catalogue | first batch, ms "
        "| private memory, kB a recording | torch_brain, ms | kB a recording |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in opening:
        count, theirs = one["recordings"], other.get(one["recordings"])
        cells = [
            f"{count:,}",
            f"{np.median(one['open_s']) * 1e3:.1f}",
            f"{min(one['open_s']) * 1e3:.1f}",
            f"{one['without_catalogue_s'] * 1e3:,.0f}",
            f"{np.median(one['first_batch_s']) * 1e3:.1f}",
            f"{np.median(one['private_bytes']) / count / 1e3:,.1f}",
            f"{np.median(theirs['open_s']) * 1e3:,.0f}" if theirs else "",
            f"{np.median(theirs['private_bytes']) / count / 1e3:,.0f}" if theirs else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


TABLES = {
    "sample": sample_table, "learning": learning_table, "fetch": fetch_table,
    "ingest": ingest_table, "sampler": sampler_table, "train": train_table,
    "train-cuda": train_table, "useful": useful_table, "ablation": ablation_table,
    "adapt": adapt_table, "scaling": scaling_table, "latency": latency_table,
}  # fmt: skip


def fill(text: str) -> str:
    """Return a document with the tables that its markers name."""
    for name, make in TABLES.items():
        begin, end = f"<!-- table {name}: written by benchmarks/tables.py -->", "<!-- end -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(end)
            path = HERE / "results" / f"{name}.json"
            table = make(json.loads(path.read_text())) if path.exists() else "Not measured yet."
            text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if fill(text) == text:
            continue
        if args.check:
            sys.exit(f"{path.name}: a table is not what results/ says: python benchmarks/tables.py")
        path.write_text(fill(text), encoding="utf-8")


if __name__ == "__main__":
    main()
