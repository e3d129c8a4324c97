"""POYO for one window: the arithmetic of `Poyo.forward` in evaluation, laid out to be fast.

What does not depend on the spikes is computed once: the queries and turns of the latents and, for
one recording, the keys and values of its units. Numbers are real and shapes depend on the inputs'
shapes alone, so that the module can be exported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from spikedata_model.poyo import CrossAttention, FeedForward, Poyo, SelfAttention

__all__ = ["OneWindow"]

# Shapes: J latents of a step and L of the window, T tokens, K queries, E model width, G groups of
# heads that lie side by side, H heads, D head width, X = H D, W turned pairs of a head (D / 4),
# U units, P pairs of a type and a unit, C channels, N tokens, latents or queries.


class OneWindow(nn.Module):
    """A model in evaluation, for the tokens of one window.

    Equal to `Poyo.forward` up to roundings of float32; a model in bfloat16 has its products in
    bfloat16 here too. The weights are those that the model has when this is made.

    Parameters
    ----------
    model : Poyo
        On the processor or a GPU; it is not changed.
    unit_rows : sequence of int, optional
        Embedding rows of the units of one recording. Then ``unit_T`` counts these units, and the
        keys and values of each are computed once. Without it ``unit_T`` are rows of the model's
        table.
    """

    def __init__(self, model: Poyo, unit_rows: Sequence[int] | None = None) -> None:
        super().__init__()
        self.model, self.targets = model, model.targets
        with torch.no_grad():
            latent_JE = model.latent_embedding.weight
            repeats = len(model.latent_time_L) // len(latent_JE)
            turn_L2W = _turns(model.latent_time_L, model.frequency_F)
            q_LX = model.encoder.queries(latent_JE).repeat(repeats, 1)
            q_LHD = _turned(_heads(q_LX, model.encoder.heads), turn_L2W)
            table_PX = None
            if unit_rows is not None:
                unit_UE = model.unit_embedding.weight[torch.as_tensor(unit_rows).long()]
                pair_PE = (model.type_embedding.weight[:, None] + unit_UE).flatten(0, 1)
                table_PX = model.encoder.keys_values(pair_PE)
        self.latent_LE: torch.Tensor
        self.turn_L2W: torch.Tensor
        self.q_LHD: torch.Tensor
        self.table_PX: torch.Tensor | None
        self.register_buffer("latent_LE", latent_JE.repeat(repeats, 1).detach(), persistent=False)
        self.register_buffer("turn_L2W", turn_L2W, persistent=False)
        self.register_buffer("q_LHD", q_LHD, persistent=False)
        self.register_buffer("table_PX", table_PX, persistent=False)

    def forward(
        self,
        unit_T: torch.Tensor,
        type_T: torch.Tensor,
        time_T: torch.Tensor,
        recording: torch.Tensor,
        query_time_K: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Return what every target is at every query, in the order of `targets`.

        Parameters
        ----------
        unit_T : Tensor of int64
            The unit of each token, see `unit_rows`.
        type_T : Tensor of int64
            Its type: 0 for a spike, 1 for START, 2 for END.
        time_T : Tensor of float32
            Seconds from the start of the window.
        recording : Tensor of int64, shape ()
            Embedding row of the recording.
        query_time_K : Tensor of float32
            Times to predict at, in seconds from the start of the window.

        Returns
        -------
        tuple of Tensor, shape (K, C) each, float32
            Normalised, as the model's own predictions are. Indices are not checked.
        """
        model = self.model
        token_turn_T2W = _turns(time_T, model.frequency_F)
        query_turn_K2W = _turns(query_time_K, model.frequency_F)

        kv_TGD = _heads(self._keys_values(unit_T, type_T), 2 * model.encoder.heads)
        k_THD, v_THD = _turned(kv_TGD, token_turn_T2W).chunk(2, dim=1)
        out_LHD = _turned(_attend(self.q_LHD, k_THD, v_THD), self.turn_L2W, back=True)
        z_LE = self.latent_LE + model.encoder.project(out_LHD.flatten(-2), model.encoder.to_out)
        z_LE = z_LE + _feed(model.encoder_ffn, z_LE)

        for attention, ffn in model.processor:  # type: ignore[misc]  # pairs by construction
            z_LE = z_LE + self._mix(attention, z_LE)
            z_LE = z_LE + _feed(ffn, z_LE)

        x_KE = model.recording_embedding(recording).expand(query_time_K.shape[0], -1)
        x_KE = x_KE + self._ask(model.decoder, x_KE, z_LE, query_turn_K2W)
        x_KE = x_KE + _feed(model.decoder_ffn, x_KE)
        return tuple(readout(x_KE) for readout in model.readout)

    def _keys_values(self, unit_T: torch.Tensor, type_T: torch.Tensor) -> torch.Tensor:
        """Return the keys and values of tokens, (T, 2 X), before they are turned."""
        model = self.model
        if self.table_PX is not None:
            n_units = self.table_PX.shape[0] // model.type_embedding.num_embeddings
            return self.table_PX.index_select(0, type_T * n_units + unit_T)
        token_TE = model.type_embedding(type_T) + model.unit_embedding(unit_T)
        return model.encoder.keys_values(token_TE)

    def _mix(self, attention: SelfAttention, z_LE: torch.Tensor) -> torch.Tensor:
        qkv_LX = attention.project(attention.norm(z_LE), attention.to_qkv)
        qkv_LGD = _turned(_heads(qkv_LX, 3 * attention.heads), self.turn_L2W)
        out_LHD = _turned(_attend(*qkv_LGD.chunk(3, dim=1)), self.turn_L2W, back=True)
        return attention.project(out_LHD.flatten(-2), attention.to_out)

    def _ask(
        self,
        attention: CrossAttention,
        x_KE: torch.Tensor,
        z_LE: torch.Tensor,
        turn_K2W: torch.Tensor,
    ) -> torch.Tensor:
        q_KHD = _turned(_heads(attention.queries(x_KE), attention.heads), turn_K2W)
        k_LHD, v_LHD = _heads(attention.keys_values(z_LE), 2 * attention.heads).chunk(2, dim=1)
        out_KHD = _attend(q_KHD, _turned(k_LHD, self.turn_L2W), v_LHD)
        return attention.project(out_KHD.flatten(-2), attention.to_out)


