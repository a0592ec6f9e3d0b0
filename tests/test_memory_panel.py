"""The server's side of the memory panel: what it tells the page about policies, and what it answers."""
from __future__ import annotations

import json

import gradio as gr
import pytest
from safetensors import safe_open

from cf_app.engine.messages import ChunkReady
from cf_app.engine.worker import Worker
from cf_app.memory.export import read_history
from cf_app.memory.policy import POLICIES, policy_from_dict
from cf_app.ui import memory_panel
from cf_app.ui.layout import build_page
from cf_app.ui.places import all_places
from cf_app.ui.player import asset
from tests.tiny import EXAMPLES, tiny_engine


@pytest.fixture(scope="module")
def page():
    page = build_page(tiny_engine(), Worker(tiny_engine()), places=all_places())
    yield page
    page.close()


@pytest.mark.parametrize("name", POLICIES)
def test_a_form_is_made_of_every_policy(name: str) -> None:
    told = memory_panel.describe_policy(POLICIES[name])
    usual = {field["name"]: field["usual"] for field in told["fields"]}
    assert policy_from_dict({"policy": name, **usual}) == POLICIES[name]()
    for field in told["fields"]:
        assert field["label"] != field["name"], f"{field['name']} has no label"
        if field["kind"] == "choice":
            assert field["usual"] in [choice for choice, _ in field["choices"]]
    assert json.loads(json.dumps(told))["about"].endswith(".")


def test_templates_are_safe_from_gradios_own_markup() -> None:
    for name in ("memory.html", "memory_curve.html"):
        assert "${" not in asset(name) and "{{" not in asset(name)


def test_a_kv_snapshot_and_the_history_of_a_run(page) -> None:
    run = page.tabs.start("tab", {"prompt": EXAMPLES[0], "seed": 3})
    messages = run.messages()
    while next(messages)["type"] != "chunk":
        pass
    answer = memory_panel.kv_snapshot_with(page.tabs)({"run": run.token})
    assert answer["ok"], answer
    with safe_open(answer["path"], "np") as tensors:
        assert any(name.endswith(".key") for name in tensors.keys())  # noqa: SIM118
    history = endpoint(page)(run.token, 0)
    snapshots = read_history(json.dumps(history)).snapshots
    assert snapshots and snapshots[0].chunk == 0
    assert endpoint(page)(run.token, len(snapshots) + 100)["snapshots"] == []
    page.tabs.close("tab")
    assert not memory_panel.kv_snapshot_with(page.tabs)({"run": run.token})["ok"]
    with pytest.raises(gr.Error, match="over"):
        endpoint(page)(run.token, 0)


def endpoint(page):
    return next(f.fn for f in page.demo.fns.values() if f.api_name == "memory_history")


def test_a_chunk_message_carries_the_snapshot_whole(page) -> None:
    session = page.tabs.engine.new_session(EXAMPLES[0], seed=1)
    event = page.tabs.engine.step(session)
    assert isinstance(event, ChunkReady)
    told = json.loads(json.dumps(event.snapshot.to_dict()))
    for name in ("gate", "eligible", "settings", "attention", "layer_slots", "similarities"):
        assert name in told
