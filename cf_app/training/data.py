"""Latent videos of the embedded world on disk: drawn, encoded once, read at random by every later stage.

A shard is one safetensors file: `latents` float16 [N, F, C, Y, X] (normalised) and `labels` uint8 [N, chunks, 6],
the scene each chunk's prompt names (order of `grammar.ATTRIBUTES`). Shards may be added while a training reads them.
Beside the long videos, `openings/` holds first chunks alone: there the prompt is all that a student has to go by.
"""
from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..machine import bfloat16_pays
from ..model.patch_vae import PatchVideoAutoencoder
from .grammar import ATTRIBUTES, CAMERAS, Scene, describe, scene_labels
from .world import FPS, World, render

CHUNK_FRAMES, CHUNK_LATENTS = 12, 3
CHUNK_SECONDS = CHUNK_FRAMES / FPS
LONG_PANS = 0.3           # of the videos of any kind that are longer than `LONGEST_GAP` chunks
LONGEST_GAP = 12          # chunks between two changes of prompt, otherwise
_CAMERA = list(ATTRIBUTES).index("camera")
Cues = tuple[tuple[float, Scene], ...]


def sample_cues(rng: random.Random, chunks: int) -> Cues:
    """A first scene; in most videos some or all of its attributes change every 3 to 12 chunks, on a chunk's start.

    In a few a camera pans for long first and then stands where it is: memory still holds where it came from.
    """
    scene = Scene.sample(rng)
    cues = [(0.0, scene)]
    chunk = rng.randint(3, LONGEST_GAP)
    if rng.random() < LONG_PANS and chunks > LONGEST_GAP:
        scene = replace(scene, camera=rng.choice(("right", "left")))
        chunk = rng.randint(LONGEST_GAP // 2, chunks - 3)
        cues = [(0.0, scene), (chunk * CHUNK_SECONDS, scene := replace(scene, camera="still"))]
        chunk += rng.randint(4, LONGEST_GAP)
    while rng.random() < 0.7 and chunk < chunks:
        names = rng.sample(tuple(ATTRIBUTES), rng.choice((1, 1, 2, 3, 4, 5)))
        scene = scene.changed(rng, tuple(names))
        cues.append((chunk * CHUNK_SECONDS, scene))
        chunk += rng.randint(4, LONGEST_GAP)
    return tuple(cues)


def look_away_cues(rng: random.Random, starts: Sequence[int]) -> Cues:
    """A camera that sweeps away and back at each of the chunks `starts`; now and then another attribute changes, too.

    What it comes back to is in no prompt: only memory has it.
    """
    scene = replace(Scene.sample(rng), camera=rng.choice(("still", "still", "right", "left")))
    cues, others = [(0.0, scene)], [name for name in ATTRIBUTES if name != "camera"]
    if scene.camera != "still" and starts[0] > 1 and rng.random() < .7:  # so home is not in the sink
        scene = replace(scene, camera="still")
        cues.append((rng.randint(1, starts[0] - 1) * CHUNK_SECONDS, scene))
    for chunk in starts:
        scene = scene.changed(rng, (rng.choice(others),)) if rng.random() < .2 else scene
        scene = replace(scene, camera="still" if scene.camera == "away" else "away")
        cues.append((chunk * CHUNK_SECONDS, scene))
    return tuple(cues)


def look_away_starts(rng: random.Random, chunks: int) -> tuple[int, ...]:
    """Chunks at which a camera sweeps away and back in turn: 2 to 6 chunks at home, 2 to 12 away."""
    starts, chunk, home = [], rng.randint(2, 6), True
    while chunk < chunks:
        starts.append(chunk)
        home = not home
        chunk += rng.randint(2, 6) if home else rng.choice((2, 3, 4, 5, 6, 8, 10, 12))
    return tuple(starts)


def draw_video(world: World, chunks: int) -> Tensor:
    """All pixel frames of `chunks` chunks of `world`: [1, 3, P, H, W] in [-1, 1]."""
    times = torch.arange(chunks * CHUNK_FRAMES) / FPS
    return torch.cat([render(world, part) for part in times.split(48)]).transpose(0, 1)[None] * 2 - 1


def shared_cues(kind: str, rng: random.Random, chunks: int) -> tuple[Callable[[random.Random], Cues], tuple[int, ...]]:
    """What draws the cues of videos of a kind ("any", "away"), and the chunks at which their cameras sweep.

    Videos that are too short to look away are of any kind.
    """
    turns = look_away_starts(rng, chunks) if kind == "away" else ()
    if turns:
        return lambda r: look_away_cues(r, turns), turns
    return lambda r: sample_cues(r, chunks), ()


@torch.no_grad()
def make_shard(path: Path, vae: PatchVideoAutoencoder, videos: int, chunks: int, seed: int,
               kind: str = "any") -> None:
    """Draws and encodes `videos` videos of `chunks` chunks into one file, written whole or not at all.

    `kind` "away": all of their cameras sweep away and back at the same chunks, so that they can be walked together;
    "any": no such order.
    """
    rng = random.Random(seed)
    latents, labels = [], []
    cues_of = shared_cues(kind, rng, chunks)[0]
    for _ in range(videos):
        cues = cues_of(rng)
        world = World.sample(rng, cues, chunks * CHUNK_SECONDS)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_pays(vae.device)):
            latents.append(vae.encode(draw_video(world, chunks))[0].transpose(0, 1).half())
        labels.append([scene_labels(world.scene_at(i * CHUNK_SECONDS)) for i in range(chunks)])
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".part")
    save_file({"latents": torch.stack(latents).contiguous(), "labels": torch.tensor(labels, dtype=torch.uint8)}, fresh)
    os.replace(fresh, path)


