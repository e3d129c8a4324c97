"""Draw the same windows with torch_brain's own dataset and samplers; a child of bench_sampler.py.

    python torch_brain_sampler.py make FOLDER RECORDINGS SCALE
    python torch_brain_sampler.py open FOLDER RECORDINGS
    python torch_brain_sampler.py measure FOLDER RECORDINGS CHECK.npz WINDOWS BATCH REPEATS

The files are torch_brain's HDF5, written by its own `Data.to_hdf5` with what its pipeline for
000688 writes and the benchmark reads. The dataset is its `PerichMillerPopulation2018`, the sampler
its `RandomFixedWindowSampler` over the train intervals, the tokenizer its POYO's, collation its
own: `chain` for joined arrays, `pad8` for padded ones. Drawing the windows of an epoch is not
counted, in its favour. Before anything is timed, the windows of CHECK.npz, which our sampler and a
plain floor agree on, must come out equal here. One row more, "lean", is joined batches without the
prefix that the class gives all unit ids in every window, which they do not need. Prints one line of
JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path

import h5py
import numpy as np
from memory import field
from sampler_store import make_reaching
from torch.utils.data import DataLoader
from torch_brain.batching import chain, collate, pad8, track_mask8
from torch_brain.data import (
    ArrayDict,
    Data,
    Interval,
    IrregularTimeSeries,
    SessionDescription,
    SubjectDescription,
)
from torch_brain.datasets import DatasetIndex, PerichMillerPopulation2018
from torch_brain.models import POYO
from torch_brain.samplers import RandomFixedWindowSampler
from torch_brain.transforms import UnitDropout

DIRNAME = "torch_brain"
DROPOUT = {"min_units": 30, "mode_units": 100, "max_units": 300, "peak": 4, "seed": 0}
"""The triangle that the authors of POYO use for many sessions."""


def names_of(recordings: int) -> list[str]:
    return [f"s{index:04d}" for index in range(recordings)]


def make(folder: Path, recordings: int, scale: float) -> dict:
    """Write the files that are missing."""
    where = folder / DIRNAME
    where.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names_of(recordings)):
        if (where / f"{name}.h5").exists():
            continue
        one = make_reaching(index, scale)
        domain = Interval(0.0, one.duration)
        data = Data(
            session=SessionDescription(id=name),
            subject=SubjectDescription(id=f"m{index % 4}", species="MACACA_MULATTA"),
            units=ArrayDict(id=np.array([f"unit_{unit}" for unit in range(one.units)])),
            spikes=IrregularTimeSeries(
                timestamps=one.spike_time,
                unit_index=one.spike_unit.astype(np.int64),
                domain=domain,
            ),
            cursor=IrregularTimeSeries(
                timestamps=one.cursor_time, pos=one.position, vel=one.velocity, domain=domain
            ),
            trials=Interval(**one.trials),
            domain=domain,
            **{
                f"{split}_domain": Interval(start, end)
                for split, (start, end) in one.splits["chronological"].items()
            },
        )
        beside = where / f"{name}.writing"
        with h5py.File(beside, "w") as file:
            data.to_hdf5(file)
        beside.rename(where / f"{name}.h5")
        if index % 25 == 24:
            print(f"{DIRNAME}: {index + 1} of {recordings} written", file=sys.stderr, flush=True)
    return {"recordings": recordings}


# ------------------------------------------------------------------ the dataset


class Ragged(PerichMillerPopulation2018):
    """Joined arrays: spikes with the unit's number over all recordings, and the velocity."""

    first_unit: dict[str, int]

    def __getitem__(self, index: DatasetIndex) -> dict:
        data = super().__getitem__(index)
        spikes, cursor = data.spikes, data.cursor
        time, target_time = spikes.timestamps, cursor.timestamps
        return {
            "spike_time": chain(time.astype(np.float32)),
            "spike_unit": chain(spikes.unit_index + self.first_unit[index.recording_id]),
            "n_spikes": len(time),
            "target_time": chain(target_time.astype(np.float32)),
            "target_values": chain(cursor.vel),
            "n_samples": len(target_time),
        }


class Lean(Ragged):
    """Without the prefix that the shipped class gives every unit's id in every window."""

    def get_recording_hook(self, data: Data) -> None:
        """Leave the recording as it is."""


class Padded(PerichMillerPopulation2018):
    """The tokens and targets of its POYO, padded to a multiple of eight."""

    model: POYO

    def __getitem__(self, index: DatasetIndex) -> tuple[dict, dict]:
        data = super().__getitem__(index)
        time = data.cursor.timestamps
        target = {
            "timestamps": pad8(time.astype(np.float32)),
            "values": pad8(data.cursor.vel),
            "mask": track_mask8(time),
        }
        return self.model.tokenize(data), target


def build(folder: Path, recordings: int, kind: type, dropout: bool) -> PerichMillerPopulation2018:
    """Return a dataset of the first recordings, its vocabularies ready."""
    transform = None
    if dropout:  # joined arrays keep the numbers of the units, which is less work for it
        transform = UnitDropout(reset_index=kind is Padded, **DROPOUT)
    names = names_of(recordings)
    dataset = kind(root=folder, recording_ids=names, transform=transform, dirname=DIRNAME)
    counts = [len(dataset.get_recording(name).units) for name in names]
    dataset.first_unit = dict(zip(names, np.cumsum([0, *counts]).tolist(), strict=False))
    if kind is not Padded:
        return dataset
    dataset.model = POYO(
        sequence_length=1.0, latent_step=0.125, num_latents_per_step=16, dim_out=2, dim=64, depth=2
    )
    dataset.model.init_vocabs(dataset)
    return dataset


