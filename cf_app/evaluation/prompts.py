"""What the prompt names, read back by the probe: in a film's last two chunks, and after a change of prompt.

A reading at a chunk is of that chunk and the next, as the probe wants it. *Switch latency* counts the chunks from the
change until the probe reads the new value, and again one chunk later; 0 is the very chunk at which the change applies.
The world itself takes a second to cross-fade.
"""
from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..engine.timeline import MemoryMode
from ..training.data import CHUNK_FRAMES, CHUNK_SECONDS
from ..training.grammar import ATTRIBUTES, CAMERAS, Scene
from .films import Film, Take, looks, world_of
from .probe import LOOKS, Probe, read, visible_labels

READ_CHUNKS = 10                  # prompt following: length of a film, of which the last two chunks are read
SWITCH_AT, SWITCH_CHUNKS = 6, 15  # chunk of the change, length of the film
SWITCH_READ = range(SWITCH_AT, SWITCH_CHUNKS - 1)


def frames_of(chunks: Sequence[int], offsets: Sequence[int] = LOOKS) -> tuple[int, ...]:
    """Pixel frames at `offsets` from the first of each of these chunks; by default those that readings need."""
    return tuple(chunk * CHUNK_FRAMES + offset for chunk in chunks for offset in offsets)


def prompt_takes(count: int, seed: int = 7) -> list[Take]:
    """`count` random scenes in random words."""
    rng = random.Random(seed)
    keep = frames_of((READ_CHUNKS - 2,))
    return [Take(((0, Scene.sample(rng)),), 20_000 + i, READ_CHUNKS, keep, words=i) for i in range(count)]


def switch_takes(count: int, switch: MemoryMode = "keep", seed: int = 8) -> list[Take]:
    """`count` random scenes of which one attribute changes; the attributes take turns."""
    rng, names = random.Random(seed), tuple(ATTRIBUTES)
    keep, takes = frames_of(SWITCH_READ), []
    for i in range(count):
        scene = Scene.sample(rng)
        cues = ((0, scene), (SWITCH_AT, scene.changed(rng, (names[i % len(names)],))))
        takes.append(Take(cues, 30_000 + i, SWITCH_CHUNKS, keep, switch=switch, words=i))
    return takes


def readings(probe: Probe, film: Film, chunks: Sequence[int]) -> torch.Tensor:
    """Attribute indices [chunks, 6] that the probe reads at these chunks."""
    return read(probe, torch.cat([looks(film, chunk, LOOKS) for chunk in chunks]))


def expected(take: Take, chunks: Sequence[int]) -> torch.Tensor:
    """Attribute indices [chunks, 6] that the take's own world shows at these chunks."""
    world = world_of(take)
    return torch.tensor([visible_labels(world, chunk * CHUNK_SECONDS) for chunk in chunks])


def following(probe: Probe, takes: Sequence[Take], films: Sequence[Film]) -> dict[str, float]:
    """Accuracy per attribute over films' last two chunks, and "mean", 0 to 1."""
    at = (READ_CHUNKS - 2,)
    right = torch.cat([readings(probe, film, at) == expected(take, at)
                       for take, film in zip(takes, films, strict=True)])
    result = dict(zip(ATTRIBUTES, right.float().mean(0).tolist(), strict=True))
    return {**result, "mean": statistics.mean(result.values())}


def change_of(take: Take) -> str:
    """What changes in a switch, for people."""
    before, after = take.cues[0][1], take.cues[1][1]
    changed = [name for name in ATTRIBUTES if vars(before)[name] != vars(after)[name]]
    return ", ".join(f"{name}: {vars(before)[name]} > {vars(after)[name]}" for name in changed)


@dataclass(frozen=True)
class Latency:
    """Part of the changes that ever show, and of those the median and the mean of chunks until they do (-1: none)."""

    count: int
    shown: float
    median: float
    mean: float


def first_shown(hits: Sequence[bool]) -> int | None:
    """Index of the first of two successive hits (the last one may stand alone)."""
    return next((i for i, hit in enumerate(hits) if hit and all(hits[i:i + 2])), None)


def latencies(probe: Probe, takes: Sequence[Take], films: Sequence[Film]) -> dict[str, Latency]:
    """Switch latency per attribute, and over "all"."""
    rows: dict[str, list[int | None]] = {name: [] for name in ATTRIBUTES}
    for take, film in zip(takes, films, strict=True):
        before, after = take.cues[0][1], take.cues[1][1]
        seen, should = readings(probe, film, SWITCH_READ), expected(take, SWITCH_READ)
        for index, name in enumerate(ATTRIBUTES):
            if vars(before)[name] == vars(after)[name]:
                continue
            if name == "camera" and "away" in (before.camera, after.camera):     # a sweep passes: seen once is enough
                swept = (seen[:, index] == CAMERAS.index("away")).tolist()
                rows[name].append(swept.index(True) if True in swept else None)
            else:
                rows[name].append(first_shown((seen == should)[:, index].tolist()))
    rows["all"] = [value for values in rows.values() for value in values]
    return {name: _latency(values) for name, values in rows.items() if values}


def _latency(values: Sequence[int | None]) -> Latency:
    shown = [value for value in values if value is not None]
    if not shown:
        return Latency(len(values), 0.0, -1.0, -1.0)
    return Latency(len(values), len(shown) / len(values), float(statistics.median(shown)),
                   float(statistics.mean(shown)))
