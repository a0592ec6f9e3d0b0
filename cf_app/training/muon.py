"""Muon (Jordan et al. 2024): momentum, orthogonalised by Newton-Schulz steps, for weight matrices and kernels.

torch.optim.Muon takes matrices only; here convolution kernels are flattened to [out, in * k * k] too.
Everything else (biases, norms, embeddings, first and last layers) goes to AdamW.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..machine import bfloat16_pays


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix, approximately: quintic Newton-Schulz, [rows, columns] in and out."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16() if bfloat16_pays(matrix.device) else matrix.float()
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum; the step of a matrix has root mean square `lr * 0.2` (so AdamW's rates fit)."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]).flatten(1))
                scale = 0.2 * max(update.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-group["lr"] * scale)


def split_parameters(model: nn.Module, adam_names: tuple[str, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """(for Muon, for AdamW): AdamW gets vectors, embeddings, and every name that contains one of `adam_names`."""
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (rest if p.ndim < 2 or any(part in name for part in adam_names) else matrices).append(p)
    return matrices, rest
