"""torch_brain 0.2.1 itself is the oracle: its tokens, its collation, its model."""

from __future__ import annotations

import inspect
import math
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_brain.batching import collate, pad8, track_mask8
from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries
from torch_brain.models import POYO
from torch_brain.nn import InfiniteVocabEmbedding

from spikedata.batch import Batch
from spikedata.intervals import IntervalSet
from spikedata.recording import Recording
from spikedata.sampler import Sampler
from spikedata.testing import make_recording
from spikedata_model.config import ModelConfig
from spikedata_model.data import Scale
from spikedata_model.errors import CheckpointError, ConfigError
from spikedata_model.poyo import Poyo
from spikedata_model.published import (
    DEFAULTS,
    SETTINGS,
    export_published,
    import_published,
    published_names,
)
from spikedata_model.tokenizer import Tokenizer
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.weight_tensors import weight_shapes
from spikedata_model.weights import Weights
from tests.spikedata_model.builders import TINY, without_spikes
from tests.spikedata_model.test_untrusted import gadgets, sentence

SIZES = {
    "1.3M": ModelConfig(),
    "11.8M": ModelConfig(dim=128, depth=24, cross_heads=4, latents_per_step=32),
}
"""As torch_brain's examples/poyo/configs/model/poyo_1.3M.yaml and poyo_11.8M.yaml have them."""
SMALL = TINY.model_copy(update={"dim_head": 16})


def recordings() -> tuple[Recording, Recording]:
    """Return two with other units and rates; one has a second without spikes and a silent unit."""
    one = make_recording(0, units=6, duration=4.6, series_rate=400.0)
    other = make_recording(1, units=3, duration=3.3, series_rate=33.3, start=4400.1)
    quiet = without_spikes(one, IntervalSet(np.array([1.0]), np.array([4.6])))
    kept = quiet.spike_unit != 5
    return replace(
        quiet, spike_time=quiet.spike_time[kept], spike_unit=quiet.spike_unit[kept]
    ), other


A, B = recordings()
BATCHES = {"one recording": (A,), "mixed": (A, B)}


def vocabulary(*given: Recording) -> Vocabulary:
    units = [str(name) for one in given for name in one.unit_ids]
    return Vocabulary(tuple(units), tuple(one.recording_id for one in given))


