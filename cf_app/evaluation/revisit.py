"""Revisit consistency: when the camera comes back, is the same thing there as when it left?

Landmarks are in no prompt, so only memory can bring them back. A *revisit* is a strip of the picture that left it, was
out of sight for `gap` seconds, and should be on the screen again. The strip as it left is compared with what came
back, at the best alignment in a small window of time and columns, and with what came back in *other* worlds of the
same place and time of day, made by the same model under the same policy. The score

    1 - mean distance to what came back / min(mean distance to what came back elsewhere, mean distance to the far end)

is 1 for the truth and 0 if what comes back has nothing to do with what left, however sharp or blurred the pictures
are. A camera that stands still would look consistent for free: there the far end is as near as what came back, and the
score is 0, too. `moved` says how far the far end is, as a part of the distance to other worlds: near 1 for the truth.

The subject is masked: it is on the screen all the time. So are sky and ground, which are the same in every world, and
the sun, which does not move: scenes are by day or at night, where it stands above the rows that are compared.

The camera *sweeps* away when its prompt says so, stays there for as long as wanted, and sweeps back: all of the picture
is gone and due again. Before that it goes on to a place of which the first chunk shows nothing, so an attention sink
alone can not answer.
"""
from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..training.data import CHUNK_FRAMES, CHUNK_SECONDS
from ..training.grammar import COLOURS, PLACES, SHAPES, Scene
from ..training.world import FPS, SWEEP_SECONDS, WIDTH
from .films import Cues, Film, Take

ROWS = slice(23, 63)            # hills and landmarks: below the sun, above the bare ground
COLUMNS = (2, WIDTH - 22)       # first columns of the strips, left and right of where hopping and floating subjects go
STRIP = 20                      # columns
SHIFT, LATE, STRIDE = 2, 6, 2   # window of alignment: columns either way, pixel frames either way and their step
PAN_CHUNKS, STAY_CHUNKS, BACK_CHUNKS = 7, 4, 3   # on to somewhere else, there for a while, and back there
NOTHING = 1e-6                  # mean squared difference of worlds below which there is nothing to remember: score 0


@dataclass(frozen=True)
class Revisit:
    """Pixel frames: the strip at `column` is seen at `left`, out of sight at `away`, due again at `back`."""

    left: int
    away: int
    back: int
    column: int
    gap: float


@dataclass(frozen=True)
class Course:
    """Films of one camera: what to film, what to compare by gap (seconds), and pixel frames that tell its story."""

    takes: tuple[Take, ...]
    plan: dict[float, list[Revisit]]
    story: tuple[int, ...]


def sweep_course(seeds: int, gap: float) -> Course:
    """The camera goes on, stays, sweeps away for `gap` seconds (to the next chunk), and back.

    Raises:
        ValueError: fewer than two seeds, or a gap that is shorter than two chunks.
    """
    chunks = round(gap / CHUNK_SECONDS)
    if chunks < 2:
        raise ValueError(f"a gap of {gap:g} s: expected at least {2 * CHUNK_SECONDS:g} s")
    leave = PAN_CHUNKS + STAY_CHUNKS
    back = leave + chunks
    takes = _takes(seeds, lambda scene: ((0, scene("right")), (PAN_CHUNKS, scene("still")), (leave, scene("away")),
                                         (back, scene("still"))), back + BACK_CHUNKS)
    first, last = leave * CHUNK_FRAMES, back * CHUNK_FRAMES
    away = (first + last) // 2
    story = (6, first - 2, first + 1, away, last - 2, last + 1, last + 8, last + 3 * CHUNK_FRAMES - 2)
    there = last + round(SWEEP_SECONDS * FPS) - 1 + LATE      # from where the camera rests again
    rows = [Revisit(left, away, again, column, chunks * CHUNK_SECONDS)
            for left, again in ((first - 16, there), (first - 2, there + 14)) for column in COLUMNS]
    return Course(takes, {gap: rows}, story)


def window(at: int) -> list[int]:
    """The pixel frames around `at` in which the best alignment is looked for."""
    return [i for i in range(at - LATE, at + LATE + 1, STRIDE) if i >= 0]


def wanted(chosen: dict[float, list[Revisit]]) -> tuple[int, ...]:
    """Pixel frames that the comparison needs."""
    rows = [revisit for revisits in chosen.values() for revisit in revisits]
    return tuple(sorted({i for r in rows for i in (r.left, *window(r.away), *window(r.back))}))


def group_of(take: Take) -> tuple[str, str]:
    """Films of one group differ in what no prompt names (and in the masked subject)."""
    return take.cues[0][1].place, take.cues[0][1].time


