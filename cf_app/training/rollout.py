"""A batch of videos read chunk by chunk through the memory of generation, in training: same slots, same positions.

The clean pass over a chunk makes its keys and values, with gradients; older ones are kept without. Knows nothing of
losses or of where the chunks come from.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..memory.lanes import simulate
from ..memory.policy import Policy
from ..model.attention import TextKV
from ..model.rope import rotate
from .data import CHUNK_LATENTS
from .student import Student


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
    """A batch of videos on their way: stored keys and values by latent frame, and the plan of what each chunk reads.

    The first `free` of them run on samples of the student's own. `turns` are the chunks at which their cameras
    sweep away and back, if they do so together. `given` [B, F, X] are the columns of cells whose truth no student can
    know and is given to it, if the truth is known of all others.
    """

    def __init__(self, latents: Tensor, prompts: list[list[str]], promotions: Sequence[bool],
                 policy: Policy, free: int = 0, turns: Sequence[int] = (),
                 given: Tensor | None = None) -> None:
        self.latents, self.prompts, self.chunk, self.free, self.turns = latents, prompts, 0, free, turns
        self.given = given
        self.plan = simulate(policy.rule(CHUNK_LATENTS), promotions, CHUNK_LATENTS)
        self.stored: dict[int, list[tuple[Tensor, Tensor]]] = {}

    @property
    def chunks(self) -> int:
        return self.latents.shape[2] // CHUNK_LATENTS

    @property
    def turning(self) -> bool:
        """Whether the cameras sweep to another view in this chunk."""
        return self.chunk in self.turns

    @property
    def inventing(self) -> bool:
        """Whether this chunk shows what no chunk before it did (where no camera moves but by turning)."""
        return self.chunk in (0, *self.turns[:1])

    def truth(self, chunk: int) -> Tensor:
        """Clean latents of `chunk`: [B, C, 3, Y, X]."""
        return self.latents[:, :, chunk * CHUNK_LATENTS:(chunk + 1) * CHUNK_LATENTS]

    def given_cells(self, chunk: int) -> Tensor | None:
        """Of `chunk`, where the truth is given, broadcast over [B, C, 3, Y, X]; None where the truth is not known."""
        if self.given is None:
            return None
        return self.given[:, None, chunk * CHUNK_LATENTS:(chunk + 1) * CHUNK_LATENTS, None]

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
        remember_previous(student, rollout, clean)
    copies = len(noisy) // videos
    text = student.text_keys_values([p[chunk] for p in rollout.prompts])
    text = TextKV(tuple(k.repeat(copies, 1, 1, 1) for k in text.keys),
                  tuple(v.repeat(copies, 1, 1, 1) for v in text.values))
    return student.flow(noisy, sigma, text, rollout.context(student, chunk, len(noisy)))


def remember_previous(student: Student, rollout: Rollout, clean: Tensor) -> None:
    """The clean pass over the chunk before the rollout's own, of which `clean` [B, C, 3, Y, X] is to be remembered."""
    chunk, videos = rollout.chunk - 1, len(rollout.latents)
    context = rollout.context(student, chunk, videos)
    text = student.text_keys_values([p[chunk] for p in rollout.prompts])
    student.flow(clean, torch.zeros(videos, device=clean.device), text, context)
    rollout.store(chunk, context.own)
