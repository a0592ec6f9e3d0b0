"""The plan of a film: what is asked for at which chunk. Immutable plain data, no tensors, no clock.

A `Timeline` is a sorted row of cues. A cue holds from its start chunk until the next cue starts (the last one
until the end marker, or for ever), so cues can neither overlap nor leave a gap. `Timeline.prompt_at` is the
one truth about the prompt of a chunk, for the engine and for the page. All times are chunk indices; seconds
are derived from the model's geometry, elsewhere.

Does not know: text states, sessions, undo (see `timeline_edits`), files (see `timeline_io`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

from cf_app.engine.timeline_markers import EndMark, LoopMark, Marker, check_chunk, check_markers

Method = Literal["linear", "spherical"]
MemoryMode = Literal["keep", "recache", "flush", "reset"]
Parts = tuple[tuple[str, float], ...]  # (prompt, weight), weights are relative and > 0

MAX_CUES = 10_000
MAX_PARTS = 8
MAX_BLEND_CHUNKS = 64
MAX_PROMPT = 2_000  # characters
MAX_LABEL = 200
# What is left of prompts from before several unfinished blends is dropped below this share: nobody can see
# it.
NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class Transition:
    """How a cue takes over. `chunks` = 0 is a cut; N >= 1 blends: step i of N weighs the new prompt (i+1)/N,
    so N = 1 arrives.

    `method` says how text states are mixed, in the blend and within a cue that mixes prompts.
    """

    chunks: int = 0
    method: Method = "linear"

    def __post_init__(self) -> None:
        if (
            isinstance(self.chunks, bool)
            or not isinstance(self.chunks, int)
            or not 0 <= self.chunks <= MAX_BLEND_CHUNKS
        ):
            raise ValueError(f"transition.chunks is {self.chunks!r}; expected 0 (a cut) to {MAX_BLEND_CHUNKS}")
        if self.method not in get_args(Method):
            raise ValueError(f"transition.method is {self.method!r}; expected one of {', '.join(get_args(Method))}")


CUT = Transition()


@dataclass(frozen=True)
class PromptCue:
    """From chunk `start` on: these prompts, mixed by weight. `name` is only a label.

    `memory` at the switch: "keep" all entries; "recache" them under the new prompt; "flush" all but the sink
    and the newest latent frame (Infinity-RoPE); "reset" everything, as at the first chunk.
    """

    start: int
    parts: Parts
    transition: Transition = CUT
    memory: MemoryMode = "keep"
    name: str = ""

    def __post_init__(self) -> None:
        check_chunk(self.start, "cue.start")
        if not 1 <= len(self.parts) <= MAX_PARTS:
            raise ValueError(f"the cue at chunk {self.start} has {len(self.parts)} prompts; expected 1 to {MAX_PARTS}")
        for prompt, weight in self.parts:
            check_prompt(prompt)
            if isinstance(weight, bool) or not math.isfinite(weight) or not 0 < weight <= 1e6:
                raise ValueError(f"the weight of {prompt!r} is {weight!r}; expected a number above 0, at most 1000000")
        if self.memory not in get_args(MemoryMode):
            raise ValueError(f"cue.memory is {self.memory!r}; expected one of {', '.join(get_args(MemoryMode))}")
        check_label(self.name, f"the name of the cue at chunk {self.start}")

    @classmethod
    def of(cls, start: int, prompt: str, transition: Transition = CUT, memory: MemoryMode = "keep") -> PromptCue:
        """A cue with one prompt."""
        return cls(start, ((prompt, 1.0),), transition, memory)

    @property
    def shares(self) -> Parts:
        """The parts with weights that sum to 1, a prompt that is named twice only once."""
        total = math.fsum(weight for _, weight in self.parts)
        merged: dict[str, float] = {}
        for prompt, weight in self.parts:
            merged[prompt] = merged.get(prompt, 0.0) + weight / total
        return tuple(merged.items()) if len(merged) > 1 else ((self.parts[0][0], 1.0),)

    @property
    def caption(self) -> str:
        return caption(self.shares)


def check_prompt(prompt: str) -> None:
    """Raise ValueError unless `prompt` has something to say and a bearable length."""
    if not prompt.strip():
        raise ValueError("the prompt is empty; expected some words that describe the picture")
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"the prompt has {len(prompt)} characters; expected at most {MAX_PROMPT}: shorten it")
    _check_unicode(prompt, "the prompt")


def check_label(text: str, what: str) -> None:
    """Raise ValueError unless `text` is short and can be written to a file."""
    if len(text) > MAX_LABEL:
        raise ValueError(f"{what} has {len(text)} characters; expected at most {MAX_LABEL}: shorten it")
    _check_unicode(text, what)


def _check_unicode(text: str, what: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{what} holds half a character (a lone surrogate); expected text: type it again")


def caption(shares: Parts) -> str:
    """One line for people: the prompt itself, or "60% a red ball + 40% a blue star"."""
    if len(shares) == 1:
        return shares[0][0]
    return " + ".join(f"{round(100 * weight)}% {prompt}" for prompt, weight in shares)


@dataclass(frozen=True)
class Prompting:
    """What a chunk is asked to show; the engine makes one text state of it (see `folds`).

    parts: (prompt, share), shares sum to 1, what came first stands first. caption: the cue's prompt in one line, also
    while a blend is still on its way to it; panels and colours go by it. cue: index in `Timeline.cues`.
    switched: this cue begins at this chunk, and it is not the first of the film: now `memory` acts.
    step, steps: chunk `step` of a blend over `steps` chunks; steps = 0 when nothing is blending.
    """

    parts: Parts
    caption: str
    method: Method
    cue: int
    switched: bool
    memory: MemoryMode
    step: int = 0
    steps: int = 0

    def folds(self) -> Iterator[tuple[str, float]]:
        """(prompt, t) in order: state = that of the first prompt (t = 1), then state = mix(state, prompt's
        state, t).

        With mix = lerp this is the weighted mean exactly; with mix = slerp it is the slerp for two prompts,
        and defined for more.
        """
        total = 0.0
        for prompt, share in self.parts:
            total += share
            yield prompt, share / total


@dataclass(frozen=True)
class Timeline:
    """Cues sorted by start, the first at chunk 0, no two at one chunk; markers sorted by chunk, one of a kind
    at a chunk, at most one loop and one end. Equality and hash are by content."""

    cues: tuple[PromptCue, ...]
    markers: tuple[Marker, ...] = ()
    title: str = ""

    def __post_init__(self) -> None:
        if not self.cues or len(self.cues) > MAX_CUES:
            raise ValueError(f"the timeline has {len(self.cues)} cues; expected 1 to {MAX_CUES}")
        if self.cues[0].start != 0:
            raise ValueError(f"the first cue starts at chunk {self.cues[0].start}; expected chunk 0")
        for before, after in zip(self.cues, self.cues[1:], strict=False):
            if after.start <= before.start:
                raise ValueError(
                    f"a cue at chunk {after.start} follows one at chunk {before.start}; expected rising starts"
                )
        check_markers(self.markers)
        check_label(self.title, "the title")

    @classmethod
    def single(cls, prompt: str) -> Timeline:
        """One prompt, for ever."""
        return cls((PromptCue.of(0, prompt),))

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return tuple(cue.start for cue in self.cues)

    @property
    def end(self) -> int | None:
        """Number of chunks of the whole film; None: it never ends (it is endless, or it loops before its
        end)."""
        end = self.end_mark
        return None if end is None or (self.loop is not None and self.loop.chunk < end.chunk) else end.chunk

    @property
    def end_mark(self) -> EndMark | None:
        return next((m for m in self.markers if isinstance(m, EndMark)), None)

    @property
    def loop(self) -> LoopMark | None:
        return next((m for m in self.markers if isinstance(m, LoopMark)), None)

    def index_at(self, chunk: int) -> int:
        """Index of the cue in force at `chunk`, loops followed."""
        return self._occurrence(chunk)[0]

    def stop_of(self, index: int) -> int | None:
        """Chunk at which the block of this cue is over as the editor draws it: the next start, the end
        marker, or None."""
        if index + 1 < len(self.cues):
            return self.cues[index + 1].start
        end = self.end_mark
        return end.chunk if end is not None and end.chunk > self.cues[index].start else None

    def position(self, chunk: int) -> int:
        """Place in the plan that the film is at when `chunk` is generated: `chunk` itself, or folded back by
        the loop."""
        loop = self.loop
        return chunk if loop is None or chunk < loop.chunk else loop.to + (chunk - loop.to) % loop.period

    def _occurrence(self, chunk: int) -> tuple[int, int, PromptCue]:
        """(index, start, cue) of the cue in force; `start` is where it began this time. A loop that jumps
        into the middle of a cue cuts to that cue and leaves the memory alone."""
        position = self.position(chunk)
        index = bisect_right(self._starts, position) - 1
        cue = self.cues[index]
        if position == chunk:
            return index, cue.start, cue
        loop = self.loop
        assert loop is not None
        if cue.start < loop.to:
            return (
                index,
                chunk - (position - loop.to),
                replace(cue, transition=Transition(0, cue.transition.method), memory="keep"),
            )
        return index, chunk - (position - cue.start), cue

    def prompt_at(self, chunk: int) -> Prompting:
        """The prompt of `chunk` (>= 0): the one truth for engine and page. A cue at chunk N counts exactly
        from N on."""
        check_chunk(chunk, "chunk")
        index, start, cue = self._occurrence(chunk)
        step = chunk - start
        blending = start > 0 and step < cue.transition.chunks
        return Prompting(
            parts=self._shares(chunk),
            caption=cue.caption,
            method=cue.transition.method,
            cue=index,
            switched=chunk == start and chunk > 0,
            memory=cue.memory,
            step=step if blending else 0,
            steps=cue.transition.chunks if blending else 0,
        )

    def _shares(self, chunk: int) -> Parts:
        """Walk back through unfinished blends: a blend starts from whatever was in force at the chunk before
        it, a running blend included, so a new cue never jumps."""
        layers: list[tuple[Parts, float]] = []
        left, at = 1.0, chunk
        while left > NEGLIGIBLE:
            _, start, cue = self._occurrence(at)
            blend = cue.transition.chunks
            arrived = 1.0 if start == 0 or at - start + 1 >= blend else (at - start + 1) / blend
            layers.append((cue.shares, left * arrived))
            left *= 1.0 - arrived
            at = start - 1
        total = math.fsum(amount for _, amount in layers)
        shares: dict[str, float] = {}
        for parts, amount in reversed(layers):
            for prompt, share in parts:
                shares[prompt] = shares.get(prompt, 0.0) + share * amount / total
        return tuple(shares.items()) if len(shares) > 1 else ((next(iter(shares)), 1.0),)

    def markers_at(self, chunk: int) -> tuple[Marker, ...]:
        """Seed, memory, pause and end markers that act when the session reaches `chunk` (a loop acts through
        `position`). A pause acts once: the session that resumes generates the chunk."""
        position = self.position(chunk)
        return tuple(
            m
            for m in self.markers
            if not isinstance(m, LoopMark) and (chunk == self.end if isinstance(m, EndMark) else m.chunk == position)
        )
