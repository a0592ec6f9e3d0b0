"""What a machine multiplies quickly decides in what precision a decoder works and a stage trains."""
from __future__ import annotations

import pytest
import torch

from cf_app.machine import bfloat16_pays, decoder_dtype, mixed_precision

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="training would take the GPU")
@pytest.mark.parametrize(("capabilities", "kind", "precision"), [
    ({"avx512_bf16": True}, torch.bfloat16, "bf16"),
    ({"avx512_bf16": False}, torch.float32, "no"),
    ({}, torch.float32, "no"),
])
def test_bfloat16_is_for_cpus_that_multiply_it(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool],
                                               kind: torch.dtype, precision: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert decoder_dtype(CPU, torch.float32) == kind and mixed_precision() == precision


def test_elsewhere_the_type_asked_for_is_kept() -> None:
    device = torch.device("meta")
    assert bfloat16_pays(device) and decoder_dtype(device, torch.float16) == torch.float16
