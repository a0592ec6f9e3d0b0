"""When the player asks for chunks, with a clock of the test's own: no stall, and little that a new prompt waits for."""

from __future__ import annotations

import pytest

from tests.browser.conftest import ROOT

# A film of a minute at 50 ticks a second. The server begins a chunk when it is asked for (`engine/lead.py`); it takes
# `seconds`, more or less by `jitter`, and 0.12 s to arrive. What a prompt sent at a moment waits for: all unseen
# video, and the chunk that has been begun. The first seconds are left out: two chunks come unasked.
FILM = """([seconds, jitter]) => {
  const real = performance.now;
  let time = 0;
  performance.now = () => 1000 * time;
  const pace = new cf.Pace(0.3);
  const film = { chunkSeconds: 0.75, length: 2 };
  let [shown, coming, stalled, waits, turn] = [0, null, 0, [], 0];
  for (time = 0; time < 60; time += 0.02) {
    if (coming !== null && time >= coming) {
      film.length += 1;
      pace.came(film.length - 1);
      coming = null;
    }
    const end = film.length * film.chunkSeconds;
    if (shown < end) shown = Math.min(end, shown + 0.02);
    else stalled += 0.02;
    if (pace.wants(film, end - shown, seconds + 0.1) !== null) {
      turn += 1;
      coming = time + seconds + 0.12 + jitter * Math.sin(7 * turn);
    }
    if (time > 3) waits.push(end - shown + (coming === null ? 0 : film.chunkSeconds));
  }
  performance.now = real;
  return { stalled, longest: Math.max(...waits), mean: waits.reduce((a, b) => a + b) / waits.length };
}"""


@pytest.mark.parametrize(("seconds", "jitter"), [(0.1, 0.02), (0.24, 0.1), (0.4, 0.1)])
def test_a_fast_engine_neither_stalls_nor_runs_ahead(chromium, seconds: float, jitter: float) -> None:
    page = chromium.new_page()
    page.add_script_tag(content="window.cf = {};" + (ROOT / "assets" / "pace.js").read_text(encoding="utf-8"))
    seen = page.evaluate(FILM, [seconds, jitter])
    page.close()
    assert seen["stalled"] == 0
    assert seen["longest"] < 0.75 + 1.25 * (seconds + jitter + 0.15) + 0.2 and seen["mean"] < 1.3
