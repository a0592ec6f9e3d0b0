"""What a chunk costs in arithmetic, and what the machine can do: measured ceilings, not data sheets.

Counts (multiply and add are two): M query tokens, N read tokens, D width, F feed-forward width, S text tokens, a layer
and pass:  self Q, K, V, O  8 M D^2;  cross Q, O  4 M D^2;  feed-forward  4 M D F;  attention  4 M N D;  cross  4 M S D.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from cf_app.engine.engine import Engine
from cf_app.model.kernels import Kernel, available


@dataclass(frozen=True)
class Work:
    """FLOP of a chunk: all passes, by the unit that does them."""

    linears: float
    attention: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.linears + self.attention


def chunk_work(engine: Engine, latents_read: int) -> Work:
    """Work of the transformer for one chunk: every denoising step and the clean pass.

    Args:
        latents_read: visible latent frames, the chunk's own included.
    """
    shape, wan = engine.kv_shape, engine.transformer.config
    width = shape.heads * shape.head_dim
    queries, keys = engine.geometry.chunk_latents * shape.tokens, latents_read * shape.tokens
    linears = 12 * queries * width**2 + 4 * queries * width * wan.ffn_dim
    attention = 4 * queries * width * (keys + engine.config.text_length)
    passes = len(engine.schedule) + 1
    return Work(float(passes * shape.layers * linears), float(passes * shape.layers * attention))


def ceilings(device: torch.device, *, size: int = 8192, queries: int = 4680, keys: int = 32760) -> dict[str, Any]:
    """TFLOP/s of matrix products and of every attention kernel, GB/s of copies. None where something can not run.

    Args:
        size: of square matrices.
        queries, keys: tokens, 12 heads of 128: the real student's at 832x480 with 21 visible latent frames.
    """
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    return {
        "type": str(kind).removeprefix("torch."),
        **_products(size, device, kind),
        "copy_gb_s": _copy_rate(4 * size * size, device),
        "attention_tflops": _attention_rates(queries, keys, device, kind),
    }


def _products(size: int, device: torch.device, kind: torch.dtype) -> dict[str, float | None]:
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    plain = _rate(lambda: a @ b, 2 * size**3 / 1e12)
    return {"matmul_tflops": plain, "fp8_matmul_tflops": _attempt(lambda: _fp8_rate(a, b))}


def _copy_rate(count: int, device: torch.device) -> float:
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _rate(lambda: target.copy_(source), 2 * count / 1e9)  # read and written


def _attention_rates(queries: int, keys: int, device: torch.device, kind: torch.dtype) -> dict[str, float | None]:
    query = torch.randn(1, queries, 12, 128, device=device, dtype=kind)
    key = torch.randn(1, keys, 12, 128, device=device, dtype=kind)
    tera = 4 * queries * keys * 12 * 128 / 1e12

    def rate(kernel: Kernel) -> float:
        return _rate(lambda: kernel.attend(query, key, key, None), tera)

    return {kernel.name: _attempt(partial(rate, kernel)) for kernel in available(device)}


def _fp8_rate(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.device.type != "cuda":
        raise ValueError("8-bit floating point products need a GPU")
    left, right = a.to(torch.float8_e4m3fn), b.t().contiguous().t().to(torch.float8_e4m3fn)
    rows = torch.ones(len(a), 1, device=a.device)
    columns = torch.ones(1, b.shape[1], device=a.device)
    return _rate(
        lambda: torch._scaled_mm(left, right, rows, columns, out_dtype=torch.bfloat16), 2 * len(a) ** 3 / 1e12
    )


def _attempt(measure: Callable[[], float]) -> float | None:
    try:
        return measure()
    except (RuntimeError, ValueError, AttributeError):
        return None


def _rate(work: Callable[[], object], amount: float, seconds: float = 0.4) -> float:
    """``amount`` per second of ``work``: the best of five stretches."""
    wait: Callable[[], object] = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    work()
    wait()
    begun, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - begun < seconds / 10:
        work()
        wait()
        count += 1
    repeat, best = max(1, round(count / 2)), float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(repeat):
            work()
        wait()
        best = min(best, (time.perf_counter() - begun) / repeat)
    return amount / best
