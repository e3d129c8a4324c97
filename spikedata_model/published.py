"""The published weights: torch_brain's checkpoints into ours, and ours into theirs.

Names and shapes are those of torch_brain 0.2.1, ``models/poyo.py`` and ``nn``. The mathematics is
the same weight by weight, so nothing is transposed or scaled. Their tables have more rows: row 0 of
units and sessions is "NA", which pads, and token type 3 is never used.
"""

from __future__ import annotations

import io
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from spikedata.files import write_whole
from spikedata.manifest import describe_validation_error
from spikedata.version import __version__
from spikedata_model.config import MOST, ModelConfig
from spikedata_model.data import Scale
from spikedata_model.errors import CheckpointError, ConfigError
from spikedata_model.rotary import rotary_frequencies
from spikedata_model.untrusted import SavedTensor, TorchFile, read_torch_file, unwrapped
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.weight_tensors import take_tensors, weight_shapes
from spikedata_model.weights import Provenance, Weights, build_model, check_scales

__all__ = ["export_published", "import_published", "published_names"]

SETTINGS = {
    "sequence_length": "context", "latent_step": "latent_step", "dim": "dim", "depth": "depth",
    "num_latents_per_step": "latents_per_step", "dim_head": "dim_head",
    "cross_heads": "cross_heads", "self_heads": "self_heads", "ffn_dropout": "ffn_dropout",
    "lin_dropout": "residual_dropout", "atn_dropout": "attention_dropout",
    "emb_init_scale": "embedding_scale", "t_min": "t_min", "t_max": "t_max",
}  # fmt: skip
"""Arguments of torch_brain's ``POYO`` and the fields of `ModelConfig` that mean the same."""
DEFAULTS = {
    "num_latents_per_step": 64, "dim": 512, "depth": 2, "dim_head": 64, "cross_heads": 1,
    "self_heads": 8, "ffn_dropout": 0.2, "lin_dropout": 0.4, "atn_dropout": 0.0,
    "emb_init_scale": 0.02, "t_min": 1e-4, "t_max": 2.0627,
}  # fmt: skip
"""What torch_brain 0.2.1 takes for an argument that is not given."""
EMBEDDINGS = {
    "unit_embedding": "unit_emb", "recording_embedding": "session_emb",
    "type_embedding": "token_type_emb", "latent_embedding": "latent_emb",
}  # fmt: skip
VOCABULARIES = ("unit_emb.vocab", "session_emb.vocab")
OMEGA, PADDING = "rotary_emb.omega", "NA"
TOKEN_TYPES = 4  # rows of theirs; 0 spike, 1 start, 2 end as ours, 3 without use
TARGET = "torch_brain.models.POYO"
OURS = "spikedata"  # our key of a checkpoint, which torch_brain ignores


def published_names(depth: int) -> dict[str, str]:
    """Return torch_brain's name for every weight of ours, of a model with one target."""
    norm = {"norm.weight": "norm.weight", "norm.bias": "norm.bias"}
    out = {"to_out.weight": "to_out.weight", "to_out.bias": "to_out.bias"}
    context = {f"norm_context.{one}": f"norm_context.{one}" for one in ("weight", "bias")}
    cross = norm | context | {one: one for one in ("to_q.weight", "to_kv.weight")} | out
    within = norm | {"to_qkv.weight": "to_qkv.weight"} | out
    ffn = {
        f"{ours}.{one}": f"{theirs}.{one}"
        for ours, theirs in (("norm", "0"), ("up", "1.net.0"), ("down", "1.net.3"))
        for one in ("weight", "bias")
    }
    parts = [("encoder", "enc_atn", cross), ("encoder_ffn", "enc_ffn", ffn)]
    for layer in range(depth):
        parts.append((f"processor.{layer}.0", f"proc_layers.{layer}.0", within))
        parts.append((f"processor.{layer}.1", f"proc_layers.{layer}.1", ffn))
    parts += [("decoder", "dec_atn", cross), ("decoder_ffn", "dec_ffn", ffn)]
    parts.append(("readout.0", "readout", {"weight": "weight", "bias": "bias"}))
    return {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in EMBEDDINGS.items()} | {
        f"{ours}.{own}": f"{theirs}.{other}"
        for ours, theirs, names in parts
        for own, other in names.items()
    }


