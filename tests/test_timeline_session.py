"""Timelines in the engine: what is planned is made, edits arrive in a chunk, a plan replays a session to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cf_app import cli, generate, weights
from cf_app.engine.engine import Engine
from cf_app.engine.messages import Applied, ChunkReady, Ended, Event, Play, SetMemory, SetPrompt, SetSeed, SetTimeline
from cf_app.engine.timeline import PromptCue, Timeline, Transition
from cf_app.engine.timeline_edits import add, put_marker, resize
from cf_app.engine.timeline_io import dumps, loads
from cf_app.engine.timeline_markers import EndMark, LoopMark, MemoryMark, SeedMark
from cf_app.engine.worker import Worker
from tests.tiny import tiny_engine

RED, BLUE, GREEN = "a red ball hops", "a blue star at night", "a green cube"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture
def worker(engine: Engine) -> Iterator[Worker]:
    worker = Worker(engine, overlap=False)
    yield worker
    worker.shutdown()


def played(worker: Worker, session: str, upto: int | None = None) -> list[Event]:
    """The session's events until it ends, or until chunk `upto` is there."""
    events = []
    while True:
        event = worker.events(session, timeout=60)
        assert event is not None
        events.append(event)
        if isinstance(event, Ended) or (isinstance(event, ChunkReady) and event.chunk == upto):
            return events


def chunks(events: list[Event]) -> list[ChunkReady]:
    return [event for event in events if isinstance(event, ChunkReady)]


def test_the_plan_is_what_is_made(engine: Engine, worker: Worker) -> None:
    plan = Timeline(
        (
            PromptCue.of(0, RED),
            PromptCue.of(2, BLUE, Transition(2, "spherical"), "recache"),
            PromptCue(5, ((GREEN, 1.0), (RED, 2.0)), memory="flush"),
        ),
        (SeedMark(1, 9), MemoryMark.of(3, {"tau": 0.5}), EndMark(7)),
    )
    session = worker.open(timeline=plan, seed=3)
    worker.send(session, Play())
    film = chunks(played(worker, session))
    assert [event.prompt for event in film] == [plan.prompt_at(c).caption for c in range(7)]
    assert [event.seed for event in film] == [3, 9, 9, 9, 9, 9, 9]
    assert [event.snapshot.tau for event in film][2:4] == [engine.policy.tau, 0.5]
    again = engine.new_session(timeline=loads(dumps(plan)), seed=3)
    for event, repeated in zip(film, again.stream(), strict=True):
        assert np.array_equal(event.frames, repeated.frames)


def test_a_session_that_was_steered_live_replays_from_its_exported_timeline(engine: Engine, worker: Worker) -> None:
    session = worker.open(RED, 5, chunks=8)
    worker.send(session, Play())
    film = chunks(played(worker, session, upto=1))
    worker.send(session, SetPrompt(BLUE))
    worker.send(session, SetSeed(77))
    film += chunks(played(worker, session, upto=3))
    worker.send(session, SetMemory({"tau": 0.2}))
    status = worker.state(session)
    assert status.timeline is not None
    edited = add(status.timeline, status.chunk + 1, GREEN, generated=status.chunk)
    worker.send(session, SetTimeline(edited))
    film += chunks(played(worker, session, upto=7))
    final = worker.state(session).timeline
    assert final is not None
    assert {event.prompt for event in film} == {RED, BLUE, GREEN}
    assert final.end is None
    again = engine.new_session(timeline=loads(dumps(final)), seed=5)
    for event, repeated in zip(film, again.stream(chunks=8), strict=True):
        assert (event.prompt, event.seed, event.snapshot.tau) == (repeated.prompt, repeated.seed, repeated.snapshot.tau)
        assert np.array_equal(event.frames, repeated.frames)


def test_the_command_line_makes_the_same_pixels(
    engine: Engine, worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = Timeline((PromptCue.of(0, RED), PromptCue.of(2, BLUE, Transition(2))), (SeedMark(3, 8), EndMark(5)))
    session = worker.open(timeline=plan, seed=3)
    worker.send(session, Play())
    film = chunks(played(worker, session))
    written: list[np.ndarray] = []

    class Writer:
        def __init__(self, path: Path, fps: int) -> None: ...
        def __enter__(self) -> Writer:
            return self

        def __exit__(self, *_: object) -> None: ...
        def write(self, frames: np.ndarray) -> None:
            written.append(frames)

    monkeypatch.setattr(weights, "load", lambda *_: engine)
    monkeypatch.setattr(generate, "Mp4Writer", Writer)
    story = tmp_path / "story.json"
    story.write_text(dumps(plan), encoding="utf-8")
    assert cli.main(["generate", "--timeline", str(story), "--seed", "3", "--out", str(tmp_path / "story.mp4")]) == 0
    assert len(written) == 5
    assert all(np.array_equal(event.frames, frames) for event, frames in zip(film, written, strict=True))


def test_an_edit_reaches_the_engine_within_a_chunk(worker: Worker) -> None:
    session = worker.open(RED, 1)
    worker.send(session, Play())
    played(worker, session, upto=1)
    status = worker.state(session)
    assert status.timeline is not None
    promised = worker.send(session, SetTimeline(add(status.timeline, status.chunk, BLUE, generated=status.chunk)))
    events = played(worker, session, upto=promised + 1)
    applied = [event for event in events if isinstance(event, Applied) and isinstance(event.command, SetTimeline)]
    first = next(event.chunk for event in chunks(events) if event.prompt == BLUE)
    assert [event.chunk for event in applied] == [first]
    assert first <= promised + 1
    worker.close(session)


def test_an_edit_never_changes_what_is_generated(worker: Worker) -> None:
    session = worker.open(RED, 1)
    worker.send(session, Play())
    played(worker, session, upto=3)
    worker.send(session, SetTimeline(Timeline.single(BLUE)))  # as if it had been BLUE from the start
    events = played(worker, session, upto=8)
    timeline = worker.state(session).timeline
    assert timeline is not None
    assert [timeline.prompt_at(chunk).caption for chunk in range(4)] == [RED] * 4
    assert chunks(events)[-1].prompt == BLUE
    worker.close(session)


def test_the_end_can_be_moved_while_it_plays(worker: Worker) -> None:
    session = worker.open(timeline=put_marker(Timeline.single(RED), EndMark(30)), seed=1)
    worker.send(session, Play())
    played(worker, session, upto=1)
    status = worker.state(session)
    assert status.timeline is not None
    worker.send(session, SetTimeline(resize(status.timeline, 0, 6, generated=status.chunk)))
    events = played(worker, session)
    assert chunks(events)[-1].chunk == 5
    assert events[-1] == Ended(session, "finished")


def test_a_loop_plays_on(worker: Worker) -> None:
    plan = Timeline((PromptCue.of(0, RED), PromptCue.of(2, BLUE)), (LoopMark(3, 0),))
    session = worker.open(timeline=plan, seed=1, chunks=8)
    worker.send(session, Play())
    assert [event.prompt for event in chunks(played(worker, session))] == [RED, RED, BLUE, RED, RED, BLUE, RED, RED]
