"""Rotary embedding of continuous time: attention that depends on time differences alone."""

from __future__ import annotations

import math

import torch

__all__ = ["phases", "rotary_frequencies", "rotate"]

# Shapes: B batch, N tokens, H heads, D head width, F frequencies (2 F of the D are turned).


def rotary_frequencies(n_frequencies: int, t_min: float, t_max: float) -> torch.Tensor:
    """Return angular frequencies 2π/T for periods T spaced evenly in log time.

    Parameters
    ----------
    n_frequencies : int
        How many; each turns one pair of head dimensions.
    t_min, t_max : float
        Shortest and longest period in seconds, both included.

    Returns
    -------
    Tensor, shape (F,), float32
        Radians a second.

    References
    ----------
    Azabou et al. 2023 (POYO), section 2; RoFormer, arXiv 2104.09864, for the rotation.
    """
    exponent = torch.linspace(0.0, 1.0, n_frequencies)
    period = torch.exp(
        torch.lerp(torch.tensor(math.log(t_min)), torch.tensor(math.log(t_max)), exponent)
    )
    return 2 * math.pi / period


def phases(time_BN: torch.Tensor, frequency_F: torch.Tensor) -> torch.Tensor:
    """Return the turn of each token in every pair of head dimensions, as complex numbers.

    Parameters
    ----------
    time_BN : Tensor, shape (..., N), float32
        Seconds from the window's start. Float32 is enough there, never for a recording's clock;
        angles are float64, for at a period of 0.1 ms those of 1 s are 63,000 radians.
    frequency_F : Tensor, shape (F,)
        Radians a second.

    Returns
    -------
    Tensor, shape (..., N, 2 F), complex64
        The turns by ``frequency_F``, then F ones: half of a head does not turn.
    """
    angle_BNF = time_BN.unsqueeze(-1).double() * frequency_F.double()
    angle_BNF = torch.remainder(angle_BNF, 2 * math.pi).float()
    turn_BNF = torch.complex(angle_BNF.cos(), angle_BNF.sin())
    return torch.cat([turn_BNF, torch.ones_like(turn_BNF)], dim=-1)


def rotate(x_BNHD: torch.Tensor, phase_BNP: torch.Tensor) -> torch.Tensor:
    """Turn every head of a token, pair by neighbouring pair of dimensions, by the token's phase.

    Parameters
    ----------
    x_BNHD : Tensor, shape (..., N, H, D)
        Queries, keys or values.
    phase_BNP : Tensor, shape (..., N, D / 2), complex
        From `phases`; pass its conjugate to turn back.

    Returns
    -------
    Tensor, shape (..., N, H, D)

    Notes
    -----
    One complex product over all pairs, those that do not turn included: cheaper than cutting
    the head in two and joining it again, forward and backward.
    """
    pairs = torch.view_as_complex(x_BNHD.float().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * phase_BNP.unsqueeze(-2)).flatten(-2)
    return turned.to(x_BNHD.dtype)
