"""Quantization schemes on the CPU paths of their packages: they run, save room, and stay close."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from diffusers import WanTransformer3DModel

from cf_app.model.attention import SelfContext
from cf_app.model.causal_wan import causal_forward, encode_text, make_causal
from cf_app.model.quantize import SCHEMES, check_scheme, quantize_linears, relative_error, scheme_named
from cf_app.model.rope import rope_table
from tests.tiny import TEXT_DIM

CPU = torch.device("cpu")
BOUNDS = {"none": 0.0, "int8": 0.03, "nf4": 0.15, "fp8": 0.06}


@pytest.mark.parametrize("name", list(SCHEMES))
def test_error_against_unquantized(name: str) -> None:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 32, "ffn_dim": 64, "num_layers": 2}
    channels = {"in_channels": 4, "out_channels": 4, "text_dim": TEXT_DIM, "freq_dim": 32}
    model = make_causal(WanTransformer3DModel(patch_size=(1, 2, 2), **sizes, **channels)).eval()
    other = copy.deepcopy(model)
    count = quantize_linears(other.blocks, name, CPU)
    assert count == (0 if name == "none" else 2 * 10)
    latents = torch.randn(1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    states = torch.randn(1, 5, TEXT_DIM, generator=torch.Generator().manual_seed(1))

    def flow(transformer: torch.nn.Module) -> torch.Tensor:
        context = SelfContext(1, rope_table(32, range(3), 2, 3))
        with torch.no_grad():
            return causal_forward(transformer, latents, 500.0, encode_text(transformer, states), context)

    error = relative_error(lambda: flow(model), lambda: flow(other))
    assert error <= BOUNDS[name]
    assert name == "none" or error > 0


def test_unknown_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="int8, nf4, fp8"):
        scheme_named("int3")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        check_scheme("nf4", CPU)
