"""Sizes that do not fit are refused, and nothing changes."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cf_app.engine import commands
from cf_app.engine.messages import Pin, SetMemory
from cf_app.memory import fit
from cf_app.memory.policy import SlowFast
from tests.tiny import tiny_engine


@pytest.fixture(scope="module")
def session():
    engine = tiny_engine()
    session = engine.new_session("a red ball hops", seed=1, policy=SlowFast(tau=1.0))
    for _ in range(6):
        engine.step(session)
    return session


def test_the_pinned_must_have_room(session) -> None:
    slow = [entry.latent for entry in session.memory.snapshot().entries if entry.lane == "slow"]
    for latent in slow[-3:]:
        commands.apply(session._engine, session, Pin(latent))
    before = session.memory.snapshot()
    with pytest.raises(ValueError, match="slow memory of 2 can not hold the 3"):
        commands.apply(session._engine, session, SetMemory({"slow": 2}))
    assert session.memory.snapshot() == before
    commands.apply(session._engine, session, SetMemory({"slow": 3}))
    held = [entry.latent for entry in session.memory.snapshot().entries if entry.lane == "slow"]
    assert held == slow[-3:]


def test_the_device_must_have_room(session, monkeypatch) -> None:
    monkeypatch.setattr(fit, "free_bytes", lambda device: 30 * session.memory.shape.latent_bytes)
    before = session.memory.snapshot()
    with pytest.raises(ValueError, match="choose smaller sizes"):
        commands.apply(session._engine, session, SetMemory({"slow": 40}))
    assert session.memory.snapshot() == before
    commands.apply(session._engine, session, SetMemory({"tau": 0.5}))
    assert session.memory.policy == replace(before_policy(before), tau=0.5)


def before_policy(snapshot) -> SlowFast:
    return SlowFast(**{key: value for key, value in snapshot.settings.items() if key != "policy"})


def test_free_memory_is_known_where_it_can_be() -> None:
    free = fit.free_bytes(torch.device("cpu"))
    assert free is None or free > 10_000_000
    assert fit.free_bytes(torch.device("meta")) is None
