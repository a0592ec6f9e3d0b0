"""What model somebody wants, and how it should be put on the machine."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Wish:
    """What ``load_engine`` takes, checked by it and not here.

    Attributes:
        model: folder or file of a checkpoint, name of a released student (downloaded and converted at the first time),
            or None for the embedded model.
        device: "cpu", "cuda", ... ; None takes a GPU where there is one.
        dtype: "float32" or "bfloat16" for the transformer; None takes what the device runs best.
        quant: "none", "int8", "nf4", "fp8", a choice per component ("transformer=int8,text=nf4,kv=fp8,lean"), or
            "auto", the best that fits the card.
        vram: gigabytes of the card to use, all that are free by default.
        threads: CPU threads of an operation (of the whole process); None leaves half of the cores for decoding.
        decoder: file of taehv weights (taew2_1) to decode with instead of the model's own autoencoder.
        lora: file of a LoRA, put beside the weights; ``lora_scale`` times ``lora_alpha`` / rank is its strength, and
            None takes an alpha equal to the rank. ``python -m cf_app convert --lora`` merges one instead.
        random_weights: a released student at full size without its weights, to measure; ``decoder`` is "wan" or "tiny".
    """

    model: str | Path | None = None
    device: str | None = None
    dtype: str | None = None
    quant: str = "auto"
    vram: float | None = None
    threads: int | None = None
    decoder: str | None = None
    lora: str | Path | None = None
    lora_scale: float = 1.0
    lora_alpha: float | None = None
    random_weights: bool = False

    @classmethod
    def told(cls, options: argparse.Namespace) -> Wish:
        """From a command line: the options that have the name of an attribute; what it does not have stays unsaid."""
        said = vars(options)
        return cls(**{field.name: said[field.name] for field in fields(cls) if field.name in said})
