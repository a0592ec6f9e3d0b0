"""Keys and values made again from clean latents, where a session has been carried to another process.

Chunk by chunk in the order of time, each under its own prompt and reading what came before it, as when it was first
made. While nothing has been evicted yet that is exact; afterwards a latent frame that was made in the company of others
that are gone is made without them. Noisy keys ("as_released" promotions) become clean ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cf_app.engine.timeline import Prompting, Timeline
from cf_app.memory.context import query_table
from cf_app.memory.kv_cache import KV, KVCache, new_write
from cf_app.memory.lanes import Cell, Lanes, Read, read, without
from cf_app.memory.manager import SlowFastMemory
from cf_app.memory.state import MemoryState, map_layers
from cf_app.model.rope import rotate

Pass = Callable[[Tensor, Prompting, "RebuildContext"], object]


class RebuildContext:
    """A ``KVContext`` for latent frames of one chunk: reads earlier cells of each layer, stores its own.

    Args:
        group: latent frames to run, rising.
        reads: per layer all cells at their positions.
        cache: holds the cells before ``group``, receives those of it.
    """

    mask: Tensor | None = None

    def __init__(self, group: list[int], reads: list[list[Read]], cache: KVCache) -> None:
        self.group, self.reads, self.cache, self.batch = group, reads, cache, cache.shape.batch
        spots: dict[int, int] = {}
        for row in reads:
            for item in row:
                spots.setdefault(item.cell.latent, item.position)
        self.query_rope = query_table(cache.shape, [spots[latent] for latent in group])

    def extend(self, layer: int, key: Tensor, value: Tensor) -> KV:
        """See ``KVContext``."""
        shape, own = self.cache.shape, {latent: index for index, latent in enumerate(self.group)}
        keys, values, new, kept = [], [], {}, []
        for item in self.reads[layer]:
            write = item.cell.write
            if item.cell.latent in own:
                start = own[item.cell.latent] * shape.tokens
                new[write] = (key[:, start : start + shape.tokens], value[:, start : start + shape.tokens])
            elif item.cell.latent < self.group[0]:
                raw, held = self.cache.read(layer, write)
                keys.append(rotate(raw, query_table(shape, [item.position])))
                values.append(held)
                kept.append(write)
        self.cache.store(layer, kept, new)
        return torch.cat((*keys, rotate(key, self.query_rope)), 1), torch.cat((*values, value), 1)


def rebuild(memory: SlowFastMemory, state: MemoryState, timeline: Timeline, run: Pass) -> None:
    """Make ``memory`` hold what ``state`` says.

    Args:
        memory: new, with the policy of ``state``.
        state: whose cells have no contents here; those whose clean latents are lost are left out.
        timeline: says what each chunk was asked to show.
        run: the clean pass (latents [B, C, F, Y, X], prompt, context) of the model.
    """
    lost = {cell.latent for row in state.lanes for cell in row if cell.latent not in state.latents}

    def found(row: Lanes) -> Lanes:
        for latent in lost:
            row = without(row, latent)
        return row

    lanes = _renamed(tuple(map_layers(found, state.lanes)))
    state = replace(state, lanes=lanes, pins=state.pins - lost)
    cache, frames = KVCache(memory.shape, memory.rule.slots), memory.frames
    placed = map_layers(lambda row: read(memory.rule, row, state.seen, 0, state.origin, state.cut)[0], state.lanes)
    chunks: dict[int, list[Cell]] = {}
    for cell in {cell.latent: cell for row in state.lanes for cell in row}.values():
        chunks.setdefault(cell.latent // frames, []).append(cell)
    now = timeline.prompt_at((state.origin + state.seen) // frames - 1) if chunks else None
    for chunk, cells in sorted(chunks.items()):
        group = sorted(cell.latent for cell in cells)
        asked = timeline.prompt_at(chunk)
        if now is not None and cells[0].prompt not in ("", asked.caption) and cells[0].prompt == now.caption:
            asked = now  # made again under a later prompt
        latents = torch.stack([state.latents[latent].to(memory.shape.device) for latent in group], 2)
        run(latents, asked, RebuildContext(group, placed, cache))
    memory.cache, memory.state = cache, state


def _renamed(lanes: tuple[Lanes, ...]) -> tuple[Lanes, ...]:
    """The same with write ids of this process; equal ids stay equal, and layers that share a row go on sharing it."""
    ids: dict[int, int] = {}

    def renew(row: Lanes) -> Lanes:
        rows = (
            tuple(replace(cell, write=ids.setdefault(cell.write, new_write())) for cell in lane)
            for lane in (row.sink, row.slow, row.fast)
        )
        return Lanes(*rows)

    return tuple(map_layers(renew, lanes))
