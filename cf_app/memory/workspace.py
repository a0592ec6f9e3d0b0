"""What a chunk may read, laid out for attention: rotated keys and values, layer by layer, without gaps.

``Workspace`` belongs to the engine and is shared by all sessions. Contents go by write ids (``kv_cache.py``), so it
copies and rotates only what has changed since it was last filled: a few latent frames a chunk, for all layers at once
where they agree. Its memory stays where it is for ever, which is what a recorded pass (``model/graphs.py``) needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from cf_app.memory.kv_cache import KV, KVShape
from cf_app.memory.lanes import Read
from cf_app.model.rope import rope_table, rotate


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


Tag = tuple[int, int, int, int]  # layer, write id, position, pool


def _tag(layer: int, item: Read) -> Tag:
    return layer, item.cell.write, item.position, item.pool


class Workspace:
    """Rotated keys and values of one chunk's context, layer by layer, without gaps. One user at a time.

    Args:
        lean: one buffer for all layers, filled anew for every layer and pass, instead of one for each: less memory for
            some copying.
    """

    def __init__(self, shape: KVShape, *, lean: bool = False) -> None:
        self.shape, self.lean = shape, lean
        self.rotate: Callable[[Tensor, Tensor], Tensor] = rotate
        self.user: object = None  # who has laid out all layers, until someone writes
        self._tags: list[dict[int, Tag]] = []
        self._kept: KV | None = None
        self._size = 0

    def reserve(self, tokens: int) -> None:
        """Make room for ``tokens`` per layer."""
        if tokens <= self._size:
            return
        shape, self._size = self.shape, tokens
        count = 1 if self.lean else shape.layers
        size = (count, shape.batch, tokens, shape.heads, shape.head_dim)
        self._keys = torch.empty(size, dtype=shape.dtype, device=shape.device)
        self._values = torch.empty_like(self._keys)
        self._tags, self._kept, self.user = [{} for _ in range(count)], None, None

    def kept(self, tokens: int) -> KV:
        """A fixed place for what a recorded pass leaves: keys (not rotated) and values, [L, B, tokens, H, D] each."""
        if self._kept is None or self._kept[0].shape[2] != tokens:
            shape = self.shape
            size = (shape.layers, shape.batch, tokens, shape.heads, shape.head_dim)
            keys = torch.empty(size, dtype=shape.dtype, device=shape.device)
            self._kept = keys, torch.empty_like(keys)
        return self._kept

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
            tag = _tag(layer, item)
            if tags.get(offset) != tag:
                self._forget(tags, offset, offset + count)
                key, value = self._pooled(source(layer, item.cell.write), window)
                keys[:, offset : offset + count] = self._rotated(key, item.position, window)
                values[:, offset : offset + count] = value
                tags[offset] = tag
            offset += count
        return offset

    def fill_all(
        self, reads: Sequence[Sequence[Read]], source: Callable[[int, int], KV], whole: Callable[[int], KV | None]
    ) -> None:
        """``fill`` every layer; what all of them read at the same place goes there at once. Nothing where lean.

        Args:
            whole: write id -> keys and values of all layers, each [L, B, T, H, D], or None.
        """
        if self.lean:
            return
        offset = 0
        for items in zip(*reads, strict=False):
            first = items[0]
            window = pool_window(self.shape.rows, self.shape.columns, first.pool)
            count = self.shape.tokens // (window[0] * window[1])
            if any(item.pool != first.pool for item in items):
                break  # from here on they do not lie at the same place
            same = all(item.cell.write == first.cell.write and item.position == first.position for item in items)
            if same and any(
                tags.get(offset) != _tag(layer, first) for layer, tags in enumerate(self._tags)
            ):
                pair = whole(first.cell.write)
                if pair is not None:
                    self._put_all(pair, first, offset, count, window)
            offset += count
        for layer, row in enumerate(reads):
            self.fill(layer, row, source)

    def _put_all(self, pair: KV, item: Read, offset: int, count: int, window: tuple[int, int]) -> None:
        for tags in self._tags:
            self._forget(tags, offset, offset + count)
        layers, span = pair[0].shape[:2], slice(offset, offset + count)
        key, value = self._pooled((pair[0].flatten(0, 1), pair[1].flatten(0, 1)), window)
        self._keys[:, :, span] = self._rotated(key, item.position, window).unflatten(0, layers)
        self._values[:, :, span] = value.unflatten(0, layers)
        for layer, tags in enumerate(self._tags):
            tags[offset] = _tag(layer, item)

    def holds(self, layer: int, offset: int, item: Read) -> bool:
        """Whether that lies there."""
        return self._place(layer)[1].get(offset) == _tag(layer, item)

    def rename(self, layer: int, offset: int, item: Read) -> None:
        """Call what lies there something else."""
        self._place(layer)[1][offset] = _tag(layer, item)

    @property
    def address(self) -> tuple[int, int]:
        """Where it lies and how long its rows are; both others after it has grown."""
        return self._keys.data_ptr(), self._size

    def table(self, position: int) -> Tensor:
        """Rotation of a latent frame at a RoPE time index, complex [T, D/2]."""
        shape = self.shape
        return _table(shape.head_dim, position, shape.rows, shape.columns, (1, 1), torch.device(shape.device))

    def at(self, layer: int, start: int, end: int) -> KV:
        """Rotated keys and values of tokens ``start`` to ``end``, to be changed in place; they lose their tags."""
        (keys, values), tags = self._place(layer)
        self._forget(tags, start, end)
        return keys[:, start:end], values[:, start:end]

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

    def _place(self, layer: int) -> tuple[KV, dict[int, Tag]]:
        index = 0 if self.lean else layer
        return (self._keys[index], self._values[index]), self._tags[index]

    def _forget(self, tags: dict[int, Tag], start: int, end: int) -> None:
        """Tags before the contents are touched: what fails half-way must not look valid."""
        tokens, self.user = self.shape.tokens, None
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
        return self.rotate(key, _table(shape.head_dim, position, shape.rows, shape.columns, window, key.device))
