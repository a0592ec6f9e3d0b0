"""Stage 1 of the student: the first chunk of a video from a prompt alone, where a sample costs least.

Flow matching (Lipman et al. 2023; x_s = (1 - s) x0 + s noise) on single chunks at positions 0, 1, 2 without context.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..model.attention import SelfContext
from .data import LatentVideos, openings
from .loop import Budget
from .losses import flow_matching, noised, sample_sigmas
from .setup import Rates, set_up
from .student import SHIFT, Student, student_levels

PICTURE_RATES = Rates(muon=5e-3, adam=1e-3, ema=0.998)


@dataclass(frozen=True)
class PictureTraining:
    """Single chunks: `batch` a step; `focus` of the noise levels are the student's own four."""

    budget: Budget
    batch: int = 40
    drop: float = 0.05
    focus: float = 0.3
    rates: Rates = PICTURE_RATES
    seed: int = 0


def sample_chunks(videos: LatentVideos, rng: random.Random, count: int, drop: float) -> tuple[Tensor, list[str]]:
    """`count` random chunks of `videos` (first chunks: `data.openings`) [B, C, 3, Y, X] and a prompt for each."""
    picks = [(rng.randrange(len(videos)), rng.randrange(videos.chunks)) for _ in range(count)]
    return torch.stack([videos.clip(v, c, 1) for v, c in picks]), [videos.prompt(v, c, rng, drop) for v, c in picks]


def picture_flow(student: Student, x: Tensor, sigma: Tensor, prompts: list[str]) -> Tensor:
    """The flow of first chunks [B, C, 3, Y, X] at noise level sigma [B]: positions 0, 1, 2 and nothing to remember."""
    context = SelfContext(len(x), student.rope(range(x.shape[2]), x))
    return student.flow(x, sigma, student.text_keys_values(prompts), context)


def train_pictures(data: Path, folder: Path, config: PictureTraining, start: Path | None = None) -> Student:
    """Trains (or resumes) in `folder` on the first chunks in `data`; writes the EMA weights to `student/`.

    Begins with the student in `start`, or with fresh weights.
    """
    network = Student.load(start) if start else Student.embedded()
    stage = set_up(folder, config.budget, config.seed, (network, config.rates))
    learner, accelerator = stage.learners[0], stage.accelerator
    videos = LatentVideos(openings(data))
    for step in stage.run.steps():
        learner.schedule(stage.run, decay=.25)
        x0, prompts = sample_chunks(videos, stage.rng, config.batch, config.drop)
        x0 = x0.to(accelerator.device)
        sigma = sample_sigmas(len(x0), SHIFT, student_levels(), config.focus).to(x0)
        noise = torch.randn_like(x0)
        with accelerator.autocast():
            flow = learner.model(picture_flow, noised(x0, noise, sigma), sigma, prompts)
        loss = flow_matching(flow, x0, noise)
        accelerator.backward(loss)
        norm = learner.step(accelerator)
        if step % 25 == 0:
            high = sigma > .95
            error = (flow.detach() - (noise - x0)).square().flatten(1).mean(1)
            stage.run.log(loss=loss.detach(), pure_noise=error[high].mean() if high.any() else -1.0, norm=norm)
        if step % 100 == 0:
            videos.refresh()
    return learner.finish(accelerator, folder / "student")
