"""The context teacher: many-step flow matching on chunks, given clean Slow-Fast context from the truth.

As in Context Forcing (section 3): the context's length is drawn anew for every video, from nothing to 20 s and more,
and errors of the teacher's own past predictions, kept in a bank by noise level, are injected into the context with a
probability (error-recycling fine-tuning), because at distillation the context is made by a student that errs.
The keys and values of the newest context chunk carry gradients, so that the teacher learns what to remember.
"""
from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..memory.policy import SlowFast
from .data import CHUNK_SECONDS, LatentVideos
from .loop import Budget
from .losses import flow_matching, inject_errors, noised, predicted_x0, sample_sigmas, shifted
from .rollout import Rollout, rollout_flow
from .setup import Rates, Stage, set_up
from .strips import Strip
from .student import SHIFT, Student, student_levels

TEACHER_RATES = Rates(muon=2e-3, adam=4e-4, ema=0.998)


@dataclass(frozen=True)
class TeacherTraining:
    """Settings of the teacher.

    Attributes:
        videos, copies: walked through together, and noise levels for each of their chunks.
        shortest: seconds of context that every walk reaches; longer ones are drawn, up to the length of the videos.
        unprompted: probability that a chunk's prompt is dropped, for guidance.
        recycle: probability that an error is injected into the context (released code: half of the samples stay clean,
            nine in ten of the others are hit).
        passes, strip_chunks: of a sample for the strip.
    """

    budget: Budget
    videos: int = 6
    copies: int = 2
    shortest: float = 5.0
    drop: float = 0.05
    unprompted: float = 0.1
    recycle: float = 0.45
    passes: int = 32
    strip_chunks: int = 6
    rates: Rates = TEACHER_RATES
    seed: int = 0


class ErrorBank:
    """Residuals (prediction - truth) of past predictions, the newest `size` for each of `grids` spans of noise levels.

    Errors from noise above `worst` are left out: they say what can not be known, not what the model gets wrong.
    """

    def __init__(self, grids: int = 20, size: int = 50, worst: float = 0.75) -> None:
        self.worst = worst
        self.rows: list[deque[Tensor]] = [deque(maxlen=size) for _ in range(grids)]

    def __len__(self) -> int:
        return sum(map(len, self.rows))

    def add(self, residuals: Tensor, sigma: Tensor) -> None:
        """Takes residuals [B, ...] of predictions made at sigma [B]."""
        for residual, level in zip(residuals.detach(), sigma.tolist(), strict=True):
            if level < self.worst:
                self.rows[min(int(level * len(self.rows)), len(self.rows) - 1)].append(residual.half().cpu())

    def draw(self, like: Tensor, rng: random.Random) -> Tensor:
        """One error for each sample of `like` [B, ...], of a random span of noise levels; zeros while there is none."""
        filled = [row for row in self.rows if row]
        if not filled:
            return torch.zeros_like(like)
        return torch.stack([rng.choice(rng.choice(filled)) for _ in range(len(like))]).to(like)


def many_levels(passes: int, shift: float = SHIFT) -> tuple[float, ...]:
    """Noise levels of a many-step sampler."""
    return tuple(float(shifted(torch.tensor(1 - i / passes), shift)) for i in range(passes))


def teacher_walk(videos: LatentVideos, config: TeacherTraining, rng: random.Random, device: torch.device) -> Rollout:
    """Random videos from their start, as far as a drawn length of context says."""
    least = min(videos.chunks, 1 + round(config.shortest / CHUNK_SECONDS))
    length = rng.randint(least, videos.chunks)
    picks = [rng.randrange(len(videos)) for _ in range(config.videos)]
    prompts = [[videos.prompt(v, c, rng, config.drop) if rng.random() >= config.unprompted else ""
                for c in range(length)] for v in picks]
    latents = torch.stack([videos.clip(v, 0, length) for v in picks]).to(device)
    rate = rng.choice((0.1, 0.3, 0.5, 0.5, 0.7, 1.0))
    return Rollout(latents, prompts, [rng.random() < rate for _ in range(length)], SlowFast())


def train_teacher(data: Path, start: Path | None, folder: Path, vae: Path, config: TeacherTraining) -> Student:
    """Trains (or resumes) in `folder` on the videos in `data`; begins with `start`'s weights, or with fresh ones.

    Writes the averaged weights to `student/` (the layout of every stage) and `strip.png` on the way.
    """
    network = Student.load(start) if start else Student.embedded()
    stage = set_up(folder, config.budget, config.seed, (network, config.rates))
    device, learner = stage.accelerator.device, stage.learners[0]
    videos, bank, strip = LatentVideos(data), ErrorBank(), Strip(vae, folder, config.strip_chunks)
    walk = teacher_walk(videos, config, stage.rng, device)
    for step in stage.run.steps():
        learner.schedule(stage.run)
        values = _teacher_step(stage, walk, bank, config)
        if step % 20 == 0:
            stage.run.log(seconds=walk.chunk * CHUNK_SECONDS, errors=float(len(bank)), **values)
        strip.write(network, many_levels(config.passes), (walk.latents.shape[1], *walk.latents.shape[3:]), step)
        walk.advance()
        if walk.chunk == walk.chunks:
            videos.refresh()
            walk = teacher_walk(videos, config, stage.rng, device)
    return learner.finish(stage.accelerator, folder / "student")


def _teacher_step(stage: Stage, walk: Rollout, bank: ErrorBank, config: TeacherTraining) -> dict[str, Tensor]:
    accelerator, learner, rng = stage.accelerator, stage.learners[0], stage.rng
    x0 = walk.truth(walk.chunk).repeat(config.copies, 1, 1, 1, 1)
    clean = None
    if walk.chunk:
        clean = walk.truth(walk.chunk - 1)
        hit = torch.tensor([rng.random() < config.recycle for _ in range(len(clean))], device=clean.device)
        clean = inject_errors(clean, bank.draw(clean, rng), hit)
    sigma = sample_sigmas(len(x0), SHIFT, student_levels(), 0.0).to(x0)
    noise = torch.randn_like(x0)
    noisy = noised(x0, noise, sigma)
    with accelerator.autocast():
        flow = learner.model(rollout_flow, walk, clean, noisy, sigma)
    loss = flow_matching(flow, x0, noise)
    accelerator.backward(loss)
    norm = learner.step(accelerator)
    bank.add(predicted_x0(noisy, flow.detach(), sigma) - x0, sigma)
    return {"loss": loss.detach(), "norm": norm}
