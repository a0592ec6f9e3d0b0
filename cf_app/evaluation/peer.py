"""Times a peer's own model from a checkout: Self-Forcing, Context Forcing, FlashDreams. None of it is copied.

Random weights, real sizes. What a checkout wants and timing does not need (the text encoder's files, the demo's memory
helpers) is replaced by stand-ins before its modules are imported; its attention, model, cache and pipeline run as they
are. Which peer it is says the checkout itself:

- Self-Forcing and what keeps its layout: ``pipeline/causal_inference.py``, ``utils/wan_wrapper.py``,
  ``wan/modules/causal_model.py``;
- Context Forcing's release: ``pipeline/causal_long_inference.py`` beside these, run with the sizes of its own
  configuration (a sink of 3, 6 in the window, slow memory between them);
- FlashDreams: ``flashdreams/recipes/wan/transformer/wan21.py``, see ``peer_flashdreams.py``.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cf_app.evaluation.peer_flashdreams import flashdreams_at, measure_flashdreams

NEEDED = ("pipeline/causal_inference.py", "utils/wan_wrapper.py", "wan/modules/causal_model.py")
LONG = "pipeline/causal_long_inference.py"
HAS_EINOPS = find_spec("einops") is not None
KIND = torch.bfloat16  # what its attention casts to
HEADS, WIDTH = 12, 1536  # its pipeline has them as literals
SINK, WINDOW = 3, 6  # latent frames, of Context Forcing's released configuration


def measure_peer(path: Path, visible: int, report: Callable[..., None], *, tiny: bool) -> None:
    """Milliseconds of a chunk at ``visible`` latent frames (the chunk's own included), cache pass and decoding apart.

    Raises:
        ValueError: there is no such checkout in ``path``.
    """
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        root = flashdreams_at(path, Path(folder))
        if root is not None:
            measure_flashdreams(root, visible, report, tiny=tiny)
        else:
            _measure_checkout(path, visible, report, tiny=tiny)


def _measure_checkout(path: Path, visible: int, report: Callable[..., None], *, tiny: bool) -> None:
    long = (path / LONG).is_file()
    missing = [name for name in (NEEDED[1:] if long else NEEDED) if not (path / name).is_file()]
    if missing:
        raise ValueError(
            f"{path} is no checkout of Self-Forcing's or Context Forcing's layout, nor FlashDreams: "
            f"{missing[0]} is not there"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _stand_ins(path)
    pipeline = _pipeline(visible, device, tiny, long=long)
    size = (8, 8) if tiny else (60, 104)
    pipeline.frame_seq_length = size[0] * size[1] // 4
    if long:
        pipeline.kv_cache_size = visible * pipeline.frame_seq_length
    chunks = visible // 3 + (1 if tiny else 6)
    watch = _Watch(pipeline, len(pipeline.denoising_step_list) + 1)
    noise = torch.randn(1, 3 * chunks, 16, *size, device=device, dtype=KIND)
    with torch.inference_mode():
        pipeline.inference(noise, ["a prompt"])
    passes = watch.chunks()[visible // 3 :]
    denoise = _median([sum(times[:-1]) for times in passes])
    context = _median([times[-1] for times in passes])
    decode = None if watch.decoded is None else watch.decoded / chunks
    total = denoise + context + (decode or 0.0)
    report(
        peer="Context Forcing" if long else "Self-Forcing",
        stage_ms={"denoise": denoise, "context": context, "memory": None, "decode": decode, "encode": None},
        chunk_ms=total,
        fps=12000 / total,
        fps_without_cache_pass=12000 / (total - context),
        decoder=watch.decoder,
    )
    if device.type == "cuda":
        report(peak_gb=torch.cuda.max_memory_allocated() / 1e9)


class _Watch:
    """Clocks around the generator's passes and the decoder, on the GPU's own time; adds no waiting between passes."""

    def __init__(self, pipeline: Any, passes: int) -> None:
        self.decoded: float | None = None
        self.decoder = pipeline.vae.name
        self._passes = passes
        self._marks: list[Any] = []
        inner, decode = pipeline.generator.forward, pipeline.vae.decode_to_pixel

        def forward(*arguments: Any, **options: Any) -> Any:
            before = _mark()
            result = inner(*arguments, **options)
            self._marks.append((before, _mark()))
            return result

        def decode_to_pixel(*arguments: Any, **options: Any) -> Any:
            before = _mark()
            result = decode(*arguments, **options)
            self.decoded = _between(before, _mark()) if pipeline.vae.name != "none" else None
            return result

        pipeline.generator.forward, pipeline.vae.decode_to_pixel = forward, decode_to_pixel

    def chunks(self) -> list[list[float]]:
        """Milliseconds of every pass, chunk by chunk."""
        times = [_between(*pair) for pair in self._marks]
        return [times[start : start + self._passes] for start in range(0, len(times), self._passes)]


def _mark() -> Any:
    if not torch.cuda.is_available():
        return time.perf_counter()
    mark = torch.cuda.Event(enable_timing=True)
    mark.record()
    return mark


def _between(before: Any, after: Any) -> float:
    if isinstance(before, float):
        return 1000 * (after - before)
    after.synchronize()
    elapsed: float = before.elapsed_time(after)
    return elapsed


def _stand_ins(path: Path) -> None:
    """Packages without their ``__init__`` (which pull in demos and training), and modules that timing does not need."""
    sys.path.insert(0, str(path))
    for name in ("wan", "wan.modules", "pipeline", "utils", "demo_utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(path / name.replace(".", "/"))]
        sys.modules[name] = package
    _module("wan.modules.tokenizers", HuggingfaceTokenizer=object)
    _module("wan.modules.t5", umt5_xxl=None)
    if not HAS_EINOPS:  # only its decoder needs that; then the decoder is not timed
        _module("einops", rearrange=None, repeat=None)
        _module("wan.modules.vae", _video_vae=None)
    nothing = dict.fromkeys(
        ("get_cuda_free_memory_gb", "DynamicSwapInstaller", "move_model_to_device_with_memory_preservation", "gpu")
    )
    _module("demo_utils.memory", **nothing)


def _module(name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


def _pipeline(visible: int, device: torch.device, tiny: bool, *, long: bool) -> Any:
    model: Any = importlib.import_module("wan.modules.model")
    attention = importlib.import_module("wan.modules.attention")
    if not (attention.FLASH_ATTN_2_AVAILABLE or attention.FLASH_ATTN_3_AVAILABLE):
        model.flash_attention = attention.attention  # its own way through PyTorch's attention
    causal = importlib.import_module("wan.modules.causal_model")
    layers, wide = (2, 64) if tiny else (30, 8960)

    def build(_: str, **options: Any) -> Any:
        sizes = {"dim": WIDTH, "ffn_dim": wide, "num_heads": HEADS, "num_layers": layers, "freq_dim": 256}
        made = causal.CausalWanModel(model_type="t2v", in_dim=16, out_dim=16, **sizes, **options)
        torch.nn.init.normal_(made.head.head.weight, std=0.02)  # zeros at birth: latents would stay what they were
        return made

    causal.CausalWanModel.from_pretrained = build
    vae, decoder = _decoder(device)
    module = importlib.import_module(f"pipeline.causal{'_long' if long else ''}_inference")
    make = module.CausalLongInferencePipeline if long else module.CausalInferencePipeline
    wrapper: Any = importlib.import_module("utils.wan_wrapper").WanDiffusionWrapper
    memory = _released_memory(visible) if long else {"local_attn_size": visible}
    arguments = types.SimpleNamespace(
        denoising_step_list=[1000, 750, 500, 250],
        warp_denoising_step=True,
        num_frame_per_block=3,
        independent_first_frame=False,
        context_noise=0,
        model_kwargs={"timestep_shift": 5.0, **memory},
    )
    generator = wrapper(is_causal=True, **arguments.model_kwargs).to(device, KIND)
    embeds = torch.randn(1, 512, 4096, device=device, dtype=KIND)
    text = _Stub(lambda text_prompts: {"prompt_embeds": embeds})
    pipeline = make(arguments, device, generator=generator, text_encoder=text, vae=vae)
    pipeline.vae.name = decoder
    pipeline.num_transformer_blocks = layers
    return pipeline.to(device)


def _released_memory(visible: int) -> dict[str, Any]:
    """What Context Forcing's released configuration says, for so many visible latent frames."""
    sizes = {"local_attn_size": WINDOW, "sink_size": SINK, "rope_length": visible, "cache_size": visible}
    return {**sizes, "keyframe_interval": 0, "num_new_context_tokens": 1, "keyframe_sample": "sim"}


class _Stub(torch.nn.Module):
    """A module that calls a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.name = "none"

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **options)

    def decode_to_pixel(self, latents: torch.Tensor, use_cache: bool = False) -> torch.Tensor:
        return latents


def _decoder(device: torch.device) -> tuple[Any, str]:
    """Its own decoder with random weights on a GPU, where its one dependency is installed; else none is timed."""
    if device.type == "cpu" or not HAS_EINOPS:
        return _Stub(lambda: None), "none"
    vae = importlib.import_module("wan.modules.vae")
    sizes = {"dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "dropout": 0.0}
    wrapper: Any = importlib.import_module("utils.wan_wrapper")
    wrapper._video_vae = lambda **_: vae.WanVAE_(temperal_downsample=[False, True, True], **sizes)
    return wrapper.WanVAEWrapper().to(device, KIND), "wan"


def _median(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]