def _takes(seeds: int, cues: Callable[[Callable[[str], Scene]], Cues], chunks: int) -> tuple[Take, ...]:
    """Scenes come in groups of the same place and time of day."""
    if seeds < 2:
        raise ValueError(f"{seeds} seeds: expected at least 2, each world is told from another one")
    kinds = [(place, time) for time in ("day", "night") for place in PLACES]
    kinds, takes = kinds[:max(1, min(len(kinds), seeds // 2))], []
    for seed in range(seeds):
        rng, (place, time) = random.Random(seed), kinds[seed % len(kinds)]
        colour, shape, motion = rng.choice(COLOURS), rng.choice(SHAPES), rng.choice(("hops", "floats"))
        scene = partial(Scene, colour, shape, motion, place, time)
        takes.append(Take(cues(scene), 10_000 + seed, chunks, ()))
    return tuple(takes)


def distance(strip: np.ndarray, pictures: Sequence[np.ndarray], column: int) -> float:
    """Least mean squared difference (of values in 0..1) of a strip from `pictures` [H, W, 3], over shifts."""
    near = slice(column - SHIFT, column + STRIP + SHIFT)
    stack = np.stack([picture[ROWS, near] for picture in pictures]).astype(np.float32) / 255
    here = strip.astype(np.float32) / 255
    shifts = [stack[:, :, dx:dx + STRIP] for dx in range(2 * SHIFT + 1)]
    return float(min(np.square(part - here).mean((1, 2, 3)).min() for part in shifts))


@dataclass(frozen=True)
class Distances:
    """Of one film at one gap: mean distance to what `came` back, to what came back in `others` (one number for each),
    and to what is seen at the far end."""

    came: float
    others: tuple[float, ...]
    away: float

    @property
    def elsewhere(self) -> float:
        """Mean over the others."""
        return float(np.mean(self.others))


def compare(films: Sequence[Film], groups: Sequence[object], revisits: Sequence[Revisit]) -> list[Distances]:
    """Distances of every film whose group has another one."""
    result = []
    for i, film in enumerate(films):
        others = [j for j, group in enumerate(groups) if group == groups[i] and j != i]
        if not others:
            continue
        came, away = list[float](), list[float]()
        elsewhere: list[list[float]] = [[] for _ in others]
        for revisit in revisits:
            strip = film.frames[revisit.left][ROWS, revisit.column:revisit.column + STRIP]
            came.append(distance(strip, _at(film, revisit.back), revisit.column))
            away.append(distance(strip, _at(film, revisit.away), revisit.column))
            for row, j in zip(elsewhere, others, strict=True):
                row.append(distance(strip, _at(films[j], revisit.back), revisit.column))
        result.append(Distances(float(np.mean(came)), tuple(float(np.mean(row)) for row in elsewhere),
                                float(np.mean(away))))
    return result


def _at(film: Film, frame: int) -> list[np.ndarray]:
    return [film.frames[i] for i in window(frame)]


@dataclass(frozen=True)
class Score:
    """Consistency with its 95 % interval (bootstrap over seeds), and what says whether to believe it.

    Attributes:
        recognised: part of other worlds that the right one beats; chance is 0.5.
        moved: see the module.
        contrast: root mean square difference of what comes back in two worlds, 0 to 255; where it is far below the
            truth's, the worlds have little in them that could be remembered.
    """

    mean: float
    low: float
    high: float
    recognised: float
    moved: float
    contrast: float


def score(rows: Sequence[Distances]) -> Score:
    """See the module."""
    values = _resampled(rows)
    beaten = [np.mean([(row.came < other) + 0.5 * (row.came == other) for other in row.others]) for row in rows]
    low, high = np.quantile(values[1:], (0.025, 0.975))
    elsewhere = float(np.mean([row.elsewhere for row in rows]))
    moved = float(np.mean([row.away for row in rows])) / elsewhere if elsewhere > NOTHING else 0.0
    return Score(float(values[0]), float(low), float(high), float(np.mean(beaten)), moved, 255 * elsewhere**0.5)


def difference(rows: Sequence[Distances], others: Sequence[Distances]) -> tuple[float, float, float]:
    """Score of `rows` minus that of `others` on the same seeds, with its 95 % interval (paired bootstrap)."""
    gap = _resampled(rows) - _resampled(others)
    low, high = np.quantile(gap[1:], (0.025, 0.975))
    return float(gap[0]), float(low), float(high)


def _resampled(rows: Sequence[Distances], draws: int = 2000) -> np.ndarray:
    """The score, then the scores of resampled seeds: [1 + draws]. The same draws for every list of that length."""
    came, away = np.array([row.came for row in rows]), np.array([row.away for row in rows])
    elsewhere = np.array([row.elsewhere for row in rows])
    picks = np.random.default_rng(0).integers(0, len(rows), (draws, len(rows)))
    picks = np.concatenate([np.arange(len(rows))[None], picks])
    came, zero = came[picks].mean(1), np.minimum(elsewhere[picks].mean(1), away[picks].mean(1))
    return np.where(zero > NOTHING, 1 - came / np.maximum(zero, NOTHING), 0.0)
