"""A film that begins with a picture of the visitor's."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.browser.conftest import serve
from tests.browser.test_page import MEAN_OF_SKY, mode_of, until_shown


@pytest.fixture(scope="module")
def address():
    with serve("-m", "tests.fake_worker", "--speed", "4") as running:
        yield running


def test_a_film_begins_with_a_picture_until_it_is_dropped(address, open_page, tmp_path):
    Image.new("RGB", (300, 200), (30, 200, 60)).save(tmp_path / "green.png")
    page = open_page(address, 1440, 900)
    page.set_input_files(".cf-file", tmp_path / "green.png")
    page.wait_for_selector(".cf-start:not([hidden])")
    assert "begins with it" in page.inner_text(".cf-words") and page.inner_text(".cf-start span") == "green.png"
    top = page.evaluate("document.querySelector('.cf-chips').getBoundingClientRect().top")
    page.click(".cf-big")
    page.wait_for_function("document.querySelector('video').currentTime > 0.1", timeout=90_000)
    page.keyboard.press("Space")
    page.evaluate("cf.emit('seek', { time: 0.3 })")
    page.wait_for_timeout(400)
    red, green, blue = page.evaluate(MEAN_OF_SKY)
    assert green > red + 80 and green > blue + 80
    page.click("[data-do=stop]")
    page.click("[data-start=drop]")
    assert page.is_hidden(".cf-start")
    assert page.evaluate("document.querySelector('.cf-chips').getBoundingClientRect().top") == top, "nothing jumps"
    page.click(".cf-main")
    until_shown(page, 0.2)
    assert page.evaluate(MEAN_OF_SKY)[0] > 180, "the sunset of the prompt"


def test_a_file_that_is_no_picture_is_named(address, open_page, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    page = open_page(address, 390, 844)
    page.set_input_files(".cf-file", tmp_path / "notes.txt")
    page.wait_for_function("document.querySelector('.cf-words').textContent.includes('notes.txt')", timeout=90_000)
    page.wait_for_function("document.querySelector('.cf-words').textContent.includes('no picture')", timeout=90_000)
    assert page.is_hidden(".cf-start") and mode_of(page) == "idle"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
