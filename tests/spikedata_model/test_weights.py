from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from spikedata.sampler import Sampler
from spikedata_model.checkpoint import load_checkpoint, read_run, run_hash
from spikedata_model.data import Scale
from spikedata_model.errors import CheckpointError, VocabularyError
from spikedata_model.poyo import Poyo
from spikedata_model.tokenizer import Tokenizer
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.weight_tensors import safe_file, weight_shapes
from spikedata_model.weights import (
    Provenance,
    Weights,
    extended,
    load_weights,
    save_weights,
    weights_of_run,
)
from tests.spikedata_model.builders import TINY, make_recording
from tests.spikedata_model.test_untrusted import Calls, sentence

ROOT = Path(__file__).resolve().parents[2]
A = make_recording("lab/a")
UNITS = tuple(A.unit_ids.tolist())
CHANNELS = {"hand": 2, "head.ing": 3}
SCALES = {"lab/a": {"hand": Scale((0.1, -3.0), (2.0, 1 / 3))}}
PROVENANCE = Provenance(kind="spikedata run", source="first", sha256="0" * 64, dropped={"x": 3})


def make_weights(
    units: tuple[str, ...] = UNITS, recordings: tuple[str, ...] = ("lab/a",), seed: int = 0
) -> Weights:
    torch.manual_seed(seed)
    model = Poyo(TINY, len(units), len(recordings), CHANNELS).eval()
    with torch.no_grad():
        for one in model.parameters():
            one += 0.1 * torch.randn_like(one)
    return Weights(model, Vocabulary(units, recordings), SCALES, PROVENANCE)


def predict(weights: Weights, targets: tuple[str, ...] = ("hand",)) -> dict[str, torch.Tensor]:
    sampler = Sampler([A], "train", window=1.0, batch_size=4, targets=targets)
    make = Tokenizer(weights.vocabulary, sampler.unit_ids, sampler.recording_ids, context=1.0)
    with torch.no_grad():
        return weights.model(make(sampler.batch(0, 0)))


def same_state(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[n], theirs[n]) for n in mine)


# ------------------------------------------------------------------ there and back


def test_everything_is_read_as_it_was_written(tmp_path):
    written = make_weights()
    save_weights(tmp_path / "w.safetensors", written)
    read = load_weights(tmp_path / "w.safetensors")

    assert read.vocabulary == written.vocabulary
    assert read.scales == SCALES
    assert read.provenance == PROVENANCE
    assert read.model.config == TINY
    assert read.model.targets == ("hand", "head.ing")
    assert same_state(read.model, written.model)
    assert not read.model.training
    assert torch.equal(predict(read)["hand"], predict(written)["hand"])


def test_loading_twice_gives_two_models_and_keeps_the_random_state(tmp_path):
    save_weights(tmp_path / "w.safetensors", make_weights())
    before = torch.get_rng_state()
    first, second = (load_weights(tmp_path / "w.safetensors") for _ in range(2))
    with torch.no_grad():
        first.model.unit_embedding.weight.zero_()

    assert torch.equal(torch.get_rng_state(), before)
    assert same_state(second.model, make_weights().model)


@pytest.mark.parametrize(
    "change", [{}, {"depth": 0}, {"depth": 3, "cross_heads": 1, "dim": 24}, {"init": "local"}]
)
def test_the_shapes_without_a_model_are_those_of_the_model_and_draw_nothing(change):
    config = TINY.model_copy(update=change)
    state = Poyo(config, 7, 2, CHANNELS).state_dict()
    before = torch.get_rng_state()

    assert weight_shapes(config, 7, 2, CHANNELS) == {n: tuple(t.shape) for n, t in state.items()}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_gives_the_weights_of_its_last_checkpoint(run, tmp_path):
    weights, record, checkpoint = weights_of_run(run), read_run(run), load_checkpoint(run)
    assert checkpoint is not None
    save_weights(tmp_path / "w.safetensors", weights)
    read = load_weights(tmp_path / "w.safetensors")

    assert read.vocabulary == Vocabulary(record.unit_ids, tuple(record.recordings))
    assert read.scales == record.scales
    assert list(read.model.state_dict()) == list(checkpoint.model)
    for name, one in read.model.state_dict().items():
        assert torch.equal(one, checkpoint.model[name]), name


