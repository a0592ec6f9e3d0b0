"""What time does to a `Timeline`: the past that may not change, loops written out, edits that arrive late,
undo and redo."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cf_app.engine.timeline import PromptCue, Timeline, Transition
from cf_app.engine.timeline_markers import EndMark, LoopMark, Marker

HISTORY_LIMIT = 200


class PastError(ValueError):
    """The edit would change what has been generated. `branch_at`: the chunk from which a branch could do
    it."""

    def __init__(self, branch_at: int, generated: int) -> None:
        super().__init__(
            f"chunk {branch_at} is generated already (chunk {generated} is next), so it can not change any more; "
            f"branch at chunk {branch_at} to try it there, or edit from chunk {generated} on"
        )
        self.branch_at = branch_at


def first_change(old: Timeline, new: Timeline) -> int | None:
    """First chunk that the two plans may show differently (None: never). Names and titles show nothing."""
    chunks = [cue.start for cue in {_plain(c) for c in old.cues} ^ {_plain(c) for c in new.cues}]
    chunks += [mark.chunk for mark in set(old.markers) ^ set(new.markers)]
    return min(chunks, default=None)


def _plain(cue: PromptCue) -> PromptCue:
    return replace(cue, name="")


def check_past(old: Timeline, new: Timeline, generated: int) -> Timeline:
    """`new`, or PastError if it differs from `old` before chunk `generated`."""
    changed = first_change(old, new)
    if changed is not None and changed < generated:
        raise PastError(changed, generated)
    return new


def unrolled(timeline: Timeline, generated: int) -> Timeline:
    """The same plan with every pass of its loop up to chunk `generated` written out, so that the past is
    fixed and the loop lies ahead. `prompt_at` and `markers_at` give the same (but for the index of the
    cue)."""
    loop = timeline.loop
    end = timeline.end
    if loop is None or loop.chunk > generated or (end is not None and end <= loop.chunk):
        return timeline
    passes = (generated - loop.chunk) // loop.period + 1
    shift = passes * loop.period
    body = [cue for cue in timeline.cues if loop.to <= cue.start < loop.chunk]
    if not body or body[0].start != loop.to:
        entered = timeline.cues[timeline.index_at(loop.to)]
        body.insert(
            0,
            replace(entered, start=loop.to, transition=Transition(0, entered.transition.method), memory="keep"),
        )
    cues = [cue for cue in timeline.cues if cue.start < loop.chunk]
    marks = [mark for mark in timeline.markers if mark.chunk < loop.chunk]
    inner = [mark for mark in marks if mark.chunk >= loop.to]
    for number in range(1, passes + 1):
        cues += [replace(cue, start=cue.start + number * loop.period) for cue in body]
        marks += [replace(mark, chunk=mark.chunk + number * loop.period) for mark in inner]
    cues += [replace(cue, start=cue.start + shift) for cue in timeline.cues if cue.start >= loop.chunk]
    for mark in timeline.markers:
        if isinstance(mark, LoopMark):
            marks.append(LoopMark(mark.chunk + shift, mark.to + shift))
        elif mark.chunk >= loop.chunk:
            marks.append(replace(mark, chunk=mark.chunk + shift))
    return replace(timeline, cues=tuple(cues), markers=tuple(sorted(marks, key=lambda m: m.chunk)))


def spliced(old: Timeline, new: Timeline, at: int) -> Timeline:
    """`old` before chunk `at`, `new` from there on: how a timeline that was edited while chunks went by is
    applied. What the new plan would have begun a moment earlier begins at `at`."""
    old, new = unrolled(old, at), unrolled(new, at)
    if at == 0:
        return new
    cues = [cue for cue in old.cues if cue.start < at]
    late = new.cues[new.index_at(at)]
    if late.start < at and _plain(late) != _plain(cues[-1]):
        cues.append(replace(late, start=at))
    cues += [cue for cue in new.cues if cue.start >= at]
    once = LoopMark | EndMark  # one of a kind in the whole plan: the new plan's counts
    marks: list[Marker] = [mark for mark in old.markers if mark.chunk < at and not isinstance(mark, once)]
    ahead = [mark for mark in new.markers if mark.chunk >= at]
    taken = {mark.kind for mark in ahead if mark.chunk == at or isinstance(mark, once)} | {LoopMark.kind}
    missed = {m.kind: replace(m, chunk=at) for m in new.markers if m.chunk < at and m not in old.markers}
    marks += ahead + [mark for kind, mark in missed.items() if kind not in taken]
    return replace(new, cues=tuple(cues), markers=tuple(sorted(marks, key=lambda m: m.chunk)))


@dataclass(frozen=True)
class History:
    """A timeline with its undo and redo stacks."""

    timeline: Timeline
    undos: tuple[Timeline, ...] = ()
    redos: tuple[Timeline, ...] = ()

    def edited(self, new: Timeline) -> History:
        """`new` as one undoable step; nothing if it changes nothing."""
        if new == self.timeline:
            return self
        return History(new, (*self.undos, self.timeline)[-HISTORY_LIMIT:], ())

    def undone(self, generated: int = 0) -> History:
        if not self.undos:
            raise ValueError("there is nothing to undo")
        back = check_past(unrolled(self.timeline, generated), unrolled(self.undos[-1], generated), generated)
        return History(back, self.undos[:-1], (*self.redos, self.timeline))

    def redone(self, generated: int = 0) -> History:
        if not self.redos:
            raise ValueError("there is nothing to redo")
        again = check_past(unrolled(self.timeline, generated), unrolled(self.redos[-1], generated), generated)
        return History(again, (*self.undos, self.timeline), self.redos[:-1])
