"""Runs and tabs without Gradio and without a browser: messages, pace, commands, freeing."""

from __future__ import annotations

import base64
import json
import threading
import time

import pytest

from cf_app.engine import timeline_io
from cf_app.engine.timeline import PromptCue, Timeline
from cf_app.engine.worker import Worker
from cf_app.ui.commands import command_from, describe, read_prompt, read_seed
from cf_app.ui.gate import Gate
from cf_app.ui.player import requests
from cf_app.ui.run import FIRST_GRANT
from cf_app.ui.tabs import Tabs
from cf_app.ui.timeline_plans import branched
from tests.fake_worker import FakeEngine, FakeWorker
from tests.tiny import tiny_engine

PROMPT = "a red ball hops through the meadow at sunset"


@pytest.fixture
def tabs():
    worker = FakeWorker(FakeEngine())
    made = Tabs(FakeEngine(), worker)
    yield made
    made.close_all()
    worker.shutdown()


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


class Reader:
    """Reads a run's messages on a thread of its own, as Gradio does."""

    def __init__(self, run):
        self.run, self.messages = run, []
        self.thread = threading.Thread(target=lambda: [self.messages.append(m) for m in run.messages()], daemon=True)
        self.thread.start()

    def of(self, kind):
        return [m for m in self.messages if m["type"] == kind]

    def until_chunks(self, count):
        until(lambda: len(self.of("chunk")) >= count)
        return self.of("chunk")


def calls(tabs):
    return {function.__name__: function for function in requests(tabs, Gate())}


def test_messages_are_numbered_complete_and_json(tabs):
    reader = Reader(tabs.start("tab", {"prompt": PROMPT, "seed": "7", "nonce": "n"}))
    first, second = reader.until_chunks(2)[:2]
    opening = reader.messages[0]
    assert (opening["type"], opening["seq"], opening["nonce"], opening["seed"]) == ("run", 0, "n", 7)
    assert [m["seq"] for m in reader.messages] == list(range(len(reader.messages)))
    assert (first["chunk"], first["start"], first["end"]) == (0, 0.0, 0.75)
    assert (second["chunk"], second["start"], second["end"]) == (1, 0.75, 1.5)
    assert base64.b64decode(first["b64"])[4:8] == b"ftyp"
    assert len(second["thumbnails"]) == 3 and second["first_latent"] == 3
    assert second["snapshot"]["entries"][0]["prompt"] == PROMPT
    assert second["color"] == opening["color"] and second["fps"] > 0 and "encode" in second["timings"]
    json.dumps(reader.messages, allow_nan=False)


def test_generation_waits_for_the_browser(tabs):
    run = tabs.start("tab", {"prompt": PROMPT})
    reader = Reader(run)
    reader.until_chunks(FIRST_GRANT)
    until(lambda: run.queued() == 1)
    time.sleep(0.5)
    assert len(reader.of("chunk")) == FIRST_GRANT, "nothing beyond what was granted"
    assert tabs.worker.state(run.session).chunk == FIRST_GRANT + 1, "and one chunk waits at the worker, not more"
    assert calls(tabs)["credit"]({"run": run.token, "upto": 5})["ok"]
    reader.until_chunks(5)
    time.sleep(0.3)
    assert len(reader.of("chunk")) == 5


def test_prompt_change_tells_its_chunk_and_keeps_it(tabs):
    run = tabs.start("tab", {"prompt": PROMPT})
    reader = Reader(run)
    reader.until_chunks(2)
    answer = calls(tabs)["command"]({"run": run.token, "kind": "prompt", "prompt": "a blue dragon at night"})
    assert answer["ok"] and answer["unknown"] == ["dragon"] and "star" in answer["subjects"]
    assert answer["color"] != reader.messages[0]["color"]
    run.grant(answer["chunk"] + 2)
    chunks = reader.until_chunks(answer["chunk"] + 1)
    assert [c["prompt"] == "a blue dragon at night" for c in chunks] == [c["chunk"] >= answer["chunk"] for c in chunks]
    applied = [m for m in reader.of("applied") if m["kind"] == "prompt"]
    assert [(m["chunk"], m["prompt"]) for m in applied] == [(answer["chunk"], "a blue dragon at night")]


def test_stop_ends_the_run_and_frees_the_session(tabs):
    run = tabs.start("tab", {"prompt": PROMPT})
    reader = Reader(run)
    reader.until_chunks(2)
    assert calls(tabs)["command"]({"run": run.token, "kind": "stop"})["ok"]
    reader.thread.join(5)
    assert reader.messages[-1] | {"seq": 0} == {"type": "ended", "reason": "stopped", "run": run.token, "seq": 0}
    assert tabs.worker.sessions == {} and run.closed
    assert calls(tabs)["export"]({"run": run.token, "upto": 1})["ok"], "what was shown can still be downloaded"


def test_closing_a_tab_frees_everything_even_while_it_waits(tabs):
    run = tabs.start("tab", {"prompt": PROMPT})
    reader = Reader(run)
    reader.until_chunks(FIRST_GRANT)  # now the generator waits for a grant that never comes
    folder = run.folder
    tabs.close("tab")
    reader.thread.join(3)
    assert not reader.thread.is_alive() and tabs.worker.sessions == {} and not folder.exists() and len(tabs) == 0
    assert calls(tabs)["credit"]({"run": run.token, "upto": 9}) == {
        "ok": False,
        "error": "This run is over. Press play to start a new one.",
    }


def test_an_abandoned_generator_frees_its_session(tabs):
    stream = tabs.start("tab", {"prompt": PROMPT}).messages()
    next(stream), next(stream)
    stream.close()
    assert tabs.worker.sessions == {}


