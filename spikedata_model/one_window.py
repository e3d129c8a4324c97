"""POYO for one window: the arithmetic of `Poyo.forward` in evaluation, laid out to be fast.

What does not depend on the spikes is computed once: the queries and turns of the latents and, for
one recording, the keys and values of its units. Numbers are real and shapes depend on the inputs'
shapes alone, so that the module can be exported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import nn

from spikedata_model.poyo import CrossAttention, FeedForward, Poyo, SelfAttention

__all__ = ["OneWindow"]

# Shapes: L latents of the window, T tokens, K queries, N and Q any of them, E model width, G groups
# of heads that lie side by side (queries, keys, values), H heads, D head width, X = H D, W turned
# pairs of a head (D / 4), P pairs of a type and a unit, U units, C channels. Where D comes before L
# or K a feature is a row: what is done to it runs along the latents.

Turn = tuple[torch.Tensor, torch.Tensor]  # cosines and sines


class OneWindow(nn.Module):
    """A model in evaluation, for the tokens of one window.

    Equal to `Poyo.forward` up to roundings. The weights are those that the model has when this is
    made, in its precision.

    Parameters
    ----------
    model : Poyo
        In any mode and on any device; it is not changed.
    unit_rows : sequence of int, optional
        Embedding rows of the units of one recording. Then ``unit_T`` counts these units, and the
        keys and values of each are computed once. Without it ``unit_T`` are rows of the model's
        table.

    Attributes
    ----------
    targets : tuple of str
        What the results are, in this order.
    """

    latent_LE: torch.Tensor
    cos_WL: torch.Tensor
    sin_WL: torch.Tensor
    back_WL: torch.Tensor
    q_HLD: torch.Tensor
    rate_W: torch.Tensor
    table_PX: torch.Tensor | None

    def __init__(self, model: Poyo, unit_rows: Sequence[int] | None = None) -> None:
        super().__init__()
        self.targets, self.n_types = model.targets, model.type_embedding.num_embeddings
        self.recording_embedding = deepcopy(model.recording_embedding)
        self.readout = deepcopy(model.readout)
        if unit_rows is None:
            self.unit_embedding = deepcopy(model.unit_embedding)
            self.type_embedding = deepcopy(model.type_embedding)
        with torch.no_grad():
            self.encoder = _Cross(model.encoder)
            self.encoder_ffn = _Feed(model.encoder_ffn)
            layers = [(_Mix(mix), _Feed(ffn)) for mix, ffn in model.processor]  # type: ignore[misc]
            self.processor = nn.ModuleList(nn.ModuleList(pair) for pair in layers)
            self.decoder, self.decoder_ffn = _Cross(model.decoder), _Feed(model.decoder_ffn)
            latent_JE = model.latent_embedding.weight
            latent_LE = latent_JE.repeat(len(model.latent_time_L) // len(latent_JE), 1)
            rate_W = model.frequency_F.double() / (2 * math.pi)
            cos_WL, sin_WL = (one.t() for one in _turns(model.latent_time_L, rate_W))
            q_HDL = _turned(self.encoder.queries(latent_LE), (cos_WL, sin_WL), -2)
            table_PX = None
            if unit_rows is not None:
                rows_U = torch.as_tensor(unit_rows, device=latent_LE.device).long()
                unit_UE = model.unit_embedding.weight[rows_U]
                pair_PE = (model.type_embedding.weight[:, None] + unit_UE).flatten(0, 1)
                table_PX = self.encoder.keys_values(pair_PE).flatten(0, 1).t().float()
        _keep(self, latent_LE=latent_LE, cos_WL=cos_WL, sin_WL=sin_WL, back_WL=-sin_WL,
              q_HLD=q_HDL.mT, table_PX=table_PX, rate_W=rate_W)  # fmt: skip

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
        turn, back = (self.cos_WL, self.sin_WL), (self.cos_WL, self.back_WL)
        z_LE = self.latent_LE + self._encode(unit_T, type_T, time_T, back)
        z_LE = z_LE + self.encoder_ffn(z_LE)
        for mix, ffn in self.processor:  # type: ignore[misc]  # pairs by construction
            z_LE = z_LE + mix(z_LE, turn, back)
            z_LE = z_LE + ffn(z_LE)
        cos_KW, sin_KW = _turns(query_time_K, self.rate_W)
        x_KE = self.recording_embedding(recording).expand(query_time_K.shape[0], -1)
        q_HDK = _turned(self.decoder.queries(x_KE), (cos_KW.t(), sin_KW.t()), -2)
        k_HDL, v_HDL = self.decoder.keys_values(z_LE).chunk(2)
        p_HKL = torch.bmm(q_HDK.mT, _turned(k_HDL, turn, -2)).softmax(-1)
        x_KE = x_KE + self.decoder.put_out(torch.bmm(v_HDL, p_HKL.mT))
        x_KE = x_KE + self.decoder_ffn(x_KE)
        return tuple(readout(x_KE) for readout in self.readout)

    def _encode(
        self, unit_T: torch.Tensor, type_T: torch.Tensor, time_T: torch.Tensor, back: Turn
    ) -> torch.Tensor:
        """Return what the latents read in the tokens, (L, E)."""
        encoder = self.encoder
        if self.table_PX is None:
            token_TE = self.type_embedding(type_T) + self.unit_embedding(unit_T)
            kv_TX = encoder.keys_values(token_TE).flatten(0, 1).t().float()
        else:
            n_units = self.table_PX.shape[0] // self.n_types
            kv_TX = self.table_PX.index_select(0, type_T * n_units + unit_T)
        cos_TW, sin_TW = _turns(time_T, self.rate_W)
        turn = (cos_TW.unsqueeze(1), sin_TW.unsqueeze(1))
        kv_TGD = _turned(kv_TX.unflatten(-1, (2 * encoder.heads, -1)), turn, -1)
        k_HTD, v_HTD = kv_TGD.to(encoder.dtype).transpose(0, 1).chunk(2)
        # Head by head: the scores of one stay in the cache.
        parts = [
            torch.mm(torch.mm(self.q_HLD[head], k_HTD[head].t()).softmax(-1), v_HTD[head])
            for head in range(encoder.heads)
        ]
        out_HDL = torch.stack(parts).mT.contiguous()
        return encoder.put_out(_turned(out_HDL, back, -2))


class _Attention(nn.Module):
    """Weights of an attention in the model's precision, in an order that is fast to turn.

    Where heads turn, the first dimensions of all pairs lie before the second ones. Queries are
    divided by √D here, not scores.
    """

    norm_weight: torch.Tensor
    norm_bias: torch.Tensor
    out_weight: torch.Tensor
    out_bias: torch.Tensor

    def __init__(self, layer: CrossAttention | SelfAttention, turn_values: bool) -> None:
        super().__init__()
        self.heads, self.dtype = layer.heads, layer.dtype
        weight_XE = _ordered(layer.to_out.weight.t(), layer.heads, turn_values)
        _keep(self, norm_weight=layer.norm.weight, norm_bias=layer.norm.bias,
              out_weight=weight_XE.t().to(self.dtype),
              out_bias=layer.to_out.bias.to(self.dtype).unsqueeze(1))  # fmt: skip

    def put_out(self, out_HDQ: torch.Tensor) -> torch.Tensor:
        """Return the update, (Q, E), that results of all heads amount to."""
        return torch.addmm(self.out_bias, self.out_weight, out_HDQ.flatten(0, 1)).t()


class _Cross(_Attention):
    """The parts of a `CrossAttention`."""

    q_weight: torch.Tensor
    kv_weight: torch.Tensor
    context_weight: torch.Tensor
    context_bias: torch.Tensor

    def __init__(self, layer: CrossAttention) -> None:
        super().__init__(layer, layer.turn_values)
        k_XE, v_XE = layer.to_kv.weight.chunk(2)
        q_XE = _ordered(layer.to_q.weight, layer.heads) * (len(k_XE) // layer.heads) ** -0.5
        kv = [_ordered(k_XE, layer.heads), _ordered(v_XE, layer.heads, layer.turn_values)]
        _keep(self, q_weight=q_XE.to(self.dtype), kv_weight=torch.cat(kv).to(self.dtype),
              context_weight=layer.norm_context.weight,
              context_bias=layer.norm_context.bias)  # fmt: skip

    def queries(self, x_NE: torch.Tensor) -> torch.Tensor:
        """Return the queries of rows, (H, D, N)."""
        x_NE = F.layer_norm(x_NE, x_NE.shape[-1:], self.norm_weight, self.norm_bias)
        return (self.q_weight @ x_NE.to(self.dtype).t()).unflatten(0, (self.heads, -1))

    def keys_values(self, x_NE: torch.Tensor) -> torch.Tensor:
        """Return keys and values of rows, (2 H, D, N)."""
        x_NE = F.layer_norm(x_NE, x_NE.shape[-1:], self.context_weight, self.context_bias)
        return (self.kv_weight @ x_NE.to(self.dtype).t()).unflatten(0, (2 * self.heads, -1))


class _Mix(_Attention):
    """A `SelfAttention` of the latents."""

    qkv_weight: torch.Tensor

    def __init__(self, layer: SelfAttention) -> None:
        super().__init__(layer, True)
        q_XE, k_XE, v_XE = (_ordered(one, layer.heads) for one in layer.to_qkv.weight.chunk(3))
        q_XE = q_XE * (len(q_XE) // layer.heads) ** -0.5
        _keep(self, qkv_weight=torch.cat([q_XE, k_XE, v_XE]).to(self.dtype))

    def forward(self, z_LE: torch.Tensor, turn: Turn, back: Turn) -> torch.Tensor:
        """Return the update, (L, E), of the latents."""
        x_LE = F.layer_norm(z_LE, z_LE.shape[-1:], self.norm_weight, self.norm_bias)
        qkv_GDL = (self.qkv_weight @ x_LE.to(self.dtype).t()).unflatten(0, (3 * self.heads, -1))
        q_HDL, k_HDL, v_HDL = _turned(qkv_GDL, turn, -2).chunk(3)
        p_HLL = torch.bmm(q_HDL.mT, k_HDL).softmax(-1)
        return self.put_out(_turned(torch.bmm(v_HDL, p_HLL.mT), back, -2))


class _Feed(nn.Module):
    """A `FeedForward` with its weights in the model's precision."""

    norm_weight: torch.Tensor
    norm_bias: torch.Tensor
    up_weight: torch.Tensor
    up_bias: torch.Tensor
    down_weight: torch.Tensor
    down_bias: torch.Tensor

    def __init__(self, layer: FeedForward) -> None:
        super().__init__()
        dtype = self.dtype = layer.dtype
        _keep(self, norm_weight=layer.norm.weight, norm_bias=layer.norm.bias,
              up_weight=layer.up.weight.to(dtype), down_weight=layer.down.weight.to(dtype),
              up_bias=layer.up.bias.to(dtype).unsqueeze(1),
              down_bias=layer.down.bias.to(dtype).unsqueeze(1))  # fmt: skip

    def forward(self, x_NE: torch.Tensor) -> torch.Tensor:
        """Return the update, (N, E), of rows."""
        x_NE = F.layer_norm(x_NE, x_NE.shape[-1:], self.norm_weight, self.norm_bias)
        up = torch.addmm(self.up_bias, self.up_weight, x_NE.to(self.dtype).t())
        value, gate = up.chunk(2)
        return torch.addmm(self.down_bias, self.down_weight, F.gelu(gate) * value).t()


