"""How like the truth is what is shown? Where the truth is known: decoded pictures of it, and films that go on from it.

`coded_takes` pass the autoencoder alone. `held_takes` begin with a true first chunk under a camera that stands: how a
subject moves follows from its prompt, so for as long as it runs a film can be compared with its world, and shapes that
melt are seen in dB. Knows nothing of tables.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..training.data import CHUNK_FRAMES
from ..training.grammar import Scene
from .films import Film, Take
from .prompts import frames_of

CODED_CHUNKS = 3
HELD_CHUNKS = (1, 4, 9)     # that are compared, counted from 0; the first one is given


def pictures_of(*chunks: int) -> tuple[int, ...]:
    """All pixel frames of these chunks."""
    return frames_of(chunks, range(CHUNK_FRAMES))


def coded_takes(count: int, camera: str) -> list[Take]:
    """Random scenes with that camera; their last chunk is kept."""
    rng = random.Random(f"coded {camera}")
    return [Take(((0, replace(Scene.sample(rng), camera=camera)),), rng.randrange(10**6), CODED_CHUNKS,
                 pictures_of(CODED_CHUNKS - 1)) for _ in range(count)]


def held_takes(count: int) -> list[Take]:
    """Random scenes under a camera that stands; the chunks to compare are kept."""
    rng = random.Random("held")
    return [Take(((0, replace(Scene.sample(rng), camera="still")),), rng.randrange(10**6), HELD_CHUNKS[-1] + 1,
                 pictures_of(*HELD_CHUNKS)) for _ in range(count)]


def psnr(films: Sequence[Film], truths: Sequence[Film], chunk: int) -> float:
    """Peak signal-to-noise ratio in dB of all pictures of `chunk` together."""
    shown, true = _stack(films, chunk), _stack(truths, chunk)
    return float(10 * np.log10(255**2 / max(1e-9, np.square(shown - true).mean())))


def crispness(films: Sequence[Film], truths: Sequence[Film], chunk: int) -> float:
    """Sum of squared differences between neighbouring pixels of `chunk`, divided by the truth's: 1 is as crisp.

    A step that is spread over n pixels counts a nth of a sharp one; noise counts as well, so read it beside the dB.
    """
    shown, true = (sum(float(np.square(np.diff(_stack(which, chunk), axis=axis)).sum()) for axis in (2, 3))
                   for which in (films, truths))
    return shown / max(true, 1e-9)


def _stack(films: Sequence[Film], chunk: int) -> np.ndarray:
    """[films, P, H, W, 3], 0 to 255."""
    return np.stack([[film.frames[i] for i in pictures_of(chunk)] for film in films]).astype(np.float32)
