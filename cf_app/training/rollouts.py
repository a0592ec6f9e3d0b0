"""Stage 2 of the student: whole videos, chunk by chunk over the Slow-Fast memory, on recorded truth.

Each step stands at one chunk of a batch of videos. The previous chunk's clean pass runs with gradients over the
memory of its time, then several noisy copies of the present chunk run over the present memory; so training and
generation attend to exactly the same slots. Older keys and values are kept without gradients.
Error recycling (Context Forcing): what becomes context is often the student's own prediction of that chunk, or the
truth with a residual of other predictions from a bank, so that the student learns to continue from its own mistakes.
A few videos run freely, on few-step samples of their own (Self Forcing): only such whose camera stands, because there
the truth goes on to be right; where new landmarks come, the student's are as good as the world's.
"""
from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..memory.lanes import simulate
from ..memory.policy import Policy, SlowFast
from ..model.attention import TextKV
from ..model.rope import rotate
from .data import CHUNK_LATENTS, LatentVideos, openings
from .loop import Budget, Ema, Run
from .losses import flow_matching, noised, predicted_x0, sample_sigmas
from .pictures import picture_flow, sample_chunks
from .student import SHIFT, Student, student_levels


@dataclass(frozen=True)
class RolloutTraining:
    """`videos` rolled out together, `copies` noise levels for each chunk, `pictures` first chunks beside them.

    `own`: probability that a chunk becomes context as the student predicted it; of the rest, `recycle` get a residual
    from the bank. `free` of the videos run on their own samples, back on the truth with probability `back` a chunk.
    """

    budget: Budget
    videos: int = 6
    copies: int = 2
    pictures: int = 12
    drop: float = 0.05
    focus: float = 0.7
    own: float = 0.5
    recycle: float = 0.5
    free: int = 2
    back: float = 0.1
    muon_rate: float = 3e-3
    adam_rate: float = 6e-4
    ema: float = 0.997
    seed: int = 0


@dataclass
class MemoryContext:
    """A `KVContext` over stored keys and values of chosen latents; keeps what the pass computes for its own chunk."""

    batch: int
    query_rope: Tensor
    memory_rope: Tensor | None
    memory: list[tuple[Tensor, Tensor]]
    mask: Tensor | None = None
    own: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Own keys (not rotated) and values [B, Tq, H, D]; returns rotated keys and values with the memory in front."""
        self.own.append((key, value))
        rotated = rotate(key, self.query_rope)
        if self.memory_rope is None:
            return rotated, value
        past_key, past_value = self.memory[layer]
        past = rotate(past_key, self.memory_rope)
        repeat = self.batch // len(past)
        past, past_value = past.repeat(repeat, 1, 1, 1), past_value.repeat(repeat, 1, 1, 1)
        return torch.cat([past, rotated], 1), torch.cat([past_value, value], 1)


class Rollout:
    """A batch of videos on their way: stored keys and values by latent frame, and the plan of what each chunk reads."""

    def __init__(self, latents: Tensor, prompts: list[list[str]], promotions: Sequence[bool],
                 policy: Policy) -> None:
        self.latents, self.prompts, self.chunk = latents, prompts, 0
        self.plan = simulate(policy.rule(CHUNK_LATENTS), promotions, CHUNK_LATENTS)
        self.stored: dict[int, list[tuple[Tensor, Tensor]]] = {}

    @property
    def chunks(self) -> int:
        return self.latents.shape[2] // CHUNK_LATENTS

    def truth(self, chunk: int) -> Tensor:
        """Clean latents of `chunk`: [B, C, 3, Y, X]."""
        return self.latents[:, :, chunk * CHUNK_LATENTS:(chunk + 1) * CHUNK_LATENTS]

    def context(self, student: Student, chunk: int, batch: int, videos: slice = slice(None)) -> MemoryContext:
        """What `chunk` may read, for `batch` samples (a multiple of the `videos`, copy-major)."""
        reads, own = self.plan[chunk]
        query = student.rope(own, self.latents)
        if not reads:
            return MemoryContext(batch, query, None, [])
        cells = [self.stored[read.cell.latent] for read in reads]
        memory = [(torch.cat([cell[layer][0][videos] for cell in cells], 1),
                   torch.cat([cell[layer][1][videos] for cell in cells], 1))
                  for layer in range(len(student.transformer.blocks))]
        return MemoryContext(batch, query, student.rope([read.position for read in reads], self.latents), memory)

    def store(self, chunk: int, own: list[tuple[Tensor, Tensor]]) -> None:
        """Keeps a clean pass's keys and values, latent frame by latent frame."""
        pieces = [(k.chunk(CHUNK_LATENTS, 1), v.chunk(CHUNK_LATENTS, 1)) for k, v in own]
        for i in range(CHUNK_LATENTS):
            self.stored[chunk * CHUNK_LATENTS + i] = [(k[i], v[i]) for k, v in pieces]

    def advance(self) -> None:
        """Goes on to the next chunk: cuts gradients and forgets what no chunk reads again."""
        keep = {read.cell.latent for plan in self.plan[self.chunk:self.chunk + 2] for read in plan[0]}
        self.stored = {latent: [(k.detach(), v.detach()) for k, v in layers]
                       for latent, layers in self.stored.items() if latent in keep}
        self.chunk += 1


