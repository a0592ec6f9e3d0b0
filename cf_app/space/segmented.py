"""A worker whose sessions live in GPU calls of bounded length, one after the other. For ZeroGPU Spaces.

It has the interface of ``engine.worker.Worker``. This process has no GPU: what it holds of a session is a hand-over,
and a session on paper that commands are checked against. The first call begins when someone reads the session's events,
in the context of that reader, where Gradio keeps what ZeroGPU's quota goes by; the next ones follow by themselves until
the session is idle. Commands and the pace of the reader go to the running call through a file (``control.py``).
"""

from __future__ import annotations

import contextvars
import logging
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cf_app.engine import commands
from cf_app.engine.desk import Desk
from cf_app.engine.engine import Engine
from cf_app.engine.handover import Handover, pack, unpack
from cf_app.engine.lead import Lead
from cf_app.engine.messages import (
    PAUSED,
    PLAYING,
    Applied,
    ChunkReady,
    Command,
    Ended,
    Event,
    Failed,
    Pause,
    Play,
    Resume,
    SetMemory,
    SetPrompt,
    SetSeed,
    SetTimeline,
    StateChanged,
    Stop,
    WatchAttention,
)
from cf_app.engine.reception import Reception
from cf_app.engine.session import Session
from cf_app.space.control import Word, speak
from cf_app.space.segment import Order, Parting

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Call = Callable[[Order], Generator[Event | Parting]]
_ON_PAPER = SetPrompt | SetTimeline | SetSeed | SetMemory | WatchAttention


@dataclass(eq=False)
class _Line:
    """The line to the calls of one session.

    Attributes:
        said: commands for the call that is under way, or for the next one.
        first: number of the first of them since the start of the session.
        fetched: chunks below this one have been fetched.
        running: a call is under way.
    """

    handover: Handover
    control: Path
    said: list[Command] = field(default_factory=list)
    first: int = 0
    fetched: int = 0
    running: bool = False


