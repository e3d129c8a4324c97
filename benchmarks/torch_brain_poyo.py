"""Learning curve of torch_brain's own POYO on one recording, over seconds of training.

The question: how fast does it learn? This is the neighbour's side of our learning-curve
benchmark. It runs where torch_brain 0.2 and torch are installed and this package is not: the
recording comes in as a plain ``.npz`` and the curve goes out as JSON, so that both sides read the
same arrays and are scored by the same rule.

The model, tokenizer, collation, samplers, dataset and HDF5 storage are torch_brain's, joined the
way its README and its POYO example join them: a ``Dataset`` subclass whose ``__getitem__`` returns
the tokenized window and its target, a ``DataLoader`` with ``collate``, mean squared error over the
unpadded samples. What is ours is the wall clock, the schedules by time, and the score.

The ``.npz`` holds ``spike_time`` (N,) float64 s, sorted; ``spike_unit`` (N,) int32; ``n_units``;
``target_time`` (T,) float64 s, sorted; ``target_values`` (T, C) float32; and ``train_start``,
``train_end``, ``test_start``, ``test_end``, half-open intervals in seconds; and, where settings are
to be compared, ``valid_start`` and ``valid_end``, scored once at the end. ``--toy`` makes a small
one instead, for a smoke test.

The clock starts before the first batch is made and stops while the model is evaluated; writing the
HDF5 file and building the model are not counted. Rows before the last one were taken in the middle
of a decaying schedule: only the last row of such a run is a fair end point.

    python benchmarks/torch_brain_poyo.py --data recording.npz --out curve.json --seconds 240
"""

import argparse
import json
import math
import os
import platform
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch_brain.batching import collate, pad8, track_mask8
from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries, SessionDescription
from torch_brain.datasets import Dataset, DatasetIndex
from torch_brain.datasets.mixins import SpikingDatasetMixin
from torch_brain.models import POYO
from torch_brain.samplers import RandomFixedWindowSampler, SequentialFixedWindowSampler
from torch_brain.transforms import UnitDropout

RECORDING_ID = "recording"
PUBLISHED_LR_PER_WINDOW = 3.125e-5  # torch_brain examples/poyo/configs: base_lr, times batch size
PUBLISHED_WEIGHT_DECAY = 1e-4  # the same configs


# --- the recording ------------------------------------------------------------------------------


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of ``path``, or stop with every problem found in them."""
    names = ["spike_time", "spike_unit", "n_units", "target_time", "target_values"]
    names += ["train_start", "train_end", "test_start", "test_end"]
    with np.load(path) as file:
        missing = [name for name in names if name not in file.files]
        if missing:
            raise SystemExit(f"{path}: no array {', '.join(missing)}; export the recording again.")
        bounds = ("valid_start", "valid_end")
        arrays = {name: file[name] if name in file.files else np.empty(0)
                  for name in (*names, *bounds)}  # fmt: skip
    for name in ("train_start", "train_end", "test_start", "test_end", *bounds):
        arrays[name] = np.atleast_1d(arrays[name]).astype(np.float64)

    unit, n_units = arrays["spike_unit"], int(arrays["n_units"])
    problems = [
        f"{name} is not sorted"
        for name in ("spike_time", "target_time")
        if np.any(np.diff(arrays[name]) < 0)
    ]
    if unit.size and not (unit.min() >= 0 and unit.max() < n_units):
        problems.append(f"spike_unit leaves 0..{n_units - 1}")
    if not np.isfinite(arrays["target_values"]).all():
        problems.append("target_values is not finite")
    train_test = [(arrays[f"{split}_start"], arrays[f"{split}_end"]) for split in ("train", "test")]
    (train_start, train_end), (test_start, test_end) = train_test
    if np.any(np.maximum.outer(train_start, test_start) < np.minimum.outer(train_end, test_end)):
        problems.append("train and test intervals overlap")
    if np.any(
        np.maximum.outer(arrays["valid_start"], train_start)
        < np.minimum.outer(arrays["valid_end"], train_end)
    ):
        problems.append("train and valid intervals overlap")
    if problems:
        raise SystemExit(f"{path}: {'; '.join(problems)}. Export the recording again.")
    return arrays


def toy_arrays(seed: int) -> dict[str, np.ndarray]:
    """Return 60 s of 20 units, each tuned to a slow two-dimensional movement."""
    rng = np.random.default_rng(seed)
    target_time = np.arange(0, 60, 0.05)
    phase = rng.uniform(0, 2 * np.pi, size=(2, 4))
    values = np.sin(2 * np.pi * target_time[:, None, None] * [0.3, 0.5, 0.7, 1.1] + phase).sum(-1)
    tuning = rng.normal(size=(2, 20)) / 2
    counts = rng.poisson(np.exp(values @ tuning / 2 + np.log(15)) * 0.05)
    row, unit = np.nonzero(counts)
    row, unit = (np.repeat(index, counts[counts > 0]) for index in (row, unit))
    spike_time = target_time[row] + rng.uniform(0, 0.05, size=row.size)
    order = np.argsort(spike_time)
    return {
        "spike_time": spike_time[order],
        "spike_unit": unit[order].astype(np.int32),
        "n_units": np.array(20),
        "target_time": target_time,
        "target_values": values.astype(np.float32),
        "train_start": np.array([0.0]),
        "train_end": np.array([45.0]),
        "test_start": np.array([45.0]),
        "test_end": np.array([60.0]),
        "valid_start": np.empty(0),
        "valid_end": np.empty(0),
    }


def rows_inside(time_s: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return a mask of the times inside any of the half-open intervals."""
    return ((time_s[:, None] >= start) & (time_s[:, None] < end)).any(axis=1)