def randomised(model: torch.nn.Module, sharp: bool) -> torch.nn.Module:
    """Give every weight a new value; `sharp` makes attention choose a few keys."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, one in model.named_parameters():
            scale = 0.1 if one.ndim == 1 else 1 / math.sqrt(one.shape[1])
            if "emb" in name:
                scale = 1.0 if sharp else 0.02
            elif sharp and "to_" in name and "to_out" not in name:
                scale *= 2
            drawn = scale * torch.randn(one.shape, generator=generator)
            one.copy_(drawn + 1 if "weight" in name and one.ndim == 1 else drawn)
    return model.eval()


def make_weights(
    config: ModelConfig, given: Sequence[Recording] = (A, B), *, sharp: bool = False
) -> Weights:
    known = vocabulary(*given)
    model = Poyo(config, len(known.unit_ids), len(known.recording_ids), {"velocity": 2})
    randomised(model, sharp)
    return Weights(model, known)


PAIRS: object = ()  # 2**100 of them, in a checkpoint of a few bytes
for _ in range(100):
    PAIRS = (PAIRS, PAIRS)


@cache
def windows(which: str) -> tuple[Batch, Sampler]:
    """Return windows side by side, so that queries lie on their edges."""
    sampler = Sampler(
        list(BATCHES[which]), window=1.0, order="sequential", batch_size=100, targets=("velocity",)
    )
    return sampler.batch(0, 0), sampler


def predict_ours(weights: Weights, which: str) -> torch.Tensor:
    batch, sampler = windows(which)
    make = Tokenizer(weights.vocabulary, sampler.unit_ids, sampler.recording_ids, context=1.0)
    return weights.model(make(batch))["velocity"]


def predict_theirs(model: POYO, which: str, clock: torch.dtype = torch.float64) -> torch.Tensor:
    """Return the predictions of torch_brain for the same windows, by its own way to them."""
    batch, sampler = windows(which)
    samples, domain = [], Interval(0.0, 1.0)
    for window in batch:
        given = sampler.recordings[window.recording_id]
        data = Data(
            spikes=IrregularTimeSeries(
                timestamps=window.spike_time.astype(np.float64),
                unit_index=window.spike_unit.astype(np.int64),
                domain=domain,
            ),
            units=ArrayDict(id=given.unit_ids[window.units].astype(object)),
            session=Data(id=window.recording_id, domain=domain),
            domain=domain,
        )
        time = window.targets["velocity"][0].astype(np.float64)
        asked = {"output_timestamps": pad8(time), "output_mask": track_mask8(time)}
        samples.append({**model.tokenize(data), **asked})
    inputs = collate(samples)
    mask = inputs.pop("output_mask")
    inputs = {
        name: one.to(clock) if one.dtype == torch.float64 else one for name, one in inputs.items()
    }
    return model(**inputs)[mask]


def make_theirs(config: ModelConfig, *, sharp: bool = False) -> POYO:
    given = {theirs: getattr(config, own) for theirs, own in SETTINGS.items()}
    model = POYO(**given, dim_out=2)
    known = vocabulary(A, B)
    model.unit_emb.initialize_vocab(list(known.unit_ids))
    model.session_emb.initialize_vocab(list(known.recording_ids))
    return randomised(model, sharp)


def lightning(model: POYO, config: ModelConfig, **more: object) -> dict[str, object]:
    """Return what Lightning saves of a module that holds the model and its settings."""
    given = {theirs: getattr(config, own) for theirs, own in SETTINGS.items()}
    return {
        "state_dict": OrderedDict(
            (f"model.{name}", one) for name, one in model.state_dict().items()
        ),
        "hyper_parameters": {"model": {"_target_": "torch_brain.models.POYO", **given}, "seed": 42},
        **more,
    }


def save_theirs(path: Path, config: ModelConfig = SMALL, **more: object) -> Path:
    torch.save(lightning(make_theirs(config), config, **more), path)
    return path


# ------------------------------------------------------------------ equality


def test_the_windows_hold_what_the_equality_is_about():
    batch, sampler = windows("mixed")
    spikes, queries = np.diff(batch.spike_offsets), batch.targets["velocity"].time

    assert set(batch.recording.tolist()) == {0, 1}
    assert spikes.min() == 0
    assert spikes.max() > 20
    assert np.bincount(batch.spike_unit, minlength=len(sampler.unit_ids))[5] == 0
    assert np.diff(batch.unit_offsets).tolist() == [6 - 3 * row for row in batch.recording]
    assert queries.min() == 0.0
    assert queries.max() > 0.997
    assert np.diff(batch.targets["velocity"].offsets).max() == 400


@pytest.mark.parametrize("which", BATCHES)
@pytest.mark.parametrize("size", SIZES)
def test_our_weights_predict_the_same_in_torch_brain(tmp_path, size, which):
    weights = make_weights(SIZES[size])
    export_published(tmp_path / "x.ckpt", weights)
    theirs = POYO.load_pretrained(tmp_path / "x.ckpt").eval()
    with torch.no_grad():
        expected, found = predict_theirs(theirs, which), predict_ours(weights, which)

    assert found.std() > 0.2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("which", BATCHES)
@pytest.mark.parametrize("size", SIZES)
def test_weights_of_torch_brain_predict_the_same_here(tmp_path, size, which):
    theirs = make_theirs(SIZES[size])
    torch.save(lightning(theirs, SIZES[size]), tmp_path / "x.ckpt")
    weights = import_published(tmp_path / "x.ckpt", "velocity")
    with torch.no_grad():
        expected, found = predict_theirs(theirs, which), predict_ours(weights, which)

    assert found.std() > 0.2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_sharp_attention_differs_by_rounding_alone(tmp_path):
    """Keys chosen by large scores amplify rounding, so torch_brain in float64 is the measure."""
    weights = make_weights(SIZES["1.3M"], sharp=True)
    export_published(tmp_path / "x.ckpt", weights)
    theirs = POYO.load_pretrained(tmp_path / "x.ckpt").eval()
    with torch.no_grad():
        rounded, found = predict_theirs(theirs, "mixed"), predict_ours(weights, "mixed")
        exact = predict_theirs(theirs.double(), "mixed")

    assert (found - exact).abs().max() < 3 * (rounded - exact).abs().max()


@pytest.mark.parametrize("size", SIZES)
def test_gradients_of_every_weight_are_the_same(tmp_path, size):
    """Of the large model two layers, for time's sake; in evaluation, for dropout draws differ."""
    config = SIZES[size].model_copy(update={"depth": 6 if size == "1.3M" else 2})
    weights = make_weights(config)
    export_published(tmp_path / "x.ckpt", weights)
    theirs = POYO.load_pretrained(tmp_path / "x.ckpt").eval()
    goal = torch.from_numpy(windows("mixed")[0].targets["velocity"].values).float()
    for predicted in (predict_theirs(theirs, "mixed"), predict_ours(weights, "mixed")):
        (predicted - goal).square().mean().backward()
    expected = dict(theirs.named_parameters())
    found = dict(weights.model.named_parameters())

    assert sorted(published_names(config.depth)) == sorted(found)
    for name, other in published_names(config.depth).items():
        gradient = expected.pop(other).grad
        gradient = gradient[1:] if other.startswith(("unit_emb", "session_emb")) else gradient
        gradient = gradient[:3] if other.startswith("token_type_emb") else gradient
        scale = gradient.abs().max()
        assert scale > 0, name
        assert (found[name].grad - gradient).abs().max() < 1e-4 * scale, name
    assert expected == {}


