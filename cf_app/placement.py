"""What goes where and how small: a choice per component, what it takes on a GPU, and the best that fits a card.

Estimates are arithmetic on files and shapes, made before anything is loaded. Units: GB = 1e9 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from cf_app.config import ModelConfig
from cf_app.loading import read_json
from cf_app.memory.policy import Rule, policy_from_dict
from cf_app.model.quantize import SCHEMES, scheme_named
from cf_app.students import WAN_TEXT_GB, WAN_TEXT_LENGTH, WAN_VAE_GB, Student

# Of live tensors, counted by running the full-size modules on the meta device (832x480, bfloat16), and some room for
# kernels' workspaces and what PyTorch's allocator keeps.
_ACTIVATIONS = 0.6  # one pass over a chunk, without the keys and values that it leaves behind
_WAN_DECODE = 5.2  # its state, kept twice while a chunk is decoded, is 3.8 of it
_TINY_DECODE = 1.6
_TINY_GB = 0.02  # of weights
_REFERENCE_PIXELS, _REFERENCE_WIDTH = 832 * 480, 1536
_PROMPTS_KEPT = 4  # engine.texts


@dataclass(frozen=True)
class Placement:
    """A choice per component.

    Attributes:
        transformer, text: quantization schemes.
        text_on_cpu: the text encoder stays and runs in main memory: slow after a change of prompt, no room on the card.
        text_offload: it stays there and visits the card for every new prompt; it is not quantized then.
        kv_fp8: sessions keep keys and values in 8 bits.
        lean: one workspace for all layers.
    """

    transformer: str = "none"
    text: str = "none"
    text_on_cpu: bool = False
    kv_fp8: bool = False
    lean: bool = False
    text_offload: bool = False

    def __post_init__(self) -> None:
        scheme_named(self.transformer)
        scheme_named(self.text)

    @property
    def label(self) -> str:
        """For display: "none", "int8", or what differs by component."""
        parts = [self.transformer]
        if self.text_on_cpu:
            parts.append("text on CPU")
        elif self.text_offload:
            parts.append("text offloaded")
        elif self.text != self.transformer:
            parts.append(f"text {self.text}")
        if self.kv_fp8:
            parts.append("memory fp8")
        return ", ".join(parts)


# From the best to the smallest.
LADDER = (
    Placement(),
    Placement(text="nf4"),
    Placement(text="nf4", lean=True),
    Placement("int8", "nf4", lean=True),
    Placement("int8", "nf4", kv_fp8=True, lean=True),
    Placement("nf4", "nf4", kv_fp8=True, lean=True),
    Placement("int8", text_on_cpu=True, kv_fp8=True, lean=True),
    Placement("nf4", text_on_cpu=True, kv_fp8=True, lean=True),
)


def placement_of(quant: str) -> Placement:
    """A scheme for all components, or a choice per component: "transformer=fp8,text=nf4,kv=fp8,lean".

    Raises:
        ValueError: an unknown scheme or component.
    """
    if "=" not in quant and quant in SCHEMES:
        return Placement(quant, quant)
    chosen = Placement()
    for part in quant.split(","):
        name, _, value = part.strip().partition("=")
        if name in ("transformer", "text") and value in SCHEMES:
            chosen = replace(chosen, transformer=value) if name == "transformer" else replace(chosen, text=value)
        elif (name, value) == ("kv", "fp8"):
            chosen = replace(chosen, kv_fp8=True)
        elif (name, value) == ("text", "cpu"):
            chosen = replace(chosen, text_on_cpu=True)
        elif (name, value) == ("text", "offload"):
            chosen = replace(chosen, text_offload=True)
        elif (name, value) == ("lean", ""):
            chosen = replace(chosen, lean=True)
        else:
            raise ValueError(
                f"quant is {quant!r}, expected auto, one of {', '.join(SCHEMES)}, or a choice like "
                "transformer=int8,text=nf4,kv=fp8,lean (text=cpu and text=offload keep the text encoder off the card)"
            )
    return chosen


@dataclass(frozen=True)
class Sizes:
    """What an estimate needs to know of a model.

    Attributes:
        transformer, text, vae: weights in GB as bfloat16.
        tokens: of a latent frame.
        slots, chunk: latent frames that are remembered, and whose keys and values a chunk leaves behind until it is
            committed.
        text_tokens: rows of a prompt.
        wan_decoder: Wan's own autoencoder, not the tiny kind.
    """

    transformer: float
    text: float
    vae: float
    layers: int
    heads: int
    head_dim: int
    tokens: int
    pixels: int
    slots: int
    chunk: int
    text_tokens: int
    wan_decoder: bool


def sizes_of(parts: Mapping[str, Path], config: ModelConfig) -> Sizes:
    """Sizes read off the files of a model; ValueError names one that is damaged."""
    path = parts["transformer"] / "config.json"
    wan, own = read_json(path), read_json(parts["vae"] / "config.json")
    weights = {part: _weights(parts[part]) for part in ("transformer", "text_encoder", "vae")}
    try:
        return _sizes_of(weights, config, wan, own.get("_class_name") == "AutoencoderKLWan")
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{path} is damaged, get it again ({error!r})") from error


def _sizes_of(weights: Mapping[str, float], config: ModelConfig, wan: Mapping[str, Any], wan_decoder: bool) -> Sizes:
    geometry = config.geometry
    _, patch_y, patch_x = wan["patch_size"]
    rule = policy_from_dict(config.memory).rule(geometry.chunk_latents)
    return Sizes(
        transformer=weights["transformer"],
        text=weights["text_encoder"],
        vae=weights["vae"],
        layers=wan["num_layers"],
        heads=wan["num_attention_heads"],
        head_dim=wan["attention_head_dim"],
        tokens=(geometry.latent_height // patch_y) * (geometry.latent_width // patch_x),
        pixels=geometry.height * geometry.width,
        slots=rule.slots,
        chunk=_left_behind(rule, geometry.chunk_latents),
        text_tokens=config.text_length,
        wan_decoder=wan_decoder,
    )


def sizes_of_student(student: Student) -> Sizes:
    """Sizes of a released student, known without its files."""
    geometry, wan = student.config().geometry, student.wan
    rule = student.policy.rule(geometry.chunk_latents)
    return Sizes(
        transformer=2 * student.parameters,
        text=WAN_TEXT_GB,
        vae=WAN_VAE_GB,
        layers=wan["num_layers"],
        heads=wan["num_attention_heads"],
        head_dim=wan["attention_head_dim"],
        tokens=geometry.latent_height * geometry.latent_width // 4,
        pixels=geometry.height * geometry.width,
        slots=rule.slots,
        chunk=_left_behind(rule, geometry.chunk_latents),
        text_tokens=WAN_TEXT_LENGTH,
        wan_decoder=True,
    )


def with_decoder(sizes: Sizes, decoder: str | None) -> Sizes:
    """The sizes with a decoder of the tiny kind instead of the model's own, if there is one."""
    return sizes if decoder is None else replace(sizes, vae=_TINY_GB, wan_decoder=False)


