"""The distillation: a few-step student learns from its own rollouts what a many-step teacher would have made of them.

Stage 1 (`distill`): short windows from nothing, every chunk a target. Stage 2 (`context`): long self-rollouts over the
Slow-Fast memory, the last chunks are targets, everything before them is context that the student made itself; student,
teacher and critic each run their own clean pass over it, so the scores are of the same context (contextual DMD). The
rollouts grow with the steps; context is fully denoised, targets leave at a random pass (clean context policy).

The loss of a rollout is a sum over target chunks given what came before them: by the chain rule that is the divergence
of the whole window. No recorded data is needed, only prompts.

What a teacher scores is a chunk's likelihood in its context, so it does not mind a shape that has melted there. Where
the truth is known all along (`known_rollout`), a second loss can hold the samples to it (`anchored`), in every step:
it needs no critic, so it need not wait until that one has caught up.

A teacher that has not trained for long draws means of what could come: pale landmarks, half of one and half of
another. Guided away from an earlier, worse version of itself it draws clear ones (autoguidance, Karras et al., arXiv
2406.02507): both err in the same direction, the worse one further.

A `Stream` is stage 2 where updates are dear: a rollout goes on from step to step and every chunk is first a target,
then context (LongLive's streaming long tuning), so no chunk is made for context alone. Older keys and values are those
of the weights of their time, as in `rollouts`.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..model.patch_vae import PatchVideoAutoencoder
from .autoencoder import load_autoencoder
from .data import CHUNK_LATENTS
from .loop import Budget
from .losses import (
    Flow,
    anchoring,
    contextual_dmd,
    critic_loss,
    guided,
    noised,
    rollout_horizon,
    rollout_passes,
    score_sigmas,
)
from .rollout import Rollout
from .self_rollout import beside, blank_rollout, denoise, glance, known_rollout, remember, rollout_prompts
from .setup import Learner, Rates, set_up
from .strips import Strip
from .student import SHIFT, Student, student_levels
from .world import HEIGHT, WIDTH

STUDENT_RATES, CRITIC_RATES = Rates(muon=2e-4, adam=4e-5, ema=0.99), Rates(muon=4e-4, adam=8e-5)


@dataclass(frozen=True)
class Distillation:
    """One stage of the distillation.

    Attributes:
        videos: rolled out together.
        targets: chunks at the end of a rollout that are supervised.
        first, last, ramp: chunks of the longest rollout at the beginning and after `ramp` steps; a rollout's length is
            drawn between `first` and that. Equal to `targets`: no context (stage 1).
        critic_updates: updates of the critic for one of the student (released code: 5).
        guidance: of the teacher, 0 for none (released code: 3 in stage 1, 5 in stage 2).
        autoguidance: of the teacher by a worse version of itself, where there is one.
        window: latent frames that the teacher sees, the chunk at hand included; None: the same memory as the student.
            A short one is the ablation "short-context teacher".
        size: [C, Y, X] of a latent frame.
        streaming: every step makes one chunk of a rollout that goes on (`Stream`); `targets` is not used.
        anchored: share of the streams whose truth is known; their samples are held to it with the weight `anchor`.
            `pans` of those may have cameras that pan.
        strip_chunks: of a sample for the strip.
    """

    budget: Budget
    videos: int = 4
    targets: int = 4
    first: int = 4
    last: int = 4
    ramp: int = 1
    critic_updates: int = 5
    guidance: float = 0.0
    autoguidance: float = 1.2
    window: int | None = None
    shift: float = SHIFT
    streaming: bool = False
    size: tuple[int, int, int] = (16, HEIGHT // 8, WIDTH // 8)
    anchored: float = 0.0
    anchor: float = 1.0
    pans: float = 0.0
    strip_chunks: int = 6
    student_rates: Rates = STUDENT_RATES
    critic_rates: Rates = CRITIC_RATES
    seed: int = 0

    @property
    def levels(self) -> tuple[float, ...]:
        """Noise levels of the student's passes."""
        return student_levels(self.shift)