def test_the_model_of_a_run_is_ready_to_predict_on_a_machine_without_a_gpu(run):
    asked = json.loads((run / "run.json").read_text())
    asked["config"]["train"]["device"] = "cuda"
    (run / "run.json").write_text(json.dumps(asked))
    path = run / "weights.safetensors"
    weights = load_weights(path)
    save_weights(path, weights, {**weights.about, "run": run_hash(run)})
    before = torch.get_rng_state()
    model = weights_of_run(run).model

    assert not model.training
    assert model.frequency_F.device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_without_weights_says_how_to_go_on(run):
    (run / "weights.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"has no weights\.safetensors yet: go on") as caught:
        weights_of_run(run)
    sentence(caught)


def test_weights_of_another_run_are_refused(run):
    (run / "run.json").write_text((run / "run.json").read_text() + " ")

    with pytest.raises(CheckpointError, match="belongs to another run") as caught:
        weights_of_run(run)
    sentence(caught)


# ------------------------------------------------------------------ what is refused


def test_a_vocabulary_of_another_size_is_not_written(tmp_path):
    weights = replace(make_weights(), vocabulary=Vocabulary(UNITS[:-1], ("lab/a",)))

    with pytest.raises(VocabularyError, match=r"names 3 units and 1 recordings.*rows for 4") as one:
        save_weights(tmp_path / "w.safetensors", weights)
    sentence(one)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_writing_leaves_the_old_file(tmp_path, monkeypatch):
    save_weights(tmp_path / "w.safetensors", make_weights())
    before = (tmp_path / "w.safetensors").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(tmp_path / "w.safetensors", make_weights(seed=1))
    assert (tmp_path / "w.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def change_file(path: Path, **changes: Callable) -> None:
    """Write a file anew with other tensors (``state``) or texts, by the library alone."""
    with safe_open(path, "pt") as opened:
        texts = opened.metadata()
    state = load_file(path)
    for name, change in changes.items():
        if name == "state":
            state = change(state)
        else:
            texts[name] = change(texts[name])
    texts = {name: text for name, text in texts.items() if text is not None}
    save_file({name: one.contiguous() for name, one in state.items()}, path, texts)


def swapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights with two units' rows exchanged: nothing else would notice."""
    rows = state["unit_embedding.weight"].flip(0)
    return {**state, "unit_embedding.weight": rows}


def replacing(old: str, new: str) -> dict[str, Callable]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return {"header": change}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state": swapped}, "its weights are not those"),
        (replacing("lab/a/u0", "lab/a/u9"), "its weights are not"),
        (replacing("[0.1,-3.0]", "[0.2,-3.0]"), "its weights are not"),
        (replacing('"step":"3"', '"step":"4"'), "its weights are not"),
        ({"sha256": lambda _: "0" * 64}, "its weights are not those"),
        ({"sha256": lambda _: None}, "its weights are not those"),
        (replacing("lab/a/u0", "lab/a/u1"), "occurs twice in the vocabulary"),
        (replacing('"depth":1', '"depth":1000000000'), "depth: Input should be"),
        (replacing('"depth":1', '"depth":2'), "lacks weight 'process"),
        (
            replacing('"head.ing":3', ",".join(f'"{n}":3' for n in range(99))),
            r"it names 100 targets and has \d\d weights in all",
        ),
        (replacing('"depth":1', '"depth":1,"depth":1'), "'depth' occurs twice"),
        (replacing('"dim":16', '"dim":1600000'), "dim: Input should be"),
        (replacing("[0.1,-3.0]", "[0.1,NaN]"), "is not a finite mean"),
        (replacing("[0.1,-3.0]", "[0.1]"), "is not a finite mean"),
        (replacing("[2.0,", "[0.0,"), "a positive deviation"),
        (replacing('{"lab/a":{"hand"', '{"lab/a":{"foot"'), "scale of 'foot' in 'lab/a' is not"),
        (replacing('sion":1,', 'sion":2,'), "newer spikedata: upgrade"),
        (replacing('sion":1,', 'sion":2,"a":1,'), "newer spikedata"),
        ({"header": lambda text: text[:-1]}, "header of .* cannot be read"),
        ({"header": lambda _: "[" * 200_000}, "header of .* cannot be read"),
        ({"header": lambda _: None}, "header of .* cannot be read"),
        ({"state": lambda s: {n: t for n, t in s.items() if "bias" not in n}}, "lacks weight '"),
        ({"state": lambda s: {**s, "extra": torch.ones(1)}}, "an unknown weight 'extra'"),
        ({"state": lambda s: {n: t * torch.nan for n, t in s.items()}}, "no finite numbers"),
        ({"state": lambda s: {n: t.int() for n, t in s.items()}}, "torch.int32, torch.float32 was"),
        ({"state": lambda s: {n: t.half() for n, t in s.items()}}, "torch.float16, torch.float32"),
        ({"state": lambda s: {n: t.flatten() for n, t in s.items()}}, "has shape .*settings say"),
        ({"format": lambda _: "other"}, "is no weights file of spikedata"),
        ({"format": lambda _: None}, "is no weights file of spikedata"),
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path, changes, says):
    path = tmp_path / "w.safetensors"
    save_weights(path, make_weights(), about={"step": "3"})
    change_file(path, **changes)

    with pytest.raises(CheckpointError, match=says) as caught:
        load_weights(path)
    sentence(caught)


def test_changing_nothing_changes_nothing(tmp_path):
    """The test above would pass on anything if its way of changing files broke them."""
    path = tmp_path / "w.safetensors"
    save_weights(path, make_weights())
    change_file(path, header=lambda text: text, state=lambda state: state)

    assert same_state(load_weights(path).model, make_weights().model)


def raw(header: str | bytes, values: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


ONE = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no weights file of spikedata, or is cut off"),
        (b"\x00" * 8, "is no weights file"),
        (raw("{}", length=2**63), "is no weights file"),
        (raw("{}", length=99_000_000), "is no weights file"),
        (raw(" {}"), "is no weights file"),
        (raw("{" + "[" * 50_000), "is damaged"),
        (raw(b"{\xff}"), "is damaged"),
        (raw("{" + ONE + "," + ONE + "}", b"1234"), "'a' occurs twice in its header"),
        (raw("{" + ONE + "," + ONE.replace('"a"', '"b"') + "}", b"1234"), "is damaged"),
        (raw("{" + ONE + "}", b"12345678"), "is damaged"),
        (raw("{" + ONE + "}", b"123"), "is damaged"),
        (raw("{" + ONE.replace("[0,4]", "[4,8]") + "}", b"12345678"), "is damaged"),
        (raw("{" + ONE.replace("[0,4]", "[4,0]") + "}", b"1234"), "is damaged"),
        (raw("{" + ONE.replace("[1]", "[-1]") + "}", b"1234"), "is damaged"),
        (raw("{" + ONE.replace("[1]", "[4611686018427387904,4]") + "}", b""), "is damaged"),
        (raw("{" + ONE.replace("F32", "F33") + "}", b"1234"), "is damaged"),
        (raw("{" + ONE + "}", b"1234"), "is no weights file of spikedata"),
        (raw("{" + ONE.replace("[1]", f"[{'1,' * 5_000_000}1]") + "}", b"1234"), "than 2097152"),
        (raw('{"__metadata__":{"format":3}}'), "is damaged"),
        (raw('{"__metadata__":null}'), "is no weights file of spikedata"),
        (raw('{"__metadata__":{"format":"x","format":"x"}}'), "is damaged"),
        (
            raw(
                "{"
                + ",".join(
                    f'"{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
                    for n in range(70_000)
                )
                + "}"
            ),
            "70000 tensors",
        ),
    ],
)
def test_a_file_that_lies_about_itself_is_refused(tmp_path, content, says):
    (tmp_path / "w.safetensors").write_bytes(content)

    with pytest.raises(CheckpointError, match=says) as caught:
        load_weights(tmp_path / "w.safetensors")
    sentence(caught)


