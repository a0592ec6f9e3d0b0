"""What the worker keeps of each session: state, inbox, outbox, history."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from cf_app.engine.chunk_maker import Developed, Draft
from cf_app.engine.commands import planned
from cf_app.engine.kept import Kept
from cf_app.engine.lead import Lead
from cf_app.engine.messages import PAUSED, ChunkReady, Command, Event, SessionStatus
from cf_app.engine.session import Session
from cf_app.engine.timeline_markers import PauseMark
from cf_app.memory.snapshot import MemorySnapshot

# Bounds of a session's history: an hour of snapshots, the last 15 minutes of them with the map by layer.
HISTORY_CHUNKS = 4800
HISTORY_LAYER_CHUNKS = 1200


@dataclass(eq=False)
class Desk:
    """Attributes:

    chunks: end after so many, None for no end.
    lead: how far ahead of its readers it is made.
    readers: threads that wait for an event of it right now.
    errands: what to do with the session between two chunks, and who waits for that.
    busy_with: chunk that is being generated, None between chunks.
    begun: when that was, in seconds of the monotonic clock.
    decoding: a second thread makes pictures of the chunk that is being or has just been generated.
    remembering: the clean pass of that chunk is not over.
    developed: its pictures, or why there are none, while the clean pass runs.
    early: the memory after it, where that is known before.
    shown: the last chunk that is in the outbox, or was.
    closing: nobody wants it any more.
    ended: its last event is in the outbox.
    paused_at: chunk whose pause marker has acted.
    kept: copies of the session, for branches.
    """

    session: Session
    chunks: int | None
    lead: Lead
    state: str = PAUSED
    inbox: deque[Command] = field(default_factory=deque)
    outbox: deque[Event] = field(default_factory=deque)
    readers: int = 0
    errands: deque[tuple[Callable[[Session], Any], Future[Any]]] = field(default_factory=deque)
    history: deque[MemorySnapshot] = field(default_factory=lambda: deque(maxlen=HISTORY_CHUNKS))
    busy_with: int | None = None
    begun: float = 0.0
    decoding: bool = False
    remembering: bool = False
    developed: Future[Developed] | None = None
    early: tuple[Draft, MemorySnapshot] | None = None
    shown: int = -1
    closing: bool = False
    ended: bool = False
    paused_at: int = -1
    kept: Kept = field(default_factory=Kept)

    @property
    def queued(self) -> int:
        """Chunks in the outbox."""
        return sum(isinstance(event, ChunkReady) for event in self.outbox)

    @property
    def next_chunk(self) -> int:
        """First chunk that a command sent now can concern."""
        return self.session.chunk if self.busy_with is None else self.busy_with + 1

    @property
    def done(self) -> bool:
        """Whether the last chunk has been generated."""
        return self.session.finished or (self.chunks is not None and self.session.chunk >= self.chunks)

    @property
    def at_pause(self) -> bool:
        """Whether a pause marker that has not acted stands before the next chunk."""
        session = self.session
        if self.paused_at == session.chunk:
            return False
        return any(isinstance(marker, PauseMark) for marker in session.timeline.markers_at(session.chunk))

    def wanted(self, sharing: int) -> int:
        """Chunks that may exist and not be fetched yet, while ``sharing`` sessions take turns."""
        lead = self.lead.chunks(sharing)
        return max(lead, 1) if self.readers else lead

    def refuse_errands(self, why: str) -> None:
        """Tell all who wait that it will not happen."""
        for _, waiting in self.errands:
            waiting.set_exception(ValueError(why))
        self.errands.clear()

    def record(self, snapshot: MemorySnapshot) -> None:
        """Add to the history; older snapshots lose their map by layer, the oldest go."""
        self.history.append(snapshot)
        if len(self.history) > HISTORY_LAYER_CHUNKS:
            old = self.history[-HISTORY_LAYER_CHUNKS - 1]
            self.history[-HISTORY_LAYER_CHUNKS - 1] = replace(old, layer_slots=())

    def status(self) -> SessionStatus:
        """Where the session stands."""
        chunk = self.next_chunk
        timeline = planned(self.session, self.inbox, chunk)
        prompt = timeline.prompt_at(chunk).caption
        return SessionStatus(self.state, chunk, prompt, self.session.seed, self.queued, tuple(self.inbox), timeline)
