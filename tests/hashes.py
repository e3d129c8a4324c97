"""One number for all that a batch holds, to compare what different processes made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import numpy as np

from spikedata.batch import Batch


def content(batch: Batch) -> str:
    """Return the SHA-256 of every name, type, shape and bit of a batch."""
    digest = hashlib.sha256()

    def add(name: str, value: object) -> None:
        digest.update(name.encode())
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype.str}{value.shape}".encode())
            digest.update(value.tobytes())
        elif isinstance(value, Mapping):
            for inner, one in value.items():
                add(inner, one)
        elif is_dataclass(value):
            for field in fields(value):
                add(field.name, getattr(value, field.name))
        else:
            digest.update(repr(value).encode())

    add("", batch)
    return digest.hexdigest()
