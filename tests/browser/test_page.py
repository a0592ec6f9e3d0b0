"""The page in a real browser, with a fake engine whose pictures can be measured (`tests/fake_worker.py`)."""

from __future__ import annotations

import json
import time
import urllib.request

import av
import pytest

from cf_app.ui.palette import PromptColors, preferred_color
from tests.browser.conftest import serve
from tests.fake_worker import FakeEngine

SUNSET = "a red ball hops through the meadow at sunset"
NIGHT = "a blue ball floats over the beach at night"

MEAN_OF_SKY = """() => {
  const video = document.querySelector("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [64, 40];
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0, 64, 40);
  const { data } = context.getImageData(0, 0, 64, 6);
  const sums = [0, 0, 0];
  for (let i = 0; i < data.length; i += 4) for (let c = 0; c < 3; c++) sums[c] += data[i + c];
  return sums.map((sum) => (4 * sum) / data.length);
}"""
BUFFERED = """() => {
  const video = document.querySelector("video");
  return video.buffered.end(video.buffered.length - 1) - video.currentTime;
}"""
WHOLE = """() => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [64, 40];
  canvas.getContext("2d").drawImage(document.querySelector("video"), 0, 0, 64, 40);
  return Array.from(canvas.getContext("2d").getImageData(0, 0, 64, 40).data);
}"""


@pytest.fixture(scope="module")
def address():
    with serve("-m", "tests.fake_worker", "--speed", "4") as running:
        yield running


def time_of(page) -> float:
    return page.evaluate("document.querySelector('video').currentTime")


def mode_of(page) -> str:
    return page.evaluate("document.querySelector('.cf-player').dataset.mode")


def play(page, prompt: str = SUNSET) -> None:
    page.fill("textarea", prompt)
    page.keyboard.press("Control+Enter")
    page.wait_for_function("document.querySelector('video').currentTime > 0.3", timeout=90_000)


def until_shown(page, seconds: float) -> None:
    page.wait_for_function(f"document.querySelector('video').currentTime > {seconds}", timeout=90_000)


def assert_it_moves(page) -> None:
    """The pixels change while it plays; a busy machine gets time for that."""
    before = page.evaluate(WHOLE)
    for _ in range(50):
        page.wait_for_timeout(200)
        if difference(before, page.evaluate(WHOLE)) > 0.3:
            return
    raise AssertionError("the picture has not changed for 10 s")


def difference(a: list[int], b: list[int]) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


def test_play_moves_pictures_and_the_status_line(address, open_page):
    page = open_page(address)
    assert page.is_visible(".cf-invite") and page.is_disabled("[data-do=stop]") and page.is_disabled("[data-do=save]")
    page.click(".cf-big")
    page.wait_for_function("document.querySelector('video').currentTime > 0.3", timeout=90_000)
    assert not page.is_visible(".cf-invite") and page.is_enabled("[data-do=stop]")
    assert_it_moves(page)
    red, green, blue = page.evaluate(MEAN_OF_SKY)
    assert red > green > blue, "the first example plays at sunset"
    until_shown(page, 2.4)
    status = page.inner_text(".cf-status")
    assert "FPS" in status and "denoise" in status and page.inner_text("[data-s=chunk]") in {"3", "4"}
    assert page.inner_text(".cf-caption") == SUNSET


def test_generation_waits_for_the_viewer(address, open_page):
    page = open_page(address)
    play(page)
    ahead = []
    for _ in range(20):
        page.wait_for_timeout(100)
        ahead.append(page.evaluate(BUFFERED))
    assert max(ahead) < 2.0, "four chunks a second are made for 1.3 that are shown"


def test_a_prompt_change_is_announced_and_then_seen(address, open_page):
    page = open_page(address)
    play(page)
    page.evaluate(
        "window.seen = []; cf.on('chunk', (m) => seen.push([m.chunk, m.prompt]));"
        "cf.on('applied', (m) => seen.push([m.kind, m.chunk]))"
    )
    page.fill("textarea", NIGHT)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".cf-next:not([hidden])")
    announced = int(page.inner_text(".cf-next span").split("chunk ")[1].split()[0])
    page.wait_for_function("document.querySelector('.cf-caption span').textContent.includes('night')", timeout=90_000)
    page.wait_for_timeout(300)
    red, _, blue = page.evaluate(MEAN_OF_SKY)
    assert blue > red and red < 60
    seen = page.evaluate("seen")
    assert ["prompt", announced] in seen
    assert all((prompt == NIGHT) == (chunk >= announced) for chunk, prompt in seen if isinstance(chunk, int))
    assert page.is_hidden(".cf-next")


