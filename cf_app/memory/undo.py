"""Evictions by hand can be taken back: what was evicted is kept aside for a while, in main memory. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from cf_app.memory.lanes import Cell, Lanes, promote
from cf_app.memory.policy import Rule
from cf_app.memory.snapshot import LANES
from cf_app.memory.state import MemoryState, Removed

KEPT = 3  # latent frames; the real 1.3B student has 274 MiB of keys and values for each


def with_removed(state: MemoryState, latent: int) -> dict[int, Removed]:
    """``state.removed`` with ``latent``, which is still in ``state.lanes``. The oldest one goes when there are many."""
    places = tuple(
        tuple(
            (name, index, cell)
            for name in LANES
            for index, cell in enumerate(lane_of(row, name))
            if cell.latent == latent
        )
        for row in state.lanes
    )
    others = [(key, value) for key, value in state.removed.items() if key != latent]
    return dict([*others, (latent, Removed(places))][-KEPT:])


def lane_of(lanes: Lanes, name: str) -> tuple[Cell, ...]:
    """The lane of that name."""
    return {"sink": lanes.sink, "slow": lanes.slow, "fast": lanes.fast}[name]


def kept_aside(
    removed: Mapping[int, Removed], source: Callable[[int, int], tuple[Tensor, Tensor]]
) -> dict[int, Removed]:
    """The same with contents, copied out of the cache before that frees them."""
    return {latent: replace(item, contents=_contents(item, source)) for latent, item in removed.items()}


def _contents(
    item: Removed, source: Callable[[int, int], tuple[Tensor, Tensor]]
) -> Mapping[tuple[int, int], tuple[Tensor, Tensor]]:
    if item.contents is not None:
        return item.contents
    cells = ((layer, cell) for layer, places in enumerate(item.cells) for _, _, cell in places)
    return {(layer, cell.write): _to_cpu(source(layer, cell.write)) for layer, cell in cells}


def news(removed: Mapping[int, Removed]) -> tuple[dict[int, Removed], set[int]]:
    """The same as told, and what had not been told yet."""
    told = {latent: replace(item, told=True) for latent, item in removed.items()}
    return told, {latent for latent, item in removed.items() if not item.told}


def _to_cpu(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    key, value = (tensor.detach().to("cpu", copy=True) for tensor in pair)
    return key, value


def restored(rule: Rule, state: MemoryState, latent: int) -> MemoryState:
    """The state with ``latent`` back where it was.

    Contents that have left the cache wait in ``pending`` for the next commit.

    Raises:
        ValueError: see ``SlowFastMemory.restore``.
    """
    if latent not in state.removed:
        known = ", ".join(map(str, state.removed)) or "none"
        raise ValueError(
            f"latent frame {latent} can not be brought back, the last ones evicted by hand are {known}: "
            f"only {KEPT} are kept aside, until the memory is reset"
        )
    item = state.removed[latent]
    oldest = state.origin + state.seen - rule.fast
    pairs = zip(state.lanes, item.cells, strict=True)
    lanes = tuple(_put_back(rule, row, places, state.pins, oldest) for row, places in pairs)
    if lanes == state.lanes:
        raise ValueError(f"latent frame {latent} has no place any more: its turn is over, or all slow slots are pinned")
    removed = {key: value for key, value in state.removed.items() if key != latent}
    return replace(state, lanes=lanes, removed=removed, pending={**state.pending, **(item.contents or {})})


def _put_back(
    rule: Rule, lanes: Lanes, places: tuple[tuple[str, int, Cell], ...], pins: frozenset[int], oldest: int
) -> Lanes:
    for name, index, cell in places:
        if name == "slow" and len(lanes.slow) >= rule.slow > 0:
            # Only a promoted cell may push another one out; as pinned it could not be the one that leaves.
            lanes = promote(rule, lanes, cell, pins) if cell.promoted_at is not None else lanes
            continue
        row = list(lane_of(lanes, name))
        room = {"sink": rule.sink, "slow": rule.slow, "fast": rule.fast}[name] - len(row)
        if room <= 0 or (name == "fast" and cell.latent < oldest):
            continue
        row.insert(index, cell)
        if name != "slow" or rule.timing == "clean":
            row.sort(key=lambda held: held.latent)
        lanes = _with_lane(lanes, name, tuple(row))
    return lanes


def _with_lane(lanes: Lanes, name: str, cells: tuple[Cell, ...]) -> Lanes:
    if name == "sink":
        return replace(lanes, sink=cells)
    return replace(lanes, slow=cells) if name == "slow" else replace(lanes, fast=cells)
