"""One thread owns the engine. Commands go in, events come out; sessions take turns, a chunk each.

Commands apply between chunks. Each session has a bounded outbox: when its reader is slow the worker waits, nothing is
dropped. With ``overlap`` a second thread turns a chunk's latents into pictures while the clean pass runs over them and
the next chunk is denoised.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from cf_app.engine import commands
from cf_app.engine.chunk_maker import Developed, Draft
from cf_app.engine.desk import Desk
from cf_app.engine.engine import Engine
from cf_app.engine.kept import Kept
from cf_app.engine.lead import Lead
from cf_app.engine.messages import (
    PAUSED,
    PLAYING,
    Applied,
    ChunkReady,
    Command,
    Failed,
    Pause,
    Play,
    Resume,
    Stop,
)
from cf_app.engine.reception import Reception
from cf_app.engine.session import Session
from cf_app.engine.timeline import Timeline
from cf_app.engine.timeline_history import spliced

log = logging.getLogger(__name__)


class Worker(Reception):
    """Runs an engine for many sessions.

    Args:
        buffer_chunks: chunks that a session may be ahead of its reader.
        overlap: decode in a second thread.
        adaptive: fewer than ``buffer_chunks`` where the engine is fast enough, see ``lead.py``.
    """

    def __init__(
        self, engine: Engine, buffer_chunks: int = 2, *, overlap: bool = True, adaptive: bool = False
    ) -> None:
        if buffer_chunks < 1:
            raise ValueError(f"buffer_chunks is {buffer_chunks}, expected at least 1")
        super().__init__(engine)
        self.buffer_chunks, self.adaptive = buffer_chunks, adaptive
        self._turn: deque[str] = deque()
        # A new thread may not know how many threads PyTorch has been told to use.
        threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(1, "cf-decode", torch.set_num_threads, (threads,)) if overlap else None
        self._thread = threading.Thread(target=self._run, args=(threads,), name="cf-worker", daemon=True)
        self._thread.start()

    # For any thread

    def adopt(
        self, session: Session, chunks: int | None = None, *, state: str = PAUSED, paused_at: int = -1
    ) -> str:
        """Take over a session as it is; it belongs to the worker from now on. Returns its id.

        ``state`` and ``paused_at`` are where it stood at the desk that it comes from.
        """
        desk = self._new_desk(session, chunks)
        desk.state, desk.paused_at = state, paused_at
        with self._wake:
            self._seat(desk)
        return session.id

    def branch(self, session_id: str, chunk: int, timeline: Timeline) -> tuple[str, int] | None:
        """As in ``Reception``, from the nearest copy before; what is told of the past is that of the first session."""
        with self._wake:
            origin = self._desks.get(session_id)
            kept = Kept() if origin is None else origin.kept.upto(chunk)
            copy = kept.last()
            if origin is None or copy is None:
                return None
            session = copy.fork()
            self.engine.check_timeline(timeline, session.memory)
            session.timeline = spliced(session.timeline, timeline, session.chunk)
            desk = self._new_desk(session, None)
            desk.kept = kept
            first = session.chunk - len(session.undecoded)
            desk.history.extend(snapshot for snapshot in origin.history if snapshot.chunk < first)
            self._seat(desk)
        return session.id, first

    def _new_desk(self, session: Session, chunks: int | None) -> Desk:
        lead = Lead(self.buffer_chunks, self.engine.geometry.chunk_seconds, adaptive=self.adaptive)
        return Desk(session, chunks, lead)

    def _seat(self, desk: Desk) -> None:
        super()._seat(desk)
        self._turn.append(desk.session.id)

    def send(self, session_id: str, command: Command) -> int:
        """Queue a command; returns the chunk from which on it counts. ValueError: it is refused, nothing changes."""
        with self._wake:
            desk = self._desk(session_id)
            if desk.ended:
                raise ValueError("the session has ended, open a new one")
            chunk = commands.check(self.engine, desk.session, command, desk.next_chunk, desk.inbox)
            desk.inbox.append(command)
            self._wake.notify_all()
        return chunk

    def shutdown(self) -> None:
        """Close all sessions and end the threads."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join()
        if self._pool is not None:
            self._pool.shutdown()

    # On the worker's thread, the condition held except where ``_unlocked`` lets go

    def _run(self, threads: int) -> None:
        torch.set_num_threads(threads)
        with self._wake:
            while not self._stopping:
                self._obey()
                desk = self._next()
                if desk is None:
                    self._wake.wait()
                else:
                    self._work(desk)
            for desk in list(self._desks.values()):
                self._close(desk)

    def _obey(self) -> None:
        """Apply what is waiting. Not while pictures of a session are being made: events stay in order."""
        for desk in list(self._desks.values()):
            if desk.decoding:
                continue
            if desk.closing:
                self._close(desk)
            while desk.inbox and not desk.ended:
                self._apply(desk, desk.inbox.popleft())
            while desk.errands:
                self._run_errand(desk, *desk.errands.popleft())

    def _apply(self, desk: Desk, command: Command) -> None:
        try:
            chunk = commands.apply(self.engine, desk.session, command)
        except ValueError as error:
            # It was fine when it was sent; the chunk in between has made it impossible.
            self._put(desk, Failed(desk.session.id, str(error), fatal=False))
            return
        self._put(desk, Applied(desk.session.id, command, chunk))
        if isinstance(command, Play | Resume):
            if desk.state == PLAYING and desk.at_pause:
                desk.paused_at = desk.session.chunk  # its reader has come to the marker before this thread has
            self._set_state(desk, PLAYING)
        elif isinstance(command, Pause):
            self._set_state(desk, PAUSED)
        elif isinstance(command, Stop):
            self._end(desk, "stopped")

    def _next(self) -> Desk | None:
        """The session whose turn it is, if any can go on."""
        for _ in range(len(self._turn)):
            desk = self._desks.get(self._turn[0])
            self._turn.rotate(-1)
            if desk is None or desk.ended:
                self._turn.pop()
            elif self._ready(desk):
                return desk
        return None

    def _ready(self, desk: Desk) -> bool:
        """Whether the session can go on; on the way it may reach a pause marker or its end."""
        waiting = len(desk.session.undecoded)
        if desk.state != PLAYING or desk.closing or desk.inbox or desk.errands:
            return False
        if waiting and not desk.decoding:
            return True  # pictures that failed are made before anything else
        if desk.queued + waiting >= desk.wanted(sum(other.state == PLAYING for other in self._desks.values())):
            return False
        if (desk.done or desk.at_pause) and desk.decoding:
            return False
        if desk.done:
            self._end(desk, "finished")
        elif desk.at_pause:
            desk.paused_at = desk.session.chunk
            self._set_state(desk, PAUSED)
        return desk.state == PLAYING

    def _work(self, desk: Desk) -> None:
        session = desk.session
        try:
            if session.undecoded and not desk.decoding:
                self._develop(desk, None)
                return
            desk.kept.take(session)
            desk.busy_with, begun = session.chunk, time.monotonic()
            try:
                draft = self._unlocked(lambda: self.engine.draft(session))
                while desk.decoding:
                    self._wake.wait()
                if session.undecoded or desk.state != PLAYING:
                    return  # the chunk before has failed; this one is made again after it
                desk.begun = begun
                self._develop(desk, draft)
            finally:
                desk.busy_with = None
        except Exception as error:  # noqa: BLE001  the one place that turns an exception into an event
            while desk.decoding:
                self._wake.wait()
            self._failed(desk, error)

    def _develop(self, desk: Desk, draft: Draft | None) -> None:
        """Pictures of ``draft``, in the second thread while its clean pass runs; or of what is remembered already."""
        engine, session = self.engine, desk.session
        if self._pool is None:
            if draft is not None:
                self._unlocked(lambda: engine.remember(session, draft))
            self._deliver(desk, self._unlocked(lambda: engine.decode(session)))
            return
        early = None if draft is None else engine.early(session, draft)
        desk.early = None if draft is None or early is None else (draft, early)
        desk.decoding, desk.remembering = True, draft is not None
        future = self._pool.submit(engine.develop, session, session.undecoded[0] if draft is None else draft)
        future.add_done_callback(lambda future: self._developed(desk, future))
        if draft is None:
            return
        try:
            self._unlocked(lambda: engine.remember(session, draft))
        finally:
            desk.remembering = False
            self._both_done(desk)

    def _developed(self, desk: Desk, future: Future[Developed]) -> None:
        """On the decoder's thread, or on this one if it was quick."""
        with self._wake:
            desk.developed = future
            if desk.early is not None and desk.remembering and future.exception() is None:
                draft, snapshot = desk.early
                event = self.engine.deliver_early(desk.session, draft, future.result(), snapshot)
                self._deliver(desk, event)
            self._both_done(desk)
            self._wake.notify_all()

    def _both_done(self, desk: Desk) -> None:
        """Deliver a chunk once it has its pictures and its place in the memory."""
        future = desk.developed
        if future is None or desk.remembering:
            return
        desk.developed, desk.early, desk.decoding = None, None, False
        error = future.exception()
        if not desk.session.undecoded:
            pass  # its clean pass has failed, and says so itself
        elif error is None:
            self._deliver(desk, self.engine.deliver(desk.session, future.result()))
        else:
            self._failed(desk, error)
        self._wake.notify_all()

    def _deliver(self, desk: Desk, event: ChunkReady) -> None:
        if event.chunk <= desk.shown:
            return  # shown before its clean pass was over
        desk.shown = event.chunk
        desk.lead.took(time.monotonic() - desk.begun)
        desk.record(event.snapshot)
        self._put(desk, event)

    def _failed(self, desk: Desk, error: BaseException) -> None:
        log.error("session %s, chunk %d", desk.session.id, desk.session.chunk, exc_info=error)
        text = str(error).strip() or type(error).__name__
        if isinstance(error, torch.OutOfMemoryError):
            text = "the GPU is out of memory: close other sessions or make the memory smaller, then play on"
        self._put(desk, Failed(desk.session.id, text.splitlines()[0], fatal=False))
        self._set_state(desk, PAUSED)