def test_pause_holds_both_the_picture_and_the_generation(address, open_page):
    page = open_page(address)
    play(page)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Space")
    page.wait_for_timeout(1000)
    at, end = time_of(page), page.inner_text(".cf-total")
    page.wait_for_timeout(1200)
    assert (time_of(page), page.inner_text(".cf-total"), mode_of(page)) == (at, end, "paused")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    assert 0.02 < time_of(page) - at < 0.11, "one picture further"
    page.keyboard.press("Space")
    until_shown(page, at + 1.6)
    assert mode_of(page) == "playing"


def test_keys_are_left_alone_while_typing(address, open_page):
    page = open_page(address)
    play(page)
    page.focus("textarea")
    page.keyboard.type(" and f")
    page.keyboard.press("ArrowLeft")
    assert mode_of(page) == "playing" and page.input_value("textarea").endswith(" and f")


def test_stop_ends_and_play_begins_anew(address, open_page):
    page = open_page(address)
    play(page)
    until_shown(page, 1.0)
    page.click("[data-do=stop]")
    page.wait_for_function("document.querySelector('.cf-player').dataset.mode === 'stopped'")
    assert page.is_disabled("[data-do=stop]") and page.is_enabled("[data-do=save]")
    page.click(".cf-main")
    page.wait_for_function("document.querySelector('.cf-player').dataset.mode === 'playing'", timeout=90_000)
    page.wait_for_timeout(200)
    assert time_of(page) < 1.0


def test_the_download_holds_what_was_shown(address, open_page, tmp_path):
    page = open_page(address)
    play(page)
    until_shown(page, 1.7)
    page.keyboard.press("Escape")
    with page.expect_download() as film:
        page.click("[data-do=save]")
    film.value.save_as(tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as container:
        count = sum(1 for _ in container.decode(video=0))
    assert count >= 36 and count % 12 == 0
    with page.expect_download() as picture:
        page.click("[data-do=frame]")
    assert picture.value.suggested_filename.endswith(".png")


def test_jumping_back_and_to_live(address, open_page):
    page = open_page(address)
    play(page)
    until_shown(page, 4.2)
    page.evaluate("cf.emit('seek', { chunk: 0 })")
    page.wait_for_timeout(300)
    assert time_of(page) < 1.0 and mode_of(page) == "playing"
    page.wait_for_selector(".cf-to-live:not([hidden])")
    page.click(".cf-to-live")
    page.wait_for_timeout(200)
    assert time_of(page) > 4.0
    page.wait_for_selector(".cf-to-live", state="hidden")


def test_two_tabs_do_not_mix(address, open_page):
    one, two = open_page(address, 800, 700), open_page(address, 800, 700)
    play(one, SUNSET)
    play(two, NIGHT)
    until_shown(one, 1.6)
    until_shown(two, 1.6)
    assert one.evaluate(MEAN_OF_SKY)[0] > 180 and two.evaluate(MEAN_OF_SKY)[0] < 60
    assert (one.inner_text(".cf-caption"), two.inner_text(".cf-caption")) == (SUNSET, NIGHT)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("", "empty"), ("x" * 10_000, "10000 characters"), ("🎈🎉🐉", "no words")],
    ids=["empty", "long", "emoji"],
)
def test_bad_prompts_get_a_clear_message(address, open_page, prompt, reason):
    page = open_page(address, 800, 700)
    page.fill("textarea", prompt)
    page.click(".cf-send")
    page.wait_for_function(
        "(r) => document.querySelector('.cf-words').textContent.includes(r)", arg=reason, timeout=90_000
    )
    assert mode_of(page) == "idle" and reason in page.inner_text(".cf-alert")
    play(page)
    page.fill("textarea", prompt)
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "(r) => document.querySelector('.cf-words').textContent.includes(r)", arg=reason, timeout=90_000
    )
    assert mode_of(page) == "playing", "a bad change does not disturb what plays"


def test_unknown_words_are_named(address, open_page):
    page = open_page(address)
    page.fill("textarea", "a green dragon over the castle at night")
    page.wait_for_function("document.querySelector('.cf-words').textContent.includes('dragon, castle')", timeout=90_000)
    page.click(".cf-words summary")
    assert "meadow" in page.inner_text(".cf-words details p")
    assert "Name what to show: ball, box, heart, star." in page.inner_text(".cf-words span")
    page.fill("textarea", "a green star over the castle at night")
    page.wait_for_function("document.querySelector('.cf-words span').textContent.endsWith('know: castle.')")
    page.fill("textarea", "a green star")
    page.wait_for_function("document.querySelector('.cf-words span').textContent === ''")


