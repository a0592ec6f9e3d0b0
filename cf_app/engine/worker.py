"""One thread owns the engine. Commands go in, events come out; sessions take turns, a chunk each.

Commands apply between chunks. Each session has a bounded outbox: when its reader is slow the worker waits, nothing is
dropped. With ``overlap`` a second thread turns a chunk's latents into pictures while the next one is denoised.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from cf_app.engine import commands
from cf_app.engine.desk import Desk
from cf_app.engine.engine import Engine
from cf_app.engine.messages import (
    PAUSED,
    PLAYING,
    STOPPED,
    Applied,
    ChunkReady,
    Command,
    Ended,
    Event,
    Failed,
    Pause,
    Play,
    Resume,
    SessionStatus,
    StateChanged,
    Stop,
)
from cf_app.engine.timeline import Timeline
from cf_app.memory.policy import Policy
from cf_app.memory.snapshot import MemorySnapshot

log = logging.getLogger(__name__)
Result = TypeVar("Result")
_FAREWELLS = 256  # closed sessions whose last event waits for a reader that may never come


class Worker:
    """Runs an engine for many sessions.

    Args:
        buffer_chunks: chunks that a session may be ahead of its reader.
        overlap: decode in a second thread.
    """

    def __init__(self, engine: Engine, buffer_chunks: int = 2, *, overlap: bool = True) -> None:
        if buffer_chunks < 1:
            raise ValueError(f"buffer_chunks is {buffer_chunks}, expected at least 1")
        self.engine, self.buffer_chunks = engine, buffer_chunks
        self._desks: dict[str, Desk] = {}
        self._farewells: OrderedDict[str, deque[Event]] = OrderedDict()
        self._turn: deque[str] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        # A new thread may not know how many threads PyTorch has been told to use.
        threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(1, "cf-decode", torch.set_num_threads, (threads,)) if overlap else None
        self._thread = threading.Thread(target=self._run, args=(threads,), name="cf-worker", daemon=True)
        self._thread.start()

    # For any thread

    def open(
        self,
        prompt: str | None = None,
        seed: int = 0,
        *,
        chunks: int | None = None,
        timeline: Timeline | None = None,
        policy: Policy | None = None,
        switch_memory: str | None = None,
        start: np.ndarray | None = None,
    ) -> str:
        """A new session, paused at chunk 0; returns its id. ``chunks`` ends it after so many. ValueError if bad."""
        session = self.engine.new_session(
            prompt, seed, timeline=timeline, policy=policy, switch_memory=switch_memory, start=start
        )
        if chunks is not None:
            session.memory.check_room(chunks)
        with self._wake:
            if self._stopping:
                raise ValueError("the worker has been shut down, no session can be opened")
            self._desks[session.id] = Desk(session, chunks)
            self._turn.append(session.id)
        return session.id

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

    def events(self, session_id: str, timeout: float | None = None) -> Event | None:
        """The next event; None after ``timeout`` seconds, or when ``Ended`` has been read."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._wake:
            if session_id in self._farewells:
                return self._farewells.pop(session_id).popleft()
            desk = self._desk(session_id)
            while not desk.outbox:
                left = None if deadline is None else deadline - time.monotonic()
                if desk.ended or (left is not None and left <= 0):
                    return None
                self._wake.wait(left)
            self._farewells.pop(session_id, None)
            self._wake.notify_all()
            return desk.outbox.popleft()

    def state(self, session_id: str) -> SessionStatus:
        """Where a session stands."""
        with self._wake:
            return self._desk(session_id).status()

    def history(self, session_id: str) -> list[MemorySnapshot]:
        """Memory after every chunk so far; see ``desk.py`` for its bounds."""
        with self._wake:
            return list(self._desk(session_id).history)

    def save(self, session_id: str, path: str | Path) -> int:
        """Write a session to a .safetensors file between two chunks, once what was sent before has been applied.

        Returns:
            the next chunk of the session at that moment; ``Engine.load_session`` goes on with it.

        Raises:
            ValueError: from ``Session.save``, or the session is closed.
        """
        saved: Future[int] = Future()
        with self._wake:
            desk = self._desk(session_id)
            if desk.closing or self._stopping:
                raise ValueError(f"session {session_id!r} is being closed, it can not be saved any more")
            desk.errands.append((Path(path), saved))
            self._wake.notify_all()
        return saved.result()

    def sessions(self) -> list[str]:
        """Ids of all sessions that are not closed."""
        with self._wake:
            return list(self._desks)

    def close(self, session_id: str) -> None:
        """End a session and free its memory within a chunk; its last event is ``Ended``. Unknown ids are ignored."""
        with self._wake:
            if session_id in self._desks:
                self._desks[session_id].closing = True
                self._wake.notify_all()

    def shutdown(self) -> None:
        """Close all sessions and end the threads."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join()
        if self._pool is not None:
            self._pool.shutdown()

    def _desk(self, session_id: str) -> Desk:
        if session_id not in self._desks:
            raise ValueError(f"there is no session {session_id!r}, it was closed or never opened")
        return self._desks[session_id]

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

    def _unlocked(self, function: Callable[[], Result]) -> Result:
        self._wake.release()
        try:
            return function()
        finally:
            self._wake.acquire()

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
                self._save(desk, *desk.errands.popleft())

    def _save(self, desk: Desk, path: Path, saved: Future[int]) -> None:
        try:
            self._unlocked(lambda: desk.session.save(path))
            saved.set_result(desk.session.chunk)
        except Exception as error:  # noqa: BLE001  it belongs to whoever asked
            saved.set_exception(error)

    def _apply(self, desk: Desk, command: Command) -> None:
        try:
            chunk = commands.apply(self.engine, desk.session, command)
        except ValueError as error:
            # It was fine when it was sent; the chunk in between has made it impossible.
            self._put(desk, Failed(desk.session.id, str(error), fatal=False))
            return
        self._put(desk, Applied(desk.session.id, command, chunk))
        if isinstance(command, Play | Resume):
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
        if desk.queued + waiting >= self.buffer_chunks:
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
            if desk.decoding or not session.undecoded:
                desk.busy_with = session.chunk
                try:
                    self._unlocked(lambda: self.engine.generate(session))
                finally:
                    desk.busy_with = None
            while desk.decoding:
                self._wake.wait()
            if not session.undecoded or desk.state != PLAYING:
                return  # the chunk before has failed
            if self._pool is None:
                self._deliver(desk, self._unlocked(lambda: self.engine.decode(session)))
            else:
                desk.decoding = True
                future = self._pool.submit(self.engine.decode, session)
                future.add_done_callback(lambda future: self._decoded(desk, future))
        except Exception as error:  # noqa: BLE001  the one place that turns an exception into an event
            while desk.decoding:
                self._wake.wait()
            self._failed(desk, error)

    def _decoded(self, desk: Desk, future: Future[ChunkReady]) -> None:
        """On the decoder's thread, or on this one if it was quick."""
        with self._wake:
            desk.decoding = False
            error = future.exception()
            if error is None:
                self._deliver(desk, future.result())
            else:
                self._failed(desk, error)
            self._wake.notify_all()

    def _deliver(self, desk: Desk, event: ChunkReady) -> None:
        desk.record(event.snapshot)
        self._put(desk, event)

    def _failed(self, desk: Desk, error: BaseException) -> None:
        log.error("session %s, chunk %d", desk.session.id, desk.session.chunk, exc_info=error)
        text = str(error).strip() or type(error).__name__
        if isinstance(error, torch.OutOfMemoryError):
            text = "the GPU is out of memory: close other sessions or make the memory smaller, then play on"
        self._put(desk, Failed(desk.session.id, text.splitlines()[0], fatal=False))
        self._set_state(desk, PAUSED)

    def _set_state(self, desk: Desk, state: str) -> None:
        if desk.state != state:
            desk.state = state
            self._put(desk, StateChanged(desk.session.id, state))

    def _end(self, desk: Desk, reason: str) -> None:
        if not desk.ended:
            self._set_state(desk, STOPPED)
            self._put(desk, Ended(desk.session.id, reason))
            desk.ended = True

    def _close(self, desk: Desk) -> None:
        """Forget the session; only its last event stays for a while."""
        name = desk.session.id
        for _, saved in desk.errands:
            saved.set_exception(ValueError(f"session {name!r} was closed before it could be saved"))
        desk.errands.clear()
        if not desk.ended:
            self._end(desk, "closed")
            last = desk.outbox.pop()
            # A reader that waits right now holds the desk, one that comes later finds the farewell.
            desk.outbox.clear()
            desk.outbox.append(last)
            self._farewells[name] = deque([last])
            while len(self._farewells) > _FAREWELLS:
                self._farewells.popitem(last=False)
        del self._desks[name]

    def _put(self, desk: Desk, event: Event) -> None:
        desk.outbox.append(event)
        self._wake.notify_all()
