"""A trained decoder as one file that runs without spikedata: by torch alone, or by ONNX.

The program is `OneWindow`; beside it, in the same file, stands in JSON what its numbers mean: whose
rows they are, the targets, their scales, channels and units. docs/export.md shows how it is read.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from spikedata.errors import did_you_mean
from spikedata.files import write_whole
from spikedata.version import __version__
from spikedata_model.errors import CheckpointError, ConfigError, VocabularyError
from spikedata_model.one_window import OneWindow
from spikedata_model.poyo import Poyo
from spikedata_model.tokenizer import END, SPIKE, START, Tokens
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.weights import Weights, build_model, own_rows

__all__ = ["HEADER", "INPUTS", "Exported", "Named", "export_decoder", "weights_of_recording"]

# Shapes: T tokens and K queries of one window, C channels.

FORMAT, FORMAT_VERSION = "spikedata decoder", 1
HEADER = "decoder.json"  # name of the JSON in both kinds of file
INPUTS = ("unit", "type", "time", "recording", "query_time")
"""What the program reads: int64 (T), int64 (T), float32 (T), int64 (), float32 (K)."""
OPSET = 20  # of ONNX; the first with GELU
TOLERANCE = 1e-5  # of the largest output, or of 1 where that is smaller
LARGEST = 2**31 - 2**20  # bytes; protobuf, the format of ONNX, has 2 GiB at most

Window = tuple[torch.Tensor, ...]
Run = Callable[[Window], Sequence[torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Named:
    """What the channels of a target are called in a recording.

    Parameters
    ----------
    unit : str
        Unit of the series, such as "cm/s".
    columns : tuple of str, length C
        Names of its channels.
    """

    unit: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Parameters
    ----------
    size : int
        Bytes of the file.
    windows : int
        Windows on which the program was compared with the model.
    difference : float
        Largest difference there, in normalised units.
    """

    size: int
    windows: int
    difference: float


def export_decoder(
    path: Path,
    weights: Weights,
    named: Mapping[str, Mapping[str, Named]] | None = None,
    precision: str = "float32",
) -> Exported:
    """Write a decoder as a program, which is compared with the model first; whole or not at all.

    Parameters
    ----------
    path : Path
        Ends in ``.pt2`` for a program of torch.export, or in ``.onnx``.
    weights : Weights
        The model. It is not changed.
    named : mapping of str to mapping of str to Named, optional
        By recording, then target: names and unit of the channels, where they are known.
    precision : {"float32", "bfloat16"}
        Of the program's matrix products.

    Raises
    ------
    ConfigError
        If the file's name ends otherwise, its folder is missing, it is one, ONNX is not installed
        or cannot hold the model, or is asked for bfloat16.
    VocabularyError
        If the model has no unit, recording or target.
    CheckpointError
        If the program gives other results than the model; nothing is written.
    OSError
        If the folder is full or not writable; the old file, if any, is untouched.
    """
    write = _writer(path, precision)
    source, vocabulary = weights.model, weights.vocabulary
    if not (vocabulary.unit_ids and vocabulary.recording_ids and source.targets):
        raise VocabularyError(
            f"{path} was not written: the model knows no unit, no recording or no target, so it "
            "decodes nothing."
        )
    state = {name: one.detach().cpu() for name, one in source.state_dict().items()}
    model, exact = (
        build_model(source.config, vocabulary, source.channels, state, one)
        for one in (precision, "float32")
    )
    header = _header(weights, named or {}, precision)
    content, run = write(OneWindow(model).eval(), header)
    windows = _windows(model, len(vocabulary.unit_ids), len(vocabulary.recording_ids))
    difference = _compare(path, exact, model, windows, run)
    write_whole(path, content)
    return Exported(len(content), len(windows), difference)


