"""The real program with the model that comes along: a click, moving pictures, a change that is seen."""

from __future__ import annotations

import pytest

from tests.browser.conftest import ROOT, serve
from tests.browser.test_page import MEAN_OF_SKY, assert_it_moves

BOX = ".cf-field textarea"
PATIENCE = 60_000  # ms: other work may be running on the machine


@pytest.fixture(scope="module")
def address():
    if not (ROOT / "weights" / "cf_config.json").exists():
        pytest.skip("weights/ holds no model yet")
    with serve("app.py") as running:
        yield running


def send(page, prompt: str) -> None:
    page.fill(BOX, prompt)
    page.focus(BOX)
    page.keyboard.press("Control+Enter")


def brightness(page) -> float:
    return sum(page.evaluate(MEAN_OF_SKY)) / 3


def test_day_turns_to_night_when_asked(address, open_page):
    page = open_page(address)
    send(page, "a red ball hops through the meadow by day")
    page.wait_for_function("document.querySelector('video').currentTime > 2.5", timeout=PATIENCE)
    day = brightness(page)
    assert_it_moves(page)
    send(page, "a red ball hops through the meadow at night")
    page.wait_for_function("document.querySelector('.cf-caption span').textContent.includes('night')", timeout=PATIENCE)
    changed = page.evaluate("document.querySelector('video').currentTime")
    page.wait_for_function("(t) => document.querySelector('video').currentTime > t + 3", arg=changed, timeout=PATIENCE)
    assert brightness(page) < 0.75 * day


def test_words_of_another_world_are_named(address, open_page):
    page = open_page(address)
    page.fill(BOX, "a red ball and a velociraptor")
    page.wait_for_function("document.querySelector('.cf-words').textContent.includes('velociraptor')", timeout=PATIENCE)


@pytest.mark.parametrize("width", [390, 1440])
def test_the_whole_page_fits(address, open_page, width):
    page = open_page(address, width, 844)
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_all_of_it_is_on_a_laptop_screen_and_stays_there(address, open_page):
    """1440 x 900: nothing below the fold, whether a block is chosen, words are unknown or a film plays."""
    page = open_page(address, 1440, 900)
    page.wait_for_timeout(500)
    rooms = """() => ['.cf-screen', '#cf-prompt', '.mc', '.tl', '#cf-memory']
      .map((place) => document.querySelector(place).getBoundingClientRect())
      .map((box) => [box.left, box.top, box.right, box.bottom].map(Math.round))"""
    before = page.evaluate(rooms)
    screen, *others = [(right - left) * (bottom - top) for left, top, right, bottom in before]
    assert screen > max(others) and before[0][3] - before[0][1] >= 340
    assert max(bottom for _, _, _, bottom in before) <= 900
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    send(page, "a red velociraptor over the castle")
    page.wait_for_function("document.querySelector('.cf-words span').textContent.includes('star, triangle.')")
    page.wait_for_function("document.querySelector('video').currentTime > 1", timeout=PATIENCE)
    page.click(".tl-block", position={"x": 200, "y": 20})
    page.wait_for_selector(".tl[data-inspect=cue]")
    assert page.evaluate(rooms)[:4] == before[:4]
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
