"""Rotary position embedding in three dimensions (time, rows, columns), as Wan has it.

A head of width D has D/2 complex channels: adjacent pairs of real ones. Rows and columns get D // 6 of them each,
time the rest (128 -> 22/21/21). Each axis has its own ladder of frequencies, theta ** (-2 i / (channels of the axis)).
Only the time index differs between memories: bounded positional encoding hands in slot indices, others absolute
ones. Rows and columns always count from 0. Angles are made in float64; tables are complex64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

THETA = 10000.0


def axis_channels(head_dim: int) -> tuple[int, int, int]:
    """Complex channels of time, rows and columns.

    Raises:
        ValueError: ``head_dim`` is odd or too small to give every axis a channel.
    """
    if head_dim % 2 or head_dim < 6:
        raise ValueError(f"head_dim is {head_dim}, expected an even number of at least 6")
    space = head_dim // 6
    return head_dim // 2 - 2 * space, space, space


def _angles(coordinates: Tensor, channels: int) -> Tensor:
    steps = torch.arange(channels, dtype=torch.float64, device=coordinates.device) / channels
    return coordinates.to(torch.float64)[..., None] * THETA**-steps


@lru_cache(maxsize=32)
def _space_angles(head_dim: int, rows: int, columns: int, pool: tuple[int, int], device: torch.device) -> Tensor:
    """[rows * columns / pool, D/2 - time channels], angles at the centres of pooled tokens."""
    _, row_channels, column_channels = axis_channels(head_dim)
    row, column = (
        torch.arange(0, size, step, dtype=torch.float64, device=device) + (step - 1) / 2
        for size, step in ((rows, pool[0]), (columns, pool[1]))
    )
    grid = (
        _angles(row, row_channels)[:, None].expand(-1, len(column), -1),
        _angles(column, column_channels)[None].expand(len(row), -1, -1),
    )
    return torch.cat(grid, -1).flatten(0, 1)


def rope_table(
    head_dim: int,
    times: Tensor | Sequence[int],
    rows: int,
    columns: int,
    *,
    device: torch.device | str = "cpu",
    pool: tuple[int, int] = (1, 1),
) -> Tensor:
    """Rotation of every token of some latent frames.

    Args:
        head_dim: width D of a head.
        times: RoPE time index of each latent frame, [..., F].
        rows, columns: token grid of a latent frame.
        pool: rows and columns of tokens that were averaged into one; such a token sits at their mean.

    Returns:
        complex64 [..., F * tokens, D/2], latent-major, then rows, then columns.
    """
    device = torch.device(device)
    index = torch.as_tensor(times, device=device)
    time = _angles(index, axis_channels(head_dim)[0])
    space = _space_angles(head_dim, rows, columns, pool, device)
    shape = (*time.shape[:-1], len(space))
    angles = torch.cat((time[..., None, :].expand(*shape, -1), space.expand(*shape, -1)), -1)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64).flatten(-3, -2)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate queries or keys.

    Args:
        x: [B, S, H, D].
        table: complex [S, D/2] or [B, S, D/2], from ``rope_table``.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * table[..., None, :]).flatten(-2).to(x.dtype)


def rotate_real(x: Tensor, table: Tensor) -> Tensor:
    """``rotate`` in real numbers, which compilers understand; ``table`` as ``torch.view_as_real`` has it."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table[..., None, :, 0], table[..., None, :, 1]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)
