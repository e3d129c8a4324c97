"""Measure how fast POYO trains and decodes, and in how much memory, ours beside torch_brain's.

The same windows of 1 s from recordings of the size of DANDI 000688 (`sampler_store.py`), the same
sizes, dropout and optimiser (AdamW) on both sides, each in processes of its own (`train_child.py`,
`torch_brain_train.py`) of which one works at a time; blocks of steps in turns where both fit into
memory, the large model one after another. The batches are there before the clock starts, but for
the row "with loading". Beside them the rate of a large matrix product on the same cores, and the
share of it that the matrix products of the published model reach (`train_work.matrix_flops`).

    python benchmarks/bench_train.py --torch-brain PYTHON --out benchmarks/results/train.json
    python benchmarks/bench_train.py --torch-brain PYTHON --device cuda --batch-size 1024 \
        --batches 2 --scale 0.5 --sizes 11.8M --no-loading --matrix 8192 --block-seconds 10 \
        --out benchmarks/results/train-cuda.json

About 8 minutes on 2 cores, most of them torch_brain's 11.8M, which takes 19 GB. With --parts
FOLDER every finished group is kept, and a run that was cut off goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import torch
from bench_sampler import run_child, say, say_aims
from common import write_result
from sampler_store import fill_store
from tables_model import name_of
from train_child import open_sampler
from train_work import SHAPES, Case, matrix_flops, matrix_rate

HERE = Path(__file__).resolve().parent
SIDES = {"ours": "train_child.py", "torch_brain": "torch_brain_train.py"}
LARGE = 5e9  # FLOP a training window; above it the children run one after another
AIMS = {"float32": 2.0, "bfloat16": 3.0, "memory": 1 / 3}
TOLERANCE = 1e-3  # s, and cm/s: between the sums of about 1,000 float32 numbers on the two sides


class Child:
    """A process that takes steps when it is told to; see `train_work.serve`."""

    def __init__(self, python: str, side: str, case: Case) -> None:
        self.side, self.case, self.step_s, self.peak = side, case, [], 0
        command = [python, str(HERE / SIDES[side]), json.dumps(asdict(case))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ready(self) -> None:
        """Wait until the data are read and the model is built."""
        first = self._read()
        self.facts, self.versions = np.array(first["facts"]), first["versions"]

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def _read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.side} ended at {self.case}, see above.")
        return json.loads(line)

    def block(self, seconds: float) -> None:
        """Take steps for so long, at least one."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        found = self._read()
        self.step_s.append(found["step_s"])
        self.peak = found["peak_bytes"]

    def row(self) -> dict:
        """Return what was measured; the first block is the warm-up."""
        case = self.case
        warm, *blocks = self.step_s
        windows_s = [len(one) * case.batch_size / sum(one) for one in blocks]
        tokens, queries = self.facts[:, :2].mean(0) * case.batch_size
        flops = matrix_flops(
            case.shape, case.batch_size, round(tokens), round(queries), case.mode != "inference"
        )
        return {
            "side": self.side, "size": case.size, "mode": case.mode, "source": case.source,
            "precision": case.precision, "batch_size": case.batch_size, "windows_s": windows_s,
            "tokens_s": [one * tokens / case.batch_size for one in windows_s],
            "step_ms": float(np.median(np.concatenate(blocks)) * 1e3),
            "first_ms": warm[0] * 1e3, "steps": sum(map(len, blocks)),
            "peak_bytes": self.peak, "flops_window": flops / case.batch_size,
        }  # fmt: skip


def check_facts(children: Sequence[Child]) -> None:
    """Stop unless all children were given the same windows."""
    first = children[0]
    for one in children[1:]:
        same = first.facts.shape == one.facts.shape and np.allclose(
            first.facts, one.facts, rtol=1e-5, atol=TOLERANCE * np.array([0, 0, 1, 100])
        )
        if not same:
            raise SystemExit(
                f"The windows of {one.side} differ from those of {first.side} in tokens, queries "
                "or their sums, so timing them would be pointless; delete --folder and try again."
            )


# ------------------------------------------------------------------ what is measured


