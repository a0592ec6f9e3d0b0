"""Checkpoints of the released students: from their original key layout to diffusers' WanTransformer3DModel.

Known wrappings: "generator" or "generator_ema" (Self-Forcing, Causal-Forcing, Context Forcing), "model", a flat
dictionary; keys with the prefix "model." and the wrappers' names of FSDP, activation checkpointing and torch.compile;
LoRA as peft writes it under "generator_lora" (LongLive). A mismatch of keys or shapes is an error, never a silent
partial load.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

State = dict[str, Tensor]
WAN_HEAD_DIM = 128
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_PREFIXES = ("generator.", "model.diffusion_model.", "model.")
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\.self_attn\.", ".attn1."),
        (r"\.cross_attn\.", ".attn2."),
        (r"(attn[12])\.([qkv])\.", r"\1.to_\2."),
        (r"(attn[12])\.o\.", r"\1.to_out.0."),
        (r"\.ffn\.0\.", ".ffn.net.0.proj."),
        (r"\.ffn\.2\.", ".ffn.net.2."),
        # Wan numbers the norms by layer order of its code, diffusers by order of use.
        (r"^(blocks\.\d+)\.norm2\.", r"\1.norm_swap."),
        (r"^(blocks\.\d+)\.norm3\.", r"\1.norm2."),
        (r"^(blocks\.\d+)\.norm_swap\.", r"\1.norm3."),
        (r"^(blocks\.\d+)\.modulation$", r"\1.scale_shift_table"),
        (r"^head\.modulation$", "scale_shift_table"),
        (r"^head\.head\.", "proj_out."),
        (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
        (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
        (r"^time_projection\.1\.", "condition_embedder.time_proj."),
        (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
        (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    )
)


def read_file(path: Path) -> dict[str, object]:
    """What a .safetensors, .pt, .pth or .ckpt file holds, on the CPU. Pickles are read with ``weights_only=True``.

    Raises:
        ValueError: the file is missing, damaged, truncated, or holds code.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist, expected a checkpoint file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged or truncated, download it again ({_first_line(error)})") from error
    except Exception as error:  # unpickling raises whatever it likes
        raise ValueError(f"{path} is no file of plain tensors, expected a checkpoint ({_first_line(error)})") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, expected a dictionary of tensors")
    return loaded


def student_state(content: Mapping[str, object], *, ema: bool = True) -> State:
    """The student's tensors with plain original names.

    Args:
        ema: take "generator_ema" where there is one; else "generator".

    Raises:
        ValueError: there is no student in the file.
    """
    order = ("generator_ema", "generator") if ema else ("generator", "generator_ema")
    for key in (*order, "model", "state_dict"):
        inner = content.get(key)
        if isinstance(inner, Mapping):
            return _plain(inner)
    return _plain(content)


def lora_state(content: Mapping[str, object]) -> State:
    """A LoRA's tensors: "<layer>.lora_A.weight" and "<layer>.lora_B.weight" with original layer names."""
    inner = content.get("generator_lora", content)
    if not isinstance(inner, Mapping):
        raise ValueError("generator_lora is not a dictionary of tensors")
    prefix = "base_model.model."
    state = {_stripped(key.removeprefix(prefix)).replace(".default.", "."): value for key, value in inner.items()}
    if not any(key.endswith(".lora_A.weight") for key in state):
        raise ValueError(f"no LoRA in the file, expected keys like <layer>.lora_A.weight, found {_few(state)}")
    return state


def merge_lora(state: State, lora: State, *, scale: float = 1.0, alpha: float | None = None) -> State:
    """Add scale * (alpha / rank) * B A to the weights. ``alpha`` None: it equals the rank.

    Raises:
        ValueError: the LoRA adapts layers that the model does not have, or other sizes.
    """
    merged = dict(state)
    for layer, down, up in lora_layers(lora):
        weight = merged.get(f"{layer}.weight")
        if weight is None or (up.shape[0], down.shape[1]) != tuple(weight.shape):
            raise ValueError(f"the LoRA does not fit the model: layer {layer} is missing or has another size")
        rank = down.shape[0]
        factor = scale * (rank if alpha is None else alpha) / rank
        merged[f"{layer}.weight"] = (weight.float() + factor * (up.float() @ down.float())).to(weight.dtype)
    return merged


