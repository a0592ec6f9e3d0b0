"""What goes where and how small: a choice per component, what it takes on a GPU, and the best that fits a card.

Estimates are arithmetic on files and shapes, made before anything is loaded. Units: GB = 1e9 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cf_app.config import ModelConfig
from cf_app.memory.policy import policy_from_dict
from cf_app.model.quantize import SCHEMES, scheme_named
from cf_app.students import WAN_TEXT_GB, WAN_VAE_GB, Student

_ACTIVATIONS = 1.2  # one pass over a chunk at 832x480 in bfloat16, and PyTorch's own room
_WAN_DECODE = 2.6  # activations of Wan's decoder at 832x480
_TINY_DECODE = 0.5
_REFERENCE_PIXELS, _REFERENCE_WIDTH = 832 * 480, 1536


@dataclass(frozen=True)
class Placement:
    """A choice per component.

    Attributes:
        transformer, text: quantization schemes.
        text_on_cpu: the text encoder stays in main memory: slower after a change of prompt, no room on the card.
        kv_fp8: sessions keep keys and values in 8 bits.
        lean: one workspace for all layers.
    """

    transformer: str = "none"
    text: str = "none"
    text_on_cpu: bool = False
    kv_fp8: bool = False
    lean: bool = False

    def __post_init__(self) -> None:
        scheme_named(self.transformer)
        scheme_named(self.text)

    @property
    def label(self) -> str:
        """For display: "none", "int8", or what differs by component."""
        parts = [self.transformer]
        if self.text_on_cpu:
            parts.append("text on CPU")
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
        elif (name, value) == ("lean", ""):
            chosen = replace(chosen, lean=True)
        else:
            raise ValueError(
                f"quant is {quant!r}, expected auto, one of {', '.join(SCHEMES)}, or a choice like "
                "transformer=int8,text=nf4,kv=fp8,lean"
            )
    return chosen


@dataclass(frozen=True)
class Sizes:
    """What an estimate needs to know of a model. Weights in GB as bfloat16."""

    transformer: float
    text: float
    vae: float
    layers: int
    heads: int
    head_dim: int
    tokens: int
    pixels: int
    slots: int
    wan_decoder: bool


def sizes_of(parts: Mapping[str, Path], config: ModelConfig) -> Sizes:
    """Sizes read off the files of a model; ValueError if one is damaged."""
    try:
        return _sizes_of(parts, config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the files in {parts['transformer'].parent} are damaged, get them again ({error})") from error


def _sizes_of(parts: Mapping[str, Path], config: ModelConfig) -> Sizes:
    geometry, wan = config.geometry, json.loads((parts["transformer"] / "config.json").read_text(encoding="utf-8"))
    own = json.loads((parts["vae"] / "config.json").read_text(encoding="utf-8"))
    _, patch_y, patch_x = wan["patch_size"]
    return Sizes(
        transformer=_weights(parts["transformer"]),
        text=_weights(parts["text_encoder"]),
        vae=_weights(parts["vae"]),
        layers=wan["num_layers"],
        heads=wan["num_attention_heads"],
        head_dim=wan["attention_head_dim"],
        tokens=(geometry.latent_height // patch_y) * (geometry.latent_width // patch_x),
        pixels=geometry.height * geometry.width,
        slots=policy_from_dict(config.memory).rule(geometry.chunk_latents).slots,
        wan_decoder=own.get("_class_name") == "AutoencoderKLWan",
    )


def sizes_of_student(student: Student) -> Sizes:
    """Sizes of a released student, known without its files."""
    geometry, wan = student.config().geometry, student.wan
    return Sizes(
        transformer=2 * student.parameters,
        text=WAN_TEXT_GB,
        vae=WAN_VAE_GB,
        layers=wan["num_layers"],
        heads=wan["num_attention_heads"],
        head_dim=wan["attention_head_dim"],
        tokens=geometry.latent_height * geometry.latent_width // 4,
        pixels=geometry.height * geometry.width,
        slots=student.policy.rule(geometry.chunk_latents).slots,
        wan_decoder=True,
    )


def estimate(sizes: Sizes, placement: Placement) -> dict[str, float]:
    """GB on the card by component, with one session."""
    width = sizes.heads * sizes.head_dim
    memory = sizes.slots * 2 * 2 * sizes.layers * sizes.tokens * width / 1e9
    pixels = sizes.pixels / _REFERENCE_PIXELS
    return {
        "transformer": sizes.transformer * _factor(placement.transformer),
        "text": 0.0 if placement.text_on_cpu else sizes.text * _factor(placement.text),
        "vae": sizes.vae + pixels * (_WAN_DECODE if sizes.wan_decoder else _TINY_DECODE),
        "memory": memory * (0.5 if placement.kv_fp8 else 1.0),
        "workspace": memory / (sizes.layers if placement.lean else 1),
        "activations": _ACTIVATIONS * pixels * width / _REFERENCE_WIDTH,
    }


def choose(name: str, sizes: Sizes, gigabytes: float) -> Placement:
    """The best placement that fits.

    Raises:
        ValueError: not even the smallest does.
    """
    for placement in LADDER:
        need = sum(estimate(sizes, placement).values())
        if need <= gigabytes:
            return placement
    raise ValueError(
        f"{name} needs at least {need:.1f} GB on the GPU, {gigabytes:.1f} GB are free: close other programs, "
        "choose a smaller memory (--policy sink_window), or another model"
    )


def check_fits(name: str, sizes: Sizes, placement: Placement, gigabytes: float) -> None:
    """Raise ValueError if ``placement`` does not fit, with what would."""
    needs = estimate(sizes, placement)
    if sum(needs.values()) > gigabytes:
        listed = ", ".join(f"{part} {need:.1f}" for part, need in needs.items())
        raise ValueError(
            f"{name} with quant {placement.label} needs {sum(needs.values()):.1f} GB on the GPU ({listed}), "
            f"{gigabytes:.1f} GB are free: choose --quant auto or --vram {gigabytes:.0f}"
        )


def _weights(folder: Path) -> float:
    """GB of the weights of a part in bfloat16."""
    total = 0.0
    for file in folder.glob("*.safetensors"):
        with open(file, "rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                numbers = 1
                for size in entry["shape"]:
                    numbers *= size
                total += 2 * numbers
    return total / 1e9


def _factor(scheme: str) -> float:
    return SCHEMES[scheme].bytes_per_weight / 2
