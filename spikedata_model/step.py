"""One optimiser step: what it reads, its gradient, and the change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spikedata.sampler import Sampler
from spikedata_model.config import TrainConfig
from spikedata_model.data import RunData
from spikedata_model.dropout import seeded
from spikedata_model.loss import weighted_squared_error
from spikedata_model.optim import set_learning_rate
from spikedata_model.poyo import Poyo
from spikedata_model.tokenizer import Tokenizer, Tokens
from spikedata_model.workers import Workers

__all__ = ["Inputs", "backward", "prepare_inputs", "take_step"]

# Shapes: B windows, K samples of one target in the batch, C its channels.


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a step reads, on the device of the model.

    Parameters
    ----------
    tokens : Tokens
        What the model reads.
    target : dict of str to Tensor, each of shape (K, C)
        Normalised samples.
    weight : dict of str to Tensor, each of shape (K,)
        What they weigh in the loss.
    offsets : dict of str to ndarray, each of shape (B + 1,)
        Where the samples of each window begin.
    total : float
        Sum of the weights over samples and channels.
    """

    tokens: Tokens
    target: dict[str, torch.Tensor]
    weight: dict[str, torch.Tensor]
    offsets: dict[str, np.ndarray]
    total: float


def prepare_inputs(
    model: Poyo, sampler: Sampler, tokenizer: Tokenizer, data: RunData, step: int
) -> Inputs:
    """Return what optimiser step number `step` reads, whatever was read before."""
    batch = sampler.batch(*divmod(step, sampler.steps()))
    device = model.frequency_F.device
    weight = {name: data.weights(batch, name) for name in data.channels}
    sums = [float(weight[name].sum(dtype=np.float64)) * n for name, n in data.channels.items()]
    return Inputs(
        tokens=tokenizer(batch).to(device),
        target={name: data.normalised(batch, name).to(device) for name in data.channels},
        weight={name: torch.from_numpy(one).to(device) for name, one in weight.items()},
        offsets={name: batch.targets[name].offsets for name in data.channels},
        total=sum(sums),
    )


def backward(model: Poyo, workers: Workers, inputs: Inputs, seed: Sequence[int]) -> torch.Tensor:
    """Return the loss of a batch, and leave its gradient in the parameters.

    The loss is the squared error of the normalised targets, a weighted mean over all samples and
    channels of the batch. A few windows are taken at a time, and their gradients added in their
    order: the result does not depend on how many threads there are.
    """
    parameters = [one for one in model.parameters() if one.requires_grad]

    def piece(at: int, windows: tuple[int, int]) -> tuple[torch.Tensor, tuple]:
        first, last = windows
        rows = {name: slice(one[first], one[last]) for name, one in inputs.offsets.items()}
        with seeded([*seed, at]):
            predicted = model(inputs.tokens.windows(first, last))
        loss = weighted_squared_error(
            [predicted[name] for name in rows],
            [inputs.target[name][own] for name, own in rows.items()],
            [inputs.weight[name][own] for name, own in rows.items()],
            inputs.total,
        )
        return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

    total = torch.zeros((), device=model.frequency_F.device)
    pieces = workers.split(len(inputs.tokens.recording_B))
    for loss, gradients in workers.map(piece, range(len(pieces)), pieces):
        total += loss
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            elif gradient is not None:
                parameter.grad += gradient
    return total


def take_step(
    model: Poyo,
    optimizer: torch.optim.Optimizer,
    workers: Workers,
    inputs: Inputs,
    settings: TrainConfig,
    step: int,
) -> tuple[float, float]:
    """Take optimiser step number `step`; return its loss and the norm of its gradient."""
    model.train()
    seed = [settings.seed, step, 1]
    torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))  # dropout on a GPU
    set_learning_rate(optimizer, step, settings)
    optimizer.zero_grad()
    loss = backward(model, workers, inputs, seed)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
    optimizer.step()
    # Asked for at the end, and both at once: a GPU has then been given the whole step.
    loss_value, norm_value = torch.stack([loss, norm]).tolist()
    return loss_value, norm_value
