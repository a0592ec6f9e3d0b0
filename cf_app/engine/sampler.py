"""The few-step sampler: schedule, noise, and the loop, all pure.

Semantics of Self-Forcing's pipeline: x0 = x - sigma * flow in float64, then (1 - sigma') x0 + sigma' * fresh noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cf_app.config import SamplerConfig

TABLE = 1000
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Schedule:
    """Timesteps (0..1000, as the network gets them) and noise levels sigma (0..1), falling."""

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]

    @staticmethod
    def of(config: SamplerConfig) -> Schedule:
        """Warp the nominal steps by the flow shift: sigma = s u / (1 + (s - 1) u), u from a float32 table."""
        grid = torch.linspace(1.0, 0.0, TABLE + 1)[:-1]
        sigmas = config.shift * grid / (1 + (config.shift - 1) * grid)
        chosen = sigmas[[TABLE - step for step in config.timesteps]]
        return Schedule(tuple((chosen * TABLE).tolist()), tuple(chosen.tolist()))

    def __len__(self) -> int:
        return len(self.sigmas)


def chunk_noise(seed: int, chunk: int, steps: int, shape: Sequence[int]) -> Tensor:
    """All noise of a chunk, from (seed, chunk) alone and the same on every device.

    Returns:
        float32 [steps, 1, *shape] on the CPU: the initial noise, then the fresh noise before each later step.
    """
    check_seed(seed)
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, chunk], dtype=np.uint64)))
    return torch.from_numpy(generator.standard_normal((steps, 1, *shape), dtype=np.float32))


def check_seed(seed: int) -> None:
    """Raise ValueError unless ``seed`` is a whole number from 0 to 2**32 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed!r}, expected a whole number from 0 to {MAX_SEED}")


def denoise_chunk(
    predict: Callable[[Tensor, int], Tensor],
    noise: Tensor,
    schedule: Schedule,
    observe: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Clean latents of a chunk.

    Args:
        predict: (latents [B, C, F, Y, X], step) -> flow of the same shape.
        noise: [steps, B, C, F, Y, X], as from ``chunk_noise``.
        observe: called with (step, flow, x0) after every step.
    """
    x = noise[0]
    for step, sigma in enumerate(schedule.sigmas):
        flow = predict(x, step)
        x0 = (x.double() - sigma * flow.double()).to(x.dtype)
        if observe is not None:
            observe(step, flow, x0)
        if step + 1 < len(schedule):
            # Plain numbers: a tensor made here would be copied to the device, and that copy waits for all work there.
            following = schedule.sigmas[step + 1]
            x = (1 - following) * x0 + following * noise[step + 1]
    return x0
