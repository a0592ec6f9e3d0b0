"""How much a chunk looks at each latent frame that it may read: attention mass, from a sample of its queries.

Cost: the scores of ``QUERIES`` queries against all keys, in every layer of one pass of a chunk, without values. A chunk
of the real 1.3B student has 4,680 queries in each of five passes, so that is about 0.3 % of its attention scores.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from cf_app.memory.context import ChunkContext
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
        self.ms = 0.0

    def watch(self, layer: int, query: Tensor, keys: Tensor) -> None:
        """Rotated queries [B, Tq, H, D] and keys [B, Tk, H, D] of a layer; layers in order."""
        begun = time.perf_counter()
        assert layer == len(self._mass)
        tokens = self._context.tokens_read(layer)
        sample = torch.linspace(0, query.shape[1] - 1, min(self._queries, query.shape[1]), device=query.device).long()
        few, wide = query[:, sample].transpose(1, 2), keys.permute(0, 2, 3, 1)
        scores = (few @ wide).float() * query.shape[-1] ** -0.5
        shares = scores.softmax(-1).mean((0, 1, 2))
        spans = [*tokens, keys.shape[1] - sum(tokens)]
        self._mass.append(torch.stack([part.sum() for part in shares.split(spans)])[:-1])
        self.ms += 1000 * (time.perf_counter() - begun)

    def views(self) -> tuple[AttentionView, ...]:
        """In slot order; what a layer lacks gets 0 there. After the pass; fetches all at once."""
        self._context.settle()
        layers = len(self._mass)
        values = iter(torch.cat(self._mass).tolist() if self._mass else ())
        found: dict[tuple[str, int], list[float]] = {}
        for layer in range(layers):
            for cell in self._context.cells_read(layer):
                found.setdefault(cell, [0.0] * layers)[layer] += next(values)
        order = sorted(found, key=lambda cell: (LANES.index(cell[0]), cell[1]))
        return tuple(AttentionView(*cell, tuple(round(mass, DIGITS) for mass in found[cell])) for cell in order)
