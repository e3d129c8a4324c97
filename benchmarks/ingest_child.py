"""Ingest one file a few times; a child of bench_ingest.py.

    python ingest_child.py LAYOUT FILE OUT SHA256 REPEATS

Prints one line of JSON: seconds of each run, what the recording holds, and the peak of memory of
the first run above what is there once a small file has been ingested (so: above the imports).
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from memory import peak_since, reset_peak

from spikedata.files import sha256_of
from spikedata.ingest import ingest_asset
from spikedata.manifest import Asset, Dataset
from spikedata.store import Store
from spikedata.testing.layouts import layouts, write_layout


def pinned(asset: Asset, path: Path, digest: str) -> Asset:
    """Return the asset with the size and the hash of a file, and no other pin."""
    pins = {"size": path.stat().st_size, "sha256": digest, "md5": None, "etag": None}
    return asset.model_copy(update=pins)


def run(dataset: Dataset, asset: Asset, path: Path, store: Path) -> float:
    begin = time.perf_counter()
    result = ingest_asset(dataset, asset, path, store)
    seconds = time.perf_counter() - begin
    if result.status != "done":
        raise SystemExit(f"{result.status}: {result.message}")
    return seconds


def main() -> None:
    name, path, out, digest, repeats = sys.argv[1:]
    dataset, asset = layouts()[name].stated()
    small = write_layout(name, Path(out) / "small")
    run(dataset, pinned(asset, small, sha256_of(small)), small, Path(out) / "warm")
    base = reset_peak()
    seconds, peaks = [], []
    for number in range(int(repeats)):
        store = Path(out) / str(number)
        shutil.rmtree(Path(out) / str(number - 1), ignore_errors=True)  # its pages are used again
        seconds.append(run(dataset, pinned(asset, Path(path), digest), Path(path), store))
        peaks.append(peak_since(base))
    header = Store(store).header(dataset.recording_id(asset))
    arrays = sum(entry.size for entry in header.files.values())
    print(
        json.dumps(
            {
                "seconds": seconds, "peak_bytes": peaks[0], "store_bytes": arrays,
                "spikes": header.n_spikes, "units": header.n_units,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
