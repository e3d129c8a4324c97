"""Measure how many windows a second the sampler draws, beside torch_brain and a plain floor.

Recordings of the size of DANDI 000688, 10, 100 and 1,000 of them; windows of 1 s, 128 a batch,
with the cursor's velocity; joined arrays and padded POYO batches; plain and with unit dropout; in
this process and through two loader workers. How fast and in how much memory they open. The floor
is plain numpy over the same mapped arrays (`sampler_floor.py`); the neighbour is torch_brain with
its own files, dataset, sampler, tokenizer and collation (`torch_brain_sampler.py`).

Two states of the page cache: "from disk", the main one, where the files were evicted, read through
their mapping and then by an epoch of windows, and "just written", as the writer left them.

    python benchmarks/bench_sampler.py --torch-brain PYTHON --folder FOLDER \
        --out benchmarks/results/sampler.json

1,000 recordings take 15 GB, 100 of torch_brain's 2 GB; what FOLDER has already is used again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from common import write_result
from sampler_store import fill_store, link_store

HERE = Path(__file__).resolve().parent
STATES = ("from disk", "just written")
AIMS = {
    "ragged": 100.0, "padded": 60.0, "floor": 0.5, "scale": 0.8, "open_s": 0.1,
    "private_bytes": 50e3,
}  # fmt: skip


def run_child(python: str, script: str, *arguments: object) -> dict:
    """Run a script of this folder; return the JSON of its last line."""
    command = [python, str(HERE / script), *map(str, arguments)]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed, see above.")
    return json.loads(found.stdout.splitlines()[-1])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def evict(folder: Path) -> None:
    """Drop the files from the page cache; they are on the disk already."""
    for path in folder.glob("*/*/*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


# ------------------------------------------------------------------ what is measured


def throughput(store: Path, state: str, args: argparse.Namespace, check: Path) -> dict:
    """Return windows per second of ours and of the floors over one store."""
    if state == "from disk":
        evict(store)
    found = run_child(
        sys.executable, "sampler_child.py", "measure", store, args.windows, args.batch_size,
        args.repeats, check,
    )  # fmt: skip
    say(f"ours, {found['recordings']} recordings, {state}: {_short(found['rows'])}")
    return {"state": state, **found}


def _short(rows: Iterable[dict]) -> str:
    return ", ".join(
        f"{row['form']}{' dropout' * row['dropout']} {row['workers']}w "
        f"{np.median(row['windows_s']):,.0f}"
        for row in rows
        if row["what"] == "ours"
    )


def opening(store: Path, repeats: int) -> dict:
    """Return how it opens in fresh processes; in the first of them the catalogue is not there."""
    (store / "catalog.arrow").unlink(missing_ok=True)
    runs = [
        run_child(sys.executable, "sampler_child.py", "open", store) for _ in range(repeats + 1)
    ]
    first, others = runs[0], runs[1:]
    return {
        "recordings": first["recordings"],
        "without_catalogue_s": first["open_s"],
        **{name: [one[name] for one in others] for name in first if name != "recordings"},
    }


def theirs(folder: Path, recordings: int, args: argparse.Namespace, check: Path) -> dict:
    """Return the same of torch_brain; its windows must equal ours before it is timed."""
    script, python = "torch_brain_sampler.py", args.torch_brain
    found = run_child(
        python, script, "measure", folder, recordings, check, args.torch_brain_windows,
        args.batch_size, args.torch_brain_repeats,
    )  # fmt: skip
    runs = [run_child(python, script, "open", folder, recordings) for _ in range(args.opens)]
    return {
        **found,
        "open_s": [one["open_s"] for one in runs],
        "private_bytes": [one["private_bytes"] for one in runs],
    }


# ------------------------------------------------------------------ what was aimed at


def speed(rows: Iterable[dict], **wanted: object) -> float:
    """Return the median windows per second of the one row that is wanted, NaN without."""
    for row in rows:
        if all(row[name] == value for name, value in wanted.items()):
            return float(np.median(row["windows_s"]))
    return float("nan")


def floor_of(rows: Iterable[dict], form: str, dropout: bool) -> float:
    """Return the median windows per second of the fastest floor."""
    speeds = [
        np.median(row["windows_s"])
        for row in rows
        if row["what"] != "ours" and (row["form"], row["dropout"]) == (form, dropout)
    ]
    return float(max(speeds, default=np.nan))


def judge(result: dict) -> list[dict]:
    """Return every aim with what was measured: the worst over numbers of recordings."""
    main = {one["recordings"]: one["rows"] for one in result["ours"] if one["state"] == STATES[0]}
    other = {one["recordings"]: one["rows"] for one in result["torch_brain"]}
    found = []

    def add(what: str, aim: float, least: bool, values: Iterable[float]) -> None:
        values = [value for value in values if np.isfinite(value)]
        if values:
            measured = min(values) if least else max(values)
            met = measured >= aim if least else measured < aim
            found.append({"what": what, "aim": aim, "least": least, "measured": measured,
                          "met": bool(met)})  # fmt: skip

    for form, dropout in ((form, drop) for form in ("ragged", "padded") for drop in (False, True)):
        one = {"form": form, "dropout": dropout, "workers": 0}
        label = f"{form}{', unit dropout' * dropout}"
        ratios = [
            speed(main[count], what="ours", **one) / speed(other[count], **one)
            for count in main.keys() & other.keys()
        ]
        add(f"times torch_brain's windows per second, {label}", AIMS[form], True, ratios)
        shares = [
            speed(rows, what="ours", **one) / floor_of(rows, form, dropout)
            for rows in main.values()
        ]
        add(f"share of the floor, {label}", AIMS["floor"], True, shares)
        most, least = max(main), min(main)
        scale = speed(main[most], what="ours", **one) / speed(main[least], what="ours", **one)
        if most > least:
            add(f"{most:,} recordings to {least:,}, {label}", AIMS["scale"], True, [scale])
    last = max(result["opening"], key=lambda one: one["recordings"])
    count = last["recordings"]
    add(f"s to open {count:,} recordings", AIMS["open_s"], False, [np.median(last["open_s"])])
    each = np.median(last["private_bytes"]) / count
    add(f"private bytes a recording, {count:,} of them", AIMS["private_bytes"], False, [each])
    return found


# ------------------------------------------------------------------ the run


def measure_ours(folder: Path, args: argparse.Namespace, check: Path) -> tuple[list, list]:
    """Return throughput and opening over every number of recordings, in every state."""
    ours, opened = [], []
    whole = folder / "ours"
    fill_store(whole, max(args.recordings), scale=args.scale)
    for place, count in enumerate(args.recordings):
        part = link_store(whole, folder / f"ours-{count}", count)
        where = check if place == 0 else check.with_name("unused.npz")
        ours.append(throughput(part, STATES[0], args, where))
        opened.append(opening(part, args.opens))
        say(f"opening {count}: {np.median(opened[-1]['open_s']) * 1e3:.1f} ms")
        shutil.rmtree(part)
    for count in args.written:
        written = folder / f"written-{count}"
        shutil.rmtree(written, ignore_errors=True)
        fill_store(written, count, scale=args.scale)
        ours.append(throughput(written, STATES[1], args, check.with_name("unused.npz")))
        shutil.rmtree(written)
    return ours, opened


def run(folder: Path, args: argparse.Namespace) -> dict:
    """Return everything that is measured over the recordings in a folder."""
    with tempfile.TemporaryDirectory() as name:
        check = Path(name) / "windows.npz"
        ours, opened = measure_ours(folder, args, check)
        other = []
        if args.torch_brain:
            most = min(args.torch_brain_recordings, max(args.recordings))
            run_child(args.torch_brain, "torch_brain_sampler.py", "make", folder, most, args.scale)
            counts = sorted({min(count, most) for count in args.recordings})
            other = [theirs(folder, count, args, check) for count in counts]
    result = {"ours": ours, "opening": opened, "torch_brain": other}
    return result | {"aims": judge(result)}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--torch-brain", help="a python with torch_brain; left out, only ours is measured")
    add("--recordings", type=int, nargs="+", default=[10, 100, 1000])
    add("--written", type=int, nargs="*", default=[10, 100], help="as many, just written")
    add("--torch-brain-recordings", type=int, default=100, help="most of torch_brain's files")
    add("--scale", type=float, default=1.0, help="of the 1,394 s of a recording")
    add("--batch-size", type=int, default=128)
    add("--windows", type=int, default=8192, help="timed in each repeat, of ours and the floor")
    add("--repeats", type=int, default=7)
    add("--opens", type=int, default=7, help="processes that open the store")
    add("--torch-brain-windows", type=int, default=2048)
    add("--torch-brain-repeats", type=int, default=3)
    add("--folder", type=Path, help="where the recordings lie; deleted afterwards if not given")
    add("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def say_aims(aims: list[dict]) -> None:
    """Print what was wanted and what was measured, one line an aim."""
    for one in aims:
        relation = "at least" if one["least"] else "less than"
        say(f"{one['what']}: {one['measured']:.3g}, {relation} {one['aim']:g} wanted, "
            f"{'met' if one['met'] else 'NOT met'}")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    settings = {
        name: value
        for name, value in vars(args).items()
        if name not in ("folder", "out", "torch_brain")
    }
    with tempfile.TemporaryDirectory() as name:
        result = run(args.folder or Path(name), args)
    write_result(args.out, {"benchmark": "sampler", "settings": settings, **result})
    say_aims(result["aims"])


if __name__ == "__main__":
    main()
