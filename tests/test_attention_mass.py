"""Attention mass is the attention that the pass really pays, and looking changes nothing."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cf_app.engine import commands
from cf_app.engine.messages import WatchAttention
from cf_app.memory.attention_mass import AttentionProbe
from cf_app.memory.policy import FramePack, SinkWindow, SlowFast
from cf_app.memory.snapshot import MemorySnapshot
from tests.tiny import tiny_engine

PROMPT = "a red ball hops"


@pytest.fixture(scope="module")
def engine():
    return tiny_engine()


@pytest.mark.parametrize(
    "policy",
    [SlowFast(tau=1.0), SlowFast(tau=0.9, timing="as_released", decision="per_layer"), SinkWindow(), FramePack()],
    ids=lambda policy: f"{policy.name}",
)
def test_shares_are_of_one_and_of_what_is_read(engine, policy) -> None:
    session = engine.new_session(PROMPT, seed=1, policy=policy)
    commands.apply(engine, session, WatchAttention(True))
    before = None
    for _ in range(9):
        after = engine.step(session).snapshot
        sums = np.array([view.mass for view in after.attention]).sum(0) if after.attention else np.zeros(2)
        assert (sums < 1).all()
        if before is not None:
            assert (sums > 0.05).all()
            read = {view.latent for view in after.attention}
            held = {latent for row in before.layer_slots for latent in row}
            # "as_released" reads what it promotes in the same pass
            assert read <= held | set(after.promoted)
        before = after
    assert MemorySnapshot.from_dict(after.to_dict()) == after


@torch.inference_mode()
def test_it_agrees_with_attention_in_full(engine) -> None:
    session = engine.new_session(PROMPT, seed=2)
    for _ in range(3):
        engine.step(session)
    state, shape = session.memory.state, engine.kv_shape
    context = session.memory.context(state, PROMPT, 3, engine._workspace)
    tokens = context.frames * shape.tokens
    query = torch.randn(1, tokens, shape.heads, shape.head_dim)
    own = torch.randn(1, tokens, shape.heads, shape.head_dim)
    probe = AttentionProbe(context, queries=10_000)
    for layer in range(shape.layers):
        keys, _ = context.extend(layer, own, own)
        probe.watch(layer, query, keys)
        scores = torch.einsum("bqhd,bkhd->bhqk", query, keys) * shape.head_dim**-0.5
        full = scores.softmax(-1).mean((0, 1, 2)).unflatten(0, (-1, shape.tokens)).sum(1)
        mine = [view.mass[layer] for view in probe.views()] if layer == shape.layers - 1 else None
        if mine is not None:
            assert torch.allclose(torch.tensor(mine), full[: -context.frames], atol=2e-5)
    assert [view.latent for view in probe.views()] == list(range(9))


def test_looking_changes_nothing(engine) -> None:
    watched, other = (engine.new_session(PROMPT, seed=3) for _ in range(2))
    commands.apply(engine, watched, WatchAttention(True))
    for _ in range(4):
        seen, plain = engine.step(watched), engine.step(other)
        assert np.array_equal(seen.frames, plain.frames)
        assert seen.timings["attention"] > 0
        assert "attention" not in plain.timings
        same = replace(seen.snapshot, attention=(), memory_ms=0.0, bytes_held=plain.snapshot.bytes_held)
        assert same == replace(plain.snapshot, memory_ms=0.0)
    assert watched.fork().watch_attention
    commands.apply(engine, watched, WatchAttention(False))
    assert engine.step(watched).snapshot.attention == ()
    with pytest.raises(ValueError, match="expected true or false"):
        commands.apply(engine, watched, WatchAttention(1))  # type: ignore[arg-type]
