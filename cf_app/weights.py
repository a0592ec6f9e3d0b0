"""Loads a model folder into an engine. Every error says in one line which file is wrong and what to do.

A folder holds ``cf_config.json`` (``config.ModelConfig``) and, as diffusers and transformers write them,
``transformer/``, ``vae/``, ``text_encoder/``, ``tokenizer/`` and ``scheduler/``. The embedded model in ``weights/`` and
converted released students have the same layout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from cf_app.config import ModelConfig
from cf_app.engine.engine import Engine
from cf_app.engine.parts import VideoDecoder
from cf_app.model import no_progress_bars
from cf_app.model.causal_wan import WanTransformer3DModel
from cf_app.model.text_encoder import AutoTokenizer, PreTrainedTokenizerBase, TextEncoder, UMT5EncoderModel
from cf_app.model.vae import TinyVideoAutoencoder

EMBEDDED = Path(__file__).resolve().parent.parent / "weights"
CONFIG_FILE = "cf_config.json"
PARTS = ("transformer", "vae", "text_encoder", "tokenizer")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_engine(
    model: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quant: str = "none",
    threads: int | None = None,
) -> Engine:
    """See ``cf_app.load``."""
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    set_threads(threads, place)
    return load_folder(find_folder(model), place, kind, quant=quant)


def find_folder(model: str | Path | None) -> Path:
    """The folder of a model: the embedded one, or a path.

    Raises:
        ValueError: there is no such folder or model.
    """
    if model is None:
        if not (EMBEDDED / CONFIG_FILE).is_file():
            raise ValueError(f"the embedded model is missing: expected it in {EMBEDDED}, get the repository again")
        return EMBEDDED
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    raise ValueError(f"model is {str(model)!r}: no folder of that path and no model of that name")


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


def decoder_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """bfloat16 on CPUs that multiply it (twice as fast, 63 dB from float32), float32 on others; else ``dtype``."""
    if device.type != "cpu":
        return dtype
    try:
        fast = bool(torch.cpu.get_capabilities()["avx512_bf16"])
    except (AttributeError, KeyError):  # older PyTorch, other processors
        fast = False
    return torch.bfloat16 if fast else torch.float32


def load_folder(folder: Path, device: torch.device, dtype: torch.dtype, *, quant: str = "none") -> Engine:
    """An engine with the model in ``folder``.

    Raises:
        ValueError: a part is missing, damaged, or does not fit the others.
    """
    if quant != "none":
        raise ValueError(f"quant is {quant!r}, expected none")
    config = read_config(folder)
    no_progress_bars()
    transformer = load_module(WanTransformer3DModel, folder / "transformer", dtype).to(device)
    vae = load_decoder(folder / "vae", device, decoder_dtype(device, dtype))
    encoder = load_module(UMT5EncoderModel, folder / "text_encoder", dtype).to(device)
    tokenizer = load_tokenizer(folder / "tokenizer")
    text = TextEncoder(encoder, tokenizer, config.text_length, device, dtype)
    return Engine(config, transformer, vae, text, quantization=quant)


def read_config(folder: Path) -> ModelConfig:
    """``cf_config.json`` of a model folder; ValueError if it or a part is missing or damaged."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing: {folder} is no model folder of this app")
    for part in PARTS:
        if not (folder / part).is_dir():
            raise ValueError(f"{folder / part} is missing: the model folder is incomplete, get it again")
    try:
        return ModelConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}), get it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_decoder(folder: Path, device: torch.device, dtype: torch.dtype) -> VideoDecoder:
    """The autoencoder, of the class that its config names."""
    name = _read_json(folder / "config.json").get("_class_name")
    if name == "TinyVideoAutoencoder":
        vae = load_module(TinyVideoAutoencoder, folder, dtype).to(device)
        return vae.to(memory_format=torch.channels_last)
    raise ValueError(f"{folder / 'config.json'} names the class {name!r}, expected TinyVideoAutoencoder")


def load_module(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A diffusers or transformers module in evaluation mode; keys have to match exactly.

    Raises:
        ValueError: the folder is missing, damaged, or of another architecture.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder / 'config.json'} is missing: the model folder is incomplete, get it again")
    name = {"dtype": dtype} if kind is UMT5EncoderModel else {"torch_dtype": dtype}
    options = {"output_loading_info": True, "local_files_only": True, **name}
    module, info = _explained(lambda: kind.from_pretrained(folder, **options), folder)
    wrong = [str(key) for group in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[group]]
    if wrong:
        raise ValueError(f"{folder} does not fit {kind.__name__}: {_few(wrong)}; the files belong to another model")
    return module.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A fast tokenizer."""
    return _explained(lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True), folder)


def _explained(load: Callable[[], Any], folder: Path) -> Any:
    """What ``load`` gives; whatever a damaged folder makes it raise becomes one line that names the folder."""
    try:
        return load()
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{folder} is missing files or damaged, get it again ({line})") from error


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged, get it again ({error})") from error
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} is damaged, expected an object, get it again")
    return data


def _few(items: Iterable[str], count: int = 4) -> str:
    listed = list(items)
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")
