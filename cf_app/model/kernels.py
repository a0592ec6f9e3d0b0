"""Which attention kernel a device gets: by table, the choice has a name that can be shown.

All are exact softmax attention; they differ in the order of sums. The table follows published timings on H100 (heads of
128: FlashAttention 3 and cuDNN about 600 TFLOP/s, FlashAttention 2 about 370); ``benchmark --random-weights`` measures
all that a machine has.
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
        heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
        with sdpa_kernel(order, set_priority=True):
            return F.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(1, 2)

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
