"""Short clips for people: films side by side with the prompt under them, as animated WebP (it plays in a README)."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..training.data import CHUNK_FRAMES
from ..training.grammar import Scene
from ..training.world import FPS
from .films import Cues, Film, Take

STRIDE = 2      # every second pixel frame: 8 a second are enough to see it, at half the size
WIDTH, BAR, GAP = 512, 22, 4    # of the pictures beside each other; pixels
AWAY_CHUNKS = 8
_SCENE = Scene("yellow", "ball", "hops", "meadow", "day", "still")


def looking_away(seed: int = 3) -> Take:
    """On to another place, a while there, a sweep away for 6 s, and back."""
    right, away = replace(_SCENE, camera="right"), replace(_SCENE, camera="away")
    return _take(((0, right), (6, _SCENE), (9, away), (9 + AWAY_CHUNKS, _SCENE)), 9 + AWAY_CHUNKS + 4, seed)


def steering(seed: int = 6) -> Take:
    """A prompt that is changed every 3 s: colour, time of day, place, camera, all of them."""
    scenes = [_SCENE]
    for change in ({"colour": "blue"}, {"time": "night"}, {"place": "snow"}, {"camera": "right"},
                   {"shape": "star", "motion": "floats", "place": "beach", "time": "sunset", "camera": "still"}):
        scenes.append(replace(scenes[-1], **change))
    return _take(tuple((4 * i, scene) for i, scene in enumerate(scenes)), 4 * len(scenes) + 2, seed)


def _take(cues: Cues, chunks: int, seed: int) -> Take:
    return Take(cues, seed, chunks, tuple(range(0, chunks * CHUNK_FRAMES, STRIDE)))


def write_clip(path: Path, take: Take, films: Mapping[str, Film], quality: int = 60) -> dict[str, object]:
    """Writes `films` of one take beside each other, each under its label. Returns the row for the table."""
    starts = dict(take.prompts())
    pictures, prompt = [], ""
    for index in take.keep:
        prompt = starts.get(index // CHUNK_FRAMES, prompt)
        pictures.append(_picture(list(films), [film.frames[index] for film in films.values()], prompt))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 * STRIDE / FPS), loop=0,
                     quality=quality, method=4)
    return {"seconds": take.chunks * CHUNK_FRAMES / FPS, "kB": path.stat().st_size // 1000}


def _picture(labels: Sequence[str], frames: Sequence[np.ndarray], prompt: str) -> Image.Image:
    scale = max(1, WIDTH // (len(frames) * frames[0].shape[1]))
    height, width = (side * scale for side in frames[0].shape[:2])
    canvas = Image.new("RGB", (len(frames) * (width + GAP) - GAP, height + 2 * BAR), "#14161b")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for i, (label, frame) in enumerate(zip(labels, frames, strict=True)):
        left = i * (width + GAP)
        pen.text((left + 6, 3), label, fill="#f2f2f2", font=font)
        canvas.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS), (left, BAR))
    room = canvas.width // 7        # letters that fit
    shown = prompt if len(prompt) <= room else f"{prompt[:room - 3]}..."
    pen.text((6, BAR + height + 3), shown, fill="#f5c542", font=font)
    return canvas
