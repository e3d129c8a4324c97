from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from spikedata.batch import Batch
from spikedata.intervals import IntervalSet
from spikedata.sampler import Sampler
from spikedata_model.attention import attend_plain
from spikedata_model.config import ModelConfig
from spikedata_model.errors import VocabularyError
from spikedata_model.poyo import CrossAttention, FeedForward, Poyo
from spikedata_model.rotary import phases, rotate
from spikedata_model.tokenizer import END, SPIKE, START, Tokenizer, Tokens
from spikedata_model.vocabulary import Vocabulary
from tests.spikedata_model.builders import TINY, make_recording, without_spikes

A, B = make_recording("lab/a"), make_recording("lab/b", seed=1, n_units=3)
VOCABULARY = Vocabulary((*A.unit_ids.tolist(), *B.unit_ids.tolist()), ("lab/a", "lab/b"))
CHANNELS = {"hand": 2, "heading": 2}
INITS = ["published", "local"]


def make_model(init: str = "published", **changes: object) -> Poyo:
    """Return a model in evaluation whose weights are all away from where they started."""
    torch.manual_seed(3)
    model = Poyo(TINY.model_copy(update={"init": init, **changes}), 7, 2, CHANNELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def make_batch(seed: int = 0, size: int = 5, window: object = (0.3, 1.0)) -> tuple[Batch, Sampler]:
    sampler = Sampler(
        [A, B], "train", window=window, batch_size=size, targets=tuple(CHANNELS), seed=seed
    )
    return sampler.batch(0, 0), sampler


def make_tokens(seed: int = 0, size: int = 5, window: object = (0.3, 1.0)) -> Tokens:
    batch, sampler = make_batch(seed, size, window)
    return Tokenizer(VOCABULARY, sampler.unit_ids, sampler.recording_ids, context=1.0)(batch)


def only(tokens: Tokens, row: int) -> Tokens:
    """Return one window."""
    return tokens.windows(row, row + 1)


def assert_close(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    assert list(expected) == list(found)
    for name in expected:
        torch.testing.assert_close(expected[name], found[name], rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------ the oracle


def read_plainly(
    layer: CrossAttention, x_QE: torch.Tensor, context_NE: torch.Tensor, query_time, key_time, omega
) -> torch.Tensor:
    """Return what a cross-attention adds, with every row of the context projected on its own."""
    rows = [layer.to_kv(layer.norm_context(row_E)) for row_E in context_NE]
    keys, values = (torch.stack(part) for part in zip(*(r.chunk(2) for r in rows), strict=True))
    query, key = phases(query_time, omega), phases(key_time, omega)
    q_QHD = rotate(layer.to_q(layer.norm(x_QE)).unflatten(-1, (layer.heads, -1)), query)
    k_NHD = rotate(keys.unflatten(-1, (layer.heads, -1)), key)
    v_NHD = values.unflatten(-1, (layer.heads, -1))
    if layer.turn_values:
        v_NHD = rotate(v_NHD, key)
    out_QHD = attend_plain(q_QHD, k_NHD, v_NHD, (0, len(q_QHD)), (0, len(k_NHD)))
    if layer.turn_values:
        out_QHD = rotate(out_QHD, query.conj())
    return layer.to_out(out_QHD.flatten(-2))


def feed_plainly(layer: FeedForward, x: torch.Tensor) -> torch.Tensor:
    value, gate = layer.up(layer.norm(x)).chunk(2, dim=-1)
    return layer.down(value * F.gelu(gate))


def predict_plainly(model: Poyo, tokens: Tokens) -> dict[str, torch.Tensor]:
    """Return the model's predictions, window by window and token by token."""
    omega, config = model.frequency_F, model.config
    found: dict[str, list[torch.Tensor]] = {name: [] for name in CHANNELS}
    for row in range(len(tokens.recording_B)):
        one = only(tokens, row)
        embedded = [
            model.unit_embedding.weight[unit] + model.type_embedding.weight[kind]
            for unit, kind in zip(one.unit_T, one.type_T, strict=True)
        ]
        steps = math.ceil(config.context / config.latent_step)
        latents = [
            (model.latent_embedding.weight[index], (step + 0.5) * config.latent_step)
            for step in range(steps)
            for index in range(config.latents_per_step)
        ]
        z_LE = torch.stack([weight for weight, _ in latents])
        at_L = torch.tensor([time for _, time in latents])
        z_LE = z_LE + read_plainly(
            model.encoder, z_LE, torch.stack(embedded), at_L, one.time_T, omega
        )
        z_LE = z_LE + feed_plainly(model.encoder_ffn, z_LE)
        turn = phases(at_L, omega)
        for attention, ffn in model.processor:
            qkv = attention.to_qkv(attention.norm(z_LE)).chunk(3, dim=-1)
            q, k, v = (rotate(x.unflatten(-1, (attention.heads, -1)), turn) for x in qkv)
            ends = (0, len(z_LE))
            out_LX = rotate(attend_plain(q, k, v, ends, ends), turn.conj()).flatten(-2)
            z_LE = z_LE + attention.to_out(out_LX)
            z_LE = z_LE + feed_plainly(ffn, z_LE)
        for time, target in zip(one.query_time_K, one.query_target_K, strict=True):
            x_QE = model.recording_embedding.weight[one.recording_B]
            x_QE = x_QE + read_plainly(model.decoder, x_QE, z_LE, time[None], at_L, omega)
            x_QE = x_QE + feed_plainly(model.decoder_ffn, x_QE)
            name = list(CHANNELS)[target]
            found[name].append(model.readout[model.targets.index(name)](x_QE)[0])
    return {name: torch.stack(rows) for name, rows in found.items()}


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("seed", [0, 1])
def test_predictions_are_those_of_a_model_that_projects_every_token_by_itself(init, seed):
    model, tokens = make_model(init, depth=2), make_tokens(seed)

    with torch.no_grad():
        assert_close(predict_plainly(model, tokens), model(tokens))


# ------------------------------------------------------------------ what must not matter


@pytest.mark.parametrize("init", INITS)
def test_a_window_alone_is_predicted_as_in_a_batch_with_longer_and_shorter_ones(init):
    model, tokens = make_model(init), make_tokens(size=6)
    with torch.no_grad():
        together = model(tokens)
        alone = [model(only(tokens, row)) for row in range(6)]

    assert len({end - start for start, end in pairwise(tokens.token_offsets)}) > 1
    assert_close({name: torch.cat([one[name] for one in alone]) for name in CHANNELS}, together)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("kernel", ["padded", "jagged"])
def test_every_kernel_of_attention_predicts_and_learns_the_same(init, kernel):
    """Windows one after another, padded to the longest, or nested: packed and padded agree."""
    tokens, found = make_tokens(), []
    for name in ("windows", kernel):
        model = make_model(init, depth=2)
        for part in model.modules():
            part.kernel = name
        predicted = model(tokens)
        sum(one.square().sum() for one in predicted.values()).backward()
        gradients = {name: one.grad for name, one in model.named_parameters()}
        found.append(({name: one.detach() for name, one in predicted.items()}, gradients))

    assert_close(found[0][0], found[1][0])
    assert_close(found[0][1], found[1][1])


@given(st.integers(0, 20))
def test_the_order_of_tokens_does_not_matter(seed):
    model, tokens = make_model(), only(make_tokens(), 0)
    order_T = torch.randperm(len(tokens.unit_T), generator=torch.Generator().manual_seed(seed))
    parts = {name: getattr(tokens, name)[order_T] for name in ("unit_T", "type_T", "time_T")}

    with torch.no_grad():
        assert_close(model(tokens), model(replace(tokens, **parts)))


def test_the_order_of_units_in_the_recording_does_not_matter():
    order = np.array([2, 0, 3, 1])
    shuffled = replace(
        A,
        spike_unit=np.argsort(order)[A.spike_unit].astype(np.int32),
        units={"unit_id": A.unit_ids[order]},
    )
    predictions = []
    for recording in (A, shuffled):
        sampler = Sampler([recording], targets=tuple(CHANNELS), batch_size=4)
        tokens = Tokenizer(VOCABULARY, sampler.unit_ids, sampler.recording_ids, context=1.0)(
            sampler.batch(0, 0)
        )
        with torch.no_grad():
            predictions.append(make_model()(tokens))

    assert_close(*predictions)


def test_a_window_does_not_see_the_others_of_its_batch():
    model, tokens = make_model(), make_tokens()
    own = slice(tokens.token_offsets[1], None)
    time_T, unit_T = tokens.time_T.clone(), tokens.unit_T.clone()
    time_T[own] *= 0.5
    unit_T[own] = tokens.unit_T[own].flip(0)
    with torch.no_grad():
        before, after = model(tokens), model(replace(tokens, time_T=time_T, unit_T=unit_T))

    for index, name in enumerate(CHANNELS):
        own = int((only(tokens, 0).query_target_K == index).sum())
        torch.testing.assert_close(before[name][:own], after[name][:own])
        assert not torch.isclose(before[name][own:], after[name][own:]).all()


def test_a_query_does_not_see_the_others():
    model, tokens = make_model(), only(make_tokens(), 0)
    with torch.no_grad():
        together = model(tokens)
        single = [
            model(
                replace(
                    tokens,
                    query_time_K=tokens.query_time_K[row : row + 1],
                    query_target_K=tokens.query_target_K[row : row + 1],
                    query_offsets=(0, 1),
                )
            )
            for row in range(len(tokens.query_time_K))
        ]

    assert_close({name: torch.cat([one[name] for one in single]) for name in CHANNELS}, together)


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_windows_taken_apart_predict_as_together(cut):
    model, tokens = make_model(), make_tokens(size=6)
    with torch.no_grad():
        parts = [model(tokens.windows(at, min(at + cut, 6))) for at in range(0, 6, cut)]
        together = model(tokens)

    assert_close({name: torch.cat([one[name] for one in parts]) for name in CHANNELS}, together)


# ------------------------------------------------------------------ what must matter


def test_moving_one_spike_or_giving_it_to_another_unit_changes_predictions():
    model, tokens = make_model(), only(make_tokens(), 0)
    spike = int((tokens.type_T == SPIKE).nonzero()[0])
    moved, given_away = tokens.time_T.clone(), tokens.unit_T.clone()
    moved[spike] += 0.1
    given_away[spike] += 1
    with torch.no_grad():
        before = model(tokens)["hand"]
        after = [
            model(replace(tokens, time_T=moved))["hand"],
            model(replace(tokens, unit_T=given_away))["hand"],
        ]

    assert all(not torch.allclose(before, one, atol=1e-5) for one in after)


@pytest.mark.parametrize("kind", [START, END])
def test_the_delimiters_of_a_silent_unit_matter(kind):
    silent = without_spikes(A, IntervalSet.empty())
    sampler = Sampler([silent], targets=tuple(CHANNELS), batch_size=1)
    tokens = Tokenizer(VOCABULARY, sampler.unit_ids, sampler.recording_ids, context=1.0)(
        sampler.batch(0, 0)
    )
    assert not (tokens.type_T == SPIKE).any()
    kept_T = ~((tokens.unit_T == 3) & (tokens.type_T == kind))
    parts = {name: getattr(tokens, name)[kept_T] for name in ("unit_T", "type_T", "time_T")}
    fewer = replace(tokens, **parts, token_offsets=(0, int(kept_T.sum())))
    model = make_model()

    with torch.no_grad():
        before, after = model(tokens)["hand"], model(fewer)["hand"]
    assert not torch.allclose(before, after, atol=1e-5)


def test_the_recording_that_is_asked_for_matters():
    model, tokens = make_model(), only(make_tokens(), 0)
    other = replace(tokens, recording_B=1 - tokens.recording_B)

    with torch.no_grad():
        assert not torch.allclose(model(tokens)["hand"], model(other)["hand"], atol=1e-5)


# ------------------------------------------------------------------ shapes, modes, gradients


@pytest.mark.parametrize("init", INITS)
def test_each_target_gets_rows_in_the_order_of_its_samples(init):
    batch, sampler = make_batch()
    tokens = Tokenizer(VOCABULARY, sampler.unit_ids, sampler.recording_ids, context=1.0)(batch)
    model = Poyo(TINY.model_copy(update={"init": init}), 7, 2, {"hand": 2, "heading": 3})
    predicted = model(tokens)

    assert predicted["hand"].shape == (len(batch.targets["hand"].time), 2)
    assert predicted["heading"].shape == (len(batch.targets["heading"].time), 3)
    offsets = batch.targets["hand"].offsets
    for row in (0, 3):
        torch.testing.assert_close(
            model(only(tokens, row))["hand"],
            predicted["hand"][offsets[row] : offsets[row + 1]],
            rtol=1e-3,
            atol=1e-4,
        )


@pytest.mark.parametrize("which", ["ffn_dropout", "residual_dropout", "attention_dropout"])
def test_each_dropout_acts_in_training_alone_and_follows_the_seed(which):
    model, tokens = make_model(**{which: 0.5}), make_tokens()
    with torch.no_grad():
        evaluated = [model(tokens)["hand"] for _ in range(2)]
        model.train()
        trained = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            trained.append(model(tokens)["hand"])

    assert torch.equal(*evaluated)
    assert torch.equal(trained[0], trained[1])
    assert not torch.allclose(trained[0], trained[2], atol=1e-5)
    assert not torch.allclose(trained[0], evaluated[0], atol=1e-5)


@pytest.mark.parametrize("init", INITS)
def test_gradients_reach_every_parameter_after_one_step(init):
    """The start "local" has matrices of zeros, which hide what is before them for one step."""
    torch.manual_seed(0)
    model, tokens = Poyo(TINY.model_copy(update={"init": init}), 7, 2, CHANNELS), make_tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(one.square().sum() for one in model(tokens).values()).backward()
        optimizer.step()

    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_every_latent_is_one_of_a_step_and_lies_at_its_middle():
    model = make_model(latent_step=0.25, latents_per_step=3)

    assert model.latent_time_L.tolist() == pytest.approx(
        [0.125] * 3 + [0.375] * 3 + [0.625] * 3 + [0.875] * 3
    )


def test_times_of_latents_are_exact_where_steps_are_no_powers_of_two():
    """At a period of 0.1 ms, the rounding of 1.95 s to float32 is a turn of up to 0.2 degrees."""
    model = make_model(context=2.0, latent_step=0.1, latents_per_step=1)

    assert model.latent_time_L.tolist() == [(step + 0.5) * 0.1 for step in range(20)]


@pytest.mark.parametrize(
    ("name", "row", "sentence"),
    [
        ("unit_T", -1, "unit -1; this model has 7"),
        ("unit_T", 7, "unit 7; this model has 7"),
        ("type_T", 3, "token type 3; this model has 3"),
        ("recording_B", -1, "recording -1; this model has 2"),
        ("query_target_K", 2, "target 2; this model has 2"),
    ],
)
def test_rows_that_are_not_there_are_refused_and_never_counted_from_the_end(name, row, sentence):
    tokens = make_tokens()
    rows = getattr(tokens, name).clone()
    rows[1] = row

    with pytest.raises(VocabularyError, match=sentence):
        make_model()(replace(tokens, **{name: rows}))


@pytest.mark.parametrize("init", INITS)
def test_bfloat16_predicts_nearly_the_same_and_keeps_weights_in_float32(init):
    model, tokens = make_model(init), make_tokens()
    torch.manual_seed(0)
    half = Poyo(model.config, 7, 2, CHANNELS, precision="bfloat16")
    half.load_state_dict(model.state_dict())
    predicted = half.eval()(tokens)
    sum(one.square().sum() for one in predicted.values()).backward()
    with torch.no_grad():
        exact = model(tokens)

    for name, one in predicted.items():
        assert one.dtype == torch.float32
        difference = (one - exact[name]).square().mean().sqrt() / exact[name].std()
        assert 0 < difference < 0.05
    assert {one.dtype for one in half.parameters()} == {torch.float32}
    assert {one.grad.dtype for one in half.parameters()} == {torch.float32}


def test_gradients_of_a_unit_that_fires_often_are_not_lost_in_bfloat16():
    """Nor are those of a recording with many samples: 256 plus 1 is 256 in bfloat16."""
    torch.manual_seed(0)
    exact = Poyo(TINY, 7, 2, CHANNELS)
    half = Poyo(TINY, 7, 2, CHANNELS, precision="bfloat16")
    half.load_state_dict(exact.state_dict())
    n_tokens, n_queries = 3000, 2000
    tokens = Tokens(
        unit_T=torch.arange(n_tokens, dtype=torch.int32) % 2,
        type_T=torch.zeros(n_tokens, dtype=torch.int32),
        time_T=torch.linspace(0, 1, n_tokens),
        token_offsets=(0, n_tokens),
        recording_B=torch.tensor([0]),
        query_time_K=torch.linspace(0, 1, n_queries),
        query_target_K=torch.zeros(n_queries, dtype=torch.int64),
        query_offsets=(0, n_queries),
    )
    for model in (exact, half):
        (model(tokens)["hand"] - 1).square().sum().backward()

    expected = dict(exact.named_parameters())
    for name, found in half.named_parameters():
        if name.startswith(("unit", "recording", "encoder.to_kv", "decoder.to_q")):
            difference = found.grad - expected[name].grad
            assert difference.norm() < 0.05 * expected[name].grad.norm(), name


def test_a_checkpoint_holds_weights_and_nothing_that_the_configuration_gives():
    assert set(make_model().state_dict()) == {name for name, _ in make_model().named_parameters()}


def test_a_window_without_tokens_still_gives_finite_predictions_and_gradients():
    model, tokens = make_model().train(), make_tokens()
    first, last = tokens.token_offsets[1:3]
    there = torch.arange(len(tokens.unit_T))
    there = (there < first) | (there >= last)
    parts = {name: getattr(tokens, name)[there] for name in ("unit_T", "type_T", "time_T")}
    edges = tuple(e - (last - first) * (e >= last) for e in tokens.token_offsets)
    predicted = model(replace(tokens, **parts, token_offsets=edges))
    sum(one.sum() for one in predicted.values()).backward()

    assert all(one.isfinite().all() for one in predicted.values())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# ------------------------------------------------------------------ the local start


def encoder_weights(model: Poyo, kind: int, time_N: torch.Tensor) -> torch.Tensor:
    """Return the attention of each latent to tokens of unit 0 at these times: (H, L, N).

    The scores are exponentiated but not normalised, so that calls can be compared.
    """
    encoder, omega = model.encoder, model.frequency_F
    pair_E = model.type_embedding.weight[kind] + model.unit_embedding.weight[0]
    k_HD, _ = encoder.keys_values(pair_E).unflatten(-1, (2 * encoder.heads, -1)).chunk(2)
    k_NHD = rotate(k_HD.expand(len(time_N), -1, -1), phases(time_N, omega))
    steps = len(model.latent_time_L) // model.config.latents_per_step
    z_LE = model.latent_embedding.weight.repeat(steps, 1)
    q_LHD = encoder.to_q(encoder.norm(z_LE)).unflatten(-1, (encoder.heads, -1))
    q_LHD = rotate(q_LHD, phases(model.latent_time_L, omega))
    score_HLN = torch.einsum("lhd,nhd->hln", q_LHD, k_NHD) / math.sqrt(model.config.dim_head)
    return score_HLN.exp()


@pytest.fixture(name="local")
def _local() -> Poyo:
    torch.manual_seed(0)
    shape = {"dim": 128, "dim_head": 32, "latent_step": 0.125, "latents_per_step": 4}
    return Poyo(TINY.model_copy(update={"init": "local", **shape}), 7, 2, CHANNELS)


@torch.no_grad()
def test_the_local_start_reads_spikes_at_the_time_of_each_latent(local):
    time_N = torch.linspace(0, 1, 201)
    weight_HLN = encoder_weights(local, SPIKE, time_N)

    at_HL = (weight_HLN * time_N).sum(-1) / weight_HLN.sum(-1)
    own_HL = local.latent_time_L.expand_as(at_HL)
    inner_L = (local.latent_time_L > 0.2) & (local.latent_time_L < 0.8)
    assert (at_HL - own_HL)[:, inner_L].abs().max() < local.config.latent_step
    near_HLN = (time_N - own_HL[..., None]).abs() < 0.06
    far_HLN = (time_N - own_HL[..., None]).abs() > 0.3
    near = (weight_HLN * near_HLN).sum(-1) / near_HLN.sum(-1)
    far = (weight_HLN * far_HLN).sum(-1) / far_HLN.sum(-1)
    assert (near > 3 * far).all()


@torch.no_grad()
def test_the_local_start_prefers_spikes_to_delimiters(local):
    spike = encoder_weights(local, SPIKE, local.latent_time_L).diagonal(dim1=1, dim2=2)
    for kind in (START, END):
        delimiter = encoder_weights(local, kind, local.latent_time_L).diagonal(dim1=1, dim2=2)
        assert (spike > 3 * delimiter).all()


@torch.no_grad()
def test_the_published_start_has_no_such_preference():
    """The tests above could pass for a reason that has nothing to do with the start."""
    torch.manual_seed(0)
    model = Poyo(TINY.model_copy(update={"dim": 128, "dim_head": 32}), 7, 2, CHANNELS)
    weight_HLN = encoder_weights(model, SPIKE, torch.linspace(0, 1, 201))

    assert float(weight_HLN.max() / weight_HLN.min()) < 20


@pytest.mark.parametrize("name", ["1.6mLinearMaze", "keys", "pop"])
def test_a_target_may_have_any_name_that_a_series_may_have(name):
    """Tables of layers by name forbid dots and the names of their own methods."""
    model = Poyo(ModelConfig(dim=8, depth=0, dim_head=8), 2, 1, {name: 3})

    assert model.targets == (name,)
