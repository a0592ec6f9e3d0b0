"""The page's runs on the real worker with a tiny random engine: the two keep to one contract."""

from __future__ import annotations

import threading
import time

import pytest

from cf_app.engine.worker import Worker
from cf_app.ui.commands import command_from
from cf_app.ui.gate import Gate
from cf_app.ui.player import requests
from cf_app.ui.tabs import Tabs
from tests.tiny import EXAMPLES, tiny_engine


@pytest.fixture(scope="module")
def worker():
    made = Worker(tiny_engine(), buffer_chunks=2)
    yield made
    made.shutdown()


@pytest.fixture
def tabs(worker):
    made = Tabs(worker.engine, worker)
    yield made
    made.close_all()


def read(run, into: list, until) -> threading.Thread:
    def work() -> None:
        for message in run.messages():
            into.append(message)
            if until(message):
                break

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_chunks_states_and_the_end_arrive(tabs):
    run, messages = tabs.start("tab", {"prompt": EXAMPLES[0], "seed": 3}), []
    run.grant(3)
    thread = read(run, messages, lambda m: m.get("chunk") == 2 and m["type"] == "chunk")
    thread.join(60)
    chunks = [m for m in messages if m["type"] == "chunk"]
    assert [c["chunk"] for c in chunks] == [0, 1, 2] and {c["prompt"] for c in chunks} == {EXAMPLES[0]}
    assert chunks[2]["snapshot"]["chunk"] == 2 and len(chunks[2]["thumbnails"]) == 3
    assert {"text", "denoise", "context", "decode", "memory", "total", "encode"} <= set(chunks[0]["timings"])
    assert {"type": "state", "state": "playing"}.items() <= next(m for m in messages if m["type"] == "state").items()


def test_a_prompt_holds_from_the_chunk_that_was_told(tabs):
    run, messages = tabs.start("tab", {"prompt": EXAMPLES[0]}), []
    command = next(f for f in requests(tabs, Gate()) if f.__name__ == "command")
    thread = read(run, messages, lambda m: m["type"] == "chunk" and m["chunk"] == 5)
    answer = command({"run": run.token, "kind": "prompt", "prompt": EXAMPLES[1]})
    run.grant(6)
    thread.join(60)
    assert answer["ok"]
    prompts = {m["chunk"]: m["prompt"] for m in messages if m["type"] == "chunk"}
    assert all((prompts[c] == EXAMPLES[1]) == (c >= answer["chunk"]) for c in prompts) and len(prompts) == 6


@pytest.mark.parametrize("how", ["stop", "close"])
def test_the_session_is_given_back(tabs, worker, how):
    run, messages = tabs.start("tab", {"prompt": EXAMPLES[0]}), []
    thread = read(run, messages, lambda m: False)
    while not any(m["type"] == "chunk" for m in messages):
        time.sleep(0.02)
    if how == "stop":
        run.send(command_from({"kind": "stop"}))
    else:
        tabs.close("tab")
    thread.join(20)
    deadline = time.monotonic() + 10
    while worker.sessions() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not thread.is_alive() and worker.sessions() == []
    if how == "stop":
        assert messages[-1]["type"] == "ended" and messages[-1]["reason"] == "stopped"


def test_an_impossible_command_is_refused_in_words(tabs):
    run = tabs.start("tab", {"prompt": EXAMPLES[0]})
    command = next(f for f in requests(tabs, Gate()) if f.__name__ == "command")
    for request in ({"kind": "evict", "latent": 999}, {"kind": "memory", "changes": {"tau": 7}}):
        answer = command({"run": run.token, **request})
        assert not answer["ok"] and answer["error"]