def _heads(x_NX: torch.Tensor, groups: int) -> torch.Tensor:
    return x_NX.unflatten(-1, (groups, -1))


def _feed(ffn: FeedForward, x_NE: torch.Tensor) -> torch.Tensor:
    value, gate = ffn.project(ffn.norm(x_NE), ffn.up).chunk(2, dim=-1)
    return ffn.project(value * F.gelu(gate), ffn.down)


def _turns(time_N: torch.Tensor, frequency_W: torch.Tensor) -> torch.Tensor:
    """Return cosine and sine of each pair's turn, (N, 2, W), float32.

    Angles are float64 until whole turns are taken off them, as in `spikedata_model.rotary.phases`.
    """
    turns_NW = time_N.double().unsqueeze(-1) * (frequency_W.double() / (2 * math.pi))
    angle_NW = (2 * math.pi * (turns_NW - turns_NW.round())).float()
    return torch.stack([angle_NW.cos(), angle_NW.sin()], dim=1)


def _turned(x_NGD: torch.Tensor, turn_N2W: torch.Tensor, back: bool = False) -> torch.Tensor:
    """Return rows whose first half of every head is turned, pair by neighbouring pair."""
    half = x_NGD.shape[-1] // 2
    cos_N1W, sin_N1W = turn_N2W[:, :1], turn_N2W[:, 1:]
    sin_N1W = -sin_N1W if back else sin_N1W
    first, second = x_NGD[..., :half].float().unflatten(-1, (-1, 2)).unbind(-1)
    pairs = (first * cos_N1W - second * sin_N1W, first * sin_N1W + second * cos_N1W)
    turned = torch.stack(pairs, dim=-1).flatten(-2).to(x_NGD.dtype)
    return torch.cat([turned, x_NGD[..., half:]], dim=-1)


def _attend(q_QHD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor) -> torch.Tensor:
    """Return softmax(q k / √D) v, (Q, H, D)."""
    q, k, v = (one.transpose(0, 1).unsqueeze(0) for one in (q_QHD, k_THD, v_THD))
    return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)