def test_a_cut_or_flipped_file_is_refused_or_the_same(tmp_path):
    """Flipped in a name that orders nothing, or in padding, a bit changes nothing that counts."""
    path = tmp_path / "w.safetensors"
    written = make_weights()
    save_weights(path, written)
    content = path.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for place in rng.integers(0, len(content), 150).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            read = load_weights(path)
        except CheckpointError:
            refused += 1
            continue
        assert same_state(read.model, written.model)
        assert read.vocabulary == written.vocabulary
    for length in rng.integers(0, len(content), 30).tolist():
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load_weights(path)

    assert refused > 140


def test_a_file_that_is_replaced_while_it_is_read_is_the_old_one(tmp_path, monkeypatch):
    """As the weights of a run that is going on are, at any time."""
    path, other = tmp_path / "w.safetensors", tmp_path / "other.safetensors"
    save_weights(path, make_weights())
    save_weights(other, make_weights(seed=1), {"step": "a longer header"})
    opened = Path.open

    def replacing_open(self: Path, *arguments: str):
        file = opened(self, *arguments)
        if self == path and other.exists():
            other.replace(path)
        return file

    monkeypatch.setattr(Path, "open", replacing_open)

    assert same_state(load_weights(path).model, make_weights().model)
    assert same_state(load_weights(path).model, make_weights(seed=1).model)


