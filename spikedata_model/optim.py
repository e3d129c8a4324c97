"""The optimisers, which do not move the rows of tables that a batch did not use; the schedules."""

# torch._foreach_* is what its own optimisers are made of:
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from spikedata_model.config import TrainConfig
from spikedata_model.poyo import Poyo

__all__ = [
    "Lamb",
    "RowAdamW",
    "learning_rate_factor",
    "make_optimizer",
    "momentum",
    "set_learning_rate",
]

# Of torch.optim.lr_scheduler.OneCycleLR, whose defaults the public code of POYO leaves as they are.
LOWEST = 1e-4  # the last learning rate, relative to the first
MOST_MOMENTUM, LEAST_MOMENTUM = 0.95, 0.85

# Shapes: N rows of a table, R those with a gradient, E columns.


class Lamb(torch.optim.Optimizer):
    r"""LAMB without bias correction; tables are updated where they have a gradient.

    With the gradient g of a weight tensor w,

    .. math::
        m &\leftarrow β_1 m + (1 - β_1) g, \quad v \leftarrow β_2 v + (1 - β_2) g^2, \\
        u &= m / (\sqrt{v} + ε) + λ w, \quad
        w \leftarrow w - η \frac{\min(‖w‖, limit)}{‖u‖} u,

    and the fraction is 1 where either norm is 0. In a group with ``rows`` true, w of a row without
    gradient stays as it is, and its m and v become 0: when it has a gradient again, it begins anew.
    Both norms are of the whole table: of such a row λ w counts in ‖u‖.

    Parameters
    ----------
    params : list of dict
        Groups of parameters, each with ``weight_decay`` (λ) and ``rows``.
    lr, betas, eps, trust_limit : float
        η, (β1, β2), ε and the limit.

    References
    ----------
    You et al. 2019, "Large Batch Optimization for Deep Learning", arXiv 1904.00962, algorithm 2 of
    its third version. Limit, rows and what the norms are of: ``SparseLamb`` in examples/poyo of
    torch_brain.
    """

    def __init__(
        self,
        params: list[dict],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        trust_limit: float = 10.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "trust_limit": trust_limit,
                    "weight_decay": 0.0, "rows": False}  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step; parameters without a gradient stay as they are."""
        for group in self.param_groups:
            used = [one for one in group["params"] if one.grad is not None]
            if used:
                self._step_group(group, used)

    def _step_group(self, group: dict, weights: list[torch.Tensor]) -> None:
        """Update all tensors of a group at a time."""
        (beta1, beta2), decay = group["betas"], group["weight_decay"]
        for weight in weights:
            _start_moments(self.state[weight], weight)
        grads = [weight.grad for weight in weights if weight.grad is not None]
        first = [self.state[weight]["exp_avg"] for weight in weights]
        second = [self.state[weight]["exp_avg_sq"] for weight in weights]
        live = [(grad_NE != 0).any(dim=1, keepdim=True).to(grad_NE.dtype) for grad_NE in grads
                if group["rows"]]  # fmt: skip
        if live:
            torch._foreach_mul_(first, live)
            torch._foreach_mul_(second, live)
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        update = torch._foreach_sqrt(second)
        torch._foreach_add_(update, group["eps"])
        torch._foreach_reciprocal_(update)
        torch._foreach_mul_(update, first)
        if decay:
            torch._foreach_add_(update, weights, alpha=decay)
        size, length = (torch.stack(torch._foreach_norm(one)) for one in (weights, update))
        rate = -group["lr"] * _trust(size, length, group["trust_limit"])
        torch._foreach_mul_(update, list(rate.unbind()))
        if live:
            torch._foreach_mul_(update, live)
        torch._foreach_add_(weights, update)


class RowAdamW(torch.optim.AdamW):
    """AdamW that leaves the rows without a gradient alone, in groups with ``rows`` true.

    A row counts its own steps: it moves as if it were a parameter of its own, and the steps
    without a gradient had not been. Parameters as those of `torch.optim.AdamW`.

    References
    ----------
    Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", arXiv 1711.05101.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step; parameters without a gradient stay as they are."""
        held = []
        for group in self.param_groups:
            for weight_NE in group["params"]:
                if group.get("rows") and weight_NE.grad is not None:
                    self._step_rows(group, weight_NE)
                    held.append((weight_NE, weight_NE.grad))
                    weight_NE.grad = None  # AdamW passes it over
        super().step()
        for weight_NE, grad_NE in held:
            weight_NE.grad = grad_NE

    def _step_rows(self, group: dict, weight_NE: torch.Tensor) -> None:
        state, (beta1, beta2) = self.state[weight_NE], group["betas"]
        _start_moments(state, weight_NE)
        if "step" not in state:
            state["step"] = torch.zeros_like(weight_NE[:, 0])  # of every row
        assert weight_NE.grad is not None
        row_R = (weight_NE.grad != 0).any(dim=1).nonzero()[:, 0]
        grad_RE = weight_NE.grad[row_R]
        first_RE = torch.lerp(state["exp_avg"][row_R], grad_RE, 1 - beta1)
        second_RE = beta2 * state["exp_avg_sq"][row_R] + (1 - beta2) * grad_RE.square()
        state["exp_avg"].index_copy_(0, row_R, first_RE)
        state["exp_avg_sq"].index_copy_(0, row_R, second_RE)
        steps_R1 = (state["step"][row_R] + 1)[:, None]
        state["step"].index_copy_(0, row_R, steps_R1[:, 0])
        first_RE = first_RE / (1 - beta1**steps_R1)
        second_RE = second_RE / (1 - beta2**steps_R1)
        kept_RE = weight_NE[row_R] * (1 - group["lr"] * group["weight_decay"])
        update_RE = first_RE / (second_RE.sqrt() + group["eps"])
        weight_NE.index_copy_(0, row_R, kept_RE - group["lr"] * update_RE)


