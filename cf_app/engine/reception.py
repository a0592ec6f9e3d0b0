"""What every worker has: desks where sessions wait for their turn, and readers for their events."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cf_app.engine.desk import Desk
from cf_app.engine.messages import STOPPED, Command, Ended, Event, SessionStatus, StateChanged
from cf_app.engine.session import Session
from cf_app.engine.timeline import Timeline
from cf_app.memory.policy import Policy
from cf_app.memory.snapshot import MemorySnapshot

if TYPE_CHECKING:
    from cf_app.engine.engine import Engine

Result = TypeVar("Result")
_FAREWELLS = 256  # closed sessions whose last event waits for a reader that may never come


class Reception:
    """Desks by session. Methods without an underscore are for any thread, the others want ``_wake`` to be held.

    Args:
        paper: sessions are kept on paper here and played elsewhere, see ``Engine.new_session``.
    """

    def __init__(self, engine: Engine, *, paper: bool = False) -> None:
        self.engine, self._paper = engine, paper
        self._desks: dict[str, Desk] = {}
        self._farewells: OrderedDict[str, deque[Event]] = OrderedDict()
        self._wake = threading.Condition()
        self._stopping = False

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
        """A new session, paused at chunk 0; returns its id.

        Args:
            chunks: it ends after so many.

        The others are those of ``Engine.new_session``.

        Raises:
            ValueError: one of them is bad, or there is a ``start`` and no device here to encode it.
        """
        if start is not None and self._paper:
            raise ValueError("a video can not begin with a picture or clip on ZeroGPU: the GPU is not there yet")
        session = self.engine.new_session(
            prompt, seed, timeline=timeline, policy=policy, switch_memory=switch_memory, start=start, paper=self._paper
        )
        if chunks is not None:
            session.memory.check_room(chunks)
        with self._wake:
            self._seat(self._new_desk(session, chunks))
        return session.id

    def _new_desk(self, session: Session, chunks: int | None) -> Desk:
        """A desk for a session, with the lead that this worker gives."""
        raise NotImplementedError

    def _seat(self, desk: Desk) -> None:
        """From now on the session belongs to this worker."""
        if self._stopping:
            raise ValueError("the worker has been shut down, no session can be opened")
        self._desks[desk.session.id] = desk
        self._wake.notify_all()

    def events(self, session_id: str, timeout: float | None = None) -> Event | None:
        """The next event; None after ``timeout`` seconds, or when ``Ended`` has been read."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._wake:
            if session_id in self._farewells:
                return self._farewells.pop(session_id).popleft()
            desk = self._desk(session_id)
            desk.readers += 1
            try:
                self._asked(desk)
                self._wake.notify_all()  # what is asked for may be begun now
                self._await_event(desk, deadline)
            finally:
                desk.readers -= 1
            if not desk.outbox:
                return None
            self._farewells.pop(session_id, None)
            self._wake.notify_all()
            return desk.outbox.popleft()

    def _asked(self, desk: Desk) -> None:
        """Someone wants to read an event of it; a worker without a thread of its own may begin one."""

    def _await_event(self, desk: Desk, deadline: float | None) -> None:
        while not desk.outbox:
            left = None if deadline is None else deadline - time.monotonic()
            if desk.ended or (left is not None and left <= 0):
                return
            self._wake.wait(left)

    def send(self, session_id: str, command: Command) -> int:
        """Queue a command; returns the chunk from which on it counts. ValueError: it is refused, nothing changes."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """Close all sessions and end what this worker runs on."""
        raise NotImplementedError

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

        def write(session: Session) -> int:
            session.save(path)
            return session.chunk

        return self._between(session_id, write)

    def take(self, session_id: str) -> Desk:
        """Give a session up between two chunks, with its events that nobody has read. ValueError if it is closed.

        What was sent before has been applied. There is no ``Ended`` unless it has ended by itself.
        """

        def leave(session: Session) -> Desk:
            with self._wake:
                return self._desks.pop(session.id)

        return self._between(session_id, leave)

    def _between(self, session_id: str, work: Callable[[Session], Result]) -> Result:
        waiting: Future[Result] = Future()
        with self._wake:
            desk = self._desk(session_id)
            if desk.closing or self._stopping:
                raise ValueError(f"session {session_id!r} is being closed, it can not be saved or moved any more")
            desk.errands.append((work, waiting))
            self._wake.notify_all()
        return waiting.result()

    def branch(self, session_id: str, chunk: int, timeline: Timeline) -> tuple[str, int] | None:
        """A new session, paused, that has the same past up to ``chunk`` and goes on by ``timeline``.

        Returns:
            its id, and the first chunk that it makes (again), at most ``chunk``; the earlier ones are those of the
            session that it branches from. None where no copy of that one is kept: open one from the start.

        Raises:
            ValueError: the timeline is bad.
        """
        return None

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

    def _unlocked(self, function: Callable[[], Result]) -> Result:
        self._wake.release()
        try:
            return function()
        finally:
            self._wake.acquire()

    def _run_errand(self, desk: Desk, work: Callable[[Session], Result], waiting: Future[Result]) -> None:
        try:
            waiting.set_result(self._unlocked(lambda: work(desk.session)))
        except Exception as error:  # noqa: BLE001  it belongs to whoever asked
            waiting.set_exception(error)

    def _desk(self, session_id: str) -> Desk:
        if session_id not in self._desks:
            raise ValueError(f"there is no session {session_id!r}, it was closed or never opened")
        return self._desks[session_id]

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
        desk.refuse_errands(f"session {name!r} was closed before that could be done")
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