def check(folder: Path, recordings: int, path: Path) -> int:
    """Stop unless every window of the file is the same here, joined and as tokens."""
    ragged, padded = (build(folder, recordings, kind, False) for kind in (Ragged, Padded))
    vocabulary = padded.model.unit_emb
    with np.load(path) as file:
        wanted = dict(file)
    for row, (name, start) in enumerate(zip(wanted["name"], wanted["start"], strict=True)):
        index = DatasetIndex(str(name), float(start), float(start) + 1.0)
        found = {key: getattr(one, "obj", one) for key, one in ragged[index].items()}
        tokens = {key: getattr(one, "obj", one) for key, one in padded[index][0].items()}
        ids = [vocabulary.detokenizer(int(one)) for one in tokens["input_unit_index"]]
        unit = np.array([int(one.rsplit("_", 1)[1]) for one in ids])
        found["tokens"] = ordered(unit, tokens["input_token_type"], tokens["input_timestamps"])
        for key in ("spike_time", "spike_unit", "target_time", "target_values", "tokens"):
            offsets = wanted[f"{key}_offsets"]
            mine = wanted[key][offsets[row] : offsets[row + 1]]
            same = mine.shape == found[key].shape and np.allclose(
                mine, found[key], rtol=0, atol=1e-6
            )
            if not same:
                raise SystemExit(
                    f"{key} of {name} at {start:.6f} s: {len(mine)} rows of ours differ from "
                    f"{len(found[key])} of torch_brain's, so timing them would be pointless."
                )
    return len(wanted["name"])


def ordered(unit: np.ndarray, kind: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return tokens as rows (unit, type, time) in an order that depends on nothing else."""
    time = time.astype(np.float32)
    order = np.lexsort((time, kind, unit))
    return np.stack([unit, kind, time], 1)[order].astype(np.float32)


# ------------------------------------------------------------------ figures


def random_windows(dataset: PerichMillerPopulation2018) -> RandomFixedWindowSampler:
    return RandomFixedWindowSampler(
        sampling_intervals=dataset.get_sampling_intervals("train"), window_length=1.0
    )


def forever(loader: DataLoader) -> Iterator[object]:
    while True:
        yield from loader


def throughput(
    folder: Path, recordings: int, kind: type, dropout: bool, workers: int, batches: int,
    batch_size: int, repeats: int,
) -> list[float]:  # fmt: skip
    """Return windows per second of each repeat, after a warm-up."""
    dataset = build(folder, recordings, kind, dropout)
    loader = DataLoader(
        dataset, batch_size=batch_size, sampler=random_windows(dataset), collate_fn=collate,
        num_workers=workers, persistent_workers=workers > 0, drop_last=True,
    )  # fmt: skip
    drawn = forever(loader)
    for _ in range(2 + 3 * workers):
        next(drawn)
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(batches):
            next(drawn)
        found.append(batches * batch_size / (time.perf_counter() - begin))
    return found


def measure(
    folder: Path, recordings: int, path: Path, windows: int, batch_size: int, repeats: int
) -> dict:
    """Return windows per second of both forms, plain and with dropout, with 0 and 2 workers."""
    for name in names_of(recordings):  # into the page cache
        (folder / DIRNAME / f"{name}.h5").read_bytes()
    checked = check(folder, recordings, path)
    rows = []
    kinds = {"ragged": Ragged, "padded": Padded}
    wanted = [*product(kinds, (False, True), (0, 2)), ("lean", False, 0)]
    for form, dropout, workers in wanted:
        speed = throughput(
            folder, recordings, kinds.get(form, Lean), dropout, workers,
            max(1, windows // batch_size), batch_size, repeats,
        )  # fmt: skip
        row = {"form": form, "dropout": dropout, "workers": workers, "windows_s": speed}
        print(f"torch_brain, {recordings} recordings: {row}", file=sys.stderr, flush=True)
        rows.append(row)
    return {"recordings": recordings, "checked": checked, "rows": rows}


def opening(folder: Path, recordings: int) -> dict:
    """Return seconds and private bytes of opening; every recording is touched once."""
    names = names_of(recordings)
    base = field("RssAnon")
    begin = time.perf_counter()
    dataset = PerichMillerPopulation2018(root=folder, recording_ids=names, dirname=DIRNAME)
    windows = random_windows(dataset)
    seconds = time.perf_counter() - begin
    for name in names:
        data = dataset[DatasetIndex(name, 1.0, 2.0)]
        _ = data.spikes.timestamps, data.spikes.unit_index, data.cursor.timestamps, data.cursor.vel
    del data
    return {
        "recordings": len(windows.sampling_intervals),
        "open_s": seconds,
        "private_bytes": field("RssAnon") - base,
    }


def main() -> None:
    verb, folder, recordings = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if verb == "make":
        result = make(folder, recordings, float(sys.argv[4]))
    elif verb == "open":
        result = opening(folder, recordings)
    else:
        windows, batch_size, repeats = map(int, sys.argv[5:8])
        result = measure(folder, recordings, Path(sys.argv[4]), windows, batch_size, repeats)
    names = ("torch_brain", "torch", "h5py", "numpy")
    print(json.dumps(result | {"versions": {name: version(name) for name in names}}))


if __name__ == "__main__":
    main()
