"""How much a chunk looks at each latent frame that it may read: attention mass, from a sample of its queries.

Cost: the scores of ``QUERIES`` queries against all keys, in every layer of one pass of a chunk, without values. A chunk
of the real 1.3B student has 4,680 queries in each of five passes, so that is about 0.3 % of its attention scores.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from cf_app.memory.context import ChunkContext
from cf_app.memory.kv_cache import pool_window
from cf_app.memory.lanes import Lanes, read
from cf_app.memory.snapshot import LANES, AttentionView

QUERIES = 64  # per layer, evenly over the chunk's tokens
DIGITS = 5


class AttentionProbe:
    """Looks at one pass of ``context``; ``watch`` goes into a ``WatchedContext``.

    Attributes:
        ms: milliseconds that it took, on the host.
    """

    def __init__(self, context: ChunkContext, queries: int = QUERIES) -> None:
        self._context, self._queries = context, queries
        self._mass: list[Tensor] = []
        self._cells: list[list[tuple[str, int]]] = []
        self._spans: dict[Lanes, tuple[list[tuple[str, int]], list[int]]] = {}
        self.ms = 0.0

    def watch(self, layer: int, query: Tensor, keys: Tensor) -> None:
        """Rotated queries [B, Tq, H, D] and keys [B, Tk, H, D] of a layer; layers in order."""
        begun = time.perf_counter()
        assert layer == len(self._mass)
        cells, tokens = self._layout(self._context.lanes[layer])
        sample = torch.linspace(0, query.shape[1] - 1, min(self._queries, query.shape[1]), device=query.device).long()
        few, wide = query[:, sample].transpose(1, 2), keys.permute(0, 2, 3, 1)
        scores = (few @ wide).float() * query.shape[-1] ** -0.5
        shares = scores.softmax(-1).mean((0, 1, 2))
        spans = [*tokens, keys.shape[1] - sum(tokens)]
        self._mass.append(torch.stack([part.sum() for part in shares.split(spans)])[:-1])
        self._cells.append(cells)
        self.ms += 1000 * (time.perf_counter() - begun)

    def _layout(self, lanes: Lanes) -> tuple[list[tuple[str, int]], list[int]]:
        """(lane, latent frame) and number of tokens of every cell, in the order in which they are read."""
        if lanes not in self._spans:
            state, rule, shape = self._context.state, self._context.rule, self._context.shape
            reads, _ = read(rule, lanes, state.seen, self._context.frames, state.origin, state.cut)
            names = [LANES[0]] * len(lanes.sink) + [LANES[1]] * len(lanes.slow) + [LANES[2]] * len(lanes.fast)
            windows = [pool_window(shape.rows, shape.columns, item.pool) for item in reads]
            tokens = [shape.tokens // (rows * columns) for rows, columns in windows]
            cells = [(name, item.cell.latent) for name, item in zip(names, reads, strict=True)]
            self._spans[lanes] = cells, tokens
        return self._spans[lanes]

    def views(self) -> tuple[AttentionView, ...]:
        """In slot order; what a layer lacks gets 0 there. One fetch from the device."""
        layers = len(self._mass)
        values = iter(torch.cat(self._mass).tolist() if self._mass else ())
        found: dict[tuple[str, int], list[float]] = {}
        for layer, cells in enumerate(self._cells):
            for cell in cells:
                found.setdefault(cell, [0.0] * layers)[layer] += next(values)
        order = sorted(found, key=lambda cell: (LANES.index(cell[0]), cell[1]))
        return tuple(AttentionView(*cell, tuple(round(mass, DIGITS) for mass in found[cell])) for cell in order)
