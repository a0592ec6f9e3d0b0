"""Pure edits of a `Timeline`. Every edit takes a timeline and returns a new one.

A cue is named by its start chunk. `generated` is the number of chunks that exist already, so the first chunk
that may still change. An edit that would change an earlier one raises `PastError`, which says where to branch
instead. Undo: `timeline_history`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from cf_app.engine.timeline import (
    CUT,
    MemoryMode,
    Parts,
    PromptCue,
    Timeline,
    Transition,
)
from cf_app.engine.timeline_history import check_past, unrolled
from cf_app.engine.timeline_markers import EndMark, LoopMark, Marker

NOMINAL_CHUNKS = 8  # what an open last cue counts as where a length is needed: 6 s, enough to see a scene


def _build(old: Timeline, cues: Iterable[PromptCue], markers: Iterable[Marker], generated: int) -> Timeline:
    return check_past(
        old, replace(old, cues=tuple(cues), markers=tuple(sorted(markers, key=lambda m: m.chunk))), generated
    )


def placed(timeline: Timeline, other: Timeline, *, generated: int = 0) -> Timeline:
    """`other`, beginning at the next chunk: what importing a file into a running film does."""
    timeline = unrolled(timeline, generated)
    if generated == 0:
        return other
    cues = [cue for cue in timeline.cues if cue.start < generated]
    cues += [replace(cue, start=cue.start + generated) for cue in other.cues]
    marks = [mark for mark in timeline.markers if mark.chunk < generated]
    return _build(
        replace(timeline, title=other.title),
        cues,
        marks + [_shifted(m, generated, 0) for m in other.markers],
        generated,
    )


def _shifted(mark: Marker, by: int, start: int) -> Marker:
    """`mark` moved by `by` if it stands at `start` or later; a loop's target likewise."""
    moved = replace(mark, chunk=mark.chunk + by) if mark.chunk >= start else mark
    if isinstance(moved, LoopMark) and moved.to >= start:
        return LoopMark(moved.chunk, moved.to + by)
    return moved


def find(timeline: Timeline, cue: int) -> int:
    """Index of the cue that starts at chunk `cue`."""
    for index, candidate in enumerate(timeline.cues):
        if candidate.start == cue:
            return index
    starts = ", ".join(str(c.start) for c in timeline.cues[:20])
    raise ValueError(
        f"no cue starts at chunk {cue}; cues start at {starts}{', ...' if len(timeline.cues) > 20 else ''}"
    )


def add(
    timeline: Timeline,
    chunk: int,
    prompt: str,
    *,
    transition: Transition = CUT,
    memory: MemoryMode = "keep",
    generated: int = 0,
) -> Timeline:
    """A new cue from `chunk` until the next one."""
    timeline = unrolled(timeline, generated)
    if any(cue.start == chunk for cue in timeline.cues):
        raise ValueError(f"a cue starts at chunk {chunk} already; change its prompt, or add at another chunk")
    new = PromptCue.of(chunk, prompt, transition, memory)
    return _build(timeline, sorted((*timeline.cues, new), key=lambda c: c.start), timeline.markers, generated)


def prompt_from(
    timeline: Timeline,
    chunk: int,
    prompt: str,
    *,
    transition: Transition = CUT,
    memory: MemoryMode = "keep",
    generated: int = 0,
) -> Timeline:
    """This prompt from `chunk` until the next cue, whether or not a cue starts there."""
    timeline = unrolled(timeline, generated)
    if any(cue.start == chunk for cue in timeline.cues):
        return change(timeline, chunk, parts=((prompt, 1.0),), generated=generated)
    return add(timeline, chunk, prompt, transition=transition, memory=memory, generated=generated)


def live(
    timeline: Timeline,
    prompt: str,
    *,
    transition: Transition = CUT,
    memory: MemoryMode = "keep",
    generated: int = 0,
) -> Timeline:
    """A prompt typed while the film plays: it counts from the next chunk on."""
    return prompt_from(timeline, generated, prompt, transition=transition, memory=memory, generated=generated)


