"""Puts the trained parts together as a checkpoint folder in the layout that every other checkpoint has."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from ..config import Geometry, ModelConfig, SamplerConfig
from ..model.patch_vae import PatchVideoAutoencoder
from .grammar import subjects, vocabulary
from .student import SHIFT, TRAINED_TIMESTEPS, write_json
from .text import MAX_LENGTH

EXAMPLES = (
    "a red ball hops through the meadow by day",
    "a red ball hops through the meadow by day, the camera sweeps away",
    "a blue star floats over the beach at sunset, the camera pans right",
    "a yellow heart rolls through the desert at dawn",
    "a pink box hops through the snow at night",
    "a green pyramid floats over the meadow at night",
    "an orange ball rolls on the beach by day, the camera pans left",
)


def export(vae: Path, student: Path, target: Path, tau: float,
           timesteps: tuple[int, ...] = TRAINED_TIMESTEPS) -> None:
    """Writes `target` (the layout of weights/) from the `vae/` and `student/` folders of the stages.

    `timesteps` (before the flow shift) are those that the student was trained for: eight after the rollouts, four
    after a distillation.
    The model card (README.md) of `target` is kept where there is one; the curves of all stages go beside it.
    """
    target.mkdir(parents=True, exist_ok=True)
    for curves in {*vae.parent.parent.glob("*/curves.png"), *student.parent.parent.glob("*/curves.png")}:
        (target / "curves").mkdir(exist_ok=True)
        shutil.copyfile(curves, target / "curves" / f"{curves.parent.name}.png")
    for part in ("transformer", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(target / part, ignore_errors=True)
        shutil.copytree(student / part, target / part)
    autoencoder = PatchVideoAutoencoder.from_pretrained(vae)
    shutil.rmtree(target / "vae", ignore_errors=True)
    autoencoder.to(torch.bfloat16).save_pretrained(target / "vae")
    for path in target.glob("*/config.json"):  # where the parts were trained is nobody's business
        write_json(path, {k: v for k, v in json.loads(path.read_text()).items() if k != "_name_or_path"})
    transformer = json.loads((target / "transformer" / "config.json").read_text())
    scale = autoencoder.spatial_scale
    config = ModelConfig(
        name="embedded", title="Embedded student",
        description="A small causal student of Wan's architecture, trained on a procedural world.",
        geometry=Geometry(transformer["in_channels"], 80 // 8, 128 // 8, scale, autoencoder.temporal_scale),
        sampler=SamplerConfig(timesteps, SHIFT), memory={"policy": "slow_fast", "tau": tau},
        text_length=MAX_LENGTH, vocabulary=frozenset(vocabulary()), subjects=subjects(), example_prompts=EXAMPLES)
    write_json(target / "cf_config.json", config.to_dict())