def test_tabs_do_not_mix(tabs):
    one, two = tabs.start("one", {"prompt": PROMPT}), tabs.start("two", {"prompt": "a green ball at night"})
    readers = Reader(one), Reader(two)
    for reader, prompt in zip(readers, (PROMPT, "a green ball at night"), strict=True):
        assert {c["prompt"] for c in reader.until_chunks(2)} == {prompt}
    tabs.close("one")
    two.grant(4)
    readers[1].until_chunks(4)


def test_a_new_run_takes_the_place_of_the_old_one(tabs):
    old = tabs.start("tab", {"prompt": PROMPT})
    reader = Reader(old)
    reader.until_chunks(1)
    new = tabs.start("tab", {"prompt": PROMPT})
    reader.thread.join(3)
    assert old.closed and not new.closed and len(tabs.worker.sessions) == 1
    assert Reader(new).until_chunks(1)[0]["chunk"] == 0


def test_lost_messages_and_old_chunks_can_be_fetched(tabs):
    run = tabs.start("tab", {"prompt": PROMPT})
    reader = Reader(run)
    chunks = reader.until_chunks(2)
    again = calls(tabs)["fetch"]({"run": run.token, "seq": 1})
    assert again["ok"] and again["messages"][: len(reader.messages) - 1] == reader.messages[1:]
    assert calls(tabs)["chunk"]({"run": run.token, "chunk": 0})["b64"] == chunks[0]["b64"]
    assert "counted from 0" in calls(tabs)["chunk"]({"run": run.token, "chunk": 99})["error"]


def test_a_failure_reaches_the_page_and_ends_the_run(tabs):
    tabs.worker.fail_at = 1
    run = tabs.start("tab", {"prompt": PROMPT})
    reader = Reader(run)
    reader.thread.join(5)
    assert reader.messages[-1]["type"] == "failed" and reader.messages[-1]["fatal"]
    assert "out of memory" in reader.messages[-1]["message"] and tabs.worker.sessions == {}


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "empty"),
        ("  \n ", "empty"),
        (None, "empty"),
        ("x" * 10_000, "10000 characters"),
        ("🎈🎉 🐉", "only signs"),
        ("12 34 !", "only signs"),
    ],
)
def test_bad_prompts_are_refused_in_words(tabs, prompt, reason):
    with pytest.raises(ValueError, match=reason):
        tabs.start("tab", {"prompt": prompt})
    assert tabs.worker.sessions == {}
    run = tabs.start("tab", {"prompt": PROMPT})
    answer = calls(tabs)["command"]({"run": run.token, "kind": "prompt", "prompt": prompt})
    assert not answer["ok"] and reason in answer["error"]


@pytest.mark.parametrize("seed", ["", "-1", "1.5", "abc", str(2**32), "١"])
def test_bad_seeds_are_refused_in_words(seed):
    with pytest.raises(ValueError, match="whole number from 0 to 4294967295"):
        read_seed(seed)


def test_good_input_is_tidied():
    assert read_prompt("  ein Ball,\n  rot ") == "ein Ball, rot"
    assert (read_seed(" 0042 "), read_seed(2**32 - 1)) == (42, 2**32 - 1)


@pytest.mark.parametrize(
    "request_",
    [
        {"kind": "pause"},
        {"kind": "stop"},
        {"kind": "prompt", "prompt": "a ball"},
        {"kind": "seed", "seed": 3},
        {"kind": "pin", "latent": 4},
        {"kind": "evict", "latent": 4},
        {"kind": "memory", "changes": {"tau": 0.9}},
    ],
)
def test_requests_and_their_description_agree(request_):
    assert describe(command_from(request_)) == request_


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"kind": "dance"}, "expected one of"),
        ({"kind": "pin"}, "lacks 'latent'"),
        ({"kind": "pin", "latent": "x"}, "whole number"),
    ],
)
def test_bad_requests_are_named(bad, reason):
    with pytest.raises(ValueError, match=reason):
        command_from(bad)


def test_a_branch_begins_with_the_chunks_that_were_there():
    engine = tiny_engine()
    worker = Worker(engine)
    tabs = Tabs(engine, worker)
    try:
        plan = Timeline((PromptCue.of(0, PROMPT),))
        wish = {"timeline": timeline_io.to_dict(plan), "seed": 3}
        run = tabs.start("tab", wish)
        first = Reader(run)
        run.grant(7)
        one = first.until_chunks(7)
        made = []
        step = engine.draft
        engine.draft = lambda session, **rest: (made.append(session.chunk), step(session, **rest))[1]
        again = {**wish, "timeline": timeline_io.to_dict(branched(plan, 5)), "branch": {"run": run.token, "chunk": 5}}
        second = tabs.start("tab", again)
        reader = Reader(second)
        second.grant(5)
        two = reader.until_chunks(5)
        until(lambda: tabs.worker.state(second.session).chunk == 5)
        until(lambda: not first.thread.is_alive())
        assert not [chunk for chunk in made if chunk < 4 or chunk == 5], "made again: none but what no copy has"
        same = ("chunk", "start", "end", "frames", "mime", "b64", "prompt", "color", "seed", "thumbnails")
        for before, after in zip(one, two, strict=False):
            assert {name: before[name] for name in same} == {name: after[name] for name in same}
        assert [m["seq"] for m in reader.messages] == list(range(len(reader.messages)))
        other = tabs.start("other tab", again)
        assert len(other.recording) == 0, "another tab's run is nobody's to branch"
    finally:
        tabs.close_all()
        worker.shutdown()
