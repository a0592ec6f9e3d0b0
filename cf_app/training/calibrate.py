"""The threshold of the memory's gate for a student: where changes of the view part from what merely goes on.

How similar the pooled keys of successive chunks are depends on the student (paper: tau 0.95 for Wan-1.3B). So it is
measured: films whose camera sweeps away and back, and tau where it takes the chunks that begin a new view, and some
more: on the shipped student's forerunner new views alone gave a revisit score of 0.52 (50 films), with a quarter of the
rest 0.85 (16 films).
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..engine.engine import Engine
from ..engine.timeline import PromptCue, Timeline
from .grammar import Scene, describe

SCENES = tuple(Scene(*f"{words} still".split()) for words in (
    "red ball hops meadow day", "blue star floats beach night", "yellow heart rolls desert sunset",
    "pink box floats snow dawn"))
TURNS, CHUNKS = (4, 10, 14, 18), 22      # chunks at which the camera sweeps away and back; length of a film
SPARE = 0.2     # one keyframe of a view is few: of what goes on, this part is taken, too
DIGITS = 5


def measure(engine: Engine, scenes: Sequence[Scene] = SCENES) -> tuple[list[float], list[float]]:
    """Similarities at the chunks that begin a new view, and at all others."""
    turning, going_on = list[float](), list[float]()
    for seed, scene in enumerate(scenes):
        views = describe(scene), describe(replace(scene, camera="away"))
        cues = [PromptCue.of(chunk, views[i % 2]) for i, chunk in enumerate((0, *TURNS))]
        stream = engine.new_session(timeline=Timeline(tuple(cues)), seed=seed).stream(chunks=CHUNKS)
        for index, chunk in enumerate(stream):
            if chunk.snapshot.similarity is not None:
                (turning if index in TURNS else going_on).append(chunk.snapshot.similarity)
    return turning, going_on


def threshold(turning: Sequence[float], going_on: Sequence[float], spare: float = SPARE) -> float:
    """The tau (similarities are -1..1) that promotes new views, and of the rest the most surprising part `spare`.

    New views are told from the rest where that is done best, in the middle of the gap (of 1 - similarity, on a
    logarithmic scale: most similarities are close to 1).

    Raises:
        ValueError: one of the lists is empty.
    """
    if not turning or not going_on:
        raise ValueError("no similarities to calibrate with: expected some of new views and some of others")
    values = sorted({*turning, *going_on})

    def gain(tau: float) -> float:
        """Promoted are chunks with a similarity below tau."""
        return sum(v < tau for v in turning) / len(turning) - sum(v < tau for v in going_on) / len(going_on)

    best = max(values[1:] or values, key=gain)
    below = values[max(0, values.index(best) - 1)]
    middle = 1 - math.sqrt(max(1 - below, 1e-9) * max(1 - best, 1e-9))
    count = int(spare * len(going_on))
    return round(max(middle, sorted(going_on)[count]) if count else middle, DIGITS)