# ------------------------------------------------------------------ theirs into ours


def import_published(path: Path, target: str) -> Weights:
    """Return the model of a Lightning checkpoint of torch_brain's ``POYO``; nothing in it is run.

    Parameters
    ----------
    path : Path
        Such as the public ``poyo_mp.ckpt`` and ``poyo_1.ckpt``.
    target : str
        Name for the series that the model decodes, which the file does not tell.

    Returns
    -------
    Weights
        Without scales, since torch_brain divides the targets of each dataset by a number of its
        own; but with them where `export_published` wrote the file. ``provenance.dropped`` counts
        the tensors and rows that were left behind.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged, could run code when read, is of another model, or if a
        weight, a scale or a row of the vocabulary is missing, unknown or of the wrong kind.
    ConfigError
        If `export_published` wrote the file for another target.
    """
    file = read_torch_file(path)
    found, config = _opened(file)
    units, sessions = (_ids(file, found, name) for name in VOCABULARIES)
    readout = found.get("readout.weight")
    given = readout.shape[:1] if isinstance(readout, SavedTensor) else ()
    width = min(max(1, *given), MOST) if given else 1
    names = published_names(config.depth)
    shapes = {
        names[name]: shape
        for name, shape in weight_shapes(config, len(units), len(sessions), {target: width}).items()
    }
    extra = {"unit_emb": 1, "session_emb": 1, "token_type_emb": TOKEN_TYPES - 3}
    for table, more in extra.items():
        rows, dim = shapes[f"{table}.weight"]
        shapes[f"{table}.weight"] = (rows + more, dim)
    shapes[OMEGA] = (config.dim_head // 2,)
    weights = {name: value for name, value in found.items() if name not in VOCABULARIES}
    tensors, casts = take_tensors(file, weights, shapes)
    _check_omega(path, config, tensors.pop(OMEGA))
    for table in ("unit_emb.weight", "session_emb.weight"):
        tensors[table] = tensors[table][1:]
    tensors["token_type_emb.weight"] = tensors["token_type_emb.weight"][:3]
    vocabulary = Vocabulary(tuple(units), tuple(sessions))
    state = {ours: tensors[theirs] for ours, theirs in names.items()}
    provenance = Provenance(
        kind="torch_brain checkpoint", source=path.name, sha256=file.sha256,
        dropped=_dropped(file), casts=casts,
        not_imported=file.stand_ins,
    )  # fmt: skip
    scales = _scales(file, target, width)
    model = build_model(config, vocabulary, {target: width}, state)
    return Weights(model, vocabulary, scales, provenance)


def _opened(file: TorchFile) -> tuple[dict[str, object], ModelConfig]:
    """Return the state of the model under torch_brain's own names, and its settings."""
    content = unwrapped(file.content)
    content = content if isinstance(content, dict) else {}
    state = content.get("state_dict")
    hyper = unwrapped(content.get("hyper_parameters"))
    settings = unwrapped(hyper.get("model")) if isinstance(hyper, dict) else None
    if not isinstance(state, dict) or not isinstance(settings, dict):
        raise CheckpointError(
            f"{file.path} is no Lightning checkpoint of torch_brain's POYO: 'state_dict' and the "
            "model's arguments in 'hyper_parameters' were expected."
        )
    outside = [str(name) for name in state if not str(name).startswith("model.")]
    if outside:
        raise CheckpointError(
            f"{file.path} has an unknown weight {outside[0]!r} beside those of 'model.': it is of "
            "another model, or of a version that is not known here."
        )
    return {str(name)[len("model.") :]: value for name, value in state.items()}, _config(
        file.path, settings
    )


def _config(path: Path, settings: dict) -> ModelConfig:
    """Return our settings for the arguments of their constructor."""
    kind = settings.get("_target_", TARGET)
    if not isinstance(kind, str) or kind.rpartition(".")[2] != "POYO":
        named = repr(kind) if isinstance(kind, str) else "model without a name"
        raise CheckpointError(f"{path} holds a {named}, only torch_brain's POYO can be imported.")
    given = {name: value for name, value in settings.items() if name not in ("_target_", "dim_out")}
    unknown = [str(name) for name in given if name not in SETTINGS]
    if unknown:
        raise CheckpointError(
            f"{path} gives its model the argument {unknown[0]!r}, which torch_brain 0.2.1 does "
            "not have, so what it computes is not known here."
        )
    values = {SETTINGS[name]: value for name, value in (DEFAULTS | given).items()}
    try:
        config = ModelConfig.model_validate(values, strict=True)
    except ValidationError as error:
        reason = describe_validation_error(error)
        raise CheckpointError(f"The model of {path} cannot be made here: {reason}.") from None
    if not _same_grid(config):
        raise CheckpointError(f"The model of {path} cannot be made here: {GRID}.")
    return config


GRID = "its context is so nearly a number of latent steps that torch_brain rounds it to one more"


def _same_grid(config: ModelConfig) -> bool:
    """Return whether we and ``numpy.arange`` of theirs count the same latent steps."""
    exact = config.context / config.latent_step
    return math.ceil(exact) == math.ceil(exact - 1e-9)


def _ids(file: TorchFile, found: Mapping[str, object], name: str) -> list[str]:
    """Return the ids of a vocabulary in the order of their rows, without the padding's."""
    rows = found.get(name)
    ok = isinstance(rows, dict) and all(
        type(key) is str and type(row) is int for key, row in rows.items()
    )
    if not ok or sorted(rows.values()) != list(range(len(rows))) or rows.get(PADDING) != 0:  # type: ignore[union-attr]
        raise CheckpointError(
            f"{file.path}: '{name}' was expected to give every row of the table to one id, row 0 "
            f"to '{PADDING}', and does not: no row can be trusted; take another checkpoint."
        )
    return sorted(rows, key=rows.__getitem__)[1:]  # type: ignore[union-attr,arg-type]


def _check_omega(path: Path, config: ModelConfig, omega: torch.Tensor) -> None:
    """Refuse rotary frequencies other than those that the settings give."""
    expected = _omega(config)
    if not torch.allclose(omega, expected, rtol=1e-5, atol=0):
        raise CheckpointError(
            f"{path}: '{OMEGA}' is not what t_min {config.t_min} and t_max {config.t_max} s give, "
            "so the model turned its tokens otherwise: it cannot be made here."
        )


def _omega(config: ModelConfig) -> torch.Tensor:
    """Return their angular frequencies: ours, then zeros for the half of a head that stays."""
    turned = rotary_frequencies(config.dim_head // 4, config.t_min, config.t_max)
    return torch.cat([turned, torch.zeros(config.dim_head // 2 - len(turned))])


class _Ours(BaseModel):
    """What `export_published` leaves in a checkpoint under "spikedata"."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    version: str
    target: str
    scales: dict[str, dict[str, Scale]]


def _scales(file: TorchFile, target: str, width: int) -> dict[str, dict[str, Scale]]:
    """Return the scales that we left in a checkpoint of our own; those of others have none."""
    content = file.content if isinstance(file.content, dict) else {}
    if OURS not in content:
        return {}
    try:
        ours = _Ours.model_validate(content[OURS])
        check_scales(ours.scales, {ours.target: width})
    except ValueError as error:  # pydantic's is one
        known = isinstance(error, ValidationError)
        reason = (describe_validation_error(error) if known else str(error))[:300]
        raise CheckpointError(f"The scales in {file.path} are damaged: {reason}.") from None
    if ours.target != target:
        raise ConfigError(
            f"{file.path} was exported from a model of the target '{ours.target}', whose scales it "
            f"holds, not of '{target}': import it with --target {ours.target}."
        )
    return ours.scales


def _dropped(file: TorchFile) -> dict[str, int]:
    """Return what of the file is not taken, with its number of tensors or rows."""
    content = file.content if isinstance(file.content, dict) else {}
    beside = {
        str(name): _count_tensors(value)
        for name, value in content.items()
        if name not in ("state_dict", "hyper_parameters", OURS)
    }
    rows = {f"row '{PADDING}' of {one}": 1 for one in ("unit_emb", "session_emb")}
    return {**beside, **rows, "row 3 of token_type_emb": TOKEN_TYPES - 3}


def _count_tensors(value: object) -> int:
    """Return how many tensors a value holds, each place once however often it is referred to."""
    seen, waiting, count = set(), [value], 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, SavedTensor):
            count += 1
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    return count


# ------------------------------------------------------------------ ours into theirs


def export_published(path: Path, weights: Weights) -> None:
    """Write a checkpoint that torch_brain's ``POYO.load_pretrained`` reads, whole or not at all.

    The target's name and scales go along under "spikedata", where `import_published` finds them
    and torch_brain does not look: its model returns the normalised values that ours learned.

    Raises
    ------
    ConfigError
        If torch_brain has no such model: several targets, an id called "NA", or other latents.
    """
    model, vocabulary, config = weights.model, weights.vocabulary, weights.model.config
    _check_expressible(model.targets, vocabulary, config)
    ours = {name: one.detach().cpu() for name, one in model.state_dict().items()}
    state: dict[str, object] = {
        theirs: ours[name].contiguous() for name, theirs in published_names(config.depth).items()
    }
    for table, before, after in (
        ("unit_emb", 1, 0), ("session_emb", 1, 0), ("token_type_emb", 0, TOKEN_TYPES - 3),
    ):  # fmt: skip
        rows = state[f"{table}.weight"]
        state[f"{table}.weight"] = torch.nn.functional.pad(rows, (0, 0, before, after))  # type: ignore[arg-type]
    for name, ids in zip(
        VOCABULARIES, (vocabulary.unit_ids, vocabulary.recording_ids), strict=True
    ):
        state[name] = OrderedDict((one, row) for row, one in enumerate((PADDING, *ids)))
    state[OMEGA] = _omega(config)
    arguments = {theirs: getattr(config, own) for theirs, own in SETTINGS.items()}
    content = {
        "state_dict": OrderedDict((f"model.{name}", value) for name, value in state.items()),
        "hyper_parameters": {"model": {"_target_": TARGET, **arguments}},
        OURS: {
            "version": __version__,
            "target": model.targets[0],
            "scales": {
                recording: {name: asdict(scale) for name, scale in scales.items()}
                for recording, scales in weights.scales.items()
            },
        },
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def _check_expressible(
    targets: tuple[str, ...], vocabulary: Vocabulary, config: ModelConfig
) -> None:
    """Refuse a model that torch_brain's POYO cannot be."""
    if len(targets) != 1:
        raise ConfigError(
            f"torch_brain's POYO decodes one target, this model {len(targets)} "
            f"({', '.join(targets)}): train a model on one of them to export it."
        )
    if PADDING in vocabulary.unit_ids or PADDING in vocabulary.recording_ids:
        raise ConfigError(f"An id is called '{PADDING}', which torch_brain keeps for padding.")
    if config.dim_head < 8:
        raise ConfigError(
            f"torch_brain needs two rotary periods at least, so a head width of 8, not "
            f"{config.dim_head}: train a model with another model.dim_head to export it."
        )
    if not _same_grid(config):
        raise ConfigError(f"The model cannot be exported: {GRID}.")
