"""From a name on the command line to a decoder that takes part."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from spikedata.errors import did_you_mean
from spikedata.version import __version__
from spikedata_model.config import list_presets
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.protocol import Entrant

__all__ = ["Choice", "choose", "list_decoders"]

BASELINES = {
    "wiener": ("wiener", "Wiener"),
    "ridge": ("ridge", "Ridge"),
    "kalman": ("kalman", "Kalman"),
    "mlp": ("mlp", "Mlp"),
    "gru": ("gru", "Gru"),
}
ENTRANTS = "spikedata_model.leaderboard.entrants"
Mode = Literal["unit-id", "gradual", "full"]


@dataclass(frozen=True)
class Choice:
    """A decoder that was chosen.

    Parameters
    ----------
    name : str
        In the table.
    kind : {"spikedata", "third party"}
        Where it comes from.
    identity : str
        What decides its numbers besides suite, budget and seed: work of another one is not reused.
    make : callable
        Returns a new one, not fitted.
    """

    name: str
    kind: Literal["spikedata", "third party"]
    identity: str
    make: Callable[[], Entrant]


def list_decoders() -> list[str]:
    """Return the names of the decoders that come with spikedata."""
    return [*BASELINES, *(name for name in list_presets() if name != "smoke")]


def choose(
    given: str,
    *,
    start: Path | None = None,
    mode: Mode | None = None,
    settings: Sequence[str] = (),
    name: str | None = None,
) -> Choice:
    """Return the decoder that a name stands for.

    Parameters
    ----------
    given : str
        One of `list_decoders`, ``"package.module:Class"``, or ``"file.py:Class"``. A class is
        called without arguments. Its file is executed: name only what you trust.
    start : Path, optional
        A run or a weights file that a POYO begins with; `mode` says what is then trained.
    mode : {"unit-id", "gradual", "full"}, optional
        How it adapts.
    settings : sequence of str
        Changes of a POYO's preset, as ``"train.steps=200"``.
    name : str, optional
        What it is called in the table; `given` when not given, with the mode behind it.

    Raises
    ------
    SuiteError
        If there is no such decoder, or weights or settings are given for one that has none.
    """
    file, colon, attribute = given.rpartition(":")
    poyo = given.replace("_", "-") in list_presets()
    if not poyo and (start is not None or mode is not None or settings):
        raise SuiteError(
            f"'{given}' takes neither weights nor settings: --from, --mode and --set are for the "
            f"presets of POYO ({', '.join(list_presets())})."
        )
    if given in BASELINES:
        module, cls = BASELINES[given]
        loaded = getattr(importlib.import_module(f"{ENTRANTS}.{module}"), cls)
        return Choice(name or given, "spikedata", f"{given} {__version__}", loaded)
    if poyo:
        return _poyo(given, start, mode, settings, name)
    if colon and file and attribute:
        return _third_party(file, attribute, name)
    raise SuiteError(
        f"No decoder is called '{given}'; {did_you_mean(given, list_decoders())} "
        "(or give package.module:Class, or file.py:Class)"
    )


def _poyo(
    given: str, start: Path | None, mode: Mode | None, settings: Sequence[str], name: str | None
) -> Choice:
    from spikedata_model.leaderboard.entrants.poyo import PoyoEntrant

    if (start is None) != (mode is None):
        raise SuiteError(
            "Weights to begin with and how to adapt belong together: give --from and --mode, or "
            "neither of them."
        )
    preset = given.replace("_", "-")

    def make() -> Entrant:
        return PoyoEntrant(preset, tuple(settings), start, mode)

    weights = getattr(make(), "weights_sha256", "") if start is not None else ""
    identity = " ".join([preset, *settings, mode or "", weights, __version__])
    return Choice(name or (preset if mode is None else f"{preset}-{mode}"), "spikedata", identity,
                  make)  # fmt: skip


def _third_party(file: str, attribute: str, name: str | None) -> Choice:
    """Return a class of a module or of a file."""
    where = f"{file}:{attribute}"
    module = _load_file(Path(file)) if file.endswith(".py") else _load_module(file)
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [name for name, one in vars(module).items() if hasattr(one, "fit")]
        raise SuiteError(
            f"{where}: there is no class '{attribute}'; {did_you_mean(attribute, names)}"
        )
    missing = [one for one in ("fit", "predict") if not callable(getattr(found, one, None))]
    if missing:
        raise SuiteError(
            f"{where} has no method `{missing[0]}`; a decoder has `fit(sessions, rules)` and "
            "`predict(segment)`."
        )
    path = getattr(module, "__file__", None)
    code = hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""

    def make() -> Entrant:
        try:
            return found()  # type: ignore[return-value]  # it has both methods
        except TypeError as error:
            raise SuiteError(f"{where} must be made without arguments: {error}.") from None

    return Choice(name or attribute, "third party", f"{where} {code}", make)


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError) as error:
        raise SuiteError(f"The module '{name}' cannot be imported: {error}.") from None


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SuiteError(f"There is no file {path} to take a decoder from.")
    code = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"spikedata_entrant_{code}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SuiteError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SuiteError(f"{path} cannot be loaded: {type(error).__name__}: {error}.") from error
    return module
