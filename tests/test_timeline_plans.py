"""The server's side of the timeline editor: requests in, plans out, with and without a run that plays them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from cf_app.engine.messages import SetPrompt
from cf_app.ui import timeline_plans
from cf_app.ui.tabs import Tabs
from cf_app.ui.timeline_editor import library
from cf_app.ui.timeline_plans import Plans
from tests.fake_timeline_worker import TimelineWorker
from tests.fake_worker import FakeEngine

TEXT = "a red ball[7.5s] | a blue star[7.5s] | a green wombat[7.5s]"


@pytest.fixture
def tabs() -> Iterator[Tabs]:
    engine = FakeEngine()
    worker = TimelineWorker(engine)
    tabs = Tabs(engine, worker)
    yield tabs
    tabs.close_all()
    worker.shutdown()


@pytest.fixture
def ask(tabs: Tabs) -> Callable[..., dict]:
    plans = Plans(tabs)
    doc = plans.answer({"op": "open"})["doc"]

    def ask(op: str, **fields: object) -> dict:
        answer = plans.answer({"doc": doc, "run": None, "op": op, **fields})
        json.dumps(answer)  # all of it is JSON
        return answer

    return ask


def starts(answer: dict) -> list[int]:
    assert answer["ok"], answer
    return [block["start"] for block in answer["plan"]["blocks"]]


def test_edits_undo_and_redo(ask) -> None:
    assert not ask("sync")["plan"]["story"]
    loaded = ask("load", text=TEXT)
    assert starts(loaded) == [0, 10, 20]
    assert loaded["plan"]["text"] == TEXT
    assert loaded["plan"]["end"] == 30
    assert loaded["plan"]["blocks"][2]["unknown"] == ["wombat"]
    assert [bool(block["subjects"]) for block in loaded["plan"]["blocks"]] == [False, False, True]
    assert loaded["plan"]["story"]
    moved = ask("move", cue=10, to=12)
    assert (starts(moved), moved["applies"]) == ([0, 12, 22], 10)
    assert starts(ask("undo")) == [0, 10, 20]
    assert starts(ask("redo")) == [0, 12, 22]
    assert ask("rename", cue=12, name="night")["applies"] is None
    assert not ask("redo")["ok"]


def test_every_operation_of_the_editor(ask) -> None:
    ask("load", text=TEXT)
    assert starts(ask("add", chunk=5, prompt="a pink heart")) == [0, 5, 10, 20]
    assert starts(ask("split", at=7)) == [0, 5, 7, 10, 20]
    assert starts(ask("delete", cue=7)) == [0, 5, 10, 20]
    assert starts(ask("resize", cue=0, stop=6)) == [0, 6, 10, 20]
    assert starts(ask("duplicate", cue=6)) == [0, 6, 10, 14, 24]
    assert starts(ask("reorder", cue=0, by=1)) == [0, 4, 10, 14, 24]
    parts = [{"prompt": " a  red ball ", "weight": 1}, {"prompt": "a blue star", "weight": 3.0}]
    mixed = ask("change", cue=10, parts=parts, transition={"chunks": 2, "method": "spherical"}, memory="flush")
    block = mixed["plan"]["blocks"][2]
    assert block["caption"] == "25% a red ball + 75% a blue star"
    assert (block["transition"], block["memory"]) == ({"chunks": 2, "method": "spherical"}, "flush")
    marker = {"kind": "memory", "chunk": 8, "changes": {"policy": "fifo"}}
    assert marker in ask("put_marker", marker=marker)["plan"]["markers"]
    assert ask("move_marker", kind="memory", chunk=8, to=9)["plan"]["markers"][0]["chunk"] == 9
    assert [m["kind"] for m in ask("remove_marker", kind="memory", chunk=9)["plan"]["markers"]] == ["end"]
    assert ask("title", title=" Mine ")["plan"]["title"] == "Mine"
    assert starts(ask("clear")) == [0]


@pytest.mark.parametrize(("op", "fields", "says"), [
    ("fly", {}, "op is 'fly'"),
    ("add", {"chunk": 5}, "lacks 'prompt'"),
    ("add", {"chunk": "5", "prompt": "a"}, "chunk is '5'"),
    ("add", {"chunk": 5, "prompt": " "}, "empty"),
    ("add", {"chunk": 5, "prompt": "!?"}, "no words"),
    ("change", {"cue": 0, "parts": []}, "at least 1"),
    ("change", {"cue": 0, "parts": [{"prompt": "a", "weight": -1}]}, "weight"),
    ("change", {"cue": 0, "transition": {"chunks": 99}}, "64"),
    ("change", {"cue": 0, "memory": "burn"}, "keep, recache"),
    ("put_marker", {"marker": {"kind": "bang", "chunk": 1}}, "bang"),
    ("load", {"text": "{"}, "not JSON"),
    ("undo", {}, "nothing to undo"),
])  # fmt: skip
def test_what_is_wrong_is_said_and_changes_nothing(ask, op: str, fields: dict, says: str) -> None:
    before = ask("sync")["plan"]
    answer = ask(op, **fields)
    assert not answer["ok"]
    assert says.lower() in answer["error"].lower()
    assert ask("sync")["plan"] == before


def test_a_forgotten_plan_is_sent_again(tabs: Tabs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline_plans, "_KEPT", 2)
    plans = Plans(tabs)
    first = plans.answer({"op": "open"})
    for _ in range(2):
        plans.answer({"op": "open"})
    assert plans.answer({"op": "sync", "doc": first["doc"]})["gone"]
    again = plans.answer({"op": "open", "timeline": first["plan"]["timeline"]})
    assert again["plan"]["timeline"] == first["plan"]["timeline"]


def test_a_run_holds_the_truth(tabs: Tabs, ask) -> None:
    loaded = ask("load", text=TEXT)
    run = tabs.start("tab", {"timeline": loaded["plan"]["timeline"], "seed": 1, "nonce": "n"})
    messages = run.messages()
    while next(messages)["type"] != "chunk":
        pass
    status = run.worker.state(run.session)
    run.send(SetPrompt("a white ball"))  # typed live
    live = ask("sync", run=run.token)
    assert "a white ball" in [block["caption"] for block in live["plan"]["blocks"]]
    past = ask("change", run=run.token, cue=0, parts=[{"prompt": "a box", "weight": 1}])
    assert not past["ok"]
    assert past["branch_at"] == 0
    assert "edit from chunk" in past["error"]
    mix = [{"prompt": "a pink star", "weight": 1}, {"prompt": "a white star", "weight": 1}]
    now = ask("live", run=run.token, parts=mix)
    assert "50% a pink star + 50% a white star" in [block["caption"] for block in now["plan"]["blocks"]]
    ask("live", run=run.token, parts=mix[:1])
    edited = ask("change", run=run.token, cue=20, parts=[{"prompt": "a blue heart", "weight": 1}])
    assert edited["applies"] == 20
    deadline = time.monotonic() + 10
    while run.worker.state(run.session).ahead:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert run.worker.state(run.session).timeline.prompt_at(20).caption == "a blue heart"
    assert starts(ask("undo", run=run.token))[-1] == 20
    assert status.chunk <= ask("sync", run=run.token)["plan"]["generated"]
    run.close()
    assert ask("sync", run=run.token)["plan"]["generated"] == 0  # free again


def test_the_library_fits_the_model() -> None:
    assert len(library(real=False)) == 5
    assert len(library(real=True)) == 3


def test_a_branch_waits_where_it_leaves_and_nowhere_before(ask) -> None:
    ask("load", text=TEXT)
    ask("put_marker", marker={"kind": "pause", "chunk": 4})
    ask("put_marker", marker={"kind": "seed", "chunk": 6, "seed": 5})
    before = ask("put_marker", marker={"kind": "pause", "chunk": 15})["plan"]["timeline"]
    branch = ask("branch", chunk=12)["timeline"]
    marks = [(mark["kind"], mark["chunk"]) for mark in branch["markers"]]
    assert marks == [("seed", 6), ("pause", 12), ("pause", 15), ("end", 30)]
    assert branch["cues"] == before["cues"]
    assert ask("sync")["plan"]["timeline"] == before, "the plan itself is as it was"
    assert not ask("branch")["ok"] and not ask("branch", chunk=True)["ok"]