def groups(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[tuple[str, Case]]]]:
    """Yield the name of each group and its children, all that share a size, mode and source."""
    sides = ["ours", *(["torch_brain"] if args.torch_brain else [])]
    small = min(args.sizes, key=lambda size: list(SHAPES).index(size))
    wanted = [(size, mode, "made") for size, mode in product(args.sizes, args.modes)
              if not (mode == "plain" and is_large(size))]  # fmt: skip
    if args.loading and args.modes[0] != "inference":
        wanted.append((small, args.modes[0], "loaded"))
    for size, mode, source in wanted:
        shared = {
            "folder": str(folder), "size": size, "mode": mode, "source": source,
            "recordings": args.recordings, "batch_size": args.batch_size, "device": args.device,
            "threads": args.threads, "workers": args.workers,
        }  # fmt: skip
        precisions = args.precisions if source == "made" else args.precisions[:1]
        cases = [
            (side, Case(precision=precision, **shared))
            for precision, side in product(precisions, sides)
        ]
        yield f"{size}-{mode}-{source}", cases


def is_large(size: str) -> bool:
    """Return whether a side of this size may take most of the memory."""
    return matrix_flops(SHAPES[size], 1, 900, 100, training=True) > LARGE


def measure(cases: list[tuple[str, Case]], args: argparse.Namespace) -> list[dict]:
    """Return the rows of one group: blocks in turns, or one child after another."""
    alone = is_large(cases[0][1].size) or args.device != "cpu"
    blocks = args.large_blocks if is_large(cases[0][1].size) else args.blocks
    rows = []
    first: Child | None = None
    for part in ([one] for one in cases) if alone else [cases]:
        with ExitStack() as open_children:
            children = []
            for side, case in part:
                python = args.torch_brain if side == "torch_brain" else sys.executable
                children.append(open_children.enter_context(Child(python, side, case)))
            for child in children:
                child.ready()
            check_facts([*([first] if first else []), *children])
            first = first or children[0]
            for seconds in [0.0, *[args.block_seconds] * blocks]:  # the first one warms up
                for child in children:
                    child.block(seconds)
            for child in children:
                rows.append(child.row() | {"versions": child.versions})
                say(f"{child.side}, {child.case.size}, {child.case.mode}, {child.case.source}, "
                    f"{child.case.precision}: {np.median(rows[-1]['windows_s']):.3g} windows/s, "
                    f"{child.peak / 1e9:.2f} GB")  # fmt: skip
    return rows


def prepare(folder: Path, args: argparse.Namespace) -> None:
    """Write the recordings of both sides and the windows that both are given."""
    fill_store(folder / "ours", args.recordings, scale=args.scale)
    if args.torch_brain:
        run_child(args.torch_brain, "torch_brain_sampler.py", "make", folder, args.recordings,
                  args.scale)  # fmt: skip
    sampler = open_sampler(folder, args.recordings, args.batch_size)
    drawn = [sampler.batch(*divmod(step, sampler.steps())) for step in range(args.batches)]
    names = [[one.recording_ids[row].split("/")[1] for row in one.recording] for one in drawn]
    if any(len(row) < args.batch_size for row in names):
        raise SystemExit(
            f"An epoch has only {len(names[0])} windows and --batch-size is {args.batch_size}: "
            "give a larger --scale, or more --recordings."
        )
    np.savez(folder / "windows.npz", name=np.array(names), start=[one.start for one in drawn])


# ------------------------------------------------------------------ what was aimed at


def speed(rows: Sequence[dict], **wanted: object) -> float:
    """Return the median windows per second of the one row that is wanted, NaN without."""
    return _median(rows, "windows_s", wanted)


def _median(rows: Sequence[dict], what: str, wanted: dict) -> float:
    for row in rows:
        if all(row[name] == value for name, value in wanted.items()):
            return float(np.median(row[what]))
    return math.nan