def test_seed_is_shown_kept_and_checked(address, open_page):
    page = open_page(address)
    page.evaluate(
        "window.seeds = []; cf.on('chunk', (m) => seeds.push(m.seed)); cf.on('run', (m) => seeds.push(m.seed))"
    )
    page.fill(".cf-seed input", "4711")
    play(page)
    assert page.evaluate("seeds[0]") == 4711
    page.fill(".cf-seed input", "minus")
    page.keyboard.press("Enter")
    page.wait_for_selector(".cf-alert:not([hidden])")
    assert "whole number" in page.inner_text(".cf-alert") and page.input_value(".cf-seed input") == "4711"
    page.fill(".cf-seed input", "12")
    page.keyboard.press("Enter")
    page.wait_for_function("seeds[seeds.length - 1] === 12", timeout=90_000)


def test_a_hidden_tab_loses_no_chunk(address, open_page):
    page = open_page(address)
    page.evaluate("window.chunks = []; cf.on('chunk', (m) => chunks.push(m.chunk))")
    play(page)
    page.evaluate(
        "Object.defineProperty(document, 'visibilityState', { get: () => 'hidden', configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    until_shown(page, 5.0)
    chunks = page.evaluate("chunks")
    assert chunks == list(range(len(chunks))) and len(chunks) >= 7


def test_the_page_and_the_server_agree_on_colours(address, open_page):
    page = open_page(address)
    prompts = [f"scene {i} with Ünïcode" for i in range(4)]
    fresh = page.evaluate("(p) => [...new Array(4).keys()].map((i) => cf.color(p[i]))", prompts)
    colors = PromptColors(FakeEngine.example_prompts)
    assert fresh == [colors.number(prompt) for prompt in prompts]
    assert page.evaluate("cf.color('a red ball hops through the meadow at sunset')") == preferred_color(SUNSET)


def test_without_h264_it_plays_vp9(address, open_page):
    refuse = (
        "const can = MediaSource.isTypeSupported; MediaSource.isTypeSupported = (t) => !t.includes('avc1') && can(t)"
    )
    page = open_page(address, script=refuse)
    page.evaluate("cf.on('chunk', (m) => (window.mime = m.mime))")
    play(page)
    assert page.evaluate("mime").startswith('video/mp4; codecs="vp09')
    assert page.evaluate(MEAN_OF_SKY)[0] > 180


def test_a_browser_that_can_not_play_is_told_so(address, open_page):
    page = open_page(address, script="delete window.MediaSource; delete window.ManagedMediaSource")
    page.click(".cf-big")
    page.wait_for_selector(".cf-alert:not([hidden])")
    assert "Media Source Extensions" in page.inner_text(".cf-alert") and mode_of(page) == "idle"


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1440, 900)])
def test_nothing_sticks_out_and_the_numbers_move_nothing(address, open_page, theme, width, height):
    page = open_page(f"{address}?__theme={theme}", width, height)
    assert page.evaluate("document.documentElement.dataset.cfTheme") == theme
    tops = (
        "['.cf-transport', '#cf-prompt', '.cf-chips'].map((s) => document.querySelector(s).getBoundingClientRect().top)"
    )
    before = page.evaluate(tops)
    play(page)
    until_shown(page, 2.0)
    assert page.evaluate(tops) == before
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_closed_tab_frees_its_session(open_page):
    with serve("-m", "tests.fake_worker", "--speed", "4", "--report") as own:
        page = open_page(own)
        play(page)

        def sessions() -> int:
            with urllib.request.urlopen(own + "gradio_api/sessions-for-tests", timeout=5) as answer:
                return json.load(answer)

        assert sessions() == 1
        page.close()
        deadline = time.monotonic() + 8
        while sessions() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert sessions() == 0


def test_a_failure_is_told_and_play_starts_again(open_page):
    with serve("-m", "tests.fake_worker", "--speed", "4", "--fail-at", "3") as own:
        page = open_page(own)
        page.click(".cf-big")
        page.wait_for_selector(".cf-alert:not([hidden])", timeout=90_000)
        assert "out of memory" in page.inner_text(".cf-alert") and mode_of(page) == "failed"
        page.click(".cf-main")
        page.wait_for_function("document.querySelector('.cf-player').dataset.mode === 'playing'", timeout=90_000)
        page.context.close()  # before its server goes