def split(timeline: Timeline, at: int, *, generated: int = 0) -> Timeline:
    """Cut the block in force at `at` in two; no picture changes until one half is edited. A running blend
    goes on."""
    timeline = unrolled(timeline, generated)
    now = timeline.prompt_at(at)
    cue = timeline.cues[now.cue]
    if now.switched or at == 0:
        raise ValueError(f"the block starts at chunk {at}; to split it, choose a chunk inside it")
    half = replace(cue, start=at, transition=Transition(now.steps - now.step, cue.transition.method), memory="keep")
    if now.steps == 0:
        half = replace(half, transition=Transition(0, cue.transition.method))
    return _build(timeline, sorted((*timeline.cues, half), key=lambda c: c.start), timeline.markers, generated)


def delete(timeline: Timeline, cue: int, *, generated: int = 0) -> Timeline:
    """The cue before goes on in its place; if it was the first, the next one begins the film."""
    timeline = unrolled(timeline, generated)
    index = find(timeline, cue)
    if len(timeline.cues) == 1:
        raise ValueError("this is the only block; a film needs one: change its prompt instead")
    cues = list(timeline.cues[:index] + timeline.cues[index + 1 :])
    cues[0] = replace(cues[0], start=0)
    return _build(timeline, cues, timeline.markers, generated)


def resize(timeline: Timeline, cue: int, stop: int | None, *, generated: int = 0) -> Timeline:
    """Let the block end at chunk `stop`: the next one begins there. The last one's end is the end of the film
    (None: open)."""
    timeline = unrolled(timeline, generated)
    index = find(timeline, cue)
    if index + 1 == len(timeline.cues):
        marks: list[Marker] = [mark for mark in timeline.markers if not isinstance(mark, EndMark)]
        if stop is not None:
            _check_room(stop, cue + 1, None)
            marks.append(EndMark(stop))
        return _build(timeline, timeline.cues, marks, generated)
    if stop is None:
        raise ValueError(f"the block at chunk {cue} is not the last one, so it can not be open-ended; expected a chunk")
    after = timeline.stop_of(index + 1)
    _check_room(stop, cue + 1, None if after is None else after - 1)
    cues = list(timeline.cues)
    cues[index + 1] = replace(cues[index + 1], start=stop)
    return _build(timeline, cues, timeline.markers, generated)


def _check_room(chunk: int, first: int, last: int | None) -> None:
    if chunk < first or (last is not None and chunk > last):
        room = f"chunk {first} or later" if last is None else f"chunk {first} to {last}"
        raise ValueError(f"chunk {chunk} is outside the room between the neighbours ({room})")


def move(timeline: Timeline, cue: int, to: int, *, generated: int = 0) -> Timeline:
    """Slide the block to start at `to`; it keeps its length, its neighbours give and take the room."""
    timeline = unrolled(timeline, generated)
    index = find(timeline, cue)
    if index == 0:
        raise ValueError("the first block begins the film at chunk 0; resize it, or move the ones after it")
    shift, stop = to - cue, timeline.stop_of(index)
    after = timeline.stop_of(index + 1) if index + 1 < len(timeline.cues) else None
    _check_room(
        to,
        timeline.cues[index - 1].start + 1,
        None if after is None or stop is None else after - 1 - (stop - cue),
    )
    cues, marks = list(timeline.cues), list(timeline.markers)
    cues[index] = replace(cues[index], start=to)
    if index + 1 < len(cues):
        cues[index + 1] = replace(cues[index + 1], start=cues[index + 1].start + shift)
    elif stop is not None:
        marks = [EndMark(stop + shift) if isinstance(mark, EndMark) else mark for mark in marks]
    return _build(timeline, cues, marks, generated)


def reorder(timeline: Timeline, cue: int, by: int, *, generated: int = 0) -> Timeline:
    """Swap the block with its neighbour: `by` = 1 later, -1 earlier. Both keep their lengths."""
    timeline = unrolled(timeline, generated)
    index = find(timeline, cue)
    first = index if by > 0 else index - 1
    if by not in (1, -1) or first < 0 or first + 1 >= len(timeline.cues):
        raise ValueError(f"the block at chunk {cue} has no neighbour {'after' if by > 0 else 'before'} it to swap with")
    left, right = timeline.cues[first], timeline.cues[first + 1]
    cues = list(timeline.cues)
    cues[first : first + 2] = [
        replace(right, start=left.start),
        replace(left, start=left.start + _length(timeline, first + 1)),
    ]
    return _build(timeline, cues, timeline.markers, generated)


