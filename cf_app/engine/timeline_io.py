"""Timelines as files and as text: JSON with a version, the `first scene[10s] | next scene[8s#]` form, a list
of (seconds, prompt).

Every refusal is a `TimelineFormatError` that names the place and what was expected. JSON:

    {"format": "context-forcing-timeline", "version": 1, "title": "Dusk",
     "cues": [{"chunk": 0, "prompt": "a red ball hops through the meadow"},
              {"chunk": 16, "blend": [{"prompt": "...", "weight": 2}, {"prompt": "...", "weight": 1}],
               "transition": {"chunks": 4, "method": "spherical"}, "memory": "recache", "name": "evening"}],
     "markers": [{"kind": "seed", "chunk": 8, "seed": 3}, {"kind": "end", "chunk": 40}]}
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter

from cf_app.engine.timeline import MemoryMode, Parts, PromptCue, Timeline, Transition
from cf_app.engine.timeline_markers import MAX_CHUNK, EndMark, Marker, MemoryMark
from cf_app.engine.timeline_schema import CueModel, TimelineFormatError, TimelineModel, checked, marker_of, short

FORMAT = "context-forcing-timeline"
VERSION = 1
MAX_BYTES = 4_000_000

_FILE = TypeAdapter(TimelineModel)


def to_dict(timeline: Timeline) -> dict[str, Any]:
    """JSON-able form; defaults are left out, so a file stays readable."""
    cues = []
    for cue in timeline.cues:
        entry: dict[str, Any] = {"chunk": cue.start, **parts_to_dict(cue.parts)}
        if cue.transition != Transition():
            entry["transition"] = asdict(cue.transition)
        if cue.memory != "keep":
            entry["memory"] = cue.memory
        if cue.name:
            entry["name"] = cue.name
        cues.append(entry)
    head = {"format": FORMAT, "version": VERSION, "title": timeline.title, "cues": cues}
    return {**head, "markers": [marker_to_dict(mark) for mark in timeline.markers]}


def parts_to_dict(parts: Parts) -> dict[str, Any]:
    """{"prompt": ...}, or {"blend": [...]} for several prompts."""
    if len(parts) == 1 and parts[0][1] == 1:
        return {"prompt": parts[0][0]}
    return {"blend": [{"prompt": prompt, "weight": weight} for prompt, weight in parts]}


def marker_to_dict(marker: Marker) -> dict[str, Any]:
    if isinstance(marker, MemoryMark):
        return {"kind": marker.kind, "chunk": marker.chunk, "changes": dict(marker.changes)}
    return {"kind": marker.kind, **asdict(marker)}


def dumps(timeline: Timeline) -> str:
    return json.dumps(to_dict(timeline), indent=1, ensure_ascii=False) + "\n"


def from_dict(data: object) -> Timeline:
    """Inverse of `to_dict`."""
    if not isinstance(data, dict):
        raise TimelineFormatError(f"a timeline file holds a JSON object; got {short(data)}")
    if data.get("format") != FORMAT:
        raise TimelineFormatError(
            f'format is {short(data.get("format"))}; expected "{FORMAT}": this is not a timeline of ours'
        )
    if data.get("version") != VERSION or isinstance(data.get("version"), bool):
        raise TimelineFormatError(
            f"version is {short(data.get('version'))}; this program reads version {VERSION}: update it or export again"
        )
    model = checked(_FILE, data)
    try:
        cues = sorted((_cue(cue, index) for index, cue in enumerate(model.cues)), key=lambda cue: cue.start)
        marks = sorted((marker_of(mark) for mark in model.markers), key=lambda mark: mark.chunk)
        return Timeline(tuple(cues), tuple(marks), model.title)
    except TimelineFormatError:
        raise
    except ValueError as error:
        raise TimelineFormatError(str(error)) from error


def _cue(model: CueModel, index: int) -> PromptCue:
    if (model.prompt is None) == (model.blend is None):
        raise TimelineFormatError(
            f'cues[{index}]: expected either "prompt" or "blend", got {"neither" if model.prompt is None else "both"}'
        )
    parts = (
        ((model.prompt, 1.0),) if model.prompt is not None else tuple((p.prompt, p.weight) for p in model.blend or ())
    )
    transition = Transition(model.transition.chunks, model.transition.method)
    try:
        return PromptCue(model.chunk, parts, transition, model.memory, model.name)
    except ValueError as error:
        raise TimelineFormatError(f"cues[{index}]: {error}") from error


def loads(text: str | bytes) -> Timeline:
    """Read JSON. Raises TimelineFormatError, whatever the bytes."""
    if len(text) > MAX_BYTES:
        raise TimelineFormatError(f"the file has {len(text)} bytes; expected at most {MAX_BYTES}")
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise TimelineFormatError("the file is nested too deeply to be a timeline") from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, integers of thousands of digits
        raise TimelineFormatError(f"the file is not JSON: {error}") from error
    return from_dict(data)


_SCENE = re.compile(r"^(?P<prompt>.*?)\s*\[\s*(?P<seconds>[0-9]*\.?[0-9]+)\s*s?\s*(?P<cut>#?)\s*\]\s*$", re.DOTALL)


def parse_text(text: str, chunk_seconds: float) -> Timeline:
    """`first scene[10s] | next scene[8s#] | last scene`: durations in seconds, rounded to whole chunks, at
    least one.

    `#` makes a hard cut to that scene: the memory starts anew ("reset"); without it the memory is kept. The
    last scene may go without a duration: it stays open. (Form of the Infinity-RoPE prompt files.)
    """
    cues: list[PromptCue] = []
    at = 0
    scenes = text.split("|")
    for number, scene in enumerate(scenes, start=1):
        match = _SCENE.match(scene.strip())
        if match is None and (number < len(scenes) or "[" in scene):
            raise TimelineFormatError(
                f'scene {number} is {short(scene.strip())}; expected "what it shows[10s]", or "[10s#]" for a hard cut'
            )
        prompt = scene.strip() if match is None else match["prompt"].strip()
        if not prompt:
            raise TimelineFormatError(f"scene {number} has no words; expected a description before [")
        hard = match is not None and bool(match["cut"]) and number > 1
        cues.append(_checked_cue(at, prompt, number, "reset" if hard else "keep"))
        if match is not None:
            at += _chunks(float(match["seconds"]), chunk_seconds, f"scene {number}", least=1)
    open_end = _SCENE.match(scenes[-1].strip()) is None
    return _checked_timeline(cues, () if open_end else (EndMark(at),))


def to_text(timeline: Timeline, chunk_seconds: float) -> str:
    """The text form when it says everything (the title aside), else the JSON."""
    scenes = []
    for index, cue in enumerate(timeline.cues):
        stop = timeline.stop_of(index)
        hard = "#" if cue.memory == "reset" else ""
        length = "" if stop is None else f"[{(stop - cue.start) * chunk_seconds:g}s{hard}]"
        scenes.append(cue.caption + length)
    text = " | ".join(scenes)
    try:
        said = parse_text(text, chunk_seconds)
    except TimelineFormatError:
        return dumps(timeline)
    return text if said == replace(timeline, title="") else dumps(timeline)


def parse_list(entries: Sequence[tuple[float, str]], chunk_seconds: float) -> Timeline:
    """[(start in seconds, prompt), ...]: starts rise from 0 and are rounded to whole chunks."""
    if not entries:
        raise TimelineFormatError('the list is empty; expected [[0, "first prompt"], [10, "next prompt"], ...]')
    cues = []
    for number, entry in enumerate(entries, start=1):
        if (
            not isinstance(entry, list | tuple)
            or len(entry) != 2
            or not isinstance(entry[1], str)
            or isinstance(entry[0], bool)
        ):
            raise TimelineFormatError(f"entry {number} is {short(entry)}; expected [seconds, prompt]")
        if not isinstance(entry[0], int | float):
            raise TimelineFormatError(f"entry {number} starts at {short(entry[0])}; expected a number of seconds")
        start = _chunks(entry[0], chunk_seconds, f"entry {number}", least=0)
        cues.append(_checked_cue(start, entry[1], number, "keep"))
    return _checked_timeline(cues, ())


def _chunks(seconds: float, chunk_seconds: float, what: str, least: int) -> int:
    if not math.isfinite(seconds) or not 0 <= seconds / chunk_seconds <= MAX_CHUNK:
        raise TimelineFormatError(f"{what}: {short(seconds)} s; expected 0 to {MAX_CHUNK * chunk_seconds:.0f} seconds")
    return max(least, round(seconds / chunk_seconds))


def _checked_cue(start: int, prompt: str, number: int, memory: MemoryMode) -> PromptCue:
    try:
        return PromptCue.of(start, prompt, memory=memory)
    except ValueError as error:
        raise TimelineFormatError(f"entry {number}: {error}") from error


def _checked_timeline(cues: list[PromptCue], markers: tuple[Marker, ...]) -> Timeline:
    try:
        return Timeline(tuple(cues), markers)
    except ValueError as error:
        raise TimelineFormatError(str(error)) from error


def read(text: str, chunk_seconds: float) -> Timeline:
    """Any of the three forms: a JSON object, a JSON list of [seconds, prompt], or the text form."""
    start = text.lstrip()[:1]
    if start == "[":
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TimelineFormatError(f"the file is not JSON: {error}") from error
        return parse_list(entries, chunk_seconds)
    return loads(text) if start == "{" else parse_text(text, chunk_seconds)
