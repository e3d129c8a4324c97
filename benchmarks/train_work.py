"""What both children of bench_train.py share: shapes, the work of a step, and how it is timed.

Needs torch alone, so that it runs where torch_brain is and spikedata is not.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from memory import peak_since, reset_peak

TARGET = "cursor_velocity"
LENGTH = 1.0  # s of a window, and the context of every model
LATENT_STEP = 0.125  # s
CHANNELS = 2
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4  # of AdamW on both sides; what they are costs no time
KIND = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """Sizes of a POYO and its shares of dropout; all have windows of 1 s."""

    dim: int
    depth: int
    dim_head: int
    cross_heads: int
    self_heads: int
    latents_per_step: int
    ffn_dropout: float = 0.2
    residual_dropout: float = 0.4
    attention_dropout: float = 0.2


SHAPES = {
    "1.3M": Shape(64, 6, 64, 2, 8, 16),  # torch_brain examples/poyo/configs/model/poyo_1.3M.yaml
    "11.8M": Shape(128, 24, 64, 4, 8, 32),  # poyo_11.8M.yaml beside it
    "toy": Shape(16, 1, 16, 1, 2, 2),  # for tests
}


@dataclass(frozen=True)
class Case:
    """What one child process does; crosses to it as JSON.

    `mode` is "dropout", "plain" (training without dropout) or "inference"; `source` "made", where
    the batches are there before the clock starts, or "loaded", where making them is timed.
    """

    folder: str  # that holds "ours", "torch_brain" and "windows.npz"
    size: str
    mode: str
    precision: str
    source: str = "made"
    recordings: int = 10
    batch_size: int = 32
    device: str = "cpu"
    threads: int = 2
    workers: int = 2  # of torch_brain's loader

    @property
    def shape(self) -> Shape:
        """The sizes, without dropout unless the mode is "dropout"."""
        sizes = asdict(SHAPES[self.size])
        if self.mode != "dropout":
            sizes |= {name: 0.0 for name in sizes if name.endswith("_dropout")}
        return Shape(**sizes)

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return names of recordings and starts of windows, (batches, B), the same on all sides."""
        with np.load(Path(self.folder) / "windows.npz") as file:
            return file["name"], file["start"]


# ------------------------------------------------------------------ the work, and the machine


def matrix_flops(shape: Shape, windows: int, tokens: int, queries: int, training: bool) -> int:
    """Return the floating-point operations in the matrix products of one step as published.

    Two for each product and sum. `tokens` and `queries` are those that are there, over all
    windows: padding is no work, nor is what an attention or a table avoids. Backward takes two
    products for each of the forward ones, so training is three times as much.

    References
    ----------
    Layers of torch_brain 0.2.1, ``models/poyo.py``: cross-attention to the tokens, `depth` times
    self-attention, cross-attention of the queries, and a GEGLU network of four times the width
    after each of them; projections to keys and values as it makes them, token by token.
    """
    dim, cross, own = shape.dim, shape.cross_heads * shape.dim_head, (
        shape.self_heads * shape.dim_head
    )  # fmt: skip
    per_window = math.ceil(LENGTH / LATENT_STEP - 1e-9) * shape.latents_per_step
    latents = windows * per_window

    def feed_forward(rows: int) -> int:
        return 2 * rows * dim * 8 * dim + 2 * rows * 4 * dim * dim

    def cross_attention(rows: int, keys: int, pairs: int) -> int:
        project = 2 * rows * dim * cross * 2 + 2 * keys * dim * 2 * cross
        return project + 2 * 2 * pairs * cross

    forward = cross_attention(latents, tokens, per_window * tokens) + feed_forward(latents)
    each = 2 * latents * dim * 4 * own + 2 * 2 * latents * per_window * own
    forward += shape.depth * (each + feed_forward(latents))
    forward += cross_attention(queries, latents, per_window * queries) + feed_forward(queries)
    forward += 2 * queries * dim * CHANNELS
    return 3 * forward if training else forward


