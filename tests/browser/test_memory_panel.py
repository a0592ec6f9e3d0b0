"""The memory panel in a browser, on the real worker: lanes, threshold, pins, time machine, files, bad input."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import pytest

from cf_app.memory.export import read_history
from cf_app.memory.what_if import would_keep
from tests.browser.conftest import serve

CHUNK_LATENTS = 3


FLIGHTS = """() => {
  window.flights = 0;
  new MutationObserver((changes) => changes.forEach(({ target, oldValue }) => {
    if (target.classList.contains("mm-flying") && !oldValue?.includes("mm-flying")) flights += 1;
  })).observe(document.querySelector(".mm-lanes"), {
    subtree: true, attributeFilter: ["class"], attributeOldValue: true,
  });
}"""
NAMELESS = """() => [...document.querySelectorAll(
  ".mm button, .mm select, .mm input, .mc input, .mc [role=slider], .mm [role=slider]"
)].filter((node) => !(node.ariaLabel || node.textContent.trim() || node.closest("label")?.textContent.trim()))
  .map((node) => node.outerHTML)"""
CHANGES = """() => {
  window.drawn = 0;
  new MutationObserver(() => (drawn += 1)).observe(document.querySelector(".mm-lanes"), {
    subtree: true, childList: true, attributes: true,
  });
}"""
UP_TO_DATE = """() => document.querySelector("[data-m=chunk]").textContent === `chunk ${cf.memory.shown}`"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve("-m", "tests.memory_page") as address:
        yield address


@pytest.fixture
def page(open_page, address):
    page = open_page(address, 1440, 1100)
    page.wait_for_selector(".mm")
    return page


def play(page, chunks: int = 1, tau: float | None = None) -> None:
    """Plays until so many chunks were on screen. `tau` holds from the first chunk on that can be promoted."""
    page.click(".cf-big")
    page.wait_for_function("cf.memory.newest")
    if tau is not None:
        command(page, kind="memory", changes={"tau": tau})
    shown(page, chunks)


def shown(page, chunks: int) -> None:
    page.wait_for_function("(count) => cf.memory.shown >= count - 1", arg=chunks, timeout=120_000)


def command(page, **request) -> dict:
    return page.evaluate("(request) => cf.memory.send(request)", request)


def generated(page) -> int:
    return page.evaluate("cf.memory.newest.chunk")


def snapshots(page) -> list[dict]:
    return page.evaluate("cf.memory.records.map((record) => record.snapshot)")


def lanes(page) -> tuple[int, dict[str, list[int]]]:
    """(chunk that the panel names, latent frames of each lane as they are drawn)"""
    return tuple(
        page.evaluate("""() => [
          Number(document.querySelector("[data-m=chunk]").textContent.replace("chunk ", "")),
          Object.fromEntries([...document.querySelectorAll(".mm-lane")].map((lane) => [
            lane.dataset.lane,
            [...lane.querySelectorAll(".mm-cell[data-latent]")].map((cell) => Number(cell.dataset.latent)),
          ])),
        ]""")
    )


def in_lanes(snapshot: dict) -> dict[str, list[int]]:
    entries = snapshot["entries"]
    return {lane: [e["latent"] for e in entries if e["lane"] == lane] for lane in ("sink", "slow", "fast")}


def settle(page) -> None:
    """From some chunk on nothing is promoted, and the page has it: slow memory stands still."""
    answer = command(page, kind="memory", changes={"tau": 0.0})
    shown(page, answer["chunk"] + 2)


def pause(page) -> None:
    """Pauses, and waits for the chunks that were on their way."""
    page.click(".cf-main")
    page.wait_for_timeout(1500)


def until_next(page, chunk: int) -> None:
    page.wait_for_function("(chunk) => cf.memory.newest.chunk >= chunk", arg=chunk, timeout=120_000)


def saved(page, name: str) -> str:
    if page.locator("#mm-history").is_hidden():
        page.click("#mm-tab-history")
    with page.expect_download() as download:
        page.click(f"[data-do={name}]")
    return download.value.path().read_bytes().decode() if name in ("json", "csv") else str(download.value.path())


