"""Sessions in GPU calls of bounded length: nothing lost, nothing twice, and the page is heard while a call runs."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from cf_app.engine.engine import Engine
from cf_app.engine.handover import pack, unpack
from cf_app.engine.messages import (
    Applied,
    ChunkReady,
    Ended,
    Event,
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
from cf_app.memory.policy import Fifo, Policy, SlowFast
from cf_app.space.segment import Order, play_segment
from cf_app.space.segmented import SegmentedWorker
from tests.fake_zero_gpu import FakeZeroGPU
from tests.tiny import tiny_engine
from tests.worker_events import BLUE, PATIENCE, RED, chunks_of, following, until

Make = Callable[..., tuple[SegmentedWorker, FakeZeroGPU]]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture
def make(engine: Engine) -> Iterator[Make]:
    made: list[tuple[SegmentedWorker, FakeZeroGPU]] = []

    def worker(reuse: bool = False, **options: float) -> tuple[SegmentedWorker, FakeZeroGPU]:
        gpu = FakeZeroGPU(reuse=reuse)

        def task(order: Order) -> Iterator[object]:
            yield from play_segment(engine, order)

        made.append((SegmentedWorker(engine, gpu(task), **options), gpu))  # type: ignore[arg-type]
        return made[-1]

    yield worker
    for worker_, gpu in made:
        worker_.shutdown()
        gpu.close()


def held(chunk: ChunkReady) -> set[tuple[str, int, str]]:
    return {(entry.lane, entry.latent, entry.prompt) for entry in chunk.snapshot.entries}


@pytest.mark.parametrize("policy", [Fifo(12), SlowFast(timing="as_released", decision="per_layer", tau=1.0)])
def test_a_hand_over_goes_on_where_it_left(engine: Engine, policy: Policy) -> None:
    """Exactly, as long as nothing has been evicted; later with the same places, latents and prompts."""
    session = engine.new_session(timeline=Timeline((PromptCue.of(0, RED), PromptCue.of(2, BLUE))), policy=policy)
    for chunk in range(8):
        if chunk in (0, 3, 7):
            again = unpack(engine, pickle.loads(pickle.dumps(pack(session))))
            assert (again.chunk, again.seed, again.timeline) == (session.chunk, session.seed, session.timeline)
            expected, got = engine.step(session.fork()), engine.step(again)
            assert held(got) == held(expected) and got.snapshot.layer_slots == expected.snapshot.layer_slots
            if chunk == 3 and isinstance(policy, Fifo):
                assert np.abs(got.frames.astype(int) - expected.frames.astype(int)).max() <= 1
        engine.step(session)
    assert pack(session).nbytes < session.memory.snapshot().bytes_held


def test_calls_follow_each_other(make: Make, engine: Engine, record_property: Callable[[str, object], None]) -> None:
    """Calls so short that each makes as little as it may."""
    worker, gpu = make(seconds=0.01)
    session = worker.open(RED, 3, chunks=6, policy=Fifo(12))
    worker.send(session, Play())
    marks, chunks = [], []
    while not isinstance(event := following(worker, session), Ended):
        assert not isinstance(event, Failed), event
        if isinstance(event, ChunkReady):
            marks.append(time.monotonic())
            chunks.append(event)
    assert [chunk.chunk for chunk in chunks] == list(range(6)) and len(set(gpu.calls)) == len(gpu.calls) > 2
    expected = list(engine.new_session(RED, 3, policy=Fifo(12)).stream(chunks=6))
    assert np.array_equal(chunks[0].frames, expected[0].frames)
    assert [held(chunk) for chunk in chunks] == [held(chunk) for chunk in expected]
    for before, after in zip(gpu.orders, gpu.orders[1:], strict=False):
        shared = set(before.handover.latents) & set(after.handover.latents)
        assert all(np.array_equal(before.handover.latents[n], after.handover.latents[n]) for n in shared)
        assert after.handover.data["chunk"] > before.handover.data["chunk"]
    due, frozen = marks[0], 0.0
    for mark in marks:
        frozen += max(0.0, mark - due)
        due = max(due, mark) + engine.geometry.chunk_seconds
    record_property("frozen_seconds_over_6_calls", round(frozen, 3))


def test_a_process_that_is_used_again_has_kept_everything(make: Make, engine: Engine) -> None:
    worker, gpu = make(reuse=True, seconds=0.01)
    session = worker.open(RED, 3, chunks=5)
    worker.send(session, Play())
    chunks = chunks_of(until(worker, session, Ended))
    assert len(set(gpu.calls)) == 1 and len(gpu.calls) > 2
    for chunk, expected in zip(chunks, engine.new_session(RED, 3).stream(chunks=5), strict=True):
        assert np.array_equal(chunk.frames, expected.frames) and chunk.snapshot.entries == expected.snapshot.entries


def test_the_page_is_heard_while_a_call_runs(make: Make) -> None:
    worker, gpu = make(seconds=600.0)
    session = worker.open(RED, 1)
    worker.send(session, Play())
    until(worker, session, lambda event: isinstance(event, ChunkReady) and event.chunk == 1)
    worker.send(session, SetPrompt(BLUE))
    worker.send(session, SetSeed(9))
    events = until(worker, session, lambda event: isinstance(event, Applied) and isinstance(event.command, SetSeed))
    applied = {type(event.command): event.chunk for event in events if isinstance(event, Applied)}
    at = applied[SetSeed]  # the call may have listened between the two commands
    assert applied[SetPrompt] <= at
    events += until(worker, session, lambda event: isinstance(event, ChunkReady) and event.chunk >= at + 1)
    for chunk in chunks_of(events):
        assert chunk.prompt == (BLUE if chunk.chunk >= applied[SetPrompt] else RED)
        assert chunk.seed == (9 if chunk.chunk >= at else 1)
    status = worker.state(session)
    assert status.timeline is not None and status.timeline.prompt_at(at).caption == BLUE and not status.ahead
    worker.send(session, Pin(3 * at))
    until(worker, session, Applied)
    worker.send(session, Pin(4000))
    until(worker, session, lambda event: isinstance(event, Failed) and "4000" in event.message)
    worker.send(session, Pause())
    until(worker, session, lambda event: event == StateChanged(session, "paused"))
    worker.send(session, Resume())
    pinned = until(worker, session, ChunkReady)[-1].snapshot.entries  # type: ignore
    assert [entry.latent for entry in pinned if entry.pinned] == [3 * at]
    worker.send(session, Stop())
    assert until(worker, session, Ended)[-1] == Ended(session, "stopped")
    assert len(gpu.calls) == 1


def test_a_slow_reader_makes_the_call_wait_and_then_end(make: Make) -> None:
    worker, gpu = make(seconds=600.0, lead=2, idle=0.3)
    session = worker.open(RED)
    worker.send(session, Play())
    first = chunks_of(until(worker, session, ChunkReady))
    line = worker._lines[session]
    deadline = time.monotonic() + PATIENCE
    while line.running:
        assert worker.state(session).queued <= 3 and time.monotonic() < deadline
        time.sleep(0.02)
    assert worker.state(session).state == "playing" and len(gpu.calls) == 1
    first += chunks_of(until(worker, session, lambda event: isinstance(event, ChunkReady) and event.chunk == 5))
    assert [chunk.chunk for chunk in first] == list(range(6)) and len(gpu.calls) > 1


def test_without_a_call_pause_and_stop_act_at_once(make: Make) -> None:
    worker, gpu = make(idle=0.3)
    session = worker.open(RED)
    worker.send(session, Play())
    worker.send(session, Pause())
    events = until(worker, session, Applied)
    assert events == [Applied(session, Pause(), 0)] and worker.events(session, 0.05) is None
    worker.send(session, Stop())
    assert until(worker, session, Ended)[-1] == Ended(session, "stopped")
    assert not gpu.calls


def test_bad_input_is_refused_here(make: Make) -> None:
    worker, gpu = make()
    session = worker.open(RED)
    for command in (SetPrompt(""), SetSeed(-1), SetMemory({"tau": 7}), SetMemory({"policy": "magic"})):
        with pytest.raises(ValueError):
            worker.send(session, command)
    with pytest.raises(ValueError, match="saved"):
        worker.save(session, "nowhere")
    with pytest.raises(ValueError, match="begin with a picture"):
        worker.open(RED, start=np.zeros((1, 8, 8, 3), np.uint8))
    worker.close(session)
    with pytest.raises(ValueError, match="no session"):
        worker.send(session, Play())
    assert worker.sessions() == [] and not gpu.calls


def test_a_gpu_that_is_taken_away_ends_the_session(engine: Engine) -> None:
    gpu = FakeZeroGPU()

    def dies(order: Order) -> Iterator[object]:
        for item in play_segment(engine, order):
            yield item
            if isinstance(item, ChunkReady):
                time.sleep(0.5)  # it is on its way
                os._exit(1)

    worker = SegmentedWorker(engine, gpu(dies))  # type: ignore[arg-type]
    session = worker.open(RED)
    worker.send(session, Play())
    events: list[Event] = []
    while not (events and isinstance(events[-1], Ended)):
        events.append(following(worker, session))
    failed = next(event for event in events if isinstance(event, Failed))
    assert failed.fatal and "GPU task aborted" in failed.message and len(chunks_of(events)) == 1
    worker.shutdown()


def test_closing_ends_the_call(make: Make) -> None:
    worker, gpu = make(seconds=600.0)
    session = worker.open(RED)
    worker.send(session, Play())
    until(worker, session, ChunkReady)
    line = worker._lines[session]
    worker.close(session)
    deadline = time.monotonic() + PATIENCE
    while line.running:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(ProcessLookupError):
        os.kill(gpu.calls[0], 0)
