"""After the student: the decoder learns to undo what the student leaves in its latents.

Few-step latents carry small errors, a grain of latent cells, that the decoder of the first stage shows as it gets them.
Here it sees what the student makes of true latents in its last pass (noised to its last level, over a true memory) and
learns the true pictures: the errors are the student's own, and the answer is known. The encoder stays as it is, so the
latents mean what they did, and student and memory notice nothing.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..memory.policy import SlowFast
from ..model.vae import TinyVideoAutoencoder
from .autoencoder import decoder_optimizers, load_autoencoder, psnr, reconstruction_loss, strip
from .data import CHUNK_FRAMES, CHUNK_LATENTS, CHUNK_SECONDS
from .grammar import Scene, describe
from .loop import Budget, Run
from .losses import noised
from .rollout import Rollout
from .self_rollout import denoise, glance, remember, rollout_prompts
from .student import Student
from .world import FPS, World, render


@dataclass(frozen=True)
class DecoderTraining:
    """`clips` of `chunks` chunks a step, `fresh` of them new, the others from a pool of `pool`; each step sees a random
    square of `crop` pixels. `level` is the noise level of the student's last pass; `true` of the clips are decoded from
    true latents, so that nothing is unlearnt."""

    budget: Budget
    level: float
    clips: int = 3
    fresh: int = 1
    chunks: int = 2
    pool: int = 240
    crop: int = 64
    true: float = 0.25
    muon_rate: float = 1e-3
    adam_rate: float = 3e-4
    held_out: int = 24
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """Pixel frames [3, P, H, W] in [-1, 1], their latents [C, F, Y, X], and those as a student leaves them."""

    frames: Tensor
    latents: Tensor
    left: Tensor

    def crop(self, size: int, rng: random.Random, cell: int, true: bool) -> tuple[Tensor, Tensor]:
        """A random square of the pixel frames, `size` pixels wide, and of the true latents or those left."""
        y, x = (rng.randrange(0, side * cell - size + 1, cell) for side in self.latents.shape[-2:])
        latents = (self.latents if true else self.left)[..., y // cell:(y + size) // cell, x // cell:(x + size) // cell]
        return self.frames[..., y:y + size, x:x + size], latents


@torch.no_grad()
def as_left(student: Student, latents: Tensor, prompts: list[str], level: float) -> Tensor:
    """What the student makes in its last pass of true `latents` [B, C, F, Y, X], chunk by chunk over a true memory."""
    count = latents.shape[2] // CHUNK_LATENTS
    rollout = Rollout(latents, [[prompt] * count for prompt in prompts], [False] * count, SlowFast())
    left = []
    for _ in range(count):
        truth = rollout.truth(rollout.chunk)
        noisy = noised(truth, torch.randn_like(truth), torch.full((len(truth),), level, device=truth.device))
        left.append(denoise(partial(glance, student, rollout, rollout_prompts(rollout)), noisy, (level,)))
        remember(student, rollout)
        rollout.advance()
    return torch.cat(left, 2)


@torch.no_grad()
def draw_example(rng: random.Random, vae: TinyVideoAutoencoder, student: Student, config: DecoderTraining) -> Example:
    """A random moment of a random world, true and as `student` leaves it."""
    scene, begin = Scene.sample(rng), rng.randrange(24) * CHUNK_SECONDS
    world = World.sample(rng, ((0.0, scene),), 24 * CHUNK_SECONDS)
    times = begin + torch.arange(config.chunks * CHUNK_FRAMES) / FPS
    frames = render(world, times).transpose(0, 1) * 2 - 1
    latents = vae.encode(frames[None])
    return Example(frames, latents[0], as_left(student, latents, [describe(scene, rng)], config.level)[0])


def batch(pool: list[Example], rng: random.Random, config: DecoderTraining, cell: int) -> tuple[Tensor, Tensor]:
    """Pixel frames [B, 3, P, H, W] and latents [B, C, F, Y, X] of the newest and of random examples."""
    fresh = pool[-config.fresh:]
    chosen = fresh + rng.choices(pool, k=config.clips - len(fresh))
    pairs = [example.crop(config.crop, rng, cell, rng.random() < config.true) for example in chosen]
    return torch.stack([frames for frames, _ in pairs]), torch.stack([latents for _, latents in pairs])


@torch.no_grad()
def held_out(vae: TinyVideoAutoencoder, examples: list[Example]) -> dict[str, float]:
    """PSNR in dB of true latents, and of those that the student left."""
    frames = torch.stack([example.frames for example in examples])
    true = torch.cat([vae.decode(example.latents[None])[0] for example in examples])
    left = torch.cat([vae.decode(example.left[None])[0] for example in examples])
    return {"held_out_psnr": psnr(frames, true), "held_out_left_psnr": psnr(frames, left)}


def train_decoder(vae: Path, student: Path, folder: Path, config: DecoderTraining) -> TinyVideoAutoencoder:
    """Trains (or resumes) the decoder of the autoencoder in `vae` on what the student in `student` leaves; writes
    `folder/vae`. Its log tells the held-out PSNR before and after."""
    accelerator = Accelerator(mixed_precision="bf16")
    torch.manual_seed(config.seed * 1000 + accelerator.process_index)
    raw, artist = load_autoencoder(vae).float(), Student.load(student).eval().requires_grad_(False)
    optimizers = decoder_optimizers(raw, config.muon_rate, config.adam_rate)
    model, *prepared = accelerator.prepare(raw, *optimizers)
    run = Run(accelerator, folder, config.budget)
    accelerator.register_for_checkpointing(run)
    run.resume()
    draw = partial(draw_example, vae=raw, student=artist, config=config)
    unseen = random.Random(config.seed + 77_000)
    kept = [draw(unseen) for _ in range(config.held_out)]
    run.log(**held_out(raw, kept))
    rng, pool = random.Random(f"{config.seed} {accelerator.process_index} {run.step}"), list[Example]()
    for step in run.steps():
        run.schedule(optimizers, [config.muon_rate, config.adam_rate], decay=.6)
        pool = (pool + [draw(rng) for _ in range(config.fresh)])[-config.pool:]
        frames, latents = batch(pool, rng, config, raw.spatial_scale)
        with accelerator.autocast():
            decoded, _ = raw.decode(latents)
        loss = reconstruction_loss(frames, decoded.float())
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in prepared:
            optimizer.step()
            optimizer.zero_grad()
        if step % 25 == 0:
            run.log(loss=loss.detach(), psnr=psnr(frames, decoded.detach().float()))
    run.log(**held_out(raw, kept))
    with torch.no_grad():
        strip(torch.stack([example.frames for example in kept[:4]]),
              torch.cat([raw.decode(example.left[None])[0] for example in kept[:4]]), folder / "held_out.png")
    raw.save_pretrained(folder / "vae")
    return raw
