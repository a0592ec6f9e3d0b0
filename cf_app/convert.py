"""Original checkpoints become model folders, once; by hand: ``python -m cf_app convert model.pt --out folder``."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from cf_app import hub
from cf_app.config import ModelConfig
from cf_app.memory.policy import POLICIES, policy_to_dict
from cf_app.model.checkpoints import (
    WAN_HEAD_DIM,
    build_transformer,
    lora_state,
    merge_lora,
    read_file,
    student_state,
    transformer_config,
)
from cf_app.students import STUDENTS, Student

CONFIG_FILE = "cf_config.json"
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("checkpoint", type=Path, help="file of a student: .pt or .safetensors in original key names")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--lora", type=Path, help="LoRA to merge")
    parser.add_argument("--alpha", type=float, help="alpha of the LoRA (default: its rank)")
    parser.add_argument("--scale", type=float, default=1.0, help="strength of the LoRA (default: %(default)s)")
    parser.add_argument("--no-ema", action="store_true", help="take the plain weights where the file has both")
    parser.add_argument("--like", choices=list(STUDENTS), default="context-forcing", help="sizes and memory like it")
    parser.add_argument("--policy", choices=list(POLICIES), help="another memory policy")
    parser.add_argument("--head-dim", type=int, default=WAN_HEAD_DIM, help="width of a head (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Convert; ValueError on bad input."""
    if arguments.out.exists():
        raise ValueError(f"--out: {arguments.out} exists already, choose another folder or remove it")
    like = STUDENTS[arguments.like]
    name = arguments.checkpoint.stem
    config = replace(like.config(), name=name, title=name, description=f"Converted from {arguments.checkpoint.name}.")
    if arguments.policy is not None:
        config = replace(config, memory=policy_to_dict(POLICIES[arguments.policy]()))
    convert(
        arguments.checkpoint,
        arguments.out,
        config,
        lora=arguments.lora,
        alpha=arguments.alpha,
        scale=arguments.scale,
        ema=not arguments.no_ema,
        head_dim=arguments.head_dim,
    )
    sys.stdout.write(f"{arguments.out}: ready for --model {arguments.out}\n")
    return 0


def convert(
    checkpoint: Path,
    target: Path,
    config: ModelConfig,
    *,
    lora: Path | None = None,
    alpha: float | None = None,
    scale: float = 1.0,
    ema: bool = True,
    head_dim: int = WAN_HEAD_DIM,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a model folder, complete or not at all. Its other parts come from ``config.base``.

    Raises:
        ValueError: a file is damaged, of another architecture, or the LoRA is for another model.
    """
    state = student_state(read_file(checkpoint), ema=ema)
    if lora is not None:
        state = merge_lora(state, lora_state(read_file(lora)), scale=scale, alpha=alpha)
    channels = transformer_config(state, head_dim)["in_channels"]
    if channels != config.geometry.latent_channels:
        raise ValueError(
            f"{checkpoint} takes {channels} latent channels, expected {config.geometry.latent_channels}: "
            "it is no text-to-video student of this kind"
        )
    transformer = build_transformer(state, head_dim, dtype)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        transformer.save_pretrained(part / "transformer")
        (part / CONFIG_FILE).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        os.replace(part, target)
    except OSError as error:
        raise ValueError(f"{target} can not be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def released_folder(student: Student) -> Path:
    """The converted folder of a released student, downloaded and converted at the first time."""
    target = hub.converted_home() / student.name
    if not (target / CONFIG_FILE).is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        paths = hub.download(student.repository, student.files)
        lora = paths[1] if student.lora is not None else None
        convert(paths[0], target, student.config(), lora=lora, ema=student.ema)
    return target


def file_folder(checkpoint: Path) -> Path:
    """The converted folder of a local checkpoint file, made again when the file changes."""
    about = checkpoint.stat()
    mark = hashlib.sha256(f"{checkpoint.resolve()} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:12]
    target = hub.converted_home() / f"{checkpoint.stem}-{mark}"
    if not (target / CONFIG_FILE).is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        config = STUDENTS["context-forcing"].config()
        convert(checkpoint, target, replace(config, name=checkpoint.stem, title=checkpoint.stem))
    return target
