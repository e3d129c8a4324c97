from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from spikedata_model.geglu import geglu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_times_gelu_of_gates_and_its_derivatives(dtype):
    torch.manual_seed(0)
    up, weight = torch.randn(7, 12).to(dtype), torch.randn(7, 6).to(dtype)
    found = []
    for form in (lambda x: geglu(x, 0.0), lambda x: x[:, :6] * F.gelu(x[:, 6:])):
        x = up.clone().requires_grad_()
        out = form(x)
        (out * weight).sum().backward()
        found.append((out.detach(), x.grad))

    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def test_what_is_dropped_is_zero_and_has_no_derivative():
    torch.manual_seed(0)
    x = torch.randn(50, 40, requires_grad=True)
    out = geglu(x, 0.3)
    out.sum().backward()
    lost = out == 0

    assert 0.2 < lost.float().mean() < 0.4
    assert not x.grad[:, :20][lost].any()
    assert not x.grad[:, 20:][lost].any()
    kept = ~lost
    torch.testing.assert_close(out[kept], geglu(x, 0.0)[kept] / 0.7)
    torch.testing.assert_close(x.grad[:, :20][kept], (F.gelu(x[:, 20:]) / 0.7)[kept])