def _start_moments(state: dict, weight: torch.Tensor) -> None:
    if "exp_avg" not in state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)


def _trust(size: torch.Tensor, length: torch.Tensor, limit: float) -> torch.Tensor:
    """Return LAMB's trust ratio of weights with norm `size` and an update with norm `length`."""
    ratio = size.clamp(max=limit) / length
    return torch.where((size == 0) | (length == 0), torch.ones_like(ratio), ratio)


def make_optimizer(model: Poyo, config: TrainConfig) -> RowAdamW | Lamb:
    """Return the optimiser that the settings name, with a rate of their own for the embeddings.

    The tables of units and recordings are updated by row. AdamW decays matrices alone; LAMB
    decays everything, as in the public code of POYO.
    """
    tables = {id(one.weight) for one in (model.unit_embedding, model.recording_embedding)}
    embeddings = {id(table.weight) for table in model.embeddings()}
    groups: dict[str, list[torch.nn.Parameter]] = {
        "tables": [], "embeddings": [], "matrices": [], "others": [],
    }  # fmt: skip
    for parameter in model.parameters():
        if id(parameter) in tables:
            groups["tables"].append(parameter)
        elif id(parameter) in embeddings:
            groups["embeddings"].append(parameter)
        else:
            groups["matrices" if parameter.ndim >= 2 else "others"].append(parameter)
    lamb = config.optimizer == "lamb"
    params: list[dict] = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if lamb or name == "matrices" else 0.0,
            "scale": config.embedding_rate if name in ("tables", "embeddings") else 1.0,
            "rows": name == "tables",
        }
        for name, parameters in groups.items()
    ]
    rate, betas, eps = config.learning_rate, (config.beta1, config.beta2), config.eps
    if lamb:
        return Lamb(params, lr=rate, betas=betas, eps=eps, trust_limit=config.trust_limit)
    return RowAdamW(params, lr=rate, betas=betas, eps=eps, fused=True)


# ------------------------------------------------------------------ schedules


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the full rate at a step; at the first one the step is 0.

    The schedule "trapezoid" is a linear warm-up, flat, and a linear decay to 0; "one_cycle" is
    flat, then half a cosine. Both are pure functions of the step, so that a resumed run continues
    its schedule.

    References
    ----------
    `torch.optim.lr_scheduler.OneCycleLR` with ``div_factor=1`` and ``pct_start=1 - decay``.

    Examples
    --------
    >>> config = TrainConfig(steps=100, warmup=0.1, decay=0.4)
    >>> [round(learning_rate_factor(step, config), 2) for step in (0, 9, 50, 80, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.03]
    >>> config = TrainConfig(steps=100, schedule="one_cycle", decay=0.5)
    >>> [round(learning_rate_factor(step, config), 2) for step in (0, 49, 74, 99)]
    [1.0, 1.0, 0.5, 0.0]
    """
    total = config.total_steps
    if config.schedule == "one_cycle":
        falling, share = _place_in_cycle(step, config)
        return _half_cosine(1.0, LOWEST, share) if falling else 1.0
    up = (step + 1) / max(1.0, config.warmup * total)
    down = (total - step) / max(1.0, config.decay * total)
    return min(1.0, up, down)


def momentum(step: int, config: TrainConfig) -> float:
    """Return β1 at a step: from 0.95 to 0.85 and back in "one_cycle", else as configured."""
    if config.schedule != "one_cycle":
        return config.beta1
    falling, share = _place_in_cycle(step, config)
    ends = (LEAST_MOMENTUM, MOST_MOMENTUM) if falling else (MOST_MOMENTUM, LEAST_MOMENTUM)
    return _half_cosine(*ends, share)


def _place_in_cycle(step: int, config: TrainConfig) -> tuple[bool, float]:
    """Return whether the rate falls at a step, and the share of that phase that is over."""
    turn, last = (1 - config.decay) * config.total_steps - 1, config.total_steps - 1
    if step <= turn:
        return False, step / turn if turn > 0 else 1.0
    return True, (step - turn) / (last - turn)


def _half_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, config: TrainConfig) -> None:
    """Give every parameter group its rate and β1 for this step."""
    rate, beta1 = config.learning_rate * learning_rate_factor(step, config), momentum(step, config)
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = rate * group["scale"], (beta1, config.beta2)
