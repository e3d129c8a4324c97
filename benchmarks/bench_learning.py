"""Measure after how many seconds of training POYO passes a linear decoder on one recording.

Beside the floor (Wiener filters, causal and centred, fitted on the same training split) and the
neighbour (torch_brain's POYO, run by ``torch_brain_poyo.py`` in an environment of its own, on the
same arrays, split and score). Curves are over the test split: no setting was chosen on it, presets
and the neighbour's settings were tuned on the validation part of the training time.

    python benchmarks/bench_learning.py --store STORE --recording stevenson2011/random_target \
        --seeds 0 1 2 --neighbour python-with-torch-brain --out benchmarks/results/learning.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import write_result

from spikedata.store import Store
from spikedata_model.baselines import wiener_predict
from spikedata_model.config import load_config
from spikedata_model.evaluate import r2_score
from spikedata_model.train import train

HERE = Path(__file__).resolve().parent


def floor(store: Store, recording_id: str, scheme: str | None) -> dict[str, dict[str, object]]:
    """Return R² and seconds of the Wiener filters on the test split."""
    recording = store[recording_id]
    target = recording.targets[0]
    series = recording.series[target]
    fit, test = recording.split("train", scheme), recording.split("test", scheme)
    rows = [slice(*one) for one in zip(*series.bounds(test.start, test.end), strict=True)]
    truth = np.concatenate([np.asarray(series.values[one], np.float64) for one in rows])
    results = {}
    for name, causal in (("wiener causal", True), ("wiener centred", False)):
        began = time.perf_counter()
        predicted = wiener_predict(recording, target, fit, test, causal=causal)
        results[name] = {
            "r2": r2_score(truth, predicted).tolist(),
            "seconds": time.perf_counter() - began,
        }
    return results


def ours(
    store: Store, recording_id: str, scheme: str | None, preset: str, settings: list[str], seed: int
) -> dict[str, object]:
    """Return the learning curve of one training run on the test split."""
    fixed = ["train.curve_split=test", f"train.seed={seed}"]
    if scheme is not None:
        fixed.append(f"data.scheme={scheme}")
    config = load_config(preset, [*fixed, *settings])
    with tempfile.TemporaryDirectory() as folder:
        end = train(store, Path(folder) / "run", config, recording_ids=[recording_id])
    rows = [
        {
            "train_seconds": row["seconds"],
            "step": row["step"],
            "r2": [value for name, value in row.items() if name.startswith("r2 ")],
            "train_loss": row["loss"],
        }
        for row in end.curve
    ]
    parameters = sum(weight.numel() for weight in end.model.values())
    return {"seed": seed, "preset": preset, "parameters": parameters, "rows": rows,
            "config": config.model_dump(mode="json")}  # fmt: skip


def export_arrays(store: Store, recording_id: str, scheme: str | None, path: Path) -> None:
    """Write the arrays that ``torch_brain_poyo.py`` reads."""
    recording = store[recording_id]
    series = recording.series[recording.targets[0]]
    fit, test = recording.split("train", scheme), recording.split("test", scheme)
    np.savez(
        path,
        spike_time=recording.spike_time,
        spike_unit=recording.spike_unit,
        n_units=recording.n_units,
        target_time=series.times(),
        target_values=np.asarray(series.values, np.float32),
        train_start=fit.start,
        train_end=fit.end,
        test_start=test.start,
        test_end=test.end,
    )


def neighbour(
    store: Store, recording_id: str, scheme: str | None, python: str, arguments: str
) -> dict[str, object]:
    """Return what ``torch_brain_poyo.py`` reports of the same recording."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "recording.npz", Path(folder) / "curve.json"
        export_arrays(store, recording_id, scheme, data)
        script = str(HERE / "torch_brain_poyo.py")
        command = [python, script, "--data", str(data), "--out", str(out), *shlex.split(arguments)]
        subprocess.run(command, check=True)
        result = json.loads(out.read_text())
    result["config"].pop("data", None)
    result["config"].pop("out", None)
    return {"arguments": arguments, **result}


def seconds_until(rows: list[dict], levels: list[float]) -> float | None:
    """Return when a curve first had every channel at or above its level, or nothing."""
    for row in rows:
        if all(value >= level for value, level in zip(row["r2"], levels, strict=True)):
            return row["train_seconds"]
    return None


def run(args: argparse.Namespace) -> dict[str, object]:
    """Return everything that was measured."""
    if args.threads:
        torch.set_num_threads(args.threads)
    store = Store(args.store)
    baselines = floor(store, args.recording, args.scheme)
    runs = [
        ours(store, args.recording, args.scheme, args.preset, args.set, seed) for seed in args.seeds
    ]
    others = [
        neighbour(store, args.recording, args.scheme, args.neighbour, arguments)
        for arguments in (args.neighbour_arguments if args.neighbour else [])
    ]
    for one in [*runs, *others]:
        one["seconds_until"] = {
            name: seconds_until(one["rows"], level["r2"]) for name, level in baselines.items()
        }
    return {
        "benchmark": "learning",
        "recording": args.recording,
        "scheme": args.scheme,
        "floor": baselines,
        "ours": runs,
        "torch_brain": others,
    }


def show(result: dict) -> None:
    """Print one row a decoder."""
    print(f"{'decoder':<28} {'parameters':>10} {'seconds':>8} {'R² by channel':>18}  passes "
          "causal / centred Wiener after")  # fmt: skip
    for name, one in result["floor"].items():
        scores = " ".join(f"{value:.3f}" for value in one["r2"])
        print(f"{name:<28} {'':>10} {one['seconds']:>8.0f} {scores:>18}")
    for name in ("ours", "torch_brain"):
        for one in result[name]:
            last = one["rows"][-1]
            label = (
                f"{name} {one.get('preset', '')} seed {one.get('seed', one['config'].get('seed'))}"
            )
            scores = " ".join(f"{value:.3f}" for value in last["r2"])
            parameters = one["parameters"]
            count = parameters["all"] if isinstance(parameters, dict) else parameters
            passed = " / ".join(
                "never" if value is None else f"{value:.0f} s"
                for value in one["seconds_until"].values()
            )
            print(f"{label:<28} {count:>10} {last['train_seconds']:>8.0f} {scores:>18}  {passed}")


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--recording", required=True)
    parser.add_argument("--scheme", help="split scheme; the recording's first when not given")
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--set", nargs="*", default=["train.evaluate_every=20"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--neighbour", help="python of an environment that has torch_brain")
    parser.add_argument("--neighbour-arguments", nargs="*", default=["--seconds 240"],
                        help="one quoted argument list a run of torch_brain_poyo.py")  # fmt: skip
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    result = run(args)
    show(result)
    if args.out:
        write_result(args.out, result)


if __name__ == "__main__":
    main()
