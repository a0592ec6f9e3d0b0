"""Drift over minutes: does a film stay what it was in its first minute? Colour, contrast, sharpness, prompt accuracy.

One scene and one prompt for the whole film. At every `EVERY`th chunk the probe reads, and its pixel frames are
measured. Cameras stand or pan.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..training.data import CHUNK_SECONDS
from ..training.grammar import Scene
from .films import Film, Take
from .probe import Probe
from .prompts import expected, frames_of, readings

EVERY = 4                              # chunks
MINUTE = round(60 / CHUNK_SECONDS)     # chunks


@dataclass(frozen=True)
class Minute:
    """Means over one minute of all films.

    Attributes:
        shift: distance of each film's mean colour from that of its own first minute, on the scale 0 to 255.
        contrast, sharpness: standard deviation of brightness and mean step between neighbouring pixels, divided by
            those of the first minute.
        accuracy: part of attributes that the probe reads as the prompt names them.
    """

    minute: int
    shift: float
    contrast: float
    sharpness: float
    accuracy: float


def drift_takes(films: int, minutes: int, seed: int = 9) -> list[Take]:
    """Random scenes; ValueError for less than a minute."""
    if minutes < 1:
        raise ValueError(f"{minutes} minutes: expected at least 1")
    rng, chunks = random.Random(seed), minutes * MINUTE
    keep = frames_of(range(0, chunks, EVERY))
    cameras = ("still", "right", "still", "left")
    scenes = [replace(Scene.sample(rng), camera=cameras[i % len(cameras)]) for i in range(films)]
    return [Take(((0, scene),), 40_000 + i, chunks, keep) for i, scene in enumerate(scenes)]


def statistics_of(pictures: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] to [N, 5]: mean red, green and blue, contrast, sharpness (all 0 to 255)."""
    x = pictures.astype(np.float32)
    grey = x.mean(-1)
    step = np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey, axis=2)).mean((1, 2))
    return np.concatenate([x.mean((1, 2)), grey.std((1, 2))[:, None], step[:, None]], 1)


def minute_by_minute(probe: Probe, takes: Sequence[Take], films: Sequence[Film]) -> list[Minute]:
    """The films' minutes, each against the film's own first one."""
    count = takes[0].chunks // MINUTE
    looks, accuracy = np.empty((len(films), count, 5)), np.empty((len(films), count))
    for i, (take, film) in enumerate(zip(takes, films, strict=True)):
        for minute in range(count):
            chunks = range(minute * MINUTE, (minute + 1) * MINUTE, EVERY)
            pictures = np.stack([film.frames[frame] for frame in frames_of(chunks)])
            looks[i, minute] = statistics_of(pictures).mean(0)
            accuracy[i, minute] = float((readings(probe, film, chunks) == expected(take, chunks)).float().mean())
    shift = np.abs(looks[:, :, :3] - looks[:, :1, :3]).mean((0, 2))
    ratio = (looks[:, :, 3:] / np.maximum(looks[:, :1, 3:], 1e-6)).mean(0)
    return [Minute(minute + 1, float(shift[minute]), float(ratio[minute, 0]), float(ratio[minute, 1]),
                   float(accuracy[:, minute].mean())) for minute in range(count)]


def sharpness(films: Sequence[Film]) -> float:
    """Mean step between neighbouring pixels over all kept pixel frames (0 to 255)."""
    return float(np.mean([statistics_of(np.stack(list(film.frames.values())))[:, 4].mean() for film in films]))