def stage_two(budget: Budget, ramp: int = 600) -> Distillation:
    """Rollouts from 8 chunks (6 s) to 34 (25 s), `ramp` steps until the longest; the last 4 chunks are targets."""
    return Distillation(budget, first=8, last=34, ramp=ramp)


def streamed(budget: Budget) -> Distillation:
    """`Stream`s of 4 to 14 chunks (10 s) against a guided teacher. What made the shipped student: this, half of them
    `anchored`, from the start with rollouts of every length; at last with guidance 0.3, a `weak` teacher and `pans`
    of 0.35."""
    return Distillation(budget, first=4, last=14, ramp=600, critic_updates=2, guidance=0.6, streaming=True, pans=0.2,
                        student_rates=Rates(3e-4, 1e-4, 0.99), critic_rates=Rates(8e-4, 3e-4))


@dataclass
class Trio:
    """The student and the critic in training, and the teacher, which is not; perhaps a worse version of that."""

    accelerator: Accelerator
    student: Learner
    critic: Learner
    teacher: Student
    weak: Student | None = None

    @property
    def scores(self) -> tuple[nn.Module, ...]:
        """What scores the student's samples: critic, teacher, and the worse one."""
        teachers = (self.teacher,) if self.weak is None else (self.teacher, self.weak)
        return self.critic.model, *teachers

    def beside(self, mine: Rollout, window: int | None) -> tuple[Rollout, ...]:
        """For each of `scores` a rollout of its own; teachers may see no more than a `window`."""
        return beside(mine), *(beside(mine, window) for _ in self.scores[1:])


def distill_step(trio: Trio, config: Distillation, step: int, rng: random.Random) -> dict[str, Tensor | float]:
    """One rollout: an update of the critic, and of the student in every `critic_updates`th step.

    `rng` draws prompts; what every process must agree on (length, passes) comes from seed and step alone.
    """
    accelerator, shared = trio.accelerator, random.Random(f"{config.seed} {step}")
    chunks = shared.randint(config.first, rollout_horizon(step, config.ramp, config.first, config.last))
    passes = rollout_passes(chunks, config.targets, len(config.levels), shared)
    teaches = step % config.critic_updates == 0
    mine = blank_rollout(config.videos, chunks, config.size, CHUNK_LATENTS, rng, accelerator.device)
    others = trio.beside(mine, config.window)
    losses: dict[str, Tensor | float] = {"chunks": float(chunks), "passes": float(passes[-1])}
    for chunk in range(chunks):
        target = chunk >= chunks - config.targets
        noise = torch.randn_like(mine.truth(chunk))
        flow = partial(_learner_flow, trio.student, mine)
        with accelerator.autocast():
            x0 = denoise(flow, noise, config.levels[:passes[chunk]], gradient=target and teaches)
        if target:
            _add_losses(trio, config, x0, others, losses, teaches)
        mine.truth(chunk).copy_(x0.detach())
        if chunk + 1 < chunks:
            _remember_all(trio, mine, *others)
        for rollout in (mine, *others):
            rollout.advance()
    return losses | _update(trio, teaches)


