"""Stage 1 of the student: the first chunk of a video from a prompt alone, where a sample costs least.

Flow matching (Lipman et al. 2023; x_s = (1 - s) x0 + s noise) on single chunks at positions 0, 1, 2 without context.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..model.attention import SelfContext
from .data import LatentVideos, openings
from .loop import Budget, Ema, Run
from .losses import flow_matching, noised, sample_sigmas
from .student import SHIFT, Student, student_levels


@dataclass(frozen=True)
class PictureTraining:
    """Single chunks: `batch` a step; `focus` of the noise levels are the student's own four."""

    budget: Budget
    batch: int = 40
    drop: float = 0.05
    focus: float = 0.3
    muon_rate: float = 5e-3
    adam_rate: float = 1e-3
    ema: float = 0.998
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
    accelerator = Accelerator(mixed_precision="bf16")
    torch.manual_seed(config.seed + accelerator.process_index)
    student = Student.load(start) if start else Student.embedded()
    optimizers = student.optimizers(config.muon_rate, config.adam_rate)
    model, *prepared = accelerator.prepare(student, *optimizers)
    run, ema = Run(accelerator, folder, config.budget), Ema(student, config.ema)
    accelerator.register_for_checkpointing(run, ema)
    run.resume()
    videos, rng = LatentVideos(openings(data)), random.Random(config.seed * 1000 + accelerator.process_index + run.step)
    for step in run.steps():
        run.schedule(optimizers, [config.muon_rate, config.adam_rate], decay=.25)
        x0, prompts = sample_chunks(videos, rng, config.batch, config.drop)
        x0 = x0.to(accelerator.device)
        sigma = sample_sigmas(len(x0), SHIFT, student_levels(), config.focus).to(x0)
        noise = torch.randn_like(x0)
        with accelerator.autocast():
            flow = model(picture_flow, noised(x0, noise, sigma), sigma, prompts)
        loss = flow_matching(flow, x0, noise)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in prepared:
            optimizer.step()
            optimizer.zero_grad()
        ema.update(student)
        if step % 25 == 0:
            high = sigma > .95
            error = (flow.detach() - (noise - x0)).square().flatten(1).mean(1)
            run.log(loss=loss.detach(), pure_noise=error[high].mean() if high.any() else -1.0, norm=norm)
        if step % 100 == 0:
            videos.refresh()
    ema.copy_to(student)
    if accelerator.is_main_process:
        student.save(folder / "student")
    return student
