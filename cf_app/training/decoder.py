"""After the student: the decoder learns to undo what the student leaves in its latents.

Few-step latents carry small errors, a grain of latent cells, that the decoder of the first stage shows as it gets them.
Here it sees what the student makes of true latents in its last pass or its last two (noised to the level of the first
of them, over a memory of chunks made so), and what it makes all by itself from a true first chunk on, and learns the
true pictures: the errors are the student's own, and the answer is known. It is so for seconds of a student that runs
freely, as long as the camera stands: how a subject moves follows from its prompt and the first chunk. So the decoder
sees shapes that have begun to melt, and what they were. The encoder stays as it is: the latents mean what they did, and
student and memory notice nothing.
"""
from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..machine import mixed_precision
from ..memory.policy import SlowFast
from ..model.patch_vae import PatchVideoAutoencoder
from .autoencoder import crisp_loss, load_autoencoder, optimizers_of, psnr, strip
from .data import CHUNK_FRAMES, CHUNK_LATENTS, CHUNK_SECONDS
from .dmd import frozen
from .grammar import ATTRIBUTES, Scene, describe
from .loop import Budget, Run
from .losses import noised
from .rollout import Rollout
from .self_rollout import denoise, glance, remember, rollout_prompts
from .student import Student
from .world import FPS, World, render


@dataclass(frozen=True)
class DecoderTraining:
    """`clips` of `chunks` chunks a step from a pool of `pool`, among them the newest. The pool begins with `first`
    draws, another one comes every `renew` steps. `free` of the draws are films of `longest` chunks, all but the first
    one made by the student, cut into clips (that makes half of all clips); of the others `goes_on` keep their prompt.
    Of each clip `window` latent frames and a square of `crop` latent cells are seen: of `tries` random places that in
    which most changes, because edges that move are what the latents keep least of. `levels` are the noise levels of all
    of the student's passes; a clip that is not of a free film goes through the last `undone` of them, or through fewer.
    `true` of the clips are decoded from true latents, so that nothing is unlearnt. The loss is `crisp_loss` and
    `squares` times the mean square, as in the autoencoder's stage: true latents lose 0.6 dB with it in 21 minutes, 1.2
    without it in 11.
    """

    budget: Budget
    levels: tuple[float, ...]
    clips: int = 12
    renew: int = 2
    chunks: int = 2
    pool: int = 1500
    first: int = 48
    free: float = 0.15
    longest: int = 11
    undone: int = 2
    window: int = 3
    crop: int = 8
    tries: int = 3
    true: float = 0.4
    goes_on: float = 0.7
    muon_rate: float = 1e-2
    adam_rate: float = 3e-3
    squares: float = 10.0
    held_out: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        """ValueError where there would be nothing to begin with."""
        if self.first < 1:
            raise ValueError(f"a pool that begins with {self.first} draws: expected at least 1")


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


@torch.no_grad()
def as_left(student: Student, latents: Tensor, prompts: list[list[str]], levels: Sequence[float],
            kept: int = 0) -> Tensor:
    """What the student makes in its last passes of true `latents` [B, C, F, Y, X] that are noised to the first of
    `levels`, chunk by chunk over a memory of what it made before; of the first `kept` chunks it makes nothing.

    `prompts` are each video's, one a chunk. Levels from 1 on leave no trace of the truth: the student runs freely.
    """
    count = latents.shape[2] // CHUNK_LATENTS
    rollout = Rollout(latents.clone(), prompts, [chunk % 2 == 0 for chunk in range(count)], SlowFast())
    for index in range(count):
        chunk = rollout.truth(index)
        if index >= kept:
            noisy = noised(chunk, torch.randn_like(chunk), torch.full((len(chunk),), levels[0], device=chunk.device))
            chunk.copy_(denoise(partial(glance, student, rollout, rollout_prompts(rollout)), noisy, levels))
        remember(student, rollout)
        rollout.advance()
    return rollout.latents


def draw_examples(rng: random.Random, vae: PatchVideoAutoencoder, student: Student,
                  config: DecoderTraining) -> list[Example]:
    """The clips of a film that `student` made from its first chunk on, or one true clip as it leaves it."""
    return free_film(rng, vae, student, config) if rng.random() < config.free else [moment(rng, vae, student, config)]


def moment(rng: random.Random, vae: PatchVideoAutoencoder, student: Student, config: DecoderTraining) -> Example:
    """A random moment of a random world, true and as `student` leaves it; in the last chunk its camera or any other
    attribute may change."""
    scene, begin = Scene.sample(rng), rng.randrange(24) * CHUNK_SECONDS
    changed = rng.choice(("camera", *ATTRIBUTES))  # the camera twice as often: it moves the whole picture
    cues = [(0.0, scene), (begin + (config.chunks - 1) * CHUNK_SECONDS, scene.changed(rng, (changed,)))]
    world = World.sample(rng, tuple(cues[:1 if rng.random() < config.goes_on else 2]), 24 * CHUNK_SECONDS)
    first = len(config.levels) - rng.randint(1, min(config.undone, len(config.levels)))
    return _shown(rng, vae, student, world, begin, config.chunks, config.levels[first:])


