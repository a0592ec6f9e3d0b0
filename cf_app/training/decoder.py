"""After the student: the decoder learns to undo what the student leaves in its latents.

Few-step latents carry small errors, a grain of latent cells, that the decoder of the first stage shows as it gets them.
Here it sees what the student makes of true latents in its last pass or its last two (noised to the level of the first
of them, over a memory of chunks made so) and learns the true pictures: the errors are the student's own, and the answer
is known. The encoder stays as it is, so the latents mean what they did, and student and memory notice nothing.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..machine import mixed_precision
from ..memory.policy import SlowFast
from ..model.patch_vae import PatchVideoAutoencoder
from .autoencoder import decoder_optimizers, edge_error, load_autoencoder, psnr, strip
from .data import CHUNK_FRAMES, CHUNK_LATENTS, CHUNK_SECONDS
from .grammar import ATTRIBUTES, Scene, describe
from .loop import Budget, Run
from .losses import noised
from .rollout import Rollout
from .self_rollout import denoise, glance, remember, rollout_prompts
from .student import Student
from .world import FPS, World, render


@dataclass(frozen=True)
class DecoderTraining:
    """`clips` of `chunks` chunks a step from a pool of `pool`, among them the newest; a new one comes every `renew`
    steps, and `goes_on` of them keep their prompt. Of each clip `window` latent frames and a square of `crop` latent
    cells are seen: of `tries` random places that in which most changes, because edges that move are what the latents
    keep least of. `levels` are the noise levels of the student's last passes; an example goes through the last of them,
    or through more. `true` of the clips are decoded from true latents, so that nothing is unlearnt.
    """

    budget: Budget
    levels: tuple[float, ...]
    clips: int = 12
    renew: int = 2
    chunks: int = 2
    pool: int = 1500
    window: int = 3
    crop: int = 8
    tries: int = 3
    true: float = 0.4
    goes_on: float = 0.7
    muon_rate: float = 1e-2
    adam_rate: float = 3e-3
    held_out: int = 24
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """Pixel frames [3, P, H, W], 0 to 255, their latents [C, F, Y, X], and those as a student leaves them."""

    frames: Tensor
    latents: Tensor
    left: Tensor

    def crop(self, config: DecoderTraining, rng: random.Random, true: bool) -> tuple[Tensor, Tensor]:
        """The pixel frames of a busy place in [-1, 1], and the true latents there or those left."""
        place = busy_place(self.latents, config, rng)
        scales = [a // b for a, b in zip(self.frames.shape[1:], self.latents.shape[1:], strict=True)]
        seen = [slice(scale * part.start, scale * part.stop) for scale, part in zip(scales, place, strict=True)]
        return signed(self.frames[(slice(None), *seen)]), (self.latents if true else self.left)[(slice(None), *place)]


def signed(frames: Tensor) -> Tensor:
    """Pixel values 0 to 255 to [-1, 1], float32."""
    return frames.float() / 127.5 - 1


def busy_place(latents: Tensor, config: DecoderTraining, rng: random.Random) -> tuple[slice, slice, slice]:
    """A window and square of `latents` [C, F, Y, X]: of `tries` random ones that in which most changes over time."""
    sides = (min(config.window, latents.shape[1]), config.crop, config.crop)
    places = [tuple(slice(start := rng.randrange(whole - side + 1), start + side)
                    for whole, side in zip(latents.shape[1:], sides, strict=True)) for _ in range(config.tries)]
    best = max(places, key=lambda place: float(latents[(slice(None), *place)].diff(dim=1).abs().sum()))
    return best[0], best[1], best[2]


def crisp_loss(frames: Tensor, decoded: Tensor, grey: float = 0.02) -> Tensor:
    """Mean square root of the distance of colours, and half of |grad (x - y)|: of pictures [B, 3, P, H, W] in [-1, 1].

    What the student left does not say to the pixel where an edge is. |x - y| is as small for any mixture of the two
    colours there, (x - y)^2 smallest for their mean; the root, which is concave, is smallest at one of them. It also
    rises steepest where a distance is small (down to `grey`), so flat areas get their colour to the last grey level.
    """
    difference = decoded - frames
    distance = (difference.square().sum(1) + grey**2).sqrt()
    return distance.sqrt().mean() + 0.5 * edge_error(difference)


@torch.no_grad()
def as_left(student: Student, latents: Tensor, prompts: list[list[str]], levels: Sequence[float]) -> Tensor:
    """What the student makes in its last passes of true `latents` [B, C, F, Y, X] that are noised to the first of
    `levels`, chunk by chunk over a memory of what it made before.

    `prompts` are each video's, one a chunk.
    """
    count = latents.shape[2] // CHUNK_LATENTS
    rollout = Rollout(latents.clone(), prompts, [False] * count, SlowFast())
    for _ in range(count):
        chunk = rollout.truth(rollout.chunk)
        noisy = noised(chunk, torch.randn_like(chunk), torch.full((len(chunk),), levels[0], device=chunk.device))
        chunk.copy_(denoise(partial(glance, student, rollout, rollout_prompts(rollout)), noisy, levels))
        remember(student, rollout)
        rollout.advance()
    return rollout.latents


@torch.no_grad()
def draw_example(rng: random.Random, vae: PatchVideoAutoencoder, student: Student, config: DecoderTraining) -> Example:
    """A random moment of a random world, true and as `student` leaves it; in the last chunk its camera or any other
    attribute may change."""
    scene, begin = Scene.sample(rng), rng.randrange(24) * CHUNK_SECONDS
    moments = [begin + chunk * CHUNK_SECONDS for chunk in range(config.chunks)]
    changed = rng.choice(("camera", *ATTRIBUTES))  # the camera twice as often: it moves the whole picture
    cues = [(0.0, scene), (moments[-1], scene.changed(rng, (changed,)))]
    world = World.sample(rng, tuple(cues[:1 if rng.random() < config.goes_on else 2]), 24 * CHUNK_SECONDS)
    times = begin + torch.arange(config.chunks * CHUNK_FRAMES) / FPS
    frames = (render(world, times).transpose(0, 1) * 255).round().byte()
    latents = vae.encode(signed(frames)[None])
    prompts = [[describe(world.scene_at(moment), rng) for moment in moments]]
    levels = config.levels[rng.randrange(len(config.levels)):]
    return Example(frames, latents[0], as_left(student, latents, prompts, levels)[0])


def batch(pool: list[Example], rng: random.Random, config: DecoderTraining) -> tuple[Tensor, Tensor]:
    """Pixel frames [B, 3, P, H, W] and latents [B, C, F, Y, X] of the newest and of random examples."""
    chosen = [pool[-1], *rng.choices(pool, k=config.clips - 1)]
    pairs = [example.crop(config, rng, rng.random() < config.true) for example in chosen]
    return torch.stack([frames for frames, _ in pairs]), torch.stack([latents for _, latents in pairs])


@torch.no_grad()
def held_out(vae: PatchVideoAutoencoder, examples: list[Example]) -> dict[str, float]:
    """PSNR in dB and loss of true latents, and of those that the student left."""
    frames = signed(torch.stack([example.frames for example in examples]))
    true = torch.cat([vae.decode(example.latents[None])[0] for example in examples])
    left = torch.cat([vae.decode(example.left[None])[0] for example in examples])
    return {"held_out_psnr": psnr(frames, true), "held_out_left_psnr": psnr(frames, left),
            "held_out_loss": float(crisp_loss(frames, true)), "held_out_left_loss": float(crisp_loss(frames, left))}


def train_decoder(vae: Path, student: Path, folder: Path, config: DecoderTraining) -> PatchVideoAutoencoder:
    """Trains (or resumes) the decoder of the autoencoder in `vae` on what the student in `student` leaves; writes
    `folder/vae`. Its log tells held-out PSNR and loss before and after."""
    accelerator = Accelerator(mixed_precision=mixed_precision())
    torch.manual_seed(config.seed * 1000 + accelerator.process_index)
    raw, artist = load_autoencoder(vae).float(), Student.load(student).eval().requires_grad_(False)
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
        loss = crisp_loss(frames, decoded)
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
            strip(signed(torch.stack([example.frames for example in kept[:4]])),
                  torch.cat([raw.decode(example.left[None])[0] for example in kept[:4]]), folder / "held_out.png")
        raw.save_pretrained(folder / "vae")
    return raw
