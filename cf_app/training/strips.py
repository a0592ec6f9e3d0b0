"""Sample strips: what a student makes of a few fixed prompts, one picture a chunk, as PNG."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..memory.policy import SlowFast
from ..model.patch_vae import PatchVideoAutoencoder
from .autoencoder import load_autoencoder
from .data import CHUNK_LATENTS
from .rollout import Rollout, rollout_flow
from .self_rollout import denoise, remember
from .student import Student

PROMPTS = ("a red ball hops through the meadow by day, the camera pans left",
           "a blue star floats over the beach at night",
           "a yellow heart rolls in the desert at sunset, the camera pans right")


@torch.no_grad()
def sample(student: Student, prompts: Sequence[str], chunks: int, levels: Sequence[float],
           size: tuple[int, int, int]) -> Tensor:
    """Latents [B, C, F, Y, X] of `chunks` chunks, generated over the Slow-Fast memory; `size` is [C, Y, X]."""
    device = student.transformer.device
    latents = torch.zeros(len(prompts), size[0], chunks * CHUNK_LATENTS, *size[1:], device=device)
    rollout = Rollout(latents, [[p] * chunks for p in prompts], [i % 2 == 0 for i in range(chunks)], SlowFast())
    for chunk in range(chunks):
        noise = torch.randn_like(rollout.truth(chunk))
        x0 = denoise(lambda x, s: rollout_flow(student, rollout, None, x, s), noise, levels)
        rollout.truth(chunk).copy_(x0)
        remember(student, rollout)
        rollout.advance()
    return latents


class Strip:
    """Writes `strip.png` in a stage's folder now and then; does nothing where there is no autoencoder."""

    def __init__(self, vae: Path, folder: Path, chunks: int = 6, every: int = 250) -> None:
        self.path, self.chunks, self.every = folder / "strip.png", chunks, every
        self.vae: PatchVideoAutoencoder | None = load_autoencoder(vae) if (vae / "config.json").is_file() else None

    def write(self, student: Student, levels: Sequence[float], size: tuple[int, int, int], step: int) -> None:
        """A row for each of `PROMPTS`, a picture for each chunk."""
        if self.vae is None or step % self.every:
            return
        with torch.random.fork_rng():
            torch.manual_seed(0)
            latents = sample(student, PROMPTS, self.chunks, levels, size).cpu()
        with torch.no_grad():
            frames = torch.cat([self.vae.decode(one[None])[0] for one in latents])
        middle = frames[:, :, 6::12].permute(0, 3, 2, 4, 1).flatten(2, 3).flatten(0, 1)  # rows of pictures, then colour
        Image.fromarray(((middle + 1) * 127.5).clamp(0, 255).byte().numpy()).save(self.path)
