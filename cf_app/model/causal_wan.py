"""diffusers' WanTransformer3DModel, run chunk by chunk over a memory, or over a whole sequence for training.

The module is used as it is, with the two processors of ``attention.py`` in its blocks. What differs from its own
``forward``: text keys and values are made once per prompt (``encode_text``), positions and past keys come in a
``KVContext``, and every latent frame may have its own timestep without the cost of one modulation per token (latent
frames are folded into the batch axis, where the block's per-sample modulation then acts per latent frame).

This file knows nothing of memory policies, sampling or sessions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor

from cf_app.model.attention import (
    Attend,
    CausalSelfAttention,
    KVContext,
    SelfContext,
    TextCrossAttention,
    TextKV,
    attend,
    text_keys_values,
)
from cf_app.model.rope import rope_table


def make_causal(transformer: WanTransformer3DModel, kernel: Attend = attend) -> WanTransformer3DModel:
    """Put our attention processors into the blocks of ``transformer`` and return it.

    Raises:
        ValueError: the transformer patches time, or expects image embeddings.
    """
    config = transformer.config
    if config.patch_size[0] != 1:
        raise ValueError(f"patch_size is {tuple(config.patch_size)}, expected 1 in time: latent frames must stay apart")
    if config.added_kv_proj_dim is not None or config.image_dim is not None:
        raise ValueError("the transformer expects image embeddings, only text-to-video transformers can stream")
    for layer, block in enumerate(transformer.blocks):
        block.attn1.set_processor(CausalSelfAttention(layer, kernel))
        block.attn2.set_processor(TextCrossAttention(layer, kernel))
    return transformer


def is_causal(transformer: WanTransformer3DModel) -> bool:
    """Whether ``make_causal`` has been here."""
    return isinstance(transformer.blocks[0].attn1.processor, CausalSelfAttention)


def token_grid(transformer: WanTransformer3DModel, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tokens of a latent frame of ``height`` x ``width``.

    Raises:
        ValueError: the patch size does not divide the latent size.
    """
    _, patch_y, patch_x = transformer.config.patch_size
    if height % patch_y or width % patch_x:
        raise ValueError(f"latent size {height}x{width} is not a multiple of the patch size {patch_y}x{patch_x}")
    return height // patch_y, width // patch_x


def encode_text(transformer: WanTransformer3DModel, states: Tensor) -> TextKV:
    """Cross-attention keys and values of every layer.

    Args:
        states: text states [B, S, text_dim], zero rows after the prompt's end (they are not masked).
    """
    text = transformer.condition_embedder.text_embedder(states)
    pairs = [text_keys_values(block.attn2, text) for block in transformer.blocks]
    return TextKV(tuple(key for key, _ in pairs), tuple(value for _, value in pairs))


def causal_forward(
    transformer: WanTransformer3DModel,
    latents: Tensor,
    timestep: Tensor | float,
    text: TextKV,
    context: KVContext,
) -> Tensor:
    """Flow of a chunk, all latent frames at one noise level.

    Args:
        latents: [B, C, F, Y, X].
        timestep: 0..1000, a number or [B].
        text: from ``encode_text``, batch B.
        context: what the chunk may read; receives its keys and values.

    Returns:
        flow (noise - clean), [B, C, F, Y, X].
    """
    if not is_causal(transformer):
        make_causal(transformer)
    if not isinstance(timestep, Tensor):
        # Filled in on the device: a copy of a number from the host would wait for all work there.
        timestep = torch.full((), float(timestep), dtype=torch.float32, device=latents.device)
    times = timestep.to(latents.device, torch.float32).expand(latents.shape[0])
    return _run(transformer, latents, times, text, context)