def test_what_is_promoted_appears_in_slow_memory_and_the_history_is_the_engines(page, address) -> None:
    page.evaluate(FLIGHTS)
    play(page, 10, tau=1.0)
    pause(page)
    assert page.evaluate("flights") > 2, "promotions are seen"
    page.wait_for_function("cf.memory.at(cf.memory.shown).chunk === cf.memory.shown")
    chunk, drawn = lanes(page)
    snapshot = next(one for one in snapshots(page) if one["chunk"] == chunk)
    assert drawn == in_lanes(snapshot)
    assert CHUNK_LATENTS * chunk in drawn["slow"], "with tau 1 every chunk is promoted"
    assert CHUNK_LATENTS * chunk in drawn["fast"]
    dots = page.eval_on_selector_all(".mc-promoted", "(dots) => dots.map((dot) => Number(dot.dataset.chunk))")
    assert dots == [one["chunk"] for one in snapshots(page) if one["promoted"]]
    cell = page.locator(f".mm-lane[data-lane=slow] [data-latent='{CHUNK_LATENTS * chunk}']")
    assert "surprisal" in cell.get_attribute("aria-label")
    assert cell.locator("img").evaluate("(picture) => picture.naturalWidth") > 0

    history = read_history(saved(page, "json"))
    assert json.loads(json.dumps([one.to_dict() for one in history.snapshots])) == snapshots(page)
    token = page.evaluate("cf.memory.run.run")
    told = asked(address, token)
    assert told["snapshots"][: len(history.snapshots)] == snapshots(page)

    for tau in (0.9, 0.97, 1.0):
        ghosts = page.evaluate("(tau) => [...cf.memory.whatIf(tau, Infinity).kept]", tau)
        assert dict(ghosts) == would_keep(history.snapshots, tau, CHUNK_LATENTS)

    rows = saved(page, "csv").splitlines()
    assert len(rows) == 1 + sum(len(one["entries"]) for one in snapshots(page))
    with open(saved(page, "png"), "rb") as picture:
        assert picture.read(8) == b"\x89PNG\r\n\x1a\n"
    with open(saved(page, "kv"), "rb") as tensors:
        header = json.loads(tensors.read(int.from_bytes(tensors.read(8), "little")))
    assert any(name.endswith(".key") for name in header)


def asked(address: str, token: str) -> dict:
    """What the page's API answers."""
    body = json.dumps({"data": [token, 0]}).encode()
    url = f"{address}gradio_api/call/memory_history"
    call = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(call, timeout=20))["event_id"]
    answer = urllib.request.urlopen(f"{url}/{event}", timeout=20).read().decode()
    return json.loads(next(line[6:] for line in answer.splitlines() if line.startswith("data: ")))[0]


