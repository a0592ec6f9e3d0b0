"""Faster forms of the same transformer. Each changes modules in place and, but for rounding, nothing that they compute.

"fused": queries, keys and values of self-attention by one matrix product instead of three. "compiled": torch.compile
for what works number by number: norms, gates and feed-forward layers of a block, norm and rotation inside attention.
What attention reads changes from chunk to chunk and stays as it is. It needs a C++ compiler on CPUs, Triton on GPUs,
and some seconds at the first chunk; all blocks share what is compiled. "graphs": passes are recorded and played back
(``graphs.py``), on a GPU. "attention8": self-attention in 8-bit floats (``kernels.py``), the one that changes what
comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cf_app.model.attention import Attend, Pointwise
from cf_app.model.causal_wan import WanTransformer3DModel
from cf_app.model.rope import rotate_real


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


Backend = str | Callable[..., Any]


def compile_blocks(transformer: WanTransformer3DModel, backend: Backend = "inductor") -> None:
    """Compile each block around its two attentions, and what is pointwise within these."""
    normed = torch.compile(_normed, backend=backend)
    turned = torch.compile(_normed_and_turned, backend=backend)

    def rotated(norm: nn.RMSNorm, x: Tensor, heads: int, table: Tensor) -> Tensor:
        return turned(x, norm.weight, _eps(norm), heads, torch.view_as_real(table))

    pointwise = Pointwise(lambda norm, x, heads: normed(x, norm.weight, _eps(norm), heads), rotated)
    for block in transformer.blocks:
        for attention in (block.attn1, block.attn2):
            attention.processor.pointwise = pointwise
            attention.forward = torch.compiler.disable(attention.forward)
        block.compile(backend=backend, dynamic=False)


def compiled_rotation(backend: Backend = "inductor") -> Callable[[Tensor, Tensor], Tensor]:
    """``rope.rotate``, compiled."""
    turn = torch.compile(rotate_real, backend=backend)
    return lambda x, table: turn(x, torch.view_as_real(table))


def _normed(x: Tensor, weight: Tensor, eps: float, heads: int) -> Tensor:
    return F.rms_norm(x.to(weight.dtype), weight.shape, weight, eps).to(x.dtype).unflatten(-1, (heads, -1))


def _normed_and_turned(x: Tensor, weight: Tensor, eps: float, heads: int, table: Tensor) -> Tensor:
    return rotate_real(_normed(x, weight, eps, heads), table)


def _eps(norm: nn.RMSNorm) -> float:
    return torch.finfo(torch.float32).eps if norm.eps is None else norm.eps


SPEEDUPS: dict[str, Callable[[WanTransformer3DModel], None]] = {"fused": fuse, "compiled": compile_blocks}
NAMES = (*SPEEDUPS, "attention8", "graphs")


def accelerate(transformer: WanTransformer3DModel, names: Sequence[str]) -> None:
    """Apply some of ``SPEEDUPS``, in their order; ValueError for an unknown name, before anything is changed."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ValueError(f"speed is {', '.join(unknown)}, expected some of {', '.join(NAMES)}")
    for name, apply in SPEEDUPS.items():
        if name in names:
            apply(transformer)


def attend_by(transformer: WanTransformer3DModel, kernel: Attend) -> None:
    """Another kernel for self-attention."""
    for block in transformer.blocks:
        block.attn1.processor.kernel = kernel
