"""The table of switches: each side is measured by turns, a switch that fails says so, and what it says adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cf_app.cli import main
from cf_app.evaluation import switches
from cf_app.evaluation.switches import Switch, available, compare
from tests.tiny import tiny_engine


def test_what_a_switch_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[int, bool]] = []
    speeds = iter([100.0, 150.0, 90.0, 160.0, 110.0, 140.0])

    def imitation(engine: Any, chunks: int, *, overlap: bool) -> dict[str, Any]:
        order.append((id(engine), overlap))
        fps = next(speeds)
        return {"fps": fps, "first_chunk_s": 50 / fps}

    monkeypatch.setattr(switches, "speed", imitation)
    monkeypatch.setattr("cf_app.load", lambda *_, **__: tiny_engine())

    def broken(engine: Any) -> None:
        raise ValueError("not on this machine")

    one, two = compare(None, [Switch("beside", overlap=False), Switch("broken", change=broken)], 8)
    assert [overlap for _, overlap in order] == [True, False] * 3 and len({engine for engine, _ in order}) == 2
    assert one["faster"] == pytest.approx(1.5) and one["first_sooner"] == pytest.approx(1.5)
    assert two == {"name": "broken", "problem": "not on this machine"}
    text = "\n".join(switches.table([one, two]))
    assert "1.50" in text and "not on this machine" in text and "0.50 -> 0.33 s" in text


def test_every_switch_can_be_thrown(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for compiling, which takes a minute: on a tiny engine, for a few chunks."""
    made: list[dict[str, Any]] = []

    def load(model: str | None, **wanted: Any) -> Any:
        made.append(wanted)
        return tiny_engine()

    monkeypatch.setattr("cf_app.load", load)
    chosen = [switch for switch in available() if switch.name != "compiled blocks"]
    rows = list(compare(None, chosen, 8, rounds=1))
    assert [row["name"] for row in rows] == [switch.name for switch in chosen] and len(rows) == 8
    assert not any("problem" in row for row in rows)
    assert {wanted["dtype"] for wanted in made} == {None, "bfloat16"} and {wanted["threads"] for wanted in made} >= {1}


def test_a_joined_pass_is_timed_over_a_full_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = tiny_engine(), []
    monkeypatch.setattr("cf_app.load", lambda *_, **__: engine)
    plain = switches._FullMemory.extend

    def extend(self: Any, layer: int, key: Any, value: Any) -> Any:
        found = plain(self, layer, key, value)
        asked.append((len(key), found[0].shape[1] // engine.kv_shape.tokens))
        return found

    monkeypatch.setattr(switches._FullMemory, "extend", extend)
    found = switches.joined_pass(None, rounds=2)
    own = engine.config.geometry.chunk_latents
    assert asked[0] == (1, 18 + own) and {batch for batch, _ in asked} == {1, 2}
    assert set(found) == {"apart", "joined"} and min(found.values()) > 0


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(switches, "available", lambda: (Switch("nothing"),))
    monkeypatch.setattr("cf_app.load", lambda *_, **__: tiny_engine())
    out = tmp_path / "table.json"
    assert main(["benchmark", "--table", "--chunks", "8", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["hardware"]["torch"] and [row["name"] for row in found["switches"]] == ["nothing"]
    shown = capsys.readouterr()
    assert "nothing" in shown.out + shown.err and "ratio" in shown.out + shown.err
