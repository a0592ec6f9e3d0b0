"""Which attention kernel a device gets: by table, the choice has a name that can be shown.

All but one are exact softmax attention; they differ in the order of sums. The table follows published timings on H100
(heads of 128: FlashAttention 3 and cuDNN about 600 TFLOP/s, FlashAttention 2 about 370); ``benchmark --random-weights``
measures all that a machine has. The one, 8-bit attention, is taken only where it is asked for: by FlashAttention 3, the
one kernel that has it and can be called from here. PyTorch's own attention has none, and products of 8-bit matrices
(``torch._scaled_mm``) would have to write all scores to memory, which takes longer than they save.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cf_app.model.attention import Attend, attend

# PyTorch's own kernels in the order of preference; what can not take the input is passed over.
CUDNN_FIRST = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
FLASH_FIRST = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


@dataclass(frozen=True)
class Kernel:
    """An attention function and what to call it on the page."""

    name: str
    attend: Attend


PLAIN = Kernel("SDPA", attend)


def ordered(backends: tuple[SDPBackend, ...]) -> Attend:
    """``attend`` with PyTorch's kernels tried in this order."""
    order = list(backends)

    def run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        with sdpa_kernel(order, set_priority=True):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)

    return run


def flash(function: Callable[..., Any]) -> Attend:
    """``attend`` by a function of the flash-attn packages; what they can not take goes to ``attend`` itself."""

    def run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None or query.dtype not in (torch.bfloat16, torch.float16):
            return attend(query, key, value, mask)
        out = function(query, key, value)
        result: Tensor = out[0] if isinstance(out, tuple) else out  # version 3 hands over its softmax sums, too
        return result

    return run


def flash8(function: Callable[..., Any]) -> Attend:
    """Attention in 8-bit floats (e4m3) by FlashAttention 3, with a scale for each head of each sample."""

    def run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None or query.dtype not in (torch.bfloat16, torch.float16):
            return attend(query, key, value, mask)
        (query8, q_descale), (key8, k_descale), (value8, v_descale) = map(to_fp8, (query, key, value))
        out = function(query8, key8, value8, q_descale=q_descale, k_descale=k_descale, v_descale=v_descale)
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result.to(query.dtype)

    return run


def to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """[B, S, H, D] in e4m3, and what to multiply it with: float32 [B, H]."""
    most = torch.finfo(torch.float8_e4m3fn).max
    scale = x.abs().amax((1, 3)).float().clamp(min=1e-12) / most
    return (x.float() / scale[:, None, :, None]).clamp(-most, most).to(torch.float8_e4m3fn), scale


def eight_bit(device: torch.device) -> Kernel:
    """8-bit attention.

    Raises:
        ValueError: there is none on this machine.
    """
    fits = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
    if not fits or find_spec("flash_attn_interface") is None:
        raise ValueError(
            'speed "attention8" needs a GPU of compute capability 9 (H100, H200) and FlashAttention 3 (the package '
            "flash_attn_interface): leave it out"
        )
    function = importlib.import_module("flash_attn_interface").flash_attn_func
    return Kernel("FlashAttention 3, 8-bit", flash8(function))


def available(device: torch.device) -> tuple[Kernel, ...]:
    """All kernels of this machine, the one to take first."""
    if device.type != "cuda":
        return (PLAIN,)
    major, _ = torch.cuda.get_device_capability(device)
    cudnn = Kernel("cuDNN SDPA", ordered(CUDNN_FIRST))
    found = [cudnn, Kernel("flash SDPA", ordered(FLASH_FIRST)), PLAIN]
    if major < 9:
        found = [found[1], cudnn, PLAIN]
    if major >= 8 and find_spec("flash_attn") is not None:
        function = importlib.import_module("flash_attn").flash_attn_func
        found.insert(0 if major < 9 else 1, Kernel("FlashAttention 2", flash(function)))
    if major == 9 and find_spec("flash_attn_interface") is not None:
        function = importlib.import_module("flash_attn_interface").flash_attn_func
        found.insert(0, Kernel("FlashAttention 3", flash(function)))
    return tuple(found)


def choose(device: torch.device) -> Kernel:
    """The kernel that the table has for this machine."""
    return available(device)[0]
