"""Commands and events: all that crosses the border of the worker. Plain data, numpy at most, never torch.

Commands apply between chunks; every command that took effect is answered by ``Applied`` with its chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cf_app.memory.snapshot import MemorySnapshot

if TYPE_CHECKING:
    from cf_app.engine.timeline import Timeline

PAUSED, PLAYING, STOPPED = "paused", "playing", "stopped"


@dataclass(frozen=True)
class Play:
    """Start to generate."""


@dataclass(frozen=True)
class Pause:
    """Stop generating after the current chunk; the session keeps everything."""


@dataclass(frozen=True)
class Resume:
    """Go on after a pause."""


@dataclass(frozen=True)
class Stop:
    """End the session after the current chunk."""


@dataclass(frozen=True)
class SetPrompt:
    """Change the prompt from ``at_chunk`` on; None is the next chunk to be generated.

    ``memory`` says what the change does to the memory: keep, recache, flush, reset, or None for the session's way.
    """

    prompt: str
    at_chunk: int | None = None
    memory: str | None = None


@dataclass(frozen=True)
class SetTimeline:
    """Replace the timeline from the next chunk on; what is generated stays as it was (``timeline_history.spliced``)."""

    timeline: Timeline


@dataclass(frozen=True)
class SetSeed:
    """Change the seed from the next chunk on; 0 <= seed < 2**32."""

    seed: int


@dataclass(frozen=True)
class SetMemory:
    """Change memory settings from the next chunk on.

    ``changes`` maps "policy" (a registry name), fields of that policy ("sink", "slow", "fast", "tau", ...) and
    "switch" (keep, recache, flush, reset) to new values. Fields that are not named stay as they are.
    """

    changes: Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Pin:
    """Never evict this latent frame."""

    latent: int


@dataclass(frozen=True)
class Unpin:
    """Undo ``Pin``."""

    latent: int


@dataclass(frozen=True)
class Evict:
    """Drop this latent frame from the memory before the next chunk."""

    latent: int


@dataclass(frozen=True)
class Restore:
    """Undo ``Evict``."""

    latent: int


@dataclass(frozen=True)
class WatchAttention:
    """From the next chunk on, snapshots say (or no longer say) where each chunk looked; pictures stay the same."""

    on: bool


Command = (
    Play
    | Pause
    | Resume
    | Stop
    | SetPrompt
    | SetTimeline
    | SetSeed
    | SetMemory
    | Pin
    | Unpin
    | Evict
    | Restore
    | WatchAttention
)


@dataclass(frozen=True, eq=False)
class ChunkReady:
    """A generated chunk with all that belongs to it, so that no panel can disagree with the picture.

    Attributes:
        session: id of the session.
        chunk: index of the chunk, from 0.
        frames: uint8 [chunk_frames, height, width, 3], RGB.
        prompt: prompt in force.
        seed: seed in force.
        snapshot: the memory after this chunk.
        timings: milliseconds under "text", "denoise", "context", "decode", "memory", "total", and "attention" while it
            is watched.
        thumbnails: uint8 [chunk_latents, h, w, 3], the middle picture of each latent frame, small.
    """

    session: str
    chunk: int
    frames: np.ndarray
    prompt: str
    seed: int
    snapshot: MemorySnapshot
    timings: Mapping[str, float]
    thumbnails: np.ndarray


@dataclass(frozen=True)
class Applied:
    """A command took effect; ``chunk`` is the first chunk that it concerns."""

    session: str
    command: Command
    chunk: int


@dataclass(frozen=True)
class StateChanged:
    """The session is now "playing", "paused" or "stopped"."""

    session: str
    state: str


@dataclass(frozen=True)
class Failed:
    """Something went wrong; the session is as it was before. ``fatal``: the session can not go on."""

    session: str
    message: str
    fatal: bool


@dataclass(frozen=True)
class Ended:
    """The last event of a session: reason "stopped", "finished" or "closed"."""

    session: str
    reason: str


Event = ChunkReady | Applied | StateChanged | Failed | Ended


@dataclass(frozen=True)
class SessionStatus:
    """Where a session stands.

    Attributes:
        state: "playing", "paused" or "stopped".
        chunk: next chunk to be generated.
        prompt: prompt of that chunk.
        seed: seed of that chunk.
        queued: chunks generated and not yet fetched.
        ahead: commands that have been sent and not yet applied.
        timeline: the plan, once ``ahead`` has been applied.
    """

    state: str
    chunk: int
    prompt: str
    seed: int
    queued: int
    ahead: tuple[Command, ...] = field(default=())
    timeline: Timeline | None = None
