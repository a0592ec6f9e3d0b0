"""The page as a visitor meets it, measured in Chromium: start, first picture, change of prompt, stalls.

Needs the packages of the tests (playwright) and Debian's chromium. Times are taken in the page, from the player's own
events: `cf:shown` for every picture that comes to the screen.
"""
from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STALL_MS = 150
DRY = 0.1  # seconds of film after the picture before a stall: two pictures, the last of a chunk and what is in decoding
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
_WATCH = """() => {
  window.seen = [];
  document.addEventListener('cf:shown', (e) => window.seen.push(
    {at: performance.now(), left: e.detail.generated - e.detail.time}));
}"""
_PLAY = """(prompt) => new Promise((done) => {
  const begun = performance.now();
  const first = (e) => {
    if (e.detail.time <= 0) return;
    document.removeEventListener('cf:shown', first); done(performance.now() - begun);
  };
  document.addEventListener('cf:shown', first);
  cf.emit('play', {prompt, seed: 1});
})"""
_CHANGE = """(prompt) => new Promise((done, fail) => {
  const begun = performance.now();
  cf.emit('prompt', {prompt, reply: (answer) => {
    if (!answer.ok) return fail(new Error(answer.error));
    const first = (e) => {
      if (e.detail.chunk < answer.chunk) return;
      document.removeEventListener('cf:shown', first); done(performance.now() - begun);
    };
    document.addEventListener('cf:shown', first);
  }});
})"""


def measure_page(model: str | None, play_seconds: float) -> dict[str, object]:
    """Seconds to a page that answers, to the first moving picture, to a changed prompt; stalls while playing.

    Raises:
        ValueError: Chromium or playwright is missing.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise ValueError("--page needs playwright: pip install playwright") from error
    if program is None:
        raise ValueError("--page needs Chromium: apt-get install -y chromium")
    begun = time.perf_counter()
    server, address = _serve(model)
    try:
        result: dict[str, object] = {"page_answers_s": time.perf_counter() - begun}
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(address, wait_until="domcontentloaded")
            page.wait_for_selector(".cf-chip", timeout=60_000)
            page.wait_for_timeout(2000)
            page.evaluate(_WATCH)
            result["first_picture_s"] = page.evaluate(_PLAY, "a red ball hops through the meadow by day") / 1000
            page.wait_for_timeout(6000)
            changes = []
            for prompt in ("a blue star floats over the beach at night", "a yellow heart rolls in the desert by day"):
                changes.append(page.evaluate(_CHANGE, prompt) / 1000)
                page.wait_for_timeout(5000)
            result["prompt_change_s"] = max(changes)
            page.evaluate("() => { window.seen = []; }")
            page.wait_for_timeout(1000 * play_seconds)
            seen = page.evaluate("() => window.seen.map((s) => [s.at, s.left])")
            browser.close()
    finally:
        server.terminate()
        server.wait(15)
    return {**result, "watched_s": play_seconds, "shown_per_s": len(seen) / play_seconds, **stalls(seen)}


def stalls(seen: list[tuple[float, float]]) -> dict[str, object]:
    """Stalls, and how many of them were for want of film; at the others the browser was busy.

    Args:
        seen: of every picture on screen the moment (ms) and how much film there was after it (s).
    """
    gaps = [(after - before, left) for (before, left), (after, _) in itertools.pairwise(seen)]
    late = [left for gap, left in gaps if gap > STALL_MS]
    longest = max((gap for gap, _ in gaps), default=0.0)
    return {"stalls": len(late), "ran_dry": sum(left < DRY for left in late), "longest_gap_ms": longest}


def _serve(model: str | None) -> tuple[subprocess.Popen[bytes], str]:
    """Starts app.py on a free port and waits until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), *(["--model", model] if model else [])]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    while True:
        try:
            urllib.request.urlopen(address + "config", timeout=5).close()
            return server, address
        except (urllib.error.URLError, OSError) as error:
            if server.poll() is not None:
                raise ValueError(f"app.py ended with code {server.returncode}; start it by hand to see why") from error
            time.sleep(0.05)