def write_recording(arrays: dict[str, np.ndarray], folder: Path) -> None:
    """Write the recording as torch_brain stores one: ``Data`` in ``folder/<recording id>.h5``.

    The targets carry their row number, so that predictions are stitched by sample and not by
    comparing float32 times.
    """
    spike_time, target_time = arrays["spike_time"], arrays["target_time"]
    first = min(arrays["train_start"].min(), arrays["test_start"].min(), target_time[0])
    last = max(arrays["train_end"].max(), arrays["test_end"].max(), target_time[-1])
    if spike_time.size:
        first, last = min(first, spike_time[0]), max(last, spike_time[-1])
    domain = Interval(float(first), float(np.nextafter(last, np.inf)))
    Data(
        session=SessionDescription(id=RECORDING_ID),
        units=ArrayDict(id=np.array([f"unit{i:05d}" for i in range(int(arrays["n_units"]))])),
        spikes=IrregularTimeSeries(
            timestamps=spike_time,
            unit_index=arrays["spike_unit"].astype(np.int64),
            domain=domain,
        ),
        target=IrregularTimeSeries(
            timestamps=target_time,
            values=arrays["target_values"].astype(np.float32),
            row=np.arange(target_time.size),
            domain=domain,
        ),
        train_domain=Interval(arrays["train_start"], arrays["train_end"]),
        valid_domain=Interval(arrays["valid_start"], arrays["valid_end"]),
        test_domain=Interval(arrays["test_start"], arrays["test_end"]),
        domain=domain,
    ).save(folder / f"{RECORDING_ID}.h5")


class RecordingWindows(SpikingDatasetMixin, Dataset):
    """A torch_brain dataset whose windows come out tokenized, with z-scored targets."""

    spiking_dataset_mixin_uniquify_unit_ids = True  # as torch_brain's motor-cortex datasets do

    def __init__(self, folder: Path, mean: np.ndarray, std: np.ndarray) -> None:
        super().__init__(dataset_dir=folder, namespace_attributes=["session.id", "units.id"])
        self.mean, self.std = mean, std
        self.tokenize: Callable[[Data], dict] | None = None

    def get_sampling_intervals(self, split: str) -> dict[str, Interval]:
        """Return the intervals that windows of ``split`` may be drawn from."""
        return {rid: getattr(self.get_recording(rid), f"{split}_domain") for rid in [RECORDING_ID]}

    def __getitem__(self, index: DatasetIndex) -> tuple[dict, dict]:
        """Return the model's inputs and the targets of one window."""
        data = super().__getitem__(index)
        time_s = data.target.timestamps
        target = {
            "timestamps": pad8(time_s.astype(np.float32)),
            "values": pad8(((data.target.values - self.mean) / self.std).astype(np.float32)),
            "row": pad8(data.target.row),
            "mask": track_mask8(time_s),
        }
        return self.tokenize(data), target