def free_film(rng: random.Random, vae: PatchVideoAutoencoder, student: Student,
              config: DecoderTraining) -> list[Example]:
    """What `student` makes by itself of one prompt under a camera that stands, from a true first chunk on, cut into
    clips of `chunks` chunks, and what the world shows then. At least one clip, at most of `longest` chunks in all."""
    world = World.sample(rng, ((0.0, replace(Scene.sample(rng), camera="still")),), CHUNK_SECONDS)
    clips = max(1, (config.longest - 1) // config.chunks)
    whole = _shown(rng, vae, student, world, 0.0, 1 + clips * config.chunks, config.levels, kept=1)
    sizes = [config.chunks * each for each in (CHUNK_FRAMES, CHUNK_LATENTS, CHUNK_LATENTS)]
    parts = (part[:, size // config.chunks:].split(size, 1)
             for part, size in zip((whole.frames, whole.latents, whole.left), sizes, strict=True))
    return [Example(*(part.clone() for part in clip)) for clip in zip(*parts, strict=True)]


@torch.no_grad()
def _shown(rng: random.Random, vae: PatchVideoAutoencoder, student: Student, world: World, begin: float, chunks: int,
           levels: Sequence[float], kept: int = 0) -> Example:
    """`chunks` chunks of `world` from `begin` (seconds) on, on the CPU: pictures, latents, and these as left."""
    frames = (render(world, begin + torch.arange(chunks * CHUNK_FRAMES) / FPS).transpose(0, 1) * 255).round().byte()
    latents = vae.encode(signed(frames)[None].to(vae.device))
    prompts = [[describe(world.scene_at(begin + chunk * CHUNK_SECONDS), rng) for chunk in range(chunks)]]
    return Example(frames, latents[0].cpu(), as_left(student, latents, prompts, levels, kept)[0].cpu())


def batch(pool: Sequence[Example], rng: random.Random, config: DecoderTraining) -> tuple[Tensor, Tensor]:
    """Pixel frames [B, 3, P, H, W] and latents [B, C, F, Y, X] of the newest and of random examples."""
    chosen = [pool[-1], *rng.choices(pool, k=config.clips - 1)]
    pairs = [example.crop(config, rng, rng.random() < config.true) for example in chosen]
    return torch.stack([frames for frames, _ in pairs]), torch.stack([latents for _, latents in pairs])


@torch.no_grad()
def decoded(vae: PatchVideoAutoencoder, latents: Tensor) -> Tensor:
    """Pictures [1, 3, P, H, W] of one video's latents [C, F, Y, X], on the CPU."""
    return vae.decode(latents[None].to(vae.device))[0].cpu()


@torch.no_grad()
def held_out(vae: PatchVideoAutoencoder, examples: list[Example]) -> dict[str, float]:
    """PSNR in dB and loss of true latents, and of those that the student left."""
    frames = signed(torch.stack([example.frames for example in examples]))
    true = torch.cat([decoded(vae, example.latents) for example in examples])
    left = torch.cat([decoded(vae, example.left) for example in examples])
    return {"held_out_psnr": psnr(frames, true), "held_out_left_psnr": psnr(frames, left),
            "held_out_loss": float(crisp_loss(frames, true)), "held_out_left_loss": float(crisp_loss(frames, left))}


def train_decoder(vae: Path, student: Path, folder: Path, config: DecoderTraining) -> PatchVideoAutoencoder:
    """Trains (or resumes) the decoder of the autoencoder in `vae` on what the student in `student` leaves; writes
    `folder/vae`. Its log tells held-out PSNR and loss before and after."""
    accelerator = Accelerator(mixed_precision=mixed_precision())
    torch.manual_seed(config.seed * 1000 + accelerator.process_index)
    raw, artist = load_autoencoder(vae).float(), frozen(Student.load(student), accelerator.device)
    for fixed in (raw.code, raw.encoder):
        if fixed is not None:
            fixed.requires_grad_(False)
    optimizers = optimizers_of(raw, config.muon_rate, config.adam_rate)
    model, *prepared = accelerator.prepare(raw, *optimizers)
    run = Run(accelerator, folder, config.budget)
    accelerator.register_for_checkpointing(run)
    run.resume()
    draw = partial(draw_examples, vae=raw, student=artist, config=config)
    unseen = random.Random(config.seed + 77_000)
    kept = [draw(unseen)[-1] for _ in range(config.held_out)]
    run.log(**held_out(raw, kept))
    rng = random.Random(f"{config.seed} {accelerator.process_index} {run.step}")
    pool = deque((clip for _ in range(config.first) for clip in draw(rng)), config.pool)
    for step in run.steps():
        run.schedule(optimizers, [config.muon_rate, config.adam_rate], decay=.6)
        if step % config.renew == 0:
            pool.extend(draw(rng))
        frames, latents = (part.to(accelerator.device) for part in batch(pool, rng, config))
        with accelerator.autocast():
            pictures = model(latents).float()
        loss = crisp_loss(frames, pictures) + config.squares * (pictures - frames).square().mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in prepared:
            optimizer.step()
            optimizer.zero_grad()
        if step % 25 == 0:
            run.log(loss=loss.detach(), psnr=psnr(frames, pictures.detach()))
    run.log(**held_out(raw, kept))
    if accelerator.is_main_process:
        strip(signed(torch.stack([example.frames for example in kept[:4]])),
              torch.cat([decoded(raw, example.left) for example in kept[:4]]), folder / "held_out.png")
        raw.save_pretrained(folder / "vae")
    return raw
