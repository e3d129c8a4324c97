"""What stops a training that has run away, before it writes over the last good checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from spikedata_model.errors import TrainingError

__all__ = ["check_step", "check_weights", "weight_norms"]

SHRUNK = 0.01  # of its norm at the start: such a weight is as good as gone
GROWN = 1000.0  # times its norm at the start: such a weight has blown up
MOST = 0.5  # share of the weights: more of them gone or blown up, and the model is


def weight_norms(model: torch.nn.Module) -> dict[str, float]:
    """Return the Euclidean norm of every weight with two or more axes, by its name."""
    weights = {name: one.detach() for name, one in model.named_parameters() if one.ndim >= 2}
    norms = torch.stack([torch.linalg.vector_norm(one) for one in weights.values()])
    return dict(zip(weights, norms.tolist(), strict=True))


def check_weights(start: Mapping[str, float], model: torch.nn.Module, step: int, kept: int) -> None:
    """Refuse to go on with weights that are no numbers, or most of which are gone or blown up.

    Parameters
    ----------
    start : mapping of str to float
        `weight_norms` before the first step; weights that began at 0 are passed over.
    model : Module
        The same model now.
    step, kept : int
        Steps done, and those of the last checkpoint, 0 if there is none.

    Raises
    ------
    TrainingError
        If a norm is not finite, or more than half of the norms are below a hundredth, or above a
        thousand times, those at the start.

    Notes
    -----
    Reproductions of POYO report LAMB runs of which most weights decay to 0 while the loss stays
    finite, and R² near 0 with it: the loss alone does not tell.
    """
    now = weight_norms(model)
    wrong = [name for name, norm in now.items() if not math.isfinite(norm)]
    if wrong:
        raise TrainingError(
            f"After step {step} the weight '{wrong[0]}' holds values that are no numbers "
            f"({len(wrong)} of {len(now)} weights do); " + _advice("learning_rate", kept)
        )
    began = {name: norm for name, norm in start.items() if norm > 0}
    gone = [name for name, norm in began.items() if now[name] < SHRUNK * norm]
    wild = [name for name, norm in began.items() if now[name] > GROWN * norm]
    kinds = {"shrunk to less than 1 % of": gone, "grown to more than 1000 times": wild}
    for change, names in kinds.items():
        if len(names) > MOST * len(began):
            raise TrainingError(
                f"After step {step} {len(names)} of {len(began)} weights have {change} what they "
                f"were at the start ('{names[0]}' among them), so the model says nothing any more; "
                + _advice("weight_decay", kept)
            )


def check_step(step: int, loss: float, norm: float, kept: int) -> None:
    """Refuse to go on after a loss or a gradient that is no number.

    Raises
    ------
    TrainingError
        If the loss, or the norm of all gradients, is not finite.
    """
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise TrainingError(
            f"In step {step + 1} the loss is {loss:g} and the norm of its gradient {norm:g}; "
            + _advice("learning_rate", kept)
        )


def _advice(setting: str, kept: int) -> str:
    held = f"the checkpoint of step {kept} is kept" if kept else "there was no checkpoint yet"
    return f"lower train.{setting}, or change train.optimizer, in another --out; {held}."