class Stream:
    """Rollouts that go on from step to step: each step's chunk is a target, is finished, and becomes context.

    Raises:
        ValueError: the configuration asks for `anchored` streams and there is no autoencoder to encode their truth.
    """

    def __init__(self, trio: Trio, config: Distillation, rng: random.Random,
                 vae: PatchVideoAutoencoder | None = None) -> None:
        if config.anchored and vae is None:
            raise ValueError(f"{config.anchored:g} of the streams anchored to the truth: that needs the autoencoder")
        self.trio, self.config, self.rng, self.vae = trio, config, rng, vae
        self.rollouts: tuple[Rollout, ...] = ()

    def step(self, step: int) -> dict[str, Tensor | float]:
        """The next chunk of a batch of rollouts, or the first of new ones: an update of the critic, and of the student
        in every `critic_updates`th step. Where the truth is known the student has an update in every step: the truth
        waits for no critic."""
        trio, config, accelerator = self.trio, self.config, self.trio.accelerator
        self._stand(step)
        mine, *others = self.rollouts
        passes = random.Random(f"{config.seed} {step}").randint(1, len(config.levels))  # the same in every process
        teaches = step % config.critic_updates == 0
        losses: dict[str, Tensor | float] = {"chunk": float(mine.chunk), "passes": float(passes)}
        flow, truth = partial(_learner_flow, trio.student, mine), mine.truth(mine.chunk)
        given = mine.given_cells(mine.chunk)
        learns = teaches or _anywhere(accelerator, given is not None)
        with accelerator.autocast():
            x0 = denoise(flow, torch.randn_like(truth), config.levels[:passes], gradient=learns)
            clean, rest = x0.detach(), config.levels[passes:]
            if rest:
                sigma = torch.full((len(clean),), rest[0], device=clean.device)
                clean = denoise(flow, noised(clean, torch.randn_like(clean), sigma), rest)
        goal = None if given is None else torch.where(given, x0.detach(), truth)
        _add_losses(trio, config, x0, others, losses, teaches, goal)
        truth.copy_(clean if given is None else torch.where(given, truth, clean))
        self._go_on()
        return losses | _update(trio, learns)

    def _stand(self, step: int) -> None:
        """Goes to a chunk that is the student's to make, in new rollouts where there is none."""
        while True:
            if not self.rollouts or self.rollouts[0].chunk == self.rollouts[0].chunks:
                self._start(step)
            given = self.rollouts[0].given_cells(self.rollouts[0].chunk)
            if given is None or not given.all():
                return
            self._go_on()

    def _start(self, step: int) -> None:
        config, device = self.config, self.trio.accelerator.device
        chunks = self.rng.randint(config.first, rollout_horizon(step, config.ramp, config.first, config.last))
        if self.vae is not None and chunks > 1 and self.rng.random() < config.anchored:
            mine = known_rollout(self.vae, config.videos, chunks, self.rng, device, config.pans)
        else:
            mine = blank_rollout(config.videos, chunks, config.size, CHUNK_LATENTS, self.rng, device)
        self.rollouts = mine, *self.trio.beside(mine, config.window)

    def _go_on(self) -> None:
        _remember_all(self.trio, *self.rollouts)
        for rollout in self.rollouts:
            rollout.advance()


@torch.no_grad()
def _remember_all(trio: Trio, *rollouts: Rollout) -> None:
    """Every network's own clean pass over the chunk that the student made; rollouts of the student and the `scores`."""
    with trio.accelerator.autocast():
        for network, rollout in zip((trio.student.model, *trio.scores), rollouts, strict=True):
            network(remember, rollout)


def _update(trio: Trio, teaches: bool) -> dict[str, Tensor | float]:
    """Applies the gradients of the critic, and of the student if it `teaches`; returns their norms."""
    norms: dict[str, Tensor | float] = {"critic_norm": trio.critic.step(trio.accelerator)}
    if teaches:
        norms["student_norm"] = trio.student.step(trio.accelerator)
    return norms


def _anywhere(accelerator: Accelerator, yes: bool) -> bool:
    """Whether it is so in one process or more: an update of weights that are shared is everybody's."""
    return bool(accelerator.reduce(torch.tensor(float(yes), device=accelerator.device)) > 0)