def lora_layers(lora: State) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(original layer name, A [rank, in], B [out, rank]); ValueError if a layer has only one of them."""
    for key, down in lora.items():
        if key.endswith(".lora_A.weight"):
            layer = key.removesuffix(".lora_A.weight")
            up = lora.get(f"{layer}.lora_B.weight")
            if up is None or up.shape[1] != down.shape[0]:
                raise ValueError(f"the LoRA is damaged: lora_B of {layer} is missing or has another rank than lora_A")
            yield layer, down, up


def transformer_config(state: Mapping[str, Tensor], head_dim: int = WAN_HEAD_DIM) -> dict[str, object]:
    """Sizes of diffusers' transformer, read off the tensors' shapes; ``head_dim`` shows in none of them."""
    try:
        patch = state["patch_embedding.weight"]
        dim = patch.shape[0]
        layers = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
        return {
            "patch_size": tuple(patch.shape[2:]),
            "num_attention_heads": dim // head_dim,
            "attention_head_dim": head_dim,
            "in_channels": patch.shape[1],
            "out_channels": state["head.head.weight"].shape[0] // (patch.shape[2] * patch.shape[3] * patch.shape[4]),
            "text_dim": state["text_embedding.0.weight"].shape[1],
            "freq_dim": state["time_embedding.0.weight"].shape[1],
            "ffn_dim": state["blocks.0.ffn.0.weight"].shape[0],
            "num_layers": layers,
            "cross_attn_norm": "blocks.0.norm3.weight" in state,
        }
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"this is no Wan transformer ({_first_line(error)}), found {_few(state)}") from error


def build_transformer(
    state: Mapping[str, Tensor], head_dim: int = WAN_HEAD_DIM, dtype: torch.dtype = torch.float32
) -> WanTransformer3DModel:
    """diffusers' transformer with the weights of ``state`` (original names), on the CPU.

    Raises:
        ValueError: keys are missing, left over, or have other shapes; the first few are named.
    """
    with init_empty_weights(include_buffers=False):  # the weights come from the state: 14B would not fit twice
        transformer = WanTransformer3DModel(**transformer_config(state, head_dim))
    renamed = {diffusers_name(key): value.to(dtype) for key, value in state.items()}
    expected = {key: tuple(value.shape) for key, value in transformer.state_dict().items()}
    wrong = [f"{key} is missing" for key in expected if key not in renamed]
    wrong += [f"{key} is left over" for key in renamed if key not in expected]
    wrong += [
        f"{key} has shape {tuple(value.shape)}, expected {expected[key]}"
        for key, value in renamed.items()
        if key in expected and tuple(value.shape) != expected[key]
    ]
    if wrong:
        raise ValueError(f"the checkpoint does not fit a Wan transformer: {_few(wrong)}")
    transformer.load_state_dict(renamed, strict=True, assign=True)
    return transformer.eval()


def diffusers_name(key: str) -> str:
    """diffusers' name of an original parameter."""
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def _plain(state: Mapping[str, object]) -> State:
    plain = {_stripped(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if "patch_embedding.weight" not in plain:
        raise ValueError(f"no transformer in the file, expected keys like patch_embedding.weight, found {_few(state)}")
    return plain


def _stripped(key: str) -> str:
    for wrapper in _WRAPPERS:
        key = key.replace(wrapper, "")
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _few(items: Iterable[str], count: int = 5) -> str:
    listed = [str(item) for item in items]
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return "; ".join(listed[:count]) + more if listed else "nothing"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
