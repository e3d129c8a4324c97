"""What makes a score worth nothing: other data, a test side seen before, a look ahead."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from spikedata.manifest import Asset, list_manifests, load_manifest
from spikedata.store import Store
from spikedata_model.errors import LeakError, SuiteError
from spikedata_model.leaderboard.protocol import Entrant, Segment
from spikedata_model.leaderboard.suite import Suite
from spikedata_model.leaderboard.tasks import Task, detached

__all__ = ["check_causal", "check_pins", "check_pretraining", "differs", "expand_pretraining"]

SAME = 1e-4  # of a channel's deviation: what rounding may change, and no spike may
ROUNDED = 1e-6  # of a channel's largest answer: what is left of float32 far from 0
ENDINGS = (".nwb", ".h5", ".hdf5", ".mat", ".npz", ".npy", ".zarr", ".parquet", ".arrow", ".pkl")
SHOWN = 3  # absent recordings that are named
PROBES = 3  # times that the future of a recording is taken away


# ------------------------------------------------------------------ hashes


def check_pins(suite: Suite, store: Store, recording_ids: Sequence[str]) -> dict[str, str]:
    """Return the hash of the file that each recording was made from, or refuse the store.

    Raises
    ------
    SuiteError
        If the manifest lacks a recording or pins another file than the suite, the store lacks it,
        or it was made from another file or by other rules than the manifest's. All are named.
    """
    problems: list[str] = []
    found: dict[str, str] = {}
    absent: dict[str, list[str]] = {}
    for group in suite.groups:
        wanted = {name: pin for name, pin in group.recordings.items() if name in recording_ids}
        if not wanted:
            continue
        manifest = load_manifest(suite.manifest_of(group))
        pinned = {data.recording_id(asset): (data, asset) for data, asset in manifest.items()}
        for name, pin in wanted.items():
            if name not in pinned:
                problems.append(f"{name} is not in the manifest '{manifest.name}'")
                continue
            dataset, asset = pinned[name]
            if pin not in _hashes(asset):
                problems.append(
                    f"{name}: the suite pins {pin}, the manifest '{manifest.name}' pins "
                    f"{' and '.join(_hashes(asset)) or 'nothing'}"
                )
                continue
            if name not in store:
                absent.setdefault(manifest.name, []).append(name)
                continue
            problem = _conflict(store, name, pin, dataset.harmonize.model_dump(mode="json"))
            if problem is not None:
                problems.append(f"{name}: {problem} (manifest '{manifest.name}')")
                continue
            found[name] = pin
    problems += [
        f"{', '.join(names[:SHOWN])}{f' and {more} more' if more else ''}: not in the store; "
        f"`spikedata fetch` and `spikedata ingest` the manifest '{manifest}'"
        for manifest, names in absent.items()
        for more in [max(0, len(names) - SHOWN)]
    ]
    if problems:
        wrong = len(set(recording_ids) - found.keys())
        raise SuiteError(
            f"{suite.name}: {wrong} of {len(recording_ids)} recordings in {store.path} are not "
            f"what the suite is of: {'; '.join(problems)}."
        )
    return found


def _hashes(asset: Asset) -> list[str]:
    given = {"sha256": asset.sha256, "md5": asset.md5}
    return [f"{kind}:{value}" for kind, value in given.items() if value]


def _conflict(store: Store, name: str, pin: str, rules: object) -> str | None:
    """Return how a stored recording differs from what is pinned."""
    provenance = store.provenance(name)
    kind, _, value = pin.partition(":")
    asset = provenance.get("asset")
    stored = asset.get(kind) if isinstance(asset, dict) else None
    if stored != value:
        return (
            f"it was made from a file with {kind}:{stored}, the suite pins {pin}; ingest it again"
        )
    if provenance.get("harmonize") != rules:
        return "it was harmonised by other rules than the manifest states; ingest it again"
    return None


# ------------------------------------------------------------------ what was seen before


@dataclass(frozen=True)
class Seen:
    """One thing that a decoder had seen, as a message names it, and all that it may be called."""

    name: str
    also: tuple[str, ...]  # its recording id first, or what was given


def expand_pretraining(given: Iterable[str]) -> list[Seen]:
    """Return what names stand for: recordings, or those of a manifest (``"manifest:poyo-1"``).

    Of a manifest it is the recordings with the role "train", on which `spikedata train` trains.
    The path of a ``.toml`` file, and the bare name of a bundled manifest, stand for it too.

    Raises
    ------
    ManifestError
        If there is no such manifest.
    """
    seen, bundled = [], list_manifests()
    for name in given:
        kind, colon, value = (part.strip() for part in name.partition(":"))
        said = bool(colon) and kind.casefold() == "manifest"
        known = name.strip() in bundled
        if said or known or name.strip().endswith(".toml"):
            manifest = load_manifest(value if said else name.strip())
            for dataset, asset in manifest.items():
                recording_id = dataset.recording_id(asset)
                also = (recording_id, *_names_of(asset), *_hashes(asset))
                if asset.role == "train":
                    seen.append(Seen(f"{recording_id} of the manifest '{manifest.name}'", also))
        if not said:
            seen.append(Seen(name, (name,)))
    return seen


def _names_of(asset: Asset) -> tuple[str, ...]:
    return asset.session, PurePosixPath(asset.path).name, PurePosixPath(asset.path).stem


def check_pretraining(suite: Suite, given: Iterable[str], *, unit_ids: Iterable[str] = ()) -> None:
    """Refuse a decoder that has seen a recording or a session of the test side.

    Names are compared without case, whole or by their last part, with the ending of a data file and
    without: a session under another dataset's name is the same session. So are hashes of files and
    ids of units, which begin with their recording's.

    Parameters
    ----------
    suite : Suite
        All of its recordings are its test side.
    given : iterable of str
        Recordings, sessions, hashes as ``"sha256:…"``, or ``"manifest:NAME"``.
    unit_ids : iterable of str
        Units that a model has rows for.

    Raises
    ------
    LeakError
        That says which of the suite's recordings were seen, and as what.
    """
    tests = _test_side(suite)
    found: dict[str, str] = {}
    for one in expand_pretraining(given):
        for name in one.also:
            for known in _forms(name):
                if known in tests:
                    found.setdefault(tests[known], one.name)
    for unit in unit_ids:
        steps = unit.split("/")[:-1]
        heads = ["/".join(steps[:count]) for count in range(min(2, len(steps)), len(steps) + 1)]
        for known in (form for head in heads for form in _forms(head)):
            if known in tests:
                found.setdefault(tests[known], f"the unit {unit}")
    if found:
        pairs = [f"{mine} (seen as {theirs})" for mine, theirs in sorted(found.items())]
        raise LeakError(
            f"{suite.name}: the decoder was pretrained on {len(found)} recordings of the suite's "
            f"test side: {'; '.join(pairs)}. Its score would be of what it has seen: pretrain "
            "without them."
        )


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().replace("\\", "/").casefold()


def _forms(name: str) -> list[str]:
    """Return how a name may be written on the test side."""
    plain = _plain(name)
    forms = [plain, plain.rpartition("/")[2]]
    return [*forms, *(one.removesuffix(end) for one in forms for end in ENDINGS)]


def _test_side(suite: Suite) -> dict[str, str]:
    """Return every name and hash of the suite's recordings, and whose it is."""
    names: dict[str, str] = {}
    for group in suite.groups:
        assets = {
            dataset.recording_id(asset): asset
            for dataset, asset in load_manifest(suite.manifest_of(group)).items()
        }
        for recording_id, pin in group.recordings.items():
            asset = assets.get(recording_id)
            more = () if asset is None else (*_names_of(asset), *_hashes(asset))
            bare = [one.rpartition(":")[2] for one in (pin, *more) if ":" in one]
            for name in (recording_id, recording_id.rpartition("/")[2], pin, *more, *bare):
                names.setdefault(_plain(name), recording_id)
        for alias in group.aliases:
            names.setdefault(_plain(alias), f"a recording of {group.name}")
    return names


