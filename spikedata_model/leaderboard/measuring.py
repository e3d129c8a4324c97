"""What a decoder takes, where it ran, and from which source: parameters, products, joules, names.

docs/scores.md says how each is defined.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spikedata.version import __version__
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.cost import Cost
from spikedata_model.leaderboard.operations import count_operations
from spikedata_model.leaderboard.result import Machine

__all__ = ["Energy", "commit", "machine", "module_cost", "step_times"]

PACKAGES = ("numpy", "torch", "scikit-learn", "pyarrow")  # whose versions change numbers
POWERCAP = Path("/sys/class/powercap")
ENERGY_EVERY = 30.0  # s between looks: the least counters, of 65 kJ, take longer below 2 kW
GIT_SECONDS = 10.0  # a file system that takes longer is not waited for

# ------------------------------------------------------------------ what a module takes


def module_cost(module: nn.Module, *inputs: object, estimates: int = 1) -> Cost:
    """Return the parameters, bytes, sparsity and multiply-adds of a torch module.

    It is run once, in evaluation mode and without gradients, and then set back to the mode that it
    was in. Recurrent layers are unrolled over time, and attention counts, also where it is a
    function: what is counted is every matrix product and convolution that torch computes on this
    thread. Products of single elements (gates, norms), additions and activations are not.

    Parameters
    ----------
    module : Module
        What decodes.
    *inputs : object
        What it is called with: typical test samples, for `effective_macs` depend on them.
    estimates : int
        For how many estimates these inputs are; multiply-adds are given for one.

    Returns
    -------
    Cost
        Without times. Multiply-adds are None where a kernel hides its products, sparsities where
        there is nothing of the kind.

    Raises
    ------
    SuiteError
        If `estimates` is below 1.

    References
    ----------
    NeuroBench, Yik et al. 2025, Nature Communications 16, 1545: footprint, connection and
    activation sparsity, synaptic operations.

    Examples
    --------
    >>> cost = module_cost(nn.Linear(3, 2), torch.ones(5, 3), estimates=5)
    >>> cost.parameters, cost.bytes, cost.macs
    (8.0, 32.0, 6.0)
    """
    if estimates < 1:
        raise SuiteError(f"A cost is that of 1 estimate or more, not of {estimates}.")
    modes = {one: one.training for one in module.modules()}
    module.eval()
    try:
        with count_operations() as found:
            module(*inputs)
    finally:
        for one, training in modes.items():
            one.training = training
    numbers = [*module.parameters(), *module.buffers()]
    weights = list({id(one): one for one in _connections(module)}.values())
    n_weights = sum(one.numel() for one in weights)
    zeros = sum(int((one == 0).sum()) for one in weights)
    hidden = bool(found.opaque)
    return Cost(
        parameters=sum(one.numel() for one in module.parameters()),
        bytes=sum(one.numel() * one.element_size() for one in numbers),
        macs=None if hidden else found.dense / estimates,
        effective_macs=None if hidden else found.effective / estimates,
        effective_acs=None if hidden else found.binary / estimates,
        connection_sparsity=zeros / n_weights if n_weights else None,
        activation_sparsity=found.silent / found.activations if found.activations else None,
    )


def _connections(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the weights between layers, as they are used: masked where they are pruned.

    As in NeuroBench: matrices and kernels without their biases, but recurrent layers with them.
    Tables that are looked up in are no connections.
    """
    for part in module.modules():
        if isinstance(
            part, nn.Embedding | nn.EmbeddingBag | nn.utils.parametrize.ParametrizationList
        ):
            continue
        names = [name for name, _ in part.named_parameters(recurse=False)]
        names += list(getattr(part, "parametrizations", ()))
        recurrent = isinstance(part, nn.RNNBase | nn.RNNCellBase)
        for name in names:
            used = getattr(part, name.removesuffix("_orig"), None)
            weight = used if isinstance(used, torch.Tensor) else getattr(part, name)
            if recurrent or weight.ndim > 1:
                yield weight.detach()


