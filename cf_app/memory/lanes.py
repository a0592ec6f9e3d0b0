"""The three lanes of a memory as pure data, and the pure functions that change them. No tensors.

A ``Cell`` says which keys and values are meant (``write``) and where they come from; ``Lanes`` holds cells for one
transformer layer. ``kept`` is what a next chunk may read, ``append`` takes that chunk in, ``promote`` consolidates a
latent frame into slow memory, ``read`` gives RoPE time indices. Counts are latent frames; ``seen`` is how many have
gone through the memory since the start or the last reset.

Filling (Context Forcing, released code): slot = latent frame until the memory is full, so slow slots hold ordinary
latent frames until promotions replace them, oldest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cf_app.memory.policy import Rule


@dataclass(frozen=True)
class Cell:
    """One latent frame in one lane of one layer.

    Attributes:
        write: id of its keys and values; equal ids mean equal contents.
        latent: index of the latent frame since the start of the video.
        prompt: prompt that the keys and values were made under.
        made_by: pass that made them: 0, 1, ... denoising, then clean, then re-cache.
        promoted_at: chunk at which it was promoted, None for an ordinary latent frame.
        surprisal: 1 - similarity at promotion.
    """

    write: int
    latent: int
    prompt: str = ""
    made_by: int = 0
    promoted_at: int | None = None
    surprisal: float | None = None


@dataclass(frozen=True)
class Lanes:
    """Cells of one layer, in slot order."""

    sink: tuple[Cell, ...] = ()
    slow: tuple[Cell, ...] = ()
    fast: tuple[Cell, ...] = ()

    def __iter__(self) -> Iterator[Cell]:
        yield from self.sink
        yield from self.slow
        yield from self.fast

    def __len__(self) -> int:
        return len(self.sink) + len(self.slow) + len(self.fast)

    def slots(self, rule: Rule) -> tuple[int, ...]:
        """Latent frame of every slot, -1 where it is empty."""
        row: list[int] = []
        for lane, size in ((self.sink, rule.sink), (self.slow, rule.slow), (self.fast, rule.fast)):
            row += [cell.latent for cell in lane] + [-1] * (size - len(lane))
        return tuple(row)


@dataclass(frozen=True)
class Read:
    """A cell as a pass reads it: at RoPE time index ``position``, ``pool`` tokens averaged into one."""

    cell: Cell
    position: int
    pool: int = 1


def kept(rule: Rule, lanes: Lanes, seen: int, frames: int) -> Lanes:
    """What the next ``frames`` latent frames may read: fast memory makes room for those that will live there."""
    coming = sum(seen + index >= rule.sink + rule.slow for index in range(frames))
    room = rule.fast - coming
    return replace(lanes, fast=lanes.fast[-room:] if room > 0 else ())


def append(rule: Rule, lanes: Lanes, cells: Iterable[Cell], seen: int) -> Lanes:
    """Take new latent frames in, after ``kept``."""
    sink, slow, fast = list(lanes.sink), list(lanes.slow), list(lanes.fast)
    for index, cell in enumerate(cells, start=seen):
        if index < rule.sink:
            sink.append(cell)
        elif index < rule.sink + rule.slow and len(slow) < rule.slow:
            slow.append(cell)
        else:
            fast.append(cell)
    return Lanes(tuple(sink), tuple(slow), tuple(fast[-rule.fast :]))


def eligible(rule: Rule, start: int, frames: int) -> bool:
    """Whether a chunk of ``frames`` latent frames that starts at ``start`` (since the reset) may be promoted at all."""
    return rule.slow > 0 and start >= rule.sink + frames


def promote(rule: Rule, lanes: Lanes, cell: Cell, pins: frozenset[int] = frozenset()) -> Lanes:
    """Consolidate ``cell`` into slow memory.

    The first ordinary cell makes room; when all are promoted or pinned, the oldest that is not pinned is evicted; when
    all are pinned, nothing changes. "clean" keeps slow memory in the order of time and marks a latent frame that sits
    there already; "as_released" overwrites in place.
    """
    slow = list(lanes.slow)
    if rule.timing == "clean":
        for index, held in enumerate(slow):
            if held.latent == cell.latent:
                if held.promoted_at is None:
                    slow[index] = cell
                return replace(lanes, slow=tuple(slow))
    ordinary = [index for index, held in enumerate(slow) if held.promoted_at is None and held.latent not in pins]
    if rule.timing == "as_released" and ordinary:
        slow[ordinary[0]] = cell
        return replace(lanes, slow=tuple(slow))
    if len(slow) >= rule.slow:
        loose = ordinary or [index for index, held in enumerate(slow) if held.latent not in pins]
        if not loose:
            return lanes
        del slow[loose[0]]
    slow.append(cell)
    if rule.timing == "clean":
        slow.sort(key=lambda held: held.latent)
    return replace(lanes, slow=tuple(slow))


def without(lanes: Lanes, latent: int) -> Lanes:
    """The lanes after ``latent`` has been evicted."""
    sink, slow, fast = (
        tuple(cell for cell in lane if cell.latent != latent) for lane in (lanes.sink, lanes.slow, lanes.fast)
    )
    return Lanes(sink, slow, fast)


def flushed(rule: Rule, lanes: Lanes, seen: int) -> Lanes:
    """Infinity-RoPE's KV flush: the sink and the newest latent frame stay."""
    newest = max((*lanes.slow, *lanes.fast), key=lambda cell: cell.latent, default=None)
    if newest is None:
        return Lanes(lanes.sink)
    cell = (replace(newest, promoted_at=None, surprisal=None),)
    # It stays where it would be in a memory that has seen as much, so that what follows comes after it.
    return Lanes(lanes.sink, slow=cell) if seen <= rule.sink + rule.slow else Lanes(lanes.sink, fast=cell)