def matrix_rate(precision: str, device: str = "cpu", size: int = 2048, repeats: int = 5) -> float:
    """Return the operations a second of a large square matrix product, the best of some."""
    kind = KIND[precision]
    left, right = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):
        synchronise(device)
        begin = time.perf_counter()
        torch.mm(left, right)
        synchronise(device)
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds[1:])


def synchronise(device: str) -> None:
    """Wait for the accelerator, if that is where the work is."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


# ------------------------------------------------------------------ the child's side


@dataclass(frozen=True)
class Work:
    """A model and its batches: `next_batch` returns what `predict` takes, and the true values.

    `predict` returns predictions of the shape of the values, (K, C) float32. `backward` returns the
    loss of a batch and leaves its gradient in the parameters; plain torch when not given.
    """

    model: torch.nn.Module
    next_batch: Callable[[], tuple[object, torch.Tensor]]
    predict: Callable[..., torch.Tensor]
    backward: Callable[..., torch.Tensor] | None = None


def stepper(work: Work, case: Case) -> Callable[[], None]:
    """Return what takes one step: forward, and in training backward and AdamW."""
    if case.mode == "inference":
        work.model.eval()

        def infer() -> None:
            with torch.no_grad():
                work.predict(work.next_batch()[0])
            synchronise(case.device)

        return infer
    work.model.train()
    optimizer = torch.optim.AdamW(
        work.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )

    def train() -> None:
        inputs, values = work.next_batch()
        optimizer.zero_grad()
        if work.backward is not None:
            loss = work.backward(inputs, values)
        else:
            loss = torch.nn.functional.mse_loss(work.predict(inputs).float(), values)
            loss.backward()
        optimizer.step()
        if not math.isfinite(loss.item()):  # waits for the device too
            raise SystemExit(f"The loss of {case} is not finite, so timing it would be pointless.")

    return train


def run_for(step: Callable[[], None], seconds: float) -> list[float]:
    """Take steps for so long, at least one; return the seconds of each."""
    found, begin = [], time.perf_counter()
    while not found or time.perf_counter() - begin < seconds:
        mark = time.perf_counter()
        step()
        found.append(time.perf_counter() - mark)
    return found


def serve(prepare: Callable[[Case], tuple[Callable[[], Work], np.ndarray]]) -> None:
    """Do what the parent asks, line by line, and answer each line with one of JSON.

    `prepare` reads the data and returns what builds the model, and for each window (tokens,
    queries, sum of its token times, sum of its values): the parent compares them between the
    sides. Memory is counted from after the data were read. A line with a number asks for steps
    of so many seconds; the end of the input ends it.
    """
    case = Case(**json.loads(sys.argv[1]))
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    if case.device.startswith("cuda"):
        torch.set_float32_matmul_precision("medium")  # as the published recipe
    build, facts = prepare(case)
    touch_torch(case)
    base = reset_peak()
    step = stepper(build(), case)
    names = ("torch", "torch_brain") if "torch_brain" in sys.modules else ("torch",)
    answer({"facts": facts.tolist(), "versions": {name: version(name) for name in names}})
    for line in sys.stdin:
        seconds = run_for(step, float(line))
        peak = peak_since(base)
        if case.device.startswith("cuda"):
            peak = torch.cuda.max_memory_allocated()
        answer({"step_s": seconds, "peak_bytes": peak})


def touch_torch(case: Case) -> None:
    """Take a step of a tiny model: what torch loads on first use is no memory of ours or theirs."""
    layer = torch.nn.Linear(8, 8).to(case.device)
    optimizer = torch.optim.AdamW(layer.parameters())
    with torch.autocast(torch.device(case.device).type, KIND["bfloat16"]):
        q = layer(torch.ones(1, 1, 8, 8, device=case.device))
        torch.nn.functional.scaled_dot_product_attention(q, q, q).float().sum().backward()
    optimizer.step()


def answer(found: dict) -> None:
    """Print one line of JSON."""
    print(json.dumps(found), flush=True)
