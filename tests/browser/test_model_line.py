"""The head of the page: what the model runs on, and what that takes while a film is made."""

from __future__ import annotations

import pytest

from .conftest import serve


@pytest.fixture(scope="module")
def address():
    with serve("-m", "tests.fake_worker", "--speed", "4") as running:
        yield running


def test_memory_is_measured_while_a_film_is_made(address, open_page) -> None:
    page = open_page(address, 1440, 900)
    page.wait_for_selector(".cf-facts .cf-use")
    assert page.inner_text(".cf-facts").startswith("unquantized · no attention · cpu · 128×80, 16 frames a second · ")
    assert page.inner_text(".cf-facts").endswith((" · H.264 by libx264", " · H.264 by NVENC"))
    page.evaluate("document.querySelectorAll('.cf-use').forEach((place) => (place.textContent = '?'))")
    page.click(".cf-big")
    page.wait_for_function("document.querySelector('.cf-facts .cf-use').textContent.endsWith('GB memory')")
    page.click("[data-cf=help]")  # on a phone the help is where it stands
    assert "GB memory" in page.inner_text("#cf-help") and "unquantized" in page.inner_text("#cf-help")
    page.click("[data-cf=close]")
    page.click("[data-cf=theme]")
    assert page.evaluate("document.documentElement.dataset.cfTheme") == "light"
