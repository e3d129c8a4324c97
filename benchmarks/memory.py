"""Peak memory of this process, as Linux counts it."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")


def field(name: str) -> int:
    """Return a field of ``/proc/self/status`` in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def reset_peak() -> int:
    """Forget the peak so far; return what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return field("VmRSS")


def peak_since(base: int) -> int:
    """Return how far resident memory rose above `base` since the peak was forgotten."""
    return field("VmHWM") - base
