"""A new model that begins with the weights of another, and what of it is trained at first."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from spikedata.errors import did_you_mean
from spikedata_model.checkpoint import Start, hash_of_rows
from spikedata_model.errors import ConfigError
from spikedata_model.poyo import Poyo
from spikedata_model.weights import Weights

__all__ = ["begin_with", "freeze", "start_of"]

ROWS = ("unit_embedding.weight", "recording_embedding.weight")


def start_of(weights: Weights, like: Mapping[str, str]) -> Start:
    """Return what a run that begins with these weights says of them."""
    known = weights.vocabulary
    state = weights.model.state_dict().values()
    return Start(
        sha256=hash_of_rows(known.unit_ids, known.recording_ids, state),
        units=len(known.unit_ids),
        recordings=len(known.recording_ids),
        targets=weights.model.targets,
        like=dict(like),
    )


@torch.no_grad()
def begin_with(model: Poyo, weights: Weights, like: Mapping[str, str]) -> None:
    """Give a model the weights of another, whose rows and readouts are its first ones.

    New units and recordings begin with the mean of the known ones: from there unit identification
    takes a third of the steps that it takes from a drawn row (docs/adapting.md).

    Parameters
    ----------
    model : Poyo
        With the same shape, and rows and readouts behind those of the other. New readouts stay as
        they were drawn.
    weights : Weights
        The other.
    like : mapping of str to str
        New targets whose readout becomes a copy of a known one.

    Raises
    ------
    ConfigError
        If `like` names no new target, no known one, or one of another width.
    """
    state = model.state_dict()
    for name, values in weights.model.state_dict().items():
        state[name][: len(values)] = values  # of the tables the first rows, of others all
        if name in ROWS and len(values):
            state[name][len(values) :] = values.mean(dim=0)
    known = {name: row for row, name in enumerate(weights.model.targets)}
    new = {name: row for row, name in enumerate(model.targets) if name not in known}
    for name, other in like.items():
        if name not in new:
            raise ConfigError(
                f"--like {name}={other}: '{name}' is no new target of these recordings; "
                + did_you_mean(name, new)
            )
        if other not in known or model.channels[other] != model.channels[name]:
            fitting = [one for one in known if model.channels[one] == model.channels[name]]
            raise ConfigError(
                f"--like {name}={other}: the model has no readout '{other}' of "
                f"{model.channels[name]} channels; " + did_you_mean(other, fitting)
            )
        model.readout[new[name]].load_state_dict(model.readout[known[other]].state_dict())


def freeze(model: Poyo, start: Start, frozen: bool) -> None:
    """Train only embeddings of units and recordings and new readouts, or everything again.

    This is what the paper calls unit identification (Azabou et al. 2023, arXiv 2310.16046), with
    the readouts that the start did not have: without them there is nothing to read.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen)
    new = (
        model.readout[row] for row, name in enumerate(model.targets) if name not in start.targets
    )
    for part in (model.unit_embedding, model.recording_embedding, *new):
        part.requires_grad_(True)
