"""One video being made: everything about it that changes. Models are shared and know nothing of it.

Only ``Engine`` (a step) and ``apply`` (a command, between chunks) change a session. Fork and save give independent
sessions that go on exactly as this one would, to the bit on the same machine.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from cf_app.engine.messages import ChunkReady
from cf_app.engine.parts import Clock, DecoderState, marked_policy
from cf_app.engine.timeline import Timeline
from cf_app.engine.timeline_markers import MemoryMark, SeedMark
from cf_app.memory.manager import SlowFastMemory
from cf_app.memory.snapshot import MemorySnapshot

if TYPE_CHECKING:
    from pathlib import Path

    from cf_app.engine.engine import Engine


@dataclass(frozen=True, eq=False)
class Generated:
    """A chunk whose latents exist and whose pictures do not yet.

    Attributes:
        latents: clean latents [B, C, F, Y, X].
        snapshot: the memory after the chunk.
        clock: milliseconds so far.
    """

    chunk: int
    prompt: str
    seed: int
    latents: Tensor
    snapshot: MemorySnapshot
    clock: Clock


class Session:
    """Made by ``Engine.new_session``.

    Attributes:
        id: unique in the process.
        timeline: the plan; ``timeline.prompt_at`` is the one truth about prompts.
        seed: from the next chunk on.
        switch_memory: what a prompt that is typed live does to the memory: keep, recache, flush or reset.
        memory: what it remembers.
        decoder: state of the streaming decoder after the last decoded chunk.
        chunk: next chunk to be generated.
        start: chunk -> clean latents [1, C, F, Y, X] that the video begins with instead of generated ones.
        watch_attention: snapshots say where each chunk looked.
        undecoded: chunks that are generated and not decoded, oldest first.
        marked: chunk whose seed and memory markers have acted.
    """

    def __init__(
        self,
        engine: Engine,
        timeline: Timeline,
        seed: int,
        switch_memory: str,
        memory: SlowFastMemory,
        decoder: DecoderState,
        id: str | None = None,
    ) -> None:
        self.id = uuid.uuid4().hex if id is None else id
        self._engine = engine
        self.timeline, self.seed, self.switch_memory = timeline, seed, switch_memory
        self.memory, self.decoder = memory, decoder
        self.chunk = 0
        self.start: Mapping[int, Tensor] = {}
        self.watch_attention = False
        self.undecoded: tuple[Generated, ...] = ()
        self.marked = -1
        self._queue = threading.Lock()  # generating and decoding may run in two threads

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._engine.name

    @property
    def prompt(self) -> str:
        """Prompt of the next chunk."""
        return self.timeline.prompt_at(self.chunk).caption

    @property
    def finished(self) -> bool:
        """Whether the timeline has ended."""
        return self.timeline.end is not None and self.chunk >= self.timeline.end

    def stream(self, seconds: float | None = None, *, chunks: int | None = None) -> Iterator[ChunkReady]:
        """Generate chunk after chunk, each as soon as it exists; endless without a limit.

        Raises:
            ValueError: before anything is generated, if that many chunks do not fit the model's positions.
        """
        if seconds is not None and chunks is not None:
            raise ValueError("both seconds and chunks are given, expected one of them")
        if seconds is not None:
            chunks = self._engine.geometry.chunks_for(seconds)
        if chunks is not None:
            self.memory.check_room(chunks)
        return self._chunks(chunks)

    def _chunks(self, chunks: int | None) -> Iterator[ChunkReady]:
        while (chunks is None or chunks > 0) and not self.finished:
            yield self._engine.step(self)
            chunks = None if chunks is None else chunks - 1

    def act_on_markers(self) -> None:
        """Apply the seed and memory markers of the next chunk, once. A pause is the worker's business."""
        if self.marked == self.chunk:
            return
        for marker in self.timeline.markers_at(self.chunk):
            if isinstance(marker, SeedMark):
                self.seed = marker.seed
            elif isinstance(marker, MemoryMark):
                self.memory.reconfigure(marked_policy(marker, self.memory.policy))
        self.marked = self.chunk

    def advance(self, generated: Generated) -> None:
        """Go to the next chunk; the memory has been committed. The pictures may follow later."""
        with self._queue:
            self.undecoded = (*self.undecoded, generated)
        self.chunk += 1

    def decoded(self, decoder: DecoderState) -> None:
        """The oldest undecoded chunk has become pictures."""
        with self._queue:
            self.undecoded = self.undecoded[1:]
        self.decoder = decoder

    def fork(self, id: str | None = None) -> Session:
        """An independent session that would go on as this one does."""
        other = Session(
            self._engine, self.timeline, self.seed, self.switch_memory, self.memory.fork(), self.decoder, id
        )
        other.chunk, other.marked, other.watch_attention = self.chunk, self.marked, self.watch_attention
        other.start = self.start
        other.undecoded = tuple(replace(item, clock=item.clock.copy()) for item in self.undecoded)
        return other

    def save(self, path: str | Path) -> None:
        """Write everything to one .safetensors file; ``Engine.load_session`` reads it. Never half-written."""
        from cf_app.engine.storage import save_session

        save_session(self, path)
