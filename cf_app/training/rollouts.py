"""Stage 2 of the student: whole videos, chunk by chunk over the Slow-Fast memory, on recorded truth.

Each step stands at one chunk of a batch of videos. The previous chunk's clean pass runs with gradients over the
memory of its time, then several noisy copies of the present chunk run over the present memory; so training and
generation attend to exactly the same slots. Older keys and values are kept without gradients.
Error recycling (Context Forcing): what becomes context is often the student's own prediction of that chunk, or the
truth with a residual of other predictions from a bank, so that the student learns to continue from its own mistakes.
A few videos run freely, on few-step samples of their own (Self Forcing): only such whose camera stands, because there
the truth goes on to be right; where new landmarks come, the student's are as good as the world's.
What only memory can know comes back in the few chunks after a camera has swept: walks through videos whose cameras
sweep away and back pass most other chunks by, remembering them without learning from them.
"""
from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..memory.policy import SlowFast
from .data import LatentVideos, openings
from .loop import Budget
from .losses import flow_matching, inject_errors, noised, predicted_x0, sample_sigmas
from .pictures import picture_flow, sample_chunks
from .rollout import Rollout, remember_previous, rollout_flow
from .setup import Rates, Stage, set_up
from .student import SHIFT, TRAINED_TIMESTEPS, Student, student_levels

ROLLOUT_RATES = Rates(muon=3e-3, adam=6e-4, ema=0.997)


@dataclass(frozen=True)
class RolloutTraining:
    """`videos` rolled out together, `copies` noise levels for each chunk, `pictures` first chunks beside them.

    `own`: probability that a chunk becomes context as the student predicted it; of the rest, `recycle` get a residual
    from the bank. `away` of the walks go through videos whose cameras sweep away and back, and stop at the turns (the
    chunk of the sweep, and the one after it) and at `stops` of the other chunks. `free` of the videos run on their own
    samples, back on the truth with probability `back` a chunk. `focus` of the noise levels are the student's own.
    """

    budget: Budget
    videos: int = 8
    copies: int = 2
    pictures: int = 6
    drop: float = 0.05
    focus: float = 0.7
    away: float = 0.6
    stops: float = 0.3
    own: float = 0.5
    recycle: float = 0.5
    free: int = 3
    back: float = 0.05
    rates: Rates = ROLLOUT_RATES
    seed: int = 0


def start_rollout(videos: LatentVideos, config: RolloutTraining, rng: random.Random, device: torch.device) -> Rollout:
    """Random videos from their start, first those that run freely; how often a chunk is promoted is drawn anew."""
    length = videos.chunks
    if videos.together and rng.random() < config.away:
        members, turns = rng.choice(videos.together)
        still = [v for v in members if videos.starts_still(v)]
        free = config.free if still else 0
        picks = rng.choices(still or members, k=free) + rng.choices(members, k=config.videos - free)
        promotions = look_away_promotions(turns, length, rng)
    else:
        still, free, turns = videos.still or list(range(len(videos))), config.free, ()
        picks = [rng.choice(still) for _ in range(free)]
        picks += [rng.randrange(len(videos)) for _ in range(config.videos - free)]
        rate = rng.choice((0.1, 0.3, 0.5, 0.5, 0.7, 1.0))
        promotions = [rng.random() < rate for _ in range(length)]
    prompts = [[videos.prompt(v, c, rng, config.drop) for c in range(length)] for v in picks]
    latents = torch.stack([videos.clip(v, 0, length) for v in picks]).to(device)
    return Rollout(latents, prompts, promotions, SlowFast(), free, turns)


def look_away_promotions(turns: Sequence[int], length: int, rng: random.Random) -> list[bool]:
    """As surprisal would choose: mostly the first chunk of a new view, often the one after it, few others.

    Of the chunk that sweeps, slow memory keeps the first latent frame, which still shows what is left; of the one after
    it, where the camera went.
    """
    rate = rng.choice((0.0, 0.05, 0.1, 0.2))
    return [rng.random() < (.9 if chunk in turns else .7 if chunk - 1 in turns else rate) for chunk in range(length)]


@torch.no_grad()
def sampled_chunk(student: Student, rollout: Rollout, videos: slice) -> Tensor:
    """The rollout's chunk as the few-step sampler makes it for `videos` of the batch: [len, C, 3, Y, X]."""
    levels = student_levels()
    text = student.text_keys_values([p[rollout.chunk] for p in rollout.prompts[videos]])
    clean = x = torch.randn_like(rollout.truth(rollout.chunk)[videos])
    for i, level in enumerate(levels):
        sigma = torch.full((len(x),), level, device=x.device)
        context = rollout.context(student, rollout.chunk, len(x), videos)
        clean = predicted_x0(x, student.flow(x, sigma, text, context), sigma)
        if i + 1 < len(levels):
            x = noised(clean, torch.randn_like(clean), torch.full_like(sigma, levels[i + 1]))
    return clean


def own_predictions(truth: Tensor, predicted: Tensor | None, probability: float, rng: random.Random) -> Tensor:
    """`truth` [B, ...]; with `probability` a sample is as `predicted` [B, ...]."""
    if predicted is None:
        return truth
    return torch.stack([guess if rng.random() < probability else x
                        for guess, x in zip(predicted.to(truth), truth, strict=True)])


