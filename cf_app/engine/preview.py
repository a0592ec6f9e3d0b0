"""The memory after a first chunk, known before its clean pass has run.

The first chunk after the start (or after a reset) has nothing to be compared with and can not be promoted, so where its
latent frames will live follows from counts alone. Its pictures need not wait for the clean pass.
"""

from __future__ import annotations

from dataclasses import replace

from cf_app.memory.context import ChunkContext
from cf_app.memory.lanes import Cell, append
from cf_app.memory.manager import SlowFastMemory
from cf_app.memory.snapshot import MemorySnapshot
from cf_app.memory.state import Report, map_layers
from cf_app.memory.views import snapshot


def first_snapshot(memory: SlowFastMemory, context: ChunkContext) -> MemorySnapshot | None:
    """What ``memory.snapshot()`` will say once ``context`` is committed, but for milliseconds; None if it is not known.

    Known where nothing has been seen since the start or the last reset, and nothing left by hand.
    """
    state, rule = context.state, memory.rule
    if state.seen or state.removed or any(len(row) for row in state.lanes):
        return None
    made_by = len(context.similarities)  # the clean pass comes after those that have begun
    cells = [Cell(0, state.origin + index, context.prompt, made_by) for index in range(memory.frames)]
    lanes = tuple(map_layers(lambda row: append(rule, row, cells, 0), context.lanes))
    lasting = {cell.latent for row in memory.state.lanes for cell in (*row.sink, *row.slow)}
    if lasting:
        return None  # a reset: what leaves is reported by the commit
    after = replace(state, lanes=lanes, seen=memory.frames, pins=frozenset(), report=Report(context.chunk))
    return snapshot(memory.policy, rule, after, memory.frames, memory.cache.bytes_held, 0.0)
