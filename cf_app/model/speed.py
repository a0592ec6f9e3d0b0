"""Faster forms of the same transformer. Each changes modules in place and, but for rounding, nothing that they compute.

"fused": queries, keys and values of self-attention by one matrix product instead of three. "compiled": norms, gates and
feed-forward layers of a block by torch.compile; attention stays as it is, because what it reads changes from chunk to
chunk. Compiling needs a C++ compiler on CPUs, Triton on GPUs, and some seconds at the first chunk. "graphs": passes are
recorded and played back (``graphs.py``), on a GPU; the engine does that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from cf_app.model.causal_wan import WanTransformer3DModel


def fuse(transformer: WanTransformer3DModel) -> None:
    """One product for queries, keys and values.

    Raises:
        ValueError: the weights are quantized; packed numbers can not be put side by side.
    """
    for block in transformer.blocks:
        layers = (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)
        plain = all(type(layer) is nn.Linear and type(layer.weight) is nn.Parameter for layer in layers)
        if not plain or not all(layer.weight.is_floating_point() for layer in layers):
            raise ValueError('"fused" needs weights that are not quantized: choose --quant none, or leave it out')
    for block in transformer.blocks:
        attention = block.attn1
        if not attention.fused_projections:
            attention.fuse_projections()
            attention.to_qkv.requires_grad_(False)
            del attention.to_q, attention.to_k, attention.to_v  # else they would take their room twice


def compile_blocks(transformer: WanTransformer3DModel, backend: str = "inductor") -> None:
    """Compile each block around its two attentions."""
    for block in transformer.blocks:
        for attention in (block.attn1, block.attn2):
            attention.forward = torch.compiler.disable(attention.forward)
        block.compile(backend=backend, dynamic=False)


SPEEDUPS: dict[str, Callable[[WanTransformer3DModel], None]] = {"fused": fuse, "compiled": compile_blocks}
NAMES = (*SPEEDUPS, "graphs")


def accelerate(transformer: WanTransformer3DModel, names: Sequence[str]) -> None:
    """Apply some of ``SPEEDUPS``, in their order; ValueError for an unknown name, before anything is changed."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ValueError(f"speed is {', '.join(unknown)}, expected some of {', '.join(NAMES)}")
    for name, apply in SPEEDUPS.items():
        if name in names:
            apply(transformer)
