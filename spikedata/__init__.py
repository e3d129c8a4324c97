"""Datasets of spikes from many sessions: pinned downloads, one interval store, a window sampler."""

from spikedata.augment import SpikeJitter, TimeScale, UnitDropout, UnitSubset
from spikedata.batch import Batch, Window
from spikedata.errors import (
    ExecutorError,
    FetchError,
    HarmonizeError,
    IntervalError,
    ManifestError,
    SamplingError,
    SpikedataError,
    StoreError,
    ViewError,
)
from spikedata.fetch import fetch
from spikedata.ingest import ingest
from spikedata.intervals import IntervalSet
from spikedata.manifest import Manifest, load_manifest
from spikedata.recording import Recording, Series
from spikedata.sampler import Sampler
from spikedata.store import Store
from spikedata.version import __version__
from spikedata.windows import Around

__all__ = [
    "Around",
    "Batch",
    "ExecutorError",
    "FetchError",
    "HarmonizeError",
    "IntervalError",
    "IntervalSet",
    "Manifest",
    "ManifestError",
    "Recording",
    "Sampler",
    "SamplingError",
    "Series",
    "SpikeJitter",
    "SpikedataError",
    "Store",
    "StoreError",
    "TimeScale",
    "UnitDropout",
    "UnitSubset",
    "ViewError",
    "Window",
    "__version__",
    "fetch",
    "ingest",
    "load_manifest",
]
