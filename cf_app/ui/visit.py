"""From a wish to play to the run's messages, through the gate.

What a browser gets while it waits: `{"type": "waiting", "run": None, "seq": 0, nonce, position, seconds}`; position 1
is next, seconds is an estimate or None. A run that ends before its time: `{"type": "ended", "reason": "turn"}`, or
"budget".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .gate import Gate, Ticket
from .run import Message, Run
from .tabs import Tabs


def visit(tabs: Tabs, gate: Gate, tab: str, visitor: str, wish: Mapping[str, Any]) -> Iterator[Message]:
    """Messages for one press of play, to its end. The place is given up in any case."""
    nonce = str(wish.get("nonce") or "")
    try:
        ticket = gate.enter(tab, nonce, visitor)
    except ValueError as error:
        yield _refused(nonce, error)
        return
    try:
        while position := gate.wait(ticket, timeout=0.0):
            seconds = gate.seconds_to_wait(position)
            yield {**_unnamed("waiting", nonce), "position": position, "seconds": seconds}
            gate.wait(ticket)
        if ticket.gone:
            return  # replaced by another wish of its tab, or given up
        run = tabs.start(tab, wish)
    except ValueError as error:
        yield _refused(nonce, error)
    else:
        yield from _played(run, gate, ticket)
    finally:
        gate.leave(ticket)


def _played(run: Run, gate: Gate, ticket: Ticket) -> Iterator[Message]:
    run.ends_when(lambda: gate.over(ticket) is not None)
    yield from run.messages()
    reason = gate.over(ticket)
    if reason is not None and not ticket.gone:
        yield run.numbered({"type": "ended", "reason": reason})


def _refused(nonce: str, error: ValueError) -> Message:
    return {**_unnamed("refused", nonce), "message": str(error)}


def _unnamed(kind: str, nonce: str) -> Message:
    return {"type": kind, "run": None, "seq": 0, "nonce": nonce}


def visitor_of(headers: Mapping[str, str], host: str | None, name: str | None, *, behind_proxy: bool) -> str:
    """Who asks: the name of who is logged in, else the address.

    Args:
        headers: of the request, names in lower case.
        behind_proxy: the address in ``x-forwarded-for`` can be believed, as on a Space.
    """
    forwarded = headers.get("x-forwarded-for", "") if behind_proxy else ""
    return name or forwarded.split(",")[0].strip() or host or "unknown"
