"""Single parts of a model from disk, strictly: a key too many, too few or of another shape is an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from cf_app import hub
from cf_app.model.patch_vae import PatchVideoAutoencoder
from cf_app.model.taehv import load_taehv
from cf_app.model.text_encoder import AutoTokenizer, PreTrainedTokenizerBase, UMT5EncoderModel
from cf_app.model.vae import TinyVideoAutoencoder
from cf_app.model.wan_vae import AutoencoderKLWan, WanVideoAutoencoder

Autoencoder = PatchVideoAutoencoder | TinyVideoAutoencoder | WanVideoAutoencoder
_OURS = {kind.__name__: kind for kind in (PatchVideoAutoencoder, TinyVideoAutoencoder)}


def load_decoder(folder: Path, device: torch.device, dtype: torch.dtype) -> Autoencoder:
    """The autoencoder of a folder, of the class that its config names, or a file of taehv weights."""
    if folder.is_file():
        return load_taehv(folder, dtype).to(device, memory_format=torch.channels_last)
    name = read_json(folder / "config.json").get("_class_name")
    if name in _OURS:
        vae: PatchVideoAutoencoder | TinyVideoAutoencoder = load_module(_OURS[name], folder, dtype).to(device)
        return vae.to(memory_format=torch.channels_last)
    if name == "AutoencoderKLWan":
        return WanVideoAutoencoder(load_module(AutoencoderKLWan, folder, dtype).to(device))
    expected = f"{', '.join(_OURS)} or AutoencoderKLWan"
    raise ValueError(f"{folder / 'config.json'} names the class {name!r}, expected {expected}")


def load_module(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A diffusers or transformers module in evaluation mode.

    Raises:
        ValueError: the folder is missing, damaged, or of another architecture.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder / 'config.json'} is missing: the model folder is incomplete, get it again")
    name = {"dtype": dtype} if kind is UMT5EncoderModel else {"torch_dtype": dtype}
    options = {"output_loading_info": True, "local_files_only": True, **name}
    _check_complete(folder)
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
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{folder} is missing files or damaged, {_again(folder)} ({line})") from error


def _check_complete(folder: Path) -> None:
    """Raise ValueError if a file of weights is shorter or longer than its own header says, naming it."""
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(length) if 0 < length <= size else b""
        try:
            ends = [entry["data_offsets"][1] for key, entry in json.loads(header).items() if key != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            expected = -1
        if size != expected:
            raise ValueError(f"{file.resolve()} is damaged or truncated, {_again(folder)}")


def _again(folder: Path) -> str:
    """How to get the files of a part again."""
    home, cache = hub.converted_home().resolve(), Path(hub.constants.HF_HUB_CACHE).resolve()
    if home in folder.resolve().parents:
        return f"delete {folder.resolve().parent} and start again: it is converted again"
    if cache in folder.resolve().parents:
        return "delete this file and start again: it is downloaded again"
    return "get it again"


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file; ValueError where it is missing or damaged."""
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
