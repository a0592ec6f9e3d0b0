"""The losses of every stage: small pure functions on tensors, each with its equation. No model, no state."""
from __future__ import annotations

import torch
from torch import Tensor


def shifted(u: Tensor, shift: float) -> Tensor:
    """Flow shift of noise levels u in [0, 1]: sigma = s u / (1 + (s - 1) u)."""
    return shift * u / (1 + (shift - 1) * u)


def noised(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_sigma = (1 - sigma) x0 + sigma noise; sigma [B] against [B, ...]."""
    s = sigma.view(-1, *[1] * (x0.ndim - 1))
    return (1 - s) * x0 + s * noise


def predicted_x0(x: Tensor, flow: Tensor, sigma: Tensor) -> Tensor:
    """x0 = x - sigma flow."""
    return x - sigma.view(-1, *[1] * (x.ndim - 1)) * flow


def flow_matching(flow: Tensor, x0: Tensor, noise: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of w |flow - (noise - x0)|^2 (rectified flow); weight [B], None for ones."""
    error = (flow.float() - (noise - x0)).square().flatten(1).mean(1)
    return error.mean() if weight is None else (error * weight).mean()


def sample_sigmas(count: int, shift: float, levels: tuple[float, ...], focus: float,
                  generator: torch.Generator | None = None) -> Tensor:
    """Noise levels [count] in (0, 1]: with probability `focus` one of the student's `levels`, else shifted uniform."""
    sigma = shifted(torch.rand(count, generator=generator).clamp(min=1e-3), shift)
    chosen = torch.tensor(levels)[torch.randint(len(levels), (count,), generator=generator)]
    return torch.where(torch.rand(count, generator=generator) < focus, chosen, sigma)
