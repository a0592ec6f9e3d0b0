"""Sessions: determinism, fork, save and load, steps that fail, prompt switches, streamed decode."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from cf_app.engine import commands
from cf_app.engine.engine import Engine
from cf_app.engine.messages import ChunkReady, Evict, Pin, SetMemory, SetPrompt, SetSeed
from cf_app.engine.parts import Observer
from cf_app.engine.session import Session
from cf_app.engine.timeline import PromptCue, Timeline, Transition
from cf_app.engine.timeline_markers import EndMark
from cf_app.memory.policy import POLICIES, Fifo, SlowFast
from cf_app.memory.workspace import Workspace
from tests.tiny import tiny_engine

RED, BLUE = "a red ball hops", "a blue star floats"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine()


def run(session: Session, chunks: int) -> list[ChunkReady]:
    return list(session.stream(chunks=chunks))


def same(first: list[ChunkReady], second: list[ChunkReady]) -> bool:
    """Pictures to the bit, and memories but for the time they took."""
    return all(
        np.array_equal(a.frames, b.frames)
        and {**a.snapshot.to_dict(), "memory_ms": 0} == {**b.snapshot.to_dict(), "memory_ms": 0}
        and (a.chunk, a.prompt, a.seed) == (b.chunk, b.prompt, b.seed)
        for a, b in zip(first, second, strict=True)
    )


def test_seed_and_prompt_decide_everything(engine: Engine) -> None:
    first = run(engine.new_session(RED, seed=7), 9)
    assert same(first, run(engine.new_session(RED, seed=7), 9))
    assert not np.array_equal(first[8].frames, run(engine.new_session(RED, seed=8), 9)[8].frames)
    assert not np.array_equal(first[0].frames, run(engine.new_session(BLUE, seed=7), 1)[0].frames)
    assert [chunk.chunk for chunk in first] == list(range(9))
    geometry = engine.geometry
    assert first[0].frames.shape == (geometry.chunk_frames, geometry.height, geometry.width, 3)
    assert first[0].frames.dtype == np.uint8 and first[0].thumbnails.shape[0] == geometry.chunk_latents
    assert set(first[0].timings) == {"text", "denoise", "context", "decode", "memory", "total"}


def test_sessions_do_not_disturb_each_other(engine: Engine) -> None:
    alone = run(engine.new_session(RED, seed=1), 8)
    one, other = engine.new_session(RED, seed=1), engine.new_session(BLUE, seed=2, policy=Fifo(9))
    mixed = []
    for _ in range(8):
        mixed.append(engine.step(one))
        engine.step(other)
    assert same(alone, mixed)


@pytest.mark.parametrize("name", list(POLICIES))
def test_fork_and_load_replay_to_the_bit(engine: Engine, name: str, tmp_path: Path) -> None:
    session = engine.new_session(RED, seed=3, policy=POLICIES[name]())
    run(session, 8)
    commands.apply(engine, session, SetPrompt(BLUE, at_chunk=10, memory="recache"))
    branch = session.fork()
    session.save(tmp_path / "session.safetensors")
    loaded = engine.load_session(tmp_path / "session.safetensors")
    kept = run(session, 5)
    assert same(kept, run(branch, 5)) and same(kept, run(loaded, 5))
    assert [path.name for path in tmp_path.iterdir()] == ["session.safetensors"]


def test_a_fork_is_independent(engine: Engine) -> None:
    session = engine.new_session(RED, seed=3)
    run(session, 8)
    branch, expected = session.fork(), run(session.fork(), 4)
    commands.apply(engine, branch, SetPrompt(BLUE))
    commands.apply(engine, branch, SetSeed(99))
    commands.apply(engine, branch, Evict(0))
    run(branch, 4)
    assert same(expected, run(session, 4))


@pytest.mark.parametrize(
    "content", [b"", b"not a file of tensors", b"\x00" * 64], ids=["empty", "text", "zeros"]
)
def test_damaged_session_files(engine: Engine, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "session.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"session\.safetensors"):
        engine.load_session(path)


def test_truncated_and_foreign_session_files(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "session.safetensors"
    session = engine.new_session(RED)
    run(session, 2)
    session.save(path)
    other = tiny_engine(layers=3)
    with pytest.raises(ValueError, match="of another model"):
        other.load_session(path)
    decoder = session.decoder
    assert decoder is not None
    session.decoder = decoder[:-1]  # as of a decoder with fewer blocks
    session.save(path)
    with pytest.raises(ValueError, match=r"session\.safetensors is .*of another model.*decoder keeps frames of"):
        engine.load_session(path)
    session.decoder = decoder
    session.save(path)
    with pytest.raises(ValueError, match="is a session of the model"):
        tiny_engine(name="other").load_session(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        engine.load_session(path)
    with pytest.raises(ValueError, match="can not be written"):
        session.save(tmp_path / "nowhere" / "session.safetensors")


class Broken(Exception):
    """A stand-in for whatever may go wrong."""


def fail_in(engine: Engine, monkeypatch: pytest.MonkeyPatch, stage: str, at: int) -> Observer | None:
    """Let a stage of the next step raise."""
    if stage == "pass":

        def on_pass(step: int, *rest: object) -> None:
            if step == at:
                raise Broken

        return Observer(on_pass=on_pass)

    def broken(*arguments: object) -> None:
        raise Broken

    target = {"decode": engine.vae, "text": engine.text}[stage]
    monkeypatch.setattr(target, "decode" if stage == "decode" else "encode", broken)
    return None


@pytest.mark.parametrize("timing", ["clean", "as_released"])
@pytest.mark.parametrize(("stage", "at"), [("pass", 0), ("pass", 2), ("pass", 4), ("decode", 0), ("text", 0)])
@pytest.mark.parametrize("mode", ["keep", "recache", "flush", "reset"])
def test_a_failed_step_changes_nothing(
    timing: str, stage: str, at: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny_engine()
    policy = SlowFast(tau=1.0, timing=timing, decision="per_layer")
    session = engine.new_session(RED, seed=5, policy=policy, switch_memory=mode)
    run(session, 8)
    commands.apply(engine, session, SetPrompt(BLUE))
    expected = run(session.fork(), 3)
    before = (session.chunk, session.decoder, session.memory.state, session.undecoded)
    with monkeypatch.context() as patch:
        engine._texts.clear()
        observer = fail_in(engine, patch, stage, at)
        with pytest.raises(Broken):
            engine.step(session, observer=observer)
    assert (session.chunk, session.decoder, session.memory.state, session.undecoded) == before
    assert same(expected, run(session, 3))


@pytest.mark.parametrize("mode", ["keep", "recache", "flush", "reset"])
@pytest.mark.parametrize("name", list(POLICIES))
def test_prompt_switches(engine: Engine, mode: str, name: str) -> None:
    timeline = Timeline((PromptCue.of(0, RED), PromptCue.of(8, BLUE, memory=mode)))
    session = engine.new_session(timeline=timeline, seed=2, policy=POLICIES[name]())
    before, after = run(session, 8), run(session, 4)
    assert {chunk.prompt for chunk in before} == {RED} and {chunk.prompt for chunk in after} == {BLUE}
    unswitched = engine.new_session(RED, seed=2, policy=POLICIES[name]())
    assert same(before, run(unswitched, 8))
    assert not np.array_equal(after[0].frames, run(unswitched, 1)[0].frames)
    entries = after[0].snapshot.entries
    old = [entry for entry in entries if entry.latent < 24]
    if mode == "reset":
        assert not old
    if mode == "flush":
        assert len({entry.latent for entry in old}) == min(3, after[0].snapshot.sink) + 1
    if mode == "recache":
        assert any(entry.prompt == BLUE for entry in old)
        assert all(entry.prompt == BLUE for entry in old if entry.lane == "fast")
    if mode == "keep":
        assert old and all(entry.prompt == RED for entry in old)


def test_blends_move_towards_the_new_prompt(engine: Engine) -> None:
    cut = Timeline((PromptCue.of(0, RED), PromptCue.of(2, BLUE)))
    blend = Timeline((PromptCue.of(0, RED), PromptCue.of(2, BLUE, Transition(3, "spherical"))))
    arrived = [run(engine.new_session(timeline=timeline, seed=1), 5) for timeline in (cut, blend)]
    assert same(arrived[0][:2], arrived[1][:2])
    assert not np.array_equal(arrived[0][2].frames, arrived[1][2].frames)
    assert arrived[1][4].prompt == BLUE


def test_memory_settings_apply_from_the_next_chunk(engine: Engine) -> None:
    session = engine.new_session(RED, seed=1)
    run(session, 9)
    commands.apply(engine, session, SetMemory({"slow": 4, "tau": 1.0, "switch": "flush"}))
    assert session.switch_memory == "flush"
    chunks = run(session, 8)
    assert all(len(row) == 3 + 4 + 6 for chunk in chunks for row in chunk.snapshot.layer_slots)
    assert all(chunk.snapshot.promoted for chunk in chunks)
    commands.apply(engine, session, SetMemory({"policy": "fifo", "window": 9}))
    assert run(session, 4)[-1].snapshot.policy == "fifo"
    with pytest.raises(ValueError, match="tau"):
        commands.apply(engine, session, SetMemory({"policy": "slow_fast", "tau": 1.5}))


def test_a_pinned_latent_frame_stays(engine: Engine) -> None:
    session = engine.new_session(RED, seed=1, policy=SlowFast(slow=3, tau=1.0))
    run(session, 9)
    commands.apply(engine, session, Pin(25))
    for chunk in islice(session.stream(), 12):
        assert any(entry.latent == 25 and entry.pinned and entry.lane != "fast" for entry in chunk.snapshot.entries)


@pytest.mark.parametrize(
    "make",
    [
        lambda engine: engine.new_session(""),
        lambda engine: engine.new_session("x" * 10_000),
        lambda engine: engine.new_session(),
        lambda engine: engine.new_session(RED, timeline=Timeline.single(RED)),
        lambda engine: engine.new_session(RED, seed=-1),
        lambda engine: engine.new_session(RED, seed=2**32),
        lambda engine: engine.new_session(RED, switch_memory="forget"),
        lambda engine: engine.new_session(RED, policy=SlowFast(fast=2)),
        lambda engine: engine.new_session(RED, policy=SlowFast(slow=1020)),
        lambda engine: engine.new_session(RED, policy=Fifo(21)).stream(seconds=300),
        lambda engine: engine.new_session([RED, RED]),  # batches
        lambda engine: engine.new_session(timeline=Timeline((PromptCue.of(0, RED),), (EndMark(400),)), policy=Fifo(21)),
        lambda engine: engine.new_session(RED).stream(seconds=-1),
        lambda engine: engine.new_session(RED).stream(seconds=1, chunks=1),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(engine: Engine, make: Callable[[Engine], object]) -> None:
    with pytest.raises(ValueError) as caught:
        make(engine)
    assert "\n" not in str(caught.value)


def test_streamed_decode_equals_full_decode(engine: Engine) -> None:
    session, latents = engine.new_session(RED, seed=4), []

    def keep(step: int, flow: torch.Tensor, x0: torch.Tensor | None, context: object) -> None:
        if step == len(engine.schedule) - 1:
            latents.append(x0)

    streamed = np.concatenate([engine.step(session, observer=Observer(on_pass=keep)).frames for _ in range(4)])
    with torch.no_grad():
        whole, _ = engine.vae.decode(torch.cat(latents, 2), engine.vae.initial_state(1))
    whole = ((whole[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
    assert np.abs(streamed.astype(int) - whole.astype(int)).max() <= 1


def test_lean_workspace_and_eight_bit_memory() -> None:
    """One is exact, the other is close and takes a quarter of float32's room."""
    plain, lean = tiny_engine(), tiny_engine()
    lean._workspace = Workspace(lean.kv_shape, lean=True)
    expected = run(plain.new_session(RED, seed=1), 10)
    assert same(expected, run(lean.new_session(RED, seed=1), 10))
    config, vae = plain.config, plain.vae
    small = Engine(config, plain.transformer, vae, plain.text, kv_stored=torch.float8_e4m3fn, lean=True)
    chunks = run(small.new_session(RED, seed=1), 10)
    assert chunks[0].snapshot.bytes_held * 4 == expected[0].snapshot.bytes_held
    difference = np.abs(chunks[9].frames.astype(int) - expected[9].frames.astype(int)).mean()
    other = run(plain.new_session(RED, seed=2), 10)[9].frames
    assert difference < 0.25 * np.abs(other.astype(int) - expected[9].frames.astype(int)).mean()


@pytest.mark.parametrize("shape", [(1, 64, 96, 3), (30, 50, 200, 3), (24, 64, 96, 3)])
def test_a_video_begins_with_a_picture_or_a_clip(engine: Engine, shape: tuple[int, ...], tmp_path: Path) -> None:
    start = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    session = engine.new_session(RED, seed=1, start=start)
    given = -(-shape[0] // engine.geometry.chunk_frames)
    first = run(session.fork(), given + 3)
    run(session, 1)
    session.save(tmp_path / "session")
    assert same(first[1:], run(engine.load_session(tmp_path / "session"), given + 2))
    plain = run(engine.new_session(RED, seed=1), given + 3)
    assert not np.array_equal(first[given].frames, plain[given].frames)  # it remembers the start
    again = run(engine.new_session(RED, seed=2, start=start), given)  # no noise in it
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(first, again, strict=False))


def test_bad_starts(engine: Engine) -> None:
    for shape in ((0, 8, 8, 3), (8, 8, 3), (961, 2, 2, 3)):
        with pytest.raises(ValueError, match="the start has"):
            engine.new_session(RED, start=np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="float32"):
        engine.new_session(RED, start=np.zeros((1, 8, 8, 3), np.float32))
