"""What makes a chunk fast changes nothing in it, and nothing in it waits for the device."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cf_app.engine.engine import Engine
from cf_app.engine.messages import ChunkReady, Failed, Play
from cf_app.engine.noise import NoiseAhead
from cf_app.engine.sampler import chunk_noise
from cf_app.engine.worker import Worker
from cf_app.memory.policy import POLICIES, Policy, SinkWindow, SlowFast
from cf_app.model.attention import attend
from cf_app.model.kernels import CUDNN_FIRST, FLASH_FIRST, choose, flash, ordered
from cf_app.model.quantize import quantize_linears
from cf_app.model.speed import compile_blocks
from tests.tiny import tiny_engine

RED = "a red ball hops"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine()


def chunks(worker: Worker, session: str, count: int) -> list[ChunkReady]:
    found: list[ChunkReady] = []
    while len(found) < count:
        event = worker.events(session, 60)
        assert event is not None and not isinstance(event, Failed), event
        if isinstance(event, ChunkReady):
            found.append(event)
    return found


@pytest.mark.parametrize("policy", [*(kind() for kind in POLICIES.values()),
                                    SlowFast(timing="as_released", decision="per_layer")], ids=str)  # fmt: skip
def test_the_memory_after_a_first_chunk_is_known_before_its_clean_pass(engine: Engine, policy: Policy) -> None:
    session = engine.new_session(RED, policy=policy)
    draft = engine.draft(session)
    early = engine.early(session, draft)
    assert early is not None
    engine.remember(session, draft)
    then = engine.decode(session).snapshot
    for name in then.__dataclass_fields__:
        assert name == "memory_ms" or getattr(early, name) == getattr(then, name), name
    assert engine.early(session, engine.draft(session)) is None


def test_the_first_picture_does_not_wait_for_the_clean_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine()
    expected = list(engine.new_session(RED, 3).stream(chunks=3))
    held, remember = threading.Event(), engine.remember

    def slow(*arguments: Any) -> None:
        assert held.wait(60)
        remember(*arguments)

    monkeypatch.setattr(engine, "remember", slow)
    worker = Worker(engine)
    session = worker.open(RED, 3)
    worker.send(session, Play())
    got = chunks(worker, session, 1)  # while its clean pass has not even begun
    held.set()
    got += chunks(worker, session, 2)
    worker.shutdown()
    assert [chunk.chunk for chunk in got] == [0, 1, 2]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(got, expected, strict=True))


def test_a_clean_pass_that_fails_does_not_show_a_chunk_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine()
    expected = list(engine.new_session(RED, 3).stream(chunks=2))
    worker = Worker(engine)
    session = worker.open(RED, 3)
    held = threading.Event()

    def broken(*arguments: Any) -> None:
        assert held.wait(60)
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "remember", broken)
        worker.send(session, Play())
        got = chunks(worker, session, 1)
        held.set()
        while not isinstance(worker.events(session, 60), Failed):
            pass
    worker.send(session, Play())
    got += chunks(worker, session, 1)
    worker.shutdown()
    assert [chunk.chunk for chunk in got] == [0, 1]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(got, expected, strict=True))


def test_an_adaptive_worker_waits_to_be_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cf_app.engine.lead.ON_DEMAND", 1e6)  # however busy this machine is
    worker = Worker(engine, 2, adaptive=True)
    session = worker.open(RED, 1)
    worker.send(session, Play())
    got = chunks(worker, session, 4)
    for _ in range(3):
        assert worker.state(session).queued + worker.state(session).chunk - got[-1].chunk - 1 <= 2  # from the start
        got += chunks(worker, session, 1)
    before = worker.state(session).chunk
    threading.Event().wait(0.3)
    assert worker.state(session).chunk == before  # nobody asks, nothing is made
    worker.shutdown()
    expected = engine.new_session(RED, 1).stream(chunks=7)
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(got, expected, strict=True))


class HostReads(TorchDispatchMode):
    """Counts what would make a CPU wait for a GPU: numbers taken out of tensors, tensors looked through."""

    WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.equal", "aten.item")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith(self.WAITS):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("policy", [SlowFast(), SinkWindow()], ids=["18+3", "9+3"])
def test_no_pass_of_a_chunk_waits_for_the_device(engine: Engine, policy: Policy) -> None:
    session = engine.new_session(RED, policy=policy)
    for _ in range(8):
        engine.step(session)
    with HostReads() as reads:
        draft = engine.draft(session)
        assert reads.seen == []
        engine._clean_pass(session, draft, engine_observer())
        assert reads.seen == []
        engine.remember(session, draft)
    assert len(reads.seen) <= engine.kv_shape.layers  # the similarities, fetched at once when the chunk is committed


def engine_observer() -> Any:
    from cf_app.engine.parts import Observer

    return Observer()


@pytest.mark.parametrize("kernel", [ordered(CUDNN_FIRST), ordered(FLASH_FIRST), flash(attend)])
def test_every_kernel_is_the_same_attention(kernel: Any) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, length, 2, 16) for length in (6, 10, 10))
    mask = torch.rand(1, 1, 6, 10) > 0.3
    for given in (None, mask):
        assert torch.allclose(kernel(query, key, value, given), attend(query, key, value, given), atol=1e-5)
    assert choose(torch.device("cpu")).name == "SDPA"


def same_film(first: Engine, second: Engine) -> None:
    streams = (engine.new_session(RED, 1).stream(chunks=4) for engine in (first, second))
    for a, b in zip(*streams, strict=True):
        assert np.abs(a.frames.astype(int) - b.frames.astype(int)).max() <= 1
        assert a.snapshot.layer_slots == b.snapshot.layer_slots


def test_fused_projections_change_nothing(engine: Engine) -> None:
    fused = tiny_engine()
    fused.accelerate(["fused"])
    assert not hasattr(fused.transformer.blocks[0].attn1, "to_q") and fused.speedups == ("fused",)
    same_film(engine, fused)


def test_compiled_blocks_change_nothing(engine: Engine) -> None:
    """Without a compiler: what is cut out of a block and put together again is the same."""
    compiled = tiny_engine()
    compile_blocks(compiled.transformer, backend="eager")
    same_film(engine, compiled)


def test_what_can_not_be_fast_says_so() -> None:
    engine = tiny_engine()
    with pytest.raises(ValueError, match="magic, expected some of fused, compiled"):
        engine.accelerate(["fused", "magic"])
    quantize_linears(engine.transformer.blocks, "int8", torch.device("cpu"))
    with pytest.raises(ValueError, match="not quantized"):
        engine.accelerate(["fused"])


def test_noise_drawn_ahead_is_the_same_noise() -> None:
    noise = NoiseAhead(4, (2, 3, 4, 4), torch.device("cpu"), ahead=True)
    for seed, chunk in ((1, 0), (1, 1), (2, 0), (1, 2), (1, 5), *((seed, 0) for seed in range(20)), (1, 6)):
        assert torch.equal(noise(seed, chunk), chunk_noise(seed, chunk, 4, (2, 3, 4, 4)))
