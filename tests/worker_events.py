"""What tests of a worker read and wait for, whichever worker it is."""

from __future__ import annotations

from collections.abc import Callable

from cf_app.engine.messages import ChunkReady, Ended, Event, Failed
from cf_app.engine.reception import Reception

RED, BLUE = "a red ball hops", "a blue star floats"
PATIENCE = 120.0


def following(worker: Reception, session: str) -> Event:
    """The next event."""
    event = worker.events(session, PATIENCE)
    assert event is not None
    return event


def until(worker: Reception, session: str, sought: type | Callable[[Event], bool]) -> list[Event]:
    """All events up to the first that is ``sought``, a kind or a question; an end or a failure before it fails."""
    events: list[Event] = []
    while True:
        events.append(following(worker, session))
        if isinstance(events[-1], sought) if isinstance(sought, type) else sought(events[-1]):
            return events
        assert not isinstance(events[-1], Ended | Failed), events[-1]


def chunks_of(events: list[Event]) -> list[ChunkReady]:
    """The chunks among events."""
    return [event for event in events if isinstance(event, ChunkReady)]


def next_chunks(worker: Reception, session: str, count: int) -> list[ChunkReady]:
    """So many chunks more."""
    return [chunk for _ in range(count) for chunk in chunks_of(until(worker, session, ChunkReady))]
