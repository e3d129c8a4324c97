"""Measure our sampler, and the floor under it, over one store; a child of bench_sampler.py.

    python sampler_child.py open STORE
    python sampler_child.py measure STORE WINDOWS BATCH REPEATS CHECK.npz

`measure` reads the columns through once and then draws an epoch of windows (or as many as it can in
30 s), proves that the floor and the sampler make the same batches, and times both in turns, each
on other windows. Drawing the windows of an epoch is counted with ours, by its share. `open` times
`Sampler(Store(...))` in a process that has done nothing but import. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from memory import STATUS, field
from sampler_floor import LEAST, LENGTH, MODE, MOST, PEAK, Columns, floors, forms

from spikedata.augment import UnitDropout
from spikedata.batch import Batch
from spikedata.loading import loader
from spikedata.ragged import mask_of, pad
from spikedata.sampler import Sampler
from spikedata.store import Store
from spikedata_model.tokenizer import Tokenizer
from spikedata_model.vocabulary import Vocabulary

TARGET = "cursor_velocity"
PAGE = 4096
WARM_S = 30.0  # s after which the epoch before the measurements ends
CHECKED = 4  # batches of the floor and of the sampler that are compared
ACROSS = 32  # windows that torch_brain has to agree on


def open_sampler(store: Store, batch_size: int, dropout: bool = False) -> Sampler:
    augment = [UnitDropout(LEAST, MODE, MOST, PEAK, above="all")] if dropout else []
    return Sampler(
        store, "train", window=LENGTH, batch_size=batch_size, targets=[TARGET], augment=augment
    )


def make_tokenizer(sampler: Sampler) -> Tokenizer:
    ids = sampler.unit_ids
    vocabulary = Vocabulary(tuple(ids.tolist()), tuple(sampler.recording_ids))
    return Tokenizer(vocabulary, ids, sampler.recording_ids, context=LENGTH)


def pad_batch(batch: Batch, tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    """Return tokens and targets of a batch as rectangles, padded to a multiple of eight.

    Our own model takes the tokens as they are; the rectangles are what torch_brain's takes.
    """
    tokens, target = tokenizer(batch), batch.targets[TARGET]
    mask, query_mask = (mask_of(np.asarray(one), 8) for one in (tokens.token_offsets,
                                                                target.offsets))  # fmt: skip
    columns = {
        "unit": pad(tokens.unit_T.numpy(), mask),
        "kind": pad(tokens.type_T.numpy(), mask),
        "time": pad(tokens.time_T.numpy(), mask),
        "mask": mask,
        "query_time": pad(target.time, query_mask),
        "values": pad(target.values, query_mask),
        "query_mask": query_mask,
    }
    return {name: torch.from_numpy(one) for name, one in columns.items()}


# ------------------------------------------------------------------ opening


def private() -> int:
    return field("RssAnon")


def opening(folder: Path) -> dict:
    """Return seconds until the sampler is there and until its first batch, and private memory."""
    base = private()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    sampler = open_sampler(Store(folder), 128)
    opened, opened_cpu = time.perf_counter(), time.process_time()
    after = private()
    sampler.batch(0, 0)
    first, planned = time.perf_counter(), private()
    count = len(sampler.recording_ids)
    for part in np.array_split(np.arange(count), -(-count // 128)):  # every recording, once
        sampler.gather(part, np.zeros(len(part)), np.full(len(part), LENGTH))
    return {
        "recordings": count,
        "open_s": opened - begin,
        "open_cpu_s": opened_cpu - begin_cpu,
        "first_batch_s": first - opened,
        "opened_bytes": after - base,
        "first_batch_bytes": planned - base,
        "private_bytes": private() - base,
    }


# ------------------------------------------------------------------ proofs


def read_columns(store: Store, sampler: Sampler) -> Columns:
    recordings = [store[name] for name in sampler.recording_ids]
    series = [one.series[TARGET] for one in recordings]
    times = [one.time for one in series if one.time is not None]
    return Columns(
        [one.spike_time for one in recordings],
        [one.spike_unit for one in recordings],
        times,
        [one.values for one in series],
        np.array([one.n_units for one in recordings]),
    )


def compare(sampler: Sampler, columns: Columns, tokenizer: Tokenizer, batch_size: int) -> None:
    """Stop unless every floor and the sampler make the same batches, joined and padded."""
    plan = sampler.plan(0)
    for step in range(min(CHECKED, sampler.steps(0))):
        batch = sampler.batch(0, step)
        here = slice(step * batch_size, (step + 1) * batch_size)
        recording, start = np.asarray(plan[0][here], np.int64), plan[1][here]
        padded = {name: one.numpy() for name, one in pad_batch(batch, tokenizer).items()}
        target = batch.targets[TARGET]
        for name, make in floors(columns).items():
            one = make(recording, start)
            rectangles = forms(columns, make)["padded", False](recording, start)
            pairs = {
                "spike_time": (batch.spike_time, one.spike_time),
                "spike_unit": (batch.spike_unit, one.spike_unit),
                "counts": (np.diff(batch.spike_offsets), one.counts),
                "target_time": (target.time, one.target_time),
                "target_values": (target.values, one.target_values),
                "target_counts": (np.diff(target.offsets), one.target_counts),
                "values": (padded["values"], rectangles["values"]),
                "query_mask": (padded["query_mask"], rectangles["query_mask"]),
                "tokens": tuple(
                    np.concatenate(list(token_rows(rows, columns.units, recording)))
                    for rows in (padded, rectangles)
                ),
            }
            for what, (ours, plain) in pairs.items():
                if not np.array_equal(ours, plain):
                    raise SystemExit(f"Step {step}: {what} of the sampler is not that of '{name}'.")


def token_rows(one: dict, units: np.ndarray, recording: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the tokens of each window, (unit of the recording, type, time), in a fixed order."""
    first = np.cumsum(units) - units
    columns = (one["unit"], one["kind"], one["time"], one["mask"])
    for unit, kind, when, kept, index in zip(*columns, recording, strict=True):
        yield ordered(unit[kept] - first[index], kind[kept], when[kept])