def check_windows(dataset: RecordingWindows, arrays: dict[str, np.ndarray], n: int = 8) -> None:
    """Stop unless windows read through torch_brain hold what a mask over the arrays selects."""
    rng = np.random.default_rng(0)
    starts = rng.uniform(arrays["train_start"][0], arrays["train_end"][0] - 1, size=n)
    for start in starts:
        # The dataset's own reader: __getitem__ of the subclass would tokenize.
        data = Dataset.__getitem__(dataset, DatasetIndex(RECORDING_ID, start, start + 1.0))
        inside = rows_inside(arrays["spike_time"], np.array([start]), np.array([start + 1.0]))
        rows = rows_inside(arrays["target_time"], np.array([start]), np.array([start + 1.0]))
        same = (
            np.array_equal(data.spikes.unit_index, arrays["spike_unit"][inside])
            and np.allclose(data.spikes.timestamps, arrays["spike_time"][inside] - start)
            and np.array_equal(data.target.row, np.flatnonzero(rows))
        )
        if not same:
            raise SystemExit(
                f"The window at {start:.6f} s differs from the arrays, so timing it would be "
                "pointless; check the export, then torch_brain's version."
            )


# --- optimisation -------------------------------------------------------------------------------


class SparseLamb(torch.optim.Optimizer):
    """LAMB as the published POYO recipe uses it; torch_brain 0.2 no longer ships an optimiser.

    No bias correction; the trust ratio is min(|w|, 10) / |update|; with ``rows`` a group's rows
    whose gradient is zero are left alone.

    References
    ----------
    You et al. 2019, arXiv 1904.00962, algorithm 2; constants of torch_brain's POYO configs.
    """

    def __init__(self, params: list[dict], lr: float, weight_decay: float) -> None:
        defaults = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "rows": False})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["m"], state["v"] = torch.zeros_like(weight), torch.zeros_like(weight)
                grad, live = weight.grad, 1.0
                if group["rows"]:
                    live = (grad != 0).any(dim=-1, keepdim=True).to(grad.dtype)
                state["m"].add_(live * (1 - beta1) * (grad - state["m"]))
                state["v"].add_(live * (1 - beta2) * (grad.square() - state["v"]))
                update = state["m"] / (state["v"].sqrt() + group["eps"])
                update.add_(weight, alpha=group["weight_decay"])
                weight_norm, update_norm = weight.norm().clamp(max=10.0), update.norm()
                ratio = torch.where(
                    (weight_norm > 0) & (update_norm > 0), weight_norm / update_norm, 1.0
                )
                weight.sub_(live * group["lr"] * ratio * update)


def make_optimizer(model: POYO, args: argparse.Namespace) -> torch.optim.Optimizer:
    """Return the optimiser, with the two vocabularies in a group of their own."""
    named = list(model.named_parameters())
    vocabulary = [p for name, p in named if name.startswith(("unit_emb.", "session_emb."))]
    weights = [p for name, p in named if not name.startswith(("unit_emb.", "session_emb."))]
    groups = [{"params": vocabulary}, {"params": weights}]
    if args.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=args.lr, weight_decay=args.weight_decay)
    groups[0]["rows"] = True
    return SparseLamb(groups, lr=args.lr, weight_decay=args.weight_decay)


def cosine(begin: float, end: float, fraction: float) -> float:
    """Return the point at ``fraction`` of a half cosine from ``begin`` to ``end``."""
    return end + (begin - end) * (1 + math.cos(math.pi * fraction)) / 2