def test_a_file_of_torch_is_no_weights_file(tmp_path):
    path, proof = tmp_path / "w.pt", tmp_path / "proof"
    torch.save({"format": "spikedata weights", "header": Calls(open, str(proof), "w")}, path)

    with pytest.raises(CheckpointError, match="is no weights file") as caught:
        load_weights(path)
    sentence(caught)
    assert not proof.exists()


def test_anybody_opens_the_tensors(tmp_path):
    """By the library alone, the rows under the names of the state, the ids in JSON."""
    save_weights(tmp_path / "w.safetensors", make_weights())
    with safe_open(tmp_path / "w.safetensors", "np") as opened:
        header = json.loads(opened.metadata()["header"])
        rows = opened.get_tensor("unit_embedding.weight")

    assert header["unit_ids"] == list(UNITS)
    assert np.array_equal(rows, make_weights().model.unit_embedding.weight.detach().numpy())


def test_the_same_weights_give_the_same_bytes_in_every_process(tmp_path):
    code = (
        "import sys, pathlib; from tests.spikedata_model.test_weights import *; "
        "save_weights(pathlib.Path(sys.argv[1]), make_weights())"
    )
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, cwd=ROOT)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scales": {"lab/a": {"hand": Scale((0.0,), (1.0,))}}}, "scale of 'hand' in 'lab/a'"),
        ({"scales": {"lab/a": {"hand": Scale((0.0, 0.0), (1.0, 0.0))}}}, "positive deviation"),
        ({"about": {"step": 3}}, "about.step"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, change, says):
    with pytest.raises(CheckpointError, match=says) as caught:
        save_weights(tmp_path / "w.safetensors", replace(make_weights(), **change))
    sentence(caught)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_are_not_written(tmp_path):
    weights = make_weights()
    with torch.no_grad():
        weights.model.type_embedding.weight[1, 2] = torch.inf

    with pytest.raises(CheckpointError, match=r"'type_embedding\.weight' holds values that are no"):
        save_weights(tmp_path / "w.safetensors", weights)
    assert list(tmp_path.iterdir()) == []


