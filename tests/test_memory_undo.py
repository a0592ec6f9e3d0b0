"""Evictions by hand are taken back: at once to the bit, later with the contents that were evicted."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cf_app.memory.policy import SlowFast
from tests.tiny import tiny_engine


@pytest.fixture(scope="module")
def engine():
    return tiny_engine()


def filled(engine, chunks: int = 9, **changes):
    session = engine.new_session("a red ball hops", seed=3, policy=replace(SlowFast(tau=1.0), **changes))
    for _ in range(chunks):
        engine.step(session)
    return session


def held(session, lane: str, *, promoted: bool = False) -> list[int]:
    entries = session.memory.snapshot().entries
    return [e.latent for e in entries if e.lane == lane and (e.promoted_at is not None or not promoted)]


@pytest.mark.parametrize("changes", [{}, {"timing": "as_released", "decision": "per_layer"}])
def test_an_eviction_taken_back_at_once_leaves_no_trace(engine, changes) -> None:
    session = filled(engine, **changes)
    other = session.fork()
    latent = held(session, "slow")[2]
    session.memory.evict(latent)
    assert latent not in held(session, "slow")
    session.memory.restore(latent)
    assert session.memory.snapshot() == other.memory.snapshot()
    assert np.array_equal(engine.step(session).frames, engine.step(other).frames)


def test_an_eviction_taken_back_later_brings_the_same_contents(engine) -> None:
    session = filled(engine)
    memory = session.memory
    latent = held(session, "slow", promoted=True)[2]
    write = next(cell.write for cell in memory.state.lanes[1].slow if cell.latent == latent)
    key = memory.cache.read(1, write)[0].clone()
    memory.evict(latent)
    after = engine.step(session).snapshot
    assert latent in after.evicted
    assert not memory.cache.holds(1, write)
    memory.restore(latent)
    engine.step(session)
    assert latent in held(session, "slow")
    assert torch.equal(memory.cache.read(1, write)[0], key)


def test_what_was_brought_back_is_in_the_file_of_the_session(engine, tmp_path) -> None:
    session = filled(engine)
    latent = held(session, "slow", promoted=True)[-1]
    session.memory.evict(latent)
    engine.step(session)
    session.memory.restore(latent)
    session.save(tmp_path / "session.safetensors")
    again = engine.load_session(tmp_path / "session.safetensors")
    assert np.array_equal(engine.step(session).frames, engine.step(again).frames)
    assert latent in held(again, "slow")


def test_a_full_slow_memory_lets_the_next_one_go_for_it(engine) -> None:
    session = filled(engine, slow=3, chunks=8)
    first, _, third = held(session, "slow")
    session.memory.evict(third)
    engine.step(session)
    session.memory.restore(third)
    assert third in held(session, "slow")
    assert first not in held(session, "slow")
    assert len(held(session, "slow")) == 3


def test_sizes_may_change_in_between(engine) -> None:
    session = filled(engine)
    latent = held(session, "slow", promoted=True)[-1]
    session.memory.evict(latent)
    session.memory.reconfigure(SlowFast(slow=6, tau=1.0))
    assert latent in engine.step(session).snapshot.evicted
    assert latent not in engine.step(session).snapshot.evicted
    session.memory.restore(latent)
    engine.step(session)
    assert latent in held(session, "slow")


def test_what_can_not_come_back_is_refused(engine) -> None:
    session = filled(engine)
    with pytest.raises(ValueError, match="can not be brought back"):
        session.memory.restore(0)
    newest = held(session, "fast")[-2]
    session.memory.evict(newest)
    for _ in range(3):
        engine.step(session)
    with pytest.raises(ValueError, match="no place"):
        session.memory.restore(newest)
    slow = held(session, "slow")
    for latent in slow[:4]:
        session.memory.evict(latent)
    with pytest.raises(ValueError, match="only 3 are kept"):
        session.memory.restore(slow[0])
    session.memory.restore(slow[3])


def test_a_reset_forgets_what_was_evicted(engine) -> None:
    session = filled(engine)
    latent = held(session, "slow")[0]
    session.memory.evict(latent)
    session.memory.state = session.memory.switched("reset")
    with pytest.raises(ValueError, match="are none"):
        session.memory.restore(latent)