def rollout_flow(student: Student, rollout: Rollout, clean: Tensor | None, noisy: Tensor, sigma: Tensor) -> Tensor:
    """The flow of `noisy` [copies * B, ...] at the rollout's chunk, after the clean pass over the chunk before it."""
    chunk, videos = rollout.chunk, len(rollout.latents)
    if clean is not None:
        context = rollout.context(student, chunk - 1, videos)
        text = student.text_keys_values([p[chunk - 1] for p in rollout.prompts])
        student.flow(clean, torch.zeros(videos, device=clean.device), text, context)
        rollout.store(chunk - 1, context.own)
    copies = len(noisy) // videos
    text = student.text_keys_values([p[chunk] for p in rollout.prompts])
    text = TextKV(tuple(k.repeat(copies, 1, 1, 1) for k in text.keys),
                  tuple(v.repeat(copies, 1, 1, 1) for v in text.values))
    return student.flow(noisy, sigma, text, rollout.context(student, chunk, len(noisy)))


def start_rollout(videos: LatentVideos, config: RolloutTraining, rng: random.Random, device: torch.device) -> Rollout:
    """Random videos from their start, first those that run freely; how often a chunk is promoted is drawn anew."""
    length = videos.chunks
    still = videos.still or range(len(videos))
    picks = [rng.choice(still) for _ in range(config.free)]
    picks += [rng.randrange(len(videos)) for _ in range(config.videos - config.free)]
    prompts = [[videos.prompt(v, c, rng, config.drop) for c in range(length)] for v in picks]
    latents = torch.stack([videos.clip(v, 0, length) for v in picks]).to(device)
    rate = rng.choice((0.1, 0.3, 0.5, 0.5, 0.7, 1.0))
    return Rollout(latents, prompts, [rng.random() < rate for _ in range(length)], SlowFast())


def recycle_errors(x: Tensor, bank: Sequence[Tensor], probability: float, rng: random.Random) -> Tensor:
    """x + I e with I ~ Bernoulli(probability) for each sample and e a residual of the bank (Context Forcing, eq. 9)."""
    if not bank:
        return x
    errors = torch.stack([rng.choice(bank) * (rng.random() < probability) for _ in range(len(x))])
    return x + errors.to(x)


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
    """`truth` [B, ...]; with `probability` a sample is one of its predictions ([copies * B, ...], copy-major)."""
    if predicted is None:
        return truth
    copies = predicted.to(truth).unflatten(0, (-1, len(truth)))
    return torch.stack([copies[rng.randrange(len(copies)), i] if rng.random() < probability else x
                        for i, x in enumerate(truth)])


