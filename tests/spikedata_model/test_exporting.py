"""The model itself is the oracle; what reads the files are processes without spikedata."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from spikedata.sampler import Sampler
from spikedata_model.config import ModelConfig, load_config
from spikedata_model.data import Scale
from spikedata_model.errors import CheckpointError, ConfigError, VocabularyError
from spikedata_model.exporting import Named, OneWindow, export_decoder, weights_of_recording
from spikedata_model.poyo import Poyo
from spikedata_model.tokenizer import END, SPIKE, START, Tokenizer, Tokens
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.weights import Provenance, Weights
from tests.spikedata_model.builders import TINY, make_recording
from tests.spikedata_model.test_untrusted import sentence

A = make_recording("lab/a", n_units=12)  # the last one is silent
B = make_recording("lab/a/b", n_units=3, seed=1)
CHANNELS = {"hand": 2, "head.ing": 3}
SIZES = {
    "tiny": TINY,
    "1.3M": load_config("poyo-single").model,
    "compact": load_config("poyo-compact").model,
}
SCALES = {
    "lab/a": {"hand": Scale((5.0, -3.0), (30.0, 20.0)), "head.ing": Scale((0.0,) * 3, (1.0,) * 3)},
    "lab/a/b": {"hand": Scale((1.0, 1.0), (2.0, 3.0))},
}
NAMED = {"lab/a": {"hand": Named("mm/s", ("x", "y"))}}
INPUTS = ("unit", "type", "time", "recording", "query_time")

READ_TORCH = """
import json, sys
import numpy as np, torch
extra = {"decoder.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra).module()
header = json.loads(extra["decoder.json"])
def run(window):
    with torch.no_grad():
        return [one.numpy() for one in program(*map(torch.from_numpy, window))]
"""
READ_ONNX = """
import json, sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
header = json.loads(session.get_modelmeta().custom_metadata_map["decoder.json"])
def run(window):
    return session.run(None, dict(zip(header["inputs"], window)))
assert "torch" not in sys.modules
"""
RUN = """
assert not [name for name in sys.modules if name.startswith("spikedata")]
given, found, at = np.load(sys.argv[2]), {}, 0
while f"{at} unit" in given:
    window = [given[f"{at} {name}"] for name in header["inputs"]]
    for row, one in enumerate(run(window)):
        found[f"{at} {list(header['targets'])[row]}"] = one
    at += 1
np.savez(sys.argv[3], header=json.dumps(header), **found)
"""
READERS = {".pt2": READ_TORCH + RUN, ".onnx": READ_ONNX + RUN}

Window = tuple[np.ndarray, ...]


def make_weights(config: ModelConfig = TINY) -> Weights:
    torch.manual_seed(0)
    units = (*A.unit_ids.tolist(), *B.unit_ids.tolist())
    model = Poyo(config, len(units), 2, CHANNELS).eval()
    with torch.no_grad():
        for one in model.parameters():
            one += torch.randn_like(one) * (0.1 if one.ndim < 2 else 0.5 * one.shape[1] ** -0.5)
    provenance = Provenance(kind="spikedata run", source="first", sha256="0" * 64)
    known = Vocabulary(units, ("lab/a", "lab/a/b"))
    return Weights(model, known, SCALES, provenance, {"step": "3"})


@cache
def windows() -> tuple[Window, ...]:
    """Return windows as the tokenizer makes them, and the smallest and oddest that there are."""
    made = []
    sampler = Sampler([A, B], "train", window=1.0, batch_size=4, targets=("hand",))
    make = Tokenizer(
        make_weights().vocabulary, sampler.unit_ids, sampler.recording_ids, context=1.0
    )
    for step in range(3):
        batch = make(sampler.batch(0, step))
        for at in range(4):
            one = batch.windows(at, at + 1)
            parts = (one.unit_T.long(), one.type_T.long(), one.time_T, one.recording_B[0])
            made.append(tuple(part.numpy() for part in (*parts, one.query_time_K)))
    rng = np.random.default_rng(0)
    for n_tokens, n_queries in ((1, 1), (2, 1), (1, 400), (3000, 1), (77, 3)):
        made.append(
            (
                rng.integers(0, 15, n_tokens), rng.integers(0, 3, n_tokens),
                rng.random(n_tokens, np.float32), np.array(n_tokens % 2),
                rng.random(n_queries, np.float32),
            )
        )  # fmt: skip
    silent = np.repeat([START, END], 12)
    made.append(
        (np.tile(np.arange(12), 2), silent, (silent == END).astype(np.float32), np.array(0),
         np.linspace(0, 1, 50, dtype=np.float32))
    )  # fmt: skip
    return tuple(made)


def predict(model: Poyo, window: Window) -> dict[str, torch.Tensor]:
    """Return what `Poyo.forward` gives when every target is asked at every query."""
    unit, kind, time, recording, query = map(torch.from_numpy, map(np.asarray, window))
    tokens = Tokens(
        unit.int(), kind.int(), time, (0, len(unit)), recording.reshape(1), query.repeat(2),
        torch.arange(2).repeat_interleave(len(query)), (0, 2 * len(query)),
    )  # fmt: skip
    with torch.no_grad():
        return model(tokens)


def read_header(folder: Path) -> dict:
    extra = {"decoder.json": ""}
    torch.export.load(folder / "decoder.pt2", extra_files=extra)
    return json.loads(extra["decoder.json"])


def run_elsewhere(path: Path) -> tuple[dict, list[dict[str, np.ndarray]]]:
    """Return the header, and the results for windows, as a process without spikedata reads them."""
    given = windows()
    source, found = path.with_suffix(".in.npz"), path.with_suffix(".out.npz")
    named = {f"{at} {name}": one for at, window in enumerate(given)
             for name, one in zip(INPUTS, window, strict=True)}  # fmt: skip
    np.savez(source, **named)
    subprocess.run(
        [sys.executable, "-c", READERS[path.suffix], str(path), str(source), str(found)],
        check=True, cwd=path.parent, timeout=300,
    )  # fmt: skip
    with np.load(found) as held:
        header = json.loads(str(held["header"]))
        return header, [{name: held[f"{at} {name}"] for name in header["targets"]}
                        for at in range(len(given))]  # fmt: skip


def test_the_windows_hold_what_the_equality_is_about():
    sizes = [(len(unit), len(query)) for unit, *_, query in windows()]

    assert {(1, 1), (1, 400), (3000, 1)} <= set(sizes)
    assert {int(one[3]) for one in windows()} == {0, 1}
    assert any(not np.any(kind == SPIKE) for _, kind, *_ in windows())
    assert len({n_tokens for n_tokens, _ in sizes}) > 8


def reader(path: Path) -> Callable[[Window], list[torch.Tensor]]:
    """Return a way to run a file in this process."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        return lambda window: [
            torch.from_numpy(one)
            for one in session.run(None, dict(zip(INPUTS, window, strict=True)))
        ]
    program = torch.export.load(path).module()

    def run(window: Window) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(program(*map(torch.from_numpy, map(np.asarray, window))))

    return run


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("size", SIZES)
def test_the_program_gives_what_the_model_gives(tmp_path, size, suffix):
    weights, path = make_weights(SIZES[size]), tmp_path / f"decoder{suffix}"
    written = export_decoder(path, weights)
    run = reader(path)

    assert written.size == path.stat().st_size
    assert written.difference < 1e-5
    for window in windows():
        expected = predict(weights.model, window)
        for one, name in zip(run(window), expected, strict=True):
            torch.testing.assert_close(one, expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_nothing_of_spikedata_is_needed_to_run_it(tmp_path, suffix):
    """Nor torch for ONNX, in a process of its own."""
    weights, path = make_weights(), tmp_path / f"decoder{suffix}"
    export_decoder(path, weights, NAMED)
    header, found = run_elsewhere(path)

    for window, one in zip(windows(), found, strict=True):
        expected = predict(weights.model, window)
        assert list(one) == list(expected)
        for name in expected:
            torch.testing.assert_close(
                torch.from_numpy(one[name]), expected[name], atol=1e-5, rtol=1e-5
            )
    assert header["inputs"] == list(INPUTS)
    assert header["unit_ids"] == list(weights.vocabulary.unit_ids)
    assert header["recording_ids"] == ["lab/a", "lab/a/b"]
    assert list(header["targets"].items()) == list(CHANNELS.items())
    assert header["token_types"] == {"spike": SPIKE, "start": START, "end": END}
    assert (header["context"], header["precision"]) == (TINY.context, "float32")
    assert header["scales"]["lab/a"]["hand"] == {"mean": [5.0, -3.0], "std": [30.0, 20.0]}
    assert header["series"] == {"lab/a": {"hand": {"unit": "mm/s", "columns": ["x", "y"]}}}
    assert header["provenance"]["source"] == "first"
    assert header["about"] == {"step": "3"}


def test_in_bfloat16_the_program_is_as_near_to_float32_as_the_model(tmp_path):
    weights, path = make_weights(), tmp_path / "decoder.pt2"
    export_decoder(path, weights, precision="bfloat16")
    run, half = reader(path), Poyo(TINY, 15, 2, CHANNELS, "bfloat16").eval()
    half.load_state_dict(weights.model.state_dict())
    errors = np.zeros(2)
    for window in windows():
        exact, own = predict(weights.model, window)["hand"], predict(half, window)["hand"]
        errors += [float((exact - each).square().sum()) for each in (run(window)[0], own)]

    assert 1e-6 < errors[0] < 2 * errors[1]


def test_exporting_leaves_the_model_and_the_random_state_as_they_are(tmp_path):
    weights = make_weights()
    weights.model.train()
    before, state = (
        torch.get_rng_state(),
        {n: t.clone() for n, t in weights.model.state_dict().items()},
    )
    export_decoder(tmp_path / "decoder.pt2", weights)

    assert torch.equal(torch.get_rng_state(), before)
    assert weights.model.training
    assert all(torch.equal(one, state[name]) for name, one in weights.model.state_dict().items())


# ------------------------------------------------------------------ one recording of many


@pytest.mark.parametrize(("recording", "units"), [("lab/a", A), ("lab/a/b", B)])
def test_a_decoder_of_one_recording_has_its_rows_alone(tmp_path, recording, units):
    """Also where the id of one recording begins with another's."""
    weights = make_weights()
    part = weights_of_recording(weights, recording)
    export_decoder(tmp_path / "decoder.pt2", part)
    first = weights.vocabulary.unit_ids.index(units.unit_ids[0])
    row = weights.vocabulary.recording_ids.index(recording)
    kind, time = np.array([1, 2, 0]), np.array([0.0, 1.0, 0.4], np.float32)
    query = np.array([0.5], np.float32)
    window = (np.array([1, 1, 2]), kind, time, np.array(0), query)
    found, header = reader(tmp_path / "decoder.pt2")(window)[0], read_header(tmp_path)
    whole = (np.array([1, 1, 2]) + first, kind, time, np.array(row), query)

    assert header["unit_ids"] == list(units.unit_ids)
    assert header["recording_ids"] == [recording]
    assert list(header["scales"]) == [recording]
    expected = predict(weights.model, whole)["hand"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_recording_that_is_not_known_is_refused():
    with pytest.raises(VocabularyError, match="knows no recording 'lab/c'") as caught:
        weights_of_recording(make_weights(), "lab/c")
    assert str(caught.value).endswith("did you mean 'lab/a'?")


def test_a_recording_whose_units_are_not_named_after_it_is_refused():
    weights = make_weights()
    ids = tuple(f"u{row}" for row in range(15))
    other = replace(weights, vocabulary=Vocabulary(ids, ("lab/a", "lab/a/b")))

    with pytest.raises(VocabularyError, match="begins with 'lab/a/'") as caught:
        weights_of_recording(other, "lab/a")
    sentence(caught)


# ------------------------------------------------------------------ what is refused


def broken(error: float):
    """Return a program whose result is off by a little, in one target, where there is no spike."""
    forward = OneWindow.forward

    def wrong(self, unit_T, type_T, time_T, recording, query_time_K):
        hand, head = forward(self, unit_T, type_T, time_T, recording, query_time_K)
        return hand, head + error * (type_T.min() > 0)

    return wrong


@pytest.mark.parametrize(
    ("suffix", "error"), [(".pt2", 1e-4), (".pt2", torch.nan), (".onnx", 1e-4)]
)
def test_a_program_that_differs_is_not_written(tmp_path, monkeypatch, suffix, error):
    path = tmp_path / f"decoder{suffix}"
    path.write_bytes(b"before")
    monkeypatch.setattr(OneWindow, "forward", broken(error))

    with pytest.raises(CheckpointError, match="exported program differs from the model") as caught:
        export_decoder(path, make_weights())
    sentence(caught)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_program_of_another_shape_is_not_written(tmp_path, monkeypatch):
    forward = OneWindow.forward

    def shorter(self, unit_T, type_T, time_T, recording, query_time_K):
        return forward(self, unit_T, type_T, time_T, recording, query_time_K)[:1]

    monkeypatch.setattr(OneWindow, "forward", shorter)

    with pytest.raises(CheckpointError, match="differs from the model by inf"):
        export_decoder(tmp_path / "decoder.pt2", make_weights())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "decoder.pt2"
    path.write_bytes(b"before")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        export_decoder(path, make_weights())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "precision", "says"),
    [
        ("decoder.pt", "float32", "'decoder.pt' ends neither in .pt2"),
        ("decoder", "float32", "ends neither in .pt2"),
        ("no/decoder.pt2", "float32", "There is no folder"),
        ("folder.pt2", "float32", "folder.pt2 is a folder"),
        ("decoder.onnx", "bfloat16", "with --precision float32, or a .pt2 file"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch, name, precision, says):
    monkeypatch.setattr(OneWindow, "__init__", None)
    (tmp_path / "folder.pt2").mkdir()

    with pytest.raises(ConfigError, match=says) as caught:
        export_decoder(tmp_path / name, make_weights(), precision=precision)
    sentence(caught)


@pytest.mark.parametrize(
    ("units", "recordings", "channels"),
    [((), ("lab/a",), {"hand": 2}), (("lab/a/u0",), (), {"hand": 2}),
     (("lab/a/u0",), ("lab/a",), {})],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_model_that_decodes_nothing_is_refused(tmp_path, suffix, units, recordings, channels):
    model = Poyo(TINY, len(units), len(recordings), channels)

    with pytest.raises(VocabularyError, match="no unit, no recording or no target") as caught:
        export_decoder(tmp_path / f"x{suffix}", Weights(model, Vocabulary(units, recordings)))
    sentence(caught)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_onnx_the_sentence_says_how_to_install_it(tmp_path, monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == package else find(name)
    )

    with pytest.raises(ConfigError, match=rf"{package}: .*'neural-spikedata\[onnx\]'") as caught:
        export_decoder(tmp_path / "decoder.onnx", make_weights())
    sentence(caught)


def test_a_model_that_is_too_large_for_onnx_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("spikedata_model.exporting.LARGEST", 10_000)

    with pytest.raises(ConfigError, match="an ONNX file holds 2 GiB at most") as caught:
        export_decoder(tmp_path / "decoder.onnx", make_weights())
    sentence(caught)
