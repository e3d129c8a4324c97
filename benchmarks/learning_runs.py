"""One training run of POYO on one recording, ours or torch_brain's, and the linear level.

What `bench_learning.py` and `bench_ablation.py` share. Both sides train on the split "train" of the
same scheme, are scored on the whole of "test" while they train, and at the end on "valid", by which
settings are chosen. Seconds are those of training: evaluations are not counted.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spikedata.recording import Recording
from spikedata.store import Store
from spikedata.testing.reaching import make_reaching_session
from spikedata_model.baselines import wiener_predict
from spikedata_model.checkpoint import load_checkpoint, read_run
from spikedata_model.config import load_config
from spikedata_model.evaluate import predict, r2_score
from spikedata_model.train import train

HERE = Path(__file__).resolve().parent
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Task:
    """One recording of a store, cut by one scheme."""

    store: Path
    recording_id: str
    scheme: str | None = None  # the recording's first one when not given

    def recording(self) -> Recording:
        """Return the recording."""
        return Store(self.store)[self.recording_id]

    @property
    def valid(self) -> bool:
        """Whether settings can be compared without touching the test time."""
        return bool(len(self.recording().split("valid", self.scheme)))


def tasks_of(
    folder: Path, store: Path | None, recordings: Sequence[str], synthetic: Sequence[str],
    duration: float,
) -> list[Task]:  # fmt: skip
    """Return recordings ``ID`` or ``ID@SCHEME`` of a store, then synthetic sessions.

    A synthetic session ``center_out:0`` (task and seed) is written into `folder` unless it is
    there.
    """
    found = []
    for name in recordings:
        if store is None:
            raise SystemExit(f"--recordings {name}: say with --store where it lies.")
        recording_id, _, scheme = name.partition("@")
        found.append(Task(store, recording_id, scheme or None))
    for name in synthetic:
        task, _, seed = name.partition(":")
        session = f"{task}_{seed or 0}_{duration:g}s"
        made = Store(folder / SYNTHETIC, create=True)
        if f"{SYNTHETIC}/{session}" not in made:
            made.write(
                make_reaching_session(int(seed or 0), task=task, duration=duration,  # type: ignore[arg-type]
                                      dataset=SYNTHETIC, session=session),
                {},
            )  # fmt: skip
        found.append(Task(made.path, f"{SYNTHETIC}/{session}"))
    return found


# ------------------------------------------------------------------ the level


def wiener(task: Task) -> dict[str, dict[str, object]]:
    """Return R² and seconds of the Wiener filters on the test split."""
    recording = task.recording()
    target = recording.targets[0]
    series = recording.series[target]
    fit, test = (recording.split(name, task.scheme) for name in ("train", "test"))
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


def seconds_until(rows: Sequence[dict], levels: Sequence[float]) -> float | None:
    """Return when a curve first had every channel at or above its level, or nothing."""
    for row in rows:
        if all(value >= level for value, level in zip(row["r2"], levels, strict=True)):
            return row["train_seconds"]
    return None


def level_of(floor: dict[str, dict]) -> list[float]:
    """Return for each channel the R² of the better of the linear filters."""
    return np.max([one["r2"] for one in floor.values()], axis=0).tolist()


# ------------------------------------------------------------------ ours


class _Enough(Exception):
    """The seconds of a run are used up."""


class Clock:
    """Ends a run after so many seconds of training; pass it as `progress`.

    Of two calls the time between is that of a step, unless an evaluation fell into it.
    """

    def __init__(self, seconds: float, evaluate_every: int) -> None:
        self.seconds, self.every, self.spent = seconds, evaluate_every, 0.0
        self.mark = time.perf_counter()

    def __call__(self, label: str, step: int, total: int) -> None:
        """Count a step; the run ends at the first evaluation after its time."""
        if label.startswith("predicting"):
            return
        now = time.perf_counter()
        evaluated = step % self.every == 0
        if not evaluated:
            self.spent += now - self.mark
        self.mark = now
        if (
            evaluated
            and step < total
            and self.spent >= self.seconds * (self.every - 1) / self.every
        ):
            raise _Enough


def train_ours(task: Task, preset: str, setting: str, seed: int, seconds: float) -> dict:
    """Return one of our runs: its curve on the test split, and R² at the end on valid."""
    settings = [*shlex.split(setting), f"train.seed={seed}", "train.curve_split=test"]
    if task.scheme is not None:
        settings.append(f"data.scheme={task.scheme}")
    every = load_config(preset, settings).train.evaluate_every
    # With a checkpoint at every evaluation a run that is ended leaves its curve.
    config = load_config(preset, [*settings, f"train.checkpoint_every={every}"])
    store = Store(task.store)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        with suppress(_Enough):
            train(store, folder, config, recording_ids=[task.recording_id],
                  progress=Clock(seconds, every))  # fmt: skip
        end, record = load_checkpoint(folder), read_run(folder)
        if end is None:
            raise SystemExit(
                f"{preset} {setting}: no evaluation in {seconds:g} s; give a smaller "
                "train.evaluate_every, or more --seconds."
            )
        valid = None
        if task.valid:
            model = record.build_model()
            model.load_state_dict(end.model)
            (one,) = predict(model, record.data(store), record.config, "valid")
            valid = r2_score(one.truth, one.predicted).tolist()
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
    return {"preset": preset, "parameters": parameters, "rows": rows, "valid_r2": valid,
            "config": record.config.model_dump(mode="json")}  # fmt: skip


# ------------------------------------------------------------------ torch_brain's


def export_arrays(task: Task, path: Path) -> None:
    """Write the arrays that ``torch_brain_poyo.py`` reads."""
    recording = task.recording()
    series = recording.series[recording.targets[0]]
    splits = {name: recording.split(name, task.scheme) for name in ("train", "valid", "test")}
    bounds = {f"{name}_start": one.start for name, one in splits.items()}
    bounds |= {f"{name}_end": one.end for name, one in splits.items()}
    np.savez(
        path,
        spike_time=recording.spike_time,
        spike_unit=recording.spike_unit,
        n_units=recording.n_units,
        target_time=series.times(),
        target_values=np.asarray(series.values, np.float32),
        **bounds,  # type: ignore[arg-type]  # none of them is allow_pickle
    )


def train_theirs(task: Task, python: str, setting: str, seed: int, seconds: float) -> dict:
    """Return what ``torch_brain_poyo.py`` reports of the same recording."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "recording.npz", Path(folder) / "curve.json"
        export_arrays(task, data)
        command = [python, str(HERE / "torch_brain_poyo.py"), "--data", str(data), "--out",
                   str(out), "--seconds", str(seconds), "--seed", str(seed),
                   *shlex.split(setting)]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        result = json.loads(out.read_text())
    for name in ("data", "out"):
        result["config"].pop(name, None)
    rows = [row for row in result["rows"] if row["step"] > 0]
    return {
        "parameters": result["parameters"]["all"],
        "rows": rows,
        **{name: result[name] for name in ("valid_r2", "config", "versions")},
    }


# ------------------------------------------------------------------ kept results


def kept(folder: Path, key: dict[str, object], work: Callable[[], dict]) -> dict:
    """Return the result that `folder` has for a key, or do the work and keep it there.

    The name of the file says what it holds and ends in a hash of all of the key, so that other
    settings are other files.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
    label = re.sub(r"[^A-Za-z0-9.=]+", "-", " ".join(str(one) for one in key.values()))[:80]
    path = folder / f"{label.strip('-')}-{digest}.json"
    if path.exists():
        return json.loads(path.read_text())
    result = {"key": key, **work()}
    folder.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".writing")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    beside.rename(path)
    return result


def is_kept(folder: Path, key: dict[str, object]) -> bool:
    """Return whether `kept` would have nothing to do."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
    return any(folder.glob(f"*-{digest}.json"))