def _header(weights: Weights, named: Mapping[str, Mapping[str, Named]], precision: str) -> str:
    """Return what the numbers of a program mean, as JSON."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "spikedata_version": __version__,
        "precision": precision,
        "context": weights.model.config.context,
        "token_types": {"spike": SPIKE, "start": START, "end": END},
        "inputs": list(INPUTS),
        "targets": weights.model.channels,
        "unit_ids": weights.vocabulary.unit_ids,
        "recording_ids": weights.vocabulary.recording_ids,
        "scales": {recording: {target: asdict(scale) for target, scale in scales.items()}
                   for recording, scales in weights.scales.items()},
        "series": {recording: {target: asdict(one) for target, one in series.items()}
                   for recording, series in named.items()},
        "provenance": None if weights.provenance is None else weights.provenance.model_dump(),
        "about": weights.about,
    }  # fmt: skip
    return json.dumps(content, allow_nan=False)


def weights_of_recording(weights: Weights, recording_id: str) -> Weights:
    """Return the model with the rows of one recording and of its units alone.

    Its units are those whose ids begin with the recording's and "/", as the store gives them.

    Raises
    ------
    VocabularyError
        If the model does not know the recording, or none of its units by such an id.
    """
    known = weights.vocabulary
    if recording_id not in known.recording_ids:
        raise VocabularyError(
            f"The model knows no recording '{recording_id}'; "
            f"{did_you_mean(recording_id, known.recording_ids)[:300]}"
        )
    rows = own_rows(known, recording_id)
    state = {name: one.detach().cpu() for name, one in weights.model.state_dict().items()}
    for table, kept in (("unit", rows), ("recording", [known.recording_ids.index(recording_id)])):
        state[f"{table}_embedding.weight"] = state[f"{table}_embedding.weight"][kept]
    vocabulary = Vocabulary(tuple(known.unit_ids[row] for row in rows), (recording_id,))
    made = build_model(weights.model.config, vocabulary, weights.model.channels, state)
    scales = {one: held for one, held in weights.scales.items() if one == recording_id}
    return replace(weights, model=made, vocabulary=vocabulary, scales=scales)


# ------------------------------------------------------------------ the two kinds of file


def _writer(path: Path, precision: str) -> Callable[[OneWindow, str], tuple[bytes, Run]]:
    """Return what makes a file of the kind that a name asks for, and a way to run it."""
    if not path.parent.is_dir():
        raise ConfigError(f"There is no folder {path.parent}: make it, or choose another --out.")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: choose a file for --out.")
    if path.suffix == ".pt2":
        return _as_torch
    if path.suffix != ".onnx":
        raise ConfigError(
            f"'{path.name}' ends neither in .pt2, for a program of torch.export, nor in .onnx: "
            "choose one of the two for --out."
        )
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime")
               if importlib.util.find_spec(name) is None]  # fmt: skip
    if missing:
        raise ConfigError(
            f"ONNX needs the package {missing[0]}: install it with "
            "`pip install 'neural-spikedata[onnx]'`, or write a .pt2 file."
        )
    if precision != "float32":
        raise ConfigError(
            "onnxruntime has no matrix products in bfloat16 for processors: write the ONNX file "
            "with --precision float32, or a .pt2 file."
        )
    return _as_onnx


def _example(n_tokens: int = 100, n_queries: int = 7) -> Window:
    """Return inputs of the right types, whose values do not matter."""
    rows_T, query_K = torch.zeros(n_tokens, dtype=torch.int64), torch.zeros(n_queries)
    return rows_T, rows_T.clone(), torch.zeros(n_tokens), torch.tensor(0), query_K


def _traced(program: OneWindow) -> torch.export.ExportedProgram:
    """Return the program for one token or more, and one query or more."""
    tokens, queries = torch.export.Dim("tokens", min=1), torch.export.Dim("queries", min=1)
    sizes = ({0: tokens}, {0: tokens}, {0: tokens}, {}, {0: queries})
    with torch.no_grad():
        return torch.export.export(program, _example(), dynamic_shapes=sizes)


def _as_torch(program: OneWindow, header: str) -> tuple[bytes, Run]:
    buffer = io.BytesIO()
    torch.export.save(_traced(program), buffer, extra_files={HEADER: header})
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()

    def run(window: Window) -> Sequence[torch.Tensor]:
        with torch.no_grad():
            return loaded(*window)

    return buffer.getvalue(), run


def _as_onnx(program: OneWindow, header: str) -> tuple[bytes, Run]:
    import onnxruntime

    held = (*program.parameters(), *program.buffers())
    size = sum(one.numel() * one.element_size() for one in held)
    if size > LARGEST:
        raise ConfigError(
            f"The weights take {size} bytes, and an ONNX file holds 2 GiB at most: write a .pt2 "
            "file, or the decoder of one --recording."
        )
    log, before = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    log.setLevel(logging.ERROR)  # it tells that torchvision, which nothing here needs, is missing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about its own workings
            made = torch.onnx.export(
                _traced(program), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=INPUTS,
                output_names=[f"target_{row}" for row in range(len(program.targets))],
            )  # fmt: skip
    finally:
        log.setLevel(before)
    if made is None:
        raise CheckpointError("torch.onnx.export gave no program: write a .pt2 file.")
    made.model.metadata_props[HEADER] = header
    content = made.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(window: Window) -> Sequence[torch.Tensor]:
        given = {name: one.numpy() for name, one in zip(INPUTS, window, strict=True)}
        return [torch.from_numpy(one) for one in session.run(None, given)]

    return content, run


# ------------------------------------------------------------------ the comparison


def _windows(model: Poyo, n_units: int, n_recordings: int) -> list[Window]:
    """Return windows to compare on: of one token, of silent units, of hundreds of spikes."""
    generator = torch.Generator().manual_seed(0)
    context, made = model.config.context, []
    for n_known, n_spikes, n_queries in ((1, 0, 1), (60, 0, 1), (60, 500, 300), (200, 2000, 20)):
        known = torch.randperm(n_units, generator=generator)[:n_known]
        n_known = len(known)
        spike = known[torch.randint(n_known, (n_spikes,), generator=generator)]
        unit_T = torch.cat([known, known, spike])
        type_T = torch.tensor([START, END, SPIKE]).repeat_interleave(
            torch.tensor([n_known, n_known, n_spikes])
        )
        time_T = context * torch.rand(len(unit_T), generator=generator)
        time_T[: 2 * n_known] = context * (type_T[: 2 * n_known] == END)
        if not n_spikes and n_known == 1:
            unit_T, type_T, time_T = unit_T[:1], type_T[:1], time_T[:1]
        recording = torch.randint(n_recordings, (), generator=generator)
        query_K = context * torch.rand(n_queries, generator=generator)
        made.append((unit_T, type_T, time_T, recording, query_K))
    return made


def _expected(model: Poyo, window: Window) -> list[torch.Tensor]:
    """Return what the model itself predicts in a window: every target at every query."""
    unit_T, type_T, time_T, recording, query_K = window
    n_targets = len(model.targets)
    tokens = Tokens(
        unit_T=unit_T.int(), type_T=type_T.int(), time_T=time_T, token_offsets=(0, len(unit_T)),
        recording_B=recording.reshape(1), query_time_K=query_K.repeat(n_targets),
        query_target_K=torch.arange(n_targets).repeat_interleave(len(query_K)),
        query_offsets=(0, n_targets * len(query_K)),
    )  # fmt: skip
    with torch.no_grad():
        return list(model(tokens).values())


def _compare(path: Path, exact: Poyo, model: Poyo, windows: Sequence[Window], run: Run) -> float:
    """Return the largest difference of a program from the model in float32: roundings, no more.

    Where the model computes in bfloat16, so does the program, and it may then be three times as
    far from float32 as the model is.
    """
    difference = 0.0
    for window in windows:
        expected, found, own = _expected(exact, window), run(window), _expected(model, window)
        size = max(float(one.abs().max()) for one in expected)
        rounding = max(_distance(expected, own), TOLERANCE / 3 * max(1.0, size))
        off = _distance(expected, found)
        if not off <= 3 * rounding:  # nan is no rounding either
            raise CheckpointError(
                f"{path} was not written: on a window of {len(window[0])} tokens the exported "
                f"program differs from the model by {off:.2g}, at most {3 * rounding:.2g} was "
                "expected; write the other kind of file, or use another version of torch."
            )
        difference = max(difference, off)
    return difference


def _distance(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Return the largest difference: nan if there is one, infinity where shapes differ."""
    if [a.shape for a in one] != [b.shape for b in other]:
        return float("inf")
    largest = torch.stack([(a - b).abs().max() for a, b in zip(one, other, strict=True)])
    return float(largest.max())  # which torch makes nan, unlike Python, if any is
