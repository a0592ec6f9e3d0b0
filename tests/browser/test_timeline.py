"""The timeline editor in a browser, on the fake worker: pointer, keys, touch, live changes, files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.browser.conftest import ROOT, serve

PATIENCE = 90_000  # ms, for a machine that has other things to do
# Cues at chunks 0, 10, 20; the end at 30.
STORY = "a red ball by day[7.5s] | a blue star at night[7.5s] | a green ball at dawn[7.5s]"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve("-m", "tests.fake_timeline_worker", "--speed", "2.5") as address:
        yield address


@pytest.fixture
def page(open_page, address):
    page = open_page(address, 1440, 900)
    page.wait_for_selector(".tl-block")
    return page


def load(page, text: str = STORY) -> None:
    page.click("[data-do=text]")
    page.fill(".tl-text textarea", text)
    page.click(".tl-text button")
    page.wait_for_selector(".tl-text", state="hidden")


def plan(page) -> list[tuple[int, str]]:
    """(start, prompt) of the blocks as they are drawn."""
    return [tuple(block) for block in page.evaluate(
        "[...document.querySelectorAll('.tl-block')].map((n) => [n.tlBlock.start, n.tlBlock.caption])"
    )]  # fmt: skip


def starts(page) -> list[int]:
    return [start for start, _ in plan(page)]


def until(page, expected: list[int]) -> None:
    """Waits for the answer of the server: blocks start there."""
    page.wait_for_function(
        "(want) => JSON.stringify([...document.querySelectorAll('.tl-block')].map((n) => n.tlBlock.start)) === want",
        arg=json.dumps(expected, separators=(",", ":")),
    )


def point(page, chunk: float, selector: str = ".tl-track") -> tuple[float, float]:
    """Where `chunk` is on the screen, in the middle of a row."""
    return tuple(page.evaluate(
        """([chunk, selector]) => {
          const row = document.querySelector(selector).getBoundingClientRect();
          const block = document.querySelector('.tl-block');
          const stop = block.tlBlock.stop ?? 8;
          const scale = block.getBoundingClientRect().width / (stop - block.tlBlock.start);
          return [row.left + chunk * scale, row.top + row.height / 2];
        }""",
        [chunk, selector],
    ))  # fmt: skip


def drag(page, start: tuple[float, float], to: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + to[0]) / 2, to[1], steps=3)
    page.mouse.move(*to, steps=3)
    page.mouse.up()


def play(page) -> None:
    page.evaluate("document.addEventListener('cf:chunk', (e) => (window.film ??= []).push(e.detail.prompt))")
    page.click(".cf-main")
    page.wait_for_function("(window.film ?? []).length > 1")


def film(page) -> list[str]:
    return page.evaluate("window.film")


def test_text_becomes_blocks(page) -> None:
    load(page)
    assert plan(page) == [(0, "a red ball by day"), (10, "a blue star at night"), (20, "a green ball at dawn")]
    names = page.eval_on_selector_all(
        ".tl-block", "(all) => all.map((n) => [n.tabIndex, n.getAttribute('aria-label')])"
    )
    says = "Block 2 of 3: a blue star at night, from 0:07.5 to 0:15.0, chunks 10 to 20, cut, memory kept"
    assert names[1] == [0, says]
    assert page.inner_text(".tl-mark") == "end"


def test_an_edge_is_dragged_in_whole_chunks(page) -> None:
    load(page)
    x, y = point(page, 10)
    drag(page, (x + 2, y), (point(page, 13.3)[0], y))
    until(page, [0, 13, 20])
    x, y = point(page, 30)
    drag(page, (x - 3, y), (point(page, 26)[0] - 3, y))
    page.wait_for_function("document.querySelector('.tl-mark').tlMark.chunk === 26")
    assert starts(page) == [0, 13, 20]


def test_a_block_slides_between_its_neighbours(page) -> None:
    load(page)
    _, y = point(page, 15)
    drag(page, point(page, 15), (point(page, 12)[0], y))
    until(page, [0, 7, 17])
    drag(page, point(page, 12), (point(page, 60)[0], y))  # as far as there is room
    until(page, [0, 19, 29])
    page.keyboard.press("Control+z")
    until(page, [0, 7, 17])


def test_escape_gives_a_drag_up(page) -> None:
    load(page)
    x, y = point(page, 10)
    page.mouse.move(x + 2, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=4)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert starts(page) == [0, 10, 20]
    assert page.locator(".tl-tip").is_hidden()


def test_a_double_click_adds_and_the_prompt_is_typed_at_once(page) -> None:
    load(page)
    page.mouse.dblclick(*point(page, 5.4))
    until(page, [0, 5, 10, 20])
    page.keyboard.type("a pink wombat at sunset")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.tl-block')[1].tlBlock.caption === 'a pink wombat at sunset'")
    assert page.inner_text(".tl-block:nth-child(2) .tl-unknown") == "wombat"
    hint = page.locator(".tl-cue .tl-facts b")
    assert hint.inner_text() == "not known: wombat"
    assert hint.get_attribute("title").startswith("Name what to show: ball")


def test_split_undo_redo_delete(page) -> None:
    load(page)
    page.mouse.click(*point(page, 14.5))
    page.keyboard.press("s")  # where the mouse is
    until(page, [0, 10, 14, 20])
    assert plan(page)[1][1] == plan(page)[2][1]
    page.keyboard.press("Delete")  # the new half is selected
    until(page, [0, 10, 20])
    page.keyboard.press("Control+z")
    until(page, [0, 10, 14, 20])
    page.keyboard.press("Control+z")
    until(page, [0, 10, 20])
    page.keyboard.press("Control+Shift+z")
    until(page, [0, 10, 14, 20])
    page.click(".tl-bar [data-do=undo]")
    until(page, [0, 10, 20])


def test_keyboard_only(page) -> None:
    load(page)
    page.focus(".tl-ruler")
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert page.get_attribute(".tl-ruler", "aria-valuetext") == "0:03.0, chunk 4"
    page.keyboard.press("a")
    until(page, [0, 4, 10, 20])
    page.keyboard.type("a white star")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.tl-block')[1].tlBlock.caption === 'a white star'")
    page.focus(".tl-block:nth-child(2)")
    page.keyboard.press("ArrowRight")
    until(page, [0, 5, 11, 20])
    assert page.evaluate("document.activeElement.tlBlock.start") == 5
    page.keyboard.press("Shift+ArrowRight")
    until(page, [0, 5, 12, 20])
    page.keyboard.press("Alt+ArrowRight")  # swap with the block after: lengths go along
    until(page, [0, 5, 13, 20])
    assert [prompt for _, prompt in plan(page)][1:3] == ["a blue star at night", "a white star"]
    assert page.evaluate("document.activeElement.tlBlock.start") == 13
    page.keyboard.press("d")
    until(page, [0, 5, 13, 20, 27])
    page.keyboard.press("Delete")
    until(page, [0, 5, 13, 27])
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.tlBlock.start") == 5
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.matches('.tl-part textarea')")


def test_inspector_sets_transition_memory_mix_and_markers(page) -> None:
    load(page)
    page.mouse.click(*point(page, 15))
    page.select_option(".tl-cue [name=transition]", "spherical")
    page.wait_for_selector(".tl-block:nth-child(2).tl-blends")
    page.fill(".tl-cue [name=chunks]", "3")
    page.press(".tl-cue [name=chunks]", "Enter")
    page.select_option(".tl-cue [name=memory]", "recache")
    page.wait_for_function("document.querySelectorAll('.tl-block')[1].tlBlock.memory === 'recache'")
    page.click(".tl-cue [data-do=mix]")
    page.keyboard.type("a pink heart")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.tl-block')[1].tlBlock.parts.length === 2")
    block = page.evaluate("document.querySelectorAll('.tl-block')[1].tlBlock")
    assert block["transition"] == {"chunks": 3, "method": "spherical"}
    assert block["caption"] == "50% a blue star at night + 50% a pink heart"
    page.mouse.click(*point(page, 24, ".tl-ruler"))
    page.select_option("[data-pick=marker]", "seed")
    page.wait_for_selector(".tl-mark-seed")
    page.fill(".tl-marker [name=seed]", "42")
    page.press(".tl-marker [name=seed]", "Enter")
    page.wait_for_function("document.querySelector('.tl-mark-seed').textContent === 'seed 42'")
    assert page.get_attribute(".tl-mark-seed", "aria-label") == "Marker: seed 42, at 0:18.0, chunk 24"
    page.keyboard.press("Escape")
    page.focus(".tl-mark-seed")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('.tl-mark-seed').tlMark.chunk === 23")


def test_import_and_export_are_the_same_file(page, tmp_path) -> None:
    source = ROOT / "assets" / "timelines" / "night-cut.json"
    page.set_input_files(".tl-file", source)
    until(page, [0, 20, 40, 60])
    with page.expect_download() as download:
        page.click("[data-do=export]")
    assert download.value.suggested_filename == "cut-to-night.json"
    assert json.loads(download.value.path().read_text()) == json.loads(source.read_text())
    broken = tmp_path / "broken.json"
    broken.write_text('{"format": "context-forcing-timeline", "version": 9, "cues": []}')
    page.set_input_files(".tl-file", broken)
    page.wait_for_selector(".tl-say.tl-bad")
    assert "version 1" in page.inner_text(".tl-say")
    assert starts(page) == [0, 20, 40, 60]


def test_the_play_button_plays_the_timeline(page) -> None:
    load(page, "a red ball by day[1.5s] | a blue star at night[1.5s] | a green ball at dawn[1.5s]")
    play(page)
    page.wait_for_function("window.film.length === 6", timeout=90_000)
    assert film(page) == ["a red ball by day"] * 2 + ["a blue star at night"] * 2 + ["a green ball at dawn"] * 2
    page.wait_for_function("document.querySelector('.cf-player').dataset.mode === 'stopped'", timeout=90_000)
    page.wait_for_function("document.querySelectorAll('.tl-fixed').length === 0")  # the plan is free for the next film
    x, y = point(page, 2)
    drag(page, (x + 2, y), point(page, 3))
    until(page, [0, 3, 4])


def test_a_prompt_typed_live_is_a_block_and_the_past_is_locked(page) -> None:
    load(page)
    play(page)
    page.fill(".cf-prompt textarea", "a white ball at sunset")
    page.press(".cf-prompt textarea", "Control+Enter")
    page.wait_for_function("document.querySelectorAll('.tl-block').length === 4")
    cue = starts(page)[1]
    assert plan(page)[1] == (cue, "a white ball at sunset")
    page.wait_for_function("window.film.includes('a white ball at sunset')")
    assert film(page).index("a white ball at sunset") == cue  # exactly from its chunk on
    page.wait_for_selector(".tl-block:nth-child(2).tl-fixed")
    before = starts(page)
    x, y = point(page, cue)
    drag(page, (x + 2, y), (x - 20, y))
    page.mouse.click(*point(page, 0.5))
    assert page.locator(".tl-part textarea").is_disabled()
    assert page.locator(".tl-cue [data-do=fork]").is_visible()
    assert starts(page) == before


def test_a_queued_change_says_when_it_applies_until_it_has(page) -> None:
    load(page)
    play(page)
    page.mouse.click(*point(page, 15))
    page.fill(".tl-part textarea", "a yellow heart at night")
    page.press(".tl-part textarea", "Enter")
    says = r"/^applies at chunk 10 \(in \d\.\d s\)$/"
    page.wait_for_function(says + ".test(document.querySelector('.tl-say').textContent)")
    assert page.locator(".tl-block:nth-child(2).tl-queued").count() == 1
    page.wait_for_function("window.film.length > 11", timeout=90_000)
    page.wait_for_function("document.querySelector('.tl-say').textContent === ''", timeout=90_000)
    assert film(page)[9:11] == ["a red ball by day", "a yellow heart at night"]


def test_change_what_follows(page) -> None:
    load(page, "a red ball by day")
    play(page)
    page.mouse.click(*point(page, 0.4))
    page.click(".tl-cue [data-do=fork]")
    page.keyboard.type("a blue star at night", delay=80)  # chunks go by meanwhile
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.tl-block').length === 2")
    page.wait_for_function("window.film.includes('a blue star at night')", timeout=90_000)
    assert film(page).index("a blue star at night") == starts(page)[1]


def test_a_block_that_begins_while_its_prompt_is_typed(page) -> None:
    load(page, "a red ball by day[3s] | a green ball at dawn")
    play(page)
    page.mouse.click(*point(page, 6))
    page.fill(".tl-part textarea", "a blue star at night")
    page.wait_for_function("window.film.length > 6", timeout=90_000)
    page.press(".tl-part textarea", "Enter")
    page.wait_for_function("document.querySelectorAll('.tl-block').length === 3")
    assert [prompt for _, prompt in plan(page)] == ["a red ball by day", "a green ball at dawn", "a blue star at night"]


def test_a_loop_is_written_out_as_it_plays(page) -> None:
    cues = [{"chunk": 0, "prompt": "a red ball by day"}, {"chunk": 2, "prompt": "a blue star at night"}]
    markers = [{"kind": "loop", "chunk": 3, "to": 0}]
    head = {"format": "context-forcing-timeline", "version": 1}
    load(page, json.dumps({**head, "cues": cues, "markers": markers}))
    play(page)
    page.wait_for_function("window.film.length > 6", timeout=90_000)
    red, blue = "a red ball by day", "a blue star at night"
    assert film(page)[:7] == [red, red, blue, red, red, blue, red]
    page.wait_for_function("document.querySelector('.tl-mark-loop').tlMark.chunk > 6")
    assert starts(page)[:5] == [0, 2, 3, 5, 6]


def test_what_happens_by_itself_is_noted(page) -> None:
    load(page)
    play(page)
    page.fill(".cf-seed input", "77")
    page.press(".cf-seed input", "Enter")
    page.wait_for_selector(".tl-note")
    assert "seed 77 (chunk " in page.get_attribute(".tl-note", "title")
    page.evaluate("cf.emit('failed', { message: 'Out of memory, tried again', fatal: false })")
    assert "Out of memory" in page.get_attribute(".tl-note.tl-bad", "aria-label")
    assert page.locator(".tl-note").count() == 2


def test_seeking_by_the_ruler(page) -> None:
    load(page)
    play(page)
    page.wait_for_function("window.film.length > 5")
    page.click(".cf-main")  # pause
    page.mouse.click(*point(page, 1.5, ".tl-ruler"))
    page.wait_for_function("Math.abs(document.querySelector('.cf-video').currentTime - 1.125) < 0.2")
    assert re.fullmatch(r"0:01\.[012]", page.inner_text(".tl-shown span"))


def test_two_hundred_blocks_are_drawn(page) -> None:
    load(page, " | ".join(f"a red ball number {i}[3s]" for i in range(200)))
    assert len(plan(page)) == 200
    for _ in range(7):
        page.click(".tl-bar [data-do=in]")
    page.evaluate("document.querySelector('.tl-scroll').scrollLeft = 0")
    drag(page, (point(page, 4)[0] + 2, point(page, 4)[1]), point(page, 6.2))
    page.wait_for_function("document.querySelectorAll('.tl-block')[1].tlBlock.start === 6")


def test_a_phone_pans_selects_and_drags(chromium, address) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".tl-block")
    page.locator("[data-do=text]").tap()
    page.fill(".tl-text textarea", "a red ball[3s] | a blue star[3s] | a green ball[3s]")
    page.locator(".tl-text button").tap()
    until(page, [0, 4, 8])
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.evaluate("document.querySelector('.tl-scroll').scrollIntoView({ block: 'center' })")
    x, y = point(page, 6)
    page.touchscreen.tap(x, y)
    page.wait_for_selector(".tl-block:nth-child(2).tl-chosen")
    device = context.new_cdp_session(page)
    wide = point(page, 7)[0] - x

    def touch(kind: str, *at: float) -> None:
        points = [{"x": at[0], "y": at[1]}] if at else []
        device.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", x, y)
    for part in range(1, 5):
        touch("touchMove", x + wide * 2 * part / 4, y)
    page.wait_for_timeout(100)
    touch("touchEnd")
    until(page, [0, 6, 10])
    context.close()


def branch(page, time: float) -> int:
    """Branches at the picture of that moment, which has to be there; returns the chunk once it has arrived."""
    page.evaluate("cf.on('chunk', (m) => (window.made ??= []).push([m.run, m.chunk, m.prompt, m.seed]))")
    page.click(".cf-big")
    page.wait_for_function(f"document.querySelector('video').currentTime > {2 * time}", timeout=PATIENCE)
    page.evaluate("(time) => (cf.emit('seek', { time }), document.querySelector('[data-do=branch]').click())", time)
    page.wait_for_selector(".cf-wait:has-text('Branch at chunk')", timeout=PATIENCE)
    return int(page.inner_text(".cf-wait").split("chunk ")[1].split(":")[0])


def until_past(page, chunk: int) -> None:
    """Waits until what comes after the branch is on screen."""
    wait = "(n) => made.at(-1)[1] > n && document.querySelector('video').currentTime > 0.75 * n + 0.2"
    page.wait_for_function(wait, arg=chunk, timeout=PATIENCE)


def test_a_branch_goes_back_and_waits(page) -> None:
    chunk = branch(page, 1.6)
    assert chunk == 2 and page.get_attribute(".cf-player", "data-mode") == "paused"
    page.wait_for_selector(".tl-mark-pause", timeout=PATIENCE)
    assert page.evaluate("document.querySelector('video').currentTime") > (chunk - 0.2) * 0.75
    page.fill(".cf-field textarea", "a blue star floats over the beach at night")
    page.keyboard.press("Control+Enter")
    page.click(".cf-main")  # at once: the prompt was first
    until_past(page, chunk)
    made = page.evaluate("made")
    first, second = made[0][0], made[-1][0]
    one, two = ({n: [p, s] for run, n, p, s in made if run == token} for token in (first, second))
    assert first != second and all(one[n] == two[n] for n in range(chunk))
    assert one[chunk][0] != two[chunk][0] == "a blue star floats over the beach at night"
    assert one[chunk][1] == two[chunk][1]
    assert page.locator(".tl-note").count() == 0  # its own marker was passed, nothing has paused it since


def test_a_branch_watched_to_its_end_plays_on(page) -> None:
    """The server's word that it waits comes only now: it must not stop who has pressed play since."""
    chunk = branch(page, 1.6)
    page.evaluate("(n) => { document.querySelector('video').currentTime = 0.75 * n - 0.01 }", chunk)
    page.wait_for_function("!document.querySelector('video').seeking")
    page.click(".cf-main")
    until_past(page, chunk)


def test_a_branch_paused_on_its_way_waits_too(page) -> None:
    page.evaluate(
        "cf.on('chunk', (m) => m.chunk === 0 && window.made && document.querySelector('.cf-main').click())"
    )
    chunk = branch(page, 1.6)
    page.click(".cf-main")
    until_past(page, chunk)