def judge(rows: Sequence[dict]) -> list[dict]:
    """Return every aim with what was measured.

    The rows in bfloat16 are held against torch_brain in float32, as it is trained, and against
    torch_brain under autocast.
    """
    found = []

    def add(what: str, aim: float, least: bool, measured: float) -> None:
        if math.isfinite(measured):
            met = measured >= aim if least else measured < aim
            found.append({"what": what, "aim": aim, "least": least, "measured": measured,
                          "met": bool(met)})  # fmt: skip

    seen = dict.fromkeys((row["size"], row["mode"], row["source"]) for row in rows)
    for size, mode, source in seen:
        case = {"size": size, "mode": mode, "source": source}
        label = f"{size}, {name_of(mode, source)}"
        for ours, theirs in (("float32", "float32"), ("bfloat16", "float32"),
                             ("bfloat16", "bfloat16")):  # fmt: skip
            mine = {**case, "side": "ours", "precision": ours}
            other = {**case, "side": "torch_brain", "precision": theirs}
            kind = ours if ours == theirs else f"{ours} to its {theirs}"
            add(f"times torch_brain's windows per second, {label}, {kind}", AIMS[ours], True,
                speed(rows, **mine) / speed(rows, **other))  # fmt: skip
            if ours == theirs:
                peaks = (_median(rows, "peak_bytes", one) for one in (mine, other))
                add(f"of torch_brain's peak memory, {label}, {kind}", AIMS["memory"], False,
                    next(peaks) / next(peaks))  # fmt: skip
    return found


# ------------------------------------------------------------------ the run


def run(folder: Path, args: argparse.Namespace) -> dict:
    """Return all rows, the measured matrix rates and the aims."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device.startswith("cuda"):
        torch.set_float32_matmul_precision("medium")
    prepare(folder, args)
    rows: list[dict] = []
    rates: dict[str, list[float]] = {precision: [] for precision in args.precisions}
    begin = time.perf_counter()
    for name, cases in groups(args, folder):
        part = args.parts / f"{name}.json" if args.parts else None
        if part is not None and part.exists():
            found = json.loads(part.read_text())
        else:
            size = args.matrix
            found = {"rates": {one: matrix_rate(one, args.device, size) for one in rates},
                     "rows": measure(cases, args)}  # fmt: skip
            if part is not None:
                part.parent.mkdir(parents=True, exist_ok=True)
                part.write_text(json.dumps(found))
        rows += found["rows"]
        for precision, rate in found["rates"].items():
            rates[precision].append(rate)
        say(f"{name} done, {time.perf_counter() - begin:.0f} s")
    return {"rows": rows, "matrix_rate": rates, "aims": judge(rows)}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--torch-brain", help="a python with torch_brain; left out, only ours is measured")
    add("--sizes", nargs="+", choices=list(SHAPES), default=["1.3M", "11.8M"])
    modes, precisions = ["dropout", "plain", "inference"], ["float32", "bfloat16"]
    add("--modes", nargs="+", choices=modes, default=modes, help="plain: not of the large model")
    add("--precisions", nargs="+", choices=precisions, default=precisions)
    add("--loading", action=argparse.BooleanOptionalAction, default=True,
        help="a row with loading: the smallest size, the first mode and precision")  # fmt: skip
    add("--recordings", type=int, default=10)
    add("--scale", type=float, default=0.1, help="of the 1,394 s of a recording")
    add("--batch-size", type=int, default=32)
    add("--batches", type=int, default=4, help="made beforehand and used in turns")
    add("--blocks", type=int, default=3)
    add("--block-seconds", type=float, default=2.0, help="and at least one step")
    add("--large-blocks", type=int, default=2)
    add("--matrix", type=int, default=2048, help="side of the matrices of the measured rate")
    add("--threads", type=int, default=2)
    add("--workers", type=int, default=2, help="of torch_brain's loader")
    add("--device", default="cpu")
    add("--parts", type=Path, help="finished groups are kept here, and not measured again")
    add("--folder", type=Path, help="where the recordings lie; deleted afterwards if not given")
    add("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    settings = {
        name: value
        for name, value in vars(args).items()
        if name not in ("folder", "out", "torch_brain", "parts")
    }
    if args.device.startswith("cuda"):
        settings["gpu"] = torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as name:
        result = run(args.folder or Path(name), args)
    write_result(args.out, {"benchmark": "train", "settings": settings, **result})
    say_aims(result["aims"])


if __name__ == "__main__":
    main()
