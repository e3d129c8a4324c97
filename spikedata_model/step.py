"""One optimiser step: what it reads, its gradient, and the change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from spikedata.sampler import Sampler
from spikedata_model.config import TrainConfig
from spikedata_model.cut import Span, add_up, shares
from spikedata_model.data import RunData
from spikedata_model.distributed import World
from spikedata_model.dropout import seeded
from spikedata_model.errors import VocabularyError
from spikedata_model.loss import weighted_squared_error
from spikedata_model.optim import set_learning_rate
from spikedata_model.poyo import Poyo
from spikedata_model.tokenizer import Tokenizer, Tokens
from spikedata_model.workers import Workers

__all__ = ["Inputs", "Whole", "backward", "prepare_inputs", "take_step"]

# Shapes: B windows, K samples of one target in the batch, C its channels, R rows of a table that
# the batch uses, E columns, T tokens.

TABLES: tuple[str, ...] = ("unit_embedding", "recording_embedding")
"""Tables of which a batch uses a few rows."""


@dataclass(frozen=True, slots=True)
class Whole:
    """What every process knows of the whole batch.

    Parameters
    ----------
    n_windows, n_tokens : int
        How many there are.
    rows : dict of str to Tensor, each of shape (R,)
        Rows that it uses of each of the `TABLES`, ascending.
    """

    n_windows: int
    n_tokens: int
    rows: dict[str, torch.Tensor]

    @staticmethod
    def of(tokens: Tokens) -> Whole:
        """Return the facts of a batch with these tokens."""
        used = (_distinct(one) for one in (tokens.unit_T, tokens.recording_B))
        rows = dict(zip(TABLES, used, strict=True))
        return Whole(len(tokens.recording_B), len(tokens.unit_T), rows)

    def to(self, device: torch.device) -> Whole:
        """Return the same facts on another device."""
        return replace(self, rows={name: one.to(device) for name, one in self.rows.items()})


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a process reads for a step, on the device of the model.

    Parameters
    ----------
    tokens : Tokens
        What the model reads: of this process' share of the windows.
    target : dict of str to Tensor, each of shape (K, C)
        Normalised samples of these windows.
    weight : dict of str to Tensor, each of shape (K,)
        What they weigh in the loss.
    offsets : dict of str to ndarray, each of shape (B + 1,)
        Where the samples of each window begin.
    total : float
        Sum of the weights over samples and channels of the whole batch.
    whole : Whole, optional
        Facts of the whole batch; when not given, these windows are all.
    """

    tokens: Tokens
    target: dict[str, torch.Tensor]
    weight: dict[str, torch.Tensor]
    offsets: dict[str, np.ndarray]
    total: float
    whole: Whole | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole batch."""
        return len(self.tokens.unit_T) if self.whole is None else self.whole.n_tokens


def _distinct(row_T: torch.Tensor) -> torch.Tensor:
    """Return the distinct values of rows, ascending; without sorting them."""
    if len(row_T) == 0:
        return row_T
    low, high = (int(one) for one in row_T.aminmax())
    there = torch.zeros(high - low + 1, dtype=torch.bool, device=row_T.device)
    there[row_T.long() - low] = True
    return there.nonzero()[:, 0].to(row_T.dtype) + low


def prepare_inputs(
    model: Poyo,
    sampler: Sampler,
    tokenizer: Tokenizer,
    data: RunData,
    step: int,
    world: World | None = None,
) -> Inputs:
    """Return what optimiser step number `step` reads, whatever was read before.

    Every process reads the whole batch, and keeps its share of the windows: so all know what the
    samples of the batch weigh together, and which rows of the tables it uses.
    """
    world = world or World()
    batch = sampler.batch(*divmod(step, sampler.steps()))
    tokens, device = tokenizer(batch), model.frequency_F.device
    whole = Whole.of(tokens)
    own = shares(whole.n_windows, world.size)[world.rank]
    weight = {name: data.weights(batch, name) for name in data.channels}
    sums = [float(weight[name].sum(dtype=np.float64)) * n for name, n in data.channels.items()]
    edges = {name: batch.targets[name].offsets[own.first : own.last + 1] for name in data.channels}
    rows = {name: slice(one[0], one[-1]) for name, one in edges.items()}
    target = {name: data.normalised(batch, name)[own] for name, own in rows.items()}
    return Inputs(
        tokens=tokens.windows(own.first, own.last).to(device),
        target={name: one.to(device) for name, one in target.items()},
        weight={name: torch.from_numpy(weight[name][own]).to(device) for name, own in rows.items()},
        offsets={name: one - one[0] for name, one in edges.items()},
        total=sum(sums),
        whole=whole.to(device),
    )


def backward(
    model: Poyo,
    workers: Workers,
    inputs: Inputs,
    seed: Sequence[int],
    world: World | None = None,
    where: str = "In a step",
) -> torch.Tensor:
    """Return the loss of a batch, and leave its gradient in the parameters.

    The loss is the squared error of the normalised targets, a weighted mean over all samples and
    channels of the batch. A few windows are taken at a time, and their gradients added in the
    order of a tree: the result depends neither on how many threads there are, nor on how many
    processes as long as their shares are nodes of the tree. Readouts of targets that the batch
    has no place for get no gradient.

    Parameters
    ----------
    model : Poyo
        The model; on every process the same.
    workers : Workers
        Of this process.
    inputs : Inputs
        This process' share.
    seed : sequence of int
        Of the coins of dropout; a piece adds the number of its first window.
    world : World, optional
        All processes that share the batch; this one alone when not given.
    where : str
        For an error: "In step 7".

    Raises
    ------
    TrainingError
        If a process is gone.
    VocabularyError
        If a token or a window has a row that the model's tables do not have.
    """
    world, whole = world or World(), inputs.whole or Whole.of(inputs.tokens)
    nodes = shares(whole.n_windows, world.size)
    own, trained = nodes[world.rank], _trained(model, inputs)
    with _only_rows(model, whole):
        compact = dict(model.named_parameters())
        weights = [compact[name] for name in trained]

        def piece(span: Span) -> tuple[int, torch.Tensor]:
            windows = slice(span.first - own.first, span.last - own.first)
            loss = _piece_loss(model, inputs, whole, windows, [*seed, span.first])
            parts = torch.autograd.grad(loss, weights, materialize_grads=True)
            return span.depth, torch.cat([loss.detach()[None], *(one.flatten() for one in parts)])

        pieces = workers.pieces(own, whole.n_windows)
        found = add_up(workers.map(piece, pieces), torch.Tensor.add_)
    sizes = [one.numel() for one in weights]
    if found is None:  # fewer windows than processes: -0.0 changes no bit of what it is added to
        found = torch.full((1 + sum(sizes),), -0.0, device=model.frequency_F.device)
    found = world.total(found, nodes, where)
    for (name, weight), part in zip(trained.items(), found[1:].split(sizes), strict=True):
        weight.grad = _spread(part, weight, whole.rows.get(name.removesuffix(".weight")))
    return found[0]


def _trained(model: Poyo, inputs: Inputs) -> dict[str, nn.Parameter]:
    """Return the parameters that the loss depends on, by name."""
    idle = {
        id(parameter)
        for name, readout in zip(model.targets, model.readout, strict=True)
        for parameter in readout.parameters()
        if name not in inputs.target
    }
    return {
        name: one
        for name, one in model.named_parameters()
        if one.requires_grad and id(one) not in idle
    }


def _piece_loss(
    model: Poyo, inputs: Inputs, whole: Whole, windows: slice, seed: Sequence[int]
) -> torch.Tensor:
    """Return what some windows of this process' share add to the loss of the batch."""
    tokens = inputs.tokens.windows(windows.start, windows.stop)
    unit_R, recording_R = (whole.rows[name] for name in TABLES)
    tokens = replace(
        tokens,
        unit_T=torch.searchsorted(unit_R, tokens.unit_T, out_int32=True),
        recording_B=torch.searchsorted(recording_R, tokens.recording_B),
    )
    rows = {
        name: slice(one[windows.start], one[windows.stop]) for name, one in inputs.offsets.items()
    }
    if model.frequency_F.device.type != "cpu":  # where `seeded` decides nothing
        torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
    with seeded(seed):
        predicted = model(tokens)
    return weighted_squared_error(
        [predicted[name] for name in rows],
        [inputs.target[name][own] for name, own in rows.items()],
        [inputs.weight[name][own] for name, own in rows.items()],
        inputs.total,
    )


