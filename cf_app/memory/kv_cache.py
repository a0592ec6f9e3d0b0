"""Keys and values in preallocated slots. Knows nothing of policies, lanes or positions.

``KVCache`` belongs to a session: what it remembers, keys before RoPE. Contents go by *write ids*: equal ids mean equal
contents, for ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """``slots`` latent frames per layer; a free slot is one whose contents nobody retains.

    A slot lies side by side for all layers, so that what they all take in or hand out at once is one piece.
    """

    def __init__(self, shape: KVShape, slots: int) -> None:
        self.shape = shape
        self.slots = slots
        size = (slots, shape.layers, shape.batch, shape.tokens, shape.heads, shape.head_dim)
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
        return self._keys[slot, layer].to(self.shape.dtype), self._values[slot, layer].to(self.shape.dtype)

    def read_all(self, write: int) -> KV | None:
        """``read`` for all layers, each [L, B, T, H, D]; None where they do not hold it in one slot."""
        slots = {table.get(write) for table in self._slot}
        slot = slots.pop()
        if slot is None or slots:
            return None
        return self._keys[slot].to(self.shape.dtype), self._values[slot].to(self.shape.dtype)

    def retain(self, layer: int, writes: Iterable[int]) -> None:
        """Free everything but ``writes``."""
        table, keep = self._slot[layer], set(writes)
        for write in [write for write in table if write not in keep]:
            del table[write]

    def store(self, layer: int, retain: Iterable[int], new: Mapping[int, KV]) -> None:
        """Free everything but ``retain`` and write ``new`` into free slots."""
        self.retain(layer, retain)
        table = self._slot[layer]
        used = set(table.values())
        free = (slot for slot in range(self.slots) if slot not in used)
        for write, (key, value) in new.items():
            assert write not in table
            slot = next(free)
            self._keys[slot, layer].copy_(self._limited(key))
            self._values[slot, layer].copy_(self._limited(value))
            table[write] = slot

    def store_all(self, new: Mapping[int, tuple[Sequence[Tensor], Sequence[Tensor]]]) -> bool:
        """Write what all layers take in, a tensor a layer, into slots that are free in every one of them.

        Returns:
            False where there are too few such slots; nothing has changed then.
        """
        used = {slot for table in self._slot for slot in table.values()}
        free = [slot for slot in range(self.slots) if slot not in used]
        if len(free) < len(new):
            return False
        for slot, (write, (keys, values)) in zip(free, new.items(), strict=False):
            self._gather(keys, self._keys[slot])
            self._gather(values, self._values[slot])
            for table in self._slot:
                assert write not in table
                table[write] = slot
        return True

    def _gather(self, parts: Sequence[Tensor], place: Tensor) -> None:
        if all(part.dtype == place.dtype for part in parts):
            torch.cat([part.reshape(-1) for part in parts], out=place.view(-1))
            return
        for target, part in zip(place, parts, strict=True):
            target.copy_(self._limited(part))

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
