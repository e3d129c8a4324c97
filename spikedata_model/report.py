"""One self-contained HTML page for a run, with its pictures beside it as PNG files."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from spikedata.files import write_whole
from spikedata.store import Store
from spikedata_model.checkpoint import Checkpoint, RunRecord, load_checkpoint, read_run, run_hash
from spikedata_model.errors import CheckpointError
from spikedata_model.evaluate import Evaluation, Prediction, Score
from spikedata_model.weights import weights_of_run

__all__ = ["write_report"]

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.lead { font-size: 1.1rem; } .note { color: #555; font-size: .9rem; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
figcaption { color: #444; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #ddd;
         vertical-align: top; }
td.number, th.number { text-align: right; } tr.mean td { font-weight: 600; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; }
"""


_COLUMNS = ("recording_id", "target", "unit", "time", "scored", "truth", "poyo", "wiener")


@dataclass(frozen=True, slots=True)
class _Picture:
    name: str
    png: bytes
    caption: str


def write_report(store: Store, folder: Path, *, split: str = "test") -> list[Path]:
    """Write ``report.html`` and its pictures into a run's folder.

    Parameters
    ----------
    store : Store
        Where the recordings of the run are.
    folder : Path
        The run.
    split : str
        Which evaluation to show.

    Returns
    -------
    list of Path
        The page, then the pictures.

    Raises
    ------
    CheckpointError
        If the run was not trained and evaluated on this split.
    """
    from spikedata_model import figures  # matplotlib takes a second to load

    record, checkpoint = read_run(folder), load_checkpoint(folder)
    evaluation = _read_evaluation(folder, split)
    kept = weights_of_run(folder).about.get("step")  # of the best step, with train.keep=best
    current = kept == str(evaluation.step) and evaluation.run == run_hash(folder)
    if checkpoint is None or not current:
        raise CheckpointError(
            f"The evaluation in {folder} is not of the weights that the run keeps: "
            f"run `spikedata evaluate {folder} --split {split}` again."
        )
    record.data(store)  # refuses a store with other recordings
    baselines = {f"{s.recording_id} {s.target}": s.mean_baseline_r2 for s in evaluation.scores}
    curve_split = record.config.train.curve_split
    pictures = [
        _Picture("scores", figures.score_figure(evaluation.scores),
                 f"R² on the split '{split}': mean over the channels of each target."),
        _Picture("learning_curve", figures.curve_figure(checkpoint.curve, curve_split, baselines),
                 f"Left: R² on the split '{curve_split}' while training; the dashed line is the "
                 f"Wiener filter on '{split}'. Right: training loss."),
    ]  # fmt: skip
    read = _read_predictions(folder / f"predictions-{split}.arrow", evaluation)
    for score, (prediction, baseline) in zip(evaluation.scores, read, strict=True):
        stem = f"{score.recording_id.replace('/', '~')}~{score.target}"
        recording = store[score.recording_id]
        pictures += [
            _Picture(f"traces-{stem}", figures.trace_figure(prediction, baseline, score),
                     f"Decoded against true {score.target} of {score.recording_id}."),
            _Picture(f"raster-{stem}", figures.raster_figure(recording, prediction, baseline),
                     f"Spikes of {score.recording_id}, with {score.target} below."),
        ]  # fmt: skip
    paths = [folder / f"{one.name}.png" for one in pictures]
    for path, one in zip(paths, pictures, strict=True):
        write_whole(path, one.png)
    page = _page(store, folder, record, checkpoint, evaluation, pictures)
    write_whole(folder / "report.html", page)
    return [folder / "report.html", *paths]


def _read_evaluation(folder: Path, split: str) -> Evaluation:
    path = folder / f"evaluation-{split}.json"
    try:
        return Evaluation.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"The run in {folder} has no scores on '{split}': "
            f"run `spikedata evaluate {folder} --split {split}` first."
        ) from None
    except (OSError, UnicodeDecodeError, ValidationError):
        raise CheckpointError(
            f"{path} is damaged: run `spikedata evaluate {folder} --split {split}` again."
        ) from None


