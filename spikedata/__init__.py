"""Datasets of spikes from many sessions: pinned downloads, one interval store, a window sampler."""

__version__ = "0.1.0"