def _left_behind(rule: Rule, chunk_latents: int) -> int:
    return chunk_latents + (1 if rule.timing == "as_released" else 0)


def estimate(sizes: Sizes, placement: Placement, *, wide: bool = False) -> dict[str, float]:
    """GB on the device by component, with one session; ``wide``: in float32, as on a CPU."""
    scale = 2.0 if wide else 1.0
    width = sizes.heads * sizes.head_dim
    latent = scale * 2 * 2 * sizes.layers * sizes.tokens * width / 1e9
    prompts = scale * _PROMPTS_KEPT * 2 * 2 * sizes.layers * sizes.text_tokens * width / 1e9
    pixels = sizes.pixels / _REFERENCE_PIXELS
    decode = _WAN_DECODE if sizes.wan_decoder else _TINY_DECODE
    activations = scale * _ACTIVATIONS * pixels * width / _REFERENCE_WIDTH + sizes.chunk * latent + prompts
    text = sizes.text * _factor(placement.text, wide)
    if placement.text_on_cpu:
        text = 0.0
    elif placement.text_offload:
        text = max(0.0, text - activations)  # it has gone when the first pass begins
    return {
        "transformer": sizes.transformer * _factor(placement.transformer, wide),
        "text": text,
        "vae": scale * (sizes.vae + pixels * decode),
        "memory": sizes.slots * (latent if not placement.kv_fp8 else latent / (4 if wide else 2)),
        "workspace": (sizes.slots + 1) * latent / (sizes.layers if placement.lean else 1),
        "activations": activations,
    }


def choose(name: str, sizes: Sizes, gigabytes: float, *, device: str = "cuda", wide: bool = False) -> Placement:
    """The best placement that fits into ``gigabytes`` of ``device``.

    Raises:
        ValueError: not even the smallest does.
    """
    ladder = [placement for placement in LADDER if device != "cpu" or not placement.text_on_cpu]
    for placement in ladder:
        need = sum(estimate(sizes, placement, wide=wide).values())
        if need <= gigabytes:
            return placement
    raise ValueError(
        f"{name} needs at least {need:.1f} GB on {device}, {gigabytes:.1f} GB are free: close other programs, "
        "decode with --decoder (taehv weights), or choose another model"
    )


def check_fits(
    name: str, sizes: Sizes, placement: Placement, gigabytes: float, *, device: str = "cuda", wide: bool = False
) -> None:
    """Raise ValueError if ``placement`` does not fit, with what would."""
    needs = estimate(sizes, placement, wide=wide)
    if sum(needs.values()) > gigabytes:
        raise ValueError(
            f"{name} with quant {placement.label} needs {sum(needs.values()):.1f} GB on {device} ({listed(needs)}), "
            f"{gigabytes:.1f} GB are free: choose --quant auto or --vram {gigabytes:.0f}"
        )


def listed(needs: Mapping[str, float]) -> str:
    """An estimate in words."""
    return ", ".join(f"{part} {need:.1f}" for part, need in needs.items())


def _weights(folder: Path) -> float:
    """GB of the weights of a part in bfloat16."""
    return sum(_numbers(file) for file in folder.glob("*.safetensors")) * 2 / 1e9


def _numbers(file: Path) -> int:
    try:
        with open(file, "rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{file} is damaged or truncated, get it again ({error})") from error


def _factor(scheme: str, wide: bool) -> float:
    return 2.0 if wide and scheme == "none" else SCHEMES[scheme].bytes_per_weight / 2
