"""Compiled parts and 8-bit attention, without a compiler and without a GPU: what is cut out and put in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cf_app.engine.engine import Engine
from cf_app.memory.policy import SlowFast
from cf_app.model.attention import attend
from cf_app.model.kernels import eight_bit, flash8, to_fp8
from cf_app.model.quantize import relative_error
from cf_app.model.rope import rope_table, rotate, rotate_real
from cf_app.model.speed import compile_blocks, compiled_rotation
from tests.tiny import tiny_engine

RED = "a red ball hops"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class Counting:
    """A backend for torch.compile that computes as it is told and counts."""

    def __init__(self) -> None:
        self.compiled, self.runs = 0, 0
        self.operations: set[str] = set()

    def __call__(self, module: Any, inputs: Any) -> Callable[..., Any]:
        self.compiled += 1
        self.operations |= {str(node.target) for node in module.graph.nodes}

        def run(*arguments: Any) -> Any:
            self.runs += 1
            return module.forward(*arguments)

        return run


def test_what_is_compiled_is_compiled_once_for_all_blocks_and_chunks() -> None:
    plain, compiled, backend = tiny_engine(layers=10), tiny_engine(layers=10), Counting()
    compile_blocks(compiled.transformer, backend=backend)
    compiled._workspace.rotate = compiled_rotation(backend)
    policy = SlowFast(slow=4, tau=0.9995)
    films = [engine.new_session(RED, 1, policy=policy).stream(chunks=6) for engine in (plain, compiled)]
    counts = []
    for one, two in zip(*films, strict=True):
        assert np.abs(one.frames.astype(int) - two.frames.astype(int)).max() <= 1
        assert one.snapshot.layer_slots == two.snapshot.layer_slots
        counts.append((backend.compiled, backend.runs))
    # Three parts of a block, norm and rotation of queries, norm of keys and of the text's queries, rotation of keys: in
    # every layer of every pass, far fewer compilations than there are layers.
    assert counts[0][1] >= 10 * 5 * 7 and counts[0][0] <= 9
    assert counts[-1][0] == counts[-2][0] <= 16
    assert any("rms_norm" in name for name in backend.operations)
    assert not any("complex" in name for name in backend.operations)  # compilers do not fuse them


def test_rotation_in_real_numbers() -> None:
    torch.manual_seed(0)
    table, x = rope_table(24, [3, 4], 2, 3), torch.randn(2, 12, 2, 24)
    assert torch.allclose(rotate_real(x, torch.view_as_real(table)), rotate(x, table), atol=1e-6)
    low = x.bfloat16()
    assert torch.allclose(rotate_real(low, torch.view_as_real(table)).float(), rotate(low, table).float(), atol=0.02)


def imitation(
    query: Tensor, key: Tensor, value: Tensor, *, q_descale: Tensor, k_descale: Tensor, v_descale: Tensor
) -> Tensor:
    """FlashAttention 3's function for 8-bit floats."""
    assert {x.dtype for x in (query, key, value)} == {torch.float8_e4m3fn}
    pairs = ((query, q_descale), (key, k_descale), (value, v_descale))
    return attend(*(x.float() * scale[:, None, :, None] for x, scale in pairs)).bfloat16()


def test_attention_in_8_bits_is_close() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, length, 3, 32).bfloat16() for length in (24, 200, 200))
    key = key * torch.tensor([1.0, 3.0, 0.01], dtype=key.dtype).view(1, 1, 3, 1)  # every head has its own scale
    value = value * torch.tensor([0.02, 1.0, 50.0], dtype=key.dtype).view(1, 1, 3, 1)
    kernel = flash8(imitation)
    for head in range(3):
        part = [x[:, :, head : head + 1] for x in (query, key, value)]
        error = relative_error(lambda part=part: attend(*part), lambda part=part: kernel(*part))
        assert 0 < error < 0.12
    packed, scale = to_fp8(value)
    assert torch.allclose(packed.float() * scale[:, None, :, None], value.float(), rtol=0.07, atol=1e-3)
    mask = torch.ones(1, 1, 24, 200, dtype=torch.bool)
    assert torch.equal(kernel(query, key, value, mask), attend(query, key, value, mask))
    assert not to_fp8(torch.zeros(1, 2, 1, 4))[0].float().any()


def test_8_bit_attention_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match=r"attention8.*FlashAttention 3"):
        eight_bit(torch.device("cpu"))
    engine = tiny_engine()
    with pytest.raises(ValueError, match="attention8"):
        engine.accelerate(["fused", "attention8"])
    assert engine.running_by == "SDPA" and engine.speedups == ()
    engine.accelerate(["fused"])
    assert engine.running_by == "SDPA, fused"


@needs_gpu
def test_compiled_blocks_on_a_gpu() -> None:
    films = []
    for names in ([], ["fused", "compiled"]):
        engine = tiny_engine()
        moved = Engine(engine.config, engine.transformer.cuda(), engine.vae.cuda(), engine.text)
        moved.accelerate(names)
        films.append(list(moved.new_session(RED, 1).stream(chunks=4)))
    for one, two in zip(*films, strict=True):
        assert np.abs(one.frames.astype(int) - two.frames.astype(int)).max() <= 2
