"""Attention of the causal transformer: what travels to it, and the two processors that read it.

diffusers' block hands ``rotary_emb`` to its self-attention and ``encoder_hidden_states`` to its cross-attention
untouched. So a ``KVContext`` (memory, positions) and a ``TextKV`` (the prompt's keys and values, made once per prompt)
go through these two arguments, and the module stays diffusers' own, without state. For the usual tensors the
processors do what diffusers' own do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor

from cf_app.model.rope import rotate

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class KVContext(Protocol):
    """What the queries of one pass may read.

    Attributes:
        batch: batch size B; latent frames may come folded into the batch axis of the hidden states.
        query_rope: rotation of the queries, complex [Tq, D/2] or [B, Tq, D/2].
        mask: bool, True where a query may read a key, broadcast to [B, H, Tq, Tk]; None for all.
    """

    @property
    def batch(self) -> int: ...
    @property
    def query_rope(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor | None: ...

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take this pass's own keys (normed, not rotated) and values of a layer, both [B, Tq, H, D].

        Returns:
            rotated keys and values to attend to, both [B, Tk, H, D], this pass's own included.
        """
        ...


@dataclass(frozen=True)
class TextKV:
    """Keys and values of a prompt for every cross-attention layer, each [B, S, H, D]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class SelfContext:
    """A pass that reads nothing but itself: training, and whatever has no memory. ``mask`` as in ``KVContext``."""

    batch: int
    query_rope: Tensor
    mask: Tensor | None = None

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The pass's own keys, rotated, and values."""
        return rotate(key, self.query_rope), value


class WatchedContext:
    """A context whose attention someone looks at: ``watch(layer, query, keys)`` gets what a layer's kernel gets.

    Rotated queries [B, Tq, H, D] and keys [B, Tk, H, D], not to be changed or kept.
    """

    def __init__(self, context: KVContext, watch: Callable[[int, Tensor, Tensor], None]) -> None:
        self.batch, self.query_rope, self.mask = context.batch, context.query_rope, context.mask
        self.extend = context.extend
        self.watch = watch


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention, scale 1/sqrt(D), by PyTorch's scaled_dot_product_attention.

    Args:
        query: [B, Tq, H, D].
        key, value: [B, Tk, H, D].
        mask: bool or None, broadcast to [B, H, Tq, Tk].

    Returns:
        [B, Tq, H, D].
    """
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1))


def _normed(norm: torch.nn.RMSNorm, x: Tensor, heads: int) -> Tensor:
    """RMS norm over all heads together. Under autocast ``x`` is bfloat16; mixed types would miss the fused kernel."""
    return _split(norm(x.to(norm.weight.dtype)).to(x.dtype), heads)


def _normed_and_rotated(norm: torch.nn.RMSNorm, x: Tensor, heads: int, table: Tensor) -> Tensor:
    return rotate(_normed(norm, x, heads), table)


@dataclass(frozen=True)
class Pointwise:
    """What attention does number by number, exchangeable for compiled forms (``model/speed.py``).

    Attributes:
        normed: (norm, [B, S, dim], heads) -> [B, S, H, D].
        rotated: the same and a rotation, complex [S, D/2], of what comes out.
    """

    normed: Callable[[torch.nn.RMSNorm, Tensor, int], Tensor] = _normed
    rotated: Callable[[torch.nn.RMSNorm, Tensor, int, Tensor], Tensor] = _normed_and_rotated


PLAIN_POINTWISE = Pointwise()


def _out(attn: WanAttention, x: Tensor) -> Tensor:
    return attn.to_out[1](attn.to_out[0](x.flatten(2)))


class CausalSelfAttention(WanAttnProcessor):
    """Self-attention of layer ``layer`` over a ``KVContext`` that comes as ``rotary_emb``."""

    def __init__(self, layer: int, kernel: Attend = attend) -> None:
        super().__init__()
        self.layer = layer
        self.kernel = kernel
        self.pointwise = PLAIN_POINTWISE

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: KVContext | tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """[B, Tq, dim] or [B * F, T, dim] in, the same shape out."""
        if rotary_emb is None or isinstance(rotary_emb, tuple):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        x = hidden_states.reshape(rotary_emb.batch, -1, hidden_states.shape[-1])
        if attn.fused_projections:
            query, key, value = attn.to_qkv(x).chunk(3, dim=-1)
        else:
            query, key, value = attn.to_q(x), attn.to_k(x), attn.to_v(x)
        value = _split(value, attn.heads)
        key = self.pointwise.normed(attn.norm_k, key, attn.heads)
        keys, values = rotary_emb.extend(self.layer, key, value)
        query = self.pointwise.rotated(attn.norm_q, query, attn.heads, rotary_emb.query_rope)
        if isinstance(rotary_emb, WatchedContext):
            rotary_emb.watch(self.layer, query, keys)
        out = self.kernel(query, keys, values, rotary_emb.mask)
        return _out(attn, out).reshape(hidden_states.shape)


class TextCrossAttention(WanAttnProcessor):
    """Cross-attention of layer ``layer`` to a ``TextKV`` that comes as ``encoder_hidden_states``.

    Padding rows of the prompt are attended to: the models were trained so.
    """

    def __init__(self, layer: int, kernel: Attend = attend) -> None:
        super().__init__()
        self.layer = layer
        self.kernel = kernel
        self.pointwise = PLAIN_POINTWISE

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: TextKV | Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """[B, Tq, dim] or [B * F, T, dim] in, the same shape out."""
        if not isinstance(encoder_hidden_states, TextKV):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        key, value = encoder_hidden_states.keys[self.layer], encoder_hidden_states.values[self.layer]
        x = hidden_states.reshape(key.shape[0], -1, hidden_states.shape[-1])
        query = self.pointwise.normed(attn.norm_q, attn.to_q(x), attn.heads)
        return _out(attn, self.kernel(query, key, value, None)).reshape(hidden_states.shape)


def text_keys_values(attn: WanAttention, text: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [B, S, H, D] of one cross-attention for embedded text [B, S, dim]."""
    if attn.fused_projections:
        key, value = attn.to_kv(text).chunk(2, dim=-1)
    else:
        key, value = attn.to_k(text), attn.to_v(text)
    return _normed(attn.norm_k, key, attn.heads), _split(value, attn.heads)


def token_mask(latent_mask: Tensor, tokens: int) -> Tensor:
    """From a mask over latent frames [..., Fq, Fk] to one over their tokens [..., Fq * tokens, Fk * tokens]."""
    return latent_mask.repeat_interleave(tokens, -2).repeat_interleave(tokens, -1)


__all__ = [
    "Attend",
    "CausalSelfAttention",
    "KVContext",
    "Pointwise",
    "SelfContext",
    "TextCrossAttention",
    "TextKV",
    "WatchedContext",
    "attend",
    "text_keys_values",
    "token_mask",
]
