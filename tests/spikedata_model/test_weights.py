from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spikedata.sampler import Sampler
from spikedata_model.checkpoint import load_checkpoint, read_run, run_hash
from spikedata_model.data import Scale
from spikedata_model.errors import CheckpointError, VocabularyError
from spikedata_model.poyo import Poyo
from spikedata_model.tokenizer import Tokenizer
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.weight_tensors import weight_shapes
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
    save_weights(tmp_path / "w.pt", written)
    read = load_weights(tmp_path / "w.pt")

    assert read.vocabulary == written.vocabulary
    assert read.scales == SCALES
    assert read.provenance == PROVENANCE
    assert read.model.config == TINY
    assert read.model.targets == ("hand", "head.ing")
    assert same_state(read.model, written.model)
    assert not read.model.training
    assert torch.equal(predict(read)["hand"], predict(written)["hand"])


def test_loading_twice_gives_two_models_and_keeps_the_random_state(tmp_path):
    save_weights(tmp_path / "w.pt", make_weights())
    before = torch.get_rng_state()
    first, second = (load_weights(tmp_path / "w.pt") for _ in range(2))
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
    save_weights(tmp_path / "w.pt", weights)
    read = load_weights(tmp_path / "w.pt")

    assert read.vocabulary == Vocabulary(record.unit_ids, tuple(record.recordings))
    assert read.scales == record.scales
    assert list(read.model.state_dict()) == list(checkpoint.model)
    for name, one in read.model.state_dict().items():
        assert torch.equal(one, checkpoint.model[name]), name


def test_the_model_of_a_run_is_ready_to_predict_on_a_machine_without_a_gpu(run):
    asked = json.loads((run / "run.json").read_text())
    asked["config"]["train"]["device"] = "cuda"
    (run / "run.json").write_text(json.dumps(asked))
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**content, "run": run_hash(run)}, run / "checkpoint.pt")
    before = torch.get_rng_state()
    model = weights_of_run(run).model

    assert not model.training
    assert model.frequency_F.device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_without_a_checkpoint_says_how_to_go_on(run):
    (run / "checkpoint.pt").unlink()

    with pytest.raises(CheckpointError, match="has no checkpoint yet: go on with") as caught:
        weights_of_run(run)
    sentence(caught)


# ------------------------------------------------------------------ what is refused


def test_a_vocabulary_of_another_size_is_not_written(tmp_path):
    weights = replace(make_weights(), vocabulary=Vocabulary(UNITS[:-1], ("lab/a",)))

    with pytest.raises(VocabularyError, match=r"names 3 units and 1 recordings.*rows for 4") as one:
        save_weights(tmp_path / "w.pt", weights)
    sentence(one)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_writing_leaves_the_old_file(tmp_path, monkeypatch):
    save_weights(tmp_path / "w.pt", make_weights())
    before = (tmp_path / "w.pt").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(tmp_path / "w.pt", make_weights(seed=1))
    assert (tmp_path / "w.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def change_file(path: Path, **changes: Callable[[object], object]) -> None:
    content = torch.load(path, weights_only=True)
    torch.save({**content, **{name: make(content[name]) for name, make in changes.items()}}, path)


def swapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights with two units' rows exchanged: nothing else would notice."""
    rows = state["unit_embedding.weight"].flip(0)
    return {**state, "unit_embedding.weight": rows}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state": swapped}, "its weights are not those"),
        ({"header": lambda text: text.replace("lab/a/u0", "lab/a/u9")}, "its weights are not"),
        ({"header": lambda text: text.replace("[0.1,-3.0]", "[0.2,-3.0]")}, "its weights are not"),
        ({"hash": lambda _: "0" * 64}, "its weights are not those"),
        ({"hash": lambda _: None}, "its weights are not those"),
        ({"header": lambda text: text.replace("lab/a/u0", "lab/a/u1")}, "occurs twice"),
        (
            {"header": lambda text: text.replace('"depth":1', '"depth":1000000000')},
            "depth: Input should be",
        ),
        ({"header": lambda text: text.replace('"depth":1', '"depth":2')}, "lacks weight 'process"),
        (
            {"header": lambda text: text.replace('"dim":16', '"dim":1600000')},
            "dim: Input should be",
        ),
        ({"header": lambda text: text.replace('sion":1,', 'sion":2,')}, "newer spikedata: upgrade"),
        ({"header": lambda text: text.replace('sion":1,', 'sion":2,"a":1,')}, "newer spikedata"),
        ({"header": lambda text: text[:-1]}, "header of .* cannot be read"),
        ({"header": lambda _: 3}, "header of .* cannot be read"),
        ({"state": lambda _: [1]}, "holds no weights"),
        ({"state": lambda s: {n: t for n, t in s.items() if "bias" not in n}}, "lacks weight '"),
        ({"state": lambda s: {**s, "extra": torch.ones(1)}}, "an unknown weight 'extra'"),
        ({"state": lambda s: {n: t * torch.nan for n, t in s.items()}}, "no finite numbers"),
        ({"state": lambda s: {n: t.int() for n, t in s.items()}}, "torch.int32, floating point"),
        ({"format": lambda _: "other"}, "is no weights file of spikedata"),
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path, changes, says):
    path = tmp_path / "w.pt"
    save_weights(path, make_weights())
    change_file(path, **changes)

    with pytest.raises(CheckpointError, match=says) as caught:
        load_weights(path)
    sentence(caught)


def test_a_hostile_weights_file_is_refused_and_not_run(tmp_path):
    path, proof = tmp_path / "w.pt", tmp_path / "proof"
    save_weights(path, make_weights())
    change_file(path, header=lambda _: Calls(open, str(proof), "w"))

    with pytest.raises(CheckpointError, match="nothing of it was run"):
        load_weights(path)
    assert not proof.exists()


def test_weights_that_share_their_bytes_are_refused(tmp_path):
    """A small file could otherwise ask for as much memory as it has names, times its size."""
    wide = TINY.model_copy(update={"depth": 40})
    shapes = weight_shapes(wide, 4, 1, {"hand": 2})
    base = torch.zeros(max(torch.Size(shape).numel() for shape in shapes.values()))
    model = Poyo(wide, 4, 1, {"hand": 2})
    path = tmp_path / "w.pt"
    save_weights(path, Weights(model, Vocabulary(UNITS, ("lab/a",))))
    state = {name: base[: torch.Size(s).numel()].view(s) for name, s in shapes.items()}
    change_file(path, state=lambda _: state)

    with pytest.raises(CheckpointError, match="share bytes with one another") as caught:
        load_weights(path)
    sentence(caught)


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
