from __future__ import annotations

import csv
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch

from spikedata_model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_run,
    save_checkpoint,
    start_run,
)
from spikedata_model.errors import CheckpointError, ConfigError
from spikedata_model.train import train
from tests.spikedata_model.builders import make_config, make_recording, make_store


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def sentence(caught: pytest.ExceptionInfo) -> str:
    """Return the message, after making sure that it is one line that ends like a sentence."""
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ".." not in message
    return message


def test_a_checkpoint_is_read_as_it_was_written(run):
    torch.manual_seed(0)
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    curve = [{"step": 1, "seconds": 0.5, "loss": 0.1}, {"step": 2, "seconds": 1.0, "loss": 0.2}]
    record = read_run(run)
    weights = {
        name: torch.randn_like(one) for name, one in record.build_model().state_dict().items()
    }
    ids = (record.unit_ids, tuple(record.recordings))
    written = Checkpoint(2, 1.5, weights, optimizer, curve, [0.25, 1 / 3], 9, *ids)
    save_checkpoint(run, written)
    read = load_checkpoint(run)

    assert read is not None
    assert (read.step, read.seconds, read.losses) == (2, 1.5, [0.25, 1 / 3])
    assert (read.total_steps, read.unit_ids, read.recording_ids) == (9, *ids)
    assert read.curve == curve
    assert all(torch.equal(read.model[name], weights[name]) for name in weights)
    assert torch.equal(read.optimizer["state"][0]["exp_avg"], torch.ones(2))


def test_the_curve_is_also_a_table_with_every_column_that_any_row_has(run):
    curve = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "r2 lab/a hand x": -0.5}]
    save_checkpoint(run, Checkpoint(2, 0.0, {}, {}, curve, [], 9, (), ()))
    with (run / "learning_curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert rows == [
        {"step": "1", "loss": "0.5", "r2 lab/a hand x": ""},
        {"step": "2", "loss": "0.25", "r2 lab/a hand x": "-0.5"},
    ]


def test_a_run_without_a_checkpoint_has_none(run):
    (run / "checkpoint.pt").unlink()

    assert load_checkpoint(run) is None


def test_nothing_but_the_files_of_a_run_is_left_in_its_folder(run):
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.pt", "learning_curve.csv", "model_card.json", "model_card.md", "run.json",
        "weights.safetensors",
    ]  # fmt: skip


# ------------------------------------------------------------------ damage


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x05.", b"PK\x03\x04", b"[1]"])
def test_a_file_that_is_no_checkpoint_is_refused(run, content):
    (run / "checkpoint.pt").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged") as caught:
        load_checkpoint(run)
    assert "delete it to train again" in sentence(caught)


