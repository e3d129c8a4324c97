"""The optimiser's parameter groups and the learning rate of every step."""

from __future__ import annotations

import torch

from spikedata_model.config import TrainConfig
from spikedata_model.poyo import Poyo

__all__ = ["learning_rate_factor", "make_optimizer", "set_learning_rate"]


def make_optimizer(model: Poyo, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW with decay on matrices alone, and a rate of their own for the embeddings."""
    tables = {id(table.weight) for table in model.embeddings()}
    groups: dict[str, list[torch.nn.Parameter]] = {"matrices": [], "embeddings": [], "others": []}
    for parameter in model.parameters():
        if id(parameter) in tables:
            groups["embeddings"].append(parameter)
        else:
            groups["matrices" if parameter.ndim >= 2 else "others"].append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if name == "matrices" else 0.0,
                "scale": config.embedding_rate if name == "embeddings" else 1.0,
            }
            for name, parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
    )


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the full rate at a step: linear warm-up, flat, linear decay to 0.

    A pure function of the step, so that a resumed run continues its schedule.

    Examples
    --------
    >>> config = TrainConfig(steps=100, warmup=0.1, decay=0.4)
    >>> [round(learning_rate_factor(step, config), 2) for step in (0, 9, 50, 80, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.03]
    """
    up = (step + 1) / max(1.0, config.warmup * config.steps)
    down = (config.steps - step) / max(1.0, config.decay * config.steps)
    return min(1.0, up, down)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, config: TrainConfig) -> None:
    """Give every parameter group its rate for this step."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * group["scale"] * learning_rate_factor(step, config)
