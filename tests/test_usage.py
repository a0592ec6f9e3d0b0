"""What the page says about memory, and what modules really take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cf_app.model.quantize import quantize_linears
from cf_app.ui.model_line import ModelLine, memory_in_use
from cf_app.usage import Usage, facts, stored_bytes, usage
from tests.tiny import tiny_engine


def test_memory_in_use() -> None:
    now = usage("cpu")
    assert now.used is None or 0.05 < now.used < 200
    assert Usage(9.84, 24.0, True).text == "9.8 of 24.0 GB VRAM" and Usage(None, None, False).text == ""
    assert Usage(1.0, None, False).text == "1.0 GB memory"


def test_a_gpu_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda place: 5_000_000_000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (1, 12_000_000_000))
    assert usage(torch.device("cuda", 0)).text == "5.0 of 12.0 GB VRAM"


def test_the_line_of_the_page() -> None:
    engine = tiny_engine(memory={"policy": "fifo"}, description="a ${model} {{of}} <b>")
    assert facts(engine) == "unquantized · SDPA · cpu · 96×64, 16 frames a second, films of at most 4 min 15 s"
    assert "films" not in facts(tiny_engine())
    engine.quantization = "int8, text nf4"
    engine.accelerate(["fused"])
    page = ModelLine(engine, "h264_nvenc").html_template
    assert page.count("int8, text nf4 · SDPA, fused · cpu") == 2 and page.count("</span> · H.264 by NVENC<") == 2
    assert not any(mark in page for mark in ("${model}", "{{", "<b>"))
    assert memory_in_use(engine)({})["ok"]


@pytest.mark.parametrize(("scheme", "least", "most"), [("none", 4.0, 4.0), ("int8", 1.0, 1.1), ("nf4", 0.5, 0.7)])
def test_stored_bytes(scheme: str, least: float, most: float) -> None:
    module = nn.Sequential(nn.Linear(256, 512, bias=False))
    quantize_linears(module, scheme, torch.device("cpu"))
    with torch.no_grad():
        module(torch.zeros(1, 256))
    assert least <= stored_bytes(module) / (256 * 512) <= most


def test_stored_bytes_of_torchao() -> None:
    module = nn.Sequential(nn.Linear(256, 512, bias=False))
    quantize_linears(module, "fp8", torch.device("cpu"))
    assert 1.0 <= stored_bytes(module) / (256 * 512) <= 1.1

