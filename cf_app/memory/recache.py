"""KV re-cache: what is remembered, made again under a new prompt (LongLive v1, section "KV re-cache").

Clean latent frames run once more at t = 0, all attending to each other without a mask. Protected cells (a global sink
once something has left the memory, promoted ones, pinned ones) are attended to and stay as they are.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cf_app.memory.context import Source, query_table
from cf_app.memory.kv_cache import KV, new_write
from cf_app.memory.lanes import Cell, Lanes, Read, read
from cf_app.memory.policy import Rule
from cf_app.memory.state import MemoryState, map_layers
from cf_app.memory.workspace import Workspace
from cf_app.model.rope import rotate


class RecacheContext:
    """A ``KVContext`` for the re-cache pass.

    Attributes:
        latents: latent frames to run, rising; empty if there is nothing to make again.
        positions: their RoPE time indices.
        lanes: per layer, with new write ids in place of the cells that are made again.
        writes: (layer, write id) -> keys and values of one latent frame.
    """

    mask: Tensor | None = None

    def __init__(
        self, rule: Rule, state: MemoryState, prompt: str, made_by: int, workspace: Workspace, source: Source
    ) -> None:
        self.rule, self.state, self.shape = rule, state, workspace.shape
        self.batch = self.shape.batch
        self._prompt, self._made_by, self._source = prompt, made_by, source
        # True once latent frames have left the memory. Before, the sink is made again like everything else.
        self._overflown = state.seen > rule.slots
        renew_all = self._overflown and not rule.global_sink
        lanes = map_layers(self._refilled, state.lanes) if renew_all else list(state.lanes)
        self._safe = map_layers(self._protected, lanes)
        self.latents = self._queries(lanes)
        self.lanes = map_layers(self._renewed, lanes)
        self.writes: dict[tuple[int, int], KV] = {}
        found = self._positions()
        self.positions = [found[latent] for latent in self.latents]
        self.query_rope = query_table(self.shape, self.positions)

    def _refilled(self, lanes: Lanes) -> Lanes:
        """The newest ``slots`` latent frames as if the video had begun with them: the first become the sink."""
        first = self.state.origin + self.state.seen - self.rule.slots
        cells = tuple(Cell(-1, latent) for latent in range(first, first + self.rule.slots))
        sink, slow = self.rule.sink, self.rule.sink + self.rule.slow
        return Lanes(cells[:sink], cells[sink:slow], cells[slow:])

    def _protected(self, lanes: Lanes) -> tuple[bool, ...]:
        """Per cell in slot order, whether it stays as it is. Cells without contents (write < 0) can not."""
        sink_stays = self.rule.global_sink and self._overflown
        pins = self.state.pins
        safe = [sink_stays or cell.latent in pins for cell in lanes.sink]
        safe += [cell.promoted_at is not None or cell.latent in pins for cell in lanes.slow]
        safe += [False] * len(lanes.fast)
        return tuple(stays and cell.write > 0 for stays, cell in zip(safe, lanes, strict=True))

    def _queries(self, lanes: list[Lanes]) -> list[int]:
        """Latent frames to run. LongLive runs the newest ``slots`` even where the sink keeps it from storing them."""
        state, rule = self.state, self.rule
        wanted = {
            cell.latent
            for row, safe in zip(lanes, self._safe, strict=True)
            for cell, stays in zip(row, safe, strict=True)
            if not stays
        }
        if rule.positions == "absolute" and rule.slow == 0 and wanted:
            end = state.origin + state.seen
            wanted |= set(range(end - min(rule.slots, state.seen), end))
        return sorted(wanted & set(state.latents))

    def _renewed(self, lanes: Lanes) -> Lanes:
        fresh = {latent: new_write() for latent in self.latents}

        def renew(cell: Cell, stays: bool) -> Cell:
            if stays or cell.latent not in fresh:
                return cell
            return Cell(fresh[cell.latent], cell.latent, self._prompt, self._made_by)

        cells = tuple(renew(*pair) for pair in zip(lanes, self._protected(lanes), strict=True))
        sink, slow = len(lanes.sink), len(lanes.sink) + len(lanes.slow)
        return Lanes(cells[:sink], cells[sink:slow], cells[slow:])

    def _reads(self, layer: int) -> list[Read]:
        state = self.state
        return read(self.rule, self.lanes[layer], state.seen, 0, state.origin, state.cut)[0]

    def _positions(self) -> dict[int, int]:
        """RoPE time index of every latent frame to run: where the first layer that stores it reads it."""
        if self.rule.positions == "absolute":
            return {latent: latent - self.state.origin for latent in self.latents}
        found: dict[int, int] = {}
        for layer in range(self.shape.layers):
            for item, stays in zip(self._reads(layer), self._safe[layer], strict=True):
                if not stays:
                    found.setdefault(item.cell.latent, item.position)
        return found

    def extend(self, layer: int, key: Tensor, value: Tensor) -> KV:
        """See ``KVContext``."""
        rotated, tokens = rotate(key, self.query_rope), self.shape.tokens
        keys, values = [], []
        for item, stays in zip(self._reads(layer), self._safe[layer], strict=True):
            cell = item.cell
            if stays or cell.latent not in self.latents:
                raw, held = self._source(layer, cell.write)
                keys.append(rotate(raw, query_table(self.shape, [item.position])))
                values.append(held)
                continue
            start = self.latents.index(cell.latent) * tokens
            span = slice(start, start + tokens)
            self.writes[layer, cell.write] = (key[:, span].detach().clone(), value[:, span].detach().clone())
            keys.append(rotated[:, span])
            values.append(value[:, span])
        return torch.cat(keys, 1), torch.cat(values, 1)

    def result(self) -> MemoryState:
        """The state with the cells made again; their contents wait in ``pending`` for the next commit."""
        return replace(self.state, lanes=tuple(self.lanes), pending={**self.state.pending, **self.writes})
