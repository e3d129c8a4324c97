"""Measure how long a live decoder takes for a step of 20 ms on one core, ours beside torch_brain's.

A step observes its spikes and predicts at its end, from a window of 1 s: `Decoder` on our side
(`latency_child.py`), POYO's own tokenizer and model on the other (`torch_brain_latency.py`). Units
spike at 7 Hz each, as in DANDI 000688. Each case is a process of its own, pinned to one core, one
at a time. The floor is the time that the matrix products which our decoder makes would take at the
best rate of a square product on that core.

    python benchmarks/bench_latency.py --torch-brain PYTHON --out benchmarks/results/latency.json

About 10 minutes. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch
from bench_sampler import run_child, say, say_aims
from common import write_result
from latency_work import RATE, STEP, Case, tokens_of
from train_work import matrix_flops, matrix_rate

CHILDREN = {"ours": "latency_child.py", "torch_brain": "torch_brain_latency.py"}
AIM = 5.0  # ms, p99 of the 1.3M model


def floor_ms(case: Case, rate: float) -> float:
    """Return the milliseconds of the products of one step at a rate in FLOP/s.

    Those of the published model, but for the keys and values of the tokens, which are looked up.
    """
    shape, tokens = case.shape, tokens_of(case)
    flops = matrix_flops(shape, 1, tokens, 1, training=False)
    looked_up = 2 * tokens * shape.dim * 2 * shape.cross_heads * shape.dim_head
    return (flops - looked_up) / rate * 1e3


def judge(rows: Sequence[dict]) -> list[dict]:
    """Return the aim, and the p99 of our 1.3M model in each precision and number of units."""
    return [
        {
            "what": f"ms at the 99th percentile, {row['size']}, {row['units']} units, "
            f"{row['precision']}",
            "aim": AIM, "measured": row["p99_ms"], "least": False, "met": row["p99_ms"] < AIM,
        }
        for row in rows
        if row["side"] == "ours" and row["size"] != "11.8M"
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-brain", help="Python that has torch_brain; without, ours alone.")
    parser.add_argument("--sizes", nargs="+", default=["1.3M", "11.8M"])
    parser.add_argument("--units", nargs="+", type=int, default=[100, 300])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--large-steps", type=int, default=500, help="Of the 11.8M model.")
    parser.add_argument("--their-steps", type=int, default=300, help="At most, of torch_brain.")
    parser.add_argument("--matrix", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rates = {
        name: max(matrix_rate(name, size=size) for size in args.matrix) for name in args.precisions
    }
    torch.set_num_threads(before)
    rows = []
    for size, units, precision in product(args.sizes, args.units, args.precisions):
        steps = args.large_steps if size == "11.8M" else args.steps
        sides = {"ours": sys.executable, "torch_brain": args.torch_brain}
        for side, python in sides.items():
            if python is None:
                continue
            count = steps if side == "ours" else min(steps, args.their_steps)
            case = Case(size, precision, units, count)
            found = run_child(python, CHILDREN[side], json.dumps(asdict(case)))
            row = {"side": side, "size": size, "units": units, "precision": precision,
                   "floor_ms": floor_ms(case, rates[precision]), **found}  # fmt: skip
            rows.append(row)
            say(f"{side} {size} {units} units {precision}: p50 {row['p50_ms']:.2f} ms, "
                f"p99 {row['p99_ms']:.2f}, max {row['max_ms']:.2f}")  # fmt: skip
    settings = {name: one for name, one in vars(args).items() if name not in ("out", "torch_brain")}
    aims = judge(rows)
    result = {"benchmark": "latency", "settings": {**settings, "step_s": STEP, "rate_hz": RATE},
              "rows": rows, "matrix_rate": rates, "aims": aims}  # fmt: skip
    write_result(args.out, result)
    say_aims(aims)


if __name__ == "__main__":
    main()