# ------------------------------------------------------------------ what the conversion is made of


@pytest.mark.parametrize("config", [SMALL, *SIZES.values()], ids=["small", *SIZES])
def test_every_weight_has_one_place_on_the_other_side(config):
    names = published_names(config.depth)
    theirs = make_theirs(config).state_dict()
    extra = {"unit_emb.vocab", "session_emb.vocab", "rotary_emb.omega"}

    assert list(names) == list(weight_shapes(config, 1, 1, {"velocity": 2}))
    assert sorted([*names.values(), *extra]) == sorted(theirs)


def test_our_copy_of_their_defaults_is_theirs():
    given = inspect.signature(POYO).parameters
    needed = {"sequence_length", "latent_step", "dim_out"}

    assert given.keys() - {"dim_out"} == SETTINGS.keys()
    assert {name: given[name].default for name in given.keys() - needed} == DEFAULTS


def test_there_and_back_changes_no_bit(tmp_path):
    weights = make_weights(SMALL)
    export_published(tmp_path / "x.ckpt", weights)
    back = import_published(tmp_path / "x.ckpt", "velocity")
    state = back.model.state_dict()

    assert back.vocabulary == weights.vocabulary
    assert back.model.config == weights.model.config
    assert back.model.targets == ("velocity",)
    for name, one in weights.model.state_dict().items():
        assert torch.equal(state[name], one), name


def test_rows_follow_the_vocabulary_not_the_order_it_is_written_in(tmp_path):
    model = make_theirs(SMALL)
    content = lightning(model, SMALL)
    known = content["state_dict"]["model.unit_emb.vocab"]
    content["state_dict"]["model.unit_emb.vocab"] = OrderedDict(reversed(known.items()))
    torch.save(content, tmp_path / "x.ckpt")
    weights = import_published(tmp_path / "x.ckpt", "velocity")

    for row, unit in enumerate(weights.vocabulary.unit_ids):
        expected = model.unit_emb(torch.tensor(model.unit_emb.tokenizer(unit)))
        assert torch.equal(weights.model.unit_embedding.weight[row], expected)


