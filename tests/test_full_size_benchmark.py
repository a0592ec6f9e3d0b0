"""The benchmark for a GPU, run at tiny size on a CPU: it measures, keeps what it has, and ends in time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cf_app.cli import main
from cf_app.evaluation import full_size, full_size_case
from cf_app.evaluation.roofline import chunk_work
from tests.tiny import tiny_engine

OURS: dict[str, Any] = {"kind": "ours", "tiny": True, "chunks": 2, "model": "context-forcing", "speed": []}
OURS |= {"precision": "bf16", "decoder": "tiny"}


def case(tmp_path: Path, **spec: Any) -> dict[str, Any]:
    out = tmp_path / "out.jsonl"
    full_size_case.main({"tiny": True, **spec}, out)
    found: dict[str, Any] = {}
    for line in out.read_text().splitlines():
        found |= json.loads(line)
    return found


@pytest.mark.parametrize(("visible", "decoder"), [("18+3", "tiny"), ("9+3", "wan"), ("18+3 as released", "tiny")])
def test_a_case_measures_every_stage(tmp_path: Path, visible: str, decoder: str) -> None:
    speed = ["fused", "compiled", "graphs"]  # the last two imitated
    found = case(tmp_path, **{**OURS, "visible": visible, "decoder": decoder, "speed": speed})
    assert {"text", "denoise", "context", "memory", "decode", "encode", "total"} <= set(found["stage_ms"])
    assert found["fps"] > 0 and found["first_picture_s"] > 0 and 0 < found["memory_share"] < 1
    assert found["attention"] == "SDPA" and found["quantization"] == "none"
    assert found["encoder"] in ("libx264", "h264_nvenc")


def test_late_chunks_against_early_ones(tmp_path: Path) -> None:
    found = case(tmp_path, **{**OURS, "kind": "long", "visible": "9+3", "seconds": 0.0, "speed": ["graphs"]})
    assert found["chunks"] == 40 and found["late_over_early"] > 0
    row = {**OURS, "kind": "long", "visible": "9+3", "found": found, "problem": None}
    assert "chunk 40 against chunk 30" in full_size.table([row])


def test_the_plan_of_ten_minutes() -> None:
    """What the targets are about comes first: all speed-ups, 8-bit, as released, the peers at the same size."""
    peers = [Path("a"), Path("b")]
    plan = full_size.plan("context-forcing", ["bf16", "fp8"], peers, tiny=False, chunks=12, long=True)
    early = plan[:8]
    assert [row["kind"] for row in early] == ["ceilings", "ours", "ours", "ours", "ours", "peer", "peer", "long"]
    assert {tuple(row["speed"]) for row in early if row["kind"] == "ours"} >= {(), ("fused", "compiled", "graphs")}
    assert {row["precision"] for row in early if row["kind"] == "ours"} == {"bf16", "fp8"}
    known = {name for row in plan for name in row.get("speed", ())}
    assert known == {"fused", "compiled", "graphs", "attention8"}
    assert len({json.dumps(row) for row in plan}) == len(plan)
    assert not any(row["kind"] == "long" for row in full_size.plan("longlive", ["bf16"], [], tiny=True, chunks=1))


def test_8_bit_attention_is_a_row_that_says_why_it_is_empty(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FlashAttention 3"):
        case(tmp_path, **{**OURS, "visible": "18+3", "speed": ["attention8"]})


def test_ceilings_and_the_share_of_them(tmp_path: Path) -> None:
    ceiling = case(tmp_path, kind="ceilings")
    assert ceiling["matmul_tflops"] > 0 and ceiling["copy_gb_s"] > 0 and ceiling["attention_tflops"]["SDPA"] > 0
    assert ceiling["fp8_matmul_tflops"] is None
    ceiling |= {"matmul_tflops": 500.0, "attention_tflops": {"SDPA": 400.0, "other": None}}
    found = {"tflop": {"linears": 50.0, "attention": 100.0}, "stage_ms": {"denoise": 400.0, "context": 100.0}}
    assert full_size.roofline_share(found, ceiling) == pytest.approx((0.1 + 0.2) / 0.5)


def test_work_is_that_of_the_published_count() -> None:
    """The 1.3B model at 832x480, 18+3 visible: 58.5 TFLOP of linears and 143.5 of attention in a chunk of 5 passes."""

    class Config:
        ffn_dim = 8960

    class Transformer:
        config = Config()

    class Shape:
        heads, head_dim, tokens, layers = 12, 128, 1560, 30

    engine: Any = tiny_engine()
    real: Any = type("Engine", (), {})()
    real.kv_shape, real.transformer, real.geometry = Shape(), Transformer(), engine.geometry
    real.schedule, real.config = range(4), type("Config", (), {"text_length": 512})()
    work = chunk_work(real, 21)
    assert work.linears / 1e12 == pytest.approx(58.5, rel=0.01)
    assert work.attention / 1e12 == pytest.approx(141.3 + 2.2, rel=0.01)


def test_one_failure_costs_only_its_case_and_time_is_bounded(tmp_path: Path) -> None:
    cases = [{**OURS, "visible": "18+3", "precision": "fp8"}, {**OURS, "visible": "9+3"}]
    failed, measured = full_size.run(cases, 600)
    assert "fp8 needs a GPU" in failed["problem"] and failed["found"] == {}
    assert measured["problem"] is None and measured["found"]["fps"] > 0
    late = list(full_size.run(cases, 0.0))
    assert [row["problem"] for row in late] == ["left out: no time left"] * 2
    text = full_size.table([failed, measured, *late])
    assert "fp8 needs a GPU" in text and f"{measured['found']['fps']:.1f}" in text and text.count("left out") == 2


def test_the_command_writes_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    out = tmp_path / "numbers.json"
    command = ["benchmark", "--model", "context-forcing", "--random-weights", "--tiny", "--seconds", "0"]
    assert main([*command, "--peers", str(tmp_path), "--json", str(out)]) == 1  # nothing could be measured
    found = json.loads(out.read_text())
    assert {"hardware", "versions", "cases"} == set(found) and found["versions"]["torch"] == torch.__version__
    kinds = [(row["kind"], row.get("visible")) for row in found["cases"]]
    assert kinds[:2] == [("ceilings", None), ("ours", "18+3")] and ("peer", 21) in kinds and ("peer", 12) in kinds
    assert {(row["visible"], row["precision"], row["decoder"]) for row in found["cases"] if row["kind"] == "ours"} >= {
        (visible, precision, decoder)
        for visible in ("18+3", "9+3") for precision in ("bf16", "fp8") for decoder in ("tiny", "wan")
    }
    assert main(["benchmark", "--model", "no-such-student", "--random-weights"]) == 2
    assert main(["benchmark", "--random-weights", "--precisions", "fp8"]) == 2
    assert "no-such-student" in capsys.readouterr().err


def test_a_folder_that_is_no_peer_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pipeline/causal_inference\.py is not there"):
        case(tmp_path, kind="peer", path=str(tmp_path), visible=21)
