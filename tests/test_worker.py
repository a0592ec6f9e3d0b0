"""The worker: order of events, back-pressure, turns, commands between chunks, failures, freeing."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from cf_app.engine.engine import Engine
from cf_app.engine.kept import MOST, Kept
from cf_app.engine.messages import (
    Applied,
    ChunkReady,
    Ended,
    Failed,
    Pause,
    Pin,
    Play,
    Resume,
    SetMemory,
    SetPrompt,
    SetSeed,
    StateChanged,
    Stop,
)
from cf_app.engine.timeline import PromptCue, Timeline
from cf_app.engine.timeline_markers import EndMark, PauseMark, SeedMark
from cf_app.engine.worker import Worker
from tests.tiny import tiny_engine
from tests.worker_events import BLUE, PATIENCE, RED, chunks_of, following, next_chunks, until


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture(params=[True, False], ids=["overlap", "one thread"])
def worker(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Worker]:
    worker = Worker(engine, buffer_chunks=2, overlap=request.param)
    yield worker
    worker.shutdown()


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_whole_life(worker: Worker, engine: Engine) -> None:
    session = worker.open(RED, 3, chunks=5)
    assert worker.state(session).state == "paused" and worker.sessions() == [session]
    assert worker.events(session, 0.01) is None
    assert worker.send(session, Play()) == 0
    events = until(worker, session, Ended)
    assert events[:2] == [Applied(session, Play(), 0), StateChanged(session, "playing")]
    assert events[-2:] == [StateChanged(session, "stopped"), Ended(session, "finished")]
    expected = engine.new_session(RED, 3).stream(chunks=5)
    for event, chunk in zip(events[2:-2], expected, strict=True):
        assert isinstance(event, ChunkReady) and np.array_equal(event.frames, chunk.frames)
    assert worker.events(session, PATIENCE) is None
    assert [snapshot.chunk for snapshot in worker.history(session)] == list(range(5))
    with pytest.raises(ValueError, match="ended"):
        worker.send(session, Play())
    worker.close(session)
    wait_for(lambda: not worker.sessions())


def test_a_slow_reader_makes_the_worker_wait(worker: Worker) -> None:
    session = worker.open(RED)
    worker.send(session, Play())
    wait_for(lambda: worker.state(session).queued == 2)
    time.sleep(0.1)
    assert worker.state(session).queued == 2 and worker.state(session).chunk == 2
    assert [chunk.chunk for chunk in next_chunks(worker, session, 6)] == list(range(6))


def test_commands_apply_between_chunks(worker: Worker) -> None:
    session = worker.open(RED, 1)
    worker.send(session, Play())
    wait_for(lambda: worker.state(session).queued == 2)
    at = worker.send(session, SetPrompt(BLUE))
    worker.send(session, SetSeed(77))
    later = worker.send(session, SetPrompt(RED, at_chunk=at + 2))
    assert (at, later) == (2, 4)
    events = [following(worker, session)]
    while not (isinstance(events[-1], ChunkReady) and events[-1].chunk == 5):
        events.append(following(worker, session))
    chunks = [event for event in events if isinstance(event, ChunkReady)]
    assert [chunk.prompt for chunk in chunks] == [RED, RED, BLUE, BLUE, RED, RED]
    assert [chunk.seed for chunk in chunks] == [1, 1, 77, 77, 77, 77]
    places = {type(event.command).__name__: events.index(event) for event in events if isinstance(event, Applied)}
    assert places["SetSeed"] < events.index(chunks[2])


def test_pause_and_resume(worker: Worker) -> None:
    session = worker.open(RED)
    worker.send(session, Play())
    first = next_chunks(worker, session, 3)
    worker.send(session, Pause())
    events = until(worker, session, StateChanged)
    assert events[-1] == StateChanged(session, "paused")
    first += [event for event in events if isinstance(event, ChunkReady)]
    assert worker.events(session, 0.1) is None
    worker.send(session, Resume())
    first += next_chunks(worker, session, 3)
    assert [chunk.chunk for chunk in first] == list(range(len(first)))
    worker.send(session, Stop())
    assert until(worker, session, Ended)[-1] == Ended(session, "stopped")


def test_bad_commands_are_refused_at_once(worker: Worker) -> None:
    session = worker.open(RED)
    worker.send(session, Play())
    next_chunks(worker, session, 3)
    bad = [
        SetPrompt(""),
        SetPrompt(BLUE, at_chunk=0),
        SetPrompt(BLUE, memory="forget"),
        SetSeed(-1),
        SetMemory({"tau": 7}),
        SetMemory({"policy": "magic"}),
        SetMemory({"switch": "maybe"}),
        Pin(4000),
        "play",
    ]
    for command in bad:
        with pytest.raises(ValueError) as caught:
            worker.send(session, command)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no session"):
        worker.send("nobody", Play())
    with pytest.raises(ValueError, match="empty"):
        worker.open("   ")
    assert not any(isinstance(event, Applied) for event in next_chunks(worker, session, 3))


def test_sessions_take_turns_and_do_not_mix(worker: Worker, engine: Engine) -> None:
    prompts = {worker.open(prompt, seed): (prompt, seed) for prompt, seed in ((RED, 1), (BLUE, 2), (RED, 3))}
    results: dict[str, list[ChunkReady]] = {}

    def read(name: str) -> None:
        results[name] = next_chunks(worker, name, 5)

    threads = [threading.Thread(target=read, args=(name,)) for name in prompts]
    for name in prompts:
        worker.send(name, Play())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for name, (prompt, seed) in prompts.items():
        expected = list(engine.new_session(prompt, seed).stream(chunks=5))
        assert all(np.array_equal(a.frames, b.frames) for a, b in zip(results[name], expected, strict=True))


@pytest.mark.parametrize("stage", ["decode", "denoise"])
def test_a_failure_pauses_and_can_be_repeated(stage: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = worker.engine
    expected = list(engine.new_session(RED, 1).stream(chunks=6))
    session = worker.open(RED, 1)
    worker.send(session, Play())
    got = next_chunks(worker, session, 2)

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of luck\nand more")

    with monkeypatch.context() as patch:
        part, name = (engine.vae, "decode") if stage == "decode" else (engine.transformer.proj_out, "forward")
        patch.setattr(part, name, broken)
        events = until(worker, session, Failed)
        got += [event for event in events if isinstance(event, ChunkReady)]
        assert events[-1] == Failed(session, "out of luck", fatal=False)
        assert until(worker, session, StateChanged)[-1] == StateChanged(session, "paused")
        wait_for(lambda: worker.state(session).state == "paused")
    worker.send(session, Play())
    got += next_chunks(worker, session, 6 - len(got))
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("stage", ["denoise", "clean pass", "decode"])
def test_out_of_memory_leaves_all_as_it_was_and_says_what_to_do(
    stage: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = worker.engine
    expected = list(engine.new_session(RED, 1).stream(chunks=6))
    session = worker.open(RED, 1)
    worker.send(session, Play())
    got = next_chunks(worker, session, 2)
    passes, model, decode = len(engine.schedule), engine.transformer.proj_out.forward, engine.vae.decode
    taken: list[int] = []  # passes of the model since the card is full

    def full(*arguments: Tensor) -> object:
        taken.append(len(taken))
        if stage == "clean pass" and len(taken) % (passes + 1):
            return model(*arguments)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of ...")

    worker.send(session, Pause())
    got += chunks_of(until(worker, session, lambda event: event == StateChanged(session, "paused")))
    before, held = worker.state(session), worker._desks[session].session.memory.snapshot()
    with monkeypatch.context() as patch:
        if stage == "decode":
            patch.setattr(engine.vae, "decode", full)
        else:
            patch.setattr(engine.transformer.proj_out, "forward", full)
        worker.send(session, Resume())
        events = until(worker, session, Failed)
        got += chunks_of(events)
        text = events[-1].message  # type: ignore[union-attr]
        assert "out of memory" in text and "memory smaller" in text and "play on" in text and "\n" not in text
        assert not events[-1].fatal  # type: ignore[union-attr]
        assert following(worker, session) == StateChanged(session, "paused")
        if stage != "decode":  # a chunk whose pictures are missing has its place in the memory already
            assert worker.state(session).chunk == before.chunk
            assert worker._desks[session].session.memory.snapshot() == held
    assert engine.vae.decode == decode and worker.state(session).prompt == RED
    worker.send(session, Resume())
    got += next_chunks(worker, session, 6 - len(got))
    assert [chunk.chunk for chunk in got] == list(range(6))
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(got, expected, strict=True))


def test_after_out_of_memory_the_memory_can_be_made_smaller(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    session = worker.open(RED, 1)
    other = worker.open(BLUE, 2)
    worker.send(session, Play())
    next_chunks(worker, session, 3)
    forward = worker.engine.transformer.proj_out.forward

    def full(x: Tensor) -> Tensor:
        desk = worker._desks[session]
        if desk.busy_with is not None and desk.session.memory.policy.slow > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x)

    monkeypatch.setattr(worker.engine.transformer.proj_out, "forward", full)
    until(worker, session, Failed)
    worker.send(session, SetMemory({"slow": 3}))
    worker.send(session, Resume())
    assert next_chunks(worker, session, 2)[-1].snapshot.slow == 3
    worker.send(other, Play())
    assert next_chunks(worker, other, 1)[0].prompt == BLUE


def test_markers(worker: Worker) -> None:
    cues = (PromptCue.of(0, RED), PromptCue.of(3, BLUE))
    timeline = Timeline(cues, (SeedMark(1, 9), PauseMark(2), EndMark(5)))
    session = worker.open(timeline=timeline, seed=4)
    worker.send(session, Play())
    before = until(worker, session, StateChanged)
    before += until(worker, session, StateChanged)
    assert before[-1] == StateChanged(session, "paused")
    assert [event.chunk for event in before if isinstance(event, ChunkReady)] == [0, 1]
    worker.send(session, Resume())
    after = until(worker, session, Ended)
    chunks = [event for event in (*before, *after) if isinstance(event, ChunkReady)]
    assert [chunk.prompt for chunk in chunks] == [RED, RED, RED, BLUE, BLUE]
    assert [chunk.seed for chunk in chunks] == [4, 9, 9, 9, 9]
    assert after[-1] == Ended(session, "finished")


def test_who_resumes_at_a_marker_is_past_it(engine: Engine) -> None:
    """An engine that makes nothing ahead has not looked at the marker yet when its reader has seen all before it."""
    worker = Worker(engine, adaptive=True)
    try:
        session = worker.open(timeline=Timeline((PromptCue.of(0, RED),), (PauseMark(4),)))
        worker.send(session, Play())
        next_chunks(worker, session, 4)
        worker.send(session, Resume())
        assert next_chunks(worker, session, 1)[0].chunk == 4
    finally:
        worker.shutdown()


def test_closing_frees_the_memory(worker: Worker) -> None:
    session = worker.open(RED)
    worker.send(session, Play())
    next_chunks(worker, session, 3)
    kept = weakref.ref(worker._desks[session].session.memory)
    worker.close(session)
    assert until(worker, session, Ended)[-1] == Ended(session, "closed")
    wait_for(lambda: not worker.sessions())

    def gone() -> bool:
        gc.collect()
        return kept() is None

    wait_for(gone)
    with pytest.raises(ValueError, match="no session"):
        worker.events(session, 0.01)


def test_shutdown_ends_everything(engine: Engine) -> None:
    worker = Worker(engine)
    session = worker.open(RED)
    worker.send(session, Play())
    next_chunks(worker, session, 1)
    worker.shutdown()
    assert until(worker, session, Ended)[-1].reason == "closed"  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="shut down"):
        worker.open(RED)


def film(worker: Worker, session: str, chunks: int) -> dict[int, ChunkReady]:
    """Its next chunks, by number."""
    return {chunk.chunk: chunk for chunk in next_chunks(worker, session, chunks)}


def test_a_branch_goes_on_from_a_copy_as_if_made_again(worker: Worker) -> None:
    cues = (PromptCue.of(0, RED), PromptCue.of(4, BLUE, memory="recache"))
    session = worker.open(timeline=Timeline(cues, (SeedMark(2, 9),)), seed=4)
    worker.send(session, Play())
    whole = film(worker, session, 9)
    other = Timeline((*cues, PromptCue.of(7, RED)), (SeedMark(2, 9), PauseMark(7)))
    found = worker.branch(session, 7, other)
    assert found is not None
    branch, first = found
    assert 4 < first <= 7, "not from the start"
    assert [snapshot.chunk for snapshot in worker.history(branch)] == list(range(first))
    replay = worker.open(timeline=other, seed=4)
    films = []
    for name, count in ((branch, 7 - first), (replay, 7)):
        worker.send(name, Play())
        made = film(worker, name, count) if count else {}
        until(worker, name, lambda event, name=name: event == StateChanged(name, "paused"))
        worker.send(name, Resume())
        films.append(made | film(worker, name, 3))
    for number, chunk in films[0].items():
        assert np.array_equal(chunk.frames, films[1][number].frames)
        assert (chunk.prompt, chunk.seed) == (films[1][number].prompt, films[1][number].seed)
        assert number >= 7 or np.array_equal(chunk.frames, whole[number].frames)
    assert not np.array_equal(films[0][7].frames, whole[7].frames)
    again = worker.branch(branch, 6, other)
    assert again is not None and again[1] <= 6, "the copies before it belong to the branch too"


def test_there_is_no_branch_without_a_copy(engine: Engine, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Timeline((PromptCue.of(0, RED),))
    assert worker.branch("nobody", 3, plan) is None
    session = worker.open(RED)
    worker.send(session, Play())
    next_chunks(worker, session, 2)
    assert worker.branch(session, 0, plan) is None
    monkeypatch.setattr("cf_app.engine.kept.MOST_BYTES", worker._desks[session].session.memory.cache.bytes_held)
    large = worker.open(RED)
    worker.send(large, Play())
    next_chunks(worker, large, 3)
    assert worker.branch(large, 2, plan) is None


def test_copies_are_few_and_evenly_apart(engine: Engine) -> None:
    session, kept = engine.new_session(RED), Kept()
    for chunk in range(1, 60):
        session.chunk = chunk
        kept.take(session)
        assert len(kept) <= MOST
    ends = [kept.upto(chunk).last() for chunk in (3, 20, 59)]
    assert ends[0] is None and [end.chunk for end in ends[1:] if end] == [16, 56]
    session.chunk = session.marked = 64
    kept.take(session)
    assert kept.upto(64).last() is ends[2], "its markers have acted, and a branch there may have others"