class SegmentedWorker(Reception):
    """Runs sessions through ``call``.

    Args:
        call: ``segment.play_segment`` of this engine, decorated with ``spaces.GPU``.
        seconds: length of a call.
        lead: chunks that a call is ahead of its reader; one more may be under way.
        idle: seconds without anything to do after which a call ends.
    """

    def __init__(self, engine: Engine, call: Call, *, seconds: float = 25.0, lead: int = 2, idle: float = 3.0) -> None:
        super().__init__(engine, paper=True)
        self.seconds, self.lead, self.idle = seconds, lead, idle
        self._call = call
        self._lines: dict[str, _Line] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="context-forcing-control-", ignore_cleanup_errors=True)

    def _new_desk(self, session: Session, chunks: int | None) -> Desk:
        return Desk(session, chunks, Lead(self.lead, self.engine.geometry.chunk_seconds, adaptive=False))

    def _seat(self, desk: Desk) -> None:
        super()._seat(desk)
        name = desk.session.id
        self._lines[name] = _Line(pack(desk.session), Path(self._folder.name) / name)

    def send(self, session_id: str, command: Command) -> int:
        """As ``Worker.send``. What concerns single latent frames is checked in the call and may fail there."""
        with self._wake:
            desk = self._desk(session_id)
            if desk.ended:
                raise ValueError("the session has ended, open a new one")
            chunk = desk.next_chunk
            if isinstance(command, _ON_PAPER):
                chunk = commands.check(self.engine, desk.session, command, chunk, desk.inbox)
            desk.inbox.append(command)
            self._lines[session_id].said.append(command)
            self._tell(desk)
            self._wake.notify_all()
        return chunk

    def events(self, session_id: str, timeout: float | None = None) -> Event | None:
        """As ``Worker.events``; also what keeps the session going."""
        event = super().events(session_id, timeout)
        if isinstance(event, ChunkReady):
            with self._wake:
                if session_id in self._desks:
                    self._lines[session_id].fetched = event.chunk + 1
                    self._tell(self._desks[session_id])
        return event

    def close(self, session_id: str) -> None:
        """As ``Worker.close``; a call that is under way is told to leave."""
        with self._wake:
            if session_id in self._desks:
                desk, line = self._desks[session_id], self._lines.pop(session_id)
                if line.running:
                    speak(line.control, Word(line.first, leave=True))
                self._close(desk)
                self._wake.notify_all()

    def shutdown(self) -> None:
        """Close all sessions."""
        with self._wake:
            self._stopping = True
        for name in self.sessions():
            self.close(name)
        self._folder.cleanup()

    def _between(self, session_id: str, work: Callable[[Session], Result]) -> Result:
        raise ValueError("sessions can not be saved here: on ZeroGPU they live on a GPU that comes and goes")

    # Before a call

    def _asked(self, desk: Desk) -> None:
        line = self._lines.get(desk.session.id)
        if line is None or line.running or desk.ended:
            return
        self._decide_here(desk)
        if desk.ended or (desk.state != PLAYING and not any(isinstance(item, Play | Resume) for item in desk.inbox)):
            return
        line.running = True
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._drive, desk, line), name="cf-call", daemon=True).start()

    def _order(self, desk: Desk, line: _Line) -> Order:
        """What the next call is asked to do."""
        line.said = list(desk.inbox)
        self._tell(desk)
        return Order(
            line.handover,
            desk.chunks,
            desk.state,
            desk.paused_at,
            line.control,
            line.first,
            line.fetched,
            self.seconds,
            lead=self.lead,
            idle=self.idle,
        )

    def _decide_here(self, desk: Desk) -> None:
        """Pause and stop need no GPU: without a call they take effect at once. Everything else waits for the next."""
        waiting: list[Command] = []
        for command in desk.inbox:
            if isinstance(command, Pause | Stop):
                waiting = [item for item in waiting if not isinstance(item, Play | Resume)]
                self._put(desk, Applied(desk.session.id, command, desk.session.chunk))
                self._set_state(desk, PAUSED)
            else:
                waiting.append(command)
            if isinstance(command, Stop):
                self._end(desk, "stopped")
                break
        desk.inbox.clear()
        desk.inbox.extend(waiting)

    def _tell(self, desk: Desk) -> None:
        line = self._lines[desk.session.id]
        if line.running:
            speak(line.control, Word(line.first, tuple(line.said), line.fetched))

    # During a call, on a thread of its own

    def _drive(self, desk: Desk, line: _Line) -> None:
        try:
            going_on = True
            while going_on:
                with self._wake:
                    if self._gone(desk):
                        return
                    order = self._order(desk, line)
                with closing(self._call(order)) as call:
                    going_on = self._listen(desk, line, call)
        except Exception as error:
            log.error("session %s: its GPU call has ended", desk.session.id, exc_info=error)
            with self._wake:
                text = (str(error).strip(" '\"") or type(error).__name__).splitlines()[0]
                self._put(desk, Failed(desk.session.id, f"{text} Press play to start again.", fatal=True))
                self._end(desk, "closed")
        finally:
            with self._wake:
                line.running = False
                line.control.unlink(missing_ok=True)
                self._wake.notify_all()

    def _listen(self, desk: Desk, line: _Line, call: Generator[Event | Parting]) -> bool:
        """Take in what a call sends; whether another one should follow at once."""
        going_on: bool | None = None
        for item in call:
            with self._wake:
                if self._gone(desk):
                    return False
                if isinstance(item, Parting):
                    self._part(desk, line, item)
                    going_on = item.handover is not None and not item.idle
                else:
                    self._receive(desk, item)
        if going_on is None:
            raise RuntimeError("The GPU was taken away.")
        return going_on

    def _gone(self, desk: Desk) -> bool:
        return self._stopping or desk.session.id not in self._desks

    def _part(self, desk: Desk, line: _Line, item: Parting) -> None:
        line.said = line.said[item.obeyed - line.first :]
        line.first, desk.paused_at = item.obeyed, item.paused_at
        desk.inbox.clear()
        desk.inbox.extend(line.said)
        if item.handover is not None:
            line.handover = item.handover
            desk.session = unpack(self.engine, item.handover, paper=True)

    def _receive(self, desk: Desk, item: Event) -> None:
        if isinstance(item, ChunkReady):
            desk.session.chunk, desk.session.seed = item.chunk + 1, item.seed
            desk.record(item.snapshot)
        elif isinstance(item, Applied):
            self._keep_up(desk, item)
        elif isinstance(item, StateChanged):
            desk.state = item.state
        elif isinstance(item, Ended):
            desk.ended = True
        self._put(desk, item)

    def _keep_up(self, desk: Desk, item: Applied) -> None:
        """The session on paper follows what the call has done to the real one."""
        if item.command in desk.inbox:
            desk.inbox.remove(item.command)
        if isinstance(item.command, _ON_PAPER):
            with suppress(ValueError):  # it has been done; the next hand-over says how
                commands.apply(self.engine, desk.session, item.command)