def _read_predictions(
    path: Path, evaluation: Evaluation
) -> Iterator[tuple[Prediction, np.ndarray]]:
    """Yield the predictions and the baseline's for every score."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): evaluate the run again.") from None
    if not set(_COLUMNS) <= set(table.column_names):
        raise CheckpointError(f"{path} holds no predictions: evaluate the run again.")
    for score in evaluation.scores:
        mine = (pc.field("recording_id") == score.recording_id) & (
            pc.field("target") == score.target
        )
        rows = table.filter(mine)
        if len(rows) != score.n_samples * len(score.columns):
            raise CheckpointError(f"{path} does not fit its scores: evaluate the run again.")
        shape = (len(score.columns), score.n_samples)
        truth, poyo, wiener = (
            rows[name].to_numpy().reshape(shape).T for name in ("truth", "poyo", "wiener")
        )
        yield (
            Prediction(
                score.recording_id, score.target, score.columns, str(rows["unit"][0]),
                rows["time"].to_numpy()[: score.n_samples], truth, poyo,
                rows["scored"].to_numpy(zero_copy_only=False)[: score.n_samples],
            ),
            wiener,
        )  # fmt: skip


# ------------------------------------------------------------------ the page


def _page(
    store: Store,
    folder: Path,
    record: RunRecord,
    checkpoint: Checkpoint,
    evaluation: Evaluation,
    pictures: Sequence[_Picture],
) -> str:
    name = html.escape(folder.resolve().name)
    won = sum(one.mean_r2 > one.mean_baseline_r2 for one in evaluation.scores)
    seen = "time that neither has seen"
    if evaluation.split == "train":
        seen = "the time that both were trained on"
    parameters = sum(weight.numel() for weight in checkpoint.model.values())
    best = f" (kept are the weights of step {evaluation.step})"
    kept = best if evaluation.step != checkpoint.step else ""
    figures = "\n".join(
        f'<figure><img alt="{html.escape(one.caption)}" '
        f'src="data:image/png;base64,{base64.b64encode(one.png).decode()}">'
        f"<figcaption>{html.escape(one.caption)}</figcaption></figure>"
        for one in pictures
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: decoding report</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{name}</h1>
<p class="lead">POYO with {parameters:,} parameters, trained for {checkpoint.step} steps{kept} in
{checkpoint.seconds:.0f} s, decodes {won} of {len(evaluation.scores)} targets better than a Wiener
filter on {seen}.</p>
<h2>Scores on the split “{evaluation.split}”</h2>
<div class="scroll">{_score_table(evaluation.scores)}</div>
<p class="note">R² = 1 − squared error / variance over {_where(evaluation.scores)}.
The Wiener filter is ridge regression on spike counts in up to 20 bins within 0.5 s of each sample,
its penalty chosen on the end of the training time. Both see only spikes of the split.</p>
{figures}
<h2>Recordings</h2>
<div class="scroll">{_recording_table(store, record)}</div>
<h2>How to repeat it</h2>
<pre>{html.escape(json.dumps(record.config.model_dump(mode="json"), indent=1))}</pre>
<p class="note">spikedata {html.escape(record.spikedata_version)}. The file run.json beside this
page holds the whole configuration, the unit vocabulary and a fingerprint of every recording.</p>
</body>
</html>
"""


def _where(scores: Sequence[Score]) -> str:
    """Return what of the split is scored, in words."""
    tables = sorted({one.evaluate_on for one in scores if one.evaluate_on is not None})
    if not tables:
        return "every sample of the split"
    named = ", ".join(f"“{html.escape(name)}”" for name in tables)
    return f"the samples in rows of {named}; in brackets over every sample of the split"


def _score_table(scores: Sequence[Score]) -> str:
    rows = []
    for one in scores:
        for row, channel in enumerate(one.columns):
            rows.append(_row(one.recording_id, f"{one.target} {channel}", *_pair(one, row)))
        rows.append(_row(one.recording_id, f"{one.target} mean", *_pair(one, None), "mean"))
        if one.angle_error_deg is not None and one.baseline_angle_error_deg is not None:
            name = f"{one.target} median error (°, lower is better)"
            errors = one.angle_error_deg, one.baseline_angle_error_deg
            rows.append(_row(one.recording_id, name, *(f"{error:.3f}" for error in errors)))
    return (
        '<table><thead><tr><th>recording</th><th>target</th><th class="number">POYO</th>'
        '<th class="number">Wiener filter</th></tr></thead><tbody>'
        + "".join(rows)
        + "</tbody></table>"
    )


def _pair(one: Score, row: int | None) -> tuple[str, str]:
    """Return R² of POYO and the Wiener filter, each with that of the whole split if another."""
    poyo, wiener, poyo_whole, wiener_whole = one.of(row)
    if one.evaluate_on is None:
        return f"{poyo:.3f}", f"{wiener:.3f}"
    return f"{poyo:.3f} ({poyo_whole:.3f})", f"{wiener:.3f} ({wiener_whole:.3f})"


def _row(recording_id: str, target: str, poyo: str, wiener: str, kind: str = "") -> str:
    return (
        f'<tr class="{kind}"><td>{html.escape(recording_id)}</td><td>{html.escape(target)}</td>'
        f'<td class="number">{poyo}</td><td class="number">{wiener}</td></tr>'
    )


def _recording_table(store: Store, record: RunRecord) -> str:
    rows = []
    for recording_id in record.recordings:
        header = store.header(recording_id)
        about = "; ".join(f"{key}: {value}" for key, value in header.about.items() if value)
        dropped = "; ".join(f"{rule}: {count}" for rule, count in header.dropped.items())
        rows.append(
            f'<tr><td>{html.escape(recording_id)}</td><td class="number">{header.n_units}</td>'
            f'<td class="number">{header.n_spikes:,}</td><td>{html.escape(about)}</td>'
            f"<td>{html.escape(dropped) or 'nothing'}</td></tr>"
        )
    return (
        '<table><thead><tr><th>recording</th><th class="number">units</th><th class="number">spikes'
        "</th><th>about</th><th>dropped or changed, by rule</th></tr></thead><tbody>"
        + "".join(rows)
        + "</tbody></table>"
    )
