"""Recorded passes are the same passes. Recordings are imitated on a CPU by computing again from fixed places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cf_app.engine import commands
from cf_app.engine.engine import Engine
from cf_app.engine.messages import ChunkReady, SetPrompt
from cf_app.engine.session import Session
from cf_app.memory.policy import Fifo, Policy, SinkWindow, SlowFast
from cf_app.memory.workspace import Workspace
from cf_app.model.graphs import EagerRecorder
from tests.tiny import tiny_engine

RED, BLUE = "a red ball hops", "a blue star floats"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def recorded_engine() -> Engine:
    engine = tiny_engine()
    engine.record(EagerRecorder())
    return engine


def by_turns(engine: Engine, sessions: list[Session], rounds: int) -> list[ChunkReady]:
    """Drafts of all, then clean passes of all: the workspace changes hands between them."""
    found = []
    for _ in range(rounds):
        drafts = [engine.draft(session) for session in sessions]
        for session, draft in zip(sessions, drafts, strict=True):
            engine.remember(session, draft)
            found.append(engine.decode(session))
    return found


def equal(first: list[ChunkReady], second: list[ChunkReady]) -> None:
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one.frames, two.frames)
        assert one.snapshot.layer_slots == two.snapshot.layer_slots
        assert one.snapshot.similarities == two.snapshot.similarities


@pytest.mark.parametrize(
    "policy",
    [SlowFast(slow=4, tau=0.9995), SinkWindow(3, 12), Fifo(9),
     SlowFast(slow=4, tau=0.9995, timing="as_released", decision="per_layer")],
    ids=["slow_fast", "sink_window", "fifo", "as_released"],
)  # fmt: skip
def test_a_recorded_film_is_the_same_film(policy: Policy) -> None:
    """Two sessions by turns, of different prompts and lengths, through filling, evictions and a prompt switch."""
    films = []
    for engine in (tiny_engine(), recorded_engine()):
        early = engine.new_session(RED, 1, policy=policy)
        found = by_turns(engine, [early], 3)
        late = engine.new_session(BLUE, 2, policy=policy)
        found += by_turns(engine, [early, late], 5)
        films.append(found)
    equal(*films)
    assert any(chunk.snapshot.promoted for chunk in films[0]) == isinstance(policy, SlowFast)


def test_recordings_are_made_once_a_shape() -> None:
    engine = recorded_engine()
    session = engine.new_session(RED, policy=SinkWindow(3, 12))
    recorded = engine._recorded
    assert recorded is not None
    counts = []
    for _ in range(7):
        engine.step(session)
        counts.append(len(recorded))
    assert counts == [2, 4, 6, 8, 8, 8, 8]  # noisy and clean, at 0, 3, 6 and 9 latent frames read


def test_a_larger_memory_is_recorded_anew() -> None:
    films = []
    for engine in (tiny_engine(), recorded_engine()):
        session = engine.new_session(RED, policy=SinkWindow(3, 9))
        found = [engine.step(session) for _ in range(4)]
        session.memory.reconfigure(SinkWindow(3, 30))
        films.append(found + [engine.step(session) for _ in range(4)])
    equal(*films)


def test_watched_attention_and_a_recache_pass_by_the_recordings() -> None:
    films = []
    for engine in (tiny_engine(switch_memory="recache"), tiny_engine(switch_memory="recache")):
        if films:
            engine.record(EagerRecorder())
        session = engine.new_session(RED, policy=SinkWindow(3, 12))
        found = [engine.step(session) for _ in range(2)]
        session.watch_attention = True
        commands.apply(engine, session, SetPrompt(BLUE, at_chunk=3, memory="recache"))
        films.append(found + [engine.step(session) for _ in range(4)])
    equal(*films)
    assert films[1][-1].snapshot.attention


def test_what_can_not_be_recorded_says_so() -> None:
    engine = tiny_engine()
    with pytest.raises(ValueError, match=r"graphs.* needs a CUDA GPU"):
        engine.accelerate(["fused", "graphs"])
    assert engine.speedups == () and not engine.transformer.blocks[0].attn1.fused_projections
    lean = recorded_engine()
    lean._workspace = Workspace(lean.kv_shape, lean=True)
    lean.step(lean.new_session(RED))
    assert len(lean._recorded or ()) == 0


@needs_gpu
@pytest.mark.parametrize("speed", [["graphs"], ["fused", "compiled", "graphs"]])
def test_cuda_graphs_change_nothing(speed: list[str]) -> None:
    films = []
    for names in ([], speed):
        engine = tiny_engine()
        moved = Engine(engine.config, engine.transformer.cuda(), engine.vae.cuda(), engine.text)
        moved.accelerate(names)
        sessions = [moved.new_session(RED, 1, policy=SlowFast(slow=4, tau=0.9995)), moved.new_session(BLUE, 2)]
        films.append(by_turns(moved, sessions, 9))
    for one, two in zip(*films, strict=True):
        assert np.abs(one.frames.astype(int) - two.frames.astype(int)).max() <= 2
        assert one.snapshot.layer_slots == two.snapshot.layer_slots
