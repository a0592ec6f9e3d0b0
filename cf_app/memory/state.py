"""What a memory is at one moment, without the contents of its cache. Immutable: a step works on a copy and commits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from cf_app.memory.lanes import Cell, Lanes

Result = TypeVar("Result")


@dataclass(frozen=True)
class Report:
    """What the last commit did.

    Attributes:
        chunk: its chunk, -1 before the first.
        similarities: per layer; empty when none was computed.
        promoted, evicted: latent frames, as in ``MemorySnapshot``.
    """

    chunk: int = -1
    similarities: tuple[float, ...] = ()
    promoted: tuple[int, ...] = ()
    evicted: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Removed:
    """A latent frame that a person has evicted, kept for a while so that it can come back.

    Attributes:
        cells: per layer (lane "sink" / "slow" / "fast", index in it, cell).
        contents: (layer, write id) -> keys and values on the CPU; None while they are still in the cache.
        told: a report has named it.
    """

    cells: tuple[tuple[tuple[str, int, Cell], ...], ...]
    contents: Mapping[tuple[int, int], tuple[Tensor, Tensor]] | None = None
    told: bool = False


@dataclass(frozen=True, eq=False)
class MemoryState:
    """Attributes:

    lanes: one per layer; layers that agree may share one object.
    seen: latent frames since the start or the last reset.
    origin: latent frame that counts as 0 since then.
    cut: latent frames before this one lie behind a RoPE cut; -1 for none.
    references: per layer pooled keys [B, H * D] of the last pass, None before the first chunk.
    pins: latent frames that are never evicted.
    pending: (layer, write id) -> keys and values [B, T, H, D] that are not in the cache yet.
    removed: latent frame -> what was evicted by hand, the newest last.
    latents: latent frame -> clean latents [B, C, Y, X] that a re-cache may need.
    """

    lanes: tuple[Lanes, ...]
    seen: int = 0
    origin: int = 0
    cut: int = -1
    references: tuple[Tensor, ...] | None = None
    pins: frozenset[int] = frozenset()
    pending: Mapping[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    latents: Mapping[int, Tensor] = field(default_factory=dict)
    removed: Mapping[int, Removed] = field(default_factory=dict)
    report: Report = Report()


def map_layers(function: Callable[[Lanes], Result], rows: Sequence[Lanes]) -> list[Result]:
    """Map over layers; layers that share one ``Lanes`` object share the result too."""
    results: dict[int, Result] = {}
    for row in rows:
        if id(row) not in results:
            results[id(row)] = function(row)
    return [results[id(row)] for row in rows]