def train_rollouts(data: Path, start: Path, folder: Path, config: RolloutTraining) -> Student:
    """Trains (or resumes) the student in `start` on the shards in `data`; writes the EMA weights to `student/`."""
    accelerator = Accelerator(mixed_precision="bf16")
    torch.manual_seed(config.seed + accelerator.process_index)
    student = Student.load(start)
    optimizers = student.optimizers(config.muon_rate, config.adam_rate)
    model, *prepared = accelerator.prepare(student, *optimizers)
    run, ema = Run(accelerator, folder, config.budget), Ema(student, config.ema)
    accelerator.register_for_checkpointing(run, ema)
    run.resume()
    videos, rng = LatentVideos(data), random.Random(config.seed * 1000 + accelerator.process_index + run.step)
    first = LatentVideos(openings(data))
    rollout, bank = start_rollout(videos, config, rng, accelerator.device), deque[Tensor](maxlen=400)
    predicted: Tensor | None = None
    samples: Sequence[Tensor] = ()
    for step in run.steps():
        run.schedule(optimizers, [config.muon_rate, config.adam_rate], decay=.45)
        x0 = rollout.truth(rollout.chunk).repeat(config.copies, 1, 1, 1, 1)
        clean = None
        if rollout.chunk:
            clean = recycle_errors(rollout.truth(rollout.chunk - 1), bank, config.recycle, rng)
            clean = own_predictions(clean, predicted, config.own, rng)
            kept = [sample if rng.random() >= config.back else clean[i] for i, sample in enumerate(samples)]
            clean = torch.stack([*kept, *clean[len(kept):]])
        sigma = sample_sigmas(len(x0), SHIFT, student_levels(), config.focus).to(x0)
        noise = torch.randn_like(x0)
        noisy = noised(x0, noise, sigma)
        with accelerator.autocast():
            flow = model(rollout_flow, rollout, clean, noisy, sigma)
        errors = (flow.detach() - (noise - x0)).square().flatten(1).mean(1)
        loss = flow_matching(flow, x0, noise)
        accelerator.backward(loss)
        picture = _picture_loss(model, first, config, rng, accelerator)
        norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in prepared:
            optimizer.step()
            optimizer.zero_grad()
        ema.update(student)
        predicted = predicted_x0(noisy, flow.detach(), sigma)
        bank.extend((predicted - x0)[sigma < .75].half().unbind(0))
        if step % 20 == 0:
            run.log(chunk=float(rollout.chunk), loss=loss.detach(), high_noise=_mean(errors[sigma > .8]),
                    low_noise=_mean(errors[sigma < .5]), picture=picture, norm=norm)
        if rollout.chunk and config.free:
            with accelerator.autocast():
                samples = sampled_chunk(student, rollout, slice(config.free)).unbind(0)
        rollout.advance()
        if rollout.chunk == rollout.chunks:
            videos.refresh()
            rollout, samples = start_rollout(videos, config, rng, accelerator.device), ()
    ema.copy_to(student)
    if accelerator.is_main_process:
        student.save(folder / "student")
    return student


def _mean(values: Tensor) -> float:
    """-1 where there is none: JSON has no NaN."""
    return float(values.mean()) if len(values) else -1.0


def _picture_loss(model: torch.nn.Module, first: LatentVideos, config: RolloutTraining, rng: random.Random,
                  accelerator: Accelerator) -> Tensor:
    """Keeps the first chunk in training: adds its gradient, weighted by its share of the samples."""
    x0, prompts = sample_chunks(first, rng, config.pictures, config.drop)
    x0 = x0.to(accelerator.device)
    sigma = sample_sigmas(len(x0), SHIFT, student_levels(), config.focus).to(x0)
    noise = torch.randn_like(x0)
    with accelerator.autocast():
        loss = flow_matching(model(picture_flow, noised(x0, noise, sigma), sigma, prompts), x0, noise)
    accelerator.backward(loss * config.pictures / (config.videos * config.copies))
    return loss.detach()
