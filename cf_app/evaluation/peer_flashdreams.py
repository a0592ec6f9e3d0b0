"""Times FlashDreams' own transformer from a checkout, an unpacked wheel or a wheel. None of it is copied.

Its attention, cache, compiler and CUDA graphs run as they are; what loads checkpoints, text encoders and decoders is
replaced by stand-ins, so that its packages for these need not be installed (einops and triton have to be). Decoding is
not timed: its decoder for Wan is the tiny one that others have, too.
"""

from __future__ import annotations

import importlib
import sys
import time
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

NETWORK = "flashdreams/recipes/wan/transformer/wan21.py"
STEPS = (1000.0, 937.5, 833.3333, 625.0)
MEASURED = 6  # chunks, once its memory is full and its graphs are recorded


def flashdreams_at(path: Path, folder: Path) -> Path | None:
    """Where to import from; None if it is something else. A wheel is unpacked into ``folder``."""
    if path.suffix == ".whl" and path.is_file():
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(folder)
        path = folder
    return next((root for root in (path, path / "flashdreams") if (root / NETWORK).is_file()), None)


def measure_flashdreams(root: Path, visible: int, report: Callable[..., None], *, tiny: bool) -> None:
    """Milliseconds of a chunk's denoising and cache pass at ``visible`` latent frames, the chunk's own included."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = _imported(root)
    height, width = (8, 8) if tiny else (60, 104)
    config = module.Wan21TransformerConfig(len_t=3, window_size_t=visible, sink_size_t=0)
    if tiny:
        config.network.num_layers, config.network.ffn_dim = 2, 64
    transformer = config.setup().to(device)
    text = torch.randn(1, 512, 4096, device=device, dtype=config.dtype)
    denoise: list[float] = []
    context: list[float] = []
    with torch.inference_mode():
        cache = transformer.initialize_autoregressive_cache(height=height, width=width, text_embeddings=text)
        warm = visible // 3 + 2
        for chunk in range(warm + (1 if tiny else MEASURED)):
            first, second = _chunk(transformer, cache, chunk, device)
            if chunk >= warm:
                denoise.append(first)
                context.append(second)
    _report(report, _median(denoise), _median(context))
    if device.type == "cuda":
        report(peak_gb=torch.cuda.max_memory_allocated() / 1e9)


def _chunk(transformer: Any, cache: Any, chunk: int, device: torch.device) -> tuple[float, float]:
    latents = torch.randn(transformer.latent_shape, device=device, dtype=transformer.config.dtype)
    cache.start(chunk)
    begun = _now()
    for step in STEPS:
        time_now = torch.full((), step, device=device, dtype=transformer.config.dtype)
        flow = transformer.predict_flow(latents, time_now, cache)
        latents = latents - flow * 0.25  # about what a scheduler costs
    denoised = _now()
    clean = torch.zeros((), device=device, dtype=transformer.config.dtype)
    transformer.finalize_kv_cache(noisy_latent=latents, timestep=clean, cache=cache)
    cache.finalize(chunk)
    return 1000 * (denoised - begun), 1000 * (_now() - denoised)


def _report(report: Callable[..., None], denoise: float, context: float) -> None:
    total = denoise + context
    report(
        peer="FlashDreams",
        stage_ms={"denoise": denoise, "context": context, "memory": None, "decode": None, "encode": None},
        chunk_ms=total,
        fps=12000 / total,
        fps_without_cache_pass=12000 / denoise,
        decoder="none",
    )


def _imported(root: Path) -> Any:
    sys.path.insert(0, str(root))
    # Without their ``__init__``, which pull in decoders, encoders and what these depend on.
    for name in ("recipes", "recipes.wan", "recipes.wan.autoencoder", "core.distributed", "core.checkpoint"):
        package = types.ModuleType(f"flashdreams.{name}")
        package.__path__ = [str(root / "flashdreams" / name.replace(".", "/"))]
        sys.modules[package.__name__] = package
    _module("flashdreams.core.checkpoint.load", load_checkpoint=None)
    _module("flashdreams.recipes.wan.autoencoder.i2v", I2VCtrl=type("I2VCtrl", (), {}))
    return importlib.import_module("flashdreams.recipes.wan.transformer.wan21")


def _module(name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _median(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]
