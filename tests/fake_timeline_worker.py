"""The fake worker with the engine's timelines, and the page with its timeline editor; no model.

`python -m tests.fake_timeline_worker` opens it.
"""
from __future__ import annotations

from dataclasses import replace

from cf_app.engine import messages as m
from cf_app.engine.timeline import Timeline
from cf_app.engine.timeline_edits import prompt_from
from cf_app.engine.timeline_history import spliced, unrolled
from cf_app.engine.timeline_markers import PauseMark, SeedMark
from tests.fake_worker import FakeEngine, FakeWorker


class TimelineWorker(FakeWorker):
    def open(self, prompt=None, seed=0, *, chunks=None, timeline=None, policy=None, start=None) -> str:
        name = super().open(prompt or timeline.prompt_at(0).caption, seed, chunks=chunks, start=start)
        self.sessions[name].timeline = timeline or Timeline.single(prompt)
        return name

    def state(self, session_id: str) -> m.SessionStatus:
        session = self.sessions.get(session_id)
        if session is None:
            raise ValueError(f"there is no session {session_id}")
        ahead = tuple(session.inbox)
        timeline = session.timeline
        for command in ahead:
            timeline = after(timeline, command, session.chunk)
        return replace(super().state(session_id), timeline=timeline, ahead=ahead)

    def _apply(self, name, s, command) -> None:
        if isinstance(command, m.Resume) and s.state == "playing" and self._at_pause(s):
            s.paused_at = s.chunk
        s.timeline = after(s.timeline, command, s.chunk)
        super()._apply(name, s, command)

    def _at_pause(self, s) -> bool:
        return s.paused_at != s.chunk and any(isinstance(mark, PauseMark) for mark in s.timeline.markers_at(s.chunk))

    def _step(self, name, s) -> None:
        marks = s.timeline.markers_at(s.chunk)
        if self._at_pause(s):
            s.paused_at, s.state, s.busy = s.chunk, "paused", 0
            s.outbox.put(m.StateChanged(name, "paused"))
            return
        s.prompt = s.timeline.prompt_at(s.chunk).caption
        for mark in marks:
            if isinstance(mark, SeedMark):
                s.seed = mark.seed
        super()._step(name, s)
        if s.timeline.end is not None and s.chunk >= s.timeline.end:
            s.outbox.put(m.Ended(name, "finished"))
            s.closed = True


def after(timeline: Timeline, command: m.Command, chunk: int) -> Timeline:
    """The timeline once a command has been applied at `chunk`."""
    if isinstance(command, m.SetTimeline):
        return spliced(timeline, command.timeline, chunk)
    if isinstance(command, m.SetPrompt):
        at = chunk if command.at_chunk is None else command.at_chunk
        return prompt_from(unrolled(timeline, chunk), at, command.prompt)
    return timeline


def build(speed: float = 2.0):
    """The page around a fake engine: (page, worker)."""
    from cf_app.ui.layout import Places, build_page
    from cf_app.ui.timeline_editor import SCRIPTS, STYLES, TimelineEditor

    engine = FakeEngine()
    worker = TimelineWorker(engine, speed=speed)
    places = Places(timeline=lambda tabs: TimelineEditor(tabs, ("slow_fast", "fifo")), styles=STYLES, scripts=SCRIPTS)
    return build_page(engine, worker, places=places), worker


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=7861)
    parser.add_argument("--speed", type=float, default=2.0)
    options = parser.parse_args()
    page, _ = build(options.speed)
    page.demo.launch(server_name="127.0.0.1", server_port=options.port, quiet=True, **page.launch)


if __name__ == "__main__":
    main()
