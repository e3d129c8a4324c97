from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.config import load_config
from spikedata_model.one_window import OneWindow
from spikedata_model.poyo import Poyo
from spikedata_model.tokenizer import END, SPIKE, START, Tokens
from tests.spikedata_model.builders import TINY

CHANNELS = {"hand": 2, "heading": 3}
N_UNITS, N_RECORDINGS = 9, 2
SIZES = {
    "tiny": TINY,
    "local": TINY.model_copy(update={"init": "local", "depth": 2}),
    "compact": load_config("poyo-compact").model,
    "1.3M": load_config("poyo-single").model,
}


def make_model(size: str, precision: str = "float32") -> Poyo:
    """Return a model whose weights are all away from where they started."""
    torch.manual_seed(5)
    model = Poyo(SIZES[size], N_UNITS, N_RECORDINGS, CHANNELS, precision)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


MODELS = {size: make_model(size) for size in SIZES}


def make_window(
    seed: int, n_spikes: int, units: list[int], length: float = 1.0, n_queries: int = 3
) -> dict[str, torch.Tensor]:
    """Return START, END and spike tokens of some embedding rows, and queries."""
    rng = np.random.default_rng(seed)
    unit = np.concatenate([units, units, rng.choice(units, n_spikes)])
    kind = np.repeat([START, END, SPIKE], [len(units), len(units), n_spikes])
    time = np.concatenate(
        [np.zeros(len(units)), np.full(len(units), length),
         np.sort(rng.uniform(0, length, n_spikes))]
    )  # fmt: skip
    return {
        "unit_T": torch.from_numpy(unit),
        "type_T": torch.from_numpy(kind),
        "time_T": torch.from_numpy(time.astype(np.float32)),
        "recording": torch.tensor(int(rng.integers(N_RECORDINGS))),
        "query_time_K": torch.from_numpy(rng.uniform(0, length, n_queries).astype(np.float32)),
    }


def ask_poyo(model: Poyo, window: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return what `Poyo.forward` makes of a window, every query asked for every target."""
    n_queries, n_targets = len(window["query_time_K"]), len(CHANNELS)
    tokens = Tokens(
        unit_T=window["unit_T"].int(),
        type_T=window["type_T"].int(),
        time_T=window["time_T"],
        token_offsets=(0, len(window["unit_T"])),
        recording_B=window["recording"][None],
        query_time_K=window["query_time_K"].repeat(n_targets),
        query_target_K=torch.arange(n_targets).repeat_interleave(n_queries),
        query_offsets=(0, n_queries * n_targets),
    )
    with torch.no_grad():
        return tuple(model(tokens).values())


def assert_close(expected: tuple[torch.Tensor, ...], found: tuple[torch.Tensor, ...], atol: float):
    assert [one.shape for one in expected] == [one.shape for one in found]
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("size", SIZES)
@given(
    st.integers(0, 2**20), st.integers(0, 60), st.lists(st.integers(0, N_UNITS - 1), min_size=1,
    max_size=N_UNITS, unique=True), st.floats(1e-3, 1.0), st.integers(0, 4), st.booleans(),
)  # fmt: skip
def test_one_window_is_what_poyo_makes_of_it(size, seed, n_spikes, units, length, queries, table):
    model, window = MODELS[size], make_window(seed, n_spikes, units, length, queries)
    expected = ask_poyo(model, window)
    one = OneWindow(model, units if table else None)
    if table:
        window["unit_T"] = torch.tensor([units.index(row) for row in window["unit_T"].tolist()])
    with torch.no_grad():
        found = one(**window)

    assert_close(expected, found, 1e-5)


def test_products_of_a_bfloat16_model_are_rounded_here_too():
    """Nearer to the float32 model than two roundings of it, and not the float32 model."""
    rounded, window = make_model("compact", "bfloat16"), make_window(0, 50, [0, 3, 5])
    expected, exact = ask_poyo(rounded, window), ask_poyo(MODELS["compact"], window)
    with torch.no_grad():
        found = OneWindow(rounded, None)(**window)

    scale = max(float(one.abs().max()) for one in exact)
    assert_close(expected, found, 0.05 * scale)
    assert any(not torch.equal(one, other) for one, other in zip(exact, found, strict=True))
    assert all(one.dtype == torch.float32 for one in found)


def test_the_model_is_left_as_it_is():
    model, window = make_model("tiny"), make_window(1, 20, [0, 1])
    before = {name: one.clone() for name, one in model.state_dict().items()}
    model.train()
    one = OneWindow(model)
    with torch.no_grad():
        one(**window)

    assert model.training
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize("rows", [None, range(N_UNITS)])
def test_a_window_is_decoded_with_the_weights_that_the_model_had(rows):
    """A model that is trained on while a decoder of it is live does not change the decoder."""
    model = make_model("tiny")
    one, window = OneWindow(model, rows), make_window(0, 30, list(range(N_UNITS)))
    before = one(**window)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1

    assert all(torch.equal(a, b) for a, b in zip(before, one(**window), strict=True))
