"""Read with plain h5py the arrays of a file that are harmonised; a child of bench_ingest.py.

    python ingest_floor.py FILE REPEATS

Prints one line of JSON: seconds of each run, and of the SHA-256 of the file.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import h5py
import numpy as np

SKIPPED = ("waveforms", "waveforms_index", "waveforms_index_index")


def read(path: Path) -> int:
    """Return how many bytes the arrays of units, behaviour and trials have."""
    total = 0

    def visit(name: str, node: object) -> None:
        nonlocal total
        if isinstance(node, h5py.Dataset) and name.rpartition("/")[2] not in SKIPPED:
            total += np.asarray(node[()]).nbytes

    with h5py.File(path) as file:
        for group in ("units", "processing/behavior", "intervals/trials"):
            file[group].visititems(visit)
    return total


def main() -> None:
    path, repeats = Path(sys.argv[1]), int(sys.argv[2])
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        total = read(path)
        seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    print(
        json.dumps(
            {"seconds": seconds, "bytes": total, "sha256_seconds": time.perf_counter() - begin}
        )
    )


if __name__ == "__main__":
    main()
