"""POYO: spikes as tokens, a PerceiverIO backbone, queries in continuous time. The whole model.

References
----------
Azabou et al. 2023, "A Unified, Scalable Framework for Neural Population Decoding",
arXiv 2310.16046. The layer order and the initialisation "published" follow the authors'
implementation (torch_brain 0.2.1, ``models/poyo.py``), written here from its mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from spikedata_model.attention import attend
from spikedata_model.config import ModelConfig
from spikedata_model.rotary import phases, rotary_frequencies, rotate
from spikedata_model.tokenizer import Tokens

__all__ = ["Poyo"]

# Of the start "local"; docs/decisions/0005-local-start.md says how they were found.
CONTRAST = 4.0  # nats between a key at the query's time and one far away
MIN_PERIOD_STEPS = 1.6  # rotary periods of at least this many latent steps shape the kernel
FAVOUR = 4.0  # length of the favoured direction beside normalised content
READOUT_SCALE = 0.125

# Shapes: B windows, N tokens, L latents, M queries, E model width, H heads, D head width,
# X heads times head width, F rotary frequencies (phases hold D / 2 turns, half of them none),
# P (type, unit) pairs, C channels of a target, K queries of one target in the batch.


class CrossAttention(nn.Module):
    """Attention of one sequence to another, both normalised first; times enter by rotation."""

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float, turn_values: bool):
        super().__init__()
        self.heads, self.dropout, self.turn_values = heads, dropout, turn_values
        self.norm = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def keys_values(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values, each of shape (..., H·D), of context rows (..., E)."""
        keys, values = self.to_kv(self.norm_context(context)).chunk(2, dim=-1)
        return keys, values

    def forward(
        self,
        x_BQE: torch.Tensor,
        kv_BNX: tuple[torch.Tensor, torch.Tensor],
        query_phase_BQF: torch.Tensor,
        context_phase_BNF: torch.Tensor,
        mask_BN: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the update of `x_BQE` from keys and values made by `keys_values`."""
        q_BQHD = self.to_q(self.norm(x_BQE)).unflatten(-1, (self.heads, -1))
        q_BQHD = rotate(q_BQHD, query_phase_BQF)
        k_BNHD, v_BNHD = (part.unflatten(-1, (self.heads, -1)) for part in kv_BNX)
        k_BNHD = rotate(k_BNHD, context_phase_BNF)
        if self.turn_values:
            v_BNHD = rotate(v_BNHD, context_phase_BNF)
        dropout = self.dropout if self.training else 0.0
        out_BQHD = attend(q_BQHD, k_BNHD, v_BNHD, mask_BN, dropout)
        if self.turn_values:
            out_BQHD = rotate(out_BQHD, query_phase_BQF.conj())
        return self.to_out(out_BQHD.flatten(-2))


class SelfAttention(nn.Module):
    """Attention of a normalised sequence to itself; keys, queries and values turn with time."""

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(self, x_BLE: torch.Tensor, phase_BLF: torch.Tensor) -> torch.Tensor:
        """Return the update of `x_BLE`."""
        qkv_BLHD = self.to_qkv(self.norm(x_BLE)).unflatten(-1, (3 * self.heads, -1))
        q_BLHD, k_BLHD, v_BLHD = rotate(qkv_BLHD, phase_BLF).chunk(3, dim=-2)
        out_BLHD = attend(q_BLHD, k_BLHD, v_BLHD, dropout=self.dropout if self.training else 0.0)
        return self.to_out(rotate(out_BLHD, phase_BLF.conj()).flatten(-2))


class FeedForward(nn.Module):
    """GEGLU network of four times the width (arXiv 2002.05202): value times gelu(gate)."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 8 * dim)
        self.down = nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the update of `x`."""
        value, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        return self.down(self.dropout(value * F.gelu(gate)))


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
        Of matrix products. Weights, norms, softmax and results are float32 in both.
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
        self.precision = precision
        dim, dim_head = config.dim, config.dim_head
        cross = (dim, config.cross_heads, dim_head, config.attention_dropout)
        self.config = config
        self.unit_embedding = nn.Embedding(n_units, dim)
        self.recording_embedding = nn.Embedding(n_recordings, dim)
        self.type_embedding = nn.Embedding(3, dim)
        self.latent_embedding = nn.Embedding(config.latents_per_step, dim)
        self.encoder = CrossAttention(*cross, turn_values=True)
        self.encoder_ffn = FeedForward(dim, config.ffn_dropout)
        self.processor = nn.ModuleList(
            nn.ModuleList(
                [
                    SelfAttention(dim, config.self_heads, dim_head, config.attention_dropout),
                    FeedForward(dim, config.ffn_dropout),
                ]
            )
            for _ in range(config.depth)
        )
        self.decoder = CrossAttention(*cross, turn_values=False)
        self.decoder_ffn = FeedForward(dim, config.ffn_dropout)
        self.targets = tuple(channels)  # a list of layers: a target's name may hold a dot
        self.readout = nn.ModuleList(nn.Linear(dim, width) for width in channels.values())
        self.residual_dropout = nn.Dropout(config.residual_dropout)
        steps = math.ceil(config.context / config.latent_step - 1e-9)
        latent_time = (torch.arange(steps) + 0.5) * config.latent_step
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
            self._start_local()

    def embeddings(self) -> list[nn.Embedding]:
        """Return the embedding tables: units, recordings, token types, latents."""
        return [
            self.unit_embedding,
            self.recording_embedding,
            self.type_embedding,
            self.latent_embedding,
        ]

    def forward(self, tokens: Tokens) -> dict[str, torch.Tensor]:
        """Return the prediction for every query, by target.

        Returns
        -------
        dict of str to Tensor, shape (K, C)
            Rows in the order of the target's samples in the batch.
        """
        n_windows = len(tokens.recording_B)
        latent_phase_LF = phases(self.latent_time_L, self.frequency_F)
        latent_phase_BLF = latent_phase_LF.expand(n_windows, -1, -1)

        # A token's key and value depend on its unit and type alone until they are turned by its
        # time, so project the small table of all (type, unit) pairs and look the tokens up in it.
        pair_PE = self.type_embedding.weight[:, None] + self.unit_embedding.weight[None]
        table_PX = self.encoder.keys_values(pair_PE.flatten(0, 1))
        row_BN = tokens.type_BN * self.unit_embedding.num_embeddings + tokens.unit_BN
        kv_BNX = (F.embedding(row_BN, table_PX[0]), F.embedding(row_BN, table_PX[1]))
        token_phase_BNF = phases(tokens.time_BN, self.frequency_F)

        n_steps = len(self.latent_time_L) // self.config.latents_per_step
        z_BLE = self.latent_embedding.weight.repeat(n_steps, 1).expand(n_windows, -1, -1)
        z_BLE = z_BLE + self.encoder(
            z_BLE, kv_BNX, latent_phase_BLF, token_phase_BNF, tokens.mask_BN
        )
        z_BLE = z_BLE + self.encoder_ffn(z_BLE)
        for attention, ffn in self.processor:  # type: ignore[misc]  # pairs by construction
            z_BLE = z_BLE + self.residual_dropout(attention(z_BLE, latent_phase_BLF))
            z_BLE = z_BLE + self.residual_dropout(ffn(z_BLE))

        x_BME = self.recording_embedding(tokens.recording_B)[:, None]
        x_BME = x_BME.expand(-1, tokens.query_time_BM.shape[1], -1)
        query_phase_BMF = phases(tokens.query_time_BM, self.frequency_F)
        x_BME = x_BME + self.decoder(
            x_BME, self.decoder.keys_values(z_BLE), query_phase_BMF, latent_phase_BLF
        )
        x_BME = x_BME + self.decoder_ffn(x_BME)
        return {
            name: readout(x_BME[tokens.query_target_BM == index])
            for index, (name, readout) in enumerate(zip(self.targets, self.readout, strict=True))
        }

    @torch.no_grad()
    def _start_local(self) -> None:
        """Begin as a local, nearly linear decoder; docs/decisions/0005-local-start.md says why."""
        for block in [
            self.encoder_ffn,
            self.decoder_ffn,
            *(part for layer in self.processor for part in layer),  # type: ignore[attr-defined]
        ]:
            last = block.to_out if isinstance(block, SelfAttention) else block.down
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        for readout in self.readout:
            nn.init.normal_(readout.weight, std=READOUT_SCALE)  # type: ignore[attr-defined]
        key_E = self._attend_nearby(self.decoder)
        self.decoder.norm_context.bias.copy_(FAVOUR * key_E)
        # Spikes point along the favoured direction and the delimiters against it, as strongly as
        # a unit's own embedding, so that the latents begin by reading spikes.
        key_E = self._attend_nearby(self.encoder)
        spike_E = key_E * self.config.embedding_scale * math.sqrt(self.config.dim)
        self.type_embedding.weight.copy_(torch.stack([spike_E, -spike_E, -spike_E]))

    def _attend_nearby(self, attention: CrossAttention) -> torch.Tensor:
        """Make an attention favour keys close in time to the query.

        One direction of the normalised queries, and one of the keys, is mapped to the cosine
        half of every slow rotary pair: their product is a sum of cos(2πΔ/T) over the periods T,
        which peaks at a time difference Δ of 0.

        Returns
        -------
        Tensor, shape (E,)
            The direction of the keys, of length 1; values do not see it.
        """
        dim_head = self.config.dim_head
        slow_F = 2 * math.pi / self.frequency_F >= MIN_PERIOD_STEPS * self.config.latent_step
        pattern_HD = torch.zeros(attention.heads, dim_head)
        pattern_HD[:, : 2 * len(slow_F) : 2] = slow_F.float()
        # Scores are divided by sqrt(dim_head); at Δ = 0 they are to be CONTRAST.
        pattern_HD *= math.sqrt(CONTRAST * math.sqrt(dim_head) / max(1, int(slow_F.sum())))
        query_E, key_E = (_direction(self.config.dim) for _ in range(2))
        attention.norm.bias.copy_(FAVOUR * query_E)
        attention.to_kv.weight -= torch.outer(attention.to_kv.weight @ key_E, key_E)
        attention.to_q.weight -= torch.outer(attention.to_q.weight @ query_E, query_E)
        keys = attention.to_kv.weight[: attention.heads * dim_head]
        size = math.sqrt(self.config.dim / 2) if attention is self.encoder else FAVOUR
        keys += torch.outer(pattern_HD.flatten(), key_E) / size
        attention.to_q.weight += torch.outer(pattern_HD.flatten(), query_E) / FAVOUR
        return key_E


def _direction(dim: int) -> torch.Tensor:
    """Return a random vector of length 1 and mean 0, which a layer norm does not change."""
    direction_E = torch.randn(dim)
    direction_E -= direction_E.mean()
    return direction_E / direction_E.norm()
