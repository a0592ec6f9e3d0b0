"""Small parts of a step: what it expects of a decoder, how it is timed and watched, how pictures leave it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cf_app.config import Geometry
from cf_app.engine.timeline_markers import MemoryMark
from cf_app.memory.context import ChunkContext
from cf_app.memory.policy import Policy, policy_from_dict

DecoderState = tuple[Tensor | None, ...] | None
THUMBNAIL_WIDTH = 96


class VideoAutoencoder(Protocol):
    """What a session needs of an autoencoder. States are handed in and out and never changed in place."""

    def encode(self, frames: Tensor) -> Tensor:
        """[B, 3, P, H, W] in [-1, 1] -> normalised latents [B, C, P / temporal_scale, Y, X]."""
        ...

    def initial_state(self, batch: int = 1) -> DecoderState:
        """State before the first latent frame."""
        ...

    def check_state(self, state: DecoderState) -> None:
        """Raises ValueError where ``state`` is of another decoder."""
        ...

    def decode(self, latents: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """[B, C, F, Y, X] -> [B, 3, temporal_scale * F, H, W] in [-1, 1], and the next state."""
        ...


@dataclass(frozen=True)
class Observer:
    """Looks into a step without changing it; for tests and for research.

    Attributes:
        on_pass: (pass, flow, x0 or None for the clean pass, context) after every pass.
        on_recache: (latent frames, flow) after a re-cache.
    """

    on_pass: Callable[[int, Tensor, Tensor | None, ChunkContext], None] | None = None
    on_recache: Callable[[list[int], Tensor], None] | None = None


class Clock:
    """Milliseconds by stage.

    On a GPU they are the GPU's own: a lap leaves a mark in the queue of work, and ``settle`` reads the marks once the
    work is done, so that nothing waits in between.
    """

    def __init__(self, spent: Mapping[str, float] | None = None, device: torch.device | None = None) -> None:
        self.spent: dict[str, float] = dict(spent or {})
        self._on_gpu = device is not None and device.type == "cuda"
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._last: float | torch.cuda.Event = self._now()

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        return mark

    def restart(self) -> None:
        """The next lap begins now."""
        self._last = self._now()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to ``stage``."""
        before, self._last = self._last, self._now()
        if isinstance(before, float) and isinstance(self._last, float):
            self._add(stage, 1000 * (self._last - before))
        elif isinstance(before, torch.cuda.Event) and isinstance(self._last, torch.cuda.Event):
            self._marks.append((stage, before, self._last))

    def settle(self) -> dict[str, float]:
        """All stages so far; waits for their work where that is not done."""
        while self._marks:
            stage, before, after = self._marks.pop(0)
            after.synchronize()
            self._add(stage, before.elapsed_time(after))
        return self.spent

    def move(self, stage: str, to: str, milliseconds: float) -> None:
        """Count some of what was counted under ``stage`` under ``to``."""
        self.settle()
        self._add(stage, -milliseconds)
        self._add(to, milliseconds)

    def apart(self) -> Clock:
        """A second clock for a part of the work that runs in another thread or stream; see ``join``."""
        other = Clock()
        other._on_gpu = self._on_gpu
        other.restart()
        return other

    def join(self, other: Clock) -> None:
        """Add what another clock has measured."""
        for stage, milliseconds in other.settle().items():
            self._add(stage, milliseconds)

    def copy(self) -> Clock:
        """An independent clock with the same times."""
        return Clock(self.settle())

    def _add(self, stage: str, milliseconds: float) -> None:
        self.spent[stage] = self.spent.get(stage, 0.0) + milliseconds


def marked_policy(marker: MemoryMark, base: Policy) -> Policy:
    """The policy that a memory marker asks for; ValueError if there is none of that name, or it has no tau."""
    return policy_from_dict(dict(marker.changes), base)


def to_pictures(frames: Tensor, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """From a decoder's [3, P, H, W] in [-1, 1] to pictures.

    Returns:
        uint8 [P, H, W, 3], and thumbnails uint8 [F, h, w, 3]: the middle picture of every latent frame.
    """
    pictures = ((frames.float() + 1) * 127.5).round().clamp(0, 255)
    middle = pictures[:, geometry.temporal_scale // 2 :: geometry.temporal_scale].transpose(0, 1)
    width = min(THUMBNAIL_WIDTH, geometry.width)
    height = max(1, round(geometry.height * width / geometry.width))
    small = F.interpolate(middle, (height, width), mode="area").round()
    return (
        pictures.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy(),
        small.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy(),
    )