def conformed(rule: Rule, lanes: Lanes, origin: int = 0, pins: frozenset[int] = frozenset()) -> Lanes:
    """The lanes laid out anew for the sizes of ``rule``: what fits stays.

    The oldest become the sink if it has grown; promoted and pinned cells stay in slow memory, the newest of them if
    they are too many, and older ordinary ones fill it up; the rest goes to fast memory, as far as there is room.

    Args:
        origin: latent frame that counted as 0 at the reset.
    """
    chosen = [cell for cell in lanes.slow if cell.promoted_at is not None or cell.latent in pins]
    chosen = sorted(chosen, key=lambda cell: (cell.latent in pins, cell.latent))[-rule.slow :] if rule.slow else []
    taken = {cell.latent for cell in chosen}
    others = {cell.latent: cell for cell in lanes if cell.promoted_at is None and cell not in chosen}
    ordinary = [others[latent] for latent in sorted(others)]
    sink, rest = ordinary[: rule.sink], ordinary[rule.sink :]
    late = [cell for cell in rest if cell.latent - origin >= rule.sink + rule.slow]
    early = [cell for cell in rest if cell not in late and cell.latent not in taken]
    room = rule.slow - len(chosen)
    slow = sorted((*chosen, *early[:room]), key=lambda cell: cell.latent)
    return Lanes(tuple(sink), tuple(slow), tuple((early[room:] + late)[-rule.fast :]))


def read(
    rule: Rule, lanes: Lanes, seen: int, frames: int = 0, origin: int = 0, cut: int = -1
) -> tuple[list[Read], list[int]]:
    """RoPE time indices of the cells, and of ``frames`` new latent frames after them.

    Bounded positional encoding (rule.positions "slot"): sink keys sit at 0, 1, ...; all others are consecutive and end
    at the newest latent frame's index, at most slots - 1. Once the memory is full, an index is a slot. "absolute": the
    index of the latent frame.

    Args:
        lanes: what is read, from ``kept`` if ``frames`` > 0.
        seen: latent frames since the reset, without the new ones.
        origin: latent frame that counted as 0 at the reset.
        cut: latent frames before this one lie ``rule.cut`` further back in RoPE time; -1 for none.

    Returns:
        one ``Read`` per cell in slot order, and the positions of the new latent frames.
    """
    sinks, others = len(lanes.sink), len(lanes.slow) + len(lanes.fast)
    last = seen + frames - 1
    if rule.positions == "absolute":
        spots = [cell.latent - origin for cell in lanes]
    else:
        last = max(min(last, rule.slots - 1), sinks + others + frames - 1)
        spots = [*range(sinks), *range(last - frames - others + 1, last - frames + 1)]
    spots = [max(0, at - rule.cut) if cell.latent < cut else at for at, cell in zip(spots, lanes, strict=True)]
    reads = [Read(cell, at, pool) for cell, at, pool in zip(lanes, spots, _pools(rule, lanes), strict=True)]
    return reads, list(range(last - frames + 1, last + 1))


def _pools(rule: Rule, lanes: Lanes) -> list[int]:
    """Pooling of each cell: none for sink and slow memory, by age for fast memory."""
    count = len(lanes.fast)
    ages = range(count - 1, -1, -1)
    return [1] * (len(lanes) - count) + [rule.pools[age] if age < len(rule.pools) else 1 for age in ages]


def simulate(rule: Rule, promotions: Sequence[bool], frames: int) -> list[tuple[list[Read], list[int]]]:
    """What every chunk of a video reads if chunk i is promoted where ``promotions[i]`` says so (and may be).

    For training: the context of a chunk without running a model. ``Read.cell.latent`` is the latent frame.

    Args:
        frames: latent frames of a chunk.

    Returns:
        per chunk the reads, in slot order, and the positions of its own latent frames.
    """
    lanes, result = Lanes(), []
    for chunk, wanted in enumerate(promotions):
        start = chunk * frames
        lanes = kept(rule, lanes, start, frames)
        result.append(read(rule, lanes, start, frames))
        cells = [Cell(write=latent, latent=latent) for latent in range(start, start + frames)]
        first = replace(cells[0], promoted_at=chunk)
        if wanted and eligible(rule, start, frames) and rule.timing == "as_released":
            lanes = promote(rule, lanes, first)
        lanes = append(rule, lanes, cells, start)
        if wanted and eligible(rule, start, frames) and rule.timing == "clean":
            lanes = promote(rule, lanes, first)
    return result
