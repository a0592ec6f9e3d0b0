"""The command that says what quantization saves and costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cf_app.cli import main

CHOICES = ["int8", "nf4", "fp8", "transformer=none,kv=fp8"]


def test_what_every_choice_takes_and_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "numbers.json"
    arguments = ["quantization", "--device", "cpu", "--chunks", "2", "--json", str(out), "--quant", *CHOICES]
    assert main(arguments) == 0
    rows = {row["quant"]: row for row in json.loads(out.read_text())}
    assert list(rows) == ["none", *CHOICES]
    plain = rows["none"]
    assert plain["flow_error"] == 0 and plain["picture_db"] > 1000
    for name, bound in (("int8", 0.05), ("nf4", 0.3), ("fp8", 0.1)):
        assert 0 < rows[name]["flow_error"] < bound
        assert rows[name]["transformer"] < plain["transformer"] and rows[name]["text"] < plain["text"]
    eight = rows["transformer=none,kv=fp8"]
    assert eight["flow_error"] == 0  # nothing is remembered yet
    assert 0 < eight["memory"] < 0.3 * plain["memory"] and 15 < eight["picture_db"] < 1000
    shown = capsys.readouterr().out
    assert "the same" in shown and "nf4" in shown


@pytest.mark.parametrize(("arguments", "says"), [(["--chunks", "0"], "--chunks"), (["--quant", "int3"], "int3")])
def test_bad_input(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantization", *arguments]) == 2
    assert says in capsys.readouterr().err
