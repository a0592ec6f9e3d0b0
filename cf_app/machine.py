"""What a model runs on: device, type of numbers, CPU threads."""

from __future__ import annotations

import os
import sys

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str | None) -> torch.device:
    """The device asked for, or a GPU where there is one.

    Raises:
        ValueError: the name is unknown, or this machine has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {device!r}, which this machine does not have; try cpu") from error
    return place


def pick_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """The type asked for; by default float32 on a CPU, where it is the faster one, and bfloat16 elsewhere."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def set_threads(threads: int | None, device: torch.device) -> None:
    """CPU threads of an operation. By default half of the cores on a CPU: the other half is for decoding meanwhile.

    Raises:
        ValueError: fewer than 1.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}, expected at least 1")
    if threads is None and device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        threads = max(1, cores // 2)
    if threads is not None:
        torch.set_num_threads(threads)


def bfloat16_pays(device: torch.device) -> bool:
    """Whether products in bfloat16 are the quicker ones: on a GPU, and (twice as fast) on CPUs with units for them.

    On other CPUs (AVX2 alone) a convolution takes eight times as long as in float32.
    """
    if device.type != "cpu":
        return True
    try:
        return bool(torch.cpu.get_capabilities()["avx512_bf16"])
    except (AttributeError, KeyError):  # older PyTorch, other processors
        return False


def mixed_precision() -> str:
    """What accelerate calls the precision of a training's passes: "bf16" where that pays, else "no" for float32."""
    return "bf16" if bfloat16_pays(pick_device(None)) else "no"


def decoder_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """On a CPU bfloat16 where that pays (63 dB from float32), else float32; elsewhere ``dtype``."""
    if device.type != "cpu":
        return dtype
    return torch.bfloat16 if bfloat16_pays(device) else torch.float32
