"""Measure how fast one file becomes a recording of the store, and how much memory that takes.

The files are synthetic and laid out as those of DANDI 000688 (20 minutes and 2 hours, with and
without waveforms) and of 000070 (90 million spikes). Beside torch_brain's own pipeline for 000688,
unchanged, in an environment of its own, and beside the floor: reading the same arrays with plain
h5py. Ours is `ingest_asset` as the command runs it: size and SHA-256 of the file, harmonising,
checks, writing, syncing, hashes of what was written. torch_brain hashes, checks and syncs nothing.

    python benchmarks/bench_ingest.py --torch-brain PYTHON --out benchmarks/results/ingest.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import h5py
import numpy as np
from common import write_result

from spikedata.files import sha256_of
from spikedata.testing.layouts import write_layout
from spikedata.testing.layouts.perich_miller import write_perich_miller

HERE = Path(__file__).resolve().parent
UNITS, RATE = 100, 10.0  # of the reaching files; the rate in Hz


def ours(layout: str, source: Path, out: Path, repeats: int) -> dict:
    """Return seconds and memory of `ingest_asset`, in a process of its own."""
    digest = sha256_of(source)
    child = [sys.executable, str(HERE / "ingest_child.py"), layout, str(source), str(out), digest]
    return run_child([*child, str(repeats)])


def neighbour(python: str, source: Path, out: Path, repeats: int) -> dict:
    """Return the same of torch_brain's pipeline."""
    child = [python, str(HERE / "torch_brain_perich.py"), str(source), str(out), str(repeats)]
    return run_child(child)


def floor(source: Path, repeats: int) -> dict:
    """Return the seconds in which plain h5py reads the arrays that are harmonised."""
    return run_child([sys.executable, str(HERE / "ingest_floor.py"), str(source), str(repeats)])


def run_child(command: list[str]) -> dict:
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"{command[1]} failed:\n{found.stderr[-4000:]}")
    return json.loads(found.stdout.splitlines()[-1])


# ------------------------------------------------------------------ the files