def test_a_checkpoint_cut_anywhere_is_refused(run):
    whole = (run / "checkpoint.pt").read_bytes()
    for size in [1, 30, len(whole) // 3, len(whole) // 2, len(whole) - 100, len(whole) - 1]:
        (run / "checkpoint.pt").write_bytes(whole[:size])
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(run)
        assert "is damaged" in sentence(caught), size


def contents(checkpoint: Checkpoint | None) -> bytes:
    """Return a checkpoint as bytes that are equal when everything in it is."""
    assert checkpoint is not None
    states = checkpoint.optimizer["state"].values()
    return pickle.dumps([
        checkpoint.step, checkpoint.seconds, checkpoint.curve, checkpoint.losses,
        [weight.tolist() for weight in checkpoint.model.values()],
        [value.tolist() for state in states for value in state.values()],
    ])  # fmt: skip


def test_a_checkpoint_with_a_changed_byte_is_refused_unless_nothing_reads_that_byte(run):
    """Weights that a disk has changed would be as fatal as they are quiet."""
    whole, before = (run / "checkpoint.pt").read_bytes(), contents(load_checkpoint(run))
    rng = random.Random(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 20])):
            damaged[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
        (run / "checkpoint.pt").write_bytes(damaged)
        try:
            assert contents(load_checkpoint(run)) == before
        except CheckpointError:
            refused += 1

    assert refused > 50


class Hostile:
    """Runs a command when it is unpickled carelessly."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.proof}'",)


@pytest.mark.parametrize("form", ["pickle", "torch", "field"])
def test_a_hostile_checkpoint_is_refused_and_not_run(run, tmp_path, form):
    hostile = Hostile(tmp_path / "proof")
    if form == "pickle":
        (run / "checkpoint.pt").write_bytes(pickle.dumps(hostile))
    elif form == "torch":
        torch.save(hostile, run / "checkpoint.pt")
    else:
        content = torch.load(run / "checkpoint.pt", weights_only=True)
        torch.save({**content, "losses": hostile}, run / "checkpoint.pt")

    with pytest.raises(CheckpointError, match="is damaged") as caught:
        load_checkpoint(run)
    sentence(caught)
    assert not (tmp_path / "proof").exists()
    pickle.loads(pickle.dumps(hostile))
    assert (tmp_path / "proof").exists()  # it would have been


def test_a_checkpoint_of_another_program_is_refused(run):
    torch.save({"epoch": 3, "state_dict": {"weight": torch.ones(3)}}, run / "checkpoint.pt")

    with pytest.raises(CheckpointError, match="is damaged") as caught:
        load_checkpoint(run)
    sentence(caught)


@pytest.mark.parametrize(
    "missing", ["run", "step", "losses", "total_steps", "unit_ids", "vocabulary_hash"]
)
def test_a_checkpoint_without_one_of_its_fields_is_refused(run, missing):
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    del content[missing]
    torch.save(content, run / "checkpoint.pt")

    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(run)


def test_a_checkpoint_of_another_run_is_refused(store, run, tmp_path):
    other = tmp_path / "other"
    train(store, other, make_config(seed=1))
    shutil.copy(other / "checkpoint.pt", run / "checkpoint.pt")

    with pytest.raises(CheckpointError, match="belongs to another run") as caught:
        train(store, run, make_config())
    sentence(caught)


# ------------------------------------------------------------------ what was asked


def test_a_folder_without_a_run_says_how_to_start_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"no run in .*start one with `spikedata train --out"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"format_version": "two"}', "{}"])
def test_a_damaged_run_file_is_refused_by_all_that_read_it(store, run, content):
    (run / "run.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
        read_run(run)
    with pytest.raises(CheckpointError, match=r"run\.json is damaged") as caught:
        train(store, run, make_config())
    assert "\n" not in str(caught.value)


def test_a_run_of_a_newer_version_is_refused_with_what_to_do(store, run):
    change_json(run / "run.json", format_version=99)

    for read in (read_run, lambda folder: train(store, folder, make_config())):
        with pytest.raises(CheckpointError, match="newer spikedata: upgrade") as caught:
            read(run)
        assert "damaged" not in sentence(caught)


def test_a_run_of_an_older_version_is_refused_with_what_to_do(run):
    change_json(run / "run.json", format_version=1)

    with pytest.raises(CheckpointError, match=r"older spikedata.*train again in another --out"):
        read_run(run)


# ------------------------------------------------------------------ rows and schedule


def rewrite(run: Path, /, **changes: object) -> None:
    """Change fields of a checkpoint, as a program would that keeps its hashes right."""
    content = torch.load(run / "checkpoint.pt", weights_only=True) | changes
    fields = {name: content[name] for name in Checkpoint.__dataclass_fields__}
    if "vocabulary_hash" not in changes:
        content["vocabulary_hash"] = Checkpoint(**fields).vocabulary_hash
    torch.save(content, run / "checkpoint.pt")


def test_embedding_rows_that_changed_places_are_refused(run):
    """No checksum of the file sees it: the file is whole."""
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    for table in ("unit_embedding.weight", "recording_embedding.weight"):
        weights = {**content["model"], table: content["model"][table].flip(0)}
        rewrite(run, model=weights, vocabulary_hash=content["vocabulary_hash"])
        with pytest.raises(CheckpointError, match="rows are not those of its units and rec"):
            load_checkpoint(run)


def test_units_in_another_order_than_their_rows_are_refused(run):
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    for name in ("unit_ids", "recording_ids"):
        swapped = tuple(content[name][::-1])
        rewrite(run, **{name: swapped}, vocabulary_hash=content["vocabulary_hash"])
        with pytest.raises(CheckpointError, match="rows are not those of its units and rec"):
            load_checkpoint(run)
        rewrite(run, **content)


@pytest.mark.parametrize("kind", ["units", "recordings"])
@pytest.mark.parametrize("change", ["order", "missing", "another"])
def test_a_checkpoint_with_other_rows_than_the_run_says_is_refused(store, run, kind, change):
    name = {"units": "unit_ids", "recordings": "recording_ids"}[kind]
    ids = list(torch.load(run / "checkpoint.pt", weights_only=True)[name])
    if change == "order":
        ids[0], ids[1] = ids[1], ids[0]
    elif change == "missing":
        del ids[-1]
    else:
        ids[0] = "lab/zzz"
    rewrite(run, **{name: tuple(ids)})

    with pytest.raises(CheckpointError, match=f"other {kind} than run.json, or has them in anoth"):
        train(store, run, make_config())


def test_a_checkpoint_of_another_schedule_is_refused(store, run):
    """Or its learning rates would jump."""
    rewrite(run, total_steps=900)

    with pytest.raises(CheckpointError, match=r"other steps than run\.json.* \(900; 9 there\)"):
        train(store, run, make_config())


@pytest.mark.parametrize(
    "change",
    [
        lambda model: {**model, "readout.0.bias": torch.zeros(3)},
        lambda model: {**model, "readout.0.bias": 3},
        lambda model: {**model, "more": torch.zeros(3)},
        lambda model: {name: one for name, one in model.items() if name != "decoder.to_q.weight"},
        lambda _: {},
    ],
    ids=["shape", "no tensor", "more", "less", "none"],
)
def test_a_checkpoint_of_another_model_is_refused(run, change):
    rewrite(run, model=change(torch.load(run / "checkpoint.pt", weights_only=True)["model"]))

    with pytest.raises(CheckpointError, match="does not hold the weights of the model") as caught:
        load_checkpoint(run)
    sentence(caught)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {},
        lambda state: {**state, "param_groups": state["param_groups"][:1]},
        lambda state: {**state, "state": {0: {"exp_avg": torch.ones(2, 2)}}},
        lambda state: {**state, "state": {0: {"exp_avg": "x"}}},
        lambda state: {**state, "state": 3},
    ],
    ids=["none", "groups", "shape", "text", "number"],
)
def test_a_checkpoint_with_another_optimiser_is_refused(store, run, change):
    rewrite(
        run, optimizer=change(torch.load(run / "checkpoint.pt", weights_only=True)["optimizer"])
    )

    with pytest.raises(CheckpointError, match="holds an optimiser of another model") as caught:
        train(store, run, make_config())
    sentence(caught)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", "9"),
        ("step", None),
        ("seconds", [1]),
        ("model", [1]),
        ("curve", 3),
        ("losses", "x"),
    ],
)
def test_a_field_of_another_kind_is_refused(run, field, value):
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**content, field: value}, run / "checkpoint.pt")

    with pytest.raises(CheckpointError, match=f"is damaged .its {field} is a ") as caught:
        load_checkpoint(run)
    sentence(caught)


def test_a_long_curve_of_many_recordings_stays_small(run):
    """A name of a column is written once, not once a row."""
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    fields = {name: content[name] for name in Checkpoint.__dataclass_fields__}
    curve = [{f"r2 lab/{n} hand x": 0.5 for n in range(100)} for _ in range(100)]
    sizes = []
    for rows in (1, 100):
        save_checkpoint(run, Checkpoint(**{**fields, "curve": curve[:rows]}))
        sizes.append((run / "checkpoint.pt").stat().st_size)
    read = load_checkpoint(run)

    assert sizes[1] - sizes[0] < 99 * 100 * 20  # bytes a number
    assert read is not None
    assert read.curve == curve


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 10}, r"config\.train\.steps is 9, now 10"),
        ({"seed": 4}, r"config\.train\.seed is 0, now 4"),
        ({"learning_rate": 0.5}, r"config\.train\.learning_rate is 0\.002, now 0\.5"),
        ({"schedule": "one_cycle"}, r"config\.train\.schedule is trapezoid, now one_cycle"),
        ({"optimizer": "lamb"}, r"config\.train\.optimizer is adamw, now lamb"),
        ({"precision": "bfloat16"}, r"config\.train\.precision is float32, now bfloat16"),
        ({"steps": None, "epochs": 2}, r"config\.train\.steps is 9, now 16"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(store, run, change, says):
    with pytest.raises(ConfigError, match=f"holds a run with other settings: {says}") as caught:
        train(store, run, make_config(**change))
    assert "Choose another --out, or delete" in sentence(caught)


def test_other_recordings_in_the_same_folder_are_refused_by_name(store, run):
    with pytest.raises(ConfigError, match="lab/b"):
        train(store, run, make_config(), recording_ids=["lab/a"])


def test_changed_data_in_the_same_folder_are_refused(store, run):
    store.write(make_recording("lab/b", seed=5, n_units=3), {"made": "anew"})

    with pytest.raises(ConfigError, match="lab/b"):
        train(store, run, make_config())


def test_the_same_request_may_start_a_run_twice(run):
    before = (run / "run.json").read_bytes()
    start_run(run, read_run(run))

    assert (run / "run.json").read_bytes() == before


def test_a_run_file_rebuilds_the_model_and_finds_the_data(store, run):
    record = read_run(run)
    checkpoint = load_checkpoint(run)
    assert checkpoint is not None
    model = record.build_model()
    model.load_state_dict(checkpoint.model)

    assert record.channels == {"hand": 2}
    assert record.data(store).vocabulary.unit_ids == record.unit_ids
    assert record.data(store).scales == record.scales


def test_a_store_that_lacks_a_recording_is_refused(run, tmp_path):
    other = make_store(tmp_path / "less", make_recording("lab/a"))

    with pytest.raises(OSError, match="lab/b"):
        read_run(run).data(other)