def test_names_longer_than_a_header_are_not_written(monkeypatch):
    monkeypatch.setattr("spikedata_model.weight_tensors.MAX_HEADER", 1000)

    assert len(safe_file({}, {"x": "y" * 900})) > 900
    with pytest.raises(CheckpointError, match="take 1032 bytes, more than the 1000"):
        safe_file({}, {"x": "y" * 1000})


def test_what_is_known_about_weights_goes_along(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, make_weights(), about={"step": "3", "licence": "CC-BY 4.0 “é”"})
    read = load_weights(path)
    save_weights(path, read)

    assert load_weights(path).about == read.about == {"step": "3", "licence": "CC-BY 4.0 “é”"}


# ------------------------------------------------------------------ more units and recordings


def test_an_extended_model_is_a_new_one_and_the_old_one_goes_on_training():
    """In torch_brain the table is replaced under the optimiser, which then trains nothing."""
    old = make_weights()
    optimizer = torch.optim.SGD(old.model.parameters(), lr=1.0)
    before = {name: one.clone() for name, one in old.model.state_dict().items()}
    new = extended(old, ["lab/b/u0", "lab/b/u1"], ["lab/b"], seed=0)

    assert new.vocabulary.unit_ids == (*UNITS, "lab/b/u0", "lab/b/u1")
    assert new.vocabulary.recording_ids == ("lab/a", "lab/b")
    shared = {one.data_ptr() for one in new.model.parameters()}
    assert shared.isdisjoint(one.data_ptr() for one in old.model.parameters())
    old.model.unit_embedding.weight.grad = torch.ones_like(old.model.unit_embedding.weight)
    optimizer.step()
    moved = before["unit_embedding.weight"] - 1
    assert torch.equal(old.model.unit_embedding.weight, moved)
    assert torch.equal(new.model.unit_embedding.weight[:4], before["unit_embedding.weight"])


def test_an_optimiser_of_the_extended_model_trains_every_row():
    new = extended(make_weights(), ["lab/b/u0"], [], seed=0)
    before = new.model.unit_embedding.weight.detach().clone()
    optimizer = torch.optim.SGD(new.model.parameters(), lr=1.0)
    new.model.unit_embedding.weight.square().sum().backward()
    optimizer.step()

    assert (new.model.unit_embedding.weight != before).any(dim=1).all()


def test_known_units_are_decoded_as_before_and_new_rows_depend_on_the_seed_alone():
    old = make_weights()
    first, again, other = (
        extended(old, ["lab/b/u0"], ["lab/b"], seed=seed).model.unit_embedding.weight
        for seed in (1, 1, 2)
    )
    expected, found = predict(old), predict(extended(old, ["lab/b/u0"], ["lab/b"], seed=1))

    torch.testing.assert_close(expected["hand"], found["hand"])
    assert torch.equal(first, again)
    assert torch.equal(first[:-1], other[:-1])
    assert not torch.equal(first[-1], other[-1])


@pytest.mark.parametrize(
    ("units", "recordings"), [((UNITS[0],), ()), (("x", "x"), ()), ((), ("lab/a",))]
)
def test_an_id_that_is_known_is_not_added_again(units, recordings):
    with pytest.raises(VocabularyError, match="occurs twice in the vocabulary"):
        extended(make_weights(), units, recordings, seed=0)


def test_a_pretrained_vocabulary_of_27000_units_is_extended_and_saved(tmp_path):
    """As POYO-1 has; whatever is done for each unit must be done in constant time."""
    units = tuple(f"poyo/animal_{n % 7}/2013-08-{n % 31:02d}/unit_{n}" for n in range(27_000))
    weights = make_weights(units)
    more = extended(weights, [f"lab/b/u{n}" for n in range(3_000)], ["lab/b"], seed=0)
    save_weights(tmp_path / "w.safetensors", more)
    read = load_weights(tmp_path / "w.safetensors")

    assert read.vocabulary == more.vocabulary
    assert torch.equal(read.model.unit_embedding.weight, more.model.unit_embedding.weight)
    size, rows = (tmp_path / "w.safetensors").stat().st_size, 30_000 * TINY.dim * 4
    assert rows < size < 3 * rows
