"""Many visitors, few places: order, turns, budgets, and what a waiting browser is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cf_app.ui.gate import BUDGET, TURN, Gate, Limits
from cf_app.ui.tabs import Tabs
from cf_app.ui.visit import visit, visitor_of
from tests.fake_worker import FakeEngine, FakeWorker

PROMPT = "a red ball hops through the meadow at sunset"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tabs() -> Iterator[Tabs]:
    worker = FakeWorker(FakeEngine())
    made = Tabs(FakeEngine(), worker)  # type: ignore[arg-type]
    yield made
    made.close_all()
    worker.shutdown()


def positions(gate: Gate, tickets: list[Any]) -> list[int]:
    return [gate.wait(ticket, timeout=0.0) for ticket in tickets]


def test_places_are_given_in_the_order_of_asking(clock: Clock) -> None:
    gate = Gate(Limits(sessions=2, waiting=3), clock)
    tickets = [gate.enter(f"tab{i}", f"n{i}", f"v{i}") for i in range(5)]
    assert positions(gate, tickets) == [0, 0, 1, 2, 3]
    with pytest.raises(ValueError, match="3 visitors wait"):
        gate.enter("tab9", "n9", "v9")
    gate.leave(tickets[1])
    gate.leave(tickets[1])
    assert positions(gate, tickets[2:]) == [0, 1, 2]
    gate.forget("n3")
    assert tickets[3].gone and positions(gate, [tickets[4]]) == [1]
    gate.leave(tickets[0])
    assert positions(gate, [tickets[4]]) == [0]


def test_without_limits_everyone_is_inside(clock: Clock) -> None:
    gate = Gate(clock=clock)
    tickets = [gate.enter(f"tab{i}", "", "one visitor") for i in range(50)]
    clock.now += 1e6
    assert set(positions(gate, tickets)) == {0} and all(gate.over(ticket) is None for ticket in tickets)


def test_a_tab_keeps_its_place_for_its_next_wish(clock: Clock) -> None:
    gate = Gate(Limits(sessions=1), clock)
    inside, waiting, last = (gate.enter(name, "a", name) for name in ("x", "y", "z"))
    again, later = gate.enter("x", "b", "x"), gate.enter("y", "b", "y")
    assert inside.gone and waiting.gone
    assert positions(gate, [again, later, last]) == [0, 1, 2]
    gate.leave(inside)  # its generator ends only now
    assert positions(gate, [again, later, last]) == [0, 1, 2]


def test_a_turn_ends_only_when_someone_waits(clock: Clock) -> None:
    gate = Gate(Limits(sessions=1, turn=60), clock)
    first = gate.enter("x", "", "x")
    clock.now += 300
    assert gate.over(first) is None
    second = gate.enter("y", "", "y")
    assert gate.over(first) == TURN and gate.seconds_to_wait(1) == 0
    gate.leave(first)
    assert gate.over(second) is None
    third, fourth = gate.enter("x", "", "x"), gate.enter("z", "", "z")
    clock.now += 20
    assert positions(gate, [third, fourth]) == [1, 2]
    assert (gate.seconds_to_wait(1), gate.seconds_to_wait(2)) == (40, 100)


def test_a_visitor_has_a_budget_over_all_tabs(clock: Clock) -> None:
    gate = Gate(Limits(budget=120, window=3600), clock)
    first = gate.enter("x", "", "someone")
    clock.now += 100
    gate.leave(first)
    clock.now += 500
    second = gate.enter("y", "", "someone")
    clock.now += 10
    assert gate.over(second) is None
    clock.now += 10
    assert gate.over(second) == BUDGET
    gate.leave(second)
    with pytest.raises(ValueError, match=r"2 minutes.*Come back in 51 minutes"):
        gate.enter("z", "", "someone")
    gate.leave(gate.enter("z", "", "someone else"))
    clock.now += 3200
    assert gate.over(gate.enter("z", "", "someone")) is None


def test_bad_limits() -> None:
    with pytest.raises(ValueError, match="turn is -1"):
        Limits(turn=-1)


def test_who_a_visitor_is() -> None:
    headers = {"x-forwarded-for": "203.0.113.9, 10.0.0.1"}
    assert visitor_of(headers, "10.0.0.1", None, behind_proxy=True) == "203.0.113.9"
    assert visitor_of(headers, "10.0.0.1", None, behind_proxy=False) == "10.0.0.1"
    assert visitor_of(headers, "10.0.0.1", "ada", behind_proxy=True) == "ada"
    assert visitor_of({}, None, None, behind_proxy=True) == "unknown"


class Visit:
    """Reads the messages of one press of play on a thread of its own."""

    def __init__(self, tabs: Tabs, gate: Gate, tab: str) -> None:
        self.messages: list[dict[str, Any]] = []
        wish = {"prompt": PROMPT, "nonce": tab}
        self.thread = threading.Thread(target=self._read, args=(visit(tabs, gate, tab, tab, wish),), daemon=True)
        self.thread.start()

    def _read(self, messages: Iterator[dict[str, Any]]) -> None:
        for message in messages:
            self.messages.append(message)

    def until(self, kind: str) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while True:
            for message in list(self.messages):
                if message["type"] == kind:
                    return message
            assert time.monotonic() < deadline, kind
            time.sleep(0.01)


def test_a_visitor_waits_plays_and_makes_room(tabs: Tabs, clock: Clock) -> None:
    gate = Gate(Limits(sessions=1, turn=60), clock)
    first = Visit(tabs, gate, "first")
    first.until("chunk")
    second = Visit(tabs, gate, "second")
    told = second.until("waiting")
    assert (told["position"], told["nonce"], told["run"], told["seconds"]) == (1, "second", None, 60)
    clock.now += 61
    ended = first.until("ended")
    first.thread.join(30)
    assert ended["reason"] == "turn" and [m["seq"] for m in first.messages] == list(range(len(first.messages)))
    assert second.until("run")["prompt"] == PROMPT
    tabs.close("second")
    second.thread.join(30)
    assert gate.enter("third", "", "third").since is not None


def test_who_gives_up_waiting_is_not_started(tabs: Tabs, clock: Clock) -> None:
    gate = Gate(Limits(sessions=1), clock)
    first = Visit(tabs, gate, "first")
    first.until("run")
    second = Visit(tabs, gate, "second")
    second.until("waiting")
    gate.forget("second")
    second.thread.join(30)
    tabs.close("first")
    first.thread.join(30)
    assert {message["type"] for message in second.messages} == {"waiting"} and len(tabs.worker.sessions) == 0  # type: ignore


def test_a_bad_wish_gives_its_place_back(tabs: Tabs, clock: Clock) -> None:
    gate = Gate(Limits(sessions=1), clock)
    messages = list(visit(tabs, gate, "x", "x", {"prompt": "", "nonce": "n"}))
    assert [(message["type"], message["nonce"]) for message in messages] == [("refused", "n")]
    assert gate.enter("y", "", "y").since is not None
