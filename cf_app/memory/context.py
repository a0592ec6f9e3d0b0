"""What the passes of one chunk read and leave behind. A scratch place: nothing here is memory until it is committed.

A ``KVContext`` for the attention processors: takes keys before RoPE, hands out what the chunk may attend to, and keeps
what the last pass made. No pass asks the device for a number: similarities are fetched once, after the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cf_app.memory.kv_cache import KV, KVShape, new_write
from cf_app.memory.lanes import Cell, Lanes, Read, eligible, kept, promote, read
from cf_app.memory.policy import Rule, surprisal
from cf_app.memory.snapshot import LANES
from cf_app.memory.state import MemoryState, map_layers
from cf_app.memory.swap import Trial, swap_of
from cf_app.memory.workspace import Workspace, pool_window
from cf_app.model.rope import rope_table

Source = Callable[[int, int], KV]
Whole = Callable[[int], KV | None]


def query_table(shape: KVShape, positions: Sequence[int]) -> Tensor:
    """Rotation of whole latent frames at ``positions``."""
    return rope_table(shape.head_dim, list(positions), shape.rows, shape.columns, device=shape.device)


def pooled_keys(keys: Tensor) -> Tensor:
    """Mean of normed, not rotated keys [B, n, H, D] over their tokens, heads side by side: float32 [B, H * D]."""
    return keys.detach().mean(1, dtype=torch.float32).flatten(1)


def similarity(pooled: Tensor, reference: Tensor) -> Tensor:
    """Cosine similarity of pooled keys, mean over the batch (Context Forcing, eq. 7 and released code)."""
    return F.cosine_similarity(pooled, reference, dim=-1).mean()


class ChunkContext:
    """Context of one chunk: the memory's cells at their positions, then the chunk itself.

    Attributes:
        lanes: per layer what is read; "as_released" promotions are in it once ``settle`` has asked for them.
        keys, values: per layer what the last pass made, [B, frames * T, H, D], keys not rotated.
        pooled: per layer pooled keys of the last pass.
        similarities: [pass][layer], of passes whose keys were compared with a reference; numbers after ``settle``.
        promoted_by: per layer the pass that promoted the chunk's first latent frame, None if none did; see ``settle``.
        writes: "as_released" promotions: (layer, write id) -> keys and values of one latent frame.
    """

    mask: Tensor | None = None

    def __init__(
        self,
        rule: Rule,
        state: MemoryState,
        frames: int,
        prompt: str,
        chunk: int,
        workspace: Workspace,
        source: Source,
        whole: Whole,
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
        self._replaced: dict[int, tuple[int, int]] = {}  # by layer: a place in the workspace, what came to lie there
        self._pass, self._clean = -1, False
        workspace.reserve((rule.slots + 1) * self.shape.tokens)
        placed = dict(zip(map(id, self.lanes), map_layers(self._read, self.lanes), strict=True))
        self._reads = [placed[id(lanes)][0] for lanes in self.lanes]
        self.positions = placed[id(self.lanes[0])][1]
        self.query_rope = query_table(self.shape, self.positions)
        self._trials = self._tried()
        workspace.fill_all(self._reads, source, whole)

    def _tried(self) -> dict[int, Trial]:
        """By layer, promotions that passes decide on the device."""
        rule, state = self.rule, self.state
        if rule.timing != "as_released" or rule.gate != "sim" or not eligible(rule, state.seen, self.frames):
            return {}
        unknown = Cell(new_write(), state.origin + state.seen, promoted_at=self.chunk)
        found: dict[int, Trial] = {}
        for layer, lanes in enumerate(self.lanes):
            after = promote(rule, lanes, unknown, state.pins)
            swap = swap_of(self._reads[layer], self._read(after)[0], unknown.write)
            if swap is not None:
                found[layer] = Trial.of(swap, self._reads[layer], unknown.write)
        return found

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
        decided = None
        if self._clean or self.rule.timing == "as_released":
            decided = self._compare(layer, key, value)
        trial, space = self._trials.get(layer), self._workspace
        # Costs something only where the workspace is lean, or another session has used it since the last pass.
        known = trial is not None and trial.done is not None and trial.known(space, layer)
        offset = space.fill(layer, trial.unsure if trial is not None and known else self._reads[layer], self._lookup)
        if trial is not None and decided is not None:
            trial.lay_out(space, layer, decided, space.table(trial.swap.position))
        return space.extend(layer, offset, space.rotate(key, self.query_rope), value)

    # For passes that are recorded, see ``model/graphs.py``

    def recording(self) -> Hashable | None:
        """What a recording of this pass depends on: where it writes, and whether it keeps what it made.

        None where layers decide for themselves what they read ("as_released"), where they read different amounts, or
        where the workspace is lean.
        """
        offsets = {sum(self.tokens_read(layer)) for layer in range(self.shape.layers)}
        decides = self.rule.timing == "as_released" and eligible(self.rule, self.state.seen, self.frames)
        if decides or self._workspace.lean or len(offsets) > 1:
            return None
        return self._workspace.address, offsets.pop(), self._keeps

    @property
    def _keeps(self) -> bool:
        return self._clean or self.rule.timing == "as_released"

    def prepare(self) -> None:
        """See ``Recordable``."""
        space = self._workspace
        if space.user is self:
            return
        for layer in range(self.shape.layers):
            offset = space.fill(layer, self._reads[layer], self._lookup)
            space.at(layer, offset, offset + self.frames * self.shape.tokens)  # nobody else's any more
        space.user = self

    def fixed(self, query_rope: Tensor) -> FixedContext:
        """See ``Recordable``."""
        offset = sum(self.tokens_read(0))
        kept = self._workspace.kept(self.frames * self.shape.tokens) if self._keeps else None
        return FixedContext(self._workspace, query_rope, offset, kept)

    def passed(self) -> None:
        """See ``Recordable``."""
        if self._keeps:
            kept = self._workspace.kept(self.frames * self.shape.tokens)
            for layer, (key, value) in enumerate(zip(*kept, strict=True)):
                self.keys[layer], self.values[layer] = key, value
                self._compare(layer, key, value)

    def _compare(self, layer: int, key: Tensor, value: Tensor) -> Tensor | None:
        """Similarity to the reference; the pooled key becomes the next reference.

        Returns:
            bool [], on the device: this pass promotes; None where that is not for the device to decide.
        """
        rule, reference = self.rule, self.pooled[layer]
        self.pooled[layer] = pooled = pooled_keys(key)
        may = eligible(rule, self.state.seen, self.frames)
        if rule.timing == "clean":
            # Compared for every policy: the curve is worth seeing even where nothing is promoted.
            if reference is not None:
                self.similarities[-1][layer] = similarity(pooled, reference)
        elif may and rule.gate == "sim" and reference is not None:
            self.similarities[-1][layer] = found = similarity(pooled, reference)
            if layer in self._trials:
                tokens = self.shape.tokens
                return self._trials[layer].decide(found.double() < rule.tau, key[:, :tokens], value[:, :tokens])
            number = found.item()  # slow memory has gaps, and what is read grows with a promotion
            if number < rule.tau:
                self._promote(layer, key, value, surprisal(number))
        elif may and rule.gate == "uniform" and self.state.seen % rule.interval == 0:
            self._promote(layer, key, value, None)
        return None

    def _promote(self, layer: int, key: Tensor, value: Tensor, surprise: float | None) -> None:
        """Copy the first latent frame as this pass made it into slow memory; once per chunk and layer."""
        if self.promoted_by[layer] is not None:
            return
        tokens = self.shape.tokens
        pair = (key[:, :tokens].detach().clone(), value[:, :tokens].detach().clone())
        self._take_up(layer, pair, self._pass, surprise)
        self._reads[layer] = self._read(self.lanes[layer])[0]

    def _take_up(self, layer: int, pair: KV, index: int, surprise: float | None) -> None:
        cell = Cell(new_write(), self.state.origin + self.state.seen, self.prompt, index, self.chunk, surprise)
        self.writes[layer, cell.write] = pair
        self.lanes[layer] = promote(self.rule, self.lanes[layer], cell, self.state.pins)
        self.promoted_by[layer] = index

    def settle(self) -> None:
        """Fetch what the passes have compared and decided, all at once; call it after the last pass."""
        found = [value for row in self.similarities for value in row if isinstance(value, Tensor)]
        if not found:
            return
        numbers = iter(torch.stack(found).tolist())
        for row in self.similarities:
            row[:] = [next(numbers) if isinstance(value, Tensor) else value for value in row]
        for layer, trial in self._trials.items():
            self._settle_one(layer, trial)
        self._trials = {}

    def _settle_one(self, layer: int, trial: Trial) -> None:
        column = [row[layer] for row in self.similarities]
        below = [(index, value) for index, value in enumerate(column) if isinstance(value, float)]
        by = next(((index, value) for index, value in below if value < self.rule.tau), None)
        trial.settle(self._workspace, layer, self._reads[layer], by is not None)
        if by is not None and trial.kept is not None:
            self._take_up(layer, trial.kept, by[0], surprisal(by[1]))
            newest = self.state.origin + self.state.seen
            self._replaced[layer] = (trial.swap.place, newest)

    def tokens_read(self, layer: int) -> list[int]:
        """Tokens of every cell, in the order in which they lie in the workspace."""
        windows = (pool_window(self.shape.rows, self.shape.columns, item.pool) for item in self._reads[layer])
        return [self.shape.tokens // (rows * columns) for rows, columns in windows]

    def cells_read(self, layer: int) -> list[tuple[str, int]]:
        """Lane and latent frame of every cell in that order, as the last pass read it; after ``settle``."""
        lanes = self.lanes[layer]
        names = [name for name, lane in zip(LANES, (lanes.sink, lanes.slow, lanes.fast), strict=True) for _ in lane]
        latents = [item.cell.latent for item in self._reads[layer]]
        if layer in self._replaced:
            place, latent = self._replaced[layer]
            latents[place] = latent
        return list(zip(names, latents, strict=True))

    def _lookup(self, layer: int, write: int) -> KV:
        return self.writes[layer, write] if (layer, write) in self.writes else self._source(layer, write)


class FixedContext:
    """A ``KVContext`` that reads and writes the same places in every pass, whatever lies there."""

    mask: Tensor | None = None

    def __init__(self, workspace: Workspace, query_rope: Tensor, offset: int, kept: KV | None) -> None:
        self.batch, self.query_rope = workspace.shape.batch, query_rope
        self._workspace, self._offset, self._kept = workspace, offset, kept

    def extend(self, layer: int, key: Tensor, value: Tensor) -> KV:
        """See ``KVContext``."""
        if self._kept is not None:
            self._kept[0][layer].copy_(key)
            self._kept[1][layer].copy_(value)
        space = self._workspace
        return space.extend(layer, self._offset, space.rotate(key, self.query_rope), value)
