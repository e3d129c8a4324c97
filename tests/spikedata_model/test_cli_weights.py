from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch_brain.models import POYO

from spikedata import cli
from spikedata_model.weights import load_weights, weights_of_run
from tests.spikedata_model.test_model_cli import Ended, Spikedata, sentence_of
from tests.spikedata_model.test_published import save_theirs
from tests.spikedata_model.test_untrusted import gadgets

COMMANDS = [
    EntryPoint(name, f"spikedata_model.cli_weights:{name.replace('-', '_')}", "spikedata.commands")
    for name in ("import-weights", "export-weights", "export-decoder")
]


@pytest.fixture(name="spikedata")
def _spikedata(run, tmp_path, monkeypatch, capsys) -> Spikedata:
    """Return a way to run the program in a folder that holds a finished ``run``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(cli, "entry_points", lambda group: COMMANDS)

    def spikedata(arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["spikedata", *shlex.split(arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return Ended(caught.value.code or 0, captured.out, captured.err)

    return spikedata


def test_a_checkpoint_goes_in_and_comes_out_again(spikedata):
    """With every row that means something as it was."""
    save_theirs(Path("theirs.ckpt"), optimizer_states=[torch.ones(2)])
    imported = spikedata("import-weights theirs.ckpt --target velocity --out w.safetensors")
    exported = spikedata("export-weights w.safetensors --out back.ckpt")
    before = torch.load("theirs.ckpt", weights_only=True)["state_dict"]
    after = torch.load("back.ckpt", weights_only=True)["state_dict"]

    assert (imported.code, exported.code) == (0, 0)
    for shown in ("optimizer_states", "row 3 of token_type_emb", "row 'NA' of unit_emb", "sha256"):
        assert shown in imported.out
    assert "9 units of 2 recordings" in exported.err
    assert before.keys() == after.keys()
    for name in before.keys() - {"model.unit_emb.vocab", "model.session_emb.vocab"}:
        rows = slice(1, None) if name.endswith(("unit_emb.weight", "session_emb.weight")) else ...
        rows = slice(3) if "token_type" in name else rows
        assert torch.equal(before[name][rows], after[name][rows]), name


def test_what_was_cast_is_shown(spikedata):
    content = torch.load(save_theirs(Path("theirs.ckpt")), weights_only=True)
    bias = content["state_dict"]["model.readout.bias"]
    content["state_dict"]["model.readout.bias"] = bias.double()
    torch.save(content, "theirs.ckpt")
    imported = spikedata("import-weights theirs.ckpt --target velocity --out w.safetensors")

    assert "Turned into float32" in imported.out
    assert "float64" in imported.out


def test_a_run_is_exported_for_torch_brain(spikedata):
    ended = spikedata("export-weights run --out run.ckpt")
    model, weights = POYO.load_pretrained("run.ckpt"), weights_of_run(Path("run"))

    assert ended.code == 0
    assert list(model.unit_emb.vocab) == ["NA", *weights.vocabulary.unit_ids]
    assert torch.equal(model.unit_emb.weight[1:], weights.model.unit_embedding.weight)


def test_json_of_both_commands_is_one_document_on_stdout(spikedata):
    save_theirs(Path("theirs.ckpt"))
    read = json.loads(
        spikedata("import-weights theirs.ckpt --target velocity --out w.safetensors --json").out
    )
    written = json.loads(spikedata("export-weights w.safetensors --out back.ckpt --json").out)
    weights = load_weights(Path("w.safetensors"))

    assert weights.provenance is not None
    assert read["sha256"] == weights.provenance.sha256
    assert read["dropped"] == weights.provenance.dropped
    assert read["parameters"] == sum(one.numel() for one in weights.model.parameters())
    assert written == {
        "checkpoint": "back.ckpt", "units": 9, "recordings": 2, "scaled_recordings": 0
    }  # fmt: skip


def test_scales_come_back_from_a_checkpoint_for_torch_brain(spikedata):
    """And without a word they would be lost: torch_brain has no place for them."""
    exported = spikedata("export-weights run --out run.ckpt")
    imported = spikedata("import-weights run.ckpt --target hand --out w.safetensors")
    first, back = weights_of_run(Path("run")), load_weights(Path("w.safetensors"))

    assert (exported.code, imported.code) == (0, 0)
    assert "torch_brain has no place for scales" in exported.err
    assert "with the scales of 2 recordings" in imported.err
    assert back.scales == first.scales
    assert back.vocabulary == first.vocabulary
    assert set(first.scales) == {"lab/a", "lab/b"}
    assert "spikedata" not in imported.out


def test_a_file_without_scales_says_so_in_both_directions(spikedata):
    save_theirs(Path("theirs.ckpt"))
    imported = spikedata("import-weights theirs.ckpt --target velocity --out w.safetensors")
    exported = spikedata("export-weights w.safetensors --out back.ckpt")

    assert "No scale is known" in imported.err
    assert "scales" not in exported.err


def test_the_wrong_target_of_our_own_checkpoint_is_refused(spikedata):
    spikedata("export-weights run --out run.ckpt")
    ended = spikedata("import-weights run.ckpt --target velocity --out w.safetensors")

    assert ended.code == 2
    assert "of the target 'hand', whose scales it holds" in sentence_of(ended)
    assert not Path("w.safetensors").exists()


def header_of(path: str) -> dict:
    extra = {"decoder.json": ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra["decoder.json"])


def test_the_decoder_of_a_run_is_exported_with_what_the_store_calls_its_channels(
    spikedata, store, tmp_path
):
    ended = spikedata("export-decoder run --out decoder.pt2 --store store")
    header, weights = header_of("decoder.pt2"), weights_of_run(Path("run"))
    hand = {"hand": {"unit": "mm/s", "columns": ["x", "y"]}}

    assert ended.code == 0
    assert "for 7 units of 2 recordings: hand" in ended.err
    assert "are known of" not in ended.err
    assert header["series"] == {"lab/a": hand, "lab/b": hand}
    assert list(header["scales"]) == ["lab/a", "lab/b"]
    assert header["unit_ids"] == list(weights.vocabulary.unit_ids)
    assert header["provenance"]["kind"] == "spikedata run"


def test_what_is_not_known_of_a_decoder_is_said(spikedata, monkeypatch):
    """Here no store, and weights that came without scales."""
    monkeypatch.setenv("SPIKEDATA_CACHE", "nowhere")
    save_theirs(Path("theirs.ckpt"))
    spikedata("import-weights theirs.ckpt --target velocity --out w.safetensors")
    ended = spikedata("export-decoder w.safetensors --out decoder.pt2")

    assert ended.code == 0
    assert "Scales are known of 0 of 2 recordings." in ended.err
    assert "Names of channels are known of 0 of 2 recordings." in ended.err


def test_json_of_an_exported_decoder_of_one_recording(spikedata, store):
    ended = spikedata(
        "export-decoder run --out decoder.pt2 --store store --recording lab/b --precision bfloat16 "
        "--json"
    )
    shown = json.loads(ended.out)

    assert 0 < shown.pop("largest_difference") < 0.1
    assert shown == {
        "decoder": "decoder.pt2", "bytes": Path("decoder.pt2").stat().st_size,
        "precision": "bfloat16", "units": 3, "recordings": 1, "targets": {"hand": 2},
        "named_recordings": 1, "scaled_recordings": 1, "compared_windows": 4,
    }  # fmt: skip
    assert header_of("decoder.pt2")["precision"] == "bfloat16"
    assert header_of("decoder.pt2")["recording_ids"] == ["lab/b"]


def damaged(path: Path) -> None:
    save_theirs(path)
    path.write_bytes(path.read_bytes()[:-200])


def hostile(path: Path) -> None:
    save_theirs(path, callbacks=gadgets(Path("proof"))["posix.system"])


@pytest.mark.parametrize(
    ("arguments", "make", "says"),
    [
        ("import-weights x --target v --out w.safetensors", None, "There is no file x"),
        (
            "import-weights x --target v --out w.safetensors",
            damaged,
            "x is cut off or not a checkpoint",
        ),
        ("import-weights x --target v --out w.safetensors", hostile, "x names 'posix.system'"),
        (
            "import-weights x --target v --out no/w.safetensors",
            save_theirs,
            "No such file or directory",
        ),
        ("export-weights x --out w.safetensors", None, "There is no file x"),
        ("export-weights x --out w.safetensors", save_theirs, "x is no weights file of spikedata"),
        ("export-weights . --out w.safetensors", None, "There is no run in ."),
        ("export-decoder x --out w.safetensors", None, "There is no file x"),
        ("export-decoder run --out w.pt2 --recording lab/c", None, "knows no recording 'lab/c'"),
        ("export-decoder run --out w.pt2 --store no", None, "There is no store at"),
    ],
)
def test_a_failure_is_one_sentence_and_leaves_nothing(
    spikedata, arguments, make: Callable[[Path], object] | None, says
):
    if make is not None:
        make(Path("x"))
    ended = spikedata(arguments)

    assert ended.code == 1
    assert says in sentence_of(ended)
    assert not Path("w.safetensors").exists()
    assert not Path("proof").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--out decoder.pt", "ends neither in .pt2"),
        ("--out no/decoder.pt2", "There is no folder no"),
        ("--out x.onnx --precision bfloat16", "no matrix products in bfloat16"),
    ],
)
def test_a_request_for_no_program_ends_with_2(spikedata, arguments, says):
    ended = spikedata(f"export-decoder run {arguments}")

    assert ended.code == 2
    assert says in sentence_of(ended)


@pytest.mark.parametrize(
    "arguments",
    [
        "export-weights run --out run/weights.safetensors",
        "export-weights run --out run/checkpoint.pt",
        "export-weights run --out link",
        "export-weights run/weights.safetensors --out ./run/weights.safetensors",
        "export-decoder run/weights.safetensors --out link.pt2",
        "import-weights theirs.ckpt --target hand --out theirs.ckpt",
    ],
)
def test_what_is_read_is_not_written_over(spikedata, arguments):
    save_theirs(Path("theirs.ckpt"))
    Path("link").symlink_to("run/run.json")
    Path("link.pt2").symlink_to("run/weights.safetensors")
    files = [*Path("run").iterdir(), Path("theirs.ckpt")]
    before = [one.read_bytes() for one in files]
    ended = spikedata(arguments)

    assert ended.code == 2
    assert "would replace what is read" in sentence_of(ended)
    assert [one.read_bytes() for one in files] == before
    assert Path("link").is_symlink()


@pytest.mark.parametrize(
    "arguments",
    [
        "import-weights x --out w.safetensors",
        "export-weights",
        "import-w",
        "export-decoder run",
        "export-decoder run --out x.pt2 --precision float16",
    ],
)
def test_a_command_line_that_makes_no_sense_ends_with_2(spikedata, arguments):
    ended = spikedata(arguments)

    assert (ended.code, ended.out) == (2, "")
    assert "Traceback" not in ended.err
