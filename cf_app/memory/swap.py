"""Promotions that a pass decides for itself ("as_released"), without asking the device what it has decided.

Each layer compares its keys with those of the pass before and, where they differ enough, attends to its own first
latent frame as slow memory in that very pass. A host that asked for the comparison would wait in every layer of every
pass. What a promotion would change is known beforehand, though: at most one in a chunk, which cell it replaces, and
which cells are then read at another RoPE time index. So the change is always made, by ``where``, and what was decided
is fetched once, when the chunk is committed. Values stay where they are: attention does not mind the order of keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cf_app.memory.kv_cache import KV, KVShape
from cf_app.memory.lanes import Cell, Read
from cf_app.memory.workspace import Workspace
from cf_app.model.rope import axis_channels, rope_table


@dataclass(frozen=True)
class Swap:
    """What a promotion would change in one layer.

    Attributes:
        place: index, in reading order, of the cell that the promoted one replaces.
        position: RoPE time index of the promoted one.
        turns: (first index, index after the last, by how much their RoPE time index changes) of other cells.
    """

    place: int
    position: int
    turns: tuple[tuple[int, int, int], ...] = ()

    def touched(self) -> list[int]:
        """Indexes of all cells that it may change."""
        return [self.place, *(index for start, end, _ in self.turns for index in range(start, end))]


def swap_of(before: list[Read], after: list[Read], write: int) -> Swap | None:
    """The change from ``before`` to ``after``, in which ``write`` is new.

    None where it is not one for another, at unpooled cells (slow memory that still grows).
    """
    spots = {item.cell.write: item.position for item in after}
    gone = [index for index, item in enumerate(before) if item.cell.write not in spots]
    if len(gone) != 1 or len(after) != len(before) or any(item.pool != 1 for item in before):
        return None
    turns: list[tuple[int, int, int]] = []
    for index, item in enumerate(before):
        by = 0 if index == gone[0] else spots[item.cell.write] - item.position
        if by and turns and turns[-1][1:] == (index, by):
            turns[-1] = (turns[-1][0], index + 1, by)
        elif by:
            turns.append((index, index + 1, by))
    return Swap(gone[0], spots[write], tuple(turns))


@dataclass
class Trial:
    """A promotion of one layer and chunk that may or may not happen.

    Attributes:
        before: what is read if it does not, marked: the cells that are unsure under an id of their own.
        done: bool [], on the device: it has happened; None before the first comparison.
        kept: keys (not rotated) and values of the promoted latent frame, [B, T, H, D]; junk unless ``done``.
    """

    swap: Swap
    unsure: list[Read]
    done: Tensor | None = None
    kept: KV | None = None

    @staticmethod
    def of(swap: Swap, reads: list[Read], write: int) -> Trial:
        """``write``: an id that stands for contents that nobody knows."""
        touched = set(swap.touched())
        unsure = [Read(Cell(write, item.cell.latent), item.position) if index in touched else item
                  for index, item in enumerate(reads)]  # fmt: skip
        return Trial(swap, unsure)

    def decide(self, now: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """``now`` (bool []): this pass would promote [B, T, H, D]. Returns whether it is the one that does."""
        if self.done is None or self.kept is None:
            self.done, self.kept = now, (key.detach().clone(), value.detach().clone())
            return now
        first = now & ~self.done
        self.kept = torch.where(first, key, self.kept[0]), torch.where(first, value, self.kept[1])
        self.done = self.done | now
        return first

    def known(self, space: Workspace, layer: int) -> bool:
        """Whether what an earlier pass of this chunk made lies in the workspace, and not what was there before it."""
        tokens = space.shape.tokens
        return all(space.holds(layer, index * tokens, self.unsure[index]) for index in self.swap.touched())

    def lay_out(self, space: Workspace, layer: int, first: Tensor, table: Tensor) -> None:
        """Make the change in the workspace, which has been filled.

        Args:
            first: whether this pass has promoted.
            table: rotation at the promoted latent frame's position, complex [T, D/2].
        """
        assert self.done is not None and self.kept is not None
        tokens, swap = space.shape.tokens, self.swap
        mask = first if self.known(space, layer) else self.done
        keys, values = space.at(layer, swap.place * tokens, (swap.place + 1) * tokens)
        keys.copy_(torch.where(mask, space.rotate(self.kept[0], table), keys))
        values.copy_(torch.where(mask, self.kept[1], values))
        for start, end, by in swap.turns:
            turn = turning(space.shape, by)
            keys, _ = space.at(layer, start * tokens, end * tokens)
            moved = keys[..., : 2 * turn.shape[-1]]  # only channels of time turn
            moved.copy_(space.rotate(moved, torch.where(mask, turn, torch.ones_like(turn))))
        for index in swap.touched():
            space.rename(layer, index * tokens, self.unsure[index])

    def settle(self, space: Workspace, layer: int, reads: list[Read], promoted: bool) -> None:
        """Now that it is known: what has not changed goes by its own name again."""
        tokens = space.shape.tokens
        if promoted:
            return
        for index in self.swap.touched():
            if space.holds(layer, index * tokens, self.unsure[index]):
                space.rename(layer, index * tokens, reads[index])


@lru_cache(maxsize=16)
def turning(shape: KVShape, by: int) -> Tensor:
    """Rotation of the channels of time by ``by`` latent frames, complex [1, channels]."""
    return rope_table(shape.head_dim, [by], 1, 1, device=shape.device)[:, : axis_channels(shape.head_dim)[0]]
