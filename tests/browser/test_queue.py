"""Two visitors and one place: the second one is told to wait, plays after the first one's turn, and can give up."""

from __future__ import annotations

import pytest

from tests.browser.conftest import serve

STATE = "document.querySelector('.cf-player').dataset.mode"
MOVES = "document.querySelector('video').currentTime > 0.3"
QUEUE, PATIENCE = ".cf-queue:not([hidden])", 60_000  # ms: other work may be running on the machine


@pytest.fixture(scope="module")
def address():
    with serve("-m", "tests.fake_worker", "--speed", "4", "--sessions", "1", "--turn", "15") as running:
        yield running


def test_a_visitor_waits_for_a_place(address, open_page):
    first, second = open_page(address), open_page(address)
    first.click(".cf-big")
    first.wait_for_function(MOVES, timeout=PATIENCE)
    second.click(".cf-big")
    second.wait_for_selector(QUEUE, timeout=PATIENCE)
    assert second.inner_text(".cf-queue").startswith("All places are taken. You are next")
    first.wait_for_selector(".cf-alert:not([hidden])", timeout=PATIENCE)
    assert "Your turn is over" in first.inner_text(".cf-alert")
    second.wait_for_function(MOVES, timeout=PATIENCE)
    assert not second.is_visible(".cf-queue")

    first.click(".cf-main")
    first.wait_for_selector(QUEUE, timeout=PATIENCE)
    first.click("[data-do=stop]")
    first.wait_for_function(f"{STATE} === 'idle'", timeout=PATIENCE)
    assert not first.is_visible(".cf-queue") and second.evaluate(STATE) == "playing"