def set_schedule(optimizer: torch.optim.Optimizer, done: float, args: argparse.Namespace) -> float:
    """Set and return the learning rate at ``done``, the fraction of the time budget spent.

    ``onecycle`` is the published one, ``OneCycleLR(div_factor=1)``: flat to ``decay_start``, a
    cosine down to 1e-4 of the peak, and beta1 from 0.95 to 0.85 and back. It and ``cosine`` follow
    the clock, because the number of steps in a time budget is not known in advance.
    """
    done = min(done, 1.0)
    factor = 1.0
    if args.schedule == "cosine":
        factor = cosine(1.0, 0.0, done)
    elif args.schedule == "onecycle":
        turn = args.decay_start
        falling = done >= turn
        part = (done - turn) / (1 - turn) if falling else done / turn
        factor = cosine(1.0, 1e-4, part) if falling else 1.0
        beta1 = cosine(0.85, 0.95, part) if falling else cosine(0.95, 0.85, part)
        for group in optimizer.param_groups:
            group["betas"] = (beta1, group["betas"][1])
    if done < args.warmup:
        factor *= max(done, 1e-6) / args.warmup
    for group in optimizer.param_groups:
        group["lr"] = args.lr * factor
    return args.lr * factor


# --- training and scoring -----------------------------------------------------------------------


def on_device(tensors: dict, device: torch.device) -> dict:
    """Return the batch on the model's device."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def forever(loader: DataLoader) -> Iterator[tuple[dict, dict]]:
    """Yield batches epoch after epoch; every epoch draws new windows."""
    while True:
        yield from loader


def r2_per_axis(truth: np.ndarray, predicted: np.ndarray) -> list[float]:
    """Return 1 - SSE / SST of every column, in float64."""
    truth, predicted = truth.astype(np.float64), predicted.astype(np.float64)
    error = np.square(truth - predicted).sum(axis=0)
    total = np.square(truth - truth.mean(axis=0)).sum(axis=0)
    return (1 - error / total).tolist()


@torch.inference_mode()
def score(model: POYO, loader: DataLoader, truth: np.ndarray, rows: np.ndarray) -> list[float]:
    """Return R² per axis over the samples ``rows``, overlapping predictions averaged by sample."""
    model.eval()
    device = model.readout.weight.device
    total, count = np.zeros(truth.shape), np.zeros(len(truth), dtype=np.int64)
    for inputs, target in loader:
        predicted = model(
            **on_device(inputs, device), output_timestamps=target["timestamps"].to(device)
        )
        mask = target["mask"].numpy()
        row = target["row"].numpy()[mask]
        np.add.at(total, row, predicted.cpu().numpy()[mask])
        np.add.at(count, row, 1)
    model.train()
    if not count[rows].all():
        raise SystemExit(f"{(count[rows] == 0).sum()} test samples were never predicted.")
    return r2_per_axis(truth[rows], total[rows] / count[rows, None])


def train(
    model: POYO,
    train_loader: DataLoader,
    evaluate: Callable[[], list[float]],
    args: argparse.Namespace,
) -> tuple[list[dict], dict]:
    """Train for the time budget and return the curve and the times of its steps."""
    optimizer = make_optimizer(model, args)
    device = model.readout.weight.device
    rows = [{"train_seconds": 0.0, "step": 0, "windows": 0, "r2": evaluate(), "train_loss": None}]
    losses, batch_s, step_s = [], [], []
    trained, cpu, step, windows, due = 0.0, 0.0, 0, 0, args.eval_every
    model.train()
    mark, cpu_mark = time.perf_counter(), time.process_time()
    for inputs, target in forever(train_loader):
        ready = time.perf_counter()
        learning_rate = set_schedule(optimizer, trained / args.seconds, args)
        inputs, target = on_device(inputs, device), on_device(target, device)
        mask = target["mask"]
        predicted = model(**inputs, output_timestamps=target["timestamps"])
        loss = torch.nn.functional.mse_loss(predicted[mask], target["values"][mask])
        optimizer.zero_grad()
        loss.backward()
        if args.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()
        losses.append(loss.item())  # waits for the device, so the clock is honest on a GPU too
        step, windows = step + 1, windows + mask.shape[0]
        now = time.perf_counter()
        batch_s.append(ready - mark)
        step_s.append(now - ready)
        trained, mark = trained + now - mark, now
        last = trained >= args.seconds or step == args.max_steps
        if last or trained >= due:
            cpu += time.process_time() - cpu_mark  # well under wall x threads: a busy machine
            row = {"train_seconds": trained, "step": step, "windows": windows, "r2": evaluate()}
            row |= {"train_loss": float(np.mean(losses)), "lr": learning_rate, "cpu_seconds": cpu}
            rows.append(row)
            print(json.dumps(row), flush=True)
            losses = []
            due = (trained // args.eval_every + 1) * args.eval_every
            mark, cpu_mark = time.perf_counter(), time.process_time()
        if last:
            break
    times = {"make_batch_s": percentiles(batch_s), "train_step_s": percentiles(step_s)}
    return rows, times


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return the first value, which is cold, and p50 and p95 of the others."""
    warm = seconds[1:] or seconds
    p50, p95 = np.percentile(warm, [50, 95])
    return {"first": seconds[0], "p50": float(p50), "p95": float(p95)}


