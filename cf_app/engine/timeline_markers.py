"""Markers of a `Timeline`: what happens at a chunk besides prompts. Plain data.

They act when the session reaches their chunk, before it is generated; those of one chunk act together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

MAX_CHUNK = 1_000_000  # 8 days at 0.75 s a chunk: a guard against typing errors and hostile files
MAX_SEED = 2**32 - 1

Setting = str | int | float | bool


def check_chunk(value: int, what: str) -> None:
    """Raise ValueError unless `value` is a whole number from 0 to MAX_CHUNK."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_CHUNK:
        raise ValueError(f"{what} is {value!r}; expected a whole chunk index from 0 to {MAX_CHUNK}")


@dataclass(frozen=True)
class SeedMark:
    """From `chunk` on, noise comes from this seed."""

    kind: ClassVar[str] = "seed"
    chunk: int
    seed: int

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed!r}; expected a whole number from 0 to {MAX_SEED}")


@dataclass(frozen=True)
class MemoryMark:
    """From `chunk` on, these memory settings: what `messages.SetMemory` may change ("policy", "tau", "slow", ...),
    sorted by name; all others stay as they are. Which names and values a model takes, the engine checks."""

    kind: ClassVar[str] = "memory"
    chunk: int
    changes: tuple[tuple[str, Setting], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.changes]
        if not names:
            raise ValueError(
                f"the memory marker at chunk {self.chunk} changes nothing; expected a policy, tau or a size"
            )
        if names != sorted(set(names)):
            raise ValueError(
                f"the memory marker at chunk {self.chunk} changes {', '.join(names)}; expected sorted, once each"
            )
        for name, value in self.changes:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}; expected a number")

    @classmethod
    def of(cls, chunk: int, changes: Mapping[str, Setting]) -> MemoryMark:
        return cls(chunk, tuple(sorted(changes.items())))


@dataclass(frozen=True)
class PauseMark:
    """Wait for the viewer before `chunk`. Offline generation passes over it."""

    kind: ClassVar[str] = "pause"
    chunk: int


@dataclass(frozen=True)
class LoopMark:
    """At `chunk`, the plan goes back to chunk `to`; generation goes on, with new noise and its memory."""

    kind: ClassVar[str] = "loop"
    chunk: int
    to: int

    def __post_init__(self) -> None:
        check_chunk(self.to, "loop.to")
        if self.to >= self.chunk:
            raise ValueError(f"the loop at chunk {self.chunk} goes to chunk {self.to}; expected an earlier chunk")

    @property
    def period(self) -> int:
        return self.chunk - self.to


@dataclass(frozen=True)
class EndMark:
    """The film is over: `chunk` is not generated any more."""

    kind: ClassVar[str] = "end"
    chunk: int


Marker = SeedMark | MemoryMark | PauseMark | LoopMark | EndMark
MARKERS: dict[str, type[Marker]] = {m.kind: m for m in (SeedMark, MemoryMark, PauseMark, LoopMark, EndMark)}


def check_markers(markers: tuple[Marker, ...]) -> None:
    """Raise ValueError unless sorted by chunk, one of a kind at a chunk, at most one loop and one end."""
    seen: set[tuple[str, int]] = set()
    last = 0
    for marker in markers:
        check_chunk(marker.chunk, f"{marker.kind}.chunk")
        place = (marker.kind, 0 if isinstance(marker, LoopMark | EndMark) else marker.chunk)
        if place in seen:
            raise ValueError(
                f"there are two {marker.kind} markers (chunk {marker.chunk}); expected one: delete the other"
            )
        if marker.chunk < last:
            raise ValueError(
                f"the {marker.kind} marker at chunk {marker.chunk} follows one at chunk {last}; expected them sorted"
            )
        if isinstance(marker, EndMark) and marker.chunk == 0:
            raise ValueError("the end marker is at chunk 0; expected chunk 1 or later, a film needs one chunk")
        seen.add(place)
        last = marker.chunk