def test_dragging_tau_changes_what_is_promoted_later(page) -> None:
    play(page, 4, tau=1.0)
    page.locator(".mc-tau").scroll_into_view_if_needed()    # waits until it stays where it is
    box = page.locator(".mc-box").bounding_box()
    handle = page.locator(".mc-tau").bounding_box()
    page.mouse.move(handle["x"] + 200, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(handle["x"] + 200, box["y"] + 30, steps=5)
    page.locator(".mm-ghosts").wait_for(state="visible")    # while it is dragged, the ghosts of the new tau
    page.mouse.up()
    page.wait_for_function("cf.memory.log.length === 2")
    first, done = page.evaluate("[cf.memory.log[0].chunk, cf.memory.log[1]]")
    tau = done["changes"]["tau"]
    assert 0 <= tau < 0.999
    assert page.locator(".mm-ghosts").is_hidden()
    page.focus(".mc-tau")
    page.keyboard.press("End")  # surprisal 1, tau 0
    page.keyboard.press("Enter")
    page.wait_for_function("cf.memory.log.length === 3")
    from_chunk = page.evaluate("cf.memory.log[2].chunk")
    until_next(page, from_chunk + 3)
    for one in snapshots(page):
        expected = 1.0 if one["chunk"] < done["chunk"] else tau if one["chunk"] < from_chunk else 0.0
        if one["chunk"] >= first:
            assert one["tau"] == pytest.approx(expected), one["chunk"]
        if one["eligible"]:
            assert bool(one["promoted"]) == (one["similarity"] < one["tau"])
    assert not any(one["promoted"] for one in snapshots(page)[from_chunk:])
    assert page.locator(".mc-tau").evaluate("(handle) => handle.tau") == 0
    page.click("#mm-tab-history")
    page.locator(".mm-log li").first.get_by_role("button", name="Undo").click()
    page.wait_for_function("cf.memory.newest.snapshot.tau > 0", timeout=60_000)


def test_a_pin_stays_an_eviction_goes_and_both_are_undone(page) -> None:
    play(page, 4, tau=1.0)
    command(page, kind="memory", changes={"slow": 3})
    shown(page, 8)
    settle(page)
    pause(page)
    page.evaluate("cf.emit('live')")
    page.wait_for_function("cf.memory.shown === cf.memory.newest.chunk")
    _, drawn = lanes(page)
    oldest, middle, _ = drawn["slow"]
    slow = page.locator(".mm-lane[data-lane=slow]")
    slow.locator(f"[data-latent='{oldest}']").click()
    card = page.locator(".mm-card")
    assert f"latent frame {oldest}" in card.inner_text()
    page.wait_for_function("(chunk) => cf.memory.shown === chunk", arg=oldest // CHUNK_LATENTS)  # the player went there
    card.get_by_role("button", name="Pin", exact=True).click()
    page.wait_for_function("document.querySelector('.mm-toast').textContent.startsWith('Pinned')")
    page.keyboard.press("Escape")
    assert card.is_hidden()
    page.evaluate("cf.emit('live')")
    page.wait_for_function("cf.memory.shown === cf.memory.newest.chunk")
    slow.locator(f"[data-latent='{middle}']").focus()
    page.keyboard.press("Delete")
    page.wait_for_function("document.querySelector('.mm-toast').textContent.startsWith('Evicted')")
    command(page, kind="memory", changes={"tau": 1.0})
    page.click(".cf-main")
    at = generated(page)
    until_next(page, at + 8)
    last = snapshots(page)[-1]
    held = in_lanes(last)["slow"]
    assert oldest in held
    assert [entry["latent"] for entry in last["entries"] if entry["pinned"]] == [oldest]
    assert not any(middle in in_lanes(one)["slow"] for one in snapshots(page) if one["chunk"] > at + 3)
    assert any(middle in one["evicted"] for one in snapshots(page))
    shown(page, at + 8)
    page.wait_for_selector(".mm-pinned")

    settle(page)
    page.click("#mm-tab-history")
    rows = page.locator(".mm-log li")
    assert rows.count() == 7
    rows.filter(has_text="Evicted").get_by_role("button", name="Undo").click()
    page.wait_for_function("(latent) => cf.memory.newest.snapshot.entries.some((e) => e.latent === latent)", arg=middle)
    rows.filter(has_text="Pinned").get_by_role("button", name="Undo").click()
    page.wait_for_function("!cf.memory.newest.snapshot.entries.some((entry) => entry.pinned)")


def test_the_time_machine_shows_the_state_of_then(page) -> None:
    play(page, 9, tau=1.0)
    pause(page)
    history = {one["chunk"]: one for one in snapshots(page)}
    strip = page.locator(".mm-strip")
    box = strip.bounding_box()
    count = generated(page) + 1
    for chunk in (1, 5):
        page.mouse.click(box["x"] + box["width"] * (chunk + 0.5) / count, box["y"] + 8)
        page.wait_for_function("(chunk) => cf.memory.shown === chunk", arg=chunk)
        assert lanes(page) == (chunk, in_lanes(history[chunk]))
        assert strip.bounding_box() == box, "nothing jumps when there is less to show"
        assert page.locator(".mm").evaluate("(panel) => panel.classList.contains('mm-past')")
        assert strip.get_attribute("aria-valuenow") == str(chunk)
        assert str(chunk) == page.inner_text("[data-s=chunk]"), "the player shows the same moment"
    strip.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("cf.memory.shown === 6")
    assert lanes(page) == (6, in_lanes(history[6]))
    page.click(".mm-live")
    page.wait_for_function("cf.memory.shown === cf.memory.newest.chunk")
    chunk, drawn = lanes(page)
    assert drawn == in_lanes(history[chunk])


def test_a_layer_can_be_looked_at_and_attention_watched(page) -> None:
    play(page, 4, tau=0.97)
    command(page, kind="memory", changes={"decision": "per_layer"})
    assert command(page, kind="attention", on=True)["ok"]
    shown(page, 10)
    pause(page)
    page.wait_for_function("cf.memory.current.snapshot.attention.length > 0")
    if page.locator("#mm-layers").is_hidden():
        page.click("#mm-tab-layers")
    page.select_option("[data-pick=layer]", "1")
    chunk, drawn = lanes(page)
    snapshot = next(one for one in snapshots(page) if one["chunk"] == chunk)
    row = snapshot["layer_slots"][1]
    assert drawn["slow"] == [latent for latent in row[3:15] if latent >= 0]
    page.focus(".mm-map")
    page.keyboard.press("ArrowDown")
    assert page.input_value("[data-pick=layer]") == "2"
    page.keyboard.press("Escape")
    assert page.input_value("[data-pick=layer]") == ""
    shares = [float(page.inner_text(f"[data-mass={lane}]").replace(" %", "")) for lane in ("sink", "slow", "fast")]
    told = snapshot["attention"]
    assert sum(shares) == pytest.approx(100 * sum(sum(view["mass"]) / 3 for view in told), abs=2)
    page.click("#mm-tab-attention")
    assert "ms a chunk" in page.inner_text(".mm-look-say")


def test_bad_input_is_refused_and_changes_nothing(page, address) -> None:
    page.click("#mm-tab-policy")
    page.fill(".mm-form [name=slow]", "1")
    page.click(".mm-do")  # before anything plays: holds when it does
    play(page, 6, tau=1.0)
    assert page.evaluate("cf.memory.newest.snapshot.slow") == 1
    for field, value, match in (
        ("tau", "1.5", "from 0 to 1"), ("tau", "much", "from 0 to 1"), ("tau", "", "from 0 to 1"),
        ("slow", "5000", "whole number"), ("fast", "2", "at least 3"), ("sink", "2.5", "whole number"),
    ):  # fmt: skip
        before = page.input_value(f".mm-form [name={field}]")
        page.fill(f".mm-form [name={field}]", value)
        page.click(".mm-do")
        page.wait_for_function("(match) => document.querySelector('.mm-error').textContent.includes(match)", arg=match)
        page.fill(f".mm-form [name={field}]", before)
    assert len(page.evaluate("cf.memory.log")) == 2
    settle(page)
    pause(page)
    held = in_lanes(page.evaluate("cf.memory.newest.snapshot"))
    assert command(page, kind="pin", latent=held["slow"][0])["ok"]
    newest = asked(address, page.evaluate("cf.memory.run.run"))["snapshots"][-1]  # may be ahead of the page
    refused = command(page, kind="pin", latent=in_lanes(newest)["fast"][1])
    assert not refused["ok"] and "slow memory holds 1" in refused["error"]
    refused = command(page, kind="evict", latent=9999)
    assert not refused["ok"] and "not in the memory" in refused["error"]


def test_a_phone_has_room_and_everything_a_name(open_page, address) -> None:
    page = open_page(address, 390, 844)
    page.emulate_media(reduced_motion="reduce")
    page.wait_for_selector(".mm")
    page.evaluate(FLIGHTS)
    play(page, 6, tau=1.0)
    assert page.evaluate("flights") == 0
    for tab in ("layers", "attention", "policy", "history"):
        page.click(f"#mm-tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(NAMELESS) == []
    page.locator(".mm-lane[data-lane=slow] .mm-term").click()
    assert "eq. 7" in page.inner_text("#mm-tip")
    page.keyboard.press("Escape")
    page.click("[data-do=fold]")
    assert page.locator(".mm-body").is_hidden() and page.locator(".mc").is_hidden()
    page.wait_for_timeout(1200)  # what was lit up goes dark
    page.evaluate(CHANGES)
    at = generated(page)
    until_next(page, at + 3)
    assert page.evaluate("drawn") == 0, "a hidden panel draws nothing"
    page.click("[data-do=fold]")
    page.wait_for_function(UP_TO_DATE)


AN_HOUR = """() => {
  const entry = (slot, latent) => ({
    slot, lane: "fast", latent, chunk: Math.floor(latent / 3), prompt: "a red ball", surprisal: null,
    promoted_at: null, agreement: 1, pinned: false, position: slot,
  });
  const usual = {
    version: 1, policy: "fifo", sink: 0, slow: 0, fast: 3, tau: 0.95, timing: "clean", decision: "shared", layers: 1,
    similarities: [0.9], similarity: 0.9, promoted: [], evicted: [], bytes_held: 1, memory_ms: 0, gate: "none",
    eligible: false, settings: { policy: "fifo", window: 3 }, attention: [],
  };
  const words = { unknown: [], subjects: [] };
  cf.emit("run", { run: "none", seed: 1, fps_played: 16, chunk_frames: 12, chunk_latents: 3, ...words });
  for (let chunk = 0; chunk < 4801; chunk++) {
    const first = 3 * chunk;
    const latents = [first, first + 1, first + 2];
    const snapshot = { ...usual, chunk, entries: latents.map((latent, i) => entry(i, latent)), layer_slots: [latents] };
    cf.emit("chunk", {
      chunk, start: 0.75 * chunk, end: 0.75 * (chunk + 1), prompt: "a red ball", color: 0, seed: 1,
      timings: { total: 1 }, first_latent: first, thumbnails: ["data:,", "data:,", "data:,"], snapshot,
    });
  }
  const { records, lines, pictures } = cf.memory;
  return {
    lines: lines.length, pictures: pictures.size, chunks: records.map((one) => one.chunk),
    asked: [5, 4400, 4800].map((chunk) => cf.memory.at(chunk).chunk),
  };
}"""


def test_an_hour_stays_bounded(page) -> None:
    hour = page.evaluate(AN_HOUR)
    assert len(hour["chunks"]) < 1400
    assert hour["pictures"] <= 3 * len(hour["chunks"])
    assert hour["lines"] == 4801, "the curve and the ghosts keep every chunk"
    assert hour["chunks"][-512:] == list(range(4801 - 512, 4801))
    assert hour["asked"] == [0, 4400, 4800]
    gaps = [after - before for before, after in zip(hour["chunks"], hour["chunks"][1:], strict=False)]
    assert max(gaps) == gaps[0] == 16
