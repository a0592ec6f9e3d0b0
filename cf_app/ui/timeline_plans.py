"""The timelines of all open pages, with undo: requests of the editor in, the new plan out. Knows nothing of
Gradio or HTML.

A page has one plan (token `doc`). While a run plays it, the worker's session holds the truth: every request
first takes over what the session has (a prompt typed live, say), and every edit goes there as
`SetTimeline`. A plan that nobody asked for in a long time is dropped; its page then sends its timeline
again (`gone`).

A request is `{doc, run, op, fields}`; `_OPS` has one line per operation. The answer is `{ok, doc, applies,
plan}`, `applies` being the first chunk that looks different (null: none), or `{ok: false, error,
branch_at?}`; `branch_at` is where a branch could do what was refused. `branch` {chunk} changes nothing: it answers
`{ok, timeline}`, the plan for a new run that is what this one was up to that chunk, and waits there.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from cf_app.engine import timeline_edits as edits
from cf_app.engine import timeline_io as io
from cf_app.engine.messages import SessionStatus, SetPrompt, SetTimeline
from cf_app.engine.timeline import CUT, Parts, PromptCue, Timeline
from cf_app.engine.timeline_history import History, PastError, first_change, unrolled
from cf_app.engine.timeline_markers import PauseMark
from cf_app.engine.timeline_schema import marker_from, parts_from, transition_from

from .commands import read_prompt
from .run import Run
from .tabs import Tabs

Answer = dict[str, Any]
Request = Mapping[str, Any]

_KEPT = 256  # plans; a page whose plan was dropped sends it again

FIRST_PROMPT = "a red ball hops through the meadow by day"


class Plans:
    """One `History` per page. Safe to call from any thread."""

    def __init__(self, tabs: Tabs) -> None:
        self._tabs = tabs
        self._seconds = tabs.engine.geometry.chunk_seconds
        self._histories: OrderedDict[str, History] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer:
        """Do what is asked; see the module."""
        try:
            with self._lock:
                return self._edit(request)
        except PastError as error:
            return {"ok": False, "error": f"{str(error)[:1].upper()}{str(error)[1:]}.", "branch_at": error.branch_at}
        except KeyError as error:
            return {"ok": False, "error": f"The request lacks {error}."}
        except ValueError as error:
            return {"ok": False, "error": f"{str(error)[:1].upper()}{str(error)[1:]}"}

    def _edit(self, request: Request) -> Answer:
        if request["op"] == "open":
            return self._open(request)
        doc = str(request.get("doc"))
        if doc not in self._histories:
            return {"ok": False, "gone": True, "error": "The server has forgotten this timeline. Try again."}
        run, status = self._session(request.get("run"))
        generated = 0 if status is None else status.chunk
        before = self._histories[doc]
        if status is not None and status.timeline is not None:
            before = before.edited(status.timeline)
        if request["op"] == "branch":
            return {"ok": True, "timeline": io.to_dict(branched(before.timeline, _whole(request, "chunk")))}
        if request["op"] == "live" and run is not None and len(parts := _parts(request)) == 1:
            run.send(SetPrompt(parts[0][0]))  # the very way of the prompt box
            history = before.edited(run.worker.state(run.session).timeline or before.timeline)
        else:
            history = self._apply(before, request, generated)
            if run is not None and history.timeline != before.timeline:
                run.send(SetTimeline(history.timeline))
        self._keep(doc, history)
        changed = first_change(unrolled(before.timeline, generated), unrolled(history.timeline, generated))
        return self._said(doc, history, generated, changed, run)

    def _open(self, request: Request) -> Answer:
        told = request.get("timeline")
        examples = self._tabs.engine.example_prompts
        timeline = io.from_dict(told) if told else Timeline.single(examples[0] if examples else FIRST_PROMPT)
        doc = secrets.token_urlsafe(12)
        self._keep(doc, History(timeline))
        return self._said(doc, History(timeline), 0, None)

    def _keep(self, doc: str, history: History) -> None:
        self._histories[doc] = history
        self._histories.move_to_end(doc)
        while len(self._histories) > _KEPT:
            self._histories.popitem(last=False)

    def _session(self, token: object) -> tuple[Run | None, SessionStatus | None]:
        if token is None:
            return None, None
        try:
            run = self._tabs.run(token)
            return (None, None) if run.closed else (run, run.worker.state(run.session))
        except ValueError:  # over in this very moment: the plan is free again
            return None, None

    def _apply(self, history: History, request: Request, generated: int) -> History:
        op = request["op"]
        if op == "undo":
            return history.undone(generated)
        if op == "redo":
            return history.redone(generated)
        if op == "load":
            other = io.read(str(request["text"]), self._seconds)
            return history.edited(edits.placed(history.timeline, other, generated=generated))
        if op not in _OPS:
            raise ValueError(f"op is {op!r}; expected one of {', '.join(_OPS)}, open, load, undo, redo")
        return history.edited(_OPS[op](history.timeline, request, generated))

    def _said(
        self, doc: str, history: History, generated: int, changed: int | None, run: Run | None = None
    ) -> Answer:
        timeline = unrolled(history.timeline, generated)
        loop = timeline.loop
        plan = {
            "title": timeline.title,
            "blocks": [self._block(timeline, index, cue, run) for index, cue in enumerate(timeline.cues)],
            "markers": [io.marker_to_dict(mark) for mark in timeline.markers],
            "end": timeline.end,
            "loop": None if loop is None else loop.chunk,
            "generated": generated,
            "live": run is not None,
            "undo": bool(history.undos),
            "redo": bool(history.redos),
            "story": is_story(timeline),
            "timeline": io.to_dict(timeline),
            "text": io.to_text(timeline, self._seconds),
        }
        return {"ok": True, "doc": doc, "applies": changed, "plan": plan}

    def _block(self, timeline: Timeline, index: int, cue: PromptCue, run: Run | None) -> Answer:
        engine = self._tabs.engine
        unknown = [word for prompt, _ in cue.parts for word in engine.unknown_words(prompt)]
        subjects = [word for prompt, _ in cue.parts for word in engine.subjects_for(prompt)]
        return {
            "start": cue.start,
            "stop": timeline.stop_of(index),
            "caption": cue.caption,
            "color": None if run is None else run.colors.number(cue.caption),
            "parts": [{"prompt": prompt, "weight": weight} for prompt, weight in cue.parts],
            "transition": {"chunks": cue.transition.chunks, "method": cue.transition.method},
            "memory": cue.memory,
            "name": cue.name,
            "unknown": list(dict.fromkeys(unknown)),
            "subjects": list(dict.fromkeys(subjects)),
        }


def branched(timeline: Timeline, chunk: int) -> Timeline:
    """The plan with a pause before `chunk` and none earlier. Seeds and prompts are as they were: played again, the
    chunks before it come out the same."""
    timeline = unrolled(timeline, chunk)
    for mark in timeline.markers:
        if isinstance(mark, PauseMark) and mark.chunk < chunk:
            timeline = edits.remove_marker(timeline, mark.kind, mark.chunk)
    return edits.put_marker(timeline, PauseMark(chunk))


def is_story(timeline: Timeline) -> bool:
    """More than one prompt for ever, so more than a prompt box can say."""
    return len(timeline.cues) > 1 or bool(timeline.markers) or len(timeline.cues[0].parts) > 1


def _whole(request: Request, name: str) -> int:
    value = request[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}; expected a whole chunk index")
    return value


def _resize(timeline: Timeline, request: Request, generated: int) -> Timeline:
    stop = None if request["stop"] is None else _whole(request, "stop")
    return edits.resize(timeline, _whole(request, "cue"), stop, generated=generated)


def _parts(request: Request) -> Parts:
    return tuple((read_prompt(prompt), weight) for prompt, weight in parts_from(request["parts"]))


def _live(timeline: Timeline, request: Request, generated: int) -> Timeline:
    """A mix of prompts from the next chunk on."""
    timeline = unrolled(timeline, generated)
    if all(cue.start != generated for cue in timeline.cues):
        timeline = edits.split(timeline, generated, generated=generated)
    return edits.change(timeline, generated, parts=_parts(request), transition=CUT, generated=generated)


def _change(timeline: Timeline, request: Request, generated: int) -> Timeline:
    return edits.change(
        timeline,
        _whole(request, "cue"),
        parts=_parts(request) if "parts" in request else None,
        transition=transition_from(request["transition"]) if "transition" in request else None,
        memory=request.get("memory"),
        generated=generated,
    )


def _move_marker(timeline: Timeline, request: Request, generated: int) -> Timeline:
    chunk, to = _whole(request, "chunk"), _whole(request, "to")
    return edits.move_marker(timeline, str(request["kind"]), chunk, to, generated=generated)


_OPS: dict[str, Callable[[Timeline, Request, int], Timeline]] = {
    "sync": lambda t, r, g: t,
    "add": lambda t, r, g: edits.add(t, _whole(r, "chunk"), read_prompt(r["prompt"]), generated=g),
    "split": lambda t, r, g: edits.split(t, _whole(r, "at"), generated=g),
    "delete": lambda t, r, g: edits.delete(t, _whole(r, "cue"), generated=g),
    "move": lambda t, r, g: edits.move(t, _whole(r, "cue"), _whole(r, "to"), generated=g),
    "resize": _resize,
    "reorder": lambda t, r, g: edits.reorder(t, _whole(r, "cue"), _whole(r, "by"), generated=g),
    "duplicate": lambda t, r, g: edits.duplicate(t, _whole(r, "cue"), generated=g),
    "rename": lambda t, r, g: edits.rename(t, _whole(r, "cue"), str(r["name"]), generated=g),
    "change": _change,
    "live": _live,
    "title": lambda t, r, g: edits.retitle(t, str(r["title"])),
    "put_marker": lambda t, r, g: edits.put_marker(t, marker_from(r["marker"]), generated=g),
    "move_marker": _move_marker,
    "remove_marker": lambda t, r, g: edits.remove_marker(t, str(r["kind"]), _whole(r, "chunk"), generated=g),
    "clear": lambda t, r, g: edits.clear(t, generated=g),
}
