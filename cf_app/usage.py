"""What an engine runs on and what it takes there, for the line on the page and for the command line. GB = 1e9 bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cf_app.memory.policy import MOST_SLOTS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cf_app.engine.engine import Engine

_STATM, _MEMINFO = Path("/proc/self/statm"), Path("/proc/meminfo")


@dataclass(frozen=True)
class Usage:
    """Attributes:

    used: GB that this program holds now, on the GPU, or in main memory where there is none; None: not known.
    total: GB that there are.
    gpu: whether it is a GPU's memory.
    """

    used: float | None
    total: float | None
    gpu: bool

    @property
    def text(self) -> str:
        """Such as "9.8 of 24.0 GB VRAM"; empty where nothing is known."""
        if self.used is None:
            return ""
        of = "" if self.total is None else f" of {self.total:.1f}"
        return f"{self.used:.1f}{of} GB {'VRAM' if self.gpu else 'memory'}"


def usage(device: object) -> Usage:
    """What is in use on a device, measured now."""
    if str(device).startswith("cuda"):
        import torch

        place = torch.device(str(device))
        return Usage(torch.cuda.memory_reserved(place) / 1e9, torch.cuda.mem_get_info(place)[1] / 1e9, gpu=True)
    used = int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9 if _STATM.exists() else None
    total = None
    if _MEMINFO.exists():
        total = 1024 * int(_MEMINFO.read_text().split("MemTotal:", 1)[1].split()[0]) / 1e9
    return Usage(used, total, gpu=False)


def facts(engine: Engine) -> str:
    """Quantization, attention kernel and speed-ups, device, size of the picture, and how long a film can be at most."""
    geometry = engine.geometry
    rule = engine.policy.rule(geometry.chunk_latents)
    limit = ""
    if rule.positions == "absolute":
        seconds = int(MOST_SLOTS // geometry.chunk_latents * geometry.chunk_seconds)
        limit = f", films of at most {seconds // 60} min {seconds % 60} s"
    scheme = "unquantized" if engine.quantization in ("", "none") else engine.quantization
    size = f"{geometry.width}×{geometry.height}, {geometry.fps} frames a second{limit}"
    return f"{scheme} · {engine.running_by} · {engine.device} · {size}"


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers as they are stored: packed, with scales."""
    return sum(part.untyped_storage().nbytes() for tensor in _tensors(module) for part in _inner(tensor))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
    for child in module.modules():
        # bitsandbytes keeps the scales of 8-bit matrices on the parameter, those of 4-bit ones in a state.
        weight = vars(child).get("_parameters", {}).get("weight")
        held = {} if weight is None else vars(weight)
        yield from (item for item in (held.get("CB"), held.get("SCB")) if item is not None and item is not weight)
        state = held.get("quant_state")
        if state is not None:
            yield state.absmax
            nested = vars(state).get("state2")  # gone once a CPU has packed the weights its own way
            if nested is not None:
                yield nested.absmax


def _inner(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors of a wrapper (torchao), or the tensor itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _inner(tensor.__getattribute__(name))
