"""Noise of the next chunk, drawn while a GPU is busy with this one: a fraction of a chunk's time on the host."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from cf_app.engine.sampler import chunk_noise

Key = tuple[int, int]  # seed, chunk
_KEPT = 8  # sessions that take turns


class NoiseAhead:
    """``chunk_noise`` on ``device``, the same numbers, sooner.

    Args:
        ahead: draw the next chunk's in a second thread. Worth it where the host is idle meanwhile.
    """

    def __init__(self, steps: int, shape: Sequence[int], device: torch.device, *, ahead: bool) -> None:
        self._steps, self._shape, self._device = steps, tuple(shape), device
        self._pool = ThreadPoolExecutor(1, "cf-noise") if ahead else None
        self._drawn: dict[Key, Future[Tensor]] = {}

    def __call__(self, seed: int, chunk: int) -> Tensor:
        """[steps, 1, C, F, Y, X] on the device; one caller at a time."""
        if self._pool is None:
            return self._draw(seed, chunk).to(self._device)
        drawn = self._drawn.pop((seed, chunk), None)
        noise = self._draw(seed, chunk) if drawn is None else drawn.result()
        self._drawn[seed, chunk + 1] = self._pool.submit(self._draw, seed, chunk + 1)
        while len(self._drawn) > _KEPT:
            self._drawn.pop(next(iter(self._drawn)))
        return noise.to(self._device, non_blocking=True)

    def _draw(self, seed: int, chunk: int) -> Tensor:
        noise = chunk_noise(seed, chunk, self._steps, self._shape)
        return noise.pin_memory() if self._device.type == "cuda" else noise