def _add_losses(trio: Trio, config: Distillation, x0: Tensor, rollouts: Sequence[Rollout],
                losses: dict[str, Tensor | float], teaches: bool, truth: Tensor | None = None) -> None:
    """Adds the gradients of one target chunk, whose `truth` may be known, and the losses to `losses`.

    The student's are the teacher's, where it `teaches`, and the truth's; nothing at all where `x0` has a gradient for
    another process's sake.
    """
    critics, *teachers = rollouts
    targets = 1 if config.streaming else config.targets
    fake = partial(_learner_flow, trio.critic, critics)
    draw = partial(score_sigmas, len(x0), config.shift)
    with trio.accelerator.autocast():
        critic = critic_loss(x0, torch.randn_like(x0), draw().to(x0), fake) / targets
    trio.accelerator.backward(critic)
    losses["critic"] = losses.get("critic", 0.0) + critic.detach()
    if not x0.requires_grad:
        return
    loss = x0.sum() * 0
    if teaches:
        real = _guided_flow(trio, config, *teachers)
        with trio.accelerator.autocast():
            loss = contextual_dmd(x0, torch.randn_like(x0), draw().to(x0), real, fake) / targets
        losses["dmd"] = losses.get("dmd", 0.0) + loss.detach()
    if truth is not None:
        loss = loss + config.anchor * anchoring(x0, truth)
        losses["error"] = (x0.detach() - truth).square().mean()
    trio.accelerator.backward(loss)


def _learner_flow(learner: Learner, rollout: Rollout, x: Tensor, sigma: Tensor) -> Tensor:
    flow: Tensor = learner.model(glance, rollout, rollout_prompts(rollout), x, sigma)
    return flow


def _guided_flow(trio: Trio, config: Distillation, rollout: Rollout, weak: Rollout | None = None) -> Flow:
    """The teacher's flow; guidance of flows is guidance of the clean samples they predict, both are linear."""
    def flow(x: Tensor, sigma: Tensor) -> Tensor:
        prompts = rollout_prompts(rollout)
        asked = led = glance(trio.teacher, rollout, prompts, x, sigma)
        if config.guidance:
            led = guided(asked, glance(trio.teacher, rollout, [""] * len(x), x, sigma), config.guidance)
        if trio.weak is not None and weak is not None:
            led = led + config.autoguidance * (asked - glance(trio.weak, weak, prompts, x, sigma))
        return led
    return flow


def frozen(network: Student, device: torch.device) -> Student:
    """`network` as a teacher: on the device, without gradients."""
    return network.to(device).eval().requires_grad_(False)


def train_distillation(start: Path, teacher: Path, folder: Path, vae: Path, config: Distillation,
                       weak: Path | None = None) -> Student:
    """Trains (or resumes) the student in `start` against the teacher in `teacher`; the critic begins as the teacher.
    `weak` is a worse version of the teacher that guides it.

    Writes the averaged student to `student/` (the layout of every stage) and `strip.png` on the way.
    """
    stage = set_up(folder, config.budget, config.seed, (Student.load(start), config.student_rates),
                   (Student.load(teacher), config.critic_rates))
    student, critic = stage.learners
    teachers = (frozen(Student.load(path), stage.accelerator.device) for path in (teacher, weak) if path is not None)
    trio = Trio(stage.accelerator, student, critic, *teachers)
    strip = Strip(vae, folder, config.strip_chunks)
    stream = Stream(trio, config, stage.rng, load_autoencoder(vae) if config.anchored else None)
    for step in stage.run.steps():
        student.schedule(stage.run)
        critic.schedule(stage.run)
        losses = stream.step(step) if config.streaming else distill_step(trio, config, step, stage.rng)
        if step % 10 == 0:
            stage.run.log(**losses)
        strip.write(student.network, config.levels, config.size, step)
    return student.finish(stage.accelerator, folder / "student")


def shortened(config: Distillation, longest: int) -> Distillation:
    """The ablation "stage 1 only": no rollout is longer than `longest` chunks.

    Raises:
        ValueError: fewer than one chunk, or (where a rollout ends with its targets) fewer than those.
    """
    least = 1 if config.streaming else config.targets
    if longest < least:
        raise ValueError(f"rollouts of {longest} chunks: expected at least {least}")
    return replace(config, first=min(config.first, longest), last=longest)


def without_curriculum(config: Distillation) -> Distillation:
    """The ablation: the longest rollouts from the first step on."""
    return replace(config, ramp=1)
