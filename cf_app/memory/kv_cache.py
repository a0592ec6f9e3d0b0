"""Keys and values in preallocated slots. Knows nothing of policies, lanes or positions.

``KVCache`` belongs to a session: what it remembers, keys before RoPE. ``Workspace`` belongs to the engine and is
shared by all sessions: the same keys rotated for the chunk at hand and laid out without gaps, with room behind them for
the chunk's own. Contents go by *write ids*: equal ids mean equal contents, for ever, so the workspace copies and
rotates only what has changed since it was last filled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cf_app.memory.lanes import Read
from cf_app.model.rope import rope_table, rotate

KV = tuple[Tensor, Tensor]
_ids = itertools.count(1)


def new_write() -> int:
    """An id that no other contents have in this process."""
    return next(_ids)


@dataclass(frozen=True)
class KVShape:
    """Sizes of the keys and values of one model and batch.

    ``stored`` is the type that a session keeps them in, None for ``dtype``, which attention gets.
    """

    layers: int
    batch: int
    rows: int
    columns: int
    heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    stored: torch.dtype | None = None

    @property
    def tokens(self) -> int:
        """Tokens of a latent frame."""
        return self.rows * self.columns

    @property
    def latent_bytes(self) -> int:
        """Bytes of keys and values of one latent frame over all layers."""
        numbers = 2 * self.layers * self.batch * self.tokens * self.heads * self.head_dim
        return numbers * (self.stored or self.dtype).itemsize


class KVCache:
    """``slots`` latent frames per layer; a free slot is one whose contents nobody retains."""

    def __init__(self, shape: KVShape, slots: int) -> None:
        self.shape = shape
        self.slots = slots
        size = (shape.layers, slots, shape.batch, shape.tokens, shape.heads, shape.head_dim)
        self._keys = torch.empty(size, dtype=shape.stored or shape.dtype, device=shape.device)
        self._values = torch.empty_like(self._keys)
        self._slot: tuple[dict[int, int], ...] = tuple({} for _ in range(shape.layers))

    @property
    def bytes_held(self) -> int:
        """Bytes reserved."""
        return self.slots * self.shape.latent_bytes

    def holds(self, layer: int, write: int) -> bool:
        """Whether the contents are here."""
        return write in self._slot[layer]

    def read(self, layer: int, write: int) -> KV:
        """Keys (not rotated) and values, each [B, T, H, D]; not to be written to."""
        slot = self._slot[layer][write]
        return self._keys[layer, slot].to(self.shape.dtype), self._values[layer, slot].to(self.shape.dtype)

    def store(self, layer: int, retain: Iterable[int], new: Mapping[int, KV]) -> None:
        """Free everything but ``retain`` and write ``new`` into free slots."""
        table = self._slot[layer]
        keep = set(retain)
        for write in [write for write in table if write not in keep]:
            del table[write]
        used = set(table.values())
        free = (slot for slot in range(self.slots) if slot not in used)
        for write, (key, value) in new.items():
            assert write not in table
            slot = next(free)
            self._keys[layer, slot].copy_(self._limited(key))
            self._values[layer, slot].copy_(self._limited(value))
            table[write] = slot

    def _limited(self, x: Tensor) -> Tensor:
        """Within the range of 8-bit types, beyond which they say "not a number"."""
        kind = self._keys.dtype
        return x.clamp(-torch.finfo(kind).max, torch.finfo(kind).max) if kind.itemsize == 1 else x

    def clone(self, slots: int | None = None, retain: Sequence[Iterable[int]] | None = None) -> KVCache:
        """An independent copy, with another number of slots if wanted; ``retain`` per layer limits what is copied."""
        other = KVCache(self.shape, self.slots if slots is None else slots)
        for layer, table in enumerate(self._slot):
            wanted = table if retain is None else set(retain[layer]) & set(table)
            other.store(layer, (), {write: self.read(layer, write) for write in sorted(wanted)})
        return other


@lru_cache(maxsize=256)
def pool_window(rows: int, columns: int, factor: int) -> tuple[int, int]:
    """Rows and columns of tokens to average for ``factor`` to one; the nearest lower factor that divides the grid."""
    for count in range(factor, 0, -1):
        shapes = [(r, count // r) for r in range(1, count + 1) if count % r == 0]
        fitting = [(r, c) for r, c in shapes if rows % r == 0 and columns % c == 0]
        if fitting:
            return min(fitting, key=lambda window: (abs(window[0] - window[1]), window[0]))
    raise AssertionError("a window of one token always fits")


@lru_cache(maxsize=64)
def _table(
    head_dim: int, position: int, rows: int, columns: int, window: tuple[int, int], device: torch.device
) -> Tensor:
    return rope_table(head_dim, [position], rows, columns, device=device, pool=window)


class Workspace:
    """Rotated keys and values of one chunk's context, layer by layer, without gaps. One user at a time.

    Args:
        lean: one buffer for all layers, filled anew for every layer and pass, instead of one for each: less memory for
            some copying.
    """

    def __init__(self, shape: KVShape, *, lean: bool = False) -> None:
        self.shape, self.lean = shape, lean
        self._buffers: list[KV] = []
        self._tags: list[dict[int, tuple[int, int, int, int]]] = []
        self._size = 0

    def reserve(self, tokens: int) -> None:
        """Make room for ``tokens`` per layer."""
        if tokens <= self._size:
            return
        shape, self._size = self.shape, tokens
        size = (shape.batch, tokens, shape.heads, shape.head_dim)
        count = 1 if self.lean else shape.layers
        keys = [torch.empty(size, dtype=shape.dtype, device=shape.device) for _ in range(count)]
        self._buffers = [(key, torch.empty_like(key)) for key in keys]
        self._tags = [{} for _ in range(count)]

    def fill(self, layer: int, reads: Sequence[Read], source: Callable[[int, int], KV]) -> int:
        """Lay the cells out one after the other.

        Args:
            source: (layer, write id) -> keys (not rotated) and values, [B, T, H, D].

        Returns:
            number of tokens.
        """
        (keys, values), tags = self._place(layer)
        offset = 0
        for item in reads:
            window = pool_window(self.shape.rows, self.shape.columns, item.pool)
            count = self.shape.tokens // (window[0] * window[1])
            tag = (layer, item.cell.write, item.position, item.pool)
            if tags.get(offset) != tag:
                self._forget(tags, offset, offset + count)
                key, value = self._pooled(source(layer, item.cell.write), window)
                keys[:, offset : offset + count] = self._rotated(key, item.position, window)
                values[:, offset : offset + count] = value
                tags[offset] = tag
            offset += count
        return offset

    def extend(self, layer: int, offset: int, keys: Tensor, values: Tensor) -> KV:
        """Put rotated keys and values [B, n, H, D] behind ``offset`` tokens; returns all, [B, offset + n, H, D].

        Where a gradient is wanted they are joined into new tensors instead.
        """
        (held_keys, held_values), tags = self._place(layer)
        end = offset + keys.shape[1]
        if torch.is_grad_enabled() and (keys.requires_grad or values.requires_grad):
            return torch.cat((held_keys[:, :offset], keys), 1), torch.cat((held_values[:, :offset], values), 1)
        self._forget(tags, offset, end)
        held_keys[:, offset:end] = keys
        held_values[:, offset:end] = values
        return held_keys[:, :end], held_values[:, :end]

    def _place(self, layer: int) -> tuple[KV, dict[int, tuple[int, int, int, int]]]:
        index = 0 if self.lean else layer
        return self._buffers[index], self._tags[index]

    def _forget(self, tags: dict[int, tuple[int, int, int, int]], start: int, end: int) -> None:
        """Tags before the contents are touched: what fails half-way must not look valid."""
        tokens = self.shape.tokens
        for offset in [offset for offset in tags if start - tokens < offset < end]:
            window = pool_window(self.shape.rows, self.shape.columns, tags[offset][3])
            if offset + tokens // (window[0] * window[1]) > start:
                del tags[offset]

    def _pooled(self, pair: KV, window: tuple[int, int]) -> KV:
        if window == (1, 1):
            return pair
        rows, columns = self.shape.rows // window[0], self.shape.columns // window[1]
        grid = (rows, window[0], columns, window[1])
        key, value = (tensor.unflatten(1, grid).float().mean((2, 4)).flatten(1, 2) for tensor in pair)
        return key.to(pair[0].dtype), value.to(pair[1].dtype)

    def _rotated(self, key: Tensor, position: int, window: tuple[int, int]) -> Tensor:
        shape = self.shape
        return rotate(key, _table(shape.head_dim, position, shape.rows, shape.columns, window, key.device))
