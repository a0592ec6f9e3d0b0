"""Is what a panning camera brings in a thing of the world? Landmarks are in no prompt: the student invents them.

What it invents has no truth to compare with, but the world has few kinds of landmarks, all on one grid, so a picture
can be searched for them. A landmark is found where all that is visible of its shape has its colours and what is around
it has not. The truth, searched in the same way, says how many there are to find.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch

from ..training.data import CHUNK_FRAMES, CHUNK_LATENTS
from ..training.grammar import Scene
from ..training.world import FPS, GRID, LANDMARK_COLOURS, LANDMARK_HEIGHTS, WIDTH, Landmark, World, render
from .films import Film, Take, draw, world_of

PAN_CHUNKS = 12
FIRST_READ = 6              # chunk from which on nothing in the picture was there in the first one
LIKE = 0.05                 # mean |difference| of colours 0 to 1 up to which a landmark looks like itself
UNLIKE = 0.10               # least mean |difference| between what is around a landmark and its own mean colour
VISIBLE = 0.5               # least share of a shape that neither the subject nor the picture's edge hides
APART = 4                   # steps of the grid between two landmarks that are counted, at least
_HOME = 24                  # x of a landmark that no subject hides in a film's first picture
_RING = 3                   # pixels around a shape, and around a subject


@dataclass(frozen=True)
class Shape:
    """A landmark at `_HOME` in one light: the pixels [H, W] that it covers, those around it, and its picture."""

    inside: np.ndarray
    ring: np.ndarray
    picture: np.ndarray

    @cached_property
    def colour(self) -> np.ndarray:
        """Its mean one."""
        return self.picture[self.inside].mean(0)


def pan_takes(count: int) -> list[Take]:
    """Random scenes under a camera that pans to either side; pictures are kept at which landmarks stand on the grid."""
    rng, latent = random.Random("landmarks"), CHUNK_FRAMES // CHUNK_LATENTS
    keep = tuple(range(FIRST_READ * CHUNK_FRAMES, PAN_CHUNKS * CHUNK_FRAMES, 4 * latent))
    return [Take(((0, replace(Scene.sample(rng), camera=rng.choice(("right", "left")))),), rng.randrange(10**6),
                 PAN_CHUNKS, keep) for _ in range(count)]


def draw_without(take: Take) -> Film:
    """The truth, but nothing stands in it: what is found there is an error of the search."""
    return draw(take, replace(world_of(take), landmarks=()))


def landmarks_per_picture(takes: Sequence[Take], films: Sequence[Film]) -> float:
    """Mean number of landmarks that are found in the pictures."""
    return float(np.mean([found(film.frames[frame].astype(np.float32) / 255, shapes_of(take.cues[0][1]), hidden)
                          for take, film in zip(takes, films, strict=True)
                          for frame, hidden in zip(take.keep, _hidden(take), strict=True)]))


def found(picture: np.ndarray, shapes: Sequence[Shape], hidden: np.ndarray) -> int:
    """How many landmarks a picture [H, W, 3] (0 to 1) shows; `hidden` [H, W] are pixels that a subject covers."""
    errors: dict[int, float] = {}
    step = int(GRID)
    for place in range(-1, WIDTH // step + 2):
        right = place * step - _HOME
        for shape in shapes:
            seen, ring = (_moved(part, right) & ~hidden for part in (shape.inside, shape.ring))
            if seen.sum() < VISIBLE * shape.inside.sum() or not ring.any():
                continue
            error = float(np.abs(picture[seen] - _moved(shape.picture, right)[seen]).mean())
            if error < errors.get(place, LIKE) and np.abs(picture[ring] - shape.colour).mean() > UNLIKE:
                errors[place] = error
    kept: list[int] = []
    for place in sorted(errors, key=errors.__getitem__):
        if all(abs(place - other) >= APART for other in kept):
            kept.append(place)
    return len(kept)


@cache
def shapes_of(scene: Scene) -> tuple[Shape, ...]:
    """Every kind of landmark in every colour, in the light of `scene`."""
    bare = _first_picture(scene)
    shapes = []
    for kind in LANDMARK_HEIGHTS:
        extremes = [_first_picture(scene, Landmark(kind, _HOME, (c,) * 3, (c,) * 3)) for c in (0.0, 1.0)]
        inside = np.maximum(*(np.abs(picture - bare).max(2) for picture in extremes)) > 0.1
        ring = _grown(inside, _RING) & ~_grown(inside, 1)
        shapes += [Shape(inside, ring, _first_picture(scene, Landmark(kind, _HOME, *colours)))
                   for colours in LANDMARK_COLOURS]
    return tuple(shapes)


def _first_picture(scene: Scene, *landmarks: Landmark) -> np.ndarray:
    world = World(((0.0, replace(scene, camera="still")),), landmarks, (0.0,) * 6, 2.0 * WIDTH)
    return _drawn(world, (0,))[0]


@cache    # the same takes are searched in every run
def _hidden(take: Take) -> np.ndarray:
    """[pictures, H, W]: where the subject of a take is, and a little around it."""
    (_, scene), = take.cues
    colours = ("white", "blue")
    worlds = [world_of(replace(take, cues=((0, replace(scene, colour=colour)),))) for colour in colours]
    subject = np.abs(np.subtract(*(_drawn(world, take.keep) for world in worlds))).max(3) > 0.02
    return np.stack([_grown(picture, _RING) for picture in subject])


def _drawn(world: World, frames: Sequence[int]) -> np.ndarray:
    """[P, H, W, 3], 0 to 1."""
    return render(world, torch.tensor(frames) / FPS).permute(0, 2, 3, 1).numpy()


def _moved(part: np.ndarray, pixels: int) -> np.ndarray:
    """[H, W, ...] so far to the right; what comes in is empty."""
    moved = np.zeros_like(part)
    width = part.shape[1]
    moved[:, max(0, pixels):max(0, width + pixels)] = part[:, max(0, -pixels):max(0, width - pixels)]
    return moved


def _grown(part: np.ndarray, pixels: int) -> np.ndarray:
    """[H, W] and all pixels that are so near to it."""
    for axis in (0, 1):
        part = np.any([np.roll(part, step, axis) for step in range(-pixels, pixels + 1)], axis=0)
    return part