def test_what_is_left_behind_is_counted(tmp_path):
    moments = {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    more = {"optimizer_states": [{"state": {0: moments, 1: moments}}], "epoch": 3}
    weights = import_published(save_theirs(tmp_path / "x.ckpt", **more), "velocity")
    dropped = weights.provenance.dropped

    assert dropped["optimizer_states"] == 2  # the two are one dict, saved once
    assert dropped["epoch"] == 0
    assert dropped["row 'NA' of unit_emb"] == dropped["row 'NA' of session_emb"] == 1
    assert dropped["row 3 of token_type_emb"] == 1
    assert weights.provenance.source == "x.ckpt"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_other_types_are_cast_and_named(tmp_path, dtype):
    content = lightning(make_theirs(SMALL), SMALL)
    content["state_dict"]["model.readout.weight"] = expected = content["state_dict"][
        "model.readout.weight"
    ].to(dtype)
    torch.save(content, tmp_path / "x.ckpt")
    weights = import_published(tmp_path / "x.ckpt", "velocity")

    assert weights.provenance.casts == {"readout.weight": str(dtype).removeprefix("torch.")}
    assert weights.model.readout[0].weight.dtype == torch.float32
    assert torch.equal(weights.model.readout[0].weight, expected.float())


# ------------------------------------------------------------------ what is refused


def changed(content: dict, name: str, value: object) -> None:
    """Change one entry of the state, or take it away."""
    key = f"model.{name}"
    if value is None:
        del content["state_dict"][key]
    else:
        held = content["state_dict"].get(key)
        content["state_dict"][key] = value(held) if callable(value) else value


def with_value(value: float):
    def change(held: torch.Tensor) -> torch.Tensor:
        copy = held.clone()
        copy.view(-1)[0] = value
        return copy

    return change


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("readout.bias", None, "lacks weight 'readout.bias'"),
        ("proc_layers.0.0.to_qkv.weight", None, "lacks weight 'proc_layers.0.0.to_qkv.weight'"),
        ("rotary_emb.omega", None, "lacks weight 'rotary_emb.omega'"),
        ("unit_emb.vocab", None, "'unit_emb.vocab' was expected"),
        ("proc_layers.1.0.norm.bias", torch.ones(16), "an unknown weight 'proc_layers.1.0.norm.b"),
        ("enc_atn.to_q.weight", lambda held: held[:-1], r"shape \(31, 16\), its settings say"),
        ("unit_emb.weight", lambda held: held[:-1], r"shape \(9, 16\), its settings say \(10, 16"),
        ("latent_emb.weight", lambda held: held.int(), "is torch.int32, floating point was expec"),
        ("latent_emb.weight", 3, "is int, floating point was expected"),
        ("dec_ffn.0.bias", with_value(math.nan), "'dec_ffn.0.bias' holds values that are no fini"),
        ("dec_ffn.0.bias", with_value(math.inf), "'dec_ffn.0.bias' holds values that are no fini"),
        (
            "rotary_emb.omega",
            lambda held: 2 * held,
            "is not what t_min 0.1 and t_max 2.0627 s give",
        ),
        ("readout.weight", lambda held: held[:0], r"shape \(0, 16\), its settings say \(1, 16"),
        ("a\nb", torch.ones(1), r"an unknown weight 'a\\nb'"),
        ("enc_ffn.1.net.0.weight", torch.zeros(1).expand(128, 16), "stretched out of 1 stored nu"),
    ],
)
def test_a_wrong_weight_is_refused_by_name(tmp_path, name, value, says):
    content = lightning(make_theirs(SMALL), SMALL)
    changed(content, name, value)
    torch.save(content, tmp_path / "x.ckpt")

    with pytest.raises(CheckpointError, match=says) as caught:
        import_published(tmp_path / "x.ckpt", "velocity")
    sentence(caught)


@pytest.mark.parametrize(
    "change",
    [
        lambda known: {**known, next(iter(known)): -1},
        lambda known: {one: row + 1 for one, row in known.items()},
        lambda known: {one: 0 for one in known},
        lambda known: {one: float(row) for one, row in known.items()},
        lambda known: {one: row == 1 for one, row in known.items()},
        lambda known: {row: row for row in known.values()},
        lambda known: {("NA" if row == 3 else "x" if row == 0 else one): row
                       for one, row in known.items()},
        lambda known: list(known),
    ],
    ids=["-1", "shifted", "all one", "real", "flags", "numbers", "NA elsewhere", "list"],
)  # fmt: skip
@pytest.mark.parametrize("table", ["unit_emb", "session_emb"])
def test_a_vocabulary_that_does_not_give_each_row_once_is_refused(tmp_path, table, change):
    content = lightning(make_theirs(SMALL), SMALL)
    changed(content, f"{table}.vocab", change)
    torch.save(content, tmp_path / "x.ckpt")

    with pytest.raises(CheckpointError, match=rf"'{table}\.vocab' was expected to give") as caught:
        import_published(tmp_path / "x.ckpt", "velocity")
    sentence(caught)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"dim": 32}, "its settings say"),
        ({"depth": 2}, "lacks weight 'proc_layers.1"),
        ({"depth": 10**9}, "depth: Input should be less than or equal to 1000 "),
        ({"num_latents_per_step": 10**9}, "latents_per_step: Input should be less than"),
        ({"sequence_length": 1e9}, "latents in a context are more than 65536"),
        ({"dim": 10**12}, "dim: Input should be less than"),
        ({"dim": -4}, "dim"),
        ({"dim": "16"}, "dim"),
        ({"dim": None}, "dim"),
        ({"latent_step": math.nan}, "latent_step"),
        ({"t_max": 3.0}, "is not what t_min 0.1 and t_max 3.0 s give"),
        ({"backend": "flash"}, "the argument 'backend', which torch_brain 0.2.1 does not have"),
        ({"_target_": "torch_brain.models.CaPOYO"}, "holds a 'torch_brain.models.CaPOYO', only"),
        ({"_target_": PAIRS}, "holds a model without a name, only"),
        ({"num_latents_per_step": 10**400}, "latents_per_step: Input should be less than"),
        ({"sequence_length": 1e308, "latent_step": 1e-10}, "inf latents in a context"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_refused(tmp_path, settings, says):
    content = lightning(make_theirs(SMALL), SMALL)
    content["hyper_parameters"]["model"].update(settings)
    torch.save(content, tmp_path / "x.ckpt")

    with pytest.raises(CheckpointError, match=says) as caught:
        import_published(tmp_path / "x.ckpt", "velocity")
    sentence(caught)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {}},
        {"hyper_parameters": {"model": {}}},
        {"state_dict": {}, "hyper_parameters": {"model": 3}},
        {"state_dict": {"metric.weight": torch.ones(1)}, "hyper_parameters": {"model": {}}},
        {"state_dict": {}, "hyper_parameters": {"model": {}}},
        [1, 2],
        torch.ones(3),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")

    with pytest.raises(CheckpointError) as caught:
        import_published(tmp_path / "x.ckpt", "velocity")
    sentence(caught)


