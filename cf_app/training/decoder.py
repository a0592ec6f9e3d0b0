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

from ..machine import mixed_precision
from ..memory.policy import SlowFast
from ..model.vae import TinyVideoAutoencoder
from .autoencoder import decoder_optimizers, grown, load_autoencoder, psnr, reconstruction_loss, strip
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
    """`clips` of `chunks` chunks a step from a pool of `pool`, among them the newest; a new one comes every `renew`
    steps, and `goes_on` of them keep their camera. Of each clip `window` latent frames and a square of `crop` latent
    cells are seen: of `tries` random places that in which most changes, because edges that move are what the latents
    keep least of. `level` is the noise level of the student's last pass; `true` of the clips are decoded from true
    latents, so that nothing is unlearnt.
    """

    budget: Budget
    level: float
    clips: int = 4
    renew: int = 2
    chunks: int = 2
    pool: int = 240
    window: int = 3
    crop: int = 8
    tries: int = 3
    true: float = 0.4
    goes_on: float = 0.7
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

    def crop(self, config: DecoderTraining, rng: random.Random, true: bool) -> tuple[Tensor, Tensor]:
        """The pixel frames of a busy place, and the true latents there or those left."""
        place = busy_place(self.latents, config, rng)
        scales = [a // b for a, b in zip(self.frames.shape[1:], self.latents.shape[1:], strict=True)]
        seen = [slice(scale * part.start, scale * part.stop) for scale, part in zip(scales, place, strict=True)]
        return self.frames[(slice(None), *seen)], (self.latents if true else self.left)[(slice(None), *place)]


def busy_place(latents: Tensor, config: DecoderTraining, rng: random.Random) -> tuple[slice, slice, slice]:
    """A window and square of `latents` [C, F, Y, X]: of `tries` random ones that in which most changes over time."""
    sides = (min(config.window, latents.shape[1]), config.crop, config.crop)
    places = [tuple(slice(start := rng.randrange(whole - side + 1), start + side)
                    for whole, side in zip(latents.shape[1:], sides, strict=True)) for _ in range(config.tries)]
    best = max(places, key=lambda place: float(latents[(slice(None), *place)].diff(dim=1).abs().sum()))
    return best[0], best[1], best[2]


@torch.no_grad()
def as_left(student: Student, latents: Tensor, prompts: list[list[str]], level: float) -> Tensor:
    """What the student makes in its last pass of true `latents` [B, C, F, Y, X], chunk by chunk over a true memory.

    `prompts` are each video's, one a chunk.
    """
    count = latents.shape[2] // CHUNK_LATENTS
    rollout = Rollout(latents, prompts, [False] * count, SlowFast())
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
    """A random moment of a random world, true and as `student` leaves it; in the last chunk its camera may change."""
    scene, begin = Scene.sample(rng), rng.randrange(24) * CHUNK_SECONDS
    moments = [begin + chunk * CHUNK_SECONDS for chunk in range(config.chunks)]
    cues = [(0.0, scene), (moments[-1], scene.changed(rng, ("camera",)))]
    world = World.sample(rng, tuple(cues[:1 if rng.random() < config.goes_on else 2]), 24 * CHUNK_SECONDS)
    times = begin + torch.arange(config.chunks * CHUNK_FRAMES) / FPS
    frames = render(world, times).transpose(0, 1) * 2 - 1
    latents = vae.encode(frames[None])
    prompts = [[describe(world.scene_at(moment), rng) for moment in moments]]
    return Example(frames, latents[0], as_left(student, latents, prompts, config.level)[0])


def batch(pool: list[Example], rng: random.Random, config: DecoderTraining) -> tuple[Tensor, Tensor]:
    """Pixel frames [B, 3, P, H, W] and latents [B, C, F, Y, X] of the newest and of random examples."""
    chosen = [pool[-1], *rng.choices(pool, k=config.clips - 1)]
    pairs = [example.crop(config, rng, rng.random() < config.true) for example in chosen]
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
    `folder/vae`. Its log tells the held-out PSNR before and after. A decoder of fewer stages grows (`grown`)."""
    accelerator = Accelerator(mixed_precision=mixed_precision())
    torch.manual_seed(config.seed * 1000 + accelerator.process_index)
    raw, artist = grown(load_autoencoder(vae).float()), Student.load(student).eval().requires_grad_(False)
    optimizers = decoder_optimizers(raw, config.muon_rate, config.adam_rate)
    model, *prepared = accelerator.prepare(raw, *optimizers)
    run, pool = Run(accelerator, folder, config.budget), list[Example]()
    accelerator.register_for_checkpointing(run)
    run.resume()
    draw = partial(draw_example, vae=raw, student=artist, config=config)
    unseen = random.Random(config.seed + 77_000)
    kept = [draw(unseen) for _ in range(config.held_out)]
    run.log(**held_out(raw, kept))
    rng = random.Random(f"{config.seed} {accelerator.process_index} {run.step}")
    for step in run.steps():
        run.schedule(optimizers, [config.muon_rate, config.adam_rate], decay=.6)
        if not pool or step % config.renew == 0:
            pool = [*pool, draw(rng)][-config.pool:]
        frames, latents = batch(pool, rng, config)
        with accelerator.autocast():
            decoded = model(latents).float()
        loss = reconstruction_loss(frames, decoded)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in prepared:
            optimizer.step()
            optimizer.zero_grad()
        if step % 25 == 0:
            run.log(loss=loss.detach(), psnr=psnr(frames, decoded.detach()))
    run.log(**held_out(raw, kept))
    if accelerator.is_main_process:
        with torch.no_grad():
            strip(torch.stack([example.frames for example in kept[:4]]),
                  torch.cat([raw.decode(example.left[None])[0] for example in kept[:4]]), folder / "held_out.png")
        raw.save_pretrained(folder / "vae")
    return raw
