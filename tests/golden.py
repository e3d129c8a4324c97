"""Golden summaries: what the file of every layout must become, to nine digits.

``python tests/golden.py`` writes those that are missing or changed and prints what changed;
look at each difference before you commit it.
"""

from __future__ import annotations

import difflib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from spikedata.harmonize import harmonize
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording
from spikedata.testing.layouts import Layout, layouts, write_layout

FOLDER = Path(__file__).parent / "data" / "golden"


def harmonized(layout: Layout, folder: Path) -> Recording:
    """Return the recording that a layout's file becomes by its own manifest."""
    return harmonize(write_layout(layout.name, folder), *layout.stated())


def numbers(values: np.ndarray) -> dict:
    """Return what tells arrays apart: size, kind, and weighted sums of their finite values."""
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        return {"n": len(values), "values": sorted({str(one) for one in values.tolist()})[:12]}
    flat = values.astype(np.float64).ravel()
    finite = np.where(np.isfinite(flat), flat, 0.0)
    weights = np.cos(np.arange(len(flat)))  # so that two values that change places are noticed
    return {
        "n": len(values),
        "dtype": values.dtype.name,
        "sum": digits(finite.sum()),
        "weighted": digits(finite @ weights),
    }


def digits(value: float) -> float:
    return float(f"{value:.9g}")


def table(found: IntervalSet) -> dict:
    columns = {name: numbers(values) for name, values in found.columns.items()}
    bounds = {"start": numbers(found.start), "end": numbers(found.end)}
    return {"duration": digits(found.duration), **bounds, "columns": columns}


def summary(recording: Recording) -> dict:
    """Return what a recording holds, small enough to be read by a person."""
    return {
        "recording_id": recording.recording_id,
        "units": {name: numbers(values) for name, values in recording.units.items()},
        "spikes": {"time": numbers(recording.spike_time), "unit": numbers(recording.spike_unit)},
        "domain": table(recording.domain),
        "domain_from": recording.about.get("domain_from", ""),
        "series": {
            name: {"unit": one.unit, "columns": list(one.columns), "rate": one.rate,
                   "time": numbers(one.times()), "values": numbers(one.values)}
            for name, one in recording.series.items()
        },
        "intervals": {name: table(found) for name, found in recording.intervals.items()},
        "splits": {name: table(found) for name, found in recording.splits.items()},
        "targets": list(recording.targets),
        "dropped": dict(recording.dropped),
    }  # fmt: skip


def main() -> None:
    """Write every golden summary anew, or those of the layouts that are named."""
    for name, layout in layouts().items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        path = FOLDER / f"{name}.json"
        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(summary(harmonized(layout, Path(folder))), indent=1) + "\n"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        sys.stdout.writelines(
            difflib.unified_diff(before.splitlines(True), text.splitlines(True), path.name, "now")
        )
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
