"""Loads a model into an engine. Every error says in one line which file is wrong and what to do.

A model folder holds ``cf_config.json`` (``config.ModelConfig``) and, as diffusers and transformers write them,
``transformer/``, ``vae/``, ``text_encoder/``, ``tokenizer/`` and ``scheduler/``. The embedded model in ``weights/`` has
all of them; a converted released student has its transformer, and the rest comes from the base model's repository.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cf_app import convert, hub
from cf_app.config import ModelConfig
from cf_app.engine.engine import Engine
from cf_app.loading import Autoencoder, load_decoder, load_module, load_tokenizer
from cf_app.machine import decoder_dtype, pick_device, pick_dtype, set_threads
from cf_app.model import no_progress_bars
from cf_app.model.causal_wan import WanTransformer3DModel
from cf_app.model.checkpoints import lora_state, read_file
from cf_app.model.lora import attach_lora
from cf_app.model.quantize import quantize_linears
from cf_app.model.text_encoder import TextEncoder, UMT5EncoderModel
from cf_app.placement import Placement, Sizes, estimate, listed, placement_of, sizes_of, sizes_of_student, with_decoder
from cf_app.room import BASE_FOLDERS, check_student, pick_placement
from cf_app.students import STUDENTS, WAN_BASE, WAN_BASE_REVISION
from cf_app.wish import Wish

EMBEDDED = Path(__file__).resolve().parent.parent / "weights"
CONFIG_FILE = convert.CONFIG_FILE
PARTS = ("transformer", "vae", "text_encoder", "tokenizer")


def load_engine(
    model: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quant: str = "auto",
    vram: float | None = None,
    threads: int | None = None,
    decoder: str | None = None,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    lora_alpha: float | None = None,
    random_weights: bool = False,
    tell: hub.Tell = hub.silent,
) -> Engine:
    """Load a model and return the engine that runs it.

    Args:
        tell: hears how far downloads are and what has been chosen.

    The others are the attributes of ``cf_app.wish.Wish``, described there.

    Raises:
        ValueError: as ``load``.
    """
    wish = Wish(model, device, dtype, quant, vram, threads, decoder, lora, lora_scale, lora_alpha, random_weights)
    return load(wish, tell)


def load(wish: Wish, tell: hub.Tell = hub.silent) -> Engine:
    """The engine that somebody wishes for.

    Raises:
        ValueError: unknown model, missing or damaged files, unknown scheme, too little room, a LoRA for another model;
            one line that says what to do.
    """
    place = pick_device(wish.device)
    kind = pick_dtype(wish.dtype, place)
    if wish.quant != "auto":
        placement_of(wish.quant)
    set_threads(wish.threads, place)
    adapter = None if wish.lora is None else Adapter(Path(wish.lora), wish.lora_scale, wish.lora_alpha)
    if wish.random_weights:
        return _random(wish, place, kind, tell)
    _check_before_download(wish, place, kind)
    folder = find_folder(wish.model, tell)
    config = read_config(folder)
    parts = find_parts(folder, config, tell)

    def sizes() -> Sizes:
        return with_decoder(sizes_of(parts, config), wish.decoder)

    wide = kind == torch.float32
    placement, free = pick_placement(config.name, sizes, place, wish.quant, wish.vram, wide=wide)
    if place.type != "cpu" or wish.vram is not None:
        tell(hub.Progress(_choice(config.name, place, placement, estimate(sizes(), placement, wide=wide), free)))
    return load_parts(config, parts, place, kind, placement, wish.decoder, adapter)


@dataclass(frozen=True)
class Adapter:
    """A LoRA file and how strong it is."""

    path: Path
    scale: float = 1.0
    alpha: float | None = None


def _random(wish: Wish, place: torch.device, kind: torch.dtype, tell: hub.Tell) -> Engine:
    from cf_app.random_weights import check_decoder, random_engine, student_named

    student = student_named("" if wish.model is None else str(wish.model))
    kind_of_decoder = check_decoder(wish.decoder or "wan")
    sizes = replace(sizes_of_student(student), text=0.0)  # its text states are random, too
    sizes = with_decoder(sizes, None if kind_of_decoder == "wan" else kind_of_decoder)
    wide = kind == torch.float32
    placement, free = pick_placement(student.name, lambda: sizes, place, wish.quant, wish.vram, wide=wide)
    tell(hub.Progress(_choice(student.name, place, placement, estimate(sizes, placement, wide=wide), free)))
    return random_engine(student, place, kind, placement, kind_of_decoder)


def _choice(
    name: str, place: torch.device, placement: Placement, needs: Mapping[str, float], free: float | None
) -> str:
    room = "" if free is None else f" of {free:.1f}"
    return f"{name} on {place}: quant {placement.label}, about {sum(needs.values()):.1f}{room} GB ({listed(needs)})"


def to_be_fetched(model: str | Path | None) -> bool:
    """Whether loading it would download something."""
    if model is None or str(model) not in STUDENTS or Path(model).is_dir():
        return False
    there = hub.local(WAN_BASE, BASE_FOLDERS, WAN_BASE_REVISION)
    return there is None or convert.converted(STUDENTS[str(model)]) is None


def _check_before_download(wish: Wish, place: torch.device, kind: torch.dtype) -> None:
    """Everything that can be known to go wrong before gigabytes are fetched."""
    if wish.decoder is not None and not Path(wish.decoder).is_file():
        raise ValueError(f"decoder is {wish.decoder!r}, expected a file of taehv weights (taew2_1.pth)")
    name = str(wish.model)
    if wish.model is None or name not in STUDENTS or Path(name).is_dir():
        return
    student = STUDENTS[name]
    sizes = with_decoder(sizes_of_student(student), wish.decoder)
    pick_placement(name, lambda: sizes, place, wish.quant, wish.vram, wide=kind == torch.float32)
    if to_be_fetched(name):
        check_student(student, place)


def find_folder(model: str | Path | None, tell: hub.Tell = hub.silent) -> Path:
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
        return convert.released_folder(STUDENTS[str(model)], tell)
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


def find_parts(folder: Path, config: ModelConfig, tell: hub.Tell = hub.silent) -> dict[str, Path]:
    """Where each part is: in the folder, or in the base model's repository (downloaded if need be)."""
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing and (config.base is None or "transformer" in missing):
        raise ValueError(f"{folder / missing[0]} is missing: the model folder is incomplete, get it again")
    base = folder
    if missing and config.base is not None:
        pinned = WAN_BASE_REVISION if config.base == WAN_BASE else None
        base = hub.download(config.base, [f"{part}/" for part in missing], pinned=pinned, tell=tell)
    return {part: (base if part in missing else folder) / part for part in PARTS}