def openings(folder: Path) -> Path:
    """Where the first chunks lie that belong to the long videos in `folder`."""
    return folder / "openings"


def common_turns(labels: Tensor) -> tuple[int, ...]:
    """The chunks at which the cameras of all videos [N, chunks, 6] sweep away and back; () if they differ."""
    away = labels[:, :, _CAMERA] == CAMERAS.index("away")
    turns = (away[0, 1:] != away[0, :-1]).nonzero().flatten() + 1
    return tuple(turns.tolist()) if bool((away == away[0]).all()) else ()


class LatentVideos:
    """Every shard of a folder, in memory; `refresh` takes in new ones.

    `together`: of each shard whose cameras sweep at the same chunks, its videos and those chunks.

    Raises:
        ValueError: the folder holds no shard.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, set[Path]()
        self.latents: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.together: list[tuple[range, tuple[int, ...]]] = []
        self.refresh()
        if not self.latents:
            raise ValueError(f"no training videos in {folder}: make some first (python -m cf_app train data)")

    def refresh(self) -> None:
        for path in sorted(set(self.folder.glob("*.safetensors")) - self.seen):
            shard = load_file(path)
            count = len(self.latents)
            self.latents += list(shard["latents"])
            self.labels += list(shard["labels"])
            if turns := common_turns(shard["labels"]):
                self.together.append((range(count, len(self.latents)), turns))
            self.seen.add(path)

    @property
    def chunks(self) -> int:
        """Chunks of the shortest video."""
        return min(len(labels) for labels in self.labels)

    @property
    def still(self) -> list[int]:
        """The videos whose camera stands all the time: no landmark comes into the picture."""
        value = CAMERAS.index("still")
        return [i for i, labels in enumerate(self.labels) if bool((labels[:, _CAMERA] == value).all())]

    def starts_still(self, video: int) -> bool:
        """Whether the camera stands in the first chunk."""
        return CAMERAS[int(self.labels[video][0, _CAMERA])] == "still"

    def __len__(self) -> int:
        return len(self.latents)

    def clip(self, video: int, chunk: int, count: int) -> Tensor:
        """Latents of `count` chunks from `chunk` on: [C, F, Y, X], float32."""
        part = self.latents[video][chunk * CHUNK_LATENTS:(chunk + count) * CHUNK_LATENTS]
        return part.float().transpose(0, 1)

    def prompt(self, video: int, chunk: int, rng: random.Random, drop: float) -> str:
        """A paraphrase of what the chunk's prompt names."""
        indices = self.labels[video][chunk].tolist()
        values = [options[i] for options, i in zip(ATTRIBUTES.values(), indices, strict=True)]
        return describe(Scene(*values), rng, drop)