@contextmanager
def _only_rows(model: Poyo, whole: Whole) -> Iterator[None]:
    """Leave in the tables the rows of a batch only, while the context is open.

    The gradient of a piece then has these rows, and not those of all units there are.
    """
    tables = [getattr(model, name) for name in TABLES]
    held = [(table.weight, table.num_embeddings) for table in tables]
    try:
        for name, table in zip(TABLES, tables, strict=True):
            table.weight = _some_rows(name, table.weight, whole.rows[name])
            table.num_embeddings = len(table.weight)
        yield
    finally:
        for table, (weight, count) in zip(tables, held, strict=True):
            table.weight, table.num_embeddings = weight, count


def _some_rows(name: str, weight_NE: nn.Parameter, row_R: torch.Tensor) -> nn.Parameter:
    """Return rows of a table, which ascend."""
    if len(row_R) and not ((low := int(row_R[0])) >= 0 and int(row_R[-1]) < len(weight_NE)):
        raise VocabularyError(
            f"The tokens ask for row {low if low < 0 else int(row_R[-1])} of '{name}', which has "
            f"{len(weight_NE)}, from 0: make tokens with the vocabulary the model was built for."
        )
    return nn.Parameter(weight_NE.detach()[row_R], requires_grad=weight_NE.requires_grad)


def _spread(
    gradient: torch.Tensor, weight: nn.Parameter, row_R: torch.Tensor | None
) -> torch.Tensor:
    """Return the gradient of a weight, of which a table has that of a few rows."""
    if row_R is None:
        return gradient.view_as(weight)
    whole_NE = torch.zeros_like(weight, requires_grad=False)
    return whole_NE.index_copy_(0, row_R.long(), gradient.view(len(row_R), weight.shape[1]))


def take_step(
    model: Poyo,
    optimizer: torch.optim.Optimizer,
    workers: Workers,
    inputs: Inputs,
    settings: TrainConfig,
    step: int,
    world: World | None = None,
) -> tuple[float, float]:
    """Take optimiser step number `step`; return its loss and the norm of its gradient.

    Raises
    ------
    TrainingError
        If a process of the world is gone.
    """
    model.train()
    seed = [settings.seed, step, 1]
    set_learning_rate(optimizer, step, settings)
    optimizer.zero_grad()
    loss = backward(model, workers, inputs, seed, world, f"In step {step + 1}")
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
    optimizer.step()
    # Asked for at the end, and both at once: a GPU has then been given the whole step.
    loss_value, norm_value = torch.stack([loss, norm]).tolist()
    return loss_value, norm_value
