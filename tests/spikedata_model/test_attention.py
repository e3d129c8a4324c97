from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.attention import attend, attend_plain


@given(
    sizes=st.tuples(*(st.integers(1, top) for top in (3, 4, 9, 3))),
    dim_head=st.sampled_from([4, 8, 12, 32]),
    masked=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_fused_attention_returns_what_the_plain_one_does(sizes, dim_head, masked, seed):
    torch.manual_seed(seed)
    batch, queries, keys, heads = sizes
    q_BQHD = 3 * torch.randn(batch, queries, heads, dim_head)
    k_BNHD, v_BNHD = (3 * torch.randn(batch, keys, heads, dim_head) for _ in range(2))
    mask_BN = None
    if masked:
        mask_BN = torch.rand(batch, keys) < 0.5
        mask_BN[torch.arange(batch), torch.randint(keys, (batch,))] = True

    torch.testing.assert_close(
        attend(q_BQHD, k_BNHD, v_BNHD, mask_BN),
        attend_plain(q_BQHD, k_BNHD, v_BNHD, mask_BN),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("form", [attend, attend_plain])
def test_a_masked_key_might_as_well_not_be_there(form):
    q_BQHD, k_BNHD, v_BNHD = (torch.randn(1, n, 2, 8) for n in (3, 5, 5))
    mask_BN = torch.tensor([[True, False, True, True, False]])

    torch.testing.assert_close(
        form(q_BQHD, k_BNHD, v_BNHD, mask_BN),
        form(q_BQHD, k_BNHD[:, [0, 2, 3]], v_BNHD[:, [0, 2, 3]]),
    )


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_window_without_any_key_gives_numbers_and_leaves_its_neighbours_alone(dropout):
    """All units of a window may be silenced in training; nan there would ruin the weights."""
    q_BQHD, k_BNHD, v_BNHD = (torch.randn(2, n, 2, 8, requires_grad=True) for n in (3, 5, 5))
    mask_BN = torch.tensor([[False] * 5, [True] * 5])

    attend(q_BQHD, k_BNHD, v_BNHD, mask_BN, dropout).sum().backward()

    assert all(part.grad.isfinite().all() for part in (q_BQHD, k_BNHD, v_BNHD))
    torch.testing.assert_close(
        attend(q_BQHD, k_BNHD, v_BNHD, mask_BN)[1:],
        attend_plain(q_BQHD[1:], k_BNHD[1:], v_BNHD[1:]),
    )
