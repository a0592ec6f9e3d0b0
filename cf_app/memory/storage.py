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


def to_parts(memory: SlowFastMemory) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and data that ``json.dumps`` takes. Both are copies. Evictions can not be taken back later."""
    state = memory.state
    tensors: dict[str, Tensor] = {}
    for layer, row in enumerate(state.lanes):
        for write in {cell.write for cell in row}:
            key, value = memory.contents(layer, write)
            tensors[f"memory.{layer}.{write}.key"] = key.clone()
            tensors[f"memory.{layer}.{write}.value"] = value.clone()
    for latent, clean in state.latents.items():
        tensors[f"latent.{latent}"] = clean.clone()
    for layer, pooled in enumerate(state.references or ()):
        tensors[f"reference.{layer}"] = pooled.clone()
    data = {
        "policy": policy_to_dict(memory.policy),
        "seen": state.seen,
        "origin": state.origin,
        "cut": state.cut,
        "pins": sorted(state.pins),
        "report": asdict(state.report),
        "lanes": [[[asdict(cell) for cell in lane] for lane in (row.sink, row.slow, row.fast)] for row in state.lanes],
    }
    return tensors, data


def restore(memory: SlowFastMemory, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
    """Make ``memory``, new and of the right model, what it was when ``to_parts`` took it.

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
        rows.append(next((earlier for earlier in rows if earlier == row), row))
    references = [tensors[name] for name in (f"reference.{layer}" for layer in range(shape.layers)) if name in tensors]
    latents = {int(name.split(".")[1]): tensor for name, tensor in tensors.items() if name.startswith("latent.")}
    done = data["report"]
    report = Report(done["chunk"], tuple(done["similarities"]), tuple(done["promoted"]), tuple(done["evicted"]))
    memory.policy, memory.rule, memory.cache = policy, rule, cache
    memory.state = replace(
        MemoryState(tuple(rows)),
        seen=data["seen"],
        origin=data["origin"],
        cut=data["cut"],
        pins=frozenset(data["pins"]),
        references=tuple(pooled.to(shape.device) for pooled in references) or None,
        latents={latent: tensor.to(shape.device) for latent, tensor in latents.items()},
        report=report,
    )


def _lanes(lanes: Sequence[Sequence[Mapping[str, Any]]], ids: dict[int, int]) -> Lanes:
    cells = []
    for lane in lanes:
        row = []
        for cell in lane:
            write = ids.setdefault(cell["write"], new_write())
            row.append(Cell(**{**cell, "write": write}))
        cells.append(tuple(row))
    return Lanes(*cells)
