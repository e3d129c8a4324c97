"""The default harmoniser: an NWB file to a recording, driven wholly by the manifest's options.

With no ``series`` every behavioural series of the file is taken under its own name; those that
are not behaviour or cannot be read are counted as ``series.skipped``. `spikedata.draft` lists the
other rules.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from spikedata.draft import Draft
from spikedata.errors import HarmonizeError
from spikedata.files import Source
from spikedata.manifest import Asset, Dataset
from spikedata.nwb import Entry, NwbFile
from spikedata.options import SeriesOptions
from spikedata.recording import Recording
from spikedata.series import build_series

__all__ = ["all_tables", "harmonize", "slug", "why_not_behaviour"]

BEHAVIOURAL_TYPES = ("TimeSeries", "SpatialSeries", "AbstractFeatureSeries")
FASTEST_RATE = 2500.0  # Hz; raw analogue channels are sampled faster, behaviour is not
MOST_VALUES = 50_000_000  # per series, when the manifest does not ask for it by name


def harmonize(source: Source, dataset: Dataset, asset: Asset) -> Recording:
    """Return the recording that an NWB file becomes.

    Parameters
    ----------
    source : Path or binary file
        The file.
    dataset, asset : Dataset, Asset
        What the manifest says; ``dataset.harmonize`` drives everything.

    Returns
    -------
    Recording
        Not yet checked: `spikedata.harmonize.harmonize` does that.

    Raises
    ------
    HarmonizeError
        If the file has no units, lacks what the manifest names, or is damaged.
    """
    draft = Draft(dataset, asset)
    with NwbFile(source) as nwb:
        draft.describe(nwb)
        for one in draft.options.series:
            draft.take_series(nwb, one)
        if not draft.options.series:
            _take_all_behaviour(nwb, draft)
        wanted = {one.name: one.source for one in draft.options.intervals} or all_tables(nwb)
        optional = {one.name for one in draft.options.intervals if one.optional}
        for name, path in wanted.items():
            if name in optional and not nwb.has(path):
                draft.dropped["intervals.absent"] += 1
                continue
            draft.take_table(name, nwb.read_table(path))
        draft.take_units(nwb)
    return draft.finish()


def _take_all_behaviour(nwb: NwbFile, draft: Draft) -> None:
    """Take every behavioural series of the file under its own name, or its path if that repeats.

    What is left out is named in ``about["series_skipped"]``, with the reason.
    """
    listed = [
        entry
        for entry in nwb.listing()
        if entry.kind in ("series", "link")
        and entry.path.startswith(("acquisition/", "processing/"))
    ]
    names = Counter(entry.path.rsplit("/", 1)[-1] for entry in listed)
    skipped = []
    for entry in listed:
        last = entry.path.rsplit("/", 1)[-1]
        name = slug(last if names[last] == 1 else entry.path.replace("/", "."))
        reason, built, counts = why_not_behaviour(entry), None, Counter[str]()
        if not reason:
            try:
                options = SeriesOptions(name=name, source=(entry.path,))
                built = build_series(options, [nwb.read_series(entry.path)], counts)
                reason = "" if len(built) else "no usable sample"
            except HarmonizeError as error:
                reason = str(error)
        if reason or built is None:
            skipped.append(f"{entry.path} ({reason})")
            continue
        draft.series[name] = built
        draft.dropped.update(counts)
    if skipped:
        draft.dropped["series.skipped"] += len(skipped)
        draft.about["series_skipped"] = "; ".join(skipped)


def why_not_behaviour(entry: Entry) -> str:
    """Return why a series is not taken unless the manifest names it; ``""`` if it is."""
    if entry.kind == "link":
        return "a link out of the file"
    if entry.neurodata_type not in BEHAVIOURAL_TYPES:
        return entry.neurodata_type
    if (entry.rate or 0) > FASTEST_RATE or np.prod(entry.shape) > MOST_VALUES:
        return "raw data"
    return ""


def all_tables(nwb: NwbFile) -> dict[str, str]:
    """Return the path of every table of /intervals, by the name that it gets."""
    found = [entry.path for entry in nwb.listing() if entry.kind == "intervals"]
    return {slug(path.split("/")[1]): path for path in found if path.startswith("intervals/")}


def slug(text: str) -> str:
    """Return a name of the source as one that can be a file name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("._+-") or "unnamed"
