"""From a memory's state to its snapshot."""

from __future__ import annotations

from cf_app.memory.lanes import Cell, eligible, read
from cf_app.memory.policy import Policy, Rule, policy_to_dict
from cf_app.memory.snapshot import LANES, EntryView, MemorySnapshot
from cf_app.memory.state import MemoryState, map_layers


def snapshot(
    policy: Policy, rule: Rule, state: MemoryState, frames: int, bytes_held: int, memory_ms: float
) -> MemorySnapshot:
    """The memory after its last commit as plain data; see ``MemorySnapshot``."""
    similarities = state.report.similarities
    return MemorySnapshot(
        chunk=state.report.chunk,
        policy=policy.name,
        sink=rule.sink,
        slow=rule.slow,
        fast=rule.fast,
        tau=rule.tau,
        timing=rule.timing,
        decision=rule.decision,
        layers=len(state.lanes),
        entries=_entries(rule, state, frames),
        layer_slots=tuple(map_layers(lambda lanes: lanes.slots(rule), state.lanes)),
        similarities=similarities,
        similarity=sum(similarities) / len(similarities) if similarities else None,
        promoted=state.report.promoted,
        evicted=state.report.evicted,
        bytes_held=bytes_held,
        memory_ms=memory_ms,
        gate=rule.gate,
        eligible=eligible(rule, state.seen - frames, frames),
        settings=policy_to_dict(policy),
    )


def _entries(rule: Rule, state: MemoryState, frames: int) -> tuple[EntryView, ...]:
    """One view per lane and latent frame; where layers differ, the first that holds it says slot and position."""
    found: dict[tuple[int, int], list[tuple[int, int, Cell]]] = {}
    starts = (0, rule.sink, rule.sink + rule.slow)
    for lanes in state.lanes:
        reads, _ = read(rule, lanes, state.seen, 0, state.origin, state.cut)
        sizes = (len(lanes.sink), len(lanes.slow), len(lanes.fast))
        places = [(lane, starts[lane] + index) for lane, size in enumerate(sizes) for index in range(size)]
        own: dict[tuple[int, int], tuple[int, int, Cell]] = {}
        for (lane, slot), item in zip(places, reads, strict=True):
            # "as_released" can hold a latent frame twice in slow memory, ordinary and promoted: the promoted one shows.
            if (lane, item.cell.latent) not in own or item.cell.promoted_at is not None:
                own[lane, item.cell.latent] = (slot, item.position, item.cell)
        for key, held in own.items():
            found.setdefault(key, []).append(held)
    views = [_view(lane, latent, held, state, frames) for (lane, latent), held in found.items()]
    return tuple(sorted(views, key=lambda view: (LANES.index(view.lane), view.slot, view.latent)))


def _view(lane: int, latent: int, held: list[tuple[int, int, Cell]], state: MemoryState, frames: int) -> EntryView:
    slot, position, cell = held[0]
    surprises = [cell.surprisal for _, _, cell in held if cell.surprisal is not None]
    promotions = [cell.promoted_at for _, _, cell in held if cell.promoted_at is not None]
    return EntryView(
        slot=slot,
        lane=LANES[lane],
        latent=latent,
        chunk=latent // frames,
        prompt=cell.prompt,
        surprisal=sum(surprises) / len(surprises) if surprises else None,
        promoted_at=min(promotions) if promotions else None,
        agreement=len(held),
        pinned=latent in state.pins,
        position=position,
    )
