"""A memory as tensors and plain data, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from cf_app.memory.kv_cache import KVCache, new_write
from cf_app.memory.lanes import Cell, Lanes
from cf_app.memory.manager import SlowFastMemory
from cf_app.memory.policy import check_policy, policy_from_dict, policy_to_dict
from cf_app.memory.state import MemoryState, Report


def tensors(memory: SlowFastMemory) -> dict[str, Tensor]:
    """Copies of all tensors by name."""
    state = memory.state
    named: dict[str, Tensor] = {}
    for layer, row in enumerate(state.lanes):
        for write in {cell.write for cell in row}:
            key, value = memory.contents(layer, write)
            named[f"memory.{layer}.{write}.key"] = key.clone()
            named[f"memory.{layer}.{write}.value"] = value.clone()
    for latent, clean in state.latents.items():
        named[f"latent.{latent}"] = clean.clone()
    for layer, pooled in enumerate(state.references or ()):
        named[f"reference.{layer}"] = pooled.clone()
    return named


def plain(memory: SlowFastMemory) -> dict[str, Any]:
    """All but the tensors, as data that ``json.dumps`` takes. Evictions can not be taken back later."""
    state = memory.state
    return {
        "policy": policy_to_dict(memory.policy),
        "seen": state.seen,
        "origin": state.origin,
        "cut": state.cut,
        "pins": sorted(state.pins),
        "report": asdict(state.report),
        "lanes": [[[asdict(cell) for cell in lane] for lane in (row.sink, row.slow, row.fast)] for row in state.lanes],
    }


def state_of(
    data: Mapping[str, Any], rows: Sequence[Lanes], references: Sequence[Tensor], latents: Mapping[int, Tensor]
) -> MemoryState:
    """The state that ``plain`` has described.

    Args:
        rows: lanes of every layer; equal ones become one.
        references: per layer pooled keys [B, H * D] of the last chunk; empty before the first.
        latents: latent frame -> clean latents [B, C, Y, X].
    """
    shared: list[Lanes] = []
    for row in rows:
        shared.append(next((earlier for earlier in shared if earlier == row), row))
    done = data["report"]
    return replace(
        MemoryState(tuple(shared)),
        seen=data["seen"],
        origin=data["origin"],
        cut=data["cut"],
        pins=frozenset(data["pins"]),
        references=tuple(references) or None,
        latents=dict(latents),
        report=Report(done["chunk"], *(tuple(done[name]) for name in ("similarities", "promoted", "evicted"))),
    )


def restore(memory: SlowFastMemory, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
    """Make ``memory``, new and of the right model, what it was when ``tensors`` and ``plain`` took it.

    Raises:
        ValueError, KeyError, TypeError: the parts are damaged or of another model.
    """
    shape = memory.shape
    policy = policy_from_dict(data["policy"])
    rule = check_policy(policy, memory.frames, memory.most_positions)
    if len(data["lanes"]) != shape.layers:
        raise ValueError(f"the memory has {len(data['lanes'])} layers, the model has {shape.layers}")
    cache = KVCache(shape, rule.slots)
    rows: list[Lanes] = []
    size = (shape.batch, shape.tokens, shape.heads, shape.head_dim)
    ids: dict[int, int] = {}  # write ids count anew in every process
    for layer, lanes in enumerate(data["lanes"]):
        row = _lanes(lanes, ids)
        new = {}
        for old in {cell["write"] for lane in lanes for cell in lane}:
            pair = tensors[f"memory.{layer}.{old}.key"], tensors[f"memory.{layer}.{old}.value"]
            if any(tuple(tensor.shape) != size for tensor in pair):
                raise ValueError(f"keys and values have shape {tuple(pair[0].shape)}, the model has {size}")
            new[ids[old]] = pair
        cache.store(layer, (), new)
        rows.append(row)
    references = [tensors[name] for name in (f"reference.{layer}" for layer in range(shape.layers)) if name in tensors]
    latents = {int(name.split(".")[1]): tensor for name, tensor in tensors.items() if name.startswith("latent.")}
    state = state_of(
        data,
        rows,
        [pooled.to(shape.device) for pooled in references],
        {latent: tensor.to(shape.device) for latent, tensor in latents.items()},
    )
    memory.policy, memory.rule, memory.cache, memory.state = policy, rule, cache, state


def _lanes(lanes: Sequence[Sequence[Mapping[str, Any]]], ids: dict[int, int]) -> Lanes:
    cells = []
    for lane in lanes:
        row = []
        for cell in lane:
            write = ids.setdefault(cell["write"], new_write())
            row.append(Cell(**{**cell, "write": write}))
        cells.append(tuple(row))
    return Lanes(*cells)
