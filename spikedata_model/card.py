"""The model card: what a model was trained on, by whose data and licence, and how well it does."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from spikedata.files import write_whole
from spikedata.recording import SPLITS
from spikedata.version import __version__
from spikedata_model.checkpoint import RunRecord, run_hash
from spikedata_model.config import Config
from spikedata_model.data import RunData
from spikedata_model.journal import best_row
from spikedata_model.poyo import Poyo

__all__ = ["CARD", "Card", "CardRow", "describe_run", "read_card", "write_card"]

CARD = "model_card"


class CardRow(BaseModel):
    """One recording of a card; times in s of the split that was used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recording_id: str
    fingerprint: str
    subject: str
    species: str
    task: str
    licence: str
    citation: str
    units: int
    targets: dict[str, str]  # unit of each
    seconds: dict[str, float]  # by split


class Card(BaseModel):
    """What a run's folder says of its model, as ``model_card.json`` holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    spikedata_version: str = __version__
    run: str  # SHA-256 of run.json
    fingerprint: str  # SHA-256 of all ids and fingerprints of the recordings
    manifest: str | None  # name and SHA-256, where the recordings were chosen by one
    scheme: str | None
    parameters: int
    config: Config
    start: str | None  # SHA-256 of the weights that it began with
    recordings: tuple[CardRow, ...]
    step: int = 0
    scores: dict[str, float | None] = {}  # of the weights on the split of the learning curve
    evaluations: dict[str, dict[str, float | None]] = {}  # R² by split, then recording and target

    def at(self, curve: list[dict[str, float]], step: int, best: bool) -> Card:
        """Return the card of the weights of a step, or of the best row of the curve."""
        row = best_row(curve) if best else len(curve) - 1 if curve else None
        scores = {} if row is None else curve[row]
        held = {name: _finite(one) for name, one in scores.items() if name in ("step", "mean r2")
                or name.startswith("r2 ")}  # fmt: skip
        known = int(scores["step"]) if best and row is not None else step
        return self.model_copy(update={"step": known, "scores": held, "evaluations": {}})

    def with_evaluation(self, split: str, scores: Mapping[str, float]) -> Card:
        """Return the card with the scores of a split."""
        held = {name: _finite(score) for name, score in scores.items()}
        return self.model_copy(update={"evaluations": {**self.evaluations, split: held}})


def describe_run(
    folder: Path, record: RunRecord, data: RunData, model: Poyo, manifest: str | None
) -> Card:
    """Return the card of a run that begins; where no manifest is named, that of the last call."""
    before = read_card(folder)
    if manifest is None and before is not None and before.run == run_hash(folder):
        manifest = before.manifest
    held = json.dumps(sorted(record.recordings.items()))
    rows = []
    for name, fingerprint in record.recordings.items():
        one = data.recordings[name]
        about = {key: one.about.get(key, "") for key in
                 ("subject", "species", "task", "licence", "citation")}  # fmt: skip
        rows.append(CardRow(
            recording_id=name, fingerprint=fingerprint, units=one.n_units, **about,
            targets={target: one.series[target].unit for target in data.scales[name]},
            seconds={split: round(one.split(split, data.scheme).duration, 3) for split in SPLITS},
        ))  # fmt: skip
    return Card(
        run=run_hash(folder),
        fingerprint=hashlib.sha256(held.encode()).hexdigest(),
        manifest=manifest,
        scheme=data.scheme,
        parameters=sum(one.numel() for one in model.parameters()),
        config=record.config,
        start=None if record.start is None else record.start.sha256,
        recordings=tuple(rows),
    )


def write_card(folder: Path, card: Card) -> None:
    """Write ``model_card.json`` and the same for people, ``model_card.md``."""
    write_whole(folder / f"{CARD}.md", _as_text(card, folder.name))
    write_whole(folder / f"{CARD}.json", card.model_dump_json(indent=1) + "\n")


def read_card(folder: Path) -> Card | None:
    """Return the card in a folder, or nothing where there is none that can be read."""
    try:
        return Card.model_validate_json((folder / f"{CARD}.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _as_text(card: Card, name: str) -> str:
    """Return the card as Markdown."""
    rows = card.recordings
    licences = sorted({one.licence or "not stated" for one in rows})
    citations = sorted({one.citation for one in rows} - {""})
    began = "drawn weights" if card.start is None else f"weights with SHA-256 {card.start}"
    lines = [
        f"# {name}",
        "",
        f"A POYO with {card.parameters:,} parameters, step {card.step} of "
        f"{card.config.train.total_steps}, begun with {began}, trained by spikedata "
        f"{card.spikedata_version} on {len(rows)} recordings with "
        f"{sum(one.units for one in rows):,} units.",
        "",
        f"- Manifest: {card.manifest or 'none; recordings were named one by one'}",
        f"- Split scheme: {card.scheme or 'the first of each recording'}",
        f"- SHA-256 of the data: {card.fingerprint}",
        f"- Licence of the data: {', '.join(licences)}",
        "",
        "## Recordings",
        "",
        "| recording | subject | species | task | licence | units | targets | seconds by split |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        targets = ", ".join(f"{target} ({unit})" if unit else target
                            for target, unit in one.targets.items())  # fmt: skip
        seconds = ", ".join(f"{split} {one.seconds[split]:g}" for split in SPLITS)
        cells = (one.recording_id, one.subject, one.species, one.task, one.licence, one.units,
                 targets, seconds)  # fmt: skip
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    lines += ["", "## Scores", "", "| split | what | R² |", "|---|---|---|"]
    curve = card.config.train.curve_split
    shown = {curve: {key: one for key, one in card.scores.items() if key != "step"}}
    for split, scores in (*shown.items(), *card.evaluations.items()):
        lines += [f"| {split} | {_cell(key)} | {'none' if one is None else format(one, '.3f')} |"
                  for key, one in scores.items()]  # fmt: skip
    lines += ["", "## Please cite", "", *(f"- {one}" for one in citations)] if citations else []
    settings = card.config.model_dump_json(indent=1)
    return "\n".join([*lines, "", "## Settings", "", "```json", settings, "```", ""])


def _cell(value: object) -> str:
    """Return a value for a table: on one line, and with no border in it."""
    return " ".join(str(value).split()).replace("|", "\\|")
