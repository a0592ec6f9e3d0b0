"""One device, many visitors: who plays now, who waits, and for how long.

Places are given in the order of asking. A place is held by a tab from the start of a run to its end. Times are
seconds of the clock that is handed in; nothing here knows of Gradio, threads only meet at the lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

TURN, BUDGET = "turn", "budget"
_SAY_AGAIN = 2.0  # seconds after which who waits is told the position again, changed or not


@dataclass(frozen=True)
class Limits:
    """0 means no limit.

    Attributes:
        sessions: tabs that play at the same time.
        waiting: tabs that wait; more are turned away.
        turn: seconds after which a run ends if someone waits.
        budget: seconds that a visitor may play within ``window``.
        window: seconds.
        proxied: visitors come through a proxy that tells their addresses, as on a Space.
    """

    sessions: int = 0
    waiting: int = 20
    turn: float = 0.0
    budget: float = 0.0
    window: float = 3600.0
    proxied: bool = False

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            if value < 0:
                raise ValueError(f"{name} is {value}, expected 0 (no limit) or more")


NO_LIMITS = Limits()


@dataclass(eq=False)
class Ticket:
    """A tab's place, inside or in the queue.

    Attributes:
        tab, nonce: the page that asked, and which of its wishes.
        visitor: who is behind it; several tabs can have one.
        since: when it came inside; None while it waits.
        gone: its place has been given up.
    """

    tab: str
    nonce: str
    visitor: str
    since: float | None = None
    gone: bool = False


@dataclass
class _Spent:
    """When a visitor has played: (end, seconds)."""

    times: deque[tuple[float, float]] = field(default_factory=deque)


class Gate:
    """Gives out places."""

    def __init__(self, limits: Limits = NO_LIMITS, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._inside: list[Ticket] = []
        self._queue: list[Ticket] = []
        self._spent: dict[str, _Spent] = {}
        self._changed = threading.Condition()

    def enter(self, tab: str, nonce: str, visitor: str) -> Ticket:
        """Ask for a place. A tab that has one, inside or in the queue, keeps it for its new wish.

        Raises:
            ValueError: the queue is full, or the visitor has played enough for now.
        """
        with self._changed:
            self._check_budget(visitor)
            ticket = Ticket(tab, nonce, visitor)
            for row in (self._inside, self._queue):
                for index, old in enumerate(row):
                    if old.tab == tab:
                        ticket.since, old.gone = old.since, True
                        row[index] = ticket
                        return ticket
            if not self._has_room() and 0 < self.limits.waiting <= len(self._queue):
                waiting = len(self._queue)
                raise ValueError(f"All places are taken and {waiting} visitors wait. Try again in a few minutes.")
            self._queue.append(ticket)
            self._admit()
            return ticket

    def wait(self, ticket: Ticket, timeout: float = _SAY_AGAIN) -> int:
        """How many are before it, itself included: 0 once it is inside. Returns when that changes, or after a while."""
        with self._changed:
            before = self._position(ticket)
            if before:
                self._changed.wait_for(lambda: self._position(ticket) != before, timeout)
            return self._position(ticket)

    def seconds_to_wait(self, position: int) -> float | None:
        """About how long ``position`` in the queue waits; None if nothing limits those inside."""
        with self._changed:
            if not self.limits.turn or not self._inside:
                return None
            now = self._clock()
            left = sorted(max(0.0, self.limits.turn - (now - (t.since or now))) for t in self._inside)
            rounds, place = divmod(position - 1, len(left))
            return left[place] + rounds * self.limits.turn

    def over(self, ticket: Ticket) -> str | None:
        """Why a run has to end now: "turn", "budget", or None."""
        with self._changed:
            if ticket.since is None:
                return None
            played = self._clock() - ticket.since
            if self.limits.turn and self._queue and played >= self.limits.turn:
                return TURN
            if self.limits.budget and self._used(ticket.visitor) >= self.limits.budget:
                return BUDGET
            return None

    def leave(self, ticket: Ticket) -> None:
        """Give the place up; doing it twice is fine."""
        with self._changed:
            if ticket in self._inside:
                self._inside.remove(ticket)
                now = self._clock()
                self._spent.setdefault(ticket.visitor, _Spent()).times.append((now, now - (ticket.since or now)))
            elif ticket in self._queue:
                self._queue.remove(ticket)
            ticket.gone = True
            self._admit()

    def forget(self, nonce: str) -> None:
        """A visitor does not want to wait any longer."""
        with self._changed:
            for ticket in [ticket for ticket in self._queue if ticket.nonce == nonce]:
                self._queue.remove(ticket)
                ticket.gone = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return not self.limits.sessions or len(self._inside) < self.limits.sessions

    def _admit(self) -> None:
        while self._queue and self._has_room():
            ticket = self._queue.pop(0)
            ticket.since = self._clock()
            self._inside.append(ticket)
        self._changed.notify_all()

    def _position(self, ticket: Ticket) -> int:
        return self._queue.index(ticket) + 1 if ticket in self._queue else 0

    def _used(self, visitor: str) -> float:
        """Seconds that a visitor has played within the window, what is being played included."""
        now, spent = self._clock(), self._spent.get(visitor, _Spent())
        while spent.times and spent.times[0][0] < now - self.limits.window:
            spent.times.popleft()
        playing = sum(now - t.since for t in self._inside if t.visitor == visitor and t.since is not None)
        return playing + sum(seconds for _, seconds in spent.times)

    def _check_budget(self, visitor: str) -> None:
        for name in [name for name in self._spent if not self._used(name)]:
            del self._spent[name]
        limits = self.limits
        if limits.budget and self._used(visitor) >= limits.budget:
            times = self._spent.get(visitor, _Spent()).times
            oldest = times[0][0] if times else self._clock()
            minutes = max(1, round((oldest + limits.window - self._clock()) / 60))
            raise ValueError(
                f"You have played {limits.budget / 60:.0f} minutes, which is what a visitor has here. "
                f"Come back in {minutes} minutes, or duplicate this Space."
            )
