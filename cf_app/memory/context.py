"""What the passes of one chunk read and leave behind. A scratch place: nothing here is memory until it is committed.

A ``KVContext`` for the attention processors: takes keys before RoPE, hands out what the chunk may attend to, and keeps
what the last pass made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cf_app.memory.kv_cache import KV, KVShape, Workspace, new_write
from cf_app.memory.lanes import Cell, Lanes, Read, eligible, kept, promote, read
from cf_app.memory.policy import Rule, surprisal
from cf_app.memory.state import MemoryState, map_layers
from cf_app.model.rope import rope_table, rotate

Source = Callable[[int, int], KV]


def query_table(shape: KVShape, positions: Sequence[int]) -> Tensor:
    """Rotation of whole latent frames at ``positions``."""
    return rope_table(shape.head_dim, list(positions), shape.rows, shape.columns, device=shape.device)


def pooled_keys(keys: Tensor) -> Tensor:
    """Mean of normed, not rotated keys [B, n, H, D] over their tokens, heads side by side: float32 [B, H * D]."""
    return keys.detach().float().mean(1).flatten(1)


def similarity(pooled: Tensor, reference: Tensor) -> Tensor:
    """Cosine similarity of pooled keys, mean over the batch (Context Forcing, eq. 7 and released code)."""
    return F.cosine_similarity(pooled, reference, dim=-1).mean()


class ChunkContext:
    """Context of one chunk: the memory's cells at their positions, then the chunk itself.

    Attributes:
        lanes: per layer what is read; "as_released" promotions change it between passes.
        keys, values: per layer what the last pass made, [B, frames * T, H, D], keys not rotated.
        pooled: per layer pooled keys of the last pass.
        similarities: [pass][layer], of passes whose keys were compared with a reference.
        promoted_by: per layer the pass that promoted the chunk's first latent frame, None if none did.
        writes: "as_released" promotions: (layer, write id) -> keys and values of one latent frame.
    """

    mask: Tensor | None = None

    def __init__(
        self, rule: Rule, state: MemoryState, frames: int, prompt: str, chunk: int, workspace: Workspace, source: Source
    ) -> None:
        self.rule, self.state, self.frames, self.prompt, self.chunk = rule, state, frames, prompt, chunk
        self.shape = workspace.shape
        self.batch = self.shape.batch
        self._workspace, self._source = workspace, source
        layers = self.shape.layers
        self.lanes: list[Lanes] = map_layers(lambda lanes: kept(rule, lanes, state.seen, frames), state.lanes)
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.pooled: list[Tensor | None] = list(state.references or (None,) * layers)
        self.similarities: list[list[float | Tensor | None]] = []
        self.promoted_by: list[int | None] = [None] * layers
        self.writes: dict[tuple[int, int], KV] = {}
        self._pass, self._clean = -1, False
        workspace.reserve((rule.slots + 1) * self.shape.tokens)
        placed = dict(zip(map(id, self.lanes), map_layers(self._read, self.lanes), strict=True))
        self._reads = [placed[id(lanes)][0] for lanes in self.lanes]
        self.positions = placed[id(self.lanes[0])][1]
        self.query_rope = query_table(self.shape, self.positions)
        if not workspace.lean:
            for layer in range(layers):
                workspace.fill(layer, self._reads[layer], source)

    def _read(self, lanes: Lanes) -> tuple[list[Read], list[int]]:
        state = self.state
        return read(self.rule, lanes, state.seen, self.frames, state.origin, state.cut)

    def begin(self, index: int, *, clean: bool = False) -> None:
        """Say which pass comes next. ``clean``: it is the one whose keys and values are kept."""
        self._pass, self._clean = index, clean
        self.similarities.append([None] * self.shape.layers)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> KV:
        """See ``KVContext``."""
        self.keys[layer], self.values[layer] = key, value
        if self._clean or self.rule.timing == "as_released":
            self._compare(layer, key, value)
        # Costs something only where the workspace is lean or a promotion has changed what is read.
        offset = self._workspace.fill(layer, self._reads[layer], self._lookup)
        return self._workspace.extend(layer, offset, rotate(key, self.query_rope), value)

    def _compare(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Similarity to the reference; the pooled key becomes the next reference."""
        rule, reference = self.rule, self.pooled[layer]
        self.pooled[layer] = pooled = pooled_keys(key)
        may = eligible(rule, self.state.seen, self.frames)
        if rule.timing == "clean":
            # Compared for every policy: the curve is worth seeing even where nothing is promoted.
            if reference is not None:
                self.similarities[-1][layer] = similarity(pooled, reference)
        elif may and rule.gate == "sim":
            if reference is None:
                return
            value_now = similarity(pooled, reference).item()
            self.similarities[-1][layer] = value_now
            if value_now < rule.tau:
                self._promote(layer, key, value, surprisal(value_now))
        elif may and rule.gate == "uniform" and self.state.seen % rule.interval == 0:
            self._promote(layer, key, value, None)

    def _promote(self, layer: int, key: Tensor, value: Tensor, surprise: float | None) -> None:
        """Copy the first latent frame as this pass made it into slow memory; once per chunk and layer."""
        if self.promoted_by[layer] is not None:
            return
        tokens = self.shape.tokens
        cell = Cell(new_write(), self.state.origin + self.state.seen, self.prompt, self._pass, self.chunk, surprise)
        self.writes[layer, cell.write] = (key[:, :tokens].detach().clone(), value[:, :tokens].detach().clone())
        self.lanes[layer] = promote(self.rule, self.lanes[layer], cell, self.state.pins)
        self.promoted_by[layer] = self._pass
        self._reads[layer] = self._read(self.lanes[layer])[0]

    def _lookup(self, layer: int, write: int) -> KV:
        return self.writes[layer, write] if (layer, write) in self.writes else self._source(layer, write)

    def clean_similarities(self) -> list[float]:
        """Per layer, of the last pass; empty when there was no reference. One fetch from the device."""
        if not self.similarities or any(not isinstance(value, Tensor) for value in self.similarities[-1]):
            return []
        stacked: list[float] = torch.stack([v for v in self.similarities[-1] if isinstance(v, Tensor)]).tolist()
        return stacked