def least_noisy(predicted: Tensor, sigma: Tensor, videos: int) -> Tensor:
    """Of the predictions [copies * B, ...] (copy-major) those of each of the `videos` B from the least noise [B, ...].

    From much noise a prediction is the mean of all that could come, which no sampler leaves in a context: whoever goes
    on from it learns that a landmark begins as a blur.
    """
    best = sigma.unflatten(0, (-1, videos)).argmin(0)
    return predicted.unflatten(0, (-1, videos))[best, torch.arange(videos, device=best.device)]


class Walk:
    """The batch of videos that a training stands in, the errors it has made so far, and what it drew freely."""

    def __init__(self, data: Path, stage: Stage, config: RolloutTraining) -> None:
        self.stage, self.config, self.learner = stage, config, stage.learners[0]
        self.device = stage.accelerator.device
        self.videos, self.first = LatentVideos(data), LatentVideos(openings(data))
        self.bank = deque[Tensor](maxlen=400)
        self.start()

    def start(self) -> None:
        """New videos."""
        self.videos.refresh()
        self.rollout = start_rollout(self.videos, self.config, self.stage.rng, self.device)
        self.predicted: Tensor | None = None
        self.samples: Sequence[Tensor] = ()

    def context(self) -> Tensor | None:
        """The chunk before as it becomes memory: true, with an error of the bank, as predicted, or as sampled."""
        rollout, config, rng = self.rollout, self.config, self.stage.rng
        if not rollout.chunk:
            return None
        clean = rollout.truth(rollout.chunk - 1)
        if self.bank:
            hit = torch.tensor([rng.random() < config.recycle for _ in clean], device=clean.device)
            clean = inject_errors(clean, torch.stack([rng.choice(self.bank) for _ in clean]).to(clean), hit)
        clean = own_predictions(clean, self.predicted, config.own, rng)
        kept = [sample if rng.random() >= config.back else clean[i] for i, sample in enumerate(self.samples)]
        return torch.stack([*kept, *clean[len(kept):]])

    def step(self) -> dict[str, Tensor | float]:
        """One update at the next chunk to stop at; goes on to the one after. Returns what is worth logging."""
        config, accelerator = self.config, self.stage.accelerator
        while self.rollout.turns and not self.rollout.turning and self.stage.rng.random() >= config.stops:
            self._pass_by()
        rollout = self.rollout
        x0, clean = rollout.truth(rollout.chunk).repeat(config.copies, 1, 1, 1, 1), self.context()
        sigma = _sigmas(len(x0), config).to(x0)
        noise = torch.randn_like(x0)
        noisy = noised(x0, noise, sigma)
        with accelerator.autocast():
            flow = self.learner.model(rollout_flow, rollout, clean, noisy, sigma)
        errors = (flow.detach() - (noise - x0)).square().flatten(1).mean(1)
        loss = flow_matching(flow, x0, noise)
        accelerator.backward(loss)
        picture = self._picture()
        norm = self.learner.step(accelerator)
        predicted = predicted_x0(noisy, flow.detach(), sigma)
        self.predicted = least_noisy(predicted, sigma, len(rollout.latents))
        self.bank.extend((predicted - x0)[sigma < .75].half().unbind(0))
        values: dict[str, Tensor | float] = {
            "chunk": float(rollout.chunk), "loss": loss.detach(), "high_noise": _mean(errors[sigma > .8]),
            "low_noise": _mean(errors[sigma < .5]), "picture": picture, "norm": norm}
        self._advance()
        return values

    def _picture(self) -> Tensor:
        """Keeps the first chunk in training: adds its gradient, weighted by its share of the samples."""
        config, accelerator = self.config, self.stage.accelerator
        x0, prompts = sample_chunks(self.first, self.stage.rng, config.pictures, config.drop)
        x0 = x0.to(self.device)
        sigma = _sigmas(len(x0), config).to(x0)
        noise = torch.randn_like(x0)
        with accelerator.autocast():
            loss = flow_matching(self.learner.model(picture_flow, noised(x0, noise, sigma), sigma, prompts), x0, noise)
        accelerator.backward(loss * config.pictures / (config.videos * config.copies))
        return loss.detach()

    @torch.no_grad()
    def _pass_by(self) -> None:
        """Remembers the chunk before the present one, and goes on without an update."""
        clean = self.context()
        if clean is not None:
            with self.stage.accelerator.autocast():
                remember_previous(self.learner.network, self.rollout, clean)
        self.predicted = None
        self._advance()

    def _advance(self) -> None:
        self.samples = ()
        if self.rollout.free and not self.rollout.inventing:
            with self.stage.accelerator.autocast():
                student = self.learner.network
                self.samples = sampled_chunk(student, self.rollout, slice(self.rollout.free)).unbind(0)
        self.rollout.advance()
        if self.rollout.chunk == self.rollout.chunks:
            self.start()


def train_rollouts(data: Path, start: Path, folder: Path, config: RolloutTraining) -> Student:
    """Trains (or resumes) the student in `start` on the shards in `data`; writes the EMA weights to `student/`."""
    stage = set_up(folder, config.budget, config.seed, (Student.load(start), config.rates))
    learner, walk = stage.learners[0], Walk(data, stage, config)
    for step in stage.run.steps():
        learner.schedule(stage.run, decay=.45)
        values = walk.step()
        if step % 20 == 0:
            stage.run.log(**values)
    return learner.finish(stage.accelerator, folder / "student")


def _sigmas(count: int, config: RolloutTraining) -> Tensor:
    return sample_sigmas(count, SHIFT, student_levels(timesteps=TRAINED_TIMESTEPS), config.focus)


def _mean(values: Tensor) -> float:
    """-1 where there is none: JSON has no NaN."""
    return float(values.mean()) if len(values) else -1.0
