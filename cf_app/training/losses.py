"""The losses of every stage: small pure functions on tensors, each with its equation. No model, no state."""
from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

Flow = Callable[[Tensor, Tensor], Tensor]
"""(noisy [B, ...], sigma [B]) -> flow of the same shape, under whatever context the function holds."""


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


def score_sigmas(count: int, shift: float, low: float = 0.02, high: float = 0.98,
                 generator: torch.Generator | None = None) -> Tensor:
    """Noise levels [count] at which scores are compared: shifted uniform, within [low, high] (released code)."""
    return shifted(torch.rand(count, generator=generator), shift).clamp(low, high)


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """c + w (c - u): classifier-free guidance of the real score as Self-Forcing counts it, w = 0 for none."""
    return conditional + scale * (conditional - unconditional)


def dmd_gradient(x0: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """Gradient of the reverse KL at a student's samples `x0` [B, ...]: (fake - real) / mean |x0 - real| per sample.

    DMD (Yin et al. 2023) eq. 7 with the weight of eq. 8, as DMD2 and Self-Forcing compute it. `real` and `fake` are the
    clean samples that teacher and critic predict from the same noisy `x0`. With x = (1 - s) x0 + s noise the score is
    -(x - (1 - s) E[x0 | x]) / s^2, so the difference of scores is that of the predictions up to a positive factor.
    """
    scale = (x0 - real).abs().flatten(1).mean(1).clamp(min=1e-6)
    return ((fake - real) / scale.view(-1, *[1] * (x0.ndim - 1))).nan_to_num()


def dmd_loss(x0: Tensor, gradient: Tensor) -> Tensor:
    """1/2 mean |x0 - sg(x0 - g)|^2: a number whose gradient in x0 is g, divided by how many numbers x0 has."""
    return 0.5 * (x0.float() - (x0 - gradient).detach().float()).square().mean()


def anchoring(x0: Tensor, truth: Tensor) -> Tensor:
    """The loss of samples `x0` [B, ...] whose truth is known, on the scale of `dmd_loss`: its gradient in x0 is
    (x0 - truth) / mean |x0 - truth|, per sample, divided by how many numbers x0 has; as if the real score knew the
    truth and the fake one each sample itself."""
    return dmd_loss(x0, dmd_gradient(x0.detach(), truth, x0.detach()))


def contextual_dmd(x0: Tensor, noise: Tensor, sigma: Tensor, real: Flow, fake: Flow) -> Tensor:
    """Contextual DMD (Context Forcing, section 3): the DMD loss of a target given the context that the student made.

    grad = E[(s_fake(x_t | C) - s_real(x_t | C)) dx0/dtheta], C from the student's own rollout. `real` and `fake` hold
    that same C, each in its own keys and values; gradients go to `x0` alone.
    """
    with torch.no_grad():
        x = noised(x0, noise, sigma)
        predictions = [predicted_x0(x, flow(x, sigma).float(), sigma) for flow in (real, fake)]
        gradient = dmd_gradient(x0, *predictions)
    return dmd_loss(x0, gradient)


def critic_loss(x0: Tensor, noise: Tensor, sigma: Tensor, fake: Flow) -> Tensor:
    """Flow matching on the student's samples, which makes `fake` their score (DMD eq. 6, in rectified-flow form)."""
    x0 = x0.detach()
    return flow_matching(fake(noised(x0, noise, sigma), sigma), x0, noise)


def inject_errors(x: Tensor, errors: Tensor, hit: Tensor) -> Tensor:
    """x + I e (Context Forcing, error-recycling fine-tuning): errors [B, ...] are added where hit [B] is true."""
    return x + errors * hit.to(x).view(-1, *[1] * (x.ndim - 1))


def rollout_horizon(step: int, ramp: int, first: int, last: int) -> int:
    """Long self-rollout curriculum: chunks of the longest rollout at `step`, linear from first to last over `ramp`.

    Raises:
        ValueError: last is below first, or there is nothing to ramp over.
    """
    if not 1 <= first <= last or ramp < 1:
        raise ValueError(f"curriculum from {first} to {last} chunks over {ramp} steps: expected 1 <= first <= last and "
                         "at least 1 step")
    return first + round((last - first) * min(1.0, step / ramp))


def rollout_passes(chunks: int, targets: int, passes: int, rng: random.Random) -> tuple[int, ...]:
    """Denoising passes of every chunk of a rollout: clean context policy and random exit (Context Forcing).

    Context chunks run all `passes`, so what is remembered is fully denoised; the last `targets` chunks share one random
    exit from 1 to `passes` (Self-Forcing), so that every noise level of the student is supervised.
    """
    if not 1 <= targets <= chunks:
        raise ValueError(f"{targets} target chunks of {chunks}: expected at least 1 and at most all")
    return (passes,) * (chunks - targets) + (rng.randint(1, passes),) * targets
