"""What every benchmark of this folder writes beside its figures."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent


def provenance() -> dict[str, object]:
    """Return versions, machine and commit; a commit of changed sources ends in ``+changes``."""
    git = ["git", "-C", str(HERE)]
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    changes = subprocess.run(
        [*git, "status", "--porcelain", "--", "../spikedata", "../spikedata_model", "*.py"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = ("neural-spikedata", "torch", "numpy")
    return {
        "versions": {"python": platform.python_version(), **{one: version(one) for one in names}},
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "commit": commit.stdout.strip() + ("+changes" if changes.stdout.strip() else ""),
    }


def _processor() -> str:
    """Return the name of the processor where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def write_result(path: Path, result: dict[str, object]) -> None:
    """Write a result with its provenance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | provenance(), indent=1) + "\n")
