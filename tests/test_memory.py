"""Memory policies and the memory itself, over random histories: capacities, contents, positions, pins, forks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cf_app.memory.kv_cache import KVShape
from cf_app.memory.lanes import Cell, Lanes, kept, promote, read, simulate
from cf_app.memory.manager import SlowFastMemory
from cf_app.memory.policy import (
    POLICIES,
    FramePack,
    Policy,
    Rule,
    SlowFast,
    check_policy,
    policy_from_dict,
    policy_to_dict,
    surprisal,
)
from cf_app.memory.snapshot import MemorySnapshot
from cf_app.memory.workspace import Workspace, pool_window

F = 3
SHAPE = KVShape(2, 1, 2, 4, 1, 6, torch.float32, torch.device("cpu"))
SPAN = F * SHAPE.tokens
CLEAN = 2  # the last of the made-up model's passes


def value_of(latent: int, layer: int) -> float:
    """What the clean pass of the made-up model says about a latent frame."""
    return float(1 + latent * SHAPE.layers + layer)


class Model:
    """Made up: noisy passes leave rubbish, the clean pass tells latent frame and layer."""

    def __init__(self) -> None:
        self.workspace, self.chunk, self.angle = Workspace(SHAPE), 0, 0.0

    def advance(self, memory: SlowFastMemory, similarity: float = 1.0) -> None:
        """A chunk whose keys have this cosine similarity to those of the chunk before."""
        context = memory.context(memory.state, "prompt", self.chunk, self.workspace)
        start = memory.state.origin + memory.state.seen
        noise = torch.Generator().manual_seed(self.chunk)
        self.angle += math.acos(similarity)
        direction = torch.tensor([math.cos(self.angle), math.sin(self.angle), 0, 0, 0, 0])
        for step in range(CLEAN + 1):
            context.begin(step, clean=step == CLEAN)
            for layer in range(SHAPE.layers):
                rubbish = torch.randn(1, SPAN, 1, 6, generator=noise)
                numbers = [value_of(start + i, layer) for i in range(F)]
                clean = torch.tensor(numbers).repeat_interleave(SHAPE.tokens)[None, :, None, None].expand(1, -1, 1, 6)
                key, value = (clean * direction, clean) if step == CLEAN else (rubbish, rubbish)
                keys, values = context.extend(layer, key, value)
                assert keys.shape == values.shape and keys.shape[1] >= SPAN
        memory.commit(context, torch.full((1, 1, F, 1, 1), float(self.chunk)))
        self.chunk += 1


def check(memory: SlowFastMemory) -> None:
    """What holds after every chunk and command."""
    rule, state = memory.rule, memory.state
    for layer, row in enumerate(state.lanes):
        assert len(row.sink) <= rule.sink and len(row.slow) <= rule.slow and len(row.fast) <= rule.fast
        fast = [cell.latent for cell in row.fast]
        assert fast == sorted(set(fast))
        for cell in row:
            _, held = memory.contents(layer, cell.write)
            if cell.made_by == CLEAN:
                assert (held == value_of(cell.latent, layer)).all()
        reads, own = read(rule, kept(rule, row, state.seen, F), state.seen, F, state.origin, state.cut)
        positions = [item.position for item in reads] + own
        assert own == list(range(own[0], own[0] + F)) and min(positions) >= 0
        if rule.positions == "slot":
            assert max(positions) < rule.slots
            if rule.cut == 0:
                assert sorted(positions) == sorted(set(positions))
        if rule.timing == "clean":
            slow = [cell.latent for cell in row.slow]
            assert slow == sorted(set(slow))
    snapshot = memory.snapshot()
    assert MemorySnapshot.from_dict(snapshot.to_dict()) == snapshot
    assert all(len(row) == rule.slots for row in snapshot.layer_slots)
    assert {entry.latent for entry in snapshot.entries} == {c.latent for row in state.lanes for c in row}
    assert len(memory.cache._slot[0]) <= memory.cache.slots


small = st.integers(0, 4)
policies = st.one_of(
    st.builds(
        SlowFast,
        sink=small,
        slow=st.integers(0, 6),
        fast=st.integers(3, 8),
        tau=st.floats(0, 1),
        decision=st.just("per_layer"),
        timing=st.sampled_from(["clean", "as_released"]),
        gate=st.sampled_from(["sim", "uniform"]),
        bounded=st.booleans(),
    ),
    st.builds(SlowFast, sink=small, slow=st.integers(0, 6), fast=st.integers(3, 8), tau=st.floats(0, 1)),
    *(st.just(kind()) for kind in POLICIES.values()),
    st.builds(POLICIES["infinity_rope"], sink=small, window=st.integers(7, 12), cut=small),
    st.builds(FramePack, recent=st.integers(0, 4), level=st.integers(1, 3), levels=st.integers(0, 3), sink=small),
)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("chunk"), st.floats(0, 1)),
        st.tuples(st.sampled_from(["pin", "unpin", "evict", "restore"]), st.integers(0, 60)),
        st.tuples(st.just("switch"), st.sampled_from(["flush", "reset"])),
        st.tuples(st.just("policy"), policies),
    ),
    max_size=14,
)


@settings(max_examples=80, deadline=None)
@given(policies, st.integers(0, 9), actions)
def test_random_histories(policy: Policy, start: int, history: list[tuple[str, object]]) -> None:
    memory, model = SlowFastMemory(policy, SHAPE, F), Model()
    for _ in range(start):
        model.advance(memory, 0.5)
    for action, argument in history:
        before = memory.state
        try:
            if action == "chunk":
                assert isinstance(argument, float)
                model.advance(memory, argument)
            elif action == "switch":
                memory.state = memory.switched(str(argument))
            elif action == "policy":
                memory.reconfigure(argument)  # type: ignore[arg-type]
            else:
                memory.__getattribute__(action)(argument)
        except ValueError:
            assert memory.state is before
        pins = before.pins & memory.state.pins
        held = {cell.latent for row in memory.state.lanes for cell in row}
        assert pins <= held
        check(memory)
    twin = memory.fork()
    before = memory.state
    model.advance(twin, 0.1)
    assert memory.state is before
    check(memory)
    check(twin)


@settings(max_examples=60, deadline=None)
@given(policies, st.lists(st.booleans(), max_size=16))
def test_workspace_holds_what_the_reads_say(policy: Policy, promotions: list[bool]) -> None:
    """Incremental filling equals filling from nothing."""
    memory, model = SlowFastMemory(policy, SHAPE, F), Model()
    for promoted in promotions:
        model.advance(memory, 0.0 if promoted else 1.0)
    results: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    for space in (model.workspace, Workspace(SHAPE), Workspace(SHAPE, lean=True)):
        context = memory.context(memory.state, "prompt", 0, space)
        context.begin(0)
        blank = torch.zeros(1, SPAN, 1, 6)
        results.append([])
        for layer in (0, 1, 0):
            keys, values = context.extend(layer, blank, blank)
            results[-1].append((keys.clone(), values.clone()))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(0, 4), st.integers(0, 6), st.integers(3, 8))
def test_simulation_is_what_the_memory_does(promotions: list[bool], sink: int, slow: int, fast: int) -> None:
    policy = SlowFast(sink, slow, fast, tau=0.75)
    memory, model = SlowFastMemory(policy, SHAPE, F), Model()
    plan = simulate(memory.rule, promotions, F)
    for chunk, promoted in enumerate(promotions):
        state = memory.state
        reads, own = read(memory.rule, kept(memory.rule, state.lanes[0], state.seen, F), state.seen, F)
        assert [(r.cell.latent, r.position) for r in reads] == [(r.cell.latent, r.position) for r in plan[chunk][0]]
        assert own == plan[chunk][1]
        model.advance(memory, 0.5 if promoted else 1.0)


def test_defaults_fill_promote_and_evict_as_the_paper_says() -> None:
    memory, model = SlowFastMemory(SlowFast(tau=1.0), SHAPE, F), Model()
    for _ in range(20):
        model.advance(memory, 0.5)
    row = memory.snapshot().layer_slots[0]
    assert row == (0, 1, 2, *range(24, 58, 3), 54, 55, 56, 57, 58, 59)
    assert memory.state.report.promoted == (57,) and memory.state.report.evicted == (21,)
    positions = {entry.position for entry in memory.snapshot().entries}
    assert positions == set(range(21))


def test_nothing_new_promotes_nothing() -> None:
    memory, model = SlowFastMemory(SlowFast(tau=0.95), SHAPE, F), Model()
    for _ in range(12):
        model.advance(memory, 1.0)
    assert memory.snapshot().layer_slots[0] == (*range(15), *range(30, 36))
    assert memory.state.report.similarities == pytest.approx((1.0, 1.0))


def test_slow_memory_that_is_all_pinned_takes_nothing() -> None:
    rule = Rule(0, 2, 6)
    lanes = Lanes(slow=(Cell(1, 3), Cell(2, 6)))
    assert promote(rule, lanes, Cell(3, 9, promoted_at=3), frozenset({3, 6})) == lanes
    memory, model = SlowFastMemory(SlowFast(sink=0, slow=2, tau=1.0), SHAPE, F), Model()
    for _ in range(5):
        model.advance(memory, 0.5)
    held = [cell.latent for cell in memory.state.lanes[0].slow]
    for latent in held:
        memory.pin(latent)
    with pytest.raises(ValueError, match="unpin one"):
        memory.pin(13)
    model.advance(memory, 0.5)
    assert [cell.latent for cell in memory.state.lanes[0].slow] == held


def test_absolute_positions_end_with_the_table() -> None:
    memory = SlowFastMemory(POLICIES["fifo"](), SHAPE, F, most_positions=30)
    assert memory.room() == 10
    with pytest.raises(ValueError, match="bounded"):
        memory.check_room(11)
    assert SlowFastMemory(SlowFast(), SHAPE, F).room() is None


def test_pool_windows_divide_the_grid() -> None:
    assert pool_window(30, 52, 4) == (2, 2) and pool_window(30, 52, 8) == (2, 4)
    assert pool_window(5, 8, 2) == (1, 2) and pool_window(5, 7, 8) in {(1, 7), (5, 1), (1, 1)}


@given(policies)
def test_policies_survive_their_dictionaries(policy: Policy) -> None:
    assert policy_from_dict(policy_to_dict(policy)) == policy
    check_policy(policy, F)


def test_policies_refuse_nonsense() -> None:
    assert surprisal(0.75) == 0.25
    for bad in ({"policy": "magic"}, {"policy": "slow_fast", "window": 3}):
        with pytest.raises(ValueError, match="expected"):
            policy_from_dict(bad)
    wrong = (
        SlowFast(sink=-1),
        SlowFast(tau=1.01),
        SlowFast(fast=2),
        SlowFast(timing="as_released"),
        replace(SlowFast(), slow=2.5),  # type: ignore[arg-type]
        replace(SlowFast(), gate="maybe"),  # type: ignore[arg-type]
        POLICIES["uniform"](every=0),
        POLICIES["sink_window"](sink=12, window=12),
        SlowFast(slow=2000),
    )
    for policy in wrong:
        with pytest.raises(ValueError, match=policy.name):
            check_policy(policy, F)
    assert policy_from_dict({"tau": 0.5}, SlowFast(slow=4)) == SlowFast(slow=4, tau=0.5)
    assert policy_from_dict({"policy": "fifo"}, SlowFast(slow=4)).name == "fifo"
