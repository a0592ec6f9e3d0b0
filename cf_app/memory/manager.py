"""The memory of a session: an immutable state, a cache for its contents, and the only places that change them.

A step reads ``state``, may switch it (``switched``, ``recache``), makes a ``context`` from it, runs its passes, and
hands the context to ``commit``. Until then nothing has changed, so a step that fails has no effect.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from cf_app.memory import undo
from cf_app.memory.context import ChunkContext, Source
from cf_app.memory.fit import check_fit
from cf_app.memory.kv_cache import KV, KVCache, KVShape, new_write
from cf_app.memory.lanes import Cell, Lanes, append, conformed, eligible, flushed, promote, without
from cf_app.memory.policy import Policy, Rule, check_policy, surprisal
from cf_app.memory.recache import RecacheContext
from cf_app.memory.snapshot import MemorySnapshot
from cf_app.memory.state import MemoryState, Report, map_layers
from cf_app.memory.views import snapshot
from cf_app.memory.workspace import Workspace


class SlowFastMemory:
    """Sink, slow and fast memory.

    Args:
        policy: one of ``policy.POLICIES``.
        shape: sizes of the model's keys and values.
        frames: latent frames of a chunk.
        most_positions: RoPE time indices that the model has.

    Raises:
        ValueError: from ``check_policy``.
    """

    def __init__(self, policy: Policy, shape: KVShape, frames: int, most_positions: int = 1024) -> None:
        self.rule: Rule = check_policy(policy, frames, most_positions)
        self.policy, self.shape, self.frames, self.most_positions = policy, shape, frames, most_positions
        self.cache = KVCache(shape, self.rule.slots)
        self.state = MemoryState((Lanes(),) * shape.layers)

    # Before a chunk

    def room(self) -> int | None:
        """Chunks until the positions end; None for bounded positional encoding."""
        if self.rule.positions == "slot":
            return None
        return (self.most_positions - self.state.seen) // self.frames

    def check_room(self, chunks: int = 1) -> None:
        """Raise ValueError if ``chunks`` more do not fit into the model's positions."""
        room = self.room()
        if room is not None and chunks > room:
            raise ValueError(
                f"{chunks} more chunks need positions beyond the model's {self.most_positions}, there is room for "
                f"{room}: choose a policy with bounded positions instead of {self.policy.name}, or reset the memory"
            )

    def switched(self, mode: str, state: MemoryState | None = None) -> MemoryState:
        """The state after a change of prompt without a pass: "keep" and "recache" leave it, "flush", "reset"."""
        state = self.state if state is None else state
        end = state.origin + state.seen
        if mode == "flush":
            lanes = tuple(map_layers(lambda row: flushed(self.rule, row, state.seen), state.lanes))
            return replace(state, lanes=lanes, cut=end if self.rule.cut else -1, pins=state.pins & _held(lanes))
        if mode == "reset":
            return MemoryState((Lanes(),) * self.shape.layers, origin=end, report=state.report)
        return state

    def recache(self, state: MemoryState, prompt: str, made_by: int, workspace: Workspace) -> RecacheContext:
        """A context that makes the memory again under ``prompt``; see ``recache.py``."""
        return RecacheContext(self.rule, state, prompt, made_by, workspace, self._source(state))

    def context(self, state: MemoryState, prompt: str, chunk: int, workspace: Workspace) -> ChunkContext:
        """What the passes of the next chunk may read, and a scratch place for what they make."""
        whole = self.cache.read_all
        return ChunkContext(self.rule, state, self.frames, prompt, chunk, workspace, self._source(state), whole)

    def contents(self, layer: int, write: int) -> KV:
        """Keys (not rotated) and values of a cell, each [B, T, H, D]; not to be written to."""
        return self._source(self.state)(layer, write)

    def _source(self, state: MemoryState) -> Source:
        cache, pending = self.cache, state.pending

        def source(layer: int, write: int) -> KV:
            held = pending.get((layer, write))
            if held is None:
                return cache.read(layer, write)
            return held[0].to(self.shape.device), held[1].to(self.shape.device)

        return source

    # After a chunk

    def commit(self, context: ChunkContext, latents: Tensor) -> None:
        """Make what the context's last pass left part of the memory. The only place where the cache changes.

        Args:
            latents: clean latents of the chunk, [B, C, F, Y, X].
        """
        state, rule = context.state, self.rule
        made_by = len(context.similarities) - 1
        start = state.origin + state.seen
        cells = [Cell(new_write(), start + i, context.prompt, made_by) for i in range(self.frames)]
        context.settle()
        similarities, promotes = self._decide(context)
        lanes = self._taken_in(context, cells, promotes)
        removed, by_hand = undo.news(undo.kept_aside(state.removed, self._source(state)))
        self._store(context, lanes, cells)
        held = _held(lanes)
        promoted = any(cell.latent == start and cell.promoted_at is not None for row in lanes for cell in row.slow)
        lasting = {cell.latent for row in state.lanes for cell in (*row.sink, *row.slow)}
        left = tuple(sorted((lasting | by_hand) - held))
        report = Report(context.chunk, similarities, (start,) if promoted else (), left)
        recent = range(start + self.frames - max(rule.slots, self.frames), start)
        clean = {index: latent for index, latent in state.latents.items() if index in held or index in recent}
        clean.update({start + i: latents[:, :, i].detach().clone() for i in range(self.frames)})
        pooled = tuple(pooled for pooled in context.pooled if pooled is not None)
        self.state = replace(
            state,
            lanes=lanes,
            seen=state.seen + self.frames,
            references=pooled if len(pooled) == self.shape.layers else None,
            pins=state.pins & held,
            pending={},
            removed=removed,
            latents=clean,
            report=report,
        )

    def _decide(self, context: ChunkContext) -> tuple[tuple[float, ...], list[float | None]]:
        """Similarities to report, and per layer the surprisal of a "clean" promotion (None: not promoted)."""
        rule, layers = self.rule, self.shape.layers
        none: list[float | None] = [None] * layers
        if rule.timing == "as_released":
            columns = [[row[layer] for row in context.similarities] for layer in range(layers)]
            numbers = [[value for value in column if isinstance(value, float)] for column in columns]
            return (tuple(min(column) for column in numbers) if all(numbers) else ()), none
        similarities = [value for value in (context.similarities or [[]])[-1] if isinstance(value, float)]
        if not eligible(rule, context.state.seen, self.frames) or not similarities or rule.gate == "none":
            return tuple(similarities), none
        if rule.decision == "shared":
            similarity = sum(similarities) / layers
            decided = [similarity] * layers
        else:
            decided = similarities
        if rule.gate == "uniform":
            due = context.state.seen % rule.interval == 0
            return tuple(similarities), [surprisal(value) if due else None for value in decided]
        return tuple(similarities), [surprisal(value) if value < rule.tau else None for value in decided]

    def _taken_in(self, context: ChunkContext, cells: list[Cell], promotes: list[float | None]) -> tuple[Lanes, ...]:
        """Lanes with the chunk in them. Layers with equal lanes and decisions share the result."""
        results: dict[tuple[int, float | None], Lanes] = {}
        for lanes, surprise in zip(context.lanes, promotes, strict=True):
            key = (id(lanes), surprise)
            if key in results:
                continue
            after = append(self.rule, lanes, cells, context.state.seen)
            if surprise is not None:
                cell = replace(cells[0], promoted_at=context.chunk, surprisal=surprise)
                after = promote(self.rule, after, cell, context.state.pins)
            results[key] = after
        return tuple(results[id(lanes), surprise] for lanes, surprise in zip(context.lanes, promotes, strict=True))

    def _store(self, context: ChunkContext, lanes: tuple[Lanes, ...], cells: list[Cell]) -> None:
        """Free what is not wanted any more and write what is new, for all layers at once where they agree."""
        wanted = map_layers(lambda row: frozenset(cell.write for cell in row), lanes)
        for layer, writes in enumerate(wanted):
            self.cache.retain(layer, writes)
        common = frozenset.intersection(*wanted)
        with torch.no_grad():
            fresh = {cell.write: index for index, cell in enumerate(cells)}
            self.cache.store_all({write: self._part(context, at) for write, at in fresh.items() if write in common})
            for layer, writes in enumerate(wanted):
                missing = [write for write in sorted(writes) if not self.cache.holds(layer, write)]
                if missing:
                    new = {write: self._made(context, layer, write, fresh) for write in missing}
                    self.cache.store(layer, writes, new)

    def _part(self, context: ChunkContext, index: int) -> tuple[list[Tensor], list[Tensor]]:
        """A latent frame of the chunk: keys and values of every layer."""
        span = slice(index * self.shape.tokens, (index + 1) * self.shape.tokens)
        keys = [key[:, span] for key in context.keys if key is not None]
        values = [value[:, span] for value in context.values if value is not None]
        assert len(keys) == len(values) == self.shape.layers, "commit needs a pass"
        return keys, values

    def _made(self, context: ChunkContext, layer: int, write: int, fresh: dict[int, int]) -> KV:
        """Contents that are not in the cache yet."""
        if write in fresh:
            keys, values = self._part(context, fresh[write])
            return keys[layer], values[layer]
        if (layer, write) in context.writes:
            return context.writes[layer, write]
        return context.state.pending[layer, write]

    # Commands

    def pin(self, latent: int) -> None:
        """Never evict ``latent``; one that is only in fast memory goes into slow memory at once.

        Raises:
            ValueError: it is not in the memory, or slow memory has no room for another pinned one.
        """
        state, rule = self.state, self.rule
        self._check_held(latent)
        pins = state.pins | {latent}
        if any(all(cell.latent != latent for cell in row.sink) for row in state.lanes):
            in_slow = {pin for pin in state.pins if any(pin == c.latent for row in state.lanes for c in row.slow)}
            if len(in_slow - {latent}) >= rule.slow:
                raise ValueError(
                    f"latent frame {latent} can not be pinned: slow memory holds {rule.slow} and {len(in_slow)} are "
                    "pinned; unpin one, or make slow memory larger"
                )
        lanes = tuple(map_layers(lambda row: self._with_pinned(row, latent, pins), state.lanes))
        self.state = replace(state, lanes=lanes, pins=pins)

    def _with_pinned(self, lanes: Lanes, latent: int, pins: frozenset[int]) -> Lanes:
        if any(cell.latent == latent for cell in (*lanes.sink, *lanes.slow)):
            return lanes
        for cell in lanes.fast:
            if cell.latent == latent:
                return promote(self.rule, lanes, replace(cell, promoted_at=self.state.report.chunk), pins - {latent})
        return lanes

    def unpin(self, latent: int) -> None:
        """Undo ``pin``; ValueError if it is not pinned."""
        if latent not in self.state.pins:
            raise ValueError(f"latent frame {latent} is not pinned, pinned are {_listed(self.state.pins)}")
        self.state = replace(self.state, pins=self.state.pins - {latent})

    def evict(self, latent: int) -> None:
        """Drop ``latent`` from every lane and layer; ValueError if it is not there, or pinned. See ``restore``."""
        self._check_held(latent)
        if latent in self.state.pins:
            raise ValueError(f"latent frame {latent} is pinned, unpin it before evicting it")
        lanes = tuple(map_layers(lambda row: without(row, latent), self.state.lanes))
        self.state = replace(self.state, lanes=lanes, removed=undo.with_removed(self.state, latent))

    def restore(self, latent: int) -> None:
        """Undo ``evict``: back into its lane, in slow memory at the cost of what would have to leave next.

        Raises:
            ValueError: it was not evicted by hand, that was too long ago, or it has no place any more.
        """
        self.state = undo.restored(self.rule, self.state, latent)

    def _check_held(self, latent: int) -> None:
        held = _held(self.state.lanes)
        if latent not in held:
            raise ValueError(f"latent frame {latent} is not in the memory, which holds {_listed(held)}")

    def check_change(self, policy: Policy) -> Rule:
        """The rule of a policy that this memory could change to.

        Raises:
            ValueError: from ``check_policy``, or there is no room (``check_fit``).
        """
        rule = check_policy(policy, self.frames, self.most_positions)
        check_fit(rule, self.rule, self.state, self.shape)
        return rule

    def reconfigure(self, policy: Policy) -> None:
        """Change policy and sizes; what fits stays. ValueError from ``check_change``, nothing changes then."""
        rule = self.check_change(policy)
        origin, pins = self.state.origin, self.state.pins
        lanes = self.state.lanes
        if any(rule.__dict__[name] != self.rule.__dict__[name] for name in ("sink", "slow", "fast", "timing")):
            lanes = tuple(map_layers(lambda row: conformed(rule, row, origin, pins), lanes))
        removed = undo.kept_aside(self.state.removed, self._source(self.state))
        if rule.slots != self.rule.slots:
            self.cache = self.cache.clone(rule.slots, [[cell.write for cell in row] for row in lanes])
        self.policy, self.rule = policy, rule
        self.state = replace(self.state, lanes=lanes, pins=self.state.pins & _held(lanes), removed=removed)

    def fork(self) -> SlowFastMemory:
        """An independent copy."""
        other = SlowFastMemory(self.policy, self.shape, self.frames, self.most_positions)
        other.cache = self.cache.clone()
        other.state = self.state
        return other

    def snapshot(self, memory_ms: float = 0.0) -> MemorySnapshot:
        """Plain data for panels and exports."""
        return snapshot(self.policy, self.rule, self.state, self.frames, self.cache.bytes_held, memory_ms)


def _held(lanes: Iterable[Lanes]) -> frozenset[int]:
    return frozenset(cell.latent for row in lanes for cell in row)


def _listed(latents: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(latents))) or "none"
