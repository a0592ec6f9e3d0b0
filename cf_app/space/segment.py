"""One GPU call: a stretch of a session, of bounded length, in a process that may be new.

It takes a light hand-over, makes the session again, plays it chunk by chunk, and ends with the next hand-over. The
queue behind a call is unbounded, so the call itself waits for the page to fetch. Near its end it runs further
ahead, so that the page has something to show while the next call begins.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from cf_app.engine.engine import Engine
from cf_app.engine.handover import Handover, pack, unpack
from cf_app.engine.messages import PLAYING, ChunkReady, Ended, Event, Failed, Play, Resume
from cf_app.engine.session import Session
from cf_app.engine.worker import Worker
from cf_app.space.control import Listener

_POLL = 0.03  # seconds
_kept: dict[str, Session] = {}  # in a process that is used again: the session that was handed over last, still whole


@dataclass(frozen=True, eq=False)
class Order:
    """What a call is asked to do.

    Attributes:
        chunks: the session ends after so many, None for no end.
        state: "playing" or "paused".
        paused_at: chunk whose pause marker has acted.
        control: file of a ``control.Word``.
        obeyed: commands below this number are done.
        fetched: chunks below this one have been fetched.
        seconds: length of the call.
        lead: chunks to be ahead of the page.
        lead_at_end: the same near the end of the call.
        idle: seconds without anything to do after which the GPU is given back.
    """

    handover: Handover
    chunks: int | None
    state: str
    paused_at: int
    control: Path
    obeyed: int
    fetched: int
    seconds: float
    lead: int = 2
    lead_at_end: int = 5
    idle: float = 3.0


@dataclass(frozen=True, eq=False)
class Parting:
    """The last word of a call.

    Attributes:
        handover: None when the session has ended.
        obeyed: commands below this number are done.
        idle: there was nothing to do; the next call can wait until there is.
    """

    handover: Handover | None
    state: str
    paused_at: int
    obeyed: int
    idle: bool = False


def play_segment(engine: Engine, order: Order) -> Generator[Event | Parting]:
    """Events of a session for at most ``order.seconds``, then a ``Parting``. What crosses the border is plain data."""
    begun = time.monotonic()
    session = _kept.pop(order.handover.token, None)
    _kept.clear()  # another visitor's, before there is a second memory beside it
    if session is None:
        session = unpack(engine, order.handover)
    worker = Worker(engine, 1)
    try:
        yield from _Segment(worker, order, session, begun).events()
    finally:
        worker.shutdown()


class _Segment:
    """A call while it runs."""

    def __init__(self, worker: Worker, order: Order, session: Session, begun: float) -> None:
        self.worker, self.order, self.listener = worker, order, Listener(order.control, order.obeyed)
        self.end = begun + order.seconds
        self.made = self.first = session.chunk
        self.idle = False
        self.slowest = 0.0  # seconds between two chunks while nothing had to wait
        self.busy_since = self.quiet_since = time.monotonic()
        self.name = worker.adopt(session, order.chunks, state=order.state, paused_at=order.paused_at)

    def events(self) -> Generator[Event | Parting]:
        while True:
            yield from self._obey()
            if self._over():
                break
            if not self._room():
                self.busy_since = time.monotonic() + _POLL
                time.sleep(_POLL)
                continue
            event = self.worker.events(self.name, _POLL)
            if event is None:
                continue
            self._note(event)
            yield event
            if isinstance(event, Ended):
                yield Parting(None, "stopped", -1, self.listener.obeyed)
                return
        yield from self._leave()

    def _obey(self) -> Iterator[Event]:
        for command in self.listener.news():
            self.quiet_since = time.monotonic()
            try:
                self.worker.send(self.name, command)
            except ValueError as error:
                yield Failed(self.name, str(error), fatal=False)

    def _room(self) -> bool:
        order, left = self.order, self.end - time.monotonic()
        late = left < order.lead_at_end * self.slowest + self._margin()
        fetched = max(order.fetched, self.listener.look().fetched)
        return self.made - fetched < (order.lead_at_end if late else order.lead)

    def _note(self, event: Event) -> None:
        now = self.quiet_since = time.monotonic()
        if isinstance(event, ChunkReady):
            self.made = event.chunk + 1
            self.slowest, self.busy_since = max(self.slowest, now - self.busy_since), now

    def _margin(self) -> float:
        """A chunk may be on its way when the end comes, and the hand-over takes its time."""
        return 2 * self.slowest + 0.5

    def _over(self) -> bool:
        now, status = time.monotonic(), self.worker.state(self.name)
        playing = status.state == PLAYING or any(isinstance(command, Play | Resume) for command in status.ahead)
        idle = now - self.quiet_since > self.order.idle and not (playing and self._room())
        if playing and self.made == self.first:
            idle = False  # at least one chunk, however long the start took, or there would be no end of calls
        elif now > self.end - self._margin():
            return True
        self.idle = idle
        return idle or self.listener.look().leave

    def _leave(self) -> Generator[Event | Parting]:
        yield from self._obey()
        desk = self.worker.take(self.name)
        yield from desk.outbox
        if desk.ended:
            yield Parting(None, desk.state, -1, self.listener.obeyed)
            return
        handover = pack(desk.session)
        _kept[handover.token] = desk.session
        yield Parting(handover, desk.state, desk.paused_at, self.listener.obeyed, self.idle)
