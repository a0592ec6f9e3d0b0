"""Loads a model into an engine. Every error says in one line which file is wrong and what to do.

A model folder holds ``cf_config.json`` (``config.ModelConfig``) and, as diffusers and transformers write them,
``transformer/``, ``vae/``, ``text_encoder/``, ``tokenizer/`` and ``scheduler/``. The embedded model in ``weights/`` has
all of them; a converted released student has its transformer, and the rest comes from the base model's repository.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from cf_app import convert, hub
from cf_app.config import ModelConfig
from cf_app.engine.engine import Engine
from cf_app.loading import load_decoder, load_module, load_tokenizer
from cf_app.model import no_progress_bars
from cf_app.model.causal_wan import WanTransformer3DModel
from cf_app.model.quantize import check_scheme, quantize_linears
from cf_app.model.text_encoder import TextEncoder, UMT5EncoderModel
from cf_app.placement import Placement, Sizes, check_fits, choose, placement_of, sizes_of, sizes_of_student
from cf_app.students import STUDENTS

EMBEDDED = Path(__file__).resolve().parent.parent / "weights"
CONFIG_FILE = convert.CONFIG_FILE
PARTS = ("transformer", "vae", "text_encoder", "tokenizer")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_engine(
    model: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quant: str = "auto",
    vram: float | None = None,
    threads: int | None = None,
    decoder: str | None = None,
    random_weights: bool = False,
) -> Engine:
    """See ``cf_app.load``."""
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    if quant != "auto":
        placement_of(quant)
    set_threads(threads, place)
    if random_weights:
        from cf_app.random_weights import random_engine, student_named

        student = student_named(str(model))
        placement = pick_placement(student.name, lambda: sizes_of_student(student), place, quant, vram)
        return random_engine(student, place, kind, placement, decoder or "wan")
    folder = find_folder(model)
    config = read_config(folder)
    parts = find_parts(folder, config)
    placement = pick_placement(config.name, lambda: sizes_of(parts, config), place, quant, vram)
    return load_parts(config, parts, place, kind, placement, decoder)




def find_folder(model: str | Path | None) -> Path:
    """The folder of a model: the embedded one, a path, or that of a released student or a checkpoint file.

    The latter are converted at the first time, and downloaded before if need be.

    Raises:
        ValueError: there is no such model, or it can not be had now.
    """
    if model is None:
        if not (EMBEDDED / CONFIG_FILE).is_file():
            raise ValueError(f"the embedded model is missing: expected it in {EMBEDDED}, get the repository again")
        return EMBEDDED
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if str(model) in STUDENTS:
        return convert.released_folder(STUDENTS[str(model)])
    if path.is_file():
        return convert.file_folder(path)
    raise ValueError(
        f"model is {str(model)!r}: no file or folder of that path and no model of that name; "
        f"known are {', '.join(STUDENTS)}"
    )


def read_config(folder: Path) -> ModelConfig:
    """``cf_config.json`` of a model folder; ValueError if it is missing or damaged."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing: {folder} is no model folder of this app")
    try:
        return ModelConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}), get it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def find_parts(folder: Path, config: ModelConfig) -> dict[str, Path]:
    """Where each part is: in the folder, or in the base model's repository (downloaded if need be)."""
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing and (config.base is None or "transformer" in missing):
        raise ValueError(f"{folder / missing[0]} is missing: the model folder is incomplete, get it again")
    base = hub.download_parts(config.base, missing) if missing and config.base is not None else folder
    return {part: (base if part in missing else folder) / part for part in PARTS}


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


def pick_placement(
    name: str, sizes: Callable[[], Sizes], device: torch.device, quant: str, vram: float | None
) -> Placement:
    """What is asked for, or the best that fits the card (or ``vram`` GB of it).

    Raises:
        ValueError: it does not fit, or a scheme can not run here.
    """
    if vram is not None and not vram > 0:
        raise ValueError(f"vram is {vram!r}, expected gigabytes above 0")
    free = vram
    if free is None and device.type == "cuda":
        free = 0.95 * torch.cuda.mem_get_info(device)[0] / 1e9
    if quant == "auto":
        placement = Placement() if free is None else choose(name, sizes(), free)
    else:
        placement = placement_of(quant)
        if free is not None:
            check_fits(name, sizes(), placement, free)
    for scheme in (placement.transformer, placement.text):
        check_scheme(scheme, device)
    return placement


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


def decoder_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """bfloat16 on CPUs that multiply it (twice as fast, 63 dB from float32), float32 on others; else ``dtype``."""
    if device.type != "cpu":
        return dtype
    try:
        fast = bool(torch.cpu.get_capabilities()["avx512_bf16"])
    except (AttributeError, KeyError):  # older PyTorch, other processors
        fast = False
    return torch.bfloat16 if fast else torch.float32


def load_parts(
    config: ModelConfig,
    parts: dict[str, Path],
    device: torch.device,
    dtype: torch.dtype,
    placement: Placement,
    decoder: str | None = None,
) -> Engine:
    """An engine of parts on disk. ``decoder`` is a file of taehv weights to decode with instead of the model's own.

    Raises:
        ValueError: a part is damaged, does not fit the others, or there is too little memory.
    """
    no_progress_bars()
    try:
        transformer = load_module(WanTransformer3DModel, parts["transformer"], dtype)
        quantize_linears(transformer.blocks, placement.transformer, device)
        transformer.to(device)
        vae = load_decoder(parts["vae"] if decoder is None else Path(decoder), device, decoder_dtype(device, dtype))
        text_device = torch.device("cpu") if placement.text_on_cpu else device
        encoder = load_module(UMT5EncoderModel, parts["text_encoder"], dtype)
        # T5 casts what goes into "wo" to the type of its weights, which packed 4-bit numbers do not have.
        quantize_linears(encoder.encoder.block, placement.text, text_device, skip=("wo",))
        encoder.to(text_device)
        text = TextEncoder(encoder, load_tokenizer(parts["tokenizer"]), config.text_length, device, dtype)
        kv_stored = torch.float8_e4m3fn if placement.kv_fp8 else None
        return Engine(
            config,
            transformer,
            vae,
            text,
            quantization=placement.label,
            kv_stored=kv_stored,
            lean=placement.lean,
        )
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{config.name} does not fit on {device}: close other programs, or choose --quant int8, nf4 or --vram"
        ) from error
