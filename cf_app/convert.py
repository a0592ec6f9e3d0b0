"""Original checkpoints become model folders, once; by hand: ``python -m cf_app convert model.pt --out folder``."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    content = read_file(checkpoint)
    with naming(checkpoint):
        state = student_state(content, ema=ema)
        channels = transformer_config(state, head_dim)["in_channels"]
        if channels != config.geometry.latent_channels:
            raise ValueError(
                f"it takes {channels} latent channels, expected {config.geometry.latent_channels}: "
                "it is no text-to-video student of this kind"
            )
    if lora is not None:
        content = read_file(lora)
        with naming(lora):
            state = merge_lora(state, lora_state(content), scale=scale, alpha=alpha)
    with naming(checkpoint):
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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name in front of what is wrong with its contents."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def converted(student: Student) -> Path | None:
    """The converted folder of a released student if it is here. Asks nobody."""
    here = hub.known(student.repository, student.revision)
    target = None if here is None else _place(student, here.commit)
    return target if target is not None and (target / CONFIG_FILE).is_file() else None


def released_folder(student: Student, tell: hub.Tell = hub.silent) -> Path:
    """The converted folder of a released student, downloaded and converted at the first time.

    Raises:
        ValueError: it can not be had, or a file is damaged.
    """
    there = converted(student)
    if there is not None:
        return there
    folder = hub.download(student.repository, student.files, pinned=student.revision, tell=tell)
    for file in student.files:
        hub.verify(student.repository, file, tell=tell)
    tell(hub.Progress(f"converting {student.name}"))
    target = _place(student, folder.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)  # half of one, left by hand
    lora = None if student.lora is None else folder / student.lora
    convert(folder / student.file, target, student.config(), lora=lora, ema=student.ema)
    return target


def _place(student: Student, commit: str) -> Path:
    return hub.converted_home() / f"{student.name}-{commit[:12]}"


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