def _length(timeline: Timeline, index: int) -> int:
    stop = timeline.stop_of(index)
    return NOMINAL_CHUNKS if stop is None else stop - timeline.cues[index].start


def duplicate(timeline: Timeline, cue: int, *, generated: int = 0) -> Timeline:
    """The same block once more right after it; everything later moves back by its length."""
    timeline = unrolled(timeline, generated)
    index = find(timeline, cue)
    length = _length(timeline, index)
    stop = cue + length
    copy = replace(timeline.cues[index], start=stop)
    later = [replace(c, start=c.start + length) for c in timeline.cues[index + 1 :]]
    marks = [_shifted(mark, length, stop) for mark in timeline.markers]
    return _build(timeline, [*timeline.cues[: index + 1], copy, *later], marks, generated)


def change(
    timeline: Timeline,
    cue: int,
    *,
    parts: Parts | None = None,
    transition: Transition | None = None,
    memory: MemoryMode | None = None,
    generated: int = 0,
) -> Timeline:
    """Another prompt (or mix), transition or memory mode; None leaves it."""
    timeline = unrolled(timeline, generated)
    index = find(timeline, cue)
    old = timeline.cues[index]
    new = replace(
        old,
        parts=old.parts if parts is None else parts,
        transition=old.transition if transition is None else transition,
        memory=old.memory if memory is None else memory,
    )
    return _build(timeline, [*timeline.cues[:index], new, *timeline.cues[index + 1 :]], timeline.markers, generated)


def rename(timeline: Timeline, cue: int, name: str, *, generated: int = 0) -> Timeline:
    """Another label; allowed in the past, it shows in no picture."""
    timeline = unrolled(timeline, generated)
    index = find(timeline, cue)
    cues = [
        *timeline.cues[:index],
        replace(timeline.cues[index], name=name.strip()),
        *timeline.cues[index + 1 :],
    ]
    return _build(timeline, cues, timeline.markers, generated)


def retitle(timeline: Timeline, title: str) -> Timeline:
    return replace(timeline, title=title.strip())


def put_marker(timeline: Timeline, marker: Marker, *, generated: int = 0) -> Timeline:
    """Set a marker; it replaces the one of its kind at that chunk (or the only loop, the only end)."""
    timeline = unrolled(timeline, generated)
    single = isinstance(marker, LoopMark | EndMark)
    rest = [m for m in timeline.markers if m.kind != marker.kind or not (single or m.chunk == marker.chunk)]
    return _build(timeline, timeline.cues, [*rest, marker], generated)


def find_marker(timeline: Timeline, kind: str, chunk: int) -> Marker:
    for marker in timeline.markers:
        if marker.kind == kind and marker.chunk == chunk:
            return marker
    raise ValueError(f"there is no {kind!r} marker at chunk {chunk}")


def remove_marker(timeline: Timeline, kind: str, chunk: int, *, generated: int = 0) -> Timeline:
    timeline = unrolled(timeline, generated)
    gone = find_marker(timeline, kind, chunk)
    return _build(timeline, timeline.cues, [m for m in timeline.markers if m != gone], generated)


def move_marker(timeline: Timeline, kind: str, chunk: int, to: int, *, generated: int = 0) -> Timeline:
    timeline = unrolled(timeline, generated)
    old = find_marker(timeline, kind, chunk)
    kept = [m for m in timeline.markers if m != old and not (m.kind == kind and m.chunk == to)]
    return _build(timeline, timeline.cues, [*kept, replace(old, chunk=to)], generated)


def clear(timeline: Timeline, *, generated: int = 0) -> Timeline:
    """Forget everything planned; the cue in force goes on."""
    timeline = unrolled(timeline, generated)
    cues = [cue for cue in timeline.cues if cue.start < max(1, generated)]
    return _build(timeline, cues, [mark for mark in timeline.markers if mark.chunk < generated], generated)