@pytest.mark.parametrize("place", ["hyper_parameters", "callbacks", "state_dict"])
@pytest.mark.parametrize("name", ["posix.system", "builtins.eval", "builtins.getattr"])
def test_a_hostile_checkpoint_is_refused_and_not_run(tmp_path, name, place):
    """With weights that are all right; test_untrusted.py tries more."""
    path, proof = tmp_path / "x.ckpt", tmp_path / "proof"
    content = lightning(make_theirs(SMALL), SMALL, callbacks={})
    inner = content["hyper_parameters"]["model"] if place == "hyper_parameters" else content[place]
    inner["more"] = gadgets(proof)[name]
    torch.save(content, path)

    with pytest.raises(CheckpointError, match=f"names '{name}'") as caught:
        import_published(path, "velocity")
    sentence(caught)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # it would have been


# ------------------------------------------------------------------ what Lightning writes

LIGHTNING = """
import collections, functools, pathlib, sys, types, typing

def module(name, *classes):
    made = types.ModuleType(name)
    sys.modules[name] = made
    for one in classes:
        setattr(made, one, type(one, (), {"__module__": name}))
    return made

import torch
nodes = module("omegaconf.nodes", "AnyNode")
config = module("omegaconf.dictconfig", "DictConfig")
base = module("omegaconf.base", "ContainerMetadata", "Metadata")
module("omegaconf")
module("pytorch_lightning")
trainer = module("pytorch_lightning.callbacks", "ModelCheckpoint")

def node(value):
    made = nodes.AnyNode()
    made.__dict__.update(_val=value, _metadata=base.Metadata(), _parent=None)
    return made

def container(content):
    made = config.DictConfig()
    metadata = base.ContainerMetadata()
    metadata.__dict__.update(ref_type=typing.Any, object_type=dict, key_type=str,
                             resolver_cache=collections.defaultdict(dict))
    held = {k: container(v) if isinstance(v, dict) else node(v) for k, v in content.items()}
    made.__dict__.update(_content=held, _metadata=metadata, _parent=None)
    for one in held.values():
        one.__dict__["_parent"] = made
    return made

content = torch.load(sys.argv[1], weights_only=True)
content["hyper_parameters"] = container(content["hyper_parameters"])
optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=0.1)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9)
content["lr_schedulers"] = [schedule.state_dict(), torch.optim.lr_scheduler.OneCycleLR]
content["callbacks"] = {"ModelCheckpoint": {
    "best_model_path": pathlib.PurePosixPath("/home/someone/best.ckpt"),
    "filter": functools.partial(trainer.ModelCheckpoint, 3), "seen": {1, 2}, "raw": b"bytes",
    "best_model_score": torch.tensor(0.5)}}
torch.save(content, sys.argv[2])
"""


