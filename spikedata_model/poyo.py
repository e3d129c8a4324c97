"""POYO: spikes as tokens, a PerceiverIO backbone, queries in continuous time. The whole model.

References
----------
Azabou et al. 2023, "A Unified, Scalable Framework for Neural Population Decoding",
arXiv 2310.16046. The layer order and the initialisation "published" follow the authors'
implementation (torch_brain 0.2.1, ``models/poyo.py``), written here from its mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from spikedata_model.attention import attend
from spikedata_model.config import ModelConfig
from spikedata_model.dropout import drop
from spikedata_model.errors import VocabularyError
from spikedata_model.geglu import geglu
from spikedata_model.local_start import start_local
from spikedata_model.rotary import phases, rotary_frequencies
from spikedata_model.tokenizer import Tokens

__all__ = ["Poyo"]

# Shapes: B windows, J latents of a step and L of a window, T tokens and K queries of all windows
# together, Z latents of all windows (B L), E model width, H heads, D head width, X = H D,
# F turns of a head (D / 2, half of them none), P distinct (type, unit) pairs, C channels.


class Block(nn.Module):
    """What the parts of the model share: a norm in float32, products in the model's precision."""

    kernel: str | None = None  # of `attend`, its own choice when not given

    def __init__(self, dim: int, dropout: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.dropout = dtype, dropout
        self.norm = nn.LayerNorm(dim)

    def lost(self) -> float:
        """Return the share to drop: none in evaluation."""
        return self.dropout if self.training else 0.0

    def project(self, x: torch.Tensor, linear: nn.Linear) -> torch.Tensor:
        """Return a linear map of rows in the model's precision, whose weights stay float32."""
        bias = None if linear.bias is None else linear.bias.to(self.dtype)
        return F.linear(x.to(self.dtype), linear.weight.to(self.dtype), bias)


class CrossAttention(Block):
    """Attention of one sequence to another, both normalised first; times enter by rotation."""

    def __init__(
        self, dim: int, heads: int, dim_head: int, dropout: float, dtype: torch.dtype, turn: bool
    ) -> None:
        super().__init__(dim, dropout, dtype)
        self.heads, self.turn_values = heads, turn
        self.norm_context = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        """Return the queries, (..., X), of rows (..., E)."""
        return self.project(self.norm(x), self.to_q)

    def keys_values(self, context: torch.Tensor) -> torch.Tensor:
        """Return keys and values side by side, (..., 2 X), of rows (..., E)."""
        return self.project(self.norm_context(context), self.to_kv)

    def forward(
        self,
        q_QX: torch.Tensor,
        kv_TX: torch.Tensor,
        q_phase_QF: torch.Tensor,
        k_phase_TF: torch.Tensor,
        q_offsets: Sequence[int],
        k_offsets: Sequence[int],
    ) -> torch.Tensor:
        """Return the update, (Q, E), of the rows that `queries` saw."""
        out_QHD = attend(
            q_QX.unflatten(-1, (self.heads, -1)), kv_TX.unflatten(-1, (2 * self.heads, -1)),
            q_phase_QF, k_phase_TF, q_offsets, k_offsets,
            turn_values=self.turn_values, dropout=self.lost(), kernel=self.kernel,
        )  # fmt: skip
        return self.project(out_QHD.flatten(-2), self.to_out)


class SelfAttention(Block):
    """Attention of a normalised sequence to itself; keys, queries and values turn with time."""

    def __init__(
        self, dim: int, heads: int, dim_head: int, dropout: float, dtype: torch.dtype
    ) -> None:
        super().__init__(dim, dropout, dtype)
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(
        self, x_ZE: torch.Tensor, phase_ZF: torch.Tensor, offsets: Sequence[int]
    ) -> torch.Tensor:
        """Return the update, (Z, E), of `x_ZE`."""
        qkv_ZGD = self.project(self.norm(x_ZE), self.to_qkv).unflatten(-1, (3 * self.heads, -1))
        out_ZHD = attend(
            qkv_ZGD, None, phase_ZF, phase_ZF, offsets, offsets,
            turn_values=True, dropout=self.lost(), kernel=self.kernel,
        )  # fmt: skip
        return self.project(out_ZHD.flatten(-2), self.to_out)


class FeedForward(Block):
    """GEGLU network of four times the width (arXiv 2002.05202): values times gelu(gates)."""

    def __init__(self, dim: int, dropout: float, dtype: torch.dtype) -> None:
        super().__init__(dim, dropout, dtype)
        self.up = nn.Linear(dim, 8 * dim)
        self.down = nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the update, (..., E), of `x`."""
        return self.project(geglu(self.project(self.norm(x), self.up), self.lost()), self.down)


class Poyo(nn.Module):
    """Decode any number of targets from the spikes of any known recordings.

    Parameters
    ----------
    config : ModelConfig
        Shape of the model.
    n_units, n_recordings : int
        Rows of the embedding tables.
    channels : mapping of str to int
        Width of each target, in the order of the queries' target index.
    precision : {"float32", "bfloat16"}
        Of matrix products. Weights, norms, the residual stream and results are float32 in both.
    """

    def __init__(
        self,
        config: ModelConfig,
        n_units: int,
        n_recordings: int,
        channels: Mapping[str, int],
        precision: str = "float32",
    ) -> None:
        super().__init__()
        dim, dim_head = config.dim, config.dim_head
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
        cross = (dim, config.cross_heads, dim_head, config.attention_dropout, dtype)
        within = (dim, config.self_heads, dim_head, config.attention_dropout, dtype)
        ffn = (dim, config.ffn_dropout, dtype)
        self.config = config
        self.unit_embedding = nn.Embedding(n_units, dim)
        self.recording_embedding = nn.Embedding(n_recordings, dim)
        self.type_embedding = nn.Embedding(3, dim)
        self.latent_embedding = nn.Embedding(config.latents_per_step, dim)
        self.encoder = CrossAttention(*cross, turn=True)
        self.encoder_ffn = FeedForward(*ffn)
        self.processor = nn.ModuleList(
            nn.ModuleList([SelfAttention(*within), FeedForward(*ffn)]) for _ in range(config.depth)
        )
        self.decoder = CrossAttention(*cross, turn=False)
        self.decoder_ffn = FeedForward(*ffn)
        self.targets = tuple(channels)  # a list of layers: a target's name may hold a dot
        self.readout = nn.ModuleList(nn.Linear(dim, width) for width in channels.values())
        steps = math.ceil(config.context / config.latent_step - 1e-9)
        latent_time = (torch.arange(steps, dtype=torch.float64) + 0.5) * config.latent_step
        frequency = rotary_frequencies(dim_head // 4, config.t_min, config.t_max)
        self.frequency_F: torch.Tensor
        self.latent_time_L: torch.Tensor
        self.register_buffer("frequency_F", frequency, persistent=False)
        self.register_buffer(
            "latent_time_L",
            latent_time.repeat_interleave(config.latents_per_step),
            persistent=False,
        )
        for table in self.embeddings():
            nn.init.normal_(table.weight, std=config.embedding_scale)
        if config.init == "local":
            layers = [block for layer in self.processor for block in layer]  # type: ignore[attr-defined]
            start_local(self, [self.encoder_ffn, self.decoder_ffn, *layers])

    @property
    def channels(self) -> dict[str, int]:
        """Width of each target, in the order of the readouts."""
        widths = (one.out_features for one in self.readout)
        return dict(zip(self.targets, widths, strict=True))  # type: ignore[arg-type]  # of a Linear

    def embeddings(self) -> list[nn.Embedding]:
        """Return the embedding tables: units, recordings, token types, latents."""
        return [part for part in self.children() if isinstance(part, nn.Embedding)]

    def forward(self, tokens: Tokens) -> dict[str, torch.Tensor]:
        """Return the prediction for every query, by target.

        Returns
        -------
        dict of str to Tensor, shape (K, C)
            Rows in the order of the target's samples in the batch.

        Raises
        ------
        VocabularyError
            If a token, a window or a query has a row that the model's tables do not have.
        """
        self._check(tokens)
        n_windows, n_latents = len(tokens.recording_B), len(self.latent_time_L)
        latent_offsets = range(0, (n_windows + 1) * n_latents, n_latents)
        latent_phase_ZF = phases(self.latent_time_L, self.frequency_F).repeat(n_windows, 1)
        token_phase_TF = phases(tokens.time_T, self.frequency_F)
        query_phase_KF = phases(tokens.query_time_K, self.frequency_F)
        window_K = _window_of(tokens.query_offsets, tokens.query_time_K.device)

        # Encode. The latents are the same in all windows, so their queries are made once.
        n_steps = n_latents // self.config.latents_per_step
        latent_JE = self.latent_embedding.weight
        q_ZX = self.encoder.queries(latent_JE).repeat(n_windows * n_steps, 1)
        z_ZE = latent_JE.repeat(n_windows * n_steps, 1) + self.encoder(
            q_ZX, self._token_keys_values(tokens), latent_phase_ZF, token_phase_TF,
            latent_offsets, tokens.token_offsets,
        )  # fmt: skip
        z_ZE = z_ZE + self.encoder_ffn(z_ZE)

        # Process.
        lost = self.config.residual_dropout if self.training else 0.0
        for attention, ffn in self.processor:  # type: ignore[misc]  # pairs by construction
            z_ZE = z_ZE + drop(attention(z_ZE, latent_phase_ZF, latent_offsets), lost)
            z_ZE = z_ZE + drop(ffn(z_ZE), lost)

        # Decode. A query is its recording's embedding, at its time.
        x_BE = self.recording_embedding(tokens.recording_B)
        x_KE = x_BE[window_K] + self.decoder(
            _look_up(window_K, self.decoder.queries(x_BE)), self.decoder.keys_values(z_ZE),
            query_phase_KF, latent_phase_ZF, tokens.query_offsets, latent_offsets,
        )  # fmt: skip
        x_KE = x_KE + self.decoder_ffn(x_KE)
        return {
            name: readout(x_KE[tokens.query_target_K == index])
            for index, (name, readout) in enumerate(zip(self.targets, self.readout, strict=True))
        }

    def _check(self, tokens: Tokens) -> None:
        """Refuse rows that are not there: torch would count -1 from the end of a table."""
        for what, rows, count in (
            ("unit", tokens.unit_T, self.unit_embedding.num_embeddings),
            ("token type", tokens.type_T, self.type_embedding.num_embeddings),
            ("recording", tokens.recording_B, self.recording_embedding.num_embeddings),
            ("target", tokens.query_target_K, len(self.targets)),
        ):
            if len(rows) and not ((low := int(rows.min())) >= 0 and int(rows.max()) < count):
                raise VocabularyError(
                    f"The tokens ask for {what} {low if low < 0 else int(rows.max())}; this model "
                    f"has {count}, from 0: make tokens with the vocabulary it was built for."
                )

    def _token_keys_values(self, tokens: Tokens) -> torch.Tensor:
        """Return keys and values, (T, 2 X), of the tokens.

        They depend on a token's type and unit alone until they are turned by its time: those of
        the distinct pairs are made, and looked up.
        """
        n_units = self.unit_embedding.num_embeddings
        row_T = tokens.type_T.long() * n_units + tokens.unit_T
        there = torch.zeros(3 * n_units, dtype=torch.bool, device=row_T.device)
        there[row_T] = True
        row_P = there.nonzero().squeeze(1)
        pair_PE = self.type_embedding(row_P // n_units) + self.unit_embedding(row_P % n_units)
        place_T = (there.cumsum(0) - 1)[row_T]
        return _look_up(place_T, self.encoder.keys_values(pair_PE))


def _look_up(row_T: torch.Tensor, table_PX: torch.Tensor) -> torch.Tensor:
    """Return rows of a table, (T, X), whose gradients are added up in float32.

    torch adds those of a bfloat16 table in bfloat16 on a processor: a row that was looked up a few
    hundred times would stop growing.
    """
    return F.embedding(row_T, table_PX.float()).to(table_PX.dtype)


def _window_of(offsets: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return the window of every row, (K,), int64."""
    counts_B = torch.tensor(offsets).diff()
    return torch.arange(len(counts_B)).repeat_interleave(counts_B).to(device)
