"""Two visitors and one place: the second one is told to wait, plays after the first one's turn, and can give up."""

from __future__ import annotations

from tests.browser.conftest import serve

STATE = "document.querySelector('.cf-player').dataset.mode"


def test_a_visitor_waits_for_a_place(open_page):
    with serve("-m", "tests.fake_worker", "--speed", "4", "--sessions", "1", "--turn", "3") as address:
        first, second = open_page(address), open_page(address)
        first.click(".cf-big")
        first.wait_for_function("document.querySelector('video').currentTime > 0.3", timeout=20_000)
        second.click(".cf-big")
        second.wait_for_selector(".cf-queue:not([hidden])", timeout=20_000)
        assert second.inner_text(".cf-queue").startswith("All places are taken. You are next")
        first.wait_for_selector(".cf-alert:not([hidden])", timeout=30_000)
        assert "Your turn is over" in first.inner_text(".cf-alert")
        second.wait_for_function("document.querySelector('video').currentTime > 0.3", timeout=30_000)
        assert not second.is_visible(".cf-queue")

        first.click(".cf-main")
        first.wait_for_selector(".cf-queue:not([hidden])", timeout=20_000)
        first.click("[data-do=stop]")
        first.wait_for_function(f"{STATE} === 'idle'", timeout=20_000)
        assert not first.is_visible(".cf-queue")
        second.wait_for_timeout(4000)
        assert second.evaluate(STATE) == "playing", "nobody waits any more, so its turn goes on"