def test_a_checkpoint_full_of_classes_of_frameworks_is_read(tmp_path):
    """They are made by another process: none of their modules is here to be imported."""
    plain, full = save_theirs(tmp_path / "plain.ckpt"), tmp_path / "full.ckpt"
    subprocess.run([sys.executable, "-c", LIGHTNING, plain, full], check=True, timeout=120)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(full, weights_only=True)
    expected, found = (import_published(path, "velocity") for path in (plain, full))

    assert found.vocabulary == expected.vocabulary
    assert found.model.config == expected.model.config
    for name, one in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], one), name
    assert found.provenance.dropped["callbacks"] == 1
    assert "omegaconf.dictconfig.DictConfig" in found.provenance.not_imported
    assert not any(name.startswith(("omegaconf", "pytorch_lightning")) for name in sys.modules)


# ------------------------------------------------------------------ what cannot be exported


@pytest.mark.parametrize(
    ("change", "channels", "units", "says"),
    [
        (
            {},
            {"velocity": 2, "position": 2},
            ("u",),
            r"decodes one target, this model 2 \(velocity",
        ),
        ({}, {"velocity": 2}, ("NA",), "An id is called 'NA'"),
        ({"dim_head": 4}, {"velocity": 2}, ("u",), "needs two rotary periods"),
        ({"context": 1.0 + 1e-11}, {"velocity": 2}, ("u",), "so nearly a number of latent steps"),
    ],
)
def test_a_model_that_torch_brain_does_not_have_is_refused(tmp_path, change, channels, units, says):
    model = Poyo(SMALL.model_copy(update=change), 1, 1, channels)
    weights = Weights(model, Vocabulary(units, ("r",)))

    with pytest.raises(ConfigError, match=says) as caught:
        export_published(tmp_path / "x.ckpt", weights)
    sentence(caught)
    assert list(tmp_path.iterdir()) == []


def test_the_scales_go_along_where_torch_brain_does_not_look(tmp_path):
    scale = Scale((1.0, -3.0), (2.0, 1 / 3))
    weights = replace(make_weights(SMALL), scales={"r": {"velocity": scale}})
    export_published(tmp_path / "x.ckpt", weights)
    read = import_published(tmp_path / "x.ckpt", "velocity")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)

    assert content["spikedata"]["target"] == "velocity"
    assert content["spikedata"]["scales"] == {"r": {"velocity": asdict(scale)}}
    assert read.scales == weights.scales
    assert read.provenance is not None
    assert "spikedata" not in read.provenance.dropped
    POYO.load_pretrained(tmp_path / "x.ckpt")


def scaled(mean: object = (0.0, 0.0), std: object = (1.0, 1.0), **more: object) -> dict:
    scales = {"r": {"velocity": {"mean": mean, "std": std}}}
    return {"version": "1", "target": "velocity", "scales": scales, **more}


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        (PAIRS, "should be a valid dictionary"),
        (scaled(more=1), "more: Extra inputs"),
        (scaled(scales=PAIRS), "scales: Input should be"),
        (scaled(mean=PAIRS), "valid number"),
        (scaled(mean=("nan", 0.0)), "finite"),
        (scaled(std=(1.0, 0.0)), "a positive deviation"),
        (scaled(std=(1.0,)), "for each of its channels"),
        (scaled(scales={"r": {"hand": {"mean": (0.0,), "std": (1.0,)}}}), "scale of 'hand' in 'r'"),
        (OrderedDict(), "version: Field required"),
    ],
)
def test_damaged_scales_are_refused(tmp_path, ours, says):
    path = save_theirs(tmp_path / "x.ckpt", spikedata=ours)

    with pytest.raises(CheckpointError, match=says) as caught:
        import_published(path, "velocity")
    sentence(caught)


# ------------------------------------------------------------------ accidents seen in torch_brain


def test_loading_a_vocabulary_twice_works(tmp_path):
    """There, loading takes the vocabulary out of the caller's state, and the next one fails."""
    theirs = make_theirs(SMALL)
    state = OrderedDict(theirs.state_dict())
    theirs.load_state_dict(state)
    again = InfiniteVocabEmbedding(4)
    again.initialize_vocab(["a"])
    with pytest.raises((AssertionError, ValueError)):
        again.initialize_vocab(["a"])

    path = save_theirs(tmp_path / "x.ckpt")
    first, second = (import_published(path, "velocity") for _ in range(2))
    given = first.model.state_dict()
    before = list(given)
    second.model.load_state_dict(given)
    second.model.load_state_dict(given)
    assert list(given) == before
    assert first.vocabulary == second.vocabulary
