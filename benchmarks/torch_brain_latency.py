"""Step torch_brain's POYO over the same windows; a child of bench_latency.py.

    python torch_brain_latency.py '{"size": "1.3M", "precision": "float32", ...}'

The spikes of the last second are kept in two numpy arrays, so that no part of its data classes is
timed; the tokenizer is its own `POYO.tokenize`, and the model is in inference mode.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from latency_work import Case, serve
from torch_brain.batching import collate
from torch_brain_train import make_model
from train_work import KIND, LENGTH


def prepare(case: Case) -> Callable[[np.ndarray, np.ndarray, float], np.ndarray]:
    """Return what takes the spikes of a step and predicts at its end."""
    model = make_model(case.shape).eval()
    ids = np.array([f"unit{row:05d}" for row in range(case.units)])
    model.unit_emb.initialize_vocab(ids.tolist())
    model.session_emb.initialize_vocab(["a"])
    rounded = case.precision == "bfloat16"
    held = [np.empty(0, np.int64), np.empty(0)]

    def take(unit: np.ndarray, time: np.ndarray, end: float) -> np.ndarray:
        units, times = (np.concatenate(pair) for pair in zip(held, (unit, time), strict=True))
        kept = times >= end - LENGTH
        held[:] = units[kept], times[kept]
        spikes = SimpleNamespace(unit_index=held[0], timestamps=held[1] - (end - LENGTH))
        window = SimpleNamespace(
            units=SimpleNamespace(id=ids), spikes=spikes, session=SimpleNamespace(id="a")
        )
        inputs = collate([model.tokenize(window)])
        at = torch.full((1, 1), LENGTH)
        with torch.inference_mode(), torch.autocast("cpu", KIND["bfloat16"], enabled=rounded):
            return model(**inputs, output_timestamps=at)[0].float().numpy()

    return take


if __name__ == "__main__":
    serve(prepare)
