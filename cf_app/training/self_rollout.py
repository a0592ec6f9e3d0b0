"""Self-rollouts: a student goes on from what it made itself, and every network remembers the same chunks.

Knows nothing of losses: `denoise` and `remember` are what both the distillation and the sample strips are made of.
"""
from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..memory.policy import InfinityRope, SlowFast
from ..model.patch_vae import PatchVideoAutoencoder
from .data import CHUNK_LATENTS, CHUNK_SECONDS, Cues, draw_video, shared_cues
from .grammar import describe
from .losses import Flow, noised, predicted_x0
from .rollout import MemoryContext, Rollout
from .rollouts import look_away_promotions
from .student import Student
from .world import FPS, WIDTH, World

CELL = 8    # units along one side of a latent cell


class _Forgetful(list[tuple[Tensor, Tensor]]):
    """Takes keys and values and keeps none: under gradient checkpointing a pass would hand them over twice."""

    def append(self, item: tuple[Tensor, Tensor]) -> None:
        pass


def glance(student: Student, rollout: Rollout, prompts: Sequence[str], x: Tensor, sigma: Tensor) -> Tensor:
    """The flow of `x` [B, ...] at the rollout's chunk under `prompts`, over its memory, leaving nothing behind."""
    context: MemoryContext = rollout.context(student, rollout.chunk, len(x))
    context.own = _Forgetful()
    return student.flow(x, sigma, student.text_keys_values(prompts), context)


@torch.no_grad()
def remember(student: Student, rollout: Rollout) -> None:
    """The clean pass over the rollout's chunk: its keys and values become memory, as this network sees it."""
    chunk, clean = rollout.chunk, rollout.truth(rollout.chunk)
    context = rollout.context(student, chunk, len(clean))
    text = student.text_keys_values(rollout_prompts(rollout))
    student.flow(clean, torch.zeros(len(clean), device=clean.device), text, context)
    rollout.store(chunk, context.own)


def rollout_prompts(rollout: Rollout) -> list[str]:
    """The prompts in force at the rollout's chunk."""
    return [prompts[rollout.chunk] for prompts in rollout.prompts]


def denoise(flow: Flow, noise: Tensor, levels: Sequence[float], gradient: bool = False) -> Tensor:
    """Clean latents after one pass for each of `levels`, with fresh noise between them (the engine's sampler).

    With `gradient`, only the last pass carries one (Self-Forcing): the earlier ones decide where it starts.
    """
    x = x0 = noise
    for index, level in enumerate(levels):
        last = index + 1 == len(levels)
        sigma = torch.full((len(x),), level, device=x.device)
        with torch.set_grad_enabled(gradient and last):
            x0 = predicted_x0(x, flow(x, sigma), sigma)
        if not last:
            following = torch.full_like(sigma, levels[index + 1])
            x = noised(x0, torch.randn_like(x0), following)
    return x0


def blank_rollout(videos: int, chunks: int, size: tuple[int, int, int], chunk_latents: int, rng: random.Random,
                  device: torch.device, drop: float = 0.05) -> Rollout:
    """`videos` videos to be made: zeros where the latents will be, prompts that change on the way, and a plan of the
    memory. In half of the batches the cameras sweep away and back; in the others the rate of promotion is drawn.
    `size` is [C, Y, X]."""
    cues_of, turns = shared_cues(rng.choice(("any", "away")), rng, chunks)
    prompts = [prompts_of(cues_of(rng), chunks, rng, drop) for _ in range(videos)]
    latents = torch.zeros(videos, size[0], chunks * chunk_latents, *size[1:], device=device)
    return Rollout(latents, prompts, random_promotions(turns, chunks, rng), SlowFast())


def known_rollout(vae: PatchVideoAutoencoder, videos: int, chunks: int, rng: random.Random,
                  device: torch.device, pans: float = 0.0) -> Rollout:
    """`videos` videos to be made of which the truth is known: it is what the latents hold until they are made.

    The camera stands, or sweeps away and back, so all follows from the prompts and from the first chunk of each view,
    which is `given`. With probability `pans` it may also pan, so all follows but what comes in at a side: that is true,
    what stays is the student's, and shapes are held on their way through the picture.
    """
    cues_of, turns = shared_cues(rng.choice(("any", "away")), rng, chunks)
    moves = rng.random() < pans
    prompts, latents, given = [], [], []
    for _ in range(videos):
        cues = tuple((begin, scene if moves or scene.camera == "away" else replace(scene, camera="still"))
                     for begin, scene in cues_of(rng))
        prompts.append(prompts_of(cues, chunks, rng))
        world = World.sample(rng, cues, chunks * CHUNK_SECONDS)
        given.append(news(world, chunks))
        with torch.no_grad():
            latents.append(vae.encode(draw_video(world, chunks).to(vae.device)))
    promotions = random_promotions(turns, chunks, rng)
    return Rollout(torch.cat(latents).to(device), prompts, promotions, SlowFast(), turns=turns,
                   given=torch.stack(given).to(device))


def news(world: World, chunks: int) -> Tensor:
    """[F, X]: which columns of latent cells show what the chunks before do not tell. All of the first chunk, and of one
    that sweeps to where no chunk before ended; at the side that a panning camera goes to as many as it went by since
    the chunk before."""
    given = torch.zeros(chunks, CHUNK_LATENTS, WIDTH // CELL, dtype=torch.bool)
    ends = [world.view((chunk + 1) * CHUNK_SECONDS - 1 / FPS) for chunk in range(chunks)]
    away = [world.scene_at(chunk * CHUNK_SECONDS).camera == "away" for chunk in range(chunks)]
    for chunk, part in enumerate(given):
        sweeps = chunk == 0 or away[chunk] != away[chunk - 1]
        part[:] = sweeps and not any(math.isclose(ends[chunk], end, abs_tol=1e-6) for end in ends[:chunk])
        begin = chunk * CHUNK_SECONDS - 1 / FPS
        for latent, row in enumerate(part, 1):
            went = world.camera(begin + latent * CHUNK_SECONDS / CHUNK_LATENTS) - world.camera(begin)
            columns = math.ceil(abs(went) / CELL - 1e-6)
            row[len(row) - columns if went > 0 else 0:len(row) if went > 0 else columns] = True
    return given.flatten(0, 1)


def prompts_of(cues: Cues, chunks: int, rng: random.Random, drop: float = 0.0) -> list[str]:
    """A paraphrase for each chunk of the cue in force; `drop` is the probability that an attribute is left out."""
    starts = [round(seconds / CHUNK_SECONDS) for seconds, _ in cues]
    row = [max(i for i, start in enumerate(starts) if start <= chunk) for chunk in range(chunks)]
    return [describe(cues[i][1], rng, drop) for i in row]


def random_promotions(turns: Sequence[int], chunks: int, rng: random.Random) -> list[bool]:
    """Which chunks the gate lets into slow memory: those of the turns, mostly, or any at a random rate."""
    if turns:
        return look_away_promotions(turns, chunks, rng)
    rate = rng.choice((0.1, 0.3, 0.5, 0.5, 0.7, 1.0))
    return [rng.random() < rate for _ in range(chunks)]


def beside(rollout: Rollout, window: int | None = None) -> Rollout:
    """Another network's rollout over the same latents, prompts and plan, with keys and values of its own.

    With `window` it sees no more than that many newest latent frames, the chunk at hand included.
    """
    policy = SlowFast() if window is None else InfinityRope(sink=0, window=window)
    other = Rollout(rollout.latents, rollout.prompts, [False] * len(rollout.plan), policy)
    if window is None:
        other.plan = rollout.plan
    return other
