"""When chunks are made and asked for, with a clock of the test's own: no stall, and little that a new prompt waits for.

The decisions are the real ones: `engine/lead.py` on the server, `assets/pace.js` in the page. Between them stands a
model of the worker, its outbox, the way to the browser and the video (`pipeline.js`).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest

from cf_app.engine.lead import Lead
from cf_app.evaluation.page_benchmark import stalls
from tests.browser.conftest import ROOT

CHUNK = 0.75
SEEN = 0.09  # seconds without a new picture that make, with the 1/16 s between any two, a gap of 150 ms


@dataclass(frozen=True)
class Engine:
    """Times of its chunks: log-normal around ``seconds``, and now and then one that takes half as long again."""

    seconds: float
    spread: float
    seed: int

    def plan(self, chunks: int = 200) -> dict[str, object]:
        chance = random.Random(self.seed)
        seconds = [self.seconds * math.exp(chance.gauss(0, self.spread)) for _ in range(chunks)]
        seconds = [value * (1.5 if chance.random() < 1 / 12 else 1.0) for value in seconds]
        seconds[0] *= 2  # its prompt has to be encoded
        lead, leads = Lead(2, CHUNK, adaptive=True), [2]
        for value in seconds:
            lead.took(value)
            leads.append(lead.chunks())
        transit = [0.03 + 0.06 * chance.random() + (0.1 if chance.random() < 1 / 20 else 0) for _ in range(chunks)]
        late = [0.6 * chance.random() ** 2 for _ in range(97)]
        return {"seconds": seconds, "transit": transit, "leads": leads, "late": late, "clean": 0.12, "encode": 0.03,
                "question": 0.03, "tick": 0.05, "length": 60}


@pytest.fixture(scope="module")
def page(chromium):
    page = chromium.new_page()
    scripts = [ROOT / "assets" / "pace.js", ROOT / "tests" / "browser" / "pipeline.js"]
    page.add_script_tag(content="window.cf = {};" + "".join(path.read_text(encoding="utf-8") for path in scripts))
    yield page
    page.close()


# How many times faster than playback, and what a change of prompt waits for at most: the chunk in the making and what
# is in reserve for the slowest of the chunks.
@pytest.mark.parametrize("spread", [0.05, 0.1])
@pytest.mark.parametrize(("speed", "most"), [(1.5, 2.3), (2.0, 1.95), (2.5, 1.65), (3.0, 1.5), (4.0, 1.4)])
def test_an_engine_faster_than_playback_neither_stalls_nor_runs_ahead(page, speed, most, spread) -> None:
    seen = [page.evaluate("play", Engine(CHUNK / speed, spread, seed).plan()) for seed in range(4)]
    assert max(run["longest"] for run in seen) < SEEN
    assert max(run["most"] for run in seen) < most
    assert max(run["median"] for run in seen) < most - 0.35


@pytest.mark.parametrize("speed", [2.0, 3.0, 4.0])
def test_an_unsteady_engine_gets_a_larger_reserve(page, speed) -> None:
    steady, unsteady = (page.evaluate("play", Engine(CHUNK / speed, spread, 0).plan()) for spread in (0.05, 0.2))
    assert max(steady["longest"], unsteady["longest"]) < SEEN
    assert steady["median"] + 0.05 < unsteady["median"]


def test_one_slow_chunk_is_remembered_and_then_forgotten(page) -> None:
    """A stall at the first is all; the reserve stays for half a minute, and is small again afterwards."""
    plan = Engine(0.2, 0.02, 1).plan()
    plan["seconds"][20] = plan["seconds"][45] = 1.1  # type: ignore[index]
    again = page.evaluate("play", {**plan, "length": 50})
    plan["seconds"][20] = 0.2  # type: ignore[index]
    once = page.evaluate("play", {**plan, "length": 50})
    assert once["longest"] > 0.15 and again["longest"] == pytest.approx(once["longest"], abs=0.1)
    calm = page.evaluate("play", {**Engine(0.2, 0.02, 1).plan(), "length": 50})
    assert calm["median"] < once["median"] + 0.05 < again["median"] + 0.1 and calm["longest"] == 0


def test_requests_that_fail_are_made_again(page) -> None:
    got = page.evaluate("""() => {
      const pace = new cf.Pace(0.3, 2);
      const film = { chunkSeconds: 0.75, length: 2 };
      const first = pace.wants(film, 0.2);
      pace.again();
      return [first, pace.wants(film, 0.2), pace.wants(film, 0.2), pace.wants(film, 1.6)];
    }""")
    assert got == [3, 3, None, None]


def test_a_rest_says_nothing_about_the_pace(page) -> None:
    got = page.evaluate("""() => {
      const real = performance.now;
      let time = 0;
      performance.now = () => time;
      const pace = new cf.Pace(0.3, 2);
      const film = { chunkSeconds: 0.75, length: 2 };
      pace.wants(film, 0.2, 0.1);
      pace.rest();
      time = 60000;
      pace.came(2);
      performance.now = real;
      return pace.needs;
    }""")
    assert got == []


def test_the_benchmark_tells_want_of_film_from_a_busy_browser() -> None:
    seen = [(0.0, 1.0), (62.0, 0.94), (400.0, 0.6), (460.0, 0.03), (700.0, 0.75)]
    assert stalls(seen) == {"stalls": 2, "ran_dry": 1, "longest_gap_ms": 338.0}
