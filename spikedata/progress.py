"""How long work tells its caller how far it is."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Called with a label, the amount done and the amount in all (bytes, assets or steps)."""


def silent(label: str, done: int, total: int) -> None:
    """Report to nobody."""