def write_maze(path: Path, spikes: int, trials: int, compressed: bool, seed: int = 0) -> None:
    """Write a file as those of 000070 with about as many spikes as asked for, on one clock.

    A small file of that layout gets more trials (its own, repeated), behaviour and spikes; they
    come from 192 electrodes, which the small file has 16 of.
    """
    small = write_layout("000070-plain", path.parent, seed)
    rng = np.random.default_rng(seed)
    length = rng.uniform(2.0, 4.0, trials).round(3)
    start = (np.cumsum(length + 0.5) - length).round(3)
    with h5py.File(small, "a") as file:
        stretch_trials(file["intervals/trials"], start, length)
        steps = [
            begin + np.arange(round(one * 1000)) / 1000
            for begin, one in zip(start, length, strict=True)
        ]
        time, position = np.concatenate(steps), file["processing/behavior/Position"]
        hand = 80 * np.sin(np.cumsum(rng.standard_normal((len(time), 2)), axis=0) / 1000)
        for name in ("Cursor", "Hand", "Eye"):
            replace(position[name], "data", hand, compressed)
        replace(position["Cursor"], "timestamps", time, compressed)
        for name in ("Hand", "Eye"):
            del position[name]["timestamps"]
            position[name]["timestamps"] = h5py.SoftLink(f"{position.name}/Cursor/timestamps")
        fill_units(file, rng, start, length, spikes // 192, compressed)
    small.rename(path)


def replace(group: h5py.Group, name: str, values: np.ndarray, compressed: bool = False) -> None:
    """Put other values in the place of an array, its attributes kept."""
    kept = dict(group[name].attrs)
    del group[name]
    options = {"compression": "gzip", "shuffle": True} if compressed else {}
    group.create_dataset(name, data=values, **options).attrs.update(kept)


def stretch_trials(trials: h5py.Group, start: np.ndarray, length: np.ndarray) -> None:
    """Repeat the rows of the trials; what is a time keeps its place in the trial."""
    old, old_length = trials["start_time"][()], trials["stop_time"][()] - trials["start_time"][()]
    rows = np.arange(len(start)) % len(old)
    for name in ("timeseries", "timeseries_index"):
        del trials[name]
    for name in [name for name in trials if f"{name}_index" in trials]:
        ends = trials[f"{name}_index"][()].astype(np.int64)
        parts = np.split(trials[name][()], ends[:-1])
        sizes = np.diff(ends, prepend=0)[rows]
        replace(trials, name, np.concatenate([parts[row] for row in rows]))
        replace(trials, f"{name}_index", np.cumsum(sizes).astype(np.uint32))
    moments = ("target_presentation_time", "go_cue_time", "move_begins_time", "move_ends_time")
    for name in moments:
        share = (trials[name][()] - old) / old_length
        replace(trials, name, start + share[rows] * length)
    replace(trials, "id", np.arange(len(start)))
    for name in list(trials):
        if len(trials[name]) == len(old) and name not in ("start_time", "stop_time"):
            replace(trials, name, trials[name][()][rows])
    replace(trials, "start_time", start)
    replace(trials, "stop_time", start + length)


def fill_units(
    file: h5py.File, rng: np.random.Generator, start: np.ndarray, length: np.ndarray,
    each: int, compressed: bool,
) -> None:  # fmt: skip
    """Give 192 units `each` spikes in the trials, and the trials as observation intervals."""
    units, count = file["units"], 192
    bounds = np.stack([start, start + length], 1)
    table = file["general/extracellular_ephys/electrodes"]
    electrode = np.arange(count) % len(table["id"])
    group = units["electrode_group"][()][electrode]
    share = np.cumsum(length) / length.sum()
    options = {"compression": "gzip", "shuffle": True} if compressed else {}
    kept = {name: dict(units[name].attrs) for name in units}
    for name in list(units):
        del units[name]
    arrays = {
        "id": np.arange(count), "electrodes": electrode, "electrode_group": group,
        "electrodes_index": np.arange(1, count + 1, dtype=np.uint8),
        "obs_intervals": np.tile(bounds, (count, 1)),
        "obs_intervals_index": (np.arange(1, count + 1) * len(start)).astype(np.uint32),
        "spike_times_index": (np.arange(1, count + 1) * each).astype(np.uint32),
    }  # fmt: skip
    for name, values in arrays.items():
        kind = {"dtype": h5py.ref_dtype} if name == "electrode_group" else {}
        units.create_dataset(name, data=values, **kind)
    spikes = units.create_dataset("spike_times", (count * each,), "f8", **options)
    for unit in range(count):
        where = np.sort(rng.random(each))
        row = np.minimum(np.searchsorted(share, where), len(start) - 1)
        before = np.append(0.0, share)[row]
        inside = (where - before) / (share[row] - before)
        time = start[row] + np.minimum(inside, 0.999) * length[row]
        spikes[unit * each : (unit + 1) * each] = np.round(time * 30000) / 30000
    for name, attributes in kept.items():
        for key, value in attributes.items():
            if key in ("table", "target"):  # references to what has been replaced
                value = (
                    table.ref if name == "electrodes" else units[name.removesuffix("_index")].ref
                )
            units[name].attrs[key] = value


# ------------------------------------------------------------------ the rows


def reaching(
    folder: Path, minutes: float, waveforms: bool, python: str | None, repeats: int
) -> dict:
    """Return the row of one file of 000688: ours, torch_brain's and the floor."""
    where = folder / f"{minutes:g}-{waveforms}"
    where.mkdir()
    source = where / "sub-C_ses-CO-20131003_behavior+ecephys.nwb"
    write_perich_miller(source, duration=60 * minutes, units=UNITS, rate=RATE, waveforms=waveforms)
    row = {
        "file": f"000688, {minutes:g} min, {'with' if waveforms else 'no'} waveforms",
        "file_bytes": source.stat().st_size, "floor": floor(source, repeats),
        "ours": ours("000688-center-out", source, where / "ours", repeats), "torch_brain": None,
    }  # fmt: skip
    if python:
        # With waveforms one run takes minutes: it reads them all, spike by spike.
        row["torch_brain"] = neighbour(
            python, source, where / "theirs", 1 if waveforms else repeats
        )
    shutil.rmtree(where)
    return row


def maze(folder: Path, spikes: int, trials: int, compressed: bool, repeats: int) -> dict:
    """Return the row of one file of 000070: ours and the floor."""
    where = folder / f"maze-{compressed}"
    where.mkdir()
    source = where / "sub-Jenkins_ses-20090912_behavior+ecephys.nwb"
    write_maze(source, spikes, trials, compressed)
    row = {
        "file": f"000070, {'gzip' if compressed else 'not compressed'}",
        "file_bytes": source.stat().st_size, "floor": floor(source, repeats),
        "ours": ours("000070-plain", source, where / "ours", repeats), "torch_brain": None,
    }  # fmt: skip
    shutil.rmtree(where)
    return row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-brain", help="a python with torch_brain, scikit-learn and scipy")
    parser.add_argument("--minutes", type=float, nargs="*", default=[20, 120])
    parser.add_argument("--spikes", type=int, default=90_000_000, help="of the large file; 0: none")
    parser.add_argument("--trials", type=int, default=1588, help="of it, as in Jenkins 20090912")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files are written, and deleted")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for minutes, waveforms in product(args.minutes, (False, True)):
            print(f"{minutes:g} minutes, waveforms: {waveforms}", file=sys.stderr)
            rows.append(reaching(folder, minutes, waveforms, args.torch_brain, args.repeats))
        for compressed in (False, True) if args.spikes else ():
            print(f"{args.spikes:,} spikes, compressed: {compressed}", file=sys.stderr)
            rows.append(maze(folder, args.spikes, args.trials, compressed, args.repeats))
    settings = {
        "units": UNITS,
        "rate": RATE,
        "spikes": args.spikes,
        "trials": args.trials,
        "repeats": args.repeats,
    }
    write_result(args.out, {"benchmark": "ingest", "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