def _keep(module: nn.Module, **tensors: torch.Tensor | None) -> None:
    """Give a module tensors of its own, in their order in memory; no file of weights has them."""
    for name, one in tensors.items():
        copy = None if one is None else one.detach().clone(memory_format=torch.contiguous_format)
        module.register_buffer(name, copy, persistent=False)


def _ordered(weight_XE: torch.Tensor, heads: int, turned: bool = True) -> torch.Tensor:
    """Return rows of a weight in the order of `_Attention`, (X, E).

    `spikedata_model.rotary.rotate` turns neighbours; half of a head does not turn.
    """
    if not turned:
        return weight_XE
    weight_HDE = weight_XE.unflatten(0, (heads, -1))
    half = weight_HDE.shape[1] // 2
    turning = weight_HDE[:, :half]
    parts = [turning[:, ::2], turning[:, 1::2], weight_HDE[:, half:]]
    return torch.cat(parts, dim=1).flatten(0, 1)


def _turns(time_N: torch.Tensor, rate_W: torch.Tensor) -> Turn:
    """Return cosine and sine of each pair's turn, (N, W), float32; rates in turns a second.

    Angles are float64 until whole turns are taken off them, as in `spikedata_model.rotary.phases`.
    Rates come as a tensor: ONNX would round a number that stands here to float32.
    """
    turns_NW = time_N.double().unsqueeze(-1) * rate_W
    angle_NW = (2 * math.pi * (turns_NW - turns_NW.round())).float()
    return angle_NW.cos(), angle_NW.sin()


def _turned(x: torch.Tensor, turn: Turn, dim: int) -> torch.Tensor:
    """Return heads, whose features lie along `dim`, turned; `x` is overwritten where that may be.

    Products and sums are float32 in both precisions.
    """
    cos, sin = turn
    pairs = cos.shape[dim]
    turning = x.narrow(dim, 0, 2 * pairs).float()  # in float32 a view
    first, second = turning.narrow(dim, 0, pairs), turning.narrow(dim, pairs, pairs)
    if torch.compiler.is_compiling() or x.requires_grad:  # compiling is exporting too
        turning = torch.cat([first * cos - second * sin, first * sin + second * cos], dim)
        rest = x.narrow(dim, 2 * pairs, x.shape[dim] - 2 * pairs)
        return torch.cat([turning.to(x.dtype), rest], dim)
    kept = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(kept)
    if turning.dtype != x.dtype:
        x.narrow(dim, 0, 2 * pairs).copy_(turning)
    return x