def step_times(seconds: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the median and the 99th percentile of the seconds that live steps took.

    Percentiles of steps in between are interpolated, as numpy does. Nothing is left out, also not
    the first step, for which a user waits as well.

    Raises
    ------
    SuiteError
        If there is no step, or a time is no number or below 0.
    """
    given = np.asarray(seconds, np.float64)
    if given.ndim != 1 or not len(given) or not (np.isfinite(given) & (given >= 0)).all():
        raise SuiteError(
            f"Step times must be seconds of 0 or more, one at least; found {given.size} values of "
            f"shape {given.shape}."
        )
    p50, p99 = np.percentile(given, [50, 99])
    return float(p50), float(p99)


# ------------------------------------------------------------------ energy


class Energy:
    """Joules that the processor packages of this machine take during a block.

    `joules` is None where that cannot be known: no counters (Linux has them, for Intel and AMD, as
    files below ``/sys/class/powercap``), or no right to read one of them. Memory and GPUs are not
    in it, all that runs on the machine is.

    Parameters
    ----------
    root : Path
        Where the counters are.
    every : float
        Seconds between looks: a counter that starts again from 0 must not do so twice between two.

    References
    ----------
    Linux, Documentation/power/powercap/powercap.rst: ``energy_uj`` counts microjoules up to
    ``max_energy_range_uj``, and then from 0.

    Examples
    --------
    >>> with Energy(Path("/no/counters")) as energy:
    ...     pass
    >>> energy.joules is None
    True
    """

    def __init__(self, root: Path = POWERCAP, every: float = ENERGY_EVERY) -> None:
        self.joules: float | None = None
        self._every, self._lock, self._ended = every, threading.Lock(), threading.Event()
        self._counters = _packages(root)
        self._last: list[int] | None = None
        self._microjoules = 0

    def __enter__(self) -> Energy:
        self._last = self._read()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self._last is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.look()
        self.joules = None if self._last is None else self._microjoules / 1e6

    def look(self) -> None:
        """Add what the counters have counted since the last look."""
        with self._lock:
            if self._last is None:
                return
            now = self._read()
            if now is not None:
                for folder, before, after in zip(self._counters, self._last, now, strict=True):
                    again = _number(folder / "max_energy_range_uj") if after < before else 0
                    if again is None:
                        now = None
                        break
                    self._microjoules += after - before + again
            self._last = now

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            self.look()

    def _read(self) -> list[int] | None:
        found = [_number(folder / "energy_uj") for folder in self._counters]
        known = [one for one in found if one is not None]
        return known if known and len(known) == len(found) else None


def _packages(root: Path) -> list[Path]:
    """Return the counters of whole processor packages.

    Not those of parts of a package (``intel-rapl:0:1``), of the whole platform (``psys``), or of
    the same package read another way (``intel-rapl-mmio:0``).
    """
    try:
        zones = sorted(one for one in root.iterdir() if re.fullmatch(r"intel-rapl:\d+", one.name))
        return [one for one in zones if (one / "name").read_text().startswith("package")]
    except (OSError, UnicodeDecodeError):
        return []


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


# ------------------------------------------------------------------ where, and from what


def machine() -> Machine:
    """Return what numbers and times of a run depend on, of this machine.

    No names of machines, users or folders. Memory is 0 where the system does not say.
    """
    packages = {name: _version(name) for name in PACKAGES}
    release = re.match(r"[\d.]*\d", platform.release())  # more may hold the name of its builder
    return Machine(
        processor=_processor(),
        cores=_cores(),
        memory_gb=round(_memory() / 1e9, 1),
        gpu=_gpu(),
        system=" ".join([platform.system(), *([release[0]] if release else [])]),
        python=platform.python_version(),
        packages={**{k: v for k, v in packages.items() if v}, "spikedata": __version__},
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> float:
    """Return the bytes of memory of this machine."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return 0.0


def _gpu() -> str:
    if not torch.cuda.is_available():
        return ""
    names = [torch.cuda.get_device_name(one) for one in range(torch.cuda.device_count())]
    return ", ".join(
        name if names.count(name) == 1 else f"{names.count(name)} x {name}"
        for name in dict.fromkeys(names)
    )


def commit() -> str:
    """Return the git commit of the source tree that this runs from, 40 hex digits or more.

    With "+dirty" behind it if the packages or manifests were changed since. Empty where it is
    not known: installed without its history, or without git.
    """
    root = Path(__file__).resolve().parents[2]
    top = _git(root, "rev-parse", "--show-toplevel")
    # A folder of installed packages may lie in somebody else's repository.
    if top is None or Path(top).resolve() != root:
        return ""
    if _git(root, "ls-files", "--error-unmatch", "spikedata_model/__init__.py") is None:
        return ""
    found = _git(root, "rev-parse", "--verify", "HEAD")
    sources = ("spikedata", "spikedata_model", "manifests", "pyproject.toml")
    changed = _git(root, "status", "--porcelain", "--", *sources)
    if not found or changed is None:
        return ""
    return found + ("+dirty" if changed else "")


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git says of a folder, or None where it says nothing of use."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"  # look, and leave the index as it is
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *arguments], cwd=root, env=environment,
            capture_output=True, text=True, timeout=GIT_SECONDS, check=True, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.strip()