def ordered(unit: np.ndarray, kind: np.ndarray, when: np.ndarray) -> np.ndarray:
    order = np.lexsort((when, kind, unit))
    return np.stack([unit, kind, when], 1)[order].astype(np.float32)


def write_check(path: Path, sampler: Sampler, columns: Columns, tokenizer: Tokenizer) -> None:
    """Write windows for torch_brain to agree on: drawn ones, and some whose bounds are events."""
    recording, start = (np.array(one[:ACROSS]) for one in sampler.plan(0)[:2])
    inside = [time[len(time) // 2] for time in (columns.spike_time[0], columns.target_time[0])]
    inside += [columns.spike_time[0][-1] - LENGTH, 0.0]
    recording = np.append(recording, np.zeros(len(inside), recording.dtype))
    start = np.append(start, inside)
    batch = sampler.gather(recording, start, start + LENGTH)
    target = batch.targets[TARGET]
    padded = {name: one.numpy() for name, one in pad_batch(batch, tokenizer).items()}
    tokens = list(token_rows(padded, columns.units, recording))
    found = {
        "name": np.array([sampler.recording_ids[one].split("/")[1] for one in recording]),
        "start": start,
        "spike_time": batch.spike_time,
        "spike_unit": batch.spike_unit,
        "target_time": target.time,
        "target_values": target.values,
        "tokens": np.concatenate(tokens),
        "spike_time_offsets": batch.spike_offsets,
        "spike_unit_offsets": batch.spike_offsets,
        "target_time_offsets": target.offsets,
        "target_values_offsets": target.offsets,
        "tokens_offsets": np.cumsum([0, *(len(one) for one in tokens)]),
    }
    np.savez(path, **found)


# ------------------------------------------------------------------ throughput


def with_workers(
    sampler: Sampler, form: str, tokenizer: Tokenizer, epoch: int, batches: int
) -> float:
    """Return seconds a batch through two loader workers, their start not counted.

    Padded batches are padded in this process, from what the workers hand over.
    """
    drawn = iter(loader(sampler, epoch, workers=2))
    warm = min(10, len(sampler) // 4)
    for _ in range(warm):
        next(drawn)
    batches = min(batches, len(sampler) - warm)
    begin = time.perf_counter()
    for _ in range(batches):
        batch = next(drawn)
        if form == "padded":
            pad_batch(batch, tokenizer)
    return (time.perf_counter() - begin) / batches


def read_through(columns: Columns, sampler: Sampler) -> dict:
    """Touch every page of the mapped columns, then draw an epoch's windows while there is time."""
    begin = time.perf_counter()
    for column in (columns.spike_time, columns.spike_unit, columns.target_time,
                   columns.target_values):  # fmt: skip
        for one in column:
            one.reshape(-1)[:: PAGE // one.itemsize].sum()
    touched, steps, done = time.perf_counter(), sampler.steps(0), 0
    for done in range(1, steps + 1):
        sampler.batch(0, done - 1)
        if time.perf_counter() - touched > WARM_S:
            break
    return {
        "touch_s": touched - begin,
        "epoch_s": time.perf_counter() - touched,
        "epoch_share": done / steps,
    }


def timed(
    work: Callable[[int, int], object], epoch: int, first: int, count: int, steps: int
) -> float:
    """Return seconds a batch."""
    begin = time.perf_counter()
    for step in range(count):
        work(epoch, (first + step) % steps)
    return (time.perf_counter() - begin) / count


def jobs_of(
    samplers: dict[bool, Sampler], columns: Columns, tokenizer: Tokenizer, batch_size: int
) -> dict[tuple[str, bool, str], Callable[[int, int], object]]:
    """Return what is timed, by form, dropout and name: functions of epoch and step."""
    found: dict[tuple[str, bool, str], Callable[[int, int], object]] = {}
    for dropout, sampler in samplers.items():
        found["ragged", dropout, "ours"] = sampler.batch
        found["padded", dropout, "ours"] = lambda epoch, step, sampler=sampler: pad_batch(
            sampler.batch(epoch, step), tokenizer
        )
    plan = samplers[False].plan
    for name, make in floors(columns).items():
        for (form, dropout), floor in forms(columns, make).items():

            def work(epoch: int, step: int, floor: Callable = floor) -> object:
                recording, start, _ = plan(epoch)
                here = slice(step * batch_size, (step + 1) * batch_size)
                return floor(recording[here], start[here])

            found[form, dropout, name] = work
    return found


def measure(folder: Path, windows: int, batch_size: int, repeats: int, check: Path) -> dict:
    """Return windows per second of the sampler and of every floor, and what is mapped."""
    store = Store(folder)
    samplers = {dropout: open_sampler(store, batch_size, dropout) for dropout in (False, True)}
    sampler = samplers[False]
    tokenizer = make_tokenizer(sampler)
    columns = read_columns(store, sampler)
    read = read_through(columns, sampler)
    compare(sampler, columns, tokenizer, batch_size)
    write_check(check, sampler, columns, tokenizer)
    steps, count = sampler.steps(0), max(1, windows // batch_size)
    jobs = jobs_of(samplers, columns, tokenizer, batch_size)
    seconds: dict[tuple, list[float]] = {name: [] for name in jobs}
    planned = []
    for epoch in range(1, repeats + 2):  # the first one warms up
        begin = time.perf_counter()
        total = len(samplers[False].plan(epoch)[0])
        share = (time.perf_counter() - begin) * batch_size / total
        samplers[True].plan(epoch)
        planned.append(share)
        for place, (name, work) in enumerate(jobs.items()):
            first = (epoch * len(jobs) + place) * count
            spent = timed(work, epoch, first, count, steps - (steps > 1))
            if epoch > 1:
                seconds[name].append(spent + (share if name[2] == "ours" else 0.0))
    rows = [
        {"form": form, "dropout": dropout, "what": what, "workers": 0,
         "windows_s": [batch_size / one for one in seconds[form, dropout, what]]}
        for form, dropout, what in jobs
    ]  # fmt: skip
    for form in ("ragged", "padded"):
        for dropout in (False, True):
            found = [
                with_workers(samplers[dropout], form, tokenizer, 100 + repeat, 2 * count)
                for repeat in range(min(repeats, 3))
            ]
            rows.append(
                {"form": form, "dropout": dropout, "what": "ours", "workers": 2,
                 "windows_s": [batch_size / one for one in found]}
            )  # fmt: skip
    return {
        "recordings": len(sampler.recording_ids),
        **read,
        "plan_share": float(np.median(planned) / np.median(seconds["ragged", False, "ours"])),
        **mapped_bytes(),
        "rows": rows,
    }


def mapped_bytes() -> dict[str, int]:
    """Return the bytes of files that are mapped, and how many of them by huge pages."""
    lines = STATUS.with_name("smaps_rollup").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if " kB" in line}
    return {"mapped_bytes": field("RssFile"), "huge_bytes": found.get("FilePmdMapped", 0)}


def main() -> None:
    verb, folder = sys.argv[1], Path(sys.argv[2])
    if verb == "open":
        result = opening(folder)
    else:
        windows, batch_size, repeats = map(int, sys.argv[3:6])
        result = measure(folder, windows, batch_size, repeats, Path(sys.argv[6]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