# ------------------------------------------------------------------ the future


def check_causal(entrant: Entrant, task: Task, answers: Sequence[np.ndarray], seed: int) -> None:
    """Refuse a decoder whose estimates change when what comes later is taken away.

    Some segments are cut at a sample: spikes, samples and the segment's end. What is said of the
    samples before must be what was said of them in the whole segment. Where they are cut follows
    from the seed and from all that was answered, so that no decoder can know it when it answers.

    Parameters
    ----------
    entrant : Entrant
        Fitted. Best a copy from before the answers, which cannot give them again from memory.
    task : Task
        The recording.
    answers : sequence of ndarray, shape (K, C)
        What it said of each segment of ``task.test``.
    seed : int
        Which segments, and where they are cut.

    Raises
    ------
    LeakError
        With the first sample that changed.
    """
    said = hashlib.sha256(b"".join(np.ascontiguousarray(one).tobytes() for one in answers))
    rng = np.random.default_rng([seed, int.from_bytes(said.digest())])
    rows = [row for row, one in enumerate(task.test) if len(one.time) > 1]
    chosen = rng.choice(rows, PROBES, replace=len(rows) < PROBES) if rows else []
    for row in sorted(int(one) for one in chosen):
        segment = task.test[row]
        kept = int(rng.integers(1, len(segment.time)))
        short = without_future(segment, kept, task.suite.step)
        again = np.asarray(entrant.predict(detached(short)), np.float64)
        before = answers[row][:kept]
        if again.shape != before.shape:
            raise LeakError(
                f"{task.suite.name}, {task.recording_id}: of a segment cut at "
                f"{short.end:.3f} s the decoder returned the shape {again.shape}, expected "
                f"{before.shape}."
            )
        off = differs(task, before, again)
        if off.any():
            at = int(np.argmax(off))
            raise LeakError(
                f"{task.suite.name}, {task.recording_id}: the suite is causal, but the estimate at "
                f"{segment.time[at]:.3f} s changed from {before[at].tolist()} to "
                f"{again[at].tolist()} when all after {short.time[-1]:.3f} s was taken away: "
                "use spikes before an estimate (see `Segment.estimates`) alone, and answer each "
                "segment on its own."
            )


def differs(task: Task, said: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Return which rows of two answers, (K, C) each, differ by more than rounding does.

    A channel that stands still in the truth counts for nothing: no score can be won there.
    """
    moves = task.truth.min(axis=0) < task.truth.max(axis=0)
    allowed = SAME * task.truth.std(axis=0) + ROUNDED * np.abs(said).max(axis=0, initial=0.0)
    return ~((np.abs(again - said) <= allowed) | ~moves).all(axis=1)


def without_future(segment: Segment, kept: int, step: float | None = None) -> Segment:
    """Return a segment that ends at its sample number ``kept - 1``, which it still has.

    It has the spikes before the estimate that this sample gets; without `step`, before the sample.
    """
    last = float(segment.time[kept - 1])
    edges, row = segment.estimates(step) if step else (segment.time, np.arange(kept))
    spikes = segment.spike_time < edges[row[kept - 1]]
    return replace(
        segment,
        end=float(np.nextafter(last, np.inf)),
        spike_time=segment.spike_time[spikes],
        spike_unit=segment.spike_unit[spikes],
        time=segment.time[:kept],
    )


def read_list(path: Path) -> list[str]:
    """Return the names in a text file, one a line; empty lines and those with # are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"The list {path} cannot be read: {error}.") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