def training_forward(
    transformer: WanTransformer3DModel,
    latents: Tensor,
    timesteps: Tensor,
    text_states: Tensor,
    positions: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Flow of whole sequences, each latent frame at its own noise level, without memory. Works with autograd.

    Args:
        latents: [B, C, F, Y, X].
        timesteps: [B, F], 0..1000.
        text_states: [B, S, text_dim].
        positions: RoPE time indices, whole numbers, [F], [1, F] or [B, F].
        mask: bool over tokens, True where a query may read a key: [Tq, Tk], [B, Tq, Tk] or [B, 1, Tq, Tk]; None for
            all. ``attention.token_mask`` makes it from one over latent frames.

    Returns:
        flow (noise - clean), [B, C, F, Y, X].
    """
    if not is_causal(transformer):
        make_causal(transformer)
    batch, _, frames, height, width = latents.shape
    if tuple(timesteps.shape) != (batch, frames):
        raise ValueError(f"timesteps have shape {tuple(timesteps.shape)}, expected [B, F] = {(batch, frames)}")
    if positions.shape[-1] != frames:
        raise ValueError(f"positions have shape {tuple(positions.shape)}, expected F = {frames} last")
    rows, columns = token_grid(transformer, height, width)
    table = rope_table(transformer.config.attention_head_dim, positions, rows, columns, device=latents.device)
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]
    text = encode_text(transformer, text_states)
    return _run(transformer, latents, timesteps.flatten(), text, SelfContext(batch, table, mask))


def _run(
    transformer: WanTransformer3DModel, latents: Tensor, times: Tensor, text: TextKV, context: KVContext
) -> Tensor:
    """``times`` has one entry per sample, or one per latent frame of every sample."""
    tokens = _patchify(transformer, latents)
    x = tokens.reshape(len(times), -1, tokens.shape[-1])
    embedded, modulation = _time(transformer, times, x.dtype)
    checkpoint = transformer.gradient_checkpointing and torch.is_grad_enabled()
    for block in transformer.blocks:
        if checkpoint:
            x = transformer._gradient_checkpointing_func(block, x, text, modulation, context)
        else:
            x = block(x, text, modulation, context)
    shift, scale = (transformer.scale_shift_table + embedded[:, None]).chunk(2, dim=1)
    x = (transformer.norm_out(x.float()) * (1 + scale) + shift).type_as(x)
    return _unpatchify(transformer, transformer.proj_out(x), latents)


def _time(transformer: WanTransformer3DModel, times: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Time embedding [N, dim] for the head and modulation [N, 6, dim] for the blocks."""
    embedder = transformer.condition_embedder
    waves = embedder.timesteps_proj(times)
    weight = embedder.time_embedder.linear_1.weight
    embedded = embedder.time_embedder(waves.to(weight.dtype) if weight.is_floating_point() else waves).to(dtype)
    return embedded, embedder.time_proj(embedder.act_fn(embedded)).unflatten(1, (6, -1))


def _patchify(transformer: WanTransformer3DModel, latents: Tensor) -> Tensor:
    """[B, C, F, Y, X] -> [B, F * tokens, dim].

    The same product as the module's convolution (kernel = stride), as a matrix product: a float32 conv3d on a CPU
    falls into a slow kernel.
    """
    batch, channels, frames, height, width = latents.shape
    _, patch_y, patch_x = transformer.config.patch_size
    patches = latents.reshape(batch, channels, frames, height // patch_y, patch_y, width // patch_x, patch_x)
    patches = patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
    conv = transformer.patch_embedding
    # Under autocast the product is bfloat16; the residual stream keeps the type of the weights.
    return F.linear(patches.to(conv.weight.dtype), conv.weight.flatten(1), conv.bias).to(conv.weight.dtype)


def _unpatchify(transformer: WanTransformer3DModel, tokens: Tensor, like: Tensor) -> Tensor:
    """[..., tokens, patch * C] -> [B, C, F, Y, X]; channels run fastest in a token."""
    batch, _, frames, height, width = like.shape
    _, patch_y, patch_x = transformer.config.patch_size
    x = tokens.reshape(batch, frames, height // patch_y, width // patch_x, patch_y, patch_x, -1)
    return x.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, -1, frames, height, width).to(like.dtype)


__all__ = [
    "WanTransformer3DModel",
    "causal_forward",
    "encode_text",
    "is_causal",
    "make_causal",
    "token_grid",
    "training_forward",
]