# --- the run ------------------------------------------------------------------------------------


def make_model(n_axes: int, args: argparse.Namespace) -> POYO:
    """Return torch_brain's POYO; the defaults are its 1.3 M configuration."""
    ffn, lin, atn = args.dropouts
    return POYO(
        sequence_length=args.sequence,
        latent_step=args.latent_step,
        num_latents_per_step=args.latents_per_step,
        dim_out=n_axes,
        dim=args.dim,
        depth=args.depth,
        dim_head=args.dim_head,
        cross_heads=args.cross_heads,
        self_heads=args.self_heads,
        ffn_dropout=ffn,
        lin_dropout=lin,
        atn_dropout=atn,
    )


def make_loaders(
    model: POYO, folder: Path, arrays: dict[str, np.ndarray], args: argparse.Namespace
) -> tuple[DataLoader, dict[str, DataLoader], np.ndarray]:
    """Return the training loader, those of test and valid, and the z-scored targets of all time."""
    in_train = rows_inside(arrays["target_time"], arrays["train_start"], arrays["train_end"])
    values = arrays["target_values"].astype(np.float64)
    mean, std = values[in_train].mean(axis=0), values[in_train].std(axis=0)
    datasets = [RecordingWindows(folder, mean, std) for _ in range(2)]
    train_set, test_set = datasets
    check_windows(train_set, arrays)
    model.init_vocabs(train_set)
    for dataset in datasets:
        dataset.tokenize = model.tokenize
    if args.unit_dropout:
        low, mode, high = args.unit_dropout
        train_set.transform = UnitDropout(
            min_units=low, mode_units=mode, max_units=high, peak=4, seed=args.seed
        )
    train_sampler = RandomFixedWindowSampler(
        sampling_intervals=train_set.get_sampling_intervals("train"),
        window_length=args.sequence,
        generator=torch.Generator().manual_seed(args.seed + 1),
    )
    test_samplers = {
        split: SequentialFixedWindowSampler(
            sampling_intervals=test_set.get_sampling_intervals(split),
            window_length=args.sequence,
            step=args.sequence / 2,
        )
        for split in ("test", "valid")
        if len(arrays[f"{split}_start"])
    }
    if len(train_sampler) < args.batch_size:
        raise SystemExit(
            f"An epoch has {len(train_sampler)} windows and --batch-size is {args.batch_size}, so "
            f"no batch would ever be full; use a --batch-size of at most {len(train_sampler)}."
        )
    train_loader = DataLoader(
        train_set,
        sampler=train_sampler,
        batch_size=args.batch_size,
        drop_last=True,
        collate_fn=collate,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    test_loaders = {
        split: DataLoader(
            test_set, sampler=sampler, batch_size=args.eval_batch_size, collate_fn=collate
        )
        for split, sampler in test_samplers.items()
    }
    return train_loader, test_loaders, (values - mean) / std


def provenance() -> dict:
    """Return versions, machine and commit."""
    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torch_brain", "numpy")},
        },
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "commit": commit or None,
    }


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="the recording, .npz")
    source.add_argument("--toy", action="store_true", help="a small synthetic recording instead")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the curve, .json")
    add("--seconds", type=float, default=240.0, help="training time; evaluation is not counted")
    add("--eval-every", type=float, default=20.0, help="training seconds between evaluations")
    add("--max-steps", type=int, default=0, help="stop after so many steps; 0: only the clock")
    add("--dim", type=int, default=64)
    add("--depth", type=int, default=6)
    add("--dim-head", type=int, default=64)
    add("--cross-heads", type=int, default=2)
    add("--self-heads", type=int, default=8)
    add("--latents-per-step", type=int, default=16)
    add("--latent-step", type=float, default=0.125)
    add("--sequence", type=float, default=1.0, help="window length, s")
    add("--dropouts", type=float, nargs=3, default=[0.2, 0.4, 0.2], metavar=("FFN", "LIN", "ATN"))
    kept = "units kept in a window, a triangle; published for one session: 60 300 1000"
    add("--unit-dropout", type=int, nargs=3, metavar=("MIN", "MODE", "MAX"), help=kept)
    add("--batch-size", type=int, default=128)
    add("--eval-batch-size", type=int, default=16)
    add("--optimizer", choices=["adamw", "sparse_lamb"], default="adamw")
    add("--lr", type=float, help="peak; default 1e-3 for adamw, 3.125e-5 x batch for sparse_lamb")
    add("--weight-decay", type=float, default=PUBLISHED_WEIGHT_DECAY)
    add("--grad-clip", type=float, default=0.0, help="largest gradient norm; 0: off, as published")
    add("--schedule", choices=["constant", "onecycle", "cosine"], default="onecycle")
    add("--warmup", type=float, default=0.0, help="fraction of the time with a rising rate")
    add("--decay-start", type=float, default=0.5, help="onecycle: fraction at which it falls")
    add("--workers", type=int, default=0, help="loader processes; they go on during evaluation")
    add("--threads", type=int, default=0, help="torch threads; 0: torch's own choice")
    add("--device", default="cpu")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.lr is None:
        args.lr = 1e-3 if args.optimizer == "adamw" else PUBLISHED_LR_PER_WINDOW * args.batch_size
    if not 0 < args.decay_start < 1:
        parser.error("--decay-start lies between 0 and 1")
    return args


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002  torch_brain's UnitDropout draws from the global state
    random.seed(args.seed)
    arrays = toy_arrays(args.seed) if args.toy else load_arrays(args.data)
    rows_of = {
        split: np.flatnonzero(
            rows_inside(arrays["target_time"], arrays[f"{split}_start"], arrays[f"{split}_end"])
        )
        for split in ("test", "valid")
    }
    with tempfile.TemporaryDirectory() as folder:
        write_recording(arrays, Path(folder))
        model = make_model(arrays["target_values"].shape[1], args)
        train_loader, loaders, truth = make_loaders(model, Path(folder), arrays, args)
        model.to(args.device)
        rows, times = train(
            model, train_loader, lambda: score(model, loaders["test"], truth, rows_of["test"]), args
        )
        valid = (
            score(model, loaders["valid"], truth, rows_of["valid"]) if "valid" in loaders else None
        )
    n_vocabulary = model.unit_emb.weight.numel() + model.session_emb.weight.numel()
    n_parameters = sum(p.numel() for p in model.parameters())
    config = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    result = {
        "benchmark": "torch_brain_poyo",
        "rows": rows,
        "valid_r2": valid,
        "config": config,
        "parameters": {"all": n_parameters, "without_vocabularies": n_parameters - n_vocabulary},
        "data": {
            "units": int(arrays["n_units"]),
            "spikes": int(arrays["spike_time"].size),
            "train_windows_per_epoch": len(train_loader.sampler),
            "test_windows": len(loaders["test"].sampler),
            "test_samples": int(rows_of["test"].size),
        },
        "times": times,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **provenance(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
