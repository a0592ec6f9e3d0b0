"""Copies of a session at some of its past chunks, so that a branch need not be made again from the start.

A copy takes what the session's memory takes: megabytes for a small model, gigabytes for a full-size one, which gets
none.
"""

from __future__ import annotations

from collections.abc import Iterable

from cf_app.engine.session import Session

MOST, MOST_BYTES = 12, 128_000_000  # of a session


class Kept:
    """At most ``MOST`` copies, evenly apart; the longer the film, the wider."""

    def __init__(self, sessions: Iterable[Session] = ()) -> None:
        self._sessions = {session.chunk: session for session in sessions}
        self._stride = 1

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self, session: Session) -> None:
        """Copy the session if it is time. Only between two chunks, when nobody changes it."""
        chunk = session.chunk
        room = min(MOST, MOST_BYTES // max(1, session.memory.cache.bytes_held))
        if room < 2 or not chunk or chunk % self._stride or chunk in self._sessions:
            return
        if session.marked == chunk:
            return  # this chunk's markers have acted, and its plan may be another in the branch
        self._sessions[chunk] = session.fork()
        while len(self._sessions) > room:
            self._stride *= 2
            self._sessions = {at: kept for at, kept in self._sessions.items() if at % self._stride == 0}

    def upto(self, chunk: int) -> Kept:
        """The copies whose next chunk is ``chunk`` or an earlier one."""
        other = Kept(session for at, session in self._sessions.items() if at <= chunk)
        other._stride = self._stride
        return other

    def last(self) -> Session | None:
        """The latest of them, not to be played itself."""
        return self._sessions[max(self._sessions)] if self._sessions else None