def load_parts(
    config: ModelConfig,
    parts: dict[str, Path],
    device: torch.device,
    dtype: torch.dtype,
    placement: Placement,
    decoder: str | None = None,
    adapter: Adapter | None = None,
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
        if adapter is not None:
            with convert.naming(adapter.path):
                state = lora_state(read_file(adapter.path))
                attach_lora(transformer, state, scale=adapter.scale, alpha=adapter.alpha)
        vae = load_decoder(parts["vae"] if decoder is None else Path(decoder), device, decoder_dtype(device, dtype))
        text = _load_text(config, parts, device, dtype, placement)
        check_parts(config, transformer, vae, text.encoder)
        return Engine(
            config,
            transformer,
            vae,
            text,
            quantization=placement.label,
            kv_stored=torch.float8_e4m3fn if placement.kv_fp8 else None,
            lean=placement.lean,
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ValueError(
            f"{config.name} does not fit on {device}: close other programs, or choose --quant int8, nf4 or --vram"
        ) from error


def _load_text(
    config: ModelConfig, parts: dict[str, Path], device: torch.device, dtype: torch.dtype, placement: Placement
) -> TextEncoder:
    home = torch.device("cpu") if placement.text_on_cpu or placement.text_offload else device
    encoder = load_module(UMT5EncoderModel, parts["text_encoder"], dtype)
    # T5 casts what goes into "wo" to the type of its weights, which packed 4-bit numbers do not have.
    quantize_linears(encoder.encoder.block, placement.text, home, skip=("wo",))
    encoder.to(home)
    tokenizer = load_tokenizer(parts["tokenizer"])
    return TextEncoder(encoder, tokenizer, config.text_length, device, dtype, visits=placement.text_offload)


def check_parts(
    config: ModelConfig, transformer: WanTransformer3DModel, vae: Autoencoder, encoder: UMT5EncoderModel
) -> None:
    """Raise ValueError if parts belong to different models: before anything is generated, not in the middle of it."""
    geometry = config.geometry
    pairs = {
        "text states (transformer, text_encoder)": (transformer.config.text_dim, encoder.config.d_model),
        "pixels of a latent cell (cf_config.json, vae)": (geometry.spatial_scale, vae.spatial_scale),
        "pictures of a latent frame (cf_config.json, vae)": (geometry.temporal_scale, vae.temporal_scale),
    }
    for what, (first, second) in pairs.items():
        if first != second:
            raise ValueError(f"{what}: {first} and {second} do not fit, the files belong to different models")
