"""Released students at full size with random parameters: no download; right for speed and memory, not for looks."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from cf_app.engine.engine import Engine
from cf_app.engine.parts import VideoAutoencoder
from cf_app.model.causal_wan import WanTransformer3DModel
from cf_app.model.quantize import quantize_linears
from cf_app.model.vae import TinyVideoAutoencoder
from cf_app.model.wan_vae import AutoencoderKLWan, WanVideoAutoencoder
from cf_app.placement import Placement
from cf_app.students import STUDENTS, WAN_TEXT_LENGTH, Student

DECODERS = ("wan", "tiny")


class RandomText:
    """Text states that depend on the prompt and on nothing else, in the place of an 11 GB encoder."""

    def __init__(self, length: int, dim: int, device: torch.device, dtype: torch.dtype) -> None:
        self.length, self.dim, self.device, self.dtype = length, dim, device, dtype

    def encode(self, prompt: str) -> Tensor:
        """[1, length, dim], zero rows after one row a word."""
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
        states = torch.randn(1, self.length, self.dim, generator=torch.Generator().manual_seed(seed))
        states[:, len(prompt.split()) :] = 0
        return states.to(self.device, self.dtype)


def student_named(name: str, why: str = "random weights are for released students") -> Student:
    """The released student; ValueError, which begins with ``why``, if there is none of that name."""
    if name not in STUDENTS:
        raise ValueError(f"{why}, {name!r} is none of {', '.join(STUDENTS)}")
    return STUDENTS[name]


def check_decoder(name: str) -> str:
    """The kind of decoder; ValueError if there is none of that name."""
    if name not in DECODERS:
        raise ValueError(f"decoder is {name!r}, expected one of {', '.join(DECODERS)} with random weights")
    return name


def random_engine(
    student: Student, device: torch.device, dtype: torch.dtype, placement: Placement, decoder: str = "wan"
) -> Engine:
    """An engine of the sizes of a released student.

    Args:
        decoder: "wan", or "tiny" for the taehv kind.

    Raises:
        ValueError: no decoder of that name, or too little memory.
    """
    check_decoder(decoder)
    try:
        transformer = random_transformer(student, device, dtype)
        quantize_linears(transformer.blocks, placement.transformer, device)
        text = RandomText(WAN_TEXT_LENGTH, student.wan["text_dim"], device, dtype)
        kv_stored = torch.float8_e4m3fn if placement.kv_fp8 else None
        config = replace(student.config(), name=f"{student.name} (random)", title=f"{student.title}, random weights")
        return Engine(
            config,
            transformer,
            random_decoder(decoder, device, dtype),
            text,
            quantization=placement.label,
            kv_stored=kv_stored,
            lean=placement.lean,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ValueError(f"{student.name} does not fit on {device}: choose --quant int8, nf4 or --vram") from error


def random_transformer(student: Student, device: torch.device, dtype: torch.dtype) -> WanTransformer3DModel:
    """Made where it will run and in its type from the start: 14B parameters would not fit twice."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            transformer = WanTransformer3DModel(**student.wan)
    finally:
        torch.set_default_dtype(before)
    return transformer.eval()


def random_decoder(kind: str, device: torch.device, dtype: torch.dtype) -> VideoAutoencoder:
    """Wan's own autoencoder, or the tiny one at the sizes of its published weights for Wan."""
    with torch.device(device):
        if kind == "wan":
            return WanVideoAutoencoder(AutoencoderKLWan().to(dtype))
        return TinyVideoAutoencoder().to(dtype).to(memory_format=torch.channels_last).eval()
