"""Measure what `make demo` trains: R² on held-out time of the sample recordings, over seeds.

Beside the floor, a Wiener filter on the same samples. torch_brain cannot read these files without a
dataset class written for them, so it has no row here; see ``bench_learning.py``.

    python benchmarks/bench_sample.py --store STORE --out benchmarks/results/sample.json
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import write_result

from spikedata import Store, load_manifest
from spikedata_model.config import load_config
from spikedata_model.evaluate import evaluate
from spikedata_model.train import train


def run(
    store: Store,
    recording_ids: list[str],
    preset: str,
    seeds: list[int],
    settings: tuple[str, ...] = (),
) -> dict[str, object]:
    """Return scores and training seconds of one run a seed."""
    runs = []
    for seed in seeds:
        config = load_config(preset, [f"train.seed={seed}", *settings])
        with tempfile.TemporaryDirectory() as folder:
            end = train(store, Path(folder) / "run", config, recording_ids=recording_ids)
            scores = evaluate(store, Path(folder) / "run").model_dump(mode="json")["scores"]
        runs.append(
            {"seed": seed, "train_seconds": end.seconds, "step": end.step, "scores": scores}
        )
    return {"benchmark": "sample", "preset": preset, "config": config.model_dump(mode="json"),
            "runs": runs}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--preset", default="poyo-compact")
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    ids = [dataset.recording_id(asset) for dataset, asset in load_manifest("sample").items()]
    write_result(args.out, run(Store(args.store), ids, args.preset, args.seeds, tuple(args.set)))


if __name__ == "__main__":
    main()
