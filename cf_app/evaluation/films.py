"""Films for measuring: what a session shows under a policy, and what the world really shows, on the same cues.

A `Take` says what to film; `shoot` films it with an engine, a `Studio` many of them in several processes; `draw`
renders the truth. Knows nothing of measures.
"""
from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch

from ..config import SamplerConfig
from ..engine.engine import Engine
from ..engine.sampler import Schedule
from ..engine.timeline import MemoryMode, PromptCue, Timeline
from ..memory.policy import Policy
from ..terminal import quiet
from ..training.data import CHUNK_FRAMES, CHUNK_SECONDS
from ..training.grammar import Scene, describe
from ..training.world import FPS, World, render

Cues = tuple[tuple[int, Scene], ...]


@dataclass(frozen=True)
class Take:
    """`cues` (chunk, scene) for `chunks` chunks; `keep` are the pixel frames wanted, counted from the start.

    `policy` None is the model's own, `steps` None its own number of denoising steps; `switch` is what a change of
    prompt does to the memory; with `words` the prompts are paraphrased from that seed, otherwise said plainly.
    """

    cues: Cues
    seed: int
    chunks: int
    keep: tuple[int, ...]
    policy: Policy | None = None
    switch: MemoryMode = "keep"
    words: int | None = None
    steps: int | None = None

    def prompts(self) -> tuple[tuple[int, str], ...]:
        """The cues as (chunk, prompt)."""
        rng = None if self.words is None else random.Random(self.words)
        return tuple((chunk, describe(scene, rng)) for chunk, scene in self.cues)


@dataclass(frozen=True)
class Film:
    """Pixel frames of a take, uint8 [H, W, 3] by index, and what its memory did.

    Attributes:
        similarities: of the keys of successive chunks, where the memory compared them.
        promotions: chunks that were promoted.
    """

    frames: dict[int, np.ndarray]
    similarities: tuple[float, ...] = field(default=())
    promotions: int = 0


def with_steps(engine: Engine, steps: int) -> Engine:
    """The same models with `steps` evenly spaced denoising steps; each but the first re-noises, as the few do."""
    if not 1 <= steps <= 100:
        raise ValueError(f"{steps} denoising steps: expected 1 to 100")
    old, other = engine.config.sampler, copy.copy(engine)
    sampler = SamplerConfig(tuple(1000 - 1000 * i // steps for i in range(steps)), old.shift, old.context_timestep)
    other.config, other.schedule = replace(engine.config, sampler=sampler), Schedule.of(sampler)
    return other


def go_on(engine: Engine, take: Take) -> Film:
    """Films a take that begins with the true first chunk of its world."""
    first = draw(replace(take, keep=tuple(range(CHUNK_FRAMES))))
    return shoot(engine, take, np.stack(list(first.frames.values())))


def shoot(engine: Engine, take: Take, start: np.ndarray | None = None) -> Film:
    """Films a take, chunk by chunk, as a visitor would see it; `start` is a clip that the film begins with."""
    cues = tuple(PromptCue.of(chunk, prompt, memory=take.switch) for chunk, prompt in take.prompts())
    engine = engine if take.steps is None else with_steps(engine, take.steps)
    session = engine.new_session(timeline=Timeline(cues), seed=take.seed, policy=take.policy, start=start)
    wanted, frames = set(take.keep), dict[int, np.ndarray]()
    similarities, promotions = [], 0
    for index, chunk in enumerate(session.stream(chunks=take.chunks)):
        first = index * CHUNK_FRAMES
        frames |= {first + i: picture for i, picture in enumerate(chunk.frames) if first + i in wanted}
        promotions += len(chunk.snapshot.promoted)
        if chunk.snapshot.similarity is not None:
            similarities.append(chunk.snapshot.similarity)
    return Film(frames, tuple(similarities), promotions)


class Studio:
    """Films many takes. With more than one worker each has its own process, engine and CPU thread.

    Args:
        load: makes the engine; with workers it must be picklable (a module's function, or a `partial` of one).
    """

    def __init__(self, load: Callable[[], Engine], workers: int = 1) -> None:
        self.engine = load()
        self._pool = None if workers <= 1 else ProcessPoolExecutor(workers, get_context("spawn"), _prepare, (load,))

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def films(self, takes: Iterable[Take], make: Callable[[Engine, Take], Film] = shoot) -> Iterator[Film]:
        """In the order of the takes, each by `make`, which is a module's function (`shoot`, `recoded`)."""
        if self._pool is None:
            return (make(self.engine, take) for take in takes)
        return self._pool.map(partial(_here, make), takes)


_engine: list[Engine] = []  # of a worker process, filled by `_prepare`; empty everywhere else


def _prepare(load: Callable[[], Engine]) -> None:
    quiet()
    torch.set_num_threads(1)
    _engine.append(load())
    torch.set_num_threads(1)


def _here(make: Callable[[Engine, Take], Film], take: Take) -> Film:
    return make(_engine[0], take)


def world_of(take: Take) -> World:
    """A world on the take's cues; its seed decides what no prompt names."""
    cues = tuple((chunk * CHUNK_SECONDS, scene) for chunk, scene in take.cues)
    return World.sample(random.Random(take.seed), cues, take.chunks * CHUNK_SECONDS)


def draw(take: Take, world: World | None = None) -> Film:
    """The truth: what a take's world shows, or another `world`."""
    times = torch.tensor(take.keep) / FPS
    world = world_of(take) if world is None else world
    pictures = torch.cat([render(world, part) for part in times.split(48)])
    pixels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return Film(dict(zip(take.keep, pixels, strict=True)))


def recoded(engine: Engine, take: Take) -> Film:
    """The truth after the engine's autoencoder: the best that any student could show."""
    whole = draw(replace(take, keep=tuple(range(take.chunks * CHUNK_FRAMES))))
    pixels = torch.from_numpy(np.stack(list(whole.frames.values()))).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    frames, state = dict[int, np.ndarray](), engine.vae.initial_state(1)
    with torch.inference_mode():
        for index, part in enumerate(pixels.split(CHUNK_FRAMES, 2)):
            decoded, state = engine.vae.decode(engine.vae.encode(part.to(engine.device)), state)
            shown = ((decoded[0].float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu().numpy()
            frames |= {index * CHUNK_FRAMES + i: shown[i] for i in range(CHUNK_FRAMES)}
    return Film({index: frames[index] for index in take.keep})


def looks(film: Film, chunk: int, offsets: Iterable[int]) -> torch.Tensor:
    """Pixel frames at `offsets` from a chunk's first, as the probe reads them: [1, 3 * looks, H, W] in [-1, 1]."""
    stack = np.stack([film.frames[chunk * CHUNK_FRAMES + offset] for offset in offsets])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).flatten(0, 1)[None].float() / 127.5 - 1

